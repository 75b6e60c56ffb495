//! What awaits a reply on a lane, and what else its arrival sets off.
//!
//! A write's stamps change before a byte of its reply is passed on; an opaque write's answer has a fence follow; a lead's
//! reply goes to all who joined it, and then perhaps its key is promoted. When the connection is lost instead, what may be
//! sent again goes back to the worker, and every other command is told what may have happened to it. So does what a node of a cluster
//! did not carry out, with its guard still under way. Dropped, what it holds is lost: stamps, recipients and flight each see to
//! themselves. Knows its [`Site`], and no lane.
//!
//! Holds contract points 3 (own writes) and 7 (a write is sent once).

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::lead::{Lead, promote};
use super::notified_write::{ClientPart, FirstByte, MarkedWrite, NotifiedWrite};
use super::queued::{QUEUED, QueuedCommand};
use super::reader::Reader;
use super::recipient::Recipient;
use super::returned::{ReturnReason, Returned};
use super::seek::Seek;
use super::site::Site;
use super::start::Start;
use super::who::Who;
use super::write_guard::WriteGuard;
use crate::clock::Time;
use crate::error::{Error, Sent};
use crate::invalidation::{AclUser, Fill};
use crate::metrics::{DropReason, Need, RedirectKind};
use crate::resp::Resp;
use crate::upstream::{ConnectionTimes, ErrorLine, ReplyEnd, Waiter, redirect_of};

/// Pieces of a reply from so many bytes on are kept once for all who wait for it.
const WORTH_SHARING: usize = 16 << 10;

/// One command that awaits its reply. Small, for it is moved with every request.
pub(crate) struct InFlight {
    pub(super) site: Rc<Site>,
    /// None where the command is crema's own.
    pub(super) recipient: Option<Recipient>,
    pub(super) action: ReplyAction,
    /// Since when it is under way.
    pub(super) start: Start,
    pub(super) stage: ReplyStage,
    patient: bool,
    /// Who sent it, in a cluster, where it is no read: those know.
    pub(super) caller: Option<Rc<Who>>,
    pub(super) resp: Resp,
}

/// How far the reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyStage {
    /// Nothing of it is here.
    Awaited,
    /// Nor here, and where the upstream has nothing the read goes on beyond it.
    Sought,
    /// Nor here, and where it is a redirect the command goes elsewhere.
    Followed,
    /// Nor here, and a replica's: it may not be believed.
    Weighed,
    /// `ASKING` goes before the command, and is answered first.
    Asking,
    /// That is answered.
    Asked,
    /// Redis has run the command.
    Begun,
}

/// What the reply sets off besides being passed on.
pub(crate) enum ReplyAction {
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
    /// A command of a transaction in a cluster, which may have to begin again at another node.
    Queued(Box<QueuedCommand>),
    /// So many confirmations of a (un)subscribe command follow.
    Confirm(usize),
    /// The whole reply is given to crema, and to no client.
    Capture(Vec<u8>, oneshot::Sender<Vec<u8>>),
    /// Nobody wants it.
    Ignore,
    /// The command was not carried out, or perhaps not, or the upstream has nothing: once that is sure it goes back to the worker.
    Return(Box<Returned>),
    /// A read that goes on beyond the upstream where that has nothing.
    Seek(Box<Seek<ReplyAction>>),
}

impl From<MarkedWrite> for ReplyAction {
    fn from(write: MarkedWrite) -> Self {
        match write {
            MarkedWrite::Alone(guard) => Self::Write(guard),
            MarkedWrite::WithNotice(write) => Self::NotifiedWrite(write),
        }
    }
}

impl InFlight {
    /// A command that is answered to `recipient`.
    pub(super) fn new(site: &Rc<Site>, recipient: Recipient, action: ReplyAction, start: Start) -> Self {
        let site = Rc::clone(site);
        let (stage, caller, resp) = (ReplyStage::Awaited, None, Resp::V2);
        Self { site, recipient: Some(recipient), action, start, stage, patient: false, caller, resp }
    }

    /// Redis is asked to wait: the reply may take as long as it likes.
    #[must_use]
    pub(crate) fn patient(mut self, patient: bool) -> Self {
        self.patient = patient;
        self
    }

