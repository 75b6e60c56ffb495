//! Whether a tier is asked: one that failed a few times in a row is not, until one question in a while is answered. No I/O, no clock.

use std::time::Duration;

use crate::clock::Time;

/// So many failures in a row open it.
const FAILURES: u32 = 3;
/// For how long it is open first, and at the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];

/// See the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Circuit {
    /// It is asked; so many failures in a row.
    Closed(u32),
    /// It is not asked before this moment; how long that was.
    Open(Time, Duration),
    /// One question is under way, which decides; at this moment another may.
    Trying(Time, Duration),
}

impl Circuit {
    pub(crate) const NEW: Self = Self::Closed(0);

    /// Whether it may be asked now; what is asked must be told of.
    pub(crate) fn may_ask(&mut self, now: Time) -> bool {
        match *self {
            Self::Closed(_) => true,
            Self::Open(until, pause) | Self::Trying(until, pause) if now >= until => {
                *self = Self::Trying(now.plus(pause), pause);
                true
            }
            Self::Open(..) | Self::Trying(..) => false,
        }
    }

    /// Whether it is taken for well.
    pub(crate) fn is_closed(self) -> bool {
        matches!(self, Self::Closed(_))
    }

    /// It answered. True where it was not taken for well.
    pub(crate) fn answered(&mut self) -> bool {
        let heals = !self.is_closed();
        *self = Self::NEW;
        heals
    }

    /// It did not. True where it was taken for well until now.
    pub(crate) fn failed(&mut self, now: Time) -> bool {
        let first = PAUSES[0];
        let (next, opens) = match *self {
            Self::Closed(failures) if failures + 1 < FAILURES => (Self::Closed(failures + 1), false),
            Self::Closed(_) => (Self::Open(now.plus(first), first), true),
            Self::Open(..) | Self::Trying(..) => (*self, false), // it was asked before
        };
        *self = next;
        opens
    }

    /// The question that decides was not answered: the pause doubles.
    pub(crate) fn tried_in_vain(&mut self, now: Time) {
        if let Self::Trying(_, pause) = *self {
            let pause = (pause * 2).min(PAUSES[1]);
            *self = Self::Open(now.plus(pause), pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: fn(u64) -> Time = |ms| Time::from_nanos(ms * 1_000_000);

    #[test]
    fn it_opens_after_a_few_failures_in_a_row_and_closes_by_an_answer() {
        let mut circuit = Circuit::NEW;
        assert!(!circuit.failed(T(0)) && !circuit.failed(T(0)) && !circuit.answered());
        assert!(!circuit.failed(T(0)) && !circuit.failed(T(0)) && circuit.failed(T(0)));
        assert!(!circuit.may_ask(T(199)) && !circuit.is_closed());
        assert!(circuit.may_ask(T(200)) && !circuit.may_ask(T(201)), "one question");
        circuit.tried_in_vain(T(210));
        assert!(!circuit.may_ask(T(609)) && circuit.may_ask(T(610)));
        assert!(circuit.answered() && circuit.may_ask(T(611)) && circuit.may_ask(T(611)));
    }

    #[test]
    fn a_question_that_is_never_told_of_does_not_keep_it_open_for_ever() {
        let mut circuit = Circuit::Open(T(0), Duration::from_millis(200));
        assert!(circuit.may_ask(T(0)) && !circuit.may_ask(T(199)) && circuit.may_ask(T(200)));
    }

    #[test]
    fn pauses_grow_up_to_a_bound_and_late_failures_change_nothing() {
        let mut circuit = Circuit::Closed(FAILURES - 1);
        circuit.failed(T(0));
        let open = circuit;
        circuit.failed(T(1));
        assert_eq!(circuit, open);
        assert!(circuit.may_ask(T(200)));
        let trying = circuit;
        assert!(!circuit.failed(T(201)), "it was asked before it opened");
        assert_eq!(circuit, trying);
        for minute in 1..20 {
            assert!(circuit.may_ask(T(minute * 60_000)));
            circuit.tried_in_vain(T(minute * 60_000));
        }
        assert!(matches!(circuit, Circuit::Open(_, pause) if pause == PAUSES[1]));
    }
}
