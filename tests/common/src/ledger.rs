//! Concurrent reads and writes in front of a cluster while something befalls it, and what is held against them.
//!
//! Every write appends a word of its own to a key, so that what a key holds in the end says which writes Redis kept, in what
//! order, and whether one was carried out twice. A write that Redis lost (an old master that nobody followed) is no write to
//! the [`judge`]; what is lost although it was acknowledged is counted by itself.
//!
//! Judged are hits. What crema's lanes carry is made to take longer than a hit does, so that a quick reply is one of L1's; each
//! reader has keys of its own, so that none waits for a read that another sent. A read that the servers answered may be as
//! old as they are.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::Stop;
use super::client::Client;
use super::cluster::{Cluster, slot_of};
use super::judge::{self, Log, Rules, Seen, Time, Verdict, Via, nanos, now};
use super::proxy::Crema;
use super::value::Value;
use super::{eventually, within};

/// What every reply on a lane takes at the least.
const LANE: Duration = Duration::from_millis(5);

/// How long who writes past the proxy waits for a node.
const PATIENCE: Duration = Duration::from_millis(400);

/// Who takes part.
#[derive(Clone, Copy)]
pub struct Crowd {
    /// Writers through the proxy.
    pub own: usize,
    /// Writers past it.
    pub foreign: usize,
    pub readers: usize,
    /// What a writer rests between two writes.
    pub rest: Duration,
}

impl Default for Crowd {
    fn default() -> Crowd {
        Crowd { own: 2, foreign: 2, readers: 3, rest: Duration::from_millis(5) }
    }
}

/// What was seen by all.
pub struct Findings {
    pub verdict: Verdict,
    /// Acknowledged writes that are not there in the end, and when they were acknowledged.
    pub lost: Vec<(String, Time)>,
    pub doubled: Vec<String>,
    /// Reads that were answered, by L1 or not.
    pub answered: usize,
    /// Writes through the proxy that got an error, or no answer.
    pub refused: usize,
    pub errors: HashMap<String, usize>,
    /// When what befell the cluster began, and when it was over.
    pub span: (Time, Time),
}

enum Event {
    Wrote { key: usize, word: String, begun: Time, acked: Option<Time>, via: Via },
    Read { key: usize, content: usize, sent: Time, received: Time },
}

/// One thread's part.
#[derive(Default)]
struct Account {
    events: Vec<Event>,
    contents: Vec<Vec<u8>>,
    known: HashMap<Vec<u8>, usize>,
    errors: HashMap<String, usize>,
}

/// A proxy in front of a cluster, whose hits can be told from other replies; the cluster must have links.
pub fn told_apart(cluster: &Cluster, max_staleness: Duration) -> Crema {
    for n in 0..cluster.len() {
        cluster.link(n).late("crema-lane", LANE);
    }
    cluster.crema().flag("--max-staleness", format!("{}ms", max_staleness.as_millis())).start()
}

