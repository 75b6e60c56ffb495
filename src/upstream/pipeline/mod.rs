//! The order of a connection: commands go out one behind the other, and replies come back in that order.
//!
//! A [`Pipeline`] is the state machine of a lane, or of a private connection, on which Redis may also speak unasked. It does no
//! I/O and reads no clock. Commands, received bytes and the time go in; what comes out is bytes to write, pieces of replies for
//! their [`Waiter`]s, what Redis says unasked, and in the end a [`Loss`] for whoever still waits. [`Lane`](super::Lane) is the
//! handle on it, and `carrier` moves the bytes.
//!
//! Holds contract points 2 and 7: commands and replies keep their order, nothing is sent twice, and each waiter is answered or told of
//! its loss.

#[cfg(test)]
mod bench;
mod receive;
mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub(in crate::upstream) use waiting::Room;
pub(crate) use waiting::STALL;

use super::messages::Subscriptions;
use super::send_buffer::SendBuffer;
use super::waiter::{ConnectionTimes, ReplyEnd, Waiter};
use crate::clock::Time;
use crate::error::{Error, Sent};
use crate::resp::{Splitter, encode};

/// Why a connection that was made before another server took the address is given up.
pub(crate) const ANOTHER: &str = "another server answers at its address now";

/// A private connection on which more bytes are unwritten is given no more: they stay with the client.
const UNWRITTEN: u64 = 256 << 10;
/// A buffer that is empty keeps no more than so many bytes.
const KEPT: usize = 64 << 10;

/// How a private connection's bytes are to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Replies, and RESP3 pushes between them.
    Replies,
    /// The session subscribed: RESP2 messages stand between replies.
    Subscribed,
    /// The session monitors: status lines stand between replies. It may have subscribed as well.
    Monitor,
    /// The next reply opens a replication stream, unless it is an error.
    Opening,
    /// No protocol any more: a replication stream.
    Raw,
}

/// What Redis says unasked on a private connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unasked<'a> {
    /// A whole push or message, or a piece of a stream.
    Message(&'a [u8]),
    /// A line of `MONITOR`.
    MonitorLine(&'a [u8]),
}

/// See the module's head.
pub struct Pipeline<W> {
    /// The node's, for errors.
    address: Arc<str>,
    private: bool,
    state: Stage,
    /// Why it is closed.
    end: Option<Error>,
    goodbye: Goodbye,
    out: SendBuffer,
    fifo: VecDeque<Expectation<W>>,
    mode: Mode,
    splitter: Splitter,
    /// Bytes so far of the reply that is being read.
    reply: u64,
    /// What there is of a reply or message that is to be looked at as a whole.
    whole: Vec<u8>,
    subscriptions: Subscriptions,
    waiting_since: Time,
    used: Time,
    checked: Time,
    /// When the command was sent that is being timed, and how long the last such took.
    timed: Option<Time>,
    round_trip: Duration,
    /// Redis does not let this user be asked whether replies are in step.
    unverifiable: bool,
    /// What was not carried out here and what was answered behind it, until it is [taken](Self::take_elsewhere).
    elsewhere: Vec<(W, AnsweredCommand)>,
    /// Until when a shared lane waits for a session that takes nothing of its reply.
    patience: Option<Time>,
    times: ConnectionTimes,
}

/// A command that was answered, until it is told that it was, or goes elsewhere.
pub(in crate::upstream) struct AnsweredCommand {
    pub(in crate::upstream) command: Box<[u8]>,
    pub(in crate::upstream) end: ReplyEnd,
    pub(in crate::upstream) times: ConnectionTimes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Open,
    /// To end, or to be handed on, once all is answered.
    Retiring,
    Closing,
    Closed,
}

/// Whether Redis is, or was, told that nothing more will be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goodbye {
    No,
    /// Behind what is queued.
    Soon,
    Said,
}

struct Expectation<W> {
    start: u64,
    expect: Expected<W>,
}

