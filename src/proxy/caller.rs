//! What the proxy knows of one session: who it is, what it has at each node, and which of its reads and writes are unanswered.
//!
//! Holds contract points 2 (order) and 4 (others' writes soon).

use std::cell::Cell;
use std::iter;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::finding::Miss;
use super::in_flight::ReplyAction;
use super::live::RuleIndex;
use super::node_side::NodeSide;
use super::read_history::KeyStatus;
use super::reader::Reader;
use super::recipient::{Recipient, Tally};
use super::replies::Replies;
use super::reply_queue::ReplyPlace;
use super::track::Track;
use super::who::Who;
use super::worker::Worker;
use crate::cache::{Query, Slot};
use crate::clock::Time;
use crate::command::{Effect, HashSlot, Route, Spec};
use crate::error::Error;
use crate::invalidation::{Ear, Fill, L1};
use crate::metrics::Outcome;
use crate::resp::{Request, Resp, encode};
use crate::upstream::NodeIndex;

/// See the module's head.
pub(crate) struct Caller {
    /// Where the replies go.
    pub replies: Rc<Replies>,
    /// Who asks.
    pub who: Rc<Who>,
    /// The protocol version that the client speaks.
    pub resp: Resp,
    /// At the node in the first place, mostly the only one.
    first: NodeSide,
    /// At the nodes behind it, as far as it has spoken to them.
    others: Vec<NodeSide>,
    /// The version of the map by which it last sent something; 0 where there is one node.
    version: u64,
    /// What reads took that did not wait for a slow ear, since one last did.
    pub(super) spared: Cell<Duration>,
}

impl Caller {
    /// A session that has asked nothing yet.
    pub(crate) fn new(replies: Rc<Replies>, who: Rc<Who>) -> Self {
        replies.member().is_now(who.user());
        let first = NodeSide::new(Rc::clone(&who));
        Self { replies, who, resp: Resp::V2, first, version: 0, others: Vec::new(), spared: Cell::default() }
    }

    /// The session is someone else, or speaks another version: its next command goes on another lane. All its commands
    /// must have been answered.
    pub(crate) fn become_(&mut self, who: Rc<Who>, resp: Resp) {
        self.replies.member().is_now(who.user());
        self.first.become_(Rc::clone(&who));
        self.others.clear();
        self.who = who;
        self.resp = resp;
    }

    /// Which node serves this request. What the session has there is there from now on.
    #[inline]
    pub(super) fn served_at(&mut self, worker: &Worker, spec: &Spec, request: Request<'_>) -> NodeIndex {
        let at = worker.serving(spec, request);
        self.be_at(worker, at);
        at
    }

    /// The same for a read of one key, which has this hash.
    #[inline]
    pub(super) fn read_served_at(&mut self, worker: &Worker, hash: u64, request: Request<'_>) -> NodeIndex {
        let at = worker.serving_read(hash, || request.arg(1));
        self.be_at(worker, at);
        at
    }

    /// The same for one key.
    #[inline]
    pub(super) fn key_served_at(&mut self, worker: &Worker, key: &[u8]) -> NodeIndex {
        let at = worker.serving_key(key);
        self.be_at(worker, at);
        at
    }

    /// The same for a slot.
    pub(super) fn slot_served_at(&mut self, worker: &Worker, slot: HashSlot) -> NodeIndex {
        let at = worker.node_of(Some(slot));
        self.be_at(worker, at);
        at
    }

    /// What the session has at this node is there from now on.
    #[inline]
    pub(crate) fn be_at(&mut self, worker: &Worker, at: NodeIndex) {
        if at.number() > self.others.len() {
            self.speak_to(worker, at);
        }
    }

    /// Who it is at a node.
    pub(super) fn who_at(&self, at: NodeIndex) -> Rc<Who> {
        Rc::clone(&self.side(at).who)
    }

