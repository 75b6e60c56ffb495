//! Commands that are slow by the settings, as they are written down for `CREMA SLOWLOG`: of their arguments, the first key alone. What waits
//! more than once, as for Redis and then for a fence, is one entry.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::replies::Replies;
use super::reply_queue::ReplyPlace;
use super::shared::Shared;
use crate::command::Spec;
use crate::metrics::{KeyName, Outcome, SlowCommand, SlowReason, WorkerStats};

/// Notes that the command at `place` of the session of `replies` waited for so long, and so many others with it, where that is slow.
#[cold]
pub(crate) fn note_wait(
    shared: &Shared,
    (replies, place): (&Replies, ReplyPlace),
    (spec, key): (&Spec, Option<&[u8]>),
    (took, reason, outcome): (Duration, SlowReason, Outcome),
    joined: usize,
) {
    if !is_slow(replies.stats(), took) {
        return;
    }
    if let Some(id) = replies.slow_at(place) {
        // These begin as the command does.
        let contains = matches!(reason, SlowReason::Session | SlowReason::Beyond);
        let is_aside = matches!(reason, SlowReason::Session | SlowReason::Ear | SlowReason::Fence);
        let answer = (!is_aside).then_some((outcome.as_str(), joined));
        return shared.stats.slow.add(id, (took, reason), answer, contains);
    }
    let (key, client) = (key.map(KeyName::of), replies.member().introduced());
    let slow = SlowCommand { name: spec.name, key, took, reason, outcome: outcome.as_str(), joined, client };
    let id = shared.stats.slow.note(slow, shared.live().slowlog_max_len);
    replies.set_slow(place, id);
}

/// Whether a command of a worker with these counters is slow that takes so long.
pub(crate) fn is_slow(stats: &WorkerStats, took: Duration) -> bool {
    took.as_nanos() > u128::from(stats.slow_after.load(Ordering::Relaxed))
}
