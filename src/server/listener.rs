//! Sockets that clients connect to: bound or inherited, closed while nobody shall connect, and opened again.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::time::sleep;
use tracing::warn;

use super::inherited::{InheritedSocket, copy_of};
use crate::config::Listen;
use crate::error::Error;
use crate::net::tls::Acceptor;

/// Clients that may have connected and not been let in; more wait with the system, as far as its `net.core.somaxconn` allows these.
const BACKLOG: i32 = 4096;
/// Between two tries to take a place that another program has.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket on its way to a worker, not yet registered with any runtime.
pub(super) enum Client {
    Tcp(std::net::TcpStream, Prelude),
    Unix(std::os::unix::net::UnixStream),
}

/// What a client of TCP has to do before it is a session.
#[derive(Clone)]
pub(crate) struct Prelude {
    /// Whoever passes it on says first, in a header of the PROXY protocol, where it comes from.
    pub(super) proxied: bool,
    /// What shakes hands with it then, where it must speak TLS.
    pub(super) acceptor: Option<Arc<Acceptor>>,
}

/// A socket that clients connect to.
pub(crate) struct Listener {
    socket: ListeningSocket,
    /// As the settings have it.
    asked: Listen,
    /// Somebody else keeps it: clients could connect to it though it were closed here.
    is_shared: bool,
}

enum ListeningSocket {
    Tcp(TcpListener, Prelude),
    /// Its file is removed when dropped.
    Unix(UnixListener, SocketFile),
}

/// A listening socket on its way to another process.
pub(crate) struct SharedSocket {
    pub(crate) socket: OwnedFd,
    /// The address as the settings have it.
    pub(crate) name: String,
    /// Somebody else keeps it as well.
    pub(crate) is_shared: bool,
}

impl Listener {
    /// Binds; `acceptor` is there where an address is to be under TLS. A Unix socket file that nobody listens on any more is
    /// replaced.
    pub(crate) async fn bind(listen: &Listen, acceptor: Option<&Arc<Acceptor>>) -> Result<Self, Error> {
        let failed = failed(listen);
        let socket = match listen {
            Listen::Tcp { address, .. } => {
                ListeningSocket::Tcp(tcp(*address).map_err(failed)?, Prelude::of(listen, acceptor))
            }
            Listen::Unix(path) => {
                let (listener, file) = bind_socket(path).await.map_err(failed)?;
                ListeningSocket::Unix(listener, file)
            }
        };
        Ok(Self { socket, asked: listen.clone(), is_shared: false })
    }

    /// The same on a socket that is bound there already.
    pub(crate) fn inherit(
        listen: &Listen,
        acceptor: Option<&Arc<Acceptor>>,
        inherited: InheritedSocket,
    ) -> Result<Self, Error> {
        let failed = failed(listen);
        let InheritedSocket { socket, is_shared, confirmed, .. } = inherited;
        let socket = match listen {
            Listen::Tcp { .. } => {
                let listener = std::net::TcpListener::from(socket);
                listener.set_nonblocking(true).map_err(failed)?;
                ListeningSocket::Tcp(TcpListener::from_std(listener).map_err(failed)?, Prelude::of(listen, acceptor))
            }
            Listen::Unix(path) => {
                let listener = std::os::unix::net::UnixListener::from(socket);
                listener.set_nonblocking(true).map_err(failed)?;
                // The file of one that somebody keeps is not ours to remove.
                let mut file = if is_shared { SocketFile::of_others(path) } else { SocketFile::at(path) };
                file.confirmed = confirmed;
                ListeningSocket::Unix(UnixListener::from_std(listener).map_err(failed)?, file)
            }
        };
        Ok(Self { socket, asked: listen.clone(), is_shared })
    }

    /// Where it is, with the port that the system chose.
    pub(crate) fn address(&self) -> Listen {
        match &self.socket {
            ListeningSocket::Tcp(listener, Prelude { proxied, acceptor }) => {
                let address = listener.local_addr().expect("a listener has an address");
                Listen::Tcp { address, tls: acceptor.is_some(), proxied: *proxied }
            }
            ListeningSocket::Unix(_, file) => Listen::Unix(file.path.clone()),
        }
    }