/// Lets a crowd read and write these keys while `fault` happens, and judges it when the cluster is whole again.
pub fn judged(
    cluster: &mut Cluster,
    crema: &Crema,
    keys: &[String],
    crowd: Crowd,
    max_staleness: Duration,
    fault: impl FnOnce(&mut Cluster),
) -> Findings {
    let seeds: Vec<SocketAddr> = cluster.awake().into_iter().map(|n| cluster.addr(n)).collect();
    let done = AtomicBool::new(false);
    let hits = AtomicUsize::new(0);
    let mut span = (0, 0);
    let accounts: Vec<Account> = std::thread::scope(|scope| {
        let over = Stop(&done);
        let mut hands = Vec::new();
        let (done, seeds, hits) = (&done, &seeds, &hits);
        for n in 0..crowd.own + crowd.foreign {
            hands.push(scope.spawn(move || {
                let mut road =
                    if n < crowd.own { Road::Proxy(crema.addr(), None) } else { Road::Past(Router::new(seeds)) };
                write(&mut road, n, keys, crowd.rest, done)
            }));
        }
        for n in 0..crowd.readers {
            hands.push(scope.spawn(move || read(crema.addr(), n, crowd.readers, keys, done, hits)));
        }
        // There is something to lose.
        let began = hits.load(Ordering::Relaxed);
        within(Duration::from_secs(60), "L1 takes part", || hits.load(Ordering::Relaxed) > began + 200);
        span.0 = now();
        fault(cluster);
        span.1 = now();
        cluster.await_whole();
        // What would be too old now would show.
        std::thread::sleep(max_staleness * 3);
        drop(over);
        hands.into_iter().map(|hand| hand.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    cluster.await_whole();
    let last: Vec<Vec<u8>> = keys.iter().map(|key| content(&cluster.client_of(key).cmd(&["GET", key]))).collect();
    settle(&accounts, keys, &last, max_staleness, span)
}

/// How long it takes until L1 answers for each of these keys. They must be there, and nobody else may read.
pub fn time_to_hits(crema: &Crema, keys: &[String]) -> Duration {
    let began = now();
    for key in keys {
        let mut client = crema.client();
        let before = crema.outcomes("hit");
        eventually("L1 answers", || {
            if client.try_cmd(&["GET", key]).is_err() {
                client = crema.client();
            }
            crema.outcomes("hit") > before
        });
    }
    Duration::from_nanos(now() - began)
}

impl Findings {
    /// Fails unless every hit was fresh, no write was done twice, and none was lost that the fault does not explain.
    #[track_caller]
    pub fn hold(&self, what: &str, may_lose: bool) {
        eprintln!("{what}: {self}");
        assert!(self.verdict.violations.is_empty(), "{what}: {self}");
        assert!(self.doubled.is_empty(), "{what}: done twice: {:?}", self.doubled);
        let second = nanos(Duration::from_secs(1));
        let unexplained = |(_, acked): &&(String, Time)| !may_lose || *acked + second < self.span.0;
        let lost: Vec<_> = self.lost.iter().filter(unexplained).collect();
        assert!(lost.is_empty(), "{what}: acknowledged and lost: {lost:?}");
        for redirect in ["MOVED", "ASK", "TRYAGAIN"] {
            let told = self.errors.get(&format!("Proxy(0): {redirect}"));
            assert!(told.is_none(), "{what}: clients are told of {redirect}: {self}");
        }
        assert!(self.verdict.reads > 100 && self.verdict.writes > 50, "{what}: too little to mean anything: {self}");
    }
}

impl Display for Findings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Findings { verdict, lost, doubled, answered, refused, errors, span } = self;
        let took = Duration::from_nanos(span.1 - span.0);
        write!(
            out,
            "{took:?}; of {answered} reads judged: {verdict}; {} writes lost, {} doubled",
            lost.len(),
            doubled.len()
        )?;
        write!(out, "; {refused} writes through the proxy not acknowledged; {errors:?}")
    }
}

fn settle(
    accounts: &[Account],
    keys: &[String],
    last: &[Vec<u8>],
    max_staleness: Duration,
    span: (Time, Time),
) -> Findings {
    let mut places: Vec<HashMap<&[u8], u64>> = vec![HashMap::new(); keys.len()];
    let mut doubled = Vec::new();
    for (key, content) in last.iter().enumerate() {
        for (place, word) in content.split(|byte| *byte == b';').filter(|word| !word.is_empty()).enumerate() {
            if places[key].insert(word, place as u64 + 1).is_some() {
                doubled.push(format!("{} in {}", String::from_utf8_lossy(word), keys[key]));
            }
        }
    }
    let mut logs = Vec::new();
    let (mut missed, mut answered, mut refused) = (Vec::new(), 0, 0);
    let mut errors = HashMap::<String, usize>::new();
    for account in accounts {
        for (text, count) in &account.errors {
            *errors.entry(text.clone()).or_default() += count;
        }
        let mut log = Log::new(Via::Proxy(0));
        for event in &account.events {
            match event {
                Event::Wrote { key, word, begun, acked, via } => {
                    refused += usize::from(*via != Via::Redis && acked.is_none());
                    match (places[*key].get(word.as_bytes()), acked) {
                        (Some(place), _) => log.wrote(judge::Write {
                            key: *key,
                            order: *place,
                            becomes: Seen::value(place.to_string()),
                            begun: *begun,
                            acked: acked.unwrap_or(Time::MAX),
                            via: *via,
                        }),
                        (None, Some(acked)) => missed.push((format!("{word} in {} by {via:?}", keys[*key]), *acked)),
                        (None, None) => {}
                    }
                }
                Event::Read { key, content, sent, received } => {
                    answered += 1;
                    if received - sent >= nanos(LANE) {
                        continue;
                    }
                    let seen = match common(&account.contents[*content], &last[*key]) {
                        0 => Seen::ABSENT,
                        words => Seen::value(words.to_string()),
                    };
                    log.read(judge::Read { key: *key, by: "GET", seen, sent: *sent, received: *received });
                }
            }
        }
        logs.push(log);
    }
    let verdict = judge::judge(&logs, keys, Rules { max_staleness, monotone: false });
    Findings { verdict, lost: missed, doubled, answered, refused, errors, span }
}

/// How many whole words two contents begin with alike.
fn common(one: &[u8], other: &[u8]) -> usize {
    let same = one.iter().zip(other).take_while(|(one, other)| one == other);
    same.filter(|(byte, _)| **byte == b';').count()
}

fn content(value: &Value) -> Vec<u8> {
    match value {
        Value::Bulk(bytes) => bytes.clone(),
        Value::Nil => Vec::new(),
        other => panic!("no content: {other:?}"),
    }
}

/// By what way a writer writes.
enum Road<'a> {
    Proxy(SocketAddr, Option<Client>),
    Past(Router<'a>),
}

fn write(road: &mut Road<'_>, n: usize, keys: &[String], rest: Duration, done: &AtomicBool) -> Account {
    let mut account = Account::default();
    for turn in 0.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        // Another order for everybody, in which every key comes.
        let key = (turn * (2 * n + 1) + n * 7) % keys.len();
        let word = format!("{n}.{turn}");
        let command = ["APPEND", &keys[key], &format!("{word};")];
        let begun = now();
        let (reply, via) = match road {
            Road::Proxy(addr, client) => (through(*addr, client, &command), Via::Proxy(0)),
            Road::Past(router) => (router.call(&keys[key], &command), Via::Redis),
        };
        let acked = match reply {
            Some(Value::Int(_)) => Some(now()),
            Some(other) => {
                account.error(&other.text(), via);
                // Redis says that it has not done it, so it would be an error if it had.
                None
            }
            None => {
                account.error("no answer", via);
                None
            }
        };
        account.events.push(Event::Wrote { key, word, begun, acked, via });
        std::thread::sleep(rest);
    }
    account
}

