//! What a node holds for one client holds no other, and a connection that is dead is told from one that is only paused.

use std::time::{Duration, Instant};

use common::{Client, Crema, Link, Redis, Value, bulk, eventually, ok, pack, simple, within};

/// Longer than any of this takes, and shorter than `response_timeout`.
const SOON: Duration = Duration::from_secs(10);

fn patient(crema: &Crema) -> Client {
    let mut client = crema.client();
    client.patience(SOON);
    client
}

/// What a new client is answered within a time that nobody has to wait who is not held up; none: it was held up.
fn answered(crema: &Crema, command: &[&str]) -> Option<Value> {
    let mut client = crema.client();
    client.patience(Duration::from_millis(500));
    client.try_cmd(command).ok()
}

/// A client whose write is held: sent, and given time to reach Redis.
fn held(redis: &Redis, crema: &Crema, command: &[&str]) -> Client {
    let mut client = crema.client();
    assert_eq!(client.cmd(&["PING"]), simple("PONG"));
    client.send_cmd(command);
    eventually("the write is held", || redis.client_list().iter().any(|line| line.contains("flags=b")));
    client
}

#[test]
fn writes_that_redis_was_told_to_hold_hold_no_reads_of_others() {
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).flag("--threads", 1).start();
    if crema.is_direct() {
        return;
    }
    let mut operator = redis.client();
    assert_eq!(patient(&crema).cmd(&["SET", "k", "v"]), ok());
    // Longer than anybody waits here: whoever is held sees it.
    assert_eq!(operator.cmd(&["CLIENT", "PAUSE", "60000", "WRITE"]), ok());
    let mut writers: Vec<_> = Vec::new();
    for n in 0..8 {
        writers.push(held(&redis, &crema, &["SET", &format!("held:{n}"), "1"]));
        // Those who come in the moment in which the write is not yet known to be held may wait behind it.
        within(SOON, "a read is answered while writes are held", || answered(&crema, &["GET", "k"]) == Some(bulk("v")));
    }
    assert!(writers.iter_mut().all(|writer| writer.is_silent_for(Duration::from_millis(20))), "they are held still");
    assert_eq!(operator.cmd(&["CLIENT", "UNPAUSE"]), ok());
    for mut writer in writers {
        assert_eq!(writer.value(), ok(), "a lane that was only paused was not given up");
    }
    assert_eq!(crema.count("crema_lanes_lost_total", &[]), 0);
}

#[test]
fn who_asks_beside_a_script_that_runs_away_is_told_so() {
    let redis = Redis::with(&["--lua-time-limit", "50"]);
    let crema = Crema::over(redis.addr()).flag("--threads", 1).start();
    if crema.is_direct() {
        return;
    }
    let mut other = patient(&crema);
    assert_eq!(other.cmd(&["EVAL", "return 1", "0"]), common::int(1));
    let mut runaway = crema.client();
    runaway.send_cmd(&["EVAL", "while true do end", "0"]);
    within(SOON, "another script is answered", || match answered(&crema, &["EVAL", "return 1", "0"]) {
        Some(Value::Error(words)) => words.starts_with("BUSY"),
        Some(early) => panic!("{early:?} while a script runs"),
        None => false,
    });
    assert_eq!(redis.client().cmd(&["SCRIPT", "KILL"]), ok());
    assert!(runaway.value().is_error());
}

/// Connections that were made die in silence; new ones work.
#[test]
fn connections_that_die_in_silence_are_found_dead_and_their_clients_served_again() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).flag("--threads", 2).flag("--promote", 1).start();
    if crema.is_direct() {
        return;
    }
    crema.warm(&["GET", "k"]);
    for _ in 0..8 {
        assert_eq!(patient(&crema).cmd(&["SET", "k", "1"]), ok());
    }
    link.deaden();
    let began = Instant::now();
    // They are under way on what is dead, a reader and a writer on each worker.
    let mut readers: Vec<_> = (0..4).map(|_| patient(&crema)).collect();
    for reader in &mut readers {
        reader.send_cmd(&["STRLEN", "k"]);
    }
    for command in [&["SET", "k", "2"][..], &["EVAL", "return 1", "0"], &["INCR", "n"], &["GET", "k"]] {
        within(SOON, "a new client is served", || answered(&crema, command).is_some_and(|answer| !answer.is_error()));
    }
    for reader in &mut readers {
        assert_eq!(reader.value(), common::int(1), "reads are sent again");
    }
    within(SOON, "L1 takes part again", || {
        let before = crema.outcomes("hit");
        crema.warm(&["GET", "k"]);
        patient(&crema).cmd(&["GET", "k"]) == bulk("2") && crema.outcomes("hit") > before
    });
    assert!(began.elapsed() < Duration::from_secs(25), "by proof, and not by response_timeout");
}

