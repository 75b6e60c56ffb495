//! What the proxy knows of one session: who it is, its lane, and which of its reads and writes are unanswered.
//!
//! A session's commands reach Redis in order because they go on one connection until all of them are answered; only then
//! does the caller look for another lane.
//!
//! A long file: who a session is and what it has under way decide together where its next command goes.

use std::borrow::Cow;
use std::cell::Cell;
use std::iter;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::Unheard;
use super::finding::Miss;
use super::in_flight::{InFlight, Work};
use super::notified_write::{NoticeForm, notify};
use super::private::OwnLane;
use super::read_history::{Standing, slots_read};
use super::reader::Reader;
use super::recipient::{Recipient, Tally};
use super::replies::Replies;
use super::reply_queue::ReplyPlace;
use super::shared::RuleIndex;
use super::track::Track;
use super::who::Who;
use super::worker::Worker;
use super::write_guard::WriteGuard;
use crate::cache::{Query, Slot};
use crate::clock::Time;
use crate::command::{Effect, Route, Spec, Verb};
use crate::error::{Error, Sent};
use crate::invalidation::{Fill, L1};
use crate::metrics::Outcome;
use crate::resp::{Request, Resp, encode};

/// A hit may wait for a fence for so long, or for twice of what Redis would take: the next ones are the quicker for it.
const WORTH: Duration = Duration::from_millis(5);
/// No read takes less at Redis.
const QUICKEST: Duration = Duration::from_micros(50);

/// See the module's head.
pub struct Caller {
    /// Where the replies go.
    pub replies: Rc<Replies>,
    /// Who asks.
    pub who: Rc<Who>,
    /// The protocol version that the client speaks.
    pub resp: Resp,
    track: Option<Rc<Track>>,
    /// Whether `track` is, or is to be, a lane for scripts.
    scripts: bool,
    /// The last script that went on it.
    script: Option<ReplyPlace>,
    /// The last command that went on the lane.
    sent: Option<ReplyPlace>,
    /// The last answer that the session had before it came to its lane. What left on it earlier may be older than that.
    came: Time,
    /// What reads took that did not wait for a slow ear, since one last did.
    spared: Cell<Duration>,
}

impl Caller {
    /// A session that has asked nothing yet.
    pub fn new(replies: Rc<Replies>, who: Rc<Who>) -> Self {
        replies.member().is_now(who.user());
        Self {
            replies,
            who,
            resp: Resp::V2,
            track: None,
            scripts: false,
            script: None,
            sent: None,
            came: Time::ZERO,
            spared: Cell::default(),
        }
    }

    /// The session is someone else, or speaks another version: its next command goes on another lane. All its commands
    /// must have been answered.
    pub fn become_(&mut self, who: Rc<Who>, resp: Resp) {
        self.replies.member().is_now(who.user());
        self.who = who;
        self.resp = resp;
        self.track = None;
    }

    /// The next command goes on a lane for scripts, or on another. False where the session must wait for its own answers first.
    /// What comes behind an unanswered script of its own waits for that wherever it goes: so it follows it on the same lane.
    pub fn turn(&mut self, scripts: bool) -> bool {
        // Reads of a lane that was lost are sent again on another: what is sent now may not overtake them.
        let lost = self.track.as_ref().is_some_and(|track| !track.lane.is_open());
        if self.scripts != scripts || lost {
            let head = self.replies.head();
            let unanswered = |place: Option<ReplyPlace>| place.is_some_and(|place| place >= head);
            if !unanswered(self.sent) {
                self.scripts = scripts;
                self.track = None;
            } else if lost || scripts || !unanswered(self.script) {
                return false;
            }
        }
        if scripts {
            self.script = Some(self.replies.next());
        }
        true
    }

    /// Whether what it sent last went on a lane and is not answered.
    pub fn is_on_lane(&self) -> bool {
        self.sent.is_some_and(|place| place >= self.replies.head())
    }

    /// How this session's own reads of a key in this slot, and opaque writes of anybody that were acknowledged before `now`,
    /// stand to what L1 knows.
    pub fn standing(&self, l1: &L1, slot: Slot, now: Time) -> Standing {
        let heard = self.who.ear.heard_up_to();
        let due = l1.opaque_writes.due(now);
        match self.replies.standing(slot, heard) {
            Standing::Heard if due <= heard => Standing::Heard,
            Standing::Heard => Standing::Unheard(due),
            Standing::Unheard(answered) => Standing::Unheard(answered.max(due)),
            Standing::Unanswered => Standing::Unanswered,
        }
    }

