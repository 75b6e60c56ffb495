//! Settings: from flags, `CREMA_` variables and a TOML file to one [`Config`] that cannot be wrong.
//!
//! `flags` lists every setting once, `raw` finds where each was given, and this module gives it its default, its bounds and
//! its type. After [`load`] nobody checks a setting again. Opens no socket and reads no file but the one of settings; called by
//! `main`, and by tests.

mod admin;
mod cluster;
mod compare;
mod deny;
mod error;
mod flags;
mod glob;
mod listen;
mod live;
mod log_level;
mod mode;
mod origins;
mod password;
mod raw;
mod rule;
mod sentinel;
mod summary;
mod template;
mod tier;
mod units;
mod url;
mod user;

use std::collections::BTreeMap;
use std::env;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

pub use self::admin::{AdminToken, Admins};
pub use self::cluster::{ClusterSettings, ClusterView, CrossSlot, NodeMap};
pub use self::deny::DenyLists;
pub use self::error::{ConfigError, Place, Problem};
pub use self::flags::{Flags, Settings, Task};
pub use self::glob::Glob;
pub use self::listen::Listen;
pub use self::live::{Changes, FileMark, Reading, mark_of_settings, settings_file};
pub use self::log_level::LogLevel;
pub use self::mode::L1Mode;
pub use self::origins::OriginRule;
pub use self::password::{LONGEST_PASSWORD, PasswordOrigin, UpstreamPassword, read_password_file};
pub use self::rule::{Promote, Rule, SHORT_TERM};
pub use self::sentinel::SentinelSettings;
pub use self::summary::Sources;
pub use self::template::{UnfitKey, UrlTemplate};
pub use self::tier::{TierRule, TierServer};
pub(crate) use self::units::show_size;
pub use self::url::{Endpoint, Secret, Upstream, UpstreamKind};
pub use self::user::{Password, User};
pub use crate::error::UpstreamDown;
use crate::net::tls::{AcceptorSettings, ClientCertificates, Credentials};

use self::raw::{Layers, key};
use self::units::{GIB, KIB, MIB, TIB};

/// All settings, checked one by one and against each other. `Display` gives a short summary without passwords.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where clients connect: at least one address, none twice.
    pub listen: Vec<Listen>,
    /// The Redis or Valkey behind.
    pub upstream: Upstream,
    /// Where the password of its user stands, if that changes.
    pub upstream_password: Option<PasswordOrigin>,
    /// How a cluster is dealt with, where the upstream is one.
    pub cluster: ClusterSettings,
    /// Who crema is to Sentinels.
    pub sentinel: SentinelSettings,
    /// What clients of `tls://` are shown and asked for.
    pub tls: Option<AcceptorSettings>,
    /// Which user a client is by its certificate alone; anything but `Off` goes with [`Auth::Own`] only.
    pub tls_client_user: CertificateUser,
    /// Where metrics, health, status and dashboard are served; `None` for nowhere.
    pub admin: Option<SocketAddr>,
    /// Who may change what can be changed while it runs.
    pub admins: Admins,
    /// One hit in so many is read again, to see that memory was right; `None`: no hit is.
    pub audit: Option<u32>,
    /// Whether people are shown keys, and not only their hashes.
    pub show_keys: bool,
    /// A command that takes longer is noted as slow; `None`: none is.
    pub slowlog_slower_than: Option<Duration>,
    /// So many of them are kept.
    pub slowlog_max_len: usize,
    /// Worker threads, at most 1024.
    pub threads: NonZeroUsize,
    /// What L1 does for reads.
    pub mode: L1Mode,
    /// A key is copied into L1 at one read in so many; 0 for never.
    pub promote: u32,
    /// What L1 may hold, in bytes; 0 for no L1.
    pub l1_size: u64,
    /// The largest reply kept in L1, in bytes; at most `l1_size` where there is an L1.
    pub max_value: u64,
    /// How long at most a read may miss an acknowledged write made elsewhere.
    pub max_staleness: Duration,
    /// How changes are heard of.
    pub coherence: Coherence,
    /// The longest stay in L1 after a fill, where no rule gives another; `None` for as long as the key's TTL allows.
    pub ceiling: Option<Duration>,
    /// How often a user's rights are compared, and so how long a right taken away may still be served from L1.
    pub acl_recheck: Duration,
    /// Who says whether a client may come in.
    pub auth: Auth,
    /// What no client may use, whoever it is.
    pub deny: DenyLists,
    /// Clients served at once.
    pub max_clients: usize,
    /// A client silent for so long is closed, as by Redis's `timeout`; `None` for never.
    pub idle_timeout: Option<Duration>,
    /// Bytes of replies that may wait for one client before it is closed.
    pub output_limit: u64,
    /// How long clients are taken on and served after the process is told to stop, while it says that it is not ready.
    pub drain_delay: Duration,
    /// How long sessions may finish after that; zero for not at all.
    pub drain_timeout: Duration,
    /// The Unix socket at which another process is taken over from, if any, and at which this one is.
    pub take_over: Option<PathBuf>,
    /// Upstream connections of all kinds; a lane for each thread, an ear and one to borrow at least.
    pub max_upstream: usize,
    /// How long connecting and the handshake may take.
    pub connect_timeout: Duration,
    /// A lane whose oldest request waits longer is lost; `None` for never.
    pub response_timeout: Option<Duration>,
    /// Bytes in flight on one lane; any request that may go on a lane fits.
    pub lane_window: u64,
    /// What happens to clients whose commands cannot be served.
    pub upstream_down: UpstreamDown,
    /// Who answers reads that L1 does not.
    pub read_from: ReadFrom,
    /// Who keeps the names that clients give themselves.
    pub client_names: ClientNames,
    /// Rules on key patterns, of which the first that matches decides.
    pub rules: Vec<Rule>,
    /// Servers below the upstream that keep copies of values, in the order in which they are asked.
    pub tiers: Vec<TierRule>,
    /// Where values come from that Redis does not have; the first whose pattern matches decides.
    pub origins: Vec<OriginRule>,
    /// The fleet's Pub/Sub channel of invalidations.
    pub channel: Channel,
    /// The form of the log.
    pub log_format: LogFormat,
    /// What it tells; `None`: what the variable `RUST_LOG` says.
    pub log_level: Option<LogLevel>,
}

