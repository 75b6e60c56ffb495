//! The process under test: memory that workers and the ear share, with the types of the program; and what a worker knows of its
//! lanes and sessions.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use smallvec::{SmallVec, smallvec};

use crema::cache::{
    ArrivalMoment, Arrivals, FlightRef, Flights, Freshness, Identities, Identity, Query, Sampler, Slot, Stamps, Store,
};
use crema::clock::{LiveSpan, Time};
use crema::command::lookup;
use crema::error::{Error, Sent};
use crema::invalidation::ear::{FenceTimes, Rights, Surroundings};
use crema::invalidation::{CoherenceMode, Fill, L1Terms, ModeSwitch, OpaqueWrites, Silence};
use crema::metrics::Stats;
use crema::proxy::{ReadHistory, ReplyPlace};
use crema::resp::{Request, Span, encode};
use crema::upstream::{ConnectionTimes, Generation, Pipeline, ReplyEnd, Vouched, Waiter};

use super::judge::Place;
use super::{BASE, DATABASES, KEYS, RECHECK, STALENESS, USERS};

/// A user, and the database.
pub(crate) type Who = (usize, usize);

/// The process's clock.
pub(crate) fn time(now: u64) -> Time {
    Time::from_nanos(BASE + now)
}

pub(crate) struct Memory {
    pub(crate) terms: L1Terms,
    pub(crate) stamps: Stamps,
    pub(crate) store: Store,
    pub(crate) arrivals: Arrivals,
    pub(crate) opaque_writes: OpaqueWrites,
    pub(crate) silence: Silence,
    switch: ModeSwitch,
    pub(crate) generation: Generation,
    pub(crate) vouched: Vouched,
    pub(crate) stats: Stats,
    pub(crate) users: [User; USERS],
    gets: Vec<Get>,
}

/// What memory has of one user.
pub(crate) struct User {
    pub(crate) freshness: Freshness,
    fence_times: FenceTimes,
    rights: Rights,
    identities: [Identity; DATABASES],
    /// The ear was asked to fill.
    pub(crate) has_filled: Cell<bool>,
}

impl User {
    fn new(name: &str, known: &Identities) -> Self {
        Self {
            freshness: Freshness::new(),
            fence_times: FenceTimes::default(),
            rights: Rights::default(),
            identities: std::array::from_fn(|db| known.intern(name, db as u32)),
            has_filled: Cell::new(false),
        }
    }

    /// What the ear knows of, as `Ear::heard_up_to` has it.
    pub(crate) fn heard_up_to(&self) -> Time {
        if self.has_filled.get() { self.freshness.heard_up_to() } else { Time::NEVER }
    }
}

impl Memory {
    pub(crate) fn new() -> Self {
        let known = Identities::default();
        let terms = L1Terms {
            max_staleness: Arc::new(LiveSpan::new(Duration::from_nanos(STALENESS))),
            acl_recheck: Duration::from_nanos(RECHECK),
            max_value: 1000.into(),
            l1_size: 1 << 20,
            mode: CoherenceMode::tracking(),
            is_cluster: false,
            max_ears: USERS,
            beyond: None,
        };
        let stamps = stamps();
        Self {
            terms,
            gets: NAMES.iter().map(|name| Get::new(name, &stamps)).collect(),
            stamps,
            store: Store::new(1 << 20),
            arrivals: Arrivals::default(),
            opaque_writes: OpaqueWrites::default(),
            silence: Silence::default().awaiting_channel(),
            switch: ModeSwitch::new(true),
            generation: Generation::default(),
            vouched: Vouched::always(),
            stats: Stats::default(),
            users: std::array::from_fn(|user| User::new(USER_NAMES[user], &known)),
        }
    }

    /// What the ear of that user shares with others.
    pub(crate) fn around(&self, user: usize) -> Surroundings<'_> {
        let User { freshness, fence_times, rights, .. } = &self.users[user];
        Surroundings {
            terms: &self.terms,
            stamps: &self.stamps,
            store: &self.store,
            arrivals: &self.arrivals,
            opaque_writes: &self.opaque_writes,
            silence: &self.silence,
            switch: &self.switch,
            generation: &self.generation,
            vouched: &self.vouched,
            stats: &self.stats,
            freshness,
            fence_times,
            rights,
            patience: Duration::from_secs(2),
        }
    }

    /// An opaque write was answered, as `L1::opaque_answered`, or what is like one, as `L1::any_key_changed`.
    pub(crate) fn opaque_answered(&self, told: Option<Time>) {
        self.opaque_writes.count();
        self.store.watermarks().all_may_have_changed(told);
    }

    pub(crate) fn slot(&self, key: usize) -> Slot {
        self.gets[key].slot
    }

    /// Describes that user's read of a key.
    pub(crate) fn query(&self, user: usize, (db, key): Place) -> Query<'_> {
        let Get { raw, tail, command, .. } = &self.gets[key];
        Query::new(&self.stamps, self.users[user].identities[db], *command, NAMES[key].as_bytes(), &raw[*tail..], &[])
    }

    /// The same read on the ear, which has just brought so many bytes.
    pub(crate) fn fill(&self, user: usize, key: Place, size: usize) -> Fill {
        let mut spans: Vec<Span> = Vec::new();
        let request = Request::parse_canonical(&self.gets[key.1].raw, &mut spans).expect("just written");
        Fill::new(request, &self.query(user, key), key.0 as u32, None, 100).expecting(size as u64)
    }
}

