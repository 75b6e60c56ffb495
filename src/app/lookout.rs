//! A look at a node once a second: whether it answers, what it calls itself, and what of it crema goes by.
//!
//! On a connection that is kept for it, and made anew now and then, for only a new one shows where the address leads by now. What is
//! found is what `/readyz` and the dashboard say. One task of the control thread a node, started by `app`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use crate::error::Error;
use crate::invalidation::L1;
use crate::metrics::Need;
use crate::resp::{Resp, encode};
use crate::upstream::{Connection, Node, Service, Target, connect, read_reply, told_role};

/// Every so many looks, one a second, is on a new connection.
const ANEW: u32 = 5;
/// The connection kept for looking may take so long to answer before a new one is made.
const PROMPT: Duration = Duration::from_secs(1);
/// Between a sign that the address may lead elsewhere and the look at it.
const DOUBT: Duration = Duration::from_millis(200);

/// See the module's head.
pub(super) struct Lookout {
    node: Arc<Node>,
    /// Where something goes with writes, it is looked for memory to be full, which takes three more questions.
    l1: Arc<L1>,
    known: Mutex<Result<String, String>>,
}

/// The connection kept for looking, and what the server calls itself.
struct Looking {
    connection: Connection,
    server: String,
}

impl Lookout {
    pub(super) fn new(node: Arc<Node>, l1: Arc<L1>) -> Self {
        Self { node, l1, known: Mutex::new(Err("the upstream has not answered yet".to_owned())) }
    }

    /// What the server calls itself, or what is wrong.
    pub(super) fn known(&self) -> Result<String, String> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks once a second, and tells the server's `proto-max-bulk-len` where it may be asked for; never returns. Cancel safe.
    pub(super) async fn watch(&self, longest_argument: impl Fn(u64)) {
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut kept = None;
        let (mut looks, mut silent): (u32, Option<Instant>) = (0, None);
        loop {
            let doubted = tokio::select! {
                _ = second.tick() => false,
                () = self.node.generation.doubted() => true,
            };
            if doubted {
                sleep(DOUBT).await; // a server in doubt is doubted by all who ask it
            }
            looks = looks.wrapping_add(1);
            // Only a new connection shows where the address leads now.
            if doubted || looks.is_multiple_of(ANEW) {
                kept = None;
            }
            let within = self.node.connect_timeout + PROMPT;
            let state = if let Ok(state) = timeout(within, self.look(&mut kept, &longest_argument)).await {
                silent = None;
                state
            } else {
                // It accepts and is silent: it may have been told to pause.
                kept = None;
                let since = *silent.get_or_insert_with(Instant::now);
                if since.elapsed() < self.node.handshake_timeout {
                    continue;
                }
                Err(format!("the upstream has said nothing for {:?}; is it stopped or paused?", since.elapsed()))
            };
            self.learn(state);
        }
    }

    /// One look: what the server calls itself, or what is wrong.
    async fn look(&self, kept: &mut Option<Looking>, longest_argument: &impl Fn(u64)) -> Result<String, String> {
        let service = self.node.signs.service();
        // A connection made before may lead to another server, or nowhere; and one that lies silent says nothing of others.
        let mut looking = kept.take().filter(|_| service == Service::Good);
        if let Some(known) = &mut looking
            && !self.answers(known).await
        {
            looking = None;
        }
        let mut looking = match looking {
            Some(known) => known,
            None => self.connect().await.map_err(|error| advice(&error))?,
        };
        let reply = self.ask(&mut looking, &[b"PING"]).await.map_err(|error| advice(&error))?;
        if reply.starts_with(b"-LOADING") || reply.starts_with(b"-MASTERDOWN") {
            *kept = Some(looking);
            return Err(format!("the upstream answers {}", String::from_utf8_lossy(&reply).trim()));
        }
        if let Ok(reply) = self.ask(&mut looking, &[b"CONFIG", b"GET", b"proto-max-bulk-len"]).await {
            self.node.needs.hear(Need::Config, None, &reply);
            last_number(&reply).into_iter().for_each(longest_argument);
        }
        if !self.l1.writes_go_alone()
            && let Ok(full) = self.is_full(&mut looking).await
        {
            self.node.signs.set_full(full);
        }
        let state = self.judge(&mut looking, service).await;
        *kept = Some(looking);
        state
    }

