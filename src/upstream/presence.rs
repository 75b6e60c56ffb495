//! Whether a node is there at all, as far as a connection attempt can tell.
//!
//! One task, [`keep_watch`], finds out: it tries when somebody has had trouble with the node ([`Presence::doubt`]), and while the node
//! is away again and again, at a bounded rate, so that nobody else need try. Who accepts a connection and is silent is there:
//! paused or busy, or of a silent link, which is told otherwise. Followed by `server`, which refuses clients meanwhile.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::connect::{dial, read_reply};
use super::{Backoff, Node};
use crate::clock::Time;
use crate::error::is_about_us;
use crate::resp::encode;

/// The pauses between two tries: a server that is back at once is not missed for long, one that stays away is not knocked up.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(100)];
/// So many connections in a row must end at once before the node is held to be away: the first may have been one of those that
/// somebody cut.
const ENDS: u32 = 3;
/// A node that has accepted a connection and says nothing for so long is there.
const SILENCE: Duration = Duration::from_secs(1);

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing yet: the process has just started.
    Unknown,
    /// The node accepts connections.
    There,
    /// It does not.
    Away,
}

/// See the module's head.
#[derive(Debug)]
pub struct Presence {
    state: watch::Sender<State>,
    doubted: Notify,
}

impl Default for Presence {
    fn default() -> Self {
        Self { state: watch::Sender::new(State::Unknown), doubted: Notify::new() }
    }
}

impl Presence {
    /// A connection could not be made, or was lost: the node may be away.
    pub fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// What is known, and what will be.
    pub fn follow(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    fn set(&self, state: State) {
        self.state.send_if_modified(|known| std::mem::replace(known, state) != state);
    }
}

/// Finds out whether the node is there; never returns. One task a node runs this. Cancel safe.
pub async fn keep_watch(node: Arc<Node>) {
    let presence = &node.presence;
    let mut ended = 0;
    let mut backoff = Backoff::between(PAUSES[0], PAUSES[1]);
    loop {
        let began = Time::now();
        let probe = probe(&node).await;
        ended = if matches!(probe, Err(Failure::Ended)) { ended + 1 } else { 0 };
        let state = match probe {
            Ok(()) => Some(State::There),
            // Where others hear it, it is there, whatever keeps it from taking another connection.
            Err(Failure::Refused(error)) if is_about_us(&error) || node.last_heard() > began => Some(State::There),
            Err(Failure::Ended) if node.last_heard() > began => Some(State::There),
            Err(Failure::Ended) if ended < ENDS => None,
            Err(_) => Some(State::Away),
        };
        if let Some(state) = state {
            presence.set(state);
        }
        if state == Some(State::There) {
            backoff.reset();
            sleep(PAUSES[1]).await; // however many doubt it
            presence.doubted.notified().await;
        } else {
            sleep(backoff.wait()).await;
        }
    }
}

/// Why a probe got no answer.
enum Failure {
    /// There is no connection.
    Refused(io::Error),
    /// There was one, and it ended at once.
    Ended,
}

/// Whether the node takes a connection and does not end it at once. Whatever it says shows that it is there, an error as well.
async fn probe(node: &Node) -> Result<(), Failure> {
    let mut socket = match timeout(node.connect_timeout, dial(&node.endpoint)).await {
        Ok(socket) => socket.map_err(Failure::Refused)?,
        Err(_) => return Err(Failure::Refused(io::ErrorKind::TimedOut.into())),
    };
    let mut ping = Vec::new();
    encode::own_command(&mut ping, &[b"PING"]);
    let said = async {
        socket.write_all(&ping).await?;
        read_reply(&mut socket, &mut Vec::new()).await
    };
    if let Ok(said) = timeout(SILENCE, said).await {
        said.map_err(|_: io::Error| Failure::Ended)?;
        node.heard(Time::now());
    }
    Ok(())
}
