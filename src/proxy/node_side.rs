//! What a session has at one node: who it is there, its lane, and what of that is unanswered.
//!
//! A session's commands reach a node in order because they go on one connection until all of them are answered; only then does it
//! look for another lane there. Belongs to a [`Caller`](super::Caller), which has one for each node that it has spoken to.
//!
//! Holds contract point 2 (order).

use std::rc::Rc;
use std::sync::Arc;

use super::replies::Replies;
use super::reply_queue::ReplyPlace;
use super::seen_elsewhere::SeenElsewhere;
use super::track::Track;
use super::who::Who;
use super::worker::Worker;
use crate::clock::Time;
use crate::error::Error;
use crate::resp::Resp;
use crate::upstream::{Node, NodeIndex};

/// See the module's head.
pub(super) struct NodeSide {
    /// Who the session is, with its ear at this node.
    pub(super) who: Rc<Who>,
    track: Option<Rc<Track>>,
    /// What `track` is, or is to be.
    kind: LaneKind,
    /// What a replica must have reached, where any is read.
    pub(super) seen: SeenElsewhere,
    /// What the replica on whose lane it is had reached.
    reached: Time,
    /// The last script that went on it.
    script: Option<ReplyPlace>,
    /// The last command that went on the lane.
    sent: Option<ReplyPlace>,
    /// The last answer that the session had before it came to its lane. What left on it earlier may be older than that.
    came: Time,
}

/// Which of the lanes a session is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LaneKind {
    /// One to the node.
    Plain = 0,
    /// One to the node for scripts.
    Scripts = 1,
    /// One to a replica of the node.
    Replica = 2,
}

impl NodeSide {
    /// Of a session that has sent nothing there.
    pub(super) fn new(who: Rc<Who>) -> Self {
        let (kind, seen) = (LaneKind::Plain, SeenElsewhere::default());
        Self { who, track: None, kind, seen, reached: Time::ZERO, script: None, sent: None, came: Time::ZERO }
    }

    /// The session is someone else, or speaks another version.
    pub(super) fn become_(&mut self, who: Rc<Who>) {
        self.who = who;
        self.leave();
    }

    /// Its next command goes on another lane. All its commands must have been answered.
    pub(super) fn leave(&mut self) {
        self.track = None;
    }

    /// Whether it is on a lane for scripts.
    pub(super) fn is_for_scripts(&self) -> bool {
        self.kind == LaneKind::Scripts
    }

    /// The next command goes on a lane for scripts, or on another. False where the session must wait for its own answers first.
    /// What comes behind an unanswered script of its own waits for that wherever it goes: so it follows it on the same lane. On a lane
    /// to a replica what a replica `suits` may follow: where that goes is decided when it is sent.
    #[inline]
    pub(super) fn turn(&mut self, scripts: bool, suits: impl FnOnce() -> bool, replies: &Replies) -> bool {
        // Reads of a lane that was lost are sent again on another: what is sent now may not overtake them.
        let lost = self.track.as_ref().is_some_and(|track| !track.lane.is_open());
        if (self.kind as u8 != u8::from(scripts) || lost) && !self.changes_lanes(scripts, lost, suits, replies) {
            return false;
        }
        if scripts {
            self.script = Some(replies.next());
        }
        true
    }

    #[cold]
    fn changes_lanes(&mut self, scripts: bool, lost: bool, suits: impl FnOnce() -> bool, replies: &Replies) -> bool {
        if self.kind == LaneKind::Replica && !lost && suits() {
            return true;
        }
        let head = replies.head();
        let unanswered = |place: Option<ReplyPlace>| place.is_some_and(|place| place >= head);
        if unanswered(self.sent) {
            return !lost && !scripts && unanswered(self.script);
        }
        self.kind = if scripts { LaneKind::Scripts } else { LaneKind::Plain };
        self.track = None;
        true
    }

    /// The lane to a replica that it is on.
    pub(super) fn replica(&self) -> Option<&Rc<Track>> {
        self.track.as_ref().filter(|track| self.kind == LaneKind::Replica && track.lane.is_open())
    }

    /// Whether it comes to its lane anew: what it has seen last was on another connection.
    pub(super) fn comes_anew(&self) -> bool {
        self.track.is_none()
    }

