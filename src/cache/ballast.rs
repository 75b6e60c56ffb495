//! What makes Moka count well how often keys are asked for: more entries, for a while, than there are.
//!
//! Left to itself a Moka with a weigher begins to count when half of its capacity is in use, and makes room for half as many
//! counters as it has entries then, a quarter of what it will have: too few, and halved too often, which costs two to four hits
//! in a hundred reads. It takes its entries times the share of its capacity in use; so it is given as many more entries as will
//! fit, which weigh nothing, and for a moment one that weighs all that is left. They are in Moka alone, never in the index.
//! Used by [`store`](super::store) alone.

use super::policy::{Policy, Ticket};

/// See the module's head. A few entries with each insertion into L1, so that none takes long.
#[derive(Default)]
pub(super) struct Ballast {
    wanted: u64,
    loaded: u64,
    dropped: u64,
}

impl Ballast {
    /// Enough to be through before another tenth of the capacity is in use.
    const AT_ONCE: u64 = 10;

    /// Goes on a little. Whether there is nothing left to do.
    pub(super) fn step(&mut self, policy: &Policy, capacity: u64) -> bool {
        let weightless = Ticket { serial: 0, weight: 0, life: 0 };
        if self.wanted == 0 {
            policy.run_pending_tasks();
            self.wanted = policy.entry_count() / 2 * 3 + 1; // two fifths of the capacity are in use
        }
        if self.loaded < self.wanted {
            let until = self.wanted.min(self.loaded + Self::AT_ONCE);
            (self.loaded..until).for_each(|n| policy.insert(Self::hash(n), weightless));
            self.loaded = until;
            if until == self.wanted {
                policy.run_pending_tasks();
                let left = capacity.saturating_sub(policy.weighted_size());
                let heavy = Ticket { weight: u32::try_from(left).unwrap_or(u32::MAX), ..weightless };
                policy.insert(Self::hash(until), heavy);
                policy.run_pending_tasks();
                policy.invalidate(&Self::hash(until));
            }
            return false;
        }
        let until = self.wanted.min(self.dropped + Self::AT_ONCE);
        (self.dropped..until).for_each(|n| policy.invalidate(&Self::hash(n)));
        self.dropped = until;
        until == self.wanted
    }

    /// A hash like any other, of nothing that anyone could ask for.
    fn hash(n: u64) -> u64 {
        0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(2 * n + 1)
    }
}
