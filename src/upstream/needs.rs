//! What crema needs of the server on its own account and may be refused, and which of it is: [`Need`] is the list.
//!
//! Some services refuse commands, by ACL, by renaming them, or by not having them. Each need has a way to do without, beside the
//! place that asks for it; here it is told, once, and shown by `crema_upstream_refusals`. No command of a client is one.

use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;

use crate::error::is_passing;
use crate::metrics::Need;

/// See the module's head. One for each node.
#[derive(Debug, Default)]
pub(crate) struct Needs([AtomicBool; Need::COUNT]);

impl Needs {
    /// What the server says to a command that is for `need`, to this user (none: to the one in `upstream`). Whether it refuses
    /// it, which is told where it is news. What passes by itself is no refusal, nor is it that somebody has to log in first.
    pub(crate) fn hear(&self, need: Need, user: Option<&[u8]>, reply: &[u8]) -> bool {
        let refused = reply.starts_with(b"-") && !is_passing(reply) && !reply.starts_with(b"-NOAUTH");
        if refused && !self.0[need as usize].swap(true, Ordering::Relaxed) {
            let (command, lost) = (need.command(), need.about());
            let said = String::from_utf8_lossy(&reply[1..]);
            let user = user.map(|user| format!(" to user `{}`", String::from_utf8_lossy(user))).unwrap_or_default();
            warn!(
                "crema goes without {command}, which the upstream refuses{user}: {lost} (it said: {})",
                said.trim_end()
            );
        }
        refused
    }

    /// Whether this was refused, to anybody.
    pub(crate) fn is_refused(&self, need: Need) -> bool {
        self.0[need as usize].load(Ordering::Relaxed)
    }

    /// Another server stands behind the address, which may refuse other things.
    pub(crate) fn forget(&self) {
        self.0.iter().for_each(|refused| refused.store(false, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_known_until_another_server_comes() {
        let needs = Needs::default();
        for (reply, refused) in [
            (&b"+OK\r\n"[..], false),
            (b"-LOADING Redis is loading the dataset in memory\r\n", false),
            (b"-NOAUTH Authentication required.\r\n", false),
            (b"-NOPERM this user has no permissions to run the 'config|get' command\r\n", true),
            (b"-ERR unknown command 'cONFIG', with args beginning with: 'GET' \r\n", true),
        ] {
            assert_eq!(needs.hear(Need::Config, None, reply), refused);
            assert_eq!(needs.is_refused(Need::Config), refused);
        }
        assert!(!needs.is_refused(Need::Info));
        needs.forget();
        assert!(!needs.is_refused(Need::Config));
    }
}
