//! Which node serves something, as that changes: for those who keep a connection of crema's own to it.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::watch;

use super::{Node, Topology};

/// Follows the node that serves one key, or what names none. See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    topology: watch::Receiver<Arc<Topology>>,
    key: Option<Box<[u8]>>,
}

impl Serving {
    /// Of what names no key.
    pub(crate) fn front(topology: watch::Receiver<Arc<Topology>>) -> Self {
        Self { topology, key: None }
    }

    /// Of this key.
    #[must_use]
    pub(crate) fn of_key(self, key: Option<&[u8]>) -> Self {
        Self { key: key.map(Into::into), ..self }
    }

    /// The node that serves it now.
    pub(crate) fn node(&self) -> Arc<Node> {
        self.in_version(&self.topology.borrow())
    }

    fn in_version(&self, topology: &Topology) -> Arc<Node> {
        Arc::clone(self.key.as_ref().map_or_else(|| topology.front(), |key| topology.node_of_key(key)))
    }

    /// Returns when another node than `former` serves it. Cancel safe.
    pub(crate) async fn moved(&self, former: &Arc<Node>) {
        let mut topology = self.topology.clone();
        if topology.wait_for(|topology| !Arc::ptr_eq(&self.in_version(topology), former)).await.is_err() {
            pending::<()>().await; // nobody is there to change it
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;
    use crate::config::Endpoint;

    #[tokio::test]
    async fn who_serves_is_followed() {
        let node = |port| {
            let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port };
            Arc::new(Node::new(endpoint, 1, Duration::from_secs(1)))
        };
        let (one, other) = (node(1), node(2));
        let topologies = watch::Sender::new(Arc::new(Topology::Single(Arc::clone(&one))));
        let serving = Serving::front(topologies.subscribe());
        assert!(Arc::ptr_eq(&serving.node(), &one));
        assert!(Arc::ptr_eq(&serving.clone().of_key(Some(b"k")).node(), &one));
        let mut moved = pin!(serving.moved(&one));
        let poll = |moved: std::pin::Pin<&mut _>| Future::poll(moved, &mut Context::from_waker(Waker::noop()));
        assert_eq!(poll(moved.as_mut()), Poll::Pending);
        topologies.send_replace(Arc::new(Topology::Single(Arc::clone(&other))));
        assert_eq!(poll(moved.as_mut()), Poll::Ready(()));
        assert!(Arc::ptr_eq(&serving.node(), &other));
        drop(topologies);
        assert_eq!(poll(pin!(serving.moved(&other))), Poll::Pending);
    }
}
