//! The replies of one session, in the order of its commands.
//!
//! Whoever answers (a hit, a lane, a flight, a fence that came back) writes here and need not know who is before it:
//! bytes of the first unanswered command go straight to the output, those of a later one wait in their place. Shared by
//! the session and by whatever holds a place, all on one thread. Never blocks; memory is bounded by the output limit,
//! past which the session is dropped.
//!
//! A long file: who is answered, what is held and what goes out is one state, and order is kept by seeing all of it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::AsyncWrite;

use super::clients::Member;
use super::reads::{Reads, Standing};
use crate::cache::Slot;
use crate::clock::Time;
use crate::metrics::{Counter, WorkerStats};
use crate::net::{Socket, buffer};

/// Bytes unwritten above which a session takes no more commands and large replies are read no further from a lane.
const HIGH_WATER: usize = 1 << 20;

/// So many bytes are worth a write of their own.
const CORK: usize = 16 << 10;

/// What a client has not taken is kept in chunks of so many bytes once there is more: a buffer that doubles would cost half as
/// much again, and be copied each time.
const CHUNK: usize = 256 << 10;

/// A place in the order of a session's replies. Counts up from 0.
pub type Place = u64;

/// See the module's head.
pub struct Replies {
    inner: RefCell<Inner>,
    limit: usize,
    last_write: Cell<Option<Place>>,
    /// Whether there is a command that will not be answered.
    cut: Cell<bool>,
    last_answer: Cell<Time>,
    /// [`Worker::cork`](super::Worker::cork) looks after what is not written yet.
    pub(super) corked: Cell<bool>,
    member: Arc<Member>,
    stats: Arc<WorkerStats>,
}

#[derive(Default)]
struct Inner {
    /// What goes out next, from `cursor` on, and what follows it.
    out: Vec<u8>,
    cursor: usize,
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are written, and bytes in all of them that are not.
    gone: usize,
    chunked: usize,
    /// Bytes written in all.
    taken: u64,
    head: Place,
    slots: VecDeque<Reply>,
    /// Bytes in `slots`; those in `out` are counted by its length.
    waiting: usize,
    silent: bool,
    /// Nobody is there to take what comes out.
    deaf: bool,
    /// The first command that will not be answered, and why: there the session ends.
    cut: Option<(Place, End)>,
    ended: Option<End>,
    session: Option<Waker>,
    room: Vec<Waker>,
    reads: Reads,
}

/// Bytes that wait for a client: its own, or shared with others who are to get the same reply.
enum Chunk {
    Own(Vec<u8>),
    Shared(Rc<[u8]>),
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

#[derive(Default)]
struct Reply {
    bytes: Vec<u8>,
    done: bool,
    silent: bool,
    /// Why nothing of it goes out: [`HELD`], [`EARLY`], [`LOOKED_AT`].
    holds: u8,
}

/// Something else has to be here first.
const HELD: u8 = 1;
/// That follows on the same connection.
const EARLY: u8 = 2;
/// The session looks at how the reply begins.
const LOOKED_AT: u8 = 4;

/// Why a session must end though its client said nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client reads too slowly: more than the output limit waits for it.
    Slow,
    /// The private connection that is the session's own for life has ended.
    Upstream,
    /// The upstream is away, or the connection to it broke under a command.
    Away,
    /// Redis no longer accepts what the client proved, and no connection is left on which it did: its user was deleted, or lost
    /// its password.
    LoggedOut,
    /// A `CLIENT KILL` meant it.
    Killed,
}

impl Replies {
    /// For a client of the worker with these counters, as it is on the list of all, for which at most `limit` bytes may wait.
    pub fn new(limit: usize, member: Arc<Member>, stats: Arc<WorkerStats>) -> Self {
        Self {
            inner: RefCell::default(),
            limit,
            last_write: Cell::new(None),
            cut: Cell::new(false),
            last_answer: Cell::new(Time::ZERO),
            corked: Cell::new(false),
            member,
            stats,
        }
    }

    /// The counters of its worker.
    pub(super) fn stats(&self) -> &WorkerStats {
        &self.stats
    }

