//! Faults: links that freeze, break and lie still, a Redis that dies, comes back empty or is demoted, and an end by SIGTERM.
//!
//! What is held against crema is always the same: an answer may be late or an error, but it is never older than
//! `max_staleness` when its request arrives, a write is never repeated nor dropped in silence, and after the fault is
//! over all is well within a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::judge::{Log, Read, Rules, Seen, Via, Write, judge, now};
use common::link::Way;
use common::{
    AT_LAST, Client, Crema, Link, MAX_STALENESS, Redis, Stop, Value, bulk, eventually, int, ok, pack, within,
};

const KEYS: usize = 4;

#[test]
fn a_link_frozen_for_three_seconds_never_shows_a_value_older_than_the_bound() {
    freeze_while_others_write(&[Way::Requests, Way::Replies]);
}

#[test]
fn a_link_frozen_towards_redis_never_shows_a_value_older_than_the_bound() {
    freeze_while_others_write(&[Way::Requests]);
}

#[test]
fn a_link_frozen_from_redis_never_shows_a_value_older_than_the_bound() {
    freeze_while_others_write(&[Way::Replies]);
}

/// Versions are written past the proxy all the time; readers through it record what they get. The judge then says
/// whether any of it was too old when it was asked for.
fn freeze_while_others_write(ways: &[Way]) {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).start();
    if crema.is_direct() {
        return;
    }
    let names: Vec<String> = (0..KEYS).map(|key| format!("key:{key}")).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (names, done, crema, redis) = (&names, &done, &crema, &redis);
        let _stop = Stop(done);
        let writer = scope.spawn(move || write_versions(redis, names, done));
        let readers: Vec<_> = (0..6_u8).map(|n| scope.spawn(move || read_versions(crema, names, done, n))).collect();
        for name in names {
            crema.warm(&["GET", name]);
        }
        std::thread::sleep(Duration::from_millis(500));
        for way in ways {
            link.hold(*way);
        }
        std::thread::sleep(Duration::from_secs(3));
        link.thaw();
        std::thread::sleep(Duration::from_secs(1));
        // Healed: new connections and old ones get answers at once, from L1 again. Where one has to wait it is the machine that
        // did something else, unless all have to.
        let before = crema.outcomes("hit");
        let at_once = (0..5).any(|_| {
            let began = Instant::now();
            let mut client = crema.client();
            client.patience(Duration::from_secs(3));
            let answer = client.try_cmd(&["GET", &names[0]]).expect("an answer a second after the link healed");
            assert!(!answer.is_error(), "{answer:?} a second after the link healed");
            began.elapsed() < Duration::from_millis(250)
        });
        assert!(at_once, "no answer within 250 ms a second after the link healed");
        within(Duration::from_secs(4), "it is ready", || crema.is_ready());
        std::thread::sleep(Duration::from_millis(500));
        within(Duration::from_secs(5), "L1 takes part again", || crema.outcomes("hit") - before > 100);
        eventually("there is enough to judge", || crema.count("crema_requests_total", &[]) > 1_500);
        done.store(true, Ordering::Relaxed);
        let mut logs = vec![writer.join().expect("the writer is sound")];
        let mut errors_after = 0;
        for reader in readers {
            let (log, late_errors) = reader.join().expect("the readers are sound");
            logs.push(log);
            errors_after += late_errors;
        }
        assert_eq!(errors_after, 0, "errors at the end, long after the link healed");
        let verdict = judge(&logs, names, Rules { max_staleness: MAX_STALENESS, monotone: false });
        eprintln!("{verdict}");
        assert!(verdict.violations.is_empty(), "{verdict}");
        assert!(verdict.reads > 1_000, "too few reads to mean anything: {verdict}");
    });
}

