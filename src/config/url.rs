//! Upstream URLs: `redis://[user:password@]host[:port][/db]`, `rediss://` the same under TLS, with `?ca=&cert=&key=&sni=&verify=`,
//! `redis+cluster://` and `rediss+cluster://` with one host or several, `redis+sentinel://host,host/name[/db]` and
//! `rediss+sentinel://` likewise, and `unix:///path[?db=N]`.
//!
//! Owns the password until a handshake asks for it: nothing here prints it, and no error quotes any part of a URL, because a
//! mistyped one can have its password anywhere.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use super::error::Problem;
use crate::net::tls::{Credentials, DialerSettings, Verify};

const DEFAULT_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;
/// The longest path that fits `sockaddr_un` on Linux, its final NUL left off.
pub(super) const SOCKET_PATH_BYTES: usize = 107;

/// The Redis or Valkey that crema stands in front of. `Display` gives its URL with the password as `***`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// What stands there.
    pub kind: UpstreamKind,
    /// The server to connect to; of several the first.
    pub node: Endpoint,
    /// The others, any of which knows the rest.
    pub seeds: Vec<Endpoint>,
    /// The ACL user of crema's own connections; `None` is the user `default`.
    pub user: Option<String>,
    /// Its password; empty for a user declared `nopass`. Always there when `user` is.
    pub password: Option<Secret>,
    /// The database that sessions begin in.
    pub db: u32,
    /// How connections use TLS, where they do.
    pub tls: Option<DialerSettings>,
}

/// What stands behind an upstream URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamKind {
    /// One server, or an address that leads to one.
    Single,
    /// A cluster, of which some nodes are named.
    Cluster,
    /// A master and its replicas, of which Sentinels know: those are named, and the user is the servers'.
    Sentinel {
        /// By which they know it.
        name: String,
    },
}

/// What a URL of Sentinels is before its name is read.
const SENTINEL: UpstreamKind = UpstreamKind::Sentinel { name: String::new() };

/// Where a server listens. `Display` is `host:port` (IPv6 in brackets) or the path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// A host name or address without brackets, and a port.
    Tcp {
        /// Resolved anew at each connection attempt.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
}

/// A password. `Debug` and `Display` give `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `password` out of everything that is printed.
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    /// The password itself, for the handshake alone.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl FromStr for Upstream {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Problem::new("not an upstream URL", "write redis://host:6379 or unix:///path/to/redis.sock"));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "redis" | "valkey" => tcp(rest, UpstreamKind::Single),
            "unix" | "redis+unix" | "valkey+unix" => unix(rest),
            "rediss" | "valkeys" => tls(rest, UpstreamKind::Single),
            "redis+cluster" | "redis-cluster" | "valkey+cluster" | "valkey-cluster" => tcp(rest, UpstreamKind::Cluster),
            "rediss+cluster" | "rediss-cluster" | "valkeys+cluster" | "valkeys-cluster" => {
                tls(rest, UpstreamKind::Cluster)
            }
            "redis+sentinel" | "redis-sentinel" | "valkey+sentinel" | "valkey-sentinel" => tcp(rest, SENTINEL),
            "rediss+sentinel" | "rediss-sentinel" | "valkeys+sentinel" | "valkeys-sentinel" => tls(rest, SENTINEL),
            _ => Err(Problem::new("unknown scheme of an upstream URL", "write redis:// or unix://")),
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (&self.node, &self.tls) {
            (Endpoint::Unix(_), _) => "unix",
            (Endpoint::Tcp { .. }, None) => "redis",
            (Endpoint::Tcp { .. }, Some(_)) => "rediss",
        })?;
        f.write_str(match self.kind {
            UpstreamKind::Single => "://",
            UpstreamKind::Cluster => "+cluster://",
            UpstreamKind::Sentinel { .. } => "+sentinel://",
        })?;
        let user = percent_encode(self.user.as_deref().unwrap_or_default());
        match &self.password {
            Some(password) => write!(f, "{user}:{password}@")?,
            None if user.is_empty() => {}
            None => write!(f, "{user}@")?,
        }
        write!(f, "{}", self.node)?;
        self.seeds.iter().try_for_each(|seed| write!(f, ",{seed}"))?;
        if let UpstreamKind::Sentinel { name } = &self.kind {
            write!(f, "/{}", percent_encode(name))?;
        }
        match (&self.node, self.db) {
            (_, 0) => Ok(()),
            (Endpoint::Tcp { .. }, db) => write!(f, "/{db}"),
            (Endpoint::Unix(_), db) => write!(f, "?db={db}"),
        }?;
        self.tls.as_ref().map_or(Ok(()), |tls| show_options(tls, f))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// [`tcp`] with the options of TLS behind it.
