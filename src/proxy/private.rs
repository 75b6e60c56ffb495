//! Private connections: in a worker's pool, or lent to a session.
//!
//! One that comes back to the pool is as it was lent but for protocol version and database, which are remembered and set
//! when it is lent again; and a check goes ahead of whatever is sent on it next. One that was changed otherwise is closed
//! with its session. It bears no name, in the pool and lent, so that no client sees a name that it did not give, and nothing has
//! to be undone.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::debug;

use super::caller::Who;
use super::pending::{Pending, Work};
use super::replies::{End, Replies};
use super::worker::{Worker, user};
use crate::clock::Time;
use crate::error::Error;
use crate::invalidation::{Ear, L1};
use crate::resp::{Resp, encode};
use crate::upstream::{Lane, Login, OutOfBand, Settled};

/// A private connection in the pool, or lent.
pub(super) struct Spare {
    /// The connection.
    pub lane: Rc<Lane<Pending>>,
    resp: Resp,
    db: u32,
}

impl Spare {
    /// A new connection of the pool.
    pub(super) fn new(lane: Rc<Lane<Pending>>, db: u32) -> Self {
        Self { lane, resp: Resp::V2, db }
    }

    /// The version and the database that it is in.
    pub(super) fn was(&self) -> (Resp, u32) {
        (self.resp, self.db)
    }
}

/// Where a private connection is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// In the session's database.
    Database,
    /// There too, and made for it: where Redis refuses to take another one there.
    Fresh,
    /// In any: its command is about the server, and Redis may be too busy to select one.
    Anywhere,
}

/// A user's private connections that nobody has. One is kept warm; where it is lent, another is made when a session needs one,
/// or when the pool stood empty for a while: loans are mostly over at once, and one connection then serves them all.
#[derive(Default)]
pub(super) struct Pool {
    /// Whose they are.
    pub(super) login: Option<Arc<Login>>,
    pub(super) spares: Vec<Spare>,
    /// The user's ear, which knows whether there are several sessions.
    pub(super) ear: Option<Arc<Ear>>,
    lent: usize,
    /// How often in a row [`Worker::sweep`] found it short.
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
        if self.login.is_some() && self.ear.as_ref().is_some_and(|ear| ear.is_shared()) { 2 } else { 1 }
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
    fn returned(&mut self, spare: Option<Spare>) {
        self.lent -= 1;
        if let Some(spare) = spare {
            self.short = 0;
            self.spares.push(spare);
        }
    }
}

/// A private connection while a session has it. Dropped without [`Lent::give_back`], it is closed.
pub struct Lent {
    worker: Rc<Worker>,
    spare: Option<Spare>,
    who: Rc<Who>,
    home: Option<Settled>,
    /// Told with the reply to the last command that made it ready.
    preamble: Option<oneshot::Receiver<Vec<u8>>>,
}

/// The user, for people.
fn name(who: &Who) -> String {
    who.login.as_ref().map_or_else(|| "default".to_owned(), |login| String::from_utf8_lossy(&login.user).into_owned())
}

impl Lent {
    pub(super) fn new(worker: &Rc<Worker>, spare: Spare, who: &Rc<Who>, resp: Resp, place: Setting, now: Time) -> Self {
        worker.stats.pinned.add(1);
        debug!(user = name(who), db = who.db, "a session borrows a connection");
        let (worker, who) = (Rc::clone(worker), Rc::clone(who));
        let db = if place == Setting::Anywhere { spare.db } else { who.db };
        let mut lent = Self { worker, spare: Some(spare), who, home: None, preamble: None };
        lent.set(resp, db, now);
        lent
    }

    /// The connection.
    pub fn lane(&self) -> &Rc<Lane<Pending>> {
        &self.spare.as_ref().expect("only given back or dropped takes it").lane
    }

    /// The next commands are to run in this version and database.
    fn set(&mut self, resp: Resp, db: u32, now: Time) {
        let spare = self.spare.as_mut().expect("only given back or dropped takes it");
        let prepare = |command: &[&[u8]], kind| {
            let mut raw = Vec::new();
            encode::own_command(&mut raw, command);
            spare.lane.prepare(&raw, kind, now);
        };
        if spare.resp != resp {
            match resp {
                Resp::V2 => prepare(&[b"HELLO", b"2"], b'*'),
                Resp::V3 => prepare(&[b"HELLO", b"3"], b'%'),
            }
            spare.resp = resp;
        }
        if spare.db != db {
            prepare(&[b"SELECT", db.to_string().as_bytes()], b'+');
            spare.db = db;
        }
    }

    /// Sends a command that makes it ready for its session.
    pub fn prepare(&mut self, command: &[u8], now: Time) {
        let (told, reply) = oneshot::channel();
        self.ask(command, Work::Capture(Vec::new(), told), now);
        self.preamble = Some(reply);
    }

    /// Waits until it is ready. False where Redis refused: then it is not in the session's database, and has ended.
    pub async fn prepared(&mut self) -> bool {
        if let Some(reply) = self.preamble.take() {
            let _ = reply.await; // where it is lost, the session will be told with its next command
        }
        self.lane().prepared().await
    }

    /// Sends a command of crema's own on it, ahead of what the session sends next.
    pub fn tell(&self, command: &[&[u8]], now: Time) {
        let mut raw = Vec::new();
        encode::own_command(&mut raw, command);
        // Where it cannot be sent the lane has ended, and so will the session be told.
        let _ = self.lane().send(&raw, Pending::own(&self.worker, Work::Ignore), now);
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

    /// It stays with the session for life. Fails where too many do.
    pub fn settle(&mut self) -> Result<(), Error> {
        if self.home.is_none() {
            self.home = Some(self.worker.shared.node.budget.settle()?);
            debug!(user = name(&self.who), "a session keeps a connection for life");
            self.worker.stats.pinned.sub(1);
            self.worker.stats.homes.add(1);
        }
        Ok(())
    }

    /// Back to the pool. Everything on it must have been answered, and it must be as it was lent but for version and
    /// database.
    pub fn give_back(mut self, now: Time) {
        let Some(spare) = self.spare.take() else { return };
        debug!(user = name(&self.who), "a session gives a connection back");
        let open = spare.lane.is_open();
        if open {
            spare.lane.verify(now);
        }
        spare.lane.lend(None);
        self.returned(open.then_some(spare));
    }

    fn returned(&self, spare: Option<Spare>) {
        let stats = &self.worker.stats;
        if self.home.is_some() {
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

/// Address and command name of a line such as `+1339518083.107412 [0 127.0.0.1:60866] "keys" "*"`.
fn monitor_line(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let from = line.iter().position(|&b| b == b'[')? + 1;
    let till = from + line[from..].windows(3).position(|at| at == b"] \"")?;
    let origin = line[from..till].splitn(2, |&b| b == b' ').nth(1)?;
    let name = line[till + 3..].split(|&b| b == b'"').next()?;
    Some((origin, name))
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

    /// What crema asks on its own account is nothing that a client ran: what any of its connections was made ready with, and
    /// what the ears read.
    fn monitored(&self, line: &[u8]) {
        let Some((origin, name)) = monitor_line(line) else { return self.replies.message(line) };
        if !encode::is_own(name) && !self.l1.ear_addresses().iter().any(|ear| ear.as_bytes() == origin) {
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
            self.replies.end(End::Upstream);
        }
    }

    fn ended(&self) {
        if self.bound.get() {
            self.replies.end(End::Upstream);
        }
    }
}
