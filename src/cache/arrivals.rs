//! When something last came into L1, by slot: which flights a session may no longer join that was answered out of L1.
//!
//! A flight may have been carried out before a fill that came back sooner. As long as the entry answers nobody joins; but one
//! that is evicted, or whose lease or epoch ends, leaves the older flight under way, and whoever was shown the entry would go
//! back in time by joining it. No stamp tells, for nothing changed that the ear was to be told of. So a flight is joined only
//! where nothing has come in for its key since it left. Slots are few, and shared by many keys: flights last for a
//! round trip, in which few fills come in.
//!
//! The ear's task notes each fill before its entry can be found; whoever joins looks. A hit does neither.
//!
//! Holds contract point 4 (others' writes soon).

use std::sync::atomic::{AtomicU64, Ordering};

use super::stamp::Slot;
use crate::clock::Time;

const PLACES: usize = 4096;

/// See the module's head. One for the process.
#[derive(Debug)]
pub struct Arrivals(Box<[AtomicU64]>);

impl Default for Arrivals {
    fn default() -> Self {
        Self((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Arrivals {
    /// Something that was read before `now` is about to come in.
    pub fn note(&self, slot: Slot, now: Time) {
        self.at(slot).fetch_max(now.as_nanos(), Ordering::AcqRel);
    }

    /// When something last came in for this slot, or for one that shares its place.
    pub fn last(&self, slot: Slot) -> Time {
        Time::from_nanos(self.at(slot).load(Ordering::Acquire))
    }

    fn at(&self, slot: Slot) -> &AtomicU64 {
        &self.0[slot.number() as usize % PLACES]
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stamps;
    use super::*;

    #[test]
    fn the_last_arrival_counts_for_its_slot() {
        let (arrivals, stamps) = (Arrivals::default(), Stamps::for_l1(0));
        let [a, b] = [&b"a"[..], b"b"].map(|key| stamps.slot(stamps.hash(key)));
        assert_eq!(arrivals.last(a), Time::ZERO);
        arrivals.note(a, Time::from_nanos(7));
        arrivals.note(a, Time::from_nanos(5));
        assert_eq!(arrivals.last(a), Time::from_nanos(7));
        if a.number() as usize % PLACES != b.number() as usize % PLACES {
            assert_eq!(arrivals.last(b), Time::ZERO);
        }
    }
}
