//! The ear's protocol on one connection, without I/O: what is sent, and what is made of each frame that comes.
//!
//! Bytes, fills, fences and time go in. Out come bytes ([`Protocol::take_unsent`]), what whoever runs it has to do
//! ([`EarEffect`]), when it wants to be woken ([`Protocol::deadline`]), and at last why it ended ([`Disconnection`]). Stamps,
//! entries, lease and epoch are memory that workers share, so they are changed in the very order of the frames; that order is
//! what coherence rests on: a push that is heard before a reply happened before it (points 3 to 6 of docs/contract.md). It opens no
//! socket, starts no task and looks at no clock. Run by `task`, and by a simulation under `tests/`.
//!
//! A long file: what is sent, what is awaited and what each reply means are one protocol. Its part of the audit is `audit`.

mod audit;

use std::time::Duration;

use tracing::{info, warn};

use super::super::forget::{Forget, Heard, obey};
use super::super::message::Envelope;
use super::super::opaque::OpaqueWrites;
use super::super::silence::{ChannelReliance, Silence};
use super::super::switch::ModeSwitch;
use super::super::terms::L1Terms;
use super::audits::{Audit, Audits};
use super::awaited::{AwaitedChange, AwaitedChanges, is_unchanged};
use super::dialogue::{Dialogue, EarQuestion, FillStep};
use super::faults::{FaultPlan, NoFaults, PlantedFault};
use super::features::ServerFeatures;
use super::fences::{FenceTimes, Fences};
use super::fill::{Entering, Fill, FillWindow, Landing, PendingFill};
use super::frames::{Frames, fields};
use super::push::{self, Push};
use super::rights::{Rights, RightsPoll};
use super::touch::{HitKeys, TouchBatch, TouchStep, Touches};
use super::unannounced::{Probe, ProbeFinding, Unannounced};
use crate::beyond::NEGATIVE;
use crate::cache::{Arrivals, EntryEpoch, Freshness, Slot, SlotStamp, Stamps, Store};
use crate::clock::Time;
use crate::command::{Caching, HashSlot};
use crate::error::{is_forbidden, is_passing};
use crate::metrics::{CoherenceMeans, EpochReason, FillOutcome, Need, Refusal, Stats};
use crate::resp::{Malformed, text_of};
use crate::upstream::{Generation, Login, STALL, Vouched, moved_slot};

/// After taking fills up the ear takes no more for so long: they are in no hurry, and one by one each would cost a worker a
/// wake-up of this thread, and Redis a read and a write.
const REST: Duration = Duration::from_millis(1);
/// The same after taking up fewer than [`FEW`] where L1 is full: what comes in displaces about as much, and loses little by
/// coming later.
const LONG_REST: Duration = Duration::from_millis(4);
const FEW: usize = 32;
/// What Redis says of a string that is not there.
const NULL: &[u8] = b"_\r\n";
/// With nothing in L1 the ear is asked this seldom whether it still hears.
const IDLE: Duration = Duration::from_secs(5);

/// What an ear shares with workers and with other ears: memory, in which nothing waits.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// What was configured.
    pub terms: &'a L1Terms,
    /// The stamps of all keys.
    pub stamps: &'a Stamps,
    /// The entries.
    pub store: &'a Store,
    /// Whether anything is kept, and by which settings.
    pub switch: &'a ModeSwitch,
    /// When entries came in.
    pub arrivals: &'a Arrivals,
    /// The opaque writes of all workers.
    pub opaque_writes: &'a OpaqueWrites,
    /// What keeps leases from beginning.
    pub silence: &'a Silence,
    /// Which server stands behind the address.
    pub generation: &'a Generation,
    /// Who vouches that it is still the owner of its keys.
    pub vouched: &'a Vouched,
    /// What is counted.
    pub stats: &'a Stats,
    /// The lease and the epoch of this ear.
    pub freshness: &'a Freshness,
    /// How long its fences take.
    pub fence_times: &'a FenceTimes,
    /// What its user may do.
    pub rights: &'a Rights,
    /// A server that is silent on all connections may have been told to pause: it is waited for so long.
    pub patience: Duration,
}

