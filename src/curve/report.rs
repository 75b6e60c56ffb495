//! What the curve says, in numbers: the JSON of `/api/advise`, whose field names are an interface, and what the words are made of.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::advice::{Advice, advise};
use super::groups::GroupTally;
use super::simulation::Simulation;
use super::window::Estimate;

/// Before so many reads nothing is recommended.
pub(super) const ENOUGH_READS: u64 = 1000;
/// What is told of a group is told of at least so many reads in the sample, and of this part of all.
const GROUP_READS: u64 = 50;
const GROUP_PART: f64 = 0.002;
/// Groups that are told of, those that are read most.
const GROUPS: usize = 20;

/// See the module's head.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CurveReport {
    /// Why there is nothing to say yet; none where there is something.
    pub waits_for: Option<String>,
    /// What L1 does for reads: the name of a mode.
    pub mode: &'static str,
    /// The time that is spoken of, and all reads in it that L1 was asked for, or would have been.
    pub seconds: u64,
    /// See `seconds`.
    pub reads: u64,
    /// Of those, in a second.
    pub reads_a_second: f64,
    /// How it is known.
    pub sample: SampleReport,
    /// By size of L1, the smallest first.
    pub sizes: Vec<SizeReport>,
    /// By how keys are promoted, at the present size.
    pub promotions: Vec<PromotionReport>,
    /// Writes since the start.
    pub writes: WritesReport,
    /// By rule, those read most first.
    pub rules: Vec<GroupReport>,
    /// By prefix, as learnt from the keys.
    pub prefixes: Vec<GroupReport>,
    /// All this in words.
    pub advice: Vec<Advice>,
}

/// How large the sample is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SampleReport {
    /// One key in so many is looked at, at most.
    pub one_in: u64,
    /// Entries of all miniatures.
    pub entries: u64,
    /// Bytes of memory that all takes.
    pub bytes: u64,
}

/// An L1 of another size.
#[derive(Clone, Debug, Serialize)]
pub struct SizeReport {
    /// Its size.
    pub bytes: u64,
    /// The part of reads that it would answer.
    pub hit_ratio: f64,
    /// Fills for each read.
    pub fills_a_read: f64,
    /// Reads and bytes of replies that Redis would be spared a second.
    pub reads_spared_a_second: f64,
    /// See `reads_spared_a_second`.
    pub bytes_spared_a_second: f64,
    /// Whether it is the present size.
    pub present: bool,
}

/// Another way to promote.
#[derive(Clone, Debug, Serialize)]
pub struct PromotionReport {
    /// One read in so many.
    pub promote: u32,
    /// The part of reads that L1 would answer.
    pub hit_ratio: f64,
    /// Fills for each read.
    pub fills_a_read: f64,
    /// Whether it is the present way.
    pub present: bool,
}

/// Writes that came by here.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WritesReport {
    /// All.
    pub all: u64,
    /// Those that name no keys.
    pub opaque: u64,
}

/// Keys with a prefix, or of a rule.
#[derive(Clone, Debug, Serialize)]
pub struct GroupReport {
    /// The pattern that its keys match.
    pub keys: String,
    /// Its part of all reads.
    pub reads_part: f64,
    /// Its part of the bytes of all replies.
    pub bytes_part: f64,
    /// The part of its reads that the present L1 would answer.
    pub hit_ratio: f64,
    /// Of reads whose key had been read before, the part that found it changed.
    pub changed_ratio: f64,
}

/// What is known beside the simulation.
#[derive(Clone, Debug, Default)]
pub struct ReportSources {
    /// The mode's name.
    pub mode: &'static str,
    /// The patterns of the rules, in their order.
    pub rules: Vec<String>,
    /// Writes.
    pub writes: WritesReport,
}

impl CurveReport {
    /// There is nothing to say, for this reason.
    pub fn waiting(mode: &'static str, why: &str) -> Self {
        Self { mode, waits_for: Some(why.to_owned()), ..Self::default() }
    }

