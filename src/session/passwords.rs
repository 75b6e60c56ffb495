//! Passwords of crema's own (`auth = "own"`): who a client is, decided here and without Redis.
//!
//! The words are Redis's, as of version 7. What a client proves here maps to a login of the upstream, which no client sees. A
//! certificate can stand for the password (`tls_client_user`).

use std::sync::Arc;

use tracing::warn;

use super::{Admission, Close, Session};
use crate::config::{Auth, CertificateUser, User};
use crate::metrics::Failure;
use crate::net::Socket;
use crate::proxy::Who;
use crate::resp::encode;
use crate::upstream::Login;

pub(super) const NO_AUTH: &[u8] = b"-NOAUTH Authentication required.\r\n";
pub(super) const NO_AUTH_FOR_HELLO: &[u8] = b"-NOAUTH HELLO must be called with the client already authenticated, \
    otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP \
    protocol version at the same time\r\n";
const WRONG_PASS: &[u8] = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n";

impl Session {
    /// Compares with the users of the configuration; the session is the one whose password it was, else the refusal comes
    /// back. A private connection that stays with the session becomes that user's first.
    pub(super) async fn log_in_here(&mut self, given: &Login) -> Result<Result<(), Vec<u8>>, Close> {
        let Some(user) = find(self.passwords(), given) else {
            self.fails(Failure::Login);
            return Ok(Err(WRONG_PASS.to_vec()));
        };
        let login = self.login_of(user);
        if let Some(private) = self.own_lane()
            && login != self.caller.who.login
        {
            let Some(login) = &login else {
                self.fails(Failure::Login);
                return Ok(Err(cannot()));
            };
            let mut auth = Vec::new();
            encode::own_command(&mut auth, &[b"AUTH", &login.user, &login.password]);
            let reply = self.capture(&private, &auth).await?;
            if !reply.starts_with(b"+") {
                return Ok(Err(reply));
            }
        }
        self.admission = Admission::Open;
        let who = Who::new(&self.worker.front(), login, self.caller.who.db);
        self.caller.become_(who, self.caller.resp);
        Ok(Ok(()))
    }

    /// Lets in whom its certificate names, before it says anything. One that names nobody leaves its client as if it had shown
    /// none, as Redis 8.6 and Valkey 9 do with theirs (`tls-auth-clients-user`).
    pub(super) fn certify(&mut self, socket: &Socket) {
        if self.worker.shared.config.tls_client_user == CertificateUser::Off {
            return;
        }
        let Some(name) = socket.certified_name() else { return };
        let Some(user) = self.passwords().iter().find(|user| user.name == name) else {
            let (client, name) = (socket.peer(), name.escape_debug());
            return warn!(%client, "a client's certificate names `{name}`, who is no [[user]]: it must give a password");
        };
        let who = Who::new(&self.worker.front(), self.login_of(user), self.caller.who.db);
        self.admission = Admission::Open;
        self.caller.become_(who, self.caller.resp);
    }

    /// What Redis is shown for a user.
    fn login_of(&self, user: &User) -> Option<Arc<Login>> {
        match &user.upstream {
            Some((user, password)) => {
                let (user, password) = (user.as_bytes().into(), password.expose().as_bytes().into());
                Some(Arc::new(Login { user, password }))
            }
            None => self.worker.shared.login.clone(),
        }
    }

    /// The users whose passwords are crema's own: none, unless all are.
    fn passwords(&self) -> &[User] {
        match &self.worker.shared.config.auth {
            Auth::Own(users) => users,
            Auth::Upstream | Auth::Open => &[],
        }
    }

    /// Passwords are crema's own.
    pub(super) fn keeps_passwords(&self) -> bool {
        matches!(self.worker.shared.config.auth, Auth::Own(_))
    }

    /// A login that crema cannot carry out, because what it would mean on this connection is Redis's to say, whose passwords are
    /// others.
    pub(super) fn refuse_login(&self) {
        self.fails(Failure::Login);
        self.answer(|out| out.extend_from_slice(&cannot()));
    }
}

fn cannot() -> Vec<u8> {
    let mut out = Vec::new();
    encode::error(&mut out, "ERR crema: with auth = \"own\" no login is possible at this point of a connection");
    out
}

/// The user who has this name and this password. How long it takes tells nothing of how much of a password was right.
fn find<'a>(users: &'a [User], given: &Login) -> Option<&'a User> {
    let user = users.iter().find(|user| user.name.as_bytes() == &*given.user)?;
    let (known, given) = (user.password.as_ref()?.expose().as_bytes(), &given.password);
    let differing = known.iter().zip(given.iter()).fold(0, |differing, (a, b)| differing | (a ^ b));
    (known.len() == given.len() && differing == 0).then_some(user)
}
