//! The counters themselves: one struct that each worker has for itself, one for the process.
//!
//! A worker's counters have one writer, so they need no read-modify-write: a relaxed load and a
//! relaxed store, which on the usual machines are plain moves. A second thread that writes the
//! same [`WorkerStats`] corrupts nothing, but counts get lost. Readers see each value whole, and
//! values that belong together may be an instant apart.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::key_tallies::KeyTallies;
use super::key_watch::KeyWatch;
use super::labels::{
    AuditBreach, AuditDoubt, AuditSkip, CensusFinding, ChannelMessage, DropReason, EpochReason, Failure, FillOutcome,
    Outcome, Path, Publication, ReadRole, RedirectKind, Refusal,
};
use super::latency::Histogram;
use super::slow::SlowLog;
use crate::command::Class;

/// One request in about this many has its latency taken, and its keys noted.
pub(crate) const SAMPLE_EVERY: u32 = 64;

/// A number that only grows, written by one thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. To be called by the owning worker only.
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// The value now, from any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls, written by one thread.
///
/// One worker's may be below zero, where another has raised what it lowers; the sum is what counts.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Raises it by `n`. To be called by the owning worker only.
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add_unsigned(n), Ordering::Relaxed);
    }

    /// Lowers it by `n`. To be called by the owning worker only.
    pub fn sub(&self, n: u64) {
        self.0.store(self.get().wrapping_sub_unsigned(n), Ordering::Relaxed);
    }

    /// The value now, from any thread.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that only grows, written by any thread.
#[derive(Debug, Default)]
pub struct SharedCounter(AtomicU64);

impl SharedCounter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one worker counts. Aligned so that no two workers share a cache line, nor the pair of
/// lines that processors fetch together.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerStats {
    requests: RequestCounters,
    drops: [Counter; DropReason::COUNT],
    failures: [Counter; Failure::COUNT],
    redirects: [Counter; RedirectKind::COUNT],
    reads_by_role: [Counter; ReadRole::COUNT],
    latencies: [Histogram; Path::COUNT],
    sampler: LatencySampler,
    /// What is noted of keys, of the same sample.
    pub(crate) keys: KeyWatch,
    /// From how many nanoseconds on a command is slow.
    pub slow_after: AtomicU64,
    /// Requests whose reply is not whole yet.
    pub waiting: Gauge,
    /// Bytes of requests read from clients.
    pub bytes_in: Counter,
    /// Bytes of replies written to clients.
    pub bytes_out: Counter,
    /// Sessions open now.
    pub sessions: Gauge,
    /// Sessions ever taken on.
    pub sessions_total: Counter,
    /// Clients that failed in their TLS handshake.
    pub handshakes_failed: Counter,
    /// Clients that began with a PROXY header where there must be none, or without one.
    pub proxy_headers_refused: Counter,
    /// Lanes open now.
    pub lanes: Gauge,
    /// Lanes that broke, were desynchronised, or were closed by Redis while in use.
    pub lanes_lost: Counter,
    /// Pinned connections lent to sessions now, homes not among them.
    pub pinned: Gauge,
    /// Home connections open now.
    pub homes: Gauge,
    /// Fills asked for.
    pub promotions: Counter,
    /// Reads sent a second time because their lane was lost.
    pub retried_reads: Counter,
    /// Writes whose lane was lost before they were answered: their clients were closed, or got an error.
    pub lost_writes: Counter,
    /// Sessions closed because their client did not read its replies.
    pub slow_clients: Counter,
    /// Sessions closed because a command of theirs could not be served, or the upstream was away.
    pub cut_clients: Counter,
    /// Keys that reads of several keys asked L1 for, beyond the first of each.
    pub further_keys: Counter,
    /// Reads of keys in the sample that were handed on to the curve.
    pub sampled_reads: Counter,
    /// Those that were not, for too many waited.
    pub sampled_reads_lost: Counter,
}

impl WorkerStats {
    /// Counts one request.
    pub fn count(&self, class: Class, outcome: Outcome) {
        self.requests.0[class as usize][outcome as usize].add(1);
    }

    /// Counts one request that failed at crema: its outcome is [`Outcome::Refused`], whatever was tried.
    pub fn failed(&self, class: Class, failure: Failure) {
        self.count(class, Outcome::Refused);
        self.failures[failure as usize].add(1);
    }

    /// Requests that failed so.
    pub fn failures(&self, failure: Failure) -> u64 {
        self.failures[failure as usize].get()
    }