    /// What the simulation has found.
    pub fn of(simulation: &Simulation, sources: ReportSources) -> Self {
        let (span, reads) = simulation.span();
        let rate = reads as f64 / span.as_secs_f64().max(1.0);
        let plan = simulation.plan();
        let size = |(nth, (bytes, told)): (usize, (u64, Option<Estimate>))| {
            let Estimate { hit_ratio, fills, bytes_a_second } = told?;
            Some(SizeReport {
                bytes,
                hit_ratio,
                fills_a_read: fills,
                reads_spared_a_second: hit_ratio * rate,
                bytes_spared_a_second: bytes_a_second,
                present: nth == plan.present,
            })
        };
        let promotion = |(promote, told): (u32, Option<Estimate>)| {
            let Estimate { hit_ratio, fills, .. } = told?;
            Some(PromotionReport { promote, hit_ratio, fills_a_read: fills, present: promote == plan.promote })
        };
        let mut promotions: Vec<_> = simulation.promotions().filter_map(promotion).collect();
        promotions.sort_by_key(|report| report.promote);
        let all = simulation.all();
        let rules = simulation
            .rules()
            .into_iter()
            .filter_map(|(rule, tally)| Some((sources.rules.get(rule as usize)?.clone(), tally)));
        let waits = reads < ENOUGH_READS || promotions.is_empty();
        let mut report = Self {
            waits_for: waits.then(|| format!("traffic: {reads} reads so far, of {ENOUGH_READS} at least")),
            mode: sources.mode,
            seconds: span.as_secs(),
            reads,
            reads_a_second: rate,
            sample: SampleReport {
                one_in: 1 << simulation.fold(),
                entries: simulation.entries().0 as u64,
                bytes: simulation.bytes() as u64,
            },
            sizes: simulation.sizes().enumerate().filter_map(size).collect(),
            promotions,
            rules: groups(rules.collect(), &all),
            prefixes: groups(simulation.prefixes(), &all),
            writes: sources.writes,
            advice: Vec::new(),
        };
        report.advice = advise(&report);
        report
    }

    /// The same for whoever is not to know what the keys are called.
    #[must_use]
    pub fn without_names(mut self) -> Self {
        for (nth, group) in (1..).zip(&mut self.prefixes) {
            group.keys = format!("prefix {nth}");
        }
        self.advice = if self.advice.is_empty() { Vec::new() } else { advise(&self) };
        self
    }
}

/// Those of which there is something to say, the ones that are read most first.
fn groups(tallies: Vec<(String, GroupTally)>, all: &GroupTally) -> Vec<GroupReport> {
    let enough = |tally: &GroupTally| tally.sampled >= GROUP_READS && tally.reads >= all.reads * GROUP_PART;
    let told = tallies.into_iter().filter(|(_, tally)| enough(tally)).map(|(keys, tally)| GroupReport {
        keys,
        reads_part: tally.reads / all.reads,
        bytes_part: if all.bytes > 0.0 { tally.bytes / all.bytes } else { 0.0 },
        hit_ratio: tally.hit_ratio(),
        changed_ratio: tally.changed_ratio(),
    });
    let mut told: Vec<_> = told.collect();
    told.sort_by(|a, b| b.reads_part.total_cmp(&a.reads_part));
    told.truncate(GROUPS);
    told
}

/// The newest report, for whoever asks.
#[derive(Debug)]
pub struct CurveBoard(Mutex<Arc<CurveReport>>);

impl Default for CurveBoard {
    fn default() -> Self {
        Self(Mutex::new(Arc::new(CurveReport::waiting("", "traffic"))))
    }
}

impl CurveBoard {
    /// As it is now.
    pub fn report(&self) -> Arc<CurveReport> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// This is newer.
    pub fn put(&self, report: CurveReport) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(report);
    }
}
