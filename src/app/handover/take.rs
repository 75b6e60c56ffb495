//! The taker's side of a handover, as it acts: what [`Taker`] says is done.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::line::{HandoverFrame, HandoverLine};
use super::message::{HandoverMessage, SocketUse};
use super::taker::{Taker, TakerStep};
use super::{is_ours, peer};
use crate::clock::Time;
use crate::error::Error;
use crate::proxy::{HotNames, PassedClient, Shared, SuccessionState};
use crate::server::{Inheritance, InheritedSocket};
use crate::upstream::State as Presence;

/// The upstream may take so long to be there.
const READY: Duration = Duration::from_secs(10);
/// Hot keys are read for so long at most.
const FILLING: Duration = Duration::from_secs(10);

/// This process on its way to take over.
pub(in crate::app) struct Taking {
    line: HandoverLine,
    taker: Taker,
    path: PathBuf,
    /// Who is taken over from.
    pid: u32,
    /// What it gave: for clients, and for the admin port.
    pub(in crate::app) listen: Inheritance,
    pub(in crate::app) admin: Inheritance,
    names: Vec<Vec<u8>>,
    /// What came with the last message.
    files: Vec<OwnedFd>,
}

impl Taking {
    /// Asks whoever serves `path` for all that it has to give; none where nobody does.
    pub(in crate::app) async fn begin(path: &Path) -> Result<Option<Self>, Error> {
        let failed = |why: String| failed(path, why);
        if !is_ours(path).map_err(failed)? {
            return Ok(None);
        }
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => {
                info!("nobody is there to take over from at {}", path.display());
                return Ok(None);
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        let pid = peer(&stream).map_err(failed)?;
        let line = HandoverLine::new(stream);
        let (taker, first) = Taker::new(Time::now());
        line.say(&first, &[]).await.map_err(|error| failed(error.to_string()))?;
        let (listen, admin, names, files) = Default::default();
        let mut taking = Self { line, taker, path: path.to_owned(), pid, listen, admin, names, files };
        while taking.next().await? != Some(TakerStep::Prepare) {}
        Ok(Some(taking))
    }

    /// Prepares, and takes over: `let_in` is called when clients are to be let in. Returns when the other leaves; the rest is to be
    /// [`followed`](Self::follow).
    pub(in crate::app) async fn take(&mut self, shared: &Arc<Shared>, let_in: impl FnOnce()) -> Result<(), Error> {
        shared.succession.set(SuccessionState::Prepares(self.pid));
        self.prepare(shared).await?;
        let ready = self.taker.ready(Time::now()).expect("it prepared for that");
        self.say(&ready).await?;
        let mut let_in = Some(let_in);
        loop {
            match self.next().await? {
                Some(TakerStep::LetIn(message)) => {
                    let_in.take().expect("it is let in once")();
                    self.say(&message).await?;
                }
                Some(TakerStep::Follow) => break,
                _ => {}
            }
        }
        info!("clients are served in place of process {}, which ends", self.pid);
        shared.succession.set(SuccessionState::Follows(self.pid));
        Ok(())
    }

    /// Returns when the other serves nobody any more, and memory may answer.
    /// `resume` is given the clients that come over.
    pub(in crate::app) async fn follow(mut self, shared: &Arc<Shared>, resume: impl Fn(PassedClient)) {
        let mut count = 0;
        while let Ok(step) = self.next().await {
            match step {
                Some(TakerStep::Resume(record)) => {
                    if let Some(socket) = self.files.pop() {
                        count += 1;
                        resume(PassedClient { socket, record: *record });
                    }
                }
                Some(TakerStep::BeAlone) => break,
                _ => {}
            }
        }
        shared.l1.stand_alone();
        if let Some(path) = &shared.config.take_over {
            shared.succession.set(SuccessionState::Open(path.clone()));
        }
        info!(clients = count, "clients of process {} have come over", self.pid);
        info!("process {} serves nobody any more", self.pid);
    }

    /// Waits for the upstream, and fills memory.
    async fn prepare(&mut self, shared: &Arc<Shared>) -> Result<(), Error> {
        let mut presence = shared.presence.clone();
        let there = timeout(READY, presence.wait_for(|known| *known == Presence::There));
        if !there.await.is_ok_and(|known| known.is_ok()) {
            let why = "the upstream does not answer this process".to_owned();
            let _ = self.say(&HandoverMessage::Refusal { why: why.clone() }).await;
            return Err(failed(&self.path, why));
        }
        let began = Instant::now();
        let mut hot = HotNames::new(shared);
        for piece in std::mem::take(&mut self.names) {
            hot.fill(shared, &piece, began + FILLING).await;
        }
        hot.settle(began + FILLING).await;
        let took = began.elapsed();
        info!("{} hot keys of process {} were read, in {took:?}", hot.asked(), self.pid);
        Ok(())
    }

    /// Waits for what happens next, and tells what is to be done about it, if anything is.
    async fn next(&mut self) -> Result<Option<TakerStep>, Error> {
        let wait = self.taker.deadline().saturating_since(Time::now());
        let steps = tokio::select! {
            frame = self.line.next() => match frame {
                Ok(HandoverFrame::Message(message, files)) => {
                    self.files = files;
                    self.taker.hear(message, Time::now())
                }
                Ok(HandoverFrame::Names(names)) => {
                    self.names.push(names);
                    return Ok(None);
                }
                Err(error) => self.taker.lost(&error.to_string()),
            },
            () = sleep(wait) => self.taker.late(),
        };
        let Some(step) = steps.into_iter().next() else { return Ok(None) };
        match step {
            TakerStep::Adopt(notes) => {
                for (note, file) in notes.into_iter().zip(self.files.drain(..)) {
                    let socket = InheritedSocket::new(file, note.name, note.is_shared)
                        .map_err(|error| failed(&self.path, error.to_string()))?;
                    match note.used {
                        SocketUse::Listen => self.listen.add(socket),
                        SocketUse::Admin => self.admin.add(socket),
                    }
                }
                Ok(None)
            }
            TakerStep::Fail(why) => {
                warn!("process {} cannot be taken over from: {why}", self.pid);
                Err(failed(&self.path, why))
            }
            step => Ok(Some(step)),
        }
    }

    async fn say(&self, message: &HandoverMessage) -> Result<(), Error> {
        self.line.say(message, &[]).await.map_err(|error| failed(&self.path, error.to_string()))
    }
}

fn failed(path: &Path, why: String) -> Error {
    Error::TakeOver { path: path.into(), why: why.into() }
}
