//! Real clusters: masters and replicas of one's own for a test, of Redis or of Valkey.
//!
//! A cluster has numbered nodes: first the masters as they began, in the order of their slots, then the replicas, of each
//! master in turn (with three masters, node 3 is the first replica of node 0). A node keeps its number through failovers,
//! and nodes that are added get the next ones. All that is told of roles and slots is asked of the nodes themselves, those
//! that run and are not frozen; [`Cluster::await_whole`] waits until they agree.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::bus::Bus;
use super::client::Client;
use super::eventually;
use super::link::Link;
use super::proxy::{Crema, Launch};
use super::redis::{self, Redis, free_port};
use super::value::{Value, ok};

pub const SLOTS: u16 = 16_384;

pub struct Cluster {
    plan: Plan,
    members: Vec<Member>,
    bus: Option<Bus>,
}

struct Member {
    redis: Redis,
    id: String,
    /// Where others reach its bus.
    bus_port: u16,
    /// Where it says that it listens: there its replicas read from it.
    replication: Option<Link>,
    /// Where crema connects to, in place of what the node says.
    link: Option<Link>,
}

/// What cluster there is to be.
#[derive(Clone)]
pub struct Plan {
    server: PathBuf,
    masters: usize,
    replicas: usize,
    shares: Option<Vec<RangeInclusive<u16>>>,
    node_timeout: u32,
    args: Vec<String>,
    with_bus: bool,
    with_links: bool,
    with_replication: bool,
}

/// How a replica is made the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    /// The master stops and hands over.
    Agreed,
    /// An election that the master is not asked for.
    Force,
    /// Nobody is asked.
    Takeover,
}

/// One line of `CLUSTER NODES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub id: String,
    pub flags: Vec<String>,
    /// Whose replica it is.
    pub master: Option<String>,
    pub epoch: u64,
    pub slots: Vec<RangeInclusive<u16>>,
}

impl Plan {
    /// Masters without replicas.
    pub fn masters(mut self, masters: usize) -> Plan {
        (self.masters, self.replicas) = (masters, 0);
        self
    }

    /// So many replicas of each master.
    pub fn replicas(mut self, replicas: usize) -> Plan {
        self.replicas = replicas;
        self
    }

    /// What slots each master has, in place of as many as the others.
    pub fn shares(mut self, shares: &[RangeInclusive<u16>]) -> Plan {
        (self.masters, self.shares) = (shares.len(), Some(shares.to_vec()));
        self
    }

    /// `cluster-node-timeout` in milliseconds. One that is small makes elections where a machine is slow.
    pub fn node_timeout(mut self, ms: u32) -> Plan {
        self.node_timeout = ms;
        self
    }

    /// More arguments for every node.
    pub fn args(mut self, args: &[&str]) -> Plan {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// The cluster bus through relays.
    pub fn with_bus(mut self) -> Plan {
        self.with_bus = true;
        self
    }

    /// Each node behind a link of its own, for crema alone.
    pub fn with_links(mut self) -> Plan {
        self.with_links = true;
        self
    }

    /// What replicas read through a link of each master.
    pub fn with_replication_links(mut self) -> Plan {
        self.with_replication = true;
        self
    }

    pub fn start(self) -> Cluster {
        let bus = self.with_bus.then(Bus::default);
        let mut cluster = Cluster { plan: self, members: Vec::new(), bus };
        let Plan { masters, replicas, .. } = cluster.plan;
        for _ in 0..masters * (1 + replicas) {
            cluster.launch();
        }
        let shares = cluster.plan.shares.clone().unwrap_or_else(|| shares(masters).collect());
        for (n, range) in shares.iter().enumerate() {
            let mut client = cluster.client(n);
            let (first, last) = (range.start().to_string(), range.end().to_string());
            assert_eq!(client.cmd(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]), ok());
            assert_eq!(client.cmd(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]), ok());
        }
        for n in 1..cluster.members.len() {
            (0..n).for_each(|other| cluster.meet(other, n));
        }
        for n in masters..cluster.members.len() {
            cluster.replicate(n, (n - masters) % masters);
        }
        cluster.await_whole();
        cluster
    }
}

impl Cluster {
    /// Three masters with a replica each.
    pub fn start() -> Cluster {
        Cluster::plan().start()
    }

