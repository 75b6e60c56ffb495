//! Commands that concern several nodes of a cluster are answered as by one server, and so is what asks after the cluster itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::cluster::{Failover, SLOTS, key_in, slot_of};
use common::{Client, Cluster, Crema, Stop, Value, array, bulk, eventually, int, ok};

fn three() -> Cluster {
    Cluster::plan().masters(3).start()
}

/// Keys that lie at every master.
fn keys(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("key:{n}")).collect()
}

fn command<'a>(name: &'a str, rest: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    std::iter::once(name).chain(rest.into_iter().map(String::as_str)).collect()
}

/// What each master says.
fn each(cluster: &Cluster, request: &[&str]) -> Vec<Value> {
    (0..3).map(|n| cluster.client(n).cmd(request)).collect()
}

fn sum(cluster: &Cluster, request: &[&str]) -> i64 {
    each(cluster, request).iter().map(Value::number).sum()
}

fn clients(crema: &Crema) -> [Client; 2] {
    [crema.client(), crema.resp3()]
}

fn fails_with(reply: &Value, start: &str) {
    assert!(reply.is_error() && reply.text().starts_with(start), "{reply:?}");
}

#[test]
fn keys_of_several_slots_are_split_and_answered_as_one() {
    let cluster = three();
    let crema = cluster.crema().start();
    let keys = keys(60);
    for mut client in clients(&crema) {
        let pairs: Vec<String> = keys.iter().flat_map(|key| [key.clone(), format!("of {key}")]).collect();
        assert_eq!(client.cmd(&command("MSET", &pairs)), ok());
        assert_eq!(sum(&cluster, &["DBSIZE"]), 60);
        let values = || array(keys.iter().map(|key| bulk(format!("of {key}"))));
        assert_eq!(client.cmd(&command("MGET", &keys)), values());
        eventually("memory answers for all three", || {
            let before = crema.outcomes("hit");
            assert_eq!(client.cmd(&command("MGET", &keys)), values());
            crema.outcomes("hit") > before
        });
        let turned: Vec<String> = keys.iter().rev().cloned().collect();
        assert_eq!(client.cmd(&command("mget", &turned)), array(turned.iter().map(|key| bulk(format!("of {key}")))));
        assert_eq!(client.cmd(&["MGET", "key:1", "none", "key:1"]).items()[2], bulk("of key:1"));
        assert_eq!(client.cmd(&command("EXISTS", keys.iter().chain(&keys[..5]))), int(65));
        assert_eq!(client.cmd(&command("TOUCH", &keys)), int(60));
        assert_eq!(client.cmd(&command("UNLINK", &keys[..10])), int(10));
        assert_eq!(client.cmd(&command("DEL", &keys)), int(50));
        assert_eq!(sum(&cluster, &["DBSIZE"]), 0);
    }
}

#[test]
fn parts_keep_the_order_of_their_session() {
    let cluster = three();
    let crema = cluster.crema().start();
    let mut client = crema.client();
    let keys = keys(12);
    for round in 0..50 {
        let set = |value: &str| -> Vec<String> {
            let pairs = keys.iter().flat_map(|key| [key.clone(), format!("{value} {round}")]);
            std::iter::once("MSET".to_owned()).chain(pairs).collect()
        };
        let words = |words: &[&str]| -> Vec<String> { words.iter().map(|word| (*word).to_owned()).collect() };
        let get: Vec<String> = command("MGET", &keys).into_iter().map(str::to_owned).collect();
        let del: Vec<String> = command("DEL", &keys).into_iter().map(str::to_owned).collect();
        let one = words(&["GET", &keys[3]]);
        let other = words(&["SET", &keys[4], "by itself"]);
        let all = [set("a"), get.clone(), one.clone(), set("b"), other, get.clone(), del, get, one];
        let replies = client.pipeline(&all);
        let values = |value: &str| array(keys.iter().map(|_| bulk(format!("{value} {round}"))));
        let mut last = vec![bulk(format!("b {round}")); keys.len()];
        last[4] = bulk("by itself");
        let none = array(keys.iter().map(|_| Value::Nil));
        let want = [ok(), values("a"), bulk(format!("a {round}")), ok(), ok(), array(last), int(12), none, Value::Nil];
        assert_eq!(replies, want, "round {round}");
    }
}

