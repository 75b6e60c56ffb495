//! L1: the memory, the ears that fill it, the opaque writes, what silences it; and what a write or an operator has to say to all of
//! them.
//!
//! Shared by all workers, which promote keys and ask for fences here from their own threads. It starts no task: `ear::task` begins
//! an ear when it is first asked to fill.
//!
//! Holds contract points 3 (own writes) and 5 (nothing old stays).

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::audit_record::AuditRecord;
use super::channel::ChannelListener;
use super::ear::Ear;
use super::ears::Ears;
use super::forget::Forget;
use super::mode::CoherenceMode;
use super::opaque::OpaqueWrites;
use super::publish::{Debt, Publisher};
use super::silence::{Pause, Silence};
use super::switch::ModeSwitch;
use super::terms::L1Terms;
use crate::cache::{Identity, Memory, OwnWrites, Query};
use crate::clock::Time;
use crate::command::{HashSlot, Spec, by_id};
use crate::config::L1Mode;
use crate::control::Control;
use crate::metrics::{CoherenceMeans, EpochReason, Stats};
use crate::resp::{Request, Span, encode};
use crate::upstream::Node;

/// The process's L1. Shared by all workers and ears.
pub(crate) struct L1 {
    /// What it keeps, and by what that is judged.
    pub memory: Memory,
    /// Who fills it.
    pub ears: Ears,
    /// What was configured.
    pub terms: L1Terms,
    /// The way to tell the fleet; none where the channel is switched off.
    pub fleet: Option<Publisher>,
    /// The opaque writes of all workers.
    pub opaque_writes: OpaqueWrites,
    /// When this process wrote what, where replicas are read.
    own_writes: OnceLock<OwnWrites>,
    pub(super) silence: Silence,
    pub(super) switch: ModeSwitch,
    pub(crate) stats: Arc<Stats>,
    /// What the audit of hits has found.
    pub(crate) audit: AuditRecord,
    /// Commands that may change rights, counted when they are sent and when they are answered.
    rights: AtomicU64,
    /// Held by who looks at every entry.
    looking: tokio::sync::Mutex<()>,
    pub(super) control: Control,
}

impl L1 {
    /// An empty L1 whose ears will be tasks of `control`.
    pub(crate) fn new(terms: L1Terms, fleet: Option<Publisher>, stats: Arc<Stats>, control: Control) -> Arc<Self> {
        let silence = Silence::default();
        let silence = if fleet.is_some() { silence.awaiting_channel() } else { silence };
        Arc::new(Self {
            memory: Memory::new(terms.l1_size, Arc::clone(&stats.evictions)),
            switch: ModeSwitch::new(terms.l1_size > 0),
            ears: Ears::new(control.clone()),
            terms,
            fleet,
            opaque_writes: OpaqueWrites::default(),
            own_writes: OnceLock::new(),
            silence,
            stats,
            audit: AuditRecord::default(),
            rights: AtomicU64::new(0),
            looking: tokio::sync::Mutex::default(),
            control,
        })
    }

    /// The bounds that are in force from now on: see [`L1Terms`].
    pub(crate) fn rebound(&self, max_staleness: Duration, max_value: u64) {
        self.terms.max_value.store(max_value, Ordering::Relaxed);
        let before = self.terms.max_staleness.get();
        self.terms.max_staleness.set(max_staleness); // before leases end: an ear that gives one looks at it once more
        if max_staleness < before {
            self.end_leases();
            if self.terms.is_cluster {
                self.bump(EpochReason::Settings); // that keys are missing was kept for as long as the longer one
            }
            self.nudge();
        }
    }

    /// It may take so many bytes from now on. Looks at every entry, so it does on a thread of its own, one call at a time.
    pub(crate) async fn resize(self: &Arc<Self>, bytes: u64) {
        let _one = self.looking.lock().await;
        if self.memory.store.limit() == bytes {
            return;
        }
        let l1 = Arc::clone(self);
        // An error: the process ends.
        _ = self.control.spawn_blocking(move || l1.memory.store.resize(bytes)).await;
    }

    /// Replicas are read: from now on it is noted when this process wrote what. To be called before anything is written.
    pub(crate) fn note_own_writes(&self) {
        self.own_writes.get_or_init(OwnWrites::default);
    }

    /// When it did, where that is noted.
    pub(crate) fn own_writes(&self) -> Option<&OwnWrites> {
        self.own_writes.get()
    }

    /// Whether anything may be kept at all.
    pub(crate) fn is_on(&self) -> bool {
        self.terms.l1_size > 0
    }

    /// Whether what it holds is an answer. All that a hit asks of the mode.
    #[inline]
    pub(crate) fn answers(&self) -> bool {
        self.switch.answers()
    }