    #[cold]
    fn speak_to(&mut self, worker: &Worker, at: NodeIndex) {
        for n in self.others.len() + 1..=at.number() {
            let station = worker.station(NodeIndex::nth(n));
            self.others.push(NodeSide::new(self.who.moved(&worker.shared, station.node())));
        }
    }

    /// What it has at a node. Of a place that none has any more, what it has at the first.
    pub(super) fn side(&self, at: NodeIndex) -> &NodeSide {
        at.number().checked_sub(1).and_then(|n| self.others.get(n)).unwrap_or(&self.first)
    }

    /// The same, to be changed, with what its changes depend on.
    pub(super) fn side_mut(&mut self, at: NodeIndex) -> (&mut NodeSide, &Replies) {
        let Self { first, others, replies, .. } = self;
        (at.number().checked_sub(1).and_then(|n| others.get_mut(n)).unwrap_or(first), replies)
    }

    fn sides(&self) -> impl Iterator<Item = &NodeSide> {
        iter::once(&self.first).chain(&self.others)
    }

    /// Its user's ear at a node.
    pub(super) fn ear(&self, at: NodeIndex) -> &Arc<Ear> {
        &self.side(at).who.ear
    }

    /// The next command goes to this node, on a lane for scripts or on another. False where the session must wait for its own
    /// answers first.
    #[inline]
    pub(super) fn turn(
        &mut self,
        (worker, at): (&Worker, NodeIndex),
        spec: &Spec,
        request: Request<'_>,
        now: Time,
    ) -> bool {
        let slot = || spec.keys(request).next().map(HashSlot::of);
        let suits = || spec.suits_replica(request);
        self.turn_for((worker, at), slot, (spec.route == Route::ScriptLane, suits), now)
    }

    /// The same, where the slot of its keys is known; with whether it suits a replica.
    #[inline]
    pub(super) fn turn_for(
        &mut self,
        (worker, at): (&Worker, NodeIndex),
        slot: impl Fn() -> Option<HashSlot>,
        (scripts, suits): (bool, impl FnOnce() -> bool),
        now: Time,
    ) -> bool {
        if !worker.pilots.is_calm_since(self.version) && !self.keeps_order(worker, slot, now) {
            return false;
        }
        let (side, replies) = self.side_mut(at);
        side.turn(scripts, suits, replies)
    }

    /// Whether the next command cannot come before one that was sent to another node for its slot: all is answered where the map is
    /// another than it was then, where something is sent again, or where the slot seems to move.
    #[cold]
    fn keeps_order(&mut self, worker: &Worker, slot: impl Fn() -> Option<HashSlot>, now: Time) -> bool {
        let apart = self.replies.is_detoured()
            || self.version != worker.pilots.version()
            || worker.pilots.is_unsettled(slot, now);
        if apart && self.is_on_lane() {
            return false;
        }
        self.version = worker.pilots.version();
        true
    }

    /// Whether something that it sent went on a lane and is not answered.
    pub(crate) fn is_on_lane(&self) -> bool {
        self.sides().any(|side| side.is_on_lane(&self.replies))
    }

    /// Whether something that it sent went to a replica and is not answered: what goes to the master now would overtake it.
    pub(crate) fn waits_at_replica(&self) -> bool {
        self.sides().any(|side| side.waits_at_replica(&self.replies))
    }

    /// How this session's own reads of a key in this slot, and opaque writes of anybody that were acknowledged before `now`,
    /// stand to what L1 knows.
    #[inline]
    pub(super) fn key_status(&self, at: NodeIndex, (l1, ear): (&L1, &Ear), slot: Slot, now: Time) -> KeyStatus {
        let heard = ear.heard_up_to();
        let due = l1.opaque_writes.due(now);
        match self.replies.key_status(at, slot, heard) {
            KeyStatus::Heard if due <= heard => KeyStatus::Heard,
            KeyStatus::Heard => KeyStatus::Unheard(due),
            KeyStatus::Unheard(answered) => KeyStatus::Unheard(answered.max(due)),
            KeyStatus::Unanswered => KeyStatus::Unanswered,
        }
    }

