//! A user's ear as workers and operators see it: where fills and fences are asked for, and what the ear tells everybody.
//!
//! Waits for nothing. `task` takes what was asked for and does it.

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::super::user::NewestLogin;
use super::audits::Audit;
use super::awaited::AwaitedChange;
use super::fences::FenceTimes;
use super::fill::{Backlog, Fill};
use super::group::EarGroup;
use super::rights::Rights;
use crate::cache::Freshness;
use crate::clock::Time;
use crate::command::Caching;
use crate::metrics::{DropReason, Refusal};
use crate::upstream::Node;

/// Fills that may wait for the ear; more are dropped and counted.
const INBOX: usize = 4096;
/// Bytes of requests that fills may hold, waiting or under way; what is beyond is dropped likewise.
const HELD: usize = 16 << 20;
/// Hits that may wait to be read again; more are left out, and so is what would have them hold more bytes.
const AUDITS: usize = 2048;
const AUDITED: usize = 8 << 20;
/// Fences that may be asked for and not yet sent: each worker asks for one at a time.
const FENCES: usize = 1024;
/// Changes that may be awaited and not yet asked after: one for each key that this process wants and another loads. What is more is not
/// told.
const CHANGES: usize = 1024;

/// A user's ear at one node, as the workers see it.
pub(crate) struct Ear {
    /// Where it listens, with others.
    pub(in super::super) group: Arc<EarGroup>,
    /// The epoch and the lease that every hit of the user checks.
    pub freshness: Freshness,
    pub(super) fence_times: FenceTimes,
    filled: AtomicBool,
    /// Whether the server gives hash fields times to live, as far as it was asked.
    field_ttls: AtomicBool,
    pub(super) reconnects: AtomicU64,
    /// With what it connects.
    pub(in super::super) login: Arc<NewestLogin>,
    pub(super) rights: Rights,
    state: Mutex<EarState>,
    pub(super) refused: AtomicBool,
    pub(super) retry: Notify,
    /// Its connection is to log in anew.
    pub(in super::super) log_in: Notify,
    pub(super) stop: CancellationToken,
    fills: mpsc::Sender<Fill>,
    backlog: Arc<Backlog>,
    audits: mpsc::Sender<Audit>,
    audited: Arc<Backlog>,
    fences: mpsc::Sender<Fence>,
    changes: mpsc::Sender<ChangeWait>,
    inbox: Mutex<Option<Inbox>>,
}

/// What an ear is doing, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EarState {
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

/// Somebody waits for a change.
pub(super) type ChangeWait = (AwaitedChange, oneshot::Sender<()>);

/// There are as many ears as there may be.
#[derive(Debug)]
pub(super) struct NoEar;

/// What workers have asked of the ear.
pub(super) struct Inbox {
    pub(super) work: WorkInbox,
    pub(super) waits: WaitInbox,
}

/// What is to be read, for which nobody waits.
pub(super) struct WorkInbox {
    fills: mpsc::Receiver<Fill>,
    audits: mpsc::Receiver<Audit>,
}

/// The next of that.
pub(super) enum EarWork {
    Fill(Fill),
    Audit(Audit),
}

impl WorkInbox {
    /// Of those kinds that may be taken up. Cancel safe.
    pub(super) async fn next(&mut self, fills: bool, audits: bool) -> EarWork {
        tokio::select! {
            Some(fill) = self.fills.recv(), if fills => EarWork::Fill(fill),
            Some(audit) = self.audits.recv(), if audits => EarWork::Audit(audit),
            else => pending().await,
        }
    }

    /// The other fills that wait.
    pub(super) fn fills(&mut self) -> impl Iterator<Item = Fill> + use<'_> {
        std::iter::from_fn(|| self.fills.try_recv().ok())
    }

    /// The other audits that wait.
    pub(super) fn audits(&mut self) -> impl Iterator<Item = Audit> + use<'_> {
        std::iter::from_fn(|| self.audits.try_recv().ok())
    }
}

/// What somebody waits for.
pub(super) struct WaitInbox {
    fences: mpsc::Receiver<Fence>,
    changes: mpsc::Receiver<ChangeWait>,
}

