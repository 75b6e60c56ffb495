//! What a worker has at one node: its lanes, its pools, its connections for logins, and what it knows of the node's pulse.
//!
//! Whatever goes to a node goes through the station of it. What it does is beside it, each in a file of its own: `connections` makes
//! them and owns their tasks, `lanes` and `pools` open them ahead of need, `private` lends them, `logins` logs clients in, `room`
//! closes what is needed least, and `upkeep` looks after all of it. Belongs to a [`Worker`](super::Worker), which has one for each
//! node of the topology, and ends with it or when the node leaves.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::in_flight::InFlight;
use super::loans::Loans;
use super::login_record::LoginRecord;
use super::login_turns::LoginTurns;
use super::pulse::Pulse;
use super::site::Site;
use super::spare::Pools;
use super::track::Lanes;
use super::trouble::Trouble;
use crate::upstream::{Ask, Forwarder, Lane, Node, Tenant};

/// See the module's head.
pub(crate) struct Station {
    pub(super) site: Rc<Site>,
    /// The worker's tasks.
    pub(super) tasks: TaskTracker,
    pub(super) lanes: Lanes,
    pub(super) pools: Pools,
    /// All private connections, whoever has them, and lanes that are to end once they are answered.
    pub(super) private: RefCell<Vec<Weak<Lane<InFlight>>>>,
    pub(super) loans: Loans,
    pub(super) logins: LoginTurns,
    pub(super) record: LoginRecord,
    pub(super) tenant: Arc<Tenant>,
    pub(super) pulse: Rc<Pulse>,
    /// The generation at the last look.
    pub(super) generation: Cell<u64>,
    pub(super) trouble: RefCell<Trouble>,
    /// Who sends elsewhere what was not carried out on a lane: the worker.
    pub(super) forwarder: Weak<dyn Forwarder<InFlight>>,
    /// The node has left, or the worker ends.
    pub(super) stop: CancellationToken,
}

/// A worker's stations at replicas, each with whose it is.
pub(super) type ReplicaStations = RefCell<Vec<(Arc<Node>, Rc<Station>)>>;

impl Station {
    /// One with no connection yet, whose tasks will be among `tasks`; and what asks it to make room at the node.
    pub(super) fn new(
        site: Rc<Site>,
        forwarder: Weak<dyn Forwarder<InFlight>>,
        tasks: &TaskTracker,
    ) -> (Rc<Self>, mpsc::Receiver<Ask>) {
        let (tenant, asked) = site.node.budget.join();
        let pulse = Pulse::new(&site.node, tasks);
        let station = Rc::new(Self {
            site,
            tasks: tasks.clone(),
            lanes: Lanes::default(),
            pools: Pools::default(),
            private: RefCell::default(),
            loans: Loans::default(),
            logins: LoginTurns::default(),
            record: LoginRecord::default(),
            tenant,
            pulse,
            generation: Cell::default(),
            trouble: RefCell::default(),
            forwarder,
            stop: CancellationToken::new(),
        });
        (station, asked)
    }

    /// The server.
    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.site.node
    }

    /// All private connections that are there.
    pub(super) fn privates(&self) -> Vec<Rc<Lane<InFlight>>> {
        self.private.borrow().iter().filter_map(Weak::upgrade).collect()
    }
}
