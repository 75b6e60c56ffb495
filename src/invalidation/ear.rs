//! The ear: the one tracked connection of a user, on which everything in L1 was read.
//!
//! Redis tells a tracked connection of every change to what was read on it, on the same socket and in order; so the ear
//! that handles what it hears strictly in order cannot miss one. It does three things: fills, invalidations, fences; and when
//! it has nothing better to do, it tells Redis what L1 serves (`touch`). It must never wait for a client or a worker. One
//! task on the control thread, owned by [`super::L1`], reconnects for as long as anybody is this user; what happens between
//! two connections is unknown, so a lost one ends the epoch and the lease.
//!
//! Facts of Redis that this rests on (networking.c, tracking.c; tried on 7.0.15 and Valkey 9): a push for one's own write
//! comes after its reply; a flush is a null push; keys in pushes carry no database; `HELLO` without arguments tells the role.

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::L1;
use super::fill::Fill;
use super::hearing::Hearing;
use super::rights::Rights;
use crate::cache::Freshness;
use crate::clock::Time;
use crate::command::Caching;
use crate::error::Error;
use crate::metrics::{DropReason, EpochReason, Refusal};
use crate::resp::Resp;
use crate::upstream::{Backoff, Login, Target, connect};

/// Fills that may wait for the ear; more are dropped and counted.
const INBOX: usize = 4096;
/// Bytes of requests that fills may hold, waiting or under way; what is beyond is dropped likewise.
const HELD: usize = 16 << 20;
/// Fences that may be asked for and not yet sent: each worker asks for one at a time.
const FENCES: usize = 1024;
/// A user that may not do what an ear needs is tried again after this long, or when an ACL command goes through this
/// process: rights can change.
const REFUSED: Duration = Duration::from_secs(60);

/// A user's ear, as the workers see it.
pub struct Ear {
    /// The epoch and the lease that every hit of the user checks.
    pub freshness: Freshness,
    filled: AtomicBool,
    /// When the fence was sent that is under way, zero where none is, and how long the last one took; both in nanoseconds.
    fence_sent: AtomicU64,
    fence_took: AtomicU64,
    pub(super) nudged: AtomicBool,
    /// Whether the server gives hash fields times to live, as far as it was asked.
    field_ttls: AtomicBool,
    reconnects: AtomicU64,
    /// What the last client that was this user proved: with it connections of this user are made.
    login: Mutex<Option<Arc<Login>>>,
    pub(super) rights: Rights,
    state: Mutex<State>,
    refused: AtomicBool,
    retry: Notify,
    stop: CancellationToken,
    /// Sessions that are this user, and when the last one left, in nanoseconds of [`Time`].
    seats: AtomicUsize,
    left: AtomicU64,
    fills: mpsc::Sender<Fill>,
    room: Arc<Semaphore>,
    fences: mpsc::Sender<Fence>,
    inbox: Mutex<Option<Inbox>>,
}

/// Held by whoever is a user, so that the user's ear stays.
pub struct Seat(Arc<Ear>);

impl Seat {
    pub(super) fn take(ear: &Arc<Ear>) -> Self {
        ear.seats.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(ear))
    }

    /// The user's ear.
    pub fn ear(&self) -> &Arc<Ear> {
        &self.0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.left.store(Time::now().as_nanos(), Ordering::Relaxed);
        self.0.seats.fetch_sub(1, Ordering::AcqRel);
    }
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
    /// The user may not do what an ear needs, which this is.
    Refused(Refusal),
}

/// Somebody waits for a reply to something that was sent at this moment or later.
pub(super) type Fence = (Time, oneshot::Sender<()>);

/// What workers have asked of the ear.
pub(super) struct Inbox {
    pub(super) fills: mpsc::Receiver<Fill>,
    pub(super) fences: mpsc::Receiver<Fence>,
}

