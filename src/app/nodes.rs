//! The nodes of the upstream: how each is made, and what looks after it for as long as it is in the topology.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::rotation::RotatingLogins;
use super::{own_login, tell_choice};
use crate::config::{Config, Endpoint};
use crate::control::Control;
use crate::invalidation::L1;
use crate::net::tls::Dialer;
use crate::upstream::{Login, Node, RotatingLogin, keep_watch};

/// What is the same of all nodes.
pub(super) struct NodePlan {
    limit: usize,
    connect_timeout: Duration,
    response_timeout: Option<Duration>,
    pub(super) dialer: Option<Arc<Dialer>>,
    login: Option<Arc<Login>>,
    own: Option<Arc<RotatingLogin>>,
    others: Vec<Arc<RotatingLogin>>,
}

impl NodePlan {
    pub(super) fn new(config: &Config, dialer: Option<Dialer>, logins: RotatingLogins) -> Self {
        Self {
            limit: config.max_upstream,
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            dialer: dialer.map(Arc::new),
            login: own_login(config),
            own: logins.own,
            others: logins.others,
        }
    }

    /// The node at an address, with no connection yet.
    pub(super) fn node(&self, endpoint: &Endpoint) -> Arc<Node> {
        let node = Node::new(endpoint.clone(), self.limit, self.connect_timeout);
        let node = node.secured(self.dialer.clone()).known_by(self.login.clone(), self.response_timeout);
        Arc::new(node.rotated_by(self.own.clone(), self.others.clone()))
    }
}

/// See the module's head.
pub(super) struct Nodes {
    plan: NodePlan,
    l1: Arc<L1>,
    control: Control,
    /// Ends what looks after each.
    kept: Mutex<Vec<(Arc<Node>, CancellationToken)>>,
}

impl Nodes {
    /// None yet; what looks after them ends with the tasks of `control`.
    pub(super) fn new(plan: NodePlan, l1: Arc<L1>, control: Control) -> Self {
        Self { plan, l1, control, kept: Mutex::default() }
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

    /// Looks after a node from now on. Of one that is looked after already nothing changes.
    pub(super) fn keep(&self, node: &Arc<Node>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.iter().any(|(known, _)| Arc::ptr_eq(known, node)) {
            return;
        }
        let stop = self.control.child_token();
        kept.push((Arc::clone(node), stop.clone()));
        drop(kept);
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
        let watched = Arc::clone(node);
        self.control.spawn(async move { _ = stop.run_until_cancelled(keep_watch(watched)).await });
    }

    /// These are all that are looked after from now on.
    pub(super) fn retain(&self, stays: impl Fn(&Arc<Node>) -> bool) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).retain(|(node, stop)| {
            let stays = stays(node);
            if !stays {
                stop.cancel();
            }
            stays
        });
    }
}

/// Has L1 and the operator told when another server answers at the node's address.
fn tell_turns(node: &Arc<Node>, l1: &Arc<L1>) {
    let (l1, of) = (Arc::downgrade(l1), Arc::downgrade(node));
    let (leases, at) = (Weak::clone(&l1), Weak::clone(&of));
    node.vouched.on_revocation(move || {
        if let (Some(l1), Some(node)) = (leases.upgrade(), at.upgrade()) {
            l1.end_leases_at(&node);
        }
    });
    node.generation.on_turn(move |several| {
        let Some(node) = of.upgrade() else { return };
        node.needs.forget();
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
