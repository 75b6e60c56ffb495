//! Leads commands on their detours: for each session that has any, a task asks the map, waits, and sends them one after the other.
//!
//! What the order is, `detour_queue` decides; how often and how long, `detour`. The worker has the table of them; a task ends with the
//! last detour of its session, and drops what it has where the session or the worker ends first: what was not sent never is.
//!
//! Holds contract points 2 (order) and 7 (a write is sent once).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::detour::{ASKING, Detour, NextTry, SentCommand, Tries};
use super::detour_queue::{DetourQueue, DetourStep};
use super::in_flight::{InFlight, ReplyAction};
use super::notified_write::MarkedWrite;
use super::read_history::slots_read;
use super::reader::Reader;
use super::replies::Replies;
use super::reply_queue::ReplyPlace;
use super::returned::{ReplyPurpose, ReturnReason};
use super::site::Site;
use super::station::Station;
use super::who::Who;
use super::worker::Worker;
use crate::clock::Time;
use crate::command::{HashSlot, Route};
use crate::metrics::RedirectKind;
use crate::resp::{Resp, encode};
use crate::upstream::{ErrorLine, NodeIndex, Topology, named_node, with_node_at};

/// How long a node may take to say whether a redirect is its own.
const PROBE: Duration = Duration::from_secs(1);
/// How long a node is waited for that is not in the map yet.
pub(crate) const NEWCOMER: Duration = Duration::from_millis(100);
/// For so long after a redirect the sessions of a worker send one command at a time for its slot.
const UNSETTLED: Duration = Duration::from_secs(1);

/// No map has it.
const NO_VERSION: u64 = u64::MAX;

/// The detours of a worker's sessions, and the slots that seem to move.
#[derive(Default)]
pub(super) struct Pilots {
    sessions: RefCell<HashMap<*const Replies, Rc<Pilot>>>,
    unsettled: RefCell<Vec<(HashSlot, Time)>>,
    /// Whether any are.
    moving: Cell<bool>,
    /// That of the map that the worker goes by. Stays 0 where there is one node.
    version: Cell<u64>,
    /// The same, or [`NO_VERSION`] while slots seem to move or any session has detours: one number to be looked at by each command.
    calm: Cell<u64>,
    pub(super) stop: CancellationToken,
}

/// Where a command goes that was not carried out.
enum Destination {
    /// To this node, behind an `ASKING` or without.
    Node(NodeIndex, bool),
    /// Nowhere: it has been in vain for long enough.
    Nowhere,
    /// What looked like a redirect was the answer.
    Client,
}

/// The detours of one session.
struct Pilot {
    replies: Rc<Replies>,
    queue: RefCell<DetourQueue<Detour>>,
    /// Of what is under way.
    tries: Cell<Tries>,
    /// Something was answered, or came back.
    news: Rc<Notify>,
}

impl Pilots {
    /// The worker goes by this version of the map from now on.
    pub(super) fn go_by(&self, version: u64) {
        self.version.set(version);
        self.look();
    }

    /// The number of that version.
    pub(super) fn version(&self) -> u64 {
        self.version.get()
    }

    /// Whether the map is of this version, no slot seems to move, and no session of the worker has detours.
    #[inline]
    pub(super) fn is_calm_since(&self, version: u64) -> bool {
        self.calm.get() == version
    }

    fn look(&self) {
        let calm = !self.moving.get() && self.sessions.borrow().is_empty();
        self.calm.set(if calm { self.version.get() } else { NO_VERSION });
    }

    /// Whether commands for this slot go one at a time: it seems to move.
    pub(super) fn is_unsettled(&self, slot: impl FnOnce() -> Option<HashSlot>, now: Time) -> bool {
        if !self.moving.get() {
            return false;
        }
        let unsettled = &mut *self.unsettled.borrow_mut();
        unsettled.retain(|(_, until)| *until > now);
        if unsettled.is_empty() {
            self.moving.set(false);
            self.look();
        }
        slot().is_some_and(|slot| unsettled.iter().any(|(moving, _)| *moving == slot))
    }

    fn unsettle(&self, slot: HashSlot, now: Time) {
        let unsettled = &mut *self.unsettled.borrow_mut();
        unsettled.retain(|(moving, until)| *moving != slot && *until > now);
        unsettled.push((slot, now.plus(UNSETTLED)));
        self.moving.set(true);
        self.look();
    }

    /// The command of a session that has detours was carried out at `place`.
    pub(super) fn carried_out(&self, replies: &Rc<Replies>, place: ReplyPlace, bytes: &[u8]) {
        if let Some(pilot) = self.sessions.borrow().get(&Rc::as_ptr(replies)) {
            let mut spans = Vec::new();
            let slot = SentCommand::read(bytes, &mut spans).and_then(|sent| sent.slot());
            pilot.queue.borrow_mut().carried_out(place, slot);
        }
    }
}

