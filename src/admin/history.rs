//! What the last hour was like, a sample every five seconds: what the dashboard draws before anybody looked.
//!
//! Kept in a ring of bounded length, and gone with the process. Counts are those of the time since the sample before, so a reader needs no
//! more than what it is given. Called by the server of the admin port.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::Source;
use crate::metrics::{Latency, Metrics, Outcome, Path};

/// From one sample to the next.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// As many as an hour has.
const KEPT: usize = 720;

/// What a sample consists of, in the order of its row.
const COLUMNS: [&str; 14] = [
    "at_ms",
    "span_ms",
    "requests",
    "lookups",
    "hits",
    "would_hits",
    "spared",
    "hit_p50_ns",
    "hit_p99_ns",
    "miss_p50_ns",
    "miss_p99_ns",
    "l1_bytes",
    "l1_entries",
    "sessions",
];

/// The samples, and what they are reckoned from.
pub(super) struct History {
    rows: VecDeque<Sample>,
    before: Totals,
}

/// A sample; nothing where nothing was measured.
type Sample = [Option<u64>; COLUMNS.len()];

/// What has been counted since the start.
#[derive(Default)]
struct Totals {
    uptime: Duration,
    outcomes: Outcomes,
    hit: Latency,
    miss: Latency,
}

#[derive(Clone, Copy, Default)]
struct Outcomes {
    requests: u64,
    lookups: u64,
    hits: u64,
    would_hits: u64,
    spared: u64,
}

#[derive(Serialize)]
struct HistoryShown<'a> {
    every_ms: u64,
    columns: [&'static str; COLUMNS.len()],
    rows: Vec<&'a Sample>,
}

impl History {
    /// Begins now, whatever was counted before.
    pub(super) fn new(source: &dyn Source) -> Self {
        Self { rows: VecDeque::new(), before: Totals::of(source.metrics(), source.snapshot().uptime) }
    }

    /// Takes a sample.
    pub(super) fn sample(&mut self, source: &dyn Source) {
        let (metrics, snapshot) = (source.metrics(), source.snapshot());
        let now = Totals::of(metrics, snapshot.uptime);
        let sessions: i64 = metrics.workers.iter().map(|worker| worker.sessions.get()).sum();
        let row = now.row(&self.before, (snapshot.l1.bytes, snapshot.l1.entries), u64::try_from(sessions).unwrap_or(0));
        self.keep(row);
        self.before = now;
    }

    fn keep(&mut self, row: Sample) {
        if self.rows.len() == KEPT {
            self.rows.pop_front();
        }
        self.rows.push_back(row);
    }

    /// Those after a moment, in milliseconds since 1970, as JSON.
    pub(super) fn json(&self, after: u64) -> String {
        let shown = HistoryShown {
            every_ms: millis(EVERY),
            columns: COLUMNS,
            rows: self.rows.iter().filter(|row| row[0] > Some(after)).collect(),
        };
        serde_json::to_string(&shown).expect("numbers always serialize")
    }
}

impl Totals {
    fn of(metrics: &Metrics, uptime: Duration) -> Self {
        let mut outcomes = Outcomes::default();
        for outcome in Outcome::ALL {
            let count = metrics.outcome(outcome);
            outcomes.requests += count;
            outcomes.lookups += if outcome.is_lookup() { count } else { 0 };
            outcomes.spared += if outcome.is_spared() { count } else { 0 };
            outcomes.hits += if outcome == Outcome::Hit { count } else { 0 };
            outcomes.would_hits += if outcome == Outcome::WouldHit { count } else { 0 };
        }
        Self { uptime, outcomes, hit: metrics.latency(Path::Hit), miss: metrics.latency(Path::Miss) }
    }

    fn row(&self, before: &Self, (bytes, entries): (u64, u64), sessions: u64) -> Sample {
        let (now, then) = (self.outcomes, before.outcomes);
        #[expect(clippy::disallowed_methods, reason = "people are shown it, and nothing goes by it")]
        let at = SystemTime::now().duration_since(UNIX_EPOCH);
        let gain = |now: u64, then: u64| Some(now.saturating_sub(then));
        let (hit, miss) = (self.hit.since(&before.hit), self.miss.since(&before.miss));
        [
            Some(at.map_or(0, millis)),
            Some(millis(self.uptime.saturating_sub(before.uptime))),
            gain(now.requests, then.requests),
            gain(now.lookups, then.lookups),
            gain(now.hits, then.hits),
            gain(now.would_hits, then.would_hits),
            gain(now.spared, then.spared),
            hit.quantile(0.5),
            hit.quantile(0.99),
            miss.quantile(0.5),
            miss.quantile(0.99),
            Some(bytes),
            Some(entries),
            Some(sessions),
        ]
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Class;
    use serde_json::Value as Json;
    use std::time::Instant;

    fn history() -> History {
        History { rows: VecDeque::new(), before: Totals::default() }
    }

    #[test]
    fn a_sample_counts_what_came_since_the_one_before() {
        let metrics = Metrics::new(2);
        let count = |worker: usize, outcome, times| {
            (0..times).for_each(|_| metrics.workers[worker].count(Class::String, outcome));
        };
        let at = |seconds| Totals::of(&metrics, Duration::from_secs(seconds));
        let begin = at(0);
        count(0, Outcome::Hit, 3);
        count(1, Outcome::Lead, 1);
        count(1, Outcome::Write, 2);
        metrics.workers[0].record(Path::Hit, Instant::now());
        let then = at(5);
        count(1, Outcome::WouldHit, 4);
        let (first, second) = (then.row(&begin, (900, 3), 7), at(12).row(&then, (0, 0), 0));
        assert_eq!(first[1..7], [5000, 6, 4, 3, 0, 3].map(Some));
        assert!(first[7].is_some() && first[9].is_none(), "a hit was timed, and no miss");
        assert_eq!(first[11..], [900, 3, 7].map(Some));
        assert_eq!(second[1..7], [7000, 4, 4, 0, 4, 0].map(Some));
        assert_eq!(second[7], None, "no hit was timed since");
    }

    #[test]
    fn an_hour_is_kept_and_shown_from_where_a_reader_is() {
        let mut history = history();
        for at in 0..1000 {
            history.keep(Sample::default().map(|_| Some(at)));
        }
        let shown = |after| serde_json::from_str::<Json>(&history.json(after)).expect("JSON");
        assert_eq!(shown(0)["rows"].as_array().map(Vec::len), Some(KEPT));
        assert_eq!(shown(0)["rows"][0][0], 280);
        assert_eq!(shown(997)["rows"].as_array().map(Vec::len), Some(2));
        assert_eq!(shown(2000)["rows"], Json::Array(Vec::new()));
        assert_eq!(
            shown(0)["columns"].as_array().map(Vec::len),
            Some(shown(0)["rows"][0].as_array().map_or(0, Vec::len))
        );
    }
}