    /// What is not plain from the address: `[::]` takes no IPv4 here, as it would with other programs.
    pub(crate) fn note(&self) -> &'static str {
        match &self.socket {
            _ if self.is_shared => " (on a socket that was handed over)",
            ListeningSocket::Tcp(listener, _)
                if listener.local_addr().is_ok_and(|at| at.is_ipv6() && at.ip().is_unspecified()) =>
            {
                " (IPv6 alone: for IPv4 listen on 0.0.0.0 too)"
            }
            _ => "",
        }
    }

    /// Whether somebody else keeps it.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Another hold on it, for another process.
    pub(super) fn share(&self) -> io::Result<SharedSocket> {
        let socket = match &self.socket {
            ListeningSocket::Tcp(listener, _) => copy_of(listener),
            ListeningSocket::Unix(listener, _) => copy_of(listener),
        };
        Ok(SharedSocket { socket: socket?, name: self.asked.to_string(), is_shared: self.is_shared })
    }

    /// Another process has it from now on, with its file.
    pub(super) fn leave(self) {
        if let ListeningSocket::Unix(_, mut file) = self.socket {
            file.bound = None;
        }
    }

    /// Takes no more clients; those that have connected and were not accepted are refused.
    pub(super) fn close(self) -> Closed {
        let listen = self.address(); // where the system chose the port, it is that one which clients know
        let asked = self.asked;
        match self.socket {
            ListeningSocket::Tcp(_, Prelude { acceptor, .. }) => Closed { listen, asked, acceptor, file: None },
            ListeningSocket::Unix(_, file) => Closed { listen, asked, acceptor: None, file: Some(file) },
        }
    }

    /// Resets everybody who connects, as near to a refusal as one comes where somebody else keeps the socket; never returns. Cancel
    /// safe.
    pub(super) async fn turn_away(&self) {
        loop {
            match self.accept().await {
                Ok(Client::Tcp(stream, _)) => _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
                Ok(Client::Unix(_)) => {}
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Client> {
        match &self.socket {
            ListeningSocket::Tcp(listener, prelude) => {
                Ok(Client::Tcp(listener.accept().await?.0.into_std()?, prelude.clone()))
            }
            ListeningSocket::Unix(listener, ..) => Ok(Client::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

fn failed(listen: &Listen) -> impl Fn(io::Error) -> Error + Copy {
    move |source| Error::listen("listen", &listen.to_string(), source)
}

impl Prelude {
    /// What clients of an address of TCP have to do.
    pub(crate) fn of(listen: &Listen, acceptor: Option<&Arc<Acceptor>>) -> Self {
        let Listen::Tcp { tls, proxied, .. } = listen else { return Self { proxied: false, acceptor: None } };
        let acceptor = tls.then(|| acceptor.expect("settings with a listener under TLS have a certificate"));
        Self { proxied: *proxied, acceptor: acceptor.map(Arc::clone) }
    }
}

/// A socket that clients cannot connect to for now. The file of a Unix socket stays where it is, with nobody behind it.
pub(super) struct Closed {
    pub(super) listen: Listen,
    asked: Listen,
    acceptor: Option<Arc<Acceptor>>,
    file: Option<SocketFile>,
}

impl Closed {
    /// Its file is another's from now on.
    pub(super) fn leave(&mut self) {
        if let Some(file) = &mut self.file {
            file.bound = None;
        }
    }

    /// Listens again, at the same address and with the same rights. Another program can have taken the place meanwhile: then it
    /// is tried again until it is free. What this one was is to be [left](Self::leave) to the new one. Cancel safe.
    pub(super) async fn reopen(&self) -> Listener {
        let rights =
            self.file.as_ref().and_then(|file| std::fs::metadata(&file.path).ok()).map(|file| file.permissions());
        let mut told = false;
        loop {
            match Listener::bind(&self.listen, self.acceptor.as_ref()).await {
                Ok(listener) => {
                    if let (Some(file), Some(rights)) = (&self.file, rights) {
                        let _ = std::fs::set_permissions(&file.path, rights);
                    }
                    return Listener { asked: self.asked.clone(), ..listener };
                }
                Err(error) if !told => {
                    warn!("{error}; trying again");
                    told = true;
                }
                Err(_) => {}
            }
            sleep(PAUSE).await;
        }
    }
}

/// The file of a Unix socket, removed when dropped, unless another stands there by then.
pub(crate) struct SocketFile {
    path: PathBuf,
    bound: Option<(u64, u64)>,
    /// Until this is true it is that of the process which has given the socket, and stays.
    confirmed: Option<Arc<AtomicBool>>,
}

impl SocketFile {
    fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), bound: file(path), confirmed: None }
    }

    /// One that is never removed here.
    fn of_others(path: &Path) -> Self {
        Self { path: path.to_owned(), bound: None, confirmed: None }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = self.confirmed.as_ref().is_none_or(|confirmed| confirmed.load(Ordering::Acquire));
        if is_ours && self.bound.is_some() && file(&self.path) == self.bound {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Binds a Unix socket in place of one that nobody listens on any more.
pub(crate) async fn bind_socket(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    make_way(path).await?;
    Ok((UnixListener::bind(path)?, SocketFile::at(path)))
}

/// Removes the file of a socket on which nobody listens any more. Any other file is somebody's, and stays.
async fn make_way(path: &Path) -> io::Result<()> {
    let Ok(there) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !there.file_type().is_socket() {
        let why = "a file that is no socket stands there";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()), // somebody may listen: binding tells
    }
}

/// Which file stands at a path.
fn file(path: &Path) -> Option<(u64, u64)> {
    let there = std::fs::symlink_metadata(path).ok()?;
    Some((there.dev(), there.ino()))
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
