//! Accepts clients and hands each to the worker that has the fewest; ends them all in order.
//!
//! A worker is a thread with a runtime of its own: what a session does stays on its thread, because waking another one costs
//! more than the request. Accepting happens on the control thread. Called by `app`.

mod inherited;
mod listener;
mod porter;
mod welcome;

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::pending;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{self, LocalOptions};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

pub(crate) use self::inherited::{Inheritance, InheritedSocket, copy_of};
use self::listener::Client;
pub(crate) use self::listener::{Listener, Prelude, SocketFile, bind_socket};
pub(crate) use self::porter::{AcceptTurn, Porters};
use self::welcome::{Newcomer, Pace};

use crate::clock::Time;
use crate::metrics::WorkerStats;
use crate::net::Socket;
use crate::proxy::{ClientRecord, ClientStage, PassedClient, Replies, RollCall, SessionEnd, Shared, Worker};
use crate::session::{self, Entrance};
use crate::upstream::STALL;

/// What writes were to change beside their keys may take so long to be removed as the process ends.
const LAST_AMENDS: Duration = Duration::from_secs(1);

/// The workers' threads.
pub(crate) struct Workers {
    doors: Arc<Doors>,
    threads: Vec<thread::JoinHandle<()>>,
    fallen: watch::Receiver<Option<usize>>,
}

/// The way to the workers, and how many clients each has.
pub(crate) struct Doors {
    shared: Arc<Shared>,
    of_workers: Vec<Door>,
}

/// The way in for whoever asks from within the process.
pub(crate) struct Inside {
    doors: Arc<Doors>,
    entrance: Arc<Entrance>,
}

struct Door {
    clients: mpsc::Sender<Arrival>,
    count: Arc<AtomicUsize>,
}

/// A client on its way to a worker, and what is asked of it.
struct Arrival {
    client: Client,
    entrance: Arc<Entrance>,
    /// What the process knew that it comes from, if it comes from one.
    record: Option<Box<ClientRecord>>,
}

impl Workers {
    /// Starts a thread for each of `stats`. They serve until `stop`, and for as long as sessions have then.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        stats: &[Arc<WorkerStats>],
        stop: &CancellationToken,
    ) -> io::Result<Self> {
        let (fall, fallen) = watch::channel(None);
        let (mut of_workers, mut threads) = (Vec::new(), Vec::new());
        for (number, stats) in stats.iter().enumerate() {
            let (clients, door) = mpsc::channel(shared.config.max_clients);
            let count = Arc::new(AtomicUsize::new(0));
            of_workers.push(Door { clients, count: Arc::clone(&count) });
            let (shared, stats, stop) = (Arc::clone(shared), Arc::clone(stats), stop.clone());
            let post = Post { number, stop: stop.clone(), fall: fall.clone() };
            threads.push(post.man(move || work(&shared, &stats, door, &count, &stop))?);
        }
        Ok(Self { doors: Arc::new(Doors { shared: Arc::clone(shared), of_workers }), threads, fallen })
    }

    /// The way to them, for those who accept clients.
    pub(crate) fn doors(&self) -> Arc<Doors> {
        Arc::clone(&self.doors)
    }

    /// Waits until a worker has ended that was not told to, and says which. Such a one has the fewest clients, and would be
    /// given every new one. Cancel safe.
    pub(crate) fn fallen(&self) -> impl Future<Output = usize> + use<> {
        let mut fallen = self.fallen.clone();
        async move {
            match fallen.wait_for(Option::is_some).await.map(|number| *number) {
                Ok(Some(number)) => number,
                _ => pending().await, // all have ended, as they were told to
            }
        }
    }

    /// Waits for all workers to have ended. Blocks; not to be called on a runtime that they need.
    pub(crate) fn join(self) {
        drop(self.doors);
        for thread in self.threads {
            if thread.join().is_err() {
                error!("a worker thread panicked");
            }
        }
    }
}

impl Inside {
    /// Of these clients is asked what `entrance` says.
    pub(crate) fn new(doors: Arc<Doors>, entrance: Arc<Entrance>) -> Self {
        Self { doors, entrance }
    }

    /// Becomes a client.
    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        self.doors.welcome(Client::Unix(theirs), &self.entrance);
        UnixStream::from_std(ours)
    }
}

impl Doors {
    /// Hands a client over, or turns it away where there are `max_clients` already.
    fn welcome(&self, mut client: Client, entrance: &Arc<Entrance>) {
        let load = |door: &Door| door.count.load(Ordering::Relaxed);
        let clients: usize = self.of_workers.iter().map(load).sum();
        let max_clients = self.shared.live.borrow().max_clients;
        if clients >= max_clients {
            self.shared.stats.sessions_refused.add(1);
            warn!(max_clients, "a client was refused: as many are connected as may be");
            let refusal = b"-ERR max number of clients reached\r\n";
            // As in Redis, no more than one try: the client is owed nothing.
            let _ = match &mut client {
                Client::Tcp(_, Prelude { acceptor: Some(_), .. }) => Ok(0), // a handshake would be more than it is owed
                Client::Tcp(stream, _) => stream.write(refusal),
                Client::Unix(stream) => stream.write(refusal),
            };
            return;
        }
        self.hand_over(Arrival { client, entrance: Arc::clone(entrance), record: None });
    }

