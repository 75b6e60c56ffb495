//! What clients of a worker proved to Redis: logins, with the sessions that rely on each. Whether Redis would still have them is
//! for `doubts`.
//!
//! Holds contract point 8 (no leaks).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::replies::Replies;
use super::reply_queue::SessionEnd;
use crate::upstream::Login;

/// A login that Redis accepted, with the sessions that rely on it.
pub(crate) struct Proof {
    login: Arc<Login>,
    doubted: Cell<bool>,
    checking: Cell<bool>,
    shares: RefCell<Vec<Weak<Share>>>,
}

/// A session's share in a proof, held for as long as the session is who it proved to be: it may become someone else.
pub(crate) struct Share {
    proof: Rc<Proof>,
    session: Weak<Replies>,
}

impl Deref for Share {
    type Target = Rc<Proof>;

    fn deref(&self) -> &Rc<Proof> {
        &self.proof
    }
}

/// All that the clients of a worker proved.
#[derive(Default)]
pub(super) struct Proofs(RefCell<ByUser>);

type ByUser = HashMap<Box<[u8]>, Vec<Rc<Proof>>>;

impl Proof {
    /// What was proved.
    pub(crate) fn login(&self) -> &Arc<Login> {
        &self.login
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.get()
    }

    /// Redis may have ended what was proved. True where somebody should find out, and nobody does yet.
    pub(super) fn doubt(&self) -> bool {
        self.doubted.set(true);
        !self.checking.replace(true)
    }

    /// Redis accepts it still.
    pub(super) fn believe(&self) {
        self.doubted.set(false);
    }

    /// Nobody finds out any more.
    pub(super) fn end_check(&self) {
        self.checking.set(false);
    }

    /// Whether some session relies on it.
    pub(super) fn is_relied_on(&self) -> bool {
        !self.living().is_empty()
    }

    /// Redis has ended it: so do all sessions that rely on it.
    pub(super) fn end(&self) {
        self.living().iter().for_each(|session| session.end(SessionEnd::LoggedOut));
    }

    fn living(&self) -> Vec<Rc<Replies>> {
        self.shares.borrow().iter().filter_map(|share| share.upgrade()?.session.upgrade()).collect()
    }
}

impl Proofs {
    /// The session behind `replies` proved `login`.
    pub(super) fn join(&self, login: Login, replies: &Rc<Replies>) -> Rc<Share> {
        let mut users = self.0.borrow_mut();
        let proofs = users.entry(login.user.clone()).or_default();
        proofs.retain(|proof| Rc::strong_count(proof) > 1);
        let proof = if let Some(known) = proofs.iter().find(|proof| *proof.login == login) {
            Rc::clone(known)
        } else {
            let shares = RefCell::default();
            let new = Proof { login: Arc::new(login), doubted: Cell::new(false), checking: Cell::new(false), shares };
            proofs.push(Rc::new(new));
            Rc::clone(proofs.last().expect("just pushed"))
        };
        proof.doubted.set(false);
        let share = Rc::new(Share { proof: Rc::clone(&proof), session: Rc::downgrade(replies) });
        let mut shares = proof.shares.borrow_mut();
        if shares.len() == shares.capacity() {
            shares.retain(|share| share.strong_count() > 0);
        }
        shares.push(Rc::downgrade(&share));
        share
    }

    /// Drops what nobody relies on any more.
    pub(super) fn sweep(&self) {
        self.0.borrow_mut().retain(|_, proofs| {
            proofs.retain(|proof| Rc::strong_count(proof) > 1);
            !proofs.is_empty()
        });
    }

    /// The newest login of this user that some session relies on, if any.
    pub(super) fn newest(&self, user: &[u8]) -> Option<Arc<Login>> {
        self.0.borrow().get(user)?.last().map(|proof| Arc::clone(&proof.login))
    }

    /// All that were proved as this user.
    pub(super) fn of(&self, user: &[u8]) -> Vec<Rc<Proof>> {
        self.0.borrow().get(user).into_iter().flatten().map(Rc::clone).collect()
    }
}
