//! In which order the commands of one session go again that a node did not carry out.
//!
//! Such a command is on a *detour*. What the session had sent behind it may already be carried out, and some of that for the same slot:
//! sent again, it would come behind what the client sent later. So it waits until all that was sent before the first redirect was known
//! is answered or on a detour as well; if anything for its slot was carried out behind it, it is not sent again, and its own error is
//! its answer. The session sends nothing new meanwhile. Then detours go in the order in which the client sent them, one at a time.
//! No I/O: `detour` does what this decides, one queue for each session that has any.
//!
//! Holds contract points 2 (order) and 7 (a write is sent once).

use std::collections::VecDeque;

use super::reply_queue::ReplyPlace;
use crate::command::HashSlot;

/// See the module's head. `C` is a command with all that awaits its reply.
pub(super) struct DetourQueue<C> {
    /// In the order of their places.
    waiting: VecDeque<Waiting<C>>,
    /// What was sent again and is not answered.
    under_way: Option<ReplyPlace>,
    /// All places before this one are answered, or on a detour, from the first detour on.
    clear: ReplyPlace,
    /// From here on nothing was sent.
    end: ReplyPlace,
}

struct Waiting<C> {
    place: ReplyPlace,
    slot: Option<HashSlot>,
    /// Something that was sent behind it for its slot was carried out.
    overtaken: bool,
    command: C,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DetourStep<C> {
    /// Nothing is on a detour any more: the session may send again.
    Over,
    /// Something has to be answered first.
    Wait,
    /// This is sent again.
    Send(C),
    /// This is not: its error is its answer.
    Refuse(C),
}

impl<C> DetourQueue<C> {
    /// Of a session that has sent what has places before `end`, and sends nothing more before all is over.
    pub(super) fn new(end: ReplyPlace) -> Self {
        Self { waiting: VecDeque::new(), under_way: None, clear: end, end }
    }

    /// The command at `place` was not carried out, for the first time or again.
    pub(super) fn redirected(&mut self, place: ReplyPlace, slot: Option<HashSlot>, command: C) {
        if self.under_way == Some(place) {
            self.under_way = None;
        }
        let at = self.waiting.partition_point(|waiting| waiting.place < place);
        self.waiting.insert(at, Waiting { place, slot, overtaken: false, command });
        self.clear = self.clear.min(place.plus(1));
    }

    /// The command at `place` was carried out: what was sent before it for its slot comes too late.
    pub(super) fn carried_out(&mut self, place: ReplyPlace, slot: Option<HashSlot>) {
        for waiting in self.waiting.iter_mut().take_while(|waiting| waiting.place < place) {
            waiting.overtaken |= waiting.slot == slot;
        }
    }

    /// Whether the command at `place` was sent again and is not answered.
    pub(super) fn is_under_way(&self, place: ReplyPlace) -> bool {
        self.under_way == Some(place)
    }

    /// Whether nothing is on a detour any more.
    pub(super) fn is_over(&self, is_answered: impl Fn(ReplyPlace) -> bool) -> bool {
        self.waiting.is_empty() && self.under_way.is_none_or(is_answered)
    }

    /// What is to be done now, where `is_answered` says which places are. What is sent or refused is with the caller then.
    pub(super) fn next(&mut self, is_answered: impl Fn(ReplyPlace) -> bool) -> DetourStep<C> {
        if self.under_way.is_some_and(|place| !is_answered(place)) {
            return DetourStep::Wait;
        }
        self.under_way = None;
        let Some(first) = self.waiting.front() else { return DetourStep::Over };
        if !first.overtaken && !self.is_clear(is_answered) {
            return DetourStep::Wait;
        }
        let Some(first) = self.waiting.pop_front() else { return DetourStep::Over };
        if first.overtaken {
            return DetourStep::Refuse(first.command);
        }
        self.under_way = Some(first.place);
        DetourStep::Send(first.command)
    }

    /// Whether nothing is under way of what was sent behind the first detour. What was once found is not looked at again.
    fn is_clear(&mut self, is_answered: impl Fn(ReplyPlace) -> bool) -> bool {
        while self.clear < self.end {
            let on_detour = self.waiting.binary_search_by_key(&self.clear, |waiting| waiting.place).is_ok();
            if !on_detour && !is_answered(self.clear) {
                return false;
            }
            self.clear = self.clear.plus(1);
        }
        true
    }
}

#[cfg(test)]
#[path = "detour_queue_tests.rs"]
mod tests;