    /// Hands over a client that another process has served. Where it came to, this process has to let clients in as well.
    pub(crate) fn resume(&self, client: PassedClient, entrances: &[(Prelude, Arc<Entrance>)]) {
        let PassedClient { socket, record } = client;
        let Some((prelude, entrance)) = entrances.iter().find(|(_, entrance)| entrance.at == record.entrance) else {
            return info!(client = %record.peer, "a client is closed: the settings name `{}` no more", record.entrance);
        };
        let done = Prelude { proxied: false, acceptor: None };
        let prelude = if record.stage == ClientStage::Session { done } else { prelude.clone() };
        let client = if entrance.at.starts_with('/') {
            Client::Unix(socket.into())
        } else {
            Client::Tcp(socket.into(), prelude)
        };
        self.hand_over(Arrival { client, entrance: Arc::clone(entrance), record: Some(Box::new(record)) });
    }

    /// To the worker that has the fewest.
    fn hand_over(&self, arrival: Arrival) {
        let load = |door: &&Door| door.count.load(Ordering::Relaxed);
        let door = self.of_workers.iter().min_by_key(load).expect("there is at least one worker");
        door.count.fetch_add(1, Ordering::Relaxed);
        if door.clients.try_send(arrival).is_err() {
            door.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What a worker's thread holds for as long as it runs: dropped before `stop`, by a panic or by a return, it says so.
struct Post {
    number: usize,
    stop: CancellationToken,
    fall: watch::Sender<Option<usize>>,
}

impl Post {
    /// Starts the thread, which does `work`.
    fn man(self, work: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
        let thread = thread::Builder::new().name(format!("worker-{}", self.number));
        thread.spawn(move || {
            let _post = self;
            work();
        })
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            let _ = self.fall.send(Some(self.number)); // where nobody listens the process is ending
        }
    }
}

/// The life of a worker thread.
fn work(
    shared: &Arc<Shared>,
    stats: &Arc<WorkerStats>,
    mut door: mpsc::Receiver<Arrival>,
    count: &Arc<AtomicUsize>,
    stop: &CancellationToken,
) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => return error!(%error, "a worker cannot start"),
    };
    runtime.block_on(async {
        let worker = Worker::new(Arc::clone(shared), Arc::clone(stats));
        let mut topology = shared.topology.clone();
        let (mut live, mut calls) = (shared.live.clone(), shared.listings.roll.follow());
        let sessions = Sessions { stop: stop.clone(), ..Sessions::default() };
        let ends = Arc::clone(&sessions.ends);
        let mut open_listeners = shared.open_listeners.follow();
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pulse = interval(STALL);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                arrival = door.recv() => match arrival {
                    Some(arrival) => sessions.start(&worker, arrival, count),
                    None => break,
                },
                () = ends.notified() => sessions.end(),
                _ = pulse.tick() => worker.feel(Time::now()),
                _ = second.tick() => worker.sweep(Time::now()),
                Ok(call) = calls.recv() => sessions.tell(call),
                () = shut(&mut open_listeners) => sessions.cut(),
                Ok(()) = topology.changed() => { // before the settings: who goes by them knows where the upstream is
                    worker.adopt(Arc::clone(&topology.borrow_and_update()));
                    sessions.wake();
                }
                Ok(()) = live.changed() => worker.go_by(Arc::clone(&live.borrow_and_update())),
            }
        }
        door.close();
        while let Ok(arrival) = door.try_recv() {
            sessions.start(&worker, arrival, count); // it was let in
        }
        worker.drain();
        sessions.tasks.close();
        sessions.wake();
        let drained = timeout(shared.live().drain.1, sessions.tasks.wait()).await;
        if drained.is_err() {
            let left = sessions.tasks.len();
            info!(sessions = left, "drain_timeout is over: the sessions left are closed");
        }
        worker.give_up_loads().await;
        worker.end_amends(LAST_AMENDS).await;
        worker.close();
        let _ = timeout(Duration::from_secs(1), worker.tasks.wait()).await;
    });
}

/// Waits until the last of the listeners is closed because the upstream is away. Cancel safe.
async fn shut(open: &mut Option<watch::Receiver<usize>>) {
    let Some(open) = open else { return pending::<()>().await };
    while open.changed().await.is_ok() {
        if *open.borrow_and_update() == 0 {
            return;
        }
    }
    pending::<()>().await;
}

/// The sessions of a worker.
#[derive(Default)]
struct Sessions {
    tasks: TaskTracker,
    open: Rc<RefCell<HashMap<u64, Rc<Replies>>>>,
    next: RefCell<u64>,
    /// Some of them must end.
    ends: Arc<Notify>,
    /// Who is not a session yet becomes none any more.
    stop: CancellationToken,
    /// Of their handshakes.
    pace: Pace,
}

