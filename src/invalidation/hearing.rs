//! One connection of the ear: what was asked on it and not answered yet, and what is made of each frame that comes.
//!
//! Strictly in order and on one task, which is all that coherence rests on: a push that is heard before a reply happened
//! before it. Fills are asked for and taken in by `fill`, which shares this state.
//!
//! A long file: what is sent, what is awaited and what each reply means are one protocol.

use std::collections::{HashSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use super::channel::{self, Forget, Heard};
use super::ear::{Ear, End, Fence, Inbox};
use super::fill::{Asked, Fill};
use super::frames::{Frames, fields};
use super::message::{Envelope, MAX_PAYLOAD};
use super::push::{self, Push};
use super::rights::Standing;
use super::survey::Survey;
use super::touch::Touches;
use super::untold::{self, Untold};
use super::{L1, Means};
use crate::clock::Time;
use crate::error::{Error, is_passing};
use crate::metrics::{EpochReason, Refusal};
use crate::resp::encode;
use crate::upstream::{ANOTHER, Backoff, Connection, Login, STALL};

/// Fills that may be under way at once.
const WINDOW: usize = 512;
/// And bytes that they may bring where the ear has subscribed: Redis keeps no more than 32 MiB for a subscriber, by its default.
const SUBSCRIBER: u64 = 16 << 20;
/// After taking fills up the ear takes no more for so long: they are in no hurry, and one by one each would cost a worker a
/// wake-up of this thread, and Redis a read and a write.
const REST: Duration = Duration::from_millis(1);
/// The same after taking up fewer than [`FEW`] where L1 is full: what comes in displaces about as much, and loses little by
/// coming later.
const LONG_REST: Duration = Duration::from_millis(4);
const FEW: usize = 32;
/// With nothing in L1 the ear is asked this seldom whether it still hears.
const IDLE: Duration = Duration::from_secs(5);

/// One connection of the ear.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
pub(super) struct Hearing<'a> {
    pub(super) ear: &'a Ear,
    pub(super) l1: &'a Arc<L1>,
    user: Vec<u8>,
    pub(super) out: Vec<u8>,
    /// The database selected last, unless that was refused.
    pub(super) db: Option<u32>,
    /// What is answered now was asked behind a `SELECT` that was refused, and so of another database.
    astray: bool,
    /// What was sent and not answered, oldest first, and when.
    pub(super) awaited: VecDeque<(Time, Awaited)>,
    pub(super) fence_sent: Option<Time>,
    fences: Vec<Fence>,
    pub(super) filling: HashSet<u64, ahash::RandomState>,
    pub(super) rights: Question,
    heard: Time,
    pub(super) not_master: bool,
    /// A lease was in force when it was last looked at.
    leased: bool,
    /// What the server can do. Nothing is filled before it is known.
    pub(super) survey: Option<Survey>,
    pub(super) touches: Touches,
    pub(super) untold: Untold,
    /// Bytes that the fills under way are likely to bring, and how many these may be.
    pub(super) under_way: u64,
    most: u64,
    /// Whether it is certain that changes will be told of.
    told: bool,
    /// Of the server that it listens to.
    generation: u64,
    /// Whether the last fence was answered in a turn of Redis's event loop of its own; only broadcast mode asks.
    in_turn: bool,
}

/// How it stands with asking after the user's rights.
pub(super) struct Question {
    asked: Time,
    awaited: bool,
    /// A fill was sent that a comparison is to follow.
    pub(super) due: bool,
}

/// What a reply is the answer to.
pub(super) enum Awaited {
    ToBeTold,
    Ignored,
    Select,
    Rights,
    /// PING ahead of a fence, in broadcast mode.
    Turn,
    Fence,
    Survey,
    Memory,
    Touched,
    Untold(untold::Question),
    /// Of a fill, in the order in which its commands were sent: the TTL, those of fields, the value.
    Ttl(Box<Asked>),
    FieldTtls(Box<Asked>),
    Value(Box<Asked>),
}

