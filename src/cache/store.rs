//! L1 itself: an index that hits read, and Moka, which decides what stays in it.
//!
//! A `get` of Moka costs several times what the whole hit may, so a hit reads a [`DashMap`] and touches Moka only often
//! enough to keep its frequencies true ([`Sampler`]). Moka keeps a small ticket per entry, never the entry: what leaves L1 is
//! freed at once and not when Moka's deferred reclamation gets to it.
//!
//! Which of the two has what:
//! - an entry goes into the index first and to Moka second, so whatever Moka holds has been in the index;
//! - whenever Moka lets go of a ticket, for size, age or a newer ticket, its listener removes from the index the entry with that
//!   very serial number and no other. So every entry in the index is in Moka, or on its way there, and is counted in its weight;
//! - but where threads put tickets of one hash at the same time, Moka may tell of an older one than it has let go of. Such an
//!   entry has no ticket; [`Store::run_pending`] looks for them once their weight shows;
//! - a ticket whose entry has left the index is dead weight until the next miss of its hash, eviction or expiry finds it.
//!
//! **Nothing here may call Moka while it holds a guard of the index**: Moka may run its listener in any call, and that locks
//! the index. Removing is never needed for correctness (see [`cache`](super)), so all of this may be late, but must not leak.
//!
//! Called by `proxy` (lookup), `invalidation` (insert) and one owner that calls [`Store::run_pending`] each second.
//!
//! A long file: the index, the policy and what keeps the two together are one invariant.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use moka::Expiry;
use moka::notification::RemovalCause;
use moka::sync::Cache;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use smallvec::SmallVec;

use super::ballast::Ballast;
use super::doorkeeper::Doorkeeper;
use super::entry::{Entry, Terms, Verdict};
use super::key::{AsIs, Identity, Query};
use super::lease::{Epoch, Freshness};
use super::stamp::{Stamp, Stamps};
use crate::clock::Time;
use crate::metrics::SharedCounter;
use crate::resp::{Resp, encode};

/// What an entry costs beside its own allocation, measured as memory of the process (`make bench`): a slot of the index right
/// after its table has doubled (39 bytes), and Moka's key, value, links, timer and share of its frequency sketch.
const OVERHEAD: u64 = 400;
/// What an empty store takes.
const FIXED: u64 = 256 << 10;
/// Replies above this are copied after the lock of their shard was let go.
const COPY_UNDER_GUARD: usize = 16 << 10;
/// Moka is told of an entry's first hits, and of one in [`LATER_HITS`] of the later ones.
const FIRST_HITS: u8 = 16;
const LATER_HITS: u32 = 32;
/// Once entries are evicted, it is told of one hit in so many, and of as large a part of the misses: what it compares are those
/// of one key with those of another. More seldom would cost hits (`cargo bench --bench hit_ratio`).
const WHEN_FULL: u32 = 2;
/// An entry that was hit so often has repaid its fill: two commands of Redis, and the message of its end.
const PAID: u8 = 4;

/// How a lookup ended. The names are those of the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lookup {
    /// The reply was appended.
    Hit,
    /// Nothing there.
    Miss,
    /// An entry was there whose key has changed since, or whose epoch is over.
    Stale,
    /// An entry was there that has outlived its key's TTL or its rule's ceiling.
    Expired,
    /// As [`Lookup::Stale`] or [`Lookup::Expired`], and the entry had answered often enough to have repaid its fill: its key
    /// is worth being filled anew at once.
    Hot,
    /// No lease: L1 cannot prove itself fresh and was not asked.
    Blind,
}

impl Lookup {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Expired => "expired",
            Self::Hot => "hot",
            Self::Blind => "blind",
        }
    }

    /// Whether the reply was appended.
    pub const fn is_hit(self) -> bool {
        matches!(self, Self::Hit)
    }
}

/// Decides for one worker which hits and misses Moka is told of.
#[derive(Debug)]
pub struct Sampler {
    rng: SmallRng,
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new()
    }
}

impl Sampler {
    /// Seeded from the system.
    pub fn new() -> Self {
        Self { rng: SmallRng::from_rng(&mut rand::rng()) }
    }

    /// At random, since a count would fall into step with clients that read the same keys in turn.
    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random::<u32>() < u32::MAX / n
    }
}

/// L1. One for the process, shared by all workers and ears.
pub struct Store {
    index: Arc<Index>,
    policy: Policy,
    limit: u64,
    capacity: u64,
    serial: AtomicU32,
    /// Set once Moka has enough entries to count how often keys are asked for; before, misses need not be told.
    counting: AtomicBool,
    /// What makes it count well, and whether that has been done.
    ballast: Mutex<Ballast>,
    prepared: AtomicBool,
    doorkeeper: Doorkeeper,
}

pub(super) type Policy = Cache<u64, Ticket, AsIs>;

/// What Moka keeps of an entry.
#[derive(Clone, Copy)]
pub(super) struct Ticket {
    pub(super) serial: u32,
    pub(super) weight: u32,
    /// Milliseconds until the entry is useless, 0 for never.
    pub(super) life: u32,
}