    /// A command of crema's own whose reply no client sees.
    pub(crate) fn own(site: &Rc<Site>, action: ReplyAction) -> Self {
        let site = Rc::clone(site);
        let (stage, caller, resp) = (ReplyStage::Awaited, None, Resp::V2);
        let start = Start::at(Time::NEVER); // nobody waits for it
        Self { site, recipient: None, action, start, stage, patient: false, caller, resp }
    }

    /// Notes who sends it, in this version of the protocol, for it to be sent elsewhere. Of what goes to a cluster's node.
    pub(super) fn set_caller(&mut self, who: &Rc<Who>, resp: Resp) {
        (self.caller, self.resp) = (Some(Rc::clone(who)), resp);
    }

    /// It goes on a lane to a node that may say that another is to carry it out: then it goes there.
    pub(super) fn follow(&mut self) {
        if self.stage == ReplyStage::Awaited && self.recipient.is_some() && self.caller().is_some() {
            self.stage = ReplyStage::Followed;
        }
    }

    /// Whether Redis was asked to wait with its reply.
    pub(super) fn is_to_wait(&self) -> bool {
        self.patient
    }

    pub(super) fn caller(&self) -> Option<(&Rc<Who>, Resp)> {
        match &self.action {
            ReplyAction::Read(reader, _) | ReplyAction::Lead(Lead { reader, .. }) => Some((&reader.who, reader.resp)),
            ReplyAction::Seek(seek) => match &seek.inner {
                ReplyAction::Read(reader, _) | ReplyAction::Lead(Lead { reader, .. }) => {
                    Some((&reader.who, reader.resp))
                }
                _ => None,
            },
            _ => self.caller.as_ref().map(|who| (who, self.resp)),
        }
    }

    /// The command goes behind an `ASKING`, in one piece with it.
    #[must_use]
    pub(super) fn asking(self) -> Self {
        Self { stage: ReplyStage::Asking, ..self }
    }

    /// Answers with an error of crema's own.
    pub(crate) fn refuse(self, error: &Error, sent: Sent) {
        drop(self.lost(error, sent, &[])); // without its command it does not come back
    }

    /// The first byte of the reply is here: Redis has run the command.
    fn begin(&mut self, kind: u8, bytes: &[u8]) {
        self.stage = ReplyStage::Begun;
        if kind == b'-' {
            note_refusal(&self.site, bytes);
        }
        match &mut self.action {
            ReplyAction::Write(guard) => {
                // MULTI was refused: it has been done at once, and there will be no EXEC to tell of it.
                let l1 = &self.site.shared.l1;
                let alone = guard.queued && kind != b'-' && !bytes.starts_with(QUEUED);
                if alone && (guard.secret || l1.mode().writes_tell()) {
                    drop(l1.owe_all());
                }
                written(&self.site, self.recipient.as_ref(), guard, kind);
            }
            ReplyAction::Queued(command) => {
                if let Some(guard) = &mut command.guard {
                    written(&self.site, self.recipient.as_ref(), guard, kind);
                }
            }
            ReplyAction::Lead(lead) => lead.land(),
            ReplyAction::Read(_, fills) if kind == b'-' => {
                fills.drain(..).for_each(|_| self.site.stats.dropped(DropReason::ErrorReply));
            }
            _ => {}
        }
    }