impl<'a> Hearing<'a> {
    pub(super) fn new(ear: &'a Ear, l1: &'a Arc<L1>, login: Option<&Login>) -> Self {
        let now = Time::now();
        Self {
            ear,
            l1,
            user: login.map_or_else(|| b"default".to_vec(), |login| login.user.to_vec()),
            out: Vec::new(),
            db: Some(0),
            astray: false,
            awaited: VecDeque::new(),
            fence_sent: None,
            fences: Vec::new(),
            filling: HashSet::default(),
            rights: Question { asked: now, awaited: false, due: false },
            heard: now,
            not_master: false,
            leased: false,
            survey: None,
            touches: Touches::new(now),
            untold: Untold::default(),
            under_way: 0,
            most: match &l1.terms.means {
                Means::Channel(_) => SUBSCRIBER,
                Means::Tracking | Means::Broadcast(_) => u64::MAX,
            },
            told: false,
            generation: 0,
            in_turn: true,
        }
    }

    pub(super) async fn run(&mut self, connection: Connection, inbox: &mut Inbox, backoff: &mut Backoff) -> End {
        let Connection { socket, permit: _permit, generation, .. } = connection;
        self.generation = generation;
        let (mut read, mut write) = tokio::io::split(socket);
        let mut frames = Frames::new(match &self.l1.terms.means {
            Means::Channel(_) => self.l1.terms.max_value.max(MAX_PAYLOAD as u64),
            Means::Tracking | Means::Broadcast(_) => self.l1.terms.max_value,
        });
        let (mut rest, mut resting) = (pin!(sleep(REST)), false);
        let mut tick = interval(self.l1.terms.max_staleness.min(self.l1.terms.acl_recheck) / 4);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.ear.freshness.bump();
        self.ear.rights.start();
        let now = Time::now();
        self.ask_to_be_told(now);
        self.send(&[b"CLIENT", b"NO-EVICT", b"ON"], Awaited::Ignored, now);
        self.ask_rights(now);
        self.send(&Survey::question(), Awaited::Survey, now);
        self.send_fence(now);
        loop {
            tokio::select! {
                read = read.read_buf(&mut frames.input) => match read {
                    Ok(0) => return self.lost("closed by the upstream"),
                    Ok(_) => {
                        self.heard = Time::now();
                        if self.is_stale() {
                            return self.lost(ANOTHER);
                        }
                        self.l1.node.heard(self.heard);
                        let heard = frames.drain(|frame, whole| self.hear(frame, whole));
                        if let Err(error) = heard.unwrap_or_else(|malformed| Err(self.lost(&malformed))) {
                            return error;
                        }
                        if self.told {
                            backoff.reset();
                        }
                    }
                    Err(error) => return self.lost(&error.to_string()),
                },
                written = write.write(&self.out), if !self.out.is_empty() => match written {
                    Ok(n) => drop(self.out.drain(..n)),
                    Err(error) => return self.lost(&error.to_string()),
                },
                Some(fence) = inbox.fences.recv() => self.fence(fence),
                Some(fill) = inbox.fills.recv(), if !resting && self.takes_fills() => {
                    let pause = self.take_up(fill, &mut inbox.fills);
                    resting = true;
                    rest.as_mut().reset(Instant::now() + pause);
                }
                () = &mut rest, if resting => resting = false,
                _ = tick.tick() => if let Err(error) = self.tick() {
                    return error;
                },
            }
        }
    }

    /// Asks for what has gathered, and tells how long to rest.
    fn take_up(&mut self, first: Fill, inbox: &mut mpsc::Receiver<Fill>) -> Duration {
        let mut taken = 1;
        self.ask(first);
        while self.takes_fills()
            && let Ok(fill) = inbox.try_recv()
        {
            taken += 1;
            self.ask(fill);
        }
        self.follow_fills();
        if taken < FEW && self.l1.store.is_full() { LONG_REST } else { REST }
    }

