//! Reads from replicas: they are used, and never show what is older than the bound, or than what the reader may have seen; what
//! becomes of them in trouble no client sees.
//!
//! Real clusters and a Sentinel group, with replication through links that freeze. Holds contract points 1, 2, 3, 4 and 8.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::cluster::{Failover, Plan, key_in};
use common::proxy::Launch;
use common::sentinel::Group;
use common::{Client, Cluster, Crema, Value, Writer, array, bulk, eventually, int, ok};

const BOUND: Duration = Duration::from_millis(200);
/// Between two writes.
const PAUSE: Duration = Duration::from_millis(4);
/// A slot of the first master, whose replica is node 3.
const SLOT: u16 = 5;

fn reading(launch: Launch) -> Crema {
    let launch = launch.flag("--read-from", "replica").flag("--promote", 0);
    launch.flag("--max-staleness", format!("{}ms", BOUND.as_millis())).start()
}

fn plan() -> Plan {
    Cluster::plan().node_timeout(2000)
}

fn reads(crema: &Crema, role: &str) -> u64 {
    crema.count("crema_replica_reads_total", &[("role", role)])
}

/// Reads until replicas have answered some more.
#[track_caller]
fn until_replicas_answer(crema: &Crema, client: &mut Client, key: &str) {
    let believed = || reads(crema, "replica") - reads(crema, "both");
    let before = believed();
    eventually("a replica is read", || {
        assert!(!client.cmd(&["GET", key]).is_error());
        thread::sleep(Duration::from_millis(3)); // a session that asks for one key without a pause stays where it is
        believed() > before + 3
    });
}

/// Reads for so long, with pauses. Each number is as new as it must be, and none older than one that this client has seen.
#[track_caller]
fn read_for(time: Duration, client: &mut Client, key: &str, writer: &Writer, seen: &mut u64) {
    let began = Instant::now();
    while began.elapsed() < time {
        let asked = Instant::now();
        let number: u64 = client.cmd(&["GET", key]).text().parse().expect("a number");
        let least = writer.acknowledged(asked.checked_sub(BOUND).expect("a moment ago"));
        assert!(number >= least, "{number} was read, and {least} was acknowledged longer ago than the bound");
        assert!(number >= *seen, "{number} was read after {seen}");
        *seen = number;
        thread::sleep(Duration::from_millis(3));
    }
}

#[test]
fn replicas_answer_reads_and_own_writes_are_always_seen() {
    let cluster = plan().start();
    let crema = reading(cluster.crema().flag("--threads", 2));
    if crema.is_direct() {
        return;
    }
    let key = key_in(SLOT, "own");
    let (mut writer, mut reader) = (crema.client(), crema.client());
    assert_eq!(writer.cmd(&["SET", &key, "0"]), ok());
    until_replicas_answer(&crema, &mut reader, &key);
    assert!(cluster.node(3).calls("get") > 0, "it is the replica that was asked");
    for n in 1..400 {
        let n = n.to_string();
        assert_eq!(writer.cmd(&["SET", &key, &n]), ok());
        assert_eq!(reader.cmd(&["GET", &key]), bulk(&n), "of another session");
        assert_eq!(writer.cmd(&["GET", &key]), bulk(&n), "its own");
        if n.ends_with('7') {
            thread::sleep(Duration::from_millis(10));
        }
    }
    // However it is written: by a script, in a transaction, and in a pipeline.
    until_replicas_answer(&crema, &mut reader, &key);
    assert_eq!(writer.cmd(&["EVAL", "return redis.call('SET', KEYS[1], 'script')", "1", &key]), ok());
    assert_eq!(reader.cmd(&["GET", &key]), bulk("script"));
    until_replicas_answer(&crema, &mut reader, &key);
    let replies = writer.pipeline(&[&["MULTI"][..], &["SET", &key, "exec"], &["EXEC"]]);
    assert_eq!(replies[2], array([ok()]));
    assert_eq!(reader.cmd(&["GET", &key]), bulk("exec"));
    until_replicas_answer(&crema, &mut reader, &key);
    let replies = reader.pipeline(&[&["GET", &key][..], &["SET", &key, "piped"], &["GET", &key]]);
    assert_eq!(replies, [bulk("exec"), ok(), bulk("piped")]);
    assert_eq!(writer.cmd(&["GET", &key]), bulk("piped"));
    until_replicas_answer(&crema, &mut reader, &key);
    assert_eq!(writer.cmd(&["FLUSHALL"]), ok());
    assert!(reader.cmd(&["STRLEN", &key]) == int(0) && writer.cmd(&["GET", &key]).is_nil());
}

