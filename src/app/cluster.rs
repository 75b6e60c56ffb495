//! Keeps the map of a cluster: asks its nodes, and publishes what they agree on.
//!
//! All masters are asked when somebody was sent elsewhere or has lost a node, and one of them in turn every second. A map is taken from
//! a node that is well, and that knows of the latest election that most know of. The nodes in the configuration are asked where no
//! other answers.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tracing::{info, warn};

use super::descriptors;
use super::nodes::Nodes;
use crate::config::{Config, Endpoint, NodeMap};
use crate::resp::{Resp, encode};
use crate::upstream::{
    ClusterAnswer, ClusterMap, ClusterState, Connection, Listing, MapDoubts, Node, SlotTable, State, Target, Topology,
    agreed, connect, read_reply,
};

/// Nodes have so long to answer.
const LONGEST: Duration = Duration::from_secs(1);
/// Where most have answered, the others have so much longer.
const GRACE: Duration = Duration::from_millis(50);
/// Between two times that all are asked, at first and at most: whoever asks again and again changes nothing by it.
const PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(200)];

/// See the module's head.
pub(super) struct MapKeeper {
    nodes: Arc<Nodes>,
    seeds: Vec<Arc<Node>>,
    topology: watch::Sender<Arc<Topology>>,
    doubts: MapDoubts,
    /// Kept while all are asked again and again.
    connections: HashMap<Arc<str>, Connection>,
    /// Who is asked next.
    turn: usize,
    /// The number of the latest election of which a map told.
    epoch: u64,
    trouble: Option<String>,
    /// Why one of those that were asked last gave none; of several always the same.
    refusal: Option<String>,
    /// How many there are, and how many connections each may have.
    masters: usize,
    limit: usize,
    config: Config,
}

impl MapKeeper {
    pub(super) fn new(
        (nodes, seeds): (Arc<Nodes>, Vec<Arc<Node>>),
        config: Config,
        topology: watch::Sender<Arc<Topology>>,
        doubts: MapDoubts,
    ) -> Self {
        let (connections, limit) = (HashMap::new(), config.max_upstream);
        Self {
            nodes,
            seeds,
            topology,
            doubts,
            connections,
            turn: 0,
            epoch: 0,
            trouble: None,
            refusal: None,
            masters: 1,
            limit,
            config,
        }
    }

