//! How many more reads came of keys of which one waits to be taken for the curve, and says the same.
//!
//! A table of places, of which each key may have one of four. Times are counted in rounds: with a new one all places are free, and
//! nothing has to be cleared. Written by one worker, and read by whoever takes what waits: one read may be lost as that is done.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::cache::Warrant;

/// So many sets, a power of two, of so many places.
const SETS: usize = 256;
const WAYS: usize = 4;

/// See the module's head.
pub(super) struct RepeatTable {
    /// Which round it is.
    round: AtomicU32,
    sets: Box<[RepeatSet]>,
}

/// Where reads of one key are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RepeatPlace {
    set: usize,
    way: usize,
}

/// What a hit has to know of it is in one line of the processor's caches.
#[derive(Default)]
#[repr(C, align(64))]
struct RepeatSet {
    /// Of key and round; turned round where L1 did not answer.
    marks: [AtomicU64; WAYS],
    times: [AtomicU32; WAYS],
    rounds: [AtomicU32; WAYS],
    warrants: [AtomicU64; WAYS],
}

impl Default for RepeatTable {
    fn default() -> Self {
        let sets = (0..SETS).map(|_| RepeatSet::default()).collect();
        Self { round: AtomicU32::new(1), sets }
    }
}

impl RepeatTable {
    /// Whether a read with this hash waits that L1 answered, as it did this one, which is counted with it. Had the key changed since
    /// then, it would have been missed; where another worker saw that, the next that waits tells.
    #[inline]
    pub(super) fn repeats(&self, hash: u64) -> bool {
        let (set, mark) = (&self.sets[set_of(hash)], self.mark(hash));
        for (known, times) in set.marks.iter().zip(&set.times) {
            if known.load(Relaxed) == mark {
                times.store(times.load(Relaxed).wrapping_add(1), Relaxed);
                return true;
            }
        }
        false
    }

    /// Whether a read with this hash waits that found its key as this one did, which is counted with it. `is_answered`: by L1.
    pub(super) fn repeats_with(&self, hash: u64, warrant: Warrant, is_answered: bool) -> bool {
        let Some(RepeatPlace { set, way }) = self.place(hash) else { return false };
        let set = &self.sets[set];
        let is_same = set.warrants[way].load(Relaxed) == warrant.number();
        if is_same {
            set.times[way].store(set.times[way].load(Relaxed).wrapping_add(1), Relaxed);
            if is_answered {
                set.marks[way].store(self.mark(hash), Relaxed);
            }
        }
        is_same
    }

    /// Where those are counted that come behind a read with this hash, if one waits.
    pub(super) fn place(&self, hash: u64) -> Option<RepeatPlace> {
        let (set, mark) = (set_of(hash), self.mark(hash));
        let marks = self.sets[set].marks.iter().map(|known| known.load(Relaxed));
        let way = marks.into_iter().position(|known| known == mark || known == !mark)?;
        Some(RepeatPlace { set, way })
    }

    /// From now on reads with this hash are counted behind the one that comes; its place, unless all are taken. What was counted at the
    /// one that it had must have been [fetched](Self::fetch).
    pub(super) fn begin(&self, hash: u64, warrant: Warrant, is_answered: bool) -> Option<RepeatPlace> {
        let (number, round) = (set_of(hash), self.round.load(Relaxed));
        let set = &self.sets[number];
        let free = || set.rounds.iter().position(|known| known.load(Relaxed) != round);
        let way = self.place(hash).map(|place| place.way).or_else(free)?;
        let mark = self.mark(hash);
        set.marks[way].store(if is_answered { mark } else { !mark }, Relaxed);
        set.times[way].store(0, Relaxed);
        set.rounds[way].store(round, Relaxed);
        set.warrants[way].store(warrant.number(), Relaxed);
        Some(RepeatPlace { set: number, way })
    }

    /// Nothing is counted there from now on.
    pub(super) fn end(&self, place: RepeatPlace) {
        let set = &self.sets[place.set];
        set.marks[place.way].store(0, Relaxed);
        set.rounds[place.way].store(0, Relaxed);
    }

    /// So many came.
    pub(super) fn fetch(&self, place: RepeatPlace) -> u32 {
        self.sets[place.set].times[place.way].swap(0, Relaxed)
    }

    /// A new round begins, in which nothing waits yet.
    pub(super) fn turn(&self) {
        self.round.fetch_add(1, Relaxed);
    }

    #[inline]
    fn mark(&self, hash: u64) -> u64 {
        hash ^ u64::from(self.round.load(Relaxed))
    }
}

/// The low bits of a hash say whether its key is in the sample at all.
#[inline]
fn set_of(hash: u64) -> usize {
    (hash >> 56) as usize & (SETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Freshness, Stamps};
    use crate::curve::mixed;

    fn warrants() -> [Warrant; 2] {
        let (stamps, fresh) = (Stamps::for_l1(0), Freshness::new());
        let slot = stamps.slot(stamps.hash(b"k"));
        let before = Warrant::new(stamps.load(slot), fresh.epoch());
        stamps.touch(slot);
        [before, Warrant::new(stamps.load(slot), fresh.epoch())]
    }

    #[test]
    fn hits_are_counted_behind_a_hit_that_waits_until_it_is_taken() {
        let (table, [warrant, _], hash) = (RepeatTable::default(), warrants(), mixed(7));
        assert!(!table.repeats(hash) && table.place(hash).is_none(), "none waits");
        let place = table.begin(hash, warrant, true).expect("there is room");
        assert_eq!([table.repeats(hash), table.repeats(hash), table.repeats(mixed(8))], [true, true, false]);
        assert_eq!((table.place(hash), table.fetch(place), table.fetch(place)), (Some(place), 2, 0));
        table.turn();
        assert!(!table.repeats(hash) && table.place(hash).is_none(), "it was taken");
    }

    #[test]
    fn what_l1_did_not_answer_is_counted_only_with_what_found_the_key_as_it_did() {
        let (table, [before, later], hash) = (RepeatTable::default(), warrants(), mixed(7));
        table.begin(hash, before, false);
        assert!(!table.repeats(hash), "a hit may stand by something else than the miss");
        assert!(table.repeats_with(hash, before, false) && !table.repeats_with(hash, later, false));
        assert!(table.repeats_with(hash, before, true) && table.repeats(hash), "it does not, so further hits neither");
        let place = table.place(hash).expect("it waits");
        assert_eq!(table.fetch(place), 3);
        assert_eq!(table.begin(hash, later, true), Some(place), "the key has one place");
        assert!(table.repeats_with(hash, later, false) && !table.repeats_with(hash, before, false));
        table.end(place);
        assert!(!table.repeats(hash) && !table.repeats_with(hash, later, false));
    }

    #[test]
    fn four_keys_of_a_set_have_a_place_and_more_none_before_the_next_round() {
        let (table, [warrant, _]) = (RepeatTable::default(), warrants());
        let taken: Vec<_> = (1..=5).map(|hash| table.begin(hash, warrant, true).is_some()).collect();
        assert_eq!(taken, [true, true, true, true, false]);
        assert_eq!((1..=5).map(|hash| table.repeats(hash)).collect::<Vec<_>>(), taken);
        table.turn();
        assert!(table.begin(5, warrant, true).is_some());
    }
}
