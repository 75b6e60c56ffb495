//! The pools of a worker at one node: what makes the private connections that are to be ready.

use std::rc::Rc;
use std::sync::Arc;

use super::spare::{SPARE_IDLE, Spare};
use super::station::Station;
use super::track::CHECK;
use super::who::Who;
use crate::clock::Time;
use crate::resp::Resp;
use crate::upstream::{Login, Target};

impl Station {
    /// Keeps one private connection ready for each user, so that borrowing one costs no round trip, and so that Redis has
    /// one to end should it delete the user.
    pub(crate) fn warm(self: &Rc<Self>, who: &Rc<Who>, now: Time) {
        self.pools.borrow_mut().entry(who.user().to_vec()).or_default().of = Some(Arc::clone(who.seat.user()));
        self.warm_up(who.user(), who.credentials(), (who.db, self.entrants(who)), now);
    }

    /// The same for a user of whom no more is known than a login, with a database and who may enter it.
    pub(super) fn warm_up(
        self: &Rc<Self>,
        user: &[u8],
        login: Option<Arc<Login>>,
        (db, entrants): (u32, Vec<Arc<Login>>),
        now: Time,
    ) {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(user.to_vec()).or_default();
        pool.login = login;
        pool.spares.retain(|spare| spare.lane.is_open()); // one that has ended keeps nothing warm
        if pool.is_short() && self.record.refusal(pool.login.as_ref(), now).is_none() {
            pool.spares.push(self.spare(pool.login.clone(), db, entrants, now));
        }
    }

    /// A new one for a pool.
    pub(super) fn spare(
        self: &Rc<Self>,
        login: Option<Arc<Login>>,
        db: u32,
        entrants: Vec<Arc<Login>>,
        now: Time,
    ) -> Spare {
        let node = Arc::clone(self.node());
        Spare::new(self.private(Some((Target { node, login, db, resp: Resp::V2, name: "" }, entrants)), now), db)
    }

    /// Whether the pool has a connection of this user ready.
    pub(super) fn has_spare(&self, who: &Who) -> bool {
        let pools = self.pools.borrow();
        pools.get(who.user()).is_some_and(|pool| pool.spares.iter().any(|spare| spare.lane.is_made()))
    }

    /// Closes what is idle, and makes what is short. `newest` gives the newest login of a user that some session relies on.
    pub(super) fn sweep_pools(self: &Rc<Self>, newest: impl Fn(&[u8]) -> Option<Arc<Login>>, now: Time) {
        self.pools.borrow_mut().retain(|user, pool| {
            // Of a user that nobody is any more, and that may never come again, not even the last is kept.
            let configured = self.site.node.login().is_some_and(|login| *login.user == **user);
            let proved = newest(user);
            let keep = user.is_empty() || configured || proved.is_some();
            if pool.sweep((SPARE_IDLE, CHECK), keep, proved.is_some(), now) {
                let spare = self.spare(proved.or_else(|| pool.login.clone()), 0, Vec::new(), now);
                pool.spares.push(spare);
            }
            keep || pool.is_used()
        });
    }
}
