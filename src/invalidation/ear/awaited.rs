//! Keys of which somebody waits for the next change: those that another process loads from their origin.
//!
//! The ear asks Redis whether the load's token is still there and the key is still missing. So Redis tells of both from then on,
//! and a change before that shows in the reply, but for a token that has become the mark of a value that does not exist. Whoever
//! waits looks at Redis then, and in any case after a while: a change that nobody tells of is seen late, and never missed.

use std::collections::HashMap;

use crate::cache::{Slot, Stamps};
use crate::clock::Time;

/// What is to be told of: that a key, or the token of who loads it, changes.
#[derive(Debug)]
pub struct AwaitedChange {
    /// The database of both.
    pub db: u32,
    /// The key, which was missing.
    pub key: Box<[u8]>,
    /// The token's name, which was there.
    pub token: Box<[u8]>,
    /// Nobody waits any more after that.
    pub until: Time,
}

/// What Redis says while the token is there and the key is not: the token is named twice, so that no other two count the same.
const UNCHANGED: &[u8] = b":2\r\n";

impl AwaitedChange {
    /// The question whose reply [`is_unchanged`] as long as there is nothing to tell.
    pub(super) fn question(&self) -> [&[u8]; 4] {
        [b"EXISTS", &self.token, &self.token, &self.key]
    }

    /// The place of its key's stamp.
    pub(super) fn slot(&self, stamps: &Stamps) -> Slot {
        stamps.slot(stamps.hash(&self.key))
    }
}

/// Whether this reply says that nothing has changed yet.
pub(super) fn is_unchanged(reply: &[u8]) -> bool {
    reply == UNCHANGED
}

/// Who waits, by the place of the key's stamp: two keys that share one wake each other's. `W` is whatever waits; dropped, it goes
/// by its own clock.
#[derive(Debug)]
pub(super) struct AwaitedChanges<W> {
    waiting: HashMap<Slot, Vec<(u64, Time, W)>>,
    numbers: u64,
}

impl<W> AwaitedChanges<W> {
    pub(super) fn new() -> Self {
        Self { waiting: HashMap::new(), numbers: 0 }
    }

    /// Somebody waits until then; the number by which that is known.
    pub(super) fn wait(&mut self, slot: Slot, until: Time, waiter: W) -> u64 {
        self.numbers += 1;
        self.waiting.entry(slot).or_default().push((self.numbers, until, waiter));
        self.numbers
    }

    /// Something has changed there: who waits for that.
    pub(super) fn changed(&mut self, slot: Slot) -> impl Iterator<Item = W> + use<W> {
        let some = if self.waiting.is_empty() { None } else { self.waiting.remove(&slot) };
        some.into_iter().flatten().map(|(.., waiter)| waiter)
    }

    /// Anything may have changed: all who wait.
    pub(super) fn all_changed(&mut self) -> impl Iterator<Item = W> + use<W> {
        std::mem::take(&mut self.waiting).into_values().flatten().map(|(.., waiter)| waiter)
    }

    /// The one with this number, if it waits still.
    pub(super) fn take(&mut self, slot: Slot, number: u64) -> Option<W> {
        let some = self.waiting.get_mut(&slot)?;
        let at = some.iter().position(|(known, ..)| *known == number)?;
        let (.., waiter) = some.swap_remove(at);
        if some.is_empty() {
            self.waiting.remove(&slot);
        }
        Some(waiter)
    }

    /// Drops those who wait no more.
    pub(super) fn sweep(&mut self, now: Time) {
        self.waiting.retain(|_, some| {
            some.retain(|(_, until, _)| now < *until);
            !some.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Time = Time::from_nanos;

    #[test]
    fn a_change_is_told_to_all_who_wait_for_it_once() {
        let stamps = Stamps::for_l1(0);
        let slot = |key: &[u8]| stamps.slot(stamps.hash(key));
        let (one, other) = (slot(b"one"), slot(b"another"));
        let mut awaited = AwaitedChanges::new();
        awaited.wait(one, AT(9), 'a');
        let second = awaited.wait(one, AT(9), 'b');
        awaited.wait(other, AT(9), 'c');
        assert_eq!((awaited.take(one, second), awaited.take(one, second)), (Some('b'), None));
        assert_eq!(awaited.changed(one).collect::<Vec<_>>(), ['a']);
        assert_eq!(awaited.changed(one).count(), 0);
        assert_eq!(awaited.all_changed().collect::<Vec<_>>(), ['c']);
        assert_eq!(awaited.all_changed().count(), 0);
    }

    #[test]
    fn who_waits_no_more_is_dropped() {
        let stamps = Stamps::for_l1(0);
        let slot = stamps.slot(stamps.hash(b"k"));
        let mut awaited = AwaitedChanges::new();
        awaited.wait(slot, AT(5), 'a');
        awaited.wait(slot, AT(9), 'b');
        awaited.sweep(AT(5));
        assert_eq!(awaited.changed(slot).collect::<Vec<_>>(), ['b']);
    }
}
