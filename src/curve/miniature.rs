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
        let shelf = Shelf::new(rooms(size), fold);
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
        self.shelf.scale(rooms(self.size), self.fold);
        if let Some(sketch) = &mut self.shelf.sketch {
            sketch.fold();
        }
        self.doorkeeper = None;
    }

    /// A read, of a key that is promoted at one read in `one_in`. A key that is wanted should be [filled](Self::fill) as soon as it
    /// is known what it takes.
    pub fn read(&mut self, read: &MiniatureRead, one_in: u32) -> MiniatureFinding {
        self.shelf.advance(read.at);
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
        if let Some(place) = self.shelf.get(id).filter(|place| place.is_as(warrant, measure)) {
            place.expires = measure.expires; // it was guessed what it takes
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

/// What an L1 of so many bytes has for entries, and what they may overshoot.
fn rooms(size: u64) -> (u64, u64) {
    let room = room_for_entries(size);
    (room, size - room)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Freshness, Stamps};
    use crate::curve::mixed;

    const AT: fn(u64) -> Time = |millis| Time::from_nanos((1 << 40) + millis * 1_000_000);

    fn measure(expires: Time) -> Measure {
        Measure { weight: 1000, bytes: 500, expires }
    }

    struct MiniatureBench {
        stamps: Stamps,
        fresh: Freshness,
        miniature: Miniature,
    }

    impl MiniatureBench {
        fn new(size: u64, fold: u32) -> Self {
            Self { stamps: Stamps::for_l1(0), fresh: Freshness::new(), miniature: Miniature::new(size, fold) }
        }

        fn about(&self, key: u32, at: Time) -> MiniatureRead {
            let slot = self.stamps.slot(self.stamps.hash(&key.to_be_bytes()));
            let warrant = Some(Warrant::new(self.stamps.load(slot), self.fresh.epoch()));
            MiniatureRead { id: mixed(key.into()), slot: slot.number(), warrant, at, able: true }
        }

        /// Reads, and fills where that is wanted. Whether it was a hit.
        fn read(&mut self, key: u32, at: Time) -> bool {
            let read = self.about(key, at);
            let finding = self.miniature.read(&read, 1);
            if finding == MiniatureFinding::Wanted {
                let warrant = read.warrant.expect("nobody writes");
                self.miniature.fill((read.id, read.slot), warrant, measure(Time::NEVER), at);
            }
            finding == MiniatureFinding::Hit
        }

        fn write(&self, key: u32) {
            self.stamps.touch(self.stamps.slot(self.stamps.hash(&key.to_be_bytes())));
        }
    }

    #[test]
    fn what_was_filled_is_a_hit_until_its_key_or_its_epoch_changes() {
        let mut b = MiniatureBench::new(64 << 20, 0);
        assert_eq!([b.read(1, AT(0)), b.read(1, AT(1)), b.read(1, AT(2))], [false, true, true]);
        b.write(1);
        assert_eq!([b.read(1, AT(3)), b.read(1, AT(4))], [false, true]);
        b.fresh.bump();
        assert_eq!([b.read(1, AT(5)), b.read(1, AT(6))], [false, true]);
        let behind = MiniatureRead { able: false, ..b.about(1, AT(7)) };
        assert_ne!(b.miniature.read(&behind, 1), MiniatureFinding::Hit, "L1 could not answer");
        let under_way = MiniatureRead { warrant: None, ..b.about(1, AT(8)) };
        assert_ne!(b.miniature.read(&under_way, 1), MiniatureFinding::Hit);
    }

    #[test]
    fn what_has_outlived_its_key_is_none() {
        let mut b = MiniatureBench::new(64 << 20, 0);
        let read = b.about(1, AT(0));
        let fill = |miniature: &mut Miniature, of: Measure| {
            miniature.fill((read.id, read.slot), read.warrant.expect("nobody writes"), of, AT(0));
        };
        fill(&mut b.miniature, Measure::UNFIT);
        fill(&mut b.miniature, measure(AT(0)));
        assert!(b.miniature.is_empty(), "neither may be kept");
        fill(&mut b.miniature, measure(AT(100)));
        assert_eq!(b.miniature.read(&MiniatureRead { at: AT(99), ..read }, 0), MiniatureFinding::Hit);
        assert_eq!(b.miniature.read(&MiniatureRead { at: AT(100), ..read }, 0), MiniatureFinding::Miss);
        fill(&mut b.miniature, measure(AT(100)));
        b.miniature.sweep(AT(101));
        assert!(b.miniature.is_empty());
    }

    #[test]
    fn a_copy_that_was_hit_often_is_wanted_again_at_once_and_a_rule_that_says_never_holds() {
        let mut b = MiniatureBench::new(64 << 20, 0);
        (0..=u64::from(PAID)).for_each(|at| _ = b.read(1, AT(at)));
        b.write(1);
        let read = b.about(1, AT(10));
        assert_eq!(b.miniature.read(&read, u32::MAX), MiniatureFinding::Wanted);
        assert_eq!(b.miniature.read(&read, u32::MAX), MiniatureFinding::Miss, "it is not there any more");
        assert!((0..100).all(|_| b.miniature.read(&read, 0) == MiniatureFinding::Miss));
    }

    #[test]
    fn it_keeps_as_many_as_have_room_in_its_part_of_l1_and_those_that_are_read() {
        let mut b = MiniatureBench::new(8 << 20, 2);
        for round in 0..60_u64 {
            for key in (0..400).chain(1000 + 300 * round as u32..1300 + 300 * round as u32) {
                if b.miniature.takes(b.about(key, AT(0)).slot) {
                    b.read(key, AT(round * 1000));
                }
            }
        }
        // And a few newcomers of whom it is not decided yet.
        assert!((1700..=2000 + 16).contains(&b.miniature.len()), "{}", b.miniature.len());
        let popular = (0..400).filter(|&key| b.miniature.takes(b.about(key, AT(0)).slot)).collect::<Vec<_>>();
        assert!((60..140).contains(&popular.len()), "one in four");
        let hits = popular.iter().filter(|&&key| b.read(key, AT(60_000))).count();
        assert!(hits * 10 >= popular.len() * 9, "{hits} of {}", popular.len());
        let before = b.miniature.len();
        b.miniature.halve();
        let slots = popular.iter().map(|&key| b.about(key, AT(0)).slot).filter(|&slot| b.miniature.takes(slot));
        assert!((20..80).contains(&slots.count()) && b.miniature.len() < before * 2 / 3, "half of them are left");
    }

    #[test]
    fn reads_that_come_at_once_are_as_many_reads() {
        let mut b = MiniatureBench::new(64 << 20, 0);
        let read = b.about(1, AT(0));
        let of = || Some(measure(Time::NEVER));
        assert_eq!(
            b.miniature.read_often(&read, 1, 10, || None),
            (MiniatureFinding::Wanted, 10),
            "it is not there yet"
        );
        assert_eq!(b.miniature.read_often(&read, 0, 10, of), (MiniatureFinding::Miss, 10));
        assert_eq!(b.miniature.read_often(&read, 1, 10, of), (MiniatureFinding::Hit, 1));
        assert_eq!(b.miniature.read_often(&read, 1, 10, of), (MiniatureFinding::Hit, 0));
        let (finding, misses) = b.miniature.read_often(&b.about(2, AT(0)), 10, 1000, of);
        assert!(finding == MiniatureFinding::Hit && (1..200).contains(&misses), "{misses}");
    }
}
