//! Promotion: which reads, once answered from Redis, are worth copying up into L1.
//!
//! The decision is a coin, not a count: a key read N times is copied once on average, so hot keys get in by being hot and
//! Redis is asked to track only those. Joined flights skip the coin, for nothing shows heat better than a second reader who
//! arrives before the first one is answered, and so does a key whose last copy was hit often before it was changed. In a full L1
//! a key has to win twice, and each time with better luck: see `doorkeeper`.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// The coin of one worker. Not shared: a shared generator would be a shared cache line.
#[derive(Debug)]
pub struct Promoter {
    rng: SmallRng,
}

impl Default for Promoter {
    fn default() -> Self {
        Self::new()
    }
}

impl Promoter {
    /// A coin seeded from the system.
    pub fn new() -> Self {
        Self { rng: SmallRng::from_rng(&mut rand::rng()) }
    }

    /// Whether to copy what is about to be read: never for `one_in` 0, always for what is known to be `hot`, else once in
    /// `one_in` times, or if others join. At a `full` L1 a key that wins has only knocked, unless every key is wanted.
    pub fn toss(&mut self, one_in: u32, hot: bool, full: bool) -> Coin {
        if one_in == 0 {
            return Coin::Never;
        }
        if hot {
            return Coin::Promote;
        }
        // Who wants every key gets every key. Twice one in the root of N is once in N.
        let full = full && one_in > 1;
        let one_in = if full { one_in.isqrt() } else { one_in };
        match one_in == 1 || self.rng.random_ratio(1, one_in) {
            true if full => Coin::Knock,
            true => Coin::Promote,
            false => Coin::IfJoined,
        }
    }
}

/// How the coin fell for a read that is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coin {
    /// Not to be copied, whoever joins.
    Never,
    /// To be copied if others join.
    IfJoined,
    /// To be copied if the key has knocked before, or if others join.
    Knock,
    /// To be copied.
    Promote,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_and_always_are_exact() {
        let mut promoter = Promoter::new();
        for _ in 0..1000 {
            assert_eq!(promoter.toss(0, true, false), Coin::Never);
            assert_eq!(promoter.toss(1, false, false), Coin::Promote);
        }
    }

    #[test]
    fn a_joined_flight_is_promoted_unless_promotion_is_off() {
        let mut promoter = Promoter::new();
        assert!((0..1000).all(|_| promoter.toss(u32::MAX, false, false) == Coin::IfJoined));
        assert_eq!(promoter.toss(u32::MAX, true, true), Coin::Promote, "hot keys need no luck");
    }

    #[test]
    fn one_in_ten_is_about_a_tenth() {
        let mut promoter = Promoter { rng: SmallRng::seed_from_u64(7) };
        let taken = (0..100_000).filter(|_| promoter.toss(10, false, false) == Coin::Promote).count();
        assert!((9_500..10_500).contains(&taken), "{taken} of 100000");
    }

    #[test]
    fn at_a_full_l1_a_key_knocks_with_better_luck() {
        let mut promoter = Promoter { rng: SmallRng::seed_from_u64(7) };
        assert!((0..1000).all(|_| promoter.toss(1, false, true) == Coin::Promote));
        assert!((0..1000).all(|_| promoter.toss(2, false, true) == Coin::Knock));
        let knocks = (0..100_000).filter(|_| promoter.toss(100, false, true) == Coin::Knock).count();
        assert!((9_500..10_500).contains(&knocks), "{knocks} of 100000");
    }
}
