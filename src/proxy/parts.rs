//! A command of which each slot's part is a command of its own: MGET, MSET, DEL and their like with keys in several slots.
//!
//! Each part has a place of its own in the session's replies, and so is ordered, redirected, held until a fence is back, or sent again
//! as any command is. When all are answered, what they make together goes out. Each part is atomic, all together are not. Reads that
//! find all in L1 never come here.
//!
//! Holds contract points 2 (order) and 3 (own writes).

use smallvec::SmallVec;

use super::Taken;
use super::caller::Caller;
use super::recipient::{Recipient, Tally};
use super::reply_queue::WholeReply;
use super::worker::Worker;
use crate::cache::{Slot, Stamps};
use crate::clock::Time;
use crate::command::{Effect, HashSlot, KeySpec, Merge, NodeReply, Spec, Spread, in_order};
use crate::config::CrossSlot;
use crate::invalidation::Fill;
use crate::metrics::Outcome;
use crate::resp::{Request, Span, encode, is_error};
use crate::upstream::NodeIndex;

/// A request with keys in several slots, taken apart.
pub(super) struct SlotParts {
    parts: Vec<SlotPart>,
    /// Of each key, whose it is.
    of: Vec<u32>,
}

/// What goes to one slot: the same command, with that slot's keys.
pub(super) struct SlotPart {
    slot: HashSlot,
    /// The number of each of its arguments that is a key, in the whole request.
    keys: SmallVec<[usize; 4]>,
    command: Vec<u8>,
}

impl SlotPart {
    /// Whose it is.
    pub(super) fn slot(&self) -> HashSlot {
        self.slot
    }

    /// How many keys it has.
    pub(super) fn keys(&self) -> usize {
        self.keys.len()
    }

    /// The stamps' slots of its keys.
    pub(super) fn stamp_slots(&self, stamps: &Stamps) -> Vec<Slot> {
        let mut spans: Vec<Span> = Vec::new();
        let request = Request::parse_canonical(&self.command, &mut spans).expect("as it was made");
        let step = (request.argc() - 1) / self.keys.len().max(1);
        (1..request.argc()).step_by(step.max(1)).map(|at| stamps.slot(stamps.hash(request.arg(at)))).collect()
    }
}

impl SlotParts {
    /// None where all keys are in one slot, or the arguments do not come in the pairs that Redis asks for: then it is one command.
    pub(super) fn of(spec: &Spec, request: Request<'_>) -> Option<Self> {
        let (step, slots) = slots(spec, request)?;
        let mut parts: Vec<SlotPart> = Vec::new();
        let mut by_slot: Vec<usize> = (0..slots.len()).collect();
        by_slot.sort_by_key(|&key| slots[key]); // keys of one slot stay in their order
        let mut of = vec![0; slots.len()];
        for key in by_slot {
            if parts.last().is_none_or(|part| part.slot != slots[key]) {
                parts.push(SlotPart { slot: slots[key], keys: SmallVec::new(), command: Vec::new() });
            }
            of[key] = u32::try_from(parts.len() - 1).ok()?;
            parts.last_mut()?.keys.push(1 + key * step);
        }
        for part in &mut parts {
            let arguments = |at: usize| {
                let tail = request.tail(at);
                let behind = if at + step < request.argc() { request.tail(at + step).len() } else { 0 };
                &tail[..tail.len() - behind]
            };
            encode::array_header(&mut part.command, 1 + part.keys.len() * step);
            encode::bulk(&mut part.command, request.arg(0));
            part.keys.iter().for_each(|&at| part.command.extend_from_slice(arguments(at)));
        }
        Some(Self { parts, of })
    }

    /// Whether there is more than one.
    pub(super) fn are_several(spec: &Spec, request: Request<'_>) -> bool {
        slots(spec, request).is_some()
    }
}

/// How many arguments belong to a key, and the slots of all keys; none where they are all one.
fn slots(spec: &Spec, request: Request<'_>) -> Option<(usize, SmallVec<[HashSlot; 16]>)> {
    let (Spread::Slots(_), KeySpec::Range { step, .. }) = (spec.spread, spec.keys) else { return None };
    let step = usize::try_from(step).ok().filter(|&step| step > 0)?;
    if !(request.argc() - 1).is_multiple_of(step) {
        return None;
    }
    let slots: SmallVec<[HashSlot; 16]> =
        (1..request.argc()).step_by(step).map(|at| HashSlot::of(request.arg(at))).collect();
    slots.iter().any(|slot| *slot != slots[0]).then_some((step, slots))
}

/// What the replies to the parts make together.
fn whole(merge: Merge, of: Vec<u32>) -> WholeReply {
    Box::new(move |parts| {
        if merge == Merge::InOrder {
            return in_order(parts, &of);
        }
        // The first error is the answer as it is: which node it came from is nobody's concern.
        let error = parts.iter().find(|part| is_error(part)).map(|error| error.to_vec());
        let answers = || parts.iter().map(|reply| NodeReply { node: "", reply }).collect::<Vec<_>>();
        error.unwrap_or_else(|| merge.merged(&answers(), None, 0))
    })
}

/// A command in parts whose session sends one after the other, and puts their replies together.
pub(crate) struct PartsInTurn {
    parts: Vec<SlotPart>,
    whole: WholeReply,
}

impl PartsInTurn {
    /// None where all keys are in one slot.
    pub(crate) fn of(spec: &Spec, request: Request<'_>) -> Option<Self> {
        let Spread::Slots(merge) = spec.spread else { return None };
        let SlotParts { parts, of } = SlotParts::of(spec, request)?;
        Some(Self { parts, whole: whole(merge, of) })
    }