    /// Requests of this class that had this outcome.
    pub fn requests(&self, class: Class, outcome: Outcome) -> u64 {
        self.requests.0[class as usize][outcome as usize].get()
    }

    /// All requests.
    pub fn requests_total(&self) -> u64 {
        self.requests.0.iter().flatten().map(Counter::get).sum()
    }

    /// Counts a promotion that was dropped.
    pub fn dropped(&self, reason: DropReason) {
        self.drops[reason as usize].add(1);
    }

    /// Promotions dropped for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].get()
    }

    /// Counts a command that was not carried out where it was sent.
    pub fn redirected(&self, kind: RedirectKind) {
        self.redirects[kind as usize].add(1);
    }

    /// Commands that were not carried out for this reason.
    pub fn redirects(&self, kind: RedirectKind) -> u64 {
        self.redirects[kind as usize].get()
    }

    /// Counts so many reads that a replica could answer, by who was sent them.
    pub fn read_at(&self, role: ReadRole, reads: u64) {
        self.reads_by_role[role as usize].add(reads);
    }

    /// Such reads.
    pub fn reads_at(&self, role: ReadRole) -> u64 {
        self.reads_by_role[role as usize].get()
    }

    /// To be called as a request is taken up: for about one in 64 the time, else nothing.
    ///
    /// The gaps are drawn at random, so that a client that pipelines 64 requests at a time does not
    /// have the same one of them measured for ever.
    pub fn sample(&self) -> Option<Instant> {
        self.sampler.due().filter(|&timed| timed).map(|_| Instant::now())
    }

    /// As [`sample`](Self::sample), for a hit, which may be chosen for the audit as well: of those that are chosen here it takes as
    /// many as make one in what [`choose_for`](Self::choose_for) was told.
    pub fn choose(&self) -> Option<ChosenHit> {
        self.sampler.due().map(|timed| ChosenHit { since: timed.then(Instant::now) })
    }

    /// The audit takes one hit in so many: where one in [`SAMPLE_EVERY`] is too few, more are chosen, and no more timed.
    pub fn choose_for(&self, one_in: Option<u32>) {
        self.sampler.every.store(one_in.map_or(SAMPLE_EVERY, |n| n.clamp(1, SAMPLE_EVERY)), Ordering::Relaxed);
    }

    /// Of how many hits [`choose`](Self::choose) chooses one.
    pub fn chosen_of(&self) -> u32 {
        self.sampler.every.load(Ordering::Relaxed)
    }

    /// As [`sample`](Self::sample), where the time is taken elsewhere.
    #[inline]
    pub fn is_sampled(&self) -> bool {
        self.sampler.due() == Some(true)
    }

    /// To be called when a request that [`Self::sample`] chose has its whole reply. Commands that
    /// wait by intention (BLPOP, WAIT, SUBSCRIBE) are not to be recorded.
    pub fn record(&self, path: Path, since: Instant) {
        self.record_span(path, since.elapsed());
    }

    /// The same, where the time that it took is known.
    pub fn record_span(&self, path: Path, span: Duration) {
        self.latencies[path as usize].record(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The sampled latencies of one path.
    pub(super) fn latency(&self, path: Path) -> &Histogram {
        &self.latencies[path as usize]
    }
}

/// A hit of which more is to be known than that it was one.
#[derive(Clone, Copy, Debug)]
pub struct ChosenHit {
    /// When it was taken up, where its latency is taken.
    pub since: Option<Instant>,
}

/// Counters by class and outcome; a type of its own because a large array has no `Default`.
#[derive(Debug)]
struct RequestCounters([[Counter; Outcome::COUNT]; Class::ALL.len()]);

impl Default for RequestCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| std::array::from_fn(|_| Counter::default())))
    }
}

/// Chooses one request in about `every`, of which about one in [`SAMPLE_EVERY`] of all is timed.
#[derive(Debug)]
struct LatencySampler {
    left: AtomicU64,
    state: AtomicU64,
    every: AtomicU32,
}

impl Default for LatencySampler {
    fn default() -> Self {
        // The first request is sampled, so that a quiet proxy has something to show. The seed is any
        // number but zero, at which a xorshift stands still.
        let (left, state) = (AtomicU64::new(1), AtomicU64::new(0x9e37_79b9_7f4a_7c15));
        Self { left, state, every: AtomicU32::new(SAMPLE_EVERY) }
    }
}

