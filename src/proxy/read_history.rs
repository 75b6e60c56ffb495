//! Which keys a session has read from Redis itself, for as long as L1 may be behind what it saw there.
//!
//! Redis tells the ear of a change before it shows the change to anybody else, and yet a lane's reply can overtake that
//! message on the way through this process. A hit on the same key would then take the session back in time. So a read is
//! remembered until the ear has answered something that was sent after the read was answered: by then L1 knows all that the
//! read can have seen. Belongs to one session; bounded, for what is too long to be kept one by one is kept as "every key".
//!
//! Holds contract point 4 (others' writes soon).

use std::collections::VecDeque;
use std::iter;

use super::reply_queue::ReplyPlace;
use crate::cache::{Slot, Stamps};
use crate::clock::Time;
use crate::command::Spec;
use crate::resp::Request;
use crate::upstream::NodeIndex;

/// So many reads a session that reads seldom may keep though the ear has heard of them.
const FEW: usize = 16;
/// So many reads that L1 may be behind are worth a fence of their own.
const MANY: usize = 64;
/// Beyond so many, they are taken for a read of every key.
const MOST: usize = 2048;

/// Words of [`ReadHistory::mostly`]: a pipeline has a few hundred reads in the log.
const WORDS: usize = 16;

/// How a session's own reads, and what others have done, stand to what L1 knows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStatus {
    /// L1 knows all that it must.
    Heard,
    /// A read of it, or an opaque write, was answered at this moment, and L1 might still be behind that.
    Unheard(Time),
    /// A read of it has been sent and not been answered.
    Unanswered,
}

/// See the module's head.
#[derive(Default)]
pub struct ReadHistory {
    /// In the order of their places.
    log: VecDeque<PastRead>,
    /// So many at the front of `log` are answered: mostly the next reply is that of the one behind them.
    answered: usize,
    /// A bit for every slot in `log`, and for some that have left it: most reads are of none of them.
    mostly: [u64; WORDS],
    /// How many have left `log` since `mostly` was made.
    left: usize,
}

/// The same for each node: what an ear has heard counts for reads of its own node.
#[derive(Default)]
pub(super) struct ReadHistories {
    front: ReadHistory,
    /// Of the nodes behind the front, as far as something was read there.
    others: Vec<ReadHistory>,
    /// What was noted at the last place.
    last: Option<(ReplyPlace, NodeIndex)>,
    /// Something may have been read from two nodes for one reply, as where a read was sent on.
    shared: bool,
}

impl ReadHistories {
    /// That of one node.
    pub(super) fn at(&mut self, node: NodeIndex) -> &mut ReadHistory {
        let Some(other) = node.number().checked_sub(1) else { return &mut self.front };
        if other >= self.others.len() {
            self.others.resize_with(other + 1, ReadHistory::default);
        }
        &mut self.others[other]
    }

    /// As [`ReadHistory::note`], of a read from `node`.
    pub(super) fn note(&mut self, node: NodeIndex, place: ReplyPlace, slot: Option<Slot>, heard: Time) -> bool {
        match self.last {
            Some((last, at)) if place < last || place == last && node != at => self.shared = true,
            _ => self.last = Some((place, node)),
        }
        self.at(node).note(place, slot, heard)
    }

    /// The reply at `place`, from whichever node, was whole at `when`.
    #[inline]
    pub(super) fn answered(&mut self, place: ReplyPlace, when: Time) {
        if self.others.is_empty() {
            return self.front.answered(place, when);
        }
        let mut all = iter::once(&mut self.front).chain(&mut self.others);
        if !self.shared && all.any(|reads| reads.next_is_answered(place, when)) {
            return;
        }
        self.front.answered(place, when);
        self.others.iter_mut().for_each(|reads| reads.answered(place, when));
    }
}

struct PastRead {
    place: ReplyPlace,
    /// None: every key.
    slot: Option<Slot>,
    /// When its last byte was here; [`Time::NEVER`] before that.
    answered: Time,
}

