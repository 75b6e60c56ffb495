//! What a user may do, as far as L1 must know: whether it is still what it was when the user's entries were read.
//!
//! `ACL GETUSER` of the user is compared twice in every `acl_recheck`; a difference empties the user's part of L1, and a lease
//! never lasts longer than `acl_recheck` after the last comparison. It is asked on the user's own ear where the user may ask
//! that, else by the user of the upstream URL, over one connection for all ears (`steward`). Where neither may, entries
//! live for `acl_recheck` at most, and the lease is not bound.
//!
//! It is asked behind every fill as well. Without that, a right that is given and taken away again between two comparisons
//! would leave behind what was filled in between: both find the same rights, and neither those of the fill. (What is left of
//! that is a right that is taken away in the round trip after a fill and was given since the comparison before it; and then
//! the user is shown no more than what Redis had shown it.) A user who might do everything before can be given nothing, and
//! is not asked about behind fills: the answer costs Redis as much as some fifty reads.
//!
//! Holds contract point 8.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::frames::fields;
use crate::clock::Time;
use crate::error::is_passing;

/// Who tells what a user may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum RightsSource {
    /// The user itself, on its ear.
    #[default]
    Ear,
    /// The user of the upstream URL.
    Steward,
    /// Nobody may ask.
    Nobody,
}

/// The rights of an ear's user. Shared by the ear and the steward.
#[derive(Debug, Default)]
pub struct Rights(Mutex<KnownRights>);

#[derive(Debug, Default)]
struct KnownRights {
    source: RightsSource,
    /// The last answer, and when it was asked for.
    answer: Option<(Box<[u8]>, Time)>,
    /// Whether by that answer the user may run every command on every key.
    all: bool,
    /// Something was filled since the steward asked.
    due: bool,
}

impl Rights {
    /// A new connection of the ear: it is asked first.
    pub(super) fn start(&self) {
        *self.lock() = KnownRights::default();
    }

    /// When they were as the entries need them. `None`: that is not known yet, or nobody may ask, and only what dies soon may enter.
    pub(super) fn known_at(&self) -> Option<Time> {
        self.lock().answer.as_ref().map(|&(_, asked)| asked)
    }

    /// Whether the ear is to ask.
    pub(super) fn asks_itself(&self) -> bool {
        self.lock().source == RightsSource::Ear
    }

    /// Whether nothing could be given to the user since the last answer: it may do all there is.
    pub(super) fn are_all(&self) -> bool {
        self.lock().all
    }

    /// Something was filled: the steward is to ask. True where it is the steward who asks.
    pub(super) fn filled(&self) -> bool {
        let mut known = self.lock();
        known.due = true;
        known.source == RightsSource::Steward
    }

    /// Whether the steward is to ask now.
    pub(super) fn wants_steward(&self, now: Time, every: Duration) -> bool {
        let mut known = self.lock();
        let old = known.answer.as_ref().is_none_or(|(_, asked)| now.saturating_since(*asked) >= every);
        known.source == RightsSource::Steward && (std::mem::take(&mut known.due) || old)
    }

    /// What Redis answered the ear to `ACL GETUSER`, asked for at `asked`. True where the user's entries must go. Nothing was filled
    /// before its first answer was asked for.
    pub(super) fn hear_on_ear(&self, reply: &[u8], asked: Time) -> bool {
        self.hear(RightsSource::Ear, reply, asked, true)
    }

    /// The same of what Redis answered the steward.
    pub(super) fn hear_from_steward(&self, reply: &[u8], asked: Time) -> bool {
        self.hear(RightsSource::Steward, reply, asked, false)
    }

    /// The steward is refused all questions, or its login. True where the user's entries must go.
    pub(super) fn lose_steward(&self) -> bool {
        self.refused(RightsSource::Steward)
    }

    fn hear(&self, from: RightsSource, reply: &[u8], asked: Time, first: bool) -> bool {
        if is_passing(reply) {
            false // it is asked again, and what it said last time holds for as long as it would have
        } else if reply.first() == Some(&b'-') {
            self.refused(from)
        } else {
            self.heard(reply, asked, first)
        }
    }

    /// An answer to `ACL GETUSER`, asked for at `asked`. True where the user's entries must go: the rights differ, or they
    /// were not known when the entries were read.
    fn heard(&self, reply: &[u8], asked: Time, first: bool) -> bool {
        let mut known = self.lock();
        let same = known.answer.as_ref().map_or(first, |(answer, _)| **answer == *reply);
        match &mut known.answer {
            Some((_, at)) if same => *at = asked,
            answer => {
                *answer = Some((reply.into(), asked));
                known.all = allows_all(reply);
            }
        }
        !same
    }

