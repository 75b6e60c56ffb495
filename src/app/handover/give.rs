//! The giver's side of a handover, as it acts: the path is served, and whoever comes there is dealt with as [`Giver`] says.

use std::collections::VecDeque;
use std::fs::{Permissions, set_permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::baton::Baton;
use super::giver::{Giver, GiverStep};
use super::line::{HandoverFrame, HandoverLine, is_end};
use super::message::{HandoverMessage, SocketNote, SocketUse};
use super::peer;
use crate::clock::Time;
use crate::control::Control;
use crate::error::Error;
use crate::proxy::{PassedClient, Shared, SuccessionState};
use crate::server::{AcceptTurn, Porters, SocketFile, bind_socket};

/// What is said may take so long to be taken.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause after `accept` failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Where other processes ask to take over.
pub(in crate::app) struct TakeOverDoor {
    listener: UnixListener,
    path: PathBuf,
    _file: SocketFile,
    /// One that serves already, though this process was told to stop before it had heard of that.
    unheard: Mutex<Option<Successor>>,
}

/// What the process gives.
pub(in crate::app) struct Estate<'a> {
    pub(in crate::app) shared: &'a Arc<Shared>,
    pub(in crate::app) porters: &'a Porters,
    pub(in crate::app) control: &'a Control,
    pub(in crate::app) admin: Option<(&'a OwnedFd, String, bool)>,
}

/// A process that has taken over from this one.
pub(in crate::app) struct Successor {
    line: Arc<HandoverLine>,
    /// Who carries clients over. It has the line while it does.
    carrier: Option<JoinHandle<io::Result<()>>>,
    /// Its number.
    pub(in crate::app) pid: u32,
}

impl TakeOverDoor {
    /// Nobody but this user may come in.
    pub(in crate::app) async fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::listen("take_over", &path.display().to_string(), source);
        let (listener, file) = bind_socket(path).await.map_err(failed)?;
        set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), _file: file, unheard: Mutex::default() })
    }

    /// Where it is.
    pub(in crate::app) fn path(&self) -> &Path {
        &self.path
    }

    /// A process that has taken over though [`Self::successor`] was dropped before it could say so.
    pub(in crate::app) fn unheard(&self) -> Option<Successor> {
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns when another process has taken over. Dropped before, all goes on as it was, but for whoever is at it: it may let nobody in
    /// any more, or it does already and is [`Self::unheard`].
    pub(in crate::app) async fn successor(&self, estate: &Estate<'_>) -> Successor {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match attempt(stream, estate, &self.unheard).await {
                    Ok(successor) => return successor,
                    Err(why) => warn!("nobody takes over: {why}; all goes on as before"),
                },
                Err(error) => {
                    warn!(%error, "who wants to take over cannot be let in");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// One that asks, and whether it may let clients in. Given up midway, it may not any more, and is told: who is gone without a word is
/// taken for dead. Where it does already, it is kept for whoever ends this process.
struct AskingProcess<'a> {
    line: Option<HandoverLine>,
    baton: Baton,
    pid: u32,
    /// It was told that nothing comes of it.
    is_over: bool,
    unheard: &'a Mutex<Option<Successor>>,
}

impl AskingProcess<'_> {
    fn line(&mut self) -> &mut HandoverLine {
        self.line.as_mut().expect("it is there until it is let go")
    }

    fn let_go(mut self) -> HandoverLine {
        self.line.take().expect("it is let go once")
    }
}

impl Drop for AskingProcess<'_> {
    fn drop(&mut self) {
        let Some(line) = self.line.take().filter(|_| !self.is_over) else { return };
        if self.baton.take() {
            line.say_at_once(&HandoverMessage::Refusal { why: "it goes another way".to_owned() });
        } else {
            let successor = Successor { line: Arc::new(line), carrier: None, pid: self.pid };
            *self.unheard.lock().unwrap_or_else(PoisonError::into_inner) = Some(successor);
        }
    }
}

/// Lets one try. The error is a sentence that says why it did not come to it.
async fn attempt(
    stream: UnixStream,
    estate: &Estate<'_>,
    unheard: &Mutex<Option<Successor>>,
) -> Result<Successor, String> {
    let pid = peer(&stream)?;
    info!("process {pid} asks to take over");
    let baton = Baton::new().map_err(|error| error.to_string())?;
    let line = Some(HandoverLine::new(stream));
    let mut asking = AskingProcess { line, baton, pid, is_over: false, unheard };
    if let (true, SuccessionState::Follows(before)) = (estate.shared.l1.is_shared(), estate.shared.succession.get()) {
        let why = format!("it is still taking over from process {before} itself: try again when that one has ended");
        asking.is_over = true;
        let _ = say(asking.line(), &HandoverMessage::Refusal { why: why.clone() }, &[]).await;
        return Err(why);
    }
    let terms = super::terms(estate.shared).await;
    let mut giver = Giver::new(Time::now(), terms);
    loop {
        let wait = giver.deadline().saturating_since(Time::now());
        let steps = tokio::select! {
            biased; // what was said in time is not late where this process was frozen
            frame = asking.line().next() => match frame {
                Ok(HandoverFrame::Message(message, _)) => giver.hear(message, Time::now()),
                Ok(HandoverFrame::Names(_)) => giver.odd("it says names, which it has none to say".to_owned()),
                Err(error) if is_end(&error) => giver.lost(&error.to_string()),
                Err(error) => giver.odd(error.to_string()),
            },
            () = sleep(wait) => giver.late(),
        };
        match act(&mut giver, steps.into(), &mut asking, estate).await {
            Outlook::Open => {}
            Outlook::Failed(why) => return Err(why),
            Outlook::Taken => return Ok(Successor { line: Arc::new(asking.let_go()), carrier: None, pid }),
        }
    }
}

