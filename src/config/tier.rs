//! Tiers: servers below the upstream that keep copies of values for longer than it does.
//!
//! The `[[tier]]` tables of the file, read and checked. Each tier whose pattern fits a key is asked for it, in the order of the file;
//! whoever holds the key looks for them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;

use super::error::{ConfigError, Problem};
use super::flags::TierSettings;
use super::glob::Glob;
use super::raw::{Given, Layers};
use super::units::{self, GIB, MIB};
use super::url::{Endpoint, Upstream, UpstreamKind, read_address};

/// More tiers are none, for each costs a question.
const MOST: usize = 16;
const MEMCACHED_PORT: u16 = 11_211;

/// A tier and the keys of which it keeps copies.
#[derive(Debug, Clone, PartialEq)]
pub struct TierRule {
    /// What it is called in metrics and logs: `l3`, `l4` and so on unless the file says otherwise.
    pub name: String,
    /// The keys that are meant.
    pub pattern: Glob,
    /// Where it is.
    pub server: TierServer,
    /// A copy stays for so many times what the key has left to live.
    pub ttl_scale: f64,
    /// The longest stay of a copy, and that of one whose key lives for ever.
    pub max_stay: Duration,
    /// Larger values are not copied.
    pub max_value: u64,
    /// A value found here is put back into the upstream at one read in so many; 0: never.
    pub copy_up: u32,
    /// How long it may take to answer.
    pub timeout: Duration,
    /// Whether FLUSHALL and FLUSHDB empty its database too.
    pub flush: bool,
}

/// Where a tier's copies are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TierServer {
    /// In a server that speaks Redis's protocol, or in a cluster of such.
    Redis(Box<Upstream>),
    /// In a Memcached.
    Memcached(Endpoint),
}

impl FromStr for TierServer {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        if let Some(address) = text.strip_prefix("memcached://") {
            let address = address.trim_end_matches('/');
            let has_port =
                address.rsplit_once(':').is_some_and(|(host, _)| !host.ends_with(':') && !host.contains('['))
                    || address.contains("]:");
            let full = if has_port { address.to_owned() } else { format!("{address}:{MEMCACHED_PORT}") };
            return read_address(&full).map(Self::Memcached);
        }
        let server: Upstream = text.parse()?;
        match server.kind {
            UpstreamKind::Single | UpstreamKind::Cluster => Ok(Self::Redis(Box::new(server))),
            UpstreamKind::Sentinel { .. } => Err(Problem::new(
                "a tier is not asked for at Sentinels",
                "write redis://, rediss://, redis+cluster://, rediss+cluster://, unix:// or memcached://",
            )),
        }
    }
}

impl fmt::Display for TierServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis(server) => server.fmt(f),
            Self::Memcached(endpoint) => write!(f, "memcached://{endpoint}"),
        }
    }
}

impl fmt::Display for TierRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} in {}", self.name, self.pattern, self.server)
    }
}

/// Reads all tiers. Two of one name are refused, for nobody could tell them apart.
pub(super) fn read_tiers(layers: &Layers) -> Result<Vec<TierRule>, ConfigError> {
    let mut tiers: Vec<TierRule> = Vec::new();
    for settings in layers.tiers() {
        let refuse = |problem| layers.refuse_tier(settings, None, problem);
        if tiers.len() == MOST {
            return Err(refuse(Problem::new(format!("there are more than {MOST} tiers"), "leave some out")));
        }
        match read_tier(layers, settings, tiers.len()) {
            Ok(tier) if tiers.iter().any(|earlier| earlier.name == tier.name) => {
                layers.note(refuse(Problem::new(
                    format!("an earlier tier is called `{}`", tier.name),
                    "name it otherwise",
                )));
            }
            Ok(tier) => tiers.push(tier),
            Err(error) => layers.note(error),
        }
    }
    Ok(tiers)
}

