//! A connection to a node, made and made ready: dial, name, database, `HELLO` or `AUTH`.
//!
//! It begins with the question which server this is, for two that answer at one address are never used as one. The rest is one
//! write, or two where a login is wanted for all of it, and is answered before the first command goes
//! out, so that a command never runs as another user or in another database than it was meant for.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::generation::run_id;
use super::{Permit, Target};
use crate::clock::Time;
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
    /// The generation of the server that it was made to.
    pub generation: u64,
    /// What the server calls it, as `CLIENT ID` says; none where nobody may ask.
    pub id: Option<u64>,
}

/// Dials the node and runs the handshake. Cancel safe: dropping the future closes the connection.
///
/// Fails with [`Error::Unreachable`], [`Error::Timeout`] after the node's `connect_timeout` or `handshake_timeout`,
/// [`Error::UpstreamLimit`], or [`Error::Refused`] with Redis's own reply when it takes no more clients, or refuses the user, the
/// protocol version or the database. A refused name is no failure: an ACL may forbid `CLIENT SETNAME`.
pub async fn connect(target: &Target) -> Result<Connection, Error> {
    let made = try_connect(target).await;
    let user = target.login.as_ref().map_or("default".into(), |login| String::from_utf8_lossy(&login.user));
    let (upstream, name, db) = (&target.node.address, target.name, target.db);
    match &made {
        Ok(connection) => debug!(%upstream, name, %user, db, local = connection.socket.local(), "connected"),
        Err(error) => debug!(%upstream, name, %user, db, %error, "not connected"),
    }
    made
}

async fn try_connect(target: &Target) -> Result<Connection, Error> {
    let node = &target.node;
    let permit = node.permit()?;
    let begun = Time::now();
    let made = make(target).await;
    if made.as_ref().is_err_and(|error| !matches!(error, Error::Refused { .. })) {
        node.presence.doubt();
    }
    let (socket, Identity { run_id, id }) = made?;
    let now = Time::now();
    node.heard(now);
    let generation = match run_id {
        Some(run_id) => node.generation.of(&run_id, begun, now),
        None => node.generation.number(),
    };
    Ok(Connection { socket, permit, generation, id })
}

async fn make(target: &Target) -> Result<(Socket, Identity), Error> {
    let node = &target.node;
    let late = |after| Error::Timeout { node: Arc::clone(&node.address), after };
    let socket = timeout(node.connect_timeout, dial(&node.endpoint)).await.map_err(|_| late(node.connect_timeout))?;
    let mut socket = socket.map_err(|source| unreachable(target, source))?;
    let made = timeout(node.handshake_timeout, handshake(target, &mut socket)).await;
    let identity = made.map_err(|_| late(node.handshake_timeout))??;
    Ok((socket, identity))
}

fn unreachable(target: &Target, source: io::Error) -> Error {
    Error::Unreachable { node: Arc::clone(&target.node.address), source: Arc::new(source) }
}

/// A stream to `endpoint`. Cancel safe.
pub(super) async fn dial(endpoint: &Endpoint) -> io::Result<Socket> {
    Ok(match endpoint {
        Endpoint::Tcp { host, port } => Socket::upstream(TcpStream::connect((host.as_str(), *port)).await?),
        Endpoint::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
    })
}

/// What the server says that it is, and what it calls the connection.
#[derive(Default)]
struct Identity {
    run_id: Option<Box<[u8]>>,
    id: Option<u64>,
}

/// Asks which server this is, as the user of the upstream URL: a client's own may not know. The connection of a client that has
/// not logged in is not logged in for it either.
async fn identify(target: &Target, socket: &mut Socket, buffer: &mut Vec<u8>) -> Result<Identity, Error> {
    let mut questions: Vec<Vec<&[u8]>> = Vec::new();
    if let (Some(login), Some(_)) = (target.node.login.as_deref(), &target.login) {
        questions.push(vec![b"AUTH", &login.user, &login.password]);
    }
    questions.push(vec![b"CLIENT", b"ID"]);
    if target.node.generation.may_ask() {
        questions.push(vec![b"INFO", b"server"]);
    }
    let mut replies = ask(socket, &questions, buffer).await.map_err(|error| unreachable(target, error))?;
    if replies.first().is_some_and(|reply| is_full(reply)) {
        return Err(Error::Refused { node: Arc::clone(&target.node.address), reply: replies.swap_remove(0).into() });
    }
    let mut identity = Identity::default();
    for (question, reply) in questions.iter().zip(replies) {
        if question[0] == b"CLIENT" {
            identity.id =
                std::str::from_utf8(&reply).ok().and_then(|text| text.strip_prefix(':')?.trim_end().parse().ok());
        } else if reply.starts_with(b"-NOPERM") && target.node.generation.refuse() {
            warn!(
                "the user in `upstream` may not run INFO: a failover behind its address shows by broken connections alone"
            );
        } else {
            identity.run_id = run_id(&reply).map(Box::from).or(identity.run_id);
        }
    }
    Ok(identity)
}

async fn handshake(target: &Target, socket: &mut Socket) -> Result<Identity, Error> {
    let unreachable = |error| unreachable(target, error);
    let mut buffer = Vec::new();
    let mut identity = identify(target, socket, &mut buffer).await?;
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
    // Who may not choose a name or a database may yet be in one that was chosen before, so the login is last. What is
    // refused before it, where Redis wants a login of everybody, is asked for once more.
    let all: Vec<_> = first.iter().cloned().chain((!login.is_empty()).then(|| login.clone())).collect();
    let mut replies = ask(socket, &all, &mut buffer).await.map_err(unreachable)?;
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
        replies = ask(socket, &first, &mut buffer).await.map_err(unreachable)?;
    }
    if target.db != 0
        && let Some(reply) = replies.pop()
        && refused(&reply)
    {
        return refuse(reply);
    }
    // Where Redis wants a login of everybody and the URL has none, only who has logged in could be told.
    if identity.id.is_none() && target.node.login.is_none() && target.login.is_some() {
        identity = identify(target, socket, &mut buffer).await?;
    }
    Ok(identity)
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
