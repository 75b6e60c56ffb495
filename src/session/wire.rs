//! The client's socket: what was read and not yet taken up, and when to read, write or wait.
//!
//! Holds contract point 7 for a client that has closed its side.

use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::io::poll_read_buf;
use tracing::{debug, info, warn};

use super::input::Input;
use super::wait::Wait;
use super::{Close, Session, SessionEnd};
use crate::clock::Time;
use crate::net::Socket;
use crate::net::buffer;
use crate::proxy::{Replies, ReplyPlace};

/// Bytes asked for at a time.
const READ: usize = 16 << 10;
/// Bytes read ahead while a session waits for its earlier commands: enough to notice that the client has left.
const AHEAD: usize = 64 << 10;
/// A client that has not taken a byte of what waits for it for so long is not merely slow.
const UNREAD: Duration = Duration::from_millis(100);
/// How often it is looked whether a client has left of whom no more can be read.
const LOOK: Duration = Duration::from_millis(100);
/// How long a client that is being closed may take nothing of what is left for it.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a client that was cut off may take to notice.
const LINGER: Duration = Duration::from_secs(1);

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
    /// The client must be given up at once.
    Gone,
    /// The process ends, and this session has nothing under way.
    Drained,
    /// The client was silent for longer than the idle time-out.
    Idle,
    /// The nodes of the cluster are others by now, and what a subscriber has there is not by that.
    NodesChanged,
    /// Others need the connection that the session has borrowed and is done with.
    LoanWanted,
}

/// The socket with its input.
pub(super) struct Wire {
    pub(super) line: ClientLine,
    pub(super) input: Input,
    paused: bool,
    /// Commands have just been taken up, and nothing was written since.
    fresh: bool,
    /// How long the client may still take nothing, and how much it had taken when that began.
    unread: Option<(u64, Pin<Box<Sleep>>)>,
    idle: Option<Pin<Box<Sleep>>>,
}

/// The socket, with what was read from it ahead of time.
pub(super) struct ClientLine {
    socket: Socket,
    ahead: Vec<u8>,
    /// The client will send no more: it has closed its side, or is gone.
    eof: bool,
    look: Option<Pin<Box<Sleep>>>,
    doubt: Option<Doubt>,
}

/// A question whether Redis has this command wait.
struct Doubt {
    of: Wait,
    over: Pin<Box<dyn Future<Output = ()>>>,
}

impl Wire {
    pub(super) fn new(socket: Socket) -> Self {
        let line = ClientLine { socket, ahead: Vec::new(), eof: false, look: None, doubt: None };
        Self { line, input: Input::default(), paused: false, fresh: false, unread: None, idle: None }
    }

    /// Another hold on the socket, for another process; not where it is under TLS, or something was read of it.
    pub(super) fn copy(&self) -> Option<OwnedFd> {
        let is_untouched = self.line.ahead.is_empty() && !self.line.eof && self.is_empty();
        if is_untouched { self.line.socket.copy() } else { None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.input.rest().is_empty()
    }

    /// Nothing more is to be read until the session may go on.
    pub(super) fn pause(&mut self) {
        self.input.give_back();
        self.paused = true;
    }

    /// Writes replies as they come, and waits for something to do. Cancel safe.
    pub(super) async fn next(&mut self, session: &mut Session) -> Event {
        self.idle = session.worker.settings.idle_timeout().map(|after| Box::pin(sleep(after)));
        self.fresh = true;
        poll_fn(|cx| self.poll_next(cx, session)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, session: &Session) -> Poll<Event> {
        let replies = &*session.caller.replies;
        replies.register(cx);
        if std::mem::take(&mut self.fresh) && !self.paused && replies.may_cork() {
            session.worker.cork(&session.caller.replies);
        } else {
            let _ = self.line.poll_flush(cx, session);
        }
        if let Some(end) = replies.ended() {
            farewell(session, end);
            return Poll::Ready(if end == SessionEnd::Slow { Event::Gone } else { Event::Ended });
        }
        if replies.has_cut() {
            return Poll::Pending; // until what came before that is answered
        }
        if self.paused {
            let now = Time::now();
            if session.may_go_on(now) {
                (self.paused, self.unread) = (false, None);
                return Poll::Ready(Event::Resumed);
            }
            if session.is_unread(now) && self.poll_unread(cx, replies.taken(), UNREAD).is_ready() {
                (self.paused, self.unread) = (false, None);
                return Poll::Ready(Event::Unread);
            }
            return self.line.poll_abandoned(cx, session).map(|()| Event::Eof);
        }
        if session.has_lost_its_node() {
            replies.end(SessionEnd::Upstream);
            return Poll::Ready(Event::Ended);
        }
        if session.has_to_feed() && replies.is_settled() {
            return Poll::Ready(Event::NodesChanged);
        }
        match self.poll_read(cx) {
            Poll::Ready(0) => Poll::Ready(Event::Eof),
            Poll::Ready(n) => {
                replies.read(n);
                Poll::Ready(Event::Bytes)
            }
            Poll::Pending => {
                self.input.give_back();
                // What the client has sent by now is carried out yet.
                let is_done = self.is_empty() && replies.is_settled() && session.link.open().is_none();
                let drains = session.worker.is_draining();
                if (drains || session.is_loan_wanted()) && is_done && session.has_done_with_loan() {
                    return Poll::Ready(Event::LoanWanted);
                }
                if drains && is_done && session.has_read_what_it_must() {
                    return Poll::Ready(Event::Drained);
                }
                match &mut self.idle {
                    Some(idle) if replies.is_settled() && session.link.is_shared() => {
                        idle.as_mut().poll(cx).map(|()| Event::Idle)
                    }
                    _ => Poll::Pending,
                }
            }
        }
    }

    /// Ready once the client, which has `taken` so many bytes in all, has taken none for so long.
    fn poll_unread(&mut self, cx: &mut Context<'_>, taken: u64, long: Duration) -> Poll<()> {
        if self.unread.as_ref().is_none_or(|(before, _)| *before != taken) {
            self.unread = Some((taken, Box::pin(sleep(long))));
        }
        self.unread.as_mut().map_or(Poll::Pending, |(_, patience)| patience.as_mut().poll(cx))
    }

    /// How many bytes more were read; none at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if !self.line.ahead.is_empty() {
            let ahead = std::mem::take(&mut self.line.ahead);
            self.input.append(&ahead);
            return Poll::Ready(ahead.len());
        }
        if self.line.eof {
            return Poll::Ready(0);
        }
        let room = self.input.room(READ);
        let read = ready!(poll_read_buf(Pin::new(&mut self.line.socket), cx, room));
        self.line.eof = matches!(read, Ok(0) | Err(_));
        Poll::Ready(read.unwrap_or(0))
    }

