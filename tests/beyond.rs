//! Redis, a second Redis and a Memcached as its tiers, and an origin over HTTP, each frozen, killed, slow, cut off and back with old data,
//! while three proxies write and read: no read is older than a write that was acknowledged before, nothing old stays at rest, and whenever
//! nothing is troubled all reads are answered before long.

use std::collections::{BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use common::http::{Answer, HttpOrigin};
use common::memcached::Memcached;
use common::{Client, Crema, Link, MAX_STALENESS, Redis, Stop, Value, eventually, number_from_env, ok, seeded};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tempfile::NamedTempFile;

/// Beyond the time that it is to take, for a machine with much to do.
const GRACE: Duration = Duration::from_secs(180);

/// Keys with tiers alone, and keys with tiers and an origin.
const KEYS: [usize; 2] = [5, 3];

/// What is known of one key's writes, which are numbered; a value is the number of its write.
struct KeyLedger {
    /// Those that were acknowledged, the newest last: whether they left nothing, and when.
    acked: VecDeque<(u64, bool, Instant)>,
    /// What stands before them. Without an origin write 0 left nothing.
    floor: (u64, bool),
    /// The number of the last that has begun.
    begun: u64,
    /// Writes that the upstream had and lost, and since when.
    lost: Vec<(u64, u64, Instant)>,
}

impl KeyLedger {
    fn new(has_origin: bool) -> KeyLedger {
        KeyLedger { acked: VecDeque::new(), floor: (0, !has_origin), begun: 0, lost: Vec::new() }
    }

    fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    fn acknowledge(&mut self, number: u64, deleted: bool) {
        self.acked.push_back((number, deleted, Instant::now()));
        if self.acked.len() > 10_000 {
            self.acked.pop_front();
        }
    }

    /// What a read that begins now may at the oldest be answered with: the last write that was acknowledged so long ago.
    fn oldest(&self, ago: Duration) -> (u64, bool) {
        let known = self.acked.iter().rev().find(|(.., when)| when.elapsed() >= ago);
        known.map_or(self.floor, |&(number, deleted, _)| (number, deleted))
    }

    /// From here on the upstream has what was known at that time; nobody writes or reads meanwhile.
    fn go_back(&mut self, (floor, begun): ((u64, bool), u64)) {
        self.acked.clear();
        self.floor = floor;
        self.lost.push((begun, self.begun, Instant::now()));
    }

    /// From here on the origin says this, which need not be what there is above; nor has anybody said that later values are over.
    fn go_down_to(&mut self, said: u64) {
        let oldest = self.oldest(Duration::ZERO).0;
        self.acked.clear();
        self.floor = (oldest.min(said), false);
        self.lost.clear();
    }

    /// What is wrong about an answer of a read that began when `oldest` was known, and which writes were lost by then.
    fn complaint(
        &self,
        got: &Value,
        (oldest, deleted): (u64, bool),
        may_be_nil: bool,
        sent: Instant,
    ) -> Option<String> {
        let number = match got {
            Value::Nil if may_be_nil => return None,
            Value::Bulk(_) => u64::try_from(got.number()).expect("the number of a write"),
            Value::Error(_) => return None, // somebody was away, and it was said
            other => return Some(format!("{other:?} was read")),
        };
        if number < oldest || number == oldest && deleted {
            return Some(format!("write {number} was read after write {oldest} (deleted: {deleted})"));
        }
        let known = |since: Instant| sent.checked_duration_since(since).is_some_and(|ago| ago > MAX_STALENESS);
        let lost = self.lost.iter().find(|(from, to, since)| (from + 1..=*to).contains(&number) && known(*since));
        lost.map(|_| format!("write {number} was read, which the upstream had lost"))
    }
}

/// A key, and what its origin says.
struct Key {
    name: String,
    truth: Option<Arc<AtomicU64>>,
    ledger: Mutex<KeyLedger>,
}

/// All that the threads share.
struct Scene {
    cremas: Vec<(Crema, NamedTempFile)>,
    keys: Vec<Key>,
    /// Held for writing where nobody may write or read.
    calm: RwLock<()>,
    /// Held for reading while a server is troubled.
    troubled: RwLock<()>,
    over: AtomicBool,
    /// Which troubles there were.
    had: Mutex<BTreeSet<(&'static str, Trouble)>>,
    rounds: [AtomicUsize; 4],
    errors: AtomicU64,
}

/// What a server suffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    /// The process stands still.
    Frozen,
    /// What is sent to it, and what it says, comes late.
    Held,
    Slow,
    Cut,
    /// It is away, and comes back with nothing.
    Killed,
    /// It comes back with what it had before.
    Old,
}

const ALL: [Trouble; 6] = [Trouble::Frozen, Trouble::Held, Trouble::Slow, Trouble::Cut, Trouble::Killed, Trouble::Old];

/// A session that connects again where it is lost.
struct Session<'a> {
    crema: &'a Crema,
    client: Option<Client>,
}

