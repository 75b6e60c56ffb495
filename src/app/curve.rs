//! Draws the curve: takes what workers hand on of reads in the sample, has the ears read their keys where nobody knows what they take
//! or whether they have changed, feeds the miniatures, and sees to it that all that stays cheap.
//!
//! One task of the control thread, ten times a second. Where it is too late, or too much is asked of it, the sample gets smaller.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::App;
use crate::cache::{Measure, Warrant};
use crate::clock::{Time, thread_time};
use crate::config::{L1Mode, Promote};
use crate::curve::{
    CurveReport, MOST_FOLDS, MiniatureRead, ReportSources, SampleLandings, SampleTicket, SimulatedRead, Simulation,
    SimulationPlan, WritesReport,
};
use crate::invalidation::{Ear, Fill};
use crate::metrics::Outcome;
use crate::proxy::{LiveSettings, SampledRead, Shared};

const TICK: Duration = Duration::from_millis(100);
const TICKS_A_SECOND: u32 = 10;
/// Reads to be handed on at a tick, at most about so many: with more the sample is halved.
const READS_A_TICK: u64 = 300;
/// So long may be spent in a second: half of a hundredth of a processor. A program that is built for tests is many times as slow.
const TIME_A_SECOND: Duration = Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 5 });
/// Keys that ears are asked to read in a second for the sample alone: so many, and one for each hundred reads. What is not used is
/// kept, up to so many at once.
const FILLS_A_SECOND: u64 = 100;
const READS_A_FILL: u64 = 100;
const FILLS_AT_ONCE: u64 = 2000;
/// And so many bytes for each of them: an ear that takes in a large value hears nothing else meanwhile.
const BYTES_A_FILL: u64 = 20 << 10;
/// So many may be under way, and so many bytes, where an answer has as many as those of late have, of which so many count: what enters
/// memory goes the same way.
const UNDER_WAY: u64 = 128;
const BYTES_UNDER_WAY: u64 = 512 << 10;
const ANSWERS: u64 = 1000;
/// What an answer is taken to have at first.
const UNSEEN: u64 = 64 << 10;
/// Where a quarter of what is asked for is too much for so many seconds, the sample is halved.
const TOO_MUCH: u32 = 30;
/// After so many seconds with little to do, it begins anew with a larger one.
const IDLE: u32 = 300;
/// Which has so many times as many keys, as a power of two.
const LARGER: u32 = 3;

/// See the module's head.
pub(super) struct CurveKeeper {
    app: Arc<App>,
    simulation: Simulation,
    landings: Arc<SampleLandings>,
    /// The settings by which promotion and rules are judged.
    settings: Arc<LiveSettings>,
    /// All reads and all lost ones so far, as of the last tick; none where there is no sample.
    last: Option<(u64, u64)>,
    second: CurveSecond,
    fills: FillAllowance,
    too_much: u32,
    idle: u32,
}

/// What ears may be asked to read now for the sample alone.
struct FillAllowance {
    keys: u64,
    /// Less than nothing where what came was larger than was thought.
    bytes: i64,
    /// Answers of late, and their bytes; and all since the start.
    of_late: (u64, u64),
    seen: (u64, u64),
}

impl FillAllowance {
    /// Nothing was asked yet.
    fn new() -> Self {
        let of_late = (ANSWERS / 100, UNSEEN * ANSWERS / 100);
        Self { keys: FILLS_AT_ONCE, bytes: bytes_of(FILLS_AT_ONCE), of_late, seen: (0, 0) }
    }

    /// So many answers have come since the start, with so many bytes.
    fn settle(&mut self, all: (u64, u64)) {
        let (answers, bytes) = (all.0.saturating_sub(self.seen.0), all.1.saturating_sub(self.seen.1));
        self.seen = all;
        self.bytes = self.bytes.saturating_sub_unsigned(bytes);
        self.of_late = (self.of_late.0 + answers, self.of_late.1 + bytes);
        if self.of_late.0 > ANSWERS {
            self.of_late = (self.of_late.0 / 2, self.of_late.1 / 2);
        }
    }

    /// Whether one more may be asked for, while the answers to so many are open; it is, then.
    fn take(&mut self, open: u64) -> bool {
        let each = self.of_late.1 / self.of_late.0.max(1);
        let is_open = open == 0 || open < UNDER_WAY && open * each < BYTES_UNDER_WAY;
        let is_allowed = is_open && self.keys > 0 && self.bytes > 0;
        self.keys -= u64::from(is_allowed);
        is_allowed
    }

    /// It was not asked for after all.
    fn give_back(&mut self) {
        self.keys += 1;
    }

