//! All miniatures together, the keys of the sample, and how large the sample is.
//!
//! Fed with sampled reads, and with what the ear says of their keys, it tells what L1 would answer at other sizes and by other
//! promotions. It knows no socket and no clock. One for the process, with one owner, on the control thread.
//!
//! How large the sample is: each miniature has as many keys as it can keep in [`MOST_ENTRIES`], so a small one has a larger part of
//! all keys than a large one; and none has more than can be afforded ([`Simulation::spare`]). It gets smaller at once and larger by
//! beginning anew.

use std::collections::HashMap;
use std::time::Duration;

use super::groups::{GroupTallies, GroupTally};
use super::miniature::{Miniature, MiniatureFinding, MiniatureRead};
use super::window::{CurveWindow, Estimate};
use crate::cache::{AsIs, Measure, Warrant};
use crate::clock::Time;
use crate::metrics::PrefixLearner;

/// A miniature that has more entries is made for half as many keys.
const MOST_ENTRIES: usize = 3200;
/// Keys of the sample that are remembered.
const MOST_KEYS: usize = 13_000;
/// The sample is never smaller than one key in two to the power of this.
pub const MOST_FOLDS: u32 = 14;
/// A key that was asked about is asked about again after so long, if nothing came back.
const AGAIN: Duration = Duration::from_secs(5);
/// And one that may not be kept, as it is too large, if it has changed or not.
const UNFIT_AGAIN: Duration = Duration::from_secs(60);

/// Of a key that was found changed so often running, only each so many-th read asks: it would be changed again before the next.
const RESTLESS: u8 = 4;

/// What is simulated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulationPlan {
    /// Sizes of L1, in bytes, and which of them is the present one.
    pub sizes: Vec<u64>,
    /// The present one's place.
    pub present: usize,
    /// How keys are promoted for which no rule says otherwise: at one read in so many.
    pub promote: u32,
    /// And how else they might be, at the present size.
    pub alternatives: Vec<u32>,
}

impl SimulationPlan {
    /// From 16 MiB to 8 GiB in powers of two, and the present size.
    pub fn new(l1_size: u64, promote: u32) -> Self {
        let mut sizes: Vec<u64> = (24..=33).map(|power| 1 << power).chain([l1_size]).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let present = sizes.iter().position(|&size| size == l1_size).unwrap_or(0);
        Self { sizes, present, promote, alternatives: vec![1, 2, 10, 100] }
    }
}

/// A read of a key in the sample.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedRead<'a> {
    /// As the miniatures see it.
    pub read: MiniatureRead,
    /// So many came, one right behind the other.
    pub times: u32,
    /// Its key.
    pub key: &'a [u8],
    /// The number of the rule that is for it.
    pub rule: Option<u32>,
    /// What the rule says of promotion, where it says anything.
    pub one_in: Option<u32>,
    /// What L1 has for it.
    pub held: Option<Measure>,
}

/// A key of the sample, as far as one command reads it for one user.
#[derive(Debug)]
struct SampledKey {
    /// What it takes, and by which warrant that is known.
    measure: Measure,
    measured: Option<Warrant>,
    /// By which warrant it was read last, and when somebody was asked what it takes.
    seen: Option<Warrant>,
    asked: Option<(Warrant, Time)>,
    slot: u32,
    reads: u32,
    /// The scenarios that want it, by their bits.
    wanted: u32,
    /// So many of the last reads found it changed.
    streak: u8,
    /// Read since somebody last looked.
    used: bool,
}

impl SampledKey {
    /// What a value that has changed is taken to need until it is read on the ear: what the one before did. L1 reads it at once.
    fn guessed(&self, read: &MiniatureRead) -> Option<Measure> {
        let is_known = self.measured.is_some() && !self.is_unfit() && self.measure.expires == Time::NEVER;
        (is_known && read.warrant.is_some()).then_some(self.measure)
    }

