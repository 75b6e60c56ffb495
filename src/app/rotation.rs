//! Passwords of crema's own that change: read at start, and again and again, and what is logged in with them follows.
//!
//! A new one is proved by a connection before it is of use to anybody: then the user's ears log in with it here, and its other
//! connections in `proxy/renewal`. One task of the control thread for each.

use std::sync::Arc;

use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::config::{Auth, Config, PasswordOrigin, UpstreamPassword};
use crate::error::Error;
use crate::invalidation::L1;
use crate::resp::Resp;
use crate::upstream::{Backoff, LOOK, Login, RotatingLogin, SentinelLogin, Serving, Target, connect};

/// See the module's head.
#[derive(Default)]
pub(super) struct RotatingLogins {
    /// That of the user in `upstream`.
    pub(super) own: Option<Arc<RotatingLogin>>,
    /// Those of users of crema's own.
    pub(super) others: Vec<Arc<RotatingLogin>>,
    /// That of the Sentinels' user, whether it changes or not.
    pub(super) sentinel: SentinelLogin,
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
        logins.sentinel = sentinel_login(config).await?;
        Ok(logins)
    }
}

async fn sentinel_login(config: &Config) -> Result<SentinelLogin, Error> {
    let named = config.sentinel.user.as_deref();
    let user = named.unwrap_or("default");
    Ok(match &config.sentinel.password {
        None => SentinelLogin::None,
        Some(UpstreamPassword::Fixed(password)) => {
            let login = Login { user: user.as_bytes().into(), password: password.expose().as_bytes().into() };
            SentinelLogin::Fixed(Arc::new(login), named.is_some())
        }
        Some(UpstreamPassword::Changes(origin)) => {
            SentinelLogin::Changes(first(user, origin, "sentinel_password_file").await?, named.is_some())
        }
    })
}

async fn first(user: &str, origin: &PasswordOrigin, setting: &'static str) -> Result<Arc<RotatingLogin>, Error> {
    let started = RotatingLogin::start(user.as_bytes(), origin.clone()).await;
    started.map_err(|why| Error::Password { setting, why: why.into() })
}

/// Never returns.
pub(super) async fn follow(source: Arc<RotatingLogin>, front: Serving, l1: Arc<L1>) {
    let (mut backoff, mut next_try) = (Backoff::default(), Instant::now());
    loop {
        sleep(LOOK).await;
        let login = source.fresh().await;
        let proved = source.proved();
        if proved.as_ref() == Some(&login) {
            backoff.reset();
        } else if next_try > Instant::now() {
            continue;
        } else {
            let (node, login) = (front.node(), Some(login));
            let made = connect(&Target { node, login, db: 0, resp: Resp::V2, name: "crema-login" }).await;
            if is_refused(made.as_ref().map(|connection| connection.login.as_ref()), proved.as_ref()) {
                warn!("the upstream refuses the new password of user `{source}`: connections keep the last");
            }
            if source.proved() == proved {
                next_try = Instant::now() + backoff.wait();
                continue;
            }
        }
        if let Some(proved) = source.proved() {
            l1.ears.seat(&proved.user).user().renew(&proved);
        }
    }
}

/// Whether a try with a new password was refused: it ended with that, or was made with the `last` that was accepted. It may also
/// have been made with one that is newer still.
fn is_refused(made: Result<Option<&Arc<Login>>, &Error>, last: Option<&Arc<Login>>) -> bool {
    match made {
        Ok(used) => last.is_some() && used == last,
        Err(error) => matches!(error, Error::LoginRefused { .. }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_that_is_refused_is_warned_of() {
        let login = |password: &[u8]| Arc::new(Login { user: (*b"u").into(), password: password.into() });
        let (last, newer) = (login(b"last"), login(b"newer"));
        let (node, reply) = (Arc::from("node"), Arc::from(&b"-WRONGPASS"[..]));
        let (refused, late) =
            (Error::LoginRefused { node: Arc::clone(&node), reply }, Error::Timeout { node, after: LOOK });
        for (made, before, refuses) in [
            (Ok(Some(&last)), Some(&last), true),
            (Ok(Some(&newer)), Some(&last), false),
            (Ok(Some(&newer)), None, false),
            (Err(&refused), Some(&last), true),
            (Err(&refused), None, true),
            (Err(&late), Some(&last), false),
        ] {
            assert_eq!(is_refused(made, before), refuses, "{made:?}");
        }
    }
}
