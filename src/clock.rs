//! The one clock behind every promise about time: leases, expiry, the age of a flight.
//!
//! It runs on `CLOCK_BOOTTIME`, which counts the time a machine spends suspended. A clock that stood still in suspend would
//! let a laptop or a migrated virtual machine wake up with a lease that looks fresh and a key that looks alive, both hours
//! old. No two machines' clocks are ever compared: a [`Time`] means nothing outside the process that read it.
//!
//! Used by `cache`, `invalidation`, `upstream` and `session`. It must never be set, adjusted or read as a date. What a thread spends
//! ([`thread_time`]) is another matter, and promises nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
/// Elsewhere the monotonic clock is the nearest there is; on macOS it counts suspend as well.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

/// The time that processors have spent on this thread since it was started: what others take meanwhile is not counted.
pub(crate) fn thread_time() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec.cast_unsigned(), u32::try_from(spent.tv_nsec).unwrap_or_default())
}

/// A moment, in nanoseconds since the machine was started, suspended time included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Time(u64);

impl Time {
    /// Before every moment that [`Time::now`] can return.
    pub const ZERO: Self = Self(0);
    /// After every moment that [`Time::now`] can return (584 years of uptime).
    pub const NEVER: Self = Self(u64::MAX);

    /// The present moment. A system call only in name: the kernel answers it in user space, in about 25 ns, which is still
    /// worth sharing among the requests of one read.
    pub fn now() -> Self {
        let now = clock_gettime(CLOCK);
        // Neither field of a clock that starts at boot is ever negative.
        Self(now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned())
    }

    /// The moment `span` later, [`Time::NEVER`] where that lies beyond all counting.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(span))
    }

    /// The moment `span` earlier, [`Time::ZERO`] where that lies before the start.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(span))
    }

    /// The time from `earlier` to `self`, zero where `earlier` is the later one.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Nanoseconds since the machine was started.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The inverse of [`Time::as_nanos`].
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }
}

/// A span of time, such as a bound, that may be changed while others go by it.
#[derive(Debug)]
pub struct LiveSpan(AtomicU64);

impl LiveSpan {
    /// Of this length at first, 584 years at most.
    pub fn new(length: Duration) -> Self {
        let span = Self(AtomicU64::new(0));
        span.set(length);
        span
    }

    /// How long it is at present.
    #[inline]
    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// Who asks from now on goes by this.
    pub fn set(&self, length: Duration) {
        self.0.store(u64::try_from(length.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_as_long_as_it_was_set_last() {
        let span = LiveSpan::new(Duration::from_millis(500));
        assert_eq!(span.get(), Duration::from_millis(500));
        span.set(Duration::from_secs(2));
        assert_eq!(span.get(), Duration::from_secs(2));
    }

    #[test]
    fn moves_forward_and_lies_between_the_ends() {
        let first = Time::now();
        std::thread::sleep(Duration::from_millis(2));
        let second = Time::now();
        assert!(Time::ZERO < first && first < second && second < Time::NEVER);
        assert!(second.saturating_since(first) >= Duration::from_millis(2));
        assert_eq!(first.saturating_since(second), Duration::ZERO);
    }

    #[test]
    fn adding_saturates() {
        assert_eq!(Time::from_nanos(5).plus(Duration::from_nanos(7)).as_nanos(), 12);
        assert_eq!(Time::now().plus(Duration::MAX), Time::NEVER);
        assert_eq!(Time::NEVER.plus(Duration::from_secs(1)), Time::NEVER);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn is_the_clock_that_counts_suspend() {
        let uptime = std::fs::read_to_string("/proc/uptime").expect("Linux has /proc/uptime");
        let seconds: f64 = uptime.split(' ').next().and_then(|s| s.parse().ok()).expect("its first field is a number");
        let ours = Duration::from_nanos(Time::now().as_nanos()).as_secs_f64();
        assert!((ours - seconds).abs() < 5.0, "uptime {seconds}, ours {ours}");
    }
}