enum Expected<W> {
    Reply(W),
    /// The reply, of this type, to a preparation: any other one ends the connection.
    Prepared {
        kind: u8,
        got: Vec<u8>,
    },
    /// The reply to an `ECHO` of our own: a connection that answers anything else is out of step.
    Nonce {
        expected: Vec<u8>,
        got: Vec<u8>,
    },
    /// Nothing: from here on, bytes are understood this way.
    Mode(Mode),
}

impl<W: Waiter> Pipeline<W> {
    /// One whose connection is not made yet, to a node at `address`.
    pub fn new(address: Arc<str>, private: bool, now: Time) -> Self {
        Self {
            address,
            private,
            state: Stage::Connecting,
            end: None,
            goodbye: Goodbye::No,
            out: SendBuffer::default(),
            fifo: VecDeque::new(),
            mode: Mode::Replies,
            splitter: Splitter::default(),
            reply: 0,
            whole: Vec::new(),
            subscriptions: Subscriptions::default(),
            waiting_since: now,
            used: now,
            checked: now,
            timed: None,
            round_trip: Duration::ZERO,
            unverifiable: false,
            elsewhere: Vec::new(),
            patience: None,
            times: ConnectionTimes { turn: now, made: now, held: (Time::ZERO, Time::ZERO) },
        }
    }

    /// Appends a whole command. Given back when it has ended: nothing was sent then.
    pub fn send(&mut self, command: &[u8], waiter: W, now: Time) -> Result<(), W> {
        if !self.takes_commands() {
            return Err(waiter);
        }
        self.used = now;
        self.append(command, Expected::Reply(waiter), now);
        Ok(())
    }

    /// Appends a command that makes the connection ready for what is sent after it, which is not written before a reply of
    /// type `kind` is in: it never runs in another database than it was meant for. Any other reply ends the connection.
    pub(in crate::upstream) fn prepare(&mut self, command: &[u8], kind: u8, now: Time) {
        if self.takes_commands() {
            self.append(command, Expected::Prepared { kind, got: Vec::new() }, now);
            self.out.prepare();
        }
    }

    /// Checks that replies are still in step: an `ECHO` whose answer must be its own. A wrong answer ends the connection
    /// before any reply to what is sent later is passed on.
    pub(in crate::upstream) fn verify(&mut self, nonce: u64, now: Time) {
        self.checked = now;
        if self.unverifiable || !self.takes_commands() {
            return;
        }
        let nonce = format!("crema-{nonce:016x}");
        let mut command = Vec::with_capacity(64);
        encode::own_command(&mut command, &[b"ECHO", nonce.as_bytes()]);
        let mut expected = Vec::with_capacity(32);
        encode::bulk(&mut expected, nonce.as_bytes());
        self.append(&command, Expected::Nonce { expected, got: Vec::new() }, now);
    }

    fn append(&mut self, command: &[u8], expect: Expected<W>, now: Time) {
        if self.fifo.is_empty() {
            self.waiting_since = now;
            self.times.turn = now;
            self.timed = (self.state == Stage::Open).then_some(now);
        }
        let start = self.out.append(command);
        self.fifo.push_back(Expectation { start, expect });
    }

    /// Bytes to be sent, whose own rules hold: those of a command that is not whole yet, or of none.
    pub(in crate::upstream) fn out(&mut self) -> &mut SendBuffer {
        &mut self.out
    }

    /// From the reply to the next command on, bytes are understood this way.
    pub(in crate::upstream) fn set_mode(&mut self, mode: Mode) {
        if self.fifo.is_empty() {
            self.enter(mode);
        } else {
            let start = self.out.queued();
            self.fifo.push_back(Expectation { start, expect: Expected::Mode(mode) });
        }
    }

    /// Who subscribes monitors on.
    fn enter(&mut self, mode: Mode) {
        if (self.mode, mode) != (Mode::Monitor, Mode::Subscribed) {
            self.mode = mode;
        }
    }

    /// The connection is made.
    pub fn open(&mut self, now: Time) {
        if self.state == Stage::Connecting {
            self.state = Stage::Open;
            self.times.made = now;
        }
        self.waiting_since = now;
    }

    /// Is to end soon.
    pub(in crate::upstream) fn close(&mut self) {
        if self.state != Stage::Closed {
            self.state = Stage::Closing;
        }
    }

