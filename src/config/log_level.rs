//! What the log tells: a level, and others for parts of crema, as the variable `RUST_LOG` says it.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;

use super::Problem;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A level that can be gone by. Where it names none for all, that is `info`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevel(String);

impl LogLevel {
    /// What lets through the lines of this level.
    pub fn filter(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl Default for LogLevel {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogLevel {
    type Err = Problem;

    /// A word that is neither a level nor a part of crema would silence nothing and raise nothing, and is refused.
    fn from_str(text: &str) -> Result<Self, Problem> {
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let level =
                LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level)) || word.parse::<u8>().is_ok_and(|n| n < 6);
            let part = word.contains(['=', '[', '{']) || word == "crema" || word.starts_with("crema::");
            if !level && !part {
                let levels = LEVELS.join(", ");
                let right = format!("write one of {levels}, or for example crema=debug");
                return Err(Problem::new(format!("`{word}` is no level"), right));
            }
        }
        let directives = format!("info,{text}");
        match EnvFilter::try_new(&directives) {
            Ok(_) => Ok(Self(directives)),
            Err(error) => Err(Problem::new(error.to_string(), "write for example info or crema=debug")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_means_nothing_is_refused() {
        for good in
            ["", "info", "WARN", "3", "crema=debug", "crema", "info,hyper=trace", "crema[span]=debug", " debug "]
        {
            assert!(good.parse::<LogLevel>().is_ok(), "{good}");
        }
        for bad in ["verbose", "info,verbose", "debg", "crema=loudly", "7"] {
            assert!(bad.parse::<LogLevel>().is_err(), "{bad}");
        }
    }

    #[test]
    fn where_no_level_is_named_for_all_it_is_info() {
        let shown = |text: &str| text.parse::<LogLevel>().expect("good").filter().to_string();
        assert!(shown("hyper=debug").contains("info"));
        assert!(shown("crema=debug").contains("info"));
        assert_eq!(shown("warn"), "warn");
        assert_eq!(shown("off"), "off");
        assert_eq!(LogLevel::default().filter().to_string(), "info");
    }
}
