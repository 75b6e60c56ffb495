//! How long a pipeline has waited, for a reply or for a session to take one, and whether that is too long.

use std::time::Duration;

use super::{Expectation, Expected, Goodbye, Mode, Pipeline, Stage};
use crate::clock::Time;
use crate::upstream::waiter::Waiter;

/// A lane whose head waits longer takes no more commands, and a reply is read no slower for a slow session after it.
pub(crate) const STALL: Duration = Duration::from_millis(50);
/// A lane in the midst of a reply of more than so many bytes takes no more commands: they would wait behind the rest.
const LARGE_REPLY: u64 = 1 << 20;

/// When the next bytes may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Room {
    /// At once.
    Now,
    /// When the session takes what it gets, or at this moment.
    At(Time),
}

impl<W: Waiter> Pipeline<W> {
    /// Since when the head of the FIFO has waited for its next byte.
    pub(in crate::upstream) fn waiting_since(&self) -> Time {
        self.waiting_since
    }

    /// How long the head of the FIFO has waited for its next byte; zero where it is to wait, or its session takes no more.
    pub(in crate::upstream) fn waited(&self, now: Time) -> Duration {
        if self.mode != Mode::Replies {
            return Duration::ZERO; // much of what comes then is no reply
        }
        match self.fifo.front() {
            None => Duration::ZERO,
            Some(Expectation { expect: Expected::Reply(waiter), .. })
                if waiter.is_patient() && self.goodbye == Goodbye::No =>
            {
                Duration::ZERO
            }
            Some(_) => now.saturating_since(self.waiting_since),
        }
    }

    /// Whether what is sent now would wait: behind the rest of a large reply, or because the head of the FIFO has waited
    /// longer than [`STALL`] for a byte while the node speaks on other connections, as it did at `last_heard`.
    pub(in crate::upstream) fn is_stalled(&self, now: Time, last_heard: impl FnOnce() -> Time) -> bool {
        self.reply > LARGE_REPLY
            || self.waited(now) > STALL && last_heard().saturating_since(self.waiting_since) > STALL
    }

    /// Since when the next reply to a client has been awaited, where its command is one that Redis may have put to wait, or
    /// `any` command. `None` once Redis is told that nothing more comes.
    pub(in crate::upstream) fn waits_since(&self, any: bool) -> Option<Time> {
        let next = self.fifo.iter().find_map(|entry| match &entry.expect {
            Expected::Reply(waiter) if !waiter.is_own() => Some(waiter),
            _ => None,
        })?;
        (self.goodbye == Goodbye::No && (any || next.is_patient())).then_some(self.waiting_since)
    }

    /// Whether Redis cannot have all yet that was sent: the connection is being made or made ready, or takes no more.
    pub(in crate::upstream) fn is_unsent(&self) -> bool {
        self.state != Stage::Closed && self.out.unwritten() > 0
    }

    /// How long the last command took to be answered that found nothing else under way; zero before there was one.
    pub(in crate::upstream) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Whether a part of the next reply has come.
    pub(in crate::upstream) fn has_begun(&self) -> bool {
        !self.splitter.at_start()
    }

    /// Whoever gets the rest of the reply under way on a shared lane, where it has begun.
    pub(in crate::upstream) fn receiver(&mut self) -> Option<&mut W> {
        if self.private || self.splitter.at_start() {
            return None;
        }
        match self.fifo.front_mut() {
            Some(Expectation { expect: Expected::Reply(waiter), .. }) => Some(waiter),
            _ => None,
        }
    }

    /// The receiver takes more bytes.
    pub(in crate::upstream) fn has_room(&mut self) {
        self.patience = None;
    }

    /// The receiver takes no more bytes for now. One that takes nothing for [`STALL`] slows the others no longer; and then nobody
    /// is waited for, for this reply or the next, before some session takes what it gets again.
    pub(in crate::upstream) fn has_no_room(&mut self, now: Time) -> Room {
        self.note_held(now);
        let until = *self.patience.get_or_insert(now.plus(STALL));
        if until <= now { Room::Now } else { Room::At(until) }
    }