    /// Is to end once all that was sent on it is answered, and takes no more. False where it is not open.
    pub(in crate::upstream) fn retire(&mut self) -> bool {
        let open = self.state == Stage::Open;
        if open {
            self.state = Stage::Retiring;
        }
        open
    }

    /// Redis is to be told, behind what was sent, that nothing more comes.
    pub(in crate::upstream) fn leave(&mut self, now: Time) {
        self.waiting_since = now; // from here on nothing may take as long as it likes
        if self.goodbye == Goodbye::No {
            self.goodbye = Goodbye::Soon;
        }
    }

    /// Whether commands can still be sent.
    pub(in crate::upstream) fn takes_commands(&self) -> bool {
        matches!(self.state, Stage::Connecting | Stage::Open)
    }

    /// Whether the connection is made and open.
    pub(in crate::upstream) fn is_open(&self) -> bool {
        self.state == Stage::Open
    }

    /// Whether the connection is being made.
    pub(in crate::upstream) fn is_connecting(&self) -> bool {
        self.state == Stage::Connecting
    }

    /// Why it has ended, where it has, and all who waited were told.
    pub(in crate::upstream) fn end(&self) -> Option<&Error> {
        self.end.as_ref()
    }

    /// Why it takes no more commands.
    pub(in crate::upstream) fn lost_error(&self) -> Error {
        self.end.clone().unwrap_or_else(|| self.lost("closed"))
    }

    /// Whether preparations are unanswered.
    pub(in crate::upstream) fn is_preparing(&self) -> bool {
        self.out.is_preparing()
    }

    /// Whether nothing awaits a reply.
    pub(in crate::upstream) fn is_quiet(&self) -> bool {
        self.fifo.is_empty()
    }

    /// Whether a reply is awaited for which Redis may let its client wait as long as it likes.
    pub(in crate::upstream) fn is_patient(&self) -> bool {
        self.fifo.iter().any(|awaited| matches!(&awaited.expect, Expected::Reply(waiter) if waiter.is_patient()))
    }

    /// Whether it is as it was made, and may go on elsewhere once all is answered.
    pub(in crate::upstream) fn is_plain(&self) -> bool {
        !self.out.is_ahead() && self.mode == Mode::Replies
    }

    /// How many subscriptions there are: to channels and patterns, and to shard channels.
    pub(in crate::upstream) fn subscriptions(&self) -> [u64; 2] {
        self.subscriptions.counts()
    }

    /// How bytes are understood now.
    pub(in crate::upstream) fn mode(&self) -> Mode {
        self.mode
    }

    /// Bytes of commands sent or queued that are not answered yet.
    pub(in crate::upstream) fn in_flight(&self) -> u64 {
        self.fifo.front().map_or(0, |head| self.out.queued() - head.start)
    }

    /// Whether much that was sent is not written yet: the node takes no more.
    pub(in crate::upstream) fn is_behind(&self) -> bool {
        self.takes_commands() && self.out.unwritten() > UNWRITTEN
    }

    /// Whether what waits at the head may change keys.
    pub(in crate::upstream) fn writes(&self) -> bool {
        matches!(self.fifo.front(), Some(Expectation { expect: Expected::Reply(waiter), .. }) if waiter.writes())
    }

    /// When the last command was sent.
    pub(in crate::upstream) fn used(&self) -> Time {
        self.used
    }

    /// When it was last checked for being in step.
    pub(in crate::upstream) fn checked(&self) -> Time {
        self.checked
    }

    /// Why the connection is to end now, if it is.
    pub(in crate::upstream) fn is_over(&self) -> Option<Error> {
        match self.state {
            Stage::Connecting | Stage::Open => None,
            Stage::Retiring if !self.fifo.is_empty() => None,
            Stage::Retiring | Stage::Closing | Stage::Closed => Some(self.lost_error()),
        }
    }

    /// What may be written now.
    pub fn to_write(&self) -> &[u8] {
        self.out.to_write()
    }

    /// So many bytes of that are written.
    pub fn wrote(&mut self, n: usize) {
        self.out.wrote(n);
    }

