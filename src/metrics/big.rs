//! The biggest values that were seen, by key: a short list with its smallest thrown out.
//!
//! A key stands with the most that it had, until that is so long ago that it may be untrue. Pure data, of one worker.

use std::collections::HashMap;
use std::time::Duration;

use ahash::RandomState;

use super::key_name::KeyName;
use crate::clock::Time;

/// Keys that are remembered.
const MOST: usize = 128;
/// For so long a key stands with the most that it had; after that with what it had last.
const FRESH: Duration = Duration::from_secs(600);
/// Of what was not seen for so long nothing is told.
const KNOWN: Duration = Duration::from_secs(3600);

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct BigValues {
    values: HashMap<u64, BigValue, RandomState>,
    /// Where it is full, the smallest of them: what is no larger is not looked at.
    bar: u64,
}

/// A value that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BigValue {
    pub(super) hash: u64,
    pub(super) key: KeyName,
    /// Of the reply that showed it, or of the command that wrote it.
    pub(super) bytes: u64,
    /// The row number of that command.
    pub(super) command: u16,
    /// When it was seen.
    pub(super) at: Time,
}

impl BigValues {
    /// A value of this key, which has this hash, was seen.
    pub(super) fn see(&mut self, (hash, key): (u64, &[u8]), bytes: u64, command: u16, at: Time) {
        if let Some(known) = self.values.get_mut(&hash) {
            if bytes >= known.bytes || at.saturating_since(known.at) > FRESH {
                let is_other = bytes != known.bytes;
                (known.bytes, known.command, known.at) = (bytes, command, at);
                if is_other {
                    self.raise();
                }
            }
            return;
        }
        if bytes <= self.bar {
            return;
        }
        if self.values.len() == MOST
            && let Some(least) = self.values.values().min_by_key(|known| known.bytes).map(|known| known.hash)
        {
            self.values.remove(&least);
        }
        self.values.insert(hash, BigValue { hash, key: KeyName::of(key), bytes, command, at });
        self.raise();
    }

    fn raise(&mut self) {
        let least = self.values.values().map(|known| known.bytes).min();
        self.bar = least.filter(|_| self.values.len() == MOST).unwrap_or_default();
    }

    /// Forgets what is too long ago. To be called now and then.
    pub(super) fn forget(&mut self, now: Time) {
        self.values.retain(|_, known| now.saturating_since(known.at) < KNOWN);
        self.raise();
    }

    /// The biggest of several, the biggest first.
    pub(super) fn top<'a>(all: impl Iterator<Item = &'a Self>, most: usize) -> Vec<BigValue> {
        let mut values: Vec<_> = all.flat_map(|one| one.values.values()).cloned().collect();
        values.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.key.cmp(&b.key)));
        let mut found: Vec<BigValue> = Vec::new();
        for value in values {
            if found.len() < most && found.iter().all(|known| known.hash != value.hash) {
                found.push(value);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Time = |seconds| Time::from_nanos((1 << 50) + seconds * 1_000_000_000);

    fn see(big: &mut BigValues, key: u64, bytes: u64, at: Time) {
        big.see((key, key.to_string().as_bytes()), bytes, 0, at);
    }

    fn told(big: &[&BigValues], most: usize) -> Vec<(String, u64)> {
        let top = BigValues::top(big.iter().copied(), most).into_iter();
        top.map(|value| (value.key.shown(true), value.bytes)).collect()
    }

    #[test]
    fn the_biggest_stay() {
        let mut big = BigValues::default();
        for key in 0..1000 {
            see(&mut big, key, (key * 7919) % 1000, AT(0));
        }
        let sizes: Vec<u64> = told(&[&big], 3).into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!((sizes, big.values.len(), big.bar), (vec![999, 998, 997], MOST, 1000 - MOST as u64));
    }

    #[test]
    fn a_key_stands_with_the_most_that_it_had_for_a_while() {
        let mut big = BigValues::default();
        for (bytes, at, shown) in [(10, 0, 10), (500, 1, 500), (20, 2, 500), (30, 700, 30), (20, 701, 30)] {
            see(&mut big, 1, bytes, AT(at));
            assert_eq!(told(&[&big], 9), [("1".to_owned(), shown)], "{at}");
        }
        big.forget(AT(700 + 3599));
        assert_eq!(told(&[&big], 9).len(), 1);
        big.forget(AT(700 + 3600));
        assert!(told(&[&big], 9).is_empty());
    }

    #[test]
    fn several_are_told_together() {
        let (mut one, mut other) = (BigValues::default(), BigValues::default());
        see(&mut one, 1, 10, AT(0));
        see(&mut other, 1, 30, AT(0));
        see(&mut other, 2, 20, AT(0));
        assert_eq!(told(&[&one, &other], 9), [("1".to_owned(), 30), ("2".to_owned(), 20)]);
        assert_eq!(told(&[&one, &other], 1).len(), 1);
    }
}