    /// When it was looked at last, it was nothing that may be kept.
    fn is_unfit(&self) -> bool {
        self.measured.is_some() && self.measure == Measure::UNFIT
    }
}

#[derive(Debug)]
struct Scenario {
    size: u64,
    /// None: as the settings say.
    one_in: Option<u32>,
    miniature: Miniature,
}

/// See the module's head.
#[derive(Debug)]
pub struct Simulation {
    plan: SimulationPlan,
    scenarios: Vec<Scenario>,
    keys: HashMap<u64, SampledKey, AsIs>,
    prefixes: PrefixLearner,
    groups: GroupTallies,
    window: CurveWindow,
    /// No miniature has more keys than one in two to the power of this.
    floor: u32,
    crowded: bool,
}

impl Simulation {
    /// One that has seen nothing, of no more than one key in two to the power of `floor`.
    pub fn new(plan: SimulationPlan, floor: u32) -> Self {
        let size = plan.sizes[plan.present];
        let at_sizes = plan.sizes.iter().map(|&size| (size, None));
        let scenarios = at_sizes.chain(plan.alternatives.iter().map(|&one_in| (size, Some(one_in))));
        let scenario = |(size, one_in)| Scenario { size, one_in, miniature: Miniature::new(size, floor) };
        let scenarios: Vec<_> = scenarios.map(scenario).collect();
        Self {
            window: CurveWindow::new(scenarios.len()),
            groups: GroupTallies::default(),
            prefixes: PrefixLearner::default(),
            keys: HashMap::default(),
            crowded: false,
            scenarios,
            floor,
            plan,
        }
    }

    /// What it was made for.
    pub fn plan(&self) -> &SimulationPlan {
        &self.plan
    }

    /// The present size of L1, in bytes.
    pub fn present(&self) -> u64 {
        self.plan.sizes[self.plan.present]
    }

    /// Keys for which no rule says otherwise are promoted so from now on.
    pub fn promote_at(&mut self, one_in: u32) {
        self.plan.promote = one_in;
    }

    /// The rules are others: what was read under them is forgotten.
    pub fn forget_rules(&mut self) {
        self.groups.forget_rules();
    }

    /// The sample is that of keys whose slot ends in so many zero bits.
    pub fn fold(&self) -> u32 {
        self.scenarios.iter().map(|scenario| scenario.miniature.fold()).min().unwrap_or(MOST_FOLDS)
    }

    /// A read of a key in the sample. Whether somebody should read the key on the ear, and tell what it takes ([`Self::landed`]).
    pub fn read(&mut self, sampled: &SimulatedRead<'_>) -> bool {
        let SimulatedRead { read, key, held, .. } = sampled;
        let known = self.keys.entry(read.id).or_insert_with(|| SampledKey {
            measure: Measure::UNFIT,
            measured: None,
            seen: None,
            asked: None,
            slot: read.slot,
            reads: 0,
            wanted: 0,
            streak: 0,
            used: true,
        });
        if known.seen.is_some() && known.seen != read.warrant {
            known.wanted = 0; // that was of what it was before, asked for or not
        }
        if let (Some(measure), Some(warrant)) = (*held, read.warrant) {
            (known.measure, known.measured) = (measure, Some(warrant));
            Self::fill(&mut self.scenarios, (read.id, known), warrant, read.at);
        }
        let is_changed = known.seen.map(|seen| Some(seen) != read.warrant);
        (known.seen, known.used) = (read.warrant.or(known.seen), true);
        known.reads = known.reads.saturating_add(sampled.times);
        known.streak = if is_changed == Some(true) { known.streak.saturating_add(1) } else { 0 };
        let is_measured = read.warrant.is_some() && known.measured == read.warrant;
        let bytes = if is_measured { f64::from(known.measure.bytes) } else { 0.0 };
        let (is_unfit, guessed) = (known.is_unfit(), known.guessed(read));
        let mut present = None;
        for (number, scenario) in self.scenarios.iter_mut().enumerate() {
            let miniature = &mut scenario.miniature;
            if !miniature.takes(read.slot) {
                continue;
            }
            let one_in = sampled.one_in.or(scenario.one_in).unwrap_or(self.plan.promote);
            let (finding, absent) = miniature
                .read_often(read, one_in, sampled.times, || if is_measured { Some(known.measure) } else { guessed });
            if finding == MiniatureFinding::Wanted || finding == MiniatureFinding::Hit && !is_measured && absent > 0 {
                known.wanted |= 1 << number;
            }
            let (one, heavy) = (f64::from(1 << miniature.fold()), f64::from(known.reads));
            let (reads, missed) = (one * f64::from(sampled.times), one * f64::from(absent));
            if let Some(tally) = self.window.tally(number) {
                tally.reads += reads;
                tally.misses += missed;
                tally.heavy_reads += reads * heavy;
                tally.heavy_misses += missed * heavy;
                tally.hit_bytes += (reads - missed) * bytes;
                tally.wanted += one * f64::from(u8::from(finding != MiniatureFinding::Miss && absent > 0 && !is_unfit));
            }
            if number == self.plan.present {
                present = Some((reads, missed));
            }
        }
        if let Some((reads, missed)) = present {
            let tally = GroupTally::of_reads((reads, reads - missed, reads * bytes), (sampled.times, is_changed));
            self.groups.count(self.prefixes.learn(key, read.id), sampled.rule, &tally);
        }
        Self::asks(known, read)
    }

