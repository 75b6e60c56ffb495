//! Who may change crema while it runs: users by name, and whoever shows a token at the admin port.

use std::path::PathBuf;

use super::error::{ConfigError, Problem};
use super::password::{check_file, read_password_file};
use super::raw::{Layers, key};
use super::url::Secret;

/// See the module's head. By default nobody may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admins {
    /// Whose sessions may, by the names with which they log in.
    pub users: Vec<String>,
    /// What the admin port wants to be shown; none: it changes nothing.
    pub token: Option<AdminToken>,
}

/// Where the admin port's token stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminToken {
    /// In the settings.
    Fixed(Secret),
    /// In this file, alone; it is read each time.
    File(PathBuf),
}

impl AdminToken {
    /// The token as it is now, or why it cannot be read.
    pub fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Fixed(token) => Ok(token.expose().as_bytes().to_vec()),
            Self::File(path) => {
                let read =
                    read_password_file(path).map_err(|why| format!("admin_token_file {}: {why}", path.display()))?;
                let token = read.trim_ascii().to_vec();
                if token.is_empty() { Err(format!("admin_token_file {} is empty", path.display())) } else { Ok(token) }
            }
        }
    }
}

fn named(user: &str) -> Result<String, Problem> {
    if user.is_empty() {
        return Err(Problem::new("a user without a name", "write names, or \"none\" for nobody"));
    }
    Ok(user.to_owned())
}

pub(super) fn read(layers: &Layers) -> Result<Admins, ConfigError> {
    let users = layers.read(key!(admin_users), "none", |text| match text {
        "none" => Ok(Vec::new()),
        names => names.split(',').map(|name| named(name.trim())).collect(),
    })?;
    let token = layers.read(key!(admin_token), "none", |text| match text {
        "none" => Ok(None),
        "" => Err(Problem::new("an empty token lets anybody in", "write \"none\" for none")),
        text => Ok(Some(Secret::new(text))),
    })?;
    let file = layers.read(key!(admin_token_file), "off", |text| match text {
        "off" => Ok(None),
        path => check_file(path).map(|()| Some(PathBuf::from(path))),
    })?;
    let token = match (token, file) {
        (Some(_), Some(_)) => {
            let problem = Problem::new("there are two tokens for the admin port", "give one of the two");
            return Err(layers.refuse(&[key!(admin_token_file)], problem));
        }
        (Some(token), None) => Some(AdminToken::Fixed(token)),
        (None, file) => file.map(AdminToken::File),
    };
    Ok(Admins { users, token })
}
