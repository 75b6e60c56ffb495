//! What the audit has found: told to people at once, and remembered for those who ask later.
//!
//! Which hits are audited the workers decide; whether one was older than it may be, they see themselves; whether Redis says the same, the ears.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::error;

use crate::cache::Exhibit;
use crate::command::by_id;
use crate::metrics::{AuditBreach, KeyName};
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
    /// In what it was wrong.
    pub breach: AuditBreach,
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
        let Self { at, breach, user, db, node, command, key } = self;
        let (breach, user, key) = (breach.as_str(), user.escape_debug(), key.shown(shows_keys));
        format!("{at}: {breach}: {command} {key}, read as {user} in database {db} at {node}")
    }
}

impl AuditRecord {
    /// Whether keys may be logged, from now on.
    pub(crate) fn show_keys(&self, shown: bool) {
        self.shows_keys.store(shown, Ordering::Relaxed);
    }

    /// What `user` was answered in this database was wrong.
    #[expect(clippy::disallowed_methods, reason = "people are shown the time of day")]
    pub(crate) fn note(&self, breach: AuditBreach, exhibit: &Exhibit, (user, db): (&[u8], u32), node: &Node) {
        let violation = AuditViolation {
            at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            breach,
            user: String::from_utf8_lossy(user).into_owned(),
            db,
            node: node.address.to_string(),
            command: by_id(exhibit.answers().1).name,
            key: KeyName::of(exhibit.key()),
        };
        let AuditViolation { user, db, node, command, key, .. } = &violation;
        let key = key.shown(self.shows_keys.load(Ordering::Relaxed));
        let what = match breach {
            AuditBreach::Value => {
                "a reply in memory that Redis does not give, though nothing has told of a change; it is forgotten"
            }
            AuditBreach::OwnWrite => {
                "a reply in memory that was there before a write which had been acknowledged here; it is forgotten"
            }
            AuditBreach::Change => {
                "a reply in memory that was there before a change which Redis had told of; it is forgotten"
            }
            AuditBreach::Lease => {
                "a reply out of memory that nothing had shown to be as fresh as `max_staleness` says; its lease has ended"
            }
        };
        error!(
            %key, %command, user = %user.escape_debug(), %db, %node,
            "the audit has found {what}. \
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