impl Store {
    /// An L1 that takes no more than `l1_size` bytes of memory, its own bookkeeping included. Below about half a megabyte
    /// nothing fits.
    pub fn new(l1_size: u64) -> Self {
        Self::counted(l1_size, Arc::default())
    }

    /// The same, which counts what it gives up for want of room.
    pub fn counted(l1_size: u64, evictions: Arc<SharedCounter>) -> Self {
        let index = Arc::new(Index::new(if l1_size < 64 << 20 { 128 } else { 1024 }, evictions));
        // Moka acts on what it is told in batches; the gap between its capacity and the limit is what they may overshoot.
        let doorkeeper = Doorkeeper::new(l1_size);
        let capacity = l1_size.saturating_sub(l1_size / 64 + FIXED + doorkeeper.bytes());
        let policy = Self::new_policy(&index, capacity);
        let (counting, prepared) = (AtomicBool::new(false), AtomicBool::new(false));
        let (serial, ballast) = (AtomicU32::new(0), Mutex::default());
        Self { index, policy, limit: l1_size, capacity, serial, counting, ballast, prepared, doorkeeper }
    }

    fn new_policy(index: &Arc<Index>, capacity: u64) -> Policy {
        let listener = Arc::clone(index);
        Cache::builder()
            .name("l1")
            .max_capacity(capacity)
            .weigher(|_, ticket: &Ticket| ticket.weight)
            .expire_after(Lifetime)
            .eviction_listener(move |hash: Arc<u64>, ticket: Ticket, cause| listener.left_policy(*hash, ticket, cause))
            .build_with_hasher(AsIs::default())
    }

    /// Answers `q` by appending the reply to `out`, if at this moment there is an entry that may be served; else `out` stays
    /// as it is. `now` must have been read after the request was. What can never be served again is removed.
    #[expect(clippy::too_many_arguments, reason = "all that a hit depends on, and nothing that it does not")]
    pub fn lookup(
        &self,
        q: &Query,
        resp: Resp,
        stamps: &Stamps,
        fresh: &Freshness,
        now: Time,
        sampler: &mut Sampler,
        out: &mut Vec<u8>,
    ) -> Lookup {
        if !fresh.held(now) {
            return Lookup::Blind;
        }
        let Some(entry) = self.index.entries.get(&q.hash) else {
            let told = !self.is_full() || sampler.one_in(WHEN_FULL);
            return if told { self.missed(q.hash, Lookup::Miss) } else { Lookup::Miss };
        };
        let outcome = match entry.judge(q, stamps, fresh.epoch(), now) {
            Verdict::Current => {
                entry.note_use();
                let first = entry.count_hit(FIRST_HITS);
                let touch =
                    if self.is_full() { sampler.one_in(WHEN_FULL) } else { first || sampler.one_in(LATER_HITS) };
                if entry.reply(resp).len() <= COPY_UNDER_GUARD {
                    out.extend_from_slice(entry.reply(resp));
                    drop(entry);
                } else {
                    let kept = entry.value().clone();
                    drop(entry);
                    out.extend_from_slice(kept.reply(resp));
                }
                if touch {
                    self.policy.get(&q.hash);
                }
                return Lookup::Hit;
            }
            Verdict::Foreign => Lookup::Miss,
            Verdict::Stale | Verdict::Expired if entry.has_hit(PAID) => Lookup::Hot,
            Verdict::Stale => Lookup::Stale,
            Verdict::Expired => Lookup::Expired,
        };
        let serial = entry.serial();
        drop(entry);
        if outcome != Lookup::Miss {
            self.forget(q.hash, serial);
        }
        self.missed(q.hash, outcome)
    }

    /// Answers all of `queries` as one array, of one moment at which all entries stood, or does not answer: where one is not to
    /// be served, or the array would be larger than `most` bytes. Else as [`Store::lookup`].
    #[expect(clippy::too_many_arguments, reason = "as with lookup")]
    pub fn lookup_all(
        &self,
        queries: &[Query],
        most: u64,
        resp: Resp,
        stamps: &Stamps,
        fresh: &Freshness,
        now: Time,
        sampler: &mut Sampler,
        out: &mut Vec<u8>,
    ) -> Lookup {
        let before = out.len();
        let epoch = fresh.epoch();
        let stood: SmallVec<[Stamp; 8]> = queries.iter().map(|q| stamps.load(q.slot)).collect();
        // The first that is missing tells, before anything is copied.
        let missing = queries.iter().find(|q| !self.contains_fresh(q, stamps, fresh, now));
        encode::array_header(out, queries.len());
        let mut looked = Lookup::Hit;
        for q in missing.map_or(queries, std::slice::from_ref) {
            looked = self.lookup(q, resp, stamps, fresh, now, sampler, out);
            if !looked.is_hit() || (out.len() - before) as u64 > most {
                break;
            }
        }
        // Each stood when it was looked up. What is unchanged since before the first stood at one moment with the others.
        let whole = looked.is_hit() && missing.is_none() && (out.len() - before) as u64 <= most;
        if whole && fresh.epoch() == epoch && queries.iter().zip(&stood).all(|(q, stamp)| stamps.load(q.slot) == *stamp)
        {
            return Lookup::Hit;
        }
        out.truncate(before);
        if looked.is_hit() { Lookup::Miss } else { looked }
    }