fn write_versions(redis: &Redis, names: &[String], done: &AtomicBool) -> Log {
    let mut log = Log::new(Via::Redis);
    let mut client = redis.client();
    let mut order = 0;
    while !done.load(Ordering::Relaxed) {
        order += 1;
        for (key, name) in names.iter().enumerate() {
            let (value, begun) = (order.to_string(), now());
            // The last key lives shorter than it takes to be written again.
            if key == KEYS - 1 {
                client.cmd(&["SET", name, &value, "PX", "100000"]);
            } else {
                client.cmd(&["SET", name, &value]);
            }
            log.wrote(Write { key, order, becomes: Seen::value(value), begun, acked: now(), via: Via::Redis });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    log
}

/// Reads on, whatever comes. Returns what it saw, and how many errors came in the last part of the run.
fn read_versions(crema: &Crema, names: &[String], done: &AtomicBool, n: u8) -> (Log, usize) {
    let mut log = Log::new(Via::Proxy(0));
    let mut errors: Vec<u64> = Vec::new();
    'connection: while !done.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::try_connect(crema.addr()) else {
            errors.push(now());
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        if n % 2 == 1 && !matches!(client.try_cmd(&["HELLO", "3"]), Ok(Value::Map(_))) {
            errors.push(now());
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        let mut turn = usize::from(n);
        while !done.load(Ordering::Relaxed) {
            turn += 1;
            let key = turn % KEYS;
            let sent = now();
            match client.try_cmd(&["GET", &names[key]]) {
                Ok(Value::Error(_)) => errors.push(now()),
                Ok(value) => {
                    let seen = if value.is_nil() { Seen::ABSENT } else { Seen::value(value.text()) };
                    log.read(Read { key, by: "GET", seen, sent, received: now() });
                }
                Err(_) => {
                    errors.push(now());
                    continue 'connection;
                }
            }
            // Some readers come and go, as short-lived ones do.
            if n >= 4 && turn.is_multiple_of(50) {
                continue 'connection;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    let calm = now() - 450_000_000;
    (log, errors.iter().filter(|at| **at > calm).count())
}

/// The instrument before the measurement: what is held comes late, in order and whole; what is cut is lost.
#[test]
fn the_link_of_these_tests_freezes_cuts_and_closes() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let mut client = Client::connect(link.addr());
    assert_eq!(client.cmd(&["SET", "k", "0"]), ok());
    for way in [Way::Requests, Way::Replies] {
        link.hold(way);
        client.send(&[pack(&["INCR", "k"]), pack(&["INCR", "k"])].concat());
        assert!(client.is_silent_for(Duration::from_millis(50)));
        let done = || redis.client().cmd(&["GET", "k"]).number();
        match way {
            Way::Requests => assert_eq!(done(), 0),
            Way::Replies => eventually("they have arrived", || done() == 4),
        }
        link.thaw();
        assert_eq!([client.value(), client.value()].map(|n| n.number() % 2), [1, 0]);
    }
    link.delay(Duration::from_millis(60));
    let began = Instant::now();
    client.pipeline(&[["PING"]; 10]);
    let took = began.elapsed();
    assert!((60..600).contains(&took.as_millis()), "ten at once took {took:?}, as if one after the other");
    link.delay(Duration::ZERO);
    link.hold(Way::Replies);
    client.send_cmd(&["INCR", "k"]);
    eventually("it arrives", || redis.client().cmd(&["GET", "k"]) == bulk("5"));
    link.cut();
    assert!(client.try_value().is_err());
    assert_eq!(Client::connect(link.addr()).cmd(&["GET", "k"]), bulk("5"));
    link.down();
    assert!(Client::connect(link.addr()).try_cmd(&["PING"]).is_err());
    link.up();
    assert_eq!(Client::connect(link.addr()).cmd(&["PING"]), common::simple("PONG"));
}

#[test]
fn a_redis_killed_and_restarted_empty_leaves_nothing_old_to_be_served() {
    let mut redis = Redis::start();
    let crema = Crema::over(redis.addr()).flag("--upstream-down", "error").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let mut idle = [crema.client(), crema.resp3()];
    for round in 0..3 {
        client.cmd(&["SET", "k", "old"]);
        client.cmd(&["XADD", "s", "1-1", "f", "old"]);
        crema.warm(&["GET", "k"]);
        crema.warm(&["XRANGE", "s", "-", "+"]);
        for client in &mut idle {
            assert_eq!(client.cmd(&["GET", "k"]), bulk("old"));
        }
        redis.kill();
        let killed = Instant::now();
        // Without Redis: the bound still holds, and errors are answers, not silence.
        loop {
            let sent = Instant::now();
            let answer = client.cmd(&["GET", "k"]);
            let told = Instant::now();
            assert!(told - sent < Duration::from_secs(5), "an answer without Redis took {:?}", told - sent);
            assert!(answer == bulk("old") || answer.is_error(), "{answer:?}");
            if sent - killed > MAX_STALENESS {
                assert!(answer.is_error(), "served {:?} after Redis died", sent - killed);
                break;
            }
        }
        eventually("it is not ready without Redis", || !crema.is_ready());
        redis.restart();
        let back = Instant::now();
        while back.elapsed() < Duration::from_secs(1) {
            for client in std::iter::once(&mut client).chain(&mut idle) {
                let answer = client.cmd(&["GET", "k"]);
                assert!(answer.is_nil() || answer.is_error(), "{answer:?} from an empty Redis, round {round}");
                let entries = client.cmd(&["XRANGE", "s", "-", "+"]);
                assert!(entries.is_error() || entries.items().is_empty(), "{entries:?} from an empty Redis");
            }
        }
        for client in std::iter::once(&mut client).chain(&mut idle) {
            assert_eq!(client.cmd(&["GET", "k"]), Value::Nil, "a second after Redis came back");
        }
        within(Duration::from_secs(4), "it is ready, which it looks at every second", || crema.is_ready());
    }
}

#[test]
fn crema_starts_before_redis_and_serves_when_it_comes() {
    let mut redis = Redis::start();
    redis.kill();
    let crema = Crema::over(redis.addr()).flag("--upstream-down", "error").without_waiting().start();
    if crema.is_direct() {
        return;
    }
    eventually("it lives", || crema.admin("/livez").is_some_and(|(status, _)| status == 200));
    assert!(!crema.is_ready());
    let mut client = crema.client();
    let began = Instant::now();
    let answer = client.cmd(&["GET", "k"]);
    assert!(answer.is_error(), "{answer:?} without a Redis");
    assert!(began.elapsed() < Duration::from_secs(5), "the error took {:?}", began.elapsed());
    redis.restart();
    eventually("it is ready", || crema.is_ready());
    assert_eq!(client.cmd(&["GET", "k"]), Value::Nil, "the same connection, served");
}

/// A master that was demoted answers for ever and pushes nothing: what L1 holds is nobody's business to keep true.
#[test]
fn the_lease_ends_when_redis_becomes_a_replica() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    client.cmd(&["SET", "k", "v"]);
    crema.warm(&["GET", "k"]);
    eventually("it has a lease", || crema.metric("crema_lease_held", &[]) > 0.5);
    // Nobody listens there, so that the data stays.
    assert_eq!(redis.client().cmd(&["REPLICAOF", "127.0.0.1", "1"]), ok());
    let demoted = Instant::now();
    let mut asked = demoted;
    while crema.metric("crema_lease_held", &[]) > 0.5 {
        let held = asked.duration_since(demoted);
        assert!(held <= MAX_STALENESS, "the lease is held {held:?} after Redis was demoted");
        asked = Instant::now();
    }
    while demoted.elapsed() <= MAX_STALENESS {
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
    }
    let (hits, gets) = (crema.outcomes("hit"), redis.calls("get"));
    (0..100).for_each(|_| assert_eq!(client.cmd(&["GET", "k"]), bulk("v")));
    assert_eq!(crema.outcomes("hit"), hits, "answered from L1 without a lease");
    assert_eq!(redis.calls("get"), gets + 100);
    assert!(client.cmd(&["SET", "k", "x"]).text().starts_with("READONLY"));

    assert_eq!(redis.client().cmd(&["REPLICAOF", "NO", "ONE"]), ok());
    redis.client().cmd(&["SET", "k", "new"]);
    eventually("the lease is back", || crema.metric("crema_lease_held", &[]) > 0.5);
    assert_eq!(client.cmd(&["GET", "k"]), bulk("new"));
    crema.warm(&["GET", "k"]);
}

/// The connection breaks after Redis did the write and before its answer came.
#[test]
fn a_write_whose_link_breaks_is_told_to_its_client_and_done_once() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    // Whoever reads has a lane then, on which to write: replies are held, and no other could be made.
    let crema = Crema::over(link.addr()).flag("--promote", 0).flag("--upstream-down", "error").start();
    if crema.is_direct() {
        return;
    }
    let mut direct = redis.client();
    for round in 1..=5 {
        let mut clients: Vec<Client> = (0..8).map(|n| Client::speaking(2 + n % 2, crema.addr())).collect();
        for client in &mut clients {
            assert!(!client.cmd(&["GET", "n"]).is_error());
        }
        link.hold(Way::Replies);
        for client in &mut clients {
            client.send_cmd(&["INCR", "n"]);
        }
        eventually("Redis has done them", || direct.cmd(&["GET", "n"]) == bulk((round * 8).to_string()));
        link.cut();
        for client in &mut clients {
            let answer = client.value();
            assert!(answer.is_error() && answer.text().contains("may or may not have been applied"), "{answer:?}");
        }
        // The connections of the clients live on, and the count shows that nothing was sent again.
        for client in &mut clients {
            eventually("the proxy is connected again", || client.cmd(&["GET", "n"]) == bulk((round * 8).to_string()));
        }
    }
    assert!(crema.count("crema_lost_writes_total", &[]) >= 40);
}

#[test]
fn a_transaction_whose_link_breaks_is_told_to_its_client() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["MULTI"]), ok());
    client.cmd(&["INCR", "n"]);
    link.hold(Way::Replies);
    client.send_cmd(&["EXEC"]);
    eventually("Redis has done it", || redis.client().cmd(&["GET", "n"]) == bulk("1"));
    link.cut();
    let answer = client.try_value();
    assert!(answer.is_err() || answer.as_ref().is_ok_and(Value::is_error), "{answer:?}");
    let others = || Client::try_connect(crema.addr())?.try_cmd(&["GET", "n"]);
    eventually("others are served", || others().is_ok_and(|answer| answer == bulk("1")));
}

