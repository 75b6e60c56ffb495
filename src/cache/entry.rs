//! One entry of L1: an answer, what it answers, and what it takes for it to count. One allocation, shared by a thin pointer.
//!
//! Used by [`store`](super::store) alone. An entry never changes; a newer answer is a newer entry.
//!
//! Holds contract points 5 (nothing old stays) and 6 (expiry).

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use triomphe::ThinArc;

use super::key::{Identity, Query};
use super::lease::Epoch;
use super::slot_epochs::{EntryEpoch, SlotEpochs, SlotStamp};
use super::stamp::{Slot, Stamp, Stamps};
use crate::clock::Time;
use crate::resp::Resp;

/// So many hits of an entry are counted.
pub(crate) const FIRST_HITS: u8 = 16;
/// An entry that was hit so often has repaid its fill: two commands of Redis, and the message of its end.
pub(crate) const PAID: u8 = 4;

/// What a reader learns about an entry that bears the hash it looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It may be served.
    Current,
    /// It answers another query with the same 64-bit hash.
    Foreign,
    /// Its key was changed, or its epoch is over. It will never be current again.
    Stale,
    /// Its time is over.
    Expired,
}

/// A reply in RESP3, in RESP2 where that differs, and the arguments it answers, behind one pointer.
#[derive(Clone)]
pub(super) struct Entry(ThinArc<Meta, u8>);

struct Meta {
    stamp: Stamp,
    /// [`marked`](Epoch::marked) where there is a slot, so that without one a hit looks no further.
    epoch: Epoch,
    expires: Time,
    slot: SlotStamp,
    identity: Identity,
    serial: u32,
    /// Lengths of the first two parts of the bytes. What follows them is the RESP2 reply, if it differs.
    tail: u32,
    resp3: u32,
    command: u16,
    hits: AtomicU8,
    /// Hit since somebody asked.
    used: AtomicBool,
}

/// When an answer was asked for and how long it may live.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) stamp: Stamp,
    pub(super) epoch: EntryEpoch,
    pub(super) expires: Time,
}

impl Entry {
    /// Lays out an entry, or nothing where a part is 4 GiB or more.
    pub(super) fn new(serial: u32, q: &Query, resp3: &[u8], resp2: Option<&[u8]>, terms: Terms) -> Option<Self> {
        let resp2 = resp2.filter(|resp2| *resp2 != resp3).unwrap_or_default();
        let EntryEpoch { ear, slot } = terms.epoch;
        let meta = Meta {
            stamp: terms.stamp,
            epoch: if slot == SlotStamp::NONE { ear } else { ear.marked() },
            slot,
            expires: terms.expires,
            identity: q.identity,
            serial,
            tail: u32::try_from(q.tail.len()).ok()?,
            resp3: u32::try_from(resp3.len()).ok()?,
            command: q.command,
            hits: AtomicU8::new(0),
            used: AtomicBool::new(false),
        };
        let bytes = [q.tail, resp3, resp2].concat();
        Some(Self(ThinArc::from_header_and_slice(meta, &bytes)))
    }

    /// Tells this entry from every other one that had or will have its hash.
    pub(super) fn serial(&self) -> u32 {
        self.meta().serial
    }

    /// What it answers: for whom, which command, with which arguments.
    pub(super) fn answers(&self) -> (Identity, u16, &[u8]) {
        let meta = self.meta();
        (meta.identity, meta.command, &self.0.slice[..meta.tail as usize])
    }

    /// When its time is over.
    pub(super) fn expires(&self) -> Time {
        self.meta().expires
    }

    /// Whether this entry may answer `q` at `now`. The stamp is loaded last of all, and after the entry was found.
    #[inline]
    pub(super) fn judge(&self, q: &Query, (stamps, slots): (&Stamps, &SlotEpochs), epoch: Epoch, now: Time) -> Verdict {
        let meta = self.meta();
        let tail = &self.0.slice[..meta.tail as usize];
        if meta.identity != q.identity || meta.command != q.command || tail != q.tail {
            Verdict::Foreign
        } else if now >= meta.expires {
            Verdict::Expired
        } else if (meta.epoch != epoch && !self.is_of_slot(epoch, slots)) || meta.stamp != stamps.load(q.slot) {
            Verdict::Stale
        } else {
            Verdict::Current
        }
    }