impl LatencySampler {
    /// Nothing for most; else whether it is timed.
    #[inline]
    fn due(&self) -> Option<bool> {
        let left = self.left.load(Ordering::Relaxed);
        if left > 1 {
            self.left.store(left - 1, Ordering::Relaxed);
            return None;
        }
        // Marsaglia's 64-bit xorshift, shifts 13, 7, 17. Gaps of 1..=127 are 64 on average.
        let (every, most) = (u64::from(self.every.load(Ordering::Relaxed)), u64::from(SAMPLE_EVERY));
        let mut state = self.state.load(Ordering::Relaxed);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.state.store(state, Ordering::Relaxed);
        self.left.store(1 + (state >> 32) % (2 * every - 1), Ordering::Relaxed);
        Some((state & 0xffff) % most < every)
    }
}

/// What the process counts as a whole: events of ears, of L1 and of the fleet's channel.
#[derive(Debug, Default)]
pub struct Stats {
    fills: [SharedCounter; FillOutcome::COUNT],
    epochs: [SharedCounter; EpochReason::COUNT],
    channel: [SharedCounter; ChannelMessage::COUNT],
    refusals: [SharedCounter; Refusal::COUNT],
    published: [SharedCounter; Publication::COUNT],
    audit_skips: [SharedCounter; AuditSkip::COUNT],
    audit_doubts: [SharedCounter; AuditDoubt::COUNT],
    audit_breaches: [SharedCounter; AuditBreach::COUNT],
    /// Hits that were read again and compared.
    pub audit_checked: SharedCounter,
    /// Hits that were held against the writes and changes which this process knew of.
    pub audit_ordered: SharedCounter,
    /// Keys that Redis said had changed.
    pub invalidations: SharedCounter,
    /// Keys served from L1 that Redis was told are in use.
    pub touched: SharedCounter,
    /// Pushes that told of a flush.
    pub flushes: SharedCounter,
    /// Fences that came back, renewals of leases among them.
    pub fences: SharedCounter,
    /// Leases that ended before they were renewed.
    pub leases_lapsed: SharedCounter,
    /// Times that a slot of a cluster was found to have left its node.
    pub slots_left: SharedCounter,
    /// Times that settings were changed.
    pub settings_changes: SharedCounter,
    /// Times that they were read anew and could not be used.
    pub settings_refused: SharedCounter,
    /// Masters that took the place of another, as Sentinels say.
    pub failovers: SharedCounter,
    /// Elections of masters that were heard of.
    pub elections: SharedCounter,
    census: [SharedCounter; CensusFinding::COUNT],
    /// Ears that had to connect anew.
    pub ear_reconnects: SharedCounter,
    /// Entries that L1 gave up for want of room.
    pub evictions: Arc<SharedCounter>,
    /// Connections turned away at the door because the limit was reached.
    pub sessions_refused: SharedCounter,
    /// Requests by the rules and prefixes of their keys.
    pub(crate) key_tallies: Mutex<KeyTallies>,
    /// Commands that were slow.
    pub(crate) slow: SlowLog,
    /// Keys of the sample that ears were asked to read.
    pub sampled_fills: SharedCounter,
}

impl Stats {
    /// Counts a fill.
    pub fn fill(&self, outcome: FillOutcome) {
        self.fills[outcome as usize].add(1);
    }

    /// Fills that had this outcome.
    pub fn fills(&self, outcome: FillOutcome) -> u64 {
        self.fills[outcome as usize].get()
    }

    /// Counts what a round showed of a master.
    pub fn census(&self, finding: CensusFinding) {
        self.census[finding as usize].add(1);
    }

    /// Rounds that showed this.
    pub fn census_findings(&self, finding: CensusFinding) -> u64 {
        self.census[finding as usize].get()
    }

    /// Counts what the fleet was told, or was not.
    pub fn published(&self, publication: Publication, n: u64) {
        self.published[publication as usize].add(n);
    }

    /// Of that.
    pub fn publications(&self, publication: Publication) -> u64 {
        self.published[publication as usize].get()
    }

    /// Counts a user that was refused what an ear needs.
    pub fn refused(&self, refusal: Refusal) {
        self.refusals[refusal as usize].add(1);
    }

    /// Users refused this.
    pub fn refusals(&self, refusal: Refusal) -> u64 {
        self.refusals[refusal as usize].get()
    }

    /// Counts a hit that was chosen and not compared.
    pub fn audit_skipped(&self, skip: AuditSkip) {
        self.audit_skips[skip as usize].add(1);
    }

    /// Such hits.
    pub fn audit_skips(&self, skip: AuditSkip) -> u64 {
        self.audit_skips[skip as usize].get()
    }

