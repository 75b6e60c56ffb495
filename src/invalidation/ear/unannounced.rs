//! What Redis announces to nobody, and so is asked ahead of the fences: what its clock shows, and how often it swapped databases.
//!
//! Times to live come from Redis in its own time, and are counted down in ours. Where its clock is set forward, keys are gone for it
//! that L1 still holds. A `SWAPDB` that another program sends, or a script runs, exchanges all keys, and is pushed to nobody. Both
//! show at the next fence: what was filled before counts no more, so an answer is too old for `max_staleness` at the longest.
//! Such a question costs Redis little and is yet dearer than a fence, so not every fence has them; the lease then lasts no longer
//! than those that were answered last allow: a server that is busy with a script answers a fence and none of these. Where the user may
//! not ask one, or the server does not know it, it is not asked.
//!
//! Facts of Redis that this rests on (7.0.15 and Valkey 9): `TIME` is what its clock shows while it runs; `LATENCY HISTOGRAM` names
//! how often a command was run by anybody, in scripts and transactions too, unless `latency-tracking` is off. It counts the fence's
//! own `HELLO` as well, which shows whether it counts.
//!
//! Holds contract points 4 and 6 for what Redis does not tell.

use std::time::Duration;

use crate::clock::Time;
use crate::error::is_passing;
use crate::metrics::{EpochReason, Need};

/// Clocks that run at the speed of each other drift by less than a thousandth.
const DRIFT: u32 = 1000;
/// A smaller step is none: `PTTL` counts in milliseconds, and a server may read its clock once for several commands.
const SLACK: i128 = 5_000_000;

/// One of the questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// `TIME`.
    Clock,
    /// `LATENCY HISTOGRAM`.
    Swaps,
}

impl Probe {
    const ALL: [Self; 2] = [Self::Clock, Self::Swaps];

    /// What is sent.
    pub(super) const fn command(self) -> &'static [&'static [u8]] {
        match self {
            Self::Clock => &[b"TIME"],
            Self::Swaps => &[b"LATENCY", b"HISTOGRAM", b"hello", b"swapdb"],
        }
    }

    /// What it is for.
    pub(super) const fn need(self) -> Need {
        match self {
            Self::Clock => Need::Time,
            Self::Swaps => Need::Latency,
        }
    }
}

/// What one connection of an ear knows of it.
#[derive(Debug, Default)]
pub(super) struct Unannounced {
    asked: Option<Time>,
    /// When each was sent that was answered last.
    answered: [Option<Time>; 2],
    refused: [bool; 2],
    clock: ServerClock,
    swaps: SwapCount,
}

/// What an answer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeFinding {
    /// Nothing has happened.
    Nothing,
    /// It is not to be asked again.
    Refused,
    /// What was filled before counts no more.
    Changed(EpochReason),
}

impl Unannounced {
    /// What is to be asked ahead of a fence that is sent `now`, where the last time was longer ago than `every`.
    pub(super) fn due(&mut self, now: Time, every: Duration) -> impl Iterator<Item = Probe> + use<> {
        let due = self.asked.is_none_or(|asked| now.saturating_since(asked) >= every);
        if due {
            self.asked = Some(now);
        }
        let refused = self.refused;
        Probe::ALL.into_iter().filter(move |&probe| due && !refused[probe as usize])
    }

    /// The answer to what was asked at `sent` and is here at `now`.
    pub(super) fn hear(&mut self, probe: Probe, reply: &[u8], sent: Time, now: Time) -> ProbeFinding {
        if reply.starts_with(b"-") {
            if is_passing(reply) {
                return ProbeFinding::Nothing;
            }
            self.refused[probe as usize] = true;
            return ProbeFinding::Refused;
        }
        self.answered[probe as usize] = Some(sent);
        match probe {
            Probe::Clock if self.clock.shows(reply, sent, now) => ProbeFinding::Changed(EpochReason::Clock),
            Probe::Swaps if self.swaps.shows(reply) => ProbeFinding::Changed(EpochReason::SwapDb),
            Probe::Clock | Probe::Swaps => ProbeFinding::Nothing,
        }
    }

