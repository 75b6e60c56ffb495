//! A session as its private connection sees it: who gets what nobody asked for, and who ends with it.
//!
//! Holds contract point 1 (same answers).

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::replies::Replies;
use super::reply_queue::SessionEnd;
use crate::invalidation::L1;
use crate::resp::encode;
use crate::upstream::{OutOfBand, is_told_by_one_node};

/// The session as a private connection sees it.
pub(crate) struct Owner {
    replies: Rc<Replies>,
    l1: Arc<L1>,
    bound: Cell<bool>,
    /// No transaction is open on the connection, and no request half sent; and crema knows what each command means there.
    free: Cell<bool>,
    /// It has another for its subscriptions: of this one's messages it is told only what no other node tells.
    is_feed: bool,
    /// It keeps the connection for life.
    pub(super) keeps: Cell<bool>,
    /// Others need what it has borrowed and does not use.
    pub(super) wanted: Cell<bool>,
}

impl Owner {
    /// The owner behind `replies`.
    pub(crate) fn new(replies: Rc<Replies>, l1: Arc<L1>) -> Rc<Self> {
        Self::with(replies, l1, false)
    }

    /// The same of a connection to a node that tells of its keys, or has shard channels.
    pub(crate) fn of_feed(replies: Rc<Replies>, l1: Arc<L1>) -> Rc<Self> {
        Self::with(replies, l1, true)
    }

    fn with(replies: Rc<Replies>, l1: Arc<L1>, is_feed: bool) -> Rc<Self> {
        let (bound, keeps, wanted) = (Cell::default(), Cell::default(), Cell::default());
        Rc::new(Self { replies, l1, bound, free: Cell::default(), is_feed, keeps, wanted })
    }

    /// Its client's address, for people.
    pub(super) fn client(&self) -> String {
        self.replies.member().peer()
    }

    /// Asks for what it has borrowed. False where it keeps that, or was asked already.
    pub(super) fn want_back(&self) -> bool {
        let asked = !self.keeps.get() && !self.wanted.replace(true);
        if asked {
            self.replies.wake();
        }
        asked
    }

    /// Whether others need what it has borrowed: what is done with is to be given back at once.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.get()
    }

    /// Whether the session ends with the connection: there is state on it that would be lost in silence.
    pub(super) fn bind(&self, bound: bool) {
        self.bound.set(bound);
    }

    /// Whether a command of crema's own may go on the connection now.
    pub(super) fn set_free(&self, free: bool) {
        self.free.set(free);
    }
}

impl OutOfBand for Owner {
    fn is_free(&self) -> bool {
        self.free.get()
    }

    fn message(&self, bytes: &[u8]) {
        if !self.is_feed || is_told_by_one_node(bytes) {
            self.replies.message(bytes);
        }
    }

    /// What crema asks on its own account is nothing that a client ran: what any of its connections was made ready with, and
    /// what the ears read.
    fn monitored(&self, line: &[u8]) {
        let Some((origin, name)) = monitor_line(line) else { return self.replies.message(line) };
        if !encode::is_own(name) && !self.l1.ears.addresses().iter().any(|ear| ear.as_bytes() == origin) {
            self.replies.message(line);
        }
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.replies.poll_room(cx)
    }

    fn taken(&self) {
        self.replies.wake();
    }

    /// A client sees what Redis does to a connection of its own: closed with commands unanswered, as over a limit of its
    /// output, it is closed.
    fn cut(&self) {
        if !self.replies.is_settled() {
            self.replies.end(SessionEnd::Upstream);
        }
    }

    fn ended(&self) {
        if self.bound.get() {
            self.replies.end(SessionEnd::Upstream);
        }
    }
}

/// Address and command name of a line such as `+1339518083.107412 [0 127.0.0.1:60866] "keys" "*"`.
fn monitor_line(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let from = line.iter().position(|&b| b == b'[')? + 1;
    let till = from + line[from..].windows(3).position(|at| at == b"] \"")?;
    let origin = line[from..till].splitn(2, |&b| b == b' ').nth(1)?;
    let name = line[till + 3..].split(|&b| b == b'"').next()?;
    Some((origin, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitored_line_tells_from_where_and_what() {
        let line = b"+1339518083.107412 [0 127.0.0.1:60866] \"keys\" \"*\"\r\n";
        assert_eq!(monitor_line(line), Some((&b"127.0.0.1:60866"[..], &b"keys"[..])));
        assert_eq!(monitor_line(b"+OK\r\n"), None);
    }
}
