//! From a socket that was accepted to one that a session can have: the PROXY header and the TLS handshake, each in bounded time,
//! and not too many at once. Until its handshake has begun a client can go to another process as it is.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::ready;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{spawn_local, yield_now};
use tokio::time::timeout;
use tokio_util::sync::PollSemaphore;
use tracing::{debug, warn};

use super::listener::Prelude;
use crate::metrics::WorkerStats;
use crate::net::Socket;
use crate::net::proxy_protocol::{HeaderError, Opening, opening, read_source};
use crate::net::tls::Acceptor;
use crate::proxy::{ClientStage, Member};

/// How long a client may take for each step.
const PATIENCE: Duration = Duration::from_secs(10);
/// Steps of handshakes that a worker takes before it turns to its sessions: one costs as much as tens of hits.
const STEPS: usize = 4;
/// What a client that is turned away may have sent, in pieces of a kilobyte, for its refusal to reach it for sure.
const LEFT_OVER: usize = 64;

impl Prelude {
    /// Whether there is anything to do before the session.
    pub(super) fn asks(&self) -> bool {
        self.proxied || self.acceptor.is_some()
    }
}

/// Why a client is not let in.
enum Refusal {
    Header(HeaderError),
    Handshake(io::Error),
}

/// A client that is no session yet.
pub(super) struct Newcomer {
    /// None: its handshake has begun.
    stream: Option<TcpStream>,
    prelude: Prelude,
    stage: ClientStage,
}

impl Newcomer {
    /// One that has come so far.
    pub(super) fn new(stream: TcpStream, prelude: Prelude, stage: ClientStage) -> Self {
        let first = if prelude.proxied { ClientStage::Header(Vec::new()) } else { ClientStage::Handshake };
        let stage = if stage == ClientStage::Session { first } else { stage };
        Self { stream: Some(stream), prelude, stage }
    }

    /// Takes it in; `None` where that fails, which is counted and told. Cancel safe: it stays as it is.
    pub(super) async fn welcome(&mut self, member: &Member, pace: &Pace, stats: &WorkerStats) -> Option<Socket> {
        let refusal = match self.take_in(member, pace).await {
            Ok(socket) => return Some(socket),
            Err(refusal) => refusal,
        };
        let client = member.peer();
        match refusal {
            Refusal::Header(HeaderError::Silent) => debug!(%client, "a client has left without a word"),
            Refusal::Header(error) => {
                stats.proxy_headers_refused.add(1);
                warn!(%client, "client refused: {error}");
            }
            Refusal::Handshake(error) => {
                stats.handshakes_failed.add(1);
                warn!(%client, "client refused: {error}");
            }
        }
        None
    }

    /// As it is, for another process to take it in; none where its handshake has begun.
    pub(super) fn part(self) -> Option<(OwnedFd, ClientStage)> {
        let socket = self.stream?.into_std().ok()?;
        Some((socket.into(), self.stage))
    }

    async fn take_in(&mut self, member: &Member, pace: &Pace) -> Result<Socket, Refusal> {
        let broken = || Refusal::Header(HeaderError::Broken(io::ErrorKind::NotConnected.into()));
        if let ClientStage::Header(header) = &mut self.stage {
            let stream = self.stream.as_mut().ok_or_else(broken)?;
            match timeout(PATIENCE, read_source(stream, header)).await.unwrap_or(Err(HeaderError::Late)) {
                Ok(Some(source)) => member.comes_from(source.to_string()),
                Ok(None) => {}
                Err(error) => {
                    if let (None, Some(stream)) = (&self.prelude.acceptor, self.stream.take()) {
                        turn_away(stream).await;
                    }
                    return Err(Refusal::Header(error));
                }
            }
            self.stage = ClientStage::Handshake;
        }
        let Some(acceptor) = self.prelude.acceptor.clone() else {
            return self.stream.take().map(Socket::Tcp).ok_or_else(broken);
        };
        self.shake_hands(&acceptor, pace).await
    }

