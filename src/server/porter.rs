//! Who lets clients in, one for each address: a task of the control thread that hands them to the workers while it is this process's
//! turn and the upstream is there. Where another process is to serve the address, it is given the socket, and has its turn.
//!
//! Ended by `app`, before the workers are.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::Doors;
use super::listener::{Closed, Listener, SharedSocket};
use crate::session::Entrance;
use crate::upstream::State as Presence;

/// The pause after `accept` failed, which it does for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// So many clients are let in one behind the other: those who are there are served before more are,
const BURST: usize = 32;
/// and there is this pause between two bursts.
const BREATH: Duration = Duration::from_millis(1);

/// Whose turn it is to let clients in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptTurn {
    /// Another process's: who connects waits, unless it lets them in.
    Others,
    /// This one's.
    Own,
    /// Nobody's: the sockets are closed.
    Nobody,
    /// Another's for good: it has the sockets.
    Left,
}

/// All porters of the process.
pub(crate) struct Porters {
    turn: watch::Sender<AcceptTurn>,
    shows: Vec<mpsc::Sender<Showing>>,
    tasks: TaskTracker,
}

/// Somebody wants a porter's socket; none, if it is closed at present.
type Showing = oneshot::Sender<Option<SharedSocket>>;

struct Porter {
    doors: Arc<Doors>,
    entrance: Arc<Entrance>,
    presence: watch::Receiver<Presence>,
    turn: watch::Receiver<AcceptTurn>,
    shown: mpsc::Receiver<Showing>,
}

/// What a porter does next.
enum PorterStep {
    /// The same.
    Again,
    /// The upstream is away.
    Shut,
    /// It is back.
    Open,
}

impl Porters {
    /// One for each of `listeners`, with what is asked of the clients there.
    pub(crate) fn start(
        listeners: impl Iterator<Item = (Listener, Arc<Entrance>)>,
        doors: &Arc<Doors>,
        turn: AcceptTurn,
    ) -> Self {
        let (turn, tasks, mut shows) = (watch::Sender::new(turn), TaskTracker::new(), Vec::new());
        for (listener, entrance) in listeners {
            let (show, asked) = mpsc::channel(1);
            shows.push(show);
            let presence = doors.shared.presence.clone();
            let porter = Porter { doors: Arc::clone(doors), entrance, presence, turn: turn.subscribe(), shown: asked };
            tasks.spawn(porter.serve(listener));
        }
        Self { turn, shows, tasks }
    }

    /// From now on it is this one's turn.
    pub(crate) fn turn(&self, turn: AcceptTurn) {
        self.turn.send_replace(turn);
    }

    /// Their sockets, for another process; none where one is closed because the upstream is away. Cancel safe.
    pub(crate) async fn show(&self) -> Option<Vec<SharedSocket>> {
        let mut sockets = Vec::new();
        for show in &self.shows {
            let (showing, shown) = oneshot::channel();
            show.send(showing).await.ok()?;
            sockets.push(shown.await.ok()??);
        }
        Some(sockets)
    }

