//! What was asked on one connection of an ear and not answered yet, in order; and the bytes that are still to be sent.
//!
//! Redis answers in the order of the questions, so the oldest of them tells what a reply is the answer to. Here also stands which
//! database the questions are about.
//!
//! Holds contract point 5: a reply is known by its place, and a value of a database that could not be selected by that.

use std::collections::VecDeque;

use super::audits::Audit;
use super::fill::PendingFill;
use super::unannounced::Probe;
use crate::cache::Slot;
use crate::clock::Time;
use crate::metrics::Need;
use crate::resp::encode;

/// What a reply is the answer to.
#[derive(Debug)]
pub(super) enum EarQuestion {
    /// CLIENT TRACKING, or SUBSCRIBE.
    Announcements,
    /// CLIENT NO-EVICT, which may be refused.
    NoEvict,
    /// SELECT.
    Database,
    /// ACL GETUSER.
    Rights,
    /// PING ahead of a fence, in broadcast mode.
    Turn,
    /// HELLO.
    Fence,
    /// COMMAND INFO.
    Features,
    /// INFO memory.
    Memory,
    /// TOUCH.
    Touch,
    /// AUTH, with a password that has changed.
    Login,
    /// ECHO of this nonce, behind it: replies are in step.
    Step(u64),
    /// What Redis announces to nobody.
    Unannounced(Probe),
    /// What a fill asks.
    Fill(FillStep, Box<PendingFill>),
    /// A hit is read again.
    Audit(Box<Audit>),
    /// EXISTS, of a key of which somebody awaits the next change: the place of its stamp, and who.
    Presence(Slot, u64),
}

/// The questions of a fill, in the order in which they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FillStep {
    /// The TTL of the key.
    Ttl,
    /// Those of fields, where they have such.
    FieldTtls,
    /// The value.
    Value,
    /// Where that was asked for then, and there is none: the TTL of the mark which says that the key's origin has none either.
    MarkTtl(Time),
    /// That mark.
    Mark(Time),
}

impl EarQuestion {
    /// What is gone without where it is refused.
    pub(super) fn need(&self) -> Option<Need> {
        match self {
            Self::NoEvict => Some(Need::ClientNoEvict),
            Self::Database => Some(Need::Select),
            Self::Features => Some(Need::Command),
            Self::Memory => Some(Need::Info),
            Self::Touch => Some(Need::Touch),
            _ => None,
        }
    }
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Dialogue {
    unsent: Vec<u8>,
    /// Oldest first, each with when it was sent.
    unanswered: VecDeque<(Time, EarQuestion)>,
    /// The database selected last, unless that was refused.
    db: Option<u32>,
    /// What is answered now was asked behind a `SELECT` that was refused, and so of another database.
    astray: bool,
}

impl Dialogue {
    /// Of a new connection, in database 0.
    pub(super) fn new() -> Self {
        Self { unsent: Vec::new(), unanswered: VecDeque::new(), db: Some(0), astray: false }
    }

    /// Sends `command`, whose reply answers `inquiry`.
    pub(super) fn ask(&mut self, command: &[&[u8]], inquiry: EarQuestion, now: Time) {
        encode::own_command(&mut self.unsent, command);
        self.unanswered.push_back((now, inquiry));
    }

    /// Sends the commands of a fill, in its own database.
    pub(super) fn ask_fill(&mut self, pending: Box<PendingFill>, now: Time) {
        self.select(pending.fill.db(), now);
        pending.write(&mut self.unsent);
        self.unanswered.push_back((now, EarQuestion::Fill(FillStep::Ttl, pending)));
    }

    /// Reads a hit again, in its own database.
    pub(super) fn ask_audit(&mut self, audit: Box<Audit>, now: Time) {
        self.select(audit.db(), now);
        audit.write(&mut self.unsent);
        self.unanswered.push_back((now, EarQuestion::Audit(audit)));
    }

