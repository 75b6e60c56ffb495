//! The way of a command that may go on a lane, on one screen: [`call`].
//!
//! A read: answered by L1, or by joining the same read under way, or sent. A write: its keys' stamps change before it is
//! sent and when it is answered. An opaque write: its reply, or L1, waits for a fence. Everything here happens on the session's own
//! thread, and nothing waits: whatever is answered later holds a place in the session's [`Replies`]. Called by `session`,
//! which decides what may go on a lane at all. The file is long, for it lists the room's parts above that.
//!
//! Holds contract points 2 (order), 3 (own writes) and 4 (others' writes soon).

mod amends;
mod audited_hit;
mod caller;
mod client_ways;
mod clients;
mod connections;
mod cork;
mod detour;
mod detour_queue;
mod doubts;
mod each;
mod errands;
mod fencing;
mod finding;
mod foreign;
mod foreman;
mod gate;
mod hearing;
mod hot_names;
mod in_flight;
mod lanes;
mod lead;
mod listings;
mod live;
mod loading;
mod loans;
mod login_record;
mod login_turns;
mod logins;
mod node_question;
mod node_side;
mod notified_write;
mod noting;
mod open_listeners;
mod orders;
mod output;
mod owner;
mod parts;
mod passage;
mod pilot;
mod pools;
mod private;
mod private_sending;
mod proof;
mod pulse;
mod queued;
mod read_history;
mod reader;
mod recipient;
mod renewal;
mod repeats;
mod replica_reply;
mod replicas;
mod replies;
mod reply_queue;
mod returned;
mod roll;
mod room;
mod route_memo;
mod sampled;
mod sampling;
mod seek;
mod seeking;
mod seen_elsewhere;
mod sending;
mod shared;
mod site;
mod slowness;
mod sought;
mod spare;
mod start;
mod station;
mod succession;
mod tiered;
mod track;
mod transaction;
mod trouble;
mod upkeep;
mod who;
mod worker;
mod write_guard;

pub(crate) use caller::Caller;
pub(crate) use clients::{Clients, Filter, Member};
pub(crate) use detour::{NextTry, Tries};
pub(crate) use foreign::{Account, Nature};
pub(crate) use gate::Gate;
pub(crate) use hot_names::HotNames;
pub(crate) use in_flight::ReplyAction;
pub(crate) use lanes::LANE_NAME;
pub(crate) use listings::{ListingKind, Listings};
pub(crate) use live::LiveSettings;
pub(crate) use node_question::NodeQuestion;
pub(crate) use open_listeners::OpenListeners;
pub(crate) use orders::{GivenOrder, Order, OrderReport, Orders, UndoneOrder};
pub(crate) use owner::Owner;
pub(crate) use parts::PartsInTurn;
pub(crate) use passage::{ClientRecord, ClientStage, PassedClient};
pub(crate) use pilot::NEWCOMER;
pub(crate) use private::{Lent, OwnLane, Setting};
pub(crate) use private_sending::Role;
pub(crate) use queued::QueueNote;
pub use read_history::{KeyStatus, ReadHistory};
pub(crate) use replies::Replies;
pub use reply_queue::ReplyPlace;
pub(crate) use reply_queue::SessionEnd;
pub(crate) use roll::RollCall;
pub(crate) use sampled::{CurveExchange, SampledRead};
pub(crate) use shared::Shared;
pub(crate) use slowness::{is_slow, note_wait};
pub(crate) use succession::{Succession, SuccessionState};
pub(crate) use transaction::Transaction;
pub(crate) use who::Who;
pub(crate) use worker::Worker;

use audited_hit::AuditedHit;
use each::KeyLookups;
use finding::{Finding, Miss};
use live::RuleIndex;
use noting::note_hit;
use parts::SlotParts;
use recipient::Tally;

use std::slice;