/// The next of that.
pub(super) enum EarWait {
    Fence(Fence),
    Change(ChangeWait),
}

impl WaitInbox {
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> EarWait {
        tokio::select! {
            Some(fence) = self.fences.recv() => EarWait::Fence(fence),
            Some(change) = self.changes.recv() => EarWait::Change(change),
            else => pending().await,
        }
    }
}

impl Ear {
    pub(in super::super) fn new(group: Arc<EarGroup>, login: Arc<NewestLogin>, stop: CancellationToken) -> Arc<Self> {
        let (fills, fill_inbox) = mpsc::channel(INBOX);
        let (audits, audit_inbox) = mpsc::channel(AUDITS);
        let (fences, fence_inbox) = mpsc::channel(FENCES);
        let (changes, change_inbox) = mpsc::channel(CHANGES);
        let waits = WaitInbox { fences: fence_inbox, changes: change_inbox };
        let inbox = Inbox { work: WorkInbox { fills: fill_inbox, audits: audit_inbox }, waits };
        Arc::new(Self {
            group,
            freshness: Freshness::new(),
            fence_times: FenceTimes::default(),
            filled: AtomicBool::new(false),
            field_ttls: AtomicBool::new(false),
            reconnects: AtomicU64::new(0),
            login,
            rights: Rights::default(),
            state: Mutex::new(EarState::Idle),
            refused: AtomicBool::new(false),
            retry: Notify::new(),
            log_in: Notify::new(),
            stop,
            fills,
            backlog: Backlog::new(HELD),
            audits,
            audited: Backlog::new(AUDITED),
            fences,
            changes,
            inbox: Mutex::new(Some(inbox)),
        })
    }

