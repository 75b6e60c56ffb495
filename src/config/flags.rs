//! The command line, and with it the list of all settings.
//!
//! A field of [`Settings`] is at once a flag (`--l1-size`), a variable (`CREMA_L1_SIZE`) and a key of the file (`l1_size`), so the
//! three cannot differ; its comment is its help text. Values stay text here: [`super::load`] gives them meaning and defaults.

#![allow(clippy::doc_markdown, reason = "comments on flags are help texts, shown as they stand")]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;
use toml::Spanned;

use super::raw::{Given, comma_separated, words};

const NOTES: &str = "\
Upstream URLs: redis://[user:password@]host[:port][/db] or unix:///path[?db=N]. Sizes: 64MiB, 1GB (in powers of 1024). \
Times: 250ms, 5s, 2m, 1h.

Every option but --check and --hash-password is also a variable (--l1-size is CREMA_L1_SIZE) and, --config aside, a key of the file (l1_size); \
users, rules on key patterns and origins stand in the file alone. A flag wins over a variable, a variable over the file. \
Give passwords by variable or file: other users of the machine can see flags.";

/// What the command line says. [`super::load`] makes a [`super::Config`] of it.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "crema", version, about = "A caching proxy for Redis and Valkey", after_help = NOTES, max_term_width = 100, allow_negative_numbers = true, disable_help_subcommand = true)]
pub struct Flags {
    /// Read settings from this TOML file
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the settings, show what is in effect, and stop
    #[arg(long)]
    pub check: bool,
    /// Read a password from standard input, print its hash for password_hash, and stop
    #[arg(long)]
    pub hash_password: bool,
    /// What to do in place of serving.
    #[command(subcommand)]
    pub task: Option<Task>,
    /// Settings that win over variables and the file.
    #[command(flatten)]
    pub settings: Settings,
}

/// What crema does in place of serving, with the same settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Task {
    /// Ask the crema that has these settings whether it is ready; exit with 0 if it is, else with 1
    Healthcheck,
}