use crate::cache::{Coin, Lookup, Query, Sampler};
use crate::clock::Time;
use crate::command::{Caching, Effect, Spec, Spread};
use crate::config::{CrossSlot, L1Mode};
use crate::invalidation::Fill;
use crate::metrics::{Outcome, Path};
use crate::resp::{Request, Resp};
use crate::upstream::NodeIndex;

/// Whether a command was taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Taken {
    /// It was, and its reply has a place.
    Yes,
    /// Not yet: L1 has an answer, which might be behind what was done before. [`Caller::hear`] decides between calling again,
    /// with the same `now`, and sending it.
    Unheard(Unheard),
    /// Not yet: it is to go on another lane than what the session sent before, which is to be answered first.
    Unanswered,
}

/// L1 has an answer, and may give it once the ear has been answered what was sent at this moment or later: before, it might not
/// know what this session has seen, or what an opaque write that was acknowledged has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unheard {
    since: Time,
    /// Whose ear.
    at: NodeIndex,
}

/// Takes up one command that the table allows on a lane. `now` was read after the request's last byte.
pub(crate) fn call(
    worker: &Worker,
    caller: &mut Caller,
    spec: &'static Spec,
    request: Request<'_>,
    now: Time,
) -> Taken {
    if spec.effect == Effect::Read && spec.keeps(request) {
        return read(worker, caller, spec, request, now);
    }
    if let Spread::Slots(_) = spec.spread
        && spec.each().is_none()
        && worker.is_cluster()
        && let Some(taken) = caller.split(worker, spec, request, now)
    {
        return taken;
    }
    let at = caller.served_at(worker, spec, request);
    if !caller.turn((worker, at), spec, request, now) {
        return Taken::Unanswered;
    }
    if spec.effect == Effect::Read && worker.reads_replicas() && !caller.choose((worker, at), spec, request, now) {
        return Taken::Unanswered;
    }
    match spec.effect {
        Effect::Read | Effect::None => caller.pass_on((worker, at), spec, request, now),
        Effect::Write | Effect::Opaque => caller.write((worker, at), spec, request, now),
    }
    Taken::Yes
}

/// Whether a command of this row comes in parts, its keys being in several slots.
pub(crate) fn has_several_slots(spec: &Spec, request: Request<'_>) -> bool {
    SlotParts::are_several(spec, request)
}

/// A read that L1 may answer: hit, wait or lead.
fn read(worker: &Worker, caller: &mut Caller, spec: &'static Spec, request: Request<'_>, now: Time) -> Taken {
    if let Some(each) = spec.each() {
        return read_each(worker, caller, (spec, each), request, now);
    }
    let query = caller.who.query(&worker.shared.l1, spec, request);
    let at = caller.read_served_at(worker, query.hash, request);
    if !caller.turn((worker, at), spec, request, now) {
        return Taken::Unanswered;
    }
    let rule = worker.settings.rule_of(request.arg(1));
    let finding = find((worker, at), caller, spec, (&query, rule), now);
    match finding {
        Finding::Hit => worker.stats.count(spec.class, Outcome::Hit),
        Finding::Unheard(unheard) => return Taken::Unheard(unheard),
        Finding::Miss(miss) if !send((worker, at), caller, (spec, miss), request, (&query, rule), now) => {
            return Taken::Unanswered;
        }
        Finding::Miss(_) => {}
    }
    if worker.samples(&query, finding) {
        worker.hand_on(caller, (at, request), (&query, rule), finding, now);
    }
    Taken::Yes
}

