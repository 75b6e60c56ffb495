//! A cluster as crema sees it: what its nodes say, and the map that is made of that.

mod agreement;
mod ballot;
mod census;
mod census_taker;
mod doubts;
mod listing;
mod map;
mod redirect;
mod slots;

pub(crate) use agreement::{ClusterAnswer, agreed};
pub(crate) use census::Census;
pub(crate) use census_taker::{CensusQuestion, CensusReport, CensusTaker};
pub(crate) use doubts::{MapDoubts, newer_than, with_node_at};
pub(crate) use listing::Listing;
pub(crate) use map::ClusterMap;
pub(crate) use redirect::{ErrorLine, moved_slot, named_node, redirect_of};
#[cfg(test)]
pub(crate) use slots::MasterEntry;
pub(crate) use slots::{ClusterState, SlotTable};
