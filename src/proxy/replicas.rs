//! Reads from replicas: which lane a read goes on where replicas may answer, and what a worker has at them.
//!
//! A replica in its lease is as good as a read that left when its master was asked for the offset that it has reached: whoever might
//! join such a read under way may read there. So a replica must have reached whatever this process wrote of the key, and whatever the
//! session, or anybody out of L1, has seen of it; else the master is asked. A session is on one lane at a time: what comes behind its
//! unanswered reads at a replica, and may not go there, waits for them. L1 is not filled from here: a promotion is read at the master,
//! on the ear, as ever.
//!
//! Nobody waits for a replica's connection, and what waits there when its lease ends is asked of the master.
//!
//! Holds contract points 2 (order), 3 (own writes), 4 (others' writes soon) and 8 (no leaks).

use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use super::caller::Caller;
use super::node_side::NodeSide;
use super::parts::SlotPart;
use super::read_history::{KeyStatus, slots_read};
use super::replies::Replies;
use super::site::Site;
use super::station::Station;
use super::track::Track;
use super::who::Who;
use super::worker::Worker;
use crate::cache::{OwnWrites, Slot};
use crate::clock::Time;
use crate::command::{HashSlot, Spec};
use crate::metrics::ReadRole;
use crate::resp::{Request, Resp};
use crate::upstream::{LeasedReplica, Node, NodeIndex, ReplicaLeases, STALL};

/// What a read is about, as far as it decides whether a replica may answer it.
struct KeysRead<'a> {
    /// It reads what it names, and nothing of one node's own.
    suits: bool,
    /// Its keys; none stands for any.
    slots: &'a [Option<Slot>],
    /// Their slots in a cluster.
    hash_slots: &'a [HashSlot],
}

/// Whether the reply to a read of so many keys tells that one is missing, where the master is to be asked then: of several, not.
fn shows_absence(worker: &Worker, keys: usize) -> bool {
    keys <= 1 || !worker.is_cluster() && worker.shared.l1.terms.beyond.is_none()
}

/// A lane to a replica that may answer.
struct ReplicaChoice {
    track: Rc<Track>,
    /// What the replica had to have reached.
    needed: Time,
    /// And has.
    reached: Time,
}

/// Which moments of its master a replica must have reached: one at which the session reads already, or another.
#[derive(Clone, Copy)]
struct MomentsNeeded {
    where_it_reads: Time,
    elsewhere: Time,
    /// And since when rights count that were compared.
    rights: Time,
}

impl Caller {
    /// Chooses the lane of a read that is about to be sent. False where the session must wait for its own answers first.
    pub(super) fn choose(
        &mut self,
        (worker, at): (&Worker, NodeIndex),
        spec: &Spec,
        request: Request<'_>,
        now: Time,
    ) -> bool {
        let stamps = &worker.shared.l1.memory.stamps;
        let slots: SmallVec<[Option<Slot>; 4]> = slots_read(stamps, spec, request).collect();
        let hash_slot = spec.keys(request).next().filter(|_| worker.is_cluster()).map(HashSlot::of);
        let suits = spec.suits_replica(request) && shows_absence(worker, spec.keys(request).count());
        let keys = KeysRead { suits, slots: &slots, hash_slots: hash_slot.as_slice() };
        self.choose_for((worker, at), &keys, now)
    }

    /// The same for a read in parts, at all nodes to which these go.
    pub(super) fn choose_for_parts(
        &mut self,
        worker: &Worker,
        suits: bool,
        (parts, nodes): (&[SlotPart], &[NodeIndex]),
        now: Time,
    ) -> bool {
        let stamps = &worker.shared.l1.memory.stamps;
        let mut chosen: SmallVec<[NodeIndex; 8]> = SmallVec::new();
        for &at in nodes {
            if chosen.contains(&at) {
                continue;
            }
            chosen.push(at);
            let here = || parts.iter().zip(nodes).filter(|&(_, &node)| node == at).map(|(part, _)| part);
            let slots: Vec<_> = here().flat_map(|part| part.stamp_slots(stamps)).map(Some).collect();
            let hash_slots: Vec<_> = here().map(SlotPart::slot).collect();
            let suits = suits && here().all(|part| shows_absence(worker, part.keys()));
            if !self.choose_for((worker, at), &KeysRead { suits, slots: &slots, hash_slots: &hash_slots }, now) {
                return false;
            }
        }
        true
    }

