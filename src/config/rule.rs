//! Rules on key patterns: how long keys may stay in L1, how soon they get there, how large they may be.
//!
//! The `[[rule]]` tables of the file, read and checked. The first rule whose pattern fits a key decides; whoever holds the key
//! looks for it.

use std::fmt;
use std::time::Duration;

use toml::Spanned;

use super::error::{ConfigError, Problem, nearest};
use super::flags::RuleSettings;
use super::glob::Glob;
use super::raw::{Given, Layers};
use super::units::{self, GIB};

/// The names for how long a key may stay in L1 without being read anew.
const CLASSES: [(&str, Duration); 4] = [
    ("real-time", Duration::from_secs(10)),
    ("short-term", SHORT_TERM),
    ("medium-term", Duration::from_secs(60 * 60)),
    ("long-term", Duration::from_secs(3 * 60 * 60)),
];

/// How long keys stay where nothing else is said and some end there must be.
pub const SHORT_TERM: Duration = Duration::from_secs(5 * 60);

/// What holds for keys that fit a pattern; `None` leaves the general setting in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The keys that are meant.
    pub pattern: Glob,
    /// The longest stay in L1 after a fill, whatever the key's TTL in Redis.
    pub ceiling: Option<Duration>,
    /// How soon keys are copied into L1.
    pub promote: Option<Promote>,
    /// The largest reply kept in L1, in bytes.
    pub max_value: Option<u64>,
}

/// How soon the keys of a rule are copied into L1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promote {
    /// They are never copied.
    Never,
    /// At one read in so many, at least 1.
    OneIn(u32),
}

/// Reads all rules. A pattern that an earlier rule already has is refused, for it would never decide.
pub(super) fn read_rules(layers: &Layers, l1_size: u64) -> Result<Vec<Rule>, ConfigError> {
    let mut rules: Vec<Rule> = Vec::new();
    for settings in layers.rules() {
        let rule = match read_rule(layers, settings, l1_size) {
            Ok(rule) => rule,
            Err(error) => {
                layers.note(error);
                continue;
            }
        };
        if rules.iter().any(|earlier| earlier.pattern == rule.pattern) {
            let problem =
                Problem::new(format!("an earlier rule matches `{}` already", rule.pattern), "make one rule of the two");
            return Err(layers.refuse_rule(settings, None, problem));
        }
        rules.push(rule);
    }
    Ok(rules)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.pattern)?;
        if let Some(ceiling) = self.ceiling {
            write!(f, ", class {}", units::show_duration(ceiling))?;
        }
        match self.promote {
            Some(Promote::Never) => f.write_str(", promote never")?,
            Some(Promote::OneIn(reads)) => write!(f, ", promote {reads}")?,
            None => {}
        }
        match self.max_value {
            Some(bytes) => write!(f, ", max_value {}", units::show_size(bytes)),
            None => Ok(()),
        }
    }
}

/// Reads how often keys are promoted: 0 or `never` for not at all, else one read in N.
pub(super) fn promote(text: &str) -> Result<Promote, Problem> {
    match (text, text.parse()) {
        ("never", _) | (_, Ok(0)) => Ok(Promote::Never),
        (_, Ok(reads)) => Ok(Promote::OneIn(reads)),
        (_, Err(_)) => Err(Problem::new(
            format!("`{text}` is not a rate of promotion"),
            "write N to promote at one read in N, or never",
        )),
    }
}

fn read_rule(layers: &Layers, settings: &Spanned<RuleSettings>, l1_size: u64) -> Result<Rule, ConfigError> {
    let RuleSettings { pattern, class, promote: rate, max_value } = settings.get_ref();
    let refuse = |problem| layers.refuse_rule(settings, None, problem);
    let Some(pattern) = pattern.as_ref().filter(|given| !given.text().is_empty()) else {
        return Err(refuse(Problem::new("a rule names no keys", "write for example match = \"session:*\"")));
    };
    if class.is_none() && rate.is_none() && max_value.is_none() {
        return Err(refuse(Problem::new("a rule says nothing of its keys", "give it class, promote or max_value")));
    }
    if !Glob::is_closed(pattern.text()) {
        let wrong = format!("the pattern `{}` has a [ without its ]", pattern.text());
        return Err(layers.refuse_rule(
            settings,
            Some(("match", pattern)),
            Problem::new(wrong, "close it, or write \\\\[ for a [ itself"),
        ));
    }
    let largest = units::sizes(1..=if l1_size == 0 { GIB } else { l1_size });
    Ok(Rule {
        pattern: Glob::new(pattern.text()),
        ceiling: read(layers, settings, ("class", class), ceiling)?,
        promote: read(layers, settings, ("promote", rate), promote)?,
        max_value: read(layers, settings, ("max_value", max_value), largest)?,
    })
}

fn read<T>(
    layers: &Layers,
    rule: &Spanned<RuleSettings>,
    (key, given): (&str, &Option<Given>),
    parse: impl Fn(&str) -> Result<T, Problem>,
) -> Result<Option<T>, ConfigError> {
    let Some(given) = given else { return Ok(None) };
    parse(given.text()).map(Some).map_err(|problem| layers.refuse_rule(rule, Some((key, given)), problem))
}

/// Reads a class by its name or as a duration of its own.
pub(super) fn ceiling(text: &str) -> Result<Duration, Problem> {
    if let Some((_, length)) = CLASSES.iter().find(|(name, _)| *name == text) {
        return Ok(*length);
    }
    if text.starts_with(|letter: char| letter.is_ascii_digit()) {
        return units::durations(Duration::from_millis(1)..=Duration::from_secs(8760 * 60 * 60))(text);
    }
    let names = CLASSES.map(|(name, _)| name);
    match nearest(text, &names) {
        Some(_) => Err(Problem::unknown("class", text, &names)),
        None => Err(Problem::new(
            format!("unknown class `{text}`"),
            format!("write {}, or a duration such as 90s", names.join(", ")),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_classes() {
        let good = [("real-time", 10), ("short-term", 300), ("medium-term", 3_600), ("long-term", 10_800), ("90s", 90)];
        for (text, seconds) in good {
            assert_eq!(ceiling(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        let near = ceiling("longterm").expect_err("misspelt").to_string();
        assert_eq!(near, "unknown class `longterm`; did you mean `long-term`?");
        let far = ceiling("eternal").expect_err("unknown").to_string();
        assert!(
            far.ends_with("write real-time, short-term, medium-term, long-term, or a duration such as 90s"),
            "{far}"
        );
        assert!(ceiling("0").is_err());
        assert!(ceiling("90").is_err());
    }

    #[test]
    fn reads_rates() {
        assert_eq!(promote("never"), Ok(Promote::Never));
        assert_eq!(promote("0"), Ok(Promote::Never));
        assert_eq!(promote("1"), Ok(Promote::OneIn(1)));
        assert_eq!(promote("00"), Ok(Promote::Never));
        for text in ["-1", "1.5", "often", "4294967296"] {
            assert!(promote(text).is_err(), "{text}");
        }
    }
}
