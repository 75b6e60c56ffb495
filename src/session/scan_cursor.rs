//! Where a scan of all masters is: a cursor that says it all, so that any crema can go on with it. A state machine without I/O.
//!
//! A node's cursor means something to that node alone, so behind it stand which master that is, and prints of what the cluster was
//! when the scan began: of its masters, and of who serves which slot. With other masters the scan starts over: a replica that was
//! promoted does not know the cursor. Where only slots have moved it goes on, and goes round once more: a key whose slot left a master
//! that was still to come for one that had been is seen in the second round, for a slot moves but once meanwhile. The second round is
//! always the last, or a reshard that takes hours would not let a scan end. That slots have moved is looked at in each step, and kept.
//!
//! ```text
//! bits  63 .. 24     23 .. 17         16 .. 10           9               8 .. 0
//!       the node's   print of slots     print of masters   second round    which master
//! ```
//!
//! So it stays below 2^53, which some clients count to, while a node's own is below 2^29.

/// See the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScanCursor {
    /// The node's own.
    node: u64,
    /// The print when it began, or `MOVED`.
    slots: u8,
    masters: u8,
    second: bool,
    /// The number of the master among all, in the order of their addresses.
    pub(super) master: usize,
}

/// What the cluster is, as a scan asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScanPrint {
    /// How many masters there are.
    pub(super) count: usize,
    /// Which: any number that is another when these are others.
    pub(super) masters: u64,
    /// Who serves which slot, below `MOVED`.
    pub(super) slots: u8,
}

/// What is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScanStep {
    /// The client comes again with this.
    On(ScanCursor),
    /// The first round is over, and no slot is known to have moved: whether one is under way the masters can say.
    Ask(ScanCursor),
    /// All has been shown.
    Over,
    /// The node's cursor is too large to be told.
    TooLarge,
}

const NODE: u32 = 24;
const SEVEN: u64 = 0x7f;
/// In place of the print of slots: some have moved since the scan began.
const MOVED: u8 = 127;
const MOST_MASTERS: usize = 1 << 9;

impl ScanPrint {
    /// Of these owners of slots, each by its place among the masters that the print is of.
    ///
    /// A sum of one weight for each slot times its owner's place, to a prime: a slot that moves always makes it another, where there are
    /// fewer than 127 masters. That of several that move between two steps is another but once in 127 times.
    pub(super) fn of_slots(owners: impl Iterator<Item = Option<usize>>) -> u8 {
        let weight = |slot: usize| ((slot as u32).wrapping_mul(0x9e37_79b1) >> 16) % 126 + 1;
        let prime = u32::from(MOVED);
        let add = |sum: u32, (slot, place): (usize, usize)| (sum + weight(slot) * (place as u32 % prime)) % prime;
        owners.map(|place| place.map_or(0, |place| place + 1)).enumerate().fold(0, add) as u8
    }

    fn of_masters(self) -> u8 {
        // What differs in any bit is to differ in these: seven of the product's highest. No first cursor is 0, which would end the scan.
        ((self.masters.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57) as u8).max(1)
    }
}

impl ScanCursor {
    /// What the client's cursor means now: a new scan, the same one, or that it starts over.
    pub(super) fn read(cursor: u64, now: ScanPrint) -> Self {
        let masters = now.of_masters();
        let mut read = Self {
            node: cursor >> NODE,
            slots: (cursor >> 17 & SEVEN) as u8,
            masters: (cursor >> 10 & SEVEN) as u8,
            second: cursor >> 9 & 1 == 1,
            master: (cursor & 0x1ff) as usize,
        };
        if cursor == 0 || read.masters != masters || read.master >= now.count {
            return Self { node: 0, slots: now.slots, masters, second: false, master: 0 };
        }
        if read.slots != now.slots {
            read.slots = MOVED;
        }
        read
    }

    /// As the client is told; never 0.
    pub(super) fn number(self) -> u64 {
        self.node << NODE
            | u64::from(self.slots) << 17
            | u64::from(self.masters) << 10
            | u64::from(self.second) << 9
            | self.master as u64
    }

    /// The master's own.
    pub(super) fn of_node(self) -> u64 {
        self.node
    }

