//! Which hits and misses Moka is told of: as few as keep its frequencies true.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Moka is told of an entry's first hits, and of one in so many of the later ones.
const LATER_HITS: u32 = 32;
/// Once entries are evicted, it is told of one hit in so many, and of as large a part of the misses: what it compares are those
/// of one key with those of another. More seldom would cost hits (`cargo bench --bench hit_ratio`).
const WHEN_FULL: u32 = 2;

/// Decides for one worker which hits and misses Moka is told of.
#[derive(Debug)]
pub struct Sampler {
    rng: SmallRng,
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new()
    }
}

impl Sampler {
    /// Seeded from the system.
    pub fn new() -> Self {
        Self { rng: SmallRng::from_rng(&mut rand::rng()) }
    }

    /// True for as many as make one in `one_in` of all, where one in `of` of them is asked about.
    pub(crate) fn is_chosen(&mut self, of: u32, one_in: u32) -> bool {
        self.rng.random_range(0..one_in) < of
    }

    /// Whether Moka is told of a hit: in an L1 that is `full`, or of an entry's `first` hits.
    #[inline]
    pub(crate) fn tells_hit(&mut self, full: bool, first: bool) -> bool {
        if full { self.one_in(WHEN_FULL) } else { first || self.one_in(LATER_HITS) }
    }

    /// Whether it is told of a miss.
    #[inline]
    pub(crate) fn tells_miss(&mut self, full: bool) -> bool {
        !full || self.one_in(WHEN_FULL)
    }

    /// At random, since a count would fall into step with clients that read the same keys in turn.
    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random::<u32>() < u32::MAX / n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_so_many_is_about_that() {
        let mut sampler = Sampler { rng: SmallRng::seed_from_u64(7) };
        let taken = (0..100_000).filter(|_| sampler.one_in(32)).count();
        assert!((2_800..3_500).contains(&taken), "{taken} of 100000");
        assert!((0..1000).all(|_| sampler.one_in(1) && sampler.is_chosen(64, 64) && sampler.is_chosen(1, 1)));
        let chosen = (0..100_000).filter(|_| sampler.is_chosen(64, 1000)).count();
        assert!((5_900..6_900).contains(&chosen), "{chosen} of 100000");
    }
}
