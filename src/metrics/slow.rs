//! The last commands that were slow, each with the reason: a ring, as Redis's SLOWLOG is one.
//!
//! The whole process has one. Written by any thread, seldom; arguments other than the first key are never kept.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::labels::SlowReason;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct SlowLog(Mutex<SlowRing>);

#[derive(Debug, Default)]
struct SlowRing {
    next: u64,
    /// The newest first.
    entries: VecDeque<SlowEntry>,
}

/// A command that was slow.
#[derive(Clone, Debug)]
pub(crate) struct SlowCommand {
    /// Its name, as the command table has it.
    pub(crate) name: &'static str,
    /// Its first key, where it is known.
    pub(crate) key: Option<Box<[u8]>>,
    /// How long it took.
    pub(crate) took: Duration,
    /// Most of which was for this.
    pub(crate) reason: SlowReason,
    /// What it counts as in the metrics.
    pub(crate) outcome: &'static str,
    /// Sessions that waited for the same reply.
    pub(crate) joined: usize,
    /// Who sent it: address, name, user.
    pub(crate) client: (String, String, String),
}

/// One as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct SlowEntry {
    /// Its number: entries have them one after the other, from 0 on.
    pub(crate) id: u64,
    /// When it ended, in seconds since 1970.
    pub(crate) at: u64,
    /// The command.
    pub(crate) command: SlowCommand,
}

impl SlowLog {
    /// Keeps it, and no more than `most` in all.
    #[expect(clippy::disallowed_methods, reason = "people are shown the time of day")]
    pub(crate) fn note(&self, command: SlowCommand, most: usize) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let ring = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.entries.push_front(SlowEntry { id: ring.next, at, command });
        ring.entries.truncate(most);
        ring.next += 1;
    }

    /// The newest.
    pub(crate) fn newest(&self, most: usize) -> Vec<SlowEntry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entries.iter().take(most).cloned().collect()
    }

    /// How many there were since the start.
    pub(crate) fn total(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next
    }

    /// Forgets all. Numbers go on.
    pub(crate) fn reset(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(micros: u64) -> SlowCommand {
        SlowCommand {
            name: "get",
            key: Some(b"k"[..].into()),
            took: Duration::from_micros(micros),
            reason: SlowReason::Redis,
            outcome: "lead",
            joined: 0,
            client: ("127.0.0.1:1".to_owned(), String::new(), "default".to_owned()),
        }
    }

    #[test]
    fn the_newest_stay_and_numbers_go_on() {
        let log = SlowLog::default();
        (0..5).for_each(|micros| log.note(slow(micros), 3));
        let told = |most| log.newest(most).iter().map(|entry| (entry.id, entry.command.took)).collect::<Vec<_>>();
        let took = Duration::from_micros;
        assert_eq!(told(9), [(4, took(4)), (3, took(3)), (2, took(2))]);
        assert_eq!(told(1), [(4, took(4))]);
        log.note(slow(9), 2);
        assert_eq!(told(9).len(), 2, "there may be fewer from now on");
        log.reset();
        assert!(told(9).is_empty());
        log.note(slow(1), 3);
        assert_eq!((told(9), log.total()), (vec![(6, took(1))], 7));
    }
}
