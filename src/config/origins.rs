//! Where values come from that Redis does not have: the `[[origin]]` tables of the file, read and checked.
//!
//! The first whose pattern fits a key decides; whoever holds the key looks for it. Header values may be secrets, and are never shown.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use toml::Spanned;

use super::error::{ConfigError, Problem};
use super::flags::OriginSettings;
use super::glob::Glob;
use super::raw::{Given, Layers};
use super::template::UrlTemplate;
use super::units::{self, MIB, WORD_END, counts, durations, durations_or_zero, sizes, switch};
use crate::net::tls::{Credentials, Dialer, DialerSettings, Verify};

/// Values of the keys that fit a pattern, and how they are loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginRule {
    /// The keys that are meant.
    pub pattern: Glob,
    /// Where their values are.
    pub url: UrlTemplate,
    /// How long a value stays in Redis.
    pub ttl: Duration,
    /// How long a load may take.
    pub load_timeout: Duration,
    /// For how long the fleet remembers that the origin has no value; `None`: not at all.
    pub negative: Option<Duration>,
    /// For how long after its end a value may stand in where a load fails; `None`: never.
    pub stale_if_error: Option<Duration>,
    /// Whether values that are read much are loaded anew before they end.
    pub refresh_ahead: bool,
    /// Loads of this process under way at once.
    pub max_concurrent: usize,
    /// The largest value, in bytes.
    pub max_value: u64,
    /// Whether `Cache-Control` of a response wins over `ttl`.
    pub respect: bool,
    /// Sent with each request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How connections use TLS, where they do.
    pub tls: Option<DialerSettings>,
}

impl fmt::Display for OriginRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pattern, url, max_concurrent, .. } = self;
        let (ttl, timeout) = (units::show_duration(self.ttl), units::show_duration(self.load_timeout));
        write!(f, "{pattern} from {url}, ttl {ttl}, loaded in {timeout}, {max_concurrent} at once")?;
        if let Some(negative) = self.negative {
            write!(f, ", negative {}", units::show_duration(negative))?;
        }
        if let Some(stale) = self.stale_if_error {
            write!(f, ", stale_if_error {}", units::show_duration(stale))?;
        }
        f.write_str(if self.refresh_ahead { ", refresh_ahead" } else { "" })?;
        f.write_str(if self.respect { ", respect" } else { "" })
    }
}

/// Reads all origins. A pattern that an earlier one already has is refused, for it would never decide.
pub(super) fn read_origins(layers: &Layers) -> Result<Vec<OriginRule>, ConfigError> {
    let mut origins: Vec<OriginRule> = Vec::new();
    for settings in layers.origins() {
        let origin = match (OriginReader { layers, settings }).read() {
            Ok(origin) => origin,
            Err(error) => {
                layers.note(error);
                continue;
            }
        };
        if origins.iter().any(|earlier| earlier.pattern == origin.pattern) {
            let wrong = format!("an earlier origin matches `{}` already", origin.pattern);
            return Err(layers.refuse_origin(settings, None, Problem::new(wrong, "make one origin of the two")));
        }
        origins.push(origin);
    }
    Ok(origins)
}

/// One table as it is read.
#[derive(Clone, Copy)]
struct OriginReader<'a> {
    layers: &'a Layers,
    settings: &'a Spanned<OriginSettings>,
}