#[test]
fn a_pause_of_writes_holds_up_no_reads_behind_parts() {
    let cluster = three();
    let crema = cluster.crema().flag("--promote", "0").start();
    let (mut writer, mut reader) = (crema.client(), crema.client());
    assert_eq!(writer.cmd(&["MSET", "a", "1", "b", "2", "c", "3"]), ok());
    assert_eq!(reader.cmd(&["CLIENT", "PAUSE", "60000", "WRITE"]), ok());
    writer.send_cmd(&["MSET", "a", "4", "b", "5", "c", "6"]);
    for _ in 0..50 {
        assert_eq!(reader.cmd(&["MGET", "a", "b", "c"]), array([bulk("1"), bulk("2"), bulk("3")]));
    }
    assert_eq!(reader.cmd(&["CLIENT", "UNPAUSE"]), ok());
    assert_eq!(writer.value(), ok());
    assert_eq!(reader.cmd(&["MGET", "a", "b", "c"]), array([bulk("4"), bulk("5"), bulk("6")]));
}

#[test]
fn parts_that_waited_for_a_pause_go_to_where_their_slots_are_by_then() {
    let cluster = three();
    let crema = cluster.crema().flag("--promote", "0").start();
    let keys = [5, 6000, 12_000].map(|slot| key_in(slot, "k"));
    let mut writer = crema.client();
    assert_eq!(writer.cmd(&["CLIENT", "PAUSE", "60000", "WRITE"]), ok());
    writer.send_cmd(&["MSET", &keys[0], "1", &keys[1], "2", &keys[2], "3"]);
    eventually("its first part waits", || crema.waiting() > 0);
    cluster.take_slot(6000, 2);
    eventually("its former node knows", || cluster.client(1).cmd(&["GET", &keys[1]]).text().starts_with("MOVED "));
    (0..3).for_each(|n| assert_eq!(cluster.client(n).cmd(&["CLIENT", "UNPAUSE"]), ok()));
    assert_eq!(writer.value(), ok());
    assert_eq!(cluster.client(2).cmd(&["GET", &keys[1]]), bulk("2"));
}

#[test]
fn what_is_not_to_be_split_is_refused_as_a_node_refuses_it() {
    let cluster = three();
    let crema = cluster.crema().start();
    let mut client = crema.client();
    for request in [
        &["MSETNX", "a", "1", "b", "2"][..],
        &["RENAME", "a", "b"],
        &["SINTERSTORE", "a", "b", "c"],
        &["PFCOUNT", "a", "b"],
        &["EVAL", "return 1", "2", "a", "b"],
    ] {
        fails_with(&client.cmd(request), "CROSSSLOT ");
    }
    fails_with(&client.cmd(&["MSET", "{a}1", "1", "{a}2"]), "ERR wrong number of arguments");
    assert_eq!(client.cmd(&["LPUSH", "b", "x"]), int(1));
    assert_eq!(
        client.cmd(&["MGET", "a", "b", "c"]),
        array([Value::Nil, Value::Nil, Value::Nil]),
        "no string is nothing"
    );

    let whole = cluster.crema().flag("--cross-slot", "error").start();
    let mut client = whole.client();
    for key in ["a", "c"] {
        assert_eq!(client.cmd(&["SET", key, "v"]), ok());
        whole.warm(&["GET", key]);
    }
    fails_with(&client.cmd(&["MGET", "a", "c"]), "CROSSSLOT ");
    fails_with(&client.cmd(&["MSET", "a", "1", "c", "2"]), "CROSSSLOT ");
    fails_with(&client.cmd(&["DEL", "a", "c"]), "CROSSSLOT ");
    assert_eq!(client.cmd(&["MGET", "{a}1", "{a}2"]), array([Value::Nil, Value::Nil]));
}

