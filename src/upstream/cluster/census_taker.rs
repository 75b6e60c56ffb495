//! A census taker: one connection to a node of a cluster, as the user of the upstream URL, on which the questions of the census are asked.
//!
//! It asks what it is told to, one round at a time, and reports what comes; a connection that is lost is made anew after a while.
//! What an answer means stands in [`census`](super::census). Runs as a task of `app`'s, and ends when nobody asks any more.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::ballot::Testimony;
use super::census::MemberAnswer;
use super::listing::{Listing, MemberId};
use super::slots::ClusterState;
use crate::clock::Time;
use crate::config::{Endpoint, NodeMap};
use crate::metrics::Need;
use crate::resp::{Resp, encode};
use crate::upstream::{Backoff, Connection, Node, Target, connect, read_reply, told_role};

/// The round that began then asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CensusQuestion {
    pub(crate) round: Time,
    /// The node is to list whom it knows, too.
    pub(crate) lists: bool,
}

/// What a node answered.
#[derive(Debug)]
pub(crate) struct CensusReport {
    /// Where it was asked.
    pub(crate) endpoint: Endpoint,
    /// What was answered, in that round; none: the connection is lost, or was never made.
    pub(crate) answer: Option<(MemberId, Time, MemberAnswer)>,
    /// Whom it lists, where it was asked.
    pub(crate) listing: Option<Listing>,
    /// Its time-out, told once on each connection.
    pub(crate) timeout: Option<Duration>,
}

/// See the module's head.
pub(crate) struct CensusTaker {
    pub(crate) node: Arc<Node>,
    pub(crate) node_map: NodeMap,
    /// Longest wait for a connection, and for the answers of a round.
    pub(crate) patience: Duration,
    pub(crate) questions: mpsc::Receiver<CensusQuestion>,
    pub(crate) reports: mpsc::Sender<CensusReport>,
}

/// What is known of the node on one connection.
#[derive(Default)]
struct Acquaintance {
    /// What the cluster calls it.
    id: Option<MemberId>,
    /// It has answered what its time-out is.
    has_node_timeout: bool,
}

/// Nobody asks any more.
struct Dismissed;

impl CensusTaker {
    /// Returns when nobody asks any more.
    pub(crate) async fn serve(mut self) {
        let mut backoff = Backoff::between(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            let target = Target {
                node: Arc::clone(&self.node),
                login: self.node.login(),
                db: 0,
                resp: Resp::V2,
                name: "crema-census",
            };
            let ended = match timeout(self.patience, connect(&target)).await {
                Ok(Ok(connection)) => match self.ask_on(connection, &mut backoff).await {
                    Ok(never) => match never {},
                    Err(Ok(Dismissed)) => return,
                    Err(Err(error)) => error.to_string(),
                },
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no connection in time".to_owned(),
            };
            debug!(upstream = %self.node.address, why = ended, "a connection of the census is lost");
            if self.report(None, None, None).await.is_err() {
                return;
            }
            sleep(backoff.wait()).await;
        }
    }

    async fn ask_on(
        &mut self,
        connection: Connection,
        backoff: &mut Backoff,
    ) -> Result<Infallible, Result<Dismissed, io::Error>> {
        let Connection { mut socket, permit: _permit, .. } = connection;
        let (mut buffer, mut known) = (Vec::new(), Acquaintance::default());
        loop {
            let mut question = self.questions.recv().await.ok_or(Ok(Dismissed))?;
            question.lists |= known.id.is_none();
            let exchange = async {
                socket.write_all(&questions(question, &known)).await?;
                let mut replies = Vec::new();
                for _ in 0..2 + usize::from(question.lists) + usize::from(!known.has_node_timeout) {
                    replies.push(read_reply(&mut socket, &mut buffer).await?);
                }
                io::Result::Ok(replies)
            };
            let exchanged = timeout(self.patience, exchange).await;
            let replies = exchanged.map_err(|_| Err(io::ErrorKind::TimedOut.into()))?.map_err(Err)?;
            backoff.reset();
            self.take_up(question, &replies, &mut known).await.map_err(Ok)?;
        }
    }

