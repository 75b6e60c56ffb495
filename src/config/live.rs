//! What may change while crema runs, and how two readings of the settings differ.
//!
//! Who reads the settings anew, and when, and what is done about a difference, is `app`'s.

use std::path::PathBuf;
use std::time::SystemTime;
use std::{env, fs};

use super::compare::is_own;
use super::raw::FILE_VARIABLE;
use super::summary::Sources;
use super::{Config, ConfigError, Endpoint, Flags, L1Mode, Upstream, UpstreamKind, load};

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
    /// Where the upstream is from now on, where it is another server.
    pub upstream: Option<Endpoint>,
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

/// By the names of the settings, how they change.
type Adopt = (&'static [&'static str], fn(&mut Config, &Config));

/// What may change.
const LIVE: &[Adopt] = &[
    (&["max_staleness"], |to, from| to.max_staleness = from.max_staleness),
    (&["log_level"], |to, from| to.log_level.clone_from(&from.log_level)),
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
    (&["audit"], |to, from| to.audit = from.audit),
    (&["show_keys"], |to, from| to.show_keys = from.show_keys),
    (&["slowlog_slower_than"], |to, from| to.slowlog_slower_than = from.slowlog_slower_than),
    (&["slowlog_max_len"], |to, from| to.slowlog_max_len = from.slowlog_max_len),
    (&["admin_users", "admin_token", "admin_token_file"], |to, from| to.admins.clone_from(&from.admins)),
];

/// Whether one value may become the other.
type May = fn(&Config, &Config) -> bool;

/// What may change from some values to some others.
const PARTLY_LIVE: &[(May, Adopt)] = &[
    (|from, to| from.l1_size > 0 && to.l1_size > 0, (&["l1_size"], |to, from| to.l1_size = from.l1_size)),
    (is_another_address, (&["upstream"], |to, from| to.upstream = from.upstream.clone())),
];

/// Whether the upstream is one server either way, spoken to in the same way, and not crema itself by the listeners that it has.
fn is_another_address(from: &Config, to: &Config) -> bool {
    let to = &to.upstream;
    let same = Upstream { node: to.node.clone(), ..from.upstream.clone() };
    same == *to && to.kind == UpstreamKind::Single && !from.listen.iter().any(|listen| is_own(listen, &to.node))
}

impl Reading {
    /// Reads the settings of this process, as [`load`] does.
    pub fn of(flags: Flags) -> Result<Self, ConfigError> {
        let seen = mark_of_settings(&flags);
        load(flags).map(|(config, sources)| Self { config, sources, seen })
    }

    /// What `newer` changes where crema has run by `self`.
    pub fn changes(&self, newer: &Self) -> Changes {
        let mut config = self.config.clone();
        let partly = PARTLY_LIVE.iter().filter(|(may, _)| may(&self.config, &newer.config)).map(|(_, adopt)| adopt);
        let live: Vec<&Adopt> = LIVE.iter().chain(partly).collect();
        for (_, adopt) in &live {
            adopt(&mut config, &newer.config);
        }
        let is_live = |name: &str| live.iter().any(|(names, _)| names.contains(&name));
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
        let upstream = (self.config.upstream.node != config.upstream.node).then(|| config.upstream.node.clone());
        let mode = (self.config.mode != newer.config.mode).then_some(newer.config.mode);
        let sources = self.sources.adopting(&newer.sources, is_live);
        Changes { settings: Self { config, sources, seen: newer.seen }, changed, restart, mode, upstream }
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
        let Changes { settings, changed, restart, mode, upstream } = before.changes(&after);
        assert_eq!(changed, ["promote: 3 -> 4", "rule: none -> a*, promote never"]);
        assert_eq!(restart.len(), 2, "{restart:?}");
        assert!(restart[0].starts_with("upstream: redis://127.0.0.1:6379 -> ") && !restart[0].contains("secret"));
        assert_eq!((restart[1].as_str(), mode, upstream), ("threads: 2 -> 3", None, None));
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
    fn memory_may_change_its_size_but_not_begin_or_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let of = |size: &str| reading(&directory, &format!("max_value = \"1KiB\"\nl1_size = \"{size}\""));
        let (none, small, large) = (of("0"), of("1MiB"), of("2MiB"));
        let grown = small.changes(&large);
        assert_eq!((grown.changed, grown.settings.config.l1_size), (vec!["l1_size: 1MiB -> 2MiB".to_owned()], 2 << 20));
        for (one, other) in [(&none, &small), (&small, &none)] {
            let changes = one.changes(other);
            assert_eq!((changes.changed.len(), changes.restart.len()), (0, 1));
            assert_eq!(changes.settings.config.l1_size, one.config.l1_size);
        }
    }

    #[test]
    fn the_upstream_may_be_another_server_to_which_the_same_is_said() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |url: &str| reading(&directory, &format!("upstream = \"{url}\""));
        let (one, other) = (at("redis://u:secret@a:1/2"), at("redis://u:secret@b:2/2"));
        let moved = one.changes(&other);
        assert_eq!(moved.upstream, Some(other.config.upstream.node.clone()));
        assert_eq!((moved.changed.len(), moved.restart.len()), (1, 0));
        assert!(one.changes(&one).upstream.is_none());
        for another in [
            "redis://v:secret@b:2/2",
            "redis://u:secret@b:2/3",
            "rediss://u:secret@b:2/2",
            "redis+cluster://u:secret@b:2",
        ] {
            let changes = one.changes(&at(another));
            assert_eq!((changes.upstream, changes.restart.len()), (None, 1), "{another}");
            assert_eq!(changes.settings.config.upstream, one.config.upstream, "{another}");
        }
        assert_eq!(one.changes(&at("redis://u:other@b:2/2")).upstream, None);
        let here = "listen = \"127.0.0.1:7000\"\nupstream = \"redis://127.0.0.1:6380\"";
        let itself = reading(&directory, "upstream = \"redis://127.0.0.1:1\"").changes(&reading(&directory, here));
        assert_eq!(
            (itself.upstream, itself.restart.len()),
            (None, 2),
            "until it listens elsewhere that is crema itself"
        );
    }
}
