//! The nodes of the upstream: how each is made, and what looks after it for as long as it is in the topology.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::lookout::Lookout;
use super::rotation::RotatingLogins;
use super::{own_login, tell_choice};
use crate::clock::{LiveSpan, Time};
use crate::command::HashSlot;
use crate::config::{Config, Endpoint, ReadFrom, UpstreamKind};
use crate::control::Control;
use crate::invalidation::L1;
use crate::net::tls::Dialer;
use crate::upstream::{ClusterMap, Login, Node, ReplicaTerms, ReplicaWatch, RotatingLogin, Topology, keep_watch};

/// What is the same of all nodes.
#[derive(Clone)]
pub(super) struct NodePlan {
    limit: usize,
    connect_timeout: Duration,
    response_timeout: Option<Duration>,
    pub(super) dialer: Option<Arc<Dialer>>,
    login: Option<Arc<Login>>,
    own: Option<Arc<RotatingLogin>>,
    others: Vec<Arc<RotatingLogin>>,
    /// Another may become the owner of its keys.
    by_census: bool,
    /// What reading from replicas depends on, where that is wanted.
    replicas: Option<ReplicaTerms>,
}

impl NodePlan {
    pub(super) fn new(
        config: &Config,
        dialer: Option<Dialer>,
        logins: RotatingLogins,
        max_staleness: &Arc<LiveSpan>,
    ) -> Self {
        Self {
            limit: config.max_upstream,
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            dialer: dialer.map(Arc::new),
            login: own_login(config),
            own: logins.own,
            others: logins.others,
            by_census: config.upstream.kind != UpstreamKind::Single,
            replicas: (config.read_from == ReadFrom::Replica).then(|| ReplicaTerms {
                max_staleness: Arc::clone(max_staleness),
                acl_recheck: config.acl_recheck,
                node_map: config.cluster.node_map.clone(),
                is_cluster: config.upstream.kind == UpstreamKind::Cluster,
            }),
        }
    }

    /// The node at an address, with no connection yet.
    pub(super) fn node(&self, endpoint: &Endpoint) -> Arc<Node> {
        self.planned(Node::new(endpoint.clone(), self.limit, self.connect_timeout))
    }

    /// In place of one that is not known yet.
    pub(super) fn unknown(&self, name: &str) -> Arc<Node> {
        self.planned(Node::unknown(name))
    }

    fn planned(&self, node: Node) -> Arc<Node> {
        let node = node.secured(self.dialer.clone()).known_by(self.login.clone(), self.response_timeout);
        let node = node.rotated_by(self.own.clone(), self.others.clone());
        Arc::new(if self.by_census { node.vouched_by_census() } else { node })
    }
}

/// See the module's head.
pub(super) struct Nodes {
    plan: NodePlan,
    l1: Arc<L1>,
    /// The longest argument that a server takes, in bytes, as it says.
    longest_argument: Arc<AtomicU64>,
    control: Control,
    kept: Mutex<Vec<KeptNode>>,
}

/// A node that is looked after.
struct KeptNode {
    node: Arc<Node>,
    lookout: Arc<Lookout>,
    /// Ends what looks after it.
    stop: CancellationToken,
}

impl Nodes {
    /// None yet; what looks after them ends with the tasks of `control`.
    pub(super) fn new(plan: NodePlan, l1: Arc<L1>, longest_argument: Arc<AtomicU64>, control: Control) -> Self {
        if plan.replicas.is_some() {
            l1.note_own_writes();
        }
        Self { plan, l1, longest_argument, control, kept: Mutex::default() }
    }

    /// A new node, looked after.
    pub(super) fn make(&self, endpoint: &Endpoint) -> Arc<Node> {
        let node = self.plan.node(endpoint);
        self.keep(&node);
        node
    }

    /// A node that is asked for others, and is not looked after.
    pub(super) fn seed(&self, endpoint: &Endpoint) -> Arc<Node> {
        self.plan.node(endpoint)
    }

    /// The node at another address that takes the place of `former`: who follows whether that is there follows this one.
    pub(super) fn successor(&self, endpoint: &Endpoint, former: &Node) -> Arc<Node> {
        let node = Node::new(endpoint.clone(), self.plan.limit, self.plan.connect_timeout);
        self.plan.planned(node.in_place_of(former))
    }

    /// A Sentinel, where no user of the servers is known.
    pub(super) fn sentinel(&self, endpoint: &Endpoint) -> Node {
        Node::new(endpoint.clone(), 1, self.plan.connect_timeout).secured(self.plan.dialer.clone())
    }

