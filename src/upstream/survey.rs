//! What the server behind an address allows, found out by trying: once for each generation, before a connection to it carries
//! anything.
//!
//! What coherence rests on differs by that (`invalidation/mode`), and writes go otherwise: so nothing is sent before it is known,
//! at start and after a failover (point 4); a write that was taken up before is told of afterwards (`proxy/write_guard`). And what
//! crema must do without is told then, not when it is first missed. It is asked as the user of the upstream URL, or where that
//! has none as the user of the connection that is made first: what that one is refused is refused to all until another server
//! stands there, for a crema that had it from another user would not be told what the rest of the fleet writes. That connection
//! is given up afterwards, for it may track keys or have subscribed. Called by `connect`; what is tried, and what follows from
//! it, `app` gives.

use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;

use super::connect::read_reply;
use super::{Connection, Login, Needs, Node};
use crate::error::is_passing;
use crate::metrics::{CoherenceMeans, Need};
use crate::resp::encode;

/// One way, and the commands that it needs, each with one reply.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What the server allows where it refuses none of them.
    pub means: CoherenceMeans,
    /// Each command's words.
    pub commands: Vec<Vec<Vec<u8>>>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SurveyFinding {
    /// The first way that the server allows; [`CoherenceMeans::Nothing`] where it allows none.
    pub means: CoherenceMeans,
    /// What it said to the ways before, without CRLF.
    pub refusals: Vec<(CoherenceMeans, String)>,
    /// The client's user as whom it was asked, where the URL of the upstream has none.
    pub client: Option<String>,
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct Survey {
    plan: OnceLock<SurveyPlan>,
    /// The generation that was asked last, and one more; 0: none was.
    asked: AtomicU64,
    asking: Mutex<()>,
}

struct SurveyPlan {
    trials: Vec<Trial>,
    told: Box<dyn Fn(SurveyFinding) + Send + Sync>,
}

impl fmt::Debug for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Survey").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Survey {
    /// `trials` are to be made with each generation, and where there are some `told` is called with what is found, before any
    /// connection of it can be used. To be given once, at start; without it nothing is asked.
    pub(crate) fn plan(&self, trials: Vec<Trial>, told: impl Fn(SurveyFinding) + Send + Sync + 'static) {
        let _ = self.plan.set(SurveyPlan { trials, told: Box::new(told) });
    }

    /// Whether the server of this generation is to be asked before a connection to it is used.
    pub(super) fn is_due(&self, generation: u64) -> bool {
        self.plan.get().is_some() && self.asked.load(Ordering::Acquire) != generation + 1
    }

    /// Asks on a connection to `node` that was just made, as `login` where the node has none of its own. It is given up for it. Who
    /// comes meanwhile waits, and has its connection back; so has who is late, for another server stands there by now. A server
    /// that is busy says nothing now: it is asked again with the next connection. Cancel safe.
    pub(super) async fn ask(
        &self,
        connection: Connection,
        login: Option<&Login>,
        node: &Node,
    ) -> io::Result<Option<Connection>> {
        let Some(plan) = self.plan.get() else { return Ok(Some(connection)) };
        let _one = self.asking.lock().await;
        let generation = connection.generation;
        if generation != node.generation.number() || !self.is_due(generation) {
            return Ok(Some(connection));
        }
        let mut asking = Asking { connection, needs: &node.needs };
        let own = node.login();
        let speaks = asking.log_in(own.as_deref().or(login)).await?;
        let client = login.filter(|_| own.is_none()).map(|login| String::from_utf8_lossy(&login.user).into_owned());
        asking.ask_needs().await?;
        let found = asking.attempt(&plan.trials, speaks).await?;
        if let Some(finding) = found {
            if !plan.trials.is_empty() {
                (plan.told)(SurveyFinding { client, ..finding });
            }
            self.asked.store(generation + 1, Ordering::Release);
        }
        Ok(None)
    }
}

/// A connection while the server is asked on it.
struct Asking<'a> {
    connection: Connection,
    needs: &'a Needs,
}