fn tls(rest: &str, kind: UpstreamKind) -> Result<Upstream, Problem> {
    let (location, query) = split_before(rest, &['?']);
    if query.contains('@') {
        return Err(unescaped());
    }
    let unknown = || {
        let right = "write ?ca=FILE, cert=FILE and key=FILE, sni=NAME, verify=full, chain or no, joined by &";
        Problem::new("an option of the upstream URL is unknown, or has no such value", right)
    };
    let mut settings = DialerSettings::default();
    let (mut cert, mut key) = (None, None);
    for option in query.trim_start_matches('?').split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let value = percent_decode(value)?;
        if value.is_empty() {
            return Err(unknown());
        }
        match name {
            "ca" => settings.ca = Some(value.into()),
            "cert" => cert = Some(value.into()),
            "key" => key = Some(value.into()),
            "sni" => settings.sni = Some(value),
            "verify" => {
                settings.verify = match value.as_str() {
                    "full" => Verify::Full,
                    "chain" => Verify::Chain,
                    "no" => Verify::No,
                    _ => return Err(unknown()),
                }
            }
            _ => return Err(unknown()),
        }
    }
    settings.own = match (cert, key) {
        (Some(cert), Some(key)) => Some(Credentials { cert, key }),
        (None, None) => None,
        _ => return Err(Problem::new("cert and key of the upstream URL go together", "give both files, or neither")),
    };
    Ok(Upstream { tls: Some(settings), ..tcp(location, kind)? })
}

/// The options of TLS that are not at their defaults, as [`tls`] reads them.
fn show_options(tls: &DialerSettings, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let path = |path: &PathBuf| percent_encode_path(&path.to_string_lossy());
    let verify = match tls.verify {
        Verify::Full => None,
        Verify::Chain => Some("chain".to_owned()),
        Verify::No => Some("no".to_owned()),
    };
    let own = tls.own.as_ref();
    let options = [
        ("ca", tls.ca.as_ref().map(path)),
        ("cert", own.map(|own| path(&own.cert))),
        ("key", own.map(|own| path(&own.key))),
        ("sni", tls.sni.as_deref().map(percent_encode)),
        ("verify", verify),
    ];
    let given = options.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    let given = given.collect::<Vec<_>>().join("&");
    if given.is_empty() { Ok(()) } else { write!(f, "?{given}") }
}