    /// Counts a hit that was wrong.
    pub fn audit_breached(&self, breach: AuditBreach) {
        self.audit_breaches[breach as usize].add(1);
    }

    /// Such hits.
    pub fn audit_breaches(&self, breach: AuditBreach) -> u64 {
        self.audit_breaches[breach as usize].get()
    }

    /// Hits that were wrong, in whatever.
    pub fn audit_violations(&self) -> u64 {
        AuditBreach::ALL.iter().map(|&breach| self.audit_breaches(breach)).sum()
    }

    /// Counts a hit whose comparison proves nothing.
    pub fn audit_doubted(&self, doubt: AuditDoubt) {
        self.audit_doubts[doubt as usize].add(1);
    }

    /// Such hits.
    pub fn audit_doubts(&self, doubt: AuditDoubt) -> u64 {
        self.audit_doubts[doubt as usize].get()
    }

    /// Counts a bump of an epoch.
    pub fn epoch(&self, reason: EpochReason) {
        self.epochs[reason as usize].add(1);
    }

    /// Epochs bumped for this reason.
    pub fn epochs(&self, reason: EpochReason) -> u64 {
        self.epochs[reason as usize].get()
    }

    /// Counts a message of the channel.
    pub fn heard(&self, message: ChannelMessage) {
        self.channel[message as usize].add(1);
    }

    /// Messages of this kind.
    pub fn channel(&self, message: ChannelMessage) -> u64 {
        self.channel[message as usize].get()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Latency;
    use super::*;

    #[test]
    fn sampling_takes_one_in_64_and_follows_no_period() {
        let stats = WorkerStats::default();
        assert!(stats.sample().is_some(), "the first request is measured");
        let mut taken = 0_u32;
        let mut by_place = [0_u32; 64];
        for request in 0..640_000_usize {
            if stats.sample().is_some() {
                taken += 1;
                by_place[request % 64] += 1;
            }
        }
        assert!((9_500..10_500).contains(&taken), "{taken}");
        let most = by_place.into_iter().max().expect("64 places");
        assert!(most < 250, "place in a pipeline measured {most} times of about 156");
    }

    #[test]
    fn the_audit_has_as_many_to_choose_from_as_it_wants_and_no_more_are_timed() {
        let stats = WorkerStats::default();
        for (one_in, of) in [(Some(1), 1), (Some(8), 8), (Some(1000), 64), (None, 64)] {
            stats.choose_for(one_in);
            assert_eq!(stats.chosen_of(), of);
            stats.choose(); // the gap to it was drawn before
            let chosen: Vec<_> = (0..640_000).filter_map(|_| stats.choose()).collect();
            let timed = chosen.iter().filter(|chosen| chosen.since.is_some()).count();
            let about = |count: usize, of: u32| count.abs_diff(640_000 / of as usize) < 600;
            assert!(about(chosen.len(), of) && about(timed, 64), "{one_in:?}: {} chosen, {timed} timed", chosen.len());
        }
    }

    #[test]
    fn workers_do_not_share_cache_lines() {
        assert_eq!(align_of::<WorkerStats>(), 128);
    }

    #[test]
    fn a_recorded_request_shows_under_its_path_alone() {
        let stats = WorkerStats::default();
        stats.record(Path::Miss, Instant::now());
        let (mut hit, mut miss) = (Latency::default(), Latency::default());
        hit.merge(stats.latency(Path::Hit));
        miss.merge(stats.latency(Path::Miss));
        assert_eq!((hit.samples(), miss.samples()), (0, 1));
    }

    #[test]
    fn each_reason_has_its_own_counter() {
        let (worker, stats) = (WorkerStats::default(), Stats::default());
        worker.dropped(DropReason::FirstKnock);
        stats.fill(FillOutcome::Doomed);
        stats.epoch(EpochReason::Pattern);
        stats.heard(ChannelMessage::Own);
        let drops: Vec<_> = DropReason::ALL.map(|reason| worker.drops(reason)).into();
        assert_eq!(drops.iter().sum::<u64>(), 1);
        assert_eq!(drops[DropReason::FirstKnock as usize], 1);
        assert_eq!(FillOutcome::ALL.map(|outcome| stats.fills(outcome)), [0, 1, 0, 0, 0]);
        assert_eq!(
            EpochReason::ALL.map(|reason| stats.epochs(reason)),
            [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(ChannelMessage::ALL.map(|kind| stats.channel(kind)), [0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    }
}
