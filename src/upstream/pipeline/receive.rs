//! What a pipeline does with received bytes: splits them into replies, and hands each piece to whom it belongs.
//!
//! Holds contract point 2, and that two servers are never used as one (point 3): what a former server says reaches nobody.

use std::sync::Arc;

use super::{ANOTHER, AnsweredCommand, Expectation, Expected, KEPT, Mode, Pipeline, Unasked};
use crate::clock::Time;
use crate::error::Error;
use crate::resp::Split;
use crate::upstream::messages::{Announced, classify, is_monitor_line};
use crate::upstream::waiter::{ConnectionTimes, ReplyEnd, Waiter};

impl<W: Waiter> Pipeline<W> {
    /// Takes what was read at `now` and hands every piece to its waiter. `stale`: another server has taken the place of the one
    /// that sent it. An error ends the connection.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        stale: bool,
        now: Time,
        unasked: &mut impl FnMut(Unasked<'_>),
    ) -> Result<(), Error> {
        self.waiting_since = now;
        if let Some(sent) = self.timed.take() {
            self.round_trip = now.saturating_since(sent);
        }
        // Messages are still what they are: a subscriber stays with the server that it chose, as it would alone.
        if stale && (!self.private || self.mode == Mode::Replies) {
            return Err(self.lost(ANOTHER));
        }
        if self.private {
            return self.receive_private(bytes, now, unasked);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, end) = self.split(&mut rest)?;
            self.hand(self.splitter.kind(), piece, end.then_some(now))?;
        }
        Ok(())
    }

    fn receive_private(&mut self, bytes: &[u8], now: Time, unasked: &mut impl FnMut(Unasked<'_>)) -> Result<(), Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.mode == Mode::Opening && self.splitter.at_start() {
                self.open_stream(rest[0], now);
            }
            if self.mode == Mode::Raw {
                unasked(Unasked::Message(rest));
                return Ok(());
            }
            let (piece, end) = self.split(&mut rest)?;
            let kind = self.splitter.kind();
            if kind == b'>' || self.mode != Mode::Replies || !self.whole.is_empty() {
                self.whole.extend_from_slice(piece);
                if end {
                    let mut whole = std::mem::take(&mut self.whole);
                    self.take_whole(kind, &whole, now, unasked)?;
                    whole.clear();
                    whole.shrink_to(KEPT);
                    self.whole = whole;
                }
            } else if self.fifo.is_empty() {
                unasked(Unasked::Message(piece));
            } else {
                self.hand(kind, piece, end.then_some(now))?;
            }
        }
        Ok(())
    }

    /// Takes the next piece off `rest`, and says whether a reply ends with it.
    fn split<'a>(&mut self, rest: &mut &'a [u8]) -> Result<(&'a [u8], bool), Error> {
        let (len, end) = match self.splitter.split(rest) {
            Ok(Split::End(len)) => (len, true),
            Ok(Split::More) => (rest.len(), false),
            Err(malformed) => return Err(self.lost(&malformed.to_string())),
        };
        let (piece, after) = rest.split_at(len);
        *rest = after;
        Ok((piece, end))
    }

    /// The first byte of what answers `SYNC` or `PSYNC`. Redis may send newlines ahead of it, to show that it is there.
    fn open_stream(&mut self, first: u8, now: Time) {
        if first == b'-' {
            self.mode = Mode::Replies;
            return;
        }
        self.mode = Mode::Raw;
        let head = self.fifo.pop_front();
        self.take_effect();
        if let Some(Expectation { expect: Expected::Reply(mut waiter), .. }) = head {
            waiter.piece(first, b"", Some(now));
            waiter.over(ReplyEnd { at: now, size: 0 }, || self.times, || &[]);
        }
    }

    /// A mode that has come to the head of the FIFO takes effect.
    fn take_effect(&mut self) {
        while let Some(Expectation { expect: Expected::Mode(mode), .. }) = self.fifo.front() {
            let mode = *mode;
            self.enter(mode);
            self.fifo.pop_front();
        }
    }

    /// Hands a piece to the head of the FIFO.
    fn hand(&mut self, kind: u8, piece: &[u8], end: Option<Time>) -> Result<(), Error> {
        if kind == b'>' {
            return Err(self.lost("a push on a lane: desynchronised")); // with its head in place, to be told like the others
        }
        let size = self.reply + piece.len() as u64;
        self.reply = if end.is_some() { 0 } else { size };
        let Some(head) = self.fifo.front_mut() else {
            return Err(self.lost("a reply that nothing asked for: desynchronised"));
        };
        let over = if let Expected::Reply(waiter) = &mut head.expect {
            waiter.piece(kind, piece, end);
            end.filter(|_| !waiter.awaits_more())
        } else {
            self.hand_own(kind, piece, end.is_some())?;
            end
        };
        if let Some(at) = over {
            self.finish_head(ReplyEnd { at, size });
        }
        Ok(())
    }

    /// The reply at the head is whole.
    fn finish_head(&mut self, end: ReplyEnd) {
        let Some(Expectation { start, expect }) = self.fifo.pop_front() else { return };
        let turn = std::mem::replace(&mut self.times.turn, end.at);
        if self.private {
            self.take_effect();
        }
        if let Expected::Reply(waiter) = expect {
            let (out, fifo, last) = (&self.out, &self.fifo, &self.times);
            let times = || ConnectionTimes { turn, ..*last };
            let command = || out.between(start, fifo.front().map_or(out.queued(), |next| next.start));
            // What is behind one that goes elsewhere is over when that one has gone, which may be told of it.
            if waiter.goes_elsewhere() || !self.elsewhere.is_empty() {
                let command = command().into();
                self.elsewhere.push((waiter, AnsweredCommand { command, end, times: times() }));
            } else {
                waiter.over(end, times, command);
            }
        }
    }

    /// A piece of the reply to a command of the connection's own.
    #[cold]
    fn hand_own(&mut self, kind: u8, piece: &[u8], end: bool) -> Result<(), Error> {
        let Some(head) = self.fifo.front_mut() else { return Ok(()) };
        match &mut head.expect {
            Expected::Prepared { kind: expected, got } => {
                got.extend_from_slice(piece);
                if end && kind != *expected {
                    return Err(Error::Refused { node: Arc::clone(&self.address), reply: got.as_slice().into() });
                }
                if end {
                    self.out.prepared();
                }
            }
            // Refused, it neither proves anything nor disproves it.
            Expected::Nonce { .. } if kind == b'-' => self.unverifiable = piece.starts_with(b"-NOPERM"),
            Expected::Nonce { expected, got } => {
                got.extend_from_slice(piece);
                if got.len() > expected.len() || end && got != expected {
                    return Err(self.lost("a wrong answer to ECHO: desynchronised"));
                }
            }
            // The one is not handed here, and the other takes effect when it comes to the head.
            Expected::Reply(_) | Expected::Mode(_) => {}
        }
        Ok(())
    }

    /// A whole reply, push or message on a private connection.
    fn take_whole(
        &mut self,
        kind: u8,
        bytes: &[u8],
        now: Time,
        unasked: &mut impl FnMut(Unasked<'_>),
    ) -> Result<(), Error> {
        if self.mode == Mode::Monitor && is_monitor_line(bytes) {
            unasked(Unasked::MonitorLine(bytes));
            return Ok(());
        }
        let message = match self.mode {
            Mode::Subscribed | Mode::Monitor => classify(bytes),
            _ if kind == b'>' => Some(Announced::Published),
            _ => None,
        };
        let awaited =
            matches!(self.fifo.front(), Some(Expectation { expect: Expected::Reply(waiter), .. }) if waiter.confirms());
        match message {
            Some(Announced::Confirmation { shard, left }) if awaited => {
                self.subscriptions.confirmed(shard, left, kind == b'>');
                self.confirm(bytes);
            }
            Some(message) if self.subscriptions.may_say(kind, self.fifo.is_empty()) => {
                if let Announced::Confirmation { shard, left } = message {
                    self.subscriptions.are_left(shard, left);
                }
                unasked(Unasked::Message(bytes));
            }
            _ if kind != b'>' && self.fifo.is_empty() => unasked(Unasked::Message(bytes)),
            _ => return self.hand(kind, bytes, Some(now)),
        }
        Ok(())
    }

    fn confirm(&mut self, bytes: &[u8]) {
        if let Some(Expectation { expect: Expected::Reply(waiter), .. }) = self.fifo.front_mut()
            && waiter.confirm(bytes)
        {
            self.fifo.pop_front();
            self.take_effect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Sent;
    use crate::upstream::pipeline::bench::{AT, PipelineBench, whole};

    const REPLIES: [&str; 5] =
        ["+OK\r\n", "$5\r\na\r\nbc\r\n", "*2\r\n:1\r\n*1\r\n$-1\r\n", "-ERR no\r\n", "%1\r\n+a\r\n,1.5\r\n"];

    #[test]
    fn replies_come_in_the_order_of_commands_however_they_are_cut() {
        let all = REPLIES.concat();
        for cut in 0..=all.len() {
            for private in [false, true] {
                let mut bench = PipelineBench::new(private);
                let told: Vec<_> = ["a", "b", "c", "d", "e"].map(|command| bench.send(command, AT(1))).into();
                assert_eq!(bench.write(), "abcde");
                let (first, second) = all.split_at(cut);
                bench.receive(first, AT(2)).expect("replies");
                bench.receive(second, AT(2)).expect("replies");
                assert!(bench.pipeline.is_quiet());
                for (at, (told, reply)) in told.iter().zip(REPLIES).enumerate() {
                    // What is written and answered is let go with the next write on a private connection alone.
                    let command = if private { "" } else { &"abcde"[at..=at] };
                    assert_eq!(*told.borrow(), whole(reply, AT(2), command), "cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn one_byte_at_a_time_is_a_reply_as_well() {
        let mut bench = PipelineBench::new(false);
        let told = bench.send("a", AT(0));
        for byte in REPLIES[2].chars() {
            assert_eq!(told.borrow().over, None);
            bench.receive(&byte.to_string(), AT(7)).expect("a reply");
        }
        assert_eq!(*told.borrow(), whole(REPLIES[2], AT(7), "a"));
    }

    #[test]
    fn a_waiter_of_several_replies_stays_at_the_head() {
        let mut bench = PipelineBench::new(false);
        let told = bench.send_with("multi", AT(0), |probe| probe.replies = 3);
        let next = bench.send("b", AT(0));
        bench.receive("+OK\r\n+QUEUED\r\n", AT(1)).expect("replies");
        assert_eq!((&told.borrow().over, next.borrow().kind), (&None, 0));
        bench.receive("*1\r\n:1\r\n:2\r\n", AT(1)).expect("replies");
        assert_eq!(told.borrow().over.as_deref(), Some(&b"multi"[..]));
        assert_eq!(*next.borrow(), whole(":2\r\n", AT(1), "b"));
    }

    #[test]
    fn a_check_proves_that_replies_are_in_step() {
        let mut bench = PipelineBench::new(false);
        bench.pipeline.verify(0xabc, AT(3));
        assert_eq!(bench.pipeline.checked(), AT(3));
        let told = bench.send("a", AT(3));
        let nonce = "crema-0000000000000abc";
        assert!(bench.write().contains(nonce));
        bench.receive(&format!("$22\r\n{nonce}\r\n+OK\r\n"), AT(4)).expect("in step");
        assert!(told.borrow().over.is_some());
        bench.pipeline.verify(0xdef, AT(5));
        assert!(bench.receive(&format!("$22\r\n{nonce}\r\n"), AT(6)).is_err(), "that was the last one");
    }

    #[test]
    fn where_the_user_may_not_be_asked_nothing_is_proved_and_it_is_not_asked_again() {
        let mut bench = PipelineBench::new(false);
        bench.pipeline.verify(1, AT(0));
        bench.write();
        bench.receive("-NOPERM no\r\n", AT(1)).expect("no proof either way");
        bench.pipeline.verify(2, AT(2));
        assert_eq!((bench.write(), bench.pipeline.checked()), (String::new(), AT(2)));
    }

    #[test]
    fn out_of_step_ends_the_connection() {
        let mut bench = PipelineBench::new(false);
        assert!(bench.receive("+OK\r\n", AT(1)).is_err(), "nothing asked for it");
        let mut bench = PipelineBench::new(false);
        let told = bench.send("a", AT(0));
        assert!(bench.receive(">2\r\n+x\r\n+y\r\n", AT(1)).is_err(), "a push on a lane");
        bench.lose();
        assert_eq!((told.borrow().over.clone(), told.borrow().lost.is_some()), (None, true));
        let mut bench = PipelineBench::new(false);
        bench.send("a", AT(0));
        assert!(bench.receive("?\r\n", AT(1)).is_err(), "no protocol");
    }

    #[test]
    fn another_server_answers_nobody() {
        for (private, mode, serves) in
            [(false, Mode::Replies, false), (true, Mode::Replies, false), (true, Mode::Subscribed, true)]
        {
            let mut bench = PipelineBench::new(private);
            bench.pipeline.set_mode(mode);
            let told = bench.send("a", AT(0));
            let received = bench.pipeline.receive(b"+OK\r\n", true, AT(1), &mut |_| {});
            assert_eq!((received.is_ok(), told.borrow().over.is_some()), (serves, serves), "{private} {mode:?}");
        }
    }

    #[test]
    fn pushes_and_messages_are_told_from_replies_on_a_private_connection() {
        let mut bench = PipelineBench::new(true);
        let told = bench.send("a", AT(0));
        bench.receive(">2\r\n+x\r\n", AT(1)).expect("half a push");
        assert!(bench.unasked.is_empty(), "only whole ones are passed on");
        bench.receive("+y\r\n+OK\r\n", AT(1)).expect("its rest, and a reply");
        assert_eq!(bench.unasked, ["message >2\r\n+x\r\n+y\r\n"]);
        assert_eq!(told.borrow().pieces, b"+OK\r\n");
        bench.receive("-ERR closing\r\n", AT(2)).expect("last words");
        assert_eq!(bench.unasked.last().map(String::as_str), Some("message -ERR closing\r\n"));
    }

    #[test]
    fn a_subscriber_of_resp2_gets_messages_between_replies() {
        let mut bench = PipelineBench::new(true);
        bench.pipeline.set_mode(Mode::Subscribed);
        let told = bench.send_with("subscribe a b", AT(0), |probe| probe.confirmations = 2);
        let confirmation = |channel: &str, n| format!("*3\r\n$9\r\nsubscribe\r\n$1\r\n{channel}\r\n:{n}\r\n");
        bench.receive(&confirmation("a", 1), AT(1)).expect("the first");
        let message = "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nm\r\n";
        bench.receive(message, AT(1)).expect("a message between");
        assert!(!bench.pipeline.is_quiet());
        bench.receive(&confirmation("b", 2), AT(1)).expect("the second");
        assert!(bench.pipeline.is_quiet());
        assert_eq!(told.borrow().pieces, (confirmation("a", 1) + &confirmation("b", 2)).as_bytes());
        let ping = bench.send("ping", AT(2));
        bench.receive(&format!("{message}*2\r\n$4\r\npong\r\n$0\r\n\r\n"), AT(3)).expect("both");
        assert_eq!((bench.unasked.len(), ping.borrow().pieces.as_slice()), (2, &b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"[..]));
    }

    #[test]
    fn a_monitor_gets_lines_and_replies() {
        let mut bench = PipelineBench::new(true);
        let told = bench.send("monitor", AT(0));
        bench.pipeline.set_mode(Mode::Monitor);
        assert_eq!(bench.pipeline.mode(), Mode::Replies, "not before its reply");
        bench.receive("+OK\r\n+1.5 [0 127.0.0.1:1] \"get\"\r\n", AT(1)).expect("a line");
        assert_eq!((told.borrow().pieces.as_slice(), bench.pipeline.mode()), (&b"+OK\r\n"[..], Mode::Monitor));
        assert_eq!(bench.unasked, ["line +1.5 [0 127.0.0.1:1] \"get\"\r\n"]);
        bench.pipeline.set_mode(Mode::Subscribed);
        assert_eq!(bench.pipeline.mode(), Mode::Monitor, "who subscribes monitors on");
    }

    #[test]
    fn a_replication_stream_is_raw_unless_it_is_refused() {
        let mut bench = PipelineBench::new(true);
        bench.pipeline.set_mode(Mode::Opening);
        let told = bench.send("psync", AT(0));
        bench.receive("+FULLRESYNC\r\n", AT(1)).expect("a stream");
        assert_eq!((bench.pipeline.mode(), told.borrow().over.is_some()), (Mode::Raw, true));
        bench.receive("$EOF:", AT(2)).expect("whatever it is");
        assert_eq!(bench.unasked, ["message +FULLRESYNC\r\n", "message $EOF:"]);
        let mut bench = PipelineBench::new(true);
        bench.pipeline.set_mode(Mode::Opening);
        let told = bench.send("psync", AT(0));
        bench.receive("-NOMASTERLINK no\r\n", AT(1)).expect("an error");
        assert_eq!((bench.pipeline.mode(), told.borrow().pieces.len()), (Mode::Replies, 18));
        assert!(bench.unasked.is_empty());
    }

    #[test]
    fn commands_behind_a_preparation_wait_for_it() {
        let mut bench = PipelineBench::new(true);
        bench.pipeline.prepare(b"select", b'+', AT(0));
        let told = bench.send("get", AT(0));
        assert_eq!((bench.write(), bench.pipeline.is_preparing()), ("select".to_owned(), true));
        bench.receive("+OK\r\n", AT(1)).expect("a reply");
        assert_eq!((bench.write(), bench.pipeline.is_preparing()), ("get".to_owned(), false));
        bench.receive("$1\r\nx\r\n", AT(2)).expect("a reply");
        assert_eq!(told.borrow().pieces, b"$1\r\nx\r\n");
    }

    #[test]
    fn a_preparation_that_is_refused_ends_the_connection() {
        let mut bench = PipelineBench::new(true);
        bench.pipeline.prepare(b"select", b'+', AT(0));
        let told = bench.send("get", AT(0));
        let error = bench.receive("-ERR no\r\n", AT(1)).expect_err("it is in another database");
        assert!(matches!(error, Error::Refused { .. }));
        bench.pipeline.lose(&error).expect("it had not ended").tell(&error, |_, _| ());
        assert_eq!(told.borrow().lost.as_ref().map(|lost| lost.0), Some(Sent::No), "it was held back");
    }
}