    /// The next reads go on this lane to a replica, which has all that the node had at `reached`. Where it is another lane than the
    /// last, nothing may be unanswered.
    /// It must have reached `needed` at least: on the same lane that never becomes less.
    pub(super) fn read_at(&mut self, track: &Rc<Track>, needed: Time, reached: Time) {
        let stays = self.track.as_ref().is_some_and(|last| Rc::ptr_eq(last, track));
        self.kind = LaneKind::Replica;
        self.came = if stays { self.came.max(needed) } else { needed };
        self.reached = reached;
        self.track = Some(Rc::clone(track));
    }

    /// What left on its lane before that may be older than what the session has seen.
    pub(super) fn came(&self) -> Time {
        self.came
    }

    /// When a read that is sent at `now` leaves, to those who would join it: from a replica it brings what that had reached, at least.
    pub(super) fn left(&self, now: Time) -> Time {
        if self.kind == LaneKind::Replica { self.reached } else { now }
    }

    /// The next commands go to the node itself. Nothing may be unanswered at a replica.
    pub(super) fn leave_replica(&mut self, replies: &Replies) {
        debug_assert!(!self.waits_at_replica(replies), "what comes next would overtake what waits there");
        if self.kind == LaneKind::Replica {
            self.kind = LaneKind::Plain;
            self.track = None;
        }
    }

    /// Whether what it sent last went to a replica and is not answered.
    pub(super) fn waits_at_replica(&self, replies: &Replies) -> bool {
        self.kind == LaneKind::Replica && self.is_on_lane(replies)
    }

    /// The command at `place` has gone on the lane, or joined one that did.
    pub(super) fn sent(&mut self, place: ReplyPlace) {
        self.sent = Some(place);
    }

    /// Whether what it sent last went on the lane and is not answered.
    pub(super) fn is_on_lane(&self, replies: &Replies) -> bool {
        self.sent.is_some_and(|place| place >= replies.head())
    }

    /// The lane that the next command goes on: the same one as the last while that is unanswered.
    pub(super) fn track(
        &mut self,
        (worker, at): (&Worker, NodeIndex),
        (replies, resp): (&Replies, Resp),
        now: Time,
    ) -> Result<Rc<Track>, Error> {
        if let Some(track) = &self.track
            && track.lane.is_open()
            && (self.is_on_lane(replies) || track.takes_more(now))
        {
            return Ok(Rc::clone(track));
        }
        if let Some(track) = self.replica() {
            return Ok(Rc::clone(track)); // it took more when it was chosen, a moment ago
        }
        self.leave_replica(replies);
        let station = worker.station(at);
        self.move_to(worker, station.node());
        let track = station.track(&self.who, resp, self.is_for_scripts(), now)?;
        self.came = replies.last_answer();
        self.track = Some(Rc::clone(&track));
        Ok(track)
    }

    /// Goes over to the node that serves by now: where it is another, nothing that was filled from the last counts.
    pub(super) fn move_to(&mut self, worker: &Worker, node: &Arc<Node>) {
        if !Arc::ptr_eq(self.who.ear.node(), node) {
            self.who = self.who.moved(&worker.shared, node);
        }
    }

