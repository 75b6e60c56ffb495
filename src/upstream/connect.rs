//! A connection to a node, made and made ready: dial, `HELLO` or `AUTH`, name, database.
//!
//! The whole handshake is one write and is answered before the first command goes out, so that a command never runs as
//! another user or in another database than it was meant for.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{Permit, Target};
use crate::config::Node as Endpoint;
use crate::error::Error;
use crate::resp::{Resp, Split, Splitter, encode};
use crate::socket::Socket;

/// A connection on which the handshake is over. Nothing is in flight on it.
#[derive(Debug)]
pub struct Connection {
    /// The stream.
    pub socket: Socket,
    /// Counts against `max_upstream` while held.
    pub permit: Permit,
}

/// Dials the node and runs the handshake. Cancel safe: dropping the future closes the connection.
///
/// Fails with [`Error::Unreachable`], [`Error::Timeout`] after the node's `connect_timeout`, [`Error::UpstreamLimit`], or
/// [`Error::Refused`] with Redis's own reply when it refuses the user, the protocol version or the database. A refused
/// name is no failure: an ACL may forbid `CLIENT SETNAME`.
pub async fn connect(target: &Target) -> Result<Connection, Error> {
    let permit = target.node.permit()?;
    let after = target.node.connect_timeout;
    match timeout(after, handshake(target)).await {
        Ok(Ok(socket)) => Ok(Connection { socket, permit }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::Timeout { node: Arc::clone(&target.node.address), after }),
    }
}

async fn handshake(target: &Target) -> Result<Socket, Error> {
    let unreachable =
        |source: io::Error| Error::Unreachable { node: Arc::clone(&target.node.address), source: Arc::new(source) };
    let mut socket = match &target.node.endpoint {
        Endpoint::Tcp { host, port } => {
            Socket::tcp(TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?)
        }
        Endpoint::Unix(path) => Socket::Unix(UnixStream::connect(path).await.map_err(unreachable)?),
    };

    let mut out = Vec::with_capacity(128);
    let mut required = Vec::with_capacity(4); // one entry a command: whether its refusal ends the handshake
    let login = target.login.as_deref();
    match (target.resp, login) {
        (Resp::V3, Some(login)) => encode::command(&mut out, &[b"HELLO", b"3", b"AUTH", &login.user, &login.password]),
        (Resp::V3, None) => encode::command(&mut out, &[b"HELLO", b"3"]),
        (Resp::V2, Some(login)) => encode::command(&mut out, &[b"AUTH", &login.user, &login.password]),
        (Resp::V2, None) => {}
    }
    if !out.is_empty() {
        required.push(true);
    }
    if !target.name.is_empty() {
        encode::command(&mut out, &[b"CLIENT", b"SETNAME", target.name.as_bytes()]);
        required.push(false);
    }
    if target.db != 0 {
        encode::command(&mut out, &[b"SELECT", target.db.to_string().as_bytes()]);
        required.push(true);
    }
    socket.write_all(&out).await.map_err(unreachable)?;

    let mut buffer = Vec::new();
    for required in required {
        let reply = read_reply(&mut socket, &mut buffer).await.map_err(unreachable)?;
        if required && reply.first() == Some(&b'-') {
            return Err(Error::Refused { node: Arc::clone(&target.node.address), reply: reply.into() });
        }
    }
    Ok(socket)
}

/// Reads one whole reply; `buffer` keeps what came beyond it for the next call. For handshakes and checks, not for data:
/// a reply over 1 MiB is an error. Cancel safe: bytes already read stay in `buffer`.
pub async fn read_reply(socket: &mut Socket, buffer: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    const LARGEST: usize = 1 << 20;
    loop {
        let mut splitter = Splitter::default();
        match splitter.split(buffer) {
            Ok(Split::End(len)) => {
                let rest = buffer.split_off(len);
                return Ok(std::mem::replace(buffer, rest));
            }
            Ok(Split::More) if buffer.len() < LARGEST => {}
            Ok(Split::More) => return Err(io::Error::new(io::ErrorKind::InvalidData, "handshake reply too large")),
            Err(malformed) => return Err(io::Error::new(io::ErrorKind::InvalidData, malformed.to_string())),
        }
        if socket.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
