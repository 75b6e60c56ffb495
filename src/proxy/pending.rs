//! What awaits a reply on a lane, and what else its arrival sets off.
//!
//! A write's stamps change before a byte of its reply is passed on; an opaque write's answer has a fence follow; a lead's
//! reply goes to all who joined it, and then perhaps its key is promoted. When the connection is lost instead, reads that
//! may be sent again are, and every other command is told what may have happened to it.
//!
//! A long file: what a command sets off when it is answered is what must be undone when it is not.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::oneshot;

use super::lanes::Track;
use super::marks::Marks;
use super::replies::{End, Place, Replies};
use super::shared::{RuleIndex, Shared};
use super::step::{Begun, Told};
use super::who::Who;
use super::worker::Worker;
use crate::cache::{Coin, FlightRef, Query};
use crate::clock::Time;
use crate::command::{self, Class, Effect, Spec};
use crate::error::{Error, Sent};
use crate::invalidation::{Fill, L1};
use crate::metrics::{DropReason, Failure, Outcome, Path, WorkerStats};
use crate::resp::{Request, Resp};
use crate::upstream::{Lane, Service, Waiter};

/// What Redis answers to a command in a transaction.
const QUEUED: &[u8] = b"+QUEUED\r\n";
/// Pieces of a reply from so many bytes on are kept once for all who wait for it.
const WORTH_SHARING: usize = 16 << 10;

/// A place in a session's replies.
pub struct Ticket {
    /// The session's replies.
    pub to: Rc<Replies>,
    /// Which of them.
    pub place: Place,
    /// What the command counts as.
    pub tally: Tally,
}

/// What a command counts as once its reply is whole.
#[derive(Clone, Copy)]
pub struct Tally {
    class: Class,
    outcome: Outcome,
    reads: bool,
}

impl Tally {
    /// Of a command of this row.
    pub fn new(spec: &Spec, outcome: Outcome) -> Self {
        Self { class: spec.class, outcome, reads: spec.effect == Effect::Read }
    }
}

impl Ticket {
    fn append(&self, bytes: &[u8], end: Option<Time>) {
        self.to.append(self.place, bytes, end);
    }

    /// The reply is whole.
    fn count(&self, stats: &WorkerStats) {
        stats.waiting.sub(1);
        stats.count(self.tally.class, self.tally.outcome);
    }

    /// There is no reply, or not the whole of it.
    fn count_failed(&self, stats: &WorkerStats, failure: Failure) {
        stats.waiting.sub(1);
        stats.failed(self.tally.class, failure);
    }

    /// Answers with an error of crema's own, or has the client closed.
    pub fn refuse(&self, worker: &Worker, error: &Error, sent: Sent) {
        self.count_failed(&worker.stats, error.into());
        if matches!(error, Error::LoginRefused { .. }) {
            return self.cut(End::LoggedOut);
        }
        let sent = if sent == Sent::Maybe && self.tally.reads { Sent::Read } else { sent };
        match error.reply(sent, worker.shared.config.upstream_down) {
            Some(reply) => self.append(&reply, Some(Time::ZERO)), // it tells nothing of any key
            None => self.cut(End::Away),
        }
    }

    /// There will be no answer, or no more of one: the session ends with what was answered before.
    fn cut(&self, why: End) {
        self.to.cut(self.place, why);
    }
}

/// One command that awaits its reply.
pub struct Pending {
    worker: Rc<Worker>,
    ticket: Option<Ticket>,
    work: Work,
    sampled: Option<(Path, Instant)>,
    begun: bool,
    over: bool,
    patient: bool,
}

/// What the reply sets off besides being passed on.
pub enum Work {
    /// Nothing.
    Pass,
    /// A read: it may be sent again, once, where its connection is lost. What it is to leave in L1 is asked for when it is
    /// answered, unless that is an error.
    Read(Reader, Vec<Fill>),
    /// The stamps of a write change; an opaque one has a fence follow.
    Write(Marks),
    /// The same for a write that goes with its notice, of whose replies the client gets its own.
    Told(Box<Told>),
    /// It answers everyone who joined, and may be promoted.
    Lead(Lead),
    /// So many confirmations of a (un)subscribe command follow.
    Confirm(usize),
    /// The whole reply is given to crema, and to no client.
    Capture(Vec<u8>, oneshot::Sender<Vec<u8>>),
    /// Nobody wants it.
    Ignore,
}

