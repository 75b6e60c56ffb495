//! Telling Redis which keys L1 serves, where Redis evicts those that were not used for long (LRU) or not often (LFU).
//!
//! A key that L1 answers is never read at Redis, looks idle there, and would be the first to go, the hottest of all. So what
//! was hit since the last round is sent as TOUCH: every ten seconds, a hundred keys a command, ten commands a second, and only
//! where `INFO memory` tells of a policy that makes use of it. It is optional work: a user that may not is left alone, and
//! where more was hit than fits, chance chooses and the rest comes next. Done by the ear, for it knows the databases.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot::{self, error::TryRecvError};

use super::hearing::{Awaited, Hearing};
use crate::cache::{Identity, Store};
use crate::clock::Time;

/// From the beginning of one round to that of the next.
const ROUND: Duration = Duration::from_secs(10);
/// From one command to the next.
const PACE: Duration = Duration::from_millis(100);
/// Keys a command.
const BATCH: usize = 100;
/// Keys a round: as many as there is time for.
const MOST: usize = 10_000;

/// The rounds of one connection of an ear.
pub(super) struct Touches {
    /// The databases of the identities that the ear has filled for.
    databases: HashMap<Identity, u32>,
    /// When the last round began, and the last command was sent.
    begun: Time,
    sent: Time,
    /// The keys that are being collected, and those still to be sent.
    collecting: Option<oneshot::Receiver<Vec<Batch>>>,
    batches: Vec<Batch>,
    /// The user may not ask or not touch.
    forbidden: bool,
}

/// Keys of one database.
struct Batch {
    db: u32,
    keys: Vec<Box<[u8]>>,
}

impl Touches {
    /// The first round begins a while from `now`.
    pub(super) fn new(now: Time) -> Self {
        let (databases, batches) = (HashMap::new(), Vec::new());
        Self { databases, begun: now, sent: now, collecting: None, batches, forbidden: false }
    }

    /// The ear fills for this identity, in this database.
    pub(super) fn fills_for(&mut self, identity: Identity, db: u32) {
        self.databases.insert(identity, db);
    }

    fn forbid(&mut self) {
        self.forbidden = true;
        self.batches.clear();
    }
}

impl Hearing<'_> {
    /// Does what is due. To be called a few times a second.
    pub(super) fn touch(&mut self, now: Time) {
        let touches = &mut self.touches;
        if touches.forbidden {
            return;
        }
        if let Some(collecting) = &mut touches.collecting {
            match collecting.try_recv() {
                Ok(batches) => touches.batches = batches,
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Closed) => {}
            }
            (touches.collecting, touches.sent) = (None, now);
        }
        if touches.batches.is_empty() {
            if now.saturating_since(touches.begun) >= ROUND && !self.l1.store.is_empty() {
                touches.begun = now;
                self.send(&[b"INFO", b"memory"], Awaited::Memory, now);
            }
            return;
        }
        let due = now.saturating_since(touches.sent).as_millis() / PACE.as_millis();
        if due > 0 {
            touches.sent = now;
        }
        for _ in 0..due.min(10) {
            let Some(Batch { db, keys }) = self.touches.batches.pop() else { return };
            self.select(db, now);
            let command: Vec<&[u8]> = std::iter::once(&b"TOUCH"[..]).chain(keys.iter().map(|key| &**key)).collect();
            self.send(&command, Awaited::Touched, now);
        }
    }

    /// The answer to `INFO memory`: begins to collect what was hit, where Redis makes use of it.
    pub(super) fn hear_memory(&mut self, reply: &[u8], refused: bool) {
        if refused {
            return self.touches.forbid();
        }
        if evicts_by_use(reply) {
            let (l1, databases) = (Arc::clone(self.l1), self.touches.databases.clone());
            let (told, collected) = oneshot::channel();
            self.touches.collecting = Some(collected);
            // There can be millions of entries, and the ear must not wait. If it is lost meanwhile, nobody listens.
            self.l1.control.spawn_blocking(move || drop(told.send(collect(&l1.store, &databases))));
        }
    }

    /// The answer to TOUCH: how many of the keys there were.
    pub(super) fn hear_touched(&mut self, reply: &[u8]) {
        match reply.strip_prefix(b":").and_then(|count| std::str::from_utf8(count).ok()?.trim_end().parse().ok()) {
            Some(count) => self.l1.stats.touched.add(count),
            None => self.touches.forbid(),
        }
    }
}

fn collect(store: &Store, databases: &HashMap<Identity, u32>) -> Vec<Batch> {
    let mut keys: HashMap<u32, Vec<Box<[u8]>>> = HashMap::new();
    for (identity, key) in store.take_hits(|identity| databases.contains_key(&identity), MOST) {
        keys.entry(databases[&identity]).or_default().push(key);
    }
    let batches = |(db, mut keys): (u32, Vec<Box<[u8]>>)| {
        // The same key, hit under several commands.
        keys.sort_unstable();
        keys.dedup();
        let batches: Vec<_> = keys.chunks(BATCH).map(|keys| Batch { db, keys: keys.to_vec() }).collect();
        batches
    };
    keys.into_iter().flat_map(batches).collect()
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
}
