//! A pipelined connection to a node: commands go out in the order of [`Lane::send`], replies come back in that order.
//!
//! A lane is shared by many sessions of one worker; the same type, made with [`Lane::private`], is a connection lent to
//! one session, on which Redis may also speak unasked. One task, [`Lane::run`], owns the socket: it writes what was
//! appended, splits what comes into replies without decoding them, and hands each piece to the [`Waiter`] at the head of
//! the FIFO. However the connection ends, every waiter is told: none waits for ever.
//!
//! A long file: what is sent, what is awaited and how the two end together are one state machine.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::messages::{Message, classify, is_monitor_line};
use super::{Connection, Node, Service};
use crate::clock::Time;
use crate::error::{Error, Sent};
use crate::net::Socket;
use crate::resp::{Split, Splitter, encode};

/// A lane whose head waits longer takes no more commands, and a reply is read no slower for a slow session after it.
pub const STALL: Duration = Duration::from_millis(50);

/// A lane in the midst of a reply of more than so many bytes takes no more commands: they would wait behind the rest.
const LARGE_REPLY: u64 = 1 << 20;
/// Bytes read at a time. A large reply comes in such pieces.
const READ_AT_ONCE: usize = 256 << 10;
/// Reads that a lane may do before other tasks of its thread get a turn.
const BUDGET: usize = 4;
/// Why a connection that was made before another server took the address is given up.
pub const ANOTHER: &str = "another server answers at its address now";
/// A private connection on which more bytes are unwritten is given no more: they stay with the client.
const UNWRITTEN: u64 = 256 << 10;
/// A buffer that is empty keeps no more than so many bytes.
const SCRATCH: usize = 64 << 10;

thread_local! {
    /// Where every lane of the thread reads to: replies leave it before the next lane is polled.
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_AT_ONCE].into_boxed_slice());
}

/// What awaits one reply.
pub trait Waiter: 'static {
    /// The next bytes of the reply, in order. `kind` is its type byte; with its last bytes, `end` says when they were read.
    fn piece(&mut self, kind: u8, bytes: &[u8], end: Option<Time>);

    /// The reply is whole. `command` is what it answers, on a shared lane. Must not send on this lane.
    fn over(self, command: &[u8]);

    /// Whether the next reply is for this waiter, too. Asked when one is over, and before [`over`](Self::over), which is
    /// called for the last.
    fn awaits_more(&self) -> bool;

    /// Asked in the middle of a reply: ready once the receiver can take more bytes.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether it awaits confirmations of a (un)subscribe command.
    fn confirms(&self) -> bool;

    /// A whole such confirmation; whether it was the last.
    fn confirm(&mut self, bytes: &[u8]) -> bool;

    /// Whether the reply is for no client.
    fn is_own(&self) -> bool;

    /// Whether the reply may take as long as it likes: Redis was asked to wait.
    fn is_patient(&self) -> bool;

    /// Whether the command may change keys.
    fn writes(&self) -> bool;
    /// The connection is gone and this reply will not come. `command` is what was, or was to be, sent on a shared lane.
    fn lost(self, error: &Error, sent: Sent, command: &[u8]);
}

/// Whoever a private connection is lent to: takes what Redis says unasked.
pub trait OutOfBand {
    /// A whole push, message or raw piece, to be passed on after the replies before it.
    fn message(&self, bytes: &[u8]);
    /// A line of `MONITOR`.
    fn monitored(&self, line: &[u8]);
    /// Ready once the receiver can take more bytes.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()>;
    /// The node has taken most of what was sent, and takes more.
    fn taken(&self);
    /// Redis, or the way to it, has ended the connection: told before any waiter is.
    fn cut(&self);
    /// The connection has ended.
    fn ended(&self);
}

/// How a private connection's bytes are to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Replies, and RESP3 pushes between them.
    Replies,
    /// The session subscribed: RESP2 messages stand between replies.
    Subscribed,
    /// The session monitors: status lines stand between replies. It may have subscribed as well.
    Monitor,
    /// The next reply opens a replication stream, unless it is an error.
    Opening,
    /// No protocol any more: a replication stream.
    Raw,
}