/// For whom a read is done, so that it can be sent again.
pub struct Reader {
    who: Rc<Who>,
    resp: Resp,
    /// Whether it goes on a lane for scripts.
    script: bool,
    again: bool,
}

impl Reader {
    /// A read that has not been sent yet.
    pub fn new(who: Rc<Who>, resp: Resp, script: bool) -> Self {
        Self { who, resp, script, again: false }
    }

    /// A read that is not sent again.
    pub fn once(who: Rc<Who>, resp: Resp) -> Self {
        Self { who, resp, script: false, again: true }
    }

    /// Whether the read of `ticket` that `error` ended may be sent again: once, and only where the session has sent no write
    /// after it, for the read could see that.
    fn may_again(&self, error: &Error, ticket: &Ticket) -> bool {
        error.is_cut() && !self.again && !ticket.to.wrote_after(ticket.place) && !ticket.to.is_cut(ticket.place)
    }
}

/// A read that others may join. It keeps nothing of its command: the lane does, and shows it when the reply is whole.
pub struct Lead {
    reader: Reader,
    track: Rc<Track>,
    flight: Option<FlightRef>,
    joined: Vec<Ticket>,
    size: u64,
    /// The rule of its key.
    rule: RuleIndex,
    coin: Coin,
    failed: bool,
}

impl Lead {
    fn land(&mut self) {
        if let Some(flight) = self.flight.take() {
            let joined = self.track.flights.borrow_mut().land(flight);
            if self.joined.is_empty() {
                self.joined = joined;
            } else {
                self.joined.extend(joined);
            }
        }
    }
}

impl Pending {
    /// A command that holds `ticket`.
    pub fn new(worker: &Rc<Worker>, ticket: Ticket, work: Work, sampled: Option<(Path, Instant)>) -> Self {
        Self {
            worker: Rc::clone(worker),
            ticket: Some(ticket),
            work,
            sampled,
            begun: false,
            over: false,
            patient: false,
        }
    }

    /// Redis is asked to wait: the reply may take as long as it likes.
    #[must_use]
    pub fn patient(mut self, patient: bool) -> Self {
        self.patient = patient;
        self
    }

    /// A command of crema's own whose reply no client sees.
    pub fn own(worker: &Rc<Worker>, work: Work) -> Self {
        Self { worker: Rc::clone(worker), ticket: None, work, sampled: None, begun: false, over: false, patient: false }
    }

