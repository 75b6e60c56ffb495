//! Stamps: "has this key changed, or is it just being changed?" answered by one equality.
//!
//! [`Stamps`] is a fixed array of atomics, indexed by a keyed hash of the key alone (every identity and every command on a
//! key shares its slot). Each slot holds a version and the number of writes under way. A read that is going to fill L1, or
//! that others may join, takes the stamp *before* its request is sent; what it brings back counts only while the slot is
//! still equal to that stamp. Two keys in one slot cost each other a miss now and then, never a wrong answer, so there is
//! no reverse index, no lock and no list of pending writes.
//!
//! Why the writes under way are counted: a write changes the stamp when it is sent *and* when it is answered. Were there
//! only a version, a read that leaves between the two on another connection could return the old value with the new
//! version, and only the second change would spoil it; until then it would be served. A stamp with a write under way is
//! never quiet, so nothing may carry it.
//!
//! The array must never grow or move: a reader holds no more than a slot number. `proxy` changes stamps for the writes of
//! its own clients, `invalidation` for the pushes of Redis, `store` and `flight` compare them.
//!
//! Holds contract points 3 (own writes) and 5 (nothing old stays).

use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;

use super::atomic::{AtomicU64, Ordering};

/// Low bits of a slot: the writes under way.
const COUNT_BITS: u32 = 24;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
/// One step of the version, which fills the high 40 bits and wraps at their end without touching the count. An entry would
/// have to stay unread while its slot changes exactly 2^40 times (12 days at a million writes a second) to be taken for
/// current.
const VERSION: u64 = 1 << COUNT_BITS;

/// The hash of a key under this process's random keys: equal for equal keys, not to be guessed from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyHash(pub(super) u64);

/// The place of a key in [`Stamps`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(u32);

impl Slot {
    /// Its number: evenly spread, whatever the keys are.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// What a slot held when it was read. Worth comparing for equality, and for nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp(u64);

impl Stamp {
    /// No write was under way. Only what was asked for under a quiet stamp may enter L1 or be joined.
    pub fn quiet(self) -> bool {
        self.0 & COUNT_MASK == 0
    }

    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// The stamps of all keys. One for the process, shared by all workers and ears.
pub struct Stamps {
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Stamps {
    /// An array fit for an L1 of `bytes`: about a slot per 256 bytes, a power of two from 2^16 to 2^22 (512 KiB to 32 MiB).
    pub fn for_l1(bytes: u64) -> Self {
        let slots = (bytes / 256).clamp(1 << 16, 1 << 22).next_power_of_two();
        Self::with_slots(slots as usize)
    }

    /// An array of exactly `slots` (a power of two): few of them where a test wants keys to share one.
    pub(super) fn with_slots(slots: usize) -> Self {
        assert!(
            slots.is_power_of_two() && u32::try_from(slots).is_ok(),
            "slots are picked by a mask of at most 32 bits"
        );
        Self { slots: (0..slots).map(|_| AtomicU64::new(0)).collect(), hasher: RandomState::new() }
    }

    /// Bytes that the array occupies. They are not part of the L1 size.
    pub fn bytes(&self) -> usize {
        size_of_val::<[AtomicU64]>(&self.slots)
    }

    /// The hash from which both the slot and the place in L1 are derived, so that a key is hashed once.
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        KeyHash(hasher.finish())
    }

    /// A hash of further bytes under the same random keys, on top of `base`.
    pub(super) fn hash_more(&self, base: u64, bytes: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(base);
        hasher.write(bytes);
        hasher.finish()
    }

    /// The slot of a key.
    pub fn slot(&self, hash: KeyHash) -> Slot {
        let mask = self.slots.len() as u64 - 1;
        Slot((hash.0 & mask) as u32)
    }

    /// The slots of these keys, in their order.
    pub fn slots<'a>(&'a self, keys: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = Slot> {
        keys.map(|key| self.slot(self.hash(key)))
    }

    /// The stamp as it stands. Acquire: whoever sees a change also sees all that was done before it.
    pub fn load(&self, slot: Slot) -> Stamp {
        Stamp(self.at(slot).load(Ordering::Acquire))
    }

    /// Has the processor bring the slot near: the array is larger than its caches, and whoever asks about a key has some
    /// hundred instructions to go before the stamp is looked at.
    pub(super) fn prefetch(&self, slot: Slot) {
        prefetch_index::prefetch_index(&self.slots, slot.0 as usize);
    }

    /// A write to a key of this slot is about to be sent. To be called before its first byte can reach Redis.
    ///
    /// The count cannot overflow into the version: it is bounded by clients times pipelined writes, far below 2^24, and
    /// should it ever get to its end, it stays there for good, so that the slot's keys bypass L1 rather than being served
    /// while a write is under way.
    pub fn begin(&self, slot: Slot) {
        self.change(slot, |count| if count == COUNT_MASK { count } else { count + 1 });
    }