    /// Asks whether the origin of a fill's key is known to have none: the mark with this name says so. The value was asked for at `since`.
    pub(super) fn ask_mark(&mut self, pending: Box<PendingFill>, mark: &[u8], since: Time, now: Time) {
        self.select(pending.fill.db(), now);
        encode::own_command(&mut self.unsent, &[b"PTTL", mark]);
        encode::own_command(&mut self.unsent, &[b"GET", mark]);
        self.unanswered.push_back((now, EarQuestion::Fill(FillStep::MarkTtl(since), pending)));
    }

    /// The next reply is of the same fill: its commands left in one write, at `sent`.
    pub(super) fn goes_on(&mut self, step: FillStep, pending: Box<PendingFill>, sent: Time) {
        self.unanswered.push_front((sent, EarQuestion::Fill(step, pending)));
    }

    /// What is asked from here on is about this database.
    pub(super) fn select(&mut self, db: u32, now: Time) {
        if self.db != Some(db) {
            self.db = Some(db);
            self.ask(&[b"SELECT", db.to_string().as_bytes()], EarQuestion::Database, now);
        }
    }

    /// The reply to a `SELECT`.
    pub(super) fn hear_select(&mut self, refused: bool) {
        self.astray = refused;
        self.db = self.db.filter(|_| !refused);
    }

    /// Whether what is answered now was asked of another database than it should have been.
    pub(super) fn is_astray(&self) -> bool {
        self.astray
    }

    /// A reply is here: to what, and when that was sent. `None`: nothing asked for it.
    pub(super) fn answered(&mut self) -> Option<(Time, EarQuestion)> {
        self.unanswered.pop_front()
    }

    /// Moves the bytes that are to be sent to the end of `out`.
    pub(super) fn take_unsent(&mut self, out: &mut Vec<u8>) {
        if out.is_empty() {
            std::mem::swap(out, &mut self.unsent);
        } else {
            out.append(&mut self.unsent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Time = Time::from_nanos;

    #[test]
    fn replies_answer_in_the_order_of_the_questions() {
        let mut dialogue = Dialogue::new();
        dialogue.ask(&[b"PING"], EarQuestion::Turn, AT(1));
        dialogue.ask(&[b"HELLO"], EarQuestion::Fence, AT(2));
        let mut out = b"before".to_vec();
        dialogue.take_unsent(&mut out);
        let mut wanted = b"before".to_vec();
        encode::own_command(&mut wanted, &[b"PING"]);
        encode::own_command(&mut wanted, &[b"HELLO"]);
        assert_eq!(out, wanted);
        out.clear();
        dialogue.take_unsent(&mut out);
        assert!(out.is_empty(), "nothing is sent twice");
        assert!(matches!(dialogue.answered(), Some((at, EarQuestion::Turn)) if at == AT(1)));
        assert!(matches!(dialogue.answered(), Some((at, EarQuestion::Fence)) if at == AT(2)));
        assert!(dialogue.answered().is_none());
    }

    #[test]
    fn a_database_is_selected_once_and_again_where_that_was_refused() {
        let mut dialogue = Dialogue::new();
        let selects = |dialogue: &mut Dialogue, db| {
            dialogue.select(db, AT(0));
            std::iter::from_fn(|| dialogue.answered()).count()
        };
        assert_eq!(selects(&mut dialogue, 0), 0, "a new connection is there already");
        assert_eq!(selects(&mut dialogue, 3), 1);
        dialogue.hear_select(false);
        assert!(!dialogue.is_astray());
        assert_eq!(selects(&mut dialogue, 3), 0);
        assert_eq!(selects(&mut dialogue, 4), 1);
        dialogue.hear_select(true);
        assert!(dialogue.is_astray(), "what follows was asked of database 3");
        assert_eq!(selects(&mut dialogue, 3), 1, "nobody knows where it is");
        dialogue.hear_select(false);
        assert!(!dialogue.is_astray());
    }
}
