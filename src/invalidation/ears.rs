//! The ears: whose there are, at which nodes, and what is said to all of them at once.
//!
//! A user's ears stay for as long as somebody is that user, and a little longer. Knows nothing of what is kept in L1; no task is
//! started here.
//!
//! Holds contract point 8 (no leaks).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ear::{Ear, EarGroup, EarState};
use super::user::{AclUser, Seat};
use crate::clock::Time;
use crate::control::Control;
use crate::upstream::Node;

/// The ears of a user whom nobody has been for so long are given up, with all that they filled.
const UNUSED: Duration = Duration::from_secs(60);

/// See the module's head.
pub(crate) struct Ears {
    users: Mutex<HashMap<Box<[u8]>, Arc<AclUser>>>,
    /// By node.
    groups: Mutex<Vec<Arc<EarGroup>>>,
    control: Control,
}

impl Ears {
    /// None yet; all will end with the tasks of `control`.
    pub(super) fn new(control: Control) -> Self {
        Self { users: Mutex::default(), groups: Mutex::default(), control }
    }

    /// Is this user from now on (empty: Redis's default user, unproved). The user's ears stay for as long as the seat is held, and a
    /// little longer.
    pub(crate) fn seat(&self, user: &[u8]) -> Seat {
        let mut users = self.lock();
        if let Some(user) = users.get(user) {
            return Seat::take(user);
        }
        let new = AclUser::new(user, self.control.child_token());
        users.insert(user.into(), Arc::clone(&new));
        Seat::take(&new)
    }

