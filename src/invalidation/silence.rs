//! What keeps every lease from beginning: `CLIENT PAUSE`, changes of keys of which Redis tells nobody, and that nobody would tell of
//! one.
//!
//! While Redis holds clients back its clock goes on and its pushes wait; while databases are swapped nobody knows which keys are
//! whose. Set by whoever sends such a command (`change`), on any thread; asked by the ears before and after they renew a lease.
//!
//! Holds contract point 4 (others' writes soon).

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::clock::Time;

/// See the module's head. One for the process.
#[derive(Debug, Default)]
pub struct Silence {
    /// End of the longest `CLIENT PAUSE` that went through this process, in nanoseconds of [`Time`].
    paused: AtomicU64,
    /// `SWAPDB` commands and their like under way.
    swaps: AtomicUsize,
    /// Redis does not say how often it swapped databases: the fleet's channel alone tells of that.
    uncounted: AtomicBool,
    /// The link to the channel is lost, and not made anew yet.
    deaf: AtomicBool,
}

/// A pause that was asked for, until Redis has agreed to it.
#[derive(Debug)]
#[must_use = "Redis may refuse it"]
pub struct Pause {
    before: u64,
    until: u64,
}

impl Silence {
    /// `CLIENT PAUSE` until then is being sent. Leases in force are to be ended after this, and none is begun before the pause is
    /// over.
    pub fn pause(&self, until: Time) -> Pause {
        let until = until.as_nanos();
        Pause { before: self.paused.fetch_max(until, Ordering::AcqRel), until }
    }

    /// Redis refused that pause: what was in force before it is again.
    #[expect(clippy::needless_pass_by_value, reason = "so that none is called off twice")]
    pub fn call_off(&self, pause: Pause) {
        let Pause { before, until } = pause;
        if before < until {
            // Where another has changed it meanwhile, that one knows better.
            let _ = self.paused.compare_exchange(until, before, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// `CLIENT UNPAUSE` was answered.
    pub fn unpause(&self) {
        self.paused.store(0, Ordering::Release);
    }

    /// Whether a `CLIENT PAUSE` is in force as far as this process knows.
    pub fn is_paused(&self, now: Time) -> bool {
        now.as_nanos() < self.paused.load(Ordering::Acquire)
    }

    /// A change of keys of which Redis tells nobody is about to be sent. Leases in force are to be ended after this.
    pub fn begin_swap(&self) {
        self.swaps.fetch_add(1, Ordering::AcqRel);
    }

    /// That change was answered, or is forgotten about. True where no other is under way: leases may begin.
    pub fn end_swap(&self) -> bool {
        self.swaps.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether Redis says how often it swapped databases has become known.
    pub fn set_swaps_counted(&self, counted: bool) {
        self.uncounted.store(!counted, Ordering::Release);
    }

    /// Whether the fleet's channel alone tells of swaps.
    pub fn relies_on_channel(&self) -> bool {
        self.uncounted.load(Ordering::Acquire)
    }

    /// Whether the channel, which was heard before, is heard now. Where it is relied on and is not, leases in force are to be ended
    /// after this.
    pub fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::Release);
    }

    /// Whether such a change is under way, or nobody would tell of one. Asked after a lease was renewed, which is then ended:
    /// whoever begins a change counts it first and ends leases second.
    pub fn is_swapping(&self) -> bool {
        self.swaps.load(Ordering::Acquire) > 0 || self.deaf.load(Ordering::Acquire) && self.relies_on_channel()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Time = Time::from_nanos;

    #[test]
    fn the_longest_pause_counts_until_it_is_over_or_called_off() {
        let silence = Silence::default();
        assert!(!silence.is_paused(AT(0)));
        let long = silence.pause(AT(20));
        let short = silence.pause(AT(10));
        silence.call_off(short);
        assert!(silence.is_paused(AT(19)) && !silence.is_paused(AT(20)));
        silence.call_off(long);
        assert!(!silence.is_paused(AT(5)));
        drop(silence.pause(AT(30)));
        silence.unpause();
        assert!(!silence.is_paused(AT(5)));
    }

    #[test]
    fn what_a_later_pause_has_changed_is_not_called_off() {
        let silence = Silence::default();
        let first = silence.pause(AT(10));
        drop(silence.pause(AT(40)));
        silence.call_off(first);
        assert!(silence.is_paused(AT(39)));
    }

    #[test]
    fn a_channel_that_is_not_heard_matters_where_redis_does_not_count_swaps() {
        let silence = Silence::default();
        silence.set_deaf(true);
        assert!(!silence.is_swapping());
        silence.set_swaps_counted(false);
        assert!(silence.is_swapping());
        silence.set_swaps_counted(true);
        assert!(!silence.is_swapping());
        silence.set_swaps_counted(false);
        silence.set_deaf(false);
        assert!(!silence.is_swapping());
    }

    #[test]
    fn the_last_of_several_swaps_ends_the_silence() {
        let silence = Silence::default();
        silence.begin_swap();
        silence.begin_swap();
        assert!(!silence.end_swap() && silence.is_swapping());
        assert!(silence.end_swap() && !silence.is_swapping());
    }
}
