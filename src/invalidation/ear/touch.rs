//! Telling Redis which keys L1 serves, where Redis evicts those that were not used for long (LRU) or not often (LFU).
//!
//! A key that L1 answers is never read at Redis, looks idle there, and would be the first to go, the hottest of all. So what
//! was hit since the last round is sent as TOUCH: every ten seconds, a hundred keys a command, ten commands a second, and only
//! where `INFO memory` tells of a policy that makes use of it. It is optional work: a user that may not is left alone, and
//! where more was hit than fits, chance chooses and the rest comes next. Done by the ear, for it knows the databases; the keys are
//! collected by whoever runs it, on a thread where nobody waits.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::cache::{Epoch, Identity, Store};
use crate::clock::Time;
use crate::command::HashSlot;
use crate::upstream::redirect_of;

/// From the beginning of one round to that of the next.
const ROUND: Duration = Duration::from_secs(10);
/// From one command to the next.
const PACE: Duration = Duration::from_millis(100);
/// Keys a command.
const BATCH: usize = 100;
/// Keys a round: as many as there is time for.
const MOST: usize = 10_000;

/// The rounds of one connection of an ear.
#[derive(Debug)]
pub(super) struct Touches {
    /// The databases of the identities that the ear has filled for.
    databases: HashMap<Identity, u32>,
    /// When the last round began, and the last command was sent.
    begun: Time,
    sent: Time,
    /// The keys are being collected.
    collecting: bool,
    /// Those still to be sent.
    batches: Vec<TouchBatch>,
    /// The user may not ask or not touch.
    forbidden: bool,
}

/// Keys of one database, for one command.
#[derive(Debug, PartialEq, Eq)]
pub struct TouchBatch {
    pub(super) db: u32,
    pub(super) keys: Vec<Box<[u8]>>,
}

/// Whose keys are to be collected.
#[derive(Debug)]
pub struct HitKeys {
    databases: HashMap<Identity, u32>,
    /// Only of this ear's: where there are several nodes, each is told of its own keys.
    ear: Option<Epoch>,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TouchStep {
    /// Nothing.
    Rest,
    /// A round begins: Redis is asked whether it makes use of it.
    AskPolicy,
    /// These are sent.
    Send(Vec<TouchBatch>),
}

impl Touches {
    /// The first round begins a while from `now`.
    pub(super) fn new(now: Time) -> Self {
        let (databases, batches) = (HashMap::new(), Vec::new());
        Self { databases, begun: now, sent: now, collecting: false, batches, forbidden: false }
    }

    /// The ear fills for this identity, in this database.
    pub(super) fn fills_for(&mut self, identity: Identity, db: u32) {
        self.databases.insert(identity, db);
    }

    /// What is due. To be called a few times a second; `kept`: there are entries.
    pub(super) fn step(&mut self, now: Time, kept: bool) -> TouchStep {
        if self.forbidden || self.collecting {
            return TouchStep::Rest;
        }
        if self.batches.is_empty() {
            if !kept || now.saturating_since(self.begun) < ROUND {
                return TouchStep::Rest;
            }
            self.begun = now;
            return TouchStep::AskPolicy;
        }
        let due = now.saturating_since(self.sent).as_millis() / PACE.as_millis();
        if due == 0 {
            return TouchStep::Rest;
        }
        self.sent = now;
        let due = self.batches.len().min(due.min(10) as usize);
        TouchStep::Send(self.batches.drain(self.batches.len() - due..).rev().collect())
    }

    /// The answer to `INFO memory`: whose keys are to be collected, where Redis makes use of it.
    /// `ear`: only of entries of this epoch.
    pub(super) fn hear_policy(&mut self, reply: &[u8], ear: Option<Epoch>) -> Option<HitKeys> {
        if reply.first() == Some(&b'-') {
            self.forbid();
            return None;
        }
        if self.collecting || !evicts_by_use(reply) {
            return None;
        }
        self.collecting = true;
        Some(HitKeys { databases: self.databases.clone(), ear })
    }

    /// They are collected.
    pub(super) fn collected(&mut self, batches: Vec<TouchBatch>, now: Time) {
        (self.collecting, self.batches, self.sent) = (false, batches, now);
    }

    /// The answer to TOUCH: how many of the keys there were.
    pub(super) fn hear_touched(&mut self, reply: &[u8]) -> u64 {
        if redirect_of(reply).is_some() {
            return 0; // the key's slot has left, or is about to
        }
        let count = reply.strip_prefix(b":").and_then(|count| std::str::from_utf8(count).ok()?.trim_end().parse().ok());
        count.unwrap_or_else(|| {
            self.forbid();
            0
        })
    }

