//! The doorkeeper of a full L1: a key gets in when it is asked for a second time.
//!
//! Once entries must be evicted for every one that is taken in, most keys that win the coin would lose to those that are there:
//! their fills, two commands of Redis each, would be for nothing. So a first knock only leaves a print, and a second one, while
//! the print is there, lets the key in. The idea is `TinyLFU`'s (Einziger, Friedman, Manes, 2017, section 3.4.2); a table
//! whose prints overwrite each other stands for a Bloom filter, for it forgets by itself and never all at once. Used by
//! [`store`](super::store) alone. Two keys may share a print, which costs a fill and nothing else.

use std::sync::atomic::{AtomicU16, Ordering};

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Doorkeeper {
    prints: Box<[AtomicU16]>,
}

impl Doorkeeper {
    /// One that remembers about as many keys as an L1 of `l1_size` bytes has entries.
    pub(super) fn new(l1_size: u64) -> Self {
        Self::with_prints(Self::prints(l1_size))
    }

    /// One of so many prints of two bytes each, a power of two.
    pub(crate) fn with_prints(prints: u64) -> Self {
        Self { prints: (0..prints).map(|_| AtomicU16::new(0)).collect() }
    }

    /// How many an L1 of `l1_size` bytes has.
    pub(crate) fn prints(l1_size: u64) -> u64 {
        (l1_size / 512).next_power_of_two().max(1 << 10)
    }

    /// Whether the key has knocked before.
    pub(crate) fn knows(&self, hash: u64) -> bool {
        let print = (hash >> 48) as u16 | 1;
        let place = &self.prints[hash as usize & (self.prints.len() - 1)];
        let known = place.load(Ordering::Relaxed) == print;
        if !known {
            place.store(print, Ordering::Relaxed);
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_from_its_second_knock_until_others_have_taken_its_place() {
        let doorkeeper = Doorkeeper::new(1 << 20);
        let hash = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        assert!(!doorkeeper.knows(hash(1)));
        assert!(doorkeeper.knows(hash(1)) && doorkeeper.knows(hash(1)));
        let known = (1000..2000).filter(|&n| doorkeeper.knows(hash(n))).count();
        assert!(known < 5, "{known} of a thousand strangers were taken for others");
        let passed = (2000..200_000).filter(|&n| doorkeeper.knows(hash(n))).count();
        assert!(passed < 1000, "{passed}");
        assert!(!doorkeeper.knows(hash(1)));
    }

    #[test]
    fn it_takes_little_of_what_l1_may_take() {
        for l1_size in [0, 1 << 20, 1 << 30] {
            let bytes = size_of_val(&*Doorkeeper::new(l1_size).prints) as u64;
            assert_eq!(bytes, 2 * Doorkeeper::prints(l1_size));
            assert!(bytes <= 2048 + l1_size / 128, "{bytes} of {l1_size}");
        }
    }
}
