//! Promotion: which reads, once answered from Redis, are worth copying up into L1.
//!
//! The decision is a coin, not a count: a key read N times is copied once on average, so hot keys get in by being hot and
//! Redis is asked to track only those. Joined flights skip the coin, for nothing shows heat better than a second reader who
//! arrives before the first one is answered, and so does a key whose last copy was hit often before it was changed. Deciding
//! costs no memory per key and must never look at one.

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

    /// Whether to copy what is about to be read: never for `one_in` 0, always for 1 or what is known to be `hot`, else once in
    /// `one_in` times, or if others join.
    pub fn toss(&mut self, one_in: u32, hot: bool) -> Coin {
        match one_in {
            0 => Coin::Never,
            1 => Coin::Promote,
            _ if hot => Coin::Promote,
            _ if self.rng.random_ratio(1, one_in) => Coin::Promote,
            _ => Coin::IfJoined,
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
            assert_eq!(promoter.toss(0, true), Coin::Never);
            assert_eq!(promoter.toss(1, false), Coin::Promote);
        }
    }

    #[test]
    fn a_joined_flight_is_promoted_unless_promotion_is_off() {
        let mut promoter = Promoter::new();
        assert!((0..1000).all(|_| promoter.toss(u32::MAX, false) == Coin::IfJoined));
        assert_eq!(promoter.toss(u32::MAX, true), Coin::Promote, "hot keys need no luck");
    }

    #[test]
    fn one_in_ten_is_about_a_tenth() {
        let mut promoter = Promoter { rng: SmallRng::seed_from_u64(7) };
        let taken = (0..100_000).filter(|_| promoter.toss(10, false) == Coin::Promote).count();
        assert!((9_500..10_500).contains(&taken), "{taken} of 100000");
    }
}