/// How L1 hears of changes that others make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coherence {
    /// By the first of the others that the upstream allows, in the order in which they stand here.
    Auto,
    /// Redis tells of changes to the keys that were read for L1.
    Tracking,
    /// Redis tells of changes to all keys with these prefixes, none of which begins another; without any, of all changes.
    Broadcast(Vec<String>),
    /// Proxies tell of what is written through them, on the fleet's channel. Redis need not know of L1.
    Channel,
}

impl Coherence {
    /// Its name in settings and status.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tracking => "tracking",
            Self::Broadcast(_) => "broadcast",
            Self::Channel => "channel",
        }
    }
}

/// Who answers the reads on lanes that L1 does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// The master, as every other command.
    Master,
    /// A replica, while it is known to be as fresh as a hit has to be.
    Replica,
}

/// Who says whether a client may come in, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// The upstream, which is asked each time; a client that gives no password is what the upstream makes of such.
    Upstream,
    /// These users, at least one, with passwords of crema's own.
    Own(Vec<User>),
    /// Nobody: a client that gives no password acts as the user of the upstream URL.
    Open,
}

/// Whether a client's certificate stands for the password of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateUser {
    /// It does not.
    Off,
    /// Of the user whose name is the certificate's common name.
    CommonName,
}

/// Who keeps the names that clients give themselves with CLIENT SETNAME.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientNames {
    /// Redis: the first non-empty name gives a session a connection of its own, on which the name shows in CLIENT LIST.
    Upstream,
    /// The session itself: names do not show upstream, and cost no connection.
    Virtual,
}

/// The Pub/Sub channel on which keys to forget are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Its name.
    pub name: String,
    /// Whether to listen on it.
    pub enabled: bool,
    /// Whether to tell it of writes made through this proxy; never without `enabled`.
    pub publish: bool,
    /// The stream that keeps what is published, if any; never without `publish`.
    pub audit_stream: Option<String>,
    /// About so many entries are kept there; all, if none.
    pub audit_length: Option<u64>,
    /// The stream on which keys to forget are named as well, if any.
    pub stream: Option<String>,
}

