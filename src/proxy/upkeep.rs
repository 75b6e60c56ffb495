//! How a worker looks after its connections to a node: it ends those that are dead, idle or lead elsewhere, and makes what is short.
//!
//! Called by the worker, [`Station::feel`] every [`STALL`](crate::upstream::STALL) and [`Station::sweep`] once a second.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::in_flight::InFlight;
use super::pulse::{PulseLook, SilentLaneKind};
use super::spare::SPARE_IDLE;
use super::station::Station;
use crate::clock::Time;
use crate::upstream::{ANOTHER, Lane, Login, Service};

impl Station {
    /// Looks at all lanes: ends those that lead to another server than the present one, asks for a pulse where one is missed,
    /// and has looked into what stays silent beside it. Whether Redis seems to hold writes back.
    pub(super) fn feel(&self, now: Time) -> bool {
        let generation = self.site.node.generation.number();
        if self.generation.replace(generation) != generation {
            self.leave(Lane::is_stale);
        }
        let mut look = PulseLook::new(now);
        self.lanes.each(|track, scripts| {
            look.at(&track.lane, if scripts { SilentLaneKind::Scripts } else { SilentLaneKind::Plain });
        });
        if self.pulse.looks_at_all() {
            self.privates().iter().for_each(|lane| look.at(lane, SilentLaneKind::Private));
        }
        self.pulse.follow(look)
    }

    /// Once a second: gives up connections that are silent past the deadline, checks those in use, closes those that are idle.
    /// `newest` gives the newest login of a user that some session relies on.
    pub(super) fn sweep(self: &Rc<Self>, newest: impl Fn(&[u8]) -> Option<Arc<Login>>, now: Time) {
        let deadline = self.site.shared.config.response_timeout.filter(|_| !self.site.shared.l1.is_paused(now));
        let mut expired = self.lanes.sweep(deadline, now);
        self.record.sweep(now);
        self.logins.sweep(SPARE_IDLE, now);
        self.private.borrow_mut().retain(|lane| lane.upgrade().is_some_and(|lane| !lane.has_ended()));
        let late = |lane: &Rc<Lane<InFlight>>| deadline.is_some_and(|deadline| lane.waited(now) > deadline);
        expired.extend(self.privates().into_iter().filter(late));
        if !expired.is_empty() {
            self.site.node.signs.serves(Service::Silent);
            self.pulse.give_up(expired, deadline.unwrap_or_default());
        }
        self.sweep_pools(newest, now);
        self.renew_logins(now);
        self.tell_idleness(now);
    }

    /// Once a second, at a replica: closes lanes that are idle, checks those in use, and gives up replies that do not go on.
    pub(super) fn sweep_lanes(&self, now: Time) {
        self.lanes.sweep(None, now);
        self.record.sweep(now);
        let deadline = self.site.shared.config.response_timeout;
        for (lane, deadline) in self.privates().into_iter().filter_map(|lane| Some((lane, deadline?))) {
            if lane.waited(now) > deadline {
                lane.give_up(deadline);
            }
        }
    }

    /// At a replica: where its lease does not last, or something has waited for longer than `longest`, what waits is asked of the
    /// master. A reply that has begun comes to its end: its lane takes nothing more, and no other reply from there is passed on. Lanes
    /// on which nothing waits are kept.
    pub(super) fn give_back(&self, lasts: bool, longest: Duration, now: Time) {
        let mut due = self.privates();
        self.lanes.each(|track, _| {
            if !track.lane.is_quiet() && (!lasts || track.lane.waited(now) > longest) {
                due.push(Rc::clone(&track.lane));
            }
        });
        for lane in due {
            if !lane.has_begun() {
                lane.lose("what waits at a replica is asked of its master");
                continue;
            }
            lane.retire();
            if !self.privates().iter().any(|known| Rc::ptr_eq(known, &lane)) {
                self.private.borrow_mut().push(Rc::downgrade(&lane));
            }
        }
        let parting = &mut *self.private.borrow_mut();
        parting.retain(|lane| lane.upgrade().is_some_and(|lane| !lane.has_ended()));
        self.site.lapsed.set(!parting.is_empty());
    }

    /// Another server has taken the address, or the node has left: what waits on lanes to it is told, and no spare of it is lent.
    pub(super) fn leave(&self, leaves: impl Fn(&Lane<InFlight>) -> bool) {
        let mut lanes = Vec::new();
        self.lanes.each(|track, _| lanes.push(Rc::clone(&track.lane)));
        lanes.extend(self.privates().into_iter().filter(|lane| !lane.is_lent()));
        lanes.into_iter().filter(|lane| leaves(lane)).for_each(|lane| lane.lose(ANOTHER));
    }

    /// Another serves in the node's place, and whoever made it the master has the former one close all its connections: what sessions
    /// have for themselves there ends as well.
    pub(super) fn end(&self) {
        self.leave(|_| true);
        self.privates().into_iter().for_each(|lane| lane.lose(ANOTHER));
        self.close();
    }

    /// The node has left the cluster's map: what was sent to it is still answered, and nothing more is sent. Whether anything is
    /// unanswered; to be called again while it is, for a lane that was being made then is made by now.
    pub(super) fn retire(&self) -> bool {
        let mut answers = false;
        self.lanes.each(|track, _| {
            track.lane.retire();
            answers |= !track.lane.has_ended();
        });
        answers
    }

    /// Ends all connections that nobody has for itself.
    pub(super) fn close(&self) {
        self.stop.cancel();
        self.lanes.close();
        for spare in self.pools.borrow().values().flat_map(|pool| &pool.spares) {
            spare.lane.close();
        }
        self.logins.close();
    }
}
