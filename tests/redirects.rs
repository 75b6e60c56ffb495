//! Slots that move, nodes that are lost, and answers that only look like redirects: what a client of a cluster sees of them.
//!
//! A client is told nothing: its commands are carried out once, and for each key in the order in which it sent them.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::cluster::{key_in, keys_in};
use common::{Client, Cluster, Crema, Stop, Value, array, bulk, eventually, int, ok};

/// Commands of a pipeline.
const PIPELINE: usize = 16;

fn redirects(crema: &Crema, kind: &str) -> u64 {
    crema.count("crema_redirects_total", &[("kind", kind)])
}

#[test]
fn keys_whose_slots_have_moved_are_found_at_once() {
    let cluster = Cluster::plan().masters(3).start();
    let crema = cluster.crema().start();
    let mut client = crema.client();
    for slot in 0..20 {
        let key = key_in(slot, "k");
        assert_eq!(client.cmd(&["SET", &key, "1"]), ok());
        cluster.move_slot(slot, 1 + usize::from(slot) % 2);
        if slot % 2 == 0 {
            assert_eq!(client.cmd(&["GET", &key]), bulk("1"));
        }
        assert_eq!(client.cmd(&["INCR", &key]), int(2));
        assert_eq!(client.cmd(&["GET", &key]), bulk("2"));
        assert_eq!(client.cmd(&["EVAL", "return redis.call('INCR', KEYS[1])", "1", &key]), int(3));
        assert_eq!(cluster.client_of(&key).cmd(&["GET", &key]), bulk("3"));
    }
    assert!(redirects(&crema, "moved") > 0);
    assert!(
        crema.count("crema_promotions_dropped_total", &[("reason", "redirected")]) > 0,
        "it is told what was not kept"
    );
}

#[test]
fn keys_of_a_slot_that_moves_are_found_where_they_are() {
    let cluster = Cluster::plan().masters(2).start();
    let crema = cluster.crema().start();
    let mut client = crema.client();
    let [stays, moves, new, late] = ["stays", "moves", "new", "late"].map(|name| key_in(7, name));
    for key in [&stays, &moves] {
        assert_eq!(client.cmd(&["SET", key, "1"]), ok());
    }
    let step = cluster.begin_move(7, 1);
    step.migrate_keys(&[moves.clone().into_bytes()]);
    let mut there = cluster.client(1);
    let mut asking = |command: &[&str]| there.pipeline(&[&["ASKING"], command]).remove(1);
    for key in [&stays, &moves] {
        assert_eq!(client.cmd(&["INCR", key]), int(2));
        assert_eq!(client.cmd(&["GET", key]), bulk("2"));
        assert_eq!(client.cmd(&["GET", key]), bulk("2"), "and out of memory, if it is there");
    }
    assert_eq!(client.cmd(&["SET", &new, "1"]), ok());
    assert_eq!(client.cmd(&["EVAL", "return redis.call('APPEND', KEYS[1], 'x')", "1", &late]), int(1));
    assert_eq!(client.cmd(&["GET", &late]), bulk("x"), "it ran once");
    assert_eq!(asking(&["GET", &new]), bulk("1"));
    assert_eq!(asking(&["GET", &moves]), bulk("2"));
    assert!(redirects(&crema, "ask") > 0);
    step.migrate();
    step.finish();
    for key in [&stays, &moves] {
        assert_eq!(client.cmd(&["GET", key]), bulk("2"));
    }
}

