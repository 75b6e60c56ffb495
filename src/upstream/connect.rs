//! A connection to a node, made and made ready: dial, name, database, `HELLO` or `AUTH`.
//!
//! It begins with the question which server this is, for two that answer at one address are never used as one. All of it is
//! answered before the first command goes out, so that a command never runs as another user or in another database than it was
//! meant for. A login goes alone: from 7.2 on Redis gives no reply to one that it refuses while it has
//! another reply to send (acl.c, `addAuthErrReply`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tracing::debug;

use super::generation::run_id;
use super::{Login, Node, Permit, Purpose, Target};
use crate::clock::Time;
use crate::config::Endpoint;
use crate::error::{Error, is_forbidden, is_full, is_passing};
use crate::metrics::Need;
use crate::net::{self, Socket};
use crate::resp::{Resp, Split, Splitter, encode};

/// So often a server is asked what it allows before a connection goes without: it may be busy.
const SURVEYS: u32 = 2;

/// A connection on which the handshake is over. Nothing is in flight on it.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The stream.
    pub socket: Socket,
    /// Counts against `max_upstream` while held.
    pub permit: Permit,
    /// The generation of the server that it was made to.
    pub generation: u64,
    /// What the server calls it, as `CLIENT ID` says; none where nobody may ask.
    pub id: Option<u64>,
    /// The login that it was made with, which may be newer than the one that was asked for.
    pub login: Option<Arc<Login>>,
}

/// Dials the node and runs the handshake, for crema itself. Cancel safe: dropping the future closes the connection.
///
/// Fails with [`Error::Unreachable`], [`Error::Timeout`] after the node's `connect_timeout` or `handshake_timeout`,
/// [`Error::UpstreamLimit`], [`Error::LoginRefused`], or [`Error::Refused`] with Redis's own reply when it takes no more clients,
/// or refuses the protocol version or the database. A refused name is no failure: an ACL may forbid `CLIENT SETNAME`.
pub(crate) async fn connect(target: &Target) -> Result<Connection, Error> {
    connect_by(target, Purpose::Own, &[]).await
}

/// The same for a session, or sessions, of a user who may be in a database that it may not select, for it came there as another:
/// `entrants` are logins that may have the right, tried in turn. A login of crema's own whose password has changed is used as it
/// is now.
pub(crate) async fn connect_by(
    target: &Target,
    purpose: Purpose,
    entrants: &[Arc<Login>],
) -> Result<Connection, Error> {
    let Some((source, login)) = target.node.renewed(target.login.as_ref()).await else {
        return connect_as_told(target, purpose, entrants).await;
    };
    let with = |login: &Arc<Login>| Target { login: Some(Arc::clone(login)), ..target.clone() };
    let made = connect_as_told(&with(&login), purpose, entrants).await;
    let last = source.proved().filter(|last| *last != login && matches!(made, Err(Error::LoginRefused { .. })));
    let (made, login) = match last {
        // The server may come to know the new one later than its file does.
        Some(last) => (connect_as_told(&with(&last), purpose, entrants).await, last),
        None => (made, login),
    };
    if made.is_ok() {
        source.prove(&login);
    }
    made
}

/// The same with the very login of `target`, as it must be where a client proved it: one that is revoked is of no use any more.
pub(crate) async fn connect_as_told(
    target: &Target,
    purpose: Purpose,
    entrants: &[Arc<Login>],
) -> Result<Connection, Error> {
    let node = &target.node;
    let mut surveys = 0;
    loop {
        let permit = node.budget.permit(purpose).await?;
        let begun = Time::now();
        let made = async {
            let mut handshake = Handshake { target, socket: open(node).await?, buffer: Vec::new() };
            let identity = in_time(node, handshake.run(entrants)).await?;
            Ok(identity.of(handshake, permit, begun))
        };
        let made = known(target, made.await)?;
        // One of a former generation carries nothing any more, and what its server allows is of no interest.
        if made.generation != node.generation.number() || !node.survey.is_due(made.generation) || surveys == SURVEYS {
            return Ok(made);
        }
        surveys += 1;
        let asked = async {
            let asked = node.survey.ask(made, target.login.as_deref(), node).await;
            asked.map_err(|source| unreachable(node, source))
        };
        if let Some(unused) = in_time(node, asked).await? {
            return Ok(unused);
        }
    }
}