    /// Whether anything is to be kept at present.
    pub(crate) fn keeps(&self) -> bool {
        self.switch.keeps()
    }

    /// What it does for reads.
    pub(crate) fn service(&self) -> L1Mode {
        self.switch.mode()
    }

    /// Does this for reads from now on: what is read after the call goes by it. Into and out of `pass` all begins anew: no lease is left,
    /// no entry counts and no flight is joined that were there before.
    pub(crate) fn switch_to(self: &Arc<Self>, mode: L1Mode) {
        let before = self.switch.set(mode);
        if before == mode || before != L1Mode::Pass && mode != L1Mode::Pass {
            return; // all went on as if it answered
        }
        self.any_key_changed(false);
        self.end_leases();
        self.bump(EpochReason::Mode);
        if mode == L1Mode::Pass {
            let l1 = Arc::clone(self);
            drop(self.control.spawn_blocking(move || l1.memory.store.clear()));
        } else {
            self.nudge(); // leases may begin again
        }
    }

    /// Another process serves the same clients, now or soon: a write that it acknowledges would be missed by what is answered out of
    /// memory here, for a moment. So nothing is any more, and no read joins another, until [`stand_alone`](Self::stand_alone). What is
    /// kept stays, and more may come.
    pub(crate) fn share(&self) {
        self.switch.hold(true);
        self.silence.share();
        self.end_leases();
    }

    /// The other process serves nobody any more. What is asked of Redis from now on shows all that it has acknowledged.
    pub(crate) fn stand_alone(&self) {
        self.silence.stand_alone(Time::now());
        self.end_leases();
        self.any_key_changed(false); // before any read may join another
        self.switch.hold(false);
        self.nudge();
    }

    /// Whether another process serves the same clients.
    pub(crate) fn is_shared(&self) -> bool {
        self.switch.is_held()
    }

    /// What was kept, or asked for, by settings of an older number counts no more, for it may stay for less than they said.
    pub(crate) fn begin_anew(&self, number: u64) {
        self.switch.go_by(number); // before the epoch changes, which what is under way meets first
        self.bump(EpochReason::Settings);
    }

    /// Gives up users whom nobody has been for a while. To be called now and then.
    pub(crate) fn reclaim(&self, now: Time) {
        self.ears.reclaim(now, |name| self.memory.identities.forget(name));
    }

    /// By what means it hears of changes.
    pub(crate) fn mode(&self) -> &CoherenceMode {
        &self.terms.mode
    }

    /// Whether writes go as they are: they do not tell of themselves, and nothing lies beyond the upstream for any key.
    #[inline]
    pub(crate) fn writes_go_alone(&self) -> bool {
        self.mode().writes_go_alone()
    }

    /// The upstream allows this: by these means changes are heard of from now on, and nothing counts that was kept by others. To be
    /// called before anything is written to the server that was asked.
    pub(crate) fn choose(&self, means: CoherenceMeans) {
        if !self.mode().choose(means) {
            return;
        }
        self.end_leases();
        self.bump(EpochReason::Coherence);
        self.ears.each(|ear| ear.try_again());
    }

    /// A write may have been done of which nobody tells: the fleet is to forget everything, and here it is forgotten at once.
    /// Who can wait for the debt should, before its client knows of the write.
    pub(crate) fn owe_all(&self) -> Option<Debt> {
        self.forget_all(EpochReason::Untold);
        self.fleet.as_ref().map(Publisher::owe)
    }

