//! What was counted of late, and the estimate that follows from it: in slices of ten seconds, of which the later half counts, so
//! that a beginning with nothing in memory is forgotten.
//!
//! Misses are what is counted, for the few keys that are read most are hardly ever missed: whether one of them is in the sample
//! decides how many reads there are in it, and little else. All reads are known, so the error of their number in the sample is
//! known as well, and is taken off the misses as far as the two go together (a regression estimator; with nothing taken off it is
//! that of SHARDS-adj, Waldspurger et al., FAST 2015).

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Time;

/// How long a slice is, and how many there are: ten minutes.
const SLICE: Duration = Duration::from_secs(10);
const SLICES: usize = 60;

/// What one miniature made of the reads of a slice, each of them as often as it stands for.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct ScenarioTally {
    /// Reads, and those that it had no answer to.
    pub(super) reads: f64,
    pub(super) misses: f64,
    /// The same, each as often as its key had been read.
    pub(super) heavy_reads: f64,
    pub(super) heavy_misses: f64,
    /// Misses whose keys were promoted.
    pub(super) wanted: f64,
    /// Bytes of replies that it had.
    pub(super) hit_bytes: f64,
}

impl ScenarioTally {
    fn add(&mut self, other: &Self) {
        self.reads += other.reads;
        self.misses += other.misses;
        self.heavy_reads += other.heavy_reads;
        self.heavy_misses += other.heavy_misses;
        self.wanted += other.wanted;
        self.hit_bytes += other.hit_bytes;
    }
}

/// What is told of one miniature.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Estimate {
    /// Of all reads the part that it would have answered.
    pub hit_ratio: f64,
    /// Fills for each read.
    pub fills: f64,
    /// Bytes of replies that it would have given a second.
    pub bytes_a_second: f64,
}

#[derive(Debug)]
struct Slice {
    begun: Time,
    /// All reads, of keys in the sample or not.
    total: u64,
    tallies: Vec<ScenarioTally>,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct CurveWindow {
    scenarios: usize,
    slices: VecDeque<Slice>,
    now: Time,
}

impl CurveWindow {
    pub(super) fn new(scenarios: usize) -> Self {
        Self { scenarios, slices: VecDeque::new(), now: Time::ZERO }
    }

    /// It is `now`.
    pub(super) fn advance(&mut self, now: Time) {
        self.now = now;
        if self.slices.back().is_none_or(|slice| now.saturating_since(slice.begun) >= SLICE) {
            if self.slices.len() == SLICES {
                self.slices.pop_front();
            }
            let tallies = vec![ScenarioTally::default(); self.scenarios];
            self.slices.push_back(Slice { begun: now, total: 0, tallies });
        }
    }

    /// So many reads have come, of whatever keys.
    pub(super) fn count(&mut self, reads: u64) {
        if let Some(slice) = self.slices.back_mut() {
            slice.total += reads;
        }
    }

    /// What the scenario with this number does now.
    pub(super) fn tally(&mut self, scenario: usize) -> Option<&mut ScenarioTally> {
        self.slices.back_mut()?.tallies.get_mut(scenario)
    }

    /// The slices that count.
    fn later(&self) -> impl Iterator<Item = &Slice> {
        self.slices.iter().skip(self.slices.len() / 2)
    }

    /// The time for which they stand.
    pub(super) fn span(&self) -> Duration {
        self.later().next().map_or(Duration::ZERO, |slice| self.now.saturating_since(slice.begun))
    }

    /// All reads in that time.
    pub(super) fn total(&self) -> u64 {
        self.later().map(|slice| slice.total).sum()
    }

    /// What is known of a scenario; none before anything was read.
    pub(super) fn estimate(&self, scenario: usize) -> Option<Estimate> {
        let mut sum = ScenarioTally::default();
        self.later().filter_map(|slice| slice.tallies.get(scenario)).for_each(|tally| sum.add(tally));
        if sum.reads == 0.0 {
            return None;
        }
        let total = self.total() as f64;
        let all = if total > 0.0 { total } else { sum.reads };
        let slope = if sum.heavy_reads > 0.0 { sum.heavy_misses / sum.heavy_reads } else { 0.0 };
        let misses = (sum.misses - slope * (sum.reads - all)).clamp(0.0, all);
        let span = self.span().as_secs_f64().max(1.0);
        // Those of a hit are known of the sample, and how many hits there were of all reads.
        let hits = sum.reads - sum.misses;
        let bytes_a_hit = if hits > 0.0 { sum.hit_bytes / hits } else { 0.0 };
        Some(Estimate {
            hit_ratio: 1.0 - misses / all,
            fills: sum.wanted / sum.misses.max(1.0) * misses / all,
            bytes_a_second: bytes_a_hit * (all - misses) / span,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Time = |seconds| Time::from_nanos(seconds * 1_000_000_000);

    fn tally(reads: f64, misses: f64, slope: f64) -> ScenarioTally {
        let (heavy_reads, heavy_misses) = (100.0, 100.0 * slope);
        ScenarioTally { reads, misses, heavy_reads, heavy_misses, wanted: misses / 2.0, hit_bytes: 40.0 }
    }

    #[test]
    fn a_hot_key_that_is_missing_from_the_sample_is_a_hit_all_the_same() {
        let mut window = CurveWindow::new(1);
        window.advance(AT(0));
        window.count(1000);
        *window.tally(0).expect("there is one") = tally(200.0, 100.0, 0.0);
        window.advance(AT(4));
        let told = window.estimate(0).expect("there were reads");
        assert!((told.hit_ratio - 0.9).abs() < 1e-9 && (told.fills - 0.05).abs() < 1e-9, "{told:?}");
        assert!((told.bytes_a_second - 90.0).abs() < 1e-9, "0.4 for each of 900 in 4 s: {told:?}");
    }

    #[test]
    fn where_all_keys_are_read_alike_the_part_that_is_missed_counts() {
        let mut window = CurveWindow::new(1);
        window.advance(AT(0));
        window.count(1000);
        *window.tally(0).expect("there is one") = tally(1200.0, 600.0, 0.5);
        let told = window.estimate(0).expect("there were reads").hit_ratio;
        assert!((told - 0.5).abs() < 1e-9, "{told}");
    }

    #[test]
    fn what_came_first_is_forgotten() {
        let mut window = CurveWindow::new(1);
        for second in 0..30 {
            window.advance(AT(second));
            window.count(10);
            let missed = if second < 10 { 10.0 } else { 0.0 };
            window.tally(0).expect("there is one").add(&tally(10.0, missed, 1.0));
        }
        assert_eq!(window.slices.len(), 3);
        assert_eq!(window.estimate(0).map(|told| told.hit_ratio), Some(1.0));
        assert_eq!((window.total(), window.span()), (200, Duration::from_secs(19)));
        for slice in 3..200 {
            window.advance(AT(slice * 10));
        }
        assert_eq!((window.slices.len(), window.estimate(0)), (SLICES, None));
    }
}