    async fn take_up(
        &self,
        question: CensusQuestion,
        replies: &[Vec<u8>],
        known: &mut Acquaintance,
    ) -> Result<(), Dismissed> {
        let [hello, info, rest @ ..] = replies else { return Ok(()) };
        let needs = &self.node.needs;
        needs.hear(Need::Hello, None, hello);
        needs.hear(Need::Census, None, info);
        let (listing, rest) = if question.lists { (rest.first(), &rest[1..]) } else { (None, rest) };
        if let Some(listing) = listing {
            needs.hear(Need::Census, None, listing);
        }
        let listing = listing.and_then(|reply| Listing::read(reply, &self.node.endpoint, &self.node_map));
        known.has_node_timeout = true;
        known.id = listing.as_ref().map(|listing| listing.own().id.clone()).or(known.id.take());
        let answer = known.id.clone().and_then(|id| Some((id, question.round, answer(hello, info)?)));
        self.report(answer, listing, rest.first().and_then(|reply| node_timeout(reply))).await
    }

    async fn report(
        &self,
        answer: Option<(MemberId, Time, MemberAnswer)>,
        listing: Option<Listing>,
        timeout: Option<Duration>,
    ) -> Result<(), Dismissed> {
        let endpoint = self.node.endpoint.clone();
        let sent = self.reports.send(CensusReport { endpoint, answer, listing, timeout }).await;
        sent.map_err(|_| Dismissed)
    }
}

fn questions(question: CensusQuestion, known: &Acquaintance) -> Vec<u8> {
    let mut out = Vec::new();
    encode::own_command(&mut out, &[b"HELLO"]);
    encode::own_command(&mut out, &[b"CLUSTER", b"INFO"]);
    if question.lists {
        encode::own_command(&mut out, &[b"CLUSTER", b"NODES"]);
    }
    if !known.has_node_timeout {
        encode::own_command(&mut out, &[b"CONFIG", b"GET", b"cluster-node-timeout"]);
    }
    out
}

/// The replies to `HELLO` and `CLUSTER INFO`; none where one of them is something else.
fn answer(hello: &[u8], info: &[u8]) -> Option<MemberAnswer> {
    let is_master = told_role(hello)?;
    let ClusterState { is_ok, current_epoch, size } = ClusterState::read(info)?;
    let size = usize::try_from(size).ok()?;
    Some(MemberAnswer { said: Testimony { is_master, epoch: current_epoch }, is_ok, size })
}

/// The reply to `CONFIG GET cluster-node-timeout`, in milliseconds.
fn node_timeout(reply: &[u8]) -> Option<Duration> {
    let mut lines = std::str::from_utf8(reply).ok()?.split("\r\n");
    lines.find(|line| *line == "cluster-node-timeout")?;
    Some(Duration::from_millis(lines.nth(1)?.parse().ok().filter(|&ms| ms > 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:4\r\n$4\r\nmode\r\n$7\r\ncluster\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n";
    const INFO: &str =
        "$9\r\ncluster_state:ok\r\ncluster_size:3\r\ncluster_current_epoch:6\r\ncluster_my_epoch:2\r\n\r\n";

    #[test]
    fn an_answer_is_role_number_state_and_size() {
        let read = |hello: &str, info: &str| answer(hello.as_bytes(), info.as_bytes());
        let said = |is_master| Testimony { is_master, epoch: 6 };
        assert_eq!(read(HELLO, INFO), Some(MemberAnswer { said: said(true), is_ok: true, size: 3 }));
        let replica = HELLO.replace("$6\r\nmaster", "$7\r\nreplica");
        let failing = INFO.replace("ok", "fail");
        assert_eq!(read(&replica, &failing), Some(MemberAnswer { said: said(false), is_ok: false, size: 3 }));
        assert_eq!(read("-NOPERM no\r\n", INFO), None);
        assert_eq!(read(HELLO, "-NOPERM no\r\n"), None);
    }

    #[test]
    fn a_time_out_is_told_or_not() {
        let told = b"*2\r\n$20\r\ncluster-node-timeout\r\n$4\r\n1500\r\n";
        assert_eq!(node_timeout(told), Some(Duration::from_millis(1500)));
        assert_eq!((node_timeout(b"-NOPERM no\r\n"), node_timeout(b"*0\r\n")), (None, None));
    }
}
