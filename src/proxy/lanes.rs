//! The lanes of a worker at one node: which of them takes a command, and when another is opened.

use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::in_flight::InFlight;
use super::station::Station;
use super::track::Track;
use super::who::Who;
use crate::clock::Time;
use crate::error::{Error, Sent};
use crate::resp::Resp;
use crate::upstream::{Lane, Target, Waiter};

/// Lanes that one identity may have open on one worker at once; more than one only while others are stalled.
const LANES: usize = 4;
/// What lets a cluster's replica answer reads.
const READONLY: &[u8] = b"*1\r\n$8\r\nrEADONLY\r\n";
/// What lanes are called at Redis.
pub(crate) const LANE_NAME: &str = "crema-lane";

impl Station {
    /// A lane of this identity that takes commands; opened where there is none. The connection is made meanwhile.
    pub(crate) fn track(
        self: &Rc<Self>,
        who: &Rc<Who>,
        resp: Resp,
        scripts: bool,
        now: Time,
    ) -> Result<Rc<Track>, Error> {
        let mut lanes = self.lanes.by_identity();
        let login = who.credentials();
        let kept = lanes.get(&(who.identity, resp, !scripts)).and_then(|tracks| open_one(tracks));
        let tracks = lanes.entry((who.identity, resp, scripts)).or_default();
        tracks.retain(|track| track.lane.is_open());
        if let Some(track) = tracks.iter().find(|track| track.takes_more(now)) {
            return Ok(Rc::clone(track));
        }
        if self.record.refusal(login.as_ref(), now).is_some()
            && !self.has_spare(who)
            && let Some(track) = open_one(tracks).or(kept)
        {
            return Ok(track); // slower than one more, which cannot be had
        }
        if tracks.len() >= LANES {
            let least = tracks.iter().min_by_key(|track| track.lane.in_flight()).expect("there are some");
            return Ok(Rc::clone(least));
        }
        if let Some(error) = self.trouble.borrow().lasting(self.node().last_heard(), now) {
            return Err(error.clone());
        }
        let target = Target { node: Arc::clone(self.node()), login, db: who.db, resp, name: LANE_NAME };
        let lane = Lane::shared(Arc::clone(self.node()), Weak::clone(&self.forwarder), now);
        if self.site.is_read_only {
            lane.prepare(READONLY, b'+', now); // else a replica sends all commands to its master
        }
        self.run(&lane, Some((target, self.entrants(who))));
        let track = Track::new(&self.site, lane, who.user().into(), (resp, who.db));
        tracks.push(Rc::clone(&track));
        drop(lanes);
        if !self.site.is_replica {
            self.warm(who, now);
        }
        Ok(track)
    }
}

impl Station {
    /// Tells a command for which there is no lane that it was not sent, or has it sent elsewhere.
    pub(super) fn fail_unsent(&self, pending: InFlight, command: &[u8], error: &Error) {
        if let Some(pending) = pending.lost(error, Sent::No, command)
            && let Some(forwarder) = self.forwarder.upgrade()
        {
            forwarder.forward(pending, command);
        }
    }
}

/// The open one with the least under way.
fn open_one(tracks: &[Rc<Track>]) -> Option<Rc<Track>> {
    let open = tracks.iter().filter(|track| track.lane.is_open());
    open.min_by_key(|track| track.lane.in_flight()).cloned()
}
