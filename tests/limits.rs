//! What idle, hostile and slow clients may cost: memory by figures, and nobody else's time.
//!
//! A file of its own, and one test at a time in it, because memory and latency are measured.

use std::time::{Duration, Instant};

use common::{Client, Crema, Redis, Value, alone, bulk, eventually, lift_open_files, ok, resident, simple};

const MIB: u64 = 1 << 20;

#[test]
fn ten_thousand_idle_connections_cost_at_most_8_kib_each() {
    let _alone = alone();
    let files = lift_open_files();
    let count = usize::try_from(files.saturating_sub(500).min(10_000)).expect("small");
    assert!(count == 10_000 || std::env::var_os("CI").is_none(), "{files} open files are too few for this test");
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).start();
    if crema.is_direct() {
        return;
    }
    // Whatever is set up once, for the first, is not the price of one more.
    let mut first: Vec<Client> = (0..8_u8).map(|n| Client::speaking(2 + n % 2, crema.addr())).collect();
    for client in &mut first {
        assert_eq!(client.cmd(&["SET", "k", &"v".repeat(4_000)]), ok());
    }
    drop(first);
    eventually("they are gone", || crema.metric("crema_sessions", &[]) < 0.5);
    let before = resident(crema.pid());
    let mut idle: Vec<Client> = (0..count).map(|_| crema.client()).collect();
    // Idle is who has talked before: a library's greeting, a value in, a value out.
    for (n, client) in idle.iter_mut().enumerate() {
        if n % 2 == 0 {
            assert_eq!(client.cmd(&["SET", "k", &"v".repeat(4_000)]), ok());
            assert_eq!(client.cmd(&["GET", "k"]).text().len(), 4_000);
        } else {
            assert_eq!(client.cmd(&["PING"]), simple("PONG"));
        }
    }
    let each = || resident(crema.pid()).saturating_sub(before) / count as u64;
    eventually("they cost at most 8 KiB each", || each() <= 8 << 10);
    eprintln!("{count} idle connections cost {} bytes each", each());
    for client in idle.iter_mut().step_by(997) {
        assert_eq!(client.cmd(&["PING"]), simple("PONG"));
    }
}

