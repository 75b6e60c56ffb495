//! `[[rule]]`: other settings for keys that match a pattern, shown by what enters L1, how soon, and for how long.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::link::Way;
use common::{Crema, Link, Redis, Value, bulk, eventually, ok};

/// A proxy with these rules and flags.
fn with_rules(upstream: SocketAddr, rules: &str, flags: &[(&str, &str)]) -> Crema {
    let launch = Crema::over(upstream).settings(rules);
    flags.iter().fold(launch, |launch, (name, value)| launch.flag(name, value)).start()
}

/// Fills that were sent, whatever became of them, once all that was promoted is done.
fn fills(crema: &Crema) -> u64 {
    let asked = || crema.count("crema_promotions_total", &[]);
    let done = || crema.count("crema_fills_total", &[]);
    eventually("the fills are done", || done() >= asked());
    done()
}

#[test]
fn a_class_is_the_longest_stay_in_l1() {
    let redis = Redis::start();
    let crema = with_rules(redis.addr(), "[[rule]]\nmatch = \"short:*\"\nclass = \"100ms\"\n", &[]);
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    client.pipeline(&[["SET", "short:k", "v"], ["SET", "long:k", "v"]]);
    crema.warm(&["GET", "long:k"]);
    let gets = crema.with_lease(|| {
        redis.calls_in("get", || (0..100).for_each(|_| assert_eq!(client.cmd(&["GET", "long:k"]), bulk("v"))))
    });
    assert_eq!(gets, 0, "no rule matches it");
    crema.warm(&["GET", "short:k"]);
    // When a stay is over, the next read begins another. The first of them may be over at once.
    let begun = Instant::now();
    for _ in 0..4 {
        for (outcome, what) in [("hit", "it stays"), ("lead", "it stays no longer than it may")] {
            let before = crema.outcomes(outcome);
            eventually(what, || {
                assert_eq!(client.cmd(&["GET", "short:k"]), bulk("v"));
                crema.outcomes(outcome) > before
            });
        }
    }
    assert!(begun.elapsed() > Duration::from_millis(300), "three stays over after {:?}", begun.elapsed());
}

#[test]
fn never_means_that_nothing_enters_l1_and_flights_are_still_shared() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let rules = "[[rule]]\nmatch = \"n:*\"\npromote = \"never\"\n";
    // A flight may be joined for as long as that.
    let crema = with_rules(link.addr(), rules, &[("--threads", "1"), ("--max-staleness", "60s")]);
    if crema.is_direct() {
        return;
    }
    let (mut one, mut other) = (crema.client(), crema.client());
    assert_eq!(one.cmd(&["SET", "n:k", "v"]), ok());
    for client in [&mut one, &mut other] {
        (0..50).for_each(|_| assert_eq!(client.cmd(&["GET", "n:k"]), bulk("v")));
    }
    assert_eq!((crema.outcomes("disabled"), fills(&crema)), (100, 0));
    link.hold(Way::Replies);
    one.send_cmd(&["GET", "n:k"]);
    eventually("the first read is under way", || crema.waiting() == 1);
    other.send_cmd(&["GET", "n:k"]);
    eventually("so is the second one", || crema.waiting() == 2);
    link.thaw();
    assert_eq!((one.value(), other.value()), (bulk("v"), bulk("v")));
    assert_eq!((crema.outcomes("disabled"), crema.outcomes("joined")), (101, 1), "it joined");
    assert_eq!(other.cmd(&["GET", "n:k"]), bulk("v"));
    assert_eq!((crema.outcomes("hit"), fills(&crema)), (0, 0), "not even what was joined is promoted");
    // Keys that the rule does not match are none of its business.
    crema.warm(&["GET", "other"]);
}

#[test]
fn a_rule_promotes_where_nothing_else_is_promoted() {
    let redis = Redis::start();
    let rules = "[[rule]]\nmatch = \"hot:*\"\npromote = 1\n[[rule]]\nmatch = \"hot:x*\"\npromote = \"never\"\n";
    let crema = with_rules(redis.addr(), rules, &[("--promote", "0")]);
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    for key in ["cold", "hot", "xhot:"] {
        (0..20).for_each(|_| assert_eq!(client.cmd(&["GET", key]), Value::Nil));
    }
    assert_eq!(fills(&crema), 0);
    for key in ["hot:1", "hot:x"] {
        crema.warm(&["GET", key]); // of the second, the first rule decides
    }
    assert_eq!(crema.outcomes("disabled"), 0);
}

#[test]
fn the_largest_reply_is_that_of_the_rule_be_it_larger_or_smaller() {
    let redis = Redis::start();
    let rules = "[[rule]]\nmatch = \"big:*\"\nmax_value = \"512KiB\"\n[[rule]]\nmatch = \"small:*\"\nmax_value = 100\n";
    let crema = with_rules(redis.addr(), rules, &[("--max-value", "1KiB")]);
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let (large, medium) = ("x".repeat(400_000), "x".repeat(500));
    for (key, value) in [("big:k", &large), ("k", &large), ("small:k", &medium), ("m", &medium)] {
        client.cmd(&["SET", key, value]);
    }
    crema.warm(&["GET", "big:k"]);
    crema.warm(&["GET", "m"]);
    let hits = crema.outcomes("hit");
    for (key, value) in [("k", &large), ("small:k", &medium)] {
        (0..20).for_each(|_| assert_eq!(client.cmd(&["GET", key]), bulk(value)));
    }
    assert_eq!(crema.outcomes("hit"), hits);
    let too_large = || crema.count("crema_promotions_dropped_total", &[("reason", "too_large")]);
    eventually("all are too large", || too_large() >= 40);
    assert_eq!(too_large(), 40);
    assert_eq!(crema.hit(&mut client, &["GET", "big:k"]), bulk(&large));
}
