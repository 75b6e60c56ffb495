//! A cluster as crema sees it: what its nodes say, and the map that is made of that.

mod agreement;
mod ballot;
mod census;
mod doubts;
mod listing;
mod map;
mod slots;
mod steward;

pub(crate) use agreement::{ClusterAnswer, agreed};
pub(crate) use census::Census;
pub(crate) use doubts::{MapDoubts, newer_than};
pub(crate) use listing::Listing;
pub(crate) use map::ClusterMap;
#[cfg(test)]
pub(crate) use slots::MasterEntry;
pub(crate) use slots::{ClusterState, SlotTable};
pub(crate) use steward::{CensusQuestion, Steward, StewardReport};