/// The form of the log on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// Reads the settings of this process: `flags` win over its `CREMA_` variables, these over the file that either names.
pub fn load(flags: Flags) -> Result<(Config, Sources), ConfigError> {
    let mut variables = BTreeMap::new();
    for (name, value) in env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => _ = variables.insert(name, value),
            Err(_) if name.starts_with("CREMA_") => {
                let problem = Problem::new("the value is not UTF-8", "write it in UTF-8");
                return Err(ConfigError::Invalid { place: Place::Variable(name), problem });
            }
            Err(_) => {}
        }
    }
    load_from(flags, variables)
}

/// [`load`] with the given variables in place of those of the process.
pub fn load_with(flags: Flags, variables: BTreeMap<String, String>) -> Result<Config, ConfigError> {
    load_from(flags, variables).map(|(config, _)| config)
}

fn load_from(flags: Flags, variables: BTreeMap<String, String>) -> Result<(Config, Sources), ConfigError> {
    let layers = Layers::collect(flags, variables)?;
    let mut config = match read(&layers) {
        Ok(config) => config,
        Err(error) => {
            layers.note(error);
            return Err(layers.verdict().expect_err("one was noted"));
        }
    };
    layers.verdict()?;
    if config.coherence == Coherence::Channel {
        config.ceiling.get_or_insert(SHORT_TERM); // or what nobody tells of would never be seen
    }
    compare::note_conflicts(&config, &layers);
    layers.verdict()?;
    let rules: Vec<String> = config.rules.iter().map(Rule::to_string).collect();
    let tiers: Vec<String> = config.tiers.iter().map(TierRule::to_string).collect();
    let origins: Vec<String> = config.origins.iter().map(OriginRule::to_string).collect();
    let sources = Sources::new(layers.found(&rules, &tiers, &origins), &config);
    Ok((config, sources))
}

impl Config {
    /// The largest reply that may be kept in L1 under any rule, in bytes.
    pub fn largest_value(&self) -> u64 {
        self.rules.iter().filter_map(|rule| rule.max_value).fold(self.max_value, u64::max)
    }

    /// The fewest upstream connections that will do: one a thread, one to track keys, one to lend.
    pub fn least_upstream(&self) -> usize {
        self.threads.get() + 2
    }
}

impl Default for Config {
    /// What is in effect where nothing is set.
    fn default() -> Self {
        load_with(Flags::default(), BTreeMap::new()).expect("the defaults are within their own bounds")
    }
}

