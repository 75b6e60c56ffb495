//! What servers understand differently: requests that are not written as they should be, and commands with more arguments
//! than crema's table allows. What counts is the server behind, and the one that comes after it.

use std::net::Shutdown;

use common::value::shown;
use common::{Client, Crema, Redis, Value, array, bulk, eventually, int, ok, pack, seeded, simple};

/// Redis reads all of these in one way, and Valkey 9.1 most of them in another.
const CROOKED: &[&[u8]] = &[
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1XX",
    b"*3\r\n$3\r\nSETxx$1\r\nb\r\n$1\r\n2\r\n",
    b"*1\rX$4\r\nPING\r\n",
    b"*1\r\n$4\rXPING\r\n",
    b"*x\rX$4\r\nPING\r\n",
    b"*1\r\n$x\rX",
    b"*1\r\nPING\rX",
    b"*1\r\n$4\r\nPING\n\r",
    b"*1\0\r\n$4\r\nPING\r\n",
    b"*1\r\n$4\0\r\nPING\r\n",
    b"SET \"c\"d 1\r\n",
    b"SET \"e\" 'f'\r\n",
    b"SET 'e'\"f\"g '1'2\r\n",
    b"SET h \"a\"\x0bb\r\n",
    b"SET i \"a\\\"\r\n",
    b"SET j 'a\\'\r\n",
    b"SET k \"a\r\n",
    b"SET l \"a\\\" \r\n",
    b"SET m \"\\\\\"\n",
];

#[test]
fn crooked_requests_are_read_as_the_server_reads_them() {
    let redis = (Some(Redis::start()), Some(Redis::start()));
    let pairs = [redis, (Redis::newer(), Redis::newer()), (Redis::valkey(), Redis::valkey())];
    for (direct, behind) in pairs.into_iter().filter_map(|(direct, behind)| Some((direct?, behind?))) {
        let crema = Crema::start(&behind);
        for crooked in CROOKED {
            // Something before and behind it, so that what was executed shows, and where the next request begins.
            let bytes = [&pack(&["PING", "before"]), *crooked, &pack(&["PING", "behind"])].concat();
            let answer = |mut client: Client, cut: bool| {
                if cut {
                    client.send_in_pieces(&bytes, &mut seeded("pieces"));
                } else {
                    client.send(&bytes);
                }
                client.shutdown(Shutdown::Write);
                client.rest().expect("the server closes")
            };
            let told = answer(direct.client(), false);
            for cut in [false, true] {
                assert_eq!(shown(&answer(crema.client(), cut)), shown(&told), "{}", crooked.escape_ascii());
            }
        }
        let keys = |redis: &Redis| {
            let mut client = redis.client();
            let mut keys: Vec<String> = client.cmd(&["KEYS", "*"]).items().iter().map(Value::text).collect();
            keys.sort_unstable();
            keys.into_iter().map(|key| client.cmd(&["GET", &key]).text() + &key).collect::<Vec<_>>()
        };
        assert_eq!(keys(&behind), keys(&direct));
    }
}

#[test]
fn the_next_server_reads_in_its_own_way() {
    let Some(valkey) = Redis::valkey() else { return };
    let mut redis = Redis::start();
    let crema = Crema::start(&redis);
    let answer = || {
        // While the one goes and the other comes, clients are refused.
        let said = Client::try_connect(crema.addr()).and_then(|mut client| {
            client.try_send(b"PING \"a\"b\r\n")?;
            client.try_value()
        });
        said.map_or_else(|error| error.to_string(), |value| value.text())
    };
    assert!(answer().contains("unbalanced quotes"));
    redis.become_like(&valkey);
    eventually("it is read as Valkey reads it", || answer() == "ab");
}

/// Seen with `SCRIPT DEBUG YES lua`, which Valkey takes since 9.1: what a debugger would have rolled back was done.
#[test]
fn more_arguments_than_the_table_allows_never_ride_a_lane() {
    // WATCH is known as DBSIZE here, which has no arguments, and SET as STRLEN, which reads and has one.
    let names = ["dbsize", "gone", "strlen", "lost", "watch", "dbsize", "set", "strlen"];
    let renamed: Vec<&str> = names.chunks(2).flat_map(|pair| ["--rename-command", pair[0], pair[1]]).collect();
    let redis = Redis::with(&renamed);
    let crema = Crema::start(&redis);
    let (mut one, mut other) = (crema.client(), crema.client());

    assert_eq!(one.cmd(&["DBSIZE", "watched"]), ok());
    assert_eq!(other.cmd(&["APPEND", "watched", "x"]), int(1));
    assert_eq!(one.cmd(&["MULTI"]), ok());
    assert_eq!(one.cmd(&["EXEC"]), Value::Nil, "what it watches has changed");
    assert_eq!(other.cmd(&["MULTI"]), ok());
    assert_eq!(other.cmd(&["EXEC"]), array([]), "it watches nothing");

    for round in 0..20 {
        let value = round.to_string();
        assert_eq!(other.cmd(&["STRLEN", "k", &value]), ok());
        crema.warm(&["GET", "k"]);
        assert_eq!(other.cmd(&["GET", "k"]), bulk(value));
    }
    // What the server refuses as well is refused in its words, and costs its client nothing.
    let before = crema.outcomes("pinned");
    assert_eq!(other.cmd(&["GET"]).text(), redis.client().cmd(&["GET"]).text());
    assert_eq!(other.cmd(&["CLIENT", "REPLY"]).text(), redis.client().cmd(&["CLIENT", "REPLY"]).text());
    assert_eq!(crema.outcomes("pinned"), before);
}

#[test]
fn a_debugger_with_a_language_is_one() {
    let Some(valkey) = Redis::valkey() else { return };
    let crema = Crema::start(&valkey);
    let mut debugger = crema.client();
    assert_eq!(debugger.cmd(&["SCRIPT", "DEBUG", "YES", "lua"]), ok());
    debugger.send_cmd(&["EVAL", "redis.call('SET', 'k', 'v') return 1", "0"]);
    assert!(matches!(debugger.value(), Value::Array(_)), "it stops at the first line");
    debugger.send_cmd(&["continue"]);
    debugger.rest().expect("the end of the session ends the connection");
    assert_eq!(valkey.client().cmd(&["GET", "k"]), Value::Nil, "it is rolled back");
    assert_eq!(crema.client().cmd(&["PING"]), simple("PONG"));
}