    /// The client on the list of all.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// The place of the next command, to be answered later.
    pub fn reserve(&self) -> Place {
        let inner = &mut *self.inner.borrow_mut();
        let silent = inner.silent;
        inner.slots.push_back(Reply { silent, ..Reply::default() });
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
        if inner.slots.is_empty() && inner.chunks.is_empty() && !inner.silent {
            if inner.out.capacity() == 0 {
                inner.out = buffer::take();
            }
            let (answered, result) = write(&mut inner.out);
            inner.head += u64::from(answered);
            return result;
        }
        // Answers in a row that wait for the same earlier one share its neighbour's bytes: what is one behind the other leaves so.
        let row = inner.slots.back_mut().filter(|last| last.done && last.holds == 0 && !inner.silent);
        let shared = row.is_some();
        let mut own = Vec::new();
        let bytes = row.map_or(&mut own, |last| &mut last.bytes);
        let before = bytes.len();
        let (answered, result) = write(bytes);
        let written = bytes.len() - before;
        if answered {
            if inner.silent {
                own = Vec::new();
            }
            if inner.slots.is_empty() {
                inner.head += 1;
                inner.push(&own);
            } else {
                inner.waiting += if shared { written } else { own.len() };
                inner.slots.push_back(Reply { bytes: own, done: true, ..Reply::default() });
            }
        }
        result
    }

    /// A confirmation of a subscription, which `CLIENT REPLY OFF` does not silence; `end` with the last.
    pub fn confirm(&self, place: Place, bytes: &[u8], end: Option<Time>) {
        self.slot(place, |slot| slot.silent = false);
        self.append(place, bytes, end);
    }

    /// The next bytes of the reply at `place`; with its last, `end` says when they were read from Redis.
    pub fn append(&self, place: Place, bytes: &[u8], end: Option<Time>) {
        let inner = &mut *self.inner.borrow_mut();
        if inner.ended.is_some() || inner.is_cut(place) {
            return;
        }
        let Some(at) = place.checked_sub(inner.head).map(|at| at as usize) else { return };
        let Some(slot) = inner.slots.get_mut(at) else { return };
        slot.done |= end.is_some();
        if !slot.silent {
            if at == 0 && slot.holds == 0 {
                inner.push(bytes);
            } else {
                slot.bytes.extend_from_slice(bytes);
                inner.waiting += bytes.len();
            }
        }
        if let Some(when) = end {
            inner.reads.answered(place, when);
            self.last_answer.set(self.last_answer.get().max(when));
        }
        if at == 0 && end.is_some() {
            inner.settle();
        }
        inner.bound(self.limit);
        inner.wake();
    }

    /// As [`append`](Self::append), of bytes that others get as well: what is kept of them is kept once for all.
    pub fn append_shared(&self, place: Place, bytes: &Rc<[u8]>, end: Option<Time>) {
        let shared = self.inner.borrow_mut().share(place, bytes);
        self.append(place, if shared { b"" } else { bytes }, end);
    }

    /// Ends the session where more than `limit` bytes wait for its client.
    pub fn bound(&self, limit: usize) {
        self.inner.borrow_mut().bound(limit);
    }

    /// Nothing of the reply at `place` goes out before [`release`](Self::release).
    pub fn hold(&self, place: Place) {
        self.slot(place, |slot| slot.holds |= HELD);
    }

    /// As [`hold`](Self::hold), until what follows the reply on its own connection is here: that must be read, however much of the
    /// reply waits.
    pub fn hold_early(&self, place: Place) {
        self.slot(place, |slot| slot.holds |= HELD | EARLY);
    }

    /// Ends what [`hold`](Self::hold) began.
    pub fn release(&self, place: Place) {
        self.end_hold(place, HELD | EARLY);
    }

    /// Nothing of the reply at `place` goes out before the session has [seen](Self::first_bytes) how it begins.
    pub fn look_at(&self, place: Place) {
        self.slot(place, |slot| slot.holds |= LOOKED_AT);
    }

    /// The first two bytes of a reply that is [looked at](Self::look_at), or none of one that there will not be. None as long as they
    /// are not here.
    pub fn first_bytes(&self, place: Place) -> Option<Vec<u8>> {
        let first = {
            let inner = self.inner.borrow();
            let slot = place.checked_sub(inner.head).and_then(|at| inner.slots.get(at as usize));
            let over = inner.ended.is_some() || inner.is_cut(place);
            match slot.filter(|_| !over) {
                Some(slot) if slot.bytes.len() < 2 && !slot.done => return None,
                Some(slot) => slot.bytes.iter().take(2).copied().collect(),
                None => Vec::new(),
            }
        };
        self.end_hold(place, LOOKED_AT);
        Some(first)
    }

