//! The client's socket: what was read and not yet taken up, and when to read, write or wait.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep, timeout};
use tokio_util::io::poll_read_buf;
use tracing::warn;

use super::{Close, End, Session};
use crate::buffer;
use crate::clock::Time;
use crate::proxy::Replies;
use crate::socket::Socket;

/// Bytes asked for at a time.
const READ: usize = 16 << 10;
/// Bytes read ahead while a session waits for its earlier commands: enough to notice that the client has left.
const AHEAD: usize = 64 << 10;
/// A client that has not taken a byte of what waits for it for so long is not merely slow.
const UNREAD: Duration = Duration::from_millis(100);
/// How long a client that is being closed may take to read what is left.
const FAREWELL: Duration = Duration::from_secs(5);

/// What happened to a session that had nothing to do.
pub(super) enum Event {
    /// More bytes are there.
    Bytes,
    /// What it waited for has been answered.
    Resumed,
    /// The client has read nothing for a while, and what waits for it is all that keeps the session from going on.
    Unread,
    /// The client will send no more.
    Eof,
    /// The session must end, for nothing that its client did. What waits for the client is still its own.
    Ended,
    /// The connection is broken, or must be given up at once.
    Gone,
    /// The process ends, and this session has nothing under way.
    Drained,
    /// The client was silent for longer than the idle time-out.
    Idle,
}

/// The socket with its input.
pub(super) struct Wire {
    pub(super) line: Line,
    pub(super) input: Input,
    paused: bool,
    /// Commands have just been taken up, and nothing was written since.
    fresh: bool,
    /// How long the client may still take nothing, and how much it had taken when that began.
    unread: Option<(u64, Pin<Box<Sleep>>)>,
    idle: Option<Pin<Box<Sleep>>>,
}

/// The socket, with what was read from it ahead of time.
pub(super) struct Line {
    socket: Socket,
    ahead: Vec<u8>,
    eof: bool,
}

/// Bytes read; those before `at` have been taken up.
#[derive(Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    at: usize,
}

impl Input {
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.at += n;
    }

    pub(super) fn clear(&mut self) {
        self.at = self.bytes.len();
    }

    /// Makes room: only an unfinished request stays.
    pub(super) fn compact(&mut self) {
        if self.at == self.bytes.len() {
            buffer::give(std::mem::take(&mut self.bytes));
        } else {
            self.bytes.drain(..self.at);
        }
        self.at = 0;
    }
}