    fn takes_fills(&self) -> bool {
        self.survey.is_some() && self.filling.len() < WINDOW && self.under_way < self.most
    }

    /// One whole frame, in the order in which Redis sent it. `whole` is false where it was too large to be kept.
    fn hear(&mut self, frame: &[u8], whole: bool) -> Result<(), End> {
        if frame.first() == Some(&b'>') {
            let push = if whole { push::read(frame) } else { Push::Unreadable };
            if push != Push::Subscribed {
                self.pushed(push);
                return Ok(());
            }
        }
        let Some((sent, awaited)) = self.awaited.pop_front() else {
            return Err(self.lost("a reply that nothing asked for: desynchronised"));
        };
        let refused = frame.first() == Some(&b'-');
        let is_turn = matches!(awaited, Awaited::Turn);
        match awaited {
            Awaited::Ignored => {}
            Awaited::Select => {
                self.astray = refused;
                self.db = self.db.filter(|_| !refused);
            }
            Awaited::ToBeTold if refused => {
                let subscribes = matches!(self.l1.terms.means, Means::Channel(_));
                return Err(self.refused(if subscribes { Refusal::Subscribe } else { Refusal::Tracking }, frame));
            }
            Awaited::ToBeTold => {
                self.told = true;
                info!(user = %String::from_utf8_lossy(&self.user), "the ear hears every change");
            }
            Awaited::Rights => {
                self.rights.awaited = false;
                self.ear.told_rights(self.l1, frame, sent);
                self.follow_fills();
                self.rights.due |= is_passing(frame); // what went ahead of the question is followed by the next
            }
            Awaited::Fence if is_forbidden(frame) => return Err(self.refused(Refusal::Hello, frame)),
            Awaited::Fence => self.hear_fence(frame, sent),
            Awaited::Turn => self.in_turn = !refused,
            Awaited::Survey => self.hear_survey(frame),
            Awaited::Memory => self.hear_memory(frame, refused),
            Awaited::Touched => self.hear_touched(frame),
            Awaited::Untold(question) => self.hear_untold(question, frame, sent),
            Awaited::Ttl(_) if is_forbidden(frame) => return Err(self.refused(Refusal::Pttl, frame)),
            // The next reply is of the same fill: its commands left in one write.
            Awaited::Ttl(mut asked) => {
                asked.hear_ttl(frame, sent);
                let fields = asked.of_fields() && self.has_field_ttls();
                let next = if fields { Awaited::FieldTtls(asked) } else { Awaited::Value(asked) };
                self.awaited.push_front((sent, next));
            }
            Awaited::FieldTtls(mut asked) => {
                asked.hear_ttl(frame, sent);
                self.awaited.push_front((sent, Awaited::Value(asked)));
            }
            Awaited::Value(asked) => {
                let usable = whole && !refused && !self.astray;
                self.filled(*asked, sent, usable.then_some(frame));
                self.follow_fills(); // it may have been asked for again
            }
        }
        // In broadcast mode most replies show nothing of what was to be told before.
        if !self.asks_for_turns() || is_turn && self.in_turn {
            self.ear.freshness.heard(sent);
            for at in (0..self.fences.len()).rev() {
                if self.fences[at].0 <= sent {
                    let (_, told) = self.fences.swap_remove(at);
                    let _ = told.send(()); // who asked may have left
                }
            }
        }
        if self.in_turn && !self.fences.is_empty() && self.fence_sent.is_none() {
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
            Push::Message(payload) => self.heed(payload),
            Push::Subscribed | Push::Other => {}
        }
    }

    /// A message of the fleet's channel, where that carries coherence. What this process said itself is heeded like all
    /// else, as Redis would tell of an own write: it is what remains of a write whose connection was lost. And what cannot be
    /// read may have been about anything.
    fn heed(&self, payload: &[u8]) {
        let heard = match Envelope::parse(payload) {
            Ok(Envelope { origin_id, message }) => {
                let own = self.l1.notices().is_some_and(|notices| origin_id.as_deref() == Some(notices.origin_id()));
                let heard = channel::obey(message, self);
                if own { Heard::OwnEcho } else { heard }
            }
            Err(malformed) => {
                self.all();
                Heard::nothing(&malformed)
            }
        };
        self.l1.stats.heard(heard.into());
    }

