//! A worker's part in the curve: what it hands on of a read whose key is in the sample.

use std::sync::Arc;

use super::caller::Caller;
use super::finding::{Finding, Miss};
use super::live::RuleIndex;
use super::sampled::SampledRead;
use super::worker::Worker;
use crate::cache::{Query, Warrant};
use crate::clock::Time;
use crate::curve::{MiniatureRead, mixed};
use crate::invalidation::Fill;
use crate::resp::Request;
use crate::upstream::NodeIndex;

impl Worker {
    /// Whether a read that has been taken up is to be [handed on](Self::hand_on), for which this was found: its key is in the sample, and
    /// none waits already that says the same. All that a hit costs whose key is hot, or not in the sample.
    #[inline]
    pub(super) fn samples(&self, query: &Query<'_>, finding: Finding) -> bool {
        self.tap.takes(query.slot) && !(finding.is_answered() && self.tap.repeats(query.hash))
    }

    /// Hands it on, once. `request` reads this key alone.
    #[cold]
    pub(super) fn hand_on(
        &self,
        caller: &Caller,
        (at, request): (NodeIndex, Request<'_>),
        (query, rule): (&Query<'_>, RuleIndex),
        finding: Finding,
        now: Time,
    ) {
        let memory = &self.shared.l1.memory;
        if !finding.is_asked() {
            return;
        }
        let able = match finding {
            Finding::Miss(Miss::BehindWrite) => false,
            // Without anything in memory there may be no lease, and with other settings there would be.
            Finding::Miss(Miss::Blind) => memory.store.is_empty(),
            _ => true,
        };
        let (ear, stamp) = (caller.ear(at), memory.stamps.load(query.slot));
        let warrant = stamp.quiet().then(|| Warrant::new(stamp, ear.freshness.epoch()));
        let is_answered = finding.is_answered();
        if able && warrant.is_some_and(|warrant| self.tap.repeats_with(query.hash, warrant, is_answered)) {
            return;
        }
        let read = MiniatureRead { id: mixed(query.hash), slot: query.slot.number(), warrant, at: now, able };
        let settings = &self.settings;
        let promotion = settings.promote(rule);
        let fill = Fill::new(request, query, caller.who.db, settings.ceiling(rule), promotion.max_value)
            .by_settings(settings.number())
            .leaving(self.shared.early(request.arg(1)));
        let held =
            if finding.is_absent() { None } else { memory.store.measure(query, &memory.stamps, &ear.freshness, now) };
        let sampled = SampledRead { read, times: 1, held, rule, fill, ear: Arc::clone(ear) };
        let is_put = self.tap.put(query.hash, sampled, is_answered);
        let counter = if is_put { &self.stats.sampled_reads } else { &self.stats.sampled_reads_lost };
        counter.add(1);
    }
}
