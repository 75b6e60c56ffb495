//! Commands that are slow by the settings, as they are written down for `CREMA SLOWLOG`: of their arguments, the first key alone.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::replies::Replies;
use super::shared::Shared;
use crate::command::Spec;
use crate::metrics::{Outcome, SlowCommand, SlowReason, WorkerStats};

/// Of a key no more than so many bytes are kept.
const LONGEST: usize = 512;

/// Notes that a command of the session of `replies` waited for so long, and so many others with it, where that is slow.
#[cold]
pub(crate) fn note_wait(
    shared: &Shared,
    replies: &Replies,
    (spec, key): (&Spec, Option<&[u8]>),
    (took, reason, outcome): (Duration, SlowReason, Outcome),
    joined: usize,
) {
    if is_slow(replies.stats(), took) {
        let slow = slow_command(replies, (spec, key), took, reason);
        shared
            .stats
            .slow
            .note(SlowCommand { outcome: outcome.as_str(), joined, ..slow }, shared.live().slowlog_max_len);
    }
}

/// Whether a command of a worker with these counters is slow that takes so long.
pub(super) fn is_slow(stats: &WorkerStats, took: Duration) -> bool {
    took.as_nanos() > u128::from(stats.slow_after.load(Ordering::Relaxed))
}

/// What is written down of one.
pub(super) fn slow_command(
    replies: &Replies,
    (spec, key): (&Spec, Option<&[u8]>),
    took: Duration,
    reason: SlowReason,
) -> SlowCommand {
    let key = key.map(|key| key[..key.len().min(LONGEST)].into());
    let client = replies.member().introduced();
    SlowCommand { name: spec.name, key, took, reason, outcome: "", joined: 0, client }
}
