//! A command that awaits its answer and that Redis may have put to wait, and how long it is before that is believed of one whose
//! client has left.
//!
//! Redis frees such a client at once where it has its command wait. To crema a command that waits looks like one that takes long.
//!
//! Holds the end of contract point 7: a command that blocks ends with its client.

use std::time::Duration;

use crate::clock::Time;

/// A command of a client that has left may take so long before it is taken for one that Redis has wait,
const AT_ONCE: Duration = Duration::from_millis(50);
/// and so long if it is known for that.
const AT_ONCE_IF_SURE: Duration = Duration::from_millis(1);
/// How much later than a command another connection is asked, to see whether it is passed by,
const MOMENT: Duration = Duration::from_millis(100);
/// and how much if it is known to wait.
const MOMENT_IF_SURE: Duration = Duration::from_millis(1);

/// See the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// Since when its reply has been awaited.
    pub(super) since: Time,
    /// It is known for that: Redis answers it at once, or has it wait.
    pub(super) sure: bool,
}

impl Wait {
    /// How much longer it may take until Redis is to be told that the client has left; nothing if that is now.
    pub(super) fn left(self, now: Time) -> Duration {
        let at_once = if self.sure { AT_ONCE_IF_SURE } else { AT_ONCE };
        at_once.saturating_sub(now.saturating_since(self.since))
    }

    /// How much later another connection is asked, to see whether it is answered first.
    pub(super) fn moment(self) -> Duration {
        if self.sure { MOMENT_IF_SURE } else { MOMENT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn what_is_known_to_wait_is_believed_to_sooner() {
        let since = Time::from_nanos(5_000_000);
        for (sure, after, left) in
            [(false, 0, 50), (false, 30, 20), (false, 50, 0), (true, 0, 1), (true, 1, 0), (true, 90, 0)]
        {
            let wait = Wait { since, sure };
            assert_eq!(wait.left(since.plus(MS(after))), MS(left), "{sure}, {after}");
        }
        assert!(Wait { since, sure: true }.moment() < Wait { since, sure: false }.moment());
    }

    #[test]
    fn a_reply_that_goes_on_coming_is_awaited_anew() {
        let wait = Wait { since: Time::from_nanos(9_000_000), sure: false };
        assert_eq!(wait.left(Time::from_nanos(1_000_000)), MS(50), "that moment is over");
    }
}
