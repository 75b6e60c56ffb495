//! What the sessions of one thread share: the stations, one for each node; and what concerns no node in particular.
//!
//! Everything here belongs to one thread and is lent out by `Rc`; what threads share is in [`Shared`]. The worker owns the tasks of
//! its lanes and ends them; it is asked to look after its stations once a second and every [`STALL`](crate::upstream::STALL).

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio_util::task::TaskTracker;

use super::cork::Corks;
use super::errands::{Amends, CopyQueue, Seeks};
use super::fencing::Fencing;
use super::foreign::Foreign;
use super::in_flight::{InFlight, ReplyAction};
use super::live::{LiveSettings, WorkerSettings};
use super::pilot::Pilots;
use super::private::Lent;
use super::proof::Proofs;
use super::replies::Replies;
use super::route_memo::RouteMemo;
use super::sampled::SampleTap;
use super::shared::Shared;
use super::site::{Foreman, Site};
use super::station::{ReplicaStations, Station};
use super::who::Who;
use crate::cache::{Coin, Promoter, Query, Sampler};
use crate::clock::Time;
use crate::command::{HashSlot, Spec};
use crate::metrics::{DropReason, WorkerStats};
use crate::resp::{Request, Resp};
use crate::upstream::{Forwarder, Node, NodeIndex, Topology};

/// See the module's head.
pub(crate) struct Worker {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// The settings that may change, as this worker goes by them.
    pub settings: WorkerSettings,
    /// This worker's counters.
    pub stats: Arc<WorkerStats>,
    /// This worker's coin.
    promoter: RefCell<Promoter>,
    /// Which hits and misses Moka is told of.
    pub sampler: RefCell<Sampler>,
    /// Which reads are in the sample of which the curve is made, and where they are put.
    pub(super) tap: Arc<SampleTap>,
    /// The tasks of lanes; sessions are the server's.
    pub tasks: TaskTracker,
    /// Commands that the table does not know.
    pub foreign: Foreign,
    pub(super) proofs: Proofs,
    /// What goes to another node than it was sent to.
    pub(super) pilots: Pilots,
    /// Reads that go on beyond the upstream.
    pub(super) seeks: Seeks,
    /// Values to be copied to tiers.
    pub(super) copies: CopyQueue,
    pub(super) amends: Amends,
    corks: Rc<Corks>,
    /// Whether nodes may send commands elsewhere: there is a cluster.
    is_cluster: bool,
    /// Whether reads may go to replicas.
    reads_replicas: bool,
    map: RefCell<Map>,
    /// Where reads went by that topology.
    routes: RouteMemo,
    /// At replicas.
    pub(super) replica_stations: ReplicaStations,
    /// Those of nodes that left a cluster, until all is answered there; since when.
    retired: RefCell<Vec<(Rc<Station>, Time)>>,
    /// What was found at the last look at the stations.
    holds_writes: Cell<bool>,
    several: Cell<bool>,
    draining: Cell<bool>,
}

/// The topology that the worker goes by, with a station for each of its nodes at the same place.
struct Map {
    topology: Arc<Topology>,
    stations: Vec<Option<Rc<Station>>>,
}

impl Worker {
    /// A worker with no connection yet.
    pub(crate) fn new(shared: Arc<Shared>, stats: Arc<WorkerStats>) -> Rc<Self> {
        let topology = Arc::clone(&shared.topology.borrow());
        let tasks = TaskTracker::new();
        let reads_replicas = shared.l1.own_writes().is_some();
        let settings = WorkerSettings::new(shared.live());
        stats.choose_for(settings.audit());
        stats.slow_after.store(settings.all().slow_after(), Ordering::Relaxed);
        let worker = Rc::new(Self {
            reads_replicas,
            settings,
            tap: shared.curve.add(),
            shared,
            stats,
            promoter: RefCell::default(),
            sampler: RefCell::new(Sampler::new()),
            corks: Corks::new(&tasks),
            tasks,
            foreign: Foreign::default(),
            proofs: Proofs::default(),
            pilots: Pilots::default(),
            seeks: Seeks::default(),
            copies: CopyQueue::default(),
            amends: Amends::default(),
            is_cluster: topology.cluster().is_some(),
            map: RefCell::new(Map { topology: Arc::clone(&topology), stations: Vec::new() }),
            routes: if topology.cluster().is_some() { RouteMemo::empty() } else { RouteMemo::default() },
            replica_stations: RefCell::default(),
            retired: RefCell::default(),
            holds_writes: Cell::default(),
            several: Cell::default(),
            draining: Cell::default(),
        });
        worker.adopt(topology);
        worker
    }