/// The read of one key.
struct Get {
    raw: Vec<u8>,
    /// Where its arguments begin.
    tail: usize,
    command: u16,
    slot: Slot,
}

impl Get {
    fn new(name: &str, stamps: &Stamps) -> Self {
        let raw = request(&["GET", name]);
        let mut spans: Vec<Span> = Vec::new();
        let request = Request::parse_canonical(&raw, &mut spans).expect("just written");
        let (tail, command) = (raw.len() - request.tail(1).len(), lookup(request).expect("GET has a row").id);
        Self { raw, tail, command, slot: stamps.slot(stamps.hash(name.as_bytes())) }
    }
}

/// Hashed so that no two keys share a place, which would depend on more than the seed.
fn stamps() -> Stamps {
    loop {
        let stamps = Stamps::for_l1(0);
        let mut places: Vec<_> =
            NAMES.iter().map(|name| stamps.slot(stamps.hash(name.as_bytes())).number() % 4096).collect();
        places.sort_unstable();
        places.dedup();
        if places.len() == KEYS {
            return stamps;
        }
    }
}

/// A command's place among the replies of its session.
pub(crate) fn place(number: u64) -> ReplyPlace {
    ReplyPlace::default().plus(number as usize)
}

/// What the users are called.
pub(crate) const USER_NAMES: [&str; USERS] = ["u0", "u1"];
/// What the keys are called.
pub(crate) const NAMES: [&str; KEYS] = ["k0", "k1", "k2"];

pub(crate) fn request(words: &[&str]) -> Vec<u8> {
    let words: SmallVec<[&[u8]; 5]> = words.iter().map(|word| word.as_bytes()).collect();
    let mut raw = Vec::with_capacity(64);
    encode::command(&mut raw, &words);
    raw
}

/// What a session asks.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Get(usize),
    GetBoth(usize, usize),
    Set(usize, Option<u64>),
    Del(usize),
    /// A script that changes a key that it does not name.
    Script(usize),
    FlushAll,
    SwapDb,
}

impl Ask {
    pub(crate) fn keys_read(&self) -> SmallVec<[usize; 2]> {
        match *self {
            Self::Get(key) => smallvec![key],
            Self::GetBoth(one, other) => smallvec![one, other],
            _ => SmallVec::new(),
        }
    }

    pub(crate) fn is_opaque(&self) -> bool {
        matches!(self, Self::Script(_) | Self::FlushAll | Self::SwapDb)
    }

    pub(crate) fn is_write(&self) -> bool {
        self.is_opaque() || matches!(self, Self::Set(..) | Self::Del(_))
    }

    pub(crate) fn key_written(&self) -> Option<usize> {
        match *self {
            Self::Set(key, _) | Self::Del(key) => Some(key),
            _ => None,
        }
    }
}

/// A command of a session, from its arrival to its answer.
pub(crate) struct Command {
    pub(crate) number: u64,
    pub(crate) ask: Ask,
    pub(crate) arrived: u64,
    /// The least states that its keys must show.
    pub(crate) floors: SmallVec<[usize; 2]>,
    pub(crate) answer: Option<Vec<u8>>,
    pub(crate) from_memory: bool,
    /// The answer is here and waits for so many fences.
    pub(crate) held: usize,
    /// On which link it went, as how manieth.
    pub(crate) sent: Option<(usize, u64)>,
    pub(crate) was_sent_again: bool,
}

/// What was answered and is judged to the end once it is known what came later.
pub(crate) struct Answered {
    pub(crate) reads: Vec<(Place, Vec<usize>)>,
    pub(crate) wrote: Option<(usize, u64)>,
}

pub(crate) struct Session {
    pub(crate) worker: usize,
    pub(crate) user: usize,
    pub(crate) db: usize,
    pub(crate) commands: VecDeque<Command>,
    pub(crate) next: u64,
    pub(crate) reads: ReadHistory,
    pub(crate) last_write: Option<u64>,
    /// The last answer that it had, and the one before it came to its lane.
    pub(crate) last_answer: u64,
    pub(crate) came: u64,
    /// The link that its last command went on.
    pub(crate) lane: Option<usize>,
    /// It waits for a fence before its last command is asked once more.
    pub(crate) waits: bool,
    /// Its next step is due.
    pub(crate) is_due: bool,
    pub(crate) depth: usize,
    /// The state of each key that it may not go back behind.
    pub(crate) seen: Vec<usize>,
    pub(crate) answered: Vec<Answered>,
}

