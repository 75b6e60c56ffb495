//! With what crema logs in to Sentinels, which have users of their own.
//!
//! Pure text but for the file of a password, which is tried.

use std::path::PathBuf;

use super::error::{ConfigError, Problem};
use super::password::{PasswordOrigin, UpstreamPassword, check_file};
use super::raw::{Layers, key};
use super::url::Secret;

/// See the module's head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SentinelSettings {
    /// Their user; none: the default one.
    pub user: Option<String>,
    /// Its password; none: nobody logs in.
    pub password: Option<UpstreamPassword>,
}

pub(super) fn read(layers: &Layers) -> Result<SentinelSettings, ConfigError> {
    let or_none = |text: &str| match text {
        "none" => Ok(None),
        "" => Err(Problem::new("nothing is written here", "write \"none\" for none")),
        text => Ok(Some(text.to_owned())),
    };
    let user = layers.read(key!(sentinel_user), "none", or_none)?;
    let password = layers.read(key!(sentinel_password), "none", or_none)?;
    let file = layers.read(key!(sentinel_password_file), "off", |text| match text {
        "off" => Ok(None),
        path => check_file(path).map(|()| Some(PathBuf::from(path))),
    })?;
    let password = match (password, file) {
        (Some(_), Some(_)) => {
            let problem = Problem::new("there are two passwords for the Sentinels", "give one of the two");
            return Err(layers.refuse(&[key!(sentinel_password_file)], problem));
        }
        (Some(password), None) => Some(UpstreamPassword::Fixed(Secret::new(password))),
        (None, file) => file.map(|path| UpstreamPassword::Changes(PasswordOrigin::File(path))),
    };
    if user.is_some() && password.is_none() {
        let problem = Problem::new("the Sentinels' user has no password", "give sentinel_password as well");
        return Err(layers.refuse(&[key!(sentinel_user)], problem));
    }
    Ok(SentinelSettings { user, password })
}
