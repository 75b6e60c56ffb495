//! The board of a master: which of its replicas may answer reads at present, as its watch has found; and what workers want of it.
//!
//! What is on it is published whole. Workers look for each read that could go to a replica, where replicas are read at all.
//!
//! Holds contract points 3 (own writes), 4 (others' writes soon) and 8 (no leaks).

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::statement::SlotClaims;
use crate::clock::Time;
use crate::config::Endpoint;
use crate::upstream::Node;

/// Who looked for a replica so long ago may look again.
pub(super) const WANTED: Duration = Duration::from_secs(2);
/// Rights of more users are not compared.
const USERS: usize = 1024;

/// See the module's head. Each node has one; only a master's is ever written.
pub(crate) struct ReplicaBoard {
    leases: Mutex<Arc<ReplicaLeases>>,
    /// Where replicas are said to be.
    known: watch::Sender<Vec<Endpoint>>,
    /// Users who would read from replicas, and when they last did.
    users: Mutex<HashMap<Box<[u8]>, Time>>,
    /// When somebody last looked for one.
    wanted: AtomicU64,
    nudge: Notify,
}

/// What may be read where.
#[derive(Default)]
pub(crate) struct ReplicaLeases {
    /// Those that there are, with what is known of each.
    pub(crate) replicas: Vec<LeasedReplica>,
    /// In a cluster, of which slots that holds.
    pub(crate) claims: Option<Arc<SlotClaims>>,
}

/// One replica.
pub(crate) struct LeasedReplica {
    pub(crate) node: Arc<Node>,
    /// Which server stood behind the address.
    pub(super) generation: u64,
    /// The last moment of its master that it has reached, if any.
    pub(crate) reached: Option<Time>,
    /// From when its lease lasts: it had reached that moment, and the master was the master then; none: it has no lease.
    pub(super) since: Option<Time>,
    /// How many bytes it was behind when both were asked last.
    pub(crate) lag: u64,
    /// Users who had the same rights there and at the master, and when these were asked for.
    pub(super) users: Arc<HashMap<Box<[u8]>, Time>>,
}

impl LeasedReplica {
    /// How long it may answer yet.
    pub(crate) fn left(&self, max_staleness: Duration, now: Time) -> Duration {
        let is_same = self.node.generation.number() == self.generation && !self.node.is_gone();
        let since = self.since.filter(|_| is_same);
        since.map_or(Duration::ZERO, |since| since.plus(max_staleness).saturating_since(now))
    }

    /// Whether it has all that its master had at that moment.
    pub(crate) fn has_reached(&self, moment: Time) -> bool {
        self.reached.is_some_and(|reached| reached >= moment)
    }

    /// Whether this user had the same rights there as at the master, asked at that moment or later.
    pub(crate) fn serves(&self, user: &[u8], since: Time) -> bool {
        self.users.get(user).is_some_and(|&asked| asked >= since)
    }
}

impl Default for ReplicaBoard {
    fn default() -> Self {
        Self {
            leases: Mutex::default(),
            known: watch::Sender::default(),
            users: Mutex::default(),
            wanted: AtomicU64::new(0),
            nudge: Notify::new(),
        }
    }
}

impl ReplicaBoard {
    /// What may be read where at present.
    pub(crate) fn leases(&self) -> Arc<ReplicaLeases> {
        Arc::clone(&self.lock())
    }

    /// That is so from now on.
    pub(super) fn publish(&self, leases: ReplicaLeases) {
        *self.lock() = Arc::new(leases);
    }

    /// Nothing may be read at any replica before more is known.
    pub(crate) fn end(&self) {
        *self.lock() = Arc::default();
    }

    fn lock(&self) -> MutexGuard<'_, Arc<ReplicaLeases>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The master's replicas are said to be here.
    pub(crate) fn learn(&self, replicas: &[Endpoint]) {
        self.known.send_if_modified(|known| {
            let is_news = known != replicas;
            if is_news {
                *known = replicas.to_vec();
            }
            is_news
        });
    }

    /// Where they are said to be, as that changes.
    pub(super) fn known(&self) -> watch::Receiver<Vec<Endpoint>> {
        self.known.subscribe()
    }

