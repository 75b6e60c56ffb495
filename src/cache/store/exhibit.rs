//! An entry that has just answered, held so that what it said can be compared with what Redis says later.
//!
//! Whether it still counts is asked of its own stamp, epoch and deadline, as a hit asks: an entry that has taken its place since is of
//! no interest. Made for few hits, by the audit alone.
//!
//! Holds contract point 5 (nothing old stays).

use super::super::stamp::Slot;
use super::super::watermarks::{HitFault, KeyMarks};
use super::{Entry, Epoch, Freshness, Identity, Query, Stamps, Store, Time, Verdict};

/// See the module's head.
pub struct Exhibit {
    entry: Entry,
    hash: u64,
    slot: Slot,
}

impl Exhibit {
    /// Who read it, which command with which arguments.
    pub fn answers(&self) -> (Identity, u16, &[u8]) {
        self.entry.answers()
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        self.entry.key()
    }

    /// The place of its key's stamp.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// What was answered, in RESP3.
    pub fn reply(&self) -> &[u8] {
        self.entry.resp3()
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> u64 {
        self.entry.allocated()
    }
}

impl std::fmt::Debug for Exhibit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exhibit").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Store {
    /// The entry that would answer `q` at this moment.
    pub fn exhibit(&self, q: &Query, stamps: &Stamps, fresh: &Freshness, now: Time) -> Option<Exhibit> {
        let entry = self.index.entries.get(&q.hash).filter(|_| fresh.held(now))?;
        let is_current = entry.judge(q, (stamps, &self.slots), fresh.epoch(), now) == Verdict::Current;
        is_current.then(|| Exhibit { entry: entry.value().clone(), hash: q.hash, slot: q.slot })
    }

    /// Whether it would still answer, were there a lease: nobody has said that its key has changed, or that all is to be forgotten, and
    /// its time is not over.
    pub fn stands(&self, exhibit: &Exhibit, stamps: &Stamps, epoch: Epoch, now: Time) -> bool {
        exhibit.entry.stands(exhibit.slot, (stamps, &self.slots), epoch, now)
    }

    /// What is wrong with that it has answered, where these were the watermarks of its key before it was looked up. If another entry has taken
    /// the place of the one that did, that came later, and accuses nobody.
    pub fn order(&self, exhibit: &Exhibit, marks: KeyMarks) -> Result<(), HitFault> {
        self.watermarks.judge(marks, exhibit.entry.serial())
    }

    /// It was wrong: it goes, and so does all else that is kept of its key.
    pub fn withdraw(&self, exhibit: &Exhibit, stamps: &Stamps) {
        stamps.touch(exhibit.slot);
        self.forget(exhibit.hash, exhibit.entry.serial());
    }
}