/// What whoever runs the protocol has to do. `W` is whatever waits for a fence, or for a change.
#[derive(Debug)]
pub enum EarEffect<W> {
    /// Everything that Redis had said before is applied: this waits no more.
    Fenced(W),
    /// What it awaits has changed, or may have.
    Changed(W),
    /// Whether the server gives hash fields times to live.
    FieldTtls(bool),
    /// These keys are to be collected, and then given to [`Protocol::collected`].
    Collect(HitKeys),
    /// The user may not ask after its own rights: somebody else is to.
    AskSteward,
    /// Something was filled for a user after whose rights somebody else asks.
    RightsDue,
    /// A slot has left the node, as a fill was answered.
    SlotLeft(HashSlot),
    /// The server is no master: the address may lead elsewhere by now.
    Doubt,
    /// The user is refused this, as Redis said, and the ear goes without.
    Without(Need, Box<[u8]>),
    /// Memory has answered this, which Redis does not say, and nothing has told of a change.
    Violation(Box<Audit>),
}

/// How a connection of the ear came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disconnection {
    /// What came cannot be understood, or nothing asked for it.
    Broken(String),
    /// Another server stands behind the address.
    Turned,
    /// Changes are heard of by other means now than this connection was made for.
    Rechosen,
    /// No answer to a fence for so long.
    Silent(Duration),
    /// The user may not do this, as Redis said.
    Refused(Refusal, Box<[u8]>),
}

impl From<Malformed> for Disconnection {
    fn from(malformed: Malformed) -> Self {
        Self::Broken(malformed.to_string())
    }
}

/// One connection of the ear. See the module's head.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
pub struct Protocol<'a, W, P = NoFaults> {
    around: Surroundings<'a>,
    user: Vec<u8>,
    /// Of the server that it listens to.
    generation: u64,
    /// By what means changes are heard of on this connection.
    means: CoherenceMeans,
    frames: Frames,
    dialogue: Dialogue,
    fences: Fences<W>,
    awaited: AwaitedChanges<W>,
    window: FillWindow,
    audits: Audits,
    rights: RightsPoll,
    /// What the server can do. Nothing is filled before it is known.
    features: Option<ServerFeatures>,
    touches: Touches,
    unannounced: Unannounced,
    /// That only the fleet's channel tells of swaps, where the server does not count them.
    channel: Option<ChannelReliance<'a>>,
    /// When something came last.
    heard: Time,
    /// When it looks after what is due.
    next_round: Time,
    /// Whether it is certain that changes will be told of.
    is_told: bool,
    not_master: bool,
    /// A lease was in force when it was last looked at.
    leased: bool,
    /// Whether the last fence was answered in a turn of Redis's event loop of its own; only broadcast mode asks.
    in_turn: bool,
    effects: Vec<EarEffect<W>>,
    faults: P,
}

impl<'a, W> Protocol<'a, W> {
    /// Of a connection that `user` has just made to a server of this generation. Nothing counts that was filled before.
    pub fn new(around: Surroundings<'a>, user: &[u8], generation: u64, now: Time) -> Self {
        Self::with_faults(NoFaults, around, user, generation, now)
    }
}

impl<'a, W, P: FaultPlan> Protocol<'a, W, P> {
    /// The same with faults, for tests.
    pub fn with_faults(faults: P, around: Surroundings<'a>, user: &[u8], generation: u64, now: Time) -> Self {
        if !faults.has(PlantedFault::EpochOutlivesConnection) {
            around.freshness.bump();
        }
        around.rights.start();
        let (max_value, most) = around.terms.mode.ear_limits(around.terms.max_value());
        let mut protocol = Self {
            around,
            user: user.to_vec(),
            generation,
            means: around.terms.mode.means(),
            frames: Frames::new(max_value),
            dialogue: Dialogue::new(),
            fences: Fences::new(),
            awaited: AwaitedChanges::new(),
            window: FillWindow::new(most),
            audits: Audits::default(),
            rights: RightsPoll::new(now),
            features: None,
            touches: Touches::new(now),
            unannounced: Unannounced::default(),
            channel: None,
            heard: now,
            next_round: now.plus(around.terms.round()),
            is_told: false,
            not_master: false,
            leased: false,
            in_turn: true,
            effects: Vec::new(),
            faults,
        };
        protocol.ask_to_be_told(now);
        protocol.dialogue.ask(&[b"CLIENT", b"NO-EVICT", b"ON"], EarQuestion::NoEvict, now);
        protocol.ask_rights(now);
        protocol.dialogue.ask(&ServerFeatures::question(), EarQuestion::Features, now);
        protocol.send_fence(now);
        protocol
    }

    /// Moves the bytes that are to be sent to the end of `out`.
    pub fn take_unsent(&mut self, out: &mut Vec<u8>) {
        self.dialogue.take_unsent(out);
    }

    /// What is to be done, in the order in which it came up.
    pub fn effects(&mut self) -> impl Iterator<Item = EarEffect<W>> + use<'_, 'a, W, P> {
        self.effects.drain(..)
    }