    /// A second is over, in which so many reads came.
    fn add(&mut self, reads: u64) {
        let more = FILLS_A_SECOND + reads / READS_A_FILL;
        let most = FILLS_AT_ONCE.max(more);
        self.keys = (self.keys + more).min(most);
        self.bytes = self.bytes.saturating_add(bytes_of(more)).min(bytes_of(most));
    }
}

fn bytes_of(keys: u64) -> i64 {
    i64::try_from(keys.saturating_mul(BYTES_A_FILL)).unwrap_or(i64::MAX)
}

/// What happened in the present second.
#[derive(Default)]
struct CurveSecond {
    ticks: u32,
    spent: Duration,
    reads: u64,
    sampled: u64,
    asked: u64,
    refused: u64,
}

impl CurveKeeper {
    pub(super) fn new(app: Arc<App>) -> Self {
        let settings = app.shared.live();
        let plan = SimulationPlan::new(app.shared.l1.memory.store.limit(), settings.promote);
        let simulation = Simulation::new(plan, 0);
        let (landings, second) = (Arc::default(), CurveSecond::default());
        Self {
            app,
            simulation,
            landings,
            settings,
            last: None,
            second,
            fills: FillAllowance::new(),
            too_much: 0,
            idle: 0,
        }
    }

    /// Never returns.
    pub(super) async fn keep(mut self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.tick(Time::now());
        }
    }

    fn tick(&mut self, now: Time) {
        let l1 = &self.app.shared.l1;
        if !l1.keeps() {
            return self.rest(l1.service());
        }
        let begun = thread_time();
        self.follow_settings();
        if self.simulation.present() != self.app.shared.l1.memory.store.limit() {
            self.last = None;
        }
        let taken = self.app.shared.curve.take();
        let (reads, lost) = self.counts();
        let Some((reads_before, lost_before)) = self.last.replace((reads, lost)) else {
            self.begin();
            return;
        };
        let (came, is_lost) = (reads.saturating_sub(reads_before), lost > lost_before);
        self.simulation.count(if is_lost { 0 } else { came }, now);
        self.fills.settle(self.landings.answers());
        for landed in self.landings.take() {
            self.simulation.landed(landed.id, landed.warrant, landed.measure, now);
        }
        let sampled = taken.len() as u64;
        // What was lost is missing from the sample: this moment does not count.
        for read in taken.into_iter().filter(|_| !is_lost) {
            self.read(read);
        }
        self.simulation.fit();
        if is_lost || sampled > READS_A_TICK {
            self.simulation.spare();
        }
        self.app.shared.curve.fold(Some(self.simulation.fold()));
        self.second.ticks += 1;
        self.second.reads += came;
        self.second.sampled += sampled;
        self.second.spent += thread_time().saturating_sub(begun);
        if self.second.ticks >= TICKS_A_SECOND {
            self.end_second(now);
        }
    }

    /// Nothing is kept, so there is nothing to compare.
    fn rest(&mut self, mode: L1Mode) {
        if self.last.take().is_some() {
            self.app.shared.curve.fold(None);
            drop(self.app.shared.curve.take());
        }
        let why = if mode == L1Mode::Pass { "another mode than pass" } else { "an l1_size above 0" };
        let report = CurveReport::waiting(mode.as_str(), why);
        if self.app.shared.curve.board.report().waits_for != report.waits_for {
            self.app.shared.curve.board.put(report);
        }
    }

    /// Reads were not handed on before: what was known is too old.
    fn begin(&mut self) {
        let shared = &self.app.shared;
        let plan = SimulationPlan::new(shared.l1.memory.store.limit(), self.settings.promote);
        self.simulation = Simulation::new(plan, 0);
        shared.curve.fold(Some(self.simulation.fold()));
    }

    fn follow_settings(&mut self) {
        let now = self.app.shared.live();
        if Arc::ptr_eq(&now, &self.settings) {
            return;
        }
        let patterns = |of: &LiveSettings| of.rules.iter().map(|rule| rule.pattern.clone()).collect::<Vec<_>>();
        if patterns(&now) != patterns(&self.settings) {
            self.simulation.forget_rules();
        }
        self.simulation.promote_at(now.promote);
        self.settings = now;
    }

    /// All reads of keys that L1 was asked for, or would have been, and those of the sample that were lost.
    fn counts(&self) -> (u64, u64) {
        let metrics = &self.app.metrics;
        let lookups = Outcome::ALL.into_iter().filter(|outcome| outcome.is_lookup());
        let lookups: u64 = lookups.map(|outcome| metrics.outcome(outcome)).sum();
        let further = metrics.sum(|worker| worker.further_keys.get());
        (lookups + further, metrics.sum(|worker| worker.sampled_reads_lost.get()))
    }

    fn read(&mut self, sampled: SampledRead) {
        let SampledRead { read, times, held, rule, fill, ear } = sampled;
        let one_in = self.settings.rule(rule).and_then(|rule| rule.promote).map(|promote| match promote {
            Promote::Never => 0,
            Promote::OneIn(one_in) => one_in,
        });
        let held = held.or_else(|| self.in_memory(&read, &fill, &ear));
        let simulated = SimulatedRead { read, times, key: fill.key(), rule: rule.number(), one_in, held };
        if !self.simulation.read(&simulated) {
            return;
        }
        let shared = &self.app.shared;
        // Where memory answers, no ear is begun for the sample alone: replies would have to wait for what it hears. A smaller sample would
        // not change that.
        if !ear.has_filled() && shared.l1.service() != L1Mode::Observe {
            return self.simulation.unasked(read.id);
        }
        self.second.asked += 1;
        if self.fills.take(self.landings.open()) {
            let ticket = SampleTicket::new(read.id, &self.landings);
            if shared.l1.promote(&ear, fill.for_sample(ticket)).is_ok() {
                return shared.stats.sampled_fills.add(1);
            }
            self.fills.give_back();
        }
        self.second.refused += 1;
        self.simulation.unasked(read.id);
    }

    /// What memory has by now for a read that it had nothing for: Redis has one read less, and those that came behind it were answered.
    fn in_memory(&self, read: &MiniatureRead, fill: &Fill, ear: &Ear) -> Option<Measure> {
        let (memory, now) = (&self.app.shared.l1.memory, Time::now());
        let stamp = memory.stamps.load(fill.slot());
        let warrant = stamp.quiet().then(|| Warrant::new(stamp, ear.freshness.epoch()))?;
        let is_same = read.warrant == Some(warrant);
        is_same.then(|| memory.store.measure(&fill.query(), &memory.stamps, &ear.freshness, now)).flatten()
    }

    fn end_second(&mut self, now: Time) {
        let begun = thread_time();
        let CurveSecond { spent, reads, sampled, asked, refused, .. } = std::mem::take(&mut self.second);
        self.fills.add(reads);
        self.too_much = if refused > asked / 4 && refused > FILLS_A_SECOND / 4 { self.too_much + 1 } else { 0 };
        if spent > TIME_A_SECOND || self.too_much > TOO_MUCH {
            self.too_much = 0;
            self.simulation.spare();
        }
        self.simulation.sweep(now);
        let is_idle = sampled < READS_A_TICK / 8 && spent < TIME_A_SECOND / 8 && self.simulation.is_sparing();
        self.idle = if is_idle { self.idle + 1 } else { 0 };
        if self.idle > IDLE {
            self.idle = 0;
            let floor = self.simulation.fold().saturating_sub(LARGER).min(MOST_FOLDS);
            self.simulation = Simulation::new(self.simulation.plan().clone(), floor);
        }
        let sources = self.sources();
        self.app.shared.curve.board.put(CurveReport::of(&self.simulation, sources));
        self.second.spent = thread_time().saturating_sub(begun);
    }

    fn sources(&self) -> ReportSources {
        let (app, metrics) = (&self.app, &self.app.metrics);
        let Shared { l1, .. } = &*app.shared;
        let opaque = metrics.outcome(Outcome::Opaque);
        ReportSources {
            mode: l1.service().as_str(),
            rules: self.settings.rules.iter().map(|rule| rule.pattern.to_string()).collect(),
            writes: WritesReport { all: metrics.outcome(Outcome::Write) + opaque, opaque },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for as many as may be.
    fn asked(allowance: &mut FillAllowance) -> u64 {
        (0..=FILLS_AT_ONCE).take_while(|&open| allowance.take(open)).count() as u64
    }

    #[test]
    fn as_many_keys_are_asked_for_as_reads_allow_and_fewer_until_it_is_known_how_large_they_are() {
        let mut allowance = FillAllowance::new();
        assert_eq!(asked(&mut allowance), BYTES_UNDER_WAY / UNSEEN);
        allowance.settle((990, 990 * 100));
        assert_eq!(asked(&mut allowance), UNDER_WAY);
        allowance.settle((2000, 2000 * 100));
        while asked(&mut allowance) > 0 {}
        assert_eq!(allowance.keys, 0);
        allowance.add(1000);
        assert_eq!(asked(&mut allowance), FILLS_A_SECOND + 10);
    }

    #[test]
    fn a_value_that_is_large_delays_the_next_for_as_long_as_its_bytes_are_allowed_for() {
        let mut allowance = FillAllowance::new();
        (1..=10).for_each(|n| allowance.settle((n, n * (8 << 20))));
        let mut seconds = 0;
        while !allowance.take(0) {
            allowance.add(0);
            seconds += 1;
        }
        assert!((15..25).contains(&seconds), "{seconds}");
        assert!(!allowance.take(1), "one after the other");
    }
}
