//! Where reads of a cluster's keys went last: to look that up is less work than the key's slot, which a hit can do without.
//!
//! One for each version of the topology that a worker goes by. A place that is remembered for another key sends a read astray, which is
//! what a map that is not true any more does as well: L1 has nothing of that key there, and the node says where it belongs.

use std::cell::Cell;

use crate::upstream::{NodeIndex, Topology};

/// Reads remembered; a power of two.
const KNOWN: usize = 2048;

/// See the module's head.
#[derive(Default)]
pub(super) struct RouteMemo(Box<[Cell<(u64, NodeIndex)>]>);

impl RouteMemo {
    /// One that remembers nothing yet; the default never will.
    pub(super) fn empty() -> Self {
        // What none is remembered under: its place is that of another.
        Self((0..KNOWN as u64).map(|place| Cell::new((!place, NodeIndex::default()))).collect())
    }

    /// Which node serves `key`, of which a read has this hash.
    #[inline]
    pub(super) fn serving<'a>(&self, topology: &Topology, hash: u64, key: impl FnOnce() -> &'a [u8]) -> NodeIndex {
        let Some(known) = self.0.get(hash as usize % KNOWN) else { return topology.serving_key(key()) };
        let (of, at) = known.get();
        if of == hash {
            return at;
        }
        let at = topology.serving_key(key());
        known.set((hash, at));
        at
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::config::Endpoint;
    use crate::upstream::{ClusterMap, Node};

    #[test]
    fn what_is_remembered_is_what_the_topology_says() {
        let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port: 1 };
        let node = Arc::new(Node::new(endpoint, 1, Duration::from_secs(1)));
        let topology = Topology::Cluster(ClusterMap::unread(node));
        let memo = RouteMemo::empty();
        for hash in [0, 1, KNOWN as u64, u64::MAX, !1] {
            memo.0[hash as usize % KNOWN].set((hash ^ 1 << 40, NodeIndex::nth(7)));
            assert_eq!(memo.serving(&topology, hash, || b"k"), NodeIndex::default());
            assert_eq!(memo.0[hash as usize % KNOWN].get().0, hash);
        }
        memo.0[3].set((3, NodeIndex::nth(7)));
        assert_eq!(memo.serving(&topology, 3, || b"k"), NodeIndex::nth(7));
    }
}
