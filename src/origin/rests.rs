//! When the next load ahead of need of a key may begin: not at once after one that failed, or that came too early.
//!
//! Keys share places by their hash, so this needs no more room the more keys there are; who shares one waits a little longer.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Time;

const PLACES: usize = 1024;

/// See the module's head.
pub(super) struct Rests {
    ends: Box<[AtomicU64]>,
    hasher: ahash::RandomState,
}

impl Default for Rests {
    fn default() -> Self {
        Self { ends: (0..PLACES).map(|_| AtomicU64::new(0)).collect(), hasher: ahash::RandomState::new() }
    }
}

impl Rests {
    /// Not before then.
    pub(super) fn set(&self, db: u32, key: &[u8], end: Time) {
        self.place(db, key).store(end.as_nanos(), Ordering::Relaxed);
    }

    /// From when on it may begin.
    pub(super) fn get(&self, db: u32, key: &[u8]) -> Time {
        Time::from_nanos(self.place(db, key).load(Ordering::Relaxed))
    }

    fn place(&self, db: u32, key: &[u8]) -> &AtomicU64 {
        let hash = self.hasher.hash_one((db, key));
        &self.ends[usize::try_from(hash % PLACES as u64).expect("it is less than that")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_rests_until_then() {
        let (rests, end) = (Rests::default(), Time::from_nanos(7));
        assert_eq!(rests.get(0, b"k"), Time::from_nanos(0));
        rests.set(0, b"k", end);
        assert_eq!(rests.get(0, b"k"), end);
        let others = (0..1000_u32).filter(|db| rests.get(db + 1, b"k") == end).count();
        assert!(others < 100, "{others}");
    }
}
