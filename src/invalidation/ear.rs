//! The ear: the one tracked connection of a user, on which everything in L1 was read.
//!
//! Redis tells a tracked connection of every change to what was read on it, on the same socket and in order; so the ear
//! that handles what it hears strictly in order cannot miss one. It does three things: fills, invalidations, fences. It
//! must never wait for a client or a worker. One task on the control thread, owned by [`super::L1`], reconnects for as long
//! as the process lives; what happens between two connections is unknown, so a lost one ends the epoch and the lease.
//!
//! Facts of Redis that this rests on (networking.c, tracking.c; tried on 7.0.15 and Valkey 9): a push for one's own write
//! comes after its reply; a flush is a null push; keys in pushes carry no database; `HELLO` without arguments tells the role.

use std::collections::{HashSet, VecDeque};
use std::future::pending;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis_protocol::resp3::decode::complete::decode;
use redis_protocol::resp3::types::OwnedFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use super::L1;
use super::push::{self, Push};
use crate::cache::{Epoch, Freshness, Identity, Query, Slot, Stamp};
use crate::clock::Time;
use crate::command::{Caching, by_id};
use crate::error::Error;
use crate::metrics::{DropReason, EpochReason, FillOutcome};
use crate::resp::{Request, Resp, Split, Splitter, encode, to_resp2};
use crate::upstream::{Backoff, Connection, Login, Target, connect};

/// Fills that may wait for the ear; more are dropped and counted.
const INBOX: usize = 4096;
/// Fences that may be asked for and not yet sent: each worker asks for one at a time.
const FENCES: usize = 1024;
/// Fills that may be under way at once.
const WINDOW: usize = 512;
/// A user that may not be tracked is tried again after this long: an ACL can change.
const REFUSED: Duration = Duration::from_secs(60);
/// With nothing in L1 the ear is asked this seldom whether it still hears.
const IDLE: Duration = Duration::from_secs(5);

/// A read to be repeated on the ear, so that its answer may enter L1.
#[derive(Debug)]
pub struct Fill {
    request: Arc<[u8]>,
    key: Range<usize>,
    tail: usize,
    identity: Identity,
    command: u16,
    slot: Slot,
    hash: u64,
    db: u32,
    ceiling: Option<Duration>,
    again: bool,
}

impl Fill {
    /// The read `request` of one key, its first argument, which `query` describes. `ceiling` is the longest stay in L1.
    pub fn new(request: Request<'_>, query: &Query<'_>, db: u32, ceiling: Option<Duration>) -> Self {
        let raw = request.raw();
        let tail = raw.len() - query.tail.len();
        // The key is the first argument of the tail: "$3\r\nkey\r\n..".
        let header = query.tail.iter().position(|&b| b == b'\n').map_or(0, |at| at + 1);
        let key = tail + header..tail + header + request.arg(1).len();
        let Query { identity, command, slot, hash, .. } = *query;
        Self { request: raw.into(), key, tail, identity, command, slot, hash, db, ceiling, again: false }
    }

    /// The request's bytes.
    pub fn share(&self) -> Arc<[u8]> {
        Arc::clone(&self.request)
    }

    /// What is asked.
    pub fn query(&self) -> Query<'_> {
        let tail = &self.request[self.tail..];
        Query { identity: self.identity, command: self.command, tail, slot: self.slot, hash: self.hash }
    }
}

/// A user's ear, as the workers see it.
pub struct Ear {
    /// The epoch and the lease that every hit of the user checks.
    pub freshness: Freshness,
    filled: AtomicBool,
    nudged: AtomicBool,
    reconnects: AtomicU64,
    login: Mutex<Option<Arc<Login>>>,
    state: Mutex<State>,
    fills: mpsc::Sender<Fill>,
    fences: mpsc::Sender<oneshot::Sender<()>>,
    inbox: Mutex<Option<Inbox>>,
}

/// What an ear is doing, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing was ever promoted for this user.
    Idle,
    /// No connection, and why.
    Away(String),
    /// Listening, from this address.
    Listening(String),
}

struct Inbox {
    fills: mpsc::Receiver<Fill>,
    fences: mpsc::Receiver<oneshot::Sender<()>>,
}

impl Ear {
    pub(super) fn new(login: Option<Arc<Login>>) -> Arc<Self> {
        let (fills, fill_inbox) = mpsc::channel(INBOX);
        let (fences, fence_inbox) = mpsc::channel(FENCES);
        Arc::new(Self {
            freshness: Freshness::new(),
            filled: AtomicBool::new(false),
            nudged: AtomicBool::new(false),
            reconnects: AtomicU64::new(0),
            login: Mutex::new(login),
            state: Mutex::new(State::Idle),
            fills,
            fences,
            inbox: Mutex::new(Some(Inbox { fills: fill_inbox, fences: fence_inbox })),
        })
    }