    /// Never returns.
    pub(super) async fn keep(mut self) {
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pause = PAUSES[0];
        loop {
            let asked = tokio::select! {
                () = self.doubts.asked() => true,
                _ = second.tick() => false,
            };
            let known = self.present().version() > 0;
            if known && !asked {
                pause = PAUSES[0];
                let one = self.one_in_turn();
                let answers = self.ask(vec![one]).await;
                self.connections.clear(); // no node is to keep one for what is asked so seldom
                if let Some(answer) = answers.first()
                    && self.is_present(answer)
                {
                    self.learn_replicas(&answer.table);
                    continue;
                }
            }
            self.read_all().await;
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    fn present(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.borrow())
    }

    /// Those that are asked: all that serve slots.
    fn masters(&self) -> Vec<Arc<Node>> {
        let present = self.present();
        let shards = present.cluster().into_iter().flat_map(ClusterMap::shards);
        shards.filter(|(_, shard)| shard.serves).map(|(_, shard)| Arc::clone(&shard.node)).collect()
    }

    fn one_in_turn(&mut self) -> Arc<Node> {
        let masters = self.masters();
        self.turn = self.turn.wrapping_add(1);
        Arc::clone(&masters[self.turn % masters.len()])
    }

    /// Whether one node's answer has no news. To whom a first slot is on its way that node alone says which has it, so all are asked.
    fn is_present(&self, answer: &ClusterAnswer) -> bool {
        let is_as = |map: &ClusterMap| map.is_as(&answer.table) && !map.awaits_newcomers();
        answer.newcomers.is_empty() && self.present().cluster().is_some_and(is_as)
    }

    /// Who replicates whom decides where no command goes that is not read from a replica: no new version is made of it.
    fn learn_replicas(&self, table: &SlotTable) {
        let present = self.present();
        if let Some(map) = present.cluster().and_then(|map| map.with_replicas(table)) {
            tell_replicas(&map);
            self.topology.send_replace(Arc::new(Topology::Cluster(map)));
        }
    }

    /// Where no master gives a map: their replicas, which may have taken over, and the nodes in the settings.
    fn others(&self) -> Vec<Arc<Node>> {
        let (present, masters) = (self.present(), self.masters());
        let replicas =
            present.cluster().into_iter().flat_map(|map| map.shards().flat_map(|(_, shard)| &shard.replicas));
        let replicas = replicas.map(|endpoint| self.nodes.seed(endpoint));
        let others = self.seeds.iter().cloned().chain(replicas);
        others.filter(|other| !masters.iter().any(|master| master.endpoint == other.endpoint)).collect()
    }

    /// Asks all masters, or whoever can be found, and publishes what they agree on.
    async fn read_all(&mut self) {
        let present = self.present();
        let is_present = |table: &SlotTable| present.cluster().is_some_and(|map| map.is_as(table));
        self.refusal = None;
        let mut answers = self.ask(self.masters()).await;
        if agreed(&answers, self.epoch, is_present).is_none() {
            answers.extend(self.ask(self.others()).await);
        }
        let Some(chosen) = agreed(&answers, self.epoch, is_present) else {
            let none = self.refusal.take().filter(|_| answers.is_empty());
            return self.tell(Some(none.unwrap_or_else(|| "no node that is well gives a map".to_owned())));
        };
        self.epoch = chosen.state.current_epoch;
        let present = self.present();
        let Some(map) = present.cluster() else { return };
        let newcomers: Vec<_> = answers.iter().flat_map(|answer| answer.newcomers.iter().cloned()).collect();
        match map.next(&chosen.table, &newcomers, |endpoint| self.known(endpoint)) {
            Some(next) => self.publish(next),
            None => self.tell(None),
        }
    }

    /// A node that is asked already, or a new one.
    fn known(&self, endpoint: &Endpoint) -> Arc<Node> {
        let seed = self.seeds.iter().find(|seed| seed.endpoint == *endpoint);
        seed.map_or_else(
            || self.nodes.make(endpoint),
            |seed| {
                self.nodes.keep(seed);
                Arc::clone(seed)
            },
        )
    }

    fn publish(&mut self, next: ClusterMap) {
        let masters: Vec<_> = next.shards().map(|(_, shard)| shard.node.address.to_string()).collect();
        info!(
            version = next.version(),
            slots = next.served(),
            epoch = self.epoch,
            "the cluster's masters: {}",
            masters.join(", ")
        );
        if let Some(before) = self.present().cluster() {
            self.nodes.slots_leave(before, &next);
        }
        tell_replicas(&next);
        let topology = Arc::new(Topology::Cluster(next));
        self.topology.send_replace(Arc::clone(&topology));
        let stays = |node: &Arc<Node>| topology.nodes().any(|(_, known)| Arc::ptr_eq(known, node));
        self.nodes.retain(stays);
        if std::mem::replace(&mut self.masters, masters.len()) != masters.len() {
            self.limit = descriptors::for_each_of(masters.len(), &self.config);
        }
        self.nodes.limit(self.limit);
        self.tell(None);
    }

    fn tell(&mut self, trouble: Option<String>) {
        match &trouble {
            Some(trouble) if self.trouble.as_ref() != Some(trouble) => {
                warn!("the cluster's map cannot be read: {trouble}; are the nodes running, and is `upstream` right?");
            }
            None if self.trouble.is_some() => info!("the cluster's map can be read again"),
            _ => {}
        }
        self.trouble = trouble;
    }

    /// What these nodes say, of those that answer in time.
    async fn ask(&mut self, nodes: Vec<Arc<Node>>) -> Vec<ClusterAnswer> {
        let most = nodes.len() / 2 + 1;
        let mut asking = JoinSet::new();
        for node in nodes {
            let kept = self.connections.remove(&node.address);
            let node_map = self.config.cluster.node_map.clone();
            asking.spawn(async move { read_from(node, kept, &node_map).await });
        }
        let (mut answers, mut until) = (Vec::new(), Instant::now() + LONGEST);
        while let Ok(Some(answered)) = timeout_at(until, asking.join_next()).await {
            match answered {
                Ok(Ok((node, connection, answer))) => {
                    self.connections.insert(Arc::clone(&node.address), connection);
                    answers.push(answer);
                    if answers.len() == most {
                        until = until.min(Instant::now() + GRACE);
                    }
                }
                Ok(Err(why)) => self.refusal = self.refusal.take().into_iter().chain([why]).min(),
                Err(_) => {} // the process ends
            }
        }
        answers
    }
}

/// Each master's watch learns where its replicas are.
fn tell_replicas(map: &ClusterMap) {
    map.shards().for_each(|(_, shard)| shard.node.replicas.learn(&shard.replicas));
}

/// Asks one node, on a new connection where the last is of no use any more.
async fn read_from(
    node: Arc<Node>,
    kept: Option<Connection>,
    node_map: &NodeMap,
) -> Result<(Arc<Node>, Connection, ClusterAnswer), String> {
    if let Some(mut connection) = kept
        && let Ok(answer) = exchange(&node, &mut connection, node_map).await
    {
        return Ok((node, connection, answer?));
    }
    let target = Target { node: Arc::clone(&node), login: node.login(), db: 0, resp: Resp::V2, name: "crema-map" };
    let mut connection = connect(&target).await.map_err(|error| error.to_string())?;
    let answer =
        exchange(&node, &mut connection, node_map).await.map_err(|error| format!("{}: {error}", node.address))??;
    Ok((node, connection, answer))
}

/// What the node answers, or says instead of it.
async fn exchange(
    node: &Node,
    connection: &mut Connection,
    node_map: &NodeMap,
) -> io::Result<Result<ClusterAnswer, String>> {
    let mut questions = Vec::new();
    encode::own_command(&mut questions, &[b"CLUSTER", b"INFO"]);
    encode::own_command(&mut questions, &[b"CLUSTER", b"SLOTS"]);
    encode::own_command(&mut questions, &[b"CLUSTER", b"NODES"]);
    let asked = async {
        connection.socket.write_all(&questions).await?;
        let mut buffer = Vec::new();
        let state = read_reply(&mut connection.socket, &mut buffer).await?;
        let slots = read_reply(&mut connection.socket, &mut buffer).await?;
        let nodes = read_reply(&mut connection.socket, &mut buffer).await?;
        io::Result::Ok((state, slots, nodes))
    };
    let (state, slots, nodes) = timeout(LONGEST, asked).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let answer = ClusterState::read(&state).zip(SlotTable::read(&slots, &node.endpoint, node_map));
    let said = [&state, &slots].into_iter().find(|reply| reply.starts_with(b"-"));
    let said = said.map_or("no map".into(), |reply| String::from_utf8_lossy(&reply[1..]));
    // Who may not ask that goes without: what is on its way to a newcomer waits until that serves the slot.
    let listing = Listing::read(&nodes, &node.endpoint, node_map);
    let answer = answer.map(|(state, table)| {
        let is_known = |endpoint: &Endpoint| table.masters.iter().any(|master| master.endpoint == *endpoint);
        let newcomers = listing.map(|listing| listing.newcomers(is_known)).unwrap_or_default();
        ClusterAnswer { state, table, newcomers }
    });
    Ok(answer.ok_or_else(|| format!("{} says: {}", node.address, said.trim())))
}

/// Tells whether any master is there; and where the front is not, has another be it. Never returns.
pub(super) async fn follow_presence(topology: watch::Sender<Arc<Topology>>, presence: watch::Sender<State>) {
    let mut versions = topology.subscribe();
    loop {
        let present = Arc::clone(&versions.borrow_and_update());
        let mut changes = JoinSet::new();
        let mut states = Vec::new();
        for (at, node) in present.nodes() {
            let mut state = node.presence.follow();
            states.push((at, *state.borrow_and_update()));
            changes.spawn(async move { _ = state.changed().await });
        }
        let any = |is: State| states.iter().find(|(_, state)| *state == is);
        let now = [State::There, State::Doubted, State::Unknown].into_iter().find(|&state| any(state).is_some());
        let now = now.unwrap_or(State::Away);
        presence.send_if_modified(|known| std::mem::replace(known, now) != now);
        let front = present.front_index();
        let is_away = states.iter().any(|&(at, state)| at == front && state == State::Away);
        let serves = |at| present.cluster().and_then(|map| map.shard(at)).is_some_and(|shard| shard.serves);
        let other = states.iter().find(|&&(at, state)| state == State::There && serves(at));
        if let (true, Some(&(there, _)), Some(map)) = (is_away, other, present.cluster()) {
            let next = Arc::new(Topology::Cluster(map.with_front(there)));
            // Unless the keeper of the map was first.
            topology.send_if_modified(|known| {
                let is_it = Arc::ptr_eq(known, &present);
                if is_it {
                    *known = next;
                }
                is_it
            });
            continue;
        }
        tokio::select! {
            _ = changes.join_next() => {}
            newer = versions.changed() => if newer.is_err() { return },
        }
    }
}
