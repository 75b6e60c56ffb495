//! The settings that may change while crema runs: an immutable snapshot that is replaced as a whole.
//!
//! `app` publishes each; a worker goes from one to the next between two commands, and says so. What every read looks at stands beside the
//! snapshot in a cell of the worker's own, so that a hit pays nothing for what might change.

use std::cell::{Cell, Ref, RefCell};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::{Admins, Config, Promote, Rule};

/// A worker that is alive goes by new settings within this time.
const PATIENCE: Duration = Duration::from_secs(1);

/// One snapshot.
#[derive(Debug)]
pub(crate) struct LiveSettings {
    /// Counts the snapshots under which entries may stay for less than under the one before: what is asked for by an older one
    /// is not kept.
    pub number: u64,
    /// Rules on key patterns, of which the first that matches decides.
    pub rules: Vec<Rule>,
    /// A key is copied into L1 at one read in so many; 0 for never.
    pub promote: u32,
    /// The upstream's URL, without its password.
    pub upstream: String,
    /// The largest reply kept in L1, where no rule gives another.
    pub max_value: u64,
    /// The longest stay in L1, where no rule gives another.
    pub ceiling: Option<Duration>,
    /// Clients served at once.
    pub max_clients: usize,
    /// A client silent for so long is closed.
    pub idle_timeout: Option<Duration>,
    /// Bytes of replies that may wait for a client that connects now.
    pub output_limit: u64,
    /// How long clients are served after the process was told to stop, and how long they may finish after that.
    pub drain: (Duration, Duration),
    /// Who may change what.
    pub admins: Admins,
    /// One hit in so many is read again; none: no hit is.
    pub audit: Option<u32>,
    /// Whether people are shown keys.
    pub show_keys: bool,
    /// A command that takes longer is slow.
    pub slowlog_slower_than: Option<Duration>,
    /// So many of them are kept.
    pub slowlog_max_len: usize,
    /// Workers that go by it.
    taken: watch::Sender<usize>,
}

/// Which of the rules is for a key: its number in the snapshot of the moment, or one that no rule has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RuleIndex(u32);

/// How a lead's key is promoted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promotion {
    /// With probability 1 in so many; 0: never.
    pub one_in: u32,
    /// And only up to this many bytes of reply.
    pub max_value: u64,
}

impl RuleIndex {
    const NONE: Self = Self(u32::MAX);

    /// Its number; none of one that no rule has.
    pub(crate) fn number(self) -> Option<u32> {
        (self != Self::NONE).then_some(self.0)
    }
}