    /// Sends the read `command`, which `query` describes, on `track`, for `tickets` and all who join it.
    pub fn lead(
        worker: &Rc<Worker>,
        track: Rc<Track>,
        (first, joined): (Ticket, Vec<Ticket>),
        (reader, rule, coin): (Reader, RuleIndex, Coin),
        (command, query): (&[u8], &Query<'_>),
        now: Time,
    ) {
        let l1 = &worker.shared.l1;
        // Stamp and count are read before the first byte leaves.
        let flight = track.flights.borrow_mut().lead(query, l1.stamps.load(query.slot), l1.opaque(), now);
        let sampled = worker.stats.sample().map(|since| (Path::Miss, since));
        let lane = Rc::clone(&track.lane);
        let lead = Lead { reader, track, flight: Some(flight), joined, size: 0, rule, coin, failed: false };
        send(&lane, command, Self::new(worker, first, Work::Lead(lead), sampled), now);
    }

    /// Answers with an error of crema's own.
    pub fn refuse(self, error: &Error, sent: Sent) {
        self.lost(error, sent, &[]);
    }

    /// The first byte of the reply is here: Redis has run the command.
    fn begin(&mut self, kind: u8, bytes: &[u8]) {
        self.begun = true;
        if kind == b'-' {
            note_refusal(&self.worker, bytes);
        }
        match &mut self.work {
            Work::Write(marks) => {
                // MULTI was refused: it has been done at once, and there will be no EXEC to tell of it.
                let l1 = &self.worker.shared.l1;
                let alone = marks.queued && kind != b'-' && !bytes.starts_with(QUEUED);
                if alone && (marks.secret || l1.notices().is_some()) {
                    l1.owe_all();
                }
                written(&self.worker, self.ticket.as_ref(), marks, kind);
            }
            Work::Lead(lead) => lead.land(),
            Work::Read(_, fills) if kind == b'-' => {
                fills.drain(..).for_each(|_| self.worker.stats.dropped(DropReason::ErrorReply));
            }
            _ => {}
        }
    }

    /// The next piece of the replies to a write and its notice.
    fn told(&mut self, kind: u8, bytes: &[u8], end: Option<Time>) {
        let (Work::Told(told), Some(ticket)) = (&mut self.work, &self.ticket) else { return };
        let before = told.begun;
        let share = told.piece(kind, bytes, end.is_some());
        match told.begun {
            Some(Begun { early: true, .. }) if before.is_none() => ticket.to.hold_early(ticket.place),
            Some(Begun { kind, .. }) if before.is_none() => {
                written(&self.worker, Some(ticket), &mut told.marks, kind);
            }
            _ => {}
        }
        if kind == b'-' {
            note_refusal(&self.worker, share.body);
        }
        ticket.append(&share.head, None);
        ticket.append(share.body, None);
        if told.is_over() {
            let l1 = &self.worker.shared.l1;
            if told.untold {
                l1.owe_all();
            }
            if let (true, Some(notices)) = (told.full, l1.notices()) {
                notices.set_full(true);
            }
            ticket.append(b"", end);
            if let Some(Begun { kind, early: true }) = told.begun
                && !written(&self.worker, Some(ticket), &mut told.marks, kind)
            {
                ticket.to.release(ticket.place);
            }
        }
    }

    fn promote(worker: &Worker, lead: &Lead, command: &[u8]) {
        let wanted = match lead.coin {
            Coin::Never => false,
            Coin::IfJoined | Coin::Knock => !lead.joined.is_empty(),
            Coin::Promote => true,
        };
        if !wanted || !worker.shared.l1.is_on() {
            return;
        }
        let Shared { l1, .. } = &*worker.shared;
        let who = &lead.reader.who;
        let promoted = read_again(l1, who, command, |request, query| {
            let max_value = worker.shared.promote(lead.rule).max_value;
            if lead.failed {
                Err(DropReason::ErrorReply)
            } else if lead.size > max_value {
                Err(DropReason::TooLarge)
            } else {
                let fill = Fill::new(request, query, who.db, worker.shared.ceiling(lead.rule), max_value);
                l1.promote(&who.ear, fill.expecting(lead.size))
            }
        });
        if let Some(promoted) = promoted {
            worker.promoted(promoted);
        }
    }
}

/// Redis has done what `marks` are of, and begins its reply with `kind`. True where the reply is held, until a fence is back or the
/// fleet is told.
fn written(worker: &Rc<Worker>, ticket: Option<&Ticket>, marks: &mut Marks, kind: u8) -> bool {
    let l1 = &worker.shared.l1;
    if kind != b'-' {
        worker.took_write();
    }
    if let (Some(debt), Some(ticket)) = (marks.end(l1, kind == b'-'), ticket) {
        l1.opaque_answered();
        worker.hold_until_settled(ticket, debt);
        return true;
    }
    if !marks.opaque {
        return false;
    }
    l1.opaque_answered();
    ticket.is_some_and(|ticket| worker.answered_opaque(ticket))
}

/// An error that tells of more than its own command.
fn note_refusal(worker: &Worker, reply: &[u8]) {
    if reply.starts_with(b"-READONLY") {
        let node = &worker.front().node;
        node.signs.serves(Service::ReadOnly);
        node.generation.doubt();
    }
}

/// Describes the read `command` once more, which was one that L1 may answer.
fn read_again<R>(l1: &L1, who: &Who, command: &[u8], then: impl FnOnce(Request<'_>, &Query<'_>) -> R) -> Option<R> {
    let mut spans = Vec::new();
    let request = Request::parse_canonical(command, &mut spans)?;
    let query = who.query(l1, command::lookup(request)?, request);
    Some(then(request, &query))
}

/// Sends on a lane, or tells at once that it could not.
fn send(lane: &Lane<Pending>, command: &[u8], pending: Pending, now: Time) {
    if let Err(pending) = lane.send(command, pending, now) {
        pending.lost(&lane.lost_error(), Sent::No, command);
    }
}

impl Waiter for Pending {
    fn piece(&mut self, kind: u8, bytes: &[u8], end: Option<Time>) {
        if !self.begun {
            self.begin(kind, bytes);
        }
        match &mut self.work {
            Work::Lead(lead) => {
                lead.size += bytes.len() as u64;
                lead.failed |= matches!(kind, b'-' | b'!');
                let all = self.ticket.iter().chain(&lead.joined);
                if bytes.len() >= WORTH_SHARING && !lead.joined.is_empty() {
                    let bytes = Rc::from(bytes);
                    all.for_each(|ticket| ticket.to.append_shared(ticket.place, &bytes, end));
                } else {
                    all.for_each(|ticket| ticket.append(bytes, end));
                }
            }
            Work::Told(_) => self.told(kind, bytes, end),
            work => {
                if let Work::Capture(whole, _) = work {
                    whole.extend_from_slice(bytes);
                }
                if let Some(ticket) = &self.ticket {
                    ticket.append(bytes, end);
                }
            }
        }
    }

