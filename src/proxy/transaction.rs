//! What a session's `MULTI` has queued, until `EXEC` carries it out: the keys that it reads and writes, and what it may change.
//!
//! Holds contract point 3 (own writes).

use smallvec::SmallVec;

use super::private::OwnLane;
use super::read_history::slots_read;
use super::write_guard::{WriteGuard, note_news, wants_news};
use crate::beyond::Companions;
use crate::cache::Slot;
use crate::command::{Alters, Effect, Spec};
use crate::invalidation::{L1, News};
use crate::resp::Request;

/// What a session's `MULTI` has queued so far.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    slots: SmallVec<[Slot; 4]>,
    /// Of the keys that are only read.
    reads: Vec<Option<Slot>>,
    opaque: bool,
    alters: Alters,
    news: Option<Box<News>>,
    /// What goes with it, where something lies beyond the upstream for keys that it writes.
    companions: Companions,
    /// A write was queued when writes were not to tell of themselves.
    untold: bool,
}

impl Transaction {
    /// A write was queued, of a session that was in the database `db` when the transaction began.
    pub(crate) fn queue(&mut self, l1: &L1, spec: &Spec, request: Request<'_>, db: u32) {
        self.slots.extend(l1.memory.stamps.slots(spec.keys(request)));
        self.reads.extend(spec.reads_unnamed(request).then_some(None));
        self.opaque |= spec.effect == Effect::Opaque;
        self.untold |= !l1.mode().writes_tell();
        if let Some(beyond) = &l1.terms.beyond {
            beyond.accompany(spec, request, db, &mut self.companions);
        }
        if wants_news(l1) {
            note_news(self.news.get_or_insert_default(), l1, spec, request);
        }
    }

    /// A change of the database was queued; `db` as above.
    pub(crate) fn queue_select(&mut self, l1: &L1, request: Request<'_>, db: u32) {
        if l1.terms.beyond.is_some() && request.argc() == 2 {
            self.companions.select(db, request.arg(1));
        }
    }

    /// What was queued may change this.
    pub(crate) fn queue_change(&mut self, alters: Alters) {
        self.alters = self.alters.and(alters);
    }

    /// A read was queued.
    pub(crate) fn queue_read(&mut self, l1: &L1, spec: &Spec, request: Request<'_>) {
        self.reads.extend(slots_read(&l1.memory.stamps, spec, request));
    }

    /// The keys that `EXEC` reads; `None` is any key.
    pub(crate) fn reads(&self) -> &[Option<Slot>] {
        &self.reads
    }

    /// `EXEC` is about to be sent: the keys are marked once more.
    pub(crate) fn begin(&self, lane: &OwnLane) -> WriteGuard {
        let (slots, news, companions) = (self.slots.clone(), self.news.clone(), self.companions.clone());
        WriteGuard::of_transaction(&lane.site, slots, self.alters, (self.opaque, news, !self.untold), companions)
    }
}