impl Worker {
    /// Takes a command that was not carried out, for one session.
    pub(super) fn detour(self: &Rc<Self>, mut detour: Detour, slot: Option<HashSlot>) {
        let (replies, place) = (Rc::clone(detour.recipient.replies()), detour.recipient.place());
        self.stats.redirected(detour.kind());
        if let (RedirectKind::Ask | RedirectKind::TryAgain, Some(slot)) = (detour.kind(), slot) {
            self.pilots.unsettle(slot, Time::now());
        }
        let known = self.pilots.sessions.borrow().get(&Rc::as_ptr(&replies)).cloned();
        let pilot = known.unwrap_or_else(|| self.pilot(&replies, detour.tries));
        let queue = &mut *pilot.queue.borrow_mut();
        if queue.is_under_way(place) {
            detour.tries = pilot.tries.get();
        } else if queue.is_over(|place| replies.is_answered(place)) {
            *queue = DetourQueue::new(replies.next()); // the session has gone on, and the task does not know yet
        }
        queue.redirected(place, slot, detour);
        pilot.news.notify_one();
    }

    fn pilot(self: &Rc<Self>, replies: &Rc<Replies>, tries: Tries) -> Rc<Pilot> {
        let (queue, news) = (RefCell::new(DetourQueue::new(replies.next())), replies.begin_detour());
        let pilot = Rc::new(Pilot { replies: Rc::clone(replies), queue, tries: Cell::new(tries), news });
        self.pilots.sessions.borrow_mut().insert(Rc::as_ptr(replies), Rc::clone(&pilot));
        self.pilots.look();
        let (worker, task) = (Rc::clone(self), Rc::clone(&pilot));
        self.tasks.spawn_local(async move {
            let stop = worker.pilots.stop.clone();
            let _ = stop.run_until_cancelled(worker.lead(&task)).await;
            worker.pilots.sessions.borrow_mut().remove(&Rc::as_ptr(&task.replies));
            worker.pilots.look();
            task.replies.end_detour();
        });
        pilot
    }

    /// Returns when nothing of a session is on a detour any more.
    async fn lead(self: &Rc<Self>, pilot: &Pilot) {
        let replies = &pilot.replies;
        while replies.ended().is_none() {
            let step = pilot.queue.borrow_mut().next(|place| replies.is_answered(place));
            match step {
                DetourStep::Over => return,
                DetourStep::Wait => pilot.news.notified().await,
                DetourStep::Refuse(detour) => detour.refuse(),
                DetourStep::Send(detour) if replies.is_cut(detour.recipient.place()) => drop(detour),
                DetourStep::Send(mut detour) => match self.target(&mut detour).await {
                    Destination::Node(..) if replies.ended().is_some() => return,
                    Destination::Node(at, asking) => {
                        pilot.tries.set(detour.tries);
                        self.send_on(detour, (at, asking));
                    }
                    Destination::Nowhere => detour.give_up(),
                    Destination::Client => detour.refuse(),
                },
            }
        }
    }

    /// Where it goes next.
    async fn target(self: &Rc<Self>, detour: &mut Detour) -> Destination {
        let bytes = Rc::clone(&detour.bytes);
        let mut spans = Vec::new();
        let Some(sent) = SentCommand::read(&bytes, &mut spans) else { return Destination::Client };
        let (slot, kind) = (sent.slot(), detour.kind());
        if kind != RedirectKind::Lost && sent.speaks_for_itself() && !self.confirms(detour, kind, &sent).await {
            return Destination::Client;
        }
        if let (RedirectKind::Moved, Some(slot)) = (kind, slot) {
            self.shared.l1.slot_left(slot);
        }
        let next = detour.tries.next(kind, self.shared.config.cluster.wait, Time::now());
        let named = match &detour.why {
            ReturnReason::Redirect(Some(RedirectKind::Ask), line) => {
                named_node(line, &self.shared.config.cluster.node_map, &detour.site.node.endpoint)
            }
            _ => None,
        };
        match next {
            NextTry::GiveUp => return Destination::Nowhere,
            NextTry::Now => {}
            NextTry::After(pause) => sleep(pause).await,
            NextTry::Elsewhere(pause) => {
                if self.serves(slot, &detour.site) {
                    self.shared.map.ask_anew();
                    self.await_other(slot, &detour.site, pause).await;
                }
            }
        }
        if let Some(named) = named {
            if self.topology().place_of(&named).is_none() {
                self.shared.map.ask_anew();
                let newer = with_node_at(&named, &mut self.shared.topology.clone(), NEWCOMER).await;
                self.adopt_newer(newer);
            }
            if let Some(at) = self.topology().place_of(&named) {
                return Destination::Node(at, true);
            }
        }
        Destination::Node(self.topology().serving_slot(slot), false)
    }