/// Dials the node and says nothing of who it is: for who is about to log in, or to hear that it must. Fails, and may be
/// cancelled, as [`connect`].
pub(crate) async fn connect_unproved(node: &Arc<Node>) -> Result<Connection, Error> {
    let target = Target { node: Arc::clone(node), login: None, db: 0, resp: Resp::V2, name: "" };
    let permit = node.budget.permit(Purpose::Own).await?;
    let begun = Time::now();
    let made = async {
        let mut handshake = Handshake { target: &target, socket: open(node).await?, buffer: Vec::new() };
        let identity = in_time(node, handshake.identify()).await?;
        Ok(identity.of(handshake, permit, begun))
    };
    known(&target, made.await)
}

/// Makes a connection of `target`'s user ready for `target`; it spoke version `resp` in database `db`. Fails as [`connect`],
/// and the connection is gone then.
pub(crate) async fn adapt(
    connection: Connection,
    (resp, db): (Resp, u32),
    target: &Target,
) -> Result<Connection, Error> {
    let Connection { socket, .. } = connection;
    let mut handshake = Handshake { target, socket, buffer: Vec::new() };
    in_time(&target.node, handshake.adapt(resp, db)).await?;
    Ok(Connection { socket: handshake.socket, ..connection })
}

/// What became of a try, which may put in doubt that the node is there.
fn known(target: &Target, made: Result<Connection, Error>) -> Result<Connection, Error> {
    let user = target.login.as_ref().map_or("default".into(), |login| String::from_utf8_lossy(&login.user));
    let (node, name, db) = (&target.node, target.name, target.db);
    let upstream = &node.address;
    // It may have left while the connection was made, which then counts among those that were made before.
    let made = if node.is_gone() { Err(unreachable(node, gone())) } else { made };
    match &made {
        Ok(connection) => debug!(%upstream, name, %user, db, local = connection.socket.local(), "connected"),
        Err(error) => debug!(%upstream, name, %user, db, %error, "not connected"),
    }
    if !node.is_gone()
        && made.as_ref().is_err_and(|error| !matches!(error, Error::Refused { .. } | Error::LoginRefused { .. }))
    {
        node.presence.doubt();
    }
    made
}

/// What `done` gives, where the handshake does not take too long.
async fn in_time<T>(node: &Node, done: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(node.handshake_timeout, done).await.unwrap_or_else(|_| Err(late(node, node.handshake_timeout)))
}

fn late(node: &Node, after: Duration) -> Error {
    Error::Timeout { node: Arc::clone(&node.address), after }
}

async fn open(node: &Node) -> Result<Socket, Error> {
    let dialed = timeout(node.connect_timeout, dial(node)).await.map_err(|_| late(node, node.connect_timeout))?;
    let socket = dialed.map_err(|source| unreachable(node, source))?;
    in_time(node, async { secure(node, socket).await.map_err(|source| unreachable(node, source)) }).await
}

/// A stream to the node, on which nothing was said yet. A name is looked up each time, and all its addresses are tried. Cancel safe.
pub(super) async fn dial(node: &Node) -> io::Result<Socket> {
    if node.is_gone() {
        return Err(gone());
    }
    Ok(match &node.endpoint {
        Endpoint::Tcp { host, port } => Socket::upstream(net::dial(host, *port).await?),
        Endpoint::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
    })
}

/// The same under TLS, where the node speaks that. A node that took the connection and is silent here is there. Cancel safe.
pub(super) async fn secure(node: &Node, socket: Socket) -> io::Result<Socket> {
    match (&node.tls, &node.endpoint) {
        (Some(tls), Endpoint::Tcp { host, .. }) => socket.secure(tls, host).await,
        _ => Ok(socket),
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "another is the master, or none is known")
}

fn unreachable(node: &Node, source: io::Error) -> Error {
    Error::Unreachable { node: Arc::clone(&node.address), source: Arc::new(source) }
}

/// What the server says that it is, and what it calls the connection.
#[derive(Default)]
struct ServerIdentity {
    run_id: Option<Box<[u8]>>,
    id: Option<u64>,
}

impl ServerIdentity {
    /// The connection that was made ready, begun at `begun`.
    fn of(self, Handshake { target, socket, .. }: Handshake<'_>, permit: Permit, begun: Time) -> Connection {
        let (node, now) = (&target.node, Time::now());
        node.heard(now);
        let generation = match self.run_id {
            Some(run_id) => node.generation.of(&run_id, begun, now),
            None => node.generation.number(),
        };
        Connection { socket, permit, generation, id: self.id, login: target.login.clone() }
    }
}

/// A connection that is being made ready.
struct Handshake<'a> {
    target: &'a Target,
    socket: Socket,
    /// What came beyond the replies read so far.
    buffer: Vec<u8>,
}