    /// Whether [`Store::lookup`] would hit. Copies nothing, tells Moka nothing and removes nothing.
    pub fn contains_fresh(&self, q: &Query, stamps: &Stamps, fresh: &Freshness, now: Time) -> bool {
        fresh.held(now)
            && self
                .index
                .entries
                .get(&q.hash)
                .is_some_and(|entry| entry.judge(q, stamps, fresh.epoch(), now) == Verdict::Current)
    }

    /// Until when [`Store::lookup`] would hit, all else being as it is; `None` where it would not hit now.
    pub fn held(&self, q: &Query, stamps: &Stamps, fresh: &Freshness, now: Time) -> Option<Time> {
        let entry = self.index.entries.get(&q.hash).filter(|_| fresh.held(now))?;
        (entry.judge(q, stamps, fresh.epoch(), now) == Verdict::Current).then(|| entry.expires())
    }

    /// What the entries answer whose arguments `wanted` wants, current or not. Looks at every entry.
    pub fn find(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<(Identity, u16, Box<[u8]>)> {
        let answers = self.index.entries.iter().filter_map(|entry| {
            let (identity, command, tail) = entry.answers();
            wanted(tail).then(|| (identity, command, tail.into()))
        });
        answers.collect()
    }

    /// Takes in the answer to `q` that was asked for under `stamp` and in `epoch`, both read before the request was sent.
    /// `resp2` is the answer for RESP2 sessions where that differs; `expires` is the earlier of the key's own expiry and its
    /// rule's ceiling. An answer asked for under a stamp that is not quiet, already expired or too large is dropped. One that
    /// is no longer current does no harm: it is never served.
    pub fn insert(&self, q: &Query, resp3: &[u8], resp2: Option<&[u8]>, stamp: Stamp, epoch: Epoch, expires: Time) {
        let now = Time::now();
        if !stamp.quiet() || expires <= now {
            return;
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let Some(entry) = Entry::new(serial, q, resp3, resp2, Terms { stamp, epoch, expires }) else { return };
        let weight = weight(&entry);
        let Some(ticket) = Ticket::new(serial, weight, expires, now).filter(|_| weight <= self.capacity) else {
            return;
        };

        let policy = &self.policy;
        if self.bytes() + weight > self.limit {
            policy.run_pending_tasks();
        }
        self.index.insert(q.hash, entry);
        policy.insert(q.hash, ticket);
        let bytes = self.bytes();
        if bytes > self.limit {
            policy.run_pending_tasks();
        }
        // Moka begins to count when it is half full.
        if bytes > self.capacity / 5 * 2 && !self.prepared.load(Ordering::Relaxed) {
            self.counting.store(true, Ordering::Relaxed);
            let mut ballast = self.ballast.lock().unwrap_or_else(PoisonError::into_inner);
            self.prepared.store(ballast.step(policy, self.capacity), Ordering::Relaxed);
        }
    }

    /// Whether entries must be evicted, at present, for those that are taken in.
    pub fn is_full(&self) -> bool {
        self.index.evicting.load(Ordering::Relaxed)
    }

    /// Whether `q` has knocked before, at an L1 that is full.
    pub fn knows(&self, q: &Query) -> bool {
        self.doorkeeper.knows(q.hash)
    }

    /// The keys of entries that were hit since they were last taken so, of those identities that are wanted; of more than
    /// `most`, about `most` that chance chooses, and the others another time. A key comes once for each command that was hit.
    /// Walks through all entries: not to be called where sessions or an ear wait.
    pub fn take_hits(&self, wanted: impl Fn(Identity) -> bool, most: usize) -> Vec<(Identity, Box<[u8]>)> {
        let used = |entry: &Entry| entry.is_used() && wanted(entry.identity());
        let count = self.index.entries.iter().filter(|entry| used(entry)).count();
        let mut rng = rand::rng();
        let mut take = |entry: &Entry| used(entry) && (count <= most || rng.random_range(0..count) < most);
        let entries = self.index.entries.iter().filter(|entry| take(entry));
        let taken = entries.map(|entry| {
            entry.forget_use();
            (entry.identity(), entry.value().key().into())
        });
        taken.collect()
    }

    /// Entries, whether or not they still count. Never less than there are.
    pub fn len(&self) -> usize {
        self.index.len.load(Ordering::Relaxed)
    }

    /// Whether there is nothing that a lease could be needed for. As cheap as it looks.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that the entries take, bookkeeping included.
    pub fn bytes(&self) -> u64 {
        self.index.bytes.load(Ordering::Relaxed)
    }

    /// Lets expired entries go, carries out what Moka has put off and gives unused memory of the index back. To be called
    /// about once a second, by one thread.
    pub fn run_pending(&self) {
        self.policy.run_pending_tasks();
        if self.bytes() > self.policy.weighted_size() + self.limit / 64 {
            self.drop_strays();
        }
        if !self.index.evicted.swap(false, Ordering::Relaxed) {
            self.index.evicting.store(false, Ordering::Relaxed);
        }
        self.index.shrink();
    }

    /// Removes the entries that Moka does not know.
    fn drop_strays(&self) {
        // Listed first: no guard of the index may be held while Moka is asked.
        let all: Vec<_> = self.index.entries.iter().map(|entry| (*entry.key(), entry.serial())).collect();
        for (hash, serial) in all {
            if self.policy.get(&hash).is_none_or(|ticket| ticket.serial != serial) {
                self.index.remove(hash, serial);
            }
        }
    }

    /// Tells Moka that something was asked for that is not here, so that it may be admitted next time.
    fn missed(&self, hash: u64, outcome: Lookup) -> Lookup {
        if self.counting.load(Ordering::Relaxed)
            && self.policy.get(&hash).is_some()
            && outcome == Lookup::Miss
            && !self.index.entries.contains_key(&hash)
        {
            // A ticket that outlived its entry. Should a new entry just be coming, it goes with it, and comes again.
            self.policy.invalidate(&hash);
        }
        outcome
    }

    fn forget(&self, hash: u64, serial: u32) {
        if self.index.remove(hash, serial) {
            self.policy.invalidate(&hash);
        }
    }
}

/// What hits read, and its sums.
struct Index {
    entries: DashMap<u64, Entry, AsIs>,
    len: AtomicUsize,
    bytes: AtomicU64,
    /// Entries are being evicted for want of room. Set by the first, unset by a second without any.
    evicting: AtomicBool,
    evicted: AtomicBool,
    evictions: Arc<SharedCounter>,
    shards: usize,
}

impl Index {
    fn new(shards: usize, evictions: Arc<SharedCounter>) -> Self {
        Self {
            entries: DashMap::with_hasher_and_shard_amount(AsIs::default(), shards),
            len: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            evicting: AtomicBool::new(false),
            evicted: AtomicBool::new(false),
            evictions,
            shards,
        }
    }

    /// Counts before it inserts, so that no entry is ever uncounted.
    fn insert(&self, hash: u64, entry: Entry) {
        self.len.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(weight(&entry), Ordering::Relaxed);
        if let Some(old) = self.entries.insert(hash, entry) {
            self.uncount(&old);
        }
    }

    fn remove(&self, hash: u64, serial: u32) -> bool {
        let removed = self.entries.remove_if(&hash, |_, entry| entry.serial() == serial);
        if let Some((_, entry)) = &removed {
            self.uncount(entry);
        }
        removed.is_some()
    }

    fn uncount(&self, entry: &Entry) {
        self.len.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(weight(entry), Ordering::Relaxed);
    }

    /// A table never shrinks by itself: one grown by a million small entries would stay when a few large ones replace them.
    fn shrink(&self) {
        if self.entries.capacity() > 4 * self.len.load(Ordering::Relaxed) + 16 * self.shards {
            self.entries.shrink_to_fit();
        }
    }

    /// Moka let go of a ticket. Runs inside a call of Moka and must not call it.
    fn left_policy(&self, hash: u64, ticket: Ticket, cause: RemovalCause) {
        if cause == RemovalCause::Size {
            self.evictions.add(1);
            self.evicted.store(true, Ordering::Relaxed);
            self.evicting.store(true, Ordering::Relaxed);
        }
        self.remove(hash, ticket.serial);
    }
}

/// What an entry costs in all.
fn weight(entry: &Entry) -> u64 {
    entry.allocated() + OVERHEAD
}

impl Ticket {
    fn new(serial: u32, weight: u64, expires: Time, now: Time) -> Option<Self> {
        let life = match expires {
            Time::NEVER => 0,
            // Rounded up: it is the lookup that is exact. Beyond 49 days memory need not be given back by the clock.
            _ => u32::try_from(expires.saturating_since(now).as_millis() + 1).unwrap_or(0),
        };
        Some(Self { serial, weight: u32::try_from(weight).ok()?, life })
    }

    fn life(self) -> Option<Duration> {
        (self.life > 0).then(|| Duration::from_millis(self.life.into()))
    }
}

/// Moka drops a ticket when its entry's time is over, so that what no one asks for any more does not wait to be evicted. Its
/// clock stands still in suspend; then the lookup knows better.
struct Lifetime;

impl Expiry<u64, Ticket> for Lifetime {
    fn expire_after_create(&self, _: &u64, ticket: &Ticket, _: Instant) -> Option<Duration> {
        ticket.life()
    }

    fn expire_after_update(&self, _: &u64, ticket: &Ticket, _: Instant, _: Option<Duration>) -> Option<Duration> {
        ticket.life()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_distr::{Distribution, Zipf};

    use crate::cache::{Identities, Slot};

    const REPLY: &[u8] = b"$1\r\nv\r\n";

    struct Bench {
        stamps: Stamps,
        fresh: Freshness,
        identities: Identities,
        store: Store,
        sampler: Sampler,
    }

    impl Bench {
        fn new(l1_size: u64) -> Self {
            let fresh = Freshness::new();
            fresh.renew(Time::NEVER);
            let (stamps, identities) = (Stamps::for_l1(0), Identities::default());
            Self { stamps, fresh, identities, store: Store::new(l1_size), sampler: Sampler::new() }
        }

        fn identity(&self) -> Identity {
            self.identities.intern("", 0)
        }

        fn query<'a>(&self, key: &'a [u8]) -> Query<'a> {
            Query::new(&self.stamps, self.identity(), 1, key, key, b"")
        }

        fn insert(&self, q: &Query, reply: &[u8]) {
            self.insert_until(q, reply, Time::NEVER);
        }

        fn insert_until(&self, q: &Query, reply: &[u8], expires: Time) {
            self.store.insert(q, reply, None, self.stamps.load(q.slot), self.fresh.epoch(), expires);
        }

        fn lookup(&mut self, q: &Query) -> (Lookup, Vec<u8>) {
            self.lookup_at(q, Time::now())
        }

        fn lookup_at(&mut self, q: &Query, now: Time) -> (Lookup, Vec<u8>) {
            let mut out = b"before".to_vec();
            let lookup = self.store.lookup(q, Resp::V3, &self.stamps, &self.fresh, now, &mut self.sampler, &mut out);
            assert_eq!(self.store.contains_fresh(q, &self.stamps, &self.fresh, now), lookup.is_hit());
            assert!(out.starts_with(b"before"));
            (lookup, out.split_off(6))
        }

        fn settle(&self) {
            for _ in 0..10 {
                self.store.run_pending();
            }
        }

        /// Every entry has its ticket, and the sums are those of the entries.
        fn check_books(&self) {
            self.settle();
            let (index, policy) = (&self.store.index, &self.store.policy);
            let mut bytes = 0;
            let mut hashes = Vec::new();
            for entry in &index.entries {
                bytes += weight(entry.value());
                hashes.push((*entry.key(), entry.serial(), entry.expires()));
            }
            assert_eq!((self.store.len(), self.store.bytes()), (hashes.len(), bytes));
            for (hash, serial, expires) in hashes {
                let ticket = policy.get(&hash).map(|ticket| ticket.serial);
                // Moka shows no ticket whose time is over, and tidies up about a second later.
                assert!(ticket == Some(serial) || expires <= Time::now(), "an entry without its ticket");
            }
            assert!(policy.weighted_size() >= bytes);
        }
    }

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn what_was_inserted_is_found_by_the_same_query_alone() {
        let mut b = Bench::new(16 << 20);
        let q = b.query(b"k");
        assert!(b.store.is_empty());
        assert_eq!(b.lookup(&q), (Lookup::Miss, vec![]));
        b.insert(&q, REPLY);
        assert_eq!(b.lookup(&q), (Lookup::Hit, REPLY.to_vec()));
        assert_eq!(b.lookup(&b.query(b"l")), (Lookup::Miss, vec![]));
        assert_eq!(b.store.len(), 1);
    }

    #[test]
    fn many_are_answered_as_one_or_not_at_all() {
        let mut b = Bench::new(16 << 20);
        let queries = [b.query(b"k"), b.query(b"l"), b.query(b"k")];
        let now = Time::now();
        let all = |b: &mut Bench, most| {
            let mut out = b"before".to_vec();
            let Bench { store, stamps, fresh, sampler, .. } = b;
            let looked = store.lookup_all(&queries, most, Resp::V3, stamps, fresh, now, sampler, &mut out);
            assert!(out.starts_with(b"before"));
            (looked, out.split_off(6))
        };
        b.insert(&queries[0], REPLY);
        assert_eq!(all(&mut b, 1000), (Lookup::Miss, vec![]));
        b.insert(&queries[1], b"_\r\n");
        let whole = [b"*3\r\n", REPLY, b"_\r\n", REPLY].concat();
        assert_eq!(all(&mut b, whole.len() as u64), (Lookup::Hit, whole.clone()));
        assert_eq!(all(&mut b, whole.len() as u64 - 1), (Lookup::Miss, vec![]), "too large");
        b.stamps.begin(queries[1].slot);
        assert_eq!(all(&mut b, 1000), (Lookup::Stale, vec![]));
        b.stamps.end(queries[1].slot);
        b.insert(&queries[1], REPLY);
        assert_eq!(all(&mut b, 1000).0, Lookup::Hit);
        b.fresh.end();
        assert_eq!(all(&mut b, 1000), (Lookup::Blind, vec![]));
    }

    #[test]
    fn keys_that_were_hit_are_taken_once_and_few_at_a_time() {
        let mut b = Bench::new(16 << 20);
        let keys: Vec<_> = (0..1000).map(|i| format!("$4\r\n{i:04}\r\n")).collect();
        for key in &keys {
            b.insert(&b.query(key.as_bytes()), REPLY);
        }
        assert!(b.store.take_hits(|_| true, 10).is_empty(), "nothing was hit");
        for key in &keys[..500] {
            let q = b.query(key.as_bytes());
            assert!(b.lookup(&q).0.is_hit());
        }
        assert!(b.store.take_hits(|_| false, 1000).is_empty());
        let first = b.store.take_hits(|identity| identity == b.identity(), 100);
        assert!((50..200).contains(&first.len()), "{}", first.len());
        let mut all: Vec<_> = first.into_iter().chain(b.store.take_hits(|_| true, 1000)).map(|(_, key)| key).collect();
        all.sort();
        let wanted: Vec<_> = (0..500).map(|i| format!("{i:04}").into_bytes().into_boxed_slice()).collect();
        assert_eq!(all, wanted);
        assert!(b.store.take_hits(|_| true, 1000).is_empty());
    }

    #[test]
    fn equal_hashes_are_told_apart() {
        let mut b = Bench::new(16 << 20);
        let q = b.query(b"k");
        b.insert(&q, REPLY);
        let alice = b.identities.intern("alice", 0);
        let foreign = [Query { tail: b"l", ..q }, Query { command: 2, ..q }, Query { identity: alice, ..q }];
        for other in &foreign {
            assert_eq!(b.lookup(other), (Lookup::Miss, vec![]));
        }
        assert_eq!(b.lookup(&q), (Lookup::Hit, REPLY.to_vec()), "a collision removes nothing");
        b.insert(&foreign[0], b"+l\r\n");
        assert_eq!(b.lookup(&q), (Lookup::Miss, vec![]));
        assert_eq!(b.lookup(&foreign[0]), (Lookup::Hit, b"+l\r\n".to_vec()));
        assert_eq!(b.store.len(), 1);
        b.check_books();
    }

    #[test]
    fn without_a_lease_nothing_is_answered_and_nothing_lost() {
        let mut b = Bench::new(16 << 20);
        let q = b.query(b"k");
        b.insert(&q, REPLY);
        b.fresh.end();
        assert_eq!(b.lookup(&q), (Lookup::Blind, vec![]));
        let now = Time::now();
        b.fresh.renew(now.plus(millis(10)));
        assert_eq!(b.lookup_at(&q, now.plus(millis(9))).0, Lookup::Hit);
        assert_eq!(b.lookup_at(&q, now.plus(millis(10))).0, Lookup::Blind);
    }

    #[test]
    fn any_change_of_the_stamp_or_the_epoch_makes_it_stale_for_good() {
        type Change = fn(&Bench, Slot);
        let changes: [Change; 4] = [
            |b, slot| b.stamps.touch(slot),
            |b, slot| b.stamps.begin(slot),
            |b, slot| {
                b.stamps.begin(slot);
                b.stamps.end(slot);
            },
            |b, _| b.fresh.bump(),
        ];
        for change in changes {
            let mut b = Bench::new(16 << 20);
            let q = b.query(b"k");
            b.insert(&q, REPLY);
            change(&b, q.slot);
            assert_eq!(b.lookup(&q), (Lookup::Stale, vec![]));
            assert_eq!(b.lookup(&q), (Lookup::Miss, vec![]), "it was removed");
            assert_eq!((b.store.len(), b.store.bytes()), (0, 0));
            b.check_books();
        }
    }

    #[test]
    fn an_answer_asked_for_before_a_change_is_never_served() {
        let mut b = Bench::new(16 << 20);
        let q = b.query(b"k");
        let (stamp, epoch) = (b.stamps.load(q.slot), b.fresh.epoch());
        b.stamps.touch(q.slot);
        b.store.insert(&q, REPLY, None, stamp, epoch, Time::NEVER);
        assert_eq!(b.lookup(&q).0, Lookup::Stale);
        let stamp = b.stamps.load(q.slot);
        b.fresh.bump();
        b.store.insert(&q, REPLY, None, stamp, epoch, Time::NEVER);
        assert_eq!(b.lookup(&q).0, Lookup::Stale);
    }

    #[test]
    fn an_answer_asked_for_during_a_write_is_not_taken_in() {
        let mut b = Bench::new(16 << 20);
        let q = b.query(b"k");
        b.stamps.begin(q.slot);
        b.insert(&q, REPLY);
        assert!(b.store.is_empty());
        assert_eq!(b.lookup(&q).0, Lookup::Miss);
    }

    #[test]
    fn expiry_is_exact() {
        let mut b = Bench::new(16 << 20);
        let q = b.query(b"k");
        let expires = Time::now().plus(millis(60_000));
        b.insert_until(&q, REPLY, expires);
        assert_eq!(b.lookup_at(&q, Time::from_nanos(expires.as_nanos() - 1)).0, Lookup::Hit);
        assert_eq!(b.lookup_at(&q, expires), (Lookup::Expired, vec![]));
        assert!(b.store.is_empty());
        b.insert_until(&q, REPLY, Time::now());
        assert!(b.store.is_empty(), "expired before it came");
    }

    #[test]
    fn what_expires_leaves_though_no_one_asks() {
        let b = Bench::new(16 << 20);
        for i in 0..100_u32 {
            b.insert_until(&b.query(&i.to_be_bytes()), REPLY, Time::now().plus(millis(20)));
        }
        b.insert(&b.query(b"stays"), REPLY);
        let start = Instant::now();
        while b.store.len() > 1 && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(millis(50));
            b.store.run_pending();
        }
        assert_eq!(b.store.len(), 1);
        b.check_books();
    }