    pub fn plan() -> Plan {
        Plan {
            server: redis::redis_server(),
            masters: 3,
            replicas: 1,
            shares: None,
            node_timeout: 2000,
            args: Vec::new(),
            with_bus: false,
            with_links: false,
            with_replication: false,
        }
    }

    /// The same of Valkey, where one is installed.
    pub fn valkey() -> Option<Plan> {
        Some(Plan { server: redis::valkey_server()?, ..Cluster::plan() })
    }

    /// A node that knows nobody.
    fn launch(&mut self) -> usize {
        let n = self.members.len();
        let plan = &self.plan;
        let replication = plan.with_replication.then(|| Link::to(redis::loopback(1)));
        let mut ports = (0, 0);
        let redis = Redis::launch_with(&plan.server, || {
            let port = free_port();
            ports = (port, self.bus.as_ref().map_or(port, |bus| bus.relay_to(n, port)));
            let mut args: Vec<String> =
                ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"].map(str::to_owned).into();
            let mut add = |name: &str, value: String| args.extend([name.to_owned(), value]);
            add("--cluster-node-timeout", plan.node_timeout.to_string());
            add("--cluster-port", port.to_string());
            if self.bus.is_some() {
                add("--cluster-announce-ip", "127.0.0.1".to_owned());
                add("--cluster-announce-bus-port", ports.1.to_string());
                add("--bind-source-addr", Bus::source(n).to_string());
                add("--protected-mode", "no".to_owned());
            }
            if let Some(link) = &replication {
                add("--cluster-announce-port", link.addr().port().to_string());
            }
            args.extend(plan.args.iter().cloned());
            args
        });
        if let Some(link) = &replication {
            link.turn_to(redis.addr());
        }
        let link = plan.with_links.then(|| Link::to(redis.addr()));
        let id = redis.client().cmd(&["CLUSTER", "MYID"]).text();
        self.members.push(Member { redis, id, bus_port: ports.1, replication, link });
        n
    }