#[test]
fn announcements_cost_next_to_nothing() {
    let _alone = alone();
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    let grows_by = |announcement: &[u8], clients: usize| {
        crema.client().cmd(&["PING"]);
        let before = resident(crema.pid());
        let mut announcers: Vec<Client> = (0..clients).map(|_| crema.client()).collect();
        for client in &mut announcers {
            client.send(announcement);
        }
        // Each is known to have been read once another, later one of the same worker was answered.
        for _ in 0..8 {
            assert_eq!(crema.client().cmd(&["PING"]), simple("PONG"));
        }
        std::thread::sleep(Duration::from_millis(50));
        resident(crema.pid()).saturating_sub(before)
    };
    // Whatever is set up once is not the price of an announcement.
    grows_by(b"*3\r\n", 50);
    let million = grows_by(b"*1000000000\r\n", 50);
    assert!(million < 4 * MIB, "50 announcements of 10^9 arguments cost {million} bytes");
    let bulk = grows_by(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$500000000\r\n", 50);
    assert!(bulk < 8 * MIB, "50 announcements of 500 MB cost {bulk} bytes");
    let begun = [&b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$500000000\r\n"[..], &[b'x'; 10_000]].concat();
    let begun = grows_by(&begun, 50);
    assert!(begun < 12 * MIB, "50 beginnings of 500 MB cost {begun} bytes");
    let both = grows_by(b"*1000000000\r\n$500000000\r\n", 50);
    assert!(both < 8 * MIB, "50 announcements of both cost {both} bytes");
}

#[test]
fn a_hundred_thousand_nested_arrays_are_an_error_like_any_other() {
    let _alone = alone();
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    let _ = client.try_send(&b"*1\r\n".repeat(100_000));
    let answer = client.rest().expect("an end");
    assert_eq!(String::from_utf8_lossy(&answer), "-ERR Protocol error: expected '$', got '*'\r\n");
    // Nested on the way back: as deep as a script may build it.
    let script = "local t = {} for _ = 1, 6000 do t = {t} end return t";
    let mut client = crema.resp3();
    let deep = client.cmd(&["EVAL", script, "0"]);
    assert_eq!(redis.client().cmd(&["EVAL", script, "0"]), deep);
    assert_eq!(crema.client().cmd(&["PING"]), simple("PONG"));
}

#[test]
fn twenty_clients_that_never_read_cost_their_limit_and_delay_nobody() {
    const LIMIT: u64 = 64 * MIB;
    const LEN: usize = 200 * 1_000_000;
    let _alone = alone();
    let redis = Redis::start();
    // While Redis copies it answers no fence, and what is asked without a lease is no hit.
    let crema = Crema::over(redis.addr()).flag("--max-staleness", "60s").start();
    if crema.is_direct() {
        return;
    }
    redis.client().cmd(&["SETRANGE", "huge", &(LEN - 1).to_string(), "x"]);
    let mut client = crema.client();
    client.cmd(&["SET", "hot", "v"]);
    crema.warm(&["GET", "hot"]);
    let before = resident(crema.pid());
    let mut deaf: Vec<Client> = (0..20).map(|_| crema.client()).collect();
    for client in &mut deaf {
        client.send_cmd(&["GET", "huge"]);
    }

    let (mut peak, mut hit, mut through) = (0, Duration::ZERO, Duration::ZERO);
    let timed = |client: &mut Client, command: &[&str], expected: &Value, worst: &mut Duration| {
        let began = Instant::now();
        assert_eq!(client.cmd(command), *expected);
        *worst = (*worst).max(began.elapsed());
    };
    let (began, span) = (Instant::now(), Duration::from_secs(8));
    let (direct, stall) = std::thread::scope(|scope| {
        // What the machine takes from everybody is nobody's delay,
        let idle = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while began.elapsed() < span {
                let before = Instant::now();
                std::thread::sleep(Duration::from_millis(2));
                longest = longest.max(before.elapsed());
            }
            longest
        });
        // nor is what Redis takes at the same time to copy the value.
        let control = scope.spawn(|| {
            let (mut control, mut direct) = (redis.client(), Duration::ZERO);
            while began.elapsed() < span {
                timed(&mut control, &["SET", "control", "v"], &ok(), &mut direct);
                std::thread::sleep(Duration::from_millis(2));
            }
            direct
        });
        while began.elapsed() < span {
            timed(&mut client, &["GET", "hot"], &bulk("v"), &mut hit);
            timed(&mut client, &["SET", "other", "v"], &ok(), &mut through);
            peak = peak.max(resident(crema.pid()));
            std::thread::sleep(Duration::from_millis(2));
        }
        (control.join().expect("it asserts what this thread does"), idle.join().expect("it only sleeps"))
    });
    let cost = peak.saturating_sub(before);
    eprintln!(
        "20 deaf clients: {} MiB; hit {hit:?}, through {through:?}, at Redis itself {direct:?}, stall {stall:?}",
        cost / MIB
    );
    assert!(cost < 20 * LIMIT + 128 * MIB, "{} MiB", cost / MIB);
    // Redis itself is busy copying 200 MB twenty times; what goes there waits for that, and for nothing else.
    assert!(hit < stall * 2 + Duration::from_millis(250), "a hit took {hit:?}");
    assert!(
        through < direct + stall * 2 + Duration::from_millis(500),
        "a write took {through:?}, at Redis itself {direct:?}"
    );
    drop(deaf);
    eventually("what they cost is given back", || resident(crema.pid()) < before + 2 * LIMIT);

    // The same reply, larger than any limit on what is kept, flows to a client that reads.
    let before = resident(crema.pid());
    let mut reader = crema.client();
    reader.send_cmd(&["GET", "huge"]);
    let Value::Bulk(value) = reader.value() else { panic!("a string") };
    assert_eq!((value.len(), value[LEN - 1]), (LEN, b'x'));
    let grown = resident(crema.pid()).saturating_sub(before);
    eprintln!("a reply of 200 MB that was read left {} MiB", grown / MIB);
}