    async fn answers(&self, known: &mut Looking) -> bool {
        matches!(timeout(PROMPT, self.ask(known, &[b"PING"])).await, Ok(Ok(_)))
    }

    async fn connect(&self) -> Result<Looking, Error> {
        let (node, login) = (Arc::clone(&self.node), self.node.login());
        let connection = connect(&Target { node, login, db: 0, resp: Resp::V2, name: "crema-check" }).await?;
        let mut made = Looking { connection, server: String::new() };
        made.server = name(&self.ask(&mut made, &[b"INFO", b"server"]).await?);
        Ok(made)
    }

    /// Whether it serves clients, of which it was seen that it did not where `service` is not good.
    async fn judge(&self, looking: &mut Looking, service: Service) -> Result<String, String> {
        match service {
            Service::Good => Ok(looking.server.clone()),
            // Whoever is there now answers. That it takes writes it has to say.
            Service::Silent => {
                self.node.signs.mends(service);
                Err("the upstream left commands without an answer for response_timeout".to_owned())
            }
            Service::ReadOnly => {
                if self.ask(looking, &[b"HELLO"]).await.is_ok_and(|reply| told_role(&reply) == Some(true)) {
                    self.node.signs.mends(service);
                }
                Err("the upstream refuses writes with READONLY: it is a replica; is `upstream` right?".to_owned())
            }
        }
    }

    /// Whether the upstream has no memory left: then it puts nothing into a transaction, not even a PING.
    async fn is_full(&self, looking: &mut Looking) -> Result<bool, Error> {
        self.ask(looking, &[b"MULTI"]).await?;
        let queued = self.ask(looking, &[b"PING"]).await?;
        self.ask(looking, &[b"DISCARD"]).await?;
        Ok(queued.starts_with(b"-OOM"))
    }

    async fn ask(&self, looking: &mut Looking, command: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let (node, socket) = (&self.node, &mut looking.connection.socket);
        let mut request = Vec::new();
        encode::own_command(&mut request, command);
        let exchange = async {
            socket.write_all(&request).await?;
            read_reply(socket, &mut Vec::new()).await
        };
        match timeout(node.connect_timeout, exchange).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(Error::Lost { node: Arc::clone(&node.address), why: error.to_string().into() }),
            Err(_) => Err(Error::Timeout { node: Arc::clone(&node.address), after: node.connect_timeout }),
        }
    }

    fn learn(&self, state: Result<String, String>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*known, &state) {
            (Err(_), Ok(server)) => info!(upstream = %self.node.address, "ready: {server} answers"),
            (Ok(_), Err(trouble)) => warn!(upstream = %self.node.address, "not ready: {trouble}"),
            (Err(old), Err(trouble)) if old != trouble => warn!(upstream = %self.node.address, "not ready: {trouble}"),
            _ => {}
        }
        *known = state;
    }
}

fn advice(error: &Error) -> String {
    format!("{error}; is it running, and is `upstream` right?")
}

/// The number on the last line of a reply: the value in an answer to `CONFIG GET` of one number.
fn last_number(reply: &[u8]) -> Option<u64> {
    std::str::from_utf8(reply).ok()?.lines().last()?.parse().ok()
}

/// `redis 7.0.15` or `valkey 9.0.1`, from `INFO server`.
fn name(info: &[u8]) -> String {
    let info = String::from_utf8_lossy(info);
    let value = |key: &str| info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    match (value("valkey_version"), value("redis_version")) {
        (Some(version), _) => format!("valkey {version}"),
        (None, Some(version)) => format!("redis {version}"),
        (None, None) => "a server that does not give its version".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_itself_is_read() {
        assert_eq!(name(b"$60\r\n# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n\r\n"), "redis 7.0.15");
        assert_eq!(name(b"$60\r\nredis_version:7.2.4\r\nvalkey_version:9.1.2\r\n\r\n"), "valkey 9.1.2");
        assert_eq!(name(b"-NOPERM no\r\n"), "a server that does not give its version");
        assert_eq!(last_number(b"*2\r\n$18\r\nproto-max-bulk-len\r\n$9\r\n536870912\r\n"), Some(536_870_912));
        assert_eq!(last_number(b"-NOPERM no\r\n"), None);
    }
}
