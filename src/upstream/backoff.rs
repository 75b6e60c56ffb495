//! How long to wait before the next try to connect: doubling, capped, jittered so that a fleet does not knock in step.

use std::time::Duration;

use rand::Rng;

/// Waits of 50 ms, 100 ms, 200 ms .. 2 s, unless other ends are given, each drawn between half and the whole ("equal jitter").
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

impl Default for Backoff {
    fn default() -> Self {
        Self::between(FIRST, LONGEST)
    }
}

impl Backoff {
    /// Waits that begin with `first` and double up to `longest`.
    pub(crate) const fn between(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The next wait.
    pub(crate) fn wait(&mut self) -> Duration {
        let whole = self.first.saturating_mul(1 << self.failures.min(10)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// A success: the next failure starts from the shortest wait again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_a_cap_and_starts_anew() {
        let mut backoff = Backoff::default();
        for expected in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
            let wait = backoff.wait().as_millis();
            assert!((expected / 2..=expected).contains(&wait), "{wait} ms for {expected} ms");
        }
        backoff.reset();
        assert!(backoff.wait() <= FIRST);
    }
}