    /// What follows when the master has told `next`.
    pub(super) fn after(self, next: u64, now: ScanPrint) -> ScanStep {
        if next >> (u64::BITS - NODE) != 0 || now.count > MOST_MASTERS {
            return ScanStep::TooLarge;
        }
        if next != 0 {
            return ScanStep::On(Self { node: next, ..self });
        }
        let behind = Self { node: 0, master: self.master + 1, ..self };
        if behind.master < now.count {
            return ScanStep::On(behind);
        }
        let round = Self { master: 0, second: true, ..behind };
        match (self.second, self.slots == now.slots) {
            (true, _) => ScanStep::Over,
            (false, true) => ScanStep::Ask(round),
            (false, false) => ScanStep::On(round),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: ScanPrint = ScanPrint { count: 2, masters: 11, slots: 22 };

    fn go_on(cursor: ScanCursor, next: u64, now: ScanPrint) -> ScanCursor {
        let ScanStep::On(cursor) = cursor.after(next, now) else { panic!("{:?}", cursor.after(next, now)) };
        assert_ne!(cursor.number(), 0);
        ScanCursor::read(cursor.number(), now)
    }

    #[test]
    fn one_master_comes_after_the_other() {
        let cursor = ScanCursor::read(0, CALM);
        assert_eq!((cursor.master, cursor.of_node()), (0, 0));
        let cursor = go_on(cursor, 17, CALM);
        assert_eq!((cursor.master, cursor.of_node()), (0, 17));
        let cursor = go_on(cursor, 0, CALM);
        assert_eq!((cursor.master, cursor.of_node()), (1, 0));
        let cursor = go_on(cursor, (1 << 29) - 1, CALM);
        assert!(cursor.number() < 1 << 53);
        let ScanStep::Ask(round) = cursor.after(0, CALM) else { panic!("it may be over") };
        assert_eq!((round.master, round.second), (0, true));
    }

    #[test]
    fn where_slots_have_moved_there_is_a_second_round_and_no_third() {
        let moved = ScanPrint { slots: 23, ..CALM };
        let cursor = go_on(go_on(ScanCursor::read(0, CALM), 0, CALM), 5, moved);
        assert_eq!((cursor.master, cursor.of_node()), (1, 5), "it goes on where it is");
        let back = go_on(cursor, 0, CALM);
        assert_eq!(
            (back.master, back.second),
            (0, true),
            "that they had moved is kept, though they are where they were"
        );
        let cursor = go_on(cursor, 0, moved);
        assert_eq!((cursor.master, cursor.of_node(), cursor.second), (0, 0, true));
        let again = ScanPrint { slots: 24, ..CALM };
        let cursor = go_on(cursor, 0, again);
        assert_eq!(cursor.after(0, again), ScanStep::Over);
    }

    #[test]
    fn a_slot_that_moves_is_always_seen() {
        for masters in [2, 3, 64, 126] {
            let owner = |slot: usize| slot * masters / 16_384;
            let before = ScanPrint::of_slots((0..16_384).map(|slot| Some(owner(slot))));
            for moved in (0..16_384).step_by(61) {
                let to = (owner(moved) + 1 + moved % (masters - 1)) % masters;
                let now = (0..16_384).map(|slot| Some(if slot == moved { to } else { owner(slot) }));
                assert_ne!(ScanPrint::of_slots(now), before, "{moved} of {masters}");
                let nobodys = (0..16_384).map(|slot| Some(owner(slot)).filter(|_| slot != moved));
                assert_ne!(ScanPrint::of_slots(nobodys), before, "{moved} of {masters} is nobody's");
            }
        }
    }

    #[test]
    fn many_slots_that_move_at_once_are_mostly_seen() {
        let before = ScanPrint::of_slots((0..16_384).map(|slot| Some(slot * 3 / 16_384)));
        let alike = (1..2000).filter(|&many| {
            let now = (0..16_384).map(|slot| Some(if slot < many { 2 } else { slot * 3 / 16_384 }));
            ScanPrint::of_slots(now) == before
        });
        assert!(alike.count() < 2000 * 3 / 127);
    }

    #[test]
    fn with_other_masters_it_starts_over() {
        let cursor = go_on(go_on(ScanCursor::read(0, CALM), 0, CALM), 9, CALM);
        let other = ScanPrint { masters: 12, ..CALM };
        let cursor = ScanCursor::read(cursor.number(), other);
        assert_eq!((cursor.master, cursor.of_node(), cursor.second), (0, 0, false));
        let fewer = ScanPrint { count: 1, ..CALM };
        let cursor = ScanCursor::read(go_on(ScanCursor::read(0, CALM), 0, CALM).number(), fewer);
        assert_eq!(cursor.master, 0);
    }

    #[test]
    fn what_cannot_be_told_is_not() {
        let cursor = ScanCursor::read(0, CALM);
        assert_eq!(cursor.after(1 << 40, CALM), ScanStep::TooLarge);
        assert!(matches!(cursor.after((1 << 40) - 1, CALM), ScanStep::On(_)));
        assert_eq!(cursor.after(1, ScanPrint { count: 513, ..CALM }), ScanStep::TooLarge);
    }

    #[test]
    fn nothing_that_a_client_may_say_is_taken_amiss() {
        for cursor in [1, 9, u64::MAX, 1 << 24, 0x1ff, 1 << 9] {
            let cursor = ScanCursor::read(cursor, CALM);
            assert!(cursor.master < CALM.count);
        }
    }
}
