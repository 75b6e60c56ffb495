//! Coherence: two proxies on one Redis, writers through each and past both, and a judge over the recorded history.
//!
//! The keys are few and every way to write is used, so that fills, pushes, flights and writes meet as often as they can.
//! What the judge holds against a history, and why that is sound, stands in [`common::judge`]; that the judge can find
//! a fault at all is shown in `judge.rs`.
//!
//! All in one file, because what the writers do and what the judge is told of it must be read together.
//! `CREMA_COHERENCE_SECONDS` sets how long the main run takes (10 when unset).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use common::judge::{Log, Order, Read, Rules, Seen, Via, Write, judge, nanos, now};
use common::{Client, Crema, Link, MAX_STALENESS, Redis, Value, bulk, number_from_env, pack, seeded};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

/// Keys whose writers hold a lock, so that their order is known.
const STRINGS: usize = 10;
/// Keys that are only ever written together.
const PAIR: [usize; 2] = [10, 11];
/// Streams, locked like the strings.
const STREAMS: [usize; 2] = [12, 13];
/// Keys that everybody increments at once; Redis numbers their states.
const COUNTERS: [usize; 3] = [14, 15, 16];
const KEYS: usize = 17;
/// A list of strings' numbers, by which `SORT` reads them.
const SORTED: &str = "sorted";

/// The first state of the counters after the n-th flush is n times this.
const ROUND: u64 = 1_000_000_000;

fn names() -> Vec<String> {
    (0..KEYS)
        .map(|key| match key {
            key if key < STRINGS => format!("string:{key}"),
            key if PAIR.contains(&key) => format!("pair:{key}"),
            key if STREAMS.contains(&key) => format!("stream:{key}"),
            key => format!("counter:{key}"),
        })
        .collect()
}

/// Every way to write that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Set,
    SetEx,
    SetGet,
    GetSet,
    Expiring,
    Del,
    Unlink,
    GetDel,
    MSet,
    Rename,
    Copy,
    Restore,
    Transaction,
    EvalDeclared,
    EvalUndeclared,
    PairMSet,
    PairTransaction,
    PairEval,
    XAdd,
    XDel,
    Incr,
    IncrBy,
    FlushAll,
}

const WAYS: [Way; 23] = [
    Way::Set,
    Way::SetEx,
    Way::SetGet,
    Way::GetSet,
    Way::Expiring,
    Way::Del,
    Way::Unlink,
    Way::GetDel,
    Way::MSet,
    Way::Rename,
    Way::Copy,
    Way::Restore,
    Way::Transaction,
    Way::EvalDeclared,
    Way::EvalUndeclared,
    Way::PairMSet,
    Way::PairTransaction,
    Way::PairEval,
    Way::XAdd,
    Way::XDel,
    Way::Incr,
    Way::IncrBy,
    Way::FlushAll,
];

#[test]
fn two_proxies_and_direct_writers_show_no_read_that_is_too_old() {
    let seconds = number_from_env("CREMA_COHERENCE_SECONDS").unwrap_or(10);
    show_no_read_that_is_too_old(seconds, "tracking");
}

/// Where those who write tell of it themselves, nobody writes past the proxies.
#[test]
fn two_proxies_that_tell_each_other_show_no_read_that_is_too_old() {
    let seconds = number_from_env("CREMA_COHERENCE_SECONDS").unwrap_or(5);
    show_no_read_that_is_too_old(seconds, "channel");
}

