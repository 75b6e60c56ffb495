//! Asks one Sentinel again and again, and one replica whether it is one, and reports what they say.
//!
//! A task for each, on the control thread. They decide nothing: what they report goes to the keeper, which weighs it with `census`.
//! Six subcommands of `SENTINEL` are asked, and none that changes anything.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::statement::{NoStatement, SentinelId, Statement, my_id, questions, replicas, sentinels, statement};
use crate::clock::Time;
use crate::config::Endpoint;
use crate::net::Socket;
use crate::resp::{Resp, encode};
use crate::upstream::connect::{dial, read_reply, secure, told_role};
use crate::upstream::{Backoff, Connection, Login, Node, RotatingLogin, Target, connect};

/// A Sentinel that is silent for longer does not answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// So often it is asked who else there is.
const LISTS: Duration = Duration::from_secs(1);

/// What is told of a Sentinel that was asked at this address, or of a replica.
#[derive(Debug)]
pub(crate) enum SentinelReport {
    /// It was asked at that moment, and says this.
    Says(Endpoint, Option<SentinelId>, Statement, Time),
    /// It lists these others, and these replicas.
    Lists(Endpoint, Option<SentinelId>, Vec<(SentinelId, Endpoint)>, Vec<Endpoint>),
    /// It does not answer, or says nothing of use.
    Silent(Endpoint, String),
    /// The replica that says this address of itself is a master, or is none.
    Replica(Endpoint, bool),
}

/// As whom Sentinels are asked.
#[derive(Clone, Debug, Default)]
pub(crate) enum SentinelLogin {
    /// As nobody.
    #[default]
    None,
    /// With this, in the name of the default user where no user is given.
    Fixed(Arc<Login>, bool),
    /// With what stands in a file.
    Changes(Arc<RotatingLogin>, bool),
}

impl SentinelLogin {
    /// The command that logs in.
    async fn command(&self) -> Option<Vec<u8>> {
        let (login, named) = match self {
            Self::None => return None,
            Self::Fixed(login, named) => (Arc::clone(login), named),
            Self::Changes(source, named) => (source.at_connect().await, named),
        };
        let mut command = Vec::new();
        if *named {
            encode::own_command(&mut command, &[b"AUTH", &login.user, &login.password]);
        } else {
            encode::own_command(&mut command, &[b"AUTH", &login.password]); // a Sentinel may know no users
        }
        Some(command)
    }
}

/// What asks a Sentinel.
pub(crate) struct Inquirer {
    /// Where it is.
    pub(crate) node: Node,
    /// By which it knows the master.
    pub(crate) name: Arc<str>,
    /// As whom it is asked.
    pub(crate) login: SentinelLogin,
    /// How often.
    pub(crate) pace: watch::Receiver<Duration>,
    /// Who is told.
    pub(crate) reports: mpsc::Sender<SentinelReport>,
}

impl Inquirer {
    /// Asks until the keeper is gone. Cancel safe.
    pub(crate) async fn ask_on(mut self) {
        let mut backoff = Backoff::default();
        while !self.reports.is_closed() {
            let Err(why) = self.ask_on_one(&mut backoff).await;
            self.tell(SentinelReport::Silent(self.node.endpoint.clone(), why)).await;
            let pace = *self.pace.borrow();
            sleep(backoff.wait().min(pace.max(Duration::from_millis(100)))).await;
        }
    }

    async fn tell(&self, report: SentinelReport) {
        let _ = self.reports.send(report).await; // nobody listens: the process ends
    }

    /// Asks on one connection until that fails, or the Sentinel says nothing of use.
    async fn ask_on_one(&mut self, backoff: &mut Backoff) -> Result<Infallible, String> {
        let (mut line, id) = self.connect().await?;
        let (mut watched, mut listed) = (None, None::<Instant>);
        let at = self.node.endpoint.clone();
        loop {
            let (asked, began) = (Time::now(), Instant::now());
            let questions = questions(&self.name, watched.as_ref());
            let [vote, named, master] = line.ask(&questions).await?;
            let said = statement(watched.as_ref(), [&vote, &named, &master]).map_err(|nothing| self.about(&nothing))?;
            let is_new = watched.replace(said.watched.clone()).is_none_or(|before| before != said.watched);
            backoff.reset();
            self.tell(SentinelReport::Says(at.clone(), id.clone(), said, asked)).await;
            if listed.is_none_or(|listed| listed.elapsed() >= LISTS) {
                let name = self.name.as_bytes();
                let ask = [b"SENTINELS".as_slice(), b"REPLICAS"]
                    .map(|list| [b"SENTINEL", list, name].map(<[u8]>::to_vec).to_vec());
                let [others, followers] = line.ask(&ask).await?;
                let (others, followers) = (sentinels(&others), replicas(&followers));
                let others = others.map_err(|nothing| self.about(&nothing))?;
                let followers = followers.map_err(|nothing| self.about(&nothing))?;
                self.tell(SentinelReport::Lists(at.clone(), id.clone(), others, followers)).await;
                listed = Some(began);
            }
            // Its vote could not be seen the first time.
            if !is_new {
                self.rest(began).await;
            }
        }
    }

