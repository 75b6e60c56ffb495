//! The signals that mean something to crema, and those that would kill it where nobody listened.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// See the module's head. Listened to from its making on.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    usr1: Signal,
    usr2: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for a signal to stop, and gives its number; does `hangup` at each SIGHUP until then. Cancel safe.
    pub(super) async fn stop(&mut self, hangup: impl Fn()) -> u8 {
        loop {
            tokio::select! {
                _ = self.term.recv() => return 15,
                _ = self.int.recv() => return 2,
                _ = self.hup.recv() => {
                    info!("SIGHUP: certificates and settings are read anew");
                    hangup();
                }
                _ = self.usr1.recv() => info!("SIGUSR1 means nothing to crema"),
                _ = self.usr2.recv() => info!("SIGUSR2 means nothing to crema"),
            }
        }
    }
}