    /// Goes by these settings from now on.
    pub(crate) fn go_by(&self, next: Arc<LiveSettings>) {
        self.stats.choose_for(next.audit);
        self.stats.slow_after.store(next.slow_after(), Ordering::Relaxed);
        self.settings.go_by(next);
    }

    /// Goes by this version of the topology from now on. Of a single node that is not in it all connections are given up at once, as a
    /// client of Sentinels gives up its own, and reads on lanes are sent again. A node that has left a cluster still says where each
    /// command belongs, and what sessions have for themselves there stays with them.
    pub(crate) fn adopt(self: &Rc<Self>, topology: Arc<Topology>) {
        let before = std::mem::take(&mut self.map.borrow_mut().stations);
        let before: Vec<_> = before.into_iter().flatten().collect();
        let mut stations = Vec::new();
        for (at, node) in topology.nodes() {
            let known = before.iter().find(|station| Arc::ptr_eq(station.node(), node)).cloned();
            let station = known.unwrap_or_else(|| self.open(node));
            station.site.set_index(at);
            stations.resize(stations.len().max(at.number() + 1), None);
            stations[at.number()] = Some(station);
        }
        let stays = |old: &Rc<Station>| stations.iter().flatten().any(|station| Rc::ptr_eq(station, old));
        let left: Vec<_> = before.into_iter().filter(|old| !stays(old)).collect();
        if self.is_cluster {
            self.pilots.go_by(topology.version());
            self.routes.forget();
        }
        *self.map.borrow_mut() = Map { topology, stations };
        for station in left {
            self.shared.l1.ears.leave(station.node());
            if self.is_cluster {
                station.retire();
                self.retired.borrow_mut().push((station, Time::now()));
            } else {
                station.end();
            }
        }
    }

    /// The same, where that is newer than what is gone by: somebody else may have been first.
    pub(crate) fn adopt_newer(self: &Rc<Self>, topology: Arc<Topology>) {
        if topology.version() > self.topology().version() {
            self.adopt(topology);
        }
    }

    /// A station at `node`, with no connection yet.
    fn open(self: &Rc<Self>, node: &Arc<Node>) -> Rc<Station> {
        let worker: Weak<Self> = Rc::downgrade(self);
        let foreman = Weak::clone(&worker) as Weak<dyn Foreman>;
        let fencing = Fencing::new(&self.shared, node, self.shared.config.connect_timeout, &self.tasks);
        let site = Site::new(node, (&self.shared, &self.stats), fencing, foreman);
        let (station, asked) = Station::new(site, worker as Weak<dyn Forwarder<InFlight>>, &self.tasks);
        station.answer_asks(asked);
        station
    }

    /// The station of the node that serves what names no key.
    pub(crate) fn front(&self) -> Rc<Station> {
        let at = self.map.borrow().topology.front_index();
        self.station(at)
    }

    /// Its place.
    pub(crate) fn front_index(&self) -> NodeIndex {
        self.map.borrow().topology.front_index()
    }