    /// Returns when none lets anybody in any more, by this last turn.
    pub(crate) async fn end(self, last: AcceptTurn) {
        self.turn(last);
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Porter {
    /// Lets clients in until the socket is nobody's, or left to another. While the upstream is away, and clients are to see that, it is
    /// closed, so that they are refused as by a Redis that is down.
    async fn serve(mut self, listener: Listener) {
        let doors = Arc::clone(&self.doors);
        let open = &doors.shared.open_listeners;
        let mut open_one = Some(listener);
        open.opened();
        while let Some(listener) = open_one.take() {
            if self.is_over() {
                if self.is_left() {
                    listener.leave();
                }
                return;
            }
            match self.let_in(&listener).await {
                PorterStep::Again | PorterStep::Open => open_one = Some(listener),
                PorterStep::Shut => {
                    info!("the upstream is away: new clients are refused at {} until it is back", listener.address());
                    open_one = if listener.is_shared() {
                        self.turn_away(listener).await
                    } else {
                        self.shut(listener.close()).await
                    };
                    if let Some(listener) = &open_one {
                        info!("the upstream is back: listening on {}", listener.address());
                    }
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        matches!(*self.turn.borrow(), AcceptTurn::Nobody | AcceptTurn::Left)
    }

    fn is_left(&self) -> bool {
        *self.turn.borrow() == AcceptTurn::Left
    }

    /// With an open socket: hands clients over, while it is the turn for that.
    async fn let_in(&mut self, listener: &Listener) -> PorterStep {
        let refuses = self.doors.shared.open_listeners.refuses();
        let (doors, entrance) = (&self.doors, &self.entrance);
        let mut presence = self.presence.clone();
        let away = async {
            if !refuses || presence.wait_for(|known| *known == Presence::Away).await.is_err() {
                pending::<()>().await;
            }
        };
        let (is_own, mut known) = (*self.turn.borrow_and_update() == AcceptTurn::Own, self.presence.clone());
        let welcome = async {
            if refuses {
                // Who connects before it is known whether the upstream is away waits for a moment.
                let _ = known.wait_for(|known| *known != Presence::Unknown).await;
            }
            welcome_all(listener, doors, entrance).await;
        };
        tokio::select! {
            biased;
            _ = self.turn.changed() => PorterStep::Again,
            () = away => PorterStep::Shut,
            Some(showing) = self.shown.recv() => {
                let shared = listener.share().inspect_err(|error| warn!(%error, "a listening socket cannot be shared"));
                let _ = showing.send(shared.ok()); // who asked may have left
                PorterStep::Again
            }
            () = welcome, if is_own => PorterStep::Again,
        }
    }

    /// With a socket that somebody else keeps: whoever connects is turned away until the upstream is back. None: it is over.
    async fn turn_away(&mut self, listener: Listener) -> Option<Listener> {
        self.doors.shared.open_listeners.closed();
        loop {
            let is_own = *self.turn.borrow() == AcceptTurn::Own;
            tokio::select! {
                biased;
                step = self.while_shut() => match step {
                    PorterStep::Open => break,
                    _ if self.is_over() => {
                        if self.is_left() {
                            listener.leave();
                        }
                        return None;
                    }
                    _ => {}
                },
                () = listener.turn_away(), if is_own => {}
            }
        }
        self.doors.shared.open_listeners.opened();
        Some(listener)
    }

    /// With a closed socket: opened again when the upstream is back. None: it is over.
    async fn shut(&mut self, mut closed: Closed) -> Option<Listener> {
        self.doors.shared.open_listeners.closed();
        while !matches!(self.while_shut().await, PorterStep::Open) {
            if self.is_over() {
                if self.is_left() {
                    closed.leave();
                }
                return None;
            }
        }
        let mut turn = self.turn.clone();
        let over = turn.wait_for(|turn| matches!(turn, AcceptTurn::Nobody | AcceptTurn::Left));
        let listener = tokio::select! {
            listener = closed.reopen() => listener,
            _ = over => {
                if self.is_left() {
                    closed.leave();
                }
                return None;
            }
        };
        closed.leave();
        self.doors.shared.open_listeners.opened();
        Some(listener)
    }

    /// Returns when the upstream is back, or it is another's turn; who wants the socket is told that there is none.
    async fn while_shut(&mut self) -> PorterStep {
        tokio::select! {
            biased;
            _ = self.turn.changed() => PorterStep::Again,
            _ = self.presence.wait_for(|known| *known == Presence::There) => PorterStep::Open,
            Some(showing) = self.shown.recv() => {
                let _ = showing.send(None); // who asked may have left
                PorterStep::Again
            }
        }
    }
}

/// Hands over every client that connects; never returns.
async fn welcome_all(listener: &Listener, doors: &Doors, entrance: &Arc<Entrance>) {
    let mut burst = 0;
    loop {
        match listener.accept().await {
            Ok(client) => {
                doors.welcome(client, entrance);
                burst += 1;
                if burst == BURST {
                    burst = 0;
                    sleep(BREATH).await;
                }
            }
            Err(error) => {
                warn!(%error, "cannot accept a client; trying again (are there enough file descriptors?)");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
