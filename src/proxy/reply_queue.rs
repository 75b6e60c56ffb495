//! The order of one session's replies: whose turn it is, what waits for its turn, and what nobody will answer.
//!
//! Bytes of the reply that comes next go to the output at once, those of a later one wait in their place. No I/O: [`Replies`]
//! is the handle on it, which those hold who answer.
//!
//! Holds contract point 2 (order).
//!
//! [`Replies`]: super::Replies

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

use super::output::ClientOutput;

/// Bytes unwritten above which a session takes no more commands and large replies are read no further from a lane.
pub(super) const HIGH_WATER: usize = 1 << 20;

/// A place in the order of a session's replies: of the first command, the second, and so on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplyPlace(u64);

impl ReplyPlace {
    /// How many places it is behind `head`; none where it is before that.
    pub(super) fn behind(self, head: Self) -> Option<usize> {
        self.0.checked_sub(head.0).map(|places| places as usize)
    }

    /// So many places further.
    #[must_use]
    pub fn plus(self, places: usize) -> Self {
        Self(self.0 + places as u64)
    }

    /// Its number, from 0 on.
    pub(super) fn number(self) -> u64 {
        self.0
    }

    #[cfg(test)]
    pub(crate) fn at(place: u64) -> Self {
        Self(place)
    }
}

/// See the module's head.
#[derive(Default)]
pub(super) struct ReplyQueue {
    /// What goes out: all that was before `head`, and of that what is there.
    pub(super) output: ClientOutput,
    pub(super) head: ReplyPlace,
    pub(super) slots: VecDeque<QueuedReply>,
    /// Bytes in `slots`.
    pub(super) waiting: usize,
    pub(super) silent: bool,
    /// Nobody is there to take what comes out.
    pub(super) deaf: bool,
    /// The first command that will not be answered, and why: there the session ends.
    pub(super) cut: Option<(ReplyPlace, SessionEnd)>,
    pub(super) ended: Option<SessionEnd>,
    pub(super) session: Option<Waker>,
    pub(super) room: Vec<Waker>,
    /// Commands in parts, in their order: the first place of each, how many it has, and what the whole is.
    wholes: VecDeque<(ReplyPlace, usize, WholeReply)>,
}

/// Makes of the replies to its parts that to a command.
pub(super) type WholeReply = Box<dyn FnOnce(&[&[u8]]) -> Vec<u8>>;

/// The reply to one command, until it can go out.
#[derive(Default)]
pub(super) struct QueuedReply {
    pub(super) bytes: Vec<u8>,
    pub(super) done: bool,
    pub(super) silent: bool,
    /// Why nothing of it goes out: [`HELD`], [`EARLY`], [`LOOKED_AT`], [`PART`], [`OWED`].
    pub(super) holds: u8,
}

/// Something else has to be here first.
pub(super) const HELD: u8 = 1;
/// That follows on the same connection.
pub(super) const EARLY: u8 = 2;
/// The session looks at how the reply begins.
pub(super) const LOOKED_AT: u8 = 4;
/// It is a part of the answer to a command.
pub(super) const PART: u8 = 8;
/// What had to go with the write is still to be made good.
pub(super) const OWED: u8 = 16;

/// Why a session must end though its client said nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// The client reads too slowly: more than the output limit waits for it.
    Slow,
    /// The private connection that is the session's own for life has ended.
    Upstream,
    /// The upstream is away, or the connection to it broke under a command.
    Away,
    /// Redis no longer accepts what the client proved, and no connection is left on which it did: its user was deleted, or lost
    /// its password.
    LoggedOut,
    /// A `CLIENT KILL` meant it.
    Killed,
}

impl ReplyQueue {
    pub(super) fn buffered(&self) -> usize {
        self.output.len() + self.waiting
    }

    /// Whether more can be taken from a lane: little waits for the client, or all of it waits behind the reply that comes next.
    pub(super) fn has_room(&self) -> bool {
        let written = self.output.is_empty();
        let is_awaited = |head: &QueuedReply| !head.done && head.holds & (HELD | EARLY) != HELD;
        let awaited = self.slots.front().is_some_and(|head| is_awaited(head) || head.holds & PART != 0);
        self.buffered() <= HIGH_WATER || written && awaited
    }

