//! The replies of one session, in the order of its commands.
//!
//! Whoever answers (a hit, a lane, a flight, a fence that came back) writes here and need not know who is before it:
//! bytes of the first unanswered command go straight to the output, those of a later one wait in their place. Shared by
//! the session and by whatever holds a place, all on one thread. Never blocks; memory is bounded by the output limit,
//! past which the session is dropped. The file is long, for it is the one handle on one queue.
//!
//! Holds contract point 2 (order).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::sync::Notify;

use super::client_ways::{ClientHeat, ClientState, ClientWays};
use super::clients::Member;
use super::read_history::{KeyStatus, ReadHistories};
use super::reply_queue::{
    EARLY, HELD, HIGH_WATER, LOOKED_AT, OWED, PART, QueuedReply, ReplyPlace, ReplyQueue, SessionEnd, WholeReply,
};
use crate::cache::Slot;
use crate::clock::Time;
use crate::metrics::{Counter, WorkerStats};
use crate::net::Socket;
use crate::upstream::NodeIndex;

/// So many bytes are worth a write of their own.
const CORK: usize = 16 << 10;
/// Of so many slow commands of a session it is known where they are noted.
const SLOW: usize = 64;

/// See the module's head.
pub(crate) struct Replies {
    queue: RefCell<ReplyQueue>,
    reads: RefCell<ReadHistories>,
    /// Where replicas are read: what masters answered, which a replica may not know yet.
    master_reads: RefCell<Option<Box<ReadHistories>>>,
    limit: usize,
    last_write: Cell<Option<ReplyPlace>>,
    /// Whether there is a command that will not be answered.
    cut: Cell<bool>,
    last_answer: Cell<Time>,
    /// Whether commands of the session are on a [detour](super::detour_queue).
    detoured: Cell<bool>,
    /// Told of each answer, while there are.
    detour_news: RefCell<Option<Rc<Notify>>>,
    /// [`Worker::cork`](super::Worker::cork) looks after what is not written yet.
    pub(super) corked: Cell<bool>,
    member: Arc<Member>,
    stats: Arc<WorkerStats>,
    /// What is told of the client.
    pub(super) ways: ClientWays,
    /// The last commands of which slow waits were noted, with their numbers there, the newest last.
    slow: RefCell<VecDeque<(ReplyPlace, u64)>>,
    /// They are taken and not written, so nothing waits until they are.
    taken: bool,
}

impl Replies {
    /// For a client of the worker with these counters, as it is on the list of all, for which at most `limit` bytes may wait.
    pub(crate) fn new(limit: usize, member: Arc<Member>, stats: Arc<WorkerStats>) -> Self {
        Self {
            queue: RefCell::default(),
            reads: RefCell::default(),
            master_reads: RefCell::default(),
            limit,
            last_write: Cell::new(None),
            cut: Cell::new(false),
            last_answer: Cell::new(Time::ZERO),
            detoured: Cell::default(),
            detour_news: RefCell::default(),
            corked: Cell::new(false),
            ways: ClientWays::new(member.since()),
            member,
            stats,
            slow: RefCell::default(),
            taken: false,
        }
    }

    /// Of commands of the session of `replies` that are answered to somebody else: they are to be [taken](Self::take).
    pub(super) fn aside(replies: &Self) -> Self {
        let of = Self::new(replies.limit, Arc::clone(&replies.member), Arc::clone(&replies.stats));
        Self { taken: true, ..of }
    }

    /// The replies that are there, which go out nowhere else.
    pub(super) fn take(&self) -> Vec<u8> {
        let output = &mut self.queue.borrow_mut().output;
        let mut all = Vec::with_capacity(output.len());
        while !output.is_empty() {
            let bytes = output.to_write();
            let len = bytes.len();
            all.extend_from_slice(bytes);
            output.wrote(len);
        }
        all
    }

    /// The number under which a slow wait of the command at `place` was noted, where that is one of the last.
    pub(super) fn slow_at(&self, place: ReplyPlace) -> Option<u64> {
        self.slow.borrow().iter().rev().find(|(of, _)| *of == place).map(|(_, id)| *id)
    }

    /// One was noted under this number.
    pub(super) fn set_slow(&self, place: ReplyPlace, id: u64) {
        let slow = &mut *self.slow.borrow_mut();
        if slow.len() == SLOW {
            slow.pop_front();
        }
        slow.push_back((place, id));
    }

