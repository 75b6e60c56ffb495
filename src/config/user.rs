//! Users of crema's own (`auth = "own"`): the `[[user]]` tables of the file, each a name and a password for clients, and whom
//! the upstream then sees. Where certificates name users, one may have no password.

use toml::Spanned;

use super::CertificateUser;
use super::error::{ConfigError, Problem};
use super::flags::UserSettings;
use super::raw::Layers;
use super::url::Secret;

/// A user that crema itself lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// As clients give it; `default` for those that give a password alone.
    pub name: String,
    /// As clients give it; `None` for who comes by a certificate alone.
    pub password: Option<Secret>,
    /// User and password for the upstream; `None` for those of the upstream URL.
    pub upstream: Option<(String, Secret)>,
}

/// Reads all users. A name that an earlier one already has is refused.
pub(super) fn read_users(layers: &Layers, certificates: CertificateUser) -> Result<Vec<User>, ConfigError> {
    let mut users: Vec<User> = Vec::new();
    for settings in layers.users() {
        let refuse = |problem| layers.refuse_user(settings, problem);
        let user = read_user(settings, certificates).map_err(refuse)?;
        if users.iter().any(|earlier| earlier.name == user.name) {
            let problem =
                Problem::new(format!("there is a user `{}` already", user.name), "give each a name of its own");
            return Err(refuse(problem));
        }
        users.push(user);
    }
    Ok(users)
}

fn read_user(settings: &Spanned<UserSettings>, certificates: CertificateUser) -> Result<User, Problem> {
    let UserSettings { name, password, upstream_user, upstream_password } = settings.get_ref();
    let text = |given: &Option<super::raw::Given>| given.as_ref().map(|given| given.raw().to_owned());
    let (name, password) = match (text(name), text(password)) {
        (Some(name), Some(password)) => (name, Some(password)),
        (Some(name), None) if certificates == CertificateUser::CommonName => (name, None),
        _ => {
            let right = "write name and password (the latter may be left out with tls_client_user = \"cn\")";
            return Err(Problem::new("a user lacks its name or its password", right));
        }
    };
    if name.is_empty() || password.as_deref() == Some("") {
        return Err(Problem::new("an empty name or password lets anybody in", "write both"));
    }
    let upstream = match (text(upstream_user), text(upstream_password)) {
        (None, None) => None,
        (user, Some(password)) => Some((user.unwrap_or_else(|| "default".to_owned()), Secret::new(password))),
        (Some(_), None) => {
            return Err(Problem::new("upstream_user has no password", "write upstream_password too"));
        }
    };
    Ok(User { name, password: password.map(Secret::new), upstream })
}