    /// All is written that could be. True where the sending side is to be closed now.
    pub fn written(&mut self) -> bool {
        let says = self.goodbye == Goodbye::Soon && self.out.unwritten() == 0;
        if says {
            self.goodbye = Goodbye::Said;
        }
        // On a shared lane a command may be sent again until it is answered.
        let needed = self.fifo.front().filter(|_| !self.private).map(|head| head.start);
        self.out.trim(needed);
        says
    }

    /// Something was received. True where that lets something be written, or be done that [`written`](Self::written) and
    /// [`is_over`](Self::is_over) tell; else nothing has changed for whoever writes.
    pub(in crate::upstream) fn received(&mut self) -> bool {
        if self.fifo.is_empty() {
            self.out.trim(None);
        }
        self.state != Stage::Open || self.goodbye == Goodbye::Soon || !self.out.to_write().is_empty()
    }

    /// What is to be sent elsewhere, and what is over behind it, by what was received last.
    pub(in crate::upstream) fn take_elsewhere(&mut self) -> Vec<(W, AnsweredCommand)> {
        std::mem::take(&mut self.elsewhere)
    }

    /// The connection has ended with this error. `None` where it had before; else who waits is to be told.
    pub fn lose(&mut self, error: &Error) -> Option<Loss<W>> {
        if self.state == Stage::Closed {
            return None;
        }
        self.state = Stage::Closed;
        self.end = Some(error.clone());
        Some(Loss { fifo: std::mem::take(&mut self.fifo), out: std::mem::take(&mut self.out) })
    }

    /// The connection is of no use any more.
    pub fn lost(&self, why: &str) -> Error {
        Error::Lost { node: Arc::clone(&self.address), why: why.into() }
    }
}

/// Who still waits on a connection that has ended.
#[must_use = "they wait for ever"]
pub struct Loss<W> {
    fifo: VecDeque<Expectation<W>>,
    out: SendBuffer,
}

