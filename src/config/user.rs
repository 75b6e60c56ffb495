//! Users of crema's own (`auth = "own"`): the `[[user]]` tables of the file, each a name and a password for clients, and whom
//! the upstream then sees.

use toml::Spanned;

use super::error::{ConfigError, Problem};
use super::flags::UserSettings;
use super::raw::Layers;
use super::url::Secret;

/// A user that crema itself lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// As clients give it; `default` for those that give a password alone.
    pub name: String,
    /// As clients give it.
    pub password: Secret,
    /// User and password for the upstream; `None` for those of the upstream URL.
    pub upstream: Option<(String, Secret)>,
}

/// Reads all users. A name that an earlier one already has is refused.
pub(super) fn read_users(layers: &Layers) -> Result<Vec<User>, ConfigError> {
    let mut users: Vec<User> = Vec::new();
    for settings in layers.users() {
        let refuse = |problem| layers.refuse_user(settings, problem);
        let user = read_user(settings).map_err(refuse)?;
        if users.iter().any(|earlier| earlier.name == user.name) {
            let problem =
                Problem::new(format!("there is a user `{}` already", user.name), "give each a name of its own");
            return Err(refuse(problem));
        }
        users.push(user);
    }
    Ok(users)
}

fn read_user(settings: &Spanned<UserSettings>) -> Result<User, Problem> {
    let UserSettings { name, password, upstream_user, upstream_password } = settings.get_ref();
    let text = |given: &Option<super::raw::Given>| given.as_ref().map(|given| given.raw().to_owned());
    let (Some(name), Some(password)) = (text(name), text(password)) else {
        return Err(Problem::new("a user lacks its name or its password", "write name and password"));
    };
    if name.is_empty() || password.is_empty() {
        return Err(Problem::new("an empty name or password lets anybody in", "write both"));
    }
    let upstream = match (text(upstream_user), text(upstream_password)) {
        (None, None) => None,
        (user, Some(password)) => Some((user.unwrap_or_else(|| "default".to_owned()), Secret::new(password))),
        (Some(_), None) => {
            return Err(Problem::new("upstream_user has no password", "write upstream_password too"));
        }
    };
    Ok(User { name, password: Secret::new(password), upstream })
}
