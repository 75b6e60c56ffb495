//! What crema counts about itself, and how it is told.
//!
//! This module owns every counter and every metric name. Two kinds of counters stand side by side:
//! [`WorkerStats`], one for each worker thread, written by that thread alone, so that counting a
//! request costs a load, an add and a store; and [`Stats`], one for the process, for what happens
//! seldom or on any thread. They are summed when somebody asks (`/metrics`, `/api/status`), never
//! before. Counting must never allocate, look anything up, wait, or read a clock; but for one request in about 64, of whose keys
//! more is noted.
//!
//! Every layer above counts; only the admin port reads.
//!
//! Reading order: `labels` (why a request went the way it did), `counters` (what is counted),
//! `latency` (the sampled histogram), `export` (the names), `process` (what the system knows of the process); then what is known of keys:
//! `sketch` and `big` (which are hot, which are big), `key_watch` (a worker's), `prefixes`, `key_tallies` (by rule and prefix); and `slow`.

mod big;
mod counters;
mod export;
mod key_name;
mod key_tallies;
mod key_watch;
mod labels;
mod latency;
mod origin;
mod prefixes;
mod process;
mod sketch;
mod slow;
mod tier;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use counters::Stats;
pub(crate) use counters::{Counter, Gauge, SAMPLE_EVERY, SharedCounter, WorkerStats};
pub use export::descriptions;
pub(crate) use export::{Levels, Value};
pub(crate) use key_name::{KeyName, quoted};
pub(crate) use key_tallies::{KeyLevels, TalliedKey};
pub(crate) use key_watch::{HALF_LIFE, HotKey, KeyWatch, faded, hash_of, per_second};
pub use labels::{AuditBreach, AuditDoubt, KeyEvent, LoadResult, Need, Outcome, SlowReason, TierOutcome};
pub(crate) use labels::{
    AuditSkip, CensusFinding, ChannelMessage, CoherenceMeans, DropReason, EpochReason, Failure, FillOutcome, Path,
    Publication, ReadRole, RedirectKind, Refusal,
};
pub(crate) use latency::Latency;
pub(crate) use origin::OriginLevels;
pub(crate) use prefixes::{KeyPrefix, PrefixLearner};
pub(crate) use slow::{SlowCommand, SlowEntry};
pub(crate) use tier::{TierLevels, TierStats};

use crate::command::Class;
use export::Exporter;

/// All counters of one process.
#[derive(Debug)]
pub struct Metrics {
    /// One for each worker, in the workers' order.
    pub workers: Vec<Arc<WorkerStats>>,
    /// What is counted for the process as a whole.
    pub stats: Arc<Stats>,
    exporter: Exporter,
}

impl Metrics {
    /// Counters for `workers` workers, all zero.
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| Arc::default()).collect(),
            stats: Arc::default(),
            exporter: Exporter::new(),
        }
    }

    /// The sum over all workers of the counter that `read` finds in each.
    pub fn sum(&self, read: impl Fn(&WorkerStats) -> u64) -> u64 {
        self.workers.iter().map(|worker| read(worker)).sum()
    }

    /// The sum over all workers of the gauge that `gauge` finds in each; zero where, because
    /// workers are not read at one instant, it would come out below.
    pub fn level(&self, gauge: impl Fn(&WorkerStats) -> &Gauge) -> u64 {
        let sum: i64 = self.workers.iter().map(|worker| gauge(worker).get()).sum();
        sum.max(0).cast_unsigned()
    }

    /// Requests of this class that had this outcome, since the start.
    pub fn requests(&self, class: Class, outcome: Outcome) -> u64 {
        self.sum(|worker| worker.requests(class, outcome))
    }

    /// Requests that had this outcome, since the start.
    pub fn outcome(&self, outcome: Outcome) -> u64 {
        Class::ALL.iter().map(|&class| self.requests(class, outcome)).sum()
    }

    /// Requests of this class, since the start.
    pub fn class(&self, class: Class) -> u64 {
        Outcome::ALL.iter().map(|&outcome| self.requests(class, outcome)).sum()
    }

    /// The sampled latencies of one path, over all workers, since the start.
    pub fn latency(&self, path: Path) -> Latency {
        let mut sum = Latency::default();
        for worker in &self.workers {
            sum.merge(worker.latency(path));
        }
        sum
    }

    /// Everything in the text format of Prometheus, version 0.0.4.
    pub fn render(&self, levels: &Levels) -> String {
        self.exporter.render(self, levels)
    }

    /// Every metric but requests and latencies by its name: a number, or numbers by label.
    pub fn values(&self, levels: &Levels) -> BTreeMap<&'static str, Value> {
        export::values(self, levels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_go_over_workers_classes_and_outcomes() {
        let metrics = Metrics::new(2);
        metrics.workers[0].count(Class::String, Outcome::Hit);
        metrics.workers[1].count(Class::String, Outcome::Hit);
        metrics.workers[1].count(Class::Stream, Outcome::Hit);
        metrics.workers[1].count(Class::Stream, Outcome::Write);
        assert_eq!(metrics.requests(Class::String, Outcome::Hit), 2);
        assert_eq!(metrics.outcome(Outcome::Hit), 3);
        assert_eq!(metrics.class(Class::Stream), 2);
        assert_eq!(metrics.outcome(Outcome::Lead), 0);
    }

    #[test]
    fn a_gauge_raised_by_one_worker_and_lowered_by_another_sums_up() {
        let metrics = Metrics::new(2);
        metrics.workers[0].lanes.add(3);
        metrics.workers[1].lanes.sub(1);
        assert_eq!(metrics.level(|worker| &worker.lanes), 2);
        metrics.workers[1].lanes.sub(5);
        assert_eq!(metrics.level(|worker| &worker.lanes), 0, "never below zero");
    }
}
