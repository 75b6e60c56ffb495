//! Reads of keys in the sample, on their way from workers to whoever draws the curve (`curve`).
//!
//! Each worker has a tap. It tests one number of each read that L1 was asked for (`sampling`), and those few whose key is in the sample
//! wait to be taken; what does not fit is lost and counted. Reads of one key that come while the first of them waits, and find all
//! as that found it, are only counted with it: a hot key costs no more than another. Who takes them says how large the sample is.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::live::RuleIndex;
use super::repeats::{RepeatPlace, RepeatTable};
use crate::cache::{Measure, Slot, Warrant};
use crate::curve::{CurveBoard, MiniatureRead};
use crate::invalidation::{Ear, Fill};

/// Reads of one worker that may wait to be taken.
const WAITING: usize = 512;
/// A bit that no slot's number has: set in the mask, no key is in the sample.
const NONE: u32 = 1 << 31;

/// A read of a key in the sample.
pub(crate) struct SampledRead {
    /// As a miniature of L1 sees it.
    pub read: MiniatureRead,
    /// How many such there were.
    pub times: u32,
    /// What L1 has for it.
    pub held: Option<Measure>,
    /// The rule for its key.
    pub rule: RuleIndex,
    /// The same read on the ear.
    pub fill: Fill,
    /// Its user's ear.
    pub ear: Arc<Ear>,
}

/// What one worker hands on.
pub(crate) struct SampleTap {
    /// Of the slot of a key in the sample, all these bits are zero.
    mask: AtomicU32,
    waiting: Mutex<Vec<WaitingRead>>,
    /// Reads of the same keys as those that wait.
    repeats: RepeatTable,
}

struct WaitingRead {
    read: SampledRead,
    /// Where those behind it are counted.
    place: Option<RepeatPlace>,
}

impl SampleTap {
    fn closed() -> Arc<Self> {
        Arc::new(Self { mask: AtomicU32::new(NONE), waiting: Mutex::default(), repeats: RepeatTable::default() })
    }

    /// Whether the keys of this slot are in the sample.
    #[inline]
    pub(super) fn takes(&self, slot: Slot) -> bool {
        (slot.number() | NONE) & self.mask.load(Ordering::Relaxed) == 0
    }

    /// See [`RepeatTable::repeats`].
    #[inline]
    pub(super) fn repeats(&self, hash: u64) -> bool {
        self.repeats.repeats(hash)
    }

    /// See [`RepeatTable::repeats_with`].
    pub(super) fn repeats_with(&self, hash: u64, warrant: Warrant, is_answered: bool) -> bool {
        self.repeats.repeats_with(hash, warrant, is_answered)
    }

    /// Has a read with this hash wait; `is_answered`: by L1. False: too many do.
    pub(super) fn put(&self, hash: u64, read: SampledRead, is_answered: bool) -> bool {
        let mut waiting = self.waiting();
        if waiting.len() >= WAITING {
            return false;
        }
        let known = self.repeats.place(hash);
        if let Some(before) = known.and_then(|known| waiting.iter_mut().rev().find(|read| read.place == Some(known))) {
            self.settle(before);
        }
        let place = match (read.read.warrant.filter(|_| read.read.able), known) {
            (Some(warrant), _) => self.repeats.begin(hash, warrant, is_answered),
            (None, Some(known)) => {
                self.repeats.end(known);
                None
            }
            (None, None) => None,
        };
        waiting.push(WaitingRead { read, place });
        true
    }

    fn take(&self) -> Vec<SampledRead> {
        let mut waiting = self.waiting();
        self.repeats.turn();
        waiting.iter_mut().for_each(|read| self.settle(read));
        std::mem::take(&mut *waiting).into_iter().map(|waiting| waiting.read).collect()
    }

    /// Those behind a read that waits are counted with it.
    fn settle(&self, waiting: &mut WaitingRead) {
        if let Some(place) = waiting.place.take() {
            waiting.read.times = waiting.read.times.saturating_add(self.repeats.fetch(place));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<WaitingRead>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What workers and sessions share with whoever draws the curve.
#[derive(Default)]
pub(crate) struct CurveExchange {
    taps: Mutex<Vec<Arc<SampleTap>>>,
    /// What it says.
    pub board: CurveBoard,
}

impl CurveExchange {
    /// One more worker's tap, which takes nothing before it is told to.
    pub(super) fn add(&self) -> Arc<SampleTap> {
        let tap = SampleTap::closed();
        self.taps().push(Arc::clone(&tap));
        tap
    }

    /// The sample is from now on that of keys whose slot ends in so many zero bits; none: there is no sample.
    pub(crate) fn fold(&self, fold: Option<u32>) {
        let mask = fold.map_or(NONE, |fold| (1 << fold) - 1);
        self.taps().iter().for_each(|tap| tap.mask.store(mask, Ordering::Relaxed));
    }

    /// All that wait.
    pub(crate) fn take(&self) -> Vec<SampledRead> {
        self.taps().iter().flat_map(|tap| tap.take()).collect()
    }

    fn taps(&self) -> MutexGuard<'_, Vec<Arc<SampleTap>>> {
        self.taps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Stamps;

    #[test]
    fn the_sample_is_as_large_as_was_said() {
        let (exchange, stamps) = (CurveExchange::default(), Stamps::for_l1(1 << 30));
        let tap = exchange.add();
        let sampled = || {
            let slots = (0..40_000_u32).map(|key| stamps.slot(stamps.hash(&key.to_be_bytes())));
            slots.filter(|&slot| tap.takes(slot)).count()
        };
        assert_eq!(sampled(), 0, "there is none yet");
        exchange.fold(Some(0));
        assert_eq!(sampled(), 40_000);
        exchange.fold(Some(4));
        assert!((2200..2800).contains(&sampled()), "{}", sampled());
        exchange.fold(None);
        assert_eq!(sampled(), 0);
    }
}
