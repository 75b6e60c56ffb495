//! The ear: the one tracked connection of a user, on which everything in L1 was read.
//!
//! Redis tells a tracked connection of every change to what was read on it, on the same socket and in order; so the ear
//! that handles what it hears strictly in order cannot miss one. It does three things: fills, invalidations, fences; and when
//! it has nothing better to do, it tells Redis what L1 serves (`touch`). It must never wait for a client or a worker. One
//! task on the control thread, owned by [`super::L1`], reconnects for as long as the process lives; what happens between two
//! connections is unknown, so a lost one ends the epoch and the lease.
//!
//! Facts of Redis that this rests on (networking.c, tracking.c; tried on 7.0.15 and Valkey 9): a push for one's own write
//! comes after its reply; a flush is a null push; keys in pushes carry no database; `HELLO` without arguments tells the role.

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tracing::warn;

use super::L1;
use super::fill::Fill;
use super::hearing::Hearing;
use crate::cache::Freshness;
use crate::clock::Time;
use crate::command::Caching;
use crate::error::Error;
use crate::metrics::{DropReason, EpochReason};
use crate::resp::Resp;
use crate::upstream::{Backoff, Login, Target, connect};

/// Fills that may wait for the ear; more are dropped and counted.
const INBOX: usize = 4096;
/// Fences that may be asked for and not yet sent: each worker asks for one at a time.
const FENCES: usize = 1024;
/// A user that may not be tracked is tried again after this long: an ACL can change.
const REFUSED: Duration = Duration::from_secs(60);

/// A user's ear, as the workers see it.
pub struct Ear {
    /// The epoch and the lease that every hit of the user checks.
    pub freshness: Freshness,
    filled: AtomicBool,
    pub(super) nudged: AtomicBool,
    /// Whether the server gives hash fields times to live, as far as it was asked.
    field_ttls: AtomicBool,
    reconnects: AtomicU64,
    login: Mutex<Option<Arc<Login>>>,
    state: Mutex<State>,
    fills: mpsc::Sender<Fill>,
    fences: mpsc::Sender<oneshot::Sender<()>>,
    inbox: Mutex<Option<Inbox>>,
}

/// What an ear is doing, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing was ever promoted for this user.
    Idle,
    /// No connection, and why.
    Away(String),
    /// Listening, from this address.
    Listening(String),
}

/// What workers have asked of the ear.
pub(super) struct Inbox {
    pub(super) fills: mpsc::Receiver<Fill>,
    pub(super) fences: mpsc::Receiver<oneshot::Sender<()>>,
}

impl Ear {
    pub(super) fn new(login: Option<Arc<Login>>) -> Arc<Self> {
        let (fills, fill_inbox) = mpsc::channel(INBOX);
        let (fences, fence_inbox) = mpsc::channel(FENCES);
        Arc::new(Self {
            freshness: Freshness::new(),
            filled: AtomicBool::new(false),
            nudged: AtomicBool::new(false),
            field_ttls: AtomicBool::new(false),
            reconnects: AtomicU64::new(0),
            login: Mutex::new(login),
            state: Mutex::new(State::Idle),
            fills,
            fences,
            inbox: Mutex::new(Some(Inbox { fills: fill_inbox, fences: fence_inbox })),
        })
    }

    /// What the ear is doing.
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often the ear had to connect anew.
    pub fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// A client proved this login: the next connection is made with it.
    pub(super) fn trust(&self, login: Option<&Arc<Login>>) {
        *self.login.lock().unwrap_or_else(PoisonError::into_inner) = login.cloned();
    }

    /// Whether it was ever asked to fill: before, L1 holds nothing of its user's.
    pub fn has_filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// Resolves after a reply to something sent later than this call; fails when the ear is lost meanwhile.
    pub fn fence(&self) -> oneshot::Receiver<()> {
        let (told, fence) = oneshot::channel();
        let _ = self.fences.try_send(told); // without an ear the sender is dropped, which is an answer
        fence
    }

    /// Up to when L1 knows of every change, as far as the user's sessions are concerned: for ever where it holds nothing.
    pub fn heard_up_to(&self) -> Time {
        if self.has_filled() { self.freshness.heard_up_to() } else { Time::NEVER }
    }

    /// Asks for a fence that nobody waits for, unless one is asked for already.
    pub fn nudge(&self) {
        if self.has_filled() && !self.nudged.swap(true, Ordering::AcqRel) {
            drop(self.fence());
        }
    }

    pub(super) fn promote(self: &Arc<Self>, l1: &Arc<L1>, fill: Fill) -> Result<(), DropReason> {
        if !self.filled.load(Ordering::Acquire) {
            self.start(l1);
        }
        if fill.spec().cache == Caching::WholeHash && self.field_ttls.load(Ordering::Relaxed) {
            return Err(DropReason::FieldTtls);
        }
        self.fills.try_send(fill).map_err(|_| DropReason::EarBehind)
    }

    fn start(self: &Arc<Self>, l1: &Arc<L1>) {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.filled.store(true, Ordering::Release);
        if let Some(inbox) = inbox {
            let (ear, l1) = (Arc::clone(self), Arc::clone(l1));
            let handle = l1.control.clone();
            handle.spawn(async move {
                let stop = l1.stop.clone();
                stop.run_until_cancelled(listen(&ear, &l1, inbox)).await;
            });
        }
    }

    pub(super) fn set_field_ttls(&self, known: bool) {
        self.field_ttls.store(known, Ordering::Relaxed);
    }

    fn set_state(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// Keeps the ear listening; never returns.
async fn listen(ear: &Ear, l1: &Arc<L1>, mut inbox: Inbox) {
    let mut backoff = Backoff::default();
    loop {
        let login = ear.login.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let name = "crema-ear";
        let target = Target { node: Arc::clone(&l1.node), login, db: 0, resp: Resp::V3, name };
        let error = match connect(&target).await {
            Ok(connection) => {
                ear.set_state(State::Listening(connection.socket.local()));
                let mut hearing = Hearing::new(ear, l1, target.login.as_deref());
                let error = hearing.run(connection, &mut inbox, &mut backoff).await;
                ear.freshness.end();
                ear.freshness.bump();
                l1.stats.epoch(EpochReason::EarLost);
                error
            }
            Err(error) => error,
        };
        ear.reconnects.fetch_add(1, Ordering::Relaxed);
        l1.stats.ear_reconnects.add(1);
        let wait = if matches!(error, Error::Refused { .. }) { REFUSED } else { backoff.wait() };
        warn!(%error, retry_in = ?wait, "the ear hears nothing: L1 answers nothing until it does, reads go to the upstream");
        ear.set_state(State::Away(error.to_string()));
        // What was asked of the lost ear is dropped: promotions are optional, and a fence that fails is answered by that.
        let drain = async {
            loop {
                tokio::select! {
                    Some(_) = inbox.fills.recv() => {}
                    Some(_) = inbox.fences.recv() => {}
                    else => pending::<()>().await,
                }
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = drain => {}
        }
    }
}
