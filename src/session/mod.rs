//! One client connection: read, take up each command, answer in order.
//!
//! [`serve`] is the life of a session on one screen. What is done with a command is decided once (`decision`). What may go on a
//! lane goes to [`crate::proxy::call`] at once, without waiting for anything; all else, what the session keeps itself (`client`,
//! `login`, `names`) and what needs a connection of its own (`link`, `pinned`), goes through `Session::command`. A session never
//! reads while it has too much unanswered or unwritten, so its memory is bounded by what one request and the output limit allow.
//! Where that is because its client asks on and reads nothing, it goes on with a private connection, and Redis keeps the replies,
//! within limits of its own, as it would without a proxy. Started by `server`, one task a client. A little long, for a session's
//! state and its whole life are read together.
//!
//! A client that closes its side, or is gone, has still sent what was read: all of it is carried out, and answered as long as
//! somebody takes the answers. Only where Redis has a command of it wait does it end there, as Redis ends it.
//!
//! Holds contract points 1 and 2, and of point 7 that all is carried out which a client sent before it closed its side.

mod ahead;
mod audit;
mod client;
mod connection;
mod crema;
mod decision;
mod denial;
mod dispatch;
mod entrance;
mod face;
mod feeds;
mod follow;
mod foreign;
mod input;
mod link;
mod listing;
mod login;
mod names;
mod passing;
mod passwords;
mod pinned;
mod place;
mod prefix;
mod replay;
mod scan_cursor;
mod spread;
mod stream_ends;
mod transaction;
mod wait;
mod wire;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use crate::clock::Time;
use crate::command::{self, Class, Route, Spec, Verb};
use crate::config::CrossSlot;
use crate::error::{Error, Sent};
use crate::metrics::{Failure, Outcome, SlowReason};
use crate::net::Socket;
use crate::proxy::{self, Caller, ClientRecord, Lent, Owner, Replies, ReplyPlace, SessionEnd, Taken, Who, Worker};
use crate::resp::{Grammar, Limits, Parsed, Parser, ProtocolError, Request};

pub(crate) use entrance::Entrance;

use ahead::KEPT_BACK;
use decision::{Decision, Facts, Inquiry};
use feeds::Feeds;
use link::Link;
use scan_cursor::ScanPrint;
use wait::Wait;
use wire::{ClientLine, Event, Wire};

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
/// `record`: what another process knew of the client, whom it served before.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    socket: Socket,
    replies: Rc<Replies>,
    entrance: Arc<Entrance>,
    record: Option<Box<ClientRecord>>,
) {
    let mut session = Session::new(worker, replies, entrance);
    session.certify(&socket);
    if let Some(record) = record {
        session.resume(*record);
    }
    let mut wire = Wire::new(socket);
    let mut parser = Parser::new();
    let (close, midway) = loop {
        match wire.next(&mut session).await {
            Event::Bytes | Event::Resumed => {}
            Event::Unread => session.crowded = true,
            Event::LoanWanted => match Box::pin(session.end_loan(&mut wire.line)).await {
                Ok(()) => continue,
                Err(close) => break (close, false),
            },
            Event::NodesChanged => match Box::pin(session.feed(&mut wire.line)).await {
                Ok(()) => continue,
                Err(close) => break (close, false),
            },
            Event::Drained if session.pass(&wire) => return, // it goes on elsewhere
            Event::Eof | Event::Ended | Event::Drained | Event::Idle => break (Close::Gently, false),
            Event::Gone => break (Close::Now, false),
        }
        match session.commands(&mut wire, &mut parser).await {
            Ok(()) => {}
            Err(close) => break (close, true), // the client may have sent more behind this
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
            let shared = Arc::clone(&session.worker.shared);
            drop(session); // what it holds at the upstream is of use to others
            if cut {
                shared.open_listeners.settled(shared.presence.clone()).await;
            }
            if cut || midway {
                wire.line.linger().await;
            }
        })
        .await;
    }
}