impl<W: Waiter> Loss<W> {
    /// Tells each of them, in order, why; with its command, where that is still there. Those that are to be sent elsewhere go to
    /// `forward`, which may open another lane and send on it.
    pub fn tell(mut self, error: &Error, mut forward: impl FnMut(W, &[u8])) {
        while let Some(Expectation { start, expect }) = self.fifo.pop_front() {
            let end = self.fifo.front().map_or(self.out.queued(), |next| next.start);
            if let Expected::Reply(waiter) = expect {
                let sent = if start < self.out.written() { Sent::Maybe } else { Sent::No };
                let command = self.out.between(start, end);
                if let Some(waiter) = waiter.lost(error, sent, command) {
                    forward(waiter, command);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::pipeline::bench::{AT, NotingWaiter, PipelineBench, whole};

    #[test]
    fn a_connection_that_is_lost_tells_everyone_what_may_have_been_done() {
        let mut bench = PipelineBench::new(false);
        let answered = bench.send("a", AT(0));
        let (begun, sent) = (bench.send("bb", AT(0)), bench.send("ccc", AT(0)));
        assert_eq!(bench.write(), "abbccc");
        let unsent = bench.send("dddd", AT(0));
        bench.receive("+OK\r\n$3000000\r\nhalf of", AT(1)).expect("replies");
        bench.lose();
        assert_eq!(*answered.borrow(), whole("+OK\r\n", AT(1), "a"));
        assert_eq!(begun.borrow().lost, Some((Sent::Maybe, b"bb".to_vec())), "in the midst of its reply");
        assert_eq!(begun.borrow().pieces, b"$3000000\r\nhalf of");
        assert_eq!(sent.borrow().lost, Some((Sent::Maybe, b"ccc".to_vec())));
        assert_eq!(unsent.borrow().lost, Some((Sent::No, b"dddd".to_vec())));
        assert!(bench.pipeline.send(b"e", NotingWaiter::new().0, AT(2)).is_err());
        assert!(matches!(bench.pipeline.lost_error(), Error::Lost { .. }));
    }

    #[test]
    fn one_whose_bytes_are_half_written_may_have_been_done() {
        let mut bench = PipelineBench::new(true);
        let (first, second) = (bench.send("aaaa", AT(0)), bench.send("bbbb", AT(0)));
        bench.pipeline.wrote(5);
        bench.lose();
        assert_eq!(first.borrow().lost.as_ref().map(|lost| lost.0), Some(Sent::Maybe));
        assert_eq!(second.borrow().lost.as_ref().map(|lost| lost.0), Some(Sent::Maybe));
    }

    #[test]
    fn what_is_received_concerns_who_writes_only_where_it_lets_something_be_written_or_ends() {
        let mut bench = PipelineBench::new(false);
        bench.send("a", AT(0));
        bench.write();
        bench.receive("+OK\r\n", AT(1)).expect("a reply");
        assert!(!bench.pipeline.received());
        assert_eq!(bench.pipeline.out.queued() - bench.pipeline.out.unwritten(), 1);
        assert!(bench.pipeline.out.between(0, 1).is_empty(), "nobody needs what was sent");
        bench.pipeline.prepare(b"select", b'+', AT(2));
        bench.send("get", AT(2));
        assert_eq!(bench.write(), "select");
        bench.receive("+OK\r\n", AT(3)).expect("a reply");
        assert!(bench.pipeline.received(), "what waited for it may go");
        assert_eq!(bench.write(), "get");
        assert!(bench.pipeline.retire());
        bench.receive("$1\r\nx\r\n", AT(4)).expect("a reply");
        assert!(bench.pipeline.received() && bench.pipeline.is_over().is_some());
    }

    #[test]
    fn it_retires_when_all_is_answered() {
        let mut bench = PipelineBench::new(false);
        let told = bench.send("a", AT(0));
        assert!(bench.pipeline.retire() && !bench.pipeline.retire());
        assert!(bench.pipeline.is_over().is_none() && !bench.pipeline.takes_commands());
        assert_eq!(bench.write(), "a");
        bench.receive("+OK\r\n", AT(1)).expect("a reply");
        assert!(bench.pipeline.is_over().is_some() && told.borrow().over.is_some());
    }

    #[test]
    fn it_closes_at_once_and_nothing_opens_it_again() {
        let mut pipeline: Pipeline<NotingWaiter> = Pipeline::new("node:1".into(), false, AT(0));
        assert!(pipeline.is_connecting() && pipeline.takes_commands() && !pipeline.retire());
        let (probe, told) = NotingWaiter::new();
        assert!(pipeline.send(b"early", probe, AT(0)).is_ok());
        pipeline.close();
        pipeline.open(AT(1));
        assert!(!pipeline.is_open() && pipeline.is_over().is_some());
        let error = pipeline.lost_error();
        pipeline.lose(&error).expect("it had not ended").tell(&error, |_, _| ());
        pipeline.close();
        assert_eq!(told.borrow().lost, Some((Sent::No, b"early".to_vec())));
        assert!(pipeline.end().is_some());
    }

    #[test]
    fn what_is_unanswered_and_what_is_unwritten_is_counted() {
        let mut bench = PipelineBench::new(true);
        bench.send("abc", AT(0));
        bench.send(&"x".repeat(300 << 10), AT(0));
        assert_eq!((bench.pipeline.in_flight(), bench.pipeline.is_behind()), (3 + (300 << 10), true));
        bench.write();
        assert!(!bench.pipeline.is_behind());
        bench.receive("+OK\r\n", AT(1)).expect("a reply");
        assert_eq!(bench.pipeline.in_flight(), 300 << 10);
        bench.receive("+OK\r\n", AT(1)).expect("a reply");
        assert_eq!(bench.pipeline.in_flight(), 0);
    }

    #[test]
    fn it_goes_on_elsewhere_only_as_it_was_made() {
        let mut bench = PipelineBench::new(true);
        assert!(bench.pipeline.is_plain());
        bench.pipeline.out().append_ahead(b"se");
        assert!(!bench.pipeline.is_plain());
        bench.send("set", AT(0));
        assert_eq!((bench.pipeline.is_plain(), bench.write()), (true, "set".to_owned()));
        bench.pipeline.set_mode(Mode::Subscribed);
        assert!(bench.pipeline.is_plain());
        bench.receive("+OK\r\n", AT(1)).expect("a reply");
        assert!(!bench.pipeline.is_plain());
    }
}
