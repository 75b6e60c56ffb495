//! Private connections: in a worker's pool, or lent to a session.
//!
//! One that comes back to the pool is as it was lent but for protocol version and database, which are remembered and set
//! when it is lent again; and a check goes ahead of whatever is sent on it next. One that was changed otherwise is closed
//! with its session. In the pool it bears the pool's name, unless it has just come back; lent it bears none, so that no client
//! sees a name that it did not give.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::caller::Who;
use super::pending::{Pending, Work};
use super::replies::{End, Replies};
use super::worker::{Worker, user};
use crate::clock::Time;
use crate::invalidation::L1;
use crate::resp::{Resp, encode};
use crate::upstream::{Lane, Login, OutOfBand};

/// A private connection in the pool, or lent.
pub(super) struct Spare {
    /// The connection.
    pub lane: Rc<Lane<Pending>>,
    resp: Resp,
    db: u32,
    named: bool,
}

/// The name of connections in the pool.
pub(super) const NAME: &str = "crema-pool";
/// How long one lies there before it gets it back: where one transaction follows another, none is named in between.
const UNNAMED: Duration = Duration::from_secs(1);

impl Spare {
    /// A new connection of the pool, named by its handshake.
    pub(super) fn new(lane: Rc<Lane<Pending>>, db: u32) -> Self {
        Self { lane, resp: Resp::V2, db, named: true }
    }

    /// Gives it the pool's name where it has lain without one.
    pub(super) fn name(&mut self, worker: &Rc<Worker>, now: Time) {
        if !self.named && self.lane.idle_for(now) > UNNAMED {
            self.named = true;
            let mut raw = Vec::new();
            encode::command(&mut raw, &[b"CLIENT", b"SETNAME", NAME.as_bytes()]);
            // Where it cannot be sent, the connection has ended and needs no name.
            let _ = self.lane.send(&raw, Pending::own(worker, Work::Ignore), now);
        }
    }
}

/// A user's private connections that nobody has. One is kept warm; where it is lent, another is made when a session needs one,
/// or when the pool stood empty for a while: loans are mostly over at once, and one connection then serves them all.
#[derive(Default)]
pub(super) struct Pool {
    /// Whose they are.
    pub(super) login: Option<Arc<Login>>,
    pub(super) spares: Vec<Spare>,
    lent: usize,
    /// How often in a row [`Worker::sweep`] found it empty.
    empty: u32,
}

impl Pool {
    /// One that is open, for a session; with `None` the session is to be given a new one.
    pub(super) fn lend(&mut self) -> Option<Spare> {
        self.lent += 1;
        self.spares.retain(|spare| spare.lane.is_open());
        self.spares.pop()
    }

    /// Closes what has been idle for longer than `idle` but for one. True where one should be made.
    pub(super) fn sweep(&mut self, idle: Duration, now: Time) -> bool {
        self.spares.retain(|spare| spare.lane.is_open());
        let mut kept = self.spares.len();
        for spare in &self.spares {
            if kept > 1 && spare.lane.idle_for(now) > idle {
                spare.lane.close();
                kept -= 1;
            }
        }
        self.empty = if kept == 0 { self.empty + 1 } else { 0 };
        self.lent > 0 && self.empty == 2
    }

    /// A session has done with one; it comes back, or has ended.
    fn returned(&mut self, spare: Option<Spare>) {
        self.lent -= 1;
        if let Some(spare) = spare {
            self.empty = 0;
            self.spares.push(spare);
        }
    }
}

/// A private connection while a session has it. Dropped without [`Lent::give_back`], it is closed.
pub struct Lent {
    worker: Rc<Worker>,
    spare: Option<Spare>,
    who: Rc<Who>,
    home: bool,
}

impl Lent {
    pub(super) fn new(worker: &Rc<Worker>, spare: Spare, who: &Rc<Who>, resp: Resp, now: Time) -> Self {
        worker.stats.pinned.add(1);
        let mut lent = Self { worker: Rc::clone(worker), spare: Some(spare), who: Rc::clone(who), home: false };
        lent.set(resp, who.db, now);
        lent
    }

