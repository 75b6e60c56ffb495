//! Private connections that are lent to a session, for a moment or for life.
//!
//! One that was changed otherwise than in protocol version and database is closed with its session; any other goes back to the
//! pool (`pools`). It bears no name, in the pool and lent, so that no client sees a name that it did not give, and nothing has
//! to be undone.
//!
//! Holds contract points 1 (same answers) and 2 (order).

use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::debug;

use super::in_flight::{InFlight, ReplyAction};
use super::loans::LoanNumber;
use super::owner::Owner;
use super::queued::{QueueNote, QueuedCommand};
use super::site::Site;
use super::spare::Spare;
use super::station::Station;
use super::who::Who;
use crate::clock::Time;
use crate::error::{Error, Sent};
use crate::resp::{Resp, encode};
use crate::upstream::{Lane, Login, Node, NodeIndex, OutOfBand, Settled, Step, steps};

/// Where a private connection is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    /// In the session's database.
    Database,
    /// There too, and made for it: where Redis refuses to take another one there.
    Fresh,
    /// In any: its command is about the server, and Redis may be too busy to select one.
    Anywhere,
}

/// A private connection, as its session's commands are sent on it.
#[derive(Clone)]
pub(crate) struct OwnLane {
    lane: Rc<Lane<InFlight>>,
    pub(super) site: Rc<Site>,
}

impl Deref for OwnLane {
    type Target = Lane<InFlight>;

    fn deref(&self) -> &Lane<InFlight> {
        &self.lane
    }
}

impl OwnLane {
    /// Which node it leads to.
    pub(crate) fn node(&self) -> NodeIndex {
        self.site.index()
    }

    /// The node itself.
    pub(crate) fn server(&self) -> &Arc<Node> {
        &self.site.node
    }

    /// Sends a command of crema's own; `action` takes its reply. Where it cannot be sent, nobody is left to tell.
    pub(crate) fn ask(&self, command: &[u8], action: ReplyAction, now: Time) {
        drop(self.lane.send(command, InFlight::own(&self.site, action), now));
    }

    /// Sends a command of crema's own whose reply nobody wants.
    pub(crate) fn tell(&self, command: &[&[u8]]) {
        let mut raw = Vec::new();
        encode::own_command(&mut raw, command);
        self.ask(&raw, ReplyAction::Ignore, Time::now());
    }

    /// Sends a command of a transaction that begins again here, of which the client has been told that it is queued.
    pub(crate) fn queue_again(&self, command: &[u8], note: &QueueNote, now: Time) {
        let command_again = QueuedCommand::new(None, Rc::clone(note));
        self.ask(command, ReplyAction::Queued(Box::new(command_again)), now);
    }

    /// Sends a command that is answered to `recipient`, or tells at once that it could not.
    pub(super) fn put(&self, command: &[u8], pending: InFlight, now: Time) {
        if let Err(pending) = self.lane.send(command, pending, now) {
            pending.refuse(&self.lane.lost_error(), Sent::No);
        }
    }
}

/// A private connection while a session has it. Dropped without [`Lent::give_back`], it is closed.
pub(crate) struct Lent {
    station: Rc<Station>,
    spare: Option<Spare>,
    who: Rc<Who>,
    owner: Rc<Owner>,
    loan: LoanNumber,
    home: Option<Settled>,
    /// Told with the reply to the last command that made it ready.
    preamble: Option<oneshot::Receiver<Vec<u8>>>,
}

/// The user, for people.
fn name(who: &Who) -> String {
    who.login.as_ref().map_or_else(|| "default".to_owned(), |login| String::from_utf8_lossy(&login.user).into_owned())
}

impl Station {
    /// Lends a private connection. What is sent on it waits until it is made; nothing here waits.
    pub(crate) fn lend(
        self: &Rc<Self>,
        who: &Rc<Who>,
        resp: Resp,
        place: Setting,
        owner: Rc<Owner>,
        now: Time,
    ) -> Lent {
        let spare = {
            let mut pools = self.pools.borrow_mut();
            let pool = pools.entry(who.user().to_vec()).or_default();
            pool.login = who.credentials();
            pool.lend(place == Setting::Fresh, who.db)
        };
        let own = if place == Setting::Anywhere { 0 } else { who.db };
        let spare = spare.unwrap_or_else(|| self.spare(who.credentials(), own, self.entrants(who), now));
        spare.lane.lend(Some(Rc::clone(&owner) as Rc<dyn OutOfBand>));
        Lent::new(self, (spare, owner), who, resp, place, now)
    }
}

impl Lent {
    fn new(
        station: &Rc<Station>,
        (spare, owner): (Spare, Rc<Owner>),
        who: &Rc<Who>,
        resp: Resp,
        place: Setting,
        now: Time,
    ) -> Self {
        owner.keeps.set(false);
        owner.wanted.set(false);
        let loan = station.loans.add(Rc::clone(&spare.lane), Rc::clone(&owner));
        station.site.stats.pinned.add(1);
        debug!(client = owner.client(), user = name(who), db = who.db, "a session borrows a connection");
        let (station, who) = (Rc::clone(station), Rc::clone(who));
        let db = if place == Setting::Anywhere { spare.db } else { who.db };
        let mut lent = Self { station, spare: Some(spare), who, owner, loan, home: None, preamble: None };
        lent.set(resp, db, now);
        lent
    }

