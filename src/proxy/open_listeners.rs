//! Whether clients can come in: while the upstream is away they are refused, as by a Redis that is down.
//!
//! A client that is closed comes again at once, with all that it has queued meanwhile. So the listeners are closed first and the
//! clients after them: who was let in once more would lose what it sent a second time, which no Redis that is down does. Written by
//! `server`, which has the listeners; read by those who close clients.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::upstream::State as Presence;

/// A client is not kept for longer, whatever is not known by then.
const PATIENCE: Duration = Duration::from_millis(50);

/// How many listeners are open.
#[derive(Debug)]
pub(crate) struct OpenListeners {
    /// None where clients are let in whatever the upstream does.
    open: Option<watch::Sender<usize>>,
}

impl OpenListeners {
    /// Of a process that refuses clients while the upstream is away, or of one that does not.
    pub(crate) fn new(refuses: bool) -> Self {
        Self { open: refuses.then(|| watch::Sender::new(0)) }
    }

    /// Whether listeners are closed while the upstream is away.
    pub(crate) fn refuses(&self) -> bool {
        self.open.is_some()
    }

    /// A listener is open.
    pub(crate) fn opened(&self) {
        if let Some(open) = &self.open {
            open.send_modify(|open| *open += 1);
        }
    }

    /// A listener that was open is closed.
    pub(crate) fn closed(&self) {
        if let Some(open) = &self.open {
            open.send_modify(|open| *open = open.saturating_sub(1));
        }
    }

    /// For who acts on it when the last listener has been closed.
    pub(crate) fn follow(&self) -> Option<watch::Receiver<usize>> {
        self.open.as_ref().map(watch::Sender::subscribe)
    }

    /// Waits until a client that is closed now will find what it would find at the upstream: until it is known whether that is away,
    /// where it is in doubt, and until nobody is let in, where it is. For 50 ms at most. Cancel safe.
    pub(crate) async fn settled(&self, mut presence: watch::Receiver<Presence>) {
        let Some(open) = &self.open else { return };
        let mut open = open.subscribe();
        let settled = async {
            let known = presence.wait_for(|known| *known != Presence::Doubted).await;
            if known.is_ok_and(|known| *known == Presence::Away) {
                let _ = open.wait_for(|open| *open == 0).await;
            }
        };
        let _ = timeout(PATIENCE, settled).await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::super::shared::tests::node;
    use super::*;

    fn is_ready(future: std::pin::Pin<&mut impl Future>) -> bool {
        matches!(future.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_))
    }

    #[tokio::test(start_paused = true)]
    async fn clients_are_closed_behind_the_last_listener() {
        let (open, node) = (OpenListeners::new(true), node());
        (0..2).for_each(|_| open.opened());
        assert!(is_ready(pin!(open.settled(node.presence.follow()))), "nobody doubts it");
        for (then, ready) in [(Presence::Doubted, false), (Presence::Away, false)] {
            node.presence.set(then);
            assert_eq!(is_ready(pin!(open.settled(node.presence.follow()))), ready);
        }
        let mut settled = pin!(open.settled(node.presence.follow()));
        open.closed();
        assert!(!is_ready(settled.as_mut()), "one is open");
        open.closed();
        assert!(is_ready(settled));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_kept_for_long_and_none_where_nobody_is_refused() {
        let node = node();
        node.presence.set(Presence::Doubted);
        let open = OpenListeners::new(true);
        open.opened();
        open.settled(node.presence.follow()).await;
        assert!(is_ready(pin!(OpenListeners::new(false).settled(node.presence.follow()))));
    }

    #[tokio::test]
    async fn a_doubt_that_was_none_closes_nothing() {
        let (open, node) = (OpenListeners::new(true), node());
        open.opened();
        node.presence.set(Presence::Doubted);
        let mut settled = pin!(open.settled(node.presence.follow()));
        assert!(!is_ready(settled.as_mut()));
        node.presence.set(Presence::There);
        assert!(is_ready(settled));
    }
}
