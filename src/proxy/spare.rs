//! A user's private connections that nobody has at present: how many there are to be, which is lent, which closed.
//!
//! One that comes back is as it was lent but for protocol version and database, which are remembered and set when it is lent
//! again; and a check goes ahead of whatever is sent on it next. `pools` makes them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::in_flight::InFlight;
use crate::clock::Time;
use crate::invalidation::AclUser;
use crate::resp::Resp;
use crate::upstream::{Lane, Login};

/// Private connections kept for each user beyond the warm one are closed after so long.
pub(super) const SPARE_IDLE: Duration = Duration::from_secs(10);

/// The pools by user.
pub(super) type Pools = RefCell<HashMap<Vec<u8>, Pool>>;

/// A private connection in the pool, or lent.
pub(super) struct Spare {
    /// The connection.
    pub lane: Rc<Lane<InFlight>>,
    resp: Resp,
    pub(super) db: u32,
}

impl Spare {
    /// A new connection of the pool.
    pub(super) fn new(lane: Rc<Lane<InFlight>>, db: u32) -> Self {
        Self { lane, resp: Resp::V2, db }
    }

    /// It is in these from the next command on.
    pub(super) fn is_now(&mut self, resp: Resp, db: u32) {
        (self.resp, self.db) = (resp, db);
    }

    /// The version and the database that it is in.
    pub(super) fn was(&self) -> (Resp, u32) {
        (self.resp, self.db)
    }
}

/// A user's private connections that nobody has. One is kept warm; where it is lent, another is made when a session needs one,
/// or when the pool stood empty for a while: loans are mostly over at once, and one connection then serves them all.
#[derive(Default)]
pub(super) struct Pool {
    /// Whose they are.
    pub(super) login: Option<Arc<Login>>,
    pub(super) spares: Vec<Spare>,
    /// The user, of whom there may be several sessions.
    pub(super) of: Option<Arc<AclUser>>,
    lent: usize,
    /// How often in a row `Station::sweep` found it short.
    short: u32,
}

impl Pool {
    /// One that is open, for a session, in its database if there is such a one; with `None` the session is to be given a new one.
    pub(super) fn lend(&mut self, fresh: bool, db: u32) -> Option<Spare> {
        self.lent += 1;
        self.spares.retain(|spare| spare.lane.is_open());
        if fresh {
            return None;
        }
        let there = self.spares.iter().rposition(|spare| spare.db == db);
        there.map(|at| self.spares.remove(at)).or_else(|| self.spares.pop())
    }

    /// One whose connection is made, for whoever goes on with it.
    pub(super) fn take_made(&mut self) -> Option<Spare> {
        let made = self.spares.iter().rposition(|spare| spare.lane.is_made())?;
        Some(self.spares.remove(made))
    }

    /// How many there are to be: a second one where there are sessions that may need one at once, and their login may be refused
    /// by then.
    fn wanted(&self) -> usize {
        if self.login.is_some() && self.of.as_ref().is_some_and(|user| user.is_shared()) { 2 } else { 1 }
    }

    /// Whether one should be made.
    pub(super) fn is_short(&self) -> bool {
        self.spares.is_empty() || self.spares.len() + self.lent < self.wanted()
    }

    /// Closes what has been idle for longer than `idle` but for those that are to be there, if `keep` says so, and checks what was
    /// not for longer than `check`. True where one should be made: somebody has one on loan or may need one, or `proved` says so.
    pub(super) fn sweep(&mut self, (idle, check): (Duration, Duration), keep: bool, proved: bool, now: Time) -> bool {
        self.spares.retain(|spare| spare.lane.is_open());
        let keep = if keep { self.wanted() } else { 0 };
        let mut kept = self.spares.len();
        for spare in &self.spares {
            if kept > keep && spare.lane.idle_for(now) > idle {
                spare.lane.close();
                kept -= 1;
            } else if spare.lane.checked_for(now) > check {
                spare.lane.verify(now);
            }
        }
        let is_short = kept == 0 || kept + self.lent < keep;
        self.short = if is_short { self.short.saturating_add(1) } else { 0 };
        (self.lent > 0 || proved || keep > 1) && self.short == 2
    }

    /// Whether there is one, in the pool or on loan.
    pub(super) fn is_used(&self) -> bool {
        self.lent > 0 || !self.spares.is_empty()
    }

    /// A session has done with one; it comes back, or has ended.
    pub(super) fn returned(&mut self, spare: Option<Spare>) {
        self.lent -= 1;
        if let Some(spare) = spare {
            self.short = 0;
            self.spares.push(spare);
        }
    }
}
