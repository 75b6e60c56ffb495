//! An ear that hears late while lanes are quick: what L1 may not answer yet, Redis answers, and nobody waits for the ear.

use std::time::{Duration, Instant};

use common::{Client, Crema, Link, Redis, bulk, eventually, ok};

/// What an ear sends first, and nobody else.
const EAR: &str = "crema-ear";
const LATE: Duration = Duration::from_millis(300);
const SCRIPT: &str = "return redis.call('SET', ARGV[1], ARGV[2])";

/// How long each of these reads took, each right behind a script that changed what it reads.
fn reads_behind_scripts(client: &mut Client, rounds: u32) -> Vec<Duration> {
    let mut took: Vec<Duration> = (0..rounds)
        .map(|n| {
            let value = n.to_string();
            assert_eq!(client.cmd(&["EVAL", SCRIPT, "0", "other", &value]), ok());
            let begun = Instant::now();
            assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
            let took = begun.elapsed();
            assert_eq!(client.cmd(&["GET", "other"]), bulk(&value));
            took
        })
        .collect();
    took.sort();
    took
}

#[test]
fn reads_do_not_wait_for_an_ear_that_hears_late() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    link.late(EAR, Duration::ZERO);
    let crema = Crema::over(link.addr()).flag("--max-staleness", "2s").start();
    if crema.is_direct() {
        return;
    }
    let mut clients = [crema.client(), crema.client()];
    clients[1].cmd(&["CLIENT", "ID"]); // so that it has a connection of its own
    clients[0].cmd(&["SET", "k", "v"]);
    crema.warm(&["GET", "k"]);
    link.late(EAR, LATE);
    for client in &mut clients {
        let took = reads_behind_scripts(client, 21);
        assert!(took[10] < LATE / 3, "{took:?}");
    }
    // And once it hears in time, L1 answers again.
    link.late(EAR, Duration::ZERO);
    let before = crema.outcomes("hit");
    eventually("L1 answers behind a script", || {
        reads_behind_scripts(&mut clients[0], 1);
        crema.outcomes("hit") > before
    });
}

/// Where a lane is as slow as the ear, a read is no quicker there, and L1 answers as soon as it may.
#[test]
fn what_redis_would_take_as_long_for_waits_for_the_ear() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    link.delay(Duration::from_millis(40));
    let crema = Crema::over(link.addr()).flag("--max-staleness", "2s").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    client.cmd(&["SET", "k", "v"]);
    crema.warm(&["GET", "k"]);
    let hits = crema.outcomes("hit");
    for n in 0..10 {
        client.cmd(&["EVAL", SCRIPT, "0", "other", &n.to_string()]);
        client.cmd(&["GET", "k"]);
    }
    assert!(crema.outcomes("hit") > hits + 3, "{} of ten", crema.outcomes("hit") - hits);
}