/// Redis's refusals of a name and of a database, where there were any.
#[derive(Default)]
struct EntryRefusals {
    name: Option<Vec<u8>>,
    db: Option<Vec<u8>>,
}

impl EntryRefusals {
    fn is_whole(&self) -> bool {
        self.name.is_none() && self.db.is_none()
    }
}

impl Handshake<'_> {
    async fn run(&mut self, entrants: &[Arc<Login>]) -> Result<ServerIdentity, Error> {
        let identity = self.identify().await?;
        self.prepare(entrants).await?;
        // Where Redis wants a login of everybody and the URL has none, only who has logged in could be told.
        if identity.id.is_none() && self.target.node.login().is_none() && self.target.login.is_some() {
            return self.identify().await;
        }
        Ok(identity)
    }

    /// Asks which server this is, as the user of the upstream URL: a client's own may not know. The connection of a client that
    /// has not logged in is not logged in for it either.
    async fn identify(&mut self) -> Result<ServerIdentity, Error> {
        let Target { node, login, .. } = self.target;
        let own = node.login().filter(|_| login.is_some());
        let own = own.as_deref().map(|own| [&b"AUTH"[..], &own.user, &own.password]);
        let mut questions: Vec<&[&[u8]]> = Vec::with_capacity(3);
        questions.extend(own.as_ref().map(|own| &own[..])); // the first, so that its own reply is never missing
        questions.push(&[b"CLIENT", b"ID"]);
        if node.generation.may_ask() {
            questions.push(&[b"INFO", b"server"]);
        }
        let mut replies = self.ask(&questions).await?.into_iter().skip(usize::from(own.is_some()));
        let mut identity = ServerIdentity::default();
        if let Some(reply) = replies.next() {
            node.needs.hear(Need::ClientId, None, &reply);
            identity.id = std::str::from_utf8(&reply).ok().and_then(|id| id.strip_prefix(':')?.trim_end().parse().ok());
        }
        match replies.next() {
            // Who was refused for another reason, such as asking too often, may ask the next time.
            Some(reply) if node.needs.hear(Need::Info, None, &reply) && is_forbidden(&reply) => {
                node.generation.refuse();
            }
            Some(reply) => identity.run_id = run_id(&reply).map(Box::from),
            None => {}
        }
        Ok(identity)
    }

    async fn prepare(&mut self, entrants: &[Arc<Login>]) -> Result<(), Error> {
        let Some(login) = self.target.login.as_deref() else {
            // Sent though it may change nothing: it shows whether Redis wants a login by now.
            let reply = self.one(&[b"HELLO", version(self.target.resp)]).await?;
            if reply.starts_with(b"-NOAUTH") {
                return Err(self.login_refused(reply));
            }
            if self.target.resp == Resp::V3 {
                self.target.node.needs.hear(Need::Hello, None, &reply);
            }
            if is_error(&reply) && (self.target.resp == Resp::V3 || is_full(&reply)) {
                return Err(self.refused(reply));
            }
            let refusal = self.enter_at_last().await?.db;
            return refusal.map_or(Ok(()), |refusal| Err(self.refused(refusal)));
        };
        // Who may not choose a name or a database may yet be in one that was chosen before, so the login is last. Where Redis
        // wants a login of everybody it refuses what comes before, which is then asked for once more.
        let before = self.enter().await?;
        self.log_in(login).await?;
        if before.is_whole() {
            return Ok(());
        }
        let Some(refusal) = self.enter_at_last().await?.db else { return Ok(()) };
        for entrant in entrants.iter().filter(|entrant| ***entrant != *login) {
            if is_error(&self.one(&[b"AUTH", &entrant.user, &entrant.password]).await?) {
                continue;
            }
            let refused = is_error(&self.one(&[b"SELECT", self.target.db.to_string().as_bytes()]).await?);
            self.log_in(login).await?;
            if !refused {
                return Ok(());
            }
        }
        Err(self.refused(refusal))
    }

    /// The same where what is refused is refused for good.
    async fn enter_at_last(&mut self) -> Result<EntryRefusals, Error> {
        let refusals = self.enter().await?;
        let Target { node, login, .. } = self.target;
        let user = login.as_ref().map(|login| &*login.user);
        if let Some(reply) = &refusals.name {
            node.needs.hear(Need::ClientSetName, user, reply);
        }
        if let Some(reply) = refusals.db.as_ref().filter(|reply| is_forbidden(reply)) {
            node.needs.hear(Need::Select, user, reply);
        }
        Ok(refusals)
    }

    /// The name and the database.
    async fn enter(&mut self) -> Result<EntryRefusals, Error> {
        let Target { name, db, .. } = *self.target;
        let number = db.to_string();
        let mut commands: Vec<&[&[u8]]> = Vec::new();
        let (named, selected) = ([&b"CLIENT"[..], b"SETNAME", name.as_bytes()], [&b"SELECT"[..], number.as_bytes()]);
        if !name.is_empty() {
            commands.push(&named);
        }
        if db != 0 {
            commands.push(&selected);
        }
        let mut refusals = self.ask(&commands).await?.into_iter().map(|reply| is_error(&reply).then_some(reply));
        let name = if name.is_empty() { None } else { refusals.next().flatten() };
        Ok(EntryRefusals { name, db: refusals.next().flatten() })
    }

    /// The login, and with it the version.
    async fn log_in(&mut self, login: &Login) -> Result<(), Error> {
        let Login { user, password } = login;
        let (reply, other) = match self.target.resp {
            Resp::V2 => (self.one(&[b"AUTH", user, password]).await?, None),
            Resp::V3 => {
                (self.one(&[b"HELLO", b"3", b"AUTH", user, password]).await?, Some([&b"-ERR"[..], b"-NOPROTO"]))
            }
        };
        let is_other = other.is_some_and(|begins| begins.iter().any(|with| reply.starts_with(with)));
        if self.target.resp == Resp::V3 && (is_other || reply.starts_with(b"-NOPERM")) {
            return self.log_in_first(login).await;
        }
        match reply {
            reply if !is_error(&reply) => Ok(()),
            reply if is_passing(&reply) || is_other => Err(self.refused(reply)),
            reply => Err(self.login_refused(reply)),
        }
    }

    /// The same where HELLO is not for whoever has not logged in, or for nobody.
    async fn log_in_first(&mut self, Login { user, password }: &Login) -> Result<(), Error> {
        let reply = self.one(&[b"AUTH", user, password]).await?;
        if is_error(&reply) {
            return Err(if is_passing(&reply) { self.refused(reply) } else { self.login_refused(reply) });
        }
        let reply = self.one(&[b"HELLO", version(self.target.resp)]).await?;
        self.target.node.needs.hear(Need::Hello, Some(user), &reply);
        if is_error(&reply) { Err(self.refused(reply)) } else { Ok(()) }
    }

    /// It is its target's user, in this version and database.
    async fn adapt(&mut self, resp: Resp, db: u32) -> Result<(), Error> {
        self.one(&[b"CLIENT", b"SETNAME", self.target.name.as_bytes()]).await?;
        for step in steps((resp, db), (self.target.resp, self.target.db)) {
            let mut replies = self.exchange(&step.command, 1).await?;
            if replies.first().is_none_or(|reply| reply.first() != Some(&step.done)) {
                return Err(self.refused(replies.pop().unwrap_or_default()));
            }
        }
        Ok(())
    }

    /// Sends one command and reads its reply.
    async fn one(&mut self, command: &[&[u8]]) -> Result<Vec<u8>, Error> {
        Ok(self.ask(&[command]).await?.remove(0))
    }

    /// Sends commands in one write and reads their replies. A server that is full says so, once, before any of them.
    async fn ask(&mut self, commands: &[&[&[u8]]]) -> Result<Vec<Vec<u8>>, Error> {
        let mut out = Vec::with_capacity(128);
        for command in commands {
            encode::own_command(&mut out, command);
        }
        self.exchange(&out, commands.len()).await
    }

    /// The same of commands that are written already.
    async fn exchange(&mut self, commands: &[u8], count: usize) -> Result<Vec<Vec<u8>>, Error> {
        let exchange = async {
            self.socket.write_all(commands).await?;
            let mut replies = Vec::with_capacity(count);
            for _ in 0..count {
                let reply = read_reply(&mut self.socket, &mut self.buffer).await?;
                replies.push(reply);
                if is_full(&replies[0]) {
                    break;
                }
            }
            Ok(replies)
        };
        let mut replies = exchange.await.map_err(|source| unreachable(&self.target.node, source))?;
        if replies.first().is_some_and(|reply| is_full(reply)) {
            return Err(self.refused(replies.swap_remove(0)));
        }
        Ok(replies)
    }

    fn refused(&self, reply: Vec<u8>) -> Error {
        Error::Refused { node: Arc::clone(&self.target.node.address), reply: reply.into() }
    }

    fn login_refused(&self, reply: Vec<u8>) -> Error {
        Error::LoginRefused { node: Arc::clone(&self.target.node.address), reply: reply.into() }
    }
}

