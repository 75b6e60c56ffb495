//! What is said about settings that cannot be used: where they stand, what is wrong, what would be right.
//!
//! Messages never quote the upstream URL, which may hold a password. Built by [`super::load`]; `main` prints them.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why [`super::load`] gave no configuration. Starting again without a change gives the same error.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file of settings could not be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file as it was named.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One setting is unknown, malformed, out of range, or contradicts another.
    #[error("{place}: {problem}")]
    Invalid {
        /// Where the setting stands.
        place: Place,
        /// What is wrong, and what would be right.
        problem: Problem,
    },
    /// More than one of them.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\ncrema: "))]
    Several(Vec<ConfigError>),
}

/// Where a setting stands, as a user finds it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A flag of the command line, such as `--l1-size`.
    Flag(String),
    /// An environment variable, such as `CREMA_L1_SIZE`.
    Variable(String),
    /// The file of settings.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// In characters, counted from 1.
        column: usize,
        /// The key whose value is meant; empty where the message itself names it.
        key: String,
    },
    /// Nobody set the key: its default does not go with the rest.
    Default(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => f.write_str(name),
            Self::Default(key) => write!(f, "{key} (by default)"),
            Self::File { path, line, column, key } => {
                write!(f, "{}:{line}:{column}", path.display())?;
                if key.is_empty() { Ok(()) } else { write!(f, ": {key}") }
            }
        }
    }
}

/// What is wrong with a value, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    wrong: String,
    right: String,
}

impl Problem {
    pub(super) fn new(wrong: impl Into<String>, right: impl Into<String>) -> Self {
        Self { wrong: wrong.into(), right: right.into() }
    }

    /// `word` is none of `known`: names the nearest of them, or all where none is near.
    pub(super) fn unknown(what: &str, word: &str, known: &[&str]) -> Self {
        let right = match nearest(word, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write one of {}", known.join(", ")),
        };
        Self::new(format!("unknown {what} `{word}`"), right)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.wrong)?;
        if self.right.is_empty() { Ok(()) } else { write!(f, "; {}", self.right) }
    }
}

impl std::error::Error for Problem {}

/// The word of `known` that `word` most likely was meant to be: at most one edit in three letters, three in all.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    known
        .iter()
        .map(|candidate| (edits(word, candidate), *candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance; `-` and `_` count as the same letter, as do upper and lower case.
fn edits(left: &str, right: &str) -> usize {
    let fold = |letter: char| if letter == '-' { '_' } else { letter.to_ascii_lowercase() };
    let right: Vec<char> = right.chars().map(fold).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().map(fold).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("abc", ""), 3);
        assert_eq!(edits("L1-Size", "l1_size"), 0);
    }

    #[test]
    fn suggests_only_what_is_near() {
        let known = ["listen", "l1_size", "max_staleness"];
        assert_eq!(nearest("lisen", &known), Some("listen"));
        assert_eq!(nearest("l1-size", &known), Some("l1_size"));
        assert_eq!(nearest("max_stalenes", &known), Some("max_staleness"));
        assert_eq!(nearest("port", &known), None);
    }

    #[test]
    fn names_all_where_nothing_is_near() {
        let problem = Problem::unknown("log format", "yaml", &["text", "json"]);
        assert_eq!(problem.to_string(), "unknown log format `yaml`; write one of text, json");
    }
}