    fn end_hold(&self, place: Place, why: u8) {
        self.slot(place, |slot| slot.holds &= !why);
        let inner = &mut *self.inner.borrow_mut();
        inner.settle();
        if inner.has_room() {
            inner.wake_room();
        }
        inner.wake();
    }

    /// Whether the next reply is there and only [held](Self::hold).
    pub fn is_held(&self) -> bool {
        self.inner.borrow().slots.front().is_some_and(|slot| slot.holds != 0 && slot.done)
    }

    fn slot(&self, place: Place, change: impl FnOnce(&mut Reply)) {
        let inner = &mut *self.inner.borrow_mut();
        if let Some(slot) = place.checked_sub(inner.head).and_then(|at| inner.slots.get_mut(at as usize)) {
            change(slot);
        }
    }

    /// Bytes that answer no command: they go out before the first reply that is still awaited, and after one that is held.
    pub fn message(&self, bytes: &[u8]) {
        let inner = &mut *self.inner.borrow_mut();
        if inner.ended.is_some() {
            return;
        }
        let behind = match inner.slots.iter().position(|slot| !slot.done) {
            Some(0) if inner.slots[0].holds == 0 => None,
            Some(at) => inner.slots.get_mut(at),
            None => inner.slots.back_mut(),
        };
        if let Some(reply) = behind {
            reply.bytes.extend_from_slice(bytes);
            inner.waiting += bytes.len();
        } else {
            inner.push(bytes);
        }
        inner.bound(self.limit);
        inner.wake();
    }

    /// From the next command on, replies are thrown away (`CLIENT REPLY OFF`) or kept again.
    pub fn set_silent(&self, silent: bool) {
        self.inner.borrow_mut().silent = silent;
    }