#[test]
fn a_read_whose_link_breaks_is_sent_again_and_its_client_sees_nothing_of_it() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).flag("--promote", 0).start();
    if crema.is_direct() {
        return;
    }
    redis.client().cmd(&["SET", "k", "v"]);
    for round in 0..5 {
        let mut clients: Vec<Client> = (0..8).map(|n| Client::speaking(2 + n % 2, crema.addr())).collect();
        for client in &mut clients {
            assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
        }
        link.hold(Way::Replies);
        let before = redis.calls("get") + redis.calls("strlen");
        for client in &mut clients {
            client.send(&[pack(&["GET", "k"]), pack(&["STRLEN", "k"])].concat());
        }
        eventually("Redis has answered some", || redis.calls("get") + redis.calls("strlen") >= before + 8);
        link.cut();
        for (n, client) in clients.iter_mut().enumerate() {
            assert_eq!([client.value(), client.value()], [bulk("v"), int(1)], "client {n} in round {round}");
        }
    }
    assert!(crema.count("crema_retried_reads_total", &[]) >= 5);
}

/// The read's answer is lost, and the write behind it may have been done: to send the read again could show it the later write.
#[test]
fn a_read_with_a_later_write_behind_it_is_not_sent_again() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).flag("--promote", 0).flag("--upstream-down", "error").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "first"]), ok());
    link.hold(Way::Replies);
    client.send(&[pack(&["GET", "k"]), pack(&["SET", "k", "second"]), pack(&["GET", "k"])].concat());
    eventually("Redis has done the write", || redis.client().cmd(&["GET", "k"]) == bulk("second"));
    link.cut();
    let (read, write, last) = (client.value(), client.value(), client.value());
    assert!(read.is_error(), "the first read: {read:?}");
    assert!(write.text().contains("may or may not have been applied"), "{write:?}");
    // Nothing was sent behind the last read: again or not, both are right, but not the old value.
    assert!(last.is_error() || last == bulk("second"), "{last:?}");
}

