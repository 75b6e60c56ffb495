//! The connections of a worker at one node on which clients log in: how many at once, and which are free.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::in_flight::InFlight;
use crate::clock::Time;
use crate::upstream::Lane;

/// Logins that a station has under way at once; others wait for their turn.
const AT_ONCE: usize = 4;

/// See the module's head.
pub(super) struct LoginTurns {
    turns: Semaphore,
    free: RefCell<Vec<Rc<Lane<InFlight>>>>,
}

impl Default for LoginTurns {
    fn default() -> Self {
        Self { turns: Semaphore::new(AT_ONCE), free: RefCell::default() }
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
