//! Keeps a Sentinel group: has its Sentinels and replicas asked, and publishes the master whom a majority names.
//!
//! Sentinels are found by the addresses in the configuration and by what each lists of others. What they say is weighed in
//! `upstream/sentinel/census`; here it is acted on: the census that was passed vouches for the master, a doubt ends the leases, and
//! another master takes the place of the last once it says itself that it is one. Nothing of the last one is used from then on.
//!
//! One task of the control thread. Holds contract points 3 and 4: two servers are never used as one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::nodes::Nodes;
use crate::admin::SentinelStatus;
use crate::clock::Time;
use crate::config::{Config, Endpoint, NodeMap};
use crate::control::Control;
use crate::invalidation::L1;
use crate::resp::Resp;
use crate::upstream::{
    Backoff, GroupStanding, Inquirer, MapDoubts, Node, SentinelCensus, SentinelId, SentinelLogin, SentinelReport,
    State, Target, Tenure, Topology, connect, role, scout,
};

/// More Sentinels, or replicas, are not asked.
const MOST: usize = 64;
/// Reports that may wait.
const REPORTS: usize = 256;
/// How often it is looked whether L1 has anything for which the census has to vouch.
const LOOK: Duration = Duration::from_millis(50);
/// So often the group is asked where nothing depends on it.
const IDLE: Duration = Duration::from_millis(500);
/// And so often, at least, where the master is in doubt.
const UNEASY: Duration = Duration::from_millis(100);
/// For so long after somebody was refused a write, or lost a connection.
const UNEASE: Duration = Duration::from_secs(3);
/// Where no master was found by then, clients are refused.
const FIRST: Duration = Duration::from_secs(1);
/// So long a server that Sentinels name may take to say that it is a master: they may name another meanwhile.
const TRIAL: Duration = Duration::from_secs(2);

/// See the module's head.
pub(super) struct GroupKeeper {
    plan: GroupPlan,
    census: SentinelCensus,
    /// By the address at which it is asked.
    sentinels: BTreeMap<Endpoint, AskedSentinel>,
    /// Where Sentinels are said to be.
    listed: BTreeMap<SentinelId, Endpoint>,
    /// Replicas that are asked, by what Sentinels say of their addresses.
    scouts: BTreeMap<Endpoint, CancellationToken>,
    reports: mpsc::Sender<SentinelReport>,
    pace: watch::Sender<Duration>,
    /// Those who are named, and asked whether they are masters.
    trials: JoinSet<(Tenure, Arc<Node>, Result<(), String>)>,
    /// When one that failed is tried again.
    next_trial: Instant,
    backoff: Backoff,
    uneasy_until: Instant,
    has_majority: Option<bool>,
    /// Since when the master is in doubt.
    doubted_since: Option<Time>,
}

/// What it needs of the process.
pub(super) struct GroupPlan {
    name: Arc<str>,
    seeds: Vec<Endpoint>,
    node_map: NodeMap,
    login: SentinelLogin,
    nodes: Arc<Nodes>,
    topology: watch::Sender<Arc<Topology>>,
    doubts: MapDoubts,
    l1: Arc<L1>,
    control: Control,
    status: Arc<Mutex<SentinelStatus>>,
}

/// A Sentinel that is asked.
struct AskedSentinel {
    stop: CancellationToken,
    /// What it calls itself, as far as it is known.
    id: Option<SentinelId>,
    answers: bool,
    replicas: Vec<Endpoint>,
    trouble: Option<String>,
}

impl GroupPlan {
    /// That of the master with this name.
    pub(super) fn new(
        name: &str,
        (config, login): (&Config, SentinelLogin),
        (nodes, l1, control): (&Arc<Nodes>, &Arc<L1>, &Control),
        (topology, doubts): (&watch::Sender<Arc<Topology>>, &MapDoubts),
        status: &Arc<Mutex<SentinelStatus>>,
    ) -> Self {
        let seeds = std::iter::once(&config.upstream.node).chain(&config.upstream.seeds).cloned().collect();
        Self {
            name: name.into(),
            seeds,
            node_map: config.cluster.node_map.clone(),
            login,
            nodes: Arc::clone(nodes),
            topology: topology.clone(),
            doubts: doubts.clone(),
            l1: Arc::clone(l1),
            control: control.clone(),
            status: Arc::clone(status),
        }
    }