fn read_tier(layers: &Layers, settings: &Spanned<TierSettings>, nth: usize) -> Result<TierRule, ConfigError> {
    let TierSettings { name, pattern, url, ttl_scale, max_stay, max_value, copy_up, timeout, flush } =
        settings.get_ref();
    let refuse = |problem| layers.refuse_tier(settings, None, problem);
    let given =
        |given: &Option<Given>| given.as_ref().map(|given| given.text().to_owned()).filter(|text| !text.is_empty());
    let Some(text) = given(pattern) else {
        return Err(refuse(Problem::new("a tier names no keys", "write for example match = \"page:*\"")));
    };
    if url.is_none() {
        return Err(refuse(Problem::new("a tier is nowhere", "write for example url = \"redis://cold:6379\"")));
    }
    if !Glob::is_closed(&text) {
        let wrong = format!("the pattern `{text}` has a [ without its ]");
        let problem = Problem::new(wrong, "close it, or write \\\\[ for a [ itself");
        return Err(layers.refuse_tier(settings, pattern.as_ref().map(|given| ("match", given)), problem));
    }
    let (ms, s, h) = (Duration::from_millis, Duration::from_secs, |hours: u64| Duration::from_secs(hours * 3600));
    let at = |key| (layers, settings, key);
    Ok(TierRule {
        name: read(at("name"), name.as_ref(), &format!("l{}", nth + 3), label)?,
        pattern: Glob::new(&text),
        server: read(at("url"), url.as_ref(), "", TierServer::from_str)?,
        ttl_scale: read(at("ttl_scale"), ttl_scale.as_ref(), "1", scale)?,
        max_stay: read(at("max_stay"), max_stay.as_ref(), "24h", units::durations(s(1)..=h(8760)))?,
        max_value: read(at("max_value"), max_value.as_ref(), "1MiB", units::sizes(1..=(512 * MIB).min(GIB)))?,
        copy_up: read(at("copy_up"), copy_up.as_ref(), "1", units::counts(0..=u32::MAX))?,
        timeout: read(at("timeout"), timeout.as_ref(), "100ms", units::durations(ms(1)..=s(60)))?,
        flush: read(at("flush"), flush.as_ref(), "false", units::switch)?,
    })
}

fn read<T>(
    (layers, tier, key): (&Layers, &Spanned<TierSettings>, &str),
    given: Option<&Given>,
    usual: &str,
    parse: impl Fn(&str) -> Result<T, Problem>,
) -> Result<T, ConfigError> {
    let text = given.map_or(usual, |given| given.text());
    parse(text).map_err(|problem| layers.refuse_tier(tier, given.map(|given| (key, given)), problem))
}

/// Reads how much longer a copy stays.
fn scale(text: &str) -> Result<f64, Problem> {
    let scale = text.parse().ok().filter(|scale: &f64| (0.01..=1000.0).contains(scale));
    scale.ok_or_else(|| {
        Problem::new(format!("`{text}` is not a scale"), "write a number from 0.01 to 1000, such as \"2\"")
    })
}

/// Reads a name that can be a label.
fn label(text: &str) -> Result<String, Problem> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if !text.is_empty() && text.len() <= 32 && text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    Err(Problem::new(format!("`{text}` is not a name of a tier"), "write up to 32 letters, digits, `-`, `_` and `.`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_where_a_tier_is() {
        let shown = |text: &str| text.parse::<TierServer>().map(|server| server.to_string()).ok();
        assert_eq!(shown("memcached://cold").as_deref(), Some("memcached://cold:11211"));
        assert_eq!(shown("memcached://cold:7/").as_deref(), Some("memcached://cold:7"));
        assert_eq!(shown("redis://:x@cold:1/2").as_deref(), Some("redis://:***@cold:1/2"));
        assert_eq!(shown("redis+cluster://:x@a:1,b:2").as_deref(), Some("redis+cluster://:***@a:1,b:2"));
        for refused in ["http://cold", "redis+sentinel://a/m", "memcached://", "cold:1"] {
            assert_eq!(shown(refused), None, "{refused}");
        }
    }

    #[test]
    fn reads_scales_and_names() {
        assert_eq!((scale("2"), scale("0.5")), (Ok(2.0), Ok(0.5)));
        assert!(["0", "-1", "nan", "inf", "x", "1e9"].iter().all(|text| scale(text).is_err()));
        assert!(label("cold-1").is_ok() && label("a b").is_err() && label("").is_err());
    }
}