/// What a session knows about its client.
struct Session {
    worker: Rc<Worker>,
    caller: Caller,
    /// Whom a connection that is lent next belongs to.
    owner: Rc<Owner>,
    entrance: Arc<Entrance>,
    admission: Admission,
    link: Link<Lent>,
    /// The client has asked after the connection that is its own, and may know it by its number.
    knows_home: bool,
    answers: Answers,
    /// The client reads nothing and asks on: a private connection answers, read no faster than the client reads.
    crowded: bool,
    /// What the command under way counts as, where it is answered here.
    tally: Cell<(Class, Result<Outcome, Failure>)>,
    /// As whom it is known to be allowed `MULTI`.
    queues: Option<Rc<Who>>,
    /// What it has at other nodes than the one that its subscriptions are at.
    feeds: Option<Box<Feeds>>,
    /// What a version of the map is to a scan, as it was last looked at.
    scan_print: Option<Box<(u64, ScanPrint)>>,
    /// What the client calls itself, where crema keeps that.
    name: Option<Box<[u8]>>,
    /// The user of crema's own that the client is, where crema has such.
    account: Option<Box<str>>,
    /// `CLIENT SETINFO` as the client sent it, to be told to a connection of its own too.
    info: Vec<Box<[u8]>>,
}

/// Whether the client may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    /// Nobody knows yet.
    Unknown,
    /// It must log in first. Until then it may send little.
    Shut,
    /// It may: it proved a login, or none is wanted.
    Open,
}

/// What the client said of answers with `CLIENT REPLY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    /// It wants them.
    On,
    /// It wants none.
    Off,
    /// It does not want the next one.
    Skip,
}

/// A look at the session: what is worth knowing once, and not for each request of a pipeline.
struct Look {
    now: Time,
    limits: Limits,
    /// It has no connection of its own, and nothing keeps it off lanes: what goes on one, the command alone decides.
    is_plain: bool,
    /// Commands may concern several nodes.
    is_cluster: bool,
}

/// A command that was not done with at once.
enum Unfinished {
    /// It was tried on a lane.
    OnLane(&'static Spec, Taken),
    /// It is decided, and nothing was done.
    Decided(Option<&'static Spec>, Decision),
}

/// A session at one moment, as it decides on a command.
struct Moment<'a> {
    session: &'a Session,
    now: Time,
}

impl Facts for Moment<'_> {
    fn is_admitted(&self) -> bool {
        self.session.admission == Admission::Open
    }

    fn is_doubted(&self) -> bool {
        self.session.caller.who.is_doubted()
    }

    fn keeps_passwords(&self) -> bool {
        self.session.keeps_passwords()
    }

    fn is_restricted(&self) -> bool {
        self.session.entrance.is_restricted
    }

    fn is_denied(&self, spec: &Spec) -> bool {
        self.session.entrance.denied.has(spec)
    }

    fn is_several(&self) -> bool {
        self.session.worker.is_several()
    }

    fn is_cluster(&self) -> bool {
        self.session.worker.is_cluster()
    }

    fn has_several_slots(&self, spec: &Spec, request: Request<'_>) -> bool {
        self.session.worker.shared.config.cluster.cross_slot == CrossSlot::Split
            && proxy::has_several_slots(spec, request)
    }

    fn holds_writes(&self) -> bool {
        self.session.worker.shared.l1.is_paused(self.now) || self.session.worker.holds_writes()
    }

    fn is_crowded(&self) -> bool {
        self.session.is_crowded()
    }

    fn is_in_transaction(&self) -> bool {
        self.session.link.is_in_transaction()
    }

    fn is_followed(&self) -> bool {
        self.session.link.is_followed()
    }

    fn rides(&self) -> bool {
        self.session.rides(self.now)
    }

    fn has_done_with_loan(&self) -> bool {
        self.session.has_done_with_loan()
    }
}

impl Session {
    fn new(worker: Rc<Worker>, replies: Rc<Replies>, entrance: Arc<Entrance>) -> Self {
        let who = Self::nobody(&worker, &entrance);
        let owner = Owner::new(Rc::clone(&replies), worker.shared.l1.clone());
        Self {
            caller: Caller::new(replies, who),
            queues: None,
            feeds: None,
            scan_print: None,
            worker,
            owner,
            entrance,
            admission: Admission::Unknown,
            link: Link::Shared,
            knows_home: false,
            answers: Answers::On,
            crowded: false,
            tally: Cell::new((Class::Connection, Ok(Outcome::Session))),
            name: None,
            account: None,
            info: Vec::new(),
        }
    }

