//! A user of Redis as L1 knows it: how many sessions are it, the newest login that was proved, and its ear at each node.
//!
//! A user has one set of rights however it was proved, and passwords change while sessions stay: so all connections of a user, ears
//! included, are made with the newest login. A user whom nobody has been for a while is given up with all that was filled for it.
//!
//! Holds contract point 8 (no leaks).

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::ear::{Ear, EarGroup};
use crate::clock::Time;
use crate::upstream::{Login, Node};

/// The login with which connections of a user are made; none: Redis's default user, unproved.
#[derive(Debug, Default)]
pub(super) struct NewestLogin(Mutex<Option<Arc<Login>>>);

impl NewestLogin {
    /// What connections of this user are to be made with.
    pub(super) fn get(&self) -> Option<Arc<Login>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, login: &Arc<Login>) -> Option<Arc<Login>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(login))
    }
}

/// See the module's head.
pub(crate) struct AclUser {
    name: Box<[u8]>,
    /// The last notice of this user's was published.
    publishes: AtomicBool,
    login: Arc<NewestLogin>,
    ears: Mutex<Vec<Arc<Ear>>>,
    /// Sessions that are this user, and when the last one left, in nanoseconds of [`Time`].
    seats: AtomicUsize,
    left: AtomicU64,
    /// Ends its ears.
    stop: CancellationToken,
}

/// Held by whoever is a user, so that the user's ears stay.
pub(crate) struct Seat(Arc<AclUser>);

impl Seat {
    pub(super) fn take(user: &Arc<AclUser>) -> Self {
        user.seats.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(user))
    }

    /// Who holds it is this user.
    pub(crate) fn user(&self) -> &Arc<AclUser> {
        &self.0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.left.store(Time::now().as_nanos(), Ordering::Relaxed);
        self.0.seats.fetch_sub(1, Ordering::AcqRel);
    }
}

impl AclUser {
    pub(super) fn new(name: &[u8], stop: CancellationToken) -> Arc<Self> {
        let (login, ears, publishes) = (Arc::default(), Mutex::default(), AtomicBool::new(false));
        Arc::new(Self {
            name: name.into(),
            publishes,
            login,
            ears,
            seats: AtomicUsize::new(0),
            left: AtomicU64::new(0),
            stop,
        })
    }

    /// Its name, for people.
    pub(crate) fn name(&self) -> &[u8] {
        if self.name.is_empty() { b"default" } else { &self.name }
    }

    /// The same, as the user is told from others: empty for Redis's default user, unproved.
    pub(crate) fn own_name(&self) -> &[u8] {
        &self.name
    }

    /// Whether any of its ears has fills that it has not done with.
    pub(crate) fn is_filling(&self) -> bool {
        self.ears().iter().any(|ear| ear.is_filling())
    }

    /// Whether it is known that the user may publish what its writes have to tell.
    pub(crate) fn publishes(&self) -> bool {
        self.publishes.load(Ordering::Relaxed)
    }

    /// It may, or may not.
    pub(crate) fn set_publishes(&self, may: bool) {
        self.publishes.store(may, Ordering::Relaxed);
    }

    /// A client proved this login, or the configuration gives it: connections of this user are made with it from now on.
    pub(crate) fn trust(&self, login: &Arc<Login>) {
        let is_new = self.login.replace(login).as_ref() != Some(login);
        self.ears().iter().for_each(|ear| ear.note_login(is_new));
    }

    /// The password of this user, which is one of crema's own, has changed to one that was proved: its ears log in with it, and
    /// connections are made with it from now on.
    pub(crate) fn renew(&self, login: &Arc<Login>) {
        if self.login.get().as_ref() != Some(login) {
            self.trust(login);
            self.ears().iter().for_each(|ear| ear.log_in.notify_one());
        }
    }

    /// What connections of this user are to be made with.
    pub(crate) fn login(&self) -> Option<Arc<Login>> {
        self.login.get()
    }

    /// Whether more than one session is this user.
    pub(crate) fn is_shared(&self) -> bool {
        self.seats.load(Ordering::Relaxed) > 1
    }

    /// Its ear at the node of `group`, which connects when it is first asked to fill.
    pub(super) fn ear(&self, group: &Arc<EarGroup>) -> Arc<Ear> {
        let mut ears = self.lock();
        if let Some(ear) = ears.iter().find(|ear| Arc::ptr_eq(&ear.group, group)) {
            return Arc::clone(ear);
        }
        let ear = Ear::new(Arc::clone(group), Arc::clone(&self.login), self.stop.child_token());
        ears.push(Arc::clone(&ear));
        ear
    }

    /// All its ears.
    pub(super) fn ears(&self) -> Vec<Arc<Ear>> {
        self.lock().clone()
    }

    /// Shows `look` each ear. It must not ask for one.
    pub(super) fn each_ear(&self, look: impl FnMut(&Arc<Ear>)) {
        self.lock().iter().for_each(look);
    }

    /// How long nobody has been this user.
    pub(super) fn unused_for(&self, now: Time) -> Duration {
        if self.seats.load(Ordering::Acquire) > 0 {
            return Duration::ZERO;
        }
        now.saturating_since(Time::from_nanos(self.left.load(Ordering::Relaxed)))
    }

    /// Nobody is this user any more: its ears end, and with them everything that they filled.
    pub(super) fn end(&self) {
        self.ears().iter().for_each(|ear| ear.end());
    }

    /// The node has left: so does the ear there.
    pub(super) fn leave(&self, node: &Arc<Node>) {
        self.lock().retain(|ear| {
            let stays = !Arc::ptr_eq(&ear.group.node, node);
            if !stays {
                ear.end();
            }
            stays
        });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Ear>>> {
        self.ears.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;

    fn group(port: u16) -> Arc<EarGroup> {
        let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port };
        Arc::new(EarGroup::new(Arc::new(Node::new(endpoint, 1, Duration::from_secs(1)))))
    }

    fn user() -> Arc<AclUser> {
        AclUser::new(b"u", CancellationToken::new())
    }

    #[test]
    fn a_user_stays_while_somebody_is_it() {
        let user = user();
        let (one, two) = (Seat::take(&user), Seat::take(&user));
        assert!(user.is_shared());
        drop(one);
        assert!(!user.is_shared());
        assert_eq!(user.unused_for(Time::NEVER), Duration::ZERO);
        drop(two);
        assert!(user.unused_for(Time::NEVER) > Duration::ZERO);
    }

    #[test]
    fn a_user_has_one_ear_at_each_node_until_the_node_leaves() {
        let (user, one, other) = (user(), group(1), group(2));
        let (here, there) = (user.ear(&one), user.ear(&other));
        assert!(Arc::ptr_eq(&here, &user.ear(&one)) && !Arc::ptr_eq(&here, &there));
        let before = here.freshness.epoch();
        user.leave(&one.node);
        assert_ne!(here.freshness.epoch(), before, "nothing that it filled counts any more");
        assert!(user.ears().iter().all(|ear| Arc::ptr_eq(ear, &there)));
        assert!(!Arc::ptr_eq(&here, &user.ear(&one)), "should it come again, it is another");
    }

    #[test]
    fn all_ears_go_by_the_newest_login() {
        let (user, login) = (user(), Arc::new(Login { user: (*b"u").into(), password: (*b"p").into() }));
        let ear = user.ear(&group(1));
        user.trust(&login);
        assert_eq!(ear.login.get(), Some(Arc::clone(&login)));
        assert_eq!(user.ear(&group(2)).login.get(), Some(login));
    }
}
