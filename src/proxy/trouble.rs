//! Why a worker tries no new connection to a node for a moment: the last try failed just now.
//!
//! A state without sockets: told how each connection ended, asked before each is made. Belongs to a `Station`.

use std::time::Duration;

use crate::clock::Time;
use crate::error::Error;
use crate::upstream::Backoff;

/// One that ends before it is ready may have been its user's, whose connections somebody ended: so many in a row are trouble.
const CUTS: u32 = 4;
/// How long after a failed try no other is made: long enough to spare the node, short enough not to be missed.
const TROUBLE: Duration = Duration::from_millis(400);

/// See the module's head.
#[derive(Default)]
pub(super) struct Trouble {
    last: Option<Failed>,
    backoff: Backoff,
    /// Connections in a row that ended before they were ready.
    cuts: u32,
}

/// A try that failed at `since`; there is no other before `until`.
struct Failed {
    since: Time,
    until: Time,
    error: Error,
}

/// What the end of a connection means for those to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TryEnding {
    /// Nothing: there was no room for it, and the next may find some.
    NoRoom,
    /// Nothing yet: it ended before it was ready.
    Cut,
    /// No other is tried for a moment.
    Failed {
        /// Nothing stood in the way before.
        anew: bool,
    },
    /// The node was there: the next is tried at once.
    Lost,
}

impl Trouble {
    /// Why no connection should be tried at `now`. One that could not be made may be as soon as somebody has `heard` the node
    /// since.
    pub(super) fn lasting(&self, heard: Time, now: Time) -> Option<&Error> {
        let Failed { since, until, error } = self.last.as_ref()?;
        let over = matches!(error, Error::Unreachable { .. }) && heard > *since;
        (now < *until && !over).then_some(error)
    }

    /// A connection, made or not, ended with `error` at `now`.
    pub(super) fn note(&mut self, error: Error, now: Time) -> TryEnding {
        let unreachable = matches!(error, Error::Unreachable { .. });
        if matches!(error, Error::UpstreamLimit { .. }) {
            return TryEnding::NoRoom;
        }
        if unreachable && error.is_cut() && self.cuts < CUTS {
            self.cuts += 1;
            return TryEnding::Cut;
        }
        if unreachable || error.is_passing() {
            let until = now.plus(self.backoff.wait().min(TROUBLE));
            let anew = self.last.as_ref().is_none_or(|last| last.until < now);
            self.last = Some(Failed { since: now, until, error });
            return TryEnding::Failed { anew };
        }
        *self = Self::default();
        TryEnding::Lost
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_nanos(millis * 1_000_000)
    }

    fn unreachable(kind: io::ErrorKind) -> Error {
        Error::Unreachable { node: "n".into(), source: Arc::new(kind.into()) }
    }

    fn refused() -> Error {
        unreachable(io::ErrorKind::ConnectionRefused)
    }

    #[test]
    fn after_a_failed_try_none_is_made_for_a_moment_or_until_the_node_is_heard() {
        let mut trouble = Trouble::default();
        assert!(trouble.lasting(Time::ZERO, at(0)).is_none());
        assert_eq!(trouble.note(refused(), at(1)), TryEnding::Failed { anew: true });
        assert!(trouble.lasting(at(1), at(1)).is_some(), "what was heard by then tells nothing");
        assert!(trouble.lasting(at(2), at(2)).is_none());
        assert!(trouble.lasting(at(1), at(1).plus(TROUBLE)).is_none());
        assert_eq!(trouble.note(refused(), at(1)), TryEnding::Failed { anew: false });
        assert_eq!(trouble.note(refused(), at(2000)), TryEnding::Failed { anew: true });
    }

    #[test]
    fn what_redis_refuses_for_now_is_not_tried_though_it_is_heard() {
        let mut trouble = Trouble::default();
        let loading = Error::Refused { node: "n".into(), reply: (*b"-LOADING no\r\n").into() };
        assert!(loading.is_passing());
        assert_eq!(trouble.note(loading, at(1)), TryEnding::Failed { anew: true });
        assert!(trouble.lasting(at(1), at(1)).is_some());
    }

    #[test]
    fn a_few_that_are_cut_before_they_are_ready_are_no_trouble_and_many_are() {
        let mut trouble = Trouble::default();
        let cut = || unreachable(io::ErrorKind::UnexpectedEof);
        assert!(cut().is_cut());
        for _ in 0..CUTS {
            assert_eq!(trouble.note(cut(), at(1)), TryEnding::Cut);
        }
        assert_eq!(trouble.note(cut(), at(1)), TryEnding::Failed { anew: true });
    }

    #[test]
    fn one_that_was_made_ends_the_trouble_and_a_full_budget_is_none() {
        let mut trouble = Trouble::default();
        assert_eq!(trouble.note(refused(), at(1)), TryEnding::Failed { anew: true });
        assert_eq!(trouble.note(Error::UpstreamLimit { limit: 1 }, at(1)), TryEnding::NoRoom);
        assert!(trouble.lasting(Time::ZERO, at(1)).is_some());
        assert_eq!(trouble.note(Error::Lost { node: "n".into(), why: "it ended".into() }, at(1)), TryEnding::Lost);
        assert!(trouble.lasting(Time::ZERO, at(1)).is_none());
    }
}