/// The connection. See the module's head.
pub struct Lane<W> {
    node: Arc<Node>,
    private: bool,
    inner: RefCell<Inner<W>>,
    mode: Cell<Mode>,
    waiting_since: Cell<Time>,
    used: Cell<Time>,
    /// When the command was sent that is being timed, and how long the last such took.
    timed: Cell<Option<Time>>,
    round_trip: Cell<Duration>,
    /// Bytes so far of the reply that is being read.
    reply: Cell<u64>,
    checked: Cell<Time>,
    told: Cell<bool>,
    /// The other side ended the connection.
    cut: Cell<bool>,
    /// Redis does not let this user be asked whether replies are in step.
    unverifiable: Cell<bool>,
    local: RefCell<String>,
    /// The generation of the server that it leads to; none before it is made.
    generation: Cell<Option<u64>>,
    /// What the server calls it.
    id: Cell<Option<u64>>,
}

struct Inner<W> {
    state: State,
    /// What is to be written, from `cursor` on; before it, commands that may have to be sent again on another lane.
    out: Vec<u8>,
    cursor: usize,
    /// Bytes ever appended and ever written; their difference is what `out` holds from `cursor` on.
    queued: u64,
    written: u64,
    /// Bytes of the next command that were sent ahead of the rest.
    ahead: usize,
    /// Preparations under way, and where the last of them ends: nothing beyond is written meanwhile.
    preparing: u32,
    prepared: u64,
    leaving: Leaving,
    fifo: VecDeque<Entry<W>>,
    owner: Option<Rc<dyn OutOfBand>>,
    task: Option<Waker>,
    opening: Vec<Waker>,
    /// Who goes on with the connection.
    heir: Option<oneshot::Sender<Connection>>,
}

/// Whether Redis is, or was, told that nothing more will be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// Behind what is queued.
    Soon,
    Told,
}

enum State {
    Connecting,
    Open,
    /// To end, or to be handed on, once all is answered.
    Retiring,
    Closing,
    Closed(Error),
}

struct Entry<W> {
    start: u64,
    expect: Expect<W>,
}

enum Expect<W> {
    Reply(W),
    /// The reply, of this type, to a preparation: any other one ends the connection.
    Prepared {
        kind: u8,
        got: Vec<u8>,
    },
    /// The reply to an `ECHO` of our own: a connection that answers anything else is out of step.
    Nonce {
        expected: Vec<u8>,
        got: Vec<u8>,
    },
    /// Nothing: from here on, bytes are understood this way.
    Mode(Mode),
}

impl<W: Waiter> Lane<W> {
    /// A lane for many sessions. Commands may be sent at once; they leave when [`run`](Self::run) has connected.
    pub fn shared(node: Arc<Node>, now: Time) -> Rc<Self> {
        Rc::new(Self::new(node, false, now))
    }

    /// A connection for one session at a time.
    pub fn private(node: Arc<Node>, now: Time) -> Rc<Self> {
        Rc::new(Self::new(node, true, now))
    }

    fn new(node: Arc<Node>, private: bool, now: Time) -> Self {
        let inner = Inner {
            state: State::Connecting,
            out: Vec::new(),
            cursor: 0,
            queued: 0,
            written: 0,
            ahead: 0,
            preparing: 0,
            prepared: 0,
            leaving: Leaving::No,
            fifo: VecDeque::new(),
            owner: None,
            task: None,
            opening: Vec::new(),
            heir: None,
        };
        Self {
            node,
            private,
            inner: RefCell::new(inner),
            mode: Cell::new(Mode::Replies),
            waiting_since: Cell::new(now),
            used: Cell::new(now),
            timed: Cell::new(None),
            round_trip: Cell::default(),
            reply: Cell::new(0),
            checked: Cell::new(now),
            told: Cell::new(false),
            cut: Cell::new(false),
            unverifiable: Cell::new(false),
            local: RefCell::default(),
            generation: Cell::default(),
            id: Cell::default(),
        }
    }

    /// Appends a whole command. Given back when the lane has ended: nothing was sent then.
    pub fn send(&self, command: &[u8], waiter: W, now: Time) -> Result<(), W> {
        match self.append(command, Expect::Reply(waiter), now) {
            Ok(()) => Ok(()),
            Err(Expect::Reply(waiter)) => Err(waiter),
            Err(Expect::Nonce { .. } | Expect::Prepared { .. } | Expect::Mode(_)) => {
                unreachable!("append gives back what it was given")
            }
        }
    }

    /// Appends a command that makes the connection ready for what is sent after it, which is not written before a reply of
    /// type `kind` is in: it never runs in another database than it was meant for. Any other reply ends the connection.
    pub fn prepare(&self, command: &[u8], kind: u8, now: Time) {
        if self.append(command, Expect::Prepared { kind, got: Vec::new() }, now).is_ok() {
            let inner = &mut *self.inner.borrow_mut();
            inner.preparing += 1;
            inner.prepared = inner.queued;
        }
    }