#[test]
fn all_reads_of_the_table_go_there_but_those_that_are_about_the_node() {
    let cluster = plan().start();
    let crema = reading(cluster.crema());
    if crema.is_direct() {
        return;
    }
    let (key, hash) = (key_in(SLOT, "s"), key_in(SLOT, "h"));
    let other = key_in(6000, "s");
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", &key, "v"]), ok());
    assert_eq!(client.cmd(&["SET", &other, "w"]), ok());
    assert_eq!(client.cmd(&["HSET", &hash, "f", "v"]), int(1));
    for command in [
        &["HGETALL", &hash][..],
        &["HMGET", &hash, "f", "g"],
        &["STRLEN", &key],
        &["MGET", &key, &other],
        &["EXISTS", &key, &other],
        &["XRANGE", &key, "-", "+"],
    ] {
        let before = reads(&crema, "replica");
        eventually("a replica answers", || {
            let _ = client.cmd(command);
            thread::sleep(Duration::from_millis(3));
            reads(&crema, "replica") > before
        });
    }
    assert_eq!(client.cmd(&["MGET", &key, &other]), array([bulk("v"), bulk("w")]));
    assert_eq!(
        client.cmd(&["XRANGE", &key, "-", "+"]).text(),
        "WRONGTYPE Operation against a key holding the wrong kind of value"
    );
    let before = reads(&crema, "replica");
    for command in [&["HSCAN", &hash, "0"][..], &["TOUCH", &key], &["OBJECT", "ENCODING", &key], &["DBSIZE"]] {
        assert!(!client.cmd(command).is_error());
    }
    assert_eq!(reads(&crema, "replica"), before);
    // A missing key is asked for at the master, which alone knows whether it is elsewhere.
    let (missing, both) = (key_in(SLOT, "missing"), reads(&crema, "both"));
    eventually("both are asked", || {
        assert!(client.cmd(&["GET", &missing]).is_nil());
        thread::sleep(Duration::from_millis(3));
        reads(&crema, "both") > both
    });
}

#[test]
fn behind_a_frozen_replication_link_a_replica_is_read_no_longer_than_the_bound() {
    let cluster = plan().with_links().with_replication_links().start();
    let crema = reading(cluster.crema());
    if crema.is_direct() {
        return;
    }
    let key = key_in(SLOT, "frozen");
    let writer = Writer::start(cluster.addr(0), &key, PAUSE);
    eventually("something is written", || writer.acknowledged(Instant::now()) > 10);
    let (mut client, mut seen) = (crema.client(), 0);
    read_for(Duration::from_millis(500), &mut client, &key, &writer, &mut seen);
    until_replicas_answer(&crema, &mut client, &key);
    for _ in 0..3 {
        read_for(Duration::from_millis(300), &mut client, &key, &writer, &mut seen);
        cluster.replication(0).freeze();
        let frozen = Instant::now();
        eventually("it lacks a write", || writer.acknowledged(Instant::now()) > writer.acknowledged(frozen));
        read_for(BOUND, &mut client, &key, &writer, &mut seen);
        let before = reads(&crema, "replica");
        read_for(Duration::from_millis(400), &mut client, &key, &writer, &mut seen);
        assert_eq!(reads(&crema, "replica"), before, "its lease is over");
        assert_eq!(crema.count("crema_replicas_leased", &[]), 0);
        cluster.replication(0).thaw();
        until_replicas_answer(&crema, &mut client, &key);
    }
}

