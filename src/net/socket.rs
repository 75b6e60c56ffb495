//! One byte stream, TCP with or without TLS, or Unix: what a client speaks over and what an upstream node is reached by.
//!
//! Owns the socket options (no Nagle delay, keep-alive as long as Redis's own default of 300 s).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use super::tls::{Acceptor, ClientHello, Dialer, common_name, explained};

/// Bytes to the upstream that are not acknowledged for so long end their connection. Long enough for what a network gets over;
/// a server that takes nothing in for so long is given up as well.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// TLS over TCP, after the handshake.
type Secure = TlsStream<TcpStream>;

/// A connected stream. Reading and writing are cancel safe, as those of tokio's own streams are. What was written must be flushed
/// or followed by reading: under TLS some of it can wait here. To be given bytes and take none of them is an error.
#[derive(Debug)]
pub(crate) enum Socket {
    /// TCP, with `TCP_NODELAY` and keep-alive set.
    Tcp(TcpStream),
    /// TLS over such a one, after the handshake.
    Tls(Box<Secure>),
    /// A Unix domain socket.
    Unix(UnixStream),
}

impl Socket {
    /// Takes a TCP stream over and sets its options. A refused option is no reason to lose a client, so it is ignored.
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(300)).with_interval(Duration::from_secs(100));
        let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        Self::Tcp(stream)
    }

    /// The same for a connection to the upstream, which is also given up when what was sent is not acknowledged for long: a
    /// host that is gone says nothing (RFC 5482).
    pub(crate) fn upstream(stream: TcpStream) -> Self {
        #[cfg(target_os = "linux")]
        let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        Self::tcp(stream)
    }

    /// Shakes hands as a client of `host`. Of a Unix socket nothing is asked. Cancel safe: the connection is closed.
    pub(crate) async fn secure(self, dialer: &Dialer, host: &str) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => Ok(Self::Tls(Box::new(dialer.connect(stream, host).await?))),
            other => Ok(other),
        }
    }

    /// Shakes hands as a server. Cancel safe: the connection is closed.
    pub(crate) async fn welcome(hello: ClientHello, acceptor: &Acceptor) -> io::Result<Self> {
        Ok(Self::Tls(Box::new(acceptor.accept(hello).await?)))
    }

    /// Whether both sides agreed on HTTP/2 in their handshake.
    pub(crate) fn speaks_http2(&self) -> bool {
        match self {
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
            Self::Tcp(_) | Self::Unix(_) => false,
        }
    }

    /// Another hold on the open file, for another process. Not of TLS, of which half is here.
    pub(crate) fn copy(&self) -> Option<OwnedFd> {
        match self {
            Self::Tcp(stream) => stream.as_fd().try_clone_to_owned().ok(),
            Self::Unix(stream) => stream.as_fd().try_clone_to_owned().ok(),
            Self::Tls(_) => None,
        }
    }

    /// When it is dropped, what has not left yet is thrown away, and the other side is told by a reset.
    pub(crate) fn reset_on_drop(&self) {
        if let Some(stream) = self.stream() {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO)); // where it cannot be set the stream is gone
        }
    }

    /// The TCP stream below, where there is one.
    fn stream(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.get_ref().0),
            Self::Unix(_) => None,
        }
    }

    /// The address of the other side as Redis prints one: `ip:port`, or `unix` for a Unix socket.
    pub(crate) fn peer(&self) -> String {
        let address = self.stream().map(TcpStream::peer_addr);
        address.map_or("unix".to_owned(), |address| address.map_or("?".to_owned(), |address| address.to_string()))
    }

    /// The common name in the certificate that the other side has shown and proved, where it has one.
    pub(crate) fn certified_name(&self) -> Option<String> {
        match self {
            Self::Tls(stream) => common_name(stream.get_ref().1.peer_certificates()?.first()?),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Whether the other side has closed its sending side, or all, as far as is known. Bytes may still be unread.
    pub(crate) fn is_read_closed(&self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        let ready = match self {
            Self::Tcp(stream) => pin!(stream.ready(Interest::READABLE)).poll(cx),
            Self::Tls(stream) => pin!(stream.get_ref().0.ready(Interest::READABLE)).poll(cx),
            Self::Unix(stream) => pin!(stream.ready(Interest::READABLE)).poll(cx),
        };
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    /// The address of this side, as the other side prints it in `CLIENT LIST` and `MONITOR`.
    pub(crate) fn local(&self) -> String {
        let address = self.stream().map(TcpStream::local_addr);
        address.map_or("unix".to_owned(), |address| address.map_or("?".to_owned(), |address| address.to_string()))
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => read_tls(stream, cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

/// Reads from a TLS stream, and sends what that still holds: what was written, and what it answers by itself (to a renegotiation,
/// or new keys). Apart, so that reading from others is short.
#[inline(never)]
fn read_tls(stream: &mut TlsStream<TcpStream>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    // An error shows when it is read.
    let _ = Pin::new(&mut *stream).poll_flush(cx);
    let read = Pin::new(&mut *stream).poll_read(cx, buf);
    if stream.get_ref().1.wants_write() {
        let _ = Pin::new(&mut *stream).poll_flush(cx);
    }
    read.map_err(|error| explained(stream, error))
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => poll_write_tls(stream, cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        match written {
            Poll::Ready(Ok(0)) if !buf.is_empty() => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => written,
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => poll_flush_tls(stream, cx),
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())), // what was written is the system's
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

// Out of line, so that what plain sockets do stays short where it is inlined.

#[inline(never)]
fn poll_write_tls(stream: &mut Secure, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
    Pin::new(stream).poll_write(cx, buf)
}

#[inline(never)]
fn poll_flush_tls(stream: &mut Secure, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    Pin::new(stream).poll_flush(cx)
}