fn tcp(rest: &str, kind: UpstreamKind) -> Result<Upstream, Problem> {
    let (authority, tail) = split_before(rest, &['/', '?', '#']);
    if tail.contains('@') {
        return Err(unescaped());
    }
    let (credentials, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = read_credentials(credentials)?;
    let several = kind != UpstreamKind::Single;
    let port = if kind == SENTINEL { SENTINEL_PORT } else { DEFAULT_PORT };
    let (first, others) = if several { address.split_once(',').unwrap_or((address, "")) } else { (address, "") };
    let node = read_address_or(first, port)?;
    let others = others.split(',').filter(|seed| !seed.is_empty());
    let seeds = others.map(|seed| read_address_or(seed, port)).collect::<Result<_, _>>()?;
    let (kind, tail) = if kind == SENTINEL { read_name(tail)? } else { (kind, tail) };
    let db = match tail.strip_prefix('/').unwrap_or(tail) {
        "" => 0,
        path if path.contains(['?', '#']) => {
            return Err(Problem::new(
                "options in the upstream URL are not understood",
                "write the database alone: redis://host:6379/3",
            ));
        }
        path => read_database(path)?,
    };
    Ok(Upstream { kind, node, seeds, user, password, db, tls: None })
}

fn unix(rest: &str) -> Result<Upstream, Problem> {
    let (location, query) = split_before(rest, &['?']);
    let (authority, path) = split_before(location, &['/']);
    let Some(credentials) = (if authority.is_empty() { Some("") } else { authority.strip_suffix('@') }) else {
        return Err(Problem::new(
            "the path of the upstream's socket is not absolute",
            "write unix:///path/to/redis.sock",
        ));
    };
    let (user, password) = read_credentials(credentials)?;
    let path = percent_decode(path)?;
    if path.len() < 2 || path.len() > SOCKET_PATH_BYTES || path.contains('\0') {
        return Err(Problem::new(
            "the upstream URL names no possible socket",
            format!("write an absolute path of at most {SOCKET_PATH_BYTES} bytes: unix:///path/to/redis.sock"),
        ));
    }
    let db = match query {
        "" | "?" => 0,
        options => match options.strip_prefix("?db=") {
            Some(db) => read_database(db)?,
            None => {
                return Err(Problem::new(
                    "only the option db is understood here",
                    "write unix:///path/to/redis.sock?db=3",
                ));
            }
        },
    };
    let node = Endpoint::Unix(PathBuf::from(path));
    Ok(Upstream { kind: UpstreamKind::Single, node, seeds: Vec::new(), user, password, db, tls: None })
}

/// `user:password`, `:password` or nothing. A lone word is refused: redis-cli takes it for a password, most libraries for a user.
fn read_credentials(text: &str) -> Result<(Option<String>, Option<Secret>), Problem> {
    if text.is_empty() || text == ":" {
        return Ok((None, None));
    }
    let Some((user, password)) = text.split_once(':') else {
        return Err(Problem::new(
            "a single word before the @ of the upstream URL could be a user or a password",
            "write user:password@, :password@, or user:@ for a user without a password",
        ));
    };
    let user = percent_decode(user)?;
    let password = Secret(percent_decode(password)?);
    Ok(((!user.is_empty()).then_some(user), Some(password)))
}

/// The name of a Sentinel's group, and what stands behind it.
fn read_name(tail: &str) -> Result<(UpstreamKind, &str), Problem> {
    let path = tail.strip_prefix('/').unwrap_or_default();
    let (name, tail) = split_before(path, &['/', '?', '#']);
    let name = percent_decode(name)?;
    if name.is_empty() || name.contains(char::is_control) {
        return Err(Problem::new(
            "the upstream URL does not say by what name the Sentinels know the master",
            "write redis+sentinel://host:26379,host:26379/NAME",
        ));
    }
    Ok((UpstreamKind::Sentinel { name }, tail))
}

pub(super) fn read_address(text: &str) -> Result<Endpoint, Problem> {
    read_address_or(text, DEFAULT_PORT)
}

pub(super) fn read_address_or(text: &str, default: u16) -> Result<Endpoint, Problem> {
    let no_ipv6 =
        || Problem::new("the upstream URL has a malformed IPv6 address", "write it in brackets: redis://[::1]:6379");
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']').ok_or_else(no_ipv6)?;
        let address = percent_decode(address)?;
        let (plain, _zone) = address.split_once('%').unwrap_or((&address, ""));
        plain.parse::<Ipv6Addr>().map_err(|_| no_ipv6())?;
        (address, port)
    } else {
        let (host, port) = split_before(text, &[':']);
        if port.matches(':').count() > 1 {
            return Err(no_ipv6());
        }
        (percent_decode(host)?, port)
    };
    if host.is_empty()
        || host.contains(|letter: char| letter.is_whitespace() || letter.is_control() || "/,".contains(letter))
    {
        return Err(Problem::new("the upstream URL has no usable host", "write redis://host:6379"));
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => default,
        Some("") => default,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().unwrap_or(0),
        _ => 0,
    };
    if port == 0 {
        return Err(Problem::new(
            "the upstream URL has no usable port",
            "write 1 to 65535 after the host: redis://host:6379",
        ));
    }
    Ok(Endpoint::Tcp { host, port })
}

/// Redis reads the index of a database as a C `int`.
fn read_database(text: &str) -> Result<u32, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|db| digits && *db <= i32::MAX.unsigned_abs()).ok_or_else(|| {
        Problem::new(
            "the upstream URL has no usable database",
            "write its number: redis://host:6379/3 or unix:///path?db=3",
        )
    })
}

fn percent_decode(text: &str) -> Result<String, Problem> {
    let wrong = |wrong| Problem::new(wrong, "write %40 for @, %3A for :, %2F for /, %25 for %");
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (code, after) = after.split_at_checked(2).unwrap_or_default();
        let digits = code.iter().try_fold(0, |sum, digit| Some(sum * 16 + char::from(*digit).to_digit(16)?));
        match digits.and_then(|value| u8::try_from(value).ok()) {
            Some(value) if !code.is_empty() => decoded.push(value),
            _ => return Err(wrong("a % in the upstream URL is not followed by two hexadecimal digits")),
        }
        rest = after;
    }
    String::from_utf8(decoded).map_err(|_| wrong("the upstream URL does not decode to UTF-8"))
}

fn percent_encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}

/// The same, with slashes as they are.
fn percent_encode_path(text: &str) -> String {
    text.split('/').map(percent_encode).collect::<Vec<_>>().join("/")
}

