//! L1 and what keeps it honest. Knows no sockets: `proxy` asks and brings replies, `invalidation` says what changed.
//!
//! The way of a read, all with one [`Query`]:
//!
//! 1. **hit**: [`Store::lookup`] appends the reply, if an entry is there and passes every test at this very moment;
//! 2. **wait**: else [`Flights::join`] waits with the same read of another session on the same lane;
//! 3. **lead**: else the caller takes the key's [`Stamp`], then [`Flights::lead`]s, and sends the request. Once it is answered,
//!    [`Promoter::wants`] decides whether the ear shall fill L1, which ends in [`Store::insert`].
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
//! Reading order: [`stamp`], [`lease`], [`key`], [`store`], [`flight`], [`promotion`].

mod entry;
pub mod flight;
pub mod key;
pub mod lease;
pub mod promotion;
pub mod stamp;
pub mod store;

pub use flight::{FlightRef, Flights};
pub use key::{Identities, Identity, Query};
pub use lease::{Epoch, Freshness};
pub use promotion::Promoter;
pub use stamp::{KeyHash, Slot, Stamp, Stamps};
pub use store::{Lookup, Sampler, Store};
