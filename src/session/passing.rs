//! A session that goes on in another process: what is told of its client there, and what is made of that.
//!
//! Only one that has nothing under way and nothing of its own at the upstream: what a connection of its own remembers stays with that.
//!
//! Holds contract point 8: who a client is in the other process it proved to this one, or it is nobody there.

use std::rc::Rc;
use std::sync::Arc;

use super::wire::Wire;
use super::{Admission, Answers, Session};
use crate::proxy::{ClientRecord, ClientStage, PassedClient, Who};
use crate::resp::Resp;
use crate::upstream::Login;

impl Session {
    /// Has the session go on in the process that has taken over, if it can. True: it does, and ends here.
    pub(super) fn pass(&self, wire: &Wire) -> bool {
        let shared = &self.worker.shared;
        let goes_alone = self.link.is_shared() || !self.knows_home && self.link.leaves_home().is_some();
        let is_plain = goes_alone && self.answers == Answers::On && !self.crowded && self.feeds.is_none();
        let is_done = self.caller.replies.is_settled() && self.caller.replies.is_flushed();
        if self.entrance.at.is_empty() || !shared.succession.passage.is_open() || !is_plain || !is_done {
            return false;
        }
        let Some(socket) = wire.copy() else { return false };
        shared.succession.passage.pass(PassedClient { socket, record: self.record() })
    }

    /// Whether its client has read all, where that may go on in another process: no reply goes with it.
    pub(super) fn has_read_what_it_must(&self) -> bool {
        self.caller.replies.is_flushed() || !self.worker.shared.succession.passage.is_open()
    }

    fn record(&self) -> ClientRecord {
        let who = &self.caller.who;
        let login = who.proof.as_ref().map(|proof| (proof.login().user.to_vec(), proof.login().password.to_vec()));
        ClientRecord {
            entrance: self.entrance.at.clone(),
            peer: self.caller.replies.member().peer(),
            stage: ClientStage::Session,
            login,
            account: self.account.as_deref().map(str::to_owned),
            db: who.db,
            is_resp3: self.caller.resp == Resp::V3,
            name: self.name.as_deref().map(<[u8]>::to_vec),
            info: self.info.iter().map(|info| info.to_vec()).collect(),
        }
    }

    /// The client is who it was elsewhere. One that the settings of this process do not know is asked anew.
    pub(super) fn resume(&mut self, record: ClientRecord) {
        if self.keeps_passwords() {
            let user = record.account.as_deref().and_then(|name| self.login_by_name(name));
            if let Some((name, login)) = user {
                self.admission = Admission::Open;
                self.account = Some(name);
                let who = Who::new(&self.worker.shared, self.worker.front().node(), login, self.caller.who.db);
                self.caller.become_(who, self.caller.resp);
            }
        } else if let Some((user, password)) = record.login {
            self.logged_in(Login { user: user.into(), password: password.into() });
        }
        let mut who = Rc::clone(&self.caller.who);
        if who.db != record.db {
            who = who.in_db(&self.worker.shared, record.db);
        }
        self.caller.become_(who, if record.is_resp3 { Resp::V3 } else { Resp::V2 });
        self.set_name(record.name.as_deref().unwrap_or_default());
        self.info = record.info.into_iter().map(Vec::into_boxed_slice).collect();
    }

    /// A user of crema's own, and what Redis is shown for it.
    fn login_by_name(&self, name: &str) -> Option<(Box<str>, Option<Arc<Login>>)> {
        let user = self.entrance.passwords.named(name)?;
        Some((user.name.as_str().into(), self.login_of(user)))
    }
}