    /// The counters of its worker.
    pub(super) fn stats(&self) -> &WorkerStats {
        &self.stats
    }

    /// The client on the list of all.
    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// The client has sent so many bytes.
    pub(crate) fn read(&self, bytes: usize) {
        self.stats.bytes_in.add(bytes as u64);
        self.ways.read(bytes as u64);
    }

    /// Of what it sent, commands are taken up now.
    pub(crate) fn act(&self, now: Time) {
        self.ways.act(now);
    }

    /// What its commands go on from now on.
    pub(crate) fn set_link(&self, link: &'static str) {
        self.ways.set_link(link);
    }

    /// A command of it is in the sample.
    pub(super) fn warm(&self, now: Time) {
        self.ways.warm(now);
    }

    /// Bytes that were ever written for it, taken or not.
    pub(super) fn written(&self) -> u64 {
        let queue = self.queue.borrow();
        queue.output.taken() + (queue.output.len() + queue.waiting) as u64
    }

    /// How much the client asks for.
    pub(crate) fn heat(&self, now: Time) -> ClientHeat {
        self.ways.heat(&self.member, self.next().number(), now)
    }

    /// How the client stands, to be told.
    pub(crate) fn state(&self, now: Time) -> ClientState {
        let queue = self.queue.borrow();
        let (unanswered, unread) = (queue.slots.len() as u64, queue.buffered() as u64);
        let commands = queue.head.number() + unanswered;
        let taken = queue.output.taken();
        self.ways.state(&self.member, (commands, unanswered), (taken, unread), now)
    }

    /// The place of the next command, to be answered later.
    pub(crate) fn reserve(&self) -> ReplyPlace {
        let queue = &mut *self.queue.borrow_mut();
        let silent = queue.silent;
        queue.slots.push_back(QueuedReply { silent, ..QueuedReply::default() });
        queue.head.plus(queue.slots.len() - 1)
    }

    /// The places of the next command, which has so many parts; the first of them. When all parts are answered, what `whole` makes of
    /// their replies is the command's.
    pub(super) fn reserve_parts(&self, parts: usize, whole: WholeReply) -> ReplyPlace {
        self.queue.borrow_mut().reserve_parts(parts, whole)
    }

    /// The place that the next command will have.
    pub(crate) fn next(&self) -> ReplyPlace {
        let queue = self.queue.borrow();
        queue.head.plus(queue.slots.len())
    }

    /// Answers the next command at once: `write` appends the reply and says whether there is one. Where it says no, it
    /// must have appended nothing, and no place was taken.
    pub(crate) fn answer<R>(&self, write: impl FnOnce(&mut Vec<u8>) -> (bool, R)) -> R {
        let queue = &mut *self.queue.borrow_mut();
        if queue.slots.is_empty()
            && !queue.silent
            && let Some(buffer) = queue.output.buffer()
        {
            let (answered, result) = write(buffer);
            queue.head = queue.head.plus(usize::from(answered));
            return result;
        }
        // Answers in a row that wait for the same earlier one share its neighbour's bytes: what is one behind the other leaves so.
        let row = queue.slots.back_mut().filter(|last| last.done && last.holds == 0 && !queue.silent);
        let shared = row.is_some();
        let mut own = Vec::new();
        let bytes = row.map_or(&mut own, |last| &mut last.bytes);
        let before = bytes.len();
        let (answered, result) = write(bytes);
        let written = bytes.len() - before;
        if answered {
            if queue.silent {
                own = Vec::new();
            }
            if queue.slots.is_empty() {
                queue.head = queue.head.plus(1);
                queue.output.push(&own);
            } else {
                queue.waiting += if shared { written } else { own.len() };
                queue.slots.push_back(QueuedReply { bytes: own, done: true, ..QueuedReply::default() });
            }
        }
        result
    }

    /// A confirmation of a subscription, which `CLIENT REPLY OFF` does not silence; `end` with the last.
    pub(crate) fn confirm(&self, place: ReplyPlace, bytes: &[u8], end: Option<Time>) {
        self.slot(place, |slot| slot.silent = false);
        self.append(place, bytes, end);
    }