/// A command that takes a connection to another version or database.
pub(crate) struct Step {
    /// Whole.
    pub command: Vec<u8>,
    /// With what the reply begins once it has.
    pub done: u8,
}

/// What takes a connection that is in one version and database `to` others.
pub(crate) fn steps(from: (Resp, u32), to: (Resp, u32)) -> impl Iterator<Item = Step> {
    let step = |command: &[&[u8]], done| {
        let mut whole = Vec::new();
        encode::own_command(&mut whole, command);
        Step { command: whole, done }
    };
    let ((resp, db), map) = (to, if to.0 == Resp::V2 { b'*' } else { b'%' });
    let hello = (from.0 != resp).then(|| step(&[b"HELLO", version(resp)], map));
    let select = (from.1 != db).then(|| step(&[b"SELECT", db.to_string().as_bytes()], b'+'));
    hello.into_iter().chain(select)
}

fn version(resp: Resp) -> &'static [u8] {
    match resp {
        Resp::V2 => b"2",
        Resp::V3 => b"3",
    }
}

fn is_error(reply: &[u8]) -> bool {
    reply.starts_with(b"-")
}

/// Reads one whole reply; `buffer` keeps what came beyond it for the next call. For handshakes and checks, not for data:
/// a reply over 1 MiB is an error. Cancel safe: bytes already read stay in `buffer`.
pub(crate) async fn read_reply(socket: &mut Socket, buffer: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    read_reply_to(1 << 20, socket, buffer).await
}

