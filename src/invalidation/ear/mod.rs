//! The ear: the one tracked connection of a user, on which everything in L1 was read.
//!
//! Redis tells a tracked connection of every change to what was read on it, on the same socket and in order; so the ear
//! that handles what it hears strictly in order cannot miss one. It does three things: fills, invalidations, fences; and when
//! it has nothing better to do, it tells Redis what L1 serves (`touch`). It must never wait for a client or a worker. What
//! happens between two connections is unknown, so a lost one ends the epoch and the lease.
//!
//! Facts of Redis that this rests on (networking.c, tracking.c; tried on 7.0.15 and Valkey 9): a push for one's own write
//! comes after its reply; a flush is a null push; keys in pushes carry no database; `HELLO` without arguments tells the role.
//!
//! [`Protocol`] is all of that without I/O: bytes, fills, fences and time go in, bytes and [`EarEffect`]s come out, and memory that is
//! shared with workers is changed at once. Its parts are `dialogue` (what was asked), `frames` and `push` (what came), `fill`,
//! `fences`, `audits`, `awaited`, `rights`, `features`, `touch`, `unannounced`. Around it `task` moves bytes and sleeps; [`Ear`] is what workers see;
//! `steward` asks for users that may not ask themselves.
//!
//! Holds contract points 3 to 6; point 8 by `rights`, and by one ear for each user.

mod audits;
mod awaited;
mod dialogue;
mod faults;
mod features;
mod fences;
mod fill;
mod frames;
mod group;
mod handle;
mod protocol;
mod push;
mod rights;
mod steward;
mod task;
mod touch;
mod unannounced;

pub use audits::Audit;
pub use awaited::AwaitedChange;
pub use faults::{FaultPlan, NoFaults, PlantedFault};
pub use fences::FenceTimes;
pub use fill::Fill;
pub(crate) use group::EarGroup;
pub(crate) use handle::{Ear, EarState};
pub use protocol::{Disconnection, EarEffect, Protocol, Surroundings};
pub use rights::Rights;
