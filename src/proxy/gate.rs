//! Whether a client may come in without a password.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::clock::Time;
use crate::error::Error;
use crate::resp::Resp;
use crate::upstream::{Connection, Node, Target, connect, read_reply};

/// How long an answer holds.
const FRESH: Duration = Duration::from_secs(1);

/// `None`: come in; else the reply to whatever the client asks.
type Answer = Result<Option<Vec<u8>>, Error>;

/// Whether a client may act as Redis's default user without a password: asked of Redis itself, on a fresh connection, for
/// an old one keeps the rights it once had. An answer holds for a second.
#[derive(Default)]
pub struct Gate {
    last: Mutex<Option<(Time, Answer)>>,
}

impl Gate {
    /// Asks, or remembers. Fails as [`connect`] does; those who waited meanwhile share the answer, or the failure.
    pub async fn shut(&self, node: &Arc<Node>) -> Answer {
        let mut last = self.last.lock().await;
        if let Some((asked, answer)) = &*last
            && Time::now().saturating_since(*asked) <= FRESH
        {
            return answer.clone();
        }
        let asked = Time::now();
        let answer = ask(node).await;
        // A failure is dated when it is known, or those who waited for it would each wait for their own.
        *last = Some((if answer.is_ok() { asked } else { Time::now() }, answer.clone()));
        answer
    }
}

async fn ask(node: &Arc<Node>) -> Answer {
    let target = Target { node: Arc::clone(node), login: None, db: 0, resp: Resp::V2, name: "" };
    let Connection { mut socket, permit: _permit } = connect(&target).await?;
    let lost = |why: &str| Error::Lost { node: Arc::clone(&node.address), why: why.into() };
    let ping = async {
        socket.write_all(b"*1\r\n$4\r\npING\r\n").await?;
        read_reply(&mut socket, &mut Vec::new()).await
    };
    let reply = timeout(node.connect_timeout, ping).await.map_err(|_| lost("no answer to PING"))?;
    let reply = reply.map_err(|error| lost(&error.to_string()))?;
    Ok(reply.starts_with(b"-NOAUTH").then_some(reply))
}