    fn forbid(&mut self) {
        self.forbidden = true;
        self.batches.clear();
    }
}

impl TouchBatch {
    /// Parts whose keys may go in one command: in a cluster, those of one slot.
    pub(super) fn parts(&self, is_cluster: bool) -> impl Iterator<Item = &[Box<[u8]>]> {
        self.keys.chunk_by(move |one, other| !is_cluster || HashSlot::of(one) == HashSlot::of(other))
    }
}

impl HitKeys {
    /// Collects what was hit since the last time. There can be millions of entries: not to be called where anybody waits.
    pub fn collect(&self, store: &Store) -> Vec<TouchBatch> {
        let mut keys: BTreeMap<u32, Vec<Box<[u8]>>> = BTreeMap::new();
        let Self { databases, ear } = self;
        for (identity, key) in store.take_hits(|identity| databases.contains_key(&identity), *ear, MOST) {
            keys.entry(databases[&identity]).or_default().push(key);
        }
        let batches = |(db, mut keys): (u32, Vec<Box<[u8]>>)| {
            // The same key, hit under several commands.
            keys.sort_unstable();
            keys.dedup();
            let batches: Vec<_> = keys.chunks(BATCH).map(|keys| TouchBatch { db, keys: keys.to_vec() }).collect();
            batches
        };
        keys.into_iter().flat_map(batches).collect()
    }
}

/// Whether Redis chooses what to evict by when, or how often, it was used.
fn evicts_by_use(info: &[u8]) -> bool {
    let info = String::from_utf8_lossy(info);
    let value = |name: &str| info.lines().find_map(|line| line.trim_end().strip_prefix(name));
    value("maxmemory:").is_some_and(|limit| limit != "0")
        && value("maxmemory_policy:").is_some_and(|policy| policy.ends_with("-lru") || policy.ends_with("-lfu"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_limit_with_a_policy_of_use_makes_use_of_it() {
        let info = |limit, policy| {
            format!("=99\r\ntxt:# Memory\r\nused_memory:9\r\nmaxmemory:{limit}\r\nmaxmemory_policy:{policy}\r\n\r\n")
        };
        for policy in ["allkeys-lru", "volatile-lru", "allkeys-lfu", "volatile-lfu"] {
            assert!(evicts_by_use(info(1000, policy).as_bytes()));
            assert!(!evicts_by_use(info(0, policy).as_bytes()));
        }
        for policy in ["noeviction", "allkeys-random", "volatile-ttl"] {
            assert!(!evicts_by_use(info(1000, policy).as_bytes()));
        }
        assert!(!evicts_by_use(b"-NOPERM"));
    }
    const LRU: &[u8] = b"=9\r\ntxt:# Memory\r\nmaxmemory:1\r\nmaxmemory_policy:allkeys-lru\r\n";

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    fn batches(n: u8) -> Vec<TouchBatch> {
        (0..n).map(|n| TouchBatch { db: 0, keys: vec![[n].into()] }).collect()
    }

    #[test]
    fn a_round_asks_collects_and_sends_at_its_pace() {
        let mut touches = Touches::new(at(0));
        assert_eq!(touches.step(at(9_999), true), TouchStep::Rest);
        assert_eq!(touches.step(at(10_000), false), TouchStep::Rest, "there is nothing");
        assert_eq!(touches.step(at(10_000), true), TouchStep::AskPolicy);
        assert!(touches.hear_policy(LRU, None).is_some());
        assert!(touches.hear_policy(LRU, None).is_none(), "one at a time");
        assert_eq!(touches.step(at(30_000), true), TouchStep::Rest, "not collected yet");
        touches.collected(batches(15), at(30_000));
        let sent = |touches: &mut Touches, now| match touches.step(at(now), true) {
            TouchStep::Send(batches) => batches.len(),
            _ => 0,
        };
        assert_eq!(sent(&mut touches, 30_099), 0);
        assert_eq!(sent(&mut touches, 30_250), 2);
        assert_eq!(sent(&mut touches, 90_000), 10, "no more however late it is");
        assert_eq!(sent(&mut touches, 91_000), 3);
        assert_eq!(touches.hear_touched(b":7\r\n"), 7);
        assert_eq!(touches.step(at(92_000), true), TouchStep::AskPolicy);
        assert!(touches.hear_policy(b"=9\r\ntxt:# Memory\r\nmaxmemory:0\r\n", None).is_none());
        assert_eq!(touches.step(at(93_000), true), TouchStep::Rest);
    }

    #[test]
    fn who_may_not_ask_or_touch_is_left_alone() {
        let mut asks = Touches::new(at(0));
        assert!(asks.hear_policy(b"-NOPERM no\r\n", None).is_none());
        assert_eq!(asks.step(at(60_000), true), TouchStep::Rest);
        let mut touches = Touches::new(at(0));
        assert!(touches.hear_policy(LRU, None).is_some());
        touches.collected(batches(2), at(0));
        assert_eq!(touches.hear_touched(b"-NOPERM no\r\n"), 0);
        assert_eq!(touches.step(at(60_000), true), TouchStep::Rest);
    }

    #[test]
    fn in_a_cluster_a_command_names_keys_of_one_slot_and_a_redirect_is_no_refusal() {
        let keys = [&b"{a}1"[..], b"{a}2", b"b"].map(Box::from).to_vec();
        let batch = TouchBatch { db: 0, keys };
        let parts = |is_cluster| batch.parts(is_cluster).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!((parts(false), parts(true)), (vec![3], vec![2, 1]));
        let mut touches = Touches::new(at(0));
        assert_eq!(touches.hear_touched(b"-MOVED 1 127.0.0.1:7000\r\n"), 0);
        assert!(touches.hear_policy(LRU, None).is_some());
    }
}