    /// From the first time on that a reply is held up until the last is one span.
    fn note_held(&mut self, now: Time) {
        if self.times.held.0 < self.times.turn {
            self.times.held.0 = now;
        }
        self.times.held.1 = now;
    }

    /// The session of a private connection takes no more bytes, or takes them again: meanwhile nothing is late.
    pub(in crate::upstream) fn hold(&mut self, held: bool, now: impl FnOnce() -> Time) {
        if held == (self.waiting_since == Time::NEVER) {
            return;
        }
        let now = now();
        self.waiting_since = if held { Time::NEVER } else { now };
        self.note_held(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::pipeline::bench::{AT, PipelineBench};

    #[test]
    fn a_large_reply_under_way_takes_no_more_commands() {
        let mut bench = PipelineBench::new(false);
        let told = bench.send("a", AT(0));
        let heard = || AT(0);
        bench.receive("$2000000\r\n", AT(1)).expect("a reply");
        assert!(!bench.pipeline.is_stalled(AT(1), heard));
        bench.receive(&"x".repeat(1_500_000), AT(2)).expect("a reply");
        assert!(bench.pipeline.is_stalled(AT(2), heard));
        bench.receive(&"x".repeat(500_000), AT(3)).expect("a reply");
        bench.receive("\r\n", AT(3)).expect("a reply");
        assert!(!bench.pipeline.is_stalled(AT(3), heard) && told.borrow().over.is_some());
    }

    #[test]
    fn a_head_that_waits_is_late_only_where_the_node_speaks_elsewhere() {
        let mut bench = PipelineBench::new(false);
        assert_eq!(bench.pipeline.waited(AT(90)), Duration::ZERO, "nothing is awaited");
        bench.send("a", AT(100));
        bench.send("b", AT(130));
        assert_eq!(bench.pipeline.waited(AT(160)), Duration::from_millis(60));
        assert!(!bench.pipeline.is_stalled(AT(160), || AT(120)), "the node is silent altogether");
        assert!(bench.pipeline.is_stalled(AT(160), || AT(155)));
        bench.receive("+O", AT(170)).expect("a reply");
        assert!(!bench.pipeline.is_stalled(AT(171), || AT(171)), "each byte is a sign");
        bench.receive("K\r\n+OK\r\n", AT(180)).expect("replies");
        assert_eq!(bench.pipeline.waited(AT(500)), Duration::ZERO);
    }

    #[test]
    fn what_redis_was_asked_to_wait_for_is_not_late_before_the_client_leaves() {
        let mut bench = PipelineBench::new(true);
        bench.send_with("blpop", AT(0), |probe| probe.patient = true);
        assert_eq!(bench.pipeline.waited(AT(90)), Duration::ZERO);
        assert_eq!((bench.pipeline.waits_since(false), bench.write()), (Some(AT(0)), "blpop".to_owned()));
        bench.pipeline.leave(AT(100));
        assert!(bench.pipeline.written(), "Redis is told at once, for all is written");
        assert!(!bench.pipeline.written(), "once");
        assert_eq!(bench.pipeline.waited(AT(190)), Duration::from_millis(90));
        assert_eq!(bench.pipeline.waits_since(true), None);
    }

    #[test]
    fn what_is_not_written_redis_cannot_have_wait() {
        let mut bench = PipelineBench::new(true);
        bench.pipeline.prepare(b"select", b'+', AT(0));
        bench.send_with("blpop", AT(0), |probe| probe.patient = true);
        assert_eq!((bench.write(), bench.pipeline.is_unsent()), ("select".to_owned(), true));
        bench.receive("+OK\r\n", AT(1)).expect("a reply");
        assert!(bench.pipeline.is_unsent(), "it may be written, and is not");
        assert_eq!((bench.write(), bench.pipeline.is_unsent()), ("blpop".to_owned(), false));
        bench.send("get", AT(2));
        bench.lose();
        assert!(!bench.pipeline.is_unsent(), "it never will be");
    }

    #[test]
    fn the_next_reply_to_a_client_is_what_is_waited_for() {
        let mut bench = PipelineBench::new(true);
        bench.send_with("own", AT(0), |probe| probe.own = true);
        assert_eq!(bench.pipeline.waits_since(true), None);
        bench.send("get", AT(5));
        assert_eq!((bench.pipeline.waits_since(true), bench.pipeline.waits_since(false)), (Some(AT(0)), None));
        assert!(!bench.pipeline.writes());
        bench.receive("+PONG\r\n+OK\r\n", AT(6)).expect("replies");
        bench.send_with("set", AT(7), |probe| probe.writes = true);
        assert!(bench.pipeline.writes());
    }

    #[test]
    fn a_held_session_is_not_late_and_the_time_counts_anew() {
        let mut bench = PipelineBench::new(true);
        bench.send("a", AT(0));
        bench.pipeline.hold(true, || AT(10));
        assert_eq!(bench.pipeline.waited(AT(900)), Duration::ZERO);
        bench.pipeline.hold(false, || AT(900));
        bench.pipeline.hold(false, || AT(910));
        assert_eq!(bench.pipeline.waited(AT(950)), Duration::from_millis(50), "from when it took bytes again");
    }

    #[test]
    fn a_slow_session_holds_a_shared_lane_for_a_moment_and_then_no_more() {
        let mut bench = PipelineBench::new(false);
        bench.send("a", AT(0));
        assert!(bench.pipeline.receiver().is_none(), "its reply has not begun");
        bench.receive("$5\r\nab", AT(1)).expect("a reply");
        assert!(bench.pipeline.receiver().is_some());
        assert_eq!(bench.pipeline.has_no_room(AT(10)), Room::At(AT(60)));
        assert_eq!(bench.pipeline.has_no_room(AT(40)), Room::At(AT(60)));
        assert_eq!(bench.pipeline.has_no_room(AT(60)), Room::Now);
        assert_eq!(bench.pipeline.has_no_room(AT(99)), Room::Now, "nor is the next one waited for");
        bench.pipeline.has_room();
        assert_eq!(bench.pipeline.has_no_room(AT(100)), Room::At(AT(150)));
    }

    #[test]
    fn what_a_reply_waited_for_is_told_with_its_end() {
        let mut bench = PipelineBench::new(false);
        let ends = std::rc::Rc::default();
        for (command, at) in [("a", 10), ("b", 11), ("c", 40)] {
            bench.send_with(command, AT(at), |probe| probe.ends = std::rc::Rc::clone(&ends));
        }
        bench.receive("$5\r\nab", AT(12)).expect("a reply");
        assert_eq!(bench.pipeline.has_no_room(AT(13)), Room::At(AT(63)));
        assert_eq!(bench.pipeline.has_no_room(AT(20)), Room::At(AT(63)));
        bench.receive("cde\r\n+OK\r\n", AT(21)).expect("replies");
        bench.receive("+OK\r\n", AT(50)).expect("a reply");
        bench.send_with("d", AT(60), |probe| probe.ends = std::rc::Rc::clone(&ends));
        bench.receive("+OK\r\n", AT(61)).expect("a reply");
        let held = (AT(13), AT(20));
        let told: Vec<_> = ends.borrow().iter().map(|(size, times)| (*size, times.turn, times.held)).collect();
        assert_eq!(told, [(11, AT(10), held), (5, AT(21), held), (5, AT(21), held), (5, AT(60), held)]);
        assert_eq!(ends.borrow()[0].1.made, AT(0));
    }

    #[test]
    fn a_round_trip_is_that_of_a_command_alone() {
        let mut bench = PipelineBench::new(false);
        bench.send("a", AT(10));
        bench.send("b", AT(11));
        bench.receive("+OK\r\n", AT(14)).expect("a reply");
        bench.receive("+OK\r\n", AT(30)).expect("a reply");
        assert_eq!((bench.pipeline.round_trip(), bench.pipeline.used()), (Duration::from_millis(4), AT(11)));
    }
}
