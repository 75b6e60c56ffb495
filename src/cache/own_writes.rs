//! When this process's writes were answered last, by slot: which state of a replica is older than what somebody here wrote.
//!
//! Kept only where replicas are read. A write that is answered is noted before its client can learn of it, and so is whatever ends the
//! joining of flights; whoever would read from a replica looks. What names no keys counts for all of them.
//!
//! Holds contract points 3 (own writes) and 8 (no leaks).

use std::sync::atomic::{AtomicU64, Ordering};

use super::stamp::Slot;
use crate::clock::Time;

const PLACES: usize = 1 << 16;

/// See the module's head. One for the process.
pub(crate) struct OwnWrites {
    slots: Box<[AtomicU64]>,
    /// Of one that may have changed anything.
    all: AtomicU64,
    /// Of one that may have changed rights.
    rights: AtomicU64,
}

impl Default for OwnWrites {
    fn default() -> Self {
        let slots = (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Self { slots, all: AtomicU64::new(0), rights: AtomicU64::new(0) }
    }
}

impl OwnWrites {
    /// A write of keys in these slots was answered.
    pub(crate) fn note(&self, slots: &[Slot], now: Time) {
        for &slot in slots {
            self.at(slot).fetch_max(now.as_nanos(), Ordering::AcqRel);
        }
    }

    /// One was that may have changed any key, or something has happened that is like one.
    pub(crate) fn note_all(&self, now: Time) {
        self.all.fetch_max(now.as_nanos(), Ordering::AcqRel);
    }

    /// One was that may have changed what a user may do.
    pub(crate) fn note_rights(&self, now: Time) {
        self.rights.fetch_max(now.as_nanos(), Ordering::AcqRel);
    }

    /// When the last was answered that may have changed keys in this slot, or in one that shares its place.
    pub(crate) fn last(&self, slot: Slot) -> Time {
        let all = self.all.load(Ordering::Acquire);
        Time::from_nanos(self.at(slot).load(Ordering::Acquire).max(all))
    }

    /// The same of what users may do.
    pub(crate) fn last_of_rights(&self) -> Time {
        Time::from_nanos(self.rights.load(Ordering::Acquire))
    }

    fn at(&self, slot: Slot) -> &AtomicU64 {
        &self.slots[slot.number() as usize % PLACES]
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stamps;
    use super::*;

    const AT: fn(u64) -> Time = Time::from_nanos;

    #[test]
    fn the_last_write_of_a_slot_counts_and_one_of_any_key_for_all() {
        let (writes, stamps) = (OwnWrites::default(), Stamps::for_l1(0));
        let [a, b] = [&b"a"[..], b"b"].map(|key| stamps.slot(stamps.hash(key)));
        assert_eq!((writes.last(a), writes.last_of_rights()), (Time::ZERO, Time::ZERO));
        writes.note(&[a], AT(7));
        writes.note(&[a], AT(5));
        assert_eq!((writes.last(a), writes.last(b)), (AT(7), Time::ZERO));
        writes.note_all(AT(9));
        writes.note(&[b], AT(11));
        assert_eq!((writes.last(a), writes.last(b), writes.last_of_rights()), (AT(9), AT(11), Time::ZERO));
        writes.note_rights(AT(12));
        assert_eq!(writes.last_of_rights(), AT(12));
    }
}
