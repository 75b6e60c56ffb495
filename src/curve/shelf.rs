//! What stays in an L1 of a size: the decisions of Moka, without its threads, locks and pointers.
//!
//! A place for each entry, in the order in which it was last asked for. A newcomer for which there is no room is taken in only if it
//! was asked for more often than all those together that would have to go: the longest unasked ones, as many as weigh what it does
//! (`TinyLFU`). As Moka works in batches, a newcomer stays until the next batch ([`BATCH`]), whether it is taken in then or not: what is
//! read twice in quick succession is a hit. Moka itself takes 350 bytes an entry, ten times as much; a test holds the two side by side.
//! Belongs to [`miniature`](super::miniature).

use std::collections::HashMap;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::sketch::Sketch;
use crate::cache::{AsIs, Measure, Warrant};
use crate::clock::Time;

/// No place.
const NOWHERE: u32 = u32::MAX;

/// After so many writes, or so many questions that it is told of, Moka decides about those that wait (`WRITE_LOG_FLUSH_POINT` and
/// `READ_LOG_FLUSH_POINT` of its sources).
const BATCH: u32 = 64;
/// And after so long, as soon as anything is asked (`LOG_SYNC_INTERVAL_MILLIS`).
const BATCH_FOR: Duration = Duration::from_millis(300);

/// An entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShelfPlace {
    id: u64,
    pub(super) warrant: Warrant,
    pub(super) expires: Time,
    weight: u32,
    slot: u32,
    /// Neighbours in the order of use.
    earlier: u32,
    later: u32,
    pub(super) hits: u8,
    /// It is not in that order: nobody has decided whether it stays.
    waits: bool,
}

impl ShelfPlace {
    /// Whether it stands by this and takes as much.
    pub(super) fn is_as(&self, warrant: Warrant, measure: Measure) -> bool {
        self.warrant == warrant && self.weight == measure.weight
    }
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Shelf {
    places: Vec<ShelfPlace>,
    free: Vec<u32>,
    by_id: HashMap<u64, u32, AsIs>,
    oldest: u32,
    newest: u32,
    weight: u64,
    pub(super) capacity: u64,
    pub(super) sketch: Option<Sketch>,
    /// Those of whom it is to be decided whether they stay, in the order in which they came, and what they weigh.
    waiting: Vec<u32>,
    waiting_weight: u64,
    /// What they may weigh: beyond that Moka is asked to decide at once.
    slack: u64,
    /// What was asked and written since that was decided last, and when that was.
    asked: u32,
    written: u32,
    decided: Time,
    now: Time,
    /// One stands for two to the power of this.
    fold: u32,
    rng: SmallRng,
}

impl Shelf {
    /// An empty one, of one key in two to the power of `fold`: all have so many bytes of room, and those that wait may have more (`slack`).
    pub(super) fn new((capacity, slack): (u64, u64), fold: u32) -> Self {
        let mut shelf = Self {
            places: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::default(),
            oldest: NOWHERE,
            newest: NOWHERE,
            weight: 0,
            capacity: 0,
            sketch: None,
            waiting: Vec::new(),
            waiting_weight: 0,
            slack: 0,
            asked: 0,
            written: 0,
            decided: Time::ZERO,
            now: Time::ZERO,
            fold: 0,
            rng: SmallRng::from_rng(&mut rand::rng()),
        };
        shelf.scale((capacity, slack), fold);
        shelf
    }