#[test]
fn whoever_waits_on_a_broken_link_gets_an_answer() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).start();
    if crema.is_direct() {
        return;
    }
    let mut clients: Vec<Client> = (0..200_u32).map(|_| crema.client()).collect();
    for client in &mut clients {
        assert_eq!(client.cmd(&["GET", "none"]), Value::Nil);
    }
    link.freeze();
    for (n, client) in clients.iter_mut().enumerate() {
        let key = format!("key:{}", n % 7);
        let command: &[&str] = match n % 8 {
            0 => &["GET", &key],
            1 => &["SET", &key, "v"],
            2 => &["XRANGE", &key, "-", "+"],
            3 => &["MULTI"],
            4 => &["BLPOP", &key, "0"],
            5 => &["SUBSCRIBE", &key],
            6 => &["EVAL", "return 1", "0"],
            _ => &["CLIENT", "ID"],
        };
        client.send_cmd(command);
    }
    std::thread::sleep(Duration::from_millis(100));
    link.down();
    for (n, client) in clients.iter_mut().enumerate() {
        // An error, or the end of the connection where it was the client's own.
        client.patience(AT_LAST);
        match client.try_value() {
            Ok(answer) => assert!(answer.is_error() || n % 8 == 3, "client {n}: {answer:?}"),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::UnexpectedEof, "client {n} is stranded: {e}"),
        }
    }
    link.up();
    let again = || Client::try_connect(crema.addr())?.try_cmd(&["SET", "k", "v"]);
    eventually("it serves again", || again().is_ok_and(|answer| answer == ok()));
}