#[test]
fn keys_of_the_first_slot_of_a_new_master_are_found_where_they_are() {
    let mut cluster = Cluster::plan().masters(2).start();
    let crema = cluster.crema().start();
    let mut client = crema.client();
    let keys: Vec<String> = keys_in(7..=7, "k").take(6).collect();
    let [a, b, stays, new, list, late] = [0, 1, 2, 3, 4, 5].map(|n| keys[n].as_str());
    assert_eq!(client.cmd(&["MSET", a, "1", b, "1", stays, "1"]), ok());
    let to = cluster.add_master();
    let step = cluster.begin_move(7, to);
    step.migrate_keys(&[a.into(), b.into()]);

    assert_eq!(client.cmd(&["INCR", a]), int(2));
    assert_eq!(client.cmd(&["INCR", stays]), int(2));
    assert_eq!(client.cmd(&["MSET", a, "3", b, "3"]), ok());
    assert_eq!(client.cmd(&["MGET", a, b]), array([bulk("3"), bulk("3")]));
    let script = ["EVAL", "return redis.call('INCR', KEYS[1]) + redis.call('INCR', KEYS[2])", "2", a, b];
    assert_eq!(client.cmd(&script), int(8));
    assert_eq!(client.cmd(&["SET", new, "v"]), ok());
    let mut with_own = crema.client();
    assert!(!with_own.cmd(&["CLIENT", "ID"]).is_error(), "scripts for the front go on its own connection from here on");
    assert_eq!(with_own.cmd(&["EVAL", "return redis.call('APPEND', KEYS[1], 'x')", "1", late]), int(1));
    assert_eq!(with_own.cmd(&script), int(10));
    let transaction = client.pipeline(&[&["MULTI"][..], &["INCR", a], &["GET", b], &["EXEC"]]);
    assert_eq!(transaction[3], array([int(6), bulk("5")]));
    client.send_cmd(&["BLPOP", list, "0"]);
    eventually("it waits at the new master", || cluster.node(to).info("clients", "blocked_clients") == 1);
    assert_eq!(crema.client().cmd(&["RPUSH", list, "v"]), int(1));
    assert_eq!(client.value(), array([bulk(list), bulk("v")]));

    // What is about all masters is about this one too.
    assert_eq!(client.cmd(&["DBSIZE"]), int(5));
    let mut found: Vec<String> = client.cmd(&["KEYS", "*"]).items().iter().map(Value::text).collect();
    found.sort();
    let mut want = [a, b, stays, new, late];
    want.sort_unstable();
    assert_eq!(found, want);

    step.migrate();
    step.finish();
    assert_eq!(client.cmd(&["MGET", a, stays]), array([bulk("6"), bulk("2")]));
    assert_eq!(cluster.client(to).cmd(&["MGET", a, stays]), array([bulk("6"), bulk("2")]));
    assert!(redirects(&crema, "ask") > 0);
}

#[test]
fn keys_at_both_nodes_are_waited_for() {
    let cluster = Cluster::plan().masters(2).start();
    let crema = cluster.crema().start();
    let mut client = crema.client();
    let keys: Vec<String> = keys_in(9..=9, "k").take(2).collect();
    let [a, b] = [&keys[0], &keys[1]];
    assert_eq!(client.cmd(&["MSET", a, "1", b, "2"]), ok());
    let step = cluster.begin_move(9, 1);
    step.migrate_keys(&[a.clone().into_bytes()]);

    let began = Instant::now();
    let refused = client.cmd(&["MGET", a, b]);
    assert!(refused.text().starts_with("TRYAGAIN"), "{refused:?}");
    assert!(began.elapsed() > Duration::from_millis(900), "it was tried for a second");

    // What is carried out behind it must not be overtaken by it.
    client.send_cmd(&["MSET", a, "3", b, "3"]);
    client.send_cmd(&["SET", b, "4"]);
    let first = client.value();
    assert!(first.text().starts_with("TRYAGAIN"), "{first:?}");
    assert_eq!(client.value(), ok());

    client.send_cmd(&["MGET", a, b]);
    eventually("it is tried again", || redirects(&crema, "tryagain") > 5);
    step.migrate();
    step.finish();
    assert_eq!(client.value(), array([bulk("1"), bulk("4")]));
}

#[test]
fn what_a_script_answers_is_no_redirect() {
    let cluster = Cluster::plan().masters(2).start();
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a port");
    elsewhere.set_nonblocking(true).expect("a listener");
    let port = elsewhere.local_addr().expect("it is bound").port();
    let crema = cluster.crema().start();
    let mut client = crema.client();
    let key = key_in(11, "k");
    let mut runs = 0;
    for line in [
        format!("MOVED 11 127.0.0.1:{port}"),
        format!("ASK 11 127.0.0.1:{port}"),
        format!("MOVED 11 {}", cluster.addr(1)),
        format!("ASK 11 {}", cluster.addr(1)),
        "TRYAGAIN later".to_owned(),
        "CLUSTERDOWN it is not".to_owned(),
        "READONLY it is not".to_owned(),
    ] {
        let script = "redis.call('INCR', KEYS[1]); return redis.error_reply(ARGV[1])";
        let reply = client.cmd(&["EVAL", script, "1", &key, &line]);
        runs += 1;
        assert_eq!(reply, Value::Error(line.clone()));
        assert_eq!(client.cmd(&["GET", &key]), bulk(runs.to_string()), "{line}: it ran once");
    }
    assert!(elsewhere.accept().is_err(), "nobody connects to whom a script names");
}