/// What has come of an attempt so far.
enum Outlook {
    Open,
    Failed(String),
    Taken,
}

/// Does what is to be done.
async fn act(
    giver: &mut Giver,
    mut steps: VecDeque<GiverStep>,
    asking: &mut AskingProcess<'_>,
    estate: &Estate<'_>,
) -> Outlook {
    let mut outlook = Outlook::Open;
    while let Some(step) = steps.pop_front() {
        let mut done = Ok(());
        match step {
            GiverStep::Say(message) => done = say(asking.line(), &message, &[]).await,
            GiverStep::Offer => {
                if let Err(why) = offer(asking, estate).await {
                    steps.extend(giver.cannot_offer(why));
                }
            }
            GiverStep::Release(message) => {
                estate.porters.turn(AcceptTurn::Others);
                estate.shared.l1.share();
                done = say(asking.line(), &message, &[]).await;
            }
            GiverStep::Reclaim(why) => {
                let has = asking.baton.take();
                if !has {
                    estate.shared.succession.set(SuccessionState::Awaits(asking.pid));
                    warn!("it may serve already, so its word is waited for, or its end: {why}");
                }
                steps.extend(giver.reclaimed(why, has));
            }
            GiverStep::Resume => {
                if let Some(path) = &estate.shared.config.take_over {
                    estate.shared.succession.set(SuccessionState::Open(path.clone()));
                }
                estate.porters.turn(AcceptTurn::Own);
                estate.shared.l1.stand_alone();
            }
            GiverStep::Leave => return Outlook::Taken,
            GiverStep::Fail(why) => {
                asking.baton.take();
                asking.is_over = true;
                asking.line().say_at_once(&HandoverMessage::Refusal { why: why.clone() });
                outlook = Outlook::Failed(why);
            }
        }
        match done {
            Ok(()) => {}
            Err(error) if is_end(&error) => steps.extend(giver.lost(&error.to_string())),
            Err(error) => steps.extend(giver.odd(format!("it does not listen: {error}"))),
        }
    }
    outlook
}

/// Says the sockets, and the names of hot keys.
async fn offer(asking: &mut AskingProcess<'_>, estate: &Estate<'_>) -> Result<(), String> {
    let Ok(Some(shown)) = timeout(PATIENCE, estate.porters.show()).await else {
        return Err("the upstream is away, so there are no open sockets to give: try again when it is back".to_owned());
    };
    let note = |used, name: &str, is_shared| SocketNote { used, name: name.to_owned(), is_shared };
    let mut sockets: Vec<_> =
        shown.iter().map(|socket| note(SocketUse::Listen, &socket.name, socket.is_shared)).collect();
    let mut files: Vec<_> = shown.iter().map(|socket| socket.socket.as_fd()).collect();
    if let Some((socket, name, is_shared)) = &estate.admin {
        sockets.push(note(SocketUse::Admin, name, *is_shared));
        files.push(socket.as_fd());
    }
    files.push(asking.baton.file());
    let line = asking.line.as_ref().expect("it is there until it is let go");
    let told = async {
        say(line, &HandoverMessage::Sockets { sockets }, &files).await?;
        let shared = Arc::clone(estate.shared);
        let names = estate.control.spawn_blocking(move || shared.hot_names()).await;
        for piece in names.iter().flatten() {
            timeout(PATIENCE, line.say_names(piece)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        }
        say(line, &HandoverMessage::NamesEnd, &[]).await
    };
    told.await.map_err(|error| error.to_string())
}

async fn say(line: &HandoverLine, message: &HandoverMessage, files: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
    timeout(PATIENCE, line.say(message, files)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Successor {
    /// Tells it that this process leaves, and is gone within this time. Where it does not hear it, it is gone itself: nobody is left
    /// who could be told.
    pub(in crate::app) async fn leaving(&self, within: Duration) {
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        if let Err(error) = say(&self.line, &HandoverMessage::Draining { within_ms }, &[]).await {
            warn!(%error, "process {}, which has taken over, does not listen", self.pid);
        }
    }

    /// Carries these clients over, until there can be no more.
    pub(in crate::app) fn pass_on(&mut self, mut clients: mpsc::Receiver<PassedClient>) {
        let line = Arc::clone(&self.line);
        self.carrier = Some(tokio::spawn(async move {
            while let Some(PassedClient { socket, record }) = clients.recv().await {
                say(&line, &HandoverMessage::Client(record), &[socket.as_fd()]).await?;
            }
            Ok(())
        }));
    }

    /// Tells it that this process has no session any more, when those who go over have gone. To be called when nobody is left who could
    /// pass a client on. What is not taken in time is not said, and neither is this: a message that was cut short ends the line.
    pub(in crate::app) async fn gone(self) {
        let Self { line, carrier, pid } = self;
        let carried = match carrier {
            None => Ok(()),
            Some(mut carrier) => {
                let over = timeout(PATIENCE, &mut carrier).await;
                carrier.abort(); // where it is not over, it may not say more
                match over {
                    Ok(joined) => joined.unwrap_or_else(|error| Err(io::Error::other(error))),
                    Err(_) => Err(io::ErrorKind::TimedOut.into()),
                }
            }
        };
        match carried {
            Ok(()) => _ = say(&line, &HandoverMessage::Gone, &[]).await, // the end of the process says the same
            Err(error) => {
                warn!(%error, "process {pid} does not take what goes over: the clients that are left are closed");
            }
        }
    }
}
