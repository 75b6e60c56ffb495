//! Transparency: the same bytes to a Redis and, through crema, to an equal one; the answers compared byte for byte.
//!
//! What may differ is listed in [`common::differs::Differs`], command by command, and is blotted out on both sides before comparing.
//! The bytes for crema are cut at random places, so that no answer depends on how a request arrives. Pipelines are
//! drawn at random ([`pipelines`]) from [`shapes::shapes`]; a failing run prints its seed.

#[path = "transparency/pipelines.rs"]
mod pipelines;
#[path = "transparency/shapes.rs"]
mod shapes;

use std::time::{Duration, Instant};

use common::value::shown;
use common::{AT_LAST, Client, Crema, Redis, Value, pack, seeded};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

#[test]
fn answers_are_the_same_byte_for_byte_in_resp2() {
    compare_random_pipelines(2, &Redis::start(), &Redis::start());
}

#[test]
fn answers_are_the_same_byte_for_byte_in_resp3() {
    compare_random_pipelines(3, &Redis::start(), &Redis::start());
}

/// Where one is installed, as `make test` does.
#[test]
fn answers_are_the_same_byte_for_byte_before_valkey() {
    let (Some(direct), Some(behind)) = (Redis::valkey(), Redis::valkey()) else {
        assert!(std::env::var_os("CI").is_none(), "no Valkey here; `make test` installs one");
        eprintln!("skipped: no Valkey here; `make test` installs one");
        return;
    };
    for version in [2, 3] {
        compare_random_pipelines(version, &direct, &behind);
    }
}

#[test]
fn every_command_answers_alike_without_and_with_too_few_arguments() {
    let (direct, behind) = (Redis::start(), Redis::start());
    let crema = Crema::start(&behind);
    let Value::Array(names) = direct.client().cmd(&["COMMAND", "LIST"]) else { panic!("COMMAND LIST is an array") };
    assert!(names.len() > 200, "a full Redis has over 200 commands");
    // What takes the connection away, stops the server, or answers by the clock or by chance.
    let left_out = [
        "monitor",
        "sync",
        "psync",
        "shutdown",
        "quit",
        "reset",
        "info",
        "time",
        "lastsave",
        "save",
        "bgsave",
        "bgrewriteaof",
        "lolwut",
        "command",
        "role",
        "replconf",
        "failover",
        "randomkey",
        "subscribe",
        "psubscribe",
        "ssubscribe",
        "unsubscribe",
        "punsubscribe",
        "sunsubscribe",
        "debug",
        "hello",
        "client",
        "multi",
        "watch",
    ];
    for version in [2, 3] {
        let mut one = Client::speaking(version, direct.addr());
        let mut other = Client::speaking(version, crema.addr());
        for name in names.iter().map(Value::text).filter(|name| !left_out.contains(&name.as_str())) {
            for args in [&[][..], &["x"], &["x", "y"], &["1", "x", "y", "z"]] {
                let command: Vec<&str> = std::iter::once(name.as_str()).chain(args.iter().copied()).collect();
                if blocks_or_moves(&command) {
                    continue;
                }
                one.send_cmd(&command);
                other.send_cmd(&command);
                let (mut want, mut got) = (one.reply(), other.reply());
                // Two servers hash by two seeds: a set has no order that they share.
                if ["sdiff", "sinter", "sunion", "smembers"].contains(&name.as_str()) {
                    want.sort_unstable();
                    got.sort_unstable();
                }
                assert_eq!(shown(&want), shown(&got), "{command:?} in RESP{version}");
            }
        }
        one.cmd(&["SELECT", "0"]);
        assert_eq!(one.cmd(&["DBSIZE"]), other.cmd(&["DBSIZE"]));
    }
}

/// Commands of [`every_command_answers_alike_without_and_with_too_few_arguments`] that would wait or change the server.
fn blocks_or_moves(command: &[&str]) -> bool {
    match command[0] {
        "replicaof" | "slaveof" | "migrate" | "wait" | "waitaof" | "slowlog" | "latency" | "acl" => command.len() > 1,
        "swapdb" | "psetex" | "setex" | "expire" | "pexpire" => command.len() == 3,
        name => name.contains("pfdebug") || name.contains("restore-asking"),
    }
}

