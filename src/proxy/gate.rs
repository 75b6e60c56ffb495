//! Whether a client may come in without a password.
//!
//! Holds contract point 8 (no leaks).

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::clock::Time;
use crate::error::{Error, is_full};
use crate::invalidation::L1;
use crate::upstream::{Connection, Node, connect_unproved, read_reply};

/// How long an answer holds.
const FRESH: Duration = Duration::from_secs(1);
/// How long a failure holds: long enough to spare a node that is away, and gone before anybody is told that it is back.
const FAILED: Duration = Duration::from_millis(400);

/// `None`: come in; else the reply to whatever the client asks.
type Answer = Result<Option<Vec<u8>>, Error>;

/// Whether a client may act as Redis's default user without a password: asked of Redis itself, on a fresh connection, for
/// an old one keeps the rights it once had. An answer holds for a second, a failure for less, and neither longer than rights
/// stay as they were.
#[derive(Default)]
pub(crate) struct Gate {
    last: Mutex<Option<Asked>>,
    words: Mutex<()>,
}

struct Asked {
    at: Time,
    rights: u64,
    answer: Answer,
}

impl Gate {
    /// Asks, or remembers. Fails as [`connect_unproved`] does; those who waited meanwhile share the answer, or the failure.
    pub(crate) async fn shut(&self, node: &Arc<Node>, l1: &L1) -> Answer {
        let mut last = self.last.lock().await;
        if let Some(Asked { at, rights, answer }) = &*last
            && Time::now().saturating_since(*at) <= if answer.is_ok() { FRESH } else { FAILED }
            && (answer.is_ok() || node.last_heard() <= *at)
            && *rights == l1.rights_version()
        {
            return answer.clone();
        }
        let (at, rights) = (Time::now(), l1.rights_version());
        let reply = ask(node, b"*1\r\n$4\r\npING\r\n").await;
        let answer = reply.map(|reply| reply.starts_with(b"-NOAUTH").then_some(reply));
        // A failure is dated when it is known, or those who waited for it would each wait for their own.
        *last = Some(Asked { at: if answer.is_ok() { at } else { Time::now() }, rights, answer: answer.clone() });
        answer
    }

    /// What Redis says to `request` of a client that has not logged in, for what it words in its own way. One at a time: such
    /// clients are to cost no more than one connection.
    pub(crate) async fn words(&self, node: &Arc<Node>, request: &[u8]) -> Result<Vec<u8>, Error> {
        let _one = self.words.lock().await;
        ask(node, request).await
    }
}

async fn ask(node: &Arc<Node>, request: &[u8]) -> Result<Vec<u8>, Error> {
    let Connection { mut socket, permit: _permit, .. } = connect_unproved(node).await?;
    let lost = |why: &str| Error::Lost { node: Arc::clone(&node.address), why: why.into() };
    let exchange = async {
        socket.write_all(request).await?;
        read_reply(&mut socket, &mut Vec::new()).await
    };
    let reply = timeout(node.connect_timeout, exchange).await.map_err(|_| lost("no answer"))?;
    match reply {
        Ok(reply) if is_full(&reply) => Err(Error::Refused { node: Arc::clone(&node.address), reply: reply.into() }),
        reply => reply.map_err(|error| lost(&error.to_string())),
    }
}
