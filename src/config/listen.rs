//! Addresses that crema serves: `IP:PORT`, `tls://IP:PORT`, each with `?proxy=on` behind it or not, or the path of a Unix socket.
//!
//! Pure text; the server binds them. Two addresses that could not both be bound are told apart here, before any is.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::deny::{DeniedAt, take_option};
use super::error::Problem;
use super::url::SOCKET_PATH_BYTES;

/// What stands behind an address whose clients are passed on with a PROXY header.
const PROXY_ON: &str = "?proxy=on";

/// One address to accept clients on. `Display` gives it as it is written in settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// A TCP address; port 0 lets the system choose.
    Tcp {
        /// Where it is.
        address: SocketAddr,
        /// Clients speak TLS.
        tls: bool,
        /// Whoever passes clients on says first, in a header of the PROXY protocol, where they come from.
        proxied: bool,
    },
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
}

impl Listen {
    /// A TCP address without more.
    pub fn plain(address: SocketAddr) -> Self {
        Self::Tcp { address, tls: false, proxied: false }
    }

    /// Where it is in the network.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { address, .. } => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether clients must speak TLS.
    pub fn is_secure(&self) -> bool {
        matches!(self, Self::Tcp { tls: true, .. })
    }

    /// Whether binding both addresses would fail, or send one's clients to the other.
    pub(super) fn clashes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(path), Self::Unix(other)) => path == other,
            _ => self.address().zip(other.address()).is_some_and(|(address, other)| {
                let any = address.ip().is_unspecified() || other.ip().is_unspecified();
                let overlap = address.ip() == other.ip() || (any && address.is_ipv4() == other.is_ipv4());
                address.port() == other.port() && address.port() != 0 && overlap
            }),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, tls, proxied } => {
                let (scheme, options) = (if *tls { "tls://" } else { "" }, if *proxied { PROXY_ON } else { "" });
                write!(f, "{scheme}{address}{options}")
            }
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Reads addresses separated by commas: at least one, no two that clash; and what is denied at each.
pub(super) fn addresses(text: &str) -> Result<(Vec<Listen>, DeniedAt), Problem> {
    let (mut all, mut denied_at): (Vec<Listen>, _) = (Vec::new(), Vec::new());
    for part in text.split(',') {
        let (rest, denied) = take_option(part.trim())?;
        let next = address(&rest)?;
        if let Some(earlier) = all.iter().find(|earlier| earlier.clashes(&next)) {
            return Err(Problem::new(
                format!("`{next}` cannot be bound together with `{earlier}`"),
                "leave one of them out",
            ));
        }
        denied_at.push(denied);
        all.push(next);
    }
    Ok((all, denied_at))
}

fn address(text: &str) -> Result<Listen, Problem> {
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or(text);
    if path.starts_with('/') {
        match path.split_once('?') {
            None => {}
            Some((_, "proxy=on" | "proxy=off")) => {
                let right = "listen on an IP address and a port for it";
                return Err(Problem::new("the PROXY protocol is not spoken over Unix sockets", right));
            }
            Some((_, option)) => return Err(unknown_option(option)),
        }
        return self::path(path).map(Listen::Unix);
    }
    let (plain, proxied) = match text.split_once('?') {
        None => (text, false),
        Some((plain, "proxy=on")) => (plain, true),
        Some((plain, "proxy=off")) => (plain, false),
        Some((_, option)) => return Err(unknown_option(option)),
    };
    let secure = plain.strip_prefix("tls://");
    let address = socket(secure.or_else(|| plain.strip_prefix("tcp://")).unwrap_or(plain))?;
    Ok(Listen::Tcp { address, tls: secure.is_some(), proxied })
}

/// Reads the absolute path of a socket.
pub(super) fn path(text: &str) -> Result<PathBuf, Problem> {
    if !text.starts_with('/') || text.len() < 2 || text.len() > SOCKET_PATH_BYTES {
        let right = format!("write an absolute path of at most {SOCKET_PATH_BYTES} bytes");
        return Err(Problem::new(format!("`{text}` is not the path of a socket"), right));
    }
    Ok(text.into())
}

fn unknown_option(option: &str) -> Problem {
    let right =
        "write ?proxy=on where a load balancer sends the PROXY protocol, ?deny= where more is denied, or nothing";
    Problem::new(format!("unknown option `{option}` of an address to listen on"), right)
}

