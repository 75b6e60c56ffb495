//! How the server reads requests that are not written as they should be, found out by trying.
//!
//! Owns the answers, each asked for when a client's bytes depend on it and not before. No version number tells: Valkey has
//! changed such things in the middle of a line, and of other servers nobody has written it down. An answer holds for a
//! second, for the server behind an address may become another; where there is none, the last one holds, else Redis's.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Connection, Node, Target, connect, read_reply};
use crate::clock::Time;
use crate::error::is_full;
use crate::resp::{Grammar, Quirk, Resp};

/// How long an answer holds, and how long it is not asked again after a failure.
const FRESH: Duration = Duration::from_secs(1);

/// What was asked so far.
#[derive(Debug)]
pub(super) struct Quirks(Mutex<(Grammar, [Option<Time>; Quirk::ALL.len()])>);

impl Default for Quirks {
    fn default() -> Self {
        Self(Mutex::new((Grammar::UNKNOWN, [None; Quirk::ALL.len()])))
    }
}

impl Node {
    /// Whether the server has `quirk`. Takes no longer than `connect_timeout`, and nothing where it was asked just now.
    pub(crate) async fn has(self: &Arc<Self>, quirk: Quirk) -> bool {
        let mut known = self.quirks.0.lock().await;
        let (grammar, asked) = &mut *known;
        let asked = &mut asked[quirk as usize];
        if asked.is_none_or(|at| Time::now().saturating_since(at) > FRESH) {
            if let Ok(Some(has)) = timeout(self.connect_timeout, attempt(self, quirk)).await {
                *grammar = grammar.with(quirk, has);
            }
            *asked = Some(Time::now());
        }
        grammar.has(quirk).or(Grammar::REDIS.has(quirk)).expect("Redis's quirks are all known")
    }
}

/// Sends a request that only a server with the quirk takes, or with [`Quirk::NulHidesLineEnd`] waits for the end of. What
/// it makes of the `PING` in it, a login it may want included, is of no interest.
async fn attempt(node: &Arc<Node>, quirk: Quirk) -> Option<bool> {
    let request: &[u8] = match quirk {
        Quirk::SkipsLineEnds => b"*1\r\n$4\r\npINGxx",
        Quirk::NulHidesLineEnd => b"*\0\r\n",
        Quirk::JoinsQuotes => b"\"pI\"NG\r\n",
        Quirk::LastBackslash => b"pING \"\\\"\r\n",
    };
    let target = Target { node: Arc::clone(node), login: None, db: 0, resp: Resp::V2, name: "" };
    let Connection { mut socket, permit: _permit, .. } = connect(&target).await.ok()?;
    socket.write_all(request).await.ok()?;
    socket.shutdown().await.ok()?; // so that a server that waits for more ends the connection
    match read_reply(&mut socket, &mut Vec::new()).await {
        Ok(reply) if is_full(&reply) => None,
        Ok(reply) => Some(!reply.starts_with(b"-ERR Protocol error")),
        Err(end) if end.kind() == io::ErrorKind::UnexpectedEof && quirk == Quirk::NulHidesLineEnd => Some(true),
        Err(_) => None,
    }
}
