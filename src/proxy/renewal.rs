//! Open connections log in anew where a password of crema's own has changed: some services end those that do not.
//!
//! Looked at once a second. `AUTH` goes in the order of the commands, and its answer to nobody. From 7.2 on Redis gives no answer to
//! one that it refuses while it has another to send: so only a password is used that has just made a connection, and an `ECHO`
//! behind it shows whether replies are in step (point 1). Where it is refused all the same, the connection ends when it is idle.
//! Left alone for the time being are connections on which a client has a transaction open, or logs in. Behind a command that waits
//! the password would be an old one when its turn comes, so it goes when that is answered. Left alone for good are those that a
//! client has changed: in RESP2 a subscriber may not log in at all. What a client itself proved to Redis (`auth = "upstream"`) is
//! never renewed.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::in_flight::{InFlight, ReplyAction};
use super::station::Station;
use crate::clock::Time;
use crate::resp::encode;
use crate::upstream::{Lane, Login, RotatingLogin};

impl Station {
    /// See the module's head.
    pub(super) fn renew_logins(self: &Rc<Self>, now: Time) {
        if self.clients_prove() {
            return;
        }
        for source in self.site.node.rotating() {
            let Some(login) = source.proved() else { continue };
            for lane in self.record.in_as(|former| source.gave(former), &login) {
                if !lane.is_private() {
                    self.renew_login(lane, &login, now);
                } else if lane.is_free() {
                    self.renew_private(lane, source, now);
                }
            }
        }
    }

    /// At once, or when nothing waits on it.
    fn renew_private(self: &Rc<Self>, lane: Rc<Lane<InFlight>>, source: &Arc<RotatingLogin>, now: Time) {
        let renew = |station: &Rc<Self>, lane: Rc<Lane<InFlight>>, source: &RotatingLogin, now| {
            let former = station.record.login_of(&lane);
            let new = source.proved().filter(|new| former.is_some_and(|former| former != *new && source.gave(&former)));
            if let Some(new) = new.filter(|_| lane.is_made() && lane.is_free()) {
                station.renew_login(lane, &new, now);
            }
        };
        if !lane.is_patient() {
            return renew(self, lane, source, now);
        }
        self.record.set_due(&lane, true);
        let (station, source) = (Rc::clone(self), Arc::clone(source));
        self.tasks.spawn_local(async move {
            lane.impatient().await;
            station.record.set_due(&lane, false);
            renew(&station, lane, &source, Time::now());
        });
    }

    fn renew_login(self: &Rc<Self>, lane: Rc<Lane<InFlight>>, login: &Arc<Login>, now: Time) {
        let mut auth = Vec::new();
        encode::own_command(&mut auth, &[b"AUTH", &login.user, &login.password]);
        let (told, reply) = oneshot::channel();
        if lane.send(&auth, InFlight::own(&self.site, ReplyAction::Capture(Vec::new(), told)), now).is_err() {
            return; // it has ended
        }
        lane.verify(now);
        self.record.logged_in(&lane, login); // not twice
        self.tasks.spawn_local(async move {
            match reply.await {
                Ok(reply) if reply.starts_with(b"+") => debug!("a connection has logged in with its new password"),
                Ok(reply) if reply.starts_with(b"-") => {
                    let said = String::from_utf8_lossy(&reply);
                    warn!("a connection is given up, for the upstream refuses its new password: {}", said.trim_end());
                    lane.retire();
                }
                Ok(_) => lane.lose("no answer to AUTH"),
                Err(_) => {} // it has ended
            }
        });
    }
}