impl LiveSettings {
    /// What these settings say.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            number: 0,
            rules: config.rules.clone(),
            promote: config.promote,
            upstream: config.upstream.to_string(),
            max_value: config.max_value,
            ceiling: config.ceiling,
            max_clients: config.max_clients,
            idle_timeout: config.idle_timeout,
            output_limit: config.output_limit,
            drain: (config.drain_delay, config.drain_timeout),
            admins: config.admins.clone(),
            audit: config.audit,
            show_keys: config.show_keys,
            slowlog_slower_than: config.slowlog_slower_than,
            slowlog_max_len: config.slowlog_max_len,
            taken: watch::Sender::new(0),
        }
    }

    /// What these settings say, which come after `before`.
    pub(crate) fn after(before: &Self, config: &Config) -> Self {
        let mut next = Self::of(config);
        next.number = before.number + u64::from(!before.keeps_as_long(&next));
        next
    }

    /// From how many nanoseconds on a command is slow.
    pub(super) fn slow_after(&self) -> u64 {
        self.slowlog_slower_than.map_or(u64::MAX, |limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Which rule is for `key`: the first that matches. Looked up once for each key of a request.
    pub(crate) fn rule_of(&self, key: &[u8]) -> RuleIndex {
        let first = self.rules.iter().position(|rule| rule.pattern.matches(key));
        first.and_then(|at| u32::try_from(at).ok()).map_or(RuleIndex::NONE, RuleIndex)
    }

    /// The rule itself, where there is one.
    pub(crate) fn rule(&self, index: RuleIndex) -> Option<&Rule> {
        self.rules.get(index.0 as usize)
    }

    /// The longest stay in L1 that the rule, or its absence, allows; where neither says, the ear goes by the mode in force.
    pub(crate) fn ceiling(&self, index: RuleIndex) -> Option<Duration> {
        self.rule(index).and_then(|rule| rule.ceiling).or(self.ceiling)
    }

    /// What the rule, or its absence, says about promotion.
    pub(crate) fn promote(&self, index: RuleIndex) -> Promotion {
        let rule = self.rule(index);
        let one_in = match rule.and_then(|rule| rule.promote) {
            Some(Promote::Never) => 0,
            Some(Promote::OneIn(one_in)) => one_in,
            None => self.promote,
        };
        Promotion { one_in, max_value: rule.and_then(|rule| rule.max_value).unwrap_or(self.max_value) }
    }

    /// Whether an entry that was filled under these may stay no longer under the others.
    fn keeps_as_long(&self, others: &Self) -> bool {
        let stays = |of: &Self| of.rules.iter().map(|rule| (rule.pattern.clone(), rule.ceiling)).collect::<Vec<_>>();
        self.ceiling == others.ceiling && stays(self) == stays(others)
    }

    /// Returns when so many workers go by it, or a while later: false, not all do yet.
    pub(crate) async fn is_taken_by(&self, workers: usize) -> bool {
        let mut taken = self.taken.subscribe();
        timeout(PATIENCE, taken.wait_for(|taken| *taken >= workers)).await.is_ok_and(|taken| taken.is_ok())
    }
}

/// The snapshot that a worker goes by.
#[derive(Debug)]
pub(crate) struct WorkerSettings {
    all: RefCell<Arc<LiveSettings>>,
    has_rules: Cell<bool>,
    /// Where no rule gives another.
    promotion: Cell<Promotion>,
    idle_timeout: Cell<Option<Duration>>,
    audit: Cell<Option<u32>>,
}

impl WorkerSettings {
    /// Goes by the first.
    pub(super) fn new(first: Arc<LiveSettings>) -> Self {
        Self {
            has_rules: Cell::new(!first.rules.is_empty()),
            promotion: Cell::new(first.promote(RuleIndex::NONE)),
            idle_timeout: Cell::new(first.idle_timeout),
            audit: Cell::new(first.audit),
            all: RefCell::new(first),
        }
    }

    /// Goes by another, and says so.
    pub(crate) fn go_by(&self, next: Arc<LiveSettings>) {
        self.has_rules.set(!next.rules.is_empty());
        self.promotion.set(next.promote(RuleIndex::NONE));
        self.idle_timeout.set(next.idle_timeout);
        self.audit.set(next.audit);
        next.taken.send_modify(|taken| *taken += 1);
        self.all.replace(next);
    }

    /// All of it.
    pub(crate) fn all(&self) -> Ref<'_, LiveSettings> {
        Ref::map(self.all.borrow(), |all| &**all)
    }

    /// As [`LiveSettings::rule_of`].
    #[inline]
    pub(super) fn rule_of(&self, key: &[u8]) -> RuleIndex {
        if self.has_rules.get() { self.find_rule(key) } else { RuleIndex::NONE }
    }

    #[inline(never)]
    fn find_rule(&self, key: &[u8]) -> RuleIndex {
        self.all.borrow().rule_of(key)
    }

    /// Whether the rule says that its keys are never promoted, so that L1 need not be asked for them.
    #[inline]
    pub(super) fn is_kept_away(&self, index: RuleIndex) -> bool {
        index != RuleIndex::NONE && self.has_kept_away(index)
    }

    #[inline(never)]
    fn has_kept_away(&self, index: RuleIndex) -> bool {
        self.all.borrow().rule(index).is_some_and(|rule| rule.promote == Some(Promote::Never))
    }

    /// As [`LiveSettings::promote`].
    #[inline]
    pub(super) fn promote(&self, index: RuleIndex) -> Promotion {
        if index == RuleIndex::NONE { self.promotion.get() } else { self.all.borrow().promote(index) }
    }

    /// That of the snapshot.
    pub(super) fn number(&self) -> u64 {
        self.all.borrow().number
    }

    /// As [`LiveSettings::ceiling`].
    pub(super) fn ceiling(&self, index: RuleIndex) -> Option<Duration> {
        self.all.borrow().ceiling(index)
    }

    /// The largest reply kept in L1, where no rule gives another.
    #[inline]
    pub(super) fn max_value(&self) -> u64 {
        self.promotion.get().max_value
    }

    /// One hit in so many is read again.
    #[inline]
    pub(super) fn audit(&self) -> Option<u32> {
        self.audit.get()
    }

    /// A client silent for so long is closed.
    #[inline]
    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        self.idle_timeout.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Glob;

    fn settings(promote: u32, rules: &[(&str, Option<Promote>, Option<u64>)]) -> Arc<LiveSettings> {
        let rule = |&(pattern, promote, ceiling): &(&str, Option<Promote>, Option<u64>)| Rule {
            pattern: Glob::new(pattern),
            ceiling: ceiling.map(Duration::from_secs),
            promote,
            max_value: None,
        };
        let rules = rules.iter().map(rule).collect();
        Arc::new(LiveSettings::of(&Config { promote, rules, ..Config::default() }))
    }

    #[tokio::test]
    async fn a_worker_goes_by_the_newest_and_says_so() {
        let worker = WorkerSettings::new(settings(10, &[]));
        assert_eq!(worker.rule_of(b"page:1"), RuleIndex::NONE);
        assert_eq!(worker.promote(RuleIndex::NONE).one_in, 10);
        let next = settings(5, &[("page:*", Some(Promote::Never), None)]);
        worker.go_by(Arc::clone(&next));
        assert!(next.is_taken_by(1).await);
        let index = worker.rule_of(b"page:1");
        assert!(worker.is_kept_away(index) && worker.promote(index).one_in == 0);
        assert!(!worker.is_kept_away(worker.rule_of(b"other")));
        assert_eq!(worker.promote(worker.rule_of(b"other")).one_in, 5);
        worker.go_by(settings(1, &[]));
        assert_eq!(worker.rule_of(b"page:1"), RuleIndex::NONE);
        assert!(!worker.is_kept_away(index), "of a snapshot that is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_has_ended_is_not_waited_for_without_end() {
        assert!(!settings(1, &[]).is_taken_by(1).await);
    }

    #[test]
    fn what_is_said_of_stays_is_compared() {
        let rule = |ceiling| settings(1, &[("a", Some(Promote::OneIn(2)), ceiling)]);
        assert!(rule(None).keeps_as_long(&settings(9, &[("a", Some(Promote::Never), None)])));
        assert!(!rule(None).keeps_as_long(&rule(Some(5))));
        assert!(!rule(Some(5)).keeps_as_long(&settings(1, &[])));
        let next = LiveSettings::after(&rule(None), &Config { promote: 3, ..Config::default() });
        assert_eq!((next.number, next.promote), (1, 3));
        assert_eq!(LiveSettings::after(&next, &Config::default()).number, 1, "as long as before");
    }
}
