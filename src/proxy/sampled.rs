//! Reads of keys in the sample, on their way from workers to whoever draws the curve (`curve`).
//!
//! Each worker has a tap. It tests one number of each read that L1 was asked for (`sampling`), and those few whose key is in the sample
//! wait to be taken; what does not fit is lost and counted. Reads of one key that come while the first of them waits, and find all
//! as that found it, are only counted with it: a hot key costs no more than another. Who takes them says how large the sample is.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::live::RuleIndex;
use crate::cache::{Measure, Slot, Warrant};
use crate::curve::{CurveBoard, MiniatureRead};
use crate::invalidation::{Ear, Fill};

/// Reads of one worker that may wait to be taken.
const WAITING: usize = 512;
/// A bit that no slot's number has: set in the mask, no key is in the sample.
const NONE: u32 = 1 << 31;
/// Keys of which further reads are counted, a power of two.
const REPEATS: usize = 256;

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
    waiting: Mutex<Vec<SampledRead>>,
    /// How often those that wait were taken.
    taken: AtomicU32,
    repeats: Box<[Repeats]>,
}

/// Reads of the same key as one that waits. Written by the worker, who may lose a few as they are taken.
#[derive(Default)]
struct Repeats {
    id: AtomicU64,
    warrant: AtomicU64,
    /// Of what waited then.
    taken: AtomicU32,
    at: AtomicU32,
    times: AtomicU32,
}

impl SampleTap {
    fn closed() -> Arc<Self> {
        let repeats = (0..REPEATS).map(|_| Repeats::default()).collect();
        let taken = AtomicU32::new(1); // nothing waited yet
        Arc::new(Self { mask: AtomicU32::new(NONE), waiting: Mutex::default(), taken, repeats })
    }

    /// Whether the keys of this slot are in the sample.
    #[inline]
    pub(super) fn takes(&self, slot: Slot) -> bool {
        (slot.number() | NONE) & self.mask.load(Ordering::Relaxed) == 0
    }

    /// Whether such a read waits, and this one is counted with it.
    pub(super) fn repeats(&self, id: u64, warrant: Warrant) -> bool {
        let known = self.repeats_of(id);
        let is_same = known.id.load(Ordering::Relaxed) == id
            && known.warrant.load(Ordering::Relaxed) == warrant.number()
            && known.taken.load(Ordering::Relaxed) == self.taken.load(Ordering::Relaxed);
        if is_same {
            known.times.store(known.times.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
        }
        is_same
    }

    /// Has a read wait. False: too many do.
    pub(super) fn put(&self, read: SampledRead) -> bool {
        let mut waiting = self.waiting();
        if waiting.len() >= WAITING {
            return false;
        }
        let (known, taken) = (self.repeats_of(read.read.id), self.taken.load(Ordering::Relaxed));
        if known.taken.load(Ordering::Relaxed) == taken {
            known.settle(&mut waiting);
        }
        if let Some(warrant) = read.read.warrant {
            known.id.store(read.read.id, Ordering::Relaxed);
            known.warrant.store(warrant.number(), Ordering::Relaxed);
            known.at.store(waiting.len() as u32, Ordering::Relaxed);
            known.taken.store(taken, Ordering::Relaxed);
        }
        waiting.push(read);
        true
    }

    fn take(&self) -> Vec<SampledRead> {
        let mut waiting = self.waiting();
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        let of_these = self.repeats.iter().filter(|known| known.taken.load(Ordering::Relaxed) == taken);
        of_these.for_each(|known| known.settle(&mut waiting));
        std::mem::take(&mut *waiting)
    }

    fn repeats_of(&self, id: u64) -> &Repeats {
        &self.repeats[id as usize & (REPEATS - 1)]
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<SampledRead>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Repeats {
    /// They are counted with the one that waits.
    fn settle(&self, waiting: &mut [SampledRead]) {
        let times = self.times.swap(0, Ordering::Relaxed);
        if let Some(read) = waiting.get_mut(self.at.load(Ordering::Relaxed) as usize) {
            read.times = read.times.saturating_add(times);
        }
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