fn read(addr: SocketAddr, n: usize, readers: usize, keys: &[String], done: &AtomicBool, hits: &AtomicUsize) -> Account {
    let mut account = Account::default();
    let own: Vec<usize> = (0..keys.len()).filter(|key| key % readers == n).collect();
    let mut client = None;
    for turn in 0.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let key = own[turn % own.len()];
        let sent = now();
        match through(addr, &mut client, &["GET", &keys[key]]) {
            Some(value @ (Value::Bulk(_) | Value::Nil)) => {
                let received = now();
                hits.fetch_add(usize::from(received - sent < nanos(LANE)), Ordering::Relaxed);
                let content = account.intern(content(&value));
                account.events.push(Event::Read { key, content, sent, received });
            }
            Some(other) => account.error(&other.text(), Via::Proxy(0)),
            None => account.error("no answer", Via::Proxy(0)),
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    account
}

impl Account {
    fn intern(&mut self, content: Vec<u8>) -> usize {
        *self.known.entry(content).or_insert_with_key(|content| {
            self.contents.push(content.clone());
            self.contents.len() - 1
        })
    }

    fn error(&mut self, text: &str, via: Via) {
        let kind = text.split(' ').next().expect("split yields at least one part");
        let kind = if text == "no answer" { text } else { kind };
        *self.errors.entry(format!("{via:?}: {kind}")).or_default() += 1;
    }
}

/// The proxy's answer; none where it closes, and the next goes on another connection.
fn through(addr: SocketAddr, client: &mut Option<Client>, command: &[&str]) -> Option<Value> {
    if client.is_none() {
        *client = Client::try_connect(addr).ok();
    }
    let reply = client.as_mut().and_then(|client| client.try_cmd(command).ok());
    if reply.is_none() {
        *client = None;
        std::thread::sleep(Duration::from_millis(2));
    }
    reply
}

/// A client of clusters, as simple as can be.
struct Router<'a> {
    seeds: &'a [SocketAddr],
    next: usize,
    owners: HashMap<u16, SocketAddr>,
    clients: HashMap<SocketAddr, Client>,
}

impl<'a> Router<'a> {
    fn new(seeds: &'a [SocketAddr]) -> Router<'a> {
        Router { seeds, next: 0, owners: HashMap::new(), clients: HashMap::new() }
    }

    /// What the owner answers; none where it is not known whether the command was carried out.
    fn call(&mut self, key: &str, command: &[&str]) -> Option<Value> {
        let slot = slot_of(key);
        let mut asking = None;
        for _ in 0..6 {
            let addr = asking.or_else(|| self.owners.get(&slot).copied()).unwrap_or_else(|| {
                self.next += 1;
                self.seeds[self.next % self.seeds.len()]
            });
            let Some(reply) = self.ask(addr, asking.take().is_some(), command) else {
                self.clients.remove(&addr);
                self.owners.retain(|_, owner| *owner != addr);
                return None;
            };
            let text = if reply.is_error() { reply.text() } else { return Some(reply) };
            let place = || text.rsplit(' ').next().and_then(|place| place.parse().ok());
            match text.split(' ').next() {
                Some("MOVED") => drop(self.owners.insert(slot, place()?)),
                Some("ASK") => asking = place(),
                _ => {
                    self.owners.remove(&slot);
                    return Some(reply);
                }
            }
        }
        Some(Value::Error("MOVED too often".to_owned()))
    }

    fn ask(&mut self, addr: SocketAddr, asking: bool, command: &[&str]) -> Option<Value> {
        if let std::collections::hash_map::Entry::Vacant(e) = self.clients.entry(addr) {
            let mut client = Client::try_connect(addr).ok()?;
            client.patience(PATIENCE);
            e.insert(client);
        }
        let client = self.clients.get_mut(&addr)?;
        if asking {
            client.try_cmd(&["ASKING"]).ok()?;
        }
        client.try_cmd(command).ok()
    }
}