    fn asks(known: &mut SampledKey, read: &MiniatureRead) -> bool {
        let Some(warrant) = read.warrant.filter(|_| known.wanted > 0) else { return false };
        let is_unfit = known.is_unfit();
        let is_asked = |(of, at): (Warrant, Time)| {
            let (age, is_same) = (read.at.saturating_since(at), of == warrant);
            if is_unfit { age < UNFIT_AGAIN } else { is_same && age < AGAIN }
        };
        let is_restless = known.streak >= RESTLESS && !known.reads.is_multiple_of(RESTLESS.into());
        let asks = !is_restless && !known.asked.is_some_and(is_asked);
        if asks {
            known.asked = Some((warrant, read.at));
        }
        asks
    }

    /// Nobody could be asked about this key after all.
    pub fn unasked(&mut self, id: u64) {
        if let Some(known) = self.keys.get_mut(&id) {
            known.asked = None;
        }
    }

    /// A key of the sample was read on the ear, under this warrant: it takes so much, or may not be kept.
    pub fn landed(&mut self, id: u64, warrant: Warrant, measure: Measure, now: Time) {
        let Some(known) = self.keys.get_mut(&id) else { return };
        (known.measure, known.measured) = (measure, Some(warrant));
        Self::fill(&mut self.scenarios, (id, known), warrant, now);
    }

    fn fill(scenarios: &mut [Scenario], (id, known): (u64, &mut SampledKey), warrant: Warrant, now: Time) {
        let mut wanted = std::mem::take(&mut known.wanted);
        while wanted > 0 {
            let miniature = &mut scenarios[wanted.trailing_zeros() as usize].miniature;
            if miniature.takes(known.slot) {
                miniature.fill((id, known.slot), warrant, known.measure, now);
            }
            wanted &= wanted - 1;
        }
    }

    /// So many reads have come until now, of whatever keys. To be called before those of them that are in the sample.
    pub fn count(&mut self, reads: u64, now: Time) {
        self.window.advance(now);
        self.window.count(reads);
    }

    /// To be called about once a second: makes room.
    pub fn sweep(&mut self, now: Time) {
        for scenario in &mut self.scenarios {
            scenario.miniature.sweep(now);
        }
        self.groups.sweep(now);
        self.fit();
    }

