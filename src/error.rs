//! What can go wrong between a client and Redis, whose fault it is, and whether the command may be sent again.
//!
//! One enum, and one place ([`Error::reply`]) that turns it into what a client sees: an error, or the end of its connection.
//! What Redis itself answers, errors included, never passes through here: those bytes go to the client as they are.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::resp::encode;

/// Whether a command whose connection broke can have reached Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Not one byte of it was written: Redis never saw it.
    No,
    /// At least a part was written: Redis may have run it.
    Maybe,
    /// The same, and it changes nothing.
    Read,
}

/// What happens to a client whose command cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamDown {
    /// Its connection is closed, as a Redis that dies closes it: client libraries connect again, and know what to repeat.
    Close,
    /// It is told `-LOADING`, which some client libraries try again, if the command was not sent; else its connection is closed.
    Loading,
    /// It is told `-ERR`.
    Error,
}

/// An error of crema's own making. Cheap to clone: one broken connection answers many waiting commands.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No connection to the node could be made.
    #[error("upstream {node} cannot be reached: {source}")]
    Unreachable {
        /// The node's address.
        node: Arc<str>,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The node accepts the login no more, or wants one where there is none: the password was changed, the user was switched
    /// off or deleted, or `requirepass` was set. The reply is Redis's own and goes to the client as it is.
    #[error("upstream {node} refused the login: {}", String::from_utf8_lossy(.reply).trim_end())]
    LoginRefused {
        /// The node's address.
        node: Arc<str>,
        /// The error reply, with its CRLF.
        reply: Arc<[u8]>,
    },
    /// The node accepted the connection and refused the handshake. The reply is Redis's own and goes to the client as it is.
    #[error("upstream {node} refused the handshake: {}", String::from_utf8_lossy(.reply).trim_end())]
    Refused {
        /// The node's address.
        node: Arc<str>,
        /// The error reply, with its CRLF.
        reply: Arc<[u8]>,
    },
    /// The connection broke while commands waited on it.
    #[error("upstream {node} connection lost: {why}")]
    Lost {
        /// The node's address.
        node: Arc<str>,
        /// How it broke.
        why: Arc<str>,
    },
    /// No answer came in time, so the connection was given up.
    #[error("upstream {node} gave no answer within {after:?}")]
    Timeout {
        /// The node's address.
        node: Arc<str>,
        /// The deadline that passed (`response_timeout` or `connect_timeout`).
        after: Duration,
    },
    /// `max_upstream` connections are open already.
    #[error("all {limit} upstream connections are in use (max_upstream)")]
    UpstreamLimit {
        /// The configured cap.
        limit: usize,
    },
    /// A worker thread has ended by a fault of crema's own.
    #[error(
        "worker-{number} has ended by a fault of crema's own: the process ends, for nobody would serve its clients"
    )]
    Worker {
        /// Which one, from 0.
        number: usize,
    },
    /// A password that is to change cannot be read.
    #[error("{setting}: {why}")]
    Password {
        /// The setting that says where it stands.
        setting: &'static str,
        /// What is wrong with the file or the command.
        why: Arc<str>,
    },
    /// Certificates that were good when the settings were read are not good any more.
    #[error("{setting}: {why}")]
    Certificates {
        /// The setting that names them.
        setting: &'static str,
        /// What is wrong with which file.
        why: Arc<str>,
    },
    /// The process that is to be taken over from, if it is one, goes on.
    #[error("take_over: nothing is taken over at {}: {why}", .path.display())]
    TakeOver {
        /// Where it is.
        path: Box<std::path::Path>,
        /// What is wrong.
        why: Arc<str>,
    },
    /// What a supervisor hands to crema cannot be used.
    #[error("{0}")]
    Inherited(Arc<str>),
    /// A socket that crema needs at start cannot be had.
    #[error("{setting}: cannot listen on {address}: {source}; {}", advice(.source))]
    Listen {
        /// The setting that asks for it.
        setting: &'static str,
        /// What was to be listened on.
        address: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl Error {
    /// What `setting` asks for, at `address`, cannot be had.
    pub fn listen(setting: &'static str, address: &str, source: io::Error) -> Self {
        Self::Listen { setting, address: address.to_owned(), source: Arc::new(source) }
    }

    /// Whether a connection was there and ended, before it was ready or after: the next may fare better.
    pub fn is_cut(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match self {
            Self::Lost { .. } => true,
            Self::Unreachable { source, .. } => matches!(source.kind(), UnexpectedEof | ConnectionReset | BrokenPipe),
            _ => false,
        }
    }

    /// Whether a node is not there, or does not answer: another may come to serve what it served.
    pub fn is_of_node(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Unreachable { .. } | Self::Timeout { .. })
    }

    /// Whether it is a refusal that [passes by itself](is_passing).
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Refused { reply, .. } if is_passing(reply))
    }

    /// Whether what was to go on the connection that this is about can have been sent: not where none could be made.
    pub fn sent(&self) -> Sent {
        match self {
            Self::Unreachable { .. } | Self::UpstreamLimit { .. } | Self::LoginRefused { .. } => Sent::No,
            _ => Sent::Maybe,
        }
    }

    /// The reply that the client of a failed command gets; `None`: none, its connection is to be closed. `sent` says whether
    /// Redis can have seen the command.
    pub fn reply(&self, sent: Sent, down: UpstreamDown) -> Option<Vec<u8>> {
        if let Self::Refused { reply, .. } | Self::LoginRefused { reply, .. } = self {
            return Some(reply.to_vec());
        }
        let code = match (down, sent) {
            (UpstreamDown::Close, _) | (UpstreamDown::Loading, Sent::Maybe | Sent::Read) => return None,
            (UpstreamDown::Loading, Sent::No) => "LOADING",
            (UpstreamDown::Error, _) => "ERR",
        };
        let fate = match sent {
            Sent::No => "the command was not sent, it is safe to retry",
            Sent::Maybe => "the command may or may not have been applied",
            Sent::Read => "the command changes nothing, it is safe to retry",
        };
        let mut reply = Vec::new();
        encode::error(&mut reply, &format!("{code} crema: {self}; {fate}"));
        Some(reply)
    }
}

