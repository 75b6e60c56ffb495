//! The clusters that other tests stand on, held against themselves: no proxy takes part.

use std::time::Instant;

use common::cluster::{Failover, SLOTS, key_in, keys_in, slot_of};
use common::{Cluster, bulk, eventually, ok};

#[test]
fn slots_are_counted_as_redis_counts_them() {
    let cluster = Cluster::plan().masters(1).start();
    let mut client = cluster.client(0);
    for key in ["", "a", "key", "{tag}rest", "x{tag}y{other}", "{}a", "{", "a}b{c", "x{a{b}c}"] {
        assert_eq!(client.cmd(&["CLUSTER", "KEYSLOT", key]).number(), i64::from(slot_of(key)), "{key}");
    }
}

#[test]
fn slots_move_in_steps_and_masters_come_and_go() {
    for plan in [Some(Cluster::plan()), Cluster::valkey()].into_iter().flatten() {
        let began = Instant::now();
        let mut cluster = plan.start();
        eprintln!("whole after {:?}", began.elapsed());
        let keys: Vec<String> = keys_in(7..=7, "k").take(250).collect();
        for key in &keys {
            assert_eq!(cluster.client(0).cmd(&["SET", key, "v"]), ok());
        }
        let step = cluster.begin_move(7, 1);
        step.migrate_keys(&[keys[0].clone().into_bytes()]);
        let text = |n: usize, key: &str| cluster.client(n).cmd(&["GET", key]).text();
        assert!(text(0, &keys[0]).starts_with("ASK 7 "));
        assert!(text(1, &keys[0]).starts_with("MOVED 7 "));
        assert_eq!(text(0, &keys[1]), "v");
        step.migrate();
        step.finish();
        assert_eq!(text(1, &keys[249]), "v");
        assert!(text(2, &keys[249]).starts_with("MOVED 7 "));
        cluster.take_slot(7, 2);
        eventually("the former owner hears of it", || text(1, &keys[0]).starts_with("MOVED 7 "));
        assert_eq!(cluster.client(2).cmd(&["GET", &keys[0]]), common::Value::Nil);

        let new = cluster.add_master();
        cluster.move_slots(SLOTS - 3..SLOTS, new);
        cluster.await_whole();
        assert_eq!(cluster.owner(SLOTS - 1), new);
        cluster.move_slots(SLOTS - 3..SLOTS, 2);
        cluster.remove(new);
        cluster.await_whole();
    }
}

#[test]
fn nodes_fail_over_freeze_and_come_back() {
    let mut cluster = Cluster::plan().node_timeout(1000).start();
    let key = key_in(5, "k");
    assert_eq!(cluster.client_of(&key).cmd(&["SET", &key, "v"]), ok());
    for how in [Failover::Agreed, Failover::Force, Failover::Takeover] {
        let old = cluster.owner(5);
        let replica = cluster.replicas_of(old)[0];
        cluster.fail_over(replica, how);
        cluster.await_whole();
        assert_eq!(cluster.owner(5), replica, "{how}");
    }
    // Others than those that have just been elected: see `await_elected`.
    let old = cluster.owner(SLOTS / 2);
    let frozen = cluster.node(old).freeze();
    cluster.await_successor(SLOTS / 2, old);
    drop(frozen);
    cluster.await_whole();
    assert_ne!(cluster.owner(SLOTS / 2), old);
    assert_eq!(cluster.client_of(&key).cmd(&["GET", &key]), bulk("v"));
    let old = cluster.owner(SLOTS - 1);
    cluster.kill(old);
    cluster.await_successor(SLOTS - 1, old);
    cluster.restart(old);
    cluster.await_whole();
    assert!(!cluster.is_master(old));
}

#[test]
fn the_bus_and_what_replicas_read_can_be_cut() {
    let cluster = Cluster::plan().node_timeout(1000).with_bus().with_replication_links().start();
    let key = key_in(5, "k");
    cluster.replication(0).freeze();
    let mut client = cluster.client(0);
    assert_eq!(client.cmd(&["SET", &key, "v"]), ok());
    assert_eq!(client.cmd(&["WAIT", "1", "50"]).number(), 0);
    cluster.replication(0).thaw();
    assert_eq!(client.cmd(&["WAIT", "1", "20000"]).number(), 1);
    cluster.bus().isolate(0);
    cluster.await_elected(3);
    // It may take a moment for the one that is alone to see it.
    eventually("it says that the cluster is down", || {
        cluster.client(0).cmd(&["SET", &key, "w"]).text().starts_with("CLUSTERDOWN")
    });
    cluster.bus().heal();
    eventually("it is a replica", || !cluster.is_master(0));
    cluster.await_whole();
    assert_eq!(cluster.owner(5), 3);
    cluster.bus().part(&[3], &[1, 2, 4, 5]);
    cluster.await_elected(0);
}