    /// Whether the map says that this node serves the slot.
    fn serves(&self, slot: Option<HashSlot>, site: &Site) -> bool {
        serves(&self.topology(), slot, site)
    }

    /// Waits until the map names another node for the slot, or for so long.
    async fn await_other(self: &Rc<Self>, slot: Option<HashSlot>, site: &Site, longest: Duration) {
        let mut topology = self.shared.topology.clone();
        let changed = topology.wait_for(|topology| !serves(topology, slot, site));
        if let Ok(Ok(newer)) = timeout(longest, changed).await {
            let newer = Arc::clone(&newer);
            self.adopt_newer(newer);
        }
    }

    /// Whether the node says of its own accord that the command is not its own. A script can answer with a redirect after it has
    /// written, and so can what nobody knows; what only looks whether the same keys are there cannot.
    async fn confirms(&self, detour: &Detour, kind: RedirectKind, sent: &SentCommand<'_>) -> bool {
        if sent.slot().is_none() || kind == RedirectKind::ReadOnly {
            return false;
        }
        if kind == RedirectKind::Moved && !self.serves(sent.slot(), &detour.site) {
            return true;
        }
        let Some(station) = self.station_of(&detour.site) else { return false };
        let keys = sent.spec.keys(sent.request);
        let words: Vec<&[u8]> = std::iter::once(&b"EXISTS"[..]).chain(keys).collect();
        let mut question = Vec::new();
        if detour.asking {
            question.extend_from_slice(ASKING);
        }
        encode::own_command(&mut question, &words);
        let who = Who::new(&self.shared, station.node(), station.node().login(), detour.caller.0.db);
        let now = Time::now();
        let Ok(track) = station.track(&who, Resp::V2, false, now) else { return false };
        let (told, reply) = oneshot::channel();
        let pending = InFlight::own(&track.site, ReplyAction::Capture(Vec::new(), told));
        track.send(&question, if detour.asking { pending.asking() } else { pending }, now);
        let Ok(Ok(reply)) = timeout(PROBE, reply).await else { return false };
        ErrorLine::of(&reply, true) == ErrorLine::Redirect(kind)
    }

    /// The station of a site, as long as its node is in the map.
    fn station_of(&self, site: &Rc<Site>) -> Option<Rc<Station>> {
        Some(self.station(site.index())).filter(|station| Rc::ptr_eq(&station.site, site))
    }

    /// Sends it to a node, on the lane of its session's identity there.
    fn send_on(self: &Rc<Self>, detour: Detour, (at, asking): (NodeIndex, bool)) {
        let Detour { recipient, purpose, bytes, caller: (who, resp), start, .. } = detour;
        let mut spans = Vec::new();
        let Some(sent) = SentCommand::read(&bytes, &mut spans) else { return };
        let (station, now) = (self.station(at), Time::now());
        let there = Arc::ptr_eq(who.ear.node(), station.node());
        let who = if there { who } else { who.moved(&self.shared, station.node()) };
        let scripts = sent.spec.route == Route::ScriptLane;
        let action = match purpose {
            ReplyPurpose::Pass => ReplyAction::Pass,
            ReplyPurpose::Read(..) | ReplyPurpose::Lead(..) => {
                let heard = who.ear.heard_up_to();
                for slot in slots_read(&self.shared.l1.memory.stamps, sent.spec, sent.request) {
                    recipient.replies().note_read(at, recipient.place(), slot, heard);
                }
                ReplyAction::Read(Reader::new(Rc::clone(&who), resp, scripts), Vec::new())
            }
            ReplyPurpose::Write(mut write) => {
                if let MarkedWrite::WithNotice(write) = &mut write {
                    write.start_over();
                }
                write.into()
            }
        };
        let mut pending = InFlight::new(&station.site, recipient, action, start);
        pending.set_caller(&who, resp);
        let pending = if asking { pending.asking() } else { pending };
        let bytes = if asking { [ASKING, &bytes].concat().into() } else { bytes };
        match station.track(&who, resp, scripts, now) {
            Ok(track) => track.send(&bytes, pending, now),
            Err(error) => station.fail_unsent(pending, &bytes, &error),
        }
    }
}

/// Whether this version says that the node of `site` serves the slot, or what has none.
fn serves(topology: &Topology, slot: Option<HashSlot>, site: &Site) -> bool {
    let at = topology.serving_slot(slot);
    topology.node(at).is_some_and(|node| Arc::ptr_eq(node, &site.node))
}