/// Settings as one source gives them: the command line, the environment or the file. What a source leaves out is `None`.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// At [tls://]IP:PORT[?proxy=on] or a path [default: 127.0.0.1:6380]
    #[arg(long, value_name = "ADDR,..")]
    #[serde(deserialize_with = "comma_separated")]
    pub(super) listen: Option<Given>,
    /// The Redis or Valkey behind [default: redis://127.0.0.1:6379]
    #[arg(long, value_name = "URL")]
    pub(super) upstream: Option<Given>,
    /// Metrics, status, dashboard; or off [default: 127.0.0.1:9380]
    #[arg(long, value_name = "ADDR")]
    pub(super) admin: Option<Given>,
    /// Users who may change crema as it runs [default: none]
    #[arg(long, value_name = "USER,..", help_heading = "Changes")]
    #[serde(deserialize_with = "comma_separated")]
    pub(super) admin_users: Option<Given>,
    /// What changes by the admin port must show [default: none]
    #[arg(long, value_name = "TOKEN", help_heading = "Changes")]
    pub(super) admin_token: Option<Given>,
    /// Or a file with it, read anew [default: off]
    #[arg(long, value_name = "FILE", help_heading = "Changes")]
    pub(super) admin_token_file: Option<Given>,
    /// A command that takes longer is slow, or off [default: 10ms]
    #[arg(long, value_name = "TIME", help_heading = "Changes")]
    pub(super) slowlog_slower_than: Option<Given>,
    /// Slow commands that are kept [default: 128]
    #[arg(long, value_name = "N", help_heading = "Changes")]
    pub(super) slowlog_max_len: Option<Given>,
    /// Worker threads; auto is one a core [default: auto]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<Given>,
    /// Read 1 hit in N again, 1/N, to prove memory right; or off [default: off]
    #[arg(long, value_name = "1/N")]
    pub(super) audit: Option<Given>,
    /// Show people keys, not only hashes of them [default: false]
    #[arg(long, value_name = "BOOL")]
    pub(super) show_keys: Option<Given>,
    /// Log as text or json [default: text]
    #[arg(long, value_name = "FORM")]
    pub(super) log_format: Option<Given>,
    /// Log from this level on; auto is RUST_LOG's, or info [default: auto]
    #[arg(long, value_name = "LEVEL")]
    pub(super) log_level: Option<Given>,

    /// What memory does: cache, observe, pass [default: cache]
    #[arg(long, value_name = "MODE", help_heading = "Cache")]
    pub(super) mode: Option<Given>,
    /// Copy a key into memory at 1 read in N; 0 never [default: 10]
    #[arg(long, value_name = "N", help_heading = "Cache")]
    pub(super) promote: Option<Given>,
    /// Memory for cached replies; 0 caches nothing [default: 256MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Cache")]
    pub(super) l1_size: Option<Given>,
    /// The largest reply that is cached [default: 1MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Cache")]
    pub(super) max_value: Option<Given>,
    /// How long a read may miss another's write [default: 500ms]
    #[arg(long, value_name = "TIME", help_heading = "Cache")]
    pub(super) max_staleness: Option<Given>,
    /// Coherence by auto, tracking, broadcast, channel [default: auto]
    #[arg(long, value_name = "MODE", help_heading = "Cache")]
    pub(super) coherence: Option<Given>,
    /// The longest stay in memory, a class or a time [default: auto]
    #[arg(long, value_name = "CLASS", help_heading = "Cache")]
    pub(super) class: Option<Given>,
    /// With broadcast, the prefixes of cached keys [default: all]
    #[arg(long, value_name = "P,..", help_heading = "Cache")]
    #[serde(deserialize_with = "comma_separated")]
    pub(super) broadcast_prefixes: Option<Given>,
    /// How long a hit may outlive a user's rights [default: 5s]
    #[arg(long, value_name = "TIME", help_heading = "Cache")]
    pub(super) acl_recheck: Option<Given>,

    /// Who checks passwords: upstream, own, open [default: upstream]
    #[arg(long, value_name = "WHO", help_heading = "Clients")]
    pub(super) auth: Option<Given>,
    /// Commands that no client may use, or @categories [default: none]
    #[arg(long, value_name = "CMD,..", help_heading = "Clients")]
    #[serde(deserialize_with = "comma_separated")]
    pub(super) deny: Option<Given>,
    /// Clients served at once; more are refused [default: 10000]
    #[arg(long, value_name = "N", help_heading = "Clients")]
    pub(super) max_clients: Option<Given>,
    /// Close a client after this long without a command; 0 never [default: 0]
    #[arg(long, value_name = "TIME", help_heading = "Clients")]
    pub(super) idle_timeout: Option<Given>,
    /// Close a client that leaves more than this unread [default: 64MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Clients")]
    pub(super) output_limit: Option<Given>,
    /// How long to say 503 and go on, after SIGTERM [default: 0]
    #[arg(long, value_name = "TIME", help_heading = "Clients")]
    pub(super) drain_delay: Option<Given>,
    /// How long clients may finish after that [default: 10s]
    #[arg(long, value_name = "TIME", help_heading = "Clients")]
    pub(super) drain_timeout: Option<Given>,
    /// Take over from the crema at PATH, then serve it [default: off]
    #[arg(long, value_name = "PATH", help_heading = "Clients")]
    pub(super) take_over: Option<Given>,
    /// Who keeps CLIENT SETNAME: upstream or virtual [default: virtual]
    #[arg(long, value_name = "WHO", help_heading = "Clients")]
    pub(super) client_names: Option<Given>,

    /// The certificate shown under tls://, with its chain [default: off]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    pub(super) tls_cert: Option<Given>,
    /// Its private key [default: off]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    pub(super) tls_key: Option<Given>,
    /// Who signs certificates of clients [default: off]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    pub(super) tls_client_ca: Option<Given>,
    /// Must they show it: none, optional, required [default: none]
    #[arg(long, value_name = "WHO", help_heading = "TLS")]
    pub(super) tls_client_auth: Option<Given>,
    /// Name users by certificates: cn, or off [default: off]
    #[arg(long, value_name = "FIELD", help_heading = "TLS")]
    pub(super) tls_client_user: Option<Given>,

    /// A file with its password, read anew [default: off]
    #[arg(long, value_name = "FILE", help_heading = "Upstream")]
    pub(super) upstream_password_file: Option<Given>,
    /// Or a command that prints it [default: off]
    #[arg(long, value_name = "CMD", help_heading = "Upstream")]
    #[serde(deserialize_with = "words")]
    pub(super) upstream_password_command: Option<Given>,
    /// How often the command is run [default: 5m]
    #[arg(long, value_name = "TIME", help_heading = "Upstream")]
    pub(super) upstream_password_refresh: Option<Given>,
    /// Connections to the upstream, of all kinds [default: 1000]
    #[arg(long, value_name = "N", help_heading = "Upstream")]
    pub(super) max_upstream: Option<Given>,
    /// How long connecting may take [default: 5s]
    #[arg(long, value_name = "TIME", help_heading = "Upstream")]
    pub(super) connect_timeout: Option<Given>,
    /// How long a reply may take; 0 for ever [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Upstream")]
    pub(super) response_timeout: Option<Given>,
    /// Bytes under way on one shared connection [default: 64MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Upstream")]
    pub(super) lane_window: Option<Given>,
    /// While it is away: close, loading, error [default: close]
    #[arg(long, value_name = "WHAT", help_heading = "Upstream")]
    pub(super) upstream_down: Option<Given>,
    /// Who answers reads: master, replica [default: master]
    #[arg(long, value_name = "WHO", help_heading = "Upstream")]
    pub(super) read_from: Option<Given>,

    /// Who crema is to Sentinels [default: none]
    #[arg(long, value_name = "USER", help_heading = "Sentinel")]
    pub(super) sentinel_user: Option<Given>,
    /// The password that they want [default: none]
    #[arg(long, value_name = "PASSWORD", help_heading = "Sentinel")]
    pub(super) sentinel_password: Option<Given>,
    /// Or a file with it, read anew [default: off]
    #[arg(long, value_name = "FILE", help_heading = "Sentinel")]
    pub(super) sentinel_password_file: Option<Given>,

    /// Shown as standalone or cluster [default: standalone]
    #[arg(long, value_name = "VIEW", help_heading = "Cluster")]
    pub(super) cluster_view: Option<Given>,
    /// Where cluster clients find crema [default: auto]
    #[arg(long, value_name = "ADDR", help_heading = "Cluster")]
    pub(super) cluster_announce: Option<Given>,
    /// Where nodes are that say another address [default: none]
    #[arg(long, value_name = "SAYS=IS,..", help_heading = "Cluster")]
    #[serde(deserialize_with = "comma_separated")]
    pub(super) cluster_node_map: Option<Given>,
    /// How long a slot may be without a node [default: 2s]
    #[arg(long, value_name = "TIME", help_heading = "Cluster")]
    pub(super) cluster_wait: Option<Given>,
    /// MGET, MSET over several slots: split, error [default: split]
    #[arg(long, value_name = "WHAT", help_heading = "Cluster")]
    pub(super) cross_slot: Option<Given>,

    #[command(flatten)]
    pub(super) channel: ChannelSettings,
    #[arg(skip)]
    pub(super) user: Vec<Spanned<UserSettings>>,
    #[arg(skip)]
    pub(super) rule: Vec<Spanned<RuleSettings>>,
    #[arg(skip)]
    pub(super) tier: Vec<Spanned<TierSettings>>,
    #[arg(skip)]
    pub(super) origin: Vec<Spanned<OriginSettings>>,
}

