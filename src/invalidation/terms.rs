//! What L1 and its ears must know of the configuration.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::mode::CoherenceMode;
use crate::beyond::{Beyond, KeptKind};
use crate::clock::LiveSpan;

/// What the ears must know of the configuration.
#[derive(Debug)]
pub struct L1Terms {
    /// No answer of L1 is older than this. Changed by [`L1::rebound`](super::L1), which ends leases where it becomes shorter.
    pub max_staleness: Arc<LiveSpan>,
    /// How often a user's rights are compared.
    pub acl_recheck: Duration,
    /// Largest reply that enters L1 under any rule, in bytes: the ear keeps none that is larger.
    pub max_value: AtomicU64,
    /// Memory for L1 at start, in bytes; 0: there is none.
    pub l1_size: u64,
    /// By what means L1 hears of changes.
    pub mode: CoherenceMode,
    /// Whether the keys of a slot can leave a node alone.
    pub is_cluster: bool,
    /// Users that may have an ear at once; the reads of others are not kept.
    pub max_ears: usize,
    /// What lies beyond the upstream, where something does.
    pub beyond: Option<Arc<Beyond>>,
}

impl L1Terms {
    /// Whether something lies beyond the upstream for a key.
    pub(super) fn goes_beyond(&self, key: &[u8]) -> bool {
        self.beyond.as_ref().is_some_and(|beyond| beyond.matches(key))
    }

    /// Where it is marked that the origin of this key has none; nothing where a tier may have it all the same.
    pub(super) fn mark_of(&self, key: &[u8]) -> Option<Vec<u8>> {
        let beyond = self.beyond.as_ref()?;
        let reach = beyond.reach(key).filter(|reach| reach.origin.is_some() && reach.tiers.is_empty());
        reach.map(|_| beyond.beside(KeptKind::Load, key))
    }

    /// The key whose load's token, or mark, has this name: what happens to that, happens to the key.
    pub(super) fn loaded_by<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        self.beyond.as_ref()?.loaded_by(name)
    }

    /// The largest reply that enters L1 under any rule at present, in bytes.
    pub(super) fn max_value(&self) -> u64 {
        self.max_value.load(Ordering::Relaxed)
    }

    /// How often an ear looks after what is due.
    pub(super) fn round(&self) -> Duration {
        self.max_staleness.get().min(self.acl_recheck) / 4
    }
}