    /// The topology that the worker goes by.
    pub(crate) fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.map.borrow().topology)
    }

    /// Which node serves this request.
    #[inline]
    pub(super) fn serving(&self, spec: &Spec, request: Request<'_>) -> NodeIndex {
        if self.is_cluster { self.map.borrow().topology.serving(spec, request) } else { NodeIndex::default() }
    }

    /// Whether what is for all masters is for more than one.
    pub(crate) fn has_several_masters(&self) -> bool {
        self.map.borrow().topology.nodes().nth(1).is_some()
    }

    /// Whether several nodes may serve what a command asks for.
    #[inline]
    pub(crate) fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// Whether reads may go to replicas.
    #[inline]
    pub(super) fn reads_replicas(&self) -> bool {
        self.reads_replicas
    }

    /// Which node serves this key, of which a read has this hash.
    #[inline]
    pub(super) fn serving_read<'a>(&self, hash: u64, key: impl FnOnce() -> &'a [u8]) -> NodeIndex {
        self.routes.serving(hash, || self.serving_key(key()))
    }

    /// Which node serves this key.
    #[inline]
    pub(super) fn serving_key(&self, key: &[u8]) -> NodeIndex {
        if self.is_cluster { self.map.borrow().topology.serving_key(key) } else { NodeIndex::default() }
    }

    /// Which node a command of this slot belongs to; without one, the front.
    pub(crate) fn node_of(&self, slot: Option<HashSlot>) -> NodeIndex {
        self.map.borrow().topology.serving_slot(slot)
    }

    /// The station of a node; of a place that none has any more, the front's.
    pub(crate) fn station(&self, at: NodeIndex) -> Rc<Station> {
        let map = self.map.borrow();
        let there = |at: NodeIndex| map.stations.get(at.number())?.as_ref();
        let station = there(at).or_else(|| there(map.topology.front_index()));
        Rc::clone(station.expect("the front has a station"))
    }

    /// Whether the node that a private connection leads to is in the topology.
    pub(crate) fn has_station(&self, lent: &Lent) -> bool {
        self.map.borrow().stations.iter().flatten().any(|station| lent.is_at(station))
    }

    /// All stations.
    pub(crate) fn stations(&self) -> Vec<Rc<Station>> {
        self.map.borrow().stations.iter().flatten().cloned().collect()
    }

    /// Sends a command of crema's own as the user of the upstream URL; `action` takes its reply.
    pub(crate) fn ask(&self, command: &[u8], action: ReplyAction, now: Time) {
        let front = self.front();
        let who = Who::new(&self.shared, front.node(), front.node().login(), self.shared.config.upstream.db);
        if let Ok(track) = front.track(&who, Resp::V2, false, now) {
            track.ask(command, action, now);
        }
    }

    /// Every [`STALL`](crate::upstream::STALL): has each station look at its lanes.
    pub(crate) fn feel(&self, now: Time) {
        let patience = self.shared.config.cluster.wait;
        let retired = self.retired.borrow().clone();
        for (station, since) in &retired {
            station.feel(now);
            if now.saturating_since(*since) > patience {
                station.leave(|_| true); // another serves what it was asked
            }
        }
        let stations = self.stations();
        let holds = stations.iter().fold(false, |holds, station| station.feel(now) | holds);
        // A node of a cluster that holds them back is about to hand a slot or its place over, and then says where they go: so they
        // stay on lanes, where they are followed.
        self.holds_writes.set(holds && !self.is_cluster);
        self.several.set(stations.iter().any(|station| station.node().generation.is_several()));
        for station in &stations {
            station.site.look_at_service();
        }
        self.feel_replicas(now);
    }

    /// Whether Redis seems to hold writes back: they go on connections of their own then, or they would hold up reads.
    pub(crate) fn holds_writes(&self) -> bool {
        self.holds_writes.get()
    }

    /// Whether several servers answer at one address in turn: each session needs one connection for all then.
    pub(crate) fn is_several(&self) -> bool {
        self.several.get()
    }

    /// Once a second: has each station look after its connections.
    pub(crate) fn sweep(&self, now: Time) {
        // The allocator gives back to the system what it has put off to give back when it is asked for much.
        drop(std::hint::black_box(Vec::<u8>::with_capacity(64 << 20)));
        self.proofs.sweep();
        self.stats.keys.age(now);
        for station in self.stations() {
            station.sweep(|user| self.proofs.newest(user), now);
        }
        self.sweep_replicas(now);
        self.retired.borrow_mut().retain(|(station, _)| {
            station.sweep(|_| None, now);
            let answers = station.retire();
            if !answers {
                station.close();
            }
            answers
        });
    }

    /// How the coin falls for the key of `query`, which at a full L1 has to win twice.
    pub(super) fn toss(&self, one_in: u32, hot: bool, query: &Query<'_>) -> Coin {
        let store = &self.shared.l1.memory.store;
        match self.promoter.borrow_mut().toss(one_in, hot, store.is_full()) {
            Coin::Knock if store.knows(query) => Coin::Promote,
            Coin::Knock => {
                self.stats.dropped(DropReason::FirstKnock);
                Coin::IfJoined
            }
            coin => coin,
        }
    }

    /// Whether the audit wants this hit, which is one of so many.
    pub(super) fn is_audited(&self, of: u32) -> bool {
        self.settings.audit().is_some_and(|one_in| self.sampler.borrow_mut().is_chosen(of, one_in))
    }

    /// Has the session of `replies` woken soon, if by then it has not written what is ready.
    pub(crate) fn cork(&self, replies: &Rc<Replies>) {
        self.corks.add(replies);
    }

    /// Sessions are to end as soon as nothing of theirs is under way.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
    }

    /// Whether they are.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Whether [`close`](Self::close) was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.tasks.is_closed()
    }

    /// Ends all connections.
    pub(crate) fn close(&self) {
        self.pilots.stop.cancel();
        self.seeks.stop.cancel();
        self.amends.stop.cancel();
        self.stations().iter().for_each(|station| station.close());
        self.close_replicas();
        self.retired.borrow().iter().for_each(|(station, _)| station.close());
        self.tasks.close();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use tokio::task::LocalSet;

    use std::time::Duration;

    use super::super::shared::tests::{node, shared};
    use super::*;
    use crate::config::Endpoint;
    use crate::upstream::{ClusterMap, MasterEntry, SlotTable};

    #[tokio::test]
    async fn a_lane_whose_sessions_have_left_is_closed_before_long_and_the_last_of_a_user_who_stays_is_kept() {
        let in_a_worker = async {
            let topologies = watch::Sender::new(Arc::new(Topology::Single(node())));
            let worker = Worker::new(shared(topologies.subscribe()), Arc::default());
            let (front, begun) = (worker.front(), Time::now());
            let lane_of = |db| {
                let who = Who::new(&worker.shared, front.node(), None, db);
                front.track(&who, Resp::V2, false, begun).expect("a lane that is being made")
            };
            let (stays, leaves) = (lane_of(0), lane_of(1));
            let left = Rc::clone(&leaves.lane);
            drop(leaves);
            let after = |seconds| begun.plus(Duration::from_secs(seconds));
            worker.sweep(after(5));
            assert!(left.is_open(), "its sessions may come again");
            worker.sweep(after(12));
            worker.sweep(after(600));
            assert_eq!((left.is_open(), stays.lane.is_open()), (false, true));

            drop(front);
            worker.close();
            worker.tasks.wait().await;
        };
        LocalSet::new().run_until(in_a_worker).await;
    }

    #[tokio::test]
    async fn a_read_goes_where_the_present_map_says() {
        let in_a_worker = async {
            let endpoint = |port| Endpoint::Tcp { host: "127.0.0.1".into(), port };
            let make = |endpoint: &Endpoint| Arc::new(Node::new(endpoint.clone(), 1, Duration::from_secs(1)));
            let unread = ClusterMap::unread(make(&endpoint(1)));
            let of = |owner| {
                let masters = [1, 2].map(|port| MasterEntry { endpoint: endpoint(port), replicas: Vec::new() });
                SlotTable { masters: masters.into(), owners: vec![Some(owner); HashSlot::COUNT] }
            };
            let first = unread.next(&of(0), &[], make).expect("news");
            let second = first.next(&of(1), &[], make).expect("news");
            let topologies = watch::Sender::new(Arc::new(Topology::Cluster(first)));
            let worker = Worker::new(shared(topologies.subscribe()), Arc::default());
            let places = [0, 1].map(NodeIndex::nth);
            assert_eq!((worker.serving_read(7, || b"k"), worker.serving_read(7, || b"k")), (places[0], places[0]));
            worker.adopt(Arc::new(Topology::Cluster(second)));
            assert_eq!(worker.serving_read(7, || b"k"), places[1], "what was remembered was of the map before");
            worker.close();
            worker.tasks.wait().await;
        };
        LocalSet::new().run_until(in_a_worker).await;
    }

    #[tokio::test]
    async fn each_node_of_the_topology_has_a_station_and_one_that_leaves_has_no_lane_any_more() {
        let in_a_worker = async {
            let (one, other) = (node(), node());
            let topologies = watch::Sender::new(Arc::new(Topology::Single(Arc::clone(&one))));
            let worker = Worker::new(shared(topologies.subscribe()), Arc::default());
            let first = worker.front();
            let who = Who::new(&worker.shared, first.node(), None, 0);
            assert!(Arc::ptr_eq(first.node(), &one));
            let track = first.track(&who, Resp::V2, false, Time::now()).expect("a lane that is being made");
            assert!(track.lane.is_open());

            let same = Arc::clone(&topologies.borrow());
            worker.adopt(same);
            assert!(Rc::ptr_eq(&worker.front(), &first), "a node that stays keeps its station");

            topologies.send_replace(Arc::new(Topology::Single(Arc::clone(&other))));
            let moved = Arc::clone(&topologies.borrow());
            worker.adopt(moved);
            assert!(Arc::ptr_eq(worker.front().node(), &other));
            assert!(!track.lane.is_open(), "nothing more is sent to a node that left");
            assert!(Arc::ptr_eq(who.ear.node(), &one));
            assert!(Arc::ptr_eq(who.moved(&worker.shared, worker.front().node()).ear.node(), &other));

            drop(first);
            worker.close();
            worker.tasks.wait().await;
        };
        LocalSet::new().run_until(in_a_worker).await;
    }
}