fn show_no_read_that_is_too_old(seconds: u64, coherence: &str) {
    let redis = Redis::start();
    // What the lanes of the second bring comes late, so that what its sessions see elsewhere can be newer.
    let link = Link::to(redis.addr());
    link.late("crema-lane", Duration::from_millis(2));
    let proxy =
        |addr, promote: u32| Crema::over(addr).flag("--coherence", coherence).flag("--promote", promote).start();
    let proxies = [proxy(redis.addr(), 1), proxy(link.addr(), 3)];
    let world = World::new(&redis, &proxies, coherence == "tracking");
    let mut seeds = Log::new(Via::Redis);
    world.seed_counters(1, &mut seeds);

    let mut logs = vec![seeds];
    let end = now() + nanos(Duration::from_secs(seconds));
    std::thread::scope(|scope| {
        let mut hands = Vec::new();
        for n in 0..9_u8 {
            let world = &world;
            hands.push(scope.spawn(move || world.write_until(end, n)));
        }
        for n in 0..7_u8 {
            let world = &world;
            hands.push(scope.spawn(move || world.read_until(n)));
        }
        let world = &world;
        hands.push(scope.spawn(move || world.flush_until(end)));
        // Readers go on for a while after the last write, so that the judge sees all agree.
        std::thread::sleep(Duration::from_secs(seconds) + MAX_STALENESS + Duration::from_millis(300));
        world.done.store(true, Ordering::Relaxed);
        logs.extend(hands.into_iter().map(|hand| hand.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))));
    });

    let verdict = judge(&logs, &world.names, Rules { max_staleness: MAX_STALENESS, monotone: true });
    eprintln!("coherence over {seconds} s: {verdict}");
    assert!(verdict.violations.is_empty(), "{verdict}");
    world.all_agree();
    for way in WAYS {
        assert!(world.used[way as usize].load(Ordering::Relaxed) > 0, "{way:?} took no part");
    }
    assert!(verdict.reads > 1_000 * seconds, "too few reads to mean anything: {verdict}");
    for proxy in proxies.iter().filter(|proxy| !proxy.is_direct()) {
        let hits = proxy.outcomes("hit");
        assert!(hits > 100 * seconds, "L1 took no part: {hits} hits");
    }
}

/// What all threads share: the keys' states, under the locks that order their writes.
struct World<'a> {
    redis: &'a Redis,
    proxies: &'a [Crema; 2],
    /// Whether some write past the proxies.
    past: bool,
    names: Vec<String>,
    /// Held shared by every writer, and alone by a flush.
    flush: RwLock<()>,
    states: Vec<Mutex<State>>,
    used: [AtomicU64; WAYS.len()],
    done: AtomicBool,
}

/// A locked key, as it stands when all that was sent is done.
#[derive(Clone, Default)]
struct State {
    order: Order,
    value: Option<String>,
}

impl State {
    fn seen(&self) -> Seen {
        self.value.as_ref().map_or(Seen::ABSENT, Seen::value)
    }

    fn becomes(&mut self, value: Option<String>) -> (Order, Seen) {
        self.order += 1;
        self.value = value;
        (self.order, self.seen())
    }
}

/// One command of a pipeline (or a transaction), and what its reply will mean.
struct Step {
    bytes: Vec<u8>,
    replies: usize,
    reads: Vec<usize>,
    /// The command, for the report.
    by: &'static str,
    /// Key, and the state it enters.
    writes: Vec<(usize, Order, Seen)>,
    /// A key's old value that the reply must show.
    shows: Option<Value>,
    increments: Option<usize>,
}

impl Step {
    fn new<A: AsRef<[u8]>>(args: &[A]) -> Step {
        Step { bytes: pack(args), replies: 1, reads: vec![], by: "", writes: vec![], shows: None, increments: None }
    }

    fn reading(mut self, by: &'static str, keys: &[usize]) -> Step {
        self.reads = keys.to_vec();
        self.by = by;
        self
    }

    fn writing(mut self, key: usize, state: (Order, Seen)) -> Step {
        self.writes.push((key, state.0, state.1));
        self
    }

    fn showing(mut self, old: Option<&String>) -> Step {
        self.shows = Some(old.map_or(Value::Nil, bulk));
        self
    }

    /// Wraps the commands sent so far in MULTI and EXEC.
    fn in_transaction(mut self, commands: usize) -> Step {
        self.bytes = [pack(&["MULTI"]), self.bytes, pack(&["EXEC"])].concat();
        self.replies = commands + 2;
        self
    }
}