    /// Takes up every whole request that was read.
    async fn commands(&mut self, wire: &mut Wire, parser: &mut Parser) -> Result<(), Close> {
        if self.admission != Admission::Open && !Box::pin(self.knock(wire.input.rest())).await? {
            return Ok(());
        }
        self.crowded &= !self.caller.replies.is_settled() || self.caller.replies.is_full();
        let mut look = self.look(Grammar::UNKNOWN); // after the bytes were read: what a hit checks is true then
        self.caller.replies.act(look.now);
        let mut left = STRIDE;
        while !wire.input.rest().is_empty() && !self.caller.replies.has_cut() {
            left -= 1;
            if left == 0 {
                if self.must_wait(look.now) {
                    wire.pause();
                    return Ok(());
                }
                left = STRIDE;
            }
            if !look.is_plain && self.relays(wire.input.rest()) {
                wire.input.clear();
                break;
            }
            let consumed = match parser.parse(wire.input.rest(), &look.limits) {
                Ok(Parsed::Incomplete) => {
                    let Wire { input, line, .. } = &mut *wire;
                    if self.link.ahead() > 0 || input.rest().len() >= KEPT_BACK {
                        Box::pin(self.send_ahead(line, parser, input.rest())).await?;
                        self.let_go(parser, input);
                    }
                    break;
                }
                Ok(Parsed::Unclear(quirk)) => {
                    let node = self.worker.shared.front();
                    let has = Box::pin(wire.line.while_writing(self, node.has(quirk))).await;
                    look = self.look(look.limits.grammar.with(quirk, has));
                    continue;
                }
                Ok(Parsed::Empty { consumed }) => consumed,
                Ok(Parsed::Request { consumed }) => {
                    let Wire { input, line, .. } = &mut *wire;
                    let request = parser.request(input.rest());
                    if !look.is_plain && self.link.ahead() > 0 && !parser.is_canonical() {
                        return Err(Close::Now); // what has gone ahead was not as it must be
                    }
                    if let Some(rest) = self.take_up(request, &look) {
                        // In a box of its own: what waits rarely shall not make every idle session larger.
                        Box::pin(self.go_on(line, request, rest, look.now)).await?;
                        look = self.look(look.limits.grammar);
                    }
                    consumed
                }
                Err(error) => return Err(self.protocol_error(error)),
            };
            wire.input.consume(consumed);
        }
        wire.input.compact();
        if self.must_wait(look.now) {
            wire.pause();
        }
        Ok(())
    }

    /// Takes up a command as far as nothing has to be waited for, which mostly is all of it; else what is left to do.
    #[inline]
    fn take_up(&mut self, request: Request<'_>, look: &Look) -> Option<Unfinished> {
        let known = command::lookup(request);
        let decision = match known {
            Some(spec) if look.is_plain && decision::is_for_lane(spec, request, look.is_cluster) => {
                Decision::Lane(spec)
            }
            _ => self.decide(known, request, Inquiry::Nothing, look.now),
        };
        match decision {
            Decision::Lane(spec) if self.answers != Answers::Skip => {
                let taken = proxy::call(&self.worker, &mut self.caller, spec, request, look.now);
                (taken != Taken::Yes).then_some(Unfinished::OnLane(spec, taken))
            }
            _ => Some(Unfinished::Decided(known, decision)),
        }
    }

    /// Does what is left to do of a command that was taken up at `now`.
    async fn go_on(
        &mut self,
        line: &mut ClientLine,
        request: Request<'_>,
        rest: Unfinished,
        now: Time,
    ) -> Result<(), Close> {
        match rest {
            Unfinished::OnLane(spec, taken) => self.on_lane(line, spec, request, taken, now).await,
            Unfinished::Decided(known, decision) => {
                let (is_told, place) = (is_told_if_slow(known, decision), self.caller.replies.next());
                let done = self.command(line, known, request, decision).await;
                if is_told {
                    self.note_slow(place, request, (now, SlowReason::Session));
                }
                done
            }
        }
    }

