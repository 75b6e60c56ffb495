//! How much memory L1 may take, and what decides within that: replaced as a whole where the size changes.
//!
//! Made and replaced by [`store`](super::store) alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::ballast::Ballast;
use super::doorkeeper::Doorkeeper;
use super::index::Index;
use super::policy::{Policy, policy};

/// What an empty store takes.
pub(super) const FIXED: u64 = 256 << 10;

/// What an L1 of `limit` bytes has for entries. Moka acts on what it is told in batches; the gap between this and the limit is what they
/// may overshoot.
pub(crate) fn room_for_entries(limit: u64) -> u64 {
    limit.saturating_sub(limit / 64 + FIXED + 2 * Doorkeeper::prints(limit))
}

/// From so many bytes in entries on it is counted how often keys are asked for.
pub(crate) fn counts_from(capacity: u64) -> u64 {
    capacity / 5 * 2
}

/// See the module's head.
pub(super) struct Allotment {
    /// Bytes that L1 may take, its own bookkeeping included.
    pub(super) limit: u64,
    /// Bytes that entries may weigh.
    pub(super) capacity: u64,
    pub(super) policy: Policy,
    pub(super) doorkeeper: Doorkeeper,
    /// What makes Moka count well, and whether that has been done.
    ballast: Mutex<Ballast>,
    prepared: AtomicBool,
}

impl Allotment {
    /// Of `limit` bytes, whose policy lets go of entries of `index`.
    pub(super) fn new(limit: u64, index: &Arc<Index>) -> Self {
        let (doorkeeper, capacity) = (Doorkeeper::new(limit), room_for_entries(limit));
        let listener = Arc::clone(index);
        let policy = policy(capacity, move |hash, ticket, cause| listener.left_policy(hash, ticket, cause));
        let (ballast, prepared) = (Mutex::default(), AtomicBool::new(false));
        Self { limit, capacity, policy, doorkeeper, ballast, prepared }
    }

    /// `bytes` are in use: whether Moka begins to count, for it does when it is half full. Before that it is prepared, a little each time.
    pub(super) fn counts(&self, bytes: u64) -> bool {
        if bytes <= counts_from(self.capacity) {
            return false;
        }
        if !self.prepared.load(Ordering::Relaxed) {
            let mut ballast = self.ballast.lock().unwrap_or_else(PoisonError::into_inner);
            self.prepared.store(ballast.step(&self.policy, self.capacity), Ordering::Relaxed);
        }
        true
    }
}