/// What ends a connection: all bytes up to the end are compared.
#[test]
fn connections_end_alike() {
    let (direct, behind) = (Redis::start(), Redis::start());
    let crema = Crema::start(&behind);
    let long_inline = [b"GET ".to_vec(), vec![b'x'; 70_000]].concat();
    let long_header = [b"*1".to_vec(), vec![b'1'; 70_000]].concat();
    let long_length = [b"*1\r\n$1".to_vec(), vec![b'1'; 70_000]].concat();
    let endings: [&[u8]; 24] = [
        b"QUIT\r\n",
        b"*1\r\n$4\r\nQUIT\r\n*1\r\n$4\r\nPING\r\n",
        b"*1\r\n$5\r\nMULTI\r\n*1\r\n$4\r\nQUIT\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"Host: x\r\n",
        b"*1\r\n$4\r\npost\r\n",
        b"*x\r\n",
        b"*2147483648\r\n",
        b"*2\r\n$4\r\nQUIT\r\n$3\r\nnow\r\n",
        b"*99999999999999999999\r\n",
        b"*1 \r\n",
        b"*+1\r\n$4\r\nPING\r\n",
        b"*01\r\n$4\r\nPING\r\n",
        b"*1\r\n*1\r\n",
        b"*1\r\nPING\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$536870913\r\n",
        b"*1\r\n$04\r\nPING\r\n",
        b"SET k \"open\r\n",
        b"SET k \"closed\"open\r\n",
        &long_inline,
        &long_header,
        &long_length,
    ];
    let mut rng = seeded("connections_end_alike");
    for ending in endings {
        for before in [&b""[..], b"PING\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"] {
            let aborts = [&b"PO"[..], b"Ho", b"*1\r\n$4\r\npo"].iter().any(|start| ending.starts_with(start));
            if aborts && !before.is_empty() {
                // Redis drops what it had not written yet, and whether it had is a matter of luck.
                continue;
            }
            let bytes = [before, ending].concat();
            let mut one = direct.client();
            one.send(&bytes);
            let want = one.rest().unwrap_or_else(|e| panic!("Redis does not end after {}: {e}", shown(&bytes)));
            let mut other = crema.client();
            other.send_in_pieces(&bytes, &mut rng);
            let got = other.rest().unwrap_or_else(|e| panic!("{} should have ended it: {e}", shown(&bytes)));
            assert_eq!(shown(&want), shown(&got), "after {}", shown(&bytes));
        }
    }
}

/// Redis skips what it does not check; what it checks not, crema may not refuse.
#[test]
fn sloppy_requests_are_read_as_redis_reads_them() {
    let (direct, behind) = (Redis::start(), Redis::start());
    let crema = Crema::start(&behind);
    let sloppy: [&[u8]; 14] = [
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nvxx*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        b"*1\rX$4\rYPINGZZ",
        b"*2\r\n$3\r\nGETab$1\r\nkcd",
        b"*0\r\n*-1\r\n\r\n\r\nPING\r\n",
        b"*-2147483649\r\n$1\r\n",
        b"PING\n",
        b"  PING   \r\n",
        b"\tECHO\thello\t\r\n",
        b"SET q \"a\\x41\\n\\\"b\\\\\" \r\nGET q\r\n",
        b"SET q 'it\\'s' \r\nGET q\r\n",
        b"ECHO \"\"\r\n",
        b"ECHO ''\r\n",
        b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n",
        b"*2\r\n$4\r\neChO\r\n$6\r\n\r\n$3\r\n\r\n",
    ];
    let mut rng = seeded("sloppy_requests");
    let (mut one, mut other) = (direct.client(), crema.client());
    for round in 0..20 {
        for bytes in sloppy {
            let sentinel = format!("end-{round}-{}", rng.random::<u32>());
            let bytes = [bytes, &pack(&["ECHO", &sentinel])].concat();
            one.send(&bytes);
            other.send_in_pieces(&bytes, &mut rng);
            let end = format!("{sentinel}\r\n").into_bytes();
            let want = one.until(&end).expect("Redis goes on");
            let got = other.until(&end).unwrap_or_else(|e| panic!("after {}: {e}", shown(&bytes)));
            assert_eq!(shown(&want), shown(&got), "after {}", shown(&bytes));
        }
    }
}