    /// The node on which it reads, and of whose changes it hears.
    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.group.node
    }

    /// What the ear is doing.
    pub(crate) fn state(&self) -> EarState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often the ear had to connect anew.
    pub(crate) fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// The user's login was proved, and `is_new` or is the one that was known: a user that Redis refused may be accepted by now.
    pub(in super::super) fn note_login(&self, is_new: bool) {
        // A right that the user lacks comes with no login.
        let news = is_new || self.state() == EarState::Refused(Refusal::Login);
        if self.refused.load(Ordering::Acquire) && news {
            self.try_again();
        }
    }

    /// Rights may have changed: a user that was refused is tried again at once.
    pub(in super::super) fn try_again(&self) {
        self.retry.notify_one();
    }

    /// Nobody is this user any more: the ear ends, and with it everything that it filled.
    pub(in super::super) fn end(&self) {
        self.freshness.end();
        self.freshness.bump();
        self.stop.cancel();
    }

    /// Whether it was ever asked to fill: before, L1 holds nothing of its user's.
    pub(crate) fn has_filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// Resolves after a reply to something sent at `since` or later; fails when the ear is lost meanwhile.
    pub(crate) fn fence(&self, since: Time) -> oneshot::Receiver<()> {
        let (told, fence) = oneshot::channel();
        let _ = self.fences.try_send((since, told)); // without an ear the sender is dropped, which is an answer
        fence
    }

    /// How long a fence takes.
    pub(crate) fn fence_time(&self, now: Time) -> Duration {
        self.fence_times.expected(now)
    }

    /// Up to when L1 knows of every change, as far as the user's sessions are concerned: for ever where it holds nothing.
    pub(crate) fn heard_up_to(&self) -> Time {
        if self.has_filled() { self.freshness.heard_up_to() } else { Time::NEVER }
    }

    /// Asks for a fence that nobody waits for, unless one is asked for already.
    pub(crate) fn nudge(&self) {
        if self.has_filled() && self.fence_times.nudge() {
            drop(self.fence(Time::now()));
        }
    }

    /// Has the ear fill, which must have been begun. Never waits; the error is why the promotion was dropped.
    pub(super) fn fill(&self, mut fill: Fill) -> Result<(), DropReason> {
        if fill.spec().cache == Caching::WholeHash && self.field_ttls.load(Ordering::Relaxed) {
            return Err(DropReason::FieldTtls);
        }
        if !fill.take_share(&self.backlog) {
            return Err(DropReason::EarBehind);
        }
        self.fills.try_send(fill).map_err(|_| DropReason::EarBehind)
    }

    /// Has a hit read again. Never waits; false where there is no room.
    pub(crate) fn audit(&self, mut audit: Audit) -> bool {
        audit.take_share(&self.audited) && self.audits.try_send(audit).is_ok()
    }

    /// Whether there are fills that it has not done with.
    pub(in super::super) fn is_filling(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Has `waiter` told of a change, if the ear, which must have been begun, comes to hear of it; dropped, it will not.
    pub(super) fn await_change(&self, change: AwaitedChange, waiter: oneshot::Sender<()>) {
        drop(self.changes.try_send((change, waiter)));
    }

    /// Whether Redis refuses this user what an ear needs, as far as is known.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Takes what was asked of the ear, for whoever begins to listen: once, and only where `may` says so.
    pub(super) fn begin(&self, may: impl FnOnce() -> bool) -> Result<Option<Inbox>, NoEar> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.is_some() && !may() {
            return Err(NoEar);
        }
        self.filled.store(true, Ordering::Release);
        Ok(inbox.take())
    }

    /// Whether the server gives hash fields times to live.
    pub(super) fn set_field_ttls(&self, known: bool) {
        self.field_ttls.store(known, Ordering::Relaxed);
    }

    pub(super) fn set_state(&self, state: EarState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::cache::{Identities, Query, Stamps};
    use crate::config::Endpoint;
    use crate::resp::{Request, encode};

    fn ear() -> Arc<Ear> {
        let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port: 1 };
        let group = Arc::new(EarGroup::new(Arc::new(Node::new(endpoint, 1, Duration::from_secs(1)))));
        Ear::new(group, Arc::default(), CancellationToken::new())
    }

    fn fill_of(bytes: usize) -> Fill {
        let (mut raw, mut spans) = (Vec::new(), Vec::new());
        encode::command(&mut raw, &[b"HGET", b"h", &vec![b'f'; bytes]]);
        let request = Request::parse_canonical(&raw, &mut spans).expect("just written");
        let (stamps, identity) = (Stamps::for_l1(0), Identities::default().intern(b"", 0));
        let query = Query::new(&stamps, identity, 0, request.arg(1), request.tail(1), request.tail(2));
        Fill::new(request, &query, 0, None, 1)
    }

    /// Nothing here listens, so the ear takes none up.
    #[test]
    fn what_waits_is_bounded_in_number_and_in_bytes() {
        let (many, large) = (ear(), ear());
        assert_eq!((0..INBOX + 9).filter(|_| many.fill(fill_of(1)).is_ok()).count(), INBOX);
        let taken = (0..INBOX).take_while(|_| large.fill(fill_of(1 << 19)).is_ok()).count();
        assert_eq!(taken, HELD / ((1 << 19) + 38));
    }

    #[test]
    fn an_ear_begins_once_and_only_if_it_may() {
        let ear = ear();
        assert!(ear.begin(|| false).is_err());
        assert!(!ear.has_filled());
        assert!(matches!(ear.begin(|| true), Ok(Some(_))));
        assert!(ear.has_filled());
        assert!(matches!(ear.begin(|| panic!("it has begun")), Ok(None)));
    }

    #[test]
    fn an_ear_that_has_filled_nothing_knows_all() {
        let ear = ear();
        assert_eq!(ear.heard_up_to(), Time::NEVER);
        drop(ear.begin(|| true));
        assert_eq!(ear.heard_up_to(), Time::ZERO);
    }

    #[test]
    fn a_newly_proved_login_has_a_refused_ear_try_again_and_a_known_one_does_not() {
        let ear = ear();
        let tries = |ear: &Ear| {
            let mut told = pin!(ear.retry.notified());
            told.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        ear.refused.store(true, Ordering::Release);
        ear.set_state(EarState::Refused(Refusal::Pttl));
        ear.note_login(false);
        assert!(!tries(&ear), "a right that the user lacks comes with no login");
        ear.note_login(true);
        assert!(tries(&ear));
        ear.set_state(EarState::Refused(Refusal::Login));
        ear.note_login(false);
        assert!(tries(&ear), "it may be accepted by now");
    }
}