    /// Remembers that the command at `place` reads keys in `slots` from Redis; `None` among them is any key.
    pub fn note_reads(&self, place: ReplyPlace, slots: impl Iterator<Item = Option<Slot>>) {
        let heard = self.who.ear.heard_up_to();
        let many = slots.fold(false, |_, slot| self.replies.note_read(place, slot, heard));
        if many {
            self.who.ear.nudge();
        }
    }

    /// The same of a write: what it changes itself is marked, and it may have read more.
    fn note_any_read(&self, place: ReplyPlace, spec: &Spec, request: Request<'_>) {
        if spec.reads_unnamed(request) {
            self.note_reads(place, iter::once(None));
        }
    }

    /// Returns once L1 knows what it has not heard yet. False: it is not known to, its lease is over, or a fence takes so much
    /// longer than Redis would that the read is better sent there. Who reads a key from Redis again and again would never be
    /// answered out of L1: so where what was sent there has taken as long as the fence would have, that is waited for. Cancel
    /// safe.
    pub async fn hear(&self, worker: &Worker, Unheard(since): Unheard) -> bool {
        let (ear, now) = (&self.who.ear, Time::now());
        if ear.heard_up_to() >= since {
            return true;
        }
        let (fence, miss) = (ear.fence_time(now), worker.front().lanes.round_trip(self.who.identity, self.resp));
        let worth = miss.saturating_mul(2).max(WORTH);
        let mut left = ear.freshness.lease_left(now);
        if fence <= worth {
            left = left.min(worth);
        } else if self.spared.get() < fence {
            self.spared.set(self.spared.get() + miss.max(QUICKEST));
            ear.nudge(); // so that it is known soon whether that is still so
            return false;
        } else {
            self.spared.set(Duration::ZERO);
        }
        matches!(timeout(left, ear.fence(since)).await, Ok(Ok(())))
    }

    /// Waits with a read of the same that another session of this lane has under way, where there is one that cannot be older than
    /// what this session has seen. On one lane Redis answers in order, so what is under way is newer than all that it has
    /// answered this session there. What the session had before from other connections, or may have had out of L1, counts
    /// however much the ear has heard since: it is told of no key that it has not read.
    pub fn join(&mut self, worker: &Rc<Worker>, spec: &Spec, query: &Query<'_>, now: Time) -> bool {
        let Ok(track) = self.track(worker, now) else { return false };
        let mut flights = track.flights.borrow_mut();
        if flights.is_empty() {
            return false;
        }
        let l1 = &worker.shared.l1;
        if self.replies.standing(query.slot, self.who.ear.heard_up_to()) == Standing::Unanswered {
            return false;
        }
        let since = now.minus(l1.terms.max_staleness).max(self.came).max(l1.arrivals.last(query.slot));
        let place = self.replies.next();
        let recipient = Recipient::new(&self.replies, place, Tally::new(spec, Outcome::Joined));
        if let Err(recipient) = flights.join(query, &l1.stamps, l1.opaque(), since, recipient) {
            recipient.withdraw();
            return false;
        }
        drop(flights);
        self.replies.reserve();
        self.note_reads(place, iter::once(Some(query.slot)));
        self.sent = Some(place);
        true
    }

