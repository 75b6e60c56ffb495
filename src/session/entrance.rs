//! What holds for clients from their first byte on, whoever they turn out to be.
//!
//! Made once, by `server`, and the same for as long as the process lives.

use std::sync::Arc;

use super::passwords::Passwords;
use crate::command::Denied;
use crate::config::Config;
use crate::control::Control;

/// What is asked of clients.
pub struct Entrance {
    /// Users of crema's own, where it has such.
    pub(super) passwords: Arc<Passwords>,
    /// What they may not use.
    pub(super) denied: Denied,
}

impl Entrance {
    /// As the settings say. What takes long is done by `control`.
    pub fn new(config: &Config, control: Control) -> Self {
        Self { passwords: Arc::new(Passwords::new(&config.auth, control)), denied: config.deny.clone() }
    }
}
