//! Keeps the census of a cluster: begins its rounds, has the census takers ask, and says of each master what a round has shown.
//!
//! A quarter of `max_staleness` after a round began the next does, while there is something in L1; a node that was silent in one is not
//! waited for in the next. One task of the control thread, with one census taker for each node, masters and replicas, whoever the users
//! are.
//!
//! Holds contract point 4 (others' writes soon).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::doubts::{CensusDoubts, DoubtNews};
use super::nodes::Nodes;
use crate::clock::Time;
use crate::command::HashSlot;
use crate::config::{Endpoint, NodeMap};
use crate::invalidation::L1;
use crate::metrics::CensusFinding;
use crate::upstream::{Census, CensusQuestion, CensusReport, CensusTaker, Listing, MapDoubts, Node, Topology};

/// Reports that may wait.
const REPORTS: usize = 1024;
/// A census taker whose node is silent for so long connects anew, or for four times `max_staleness` if that is longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// See the module's head.
pub(super) struct CensusKeeper {
    nodes: Arc<Nodes>,
    l1: Arc<L1>,
    node_map: NodeMap,
    topology: watch::Receiver<Arc<Topology>>,
    doubts: MapDoubts,
    told: CensusDoubts,
    census: Census,
    takers: HashMap<Endpoint, Watched>,
    tasks: JoinSet<()>,
    reports: (mpsc::Sender<CensusReport>, mpsc::Receiver<CensusReport>),
    /// When the next round begins.
    next: Instant,
}

/// A node that is asked.
struct Watched {
    questions: mpsc::Sender<CensusQuestion>,
    /// It answered when it was asked last: the round waits for it.
    is_live: bool,
    /// It was asked in the present round, and has not answered.
    is_due: bool,
    task: AbortHandle,
}

impl CensusKeeper {
    pub(super) fn new(
        (nodes, l1): (Arc<Nodes>, Arc<L1>),
        node_map: NodeMap,
        topology: watch::Receiver<Arc<Topology>>,
        doubts: MapDoubts,
    ) -> Self {
        Self {
            nodes,
            l1,
            node_map,
            topology,
            doubts,
            told: CensusDoubts::default(),
            census: Census::default(),
            takers: HashMap::new(),
            tasks: JoinSet::new(),
            reports: mpsc::channel(REPORTS),
            next: Instant::now(),
        }
    }

    /// Never returns.
    pub(super) async fn keep(mut self) {
        loop {
            tokio::select! {
                biased;
                Some(report) = self.reports.1.recv() => self.hear(report),
                () = sleep_until(self.next) => {
                    self.close();
                    self.rest();
                    if self.is_needed() {
                        self.begin();
                    }
                }
            }
            // Who has ended is of no matter: its census taker is in the list no more.
            while self.tasks.try_join_next().is_some() {}
        }
    }

    /// There is something in L1, or somebody reads from replicas.
    fn is_needed(&self) -> bool {
        !self.l1.memory.store.is_empty() || self.topology.borrow().nodes().any(|(_, node)| node.replicas.is_in_use())
    }

    fn begin(&mut self) {
        let now = Time::now();
        self.rest();
        self.census.tidy(now);
        self.appoint();
        let question = CensusQuestion { round: now, lists: self.census.wants_lists(now) };
        self.census.begin(now, question.lists);
        for taker in self.takers.values_mut() {
            let asked = taker.questions.try_send(question).is_ok();
            taker.is_due = asked && taker.is_live;
        }
    }

    fn rest(&mut self) {
        self.next = Instant::now() + self.l1.terms.max_staleness.get() / 4;
    }

    /// The round is over: what it shows of each master counts.
    fn close(&mut self) {
        let Some(begun) = self.census.round() else { return };
        for taker in self.takers.values_mut() {
            taker.is_live &= !taker.is_due;
        }
        let topology = Arc::clone(&self.topology.borrow());
        for (_, node) in topology.nodes() {
            let finding = self.census.finding(&node.endpoint);
            self.l1.stats.census(finding);
            node.vouched.note(finding);
            match finding {
                CensusFinding::Proven => node.vouched.pass(begun),
                finding if finding.is_sign() => node.vouched.revoke(Time::now()),
                _ => {}
            }
            self.tell(node, finding);
        }
        self.told.retain(|endpoint| topology.nodes().any(|(_, node)| node.endpoint == *endpoint));
        self.census.end();
    }