    /// Sends a read that others may join and that may be promoted; one that was [`Miss::Hot`] should be, whatever the coin says.
    pub(super) fn lead(
        &mut self,
        worker: &Rc<Worker>,
        (spec, miss): (&Spec, Miss),
        request: Request<'_>,
        (query, rule): (&Query<'_>, RuleIndex),
        now: Time,
    ) {
        let place = self.replies.reserve();
        self.note_reads(place, iter::once(Some(query.slot)));
        let recipient = Recipient::new(&self.replies, place, Tally::new(spec, miss.outcome()));
        match self.track(worker, now) {
            Ok(track) => {
                self.sent = Some(place);
                let coin = worker.toss(worker.shared.promote(rule).one_in, miss == Miss::Hot, query);
                let reader = Reader::new(Rc::clone(&self.who), self.resp, self.scripts);
                track.lead((recipient, None), (reader, rule, coin), (request.raw(), query), now);
            }
            Err(error) => recipient.refuse(&worker.shared, &error, Sent::No),
        }
    }

    /// Sends a command that changes no key, on the lane.
    pub fn forward(&mut self, worker: &Rc<Worker>, spec: &Spec, request: Request<'_>, now: Time) {
        if spec.effect == Effect::Read {
            return self.read(worker, Tally::new(spec, Outcome::NotCached), (spec, request), Vec::new(), now);
        }
        let tally = Tally::new(spec, Outcome::Forwarded);
        self.send(worker, request.raw(), (self.replies.reserve(), tally), Work::Pass, now);
    }

    /// Sends a read that nobody joins; `fills` are asked for once it is answered.
    pub fn read(
        &mut self,
        worker: &Rc<Worker>,
        tally: Tally,
        (spec, request): (&Spec, Request<'_>),
        fills: Vec<Fill>,
        now: Time,
    ) {
        let place = self.replies.reserve();
        self.note_reads(place, slots_read(&worker.shared.l1.stamps, spec, request));
        let reader = Reader::new(Rc::clone(&self.who), self.resp, self.scripts);
        self.send(worker, request.raw(), (place, tally), Work::Read(reader, fills), now);
    }

    /// Sends a command that changes keys, known or not, on the lane.
    pub fn write(&mut self, worker: &Rc<Worker>, spec: &Spec, request: Request<'_>, now: Time) {
        let place = self.replies.reserve();
        self.replies.wrote(place);
        self.note_any_read(place, spec, request);
        let outcome = if spec.effect == Effect::Opaque { Outcome::Opaque } else { Outcome::Write };
        let recipient = Recipient::new(&self.replies, place, Tally::new(spec, outcome));
        let track = match self.track(worker, now) {
            Ok(track) => track,
            Err(error) => return recipient.refuse(&worker.shared, &error, Sent::No), // and nothing was marked
        };
        self.sent = Some(place);
        let Track { site, .. } = &*track;
        let guard = WriteGuard::begin(site, spec, request);
        let (command, work) = if worker.shared.l1.mode().writes_tell() {
            let (command, write) = notify(&site.shared.l1, guard, NoticeForm::of(site, spec, request), request.raw());
            (command, write.into())
        } else {
            (Cow::Borrowed(request.raw()), Work::Write(guard))
        };
        track.send(&command, InFlight::new(site, recipient, work, worker.stats.sample()), now);
    }

    fn send(
        &mut self,
        worker: &Rc<Worker>,
        command: &[u8],
        (place, tally): (ReplyPlace, Tally),
        work: Work,
        now: Time,
    ) {
        let recipient = Recipient::new(&self.replies, place, tally);
        match self.track(worker, now) {
            Ok(track) => {
                self.sent = Some(place);
                track.send(command, InFlight::new(&track.site, recipient, work, worker.stats.sample()), now);
            }
            Err(error) => recipient.refuse(&worker.shared, &error, Sent::No),
        }
    }

    /// The lane that the next command goes on: the same one as the last while that is unanswered.
    fn track(&mut self, worker: &Rc<Worker>, now: Time) -> Result<Rc<Track>, Error> {
        if let Some(track) = &self.track
            && track.lane.is_open()
            && (self.sent.is_some_and(|place| place >= self.replies.head()) || track.takes_more(now))
        {
            return Ok(Rc::clone(track));
        }
        let station = worker.front();
        if !Arc::ptr_eq(self.who.ear.node(), station.node()) {
            self.who = self.who.moved(&worker.shared, station.node()); // another node serves by now: nothing that was filled from the last counts
        }
        let track = station.track(&self.who, self.resp, self.scripts, now)?;
        self.came = self.replies.last_answer();
        self.track = Some(Rc::clone(&track));
        Ok(track)
    }

    /// Whether the lane has so much in flight that the session should wait for its own answers first.
    pub fn must_wait(&self, now: Time) -> bool {
        self.track.as_ref().is_some_and(|track| track.lane.is_open() && !track.takes_more(now))
            && !self.replies.is_settled()
    }

    /// Sends a command of crema's own on the lane; `work` takes its reply.
    pub fn ask(&mut self, worker: &Rc<Worker>, command: &[u8], work: Work, now: Time) {
        if let Ok(track) = self.track(worker, now) {
            track.ask(command, work, now);
        }
    }

    /// Returns when what was sent so far on a private connection would be answered unless Redis has it wait: a `moment` later
    /// something was asked on another connection, and once more when that was answered, for Redis looks at all connections in one
    /// turn, in any order. Or that cannot be asked.
    pub fn overtaken(&self, worker: &Rc<Worker>, moment: Duration) -> impl Future<Output = ()> + use<> {
        let (worker, who, resp) = (Rc::clone(worker), Rc::clone(&self.who), self.resp);
        async move {
            let mut question = Vec::new();
            encode::own_command(&mut question, &[b"PING"]);
            sleep(moment).await;
            for _ in 0..2 {
                let (told, reply) = oneshot::channel();
                let now = Time::now();
                let Ok(track) = worker.front().track(&who, resp, false, now) else { return };
                track.ask(&question, Work::Capture(Vec::new(), told), now);
                let _ = reply.await; // where it is lost, so is the other connection
            }
        }
    }

    /// Sends a command on a private connection, with the stamps of what it writes. Nothing may be unanswered on the lane.
    pub fn send_on(&mut self, lane: &OwnLane, spec: &Spec, request: Request<'_>, role: Role, now: Time) -> ReplyPlace {
        debug_assert!(!self.is_on_lane(), "a session changes connections only when all that it sent has been answered");
        self.track = None;
        let (place, site) = (self.replies.reserve(), &lane.site);
        let l1 = &site.shared.l1;
        let marks = match spec.effect {
            Effect::Read => {
                self.note_reads(place, slots_read(&l1.stamps, spec, request));
                None
            }
            Effect::Write | Effect::Opaque => {
                self.note_any_read(place, spec, request);
                let queued = matches!(role, Role::Queued);
                Some(if queued {
                    WriteGuard::begin_queued(site, spec, request)
                } else {
                    WriteGuard::begin(site, spec, request)
                })
            }
            Effect::None => None,
        };
        let (marks, extra, kind) = match role {
            Role::Alone => (marks, None, NoticeForm::of(site, spec, request)),
            Role::Apart | Role::Queued => (marks, None, NoticeForm::Pair),
            Role::Exec(extra) => (marks, extra, NoticeForm::Exec),
        };
        let (command, work) = match (marks, extra) {
            (None, None) => (Cow::Borrowed(request.raw()), Work::Pass),
            (marks, extra) => {
                self.replies.wrote(place);
                let mut all = marks.unwrap_or_else(|| WriteGuard::unmarked(site));
                if let Some(extra) = extra {
                    all.add(extra);
                }
                let (command, write) = notify(l1, all, kind, request.raw());
                (command, write.into())
            }
        };
        // What a command does that the table does not know, nobody can say: it may wait.
        let patient = spec.blocking(request) || matches!(spec.route, Route::Taint | Route::Session(Verb::Wait));
        let recipient = Recipient::new(&self.replies, place, Tally::new(spec, Outcome::Pinned));
        lane.put(&command, InFlight::new(site, recipient, work, None).patient(patient), now);
        place
    }

    /// Sends a read on a connection of the session's own; `fills` are asked for once it is answered. Nothing may be unanswered on
    /// the lane. Where the connection is lost the session ends, so it is sent once.
    pub fn read_on(&mut self, lane: &OwnLane, spec: &Spec, request: Request<'_>, fills: Vec<Fill>, now: Time) {
        debug_assert!(!self.is_on_lane(), "a session changes connections only when all that it sent has been answered");
        self.track = None;
        let place = self.replies.reserve();
        self.note_reads(place, slots_read(&lane.site.shared.l1.stamps, spec, request));
        let recipient = Recipient::new(&self.replies, place, Tally::new(spec, Outcome::Pinned));
        let work = Work::Read(Reader::once(Rc::clone(&self.who), self.resp), fills);
        lane.put(request.raw(), InFlight::new(&lane.site, recipient, work, None), now);
    }

    /// Sends a command on a private connection, to be answered as `work` says.
    pub fn send_work_on(&self, lane: &OwnLane, (spec, request): (&Spec, Request<'_>), work: Work, now: Time) {
        let recipient = Recipient::new(&self.replies, self.replies.reserve(), Tally::new(spec, Outcome::Pinned));
        lane.put(request.raw(), InFlight::new(&lane.site, recipient, work, None), now);
    }
}

/// What a command on a private connection is to a transaction.
pub enum Role {
    /// Nothing.
    Alone,
    /// Nothing, and another transaction would change what the connection is: the client watches keys, or what is on the
    /// connection is not followed.
    Apart,
    /// It is queued: what it does is done when `EXEC` is.
    Queued,
    /// It is `EXEC`, which does what these marks are of.
    Exec(Option<WriteGuard>),
}
