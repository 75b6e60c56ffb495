//! What keeps leases from beginning, or from lasting: `CLIENT PAUSE`, changes of keys of which Redis tells nobody, a channel of
//! the fleet that is silent where it alone tells of such changes, and another process that serves the same clients.
//!
//! While Redis holds clients back its clock goes on and its pushes wait; while databases are swapped nobody knows which keys are
//! whose. Set by whoever sends such a command (`change`), on any thread, and by whoever listens to the channel (`channel`); asked by
//! the ears before and after they renew a lease.
//!
//! Holds contract point 4 (others' writes soon).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::clock::Time;

/// See the module's head. One for the process.
#[derive(Debug)]
pub struct Silence {
    /// End of the longest `CLIENT PAUSE` that went through this process, in nanoseconds of [`Time`].
    paused: AtomicU64,
    /// `SWAPDB` commands and their like under way.
    swaps: AtomicUsize,
    /// What the fleet's channel said before this moment is obeyed, in nanoseconds of [`Time`]; [`Time::NEVER`] where nobody listens.
    channel: AtomicU64,
    /// Connections of ears to servers that do not say how often they swapped databases.
    reliant: AtomicUsize,
    /// There was none of these before.
    relied: Notify,
    /// Only what was asked at this moment or later proves anything, in nanoseconds of [`Time`].
    alone: AtomicU64,
}

impl Default for Silence {
    /// Where nobody listens to the fleet's channel.
    fn default() -> Self {
        Self {
            paused: AtomicU64::new(0),
            swaps: AtomicUsize::new(0),
            channel: AtomicU64::new(Time::NEVER.as_nanos()),
            reliant: AtomicUsize::new(0),
            relied: Notify::new(),
            alone: AtomicU64::new(0),
        }
    }
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

    /// Whether such a change is under way. Asked after a lease was renewed, which is then ended: whoever begins a change counts it
    /// first and ends leases second.
    pub fn is_swapping(&self) -> bool {
        self.swaps.load(Ordering::Acquire) > 0
    }

    /// Another process serves the same clients: a write that it acknowledges is to be seen at once, as one of this process is, so
    /// no lease begins. Leases in force are to be ended after this.
    pub fn share(&self) {
        self.alone.store(Time::NEVER.as_nanos(), Ordering::SeqCst);
    }

    /// It serves nobody any more: what is asked from now on proves freshness.
    pub fn stand_alone(&self, now: Time) {
        self.alone.store(now.as_nanos(), Ordering::SeqCst);
    }

    /// Whether what was asked then proves nothing, for another process served the same clients. Asked after a lease was renewed.
    pub fn is_shared_at(&self, asked: Time) -> bool {
        asked.as_nanos() < self.alone.load(Ordering::Acquire)
    }

    /// Where somebody will listen to the fleet's channel, and has not heard it yet.
    #[must_use]
    pub fn awaiting_channel(self) -> Self {
        Self { channel: AtomicU64::new(Time::ZERO.as_nanos()), ..self }
    }

    /// The channel has answered a question that was sent then: what it had said before is obeyed. Returns what was known before.
    pub fn hear_channel(&self, sent: Time) -> Time {
        Time::from_nanos(self.channel.swap(sent.as_nanos(), Ordering::AcqRel))
    }

    /// Nobody may listen to the channel: leases do without it. Returns what was known before.
    pub fn give_up_channel(&self) -> Time {
        self.hear_channel(Time::NEVER)
    }

    /// Only the channel tells a connection of an ear of swaps: its leases end with what the channel has proved.
    pub fn rely_on_channel(&self) -> ChannelReliance<'_> {
        if self.reliant.fetch_add(1, Ordering::AcqRel) == 0 {
            self.relied.notify_one();
        }
        ChannelReliance(self)
    }

    /// Whether any does.
    pub fn relies_on_channel(&self) -> bool {
        self.reliant.load(Ordering::Acquire) > 0
    }

    /// Told when one does where none did before.
    pub fn reliance(&self) -> &Notify {
        &self.relied
    }
}

/// A connection of an ear relies on the fleet's channel for as long as this is there.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct ChannelReliance<'a>(&'a Silence);

impl ChannelReliance<'_> {
    /// Everything that the channel said before this moment is obeyed. To be asked before a lease is renewed, which lasts no longer
    /// than this allows.
    pub fn heard_up_to(&self) -> Time {
        Time::from_nanos(self.0.channel.load(Ordering::Acquire))
    }
}

impl Drop for ChannelReliance<'_> {
    fn drop(&mut self) {
        self.0.reliant.fetch_sub(1, Ordering::AcqRel);
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
    fn what_the_channel_has_proved_is_what_it_answered_last_and_no_bound_where_nobody_listens() {
        let alone = Silence::default();
        assert_eq!(alone.rely_on_channel().heard_up_to(), Time::NEVER);
        let silence = Silence::default().awaiting_channel();
        let reliance = silence.rely_on_channel();
        assert_eq!(reliance.heard_up_to(), Time::ZERO);
        assert_eq!(silence.hear_channel(AT(7)), Time::ZERO);
        assert_eq!(reliance.heard_up_to(), AT(7));
        assert_eq!(silence.hear_channel(AT(9)), AT(7));
        assert_eq!(silence.give_up_channel(), AT(9));
        assert_eq!(reliance.heard_up_to(), Time::NEVER);
    }

    #[test]
    fn the_channel_is_relied_on_while_any_ear_does() {
        let silence = Silence::default();
        let (one, other) = (silence.rely_on_channel(), silence.rely_on_channel());
        drop(one);
        assert!(silence.relies_on_channel());
        drop(other);
        assert!(!silence.relies_on_channel());
    }

    #[test]
    fn only_what_is_asked_after_the_other_process_has_served_its_last_client_counts() {
        let silence = Silence::default();
        assert!(!silence.is_shared_at(AT(0)));
        silence.share();
        assert!(silence.is_shared_at(AT(7)));
        silence.stand_alone(AT(7));
        assert!(silence.is_shared_at(AT(6)) && !silence.is_shared_at(AT(7)));
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