/// Gives every setting its default, bounds and type; each alone.
fn read(layers: &Layers) -> Result<Config, ConfigError> {
    use units::{counts, durations, durations_or_zero, sizes, sizes_or_zero, switch};
    let (ms, s, h) = (Duration::from_millis, Duration::from_secs, |hours: u64| Duration::from_secs(hours * 3600));

    let tls_client_user = layers.read(key!(tls_client_user), "off", |text| match text {
        "off" => Ok(CertificateUser::Off),
        "cn" | "CN" => Ok(CertificateUser::CommonName),
        _ => Err(Problem::unknown("field of certificates", text, &["off", "cn"])),
    })?;
    let (listen, denied_at) = layers.read(key!(listen), "127.0.0.1:6380", listen::addresses)?;
    let users = user::read_users(layers, tls_client_user)?;
    let prefixes = layers.read(key!(broadcast_prefixes), "all", prefixes)?;
    let l1_size = layers.read(key!(l1_size), "256MiB", sizes_or_zero(MIB..=16 * TIB))?;
    Ok(Config {
        listen,
        upstream: layers.read(key!(upstream), "redis://127.0.0.1:6379", str::parse)?,
        upstream_password: password::read_own(layers)?,
        cluster: cluster::read(layers)?,
        sentinel: sentinel::read(layers)?,
        tls: tls(layers)?,
        tls_client_user,
        admin: layers.read(key!(admin), "127.0.0.1:9380", |text| or_off(text, listen::socket))?,
        admins: admin::read(layers)?,
        audit: layers.read(key!(audit), "off", |text| or_off(text, one_in))?,
        show_keys: layers.read(key!(show_keys), "false", switch)?,
        slowlog_slower_than: layers
            .read(key!(slowlog_slower_than), "10ms", |text| or_off(text, durations(ms(1)..=h(1))))?,
        slowlog_max_len: layers.read(key!(slowlog_max_len), "128", counts(1..=10_000))?,
        threads: layers.read(key!(threads), "auto", threads)?,
        mode: layers.read(key!(mode), "cache", L1Mode::read)?,
        promote: layers.read(key!(promote), "10", |text| {
            rule::promote(text).map(|rate| if let Promote::OneIn(reads) = rate { reads } else { 0 })
        })?,
        l1_size,
        max_value: layers.read(key!(max_value), "1MiB", sizes(1..=512 * MIB))?,
        max_staleness: layers.read(key!(max_staleness), "500ms", durations(ms(20)..=s(60)))?,
        coherence: layers.read(key!(coherence), "auto", |text| match text {
            "auto" => Ok(Coherence::Auto),
            "tracking" => Ok(Coherence::Tracking),
            "broadcast" => Ok(Coherence::Broadcast(prefixes.clone())),
            "channel" => Ok(Coherence::Channel),
            _ => Err(Problem::unknown("way to hear of changes", text, &["auto", "tracking", "broadcast", "channel"])),
        })?,
        ceiling: layers.read(key!(class), "auto", |text| match text {
            "auto" => Ok(None),
            class => rule::ceiling(class).map(Some),
        })?,
        acl_recheck: layers.read(key!(acl_recheck), "5s", durations(ms(100)..=h(1)))?,
        auth: layers.read(key!(auth), "upstream", |text| match text {
            "upstream" => Ok(Auth::Upstream),
            "own" => Ok(Auth::Own(users.clone())),
            "open" => Ok(Auth::Open),
            _ => Err(Problem::unknown("way to let clients in", text, &["upstream", "own", "open"])),
        })?,
        deny: DenyLists { everywhere: layers.read(key!(deny), "none", deny::denied)?, at: denied_at },
        max_clients: layers.read(key!(max_clients), "10000", counts(1..=1_000_000))?,
        idle_timeout: layers.read(key!(idle_timeout), "0", durations_or_zero(s(1)..=h(8760)))?,
        output_limit: layers.read(key!(output_limit), "64MiB", sizes(64 * KIB..=TIB))?,
        drain_delay: layers.read(key!(drain_delay), "0", durations(s(0)..=h(24)))?,
        drain_timeout: layers.read(key!(drain_timeout), "10s", durations(s(0)..=h(24)))?,
        take_over: layers.read(key!(take_over), "off", |text| or_off(text, listen::path))?,
        max_upstream: layers.read(key!(max_upstream), "1000", counts(3..=1_000_000))?,
        connect_timeout: layers.read(key!(connect_timeout), "5s", durations(ms(10)..=h(1)))?,
        response_timeout: layers.read(key!(response_timeout), "30s", durations_or_zero(ms(100)..=h(24)))?,
        lane_window: layers.read(key!(lane_window), "64MiB", sizes(2 * MIB..=64 * GIB))?,
        upstream_down: layers.read(key!(upstream_down), "close", |text| match text {
            "close" => Ok(UpstreamDown::Close),
            "loading" => Ok(UpstreamDown::Loading),
            "error" => Ok(UpstreamDown::Error),
            _ => Err(Problem::unknown("way to say that the upstream is down", text, &["close", "loading", "error"])),
        })?,
        read_from: layers.read(key!(read_from), "master", |text| match text {
            "master" => Ok(ReadFrom::Master),
            "replica" => Ok(ReadFrom::Replica),
            _ => Err(Problem::unknown("one to read from", text, &["master", "replica"])),
        })?,
        client_names: layers.read(key!(client_names), "virtual", |text| match text {
            "upstream" => Ok(ClientNames::Upstream),
            "virtual" => Ok(ClientNames::Virtual),
            _ => Err(Problem::unknown("keeper of client names", text, &["upstream", "virtual"])),
        })?,
        rules: rule::read_rules(layers, l1_size)?,
        tiers: tier::read_tiers(layers)?,
        origins: origins::read_origins(layers)?,
        channel: Channel {
            name: layers.read(key!(channel.name), "cache:invalidate", not_empty)?,
            enabled: layers.read(key!(channel.enabled), "true", switch)?,
            publish: layers.read(key!(channel.publish), "false", switch)?,
            audit_stream: layers.read(key!(channel.audit_stream), "off", |text| or_off(text, not_empty))?,
            audit_length: layers
                .read(key!(channel.audit_length), "10000", |text| or_off(text, counts(1..=1_000_000_000)))?,
            stream: layers.read(key!(channel.stream), "off", |text| or_off(text, not_empty))?,
        },
        log_format: layers.read(key!(log_format), "text", |text| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(Problem::unknown("log format", text, &["text", "json"])),
        })?,
        log_level: layers.read(key!(log_level), "auto", |text| match text {
            "auto" => Ok(None),
            _ => text.parse().map(Some),
        })?,
    })
}

