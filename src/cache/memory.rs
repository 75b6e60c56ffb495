//! What this process remembers of Redis, with all by which it is told whether that still counts: entries and when they came, the
//! stamps of keys, the numbers of users and databases.
//!
//! Knows no ear: whoever asks brings the freshness of the one that filled what is asked for. One for the process.
//!
//! Holds contract point 5 (nothing old stays).

use std::sync::Arc;

use super::arrivals::Arrivals;
use super::key::{Identities, Query};
use super::lease::Freshness;
use super::stamp::Stamps;
use super::store::Store;
use crate::clock::Time;
use crate::metrics::SharedCounter;

/// See the module's head.
pub(crate) struct Memory {
    /// The stamps of all keys.
    pub stamps: Stamps,
    /// The entries.
    pub store: Store,
    /// When entries came in.
    pub arrivals: Arrivals,
    /// The numbers of users and databases.
    pub identities: Identities,
}

impl Memory {
    /// An empty one of so many `bytes`, none: it keeps nothing. `evictions` counts what had to make room.
    pub(crate) fn new(bytes: u64, evictions: Arc<SharedCounter>) -> Self {
        Self {
            stamps: Stamps::for_l1(bytes),
            store: Store::counted(bytes, evictions),
            arrivals: Arrivals::default(),
            identities: Identities::default(),
        }
    }

    /// Whether it would answer `query`, filled by an ear with this freshness.
    pub(crate) fn holds(&self, query: &Query<'_>, fresh: &Freshness, now: Time) -> bool {
        self.store.contains_fresh(query, &self.stamps, fresh, now)
    }

    /// Until when it may answer `query`, where it may.
    pub(crate) fn held_until(&self, query: &Query<'_>, fresh: &Freshness, now: Time) -> Option<Time> {
        self.store.held(query, &self.stamps, fresh, now)
    }

    /// The key has changed: whatever is held under it, in every database and for every user, counts no more.
    pub(crate) fn forget(&self, key: &[u8]) {
        self.stamps.touch(self.stamps.slot(self.stamps.hash(key)));
    }
}
