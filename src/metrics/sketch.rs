//! Which keys are asked for most, counted in little memory: Space-Saving (Metwally, Agrawal, El Abbadi, 2005), in sets.
//!
//! The hash of a key says in which set it is counted. A set knows [`WAYS`] keys. One that comes new takes the place of the key with the
//! lowest count, and takes that count over, which is the most by which its own can then be too high. So what is [sure](HeavyHitters::top)
//! of a count is never more than was added, and less by no more than an eighth of what its set was given. Counts fade, so that what is shown is
//! of now. Pure data: each worker has its own, and who asks adds them up.

use std::collections::HashMap;

use super::key_name::KeyName;

/// Keys that a set knows.
const WAYS: usize = 8;
/// How many sets there are.
const SETS: usize = 64;

/// See the module's head.
#[derive(Debug)]
pub(super) struct HeavyHitters {
    sets: Box<[[CountedKey; WAYS]]>,
    total: f64,
}

/// A key's place in its set.
#[derive(Debug, Default)]
struct CountedKey {
    hash: u64,
    count: f64,
    /// Of that, what it took over.
    excess: f64,
    /// None before it comes again: most come once, and need no memory.
    key: Option<KeyName>,
}

/// One of the keys that are asked for most.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HeavyKey {
    pub(super) key: KeyName,
    /// What was added for it, at least.
    pub(super) count: f64,
}

impl Default for HeavyHitters {
    fn default() -> Self {
        let set = || std::array::from_fn(|_| CountedKey::default());
        Self { sets: (0..SETS).map(|_| set()).collect(), total: 0.0 }
    }
}

impl HeavyHitters {
    /// Counts `key`, which has this hash, so many times.
    pub(super) fn add(&mut self, hash: u64, key: &[u8], times: f64) {
        self.total += times;
        let at = usize::try_from(hash % SETS as u64).expect("there are few");
        let set = &mut self.sets[at];
        if let Some(known) = set.iter_mut().find(|known| known.hash == hash && known.count > 0.0) {
            known.count += times;
            known.key.get_or_insert_with(|| KeyName::of(key));
            return;
        }
        let lowest = set.iter_mut().min_by(|a, b| a.count.total_cmp(&b.count)).expect("a set has places");
        *lowest = CountedKey { hash, count: lowest.count + times, excess: lowest.count, key: None };
    }

    /// All that was counted counts for this part of it from now on.
    pub(super) fn fade(&mut self, factor: f64) {
        self.total *= factor;
        for known in self.sets.iter_mut().flatten() {
            known.count *= factor;
            known.excess *= factor;
        }
    }

    #[cfg(test)]
    fn counts(&self) -> impl Iterator<Item = &CountedKey> {
        self.sets.iter().flatten()
    }

