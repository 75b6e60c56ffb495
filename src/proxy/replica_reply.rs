//! What of a replica's replies is believed: the rest is asked of the master, and no client sees it.
//!
//! An error may be the replica's own: it loads, it has lost its master, its users are others, it serves no such slot. And a replica of a
//! cluster does not know which slots are on their way to another node (cluster.c, `getNodeByQuery`): a key that is missing there may be
//! at the other one by now; where something lies beyond the upstream, that is asked by the master's word. So a reply that a missing key
//! would have as well says nothing; and of several keys none may be asked for there in one command. In no case can a later reply to the
//! same session be older than the master's, for the session sends no second read of a key before the first is answered.
//!
//! Holds contract points 1 (same answers) and 4 (others' writes soon).

use std::sync::Arc;

use super::in_flight::{InFlight, ReplyAction, ReplyStage};
use super::returned::ReturnReason;
use crate::clock::Time;
use crate::error::{Error, Sent};

/// The one error that is about the key alone.
const ABOUT_THE_KEY: &[u8] = b"-WRONGTYPE ";

impl InFlight {
    /// It goes on a lane to a replica: its reply is looked at before any of it is passed on.
    pub(super) fn weigh(&mut self) {
        if self.stage == ReplyStage::Awaited && self.recipient.is_some() {
            self.stage = ReplyStage::Weighed;
        }
    }

    /// Whether the reply that these bytes begin or continue is not passed on.
    pub(super) fn is_not_believed(&mut self, kind: u8, bytes: &[u8], end: Option<Time>) -> bool {
        if matches!(self.action, ReplyAction::Return(_)) {
            return true;
        }
        let is_believed = match kind {
            _ if self.site.lapsed.get() => false,
            b'-' | b'!' => bytes.starts_with(ABOUT_THE_KEY),
            _ => !self.site.doubts_absence || tells_of_a_key(bytes, end.is_some()),
        };
        if is_believed {
            return false;
        }
        let why = "a replica's reply is asked of its master".into();
        let error = Error::Lost { node: Arc::clone(&self.site.node.address), why };
        self.give_back(ReturnReason::Lost(error, Sent::Maybe));
        true
    }
}

/// Whether a missing key would not be answered so: by nulls, zeros and what is empty. Of a reply that is not `whole`, what is here
/// decides.
fn tells_of_a_key(bytes: &[u8], whole: bool) -> bool {
    let mut rest = bytes;
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let line = &rest[..end];
        let is_empty = match line.first() {
            None | Some(b'*' | b'~' | b'%' | b'_') => true,
            Some(b'$') => matches!(line, b"$-1" | b"$0"),
            Some(b':') => matches!(line, b":0" | b":-1" | b":-2"),
            Some(b'+') => line == b"+none",
            Some(b',') => line == b",0",
            Some(b'#') => line == b"#f",
            Some(_) => false,
        };
        if !is_empty {
            return true;
        }
        rest = &rest[end + 2..];
    }
    whole && !rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::tells_of_a_key;

    #[test]
    fn what_a_missing_key_would_be_answered_tells_of_none() {
        for reply in [
            "$-1\r\n",
            "*-1\r\n",
            "_\r\n",
            "*0\r\n",
            "~0\r\n",
            "%0\r\n",
            ":0\r\n",
            ":-2\r\n",
            "$0\r\n\r\n",
            "+none\r\n",
            "*2\r\n$-1\r\n$-1\r\n",
            "*2\r\n:0\r\n:0\r\n",
            "*1\r\n*0\r\n",
            "#f\r\n",
        ] {
            assert!(!tells_of_a_key(reply.as_bytes(), true), "{reply:?}");
        }
        for reply in [
            "$1\r\nv\r\n",
            ":1\r\n",
            ":-7\r\n",
            "+string\r\n",
            "*2\r\n$-1\r\n$1\r\nv\r\n",
            "%1\r\n$1\r\nf\r\n$0\r\n\r\n",
            ",1.5\r\n",
            "$2\r\n:0\r\n",
        ] {
            assert!(tells_of_a_key(reply.as_bytes(), true), "{reply:?}");
        }
    }

    #[test]
    fn of_what_is_not_whole_the_lines_that_are_decide() {
        for (begun, tells) in
            [("$", false), ("$1", false), ("$10\r\nabc", true), ("*3\r\n$-1\r\n$", false), (":", false)]
        {
            assert_eq!(tells_of_a_key(begun.as_bytes(), false), tells, "{begun:?}");
        }
    }
}