    /// Whether the server says how often it swapped databases; none where that is not known yet.
    pub(super) fn counts_swaps(&self) -> Option<bool> {
        if self.refused[Probe::Swaps as usize] { Some(false) } else { self.swaps.counts }
    }

    /// From when on a fence that was sent at `sent` may count: no later than from when the answers to all that is asked were sent for.
    pub(super) fn bound(&self, sent: Time) -> Time {
        let asked = Probe::ALL.into_iter().filter(|&probe| !self.refused[probe as usize]);
        asked.map(|probe| self.answered[probe as usize].unwrap_or(Time::ZERO)).fold(sent, Time::min)
    }
}

/// How far Redis's clock is ahead of ours, at most: in nanoseconds, at that moment of ours.
#[derive(Debug, Default)]
struct ServerClock(Option<(i128, Time)>);

impl ServerClock {
    /// The reply to `TIME`, which was sent and heard at these moments. True where the clock has been set forward since the last one.
    fn shows(&mut self, reply: &[u8], sent: Time, heard: Time) -> bool {
        let Some(shown) = nanoseconds(reply) else { return false };
        let ahead = |of: Time| shown - i128::from(of.as_nanos());
        let before = self.0.map(|(most, at)| {
            let drift: Duration = heard.saturating_since(at) / DRIFT;
            most + i128::from(u64::try_from(drift.as_nanos()).unwrap_or(u64::MAX))
        });
        let stepped = before.is_some_and(|most| ahead(heard) > most + SLACK);
        let most = before.filter(|_| !stepped).map_or(ahead(sent), |most| most.min(ahead(sent)));
        self.0 = Some((most, heard));
        stepped
    }
}

/// Seconds and microseconds, each a string.
fn nanoseconds(reply: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(reply).ok()?;
    let mut lines = text.split("\r\n");
    let (header, _, seconds, _, micros) = (lines.next()?, lines.next()?, lines.next()?, lines.next()?, lines.next()?);
    let number = |text: &str| text.parse::<u64>().ok().map(i128::from);
    (header == "*2").then_some(number(seconds)? * 1_000_000_000 + number(micros)? * 1000)
}

/// How often `HELLO` and `SWAPDB` were run.
#[derive(Debug, Default)]
struct SwapCount {
    last: Option<(u64, u64)>,
    /// Whether they are counted, as far as two answers show.
    counts: Option<bool>,
}

impl SwapCount {
    /// The reply to `LATENCY HISTOGRAM`. True where databases were swapped since the last one. Where the fence between the two was not
    /// counted, nothing is known.
    fn shows(&mut self, reply: &[u8]) -> bool {
        let Some(hellos) = calls(reply, "hello") else {
            self.counts = Some(false);
            return false;
        };
        let swaps = calls(reply, "swapdb").unwrap_or(0);
        let counts = self.last.is_none_or(|(before, _)| before != hellos);
        // Where all counts were set to zero meanwhile, the same number of swaps says nothing.
        let swapped = self.last.is_some_and(|(before, of_swaps)| hellos < before || of_swaps != swaps);
        self.counts = self.last.map(|_| counts);
        self.last = Some((hellos, swaps));
        counts && swapped
    }
}

