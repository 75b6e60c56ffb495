//! What holds for clients from their first byte on, whoever they turn out to be.
//!
//! Made once for each listener, by `app`, and the same for as long as the process lives.

use std::sync::Arc;

use super::passwords::Passwords;
use crate::command::Denied;
use crate::config::{Auth, Config};
use crate::control::Control;
use crate::error::Error;

/// What is asked of the clients of a listener.
pub(crate) struct Entrance {
    /// The address, as the settings have it; empty for those who ask from within the process.
    pub(crate) at: String,
    /// Users of crema's own, where it has such.
    pub(super) passwords: Arc<Passwords>,
    /// What they may not use.
    pub(super) denied: Denied,
    /// There is such: looked at for each batch of requests.
    pub(super) is_restricted: bool,
    /// They act for the user of `upstream`, and nobody asks them for a login.
    pub(super) is_open: bool,
}

impl Entrance {
    /// As the settings say, for each address that is listened on, in their order. What takes long is done by `control`. Fails
    /// where a password cannot be read.
    pub(crate) fn of_listeners(config: &Config, control: Control) -> Result<Vec<Arc<Self>>, Error> {
        let passwords = Passwords::start(&config.auth, control);
        let passwords = passwords.map_err(|why| Error::Password { setting: "user", why: why.into() })?;
        let entrance = |number| {
            let denied = config.deny.at(number);
            let is_restricted = !denied.is_empty();
            let (is_open, at) = (config.auth == Auth::Open, config.listen[number].to_string());
            Arc::new(Self { at, passwords: Arc::clone(&passwords), denied, is_restricted, is_open })
        };
        Ok((0..config.listen.len()).map(entrance).collect())
    }

    /// Of those who ask from within the process.
    pub(crate) fn inside(control: Control) -> Arc<Self> {
        let passwords = Passwords::start(&Auth::Open, control).expect("there is none to be read");
        Arc::new(Self { at: String::new(), passwords, denied: Denied::default(), is_restricted: false, is_open: true })
    }
}