    #[test]
    fn each_version_gets_its_reply_and_large_ones_are_whole() {
        let mut b = Bench::new(16 << 20);
        let (stamps, fresh, now) = (Stamps::for_l1(0), Freshness::new(), Time::now());
        fresh.renew(Time::NEVER);
        let large = vec![b'x'; 4 * COPY_UNDER_GUARD];
        for (resp3, resp2) in [(&b"_\r\n"[..], &b"$-1\r\n"[..]), (&large, &large[1..])] {
            let q = Query::new(&stamps, b.identity(), 1, b"k", b"k", b"");
            b.store.insert(&q, resp3, Some(resp2), stamps.load(q.slot), fresh.epoch(), Time::NEVER);
            for (resp, reply) in [(Resp::V3, resp3), (Resp::V2, resp2)] {
                let mut out = Vec::new();
                assert!(b.store.lookup(&q, resp, &stamps, &fresh, now, &mut b.sampler, &mut out).is_hit());
                assert!(out == reply);
            }
        }
    }

    #[test]
    fn a_newer_entry_takes_the_place_of_the_older() {
        let mut b = Bench::new(16 << 20);
        let q = b.query(b"k");
        for i in 0..1000_u32 {
            b.insert(&q, &[b'+'; 2000][..=i as usize]);
        }
        assert_eq!(b.lookup(&q), (Lookup::Hit, vec![b'+'; 1000]));
        b.check_books();
        assert_eq!(b.store.len(), 1);
    }

