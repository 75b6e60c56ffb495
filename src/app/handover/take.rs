//! The taker's side of a handover, as it acts: what [`Taker`] says is done.

use std::collections::VecDeque;
use std::future::pending;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::baton::Baton;
use super::line::{HandoverFrame, HandoverLine, is_end};
use super::message::{HandoverMessage, SocketNote, SocketUse};
use super::taker::{Taker, TakerStep};
use super::terms::HandoverTerms;
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
    /// None: the giver has not given it.
    baton: Option<Baton>,
    /// What came with the last message.
    files: Vec<OwnedFd>,
    /// What is to be done yet.
    steps: VecDeque<TakerStep>,
    /// Only that the giver ends is waited for, or nothing any more.
    hears: Hearing,
    /// Whether what was given is this process's for good.
    confirmed: Arc<AtomicBool>,
}

/// What of the giver is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hearing {
    /// All that it says.
    All,
    /// That it ends.
    End,
    /// It has ended.
    Nothing,
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
        let (listen, admin, names, files, steps, confirmed) = Default::default();
        let (path, hears, baton) = (path.to_owned(), Hearing::All, None);
        let mut taking = Self { line, taker, path, pid, listen, admin, names, baton, files, steps, hears, confirmed };
        taking.say(&first).await;
        while taking.next().await? != Some(TakerStep::Prepare) {}
        Ok(Some(taking))
    }

    /// Prepares, and takes over: `let_in` is called when clients are to be let in. Returns when the other leaves; the rest is to be
    /// [`followed`](Self::follow).
    pub(in crate::app) async fn take(&mut self, shared: &Arc<Shared>, let_in: impl FnOnce()) -> Result<(), Error> {
        shared.succession.set(SuccessionState::Prepares(self.pid));
        if self.prepare(shared).await? {
            let ready = self.taker.ready(Time::now()).expect("it prepared for that");
            self.say(&ready).await;
        }
        let mut let_in = Some(let_in);
        loop {
            match self.next().await? {
                Some(TakerStep::LetIn) => let_in.take().expect("it is let in once")(),
                Some(TakerStep::Say(message)) => self.say(&message).await,
                Some(TakerStep::Follow) => break,
                _ => {}
            }
        }
        self.confirmed.store(true, Ordering::Release);
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
                    let Some(socket) = self.files.pop() else {
                        warn!("a client of process {} is lost: this process may not open so many files", self.pid);
                        continue;
                    };
                    count += 1;
                    resume(PassedClient { socket, record: *record });
                }
                Some(TakerStep::BeAlone) => break,
                _ => {}
            }
        }
        if !HandoverTerms::of(shared).has_heard(&self.taker.terms) {
            info!(
                "memory begins empty: what was written through process {} was not told where this one listens",
                self.pid
            );
            shared.l1.turn();
        }
        shared.l1.stand_alone();
        if let Some(path) = &shared.config.take_over {
            shared.succession.set(SuccessionState::Open(path.clone()));
        }
        info!(clients = count, "clients of process {} have come over", self.pid);
        info!("process {} serves nobody any more", self.pid);
    }

    /// Waits for the upstream, and fills memory. False: the giver is gone meanwhile, and there is no time for that.
    async fn prepare(&mut self, shared: &Arc<Shared>) -> Result<bool, Error> {
        let prepared = prepare(shared, std::mem::take(&mut self.names), self.taker.terms.clone(), self.pid);
        tokio::pin!(prepared);
        loop {
            tokio::select! {
                biased; // what is to be done where the giver is gone is done, though all be ready or have failed by then
                step = self.next() => if let Some(step) = step? {
                    self.steps.push_front(step);
                    return Ok(false);
                },
                prepared = &mut prepared => match prepared {
                    Ok(()) => return Ok(true),
                    Err(why) => {
                        self.say(&HandoverMessage::Refusal { why: why.clone() }).await;
                        return Err(failed(&self.path, why));
                    }
                },
            }
        }
    }

    /// Waits for what happens next, and tells what is to be done about it, if anything is. Cancel safe.
    async fn next(&mut self) -> Result<Option<TakerStep>, Error> {
        if self.steps.is_empty() {
            let steps = self.happens().await;
            self.steps.extend(steps);
        }
        let Some(step) = self.steps.pop_front() else { return Ok(None) };
        match step {
            TakerStep::Adopt(notes) => self.adopt(notes).map(|()| None),
            TakerStep::TakeBaton => {
                let has = self.baton.as_ref().is_some_and(Baton::take);
                self.steps.extend(self.taker.has_baton(has));
                Ok(None)
            }
            TakerStep::Overdue => {
                warn!(
                    "process {} should have ended by now, and has not: until it has nothing is answered out of memory. End it if it hangs",
                    self.pid
                );
                Ok(None)
            }
            TakerStep::AwaitEnd => {
                warn!(
                    "process {} is not understood any more: until it has ended nothing is answered out of memory",
                    self.pid
                );
                self.hears = Hearing::End;
                Ok(None)
            }
            TakerStep::Fail(why) => {
                warn!("process {} cannot be taken over from: {why}", self.pid);
                Err(failed(&self.path, why))
            }
            step => Ok(Some(step)),
        }
    }

    /// What follows from what happens next. Cancel safe.
    async fn happens(&mut self) -> Vec<TakerStep> {
        let wait = self.taker.deadline().saturating_since(Time::now());
        let (line, of_it) = (&mut self.line, self.hears);
        let word = async {
            match of_it {
                Hearing::All => line.next().await,
                Hearing::End => {
                    line.closed().await;
                    Err(ErrorKind::UnexpectedEof.into())
                }
                Hearing::Nothing => pending().await,
            }
        };
        tokio::select! {
            biased; // what was said in time is not late where this process was frozen
            frame = word => match frame {
                Ok(HandoverFrame::Message(message, files)) => {
                    self.files = files;
                    self.taker.hear(message, Time::now())
                }
                Ok(HandoverFrame::Names(names)) => {
                    let steps = self.taker.hear_names(names.len());
                    self.names.push(names);
                    steps
                }
                Err(error) if is_end(&error) => {
                    self.hears = Hearing::Nothing;
                    self.taker.gone()
                }
                Err(error) => self.taker.not_understood(&error.to_string()),
            },
            () = sleep(wait) => self.taker.late(),
        }
    }

    /// Takes the sockets that came, which are these.
    fn adopt(&mut self, notes: Vec<SocketNote>) -> Result<(), Error> {
        let failed = |why: &str| failed(&self.path, why.to_owned());
        if notes.len() + 1 != self.files.len() {
            return Err(failed("sockets are missing: this process may not open so many files"));
        }
        let baton = self.files.pop().map(Baton::given).transpose();
        self.baton = baton.map_err(|error| failed(&error.to_string()))?;
        for (note, file) in notes.into_iter().zip(self.files.drain(..)) {
            let socket = InheritedSocket::new(file, note.name, note.is_shared)
                .map_err(|error| failed(&error.to_string()))?
                .once(&self.confirmed);
            match note.used {
                SocketUse::Listen => self.listen.add(socket),
                SocketUse::Admin => self.admin.add(socket),
            }
        }
        Ok(())
    }

    /// Says this. Where that fails, what is heard next tells why.
    async fn say(&self, message: &HandoverMessage) {
        if let Err(error) = self.line.say(message, &[]).await {
            debug!(%error, "process {} does not listen", self.pid);
        }
    }
}

/// Waits for the upstream, and fills memory with what these name. The error is a sentence.
async fn prepare(shared: &Arc<Shared>, names: Vec<Vec<u8>>, terms: HandoverTerms, pid: u32) -> Result<(), String> {
    let mut presence = shared.presence.clone();
    let there = timeout(READY, presence.wait_for(|known| *known == Presence::There));
    if !there.await.is_ok_and(|known| known.is_ok()) {
        return Err("the upstream does not answer this process".to_owned());
    }
    super::terms(shared).await.fit(&terms)?;
    let began = Instant::now();
    let mut hot = HotNames::new(shared);
    for piece in names {
        hot.fill(shared, &piece, began + FILLING).await;
    }
    hot.settle(began + FILLING).await;
    let took = began.elapsed();
    info!("{} hot keys of process {pid} were read, in {took:?}", hot.asked());
    Ok(())
}

fn failed(path: &Path, why: String) -> Error {
    Error::TakeOver { path: path.into(), why: why.into() }
}
