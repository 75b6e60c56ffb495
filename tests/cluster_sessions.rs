//! What needs a connection of its own, in front of a real cluster: transactions, commands that wait, subscriptions, large requests.
//! Where one node would answer, it is asked the same itself, and the answers are held against each other byte by byte.

use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use common::cluster::{Move, SLOTS, key_in, keys_in, slot_of};
use common::{Client, Cluster, Crema, Redis, Value, array, bulk, eventually, int, ok, simple};

fn masters() -> Cluster {
    Cluster::plan().masters(3).start()
}

/// The slots that a node has at first.
fn slots_of(n: u16) -> RangeInclusive<u16> {
    let edge = |n: u16| u16::try_from(u32::from(n) * u32::from(SLOTS) / 3).expect("a slot");
    edge(n)..=edge(n + 1) - 1
}

/// A key that a node has at first.
fn key_of(n: u16, prefix: &str) -> String {
    keys_in(slots_of(n), prefix).next().expect("there are many names")
}

fn crossslot() -> Value {
    Value::parse(b"-CROSSSLOT Keys in request don't hash to the same slot\r\n")
}

/// What a transaction may consist of, `K` being a key.
const TRANSACTIONS: &[&[&str]] = &[
    &["MULTI", "SET K v", "GET K", "EXEC", "GET K"],
    &["MULTI", "SET K v", "DISCARD", "GET K"],
    &["MULTI", "EXEC"],
    &["MULTI", "DISCARD"],
    &["MULTI", "NOSUCHCOMMAND K", "SET K v", "EXEC", "GET K"],
    &["MULTI", "SET K", "SET K v", "EXEC", "GET K"],
    &["MULTI", "MULTI", "SET K v", "EXEC"],
    &["MULTI", "SET K v", "MULTI", "EXEC"],
    &["EXEC", "DISCARD", "UNWATCH"],
    &["WATCH K", "MULTI", "SET K v", "EXEC", "GET K"],
    &["WATCH K", "SET K other", "MULTI", "SET K v", "EXEC", "GET K"],
    &["WATCH K", "SET K other", "UNWATCH", "MULTI", "SET K v", "EXEC", "GET K"],
    &["WATCH K", "GET K", "MULTI", "GET K", "DISCARD", "MULTI", "GET K", "EXEC"],
    &["WATCH K", "EXEC", "MULTI", "INCR K", "EXEC"],
    &["MULTI", "PING", "ECHO x", "SET K v", "PING", "EXEC", "GET K"],
    &["MULTI", "PING", "EXEC"],
    &["MULTI", "PING", "DISCARD", "GET K"],
    &["MULTI", "SET K v", "INCR K", "LPUSH K x", "EXEC"],
    &["MULTI", "BLPOP K 0", "RPUSH K a", "BLPOP K 0", "EXEC"],
    &["MULTI", "WATCH K", "SET K v", "EXEC"],
    &["MULTI", "UNWATCH", "SET K v", "EXEC"],
    &["MULTI", "EVAL return{KEYS[1],redis.call('incr',KEYS[1])} 1 K", "EXEC"],
    &["MULTI", "XADD K 1-1 f v", "XREAD BLOCK 0 STREAMS K 0", "HGETALL K", "EXEC"],
    &["MULTI", "SET K v", "EXEC", "MULTI", "DEL K", "EXEC"],
];

fn args<'a>(command: &'a str, key: &'a str) -> Vec<&'a str> {
    command.split(' ').map(|arg| if arg == "K" { key } else { arg }).collect()
}

/// The replies to all commands, sent at once or one by one.
fn replies(client: &mut Client, commands: &[&str], key: &str, at_once: bool) -> Vec<String> {
    let reply = |client: &mut Client| String::from_utf8_lossy(&client.reply()).into_owned();
    if at_once {
        for command in commands {
            client.send_cmd(&args(command, key));
        }
        return commands.iter().map(|_| reply(client)).collect();
    }
    let one = |command: &&str| {
        client.send_cmd(&args(command, key));
        reply(client)
    };
    commands.iter().map(one).collect()
}

#[test]
fn a_transaction_is_answered_as_by_the_node_of_its_keys() {
    let cluster = masters();
    let crema = cluster.crema().start();
    for (n, version, at_once) in [(0, 2, true), (1, 2, false), (2, 3, true), (1, 3, false)] {
        let key = key_of(n, "k");
        let mut client = Client::speaking(version, crema.addr());
        let mut direct = Client::speaking(version, cluster.addr(n.into()));
        for commands in TRANSACTIONS {
            let clear = |client: &mut Client| _ = client.cmd(&["DEL", &key]);
            clear(&mut direct);
            let want = replies(&mut direct, commands, &key, at_once);
            clear(&mut direct);
            let got = replies(&mut client, commands, &key, at_once);
            assert_eq!(got, want, "{commands:?}, node {n}, RESP{version}, at once: {at_once}");
        }
        assert_eq!(client.cmd(&["PING"]), simple("PONG"));
    }
}

