//! The connection to a tier: one task, which sends what is asked by all workers one behind the other and hands out the answers.
//!
//! A connection is made when something is asked and none is there. Where it breaks, whoever waits is told; nothing is asked twice, and
//! nothing waits for a connection for longer than the tier may take to answer.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::dialect::{Dialect, TierQuestion, shown};
use crate::config::{Endpoint, TierServer};
use crate::net::tls::Dialer;
use crate::net::{self, Socket};
use crate::resp::encode;
use crate::upstream::read_reply;

/// So many questions may wait for a tier.
pub(super) const QUEUE: usize = 1024;
/// And be under way.
const UNDER_WAY: usize = 1024;
/// An answer is no longer.
const LONGEST: usize = 1 << 30;

/// One question, and who waits for its answers.
pub(super) struct TierErrand {
    pub(super) question: TierQuestion,
    pub(super) told: oneshot::Sender<Result<Vec<Vec<u8>>, String>>,
    /// For as long as it is here.
    pub(super) _room: OwnedSemaphorePermit,
}

/// Where a tier is, and as whom it is asked.
#[derive(Clone)]
pub(super) struct TierAddress {
    pub(super) endpoint: Endpoint,
    tls: Option<Arc<Dialer>>,
    /// What is said first: each is answered with `+OK`.
    greeting: Arc<[Vec<u8>]>,
    pub(super) dialect: Dialect,
    /// How long anything may take.
    pub(super) patience: Duration,
}

/// Questions of which the answers are awaited, each with what came so far and until when.
type PendingErrands = VecDeque<(TierErrand, Vec<Vec<u8>>, Instant)>;

impl TierAddress {
    pub(super) fn new(server: &TierServer, tls: Option<Dialer>, patience: Duration) -> Self {
        let tls = tls.map(Arc::new);
        match server {
            TierServer::Memcached(endpoint) => {
                let (endpoint, greeting) = (endpoint.clone(), Arc::default());
                Self { endpoint, tls, greeting, dialect: Dialect::Memcached, patience }
            }
            TierServer::Redis(server) => {
                let mut greeting = Vec::new();
                let mut say = |words: &[&[u8]]| {
                    let mut command = Vec::new();
                    encode::command(&mut command, words);
                    greeting.push(command);
                };
                if let Some(password) = &server.password {
                    let password = password.expose().as_bytes();
                    match &server.user {
                        Some(user) => say(&[b"AUTH", user.as_bytes(), password]),
                        None => say(&[b"AUTH", password]),
                    }
                }
                if server.db > 0 {
                    say(&[b"SELECT", server.db.to_string().as_bytes()]);
                }
                Self {
                    endpoint: server.node.clone(),
                    tls,
                    greeting: greeting.into(),
                    dialect: Dialect::Redis,
                    patience,
                }
            }
        }
    }

    /// The same as this at another node.
    pub(super) fn at(&self, endpoint: Endpoint) -> Self {
        Self { endpoint, ..self.clone() }
    }

    /// The reply to one command, on a connection for that alone.
    pub(super) async fn ask_alone(&self, words: &[&[u8]]) -> io::Result<Vec<u8>> {
        let mut socket = self.connect().await?;
        let mut command = Vec::new();
        encode::command(&mut command, words);
        socket.write_all(&command).await?;
        socket.flush().await?;
        read_reply(&mut socket, &mut Vec::new()).await
    }

    /// Serves what is asked until nobody can ask any more.
    pub(super) async fn serve(self, mut asked: mpsc::Receiver<TierErrand>) {
        while let Some(first) = asked.recv().await {
            if first.told.is_closed() {
                continue; // who asked has waited long enough before it was its turn
            }
            match timeout(self.patience, self.connect()).await {
                Ok(Ok(socket)) => {
                    let why = self.converse(socket, first, &mut asked).await;
                    tracing::debug!(tier = %self.endpoint, "the connection to a tier has ended: {why}");
                }
                Ok(Err(why)) => refuse(first, &why.to_string()),
                Err(_) => refuse(first, "it takes no connection in time"),
            }
        }
    }