    /// What the ear is doing.
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often the ear had to connect anew.
    pub fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// A client proved this login: the next connection is made with it.
    pub(super) fn trust(&self, login: Option<&Arc<Login>>) {
        *self.login.lock().unwrap_or_else(PoisonError::into_inner) = login.cloned();
    }

    /// Whether it was ever asked to fill: before, L1 holds nothing of its user's.
    pub fn has_filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// Resolves after a reply to something sent later than this call; fails when the ear is lost meanwhile.
    pub fn fence(&self) -> oneshot::Receiver<()> {
        let (told, fence) = oneshot::channel();
        let _ = self.fences.try_send(told); // without an ear the sender is dropped, which is an answer
        fence
    }

    /// Up to when L1 knows of every change, as far as the user's sessions are concerned: for ever where it holds nothing.
    pub fn heard_up_to(&self) -> Time {
        if self.has_filled() { self.freshness.heard_up_to() } else { Time::NEVER }
    }

    /// Asks for a fence that nobody waits for, unless one is asked for already.
    pub fn nudge(&self) {
        if self.has_filled() && !self.nudged.swap(true, Ordering::AcqRel) {
            drop(self.fence());
        }
    }

    pub(super) fn promote(self: &Arc<Self>, l1: &Arc<L1>, fill: Fill) -> Result<(), DropReason> {
        if !self.filled.load(Ordering::Acquire) {
            self.start(l1);
        }
        self.fills.try_send(fill).map_err(|_| DropReason::EarBehind)
    }

    fn start(self: &Arc<Self>, l1: &Arc<L1>) {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.filled.store(true, Ordering::Release);
        if let Some(inbox) = inbox {
            let (ear, l1) = (Arc::clone(self), Arc::clone(l1));
            let handle = l1.control.clone();
            handle.spawn(async move {
                let stop = l1.stop.clone();
                stop.run_until_cancelled(listen(&ear, &l1, inbox)).await;
            });
        }
    }