/// The table `[channel]` of the file; `--channel-...` as flags.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[command(next_help_heading = "Invalidation channel")]
#[serde(default, deny_unknown_fields, expecting = "a table, `[channel]`")]
pub(super) struct ChannelSettings {
    /// Forget the keys that it names [default: true]
    #[arg(long = "channel-enabled", value_name = "BOOL")]
    pub(super) enabled: Option<Given>,
    /// The Pub/Sub channel [default: cache:invalidate]
    #[arg(long = "channel-name", value_name = "NAME")]
    pub(super) name: Option<Given>,
    /// Tell it of writes through this proxy [default: false]
    #[arg(long = "channel-publish", value_name = "BOOL")]
    pub(super) publish: Option<Given>,
    /// Keep what is told in a stream, or off [default: off]
    #[arg(long = "channel-audit-stream", value_name = "KEY")]
    pub(super) audit_stream: Option<Given>,
    /// Keep about so many entries there, or off [default: 10000]
    #[arg(long = "channel-audit-length", value_name = "N")]
    pub(super) audit_length: Option<Given>,
    /// Forget keys that a stream names, or off [default: off]
    #[arg(long = "channel-stream", value_name = "KEY")]
    pub(super) stream: Option<Given>,
}

/// One `[[user]]` of the file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table, `[[user]]`")]
pub(super) struct UserSettings {
    pub(super) name: Option<Given>,
    pub(super) password: Option<Given>,
    pub(super) password_hash: Option<Given>,
    pub(super) password_file: Option<Given>,
    pub(super) upstream_user: Option<Given>,
    pub(super) upstream_password: Option<Given>,
    pub(super) upstream_password_file: Option<Given>,
    #[serde(deserialize_with = "words")]
    pub(super) upstream_password_command: Option<Given>,
}