    fn meet(&self, one: usize, other: usize) {
        let port = self.said_port(other).to_string();
        let bus = self.members[other].bus_port.to_string();
        assert_eq!(self.client(one).cmd(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]), ok());
    }

    /// The port under which the others know a node.
    fn said_port(&self, n: usize) -> u16 {
        let member = &self.members[n];
        member.replication.as_ref().map_or(member.redis.port(), |link| link.addr().port())
    }

    /// Makes a node the replica of another.
    pub fn replicate(&self, n: usize, master: usize) {
        let mut client = self.client(n);
        let id = &self.members[master].id;
        eventually("it may replicate", || client.cmd(&["CLUSTER", "REPLICATE", id]) == ok());
    }

    // What there is.

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn node(&self, n: usize) -> &Redis {
        &self.members[n].redis
    }

    pub fn node_mut(&mut self, n: usize) -> &mut Redis {
        &mut self.members[n].redis
    }

    pub fn id(&self, n: usize) -> &str {
        &self.members[n].id
    }

    pub fn addr(&self, n: usize) -> SocketAddr {
        self.node(n).addr()
    }

    /// A connection to a node itself.
    #[track_caller]
    pub fn client(&self, n: usize) -> Client {
        self.node(n).client()
    }

    /// A connection to the node that a key belongs to.
    #[track_caller]
    pub fn client_of(&self, key: &str) -> Client {
        self.client(self.owner_of(key))
    }

    /// Its nodes that run and are not frozen.
    pub fn awake(&self) -> Vec<usize> {
        (0..self.len()).filter(|n| self.node(*n).is_awake()).collect()
    }

    /// The bus, of a cluster planned so.
    pub fn bus(&self) -> &Bus {
        self.bus.as_ref().expect("planned with its bus through relays")
    }

    /// What crema says to a node, of a cluster planned so.
    pub fn link(&self, n: usize) -> &Link {
        self.members[n].link.as_ref().expect("planned with links")
    }

    /// What a master's replicas read, of a cluster planned so.
    pub fn replication(&self, n: usize) -> &Link {
        self.members[n].replication.as_ref().expect("planned with links for replicas")
    }

    // Who is what.

    /// What a node says of the cluster; of no slot that is on its way.
    pub fn view(&self, n: usize) -> Vec<Line> {
        self.client(n).cmd(&["CLUSTER", "NODES"]).text().lines().map(Line::parse).collect()
    }

    /// The node with that name.
    pub fn number(&self, id: &str) -> usize {
        self.members.iter().position(|member| member.id == id).expect("a node of this cluster")
    }

    /// The node that takes itself for the owner of a slot, under the latest number where there are two.
    pub fn owner(&self, slot: u16) -> usize {
        self.owner_if_any(slot).unwrap_or_else(|| panic!("slot {slot} has no owner"))
    }

    pub fn owner_if_any(&self, slot: u16) -> Option<usize> {
        let claims = self.awake().into_iter().filter_map(|n| {
            let own = self.view(n).into_iter().find(|line| line.is("myself"))?;
            own.has(slot).then_some((own.epoch, n))
        });
        claims.max().map(|(_, n)| n)
    }

    pub fn owner_of(&self, key: &str) -> usize {
        self.owner(slot_of(key))
    }

    /// Whether a node takes itself for a master.
    pub fn is_master(&self, n: usize) -> bool {
        self.view(n).iter().any(|line| line.is("myself") && line.is("master"))
    }

    /// The replicas that a node has by its own account.
    pub fn replicas_of(&self, n: usize) -> Vec<usize> {
        let lines = self.view(n).into_iter().filter(|line| line.master.as_deref() == Some(&self.members[n].id));
        lines.map(|line| self.number(&line.id)).collect()
    }

    /// The number in a line of a node's `CLUSTER INFO`.
    pub fn info(&self, n: usize, field: &str) -> u64 {
        let info = self.client(n).cmd(&["CLUSTER", "INFO"]).text();
        let line = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no number {field} in {info}"))
    }

    /// Waits until all nodes that are awake know each other, agree on all slots, and have their replicas in step.
    #[track_caller]
    pub fn await_whole(&self) {
        eventually("the cluster is whole", || self.is_whole());
    }

    pub fn is_whole(&self) -> bool {
        let awake = self.awake();
        let map = |n: usize| {
            let mut lines = self.view(n);
            lines.retain(|line| !line.slots.is_empty());
            lines.sort_by(|one, other| one.id.cmp(&other.id));
            let all: usize = lines.iter().flat_map(|line| &line.slots).map(ExactSizeIterator::len).sum();
            let owners: Vec<_> = lines.into_iter().map(|line| (line.id, line.epoch, line.slots)).collect();
            (all == usize::from(SLOTS)).then_some(owners)
        };
        let Some(first) = awake.first().and_then(|n| map(*n)) else { return false };
        awake.iter().all(|n| {
            let lines = self.view(*n);
            let is_known = |other: &usize| lines.iter().any(|line| line.id == self.members[*other].id && line.is_up());
            let roles = lines.iter().all(|line| {
                let number = self.members.iter().position(|member| member.id == line.id);
                let other = number.filter(|number| awake.contains(number));
                other.is_none_or(|other| line.is("master") == self.is_master(other))
            });
            let state = self.client(*n).cmd(&["CLUSTER", "INFO"]).text();
            // Whether it is in step is asked last: until it has heard of a new master it takes itself for one.
            roles
                && state.contains("cluster_state:ok")
                && awake.iter().all(is_known)
                && map(*n).as_ref() == Some(&first)
                && self.is_in_step(*n)
        })
    }

    // Slots that move.

    /// Begins to move a slot, as `redis-cli --cluster reshard` does.
    ///
    /// Who is to have it must know everybody's number by then. Else it may take the slot under a number that is lower than that of the
    /// former owner, for it believes that its own is the highest (`clusterBumpConfigEpochWithoutConsensus`): a message of that one which is
    /// still on its way then takes the slot back, and with it the keys are gone (`clusterUpdateSlotsConfigWith`).
    #[must_use]
    pub fn begin_move(&self, slot: u16, to: usize) -> Move<'_> {
        let from = self.owner(slot);
        eventually("the new owner knows everybody's number", || self.knows_numbers(to));
        let text = slot.to_string();
        assert_eq!(self.client(to).cmd(&["CLUSTER", "SETSLOT", &text, "IMPORTING", self.id(from)]), ok());
        assert_eq!(self.client(from).cmd(&["CLUSTER", "SETSLOT", &text, "MIGRATING", self.id(to)]), ok());
        Move { cluster: self, slot, from, to }
    }

    /// Whether a node knows the number of the others' last election or import of a slot, as each says its own.
    fn knows_numbers(&self, n: usize) -> bool {
        let known = self.view(n);
        self.awake().into_iter().filter(|other| self.is_master(*other)).all(|other| {
            let own = self.view(other).into_iter().find(|line| line.is("myself")).expect("a node lists itself");
            known.iter().any(|line| line.id == own.id && line.epoch == own.epoch)
        })
    }

    pub fn move_slot(&self, slot: u16, to: usize) {
        let step = self.begin_move(slot, to);
        step.migrate();
        step.finish();
    }

    /// Has a node hand these slots of its own to another as a whole, as Valkey 9 can. False: it cannot.
    pub fn hand_over(&self, slots: &[u16], to: usize) -> bool {
        let from = self.owner(slots[0]);
        let numbers: Vec<String> = slots.iter().map(u16::to_string).collect();
        let ranges = numbers.iter().flat_map(|slot| [slot.as_str(), slot]);
        let command: Vec<&str> =
            ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE"].into_iter().chain(ranges).chain(["NODE", self.id(to)]).collect();
        let reply = self.client(from).cmd(&command);
        if reply.text().contains("unknown subcommand") {
            return false;
        }
        assert_eq!(reply, ok());
        eventually("the slots have moved", || slots.iter().all(|&slot| self.owner(slot) == to));
        true
    }

    pub fn move_slots(&self, slots: impl IntoIterator<Item = u16>, to: usize) {
        slots.into_iter().for_each(|slot| self.move_slot(slot, to));
    }

    /// Has a node take a slot as it is, without its keys: the former owner hears of it by a later number.
    pub fn take_slot(&self, slot: u16, to: usize) {
        let mut client = self.client(to);
        assert_eq!(client.cmd(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", self.id(to)]), ok());
        assert!(!client.cmd(&["CLUSTER", "BUMPEPOCH"]).is_error());
    }

    fn is_in_step(&self, n: usize) -> bool {
        let replication = self.client(n).cmd(&["INFO", "replication"]).text();
        replication.contains("role:master") || replication.contains("master_link_status:up")
    }

    // What befalls nodes. They are frozen by `node(n).freeze()`.

    fn tell_to_fail_over(&self, replica: usize, how: Failover) -> Value {
        match how {
            Failover::Agreed => self.client(replica).cmd(&["CLUSTER", "FAILOVER"]),
            Failover::Force => self.client(replica).cmd(&["CLUSTER", "FAILOVER", "FORCE"]),
            Failover::Takeover => self.client(replica).cmd(&["CLUSTER", "FAILOVER", "TAKEOVER"]),
        }
    }

    /// Tells a replica to take over, and returns before it has.
    pub fn failover(&self, replica: usize, how: Failover) {
        assert_eq!(self.tell_to_fail_over(replica, how), ok(), "{how}");
    }

    /// Tells a replica to take over until it has: one that has won gives way at once where its master shows a later epoch of its own.
    #[track_caller]
    pub fn fail_over(&self, replica: usize, how: Failover) {
        self.failover(replica, how);
        let mut told = Instant::now();
        eventually("it has become a master", || {
            let is_over = self.has_slots(replica);
            if !is_over && told.elapsed() > Duration::from_secs(5) {
                self.tell_to_fail_over(replica, how); // refused by one that has become a master just now
                told = Instant::now();
            }
            is_over
        });
    }

    /// Waits until a node takes itself for a master with slots.
    #[track_caller]
    pub fn await_master(&self, n: usize) {
        eventually("it has become a master", || self.has_slots(n));
    }

    /// Waits until a node has been elected, in most others' view as in its own. A replica whose master fails within two
    /// time-outs of an election that it won itself counts those votes again (`clusterHandleSlaveFailover` in Redis 7.0): it
    /// takes itself for a master, gives way to the failed one's later epoch, and is no candidate then, for it has lost its
    /// copy. Therefore no test waits for that one's election.
    #[track_caller]
    pub fn await_elected(&self, n: usize) {
        eventually("it has been elected", || self.is_elected(n));
    }

    /// The same of whichever node has a slot in an old master's stead.
    #[track_caller]
    pub fn await_successor(&self, slot: u16, old: usize) {
        eventually("another is elected", || self.owner_if_any(slot).is_some_and(|n| n != old && self.is_elected(n)));
    }

    fn is_elected(&self, n: usize) -> bool {
        let awake = self.awake();
        let agrees = |viewer: &&usize| {
            self.view(**viewer).iter().any(|line| line.id == self.id(n) && line.is("master") && !line.slots.is_empty())
        };
        self.has_slots(n) && 2 * awake.iter().filter(agrees).count() > awake.len()
    }

    fn has_slots(&self, n: usize) -> bool {
        self.view(n).iter().any(|line| line.is("myself") && line.is("master") && !line.slots.is_empty())
    }

    /// Kills a node as a power cut would.
    pub fn kill(&mut self, n: usize) {
        self.node_mut(n).kill();
    }

    /// Starts it again, without its keys; what it knew of the cluster it still knows.
    pub fn restart(&mut self, n: usize) {
        self.node_mut(n).restart();
    }

    /// A new master without slots.
    pub fn add_master(&mut self) -> usize {
        let others = self.awake();
        let n = self.launch();
        for other in others {
            self.meet(other, n);
        }
        self.await_known(n);
        n
    }

    /// Waits until it and the others know each other and all numbers: one that took a slot under too low a number would lose
    /// it again.
    fn await_known(&self, n: usize) {
        let awake = self.awake();
        let epochs = |by: usize| {
            let lines = self.view(by).into_iter().filter(|line| line.is("master") && !line.is("fail"));
            let mut epochs: Vec<_> = lines.map(|line| (line.id, line.epoch)).collect();
            epochs.sort();
            epochs
        };
        let knows = |other: &usize| self.view(*other).iter().any(|line| line.id == self.members[n].id && line.is_up());
        let is_ok = |n: usize| self.client(n).cmd(&["CLUSTER", "INFO"]).text().contains("cluster_state:ok");
        eventually("they know each other", || {
            awake.iter().all(knows) && awake.iter().all(|other| epochs(*other) == epochs(n))
        });
        // It takes two seconds until it serves.
        eventually("it serves as the others do", || {
            is_ok(n) || !awake.iter().all(|other| *other == n || is_ok(*other))
        });
    }

    /// Takes a node out that has no slots, and ends it. Its number stays unused.
    pub fn remove(&mut self, n: usize) {
        self.kill(n);
        let id = self.id(n).to_owned();
        for other in self.awake() {
            let reply = self.client(other).cmd(&["CLUSTER", "FORGET", &id]);
            assert!(!reply.is_error() || reply.text().contains("Unknown node"), "{reply:?}");
        }
    }

    // In front of it.

    /// All nodes' addresses, as crema's URL wants them.
    pub fn url(&self) -> String {
        let seeds: Vec<String> = (0..self.len()).map(|n| format!("127.0.0.1:{}", self.said_port(n))).collect();
        format!("redis+cluster://{}", seeds.join(","))
    }

    /// A proxy in front of it, still to be started: every node by its link, where there are links.
    pub fn crema(&self) -> Launch {
        let map: Vec<String> = self
            .members
            .iter()
            .enumerate()
            .filter_map(|(n, member)| {
                let (said, link) = (self.said_port(n), member.link.as_ref()?.addr());
                Some(format!("127.0.0.1:{said}={link}"))
            })
            .collect();
        let launch = Crema::over(self.addr(0)).url(self.url());
        if map.is_empty() { launch } else { launch.flag("--cluster-node-map", map.join(",")) }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(bus) = &self.bus {
            bus.end();
        }
    }
}

/// A slot on its way.
pub struct Move<'a> {
    cluster: &'a Cluster,
    pub slot: u16,
    pub from: usize,
    pub to: usize,
}

