//! One client connection: read, take up each command, answer in order.
//!
//! [`serve`] is the life of a session on one screen. What may go on a lane goes to [`crate::proxy::call`] at once, without
//! waiting for anything; all else, what the session keeps itself (`local`, `names`) and what needs a connection of its own
//! (`pinned`), goes through `Session::command`. A session never reads while it has too much unanswered or unwritten, so
//! its memory is bounded by what one request and the output limit allow. Where that is because its client asks on and reads
//! nothing, it goes on with a private connection, and Redis keeps the replies, within limits of its own, as it would without
//! a proxy. Started by `server`, one task a client.
//!
//! A client that closes its side, or is gone, has still sent what was read: all of it is carried out, and answered as long as
//! somebody takes the answers. Only where Redis has a command of it wait does it end there, as Redis ends it.

mod crema;
mod foreign;
mod local;
mod login;
mod names;
mod own;
mod pinned;
mod wire;

use std::cell::Cell;
use std::rc::Rc;

use crate::clock::Time;
use crate::command::{self, Class, Effect, Spec};
use crate::error::{Error, Sent};
use crate::metrics::{Failure, Outcome};
use crate::net::Socket;
use crate::proxy::{self, Caller, End, Lent, Owner, Replies, Taken, Transaction, Worker};
use crate::resp::{Grammar, Limits, Parsed, Parser, ProtocolError, Request};

use wire::{Event, Wire};

/// Of a request that is not whole yet, no more than this is kept back from Redis.
const KEPT_BACK: usize = 128 << 10;
/// Larger requests borrow a private connection: others must not wait behind their bytes.
const LARGE_REQUEST: usize = 1 << 20;
/// Commands of one session that may be unanswered before it reads no further.
const UNANSWERED: usize = 4096;
/// The same where Redis keeps their replies.
const UNANSWERED_WHILE_CROWDED: usize = 1 << 16;
/// Commands taken up before it is looked at how much is unanswered.
const STRIDE: usize = 64;

/// Why a session ends.
#[derive(Debug)]
enum Close {
    /// What is answered is still written, as far as the client takes it.
    Gently,
    /// Nobody is there to write to.
    Now,
}

/// Serves a client until it leaves, breaks the protocol, or must leave. Dropping the future ends the session at once.
pub async fn serve(worker: Rc<Worker>, socket: Socket, replies: Rc<Replies>) {
    let mut wire = Wire::new(socket);
    let mut parser = Parser::new();
    let mut session = Session::new(worker, replies);
    let close = loop {
        match wire.next(&mut session).await {
            Event::Bytes | Event::Resumed => {}
            Event::Unread => session.crowded = true,
            Event::Eof | Event::Ended | Event::Drained | Event::Idle => break Close::Gently,
            Event::Gone => break Close::Now,
        }
        match session.commands(&mut wire, &mut parser).await {
            Ok(()) => {}
            Err(close) => break close,
        }
        if wire.is_empty() {
            parser.shrink();
        }
    };
    if matches!(close, Close::Gently) {
        let cut = session.caller.replies.ended().is_some();
        session.worker.stats.cut_clients.add(u64::from(session.caller.replies.has_cut()));
        Box::pin(async move {
            wire.finish(&session).await;
            drop(session); // what it holds at the upstream is of use to others
            if cut {
                wire.line.linger().await;
            }
        })
        .await;
    }
}

/// What a session knows about its client.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
struct Session {
    worker: Rc<Worker>,
    caller: Caller,
    owner: Rc<Owner>,
    /// Whether it may act at all: it proved a login, or the gate is open.
    admitted: bool,
    /// Redis wants a login of it: until then it may send little.
    strict: bool,
    private: Option<Lent>,
    stay: Stay,
    transaction: Option<Transaction>,
    watching: bool,
    skip_next: bool,
    silent: bool,
    raw: bool,
    /// The private connection is borrowed for one command, and may be in another database.
    anywhere: bool,
    /// The client reads nothing and asks on: a private connection answers, read no faster than the client reads.
    crowded: bool,
    /// Bytes of the request under way that were sent ahead of the rest.
    ahead: usize,
    /// What the command under way counts as, where it is answered here.
    tally: Cell<(Class, Result<Outcome, Failure>)>,
    /// What the client calls itself, where crema keeps that.
    name: Option<Box<[u8]>>,
    /// Its reads are not to touch keys: they go over the connection on which it said so.
    no_touch: bool,
    /// Redis keeps its name, and sees all that it sends under it.
    named: bool,
    /// Whether the connection that is its own has been told name and library.
    introduced: bool,
    /// A name was queued in the transaction: the connection will know that one.
    renamed: bool,
    /// `CLIENT SETINFO` as the client sent it, to be told to a home connection too.
    info: Vec<Box<[u8]>>,
}