    async fn connect(&self) -> io::Result<Socket> {
        let mut socket = match &self.endpoint {
            Endpoint::Tcp { host, port } => Socket::upstream(net::dial(host, *port).await?),
            Endpoint::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
        };
        if let (Some(tls), Endpoint::Tcp { host, .. }) = (&self.tls, &self.endpoint) {
            socket = socket.secure(tls, host).await?;
        }
        let mut buffer = Vec::new();
        for command in &*self.greeting {
            socket.write_all(command).await?;
            socket.flush().await?;
            let reply = read_reply(&mut socket, &mut buffer).await?;
            if !reply.starts_with(b"+") {
                return Err(io::Error::other(shown(&reply)));
            }
        }
        Ok(socket)
    }

    /// Asks and hands out until the connection ends; why it did.
    async fn converse(&self, socket: Socket, first: TierErrand, asked: &mut mpsc::Receiver<TierErrand>) -> String {
        let (mut from, mut to) = split(socket);
        let (mut input, mut output) = (Vec::new(), Vec::new());
        let mut awaited = PendingErrands::new();
        self.take(first, &mut awaited, &mut output);
        let why = loop {
            let late = awaited.front().map_or_else(|| Instant::now() + Duration::from_secs(3600), |(.., until)| *until);
            tokio::select! {
                errand = asked.recv(), if awaited.len() < UNDER_WAY => match errand {
                    Some(errand) => self.take(errand, &mut awaited, &mut output),
                    None => break "nobody asks any more".to_owned(),
                },
                written = to.write(&output), if !output.is_empty() => match written {
                    Ok(0) => break "it takes nothing".to_owned(),
                    Ok(len) => {
                        output.drain(..len);
                        if output.is_empty() {
                            match timeout_at(late, to.flush()).await {
                                Ok(Ok(())) => {}
                                Ok(Err(error)) => break error.to_string(),
                                Err(_) => break "it takes nothing in time".to_owned(),
                            }
                        }
                    }
                    Err(error) => break error.to_string(),
                },
                read = from.read_buf(&mut input) => match read {
                    Ok(0) => break "it has closed the connection".to_owned(),
                    Ok(_) => if let Err(why) = self.hand_out(&mut input, &mut awaited) {
                        break why;
                    },
                    Err(error) => break error.to_string(),
                },
                () = sleep_until(late), if !awaited.is_empty() => break "it does not answer in time".to_owned(),
            }
        };
        for (errand, ..) in awaited {
            refuse(errand, &why);
        }
        why
    }

    fn take(&self, errand: TierErrand, awaited: &mut PendingErrands, output: &mut Vec<u8>) {
        if errand.told.is_closed() {
            return; // who asked has waited long enough before it was its turn
        }
        errand.question.commands().iter().for_each(|command| output.extend_from_slice(command));
        awaited.push_back((errand, Vec::new(), Instant::now() + self.patience));
    }

    fn hand_out(&self, input: &mut Vec<u8>, awaited: &mut PendingErrands) -> Result<(), String> {
        let mut at = 0;
        while let Some(len) = self.dialect.split(&input[at..])? {
            let Some((errand, answers, _)) = awaited.front_mut() else {
                return Err("it says more than was asked".into());
            };
            answers.push(input[at..at + len].to_vec());
            at += len;
            if answers.len() >= errand.question.commands().len()
                && let Some((errand, answers, _)) = awaited.pop_front()
            {
                let _ = errand.told.send(Ok(answers)); // who asked may have gone
            }
        }
        input.drain(..at);
        if input.len() > LONGEST { Err("an answer is too long".to_owned()) } else { Ok(()) }
    }
}

fn refuse(errand: TierErrand, why: &str) {
    let _ = errand.told.send(Err(why.to_owned())); // who asked may have gone
}