impl Ear {
    pub(super) fn new(stop: CancellationToken) -> Arc<Self> {
        let (fills, fill_inbox) = mpsc::channel(INBOX);
        let (fences, fence_inbox) = mpsc::channel(FENCES);
        Arc::new(Self {
            freshness: Freshness::new(),
            filled: AtomicBool::new(false),
            fence_sent: AtomicU64::new(0),
            fence_took: AtomicU64::new(0),
            nudged: AtomicBool::new(false),
            field_ttls: AtomicBool::new(false),
            reconnects: AtomicU64::new(0),
            login: Mutex::default(),
            rights: Rights::default(),
            state: Mutex::new(State::Idle),
            refused: AtomicBool::new(false),
            retry: Notify::new(),
            stop,
            seats: AtomicUsize::new(0),
            left: AtomicU64::new(0),
            fills,
            room: Arc::new(Semaphore::new(HELD)),
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

    /// A client proved this login, or the configuration gives it: connections of this user are made with it from now on.
    pub fn trust(&self, login: &Arc<Login>) {
        let before = self.login.lock().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(login));
        // A right that the user lacks comes with no login.
        let news = before.as_ref() != Some(login) || self.state() == State::Refused(Refusal::Login);
        if self.refused.load(Ordering::Acquire) && news {
            self.try_again();
        }
    }

    /// What connections of this user are to be made with: the newest login that was proved, for passwords change.
    pub fn login(&self) -> Option<Arc<Login>> {
        self.login.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Rights may have changed: a user that was refused is tried again at once.
    pub(super) fn try_again(&self) {
        self.retry.notify_one();
    }

    /// How long nobody has been this user.
    pub(super) fn unused_for(&self, now: Time) -> Duration {
        if self.seats.load(Ordering::Acquire) > 0 {
            return Duration::ZERO;
        }
        now.saturating_since(Time::from_nanos(self.left.load(Ordering::Relaxed)))
    }

    /// Whether more than one session is this user.
    pub fn is_shared(&self) -> bool {
        self.seats.load(Ordering::Relaxed) > 1
    }

    /// Nobody is this user any more: the ear ends, and with it everything that it filled.
    pub(super) fn end(&self) {
        self.freshness.end();
        self.freshness.bump();
        self.stop.cancel();
    }

    /// Whether it was ever asked to fill: before, L1 holds nothing of its user's.
    pub fn has_filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// Resolves after a reply to something sent at `since` or later; fails when the ear is lost meanwhile.
    pub fn fence(&self, since: Time) -> oneshot::Receiver<()> {
        let (told, fence) = oneshot::channel();
        let _ = self.fences.try_send((since, told)); // without an ear the sender is dropped, which is an answer
        fence
    }

    /// How long a fence takes: what the last one took, or, if that is more, what the one under way has taken so far.
    pub fn fence_time(&self, now: Time) -> Duration {
        let sent = match self.fence_sent.load(Ordering::Relaxed) {
            0 => now,
            sent => Time::from_nanos(sent),
        };
        now.saturating_since(sent).max(Duration::from_nanos(self.fence_took.load(Ordering::Relaxed)))
    }

    pub(super) fn fence_is_sent(&self, now: Time) {
        self.fence_sent.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// The fence that was sent then is back.
    pub(super) fn fence_is_over(&self, sent: Time, now: Time) {
        self.fence_sent.store(0, Ordering::Relaxed);
        let took = u64::try_from(now.saturating_since(sent).as_nanos()).unwrap_or(u64::MAX);
        self.fence_took.store(took, Ordering::Relaxed);
    }

    /// Up to when L1 knows of every change, as far as the user's sessions are concerned: for ever where it holds nothing.
    pub fn heard_up_to(&self) -> Time {
        if self.has_filled() { self.freshness.heard_up_to() } else { Time::NEVER }
    }

    /// Asks for a fence that nobody waits for, unless one is asked for already.
    pub fn nudge(&self) {
        if self.has_filled() && !self.nudged.swap(true, Ordering::AcqRel) {
            drop(self.fence(Time::now()));
        }
    }

    pub(super) fn promote(self: &Arc<Self>, l1: &Arc<L1>, mut fill: Fill) -> Result<(), DropReason> {
        if self.refused.load(Ordering::Relaxed) {
            return Err(DropReason::Refused);
        }
        if !self.has_filled() && !self.start(l1) {
            return Err(DropReason::NoEar);
        }
        if fill.spec().cache == Caching::WholeHash && self.field_ttls.load(Ordering::Relaxed) {
            return Err(DropReason::FieldTtls);
        }
        if !fill.take_room(&self.room) {
            return Err(DropReason::EarBehind);
        }
        self.fills.try_send(fill).map_err(|_| DropReason::EarBehind)
    }

    /// Begins to listen, if there are not too many ears already. False: there are.
    fn start(self: &Arc<Self>, l1: &Arc<L1>) -> bool {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.is_some() && !l1.may_listen() {
            return false;
        }
        self.filled.store(true, Ordering::Release);
        if let Some(inbox) = inbox.take() {
            let (ear, l1) = (Arc::clone(self), Arc::clone(l1));
            let handle = l1.control.clone();
            handle.spawn(async move {
                let stop = ear.stop.clone();
                stop.run_until_cancelled(listen(&ear, &l1, inbox)).await;
                l1.listens_no_more();
            });
        }
        true
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
        let target =
            Target { node: Arc::clone(&l1.node), login: ear.login(), db: 0, resp: Resp::V3, name: "crema-ear" };
        let end = match connect(&target).await {
            Ok(connection) => {
                ear.set_state(State::Listening(connection.socket.local()));
                let mut hearing = Hearing::new(ear, l1, target.login.as_deref());
                let end = hearing.run(connection, &mut inbox, &mut backoff).await;
                ear.freshness.end();
                hearing.look_at_lease(Time::now());
                ear.freshness.bump();
                l1.stats.epoch(EpochReason::EarLost);
                end
            }
            Err(error @ (Error::Refused { .. } | Error::LoginRefused { .. })) if !error.is_passing() => {
                End::Refused(Refusal::Login, error)
            }
            Err(error) => End::Lost(error),
        };
        ear.reconnects.fetch_add(1, Ordering::Relaxed);
        l1.stats.ear_reconnects.add(1);
        let user = target.login.as_ref().map_or("default".into(), |login| String::from_utf8_lossy(&login.user));
        let wait = match end {
            End::Lost(error) => {
                let wait = backoff.wait();
                debug!(%user, ?wait, "the ear tries again after a while");
                warn!(%user, %error, "the ear hears nothing: L1 answers nothing until it does, reads go to the upstream");
                ear.set_state(State::Away(error.to_string()));
                wait
            }
            End::Refused(refusal, error) => {
                warn!(%user, %error, "a user has no L1, for it {}", refusal.about());
                l1.stats.refused(refusal);
                ear.set_state(State::Refused(refusal));
                ear.refused.store(true, Ordering::Release);
                // Somebody may have proved a newer password meanwhile, and found nobody to tell.
                if ear.login() == target.login { REFUSED } else { Duration::ZERO }
            }
        };
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
            () = ear.retry.notified() => {}
            () = drain => {}
        }
        ear.refused.store(false, Ordering::Relaxed);
    }
}

/// How a connection of the ear came to its end.
pub(super) enum End {
    /// It broke, or could not be made.
    Lost(Error),
    /// The user may not do this.
    Refused(Refusal, Error),
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;

    use super::super::{Means, Terms};
    use super::*;
    use crate::cache::Query;
    use crate::config::Node as Endpoint;
    use crate::metrics::Stats;
    use crate::resp::{Request, encode};
    use crate::upstream::Node;

    /// Nothing here waits, so the ear takes none up.
    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_too() {
        let node = Node::new(Endpoint::Tcp { host: "127.0.0.1".into(), port: 1 }, 1, Duration::from_secs(1));
        let second = Duration::from_secs(1);
        let terms = Terms {
            max_staleness: second,
            acl_recheck: second,
            max_value: 1,
            l1_size: 1 << 20,
            means: Means::Tracking,
            max_ears: 1,
        };
        let stats = Arc::new(Stats::default());
        let stop = CancellationToken::new();
        let l1 = L1::new(terms, Arc::new(node), None, None, stats, Handle::current(), stop);
        let ear = Arc::clone(l1.seat(b"").ear());
        let (mut raw, mut spans) = (Vec::new(), Vec::new());
        encode::command(&mut raw, &[b"HGET", b"h", &vec![b'f'; 1 << 19]]);
        let request = Request::parse_canonical(&raw, &mut spans).expect("just written");
        let identity = l1.identities.intern(b"", 0);
        let query = Query::new(&l1.stamps, identity, 0, request.arg(1), request.tail(1), request.tail(2));
        let fill = || Fill::new(request, &query, 0, None, 1);
        let taken = (0..INBOX).take_while(|_| ear.promote(&l1, fill()).is_ok()).count();
        assert_eq!(taken, HELD / raw.len());
    }
}
