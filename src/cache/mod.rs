//! L1 and what keeps it honest. Knows no sockets: `proxy` asks and brings replies, `invalidation` says what changed.
//!
//! The way of a read, all with one [`Query`]:
//!
//! 1. **hit**: [`Store::lookup`] appends the reply, if an entry is there and passes every test at this very moment;
//! 2. **wait**: else [`Flights::join`] waits with the same read of another session on the same lane;
//! 3. **lead**: else the caller takes the key's [`Stamp`], then [`Flights::lead`]s, and sends the request. Once it is answered,
//!    [`Promoter::toss`] decides whether the ear shall fill L1, which ends in [`Store::insert`].
//!
//! # Why equality at the hit is the only test
//!
//! Redis says which keys changed, but what it says races with what was read before. Two plans suggest themselves, and both
//! fail:
//!
//! - *Check, then insert*: see that the key has not changed since the fill was sent, then insert. A change heard between the
//!   two finds nothing to remove, and the old value goes in after it and stays.
//! - *Insert, then check again*: insert, then see that the key has not changed, else remove. Between the two the old value can
//!   be read; and two fills of one key can each remove, or keep, what the other one inserted.
//!
//! Here nothing is ever removed for correctness. An entry carries the stamp of its key from before its request was sent (and
//! the epoch of its ear), and counts only while both are equal to the present ones, compared by the reader after it has found
//! the entry. A change heard at any time, before or after the insert, makes the two unequal for good. Inserting is then
//! always harmless, and removing merely returns memory.
//!
//! # Order of reads at a hit
//!
//! The time, read by the caller after the request; the lease; the entry; the epoch and the stamp. The lease before the stamp,
//! because an ear applies a change first and renews its lease after ([`lease`]): a reader that sees the renewed lease sees the
//! change.
//!
//! Reading order: [`stamp`], [`lease`], [`key`], [`store`], [`arrivals`], [`memory`], which has one of each but leases, [`flight`],
//! [`promotion`].
//!
//! Holds contract points 3 (own writes), 4 (others' writes soon) and 5 (nothing old stays).

mod allotment;
mod arrivals;
mod atomic;
mod ballast;
mod doorkeeper;
mod entry;
mod flight;
mod index;
mod key;
mod lease;
mod memory;
mod own_writes;
mod policy;
mod promotion;
mod sampler;
mod slot_epochs;
mod stamp;
mod store;
mod warrant;
mod watermarks;

