//! The latency histogram: fixed buckets, four to each doubling, from 64 ns to 17 s.
//!
//! Buckets are fixed so that recording is an index and an add, and so that histograms of workers,
//! of proxies and of different times can be added and subtracted. Four to a doubling keep every
//! percentile within 10 % of the truth, half a bucket's width at worst.

use super::counters::Counter;

/// The first bucket ends at 2 to this power, in nanoseconds: 64 ns, below the fastest hit.
const FIRST: u32 = 6;

/// The last bucket with an end ends at 2 to this power, in nanoseconds: 17.2 s.
const LAST: u32 = 34;

/// Buckets to each doubling, as a power of two.
const STEP_BITS: u32 = 2;

/// Buckets to each doubling.
const STEPS: usize = 1 << STEP_BITS;

/// One bucket up to 64 ns, those of the doublings, and one for all that is longer.
const BUCKETS: usize = 1 + (LAST - FIRST) as usize * STEPS + 1;

/// A histogram as one worker writes it.
#[derive(Debug)]
pub(super) struct Histogram {
    buckets: [Counter; BUCKETS],
    nanos: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), nanos: Counter::default() }
    }
}

impl Histogram {
    /// Adds one sample, in nanoseconds.
    pub(super) fn record(&self, nanos: u64) {
        self.buckets[bucket(nanos)].add(1);
        self.nanos.add(nanos);
    }
}

/// A histogram as it is read: the sum of any number of workers'.
#[derive(Clone, Debug)]
pub struct Latency {
    buckets: [u64; BUCKETS],
    nanos: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], nanos: 0 }
    }
}

impl Latency {
    /// Adds what a worker has recorded.
    pub(super) fn merge(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.get();
        }
        self.nanos = self.nanos.wrapping_add(histogram.nanos.get());
    }

    /// What has been recorded since an earlier look.
    #[must_use]
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let buckets = std::array::from_fn(|at| self.buckets[at].saturating_sub(earlier.buckets[at]));
        Self { buckets, nanos: self.nanos.wrapping_sub(earlier.nanos) }
    }

    /// How many samples there are.
    pub fn samples(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all samples, in nanoseconds.
    pub fn nanos(&self) -> u64 {
        self.nanos
    }

    /// The time, in nanoseconds, that a share `q` (0 to 1) of the samples did not exceed; nothing
    /// where there are no samples. Within a bucket the samples are taken to lie evenly; of what is
    /// longer than 17 s, all that is said is that it is.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let samples = self.samples();
        if samples == 0 {
            return None;
        }
        let rank = as_f64(samples) * q.clamp(0.0, 1.0);
        let mut below = 0.0;
        for (index, &count) in self.buckets.iter().enumerate() {
            let upto = below + as_f64(count);
            if count > 0 && upto >= rank {
                let start = if index == 0 { 0 } else { end(index - 1).unwrap_or(0) };
                let Some(end) = end(index) else { return Some(start) };
                let share = (rank - below) / as_f64(count);
                return Some(start + as_u64(as_f64(end - start) * share));
            }
            below = upto;
        }
        // Not reached: the last bucket brings `upto` to the number of samples, which no rank exceeds.
        end(BUCKETS - 2)
    }

    /// The buckets that hold something: the end of each in nanoseconds (nothing for the last, which
    /// has none) and its samples.
    pub fn filled(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        self.buckets.iter().enumerate().filter(|&(_, &count)| count > 0).map(|(index, &count)| (end(index), count))
    }

    /// For every second end of a bucket, in nanoseconds, how many samples were no longer: what
    /// Prometheus gets, which would rather have fewer series than closer ones.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut below = 0;
        self.buckets.iter().enumerate().filter_map(move |(index, &count)| {
            below += count;
            end(index).filter(|_| index.is_multiple_of(2)).map(|end| (end, below))
        })
    }
}

/// The bucket of a sample: ends belong to the bucket that they end, as Prometheus's `le` has it.
fn bucket(nanos: u64) -> usize {
    let inside = nanos.saturating_sub(1);
    if inside < 1 << FIRST {
        return 0;
    }
    let doubling = inside.ilog2();
    if doubling >= LAST {
        return BUCKETS - 1;
    }
    let step = (inside >> (doubling - STEP_BITS)) as usize % STEPS;
    1 + (doubling - FIRST) as usize * STEPS + step
}

/// Where a bucket ends, in nanoseconds; the last one does not.
fn end(bucket: usize) -> Option<u64> {
    let Some(above_first) = bucket.checked_sub(1) else { return Some(1 << FIRST) };
    if bucket >= BUCKETS - 1 {
        return None;
    }
    let doubling = FIRST + (above_first / STEPS) as u32;
    Some(((STEPS + above_first % STEPS + 1) as u64) << (doubling - STEP_BITS))
}

#[expect(clippy::cast_precision_loss, reason = "2^53 samples are out of reach")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

#[expect(clippy::cast_sign_loss, reason = "a length of time is not negative")]
fn as_u64(n: f64) -> u64 {
    n as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(samples: impl IntoIterator<Item = u64>) -> Latency {
        let histogram = Histogram::default();
        samples.into_iter().for_each(|nanos| histogram.record(nanos));
        let mut latency = Latency::default();
        latency.merge(&histogram);
        latency
    }

    #[test]
    fn every_sample_lies_in_its_bucket_and_ends_belong_to_it() {
        for index in 0..BUCKETS - 1 {
            let end = end(index).expect("all but the last end");
            assert_eq!(bucket(end), index, "the end {end} of bucket {index}");
            assert_eq!(bucket(end + 1), index + 1, "just over the end {end} of bucket {index}");
        }
        assert_eq!(end(BUCKETS - 1), None);
        assert_eq!(end(BUCKETS - 2), Some(1 << LAST));
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn buckets_are_at_most_a_quarter_wide() {
        for index in 1..BUCKETS - 1 {
            let (start, end) = (end(index - 1).expect("ends"), end(index).expect("ends"));
            assert!((end - start) * 4 <= start, "{start}..{end}");
        }
    }

    #[test]
    fn quantiles_are_within_ten_percent() {
        let latency = of((1..=10_000).map(|n| n * 1_000));
        for q in [0.5, 0.9, 0.99, 0.999] {
            let (found, truth) = (as_f64(latency.quantile(q).expect("samples")), q * 1e7);
            assert!((found / truth - 1.0).abs() < 0.1, "p{q}: {found} of {truth}");
        }
        assert_eq!(of([]).quantile(0.5), None);
    }

    #[test]
    fn what_came_since_an_earlier_look_is_told_apart() {
        let (earlier, later) = (of([100, 1_000]), of([100, 1_000, 1_000, 9_000]));
        let between = later.since(&earlier);
        assert_eq!((between.samples(), between.nanos()), (2, 10_000));
        assert_eq!(later.since(&later).quantile(0.5), None);
    }

    #[test]
    fn what_is_beyond_the_last_end_is_said_to_be_there() {
        let latency = of([100, u64::MAX]);
        assert_eq!(latency.quantile(1.0), Some(1 << LAST));
        assert_eq!(latency.filled().last(), Some((None, 1)));
    }

    #[test]
    fn cumulative_counts_rise_to_all_but_the_endless_bucket() {
        let latency = of([64, 65, 100, 1_000_000, 20_000_000_000]);
        let counts: Vec<_> = latency.cumulative().collect();
        assert!(counts.is_sorted());
        assert_eq!(counts[0], (64, 1));
        assert_eq!(counts.last(), Some(&(1 << LAST, 4)));
        assert_eq!(counts.len(), 1 + (LAST - FIRST) as usize * 2);
    }
}
