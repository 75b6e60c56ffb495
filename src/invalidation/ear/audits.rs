//! The audit of hits: what memory has answered is read again on the ear, where the order of one socket shows whether it was right.
//!
//! The same reply settles it. Another one does not: the key may have been changed before it was read again, or its time may have been
//! over. Redis tells the ear of that, on the same socket, and no later than it answers what is asked afterwards. So such a hit is a
//! *suspect* until a fence is back that was sent behind the reply, with what Redis tells nobody asked ahead of it. If the entry
//! would still be an answer then, nothing that was said explains the difference: memory held what it must not, whatever any clock shows.
//! Each suspect is judged once. What goes on here, and how much of it, is bounded; what is too much is left out and counted.
//!
//! Holds contract point 5 (nothing old stays), by showing where it is broken.

use std::sync::Arc;
use std::time::Duration;

use super::fill::{Backlog, BacklogShare};
use crate::cache::Exhibit;
use crate::clock::Time;
use crate::command::{Caching, Spec, by_id};
use crate::resp::{Elements, encode, integer_of, is_error, text_of};

/// A hit that is to be read again.
#[derive(Debug)]
pub struct Audit {
    exhibit: Exhibit,
    db: u32,
    /// Its share of what the ear's audits may hold.
    share: Option<BacklogShare>,
}

impl Audit {
    /// Of what has answered in this database.
    pub fn new(exhibit: Exhibit, db: u32) -> Self {
        Self { exhibit, db, share: None }
    }

    /// Takes the room that it needs, for as long as it lives. False: there is none.
    pub(super) fn take_share(&mut self, backlog: &Arc<Backlog>) -> bool {
        self.share = backlog.take(usize::try_from(self.exhibit.bytes()).unwrap_or(usize::MAX));
        self.share.is_some()
    }

    /// What has answered.
    pub(crate) fn exhibit(&self) -> &Exhibit {
        &self.exhibit
    }

    /// The database that it was read in.
    pub(crate) fn db(&self) -> u32 {
        self.db
    }

    /// The command's row.
    pub(crate) fn spec(&self) -> &'static Spec {
        by_id(self.exhibit.answers().1)
    }

    /// Appends the read.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let (.., arguments) = self.exhibit.answers();
        encode::with_arguments(out, &encode::own_name(self.spec().name.as_bytes()), arguments);
    }

    /// Whether `reply` is an answer at all: an error that tells of a key of another type is one.
    pub(super) fn is_answered_by(reply: &[u8]) -> bool {
        !is_error(reply) || reply.starts_with(b"-WRONGTYPE")
    }

    /// Whether Redis says the same by `reply`. What has no order may come in any.
    pub(super) fn agrees_with(&self, reply: &[u8]) -> bool {
        let answered = self.exhibit.reply();
        answered == reply || is_same_in_any_order(self.spec(), answered, reply)
    }

    /// Whether the answer may have been that of a key that is missing.
    pub(super) fn may_be_of_nothing(&self) -> bool {
        is_of_nothing(self.exhibit.reply())
    }
}

/// Whether both have the same elements, the same number of times, of which there is no order: those of a set, the fields of a hash.
fn is_same_in_any_order(spec: &Spec, one: &[u8], other: &[u8]) -> bool {
    let kind = one.first();
    let is_unordered = matches!(kind, Some(b'~' | b'%')) || kind == Some(&b'*') && spec.cache == Caching::WholeHash;
    if !is_unordered || one.len() != other.len() || kind != other.first() {
        return false;
    }
    let size = if kind == Some(&b'%') { 2 } else { 1 };
    let sorted = |reply| {
        let elements: Vec<&[u8]> = Elements::of(reply)?.collect::<Result<_, _>>().ok()?;
        let mut groups: Vec<_> = elements.chunks(size).map(<[_]>::to_vec).collect();
        groups.sort_unstable();
        Some(groups)
    };
    sorted(one).is_some_and(|one| sorted(other) == Some(one))
}

/// Whether a key that is not there could be answered so: nulls, zeros, and what is empty; and lists of these.
fn is_of_nothing(reply: &[u8]) -> bool {
    match Elements::of(reply) {
        Some(mut elements) => elements.all(|element| element.is_ok_and(is_of_nothing)),
        None => {
            reply == b"_\r\n"
                || reply == b"#f\r\n"
                || integer_of(reply).is_some_and(|number| number <= 0)
                || text_of(reply).is_some_and(|text| text.is_empty() || text == b"none")
        }
    }
}

/// Reads that may be under way at once.
const WINDOW: usize = 1024;
/// Bytes that they bring, about.
const BYTES: u64 = 1 << 20;
/// The ear takes up what has gathered so seldom: it is in no hurry, and one by one each would cost a wake-up of its thread.
const REST: Duration = Duration::from_millis(10);
/// Hits that may be suspects at once.
const SUSPECTS: usize = 64;

/// Those of one connection.
#[derive(Debug, Default)]
pub(super) struct Audits {
    under_way: usize,
    bytes: u64,
    /// No more are taken before then.
    rest_until: Option<Time>,
    /// What Redis answers otherwise, with when that was heard.
    suspects: Vec<(Time, Audit)>,
    /// Whether no fence was sent since the last of them came.
    wants_fence: bool,
}