    #[test]
    fn the_listener_removes_the_very_same_entry_alone() {
        let mut b = Bench::new(16 << 20);
        let q = b.query(b"k");
        b.insert(&q, REPLY);
        let old = b.store.policy.get(&q.hash).expect("just inserted");
        b.insert(&q, b"+new\r\n");
        b.store.index.left_policy(q.hash, old, RemovalCause::Size);
        assert_eq!(b.lookup(&q), (Lookup::Hit, b"+new\r\n".to_vec()));
        let new = b.store.policy.get(&q.hash).expect("just inserted");
        b.store.index.left_policy(q.hash, new, RemovalCause::Size);
        assert_eq!(b.lookup(&q).0, Lookup::Miss);
    }

    #[test]
    fn a_ticket_without_an_entry_goes_with_the_next_miss() {
        let mut b = Bench::new(16 << 20);
        let q = b.query(b"k");
        b.insert(&q, REPLY);
        let ticket = b.store.policy.get(&q.hash).expect("just inserted");
        assert!(b.store.index.remove(q.hash, ticket.serial));
        b.store.counting.store(true, Ordering::Relaxed);
        assert_eq!(b.lookup(&q).0, Lookup::Miss);
        assert!(!b.store.policy.contains_key(&q.hash));
    }

    #[test]
    fn what_was_hit_often_is_known_for_hot_when_it_ends() {
        let mut b = Bench::new(1 << 20);
        let q = b.query(b"k");
        for (hits, ended) in [(PAID - 1, Lookup::Stale), (PAID, Lookup::Hot)] {
            b.insert(&q, REPLY);
            (0..hits).for_each(|_| assert!(b.lookup(&q).0.is_hit()));
            b.stamps.touch(q.slot);
            assert_eq!(b.lookup(&q), (ended, vec![]));
            assert_eq!(b.lookup(&q).0, Lookup::Miss, "told once");
        }
    }