/// To a Redis that stands still no connection is dead, however long it lasts.
#[test]
fn a_redis_that_stands_still_loses_no_connection() {
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).flag("--threads", 1).start();
    if crema.is_direct() {
        return;
    }
    let (mut writer, mut reader) = (crema.client(), crema.client());
    assert_eq!(writer.cmd(&["SET", "k", "1"]), ok());
    assert_eq!(reader.cmd(&["GET", "k"]), bulk("1"));
    let frozen = redis.freeze();
    writer.send(&pack(&["SET", "k", "2"]));
    reader.send(&pack(&["STRLEN", "k"]));
    std::thread::sleep(Duration::from_secs(4)); // the span that this is about: longer than a proof takes
    drop(frozen);
    assert_eq!(writer.value(), ok());
    assert_eq!(reader.value(), common::int(1));
    assert_eq!(crema.count("crema_lanes_lost_total", &[]), 0);
}

/// New clients wait for a paused Redis as they would at Redis, longer than a connection may take to be made.
#[test]
fn a_client_that_comes_while_redis_pauses_all_waits_for_it() {
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).flag("--threads", 1).flag("--connect-timeout", "500ms").start();
    if crema.is_direct() {
        return;
    }
    crema.warm(&["GET", "k"]);
    let reconnects = crema.count("crema_ear_reconnects_total", &[]);
    assert_eq!(redis.client().cmd(&["CLIENT", "PAUSE", "3500", "ALL"]), ok());
    let mut client = crema.client();
    client.patience(Duration::from_secs(20));
    let answer = client.cmd(&["HELLO", "3"]);
    assert!(!answer.is_error(), "{answer:?}");
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    assert!(crema.is_ready());
    assert_eq!(crema.count("crema_ear_reconnects_total", &[]), reconnects, "the ear was paused, not lost");
}

/// A command that was given up, and that a network delivers afterwards, finds that Redis has ended its connection.
#[test]
fn what_was_given_up_is_not_carried_out_later() {
    let redis = Redis::start();
    let ways: [(&str, &[&[&str]]); 4] = [
        // Nothing proves that such a lane is dead: the deadline ends it.
        ("tracking", &[&["EVAL", "return redis.call('INCR', KEYS[1])", "1", "n"]]),
        ("tracking", &[&["INCR", "n"]]),
        ("tracking", &[&["MULTI"], &["INCR", "n"], &["EXEC"]]),
        // Not in one step with its notice.
        ("channel", &[&["WATCH", "w"], &["MULTI"], &["GET", "n"], &["EXEC"], &["INCR", "n"]]),
    ];
    for (coherence, way) in ways {
        let link = Link::to(redis.addr());
        let launch = Crema::over(link.addr()).flag("--threads", 1).flag("--coherence", coherence);
        let crema = launch.flag("--response-timeout", "1s").start();
        if crema.is_direct() {
            return;
        }
        let mut client = patient(&crema);
        client.pipeline(way);
        let before = redis.client().cmd(&["GET", "n"]);
        link.stick();
        for command in way {
            client.send_cmd(command);
        }
        let answer = client.rest().expect("it is closed, and told in time");
        assert!(!answer.starts_with(b":"), "{way:?}: {}", answer.escape_ascii());
        link.thaw();
        std::thread::sleep(Duration::from_millis(300)); // what is delivered is carried out by then
        assert_eq!(redis.client().cmd(&["GET", "n"]), before, "{way:?} was carried out after its client was told");
        eventually("crema goes on", || {
            let answer = Client::try_connect(crema.addr()).and_then(|mut client| client.try_cmd(&["SET", "k", "v"]));
            answer.is_ok_and(|answer| answer == ok())
        });
    }
}
