//! The lanes of a worker at one node: which identity has which, when another is opened, when one is closed.
//!
//! A lane belongs to an identity and a protocol version, and those for scripts stand apart: what is sent behind a script that
//! runs for long waits for it, while Redis tells others that it is busy. What makes their connections is the [`Station`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::in_flight::InFlight;
use super::recipient::Recipient;
use super::station::Station;
use super::who::Who;
use crate::cache::{Flights, Identity};
use crate::clock::Time;
use crate::error::{Error, Sent};
use crate::resp::Resp;
use crate::upstream::{Lane, Target, Waiter};

/// Lanes that one identity may have open on one worker at once; more than one only while others are stalled.
const LANES: usize = 4;
/// What lanes are called at Redis.
pub const LANE_NAME: &str = "crema-lane";
/// A lane in use is checked this often for being in step.
pub(super) const CHECK: Duration = Duration::from_secs(10);

/// A lane that no session used for so long is closed, unless it is the last of a user who is here.
const LANE_IDLE: Duration = Duration::from_secs(60);
/// One to which no session holds any more, for they have left or are in another database, is closed sooner.
const LANE_LEFT: Duration = Duration::from_secs(10);

/// A lane with the flights on it.
pub struct Track {
    /// The connection.
    pub lane: Rc<Lane<InFlight>>,
    /// Reads under way on it.
    pub flights: RefCell<Flights<Recipient>>,
    /// Whose it is; empty: Redis's default user's, unproved.
    pub(super) user: Box<[u8]>,
    resp: Resp,
    db: u32,
    window: u64,
}

impl Track {
    /// Whether another command may be put on it.
    pub fn takes_more(&self, now: Time) -> bool {
        self.lane.takes_more(self.window, now)
    }

    /// The version and the database that it is in.
    pub(super) fn was(&self) -> (Resp, u32) {
        (self.resp, self.db)
    }

    /// Sends, or tells at once that it could not.
    pub fn send(&self, command: &[u8], pending: InFlight, now: Time) {
        if let Err(pending) = self.lane.send(command, pending, now) {
            pending.lost(&self.lane.lost_error(), Sent::No, command);
        }
    }
}

/// See the module's head.
#[derive(Default)]
pub(super) struct Lanes(RefCell<ByIdentity>);

/// With whether they are for scripts.
type ByIdentity = HashMap<(Identity, Resp, bool), Vec<Rc<Track>>>;

impl Lanes {
    /// Shows `look` each, with whether it is for scripts. It must not open one.
    pub(super) fn each(&self, mut look: impl FnMut(&Rc<Track>, bool)) {
        for (&(.., scripts), tracks) in &*self.0.borrow() {
            for track in tracks {
                look(track, scripts);
            }
        }
    }

    /// How long a read of this identity takes at Redis, as far as it is known: on the quickest lane.
    pub(super) fn round_trip(&self, identity: Identity, resp: Resp) -> Duration {
        let lanes = self.0.borrow();
        let tracks = lanes.get(&(identity, resp, false)).into_iter().flatten();
        tracks.map(|track| track.lane.round_trip()).filter(|time| !time.is_zero()).min().unwrap_or_default()
    }

    /// Checks those in use, and closes those that are idle. Those that wait for longer than `deadline` come back.
    pub(super) fn sweep(&self, deadline: Option<Duration>, now: Time) -> Vec<Rc<Lane<InFlight>>> {
        let mut lanes = self.0.borrow_mut();
        let mut expired = Vec::new();
        let mut of_user: HashMap<Box<[u8]>, usize> = HashMap::new();
        for track in lanes.values().flatten().filter(|track| track.lane.is_open()) {
            *of_user.entry(track.user.clone()).or_default() += 1;
        }
        lanes.retain(|_, tracks| {
            tracks.retain(|track| track.lane.is_open());
            for track in &*tracks {
                let lane = &track.lane;
                if deadline.is_some_and(|deadline| lane.waited(now) > deadline) {
                    expired.push(Rc::clone(lane));
                } else if lane.is_quiet() && is_over(track, of_user[&track.user], now) {
                    *of_user.entry(track.user.clone()).or_default() -= 1;
                    lane.close();
                } else if lane.checked_for(now) > CHECK && lane.idle_for(now) < CHECK {
                    lane.verify(now);
                }
            }
            !tracks.is_empty()
        });
        expired
    }

    /// Closes all.
    pub(super) fn close(&self) {
        self.each(|track, _| track.lane.close());
    }
}

impl Station {
    /// A lane of this identity that takes commands; opened where there is none. The connection is made meanwhile.
    pub fn track(self: &Rc<Self>, who: &Rc<Who>, resp: Resp, scripts: bool, now: Time) -> Result<Rc<Track>, Error> {
        let mut lanes = self.lanes.0.borrow_mut();
        let login = who.credentials();
        let kept = lanes.get(&(who.identity, resp, !scripts)).and_then(|tracks| open_one(tracks));
        let tracks = lanes.entry((who.identity, resp, scripts)).or_default();
        tracks.retain(|track| track.lane.is_open());
        if let Some(track) = tracks.iter().find(|track| track.takes_more(now)) {
            return Ok(Rc::clone(track));
        }
        if self.heirs.refusal(login.as_ref(), now).is_some()
            && !self.has_spare(who)
            && let Some(track) = open_one(tracks).or(kept)
        {
            return Ok(track); // slower than one more, which cannot be had
        }
        if tracks.len() >= LANES {
            let least = tracks.iter().min_by_key(|track| track.lane.in_flight()).expect("there are some");
            return Ok(Rc::clone(least));
        }
        if let Some(error) = self.trouble.borrow().lasting(self.node.last_heard(), now) {
            return Err(error.clone());
        }
        let target = Target { node: Arc::clone(&self.node), login, db: who.db, resp, name: LANE_NAME };
        let lane = Lane::shared(Arc::clone(&self.node), now);
        self.run(&lane, Some((target, self.entrants(who))));
        let (user, db, window) = (who.user().into(), who.db, self.shared.config.lane_window);
        let track = Rc::new(Track { lane, flights: RefCell::default(), user, resp, db, window });
        tracks.push(Rc::clone(&track));
        drop(lanes);
        self.warm(who, now);
        Ok(track)
    }
}

/// The open one with the least under way.
fn open_one(tracks: &[Rc<Track>]) -> Option<Rc<Track>> {
    let open = tracks.iter().filter(|track| track.lane.is_open());
    open.min_by_key(|track| track.lane.in_flight()).cloned()
}

/// Whether a quiet lane is closed, where its user has so many on this worker: by a session that holds to it, the last is kept,
/// for Redis may have come to refuse the login.
fn is_over(track: &Rc<Track>, lanes: usize, now: Time) -> bool {
    let held = Rc::strong_count(track) > 1;
    let idle = track.lane.idle_for(now);
    if held { idle > LANE_IDLE && lanes > 1 } else { idle > LANE_LEFT }
}