    /// Appends the next bytes of a command that is not whole yet. What is sent next must be that command.
    pub fn send_ahead(&self, bytes: &[u8]) {
        self.inner.borrow_mut().ahead += bytes.len();
        self.send_raw(bytes);
    }

    /// So many of the bytes that were sent ahead are not in the command that is sent next: they are forgotten.
    pub fn forget_ahead(&self, bytes: usize) {
        self.inner.borrow_mut().ahead -= bytes;
    }

    /// Whether much that was sent is not written yet: the node takes no more.
    pub fn is_behind(&self) -> bool {
        self.inner.borrow().is_behind()
    }

    /// Appends bytes that are no command: a replica's side of a replication stream.
    pub fn send_raw(&self, bytes: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        inner.queued += bytes.len() as u64;
        inner.out.extend_from_slice(bytes);
        inner.wake();
    }

    /// Checks that replies are still in step: an `ECHO` whose answer must be its own. A wrong answer ends the connection
    /// before any reply to what is sent later is passed on.
    pub fn verify(&self, now: Time) {
        self.checked.set(now);
        if self.unverifiable.get() {
            return;
        }
        let nonce = format!("crema-{:016x}", rand::random::<u64>());
        let mut command = Vec::with_capacity(64);
        encode::own_command(&mut command, &[b"ECHO", nonce.as_bytes()]);
        let mut expected = Vec::with_capacity(32);
        encode::bulk(&mut expected, nonce.as_bytes());
        // Where it cannot be sent, the connection has ended anyway.
        let _ = self.append(&command, Expect::Nonce { expected, got: Vec::new() }, now);
    }

    fn append(&self, command: &[u8], expect: Expect<W>, now: Time) -> Result<(), Expect<W>> {
        let mut inner = self.inner.borrow_mut();
        if matches!(inner.state, State::Retiring | State::Closing | State::Closed(_)) {
            return Err(expect);
        }
        if inner.fifo.is_empty() {
            self.waiting_since.set(now);
            self.timed.set(matches!(inner.state, State::Open).then_some(now));
        }
        if matches!(expect, Expect::Reply(_)) {
            self.used.set(now);
        }
        let rest = &command[std::mem::take(&mut inner.ahead)..];
        let start = inner.queued;
        inner.queued += rest.len() as u64;
        inner.out.extend_from_slice(rest);
        inner.fifo.push_back(Entry { start, expect });
        inner.wake();
        Ok(())
    }