    /// When [`wake`](Self::wake) is to be called at the latest. It changes with every call.
    pub fn deadline(&self) -> Time {
        self.next_round.min(self.window.wakes()).min(self.audits.wakes())
    }

    /// Whether it is certain that changes are told of: the connection has been of use.
    pub fn is_told(&self) -> bool {
        self.is_told
    }

    /// Whether a fill may be asked for now.
    pub fn takes_fills(&self) -> bool {
        self.features.is_some() && self.window.is_open()
    }

    /// These bytes have arrived by `now`, behind what the last call has left in `input`.
    pub fn receive(&mut self, input: &mut Vec<u8>, now: Time) -> Result<(), Disconnection> {
        self.heard = now;
        self.check_generation()?;
        let mut frames = std::mem::take(&mut self.frames);
        let heard = frames.drain(input, |frame, whole| self.hear(frame, whole, now));
        self.frames = frames;
        heard
    }

    /// Asks for as many of these as may be under way, and rests.
    pub fn fill(&mut self, mut fills: impl Iterator<Item = Fill>, now: Time) {
        let mut taken = 0;
        while self.takes_fills()
            && let Some(fill) = fills.next()
        {
            taken += 1;
            self.ask_fill(fill, now);
        }
        self.follow_fills(now);
        let long = taken < FEW && self.around.store.is_full();
        self.window.rest(now.plus(if long { LONG_REST } else { REST }));
    }

    /// `waiter` waits for the answer to something that was sent at `since` or later.
    pub fn fence(&mut self, since: Time, waiter: W, now: Time) {
        self.fences.wait(since, waiter);
        if self.fences.is_wanted() {
            self.send_fence(now);
        }
    }

    /// `waiter` waits for a change. Dropped, nobody will tell of it.
    pub fn await_change(&mut self, change: &AwaitedChange, waiter: W, now: Time) {
        let tells = self.means != CoherenceMeans::Channel && self.around.terms.mode.covers(&change.token);
        if !tells || self.not_master {
            return; // a load's own steps are no writes that tell of themselves
        }
        let slot = change.slot(self.around.stamps);
        let number = self.awaited.wait(slot, change.until, waiter);
        self.dialogue.select(change.db, now);
        self.dialogue.ask(&change.question(), EarQuestion::Presence(slot, number), now);
    }

    /// The password of its user has changed to this, which a connection was made with: some servers want it of open ones. From
    /// 7.2 on Redis gives no answer to one that it refuses while it has another to send, and so an `ECHO` of `nonce` is behind it.
    pub(crate) fn log_in(&mut self, login: &Login, nonce: u64, now: Time) {
        self.dialogue.ask(&[b"AUTH", &login.user, &login.password], EarQuestion::Login, now);
        self.dialogue.ask(&[b"ECHO", format!("{nonce:016x}").as_bytes()], EarQuestion::Step(nonce), now);
    }

    /// What was hit is collected.
    pub fn collected(&mut self, batches: Vec<TouchBatch>, now: Time) {
        self.touches.collected(batches, now);
    }

    /// It is `now`. `pulse` is when the server last said something on any connection.
    pub fn wake(&mut self, now: Time, pulse: Time) -> Result<(), Disconnection> {
        self.window.wake(now);
        self.audits.wake(now);
        if now < self.next_round {
            return Ok(());
        }
        self.next_round = now.plus(self.around.terms.round());
        self.look_at_lease(now);
        self.awaited.sweep(now);
        self.check_generation()?;
        let terms = self.around.terms;
        self.frames.limit(terms.mode.ear_limits(terms.max_value()).0);
        if let Some(sent) = self.fences.sent() {
            let silence = (terms.max_staleness.get() * 4).max(Duration::from_secs(2));
            // Who is silent everywhere may have been told to pause: it is not deaf here.
            let speaks = pulse.saturating_since(sent) > STALL;
            let silence = if speaks { silence } else { silence.max(self.around.patience) };
            if now.saturating_since(sent) > silence {
                return Err(Disconnection::Silent(silence));
            }
        } else if !self.around.store.is_empty() || now.saturating_since(self.heard) > IDLE {
            self.send_fence(now);
        }
        if self.rights.is_older(terms.acl_recheck / 2, now) {
            self.ask_rights(now);
        }
        self.touch(now);
        Ok(())
    }

    /// The connection is lost, or given up: what happens from now on nobody hears.
    pub fn disconnect(mut self, now: Time) {
        self.give_up_audits();
        self.around.freshness.end();
        self.look_at_lease(now);
        if !self.faults.has(PlantedFault::EpochOutlivesConnection) {
            self.bump(EpochReason::EarLost);
        }
    }

