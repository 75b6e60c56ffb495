//! What decides what stays in L1: a Moka of tickets, one for each entry.
//!
//! It keeps a small ticket and never the entry, so that what leaves L1 is freed at once and not when Moka's deferred reclamation
//! gets to it. Made and asked by [`store`](super::store) alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::notification::RemovalCause;
use moka::sync::Cache;

use super::key::AsIs;
use crate::clock::Time;

pub(super) type Policy = Cache<u64, Ticket, AsIs>;

/// What Moka keeps of an entry.
#[derive(Clone, Copy)]
pub(super) struct Ticket {
    pub(super) serial: u32,
    pub(super) weight: u32,
    /// Milliseconds until the entry is useless, 0 for never.
    pub(super) life: u32,
}

/// A policy for tickets of this weight in all. `left` is told of each that it lets go of, inside a call of the policy: it must not
/// call it.
pub(super) fn policy(capacity: u64, left: impl Fn(u64, Ticket, RemovalCause) + Send + Sync + 'static) -> Policy {
    Cache::builder()
        .name("l1")
        .max_capacity(capacity)
        .weigher(|_, ticket: &Ticket| ticket.weight)
        .expire_after(Lifetime)
        .eviction_listener(move |hash: Arc<u64>, ticket: Ticket, cause| left(*hash, ticket, cause))
        .build_with_hasher(AsIs::default())
}

impl Ticket {
    pub(super) fn new(serial: u32, weight: u64, expires: Time, now: Time) -> Option<Self> {
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

    #[test]
    fn a_ticket_lives_as_long_as_its_entry_and_a_little_longer() {
        let at = |millis: u64| Time::from_nanos(millis * 1_000_000);
        let life = |expires| Ticket::new(0, 1, expires, at(1000)).and_then(Ticket::life);
        assert_eq!(life(Time::NEVER), None);
        assert_eq!(life(at(1500)), Some(Duration::from_millis(501)));
        assert_eq!(life(at(1000 + (1 << 33))), None, "memory need not be given back by the clock");
        assert!(Ticket::new(0, 1 << 33, Time::NEVER, at(0)).is_none(), "too heavy to be counted");
    }
}