    /// The last words: waits for what is unanswered and writes what is left, for as long as the client takes something of it.
    /// Of a session that must end, what is answered and only held. Where Redis has a command wait, a client that has closed its
    /// side does not wait for it: Redis is told, and ends it.
    pub(super) async fn finish(&mut self, session: &Session) {
        let replies = Rc::clone(&session.caller.replies);
        let mut left = None;
        poll_fn(|cx| {
            replies.register(cx);
            let over = replies.is_settled() || replies.ended().is_some() && !replies.is_held();
            if self.line.poll_flush(cx, session).is_pending() {
                if self.poll_unread(cx, replies.taken(), FAREWELL).is_ready() {
                    return Poll::Ready(());
                }
            } else if over {
                return Poll::Ready(());
            } else {
                self.unread = None;
            }
            self.line.poll_last(cx);
            if self.line.eof {
                poll_leave(cx, session, &mut left);
            }
            Poll::Pending
        })
        .await;
    }
}

/// Returns when what was sent on the session's own connection would be answered unless Redis has it wait. What Redis cannot have yet
/// it does not have wait, so that is sent first.
fn overtaken(session: &Session, moment: Duration) -> impl Future<Output = ()> + use<> {
    let lane = session.link.conn().map(|lent| Rc::clone(lent.lane()));
    let overtaken = session.caller.overtaken(&session.worker, moment);
    async move {
        while lane.as_ref().is_some_and(|lane| lane.is_unsent()) {
            sleep(moment).await;
        }
        overtaken.await;
    }
}

/// Has Redis told that the client has left, where what it waits for is not answered [at once](Wait::left): what Redis then has
/// still to write it might not write to the end.
fn poll_leave(cx: &mut Context<'_>, session: &Session, timer: &mut Option<Pin<Box<Sleep>>>) {
    let now = Time::now();
    let Some(wait) = session.awaited(now) else { return };
    let left = wait.left(now);
    if left.is_zero() {
        return session.leave(now);
    }
    let timer = timer.insert(Box::pin(sleep(left)));
    if timer.as_mut().poll(cx).is_ready() {
        cx.waker().wake_by_ref();
    }
}

impl ClientLine {
    /// Takes leave of a client that is cut off in the midst of what it sends: it is told that nothing more comes, and what it
    /// still sends is thrown away. To close at once, with bytes unread, would be a reset, and a reset can overtake the last replies.
    pub(super) async fn linger(&mut self) {
        if self.eof || self.socket.shutdown().await.is_err() {
            return;
        }
        let mut scrap = buffer::take();
        scrap.resize(READ, 0);
        let drained = async { while self.socket.read(&mut scrap).await.is_ok_and(|n| n > 0) {} };
        let _ = timeout(LINGER, drained).await;
        buffer::give(scrap);
    }

    /// Waits until every command so far has been answered, and writes meanwhile. The session ends where that shall not be.
    pub(super) async fn answered(&mut self, session: &Session) -> Result<(), Close> {
        let replies: &Replies = &session.caller.replies;
        poll_fn(|cx| {
            replies.register(cx);
            let _ = self.poll_flush(cx, session);
            if replies.is_settled() {
                return Poll::Ready(Ok(()));
            }
            if replies.ended().is_some() {
                return Poll::Ready(Err(Close::Gently));
            }
            self.poll_abandoned(cx, session).map(|()| Err(Close::Gently))
        })
        .await
    }

