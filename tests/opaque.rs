//! Opaque writes: what a script has replaced nobody is shown once it is answered, whoever waits for the fence, it or L1.
//!
//! Between proxy and Redis stands a link on which all that the ear hears comes late, so that a hit that is given too early
//! is given for certain, and not once in a million. A script that is answered before the ear has heard of it is one for
//! which L1 waits; one that is answered after is one that waited itself, or was slow. Both must be seen to happen.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Client, Crema, Link, MAX_STALENESS, Redis, Stop, bulk, ok, seeded};
use rand::Rng;
use rand::rngs::SmallRng;

/// What an ear sends first, and nobody else.
const EAR: &str = "crema-ear";
/// How late the ear hears everything.
const LATE: Duration = Duration::from_millis(3);
/// Sets a key that it does not declare.
const SCRIPT: &str = "return redis.call('SET', ARGV[1], ARGV[2])";

/// A proxy whose ears hear everything so much later.
fn hard_of_hearing(redis: &Redis, late: Duration) -> (Link, Crema) {
    let link = Link::to(redis.addr());
    link.late(EAR, late);
    let crema = Crema::over(link.addr()).start();
    (link, crema)
}

#[test]
fn scripts_between_which_nobody_asks_l1_cost_no_fence_and_do_not_wait() {
    let redis = Redis::start();
    let (_link, crema) = hard_of_hearing(&redis, Duration::from_millis(50));
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    client.cmd(&["SET", "k", "v"]);
    crema.warm(&["GET", "k"]);
    client.cmd(&["EVAL", "return 1", "0"]);
    let begun = Instant::now();
    let fences = redis.calls_in("hello", || {
        for _ in 0..2_000 {
            client.cmd(&["EVAL", "return 1", "0"]);
        }
    });
    let took = begun.elapsed();
    // Each would have waited for 50 ms. The lease is renewed meanwhile.
    assert!(took < Duration::from_millis(50) * 500, "{took:?}");
    assert!(fences < 100 + took.as_millis() as u64 / 50, "{fences} fences");
}

#[test]
fn who_reads_all_the_time_does_not_notice_scripts() {
    let redis = Redis::start();
    let (_link, crema) = hard_of_hearing(&redis, Duration::from_millis(30));
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    client.cmd(&["SET", "k", "v"]);
    crema.warm(&["GET", "k"]);
    let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = crema.client();
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _stop = Stop(&done);
        let count = || (reads.load(Ordering::Relaxed), crema.outcomes("hit"));
        // Were it they who wait, each would read about once in 30 ms. Now and then a machine does something else.
        let is_unnoticed = (0..5).any(|_| {
            let (before, end) = (count(), Instant::now() + Duration::from_secs(2));
            while Instant::now() < end {
                client.cmd(&["EVAL", SCRIPT, "0", "other", "v"]);
            }
            let (reads, hits) = count();
            reads - before.0 > 1_000 && hits - before.1 > 1_000
        });
        assert!(is_unnoticed, "reads and hits: {:?}", count());
    });
}

#[test]
fn a_script_is_answered_though_the_ear_hears_nothing_and_what_it_changed_is_seen() {
    let redis = Redis::start();
    let (link, crema) = hard_of_hearing(&redis, Duration::ZERO);
    if crema.is_direct() {
        return;
    }
    // The ear is given up after two seconds of silence; to wait for that would be too long.
    let (mut client, mut quickest) = (crema.client(), Duration::MAX);
    for n in 0..4 {
        let value = n.to_string();
        client.cmd(&["SET", "k", "old"]);
        crema.warm(&["GET", "k"]);
        link.late(EAR, Duration::from_secs(60));
        let begun = Instant::now();
        assert_eq!(client.cmd(&["EVAL", SCRIPT, "0", "k", &value]), ok());
        assert_eq!(client.cmd(&["GET", "k"]), bulk(&value));
        quickest = quickest.min(begun.elapsed());
        link.late(EAR, Duration::ZERO);
    }
    assert!(quickest < MAX_STALENESS * 3, "{quickest:?}");
}

#[test]
fn nobody_is_shown_what_a_script_has_replaced() {
    let redis = Redis::start();
    play_until(&redis, false, 600, |it| it.at_once > 50 && it.hits > 500);
}

#[test]
fn nobody_is_shown_what_a_script_has_replaced_while_l1_is_busy() {
    let redis = Redis::start();
    play_until(&redis, true, 300, |it| it.waited > 200 && it.hits > 10_000);
}

#[test]
fn nobody_is_shown_what_a_script_has_replaced_on_valkey() {
    let Some(valkey) = Redis::valkey() else { return };
    play_until(&valkey, false, 200, |it| it.at_once > 20 && it.hits > 100);
    play(&valkey, true, 100);
}

#[test]
fn nobody_is_shown_what_a_script_has_replaced_while_ears_are_lost() {
    let redis = Redis::start();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = redis.client();
            while !done.load(Ordering::Relaxed) {
                for ear in redis.client_list().iter().filter(|line| line.contains(EAR)) {
                    let id = ear.split_whitespace().find_map(|field| field.strip_prefix("id=")).expect("an id");
                    client.cmd(&["CLIENT", "KILL", "ID", id]);
                }
                std::thread::sleep(Duration::from_millis(150));
            }
        });
        let played = [play(&redis, false, 400), play(&redis, true, 200)];
        done.store(true, Ordering::Relaxed);
        assert!(played.iter().all(|played| played.has(|it| it.hits > 100)), "{played:?}");
    });
}

