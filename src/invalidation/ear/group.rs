//! What all ears at one node share: the node, how many of them listen, and whether somebody asks there after rights for them.
//!
//! Made by `L1` when the first user comes to the node.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};

use tokio::sync::Notify;

use crate::upstream::Node;

/// See the module's head.
pub(crate) struct EarGroup {
    /// Where they listen.
    pub node: Arc<Node>,
    listening: AtomicUsize,
    /// The steward has begun to ask.
    pub(super) stewarded: Once,
    /// Something was filled for a user for whom the steward asks.
    pub(super) rights_due: Notify,
}

impl EarGroup {
    pub(in super::super) fn new(node: Arc<Node>) -> Self {
        Self { node, listening: AtomicUsize::new(0), stewarded: Once::new(), rights_due: Notify::new() }
    }

    /// Counts one more ear that listens, if there may be one more among `most`.
    pub(super) fn join(&self, most: usize) -> bool {
        let count = |listening| (listening < most).then_some(listening + 1);
        self.listening.fetch_update(Ordering::AcqRel, Ordering::Acquire, count).is_ok()
    }

    /// One listens no more.
    pub(super) fn leave(&self) {
        self.listening.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Endpoint;

    #[test]
    fn so_many_may_listen_and_another_when_one_leaves() {
        let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port: 1 };
        let group = EarGroup::new(Arc::new(Node::new(endpoint, 1, Duration::from_secs(1))));
        assert!(group.join(2) && group.join(2) && !group.join(2));
        group.leave();
        assert!(group.join(2));
    }
}
