//! Which server stands behind an address: one number that changes when another does.
//!
//! Connections made to one address at different times can lead to different servers: a service address after a failover, a
//! server that was restarted. Two servers are never used as one, so every connection belongs to the generation in which it was
//! made, and what an older one answers is no answer any more. A server is told from others by its `run_id` (Redis, `INFO
//! server`: "Random value identifying the Redis server"). Written by whoever connects, read by every lane.
//!
//! Where ids alternate, several servers stand behind the address on purpose. Then no turn means anything: generations stand
//! still, and [`Generation::is_several`] says so for good.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Time;

/// An id that was left and is met again within this counts as one of several servers.
const ALTERNATING: Duration = Duration::from_secs(10);
/// So often that happens before it is believed: an address may lead to and fro for a moment while it moves.
const TIMES: u32 = 3;
/// Ids remembered.
const KNOWN: usize = 8;

/// See the module's head.
#[derive(Default)]
pub struct Generation {
    number: AtomicU64,
    several: AtomicBool,
    /// Nobody may ask: every connection is taken for one of the present generation.
    refused: AtomicBool,
    seen: Mutex<Seen>,
    on_turn: OnceLock<Box<dyn Fn(bool) + Send + Sync>>,
    doubted: Notify,
}

struct Seen {
    /// The `run_id` of the present generation.
    present: Option<Box<[u8]>>,
    /// Ids of former ones, and when each was left.
    former: VecDeque<(Box<[u8]>, Time)>,
    returns: u32,
    turned: Time,
}

impl Default for Seen {
    fn default() -> Self {
        Self { present: None, former: VecDeque::new(), returns: 0, turned: Time::ZERO }
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Generation({})", self.number())
    }
}

impl Generation {
    /// The present one. To be read when an answer is handed over.
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Whether several servers answer at the address in turn: nothing may be kept, joined or shared.
    pub fn is_several(&self) -> bool {
        self.several.load(Ordering::Relaxed)
    }

    /// `told` is called at each turn, before any connection of the new generation can be used; with true where several servers
    /// were found. To be given once, at start.
    pub fn on_turn(&self, told: impl Fn(bool) + Send + Sync + 'static) {
        let _ = self.on_turn.set(Box::new(told));
    }

    /// The number of a connection to the server with this `run_id` that was begun at `begun`. It may be the first of a new
    /// generation; or one of the last, where it was begun before the turn and is only now made.
    pub fn of(&self, run_id: &[u8], begun: Time, now: Time) -> u64 {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match &seen.present {
            Some(present) if **present == *run_id => return self.number(),
            None => {
                seen.present = Some(run_id.into());
                return self.number();
            }
            Some(_) if begun < seen.turned => return self.number().wrapping_sub(1),
            Some(_) => seen.turned = now,
        }
        if self.is_several() {
            return self.number();
        }
        let former = seen.present.replace(run_id.into());
        let returns = seen.former.iter().any(|(id, left)| **id == *run_id && now.saturating_since(*left) < ALTERNATING);
        seen.returns = if returns { seen.returns + 1 } else { 0 };
        let several = seen.returns >= TIMES;
        if seen.former.len() >= KNOWN {
            seen.former.pop_front();
        }
        seen.former.extend(former.map(|id| (id, now)));
        self.several.store(several, Ordering::Relaxed);
        let number = self.number.fetch_add(1, Ordering::AcqRel) + 1;
        if let Some(told) = self.on_turn.get() {
            told(several);
        }
        number
    }

    /// What the server calls itself, where it was asked and tells.
    pub(crate) fn server(&self) -> Option<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.present.as_deref().map(|id| String::from_utf8_lossy(id).into_owned())
    }

    /// The server has no part in the upstream any more: all its connections are of a former generation.
    pub(super) fn leave(&self) {
        self.number.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether a connection may ask for the server's id at all.
    pub(super) fn may_ask(&self) -> bool {
        !self.refused.load(Ordering::Relaxed)
    }

    /// The user in `upstream` may not ask.
    pub(super) fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// A sign that the address may lead elsewhere by now: the server that answers takes no writes, or says that it is a
    /// replica. Wakes whoever waits in [`doubted`](Self::doubted).
    pub fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Returns after the next [`doubt`](Self::doubt), or at once where nobody has taken up the last. Cancel safe.
    pub async fn doubted(&self) {
        self.doubted.notified().await;
    }
}

/// The `run_id` in a reply to `INFO server`.
pub(super) fn run_id(info: &[u8]) -> Option<&[u8]> {
    let mut lines = info.split(|&byte| byte == b'\n');
    let id = lines.find_map(|line| line.strip_prefix(b"run_id:"))?.trim_ascii_end();
    (!id.is_empty()).then_some(id)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn another_id_is_another_generation_and_is_told_first() {
        let generation = Arc::new(Generation::default());
        let (seen, turns) = (Arc::clone(&generation), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&turns);
        generation.on_turn(move |several| {
            assert!(!several && seen.number() > 0);
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(generation.of(b"a", at(1), at(1)), 0);
        assert_eq!(generation.of(b"a", at(2), at(2)), 0);
        assert_eq!(generation.of(b"b", at(3), at(3)), 1);
        assert_eq!((generation.number(), turns.load(Ordering::Relaxed)), (1, 1));
    }

    #[test]
    fn a_connection_that_was_begun_before_the_turn_turns_nothing_back() {
        let generation = Generation::default();
        generation.of(b"a", at(0), at(0));
        assert_eq!(generation.of(b"b", at(5), at(6)), 1);
        assert_eq!(generation.of(b"a", at(4), at(7)), 0);
        assert_eq!(generation.number(), 1);
    }

    #[test]
    fn a_failover_and_back_is_no_alternation() {
        let generation = Generation::default();
        for (second, id) in [(0, b"a"), (1, b"b"), (20, b"a"), (40, b"b"), (60, b"a")] {
            generation.of(id, at(second), at(second));
        }
        assert_eq!((generation.number(), generation.is_several()), (4, false));
    }

    #[test]
    fn ids_that_alternate_are_several_servers_and_no_turn_means_anything_then() {
        let generation = Generation::default();
        for second in 0..6 {
            generation.of(if second % 2 == 0 { b"a" } else { b"b" }, at(second), at(second));
        }
        assert!(generation.is_several());
        let number = generation.number();
        for second in 6..100 {
            assert_eq!(generation.of(if second % 2 == 0 { b"a" } else { b"b" }, at(second), at(second)), number);
        }
    }

    #[test]
    fn the_id_stands_in_info() {
        let info = b"$40\r\n# Server\r\nredis_version:7.0.15\r\nrun_id:0123abcd\r\ntcp_port:1\r\n\r\n";
        assert_eq!(run_id(info), Some(&b"0123abcd"[..]));
        assert_eq!(run_id(b"-NOPERM no\r\n"), None);
        assert_eq!(run_id(b"run_id:\r\n"), None);
    }
}