    #[test]
    fn memory_stays_within_the_size_while_entries_come_and_go() {
        for (size, reply) in [(2 << 20, 10), (2 << 20, 10_000), (4 << 20, 200_000)] {
            let b = Bench::new(size);
            let reply = vec![b'x'; reply];
            for i in 0..20_000_u32 {
                b.insert(&b.query(&i.to_be_bytes()), &reply);
                let (bytes, slack) = (b.store.bytes(), reply.len() as u64 + 2000);
                assert!(bytes <= size + slack, "{bytes} bytes of {size}");
            }
            b.settle();
            assert!(b.store.bytes() <= size && b.store.bytes() > size / 2, "{} of {size}", b.store.bytes());
            assert!(b.store.index.evicting.load(Ordering::Relaxed) || !b.store.index.evicted.load(Ordering::Relaxed));
            b.check_books();
        }
    }

    #[test]
    fn hot_entries_stay_when_many_cold_ones_pass() {
        let mut b = Bench::new(2 << 20);
        let hot: Vec<_> = (0..100_u32).map(|i| (i << 24).to_be_bytes()).collect();
        for i in 0..50_000_u32 {
            let cold = i.to_be_bytes();
            b.lookup(&b.query(&cold));
            b.insert(&b.query(&cold), REPLY);
            let q = &b.query(&hot[i as usize % hot.len()]);
            if b.lookup(q).0 == Lookup::Miss {
                b.insert(q, REPLY);
            }
        }
        let stayed = hot.iter().filter(|key| b.lookup(&b.query(*key)).0.is_hit()).count();
        assert!(stayed > 90, "{stayed} of 100");
    }

