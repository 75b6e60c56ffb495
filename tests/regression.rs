//! One test for each bug that was found after it had been believed absent, with what it was and what showed it.

use std::time::Duration;

use common::{Crema, Link, Redis, Value, bulk, eventually, int, ok, simple};

/// The fuzz of tests/fuzz.rs. An `EXEC` or `DISCARD` without `MULTI` was taken for the end of the watch: the connection went
/// back to the pool still watching, and the next who borrowed it had a transaction fail for no reason of its own.
#[test]
fn an_exec_that_ends_no_transaction_ends_no_watch() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    for command in ["EXEC", "DISCARD"] {
        let (mut one, mut other) = (crema.client(), crema.client());
        assert_eq!(one.cmd(&["WATCH", "watched"]), ok());
        assert!(one.cmd(&[command]).is_error());
        assert_eq!(one.cmd(&["GET", "other"]), Value::Nil);
        assert_eq!(other.cmd(&["SET", "watched", command]), ok());
        // All that may be lent is, so whoever is given the watching connection shows it.
        let mut others: Vec<_> = (0..4).map(|_| crema.client()).collect();
        for other in &mut others {
            assert_eq!(other.cmd(&["MULTI"]), ok());
        }
        for other in &mut others {
            assert_eq!(other.cmd(&["EXEC"]), common::array([]), "after {command}: it watches nothing");
        }
        assert_eq!(one.cmd(&["MULTI"]), ok());
        assert_eq!(one.cmd(&["EXEC"]), Value::Nil, "after {command}: what it watches has changed");
    }
}

/// The same. `SELECT` of a database that had lanes, `HELLO` and `AUTH` were not told to the connection that watches.
#[test]
fn a_session_that_watches_can_change_database_protocol_and_user() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut other = crema.client();
    other.cmd(&["SELECT", "7"]);
    other.cmd(&["SET", "k", "of seven"]);
    other.cmd(&["HSET", "h", "f", "v"]);
    let mut one = crema.client();
    one.cmd(&["WATCH", "watched"]);
    assert_eq!(one.cmd(&["SELECT", "7"]), ok());
    assert_eq!(one.cmd(&["GET", "k"]), bulk("of seven"));
    assert!(matches!(one.cmd(&["HELLO", "3"]), Value::Map(_)));
    assert_eq!(one.cmd(&["HGETALL", "h"]), Value::Map(vec![(bulk("f"), bulk("v"))]));
    assert_eq!(one.cmd(&["AUTH", "default", "any"]), ok());
    assert_eq!(other.cmd(&["SELECT", "0"]), ok());
    assert_eq!(other.cmd(&["SET", "watched", "1"]), ok());
    assert_eq!(one.cmd(&["MULTI"]), ok());
    assert_eq!(one.cmd(&["EXEC"]), Value::Nil);
}

/// The same. A session with a connection of its own was told of an unsupported version where Redis says that it is no number.
#[test]
fn hello_with_no_number_is_refused_in_the_words_of_redis() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    for first in [&["PING"][..], &["CLIENT", "ID"], &["WATCH", "k"]] {
        let (mut one, mut other) = (redis.client(), crema.client());
        for client in [&mut one, &mut other] {
            client.cmd(first);
        }
        for hello in
            [&["HELLO", "abc"][..], &["HELLO", "4"], &["HELLO", "03"], &["HELLO", "-1"], &["HELLO", "x", "AUTH"]]
        {
            assert_eq!(one.cmd(hello), other.cmd(hello), "{hello:?} after {first:?}");
        }
    }
}

/// The same. In a transaction a client was shown the name of crema's pool as its own, and kept it where the transaction made
/// the connection the client's.
#[test]
fn a_borrowed_connection_bears_no_name_that_its_client_did_not_give() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    for _ in 0..3 {
        let mut client = crema.client();
        client.cmd(&["MULTI"]);
        client.cmd(&["CLIENT", "GETNAME"]);
        assert_eq!(client.cmd(&["EXEC"]), common::array([Value::Nil]));
        client.cmd(&["MULTI"]);
        assert_eq!(client.cmd(&["ACL", "WHOAMI"]), simple("QUEUED"));
        client.cmd(&["EXEC"]);
        assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), Value::Nil);
    }
    // One that is given back, which the next command does.
    let mut client = crema.client();
    client.cmd(&["MULTI"]);
    client.cmd(&["INCR", "n"]);
    client.cmd(&["EXEC"]);
    assert_eq!(client.cmd(&["INCR", "n"]), int(2));
}

/// A server that is busy as an ear asks for tracking is asked again soon, and not as a user who may not.
#[test]
fn an_ear_that_finds_redis_busy_is_back_when_that_is_over() {
    let redis = Redis::with(&["--busy-reply-threshold", "10"]);
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).start();
    if crema.is_direct() {
        return;
    }
    crema.warm(&["GET", "k"]);
    let mut busy = redis.client();
    busy.send_cmd(&["EVAL", "while true do end", "0"]);
    eventually("it is busy", || redis.client().cmd(&["PING"]).text().starts_with("BUSY"));
    link.cut();
    eventually("the ear was told so", || crema.has_logged("BUSY"));
    assert_eq!(redis.client().cmd(&["SCRIPT", "KILL"]), ok());
    assert!(busy.value().is_error());
    crema.warm(&["GET", "k"]);
}