    /// Looks after a node from now on. Of one that is looked after already nothing changes.
    pub(super) fn keep(&self, node: &Arc<Node>) {
        let mut kept = self.lock();
        if kept.iter().any(|kept| Arc::ptr_eq(&kept.node, node)) {
            return;
        }
        let (stop, lookout) = (self.control.child_token(), Lookout::new(Arc::clone(node), Arc::clone(&self.l1)));
        let lookout = Arc::new(lookout);
        kept.push(KeptNode { node: Arc::clone(node), lookout: Arc::clone(&lookout), stop: stop.clone() });
        drop(kept);
        self.tell(node);
        let (watched, stops) = (Arc::clone(node), stop.clone());
        self.control.spawn(async move { _ = stops.run_until_cancelled(keep_watch(watched)).await });
        if let Some(terms) = &self.plan.replicas {
            let (plan, stops) = (self.plan.clone(), stop.clone());
            let watch = ReplicaWatch::new(Arc::clone(node), move |endpoint| plan.node(endpoint), terms.clone());
            self.control.spawn(async move { _ = stops.run_until_cancelled(watch.keep()).await });
        }
        let longest = Arc::clone(&self.longest_argument);
        let looks = async move { lookout.watch(|limit| longest.store(limit, Ordering::Relaxed)).await };
        self.control.spawn(async move { _ = stop.run_until_cancelled(looks).await });
    }

    /// Has L1 and the operator told of what becomes of it.
    fn tell(&self, node: &Arc<Node>) {
        tell_turns(node, &self.l1);
        let weak = Arc::downgrade(&self.l1);
        node.survey.plan(self.l1.mode().trials(), move |finding| {
            if let Some(l1) = weak.upgrade() {
                if l1.mode().means() != finding.means {
                    tell_choice(&finding);
                }
                l1.choose(finding.means);
            }
        });
    }

    /// The next version of the map is about to be gone by: nothing counts that was read of slots which leave their nodes.
    pub(super) fn slots_leave(&self, before: &ClusterMap, next: &ClusterMap) {
        let node = |map: &ClusterMap, slot| Some(Arc::as_ptr(&map.shard(map.owner(slot)?)?.node));
        for slot in (0..HashSlot::COUNT).filter_map(HashSlot::nth) {
            let owner = node(before, slot);
            if owner.is_some() && owner != node(next, slot) {
                self.l1.slot_left(slot);
            }
        }
    }

    /// This one alone serves all from now on.
    pub(super) fn replace(&self, topology: &watch::Sender<Arc<Topology>>, node: &Arc<Node>) {
        let former = Arc::clone(topology.borrow().front());
        // Nothing that the last one says counts any more, before the first thing is said to this one.
        former.vouched.revoke(Time::now());
        former.leave();
        self.keep(node);
        topology.send_replace(Arc::new(Topology::Single(Arc::clone(node))));
        self.retain(|known| Arc::ptr_eq(known, node));
    }

    /// These are all that are looked after from now on.
    pub(super) fn retain(&self, stays: impl Fn(&Arc<Node>) -> bool) {
        self.lock().retain(|kept| {
            let stays = stays(&kept.node);
            if !stays {
                kept.stop.cancel();
                kept.node.replicas.end();
            }
            stays
        });
    }

    /// Each node may have so many connections.
    pub(super) fn limit(&self, each: usize) {
        self.lock().iter().for_each(|kept| kept.node.budget.set_limit(each));
    }

    /// What a node calls itself, or what is wrong with it.
    pub(super) fn known(&self, node: &Arc<Node>) -> Result<String, String> {
        let kept = self.lock();
        let lookout = kept.iter().find(|kept| Arc::ptr_eq(&kept.node, node)).map(|kept| Arc::clone(&kept.lookout));
        drop(kept);
        lookout.map_or_else(|| Err("it is not asked any more".to_owned()), |lookout| lookout.known())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<KeptNode>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has L1 and the operator told when another server answers at the node's address.
fn tell_turns(node: &Arc<Node>, l1: &Arc<L1>) {
    let (l1, of) = (Arc::downgrade(l1), Arc::downgrade(node));
    let (leases, at) = (Weak::clone(&l1), Weak::clone(&of));
    node.vouched.on_revocation(move || {
        if let (Some(l1), Some(node)) = (leases.upgrade(), at.upgrade()) {
            l1.end_leases_at(&node);
            node.replicas.end();
        }
    });
    node.generation.on_turn(move |several| {
        let Some(node) = of.upgrade() else { return };
        node.needs.forget();
        node.replicas.end();
        if let Some(l1) = l1.upgrade() {
            l1.turn();
        }
        let upstream = &node.address;
        if several {
            warn!(%upstream, "several servers answer at the upstream's address in turn: nothing is kept in memory or shared, each client has a connection of its own");
        } else {
            info!(%upstream, "another server answers at the upstream's address: connections to the former one are given up, and memory is empty");
        }
    });
}
