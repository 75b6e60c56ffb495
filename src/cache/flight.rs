//! Flights: reads under way on one lane, and who waits for them.
//!
//! When many sessions of one lane ask the same thing at once, the first one's request goes out and the others join it. What
//! makes joining safe is what makes a hit safe: the stamp was read before the request left, no write was under way then, and
//! it still stands. Beyond that, no opaque write may have been answered since (its keys are unknown, so no stamp tells), and
//! the flight may not be older than `max_staleness`, because writes that did not pass through this process change stamps
//! only when their push arrives, which for a key that no one has promoted is never. For the same reason a session may be shown
//! such a write on another connection, or out of L1, and must not join what left before: its caller says since when.
//!
//! The table belongs to a lane, not to the session whose read leads: a session that goes away takes no flight with it. It is
//! used by one thread and knows nothing of what waits. It must never answer anyone: the lane takes the waiters with
//! [`Flights::land`] and does that.
//!
//! Holds contract points 3 (own writes) and 4 (others' writes soon).

use std::collections::HashMap;
use std::collections::hash_map;

use super::key::{AsIs, Identity, Query};
use super::stamp::{Stamp, Stamps};
use crate::clock::Time;

/// A landed flight keeps a buffer up to this size for the arguments of the next one.
const SPARE_TAIL: usize = 256;
/// A table that had to hold more flights than this starts afresh once all have landed.
const SPARE_BERTHS: usize = 1024;

/// The flights of one lane. `W` is whatever waits for a reply.
#[derive(Debug)]
pub struct Flights<W> {
    /// By [`Query::hash`], those that may still be joined.
    joinable: HashMap<u64, usize, AsIs>,
    /// Those under way, joinable or not, and spare ones.
    berths: Vec<Flight<W>>,
    spare: Vec<usize>,
}

/// A read under way, to be kept beside its request in the lane's queue and landed when its reply begins or its lane is lost.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a flight that never lands keeps its waiters for ever"]
pub struct FlightRef(u32);

impl FlightRef {
    /// Of a read that nobody may join, or that has landed: there is no flight.
    pub const NONE: Self = Self(u32::MAX);
}

#[derive(Debug)]
struct Flight<W> {
    hash: u64,
    identity: Identity,
    command: u16,
    tail: Vec<u8>,
    stamp: Stamp,
    opaque: u64,
    sent: Time,
    waiters: Vec<W>,
}

impl<W> Default for Flights<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W> Flights<W> {
    /// An empty table. Allocates nothing before the first lead.
    pub fn new() -> Self {
        Self { joinable: HashMap::default(), berths: Vec::new(), spare: Vec::new() }
    }

    /// Waits with a flight that reads just what `query` asks and left at `since` or later, or hands `waiter` back where none may
    /// be joined. `opaque_now` is the process's count of opaque writes answered.
    pub fn join(&mut self, query: &Query, stamps: &Stamps, opaque_now: u64, since: Time, waiter: W) -> Result<(), W> {
        let Some(&at) = self.joinable.get(&query.hash) else { return Err(waiter) };
        let flight = &mut self.berths[at];
        if !flight.reads(query)
            || stamps.load(query.slot) != flight.stamp
            || flight.opaque != opaque_now
            || flight.sent < since
        {
            return Err(waiter);
        }
        flight.waiters.push(waiter);
        Ok(())
    }

    /// Notes that `query` is about to be sent. `stamp`, `opaque_now` and `now` must have been read before its first byte can
    /// leave. From now on this is the flight that others join; an older one of the same query keeps its waiters. Under a stamp
    /// that is not quiet nobody may join, and nothing is noted.
    pub fn lead(&mut self, query: &Query, stamp: Stamp, opaque_now: u64, now: Time) -> FlightRef {
        if !stamp.quiet() {
            return FlightRef::NONE;
        }
        let at = self.spare.pop().unwrap_or(self.berths.len());
        if at == self.berths.len() {
            self.berths.push(Flight::new(query, stamp, opaque_now, now));
        } else {
            self.berths[at].reuse(query, stamp, opaque_now, now);
        }
        self.joinable.insert(query.hash, at);
        FlightRef(u32::try_from(at).expect("a lane's window is far too small for so many reads"))
    }