    /// The next bytes of the reply at `place`; with its last, `end` says when they were read from Redis.
    pub(crate) fn append(&self, place: ReplyPlace, bytes: &[u8], end: Option<Time>) {
        let queue = &mut *self.queue.borrow_mut();
        if queue.ended.is_some() || queue.is_cut(place) {
            return;
        }
        let Some(at) = place.behind(queue.head) else { return };
        let Some(slot) = queue.slots.get_mut(at) else { return };
        slot.done |= end.is_some();
        let is_part = slot.holds & PART != 0;
        if !slot.silent || slot.holds & LOOKED_AT != 0 {
            if at == 0 && slot.holds == 0 {
                queue.output.push(bytes);
            } else {
                slot.bytes.extend_from_slice(bytes);
                queue.waiting += bytes.len();
            }
        }
        if let Some(when) = end {
            self.reads.borrow_mut().answered(place, when);
            self.last_answer.set(self.last_answer.get().max(when));
            if is_part {
                queue.assemble(place);
            }
            if is_part || at == 0 {
                queue.settle();
            }
        }
        queue.bound(self.limit);
        queue.wake();
        if self.detoured.get() && end.is_some() {
            self.tell_detours();
        }
    }

    /// Commands of the session are on a detour from now on. What comes back is told of each answer.
    pub(super) fn begin_detour(&self) -> Rc<Notify> {
        self.detoured.set(true);
        Rc::clone(self.detour_news.borrow_mut().get_or_insert_default())
    }

    /// None are any more.
    pub(super) fn end_detour(&self) {
        self.detoured.set(false);
        *self.detour_news.borrow_mut() = None;
        self.wake();
    }

    /// Whether any are: the session sends nothing new meanwhile.
    pub(super) fn is_detoured(&self) -> bool {
        self.detoured.get()
    }

    #[cold]
    fn tell_detours(&self) {
        if let Some(news) = &*self.detour_news.borrow() {
            news.notify_one();
        }
    }

    /// Whether the command at `place` is answered, or never will be.
    pub(super) fn is_answered(&self, place: ReplyPlace) -> bool {
        let queue = self.queue.borrow();
        let Some(at) = place.behind(queue.head) else { return true };
        queue.is_cut(place) || queue.slots.get(at).is_none_or(|slot| slot.done)
    }

    /// As [`append`](Self::append), of bytes that others get as well: what is kept of them is kept once for all.
    pub(crate) fn append_shared(&self, place: ReplyPlace, bytes: &Rc<[u8]>, end: Option<Time>) {
        let shared = self.queue.borrow_mut().share(place, bytes);
        self.append(place, if shared { b"" } else { bytes }, end);
    }

    /// Ends the session where more than `limit` bytes wait for its client.
    pub(crate) fn bound(&self, limit: usize) {
        self.queue.borrow_mut().bound(limit);
    }

    /// Nothing of the reply at `place` goes out before [`release`](Self::release).
    pub(crate) fn hold(&self, place: ReplyPlace) {
        self.slot(place, |slot| slot.holds |= HELD);
    }

    /// As [`hold`](Self::hold), until what follows the reply on its own connection is here: that must be read, however much of the
    /// reply waits.
    pub(crate) fn hold_early(&self, place: ReplyPlace) {
        self.slot(place, |slot| slot.holds |= HELD | EARLY);
    }

    /// Ends what [`hold`](Self::hold) began.
    pub(crate) fn release(&self, place: ReplyPlace) {
        self.end_hold(place, HELD | EARLY);
    }

    /// As [`hold`](Self::hold), beside that.
    pub(crate) fn hold_for_more(&self, place: ReplyPlace) {
        self.slot(place, |slot| slot.holds |= OWED);
    }

    /// Ends what [`hold_for_more`](Self::hold_for_more) began.
    pub(crate) fn release_more(&self, place: ReplyPlace) {
        self.end_hold(place, OWED);
    }

    /// Nothing of the reply at `place` goes out before the session has [seen](Self::first_bytes) how it begins.
    pub(crate) fn look_at(&self, place: ReplyPlace) {
        self.slot(place, |slot| slot.holds |= LOOKED_AT);
    }

    /// The first two bytes of a reply that is [looked at](Self::look_at), or none of one that there will not be. None as long as they
    /// are not here.
    pub(crate) fn first_bytes(&self, place: ReplyPlace) -> Option<Vec<u8>> {
        let first = {
            let queue = self.queue.borrow();
            let slot = place.behind(queue.head).and_then(|at| queue.slots.get(at));
            let over = queue.ended.is_some() || queue.is_cut(place);
            match slot.filter(|_| !over) {
                Some(slot) if slot.bytes.len() < 2 && !slot.done => return None,
                Some(slot) => slot.bytes.iter().take(2).copied().collect(),
                None => Vec::new(),
            }
        };
        self.end_hold(place, LOOKED_AT);
        Some(first)
    }