    /// One whole frame, in the order in which Redis sent it. `whole` is false where it was too large to be kept.
    fn hear(&mut self, frame: &[u8], whole: bool, now: Time) -> Result<(), Disconnection> {
        if frame.first() == Some(&b'>') {
            let push = if whole { push::read(frame) } else { Push::Unreadable };
            if push != Push::Subscribed {
                self.hear_push(push);
                return Ok(());
            }
        }
        let Some((sent, inquiry)) = self.dialogue.answered() else {
            return Err(Disconnection::Broken("a reply that nothing asked for: desynchronised".into()));
        };
        let is_turn = matches!(inquiry, EarQuestion::Turn);
        self.hear_reply(inquiry, (frame, whole), sent, now)?;
        // In broadcast mode most replies show nothing of what was to be told before.
        if !self.asks_for_turns() || is_turn && self.in_turn {
            let sent = if self.faults.has(PlantedFault::HeardAtAnswer) { now } else { sent };
            self.around.freshness.heard(sent);
            self.effects.extend(self.fences.answered(sent).map(EarEffect::Fenced));
        }
        let is_wanted = self.fences.is_wanted() || self.audits.wants_fence() && self.fences.sent().is_none();
        if self.in_turn && is_wanted {
            self.send_fence(now);
        }
        Ok(())
    }

    fn hear_reply(
        &mut self,
        inquiry: EarQuestion,
        (frame, whole): (&[u8], bool),
        sent: Time,
        now: Time,
    ) -> Result<(), Disconnection> {
        let refused = frame.first() == Some(&b'-');
        if !is_in_step(&inquiry, frame) {
            return Err(Disconnection::Broken("no answer to AUTH: desynchronised".into()));
        }
        if refused {
            self.hear_refusal(&inquiry, frame);
            self.effects.extend(moved_slot(frame).map(EarEffect::SlotLeft));
        }
        match inquiry {
            EarQuestion::NoEvict | EarQuestion::Login | EarQuestion::Step(_) => {}
            EarQuestion::Database => self.dialogue.hear_select(refused),
            EarQuestion::Announcements if refused => {
                return Err(Disconnection::Refused(self.means.refusal(), frame.into()));
            }
            EarQuestion::Announcements => {
                self.is_told = true;
                info!(user = %self.user_name(), "invalidation connection is up; cache on for this user");
            }
            EarQuestion::Rights => self.hear_rights(frame, sent, now),
            EarQuestion::Fence if is_forbidden(frame) => {
                return Err(Disconnection::Refused(Refusal::Hello, frame.into()));
            }
            EarQuestion::Fence => self.hear_fence(frame, sent, now),
            EarQuestion::Turn => self.in_turn = !refused,
            EarQuestion::Features => self.hear_features(frame),
            EarQuestion::Memory => self.hear_policy(frame),
            EarQuestion::Touch => self.around.stats.touched.add(self.touches.hear_touched(frame)),
            EarQuestion::Unannounced(probe) => self.hear_unannounced(probe, frame, sent, now),
            EarQuestion::Fill(FillStep::Ttl, _) if is_forbidden(frame) => {
                return Err(Disconnection::Refused(Refusal::Pttl, frame.into()));
            }
            EarQuestion::Fill(step, mut pending) => {
                if !whole {
                    pending.hear_oversized();
                }
                let usable = whole && !refused && !self.is_astray();
                self.hear_fill((step, pending), frame, usable, (sent, now));
            }
            EarQuestion::Audit(audit) => self.hear_audit(audit, (frame, whole), now),
            EarQuestion::Presence(slot, number) => {
                let waits_on = is_unchanged(frame) && !self.is_astray();
                let waiter = if waits_on { None } else { self.awaited.take(slot, number) };
                self.effects.extend(waiter.filter(|_| !refused).map(EarEffect::Changed));
            }
        }
        Ok(())
    }