#[test]
fn all_masters_are_asked_and_their_answers_are_one() {
    let cluster = three();
    let crema = cluster.crema().start();
    let keys = keys(200);
    for mut client in clients(&crema) {
        for key in &keys {
            assert_eq!(client.cmd(&["SET", key, "v"]), ok());
        }
        assert_eq!(client.cmd(&["DBSIZE"]), int(200));
        let all: BTreeSet<String> = client.cmd(&["KEYS", "*"]).items().iter().map(Value::text).collect();
        assert_eq!(all, keys.iter().cloned().collect());
        assert!(keys.contains(&client.cmd(&["RANDOMKEY"]).text()));

        let sha = client.cmd(&["SCRIPT", "LOAD", "return KEYS[1]"]).text();
        for key in &keys[..20] {
            assert_eq!(client.cmd(&["EVALSHA", &sha, "1", key]), bulk(key));
        }
        assert_eq!(client.cmd(&["SCRIPT", "EXISTS", &sha, "0"]), array([int(1), int(0)]));
        assert_eq!(cluster.client(1).cmd(&["SCRIPT", "FLUSH"]), ok());
        assert_eq!(client.cmd(&["SCRIPT", "EXISTS", &sha]), array([int(0)]), "one of them has it no more");
        assert_eq!(client.cmd(&["SCRIPT", "FLUSH"]), ok());
        fails_with(&client.cmd(&["SCRIPT", "KILL"]), "NOTBUSY");

        let library = "#!lua name=lib\nredis.register_function('f', function(keys) return keys[1] end)";
        assert_eq!(client.cmd(&["FUNCTION", "LOAD", library]), bulk("lib"));
        for key in &keys[..20] {
            assert_eq!(client.cmd(&["FCALL", "f", "1", key]), bulk(key));
        }
        fails_with(&client.cmd(&["FUNCTION", "LOAD", library]), "ERR Library 'lib' already exists");
        assert_eq!(client.cmd(&["FUNCTION", "DELETE", "lib"]), ok());

        assert_eq!(client.cmd(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]), ok());
        assert_eq!(client.cmd(&["SLOWLOG", "RESET"]), ok());
        for key in &keys[..30] {
            client.cmd(&["SET", key, "w"]);
        }
        assert_eq!(client.cmd(&["CONFIG", "SET", "slowlog-log-slower-than", "100000"]), ok());
        assert!(client.cmd(&["SLOWLOG", "LEN"]).number() >= 30);
        assert_eq!(client.cmd(&["SLOWLOG", "GET", "25"]).items().len(), 25);
        assert_eq!(each(&cluster, &["CONFIG", "GET", "slowlog-log-slower-than"])[2].items()[1], bulk("100000"));

        assert_eq!(client.cmd(&["MEMORY", "PURGE"]), ok());
        assert_eq!(client.cmd(&["LATENCY", "RESET"]), int(0));
        assert_eq!(client.cmd(&["WAIT", "0", "100"]), int(0));
        assert_eq!(client.cmd(&["CONFIG", "RESETSTAT"]), ok());
        assert_eq!(client.cmd(&["ACL", "SETUSER", "somebody", "on", "nopass", "+@all", "~*"]), ok());
        assert_eq!(each(&cluster, &["ACL", "USERS"]), vec![array([bulk("default"), bulk("somebody")]); 3]);
        assert_eq!(client.cmd(&["ACL", "DELUSER", "somebody"]), int(1));
        assert_eq!(client.cmd(&["FLUSHALL"]), ok());
        assert_eq!((sum(&cluster, &["DBSIZE"]), client.cmd(&["GET", &keys[0]])), (0, Value::Nil));
        assert!(client.cmd(&["RANDOMKEY"]).is_nil());
    }
}

