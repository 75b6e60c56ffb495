//! What Redis tells nobody: that its clock was set forward, and that databases were swapped, by whom and however it may be.

mod common;

use std::time::{Duration, Instant};

use common::{AT_LAST, Client, Crema, MAX_STALENESS, Redis, Value, bulk, eventually, ok};

/// Reads `k` of this client until it is what Redis has, and says for how long it was not: before the read was asked for.
fn outdated(client: &mut Client, read: &[&str], now: &Value) -> Duration {
    let begun = Instant::now();
    loop {
        let asked = begun.elapsed();
        if client.cmd(read) == *now {
            return asked;
        }
        assert!(asked < AT_LAST, "{read:?} is never {now:?}");
    }
}

#[test]
fn keys_that_expire_because_redis_was_set_forward_are_not_served_for_longer_than_the_bound() {
    let Some(redis) = Redis::with_a_clock() else { return eprintln!("no Valkey, or no libfaketime") };
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    // As where there are so many that it takes seconds until Redis comes by and tells.
    assert_eq!(redis.client().cmd(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]), ok());
    for hour in 1..=3 {
        let keys: Vec<String> = (0..500).map(|n| format!("k{n}")).collect();
        let sets: Vec<[&str; 5]> = keys.iter().map(|key| ["SET", key, "v", "EX", "1000"]).collect();
        redis.client().pipeline(&sets);
        let gets: Vec<[&str; 2]> = keys.iter().map(|key| ["GET", key.as_str()]).collect();
        let hits = || if crema.is_direct() { u64::MAX } else { crema.outcomes("hit") };
        let before = hits();
        eventually("they are in L1", || {
            client.pipeline(&gets);
            crema.is_direct() || hits() - before > gets.len() as u64
        });
        redis.set_clock(&format!("+{hour}h"));
        let set = Instant::now();
        loop {
            let asked = set.elapsed();
            let left = client.pipeline(&gets).iter().filter(|value| **value != Value::Nil).count();
            if left == 0 {
                break;
            }
            assert!(asked < MAX_STALENESS, "{left} keys are served that have expired");
        }
        if !crema.is_direct() {
            assert!(crema.count("crema_epochs_total", &[("reason", "clock")]) >= hour);
        }
    }
}

/// By whom and however: directly, in a transaction, by a script, with nobody left to tell of it.
#[test]
fn a_swap_that_nobody_tells_of_is_seen_within_the_bound() {
    for redis in [Some(Redis::start()), Redis::valkey()].into_iter().flatten() {
        let crema = Crema::start(&redis);
        let (mut direct, mut client) = (redis.client(), crema.client());
        direct.pipeline(&[&["SET", "k", "zero"][..], &["SELECT", "1"], &["SET", "k", "one"], &["SELECT", "0"]]);
        let ways: [&dyn Fn(&mut Client); 4] = [
            &|direct| assert_eq!(direct.cmd(&["SWAPDB", "0", "1"]), ok()),
            &|direct| drop(direct.pipeline(&[&["MULTI"][..], &["SWAPDB", "0", "1"], &["EXEC"]])),
            &|direct| assert!(!direct.cmd(&["EVAL", "return redis.call('swapdb', 0, 1)", "0"]).is_error()),
            &|_| assert!(!crema.client().cmd(&["EVAL", "return redis.call('swapdb', 0, 1)", "0"]).is_error()),
        ];
        for (round, swap) in ways.iter().cycle().take(12).enumerate() {
            crema.warm(&["GET", "k"]);
            swap(&mut direct);
            let now = bulk(if round % 2 == 0 { "one" } else { "zero" });
            let outdated = outdated(&mut client, &["GET", "k"], &now);
            assert!(outdated <= MAX_STALENESS || crema.is_direct(), "{outdated:?} in round {round}");
        }
    }
}

/// Who may not ask is served as before.
#[test]
fn a_user_who_may_not_ask_what_nobody_tells_is_cached_all_the_same() {
    let redis = Redis::start();
    redis.client().cmd(&["ACL", "SETUSER", "u", "on", ">pw", "~*", "&*", "+@all", "-time", "-latency"]);
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    assert_eq!(client.cmd(&["AUTH", "u", "pw"]), ok());
    redis.client().cmd(&["SET", "k", "v"]);
    let hits = || if crema.is_direct() { u64::MAX } else { crema.outcomes("hit") };
    eventually("L1 answers", || client.cmd(&["GET", "k"]) == bulk("v") && hits() > 0);
    if !crema.is_direct() {
        eventually("it is told", || {
            crema.has_logged("goes without TIME") && crema.has_logged("goes without LATENCY HISTOGRAM")
        });
    }
    // It is asked once, not with each fence: each refusal is an entry in Redis's ACL LOG.
    eventually("the lease is renewed now and then", || redis.calls("hello") > 20);
    let Value::Array(log) = redis.client().cmd(&["ACL", "LOG"]) else { panic!("an array") };
    assert!(log.len() < 4, "{log:?}");
}