    /// The answer to the next question of a fill; not `usable` where that is an error, too large, or of another database.
    fn hear_fill(
        &mut self,
        (step, mut pending): (FillStep, Box<PendingFill>),
        frame: &[u8],
        usable: bool,
        (sent, now): (Time, Time),
    ) {
        match step {
            FillStep::Ttl => {
                let asked = if self.faults.has(PlantedFault::ExpiryFromAnswer) { now } else { sent };
                pending.hear_ttl(frame, asked);
                let next = if pending.of_fields() { FillStep::FieldTtls } else { FillStep::Value };
                self.dialogue.goes_on(next, pending, sent);
            }
            FillStep::FieldTtls => {
                pending.hear_ttl(frame, sent);
                self.dialogue.goes_on(FillStep::Value, pending, sent);
            }
            FillStep::Value => self.hear_value(pending, usable.then_some(frame), sent, now),
            FillStep::MarkTtl(since) => {
                pending.hear_ttl(frame, sent);
                self.dialogue.goes_on(FillStep::Mark(since), pending, sent);
            }
            FillStep::Mark(since) => {
                let says_none = usable && text_of(frame) == Some(NEGATIVE);
                self.land(*pending, says_none.then_some(NULL), since, now);
            }
        }
        self.follow_fills(now); // it may have been asked for again
    }

    /// Whether what is answered now was asked of another database than it should have been.
    fn is_astray(&self) -> bool {
        self.dialogue.is_astray() && !self.faults.has(PlantedFault::AstrayIgnored)
    }

    fn hear_policy(&mut self, frame: &[u8]) {
        let ear = self.around.terms.is_cluster.then(|| self.around.freshness.epoch());
        self.effects.extend(self.touches.hear_policy(frame, ear).map(EarEffect::Collect));
    }

    fn hear_features(&mut self, frame: &[u8]) {
        let features = ServerFeatures::read(frame);
        self.effects.push(EarEffect::FieldTtls(features.field_ttls));
        self.features = Some(features);
    }

    fn hear_refusal(&mut self, inquiry: &EarQuestion, reply: &[u8]) {
        if matches!(inquiry, EarQuestion::Login) {
            // It stays logged in as it is, for as long as the server lets it.
            warn!(user = %self.user_name(), "the upstream refuses the new password on the invalidation connection");
        }
        self.goes_without(inquiry.need().filter(|need| *need != Need::Select || is_forbidden(reply)), reply);
    }

    /// This was refused: somebody is to tell.
    fn goes_without(&mut self, need: Option<Need>, reply: &[u8]) {
        self.effects.extend(need.map(|need| EarEffect::Without(need, reply.into())));
    }

    fn hear_push(&mut self, push: Push<'_>) {
        match push {
            Push::Flush if self.faults.has(PlantedFault::FlushIgnored) => {}
            Push::Keys(keys) => {
                let mut count = 0;
                for key in keys {
                    self.changed(key);
                    if let Some(key) = self.around.terms.loaded_by(key) {
                        self.changed(key);
                    }
                    count += 1;
                }
                self.around.stats.invalidations.add(count);
            }
            Push::Flush | Push::Unreadable => {
                self.around.stats.flushes.add(1);
                self.bump(EpochReason::Flush);
                self.effects.extend(self.awaited.all_changed().map(EarEffect::Changed));
            }
            Push::Message(payload) => self.hear_message(payload),
            Push::Subscribed | Push::Other => {}
        }
    }

    fn changed(&mut self, key: &[u8]) {
        let slot = self.touch_key(key, !self.asks_for_turns());
        self.effects.extend(self.awaited.changed(slot).map(EarEffect::Changed));
    }

    /// A key has changed: what was read of it counts no more. Where that is `certain`, what was heard before the change was told is older than
    /// it; in broadcast mode Redis tells of it later than it answers.
    fn touch_key(&self, key: &[u8], certain: bool) -> Slot {
        let Surroundings { stamps, store, .. } = self.around;
        let (slot, before) = (stamps.slot(stamps.hash(key)), store.watermarks().moment());
        if !self.faults.has(PlantedFault::PushIgnored) {
            stamps.touch(slot);
        }
        if let Some(before) = before {
            store.watermarks().changed(slot, before, certain);
        }
        slot
    }

    /// A message of the fleet's channel, where that carries coherence. What this process said itself is heeded like all
    /// else, as Redis would tell of an own write: it is what remains of a write whose connection was lost. And what cannot be
    /// read may have been about anything.
    fn hear_message(&self, payload: &[u8]) {
        let heard = match Envelope::parse(payload) {
            Ok(Envelope { origin_id, message }) => {
                let own = self.around.terms.mode.is_own(origin_id.as_deref());
                let heard = obey(message, self);
                if own { Heard::OwnEcho } else { heard }
            }
            Err(malformed) => {
                self.all();
                Heard::nothing(&malformed)
            }
        };
        self.around.stats.heard(heard.into());
    }