    #[test]
    fn what_stays_is_as_well_chosen_as_by_moka_alone() {
        const ROOM: u32 = 4_000;
        let weight = {
            let b = Bench::new(1 << 20);
            b.insert(&b.query(&[0; 4]), REPLY);
            b.store.bytes()
        };
        let mut b = Bench::new(u64::from(ROOM) * weight * 64 / 63 + FIXED);
        let plain = Cache::new(ROOM.into());
        let zipf = Zipf::new(10.0 * f64::from(ROOM), 0.9).expect("a law that there is");
        let (mut rng, mut hits, mut plain_hits) = (SmallRng::seed_from_u64(7), 0_u32, 0_u32);
        for read in 0..400_000 {
            let key = zipf.sample(&mut rng).to_bits();
            let bytes = key.to_be_bytes();
            let q = b.query(&bytes);
            let Bench { stamps, fresh, store, sampler, .. } = &mut b;
            let hit = store.lookup(&q, Resp::V2, stamps, fresh, Time::now(), sampler, &mut Vec::new()).is_hit();
            let plain_hit = plain.get(&key).is_some();
            if !hit {
                b.insert(&q, REPLY);
            }
            if !plain_hit {
                plain.insert(key, ());
            }
            if read >= 200_000 {
                hits += u32::from(hit);
                plain_hits += u32::from(plain_hit);
            }
        }
        assert!(plain_hits.saturating_sub(hits) < 2_000, "{hits} hits in 200,000 reads, plain Moka has {plain_hits}");
    }