#[test]
fn a_replica_that_dies_hangs_or_loses_its_master_costs_no_client_anything_but_time() {
    let mut cluster = plan().with_links().with_replication_links().args(&["--replica-serve-stale-data", "no"]).start();
    let crema = reading(cluster.crema());
    if crema.is_direct() {
        return;
    }
    let key = key_in(SLOT, "v");
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", &key, "v"]), ok());
    let read = |client: &mut Client, times: usize| {
        for _ in 0..times {
            let asked = Instant::now();
            assert_eq!(client.cmd(&["GET", &key]), bulk("v"));
            assert!(asked.elapsed() < BOUND * 10, "{:?}", asked.elapsed());
            thread::sleep(Duration::from_millis(2));
        }
    };
    until_replicas_answer(&crema, &mut client, &key);
    let frozen = cluster.node(3).freeze();
    read(&mut client, 100);
    drop(frozen);
    until_replicas_answer(&crema, &mut client, &key);
    cluster.replication(0).down();
    read(&mut client, 200); // it says MASTERDOWN, while its lease lasts
    cluster.replication(0).up();
    until_replicas_answer(&crema, &mut client, &key);
    cluster.kill(3);
    read(&mut client, 100);
    cluster.restart(3);
    until_replicas_answer(&crema, &mut client, &key);
}

#[test]
fn what_a_client_tells_of_itself_lets_no_write_overtake_a_read() {
    let cluster = plan().start();
    let crema = reading(cluster.crema());
    if crema.is_direct() {
        return;
    }
    let key = key_in(SLOT, "told");
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", &key, "old"]), ok());
    until_replicas_answer(&crema, &mut client, &key);
    let frozen = cluster.node(3).freeze();
    let told = ["CLIENT", "SETINFO", "LIB-NAME", "tests"];
    let replies = client.pipeline(&[&["GET", &key][..], &told, &["SET", &key, "new"]]);
    assert_eq!((&replies[0], &replies[2]), (&bulk("old"), &ok()), "Redis before 7.2 does not know what is told");
    drop(frozen);
}

#[test]
fn a_reply_that_has_begun_comes_to_its_end_though_the_lease_is_over() {
    let cluster = plan().start();
    let crema = reading(cluster.crema());
    if crema.is_direct() {
        return;
    }
    let key = key_in(SLOT, "large");
    let (mut client, mut large) = (crema.client(), "v".repeat(64 << 20));
    assert_eq!(client.cmd(&["SET", &key, &large]), ok());
    let small = key_in(SLOT, "small");
    assert_eq!(client.cmd(&["SET", &small, "v"]), ok());
    until_replicas_answer(&crema, &mut client, &small);
    let before = reads(&crema, "replica");
    client.send_cmd(&["GET", &key]);
    assert_eq!(client.until(b"\r\n").expect("it begins"), b"$67108864\r\n");
    assert!(reads(&crema, "replica") > before, "a replica answers it");
    {
        let _frozen = cluster.node(3).freeze();
        eventually("the lease is over", || crema.count("crema_replicas_leased", &[]) == 0);
        thread::sleep(BOUND);
    }
    large.push_str("\r\n");
    let rest = client.until(b"\r\n").expect("the rest of it");
    assert!(rest == large.as_bytes(), "{} bytes of {}", rest.len(), large.len());
    assert_eq!(client.cmd(&["GET", &small]), bulk("v"));
}

#[test]
fn through_failovers_own_writes_are_seen_and_the_others_become_the_replicas() {
    let cluster = plan().start();
    let crema = reading(cluster.crema());
    if crema.is_direct() {
        return;
    }
    let key = key_in(SLOT, "failover");
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", &key, "0"]), ok());
    until_replicas_answer(&crema, &mut client, &key);
    let mut n = 0;
    for replica in [3, 0] {
        cluster.failover(replica, Failover::Agreed);
        let mut served = false;
        eventually("the other is the master", || {
            n += 1;
            assert_eq!(client.cmd(&["SET", &key, &n.to_string()]), ok());
            assert_eq!(client.cmd(&["GET", &key]), bulk(n.to_string()));
            served |= cluster.is_master(replica);
            served
        });
        cluster.await_whole();
        until_replicas_answer(&crema, &mut client, &key);
    }
}