    /// What is in L1 of any of `keys`, each given as an argument with its header. Looks at every entry there is, so it does
    /// on a thread of its own, one call at a time.
    /// `at` says which node serves the key of a request.
    pub(crate) async fn kept(self: &Arc<Self>, keys: Vec<Vec<u8>>, at: impl Fn(Request<'_>) -> Arc<Node>) -> Vec<Kept> {
        let _one = self.looking.lock().await;
        let (found, answer) = oneshot::channel();
        let l1 = Arc::clone(self);
        let look = move || {
            let of_these = |tail: &[u8]| keys.iter().any(|key| tail.starts_with(key));
            drop(found.send(l1.memory.store.find(of_these)));
        };
        let thread = thread::Builder::new().name("look".into()).spawn(look);
        let found = if thread.is_ok() { answer.await.unwrap_or_default() } else { Vec::new() };
        let known = |(identity, command, tail): (Identity, u16, Box<[u8]>)| {
            let (user, db) = self.memory.identities.of(identity)?;
            let request = whole_request(by_id(command), &tail);
            let mut spans: Vec<Span> = Vec::new();
            let node = at(Request::parse_canonical(&request, &mut spans)?);
            let ear = self.ears.of(&user, &node)?;
            Some(Kept { ear, db, identity, command, request })
        };
        found.into_iter().filter_map(known).collect()
    }

    /// What is read most out of memory as this user: in which database, by what request. So many, and so many bytes, at most. Looks at
    /// every entry, so not where sessions wait.
    pub(crate) fn hottest(&self, user: &[u8], most: usize, bytes: usize) -> Vec<(u32, Vec<u8>)> {
        let databases: RefCell<HashMap<Identity, Option<u32>>> = RefCell::default();
        let database = |identity| {
            let find = || self.memory.identities.of(identity).filter(|(name, _)| **name == *user).map(|(_, db)| db);
            *databases.borrow_mut().entry(identity).or_insert_with(find)
        };
        let found = self.memory.store.hottest(|identity| database(identity).is_some(), (most, bytes));
        let request = |(identity, command, tail): (Identity, u16, Box<[u8]>)| {
            Some((database(identity)?, whole_request(by_id(command), &tail)))
        };
        found.into_iter().filter_map(request).collect()
    }

    /// Opaque writes answered so far.
    pub(crate) fn opaque(&self) -> u64 {
        self.opaque_writes.answered()
    }

    /// An opaque write has been answered: no flight that left before is joined any more.
    pub(crate) fn opaque_answered(&self) {
        // Where writes tell of themselves, nobody tells an ear which keys this one has changed.
        self.any_key_changed(!self.mode().writes_tell());
    }

    /// The same, or something that is like an opaque write; whether ears are `told` key by key what it has changed.
    fn any_key_changed(&self, told: bool) {
        let now = Time::now();
        self.opaque_writes.count();
        self.memory.store.watermarks().all_may_have_changed(told.then_some(now));
        if let Some(own) = self.own_writes() {
            own.note_all(now);
        }
    }

    /// Whether an opaque write at this node has to be followed by a [`fence`](Self::fence): some ear there was asked to fill.
    pub(crate) fn must_fence(&self, node: &Arc<Node>) -> bool {
        self.ears.have_filled_at(node)
    }

    /// Returns once everything that the node had acknowledged before the call is applied to L1: after a fence on every ear there that
    /// ever filled. An ear whose fence is not back when its lease ends has its epoch bumped instead, so this takes
    /// `max_staleness` at the longest. Cancel safe: a fence asked for stays harmless.
    pub(crate) async fn fence(&self, node: &Arc<Node>) {
        let ears = self.ears.that_have_filled_at(node);
        let since = Time::now();
        let asked: Vec<_> = ears.iter().map(|ear| (ear, ear.fence(since))).collect();
        for (ear, fence) in asked {
            let lease = ear.freshness.lease_left(Time::now());
            let left = if self.silence.is_swapping() { self.terms.max_staleness.get() } else { lease };
            if !matches!(timeout(left, fence).await, Ok(Ok(()))) {
                ear.freshness.bump();
                self.stats.epoch(EpochReason::FenceLate);
            }
        }
    }

    /// Something has happened of which Redis tells nobody ([`Change`](super::Change)). No entry filled so far counts any more,
    /// and no flight that left before is joined: it may read in a database that has another name by now.
    pub(super) fn forget_all(&self, reason: EpochReason) {
        if reason == EpochReason::Rights {
            self.rights.fetch_add(1, Ordering::AcqRel);
            if let Some(own) = self.own_writes() {
                own.note_rights(Time::now());
            }
        }
        self.any_key_changed(false);
        self.bump(reason);
        if reason == EpochReason::Rights {
            // Users that were refused what an ear needs may now have it.
            self.ears.each(|ear| ear.try_again());
        }
    }

    /// Another server has taken the upstream's place, or several have: nothing counts that was read from the last.
    pub(crate) fn turn(&self) {
        self.any_key_changed(false);
        self.end_leases();
        self.bump(EpochReason::Turn);
    }

    /// Changes whenever rights may have changed through this process.
    pub(crate) fn rights_version(&self) -> u64 {
        self.rights.load(Ordering::Acquire)
    }

    /// `CLIENT PAUSE` until then is being sent: leases end, and none begins before the pause is over.
    pub(super) fn pause(&self, until: Time) -> Pause {
        let pause = self.silence.pause(until);
        self.end_leases();
        pause
    }

    /// Whether a `CLIENT PAUSE` is in force as far as this process knows.
    pub(crate) fn is_paused(&self, now: Time) -> bool {
        self.silence.is_paused(now)
    }

    /// No ear vouches for anything until its next fence is back.
    pub(super) fn end_leases(&self) {
        self.ears.end_leases();
    }

    /// Another may own the keys of this node: none of its ears vouches for anything until its next fence is back.
    pub(crate) fn end_leases_at(&self, node: &Arc<Node>) {
        self.ears.end_leases_at(node);
    }

    /// A slot has left the node that served it, or one that moves is about to: nothing counts that was read of its keys before.
    pub(crate) fn slot_left(&self, slot: HashSlot) {
        if self.memory.store.slots().bump(slot) {
            self.bump(EpochReason::Slot); // its numbers begin anew
        }
        self.stats.slots_left.add(1);
    }

    /// Has every ear that has filled ask Redis at once whether it hears.
    pub(super) fn nudge(&self) {
        self.ears.nudge();
    }

    /// Whether L1 would answer `query` for a session of this ear's user.
    pub(crate) fn holds(&self, query: &Query<'_>, ear: &Ear, now: Time) -> bool {
        self.memory.holds(query, &ear.freshness, now)
    }

    fn bump(&self, reason: EpochReason) {
        self.ears.bump();
        self.stats.epoch(reason);
    }
}

/// A reply that L1 keeps, by what it answers.
pub(crate) struct Kept {
    /// On which it is read.
    pub ear: Arc<Ear>,
    /// The database.
    pub db: u32,
    /// User and database.
    pub identity: Identity,
    /// The row's number.
    pub command: u16,
    /// The whole request.
    pub request: Vec<u8>,
}

/// The request whose arguments are `tail`.
fn whole_request(spec: &Spec, tail: &[u8]) -> Vec<u8> {
    let mut request = Vec::with_capacity(tail.len() + 32);
    encode::with_arguments(&mut request, spec.name.as_bytes(), tail);
    request
}

/// What the fleet's channel says makes L1 forget, never remember.
impl Forget for L1 {
    fn key(&self, key: &[u8]) {
        self.memory.forget(key);
    }

