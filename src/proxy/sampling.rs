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
    /// A read of a key in the sample has been taken up, and this was found for it. `request` reads this key alone.
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
        let id = mixed(query.hash);
        if able && warrant.is_some_and(|warrant| self.tap.repeats(id, warrant)) {
            return;
        }
        let read = MiniatureRead { id, slot: query.slot.number(), warrant, at: now, able };
        let settings = &self.settings;
        let promotion = settings.promote(rule);
        let fill = Fill::new(request, query, caller.who.db, settings.ceiling(rule), promotion.max_value)
            .by_settings(settings.number())
            .leaving(self.shared.early(request.arg(1)));
        let held = memory.store.measure(query, &memory.stamps, &ear.freshness, now);
        let sampled = SampledRead { read, times: 1, held, rule, fill, ear: Arc::clone(ear) };
        let counter = if self.tap.put(sampled) { &self.stats.sampled_reads } else { &self.stats.sampled_reads_lost };
        counter.add(1);
    }
}