impl ReadHistory {
    /// The command at `place` reads a key in `slot`, or any key. True where so many are kept that the ear should be asked.
    pub fn note(&mut self, place: ReplyPlace, slot: Option<Slot>, heard: Time) -> bool {
        if self.log.len() >= FEW {
            self.forget(heard);
        }
        let mut slot = slot;
        if self.log.len() >= MOST {
            self.log.clear();
            self.answered = 0;
            slot = None;
        }
        mark(&mut self.mostly, slot);
        let read = PastRead { place, slot, answered: Time::NEVER };
        match self.log.back() {
            // It was sent to another node first, and came here behind what was sent later.
            Some(last) if last.place > place => {
                let at = self.log.partition_point(|read| read.place <= place);
                self.answered = self.answered.min(at);
                self.log.insert(at, read);
            }
            _ => self.log.push_back(read),
        }
        self.log.len() >= MANY
    }

    /// The reply at `place` was whole at `when`.
    #[inline]
    pub fn answered(&mut self, place: ReplyPlace, when: Time) {
        if self.answered < self.log.len() && !self.next_is_answered(place, when) {
            self.answered_early(place, when);
        }
    }

    /// The same, where it is the first that was not answered. Else false.
    #[inline]
    fn next_is_answered(&mut self, place: ReplyPlace, when: Time) -> bool {
        if self.log.get(self.answered).is_none_or(|read| read.place != place) {
            return false;
        }
        while let Some(read) = self.log.get_mut(self.answered)
            && (read.place == place || read.answered != Time::NEVER)
        {
            if read.place == place {
                read.answered = when;
            }
            self.answered += 1;
        }
        true
    }

    /// The same, where others before it are not.
    #[inline(never)]
    fn answered_early(&mut self, place: ReplyPlace, when: Time) {
        let from = self.log.partition_point(|read| read.place < place);
        for read in self.log.range_mut(from..).take_while(|read| read.place == place) {
            read.answered = when;
        }
    }

    /// How things stand where the ear has answered what was sent at `heard`.
    #[inline]
    pub fn key_status(&mut self, slot: Slot, heard: Time) -> KeyStatus {
        let (word, bit) = bit(slot);
        if self.mostly[word] & bit == 0 { KeyStatus::Heard } else { self.standing(slot, heard) }
    }

    #[inline(never)]
    fn standing(&mut self, slot: Slot, heard: Time) -> KeyStatus {
        self.forget(heard);
        let of_slot = self.log.iter().filter(|read| read.slot.is_none_or(|read| read == slot));
        let last =
            of_slot.map(|read| read.answered).filter(|&answered| answered > heard || answered == Time::NEVER).max();
        match last {
            None => KeyStatus::Heard,
            Some(Time::NEVER) => KeyStatus::Unanswered,
            Some(answered) => KeyStatus::Unheard(answered),
        }
    }

    /// What was read before the place at `head` was answered by `when`.
    pub(super) fn settle(&mut self, head: ReplyPlace, when: Time) {
        for read in self.log.range_mut(self.answered..).take_while(|read| read.place < head) {
            self.answered += 1;
            if read.answered == Time::NEVER {
                read.answered = when;
            }
        }
    }

    /// When a read of the slot was answered last, of those that are remembered; [`Time::NEVER`] while one is not.
    pub(super) fn last(&self, slot: Slot) -> Option<Time> {
        let (word, bit) = bit(slot);
        if self.mostly[word] & bit == 0 {
            return None;
        }
        let of_slot = self.log.iter().filter(|read| read.slot.is_none_or(|read| read == slot));
        of_slot.map(|read| read.answered).max()
    }

    fn forget(&mut self, heard: Time) {
        while self.log.front().is_some_and(|read| read.answered != Time::NEVER && read.answered <= heard) {
            self.log.pop_front();
            self.answered = self.answered.saturating_sub(1);
            self.left += 1;
        }
        // Made anew at each time that it is mostly of what has left: no more steps than those who left took.
        if self.left > self.log.len() {
            self.left = 0;
            self.mostly = [0; WORDS];
            self.log.iter().for_each(|read| mark(&mut self.mostly, read.slot));
        }
        if self.log.is_empty() && self.log.capacity() > MANY {
            self.log = VecDeque::new();
        }
    }
}

/// The slots that a read reads from Redis: those of the keys that it names, and `None`, which stands for every key, where its
/// reply may tell of more.
pub(super) fn slots_read<'a>(
    stamps: &'a Stamps,
    spec: &Spec,
    request: Request<'a>,
) -> impl Iterator<Item = Option<Slot>> + 'a {
    stamps.slots(spec.keys(request)).map(Some).chain(spec.reads_unnamed(request).then_some(None))
}

