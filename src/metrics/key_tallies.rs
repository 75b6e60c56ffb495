//! What became of requests by the rule and by the prefix of their keys, counted by the sample: requests and bytes.
//!
//! Which rules and prefixes there are is not known beforehand, so these metrics stand in no table. Both are bounded: so many have a line of
//! their own, and all others have one together. The whole process has one, under a lock that is held for a moment.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::labels::KeyEvent;
use super::prefixes::{KeyPrefix, MOST_PREFIXES, PrefixLearner};

/// Rules with a line of their own.
const MOST_RULES: usize = 100;
/// The line of those that have none, and of keys without a rule or a prefix. No prefix is called so.
const OTHER: &str = "(other)";
const NONE: &str = "(none)";

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct KeyTallies {
    prefixes: PrefixLearner,
    by_prefix: Vec<EventCounts>,
    other: EventCounts,
    none: EventCounts,
    by_rule: BTreeMap<Box<str>, EventCounts>,
}

/// Requests and bytes, by [`KeyEvent`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts([(u64, u64); KeyEvent::COUNT]);

/// What a key was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TalliedKey<'a> {
    /// The key.
    pub(crate) key: &'a [u8],
    /// Its hash.
    pub(crate) hash: u64,
    /// The pattern of its rule.
    pub(crate) rule: Option<&'a str>,
    /// What became of it.
    pub(crate) event: KeyEvent,
    /// How many requests of what became of them it stands for,
    pub(crate) times: u64,
    /// and for how many bytes.
    pub(crate) bytes: u64,
}

impl KeyTallies {
    /// Counts it.
    pub(crate) fn count(&mut self, one: &TalliedKey<'_>) {
        let prefix = self.prefixes.learn(one.key, one.hash);
        self.by_prefix.resize(self.prefixes.names().len(), EventCounts::default());
        let by_prefix = match prefix {
            KeyPrefix::Named(at) => &mut self.by_prefix[at],
            KeyPrefix::Other => &mut self.other,
            KeyPrefix::None => &mut self.none,
        };
        by_prefix.add(one);
        self.rule(one.rule.unwrap_or(NONE)).add(one);
    }

    fn rule(&mut self, rule: &str) -> &mut EventCounts {
        let known = self.by_rule.contains_key(rule) || self.by_rule.len() < MOST_RULES;
        self.by_rule.entry(if known { rule } else { OTHER }.into()).or_default()
    }

    /// What was counted by rule, of `rules` even where that is nothing; and by prefix.
    pub(crate) fn levels<'a>(&mut self, rules: impl Iterator<Item = &'a str>) -> KeyLevels {
        for rule in rules.chain([NONE]) {
            self.rule(rule);
        }
        let by_rule = self.by_rule.iter().map(|(rule, counts)| (rule.to_string(), *counts)).collect();
        let named = self.prefixes.names().iter().map(ToString::to_string).zip(self.by_prefix.iter().copied());
        let by_prefix = named.chain([(OTHER.to_owned(), self.other), (NONE.to_owned(), self.none)]).collect();
        KeyLevels { by_rule, by_prefix }
    }
}

impl EventCounts {
    fn add(&mut self, one: &TalliedKey<'_>) {
        let (times, bytes) = &mut self.0[one.event as usize];
        *times += one.times;
        *bytes += one.bytes;
    }
}

/// What was counted, by name.
#[derive(Clone, Debug, Default)]
pub struct KeyLevels {
    /// By the pattern of the rule.
    pub by_rule: Vec<(String, EventCounts)>,
    /// By prefix: no more than [`MOST_PREFIXES`] and two.
    pub by_prefix: Vec<(String, EventCounts)>,
}

/// Each metric's name and sentence.
pub(super) const FAMILIES: [(&str, &str); 4] = [
    (
        "crema_rule_requests_total",
        "Requests by the rule of their key and by what became of them, as a sample of one in 64 tells, times 64.",
    ),
    ("crema_rule_bytes_total", "Bytes of the replies to such reads, and of such writes, from the same sample."),
    (
        "crema_prefix_requests_total",
        "Requests by the prefix of their key, of the prefixes that were learnt, and by what became of them, from the same sample.",
    ),
    ("crema_prefix_bytes_total", "Bytes of the replies to such reads, and of such writes, from the same sample."),
];

/// Appends what there is, in the text format of Prometheus.
pub(super) fn write(text: &mut String, levels: &KeyLevels) -> fmt::Result {
    debug_assert!(levels.by_prefix.len() <= MOST_PREFIXES + 2, "labels are few");
    let [rule_requests, rule_bytes, prefix_requests, prefix_bytes] = FAMILIES;
    for (family, key, all, bytes) in [
        (rule_requests, "rule", &levels.by_rule, false),
        (rule_bytes, "rule", &levels.by_rule, true),
        (prefix_requests, "prefix", &levels.by_prefix, false),
        (prefix_bytes, "prefix", &levels.by_prefix, true),
    ] {
        let (name, about) = family;
        writeln!(text, "# HELP {name} {about}\n# TYPE {name} counter")?;
        for (label, EventCounts(counts)) in all {
            let label = label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            for (event, (times, sum)) in KeyEvent::LABELS.iter().zip(counts) {
                let value = if bytes { sum } else { times };
                writeln!(text, "{name}{{{key}=\"{label}\",event=\"{event}\"}} {value}")?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one<'a>(key: &'a str, rule: Option<&'a str>, event: KeyEvent) -> TalliedKey<'a> {
        let hash = super::super::key_watch::hash_of(key.as_bytes());
        TalliedKey { key: key.as_bytes(), hash, rule, event, times: 64, bytes: 640 }
    }

    fn lines(levels: &KeyLevels) -> String {
        let mut text = String::new();
        write(&mut text, levels).expect("a String");
        text
    }

    #[test]
    fn keys_are_counted_by_rule_and_by_prefix() {
        let mut tallies = KeyTallies::default();
        for n in 0..100 {
            tallies.count(&one(&format!("page:{n}"), Some("page:*"), KeyEvent::Hit));
        }
        tallies.count(&one("plain", None, KeyEvent::Write));
        let text = lines(&tallies.levels(["a\"b"].into_iter()));
        let has = |line: &str| assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        has(r#"crema_rule_requests_total{rule="page:*",event="hit"} 6400"#);
        has(r#"crema_rule_bytes_total{rule="page:*",event="hit"} 64000"#);
        has(r#"crema_rule_requests_total{rule="(none)",event="write"} 64"#);
        has(r#"crema_rule_requests_total{rule="a\"b",event="miss"} 0"#);
        has(r#"crema_prefix_requests_total{prefix="(none)",event="write"} 64"#);
        let counted = |prefix: &str| {
            let start = format!("crema_prefix_requests_total{{prefix=\"{prefix}\",event=\"hit\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok()).unwrap_or_default()
        };
        assert_eq!(counted("page:") + counted("(other)"), 6400, "before it had a name it was one of the others");
        assert!(counted("page:") > 5000);
    }

    #[test]
    fn there_are_no_more_lines_than_may_be() {
        let mut tallies = KeyTallies::default();
        for n in 0..300 {
            tallies.count(&one("k", Some(&format!("rule{n}")), KeyEvent::Miss));
        }
        let levels = tallies.levels(std::iter::empty());
        assert_eq!((levels.by_rule.len(), levels.by_prefix.len()), (MOST_RULES + 1, 2));
        let other = levels.by_rule.iter().find(|(rule, _)| rule == OTHER).expect("it has a line");
        assert_eq!(other.1.0[KeyEvent::Miss as usize].0, 64 * (300 - MOST_RULES as u64));
    }
}
