//! From which number on an entry may answer still, key by key: the audit's own proof of points 3 and 4, which shares nothing with stamps.
//!
//! Entries are numbered as they come into memory. Before a write is sent, and before a push is applied, the [`ArrivalMoment`] is taken: the
//! number that the next entry will have. Once the write is acknowledged, or the push applied, no entry with a smaller number may answer:
//! what was in memory by then is older than the change. That is the *watermark* of the key. A hit that is audited takes the watermarks
//! before it is looked for, and is compared with them behind it; so what is compared is the order of events in this process, and no
//! clock. Of all that happens to a key the last decides, and so no more is remembered.
//!
//! That a moment is taken *before* stamps change is what makes an alarm certain: who asks for a value behind the change of its key's stamp is
//! given a number that is no smaller. What is in memory between the moment of a write and its answer had to be void as well, but may
//! have what was written; that is a doubt.
//!
//! What stands for a key is the place of its stamp, as everywhere. The first [`PLACES`] of these are followed; keys fall into them by
//! chance. Where there is no audit, a write looks at one flag.
//!
//! Holds contract points 3 (own writes) and 4 (others' writes soon), by showing where they are broken.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use super::atomic::{AtomicU64, Ordering};
use super::stamp::Slot;
use crate::clock::Time;
use crate::metrics::{AuditBreach, AuditDoubt};

/// So many keys are followed.
const PLACES: usize = 1 << 16;

/// A moment among the arrivals of entries: the number that the next one will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrivalMoment(u64);

/// See the module's head. One for the process.
pub struct Watermarks {
    /// The number of the next entry.
    next: AtomicU64,
    are_followed: AtomicBool,
    /// So many, once any are followed.
    most: usize,
    places: OnceLock<Box<[FollowedKey]>>,
    /// All below was in memory before a write was acknowledged that may have changed any key, of which ears are told key by key.
    opaque: AtomicU64,
    /// When that was, in nanoseconds of [`Time`].
    opaque_at: AtomicU64,
    /// The same of what no ear is told so.
    untold: AtomicU64,
}

/// What is known of the keys of one slot. None of it ever falls.
struct FollowedKey {
    /// All below was in memory before a write was sent that is acknowledged.
    written: AtomicU64,
    /// All below was in memory before a change was heard of.
    changed: AtomicU64,
    /// All below had to be void, and may be right.
    doubtful: AtomicU64,
}

impl FollowedKey {
    fn new() -> Self {
        let mark = || AtomicU64::new(0);
        Self { written: mark(), changed: mark(), doubtful: mark() }
    }
}

/// The watermarks of a key at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyMarks {
    written: u64,
    changed: u64,
    doubtful: u64,
    opaque: u64,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self::with_places(PLACES)
    }
}

impl Watermarks {
    /// Of so many keys at most.
    pub(super) fn with_places(most: usize) -> Self {
        let next = AtomicU64::new(1); // so that a mark shows even where nothing has come in
        let (are_followed, places) = (AtomicBool::new(false), OnceLock::new());
        let (opaque, opaque_at, untold) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Self { next, are_followed, most, places, opaque, opaque_at, untold }
    }

    /// From now on writes and pushes are noted, or no more. What was noted stays true.
    pub fn follow(&self, followed: bool) {
        if followed {
            self.places.get_or_init(|| (0..self.most).map(|_| FollowedKey::new()).collect());
        }
        self.are_followed.store(followed, Ordering::Release);
    }