    /// The next piece of the replies to a write and its notice.
    fn notified(&mut self, kind: u8, bytes: &[u8], end: Option<Time>) {
        let (ReplyAction::NotifiedWrite(write), Some(recipient)) = (&mut self.action, &self.recipient) else { return };
        let NotifiedWrite { guard, replies, user, refusal, sequel } = &mut **write;
        let mut before = replies.begun;
        let mut part = replies.piece(kind, bytes, end.is_some());
        if self.site.redirects && self.caller.is_some() && replies.begun.is_some_and(|begun| begun.kind == b'-') {
            refusal.extend_from_slice(&part.head);
            refusal.extend_from_slice(part.body);
            if !replies.is_over() {
                return; // its notice is to be answered before it may go elsewhere
            }
            if let ErrorLine::Redirect(kind) = ErrorLine::of(refusal, true) {
                let line = std::mem::take(refusal);
                return self.give_back(ReturnReason::Redirect(Some(kind), line));
            }
            (before, replies.begun) = (None, Some(FirstByte { kind: b'-', early: false }));
            part = ClientPart { head: std::mem::take(refusal), body: b"" };
        }
        let mut owed = None;
        if replies.is_over()
            && let Some(foreman) = self.site.foreman().filter(|_| self.site.looks_further)
        {
            owed = foreman.written(sequel, replies.is_carried_out(), replies.unaccompanied);
        }
        match replies.begun {
            Some(FirstByte { early: true, .. }) if before.is_none() => {
                recipient.replies().hold_early(recipient.place());
            }
            Some(FirstByte { kind, .. }) if before.is_none() => {
                written(&self.site, Some(recipient), guard, kind);
            }
            _ => {}
        }
        if kind == b'-' {
            note_refusal(&self.site, if part.head.is_empty() { part.body } else { &part.head });
        }
        recipient.append(&part.head, None);
        recipient.append(part.body, None);
        if replies.is_over() {
            let l1 = &self.site.shared.l1;
            if replies.untold {
                drop(l1.owe_all());
            }
            if let Some(owed) = owed {
                self.site.fencing.hold_until_removed(recipient, owed);
            }
            hear_notice(&self.site, user, &replies.notice);
            recipient.append(b"", end);
            if let Some(FirstByte { kind, early: true }) = replies.begun
                && !written(&self.site, Some(recipient), guard, kind)
            {
                recipient.replies().release(recipient.place());
            }
        }
    }
}

/// What Redis said to a write's notice tells whether its user may give any.
fn hear_notice(site: &Site, user: &AclUser, notice: &[u8]) {
    match notice.first() {
        Some(b':') => user.set_publishes(true),
        Some(b'-') if notice.starts_with(b"-NOPERM") => {
            user.set_publishes(false);
            site.node.needs.hear(Need::Publish, Some(user.name()), notice);
        }
        _ => {}
    }
}

/// Redis has done the write of `guard`, and begins its reply with `kind`. True where the reply is held, until a fence is back or
/// the fleet is told.
fn written(site: &Site, recipient: Option<&Recipient>, guard: &mut WriteGuard, kind: u8) -> bool {
    let l1 = &site.shared.l1;
    if site.looks_at_writes() {
        look_at_write(site, guard, kind);
    }
    if let (Some(debt), Some(recipient)) = (guard.end(kind == b'-'), recipient) {
        l1.opaque_answered();
        site.fencing.hold_until_settled(recipient, debt);
        return true;
    }
    if !guard.opaque {
        return false;
    }
    l1.opaque_answered();
    recipient.is_some_and(|recipient| site.fencing.answered_opaque(recipient))
}

/// It is noted before its client can learn of it.
#[cold]
fn look_at_write(site: &Site, guard: &WriteGuard, kind: u8) {
    if kind != b'-' {
        site.took_write();
    }
    if let Some(own) = site.shared.l1.own_writes()
        && (kind != b'-' || guard.opaque)
    {
        guard.note(own, Time::now());
    }
}

/// An error that tells of more than its own command.
fn note_refusal(site: &Site, reply: &[u8]) {
    if redirect_of(reply) == Some(RedirectKind::ReadOnly) {
        site.refused_write();
    }
    if reply.starts_with(b"-OOM") {
        site.node.signs.set_full(true); // what frees memory is not to be queued behind a MULTI
    }
}

impl InFlight {
    /// The next piece of the reply goes to those who wait for it.
    fn deliver(&mut self, kind: u8, bytes: &[u8], end: Option<Time>) {
        match &mut self.action {
            ReplyAction::Lead(lead) => {
                lead.failed |= matches!(kind, b'-' | b'!');
                let all = self.recipient.iter().chain(lead.joined());
                if bytes.len() >= WORTH_SHARING && lead.joined.is_some() {
                    let bytes = Rc::from(bytes);
                    all.for_each(|recipient| recipient.append_shared(&bytes, end));
                } else {
                    all.for_each(|recipient| recipient.append(bytes, end));
                }
            }
            ReplyAction::NotifiedWrite(_) => self.notified(kind, bytes, end),
            ReplyAction::Queued(command) => {
                if let (Some(shown), Some(recipient)) = (command.shown(kind, bytes, end.is_some()), &self.recipient) {
                    recipient.append(&shown, end);
                }
            }
            action => {
                if let ReplyAction::Capture(whole, _) = action {
                    whole.extend_from_slice(bytes);
                }
                if let Some(recipient) = &self.recipient {
                    recipient.append(bytes, end);
                }
            }
        }
    }
}

