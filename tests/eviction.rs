//! Redis evicts by use, and sees nothing of what L1 answers: whether it is told, and whether that is enough.

use std::time::{Duration, Instant};

use common::{Crema, Redis, bulk, ok, seeded, within};
use rand::Rng;

/// What L1 answers looks used to Redis, and what nobody reads does not; a Redis that does not care is not told.
#[test]
fn keys_that_l1_serves_do_not_look_idle() {
    let redis = Redis::with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let indifferent = Redis::start();
    let (crema, other) = (Crema::start(&redis), Crema::start(&indifferent));
    if crema.is_direct() {
        return;
    }
    let mut clients = [crema.client(), other.client()];
    for client in &mut clients {
        for db in ["3", "0"] {
            client.cmd(&["SELECT", db]);
            client.pipeline(&[["SET", "hot", "v"], ["SET", "cold", "v"]]);
            assert_eq!(client.cmd(&["HSET", "hash", "f", "v"]), common::int(1));
        }
    }
    for crema in [&crema, &other] {
        crema.warm(&["GET", "cold"]);
    }
    let [asked, gets] = ["touch", "get"].map(|command| redis.calls(command));
    let blind = crema.outcomes("blind");
    let begun = Instant::now();
    let touched = || crema.count("crema_touched_keys_total", &[]);
    within(Duration::from_secs(60), "two rounds of touches", || {
        for client in &mut clients {
            for db in ["3", "0"] {
                client.cmd(&["SELECT", db]);
                assert_eq!(client.cmd(&["GET", "hot"]), bulk("v"));
                assert_eq!(client.cmd(&["HGET", "hash", "f"]), bulk("v"));
            }
        }
        std::thread::sleep(Duration::from_millis(20));
        // Four keys each time, and the one that was warmed in the first.
        touched() >= 9
    });
    let calls = redis.calls("touch") - asked;
    assert!(calls >= 4, "two databases, two rounds: {calls}");
    assert!(redis.calls("get") - gets < 20 + crema.outcomes("blind") - blind, "it was L1 that answered");
    let mut direct = redis.client();
    for db in ["3", "0"] {
        direct.cmd(&["SELECT", db]);
        for key in ["hot", "hash"] {
            let idle = direct.cmd(&["OBJECT", "IDLETIME", key]).number();
            assert!(idle <= 3, "{key} in {db} looks idle for {idle} s");
        }
    }
    let idle = direct.cmd(&["OBJECT", "IDLETIME", "cold"]).number();
    assert!(idle >= 8, "cold looks idle for {idle} s, {:?} after the beginning", begun.elapsed());
    assert_eq!(indifferent.calls("touch"), 0);
}

/// An application that reads through: what is missing it writes. As many keys as fill Redis's memory twice, asked for by
/// Zipf's law, so slowly that a key's stay is long against the rounds. A second Redis without L1 shows what there is to reach,
/// a third one that knows no TOUCH what would be without. Takes two minutes, therefore run by hand:
/// `cargo nextest run --test eviction --run-ignored only --no-capture`.
#[test]
#[ignore = "takes two minutes"]
fn the_hit_ratio_of_a_redis_of_half_the_size_is_no_worse_than_without_l1() {
    const KEYS: u32 = 20_000;
    const VALUE: u32 = 4_000;
    let mut rng = seeded("zipf");
    let weights = (1..=KEYS).map(|rank| f64::from(rank).powf(-0.9));
    let cumulated: Vec<f64> = weights.scan(0.0, |sum, weight| Some(std::mem::replace(sum, *sum + weight))).collect();
    let redises = [&[][..], &[], &["--rename-command", "TOUCH", "\"\""]].map(|more| {
        let redis = Redis::with(&[&["--maxmemory-policy", "allkeys-lru", "--maxmemory-samples", "10"], more].concat());
        // Beside its value, a key takes about 150 bytes.
        let limit = redis.info("memory", "used_memory") + u64::from(KEYS * (VALUE + 150) / 2);
        assert_eq!(redis.client().cmd(&["CONFIG", "SET", "maxmemory", &limit.to_string()]), ok());
        redis
    });
    let promote = [0, 10, 10];
    let cremas = [0, 1, 2].map(|at| Crema::over(redises[at].addr()).flag("--promote", promote[at]).start());
    let mut clients = cremas.each_ref().map(Crema::client);
    let value = "v".repeat(VALUE as usize);
    let (mut reads, mut found) = (0, [0; 3]);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(120) {
        for _ in 0..20 {
            let at = rng.random_range(0.0..cumulated[cumulated.len() - 1]);
            let key = format!("key:{}", cumulated.partition_point(|&below| below < at));
            // The first minute fills the memory.
            let counts = begun.elapsed() > Duration::from_secs(60);
            reads += u64::from(counts);
            for (client, found) in clients.iter_mut().zip(&mut found) {
                if client.cmd(&["GET", &key]).is_nil() {
                    client.cmd(&["SET", &key, &value]);
                } else {
                    *found += u64::from(counts);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(15));
    }
    let [without, with, untold] = found.map(|found| percent(found, reads));
    let evicted = redises.each_ref().map(|redis| redis.info("stats", "evicted_keys"));
    let touched = cremas[1].count("crema_touched_keys_total", &[]);
    let share = percent(cremas[1].outcomes("hit"), cremas[1].count("crema_requests_total", &[]));
    eprintln!("{reads} reads; found: {without:.2} % without L1, {with:.2} % with it, {untold:.2} % without TOUCH");
    eprintln!("L1 answered {share:.1} %; evicted {evicted:?}, touched {touched}");
    assert!(evicted.iter().all(|&evicted| evicted > 1_000), "memory was no matter");
    assert!(touched > 1_000 && share > 30.0, "L1 took no part");
    assert!(with > without - 0.5, "{with:.2} % against {without:.2} %");
}

fn percent(part: u64, whole: u64) -> f64 {
    let [part, whole] = [part, whole].map(|n| f64::from(u32::try_from(n).expect("few")));
    100.0 * part / whole
}