    fn pattern(&self, _: &[u8]) {
        self.bump(EpochReason::Pattern);
    }

    fn all(&self) {
        self.bump(EpochReason::Pattern);
    }

    fn missed(&self) {
        self.bump(EpochReason::Stream);
    }
}

impl ChannelListener for L1 {
    fn subscribed(&self, asked: Time) {
        self.any_key_changed(false);
        self.bump(EpochReason::Channel);
        self.answered(asked);
    }

    fn answered(&self, sent: Time) {
        let before = self.silence.hear_channel(sent);
        if self.silence.relies_on_channel() && before.plus(self.terms.max_staleness.get()) <= Time::now() {
            self.nudge(); // leases may begin again
        }
    }

    fn refused(&self) {
        let before = self.silence.give_up_channel();
        if before > Time::ZERO && before < Time::NEVER {
            self.any_key_changed(false);
            self.bump(EpochReason::Channel); // what was said since it was last heard nobody has told
        }
        if self.silence.relies_on_channel() {
            self.nudge();
        }
    }

    fn bound(&self) -> Option<Duration> {
        self.silence.relies_on_channel().then(|| self.terms.max_staleness.get())
    }

    fn bound_begins(&self) -> &Notify {
        self.silence.reliance()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::LiveSpan;

    fn l1(mode: CoherenceMode) -> Arc<L1> {
        let second = Duration::from_secs(1);
        let (max_staleness, acl_recheck) = (second, second);
        let terms = L1Terms {
            max_staleness: Arc::new(LiveSpan::new(max_staleness)),
            acl_recheck,
            max_value: 1.into(),
            l1_size: 0,
            mode,
            is_cluster: false,
            max_ears: 1,
            beyond: None,
        };
        L1::new(terms, None, Arc::new(Stats::default()), Control::here())
    }

    #[tokio::test]
    async fn a_swap_of_databases_ends_the_joining_of_flights() {
        let l1 = l1(CoherenceMode::tracking());
        let before = l1.opaque();
        l1.forget_all(EpochReason::SwapDb);
        assert_ne!(l1.opaque(), before, "what left before reads in a database that has another name now");
    }

    #[tokio::test]
    async fn a_channel_that_was_heard_and_may_be_heard_no_more_has_been_missed() {
        let l1 = l1(CoherenceMode::tracking());
        let epochs = || l1.stats.epochs(EpochReason::Channel);
        l1.refused();
        assert_eq!(epochs(), 0, "it never said anything");
        l1.subscribed(Time::from_nanos(7));
        assert_eq!(epochs(), 1);
        l1.refused();
        assert_eq!(epochs(), 2);
        l1.refused();
        assert_eq!(epochs(), 2, "nothing was heard since");
    }
}
