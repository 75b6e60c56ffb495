//! Which node serves a request: the map of the upstream, in versions.
//!
//! Owned by the control thread, which publishes each version whole; workers and sessions read the one that they have and take up the
//! next between two commands. A version is never changed. With a single node nothing of a request is looked at.

use std::sync::Arc;

use super::Node;
use super::cluster::ClusterMap;
use crate::command::{HashSlot, Spec};
use crate::config::Endpoint;
use crate::resp::Request;

/// The place of a node in the topology, which it keeps for as long as it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeIndex(u16);

impl NodeIndex {
    /// The `n`th.
    pub(crate) fn nth(n: usize) -> Self {
        Self(u16::try_from(n).expect("a cluster has 1,000 nodes at most"))
    }

    /// How many are before it.
    pub(crate) fn number(self) -> usize {
        usize::from(self.0)
    }
}

/// One version of the map: what there is behind the address.
#[derive(Debug)]
pub(crate) enum Topology {
    /// One node, which serves all.
    Single(Arc<Node>),
    /// A cluster's masters, each of which serves some slots.
    Cluster(ClusterMap),
}

impl Topology {
    /// The node that serves what names no key.
    pub(crate) fn front(&self) -> &Arc<Node> {
        match self {
            Self::Single(node) => node,
            Self::Cluster(map) => &map.shard(map.front()).expect("the front is in the map").node,
        }
    }

    /// Its place.
    pub(crate) fn front_index(&self) -> NodeIndex {
        match self {
            Self::Single(_) => NodeIndex::default(),
            Self::Cluster(map) => map.front(),
        }
    }

    /// Which node serves this request: that of its first key, or the front, which says so where nobody serves the key's slot.
    #[inline]
    pub(crate) fn serving(&self, spec: &Spec, request: Request<'_>) -> NodeIndex {
        match self {
            Self::Single(_) => NodeIndex::default(),
            Self::Cluster(map) => {
                let key = spec.keys(request).next();
                key.and_then(|key| map.owner(HashSlot::of(key))).unwrap_or(map.front())
            }
        }
    }

    /// Which node serves this slot; where nobody does, or there is none, the front.
    pub(crate) fn serving_slot(&self, slot: Option<HashSlot>) -> NodeIndex {
        match self {
            Self::Single(_) => NodeIndex::default(),
            Self::Cluster(map) => slot.and_then(|slot| map.owner(slot)).unwrap_or(map.front()),
        }
    }

    /// Which node serves this key.
    #[inline]
    pub(crate) fn serving_key(&self, key: &[u8]) -> NodeIndex {
        match self {
            Self::Single(_) => NodeIndex::default(),
            Self::Cluster(map) => map.owner(HashSlot::of(key)).unwrap_or(map.front()),
        }
    }

    /// The node itself.
    pub(crate) fn node_of_key(&self, key: &[u8]) -> &Arc<Node> {
        self.node(self.serving_key(key)).unwrap_or_else(|| self.front())
    }

    /// All nodes, with their places.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (NodeIndex, &Arc<Node>)> {
        let (single, map) = match self {
            Self::Single(node) => (Some((NodeIndex::default(), node)), None),
            Self::Cluster(map) => (None, Some(map.shards().map(|(at, shard)| (at, &shard.node)))),
        };
        single.into_iter().chain(map.into_iter().flatten())
    }

    /// The node at a place, if there is one.
    pub(crate) fn node(&self, at: NodeIndex) -> Option<&Arc<Node>> {
        match self {
            Self::Single(node) => Some(node).filter(|_| at == NodeIndex::default()),
            Self::Cluster(map) => map.shard(at).map(|shard| &shard.node),
        }
    }

    /// The place of the node at an address, if it is there.
    pub(crate) fn place_of(&self, endpoint: &Endpoint) -> Option<NodeIndex> {
        self.nodes().find(|(_, node)| node.endpoint == *endpoint).map(|(at, _)| at)
    }

    /// The map, where there is a cluster.
    pub(crate) fn cluster(&self) -> Option<&ClusterMap> {
        match self {
            Self::Single(_) => None,
            Self::Cluster(map) => Some(map),
        }
    }

    /// Its number: higher than that of every version before. Of a single node there is but one.
    pub(crate) fn version(&self) -> u64 {
        self.cluster().map_or(0, ClusterMap::version)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::command::lookup;
    use crate::resp::{Span, encode};

    fn node(port: u16) -> Arc<Node> {
        let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port };
        Arc::new(Node::new(endpoint, 1, Duration::from_secs(1)))
    }

    #[test]
    fn a_single_node_serves_all() {
        let (one, other) = (node(1), node(2));
        let [first, second] = [&one, &other].map(|node| Topology::Single(Arc::clone(node)));
        let (mut raw, mut spans) = (Vec::new(), Vec::<Span>::new());
        encode::command(&mut raw, &[b"GET", b"k"]);
        let request = Request::parse_canonical(&raw, &mut spans).expect("canonical");
        let spec = lookup(request).expect("a row");
        for (topology, node) in [(&first, &one), (&second, &other)] {
            assert!(Arc::ptr_eq(topology.front(), node));
            let all: Vec<_> = topology.nodes().collect();
            assert!(Arc::ptr_eq(all[topology.serving(spec, request).number()].1, node));
            assert!(Arc::ptr_eq(all[topology.serving_key(b"k").number()].1, node));
            assert!(topology.nodes().all(|(_, known)| Arc::ptr_eq(known, node)));
        }
    }
}