    /// The whole error that a reply is which is [looked at](Self::look_at); empty where it is none, or there will not be one. None
    /// as long as that is not known.
    pub(crate) fn error_at(&self, place: ReplyPlace) -> Option<Vec<u8>> {
        let queue = self.queue.borrow();
        let slot = place.behind(queue.head).and_then(|at| queue.slots.get(at));
        match slot.filter(|_| queue.ended.is_none() && !queue.is_cut(place)) {
            Some(slot) if slot.bytes.is_empty() && !slot.done => None,
            Some(slot) if slot.bytes.first() != Some(&b'-') => Some(Vec::new()),
            Some(slot) => slot.done.then(|| slot.bytes.clone()),
            None => Some(Vec::new()),
        }
    }

    /// A reply that was [looked at](Self::look_at) is none: another comes at its place, and is looked at as well.
    pub(crate) fn take_back(&self, place: ReplyPlace) {
        let queue = &mut *self.queue.borrow_mut();
        if let Some(slot) = place.behind(queue.head).and_then(|at| queue.slots.get_mut(at)) {
            debug_assert!(slot.holds & LOOKED_AT != 0, "nothing of it has gone out");
            queue.waiting -= slot.bytes.len();
            (slot.bytes, slot.done) = (Vec::new(), false);
        }
    }

    /// A reply that was [looked at](Self::look_at) may go out.
    pub(crate) fn show(&self, place: ReplyPlace) {
        self.end_hold(place, LOOKED_AT);
    }

    fn end_hold(&self, place: ReplyPlace, why: u8) {
        self.slot(place, |slot| slot.holds &= !why);
        let queue = &mut *self.queue.borrow_mut();
        queue.assemble(place);
        if let Some(slot) = place.behind(queue.head).and_then(|at| queue.slots.get_mut(at)).filter(|slot| slot.silent) {
            queue.waiting -= std::mem::take(&mut slot.bytes).len(); // it was there to be looked at
        }
        queue.settle();
        if queue.has_room() {
            queue.wake_room();
        }
        queue.wake();
    }

    /// Whether the next reply is there and only [held](Self::hold).
    pub(crate) fn is_held(&self) -> bool {
        self.queue.borrow().slots.front().is_some_and(|slot| slot.holds & !PART != 0 && slot.done)
    }

    fn slot(&self, place: ReplyPlace, change: impl FnOnce(&mut QueuedReply)) {
        let queue = &mut *self.queue.borrow_mut();
        if let Some(slot) = place.behind(queue.head).and_then(|at| queue.slots.get_mut(at)) {
            change(slot);
        }
    }

    /// Bytes that answer no command: they go out before the first reply that is still awaited, and after one that is held.
    pub(crate) fn message(&self, bytes: &[u8]) {
        let queue = &mut *self.queue.borrow_mut();
        if queue.ended.is_some() {
            return;
        }
        let behind = match queue.slots.iter().position(|slot| !slot.done) {
            Some(0) if queue.slots[0].holds == 0 => None,
            // Between parts it would be a part's.
            Some(at) if queue.slots[at].holds & PART != 0 => {
                let first = queue.slots.iter().take(at).rposition(|slot| slot.holds & PART == 0);
                first.and_then(|before| queue.slots.get_mut(before))
            }
            Some(at) => queue.slots.get_mut(at),
            None => queue.slots.back_mut(),
        };
        if let Some(reply) = behind {
            reply.bytes.extend_from_slice(bytes);
            queue.waiting += bytes.len();
        } else {
            queue.output.push(bytes);
        }
        queue.bound(self.limit);
        queue.wake();
    }

    /// From the next command on, replies are thrown away (`CLIENT REPLY OFF`) or kept again.
    pub(crate) fn set_silent(&self, silent: bool) {
        self.queue.borrow_mut().silent = silent;
    }

    /// The client takes nothing any more: what comes out is thrown away.
    pub(crate) fn deafen(&self) {
        let queue = &mut *self.queue.borrow_mut();
        queue.deaf = true;
        queue.discard();
    }

    /// Whether every command so far has been answered.
    pub(crate) fn is_settled(&self) -> bool {
        self.queue.borrow().slots.is_empty()
    }

