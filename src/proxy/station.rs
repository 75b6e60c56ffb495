//! What a worker has at one node: its lanes, its pools, its connections for logins, and what it knows of the node's pulse.
//!
//! Whatever goes to a node goes through the station of it. It makes every connection and owns its task; once a second
//! [`Station::sweep`] closes what is idle and gives up what is dead. Belongs to a [`Worker`], which has one for each node of the
//! topology, and ends with it or when the node leaves.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::heirs::Heirs;
use super::in_flight::InFlight;
use super::lanes::Lanes;
use super::loans::Loans;
use super::logins::Logins;
use super::pools::{Pools, SPARE_IDLE};
use super::pulse::Pulse;
use super::shared::Shared;
use super::trouble::{Trouble, TryEnding};
use super::who::Who;
use super::worker::Worker;
use crate::clock::Time;
use crate::error::Error;
use crate::metrics::WorkerStats;
use crate::upstream::{ANOTHER, Ask, Connection, Lane, Login, Node, Service, Target, Tenant, connect_unproved};

/// See the module's head.
pub struct Station {
    /// The server.
    pub node: Arc<Node>,
    worker: Weak<Worker>,
    pub(super) shared: Arc<Shared>,
    pub(super) stats: Arc<WorkerStats>,
    /// The worker's tasks.
    pub(super) tasks: TaskTracker,
    pub(super) lanes: Lanes,
    pub(super) pools: Pools,
    /// All private connections, whoever has them, and lanes that are to end once they are answered.
    pub(super) private: RefCell<Vec<Weak<Lane<InFlight>>>>,
    pub(super) loans: Loans,
    pub(super) logins: Logins,
    pub(super) heirs: Heirs,
    pub(super) tenant: Arc<Tenant>,
    pub(super) pulse: Pulse,
    pub(super) trouble: RefCell<Trouble>,
    /// The node has left, or the worker ends.
    stop: CancellationToken,
}

impl Station {
    /// One of `worker` with no connection yet, which makes room for others at the node when it is asked to.
    pub(super) fn new(worker: &Rc<Worker>, node: &Arc<Node>) -> Rc<Self> {
        let (tenant, mut asked) = node.budget.join();
        let station = Rc::new(Self {
            node: Arc::clone(node),
            worker: Rc::downgrade(worker),
            shared: Arc::clone(&worker.shared),
            stats: Arc::clone(&worker.stats),
            tasks: worker.tasks.clone(),
            lanes: Lanes::default(),
            pools: Pools::default(),
            private: RefCell::default(),
            loans: Loans::default(),
            logins: Logins::default(),
            heirs: Heirs::default(),
            tenant,
            pulse: Pulse::default(),
            trouble: RefCell::default(),
            stop: CancellationToken::new(),
        });
        let (asks, stop) = (Rc::downgrade(&station), station.stop.clone());
        worker.tasks.spawn_local(async move {
            while let Some(Some(ask)) = stop.run_until_cancelled(asked.recv()).await {
                let ask: Ask = ask;
                let made = asks.upgrade().is_some_and(|station| station.make_room(Time::now()));
                let _ = ask.send(made); // who asked may have gone
            }
        });
        station
    }

    /// Whose it is.
    pub(super) fn worker(&self) -> Rc<Worker> {
        self.worker.upgrade().expect("sessions and tasks, which alone use a station, hold its worker")
    }

    /// Owns a lane's task: counts it, and remembers a failure so that not every command tries again. Without a target the
    /// connection is as Redis makes it.
    pub(super) fn run(self: &Rc<Self>, lane: &Rc<Lane<InFlight>>, target: Option<(Target, Vec<Arc<Login>>)>) {
        let (lane, station, worker) = (Rc::clone(lane), Rc::clone(self), self.worker());
        self.tasks.spawn_local(async move {
            station.stats.lanes.add(1);
            let error = Rc::clone(&lane).run(station.made(&lane, target.as_ref())).await;
            station.stats.lanes.sub(1);
            if !lane.was_closed() {
                worker.foreign.forget();
            }
            if let Some(login) = target.and_then(|(target, _)| target.login)
                && !lane.was_closed()
            {
                worker.ended(&station, &login, &error);
            }
            station.note(&lane, &error, Time::now());
        });
    }