#[test]
fn a_write_goes_on_though_the_next_node_is_not_there_at_first() {
    let cluster = Cluster::plan().masters(3).with_links().start();
    let crema = cluster.crema().flag("--cluster-wait", "20s").start();
    let mut client = crema.client();
    let key = key_in(13, "k");
    assert_eq!(client.cmd(&["INCR", &key]), int(1));
    cluster.link(1).down();
    cluster.move_slot(13, 1);
    client.send_cmd(&["INCR", &key]);
    client.send_cmd(&["GET", &key]);
    eventually("it is sent in vain", || redirects(&crema, "lost") > 1);
    cluster.link(1).up();
    assert_eq!(client.value(), int(2));
    assert_eq!(client.value(), bulk("2"));
    assert_eq!(cluster.client_of(&key).cmd(&["GET", &key]), bulk("2"));
}

#[test]
fn a_slot_may_be_taken_without_its_keys() {
    let cluster = Cluster::plan().masters(2).start();
    let crema = cluster.crema().start();
    let mut client = crema.client();
    let key = key_in(15, "k");
    assert_eq!(client.cmd(&["SET", &key, "old"]), ok());
    cluster.take_slot(15, 1);
    eventually("the new owner is asked", || client.cmd(&["GET", &key]).is_nil());
    assert_eq!(client.cmd(&["SET", &key, "new"]), ok());
    assert_eq!(cluster.client(1).cmd(&["GET", &key]), bulk("new"));
}

/// Appends numbers to a list of its own by pipelines, until it is told to end. What was not acknowledged was not done, so the list
/// must be what was.
fn append(crema: &Crema, list: &str, ends: &AtomicBool) -> Vec<Value> {
    let mut client = crema.client();
    let (mut sent, mut refused) = (0, Vec::new());
    let mut done = Vec::new();
    while !ends.load(Ordering::Relaxed) {
        let numbers: Vec<String> = (sent..sent + PIPELINE).map(|n| n.to_string()).collect();
        let commands: Vec<[&str; 3]> = numbers.iter().map(|n| ["RPUSH", list, n.as_str()]).collect();
        for (n, reply) in numbers.iter().zip(client.pipeline(&commands)) {
            match reply {
                Value::Int(length) => {
                    done.push(n.clone());
                    assert_eq!(usize::try_from(length), Ok(done.len()), "{list}: {n} is the last of what was done");
                }
                error => {
                    assert!(error.is_error(), "{error:?}");
                    refused.push(error);
                }
            }
        }
        sent += PIPELINE;
        let newest = client.cmd(&["LINDEX", list, "-1"]);
        assert_eq!(newest.text(), done.last().cloned().unwrap_or_default(), "{list}: its own write");
    }
    let list = client.cmd(&["LRANGE", list, "0", "-1"]);
    let list: Vec<String> = list.items().iter().map(Value::text).collect();
    assert!(list == done, "in order, none lost and none doubled");
    refused
}

/// Several clients write to lists, one of each slot, while `moves` moves these about.
fn under_load(crema: &Crema, slots: &[u16], moves: impl FnOnce()) {
    let ends = AtomicBool::new(false);
    let refused: Vec<Value> = thread::scope(|scope| {
        let ends = &ends;
        let clients: Vec<_> = slots
            .iter()
            .flat_map(|&slot| (0..2).map(move |n| key_in(slot, &format!("list{n}-"))))
            .map(|list| scope.spawn(move || append(crema, &list, ends)))
            .collect();
        let end = Stop(ends);
        moves();
        drop(end);
        clients.into_iter().flat_map(|client| client.join().expect("its list is right")).collect()
    });
    let first = refused.first();
    assert_eq!(first, None, "each client writes to one key, so that nothing is overtaken: {} of these", refused.len());
}