/// One `[[rule]]` of the file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table, `[[rule]]`")]
pub(super) struct RuleSettings {
    #[serde(rename = "match")]
    pub(super) pattern: Option<Given>,
    pub(super) class: Option<Given>,
    pub(super) promote: Option<Given>,
    pub(super) max_value: Option<Given>,
}

/// One `[[tier]]` of the file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table, `[[tier]]`")]
pub(super) struct TierSettings {
    pub(super) name: Option<Given>,
    #[serde(rename = "match")]
    pub(super) pattern: Option<Given>,
    pub(super) url: Option<Given>,
    pub(super) ttl_scale: Option<Given>,
    pub(super) max_stay: Option<Given>,
    pub(super) max_value: Option<Given>,
    pub(super) copy_up: Option<Given>,
    pub(super) timeout: Option<Given>,
    pub(super) flush: Option<Given>,
}

/// One `[[origin]]` of the file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table, `[[origin]]`")]
pub(super) struct OriginSettings {
    #[serde(rename = "match")]
    pub(super) pattern: Option<Given>,
    pub(super) url: Option<Given>,
    pub(super) ttl: Option<Given>,
    pub(super) load_timeout: Option<Given>,
    pub(super) negative: Option<Given>,
    pub(super) stale_if_error: Option<Given>,
    pub(super) refresh_ahead: Option<Given>,
    pub(super) max_concurrent: Option<Given>,
    pub(super) max_value: Option<Given>,
    pub(super) respect: Option<Given>,
    #[serde(deserialize_with = "words")]
    pub(super) headers: Option<Given>,
    pub(super) ca: Option<Given>,
    pub(super) cert: Option<Given>,
    pub(super) key: Option<Given>,
    pub(super) sni: Option<Given>,
    pub(super) verify: Option<Given>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Flags::command().debug_assert();
    }

    #[test]
    fn the_help_tells_every_default_on_one_line() {
        let help = Flags::command().term_width(100).render_help().to_string();
        for argument in Settings::augment_args(clap::Command::new("settings")).get_arguments() {
            let flag = format!("--{} <", argument.get_long().expect("every setting has a flag"));
            let line = help.lines().find(|line| line.trim_start().starts_with(&flag)).unwrap_or_default();
            assert!(line.contains(" [default: ") && line.ends_with(']'), "{flag}: {help}");
        }
    }
}