    #[test]
    fn pressure_ends_with_a_second_without_evictions() {
        let b = Bench::new(1 << 20);
        for i in 0..5_000_u32 {
            b.insert(&b.query(&i.to_be_bytes()), REPLY);
        }
        b.store.run_pending();
        assert!(b.store.index.evicting.load(Ordering::Relaxed));
        b.settle();
        assert!(!b.store.index.evicting.load(Ordering::Relaxed));
    }

    #[test]
    fn too_small_or_too_large_is_no_trouble() {
        for size in [0, 1, 1 << 10, FIXED] {
            let b = Bench::new(size);
            b.insert(&b.query(b"k"), REPLY);
            assert!(b.store.is_empty());
            b.settle();
        }
        let mut b = Bench::new(1 << 20);
        let q = b.query(b"k");
        b.insert(&q, &vec![b'x'; 1 << 20]);
        assert!(b.store.is_empty());
        b.insert(&q, REPLY);
        assert!(b.lookup(&q).0.is_hit());
    }

    #[test]
    fn the_books_balance_after_a_brawl() {
        let b = Bench::new(1 << 20);
        std::thread::scope(|scope| {
            for thread in 0..4_u32 {
                let b = &b;
                scope.spawn(move || {
                    let (mut sampler, mut out) = (Sampler::new(), Vec::new());
                    for i in 0..20_000_u32 {
                        let key = (i.wrapping_mul(2_654_435_761) >> 20 ^ thread).to_be_bytes();
                        let q = b.query(&key);
                        out.clear();
                        b.store.lookup(&q, Resp::V2, &b.stamps, &b.fresh, Time::now(), &mut sampler, &mut out);
                        match i % 8 {
                            0 => b.stamps.touch(q.slot),
                            1..4 => b.insert(&q, &[b'x'; 1000][..=((i % 1000) as usize)]),
                            4 => b.insert_until(&q, REPLY, Time::now().plus(millis(1))),
                            _ => {}
                        }
                        if i % 5_000 == 99 {
                            b.store.run_pending();
                        }
                    }
                });
            }
        });
        b.settle();
        // Whatever Moka told of in the brawl, what it does not know of is gone after this, and the sums are right.
        b.store.drop_strays();
        let bytes: u64 = b.store.index.entries.iter().map(|entry| weight(entry.value())).sum();
        assert_eq!((b.store.len(), b.store.bytes()), (b.store.index.entries.len(), bytes));
        assert!(b.store.policy.weighted_size() >= bytes);
        assert!(b.store.bytes() <= 1 << 20);
    }
}