    /// Keeps it. Never returns.
    pub(super) async fn keep(self) {
        let (reports, mut told) = mpsc::channel(REPORTS);
        let mut keeper = GroupKeeper {
            plan: self,
            census: SentinelCensus::default(),
            sentinels: BTreeMap::new(),
            listed: BTreeMap::new(),
            scouts: BTreeMap::new(),
            reports,
            pace: watch::Sender::new(UNEASY),
            trials: JoinSet::new(),
            next_trial: Instant::now(),
            backoff: Backoff::default(),
            uneasy_until: Instant::now(),
            has_majority: None,
            doubted_since: None,
        };
        keeper.ask_seeds();
        let began = Instant::now();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(report) = told.recv() => {
                    keeper.hear(report);
                    while let Ok(report) = told.try_recv() {
                        keeper.hear(report);
                    }
                    keeper.weigh();
                }
                Some(tried) = keeper.trials.join_next() => {
                    if let Ok((tenure, node, said)) = tried {
                        match said {
                            Ok(()) => keeper.adopt(tenure, &node),
                            Err(why) => keeper.tell_unusable(&node, why),
                        }
                    }
                }
                () = keeper.plan.doubts.asked() => keeper.uneasy_until = Instant::now() + UNEASE,
                _ = look.tick() => {}
            }
            if began.elapsed() >= FIRST && keeper.census.adopted().is_none() {
                keeper.plan.topology.borrow().front().presence.set(State::Away);
            }
            keeper.set_pace();
        }
    }
}

impl GroupKeeper {
    fn ask_seeds(&mut self) {
        for seed in self.plan.seeds.clone() {
            self.ask(seed);
        }
    }

    /// Has the Sentinel at this address asked, if that is not done.
    fn ask(&mut self, at: Endpoint) {
        if self.sentinels.contains_key(&at) || self.sentinels.len() >= MOST {
            return;
        }
        let stop = self.plan.control.child_token();
        let inquirer = Inquirer {
            node: self.plan.nodes.sentinel(&at),
            name: Arc::clone(&self.plan.name),
            login: self.plan.login.clone(),
            pace: self.pace.subscribe(),
            reports: self.reports.clone(),
        };
        let until = stop.clone();
        self.plan.control.spawn(async move { _ = until.run_until_cancelled(inquirer.ask_on()).await });
        let asked = AskedSentinel { stop, id: None, answers: false, replicas: Vec::new(), trouble: None };
        self.sentinels.insert(at, asked);
    }

    fn hear(&mut self, report: SentinelReport) {
        let now = Time::now();
        match report {
            SentinelReport::Says(at, id, statement, asked) => {
                let alone = statement.others == 0 && self.listed.is_empty();
                let id = id.or_else(|| self.listed_at(&at)).or_else(|| alone.then(|| at.to_string().into()));
                let Some(sentinel) = self.sentinels.get_mut(&at) else { return };
                sentinel.id.clone_from(&id);
                sentinel.answers = true;
                if sentinel.trouble.take().is_some() {
                    info!(sentinel = %at, "the Sentinel answers again");
                }
                if let Some(id) = id {
                    if !self.census.roll().any(|known| *known == id) {
                        self.census.enroll(&id, BTreeSet::new());
                    }
                    self.census.hear(&id, statement, asked, now);
                }
            }
            SentinelReport::Lists(at, id, others, replicas) => self.hear_lists(&at, id, others, replicas),
            SentinelReport::Silent(at, why) => {
                let Some(sentinel) = self.sentinels.get_mut(&at) else { return };
                sentinel.answers = false;
                if sentinel.trouble.as_ref() != Some(&why) {
                    warn!(sentinel = %at, "the Sentinel is of no use: {why}");
                    sentinel.trouble = Some(why);
                }
                if let Some(id) = sentinel.id.clone()
                    && !self.sentinels.values().any(|other| other.answers && other.id.as_ref() == Some(&id))
                {
                    self.census.miss(&id);
                }
            }
            SentinelReport::Replica(said, is_master) => self.census.hear_replica(&said, is_master),
        }
    }