impl OriginReader<'_> {
    fn read(self) -> Result<OriginRule, ConfigError> {
        let (ms, s, h) = (Duration::from_millis, Duration::from_secs, |hours: u64| Duration::from_secs(hours * 3600));
        let OriginSettings { ttl, load_timeout, negative, stale_if_error, refresh_ahead, .. } = self.settings.get_ref();
        let OriginSettings { max_concurrent, max_value, respect, headers: lines, .. } = self.settings.get_ref();
        let pattern = self.pattern()?;
        let url = self.url(&pattern)?;
        let tls = self.tls(&url)?;
        Ok(OriginRule {
            pattern,
            url,
            ttl: self.value(("ttl", ttl), "1m", durations(ms(10)..=h(8760)))?,
            load_timeout: self.value(("load_timeout", load_timeout), "5s", durations(ms(10)..=s(300)))?,
            negative: self.value(("negative", negative), "0", durations_or_zero(ms(10)..=h(8760)))?,
            stale_if_error: self.value(("stale_if_error", stale_if_error), "0", durations_or_zero(ms(10)..=h(8760)))?,
            refresh_ahead: self.value(("refresh_ahead", refresh_ahead), "false", switch)?,
            max_concurrent: self.value(("max_concurrent", max_concurrent), "64", counts(1..=10_000))?,
            max_value: self.value(("max_value", max_value), "8MiB", sizes(1..=512 * MIB))?,
            respect: self.value(("respect", respect), "false", switch)?,
            headers: self.value(("headers", lines), "", headers)?,
            tls,
        })
    }

    fn pattern(self) -> Result<Glob, ConfigError> {
        let Some(given) = self.settings.get_ref().pattern.as_ref().filter(|given| !given.text().is_empty()) else {
            return Err(
                self.refuse(None, Problem::new("an origin names no keys", "write for example match = \"page:*\""))
            );
        };
        if !Glob::is_closed(given.text()) {
            let wrong = format!("the pattern `{}` has a [ without its ]", given.text());
            let problem = Problem::new(wrong, "close it, or write \\\\[ for a [ itself");
            return Err(self.refuse(Some(("match", given)), problem));
        }
        Ok(Glob::new(given.text()))
    }

    fn url(self, pattern: &Glob) -> Result<UrlTemplate, ConfigError> {
        let Some(given) = self.settings.get_ref().url.as_ref() else {
            let right = "write for example url = \"http://127.0.0.1:8080/render/{1}\"";
            return Err(self.refuse(None, Problem::new("an origin has no url", right)));
        };
        UrlTemplate::read(given.text(), pattern).map_err(|problem| self.refuse(Some(("url", given)), problem))
    }

    fn tls(self, url: &UrlTemplate) -> Result<Option<DialerSettings>, ConfigError> {
        let OriginSettings { ca, cert, key, sni, verify, .. } = self.settings.get_ref();
        let all = [("ca", ca), ("cert", cert), ("key", key), ("sni", sni), ("verify", verify)];
        if !url.is_tls() {
            let given = all.into_iter().find_map(|(name, given)| Some((name, given.as_ref()?)));
            let problem = || Problem::new("it is of use under https:// alone", "leave it out, or write https://");
            return given.map_or(Ok(None), |given| Err(self.refuse(Some(given), problem())));
        }
        let path = |given: &Option<Given>| given.as_ref().map(|given| PathBuf::from(given.text()));
        let own = match (path(cert), path(key)) {
            (Some(cert), Some(key)) => Some(Credentials { cert, key }),
            (None, None) => None,
            _ => {
                let problem = Problem::new("a certificate is of no use without its key", "give both cert and key");
                return Err(self.refuse(None, problem));
            }
        };
        let verify = self.value(("verify", verify), "full", |text| match text {
            "full" => Ok(Verify::Full),
            "chain" => Ok(Verify::Chain),
            "no" => Ok(Verify::No),
            _ => Err(Problem::unknown("way to look at certificates", text, &["full", "chain", "no"])),
        })?;
        let sni = sni.as_ref().map(|given| given.text().to_owned());
        let settings = DialerSettings { ca: path(ca), own, sni, verify, http: true };
        // Files are read here, so that a wrong one is told before anything is started.
        Dialer::new(&settings).map_err(|error| {
            self.refuse(None, Problem::new(error.to_string(), "give PEM files that crema can read, and a name"))
        })?;
        Ok(Some(settings))
    }

    fn value<T>(
        self,
        (key, given): (&str, &Option<Given>),
        default: &str,
        parse: impl Fn(&str) -> Result<T, Problem>,
    ) -> Result<T, ConfigError> {
        match given {
            None => Ok(parse(default).expect("a default is within its own bounds")),
            Some(given) => parse(given.text()).map_err(|problem| self.refuse(Some((key, given)), problem)),
        }
    }

    fn refuse(self, at: Option<(&str, &Given)>, problem: Problem) -> ConfigError {
        self.layers.refuse_origin(self.settings, at, problem)
    }
}

/// Headers that say how a message is framed, or whose: those are hyper's.
const FRAMING: [&str; 6] = ["connection", "content-length", "transfer-encoding", "upgrade", "te", "keep-alive"];

/// Lines such as `Authorization: Bearer x`. What is wrong with one is told without its value.
fn headers(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, Problem> {
    let lines = text.split(WORD_END).map(str::trim).filter(|line| !line.is_empty());
    lines.map(header).collect()
}

fn header(line: &str) -> Result<(HeaderName, HeaderValue), Problem> {
    let wrong = |wrong: &str| Problem::new(wrong, "write headers = [\"Name: value\", ..]");
    let (name, value) = line.split_once(':').ok_or_else(|| wrong("a header has no : behind its name"))?;
    let name: HeaderName = name.trim().parse().map_err(|_| wrong("a header has no possible name"))?;
    if FRAMING.contains(&name.as_str()) {
        return Err(Problem::new(format!("the header {name} is not for settings"), "leave it out"));
    }
    let mut value: HeaderValue = value.trim().parse().map_err(|_| wrong("a header has no possible value"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_headers() {
        let read = headers("Authorization: Bearer x\0X-A:1\0").expect("good");
        let names: Vec<&str> = read.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["authorization", "x-a"]);
        assert!(!format!("{read:?}").contains("Bearer"), "a value may be a secret");
        for text in ["hunter2", "a b: hunter2", "x: hunter2\r\ny", "Connection: close", "content-length: 1"] {
            let problem = headers(text).expect_err(text).to_string();
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }
}