    fn choose_for(&mut self, (worker, at): (&Worker, NodeIndex), keys: &KeysRead<'_>, now: Time) -> bool {
        let Some(own) = worker.shared.l1.own_writes() else { return true };
        let station = worker.station(at);
        let (board, heard, resp) = (&station.node().replicas, self.ear(at).heard_up_to(), self.resp);
        let leases = board.leases();
        let (side, replies) = self.side_mut(at);
        side.move_to(worker, station.node());
        let (busy, on) = (side.is_on_lane(replies), side.replica().cloned());
        let unanswered =
            |slot: &Option<Slot>| slot.is_none_or(|slot| replies.key_status(at, slot, heard) == KeyStatus::Unanswered);
        if busy && on.is_some() && keys.slots.iter().any(unanswered) {
            return false; // of two reads of a key the second is never sent before the first is answered: one may go on to the master
        }
        if on.is_none() {
            side.seen.comes(if side.comes_anew() { replies.last_answer() } else { side.came() });
        }
        let may = keys.suits
            && !worker.shared.l1.is_shared()
            && !side.is_for_scripts()
            && !replies.behind_write()
            && (!busy || on.is_some());
        let chosen = may.then(|| {
            let mut needed = moments_needed((worker, own, at), (side, replies), keys, now);
            if on.is_some() {
                needed.elsewhere = needed.elsewhere.max(replies.last_answer()); // what this replica said another must have, too
            }
            let turn = Rc::as_ptr(&side.who) as usize >> 6;
            worker.replica_lane((&station, on.as_ref(), turn), &leases, keys, needed, (&side.who, resp), now)
        });
        if keys.suits {
            let user = named(side.who.user());
            board.want(user, leases.replicas.iter().all(|lease| lease.serves(user, Time::ZERO)), now);
        }
        let stays = |track: &Rc<Track>| on.as_ref().is_some_and(|on| Rc::ptr_eq(track, on));
        match chosen.flatten() {
            Some(choice) if !busy || stays(&choice.track) => {
                if !stays(&choice.track) {
                    side.seen.comes(replies.last_answer());
                }
                side.read_at(&choice.track, choice.needed, choice.reached);
                worker.stats.read_at(ReadRole::Replica, 1);
                return true;
            }
            _ if busy && on.is_some() => return false,
            _ => {}
        }
        if on.is_some() {
            side.seen.comes(replies.last_answer());
            side.leave_replica(replies);
        }
        if keys.suits {
            worker.stats.read_at(ReadRole::Master, 1);
            board.nudge();
        }
        // What a replica has reached beyond that does not count: another may come that has not.
        let least = now.minus(worker.shared.l1.terms.max_staleness.get());
        keys.slots.iter().for_each(|&slot| replies.note_master_read(at, replies.next(), slot, least));
        true
    }
}

/// What a replica must have reached that answers a read of `keys`.
fn moments_needed(
    (worker, own, at): (&Worker, &OwnWrites, NodeIndex),
    (side, replies): (&mut NodeSide, &Replies),
    keys: &KeysRead<'_>,
    now: Time,
) -> MomentsNeeded {
    side.seen.note_write(replies.last_write(), replies.last_answer());
    let seen = |slot: &Option<Slot>| {
        let Some(slot) = *slot else { return Time::NEVER };
        let arrived = worker.shared.l1.memory.arrivals.last(slot);
        replies.master_read(at, slot).max(own.last(slot)).max(arrived)
    };
    let of_keys = keys.slots.iter().map(seen).max().unwrap_or(Time::NEVER);
    MomentsNeeded {
        where_it_reads: of_keys.max(side.seen.needs(true)),
        elsewhere: of_keys.max(side.seen.needs(false)),
        rights: now.minus(worker.shared.config.acl_recheck).max(own.last_of_rights()),
    }
}