fn mark(mostly: &mut [u64; WORDS], slot: Option<Slot>) {
    match slot.map(bit) {
        Some((word, bit)) => mostly[word] |= bit,
        None => *mostly = [u64::MAX; WORDS],
    }
}

/// The place of a slot among the bits of [`ReadHistory::mostly`].
fn bit(slot: Slot) -> (usize, u64) {
    let slot = slot.number();
    (slot as usize >> 6 & (WORDS - 1), 1 << (slot & 63))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Stamps;

    const AT: fn(u64) -> Time = Time::from_nanos;

    fn slots() -> [Slot; 2] {
        let stamps = Stamps::for_l1(0);
        [b"a", b"b"].map(|key| stamps.slot(stamps.hash(key)))
    }

    #[test]
    fn a_read_counts_until_the_ear_has_answered_what_was_sent_after_it() {
        let ([a, b], mut reads) = (slots(), ReadHistory::default());
        assert_eq!(reads.key_status(a, AT(0)), KeyStatus::Heard);
        reads.note(ReplyPlace::at(7), Some(a), AT(0));
        assert_eq!(reads.key_status(a, AT(1000)), KeyStatus::Unanswered, "however much was heard");
        assert_eq!(reads.key_status(b, AT(0)), KeyStatus::Heard);
        reads.answered(ReplyPlace::at(7), AT(50));
        assert_eq!(reads.key_status(a, AT(49)), KeyStatus::Unheard(AT(50)));
        assert_eq!(reads.key_status(a, AT(50)), KeyStatus::Heard);
        assert!(reads.log.is_empty());
    }

    #[test]
    fn answers_may_come_in_any_order() {
        let ([a, b], mut reads) = (slots(), ReadHistory::default());
        for (place, slot) in [(0, a), (1, b), (1, a), (2, a)] {
            reads.note(ReplyPlace::at(place), Some(slot), AT(0));
        }
        reads.answered(ReplyPlace::at(2), AT(10));
        reads.answered(ReplyPlace::at(1), AT(20));
        assert_eq!(reads.key_status(a, AT(30)), KeyStatus::Unanswered);
        assert_eq!(reads.key_status(b, AT(15)), KeyStatus::Unheard(AT(20)));
        assert_eq!(reads.key_status(b, AT(20)), KeyStatus::Heard);
        reads.answered(ReplyPlace::at(0), AT(25));
        assert_eq!(reads.key_status(a, AT(24)), KeyStatus::Unheard(AT(25)));
        assert_eq!(reads.key_status(a, AT(25)), KeyStatus::Heard);
    }

    #[test]
    fn what_has_left_is_not_looked_for_for_long() {
        let (stamps, mut reads) = (Stamps::for_l1(0), ReadHistory::default());
        let slot = |n: u64| stamps.slot(stamps.hash(&n.to_be_bytes()));
        // As in pipelines, the log is never empty: the ear is always behind the last hundred reads.
        for n in 0..10_000 {
            reads.note(ReplyPlace::at(n), Some(slot(n)), AT(n.saturating_sub(100)));
            reads.answered(ReplyPlace::at(n), AT(n));
        }
        let recent: Vec<_> = (9_900..10_000).map(slot).collect();
        let none_of_them =
            (10_000..11_000).map(slot).find(|slot| !recent.contains(slot)).expect("there are more slots");
        let mut looked_for = 0;
        for n in 0..1000 {
            let (word, bit) = bit(slot(u64::MAX - n));
            looked_for += u32::from(reads.mostly[word] & bit != 0);
        }
        assert!(looked_for < 300, "{looked_for} of a thousand others");
        assert_eq!(reads.key_status(none_of_them, AT(9_900)), KeyStatus::Heard);
        // Another of them may share its slot.
        assert!(matches!(reads.key_status(slot(9_950), AT(9_900)), KeyStatus::Unheard(at) if at >= AT(9_950)));
    }

    #[test]
    fn one_that_came_late_has_its_place() {
        let ([a, b], mut reads) = (slots(), ReadHistory::default());
        for (place, slot) in [(1, a), (5, a), (3, b), (7, b)] {
            reads.note(ReplyPlace::at(place), Some(slot), AT(0));
        }
        reads.answered(ReplyPlace::at(3), AT(10));
        reads.answered(ReplyPlace::at(7), AT(11));
        assert_eq!(reads.key_status(b, AT(9)), KeyStatus::Unheard(AT(11)));
        assert_eq!(reads.key_status(a, AT(20)), KeyStatus::Unanswered);
    }

    #[test]
    fn a_read_of_every_key_is_one_of_each() {
        let ([a, _], mut reads) = (slots(), ReadHistory::default());
        reads.note(ReplyPlace::at(3), None, AT(0));
        assert_eq!(reads.key_status(a, AT(9)), KeyStatus::Unanswered);
        reads.answered(ReplyPlace::at(3), AT(10));
        assert_eq!(reads.key_status(a, AT(9)), KeyStatus::Unheard(AT(10)));
    }

    #[test]
    fn what_one_ear_has_heard_says_nothing_of_another_nodes_reads() {
        let ([a, _], mut reads) = (slots(), ReadHistories::default());
        let other = NodeIndex::nth(2);
        reads.note(NodeIndex::default(), ReplyPlace::at(1), Some(a), AT(0));
        reads.note(other, ReplyPlace::at(2), Some(a), AT(0));
        reads.answered(ReplyPlace::at(1), AT(10));
        reads.answered(ReplyPlace::at(2), AT(20));
        assert_eq!(reads.at(NodeIndex::default()).key_status(a, AT(30)), KeyStatus::Heard);
        assert_eq!(reads.at(other).key_status(a, AT(5)), KeyStatus::Unheard(AT(20)));
        assert_eq!(reads.at(NodeIndex::nth(1)).key_status(a, AT(0)), KeyStatus::Heard, "nothing was read there");
        assert!(!reads.shared);
    }

    #[test]
    fn replies_of_several_nodes_come_in_any_order() {
        let ([a, b], mut reads) = (slots(), ReadHistories::default());
        let nodes = [0, 1, 2].map(NodeIndex::nth);
        // A read of `a` at each place, from one node after the other; the last is sent on from there to another.
        for place in 0..9 {
            reads.note(nodes[place % 3], ReplyPlace::at(place as u64), Some(a), AT(0));
        }
        assert!(!reads.shared);
        reads.note(nodes[0], ReplyPlace::at(8), Some(b), AT(0));
        assert!(reads.shared);
        for (when, place) in [2, 5, 0, 1, 4, 3, 8, 7, 6].into_iter().enumerate() {
            reads.answered(ReplyPlace::at(place), AT(10 + when as u64));
        }
        assert_eq!(nodes.map(|node| reads.at(node).key_status(a, AT(9))), [18, 17, 16].map(AT).map(KeyStatus::Unheard));
        assert_eq!(
            reads.at(nodes[0]).key_status(b, AT(9)),
            KeyStatus::Unheard(AT(16)),
            "answered, it is known to both"
        );
        assert!(nodes.iter().all(|&node| reads.at(node).answered == reads.at(node).log.len()));
    }

    #[test]
    fn what_is_answered_can_be_settled_later() {
        let ([a, b], mut reads) = (slots(), ReadHistory::default());
        assert_eq!(reads.last(a), None);
        reads.note(ReplyPlace::at(3), Some(a), AT(0));
        reads.note(ReplyPlace::at(5), Some(b), AT(0));
        reads.settle(ReplyPlace::at(5), AT(10));
        assert_eq!((reads.last(a), reads.last(b)), (Some(AT(10)), Some(Time::NEVER)));
        reads.settle(ReplyPlace::at(6), AT(20));
        assert_eq!((reads.last(a), reads.last(b)), (Some(AT(10)), Some(AT(20))));
        reads.note(ReplyPlace::at(7), None, AT(15));
        assert_eq!(reads.last(a), Some(Time::NEVER), "any key");
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_forgotten_for_it() {
        let ([a, b], mut reads) = (slots(), ReadHistory::default());
        let mut asked = 0;
        for place in 0..100_000 {
            asked += u64::from(reads.note(ReplyPlace::at(place), Some(a), AT(0)));
            reads.answered(ReplyPlace::at(place), AT(1 + place));
            assert!(reads.log.len() <= MOST);
        }
        assert!(asked > 90_000, "the ear is asked as long as it says nothing");
        assert!(
            matches!(reads.key_status(b, AT(0)), KeyStatus::Unheard(_)),
            "every key stands for those that were dropped"
        );
        assert_eq!(reads.key_status(a, AT(99_999)), KeyStatus::Unheard(AT(100_000)));
        assert_eq!(reads.key_status(b, AT(100_000)), KeyStatus::Heard);
    }
}
