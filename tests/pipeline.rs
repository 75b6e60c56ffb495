//! Pipelines: replies come in the order of their commands, however the bytes arrive and whoever answers each.

use std::net::Shutdown;
use std::time::Duration;

use common::value::shown;
use common::{Client, Crema, Link, Redis, Value, bulk, eventually, int, ok, pack, seeded, simple};
use rand::Rng;

#[test]
fn ten_thousand_commands_in_one_write_are_answered_in_order() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    for mut client in [crema.client(), crema.resp3()] {
        client.cmd(&["DEL", "n"]);
        let mut bytes = Vec::new();
        for n in 0..2_500 {
            bytes.extend(pack(&["ECHO", &n.to_string()]));
            bytes.extend(pack(&["INCR", "n"]));
            bytes.extend(pack(&["GET", "n"]));
            bytes.extend(pack(&["GET", "other"]));
        }
        client.send(&bytes);
        for n in 0..2_500 {
            assert_eq!(client.value(), bulk(n.to_string()));
            assert_eq!(client.value(), int(n + 1));
            assert_eq!(client.value(), bulk((n + 1).to_string()));
            assert_eq!(client.value(), Value::Nil);
        }
    }
}

/// A few hits wait a little for the miss behind them, to leave in one write with it; not for one that does not come.
#[test]
fn what_is_ready_does_not_wait_for_a_reply_that_does_not_come() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).flag("--max-staleness", "60s").start();
    redis.client().cmd(&["MSET", "hot", "1", "cold", "2"]);
    crema.warm(&["GET", "hot"]);
    link.freeze();
    let mut client = crema.client();
    for command in [&["GET", "hot"][..], &["GET", "hot"], &["GET", "cold"], &["GET", "hot"]] {
        client.send_cmd(command);
    }
    assert_eq!([client.value(), client.value()], [bulk("1"), bulk("1")]);
    link.thaw();
    assert_eq!([client.value(), client.value()], [bulk("2"), bulk("1")]);
}

/// Hits are at hand at once and misses are not; no hit may overtake, nor be older than its own connection's writes.
#[test]
fn hits_misses_writes_and_transactions_of_one_pipeline_keep_their_order() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).start();
    redis.client().cmd(&["SET", "hot", "0"]);
    crema.warm(&["GET", "hot"]);
    link.delay(Duration::from_millis(20));
    let mut client = crema.client();
    for round in 0..20 {
        let (a, b, c) = (format!("{round}a"), format!("{round}b"), format!("{round}c"));
        let cold = format!("cold:{round}");
        let before = client.cmd(&["GET", "hot"]);
        let replies = client.pipeline(&[
            &["GET", "hot"][..],
            &["GET", &cold],
            &["GET", "hot"],
            &["SET", "hot", &a],
            &["GET", "hot"],
            &["MULTI"],
            &["GET", "hot"],
            &["SET", "hot", &b],
            &["GET", "hot"],
            &["EXEC"],
            &["GET", "hot"],
            &["PING"],
            &["EVAL", "return redis.call('SET', 'ho' .. 't', ARGV[1])", "0", &c],
            &["GET", "hot"],
            &["XRANGE", &cold, "-", "+"],
            &["GET", "hot"],
        ]);
        let queued = || simple("QUEUED");
        let exec = common::array([bulk(&a), ok(), bulk(&b)]);
        let none = common::array([]);
        let expected = [
            before.clone(),
            Value::Nil,
            before,
            ok(),
            bulk(&a),
            ok(),
            queued(),
            queued(),
            queued(),
            exec,
            bulk(&b),
            simple("PONG"),
            ok(),
            bulk(&c),
            none,
            bulk(&c),
        ];
        assert_eq!(replies, expected, "round {round}");
    }
}

#[test]
fn a_pipeline_that_arrives_byte_by_byte_is_answered_alike() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    let bytes = [
        pack(&["SET", "k", "v\r\n$1"]),
        b"PING\r\nGET k\r\n".to_vec(),
        pack(&["GET", "k"]),
        pack(&["MULTI"]),
        pack(&["GET", "k"]),
        pack(&["EXEC"]),
        pack(&["NOSUCH"]),
    ]
    .concat();
    for byte in &bytes {
        client.send(&[*byte]);
        std::thread::sleep(Duration::from_micros(50));
    }
    let value = bulk("v\r\n$1");
    let expected = [ok(), simple("PONG"), value.clone(), value.clone(), ok(), simple("QUEUED"), common::array([value])];
    for reply in expected {
        assert_eq!(client.value(), reply);
    }
    assert!(client.value().is_error());
}

