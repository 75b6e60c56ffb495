//! Judges recorded histories: was any read older, or newer, than the contract lets it be?
//!
//! Every connection records what it wrote and what it saw, with times of one clock (the test's own, taken before sending
//! and after receiving). A key's writes have an order that the test knows for certain, because it holds a lock around
//! them or because Redis numbers them (INCR). A read then may have seen any state between the newest that had to be
//! visible and the newest that had begun; if no state in that window looks like what it saw, it is a violation.
//!
//! What had to be visible to a read sent at `t` through proxy P, by the contract's points:
//! - every write that P acknowledged before `t` (own writes), and every earlier write of the same connection;
//! - every write acknowledged by anyone before `t - max_staleness` (bounded staleness);
//! - whatever this connection has seen before (never back in time), in a run without faults;
//! - read from Redis itself: every write acknowledged by anyone before `t`.
//!
//! What it must not have seen: anything not yet begun when its reply came, and anything that a later command of its own
//! connection wrote.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Nanoseconds since the process's first look at the clock.
pub type Time = u64;

/// A place in the order of one key's writes.
pub type Order = u64;

pub fn now() -> Time {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    // One away from zero, so that what stood at the beginning is before everything.
    nanos(START.elapsed()) + 1
}

pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("no test runs for 500 years")
}

/// By which road a command went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    Proxy(u8),
    /// To the server itself.
    Redis,
    /// Nobody's command: the key expired.
    Clock,
}

/// What a key holds, in a form that is cheap to keep by the million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen(u64);

impl Seen {
    pub const ABSENT: Seen = Seen(0);

    pub fn value(bytes: impl AsRef<[u8]>) -> Seen {
        let mut hasher = DefaultHasher::new();
        bytes.as_ref().hash(&mut hasher);
        Seen(hasher.finish() | 1)
    }
}

/// A change of one key.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    pub key: usize,
    pub order: Order,
    pub becomes: Seen,
    pub begun: Time,
    pub acked: Time,
    pub via: Via,
}

/// A look at one key.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub key: usize,
    /// The command, for the report.
    pub by: &'static str,
    pub seen: Seen,
    pub sent: Time,
    pub received: Time,
}

/// One connection's part of the history, in the order of its commands.
pub struct Log {
    via: Via,
    events: Vec<Event>,
}

#[derive(Clone, Copy)]
enum Event {
    Write(Write),
    Read(Read),
}

impl Log {
    pub fn new(via: Via) -> Log {
        Log { via, events: Vec::new() }
    }

    pub fn wrote(&mut self, write: Write) {
        self.events.push(Event::Write(write));
    }

    pub fn read(&mut self, read: Read) {
        self.events.push(Event::Read(read));
    }
}

/// What is held against a history.
#[derive(Clone, Copy)]
pub struct Rules {
    pub max_staleness: Duration,
    /// Whether a connection may not go back in time on a key. Promised where no fault happens.
    pub monotone: bool,
}

/// What the judge found.
#[derive(Default)]
pub struct Verdict {
    pub reads: u64,
    pub writes: u64,
    pub violations: Vec<String>,
    /// The longest that a read was behind an acknowledged write by another road.
    pub stalest: Duration,
}

impl Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { reads, writes, violations, stalest } = self;
        write!(out, "{reads} reads, {writes} writes, {} violations, stalest {stalest:?}", violations.len())?;
        violations.iter().take(20).try_for_each(|violation| write!(out, "\n  {violation}"))
    }
}

/// Judges all connections together. `names` are the keys' names, for the report.
pub fn judge(logs: &[Log], names: &[String], rules: Rules) -> Verdict {
    let mut writes: Vec<Vec<Write>> = vec![Vec::new(); names.len()];
    for event in logs.iter().flat_map(|log| &log.events) {
        if let Event::Write(write) = event {
            writes[write.key].push(*write);
        }
    }
    let mut verdict = Verdict { writes: writes.iter().map(|of_key| of_key.len() as u64).sum(), ..Verdict::default() };
    let keys: Vec<Key> = writes.into_iter().map(Key::new).collect();
    for log in logs {
        judge_connection(log, &keys, names, rules, &mut verdict);
    }
    verdict
}