    /// The reply's first byte is here, or will never come: nobody joins any more, and those who did are handed over, in the
    /// order in which they came. The flight must be one of this table.
    #[expect(clippy::needless_pass_by_value, reason = "so that none lands twice")]
    pub fn land(&mut self, flight: FlightRef) -> Vec<W> {
        if flight.0 == FlightRef::NONE.0 {
            return Vec::new();
        }
        let at = flight.0 as usize;
        let flight = &mut self.berths[at];
        if let hash_map::Entry::Occupied(entry) = self.joinable.entry(flight.hash)
            && *entry.get() == at
        {
            entry.remove();
        }
        if flight.tail.capacity() > SPARE_TAIL {
            flight.tail = Vec::new();
        }
        let waiters = std::mem::take(&mut flight.waiters);
        self.spare.push(at);
        if self.is_empty() && self.berths.len() > SPARE_BERTHS {
            *self = Self::new();
        }
        waiters
    }

    /// Flights under way, joinable or not.
    pub fn len(&self) -> usize {
        self.berths.len() - self.spare.len()
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<W> Flight<W> {
    fn new(query: &Query, stamp: Stamp, opaque: u64, sent: Time) -> Self {
        let Query { identity, command, hash, .. } = *query;
        Self { hash, identity, command, tail: query.tail.to_vec(), stamp, opaque, sent, waiters: Vec::new() }
    }

    fn reuse(&mut self, query: &Query, stamp: Stamp, opaque: u64, sent: Time) {
        let mut tail = std::mem::take(&mut self.tail);
        tail.clear();
        tail.extend_from_slice(query.tail);
        let Query { identity, command, hash, .. } = *query;
        *self = Self { hash, identity, command, tail, stamp, opaque, sent, waiters: Vec::new() };
    }

    fn reads(&self, query: &Query) -> bool {
        self.identity == query.identity && self.command == query.command && self.tail == query.tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Identities;

    const T: Time = Time::from_nanos(1_000_000_000);

    struct Bench {
        stamps: Stamps,
        identities: Identities,
        flights: Flights<u32>,
    }

    impl Bench {
        fn new() -> Self {
            Self { stamps: Stamps::for_l1(0), identities: Identities::default(), flights: Flights::new() }
        }

        fn query(&self, key: &'static [u8]) -> Query<'static> {
            Query::new(&self.stamps, self.identities.intern("", 0), 1, key, key, b"")
        }

        fn lead(&mut self, query: &Query) -> FlightRef {
            self.flights.lead(query, self.stamps.load(query.slot), 0, T)
        }

        fn join(&mut self, query: &Query, waiter: u32) -> Result<(), u32> {
            self.flights.join(query, &self.stamps, 0, T, waiter)
        }
    }

    #[test]
    fn joined_waiters_come_back_in_order_once() {
        let mut b = Bench::new();
        let query = b.query(b"k");
        assert_eq!(b.join(&query, 9), Err(9));
        let flight = b.lead(&query);
        assert_eq!((b.join(&query, 1), b.join(&query, 2)), (Ok(()), Ok(())));
        assert_eq!(b.flights.len(), 1);
        assert_eq!(b.flights.land(flight), [1, 2]);
        assert_eq!(b.join(&query, 3), Err(3), "the reply has begun");
        assert!(b.flights.is_empty());
    }

    #[test]
    fn only_the_very_same_question_is_joined() {
        let mut b = Bench::new();
        let query = b.query(b"k");
        let flight = b.lead(&query);
        let other = b.query(b"l");
        assert_eq!(b.join(&other, 1), Err(1));
        let identity = b.identities.intern("alice", 0);
        for colliding in [Query { tail: b"l", ..query }, Query { command: 2, ..query }, Query { identity, ..query }] {
            assert_eq!(b.join(&colliding, 1), Err(1), "the hash alone vouches for nothing");
        }
        assert!(b.flights.land(flight).is_empty());
    }

    #[test]
    fn a_changed_stamp_ends_joining_and_keeps_the_waiters() {
        for change in [Stamps::touch, Stamps::begin] {
            let mut b = Bench::new();
            let query = b.query(b"k");
            let flight = b.lead(&query);
            assert_eq!(b.join(&query, 1), Ok(()));
            change(&b.stamps, query.slot);
            assert_eq!(b.join(&query, 2), Err(2));
            assert_eq!(b.flights.land(flight), [1]);
        }
    }

    #[test]
    fn a_read_that_left_while_a_write_was_under_way_is_not_joined() {
        let mut b = Bench::new();
        let query = b.query(b"k");
        b.stamps.begin(query.slot);
        let flight = b.lead(&query);
        assert_eq!(b.join(&query, 1), Err(1));
        b.stamps.end(query.slot);
        assert_eq!(b.join(&query, 1), Err(1));
        assert!(b.flights.is_empty());
        assert!(b.flights.land(flight).is_empty());
    }

    #[test]
    fn an_opaque_write_ends_joining() {
        let mut b = Bench::new();
        let query = b.query(b"k");
        let flight = b.lead(&query);
        assert_eq!(b.flights.join(&query, &b.stamps, 1, T, 1), Err(1));
        assert_eq!(b.flights.join(&query, &b.stamps, 0, T, 2), Ok(()));
        assert_eq!(b.flights.land(flight), [2]);
    }

    #[test]
    fn an_old_flight_is_not_joined() {
        let mut b = Bench::new();
        let query = b.query(b"k");
        let flight = b.lead(&query);
        assert_eq!(b.flights.join(&query, &b.stamps, 0, T, 1), Ok(()));
        assert_eq!(b.flights.join(&query, &b.stamps, 0, Time::from_nanos(T.as_nanos() + 1), 2), Err(2));
        assert_eq!(b.flights.land(flight), [1]);
    }

    #[test]
    fn a_newer_lead_takes_over_and_both_answer_their_own() {
        let mut b = Bench::new();
        let query = b.query(b"k");
        let older = b.lead(&query);
        assert_eq!(b.join(&query, 1), Ok(()));
        b.stamps.touch(query.slot);
        let newer = b.lead(&query);
        assert_eq!(b.join(&query, 2), Ok(()));
        assert_eq!(b.flights.land(older), [1]);
        assert_eq!(b.join(&query, 3), Ok(()), "the older one's landing leaves the newer in the table");
        assert_eq!(b.flights.land(newer), [2, 3]);
        assert_eq!(b.join(&query, 4), Err(4));
    }

    #[test]
    fn landed_flights_are_used_again() {
        let mut b = Bench::new();
        let (one, two) = (b.query(b"one"), b.query(b"two"));
        for round in 0..100 {
            let first = b.lead(&one);
            let second = b.lead(&two);
            assert_eq!((b.join(&one, round), b.join(&two, round + 1)), (Ok(()), Ok(())));
            assert_eq!(b.flights.land(second), [round + 1]);
            assert_eq!(b.flights.land(first), [round]);
        }
        assert_eq!(b.flights.berths.len(), 2);
        assert!(b.flights.joinable.is_empty());
    }

    #[test]
    fn a_rush_leaves_no_memory_behind() {
        let mut b = Bench::new();
        let query = b.query(b"k");
        let flights: Vec<_> = (0..2000).map(|_| b.lead(&query)).collect();
        assert_eq!(b.flights.len(), 2000);
        for flight in flights {
            assert!(b.flights.land(flight).is_empty());
        }
        assert_eq!(b.flights.berths.capacity(), 0);
        let flight = b.lead(&query);
        assert_eq!(b.join(&query, 1), Ok(()));
        assert_eq!(b.flights.land(flight), [1]);
    }

    #[test]
    fn long_arguments_are_not_kept_for_later() {
        static LONG: [u8; 100_000] = [b'x'; 100_000];
        let mut b = Bench::new();
        let query = b.query(&LONG);
        let flight = b.lead(&query);
        assert!(b.flights.land(flight).is_empty());
        assert_eq!(b.flights.berths[0].tail.capacity(), 0);
    }
}