    /// Commands not answered yet.
    pub(crate) fn unanswered(&self) -> usize {
        self.queue.borrow().slots.len()
    }

    /// The first place not answered yet: every place below it is.
    pub(crate) fn head(&self) -> ReplyPlace {
        self.queue.borrow().head
    }

    /// When Redis last answered this session, on whichever connection.
    pub(crate) fn last_answer(&self) -> Time {
        self.last_answer.get()
    }

    /// Remembers that the command at `place` reads a key in `slot`, or (none) any key, from `node`; `heard` is up to when the
    /// ear there knows of every change. True where the ear should be asked to know more.
    pub(crate) fn note_read(&self, node: NodeIndex, place: ReplyPlace, slot: Option<Slot>, heard: Time) -> bool {
        self.reads.borrow_mut().note(node, place, slot, heard)
    }

    /// Remembers that the master at `node` is asked for keys in the slot, or (none) for any, by the command at `place`; its replicas
    /// have all that it had at `reached`.
    pub(super) fn note_master_read(&self, node: NodeIndex, place: ReplyPlace, slot: Option<Slot>, reached: Time) {
        self.master_reads.borrow_mut().get_or_insert_default().note(node, place, slot, reached);
    }

    /// When the master at `node` last answered a read of the slot, of those that are remembered; [`Time::NEVER`] where it has yet to.
    pub(super) fn master_read(&self, node: NodeIndex, slot: Slot) -> Time {
        let reads = &mut *self.master_reads.borrow_mut();
        let Some(reads) = reads else { return Time::ZERO };
        let reads = reads.at(node);
        reads.settle(self.head(), self.last_answer());
        reads.last(slot).unwrap_or(Time::ZERO)
    }

    /// The last command that writes.
    pub(super) fn last_write(&self) -> Option<ReplyPlace> {
        self.last_write.get()
    }

    /// How the reads that this session had from `node` stand to what L1 knows of a key.
    pub(crate) fn key_status(&self, node: NodeIndex, slot: Slot, heard: Time) -> KeyStatus {
        self.reads.borrow_mut().at(node).key_status(slot, heard)
    }

    /// Remembers that the command at `place` writes.
    pub(crate) fn wrote(&self, place: ReplyPlace) {
        self.last_write.set(Some(place));
    }

    /// Whether a write of this session is unanswered.
    pub(crate) fn behind_write(&self) -> bool {
        self.last_write.get().is_some_and(|write| write >= self.head())
    }

    /// Whether a write was sent after the command at `place`: a read at `place` must not be sent again then.
    pub(crate) fn wrote_after(&self, place: ReplyPlace) -> bool {
        self.last_write.get().is_some_and(|write| write > place)
    }

