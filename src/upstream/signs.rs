//! How the node served clients last, as far as its replies tell in passing. Nothing is asked for it.
//!
//! Written by `proxy`, which reads replies and gives up what is silent. Read once a second by `app`, which says whether crema is
//! ready.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// How clients' commands are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// As they should be, as far as is known.
    Good,
    /// A write was refused with `READONLY`, and none has been taken since.
    ReadOnly,
    /// A connection was given up for its silence, and none has spoken since.
    Silent,
}

/// See the module's head. Whoever writes last is right: signs prove nothing.
#[derive(Debug)]
pub(crate) struct Signs {
    service: AtomicU8,
    full: AtomicBool,
}

impl Default for Signs {
    fn default() -> Self {
        Self { service: AtomicU8::new(Service::Good as u8), full: AtomicBool::new(false) }
    }
}

impl Signs {
    /// A command was served so.
    pub(crate) fn serves(&self, service: Service) {
        self.service.store(service as u8, Ordering::Relaxed);
    }

    /// Whether the node has no memory left, as far as is known: then it queues nothing in a transaction.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// It has none left, or has some again.
    pub(crate) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// What was seen of that last.
    pub(crate) fn service(&self) -> Service {
        [Service::Good, Service::ReadOnly, Service::Silent][usize::from(self.service.load(Ordering::Relaxed))]
    }

    /// This was bad, and is over. Costs a load where it was not.
    pub(crate) fn mends(&self, service: Service) {
        if self.service.load(Ordering::Relaxed) == service as u8 {
            let (good, order) = (Service::Good as u8, Ordering::Relaxed);
            let _ = self.service.compare_exchange(service as u8, good, order, order); // else it is something else by now
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bad_stays_so_until_that_very_thing_is_over() {
        let signs = Signs::default();
        assert_eq!(signs.service(), Service::Good);
        signs.serves(Service::ReadOnly);
        assert_eq!(signs.service(), Service::ReadOnly);
        signs.mends(Service::Silent);
        assert_eq!(signs.service(), Service::ReadOnly);
        signs.mends(Service::ReadOnly);
        assert_eq!(signs.service(), Service::Good);
    }
}
