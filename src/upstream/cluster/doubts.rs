//! Signs that a cluster's map is not true any more: whoever meets one has the map read anew.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::config::Endpoint;
use crate::upstream::Topology;

/// A hold on the sign that the keeper of the map waits for.
#[derive(Clone, Debug, Default)]
pub(crate) struct MapDoubts(Arc<Notify>);

impl MapDoubts {
    /// A node sent a command elsewhere, or is lost: the map is to be read anew, soon.
    pub(crate) fn ask_anew(&self) {
        self.0.notify_one();
    }

    /// Somebody has asked since this last returned. Cancel safe.
    pub(crate) async fn asked(&self) {
        self.0.notified().await;
    }
}

/// The first version that has a node at `endpoint`, or what there is after `longest`. Cancel safe.
pub(crate) async fn with_node_at(
    endpoint: &Endpoint,
    topology: &mut watch::Receiver<Arc<Topology>>,
    longest: Duration,
) -> Arc<Topology> {
    let _ = timeout(longest, topology.wait_for(|topology| topology.place_of(endpoint).is_some())).await;
    Arc::clone(&topology.borrow())
}

/// The first version behind `version`, or what there is after `longest`. Cancel safe.
pub(crate) async fn newer_than(
    version: u64,
    topology: &mut watch::Receiver<Arc<Topology>>,
    longest: Duration,
) -> Arc<Topology> {
    let _ = timeout(longest, topology.wait_for(|topology| topology.version() > version)).await;
    Arc::clone(&topology.borrow())
}
