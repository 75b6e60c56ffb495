//! L1 itself: an index that hits read, and Moka, which decides what stays in it.
//!
//! A hit reads the index (`index`) and touches Moka only often enough to keep its frequencies true ([`Sampler`]).
//! Moka keeps a small ticket for each entry (`policy`).
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
//! Holds contract points 5 (nothing old stays) and 6 (expiry).

mod exhibit;

use std::cmp::Reverse;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use rand::Rng;
use smallvec::SmallVec;

use super::allotment::Allotment;
use super::entry::{Entry, PAID, Terms, Verdict};
use super::index::{Index, weight};
use super::key::{Identity, Query};
use super::lease::{Epoch, Freshness};
use super::policy::Ticket;
use super::sampler::Sampler;
use super::slot_epochs::{EntryEpoch, SlotEpochs};
use super::stamp::{Stamp, Stamps};
use super::warrant::{Measure, saturated};
use super::watermarks::Watermarks;
use crate::clock::Time;
use crate::metrics::SharedCounter;
use crate::resp::{Resp, encode};

pub use exhibit::Exhibit;

/// Replies above this are copied after the lock of their shard was let go.
const COPY_UNDER_GUARD: usize = 16 << 10;

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

/// L1. One for the process, shared by all workers and ears.
pub struct Store {
    index: Arc<Index>,
    allotment: ArcSwap<Allotment>,
    /// Entries are being given tickets of another Moka: until that is over, none is astray that has none.
    resizing: AtomicBool,
    /// Set once Moka has enough entries to count how often keys are asked for; before, misses need not be told.
    counting: AtomicBool,
    slots: SlotEpochs,
    watermarks: Watermarks,
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
        let allotment = ArcSwap::from_pointee(Allotment::new(l1_size, &index));
        let (resizing, counting) = (AtomicBool::new(false), AtomicBool::new(false));
        let (slots, watermarks) = (SlotEpochs::default(), Watermarks::default());
        Self { index, allotment, resizing, counting, slots, watermarks }
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
            return if sampler.tells_miss(self.is_full()) { self.missed(q.hash, Lookup::Miss) } else { Lookup::Miss };
        };
        let outcome = match entry.judge(q, (stamps, &self.slots), fresh.epoch(), now) {
            Verdict::Current => {
                entry.note_use();
                let first = entry.count_hit();
                let touch = sampler.tells_hit(self.is_full(), first);
                if entry.reply(resp).len() <= COPY_UNDER_GUARD {
                    out.extend_from_slice(entry.reply(resp));
                    drop(entry);
                } else {
                    let kept = entry.value().clone();
                    drop(entry);
                    out.extend_from_slice(kept.reply(resp));
                }
                if touch {
                    self.allotment.load().policy.get(&q.hash);
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
    /// be served, or the array would be larger than `most` bytes. `fresh` gives the freshness of the ear that fills the nth. Else as
    /// [`Store::lookup`].
    #[expect(clippy::too_many_arguments, reason = "as with lookup")]
    pub fn lookup_all<'f>(
        &self,
        queries: &[Query],
        most: u64,
        resp: Resp,
        stamps: &Stamps,
        fresh: impl Fn(usize) -> &'f Freshness,
        now: Time,
        sampler: &mut Sampler,
        out: &mut Vec<u8>,
    ) -> Lookup {
        let before = out.len();
        let mut epochs: SmallVec<[(&Freshness, Epoch); 1]> = SmallVec::new();
        for fresh in (0..queries.len()).map(&fresh) {
            if epochs.iter().all(|(known, _)| !ptr::eq(*known, fresh)) {
                epochs.push((fresh, fresh.epoch()));
            }
        }
        let stood: SmallVec<[Stamp; 8]> = queries.iter().map(|q| stamps.load(q.slot)).collect();
        // The first that is missing tells, before anything is copied.
        let mut all = queries.iter().enumerate();
        let missing = all.find(|(nth, q)| !self.contains_fresh(q, stamps, fresh(*nth), now)).map(|(nth, _)| nth);
        encode::array_header(out, queries.len());
        let mut looked = Lookup::Hit;
        for nth in missing.map_or(0..queries.len(), |nth| nth..nth + 1) {
            looked = self.lookup(&queries[nth], resp, stamps, fresh(nth), now, sampler, out);
            if !looked.is_hit() || (out.len() - before) as u64 > most {
                break;
            }
        }
        // Each stood when it was looked up. What is unchanged since before the first stood at one moment with the others.
        let whole = looked.is_hit() && missing.is_none() && (out.len() - before) as u64 <= most;
        let same = epochs.iter().all(|(fresh, epoch)| fresh.epoch() == *epoch);
        if whole && same && queries.iter().zip(&stood).all(|(q, stamp)| stamps.load(q.slot) == *stamp) {
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
                .is_some_and(|entry| entry.judge(q, (stamps, &self.slots), fresh.epoch(), now) == Verdict::Current)
    }

    /// Until when [`Store::lookup`] would hit, all else being as it is; `None` where it would not hit now.
    pub fn held(&self, q: &Query, stamps: &Stamps, fresh: &Freshness, now: Time) -> Option<Time> {
        let entry = self.index.entries.get(&q.hash).filter(|_| fresh.held(now))?;
        (entry.judge(q, (stamps, &self.slots), fresh.epoch(), now) == Verdict::Current).then(|| entry.expires())
    }

    /// What the entry takes with which [`Store::lookup`] would hit; `None` where it would not.
    pub fn measure(&self, q: &Query, stamps: &Stamps, fresh: &Freshness, now: Time) -> Option<Measure> {
        let entry = self.index.entries.get(&q.hash).filter(|_| fresh.held(now))?;
        let current = entry.judge(q, (stamps, &self.slots), fresh.epoch(), now) == Verdict::Current;
        let bytes = saturated(entry.reply(Resp::V3).len() as u64);
        current.then(|| Measure { weight: saturated(weight(&entry)), bytes, expires: entry.expires() })
    }

    /// What the entries answer whose arguments `wanted` wants, current or not. Looks at every entry.
    pub fn find(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<(Identity, u16, Box<[u8]>)> {
        let answers = self.index.entries.iter().filter_map(|entry| {
            let (identity, command, tail) = entry.answers();
            wanted(tail).then(|| (identity, command, tail.into()))
        });
        answers.collect()
    }

    /// What those entries answer that were hit most, of the identities that are wanted, the hottest first: so many, and so many bytes of
    /// arguments, at most, and never more in memory. Looks at every entry, current or not.
    pub fn hottest(
        &self,
        wanted: impl Fn(Identity) -> bool,
        (most, bytes): (usize, usize),
    ) -> Vec<(Identity, u16, Box<[u8]>)> {
        let mut of_heat = vec![Vec::new(); 1 << 9];
        // What is colder than `floor` finds no place any more, or is what was there first.
        let (mut count, mut size, mut floor) = (0, 0, 0_usize);
        for entry in &self.index.entries {
            let heat = entry.heat();
            let (identity, command, tail) = entry.answers();
            if heat < floor || tail.len() > bytes || !wanted(identity) {
                continue;
            }
            of_heat[heat].push((identity, command, Box::<[u8]>::from(tail)));
            (count, size) = (count + 1, size + tail.len());
            while count > most || size > bytes {
                let coldest = (floor.saturating_sub(1)..of_heat.len()).find(|heat| !of_heat[*heat].is_empty());
                let Some((coldest, (.., dropped))) = coldest.and_then(|at| Some((at, of_heat[at].pop()?))) else {
                    break;
                };
                (count, size, floor) = (count - 1, size - dropped.len(), coldest + 1);
            }
        }
        of_heat.into_iter().rev().flatten().collect()
    }

    /// What entries about keys of a cluster's slots stand by.
    pub fn slots(&self) -> &SlotEpochs {
        &self.slots
    }

    /// From which entry on answers may come, key by key: what the audit goes by.
    pub fn watermarks(&self) -> &Watermarks {
        &self.watermarks
    }

    /// Takes in the answer to `q` that was asked for under `stamp` and in `epoch`, both read before the request was sent.
    /// `resp2` is the answer for RESP2 sessions where that differs; `expires` is the earlier of the key's own expiry and its
    /// rule's ceiling. An answer asked for under a stamp that is not quiet, already expired or too large is dropped. One that
    /// is no longer current does no harm: it is never served.
    pub fn insert(
        &self,
        q: &Query,
        resp3: &[u8],
        resp2: Option<&[u8]>,
        stamp: Stamp,
        epoch: impl Into<EntryEpoch>,
        expires: Time,
    ) {
        let epoch = epoch.into();
        let now = Time::now();
        if !stamp.quiet() || expires <= now {
            return;
        }
        let serial = self.watermarks.arrive();
        let Some(entry) = Entry::new(serial, q, resp3, resp2, Terms { stamp, epoch, expires }) else { return };
        let (weight, allotment) = (weight(&entry), self.allotment.load());
        let Some(ticket) = Ticket::new(serial, weight, expires, now).filter(|_| weight <= allotment.capacity) else {
            return;
        };

        if self.bytes() + weight > allotment.limit {
            allotment.policy.run_pending_tasks();
        }
        self.index.insert(q.hash, entry);
        allotment.policy.insert(q.hash, ticket);
        let present = self.allotment.load();
        if !Arc::ptr_eq(&allotment, &present) {
            present.policy.insert(q.hash, ticket); // the size changes just now
        }
        let bytes = self.bytes();
        if bytes > allotment.limit {
            allotment.policy.run_pending_tasks();
        }
        if !self.resizing.load(Ordering::Relaxed) && allotment.counts(bytes) {
            self.counting.store(true, Ordering::Relaxed);
        }
    }

    /// It may take so many bytes from now on, as one that was made with them. Where that is less, those go that were hit least. Takes
    /// as long as there are many entries: not to be called where sessions or an ear wait, nor twice at a time.
    pub fn resize(&self, l1_size: u64) {
        self.resizing.store(true, Ordering::Relaxed);
        self.counting.store(false, Ordering::Relaxed);
        let allotment = Arc::new(Allotment::new(l1_size, &self.index));
        let former = self.allotment.swap(Arc::clone(&allotment));
        // Listed first: no guard of the index may be held while Moka is asked. What comes in meanwhile has its ticket.
        let mut all: Vec<_> = self.index.entries.iter().map(|entry| (entry.hits(), entry.key().to_owned())).collect();
        all.sort_unstable_by_key(|(hits, _)| Reverse(*hits));
        let mut given = 0;
        for (_, hash) in all {
            let now = Time::now();
            let ticket = |entry: &Entry| Ticket::new(entry.serial(), weight(entry), entry.expires(), now);
            let ticket = self.index.entries.get(&hash).and_then(|entry| ticket(entry.value()));
            if let Some(ticket) = ticket.filter(|_| !allotment.policy.contains_key(&hash)) {
                given += u64::from(ticket.weight);
                allotment.policy.insert(hash, ticket);
                if allotment.counts(given) {
                    self.counting.store(true, Ordering::Relaxed);
                }
            }
        }
        allotment.policy.run_pending_tasks();
        self.drop_strays(); // what came in between, by the allotment of before
        self.resizing.store(false, Ordering::Relaxed);
        drop(former); // here, for it takes its time
    }

    /// Bytes that it may take.
    pub fn limit(&self) -> u64 {
        self.allotment.load().limit
    }

    /// Whether entries must be evicted, at present, for those that are taken in.
    pub fn is_full(&self) -> bool {
        self.index.evicting.load(Ordering::Relaxed)
    }

    /// Whether `q` has knocked before, at an L1 that is full.
    pub fn knows(&self, q: &Query) -> bool {
        self.allotment.load().doorkeeper.knows(q.hash)
    }

    /// The keys of entries that were hit since they were last taken so, of those identities that are wanted; of more than
    /// `most`, about `most` that chance chooses, and the others another time. A key comes once for each command that was hit.
    /// Walks through all entries: not to be called where sessions or an ear wait.
    /// `ear`: only of entries that an ear has filled in this epoch, in a cluster.
    pub fn take_hits(
        &self,
        wanted: impl Fn(Identity) -> bool,
        ear: Option<Epoch>,
        most: usize,
    ) -> Vec<(Identity, Box<[u8]>)> {
        let used =
            |entry: &Entry| entry.is_used() && wanted(entry.identity()) && ear.is_none_or(|ear| entry.is_of_ear(ear));
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

    /// Carries out what Moka has put off, as it does itself where it was used and had not for 300 ms.
    pub fn run_policy(&self) {
        self.allotment.load().policy.run_pending_tasks();
    }

    /// Lets expired entries go, carries out what Moka has put off and gives unused memory of the index back. To be called
    /// about once a second, by one thread.
    pub fn run_pending(&self) {
        let allotment = self.allotment.load();
        self.run_policy();
        let has_strays = self.bytes() > allotment.policy.weighted_size() + allotment.limit / 64;
        if has_strays && !self.resizing.load(Ordering::Relaxed) {
            self.drop_strays();
        }
        if !self.index.evicted.swap(false, Ordering::Relaxed) {
            self.index.evicting.store(false, Ordering::Relaxed);
        }
        self.index.shrink();
    }

    /// Lets go of all entries, those that come in meanwhile perhaps excepted. Takes as long as there are many: not to be called where
    /// sessions or an ear wait.
    pub fn clear(&self) {
        // Listed first: no guard of the index may be held while Moka is asked.
        let all: Vec<_> = self.index.entries.iter().map(|entry| (*entry.key(), entry.serial())).collect();
        for (hash, serial) in all {
            self.forget(hash, serial);
        }
    }

    /// Removes the entries that Moka does not know.
    fn drop_strays(&self) {
        // Listed first: no guard of the index may be held while Moka is asked.
        let all: Vec<_> = self.index.entries.iter().map(|entry| (*entry.key(), entry.serial())).collect();
        let allotment = self.allotment.load();
        for (hash, serial) in all {
            if allotment.policy.get(&hash).is_none_or(|ticket| ticket.serial != serial) {
                self.index.remove(hash, serial);
            }
        }
    }

    /// Tells Moka that something was asked for that is not here, so that it may be admitted next time.
    fn missed(&self, hash: u64, outcome: Lookup) -> Lookup {
        if self.counting.load(Ordering::Relaxed) {
            let policy = &self.allotment.load().policy;
            if policy.get(&hash).is_some() && outcome == Lookup::Miss && !self.index.entries.contains_key(&hash) {
                // A ticket that outlived its entry. Should a new entry just be coming, it goes with it, and comes again.
                policy.invalidate(&hash);
            }
        }
        outcome
    }

    fn forget(&self, hash: u64, serial: u32) {
        if self.index.remove(hash, serial) {
            self.allotment.load().policy.invalidate(&hash);
        }
    }
}

#[cfg(test)]
mod tests;