/// Splits before the first of `ends`, which stays with the second part.
fn split_before<'a>(text: &'a str, ends: &[char]) -> (&'a str, &'a str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

fn unescaped() -> Problem {
    Problem::new(
        "an @ stands after the host of the upstream URL",
        "within a user or a password write %2F for /, %3F for ?, %23 for #",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Upstream {
        text.parse().unwrap_or_else(|problem| panic!("{text}: {problem}"))
    }

    fn host(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn reads_hosts_ports_and_databases() {
        let good = [
            ("redis://localhost", host("localhost", 6379), 0),
            ("redis://localhost/", host("localhost", 6379), 0),
            ("redis://localhost:/", host("localhost", 6379), 0),
            ("redis://10.0.0.1:7000/15", host("10.0.0.1", 7000), 15),
            ("REDIS://cache.example.org:6380", host("cache.example.org", 6380), 0),
            ("valkey://cache/2147483647", host("cache", 6379), 2_147_483_647),
            ("redis://[::1]", host("::1", 6379), 0),
            ("redis://[fe80::1%25eth0]:7000/1", host("fe80::1%eth0", 7000), 1),
            ("unix:///run/redis.sock", Endpoint::Unix("/run/redis.sock".into()), 0),
            ("unix:///run/my%20redis.sock?db=4", Endpoint::Unix("/run/my redis.sock".into()), 4),
        ];
        for (text, node, db) in good {
            let upstream = parse(text);
            assert_eq!((upstream.node, upstream.db), (node, db), "{text}");
            assert_eq!((upstream.user, upstream.password, upstream.tls), (None, None, None), "{text}");
        }
    }

    #[test]
    fn reads_the_options_of_tls_and_shows_them_again() {
        let text = "rediss://:pw@cache:6380/2?ca=/etc/my%20ca.pem&cert=c.pem&key=k.pem&sni=other.example&verify=chain";
        let upstream = parse(text);
        let tls = upstream.tls.clone().expect("options of TLS");
        assert_eq!((upstream.node.clone(), upstream.db), (host("cache", 6380), 2));
        assert_eq!(tls.ca, Some("/etc/my ca.pem".into()));
        assert_eq!(tls.own, Some(Credentials { cert: "c.pem".into(), key: "k.pem".into() }));
        assert_eq!((tls.sni.as_deref(), tls.verify), (Some("other.example"), Verify::Chain));
        assert_eq!(upstream.to_string(), text.replace(":pw@", ":***@"));
        assert_eq!(parse("valkeys://cache").tls, Some(DialerSettings::default()));
        assert_eq!(parse("rediss://cache/1").to_string(), "rediss://cache:6379/1");
        for bad in ["?ca=", "?verify=maybe", "?cert=c.pem", "?tls=on", "?ca"] {
            assert!(format!("rediss://cache{bad}").parse::<Upstream>().is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_the_nodes_of_a_cluster() {
        let text = "redis+cluster://app:pw@a:7000,[::1]:7001,c/2";
        let upstream = parse(text);
        assert_eq!((&upstream.kind, &upstream.node, upstream.db), (&UpstreamKind::Cluster, &host("a", 7000), 2));
        assert_eq!(upstream.seeds, [host("::1", 7001), host("c", 6379)]);
        assert_eq!(upstream.to_string(), "redis+cluster://app:***@a:7000,[::1]:7001,c:6379/2");
        let secure = parse("rediss+cluster://a,b?verify=chain");
        assert_eq!((&secure.kind, secure.seeds.len()), (&UpstreamKind::Cluster, 1));
        assert_eq!(secure.to_string(), "rediss+cluster://a:6379,b:6379?verify=chain");
        assert_eq!(parse("valkey+cluster://a").seeds, []);
    }

    #[test]
    fn reads_a_group_that_sentinels_watch() {
        let upstream = parse("redis+sentinel://app:pw@a,[::1]:7001,c/my%20main/2");
        assert_eq!(upstream.kind, UpstreamKind::Sentinel { name: "my main".into() });
        assert_eq!((upstream.node.clone(), upstream.db), (host("a", 26_379), 2));
        assert_eq!(upstream.seeds, [host("::1", 7001), host("c", 26_379)]);
        assert_eq!(upstream.to_string(), "redis+sentinel://app:***@a:26379,[::1]:7001,c:26379/my%20main/2");
        let secure = parse("rediss+sentinel://a/m?verify=chain");
        assert!(secure.tls.is_some() && secure.kind == UpstreamKind::Sentinel { name: "m".into() });
        assert_eq!(secure.to_string(), "rediss+sentinel://a:26379/m?verify=chain");
        assert_eq!(parse("redis-sentinel://a/m"), parse("valkey+sentinel://a:26379/m/0"));
    }

    #[test]
    fn reads_credentials() {
        let good = [
            ("redis://app:pw@h", Some("app"), Some("pw")),
            ("redis://:pw@h", None, Some("pw")),
            ("redis://app:@h", Some("app"), Some("")),
            ("redis://@h", None, None),
            ("redis://:@h", None, None),
            ("redis://a%40b:p%3A%2f%25@h", Some("a@b"), Some("p:/%")),
            ("redis://:a:b@c@h", None, Some("a:b@c")),
            ("unix://app:pw@/run/redis.sock?db=1", Some("app"), Some("pw")),
        ];
        for (text, user, password) in good {
            let upstream = parse(text);
            assert_eq!(upstream.user.as_deref(), user, "{text}");
            assert_eq!(upstream.password.as_ref().map(Secret::expose), password, "{text}");
        }
    }

    #[test]
    fn refuses_with_a_reason_and_without_the_password() {
        let bad = [
            ("localhost:6379", "redis://host:6379"),
            ("http://hunter2@h", "unknown scheme"),
            ("rediss://:hunter2@h?verify=maybe", "an option"),
            ("redis+sentinel://:hunter2@a,b", "by what name"),
            ("redis+sentinel://:hunter2@a,b//3", "by what name"),
            ("redis+sentinel://:hunter2@a,b/main/x", "no usable database"),
            ("redis+cluster://:hunter2@a,b:0", "no usable port"),
            ("redis://:hunter2@a,b:1", "no usable host"),
            ("redis://hunter2@h", "could be a user or a password"),
            ("redis://:hunt/er2@h", "%2F"),
            ("redis://:hunt#er2@h", "%23"),
            ("redis://:hunter2%@h", "two hexadecimal digits"),
            ("redis://:hunter2%4@h", "two hexadecimal digits"),
            ("redis://:hunter2%+4@h", "two hexadecimal digits"),
            ("redis://:%ff@h", "UTF-8"),
            ("redis://", "no usable host"),
            ("redis://:hunter2@:6379", "no usable host"),
            ("redis://a b", "no usable host"),
            ("redis://h:hunter2", "no usable port"),
            ("redis://h:0", "no usable port"),
            ("redis://h:65536", "no usable port"),
            ("redis://h:+80", "no usable port"),
            ("redis://::1:6379", "brackets"),
            ("redis://[::1", "brackets"),
            ("redis://[nonsense]", "brackets"),
            ("redis://[::1]6379", "no usable port"),
            ("redis://h/hunter2", "no usable database"),
            ("redis://h/-1", "no usable database"),
            ("redis://h/+1", "no usable database"),
            ("redis://h/2147483648", "no usable database"),
            ("redis://h/1/2", "no usable database"),
            ("redis://h/1?timeout=5", "options"),
            ("redis://h?db=1", "redis://host:6379/3"),
            ("rediss://h?hunter2", "an option"),
            ("rediss://h?verify=hunter2", "an option"),
            ("rediss://:hu?ca=nter2@h", "%3F"),
            ("unix://run/redis.sock", "not absolute"),
            ("unix://", "no possible socket"),
            ("unix:///", "no possible socket"),
            ("unix:///run/redis.sock?db=", "no usable database"),
            ("unix:///run/redis.sock?password=hunter2", "only the option db"),
        ];
        for (text, reason) in bad {
            let problem = text.parse::<Upstream>().expect_err(text).to_string();
            assert!(problem.contains(reason), "{text}: {problem}");
            assert!(!problem.contains("hunt"), "{text}: {problem}");
        }
        let long = format!("unix:///{}", "x".repeat(107));
        assert!(long.parse::<Upstream>().is_err());
    }

    #[test]
    fn shows_itself_without_the_password() {
        let shown = [
            ("redis://h", "redis://h:6379"),
            ("redis://:hunter2@[::1]/3", "redis://:***@[::1]:6379/3"),
            ("redis://a%40b:hunter2@h:1", "redis://a%40b:***@h:1"),
            ("unix://app:hunter2@/run/redis.sock?db=4", "unix://app:***@/run/redis.sock?db=4"),
        ];
        for (text, expected) in shown {
            let upstream = parse(text);
            assert_eq!(upstream.to_string(), expected);
            let debug = format!("{upstream:?}");
            assert!(!debug.contains("hunter2"), "{debug}");
        }
    }
}