/// The number of calls that the reply gives for a command. There is none for one that was never run.
fn calls(reply: &[u8], command: &str) -> Option<u64> {
    let head = format!("\r\n{command}\r\n%2\r\n$5\r\ncalls\r\n:");
    let at = reply.windows(head.len()).position(|at| at == head.as_bytes())? + head.len();
    let digits = reply[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&reply[at..at + digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn time(nanos: u64) -> Vec<u8> {
        let (seconds, micros) = ((nanos / 1_000_000_000).to_string(), (nanos / 1000 % 1_000_000).to_string());
        format!("*2\r\n${}\r\n{seconds}\r\n${}\r\n{micros}\r\n", seconds.len(), micros.len()).into_bytes()
    }

    /// Redis's clock, that much ahead of ours, is asked at `sent`, shows its time after `there`, and is heard after `back` more.
    fn ask(clock: &mut ServerClock, ahead: u64, (sent, there, back): (u64, u64, u64)) -> bool {
        let shown = time(1_790_000_000_000_000_000 + ahead + sent + there);
        clock.shows(&shown, Time::from_nanos(sent), Time::from_nanos(sent + there + back))
    }

    #[test]
    fn a_step_forward_is_told_from_a_slow_link_and_from_drift() {
        let mut clock = ServerClock::default();
        assert!(!ask(&mut clock, 0, (1000 * MS, MS, MS)));
        assert!(!ask(&mut clock, 0, (1100 * MS, 90 * MS, 0)), "a slow way there");
        assert!(!ask(&mut clock, 0, (1200 * MS, 0, 90 * MS)), "a slow way back");
        assert!(ask(&mut clock, 3_600_000 * MS, (1300 * MS, MS, MS)), "an hour");
        assert!(!ask(&mut clock, 3_600_000 * MS, (1400 * MS, MS, MS)), "once");
        assert!(ask(&mut clock, 3_600_020 * MS, (1500 * MS, MS, MS)), "and twenty milliseconds more");
        // A five-hundredth of a second a second behind or ahead would be no drift; half a thousandth is.
        let mut ahead = 3_600_020 * MS;
        for n in 0_u64..1000 {
            ahead += MS / 20;
            assert!(!ask(&mut clock, ahead, ((1600 + 100 * n) * MS, MS, MS)), "{n}");
        }
    }

    #[test]
    fn a_step_back_is_none_and_the_next_one_forward_counts_from_there() {
        let mut clock = ServerClock::default();
        assert!(!ask(&mut clock, 50_000 * MS, (1000 * MS, MS, MS)));
        assert!(!ask(&mut clock, 10_000 * MS, (1100 * MS, MS, MS)));
        assert!(ask(&mut clock, 10_100 * MS, (1200 * MS, MS, MS)));
        for odd in
            [&b"*2\r\n"[..], b"_\r\n", b"*2\r\n$1\r\nx\r\n$1\r\n1\r\n", b"*3\r\n$1\r\n1\r\n$1\r\n1\r\n$1\r\n1\r\n"]
        {
            assert!(!clock.shows(odd, Time::ZERO, Time::ZERO));
        }
    }

    fn histogram(counts: &[(&str, u64)]) -> Vec<u8> {
        let of_one = |(name, calls): &(&str, u64)| {
            let head = format!("${}\r\n{name}\r\n%2\r\n$5\r\ncalls\r\n:{calls}\r\n", name.len());
            head + "$14\r\nhistogram_usec\r\n%1\r\n:8\r\n:1\r\n"
        };
        let all: String = counts.iter().map(of_one).collect();
        format!("%{}\r\n{all}", counts.len()).into_bytes()
    }

    #[test]
    fn a_swap_shows_in_the_count_where_redis_counts() {
        let mut swaps = SwapCount::default();
        assert!(!swaps.shows(&histogram(&[("hello", 1), ("swapdb", 3)])), "before anything was filled");
        assert!(!swaps.shows(&histogram(&[("hello", 2), ("swapdb", 3)])));
        assert!(swaps.shows(&histogram(&[("hello", 4), ("swapdb", 4)])));
        assert!(!swaps.shows(&histogram(&[("swapdb", 4)])), "counted anew, and no fence yet");
        assert!(swaps.shows(&histogram(&[("hello", 1)])), "counted anew");
        assert!(!swaps.shows(&histogram(&[("hello", 2)])));
        assert!(swaps.shows(&histogram(&[("hello", 3), ("swapdb", 1)])), "the first there ever was");
        let mut off = SwapCount::default();
        assert!(!off.shows(&histogram(&[])) && !off.shows(&histogram(&[("hello", 7)])));
        assert!(!off.shows(&histogram(&[("hello", 7), ("swapdb", 1)])), "the fence between was not counted");
    }

    #[test]
    fn the_bound_is_what_was_asked_and_answered_last_of_all_that_is_asked() {
        let (early, late) = (Time::from_nanos(1), Time::from_nanos(2));
        let at = |answered, refused| Unannounced { answered, refused, ..Unannounced::default() }.bound(late);
        assert_eq!(Unannounced::default().bound(late), Time::ZERO, "nothing is known yet");
        assert_eq!(at([Some(late), None], [false, false]), Time::ZERO);
        assert_eq!(at([Some(late), Some(early)], [false, false]), early);
        assert_eq!(at([Some(late), Some(early)], [false, true]), late);
        assert_eq!(at([Some(early), None], [true, true]), late, "nothing is asked");
    }

    #[test]
    fn what_is_refused_in_passing_counts_as_not_asked() {
        let mut unannounced = Unannounced::default();
        let mut ask = |at, clock: &[u8], swaps: &[u8]| {
            let (sent, heard) = (Time::from_nanos(at), Time::from_nanos(at + 1));
            assert_eq!(unannounced.due(sent, Duration::ZERO).count(), 2);
            assert_eq!(unannounced.hear(Probe::Clock, clock, sent, heard), ProbeFinding::Nothing);
            let finding = unannounced.hear(Probe::Swaps, swaps, sent, heard);
            (finding, unannounced.bound(sent).as_nanos())
        };
        let (busy, clock) = (b"-BUSY a script runs\r\n", time(1000 * MS));
        assert_eq!(ask(10, &clock, &histogram(&[("hello", 1)])), (ProbeFinding::Nothing, 10));
        assert_eq!(ask(20, busy, busy), (ProbeFinding::Nothing, 10));
        assert_eq!(ask(30, &clock, busy), (ProbeFinding::Nothing, 10), "one of two");
        let swapped = ask(40, &clock, &histogram(&[("hello", 4), ("swapdb", 1)]));
        assert_eq!(swapped, (ProbeFinding::Changed(EpochReason::SwapDb), 40));
    }

    #[test]
    fn both_are_asked_now_and_then_until_one_is_refused() {
        let mut unannounced = Unannounced::default();
        let every = Duration::from_nanos(10);
        let due =
            |unannounced: &mut Unannounced, now| unannounced.due(Time::from_nanos(now), every).collect::<Vec<_>>();
        assert_eq!(due(&mut unannounced, 100), Probe::ALL);
        assert_eq!(due(&mut unannounced, 109), []);
        let at = Time::from_nanos(109);
        assert_eq!(unannounced.hear(Probe::Clock, b"-BUSY a script runs\r\n", at, at), ProbeFinding::Nothing);
        assert_eq!(unannounced.hear(Probe::Swaps, b"-NOPERM no\r\n", at, at), ProbeFinding::Refused);
        assert_eq!(due(&mut unannounced, 110), [Probe::Clock]);
    }

    #[test]
    fn what_an_answer_shows_is_told_by_its_reason() {
        let mut unannounced = Unannounced::default();
        let mut hear = |probe, reply: &[u8], at| {
            let at = Time::from_nanos(at);
            unannounced.hear(probe, reply, at, at)
        };
        assert_eq!(hear(Probe::Clock, &time(1000 * MS), 0), ProbeFinding::Nothing);
        assert_eq!(hear(Probe::Clock, &time(9000 * MS), 10 * MS), ProbeFinding::Changed(EpochReason::Clock));
        assert_eq!(hear(Probe::Swaps, &histogram(&[("hello", 1)]), 0), ProbeFinding::Nothing);
        assert_eq!(
            hear(Probe::Swaps, &histogram(&[("hello", 2), ("swapdb", 1)]), 0),
            ProbeFinding::Changed(EpochReason::SwapDb)
        );
    }
}