    /// Whether whoever asked what it answers would be answered by it, but for the lease: for those who have the entry in hand.
    pub(super) fn stands(&self, slot: Slot, (stamps, slots): (&Stamps, &SlotEpochs), epoch: Epoch, now: Time) -> bool {
        let meta = self.meta();
        now < meta.expires && (meta.epoch == epoch || self.is_of_slot(epoch, slots)) && meta.stamp == stamps.load(slot)
    }

    /// Whether it stands by its slot too, and both are what they were. Where there is one server no hit comes by here.
    #[inline]
    fn is_of_slot(&self, epoch: Epoch, slots: &SlotEpochs) -> bool {
        let meta = self.meta();
        meta.epoch == epoch.marked() && slots.stands(meta.slot)
    }

    /// The reply as a session of version `resp` is to get it.
    pub(super) fn reply(&self, resp: Resp) -> &[u8] {
        let (_, replies) = self.0.slice.split_at(self.meta().tail as usize);
        let (resp3, resp2) = replies.split_at(self.meta().resp3 as usize);
        match resp {
            Resp::V2 if !resp2.is_empty() => resp2,
            Resp::V2 | Resp::V3 => resp3,
        }
    }

    /// The reply in RESP3, from which the other follows.
    pub(super) fn resp3(&self) -> &[u8] {
        self.reply(Resp::V3)
    }

    /// Counts a hit while it is one of the [first](FIRST_HITS), and tells so. Past them, a hit writes nothing to the entry.
    pub(super) fn count_hit(&self) -> bool {
        let hits = self.meta().hits.load(Ordering::Relaxed);
        if hits >= FIRST_HITS {
            return false;
        }
        // Two hits at once may count as one: that costs the policy one more touch, and no one anything else.
        self.meta().hits.store(hits + 1, Ordering::Relaxed);
        true
    }