#[test]
fn a_transaction_is_in_one_slot() {
    let cluster = masters();
    let crema = cluster.crema().start();
    let mut client = crema.client();
    let [a, b, c] = [0, 1, 2].map(|n| key_of(n, "k"));
    let near = keys_in(slots_of(0), "near").find(|key| slot_of(key) != slot_of(&a)).expect("another");
    let aborted = || Value::parse(b"-EXECABORT Transaction discarded because of previous errors.\r\n");
    for other in [&b, &near] {
        assert_eq!(client.cmd(&["MULTI"]), ok());
        assert_eq!(client.cmd(&["SET", &a, "v"]), simple("QUEUED"));
        assert_eq!(client.cmd(&["SET", other, "v"]), crossslot());
        assert_eq!(client.cmd(&["SET", &a, "w"]), simple("QUEUED"));
        assert_eq!(client.cmd(&["EXEC"]), aborted());
        assert_eq!(client.cmd(&["WATCH", &a]), ok());
        assert_eq!(client.cmd(&["WATCH", other]), crossslot());
        assert_eq!(client.cmd(&["WATCH", &a, other]), crossslot());
        assert_eq!(client.cmd(&["MULTI"]), ok());
        assert_eq!(client.cmd(&["SET", other, "v"]), crossslot());
        assert_eq!(client.cmd(&["EXEC"]), aborted());
    }
    for key in [&a, &b, &c, &near] {
        assert!(client.cmd(&["GET", key]).is_nil(), "{key}");
    }
    // What was watched is not watched any more, and other commands reach their nodes meanwhile.
    assert_eq!(client.cmd(&["WATCH", &b]), ok());
    assert_eq!(client.cmd(&["SET", &a, "1"]), ok());
    assert_eq!(client.cmd(&["GET", &a]), bulk("1"));
    assert_eq!(client.cmd(&["SET", &c, "1"]), ok());
    assert!(client.cmd(&["CLIENT", "ID"]).number() > 0);
    assert_eq!(client.cmd(&["MULTI"]), ok());
    assert_eq!(client.cmd(&["INCR", &b]), simple("QUEUED"));
    assert_eq!(client.cmd(&["EXEC"]), array([int(1)]));
    assert_eq!(client.cmd(&["INCR", &a]), int(2));
}

#[test]
fn a_transaction_whose_first_commands_are_too_long_to_be_sent_again_fails_where_its_key_is_elsewhere() {
    let cluster = masters();
    let crema = cluster.crema().start();
    let mut client = crema.client();
    let long = "x".repeat(600_000);
    for n in 0..3 {
        let key = key_of(n, "k");
        assert_eq!(client.cmd(&["MULTI"]), ok());
        for _ in 0..2 {
            assert_eq!(client.cmd(&["ECHO", &long]), simple("QUEUED"));
        }
        let reply = client.cmd(&["SET", &key, "v"]);
        let end = client.cmd(&["EXEC"]);
        if reply.is_error() {
            assert!(
                reply.text().starts_with("ERR crema: ") && end.text().starts_with("EXECABORT"),
                "{reply:?} {end:?}"
            );
            assert!(client.cmd(&["GET", &key]).is_nil());
        } else {
            assert_eq!(end, array([bulk(&long), bulk(&long), ok()]), "at the front it is where it belongs");
        }
    }
}

/// Moves a slot that is on its way to its end.
fn finish(step: Move<'_>) {
    step.migrate();
    step.finish();
}

#[test]
fn a_transaction_goes_along_when_its_slot_moves() {
    let cluster = masters();
    let crema = cluster.crema().start();
    for version in [2, 3] {
        let mut client = Client::speaking(version, crema.addr());
        for (when, to) in [("before", 1), ("within", 2), ("before EXEC", 0), ("half", 1), ("half, of a new key", 2)] {
            let key = key_in(7, &format!("{version} "));
            let set = |client: &mut Client| client.cmd(&["SET", &key, "0"]);
            assert_eq!(set(&mut client), ok());
            let other = keys_in(7..=7, "other").find(|other| *other != key).expect("another");
            assert_eq!(client.cmd(&["DEL", &other]), int(0), "{when}");
            if when == "before" {
                cluster.move_slot(7, to);
            }
            assert_eq!(client.cmd(&["MULTI"]), ok(), "{when}");
            assert_eq!(client.cmd(&["INCR", &key]), simple("QUEUED"), "{when}");
            if when == "within" {
                cluster.move_slot(7, to);
            }
            let step = when.starts_with("half").then(|| {
                let step = cluster.begin_move(7, to);
                if when == "half" {
                    step.migrate_keys(&[key.clone().into_bytes()]);
                }
                step
            });
            assert_eq!(client.cmd(&["INCR", &key]), simple("QUEUED"), "{when}");
            if when == "before EXEC" {
                cluster.move_slot(7, to);
            }
            assert_eq!(client.cmd(&["EXEC"]), array([int(1), int(2)]), "{when}");
            if let Some(step) = step {
                finish(step);
            }
            assert_eq!(client.cmd(&["GET", &key]), bulk("2"), "{when}");
            assert_eq!(cluster.client_of(&key).cmd(&["GET", &key]), bulk("2"), "{when}");
        }
    }
}

