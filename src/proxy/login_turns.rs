//! The connections of a worker at one node on which clients log in: how many at once, and which are free; and who waits with whom.
//!
//! Whoever comes with a login that waits for its turn waits with it: it is asked after both have come, so its answer is both's. Once
//! it is sent nobody joins it any more, for the password may have changed since.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::in_flight::InFlight;
use crate::clock::Time;
use crate::upstream::Lane;

/// Logins that a station has under way at once; others wait for their turn.
const AT_ONCE: usize = 4;

/// See the module's head.
pub(super) struct LoginTurns {
    turns: Semaphore,
    free: RefCell<Vec<Rc<Lane<InFlight>>>>,
    /// Those that wait for their turn, by what is said, with who waits along.
    waiting: RefCell<HashMap<Box<[u8]>, LoginAnswers>>,
}

/// Who waits along for an answer.
type LoginAnswers = Vec<oneshot::Sender<Vec<u8>>>;

impl Default for LoginTurns {
    fn default() -> Self {
        Self { turns: Semaphore::new(AT_ONCE), free: RefCell::default(), waiting: RefCell::default() }
    }
}

impl LoginTurns {
    /// Waits for a turn, and takes it; `new` makes a connection where none is free.
    pub(super) async fn take(&self, new: impl FnOnce() -> Rc<Lane<InFlight>>) -> LoginTurn<'_> {
        let one = self.turns.acquire().await.expect("it is never closed");
        let free = {
            let free = &mut *self.free.borrow_mut();
            free.retain(|lane| lane.is_open());
            free.pop()
        };
        LoginTurn { turns: self, _one: one, lane: free.unwrap_or_else(new), answered: false }
    }

    /// The answer to the same login, where one waits for its turn; none where it is not accepted, or is given up: then this one is to
    /// be asked by itself.
    pub(super) fn join(&self, command: &[u8]) -> Option<oneshot::Receiver<Vec<u8>>> {
        let mut waiting = self.waiting.borrow_mut();
        let (told, answer) = oneshot::channel();
        waiting.get_mut(command)?.push(told);
        Some(answer)
    }

    /// This login waits for its turn from now on.
    pub(super) fn lead(&self, command: &[u8]) -> LoginLead<'_> {
        let mut waiting = self.waiting.borrow_mut();
        let is_first = !waiting.contains_key(command);
        if is_first {
            waiting.insert(command.into(), Vec::new());
        }
        LoginLead { turns: self, command: is_first.then(|| command.into()), joined: Vec::new() }
    }

    /// Closes what has been idle for longer than `idle`, but for one.
    pub(super) fn sweep(&self, idle: Duration, now: Time) {
        let free = &mut *self.free.borrow_mut();
        free.retain(|lane| lane.is_open());
        free.iter().skip(1).filter(|lane| lane.idle_for(now) > idle).for_each(|lane| lane.close());
    }

    /// Closes all that nobody uses.
    pub(super) fn close(&self) {
        self.free.borrow().iter().for_each(|lane| lane.close());
    }
}

/// A login that waits for its turn, and then for its answer. Dropped before, whoever waits along asks by itself.
pub(super) struct LoginLead<'a> {
    turns: &'a LoginTurns,
    /// While others may join.
    command: Option<Box<[u8]>>,
    joined: LoginAnswers,
}

impl LoginLead<'_> {
    /// It is about to be sent: nobody joins any more.
    pub(super) fn leaves(&mut self) {
        if let Some(command) = self.command.take() {
            self.joined = self.turns.waiting.borrow_mut().remove(&command).unwrap_or_default();
        }
    }

    /// This is the answer. A refusal is each one's own: Redis counts who was refused.
    pub(super) fn answered(&mut self, reply: &[u8]) {
        for told in self.joined.drain(..).filter(|_| !reply.starts_with(b"-")) {
            let _ = told.send(reply.to_vec()); // who waited may have left
        }
    }
}

impl Drop for LoginLead<'_> {
    fn drop(&mut self) {
        self.leaves();
    }
}

/// A connection while a login has it. Dropped before that is answered, it is closed.
pub(super) struct LoginTurn<'a> {
    turns: &'a LoginTurns,
    _one: SemaphorePermit<'a>,
    pub(super) lane: Rc<Lane<InFlight>>,
    answered: bool,
}

impl LoginTurn<'_> {
    /// The login was answered: the connection is free for the next.
    pub(super) fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for LoginTurn<'_> {
    fn drop(&mut self) {
        if self.answered {
            self.turns.free.borrow_mut().push(Rc::clone(&self.lane));
        } else {
            self.lane.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_with_a_login_that_waits_is_told_its_answer_and_who_comes_after_it_was_sent_is_not() {
        let turns = LoginTurns::default();
        assert!(turns.join(b"anna").is_none(), "nobody waits");
        let mut lead = turns.lead(b"anna");
        let mut joined = [turns.join(b"anna"), turns.join(b"anna")].map(|answer| answer.expect("she waits"));
        assert!(turns.join(b"bert").is_none());
        lead.leaves();
        assert!(turns.join(b"anna").is_none(), "it was sent");
        lead.answered(b"+OK\r\n");
        assert!(joined.iter_mut().all(|answer| answer.try_recv().is_ok_and(|reply| reply == b"+OK\r\n")));
    }

    #[test]
    fn of_a_login_that_is_refused_or_given_up_nobody_else_is_told() {
        let turns = LoginTurns::default();
        let mut lead = turns.lead(b"anna");
        let mut joined = turns.join(b"anna").expect("she waits");
        lead.leaves();
        lead.answered(b"-WRONGPASS no\r\n");
        assert!(joined.try_recv().is_err(), "each is refused by itself");
        let lead = turns.lead(b"anna");
        let (other, mut joined) = (turns.lead(b"anna"), turns.join(b"anna").expect("she waits"));
        drop(other);
        assert!(turns.join(b"anna").is_some(), "the first waits still");
        drop(lead);
        assert!(joined.try_recv().is_err() && turns.join(b"anna").is_none());
    }
}
