//! Fences: who waits until the ear was answered something that was sent later, and how long that takes.
//!
//! A fence is a question whose answer shows that everything which Redis said before has been heard. One is under way at a time;
//! those who ask meanwhile are served by it where it left late enough, else by the next.
//!
//! Holds contract points 3 and 4.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Time;

/// How long the fences of an ear take, for whoever weighs waiting for one. Written by the ear's protocol, read by workers.
#[derive(Debug, Default)]
pub struct FenceTimes {
    /// When the one was sent that is under way, zero where none is, and how long the last one took; both in nanoseconds.
    sent: AtomicU64,
    took: AtomicU64,
    nudged: AtomicBool,
}

impl FenceTimes {
    /// How long a fence takes: what the last one took, or, if that is more, what the one under way has taken so far.
    pub fn expected(&self, now: Time) -> Duration {
        let sent = match self.sent.load(Ordering::Relaxed) {
            0 => now,
            sent => Time::from_nanos(sent),
        };
        now.saturating_since(sent).max(Duration::from_nanos(self.took.load(Ordering::Relaxed)))
    }

    /// True for the first who asks since the last fence was back: a fence is to be sent for all of them.
    pub fn nudge(&self) -> bool {
        !self.nudged.swap(true, Ordering::AcqRel)
    }

    pub(super) fn begin(&self, now: Time) {
        self.sent.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// The fence that was sent then is back.
    pub(super) fn end(&self, sent: Time, now: Time) {
        self.sent.store(0, Ordering::Relaxed);
        let took = u64::try_from(now.saturating_since(sent).as_nanos()).unwrap_or(u64::MAX);
        self.took.store(took, Ordering::Relaxed);
        self.nudged.store(false, Ordering::Release);
    }
}

/// The fences of one connection, and who waits. `W` is whatever waits.
#[derive(Debug)]
pub(super) struct Fences<W> {
    sent: Option<Time>,
    /// Each waits for the answer to something that was sent at that moment or later.
    waiting: Vec<(Time, W)>,
}

impl<W> Fences<W> {
    pub(super) fn new() -> Self {
        Self { sent: None, waiting: Vec::new() }
    }

    /// When the fence was sent that is under way.
    pub(super) fn sent(&self) -> Option<Time> {
        self.sent
    }

    /// One is sent.
    pub(super) fn begin(&mut self, now: Time) {
        self.sent = Some(now);
    }

    /// It is back.
    pub(super) fn end(&mut self) {
        self.sent = None;
    }

    /// Somebody waits for what is sent at `since` or later. One that is under way may do: it is seen when that is back.
    pub(super) fn wait(&mut self, since: Time, waiter: W) {
        self.waiting.push((since, waiter));
    }

    /// Whether somebody waits and no fence is under way.
    pub(super) fn is_wanted(&self) -> bool {
        self.sent.is_none() && !self.waiting.is_empty()
    }

    /// What was sent at `sent` is answered: those who need wait no more.
    pub(super) fn answered(&mut self, sent: Time) -> impl Iterator<Item = W> + use<'_, W> {
        self.waiting.extract_if(.., move |(since, _)| *since <= sent).map(|(_, waiter)| waiter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Time = Time::from_nanos;

    #[test]
    fn who_asked_after_the_fence_left_waits_for_the_next() {
        let mut fences = Fences::new();
        fences.begin(AT(10));
        fences.wait(AT(9), "before");
        fences.wait(AT(11), "after");
        fences.wait(AT(10), "at once");
        assert!(!fences.is_wanted(), "one is under way");
        fences.end();
        assert_eq!(fences.answered(AT(10)).collect::<Vec<_>>(), ["before", "at once"]);
        assert!(fences.is_wanted());
        fences.begin(AT(20));
        fences.end();
        assert_eq!(fences.answered(AT(20)).collect::<Vec<_>>(), ["after"]);
        assert!(!fences.is_wanted());
    }

    #[test]
    fn a_fence_that_is_late_is_expected_to_take_as_long_as_it_has() {
        let times = FenceTimes::default();
        assert_eq!(times.expected(AT(50)), Duration::ZERO);
        times.begin(AT(50));
        assert_eq!(times.expected(AT(80)), Duration::from_nanos(30));
        times.end(AT(50), AT(60));
        assert_eq!(times.expected(AT(500)), Duration::from_nanos(10));
        times.begin(AT(500));
        assert_eq!(times.expected(AT(501)), Duration::from_nanos(10));
    }

    #[test]
    fn one_nudge_a_fence() {
        let times = FenceTimes::default();
        assert!(times.nudge() && !times.nudge());
        times.end(AT(1), AT(2));
        assert!(times.nudge());
    }
}
