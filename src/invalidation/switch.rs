//! The switch on L1: whether it answers, only counts what it would have answered, or is passed by.
//!
//! Thrown by one task of `app`; looked at by every read, on every thread. It decides nothing else: what was kept under another
//! position the owner forgets ([`L1::switch_to`](super::L1::switch_to)).
//!
//! Holds contract point 4 (others' writes soon): what is read after the switch was thrown goes by it.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::config::L1Mode;

/// See the module's head.
#[derive(Debug)]
pub(super) struct ModeSwitch {
    /// There is an L1 at all.
    has_room: bool,
    /// A number of [`L1Mode`].
    mode: AtomicU8,
    /// Whether L1 answers. Follows from the others, and is all that a hit looks at.
    answers: AtomicBool,
}

impl ModeSwitch {
    /// L1 answers, where there is one.
    pub(super) fn new(has_room: bool) -> Self {
        let mode = L1Mode::Cache;
        Self { has_room, mode: AtomicU8::new(mode as u8), answers: AtomicBool::new(has_room) }
    }

    /// Whether what L1 holds is an answer.
    #[inline]
    pub(super) fn answers(&self) -> bool {
        self.answers.load(Ordering::Acquire)
    }

    /// Whether anything is to be kept.
    pub(super) fn keeps(&self) -> bool {
        self.has_room && self.mode() != L1Mode::Pass
    }

    /// As it was thrown last.
    pub(super) fn mode(&self) -> L1Mode {
        L1Mode::ALL[usize::from(self.mode.load(Ordering::Acquire))]
    }

    /// Throws it. Returns how it stood.
    pub(super) fn set(&self, mode: L1Mode) -> L1Mode {
        let answers = self.has_room && mode == L1Mode::Cache;
        if !answers {
            self.answers.store(false, Ordering::SeqCst);
        }
        let before = self.mode.swap(mode as u8, Ordering::SeqCst);
        self.answers.store(answers, Ordering::SeqCst);
        L1Mode::ALL[usize::from(before)]
    }
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
    fn an_l1_without_room_never_answers() {
        let switch = ModeSwitch::new(false);
        for mode in L1Mode::ALL {
            switch.set(mode);
            assert_eq!((switch.mode(), switch.answers(), switch.keeps()), (mode, false, false));
        }
    }
}
