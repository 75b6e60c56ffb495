//! A change under way of which Redis tells no tracked connection: `SWAPDB`, and what may take a right away.
//!
//! While a swap is under way nobody knows which keys are whose, so L1 answers nothing; and when one of either kind is
//! answered, nothing counts that was filled before. Not where Redis refused it: else whoever may do nothing could empty L1 for
//! all. Made by `proxy` and `session` before they send one, on any thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::sleep;

use super::L1;
use crate::metrics::EpochReason;

/// Held from before such commands are sent until they are answered. Dropped without [`Change::answered`], nobody knows whether
/// and when Redis runs them: everything is forgotten now and once more after `max_staleness`, and behind a swap L1 is silent
/// between.
#[must_use]
pub struct Change {
    l1: Option<Arc<L1>>,
    rights: bool,
    swap: bool,
}

impl Change {
    /// What may change `rights`, or is to `swap` databases, is about to be sent.
    pub fn begin(l1: &Arc<L1>, rights: bool, swap: bool) -> Self {
        if swap {
            l1.swaps.fetch_add(1, Ordering::AcqRel);
            l1.lock().values().for_each(|ear| ear.freshness.end());
        }
        Self { l1: Some(Arc::clone(l1)), rights, swap }
    }

    /// Redis has answered. `refused`: it has done nothing.
    pub fn answered(mut self, refused: bool) {
        if let Some(l1) = self.l1.take() {
            if !refused {
                self.forget(&l1);
            }
            self.end(&l1);
        }
    }

    fn forget(&self, l1: &L1) {
        if self.rights {
            l1.forget_all(EpochReason::Rights);
        }
        if self.swap {
            l1.forget_all(EpochReason::SwapDb);
        }
    }

    /// Leases begin again with the next fence, which is asked for at once.
    fn end(&self, l1: &L1) {
        if self.swap && l1.swaps.fetch_sub(1, Ordering::AcqRel) == 1 {
            l1.lock().values().for_each(|ear| ear.nudge());
        }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let Some(l1) = self.l1.take() else { return };
        self.forget(&l1);
        let later = Self { l1: None, ..*self };
        l1.control.clone().spawn(async move {
            sleep(l1.terms.max_staleness).await;
            later.forget(&l1);
            later.end(&l1);
        });
    }
}

impl L1 {
    /// Whether no lease may begin. Asked after one was renewed, which is then ended: whoever begins a swap counts it first and
    /// ends leases second.
    pub(super) fn is_swapping(&self) -> bool {
        self.swaps.load(Ordering::Acquire) > 0
    }
}