/// A read of many keys, each of which L1 may have.
fn read_each(
    worker: &Worker,
    caller: &mut Caller,
    (spec, each): (&'static Spec, &'static Spec),
    request: Request<'_>,
    now: Time,
) -> Taken {
    let at = caller.served_at(worker, spec, request);
    if !caller.turn((worker, at), spec, request, now) {
        return Taken::Unanswered;
    }
    let several = worker.is_cluster();
    if several && worker.shared.config.cluster.cross_slot == CrossSlot::Error && SlotParts::are_several(spec, request) {
        caller.pass_on((worker, at), spec, request, now); // the node refuses it
        return Taken::Yes;
    }
    let keys = KeyLookups::of(worker, caller, each, request);
    if several && !keys.may_be_sent(worker, caller, spec, now) {
        return Taken::Unanswered;
    }
    let finding = keys.find(worker, caller, now);
    match finding {
        Finding::Hit => worker.stats.count(spec.class, Outcome::Hit),
        Finding::Unheard(unheard) => return Taken::Unheard(unheard),
        Finding::Miss(miss) if !keys.send((worker, at), caller, spec, miss, now) => return Taken::Unanswered,
        Finding::Miss(_) => {}
    }
    keys.hand_on(worker, caller, finding, now);
    Taken::Yes
}

/// Has Redis answer a read that L1 may not answer yet, though it could: by the same read under way, or by sending it. False where it
/// is to go on another lane than what the session sent before, which is to be answered first.
#[must_use]
pub(crate) fn lead(worker: &Worker, caller: &mut Caller, spec: &'static Spec, request: Request<'_>, now: Time) -> bool {
    let at = caller.served_at(worker, spec, request);
    if !caller.turn((worker, at), spec, request, now) {
        return false;
    }
    let miss = if worker.shared.l1.is_shared() { Miss::Shared } else { Miss::BehindEar };
    if let Some(each) = spec.each() {
        let keys = KeyLookups::of(worker, caller, each, request);
        if worker.is_cluster() && !keys.may_be_sent(worker, caller, spec, now) {
            return false;
        }
        let is_sent = keys.send((worker, at), caller, spec, miss, now);
        if is_sent {
            keys.hand_on(worker, caller, Finding::Miss(miss), now);
        }
        is_sent
    } else {
        let query = caller.who.query(&worker.shared.l1, spec, request);
        let rule = worker.settings.rule_of(request.arg(1));
        let is_sent = send((worker, at), caller, (spec, miss), request, (&query, rule), now);
        if is_sent && worker.samples(&query, Finding::Miss(miss)) {
            worker.hand_on(caller, (at, request), (&query, rule), Finding::Miss(miss), now);
        }
        is_sent
    }
}

