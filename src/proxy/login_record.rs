//! What a worker knows of logins at one node, and of the connections that were made with them.
//!
//! A login that Redis refused is not tried again for a moment, and where it is refused the connections that it once made cannot be
//! made anew.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use super::in_flight::InFlight;
use crate::clock::Time;
use crate::error::Error;
use crate::upstream::{Lane, Login};

/// A refused login is not tried again before this is over: each try is an entry in Redis's `ACL LOG`.
const REFUSED: Duration = Duration::from_secs(10);

/// See the module's head.
#[derive(Default)]
pub(super) struct LoginRecord {
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
    /// Somebody is about to have it log in with another password.
    due: bool,
}

impl LoginRecord {
    /// Why no connection can be made with this login, where that was found out just now.
    pub(super) fn refusal(&self, login: Option<&Arc<Login>>, now: Time) -> Option<Error> {
        let refused = self.refused.borrow();
        let known = refused.iter().find(|refused| refused.login.as_ref() == login && now < refused.until)?;
        Some(known.error.clone())
    }

    /// Redis has just refused it.
    pub(super) fn refuse(&self, login: Option<&Arc<Login>>, error: &Error) {
        let until = Time::now().plus(REFUSED);
        self.refused.borrow_mut().push(Refused { login: login.cloned(), until, error: error.clone() });
    }

    /// Redis accepts this login.
    pub(super) fn accept(&self, login: &Login) {
        self.refused.borrow_mut().retain(|refused| refused.login.as_deref() != Some(login));
    }

    /// The connection of `lane` was made by this login.
    pub(super) fn made(&self, lane: &Rc<Lane<InFlight>>, login: Option<Arc<Login>>) {
        self.made.borrow_mut().push(Provenance { lane: Rc::downgrade(lane), login, due: false });
    }

    /// Whether this connection would be missed: Redis accepts its login no more.
    pub(super) fn is_precious(&self, lane: &Rc<Lane<InFlight>>, now: Time) -> bool {
        !self.refused.borrow().is_empty() && self.refusal(self.login_of(lane).as_ref(), now).is_some()
    }

    /// Whether this connection was made by a login that is known.
    pub(super) fn knows(&self, lane: &Rc<Lane<InFlight>>) -> bool {
        self.made.borrow().iter().any(|made| made.lane.as_ptr() == Rc::as_ptr(lane))
    }

    /// With what login this connection was made, or has logged in since.
    pub(super) fn login_of(&self, lane: &Rc<Lane<InFlight>>) -> Option<Arc<Login>> {
        let made = self.made.borrow();
        let of = made.iter().find(|made| made.lane.as_ptr() == Rc::as_ptr(lane))?;
        of.login.clone()
    }

    /// The connections that are logged in with one of these, and not with this one; but for those that are due.
    pub(super) fn in_as(&self, is: impl Fn(&Login) -> bool, new: &Login) -> Vec<Rc<Lane<InFlight>>> {
        let made = self.made.borrow();
        let old = made
            .iter()
            .filter(|made| !made.due && made.login.as_deref().is_some_and(|login| login != new && is(login)));
        old.filter_map(|made| made.lane.upgrade()).filter(|lane| lane.is_made()).collect()
    }

    /// The connection of `lane` is logged in with this by now.
    pub(super) fn logged_in(&self, lane: &Rc<Lane<InFlight>>, login: &Arc<Login>) {
        for made in self.made.borrow_mut().iter_mut().filter(|made| made.lane.as_ptr() == Rc::as_ptr(lane)) {
            made.login = Some(Arc::clone(login));
        }
    }

    /// Whether somebody is about to have it log in with another password.
    pub(super) fn set_due(&self, lane: &Rc<Lane<InFlight>>, due: bool) {
        for made in self.made.borrow_mut().iter_mut().filter(|made| made.lane.as_ptr() == Rc::as_ptr(lane)) {
            made.due = due;
        }
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
