//! Opaque writes, whose keys nobody knows: how many there were, and whether L1 has to wait for the ear to hear of them.
//!
//! What such a write changed nobody knows before the ear has heard it. Where its reply does not wait for a fence, L1 waits instead:
//! its moment is noted here before its reply goes out, and a request that comes later is answered from L1 only once the ear has been
//! answered what was sent since ([`due`]). How much L1 is asked for is noted too: by that the workers decide who waits, the reply
//! or L1.
//!
//! Every hit of every thread reads this, so a hit writes here only now and then: the first few after a fence was sent.
//!
//! Holds contract point 3 (own writes).
//!
//! [`due`]: OpaqueWrites::due

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::clock::Time;

/// So many requests that L1 answers while a fence is under way are more than one session that goes on alone would have.
const MANY: u32 = 4;

/// See the module's head.
#[derive(Debug, Default)]
#[repr(align(128))] // two cache lines: their neighbour is prefetched along
pub struct OpaqueWrites {
    /// When the last one was answered without a fence, in nanoseconds of [`Time`].
    last: AtomicU64,
    /// How many were answered, with a fence or without.
    answered: AtomicU64,
    /// Requests that L1 could answer since a fence was sent; no more than [`MANY`] are counted.
    asked: AtomicU32,
}

impl OpaqueWrites {
    /// One has been answered, or something has happened that is like one: no flight that left before is joined any more.
    pub fn count(&self) {
        self.answered.fetch_add(1, Ordering::AcqRel);
    }

    /// How many were counted. Worth comparing for equality.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Acquire)
    }

    /// The reply to an opaque write, which was here before `now`, is about to go out.
    pub fn add(&self, now: Time) {
        self.last.fetch_max(now.as_nanos(), Ordering::AcqRel);
    }

    /// What the ear must have heard of before L1 may answer a request that was read before `now`: all opaque writes that were
    /// acknowledged before that. To be read before an entry is looked up.
    pub fn due(&self, now: Time) -> Time {
        Time::from_nanos(self.last.load(Ordering::Acquire)).min(now)
    }

    /// L1 has what somebody asked for.
    pub fn ask(&self) {
        if self.asked.load(Ordering::Relaxed) < MANY {
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A fence is about to be sent: what follows is counted anew.
    pub fn start_over(&self) {
        self.asked.store(0, Ordering::Relaxed);
    }

    /// Whether L1 was asked at all since then.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 0
    }

    /// Whether it was asked many times since then.
    pub fn is_busy(&self) -> bool {
        self.asked.load(Ordering::Relaxed) >= MANY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Time = Time::from_nanos;

    #[test]
    fn a_request_waits_for_what_was_acknowledged_before_it_and_for_nothing_later() {
        let writes = OpaqueWrites::default();
        assert_eq!(writes.due(AT(9)), Time::ZERO);
        writes.add(AT(5));
        writes.add(AT(3));
        assert_eq!(writes.due(AT(9)), AT(5), "the later one counts, in whichever order they were noted");
        writes.add(AT(20));
        assert_eq!(writes.due(AT(9)), AT(9), "or scripts without end would make it wait without end");
        assert_eq!(writes.due(AT(21)), AT(20));
    }

    #[test]
    fn few_requests_are_told_from_many() {
        let writes = OpaqueWrites::default();
        assert!(!writes.is_asked());
        writes.ask();
        assert!(writes.is_asked() && !writes.is_busy());
        (0..100).for_each(|_| writes.ask());
        assert!(writes.is_busy());
        assert!(writes.asked.load(Ordering::Relaxed) <= MANY, "hits do not write for ever");
        writes.start_over();
        assert!(!writes.is_asked());
    }
}