    /// Keeps within what all may take. To be called after a few hundred reads.
    pub fn fit(&mut self) {
        for Scenario { miniature, .. } in &mut self.scenarios {
            while miniature.fold() < MOST_FOLDS && (miniature.len() > MOST_ENTRIES || miniature.fold() < self.floor) {
                miniature.halve();
            }
        }
        if self.keys.len() > MOST_KEYS {
            let mask = (1 << self.fold()) - 1;
            self.keys.retain(|_, key| key.slot & mask == 0 && std::mem::take(&mut key.used));
            self.crowded |= self.keys.len() > MOST_KEYS / 4 * 3;
        }
        if std::mem::take(&mut self.crowded) {
            self.spare();
        }
    }

    /// The sample costs too much: it is halved.
    pub fn spare(&mut self) {
        self.floor = (self.fold() + 1).min(MOST_FOLDS);
        for Scenario { miniature, .. } in &mut self.scenarios {
            while miniature.fold() < self.floor {
                miniature.halve();
            }
        }
        let mask = (1 << self.fold()) - 1;
        self.keys.retain(|_, key| key.slot & mask == 0);
    }

    /// Whether the sample is smaller than it would be if it cost nothing.
    pub fn is_sparing(&self) -> bool {
        self.floor > 0
    }

    /// What is told of the sizes, in the plan's order.
    pub fn sizes(&self) -> impl Iterator<Item = (u64, Option<Estimate>)> {
        let sizes = self.scenarios.iter().enumerate().take(self.plan.sizes.len());
        sizes.map(|(number, scenario)| (scenario.size, self.window.estimate(number)))
    }

    /// What is told of promotions at the present size, the present one first.
    pub fn promotions(&self) -> impl Iterator<Item = (u32, Option<Estimate>)> {
        let first = self.plan.sizes.len();
        let present = (self.plan.promote, self.window.estimate(self.plan.present));
        let others = self.plan.alternatives.iter().enumerate().filter(|&(_, one_in)| *one_in != self.plan.promote);
        std::iter::once(present).chain(others.map(move |(at, &one_in)| (one_in, self.window.estimate(first + at))))
    }

    /// What is told of prefixes, by their patterns: of those that have a name.
    pub fn prefixes(&self) -> Vec<(String, GroupTally)> {
        let patterns = self.prefixes.names().iter().map(|name| format!("{name}*"));
        patterns.zip(self.groups.prefixes()).collect()
    }

    /// The same of rules, by their numbers.
    pub fn rules(&self) -> Vec<(u32, GroupTally)> {
        self.groups.rules()
    }

    /// All that was read in the present size's sample, to compare groups with.
    pub fn all(&self) -> GroupTally {
        self.groups.all()
    }

    /// For how long, and for how many reads of all keys, it speaks.
    pub fn span(&self) -> (Duration, u64) {
        (self.window.span(), self.window.total())
    }