/// Redis tells whoever comes when it is full, and closes: nothing was sent, and nobody is told that it may have been applied.
#[test]
fn a_full_redis_says_so_in_its_own_words() {
    let redis = Redis::with(&["--maxclients", "30"]);
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    let mut held = vec![redis.client()];
    while !held.last_mut().expect("never empty").cmd(&["PING"]).is_error() {
        held.push(redis.client());
    }
    for command in [&["HELLO", "3"][..], &["SET", "k", "w"], &["GET", "k"]] {
        assert_eq!(client.cmd(command).text(), "ERR max number of clients reached", "{command:?}");
    }
    drop(held);
    eventually("it is served again", || client.cmd(&["SET", "k", "x"]) == ok());
}

/// What Redis refuses changes nothing, so whoever may not do it cannot empty L1 for all.
#[test]
fn a_refused_change_empties_no_l1() {
    let redis = Redis::start();
    let rights = ["+@all", "-swapdb", "-acl", "-config"];
    redis.client().cmd(&[&["ACL", "SETUSER", "u", "on", ">pw", "~*", "&*"][..], &rights].concat());
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    let mut other = crema.client();
    assert_eq!(other.cmd(&["AUTH", "u", "pw"]), ok());
    crema.warm(&["GET", "k"]);
    let emptied = || ["swapdb", "rights"].map(|reason| crema.count("crema_epochs_total", &[("reason", reason)]));
    let before = emptied();
    let changes = [&["SWAPDB", "0", "1"][..], &["ACL", "SETUSER", "v"], &["CONFIG", "SET", "requirepass", "x"]];
    for change in changes {
        for _ in 0..20 {
            assert!(other.cmd(change).text().starts_with("NOPERM"), "{change:?}");
        }
        for queued in [&["MULTI"][..], change, &["EXEC"]] {
            other.cmd(queued);
        }
    }
    assert!(crema.client().cmd(&["SWAPDB", "0", "99"]).is_error());
    crema.warm(&["GET", "k"]);
    assert_eq!(emptied(), before, "what was in L1 is in L1");
}

/// What was swapped is swapped for whoever reads after it, again and again, and in transactions.
#[test]
fn nobody_reads_what_was_swapped_away() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let (mut client, mut other) = (crema.client(), crema.client());
    client.pipeline(&[&["SET", "k", "zero"][..], &["SELECT", "1"], &["SET", "k", "one"], &["SELECT", "0"]]);
    for round in 0..60 {
        (0..5).for_each(|_| drop(other.cmd(&["GET", "k"])));
        if round % 3 == 2 {
            client.pipeline(&[&["MULTI"][..], &["SWAPDB", "0", "1"], &["EXEC"]]);
        } else {
            assert_eq!(client.cmd(&["SWAPDB", "0", "1"]), ok());
        }
        assert_eq!(other.cmd(&["GET", "k"]), bulk(if round % 2 == 0 { "one" } else { "zero" }), "round {round}");
    }
    crema.warm(&["GET", "k"]);
}

/// Fault injection. What a command reads without naming it was not remembered: `SORT … GET w_*` showed the new value of `w_1`, and
/// the `GET` behind it the old one, for the ear had not heard of the change yet.
#[test]
fn no_read_is_older_than_what_a_command_read_without_naming_it() {
    type Words = &'static [&'static str];
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    link.late("crema-ear", Duration::from_millis(60));
    let crema = Crema::over(link.addr()).start();
    let (mut direct, mut other) = (redis.client(), crema.client());
    direct.cmd(&["RPUSH", "l", "1"]);
    let string: [Words; 3] = [&["SET", "w_1", "old"], &["SET", "w_1", "new"], &["GET", "w_1"]];
    let hash: [Words; 3] = [&["HSET", "h_1", "f", "old"], &["HSET", "h_1", "f", "new"], &["HGET", "h_1", "f"]];
    let missing: [Words; 3] = [&["DEL", "m"], &["SET", "m", "new"], &["EXISTS", "m"]];
    let cases: [([Words; 3], &[Words]); 7] = [
        (string, &[&["SORT_RO", "l", "BY", "nosort", "GET", "w_*"]]),
        (string, &[&["SORT", "l", "BY", "w_*", "ALPHA", "GET", "#", "GET", "w_*"]]),
        (hash, &[&["SORT", "l", "BY", "nosort", "GET", "h_*->f"]]),
        (string, &[&["MULTI"], &["SORT", "l", "BY", "nosort", "GET", "w_*"], &["EXEC"]]),
        (hash, &[&["CLIENT", "ID"], &["SORT_RO", "l", "BY", "nosort", "GET", "h_*->f"]]),
        (missing, &[&["INFO", "keyspace"]]),
        (string, &[&["EXEC"]]), // of a transaction that watches
    ];
    for ([old, new, read], shows) in cases {
        // Where the machine stands still the ear has heard before anybody asks: then it tells nothing, and is tried again.
        let tried = (0..50).any(|_| {
            let mut client = crema.client();
            direct.cmd(old);
            crema.warm(read);
            let before = client.cmd(read);
            if shows == [&["EXEC"]] {
                client.pipeline(&[&["WATCH", read[1]][..], &["MULTI"]]);
                direct.cmd(new);
                assert_eq!(client.cmd(&["EXEC"]), Value::Nil);
            } else {
                direct.cmd(new);
                client.pipeline(shows);
            }
            let elsewhere = other.cmd(read);
            assert_eq!(client.cmd(read), direct.cmd(read), "behind {shows:?}");
            elsewhere == before || crema.is_direct()
        });
        assert!(tried, "{shows:?}: L1 was never behind");
    }
}
