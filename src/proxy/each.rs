//! A read of many keys that L1 holds one by one (MGET): answered from L1 as a whole, or by Redis as a whole.
//!
//! What it finds of each key is what a read of that key alone left there. Redis answers all keys of one moment, so a part from
//! here and a part from there will not do: [`Store::lookup_all`](crate::cache::Store::lookup_all) gives all of one moment or
//! nothing. Its keys are promoted like any other, each by its own toss of the coin.
//!
//! Holds contract point 1 (same answers).

use smallvec::SmallVec;

use super::Taken;
use super::audited_hit::AuditedHit;
use super::caller::Caller;
use super::finding::{Finding, Miss};
use super::live::RuleIndex;
use super::parts::SlotParts;
use super::read_history::KeyStatus;
use super::recipient::Tally;
use super::worker::Worker;
use crate::cache::{Coin, Query, Sampler};
use crate::clock::Time;
use crate::command::{HashSlot, Spec};
use crate::invalidation::Fill;
use crate::resp::{Request, Span, encode};
use crate::upstream::NodeIndex;

/// A command with more keys goes to Redis: nobody waits on this thread for that long.
const MOST_KEYS: usize = 1024;

/// What a request's keys are looked up by, each as a read of it alone would be.
pub(super) struct KeyLookups<'a> {
    /// The read of one key.
    each: &'static Spec,
    request: Request<'a>,
    /// One a key; none where there are too many keys.
    queries: SmallVec<[Query<'a>; 8]>,
    /// The keys' rules, in the same order.
    rules: SmallVec<[RuleIndex; 8]>,
    /// And the nodes that serve them.
    nodes: SmallVec<[NodeIndex; 8]>,
}

impl<'a> KeyLookups<'a> {
    /// The keys of `request`, of which `each` reads one.
    pub(super) fn of(worker: &Worker, caller: &mut Caller, each: &'static Spec, request: Request<'a>) -> Self {
        let (l1, identity) = (&worker.shared.l1, caller.who.identity);
        let query = |at: usize| {
            let tail = request.tail(at);
            let tail = &tail[..tail.len() - request.tail(at + 1).len()];
            Query::new(&l1.memory.stamps, identity, each.id, request.arg(at), tail, &[])
        };
        let many = request.argc() > 1 + MOST_KEYS;
        let keys = 1..if many { 1 } else { request.argc() };
        let rules = keys.clone().map(|at| worker.settings.rule_of(request.arg(at))).collect();
        let queries = keys.clone().map(query).collect();
        let nodes = keys.map(|at| caller.key_served_at(worker, request.arg(at))).collect();
        Self { each, request, queries, rules, nodes }
    }

    /// As [`super::find`], for all keys at once.
    pub(super) fn find(&self, worker: &Worker, caller: &Caller, now: Time) -> Finding {
        if caller.replies.behind_write() {
            return Finding::Miss(Miss::BehindWrite);
        }
        if self.queries.is_empty() {
            return Finding::Miss(Miss::ManyKeys);
        }
        if worker.shared.l1.answers() {
            return self.look_up::<true>(worker, caller, now);
        }
        match super::unasked(worker) {
            Some(miss) => Finding::Miss(miss),
            None => self.look_up::<false>(worker, caller, now),
        }
    }