#[test]
fn that_a_command_was_refused_counts_for_more_than_a_watch_that_fails() {
    let cluster = masters();
    let crema = cluster.crema().start();
    let mut client = crema.client();
    let (key, aborted) = (key_in(9, "k"), "EXECABORT Transaction discarded because of previous errors.");
    assert_eq!(client.cmd(&["SET", &key, "0"]), ok());
    for when in ["before MULTI", "before a read", "before EXEC", "without WATCH"] {
        for pipelined in [false, true] {
            cluster.await_whole();
            let to = (cluster.owner(9) + 1) % 3;
            if when != "without WATCH" {
                assert_eq!(client.cmd(&["WATCH", &key]), ok());
            }
            if matches!(when, "before MULTI" | "before a read") {
                cluster.move_slot(9, to);
            }
            if when == "before a read" {
                assert_eq!(client.cmd(&["GET", &key]), bulk("0"));
            }
            let queued: [&[&str]; 4] = [&["MULTI"], &["INCR", &key], &["INCR"], &["INCR", &key]];
            if pipelined && when != "before EXEC" {
                let replies = client.pipeline(&[&queued[..], &[&["EXEC"]]].concat());
                assert!(replies[2].is_error(), "{when}: {replies:?}");
                assert_eq!(replies[4].text(), aborted, "{when}");
            } else {
                let replies = client.pipeline(&queued);
                assert!(replies[2].is_error(), "{when}: {replies:?}");
                if when == "before EXEC" {
                    cluster.move_slot(9, to);
                }
                assert_eq!(client.cmd(&["EXEC"]).text(), aborted, "{when}");
            }
            assert_eq!(client.cmd(&["GET", &key]), bulk("0"));
        }
    }
}

#[test]
fn a_watch_fails_when_its_slot_moves() {
    let cluster = masters();
    let crema = cluster.crema().start();
    for (version, nothing) in [(2, "*-1\r\n"), (3, "_\r\n")] {
        let mut client = Client::speaking(version, crema.addr());
        let key = key_in(9, "k");
        let more = keys_in(9..=9, "more").next().expect("another");
        assert_eq!(client.cmd(&["SET", &key, "0"]), ok());
        for to in [1, 2, 0] {
            for when in ["before MULTI", "before EXEC", "between two", "before a read"] {
                cluster.await_whole();
                let to = if when == "before MULTI" { to } else { (cluster.owner(9) + 1) % 3 };
                if cluster.owner(9) == to {
                    continue;
                }
                assert_eq!(client.cmd(&["WATCH", &key]), ok());
                if when != "before EXEC" {
                    cluster.move_slot(9, to);
                }
                if when == "between two" {
                    assert_eq!(client.cmd(&["WATCH", &more]), ok());
                }
                if when == "before a read" {
                    assert_eq!(client.cmd(&["GET", &key]), bulk("0"));
                }
                assert_eq!(client.cmd(&["MULTI"]), ok());
                assert_eq!(client.cmd(&["INCR", &key]), simple("QUEUED"), "{when}");
                if when == "before EXEC" {
                    cluster.move_slot(9, to);
                }
                client.send_cmd(&["EXEC"]);
                assert_eq!(String::from_utf8_lossy(&client.reply()), nothing, "{when}");
                assert_eq!(client.cmd(&["GET", &key]), bulk("0"));
                assert_eq!(client.cmd(&["MULTI"]), ok());
                assert_eq!(client.cmd(&["GET", &key]), simple("QUEUED"));
                assert_eq!(client.cmd(&["EXEC"]), array([bulk("0")]), "and it is over");
            }
        }
    }
}

#[test]
fn a_transaction_that_a_node_refuses_is_not_carried_out_one_by_one() {
    let cluster = masters();
    for n in 0..3 {
        let may = if n == 1 { "-multi" } else { "+multi" };
        let reply = cluster.client(n).cmd(&["ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all", may]);
        assert_eq!(reply, ok());
    }
    let crema = cluster.crema().start();
    let login = || {
        let mut client = crema.client();
        assert_eq!(client.cmd(&["AUTH", "u", "p"]), ok());
        client
    };
    let allowed = |client: &mut Client, key: &str| {
        assert_eq!(client.cmd(&["MULTI"]), ok());
        assert_eq!(client.cmd(&["SET", key, "v"]), simple("QUEUED"));
        assert_eq!(client.cmd(&["EXEC"]), array([ok()]));
    };
    let refused = |client: &mut Client, (n, key): (usize, &str), before: &Value| {
        assert_eq!(client.cmd(&["MULTI"]), ok(), "as the front says");
        let reply = client.cmd(&["SET", key, "w"]);
        assert!(reply.text().starts_with("NOPERM "), "{reply:?}");
        assert!(client.try_cmd(&["EXEC"]).is_err(), "its client is closed, for it was told that it has begun");
        assert_eq!(cluster.client(n).cmd(&["GET", key]), *before);
    };
    let [front, never, no_more] = [0, 1, 2].map(|n| key_of(n, "k"));
    let mut client = login();
    allowed(&mut client, &front);
    refused(&mut client, (1, &never), &Value::Nil);

    let mut client = login();
    allowed(&mut client, &front);
    allowed(&mut client, &no_more);
    assert_eq!(cluster.client(2).cmd(&["ACL", "SETUSER", "u", "-multi"]), ok());
    refused(&mut client, (2, &no_more), &bulk("v"));
}