    /// Remembers that the command at `place` reads keys in `slots` from the node at `at`; `None` among them is any key.
    pub(crate) fn note_reads(&self, at: NodeIndex, place: ReplyPlace, slots: impl Iterator<Item = Option<Slot>>) {
        let ear = self.ear(at);
        let heard = ear.heard_up_to();
        let many = slots.fold(false, |_, slot| self.replies.note_read(at, place, slot, heard));
        if many {
            ear.nudge();
        }
    }

    /// The same of a write: what it changes itself is marked, and it may have read more.
    pub(super) fn note_any_read(&self, at: NodeIndex, place: ReplyPlace, spec: &Spec, request: Request<'_>) {
        if spec.reads_unnamed(request) {
            self.note_reads(at, place, iter::once(None));
        }
    }

    /// Waits with a read of the same that another session of this lane has under way, where there is one that cannot be older than
    /// what this session has seen. On one lane Redis answers in order, so what is under way is newer than all that it has
    /// answered this session there. What the session had before from other connections, or may have had out of L1, counts
    /// however much the ear has heard since: it is told of no key that it has not read.
    pub(super) fn join(&mut self, worker: &Worker, at: NodeIndex, spec: &Spec, query: &Query<'_>, now: Time) -> bool {
        let Ok(track) = self.track((worker, at), now) else { return false };
        let mut flights = track.flights.borrow_mut();
        if flights.is_empty() {
            return false;
        }
        let l1 = &worker.shared.l1;
        if self.replies.key_status(at, query.slot, self.ear(at).heard_up_to()) == KeyStatus::Unanswered {
            return false;
        }
        let since =
            now.minus(l1.terms.max_staleness.get()).max(self.side(at).came()).max(l1.memory.arrivals.last(query.slot));
        let place = self.replies.next();
        let recipient = Recipient::new(&self.replies, place, Tally::new(spec, Outcome::Joined));
        if let Err(recipient) = flights.join(query, &l1.memory.stamps, l1.opaque(), since, recipient) {
            recipient.withdraw();
            return false;
        }
        drop(flights);
        self.replies.reserve();
        self.note_reads(at, place, iter::once(Some(query.slot)));
        self.side_mut(at).0.sent(place);
        true
    }