    /// As [`super::look_up`].
    fn look_up<const ANSWERS: bool>(&self, worker: &Worker, caller: &Caller, now: Time) -> Finding {
        let l1 = &worker.shared.l1;
        if self.rules.iter().any(|&rule| worker.settings.is_kept_away(rule)) {
            return Finding::Miss(Miss::Disabled);
        }
        let most = worker.settings.max_value();
        let look = |touches: &mut Sampler, out: &mut Vec<u8>| {
            let fresh = |nth: usize| &caller.ear(self.nodes[nth]).freshness;
            l1.memory.store.lookup_all(&self.queries, most, caller.resp, &l1.memory.stamps, fresh, now, touches, out)
        };
        let status =
            |(query, &at): (&Query<'_>, &NodeIndex)| caller.key_status(at, (l1, caller.ear(at)), query.slot, now);
        let are_heard = || self.queries.iter().zip(&self.nodes).map(status).all(|status| status == KeyStatus::Heard);
        if !ANSWERS && !are_heard() && super::would_answer(worker, look) {
            return Finding::Miss(Miss::WouldHit);
        }
        let mut unheard: Option<(Time, NodeIndex)> = None;
        for (query, &at) in self.queries.iter().zip(&self.nodes) {
            match caller.key_status(at, (l1, caller.ear(at)), query.slot, now) {
                KeyStatus::Unanswered => return Finding::Miss(Miss::BehindRead),
                KeyStatus::Unheard(since) if unheard.is_none_or(|(before, _)| before < since) => {
                    unheard = Some((since, at));
                }
                KeyStatus::Heard | KeyStatus::Unheard(_) => {}
            }
        }
        if let Some((since, at)) = unheard {
            let holds = |(query, &at): (&Query<'_>, &NodeIndex)| l1.holds(query, caller.ear(at), now);
            if ANSWERS && self.queries.iter().zip(&self.nodes).all(holds) {
                return super::unheard(worker, since, at);
            }
            let held = self.nodes.iter().all(|&at| caller.ear(at).freshness.held(now));
            return Finding::Miss(if held { Miss::Absent } else { Miss::Blind });
        }
        let expect = || {
            let one = rand::random_range(0..self.queries.len());
            AuditedHit::expected(worker, caller, self.nodes[one], &self.queries[one], now)
        };
        super::answer::<ANSWERS>(worker, caller, &self.queries, look, expect)
    }

    /// Whether it could be sent now, to whichever nodes its keys are at: behind what the session has sent there.
    pub(super) fn may_be_sent(&self, worker: &Worker, caller: &mut Caller, spec: &Spec, now: Time) -> bool {
        spec.keys(self.request).enumerate().all(|(key, name)| {
            let at = self.nodes.get(key).copied();
            let at = at.unwrap_or_else(|| caller.key_served_at(worker, name));
            caller.turn_for((worker, at), || Some(HashSlot::of(name)), (false, || true), now)
        })
    }

    /// Sends the request to the node that serves it, or its parts to theirs, and has its keys promoted that L1 does not hold, once it
    /// is answered. False where the session must wait for its own answers first.
    pub(super) fn send(
        &self,
        (worker, at): (&Worker, NodeIndex),
        caller: &mut Caller,
        spec: &'static Spec,
        miss: Miss,
        now: Time,
    ) -> bool {
        if let Some(parts) = worker.is_cluster().then(|| SlotParts::of(spec, self.request)).flatten() {
            let fills = self.fills_by_key(worker, caller, now).collect();
            return caller.send_parts(worker, (spec, miss.outcome()), parts, fills, now) == Taken::Yes;
        }
        if worker.reads_replicas() && !caller.choose((worker, at), spec, self.request, now) {
            return false;
        }
        let fills = self.fills(worker, caller, now);
        caller.read((worker, at), Tally::new(spec, miss.outcome()), (spec, self.request), fills, now);
        true
    }

    /// What is to be asked for once the request is answered.
    pub(super) fn fills(&self, worker: &Worker, caller: &Caller, now: Time) -> Vec<Fill> {
        self.fills_by_key(worker, caller, now).map(|(_, fill)| fill).collect()
    }

    /// The same, each with the number of its key.
    fn fills_by_key(&self, worker: &Worker, caller: &Caller, now: Time) -> impl Iterator<Item = (usize, Fill)> {
        let keys = if worker.shared.l1.keeps() { self.queries.len() } else { 0 };
        (0..keys).filter_map(move |key| {
            let at = (&self.queries[key], self.rules[key], self.nodes[key]);
            Some((key, self.fill(worker, caller, at, now)?))
        })
    }

    /// The read of one key alone, written to `raw`.
    fn single<'r>(&self, query: &Query<'_>, raw: &'r mut Vec<u8>, spans: &'r mut Vec<Span>) -> Request<'r> {
        raw.reserve(32 + query.tail.len());
        encode::array_header(raw, 2);
        encode::bulk(raw, self.each.name.as_bytes());
        raw.extend_from_slice(query.tail);
        Request::parse_canonical(raw, spans).expect("an argument of a canonical request")
    }

    /// Hands on those keys that are in the sample, each as a read of it alone for which this was found.
    pub(super) fn hand_on(&self, worker: &Worker, caller: &Caller, finding: Finding, now: Time) {
        for (nth, query) in self.queries.iter().enumerate() {
            if worker.samples(query, finding) {
                let (mut raw, mut spans) = (Vec::new(), Vec::new());
                let single = self.single(query, &mut raw, &mut spans);
                worker.hand_on(caller, (self.nodes[nth], single), (query, self.rules[nth]), finding, now);
            }
        }
        if finding.is_asked() && self.queries.len() > 1 {
            worker.stats.further_keys.add(self.queries.len() as u64 - 1);
        }
    }

    /// Tosses the coin for one key.
    fn fill(
        &self,
        worker: &Worker,
        caller: &Caller,
        (query, rule, at): (&Query<'_>, RuleIndex, NodeIndex),
        now: Time,
    ) -> Option<Fill> {
        let promotion = worker.settings.promote(rule);
        let l1 = &worker.shared.l1;
        if worker.toss(promotion.one_in, false, query) != Coin::Promote || l1.holds(query, caller.ear(at), now) {
            return None;
        }
        let (mut raw, mut spans) = (Vec::new(), Vec::new());
        let single = self.single(query, &mut raw, &mut spans);
        let ceiling = worker.settings.ceiling(rule);
        let early = worker.shared.early(single.arg(1));
        let fill = Fill::new(single, query, caller.who.db, ceiling, promotion.max_value).leaving(early);
        Some(fill.by_settings(worker.settings.number()))
    }
}