    /// The ear of a user at `node`, which connects when it is first asked to fill.
    pub(crate) fn at(&self, user: &AclUser, node: &Arc<Node>) -> Arc<Ear> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let group = groups.iter().find(|group| Arc::ptr_eq(&group.node, node)).cloned().unwrap_or_else(|| {
            let new = Arc::new(EarGroup::new(Arc::clone(node)));
            groups.push(Arc::clone(&new));
            new
        });
        drop(groups);
        user.ear(&group)
    }

    /// The node has left the topology: so do all ears there, with what they filled.
    pub(crate) fn leave(&self, node: &Arc<Node>) {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).retain(|group| !Arc::ptr_eq(&group.node, node));
        self.lock().values().for_each(|user| user.leave(node));
    }

    /// Gives up users whom nobody has been for a while, and tells `forget` the name of each.
    pub(super) fn reclaim(&self, now: Time, forget: impl Fn(&[u8])) {
        self.lock().retain(|name, user| {
            let used = user.unused_for(now) < UNUSED;
            if !used {
                user.end();
                forget(name);
            }
            used
        });
    }

    /// All by the names of their users.
    pub(crate) fn all(&self) -> Vec<(Box<[u8]>, Arc<Ear>)> {
        let name = |user: &[u8]| if user.is_empty() { (*b"default").into() } else { user.into() };
        let users = self.lock();
        users.iter().flat_map(|(user, of)| of.ears().into_iter().map(move |ear| (name(user), ear))).collect()
    }

    /// Those at one node.
    pub(super) fn all_at(&self, node: &Arc<Node>) -> Vec<(Box<[u8]>, Arc<Ear>)> {
        self.all().into_iter().filter(|(_, ear)| Arc::ptr_eq(ear.node(), node)).collect()
    }

    /// This user's at the node, if there is one.
    pub(super) fn of(&self, user: &[u8], node: &Arc<Node>) -> Option<Arc<Ear>> {
        self.lock().get(user)?.ears().into_iter().find(|ear| Arc::ptr_eq(ear.node(), node))
    }

    /// Shows `look` each ear there is. It must not ask for one.
    pub(super) fn each(&self, mut look: impl FnMut(&Arc<Ear>)) {
        self.lock().values().for_each(|user| user.each_ear(&mut look));
    }

    /// Those at the node that were ever asked to fill.
    pub(super) fn that_have_filled_at(&self, node: &Arc<Node>) -> Vec<Arc<Ear>> {
        let mut ears = Vec::new();
        self.each(|ear| {
            let has_filled = ear.has_filled() && Arc::ptr_eq(ear.node(), node);
            ears.extend(has_filled.then(|| Arc::clone(ear)));
        });
        ears
    }

    /// Whether any at the node was ever asked to fill.
    pub(super) fn have_filled_at(&self, node: &Arc<Node>) -> bool {
        self.lock().values().any(|user| {
            let mut filled = false;
            user.each_ear(|ear| filled |= ear.has_filled() && Arc::ptr_eq(ear.node(), node));
            filled
        })
    }

    /// Where they listen from, as Redis prints addresses.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let mut addresses = Vec::new();
        self.each(|ear| {
            if let EarState::Listening(address) = ear.state() {
                addresses.push(address);
            }
        });
        addresses
    }

    /// None vouches for anything until its next fence is back.
    pub(super) fn end_leases(&self) {
        self.each(|ear| ear.freshness.end());
    }

    /// None at this node does.
    pub(super) fn end_leases_at(&self, node: &Arc<Node>) {
        self.each(|ear| {
            if Arc::ptr_eq(ear.node(), node) {
                ear.freshness.end();
            }
        });
    }

    /// Nothing that any of them has filled so far counts any more.
    pub(super) fn bump(&self) {
        self.each(|ear| ear.freshness.bump());
    }

    /// Has each that has filled ask Redis at once whether it hears.
    pub(super) fn nudge(&self) {
        self.each(|ear| ear.nudge());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Arc<AclUser>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;

    fn node() -> Arc<Node> {
        let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port: 1 };
        Arc::new(Node::new(endpoint, 1, Duration::from_secs(1)))
    }

    #[tokio::test]
    async fn a_user_whom_nobody_has_been_for_a_while_is_given_up_with_its_ears() {
        let (ears, node) = (Ears::new(Control::here()), node());
        let (here, gone) = (ears.seat(b"here"), ears.seat(b"gone"));
        let ear = ears.at(gone.user(), &node);
        let epoch = ear.freshness.epoch();
        ears.at(here.user(), &node);
        drop(gone);
        let forgotten = Mutex::new(Vec::new());
        let forget = |name: &[u8]| forgotten.lock().expect("one thread").push(name.to_vec());
        ears.reclaim(Time::now(), forget);
        assert_eq!(ears.all().len(), 2, "not at once");
        ears.reclaim(Time::now().plus(UNUSED * 2), forget);
        assert_eq!(*forgotten.lock().expect("one thread"), [b"gone"]);
        assert_eq!(ears.all().into_iter().map(|(name, _)| name).collect::<Vec<_>>(), [(*b"here").into()]);
        assert_ne!(ear.freshness.epoch(), epoch, "nothing that it filled counts any more");
    }

    #[tokio::test]
    async fn what_is_said_to_all_is_said_to_each_at_every_node() {
        let (ears, one, other) = (Ears::new(Control::here()), node(), node());
        let seat = ears.seat(b"");
        let both = [&one, &other].map(|node| ears.at(seat.user(), node));
        for ear in &both {
            ear.freshness.renew(Time::NEVER);
        }
        let epochs = both.each_ref().map(|ear| ear.freshness.epoch());
        ears.bump();
        assert!(both.iter().zip(epochs).all(|(ear, epoch)| ear.freshness.epoch() != epoch));
        ears.end_leases();
        assert!(both.iter().all(|ear| !ear.freshness.held(Time::now())));
        assert_eq!((ears.all_at(&one).len(), ears.have_filled_at(&one)), (1, false));
        ears.leave(&one);
        assert_eq!(ears.all().len(), 1);
        assert!(ears.of(b"", &one).is_none());
        assert!(Arc::ptr_eq(&ears.of(b"", &other).expect("there is one"), &both[1]));
    }
}
