//! What clients of a worker proved to Redis, and whether Redis would still have them.
//!
//! A client that logs in straight to Redis loses its connection when its user is deleted. Here its commands go on lanes that
//! others opened, so the loss of any connection of a user puts all that was proved as this user in doubt: it is proved again,
//! on a connection kept for logins, before a session that relies on it goes on. Where Redis refuses, and has ended every
//! connection that was made with this login, the sessions end. Where one of those stands, the password was merely changed, or
//! the user switched off: that ends nobody who is in, as in Redis.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::replies::Replies;
use super::reply_queue::End;
use super::station::Station;
use super::worker::Worker;
use crate::clock::Time;
use crate::error::Error;
use crate::resp::encode;
use crate::upstream::{Backoff, Login};

/// A login in doubt is not proved again before this is over, unless a session needs it: Redis ends a user's connections one by
/// one, and who had it do so is not to find new ones when it looks.
const AFTERMATH: Duration = Duration::from_millis(300);

/// A login that Redis accepted, with the sessions that rely on it.
pub struct Proof {
    login: Arc<Login>,
    doubted: Cell<bool>,
    checking: Cell<bool>,
    shares: RefCell<Vec<Weak<Share>>>,
}

/// A session's share in a proof, held for as long as the session is who it proved to be: it may become someone else.
pub struct Share {
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
    pub fn login(&self) -> &Arc<Login> {
        &self.login
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.get()
    }

    fn living(&self) -> Vec<Rc<Replies>> {
        self.shares.borrow().iter().filter_map(|share| share.upgrade()?.session.upgrade()).collect()
    }
}

impl Proofs {
    /// The session behind `replies` proved `login`.
    fn join(&self, login: Login, replies: &Rc<Replies>) -> Rc<Share> {
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
}

impl Worker {
    /// Redis has accepted `login` from the session behind `replies`.
    pub fn prove(&self, login: Login, replies: &Rc<Replies>) -> Rc<Share> {
        self.stations().iter().for_each(|station| station.heirs.accept(&login));
        self.proofs.join(login, replies)
    }

    /// A connection of this user at `station`, or the try to make one, has ended with `error`, and not by crema's doing.
    pub(super) fn ended(self: &Rc<Self>, station: &Station, login: &Login, error: &Error) {
        let refused = matches!(error, Error::LoginRefused { .. });
        // With a connection left, the next that is lost will tell; with none, nothing would.
        if error.is_cut() || refused && !station.heirs.has(|other| other.user == login.user) {
            self.doubt(&login.user);
        }
    }

    /// Redis ended a connection of this user: perhaps the user is no more.
    fn doubt(self: &Rc<Self>, user: &[u8]) {
        let doubted: Vec<_> = self.proofs.0.borrow().get(user).into_iter().flatten().map(Rc::clone).collect();
        for proof in doubted {
            proof.doubted.set(true);
            if !proof.checking.replace(true) {
                let worker = Rc::clone(self);
                self.tasks.spawn_local(async move { worker.check(&proof).await });
            }
        }
    }

    /// Proves it again for sessions that wait for nothing but their clients.
    async fn check(self: Rc<Self>, proof: &Rc<Proof>) {
        sleep(AFTERMATH).await;
        let mut backoff = Backoff::default();
        while proof.is_doubted() && !proof.living().is_empty() && !self.is_closed() {
            if self.verify(proof).await.is_err() {
                sleep(backoff.wait()).await;
            }
        }
        proof.checking.set(false);
    }

    /// Whether Redis still accepts what was proved. Where not, every session that relies on it ends. Fails, and decides
    /// nothing, while Redis cannot be asked.
    pub async fn verify(self: &Rc<Self>, proof: &Rc<Proof>) -> Result<bool, Error> {
        let mut question = Vec::new();
        encode::own_command(&mut question, &[b"AUTH", &proof.login.user, &proof.login.password]);
        let front = self.front();
        let reply = front.log_in(&question).await?;
        match reply.first() {
            Some(b'+') => {
                proof.doubted.set(false);
                // The connection that was lost may have been the last whose end would tell that the user is gone.
                front.heirs.accept(&proof.login);
                front.warm_up(&proof.login.user, Some(Arc::clone(&proof.login)), (0, Vec::new()), Time::now());
            }
            Some(b'-') if reply.starts_with(b"-WRONGPASS") || reply.starts_with(b"-NOAUTH") => {
                // Redis ends all connections of a user who is no more, and that takes a moment to arrive.
                sleep(AFTERMATH).await;
                if self.stations().iter().any(|station| station.heirs.has(|login| *login == *proof.login)) {
                    proof.doubted.set(false);
                    return Ok(true);
                }
                proof.living().iter().for_each(|session| session.end(End::LoggedOut));
                return Ok(false);
            }
            _ => {
                let node = Arc::clone(&front.node.address);
                return Err(Error::Refused { node, reply: reply.into() });
            }
        }
        Ok(true)
    }
}