impl Worker {
    /// A lane to a replica that may answer a read of `keys`: that on which the session reads already, if it may, else one to any, by the
    /// session's turn.
    fn replica_lane(
        &self,
        (station, on, turn): (&Station, Option<&Rc<Track>>, usize),
        leases: &ReplicaLeases,
        keys: &KeysRead<'_>,
        needed: MomentsNeeded,
        (who, resp): (&Rc<Who>, Resp),
        now: Time,
    ) -> Option<ReplicaChoice> {
        let claimed = |slot: &HashSlot| leases.claims.as_ref().is_some_and(|claims| claims.has(*slot));
        if self.is_cluster() && !keys.hash_slots.iter().all(claimed) {
            return None;
        }
        let user = named(who.user());
        let longest = self.shared.l1.terms.max_staleness.get();
        let fits = |lease: &&LeasedReplica, moment| {
            lease.has_reached(moment) && !lease.left(longest, now).is_zero() && lease.serves(user, needed.rights)
        };
        let is_quick = |track: &Track| track.lane.is_made() && track.lane.waited(now) <= STALL && track.takes_more(now);
        if let Some(on) = on.filter(|on| is_quick(on))
            && let Some(lease) = leases.replicas.iter().find(|lease| Arc::ptr_eq(&lease.node, &on.site.node))
            && fits(&lease, needed.where_it_reads)
        {
            return Some(ReplicaChoice {
                track: Rc::clone(on),
                needed: needed.where_it_reads,
                reached: lease.reached?,
            });
        }
        let count = leases.replicas.len();
        (0..count)
            .map(|n| &leases.replicas[turn.wrapping_add(n) % count])
            .filter(|lease| fits(lease, needed.elsewhere))
            .find_map(|lease| {
                let station = self.replica_station(station, &lease.node);
                let track = station.track(who, resp, false, now).ok().filter(|_| !station.site.lapsed.get())?;
                // One that is being made will serve the next.
                let reached = lease.reached?;
                is_quick(&track).then_some(ReplicaChoice { track, needed: needed.elsewhere, reached })
            })
    }

    /// What this worker has at a replica of the node of `master`.
    fn replica_station(&self, master: &Station, replica: &Arc<Node>) -> Rc<Station> {
        let stations = &mut *self.replica_stations.borrow_mut();
        if let Some((_, station)) = stations.iter().find(|(_, station)| Arc::ptr_eq(station.node(), replica)) {
            return Rc::clone(station);
        }
        let site = Site::of_replica(&master.site, replica);
        let (station, asked) = Station::new(site, master.forwarder.clone(), &self.tasks);
        station.answer_asks(asked);
        stations.push((Arc::clone(master.node()), Rc::clone(&station)));
        station
    }

    /// Every [`STALL`]: what waits at a replica whose lease has ended, or for longer than that lasts, is asked of the master, and
    /// one that is none any more is left.
    pub(super) fn feel_replicas(&self, now: Time) {
        let longest = self.shared.l1.terms.max_staleness.get();
        let all: Vec<_> = self.replica_stations.borrow().clone();
        for (master, station) in all {
            let leases = master.replicas.leases();
            let lease = leases.replicas.iter().find(|lease| Arc::ptr_eq(&lease.node, station.node()));
            let lasts = lease.is_some_and(|lease| !lease.left(longest, now).is_zero());
            station.give_back(lasts, longest, now);
            if lease.is_none()
                && !station.retire()
                && self.replica_stations.borrow().iter().any(|(_, known)| Rc::ptr_eq(known, &station))
            {
                self.replica_stations.borrow_mut().retain(|(_, known)| !Rc::ptr_eq(known, &station));
                station.close();
            }
        }
    }

    /// Once a second: lanes to replicas are closed that nobody uses.
    pub(super) fn sweep_replicas(&self, now: Time) {
        let all: Vec<_> = self.replica_stations.borrow().iter().map(|(_, station)| Rc::clone(station)).collect();
        for station in all {
            station.sweep_lanes(now);
        }
    }

    /// Ends all connections to replicas.
    pub(super) fn close_replicas(&self) {
        let all: Vec<_> = self.replica_stations.borrow().iter().map(|(_, station)| Rc::clone(station)).collect();
        for station in all {
            station.close();
        }
    }
}

/// A user by the name that Redis has for it.
fn named(user: &[u8]) -> &[u8] {
    if user.is_empty() { b"default" } else { user }
}
