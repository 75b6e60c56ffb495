//! A connection to a node, made and made ready: dial, name, database, `HELLO` or `AUTH`.
//!
//! The handshake is one write, or two where a login is wanted for all of it, and is answered before the first command goes
//! out, so that a command never runs as another user or in another database than it was meant for.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{Permit, Target};
use crate::config::Node as Endpoint;
use crate::error::{Error, is_full};
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
/// [`Error::Refused`] with Redis's own reply when it takes no more clients, or refuses the user, the protocol version or the database. A refused
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

    let db = target.db.to_string();
    let mut first: Vec<Vec<&[u8]>> = Vec::new();
    if !target.name.is_empty() {
        first.push(vec![b"CLIENT", b"SETNAME", target.name.as_bytes()]);
    }
    if target.db != 0 {
        first.push(vec![b"SELECT", db.as_bytes()]);
    }
    let login: Vec<&[u8]> = match (target.resp, target.login.as_deref()) {
        (Resp::V3, Some(login)) => vec![b"HELLO", b"3", b"AUTH", &login.user, &login.password],
        (Resp::V3, None) => vec![b"HELLO", b"3"],
        (Resp::V2, Some(login)) => vec![b"AUTH", &login.user, &login.password],
        (Resp::V2, None) => Vec::new(),
    };
    let mut buffer = Vec::new();
    // Who may not choose a name or a database may yet be in one that was chosen before, so the login is last. What is
    // refused before it, where Redis wants a login of everybody, is asked for once more.
    let all: Vec<_> = first.iter().cloned().chain((!login.is_empty()).then(|| login.clone())).collect();
    let mut replies = ask(&mut socket, &all, &mut buffer).await.map_err(unreachable)?;
    let refused = |reply: &Vec<u8>| reply.first() == Some(&b'-');
    let refuse = |reply: Vec<u8>| Err(Error::Refused { node: Arc::clone(&target.node.address), reply: reply.into() });
    if replies.first().is_some_and(|reply| is_full(reply)) {
        return refuse(replies.swap_remove(0));
    }
    if !login.is_empty()
        && let Some(reply) = replies.pop()
        && refused(&reply)
    {
        return refuse(reply);
    }
    if replies.iter().any(refused) && target.login.is_some() {
        replies = ask(&mut socket, &first, &mut buffer).await.map_err(unreachable)?;
    }
    if target.db != 0
        && let Some(reply) = replies.pop()
        && refused(&reply)
    {
        return refuse(reply);
    }
    Ok(socket)
}

/// Sends commands in one write and reads their replies; a server that is full gives but one.
async fn ask(socket: &mut Socket, commands: &[Vec<&[u8]>], buffer: &mut Vec<u8>) -> io::Result<Vec<Vec<u8>>> {
    let (mut out, mut replies) = (Vec::with_capacity(128), Vec::with_capacity(commands.len()));
    for command in commands {
        encode::own_command(&mut out, command);
    }
    socket.write_all(&out).await?;
    for _ in commands {
        replies.push(read_reply(socket, buffer).await?);
        if is_full(&replies[0]) {
            break;
        }
    }
    Ok(replies)
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