    async fn shake_hands(&mut self, acceptor: &Acceptor, pace: &Pace) -> Result<Socket, Refusal> {
        let late = |what: &str| Refusal::Handshake(io::Error::new(io::ErrorKind::TimedOut, what));
        let slow = "its TLS handshake took too long";
        let hello = async {
            let mut first = [0; 16];
            let stream = self.stream.as_ref().ok_or(Refusal::Header(HeaderError::Silent))?;
            let count = match stream.peek(&mut first).await {
                Ok(0) => return Err(Refusal::Header(HeaderError::Silent)),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(Refusal::Header(HeaderError::Silent));
                }
                peeked => peeked.map_err(Refusal::Handshake)?,
            };
            if !self.prelude.proxied && opening(&first[..count]) == Opening::Header {
                return Err(Refusal::Header(HeaderError::Unwanted));
            }
            let stream = self.stream.take().ok_or(Refusal::Header(HeaderError::Silent))?;
            Acceptor::hello(stream).await.map_err(Refusal::Handshake)
        };
        // Who has not said what it wants takes nobody's seat.
        let hello = timeout(PATIENCE, hello).await.map_err(|_| late(slow))??;
        let seat = timeout(PATIENCE, acceptor.seat()).await;
        let _seat = seat.map_err(|_| late("too many other TLS handshakes were under way for too long"))?;
        let handshake = pace.paced(Socket::welcome(hello, acceptor));
        timeout(PATIENCE, handshake).await.map_err(|_| late(slow))?.map_err(Refusal::Handshake)
    }
}

/// Tells a client that speaks no TLS what is wrong, as Redis tells of its own protocol.
async fn turn_away(mut stream: TcpStream) {
    // No more than one try: the client is owed nothing. What it sent is read, or closing would be a reset, which can destroy the
    // answer; but not all that it goes on to send, for the worker has others to serve.
    let _ = stream.try_write(b"-ERR Protocol error: expected a PROXY protocol header\r\n");
    let _ = stream.shutdown().await;
    let mut left_over = [0; 1024];
    for _ in 0..LEFT_OVER {
        if !stream.try_read(&mut left_over).is_ok_and(|count| count > 0) {
            break;
        }
    }
}

/// Spreads the steps of a worker's handshakes among what its sessions do, so that thousands who come at once hold up nobody who is
/// there.
#[derive(Clone)]
pub(super) struct Pace(Arc<Semaphore>);

impl Default for Pace {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(STEPS)))
    }
}

impl Pace {
    /// Polls `work` when it is its turn. A turn ends when the runtime has looked at its sockets again.
    async fn paced<F: Future>(&self, work: F) -> F::Output {
        let (mut work, mut turns) = (pin!(work), PollSemaphore::new(Arc::clone(&self.0)));
        poll_fn(|cx| {
            let turn = ready!(turns.poll_acquire(cx));
            let polled = work.as_mut().poll(cx);
            spawn_local(async move {
                yield_now().await;
                drop(turn);
            });
            polled
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::runtime::{Builder, LocalOptions};

    use super::*;

    #[test]
    fn who_is_there_is_not_held_up_by_many_who_come() {
        const MANY: usize = 1000;
        let runtime = Builder::new_current_thread().build_local(LocalOptions::default()).expect("a runtime");
        let most = runtime.block_on(async {
            let (steps, pace) = (Rc::new(Cell::new(0)), Pace::default());
            for _ in 0..MANY {
                let (steps, pace) = (Rc::clone(&steps), pace.clone());
                spawn_local(async move { pace.paced(async { steps.set(steps.get() + 1) }).await });
            }
            let (mut most, mut before) = (0, 0);
            while before < MANY {
                yield_now().await; // as one does who waits for its socket
                most = most.max(steps.get() - before);
                before = steps.get();
            }
            most
        });
        assert!(most <= 2 * STEPS, "{most} steps between two looks at the sockets");
    }
}