    fn over(&mut self, command: &[u8]) {
        self.over = true;
        let stats = &self.worker.stats;
        self.ticket.iter().for_each(|ticket| ticket.count(stats));
        match &mut self.work {
            Work::Lead(lead) => {
                lead.joined.iter().for_each(|ticket| ticket.count(stats));
                Self::promote(&self.worker, lead, command);
            }
            Work::Read(reader, fills) => {
                let (l1, ear) = (&self.worker.shared.l1, &reader.who.ear);
                fills.drain(..).for_each(|fill| self.worker.promoted(l1.promote(ear, fill)));
            }
            Work::Capture(..) => {
                if let Work::Capture(whole, told) = std::mem::replace(&mut self.work, Work::Ignore) {
                    let _ = told.send(whole); // whoever asked may be gone
                }
            }
            _ => {}
        }
        if let Some((path, since)) = self.sampled {
            self.worker.stats.record(path, since);
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ticket.as_ref().map_or(Poll::Ready(()), |ticket| ticket.to.poll_room(cx))
    }

    fn is_own(&self) -> bool {
        self.ticket.is_none()
    }

    fn is_patient(&self) -> bool {
        self.patient
    }

    fn writes(&self) -> bool {
        matches!(self.work, Work::Write(_) | Work::Told(_))
    }

    fn awaits_more(&self) -> bool {
        matches!(&self.work, Work::Told(told) if !told.is_over())
    }

    fn confirms(&self) -> bool {
        matches!(self.work, Work::Confirm(_))
    }

    fn confirm(&mut self, bytes: &[u8]) -> bool {
        let Work::Confirm(left) = &mut self.work else { return true };
        *left = left.saturating_sub(1);
        let last = *left == 0;
        self.over = last;
        if let Some(ticket) = &self.ticket {
            ticket.to.confirm(ticket.place, bytes, last.then_some(Time::ZERO));
            if last {
                ticket.count(&self.worker.stats);
            }
        }
        last
    }

    fn lost(mut self, error: &Error, sent: Sent, command: &[u8]) {
        self.over = true;
        match std::mem::replace(&mut self.work, Work::Ignore) {
            Work::Write(mut marks) => {
                marks.lose(&self.worker.shared.l1);
                if sent == Sent::Maybe && !self.begun {
                    self.worker.stats.lost_writes.add(1);
                }
                self.tell(error, sent);
            }
            Work::Told(mut told) => {
                told.marks.lose(&self.worker.shared.l1);
                if sent == Sent::Maybe {
                    self.worker.stats.lost_writes.add(u64::from(told.begun.is_none()));
                    if told.may_be_alone() {
                        self.worker.shared.l1.owe_all();
                    }
                }
                self.begun = told.begun.is_some();
                self.tell(error, sent);
            }
            Work::Read(reader, fills) => self.plain_again((reader, fills), error, sent, command),
            Work::Lead(lead) => self.lead_again(lead, error, sent, command),
            _ => self.tell(error, sent),
        }
    }
}

impl Pending {
    fn plain_again(mut self, (mut reader, fills): (Reader, Vec<Fill>), error: &Error, sent: Sent, command: &[u8]) {
        let may_again = |ticket: &Ticket| !command.is_empty() && reader.may_again(error, ticket);
        if self.begun || !self.ticket.as_ref().is_some_and(may_again) {
            return self.tell(error, sent);
        }
        let (worker, now) = (Rc::clone(&self.worker), Time::now());
        worker.stats.retried_reads.add(1);
        reader.again = true;
        match worker.front().track(&reader.who, reader.resp, reader.script, now) {
            Ok(track) => {
                let Some(ticket) = self.ticket.take() else { return };
                track.send(command, Self::new(&worker, ticket, Work::Read(reader, fills), self.sampled), now);
            }
            Err(error) => self.tell(&error, Sent::No),
        }
    }