impl Wire {
    pub(super) fn new(socket: Socket) -> Self {
        let line = Line { socket, ahead: Vec::new(), eof: false };
        Self { line, input: Input::default(), paused: false, fresh: false, unread: None, idle: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.input.rest().is_empty()
    }

    /// Nothing more is to be read until the session may go on.
    pub(super) fn pause(&mut self) {
        self.paused = true;
    }

    /// Writes replies as they come, and waits for something to do. Cancel safe.
    pub(super) async fn next(&mut self, session: &mut Session) -> Event {
        if let Some(after) = session.worker.shared.config.idle_timeout {
            self.idle = Some(Box::pin(sleep(after)));
        }
        self.fresh = true;
        poll_fn(|cx| self.poll_next(cx, session)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, session: &Session) -> Poll<Event> {
        let replies = &*session.caller.replies;
        replies.register(cx);
        if std::mem::take(&mut self.fresh) && !self.paused && replies.may_cork() {
            session.worker.cork(&session.caller.replies);
        } else if let Poll::Ready(Err(_)) = self.line.poll_flush(cx, session) {
            return Poll::Ready(Event::Gone);
        }
        if let Some(end) = replies.ended() {
            farewell(session, end, &self.line.socket);
            return Poll::Ready(if end == End::Slow { Event::Gone } else { Event::Ended });
        }
        if self.paused {
            let now = Time::now();
            if session.may_go_on(now) {
                (self.paused, self.unread) = (false, None);
                return Poll::Ready(Event::Resumed);
            }
            if session.is_unread(now) && self.poll_unread(cx, replies.taken()).is_ready() {
                (self.paused, self.unread) = (false, None);
                return Poll::Ready(Event::Unread);
            }
            return Poll::Pending;
        }
        if session.worker.is_draining() && self.is_empty() && replies.is_settled() && session.transaction.is_none() {
            return Poll::Ready(Event::Drained);
        }
        match self.poll_read(cx) {
            Poll::Ready(Ok(0)) => Poll::Ready(Event::Eof),
            Poll::Ready(Ok(n)) => {
                session.worker.stats.bytes_in.add(n as u64);
                Poll::Ready(Event::Bytes)
            }
            Poll::Ready(Err(_)) => Poll::Ready(Event::Gone),
            Poll::Pending => {
                if self.input.bytes.is_empty() {
                    self.input.compact();
                }
                match &mut self.idle {
                    Some(idle) if replies.is_settled() && session.private.is_none() => {
                        idle.as_mut().poll(cx).map(|()| Event::Idle)
                    }
                    _ => Poll::Pending,
                }
            }
        }
    }

    /// Ready once the client, which has `taken` so many bytes in all, has taken none for a while.
    fn poll_unread(&mut self, cx: &mut Context<'_>, taken: u64) -> Poll<()> {
        if self.unread.as_ref().is_none_or(|(before, _)| *before != taken) {
            self.unread = Some((taken, Box::pin(sleep(UNREAD))));
        }
        self.unread.as_mut().map_or(Poll::Pending, |(_, patience)| patience.as_mut().poll(cx))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Line { socket, ahead, eof } = &mut self.line;
        if !ahead.is_empty() {
            self.input.bytes.append(ahead);
            return Poll::Ready(Ok(self.input.bytes.len()));
        }
        if *eof {
            return Poll::Ready(Ok(0));
        }
        if self.input.bytes.capacity() == 0 {
            self.input.bytes = buffer::take();
        }
        self.input.bytes.reserve(READ);
        poll_read_buf(Pin::new(socket), cx, &mut self.input.bytes)
    }

    /// The last words: waits a little for what is unanswered and writes what is left. Of a session that must end, what is
    /// answered and only held.
    pub(super) async fn finish(mut self, session: &Session) {
        let replies = Rc::clone(&session.caller.replies);
        let written = poll_fn(|cx| {
            replies.register(cx);
            let over = replies.is_settled() || replies.ended().is_some() && !replies.is_held();
            match self.line.poll_flush(cx, session) {
                Poll::Ready(Ok(())) if over => Poll::Ready(()),
                Poll::Ready(Err(_)) => Poll::Ready(()),
                _ => Poll::Pending,
            }
        });
        let _ = timeout(FAREWELL, written).await;
    }
}

impl Line {
    /// Waits until every command so far has been answered. Writes meanwhile, and notices a client that has left.
    pub(super) async fn answered(&mut self, session: &Session) -> Result<(), Close> {
        let replies: &Replies = &session.caller.replies;
        poll_fn(|cx| {
            replies.register(cx);
            let flushed = self.poll_flush(cx, session);
            if replies.is_settled() {
                return Poll::Ready(Ok(()));
            }
            if replies.ended().is_some() || matches!(flushed, Poll::Ready(Err(_))) {
                return Poll::Ready(Err(Close::Gently));
            }
            if !self.eof && self.ahead.len() < AHEAD {
                match poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.ahead) {
                    Poll::Ready(Ok(0)) => self.eof = true,
                    Poll::Ready(Ok(_)) => cx.waker().wake_by_ref(),
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Close::Now)),
                    Poll::Pending => {}
                }
            }
            if self.eof && session.has_blocked() {
                return Poll::Ready(Err(Close::Now));
            }
            Poll::Pending
        })
        .await
    }

    /// Writes replies as they come until `future` is ready.
    pub(super) async fn while_writing<T>(
        &mut self,
        session: &Session,
        future: impl Future<Output = T>,
    ) -> Result<T, Close> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            session.caller.replies.register(cx);
            if let Poll::Ready(Err(_)) = self.poll_flush(cx, session) {
                return Poll::Ready(Err(Close::Now));
            }
            future.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, session: &Session) -> Poll<io::Result<()>> {
        session.caller.replies.poll_flush(cx, &mut self.socket, &session.worker.stats.bytes_out)
    }
}

fn farewell(session: &Session, end: End, socket: &Socket) {
    let client = socket.peer();
    match end {
        End::Slow => {
            session.worker.stats.slow_clients.add(1);
            let limit = session.worker.shared.config.output_limit;
            warn!(%client, limit, "client closed: it did not read its replies and more than output_limit bytes waited for it");
        }
        End::LoggedOut => {
            warn!(%client, "client closed: the upstream ended its user's connections and accepts its login no more");
        }
        End::Upstream => warn!(%client, "client closed: the upstream connection that was its own has ended"),
    }
}