/// Sends a read of one key, or has it wait for the same read under way. False where the session must wait for its own answers first.
fn send(
    (worker, at): (&Worker, NodeIndex),
    caller: &mut Caller,
    (spec, miss): (&'static Spec, Miss),
    request: Request<'_>,
    (query, rule): (&Query<'_>, RuleIndex),
    now: Time,
) -> bool {
    let mut left = now;
    if worker.reads_replicas() {
        if !caller.choose((worker, at), spec, request, now) {
            return false;
        }
        left = caller.side(at).left(now);
    }
    if miss.joins() {
        if caller.join(worker, at, spec, query, now) {
            return true;
        }
    } else if miss.goes_alone() {
        caller.read((worker, at), Tally::new(spec, miss.outcome()), (spec, request), Vec::new(), now);
        return true;
    }
    caller.lead((worker, at), (spec, miss), request, (query, rule), (left, now));
    true
}

/// As [`call`], for a read that L1 may keep of a session that has a connection of its own, where what L1 does not answer is sent.
pub(crate) fn call_at_home(
    worker: &Worker,
    caller: &mut Caller,
    home: &OwnLane,
    spec: &'static Spec,
    request: Request<'_>,
    now: Time,
) -> Taken {
    if let Some(each) = spec.each() {
        let keys = KeyLookups::of(worker, caller, each, request);
        let finding = keys.find(worker, caller, now);
        if let Finding::Unheard(unheard) = finding {
            return Taken::Unheard(unheard);
        }
        let fills = if finding.wants_fill() { keys.fills(worker, caller, now) } else { Vec::new() };
        take_up_at_home(worker, caller, home, (spec, request), (finding, fills), now);
        keys.hand_on(worker, caller, finding, now);
    } else {
        let query = caller.who.query(&worker.shared.l1, spec, request);
        let rule = worker.settings.rule_of(request.arg(1));
        let finding = find((worker, home.node()), caller, spec, (&query, rule), now);
        if let Finding::Unheard(unheard) = finding {
            return Taken::Unheard(unheard);
        }
        let fills = if finding.wants_fill() { fills(worker, caller, request, (&query, rule)) } else { Vec::new() };
        take_up_at_home(worker, caller, home, (spec, request), (finding, fills), now);
        if worker.samples(&query, finding) {
            worker.hand_on(caller, (home.node(), request), (&query, rule), finding, now);
        }
    }
    Taken::Yes
}

/// The answer was given, or the read is sent.
fn take_up_at_home(
    worker: &Worker,
    caller: &mut Caller,
    home: &OwnLane,
    (spec, request): (&'static Spec, Request<'_>),
    (finding, fills): (Finding, Vec<Fill>),
    now: Time,
) {
    if finding == Finding::Hit {
        worker.stats.count(spec.class, Outcome::Hit);
    } else {
        caller.read_on(home, spec, request, fills, now);
        if finding.is_asked() {
            worker.stats.further_keys.add(1); // it counts as one of a connection of its own
        }
    }
}

/// Sends a read that L1 may keep on a connection of the session's own: nobody joins it, and what it reads is promoted as ever.
pub(crate) fn send_home(
    worker: &Worker,
    caller: &mut Caller,
    home: &OwnLane,
    spec: &'static Spec,
    request: Request<'_>,
    now: Time,
) {
    let fills = if let Some(each) = spec.each() {
        KeyLookups::of(worker, caller, each, request).fills(worker, caller, now)
    } else {
        let query = caller.who.query(&worker.shared.l1, spec, request);
        fills(worker, caller, request, (&query, worker.settings.rule_of(request.arg(1))))
    };
    caller.read_on(home, spec, request, fills, now);
}

/// What is to be asked for once a read of one key is answered that nobody can join.
fn fills(worker: &Worker, caller: &Caller, request: Request<'_>, (query, rule): (&Query<'_>, RuleIndex)) -> Vec<Fill> {
    let (shared, settings) = (&worker.shared, &worker.settings);
    if !shared.l1.keeps() {
        return Vec::new();
    }
    let promotion = settings.promote(rule);
    let promoted = worker.toss(promotion.one_in, false, query) == Coin::Promote;
    let fill = || {
        Fill::new(request, query, caller.who.db, settings.ceiling(rule), promotion.max_value)
            .by_settings(settings.number())
            .leaving(shared.early(request.arg(1)))
    };
    promoted.then(fill).into_iter().collect()
}

/// What L1 has for a read of one key, with its rule; where that is the answer, it has been given.
fn find(
    (worker, at): (&Worker, NodeIndex),
    caller: &Caller,
    spec: &Spec,
    (query, rule): (&Query<'_>, RuleIndex),
    now: Time,
) -> Finding {
    // Before all else: where L1 is switched off there are still flights to join, and they may be older than the write.
    if caller.replies.behind_write() {
        return Finding::Miss(Miss::BehindWrite);
    }
    if worker.shared.l1.answers() {
        return look_up::<true>((worker, at), caller, spec, (query, rule), now);
    }
    match unasked(worker) {
        Some(miss) => Finding::Miss(miss),
        None => look_up::<false>((worker, at), caller, spec, (query, rule), now),
    }
}

/// Why L1, which answers nothing, is not even asked what it would have answered.
#[cold]
fn unasked(worker: &Worker) -> Option<Miss> {
    let l1 = &worker.shared.l1;
    match l1.service() {
        L1Mode::Pass => Some(Miss::Passed),
        _ if l1.is_shared() => Some(Miss::Shared),
        L1Mode::Observe | L1Mode::Cache => (!l1.is_on()).then_some(Miss::Disabled),
    }
}

/// The same, where L1 is asked. `ANSWERS`: what it has is given, and else told alone.
#[inline]
fn look_up<const ANSWERS: bool>(
    (worker, at): (&Worker, NodeIndex),
    caller: &Caller,
    spec: &Spec,
    (query, rule): (&Query<'_>, RuleIndex),
    now: Time,
) -> Finding {
    let l1 = &worker.shared.l1;
    if worker.settings.is_kept_away(rule) {
        return Finding::Miss(Miss::Disabled);
    }
    if spec.cache == Caching::Resp3 && caller.resp == Resp::V2 {
        return Finding::Miss(Miss::OtherVersion);
    }
    let ear = caller.ear(at);
    let fresh = &ear.freshness;
    let look = |touches: &mut Sampler, out: &mut Vec<u8>| {
        l1.memory.store.lookup(query, caller.resp, &l1.memory.stamps, fresh, now, touches, out)
    };
    let status = caller.key_status(at, (l1, ear), query.slot, now);
    if !ANSWERS && status != KeyStatus::Heard && would_answer(worker, look) {
        return Finding::Miss(Miss::WouldHit);
    }
    match status {
        KeyStatus::Heard => {}
        KeyStatus::Unanswered => return Finding::Miss(Miss::BehindRead),
        KeyStatus::Unheard(since) if ANSWERS && l1.holds(query, ear, now) => return unheard(worker, since, at),
        KeyStatus::Unheard(_) => return Finding::Miss(if fresh.held(now) { Miss::Absent } else { Miss::Blind }),
    }
    let expect = || AuditedHit::expected(worker, caller, at, query, now);
    answer::<ANSWERS>(worker, caller, slice::from_ref(query), look, expect)
}

/// Whether memory has the answer to a read before which it would have given others, so that the session would wait for nothing: the
/// entry is used as if it answered.
#[cold]
fn would_answer(worker: &Worker, look: impl FnOnce(&mut Sampler, &mut Vec<u8>) -> Lookup) -> bool {
    look(&mut worker.sampler.borrow_mut(), &mut Vec::new()).is_hit()
}

/// L1 has an answer, and may give it when the ear has heard what it was told since then.
fn unheard(worker: &Worker, since: Time, at: NodeIndex) -> Finding {
    worker.shared.l1.opaque_writes.ask();
    Finding::Unheard(Unheard { since, at })
}

/// Answers the next command from L1, where `look` finds and appends the reply; or only tells that it would. Where it is to be audited,
/// `expect` says by what.
#[inline]
fn answer<'q, const ANSWERS: bool>(
    worker: &Worker,
    caller: &Caller,
    queries: &[Query<'_>],
    look: impl FnOnce(&mut Sampler, &mut Vec<u8>) -> Lookup,
    expect: impl FnOnce() -> AuditedHit<'q>,
) -> Finding {
    if !ANSWERS {
        let audited = worker.is_audited(1).then(expect);
        let looked = look(&mut worker.sampler.borrow_mut(), &mut Vec::new());
        if let (true, Some(hit)) = (looked.is_hit(), audited) {
            hit.judge(worker, caller);
        }
        return if looked.is_hit() { Finding::Miss(Miss::WouldHit) } else { looked.into() };
    }
    let chosen = worker.stats.choose().map(|chosen| {
        let audited = worker.is_audited(worker.stats.chosen_of()).then(expect);
        (chosen, caller.replies.written(), audited)
    });
    let looked = {
        let touches = &mut *worker.sampler.borrow_mut();
        caller.replies.answer(|out| {
            let looked = look(touches, out);
            (looked.is_hit(), looked)
        })
    };
    if looked.is_hit() {
        worker.shared.l1.opaque_writes.ask();
        if let Some((chosen, before, audited)) = chosen {
            if let Some(since) = chosen.since {
                worker.stats.record(Path::Hit, since);
                note_hit(worker, &caller.replies, queries, caller.replies.written() - before);
            }
            if let Some(hit) = audited {
                hit.judge(worker, caller);
            }
        }
    }
    looked.into()
}
