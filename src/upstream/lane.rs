//! A connection to a node, as those who use it see it: a [`Pipeline`] with the task that moves its bytes.
//!
//! A lane is shared by many sessions of one worker; the same type, made with [`Lane::private`], is a connection lent to
//! one session, on which Redis may also speak unasked. Commands may be sent before it is made. However it ends, every
//! [`Waiter`] is told: none waits for ever. One task owns the socket, [`Lane::run`] in `carrier`.
//!
//! Holds contract points 2 and 7, by its pipeline.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::oneshot;

use super::pipeline::{AnsweredCommand, Mode, Pipeline};
use super::waiter::{Forwarder, OutOfBand, Waiter};
use super::{Connection, Node};
use crate::clock::Time;
use crate::error::{Error, Sent};

/// See the module's head.
pub(crate) struct Lane<W> {
    pub(super) node: Arc<Node>,
    private: bool,
    pub(super) pipeline: RefCell<Pipeline<W>>,
    owner: RefCell<Option<Rc<dyn OutOfBand>>>,
    /// Who sends elsewhere what was not carried out on a shared lane.
    forwarder: Option<Weak<dyn Forwarder<W>>>,
    /// The task, where it has nothing to do.
    task: Cell<Option<Waker>>,
    /// Who waits until the connection is made, or ready.
    opening: RefCell<Vec<Waker>>,
    /// Who goes on with the connection.
    heir: Cell<Option<oneshot::Sender<Connection>>>,
    /// It is to end because somebody here said so.
    told: Cell<bool>,
    /// The other side ended the connection.
    cut: Cell<bool>,
    /// It was given up, and what was sent is not to be carried out.
    given_up: Cell<bool>,
    /// The generation of the server that it leads to; none before it is made.
    generation: Cell<Option<u64>>,
    /// What the server calls it.
    id: Cell<Option<u64>>,
}

impl<W: Waiter> Lane<W> {
    /// A lane for many sessions. Commands may be sent at once; they leave when [`run`](Self::run) has connected. What is to go
    /// elsewhere `forwarder` takes.
    pub(crate) fn shared(node: Arc<Node>, forwarder: Weak<dyn Forwarder<W>>, now: Time) -> Rc<Self> {
        Rc::new(Self { forwarder: Some(forwarder), ..Self::new(node, false, now) })
    }

    /// A connection for one session at a time. Of a reply that is not the last word, `forwarder` takes care.
    pub(crate) fn private(node: Arc<Node>, forwarder: Weak<dyn Forwarder<W>>, now: Time) -> Rc<Self> {
        Rc::new(Self { forwarder: Some(forwarder), ..Self::new(node, true, now) })
    }

    fn new(node: Arc<Node>, private: bool, now: Time) -> Self {
        Self {
            pipeline: RefCell::new(Pipeline::new(Arc::clone(&node.address), private, now)),
            node,
            private,
            owner: RefCell::default(),
            forwarder: None,
            task: Cell::default(),
            opening: RefCell::default(),
            heir: Cell::default(),
            told: Cell::new(false),
            cut: Cell::new(false),
            given_up: Cell::new(false),
            generation: Cell::default(),
            id: Cell::default(),
        }
    }

    /// Appends a whole command. Given back when the lane has ended: nothing was sent then.
    pub(crate) fn send(&self, command: &[u8], waiter: W, now: Time) -> Result<(), W> {
        let sent = self.pipeline.borrow_mut().send(command, waiter, now);
        self.wake();
        sent
    }

    /// The same, where the waiter is told at once that the lane has ended.
    #[inline]
    pub(crate) fn send_or_tell(&self, command: &[u8], waiter: W, now: Time) {
        if let Err(waiter) = self.send(command, waiter, now) {
            self.tell_ended(waiter, command);
        }
    }

    #[cold]
    fn tell_ended(&self, waiter: W, command: &[u8]) {
        if let Some(waiter) = waiter.lost(&self.lost_error(), Sent::No, command) {
            self.forward(waiter, command);
        }
    }

    /// Appends a command that makes the connection ready for what is sent after it, which is not written before a reply of
    /// type `kind` is in: it never runs in another database than it was meant for. Any other reply ends the connection.
    pub(crate) fn prepare(&self, command: &[u8], kind: u8, now: Time) {
        self.pipeline.borrow_mut().prepare(command, kind, now);
        self.wake();
    }