#[test]
fn what_is_refused_when_it_is_whole_leaves_nothing_of_its_beginning() {
    let cluster = masters();
    let crema = cluster.crema().start();
    let mut client = crema.client();
    assert!(!client.cmd(&["CLIENT", "ID"]).is_error());
    assert_eq!(client.cmd(&["MULTI"]), ok());
    assert_eq!(client.cmd(&["SET", &key_of(1, "k"), "v"]), simple("QUEUED"));
    let reply = client.cmd(&["CLIENT", "NO-EVICT", &"x".repeat(400_000)]);
    assert!(reply.is_error(), "{reply:?}");
    assert!(client.cmd(&["EXEC"]).text().starts_with("EXECABORT "));
    assert_eq!(client.cmd(&["GET", &key_of(1, "k")]), Value::Nil);
}

/// Has `client` wait with this command, until the node of that key has it wait.
fn block(cluster: &Cluster, client: &mut Client, key: &str, command: &[&str]) {
    let blocked = || cluster.node(cluster.owner_of(key)).info("clients", "blocked_clients");
    let before = blocked();
    client.send_cmd(command);
    eventually("it waits", || blocked() == before + 1);
}

#[test]
fn a_command_waits_on_however_often_its_slot_moves() {
    let cluster = masters();
    let crema = cluster.crema().start();
    let list = key_in(7, "list");
    let mut client = crema.client();
    block(&cluster, &mut client, &list, &["BLPOP", &list, "0"]);
    for _ in 0..12 {
        let to = (cluster.owner(7) + 1) % 3;
        cluster.move_slot(7, to);
        eventually("it waits there", || cluster.node(to).info("clients", "blocked_clients") == 1);
    }
    assert_eq!(crema.client().cmd(&["RPUSH", &list, "v"]), int(1));
    assert_eq!(client.value(), array([bulk(&list), bulk("v")]));
}

#[test]
fn a_command_waits_at_the_node_of_its_key_and_goes_along_when_the_slot_moves() {
    let cluster = masters();
    let crema = cluster.crema().start();
    let [list, set, stream, queue] = ["list", "set", "stream", "queue"].map(|prefix| key_in(7, prefix));
    let mut pushes = crema.client();
    assert_eq!(pushes.cmd(&["XGROUP", "CREATE", &queue, "g", "$", "MKSTREAM"]), ok());
    let waits: [(&str, Vec<&str>, Vec<&str>); 7] = [
        (&list, vec!["BLPOP", &list, "0"], vec!["RPUSH", &list, "v"]),
        (&list, vec!["BRPOP", &list, "0"], vec!["RPUSH", &list, "v"]),
        (&list, vec!["BLMOVE", &list, &list, "LEFT", "LEFT", "0"], vec!["RPUSH", &list, "v"]),
        (&set, vec!["BZPOPMIN", &set, "100"], vec!["ZADD", &set, "1", "m"]),
        (&set, vec!["BZMPOP", "0", "1", &set, "MAX"], vec!["ZADD", &set, "1", "m"]),
        (&stream, vec!["XREAD", "BLOCK", "0", "STREAMS", &stream, "$"], vec!["XADD", &stream, "*", "f", "v"]),
        (
            &queue,
            vec!["XREADGROUP", "GROUP", "g", "c", "BLOCK", "90000", "STREAMS", &queue, ">"],
            vec!["XADD", &queue, "*", "f", "v"],
        ),
    ];
    let mut client = crema.client();
    for (key, wait, push) in &waits {
        for moves in 0..2 {
            eprintln!("{wait:?}, {moves} moves, at {}", cluster.owner(7));
            block(&cluster, &mut client, key, wait);
            if moves == 1 {
                let to = (cluster.owner(7) + 1) % 3;
                cluster.move_slot(7, to);
                eventually("it waits there", || cluster.node(to).info("clients", "blocked_clients") == 1);
            }
            assert!(!pushes.cmd(push).is_error());
            let reply = client.value();
            assert!(!reply.is_error() && !reply.is_nil(), "{wait:?}: {reply:?}");
            pushes.cmd(&["DEL", &list, &set]);
        }
    }
    assert_eq!(client.cmd(&["PING"]), simple("PONG"));
    // It is no connection for life: all that waited are over, and no more than spares are left.
    let mut clients: Vec<Client> = (0..5).map(|_| crema.client()).collect();
    for client in &mut clients {
        assert_eq!(client.cmd(&["BLPOP", &list, "0.01"]), Value::Nil);
        assert_eq!(client.cmd(&["GET", "k"]), Value::Nil);
    }
    eventually("nobody keeps one", || crema.metric("crema_upstream_connections", &[("state", "home")]) < 1.0);
}