impl<'a> Session<'a> {
    fn new(crema: &'a Crema) -> Self {
        Session { crema, client: None }
    }

    /// None where nobody knows.
    fn cmd(&mut self, words: &[&str]) -> Option<Value> {
        if self.client.is_none() {
            self.client = Client::try_connect(self.crema.addr()).ok();
        }
        match self.client.as_mut()?.try_cmd(words) {
            Ok(value) => Some(value),
            Err(error) => {
                let hangs = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(!hangs, "{words:?} is never answered");
                self.client = None;
                None
            }
        }
    }
}

impl Scene {
    fn new(upstream: &Link, tiers: &[String], origin: &Link, truths: &[Arc<AtomicU64>]) -> Scene {
        let tier = |(nth, url)| {
            let scale = 2 << nth;
            format!("[[tier]]\nmatch = \"page:*\"\nurl = \"{url}\"\ntimeout = \"50ms\"\nttl_scale = {scale}\n")
        };
        let tiers: String = tiers.iter().enumerate().map(tier).collect();
        let url = format!("http://{}/{{1}}", origin.addr());
        let more = "ttl = \"2s\"\nload_timeout = \"300ms\"\nstale_if_error = \"10s\"\nrefresh_ahead = true\n";
        let text = format!("{tiers}[[origin]]\nmatch = \"page:o:*\"\nurl = \"{url}\"\n{more}");
        let start = |_| {
            let file = NamedTempFile::new().expect("a temporary file");
            std::fs::write(file.path(), &text).expect("it can be written");
            (Crema::over(upstream.addr()).flag("--config", file.path().display()).start(), file)
        };
        let plain = (0..KEYS[0]).map(|nth| (format!("page:{nth}"), None));
        let loaded = truths.iter().enumerate().map(|(nth, truth)| (format!("page:o:{nth}"), Some(Arc::clone(truth))));
        let key = |(name, truth): (String, Option<_>)| {
            let ledger = Mutex::new(KeyLedger::new(truth.is_some()));
            Key { name, truth, ledger }
        };
        let keys = plain.chain(loaded).map(key).collect();
        Scene {
            cremas: (0..3).map(start).collect(),
            keys,
            calm: RwLock::new(()),
            troubled: RwLock::new(()),
            over: AtomicBool::new(false),
            had: Mutex::default(),
            rounds: Default::default(),
            errors: AtomicU64::new(0),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn counts(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.cremas.iter().map(|(crema, _)| crema.count(name, labels)).sum()
    }

    #[track_caller]
    fn judge(&self, key: &Key, got: &Value, oldest: (u64, bool), whose: &str, sent: Instant) {
        if got.is_error() {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        let complaint = key.ledger.lock().expect("nobody panicked").complaint(got, oldest, key.truth.is_none(), sent);
        assert!(complaint.is_none(), "{}: {whose}: {}", key.name, complaint.unwrap_or_default());
    }

    fn took_part(&self, tier: &str, outcome: &str) -> u64 {
        self.counts("crema_tier_total", &[("tier", tier), ("outcome", outcome)])
    }

    fn loads(&self) -> u64 {
        self.counts("crema_origin_loads_total", &[("result", "loaded")])
    }

    /// While nothing is troubled, each proxy answers for all keys before long.
    fn all_answer(&self) {
        let _untroubled = self.troubled.write().expect("nobody panicked");
        for (crema, _) in &self.cremas {
            let mut session = Session::new(crema);
            let mut is_answered = |key: &Key| {
                let oldest = key.ledger.lock().expect("nobody panicked").oldest(MAX_STALENESS);
                let sent = Instant::now();
                let Some(got) = session.cmd(&["GET", &key.name]) else { return false };
                self.judge(key, &got, oldest, "a reader in peace", sent);
                !got.is_error()
            };
            eventually("all is answered while nothing is troubled", || {
                self.is_over() || self.keys.iter().all(&mut is_answered)
            });
        }
    }

    fn write_on(&self, key: &Key, mut dice: SmallRng) {
        let _stop = Stop(&self.over);
        let mut sessions: Vec<_> = self.cremas.iter().map(|(crema, _)| Session::new(crema)).collect();
        while !self.is_over() {
            let longest = if dice.random_ratio(1, 6) { 600 } else { 40 };
            std::thread::sleep(Duration::from_millis(dice.random_range(0..longest)));
            let _calm = self.calm.read().expect("nobody panicked");
            let (number, session) =
                (key.ledger.lock().expect("nobody panicked").begin(), &mut sessions[dice.random_range(0..3)]);
            let (value, deletes) = (number.to_string(), dice.random_ratio(1, 3));
            if let Some(truth) = &key.truth {
                truth.store(number, Ordering::SeqCst); // the origin has it first, then the fleet is told
            }
            let reply = match dice.random_range(0..6) {
                _ if deletes => session.cmd(&["DEL", &key.name]),
                0 | 1 => session.cmd(&["SET", &key.name, &value, "PX", "20"]),
                2 => session.cmd(&["MSET", &key.name, &value, "other", "x"]),
                _ => session.cmd(&["SET", &key.name, &value]),
            };
            let Some(reply) = reply.filter(|reply| !reply.is_error()) else { continue };
            assert!(matches!(reply, Value::Int(_)) || reply == ok(), "{reply:?}");
            // Where there is an origin, it has the value that was deleted.
            let is_gone = deletes && key.truth.is_none();
            key.ledger.lock().expect("nobody panicked").acknowledge(number, is_gone);
            let sent = Instant::now();
            if let Some(got) = session.cmd(&["GET", &key.name]) {
                self.judge(key, &got, (number, is_gone), "its writer", sent);
            }
        }
    }

    fn read_on(&self, crema: &Crema, mut dice: SmallRng) {
        let _stop = Stop(&self.over);
        let mut session = Session::new(crema);
        while !self.is_over() {
            std::thread::sleep(Duration::from_micros(dice.random_range(0..2000)));
            let _calm = self.calm.read().expect("nobody panicked");
            let key = &self.keys[dice.random_range(0..self.keys.len())];
            let oldest = key.ledger.lock().expect("nobody panicked").oldest(MAX_STALENESS);
            let sent = Instant::now();
            let got = match dice.random_range(0..3) {
                0 => session.cmd(&["MGET", &key.name, "other"]).map(|got| match got {
                    Value::Array(all) => all[0].clone(),
                    other => other,
                }),
                _ => session.cmd(&["GET", &key.name]),
            };
            if let Some(got) = got {
                self.judge(key, &got, oldest, "a reader", sent);
            }
        }
    }

    /// Troubles of one server, one after the other, in rounds of all.
    fn trouble(
        &self,
        nth: usize,
        name: &'static str,
        mut dice: SmallRng,
        mut suffer: impl FnMut(Trouble, &mut SmallRng),
    ) {
        let _stop = Stop(&self.over);
        while !self.is_over() {
            let mut round = ALL;
            round.shuffle(&mut dice);
            for trouble in round.into_iter().take_while(|_| !self.is_over()) {
                {
                    let _troubled = self.troubled.read().expect("nobody panicked");
                    suffer(trouble, &mut dice);
                }
                self.had.lock().expect("nobody panicked").insert((name, trouble));
                std::thread::sleep(Duration::from_millis(dice.random_range(20..200)));
            }
            if nth == 0 {
                self.all_answer();
            }
            self.rounds[nth].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is known of all keys, for [`Scene::go_back`]; nobody may write meanwhile.
    fn known(&self) -> Vec<((u64, bool), u64)> {
        let known = |key: &Key| {
            let ledger = key.ledger.lock().expect("nobody panicked");
            (ledger.oldest(Duration::ZERO), ledger.begun)
        };
        self.keys.iter().map(known).collect()
    }
}

fn span(dice: &mut SmallRng) -> Duration {
    Duration::from_millis(dice.random_range(10..300))
}

fn dump_of(redis: &Redis) -> PathBuf {
    let found = redis.client().cmd(&["CONFIG", "GET", "dir"]);
    PathBuf::from(found.items()[1].text()).join("dump.rdb")
}

/// The upstream's troubles. It evicts all the time, as it does by itself where it is full.
fn trouble_upstream(scene: &Scene, redis: &mut Redis, link: &Link, trouble: Trouble, dice: &mut SmallRng) {
    let evict_for = |redis: &Redis, time: Duration, dice: &mut SmallRng| {
        let (mut direct, begun) = (redis.client(), Instant::now());
        while begun.elapsed() < time {
            let name = &scene.keys[dice.random_range(0..scene.keys.len())].name;
            match dice.random_range(0..40) {
                0 => direct.cmd(&["UNLINK", "crema:epoch"]),
                1 => direct.cmd(&["UNLINK", &format!("crema:ver:{name}")]),
                2 => direct.cmd(&["UNLINK", &format!("crema:load:{name}")]),
                _ => direct.cmd(&["UNLINK", name]),
            };
            std::thread::sleep(Duration::from_millis(dice.random_range(0..12)));
        }
    };
    evict_for(redis, Duration::from_millis(200), dice);
    let time = span(dice);
    match trouble {
        Trouble::Frozen => {
            let _frozen = redis.freeze();
            std::thread::sleep(time);
        }
        Trouble::Held => {
            link.freeze();
            std::thread::sleep(time);
            link.thaw();
        }
        Trouble::Slow => {
            link.delay(time / 20);
            evict_for(redis, time, dice);
            link.delay(Duration::ZERO);
        }
        Trouble::Cut => link.cut(),
        Trouble::Killed => {
            redis.kill();
            std::thread::sleep(time);
            redis.restart();
        }
        Trouble::Old => {
            let known = {
                let _calm = scene.calm.write().expect("nobody panicked");
                assert_eq!(redis.client().cmd(&["SAVE"]), ok());
                scene.known()
            };
            let dump = dump_of(redis);
            evict_for(redis, time, dice);
            let _calm = scene.calm.write().expect("nobody panicked");
            redis.restart();
            std::fs::remove_file(dump).expect("it was loaded");
            for (key, then) in scene.keys.iter().zip(known) {
                let mut ledger = key.ledger.lock().expect("nobody panicked");
                ledger.go_back(then);
                if let Some(truth) = &key.truth {
                    ledger.go_down_to(truth.load(Ordering::SeqCst));
                }
            }
        }
    }
}

/// The first tier's.
fn trouble_redis(redis: &mut Redis, link: &Link, trouble: Trouble, dice: &mut SmallRng) {
    let time = span(dice);
    match trouble {
        Trouble::Frozen => {
            let _frozen = redis.freeze();
            std::thread::sleep(time);
        }
        Trouble::Killed => {
            redis.kill();
            std::thread::sleep(time);
            redis.restart();
        }
        Trouble::Old => {
            assert_eq!(redis.client().cmd(&["SAVE"]), ok());
            let dump = dump_of(redis);
            std::thread::sleep(time);
            redis.restart();
            std::fs::remove_file(dump).expect("it was loaded");
        }
        other => trouble_link(link, other, time),
    }
}

/// The second's.
fn trouble_memcached(scene: &Scene, memcached: &mut Memcached, link: &Link, trouble: Trouble, dice: &mut SmallRng) {
    let time = span(dice);
    match trouble {
        Trouble::Frozen => {
            memcached.freeze();
            std::thread::sleep(time);
            memcached.thaw();
        }
        Trouble::Killed => {
            memcached.kill();
            std::thread::sleep(time);
            memcached.restart();
        }
        Trouble::Old => {
            let names = scene.keys.iter().map(|key| format!("crema:0:{}", key.name));
            let kept: Vec<_> = names.filter_map(|name| memcached.get(&name).map(|copy| (name, copy))).collect();
            std::thread::sleep(time);
            memcached.restart();
            for (name, copy) in &kept {
                memcached.set(name, copy);
            }
        }
        other => trouble_link(link, other, time),
    }
}

/// The origin's.
fn trouble_origin(
    scene: &Scene,
    (origin, fails): (&HttpOrigin, &AtomicBool),
    link: &Link,
    trouble: Trouble,
    dice: &mut SmallRng,
) {
    let time = span(dice);
    match trouble {
        Trouble::Frozen => {
            origin.hold();
            std::thread::sleep(time * 2);
            origin.release();
        }
        Trouble::Killed => {
            link.down();
            std::thread::sleep(time / 2);
            link.up();
            fails.store(true, Ordering::SeqCst);
            std::thread::sleep(time / 2);
            fails.store(false, Ordering::SeqCst);
        }
        Trouble::Old => {
            let loaded = || scene.keys.iter().filter_map(|key| Some((key, key.truth.as_ref()?)));
            let said = |(_, truth): (_, &Arc<AtomicU64>)| truth.load(Ordering::SeqCst);
            let then: Vec<u64> = loaded().map(said).collect();
            std::thread::sleep(time);
            let _calm = scene.calm.write().expect("nobody panicked");
            for ((key, truth), then) in loaded().zip(then) {
                truth.store(then, Ordering::SeqCst);
                key.ledger.lock().expect("nobody panicked").go_down_to(then);
            }
        }
        other => trouble_link(link, other, time),
    }
}

fn trouble_link(link: &Link, trouble: Trouble, time: Duration) {
    match trouble {
        Trouble::Held => {
            link.freeze();
            std::thread::sleep(time);
            link.thaw();
        }
        Trouble::Slow => {
            link.delay(time / 3); // about as long as a tier may take
            std::thread::sleep(time);
            link.delay(Duration::ZERO);
        }
        _ => link.cut(),
    }
}

#[test]
fn under_chaos_no_read_is_older_than_a_write_that_was_acknowledged_before() {
    let length = Duration::from_secs(number_from_env("CREMA_BEYOND_SECONDS").unwrap_or(6));
    let Some(mut memcached) = Memcached::start() else { return };
    let (mut redis, mut cold, origin) = (Redis::start(), Redis::start(), HttpOrigin::start());
    let [above, below, colder, source] = [redis.addr(), cold.addr(), memcached.addr(), origin.addr()].map(Link::to);
    let (truths, fails): (Vec<Arc<AtomicU64>>, _) =
        ((0..KEYS[1]).map(|_| Arc::default()).collect(), Arc::new(AtomicBool::new(false)));
    origin.says({
        let (truths, fails) = (truths.clone(), Arc::clone(&fails));
        move |path, _| {
            let nth: usize = path[1..].parse().expect("the number of a key");
            let value = truths[nth].load(Ordering::SeqCst).to_string();
            if fails.load(Ordering::SeqCst) { Answer::status(503) } else { Answer::value(value) }
        }
    });
    let tiers = [format!("redis://{}", below.addr()), format!("memcached://{}", colder.addr())];
    let scene = Scene::new(&above, &tiers, &source, &truths);
    if scene.cremas[0].0.is_direct() {
        return;
    }
    let mut dice = seeded("what lies beyond, under chaos");
    let (begun, scene) = (Instant::now(), &scene);
    std::thread::scope(|threads| {
        let _stop = Stop(&scene.over);
        let mut fork = || SmallRng::seed_from_u64(dice.random());
        for key in &scene.keys {
            let dice = fork();
            threads.spawn(move || scene.write_on(key, dice));
        }
        for (crema, _) in &scene.cremas {
            let dice = fork();
            threads.spawn(move || scene.read_on(crema, dice));
        }
        let [one, two, three, four] = [fork(), fork(), fork(), fork()];
        let (redis, cold, memcached, origin, fails) = (&mut redis, &mut cold, &mut memcached, &origin, &fails);
        let (above, below, colder, source) = (&above, &below, &colder, &source);
        threads.spawn(move || {
            scene.trouble(0, "upstream", one, |trouble, dice| trouble_upstream(scene, redis, above, trouble, dice));
        });
        threads.spawn(move || {
            scene.trouble(1, "tier", two, |trouble, dice| trouble_redis(cold, below, trouble, dice));
        });
        threads.spawn(move || {
            scene.trouble(2, "memcached", three, |what, dice| trouble_memcached(scene, memcached, colder, what, dice));
        });
        threads.spawn(move || {
            scene.trouble(3, "origin", four, |what, dice| trouble_origin(scene, (origin, fails), source, what, dice));
        });
        let all_had = || scene.rounds.iter().all(|rounds| rounds.load(Ordering::Relaxed) > 0);
        let all_took_part =
            || scene.took_part("l3", "hit") > 0 && scene.took_part("l3", "stale") > 0 && scene.loads() > 0;
        let is_enough = || begun.elapsed() >= length && all_had() && all_took_part();
        while !scene.is_over() && begun.elapsed() < length + GRACE && !is_enough() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let had = scene.had.lock().expect("nobody panicked");
    assert_eq!(had.len(), 4 * ALL.len(), "each server had all: {had:?}");
    at_rest(scene, &redis);
    let tier = |outcome: &str| ["l3", "l4"].map(|tier| scene.took_part(tier, outcome));
    let loads = scene.loads();
    let (writes, errors): (u64, _) = (
        scene.keys.iter().map(|key| key.ledger.lock().expect("alive").begun).sum(),
        scene.errors.load(Ordering::Relaxed),
    );
    eprintln!(
        "{writes} writes, {} requests, {errors} errors, {loads} loads; tiers: {:?} hits, {:?} stale, {:?} errors, {:?} copied up, rounds {:?}",
        scene.counts("crema_requests_total", &[]),
        tier("hit"),
        tier("stale"),
        tier("error"),
        tier("copied_up"),
        scene.rounds,
    );
    assert!(tier("hit")[0] > 0 && tier("stale")[0] > 0 && loads > 0, "all had a part in it");
}

/// All are well again, and nothing that is old is left anywhere.
fn at_rest(scene: &Scene, redis: &Redis) {
    let mut direct = redis.client();
    for (crema, _) in &scene.cremas {
        eventually("it and its tiers are well again", || {
            let Ok(mut client) = Client::try_connect(crema.addr()) else { return false };
            scene.keys.iter().all(|key| {
                direct.cmd(&["UNLINK", &key.name]);
                client.try_cmd(&["GET", &key.name]).is_ok_and(|got| !got.is_error())
            }) && ["l3", "l4"].iter().all(|tier| crema.count("crema_tier_well", &[("tier", tier)]) == 1)
        });
    }
    std::thread::sleep(MAX_STALENESS);
    for is_evicted in [false, true, true] {
        for key in &scene.keys {
            if is_evicted {
                direct.cmd(&["UNLINK", &key.name]);
            }
            let last = key.ledger.lock().expect("nobody panicked").oldest(Duration::ZERO);
            for (crema, _) in &scene.cremas {
                let mut client = crema.client();
                eventually("it is answered at rest", || {
                    let (sent, got) = (Instant::now(), client.cmd(&["GET", &key.name]));
                    scene.judge(key, &got, last, "at rest", sent);
                    !got.is_error()
                });
            }
        }
    }
}

#[test]
fn what_is_older_than_it_may_be_is_complained_of() {
    let mut ledger = KeyLedger::new(false);
    let value = |number: u64| common::bulk(number.to_string());
    let says = |ledger: &KeyLedger, number: u64| {
        ledger.complaint(&value(number), ledger.oldest(Duration::ZERO), true, Instant::now()).is_some()
    };
    assert!(says(&ledger, 0), "nothing was ever written");
    for number in 1..=3 {
        assert_eq!(ledger.begin(), number);
        ledger.acknowledge(number, number == 3);
    }
    assert!(says(&ledger, 2) && says(&ledger, 3) && !says(&ledger, 4), "3 was a DEL; 4 may be under way");
    assert!(ledger.complaint(&value(1), ledger.oldest(MAX_STALENESS), true, Instant::now()).is_none(), "in time");
    assert!(ledger.complaint(&Value::Nil, (1, false), false, Instant::now()).is_some(), "an origin has it");
    let then = ((1, false), 1);
    ledger.go_back(then);
    let later = Instant::now() + 2 * MAX_STALENESS;
    let lost = |number| ledger.complaint(&value(number), (1, false), true, later).is_some();
    assert!(!lost(1) && lost(2) && lost(3) && !lost(4));
}