    /// `from` was refused the question; another may ask. True where the user's entries must go.
    fn refused(&self, from: RightsSource) -> bool {
        let mut known = self.lock();
        if known.source != from {
            return false;
        }
        known.source = if from == RightsSource::Ear { RightsSource::Steward } else { RightsSource::Nobody };
        known.all = false;
        known.answer.take().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, KnownRights> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a reply to `ACL GETUSER` allows every command on every key, by what Redis 7 and Valkey 9 say. What it says in words
/// that are not known here may be a restriction.
fn allows_all(reply: &[u8]) -> bool {
    let Some(told) = fields(reply) else { return false };
    told.iter().all(|(name, value)| match &**name {
        b"commands" => value == b"+@all",
        b"keys" => value == b"~*",
        b"databases" => value == b"alldbs",
        b"flags" | b"passwords" | b"channels" | b"selectors" => true,
        _ => false,
    }) && [&b"commands"[..], b"keys"].iter().all(|name| told.contains_key(*name))
}

/// How it stands with asking after the rights on the ear itself.
#[derive(Debug)]
pub(super) struct RightsPoll {
    asked: Time,
    awaited: bool,
    /// A fill was sent that a comparison is to follow.
    due: bool,
}

impl RightsPoll {
    /// Of a new connection.
    pub(super) fn new(now: Time) -> Self {
        Self { asked: now, awaited: false, due: false }
    }

    /// It is asked `now`.
    pub(super) fn ask(&mut self, now: Time) {
        *self = Self { asked: now, awaited: true, due: false };
    }

    /// That was answered.
    pub(super) fn answered(&mut self) {
        self.awaited = false;
    }

    /// The answer told nothing: what it was to follow is followed by the next.
    pub(super) fn answered_with_nothing(&mut self) {
        self.due = true;
    }

    /// A fill is sent that may have been read under rights which are taken away again.
    pub(super) fn follow(&mut self) {
        self.due = true;
    }

    /// Whether it is to be asked behind the fills that were sent: one question at a time follows however many.
    pub(super) fn is_due(&self) -> bool {
        self.due && !self.awaited
    }

    /// Whether the last question is so old.
    pub(super) fn is_older(&self, than: Duration, now: Time) -> bool {
        now.saturating_since(self.asked) >= than
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    #[test]
    fn only_a_difference_empties() {
        let rights = Rights::default();
        assert_eq!(rights.known_at(), None);
        assert!(!rights.heard(b"all", at(1), true), "nothing was read before");
        assert!(!rights.heard(b"all", at(2), true));
        assert_eq!(rights.known_at(), Some(at(2)));
        assert!(rights.heard(b"less", at(3), true));
        assert!(!rights.heard(b"less", at(4), true));
    }

    #[test]
    fn only_who_may_do_everything_can_be_given_nothing() {
        let user = |fields: &[(&str, &str)]| {
            let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
            let fields: String = fields.iter().map(|(name, told)| bulk(name) + &bulk(told)).collect();
            format!("%{}\r\n+flags\r\n~1\r\n+on\r\n{fields}", fields.matches('$').count() / 2 + 1)
        };
        let all = [("commands", "+@all"), ("keys", "~*"), ("channels", "")];
        assert!(allows_all(user(&all).as_bytes()));
        assert!(allows_all(user(&[&all[..], &[("databases", "alldbs")]].concat()).as_bytes()), "as Valkey 9 has it");
        let less = [
            user(&[("commands", "+@all -debug"), all[1]]),
            user(&[all[0], ("keys", "~* %R~secret")]),
            user(&[&all[..], &[("databases", "db=0")]].concat()),
            user(&[&all[..], &[("hours", "9-17")]].concat()),
            user(&all[..1]),
            "-NOPERM no\r\n".into(),
            "*2\r\n+commands\r\n+\r\n".into(),
        ];
        assert!(less.iter().all(|reply| !allows_all(reply.as_bytes())));
    }

    #[test]
    fn who_asks_for_another_may_come_late() {
        let rights = Rights::default();
        assert!(!rights.refused(RightsSource::Ear));
        assert!(!rights.asks_itself());
        assert!(rights.heard(b"all", at(5), false), "what was read before this answer was read under unknown rights");
        assert!(!rights.heard(b"all", at(6), false));
        assert!(!rights.refused(RightsSource::Ear), "it was not the ear that was asked");
        assert!(rights.refused(RightsSource::Steward));
        assert_eq!(rights.known_at(), None);
    }
    #[test]
    fn what_passes_by_itself_changes_nothing_and_a_refusal_hands_the_question_on() {
        let rights = Rights::default();
        assert!(!rights.hear_on_ear(b"all", at(1)));
        assert!(!rights.hear_on_ear(b"-BUSY a script runs\r\n", at(2)));
        assert_eq!(rights.known_at(), Some(at(1)));
        assert!(rights.hear_on_ear(b"-NOPERM no\r\n", at(3)), "what was known is known no more");
        assert!(!rights.asks_itself() && rights.filled());
        assert!(rights.wants_steward(at(4), Duration::from_secs(1)));
        assert!(rights.hear_from_steward(b"all", at(4)), "what was filled before was read under unknown rights");
        assert!(!rights.wants_steward(at(5), Duration::from_secs(1)), "nothing was filled since");
        assert!(rights.lose_steward());
        assert!(!rights.wants_steward(at(6), Duration::ZERO), "nobody asks");
    }

    #[test]
    fn one_question_follows_however_many_fills() {
        let mut poll = RightsPoll::new(at(0));
        assert!(!poll.is_due());
        poll.follow();
        assert!(poll.is_due());
        poll.ask(at(10));
        poll.follow();
        assert!(!poll.is_due(), "one at a time");
        poll.answered();
        assert!(poll.is_due(), "the fill left behind the question");
        poll.ask(at(20));
        poll.answered();
        assert!(!poll.is_due());
        poll.answered_with_nothing();
        assert!(poll.is_due(), "it was no answer");
        assert!(poll.is_older(Duration::from_nanos(5), at(25)) && !poll.is_older(Duration::from_nanos(6), at(25)));
    }
}