    /// Waits until what is at the head of the replies is there and only held.
    pub(super) async fn held(&mut self, session: &Session) -> Result<(), Close> {
        let replies: &Replies = &session.caller.replies;
        poll_fn(|cx| {
            replies.register(cx);
            let _ = self.poll_flush(cx, session);
            if replies.is_held() || replies.is_settled() {
                return Poll::Ready(Ok(()));
            }
            if replies.ended().is_some() || replies.has_cut() {
                return Poll::Ready(Err(Close::Gently));
            }
            self.poll_abandoned(cx, session).map(|()| Err(Close::Gently))
        })
        .await
    }

    /// Waits until it is known which error the reply at `place` is, if it is one: empty where it is none. It must be looked at.
    pub(super) async fn looked_at(&mut self, session: &Session, place: ReplyPlace) -> Result<Vec<u8>, Close> {
        poll_fn(|cx| {
            let replies = &session.caller.replies;
            replies.register(cx);
            let _ = self.poll_flush(cx, session);
            if let Some(error) = replies.error_at(place) {
                return Poll::Ready(Ok(error));
            }
            self.poll_abandoned(cx, session).map(|()| Err(Close::Gently))
        })
        .await
    }

    /// Ready once the client has left and Redis has its command wait, so that nothing behind that is carried out. A reply can
    /// be under way still: what is asked later on another connection is answered first.
    fn poll_abandoned(&mut self, cx: &mut Context<'_>, session: &Session) -> Poll<()> {
        let Some(wait) = session.awaited(Time::now()) else {
            self.doubt = None;
            return Poll::Pending;
        };
        ready!(self.poll_left(cx));
        let doubt = self.doubt.take_if(|doubt| doubt.of == wait);
        let mut doubt = doubt.unwrap_or_else(|| Doubt { of: wait, over: Box::pin(overtaken(session, wait.moment())) });
        let over = doubt.over.as_mut().poll(cx);
        self.doubt = Some(doubt);
        over
    }

    /// Ready once the client has closed its side. Reads some bytes ahead to see it; where more are there it looks now and then.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.eof && self.ahead.len() < AHEAD {
            let read = ready!(poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.ahead));
            self.eof = matches!(read, Ok(0) | Err(_));
        }
        while !self.eof && !self.socket.is_read_closed() {
            let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
            ready!(look.as_mut().poll(cx));
            self.look = None;
        }
        Poll::Ready(())
    }

    /// Reads what is of no account any more, to see whether the client has closed its side.
    fn poll_last(&mut self, cx: &mut Context<'_>) {
        if self.eof {
            return;
        }
        self.ahead.clear();
        self.ahead.reserve(READ);
        if let Poll::Ready(read) = poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.ahead) {
            self.eof = matches!(read, Ok(0) | Err(_));
            cx.waker().wake_by_ref();
        }
    }

    /// Writes replies as they come until `future` is ready.
    pub(super) async fn while_writing<T>(&mut self, session: &Session, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|cx| {
            session.caller.replies.register(cx);
            let _ = self.poll_flush(cx, session);
            future.as_mut().poll(cx)
        })
        .await
    }

    /// As [`while_writing`](Self::while_writing), for what may take as long as it likes: the session ends where its client leaves.
    pub(super) async fn while_there<T>(
        &mut self,
        session: &Session,
        future: impl Future<Output = T>,
    ) -> Result<T, Close> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            session.caller.replies.register(cx);
            let _ = self.poll_flush(cx, session);
            if let Poll::Ready(result) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(result));
            }
            self.poll_left(cx).map(|()| Err(Close::Gently))
        })
        .await
    }

    /// The address at which the client came.
    pub(super) fn local(&self) -> String {
        self.socket.local()
    }

    /// Writes what can go out; ready when nothing is left to write. What a client sent that is gone is carried out all the same.
    fn poll_flush(&mut self, cx: &mut Context<'_>, session: &Session) -> Poll<()> {
        let replies = &session.caller.replies;
        let written = ready!(replies.poll_flush(cx, &mut self.socket, &session.worker.stats.bytes_out));
        if written.is_err() {
            self.eof = true;
            replies.deafen();
        }
        Poll::Ready(())
    }
}

fn farewell(session: &Session, end: SessionEnd) {
    let client = session.caller.replies.member().peer();
    match end {
        SessionEnd::Slow => {
            session.worker.stats.slow_clients.add(1);
            let limit = session.worker.settings.all().output_limit;
            warn!(%client, limit, "client closed: it did not read its replies and more than output_limit bytes waited for it");
        }
        SessionEnd::LoggedOut => {
            warn!(%client, "client closed: the upstream accepts its login no more, and no connection of its user is left");
        }
        SessionEnd::Killed => info!(%client, "client closed: CLIENT KILL"),
        SessionEnd::Away => {
            debug!(%client, "client closed: a command of it could not be served, or the upstream is away");
        }
        SessionEnd::Upstream => warn!(%client, "client closed: the upstream connection that was its own has ended"),
    }
}