fn judge_connection(log: &Log, keys: &[Key], names: &[String], rules: Rules, verdict: &mut Verdict) {
    // For each read, the first own write of its key that comes after it.
    let mut ceilings = vec![Order::MAX; log.events.len()];
    let mut next_own: HashMap<usize, Order> = HashMap::new();
    for (place, event) in log.events.iter().enumerate().rev() {
        match event {
            Event::Write(write) if write.via != Via::Clock => drop(next_own.insert(write.key, write.order)),
            Event::Write(_) => {}
            Event::Read(read) => ceilings[place] = next_own.get(&read.key).copied().unwrap_or(Order::MAX),
        }
    }
    let mut own: HashMap<usize, Order> = HashMap::new();
    let mut met: HashMap<usize, (Order, &str)> = HashMap::new();
    for (place, event) in log.events.iter().enumerate() {
        let read = match event {
            Event::Write(write) => {
                if write.via != Via::Clock {
                    own.insert(write.key, write.order);
                }
                continue;
            }
            Event::Read(read) => read,
        };
        verdict.reads += 1;
        let key = &keys[read.key];
        let slack = if log.via == Via::Redis { 0 } else { nanos(rules.max_staleness) };
        let (newest_met, met_by) = met.get(&read.key).copied().filter(|_| rules.monotone).unwrap_or((0, ""));
        let floors = [
            ("misses an earlier write of its own connection", own.get(&read.key).copied().unwrap_or(0)),
            ("misses a write acknowledged by its own proxy", key.acked_by(log.via, read.sent)),
            ("older than max_staleness", key.acked(read.sent.saturating_sub(slack))),
            ("back in time", newest_met),
        ];
        let lowest = floors.iter().map(|(_, floor)| *floor).max().expect("there are four");
        let highest = key.begun(read.received).min(ceilings[place].saturating_sub(1));
        let Some((first, last)) = key.between(read.seen, lowest, highest) else {
            let mut violation = describe(log, read, key, &names[read.key], &floors, highest);
            if newest_met == lowest {
                violation.extend([" seen by ", met_by]);
            }
            verdict.violations.push(violation);
            continue;
        };
        met.insert(read.key, (first, read.by));
        let behind = key.after(last).map_or(0, |newer| read.sent.saturating_sub(newer.acked));
        verdict.stalest = verdict.stalest.max(Duration::from_nanos(behind));
    }
}

fn describe(log: &Log, read: &Read, key: &Key, name: &str, floors: &[(&str, Order)], highest: Order) -> String {
    let orders = key.places.get(&read.seen).map(Vec::as_slice).unwrap_or_default();
    let nearest = orders.iter().rev().find(|order| **order <= highest);
    let why = match nearest {
        None if orders.is_empty() => "a value that nobody wrote".to_owned(),
        None => format!("from the future: state {} when only {highest} had begun or was allowed", orders[0]),
        Some(order) => {
            let broken: Vec<String> = floors
                .iter()
                .filter(|(_, floor)| order < floor)
                .map(|(rule, floor)| format!("{rule} (state {floor} was due)"))
                .collect();
            let age = key.after(*order).map_or(0, |newer| read.sent.saturating_sub(newer.acked));
            format!("saw state {order}, overwritten {:?} before: {}", Duration::from_nanos(age), broken.join(", "))
        }
    };
    let at = Duration::from_nanos(read.sent);
    format!("{} {name} via {:?} at {at:?}: {why}", read.by, log.via)
}

/// All that happened to one key, arranged for questions about times.
struct Key {
    /// By order.
    writes: Vec<Write>,
    places: HashMap<Seen, Vec<Order>>,
    by_begun: Vec<(Time, Order)>,
    by_acked: Vec<(Time, Order)>,
    by_acked_of: HashMap<Via, Vec<(Time, Order)>>,
}

impl Key {
    fn new(mut writes: Vec<Write>) -> Key {
        let (key, via) = (0, Via::Clock);
        writes.push(Write { key, order: 0, becomes: Seen::ABSENT, begun: 0, acked: 0, via });
        writes.sort_by_key(|write| write.order);
        let twice = writes.windows(2).find(|two| two[0].order == two[1].order);
        assert!(twice.is_none(), "two writes in one place: {twice:?}");
        let mut places: HashMap<Seen, Vec<Order>> = HashMap::new();
        let mut of: HashMap<Via, Vec<(Time, Order)>> = HashMap::new();
        for write in &writes {
            places.entry(write.becomes).or_default().push(write.order);
            of.entry(write.via).or_default().push((write.acked, write.order));
        }
        Key {
            by_begun: newest_until(writes.iter().map(|write| (write.begun, write.order)).collect()),
            by_acked: newest_until(writes.iter().map(|write| (write.acked, write.order)).collect()),
            by_acked_of: of.into_iter().map(|(via, times)| (via, newest_until(times))).collect(),
            writes,
            places,
        }
    }

    /// The newest state whose write had begun at `time`.
    fn begun(&self, time: Time) -> Order {
        look_up(&self.by_begun, time.saturating_add(1))
    }

    /// The newest state whose write was acknowledged before `time`.
    fn acked(&self, time: Time) -> Order {
        look_up(&self.by_acked, time)
    }

    fn acked_by(&self, via: Via, time: Time) -> Order {
        self.by_acked_of.get(&via).map_or(0, |times| look_up(times, time))
    }

    /// The first and the last state in the window that look like `seen`.
    fn between(&self, seen: Seen, lowest: Order, highest: Order) -> Option<(Order, Order)> {
        let orders = self.places.get(&seen)?;
        let from = orders.partition_point(|order| *order < lowest);
        let to = orders.partition_point(|order| *order <= highest);
        (from < to).then(|| (orders[from], orders[to - 1]))
    }

    fn after(&self, order: Order) -> Option<&Write> {
        self.writes.get(self.writes.partition_point(|write| write.order <= order))
    }
}

/// Sorts by time, and gives each time the newest order that any time up to it has.
fn newest_until(mut times: Vec<(Time, Order)>) -> Vec<(Time, Order)> {
    times.sort_unstable();
    let mut newest = 0;
    for (_, order) in &mut times {
        newest = newest.max(*order);
        *order = newest;
    }
    times
}

fn look_up(times: &[(Time, Order)], before: Time) -> Order {
    let at = times.partition_point(|(time, _)| *time < before);
    if at == 0 { 0 } else { times[at - 1].1 }
}
