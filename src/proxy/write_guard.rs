//! What a write does to stamps: they change when it is sent and when it is answered, and once more around `EXEC`.
//!
//! A [`WriteGuard`] is made before the first byte of the write can leave, and ended when its answer is here, before the client
//! learns of it. Dropped otherwise the write is lost: it may have been done, or may yet be. So no slot stays under way for ever.
//! Made by `caller` and `session`, when they send; held by what awaits the reply.
//!
//! Holds contract point 3 (own writes).

use std::rc::Rc;

use smallvec::SmallVec;

use super::site::Site;
use crate::beyond::Companions;
use crate::cache::{ArrivalMoment, OwnWrites, Slot};
use crate::clock::Time;
use crate::command::{Alters, Effect, Spec};
use crate::invalidation::{Change, Debt, L1, News, Notice, Publisher};
use crate::resp::Request;

/// Of more keys than this each is marked once, however often it is named: a stamp counts writes only up to a point.
const REPEATED: usize = 64;

/// The stamps of a write under way, and what the fleet is told when it is done. See the module's head.
#[must_use = "dropped, the write counts as lost"]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
pub(crate) struct WriteGuard {
    site: Rc<Site>,
    slots: SmallVec<[Slot; 4]>,
    aftermath: Option<Box<Aftermath>>,
    /// It may change keys that it does not name.
    pub(super) opaque: bool,
    /// It is told of with the `EXEC` of its transaction, if there is one after all.
    pub(super) queued: bool,
    /// It may change keys of which Redis tells nobody.
    pub(super) secret: bool,
    /// Where writes are to tell of themselves, this one does, or has nothing to tell. Not where it was sent before it was known
    /// that they are to.
    pub(super) told: bool,
}

/// What few writes have. It lies apart so that what awaits a reply is small: it is moved with every request.
#[derive(Default)]
struct Aftermath {
    change: Option<Change>,
    news: Option<News>,
    companions: Companions,
    /// When it was about to be sent, where the audit wants to know. Not where it is only queued.
    begun: Option<ArrivalMoment>,
}

impl WriteGuard {
    /// A write is about to be sent.
    pub(crate) fn begin(site: &Rc<Site>, spec: &Spec, request: Request<'_>) -> Self {
        let l1 = &site.shared.l1;
        let (alters, begun) = (spec.alters(request), l1.memory.store.watermarks().moment());
        let mut guard = Self::mark(site, spec, request, alters);
        if begun.is_some() {
            guard.aftermath().begun = begun;
        }
        if alters.any() {
            guard.aftermath().change = Some(Change::begin(l1, alters));
        }
        if wants_news(l1) {
            note_news(guard.aftermath().news.get_or_insert_default(), l1, spec, request);
        }
        guard
    }

    /// As [`begin`](Self::begin), with what goes with the write, in this database, where something lies beyond the upstream for its keys.
    pub(super) fn begin_accompanied(site: &Rc<Site>, spec: &Spec, request: Request<'_>, db: u32) -> Self {
        let mut guard = Self::begin(site, spec, request);
        if let Some(beyond) = &site.shared.l1.terms.beyond
            && beyond.is_concerned(spec, request)
        {
            let companions = &mut guard.aftermath().companions;
            beyond.accompany(spec, request, db, companions);
        }
        guard
    }

    /// The same for a write that is only queued: there is nothing to tell yet.
    pub(crate) fn begin_queued(site: &Rc<Site>, spec: &Spec, request: Request<'_>) -> Self {
        let mut guard = Self::mark(site, spec, request, spec.alters(request));
        guard.queued = true;
        guard
    }

    fn mark(site: &Rc<Site>, spec: &Spec, request: Request<'_>, alters: Alters) -> Self {
        let l1 = &site.shared.l1;
        let mut slots = SmallVec::new();
        l1.memory.stamps.slots(spec.keys(request)).for_each(|slot| slots.push(slot));
        once_each(&mut slots);
        slots.iter().for_each(|&slot| l1.memory.stamps.begin(slot));
        let (opaque, secret, told) = (spec.effect == Effect::Opaque, alters.keys, l1.mode().writes_tell());
        Self { site: Rc::clone(site), slots, aftermath: None, opaque, queued: false, secret, told }
    }

    /// Of `EXEC`, which is about to be sent: what it carries out changes keys in `slots` and may change what `alters` says, and is
    /// opaque where that is said; with what the fleet is told, and whether that is all there is to tell.
    pub(super) fn of_transaction(
        site: &Rc<Site>,
        mut slots: SmallVec<[Slot; 4]>,
        alters: Alters,
        (opaque, news, told): (bool, Option<Box<News>>, bool),
        companions: Companions,
    ) -> Self {
        let l1 = &site.shared.l1;
        let begun = l1.memory.store.watermarks().moment();
        once_each(&mut slots);
        slots.iter().for_each(|&slot| l1.memory.stamps.begin(slot));
        let change = alters.any().then(|| Change::begin(l1, alters));
        let news = news.map(|news| *news);
        let any = change.is_some() || news.is_some() || !companions.is_empty() || begun.is_some();
        let aftermath = any.then(|| Box::new(Aftermath { change, news, companions, begun }));
        Self { site: Rc::clone(site), slots, aftermath, opaque, queued: false, secret: alters.keys, told }
    }