impl Session {
    pub(crate) fn new(worker: usize, (user, db): Who, depth: usize) -> Self {
        Self {
            worker,
            user,
            db,
            commands: VecDeque::new(),
            next: 0,
            reads: ReadHistory::default(),
            last_write: None,
            last_answer: 0,
            came: 0,
            lane: None,
            waits: false,
            is_due: false,
            depth,
            seen: vec![0; KEYS],
            answered: Vec::new(),
        }
    }

    pub(crate) fn who(&self) -> Who {
        (self.user, self.db)
    }

    pub(crate) fn head(&self) -> u64 {
        self.commands.front().map_or(self.next, |command| command.number)
    }

    pub(crate) fn behind_write(&self) -> bool {
        self.last_write.is_some_and(|write| write >= self.head())
    }

    pub(crate) fn command(&mut self, number: u64) -> Option<&mut Command> {
        self.commands.iter_mut().find(|command| command.number == number)
    }
}

/// For whom a reply is: which life of which session, and which of its commands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipient {
    pub(crate) session: usize,
    pub(crate) life: u64,
    pub(crate) number: u64,
}

/// What a write has changed before it was sent, and when, as `WriteGuard` has it.
#[derive(Default)]
pub(crate) struct Marks {
    pub(crate) slots: Vec<Slot>,
    pub(crate) begun: Option<ArrivalMoment>,
}

/// A command on a lane that is not answered.
pub(crate) struct Pending {
    pub(crate) to: Recipient,
    pub(crate) ask: Ask,
    pub(crate) flight: Option<FlightRef>,
    pub(crate) joined: Vec<Recipient>,
    pub(crate) begun: bool,
    pub(crate) marks: Marks,
    pub(crate) reply: Vec<u8>,
}

/// What the pipeline tells those who wait, each by its number.
pub(crate) enum LaneEvent {
    Piece(u64, Vec<u8>),
    Over(u64),
    Lost(u64),
}

/// What awaits a reply in the pipeline: it notes what it is told, and the lane acts on that at once.
pub(crate) struct Ticket {
    number: u64,
    events: Rc<RefCell<VecDeque<LaneEvent>>>,
}

impl Ticket {
    fn note(&self, event: LaneEvent) {
        self.events.borrow_mut().push_back(event);
    }
}

impl Waiter for Ticket {
    fn piece(&mut self, _: u8, bytes: &[u8], _: Option<Time>) {
        self.note(LaneEvent::Piece(self.number, bytes.to_vec()));
    }

    fn over<'a>(self, _: ReplyEnd, _: impl FnOnce() -> ConnectionTimes, _: impl Fn() -> &'a [u8]) {
        self.note(LaneEvent::Over(self.number));
    }

    fn awaits_more(&self) -> bool {
        false
    }

    fn poll_room(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn confirms(&self) -> bool {
        false
    }

    fn confirm(&mut self, _: &[u8]) -> bool {
        false
    }

    fn is_own(&self) -> bool {
        false
    }

    fn is_patient(&self) -> bool {
        false
    }

    fn writes(&self) -> bool {
        false
    }

    fn lost(self, _: &Error, _: Sent, _: &[u8]) -> Option<Self> {
        self.note(LaneEvent::Lost(self.number));
        None
    }
}

pub(crate) struct Lane {
    pub(crate) link: usize,
    pub(crate) pipeline: Pipeline<Ticket>,
    pub(crate) events: Rc<RefCell<VecDeque<LaneEvent>>>,
    /// By their numbers, from 0 on: as manieth each went.
    pub(crate) pending: BTreeMap<u64, Pending>,
    pub(crate) sent: u64,
    pub(crate) flights: Flights<Recipient>,
}

impl Lane {
    pub(crate) fn new(link: usize, now: u64) -> Self {
        let mut pipeline = Pipeline::new("a model".into(), false, time(now));
        pipeline.open(time(now));
        Self { link, pipeline, events: Rc::default(), pending: BTreeMap::new(), sent: 0, flights: Flights::new() }
    }

    /// Sends; the bytes that are to be written.
    pub(crate) fn send(&mut self, command: &[u8], pending: Pending, now: u64) -> Vec<u8> {
        let ticket = Ticket { number: self.sent, events: Rc::clone(&self.events) };
        self.pending.insert(self.sent, pending);
        self.sent += 1;
        assert!(self.pipeline.send(command, ticket, time(now)).is_ok(), "it is open");
        let bytes = self.pipeline.to_write().to_vec();
        self.pipeline.wrote(bytes.len());
        self.pipeline.written();
        bytes
    }

    /// The next thing that the pipeline has told.
    pub(crate) fn event(&self) -> Option<LaneEvent> {
        self.events.borrow_mut().pop_front()
    }
}

pub(crate) struct Worker {
    lanes: [[Option<Box<Lane>>; DATABASES]; USERS],
    pub(crate) sampler: Sampler,
}

impl Worker {
    pub(crate) fn new() -> Self {
        Self { lanes: Default::default(), sampler: Sampler::new() }
    }

    pub(crate) fn lane(&mut self, (user, db): Who) -> &mut Option<Box<Lane>> {
        &mut self.lanes[user][db]
    }
}
