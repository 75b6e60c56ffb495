//! Who a session is: a login, a database, and what L1 has for the two.
//!
//! Made when a session begins, logs in or selects, never changed, and lent to whatever the session has under way.
//!
//! Holds contract point 8 (no leaks).

use std::rc::Rc;
use std::sync::Arc;

use super::proof::Share;
use super::shared::Shared;
use crate::cache::{Identity, Query};
use crate::command::Spec;
use crate::invalidation::{Ear, L1, Seat};
use crate::resp::Request;
use crate::upstream::{Login, Node};

/// An identity with what is needed to act for it.
pub(crate) struct Who {
    /// The login under which the session acts; none for Redis's default user.
    pub login: Option<Arc<Login>>,
    /// The session's share in that login, where the client itself proved it to Redis.
    pub proof: Option<Rc<Share>>,
    /// The database selected.
    pub db: u32,
    /// The login under which it was selected, where that is known: the user may lack the right.
    pub entrant: Option<Arc<Login>>,
    /// The number of user and database.
    pub identity: Identity,
    /// The user's ear at the node that serves the session.
    pub ear: Arc<Ear>,
    pub(super) seat: Seat,
}

impl Who {
    /// The identity of a login, none or one that the configuration gives, in database `db`, at `node`.
    pub(crate) fn new(shared: &Shared, node: &Arc<Node>, login: Option<Arc<Login>>, db: u32) -> Rc<Self> {
        let who = Self::make((shared, node), login, None, (db, None));
        if let Some(login) = &who.login {
            who.seat.user().trust(login);
        }
        Rc::new(who)
    }

    /// The identity of a login that a client has just proved, in the database where it was `before`.
    pub(crate) fn proved(shared: &Shared, proof: Rc<Share>, before: &Self) -> Rc<Self> {
        let place = (before.db, before.entrant.clone());
        let node = before.ear.node();
        let who = Self::make((shared, node), Some(Arc::clone(proof.login())), Some(proof), place);
        if let Some(login) = &who.login {
            who.seat.user().trust(login);
        }
        Rc::new(who)
    }

    /// The same user in another database.
    pub(crate) fn in_db(&self, shared: &Shared, db: u32) -> Rc<Self> {
        let at = (shared, self.ear.node());
        Rc::new(Self::make(at, self.login.clone(), self.proof.clone(), (db, self.credentials())))
    }

    /// The same at another node.
    pub(super) fn moved(&self, shared: &Shared, node: &Arc<Node>) -> Rc<Self> {
        Rc::new(Self::make((shared, node), self.login.clone(), self.proof.clone(), (self.db, self.entrant.clone())))
    }

    fn make(
        (shared, node): (&Shared, &Arc<Node>),
        login: Option<Arc<Login>>,
        proof: Option<Rc<Share>>,
        (db, entrant): (u32, Option<Arc<Login>>),
    ) -> Self {
        let user = login.as_ref().map_or(&b""[..], |login| &login.user);
        let l1 = &shared.l1;
        let (seat, identity) = (l1.ears.seat(user), l1.memory.identities.intern(user, db));
        Self { identity, ear: l1.ears.at(seat.user(), node), seat, login, proof, db, entrant }
    }

    /// What connections for this session are made with. A user has one set of rights however it was proved, and passwords
    /// change while sessions stay: so it is the newest login that anybody proved.
    pub(crate) fn credentials(&self) -> Option<Arc<Login>> {
        self.login.as_ref().map(|own| self.seat.user().login().unwrap_or_else(|| Arc::clone(own)))
    }

    /// Its user's ear at a node.
    pub(crate) fn ear_at(&self, shared: &Shared, node: &Arc<Node>) -> Arc<Ear> {
        shared.l1.ears.at(self.seat.user(), node)
    }

    /// The user's name; empty for Redis's default user, unproved.
    pub(super) fn user(&self) -> &[u8] {
        self.login.as_ref().map_or(&[], |login| &login.user)
    }

    /// Whether Redis may have ended what this session proved, which must be asked before the session goes on.
    pub(crate) fn is_doubted(&self) -> bool {
        self.proof.as_ref().is_some_and(|proof| proof.is_doubted())
    }

    /// Describes a read of one key for L1 and the flights.
    pub(crate) fn query<'a>(&self, l1: &L1, spec: &Spec, request: Request<'a>) -> Query<'a> {
        let rest = if request.argc() > 2 { request.tail(2) } else { &[] };
        Query::new(&l1.memory.stamps, self.identity, spec.id, request.arg(1), request.tail(1), rest)
    }
}
