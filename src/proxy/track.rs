//! A lane with the flights on it, and the table of a worker's lanes at one node: who has which, when one is closed.
//!
//! A lane belongs to an identity and a protocol version, and those for scripts stand apart: what is sent behind a script that
//! runs for long waits for it, while Redis tells others that it is busy. `lanes` opens them.

use std::cell::{RefCell, RefMut};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::in_flight::{InFlight, ReplyAction};
use super::lead::{JoinedRecipients, LaneFlights, Lead};
use super::reader::Reader;
use super::recipient::Recipient;
use super::site::Site;
use super::start::Start;
use crate::cache::{Coin, Identity, Query};
use crate::clock::Time;
use crate::resp::Resp;
use crate::upstream::Lane;

/// A lane in use is checked this often for being in step.
pub(super) const CHECK: Duration = Duration::from_secs(10);

/// A lane that no session used for so long is closed, unless it is the last of a user who is here.
const LANE_IDLE: Duration = Duration::from_secs(60);
/// One to which no session holds any more, for they have left or are in another database, is closed sooner.
const LANE_LEFT: Duration = Duration::from_secs(10);

/// A lane with the flights on it.
pub(crate) struct Track {
    /// The connection.
    pub lane: Rc<Lane<InFlight>>,
    /// Reads under way on it.
    pub(super) flights: LaneFlights,
    pub(super) site: Rc<Site>,
    /// Whose it is; empty: Redis's default user's, unproved.
    pub(super) user: Box<[u8]>,
    resp: Resp,
    db: u32,
    window: u64,
}

impl Track {
    /// A lane of `user` in this version and database, with nothing under way.
    pub(super) fn new(site: &Rc<Site>, lane: Rc<Lane<InFlight>>, user: Box<[u8]>, (resp, db): (Resp, u32)) -> Rc<Self> {
        let window = site.shared.config.lane_window;
        Rc::new(Self { lane, flights: LaneFlights::default(), site: Rc::clone(site), user, resp, db, window })
    }

    /// Whether another command may be put on it.
    pub(crate) fn takes_more(&self, now: Time) -> bool {
        self.lane.takes_more(self.window, now)
    }

    /// The version and the database that it is in.
    pub(super) fn was(&self) -> (Resp, u32) {
        (self.resp, self.db)
    }

    /// Sends, or tells at once that it could not.
    #[inline]
    pub(crate) fn send(&self, command: &[u8], mut pending: InFlight, now: Time) {
        if self.site.looks_further {
            if self.site.is_replica {
                pending.weigh();
            } else if self.site.shared.l1.terms.beyond.is_some() && !pending.leads() {
                pending.seek(command);
            }
            if self.site.redirects {
                pending.follow();
            }
        }
        self.lane.send_or_tell(command, pending, now);
    }

    /// Sends a command of crema's own; `action` takes its reply.
    pub(super) fn ask(&self, command: &[u8], action: ReplyAction, now: Time) {
        self.send(command, InFlight::own(&self.site, action), now);
    }

    /// Sends the read `command`, which `query` describes, for its first recipient and all who join it: those for whom it is not too old
    /// that it `left` then.
    pub(super) fn lead(
        &self,
        (first, joined): (Recipient, Option<JoinedRecipients>),
        read: (Reader, Coin),
        (command, query): (&[u8], &Query<'_>),
        (left, now): (Time, Time),
    ) {
        let Site { shared, stats, .. } = &*self.site;
        let lead = Lead::begin(&self.flights, read, joined, (shared, query), left);
        let mut pending = InFlight::new(&self.site, first, ReplyAction::Lead(lead), Start::of(stats, now));
        // Most keys have nothing beyond the upstream, and what they cost is to be seen here alone.
        if !self.site.is_replica
            && let Some(beyond) = &shared.l1.terms.beyond
            && beyond.matches(query.key())
        {
            pending.seek(command);
        }
        self.send(command, pending, now);
    }
}

/// See the module's head.
#[derive(Default)]
pub(super) struct Lanes(RefCell<ByIdentity>);

/// The lanes of an identity, and whether they are for scripts.
pub(super) type ByIdentity = HashMap<(Identity, Resp, bool), Vec<Rc<Track>>>;

impl Lanes {
    /// All lanes there are.
    pub(super) fn by_identity(&self) -> RefMut<'_, ByIdentity> {
        self.0.borrow_mut()
    }

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

/// Whether a quiet lane is closed, where its user has so many on this worker: by a session that holds to it, the last is kept,
/// for Redis may have come to refuse the login.
fn is_over(track: &Rc<Track>, lanes: usize, now: Time) -> bool {
    let held = Rc::strong_count(track) > 1;
    let idle = track.lane.idle_for(now);
    if held { idle > LANE_IDLE && lanes > 1 } else { idle > LANE_LEFT }
}
