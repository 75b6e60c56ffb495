//! What was read of keys with a prefix, or under a rule, in the sample of the present size. Belongs to
//! [`simulation`](super::simulation).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Time;
use crate::metrics::KeyPrefix;

/// What is older than two of these counts no more.
const PERIOD: Duration = Duration::from_secs(300);

/// Counts of reads of one group, each of them as often as it stands for.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct GroupTally {
    /// Reads.
    pub reads: f64,
    /// Those that the present L1 would have answered.
    pub hits: f64,
    /// Reads of what had been read before.
    pub again: f64,
    /// Those of them that found their key changed, or being changed.
    pub changed: f64,
    /// Bytes of replies, where they are known.
    pub bytes: f64,
    /// Reads in the sample: whether there are enough to say anything.
    pub sampled: u64,
}

impl GroupTally {
    /// So many reads and hits, with as many bytes, of so many reads of one key in the sample. `is_changed`: whether the first found the
    /// key changed, where it had been read before.
    pub(super) fn of_reads((reads, hits, bytes): (f64, f64, f64), (times, is_changed): (u32, Option<bool>)) -> Self {
        let one = reads / f64::from(times);
        let again = if is_changed.is_some() { reads } else { reads - one };
        let changed = if is_changed == Some(true) { one } else { 0.0 };
        Self { reads, hits, again, changed, bytes, sampled: times.into() }
    }

    fn add(&mut self, other: &Self) {
        self.reads += other.reads;
        self.hits += other.hits;
        self.again += other.again;
        self.changed += other.changed;
        self.bytes += other.bytes;
        self.sampled += other.sampled;
    }

    /// Of its reads those that the present L1 would have answered.
    pub fn hit_ratio(&self) -> f64 {
        if self.reads > 0.0 { self.hits / self.reads } else { 0.0 }
    }

    /// Of reads that L1 could answer because their key had been read before, those that find it changed.
    pub fn changed_ratio(&self) -> f64 {
        if self.again > 0.0 { self.changed / self.again } else { 0.0 }
    }
}

#[derive(Default, Debug)]
struct PeriodTallies {
    /// Those with a name, by their numbers.
    prefixes: Vec<GroupTally>,
    rules: BTreeMap<u32, GroupTally>,
    all: GroupTally,
}

/// See the module's head.
#[derive(Default, Debug)]
pub(super) struct GroupTallies {
    now: PeriodTallies,
    before: PeriodTallies,
    since: Option<Time>,
}

impl GroupTallies {
    pub(super) fn count(&mut self, prefix: KeyPrefix, rule: Option<u32>, read: &GroupTally) {
        if let KeyPrefix::Named(prefix) = prefix {
            if self.now.prefixes.len() <= prefix {
                self.now.prefixes.resize(prefix + 1, GroupTally::default());
            }
            self.now.prefixes[prefix].add(read);
        }
        if let Some(rule) = rule {
            self.now.rules.entry(rule).or_default().add(read);
        }
        self.now.all.add(read);
    }

    pub(super) fn forget_rules(&mut self) {
        self.now.rules.clear();
        self.before.rules.clear();
    }

    /// It is `now`.
    pub(super) fn sweep(&mut self, now: Time) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_since(since) >= PERIOD {
            self.before = std::mem::take(&mut self.now);
            self.since = Some(now);
        }
    }

    /// Those of prefixes, by their numbers from 0 on, without an end.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = GroupTally> {
        (0..).map(|number| {
            let mut all = GroupTally::default();
            [&self.before, &self.now].iter().filter_map(|of| of.prefixes.get(number)).for_each(|tally| all.add(tally));
            all
        })
    }

    pub(super) fn rules(&self) -> Vec<(u32, GroupTally)> {
        let mut all = self.before.rules.clone();
        for (&rule, tally) in &self.now.rules {
            all.entry(rule).or_default().add(tally);
        }
        all.into_iter().collect()
    }

    pub(super) fn all(&self) -> GroupTally {
        let mut all = self.before.all;
        all.add(&self.now.all);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_its_reads_of_the_last_two_periods() {
        let (mut groups, at) = (GroupTallies::default(), |seconds: u64| Time::from_nanos(seconds * 1_000_000_000));
        groups.sweep(at(0));
        groups.count(KeyPrefix::Named(2), Some(7), &GroupTally::of_reads((4.0, 4.0, 40.0), (1, Some(true))));
        groups.count(KeyPrefix::Other, None, &GroupTally::of_reads((4.0, 0.0, 0.0), (1, None)));
        groups.sweep(at(300));
        groups.count(KeyPrefix::Named(2), Some(7), &GroupTally::of_reads((4.0, 0.0, 0.0), (1, Some(false))));
        let told: Vec<_> = groups.prefixes().take(4).collect();
        let both = told[2];
        assert_eq!((both.reads, both.hit_ratio(), both.changed_ratio(), both.bytes), (8.0, 0.5, 0.5, 40.0));
        assert_eq!(groups.rules(), [(7, both)]);
        assert_eq!(groups.all().reads, 12.0);
        assert!([0, 1, 3].iter().all(|&other| told[other] == GroupTally::default()));
        groups.sweep(at(600));
        groups.sweep(at(900));
        assert_eq!((groups.all(), groups.rules()), (GroupTally::default(), vec![]));
    }
}