    fn lead_again(mut self, mut lead: Lead, error: &Error, sent: Sent, command: &[u8]) {
        lead.land();
        let tickets = self.ticket.take().into_iter().chain(std::mem::take(&mut lead.joined));
        let stats = &self.worker.stats;
        if self.begun {
            return tickets.for_each(|ticket| {
                ticket.count_failed(stats, error.into());
                ticket.cut(End::Away);
            });
        }
        let may_again = |ticket: &Ticket| !command.is_empty() && lead.reader.may_again(error, ticket);
        let (mut again, told): (Vec<_>, Vec<_>) = tickets.partition(may_again);
        for ticket in &told {
            ticket.refuse(&self.worker, error, sent);
        }
        if again.is_empty() {
            return;
        }
        self.worker.stats.retried_reads.add(again.len() as u64);
        let Lead { mut reader, rule, coin, .. } = lead;
        reader.again = true;
        let first = again.remove(0);
        let now = Time::now();
        match self.worker.front().track(&reader.who, reader.resp, reader.script, now) {
            Ok(track) => {
                let who = Rc::clone(&reader.who);
                let sent = read_again(&self.worker.shared.l1, &who, command, |_, query| {
                    Self::lead(&self.worker, track, (first, again), (reader, rule, coin), (command, query), now);
                });
                debug_assert!(sent.is_some(), "what was sent can be read");
            }
            Err(error) => {
                [first].iter().chain(&again).for_each(|ticket| ticket.refuse(&self.worker, &error, Sent::No));
            }
        }
    }

    /// A reply that has begun cannot be taken back: its session ends, as it would have on a connection of its own.
    fn tell(&self, error: &Error, sent: Sent) {
        let Some(ticket) = &self.ticket else { return };
        if self.begun {
            ticket.count_failed(&self.worker.stats, error.into());
            ticket.cut(End::Away);
        } else {
            ticket.refuse(&self.worker, error, sent);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Only where a lane's task was torn down: stamps must not stay under way for ever, nor sessions wait.
        if !self.over {
            let marks = match &mut self.work {
                Work::Write(marks) => Some(marks),
                Work::Told(told) => Some(&mut told.marks),
                _ => None,
            };
            if let Some(marks) = marks {
                marks.lose(&self.worker.shared.l1);
            }
            if let Some(ticket) = &self.ticket {
                ticket.count_failed(&self.worker.stats, Failure::Lost);
                ticket.cut(End::Away);
            }
        }
    }
}