/// How long a private connection is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stay {
    /// Until what it was borrowed for is over.
    Loan,
    /// For life, for what is about a connection; all else goes on a lane where nothing on this one is unanswered.
    Home,
    /// For life, and everything goes over it: it holds state that crema does not follow.
    Tainted,
}

impl Session {
    fn new(worker: Rc<Worker>, replies: Rc<Replies>) -> Self {
        let who = Self::nobody(&worker);
        let owner = Owner::new(Rc::clone(&replies), worker.shared.l1.clone());
        Self {
            caller: Caller::new(replies, who),
            worker,
            owner,
            admitted: false,
            strict: false,
            private: None,
            stay: Stay::Loan,
            transaction: None,
            watching: false,
            skip_next: false,
            silent: false,
            raw: false,
            anywhere: false,
            crowded: false,
            ahead: 0,
            tally: Cell::new((Class::Connection, Ok(Outcome::Session))),
            name: None,
            no_touch: false,
            named: false,
            introduced: false,
            renamed: false,
            info: Vec::new(),
        }
    }

    /// Takes up every whole request that was read.
    async fn commands(&mut self, wire: &mut Wire, parser: &mut Parser) -> Result<(), Close> {
        if !self.admitted {
            Box::pin(self.knock()).await;
        }
        self.crowded &= !self.caller.replies.is_settled() || self.caller.replies.is_full();
        let mut now = Time::now(); // after the bytes were read: what a hit checks is true then
        let mut left = STRIDE;
        let mut grammar = Grammar::UNKNOWN;
        while !wire.input.rest().is_empty() && !self.caller.replies.has_cut() {
            left -= 1;
            if left == 0 {
                if self.must_wait(now) {
                    wire.pause();
                    return Ok(());
                }
                left = STRIDE;
            }
            if self.raw {
                self.relay(wire.input.rest());
                wire.input.clear();
                break;
            }
            let limits = Limits { grammar, ..self.worker.shared.limits(self.strict) };
            let consumed = match parser.parse(wire.input.rest(), &limits) {
                Ok(Parsed::Incomplete) => {
                    let Wire { input, line, .. } = &mut *wire;
                    self.send_ahead(line, parser, input.rest()).await?;
                    self.let_go(parser, input);
                    break;
                }
                Ok(Parsed::Unclear(quirk)) => {
                    let node = self.worker.shared.front();
                    let has = Box::pin(wire.line.while_writing(self, node.has(quirk))).await;
                    grammar = grammar.with(quirk, has);
                    now = Time::now();
                    continue;
                }
                Ok(Parsed::Empty { consumed }) => consumed,
                Ok(Parsed::Request { consumed }) => {
                    let Wire { input, line, .. } = &mut *wire;
                    let request = parser.request(input.rest());
                    if self.ahead > 0 && !parser.is_canonical() {
                        return Err(Close::Now); // what has gone ahead was not as it must be
                    }
                    // In a box of its own: what waits rarely shall not make every idle session larger.
                    if let Some((spec, taken)) = self.quick(request, now) {
                        if taken != Taken::Yes {
                            Box::pin(self.call(line, spec, request, taken, now)).await?;
                            now = Time::now();
                        }
                    } else {
                        Box::pin(self.command(line, request, now)).await?;
                        if std::mem::take(&mut self.ahead) > 0 && self.loan_is_over() {
                            self.owner.bind(false);
                        }
                        now = Time::now();
                    }
                    consumed
                }
                Err(error) => return Err(self.protocol_error(error)),
            };
            wire.input.consume(consumed);
        }
        wire.input.compact();
        if self.must_wait(now) {
            wire.pause();
        }
        Ok(())
    }