#[test]
fn many_connections_with_pipelines_get_their_own_answers() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    std::thread::scope(|scope| {
        for n in 0..24 {
            let crema = &crema;
            scope.spawn(move || {
                let mut rng = seeded(&format!("connection {n}"));
                let mut client = Client::speaking(2 + n % 2, crema.addr());
                for round in 0..100 {
                    let keys: Vec<String> = (0..rng.random_range(1..20)).map(|k| format!("{n}:{k}")).collect();
                    let mut commands: Vec<[String; 3]> =
                        keys.iter().map(|key| ["SET".into(), key.clone(), format!("{key}={round}")]).collect();
                    commands.retain(|_| rng.random_bool(0.7));
                    let sets = commands.len();
                    let mut bytes: Vec<u8> = commands.iter().flat_map(|command| pack(command)).collect();
                    bytes.extend(commands.iter().flat_map(|command| pack(&["GET", &command[1]])));
                    client.send(&bytes);
                    (0..sets).for_each(|_| assert_eq!(client.value(), ok()));
                    for command in &commands {
                        assert_eq!(client.value(), bulk(&command[2]));
                    }
                }
            });
        }
    });
}

/// What `echo ... | nc` does.
#[test]
fn a_client_that_stops_sending_still_gets_what_it_asked_for() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    redis.client().cmd(&["SET", "k", "v"]);
    for _ in 0..20 {
        let mut client = crema.client();
        client.send(b"GET k\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$3\r\nend\r\n");
        client.shutdown(Shutdown::Write);
        assert_eq!(shown(&client.rest().expect("an end")), shown(b"$1\r\nv\r\n+PONG\r\n$3\r\nend\r\n"));
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_request_leaves_nothing_behind() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let whole = [pack(&["SET", "half", "value"]), pack(&["GET", "half"])].concat();
    for cut in 1..pack(&["SET", "half", "value"]).len() {
        let mut client = crema.client();
        client.send(&whole[..cut]);
        drop(client);
    }
    assert_eq!(crema.client().cmd(&["GET", "half"]), Value::Nil);
    if !crema.is_direct() {
        eventually("all sessions but ours end", || crema.metric("crema_sessions", &[]) < 1.5);
    }
}

/// Redis's limits for a client that has not authenticated: ten arguments of 16 KiB.
#[test]
fn before_authentication_requests_are_held_to_redis_limits() {
    let redis = Redis::with(&["--requirepass", "secret"]);
    let crema = Crema::over(redis.addr()).url(format!("redis://:secret@{}", redis.addr())).start();
    let refused = |bytes: &[u8], text: &str| {
        let mut client = crema.client();
        client.send(bytes);
        let answer = String::from_utf8_lossy(&client.rest().expect("the connection ends")).into_owned();
        assert_eq!(answer, format!("-ERR Protocol error: {text}\r\n"), "after {}", shown(bytes));
    };
    refused(b"*11\r\n", "unauthenticated multibulk length");
    refused(b"*2\r\n$4\r\nAUTH\r\n$16385\r\n", "unauthenticated bulk length");
    let mut client = crema.client();
    let auth = client.cmd(&["AUTH", &"x".repeat(16_384)]);
    assert!(auth.text().starts_with("WRONGPASS"), "{auth:?}");
    assert!(client.cmd(&["GET", "k"]).text().starts_with("NOAUTH"));
    assert_eq!(client.cmd(&["AUTH", "secret"]), ok());
    let many: Vec<String> = std::iter::once("DEL".to_owned()).chain((0..50).map(|n| n.to_string())).collect();
    assert_eq!(client.cmd(&many), int(0));
    assert_eq!(client.cmd(&["SET", "k", &"x".repeat(20_000)]), ok());
}

#[test]
fn a_value_at_the_servers_limit_is_taken_and_one_above_is_refused() {
    let redis = Redis::with(&["--proto-max-bulk-len", "2mb"]);
    let crema = Crema::start(&redis);
    let value = vec![b'v'; 2 << 20];
    let mut client = crema.client();
    assert_eq!(client.cmd(&[&b"SET"[..], b"k", &value]), ok());
    assert_eq!(client.cmd(&["GET", "k"]), bulk(&value));
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", value.len() + 1).as_bytes());
    assert_eq!(client.rest().expect("an end"), b"-ERR Protocol error: invalid bulk length\r\n");
}

#[test]
fn a_hundred_megabytes_go_in_and_come_out() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut rng = seeded("a hundred megabytes");
    let mut value = vec![0; 100 << 20];
    rng.fill(&mut value[..1 << 20]);
    let (first, rest) = value.split_at_mut(1 << 20);
    rest.chunks_mut(1 << 20).for_each(|chunk| chunk.copy_from_slice(first));
    value.push(b'.');
    let mut client = crema.client();
    assert_eq!(client.cmd(&[&b"SET"[..], b"huge", &value]), ok());
    let Value::Bulk(got) = client.cmd(&["GET", "huge"]) else { panic!("a string") };
    assert!(got == value, "the bytes that came out are not those that went in");
    assert_eq!(client.cmd(&["STRLEN", "huge"]), int(i64::try_from(value.len()).expect("fits")));
}