    /// A fence is back: everything acknowledged before `sent` has been heard. Only a master that says so renews.
    fn hear_fence(&mut self, reply: &[u8], sent: Time) {
        self.look_at_lease(Time::now());
        self.fence_sent = None;
        self.ear.fence_is_over(sent, self.heard);
        self.ear.nudged.store(false, Ordering::Release);
        self.l1.stats.fences.add(1);
        // MISCONF is what a master says whose disk is full: it lives, and hears.
        let master = reply.starts_with(b"-MISCONF")
            || fields(reply).is_some_and(|told| told.get(&b"role"[..]).is_some_and(|role| role == b"master"));
        if !master {
            if !self.not_master {
                warn!("the upstream is not a master: a replica tells of no change, so L1 answers nothing");
            }
            self.ear.freshness.end();
            self.ear.freshness.bump();
            self.l1.node.generation.doubt();
        } else if self.in_turn && !self.l1.is_paused(Time::now()) {
            let until = self.untold.bound(sent).plus(self.l1.terms.max_staleness);
            // No longer than the user's rights are known to be what they were.
            self.ear.freshness.renew(match self.ear.rights.standing() {
                Standing::KnownAt(asked) => until.min(asked.plus(self.l1.terms.acl_recheck)),
                Standing::Unknown => until,
            });
            // Whoever turns changes the number first and ends leases second.
            if self.l1.is_swapping() || self.is_stale() || self.l1.node.generation.is_several() {
                self.ear.freshness.end();
            }
        }
        self.not_master = !master;
        self.look_at_lease(Time::now());
    }

    /// Counts a lease that is over. Where L1 is empty nobody renews it, and nobody misses it.
    pub(super) fn look_at_lease(&mut self, now: Time) {
        let held = self.ear.freshness.held(now);
        if self.leased && !held && !self.l1.store.is_empty() {
            self.l1.stats.leases_lapsed.add(1);
        }
        self.leased = held;
    }

    fn hear_survey(&mut self, reply: &[u8]) {
        let survey = Survey::read(reply);
        self.ear.set_field_ttls(survey.field_ttls);
        self.survey = Some(survey);
    }

    fn fence(&mut self, fence: Fence) {
        self.fences.push(fence); // one that is under way may do: it is seen when that is back
        if self.fence_sent.is_none() {
            self.send_fence(Time::now());
        }
    }

    fn tick(&mut self) -> Result<(), End> {
        let now = Time::now();
        self.look_at_lease(now);
        if self.is_stale() {
            return Err(self.lost(ANOTHER));
        }
        if let Some(sent) = self.fence_sent {
            let silence = (self.l1.terms.max_staleness * 4).max(Duration::from_secs(2));
            // Who is silent everywhere may have been told to pause: it is not deaf here.
            let speaks = self.l1.node.last_heard().saturating_since(sent) > STALL;
            let silence = if speaks { silence } else { silence.max(self.l1.node.handshake_timeout) };
            if now.saturating_since(sent) > silence {
                return Err(End::Lost(Error::Timeout { node: Arc::clone(&self.l1.node.address), after: silence }));
            }
        } else if !self.l1.store.is_empty() || now.saturating_since(self.heard) > IDLE {
            self.send_fence(now);
        }
        if now.saturating_since(self.rights.asked) >= self.l1.terms.acl_recheck / 2 {
            self.ask_rights(now);
        }
        self.touch(now);
        Ok(())
    }

    /// What is sent from here on is about this database.
    pub(super) fn select(&mut self, db: u32, now: Time) {
        if self.db != Some(db) {
            self.db = Some(db);
            self.send(&[b"SELECT", db.to_string().as_bytes()], Awaited::Select, now);
        }
    }

