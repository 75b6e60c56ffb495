//! The watch over a master's replicas: it asks all of them how far they are, and publishes what that allows.
//!
//! A round begins with the master, and then each replica is asked, again until it has reached what the master said or the next round
//! begins. There are four rounds in `max_staleness` while somebody reads, and one at once where somebody is missing it; none while
//! nobody does. Rights are compared as well: a replica knows users of its own, and what a user may read there says nothing of what
//! it may read at the master. One task for each master and one for each replica, on the control thread.
//!
//! Holds contract points 3 (own writes), 4 (others' writes soon) and 8 (no leaks).

use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info};

use super::board::{LeasedReplica, ReplicaLeases, WANTED};
use super::ledger::ReplicationLedger;
use super::statement::{ReplicationStatement, SlotClaims};
use crate::clock::{LiveSpan, Time};
use crate::config::{Endpoint, NodeMap};
use crate::metrics::Need;
use crate::resp::{Resp, encode};
use crate::upstream::cluster::Listing;
use crate::upstream::{Backoff, Connection, Node, Target, connect, read_reply};

/// More replicas of one master are not asked.
const MOST: usize = 64;
/// An answer may take so long, or `max_staleness` if that is longer.
const PATIENCE: Duration = Duration::from_millis(100);
/// A replica that is behind is asked again after a pause that doubles, and so often in one round.
const AGAIN: Duration = Duration::from_millis(1);
const TIMES: u32 = 8;

/// What a lease depends on.
#[derive(Clone)]
pub(crate) struct ReplicaTerms {
    pub(crate) max_staleness: Arc<LiveSpan>,
    pub(crate) acl_recheck: Duration,
    /// Where a cluster's nodes are.
    pub(crate) node_map: NodeMap,
    pub(crate) is_cluster: bool,
}

/// See the module's head. One for each master.
pub(crate) struct ReplicaWatch {
    master: Arc<Node>,
    make: Box<NodeMaker>,
    shared: Arc<WatchShared>,
    rounds: watch::Sender<u64>,
    asked: BTreeMap<Endpoint, AbortHandle>,
    tasks: JoinSet<()>,
}

/// Gives the node at an address.
type NodeMaker = dyn Fn(&Endpoint) -> Arc<Node> + Send + Sync;
/// A user, with what the master says of it and when that was asked.
type ToldRights = (Box<[u8]>, (Time, Vec<u8>));

/// What the tasks of one watch share.
struct WatchShared {
    master: Arc<Node>,
    terms: ReplicaTerms,
    state: Mutex<WatchRecords>,
}

#[derive(Default)]
struct WatchRecords {
    ledger: ReplicationLedger,
    /// What the master says of users, and when it was asked.
    rights: BTreeMap<Box<[u8]>, (Time, Vec<u8>)>,
    replicas: BTreeMap<Endpoint, ReplicaRecord>,
}

/// A replica that is asked.
struct ReplicaRecord {
    node: Arc<Node>,
    generation: Option<u64>,
    users: Arc<HashMap<Box<[u8]>, Time>>,
}

/// A connection on which questions are asked.
struct QuestionLine {
    connection: Connection,
    buffer: Vec<u8>,
    patience: Duration,
}

