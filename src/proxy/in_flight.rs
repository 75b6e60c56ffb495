//! What awaits a reply on a lane, and what else its arrival sets off.
//!
//! A write's stamps change before a byte of its reply is passed on; an opaque write's answer has a fence follow; a lead's
//! reply goes to all who joined it, and then perhaps its key is promoted. When the connection is lost instead, reads that
//! may be sent again are, and every other command is told what may have happened to it. Dropped, what it holds is lost:
//! stamps, recipients and flight each see to themselves.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::oneshot;

use super::lanes::Track;
use super::notified_write::{FirstByte, NotifiedWrite};
use super::recipient::Recipient;
use super::shared::{RuleIndex, Shared};
use super::who::Who;
use super::worker::Worker;
use super::write_guard::WriteGuard;
use crate::cache::{Coin, FlightRef, Query};
use crate::clock::Time;
use crate::command;
use crate::error::{Error, Sent};
use crate::invalidation::{Fill, L1};
use crate::metrics::{DropReason, Path};
use crate::resp::{Request, Resp};
use crate::upstream::{Lane, Service, Waiter};

/// What Redis answers to a command in a transaction.
const QUEUED: &[u8] = b"+QUEUED\r\n";
/// Pieces of a reply from so many bytes on are kept once for all who wait for it.
const WORTH_SHARING: usize = 16 << 10;

/// One command that awaits its reply. Small, for it is moved with every request.
pub struct InFlight {
    worker: Rc<Worker>,
    /// None where the command is crema's own.
    recipient: Option<Recipient>,
    work: Work,
    /// Since when, where its latency is taken.
    sampled: Option<Instant>,
    begun: bool,
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
    Write(WriteGuard),
    /// The same for a write that goes with its notice, of whose replies the client gets its own.
    NotifiedWrite(Box<NotifiedWrite>),
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

    /// Whether the read for `recipient` that `error` ended may be sent again: once, and only where the session has sent no write
    /// after it, for the read could see that.
    fn may_again(&self, error: &Error, recipient: &Recipient) -> bool {
        error.is_cut() && !self.again && recipient.may_wait_longer()
    }
}

/// A read that others may join. It keeps nothing of its command: the lane does, and shows it when the reply is whole. Dropped
/// before its flight has landed, it lands, and whoever joined is cut off.
pub struct Lead {
    reader: Reader,
    track: Rc<Track>,
    flight: FlightRef,
    /// Bytes of the reply so far, up to what can be told here.
    size: u32,
    /// Who joined, once nobody can any more: mostly nobody.
    #[expect(clippy::box_collection, reason = "a third of the size, and mostly nobody joins")]
    joined: Option<Box<Vec<Recipient>>>,
    /// The rule of its key.
    rule: RuleIndex,
    coin: Coin,
    failed: bool,
}

impl Lead {
    /// Nobody joins any more.
    fn land(&mut self) {
        let flight = std::mem::replace(&mut self.flight, FlightRef::NONE);
        let joined = self.track.flights.borrow_mut().land(flight);
        if !joined.is_empty() {
            self.joined.get_or_insert_default().extend(joined);
        }
    }

    fn joined(&self) -> &[Recipient] {
        self.joined.as_ref().map_or(&[], |joined| joined)
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if self.flight != FlightRef::NONE {
            self.land();
        }
    }
}

impl InFlight {
    /// A command that is answered to `recipient`.
    pub fn new(worker: &Rc<Worker>, recipient: Recipient, work: Work, sampled: Option<Instant>) -> Self {
        let worker = Rc::clone(worker);
        Self { worker, recipient: Some(recipient), work, sampled, begun: false, patient: false }
    }

    /// Redis is asked to wait: the reply may take as long as it likes.
    #[must_use]
    pub fn patient(mut self, patient: bool) -> Self {
        self.patient = patient;
        self
    }

    /// A command of crema's own whose reply no client sees.
    pub fn own(worker: &Rc<Worker>, work: Work) -> Self {
        Self { worker: Rc::clone(worker), recipient: None, work, sampled: None, begun: false, patient: false }
    }