    /// This user would read from a replica, and is `known` to those who compare rights, or not.
    pub(crate) fn want(&self, user: &[u8], known: bool, now: Time) {
        let before = Time::from_nanos(self.wanted.load(Ordering::Relaxed));
        // Once a millisecond is often enough, and leaves the cache line alone otherwise.
        if !known || now.saturating_since(before) > Duration::from_millis(1) {
            self.wanted.store(now.as_nanos(), Ordering::Relaxed);
            let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(last) = users.get_mut(user) {
                *last = now;
            } else if users.len() < USERS {
                users.insert(user.into(), now);
            }
        }
    }

    /// Somebody would read from a replica, if what is known were newer.
    pub(crate) fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Returns once somebody would. Cancel safe.
    pub(super) async fn nudged(&self) {
        self.nudge.notified().await;
    }

    /// Whether somebody reads from replicas, or would.
    pub(crate) fn is_in_use(&self) -> bool {
        self.is_wanted(WANTED, Time::now())
    }

    /// Whether somebody has looked for a replica in the last `span`.
    fn is_wanted(&self, span: Duration, now: Time) -> bool {
        let wanted = Time::from_nanos(self.wanted.load(Ordering::Relaxed));
        wanted > Time::ZERO && now.saturating_since(wanted) < span
    }

    /// Those who would read from a replica, and have in the last `span`.
    pub(super) fn users(&self, span: Duration, now: Time) -> Vec<Box<[u8]>> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, last| now.saturating_since(*last) < span);
        users.keys().cloned().collect()
    }
}

impl fmt::Debug for ReplicaBoard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplicaBoard({})", self.leases().replicas.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Time = |ms| Time::from_nanos((1 << 40) + ms * 1_000_000);
    const STALE: Duration = Duration::from_millis(200);

    fn leased(since: Option<u64>) -> LeasedReplica {
        let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port: 1 };
        let node = Arc::new(Node::new(endpoint, 1, Duration::from_secs(1)));
        let users = Arc::new([(Box::from(&b"app"[..]), AT(5))].into());
        LeasedReplica {
            generation: node.generation.number(),
            node,
            reached: since.map(AT),
            since: since.map(AT),
            lag: 0,
            users,
        }
    }

    #[test]
    fn a_lease_lasts_from_the_moment_that_was_reached() {
        let replica = leased(Some(10));
        assert_eq!(replica.left(STALE, AT(10)), STALE);
        assert_eq!(replica.left(STALE, AT(209)), Duration::from_millis(1));
        assert_eq!(replica.left(STALE, AT(210)), Duration::ZERO);
        assert_eq!(leased(None).left(STALE, AT(0)), Duration::ZERO);
        assert!(replica.has_reached(AT(10)) && !replica.has_reached(AT(11)) && !leased(None).has_reached(Time::ZERO));
    }

    #[test]
    fn a_server_that_has_taken_the_address_has_no_lease() {
        let replica = leased(Some(10));
        replica.node.leave();
        assert_eq!(replica.left(STALE, AT(11)), Duration::ZERO);
    }

    #[test]
    fn a_user_is_served_whose_rights_were_compared_since() {
        let replica = leased(Some(10));
        assert!(
            replica.serves(b"app", AT(5)) && !replica.serves(b"app", AT(6)) && !replica.serves(b"other", Time::ZERO)
        );
    }

    #[test]
    fn what_is_wanted_is_known_for_a_while() {
        let board = ReplicaBoard::default();
        assert!(!board.is_wanted(STALE, AT(1)) && board.users(STALE, AT(1)).is_empty());
        board.want(b"app", true, AT(1));
        assert!(board.is_wanted(STALE, AT(200)) && !board.is_wanted(STALE, AT(201)));
        assert_eq!((board.users(STALE, AT(200)).len(), board.users(STALE, AT(201)).len()), (1, 0));
    }

    #[test]
    fn what_ends_is_gone_at_once() {
        let board = ReplicaBoard::default();
        board.publish(ReplicaLeases { replicas: vec![leased(Some(1))], claims: None });
        assert_eq!(board.leases().replicas.len(), 1);
        board.end();
        assert!(board.leases().replicas.is_empty());
    }
}