    /// The client takes nothing any more: what comes out is thrown away.
    pub fn deafen(&self) {
        let inner = &mut *self.inner.borrow_mut();
        inner.deaf = true;
        inner.discard();
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

    /// When Redis last answered this session, on whichever connection.
    pub fn last_answer(&self) -> Time {
        self.last_answer.get()
    }

    /// Remembers that the command at `place` reads a key in `slot`, or (none) any key, from Redis; `heard` is up to when the
    /// ear knows of every change. True where the ear should be asked to know more.
    pub fn note_read(&self, place: Place, slot: Option<Slot>, heard: Time) -> bool {
        self.inner.borrow_mut().reads.note(place, slot, heard)
    }

    /// How the reads that this session had from Redis stand to what L1 knows of a key.
    pub fn standing(&self, slot: Slot, heard: Time) -> Standing {
        self.inner.borrow_mut().reads.standing(slot, heard)
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

    /// Whether there are few bytes to write, and more to come.
    pub fn may_cork(&self) -> bool {
        let inner = self.inner.borrow();
        let ready = inner.out.len() - inner.cursor;
        (1..CORK).contains(&ready) && !inner.slots.is_empty() && inner.chunks.is_empty() && inner.ended.is_none()
    }

    /// Bytes that the client has taken so far.
    pub fn taken(&self) -> u64 {
        self.inner.borrow().taken
    }

    /// Whether all bytes have been written.
    pub fn is_flushed(&self) -> bool {
        let inner = self.inner.borrow();
        inner.cursor == inner.out.len() && inner.chunks.is_empty()
    }

    /// Ready once the client has taken enough for more bytes of a large reply to be read.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.inner.borrow_mut();
        if inner.ended.is_some() || inner.has_room() {
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

    /// The command at `place` will not be answered, and so none after it is: the session ends when all before it are.
    pub fn cut(&self, place: Place, why: End) {
        let inner = &mut *self.inner.borrow_mut();
        if place < inner.head {
            return; // it was answered
        }
        self.cut.set(true);
        // It keeps its place, so that what is answered later waits behind it.
        while inner.head + inner.slots.len() as u64 <= place {
            inner.slots.push_back(Reply::default());
        }
        if !inner.is_cut(place) {
            inner.cut = Some((place, why));
        }
        inner.settle();
        inner.wake();
    }

    /// Whether a command will not be answered, so that no more are to be taken up.
    pub fn has_cut(&self) -> bool {
        self.cut.get()
    }

    /// Whether the command at `place` will not be answered.
    pub fn is_cut(&self, place: Place) -> bool {
        self.cut.get() && self.inner.borrow().is_cut(place)
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
        if inner.deaf {
            inner.discard();
            return Poll::Ready(Ok(()));
        }
        while inner.cursor < inner.out.len() {
            let n = ready!(Pin::new(&mut *socket).poll_write(cx, &inner.out[inner.cursor..]))?;
            inner.cursor += n;
            inner.wrote(n, sent);
        }
        inner.cursor = 0;
        buffer::give(std::mem::take(&mut inner.out));
        while let Some(chunk) = inner.chunks.front() {
            let n = ready!(Pin::new(&mut *socket).poll_write(cx, &chunk[inner.gone..]))?;
            inner.gone += n;
            inner.chunked -= n;
            if inner.gone == chunk.len() {
                inner.chunks.pop_front();
                inner.gone = 0;
            }
            inner.wrote(n, sent);
        }
        inner.chunks.shrink_to(0);
        Poll::Ready(Ok(()))
    }
}

impl Inner {
    fn buffered(&self) -> usize {
        self.out.len() - self.cursor + self.chunked + self.waiting
    }

    /// Whether more can be taken from a lane: little waits for the client, or all of it waits behind the reply that comes next.
    fn has_room(&self) -> bool {
        let written = self.cursor == self.out.len() && self.chunked == 0;
        let awaited = self.slots.front().is_some_and(|head| !head.done && head.holds & (HELD | EARLY) != HELD);
        self.buffered() <= HIGH_WATER || written && awaited
    }

    /// Appends to the output.
    fn push(&mut self, bytes: &[u8]) {
        if self.fits(bytes.len()) {
            if self.out.capacity() == 0 {
                self.out = buffer::take();
            }
            self.out.extend_from_slice(bytes);
            return;
        }
        let mut rest = bytes;
        self.chunked += rest.len();
        while !rest.is_empty() {
            if let Some(Chunk::Own(chunk)) = self.chunks.back_mut()
                && chunk.len() < chunk.capacity()
            {
                let (now, later) = rest.split_at(rest.len().min(chunk.capacity() - chunk.len()));
                chunk.extend_from_slice(now);
                rest = later;
            } else {
                self.chunks.push_back(Chunk::Own(Vec::with_capacity(CHUNK)));
            }
        }
    }

    /// Appends to the output without a copy, where the reply at `place` goes there and is too long for the buffer.
    fn share(&mut self, place: Place, bytes: &Rc<[u8]>) -> bool {
        let passes = self.slots.front().is_some_and(|reply| reply.holds == 0 && !reply.silent);
        if place != self.head || !passes || self.ended.is_some() || self.fits(bytes.len()) {
            return false;
        }
        self.chunked += bytes.len();
        self.chunks.push_back(Chunk::Shared(Rc::clone(bytes)));
        true
    }

    /// Whether so many bytes more need no chunk.
    fn fits(&self, more: usize) -> bool {
        self.chunks.is_empty() && self.out.len() + more <= CHUNK
    }

    /// So many bytes have left.
    fn wrote(&mut self, n: usize, sent: &Counter) {
        self.taken += n as u64;
        sent.add(n as u64);
        if !self.room.is_empty() && self.has_room() {
            self.wake_room();
        }
    }

    /// Whether the command at `place`, or one before it, will not be answered.
    fn is_cut(&self, place: Place) -> bool {
        self.cut.is_some_and(|(first, _)| first <= place)
    }

    /// Moves what is at the head, and may go, to the output.
    fn settle(&mut self) {
        while let Some(slot) = self.slots.front_mut() {
            if let Some((first, why)) = self.cut
                && first == self.head
            {
                self.ended.get_or_insert(why);
                return self.wake_room();
            }
            if slot.holds != 0 {
                return;
            }
            let done = slot.done;
            if !slot.bytes.is_empty() {
                let bytes = std::mem::take(&mut slot.bytes);
                self.waiting -= bytes.len();
                self.push(&bytes);
            }
            if !done {
                return;
            }
            self.slots.pop_front();
            self.head += 1;
        }
    }

    fn bound(&mut self, limit: usize) {
        if self.buffered() > limit && self.ended.is_none() {
            self.ended = Some(End::Slow);
            self.discard();
            for slot in &mut self.slots {
                slot.bytes = Vec::new();
            }
            self.waiting = 0;
            self.wake_room();
        }
    }

    /// Throws away what is to be written.
    fn discard(&mut self) {
        self.out = Vec::new();
        self.cursor = 0;
        self.chunks = VecDeque::new();
        (self.gone, self.chunked) = (0, 0);
        if self.has_room() {
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