    fn tell(&mut self, node: &Node, finding: CensusFinding) {
        match self.told.hear(&node.endpoint, finding, (Time::now(), self.l1.terms.max_staleness.get())) {
            Some(DoubtNews::Because(finding)) => {
                info!(upstream = %node.address, "memory does not answer for this node's keys: {}", finding.about());
            }
            Some(DoubtNews::Over(lasted)) => {
                info!(upstream = %node.address, ?lasted, "memory answers for this node's keys again");
            }
            None => {}
        }
    }

    fn hear(&mut self, report: CensusReport) {
        let CensusReport { endpoint, answer, listing, timeout } = report;
        let now = Time::now();
        let Some(taker) = self.takers.get_mut(&endpoint) else { return };
        let round = self.census.round();
        let is_of_round = answer.as_ref().is_some_and(|(_, asked, _)| Some(*asked) == round);
        taker.is_due &= !(is_of_round || answer.is_none());
        taker.is_live = answer.is_some();
        if let Some(timeout) = timeout {
            self.census.hear_timeout(timeout);
        }
        let Some((id, asked, answer)) = answer else { return self.close_if_whole() };
        if let Some(listing) = listing {
            if self.census.is_news(&listing) {
                self.slots_leave(&listing);
                self.doubts.ask_anew();
            }
            self.census.hear_list(listing, asked);
        }
        let news = self.census.hear(&id, asked, answer, now);
        if news.election {
            self.l1.stats.elections.add(1);
            info!(epoch = self.census.latest(), "the cluster's nodes tell of an election");
            self.doubts.ask_anew();
        }
        if news.void {
            return self.begin();
        }
        if news.odd {
            self.doubts.ask_anew();
            self.look_for_signs();
        }
        self.close_if_whole();
    }

    /// Of slots that a master does not serve any more, as it says itself, nothing counts that was read there.
    fn slots_leave(&self, listing: &Listing) {
        let topology = Arc::clone(&self.topology.borrow());
        let own = listing.own();
        let Some(map) = topology.cluster() else { return };
        let Some((at, _)) = map.shards().find(|(_, shard)| own.endpoints.contains(&shard.node.endpoint)) else {
            return;
        };
        for slot in (0..HashSlot::COUNT).filter_map(HashSlot::nth) {
            if map.owner(slot) == Some(at) && !listing.claims(slot.number()) {
                self.l1.slot_left(slot);
            }
        }
    }

    fn close_if_whole(&mut self) {
        if !self.takers.values().any(|taker| taker.is_due) {
            self.close();
        }
    }

    /// Leases end at once where somebody else may be the owner: that does not wait for the end of the round.
    fn look_for_signs(&mut self) {
        let topology = Arc::clone(&self.topology.borrow());
        for (_, node) in topology.nodes() {
            let finding = self.census.finding(&node.endpoint);
            if finding.is_sign() {
                node.vouched.revoke(Time::now());
                self.tell(node, finding);
            }
        }
    }

    /// A taker for each node that is known, and for no other.
    fn appoint(&mut self) {
        let topology = Arc::clone(&self.topology.borrow());
        let mut wanted: HashMap<Endpoint, Option<Arc<Node>>> =
            topology.nodes().map(|(_, node)| (node.endpoint.clone(), Some(Arc::clone(node)))).collect();
        let all = self.census.endpoints();
        let by_name = all.iter().any(|member| member.iter().skip(1).any(|name| wanted.contains_key(name)));
        for member in all {
            if member.iter().any(|endpoint| wanted.contains_key(endpoint)) {
                continue;
            }
            let best = if by_name { member.last() } else { member.first() };
            wanted.extend(best.map(|endpoint| (endpoint.clone(), None)));
        }
        self.takers.retain(|endpoint, taker| {
            let stays = wanted.contains_key(endpoint) && !taker.questions.is_closed();
            if !stays {
                taker.task.abort();
            }
            stays
        });
        for (endpoint, node) in wanted {
            if !self.takers.contains_key(&endpoint) {
                let node = node.unwrap_or_else(|| self.nodes.seed(&endpoint));
                let taker = self.appointed(node);
                self.takers.insert(endpoint, taker);
            }
        }
    }

    fn appointed(&mut self, node: Arc<Node>) -> Watched {
        let (questions, asked) = mpsc::channel(1);
        let patience = PATIENCE.max(self.l1.terms.max_staleness.get() * 4);
        let (node_map, reports) = (self.node_map.clone(), self.reports.0.clone());
        let taker = CensusTaker { node, node_map, patience, questions: asked, reports };
        let task = self.tasks.spawn(taker.serve());
        Watched { questions, is_live: false, is_due: false, task }
    }
}