pub(crate) use allotment::{counts_from, room_for_entries};
pub use arrivals::Arrivals;
pub(crate) use doorkeeper::Doorkeeper;
pub(crate) use entry::{FIRST_HITS, PAID};
pub use flight::{FlightRef, Flights};
pub(crate) use key::AsIs;
pub use key::{Identities, Identity, Query};
pub use lease::Epoch;
pub use lease::Freshness;
pub(crate) use memory::Memory;
pub(crate) use own_writes::OwnWrites;
pub use promotion::{Coin, Promoter};
pub use sampler::Sampler;
pub use slot_epochs::{EntryEpoch, SlotEpochs, SlotStamp};
pub(crate) use stamp::Stamp;
pub use stamp::{Slot, Stamps};
pub use store::{Exhibit, Lookup, Store};
pub use warrant::{Measure, Warrant};
pub use watermarks::{ArrivalMoment, HitFault, KeyMarks, Watermarks};

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;
    use crate::clock::Time;
    use crate::resp::Resp;

    const KEYS: usize = 3;
    /// Is written through this proxy alone. Its readers may never go back behind what any of them has seen; with the other
    /// keys, which change behind the proxy's back too, they may until the change is heard.
    const OWN: usize = 0;

    /// What the threads share: the values that "Redis" holds, and for each key the least that a reader may now get.
    struct World {
        stamps: Stamps,
        fresh: Freshness,
        store: Store,
        identity: Identity,
        redis: [AtomicU64; KEYS],
        floor: [AtomicU64; KEYS],
    }

    impl World {
        fn query<'a>(&self, key: &'a [u8]) -> Query<'a> {
            Query::new(&self.stamps, self.identity, 1, key, key, b"")
        }

        /// Changes a key, tells L1 in one of the three ways there are, and then lets every reader count on it.
        fn write_somehow(&self, key: usize, round: u64) {
            let slot = self.query(&[key as u8]).slot;
            let in_redis = || {
                let value = self.redis[key].fetch_add(1, Ordering::SeqCst) + 1;
                pause(value);
                value
            };
            let value = match round % 50 {
                _ if key == OWN => self.write_through(slot, in_redis),
                0 => {
                    let value = in_redis();
                    self.fresh.bump();
                    value
                }
                1..25 => {
                    let value = in_redis();
                    self.stamps.touch(slot);
                    value
                }
                _ => self.write_through(slot, in_redis),
            };
            self.floor[key].fetch_max(value, Ordering::Release);
        }

        fn write_through(&self, slot: Slot, in_redis: impl Fn() -> u64) -> u64 {
            self.stamps.begin(slot);
            thread::yield_now();
            let value = in_redis();
            self.stamps.end(slot);
            value
        }

        /// One read: from L1 if it may be, else from Redis with a fill.
        fn read(&self, key: usize, sampler: &mut Sampler, out: &mut Vec<u8>) -> Lookup {
            let name = [key as u8];
            let q = self.query(&name);
            let floor = self.floor[key].load(Ordering::Acquire);
            out.clear();
            let lookup = self.store.lookup(&q, Resp::V2, &self.stamps, &self.fresh, Time::now(), sampler, out);
            if lookup.is_hit() {
                let value = u64::from_be_bytes(out[..].try_into().expect("eight bytes were inserted"));
                assert!(value >= floor, "key {key}: {value} after {floor} was acknowledged");
                return lookup;
            }
            let (stamp, epoch) = (self.stamps.load(q.slot), self.fresh.epoch());
            let value = self.redis[key].load(Ordering::SeqCst);
            if key == OWN {
                self.floor[key].fetch_max(value, Ordering::Release);
            }
            pause(value);
            self.store.insert(&q, &value.to_be_bytes(), None, stamp, epoch, Time::NEVER);
            lookup
        }
    }

    /// Gives other threads a chance to come between, more often than the scheduler would.
    fn pause(seed: u64) {
        match seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61 {
            0 | 1 => thread::yield_now(),
            2 => (0..200).for_each(|_| std::hint::spin_loop()),
            _ => {}
        }
    }

    #[test]
    fn no_reader_ever_gets_less_than_what_was_acknowledged() {
        let fresh = Freshness::new();
        fresh.renew(Time::NEVER);
        let world = World {
            stamps: Stamps::with_slots(2),
            fresh,
            store: Store::new(1 << 20),
            identity: Identities::default().intern("", 0),
            redis: Default::default(),
            floor: Default::default(),
        };
        let (hits, stale) = (AtomicU64::new(0), AtomicU64::new(0));
        // However the threads happen to be scheduled: they go on until enough entries were found that no longer counted.
        let tried = || hits.load(Ordering::Relaxed).min(stale.load(Ordering::Relaxed)) >= 5_000;
        thread::scope(|scope| {
            for reader in 0..4_usize {
                let (world, hits, stale) = (&world, &hits, &stale);
                scope.spawn(move || {
                    let (mut sampler, mut out) = (Sampler::new(), Vec::new());
                    for round in (0..20_000_000).take_while(|_| !tried()) {
                        match world.read((round + reader) % KEYS, &mut sampler, &mut out) {
                            Lookup::Hit => hits.fetch_add(1, Ordering::Relaxed),
                            Lookup::Stale => stale.fetch_add(1, Ordering::Relaxed),
                            _ => 0,
                        };
                        pause(round as u64);
                    }
                });
            }
            for writer in 0..3_usize {
                let world = &world;
                scope.spawn(move || {
                    for round in (0..20_000_000_u64).take_while(|_| !tried()) {
                        world.write_somehow((round as usize + writer) % KEYS, round);
                        thread::yield_now();
                    }
                });
            }
        });
        assert!(tried(), "{hits:?} hits and {stale:?} stale entries try nothing");
    }
}