    /// What was added in all, of several.
    pub(super) fn total<'a>(all: impl Iterator<Item = &'a Self>) -> f64 {
        all.map(|one| one.total).sum()
    }

    /// The `most` keys of several of which is sure that most was added for them, the first of them first. What came once is none.
    pub(super) fn top<'a>(all: impl Iterator<Item = &'a Self>, most: usize) -> Vec<HeavyKey> {
        let mut keys: HashMap<u64, HeavyKey> = HashMap::new();
        for known in all.flat_map(|one| one.sets.iter().flatten()) {
            let Some(key) = &known.key else { continue };
            let sum = keys.entry(known.hash).or_insert_with(|| HeavyKey { key: key.clone(), count: 0.0 });
            sum.count += known.count - known.excess;
        }
        let mut keys: Vec<_> = keys.into_values().collect();
        keys.sort_by(|a, b| b.count.total_cmp(&a.count).then_with(|| a.key.cmp(&b.key)));
        keys.truncate(most);
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    /// Any mixing will do.
    fn hash(key: u64) -> u64 {
        let mixed = (key + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 3
    }

    fn name(key: u64) -> Vec<u8> {
        key.to_string().into_bytes()
    }

    /// A key by Zipf's law over `keys` of them.
    fn zipf(random: &mut StdRng, sums: &[f64]) -> u64 {
        let at = random.random::<f64>() * sums.last().expect("some keys");
        sums.partition_point(|&sum| sum < at) as u64
    }

    fn sums(keys: u64, exponent: f64) -> Vec<f64> {
        let mut sum = 0.0;
        let add = |rank| {
            sum += f64::from(u32::try_from(rank).expect("few")).powf(-exponent);
            sum
        };
        (1..=keys).map(add).collect()
    }

    #[test]
    fn counts_are_never_too_high_and_hardly_too_low() {
        for (exponent, sure) in [(0.8, 10), (1.0, 20), (1.2, 20)] {
            let (mut random, sums) = (StdRng::seed_from_u64(7), sums(100_000, exponent));
            let (mut sketch, mut exact) = (HeavyHitters::default(), HashMap::<u64, f64>::new());
            for _ in 0..200_000 {
                let key = zipf(&mut random, &sums);
                sketch.add(hash(key), &name(key), 1.0);
                *exact.entry(key).or_default() += 1.0;
            }
            let found = HeavyHitters::top([&sketch].into_iter(), 30);
            for HeavyKey { key, count } in &found {
                let key: u64 = key.shown(true).parse().expect("a number");
                assert!(*count <= exact[&key], "{exponent}: {key}: {count} of {}", exact[&key]);
            }
            let mut by_count: Vec<_> = exact.iter().collect();
            by_count.sort_by(|a, b| b.1.total_cmp(a.1));
            for (key, count) in by_count.into_iter().take(sure) {
                let known = found.iter().find(|known| known.key == KeyName::of(&name(*key)));
                let known = known.unwrap_or_else(|| panic!("{exponent}: {key} with {count} is missing"));
                assert!(known.count > count * 0.5, "{exponent}: {key}: {} of {count}", known.count);
            }
        }
    }

    #[test]
    fn where_all_are_alike_none_seems_hot() {
        let mut sketch = HeavyHitters::default();
        let mut random = StdRng::seed_from_u64(3);
        for _ in 0..100_000 {
            let key = random.random_range(0..50_000);
            sketch.add(hash(key), &name(key), 1.0);
        }
        let top = HeavyHitters::top([&sketch].into_iter(), 1);
        assert!(top.iter().all(|key| key.count < 20.0), "{top:?}");
        assert!((HeavyHitters::total([&sketch].into_iter()) - 100_000.0).abs() < 1e-6);
    }

    #[test]
    fn what_was_hot_makes_room_for_what_is() {
        let mut sketch = HeavyHitters::default();
        (0..1000).for_each(|_| sketch.add(hash(1), b"old", 1.0));
        for _ in 0..10 {
            sketch.fade(0.5);
        }
        (0..10).for_each(|_| sketch.add(hash(2), b"new", 1.0));
        let top = HeavyHitters::top([&sketch].into_iter(), 2);
        assert_eq!([&top[0].key, &top[1].key], [&KeyName::of(b"new"), &KeyName::of(b"old")]);
        assert!((top[1].count - 1000.0 / 1024.0).abs() < 1e-9, "{}", top[1].count);
    }

    #[test]
    fn several_add_up() {
        let (mut one, mut other) = (HeavyHitters::default(), HeavyHitters::default());
        (0..3).for_each(|_| one.add(hash(1), b"a", 64.0));
        (0..2).for_each(|_| other.add(hash(1), b"a", 64.0));
        (0..4).for_each(|_| other.add(hash(2), b"b", 64.0));
        let top = HeavyHitters::top([&one, &other].into_iter(), 9);
        let told: Vec<_> = top.iter().map(|known| (known.key.shown(true), known.count)).collect();
        assert_eq!(told, [("a".to_owned(), 320.0), ("b".to_owned(), 256.0)]);
        assert_eq!(HeavyHitters::top([&one, &other].into_iter(), 1).len(), 1);
    }

    #[test]
    fn what_comes_once_takes_no_memory_for_its_name() {
        let mut sketch = HeavyHitters::default();
        (0..5000).for_each(|key| sketch.add(hash(key), &name(key), 1.0));
        assert!(sketch.counts().all(|known| known.key.is_none()));
        assert!(HeavyHitters::top([&sketch].into_iter(), 9).is_empty());
    }

    #[test]
    fn long_keys_that_begin_alike_have_numbers_of_their_own() {
        let mut sketch = HeavyHitters::default();
        let keys = [[b'x'; 2000], *[[b'x'; 1000], [b'y'; 1000]].as_flattened().first_chunk().expect("as long")];
        for (nth, key) in (0..).zip(&keys) {
            (0..2).for_each(|_| sketch.add(hash(nth), key, 1.0));
        }
        let top = HeavyHitters::top([&sketch].into_iter(), 9);
        assert_eq!(top.len(), 2);
        assert!(top[0].key.shown(false) != top[1].key.shown(false) && top[0].key.shown(true) == top[1].key.shown(true));
    }
}