    /// The connection.
    pub(crate) fn lane(&self) -> &Rc<Lane<InFlight>> {
        &self.spare.as_ref().expect("only given back or dropped takes it").lane
    }

    /// The same, as commands are sent on it.
    pub(crate) fn own(&self) -> OwnLane {
        OwnLane { lane: Rc::clone(self.lane()), site: Rc::clone(&self.station.site) }
    }

    /// Whether it leads to the node of this station.
    pub(crate) fn is_at(&self, station: &Rc<Station>) -> bool {
        Rc::ptr_eq(&self.station, station)
    }

    /// Whether the session ends with it, and whether a command of crema's own may go on it now.
    pub(crate) fn stands(&self, bound: bool, free: bool) {
        self.owner.bind(bound);
        self.owner.set_free(free);
    }

    /// Whether others need it, so that it is to be given back as soon as it is done with.
    pub(crate) fn is_wanted(&self) -> bool {
        self.owner.is_wanted()
    }

    /// Redis has accepted this login on it.
    pub(crate) fn is_in_as(&self, login: &Arc<Login>) {
        self.station.record.logged_in(self.lane(), login);
    }

    /// The next commands are to run in this version and database.
    fn set(&mut self, resp: Resp, db: u32, now: Time) {
        let spare = self.spare.as_mut().expect("only given back or dropped takes it");
        for Step { command, done } in steps(spare.was(), (resp, db)) {
            spare.lane.prepare(&command, done, now);
        }
        spare.is_now(resp, db);
    }

    /// Sends a command that makes it ready for its session.
    pub(crate) fn prepare(&mut self, command: &[u8], now: Time) {
        let (told, reply) = oneshot::channel();
        self.ask(command, ReplyAction::Capture(Vec::new(), told), now);
        self.preamble = Some(reply);
    }

    /// Waits until it is ready. False where Redis refused: then it is not in the session's database, and has ended.
    pub(crate) async fn prepared(&mut self) -> bool {
        if let Some(reply) = self.preamble.take() {
            let _ = reply.await; // where it is lost, the session will be told with its next command
        }
        self.lane().prepared().await
    }

    /// Sends a command of crema's own on it, ahead of what the session sends next.
    pub(crate) fn tell(&self, command: &[&[u8]], now: Time) {
        let mut raw = Vec::new();
        encode::own_command(&mut raw, command);
        // Where it cannot be sent the lane has ended, and so will the session be told.
        let _ = self.lane().send(&raw, InFlight::own(&self.station.site, ReplyAction::Ignore), now);
    }

    /// Sends a command whose reply `action` takes.
    pub(crate) fn ask(&self, command: &[u8], action: ReplyAction, now: Time) {
        let _ = self.lane().send(command, InFlight::own(&self.station.site, action), now);
    }

    /// The session itself changed its version and database.
    pub(crate) fn is_now(&mut self, resp: Resp, db: u32) {
        if let Some(spare) = &mut self.spare {
            spare.is_now(resp, db);
        }
    }

    /// It stays with the session for life. Fails where too many do.
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        if self.home.is_none() {
            self.home = Some(self.station.node().budget.settle()?);
            self.owner.keeps.set(true);
            debug!(client = self.owner.client(), user = name(&self.who), "a session keeps a connection for life");
            self.station.site.stats.pinned.sub(1);
            self.station.site.stats.homes.add(1);
        }
        Ok(())
    }

    /// It stayed for a while, and is a loan again.
    pub(crate) fn unsettle(&mut self) {
        if self.home.take().is_some() {
            self.owner.keeps.set(false);
            self.station.site.stats.pinned.add(1);
            self.station.site.stats.homes.sub(1);
        }
    }

    /// Back to the pool. Everything on it must have been answered, and it must be as it was lent but for version and
    /// database.
    pub(crate) fn give_back(mut self, now: Time) {
        let Some(spare) = self.spare.take() else { return };
        debug!(client = self.owner.client(), user = name(&self.who), "a session gives a connection back");
        let open = spare.lane.is_open();
        if open {
            spare.lane.verify(now);
        }
        spare.lane.lend(None);
        self.returned(open.then_some(spare));
    }

    fn returned(&self, spare: Option<Spare>) {
        self.station.loans.remove(self.loan);
        let stats = &self.station.site.stats;
        if self.home.is_some() {
            stats.homes.sub(1);
        } else {
            stats.pinned.sub(1);
        }
        if let Some(pool) = self.station.pools.borrow_mut().get_mut(self.who.user()) {
            pool.returned(spare);
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(spare) = self.spare.take() {
            debug!(client = self.owner.client(), user = name(&self.who), "a session ends, and its connection with it");
            spare.lane.lend(None);
            spare.lane.close();
            self.returned(None);
        }
    }
}