impl Move<'_> {
    /// Moves these keys, those of them that there are.
    pub fn migrate_keys(&self, keys: &[Vec<u8>]) {
        let port = self.cluster.node(self.to).port().to_string();
        let mut command: Vec<&[u8]> = vec![b"MIGRATE", b"127.0.0.1", port.as_bytes(), b"", b"0", b"5000", b"KEYS"];
        command.extend(keys.iter().map(Vec::as_slice));
        let reply = self.cluster.client(self.from).cmd(&command);
        assert!(!reply.is_error(), "{reply:?}");
    }

    /// Moves the keys that are left, those that come in meanwhile included.
    pub fn migrate(&self) {
        let mut client = self.cluster.client(self.from);
        loop {
            let keys = client.cmd(&["CLUSTER", "GETKEYSINSLOT", &self.slot.to_string(), "100"]);
            let keys: Vec<Vec<u8>> = keys.items().iter().map(|key| key.text().into_bytes()).collect();
            if keys.is_empty() {
                return;
            }
            self.migrate_keys(&keys);
        }
    }

    /// Makes the new owner known: to itself first, then to the old one, then to the other masters.
    pub fn finish(self) {
        let others = self.cluster.awake().into_iter().filter(|n| *n != self.to && *n != self.from);
        let others = others.filter(|n| self.cluster.is_master(*n)).collect::<Vec<_>>();
        for n in [self.to, self.from].into_iter().chain(others) {
            self.settle_at(n);
        }
    }

    /// Makes the new owner known to one node.
    pub fn settle_at(&self, n: usize) {
        let id = self.cluster.id(self.to);
        let reply = self.cluster.client(n).cmd(&["CLUSTER", "SETSLOT", &self.slot.to_string(), "NODE", id]);
        // Whoever lost its last slot is a replica by now, which may not be told.
        let is_replica = ["replica", "only with masters"].iter().any(|says| reply.text().contains(says));
        assert!(reply == ok() || is_replica, "{reply:?}");
    }
}

