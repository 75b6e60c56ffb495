//! Whether Redis would still have those who proved a login to it.
//!
//! A client that logs in straight to Redis loses its connection when its user is deleted. Here its commands go on lanes that
//! others opened, so the loss of any connection of a user puts all that was proved as this user in doubt: it is proved again,
//! on a connection kept for logins, before a session that relies on it goes on. Where Redis refuses, and has ended every
//! connection that was made with this login, the sessions end. Where one of those stands, the password was merely changed, or
//! the user switched off: that ends nobody who is in, as in Redis.
//!
//! Holds contract point 8 (no leaks).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::proof::{Proof, Share};
use super::replies::Replies;
use super::worker::Worker;
use crate::clock::Time;
use crate::error::Error;
use crate::resp::encode;
use crate::upstream::{Backoff, Login};

/// A login in doubt is not proved again before this is over, unless a session needs it: Redis ends a user's connections one by
/// one, and who had it do so is not to find new ones when it looks.
const AFTERMATH: Duration = Duration::from_millis(300);

impl Worker {
    /// Redis has accepted `login` from the session behind `replies`.
    pub(crate) fn prove(&self, login: Login, replies: &Rc<Replies>) -> Rc<Share> {
        self.stations().iter().for_each(|station| station.record.accept(&login));
        self.proofs.join(login, replies)
    }

    /// Redis ended a connection of this user: perhaps the user is no more.
    pub(super) fn doubt(self: &Rc<Self>, user: &[u8]) {
        for proof in self.proofs.of(user) {
            if proof.doubt() {
                let worker = Rc::clone(self);
                self.tasks.spawn_local(async move { worker.check(&proof).await });
            }
        }
    }

    /// Proves it again for sessions that wait for nothing but their clients.
    async fn check(self: Rc<Self>, proof: &Rc<Proof>) {
        sleep(AFTERMATH).await;
        let mut backoff = Backoff::default();
        while proof.is_doubted() && proof.is_relied_on() && !self.is_closed() {
            if self.verify(proof).await.is_err() {
                sleep(backoff.wait()).await;
            }
        }
        proof.end_check();
    }

    /// Whether Redis still accepts what was proved. Where not, every session that relies on it ends. Fails, and decides
    /// nothing, while Redis cannot be asked.
    pub(crate) async fn verify(self: &Rc<Self>, proof: &Rc<Proof>) -> Result<bool, Error> {
        let (mut question, login) = (Vec::new(), proof.login());
        encode::own_command(&mut question, &[b"AUTH", &login.user, &login.password]);
        let front = self.front();
        let reply = front.log_in(&question).await?;
        match reply.first() {
            Some(b'+') => {
                proof.believe();
                // The connection that was lost may have been the last whose end would tell that the user is gone.
                front.record.accept(login);
                front.warm_up(&login.user, Some(Arc::clone(login)), (0, Vec::new()), Time::now());
            }
            Some(b'-') if reply.starts_with(b"-WRONGPASS") || reply.starts_with(b"-NOAUTH") => {
                // Redis ends all connections of a user who is no more, and that takes a moment to arrive.
                sleep(AFTERMATH).await;
                if self.stations().iter().any(|station| station.record.has(|other| *other == **login)) {
                    proof.believe();
                    return Ok(true);
                }
                proof.end();
                return Ok(false);
            }
            _ => {
                let node = Arc::clone(&front.node().address);
                return Err(Error::Refused { node, reply: reply.into() });
            }
        }
        Ok(true)
    }
}