    /// Sends the read `command`, which `query` describes, on `track`, for its first recipient and all who join it.
    pub fn lead(
        worker: &Rc<Worker>,
        track: Rc<Track>,
        (first, joined): (Recipient, Option<Box<Vec<Recipient>>>),
        (reader, rule, coin): (Reader, RuleIndex, Coin),
        (command, query): (&[u8], &Query<'_>),
        now: Time,
    ) {
        let l1 = &worker.shared.l1;
        // Stamp and count are read before the first byte leaves.
        let flight = track.flights.borrow_mut().lead(query, l1.stamps.load(query.slot), l1.opaque(), now);
        let lane = Rc::clone(&track.lane);
        let lead = Lead { reader, track, flight, size: 0, joined, rule, coin, failed: false };
        send(&lane, command, Self::new(worker, first, Work::Lead(lead), worker.stats.sample()), now);
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
            Work::Write(guard) => {
                // MULTI was refused: it has been done at once, and there will be no EXEC to tell of it.
                let l1 = &self.worker.shared.l1;
                let alone = guard.queued && kind != b'-' && !bytes.starts_with(QUEUED);
                if alone && (guard.secret || l1.mode().writes_tell()) {
                    l1.owe_all();
                }
                written(&self.worker, self.recipient.as_ref(), guard, kind);
            }
            Work::Lead(lead) => lead.land(),
            Work::Read(_, fills) if kind == b'-' => {
                fills.drain(..).for_each(|_| self.worker.stats.dropped(DropReason::ErrorReply));
            }
            _ => {}
        }
    }

    /// The next piece of the replies to a write and its notice.
    fn notified(&mut self, kind: u8, bytes: &[u8], end: Option<Time>) {
        let (Work::NotifiedWrite(write), Some(recipient)) = (&mut self.work, &self.recipient) else { return };
        let NotifiedWrite { guard, replies } = &mut **write;
        let before = replies.begun;
        let part = replies.piece(kind, bytes, end.is_some());
        match replies.begun {
            Some(FirstByte { early: true, .. }) if before.is_none() => {
                recipient.replies().hold_early(recipient.place());
            }
            Some(FirstByte { kind, .. }) if before.is_none() => {
                written(&self.worker, Some(recipient), guard, kind);
            }
            _ => {}
        }
        if kind == b'-' {
            note_refusal(&self.worker, part.body);
        }
        recipient.append(&part.head, None);
        recipient.append(part.body, None);
        if replies.is_over() {
            let l1 = &self.worker.shared.l1;
            if replies.untold {
                l1.owe_all();
            }
            if replies.full {
                self.worker.front().node.signs.set_full(true);
            }
            recipient.append(b"", end);
            if let Some(FirstByte { kind, early: true }) = replies.begun
                && !written(&self.worker, Some(recipient), guard, kind)
            {
                recipient.replies().release(recipient.place());
            }
        }
    }

    fn promote<'a>(worker: &Worker, lead: &Lead, command: impl FnOnce() -> &'a [u8]) {
        let wanted = match lead.coin {
            Coin::Never => false,
            Coin::IfJoined | Coin::Knock => lead.joined.is_some(),
            Coin::Promote => true,
        };
        if !wanted || !worker.shared.l1.is_on() {
            return;
        }
        let Shared { l1, .. } = &*worker.shared;
        let who = &lead.reader.who;
        let promoted = read_again(l1, who, command(), |request, query| {
            let max_value = worker.shared.promote(lead.rule).max_value;
            let size = u64::from(lead.size);
            if lead.failed {
                Err(DropReason::ErrorReply)
            } else if lead.size == u32::MAX || size > max_value {
                Err(DropReason::TooLarge)
            } else {
                let fill = Fill::new(request, query, who.db, worker.shared.ceiling(lead.rule), max_value);
                l1.promote(&who.ear, fill.expecting(size))
            }
        });
        if let Some(promoted) = promoted {
            worker.promoted(promoted);
        }
    }
}