    /// A fence is back: everything acknowledged before `sent` has been heard. Only a master that says so renews.
    fn hear_fence(&mut self, reply: &[u8], sent: Time, now: Time) {
        let Surroundings { terms, freshness, silence, generation, vouched, stats, .. } = self.around;
        self.look_at_lease(now);
        self.fences.end();
        self.around.fence_times.end(sent, now);
        stats.fences.add(1);
        // MISCONF is what a master says whose disk is full: it lives, and hears.
        let master = reply.starts_with(b"-MISCONF")
            || fields(reply).is_some_and(|told| told.get(&b"role"[..]).is_some_and(|role| role == b"master"));
        let longest = terms.max_staleness.get();
        if master {
            freshness.prove(sent.plus(longest));
        }
        let master = master || self.faults.has(PlantedFault::RoleIgnored);
        if !master {
            if !self.not_master {
                warn!("the upstream is a replica, which tells of no changes; cache off, reads go to Redis");
            }
            freshness.end();
            freshness.bump();
            self.effects.push(EarEffect::Doubt);
        } else if let (Some(passed), true) = (vouched.bound(sent), self.in_turn && !silence.is_paused(now)) {
            let beyond = self.faults.has(PlantedFault::LeaseBeyondProbe);
            let bound = if beyond { passed } else { self.unannounced.bound(passed) };
            let channel = self.channel.as_ref().filter(|_| !self.faults.has(PlantedFault::ChannelUnproved));
            let bound = channel.map_or(bound, |channel| bound.min(channel.heard_up_to()));
            let bound = if self.faults.has(PlantedFault::LeaseFromAnswer) { now } else { bound };
            let until = if self.faults.has(PlantedFault::LeaseUnending) { Time::NEVER } else { bound.plus(longest) };
            // No longer than the user's rights are known to be what they were.
            let known = self.around.rights.known_at();
            freshness.renew(known.map_or(until, |asked| until.min(asked.plus(terms.acl_recheck))));
            // Whoever turns changes the number first and ends leases second.
            let swapping = silence.is_swapping() && !self.faults.has(PlantedFault::SwapIgnored);
            let is_turned = self.is_turned() || generation.is_several() || silence.is_shared_at(bound);
            if swapping || is_turned || vouched.passed().is_none() || terms.max_staleness.get() < longest {
                freshness.end();
            }
        }
        self.not_master = !master;
        self.look_at_lease(now);
        self.judge_suspects(sent, now);
    }

    fn hear_rights(&mut self, reply: &[u8], asked: Time, now: Time) {
        self.rights.answered();
        let rights = self.around.rights;
        if rights.hear_on_ear(reply, asked) && !self.faults.has(PlantedFault::RightsIgnored) {
            self.bump(EpochReason::Rights);
        }
        if !rights.asks_itself() {
            self.effects.push(EarEffect::AskSteward);
        }
        self.follow_fills(now);
        if is_passing(reply) {
            self.rights.answered_with_nothing();
        }
    }

    fn hear_unannounced(&mut self, probe: Probe, reply: &[u8], sent: Time, now: Time) {
        match self.unannounced.hear(probe, reply, sent, now) {
            ProbeFinding::Nothing => {}
            ProbeFinding::Refused => self.goes_without(Some(probe.need()), reply),
            ProbeFinding::Changed(_) if self.faults.has(PlantedFault::ProbeIgnored) => {}
            ProbeFinding::Changed(reason) => {
                self.around.opaque_writes.count();
                self.bump(reason);
            }
        }
        match self.unannounced.counts_swaps() {
            // Where the channel carries coherence, the fence of this very connection proves that it was heard.
            Some(false) if self.means != CoherenceMeans::Channel => {
                self.channel.get_or_insert_with(|| self.around.silence.rely_on_channel());
            }
            Some(_) => self.channel = None,
            None => {}
        }
    }

    /// The value is here, which was asked for at `sent`: none where it was an error or too large. What the upstream has not may lie beyond
    /// it, and a hit would end the search; unless it is known that its origin has none.
    fn hear_value(&mut self, pending: Box<PendingFill>, value: Option<&[u8]>, sent: Time, now: Time) {
        let (terms, key) = (self.around.terms, pending.fill.key());
        let is_null = pending.fill.is_of_value() && value.is_some_and(|value| value.starts_with(b"_"));
        if !is_null || !terms.goes_beyond(key) {
            return self.land(*pending, value, sent, now);
        }
        match terms.mark_of(key).filter(|mark| terms.mode.covers(mark)) {
            Some(mark) => self.dialogue.ask_mark(pending, &mark, sent, now),
            None => self.land(*pending, None, sent, now),
        }
    }

