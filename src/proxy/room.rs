//! The connection of a worker to a node that makes room for another one's.
//!
//! What no session has for itself may go: a lane, and one that is kept to be lent, each once all on it is answered. First what
//! nobody holds to, then what nobody uses, in each case what has been idle for longest; last what could not be made anew.
//! Sessions whose lane is closed open another with their next command.

use std::cmp::Reverse;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::in_flight::InFlight;
use super::station::Station;
use crate::clock::Time;
use crate::upstream::{Ask, Lane, STALL};

/// How much a connection would be missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// No session holds to the lane, or the pool has another one.
    Little,
    /// A session would have to wait for another.
    Some,
    /// A session waits for what is under way on it.
    Busy,
    /// It cannot be made anew.
    Much,
}

impl Station {
    /// Makes room for others at the node whenever it is asked to, for as long as it is there.
    pub(super) fn answer_asks(self: &Rc<Self>, mut asked: mpsc::Receiver<Ask>) {
        let (station, stop) = (Rc::downgrade(self), self.stop.clone());
        self.tasks.spawn_local(async move {
            while let Some(Some(ask)) = stop.run_until_cancelled(asked.recv()).await {
                let made = station.upgrade().is_some_and(|station| station.make_room(Time::now()));
                let _ = ask.send(made); // who asked may have gone
            }
        });
    }

    /// Closes the connection that is needed least. False: all are in use, or some may be given back in a moment.
    fn make_room(&self, now: Time) -> bool {
        let mut least = self.least_needed(now);
        // Before anything is closed that a session would miss, who has borrowed one and does not use it is asked.
        if least.as_ref().is_none_or(|(_, worth, _)| *worth > Worth::Little) && self.loans.ask_back(now) {
            least = None;
        }
        if let Some((lane, ..)) = &least {
            lane.retire();
            self.private.borrow_mut().push(Rc::downgrade(lane)); // what is under way on it still has its deadline
        }
        self.tell_idleness(now);
        least.is_some()
    }

    /// Tells how long the connection has been idle that would go first.
    pub(super) fn tell_idleness(&self, now: Time) {
        self.tenant.tell(self.least_needed(now).map_or(Time::NEVER, |(.., idle)| now.minus(idle)));
    }

    fn least_needed(&self, now: Time) -> Option<(Rc<Lane<InFlight>>, Worth, Duration)> {
        let mut all = Vec::new();
        self.lanes.each(|track, _| {
            let worth = match (Rc::strong_count(track), track.lane.is_quiet()) {
                (_, false) => Worth::Busy,
                (1, true) => Worth::Little,
                (_, true) => Worth::Some,
            };
            all.push((Rc::clone(&track.lane), worth));
        });
        for pool in self.pools.borrow().values() {
            let worth = if pool.spares.len() > 1 { Worth::Little } else { Worth::Some };
            all.extend(pool.spares.iter().map(|spare| (Rc::clone(&spare.lane), worth)));
        }
        let soon = all.into_iter().filter(|(lane, _)| lane.is_made() && lane.waited(now) <= STALL);
        let judged = soon.map(|(lane, worth)| {
            let worth = if self.record.is_precious(&lane, now) { Worth::Much } else { worth };
            let idle = lane.idle_for(now);
            (lane, worth, idle)
        });
        judged.min_by_key(|&(_, worth, idle)| (worth, Reverse(idle)))
    }
}