    /// Sends a read that others may join and that may be promoted; one that was [`Miss::Hot`] should be, whatever the coin says.
    pub(super) fn lead(
        &mut self,
        (worker, at): (&Worker, NodeIndex),
        (spec, miss): (&Spec, Miss),
        request: Request<'_>,
        (query, rule): (&Query<'_>, RuleIndex),
        (left, now): (Time, Time),
    ) {
        let place = self.replies.reserve();
        self.note_reads(at, place, iter::once(Some(query.slot)));
        let recipient = Recipient::new(&self.replies, place, Tally::new(spec, miss.outcome()));
        match self.track((worker, at), now) {
            Ok(track) => {
                self.side_mut(at).0.sent(place);
                let coin = worker.toss(worker.settings.promote(rule).one_in, miss == Miss::Hot, query);
                let reader = self.reader(at);
                track.lead((recipient, None), (reader, coin), (request.raw(), query), (left, now));
            }
            Err(error) => {
                let action = ReplyAction::Read(self.reader(at), Vec::new());
                self.unsent((worker, at), recipient, action, request.raw(), &error);
            }
        }
    }

    /// Sends a command that changes no key, on the lane.
    pub(crate) fn forward(&mut self, worker: &Worker, spec: &Spec, request: Request<'_>, now: Time) {
        let at = self.served_at(worker, spec, request);
        let (side, replies) = self.side_mut(at);
        side.leave_replica(replies);
        self.pass_on((worker, at), spec, request, now);
    }

    /// The same, where it is known which node serves it.
    pub(super) fn pass_on(&mut self, (worker, at): (&Worker, NodeIndex), spec: &Spec, request: Request<'_>, now: Time) {
        if spec.effect == Effect::Read {
            return self.read((worker, at), Tally::new(spec, Outcome::NotCached), (spec, request), Vec::new(), now);
        }
        let place = self.replies.reserve();
        let recipient = Recipient::new(&self.replies, place, Tally::new(spec, Outcome::Forwarded));
        self.put((worker, at), request.raw(), (place, recipient), ReplyAction::Pass, now);
    }

    /// Sends a read that nobody joins; `fills` are asked for once it is answered.
    pub(super) fn read(
        &mut self,
        (worker, at): (&Worker, NodeIndex),
        tally: Tally,
        (spec, request): (&Spec, Request<'_>),
        fills: Vec<Fill>,
        now: Time,
    ) {
        let place = self.replies.reserve();
        let recipient = Recipient::new(&self.replies, place, tally);
        self.put_read((worker, at), (spec, request), (place, recipient), fills, now);
    }

    /// Sends a command that changes keys, known or not, on the lane.
    pub(super) fn write(&mut self, (worker, at): (&Worker, NodeIndex), spec: &Spec, request: Request<'_>, now: Time) {
        let place = self.replies.reserve();
        self.replies.wrote(place);
        self.note_any_read(at, place, spec, request);
        let outcome = if spec.effect == Effect::Opaque { Outcome::Opaque } else { Outcome::Write };
        let recipient = Recipient::new(&self.replies, place, Tally::new(spec, outcome));
        self.put_write((worker, at), (spec, request), (place, recipient), now);
    }

    pub(super) fn track(&mut self, (worker, at): (&Worker, NodeIndex), now: Time) -> Result<Rc<Track>, Error> {
        let resp = self.resp;
        let (side, replies) = self.side_mut(at);
        side.track((worker, at), (replies, resp), now)
    }

    pub(super) fn reader(&self, at: NodeIndex) -> Reader {
        let side = self.side(at);
        Reader::new(Rc::clone(&side.who), self.resp, side.is_for_scripts())
    }

    /// Whether a lane has so much in flight that the session should wait for its own answers first.
    #[inline]
    pub(crate) fn must_wait(&self, now: Time) -> bool {
        !self.replies.is_settled() && self.sides().any(|side| side.is_crowded(now))
    }

    /// Sends a command of crema's own on the lane at the front; `action` takes its reply.
    pub(crate) fn ask(&mut self, worker: &Worker, command: &[u8], action: ReplyAction, now: Time) {
        let at = worker.front_index();
        let (side, replies) = self.side_mut(at);
        side.leave_replica(replies);
        if let Ok(track) = self.track((worker, at), now) {
            track.ask(command, action, now);
        }
    }

    /// Its next command on a lane goes on another one, at whichever node.
    pub(super) fn leave_lanes(&mut self) {
        self.first.leave();
        self.others.iter_mut().for_each(NodeSide::leave);
    }

    /// Returns when what was sent so far on a private connection would be answered unless Redis has it wait: a `moment` later
    /// something was asked on another connection, and once more when that was answered, for Redis looks at all connections in one
    /// turn, in any order. Or that cannot be asked.
    pub(crate) fn overtaken(&self, worker: &Rc<Worker>, moment: Duration) -> impl Future<Output = ()> + use<> {
        let (worker, who, resp) = (Rc::clone(worker), Rc::clone(&self.who), self.resp);
        async move {
            let mut question = Vec::new();
            encode::own_command(&mut question, &[b"PING"]);
            sleep(moment).await;
            for _ in 0..2 {
                let (told, reply) = oneshot::channel();
                let now = Time::now();
                let Ok(track) = worker.front().track(&who, resp, false, now) else { return };
                track.ask(&question, ReplyAction::Capture(Vec::new(), told), now);
                let _ = reply.await; // where it is lost, so is the other connection
            }
        }
    }
}