#[test]
fn channels_of_all_masters_are_told_once() {
    let cluster = three();
    let crema = cluster.crema().start();
    let mut subscribed: Vec<Client> = (0..3).map(|n| cluster.client(n)).collect();
    for client in &mut subscribed {
        client.send_cmd(&["SUBSCRIBE", "news"]);
        client.value();
        client.send_cmd(&["PSUBSCRIBE", "n*"]);
        client.value();
    }
    for mut client in clients(&crema) {
        assert_eq!(client.cmd(&["PUBSUB", "NUMPAT"]), int(3));
        assert_eq!(client.cmd(&["PUBSUB", "CHANNELS", "new*"]), array([bulk("news")]));
        assert_eq!(
            client.cmd(&["PUBSUB", "NUMSUB", "news", "none"]),
            array([bulk("news"), int(3), bulk("none"), int(0)])
        );
    }
}

#[test]
fn a_master_that_is_away_is_named_by_what_all_were_to_do() {
    let mut cluster = Cluster::plan().masters(3).node_timeout(60_000).start();
    let crema = cluster.crema().flag("--connect-timeout", "500ms").start();
    let mut client = crema.client();
    for key in keys(50) {
        assert_eq!(client.cmd(&["SET", &key, "v"]), ok());
    }
    cluster.kill(1);
    let reply = client.cmd(&["FLUSHALL"]);
    let (down, up) = (cluster.addr(1).to_string(), [cluster.addr(0).to_string(), cluster.addr(2).to_string()]);
    let text = reply.text();
    let (before, done) = text.split_once("; done by ").unwrap_or_else(|| panic!("{reply:?}"));
    assert!(reply.is_error() && before.contains(&down), "{reply:?}");
    assert!(up.iter().all(|node| done.contains(node)) && !done.contains(&down), "{reply:?}");
    assert_eq!([0, 2].map(|n| cluster.client(n).cmd(&["DBSIZE"])), [int(0), int(0)]);
    assert!(client.cmd(&["DBSIZE"]).is_error());
    assert_eq!(client.cmd(&["PING"]).text(), "PONG", "its connection is as it was");
}

/// All keys that a scan reports, through however many turns.
fn scan(client: &mut Client, count: &str) -> BTreeSet<String> {
    let (mut cursor, mut seen) = ("0".to_owned(), BTreeSet::new());
    for _ in 0..100_000 {
        let reply = client.cmd(&["SCAN", &cursor, "COUNT", count]);
        assert!(!reply.is_error(), "{reply:?}");
        cursor = reply.items()[0].text();
        seen.extend(reply.items()[1].items().iter().map(Value::text));
        if cursor == "0" {
            return seen;
        }
    }
    panic!("it does not end");
}

fn fill(cluster: &Cluster, count: usize) -> BTreeSet<String> {
    let keys = keys(count);
    let crema = cluster.crema().start();
    let mut client = crema.client();
    for some in keys.chunks(500) {
        let pairs: Vec<String> = some.iter().flat_map(|key| [key.clone(), "v".to_owned()]).collect();
        assert_eq!(client.cmd(&command("MSET", &pairs)), ok());
    }
    keys.into_iter().collect()
}