    /// Entries of all miniatures, and the most that one of them has.
    pub fn entries(&self) -> (usize, usize) {
        let entries = || self.scenarios.iter().map(|scenario| scenario.miniature.len());
        (entries().sum(), entries().max().unwrap_or(0))
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        let keys = self.keys.capacity() * 8 / 7 * (size_of::<(u64, SampledKey)>() + 1);
        keys + self.scenarios.iter().map(|scenario| scenario.miniature.bytes()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Freshness, Stamps};
    use crate::curve::mixed;

    const AT: fn(u64) -> Time = |millis| Time::from_nanos((1 << 40) + millis * 1_000_000);

    struct SimulationBench {
        stamps: Stamps,
        fresh: Freshness,
        simulation: Simulation,
    }

    impl SimulationBench {
        fn new(promote: u32) -> Self {
            let plan = SimulationPlan::new(256 << 20, promote);
            Self { stamps: Stamps::for_l1(0), fresh: Freshness::new(), simulation: Simulation::new(plan, 0) }
        }

        fn about(&self, key: &str, at: Time) -> MiniatureRead {
            let hash = key.bytes().fold(7, |hash, byte| mixed(hash ^ u64::from(byte)));
            let slot = self.stamps.slot(self.stamps.hash(key.as_bytes()));
            let warrant = Some(Warrant::new(self.stamps.load(slot), self.fresh.epoch()));
            MiniatureRead { id: hash, slot: slot.number(), warrant, at, able: true }
        }

        /// Whether the ear is to be asked.
        fn read(&mut self, key: &str, at: Time) -> bool {
            let read = self.about(key, at);
            self.simulation.count(1, at);
            let sampled = SimulatedRead { read, times: 1, key: key.as_bytes(), rule: None, one_in: None, held: None };
            self.simulation.read(&sampled)
        }

        fn land(&mut self, key: &str, at: Time) {
            let read = self.about(key, at);
            let measure = Measure { weight: 1000, bytes: 100, expires: Time::NEVER };
            self.simulation.landed(read.id, read.warrant.expect("nobody writes"), measure, at);
        }

        fn write(&self, key: &str) {
            self.stamps.touch(self.stamps.slot(self.stamps.hash(key.as_bytes())));
        }

        fn hits(&self) -> Vec<f64> {
            self.simulation.sizes().map(|(_, told)| told.map_or(f64::NAN, |told| told.hit_ratio)).collect()
        }
    }

    #[test]
    fn the_ear_is_asked_once_for_what_is_wanted_and_once_more_when_it_has_changed() {
        let mut b = SimulationBench::new(1);
        assert_eq!([b.read("k", AT(0)), b.read("k", AT(1)), b.read("k", AT(2))], [true, false, false]);
        assert!(b.read("k", AT(6000)), "nothing came back");
        b.land("k", AT(6001));
        assert_eq!([b.read("k", AT(6002)), b.read("k", AT(6003))], [false, false]);
        b.write("k");
        assert!(b.read("k", AT(6004)));
        b.simulation.unasked(b.about("k", AT(0)).id);
        assert!(b.read("k", AT(6005)), "nobody was asked after all");
        assert!(b.hits().iter().all(|&ratio| (ratio - 3.0 / 8.0).abs() < 1e-9), "{:?}", b.hits());
    }

    #[test]
    fn of_reads_behind_a_change_the_first_alone_is_missed() {
        let mut b = SimulationBench::new(1);
        b.read("k", AT(0));
        b.land("k", AT(0));
        for at in 1..=100 {
            b.write("k");
            let read = b.about("k", AT(at));
            b.simulation.count(10, AT(at));
            let sampled = SimulatedRead { read, times: 10, key: b"k", rule: None, one_in: None, held: None };
            let asks = b.simulation.read(&sampled);
            assert!(asks || at >= u64::from(RESTLESS), "that it changes again has to be heard of");
            b.land("k", AT(at));
        }
        assert!(b.hits().iter().all(|&ratio| (ratio - 0.9).abs() < 0.01), "{:?}", b.hits());
    }

    #[test]
    fn what_memory_has_behind_a_change_was_missed_before_however_soon_it_came_in() {
        let mut b = SimulationBench::new(1);
        b.read("k", AT(0));
        b.land("k", AT(0));
        for at in 1..=100 {
            for held in [None, Some(Measure { weight: 1000, bytes: 100, expires: Time::NEVER })] {
                b.write("k");
                let read = b.about("k", AT(at));
                b.simulation.count(10, AT(at));
                b.simulation.read(&SimulatedRead { read, times: 10, key: b"k", rule: None, one_in: None, held });
            }
        }
        assert!(b.hits().iter().all(|&ratio| (ratio - 0.9).abs() < 0.01), "{:?}", b.hits());
    }

    #[test]
    fn what_may_not_be_kept_is_asked_for_once_a_minute_and_is_no_fill() {
        let mut b = SimulationBench::new(1);
        let mut asked = 0;
        for second in 0..300 {
            b.write("k");
            if b.read("k", AT(second * 1000)) {
                asked += 1;
                let read = b.about("k", AT(0));
                b.simulation.landed(read.id, read.warrant.expect("nobody writes"), Measure::UNFIT, AT(second * 1000));
            }
        }
        assert!((4..=6).contains(&asked), "{asked}");
        let fills = b.simulation.sizes().filter_map(|(_, told)| Some(told?.fills)).fold(0.0, f64::max);
        assert!(fills < 0.02, "only before it was known: {fills}");
    }

    #[test]
    fn what_is_never_promoted_is_promoted_in_the_alternatives_alone() {
        let mut b = SimulationBench::new(0);
        assert!(b.read("k", AT(0)));
        b.land("k", AT(0));
        (1..1000).for_each(|at| assert!(!b.read("k", AT(at))));
        assert!(b.hits().iter().all(|&ratio| ratio == 0.0));
        let told: Vec<_> =
            b.simulation.promotions().map(|(one_in, told)| (one_in, told.map(|told| told.hit_ratio > 0.5))).collect();
        assert_eq!(told, [(0, Some(false)), (1, Some(true)), (2, Some(true)), (10, Some(true)), (100, Some(true))]);
        let read = b.about("kept away", AT(2000));
        let sampled = SimulatedRead { read, times: 1, key: b"kept away", rule: Some(0), one_in: Some(0), held: None };
        assert!(!b.simulation.read(&sampled), "a rule holds for all");
    }

    #[test]
    fn what_l1_holds_need_not_be_asked_for() {
        let mut b = SimulationBench::new(1);
        let held = Some(Measure { weight: 1000, bytes: 100, expires: Time::NEVER });
        b.simulation.count(2, AT(0));
        for _ in 0..2 {
            let read = b.about("k", AT(0));
            assert!(!b.simulation.read(&SimulatedRead { read, times: 1, key: b"k", rule: None, one_in: None, held }));
        }
        assert!(b.hits().iter().all(|&ratio| ratio == 0.5), "{:?}", b.hits());
    }

    #[test]
    fn a_key_that_changes_all_the_time_is_seldom_asked_for_and_told_of_by_its_prefix() {
        let mut b = SimulationBench::new(1);
        let key = |prefix: &str, at: u64| format!("{prefix}:{}", at % 10);
        let asked = (0..4000).filter(|&at| {
            b.write(&key("session", at));
            b.read(&key("session", at), AT(at))
        });
        let asked = asked.count();
        assert!((900..1200).contains(&asked), "{asked}");
        for at in 4000..5000 {
            b.read(&key("page", at), AT(at));
        }
        let told = b.simulation.prefixes();
        let of = |keys: &str| told.iter().find(|(pattern, _)| pattern == keys).map(|(_, tally)| tally.changed_ratio());
        assert_eq!((of("session:*"), of("page:*"), told.len()), (Some(1.0), Some(0.0), 2));
    }

    #[test]
    fn however_many_keys_there_are_it_keeps_within_its_memory() {
        let mut b = SimulationBench::new(1);
        let (mut most, mut seen) = (0, 0_u64);
        for n in 0..400_000_u64 {
            let key = format!("k{n}");
            let read = b.about(&key, AT(n / 100));
            if read.slot & ((1 << b.simulation.fold()) - 1) == 0 {
                if b.read(&key, AT(n / 100)) {
                    b.land(&key, AT(n / 100));
                }
                seen += 1;
                if seen % 200 == 0 {
                    b.simulation.fit();
                    most = most.max(b.simulation.bytes());
                }
            }
        }
        assert!(most < 8 << 20, "{most} bytes");
        assert!(b.simulation.fold() > 0 && seen > 10_000, "{seen}");
    }

    #[test]
    fn a_sample_that_costs_too_much_is_halved() {
        let mut b = SimulationBench::new(1);
        for n in 0..1000 {
            b.read(&format!("k{n}"), AT(n));
        }
        assert_eq!((b.simulation.fold(), b.simulation.is_sparing()), (0, false));
        b.simulation.spare();
        assert_eq!((b.simulation.fold(), b.simulation.is_sparing()), (1, true));
        (0..40).for_each(|_| b.simulation.spare());
        assert_eq!(b.simulation.fold(), MOST_FOLDS);
    }
}
