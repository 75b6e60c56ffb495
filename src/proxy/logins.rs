//! The connections on which clients log in, where they have none of their own.
//!
//! Each carries one login at a time: from 7.2 on Redis gives no reply to one that it refuses while it has another reply to
//! send, and the next reply would be taken for the answer. Belongs to a `Station`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::in_flight::{InFlight, Work};
use super::station::Station;
use crate::clock::Time;
use crate::error::Error;
use crate::upstream::Lane;

/// Logins that a station has under way at once; others wait for their turn.
const AT_ONCE: usize = 4;

/// What a station has for logins.
pub(super) struct Logins {
    turns: Semaphore,
    free: RefCell<Vec<Rc<Lane<InFlight>>>>,
}

impl Default for Logins {
    fn default() -> Self {
        Self { turns: Semaphore::new(AT_ONCE), free: RefCell::default() }
    }
}

impl Logins {
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
struct Turn<'a> {
    logins: &'a Logins,
    lane: Rc<Lane<InFlight>>,
    answered: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.answered {
            self.logins.free.borrow_mut().push(Rc::clone(&self.lane));
        } else {
            self.lane.close();
        }
    }
}

impl Station {
    /// Redis's reply to `AUTH`, or to `HELLO` with a login. Asked once more where the connection breaks meanwhile: it is
    /// whoever logged in last, and ends with that user.
    pub async fn log_in(self: &Rc<Self>, command: &[u8]) -> Result<Vec<u8>, Error> {
        match self.try_log_in(command).await {
            Err(Error::Lost { .. }) => self.try_log_in(command).await,
            done => done,
        }
    }

    async fn try_log_in(self: &Rc<Self>, command: &[u8]) -> Result<Vec<u8>, Error> {
        let _one = self.logins.turns.acquire().await.expect("it is never closed");
        let now = Time::now();
        let free = {
            let free = &mut *self.logins.free.borrow_mut();
            free.retain(|lane| lane.is_open());
            free.pop()
        };
        let lane = free.unwrap_or_else(|| self.private(None, now));
        let mut turn = Turn { logins: &self.logins, lane, answered: false };
        turn.lane.ready().await?;
        let (told, reply) = oneshot::channel();
        if turn.lane.send(command, InFlight::own(&self.worker(), Work::Capture(Vec::new(), told)), now).is_ok() {
            let limit = self.shared.config.response_timeout.unwrap_or(Duration::MAX);
            match timeout(limit, reply).await {
                Ok(Ok(reply)) => {
                    turn.answered = true;
                    return Ok(reply);
                }
                Ok(Err(_)) => {}
                Err(_) => turn.lane.give_up(limit),
            }
        }
        Err(turn.lane.lost_error())
    }
}