/// One worker's session must not learn of a fault by waiting for ever behind a Redis that is there and says nothing.
#[test]
fn a_redis_that_hangs_is_answered_for_by_an_error() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).flag("--response-timeout", "1s").flag("--upstream-down", "error").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    link.freeze();
    let began = Instant::now();
    let answer = client.cmd(&["SET", "k2", "v"]);
    let took = began.elapsed();
    assert!(answer.is_error(), "{answer:?} from a link that is frozen");
    assert!((900..4_500).contains(&took.as_millis()), "the error came after {took:?} of a response_timeout of 1 s");
    link.thaw();
    eventually("it serves again", || client.cmd(&["GET", "k"]) == bulk("v"));
}

#[test]
fn sigterm_answers_what_is_under_way_and_takes_no_more() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let mut crema = Crema::over(link.addr()).start();
    if crema.is_direct() {
        return;
    }
    let mut clients: Vec<Client> = (0..50).map(|_| crema.client()).collect();
    for client in &mut clients {
        assert_eq!(client.cmd(&["PING"]), common::simple("PONG"));
    }
    link.hold(Way::Replies);
    let before = crema.taken_up();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&[pack(&["SET", &format!("k{n}"), "v"]), pack(&["GET", &format!("k{n}")])].concat());
    }
    eventually("all are taken up", || crema.taken_up() == before + 100);
    crema.terminate();
    eventually("it is ready no more", || !crema.is_ready());
    link.thaw();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!([client.value(), client.value()], [ok(), bulk("v")], "client {n}");
        assert!(client.closes_within(AT_LAST), "client {n} is kept");
    }
    eventually("it ends", || crema.exit_status().is_some());
    assert!(crema.exit_status().is_some_and(|status| status.success()), "an end by SIGTERM is a success");
    assert!(Client::try_connect(crema.addr()).is_err());
}
