//! A cluster as crema sees it: what its nodes say, and the map that is made of that.

mod agreement;
mod doubts;
mod map;
mod slots;

pub(crate) use agreement::{ClusterAnswer, agreed};
pub(crate) use doubts::{MapDoubts, newer_than};
pub(crate) use map::{ClusterMap, Shard};
pub(crate) use slots::{ClusterState, SlotTable};