    /// The nodes that serve them.
    pub(crate) fn nodes(&self, worker: &Worker) -> Vec<NodeIndex> {
        self.parts.iter().map(|part| worker.node_of(Some(part.slot))).collect()
    }

    /// The commands.
    pub(crate) fn commands(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|part| part.command.as_slice())
    }

    /// What the replies to all of them make together.
    pub(crate) fn whole(self, replies: &[&[u8]]) -> Vec<u8> {
        (self.whole)(replies)
    }
}

impl Caller {
    /// Takes up a command whose keys may be in several slots. None where they are in one, and where none of it shall be split: it is
    /// one command then, and what it is answered is a node's own affair.
    pub(super) fn split(
        &mut self,
        worker: &Worker,
        spec: &'static Spec,
        request: Request<'_>,
        now: Time,
    ) -> Option<Taken> {
        if worker.shared.config.cluster.cross_slot == CrossSlot::Error {
            return None;
        }
        let parts = SlotParts::of(spec, request)?;
        let outcome = if spec.effect == Effect::Read { Outcome::NotCached } else { Outcome::Write };
        Some(self.send_parts(worker, (spec, outcome), parts, Vec::new(), now))
    }

    /// Sends the parts, each to the node that serves it, behind what this session has sent there before. Once its part is answered,
    /// `fills` are asked for, each with the number of its key.
    pub(super) fn send_parts(
        &mut self,
        worker: &Worker,
        (spec, outcome): (&'static Spec, Outcome),
        SlotParts { parts, of }: SlotParts,
        mut fills: Vec<(usize, Fill)>,
        now: Time,
    ) -> Taken {
        let Spread::Slots(merge) = spec.spread else { return Taken::Unanswered };
        let nodes: SmallVec<[NodeIndex; 8]> = parts.iter().map(|part| self.slot_served_at(worker, part.slot)).collect();
        let slots = parts.iter().map(|part| part.slot);
        let suits = spec.effect == Effect::Read && spec.cacheable();
        let turns = |caller: &mut Self, at, slot| caller.turn_for((worker, at), || Some(slot), (false, || suits), now);
        if !nodes.iter().zip(slots).all(|(&at, slot)| turns(self, at, slot)) {
            return Taken::Unanswered;
        }
        if spec.effect == Effect::Read
            && worker.reads_replicas()
            && !self.choose_for_parts(worker, suits, (&parts, &nodes), now)
        {
            return Taken::Unanswered;
        }
        let first = self.replies.reserve_parts(parts.len(), whole(merge, of));
        let mut tally = Tally::new(spec, outcome); // of the first; the others are none of their own
        let mut spans: Vec<Span> = Vec::new();
        for (nth, (part, at)) in parts.iter().zip(nodes).enumerate() {
            let request = Request::parse_canonical(&part.command, &mut spans).expect("as it was made");
            let place = first.plus(nth);
            let recipient = Recipient::new(&self.replies, place, tally);
            tally = Tally::counted(spec);
            if spec.effect == Effect::Read {
                let of_part = |(key, _): &mut (usize, Fill)| part.keys.contains(&(1 + *key));
                let fills = fills.extract_if(.., of_part).map(|(_, fill)| fill).collect();
                self.put_read((worker, at), (spec, request), (place, recipient), fills, now);
            } else {
                self.replies.wrote(place);
                self.put_write((worker, at), (spec, request), (place, recipient), now);
            }
        }
        Taken::Yes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;

    fn parts(words: &[&str]) -> Option<(Vec<String>, Vec<u32>)> {
        let (mut raw, mut spans) = (Vec::new(), Vec::new());
        encode::command(&mut raw, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        let request = Request::parse_canonical(&raw, &mut spans).expect("as it was made");
        let spec = lookup(request).expect("a row");
        assert_eq!(SlotParts::are_several(spec, request), SlotParts::of(spec, request).is_some());
        let SlotParts { parts, of } = SlotParts::of(spec, request)?;
        let shown = |part: &SlotPart| {
            let mut spans = Vec::new();
            let request = Request::parse_canonical(&part.command, &mut spans).expect("canonical");
            request.args().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect::<Vec<_>>().join(" ")
        };
        Some((parts.iter().map(shown).collect(), of))
    }

    #[test]
    fn each_slot_has_its_part_with_its_keys_in_their_order() {
        // a 15495, b 3300, c 7365.
        let (commands, of) = parts(&["MGET", "a", "b", "{a}2", "c", "b"]).expect("three slots");
        assert_eq!(
            (commands.as_slice(), of.as_slice()),
            (&["MGET b b".to_owned(), "MGET c".to_owned(), "MGET a {a}2".to_owned()][..], &[2, 0, 2, 1, 0][..])
        );
        let (commands, _) = parts(&["mset", "a", "1", "b", "2", "a", "3"]).expect("two slots");
        assert_eq!(commands, ["mset b 2", "mset a 1 a 3"], "the last value of a key is its value");
        let (commands, _) = parts(&["Del", "a", "b"]).expect("two slots");
        assert_eq!(commands, ["Del b", "Del a"]);
    }

    #[test]
    fn what_is_of_one_slot_is_one_command() {
        for words in [
            &["MGET", "a"][..],
            &["MGET", "{a}1", "{a}2"],
            &["MSET", "a", "1", "b"],
            &["DEL"],
            &["MSETNX", "a", "1", "b", "2"],
        ] {
            assert_eq!(parts(words), None, "{words:?}");
        }
    }
}
