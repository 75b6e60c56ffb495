//! Connections that are handed on, where Redis takes a login for no new one.
//!
//! Redis ties a login to a connection: who was in when a password changed, the user was switched off or a password was set
//! goes on. The connections of such a session are the worker's, and some of them may be missing: a second one to lend, a lane
//! of another database. There an idle one of the same user is made ready for what is missing. Only where none is left does
//! a session lose its own, as it would if it connected anew.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::in_flight::InFlight;
use super::lanes::Track;
use super::station::Station;
use crate::clock::Time;
use crate::config::Auth;
use crate::error::Error;
use crate::resp::Resp;
use crate::upstream::{Connection, Lane, Login, Purpose, Target, adapt, connect_by};

/// A refused login is not tried again before this is over: each try is an entry in Redis's `ACL LOG`.
const REFUSED: Duration = Duration::from_secs(10);
/// How long a connection may take to answer what is under way on it before it is handed on.
const LAST_REPLY: Duration = Duration::from_secs(1);

/// What a worker knows of logins and of the connections made with them.
#[derive(Default)]
pub(super) struct Heirs {
    refused: RefCell<Vec<Refused>>,
    made: RefCell<Vec<Provenance>>,
}

struct Refused {
    login: Option<Arc<Login>>,
    until: Time,
    error: Error,
}

struct Provenance {
    lane: Weak<Lane<InFlight>>,
    login: Option<Arc<Login>>,
}

/// An idle connection on its way, with the version and the database that it is in.
struct Heir {
    connection: oneshot::Receiver<Connection>,
    was: (Resp, u32),
    login: Option<Arc<Login>>,
}

impl Heirs {
    /// Why no connection can be made with this login, where that was found out just now.
    pub(super) fn refusal(&self, login: Option<&Arc<Login>>, now: Time) -> Option<Error> {
        let refused = self.refused.borrow();
        let known = refused.iter().find(|refused| refused.login.as_ref() == login && now < refused.until)?;
        Some(known.error.clone())
    }

    fn refuse(&self, login: Option<&Arc<Login>>, error: &Error) {
        let until = Time::now().plus(REFUSED);
        self.refused.borrow_mut().push(Refused { login: login.cloned(), until, error: error.clone() });
    }

    /// Redis accepts this login.
    pub(super) fn accept(&self, login: &Login) {
        self.refused.borrow_mut().retain(|refused| refused.login.as_deref() != Some(login));
    }

    fn made(&self, lane: &Rc<Lane<InFlight>>, login: Option<Arc<Login>>) {
        self.made.borrow_mut().push(Provenance { lane: Rc::downgrade(lane), login });
    }

    /// Whether this connection would be missed: Redis accepts its login no more.
    pub(super) fn is_precious(&self, lane: &Rc<Lane<InFlight>>, now: Time) -> bool {
        !self.refused.borrow().is_empty() && self.refusal(self.login_of(lane).as_ref(), now).is_some()
    }

    /// Whether this connection was made by a login that is known.
    fn knows(&self, lane: &Rc<Lane<InFlight>>) -> bool {
        self.made.borrow().iter().any(|made| made.lane.as_ptr() == Rc::as_ptr(lane))
    }

    /// With what login this connection was made.
    fn login_of(&self, lane: &Rc<Lane<InFlight>>) -> Option<Arc<Login>> {
        let made = self.made.borrow();
        let of = made.iter().find(|made| made.lane.as_ptr() == Rc::as_ptr(lane))?;
        of.login.clone()
    }

    /// Whether a connection is open for whose login `is` holds.
    pub(super) fn has(&self, is: impl Fn(&Login) -> bool) -> bool {
        let open = |made: &Provenance| made.lane.upgrade().is_some_and(|lane| lane.is_open());
        self.made.borrow().iter().any(|made| made.login.as_deref().is_some_and(&is) && open(made))
    }

    /// Forgets what is over.
    pub(super) fn sweep(&self, now: Time) {
        self.refused.borrow_mut().retain(|refused| now < refused.until);
        self.made.borrow_mut().retain(|made| made.lane.upgrade().is_some_and(|lane| lane.is_open()));
    }
}

impl Station {
    /// A connection for `lane`: a new one, or where Redis refuses the login one that was idle.
    pub(super) async fn connection(
        &self,
        lane: &Rc<Lane<InFlight>>,
        target: &Target,
        entrants: &[Arc<Login>],
    ) -> Result<Connection, Error> {
        let login = target.login.as_ref();
        let refusal = match self.heirs.refusal(login, Time::now()) {
            Some(known) => known,
            None => match self.try_connect(lane, target, entrants).await {
                Err(refusal @ Error::LoginRefused { .. }) => {
                    self.heirs.refuse(login, &refusal);
                    refusal
                }
                Ok(connection) => {
                    self.heirs.made(lane, login.cloned());
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
                self.heirs.made(lane, heir.login);
                return Ok(connection);
            }
        }
        Err(match (refusal, &self.shared.config.auth) {
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
        match connect_by(target, first, entrants).await {
            Err(Error::UpstreamLimit { .. }) if purpose() != first => connect_by(target, purpose(), entrants).await,
            done => done,
        }
    }

    /// One that `lane` may go on with: a spare, or the lane of its user that has been idle for longest. The last lane is not
    /// lent to one session, for many share it.
    fn heir(&self, lane: &Rc<Lane<InFlight>>, target: &Target) -> Option<Heir> {
        let user = target.login.as_deref().map_or(&b""[..], |login| &login.user);
        let heir = |lane: &Rc<Lane<InFlight>>, was| {
            Some(Heir { connection: lane.hand_on()?, was, login: self.heirs.login_of(lane) })
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
            if *track.user == *user && track.lane.is_open() && self.heirs.knows(&track.lane) {
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
