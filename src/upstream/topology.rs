//! Which node serves a request: the map of the upstream, in versions.
//!
//! Owned by the control thread, which publishes each version whole; workers and sessions read the one that they have and take up the
//! next between two commands. A version is never changed. With a single node nothing of a request is looked at.

use std::iter;
use std::sync::Arc;

use super::Node;
use crate::command::Spec;
use crate::resp::Request;

/// The place of a node among [all of a version](Topology::nodes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeIndex(u16);

impl NodeIndex {
    /// The front's.
    pub(crate) const FRONT: Self = Self(0);

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
}

impl Topology {
    /// The node that serves what names no key.
    pub(crate) fn front(&self) -> &Arc<Node> {
        match self {
            Self::Single(node) => node,
        }
    }

    /// Which node serves this request.
    pub(crate) fn serving(&self, _: &Spec, _: Request<'_>) -> NodeIndex {
        match self {
            Self::Single(_) => NodeIndex::FRONT,
        }
    }

    /// Which node serves this key.
    pub(crate) fn serving_key(&self, _: &[u8]) -> NodeIndex {
        match self {
            Self::Single(_) => NodeIndex::FRONT,
        }
    }

    /// All nodes, the front first.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        match self {
            Self::Single(node) => iter::once(node),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::command::lookup;
    use crate::config::Endpoint;
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
            assert!(Arc::ptr_eq(all[topology.serving(spec, request).number()], node));
            assert!(Arc::ptr_eq(all[topology.serving_key(b"k").number()], node));
            assert!(topology.nodes().all(|known| Arc::ptr_eq(known, node)));
        }
    }
}