impl InFlight {
    /// The reply is whole, and sets off what it sets off.
    #[inline]
    fn end<'a>(mut self, end: ReplyEnd, times: impl FnOnce() -> ConnectionTimes, command: impl Fn() -> &'a [u8]) {
        if self.start.is_noted(end, self.site.stats.slow_after.load(Ordering::Relaxed)) {
            self.note(end, times, &command);
        }
        if let Some(recipient) = &mut self.recipient {
            recipient.finish();
        }
        match self.action {
            ReplyAction::Lead(mut lead) => {
                for recipient in lead.joined.iter_mut().flat_map(|joined| joined.iter_mut()) {
                    recipient.finish();
                }
                lead.promote(&self.site, end.size, command);
            }
            ReplyAction::Read(reader, fills) => {
                for fill in fills {
                    promote(&self.site, &reader.who.ear, fill);
                }
            }
            ReplyAction::Capture(whole, told) => {
                let _ = told.send(whole); // whoever asked may be gone
            }
            _ => {}
        }
    }
}

impl Waiter for InFlight {
    fn piece(&mut self, kind: u8, bytes: &[u8], end: Option<Time>) {
        if self.stage != ReplyStage::Begun {
            let plain = match self.stage {
                ReplyStage::Followed => kind != b'-',
                stage => stage == ReplyStage::Awaited,
            };
            if !plain && self.keeps_back(kind, bytes, end) {
                return;
            }
            self.begin(kind, bytes);
        }
        self.deliver(kind, bytes, end);
    }

    fn goes_elsewhere(&self) -> bool {
        matches!(self.action, ReplyAction::Return(_))
    }

    fn over<'a>(self, end: ReplyEnd, times: impl FnOnce() -> ConnectionTimes, command: impl Fn() -> &'a [u8]) {
        if self.site.redirects && self.awaits_detours() {
            let command = command();
            self.overtakes(command);
            return self.end(end, times, || command);
        }
        self.end(end, times, command);
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
        match &self.action {
            ReplyAction::Write(_) | ReplyAction::NotifiedWrite(_) => true,
            ReplyAction::Queued(command) => command.guard.is_some(),
            _ => false,
        }
    }

    fn awaits_more(&self) -> bool {
        self.stage == ReplyStage::Asked
            || matches!(&self.action, ReplyAction::NotifiedWrite(write) if !write.replies.is_over())
    }

    fn confirms(&self) -> bool {
        matches!(self.action, ReplyAction::Confirm(_))
    }

    fn confirm(&mut self, bytes: &[u8]) -> bool {
        let ReplyAction::Confirm(left) = &mut self.action else { return true };
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

    fn lost(mut self, error: &Error, sent: Sent, command: &[u8]) -> Option<Self> {
        self.take_back(); // of what a node said the end will not come
        if !command.is_empty() && self.stage != ReplyStage::Begun && self.goes_again(error, sent) {
            self.give_back(ReturnReason::Lost(error.clone(), sent));
            return Some(self);
        }
        self.note_lost(command);
        match std::mem::replace(&mut self.action, ReplyAction::Ignore) {
            ReplyAction::Write(guard) => {
                drop(guard);
                if sent == Sent::Maybe && self.stage != ReplyStage::Begun {
                    self.site.stats.lost_writes.add(1);
                }
            }
            ReplyAction::NotifiedWrite(write) => {
                let NotifiedWrite { guard, replies, mut sequel, .. } = *write;
                drop(guard);
                if sent == Sent::Maybe {
                    self.site.stats.lost_writes.add(u64::from(replies.begun.is_none()));
                    if replies.may_be_alone() {
                        drop(self.site.shared.l1.owe_all());
                        if let Some(foreman) = self.site.foreman().filter(|_| self.site.looks_further) {
                            drop(foreman.written(&mut sequel, false, true));
                        }
                    }
                }
                self.stage = if replies.begun.is_some() { ReplyStage::Begun } else { ReplyStage::Awaited };
            }
            ReplyAction::Lead(mut lead) => {
                for recipient in lead.take_joined() {
                    self.tell(recipient, error, sent);
                }
            }
            _ => {}
        }
        if let Some(recipient) = self.recipient.take() {
            self.tell(recipient, error, sent);
        }
        None
    }
}

