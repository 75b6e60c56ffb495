//! Since when a command is under way, and whether it is one of the sample: in one word, for it is moved with every request.

use std::time::Duration;

use crate::clock::Time;
use crate::metrics::WorkerStats;
use crate::upstream::ReplyEnd;

/// Replies of so many bytes or more, and commands, are noted whether they are in the sample or not.
pub(super) const BIG: u64 = 16 << 10;

/// Nanoseconds; the lowest bit says whether it is in the sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start(u64);

impl Start {
    /// Of a command that was taken up at `now`, which the sample may choose.
    #[inline]
    pub(super) fn of(stats: &WorkerStats, now: Time) -> Self {
        if stats.is_sampled() { Self(Time::now().as_nanos() | 1) } else { Self::at(now) }
    }

    /// Of one that is not in the sample.
    pub(super) fn at(now: Time) -> Self {
        Self(now.as_nanos() & !1)
    }

    /// Whether it is in the sample.
    pub(super) fn is_sampled(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether something may be to be noted of a command with this reply, where one is slow after so many nanoseconds.
    #[inline]
    pub(super) fn is_noted(self, end: ReplyEnd, slow_after: u64) -> bool {
        end.at.as_nanos().saturating_sub(self.0) > slow_after || end.size >= BIG || self.is_sampled()
    }

    /// How long it has been under way then.
    pub(super) fn until(self, end: Time) -> Duration {
        end.saturating_since(Time::from_nanos(self.0))
    }

    /// When it began.
    pub(super) fn time(self) -> Time {
        Time::from_nanos(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quick_small_and_not_in_the_sample_is_not_noted() {
        let (at, ms) = (Time::from_nanos(1 << 50), Duration::from_millis);
        let end = |after, size| ReplyEnd { at: at.plus(ms(after)), size };
        let (start, slow) = (Start::at(at), 10_000_000);
        let is_noted = |after, size| start.is_noted(end(after, size), slow);
        assert!(!is_noted(10, 100) && is_noted(11, 100) && is_noted(0, BIG));
        assert!(!start.is_sampled() && start.until(end(3, 0).at) == ms(3));
        assert!(!Start::at(Time::NEVER).is_noted(end(99, 1), slow), "nobody waits for that");
        let stats = WorkerStats::default();
        let first = Start::of(&stats, at);
        assert!(first.is_sampled() && first.is_noted(end(0, 1), slow), "the first request is in the sample");
        let sampled = (0..6400).filter(|_| Start::of(&stats, at).is_sampled()).count();
        assert!((50..150).contains(&sampled), "{sampled}");
    }
}