    /// That write was answered, or its connection lost. To be called before its client can learn of the answer, once for
    /// each [`Stamps::begin`].
    pub fn end(&self, slot: Slot) {
        self.change(slot, |count| match count {
            COUNT_MASK => count,
            0 => {
                debug_assert!(false, "a write ended that had never begun");
                0
            }
            _ => count - 1,
        });
    }

    /// A key of this slot was changed by someone else, as a push of Redis or a message of the fleet says.
    pub fn touch(&self, slot: Slot) {
        self.at(slot).fetch_add(VERSION, Ordering::AcqRel);
    }

    fn change(&self, slot: Slot, count: impl Fn(u64) -> u64) {
        let step = |was: u64| Some((was & !COUNT_MASK).wrapping_add(VERSION) | count(was & COUNT_MASK));
        self.at(slot).fetch_update(Ordering::AcqRel, Ordering::Acquire, step).expect("the step always yields a value");
    }

    fn at(&self, slot: Slot) -> &AtomicU64 {
        &self.slots[slot.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> (Stamps, Slot) {
        let stamps = Stamps::for_l1(0);
        let slot = stamps.slot(stamps.hash(b"key"));
        (stamps, slot)
    }

    #[test]
    fn size_follows_l1_between_its_bounds() {
        for (bytes, slots) in
            [(0, 1 << 16), (1 << 20, 1 << 16), (100 << 20, 1 << 19), (256 << 20, 1 << 20), (1 << 40, 1 << 22)]
        {
            assert_eq!(Stamps::for_l1(bytes).bytes(), slots * 8, "for {bytes} bytes of L1");
        }
    }

    #[test]
    fn every_change_makes_an_older_stamp_unequal() {
        let (stamps, slot) = one();
        let mut seen = vec![stamps.load(slot)];
        for change in
            [Stamps::touch, Stamps::begin, Stamps::begin, Stamps::touch, Stamps::end, Stamps::end, Stamps::touch]
        {
            change(&stamps, slot);
            let now = stamps.load(slot);
            assert!(!seen.contains(&now));
            seen.push(now);
        }
        assert!(stamps.load(slot).quiet());
    }

    #[test]
    fn quiet_only_without_writes_under_way() {
        let (stamps, slot) = one();
        assert!(stamps.load(slot).quiet());
        stamps.begin(slot);
        stamps.begin(slot);
        stamps.end(slot);
        stamps.touch(slot);
        assert!(!stamps.load(slot).quiet());
        stamps.end(slot);
        assert!(stamps.load(slot).quiet());
    }

    #[test]
    fn a_write_under_way_spares_other_slots() {
        let stamps = Stamps::for_l1(0);
        let slots: Vec<_> = (0..1000_u32).map(|i| stamps.slot(stamps.hash(&i.to_be_bytes()))).collect();
        stamps.begin(slots[0]);
        let disturbed = slots.iter().filter(|&&slot| !stamps.load(slot).quiet()).count();
        assert!(disturbed <= 3, "{disturbed} of 1000 keys in one of 65536 slots");
    }

    #[test]
    fn the_version_wraps_without_touching_the_count() {
        let (stamps, slot) = one();
        stamps.at(slot).store(u64::MAX - COUNT_MASK, Ordering::Relaxed);
        stamps.touch(slot);
        assert_eq!(stamps.load(slot).0, 0);

        stamps.at(slot).store(u64::MAX - COUNT_MASK, Ordering::Relaxed);
        stamps.begin(slot);
        assert_eq!(stamps.load(slot).0, 1);
        stamps.at(slot).store((u64::MAX - COUNT_MASK) | 1, Ordering::Relaxed);
        stamps.end(slot);
        assert_eq!(stamps.load(slot).0, 0);
    }

    #[test]
    fn a_full_count_stays_full() {
        let (stamps, slot) = one();
        stamps.at(slot).store(COUNT_MASK - 1, Ordering::Relaxed);
        stamps.begin(slot);
        stamps.begin(slot);
        stamps.end(slot);
        assert_eq!(stamps.load(slot).0, (3 * VERSION) | COUNT_MASK);
    }

    #[test]
    fn hashes_differ_between_processes_and_agree_within() {
        let (a, b) = (Stamps::for_l1(0), Stamps::for_l1(0));
        assert_eq!(a.hash(b"key"), a.hash(b"key"));
        assert_ne!(a.hash(b"key"), a.hash(b"kez"));
        assert_ne!(a.hash(b"key"), b.hash(b"key"), "random keys");
        assert_ne!(a.hash_more(1, b"rest"), a.hash_more(2, b"rest"));
    }
}