    /// Whether so much waits for the client that it should be given no more work.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.borrow().buffered() > HIGH_WATER
    }

    /// Whether there are few bytes to write, and more to come.
    pub(crate) fn may_cork(&self) -> bool {
        let queue = self.queue.borrow();
        let few = !queue.output.has_chunks() && (1..CORK).contains(&queue.output.len());
        few && !queue.slots.is_empty() && queue.ended.is_none()
    }

    /// Bytes that the client has taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.queue.borrow().output.taken()
    }

    /// Whether all bytes have been written.
    pub(crate) fn is_flushed(&self) -> bool {
        let queue = self.queue.borrow();
        queue.output.is_empty()
    }

    /// Ready once the client has taken enough for more bytes of a large reply to be read.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let queue = &mut *self.queue.borrow_mut();
        if self.taken || queue.ended.is_some() || queue.has_room() {
            return Poll::Ready(());
        }
        queue.room.push(cx.waker().clone());
        Poll::Pending
    }

    /// Ends the session; what was to be written before is still tried.
    pub(crate) fn end(&self, why: SessionEnd) {
        let queue = &mut *self.queue.borrow_mut();
        queue.ended.get_or_insert(why);
        queue.wake_room();
        queue.wake();
        self.tell_detours();
    }

    /// The command at `place` will not be answered, and so none after it is: the session ends when all before it are.
    pub(crate) fn cut(&self, place: ReplyPlace, why: SessionEnd) {
        let queue = &mut *self.queue.borrow_mut();
        if place < queue.head {
            return; // it was answered
        }
        self.cut.set(true);
        // It keeps its place, so that what is answered later waits behind it.
        while queue.head.plus(queue.slots.len()) <= place {
            queue.slots.push_back(QueuedReply::default());
        }
        let place = queue.first_part(place); // without a part there is no whole
        if !queue.is_cut(place) {
            queue.cut = Some((place, why));
        }
        queue.settle();
        queue.wake();
        self.tell_detours();
    }

    /// Whether a command will not be answered, so that no more are to be taken up.
    pub(crate) fn has_cut(&self) -> bool {
        self.cut.get()
    }

    /// Whether the command at `place` will not be answered.
    pub(crate) fn is_cut(&self, place: ReplyPlace) -> bool {
        self.cut.get() && self.queue.borrow().is_cut(place)
    }

    /// Why the session must end, if it must.
    pub(crate) fn ended(&self) -> Option<SessionEnd> {
        self.queue.borrow().ended
    }

    /// Something else changed that the session should look at.
    pub(crate) fn wake(&self) {
        self.queue.borrow_mut().wake();
    }

    /// The session is to be woken at the next change.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let queue = &mut *self.queue.borrow_mut();
        if !queue.session.as_ref().is_some_and(|session| session.will_wake(cx.waker())) {
            queue.session = Some(cx.waker().clone());
        }
    }

    /// Writes what can go out. Ready when nothing is left to write, or with the error of the socket.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>, socket: &mut Socket, sent: &Counter) -> Poll<io::Result<()>> {
        let queue = &mut *self.queue.borrow_mut();
        if queue.deaf {
            queue.discard();
            return Poll::Ready(Ok(()));
        }
        while !queue.output.to_write().is_empty() {
            let n = ready!(Pin::new(&mut *socket).poll_write(cx, queue.output.to_write()))?;
            queue.output.wrote(n);
            sent.add(n as u64);
            if !queue.room.is_empty() && queue.has_room() {
                queue.wake_room();
            }
        }
        queue.output.release();
        Pin::new(socket).poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;
    use crate::proxy::Clients;

    const AT: Option<Time> = Some(Time::from_nanos(7));

    fn of(limit: usize) -> Replies {
        let member = Clients::default().join("peer".to_owned(), &Arc::new(Notify::new()));
        Replies::new(limit, member, Arc::default())
    }

    /// What has gone out since the last time.
    fn out(replies: &Replies) -> String {
        let output = &mut replies.queue.borrow_mut().output;
        let mut all = Vec::new();
        while !output.to_write().is_empty() {
            let bytes = output.to_write().to_vec();
            output.wrote(bytes.len());
            all.extend(bytes);
        }
        output.release();
        String::from_utf8(all).expect("text")
    }

    fn answer(replies: &Replies, bytes: &str) {
        replies.answer(|out| {
            out.extend_from_slice(bytes.as_bytes());
            (true, ())
        });
    }

    #[test]
    fn of_the_last_slow_commands_it_is_known_where_they_are_noted() {
        let replies = of(1 << 20);
        let places: Vec<_> = (0..=SLOW as u64).map(|_| replies.reserve()).collect();
        for (&place, id) in places.iter().zip(7..) {
            assert_eq!(replies.slow_at(place), None);
            replies.set_slow(place, id);
        }
        assert_eq!(replies.slow_at(places[0]), None, "it is too long ago");
        assert_eq!(replies.slow_at(places[1]), Some(8));
        assert_eq!(replies.slow_at(places[SLOW]), Some(7 + SLOW as u64));
    }

    #[test]
    fn replies_go_out_in_the_order_of_commands_whoever_has_them_first() {
        let replies = of(1000);
        let (a, b) = (replies.reserve(), replies.reserve());
        answer(&replies, "c");
        answer(&replies, "d");
        let e = replies.reserve();
        replies.append(e, b"e", AT);
        replies.append(b, b"b1", None);
        assert_eq!((out(&replies).as_str(), replies.unanswered(), replies.head()), ("", 5, a));
        replies.append(a, b"a1", None);
        assert_eq!(out(&replies), "a1", "what comes next goes out piece by piece");
        replies.append(a, b"a2", AT);
        assert_eq!(out(&replies), "a2b1");
        replies.append(b, b"b2", AT);
        assert_eq!((out(&replies).as_str(), replies.is_settled(), replies.is_flushed()), ("b2cde", true, true));
        answer(&replies, "f");
        assert_eq!((out(&replies), replies.next() > e), ("f".to_owned(), true));
    }

    #[test]
    fn who_says_that_there_is_no_answer_takes_no_place() {
        let replies = of(1000);
        let next = replies.next();
        assert_eq!(replies.answer(|_| (false, 3)), 3);
        assert_eq!(replies.next(), next);
        replies.reserve();
        replies.answer(|_| (false, ()));
        assert_eq!(replies.unanswered(), 1);
    }

    #[test]
    fn a_held_reply_holds_all_behind_it() {
        let replies = of(1000);
        let a = replies.reserve();
        replies.hold(a);
        replies.append(a, b"a", AT);
        answer(&replies, "b");
        assert_eq!((out(&replies).as_str(), replies.is_held()), ("", true));
        replies.message(b"said behind a held one");
        replies.release(a);
        assert_eq!((out(&replies), replies.is_held()), ("absaid behind a held one".to_owned(), false));
    }

    #[test]
    fn parts_are_answered_as_one_when_all_are_there() {
        let replies = of(1000);
        let a = replies.reserve();
        let first =
            replies.reserve_parts(3, Box::new(|parts: &[&[u8]]| [b"<", parts.concat().as_slice(), b">"].concat()));
        let (second, third) = (first.plus(1), first.plus(2));
        answer(&replies, "e");
        assert_eq!(replies.unanswered(), 5);
        replies.append(third, b"d", AT);
        replies.append(a, b"a", AT);
        replies.append(first, b"b", AT);
        replies.message(b"said");
        replies.hold(second);
        replies.append(second, b"c", AT);
        assert_eq!((out(&replies).as_str(), replies.unanswered()), ("asaid", 4), "a part is held");
        replies.release(second);
        assert_eq!((out(&replies).as_str(), replies.is_settled()), ("<bcd>e", true));
    }

    #[test]
    fn without_one_of_its_parts_a_command_is_not_answered() {
        let replies = of(1000);
        let a = replies.reserve();
        let first = replies.reserve_parts(2, Box::new(|parts: &[&[u8]]| parts.concat()));
        replies.append(first, b"b", AT);
        replies.cut(first.plus(1), SessionEnd::Away);
        assert_eq!((replies.is_cut(first), replies.ended()), (true, None));
        replies.append(a, b"a", AT);
        assert_eq!((out(&replies).as_str(), replies.ended()), ("a", Some(SessionEnd::Away)));
    }

    #[test]
    fn parts_that_nobody_wants_to_hear_of_are_awaited() {
        let replies = of(1000);
        replies.set_silent(true);
        let first = replies.reserve_parts(2, Box::new(|parts: &[&[u8]]| parts.concat()));
        replies.set_silent(false);
        replies.append(first.plus(1), b"b", AT);
        assert!(!replies.is_settled());
        replies.append(first, b"a", AT);
        assert_eq!((out(&replies).as_str(), replies.is_settled()), ("", true));
    }

    #[test]
    fn the_session_looks_at_a_reply_before_it_goes_out() {
        let replies = of(1000);
        let a = replies.reserve();
        replies.look_at(a);
        replies.append(a, b"*", None);
        assert_eq!(replies.first_bytes(a), None);
        replies.append(a, b"-1\r\n", AT);
        assert_eq!((out(&replies).as_str(), replies.first_bytes(a)), ("", Some(b"*-".to_vec())));
        assert_eq!(out(&replies), "*-1\r\n");
    }

    #[test]
    fn an_error_that_is_looked_at_can_be_taken_back() {
        let replies = of(1000);
        for silent in [false, true] {
            replies.set_silent(silent);
            let a = replies.reserve();
            replies.set_silent(false);
            let b = replies.reserve();
            replies.look_at(a);
            replies.append(b, b"b", AT);
            assert_eq!(replies.error_at(a), None, "nothing is here");
            replies.append(a, b"-MOVED", None);
            assert_eq!(replies.error_at(a), None, "not all is here");
            replies.append(a, b" 1\r\n", AT);
            assert_eq!((replies.error_at(a), out(&replies).as_str()), (Some(b"-MOVED 1\r\n".to_vec()), ""));
            replies.take_back(a);
            assert_eq!((replies.error_at(a), replies.unanswered()), (None, 2));
            replies.append(a, b"$9\r\n", None);
            assert_eq!(replies.error_at(a), Some(Vec::new()), "it is none");
            replies.show(a);
            replies.append(a, b"rest", AT);
            assert_eq!(out(&replies), if silent { "b" } else { "$9\r\nrestb" });
            assert!(replies.is_settled() && replies.error_at(a) == Some(Vec::new()), "it is answered");
        }
        let (c, d) = (replies.reserve(), replies.reserve());
        replies.look_at(d);
        replies.cut(c, SessionEnd::Away);
        assert_eq!(replies.error_at(d), Some(Vec::new()), "it will not come");
    }

    #[test]
    fn messages_go_before_what_is_awaited_and_behind_what_is_there() {
        let replies = of(1000);
        let (a, b) = (replies.reserve(), replies.reserve());
        replies.message(b"1");
        replies.append(a, b"a", None);
        assert_eq!(out(&replies), "1a");
        replies.append(b, b"b", AT);
        replies.append(a, b"a", AT);
        replies.message(b"2");
        assert_eq!(out(&replies), "ab2");
    }

    #[test]
    fn silence_throws_replies_away_but_not_confirmations() {
        let replies = of(1000);
        replies.set_silent(true);
        answer(&replies, "a");
        let (b, c) = (replies.reserve(), replies.reserve());
        replies.append(b, b"b", AT);
        replies.confirm(c, b"c", AT);
        replies.set_silent(false);
        answer(&replies, "d");
        assert_eq!((out(&replies).as_str(), replies.is_settled()), ("cd", true));
    }

    #[test]
    fn behind_a_command_that_nobody_answers_the_session_ends() {
        let replies = of(1000);
        let (a, b, c) = (replies.reserve(), replies.reserve(), replies.reserve());
        replies.cut(b, SessionEnd::Away);
        assert!(replies.has_cut() && replies.is_cut(c) && !replies.is_cut(a));
        replies.append(c, b"c", AT);
        assert_eq!((replies.ended(), out(&replies).as_str()), (None, ""), "what came before is still awaited");
        replies.cut(c, SessionEnd::LoggedOut);
        replies.append(a, b"a", AT);
        assert_eq!((replies.ended(), out(&replies).as_str()), (Some(SessionEnd::Away), "a"));
        replies.cut(a, SessionEnd::Killed);
        assert_eq!(replies.ended(), Some(SessionEnd::Away), "that one was answered");
    }

    #[test]
    fn a_cut_beyond_the_last_command_keeps_its_place() {
        let replies = of(1000);
        let a = replies.reserve();
        replies.cut(replies.next(), SessionEnd::Away);
        assert_eq!((replies.ended(), replies.unanswered()), (None, 2));
        replies.append(a, b"a", AT);
        assert_eq!((replies.ended(), out(&replies)), (Some(SessionEnd::Away), "a".to_owned()));
    }

    #[test]
    fn more_than_the_limit_ends_the_session_and_frees_what_waited() {
        let replies = of(10);
        let (_, b) = (replies.reserve(), replies.reserve());
        replies.append(b, b"0123456789", None);
        assert_eq!(replies.ended(), None);
        replies.append(b, b"!", AT);
        assert_eq!((replies.ended(), replies.is_full()), (Some(SessionEnd::Slow), false));
        replies.append(b, b"more", AT);
        assert_eq!(out(&replies), "");
    }

    #[test]
    fn a_client_that_takes_nothing_any_more_gets_nothing() {
        let replies = of(1000);
        answer(&replies, "a");
        replies.deafen();
        assert_eq!((out(&replies), replies.is_flushed()), (String::new(), true));
    }

    #[test]
    fn writes_are_remembered_until_they_are_answered() {
        let replies = of(1000);
        let (a, b) = (replies.reserve(), replies.reserve());
        replies.wrote(b);
        assert!(replies.behind_write() && replies.wrote_after(a) && !replies.wrote_after(b));
        replies.append(a, b"a", AT);
        assert!(replies.behind_write());
        replies.append(b, b"b", AT);
        assert!(!replies.behind_write());
        assert_eq!(Some(replies.last_answer()), AT);
    }

    #[test]
    fn few_bytes_before_an_awaited_reply_may_wait_for_it() {
        let replies = of(1 << 20);
        answer(&replies, "a");
        assert!(!replies.may_cork(), "nothing is awaited");
        replies.reserve();
        assert!(replies.may_cork());
        out(&replies);
        assert!(!replies.may_cork(), "there is nothing to wait");
        replies.message(&vec![b'x'; CORK]);
        assert!(!replies.may_cork(), "that is worth a write of its own");
    }
}
