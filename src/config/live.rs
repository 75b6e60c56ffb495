//! What may change while crema runs, and how two readings of the settings differ.
//!
//! Who reads the settings anew, and when, and what is done about a difference, is `app`'s.

use std::path::PathBuf;
use std::time::SystemTime;
use std::{env, fs};

use super::raw::FILE_VARIABLE;
use super::summary::Sources;
use super::{Config, ConfigError, Flags, L1Mode, load, show_size};

/// Settings as they were read once, and whoever gave each.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The settings.
    pub config: Config,
    /// By name, as they were given.
    pub sources: Sources,
    /// How the file was just before.
    pub seen: FileMark,
}

/// By which one sees that a file has changed: when it was written, and its length.
pub type FileMark = Option<(SystemTime, u64)>;

/// What another reading changes.
#[derive(Debug)]
pub struct Changes {
    /// The settings with all that may change at once, the rest as it was.
    pub settings: Reading,
    /// What is other than before, a line each.
    pub changed: Vec<String>,
    /// What would be after a restart.
    pub restart: Vec<String>,
    /// What L1 is to do for reads from now on, where the settings say otherwise than they did.
    pub mode: Option<L1Mode>,
}

/// The file that they are read from, if any.
pub fn settings_file(flags: &Flags) -> Option<PathBuf> {
    let by_variable = || env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    flags.config.clone().or_else(by_variable)
}

/// How the file that they are read from is now; none where there is none.
pub fn mark_of_settings(flags: &Flags) -> FileMark {
    let there = fs::metadata(settings_file(flags)?).ok()?; // follows links, as those of mounted files, which are exchanged as a whole
    Some((there.modified().ok()?, there.len()))
}

/// By the names of the settings.
type Adopt = (&'static [&'static str], fn(&mut Config, &Config));

/// What may change, each with how.
const LIVE: &[Adopt] = &[
    (&["mode"], |to, from| to.mode = from.mode),
    (&["promote"], |to, from| to.promote = from.promote),
    (&["max_value"], |to, from| to.max_value = from.max_value),
    (&["class"], |to, from| to.ceiling = from.ceiling),
    (&["rule"], |to, from| to.rules.clone_from(&from.rules)),
    (&["max_clients"], |to, from| to.max_clients = from.max_clients),
    (&["idle_timeout"], |to, from| to.idle_timeout = from.idle_timeout),
    (&["output_limit"], |to, from| to.output_limit = from.output_limit),
    (&["drain_delay"], |to, from| to.drain_delay = from.drain_delay),
    (&["drain_timeout"], |to, from| to.drain_timeout = from.drain_timeout),
    (&["admin_users", "admin_token", "admin_token_file"], |to, from| to.admins.clone_from(&from.admins)),
];

impl Reading {
    /// Reads the settings of this process, as [`load`] does.
    pub fn of(flags: Flags) -> Result<Self, ConfigError> {
        let seen = mark_of_settings(&flags);
        load(flags).map(|(config, sources)| Self { config, sources, seen })
    }

    /// What `newer` changes where crema has run by `self`.
    pub fn changes(&self, newer: &Self) -> Changes {
        let mut config = self.config.clone();
        for (_, adopt) in LIVE {
            adopt(&mut config, &newer.config);
        }
        let is_live = |name: &str| LIVE.iter().any(|(names, _)| names.contains(&name));
        let differences = self.sources.differences(&newer.sources);
        let (live, rest): (Vec<_>, Vec<_>) = differences.into_iter().partition(|(name, _)| is_live(name));
        let lines = |found: Vec<(String, String)>| found.into_iter().map(|(name, what)| format!("{name}: {what}"));
        let (mut changed, mut restart): (Vec<_>, Vec<_>) = (lines(live).collect(), lines(rest).collect());
        if self.config.admins != newer.config.admins && !changed.iter().any(|line| line.starts_with("admin_")) {
            changed.push("admin_token: another".to_owned());
        }
        if restart.is_empty() && config != newer.config {
            restart.push("a password, or a [[user]]".to_owned());
        }
        let known = self.config.largest_value();
        if config.largest_value() > known {
            restart.push(format!("max_value: replies above {} are kept", show_size(known)));
        }
        let mode = (self.config.mode != newer.config.mode).then_some(newer.config.mode);
        let sources = self.sources.adopting(&newer.sources, is_live);
        Changes { settings: Self { config, sources, seen: newer.seen }, changed, restart, mode }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn reading(directory: &tempfile::TempDir, text: &str) -> Reading {
        let path = directory.path().join("crema.toml");
        fs::write(&path, text).expect("our own directory");
        Reading::of(Flags::parse_from(["crema", "--config", path.to_str().expect("UTF-8")])).expect(text)
    }

    #[test]
    fn what_may_change_is_taken_over_and_the_rest_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let before = reading(&directory, "promote = 3\nthreads = 2\n");
        let after = reading(
            &directory,
            "promote = 4\nthreads = 3\nupstream = \"redis://:secret@127.0.0.1:7\"\n[[rule]]\nmatch = \"a*\"\npromote = \"never\"\n",
        );
        let Changes { settings, changed, restart, mode } = before.changes(&after);
        assert_eq!(changed, ["promote: 3 -> 4", "rule: none -> a*, promote never"]);
        assert_eq!(restart.len(), 2, "{restart:?}");
        assert!(restart[0].starts_with("upstream: redis://127.0.0.1:6379 -> ") && !restart[0].contains("secret"));
        assert_eq!((restart[1].as_str(), mode), ("threads: 2 -> 3", None));
        assert_eq!((settings.config.promote, settings.config.threads.get()), (4, 2));
        assert_eq!(settings.config.rules, after.config.rules);
        // The rest is named again each time, what was taken over is not.
        let again = settings.changes(&after);
        assert_eq!((again.changed.len(), again.restart.len()), (0, 2));
    }

    #[test]
    fn what_is_not_shown_is_missed_nonetheless() {
        let directory = tempfile::tempdir().expect("a directory");
        let with = |token: &str, password: &str| {
            reading(&directory, &format!("admin_token = \"{token}\"\nupstream = \"redis://:{password}@127.0.0.1:7\"\n"))
        };
        let before = with("one", "one");
        let other = before.changes(&with("two", "one"));
        assert_eq!((other.changed, other.restart), (vec!["admin_token: another".to_owned()], vec![]));
        let other = before.changes(&with("one", "two"));
        assert_eq!((other.changed.len(), other.restart), (0, vec!["a password, or a [[user]]".to_owned()]));
    }

    #[test]
    fn the_mode_changes_where_the_settings_say_otherwise_than_they_did() {
        let directory = tempfile::tempdir().expect("a directory");
        let (cache, pass) = (reading(&directory, ""), reading(&directory, "mode = \"pass\""));
        assert_eq!(cache.changes(&pass).mode, Some(L1Mode::Pass));
        assert_eq!(pass.changes(&cache).mode, Some(L1Mode::Cache));
        assert_eq!(pass.changes(&pass).mode, None);
    }

    #[test]
    fn larger_values_than_the_ears_began_with_need_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let (small, large) = (reading(&directory, "max_value = \"1KiB\""), reading(&directory, "max_value = \"2KiB\""));
        assert_eq!(small.changes(&large).restart, ["max_value: replies above 1KiB are kept"]);
        assert!(large.changes(&small).restart.is_empty());
    }
}
