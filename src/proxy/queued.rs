//! A command of a transaction in a cluster, until its node has queued it.
//!
//! The node may say that its keys belong elsewhere. Then nothing of the transaction is carried out there, and with `EXEC` it begins
//! again at the right node. So the client is told that the command is queued.
//!
//! Holds contract point 7: what is told so was not carried out.

use std::cell::RefCell;
use std::rc::Rc;

use super::write_guard::WriteGuard;
use crate::upstream::ErrorLine;

/// What Redis answers to a command in a transaction.
pub(super) const QUEUED: &[u8] = b"+QUEUED\r\n";

/// What a node said of the first command of a transaction whose keys it does not serve; empty as long as it serves all.
pub(crate) type RedirectNote = Rc<RefCell<Vec<u8>>>;

/// A command of a transaction that awaits being queued.
pub(crate) struct QueuedCommand {
    /// What it will change.
    pub(super) guard: Option<WriteGuard>,
    /// What there is of an error.
    error: Vec<u8>,
    redirect: RedirectNote,
}

impl QueuedCommand {
    /// One with these marks; where its keys belong elsewhere, `redirect` is where that is noted.
    pub(super) fn new(guard: Option<WriteGuard>, redirect: RedirectNote) -> Self {
        Self { guard, error: Vec::new(), redirect }
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
        if !matches!(ErrorLine::of(&error, true), ErrorLine::Redirect(_)) {
            return Some(error);
        }
        let mut note = self.redirect.borrow_mut();
        if note.is_empty() {
            *note = error;
        }
        Some(QUEUED.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_told_that_what_belongs_elsewhere_is_queued() {
        let note = RedirectNote::default();
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
        assert_eq!(command(&["-ERR no", " such\r\n"]), "-ERR no such\r\n");
        assert!(note.borrow().is_empty());
        assert_eq!(command(&["-MO", "VED 7 a:1\r\n"]), "+QUEUED\r\n");
        assert_eq!(command(&["-ASK 7 a:1\r\n"]), "+QUEUED\r\n");
        assert_eq!(*note.borrow(), b"-MOVED 7 a:1\r\n", "the first says where it begins again");
    }
}