    /// The common case: a command that may go on a lane, and whether it was taken up there.
    fn quick(&mut self, request: Request<'_>, now: Time) -> Option<(&'static Spec, Taken)> {
        let plain = self.admitted && !self.crowded && !self.silent && !self.skip_next;
        if !plain || !self.rides(now) || self.caller.who.is_doubted() {
            return None;
        }
        let spec = command::lookup(request)?;
        if !spec.on_lane(request)
            || !spec.arity_ok(request.argc())
            || request.raw().len() > LARGE_REQUEST
            || self.worker.shared.l1.is_paused(now)
        {
            return None;
        }
        if spec.effect != Effect::Read && self.worker.holds_writes() || self.worker.is_several() {
            return None;
        }
        Some((spec, proxy::call(&self.worker, &mut self.caller, spec, request, now)))
    }

    /// Whether the client should be answered before more is read from it.
    fn must_wait(&self, now: Time) -> bool {
        self.has_much(UNANSWERED, UNANSWERED_WHILE_CROWDED) || self.is_behind(now)
    }

    /// Whether what makes it wait has passed.
    fn may_go_on(&self, now: Time) -> bool {
        !self.has_much(UNANSWERED / 2, UNANSWERED_WHILE_CROWDED / 2) && !self.is_behind(now)
    }

    /// Whether so many commands are unanswered, or so much of their replies unread that crema keeps no more of them.
    fn has_much(&self, unanswered: usize, while_crowded: usize) -> bool {
        let replies = &self.caller.replies;
        if self.crowded {
            replies.unanswered() >= while_crowded
        } else {
            replies.unanswered() >= unanswered || replies.is_full()
        }
    }

    /// Whether nothing but its client keeps it from going on, and a connection of its own could answer instead.
    fn is_unread(&self, now: Time) -> bool {
        let replies = &self.caller.replies;
        let own = self.private.is_some() && !self.caller.is_on_lane();
        let ready = if own { !self.anywhere } else { replies.is_settled() };
        let waits = !self.crowded && replies.is_full() && replies.unanswered() < UNANSWERED;
        self.admitted && ready && waits && !self.is_behind(now)
    }

    /// Whether its connection has not yet taken what was sent on it, or not answered much of that.
    fn is_behind(&self, now: Time) -> bool {
        let window = self.worker.shared.config.lane_window;
        let settled = self.caller.replies.is_settled();
        let private = self.private.as_ref().map(Lent::lane);
        private.is_some_and(|lane| lane.is_behind() || lane.in_flight() > window && !settled)
            || self.caller.must_wait(now)
    }

    /// Since when its connection has awaited the reply to a command that Redis may have put to wait: a client that leaves
    /// ends that wait.
    fn waits_since(&self, now: Time) -> Option<Time> {
        let lent = self.private.as_ref()?;
        lent.lane().waits_since(self.worker.shared.l1.is_paused(now))
    }

    /// Passes on to Redis that the client has closed its side, behind all that it sent.
    fn leave(&self, now: Time) {
        if let Some(lent) = &self.private {
            lent.lane().leave(now);
        }
    }

    fn protocol_error(&self, error: ProtocolError) -> Close {
        self.caller.replies.set_silent(false);
        self.tally.set((Class::Connection, Err(Failure::Protocol)));
        self.answer(|out| error.write(out));
        Close::Gently
    }

    /// The answer that comes next tells that the command failed.
    fn fails(&self, failure: Failure) {
        self.tally.set((self.tally.get().0, Err(failure)));
    }

    /// The answer that comes next is not crema's own.
    fn asked(&self, spec: &Spec, outcome: Outcome) {
        self.tally.set((spec.class, Ok(outcome)));
    }

    /// Counts the command under way, which is answered here.
    fn count(&self) {
        match self.tally.get() {
            (class, Ok(outcome)) => self.worker.stats.count(class, outcome),
            (class, Err(failure)) => self.worker.stats.failed(class, failure),
        }
    }

    /// Answers the next command with what `write` appends.
    fn answer(&self, write: impl FnOnce(&mut Vec<u8>)) {
        self.count();
        self.caller.replies.answer(|out| {
            write(out);
            (true, ())
        });
    }

    /// Answers the next command, which could not be served, with an error; or has the session end there.
    fn refuse(&self, error: &Error, sent: Sent) {
        let replies = &self.caller.replies;
        self.fails(error.into());
        if matches!(error, Error::LoginRefused { .. }) {
            self.count();
            replies.cut(replies.next(), End::LoggedOut);
        } else if let Some(reply) = error.reply(sent, self.worker.shared.config.upstream_down) {
            self.answer(|out| out.extend_from_slice(&reply));
        } else {
            self.count();
            replies.cut(replies.next(), End::Away);
        }
    }
}
