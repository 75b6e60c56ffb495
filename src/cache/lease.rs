//! What an ear publishes and every hit checks: how long L1 may answer, and which of its entries still count.
//!
//! A [`Freshness`] belongs to one ear. Its **lease** says until when everything acknowledged more than `max_staleness` ago is
//! certain to have been heard; its **epoch** changes whenever the ear must assume that it missed something or was told to
//! forget everything. One ear's task writes both, all workers read both on every hit, so they share a cache line of their own.
//!
//! The order is what makes it sound: the ear applies a change to the stamps first and renews the lease after, and a hit reads
//! the lease first and the stamp after. So a hit that profits from a renewal also sees every change that the renewal vouches
//! for. Nothing here may look at the clock: whoever asks brings the time, read after the request was.
//!
//! Holds contract point 4 (others' writes soon).

use std::sync::atomic::AtomicU64 as PlainU64;
use std::time::Duration;

use super::atomic::{AtomicU64, Ordering};
use crate::clock::Time;

/// Epochs are drawn from one count for the whole process: no two ears, and no two lives of one, ever share a value, so an
/// entry can be compared with whichever ear now speaks for its user.
static NEXT_EPOCH: PlainU64 = PlainU64::new(1);

/// The epoch in which an entry was asked for. Worth comparing for equality, and for nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Epoch(u64);

impl Epoch {
    /// Its number, for people.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The same, as it is noted in entries that do not stand by it alone. Equal to none that an ear has.
    pub(super) const fn marked(self) -> Self {
        Self(self.0 | 1 << 63)
    }

    fn next() -> Self {
        Self(NEXT_EPOCH.fetch_add(1, Ordering::Relaxed))
    }
}

/// The lease and the epoch of one ear.
#[derive(Debug)]
#[repr(align(128))] // two cache lines: their neighbour is prefetched along
pub struct Freshness {
    epoch: AtomicU64,
    lease: AtomicU64,
    heard: AtomicU64,
    proved: AtomicU64,
}

impl Default for Freshness {
    fn default() -> Self {
        Self::new()
    }
}

impl Freshness {
    /// A new epoch and no lease.
    pub fn new() -> Self {
        Self {
            epoch: AtomicU64::new(Epoch::next().0),
            lease: AtomicU64::new(Time::ZERO.as_nanos()),
            heard: AtomicU64::new(0),
            proved: AtomicU64::new(0),
        }
    }

    /// The present epoch. A fill reads it before its request is sent.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// From now on no entry filled so far counts: a null push, a lost ear, SWAPDB, a message on a pattern.
    pub fn bump(&self) {
        self.epoch.swap(Epoch::next().0, Ordering::AcqRel);
    }

    /// Whether L1 may answer a request that was read before `now`.
    pub fn held(&self, now: Time) -> bool {
        now < self.until()
    }

    /// A fence came back: L1 may answer until `until` (the moment that fence was *sent*, plus `max_staleness`). Never
    /// shortens a lease.
    pub fn renew(&self, until: Time) {
        self.lease.fetch_max(until.as_nanos(), Ordering::AcqRel);
    }

    /// The lease is over at once, whatever was said before. The next [`Freshness::renew`] begins a new one.
    pub fn end(&self) {
        self.lease.store(Time::ZERO.as_nanos(), Ordering::Release);
    }

    /// What is left of the lease at `now`, zero where there is none.
    pub fn lease_left(&self, now: Time) -> Duration {
        self.until().saturating_since(now)
    }

    /// The ear was answered what it had sent at `sent`: all that Redis had said before is applied.
    pub fn heard(&self, sent: Time) {
        self.heard.fetch_max(sent.as_nanos(), Ordering::AcqRel);
    }

    /// Everything that Redis had done by this moment has been applied to L1. To be read before an entry is looked up.
    pub fn heard_up_to(&self) -> Time {
        Time::from_nanos(self.heard.load(Ordering::Acquire))
    }

    /// A master has answered a fence, by which a lease may last until then and no longer. To be called before [`Freshness::renew`]: so whoever has
    /// found a lease in force finds what it rests on.
    pub fn prove(&self, until: Time) {
        self.proved.fetch_max(until.as_nanos(), Ordering::AcqRel);
    }

    /// Whether any fence that was answered allows an answer to a request that was read before `now`: the audit's question, to be asked
    /// behind the lookup. What it looks at is not what a hit looks at.
    pub fn is_proved(&self, now: Time) -> bool {
        now < Time::from_nanos(self.proved.load(Ordering::Acquire))
    }

    fn until(&self) -> Time {
        Time::from_nanos(self.lease.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    #[test]
    fn a_new_ear_holds_no_lease() {
        let fresh = Freshness::new();
        assert!(!fresh.held(Time::ZERO));
        assert!(!fresh.held(Time::now()));
        assert_eq!(fresh.lease_left(Time::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_lease_ends_when_it_says_and_only_moves_forward() {
        let fresh = Freshness::new();
        fresh.renew(at(100));
        assert!(fresh.held(at(99)));
        assert!(!fresh.held(at(100)));
        fresh.renew(at(50));
        assert_eq!(fresh.lease_left(at(60)), Duration::from_nanos(40));
        fresh.renew(at(200));
        assert!(fresh.held(at(199)));
    }

    #[test]
    fn an_ended_lease_can_begin_again() {
        let fresh = Freshness::new();
        fresh.renew(at(200));
        fresh.end();
        assert!(!fresh.held(Time::ZERO));
        fresh.renew(at(150));
        assert!(fresh.held(at(149)) && !fresh.held(at(150)));
    }

    #[test]
    fn what_was_proved_is_apart_from_the_lease() {
        let fresh = Freshness::new();
        assert!(!fresh.is_proved(Time::ZERO));
        fresh.prove(at(100));
        fresh.prove(at(50));
        fresh.renew(at(200));
        assert!(fresh.is_proved(at(99)) && !fresh.is_proved(at(100)) && fresh.held(at(150)));
        fresh.end();
        assert!(fresh.is_proved(at(99)), "who looked before that finds what it rested on");
    }

    #[test]
    fn no_two_epochs_are_equal() {
        let ears: Vec<_> = (0..10).map(|_| Freshness::new()).collect();
        let mut seen = Vec::new();
        for _ in 0..10 {
            for ear in &ears {
                assert_eq!(ear.epoch(), ear.epoch());
                assert!(!seen.contains(&ear.epoch()));
                seen.push(ear.epoch());
                ear.bump();
            }
        }
    }

    #[test]
    fn ears_do_not_share_a_cache_line() {
        assert_eq!((size_of::<Freshness>(), align_of::<Freshness>()), (128, 128));
    }
}