    /// Of a write of which nothing is known but that there is one.
    pub(crate) fn unmarked(site: &Rc<Site>) -> Self {
        let site = Rc::clone(site);
        Self { site, slots: SmallVec::new(), aftermath: None, opaque: false, queued: false, secret: false, told: true }
    }

    fn aftermath(&mut self) -> &mut Aftermath {
        self.aftermath.get_or_insert_default()
    }

    /// It goes without what would tell of it.
    pub(super) fn untold(mut self) -> Self {
        self.told = false;
        self
    }

    /// The commands that go with it in one step.
    pub(super) fn take_companions(&mut self) -> Companions {
        self.aftermath.as_mut().map(|rest| std::mem::take(&mut rest.companions)).unwrap_or_default()
    }

    /// It was answered: the keys that it names may have changed. What else may have L1 is told.
    pub(super) fn note(&self, own: &OwnWrites, now: Time) {
        own.note(&self.slots, now);
    }

    /// What goes with it in one step, where the channel carries coherence and there is something to tell.
    pub(super) fn take_notice(&mut self) -> Option<Notice> {
        let notice = std::mem::take(&mut self.aftermath.as_mut()?.news.as_mut()?.notice);
        (!notice.is_empty()).then_some(notice)
    }

    /// Joins two writes that one reply answers.
    pub(crate) fn add(&mut self, mut other: Self) {
        // What is told of the one that names keys; of two that do, nothing.
        let (mine, others) = (!self.slots.is_empty(), !other.slots.is_empty());
        self.slots.append(&mut other.slots);
        if let Some(rest) = self.aftermath.as_mut().filter(|_| others) {
            rest.begun = None;
        }
        self.opaque |= other.opaque;
        self.secret |= other.secret;
        self.told &= other.told;
        let Some(more) = other.aftermath.take() else { return };
        let rest = self.aftermath();
        if !mine {
            rest.begun = more.begun;
        }
        rest.change = rest.change.take().or(more.change);
        rest.companions.join(more.companions);
        match (&mut rest.news, more.news) {
            (Some(news), Some(more)) => news.add(more),
            (news, more) => *news = news.take().or(more),
        }
    }

    /// It was answered. `refused`: nothing was written. What comes back is settled before its client learns of it.
    pub(super) fn end(&mut self, refused: bool) -> Option<Debt> {
        let owed = self.owed(refused && !self.opaque);
        let Some(rest) = self.aftermath.take() else {
            self.end_marks(None);
            return owed;
        };
        let debt = rest.change.and_then(|change| change.answered(refused));
        self.end_marks(rest.begun.filter(|_| !refused));
        let l1 = &self.site.shared.l1;
        if let (Some(news), Some(fleet), false) = (rest.news, &l1.fleet, refused) {
            fleet.tell(news);
        }
        owed.or(debt)
    }

    /// `begun`: it is acknowledged, and the audit is told.
    fn end_marks(&mut self, begun: Option<ArrivalMoment>) {
        let memory = &self.site.shared.l1.memory;
        if let Some(begun) = begun {
            let watermarks = memory.store.watermarks();
            let ended = watermarks.moment();
            for slot in self.slots.drain(..) {
                memory.stamps.end(slot);
                watermarks.acknowledged(slot, begun, ended);
            }
        } else {
            self.slots.drain(..).for_each(|slot| memory.stamps.end(slot));
        }
    }

    /// What the fleet is owed where writes are to tell of themselves by now, and were not when this one was sent: it went out
    /// untold. What is only queued is not done yet, and `undone` what was refused.
    fn owed(&mut self, undone: bool) -> Option<Debt> {
        let l1 = &self.site.shared.l1;
        let untold = !self.told && !self.queued && !undone && l1.mode().writes_tell();
        self.told = true; // and not twice
        if untold { l1.owe_all() } else { None }
    }
}

impl Drop for WriteGuard {
    /// Its connection was lost: it may have been written, or may yet be. Nobody has acknowledged it.
    fn drop(&mut self) {
        if let Some(rest) = &mut self.aftermath {
            rest.begun = None;
            drop(rest.change.take());
        }
        if !self.slots.is_empty() || self.aftermath.is_some() || !self.told {
            drop(self.end(false)); // owed all the same, and nobody is left to wait
        }
    }
}

/// Where there are many.
fn once_each(slots: &mut SmallVec<[Slot; 4]>) {
    if slots.len() > REPEATED {
        slots.sort_unstable();
        slots.dedup();
    }
}

/// Whether the fleet is told of writes.
pub(super) fn wants_news(l1: &L1) -> bool {
    l1.fleet.as_ref().is_some_and(|fleet| fleet.tells_writes() || l1.mode().writes_tell())
}

/// Notes which keys a write changes.
pub(super) fn note_news(news: &mut News, l1: &L1, spec: &Spec, request: Request<'_>) {
    if l1.mode().writes_tell() {
        news.notice.add(spec, request);
    }
    if l1.fleet.as_ref().is_some_and(Publisher::tells_writes) {
        if spec.flushes() {
            news.flushed();
        }
        spec.keys(request).for_each(|key| news.key(key));
    }
}
