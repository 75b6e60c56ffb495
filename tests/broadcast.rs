//! Coherence by broadcast: what is promised is what is promised otherwise.

use std::time::{Duration, Instant};

use common::{Crema, MAX_STALENESS, Redis, bulk, eventually, ok};

fn broadcasting(redis: &Redis, prefixes: &str) -> Crema {
    Crema::over(redis.addr()).flag("--coherence", "broadcast").flag("--broadcast-prefixes", prefixes).start()
}

#[test]
fn changes_are_heard_of_and_only_keys_with_a_prefix_are_kept() {
    let redis = Redis::start();
    let crema = broadcasting(&redis, "a:,b:");
    let (mut client, mut direct) = (crema.client(), redis.client());
    for key in ["a:1", "b:1", "c:1"] {
        direct.cmd(&["SET", key, "old"]);
    }
    crema.warm(&["GET", "a:1"]);
    crema.warm(&["GET", "b:1"]);
    let hits = crema.outcomes("hit");
    for _ in 0..20 {
        assert_eq!(client.cmd(&["GET", "c:1"]), bulk("old"));
    }
    assert_eq!(crema.outcomes("hit"), hits, "of its changes nobody would tell");
    eventually("none was promoted", || crema.count("crema_promotions_dropped_total", &[("reason", "no_prefix")]) >= 20);
    for round in 0..100 {
        let value = round.to_string();
        assert_eq!(direct.cmd(&["SET", "a:1", &value]), ok());
        eventually("the change is seen", || client.cmd(&["GET", "a:1"]) == bulk(&value));
    }
    direct.cmd(&["FLUSHALL"]);
    eventually("the flush is seen", || client.cmd(&["GET", "b:1"]).is_nil());
    let tracking = redis.client_list().iter().filter(|line| line.contains("name=crema-ear")).count();
    assert_eq!(tracking, 1);
    assert_eq!(redis.info("stats", "tracking_total_keys"), 0, "Redis remembers nothing");
    let (_, status) = crema.admin("/api/status").expect("answers");
    assert!(status.contains(r#""coherence":"broadcast""#), "{status}");
}

/// Redis tells of changes when a turn of its event loop ends. A script that runs for long does so within one turn, in which
/// Redis sends the reply to an earlier write, and answers HELLO, before it has told of that write.
#[test]
fn a_slow_script_hides_no_write_for_longer_than_promised() {
    let redis = Redis::with(&["--busy-reply-threshold", "20"]);
    let crema = broadcasting(&redis, "all");
    let mut direct = redis.client();
    direct.cmd(&["SET", "k", "old"]);
    let mut client = crema.client();
    let mut busy = redis.client();
    let mut early = 0;
    for round in 0..3 {
        crema.warm(&["GET", "k"]);
        let value = format!("new {round}");
        let script = "local t = redis.call('TIME') local n = t while (n[1] - t[1]) * 1000000 + n[2] - t[2] < 1500000 do n = redis.call('TIME') end";
        // Both wait while Redis stands still, and are then taken up in one turn, the write first.
        let frozen = redis.freeze();
        direct.send_cmd(&["SET", "k", &value]);
        redis.awaits(&direct);
        busy.send_cmd(&["EVAL", script, "0"]);
        redis.awaits(&busy);
        drop(frozen);
        assert_eq!(direct.value(), ok());
        let acknowledged = Instant::now();
        let mut answers = 0;
        while acknowledged.elapsed() < Duration::from_millis(1_300) {
            let asked = Instant::now();
            let reply = client.cmd(&["GET", "k"]);
            if !reply.is_error() && reply != bulk(&value) {
                let late = asked.duration_since(acknowledged);
                assert!(late <= MAX_STALENESS, "{reply:?} {late:?} after the write was acknowledged");
            }
            answers += 1;
        }
        assert!(answers > 50);
        early += u32::from(busy.is_silent_for(Duration::from_millis(1)));
        busy.value();
        eventually("the write is seen", || client.cmd(&["GET", "k"]) == bulk(&value));
    }
    assert!(early > 0, "the write was never acknowledged while the script ran");
}

#[test]
fn own_writes_and_scripts_are_seen_at_once() {
    let redis = Redis::start();
    let crema = broadcasting(&redis, "all");
    let (mut client, mut other) = (crema.client(), crema.client());
    client.cmd(&["SET", "k", "0"]);
    for round in 1..300 {
        let value = round.to_string();
        if round % 2 == 0 {
            client.cmd(&["SET", "k", &value]);
        } else {
            client.cmd(&["EVAL", "return redis.call('SET', 'k', ARGV[1])", "0", &value]);
        }
        assert_eq!(other.cmd(&["GET", "k"]), bulk(&value));
    }
    crema.warm(&["GET", "k"]);
}
