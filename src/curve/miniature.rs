//! An L1 of another size, or of another promotion, scaled down: it is asked for those keys alone whose hash has so many zero bits, has
//! room for as small a part, and decides as L1 does (Waldspurger, Saemundsson, Ahmad, Park: *Cache Modeling and Optimization using
//! Miniature Simulations*, USENIX ATC 2017).
//!
//! The coin, the doorkeeper and what the policy is told of are those of `cache`; the policy itself is a [`Shelf`]. No entry has a
//! value. Pure data; whoever asks brings the time.

use std::time::Duration;

use super::shelf::Shelf;
use super::sketch::Sketch;
use crate::cache::{
    Coin, Doorkeeper, FIRST_HITS, Measure, PAID, Promoter, Sampler, Warrant, counts_from, room_for_entries,
};
use crate::clock::Time;

/// An L1 that has evicted nothing for so long, one to two seconds as its housekeeping comes, is not full.
const FULL_FOR: Duration = Duration::from_millis(1500);

/// Of reads that come right behind each other, the coin is tossed for so many.
const MOST_TOSSES: u32 = 200;
/// And of so many hits every second is told of.
const TOLD_HITS: u32 = 32;
/// A doorkeeper has no more prints.
const MOST_PRINTS: u64 = 1 << 14;

/// A read, as a miniature sees it.
#[derive(Clone, Copy, Debug)]
pub struct MiniatureRead {
    /// The evenly spread hash of all that is asked.
    pub id: u64,
    /// The number of the key's stamp: what decides whether the key is in the sample.
    pub slot: u32,
    /// What an answer would have to stand by; none while a write is under way.
    pub warrant: Option<Warrant>,
    /// When.
    pub at: Time,
    /// Whether L1 could answer it if it had the answer.
    pub able: bool,
}

/// What a miniature makes of a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MiniatureFinding {
    /// It answers.
    Hit,
    /// It has no answer.
    Miss,
    /// It has none and promotes the key.
    Wanted,
}

/// See the module's head.
#[derive(Debug)]
pub struct Miniature {
    /// Of what size the L1 is, in bytes.
    size: u64,
    /// Of keys whose slot ends in so many zero bits.
    fold: u32,
    shelf: Shelf,
    /// Made when it is asked for.
    doorkeeper: Option<Doorkeeper>,
    promoter: Promoter,
    sampler: Sampler,
    evicted: Option<Time>,
}

impl Miniature {
    /// That of an L1 of `size` bytes, for one key in two to the power of `fold`.
    pub fn new(size: u64, fold: u32) -> Self {
        let (promoter, sampler) = (Promoter::new(), Sampler::new());
        let shelf = Shelf::new(room_for_entries(size) >> fold);
        Self { size, fold, shelf, doorkeeper: None, promoter, sampler, evicted: None }
    }

    /// How many prints its doorkeeper has. Of large entries, of which there are few, it needs less than L1 has.
    fn prints(&self) -> u64 {
        (Doorkeeper::prints(self.size) >> self.fold).clamp(1, MOST_PRINTS)
    }

    /// Whether it is asked for keys of this slot.
    pub fn takes(&self, slot: u32) -> bool {
        slot & ((1 << self.fold) - 1) == 0
    }

    /// It stands for so many times what it has, as a power of two.
    pub fn fold(&self) -> u32 {
        self.fold
    }

    /// Entries that it has.
    pub fn len(&self) -> usize {
        self.shelf.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.shelf.len() == 0
    }

    /// From now on it is asked for half as many keys.
    pub fn halve(&mut self) {
        self.fold += 1;
        let mask = (1 << self.fold) - 1;
        self.shelf.retain(|slot, _| slot & mask == 0);
        self.shelf.capacity = room_for_entries(self.size) >> self.fold;
        if let Some(sketch) = &mut self.shelf.sketch {
            sketch.fold();
        }
        self.doorkeeper = None;
    }

