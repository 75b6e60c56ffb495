//! Three masters and the replicas of two of them, as Redis elects (`cluster.c` of 7.0: `clusterSendFailoverAuthIfNeeded`,
//! `clusterHandleSlaveFailover`, `clusterProcessPacket`).
//!
//! Whatever can be late is: a message is one step of its receiver, taken at any time or never, so cuts, freezes and delays need no
//! steps of their own. A candidate may stand at any time, which stands for failures, `FAILOVER` and `FAILOVER FORCE` alike. Every
//! number has its origin in a replica that stands, so that masters need not hear it from each other.

/// The master in question, of shard 0.
pub const A: usize = 0;
/// The master of shard 1.
pub const B: usize = 1;
/// The master of shard 2, which has no replica.
pub const C: usize = 2;
/// The replica of A.
pub const R: usize = 3;
/// The replica of B.
pub const Q: usize = 4;
/// All of them.
pub const NODES: [usize; 5] = [A, B, C, R, Q];

/// Who elects.
pub const MASTERS: usize = 3;
/// A majority of them.
pub const MAJORITY: usize = 2;

/// One server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Node {
    /// Whether it takes itself for a master.
    pub master: bool,
    /// The latest election that it knows of: `cluster_current_epoch`.
    pub epoch: u8,
    /// The election that made it a master: `cluster_my_epoch`.
    pub claim: u8,
    /// The latest election in which it has voted.
    voted: u8,
    /// The election in which it stands, if any.
    stands: u8,
    /// The masters, as it knows them, that have voted for it: a set of bits.
    votes: u8,
    /// It knows that the other replica has become a master.
    knows_other: bool,
}

/// All of them, by number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cluster(pub [Node; 5]);

/// What can happen among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A replica stands for election.
    Stand(usize),
    /// The first votes for the second.
    Vote(usize, usize),
    /// A candidate with enough votes becomes a master, and takes writes.
    Win(usize),
    /// The first hears from the second.
    Hear(usize, usize),
    /// An operator makes a replica a master; nobody votes.
    TakeOver(usize),
}

impl Cluster {
    /// As it was made.
    pub fn new() -> Self {
        Self(NODES.map(|node| Node { master: node <= C, ..Node::default() }))
    }

    /// Whether another than A has acknowledged writes to A's keys. The step that makes it a master stands for the first of them.
    pub fn is_written_elsewhere(&self) -> bool {
        self.0[R].master
    }

    /// Nobody stands in this election or an earlier one any more.
    pub fn outlive(&mut self, epoch: u8) {
        for node in self.0.iter_mut().filter(|node| node.stands <= epoch) {
            (node.stands, node.votes) = (0, 0);
        }
    }

    /// What can happen next, in so many elections at most.
    pub fn events(&self, elections: u8, takeover: bool) -> impl Iterator<Item = Event> {
        let of = move |replica: usize, other: usize| {
            let own =
                [Event::Stand(replica), Event::Win(replica), Event::TakeOver(replica), Event::Hear(replica, other)];
            let masters = [A, B, C].into_iter();
            let heard = masters.clone().map(move |master| Event::Hear(master, replica));
            let votes = masters.chain([other]).map(move |voter| Event::Vote(voter, replica));
            own.into_iter().chain(heard).chain(votes)
        };
        of(R, Q).chain(of(Q, R)).filter(move |&event| self.may(event, elections, takeover))
    }

    fn may(&self, event: Event, elections: u8, takeover: bool) -> bool {
        let nodes = &self.0;
        match event {
            Event::Stand(node) => !nodes[node].master && nodes[node].epoch < elections,
            Event::Vote(voter, candidate) => {
                let (node, stands) = (&nodes[voter], nodes[candidate].stands);
                stands > 0 && node.master && node.voted < stands && node.epoch <= stands
            }
            Event::Win(node) => nodes[node].stands > 0 && nodes[node].votes.count_ones() as usize >= MAJORITY,
            Event::Hear(..) => true,
            Event::TakeOver(node) => takeover && !nodes[node].master && nodes[node].epoch < elections,
        }
    }

    /// Has it happen.
    pub fn apply(&mut self, event: Event) {
        let nodes = &mut self.0;
        match event {
            Event::Stand(node) => {
                let node = &mut nodes[node];
                node.epoch += 1;
                (node.stands, node.votes) = (node.epoch, 0);
            }
            Event::Vote(voter, candidate) => {
                let epoch = nodes[candidate].stands;
                (nodes[voter].voted, nodes[voter].epoch) = (epoch, epoch);
                let is_master = match voter {
                    B => candidate == Q || !nodes[R].knows_other,
                    A => candidate == R || !nodes[Q].knows_other,
                    C => true,
                    _ => nodes[candidate].knows_other,
                };
                nodes[candidate].votes |= u8::from(is_master) << voter;
            }
            Event::Win(node) => {
                let epoch = nodes[node].stands;
                nodes[node].promote(epoch);
            }
            Event::TakeOver(node) => {
                nodes[node].epoch += 1;
                let epoch = nodes[node].epoch;
                nodes[node].promote(epoch);
            }
            Event::Hear(node, from) => {
                let (epoch, master) = (nodes[from].epoch, nodes[from].master);
                let to = &mut nodes[node];
                to.epoch = to.epoch.max(epoch);
                to.knows_other |= node > C && master;
                // Whoever is replaced becomes the replica of its successor.
                to.master &= !(master && [(A, R), (B, Q)].contains(&(node, from)));
            }
        }
    }
}

impl Node {
    fn promote(&mut self, epoch: u8) {
        (self.master, self.claim, self.stands, self.votes) = (true, epoch, 0, 0);
    }
}
