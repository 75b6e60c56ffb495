//! A cluster as a tier: which of its nodes has a copy.
//!
//! A map that is behind costs a copy and never more, so there is no care in it: it is what any node says that answers. It is read
//! anew where a node sends elsewhere, or does not answer, and as long as one is left alone or a slot is nobody's. A question is
//! sent on once, to a node of the map alone. One task reads the map, and ends with the tier.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::connection::TierAddress;
use super::dialect::{TierQuestion, shown};
use super::node::{TierNode, Unanswered};
use crate::command::HashSlot;
use crate::config::{Endpoint, NodeMap};
use crate::control::Control;
use crate::metrics::{RedirectKind, TierStats};
use crate::resp::is_error;
use crate::upstream::{SlotTable, named_node, redirect_of};

/// Between two readings of the map.
const PAUSE: Duration = Duration::from_millis(100);
/// The same while a node is left alone, or a slot is nobody's.
const LOOK: Duration = Duration::from_millis(500);
/// How long a node may take to tell its map.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module's head.
pub(super) struct TierCluster {
    /// As whom nodes are asked, wherever they are.
    address: TierAddress,
    seeds: Vec<Endpoint>,
    map: Mutex<Arc<TierMap>>,
    doubt: mpsc::Sender<()>,
    tier: Arc<str>,
    stats: Arc<TierStats>,
    control: Control,
}

/// Who serves which slot, and the nodes that do.
#[derive(Default)]
struct TierMap {
    table: SlotTable,
    nodes: HashMap<Endpoint, Arc<TierNode>>,
}

impl TierMap {
    fn owner(&self, slot: HashSlot) -> Option<&Arc<TierNode>> {
        let master = self.table.owners[slot.number()]?;
        self.nodes.get(&self.table.masters[usize::from(master)].endpoint)
    }

    fn is_whole(&self) -> bool {
        self.table.owners.iter().all(Option::is_some)
    }

    fn is_well(&self) -> bool {
        !self.nodes.is_empty() && self.nodes.values().all(|node| node.is_well())
    }
}

impl TierCluster {
    pub(super) fn start(
        address: TierAddress,
        seeds: &[Endpoint],
        (tier, stats): (Arc<str>, Arc<TierStats>),
        control: &Control,
    ) -> Arc<Self> {
        let (doubt, doubted) = mpsc::channel(1);
        let seeds = std::iter::once(&address.endpoint).chain(seeds).cloned().collect();
        let map = Mutex::default();
        let cluster = Arc::new(Self { address, seeds, map, doubt, tier, stats, control: control.clone() });
        cluster.control.spawn(keep(Arc::downgrade(&cluster), doubted));
        cluster
    }

    /// Whether all its nodes are taken for well.
    pub(super) fn is_well(&self) -> bool {
        self.map().is_well()
    }

    /// Those of its nodes that are not.
    pub(super) fn left_alone(&self) -> Vec<String> {
        let map = self.map();
        let ill = map.nodes.iter().filter(|(_, node)| !node.is_well());
        let mut ill: Vec<String> = ill.map(|(endpoint, _)| endpoint.to_string()).collect();
        ill.sort();
        ill
    }

    /// Whether the node that has this name is asked.
    pub(super) fn is_asked(&self, name: &[u8]) -> bool {
        self.map().owner(HashSlot::of(name)).is_some_and(|node| node.is_well())
    }

    /// Asks the node that has this name. Cancel safe.
    pub(super) async fn ask(
        &self,
        name: &[u8],
        question: TierQuestion,
        until: Instant,
    ) -> Result<Vec<Vec<u8>>, Unanswered> {
        let (map, slot) = (self.map(), HashSlot::of(name));
        let Some(node) = map.owner(slot) else {
            return Err(Unanswered::Failed(format!("no node is known that serves slot {}", slot.number())));
        };
        let said = node.ask(question.clone(), until).await;
        if let Err(Unanswered::Failed(_)) = said {
            self.doubt();
        }
        let answers = said?;
        let Some((line, kind)) = answers.iter().find_map(|answer| Some((answer, redirect_of(answer)?))) else {
            return Ok(answers);
        };
        let asks = kind == RedirectKind::Ask;
        if !asks {
            self.doubt();
        }
        let named = named_node(line, &NodeMap::default(), &node.address.endpoint);
        match named.and_then(|named| map.nodes.get(&named)) {
            Some(next) if asks => {
                let answers = next.ask(question.behind_asking(), until).await?;
                Ok(answers.into_iter().skip(1).step_by(2).collect())
            }
            Some(next) if kind == RedirectKind::Moved => next.ask(question, until).await,
            _ => Ok(answers),
        }
    }

