//! The replies of one session, in the order of its commands.
//!
//! Whoever answers (a hit, a lane, a flight, a fence that came back) writes here and need not know who is before it:
//! bytes of the first unanswered command go straight to the output, those of a later one wait in their place. Shared by
//! the session and by whatever holds a place, all on one thread. Never blocks; memory is bounded by the output limit,
//! past which the session is dropped.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::AsyncWrite;

use crate::buffer;
use crate::metrics::Counter;
use crate::socket::Socket;

/// Bytes unwritten above which a session takes no more commands and large replies are read no further from a lane.
const HIGH_WATER: usize = 1 << 20;

/// A place in the order of a session's replies. Counts up from 0.
pub type Place = u64;

/// See the module's head.
pub struct Replies {
    inner: RefCell<Inner>,
    limit: usize,
    last_write: Cell<Option<Place>>,
}

#[derive(Default)]
struct Inner {
    out: Vec<u8>,
    cursor: usize,
    head: Place,
    slots: VecDeque<Slot>,
    /// Bytes in `slots`; those in `out` are counted by its length.
    waiting: usize,
    silent: bool,
    ended: Option<End>,
    session: Option<Waker>,
    room: Vec<Waker>,
}

#[derive(Default)]
struct Slot {
    bytes: Vec<u8>,
    done: bool,
    held: bool,
    silent: bool,
}

/// Why a session must end though its client said nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client reads too slowly: more than the output limit waits for it.
    Slow,
    /// The private connection that is the session's own for life has ended.
    Upstream,
}

impl Replies {
    /// For a client for which at most `limit` bytes may wait.
    pub fn new(limit: usize) -> Self {
        Self { inner: RefCell::default(), limit, last_write: Cell::new(None) }
    }

    /// The place of the next command, to be answered later.
    pub fn reserve(&self) -> Place {
        let inner = &mut *self.inner.borrow_mut();
        let silent = inner.silent;
        inner.slots.push_back(Slot { silent, ..Slot::default() });
        inner.head + inner.slots.len() as u64 - 1
    }

    /// The place that the next command will have.
    pub fn next(&self) -> Place {
        let inner = self.inner.borrow();
        inner.head + inner.slots.len() as u64
    }

    /// Answers the next command at once: `write` appends the reply and says whether there is one. Where it says no, it
    /// must have appended nothing, and no place was taken.
    pub fn answer<R>(&self, write: impl FnOnce(&mut Vec<u8>) -> (bool, R)) -> R {
        let inner = &mut *self.inner.borrow_mut();
        if inner.slots.is_empty() && !inner.silent {
            let before = inner.out.len();
            if before == 0 && inner.out.capacity() == 0 {
                inner.out = buffer::take();
            }
            let (answered, result) = write(&mut inner.out);
            inner.head += u64::from(answered);
            return result;
        }
        let mut bytes = Vec::new();
        let (answered, result) = write(&mut bytes);
        if answered {
            if inner.silent {
                bytes = Vec::new();
            }
            if inner.slots.is_empty() {
                inner.head += 1;
            } else {
                inner.waiting += bytes.len();
                inner.slots.push_back(Slot { bytes, done: true, ..Slot::default() });
            }
        }
        result
    }

    /// The next bytes of the reply at `place`; `end` with its last.
    pub fn append(&self, place: Place, bytes: &[u8], end: bool) {
        let inner = &mut *self.inner.borrow_mut();
        if inner.ended.is_some() {
            return;
        }
        let Some(at) = place.checked_sub(inner.head).map(|at| at as usize) else { return };
        let Some(slot) = inner.slots.get_mut(at) else { return };
        slot.done |= end;
        if !slot.silent {
            if at == 0 && !slot.held {
                if inner.out.capacity() == 0 {
                    inner.out = buffer::take();
                }
                inner.out.extend_from_slice(bytes);
            } else {
                slot.bytes.extend_from_slice(bytes);
                inner.waiting += bytes.len();
            }
        }
        if at == 0 && end {
            inner.settle();
        }
        inner.bound(self.limit);
        inner.wake();
    }

    /// Nothing of the reply at `place` goes out before [`release`](Self::release).
    pub fn hold(&self, place: Place) {
        self.slot(place, |slot| slot.held = true);
    }

    /// Ends what [`hold`](Self::hold) began.
    pub fn release(&self, place: Place) {
        self.slot(place, |slot| slot.held = false);
        let inner = &mut *self.inner.borrow_mut();
        inner.settle();
        inner.wake();
    }

    fn slot(&self, place: Place, change: impl FnOnce(&mut Slot)) {
        let inner = &mut *self.inner.borrow_mut();
        if let Some(slot) = place.checked_sub(inner.head).and_then(|at| inner.slots.get_mut(at as usize)) {
            change(slot);
        }
    }