    /// Appends to the output without a copy, where the reply at `place` goes there and is too long for the buffer.
    pub(super) fn share(&mut self, place: ReplyPlace, bytes: &Rc<[u8]>) -> bool {
        let passes = self.slots.front().is_some_and(|reply| reply.holds == 0 && !reply.silent);
        place == self.head && passes && self.ended.is_none() && self.output.push_shared(bytes)
    }

    /// Whether the command at `place`, or one before it, will not be answered.
    pub(super) fn is_cut(&self, place: ReplyPlace) -> bool {
        self.cut.is_some_and(|(first, _)| first <= place)
    }

    /// Places for the next command, one for each part; the first of them.
    pub(super) fn reserve_parts(&mut self, parts: usize, whole: WholeReply) -> ReplyPlace {
        let first = self.head.plus(self.slots.len());
        let part = || QueuedReply { silent: self.silent, holds: PART, ..QueuedReply::default() };
        self.slots.extend((0..parts).map(|_| part()));
        self.wholes.push_back((first, parts, whole));
        first
    }

    /// The command in parts to which `place` belongs, as its number among those.
    fn whole_at(&self, place: ReplyPlace) -> Option<usize> {
        let at = self.wholes.partition_point(|(first, ..)| *first <= place).checked_sub(1)?;
        let (first, parts, _) = self.wholes[at];
        place.behind(first).is_some_and(|behind| behind < parts).then_some(at)
    }

    /// The first place of the command of which `place` is a part; itself where it is none.
    pub(super) fn first_part(&mut self, place: ReplyPlace) -> ReplyPlace {
        self.whole_at(place).map_or(place, |at| self.wholes[at].0)
    }

    /// Puts the answer of the command together of which `place` is a part, where all parts are there.
    pub(super) fn assemble(&mut self, place: ReplyPlace) {
        let Some(at) = self.whole_at(place) else { return };
        let (first, parts, _) = self.wholes[at];
        let Some(from) = first.behind(self.head) else { return };
        // From the last on, which is mostly the last to come.
        let mut slots = self.slots.range(from..from + parts).rev();
        if !slots.all(|part| part.done && part.holds == PART) {
            return;
        }
        let Some((.., whole)) = self.wholes.remove(at) else { return };
        let replies: Vec<&[u8]> = self.slots.range(from..from + parts).map(|part| part.bytes.as_slice()).collect();
        let silent = self.slots[from].silent;
        let reply = if silent { Vec::new() } else { whole(&replies) };
        self.waiting += reply.len();
        for part in self.slots.range_mut(from..from + parts) {
            self.waiting -= std::mem::take(&mut part.bytes).len();
            part.holds = 0;
        }
        self.slots[from].bytes = reply;
    }

    /// Moves what is at the head, and may go, to the output.
    pub(super) fn settle(&mut self) {
        while let Some(slot) = self.slots.front_mut() {
            if let Some((first, why)) = self.cut
                && first == self.head
            {
                self.ended.get_or_insert(why);
                return self.wake_room();
            }
            if slot.holds != 0 {
                return;
            }
            let done = slot.done;
            if !slot.bytes.is_empty() {
                let bytes = std::mem::take(&mut slot.bytes);
                self.waiting -= bytes.len();
                self.output.push(&bytes);
            }
            if !done {
                return;
            }
            self.slots.pop_front();
            self.head = self.head.plus(1);
        }
    }

    pub(super) fn bound(&mut self, limit: usize) {
        if self.buffered() > limit && self.ended.is_none() {
            self.ended = Some(SessionEnd::Slow);
            self.discard();
            for slot in &mut self.slots {
                slot.bytes = Vec::new();
            }
            self.waiting = 0;
            self.wake_room();
        }
    }

    /// Throws away what is to be written.
    pub(super) fn discard(&mut self) {
        self.output.discard();
        if self.has_room() {
            self.wake_room();
        }
    }

    pub(super) fn wake(&mut self) {
        if let Some(session) = self.session.take() {
            session.wake();
        }
    }

    pub(super) fn wake_room(&mut self) {
        self.room.drain(..).for_each(Waker::wake);
    }
}
