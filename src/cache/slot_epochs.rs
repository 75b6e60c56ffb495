//! What must not have changed besides a key's stamp, where the keys of one slot of a cluster can leave a node alone: a number for each
//! hash slot.
//!
//! A slot that a node loses takes no push along: Redis 6.2 to 7.2 drop its keys without a word, and a key that was missing was never
//! told of. So whoever learns that a slot has left its owner (a redirect, a newer map) changes the slot's number here, and nothing
//! counts that was asked for under the former one. An entry carries its slot and the number, in four bytes; where there is one server
//! it carries [`SlotStamp::NONE`], and a hit looks at none of this.
//!
//! Holds contract point 5 (nothing old stays).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use super::lease::Epoch;
use crate::command::HashSlot;

/// The slot of a key and the slot's number at a moment. Worth comparing for equality, and for nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotStamp {
    /// Its number; beyond all of them, there is none.
    slot: u16,
    number: u16,
}

impl SlotStamp {
    /// There is one server, which no slot leaves.
    pub const NONE: Self = Self { slot: u16::MAX, number: 0 };
}

/// That of the ear, and that of the key's slot: what an answer was asked for under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryEpoch {
    pub(super) ear: Epoch,
    pub(super) slot: SlotStamp,
}

impl EntryEpoch {
    /// Of an answer that was read on an ear, about a key of a slot.
    pub const fn new(ear: Epoch, slot: SlotStamp) -> Self {
        Self { ear, slot }
    }

    /// That of the ear.
    pub(crate) const fn ear(self) -> Epoch {
        self.ear
    }
}

impl From<Epoch> for EntryEpoch {
    /// Where there is one server.
    fn from(ear: Epoch) -> Self {
        Self::new(ear, SlotStamp::NONE)
    }
}

/// See the module's head. One for the process, without memory where nobody asks for a stamp.
#[derive(Debug, Default)]
pub struct SlotEpochs(OnceLock<Box<[AtomicU16]>>);

impl SlotEpochs {
    /// The stamp of a slot as it stands. A fill reads it before its request is sent.
    pub fn stamp(&self, slot: HashSlot) -> SlotStamp {
        let number = self.at(slot).load(Ordering::Acquire);
        SlotStamp { slot: u16::try_from(slot.number()).expect("slots are numbered below 2^14"), number }
    }

    /// The slot has left its owner: nothing counts that was asked for before. True once in 65,536 times, when the numbers of the slot
    /// begin anew: whoever says so must then have everything forgotten.
    #[must_use]
    pub fn bump(&self, slot: HashSlot) -> bool {
        self.at(slot).fetch_add(1, Ordering::AcqRel) == u16::MAX
    }

    /// Whether the slot is still what it was.
    pub(super) fn stands(&self, stamp: SlotStamp) -> bool {
        let numbers = self.0.get().map_or(&[][..], |all| all);
        numbers.get(usize::from(stamp.slot)).is_none_or(|number| number.load(Ordering::Acquire) == stamp.number)
    }

    fn at(&self, slot: HashSlot) -> &AtomicU16 {
        let all = self.0.get_or_init(|| (0..HashSlot::COUNT).map(|_| AtomicU16::new(0)).collect());
        &all[slot.number()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_before_a_slot_left_counts_no_more_and_of_other_slots_it_does() {
        let (slots, [moved, other]) = (SlotEpochs::default(), [7, 16_383].map(|n| HashSlot::nth(n).expect("a slot")));
        let (gone, stays) = (slots.stamp(moved), slots.stamp(other));
        assert!(slots.stands(gone) && slots.stands(stays) && slots.stands(SlotStamp::NONE));
        assert!(!slots.bump(moved));
        assert!(!slots.stands(gone) && slots.stands(stays) && slots.stands(slots.stamp(moved)));
    }

    #[test]
    fn when_the_numbers_of_a_slot_begin_anew_it_says_so() {
        let (slots, slot) = (SlotEpochs::default(), HashSlot::of(b"k"));
        assert_eq!((0..1 << 17).filter(|_| slots.bump(slot)).count(), 2);
    }
}