    /// Bytes that answer no command: they go out before the first reply that is still awaited.
    pub fn message(&self, bytes: &[u8]) {
        let inner = &mut *self.inner.borrow_mut();
        if inner.ended.is_some() {
            return;
        }
        match inner.slots.iter().position(|slot| !slot.done) {
            Some(at) if at > 0 || inner.slots[at].held => {
                inner.slots[at].bytes.extend_from_slice(bytes);
                inner.waiting += bytes.len();
            }
            _ => inner.out.extend_from_slice(bytes),
        }
        inner.bound(self.limit);
        inner.wake();
    }

    /// From the next command on, replies are thrown away (`CLIENT REPLY OFF`) or kept again.
    pub fn set_silent(&self, silent: bool) {
        self.inner.borrow_mut().silent = silent;
    }

    /// Whether every command so far has been answered.
    pub fn is_settled(&self) -> bool {
        self.inner.borrow().slots.is_empty()
    }

    /// Commands not answered yet.
    pub fn unanswered(&self) -> usize {
        self.inner.borrow().slots.len()
    }

    /// The first place not answered yet: every place below it is.
    pub fn head(&self) -> Place {
        self.inner.borrow().head
    }

    /// Remembers that the command at `place` writes.
    pub fn wrote(&self, place: Place) {
        self.last_write.set(Some(place));
    }

    /// Whether a write of this session is unanswered.
    pub fn behind_write(&self) -> bool {
        self.last_write.get().is_some_and(|write| write >= self.head())
    }

    /// Whether a write was sent after the command at `place`: a read at `place` must not be sent again then.
    pub fn wrote_after(&self, place: Place) -> bool {
        self.last_write.get().is_some_and(|write| write > place)
    }

    /// Whether so much waits for the client that it should be given no more work.
    pub fn is_full(&self) -> bool {
        self.inner.borrow().buffered() > HIGH_WATER
    }

    /// Whether all bytes have been written.
    pub fn is_flushed(&self) -> bool {
        let inner = self.inner.borrow();
        inner.cursor == inner.out.len()
    }

    /// Ready once the client has taken enough for more bytes of a large reply to be read.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.inner.borrow_mut();
        if inner.ended.is_some() || inner.buffered() <= HIGH_WATER {
            return Poll::Ready(());
        }
        inner.room.push(cx.waker().clone());
        Poll::Pending
    }

    /// Ends the session; what was to be written before is still tried.
    pub fn end(&self, why: End) {
        let inner = &mut *self.inner.borrow_mut();
        inner.ended.get_or_insert(why);
        inner.wake_room();
        inner.wake();
    }

    /// Why the session must end, if it must.
    pub fn ended(&self) -> Option<End> {
        self.inner.borrow().ended
    }

    /// Something else changed that the session should look at.
    pub fn wake(&self) {
        self.inner.borrow_mut().wake();
    }

    /// The session is to be woken at the next change.
    pub fn register(&self, cx: &Context<'_>) {
        let inner = &mut *self.inner.borrow_mut();
        if !inner.session.as_ref().is_some_and(|session| session.will_wake(cx.waker())) {
            inner.session = Some(cx.waker().clone());
        }
    }

    /// Writes what can go out. Ready when nothing is left to write, or with the error of the socket.
    pub fn poll_flush(&self, cx: &mut Context<'_>, socket: &mut Socket, sent: &Counter) -> Poll<io::Result<()>> {
        let inner = &mut *self.inner.borrow_mut();
        while inner.cursor < inner.out.len() {
            let n = ready!(Pin::new(&mut *socket).poll_write(cx, &inner.out[inner.cursor..]))?;
            inner.cursor += n;
            sent.add(n as u64);
            if inner.cursor > HIGH_WATER {
                inner.out.drain(..inner.cursor);
                inner.cursor = 0;
            }
            if inner.buffered() <= HIGH_WATER {
                inner.wake_room();
            }
        }
        inner.cursor = 0;
        buffer::give(std::mem::take(&mut inner.out));
        Poll::Ready(Ok(()))
    }
}

impl Inner {
    fn buffered(&self) -> usize {
        self.out.len() - self.cursor + self.waiting
    }

    /// Moves what is at the head, and may go, to the output.
    fn settle(&mut self) {
        while let Some(slot) = self.slots.front_mut() {
            if slot.held {
                return;
            }
            let bytes = std::mem::take(&mut slot.bytes);
            self.waiting -= bytes.len();
            if self.out.is_empty() && bytes.len() > self.out.capacity() {
                self.out = bytes;
            } else {
                self.out.extend_from_slice(&bytes);
            }
            if !slot.done {
                return;
            }
            self.slots.pop_front();
            self.head += 1;
        }
    }

    fn bound(&mut self, limit: usize) {
        if self.buffered() > limit && self.ended.is_none() {
            self.ended = Some(End::Slow);
            self.out = Vec::new();
            self.cursor = 0;
            for slot in &mut self.slots {
                slot.bytes = Vec::new();
            }
            self.waiting = 0;
            self.wake_room();
        }
    }

    fn wake(&mut self) {
        if let Some(session) = self.session.take() {
            session.wake();
        }
    }

    fn wake_room(&mut self) {
        self.room.drain(..).for_each(Waker::wake);
    }
}