    /// Until it is to be asked again: at once where it is to be asked more often than before.
    async fn rest(&mut self, began: Instant) {
        let pace = *self.pace.borrow_and_update();
        tokio::select! {
            () = sleep_until(began + pace) => {}
            _ = self.pace.changed() => {}
        }
    }

    /// A connection on which it can be asked, and what the Sentinel calls itself, where it says so.
    async fn connect(&self) -> Result<(SentinelLine, Option<SentinelId>), String> {
        let login = self.login.command().await;
        let made = async {
            let socket = secure(&self.node, dial(&self.node).await?).await?;
            io::Result::Ok(SentinelLine { socket, buffer: Vec::new() })
        };
        let made = timeout(self.node.connect_timeout, made).await;
        let mut line = made.map_err(|_| "no connection in time".to_owned())?.map_err(|error| error.to_string())?;
        if let Some(login) = login {
            let [reply] = line.exchange(&login).await?;
            if reply.starts_with(b"-") {
                return Err(format!("it refuses the login: {}", String::from_utf8_lossy(&reply[1..]).trim()));
            }
        }
        let [reply] = line.ask(&[vec![b"SENTINEL".to_vec(), b"MYID".to_vec()]]).await?;
        Ok((line, my_id(&reply)))
    }

    fn about(&self, nothing: &NoStatement) -> String {
        match nothing {
            NoStatement::UnknownName => format!("it knows no master named `{}`", self.name),
            NoStatement::Refused(said) => format!("it refuses a question: {said}"),
            NoStatement::Unreadable => "it does not answer as a Sentinel does".to_owned(),
        }
    }
}

/// A connection to a Sentinel.
struct SentinelLine {
    socket: Socket,
    /// What came beyond the replies read so far.
    buffer: Vec<u8>,
}

impl SentinelLine {
    /// The replies to questions that are sent in one write.
    async fn ask<const N: usize>(&mut self, questions: &[Vec<Vec<u8>>; N]) -> Result<[Vec<u8>; N], String> {
        let mut out = Vec::new();
        for words in questions {
            encode::own_command(&mut out, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        self.exchange(&out).await
    }

    /// The replies to so many commands.
    async fn exchange<const N: usize>(&mut self, commands: &[u8]) -> Result<[Vec<u8>; N], String> {
        let asked = async {
            self.socket.write_all(commands).await?;
            let mut replies = [const { Vec::new() }; N];
            for reply in &mut replies {
                *reply = read_reply(&mut self.socket, &mut self.buffer).await?;
            }
            io::Result::Ok(replies)
        };
        let replies = timeout(PATIENCE, asked).await.map_err(|_| "it is silent".to_owned())?;
        replies.map_err(|error| error.to_string())
    }
}

/// Asks a replica again and again whether it is one, and reports it by the address that Sentinels give, until the keeper is gone. Cancel
/// safe.
pub(crate) async fn scout(
    said: Endpoint,
    node: Arc<Node>,
    mut pace: watch::Receiver<Duration>,
    reports: mpsc::Sender<SentinelReport>,
) {
    let mut backoff = Backoff::default();
    while !reports.is_closed() {
        let login = node.login();
        let target = Target { node: Arc::clone(&node), login, db: 0, resp: Resp::V2, name: "crema-scout" };
        if let Ok(Connection { mut socket, permit: _permit, .. }) = connect(&target).await {
            let mut buffer = Vec::new();
            while let Some(is_master) = role(&mut socket, &mut buffer).await {
                backoff.reset();
                let _ = reports.send(SentinelReport::Replica(said.clone(), is_master)).await;
                let period = *pace.borrow_and_update();
                tokio::select! {
                    () = sleep(period) => {}
                    changed = pace.changed() => if changed.is_err() { return },
                }
            }
        }
        sleep(backoff.wait()).await;
    }
}

/// Whether the server says that it is a master; none where it says nothing of it.
pub(crate) async fn role(socket: &mut Socket, buffer: &mut Vec<u8>) -> Option<bool> {
    let mut hello = Vec::new();
    encode::own_command(&mut hello, &[b"HELLO"]);
    let asked = async {
        socket.write_all(&hello).await?;
        read_reply(socket, buffer).await
    };
    let reply = timeout(PATIENCE, asked).await.ok()?.ok()?;
    told_role(&reply)
}