    fn hear_lists(
        &mut self,
        at: &Endpoint,
        id: Option<SentinelId>,
        others: Vec<(SentinelId, Endpoint)>,
        replicas: Vec<Endpoint>,
    ) {
        let ids: BTreeSet<_> = others.iter().map(|(id, _)| id.clone()).collect();
        for (id, said) in others {
            self.listed.insert(id, self.plan.node_map.resolve(said));
        }
        if let Some(id) = id.or_else(|| self.listed_at(at)) {
            self.census.enroll(&id, ids);
        }
        if let Some(sentinel) = self.sentinels.get_mut(at) {
            sentinel.replicas = replicas;
        }
        self.look_for_sentinels();
        let answering = self.sentinels.values().filter(|sentinel| sentinel.answers);
        let replicas = answering.flat_map(|sentinel| sentinel.replicas.iter().cloned()).take(MOST).collect();
        self.census.list_replicas(&replicas);
        self.send_scouts();
        self.tell_replicas();
    }

    /// The master's watch learns where its replicas are.
    fn tell_replicas(&self) {
        let front = Arc::clone(self.plan.topology.borrow().front());
        let places = self.census.replicas().map(|said| self.plan.node_map.resolve(said.clone()));
        let replicas: Vec<_> = places.filter(|place| *place != front.endpoint).collect();
        front.replicas.learn(&replicas);
    }

    fn listed_at(&self, at: &Endpoint) -> Option<SentinelId> {
        self.listed.iter().find(|(_, listed)| *listed == at).map(|(id, _)| id.clone())
    }

    /// Has all asked who are on the roll, each at one address, and nobody else but the seeds.
    fn look_for_sentinels(&mut self) {
        let roll: BTreeSet<_> = self.census.roll().cloned().collect();
        self.listed.retain(|id, _| roll.is_empty() || roll.contains(id));
        let is_asked =
            |id: &SentinelId| self.sentinels.values().any(|known| known.answers && known.id.as_ref() == Some(id));
        let missing: Vec<_> = self.listed.iter().filter(|(id, _)| !is_asked(id)).map(|(_, at)| at.clone()).collect();
        for at in missing {
            self.ask(at);
        }
        let (seeds, listed) = (&self.plan.seeds, &self.listed);
        self.sentinels.retain(|at, sentinel| {
            let stays = seeds.contains(at) || listed.values().any(|listed| listed == at);
            if !stays {
                sentinel.stop.cancel();
            }
            stays
        });
    }