#[test]
fn a_scan_reports_what_was_there_throughout_while_slots_move() {
    let cluster = three();
    let keys = fill(&cluster, 10_000);
    let crema = cluster.crema().start();
    let mut client = crema.client();
    assert_eq!(scan(&mut client, "1000"), keys);
    let filtered = client.cmd(&["SCAN", "0", "COUNT", "100000", "MATCH", "key:77*", "TYPE", "string"]);
    assert!(filtered.items()[1].items().iter().all(|key| key.text().starts_with("key:77")), "{filtered:?}");
    fails_with(&client.cmd(&["SCAN", "x"]), "ERR invalid cursor");
    fails_with(&client.cmd(&["SCAN", "0", "COUNT", "0"]), "ERR syntax error");

    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let movers = scope.spawn(|| {
            // From every node to every other, one slot at a time.
            for n in 0u32.. {
                if over.load(Ordering::Relaxed) {
                    return n;
                }
                let slot = u16::try_from((n * 977) % u32::from(SLOTS)).expect("below their count");
                let from = cluster.owner(slot);
                cluster.move_slot(slot, (from + 1 + n as usize % 2) % 3);
            }
            0
        });
        let end = Stop(&over);
        for round in 0..8 {
            let seen = scan(&mut client, if round % 2 == 0 { "200" } else { "2000" });
            let missed: Vec<_> = keys.difference(&seen).collect();
            let there = |key: &&String| (0..3).any(|n| cluster.client(n).cmd(&["KEYS", key]) == array([bulk(key)]));
            let lost: Vec<_> = missed.iter().filter(|key| !there(key)).collect();
            assert!(missed.is_empty(), "round {round} missed {missed:?}, of which no node has {lost:?}");
        }
        drop(end);
        assert!(movers.join().expect("slots move") > 0);
    });
}

#[test]
fn a_scan_goes_over_a_failover() {
    let cluster = Cluster::start();
    let keys = fill(&cluster, 3_000);
    eventually("replicas have all", || {
        (3..6).all(|n| cluster.client(n).cmd(&["DBSIZE"]) == cluster.client(n - 3).cmd(&["DBSIZE"]))
    });
    let crema = cluster.crema().start();
    let mut client = crema.client();
    let (mut cursor, mut seen) = ("0".to_owned(), BTreeSet::new());
    for turn in 0.. {
        let reply = client.cmd(&["SCAN", &cursor, "COUNT", "100"]);
        if reply.is_error() {
            continue; // the master that was asked is no more
        }
        cursor = reply.items()[0].text();
        seen.extend(reply.items()[1].items().iter().map(Value::text));
        if cursor == "0" {
            break;
        }
        if turn == 5 || turn == 15 {
            let old = cluster.owner(if turn == 5 { 0 } else { SLOTS - 1 });
            let replica = cluster.replicas_of(old)[0];
            cluster.failover(replica, Failover::Takeover);
            cluster.await_master(replica);
            cluster.await_whole();
        }
    }
    assert_eq!(keys.difference(&seen).count(), 0);
}

/// Whether the server says that this is its mode.
fn shows(client: &mut Client, mode: &str) -> bool {
    client.send_cmd(&["HELLO"]);
    let hello = String::from_utf8(client.reply()).expect("text");
    hello.contains(&format!("mode\r\n${}\r\n{mode}\r\n", mode.len()))
}