    /// A read, of a key that is promoted at one read in `one_in`. A key that is wanted should be [filled](Self::fill) as soon as it
    /// is known what it takes.
    pub fn read(&mut self, read: &MiniatureRead, one_in: u32) -> MiniatureFinding {
        let full = self.is_full(read.at);
        let hot = read.able && {
            match self.shelf.get(read.id) {
                Some(place) if Some(place.warrant) == read.warrant && read.at < place.expires => {
                    let first = place.hits < FIRST_HITS;
                    place.hits += u8::from(first);
                    if self.sampler.tells_hit(full, first) {
                        self.shelf.touch(read.id);
                    }
                    return MiniatureFinding::Hit;
                }
                Some(place) => {
                    let hot = place.hits >= PAID;
                    self.shelf.remove(read.id);
                    self.shelf.touch(read.id);
                    hot
                }
                None => {
                    if self.sampler.tells_miss(full) {
                        self.shelf.touch(read.id);
                    }
                    false
                }
            }
        };
        match self.promoter.toss(one_in, hot, full) {
            Coin::Promote => MiniatureFinding::Wanted,
            Coin::Knock if self.knocks(read.id) => MiniatureFinding::Wanted,
            Coin::Knock | Coin::IfJoined | Coin::Never => MiniatureFinding::Miss,
        }
    }

    /// So many reads, one right behind the other; `measure` says what the answer takes, where that is known. How many of them it has no
    /// answer to, and what it makes of them: a [`MiniatureFinding::Hit`] if it has one at the end.
    pub fn read_often(
        &mut self,
        read: &MiniatureRead,
        one_in: u32,
        times: u32,
        measure: impl FnOnce() -> Option<Measure>,
    ) -> (MiniatureFinding, u32) {
        let (mut finding, mut misses) = (MiniatureFinding::Miss, 0);
        while misses < times {
            finding = self.read(read, one_in);
            if finding != MiniatureFinding::Miss {
                break;
            }
            misses += 1;
            if misses >= MOST_TOSSES {
                return (finding, times); // it is hardly ever promoted
            }
        }
        match finding {
            MiniatureFinding::Hit => self.hit_again(read.id, times - misses - 1),
            MiniatureFinding::Miss => {}
            // Those behind the one that promotes it find it, once it can be there.
            MiniatureFinding::Wanted => match (read.warrant, measure()) {
                (Some(warrant), Some(measure)) => {
                    misses += 1;
                    self.fill((read.id, read.slot), warrant, measure, read.at);
                    if misses < times && self.shelf.get(read.id).is_some() {
                        self.hit_again(read.id, times - misses);
                    } else {
                        misses = times;
                    }
                    finding = MiniatureFinding::Hit;
                }
                _ => misses = times,
            },
        }
        (finding, misses)
    }

    /// So many hits more: the policy is told of them as of others, up to what it can count.
    fn hit_again(&mut self, id: u64, times: u32) {
        let Some(place) = self.shelf.get(id) else { return };
        place.hits = place.hits.saturating_add(times.min(FIRST_HITS.into()) as u8).min(FIRST_HITS);
        (0..times.min(TOLD_HITS) / 2).for_each(|_| self.shelf.touch(id));
    }

    /// Whether the key has knocked before.
    fn knocks(&mut self, id: u64) -> bool {
        let prints = self.prints();
        self.doorkeeper.get_or_insert_with(|| Doorkeeper::with_prints(prints)).knows(id)
    }

    /// The answer is here to a read that was wanted: it takes so much, and stands by this.
    pub fn fill(&mut self, (id, slot): (u64, u32), warrant: Warrant, measure: Measure, now: Time) {
        if measure == Measure::UNFIT || measure.expires <= now || u64::from(measure.weight) > self.shelf.capacity {
            return;
        }
        if self.shelf.insert((id, slot), warrant, measure) {
            self.evicted = Some(now);
        }
        if self.shelf.sketch.is_none() && self.shelf.weight() > counts_from(self.shelf.capacity) {
            // As many counters as it will have entries.
            let entries = self.shelf.len() as u64 * self.shelf.capacity / self.shelf.weight();
            self.shelf.sketch = Some(Sketch::new(entries as u32));
        }
    }

    /// To be called about once a second: lets expired entries go.
    pub fn sweep(&mut self, now: Time) {
        self.shelf.retain(|_, expires| now < expires);
    }

    /// It evicts as many times more seldom as it is smaller.
    fn is_full(&self, now: Time) -> bool {
        self.evicted.is_some_and(|evicted| now.saturating_since(evicted) < FULL_FOR * (1 << self.fold))
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        let prints = if self.doorkeeper.is_some() { 2 * self.prints() as usize } else { 0 };
        size_of::<Self>() + self.shelf.bytes() + prints
    }
}
