//! What a worker notes of the keys in its sample of requests: which are hot, which are big. Added up when somebody asks.
//!
//! Behind a lock, which is held for a moment for one request in about 64; a scrape or a listing holds it as shortly.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::RandomState;

use super::big::BigValues;
use super::key_name::KeyName;
use super::sketch::HeavyHitters;
use crate::clock::Time;

/// After so long what was counted counts for half.
pub(crate) const HALF_LIFE: Duration = Duration::from_secs(30);

/// Hashes of keys, by which they are told apart: the same in all workers.
static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);
/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct KeyWatch(Mutex<WatchedKeys>);

#[derive(Debug, Default)]
struct WatchedKeys {
    reads: HeavyHitters,
    writes: HeavyHitters,
    big: BigValues,
    /// Since when, and when it was last faded.
    began: Option<Time>,
    faded: Option<Time>,
}

/// A key that is asked for often.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HotKey {
    /// The key.
    pub(crate) key: KeyName,
    /// How often in a second.
    pub(crate) per_second: f64,
    /// Which part that is of all reads, or writes.
    pub(crate) share: f64,
}

/// A key with a big value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BigKey {
    /// The key.
    pub(crate) key: KeyName,
    /// Of the reply that showed its value, or the command that wrote it.
    pub(crate) bytes: u64,
    /// The row number of that command.
    pub(crate) command: u16,
    /// How long ago that was.
    pub(crate) ago: Duration,
}

/// The hash by which a key is told from others.
pub(crate) fn hash_of(key: &[u8]) -> u64 {
    HASHES.hash_one(key)
}

impl KeyWatch {
    fn lock(&self) -> MutexGuard<'_, WatchedKeys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key, which has this hash, was read or written so many times.
    pub(crate) fn count(&self, key: &[u8], hash: u64, writes: bool, times: f64) {
        let watched = &mut *self.lock();
        let sketch = if writes { &mut watched.writes } else { &mut watched.reads };
        sketch.add(hash, key, times);
    }

    /// A value of it was seen that makes a reply, or a command, of so many bytes.
    pub(crate) fn see(&self, key: &[u8], hash: u64, bytes: u64, command: u16) {
        self.lock().big.see((hash, key), bytes, command, Time::now());
    }

    /// Time goes by. To be called about once a second.
    pub(crate) fn age(&self, now: Time) {
        let watched = &mut *self.lock();
        watched.began.get_or_insert(now);
        let gone = now.saturating_since(watched.faded.replace(now).unwrap_or(now));
        let factor = half_lives(gone).exp2().recip();
        watched.reads.fade(factor);
        watched.writes.fade(factor);
        watched.big.forget(now);
    }

    /// The keys that are read most now, or written, over all workers.
    pub(crate) fn hottest(all: &[&Self], writes: bool, most: usize, now: Time) -> Vec<HotKey> {
        let all: Vec<_> = all.iter().map(|one| one.lock()).collect();
        let sketches = || all.iter().map(|one| if writes { &one.writes } else { &one.reads });
        let began = all.iter().filter_map(|one| one.began).min().unwrap_or(now);
        let (total, rate) = (HeavyHitters::total(sketches()), per_second(now.saturating_since(began)));
        let share = |count: f64| if total > 0.0 { count / total } else { 0.0 };
        let top = HeavyHitters::top(sketches(), most).into_iter();
        top.map(|heavy| HotKey { key: heavy.key, per_second: heavy.count * rate, share: share(heavy.count) }).collect()
    }

    /// The keys with the biggest values, over all workers.
    pub(crate) fn biggest(all: &[&Self], most: usize, now: Time) -> Vec<BigKey> {
        let all: Vec<_> = all.iter().map(|one| one.lock()).collect();
        let top = BigValues::top(all.iter().map(|one| &one.big), most).into_iter();
        let big = |value: super::big::BigValue| {
            let ago = now.saturating_since(value.at);
            BigKey { key: value.key, bytes: value.bytes, command: value.command, ago }
        };
        top.map(big).collect()
    }
}

fn half_lives(span: Duration) -> f64 {
    span.as_secs_f64() / HALF_LIFE.as_secs_f64()
}

/// By what a count that fades is multiplied to be a rate, where it was begun so long ago: what comes evenly adds up to its rate times
/// the half-life over the logarithm of 2, and at first to less.
pub(crate) fn per_second(since: Duration) -> f64 {
    let since = since.max(Duration::from_secs(1));
    std::f64::consts::LN_2 / HALF_LIFE.as_secs_f64() / (1.0 - half_lives(since).exp2().recip())
}

/// What is left of a count after so long.
pub(crate) fn faded(count: f64, gone: Duration) -> f64 {
    count / half_lives(gone).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Time = |seconds| Time::from_nanos((1 << 50) + seconds * 1_000_000_000);

    fn count(watch: &KeyWatch, key: &[u8], writes: bool, times: f64) {
        watch.count(key, hash_of(key), writes, times);
    }

    #[test]
    fn a_steady_rate_is_told_as_such_from_the_first_seconds_on() {
        let watch = KeyWatch::default();
        watch.age(AT(0));
        for second in 1..=600 {
            (0..3).for_each(|_| count(&watch, b"k", false, 64.0));
            count(&watch, b"other", false, 64.0);
            watch.age(AT(second));
            if [5, 30, 600].contains(&second) {
                let top = KeyWatch::hottest(&[&watch], false, 1, AT(second));
                assert_eq!(top[0].key, KeyName::of(b"k"));
                let rate = top[0].per_second;
                assert!((170.0..210.0).contains(&rate), "{second}: {rate}");
                assert!((0.7..=0.76).contains(&top[0].share), "{second}: {}", top[0].share);
            }
        }
    }

    #[test]
    fn reads_and_writes_stand_apart_and_workers_together() {
        let (one, other) = (KeyWatch::default(), KeyWatch::default());
        for watch in [&one, &other] {
            (0..4).for_each(|_| count(watch, b"read", false, 64.0));
            (0..2).for_each(|_| count(watch, b"written", true, 64.0));
        }
        let names = |writes| {
            let top = KeyWatch::hottest(&[&one, &other], writes, 9, AT(0));
            top.into_iter().map(|hot| (hot.key, hot.share)).collect::<Vec<_>>()
        };
        assert_eq!(names(false), [(KeyName::of(b"read"), 1.0)]);
        assert_eq!(names(true), [(KeyName::of(b"written"), 1.0)]);
    }

    #[test]
    fn big_values_are_told_over_all_workers() {
        let (one, other) = (KeyWatch::default(), KeyWatch::default());
        one.see(b"a", hash_of(b"a"), 100, 3);
        other.see(b"b", hash_of(b"b"), 200, 4);
        let told: Vec<_> = KeyWatch::biggest(&[&one, &other], 9, Time::now());
        assert_eq!((&told[0].key, told[0].bytes, told[0].command), (&KeyName::of(b"b"), 200, 4));
        assert_eq!(told.len(), 2);
    }
}