/// What happened in a game.
#[derive(Debug, Default)]
struct Played {
    /// No L1, or one that forgets everything with each script: where its writers tell it of changes.
    without_hits: bool,
    /// Opaque writes that were answered before, and after, the ear can have heard of them.
    at_once: u64,
    waited: u64,
    hits: u64,
}

impl Played {
    fn has(&self, check: impl Fn(&Self) -> bool) -> bool {
        self.without_hits || check(self)
    }
}

/// Plays until enough has happened: on a slow machine few scripts are answered at once.
fn play_until(redis: &Redis, busy: bool, tries: u64, enough: impl Fn(&Played) -> bool) {
    let games: Vec<Played> = (0..5).map(|_| play(redis, busy, tries)).take_while(|game| !game.has(&enough)).collect();
    assert!(games.len() < 5, "{games:?}");
}

/// Four writers write `tries` times each, a key of their own, in every way that is opaque. After each answer, sessions of two
/// users, in both versions, must read what was written, the writer's own among them. `busy`: L1 is asked by others all the time.
fn play(redis: &Redis, busy: bool, tries: u64) -> Played {
    let (_link, crema) = hard_of_hearing(redis, LATE);
    redis.client().cmd(&["ACL", "SETUSER", "other", "on", ">pw", "~*", "&*", "+@all"]);
    redis.client().cmd(&["SET", "hot", "v"]);
    crema.warm(&["GET", "hot"]);
    let done = AtomicBool::new(false);
    let (at_once, waited) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..if busy { 6 } else { 0 } {
            scope.spawn(|| {
                let mut client = crema.client();
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(client.cmd(&["GET", "hot"]), bulk("v"));
                }
            });
        }
        let writers: Vec<_> = (0..4)
            .map(|n| {
                let (crema, at_once, waited) = (&crema, &at_once, &waited);
                scope.spawn(move || {
                    let mut rng = seeded(&format!("writer {n}"));
                    let key = format!("key:{n}");
                    let mut readers = [crema.client(), crema.resp3(), login(crema), login(crema)];
                    for version in 0..tries {
                        let value = format!("{key}={version}");
                        let begun = Instant::now();
                        let writer = &mut readers[rng.random_range(0..4)];
                        write(writer, &mut rng, &key, &value);
                        let count = if begun.elapsed() < LATE { at_once } else { waited };
                        count.fetch_add(1, Ordering::Relaxed);
                        // Who reads first, and how long after the answer, is a matter of chance.
                        let first = rng.random_range(0..4);
                        rest(&mut rng, LATE);
                        for turn in 0..8 {
                            let reader = &mut readers[(first + turn) % 4];
                            let read = if turn == 5 { reader.cmd(&["MGET", &key]) } else { reader.cmd(&["GET", &key]) };
                            let read = if turn == 5 { read.items()[0].clone() } else { read };
                            assert_eq!(read, bulk(&value), "read {turn} after the answer");
                        }
                        rest(&mut rng, LATE * 4); // so that at times L1 holds it when it is written next
                    }
                })
            })
            .collect();
        let failed = writers.into_iter().filter_map(|writer| writer.join().err()).last();
        done.store(true, Ordering::Relaxed);
        if let Some(panic) = failed {
            std::panic::resume_unwind(panic);
        }
    });
    let told_by_writers = std::env::var("CREMA_TEST_COHERENCE").is_ok_and(|means| means == "channel");
    let without_hits = crema.is_direct() || told_by_writers;
    let hits = if without_hits { 0 } else { crema.outcomes("hit") };
    Played { without_hits, at_once: at_once.into_inner(), waited: waited.into_inner(), hits }
}

/// Every second time, waits for up to so long.
fn rest(rng: &mut SmallRng, longest: Duration) {
    if rng.random_bool(0.5) {
        std::thread::sleep(longest.mul_f64(rng.random()));
    }
}

fn login(crema: &Crema) -> Client {
    let mut client = crema.client();
    assert_eq!(client.cmd(&["AUTH", "other", "pw"]), ok());
    client
}

/// Sets the key, in one of the ways of which nobody can tell.
fn write(client: &mut Client, rng: &mut SmallRng, key: &str, value: &str) {
    match rng.random_range(0..4) {
        0 => assert_eq!(client.cmd(&["EVAL", SCRIPT, "0", key, value]), ok()),
        1 => {
            let digest = client.cmd(&["SCRIPT", "LOAD", SCRIPT]).text();
            assert_eq!(client.cmd(&["EVALSHA", &digest, "0", key, value]), ok());
        }
        2 => {
            let scripts = [&["MULTI"][..], &["EVAL", SCRIPT, "0", key, value], &["EXEC"]];
            assert_eq!(client.pipeline(&scripts)[2].items(), [ok()]);
        }
        _ => {
            let scripts = [&["EVAL", SCRIPT, "0", key, "no"][..], &["GET", key], &["EVAL", SCRIPT, "0", key, value]];
            assert_eq!(client.pipeline(&scripts), [ok(), bulk("no"), ok()]);
        }
    }
}
