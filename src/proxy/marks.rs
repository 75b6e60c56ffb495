//! What a write does to stamps: they change when it is sent and when it is answered, and once more around `EXEC`.
//!
//! Marks that have begun must be ended whatever becomes of their write, or the slots of its keys stay under way for ever:
//! [`Pending`](super::Pending) does that. Made by `caller` and `session`, when they send.

use std::sync::Arc;

use smallvec::SmallVec;

use super::caller;
use crate::cache::Slot;
use crate::command::{Alters, Effect, Spec};
use crate::invalidation::{Change, Debt, L1, News, Notice};
use crate::resp::Request;

/// Of more keys than this each is marked once, however often it is named: a stamp counts writes only up to a point.
const REPEATED: usize = 64;

/// The stamps of a write under way, and what the fleet is told when it is done.
#[derive(Default)]
pub struct Marks {
    slots: SmallVec<[Slot; 4]>,
    /// It may change keys that it does not name.
    pub(super) opaque: bool,
    /// It is told of with the `EXEC` of its transaction, if there is one after all.
    pub(super) queued: bool,
    /// It may change keys of which Redis tells nobody.
    pub(super) secret: bool,
    change: Option<Box<Change>>,
    news: Option<Box<News>>,
}

impl Marks {
    /// A write is about to be sent.
    pub fn begin(l1: &Arc<L1>, spec: &Spec, request: Request<'_>) -> Self {
        let mut marks = Self::queued(l1, spec, request);
        let alters = spec.alters(request);
        marks.change = alters.any().then(|| Box::new(Change::begin(l1, alters)));
        note(&mut marks.news, l1, spec, request);
        Self { queued: false, ..marks }
    }

    /// The same for a write that is only queued: there is nothing to tell yet.
    pub fn queued(l1: &L1, spec: &Spec, request: Request<'_>) -> Self {
        let mut slots: SmallVec<[Slot; 4]> = caller::slots(l1, spec, request).collect();
        if slots.len() > REPEATED {
            slots.sort_unstable();
            slots.dedup();
        }
        slots.iter().for_each(|&slot| l1.stamps.begin(slot));
        let (opaque, secret) = (spec.effect == Effect::Opaque, spec.alters(request).keys);
        Self { slots, opaque, queued: true, secret, ..Self::default() }
    }

    /// What goes with it in one step, where the channel carries coherence and there is something to tell.
    pub(super) fn take_notice(&mut self) -> Option<Notice> {
        let notice = std::mem::take(&mut self.news.as_mut()?.notice);
        (!notice.is_empty()).then_some(notice)
    }

    /// Joins two writes that one reply answers.
    pub fn add(&mut self, other: Self) {
        self.slots.extend(other.slots);
        self.opaque |= other.opaque;
        self.secret |= other.secret;
        self.change = self.change.take().or(other.change);
        match (&mut self.news, other.news) {
            (Some(news), Some(more)) => news.add(*more),
            (news, more) => *news = news.take().or(more),
        }
    }

    /// It was answered. `refused`: nothing was written. What comes back is settled before its client learns of it.
    pub(super) fn end(&mut self, l1: &L1, refused: bool) -> Option<Debt> {
        let debt = self.change.take().and_then(|change| change.answered(refused));
        self.slots.drain(..).for_each(|slot| l1.stamps.end(slot));
        if let (Some(news), Some(fleet), false) = (self.news.take(), &l1.fleet, refused) {
            fleet.tell(*news);
        }
        debt
    }

    /// Its connection was lost: it may have been written, or may yet be.
    pub(super) fn lose(&mut self, l1: &L1) {
        drop(self.change.take());
        let none = self.end(l1, false);
        debug_assert!(none.is_none(), "the change is gone");
    }
}

/// Notes which keys a write changes, where the fleet is told of writes.
fn note(news: &mut Option<Box<News>>, l1: &L1, spec: &Spec, request: Request<'_>) {
    let Some(fleet) = &l1.fleet else { return };
    let notices = l1.notices().is_some();
    if news.is_none() {
        *news = if notices { Some(Box::default()) } else { fleet.news() };
    }
    let Some(news) = news else { return };
    if notices {
        news.notice.add(spec, request);
    }
    if fleet.tells_writes() {
        if spec.flushes() {
            news.flushed();
        }
        spec.keys(request).for_each(|key| news.key(key));
    }
}

/// What a session's `MULTI` has queued so far.
#[derive(Debug, Default)]
pub struct Transaction {
    slots: Vec<Slot>,
    /// Of the keys that are only read.
    reads: Vec<Option<Slot>>,
    opaque: bool,
    alters: Alters,
    news: Option<Box<News>>,
}

impl Transaction {
    /// A write was queued.
    pub fn queue(&mut self, l1: &L1, spec: &Spec, request: Request<'_>) {
        self.slots.extend(caller::slots(l1, spec, request));
        self.reads.extend(spec.reads_unnamed(request).then_some(None));
        self.opaque |= spec.effect == Effect::Opaque;
        note(&mut self.news, l1, spec, request);
    }

    /// What was queued may change this.
    pub fn queue_change(&mut self, alters: Alters) {
        self.alters = self.alters.and(alters);
    }

    /// A read was queued.
    pub fn queue_read(&mut self, l1: &L1, spec: &Spec, request: Request<'_>) {
        self.reads.extend(caller::slots_read(l1, spec, request));
    }

    /// The keys that `EXEC` reads; `None` is any key.
    pub fn reads(&self) -> &[Option<Slot>] {
        &self.reads
    }

    /// `EXEC` is about to be sent: the keys are marked once more.
    pub fn begin(&mut self, l1: &Arc<L1>) -> Marks {
        if self.slots.len() > REPEATED {
            self.slots.sort_unstable();
            self.slots.dedup();
        }
        self.slots.iter().for_each(|&slot| l1.stamps.begin(slot));
        let change = self.alters.any().then(|| Box::new(Change::begin(l1, self.alters)));
        let slots = self.slots.iter().copied().collect();
        Marks { slots, opaque: self.opaque, queued: false, secret: self.alters.keys, change, news: self.news.take() }
    }
}