    /// Notes a hit for [`is_used`](Self::is_used). Writes to the entry once, until that is taken back.
    pub(super) fn note_use(&self) {
        if !self.meta().used.load(Ordering::Relaxed) {
            self.meta().used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was hit since [`forget_use`](Self::forget_use).
    pub(super) fn is_used(&self) -> bool {
        self.meta().used.load(Ordering::Relaxed)
    }

    /// From here on only later hits count.
    pub(super) fn forget_use(&self) {
        self.meta().used.store(false, Ordering::Relaxed);
    }

    /// Whose reply it is.
    pub(super) fn identity(&self) -> Identity {
        self.meta().identity
    }

    /// Whether an ear has filled it in this epoch, in a cluster.
    pub(super) fn is_of_ear(&self, epoch: Epoch) -> bool {
        self.meta().epoch == epoch.marked()
    }

    /// The key that it is about: the first of its arguments, each of which has its length in front.
    pub(super) fn key(&self) -> &[u8] {
        let tail = &self.0.slice[..self.meta().tail as usize];
        let header = tail.iter().position(|&byte| byte == b'\n').map_or(0, |feed| feed + 1);
        let digits = tail.get(1..header.saturating_sub(2)).and_then(|digits| std::str::from_utf8(digits).ok());
        let length = digits.and_then(|digits| digits.parse::<usize>().ok()).unwrap_or_default();
        tail.get(header..header.saturating_add(length)).unwrap_or_default()
    }

    /// Hits that were counted.
    pub(super) fn hits(&self) -> u8 {
        self.meta().hits.load(Ordering::Relaxed)
    }

    /// How much it is asked for, as far as is noted: the larger, the more.
    pub(super) fn heat(&self) -> usize {
        usize::from(self.hits()) << 1 | usize::from(self.is_used())
    }

    /// Whether so many hits were counted.
    pub(super) fn has_hit(&self, times: u8) -> bool {
        self.meta().hits.load(Ordering::Relaxed) >= times
    }

    /// Bytes of the allocation, as the allocator rounds them.
    pub(super) fn allocated(&self) -> u64 {
        Self::allocated_for(self.0.slice.len())
    }

    /// The same for arguments and replies of so many bytes.
    pub(super) fn allocated_for(bytes: usize) -> u64 {
        // In front of the header stand the reference count and the length.
        size_class(2 * size_of::<usize>() + size_of::<Meta>() + bytes) as u64
    }

    fn meta(&self) -> &Meta {
        &self.0.header.header
    }
}

/// What an allocator with four size classes per power of two (mimalloc, jemalloc) takes for `size` bytes.
fn size_class(size: usize) -> usize {
    let step = (size.max(64).next_power_of_two() / 8).max(16);
    size.next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Freshness, Identities};

    #[test]
    fn head_is_48_bytes() {
        assert_eq!(size_of::<Meta>(), 48);
        assert_eq!(size_of::<Entry>(), 8);
    }

    #[test]
    fn size_classes_are_those_of_the_allocator() {
        for (size, class) in [
            (1, 16),
            (64, 64),
            (65, 80),
            (112, 112),
            (113, 128),
            (129, 160),
            (160, 160),
            (257, 320),
            (1025, 1280),
            (1 << 20, 1 << 20),
            ((1 << 20) + 1, 5 << 18),
        ] {
            assert_eq!(size_class(size), class, "for {size}");
        }
    }

    #[test]
    fn each_version_gets_its_own_bytes_and_equal_ones_are_kept_once() {
        let stamps = Stamps::for_l1(0);
        let q = Query::new(&stamps, Identities::default().intern("", 0), 1, b"k", b"$1\r\nk\r\n", b"");
        let terms = Terms { stamp: stamps.load(q.slot), epoch: Freshness::new().epoch().into(), expires: Time::NEVER };
        let entry = |resp2| Entry::new(0, &q, b"_\r\n", resp2, terms).expect("small");

        let differing = entry(Some(&b"$-1\r\n"[..]));
        assert_eq!((differing.reply(Resp::V3), differing.reply(Resp::V2)), (&b"_\r\n"[..], &b"$-1\r\n"[..]));
        for same in [entry(None), entry(Some(b"_\r\n"))] {
            assert_eq!((same.reply(Resp::V3), same.reply(Resp::V2)), (&b"_\r\n"[..], &b"_\r\n"[..]));
            assert_eq!(same.0.slice.len(), q.tail.len() + 3);
        }
    }

    #[test]
    fn the_key_is_the_first_argument() {
        let stamps = Stamps::for_l1(0);
        let identity = Identities::default().intern("", 0);
        let terms = |q: &Query| Terms {
            stamp: stamps.load(q.slot),
            epoch: Freshness::new().epoch().into(),
            expires: Time::NEVER,
        };
        for (tail, key) in [
            (&b"$3\r\na\nb\r\n"[..], &b"a\nb"[..]),
            (b"$1\r\nk\r\n$5\r\nfield\r\n", b"k"),
            (b"$0\r\n\r\n", b""),
            (b"nonsense", b""),
        ] {
            let q = Query::new(&stamps, identity, 1, key, tail, b"");
            let entry = Entry::new(0, &q, b"+OK\r\n", None, terms(&q)).expect("small");
            assert_eq!(entry.key(), key);
        }
    }

    #[test]
    fn only_the_first_hits_are_counted() {
        let stamps = Stamps::for_l1(0);
        let q = Query::new(&stamps, Identities::default().intern("", 0), 1, b"k", b"k", b"");
        let terms = Terms { stamp: stamps.load(q.slot), epoch: Freshness::new().epoch().into(), expires: Time::NEVER };
        let entry = Entry::new(0, &q, b"+OK\r\n", None, terms).expect("small");
        assert_eq!((0..100).filter(|_| entry.count_hit()).count(), 16);
    }
}