/// Whether a connection could not be made for want of something on this machine: it tells nothing of the other side.
pub fn is_about_us(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let own = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL, Errno::AGAIN];
    own.iter().any(|own| error.raw_os_error() == Some(own.raw_os_error()))
}

/// What to do about an address that cannot be listened on.
fn advice(error: &io::Error) -> &'static str {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::AddrInUse => "another program serves there: end it, or give another address",
        Kind::AddrNotAvailable => {
            "no interface of this machine has that address: give one that it has, or 0.0.0.0 for all"
        }
        Kind::PermissionDenied => {
            "this user may not: give a port from 1024 on, or a path in a directory that it may write to"
        }
        Kind::NotFound => "the directory is not there: create it, or give another path",
        _ => "give another address",
    }
}

/// Whether Redis says that it takes no more clients: to whoever connects, whatever is asked, before it closes (networking.c,
/// `acceptCommonHandler`).
pub fn is_full(reply: &[u8]) -> bool {
    reply.starts_with(b"-ERR max number of clients")
}

/// Whether a refusal says nothing of who asked, and passes by itself: Redis is full, busy, or not up yet.
pub fn is_passing(reply: &[u8]) -> bool {
    let begins = |with: &&[u8]| reply.starts_with(with);
    is_full(reply) || [&b"-BUSY "[..], b"-LOADING ", b"-MASTERDOWN "].iter().any(begins)
}

/// Whether a command itself was refused, not one of its keys or arguments: the user may not run it, or the server has it no more.
pub fn is_forbidden(reply: &[u8]) -> bool {
    let says = |words: &[u8]| reply.windows(words.len()).any(|at| at == words);
    reply.starts_with(b"-NOPERM") && says(b" run the ") || reply.starts_with(b"-ERR unknown command")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_or_closed_as_the_settings_say() {
        let lost = Error::Lost { node: "r:1".into(), why: "cut".into() };
        let text = |sent, down| lost.reply(sent, down).map(|reply| String::from_utf8_lossy(&reply).into_owned());
        for sent in [Sent::No, Sent::Maybe] {
            assert_eq!(text(sent, UpstreamDown::Close), None);
        }
        let unsent = "crema: upstream r:1 connection lost: cut; the command was not sent, it is safe to retry\r\n";
        assert_eq!(text(Sent::No, UpstreamDown::Loading), Some(format!("-LOADING {unsent}")));
        assert_eq!(text(Sent::Maybe, UpstreamDown::Loading), None);
        assert_eq!(text(Sent::No, UpstreamDown::Error), Some(format!("-ERR {unsent}")));
        let maybe = text(Sent::Maybe, UpstreamDown::Error).expect("an error");
        assert!(maybe.ends_with("; the command may or may not have been applied\r\n"), "{maybe}");
    }

    #[test]
    fn what_redis_says_itself_is_passed_on_whatever_the_settings_say() {
        let loading = &b"-LOADING Redis is loading the dataset in memory\r\n"[..];
        let refused = Error::Refused { node: "r:1".into(), reply: loading.into() };
        for down in [UpstreamDown::Close, UpstreamDown::Loading, UpstreamDown::Error] {
            assert_eq!(refused.reply(Sent::No, down).as_deref(), Some(loading));
        }
    }
}