    /// Whether the lane has so much in flight that nothing more should be sent there.
    pub(super) fn is_crowded(&self, now: Time) -> bool {
        self.track.as_ref().is_some_and(|track| track.lane.is_open() && !track.takes_more(now))
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;
    use tokio::sync::{Notify, watch};
    use tokio::task::LocalSet;

    use super::super::shared::tests::{node, shared};
    use super::*;
    use crate::upstream::Topology;

    /// A session of a worker whose upstream is away.
    struct SessionBench {
        worker: Rc<Worker>,
        replies: Rc<Replies>,
        side: NodeSide,
        topologies: watch::Sender<Arc<Topology>>,
    }

    impl SessionBench {
        fn open(test: impl FnOnce(&mut Self)) {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            LocalSet::new().block_on(&runtime, async {
                let topologies = watch::Sender::new(Arc::new(Topology::Single(node())));
                let worker = Worker::new(shared(topologies.subscribe()), Arc::default());
                let member = worker.shared.clients.join("peer".to_owned(), &Arc::new(Notify::new()));
                let replies = Rc::new(Replies::new(1 << 20, member, Arc::clone(&worker.stats)));
                let side = NodeSide::new(Who::new(&worker.shared, worker.front().node(), None, 0));
                test(&mut Self { worker: Rc::clone(&worker), replies, side, topologies });
                worker.close();
                worker.tasks.wait().await;
            });
        }

        fn turn(&mut self, scripts: bool) -> bool {
            self.side.turn(scripts, || false, &self.replies)
        }

        fn track(&mut self) -> Rc<Track> {
            let at = (&*self.worker, NodeIndex::default());
            self.side.track(at, (&self.replies, Resp::V2), Time::now()).expect("a lane that is being made")
        }

        fn send(&mut self) -> (Rc<Track>, ReplyPlace) {
            let (track, place) = (self.track(), self.replies.reserve());
            self.side.sent(place);
            (track, place)
        }

        fn answer(&self, place: ReplyPlace) {
            self.replies.append(place, b"+OK\r\n", Some(Time::now()));
        }
    }

    #[test]
    fn a_session_changes_lanes_when_all_that_it_sent_is_answered() {
        SessionBench::open(|bench| {
            assert!(bench.turn(false));
            let (plain, place) = bench.send();
            assert!(bench.side.is_on_lane(&bench.replies) && !bench.turn(true));
            assert!(bench.turn(false) && Rc::ptr_eq(&bench.track(), &plain), "it stays meanwhile");
            bench.answer(place);
            assert!(!bench.side.is_on_lane(&bench.replies) && bench.turn(true));
            assert!(!Rc::ptr_eq(&bench.track(), &plain), "a lane for scripts");
            assert!(bench.side.came > Time::ZERO, "what left there before is older than what it has seen");
        });
    }

    #[test]
    fn behind_an_unanswered_script_of_its_own_a_session_follows_it() {
        SessionBench::open(|bench| {
            assert!(bench.turn(true));
            let (scripts, script) = bench.send();
            assert!(bench.turn(false) && Rc::ptr_eq(&bench.track(), &scripts));
            let (_, behind) = bench.send();
            bench.answer(script);
            assert!(!bench.turn(false), "the script is over, and what followed it is not");
            bench.answer(behind);
            assert!(bench.turn(false) && !Rc::ptr_eq(&bench.track(), &scripts));
        });
    }

    #[test]
    fn at_a_replica_what_it_has_seen_never_becomes_less() {
        SessionBench::open(|bench| {
            let (first, second) = (bench.track(), {
                bench.side.turn(true, || false, &bench.replies);
                bench.track()
            });
            bench.side.read_at(&first, Time::from_nanos(9), Time::from_nanos(9));
            bench.side.read_at(&first, Time::from_nanos(5), Time::from_nanos(12));
            assert_eq!(bench.side.came(), Time::from_nanos(9), "a read of another key needs less");
            bench.side.read_at(&second, Time::from_nanos(7), Time::from_nanos(7));
            assert_eq!(bench.side.came(), Time::from_nanos(7), "another lane");
            let place = bench.replies.reserve();
            bench.side.sent(place);
            assert!(bench.side.waits_at_replica(&bench.replies));
            bench.answer(place);
            assert!(!bench.side.waits_at_replica(&bench.replies));
        });
    }

    #[test]
    fn nothing_overtakes_what_is_sent_again_from_a_lane_that_was_lost() {
        SessionBench::open(|bench| {
            assert!(bench.turn(false));
            let (lost, place) = bench.send();
            lost.lane.lose("gone");
            assert!(!bench.turn(false));
            bench.answer(place);
            assert!(bench.turn(false) && !Rc::ptr_eq(&bench.track(), &lost));
        });
    }

    #[test]
    fn where_another_node_serves_by_now_its_ear_counts() {
        SessionBench::open(|bench| {
            let (before, other) = (bench.track(), node());
            bench.topologies.send_replace(Arc::new(Topology::Single(Arc::clone(&other))));
            let topology = Arc::clone(&bench.topologies.borrow());
            bench.worker.adopt(topology);
            assert!(!before.lane.is_open());
            assert!(bench.turn(false) && !Rc::ptr_eq(&bench.track(), &before));
            assert!(Arc::ptr_eq(bench.side.who.ear.node(), &other));
        });
    }
}
