//! A command of a transaction in a cluster, until its node has queued it.
//!
//! The node may say that its keys belong elsewhere. Then nothing of the transaction is carried out there, and with `EXEC` it begins
//! again at the right node. So the client is told that the command is queued. Where it is refused for another reason, it is
//! told that, and the transaction fails wherever it begins again.
//!
//! Holds contract point 7: what is told so was not carried out.

use std::cell::RefCell;
use std::rc::Rc;

use super::write_guard::WriteGuard;
use crate::upstream::redirect_of;

/// What Redis answers to a command in a transaction.
pub(super) const QUEUED: &[u8] = b"+QUEUED\r\n";

/// By which Redis refuses what it does not count against a transaction.
const HARMLESS: [&[u8]; 2] = [b"-ERR MULTI calls can not be nested", b"-ERR WATCH inside MULTI is not allowed"];

/// What nodes said of the commands of a transaction.
#[derive(Debug, Default)]
pub(crate) struct QueueRecord {
    /// The first that tells that its keys are not served there; empty as long as all are.
    pub(crate) redirect: Vec<u8>,
    /// A command was refused for another reason: the transaction fails.
    pub(crate) refused: bool,
}

/// The same, as its commands share it.
pub(crate) type QueueNote = Rc<RefCell<QueueRecord>>;

/// A command of a transaction that awaits being queued.
pub(crate) struct QueuedCommand {
    /// What it will change.
    pub(super) guard: Option<WriteGuard>,
    /// What there is of an error.
    error: Vec<u8>,
    note: QueueNote,
}

impl QueuedCommand {
    /// One with these marks; what the node says of it is noted in `note`.
    pub(super) fn new(guard: Option<WriteGuard>, note: QueueNote) -> Self {
        Self { guard, error: Vec::new(), note }
    }

    /// What the client is shown of the next piece of the reply.
    pub(super) fn shown(&mut self, kind: u8, bytes: &[u8], end: bool) -> Option<Vec<u8>> {
        if kind != b'-' {
            return Some(bytes.to_vec());
        }
        self.error.extend_from_slice(bytes);
        if !end {
            return None;
        }
        let error = std::mem::take(&mut self.error);
        let mut note = self.note.borrow_mut();
        if redirect_of(&error).is_none() {
            note.refused |= !HARMLESS.iter().any(|words| error.starts_with(words));
            return Some(error);
        }
        if note.redirect.is_empty() {
            note.redirect = error;
        }
        Some(QUEUED.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_told_that_what_belongs_elsewhere_is_queued() {
        let note = QueueNote::default();
        let command = |pieces: &[&str]| {
            let mut queued = QueuedCommand::new(None, Rc::clone(&note));
            let mut shown = Vec::new();
            for (n, piece) in pieces.iter().enumerate() {
                let kind = pieces[0].as_bytes()[0];
                shown.extend(queued.shown(kind, piece.as_bytes(), n + 1 == pieces.len()).unwrap_or_default());
            }
            String::from_utf8(shown).expect("text")
        };
        assert_eq!(command(&["+QUE", "UED\r\n"]), "+QUEUED\r\n");
        let nested = "-ERR MULTI calls can not be nested\r\n";
        assert_eq!(command(&[nested]), nested);
        assert!(!note.borrow().refused, "it is no part of the transaction");
        assert_eq!(command(&["-ERR no", " such\r\n"]), "-ERR no such\r\n");
        assert!(note.borrow().redirect.is_empty() && note.borrow().refused);
        assert_eq!(command(&["-MO", "VED 7 a:1\r\n"]), "+QUEUED\r\n");
        assert_eq!(command(&["-ASK 7 a:1\r\n"]), "+QUEUED\r\n");
        assert_eq!(note.borrow().redirect, b"-MOVED 7 a:1\r\n", "the first says where it begins again");
    }
}