    /// Has all replicas asked, and nobody else.
    fn send_scouts(&mut self) {
        let replicas: BTreeSet<_> = self.census.replicas().cloned().collect();
        self.scouts.retain(|said, stop| {
            let stays = replicas.contains(said);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for said in replicas {
            if self.scouts.contains_key(&said) {
                continue;
            }
            let node = self.plan.nodes.seed(&self.plan.node_map.resolve(said.clone()));
            let stop = self.plan.control.child_token();
            let scouting = scout(said.clone(), node, self.pace.subscribe(), self.reports.clone());
            let until = stop.clone();
            self.plan.control.spawn(async move { _ = until.run_until_cancelled(scouting).await });
            self.scouts.insert(said, stop);
        }
    }

    /// Acts on what is known now.
    fn weigh(&mut self) {
        let front = Arc::clone(self.plan.topology.borrow().front());
        let standing = self.census.standing();
        match &standing {
            GroupStanding::Proven(since) => front.vouched.pass(*since),
            GroupStanding::Doubted(_) => front.vouched.revoke(Time::now()),
            GroupStanding::Silent => {}
        }
        if let Some(tenure) = self.census.candidate()
            && self.trials.is_empty()
            && self.next_trial <= Instant::now()
        {
            let at = self.plan.node_map.resolve(tenure.master.clone());
            let node = self.plan.nodes.seed(&at);
            self.trials.spawn(async move {
                let said = timeout(TRIAL, is_master(&node)).await;
                let said = said.unwrap_or_else(|_| Err("it does not say in time what it is".to_owned()));
                (tenure, node, said)
            });
        }
        self.tell(&standing);
    }

    /// A majority names this node, of which this is wrong.
    fn tell_unusable(&mut self, node: &Node, why: String) {
        self.next_trial = Instant::now() + self.backoff.wait();
        let status = &mut *self.status();
        if status.trouble.as_ref() != Some(&why) {
            warn!(upstream = %node.address, "the Sentinels name a master that cannot be used: {why}; does crema reach this address (cluster_node_map), and is the user in `upstream` right?");
            status.trouble = Some(why);
        }
    }

    /// This node says that it is the master, and a majority named it.
    fn adopt(&mut self, tenure: Tenure, node: &Arc<Node>) {
        if self.census.candidate().as_ref() != Some(&tenure) {
            return; // they have thought better of it meanwhile
        }
        let is_first = self.census.adopted().is_none();
        self.plan.nodes.replace(&self.plan.topology, node);
        let (name, number, upstream) = (&self.plan.name, tenure.number, &node.address);
        if is_first {
            info!(%upstream, number, "the Sentinels name the master of `{name}`");
        } else {
            info!(%upstream, number, "the Sentinels name another master of `{name}`: connections to the former one are given up, and memory is empty");
            self.plan.l1.stats.failovers.add(1);
        }
        self.status().master = Some(upstream.to_string());
        self.status().trouble = None;
        self.backoff.reset();
        self.census.adopt(tenure);
        self.send_scouts();
        self.tell_replicas();
        self.weigh();
    }

    fn tell(&mut self, standing: &GroupStanding) {
        let (sentinels, answering) = (self.census.size(), self.census.present());
        let has_majority = answering > sentinels / 2;
        if sentinels > 0 && self.has_majority.replace(has_majority) != Some(has_majority) {
            if has_majority {
                info!("{answering} of {sentinels} Sentinels answer");
            } else {
                warn!(
                    "{answering} of {sentinels} Sentinels answer: cache off, reads go to Redis, and no other master would be found"
                );
            }
        }
        let longest = self.plan.l1.terms.max_staleness.get().max(IDLE * 2);
        let doubt = match standing {
            GroupStanding::Proven(since) if Time::now().saturating_since(*since) <= longest => None,
            GroupStanding::Proven(_) | GroupStanding::Silent => {
                Some("no majority of the Sentinels has confirmed it lately".to_owned())
            }
            GroupStanding::Doubted(doubt) => Some(doubt.to_string()),
        };
        let has_master = self.status().master.is_some();
        match (&doubt, self.doubted_since) {
            (Some(_), None) if has_master => self.doubted_since = Some(Time::now()),
            (None, Some(since)) => {
                let lasted = Time::now().saturating_since(since);
                info!(?lasted, "the Sentinels are sure of the master again: memory answers");
                self.doubted_since = None;
            }
            _ => {}
        }
        let status = &mut *self.status();
        if doubt.is_some() && status.doubt != doubt && has_master {
            info!("the master may change: {}", doubt.as_deref().unwrap_or_default());
        }
        (status.sentinels, status.answering, status.doubt) = (sentinels as u64, answering as u64, doubt);
    }

    fn status(&self) -> std::sync::MutexGuard<'_, SentinelStatus> {
        self.plan.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often all are asked: as often as leases need it, or as a change of the master should be seen.
    fn set_pace(&self) {
        let quick = self.plan.l1.terms.max_staleness.get() / 4;
        let front = Arc::clone(self.plan.topology.borrow().front());
        let is_there = *front.presence.follow().borrow() == State::There;
        let at_ease = self.census.adopted().is_some()
            && is_there
            && !matches!(self.census.standing(), GroupStanding::Doubted(_))
            && self.uneasy_until <= Instant::now();
        let is_idle = self.plan.l1.memory.store.is_empty() && !front.replicas.is_in_use();
        let pace = match (at_ease, is_idle) {
            (false, _) => quick.min(UNEASY),
            (true, false) => quick.min(IDLE),
            (true, true) => IDLE,
        };
        self.pace.send_if_modified(|known| std::mem::replace(known, pace) != pace);
    }
}

/// Whether the server says that it is a master, or what is wrong.
async fn is_master(node: &Arc<Node>) -> Result<(), String> {
    let target = Target { node: Arc::clone(node), login: node.login(), db: 0, resp: Resp::V2, name: "crema-scout" };
    let mut made = connect(&target).await.map_err(|error| error.to_string())?;
    match role(&mut made.socket, &mut Vec::new()).await {
        Some(true) => Ok(()),
        Some(false) => Err("it says that it is a replica".to_owned()),
        None => Err("it does not say what it is".to_owned()),
    }
}