impl ReplicaWatch {
    /// Over the replicas of `master`; `make` gives the node of one.
    pub(crate) fn new(
        master: Arc<Node>,
        make: impl Fn(&Endpoint) -> Arc<Node> + Send + Sync + 'static,
        terms: ReplicaTerms,
    ) -> Self {
        let shared = WatchShared { master: Arc::clone(&master), terms, state: Mutex::default() };
        let rounds = watch::Sender::new(0);
        Self {
            master,
            make: Box::new(make),
            shared: Arc::new(shared),
            rounds,
            asked: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Never returns. Dropped, it ends what it has begun; who drops it says that nothing is leased any more.
    pub(crate) async fn keep(mut self) {
        let mut known = self.master.replicas.known();
        let (shared, rounds) = (Arc::clone(&self.shared), self.rounds.clone());
        self.tasks.spawn(async move { shared.ask_master(&rounds).await });
        loop {
            let replicas: Vec<_> = known.borrow_and_update().iter().take(MOST).cloned().collect();
            self.appoint(&replicas);
            if known.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    /// These are all that are asked from now on.
    fn appoint(&mut self, replicas: &[Endpoint]) {
        self.asked.retain(|at, task| {
            let stays = replicas.contains(at);
            if !stays {
                task.abort();
                self.shared.dismiss(at);
            }
            stays
        });
        for at in replicas {
            if self.asked.contains_key(at) {
                continue;
            }
            let node = (self.make)(at);
            self.shared.take_on(at, &node);
            let (shared, at, rounds) = (Arc::clone(&self.shared), at.clone(), self.rounds.subscribe());
            let task = self.tasks.spawn({
                let at = at.clone();
                async move { shared.ask_replica(&at, &node, rounds).await }
            });
            self.asked.insert(at, task);
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

impl WatchShared {
    fn lock(&self) -> MutexGuard<'_, WatchRecords> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn patience(&self) -> Duration {
        PATIENCE.max(self.terms.max_staleness.get())
    }

    fn take_on(&self, at: &Endpoint, node: &Arc<Node>) {
        let record = ReplicaRecord { node: Arc::clone(node), generation: None, users: Arc::default() };
        self.lock().replicas.insert(at.clone(), record);
        self.publish();
    }

    fn dismiss(&self, at: &Endpoint) {
        let state = &mut *self.lock();
        state.replicas.remove(at);
        state.ledger.miss(at);
        self.publish_with(state);
    }

    /// What the ledger and the census allow is on the board from now on.
    fn publish(&self) {
        self.publish_with(&self.lock());
    }

    fn publish_with(&self, state: &WatchRecords) {
        let vouched = &self.master.vouched;
        let replicas = state.replicas.iter().map(|(at, record)| {
            let standing = state.ledger.standing(at);
            let reached = standing.reached.filter(|_| record.generation.is_some());
            LeasedReplica {
                node: Arc::clone(&record.node),
                generation: record.generation.unwrap_or_default(),
                reached,
                since: reached.and_then(|reached| vouched.bound(reached)),
                lag: standing.lag,
                users: Arc::clone(&record.users),
            }
        });
        let leases = ReplicaLeases { replicas: replicas.collect(), claims: state.ledger.claims().cloned() };
        self.master.replicas.publish(leases);
        // Whoever revokes does so first, and has leases ended second.
        if vouched.passed().is_none() {
            self.master.replicas.end();
        }
    }

    /// Asks the master, round by round.
    async fn ask_master(&self, rounds: &watch::Sender<u64>) {
        let board = &self.master.replicas;
        let mut backoff = Backoff::between(Duration::from_millis(20), Duration::from_secs(1));
        let (period, shortest) = (|| self.terms.max_staleness.get() / 4, || self.terms.max_staleness.get() / 64);
        loop {
            while self.lock().replicas.is_empty() || !board.is_in_use() {
                board.nudged().await;
                sleep(shortest()).await;
            }
            let mut line = match QuestionLine::open(&self.master, self.patience()).await {
                Ok(line) => line,
                Err(why) => {
                    debug!(upstream = %self.master.address, why, "the master is not asked for its offset");
                    sleep(backoff.wait()).await;
                    continue;
                }
            };
            loop {
                let begun = Instant::now();
                match self.ask_master_on(&mut line).await {
                    Ok(()) => backoff.reset(),
                    Err(error) => {
                        debug!(upstream = %self.master.address, %error, "the master does not say its offset");
                        sleep(backoff.wait()).await;
                        break;
                    }
                }
                rounds.send_modify(|round| *round += 1);
                if board.is_in_use() {
                    let _ = timeout(period(), board.nudged()).await;
                } else {
                    board.nudged().await;
                }
                sleep_until(begun + shortest()).await;
            }
        }
    }

    async fn ask_master_on(&self, line: &mut QuestionLine) -> io::Result<()> {
        let asked = Time::now();
        let users = self.users_due(asked);
        let mut questions = Vec::new();
        if self.terms.is_cluster {
            // First: keys of a slot that it lists lie before the offset.
            encode::own_command(&mut questions, &[b"CLUSTER", b"NODES"]);
        }
        encode::own_command(&mut questions, &[b"INFO", b"replication"]);
        for user in &users {
            encode::own_command(&mut questions, &[b"ACL", b"GETUSER", user]);
        }
        let mut replies = line.ask(&questions, users.len() + 1 + usize::from(self.terms.is_cluster)).await?.into_iter();
        let (needs, mut claims) = (&self.master.needs, None);
        if self.terms.is_cluster {
            let listing = replies.next().unwrap_or_default();
            needs.hear(Need::Replicas, None, &listing);
            let listing = Listing::read(&listing, &self.master.endpoint, &self.terms.node_map);
            claims = listing.map(|listing| SlotClaims::of(&listing));
        }
        let info = replies.next().unwrap_or_default();
        needs.hear(Need::Replicas, None, &info);
        let state = &mut *self.lock();
        match ReplicationStatement::read(&info) {
            Some(said) if claims.is_some() == self.terms.is_cluster => state.ledger.hear_master(&said, claims, asked),
            _ => state.ledger.void(),
        }
        users.into_iter().zip(replies).for_each(|(user, reply)| _ = state.rights.insert(user, (asked, reply)));
        self.publish_with(state);
        Ok(())
    }

    /// Users whose rights are to be asked for, twice in `acl_recheck` and as soon as they come.
    fn users_due(&self, now: Time) -> Vec<Box<[u8]>> {
        let mut users = self.master.replicas.users(self.terms.acl_recheck.max(WANTED), now);
        let state = &mut *self.lock();
        state.rights.retain(|user, _| users.contains(user));
        let is_due = |(asked, _): &(Time, Vec<u8>)| now.saturating_since(*asked) > self.terms.acl_recheck / 2;
        users.retain(|user| state.rights.get(user).is_none_or(is_due));
        users
    }

    /// Asks a replica in each round, until it is dropped.
    async fn ask_replica(&self, at: &Endpoint, node: &Arc<Node>, mut rounds: watch::Receiver<u64>) {
        let mut backoff = Backoff::between(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            if rounds.changed().await.is_err() {
                return;
            }
            let error = match QuestionLine::open(node, self.patience()).await {
                Ok(line) => self.ask_replica_on(at, line, (&mut rounds, &mut backoff)).await,
                Err(why) => why,
            };
            debug!(replica = %node.address, error, "a replica is not read from");
            self.lose(at);
            sleep(backoff.wait()).await;
        }
    }

    /// Returns why that ended.
    async fn ask_replica_on(
        &self,
        at: &Endpoint,
        mut line: QuestionLine,
        (rounds, backoff): (&mut watch::Receiver<u64>, &mut Backoff),
    ) -> String {
        let generation = line.connection.generation;
        let (mut is_first, mut has_reached) = (true, false);
        loop {
            for n in 0..TIMES {
                match self.ask_once(at, &mut line, generation).await {
                    Ok(Some(true)) => {
                        has_reached = true;
                        break;
                    }
                    Ok(None) => break,
                    Ok(Some(false)) => sleep(AGAIN * 2_u32.pow(n)).await,
                    Err(error) => return error.to_string(),
                }
                if rounds.has_changed().unwrap_or(true) {
                    break;
                }
            }
            if has_reached && std::mem::take(&mut is_first) {
                backoff.reset();
                info!(replica = %at, upstream = %self.master.address, "reads may go to a replica");
            }
            if rounds.changed().await.is_err() {
                return "its master has left".to_owned();
            }
        }
    }

    /// Whether it has reached what the master said last; none where it does not say.
    async fn ask_once(&self, at: &Endpoint, line: &mut QuestionLine, generation: u64) -> io::Result<Option<bool>> {
        let rights = self.rights_due(at);
        let mut questions = Vec::new();
        encode::own_command(&mut questions, &[b"INFO", b"replication"]);
        for (user, _) in &rights {
            encode::own_command(&mut questions, &[b"ACL", b"GETUSER", user]);
        }
        let replies = line.ask(&questions, 1 + rights.len()).await?;
        let own = self.master.login().map_or(Box::from(&b"default"[..]), |login| login.user.clone());
        let state = &mut *self.lock();
        let Some(record) = state.replicas.get_mut(at) else { return Ok(None) };
        if record.node.generation.number() != generation {
            return Err(io::Error::other("another server is there"));
        }
        record.generation = Some(generation);
        if !rights.is_empty() {
            let mut users = HashMap::clone(&record.users);
            for ((user, (asked, said)), reply) in rights.into_iter().zip(&replies[1..]) {
                if are_same_rights(&said, reply, user == own) {
                    users.insert(user, asked);
                } else {
                    users.remove(&user);
                }
            }
            users.retain(|user, _| state.rights.contains_key(user));
            record.users = Arc::new(users);
        }
        let said = ReplicationStatement::read(&replies[0]);
        if said.is_none() {
            state.ledger.miss(at);
            self.master.needs.hear(Need::Replicas, None, &replies[0]);
        }
        let reached = said.map(|said| state.ledger.hear_replica(at, &said));
        self.publish_with(state);
        Ok(reached)
    }

    /// What the master has said of users since the replica was asked.
    fn rights_due(&self, at: &Endpoint) -> Vec<ToldRights> {
        let state = &*self.lock();
        let Some(record) = state.replicas.get(at) else { return Vec::new() };
        let known = |user: &[u8]| record.users.get(user);
        let due = state.rights.iter().filter(|(user, (asked, _))| known(user).is_none_or(|known| known < asked));
        due.map(|(user, said)| (user.clone(), said.clone())).collect()
    }

    fn lose(&self, at: &Endpoint) {
        let state = &mut *self.lock();
        state.ledger.miss(at);
        if let Some(record) = state.replicas.get_mut(at) {
            (record.generation, record.users) = (None, Arc::default());
        }
        self.publish_with(state);
    }
}

/// Whether both replies to `ACL GETUSER` tell of the same rights. Where neither may be asked, what `own` crema's user may do there the
/// operator has said by naming it; and a server that knows no users knows no rights.
fn are_same_rights(master: &[u8], replica: &[u8], own: bool) -> bool {
    let is_told = |reply: &[u8]| reply.starts_with(b"*") && reply.len() > b"*-1\r\n".len();
    let knows_none = |reply: &[u8]| reply.starts_with(b"-ERR unknown command");
    let is_refused = |reply: &[u8]| reply.starts_with(b"-");
    is_told(master) && master == replica
        || knows_none(master) && knows_none(replica)
        || own && is_refused(master) && is_refused(replica)
}

impl QuestionLine {
    async fn open(node: &Arc<Node>, patience: Duration) -> Result<Self, String> {
        let target =
            Target { node: Arc::clone(node), login: node.login(), db: 0, resp: Resp::V2, name: "crema-replicas" };
        let connection = timeout(patience, connect(&target)).await.map_err(|_| "no connection in time".to_owned())?;
        Ok(Self { connection: connection.map_err(|error| error.to_string())?, buffer: Vec::new(), patience })
    }

    /// The replies to so many questions.
    async fn ask(&mut self, questions: &[u8], count: usize) -> io::Result<Vec<Vec<u8>>> {
        let asked = async {
            let socket = &mut self.connection.socket;
            socket.write_all(questions).await?;
            let mut replies = Vec::with_capacity(count);
            for _ in 0..count {
                replies.push(read_reply(socket, &mut self.buffer).await?);
            }
            Ok(replies)
        };
        timeout(self.patience, asked).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

#[cfg(test)]
mod tests {
    use super::are_same_rights;

    #[test]
    fn rights_are_the_same_where_both_say_so_or_there_are_none() {
        let (rights, other) = (&b"*2\r\n$5\r\nflags\r\n*0\r\n"[..], &b"*2\r\n$5\r\nflags\r\n*1\r\n$2\r\non\r\n"[..]);
        assert!(are_same_rights(rights, rights, false) && !are_same_rights(rights, other, true));
        assert!(!are_same_rights(b"*-1\r\n", b"*-1\r\n", false), "there is no such user");
        let (unknown, refused) = (&b"-ERR unknown command 'ACL'\r\n"[..], &b"-NOPERM no\r\n"[..]);
        assert!(are_same_rights(unknown, unknown, false) && !are_same_rights(unknown, rights, true));
        assert!(are_same_rights(refused, refused, true) && !are_same_rights(refused, refused, false));
    }
}