#[test]
fn while_a_slot_moves_no_key_is_missing() {
    let cluster = plan().start();
    let crema = reading(cluster.crema());
    if crema.is_direct() {
        return;
    }
    let keys: Vec<_> = (0..50).map(|n| key_in(SLOT, &format!("m{n}"))).collect();
    let mut client = crema.client();
    for key in &keys {
        assert_eq!(client.cmd(&["SET", key, "v"]), ok());
    }
    until_replicas_answer(&crema, &mut client, &keys[0]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut client = crema.client();
            while !stop.load(Ordering::Relaxed) {
                for key in &keys {
                    assert_eq!(client.cmd(&["GET", key]), bulk("v"));
                }
                let of_all = |name| [&[name][..], &keys.iter().map(String::as_str).collect::<Vec<_>>()].concat();
                // What lies in two nodes is refused for the time, as ever.
                let values = client.cmd(&of_all("MGET"));
                assert!(values.is_error() || values == array(keys.iter().map(|_| bulk("v"))), "{values:?}");
                let count = client.cmd(&of_all("EXISTS"));
                assert!(count.is_error() || count == int(50), "{count:?}");
                thread::sleep(Duration::from_millis(1));
            }
        });
        for to in [1, 0, 2, 0] {
            cluster.move_slot(SLOT, to);
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().expect("no key was missing");
    });
}

#[test]
fn behind_sentinels_both_replicas_are_read_and_a_failover_changes_them() {
    let group = Group::start();
    let crema = reading(Crema::over(group.links[0].addr()).url(group.url("")));
    if crema.is_direct() {
        return;
    }
    assert_eq!(crema.client().cmd(&["SET", "k", "v"]), ok());
    eventually("both replicas are read", || {
        assert_eq!(crema.client().cmd(&["GET", "k"]), bulk("v"));
        group.servers[1..].iter().all(|server| server.calls("get") > 0)
    });
    let mut client = crema.client();
    let explained = |client: &mut Client| {
        let Value::Array(told) = client.cmd(&["CREMA", "EXPLAIN", "GET", "k"]) else { panic!("a map") };
        told.chunks(2).find(|pair| pair[0] == bulk("replica")).expect("it is told")[1].text()
    };
    eventually("it is explained", || {
        client.cmd(&["GET", "k"]);
        let replica = explained(&mut client);
        group.links[1..].iter().any(|link| link.addr().to_string() == replica)
    });
    let status = crema.admin("/api/status").expect("it answers").1;
    assert!(status.contains("\"read_from\":[{\"address\":") && status.contains("\"lag_bytes\":"), "{status}");
    group.sentinels[0].fail_over();
    let now = group.moved_from(0);
    let n = std::cell::Cell::new(0);
    eventually("the other is served", || {
        n.set(n.get() + 1);
        let Ok(mut client) = Client::try_connect(crema.addr()) else { return false };
        let wrote = client.try_cmd(&["SET", "k", &n.get().to_string()]).is_ok_and(|reply| reply == ok());
        wrote && client.cmd(&["GET", "k"]) == bulk(n.get().to_string()) && {
            group.servers[now].client().cmd(&["GET", "k"]) == bulk(n.get().to_string())
        }
    });
    let mut client = crema.client();
    until_replicas_answer(&crema, &mut client, "k");
}

#[test]
fn a_user_whose_rights_differ_is_answered_by_the_master() {
    let cluster = plan().start();
    let crema = reading(cluster.crema().flag("--acl-recheck", "1s"));
    if crema.is_direct() {
        return;
    }
    let key = key_in(SLOT, "acl");
    assert_eq!(crema.client().cmd(&["SET", &key, "v"]), ok());
    let rights = ["ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all"];
    (0..cluster.len()).for_each(|n| assert_eq!(cluster.client(n).cmd(&rights), ok()));
    let mut client = crema.client();
    assert_eq!(client.cmd(&["AUTH", "app", "secret"]), ok());
    until_replicas_answer(&crema, &mut client, &key);
    // At the masters alone: replicas are not told of users.
    let mut admin = crema.client();
    assert_eq!(admin.cmd(&["ACL", "SETUSER", "app", "-get"]), ok());
    for _ in 0..50 {
        assert!(
            client.cmd(&["GET", &key]).text().starts_with("NOPERM"),
            "taken away through crema, it is gone at once"
        );
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(client.cmd(&["STRLEN", &key]), int(1));
}