    /// Notes that the command at `place` has waited within the session since then, where that is slow.
    fn note_slow(&self, place: ReplyPlace, request: Request<'_>, (since, reason): (Time, SlowReason)) {
        let took = Time::now().saturating_since(since);
        if !proxy::is_slow(&self.worker.stats, took) {
            return;
        }
        let spec = command::lookup(request).unwrap_or_else(command::unknown);
        let (shared, replies) = (&self.worker.shared, &self.caller.replies);
        let outcome = if reason == SlowReason::Ear { Outcome::Hit } else { Outcome::Session };
        proxy::note_wait(shared, (replies, place), (spec, spec.keys(request).next()), (took, reason, outcome), 0);
    }

    /// Whether the client is a replica by now, whose bytes are passed on as they are.
    fn relays(&self, bytes: &[u8]) -> bool {
        let Link::Replica(lent) = &self.link else { return false };
        lent.lane().send_raw(bytes);
        true
    }

    /// What holds for every request that is taken up before something is waited for.
    fn look(&self, grammar: Grammar) -> Look {
        let now = Time::now();
        let limits = Limits { grammar, ..self.worker.shared.limits(self.admission == Admission::Shut) };
        let is_plain = self.link.is_shared() && decision::is_open_to_lanes(&Moment { session: self, now });
        Look { now, limits, is_plain, is_cluster: self.worker.is_cluster() }
    }

    /// What is done with a command now.
    fn decide(&self, known: Option<&'static Spec>, request: Request<'_>, asked: Inquiry, now: Time) -> Decision {
        decision::decide(&Moment { session: self, now }, known, request, asked)
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
        let ready = match &self.link {
            Link::Errand(_) if !self.caller.is_on_lane() => false,
            link if !link.is_shared() && !self.caller.is_on_lane() => true,
            _ => replies.is_settled(),
        };
        let waits = !self.crowded && replies.is_full() && replies.unanswered() < UNANSWERED;
        self.admission == Admission::Open && ready && waits && !self.is_behind(now)
    }

    /// Whether its connection has not yet taken what was sent on it, or not answered much of that.
    fn is_behind(&self, now: Time) -> bool {
        let window = self.worker.shared.config.lane_window;
        let settled = self.caller.replies.is_settled();
        let private = self.link.conn().map(Lent::lane);
        private.is_some_and(|lane| lane.is_behind() || lane.in_flight() > window && !settled)
            || self.caller.must_wait(now)
    }

    /// The command that its connection awaits the reply to, if Redis may have put it to wait: a client that leaves ends that.
    fn awaited(&self, now: Time) -> Option<Wait> {
        let lent = self.link.conn()?;
        let since = lent.lane().waits_since(self.worker.shared.l1.is_paused(now))?;
        Some(Wait { since, sure: self.link.waits_at(self.caller.replies.head()) })
    }

    /// Passes on to Redis that the client has closed its side, behind all that it sent.
    fn leave(&self, now: Time) {
        if let Some(lent) = self.link.conn() {
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
            replies.cut(replies.next(), SessionEnd::LoggedOut);
        } else if let Some(reply) = error.reply(sent, self.worker.shared.config.upstream_down) {
            self.answer(|out| out.extend_from_slice(&reply));
        } else {
            self.count();
            replies.cut(replies.next(), SessionEnd::Away);
        }
    }
}

/// Whether it is told of the time that a command takes within its session: it does not wait because its client wants that.
fn is_told_if_slow(known: Option<&Spec>, decision: Decision) -> bool {
    let verb = if let Decision::Verb(verb, _) = decision { Some(verb) } else { None };
    let waits = matches!(verb, Some(Verb::Wait | Verb::Quit | Verb::Subscribe | Verb::Monitor | Verb::Sync));
    let blocks = |spec: &Spec| matches!(spec.route, Route::Blocking | Route::LaneUnlessBlocking);
    known.is_some_and(|spec| !waits && !spec.is_own() && !blocks(spec))
}
