//! What memory is used for: the setting that an operator changes first, and must be able to change back within one request.

use std::fmt;

use super::error::Problem;

/// What L1 does for reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum L1Mode {
    /// It is filled and answers nothing; what it would have answered is counted.
    Observe,
    /// It is filled and answers.
    #[default]
    Cache,
    /// Nothing is kept, and no read joins another: each goes to Redis.
    Pass,
}

impl L1Mode {
    /// All of them, by their numbers.
    pub const ALL: [Self; 3] = [Self::Observe, Self::Cache, Self::Pass];
    /// Their names, in the same order.
    pub const LABELS: [&'static str; 3] = ["observe", "cache", "pass"];

    /// Its name in settings, status and metrics.
    pub const fn as_str(self) -> &'static str {
        Self::LABELS[self as usize]
    }

    /// The mode of this name, in any case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str().eq_ignore_ascii_case(name))
    }

    /// Reads the setting.
    pub(super) fn read(text: &str) -> Result<Self, Problem> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| Problem::unknown("mode", text, &["observe", "cache", "pass"]))
    }
}

impl fmt::Display for L1Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_has_a_name_of_its_own() {
        for mode in L1Mode::ALL {
            assert_eq!(L1Mode::ALL[mode as usize], mode);
            assert_eq!(L1Mode::named(&mode.as_str().to_uppercase()), Some(mode));
            assert_eq!(L1Mode::read(mode.as_str()).expect("a mode"), mode);
        }
        assert_eq!(L1Mode::named("off"), None);
        assert!(L1Mode::read("CACHE").is_err());
    }
}