    /// All that a fill has asked for is here: its value, or none that may be kept.
    fn land(&mut self, mut pending: PendingFill, value: Option<&[u8]>, sent: Time, now: Time) {
        let Surroundings { terms, stamps, store, arrivals, stats, rights, .. } = self.around;
        self.window.leave(&pending.fill);
        let present = (stamps.load(pending.fill.slot()), self.epoch_of(&pending.fill));
        let unknown_rights = rights.known_at().is_none().then_some(terms.acl_recheck);
        // Who creates a key in a slot that has left the node is told of by nobody.
        let untold = (terms.is_cluster && pending.is_absent()).then(|| terms.max_staleness.get());
        let longest = unknown_rights.into_iter().chain(untold).min();
        if self.faults.has(PlantedFault::StampAtAnswer) {
            pending.stamp = present.0;
        }
        if self.faults.has(PlantedFault::EpochAtAnswer) {
            pending.epoch = present.1;
        }
        let sample = pending.sample();
        let landing = pending.land(value, present, longest, (sent, now));
        if let Some(sample) = sample {
            if let Some(again) = sample.tell(landing, value.unwrap_or_default()) {
                self.ask_fill(again, now);
            }
            return;
        }
        match landing {
            Landing::Entry(Entering { fill, resp2, stamp, epoch, expires }) => {
                if !self.faults.has(PlantedFault::ArrivalsUnnoted) {
                    arrivals.note(fill.slot(), now); // before anybody can find it
                }
                store.insert(&fill.query(), value.unwrap_or_default(), Some(&resp2), stamp, epoch, expires);
                stats.fill(FillOutcome::Stored);
                if rights.filled() {
                    self.effects.push(EarEffect::RightsDue);
                }
            }
            // Mostly the push of a write that was just answered: the second try finds the dust settled.
            Landing::Changed(fill) => match fill.again() {
                Some(fill) => {
                    stats.fill(FillOutcome::Retried);
                    self.ask_fill(fill, now);
                }
                None => stats.fill(FillOutcome::Doomed),
            },
            Landing::Expired => stats.fill(FillOutcome::Expired),
            Landing::Refused => stats.fill(FillOutcome::Refused),
        }
    }

    fn ask_fill(&mut self, fill: Fill, now: Time) {
        let Surroundings { stamps, store, stats, freshness, .. } = self.around;
        if self.window.contains(&fill) || store.contains_fresh(&fill.query(), stamps, freshness, now) {
            return;
        }
        // What is read for the sample alone is no fill, and counts as none.
        let given_up = |outcome| {
            if !fill.is_for_sample() {
                stats.fill(outcome);
            }
        };
        let cache = fill.spec().cache;
        let field_ttls = self.features.as_ref().is_none_or(|features| features.field_ttls);
        let kept = self.features.as_ref().is_some_and(|features| features.keeps(fill.spec()));
        if !kept || cache == Caching::WholeHash && field_ttls {
            return given_up(FillOutcome::Refused);
        }
        // Read before the request is sent: only what was asked for under a quiet stamp may enter L1.
        let (stamp, epoch) = (stamps.load(fill.slot()), self.epoch_of(&fill));
        if !stamp.quiet() || self.not_master {
            return given_up(FillOutcome::Doomed);
        }
        // Asked behind the epoch, which changes whenever the switch is thrown or other settings are in force.
        if !self.around.switch.admits(fill.settings()) {
            return given_up(FillOutcome::Doomed);
        }
        // Asked for behind the epoch, which changes when another mode is chosen; the worker may have asked before that.
        let fill = fill.or_ceiling(self.around.terms.mode.ceiling());
        if self.fences.sent().is_none() && !freshness.held(now) {
            self.send_fence(now);
        }
        self.touches.fills_for(fill.identity(), fill.db());
        self.window.enter(&fill);
        if !self.around.rights.are_all() {
            self.rights.follow();
        }
        let of_fields = cache == Caching::Fields && field_ttls;
        self.dialogue.ask_fill(Box::new(PendingFill::new(fill, stamp, epoch, of_fields)), now);
    }

    /// Has rights compared behind the fills that were asked for.
    fn follow_fills(&mut self, now: Time) {
        if self.rights.is_due() {
            self.ask_rights(now);
        }
    }

    /// What an answer to this is asked for under, beside its key's stamp.
    fn epoch_of(&self, fill: &Fill) -> EntryEpoch {
        let Surroundings { terms, store, freshness, .. } = self.around;
        let slot = if terms.is_cluster { store.slots().stamp(HashSlot::of(fill.key())) } else { SlotStamp::NONE };
        EntryEpoch::new(freshness.epoch(), slot)
    }

