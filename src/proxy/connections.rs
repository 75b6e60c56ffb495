//! How a worker's connections to a node come and go: each has a task, and what its end tells is remembered.
//!
//! Where Redis takes a login for no new connection, one is handed on. Redis ties a login to a connection: who was in when a password
//! changed, the user was switched off or a password was set goes on. The connections of such a session are the worker's, and some of
//! them may be missing: a second one to lend, a lane of another database. There an idle one of the same user is made ready for what
//! is missing. Only where none is left does a session lose its own, as it would if it connected anew.
//!
//! Holds contract point 8 (no leaks).

use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::in_flight::InFlight;
use super::station::Station;
use super::track::Track;
use super::trouble::TryEnding;
use super::who::Who;
use crate::clock::Time;
use crate::config::Auth;
use crate::error::Error;
use crate::resp::Resp;
use crate::upstream::{Connection, Lane, Login, Purpose, Target, adapt, connect_as_told, connect_by, connect_unproved};

/// How long a connection may take to answer what is under way on it before it is handed on.
const LAST_REPLY: Duration = Duration::from_secs(1);

/// An idle connection on its way, with the version and the database that it is in.
struct Heir {
    connection: oneshot::Receiver<Connection>,
    was: (Resp, u32),
    login: Option<Arc<Login>>,
}

impl Station {
    /// Owns a lane's task: counts it, and remembers a failure so that not every command tries again. Without a target the
    /// connection is as Redis makes it.
    pub(super) fn run(self: &Rc<Self>, lane: &Rc<Lane<InFlight>>, target: Option<(Target, Vec<Arc<Login>>)>) {
        let (lane, station) = (Rc::clone(lane), Rc::clone(self));
        self.tasks.spawn_local(async move {
            station.site.stats.lanes.add(1);
            let error = Rc::clone(&lane).run(station.made(&lane, target.as_ref())).await;
            station.site.stats.lanes.sub(1);
            if !lane.was_closed()
                && !station.site.is_replica // its users and its end say nothing of the master's
                && let Some(foreman) = station.site.foreman()
            {
                let login = target.as_ref().and_then(|(target, _)| target.login.as_ref());
                let doubted = login.filter(|login| station.puts_in_doubt(login, &error));
                foreman.lost_connection(doubted.map(|login| &*login.user));
            }
            station.note(&lane, &error, Time::now());
        });
    }

    async fn made(
        &self,
        lane: &Rc<Lane<InFlight>>,
        target: Option<&(Target, Vec<Arc<Login>>)>,
    ) -> Result<Connection, Error> {
        match target {
            Some((target, entrants)) => self.connection(lane, target, entrants).await,
            None => connect_unproved(&self.site.node).await,
        }
    }

    /// Whether a connection, or the try to make one, that ended with `error` may have done so because the user of `login` is no
    /// more.
    fn puts_in_doubt(&self, login: &Login, error: &Error) -> bool {
        let refused = matches!(error, Error::LoginRefused { .. });
        // With a connection left, the next that is lost will tell; with none, nothing would.
        error.is_cut() || refused && !self.record.has(|other| other.user == login.user)
    }

    /// What the end of a connection tells.
    fn note(&self, lane: &Lane<InFlight>, error: &Error, now: Time) {
        let ending = self.trouble.borrow_mut().note(error.clone(), now);
        match ending {
            TryEnding::Cut => debug!(%error, "a connection ended before it was ready"),
            TryEnding::Failed { anew: true } if self.site.is_replica => debug!(%error, "a replica is not read from"),
            TryEnding::Failed { anew: true } => warn!(%error, "commands cannot be served until the upstream is back"),
            TryEnding::Lost if !lane.was_closed() => {
                self.site.stats.lanes_lost.add(1);
                debug!(%error, "lane lost");
            }
            TryEnding::Lost | TryEnding::NoRoom | TryEnding::Failed { anew: false } => {}
        }
    }

    /// A connection for one at a time; without a target as Redis makes it.
    pub(super) fn private(self: &Rc<Self>, target: Option<(Target, Vec<Arc<Login>>)>, now: Time) -> Rc<Lane<InFlight>> {
        let lane = Lane::private(Arc::clone(&self.site.node), Weak::clone(&self.forwarder), now);
        self.private.borrow_mut().push(Rc::downgrade(&lane));
        self.run(&lane, target);
        lane
    }