    /// The connection.
    pub fn lane(&self) -> &Rc<Lane<Pending>> {
        &self.spare.as_ref().expect("only given back or dropped takes it").lane
    }

    /// The next commands are to run in this version and database, under no name.
    fn set(&mut self, resp: Resp, db: u32, now: Time) {
        let spare = self.spare.as_mut().expect("only given back or dropped takes it");
        let mut preamble = Vec::new();
        if std::mem::take(&mut spare.named) {
            preamble.push(vec![&b"CLIENT"[..], b"SETNAME", b""]);
        }
        if spare.resp != resp {
            let version: &[u8] = if resp == Resp::V3 { b"3" } else { b"2" };
            preamble.push(vec![&b"HELLO"[..], version]);
            spare.resp = resp;
        }
        let db_text = db.to_string();
        if spare.db != db {
            preamble.push(vec![&b"SELECT"[..], db_text.as_bytes()]);
            spare.db = db;
        }
        for command in preamble {
            self.tell(&command, now);
        }
    }

    /// Sends a command of crema's own on it, ahead of what the session sends next.
    pub fn tell(&self, command: &[&[u8]], now: Time) {
        let mut raw = Vec::new();
        encode::command(&mut raw, command);
        self.tell_raw(&raw, now);
    }

    /// The same with a command's bytes.
    pub fn tell_raw(&self, command: &[u8], now: Time) {
        // Where it cannot be sent the lane has ended, and so will the session be told.
        let _ = self.lane().send(command, Pending::own(&self.worker, Work::Ignore), now);
    }

    /// Sends a command whose reply `work` takes.
    pub fn ask(&self, command: &[u8], work: Work, now: Time) {
        let _ = self.lane().send(command, Pending::own(&self.worker, work), now);
    }

    /// The session itself changed its version and database.
    pub fn is_now(&mut self, resp: Resp, db: u32) {
        if let Some(spare) = &mut self.spare {
            (spare.resp, spare.db) = (resp, db);
        }
    }

    /// It stays with the session for life.
    pub fn settle(&mut self) {
        if !self.home {
            self.home = true;
            self.worker.stats.pinned.sub(1);
            self.worker.stats.homes.add(1);
        }
    }

    /// Back to the pool. Everything on it must have been answered, and it must be as it was lent but for version and
    /// database.
    pub fn give_back(mut self, now: Time) {
        let Some(spare) = self.spare.take() else { return };
        let open = spare.lane.is_open();
        if open {
            spare.lane.verify(now);
        }
        spare.lane.lend(None);
        self.returned(open.then_some(spare));
    }

    fn returned(&self, spare: Option<Spare>) {
        let stats = &self.worker.stats;
        if self.home {
            stats.homes.sub(1);
        } else {
            stats.pinned.sub(1);
        }
        if let Some(pool) = self.worker.pools.borrow_mut().get_mut(&user(&self.who)) {
            pool.returned(spare);
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(spare) = self.spare.take() {
            spare.lane.lend(None);
            spare.lane.close();
            self.returned(None);
        }
    }
}

/// The session as a private connection sees it.
pub struct Owner {
    replies: Rc<Replies>,
    l1: Arc<L1>,
    bound: Cell<bool>,
}

impl Owner {
    /// The owner behind `replies`.
    pub fn new(replies: Rc<Replies>, l1: Arc<L1>) -> Rc<Self> {
        Rc::new(Self { replies, l1, bound: Cell::new(false) })
    }

    /// Whether the session ends with the connection: there is state on it that would be lost in silence.
    pub fn bind(&self, bound: bool) {
        self.bound.set(bound);
    }
}

impl OutOfBand for Owner {
    fn message(&self, bytes: &[u8]) {
        self.replies.message(bytes);
    }

    fn monitored(&self, line: &[u8]) {
        let own = |address: &String| line.windows(address.len()).any(|window| window == address.as_bytes());
        if !self.l1.ear_addresses().iter().any(own) {
            self.replies.message(line);
        }
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.replies.poll_room(cx)
    }

    fn ended(&self) {
        if self.bound.get() {
            self.replies.end(End::Upstream);
        }
    }
}