#[test]
fn nothing_is_missed_that_is_added_while_a_slot_moves() {
    let cluster = masters();
    let crema = cluster.crema().start();
    let [one, other] = ["one", "other"].map(|prefix| key_in(7, prefix));
    for version in [2, 3] {
        for (time, before) in [("0", ""), ("90000", "1-1"), ("0", "2-2")] {
            eprintln!("RESP{version}, BLOCK {time}, {before:?}");
            let mut client = Client::speaking(version, crema.addr());
            client.cmd(&["DEL", &one, &other]);
            if !before.is_empty() {
                assert_eq!(client.cmd(&["XADD", &other, before, "f", "before"]), bulk(before));
            }
            if before == "2-2" {
                assert_eq!(client.cmd(&["XDEL", &other, before]), int(1));
            }
            block(&cluster, &mut client, &one, &["XREAD", "BLOCK", time, "STREAMS", &one, &other, "$", "$"]);
            let to = (cluster.owner(7) + 1) % 3;
            let step = cluster.begin_move(7, to);
            step.migrate();
            // The client waits at the old node still, and what is added goes to the new one.
            let mut new = cluster.client(to);
            for (stream, id) in [(&one, "5-1"), (&other, "5-2"), (&other, "5-3")] {
                assert_eq!(new.cmd(&["ASKING"]), ok());
                assert_eq!(new.cmd(&["XADD", stream, id, "f", "v"]), bulk(id));
            }
            step.finish();
            let reply = String::from_utf8_lossy(&client.reply()).into_owned();
            for id in ["5-1", "5-2", "5-3"] {
                assert!(reply.contains(id), "{id}: {reply}");
            }
            assert!(!reply.contains("before"), "{reply}");
            assert_eq!(client.cmd(&["PING"]), simple("PONG"));
        }
    }
}

#[test]
fn who_may_not_ask_where_a_stream_ends_waits_all_the_same() {
    let cluster = masters();
    for n in 0..3 {
        let reply = cluster.client(n).cmd(&["ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all", "-xrevrange"]);
        assert_eq!(reply, ok());
    }
    let crema = cluster.crema().start();
    let stream = key_in(7, "stream");
    let mut client = crema.client();
    assert_eq!(client.cmd(&["AUTH", "u", "p"]), ok());
    block(&cluster, &mut client, &stream, &["XREAD", "BLOCK", "0", "STREAMS", &stream, "$"]);
    let to = (cluster.owner(7) + 1) % 3;
    cluster.move_slot(7, to);
    eventually("it waits there", || cluster.node(to).info("clients", "blocked_clients") == 1);
    assert_eq!(crema.client().cmd(&["XADD", &stream, "5-1", "f", "v"]), bulk("5-1"));
    assert!(String::from_utf8_lossy(&client.reply()).contains("5-1"));
}

#[test]
fn time_goes_on_while_a_slot_moves() {
    let cluster = masters();
    let crema = cluster.crema().start();
    let key = key_in(7, "list");
    let mut client = crema.client();
    let begun = Instant::now();
    block(&cluster, &mut client, &key, &["BLPOP", &key, "3"]);
    thread::sleep(Duration::from_millis(1_500)); // time is what this is about
    let mut monitor = cluster.client(2);
    assert_eq!(monitor.cmd(&["MONITOR"]), ok());
    cluster.move_slot(7, 2);
    let again = format!("\"BLPOP\" \"{key}\" \"");
    let left = monitor.until(again.as_bytes()).and_then(|_| monitor.until(b"\"")).expect("it is sent again");
    let left: f64 = String::from_utf8_lossy(&left).trim_end_matches('"').parse().expect("seconds");
    assert!(left < 1.6, "it waits anew, for {left} s");
    assert_eq!(client.value(), Value::Nil);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(2_900), "{took:?}");
}

#[test]
fn who_leaves_while_it_waits_takes_nothing() {
    let cluster = masters();
    let crema = cluster.crema().start();
    let key = key_of(2, "list");
    let mut client = crema.client();
    block(&cluster, &mut client, &key, &["BLPOP", &key, "0"]);
    drop(client);
    eventually("it waits no more", || cluster.node(2).info("clients", "blocked_clients") == 0);
    let mut client = crema.client();
    assert_eq!(client.cmd(&["RPUSH", &key, "v"]), int(1));
    assert_eq!(client.cmd(&["LLEN", &key]), int(1));
    // Another ends it.
    block(&cluster, &mut client, "other", &["BLPOP", "other", "0"]);
    let mut direct = cluster.client_of("other");
    let blocked = direct.cmd(&["CLIENT", "LIST"]).text();
    let blocked = blocked.lines().find(|line| line.contains("flags=b")).expect("it waits");
    let id = blocked.split(' ').next().and_then(|id| id.strip_prefix("id=")).expect("an id");
    assert_eq!(direct.cmd(&["CLIENT", "UNBLOCK", id, "ERROR"]), int(1));
    assert!(client.value().text().starts_with("UNBLOCKED"), "the client is told");
    assert_eq!(client.cmd(&["PING"]), simple("PONG"));
}

#[test]
fn a_client_with_a_connection_for_life_reaches_every_node() {
    let cluster = masters();
    let crema = cluster.crema().start();
    for setup in
        [&["CLIENT", "ID"][..], &["CLIENT", "NO-EVICT", "ON"], &["CLIENT", "TRACKINGINFO"], &["SUBSCRIBE", "c"]]
    {
        let mut client = crema.resp3();
        assert!(!client.cmd(setup).is_error(), "{setup:?}");
        for n in 0..3 {
            let (key, list) = (key_of(n, "k"), key_of(n, "list"));
            assert_eq!(client.cmd(&["SET", &key, "v"]), ok(), "{setup:?}");
            assert_eq!(client.cmd(&["GET", &key]), bulk("v"));
            assert_eq!(client.cmd(&["MULTI"]), ok());
            assert_eq!(client.cmd(&["APPEND", &key, "w"]), simple("QUEUED"), "{setup:?}, {n}");
            assert_eq!(client.cmd(&["EXEC"]), array([int(2)]));
            assert_eq!(client.cmd(&["RPUSH", &list, "x"]), int(1));
            assert_eq!(client.cmd(&["BLPOP", &list, "1"]), array([bulk(&list), bulk("x")]));
            assert_eq!(client.cmd(&["SRANDMEMBER", &list, "3"]), array([]));
            assert_eq!(client.cmd(&["WATCH", &key]), ok());
            assert_eq!(client.cmd(&["UNWATCH"]), ok());
            assert_eq!(client.cmd(&["DEL", &key]), int(1));
        }
        assert_eq!(client.cmd(&["ECHO", "x"]), bulk("x"));
    }
}