/// Reads `IP:PORT`; names are refused, because a name can stand for several addresses.
pub(super) fn socket(text: &str) -> Result<SocketAddr, Problem> {
    text.parse().map_err(|_| {
        let port = text.rsplit(':').next().filter(|port| port.parse::<u16>().is_ok()).unwrap_or("6380");
        let right = format!("write an IP address and a port: 127.0.0.1:{port}, 0.0.0.0:{port} or [::]:{port}");
        Problem::new(format!("`{text}` is not an address to listen on"), right)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clash(left: &str, right: &str) -> bool {
        address(left).expect(left).clashes(&address(right).expect(right))
    }

    #[test]
    fn reads_addresses() {
        let all =
            addresses("127.0.0.1:6380, [::1]:0,/run/crema.sock,unix:/run/b,unix:///run/c").expect("all are good").0;
        let shown: Vec<String> = all.iter().map(Listen::to_string).collect();
        assert_eq!(shown, ["127.0.0.1:6380", "[::1]:0", "/run/crema.sock", "/run/b", "/run/c"]);
        let all = addresses("tcp://127.0.0.1:1,tls://127.0.0.1:2?proxy=on,[::1]:3?proxy=on,127.0.0.1:4?proxy=off");
        let shown: Vec<String> = all.expect("all are good").0.iter().map(Listen::to_string).collect();
        assert_eq!(shown, ["127.0.0.1:1", "tls://127.0.0.1:2?proxy=on", "[::1]:3?proxy=on", "127.0.0.1:4"]);
    }

    #[test]
    fn refuses_what_cannot_be_bound() {
        for text in
            ["", "6380", ":6380", "localhost:6380", "127.0.0.1", "127.0.0.1:65536", "crema.sock", "127.0.0.1:1,"]
        {
            let problem = addresses(text).expect_err(text).to_string();
            assert!(problem.contains("write an IP address and a port"), "{problem}");
        }
        let hint = addresses("localhost:7000").expect_err("a name").to_string();
        assert!(hint.contains("127.0.0.1:7000"), "{hint}");
        assert!(addresses("/").is_err());
        for (text, reason) in [
            ("127.0.0.1:1?proxy=yes", "unknown option `proxy=yes`"),
            ("127.0.0.1:1?", "unknown option ``"),
            ("/run/crema?proxy=on", "not spoken over Unix sockets"),
            ("/run/crema?proxy=off", "not spoken over Unix sockets"),
            ("unix:/run/crema?proxy=on&deny=keys", "not spoken over Unix sockets"),
            ("/run/crema?mode=7", "unknown option `mode=7`"),
        ] {
            let problem = addresses(text).expect_err(text).to_string();
            assert!(problem.contains(reason), "{problem}");
        }
        assert!(addresses("127.0.0.1:1,127.0.0.1:1").is_err());
    }

    #[test]
    fn an_address_has_its_own_denials_beside_the_proxy_protocol() {
        let text = "127.0.0.1:0,127.0.0.1:0?deny=keys,tls://127.0.0.1:1?proxy=on&deny=keys,[::1]:2?deny=keys&proxy=on";
        let (all, denied) = addresses(text).expect("all are good");
        let shown: Vec<String> = all.iter().map(Listen::to_string).collect();
        assert_eq!(shown, ["127.0.0.1:0", "127.0.0.1:0", "tls://127.0.0.1:1?proxy=on", "[::1]:2?proxy=on"]);
        let are_denied: Vec<bool> = denied.iter().map(|denied| !denied.is_empty()).collect();
        assert_eq!(are_denied, [false, true, true, true]);
    }

    #[test]
    fn sees_clashes() {
        assert!(clash("127.0.0.1:1", "127.0.0.1:1"));
        assert!(clash("0.0.0.0:1", "127.0.0.1:1"));
        assert!(clash("[::1]:1", "[::]:1"));
        assert!(clash("/run/a", "unix:/run/a"));
        assert!(!clash("127.0.0.1:1", "127.0.0.1:2"));
        assert!(!clash("127.0.0.1:1", "127.0.0.2:1"));
        assert!(!clash("127.0.0.1:0", "127.0.0.1:0"));
        assert!(!clash("0.0.0.0:1", "[::]:1"));
        assert!(!clash("/run/a", "127.0.0.1:1"));
    }
}