    fn ask_rights(&mut self, now: Time) {
        if self.around.rights.asks_itself() {
            self.rights.ask(now);
            self.dialogue.ask(&[b"ACL", b"GETUSER", &self.user], EarQuestion::Rights, now);
        }
    }

    fn ask_to_be_told(&mut self, now: Time) {
        self.dialogue.ask(&self.around.terms.mode.announcements(self.means), EarQuestion::Announcements, now);
    }

    fn asks_for_turns(&self) -> bool {
        self.means.tells_in_turns()
    }

    /// In broadcast mode Redis tells of changes at the end of each turn of its event loop. While a slow script runs, it
    /// answers HELLO within one, before what it has yet to tell; PING it answers then with -BUSY, and so PING is the fence.
    fn send_fence(&mut self, now: Time) {
        self.fences.begin(now);
        self.around.fence_times.begin(now);
        self.audits.fence_sent();
        let for_audit = self.audits.has_suspects() && !self.faults.has(PlantedFault::AuditUnprobed);
        let seldom = if for_audit { Duration::ZERO } else { self.around.terms.max_staleness.get() / 8 };
        for probe in self.unannounced.due(now, seldom) {
            self.dialogue.ask(probe.command(), EarQuestion::Unannounced(probe), now);
        }
        if self.asks_for_turns() {
            self.dialogue.ask(&[b"PING"], EarQuestion::Turn, now);
        }
        self.dialogue.ask(&[b"HELLO"], EarQuestion::Fence, now);
    }

    fn touch(&mut self, now: Time) {
        match self.touches.step(now, !self.around.store.is_empty()) {
            TouchStep::Rest => {}
            TouchStep::AskPolicy => self.dialogue.ask(&[b"INFO", b"memory"], EarQuestion::Memory, now),
            TouchStep::Send(batches) => {
                for batch in batches {
                    self.dialogue.select(batch.db, now);
                    for keys in batch.parts(self.around.terms.is_cluster) {
                        let keys = keys.iter().map(|key| &**key);
                        let command: Vec<&[u8]> = std::iter::once(&b"TOUCH"[..]).chain(keys).collect();
                        self.dialogue.ask(&command, EarQuestion::Touch, now);
                    }
                }
            }
        }
    }

    /// Counts a lease that is over. Where L1 is empty nobody renews it, and nobody misses it.
    fn look_at_lease(&mut self, now: Time) {
        let held = self.around.freshness.held(now);
        if self.leased && !held && !self.around.store.is_empty() {
            self.around.stats.leases_lapsed.add(1);
        }
        self.leased = held;
    }

    /// No entry counts that was filled so far.
    fn bump(&self, reason: EpochReason) {
        self.around.freshness.bump();
        self.around.stats.epoch(reason);
    }

    fn check_generation(&self) -> Result<(), Disconnection> {
        if self.is_turned() {
            Err(Disconnection::Turned)
        } else if self.means != self.around.terms.mode.means() {
            Err(Disconnection::Rechosen)
        } else {
            Ok(())
        }
    }

    /// Whether another server has taken the place of the one that is listened to.
    pub fn is_turned(&self) -> bool {
        self.generation != self.around.generation.number()
    }

    fn user_name(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.user)
    }
}

/// Whether a login was answered, and the `ECHO` behind it: neither passes for the other. Nor does what Redis says to either of them
/// in place of an answer, for AUTH nobody is forbidden and it is never put off.
fn is_in_step(inquiry: &EarQuestion, frame: &[u8]) -> bool {
    match (inquiry, frame.first()) {
        (EarQuestion::Login, Some(b'-')) => !is_forbidden(frame) && !is_passing(frame),
        (EarQuestion::Login, kind) => kind == Some(&b'+'),
        (EarQuestion::Step(_), Some(b'-')) => true,
        (EarQuestion::Step(nonce), _) => frame == format!("$16\r\n{nonce:016x}\r\n").as_bytes(),
        _ => true,
    }
}

/// What the fleet's channel names is forgotten for this ear's user; the other ears hear it themselves.
impl<W, P: FaultPlan> Forget for Protocol<'_, W, P> {
    fn key(&self, key: &[u8]) {
        self.touch_key(key, false); // it is also told of what was done here, which may be long ago
        self.around.stats.invalidations.add(1);
    }

    fn pattern(&self, _: &[u8]) {
        self.all();
    }

    fn all(&self) {
        self.bump(EpochReason::Pattern);
    }
}

#[cfg(test)]
mod tests;