/// The files of `tls://` listeners, where a certificate and its key are given.
fn tls(layers: &Layers) -> Result<Option<AcceptorSettings>, ConfigError> {
    let file = |text: &str| or_off(text, |text| not_empty(text).map(PathBuf::from));
    let cert = layers.read(key!(tls_cert), "off", file)?;
    let key = layers.read(key!(tls_key), "off", file)?;
    let client_ca = layers.read(key!(tls_client_ca), "off", file)?;
    let clients = layers.read(key!(tls_client_auth), "none", |text| match text {
        "none" => Ok(ClientCertificates::None),
        "optional" => Ok(ClientCertificates::Optional),
        "required" => Ok(ClientCertificates::Required),
        _ => Err(Problem::unknown("demand for certificates", text, &["none", "optional", "required"])),
    })?;
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(AcceptorSettings { own: Credentials { cert, key }, client_ca, clients })),
        (None, None) if client_ca.is_none() && clients == ClientCertificates::None => Ok(None),
        (None, None) => {
            let problem = Problem::new("certificates are asked for under TLS alone", "give tls_cert and tls_key too");
            Err(layers.refuse(&[key!(tls_client_ca), key!(tls_client_auth)], problem))
        }
        _ => {
            let problem = Problem::new("a certificate is of no use without its key", "give both tls_cert and tls_key");
            Err(layers.refuse(&[key!(tls_cert), key!(tls_key)], problem))
        }
    }
}

/// `1/1000` is one in a thousand.
fn one_in(text: &str) -> Result<u32, Problem> {
    let count =
        text.strip_prefix("1/").and_then(|count| count.parse().ok()).filter(|count| (1..=1 << 30).contains(count));
    count.ok_or_else(|| Problem::new(format!("`{text}` is no part of the hits"), "write for example 1/1000, or off"))
}

/// `auto` is a thread a core, up to 256: beyond that, one should say so.
fn threads(text: &str) -> Result<NonZeroUsize, Problem> {
    let count = match text {
        "auto" => thread::available_parallelism().map_or(1, NonZeroUsize::get).min(256),
        number => units::counts(1..=1024)(number).map_err(|_| {
            Problem::new(
                format!("`{text}` is not a possible number of threads"),
                "write 1 to 1024, or auto for one a core",
            )
        })?,
    };
    Ok(NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN))
}

/// Texts separated by commas, of which Redis takes none that begins with another; or `all`, which are none.
fn prefixes(text: &str) -> Result<Vec<String>, Problem> {
    if text == "all" {
        return Ok(Vec::new());
    }
    let prefixes: Vec<String> = text.split(',').map(str::trim).filter(|p| !p.is_empty()).map(str::to_owned).collect();
    for (at, one) in prefixes.iter().enumerate() {
        if let Some((_, other)) =
            prefixes.iter().enumerate().find(|(of, other)| *of != at && other.starts_with(one.as_str()))
        {
            return Err(Problem::new(format!("the prefix `{other}` begins with `{one}`"), "leave out the longer one"));
        }
    }
    Ok(prefixes)
}

fn or_off<T>(text: &str, parse: impl Fn(&str) -> Result<T, Problem>) -> Result<Option<T>, Problem> {
    if text == "off" { Ok(None) } else { parse(text).map(Some) }
}

fn not_empty(text: &str) -> Result<String, Problem> {
    if text.is_empty() { Err(Problem::new("the name is empty", "write a name")) } else { Ok(text.to_owned()) }
}
