//! The last commands that were slow, each with the reason: a ring, as Redis's SLOWLOG is one.
//!
//! The whole process has one. Written by any thread, seldom; arguments other than the first key are never kept.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::key_name::KeyName;
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
    pub(crate) key: Option<KeyName>,
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
    /// The command, with all its waits.
    pub(crate) command: SlowCommand,
    /// The longest of them, which its reason is of.
    longest: Duration,
}

impl SlowLog {
    /// Keeps it, and no more than `most` in all. Its number.
    #[expect(clippy::disallowed_methods, reason = "people are shown the time of day")]
    pub(crate) fn note(&self, command: SlowCommand, most: usize) -> u64 {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let ring = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, longest) = (ring.next, command.took);
        ring.entries.push_front(SlowEntry { id, at, command, longest });
        ring.entries.truncate(most);
        ring.next += 1;
        id
    }

    /// The command with this number has waited once more, or, where this `contains` its other waits, so long in all. Where that was for its
    /// `answer`, this is the outcome, and how many others waited with it. Nothing is done where it is not kept any more.
    pub(crate) fn add(
        &self,
        id: u64,
        (took, reason): (Duration, SlowReason),
        answer: Option<(&'static str, usize)>,
        contains: bool,
    ) {
        let ring = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = ring.entries.iter_mut().find(|entry| entry.id == id) else { return };
        let (before, own) = (entry.command.took, &mut entry.longest);
        // Of what contains the others, the rest is its own.
        let alone = if contains { took.saturating_sub(before) } else { took };
        entry.command.took = before + alone;
        if let Some(answer) = answer {
            (entry.command.outcome, entry.command.joined) = answer;
        }
        if alone > *own {
            (*own, entry.command.reason) = (alone, reason);
        }
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
            key: Some(KeyName::of(b"k")),
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
        (0..5).for_each(|micros| _ = log.note(slow(micros), 3));
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

    #[test]
    fn a_command_that_waits_more_than_once_is_one_and_its_longest_wait_the_reason() {
        let (log, ms) = (SlowLog::default(), Duration::from_millis);
        let (first, second) = (log.note(slow(10_000), 3), log.note(slow(1), 3));
        let told = |id: u64| log.newest(9).into_iter().find(|entry| entry.id == id).map(|entry| entry.command);
        let of = |id| told(id).map(|command| (command.took, command.reason));
        log.add(first, (ms(5), SlowReason::Ear), None, false);
        assert_eq!(of(first), Some((ms(15), SlowReason::Redis)));
        log.add(first, (ms(30), SlowReason::Fence), None, false);
        assert_eq!(of(first), Some((ms(45), SlowReason::Fence)));
        log.add(first, (ms(50), SlowReason::Session), None, true);
        assert_eq!(of(first), Some((ms(50), SlowReason::Fence)), "most of that was told before");
        log.add(first, (ms(100), SlowReason::Session), None, true);
        assert_eq!(of(first), Some((ms(100), SlowReason::Session)));
        let answered = || told(first).map(|command| (command.outcome, command.joined));
        assert_eq!(answered(), Some(("lead", 0)));
        log.add(first, (ms(1), SlowReason::Redis), Some(("wait", 7)), false);
        assert_eq!(answered(), Some(("wait", 7)), "that is what it came to, however long it had waited before");
        assert_eq!((of(second), log.newest(9).len()), (Some((Duration::from_micros(1), SlowReason::Redis)), 2));
        log.reset();
        log.add(first, (ms(5), SlowReason::Ear), None, false);
        assert!(log.newest(9).is_empty());
    }
}