impl<'a> World<'a> {
    fn new(redis: &'a Redis, proxies: &'a [Crema; 2], past: bool) -> World<'a> {
        World {
            redis,
            proxies,
            past,
            names: names(),
            flush: RwLock::new(()),
            states: (0..KEYS).map(|_| Mutex::default()).collect(),
            used: std::array::from_fn(|_| AtomicU64::new(0)),
            done: AtomicBool::new(false),
        }
    }

    /// A third of the connections goes each way; every second one speaks RESP3, and a part has a connection of its own.
    fn connect(&self, n: u8) -> (Client, Log) {
        let (addr, via) = match n % 3 {
            2 => (self.redis.addr(), Via::Redis),
            p => (self.proxies[usize::from(p)].addr(), Via::Proxy(p)),
        };
        let mut client = Client::speaking(2 + n / 3 % 2, addr);
        if n % 4 == 1 {
            client.cmd(&["CLIENT", "ID"]);
        }
        (client, Log::new(via))
    }

    /// The n-th way for writes.
    fn connect_to_write(&self, n: u8) -> (Client, Log, Via) {
        let n = if self.past || n % 3 < 2 { n } else { n - 1 - n / 3 % 2 };
        let (client, log) = self.connect(n);
        (client, log, if n % 3 == 2 { Via::Redis } else { Via::Proxy(n % 3) })
    }

    fn write_until(&self, end: u64, n: u8) -> Log {
        let mut rng = seeded(&format!("writer {n}"));
        let (mut client, mut log, via) = self.connect_to_write(n);
        let mut side = self.redis.client();
        while now() < end {
            let _shared = self.flush.read().unwrap_or_else(PoisonError::into_inner);
            let (mut held, ways) = self.take_locks(&mut rng);
            let mut expires = None;
            let steps: Vec<Step> = (0..rng.random_range(1..=3))
                .map(|_| {
                    if ways.is_empty() || rng.random_bool(0.4) {
                        return self.read_step(&mut rng);
                    }
                    let way = *ways.choose(&mut rng).expect("not empty");
                    self.used[way as usize].fetch_add(1, Ordering::Relaxed);
                    if way == Way::Expiring {
                        expires = Some(held[0].0);
                    }
                    self.write_step(way, &mut held, &mut side, &mut rng)
                })
                .collect();
            let sent = now();
            client.send(&steps.iter().flat_map(|step| step.bytes.clone()).collect::<Vec<u8>>());
            for step in &steps {
                Self::receive(&mut client, step, sent, via, &mut log);
            }
            if let Some(key) = expires {
                Self::see_expire(key, &mut held[0].1, sent, &mut log);
            }
            drop(held);
            if rng.random_bool(0.7) {
                std::thread::sleep(Duration::from_micros(rng.random_range(100..6_000)));
            }
        }
        log
    }

    /// Takes the locks of at most two keys, and says in which ways they may be written.
    fn take_locks(&self, rng: &mut SmallRng) -> (Vec<(usize, MutexGuard<'_, State>)>, Vec<Way>) {
        let lock = |key: usize| (key, self.states[key].lock().unwrap_or_else(PoisonError::into_inner));
        match rng.random_range(0..10) {
            0 => (vec![], vec![Way::Incr, Way::IncrBy]),
            1 => (PAIR.map(lock).into(), vec![Way::PairMSet, Way::PairTransaction, Way::PairEval]),
            2 => (vec![lock(*STREAMS.choose(rng).expect("two"))], vec![Way::XAdd, Way::XAdd, Way::XAdd, Way::XDel]),
            3 if rng.random_bool(0.3) => (vec![lock(rng.random_range(0..STRINGS))], vec![Way::Expiring]),
            _ => {
                let mut keys = [rng.random_range(0..STRINGS), rng.random_range(0..STRINGS)];
                keys.sort_unstable();
                if keys[0] == keys[1] {
                    let alone = WAYS[Way::Set as usize..=Way::GetDel as usize].to_vec();
                    return (vec![lock(keys[0])], alone.into_iter().filter(|way| *way != Way::Expiring).collect());
                }
                let both = WAYS[Way::Set as usize..=Way::EvalUndeclared as usize].to_vec();
                (keys.map(lock).into(), both.into_iter().filter(|way| *way != Way::Expiring).collect())
            }
        }
    }

    fn write_step(
        &self,
        way: Way,
        held: &mut [(usize, MutexGuard<'_, State>)],
        side: &mut Client,
        rng: &mut SmallRng,
    ) -> Step {
        if matches!(way, Way::Incr | Way::IncrBy) {
            let key = *COUNTERS.choose(rng).expect("three");
            let name = self.names[key].as_str();
            let mut step =
                if way == Way::Incr { Step::new(&["INCR", name]) } else { Step::new(&["INCRBY", name, "1"]) };
            step.increments = Some(key);
            return step;
        }
        if held.len() == 2 && !matches!(way, Way::MSet | Way::PairMSet | Way::PairTransaction | Way::PairEval) {
            // Which of the two is written, or is the source, is a matter of chance.
            if rng.random_bool(0.5) {
                held.reverse();
            }
        }
        let key = held[0].0;
        let name = self.names[key].as_str();
        let fresh = format!("{name}={}", held[0].1.order + 1);
        let old = held[0].1.value.clone();
        let mut becomes = |value: Option<String>| held[0].1.becomes(value);
        match way {
            Way::SetEx => Step::new(&["SETEX", name, "100000", &fresh]).writing(key, becomes(Some(fresh))),
            Way::SetGet => {
                Step::new(&["SET", name, &fresh, "GET"]).showing(old.as_ref()).writing(key, becomes(Some(fresh)))
            }
            Way::GetSet => {
                Step::new(&["GETSET", name, &fresh]).showing(old.as_ref()).writing(key, becomes(Some(fresh)))
            }
            Way::Expiring => Step::new(&["SET", name, &fresh, "PX", "40"]).writing(key, becomes(Some(fresh))),
            Way::Del | Way::XDel => Step::new(&["DEL", name]).writing(key, becomes(None)),
            Way::Unlink => Step::new(&["UNLINK", name]).writing(key, becomes(None)),
            Way::GetDel => Step::new(&["GETDEL", name]).showing(old.as_ref()).writing(key, becomes(None)),
            Way::EvalDeclared => {
                let script = "return redis.call('SET', KEYS[1], ARGV[1])";
                Step::new(&["EVAL", script, "1", name, &fresh]).writing(key, becomes(Some(fresh)))
            }
            Way::EvalUndeclared => {
                let script = "return redis.call('SET', ARGV[1], ARGV[2])";
                Step::new(&["EVAL", script, "0", name, &fresh]).writing(key, becomes(Some(fresh)))
            }
            Way::Restore => {
                side.cmd(&["SET", &format!("side:{name}"), &fresh]);
                let Value::Bulk(dump) = side.cmd(&["DUMP", &format!("side:{name}")]) else {
                    panic!("DUMP of a string")
                };
                let args: [&[u8]; 5] = [b"RESTORE", name.as_bytes(), b"0", &dump, b"REPLACE"];
                Step::new(&args).writing(key, becomes(Some(fresh)))
            }
            Way::XAdd => {
                let id = format!("{}-0", held[0].1.order + 1);
                let args = ["XADD", name, "MAXLEN", "5", &id, "field", "value"];
                let state = held[0].1.becomes(Some(id.clone()));
                Step::new(&args).writing(key, state)
            }
            Way::MSet | Way::PairMSet | Way::Transaction | Way::PairTransaction | Way::PairEval => {
                self.write_two(way, held, fresh)
            }
            // Where there is nothing to move, there is something to set.
            Way::Rename | Way::Copy if old.is_some() => {
                let other = held[1].0;
                let target = self.names[other].as_str();
                let moved = held[1].1.becomes(old);
                if way == Way::Copy {
                    return Step::new(&["COPY", name, target, "REPLACE"]).writing(other, moved);
                }
                Step::new(&["RENAME", name, target]).writing(other, moved).writing(key, held[0].1.becomes(None))
            }
            Way::Set | Way::Rename | Way::Copy | Way::Incr | Way::IncrBy | Way::FlushAll => {
                Step::new(&["SET", name, &fresh]).writing(key, becomes(Some(fresh)))
            }
        }
    }

    /// Both held keys at once. A pair gets one value for both.
    fn write_two(&self, way: Way, held: &mut [(usize, MutexGuard<'_, State>)], fresh: String) -> Step {
        let (one, two) = (held[0].0, held[1].0);
        let (a, b) = (self.names[one].as_str(), self.names[two].as_str());
        let second = if PAIR.contains(&one) { fresh.clone() } else { format!("{b}={}", held[1].1.order + 1) };
        let step = match way {
            Way::MSet | Way::PairMSet => Step::new(&["MSET", a, &fresh, b, &second]),
            Way::PairEval => {
                let script = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('SET', KEYS[2], ARGV[1])";
                Step::new(&["EVAL", script, "2", a, b, &fresh])
            }
            _ => {
                let mut step = Step::new(&["SET", a, &fresh]);
                step.bytes.extend(pack(&["SET", b, &second]));
                step.in_transaction(2)
            }
        };
        let states = (held[0].1.becomes(Some(fresh)), held[1].1.becomes(Some(second)));
        step.writing(one, states.0).writing(two, states.1)
    }

    fn read_step(&self, rng: &mut SmallRng) -> Step {
        let name = |key: usize| self.names[key].as_str();
        match rng.random_range(0..12) {
            0 => Step::new(&["MGET", name(PAIR[0]), name(PAIR[1])]).reading("MGET", &PAIR),
            1 => {
                let mut step = Step::new(&["GET", name(PAIR[0])]);
                step.bytes.extend(pack(&["GET", name(PAIR[1])]));
                step.in_transaction(2).reading("EXEC", &PAIR)
            }
            2 => {
                let key = *PAIR.choose(rng).expect("two");
                Step::new(&["GET", name(key)]).reading("GET", &[key])
            }
            3 => {
                let key = *STREAMS.choose(rng).expect("two");
                let all = ["XRANGE", name(key), "-", "+"];
                let some = ["XRANGE", name(key), "-", "+", "COUNT", "100"];
                (if rng.random_bool(0.5) { Step::new(&all) } else { Step::new(&some) }).reading("XRANGE", &[key])
            }
            4 => {
                let key = if rng.random_bool(0.5) { rng.random_range(0..2) } else { COUNTERS[0] };
                Step::new(&["GET", name(key)]).in_transaction(1).reading("EXEC", &[key])
            }
            11 => {
                // Keys that are not named: the elements of a list, each put into a pattern.
                let command = if rng.random_bool(0.5) { "SORT" } else { "SORT_RO" };
                let by = if rng.random_bool(0.5) { "nosort" } else { "string:*" };
                let sorted = Step::new(&[command, SORTED, "BY", by, "GET", "#", "GET", "string:*", "ALPHA"]);
                Step { by: "SORT", ..sorted }
            }
            5 | 6 => {
                let key = *COUNTERS.choose(rng).expect("three");
                Step::new(&["GET", name(key)]).reading("GET", &[key])
            }
            _ => {
                // Half of the reads go to the first two keys, so that there are flights to join.
                let key = if rng.random_bool(0.5) { rng.random_range(0..2) } else { rng.random_range(0..STRINGS) };
                Step::new(&["GET", name(key)]).reading("GET", &[key])
            }
        }
    }

    fn receive(client: &mut Client, step: &Step, sent: u64, via: Via, log: &mut Log) {
        let mut reply = Value::Nil;
        for _ in 0..step.replies {
            reply = client.value();
            assert!(!reply.is_error(), "{reply:?} to {}", step.bytes.escape_ascii());
        }
        let received = now();
        if let Some(shown) = &step.shows {
            assert_eq!(reply, *shown, "the old value, shown by {}", step.bytes.escape_ascii());
        }
        if let Some(key) = step.increments {
            let order = u64::try_from(reply.number()).expect("counters are positive");
            let becomes = Seen::value(order.to_string());
            log.wrote(Write { key, order, becomes, begun: sent, acked: received, via });
        }
        for &(key, order, becomes) in &step.writes {
            log.wrote(Write { key, order, becomes, begun: sent, acked: received, via });
        }
        if step.by == "SORT" {
            for found in reply.items().chunks(2) {
                let key = found[0].text().parse().expect("a number is in the list");
                let seen = if found[1].is_nil() { Seen::ABSENT } else { Seen::value(found[1].text()) };
                log.read(Read { key, by: step.by, seen, sent, received });
            }
            return;
        }
        let values = match &step.reads[..] {
            [] => return,
            [key] if STREAMS.contains(key) => vec![last_entry(&reply)],
            [_] if step.replies == 1 => vec![reply],
            _ => reply.items().to_vec(),
        };
        if step.reads == PAIR {
            assert_eq!(values[0], values[1], "a pair torn apart by {}", step.bytes.escape_ascii());
        }
        for (key, value) in step.reads.iter().zip(values) {
            let seen = if value.is_nil() { Seen::ABSENT } else { Seen::value(value.text()) };
            log.read(Read { key: *key, by: step.by, seen, sent, received });
        }
    }

    /// Waits out the key's time, under its lock. Redis keeps a key to the end of the millisecond in which its time ends.
    fn see_expire(key: usize, state: &mut State, sent: u64, log: &mut Log) {
        let acked = now() + nanos(Duration::from_millis(42));
        let wait = Duration::from_nanos(acked.saturating_sub(now()));
        std::thread::sleep(wait);
        let (order, becomes) = state.becomes(None);
        let begun = sent + nanos(Duration::from_millis(39));
        log.wrote(Write { key, order, becomes, begun, acked, via: Via::Clock });
    }

    fn read_until(&self, n: u8) -> Log {
        let mut rng = seeded(&format!("reader {n}"));
        // One of seven reads from Redis itself: the judge's own check, for Redis is never stale.
        let (mut client, mut log) = self.connect(if n == 6 { 2 } else { n % 2 + n / 2 * 3 });
        while !self.done.load(Ordering::Relaxed) {
            let steps: Vec<Step> = (0..rng.random_range(1..=3)).map(|_| self.read_step(&mut rng)).collect();
            let sent = now();
            client.send(&steps.iter().flat_map(|step| step.bytes.clone()).collect::<Vec<u8>>());
            for step in &steps {
                Self::receive(&mut client, step, sent, Via::Clock, &mut log);
            }
            if n == 6 {
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        log
    }

    /// Now and then empties everything, by changing roads.
    fn flush_until(&self, end: u64) -> Log {
        // The log's road is that of its reads, of which it has none.
        let mut log = Log::new(Via::Redis);
        let mut round = 1;
        while now() < end {
            std::thread::sleep(Duration::from_millis(700));
            let _alone = self.flush.write().unwrap_or_else(PoisonError::into_inner);
            round += 1;
            self.used[Way::FlushAll as usize].fetch_add(1, Ordering::Relaxed);
            let (mut client, _, via) = self.connect_to_write(u8::try_from(round % 6).expect("below six"));
            let begun = now();
            assert_eq!(client.cmd(&["FLUSHALL"]), common::ok());
            let acked = now();
            for (key, state) in self.states.iter().enumerate() {
                let (order, becomes) = if COUNTERS.contains(&key) {
                    (round * ROUND - 1, Seen::ABSENT)
                } else {
                    state.lock().unwrap_or_else(PoisonError::into_inner).becomes(None)
                };
                log.wrote(Write { key, order, becomes, begun, acked, via });
            }
            self.seed_counters(round, &mut log);
        }
        log
    }

    /// Gives the counters numbers that no earlier round had.
    fn seed_counters(&self, round: u64, log: &mut Log) {
        let (mut client, _, via) = self.connect_to_write(2);
        client.cmd(&["RPUSH", SORTED, "0", "1", "2", "5"]);
        for key in COUNTERS {
            let (order, begun) = (round * ROUND, now());
            client.cmd(&["SET", &self.names[key], &order.to_string()]);
            let becomes = Seen::value(order.to_string());
            log.wrote(Write { key, order, becomes, begun, acked: now(), via });
        }
    }

    /// After all is quiet, every road shows the same.
    fn all_agree(&self) {
        let mut clients: Vec<Client> = (0..6).map(|n| self.connect(n).0).collect();
        for (key, name) in self.names.iter().enumerate() {
            let command = if STREAMS.contains(&key) { vec!["XRANGE", name, "-", "+"] } else { vec!["GET", name] };
            let answers: Vec<Value> = clients.iter_mut().map(|client| client.cmd(&command)).collect();
            assert!(answers.iter().all(|answer| *answer == answers[2]), "{name}: {answers:?}");
        }
    }
}

fn last_entry(entries: &Value) -> Value {
    entries.items().last().map_or(Value::Nil, |entry| entry.items()[0].clone())
}