/// Redis has done the write of `guard`, and begins its reply with `kind`. True where the reply is held, until a fence is back or
/// the fleet is told.
fn written(worker: &Rc<Worker>, recipient: Option<&Recipient>, guard: &mut WriteGuard, kind: u8) -> bool {
    let l1 = &worker.shared.l1;
    if kind != b'-' {
        worker.took_write();
    }
    if let (Some(debt), Some(recipient)) = (guard.end(kind == b'-'), recipient) {
        l1.opaque_answered();
        worker.hold_until_settled(recipient, debt);
        return true;
    }
    if !guard.opaque {
        return false;
    }
    l1.opaque_answered();
    recipient.is_some_and(|recipient| worker.answered_opaque(recipient))
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
fn send(lane: &Lane<InFlight>, command: &[u8], pending: InFlight, now: Time) {
    if let Err(pending) = lane.send(command, pending, now) {
        pending.lost(&lane.lost_error(), Sent::No, command);
    }
}

impl Waiter for InFlight {
    fn piece(&mut self, kind: u8, bytes: &[u8], end: Option<Time>) {
        if !self.begun {
            self.begin(kind, bytes);
        }
        match &mut self.work {
            Work::Lead(lead) => {
                lead.size = lead.size.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                lead.failed |= matches!(kind, b'-' | b'!');
                let all = self.recipient.iter().chain(lead.joined());
                if bytes.len() >= WORTH_SHARING && lead.joined.is_some() {
                    let bytes = Rc::from(bytes);
                    all.for_each(|recipient| recipient.append_shared(&bytes, end));
                } else {
                    all.for_each(|recipient| recipient.append(bytes, end));
                }
            }
            Work::NotifiedWrite(_) => self.notified(kind, bytes, end),
            work => {
                if let Work::Capture(whole, _) = work {
                    whole.extend_from_slice(bytes);
                }
                if let Some(recipient) = &self.recipient {
                    recipient.append(bytes, end);
                }
            }
        }
    }

    fn over<'a>(mut self, command: impl FnOnce() -> &'a [u8]) {
        if let Some(recipient) = &mut self.recipient {
            recipient.finish();
        }
        match self.work {
            Work::Lead(mut lead) => {
                for recipient in lead.joined.iter_mut().flat_map(|joined| joined.iter_mut()) {
                    recipient.finish();
                }
                Self::promote(&self.worker, &lead, command);
            }
            Work::Read(reader, fills) => {
                let (l1, ear) = (&self.worker.shared.l1, &reader.who.ear);
                for fill in fills {
                    self.worker.promoted(l1.promote(ear, fill));
                }
            }
            Work::Capture(whole, told) => {
                let _ = told.send(whole); // whoever asked may be gone
            }
            _ => {}
        }
        if let Some(since) = self.sampled {
            self.worker.stats.record(Path::Miss, since);
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.recipient.as_ref().map_or(Poll::Ready(()), |recipient| recipient.replies().poll_room(cx))
    }

    fn is_own(&self) -> bool {
        self.recipient.is_none()
    }

    fn is_patient(&self) -> bool {
        self.patient
    }

    fn writes(&self) -> bool {
        matches!(self.work, Work::Write(_) | Work::NotifiedWrite(_))
    }

    fn awaits_more(&self) -> bool {
        matches!(&self.work, Work::NotifiedWrite(write) if !write.replies.is_over())
    }

    fn confirms(&self) -> bool {
        matches!(self.work, Work::Confirm(_))
    }

    fn confirm(&mut self, bytes: &[u8]) -> bool {
        let Work::Confirm(left) = &mut self.work else { return true };
        *left = left.saturating_sub(1);
        let last = *left == 0;
        if let Some(recipient) = &mut self.recipient {
            recipient.confirm(bytes, last);
            if last {
                recipient.finish();
            }
        }
        last
    }

    fn lost(mut self, error: &Error, sent: Sent, command: &[u8]) {
        match std::mem::replace(&mut self.work, Work::Ignore) {
            Work::Write(guard) => {
                drop(guard);
                if sent == Sent::Maybe && !self.begun {
                    self.worker.stats.lost_writes.add(1);
                }
                self.tell(error, sent);
            }
            Work::NotifiedWrite(write) => {
                let NotifiedWrite { guard, replies } = *write;
                drop(guard);
                if sent == Sent::Maybe {
                    self.worker.stats.lost_writes.add(u64::from(replies.begun.is_none()));
                    if replies.may_be_alone() {
                        self.worker.shared.l1.owe_all();
                    }
                }
                self.begun = replies.begun.is_some();
                self.tell(error, sent);
            }
            Work::Read(reader, fills) => self.read_again((reader, fills), error, sent, command),
            Work::Lead(lead) => self.lead_again(lead, error, sent, command),
            _ => self.tell(error, sent),
        }
    }
}

impl InFlight {
    fn read_again(mut self, (mut reader, fills): (Reader, Vec<Fill>), error: &Error, sent: Sent, command: &[u8]) {
        let may_again = |recipient: &Recipient| !command.is_empty() && reader.may_again(error, recipient);
        if self.begun || !self.recipient.as_ref().is_some_and(may_again) {
            return self.tell(error, sent);
        }
        let (worker, now) = (Rc::clone(&self.worker), Time::now());
        worker.stats.retried_reads.add(1);
        reader.again = true;
        match worker.front().track(&reader.who, reader.resp, reader.script, now) {
            Ok(track) => {
                let Some(recipient) = self.recipient.take() else { return };
                track.send(command, Self::new(&worker, recipient, Work::Read(reader, fills), self.sampled), now);
            }
            Err(error) => self.tell(&error, Sent::No),
        }
    }

    fn lead_again(mut self, mut lead: Lead, error: &Error, sent: Sent, command: &[u8]) {
        lead.land();
        let joined = lead.joined.take().map(|joined| *joined).unwrap_or_default();
        let recipients = self.recipient.take().into_iter().chain(joined);
        if self.begun {
            return recipients.for_each(|recipient| recipient.cut(error.into()));
        }
        let may_again = |recipient: &Recipient| !command.is_empty() && lead.reader.may_again(error, recipient);
        let (mut again, told): (Vec<_>, Vec<_>) = recipients.partition(may_again);
        for recipient in told {
            recipient.refuse(&self.worker, error, sent);
        }
        if again.is_empty() {
            return;
        }
        self.worker.stats.retried_reads.add(again.len() as u64);
        let (rule, coin) = (lead.rule, lead.coin);
        let Reader { who, resp, script, .. } = &lead.reader;
        let reader = Reader { who: Rc::clone(who), resp: *resp, script: *script, again: true };
        let now = Time::now();
        match self.worker.front().track(&reader.who, reader.resp, reader.script, now) {
            Ok(track) => {
                let (first, who) = (again.remove(0), Rc::clone(&reader.who));
                let joined = (!again.is_empty()).then(|| Box::new(again));
                let sent = read_again(&self.worker.shared.l1, &who, command, |_, query| {
                    Self::lead(&self.worker, track, (first, joined), (reader, rule, coin), (command, query), now);
                });
                debug_assert!(sent.is_some(), "what was sent can be read");
            }
            Err(error) => again.into_iter().for_each(|recipient| recipient.refuse(&self.worker, &error, Sent::No)),
        }
    }

    /// A reply that has begun cannot be taken back: its session ends, as it would have on a connection of its own.
    fn tell(&mut self, error: &Error, sent: Sent) {
        let Some(recipient) = self.recipient.take() else { return };
        if self.begun {
            recipient.cut(error.into());
        } else {
            recipient.refuse(&self.worker, error, sent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_with_every_request_is_small() {
        assert!(size_of::<WriteGuard>() <= 48, "{}", size_of::<WriteGuard>());
        assert!(size_of::<Lead>() <= 48, "{}", size_of::<Lead>());
        assert!(size_of::<Recipient>() <= 24, "{}", size_of::<Recipient>());
        // Up to 128 bytes are moved in line, in the lane's entry around it.
        assert!(size_of::<InFlight>() <= 112, "{}", size_of::<InFlight>());
    }
}