#[test]
fn pipelines_stay_in_order_while_slots_move_to_and_fro() {
    let cluster = Cluster::plan().masters(3).start();
    let crema = cluster.crema().start();
    let slots = [100, 101, 102];
    under_load(&crema, &slots, || {
        for round in 1..8 {
            for slot in slots {
                let step = cluster.begin_move(slot, round % 3);
                thread::sleep(Duration::from_millis(5));
                step.migrate();
                thread::sleep(Duration::from_millis(5));
                step.finish();
            }
        }
    });
    assert!(redirects(&crema, "ask") > 0 && redirects(&crema, "moved") > 0);
}

#[test]
fn pipelines_stay_in_order_while_valkey_moves_slots_as_a_whole() {
    let Some(plan) = Cluster::valkey() else { return };
    let cluster = plan.masters(3).start();
    let slots = [100, 101, 102];
    if !cluster.hand_over(&[99], 1) {
        return; // an older one
    }
    let crema = cluster.crema().start();
    under_load(&crema, &slots, || {
        for round in 1..5 {
            for &slot in &slots {
                assert!(cluster.owner(slot) == round % 3 || cluster.hand_over(&[slot], round % 3));
            }
        }
    });
    assert!(redirects(&crema, "moved") > 0);
}

#[test]
fn a_masters_slots_are_waited_for_and_the_others_go_on() {
    let mut cluster = Cluster::plan().node_timeout(1000).start();
    let crema = cluster.crema().flag("--cluster-wait", "25s").start();
    let [dead, alive] = [key_in(5, "k"), key_in(16_000, "k")];
    let (mut one, mut other) = (crema.client(), crema.client());
    assert_eq!(one.cmd(&["SET", &dead, "1"]), ok());
    assert_eq!(other.cmd(&["SET", &alive, "1"]), ok());
    assert_eq!(cluster.owner(5), 0);
    eventually("its replica has it", || {
        let mut replica = cluster.client(3);
        replica.pipeline(&[&["READONLY"][..], &["GET", &dead]]).remove(1) == bulk("1")
    });
    cluster.kill(0);
    one.patience(common::AT_LAST);
    let write = |client: &mut Client| client.try_cmd(&["INCR", &dead]);
    for n in 2..10 {
        assert_eq!(other.cmd(&["INCR", &alive]), int(n), "another master's");
    }
    // What was under way is uncertain, and this may have been: then a new connection finds the new master.
    let reply = write(&mut one).unwrap_or_else(|_| {
        let mut again = crema.client();
        again.patience(common::AT_LAST);
        write(&mut again).expect("it waits for the new master")
    });
    assert!(matches!(reply, Value::Int(2..=3)), "{reply:?}");
    assert_eq!(cluster.owner(5), 3);
    assert_eq!(other.cmd(&["GET", &dead]), bulk(reply.number().to_string()));
}

#[test]
fn slots_without_a_master_fail_after_a_while() {
    let mut cluster =
        Cluster::plan().masters(3).node_timeout(1000).args(&["--cluster-require-full-coverage", "no"]).start();
    let crema = cluster.crema().flag("--cluster-wait", "300ms").start();
    let (dead, alive) = (key_in(5, "k"), key_in(16_000, "k"));
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", &dead, "1"]), ok());
    cluster.kill(0);
    let mut other = crema.client();
    assert_eq!(other.cmd(&["SET", &alive, "1"]), ok());
    client.send_cmd(&["GET", &dead]);
    assert!(client.closes_within(common::AT_LAST), "as a dead Redis closes");
    assert_eq!(other.cmd(&["GET", &alive]), bulk("1"));
    let errors = cluster.crema().flag("--cluster-wait", "300ms").flag("--upstream-down", "error").without_waiting();
    let errors = errors.start();
    let mut client = errors.client();
    eventually("it has found a node that lives", || client.cmd(&["GET", &alive]) == bulk("1"));
    let reply = client.cmd(&["GET", &dead]);
    assert!(reply.text().contains("crema"), "{reply:?}");
    assert_eq!(client.cmd(&["GET", &alive]), bulk("1"));
}