#[test]
fn a_large_request_goes_to_the_node_of_its_key() {
    let cluster = masters();
    let crema = cluster.crema().start();
    let mut client = crema.client();
    let value = "x".repeat(5 << 20);
    for n in 0..3 {
        let key = key_of(n, "k");
        assert_eq!(client.cmd(&["SET", &key, &value]), ok());
        assert_eq!(client.cmd(&["STRLEN", &key]), int(5 << 20));
        assert_eq!(cluster.client(n.into()).cmd(&["STRLEN", &key]), int(5 << 20));
        let script = format!("return redis.call('strlen', KEYS[1]) --{value}");
        assert_eq!(client.cmd(&["EVAL", &script, "1", &key]), int(5 << 20));
        assert_eq!(client.cmd(&["MULTI"]), ok());
        assert_eq!(client.cmd(&["APPEND", &key, &value]), simple("QUEUED"));
        assert_eq!(client.cmd(&["EXEC"]), array([int(10 << 20)]));
        assert_eq!(client.cmd(&["DEL", &key]), int(1));
    }
    let key = key_in(7, "k");
    for n in [1, 2] {
        cluster.move_slot(7, n);
        let set = |client: &mut Client| client.cmd(&["SET", &key, &value[..2 << 20]]);
        let first = set(&mut client);
        assert!(first == ok() || first.text().starts_with("TRYAGAIN crema: "), "what is not here any more: {first:?}");
        eventually("it is known where it is", || set(&mut client) == ok());
    }
}

#[test]
fn scripts_and_functions_run_where_their_keys_are() {
    let cluster = masters();
    let crema = cluster.crema().start();
    let mut client = crema.client();
    // As job queues do: several keys of one queue, held together by a tag.
    let script = "local id = redis.call('incr', KEYS[1]) redis.call('rpush', KEYS[2], id) \
                  redis.call('hset', KEYS[3] .. id, 'data', ARGV[1]) return id";
    for queue in ["{mail}", "{video}", "{audit}", "{x}", "{y}", "{z}"] {
        let key = |name: &str| format!("{queue}:{name}");
        let [id, wait, job] = ["id", "wait", "job:"].map(key);
        for n in 1..4 {
            assert_eq!(client.cmd(&["EVAL", script, "3", &id, &wait, &job, "data"]), int(n));
        }
        assert_eq!(client.cmd(&["MULTI"]), ok());
        assert_eq!(client.cmd(&["EVAL", script, "3", &id, &wait, &job, "data"]), simple("QUEUED"));
        assert_eq!(client.cmd(&["LLEN", &wait]), simple("QUEUED"));
        assert_eq!(client.cmd(&["EXEC"]), array([int(4), int(4)]));
        assert_eq!(client.cmd(&["BLMOVE", &wait, &key("active"), "LEFT", "RIGHT", "1"]), bulk("1"));
        assert_eq!(client.cmd(&["HGET", &format!("{job}1"), "data"]), bulk("data"));
    }
    let library = "#!lua name=mylib\nredis.register_function('add', function(keys, args) \
                   return redis.call('incrby', keys[1], args[1]) end)";
    let mut hash = String::new();
    for n in 0..3 {
        let mut direct = cluster.client(n);
        assert_eq!(direct.cmd(&["FUNCTION", "LOAD", library]), bulk("mylib"));
        hash = direct.cmd(&["SCRIPT", "LOAD", "return redis.call('incr', KEYS[1])"]).text();
    }
    for n in 0..3 {
        let key = key_of(n, "n");
        assert_eq!(client.cmd(&["FCALL", "add", "1", &key, "5"]), int(5));
        assert_eq!(client.cmd(&["EVALSHA", &hash, "1", &key]), int(6));
        assert_eq!(client.cmd(&["MULTI"]), ok());
        assert_eq!(client.cmd(&["FCALL", "add", "1", &key, "1"]), simple("QUEUED"));
        assert_eq!(client.cmd(&["EVALSHA", &hash, "1", &key]), simple("QUEUED"));
        assert_eq!(client.cmd(&["EXEC"]), array([int(7), int(8)]));
        assert!(client.cmd(&["EVALSHA", "nosuchscript", "1", &key]).text().starts_with("NOSCRIPT"));
    }
}