impl Sessions {
    fn start(&self, worker: &Rc<Worker>, arrival: Arrival, count: &Arc<AtomicUsize>) {
        let Arrival { client, entrance, record } = arrival;
        let number = self.next.replace_with(|&mut number| number + 1);
        let leave =
            Leave { number, open: Rc::clone(&self.open), count: Arc::clone(count), stats: Arc::clone(&worker.stats) };
        let (socket, prelude) = match client {
            Client::Tcp(stream, prelude) => (TcpStream::from_std(stream).map(Socket::tcp), Some(prelude)),
            Client::Unix(stream) => (UnixStream::from_std(stream).map(Socket::Unix), None),
        };
        let prelude = prelude.filter(Prelude::asks);
        worker.stats.sessions.add(1);
        worker.stats.sessions_total.add(1);
        let limit = usize::try_from(worker.settings.all().output_limit).unwrap_or(usize::MAX);
        let peer = match &record {
            Some(record) => record.peer.clone(),
            None => socket.as_ref().map_or_else(|_| String::new(), Socket::peer),
        };
        let replies =
            Rc::new(Replies::new(limit, worker.shared.clients.join(peer, &self.ends), Arc::clone(&worker.stats)));
        self.open.borrow_mut().insert(number, Rc::clone(&replies));
        match socket {
            Ok(socket) => {
                let worker = Rc::clone(worker);
                debug!(client = %socket.peer(), number, "a client has connected");
                // Called within, or the task would hold the session twice: as it was given and as it runs.
                if let (Some(prelude), Socket::Tcp(_)) = (&prelude, &socket) {
                    let stage = record.map_or(ClientStage::Session, |record| record.stage);
                    let Socket::Tcp(stream) = socket else { return };
                    let newcomer = Newcomer::new(stream, prelude.clone(), stage);
                    let (stop, pace) = (self.stop.clone(), self.pace.clone());
                    self.tasks.spawn_local(async move {
                        let _leave = leave;
                        take_in(worker, newcomer, (replies, entrance), &stop, &pace).await;
                    });
                    return;
                }
                self.tasks.spawn_local(async move {
                    let _leave = leave;
                    session::serve(worker, socket, replies, entrance, record).await;
                });
            }
            Err(error) => warn!(%error, "a client could not be taken on"),
        }
    }

    /// Ends those that somebody wants ended.
    fn end(&self) {
        let open: Vec<_> = self.open.borrow().values().cloned().collect();
        open.iter().filter(|replies| replies.member().is_ended()).for_each(|replies| replies.end(SessionEnd::Killed));
    }

    /// Ends every session when what it has sent is answered: to its client the server is down.
    fn cut(&self) {
        for replies in self.open.borrow().values() {
            replies.cut(replies.next(), SessionEnd::Away);
        }
    }

    /// Tells of those that ask for most.
    fn tell(&self, call: RollCall) {
        let now = Time::now();
        let open = self.open.borrow();
        call.answer(open.values().map(|replies| (replies.heat(now), replies)), |replies| replies.state(now));
    }

    /// Has every session look whether it should end, or what it has at the nodes is still right.
    fn wake(&self) {
        self.open.borrow().values().for_each(|replies| replies.wake());
    }
}

/// The life of a client that is no session yet. Where the process ends first, it goes on in another that has taken over.
async fn take_in(
    worker: Rc<Worker>,
    mut newcomer: Newcomer,
    (replies, entrance): (Rc<Replies>, Arc<Entrance>),
    stop: &CancellationToken,
    pace: &Pace,
) {
    let welcomed = Box::pin(newcomer.welcome(replies.member(), pace, &worker.stats));
    match stop.run_until_cancelled(welcomed).await {
        Some(Some(socket)) => session::serve(worker, socket, replies, entrance, None).await,
        Some(None) => {}
        None => {
            if let Some((socket, stage)) = newcomer.part() {
                let (entrance, peer) = (entrance.at.clone(), replies.member().peer());
                let record = ClientRecord { entrance, peer, stage, ..ClientRecord::default() };
                worker.shared.succession.passage.pass(PassedClient { socket, record });
            }
        }
    }
}

/// Takes a session off the books however it ends.
struct Leave {
    number: u64,
    open: Rc<RefCell<HashMap<u64, Rc<Replies>>>>,
    count: Arc<AtomicUsize>,
    stats: Arc<WorkerStats>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        debug!(number = self.number, "a client's session is over");
        self.open.borrow_mut().remove(&self.number);
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.stats.sessions.sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_ends_untold_is_missed_and_one_that_was_told_is_not() {
        let (fall, fallen) = watch::channel(None);
        let stop = CancellationToken::new();
        let post = |number| Post { number, stop: stop.clone(), fall: fall.clone() };
        let panics = post(3).man(|| panic!("of a test")).expect("a thread");
        assert!(panics.join().is_err());
        assert_eq!(*fallen.borrow(), Some(3));
        let returns = post(4).man(|| ()).expect("a thread");
        assert!(returns.join().is_ok());
        assert_eq!(*fallen.borrow(), Some(4));
        let told = post(5);
        stop.cancel();
        told.man(|| ()).expect("a thread").join().expect("it does nothing");
        assert_eq!(*fallen.borrow(), Some(4));
    }
}
