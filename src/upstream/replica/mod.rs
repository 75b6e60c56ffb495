//! Replicas that answer reads in a master's place: how far each has come, and until when it may answer.
//!
//! A replica **reaches** a moment when it has carried out all that its master had at that moment: the master is asked for its
//! offset, and the replica's own is that or later. So it never misses a write that the master acknowledged before, and for
//! `max_staleness` from then on it may answer.
//!
//! `statement` reads what a server says of its replication, `ledger` weighs it, `watch` asks, and `board` is where workers look.
//!
//! Holds contract points 3 (own writes) and 4 (others' writes soon).

mod board;
mod ledger;
mod statement;
mod watch;

pub(crate) use board::{LeasedReplica, ReplicaBoard, ReplicaLeases};
pub(crate) use watch::{ReplicaTerms, ReplicaWatch};