#[test]
fn values_of_many_megabytes_come_back_as_they_were() {
    let (direct, behind) = (Redis::start(), Redis::start());
    let crema = Crema::start(&behind);
    let mut rng = seeded("values_of_many_megabytes");
    for version in [2, 3] {
        let (mut one, mut other) = (Client::speaking(version, direct.addr()), Client::speaking(version, crema.addr()));
        for len in [1 << 10, (64 << 10) - 1, 64 << 10, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 12 << 20] {
            // Lines ends and type bytes in it, so that nobody can mistake what is inside for the protocol.
            let value: Vec<u8> = (0..len).map(|_| *b"\r\n$*+-:0a\0\xff".choose(&mut rng).expect("bytes")).collect();
            let bytes = [
                pack(&[&b"SET"[..], b"big", &value]),
                pack(&["GET", "big"]),
                pack(&["MGET", "big", "none", "big"]),
                pack(&["STRLEN", "big"]),
                pack(&["GET", "big"]),
                pack(&["GETRANGE", "big", "5", "-5"]),
                pack(&["DEL", "big"]),
                pack(&["GET", "big"]),
            ]
            .concat();
            one.send(&bytes);
            other.send_in_pieces(&bytes, &mut rng);
            for n in 0..8 {
                assert!(one.reply() == other.reply(), "reply {n} with a value of {len} bytes in RESP{version}");
            }
        }
    }
}

/// Several connections take turns, so that what one wrote is what another must read; most reads are L1's to answer.
#[test]
fn connections_that_take_turns_see_the_same_as_at_redis() {
    let (direct, behind) = (Redis::start(), Redis::start());
    let crema = Crema::start(&behind);
    let mut rng = seeded("connections_that_take_turns");
    let mut pairs: Vec<(Client, Client)> = [2, 3, 2, 3]
        .map(|version| (Client::speaking(version, direct.addr()), Client::speaking(version, crema.addr())))
        .into();
    let took_part = || crema.is_direct() || crema.outcomes("hit") > 500;
    let begun = Instant::now();
    // On a slow machine a key is mostly written again before L1 has it, and so they go on.
    for turn in (0..).take_while(|turn| *turn < 6_000 || turn % 500 > 0 || !took_part()) {
        assert!(begun.elapsed() < AT_LAST * 4, "L1 took no part");
        if turn % 20 == 0 {
            std::thread::sleep(Duration::from_millis(2)); // in which what was read enters L1
        }
        let who = rng.random_range(0..pairs.len());
        let (one, other) = &mut pairs[who];
        let commands: Vec<Vec<String>> = (0..rng.random_range(1..=4)).map(|_| small_command(&mut rng)).collect();
        let bytes: Vec<u8> = commands.iter().flat_map(|command| pack(command)).collect();
        one.send(&bytes);
        other.send(&bytes);
        for command in &commands {
            let (want, got) = (one.reply(), other.reply());
            assert_eq!(shown(&want), shown(&got), "turn {turn}, connection {who}: {command:?} of {commands:?}");
        }
    }
}

/// Mostly reads of few keys, with every kind of change between.
fn small_command(rng: &mut SmallRng) -> Vec<String> {
    let key = format!("k{}", rng.random_range(0..4));
    let other = format!("k{}", rng.random_range(0..4));
    let n = rng.random_range(0..100).to_string();
    let command: Vec<&str> = match rng.random_range(0..40) {
        0..=17 => vec!["GET", &key],
        18 => vec!["SET", &key, &n],
        19 => vec!["DEL", &key, &other],
        20 => vec!["INCR", &key],
        21 => vec!["APPEND", &key, &n],
        22 => vec!["MSET", &key, &n, &other, "m"],
        23 => vec!["MGET", &key, &other],
        24 => vec!["RENAME", &key, &other],
        25 => vec!["COPY", &key, &other, "REPLACE"],
        26 => vec!["GETDEL", &key],
        27 => vec!["SETRANGE", &key, "3", &n],
        28 => vec!["EVAL", "return redis.call('SET', 'k' .. '1', ARGV[1])", "0", &n],
        29 => vec!["EVAL", "return redis.call('GET', KEYS[1])", "1", &key],
        30 => vec!["SETNX", &key, &n],
        31 => vec!["GETSET", &key, &n],
        32 => vec!["XADD", "stream", "*0", "f"],
        33 => vec!["XRANGE", "stream", "-", "+"],
        34 => vec!["XRANGE", &key, "-", "+"],
        35 => vec!["SET", &key, &n, "EX", "100"],
        36 => vec!["LPUSH", &key, &n],
        37 => vec!["SETBIT", &key, &n, "1"],
        38 => vec!["MSETNX", &key, &n, &other, "x"],
        _ if n.len() == 1 => vec!["FLUSHALL"],
        _ => vec!["TYPE", &key],
    };
    command.into_iter().map(ToOwned::to_owned).collect()
}

fn compare_random_pipelines(version: u8, direct: &Redis, behind: &Redis) {
    let crema = Crema::start(behind);
    let mut rng = seeded(&format!("random pipelines in RESP{version}"));
    let connect = || (Client::speaking(version, direct.addr()), Client::speaking(version, crema.addr()));
    pipelines::compare(version, 12, &mut rng, |_| true, connect);
}