    /// Has rights compared behind the fills that were asked for: one question at a time follows however many.
    fn follow_fills(&mut self) {
        if self.rights.due && !self.rights.awaited {
            self.ask_rights(Time::now());
        }
    }

    fn ask_rights(&mut self, now: Time) {
        if !self.ear.rights.asks_itself() {
            return;
        }
        self.rights = Question { asked: now, awaited: true, due: false };
        let user = std::mem::take(&mut self.user);
        self.send(&[b"ACL", b"GETUSER", &user], Awaited::Rights, now);
        self.user = user;
    }

    /// Has Redis tell of changes to what is read here, in broadcast mode to all keys with certain prefixes; or has itself told by
    /// those who write, on this same connection, which in RESP3 can read besides.
    fn ask_to_be_told(&mut self, now: Time) {
        let l1 = Arc::clone(self.l1);
        let tracking: [&[u8]; 3] = [b"CLIENT", b"TRACKING", b"ON"];
        let command: Vec<&[u8]> = match &l1.terms.means {
            Means::Tracking => tracking.to_vec(),
            Means::Broadcast(prefixes) => {
                let prefixes = prefixes.iter().flat_map(|prefix| [&b"PREFIX"[..], prefix]);
                tracking.into_iter().chain([&b"BCAST"[..]]).chain(prefixes).collect()
            }
            Means::Channel(notices) => vec![b"SUBSCRIBE", notices.channel().as_bytes()],
        };
        self.send(&command, Awaited::ToBeTold, now);
    }

    fn asks_for_turns(&self) -> bool {
        matches!(self.l1.terms.means, Means::Broadcast(_))
    }

    /// In broadcast mode Redis tells of changes at the end of each turn of its event loop. While a slow script runs, it
    /// answers HELLO within one, before what it has yet to tell; PING it answers then with -BUSY, and so PING is the fence.
    pub(super) fn send_fence(&mut self, now: Time) {
        self.fence_sent = Some(now);
        self.ear.fence_is_sent(now);
        self.ask_untold(now);
        if self.asks_for_turns() {
            self.send(&[b"PING"], Awaited::Turn, now);
        }
        self.send(&[b"HELLO"], Awaited::Fence, now);
    }

    pub(super) fn send(&mut self, command: &[&[u8]], awaited: Awaited, now: Time) {
        encode::own_command(&mut self.out, command);
        self.awaited.push_back((now, awaited));
    }

    /// The user whose ear it is.
    pub(super) fn user(&self) -> &[u8] {
        &self.user
    }

    /// Whether another server has taken the place of the one that is listened to.
    fn is_stale(&self) -> bool {
        self.generation != self.l1.node.generation.number()
    }

    fn lost(&self, why: &str) -> End {
        End::Lost(Error::Lost { node: Arc::clone(&self.l1.node.address), why: why.into() })
    }

    fn refused(&self, refusal: Refusal, reply: &[u8]) -> End {
        let error = Error::Refused { node: Arc::clone(&self.l1.node.address), reply: reply.into() };
        if error.is_passing() { End::Lost(error) } else { End::Refused(refusal, error) }
    }
}

/// What the fleet's channel names is forgotten for this ear's user; the other ears hear it themselves.
impl Forget for Hearing<'_> {
    fn key(&self, key: &[u8]) {
        self.l1.key(key);
        self.l1.stats.invalidations.add(1);
    }

    fn pattern(&self, _: &[u8]) {
        self.all();
    }

    fn all(&self) {
        self.ear.freshness.bump();
        self.l1.stats.epoch(EpochReason::Pattern);
    }
}

/// Whether a command itself was refused, not one of its keys: the user may not run it, or the server has it no more.
fn is_forbidden(reply: &[u8]) -> bool {
    let says = |words: &[u8]| reply.windows(words.len()).any(|at| at == words);
    reply.starts_with(b"-NOPERM") && says(b" run the ") || reply.starts_with(b"-ERR unknown command")
}
