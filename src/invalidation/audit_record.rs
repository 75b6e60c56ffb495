//! What the audit has found: told to people at once, and remembered for those who ask later.
//!
//! Which hits are read again the workers decide; whether one was wrong, the ears.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::error;

use super::ear::Audit;
use crate::metrics::KeyName;
use crate::upstream::Node;

/// So many violations are remembered.
const REMEMBERED: usize = 16;

/// See the module's head. One for the process.
#[derive(Debug, Default)]
pub(crate) struct AuditRecord {
    shows_keys: AtomicBool,
    last: Mutex<VecDeque<AuditViolation>>,
}

/// A hit that was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuditViolation {
    /// When that was found, in seconds since 1970.
    pub at: u64,
    /// For whom it was read.
    pub user: String,
    /// In which database.
    pub db: u32,
    /// At which node.
    pub node: String,
    /// By which command.
    pub command: &'static str,
    /// The key.
    pub key: KeyName,
}

impl AuditViolation {
    /// In a line; with the key where keys may be shown.
    pub(crate) fn told(&self, shows_keys: bool) -> String {
        let Self { at, user, db, node, command, key } = self;
        let (user, key) = (user.escape_debug(), key.shown(shows_keys));
        format!("{at}: {command} {key}, read as {user} in database {db} at {node}")
    }
}

impl AuditRecord {
    /// Whether keys may be logged, from now on.
    pub(crate) fn show_keys(&self, shown: bool) {
        self.shows_keys.store(shown, Ordering::Relaxed);
    }

    /// What `user` was answered was wrong.
    #[expect(clippy::disallowed_methods, reason = "people are shown the time of day")]
    pub(super) fn note(&self, audit: &Audit, user: &[u8], node: &Node) {
        let violation = AuditViolation {
            at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            user: String::from_utf8_lossy(user).into_owned(),
            db: audit.db(),
            node: node.address.to_string(),
            command: audit.spec().name,
            key: KeyName::of(audit.exhibit().key()),
        };
        let AuditViolation { user, db, node, command, key, .. } = &violation;
        let key = key.shown(self.shows_keys.load(Ordering::Relaxed));
        error!(
            %key, %command, user = %user.escape_debug(), %db, %node,
            "the audit has found a reply in memory that Redis does not give, though nothing has told of a change; it is forgotten. \
             Please switch to `mode = \"pass\"` (CREMA MODE pass) where that matters, and report this"
        );
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.push_front(violation);
        last.truncate(REMEMBERED);
    }

    /// The last ones, the newest first.
    pub(crate) fn violations(&self) -> Vec<AuditViolation> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
