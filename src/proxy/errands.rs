//! What a worker has under way beyond the upstream: reads that go on there, values to be copied.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};

use tokio_util::sync::CancellationToken;

use super::seek::SoughtKey;

/// The reads of a worker that go on.
#[derive(Default)]
pub(super) struct Seeks {
    under_way: Cell<usize>,
    pub(super) stop: CancellationToken,
}

/// So many reads of a worker go on at once.
const MOST: usize = 4096;

impl Seeks {
    /// Whether there may be no more.
    pub(super) fn is_full(&self) -> bool {
        self.under_way.get() >= MOST
    }

    /// One goes on.
    pub(super) fn begin(&self) {
        self.under_way.set(self.under_way.get() + 1);
    }

    /// It is over.
    pub(super) fn end(&self) {
        self.under_way.set(self.under_way.get() - 1);
    }
}

/// A value to be copied: its database and its key, and whether it is new.
pub(super) type WaitingCopy = (u32, Box<[u8]>, bool);

/// What a worker has to copy.
#[derive(Default)]
pub(super) struct CopyQueue {
    pub(super) waiting: RefCell<VecDeque<WaitingCopy>>,
    /// What is in it.
    pub(super) known: RefCell<HashSet<(u32, Box<[u8]>)>>,
    pub(super) is_served: Cell<bool>,
    /// Epochs that are still to be removed.
    pub(super) owed: Cell<usize>,
}

/// One key that is sought for a session.
pub(super) struct Sought {
    pub(super) of: SoughtKey,
    /// The database that it is in.
    pub(super) db: u32,
}