impl Line {
    fn parse(text: &str) -> Line {
        let fields: Vec<&str> = text.split(' ').collect();
        let [id, _, flags, master, _, _, epoch, _, slots @ ..] = &fields[..] else { panic!("a node: {text}") };
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("a slot: {text}"));
        let range = |slots: &&&str| !slots.starts_with('[');
        Line {
            id: (*id).to_owned(),
            flags: flags.split(',').map(str::to_owned).collect(),
            master: (*master != "-").then(|| (*master).to_owned()),
            epoch: epoch.parse().expect("an epoch is a number"),
            slots: slots
                .iter()
                .filter(range)
                .map(|slots| {
                    let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
                    number(first)..=number(last)
                })
                .collect(),
        }
    }

    pub fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|known| known == flag)
    }

    pub fn has(&self, slot: u16) -> bool {
        self.slots.iter().any(|range| range.contains(&slot))
    }

    fn is_up(&self) -> bool {
        !["fail", "fail?", "handshake", "noaddr"].iter().any(|flag| self.is(flag))
    }
}

impl Display for Failover {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self:?}")
    }
}

/// The slots of each of so many masters.
fn shares(masters: usize) -> impl Iterator<Item = RangeInclusive<u16>> {
    let masters = u16::try_from(masters).expect("few masters");
    let edge = move |n: u16| u16::try_from(u32::from(n) * u32::from(SLOTS) / u32::from(masters)).expect("a slot");
    (0..masters).map(move |n| edge(n)..=edge(n + 1) - 1)
}

/// The slot of a key, as the specification of Redis Cluster has it.
pub fn slot_of(key: &str) -> u16 {
    let hashed = match key.split_once('{').and_then(|(_, rest)| rest.split_once('}')) {
        Some((tag, _)) if !tag.is_empty() => tag,
        _ => key,
    };
    let crc = hashed.bytes().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| crc << 1 ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 })
    });
    crc % SLOTS
}

/// Names of keys that all lie in one of these slots.
pub fn keys_in(slots: RangeInclusive<u16>, prefix: &str) -> impl Iterator<Item = String> + use<> {
    let prefix = prefix.to_owned();
    (0u32..).map(move |n| format!("{prefix}{n}")).filter(move |key| slots.contains(&slot_of(key)))
}

/// The name of a key in that slot.
pub fn key_in(slot: u16, prefix: &str) -> String {
    keys_in(slot..=slot, prefix).next().expect("there are many names")
}
