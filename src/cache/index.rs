//! What hits read: the entries by their hashes, and what they take in all.
//!
//! A table of [`DashMap`], for a `get` of Moka costs several times what the whole hit may. Belongs to [`store`](super::store).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use moka::notification::RemovalCause;

use super::entry::Entry;
use super::key::AsIs;
use super::policy::Ticket;
use crate::metrics::SharedCounter;

/// What an entry costs beside its own allocation, measured as memory of the process (`make bench`): a slot of the index right
/// after its table has doubled (39 bytes), and Moka's key, value, links, timer and share of its frequency sketch.
pub(super) const OVERHEAD: u64 = 400;
/// What hits read, and its sums.
pub(super) struct Index {
    pub(super) entries: DashMap<u64, Entry, AsIs>,
    pub(super) len: AtomicUsize,
    pub(super) bytes: AtomicU64,
    /// Entries are being evicted for want of room. Set by the first, unset by a second without any.
    pub(super) evicting: AtomicBool,
    pub(super) evicted: AtomicBool,
    evictions: Arc<SharedCounter>,
    shards: usize,
}

impl Index {
    pub(super) fn new(shards: usize, evictions: Arc<SharedCounter>) -> Self {
        Self {
            entries: DashMap::with_hasher_and_shard_amount(AsIs::default(), shards),
            len: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            evicting: AtomicBool::new(false),
            evicted: AtomicBool::new(false),
            evictions,
            shards,
        }
    }

    /// Counts before it inserts, so that no entry is ever uncounted.
    pub(super) fn insert(&self, hash: u64, entry: Entry) {
        self.len.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(weight(&entry), Ordering::Relaxed);
        if let Some(old) = self.entries.insert(hash, entry) {
            self.uncount(&old);
        }
    }

    pub(super) fn remove(&self, hash: u64, serial: u32) -> bool {
        let removed = self.entries.remove_if(&hash, |_, entry| entry.serial() == serial);
        if let Some((_, entry)) = &removed {
            self.uncount(entry);
        }
        removed.is_some()
    }

    fn uncount(&self, entry: &Entry) {
        self.len.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(weight(entry), Ordering::Relaxed);
    }

    /// A table never shrinks by itself: one grown by a million small entries would stay when a few large ones replace them.
    pub(super) fn shrink(&self) {
        if self.entries.capacity() > 4 * self.len.load(Ordering::Relaxed) + 16 * self.shards {
            self.entries.shrink_to_fit();
        }
    }

    /// Moka let go of a ticket. Runs inside a call of Moka and must not call it.
    pub(super) fn left_policy(&self, hash: u64, ticket: Ticket, cause: RemovalCause) {
        if cause == RemovalCause::Size {
            self.evictions.add(1);
            self.evicted.store(true, Ordering::Relaxed);
            self.evicting.store(true, Ordering::Relaxed);
        }
        self.remove(hash, ticket.serial);
    }
}

/// What an entry costs in all.
pub(super) fn weight(entry: &Entry) -> u64 {
    entry.allocated() + OVERHEAD
}