impl InFlight {
    /// A reply that has begun cannot be taken back: its session ends, as it would have on a connection of its own.
    pub(super) fn tell(&self, recipient: Recipient, error: &Error, sent: Sent) {
        if self.stage == ReplyStage::Begun {
            recipient.cut(error.into());
        } else {
            recipient.refuse(&self.site.shared, error, sent);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::runtime::Builder;
    use tokio::sync::{Notify, watch};
    use tokio::task::LocalSet;

    use super::super::recipient::Tally;
    use super::super::replies::Replies;
    use super::super::reply_queue::SessionEnd;
    use super::super::shared::tests::{node, shared_by};
    use super::super::who::Who;
    use super::super::worker::Worker;
    use super::*;
    use crate::cache::{Coin, Slot, Stamp};
    use crate::command::{self, Class};
    use crate::invalidation::{CoherenceMode, Notices};
    use crate::metrics::{CoherenceMeans, EpochReason, Failure, Outcome, RedirectKind};
    use crate::resp::{Request, Resp, encode};
    use crate::upstream::{ClusterMap, Topology};

    const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";
    const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
    const AT: Option<Time> = Some(Time::from_nanos(7));

    /// A worker whose upstream is away, with one client.
    struct Office {
        worker: Rc<Worker>,
        replies: Rc<Replies>,
    }

    impl Office {
        fn open(test: impl FnOnce(Self)) {
            Self::open_by(CoherenceMode::tracking(), test);
        }

        /// The same, where changes would be heard of this way.
        fn open_by(mode: CoherenceMode, test: impl FnOnce(Self)) {
            Self::open_over(Topology::Single(node()), mode, test);
        }

        /// The same, in front of a cluster.
        fn open_over(topology: Topology, mode: CoherenceMode, test: impl FnOnce(Self)) {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            LocalSet::new().block_on(&runtime, async {
                let topologies = watch::Sender::new(Arc::new(topology));
                let worker = Worker::new(shared_by(mode, topologies.subscribe()), Arc::default());
                let member = worker.shared.clients.join("peer".to_owned(), &Arc::new(Notify::new()));
                let replies = Rc::new(Replies::new(1 << 20, member, Arc::clone(&worker.stats)));
                test(Self { worker: Rc::clone(&worker), replies });
                worker.close();
                worker.tasks.wait().await;
            });
        }

        fn slot(&self) -> Slot {
            let stamps = &self.worker.shared.l1.memory.stamps;
            stamps.slot(stamps.hash(b"k"))
        }

        fn stamp(&self) -> Stamp {
            self.worker.shared.l1.memory.stamps.load(self.slot())
        }

        fn write(&self) -> InFlight {
            let mut spans = Vec::new();
            let request = Request::parse_canonical(SET, &mut spans).expect("as it must be");
            let spec = command::lookup(request).expect("a row");
            let place = self.replies.reserve();
            self.replies.wrote(place);
            let site = &self.worker.front().site;
            let guard = WriteGuard::begin(site, spec, request);
            let recipient = Recipient::new(&self.replies, place, Tally::new(spec, Outcome::Write));
            InFlight::new(site, recipient, ReplyAction::Write(guard), Start::at(Time::NEVER))
        }

        /// One that is followed where a node sends it.
        fn followed_write(&self) -> InFlight {
            let who = Who::new(&self.worker.shared, self.worker.front().node(), None, 0);
            let mut write = self.write();
            write.set_caller(&who, Resp::V2);
            write.follow();
            write
        }

        fn open_in_a_cluster(test: impl FnOnce(Self)) {
            Self::open_over(Topology::Cluster(ClusterMap::unread(node())), CoherenceMode::tracking(), test);
        }

        fn reader(&self) -> Recipient {
            let mut spans = Vec::new();
            let request = Request::parse_canonical(GET, &mut spans).expect("as it must be");
            let spec = command::lookup(request).expect("a row");
            Recipient::new(&self.replies, self.replies.reserve(), Tally::new(spec, Outcome::Lead))
        }

        fn counts(&self) -> (u64, u64, u64, i64) {
            let stats = &self.worker.stats;
            let outcome = |outcome| stats.requests(Class::String, outcome);
            let failed = stats.failures(Failure::Lost);
            (outcome(Outcome::Write) + outcome(Outcome::Lead), outcome(Outcome::Refused), failed, stats.waiting.get())
        }
    }

    fn over(write: InFlight) {
        let at = Time::from_nanos(7);
        let times = || ConnectionTimes { turn: at, made: at, held: (at, at) };
        write.over(ReplyEnd { at, size: 5 }, times, || SET);
    }

    fn lost() -> Error {
        Error::Lost { node: "node:1".into(), why: "gone".into() }
    }

    #[test]
    fn a_write_changes_its_stamps_before_its_reply_goes_out() {
        Office::open(|office| {
            let before = office.stamp();
            let mut write = office.write();
            let sent = office.stamp();
            assert!(sent != before && !sent.quiet());
            write.piece(b'+', b"+O", None);
            assert!(office.stamp().quiet() && office.stamp() != before && office.replies.unanswered() == 1);
            write.piece(b'+', b"K\r\n", AT);
            assert_eq!(office.counts(), (0, 0, 0, 1), "counted when it is over, once");
            over(write);
            assert_eq!((office.counts(), office.replies.is_settled()), ((1, 0, 0, 0), true));
        });
    }

    #[test]
    fn a_write_that_went_untold_is_told_of_once_where_writes_are_to_tell_by_now() {
        let end: [(fn(InFlight), u64); 4] = [
            (|mut write| write.piece(b'+', b"+OK\r\n", AT), 1),
            (|mut write| write.piece(b'-', b"-OOM no\r\n", AT), 0),
            (|write| drop(write.lost(&lost(), Sent::Maybe, SET)), 1),
            (drop, 1),
        ];
        for (end, told) in end {
            let mode = CoherenceMode::auto(Some(Notices::new("c".into(), "me".into())), Duration::ZERO);
            Office::open_by(mode, |office| {
                let l1 = Arc::clone(&office.worker.shared.l1);
                let untold = || office.worker.shared.stats.epochs(EpochReason::Untold);
                office.write().piece(b'+', b"+OK\r\n", AT);
                l1.choose(CoherenceMeans::Tracking);
                let write = office.write();
                assert_eq!(untold(), 0, "it was done where Redis tells");
                l1.choose(CoherenceMeans::Channel);
                end(write);
                assert_eq!(untold(), told);
                drop(office.write());
                assert_eq!(untold(), told, "begun since, it has its notice");
            });
        }
    }

    /// Refused, lost or only queued, nobody has acknowledged it.
    #[test]
    fn the_audit_is_told_of_a_write_once_it_is_acknowledged() {
        Office::open(|office| {
            let memory = &office.worker.shared.l1.memory;
            let (watermarks, stamps, front) = (memory.store.watermarks(), &memory.stamps, office.worker.front());
            let site = &front.site;
            watermarks.follow(true);
            let marks = |key: &str| watermarks.of(stamps.slot(stamps.hash(key.as_bytes())), Time::ZERO);
            let key = (0..1000).map(|n| format!("k{n}")).find(|key| marks(key).is_some()).expect("some are followed");
            let (mut raw, mut spans) = (Vec::new(), Vec::new());
            encode::command(&mut raw, &[b"SET", key.as_bytes(), b"v"]);
            let request = Request::parse_canonical(&raw, &mut spans).expect("just written");
            let spec = command::lookup(request).expect("a row");
            let before = marks(&key);
            drop(WriteGuard::begin(site, spec, request).end(true));
            drop(WriteGuard::begin(site, spec, request));
            drop(WriteGuard::begin_queued(site, spec, request).end(false));
            assert_eq!(marks(&key), before);
            let mut write = WriteGuard::begin(site, spec, request);
            assert_eq!(marks(&key), before, "it is under way");
            drop(write.end(false));
            assert_ne!(marks(&key), before);
        });
    }

    #[test]
    fn a_write_that_is_lost_may_have_been_done_and_its_session_ends() {
        Office::open(|office| {
            let before = office.stamp();
            assert!(office.write().lost(&lost(), Sent::Maybe, SET).is_none());
            assert!(office.stamp().quiet() && office.stamp() != before);
            assert_eq!((office.counts(), office.worker.stats.lost_writes.get()), ((0, 1, 1, 0), 1));
            assert_eq!(office.replies.ended(), Some(SessionEnd::Away));
        });
    }

    #[test]
    fn a_write_that_is_dropped_is_lost() {
        Office::open(|office| {
            let before = office.stamp();
            drop(office.write());
            assert!(office.stamp().quiet() && office.stamp() != before);
            assert_eq!((office.counts(), office.replies.ended()), ((0, 1, 1, 0), Some(SessionEnd::Away)));
        });
    }

    #[test]
    fn a_reply_that_has_begun_is_not_taken_back() {
        Office::open(|office| {
            let mut write = office.write();
            write.piece(b'$', b"$5\r\nhal", None);
            assert!(write.lost(&lost(), Sent::Maybe, SET).is_none());
            assert_eq!((office.counts(), office.worker.stats.lost_writes.get()), ((0, 1, 1, 0), 0), "it was done");
            assert_eq!(office.replies.ended(), Some(SessionEnd::Away));
        });
    }

    #[test]
    fn a_lead_and_who_joined_it_are_sent_again_once() {
        Office::open(|office| {
            let (worker, now) = (&office.worker, Time::now());
            let who = Who::new(&worker.shared, worker.front().node(), None, 0);
            let track = worker.front().track(&who, Resp::V2, false, now).expect("a lane that is being made");
            let mut spans = Vec::new();
            let request = Request::parse_canonical(GET, &mut spans).expect("as it must be");
            let query = who.query(&worker.shared.l1, command::lookup(request).expect("a row"), request);
            let reader = Reader::new(Rc::clone(&who), Resp::V2, false);
            let first = office.reader();
            track.lead((first, None), (reader, Coin::Never), (GET, &query), (now, now));
            let l1 = &worker.shared.l1;
            let joined =
                track.flights.borrow_mut().join(&query, &l1.memory.stamps, l1.opaque(), Time::ZERO, office.reader());
            assert!(joined.is_ok());

            track.lane.lose("gone");
            assert!(track.flights.borrow().is_empty());
            assert_eq!((worker.stats.retried_reads.get(), office.counts()), (2, (0, 0, 0, 2)));
            let again = worker.front().track(&who, Resp::V2, false, now).expect("another lane");
            assert!(!Rc::ptr_eq(&again, &track) && again.lane.in_flight() == GET.len() as u64);

            again.lane.lose("gone as well");
            assert_eq!((worker.stats.retried_reads.get(), office.counts()), (2, (0, 2, 2, 0)));
            assert_eq!(office.replies.ended(), Some(SessionEnd::Away));
        });
    }

    #[test]
    fn a_lead_that_is_dropped_ends_its_flight_and_who_joined_it() {
        Office::open(|office| {
            let (worker, now) = (&office.worker, Time::now());
            let who = Who::new(&worker.shared, worker.front().node(), None, 0);
            let track = worker.front().track(&who, Resp::V2, false, now).expect("a lane that is being made");
            let mut spans = Vec::new();
            let request = Request::parse_canonical(GET, &mut spans).expect("as it must be");
            let query = who.query(&worker.shared.l1, command::lookup(request).expect("a row"), request);
            let l1 = &worker.shared.l1;
            let read = (Reader::once(Rc::clone(&who), Resp::V2), Coin::Never);
            let lead = Lead::begin(&track.flights, read, None, (&worker.shared, &query), now);
            let joined =
                track.flights.borrow_mut().join(&query, &l1.memory.stamps, l1.opaque(), Time::ZERO, office.reader());
            assert!(joined.is_ok());
            drop(lead);
            assert!(track.flights.borrow().is_empty());
            assert_eq!((office.counts(), office.replies.ended()), ((0, 1, 1, 0), Some(SessionEnd::Away)));
        });
    }

    #[test]
    fn a_redirected_write_comes_back_under_way_and_its_client_sees_nothing() {
        Office::open_in_a_cluster(|office| {
            let mut write = office.followed_write();
            for (bytes, end) in [("-MO", None), ("VED 3999 127.0.0.1:1\r", None), ("\n", AT)] {
                assert!(!write.awaits_more() && office.replies.is_flushed());
                write.piece(b'-', bytes.as_bytes(), end);
            }
            assert!(write.goes_elsewhere() && !office.stamp().quiet() && office.replies.unanswered() == 1);
            let command = write.unpack().expect("it came back");
            let ReturnReason::Redirect(kind, line) = &command.why else { panic!("a redirect") };
            assert_eq!((*kind, line.as_slice()), (Some(RedirectKind::Moved), &b"-MOVED 3999 127.0.0.1:1\r\n"[..]));
            assert!(command.caller.is_some());
            drop(command);
            assert!(office.stamp().quiet(), "dropped, it is lost");
            assert_eq!(office.replies.ended(), Some(SessionEnd::Away));
        });
    }

    #[test]
    fn another_error_is_the_clients_however_it_comes() {
        Office::open_in_a_cluster(|office| {
            for pieces in [&["-M", "ISCONF no\r\n"][..], &["-READONL", "\r\n"], &["-ERR no\r\n"]] {
                let mut write = office.followed_write();
                for (n, piece) in pieces.iter().enumerate() {
                    write.piece(b'-', piece.as_bytes(), AT.filter(|_| n + 1 == pieces.len()));
                }
                assert!(!write.goes_elsewhere() && office.stamp().quiet());
                over(write);
                assert!(office.replies.is_settled());
            }
            assert_eq!(office.counts(), (3, 0, 0, 0));
        });
        Office::open(|office| {
            let mut write = office.write();
            write.piece(b'-', b"-MOVED 3999 127.0.0.1:1\r\n", AT);
            assert!(!write.goes_elsewhere(), "a single node's word is the client's");
            over(write);
            assert!(office.replies.is_settled());
        });
    }

    #[test]
    fn behind_asking_the_second_reply_is_the_clients() {
        Office::open_in_a_cluster(|office| {
            for refused in ["+OK\r\n", "-ERR This instance has cluster support disabled\r\n"] {
                let mut write = office.write().asking();
                write.piece(refused.as_bytes()[0], refused.as_bytes(), AT);
                assert!(write.awaits_more() && office.replies.unanswered() == 1);
                write.piece(b'+', b"+O", None);
                assert!(!write.awaits_more());
                write.piece(b'+', b"K\r\n", AT);
                assert!(!write.awaits_more() && !write.goes_elsewhere());
                over(write);
                assert!(office.replies.is_settled());
            }
            let who = Who::new(&office.worker.shared, office.worker.front().node(), None, 0);
            let mut write = office.write().asking();
            write.set_caller(&who, Resp::V2);
            write.piece(b'+', b"+OK\r\n", AT);
            write.piece(b'-', b"-TRYAGAIN no\r\n", AT);
            assert!(write.goes_elsewhere() && !write.awaits_more());
        });
    }

    #[test]
    fn in_a_cluster_what_was_not_sent_comes_back() {
        Office::open_in_a_cluster(|office| {
            let back = office.followed_write().lost(&lost(), Sent::No, SET).expect("another node may serve it");
            assert!(!office.stamp().quiet() && office.replies.ended().is_none());
            drop(back);
        });
        Office::open_in_a_cluster(|office| {
            assert!(office.followed_write().lost(&lost(), Sent::Maybe, SET).is_none());
            assert_eq!(office.replies.ended(), Some(SessionEnd::Away), "nobody knows whether it was done");
        });
        Office::open_in_a_cluster(|office| {
            let mut write = office.followed_write();
            write.piece(b'-', b"-MOVED 39", None);
            assert!(write.lost(&lost(), Sent::Maybe, SET).is_none(), "half of a line is no word");
            assert_eq!(office.replies.ended(), Some(SessionEnd::Away));
        });
        let full = Error::UpstreamLimit { limit: 1 };
        Office::open_in_a_cluster(|office| {
            assert!(office.followed_write().lost(&full, Sent::No, SET).is_none(), "no other node helps there");
        });
    }

    #[test]
    fn what_is_moved_with_every_request_is_small() {
        assert!(size_of::<WriteGuard>() <= 48, "{}", size_of::<WriteGuard>());
        assert!(size_of::<Lead>() <= 48, "{}", size_of::<Lead>());
        assert!(size_of::<Recipient>() <= 24, "{}", size_of::<Recipient>());
        // Up to 128 bytes are moved in line, in the lane's entry around it.
        assert!(size_of::<InFlight>() <= 120, "{}", size_of::<InFlight>());
    }
}