/// The same of data: a reply over `largest` bytes is an error.
pub(crate) async fn read_reply_to(largest: usize, socket: &mut Socket, buffer: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let (mut splitter, mut seen) = (Splitter::default(), 0);
    loop {
        match splitter.split(&buffer[seen..]) {
            Ok(Split::End(len)) => {
                let rest = buffer.split_off(seen + len);
                return Ok(std::mem::replace(buffer, rest));
            }
            Ok(Split::More) if buffer.len() < largest => seen = buffer.len(),
            Ok(Split::More) => return Err(io::Error::new(io::ErrorKind::InvalidData, "reply too large")),
            Err(malformed) => return Err(io::Error::new(io::ErrorKind::InvalidData, malformed.to_string())),
        }
        if socket.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Whether a server says in its reply to `HELLO`, an array of names and values or a map, that it is a master; none where it says nothing
/// of its role.
pub(crate) fn told_role(hello: &[u8]) -> Option<bool> {
    let says = |role: &[u8]| hello.windows(role.len()).any(|part| part == role);
    if says(b"$4\r\nrole\r\n$6\r\nmaster\r\n") { Some(true) } else { says(b"$4\r\nrole\r\n").then_some(false) }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn who_may_not_ask_for_info_is_not_asked_again_and_who_asked_too_often_is() {
        for (says, asks) in [
            ("-ERR max requests limit exceeded\r\n", true),
            ("-NOPERM User u has no permissions to run the 'info' command\r\n", false),
            ("-ERR unknown command 'INFO', with args beginning with: 'server' \r\n", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let port = listener.local_addr().expect("it listens").port();
            let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port };
            let node = Arc::new(Node::new(endpoint, 3, Duration::from_secs(10)));
            let answers = async {
                let (mut server, _) = listener.accept().await.expect("a client");
                server.write_all(format!(":7\r\n{says}").as_bytes()).await.expect("it reads");
                server
            };
            let (made, _server) = tokio::join!(connect_unproved(&node), answers);
            made.expect("it does without");
            assert_eq!(node.generation.may_ask(), asks, "{says}");
        }
    }

    #[test]
    fn only_what_differs_is_changed_and_the_version_first() {
        let said = |from, to| {
            let steps = steps(from, to).map(|step| (String::from_utf8(step.command).expect("text"), step.done));
            steps.collect::<Vec<_>>()
        };
        let (hello, select) = ("*2\r\n$5\r\nhELLO\r\n$1\r\n3\r\n", "*2\r\n$6\r\nsELECT\r\n$1\r\n7\r\n");
        assert_eq!(said((Resp::V2, 7), (Resp::V2, 7)), []);
        assert_eq!(said((Resp::V2, 0), (Resp::V3, 7)), [(hello.to_owned(), b'%'), (select.to_owned(), b'+')]);
        assert_eq!(said((Resp::V3, 0), (Resp::V3, 7)), [(select.to_owned(), b'+')]);
        assert_eq!(said((Resp::V3, 7), (Resp::V2, 7)).len(), 1);
    }
}