#[test]
fn many_clients_cost_each_node_no_more_connections_than_a_single_server() {
    common::lift_open_files();
    let (single, cluster) = (Redis::start(), masters());
    let crema = Crema::start(&single);
    if crema.is_direct() {
        return;
    }
    let _clients = many_clients(&crema);
    let alone = connections_of_crema(&single);
    let crema = cluster.crema().start();
    let _clients = many_clients(&crema);
    // Who reads the map comes and goes.
    eventually("no node has more connections of crema's than a single server has", || {
        (0..3).all(|n| connections_of_crema(cluster.node(n)) <= alone)
    });
    assert!(crema.is_ready());
}

/// 1,000 clients that have asked for keys of all nodes.
fn many_clients(crema: &Crema) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..1000).map(|_| crema.client()).collect();
    for key in (0..3).map(|n| key_of(n, "k")) {
        for client in &mut clients {
            client.send_cmd(&["INCR", &key]);
        }
        for client in &mut clients {
            assert!(client.value().number() > 0);
        }
    }
    clients
}

/// But for the one on which a worker asks whether a late answer is coming, which has nothing to do with clients.
fn connections_of_crema(server: &Redis) -> usize {
    let list = server.client().cmd(&["CLIENT", "LIST"]).text();
    list.lines().filter(|line| line.contains(" name=crema-") && !line.contains(" name=crema-pulse")).count()
}

fn message(words: &[&str]) -> Value {
    array(words.iter().map(bulk))
}

fn with_events() -> Cluster {
    Cluster::plan().masters(3).args(&["--notify-keyspace-events", "KEA"]).start()
}

#[test]
fn what_happens_to_keys_is_told_once_whichever_node_has_them() {
    let mut cluster = with_events();
    let crema = cluster.crema().start();
    let mut writer = crema.client();
    for version in [2, 3] {
        let told = |words: &[&str]| match (message(words), version) {
            (Value::Array(words), 3) => Value::Push(words),
            (told, _) => told,
        };
        let mut client = Client::speaking(version, crema.addr());
        client.send_cmd(&["PSUBSCRIBE", "__keyspace@0__:*", "*"]);
        for (n, pattern) in [(1, "__keyspace@0__:*"), (2, "*")] {
            let confirmed = client.value();
            assert_eq!(confirmed.items()[1..], [bulk(pattern), int(n)], "{confirmed:?}");
        }
        client.send_cmd(&["SUBSCRIBE", "__keyevent@0__:del", "news"]);
        assert_eq!([client.value(), client.value()].map(|told| told.items()[2].clone()), [int(3), int(4)]);
        for n in 0..3 {
            let key = key_of(n, "k");
            let channel = format!("__keyspace@0__:{key}");
            assert_eq!(writer.cmd(&["SET", &key, "v"]), ok());
            let all: Vec<Value> = (0..3).map(|_| client.value()).collect();
            assert!(all.contains(&told(&["pmessage", "__keyspace@0__:*", &channel, "set"])), "{all:?}");
            assert!(all.contains(&told(&["pmessage", "*", &channel, "set"])), "{all:?}");
            assert!(all.contains(&told(&["pmessage", "*", "__keyevent@0__:set", &key])), "{all:?}");
            assert_eq!(writer.cmd(&["DEL", &key]), int(1));
            let all: Vec<Value> = (0..4).map(|_| client.value()).collect();
            assert!(all.contains(&told(&["message", "__keyevent@0__:del", &key])), "{all:?}");
            // A published message reaches all nodes, and the client once.
            assert!(!cluster.client(n.into()).cmd(&["PUBLISH", "news", &key]).is_error());
            let both = [client.value(), client.value()];
            assert!(both.contains(&told(&["message", "news", &key])), "{both:?}");
            assert!(both.contains(&told(&["pmessage", "*", "news", &key])), "{both:?}");
        }
        client.send_cmd(&["PUNSUBSCRIBE"]);
        assert_eq!([client.value(), client.value()].map(|told| told.items()[2].clone()), [int(3), int(2)]);
        let keys = [0, 1, 2].map(|n| key_of(n, "gone"));
        for key in &keys {
            assert_eq!(writer.cmd(&["SET", key, "v"]), ok());
            assert_eq!(writer.cmd(&["DEL", key]), int(1));
            assert_eq!(client.value(), told(&["message", "__keyevent@0__:del", key]), "and nothing else");
        }
    }
    // A master that comes tells as well.
    let mut client = crema.resp3();
    assert_eq!(client.cmd(&["SUBSCRIBE", "__keyevent@0__:incrby"]).items()[2], int(1));
    let new = cluster.add_master();
    cluster.move_slot(3, new);
    let key = key_in(3, "k");
    let mut heard = false;
    eventually("it is heard", || {
        heard |= writer.cmd(&["INCR", &key]).number() > 0;
        heard && !client.is_silent_for(Duration::from_millis(50))
    });
    assert_eq!(client.value().items()[2], bulk(&key));
}