    /// Appends the next bytes of a command that is not whole yet. What is sent next must be that command.
    pub(crate) fn send_ahead(&self, bytes: &[u8]) {
        self.pipeline.borrow_mut().out().append_ahead(bytes);
        self.wake();
    }

    /// So many of the bytes that were sent ahead are not in the command that is sent next: they are forgotten.
    pub(crate) fn forget_ahead(&self, bytes: usize) {
        self.pipeline.borrow_mut().out().forget_ahead(bytes);
    }

    /// Whether a part of the next command was sent ahead.
    pub(crate) fn is_ahead(&self) -> bool {
        self.pipeline.borrow_mut().out().is_ahead()
    }

    /// Appends bytes that are no command: a replica's side of a replication stream.
    pub(crate) fn send_raw(&self, bytes: &[u8]) {
        self.pipeline.borrow_mut().out().append_raw(bytes);
        self.wake();
    }

    /// Checks that replies are still in step: an `ECHO` whose answer must be its own. A wrong answer ends the connection
    /// before any reply to what is sent later is passed on.
    pub(crate) fn verify(&self, now: Time) {
        self.pipeline.borrow_mut().verify(rand::random(), now);
        self.wake();
    }

    /// Waits until the connection is made, or says why it was not. Cancel safe.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        poll_fn(|cx| {
            let pipeline = self.pipeline.borrow();
            if pipeline.is_open() {
                Poll::Ready(Ok(()))
            } else if pipeline.is_connecting() {
                self.await_opening(cx)
            } else {
                Poll::Ready(Err(pipeline.lost_error()))
            }
        })
        .await
    }

    /// Waits until what prepares it is answered. False where Redis refused, which has ended it. Cancel safe.
    pub(crate) async fn prepared(&self) -> bool {
        poll_fn(|cx| {
            let pipeline = self.pipeline.borrow();
            match pipeline.end() {
                Some(error) => Poll::Ready(!matches!(error, Error::Refused { .. })),
                None if pipeline.takes_commands() && pipeline.is_preparing() => self.await_opening(cx),
                None => Poll::Ready(true),
            }
        })
        .await
    }

    /// Whether what is sent now may wait for as long as a client's command does.
    pub(crate) fn is_patient(&self) -> bool {
        self.pipeline.borrow().is_patient()
    }

    /// Returns when that is over, or the connection. Cancel safe.
    pub(crate) async fn impatient(&self) {
        poll_fn(|cx| {
            let pipeline = self.pipeline.borrow();
            if pipeline.takes_commands() && pipeline.is_patient() { self.await_opening(cx) } else { Poll::Ready(()) }
        })
        .await;
    }

    fn await_opening<T>(&self, cx: &Context<'_>) -> Poll<T> {
        self.opening.borrow_mut().push(cx.waker().clone());
        Poll::Pending
    }

    /// Whether commands can still be sent, to the server that stands behind the address now.
    pub(crate) fn is_open(&self) -> bool {
        self.pipeline.borrow().takes_commands() && !self.is_stale()
    }

    /// Whether the connection is made, and open.
    pub(crate) fn is_made(&self) -> bool {
        self.pipeline.borrow().is_open() && !self.is_stale()
    }

    /// Whether it leads to a server that another has taken the place of: what is answered here is no answer any more.
    pub(crate) fn is_stale(&self) -> bool {
        self.generation.get().is_some_and(|made| made != self.node.generation.number())
    }

    /// Whether it has ended, and all who waited were told.
    pub(crate) fn has_ended(&self) -> bool {
        self.pipeline.borrow().end().is_some()
    }

    /// Whether it ended because it was told to.
    pub(crate) fn was_closed(&self) -> bool {
        self.told.get()
    }

    /// Why commands can no longer be sent.
    pub(crate) fn lost_error(&self) -> Error {
        self.pipeline.borrow().lost_error()
    }

    /// What the server calls the connection, where it could be asked.
    pub(crate) fn id(&self) -> Option<u64> {
        self.id.get()
    }

    /// Whether it was made for one session at a time.
    pub(crate) fn is_private(&self) -> bool {
        self.private
    }

    /// Whether it was, and none has it.
    pub(crate) fn is_spare(&self) -> bool {
        self.private && !self.is_lent()
    }

    /// Whether a session has it.
    pub(crate) fn is_lent(&self) -> bool {
        self.owner.borrow().is_some()
    }

    /// Whether a command of crema's own would be a part of nothing that the session which has it has begun.
    pub(crate) fn is_free(&self) -> bool {
        self.mode() == Mode::Replies && self.owner.borrow().as_ref().is_none_or(|owner| owner.is_free())
    }

    /// Lends a private connection, or takes it back with `None`.
    pub(crate) fn lend(&self, owner: Option<Rc<dyn OutOfBand>>) {
        *self.owner.borrow_mut() = owner;
    }

    /// Since when the head of the FIFO has waited for its next byte.
    pub(crate) fn waiting_since(&self) -> Time {
        self.pipeline.borrow().waiting_since()
    }

    /// How long the head of the FIFO has waited for its next byte; zero where it is to wait, or its session takes no more.
    pub(crate) fn waited(&self, now: Time) -> Duration {
        self.pipeline.borrow().waited(now)
    }

    /// Since when the next reply to a client has been awaited, where its command is one that Redis may have put to wait, or
    /// `any` command. `None` once Redis is told that nothing more comes.
    pub(crate) fn waits_since(&self, any: bool) -> Option<Time> {
        self.pipeline.borrow().waits_since(any)
    }

    /// Whether Redis cannot have all yet that was sent.
    pub(crate) fn is_unsent(&self) -> bool {
        self.pipeline.borrow().is_unsent()
    }

    /// Whether what waits at the head may change keys.
    pub(crate) fn writes(&self) -> bool {
        self.pipeline.borrow().writes()
    }

    /// Whether nothing awaits a reply.
    pub(crate) fn is_quiet(&self) -> bool {
        self.pipeline.borrow().is_quiet()
    }

    /// Whether a part of the next reply has come.
    pub(crate) fn has_begun(&self) -> bool {
        self.pipeline.borrow().has_begun()
    }

    /// Whether fewer than `window` bytes are unanswered, and what is sent now would not wait: neither behind the rest of a large
    /// reply, nor because nothing has come for a while though the node speaks on other connections.
    pub(crate) fn takes_more(&self, window: u64, now: Time) -> bool {
        let pipeline = self.pipeline.borrow();
        pipeline.in_flight() < window && !pipeline.is_stalled(now, || self.node.last_heard())
    }

    /// Whether what is sent now would wait.
    pub(crate) fn is_stalled(&self, now: Time) -> bool {
        self.pipeline.borrow().is_stalled(now, || self.node.last_heard())
    }

    /// Bytes of commands sent or queued that are not answered yet.
    pub(crate) fn in_flight(&self) -> u64 {
        self.pipeline.borrow().in_flight()
    }

    /// Whether much that was sent is not written yet: the node takes no more.
    pub(crate) fn is_behind(&self) -> bool {
        self.pipeline.borrow().is_behind()
    }

    /// How long ago the last command was sent.
    pub(crate) fn idle_for(&self, now: Time) -> Duration {
        now.saturating_since(self.pipeline.borrow().used())
    }

    /// How long ago it was last checked for being in step.
    pub(crate) fn checked_for(&self, now: Time) -> Duration {
        now.saturating_since(self.pipeline.borrow().checked())
    }

    /// How long the last command took to be answered that found nothing else under way; zero before there was one.
    pub(crate) fn round_trip(&self) -> Duration {
        self.pipeline.borrow().round_trip()
    }

    /// From the reply to the next command on, bytes are understood this way.
    pub(crate) fn set_mode(&self, mode: Mode) {
        self.pipeline.borrow_mut().set_mode(mode);
    }

    /// How many subscriptions there are: to channels and patterns, and to shard channels.
    pub(crate) fn subscriptions(&self) -> [u64; 2] {
        self.pipeline.borrow().subscriptions()
    }

    /// How bytes are understood now.
    pub(crate) fn mode(&self) -> Mode {
        self.pipeline.borrow().mode()
    }

    /// Ends the connection soon; waiters are told.
    pub(crate) fn close(&self) {
        self.told.set(true);
        self.pipeline.borrow_mut().close();
        self.wake();
        self.wake_opening();
    }

    /// Ends once all that was sent on it is answered, and takes no more.
    pub(crate) fn retire(&self) {
        if self.pipeline.borrow_mut().retire() {
            self.told.set(true);
            self.wake();
        }
    }

    /// Closes the sending side behind what was sent, as the client of a private connection has closed its own. What Redis
    /// answers still comes; then it ends the connection, at once where it has a command wait.
    pub(crate) fn leave(&self, now: Time) {
        self.told.set(true);
        self.pipeline.borrow_mut().leave(now);
        self.wake();
    }

    /// Ends here, and gives the connection away once all that was sent on it is answered. None where it is not made yet, or is
    /// no longer as it was made.
    pub(crate) fn hand_on(&self) -> Option<oneshot::Receiver<Connection>> {
        let mut pipeline = self.pipeline.borrow_mut();
        if self.is_stale() || !pipeline.is_plain() || !pipeline.retire() {
            return None;
        }
        let (heir, connection) = oneshot::channel();
        self.heir.set(Some(heir));
        self.told.set(true);
        self.wake();
        Some(connection)
    }

    /// Ends the connection because its head waited longer than `after`. What was sent and has not left yet never does.
    pub(crate) fn give_up(&self, after: Duration) {
        self.given_up.set(true);
        self.finish(&Error::Timeout { node: Arc::clone(&self.node.address), after });
    }

    /// Ends the connection, for it leads nowhere; waiters are told. What was sent and has not left yet never does.
    pub(crate) fn lose(&self, why: &str) {
        self.given_up.set(true);
        let error = self.pipeline.borrow().lost(why);
        self.finish(&error);
    }

    /// The connection is made.
    pub(super) fn opened(&self, connection: &Connection, now: Time) {
        self.generation.set(Some(connection.generation));
        self.id.set(connection.id);
        self.pipeline.borrow_mut().open(now);
        self.wake_opening();
    }

    /// It has ended, or ends with this. Tells whoever waits.
    pub(super) fn finish(&self, error: &Error) {
        let Some(loss) = self.pipeline.borrow_mut().lose(error) else { return };
        self.wake();
        self.wake_opening();
        let owner = self.owner.borrow_mut().take();
        if let Some(owner) = owner.as_ref().filter(|_| self.cut.get()) {
            owner.cut();
        }
        // No borrow is held here: a waiter may open another lane and send on it.
        loss.tell(error, |waiter, command| self.forward(waiter, command));
        if let Some(owner) = owner {
            owner.ended();
        }
    }

    /// Has what was not carried out here sent elsewhere.
    pub(super) fn forward_all(&self) {
        let elsewhere = self.pipeline.borrow_mut().take_elsewhere();
        for (waiter, AnsweredCommand { command, end, times }) in elsewhere {
            if waiter.goes_elsewhere() {
                self.forward(waiter, &command);
            } else {
                waiter.over(end, || times, || &command);
            }
        }
    }

    /// Where nobody is there to do it, those who wait are gone as well.
    fn forward(&self, waiter: W, command: &[u8]) {
        if let Some(forwarder) = self.forwarder.as_ref().and_then(Weak::upgrade) {
            forwarder.forward(waiter, command);
        }
    }

    /// The other side has ended the connection, or the way to it is broken.
    pub(super) fn broken(&self, why: &str) -> Error {
        self.cut.set(true);
        self.node.presence.doubt();
        Error::Lost { node: Arc::clone(&self.node.address), why: why.into() }
    }

    /// Who is to get the connection when it ends here, if that end is one of ours.
    pub(super) fn heir(&self) -> Option<oneshot::Sender<Connection>> {
        self.heir.take().filter(|_| !self.cut.get() && !self.given_up.get())
    }

    /// Whether what was sent and has not left yet is not to.
    pub(super) fn was_given_up(&self) -> bool {
        self.given_up.get()
    }

    /// Who has a private connection.
    pub(super) fn owner(&self) -> Option<Rc<dyn OutOfBand>> {
        self.owner.borrow().clone()
    }

    /// The task is to be woken for whatever is sent next.
    pub(super) fn register(&self, cx: &Context<'_>) {
        let task = self.task.take().filter(|task| task.will_wake(cx.waker()));
        self.task.set(Some(task.unwrap_or_else(|| cx.waker().clone())));
    }

    /// Wakes who waits for the connection to be ready, where it is.
    pub(super) fn wake_prepared(&self) {
        if !self.opening.borrow().is_empty() && !self.pipeline.borrow().is_preparing() {
            self.wake_opening();
        }
    }

    fn wake(&self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    fn wake_opening(&self) {
        let opening = std::mem::take(&mut *self.opening.borrow_mut());
        opening.into_iter().for_each(Waker::wake);
    }
}