#[test]
fn a_client_that_asks_much_and_reads_nothing_is_slowed_or_cut_off_at_its_limit() {
    let _alone = alone();
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    client.cmd(&[&b"SET"[..], b"k", &vec![b'v'; 100_000]]);
    let before = resident(crema.pid());
    let mut deaf = crema.client();
    assert_eq!(deaf.cmd(&["PING"]), simple("PONG"));
    let request = common::pack(&["GET", "k"]).repeat(100);
    let mut peak = 0;
    // 500 MB of answers, asked for as long as it lets us.
    for _ in 0..50 {
        deaf.stream().set_write_timeout(Some(Duration::from_millis(500))).expect("a deadline above zero");
        if deaf.try_send(&request).is_err() {
            break;
        }
        peak = peak.max(resident(crema.pid()));
    }
    assert!(peak.saturating_sub(before) < 64 * MIB + 64 * MIB, "{} MiB", peak.saturating_sub(before) / MIB);
    // Either it was slowed (its requests are not read while its answers are not), or it was disconnected and counted.
    let kept = crema.metric("crema_sessions", &[]) > 1.5;
    assert!(kept || crema.count("crema_slow_clients_total", &[]) == 1, "gone without being counted");
    assert!(kept || crema.has_logged("did not read"), "gone without a word in the log");
    assert_eq!(client.cmd(&["PING"]), simple("PONG"));
}

#[test]
fn a_client_without_a_login_may_leave_little_unread() {
    let _alone = alone();
    let redis = Redis::with(&["--requirepass", "secret"]);
    let crema = Crema::over(redis.addr()).url(format!("redis://:secret@{}", redis.addr())).start();
    if crema.is_direct() {
        return;
    }
    let mut deaf = crema.client();
    assert!(deaf.cmd(&["GET", "k"]).text().starts_with("NOAUTH"));
    let request = common::pack(&["GET", "k"]).repeat(1000);
    deaf.stream().set_write_timeout(Some(Duration::from_secs(10))).expect("a deadline above zero");
    let sent = (0..10_000).take_while(|_| deaf.try_send(&request).is_ok()).count();
    assert!(sent < 10_000, "ten million answers that nobody reads");
    assert_eq!(crema.count("crema_slow_clients_total", &[]), 1, "it was ended, not only slowed");
}

/// Large values flow through: what Redis does not take stays with the client.
#[test]
fn values_on_their_way_are_not_held() {
    const LEN: usize = 100_000_000;
    let _alone = alone();
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    // Of channel mode docs/operations.md says that it holds a write until it is whole.
    if std::env::var_os("CREMA_TEST_COHERENCE").is_some() {
        return;
    }
    let value: Vec<u8> = (0..LEN).map(|n| b'a' + u8::try_from(n % 23).expect("small")).collect();
    crema.client().cmd(&[&b"SET"[..], b"k", &value[..10_000_000]]);
    let before = resident(crema.pid());
    let grown = || resident(crema.pid()).saturating_sub(before);
    std::thread::scope(|scope| {
        let frozen = redis.freeze();
        let writer = scope.spawn(|| crema.client().cmd(&[&b"SET"[..], b"k", &value]));
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            assert!(grown() < 24 * MIB, "{} MiB while Redis takes nothing", grown() / MIB);
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("a value of 100 MB that Redis does not take: {} KiB", grown() >> 10);
        drop(frozen);
        assert_eq!(writer.join().expect("it is answered"), ok());
    });
    let Value::Bulk(whole) = redis.client().cmd(&["GET", "k"]) else { panic!("a string") };
    assert!(whole == value, "it has arrived as it was sent");

    // Eight at once, each with one behind the other, and keys between the values.
    let value = &value[..10_000_000];
    let sent = &common::pack(&[&b"MSET"[..], b"one", value, b"two", &value[1..], b"three", b"3"]);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = crema.client();
                    for _ in 0..5 {
                        client.send(sent);
                    }
                    for _ in 0..5 {
                        assert_eq!(client.value(), ok());
                    }
                })
            })
            .collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            assert!(grown() < 48 * MIB, "{} MiB under 800 MB on their way", grown() / MIB);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let mut client = crema.client();
    assert_eq!(client.cmd(&["STRLEN", "two"]), common::int(9_999_999));
    assert_eq!(client.cmd(&["GETRANGE", "two", "0", "5"]), bulk("bcdefg"));
    assert_eq!(client.cmd(&["GET", "three"]), bulk("3"));
}