#[test]
fn a_shard_channel_is_at_the_node_of_its_slot() {
    let cluster = masters();
    let crema = cluster.crema().start();
    let channels = [0, 1, 2].map(|n| key_of(n, "channel"));
    let mut publisher = crema.client();
    for version in [2, 3] {
        let told = |words: &[&str]| match (message(words), version) {
            (Value::Array(words), 3) => Value::Push(words),
            (told, _) => told,
        };
        let mut client = Client::speaking(version, crema.addr());
        assert_eq!(client.cmd(&["SSUBSCRIBE", &channels[0], &channels[1]]), crossslot());
        for (n, channel) in channels.iter().enumerate() {
            client.send_cmd(&["SSUBSCRIBE", channel]);
            let confirmed = client.value();
            assert_eq!(confirmed.items()[..2], [bulk("ssubscribe"), bulk(channel)], "{n}");
        }
        for channel in &channels {
            assert_eq!(publisher.cmd(&["SPUBLISH", channel, "x"]), int(1));
            assert_eq!(client.value(), told(&["smessage", channel, "x"]));
        }
        client.send_cmd(&["SUBSCRIBE", "news"]);
        assert_eq!(client.value().items()[1], bulk("news"));
        assert!(!publisher.cmd(&["PUBLISH", "news", "y"]).is_error());
        assert_eq!(client.value(), told(&["message", "news", "y"]));
        client.send_cmd(&["SUNSUBSCRIBE", &channels[2]]);
        assert_eq!(client.value().items()[..2], [bulk("sunsubscribe"), bulk(&channels[2])]);
        assert_eq!(publisher.cmd(&["SPUBLISH", &channels[2], "x"]), int(0));
        client.send_cmd(&["SUNSUBSCRIBE"]);
        let mut left = [client.value(), client.value()].map(|told| told.items()[1].text());
        left.sort();
        let mut want = [channels[0].clone(), channels[1].clone()];
        want.sort();
        assert_eq!(left, want);
        assert!(client.is_silent_for(Duration::from_millis(20)));
    }
}

#[test]
fn who_is_subscribed_to_a_shard_channel_is_told_when_its_slot_moves() {
    let cluster = masters();
    let crema = cluster.crema().start();
    let mut publisher = crema.client();
    let channel = key_in(7, "channel");
    for (at, other) in [(0, 1), (1, 2), (2, 0)] {
        let mut client = crema.resp3();
        let mut direct = Client::resp3(cluster.addr(at));
        let confirmed = client.cmd(&["SSUBSCRIBE", &channel]);
        assert_eq!(direct.cmd(&["SSUBSCRIBE", &channel]), confirmed);
        cluster.move_slot(7, other);
        assert_eq!(client.reply(), direct.reply(), "as a client of the node itself");
        assert_eq!(client.cmd(&["SSUBSCRIBE", &channel]), confirmed, "at the new one");
        assert_eq!(publisher.cmd(&["SPUBLISH", &channel, "x"]), int(1));
        assert_eq!(client.value().items()[2], bulk("x"));
        assert_eq!(client.cmd(&["SUNSUBSCRIBE"]).items()[..2], [bulk("sunsubscribe"), bulk(&channel)]);
        assert_eq!(client.cmd(&["PING"]), Value::Simple("PONG".to_owned()), "it was the only one");
    }
}

#[test]
fn a_subscriber_of_resp2_is_refused_what_it_would_be_refused_by_one_server() {
    let cluster = masters();
    let crema = cluster.crema().start();
    let mut client = crema.client();
    client.send_cmd(&["SUBSCRIBE", "c"]);
    client.value();
    for n in 0..3 {
        let reply = client.cmd(&["GET", &key_of(n, "k")]).text();
        assert!(reply.starts_with("ERR Can't execute 'get': only"), "{reply}");
    }
    let reply = client.cmd(&["MULTI"]).text();
    assert!(reply.starts_with("ERR Can't execute 'multi': only"), "{reply}");
    assert_eq!(client.cmd(&["PING"]), array([bulk("pong"), bulk("")]));
    client.send_cmd(&["UNSUBSCRIBE"]);
    client.value();
    for n in 0..3 {
        assert_eq!(client.cmd(&["SET", &key_of(n, "k"), "v"]), ok());
    }
    assert_eq!(client.cmd(&["RESET"]), simple("RESET"));
    assert_eq!(client.cmd(&["GET", &key_of(1, "k")]), bulk("v"));
}

#[test]
fn who_has_a_connection_for_life_loses_it_with_its_node() {
    let mut cluster = Cluster::plan().node_timeout(1000).start();
    let crema = cluster.crema().start();
    let mut clients: Vec<Client> = (0..3).map(|_| crema.client()).collect();
    for client in &mut clients {
        assert!(client.cmd(&["CLIENT", "ID"]).number() > 0);
    }
    let front = (0..3).find(|n| cluster.node(*n).calls("client|id") > 0).expect("one of them");
    let key = key_of(front as u16, "k");
    let (mut queues, mut watches, mut waits) = (crema.client(), crema.client(), crema.client());
    assert_eq!([queues.cmd(&["MULTI"]), queues.cmd(&["SET", &key, "v"])], [ok(), simple("QUEUED")]);
    assert_eq!(watches.cmd(&["WATCH", &key]), ok());
    block(&cluster, &mut waits, &key, &["BLPOP", &key, "0"]);
    clients.extend([queues, watches, waits]);
    cluster.kill(front);
    for mut client in clients {
        assert!(client.closes_within(Duration::from_secs(20)));
    }
    eventually("another is the front", || {
        let mut client = crema.client();
        client.try_cmd(&["CLIENT", "ID"]).is_ok_and(|id| matches!(id, Value::Int(_)))
    });
}