    /// Logins that may select the session's database where its user may not: the one that did, and the URL's.
    pub(super) fn entrants(&self, who: &Who) -> Vec<Arc<Login>> {
        who.entrant.iter().cloned().chain(self.site.node.login()).collect()
    }

    /// A connection for `lane`: a new one, or where Redis refuses the login one that was idle.
    pub(super) async fn connection(
        &self,
        lane: &Rc<Lane<InFlight>>,
        target: &Target,
        entrants: &[Arc<Login>],
    ) -> Result<Connection, Error> {
        let login = target.login.as_ref();
        let refusal = match self.record.refusal(login, Time::now()) {
            Some(known) => known,
            None => match self.try_connect(lane, target, entrants).await {
                Err(refusal @ Error::LoginRefused { .. }) => {
                    self.record.refuse(login, &refusal);
                    refusal
                }
                Ok(connection) => {
                    self.record.made(lane, connection.login.clone());
                    return Ok(connection);
                }
                failed => return failed,
            },
        };
        // One that nobody waits for takes none from the others.
        while !lane.is_spare()
            && let Some(heir) = self.heir(lane, target)
        {
            let Ok(Ok(connection)) = timeout(LAST_REPLY, heir.connection).await else { continue };
            if let Ok(connection) = adapt(connection, heir.was, target).await {
                self.record.made(lane, heir.login);
                return Ok(connection);
            }
        }
        Err(match (refusal, &self.site.shared.config.auth) {
            // There clients prove nothing to Redis: what is wrong is the URL, and to be told.
            (Error::LoginRefused { node, reply }, Auth::Own(_) | Auth::Open) => Error::Refused { node, reply },
            (refusal, _) => refusal,
        })
    }

    /// A new one. For a lane, or for a session that has the connection by now, room is made where there is none.
    async fn try_connect(
        &self,
        lane: &Lane<InFlight>,
        target: &Target,
        entrants: &[Arc<Login>],
    ) -> Result<Connection, Error> {
        let purpose = || match (lane.is_private(), lane.is_spare()) {
            (false, _) => Purpose::Shared,
            (true, false) => Purpose::Private,
            (true, true) => Purpose::Spare,
        };
        let first = purpose();
        match self.connect(target, first, entrants).await {
            Err(Error::UpstreamLimit { .. }) if purpose() != first => self.connect(target, purpose(), entrants).await,
            done => done,
        }
    }

    async fn connect(&self, target: &Target, purpose: Purpose, entrants: &[Arc<Login>]) -> Result<Connection, Error> {
        if self.clients_prove() {
            connect_as_told(target, purpose, entrants).await
        } else {
            connect_by(target, purpose, entrants).await
        }
    }

    /// Whether sessions live by what their clients proved to Redis. Even where that equals a login of crema's own, it is not
    /// renewed with that: a session does not outlive its password.
    pub(super) fn clients_prove(&self) -> bool {
        self.site.shared.config.auth == Auth::Upstream
    }

    /// One that `lane` may go on with: a spare, or the lane of its user that has been idle for longest. The last lane is not
    /// lent to one session, for many share it.
    fn heir(&self, lane: &Rc<Lane<InFlight>>, target: &Target) -> Option<Heir> {
        let user = target.login.as_deref().map_or(&b""[..], |login| &login.user);
        let heir = |lane: &Rc<Lane<InFlight>>, was| {
            Some(Heir { connection: lane.hand_on()?, was, login: self.record.login_of(lane) })
        };
        if let Some(pool) = self.pools.borrow_mut().get_mut(user) {
            while let Some(spare) = pool.take_made() {
                if let Some(heir) = heir(&spare.lane, spare.was()) {
                    return Some(heir);
                }
            }
        }
        let mut tracks: Vec<Rc<Track>> = Vec::new();
        self.lanes.each(|track, _| {
            if *track.user == *user && track.lane.is_open() && self.record.knows(&track.lane) {
                tracks.push(Rc::clone(track));
            }
        });
        if lane.is_private() && tracks.len() < 2 {
            return None;
        }
        let now = Time::now();
        tracks.retain(|track| track.lane.is_quiet() && !Rc::ptr_eq(&track.lane, lane));
        let longest = tracks.into_iter().max_by_key(|track| track.lane.idle_for(now))?;
        heir(&longest.lane, longest.was())
    }
}