    /// An entry comes in: its number, of which it keeps the low bits.
    pub(super) fn arrive(&self) -> u32 {
        low(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// To be taken before the stamps change of which something is to be noted; none where nothing is.
    #[inline]
    pub fn moment(&self) -> Option<ArrivalMoment> {
        self.are_followed.load(Ordering::Relaxed).then(|| ArrivalMoment(self.next.load(Ordering::Relaxed)))
    }

    /// A write of keys in this slot is acknowledged, which was sent behind the moment `begun`; before the stamp changed at its answer it was
    /// `ended`. To be called behind that, and before its client can learn of it.
    pub fn acknowledged(&self, slot: Slot, begun: ArrivalMoment, ended: Option<ArrivalMoment>) {
        if let Some(place) = self.place(slot) {
            raise(&place.written, begun);
            raise(&place.doubtful, ended.unwrap_or(begun));
        }
    }

    /// Somebody has said that a key in this slot has changed, and the stamp changed behind `before`. Where that is not `certain`, an entry
    /// may have come in since the change. To be called behind all that.
    pub fn changed(&self, slot: Slot, before: ArrivalMoment, certain: bool) {
        if let Some(place) = self.place(slot) {
            raise(if certain { &place.changed } else { &place.doubtful }, before);
        }
    }

    /// Something has happened that may have changed any key; where ears are told of each such key, when it was acknowledged.
    pub fn all_may_have_changed(&self, told: Option<Time>) {
        match (self.moment(), told) {
            (Some(moment), Some(at)) => {
                self.opaque_at.fetch_max(at.as_nanos(), Ordering::AcqRel); // before what it belongs to shows
                raise(&self.opaque, moment);
            }
            (Some(moment), None) => raise(&self.untold, moment),
            (None, _) => {}
        }
    }

    /// The watermarks of a key in this slot, where it is followed and an ear has `heard` of all that changed by then: of the keys that a
    /// write has changed, whoever knew them, it has been told as of any other. To be taken before an entry is looked up.
    pub fn of(&self, slot: Slot, heard: Time) -> Option<KeyMarks> {
        let FollowedKey { written, changed, doubtful } = self.place(slot)?;
        let opaque = self.opaque.load(Ordering::Acquire);
        let is_heard = self.opaque_at.load(Ordering::Acquire) <= heard.as_nanos();
        Some(KeyMarks {
            written: written.load(Ordering::Acquire),
            changed: changed.load(Ordering::Acquire),
            doubtful: doubtful.load(Ordering::Acquire),
            opaque: if is_heard { 0 } else { opaque }.max(self.untold.load(Ordering::Acquire)),
        })
    }

    /// What is wrong with an answer out of the entry of this number, where these were its key's watermarks before it was looked up.
    pub(super) fn judge(&self, marks: KeyMarks, number: u32) -> Result<(), HitFault> {
        let number = self.whole(number);
        if number < marks.written {
            Err(HitFault::Breach(AuditBreach::OwnWrite))
        } else if number < marks.changed {
            Err(HitFault::Breach(AuditBreach::Change))
        } else if number < marks.doubtful {
            Err(HitFault::Doubt(AuditDoubt::UnderWay))
        } else if number < marks.opaque {
            Err(HitFault::Doubt(AuditDoubt::Opaque))
        } else {
            Ok(())
        }
    }

    fn place(&self, slot: Slot) -> Option<&FollowedKey> {
        self.places.get()?.get(slot.number() as usize)
    }

    /// The number of an entry whose low bits these are: the last such. Where 2^32 others have followed it, that is too large, which accuses nobody.
    fn whole(&self, bits: u32) -> u64 {
        let next = self.next.load(Ordering::Relaxed);
        next.saturating_sub(u64::from(low(next).wrapping_sub(bits)))
    }
}

/// What is wrong with a hit, or may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HitFault {
    /// It is older than it may be.
    Breach(AuditBreach),
    /// Nobody can tell.
    Doubt(AuditDoubt),
}

/// Release: who sees it also sees the stamps that were changed before.
fn raise(mark: &AtomicU64, moment: ArrivalMoment) {
    mark.fetch_max(moment.0, Ordering::AcqRel);
}

const fn low(number: u64) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests {
    use super::super::Stamps;
    use super::*;

    fn slot() -> Slot {
        let stamps = Stamps::for_l1(0);
        stamps.slot(stamps.hash(b"k"))
    }

    fn followed() -> (Watermarks, Slot) {
        let marks = Watermarks::default();
        marks.follow(true);
        (marks, slot())
    }

    #[test]
    fn what_was_in_memory_before_a_write_was_sent_may_not_answer_behind_its_acknowledgement() {
        let (marks, slot) = followed();
        let before = marks.arrive();
        let begun = marks.moment().expect("there is one");
        let beside = marks.arrive();
        let early = marks.of(slot, Time::ZERO).expect("it is followed");
        let ended = marks.moment();
        marks.acknowledged(slot, begun, ended);
        let after = marks.arrive();
        let late = marks.of(slot, Time::ZERO).expect("it is followed");
        let judged = [before, beside, after].map(|number| marks.judge(late, number));
        let (breach, doubt) = (HitFault::Breach(AuditBreach::OwnWrite), HitFault::Doubt(AuditDoubt::UnderWay));
        assert_eq!(judged, [Err(breach), Err(doubt), Ok(())]);
        assert_eq!(marks.judge(early, before), Ok(()), "it was looked for before the write was acknowledged");
    }

    #[test]
    fn a_change_that_was_told_accuses_where_it_is_certain() {
        let (marks, slot) = followed();
        let before = marks.arrive();
        marks.changed(slot, marks.moment().expect("there is one"), false);
        let doubt = Err(HitFault::Doubt(AuditDoubt::UnderWay));
        assert_eq!(marks.judge(marks.of(slot, Time::ZERO).expect("it is followed"), before), doubt);
        marks.changed(slot, marks.moment().expect("there is one"), true);
        let breach = Err(HitFault::Breach(AuditBreach::Change));
        assert_eq!(marks.judge(marks.of(slot, Time::ZERO).expect("it is followed"), before), breach);
        let after = marks.arrive();
        assert_eq!(marks.judge(marks.of(slot, Time::ZERO).expect("it is followed"), after), Ok(()));
    }

    #[test]
    fn of_what_may_have_changed_any_key_nobody_can_tell_until_it_is_heard_of() {
        let (marks, slot) = followed();
        let at = Time::from_nanos;
        let before = marks.arrive();
        marks.all_may_have_changed(Some(at(5)));
        let after = marks.arrive();
        let judged = |heard: u64| {
            let known = marks.of(slot, at(heard)).expect("it is followed");
            [before, after].map(|number| marks.judge(known, number))
        };
        let doubt = Err(HitFault::Doubt(AuditDoubt::Opaque));
        assert_eq!([judged(4), judged(5)], [[doubt, Ok(())], [Ok(()), Ok(())]]);
        marks.all_may_have_changed(Some(at(9)));
        assert_eq!([judged(8), judged(9)], [[doubt, doubt], [Ok(()), Ok(())]]);
        marks.changed(slot, marks.moment().expect("there is one"), true);
        let breach = Err(HitFault::Breach(AuditBreach::Change));
        assert_eq!(judged(9), [breach, breach], "it was told what that write had changed");
        let (marks, slot) = followed();
        let before = marks.arrive();
        marks.all_may_have_changed(None);
        let known = marks.of(slot, Time::NEVER).expect("it is followed");
        assert_eq!(
            [before, marks.arrive()].map(|number| marks.judge(known, number)),
            [doubt, Ok(())],
            "of this no ear is told"
        );
    }

    #[test]
    fn numbers_outlast_their_low_bits_and_none_is_accused_for_that() {
        let (marks, slot) = followed();
        marks.next.store((7 << 32) - 1, Ordering::Relaxed);
        let before = marks.arrive();
        let first = marks.arrive();
        marks.changed(slot, marks.moment().expect("there is one"), true);
        let after = marks.arrive();
        let breach = Err(HitFault::Breach(AuditBreach::Change));
        let now = marks.of(slot, Time::ZERO).expect("it is followed");
        assert_eq!([before, first, after].map(|number| marks.judge(now, number)), [breach, breach, Ok(())]);
        marks.next.fetch_add(1 << 32, Ordering::Relaxed);
        assert_eq!(marks.judge(now, before), Ok(()), "it is too old to be told from a newer one");
    }

    #[test]
    fn nothing_is_noted_and_no_memory_taken_before_it_is_followed() {
        let marks = Watermarks::default();
        assert!(marks.moment().is_none() && marks.of(slot(), Time::ZERO).is_none() && marks.places.get().is_none());
        marks.follow(true);
        assert!(marks.moment().is_some() && marks.of(slot(), Time::ZERO).is_some());
        marks.follow(false);
        assert!(marks.moment().is_none());
    }
}
