//! The switch on L1: whether it answers, only counts what it would have answered, or is passed by.
//!
//! Thrown by one task of `app`; looked at by every read, on every thread. It decides nothing else: what was kept under another
//! position the owner forgets ([`L1::switch_to`](super::L1::switch_to)).
//!
//! Holds contract point 4 (others' writes soon): what is read after the switch was thrown goes by it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::config::L1Mode;

/// See the module's head.
#[derive(Debug)]
pub struct ModeSwitch {
    /// There is an L1 at all.
    has_room: bool,
    /// A number of [`L1Mode`], or what stands for it where there is no L1: one number, so that nothing is ever half thrown. All
    /// that a hit looks at.
    position: AtomicU8,
    /// What is asked for by settings of a smaller number is not kept.
    settings: AtomicU64,
}

/// Where L1 answers.
const ANSWERS: u8 = L1Mode::Cache as u8;
/// Added to the number of a mode where there is no L1.
const NO_ROOM: u8 = 1 << 7;
/// Added while another process may serve this one's clients.
const HELD: u8 = 1 << 6;

impl ModeSwitch {
    /// L1 answers, where there is one.
    pub fn new(has_room: bool) -> Self {
        let room = if has_room { 0 } else { NO_ROOM };
        Self { has_room, position: AtomicU8::new(ANSWERS | room), settings: AtomicU64::new(0) }
    }

    /// Whether what L1 holds is an answer.
    #[inline]
    pub(super) fn answers(&self) -> bool {
        self.position.load(Ordering::Acquire) == ANSWERS
    }

    /// Whether anything is to be kept.
    pub(super) fn keeps(&self) -> bool {
        self.has_room && self.mode() != L1Mode::Pass
    }

    /// Whether what is asked for by the settings of this number is to be kept.
    pub(super) fn admits(&self, number: u64) -> bool {
        self.keeps() && number >= self.settings.load(Ordering::Acquire)
    }

    /// As it was thrown last.
    pub(super) fn mode(&self) -> L1Mode {
        mode_at(self.position.load(Ordering::Acquire))
    }

    /// Throws it. Returns how it stood.
    pub(super) fn set(&self, mode: L1Mode) -> L1Mode {
        let throw = |position| Some(mode as u8 | position & (NO_ROOM | HELD));
        let before = self.position.fetch_update(Ordering::SeqCst, Ordering::SeqCst, throw);
        mode_at(before.unwrap_or_else(|position| position))
    }

    /// Whatever the mode, nothing is an answer from now on that was asked for by another session; or it is again.
    pub(super) fn hold(&self, held: bool) {
        if held {
            self.position.fetch_or(HELD, Ordering::SeqCst);
        } else {
            self.position.fetch_and(!HELD, Ordering::SeqCst);
        }
    }

    /// Whether it is so.
    pub(super) fn is_held(&self) -> bool {
        self.position.load(Ordering::Acquire) & HELD != 0
    }

    /// Settings of this number are in force.
    pub(super) fn go_by(&self, number: u64) {
        self.settings.fetch_max(number, Ordering::SeqCst);
    }
}

fn mode_at(position: u8) -> L1Mode {
    L1Mode::ALL[usize::from(position & !(NO_ROOM | HELD))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_answers_in_one_mode_and_keeps_in_two() {
        let switch = ModeSwitch::new(true);
        assert_eq!((switch.mode(), switch.answers(), switch.keeps()), (L1Mode::Cache, true, true));
        for (mode, answers, keeps) in
            [(L1Mode::Observe, false, true), (L1Mode::Pass, false, false), (L1Mode::Cache, true, true)]
        {
            let before = switch.mode();
            assert_eq!(switch.set(mode), before);
            assert_eq!((switch.mode(), switch.answers(), switch.keeps()), (mode, answers, keeps));
        }
    }

    #[test]
    fn what_is_asked_for_by_older_settings_or_in_pass_is_not_kept() {
        let switch = ModeSwitch::new(true);
        assert!(switch.admits(0) && switch.admits(1), "who goes by newer ones already may be ahead");
        switch.go_by(1);
        assert!(!switch.admits(0) && switch.admits(1));
        switch.set(L1Mode::Pass);
        assert!(!switch.admits(1));
        switch.set(L1Mode::Observe);
        assert!(switch.admits(1));
    }

    #[test]
    fn while_it_is_held_it_keeps_and_does_not_answer_whatever_the_mode() {
        let switch = ModeSwitch::new(true);
        switch.hold(true);
        for mode in [L1Mode::Cache, L1Mode::Observe, L1Mode::Cache] {
            switch.set(mode);
            assert_eq!((switch.mode(), switch.answers(), switch.keeps()), (mode, false, true));
            assert!(switch.is_held());
        }
        switch.hold(false);
        assert!(switch.answers() && !switch.is_held());
    }

    #[test]
    fn an_l1_without_room_never_answers() {
        let switch = ModeSwitch::new(false);
        for mode in L1Mode::ALL {
            switch.set(mode);
            assert_eq!((switch.mode(), switch.answers(), switch.keeps()), (mode, false, false));
        }
    }
}