#[test]
fn clients_are_shown_one_server() {
    let cluster = three();
    let crema = cluster.crema().start();
    let port = crema.addr().port().to_string();
    for mut client in clients(&crema) {
        let id = client.cmd(&["CLUSTER", "MYID"]).text();
        let slots = client.cmd(&["CLUSTER", "SLOTS"]);
        let range = slots.items()[0].items();
        assert_eq!((slots.items().len(), &range[..2]), (1, &[int(0), int(16_383)][..]));
        assert_eq!(range[2].items()[..3], [bulk("127.0.0.1"), int(port.parse().unwrap()), bulk(&id)]);
        assert!(client.cmd(&["CLUSTER", "NODES"]).text().contains(&format!("{id} 127.0.0.1:{port}@0 myself,master")));
        let info = client.cmd(&["CLUSTER", "INFO"]).text();
        assert!(info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:1\r\n"), "{info}");
        assert_eq!(client.cmd(&["CLUSTER", "SHARDS"]).items().len(), 1);
        assert_eq!(client.cmd(&["CLUSTER", "REPLICAS", &id]), array([]));
        assert_eq!(client.cmd(&["CLUSTER", "KEYSLOT", "foo"]), int(12_182));
        let mode = ["READONLY", "READWRITE", "ASKING"].map(|mode| client.cmd(&[mode]));
        assert_eq!(mode, [ok(), ok(), ok()]);
        let info = client.cmd(&["INFO"]).text();
        assert!(info.contains("redis_mode:standalone\r\n") && info.contains("cluster_enabled:0\r\n"), "{info}");
        for slot in [5, 12_182] {
            let key = key_in(slot, "in");
            assert_eq!(client.cmd(&["SET", &key, "v"]), ok());
            assert_eq!(client.cmd(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]), int(1));
            assert_eq!(client.cmd(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "9"]), array([bulk(&key)]));
        }
        for refused in [&["CLUSTER", "FAILOVER"][..], &["CLUSTER", "RESET"], &["CLUSTER", "MEET", "127.0.0.1", "1"]] {
            fails_with(&client.cmd(refused), "ERR crema: CLUSTER ");
        }
        assert!(shows(&mut client, "standalone"));
    }
    let shown = cluster.crema().flag("--cluster-view", "cluster").flag("--cluster-announce", "cache.example:7").start();
    for mut client in clients(&shown) {
        assert!(client.cmd(&["INFO"]).text().contains("cluster_enabled:1\r\n"));
        assert!(shows(&mut client, "cluster"));
        assert_eq!(
            client.cmd(&["CLUSTER", "SLOTS"]).items()[0].items()[2].items()[..2],
            [bulk("cache.example"), int(7)]
        );
    }
}

#[test]
fn redis_py_runs_plain_and_as_a_cluster_client() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/clients/venv/bin/python");
    if !python.exists() {
        assert!(std::env::var_os("CI").is_none(), "no {}: `make test` installs it", python.display());
        return;
    }
    let cluster = three();
    for view in ["standalone", "cluster"] {
        let crema = cluster.crema().flag("--cluster-view", view).start();
        for (kind, protocol) in [("plain", "2"), ("plain", "3"), ("cluster", "2"), ("cluster", "3")] {
            let run = Command::new(&python)
                .arg(root.join("tests/clients/redis_py_cluster.py"))
                .args([&crema.addr().port().to_string(), protocol, kind])
                .output()
                .expect("Python runs");
            let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
            assert!(run.status.success() && stdout.contains("ok"), "{view} {kind} {protocol}:\n{stdout}\n{stderr}");
        }
    }
}
#[test]
fn parts_follow_their_slots() {
    let cluster = three();
    let crema = cluster.crema().start();
    let mut client = crema.client();
    // Two keys of a slot, so that a part meets a slot of which one key has moved and the other has not.
    let keys: Vec<String> = (0..40).flat_map(|n| [format!("{{{n}}}a"), format!("{{{n}}}b")]).collect();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _over = Stop(&over);
            for (n, key) in keys.iter().step_by(2).enumerate() {
                let slot = slot_of(key);
                cluster.move_slot(slot, (cluster.owner(slot) + 1 + n % 2) % 3);
                // Two that take slots at a time do so under one number, and one of the slots is lost to all.
                cluster.await_whole();
            }
        });
        for round in 0.. {
            if over.load(Ordering::Relaxed) && round > 50 {
                break;
            }
            let pairs: Vec<String> = keys.iter().flat_map(|key| [key.clone(), format!("{round}")]).collect();
            let (set, get, alone) = (command("MSET", &pairs), command("MGET", &keys), ["SET", &keys[7], "alone"]);
            let replies = client.pipeline(&[set, get.clone(), alone.to_vec(), get]);
            let mut last = vec![bulk(round.to_string()); keys.len()];
            let first = array(last.clone());
            last[7] = bulk("alone");
            assert_eq!(replies, [ok(), first, ok(), array(last)], "round {round}");
        }
    });
}
