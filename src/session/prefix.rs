//! How a transaction of a cluster's client has begun: what it takes to begin it again at another node.
//!
//! Which node a transaction is for shows with its first key, and the key's slot may have moved by the time of `EXEC`. So what was
//! queued is kept, up to a bound; a transaction that is longer stays where it is. Part of the link's state (`link`); `place` and
//! `replay` begin again with it. No I/O.
//!
//! Holds contract point 7: a transaction is sent again only where Redis has said that it was not carried out.

use crate::command::HashSlot;
use crate::proxy::QueueNote;

/// Of a transaction, no more bytes than this are kept.
const KEPT: usize = 1 << 20;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Prefix {
    slot: Option<HashSlot>,
    queued: QueuedBytes,
    note: QueueNote,
}

/// The commands of a transaction.
#[derive(Debug)]
enum QueuedBytes {
    /// All, and where each ends.
    All { bytes: Vec<u8>, ends: Vec<usize> },
    /// They were too long to be kept.
    Forgotten,
}

impl Default for QueuedBytes {
    fn default() -> Self {
        Self::All { bytes: Vec::new(), ends: Vec::new() }
    }
}

impl Prefix {
    /// Of a transaction that belongs where this slot is, as soon as that is known.
    pub(super) fn in_slot(slot: Option<HashSlot>) -> Self {
        Self { slot, ..Self::default() }
    }

    /// Where it belongs, as soon as it has named a key.
    pub(super) fn slot(&self) -> Option<HashSlot> {
        self.slot
    }

    /// It names a key in this slot. False where it has named one in another.
    pub(super) fn names(&mut self, slot: HashSlot) -> bool {
        *self.slot.get_or_insert(slot) == slot
    }

    /// A command was sent to be queued.
    pub(super) fn queue(&mut self, command: &[u8]) {
        match &mut self.queued {
            QueuedBytes::All { bytes, ends } if bytes.len() + command.len() <= KEPT => {
                bytes.extend_from_slice(command);
                ends.push(bytes.len());
            }
            queued => *queued = QueuedBytes::Forgotten,
        }
    }

    /// A command was sent to be queued of which not all is here.
    pub(super) fn forget(&mut self) {
        self.queued = QueuedBytes::Forgotten;
    }

    /// What was queued, command by command, as it is to be sent again.
    pub(super) fn commands(&self) -> Option<impl Iterator<Item = &[u8]>> {
        match &self.queued {
            QueuedBytes::All { bytes, ends } => {
                let begins = std::iter::once(0).chain(ends.iter().copied());
                Some(begins.zip(ends).map(|(begin, &end)| &bytes[begin..end]))
            }
            QueuedBytes::Forgotten => None,
        }
    }

    /// Where it is noted what nodes say of them.
    pub(super) fn note(&self) -> &QueueNote {
        &self.note
    }

    /// What a node said of the first whose keys it does not serve, where there was one since this was last asked.
    pub(super) fn take_redirect(&self) -> Option<Vec<u8>> {
        Some(std::mem::take(&mut self.note.borrow_mut().redirect)).filter(|line| !line.is_empty())
    }

    /// A command was refused: the transaction fails.
    pub(super) fn refuse(&self) {
        self.note.borrow_mut().refused = true;
    }

    /// Whether one was, as far as nodes have answered.
    pub(super) fn is_refused(&self) -> bool {
        self.note.borrow().refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: usize) -> HashSlot {
        HashSlot::nth(number).expect("one of them")
    }

    fn commands(prefix: &Prefix) -> Option<Vec<&[u8]>> {
        Some(prefix.commands()?.collect())
    }

    #[test]
    fn the_first_key_says_where_it_belongs() {
        let mut prefix = Prefix::default();
        assert_eq!(prefix.slot(), None);
        assert!(prefix.names(slot(5)) && prefix.names(slot(5)) && !prefix.names(slot(6)));
        assert_eq!(prefix.slot(), Some(slot(5)));
        assert!(!Prefix::in_slot(Some(slot(7))).names(slot(5)), "so does a key that is watched");
    }

    #[test]
    fn what_was_queued_is_kept_up_to_a_bound() {
        let mut prefix = Prefix::default();
        assert_eq!(commands(&prefix), Some(vec![]));
        prefix.queue(b"one");
        prefix.queue(b"more");
        assert_eq!(commands(&prefix), Some(vec![&b"one"[..], b"more"]));
        prefix.queue(&vec![0; KEPT]);
        assert_eq!(commands(&prefix), None);
        prefix.queue(b"more");
        assert_eq!(commands(&prefix), None, "nor is what comes behind it");
        let mut prefix = Prefix::default();
        prefix.queue(&vec![0; KEPT]);
        assert!(prefix.commands().is_some());
        prefix.forget();
        assert_eq!(commands(&prefix), None);
    }
}