    async fn made(
        &self,
        lane: &Rc<Lane<InFlight>>,
        target: Option<&(Target, Vec<Arc<Login>>)>,
    ) -> Result<Connection, Error> {
        match target {
            Some((target, entrants)) => self.connection(lane, target, entrants).await,
            None => connect_unproved(&self.node).await,
        }
    }

    /// What the end of a connection tells.
    fn note(&self, lane: &Lane<InFlight>, error: &Error, now: Time) {
        let ending = self.trouble.borrow_mut().note(error.clone(), now);
        match ending {
            TryEnding::Cut => debug!(%error, "a connection ended before it was ready"),
            TryEnding::Failed { anew: true } => warn!(%error, "commands cannot be served until the upstream is back"),
            TryEnding::Lost if !lane.was_closed() => {
                self.stats.lanes_lost.add(1);
                debug!(%error, "lane lost");
            }
            TryEnding::Lost | TryEnding::NoRoom | TryEnding::Failed { anew: false } => {}
        }
    }

    /// A connection for one at a time; without a target as Redis makes it.
    pub(super) fn private(self: &Rc<Self>, target: Option<(Target, Vec<Arc<Login>>)>, now: Time) -> Rc<Lane<InFlight>> {
        let lane = Lane::private(Arc::clone(&self.node), now);
        self.private.borrow_mut().push(Rc::downgrade(&lane));
        self.run(&lane, target);
        lane
    }

    /// Logins that may select the session's database where its user may not: the one that did, and the URL's.
    pub(super) fn entrants(&self, who: &Who) -> Vec<Arc<Login>> {
        who.entrant.iter().chain(&self.shared.login).map(Arc::clone).collect()
    }

    /// All private connections that are there.
    pub(super) fn privates(&self) -> Vec<Rc<Lane<InFlight>>> {
        self.private.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    /// Once a second: gives up connections that are silent past the deadline, checks those in use, closes those that are idle.
    /// `newest` gives the newest login of a user that some session relies on.
    pub(super) fn sweep(self: &Rc<Self>, newest: impl Fn(&[u8]) -> Option<Arc<Login>>, now: Time) {
        let deadline = self.shared.config.response_timeout.filter(|_| !self.shared.l1.is_paused(now));
        let mut expired = self.lanes.sweep(deadline, now);
        self.heirs.sweep(now);
        self.logins.sweep(SPARE_IDLE, now);
        self.private.borrow_mut().retain(|lane| lane.upgrade().is_some_and(|lane| !lane.has_ended()));
        let late = |lane: &Rc<Lane<InFlight>>| deadline.is_some_and(|deadline| lane.waited(now) > deadline);
        expired.extend(self.privates().into_iter().filter(late));
        if !expired.is_empty() {
            self.node.signs.serves(Service::Silent);
            self.give_up(expired, deadline.unwrap_or_default());
        }
        self.sweep_pools(newest, now);
        self.tell_idleness(now);
    }

    /// Another server has taken the address, or the node has left: what waits on lanes to it is told, and no spare of it is lent.
    pub(super) fn leave(&self, leaves: impl Fn(&Lane<InFlight>) -> bool) {
        let mut lanes = Vec::new();
        self.lanes.each(|track, _| lanes.push(Rc::clone(&track.lane)));
        lanes.extend(self.privates().into_iter().filter(|lane| !lane.is_lent()));
        lanes.into_iter().filter(|lane| leaves(lane)).for_each(|lane| lane.lose(ANOTHER));
    }

    /// Ends all connections that nobody has for itself.
    pub(super) fn close(&self) {
        self.stop.cancel();
        self.lanes.close();
        for spare in self.pools.borrow().values().flat_map(|pool| &pool.spares) {
            spare.lane.close();
        }
        self.logins.close();
    }
}
