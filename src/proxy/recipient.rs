//! Who gets a reply: one session, at one place in the order of its commands.
//!
//! A [`Recipient`] is made when a command is sent, or joins one that was, and is done with when the reply is whole: only then
//! the command is counted, once, with its outcome. Dropped before that, the command is lost: it counts as failed, and its
//! session ends there with what was answered before.
//!
//! Holds contract point 7 (a write is sent once).

use std::rc::Rc;

use super::replies::Replies;
use super::reply_queue::{ReplyPlace, SessionEnd};
use super::shared::Shared;
use crate::clock::Time;
use crate::command::{Class, Effect, Spec};
use crate::error::{Error, Sent};
use crate::metrics::{Failure, Outcome};

/// See the module's head.
#[must_use = "dropped, its session is cut off"]
pub(crate) struct Recipient {
    to: Rc<Replies>,
    place: ReplyPlace,
    tally: Tally,
    done: bool,
}

/// What a command counts as once its reply is whole.
#[derive(Clone, Copy)]
pub(super) struct Tally {
    class: Class,
    outcome: Outcome,
    reads: bool,
    /// It is a command of which a client knows.
    counts: bool,
    /// Its row number.
    command: u16,
}

impl Tally {
    /// Of a command of this row.
    pub(super) fn new(spec: &Spec, outcome: Outcome) -> Self {
        Self { class: spec.class, outcome, reads: spec.effect == Effect::Read, counts: true, command: spec.id }
    }

    /// Of a part of one, which is counted as a whole, or of one that is counted already.
    pub(super) fn counted(spec: &Spec) -> Self {
        Self { counts: false, ..Self::new(spec, Outcome::Forwarded) }
    }
}

impl Recipient {
    /// At `place` in the replies of a session.
    pub(super) fn new(to: &Rc<Replies>, place: ReplyPlace, tally: Tally) -> Self {
        to.stats().waiting.add(u64::from(tally.counts));
        Self { to: Rc::clone(to), place, tally, done: false }
    }

    /// The session's replies.
    pub(super) fn replies(&self) -> &Rc<Replies> {
        &self.to
    }

    /// Which of them is awaited.
    pub(super) fn place(&self) -> ReplyPlace {
        self.place
    }

    /// What its command counts as.
    pub(super) fn outcome(&self) -> Outcome {
        self.tally.outcome
    }

    /// The row number of its command.
    pub(super) fn command(&self) -> u16 {
        self.tally.command
    }

    /// The next bytes of the reply; with its last, `end` says when they were read from Redis.
    pub(super) fn append(&self, bytes: &[u8], end: Option<Time>) {
        self.to.append(self.place, bytes, end);
    }

    /// As [`append`](Self::append), of bytes that others get as well.
    pub(super) fn append_shared(&self, bytes: &Rc<[u8]>, end: Option<Time>) {
        self.to.append_shared(self.place, bytes, end);
    }

    /// A confirmation of a subscription.
    pub(super) fn confirm(&self, bytes: &[u8], last: bool) {
        self.to.confirm(self.place, bytes, last.then_some(Time::ZERO));
    }

    /// Whether the session has sent no write behind this command and goes on: it may be sent again then, if it only reads.
    pub(super) fn may_wait_longer(&self) -> bool {
        !self.to.wrote_after(self.place) && !self.to.is_cut(self.place)
    }

    /// The reply is whole.
    pub(super) fn finish(&mut self) {
        self.done = true;
        if self.tally.counts {
            let stats = self.to.stats();
            stats.waiting.sub(1);
            stats.count(self.tally.class, self.tally.outcome);
        }
    }

    /// It awaits nothing after all.
    pub(super) fn withdraw(mut self) {
        self.done = true;
        self.to.stats().waiting.sub(u64::from(self.tally.counts));
    }

    /// Answers with an error of crema's own, or has the client closed.
    pub(super) fn refuse(mut self, shared: &Shared, error: &Error, sent: Sent) {
        self.fail(error.into());
        if matches!(error, Error::LoginRefused { .. }) {
            return self.to.cut(self.place, SessionEnd::LoggedOut);
        }
        let sent = if sent == Sent::Maybe && self.tally.reads { Sent::Read } else { sent };
        match error.reply(sent, shared.config.upstream_down) {
            Some(reply) => self.append(&reply, Some(Time::ZERO)), // it tells nothing of any key
            None => self.to.cut(self.place, SessionEnd::Away),
        }
    }

    /// There will be no answer, or no more of one: the session ends with what was answered before.
    pub(super) fn cut(mut self, failure: Failure) {
        self.fail(failure);
        self.to.cut(self.place, SessionEnd::Away);
    }

    fn fail(&mut self, failure: Failure) {
        self.done = true;
        if self.tally.counts {
            let stats = self.to.stats();
            stats.waiting.sub(1);
            stats.failed(self.tally.class, failure);
        }
    }
}

impl Drop for Recipient {
    fn drop(&mut self) {
        if !self.done {
            self.fail(Failure::Lost);
            self.to.cut(self.place, SessionEnd::Away);
        }
    }
}