    /// From now on it is of so many keys.
    pub(super) fn scale(&mut self, (capacity, slack): (u64, u64), fold: u32) {
        (self.capacity, self.slack, self.fold) = (capacity >> fold, slack >> fold, fold);
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Bytes in entries.
    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    /// The entry of a key.
    pub(super) fn get(&mut self, id: u64) -> Option<&mut ShelfPlace> {
        let at = *self.by_id.get(&id)?;
        Some(&mut self.places[at as usize])
    }

    /// It is told that a key was asked for, be it there or not.
    pub(super) fn touch(&mut self, id: u64) {
        if let Some(sketch) = &mut self.sketch {
            sketch.count(id);
        }
        if let Some(&at) = self.by_id.get(&id).filter(|&&at| !self.places[at as usize].waits) {
            self.unlink(at);
            self.link(at);
        }
        self.asked += self.stands_for();
        if self.asked >= BATCH {
            self.decide();
        }
    }

    /// What was done once was done about as often in all: so often, as chance has it, or batches would always end behind one in the sample.
    fn stands_for(&mut self) -> u32 {
        if self.fold == 0 { 1 } else { self.rng.random_range(1..2 << self.fold.min(20)) }
    }

    /// It was written to.
    fn wrote(&mut self) {
        self.written += self.stands_for();
        if self.written >= BATCH || self.weight + self.waiting_weight > self.capacity + self.slack {
            self.decide();
        }
    }

    /// It is `now`.
    pub(super) fn advance(&mut self, now: Time) {
        self.now = now;
        if now.saturating_since(self.decided) >= BATCH_FOR {
            self.decide();
        }
    }

    /// Decides about those that wait.
    fn decide(&mut self) {
        (self.asked, self.written, self.decided, self.waiting_weight) = (0, 0, self.now, 0);
        let mut waiting = std::mem::take(&mut self.waiting);
        for at in waiting.drain(..) {
            let ShelfPlace { id, weight, .. } = self.places[at as usize];
            if self.weight + u64::from(weight) <= self.capacity || self.makes_room(id, weight) {
                self.places[at as usize].waits = false;
                self.weight += u64::from(weight);
                self.link(at);
            } else {
                self.by_id.remove(&id);
                self.free.push(at);
            }
        }
        self.waiting = waiting;
    }

    /// Takes in an entry, or an old one's newer answer. Whether there was no room for it: then it waits, or others have gone.
    pub(super) fn insert(&mut self, (id, slot): (u64, u32), warrant: Warrant, measure: Measure) -> bool {
        let Measure { weight, expires, .. } = measure;
        if let Some(&at) = self.by_id.get(&id) {
            let place = &mut self.places[at as usize];
            let before = std::mem::replace(place, ShelfPlace { warrant, expires, weight, hits: 0, ..*place });
            if before.waits {
                self.waiting_weight = self.waiting_weight - u64::from(before.weight) + u64::from(weight);
                self.wrote();
                return true;
            }
            self.weight = self.weight - u64::from(before.weight) + u64::from(weight);
            self.unlink(at);
            self.link(at);
            let full = self.weight > self.capacity;
            while self.weight > self.capacity {
                self.remove_at(self.oldest);
            }
            self.wrote();
            return full;
        }
        if self.weight + self.waiting_weight + u64::from(weight) > self.capacity + self.slack {
            self.decide();
        }
        let waits = self.weight + u64::from(weight) > self.capacity;
        let (earlier, later, hits) = (NOWHERE, NOWHERE, 0);
        let place = ShelfPlace { id, warrant, expires, weight, slot, earlier, later, hits, waits };
        let at = if let Some(at) = self.free.pop() {
            self.places[at as usize] = place;
            at
        } else {
            self.places.push(place);
            self.places.len() as u32 - 1
        };
        self.by_id.insert(id, at);
        if waits {
            self.waiting.push(at);
            self.waiting_weight += u64::from(weight);
        } else {
            self.weight += u64::from(weight);
            self.link(at);
        }
        self.wrote();
        waits
    }

    /// Lets those go in whose place the newcomer is worth it. Whether it is.
    fn makes_room(&mut self, id: u64, weight: u32) -> bool {
        let frequency = |shelf: &Self, id| shelf.sketch.as_ref().map_or(0, |sketch| sketch.frequency(id));
        let wanted = frequency(self, id);
        let (mut freed, mut others, mut count, mut at) = (0, 0, 0, self.oldest);
        while freed < u64::from(weight) && others <= wanted && at != NOWHERE {
            let place = &self.places[at as usize];
            freed += u64::from(place.weight);
            others += frequency(self, place.id);
            count += 1;
            at = place.later;
        }
        let worth = freed >= u64::from(weight) && wanted > others;
        if worth {
            (0..count).for_each(|_| self.remove_at(self.oldest));
        }
        worth
    }

    pub(super) fn remove(&mut self, id: u64) {
        if let Some(&at) = self.by_id.get(&id) {
            self.remove_at(at);
            self.wrote();
        }
    }

    /// Lets all go whose key or time is not wanted any more.
    pub(super) fn retain(&mut self, wanted: impl Fn(u32, Time) -> bool) {
        self.decide();
        let mut at = self.oldest;
        while at != NOWHERE {
            let place = self.places[at as usize];
            if !wanted(place.slot, place.expires) {
                self.remove_at(at);
            }
            at = place.later;
        }
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        let index = self.by_id.capacity() * 8 / 7 * (size_of::<(u64, u32)>() + 1);
        let numbers = self.free.capacity() + self.waiting.capacity();
        let places = self.places.capacity() * size_of::<ShelfPlace>() + numbers * size_of::<u32>();
        index + places + self.sketch.as_ref().map_or(0, Sketch::bytes)
    }

    fn remove_at(&mut self, at: u32) {
        let place = self.places[at as usize];
        if place.waits {
            self.waiting.retain(|&waiting| waiting != at);
            self.waiting_weight -= u64::from(place.weight);
        } else {
            self.unlink(at);
            self.weight -= u64::from(place.weight);
        }
        self.by_id.remove(&place.id);
        self.free.push(at);
    }

    fn unlink(&mut self, at: u32) {
        let ShelfPlace { earlier, later, .. } = self.places[at as usize];
        match earlier {
            NOWHERE => self.oldest = later,
            _ => self.places[earlier as usize].later = later,
        }
        match later {
            NOWHERE => self.newest = earlier,
            _ => self.places[later as usize].earlier = earlier,
        }
    }

    /// Puts it behind all others.
    fn link(&mut self, at: u32) {
        let before = self.newest;
        let place = &mut self.places[at as usize];
        (place.earlier, place.later) = (before, NOWHERE);
        match before {
            NOWHERE => self.oldest = at,
            _ => self.places[before as usize].later = at,
        }
        self.newest = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curve::mixed;

    fn measure(weight: u32) -> Measure {
        Measure { weight, bytes: 1, expires: Time::NEVER }
    }

    /// One that has room for three, and decides at once.
    fn at_once() -> Shelf {
        Shelf::new((300, 0), 0)
    }

    fn keys(shelf: &Shelf, upto: u64) -> Vec<u64> {
        (0..upto).filter(|&key| shelf.by_id.contains_key(&mixed(key))).collect()
    }

    #[test]
    fn who_was_asked_for_more_often_than_the_longest_unasked_takes_its_place() {
        let mut shelf = at_once();
        shelf.sketch = Some(Sketch::new(64));
        for key in 0..3 {
            assert!(!shelf.insert((mixed(key), 0), Warrant::default(), measure(100)));
        }
        shelf.touch(mixed(0));
        assert!(shelf.insert((mixed(7), 0), Warrant::default(), measure(100)), "for one as seldom there is no room");
        assert_eq!(keys(&shelf, 10), [0, 1, 2]);
        shelf.touch(mixed(7));
        assert!(shelf.insert((mixed(7), 0), Warrant::default(), measure(100)));
        assert_eq!(keys(&shelf, 10), [0, 2, 7], "the one that was asked for last stays");
        (0..3).for_each(|_| shelf.touch(mixed(8)));
        assert!(shelf.insert((mixed(8), 0), Warrant::default(), measure(200)));
        assert_eq!((keys(&shelf, 10), shelf.weight()), (vec![7, 8], 300), "two had to go for it");
    }

    #[test]
    fn a_newcomer_without_room_stays_until_it_is_decided_about_the_next_ones() {
        let come = |shelf: &mut Shelf, key: u64| shelf.insert((mixed(key), 0), Warrant::default(), measure(100));
        let full = |fold: u32| {
            let mut shelf = Shelf::new((300 << fold, 1 << 20), fold);
            shelf.sketch = Some(Sketch::new(64));
            (0..4).for_each(|key| _ = come(&mut shelf, key));
            assert_eq!(shelf.weight(), 300);
            shelf
        };
        let mut shelf = full(0);
        assert_eq!(keys(&shelf, 10), [0, 1, 2, 3]);
        (0..2).for_each(|_| shelf.touch(mixed(3)));
        shelf.advance(Time::from_nanos(300_000_000));
        assert_eq!(keys(&shelf, 10), [1, 2, 3], "it was asked for meanwhile");
        assert!(come(&mut shelf, 4) && come(&mut shelf, 4));
        shelf.advance(Time::from_nanos(599_999_999));
        shelf.remove(mixed(3));
        assert_eq!((keys(&shelf, 10), shelf.weight()), (vec![1, 2, 4], 200));
        shelf.remove(mixed(4));
        assert!(!come(&mut shelf, 5) && come(&mut shelf, 6));
        shelf.advance(Time::from_nanos(600_000_000));
        assert_eq!(keys(&shelf, 10), [1, 2, 5]);
        for _ in 0..2 {
            (10..73).for_each(|key| _ = come(&mut shelf, key));
            assert_eq!(keys(&shelf, 100).len(), 3 + 63);
            come(&mut shelf, 73);
            assert_eq!(keys(&shelf, 100), [1, 2, 5], "so many are decided about at once");
        }
        come(&mut shelf, 6);
        (0..64).for_each(|_| shelf.touch(mixed(7)));
        assert_eq!(keys(&shelf, 10), [1, 2, 5], "or when so many have asked");
        let waited = (0..1000).filter(|_| keys(&full(6), 10).len() == 4).count();
        assert!((50..450).contains(&waited), "in so small a part one comes at a time: {waited} of 1000");
    }

    #[test]
    fn a_newer_answer_takes_the_place_of_the_older() {
        let mut shelf = at_once();
        for key in 0..3 {
            shelf.insert((mixed(key), key as u32), Warrant::default(), measure(100));
        }
        assert!(shelf.insert((mixed(0), 0), Warrant::default(), measure(200)));
        assert_eq!((keys(&shelf, 10), shelf.weight()), (vec![0, 2], 300));
        shelf.retain(|slot, _| slot > 0);
        shelf.remove(mixed(9));
        assert_eq!((keys(&shelf, 10), shelf.len(), shelf.weight()), (vec![2], 1, 100));
        shelf.remove(mixed(2));
        assert_eq!((shelf.oldest, shelf.newest, shelf.weight()), (NOWHERE, NOWHERE, 0));
    }
}