impl Audits {
    /// Whether there may be one more.
    pub(super) fn is_open(&self) -> bool {
        self.rest_until.is_none() && self.under_way < WINDOW && self.bytes < BYTES
    }

    /// It is sent.
    pub(super) fn enter(&mut self, audit: &Audit) {
        self.under_way += 1;
        self.bytes += audit.exhibit.bytes();
    }

    /// It is answered.
    pub(super) fn leave(&mut self, audit: &Audit) {
        self.under_way -= 1;
        self.bytes -= audit.exhibit.bytes();
    }

    /// How many are under way, or suspects.
    pub(super) fn len(&self) -> usize {
        self.under_way + self.suspects.len()
    }

    /// Some were taken up: takes no more for a while.
    pub(super) fn rest(&mut self, now: Time) {
        self.rest_until = Some(now.plus(REST));
    }

    /// When it is to be woken, [`Time::NEVER`] where it is awake.
    pub(super) fn wakes(&self) -> Time {
        self.rest_until.unwrap_or(Time::NEVER)
    }

    /// It is `now`.
    pub(super) fn wake(&mut self, now: Time) {
        self.rest_until = self.rest_until.filter(|&until| now < until);
    }

    /// Redis answers otherwise, as was heard `now`. False: there are too many.
    pub(super) fn suspect(&mut self, audit: Audit, now: Time) -> bool {
        let has_room = self.suspects.len() < SUSPECTS;
        if has_room {
            self.suspects.push((now, audit));
            self.wants_fence = true;
        }
        has_room
    }

    /// Whether a fence is wanted at once. One that settles nothing, as of a server that is busy, is followed by those that are sent anyway.
    pub(super) fn wants_fence(&self) -> bool {
        self.wants_fence
    }

    /// A fence is sent.
    pub(super) fn fence_sent(&mut self) {
        self.wants_fence = false;
    }

    /// Whether there are suspects.
    pub(super) fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// All that Redis had said by `asked` is applied: those that can be judged.
    pub(super) fn settled(&mut self, asked: Time) -> Vec<Audit> {
        self.suspects.extract_if(.., |(since, _)| *since <= asked).map(|(_, audit)| audit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;

    fn row(name: &str) -> &'static Spec {
        command::named(name.as_bytes()).expect("a row")
    }

    #[test]
    fn what_has_no_order_is_compared_without_it_and_all_else_is_not() {
        let same = |name, one: &str, other: &str| is_same_in_any_order(row(name), one.as_bytes(), other.as_bytes());
        assert!(same("smembers", "~2\r\n$1\r\na\r\n$1\r\nb\r\n", "~2\r\n$1\r\nb\r\n$1\r\na\r\n"));
        assert!(!same("smembers", "~2\r\n$1\r\na\r\n$1\r\na\r\n", "~2\r\n$1\r\na\r\n$1\r\nb\r\n"), "as often");
        let pairs = |list: &[&str]| {
            list.iter().fold(format!("%{}\r\n", list.len() / 2), |all, text| all + &format!("$1\r\n{text}\r\n"))
        };
        assert!(same("hgetall", &pairs(&["f", "1", "g", "2"]), &pairs(&["g", "2", "f", "1"])));
        assert!(!same("hgetall", &pairs(&["f", "1", "g", "2"]), &pairs(&["f", "2", "g", "1"])), "pairs stay pairs");
        let (ab, ba) = ("*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n$1\r\nb\r\n$1\r\na\r\n");
        assert!(same("hkeys", ab, ba));
        assert!(!same("hmget", ab, ba) && !same("lrange", ab, ba));
        assert!(!same("smembers", "~1\r\n$1\r\na\r\n", "*1\r\n$1\r\na\r\n"));
    }

    #[test]
    fn a_key_that_is_missing_is_answered_by_nothing() {
        for reply in [
            "_\r\n",
            ":0\r\n",
            ":-1\r\n",
            "*0\r\n",
            "%0\r\n",
            "~0\r\n",
            "$0\r\n\r\n",
            "+none\r\n",
            "*2\r\n_\r\n_\r\n",
            "*1\r\n:0\r\n",
            "#f\r\n",
        ] {
            assert!(is_of_nothing(reply.as_bytes()), "{reply:?}");
        }
        for reply in
            ["$1\r\na\r\n", ":1\r\n", "*2\r\n_\r\n$1\r\na\r\n", "+string\r\n", "%1\r\n$1\r\na\r\n:0\r\n", "#t\r\n"]
        {
            assert!(!is_of_nothing(reply.as_bytes()), "{reply:?}");
        }
    }

    #[test]
    fn an_error_is_no_answer_but_for_a_key_of_another_type() {
        assert!(!Audit::is_answered_by(b"-NOPERM no\r\n") && !Audit::is_answered_by(b"-MOVED 1 a:1\r\n"));
        assert!(Audit::is_answered_by(b"-WRONGTYPE no\r\n") && Audit::is_answered_by(b"_\r\n"));
    }
}
