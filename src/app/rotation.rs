//! Passwords of crema's own that change: read at start, and again and again, and what is logged in with them follows.
//!
//! A new one is proved by a connection before it is of use to anybody: then the user's ears log in with it here, and its other
//! connections in `proxy/renewal`. One task of the control thread for each.

use std::sync::Arc;

use tokio::time::sleep;
use tracing::warn;

use crate::config::{Auth, Config, PasswordOrigin, UpstreamPassword};
use crate::error::Error;
use crate::invalidation::L1;
use crate::resp::Resp;
use crate::upstream::{Backoff, LOOK, Node, RotatingLogin, Target, connect};

/// See the module's head.
#[derive(Default)]
pub(super) struct RotatingLogins {
    /// That of the user in `upstream`.
    pub(super) own: Option<Arc<RotatingLogin>>,
    /// Those of users of crema's own.
    pub(super) others: Vec<Arc<RotatingLogin>>,
}

impl RotatingLogins {
    /// Reads all for the first time, or says which cannot be read and why.
    pub(super) async fn start(config: &Config) -> Result<Self, Error> {
        let mut logins = Self::default();
        if let Some(origin) = &config.upstream_password {
            let user = config.upstream.user.as_deref().unwrap_or("default");
            logins.own = Some(first(user, origin, origin.setting()).await?);
        }
        let users = if let Auth::Own(users) = &config.auth { &users[..] } else { &[] };
        for user in users {
            if let Some((upstream, UpstreamPassword::Changes(origin))) = &user.upstream
                && !logins.others.iter().any(|known| known.is(upstream.as_bytes(), origin))
            {
                logins.others.push(first(upstream, origin, "user").await?);
            }
        }
        Ok(logins)
    }
}

async fn first(user: &str, origin: &PasswordOrigin, setting: &'static str) -> Result<Arc<RotatingLogin>, Error> {
    let started = RotatingLogin::start(user.as_bytes(), origin.clone()).await;
    started.map_err(|why| Error::Password { setting, why: why.into() })
}

/// Never returns.
pub(super) async fn follow(source: Arc<RotatingLogin>, node: Arc<Node>, l1: Arc<L1>) {
    let mut backoff = Backoff::default();
    loop {
        sleep(LOOK).await;
        let login = source.fresh().await;
        let is_new = |source: &RotatingLogin| source.proved().as_ref() != Some(&login);
        if is_new(&source) {
            let (node, login) = (Arc::clone(&node), Some(Arc::clone(&login)));
            let made = connect(&Target { node, login, db: 0, resp: Resp::V2, name: "crema-login" }).await;
            let refused = matches!(made, Err(Error::LoginRefused { .. }));
            if refused || made.is_ok() && is_new(&source) {
                warn!("the upstream refuses the new password of user `{source}`: connections keep the last");
            }
            if made.is_err() || is_new(&source) {
                sleep(backoff.wait()).await;
                continue;
            }
        }
        backoff.reset();
        if let Some(proved) = source.proved() {
            l1.ears.seat(&proved.user).user().renew(&proved);
        }
    }
}