    fn set_state(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// Keeps the ear listening; never returns.
async fn listen(ear: &Ear, l1: &Arc<L1>, mut inbox: Inbox) {
    let mut backoff = Backoff::default();
    loop {
        let login = ear.login.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let name = "crema-ear";
        let target = Target { node: Arc::clone(&l1.node), login, db: 0, resp: Resp::V3, name };
        let error = match connect(&target).await {
            Ok(connection) => {
                ear.set_state(State::Listening(connection.socket.local()));
                let mut hearing = Hearing::new(ear, l1, target.login.as_deref());
                let error = hearing.run(connection, &mut inbox, &mut backoff).await;
                ear.freshness.end();
                ear.freshness.bump();
                l1.stats.epoch(EpochReason::EarLost);
                error
            }
            Err(error) => error,
        };
        ear.reconnects.fetch_add(1, Ordering::Relaxed);
        l1.stats.ear_reconnects.add(1);
        let wait = if matches!(error, Error::Refused { .. }) { REFUSED } else { backoff.wait() };
        warn!(%error, retry_in = ?wait, "the ear hears nothing: L1 answers nothing until it does, reads go to the upstream");
        ear.set_state(State::Away(error.to_string()));
        // What was asked of the lost ear is dropped: promotions are optional, and a fence that fails is answered by that.
        let drain = async {
            loop {
                tokio::select! {
                    Some(_) = inbox.fills.recv() => {}
                    Some(_) = inbox.fences.recv() => {}
                    else => pending::<()>().await,
                }
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = drain => {}
        }
    }
}

/// One connection of the ear.
struct Hearing<'a> {
    ear: &'a Ear,
    l1: &'a Arc<L1>,
    user: Vec<u8>,
    out: Vec<u8>,
    db: u32,
    /// What was sent and not answered, oldest first, and when.
    awaited: VecDeque<(Time, Awaited)>,
    /// The number of the next command, and of the one that is answered next.
    next: u64,
    answering: u64,
    fence_sent: Option<Time>,
    fences: Vec<(u64, oneshot::Sender<()>)>,
    filling: HashSet<u64>,
    rights: Option<Vec<u8>>,
    rights_asked: Time,
    rights_known: bool,
    heard: Time,
    not_master: bool,
}

enum Awaited {
    Tracking,
    Ignored,
    Rights,
    Fence,
    Value(Box<Asked>),
    Ttl(Box<Asked>),
}

struct Asked {
    fill: Fill,
    stamp: Stamp,
    epoch: Epoch,
    value: Option<Vec<u8>>,
}

impl<'a> Hearing<'a> {
    fn new(ear: &'a Ear, l1: &'a Arc<L1>, login: Option<&Login>) -> Self {
        let now = Time::now();
        Self {
            ear,
            l1,
            user: login.map_or_else(|| b"default".to_vec(), |login| login.user.to_vec()),
            out: Vec::new(),
            db: 0,
            awaited: VecDeque::new(),
            next: 0,
            answering: 0,
            fence_sent: None,
            fences: Vec::new(),
            filling: HashSet::new(),
            rights: None,
            rights_asked: now,
            rights_known: false,
            heard: now,
            not_master: false,
        }
    }

    async fn run(&mut self, connection: Connection, inbox: &mut Inbox, backoff: &mut Backoff) -> Error {
        let Connection { socket, permit: _permit } = connection;
        let (mut read, mut write) = tokio::io::split(socket);
        let mut frames = Frames::new(self.l1.terms.max_value);
        let mut tick = interval(self.l1.terms.max_staleness / 4);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.ear.freshness.bump();
        let now = Time::now();
        self.send(&[b"CLIENT", b"TRACKING", b"ON"], Awaited::Tracking, now);
        self.send(&[b"CLIENT", b"NO-EVICT", b"ON"], Awaited::Ignored, now);
        self.ask_rights(now);
        self.send_fence(now);
        loop {
            tokio::select! {
                read = read.read_buf(&mut frames.input) => match read {
                    Ok(0) => return self.lost("closed by the upstream"),
                    Ok(_) => {
                        self.heard = Time::now();
                        let heard = frames.drain(|frame, whole| self.hear(frame, whole));
                        if let Err(error) = heard.unwrap_or_else(|malformed| Err(self.lost(&malformed))) {
                            return error;
                        }
                        if self.rights_known {
                            backoff.reset();
                        }
                    }
                    Err(error) => return self.lost(&error.to_string()),
                },
                written = write.write(&self.out), if !self.out.is_empty() => match written {
                    Ok(n) => drop(self.out.drain(..n)),
                    Err(error) => return self.lost(&error.to_string()),
                },
                Some(told) = inbox.fences.recv() => self.fence(told),
                Some(fill) = inbox.fills.recv(), if self.filling.len() < WINDOW => {
                    self.ask(fill);
                    while self.filling.len() < WINDOW && let Ok(fill) = inbox.fills.try_recv() {
                        self.ask(fill);
                    }
                }
                _ = tick.tick() => if let Err(error) = self.tick() {
                    return error;
                },
            }
        }
    }

    /// One whole frame, in the order in which Redis sent it. `whole` is false where it was too large to be kept.
    fn hear(&mut self, frame: &[u8], whole: bool) -> Result<(), Error> {
        if frame.first() == Some(&b'>') {
            self.pushed(if whole { push::read(frame) } else { Push::Unreadable });
            return Ok(());
        }
        let Some((sent, awaited)) = self.awaited.pop_front() else {
            return Err(self.lost("a reply that nothing asked for: desynchronised"));
        };
        let refused = frame.first() == Some(&b'-');
        match awaited {
            Awaited::Ignored => {}
            Awaited::Tracking if refused => {
                return Err(Error::Refused { node: Arc::clone(&self.l1.node.address), reply: frame.into() });
            }
            Awaited::Tracking => info!(user = %String::from_utf8_lossy(&self.user), "the ear hears every change"),
            Awaited::Rights => self.hear_rights(frame, refused),
            Awaited::Fence => self.hear_fence(frame, sent),
            Awaited::Value(mut asked) => {
                asked.value =
                    (whole && !refused && frame.len() as u64 <= self.l1.terms.max_value).then(|| frame.to_vec());
                self.awaited.push_front((sent, Awaited::Ttl(asked))); // its reply comes next: value and TTL left in one write
            }
            Awaited::Ttl(asked) => self.filled(*asked, sent, frame),
        }
        self.ear.freshness.heard(sent);
        let answered = self.answering;
        self.answering += 1;
        for at in (0..self.fences.len()).rev() {
            if self.fences[at].0 <= answered {
                let (_, told) = self.fences.swap_remove(at);
                let _ = told.send(()); // who asked may have left
            }
        }
        if !self.fences.is_empty() && self.fence_sent.is_none() {
            self.send_fence(Time::now());
        }
        Ok(())
    }

    fn pushed(&mut self, push: Push<'_>) {
        match push {
            Push::Keys(keys) => {
                let mut count = 0;
                for key in keys {
                    self.l1.stamps.touch(self.l1.stamps.slot(self.l1.stamps.hash(key)));
                    count += 1;
                }
                self.l1.stats.invalidations.add(count);
            }
            Push::Flush | Push::Unreadable => {
                self.ear.freshness.bump();
                self.l1.stats.flushes.add(1);
                self.l1.stats.epoch(EpochReason::Flush);
            }
            Push::Other => {}
        }
    }

    /// A fence is back: everything acknowledged before `sent` has been heard. Only a master that says so renews.
    fn hear_fence(&mut self, reply: &[u8], sent: Time) {
        self.fence_sent = None;
        self.ear.nudged.store(false, Ordering::Release);
        self.l1.stats.fences.add(1);
        // MISCONF is what a master says whose disk is full: it lives, and hears.
        let master = reply.starts_with(b"-MISCONF") || role(reply).is_some_and(|role| role == b"master");
        if !master {
            if !self.not_master {
                warn!("the upstream is not a master: a replica tells of no change, so L1 answers nothing");
            }
            self.ear.freshness.end();
            self.ear.freshness.bump();
        } else if !self.l1.is_paused(Time::now()) {
            self.ear.freshness.renew(sent.plus(self.l1.terms.max_staleness));
        }
        self.not_master = !master;
    }

    fn hear_rights(&mut self, reply: &[u8], refused: bool) {
        self.rights_known = !refused;
        let changed = self.rights.as_deref().is_some_and(|rights| rights != reply);
        if changed {
            self.ear.freshness.bump();
            self.l1.stats.epoch(EpochReason::Rights);
        }
        self.rights = Some(reply.to_vec());
    }

    fn ask(&mut self, fill: Fill) {
        let now = Time::now();
        if self.filling.contains(&fill.hash) || self.l1.holds(&fill.query(), self.ear, now) {
            return;
        }
        // Read before the request is sent: only what was asked for under a quiet stamp may enter L1.
        let (stamp, epoch) = (self.l1.stamps.load(fill.slot), self.ear.freshness.epoch());
        if !stamp.quiet() || self.not_master {
            self.l1.stats.fill(FillOutcome::Doomed);
            return;
        }
        if self.fence_sent.is_none() && !self.ear.freshness.held(now) {
            self.send_fence(now);
        }
        if fill.db != self.db {
            self.db = fill.db;
            self.send(&[b"SELECT", fill.db.to_string().as_bytes()], Awaited::Ignored, now);
        }
        self.filling.insert(fill.hash);
        self.out.extend_from_slice(&fill.request);
        encode::command(&mut self.out, &[b"PTTL", &fill.request[fill.key.clone()]]);
        self.next += 2;
        self.awaited.push_back((now, Awaited::Value(Box::new(Asked { fill, stamp, epoch, value: None }))));
    }

    fn filled(&mut self, asked: Asked, sent: Time, ttl: &[u8]) {
        let Asked { mut fill, stamp, epoch, value } = asked;
        self.filling.remove(&fill.hash);
        let Some(value) = value else { return self.l1.stats.fill(FillOutcome::Refused) };
        if value == b"_\r\n" && by_id(fill.command).cache == Caching::Array {
            return self.l1.stats.fill(FillOutcome::Refused); // RESP2 has two nulls, and this would be the other one
        }
        let ttl = ttl.strip_prefix(b":").and_then(|n| std::str::from_utf8(n).ok()?.trim_end().parse::<i64>().ok());
        let Some(expires) = self.expiry(&value, ttl, sent, fill.ceiling) else {
            return self.l1.stats.fill(FillOutcome::Expired);
        };
        if self.l1.stamps.load(fill.slot) != stamp || self.ear.freshness.epoch() != epoch {
            if fill.again {
                return self.l1.stats.fill(FillOutcome::Doomed);
            }
            // Mostly the push of a write that was just answered: the second try finds the dust settled.
            self.l1.stats.fill(FillOutcome::Retried);
            fill.again = true;
            return self.ask(fill);
        }
        let mut resp2 = Vec::new();
        let Ok(differs) = to_resp2(&value, &mut resp2) else { return self.l1.stats.fill(FillOutcome::Refused) };
        self.l1.store.insert(&fill.query(), &value, differs.then_some(&resp2), stamp, epoch, expires);
        self.l1.stats.fill(FillOutcome::Stored);
    }

    /// Until when the value may be served. None: value and TTL tell of two different moments.
    fn expiry(&self, value: &[u8], ttl: Option<i64>, sent: Time, ceiling: Option<Duration>) -> Option<Time> {
        let missing = matches!(value, b"_\r\n" | b"*0\r\n");
        let expires = match ttl? {
            -2 if missing => Time::NEVER,
            -1 if value != b"_\r\n" => Time::NEVER,
            ttl if ttl >= 0 && value != b"_\r\n" => sent.plus(Duration::from_millis(ttl.unsigned_abs())),
            _ => return None,
        };
        let unknown_rights = (!self.rights_known).then_some(self.l1.terms.acl_recheck);
        let ceiling = ceiling.into_iter().chain(unknown_rights).min();
        Some(ceiling.map_or(expires, |stay| expires.min(sent.plus(stay))))
    }

    fn fence(&mut self, told: oneshot::Sender<()>) {
        self.fences.push((self.next, told));
        if self.fence_sent.is_none() {
            self.send_fence(Time::now());
        }
    }

    fn tick(&mut self) -> Result<(), Error> {
        let now = Time::now();
        if let Some(sent) = self.fence_sent {
            let silence = (self.l1.terms.max_staleness * 4).max(Duration::from_secs(2));
            if now.saturating_since(sent) > silence {
                return Err(Error::Timeout { node: Arc::clone(&self.l1.node.address), after: silence });
            }
        } else if !self.l1.store.is_empty() || now.saturating_since(self.heard) > IDLE {
            self.send_fence(now);
        }
        if now.saturating_since(self.rights_asked) >= self.l1.terms.acl_recheck {
            self.ask_rights(now);
        }
        Ok(())
    }

    fn ask_rights(&mut self, now: Time) {
        self.rights_asked = now;
        let user = std::mem::take(&mut self.user);
        self.send(&[b"ACL", b"GETUSER", &user], Awaited::Rights, now);
        self.user = user;
    }

    fn send_fence(&mut self, now: Time) {
        self.fence_sent = Some(now);
        self.send(&[b"HELLO"], Awaited::Fence, now);
    }

    fn send(&mut self, command: &[&[u8]], awaited: Awaited, now: Time) {
        encode::command(&mut self.out, command);
        self.awaited.push_back((now, awaited));
        self.next += 1;
    }

    fn lost(&self, why: &str) -> Error {
        Error::Lost { node: Arc::clone(&self.l1.node.address), why: why.into() }
    }
}

/// The value of `role` in a reply to `HELLO`.
fn role(reply: &[u8]) -> Option<Vec<u8>> {
    let (OwnedFrame::Map { data, .. }, _) = decode(reply).ok()?? else { return None };
    data.into_iter().find_map(|(key, value)| match (key, value) {
        (OwnedFrame::BlobString { data: key, .. }, OwnedFrame::BlobString { data, .. }) if key == b"role" => Some(data),
        _ => None,
    })
}

/// Cuts what was read into whole frames, and does not keep one that is larger than anything L1 would take.
struct Frames {
    input: Vec<u8>,
    scanned: usize,
    splitter: Splitter,
    largest: usize,
    oversized: Option<u8>,
}

impl Frames {
    fn new(max_value: u64) -> Self {
        let largest = usize::try_from(max_value).unwrap_or(usize::MAX).saturating_add(64 << 10);
        Self { input: Vec::new(), scanned: 0, splitter: Splitter::default(), largest, oversized: None }
    }

    fn drain(&mut self, mut hear: impl FnMut(&[u8], bool) -> Result<(), Error>) -> Result<Result<(), Error>, String> {
        let mut start = 0;
        while self.scanned < self.input.len() {
            match self.splitter.split(&self.input[self.scanned..]) {
                Ok(Split::End(len)) => {
                    self.scanned += len;
                    let heard = match self.oversized.take() {
                        Some(kind) => hear(&[kind], false),
                        None => hear(&self.input[start..self.scanned], true),
                    };
                    if heard.is_err() {
                        return Ok(heard);
                    }
                    start = self.scanned;
                }
                Ok(Split::More) => {
                    self.scanned = self.input.len();
                    if self.oversized.is_some() || self.scanned - start > self.largest {
                        self.oversized.get_or_insert(self.splitter.kind());
                        start = self.scanned;
                    }
                }
                Err(malformed) => return Err(malformed.to_string()),
            }
        }
        self.input.drain(..start);
        self.scanned -= start;
        Ok(Ok(()))
    }
}