impl Asking<'_> {
    /// What the server says to RESP3, where it refuses that. The connection is the user's in any case, if that can be had.
    async fn log_in(&mut self, login: Option<&Login>) -> io::Result<Option<Vec<u8>>> {
        if let Some(Login { user, password }) = login {
            self.reply(&[b"AUTH", user, password]).await?;
        }
        let reply = self.reply(&[b"HELLO", b"3"]).await?;
        Ok(self.needs.hear(Need::Hello, None, &reply).then_some(reply))
    }

    /// Needs that can be asked for without a key, and whose refusal would show late.
    async fn ask_needs(&mut self) -> io::Result<()> {
        let id = self.connection.id.unwrap_or(1).to_string();
        let asked: [(Need, &[&[u8]]); 6] = [
            (Need::Command, &[b"COMMAND", b"INFO", b"get"]),
            (Need::Config, &[b"CONFIG", b"GET", b"proto-max-bulk-len"]),
            (Need::ClientNoEvict, &[b"CLIENT", b"NO-EVICT", b"ON"]),
            (Need::ClientList, &[b"CLIENT", b"LIST", b"ID", id.as_bytes()]),
            (Need::ClientKill, &[b"CLIENT", b"KILL", b"ID", b"9223372036854775807"]), // nobody has that
            (Need::Echo, &[b"ECHO", b"crema"]),
        ];
        for (need, command) in asked {
            let reply = self.reply(command).await?;
            self.needs.hear(need, None, &reply);
        }
        Ok(())
    }

    /// The first of the ways that is allowed; none where what was said passes by itself. `speaks`: what was said to RESP3, which
    /// all need, where it was refused.
    async fn attempt(&mut self, trials: &[Trial], speaks: Option<Vec<u8>>) -> io::Result<Option<SurveyFinding>> {
        let mut refusals = Vec::new();
        for trial in trials {
            let mut refusal = speaks.clone();
            for command in &trial.commands {
                if refusal.is_none() {
                    let words: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
                    let reply = self.reply(&words).await?;
                    refusal = reply.starts_with(b"-").then_some(reply);
                }
            }
            match refusal {
                None => return Ok(Some(SurveyFinding { means: trial.means, refusals, client: None })),
                Some(reply) if is_passing(&reply) || reply.starts_with(b"-NOAUTH") => return Ok(None),
                Some(reply) => refusals.push((trial.means, String::from_utf8_lossy(&reply[1..]).trim().to_owned())),
            }
        }
        Ok(Some(SurveyFinding { means: CoherenceMeans::Nothing, refusals, client: None }))
    }

    async fn reply(&mut self, command: &[&[u8]]) -> io::Result<Vec<u8>> {
        let (mut request, socket) = (Vec::new(), &mut self.connection.socket);
        encode::own_command(&mut request, command);
        socket.write_all(&request).await?;
        socket.flush().await?;
        read_reply(socket, &mut Vec::new()).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex as Noted};
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::super::Purpose;
    use super::*;
    use crate::clock::Time;
    use crate::config::Endpoint;
    use crate::net::Socket;

    type Findings = Arc<Noted<Vec<SurveyFinding>>>;

    /// A connection to a server that another has taken the place of.
    async fn asked_late(survey: &Survey) -> io::Result<Option<Connection>> {
        asked_of(survey, (0, 1), &[]).await
    }

    /// A plan of two ways, and a connection to a server that says these things in turn.
    async fn asked(survey: &Survey, generation: u64, says: &[&str]) -> io::Result<Option<Connection>> {
        asked_of(survey, (generation, generation), says).await
    }

    async fn asked_of(
        survey: &Survey,
        (generation, present): (u64, u64),
        says: &[&str],
    ) -> io::Result<Option<Connection>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port: address.port() };
        let node = Node::new(endpoint, 3, Duration::from_secs(1));
        turn(&node, present);
        let socket = Socket::upstream(TcpStream::connect(address).await.expect("it accepts"));
        let permit = node.budget.permit(Purpose::Own).await.expect("there is room");
        let connection = Connection { socket, permit, generation, id: None, login: None };
        let (mut server, _) = listener.accept().await.expect("a client");
        let needs = ["*0\r\n"; 6];
        let says = says.iter().take(1).chain(needs.iter().filter(|_| !says.is_empty())).chain(says.iter().skip(1));
        let answers = async {
            for reply in says {
                let mut request = vec![0; 1024];
                let _ = server.read(&mut request).await.expect("a question");
                server.write_all(reply.as_bytes()).await.expect("it reads");
            }
            drop(server);
        };
        let (asked, ()) = tokio::join!(survey.ask(connection, None, &node), answers);
        asked
    }

    /// This is the present generation.
    fn turn(node: &Node, generation: u64) {
        for n in 0..=generation {
            assert_eq!(node.generation.of(n.to_string().as_bytes(), Time::now(), Time::now()), n);
        }
    }

    fn survey() -> (Survey, Findings) {
        let (survey, findings) = (Survey::default(), Findings::default());
        let command = |word: &str| vec![word.as_bytes().to_vec()];
        let trials = vec![
            Trial { means: CoherenceMeans::Tracking, commands: vec![command("A")] },
            Trial { means: CoherenceMeans::Channel, commands: vec![command("B"), command("C")] },
        ];
        let notes = Arc::clone(&findings);
        survey.plan(trials, move |finding| notes.lock().expect("no test panics here").push(finding));
        (survey, findings)
    }

    #[tokio::test]
    async fn the_first_way_that_is_allowed_is_taken_and_no_more_is_asked() {
        let (survey, findings) = survey();
        asked(&survey, 0, &["%0\r\n", "+OK\r\n"]).await.expect("answered");
        asked(&survey, 0, &[]).await.expect("that generation is known");
        asked(&survey, 1, &["%0\r\n", "-NOPERM no\r\n", "+OK\r\n", ":0\r\n"]).await.expect("answered");
        let refusals = vec![(CoherenceMeans::Tracking, "NOPERM no".to_owned())];
        let expected = [
            SurveyFinding { means: CoherenceMeans::Tracking, refusals: vec![], client: None },
            SurveyFinding { means: CoherenceMeans::Channel, refusals, client: None },
        ];
        assert_eq!(*findings.lock().expect("nobody panicked"), expected);
    }

    #[tokio::test]
    async fn a_connection_to_a_former_server_is_asked_nothing() {
        let (survey, findings) = survey();
        let late = asked_late(&survey).await.expect("nothing was asked");
        assert!(
            late.is_some_and(|connection| connection.generation == 0)
                && findings.lock().expect("nobody panicked").is_empty()
        );
        assert!(survey.is_due(1));
    }

    #[tokio::test]
    async fn who_allows_nothing_is_believed_and_who_is_busy_or_lost_is_asked_again() {
        let (survey, findings) = survey();
        assert!(asked(&survey, 0, &["%0\r\n", "-ERR unknown command\r\n"]).await.is_err());
        asked(&survey, 0, &["%0\r\n", "-BUSY a script\r\n"]).await.expect("it will pass");
        assert!(survey.is_due(0) && findings.lock().expect("nobody panicked").is_empty());
        asked(&survey, 0, &["-ERR unknown command 'hello'\r\n"]).await.expect("answered");
        assert!(!survey.is_due(0));
        let finding = findings.lock().expect("nobody panicked").remove(0);
        assert_eq!((finding.means, finding.refusals.len()), (CoherenceMeans::Nothing, 2));
    }
}
