//! Listening sockets that this process did not bind: systemd's, or those of the process that it takes over from.
//!
//! One takes the place of the address to listen on that it is bound to; whether clients speak TLS there, and what is asked of them, the
//! settings say. What no address is for its owner is told. Made by `app` before anything else listens.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use listenfd::ListenFd;
use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::net::{SocketAddrAny, SocketAddrUnix, SocketType, getsockname};
use tokio::net::TcpListener;

use crate::config::Listen;

/// One of them.
#[derive(Debug)]
pub(crate) struct InheritedSocket {
    pub(super) socket: OwnedFd,
    place: SocketPlace,
    /// What it is to whoever had it before: the address as the settings of that process have it. Empty: nobody says.
    name: String,
    /// Somebody else keeps it, so that it is not closed when this process closes it.
    pub(super) is_shared: bool,
    /// Where another process gives it: whether that one has left it for good. Until then a Unix socket's file is not ours.
    pub(super) confirmed: Option<Arc<AtomicBool>>,
}

/// Where clients connect to it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SocketPlace {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// All that this process was given, until they are taken.
#[derive(Debug, Default)]
pub(crate) struct Inheritance(Vec<InheritedSocket>);

impl InheritedSocket {
    /// Fails where it is no socket that clients can connect to.
    pub(crate) fn new(socket: OwnedFd, name: String, is_shared: bool) -> io::Result<Self> {
        if socket_type(&socket)? != SocketType::STREAM || !socket_acceptconn(&socket)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no socket that listens"));
        }
        let place = place(&getsockname(&socket)?).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "it is neither of TCP nor of Unix, with a path")
        })?;
        Ok(Self { socket, place, name, is_shared, confirmed: None })
    }

    /// It is another process's until this is true.
    pub(crate) fn once(self, confirmed: &Arc<AtomicBool>) -> Self {
        Self { confirmed: Some(Arc::clone(confirmed)), ..self }
    }

    /// It as a listener of TCP, and whether somebody else keeps it.
    pub(crate) fn into_tcp(self) -> io::Result<(TcpListener, bool)> {
        let listener = std::net::TcpListener::from(self.socket);
        listener.set_nonblocking(true)?;
        Ok((TcpListener::from_std(listener)?, self.is_shared))
    }

    /// Whether this is where `listen` says that clients are to be let in.
    fn is_for(&self, listen: &Listen) -> bool {
        match (&self.place, listen) {
            (SocketPlace::Unix(path), Listen::Unix(wanted)) => path == wanted,
            (SocketPlace::Tcp(at), Listen::Tcp { address, .. }) => {
                let chosen = address.port() == 0 && at.ip() == address.ip() && self.name == listen.to_string();
                at == address || chosen
            }
            _ => false,
        }
    }
}

/// The address of a socket, where it is one that the settings could name.
fn place(address: &SocketAddrAny) -> Option<SocketPlace> {
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
        return Some(SocketPlace::Tcp(address));
    }
    let unix = SocketAddrUnix::try_from(address.clone()).ok()?;
    let path = unix.path()?;
    Some(SocketPlace::Unix(PathBuf::from(path.to_str().ok()?)))
}

impl Inheritance {
    /// What systemd, or what does as it does, hands to this process (`LISTEN_FDS`). Fails with a sentence where that is no listening
    /// socket.
    pub(crate) fn of_supervisor() -> Result<Self, String> {
        // Read before the variables are taken away, so that no child believes that they are for it.
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut given = ListenFd::from_env();
        let names: Vec<&str> = names.split(':').collect();
        let mut all = Self::default();
        for number in 0..given.len() {
            let name = names.get(number).filter(|name| !name.is_empty()).copied().unwrap_or("unnamed");
            let bad = |error: &io::Error| format!("socket {number} of LISTEN_FDS, `{name}`, cannot be used: {error}");
            let socket = match given.take_tcp_listener(number) {
                Ok(taken) => taken.map(OwnedFd::from),
                Err(_) => given.take_unix_listener(number).map_err(|error| bad(&error))?.map(OwnedFd::from),
            };
            let Some(socket) = socket else { continue };
            all.0.push(InheritedSocket::new(socket, String::new(), true).map_err(|error| bad(&error))?);
        }
        Ok(all)
    }

    /// One more.
    pub(crate) fn add(&mut self, socket: InheritedSocket) {
        self.0.push(socket);
    }

    /// That for an address, which is then taken.
    pub(crate) fn take(&mut self, listen: &Listen) -> Option<InheritedSocket> {
        let at = self.0.iter().position(|socket| socket.is_for(listen))?;
        Some(self.0.remove(at))
    }

    /// Where those are that nobody has taken.
    pub(crate) fn left(&self) -> Vec<String> {
        let shown = |socket: &InheritedSocket| match &socket.place {
            SocketPlace::Tcp(address) => address.to_string(),
            SocketPlace::Unix(path) => path.display().to_string(),
        };
        self.0.iter().map(shown).collect()
    }
}

/// Another hold on a listening socket, for another process.
pub(crate) fn copy_of(socket: &impl AsFd) -> io::Result<OwnedFd> {
    socket.as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener as StdListener, TcpStream};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn given(socket: impl Into<OwnedFd>, name: &str) -> InheritedSocket {
        InheritedSocket::new(socket.into(), name.to_owned(), false).expect("it listens")
    }

    #[test]
    fn a_socket_is_for_the_address_that_it_is_bound_to() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("c.sock");
        let unix = UnixListener::bind(&path).expect("a new path");
        let (tcp, other) = (StdListener::bind("127.0.0.1:0"), StdListener::bind("127.0.0.1:0"));
        let (tcp, other) = (tcp.expect("a port"), other.expect("a port"));
        let [at, elsewhere] = [&tcp, &other].map(|socket| socket.local_addr().expect("it is bound"));
        let mut all = Inheritance::default();
        all.add(given(unix, ""));
        all.add(given(tcp, "127.0.0.1:0"));
        all.add(given(other, ""));
        assert!(all.take(&Listen::Unix("/elsewhere".into())).is_none());
        assert!(all.take(&Listen::Unix(path)).is_some());
        let any = Listen::plain(([127, 0, 0, 1], 0).into());
        assert!(all.take(&any).is_some(), "its name says so");
        assert!(all.take(&any).is_none() && all.take(&Listen::plain(at)).is_none(), "it is taken");
        assert_eq!(all.left(), [elsewhere.to_string()]);
        assert!(all.take(&Listen::plain(elsewhere)).is_some() && all.left().is_empty());
    }

    #[test]
    fn what_nobody_can_connect_to_is_refused() {
        let listener = StdListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        assert!(InheritedSocket::new(client.into(), String::new(), false).is_err());
        let file = std::fs::File::open("/dev/null").expect("it is there");
        assert!(InheritedSocket::new(file.into(), String::new(), false).is_err());
    }
}