    /// Asks all masters at once; what one says that does not do it, where there is one.
    pub(super) async fn ask_all(&self, question: &TierQuestion, until: Instant) -> Result<Vec<Vec<u8>>, Unanswered> {
        let mut asked = JoinSet::new();
        for node in self.map().nodes.values() {
            let (node, question) = (Arc::clone(node), question.clone());
            asked.spawn(async move { node.ask(question, until).await });
        }
        let did =
            |said: &Result<Vec<Vec<u8>>, _>| said.as_ref().is_ok_and(|answers| !answers.iter().any(|a| is_error(a)));
        let all = asked.join_all().await;
        let first = all.iter().find(|said| !did(said)).or(all.first()).cloned();
        first.unwrap_or_else(|| Err(Unanswered::Failed("no node of it is known".to_owned())))
    }

    fn map(&self) -> Arc<TierMap> {
        Arc::clone(&self.map.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn doubt(&self) {
        let _ = self.doubt.try_send(()); // where it is full, it is about to be read
    }

    /// Reads the map of a node that answers, another one first each time. Where none does, what they say instead.
    async fn read_map(&self, round: usize) -> Result<(), String> {
        let (map, mut all) = (self.map(), Vec::new());
        let masters = map.table.masters.iter();
        let known = masters.flat_map(|master| std::iter::once(&master.endpoint).chain(&master.replicas));
        for endpoint in known.chain(&self.seeds) {
            if !all.contains(endpoint) {
                all.push(endpoint.clone());
            }
        }
        let first = round % all.len().max(1);
        all.rotate_left(first);
        let mut reasons = BTreeSet::new();
        for endpoint in all {
            let asked = self.address.at(endpoint);
            match asked.map_of_all().await {
                Ok(table) => {
                    self.follow(&map, table);
                    return Ok(());
                }
                Err(why) => {
                    debug!(tier = &*self.tier, server = %asked.endpoint, "a node of a tier does not tell its map: {why}");
                    reasons.insert(why);
                }
            }
        }
        Err(reasons.into_iter().collect::<Vec<_>>().join("; "))
    }

    /// A node that is in both maps stays as it is.
    fn follow(&self, before: &TierMap, table: SlotTable) {
        let node = |endpoint: &Endpoint| {
            let known = before.nodes.get(endpoint).cloned();
            let start = || TierNode::start(self.address.at(endpoint.clone()), Arc::clone(&self.tier), &self.control);
            (endpoint.clone(), known.unwrap_or_else(start))
        };
        let nodes: HashMap<_, _> = table.masters.iter().map(|master| node(&master.endpoint)).collect();
        if !before.table.agrees_with(&table) {
            info!(tier = &*self.tier, masters = nodes.len(), "the map of a tier's cluster has been read");
        }
        *self.map.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(TierMap { table, nodes });
    }
}

impl TierAddress {
    /// The map that it tells; why it does not.
    async fn map_of_all(&self) -> Result<SlotTable, String> {
        let asked = timeout(PATIENCE, self.ask_alone(&[b"CLUSTER", b"SLOTS"])).await;
        let reply = asked.map_err(|_| "it does not answer in time")?.map_err(|error| error.to_string())?;
        if is_error(&reply) {
            return Err(shown(&reply));
        }
        let table = SlotTable::read(&reply, &self.endpoint, &NodeMap::default());
        table.filter(|table| !table.masters.is_empty()).ok_or_else(|| "it knows no map of its cluster".to_owned())
    }
}

/// Reads the map at first and whenever it is in doubt.
async fn keep(cluster: Weak<TierCluster>, mut doubted: mpsc::Receiver<()>) {
    let mut trouble = String::new();
    for round in 0.. {
        let Some(here) = cluster.upgrade() else { return };
        let tier = &*here.tier;
        match here.read_map(round).await {
            Ok(()) if trouble.is_empty() => {}
            Ok(()) => {
                info!(tier, "the map of a tier's cluster is read again");
                trouble.clear();
            }
            Err(why) => {
                here.stats.failed(&why);
                if trouble != why {
                    warn!(tier, "no node of a tier tells the map of its cluster: {why}");
                    trouble = why;
                }
            }
        }
        let map = here.map();
        let is_well = map.is_well() && map.is_whole();
        drop((map, here));
        sleep(PAUSE).await;
        let doubt = doubted.recv();
        let ended = if is_well { doubt.await.is_none() } else { timeout(LOOK, doubt).await == Ok(None) };
        if ended {
            return;
        }
    }
}