    /// Waits until the connection is made, or says why it was not. Cancel safe.
    pub async fn ready(&self) -> Result<(), Error> {
        poll_fn(|cx| {
            let mut inner = self.inner.borrow_mut();
            match &inner.state {
                State::Open => Poll::Ready(Ok(())),
                State::Retiring | State::Closing => Poll::Ready(Err(self.lost("closed"))),
                State::Closed(error) => Poll::Ready(Err(error.clone())),
                State::Connecting => {
                    inner.opening.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Waits until what prepares it is answered. False where Redis refused, which has ended it. Cancel safe.
    pub async fn prepared(&self) -> bool {
        poll_fn(|cx| {
            let mut inner = self.inner.borrow_mut();
            match &inner.state {
                State::Closed(error) => Poll::Ready(!matches!(error, Error::Refused { .. })),
                State::Retiring | State::Closing => Poll::Ready(true),
                _ if inner.preparing == 0 => Poll::Ready(true),
                _ => {
                    inner.opening.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Whether commands can still be sent, to the server that stands behind the address now.
    pub fn is_open(&self) -> bool {
        !self.is_stale() && !matches!(self.inner.borrow().state, State::Retiring | State::Closing | State::Closed(_))
    }

    /// Whether it leads to a server that another has taken the place of: what is answered here is no answer any more.
    pub fn is_stale(&self) -> bool {
        self.generation.get().is_some_and(|made| made != self.node.generation.number())
    }

    /// What the server calls the connection, where it could be asked.
    pub fn id(&self) -> Option<u64> {
        self.id.get()
    }

    /// Since when the head of the FIFO has waited for its next byte.
    pub fn waiting_since(&self) -> Time {
        self.waiting_since.get()
    }

    /// Whether what waits at the head may change keys.
    pub fn writes(&self) -> bool {
        matches!(self.inner.borrow().fifo.front(), Some(Entry { expect: Expect::Reply(waiter), .. }) if waiter.writes())
    }

    /// Whether a session has it.
    pub fn is_lent(&self) -> bool {
        self.inner.borrow().owner.is_some()
    }

    /// Whether it has ended, and all who waited were told.
    pub fn has_ended(&self) -> bool {
        matches!(self.inner.borrow().state, State::Closed(_))
    }

    /// Whether nothing awaits a reply.
    pub fn is_quiet(&self) -> bool {
        self.inner.borrow().fifo.is_empty()
    }

    /// Whether what is sent now would wait: behind the rest of a large reply, or because the head of the FIFO has waited
    /// longer than [`STALL`] for a byte while the node speaks on other connections.
    pub fn is_stalled(&self, now: Time) -> bool {
        self.reply.get() > LARGE_REPLY
            || self.waited(now) > STALL && self.node.last_heard().saturating_since(self.waiting_since.get()) > STALL
    }

    /// How long the head of the FIFO has waited for its next byte; zero where it is to wait, or its session takes no more.
    pub fn waited(&self, now: Time) -> Duration {
        if self.mode.get() != Mode::Replies {
            return Duration::ZERO; // much of what comes then is no reply
        }
        let inner = self.inner.borrow();
        match inner.fifo.front() {
            None => Duration::ZERO,
            Some(Entry { expect: Expect::Reply(waiter), .. }) if waiter.is_patient() && !inner.is_leaving() => {
                Duration::ZERO
            }
            Some(_) => now.saturating_since(self.waiting_since.get()),
        }
    }

    /// Since when the next reply to a client has been awaited, where its command is one that Redis may have put to wait, or
    /// `any` command. `None` once Redis is told that nothing more comes.
    pub fn waits_since(&self, any: bool) -> Option<Time> {
        let inner = self.inner.borrow();
        let next = inner.fifo.iter().find_map(|entry| match &entry.expect {
            Expect::Reply(waiter) if !waiter.is_own() => Some(waiter),
            _ => None,
        })?;
        (!inner.is_leaving() && (any || next.is_patient())).then(|| self.waiting_since.get())
    }

    /// How long ago the last command was sent.
    pub fn idle_for(&self, now: Time) -> Duration {
        now.saturating_since(self.used.get())
    }

    /// How long the last command took to be answered that found nothing else under way; zero before there was one.
    pub fn round_trip(&self) -> Duration {
        self.round_trip.get()
    }

    /// How long ago it was last checked for being in step.
    pub fn checked_for(&self, now: Time) -> Duration {
        now.saturating_since(self.checked.get())
    }

    /// Why commands can no longer be sent.
    pub fn lost_error(&self) -> Error {
        match &self.inner.borrow().state {
            State::Closed(error) => error.clone(),
            _ => self.lost("closed"),
        }
    }

    /// Whether it ended because it was told to.
    pub fn was_closed(&self) -> bool {
        self.told.get()
    }

    /// Bytes of commands sent or queued that are not answered yet.
    pub fn in_flight(&self) -> u64 {
        let inner = self.inner.borrow();
        inner.fifo.front().map_or(0, |head| inner.queued - head.start)
    }

    /// The connection's own address, as `MONITOR` and `CLIENT LIST` show it. Empty before it is made.
    pub fn local(&self) -> String {
        self.local.borrow().clone()
    }

    /// Lends a private connection, or takes it back with `None`.
    pub fn lend(&self, owner: Option<Rc<dyn OutOfBand>>) {
        self.inner.borrow_mut().owner = owner;
    }

    /// From the reply to the next command on, bytes are understood this way.
    pub fn set_mode(&self, mode: Mode) {
        let mut inner = self.inner.borrow_mut();
        if inner.fifo.is_empty() {
            self.enter(mode);
        } else {
            let start = inner.queued;
            inner.fifo.push_back(Entry { start, expect: Expect::Mode(mode) });
        }
    }

    /// Who subscribes monitors on.
    fn enter(&self, mode: Mode) {
        if (self.mode.get(), mode) != (Mode::Monitor, Mode::Subscribed) {
            self.mode.set(mode);
        }
    }

    /// How bytes are understood now.
    pub fn mode(&self) -> Mode {
        self.mode.get()
    }

    /// Ends the connection soon; waiters are told.
    pub fn close(&self) {
        self.told.set(true);
        let mut inner = self.inner.borrow_mut();
        if !matches!(inner.state, State::Closed(_)) {
            inner.state = State::Closing;
            inner.wake();
            inner.wake_opening();
        }
    }

    /// Ends once all that was sent on it is answered, and takes no more.
    pub fn retire(&self) {
        let mut inner = self.inner.borrow_mut();
        if matches!(inner.state, State::Open) {
            self.told.set(true);
            inner.state = State::Retiring;
            inner.wake();
        }
    }

    /// Closes the sending side behind what was sent, as the client of a private connection has closed its own. What Redis
    /// answers still comes; then it ends the connection, at once where it has a command wait.
    pub fn leave(&self, now: Time) {
        self.told.set(true);
        self.waiting_since.set(now); // from here on nothing may take as long as it likes
        let mut inner = self.inner.borrow_mut();
        if inner.leaving == Leaving::No {
            inner.leaving = Leaving::Soon;
            inner.wake();
        }
    }

    /// Ends here, and gives the connection away once all that was sent on it is answered. None where it is not made yet, or is
    /// no longer as it was made.
    pub fn hand_on(&self) -> Option<oneshot::Receiver<Connection>> {
        let mut inner = self.inner.borrow_mut();
        let open = matches!(inner.state, State::Open) && !self.is_stale();
        if !open || inner.ahead > 0 || self.mode.get() != Mode::Replies {
            return None;
        }
        let (heir, connection) = oneshot::channel();
        self.told.set(true);
        (inner.state, inner.heir) = (State::Retiring, Some(heir));
        inner.wake();
        Some(connection)
    }

    /// Whether it was made for one session at a time.
    pub fn is_private(&self) -> bool {
        self.private
    }

    /// Whether it was, and none has it.
    pub fn is_spare(&self) -> bool {
        self.private && self.inner.borrow().owner.is_none()
    }

    /// Whether the connection is made, and open.
    pub fn is_made(&self) -> bool {
        matches!(self.inner.borrow().state, State::Open) && !self.is_stale()
    }

    /// Ends the connection because its head waited longer than `after`.
    pub fn give_up(&self, after: Duration) {
        self.finish(&Error::Timeout { node: Arc::clone(&self.node.address), after });
    }

    /// Ends the connection, for it leads nowhere; waiters are told.
    pub fn lose(&self, why: &str) {
        self.finish(&self.lost(why));
    }

    /// Carries commands over `connection`, once that is made, until it ends; every waiter is answered or told before this
    /// returns. Owned by the worker that opened the lane.
    pub async fn run(self: Rc<Self>, connection: impl Future<Output = Result<Connection, Error>>) -> Error {
        let _ends = Ends(&self);
        let error = match connection.await {
            Ok(mut connection) => {
                *self.local.borrow_mut() = connection.socket.local();
                self.generation.set(Some(connection.generation));
                self.id.set(connection.id);
                let mut wire = Wire::default();
                {
                    let mut inner = self.inner.borrow_mut();
                    if matches!(inner.state, State::Connecting) {
                        inner.state = State::Open;
                    }
                    inner.wake_opening();
                }
                self.waiting_since.set(Time::now());
                let error = poll_fn(|cx| self.poll_drive(cx, &mut connection.socket, &mut wire)).await;
                let heir = self.inner.borrow_mut().heir.take();
                if let Some(heir) = heir.filter(|_| !self.cut.get()) {
                    let _ = heir.send(connection); // where nobody waits for it any more it is closed
                }
                error
            }
            Err(error) => error,
        };
        self.finish(&error);
        error
    }

    fn finish(&self, error: &Error) {
        let (mut fifo, out, queued, written, owner) = {
            let mut inner = self.inner.borrow_mut();
            if matches!(inner.state, State::Closed(_)) {
                return;
            }
            inner.state = State::Closed(error.clone());
            inner.wake();
            inner.wake_opening();
            let (fifo, out) = (std::mem::take(&mut inner.fifo), std::mem::take(&mut inner.out));
            (fifo, out, inner.queued, inner.written, inner.owner.take())
        };
        let from = queued - out.len() as u64;
        if self.cut.get()
            && let Some(owner) = &owner
        {
            owner.cut();
        }
        // No borrow is held here: a waiter may open another lane and send on it.
        while let Some(Entry { start, expect }) = fifo.pop_front() {
            let end = fifo.front().map_or(queued, |next| next.start);
            if let Expect::Reply(waiter) = expect {
                let kept = start.checked_sub(from).map(|at| &out[at as usize..(end - from) as usize]);
                waiter.lost(error, if start < written { Sent::Maybe } else { Sent::No }, kept.unwrap_or_default());
            }
        }
        if let Some(owner) = owner {
            owner.ended();
        }
    }

    fn poll_drive(&self, cx: &mut Context<'_>, socket: &mut Socket, wire: &mut Wire) -> Poll<Error> {
        for _ in 0..BUDGET {
            if let Poll::Ready(error) = self.poll_write(cx, socket) {
                return Poll::Ready(error);
            }
            if self.poll_room(cx, wire).is_pending() {
                return Poll::Pending;
            }
            let read = READ.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(&mut *socket).poll_read(cx, &mut buffer) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Err(error)) => Poll::Ready(Err(self.broken(&error.to_string()))),
                    Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                        Poll::Ready(Err(self.broken("closed by the upstream")))
                    }
                    Poll::Ready(Ok(())) => Poll::Ready(self.take(buffer.filled(), wire)),
                }
            });
            match read {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(error),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what is queued; ready only with the reason to end. Registers the task for what is queued later.
    fn poll_write(&self, cx: &mut Context<'_>, socket: &mut Socket) -> Poll<Error> {
        let inner = &mut *self.inner.borrow_mut();
        match &inner.state {
            State::Retiring if inner.fifo.is_empty() => return Poll::Ready(self.lost("closed")),
            State::Closing => return Poll::Ready(self.lost("closed")),
            State::Closed(error) => return Poll::Ready(error.clone()),
            State::Connecting | State::Open | State::Retiring => {}
        }
        let behind = inner.is_behind();
        let beyond = if inner.preparing > 0 { inner.queued - inner.prepared } else { 0 };
        let end = inner.out.len() - beyond as usize;
        while inner.cursor < end {
            match Pin::new(&mut *socket).poll_write(cx, &inner.out[inner.cursor..end]) {
                Poll::Ready(Ok(n)) => {
                    inner.cursor += n;
                    inner.written += n as u64;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(self.broken(&error.to_string())),
                Poll::Pending => break,
            }
        }
        if behind
            && !inner.is_behind()
            && let Some(owner) = &inner.owner
        {
            owner.taken();
        }
        if inner.leaving == Leaving::Soon && inner.cursor == inner.out.len() {
            inner.leaving = Leaving::Told;
            // Where it cannot be closed it is broken, which reading shows.
            let _ = Pin::new(&mut *socket).poll_shutdown(cx);
        }
        inner.trim(self.private);
        if !inner.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            inner.task = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Whether the next bytes can be taken. A private connection waits as long as its session needs. On a shared lane a
    /// session that takes nothing for [`STALL`] slows the others no longer.
    fn poll_room(&self, cx: &mut Context<'_>, wire: &mut Wire) -> Poll<()> {
        let mut inner = self.inner.borrow_mut();
        if self.private {
            let room = inner.owner.as_ref().map_or(Poll::Ready(()), |owner| owner.poll_room(cx));
            if room.is_pending() {
                self.waiting_since.set(Time::NEVER);
            } else if self.waiting_since.get() == Time::NEVER {
                self.waiting_since.set(Time::now());
            }
            return room;
        }
        if wire.splitter.at_start() {
            return Poll::Ready(());
        }
        let Some(Entry { expect: Expect::Reply(waiter), .. }) = inner.fifo.front_mut() else {
            return Poll::Ready(());
        };
        if waiter.poll_room(cx).is_ready() {
            wire.patience = None;
            return Poll::Ready(());
        }
        // Once it is over there is no more, for this reply or the next, before some session takes what it gets again.
        wire.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL))).as_mut().poll(cx)
    }

    /// Splits what was read and hands every piece to its waiter.
    fn take(&self, mut bytes: &[u8], wire: &mut Wire) -> Result<(), Error> {
        let now = Time::now();
        self.waiting_since.set(now);
        if let Some(sent) = self.timed.take() {
            self.round_trip.set(now.saturating_since(sent));
        }
        if self.is_stale() {
            // Messages are still what they are: a subscriber stays with the server that it chose, as it would alone.
            if !self.private || self.mode.get() == Mode::Replies {
                return Err(self.lost(ANOTHER));
            }
        } else {
            self.node.heard(now);
            // A handshake is no sign that commands are answered.
            if !self.private {
                self.node.signs.mends(Service::Silent);
            }
        }
        while !bytes.is_empty() {
            if self.mode.get() == Mode::Opening && wire.splitter.at_start() {
                self.open_stream(bytes[0], now);
            }
            if self.mode.get() == Mode::Raw {
                self.say(bytes);
                return Ok(());
            }
            let (len, end) = match wire.splitter.split(bytes) {
                Ok(Split::End(len)) => (len, true),
                Ok(Split::More) => (bytes.len(), false),
                Err(malformed) => return Err(self.lost(&malformed.to_string())),
            };
            let (piece, rest) = bytes.split_at(len);
            bytes = rest;
            let kind = wire.splitter.kind();
            if self.private && (kind == b'>' || self.mode.get() != Mode::Replies || !wire.whole.is_empty()) {
                wire.whole.extend_from_slice(piece);
                if end {
                    self.whole(kind, &wire.whole, &mut wire.pubsub, now)?;
                    wire.whole.clear();
                    wire.whole.shrink_to(SCRATCH);
                }
            } else {
                self.reply(kind, piece, end.then_some(now))?;
            }
        }
        Ok(())
    }

    /// The first byte of what answers `SYNC` or `PSYNC`. Redis may send newlines ahead of it, to show that it is there.
    fn open_stream(&self, first: u8, now: Time) {
        if first == b'-' {
            self.mode.set(Mode::Replies);
            return;
        }
        self.mode.set(Mode::Raw);
        let head = self.pop();
        if let Some(Entry { expect: Expect::Reply(mut waiter), .. }) = head {
            waiter.piece(first, b"", Some(now));
            waiter.over(&[]);
        }
    }

    /// Takes the head of the FIFO; a mode behind it takes effect.
    fn pop(&self) -> Option<Entry<W>> {
        let head = self.inner.borrow_mut().fifo.pop_front();
        self.take_effect();
        head
    }

    /// A mode that has come to the head of the FIFO takes effect.
    fn take_effect(&self) {
        let mut inner = self.inner.borrow_mut();
        while let Some(Entry { expect: Expect::Mode(mode), .. }) = inner.fifo.front() {
            self.enter(*mode);
            inner.fifo.pop_front();
        }
    }

    fn reply(&self, kind: u8, piece: &[u8], end: Option<Time>) -> Result<(), Error> {
        if kind == b'>' {
            return Err(self.lost("a push on a lane: desynchronised")); // with its head in place, to be told like the others
        }
        self.reply.set(if end.is_some() { 0 } else { self.reply.get() + piece.len() as u64 });
        let head = self.inner.borrow_mut().fifo.pop_front();
        let Some(mut entry) = head else {
            if self.private {
                self.say(piece);
                return Ok(());
            }
            return Err(self.lost("a reply that nothing asked for: desynchronised"));
        };
        match &mut entry.expect {
            Expect::Reply(waiter) => waiter.piece(kind, piece, end),
            Expect::Prepared { kind: expected, got } => {
                got.extend_from_slice(piece);
                if end.is_some() && kind != *expected {
                    return Err(Error::Refused { node: Arc::clone(&self.node.address), reply: got.as_slice().into() });
                }
                if end.is_some() {
                    let inner = &mut *self.inner.borrow_mut();
                    inner.preparing -= 1;
                    inner.wake();
                    inner.wake_opening();
                }
            }
            // Refused, it neither proves anything nor disproves it.
            Expect::Nonce { .. } if kind == b'-' => self.unverifiable.set(piece.starts_with(b"-NOPERM")),
            Expect::Nonce { expected, got } => {
                got.extend_from_slice(piece);
                if got.len() > expected.len() || end.is_some() && got != expected {
                    return Err(self.lost("a wrong answer to ECHO: desynchronised"));
                }
            }
            Expect::Mode(_) => unreachable!("takes effect when it comes to the head"),
        }
        let more = matches!(&entry.expect, Expect::Reply(waiter) if waiter.awaits_more());
        if end.is_none() || more {
            self.inner.borrow_mut().fifo.push_front(entry);
            return Ok(());
        }
        if self.private {
            self.take_effect();
        }
        if let Expect::Reply(waiter) = entry.expect {
            waiter.over(self.inner.borrow().command(entry.start));
        }
        Ok(())
    }

    /// A whole reply, push or message on a private connection.
    fn whole(&self, kind: u8, bytes: &[u8], pubsub: &mut PubSub, now: Time) -> Result<(), Error> {
        if self.mode.get() == Mode::Monitor && is_monitor_line(bytes) {
            let owner = self.inner.borrow().owner.clone();
            if let Some(owner) = owner {
                owner.monitored(bytes);
            }
            return Ok(());
        }
        let message = match self.mode.get() {
            Mode::Subscribed | Mode::Monitor => classify(bytes),
            _ if kind == b'>' => Some(Message::Published),
            _ => None,
        };
        let awaited = matches!(
            self.inner.borrow().fifo.front(),
            Some(Entry { expect: Expect::Reply(waiter), .. }) if waiter.confirms()
        );
        match message {
            Some(Message::Confirmation { shard, left }) if awaited => {
                pubsub.left[usize::from(shard)] = left;
                pubsub.pushes = kind == b'>';
                self.confirm(bytes);
                Ok(())
            }
            Some(message) if kind == b'>' || !pubsub.pushes && (self.is_quiet() || pubsub.left != [0, 0]) => {
                if let Message::Confirmation { shard, left } = message {
                    pubsub.left[usize::from(shard)] = left;
                }
                self.say(bytes);
                Ok(())
            }
            _ => self.reply(kind, bytes, Some(now)),
        }
    }

    fn confirm(&self, bytes: &[u8]) {
        let head = self.inner.borrow_mut().fifo.pop_front();
        if let Some(Entry { start, expect: Expect::Reply(mut waiter) }) = head {
            let last = waiter.confirm(bytes);
            self.inner.borrow_mut().fifo.push_front(Entry { start, expect: Expect::Reply(waiter) });
            if last {
                self.pop();
            }
        }
    }

    fn say(&self, bytes: &[u8]) {
        let owner = self.inner.borrow().owner.clone();
        if let Some(owner) = owner {
            owner.message(bytes);
        }
    }

    fn broken(&self, why: &str) -> Error {
        self.cut.set(true);
        self.node.presence.doubt();
        self.lost(why)
    }

    fn lost(&self, why: &str) -> Error {
        Error::Lost { node: Arc::clone(&self.node.address), why: why.into() }
    }
}

/// However the driving task ends, dropped or by a panic: nobody waits for it any longer.
struct Ends<'a, W: Waiter>(&'a Lane<W>);

impl<W: Waiter> Drop for Ends<'_, W> {
    fn drop(&mut self) {
        self.0.finish(&self.0.lost("its task has ended"));
    }
}

/// What the driving task keeps of the connection between two polls.
#[derive(Default)]
struct Wire {
    splitter: Splitter,
    whole: Vec<u8>,
    pubsub: PubSub,
    patience: Option<Pin<Box<Sleep>>>,
}

/// What a subscriber's connection is known to be.
#[derive(Default)]
struct PubSub {
    /// Subscriptions to channels and patterns, and to shard channels.
    left: [u64; 2],
    /// It speaks RESP3: messages are pushes, and an array is a reply whatever it looks like.
    pushes: bool,
}

impl<W> Inner<W> {
    fn is_leaving(&self) -> bool {
        self.leaving != Leaving::No
    }

    fn is_behind(&self) -> bool {
        matches!(self.state, State::Connecting | State::Open) && self.queued - self.written > UNWRITTEN
    }

    /// Lets go of written bytes: on a shared lane when their command is answered, for until then it may be sent again.
    fn trim(&mut self, private: bool) {
        let from = self.queued - self.out.len() as u64;
        let needed = match self.fifo.front() {
            Some(head) if !private => (head.start - from) as usize,
            _ => self.cursor,
        };
        let done = needed.min(self.cursor);
        if done == self.out.len() {
            self.cursor = 0;
            self.out.clear();
            self.out.shrink_to(SCRATCH);
        } else if done > SCRATCH && done > self.out.len() / 2 {
            self.out.drain(..done);
            self.cursor -= done;
        }
    }

    /// The bytes of the command that began at `start` and was the head of the FIFO; none where they are gone.
    fn command(&self, start: u64) -> &[u8] {
        let from = self.queued - self.out.len() as u64;
        let end = self.fifo.front().map_or(self.queued, |next| next.start);
        let kept = start.checked_sub(from).and_then(|at| self.out.get(at as usize..(end - from) as usize));
        kept.unwrap_or_default()
    }

    fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    fn wake_opening(&mut self) {
        self.opening.drain(..).for_each(Waker::wake);
    }
}
