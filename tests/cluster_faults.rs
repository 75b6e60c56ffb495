//! What befalls a cluster, and what is seen through crema meanwhile: no hit is older than the bound, no write is lost that
//! Redis kept, none is done twice, and L1 answers again soon after all is whole.
//!
//! What is done and how it is judged stands in [`common::ledger`]. `CREMA_CLUSTER_ROUNDS` repeats what takes long, and
//! `CREMA_CLUSTER_TIMEOUT` sets the nodes' time-out for it in milliseconds (`make long`).

use std::collections::HashSet;
use std::time::Duration;

use common::cluster::{Failover, Line, Plan, SLOTS, key_in, keys_in, slot_of};
use common::ledger::{Crowd, Findings, judged, time_to_hits, told_apart};
use common::{Cluster, Crema, Value, eventually, number_from_env, ok, within};

const MAX_STALENESS: Duration = Duration::from_millis(200);

/// How soon L1 answers again once all is whole: long enough for a slow machine.
const SOON: Duration = Duration::from_secs(10);

/// A cluster and a proxy in front of it, on which one thing after the other is tried.
struct Scene {
    cluster: Cluster,
    crema: Crema,
    acts: usize,
}

impl Scene {
    fn of(plan: Plan) -> Option<Scene> {
        if std::env::var_os("CREMA_TEST_DIRECT").is_some() {
            return None;
        }
        let cluster = plan.with_links().start();
        let crema = told_apart(&cluster, MAX_STALENESS);
        Some(Scene { cluster, crema, acts: 0 })
    }

    /// The keys of the next act, to which nothing has been written yet: some in each third of the slots.
    fn next_keys(&self) -> Vec<String> {
        let third = SLOTS / 3;
        let some = |n: u16| keys_in(n * third..=n * third + third - 1, &format!("act{}:", self.acts)).take(12);
        (0..3).flat_map(some).collect()
    }

    fn act(&mut self, fault: impl FnOnce(&mut Cluster)) -> Findings {
        let keys = self.next_keys();
        self.acts += 1;
        let findings = judged(&mut self.cluster, &self.crema, &keys, Crowd::default(), MAX_STALENESS, fault);
        let again = time_to_hits(&self.crema, &keys);
        eprintln!("L1 answers again for all after {again:?}");
        assert!(again < SOON, "L1 answers again after {again:?}");
        findings
    }

    /// The master of a slot, and its replica.
    fn pair(&self, slot: u16) -> (usize, usize) {
        let master = self.cluster.owner(slot);
        (master, self.cluster.replicas_of(master)[0])
    }
}

#[test]
fn failovers_that_are_asked_for() {
    let Some(mut scene) = Scene::of(Cluster::plan().with_replication_links()) else { return };
    for how in [Failover::Agreed, Failover::Force, Failover::Takeover] {
        let (_, replica) = scene.pair(0);
        let findings = scene.act(|cluster| {
            cluster.fail_over(replica, how);
        });
        findings.hold(&how.to_string(), how != Failover::Agreed);
    }
    for how in [Failover::Force, Failover::Takeover] {
        let (master, replica) = scene.pair(0);
        let findings = scene.act(|cluster| {
            cluster.replication(master).freeze();
            cluster.fail_over(replica, how);
            cluster.replication(master).thaw();
        });
        findings.hold(&format!("{how} of a replica that is behind"), true);
    }
}

#[test]
fn masters_that_are_cut_off_frozen_or_killed() {
    let node_timeout = number_from_env("CREMA_CLUSTER_TIMEOUT").unwrap_or(1000);
    let node_timeout = u32::try_from(node_timeout).expect("milliseconds");
    let Some(mut scene) = Scene::of(Cluster::plan().node_timeout(node_timeout).with_bus()) else { return };
    for round in 0..number_from_env("CREMA_CLUSTER_ROUNDS").unwrap_or(1) {
        let what = |text: &str| format!("{text}, round {round}");
        // One shard after the other: see `await_elected`.
        let (master, replica) = scene.pair(0);
        scene.act(|cluster| cut(cluster, master, replica)).hold(&what("cut off"), true);

        let (master, replica) = scene.pair(SLOTS / 2);
        let findings = scene.act(|cluster| {
            let _frozen = cluster.node(master).freeze();
            cluster.await_elected(replica);
            linger();
        });
        findings.hold(&what("frozen"), true);

        let (master, replica) = scene.pair(SLOTS - 1);
        let findings = scene.act(|cluster| {
            cluster.bus().isolate(master);
            linger();
            cluster.failover(replica, Failover::Takeover);
            cluster.await_master(replica);
            linger();
            cluster.bus().heal();
            eventually("it follows", || !cluster.is_master(master));
        });
        findings.hold(&what("cut off, and another took over"), true);

        let (master, replica) = scene.pair(0);
        let findings = scene.act(|cluster| {
            cluster.kill(master);
            cluster.await_elected(replica);
            cluster.restart(master);
            eventually("it follows", || !cluster.is_master(master));
        });
        findings.hold(&what("killed"), true);
    }
}

/// What would be too old by now would show.
fn linger() {
    std::thread::sleep(MAX_STALENESS * 3);
}

/// Cuts a master off until its replica has its place, and a while longer.
fn cut(cluster: &Cluster, master: usize, replica: usize) {
    cluster.bus().isolate(master);
    cluster.await_elected(replica);
    linger();
    cluster.bus().heal();
    eventually("it follows", || !cluster.is_master(master));
}

#[test]
fn an_election_that_nobody_wins() {
    let Some(mut scene) = Scene::of(Cluster::plan().node_timeout(1000).with_bus()) else { return };
    let findings = scene.act(|cluster| {
        let before = cluster.info(1, "cluster_current_epoch");
        let lost = cluster.view(0).into_iter().find(|line| line.is("myself")).expect("a node lists itself").id;
        cluster.bus().isolate(0);
        // Who is first to be sure tells all at once; half a second later at the earliest its replica asks for votes.
        let knows = |line: &Line| line.id == lost && line.is("fail");
        eventually("its replica knows", || cluster.view(3).iter().any(knows));
        // It is heard by one of the two masters that are left: that is no majority of three.
        cluster.bus().part(&[3], &[2]);
        eventually("there is an election", || cluster.info(1, "cluster_current_epoch") > before);
        assert!(!cluster.is_master(3), "it has one vote of the two that it needs");
        cluster.bus().heal();
    });
    findings.hold("an election without a winner", true);
    eprintln!("the owner is {}", scene.cluster.owner(0));
}

/// Few slots of the third master go to a new one, which then elects in its place.
#[test]
fn other_electors_than_at_the_beginning() {
    let shares = [0..=8190, 8191..=SLOTS - 5, SLOTS - 4..=SLOTS - 1];
    let plan = Cluster::plan().shares(&shares).node_timeout(1000).with_bus();
    let Some(mut scene) = Scene::of(plan) else { return };
    scene
        .act(|cluster| {
            let new = cluster.add_master();
            cluster.move_slots(SLOTS - 4..SLOTS, new);
            cut(cluster, 0, 3);
        })
        .hold("other electors", true);
}

#[test]
fn slots_that_move_are_taken_and_come_back() {
    let Some(mut scene) = Scene::of(Cluster::plan().masters(3)) else { return };
    let keys = scene.next_keys();
    let slots: Vec<u16> = keys.iter().take(12).map(|key| slot_of(key)).collect();
    let findings = scene.act(|cluster| {
        let new = cluster.add_master();
        cluster.move_slots(slots.iter().copied(), new);
        cluster.await_whole();
        linger();
        cluster.move_slots(slots.iter().copied(), 0);
        cluster.remove(new);
    });
    findings.hold("out and in", false);
    let slot = slot_of(&scene.next_keys()[0]);
    let findings = scene.act(|cluster| {
        cluster.take_slot(slot, 1);
        eventually("the former owner knows", || cluster.owner(slot) == 1);
    });
    // Its keys are gone.
    findings.hold("taken without its keys", true);
}

#[test]
fn slots_that_valkey_moves_as_a_whole() {
    let Some(plan) = Cluster::valkey() else { return };
    let Some(mut scene) = Scene::of(plan.masters(3)) else { return };
    if !scene.cluster.hand_over(&[1], 1) {
        return; // an older one
    }
    let of_first = |keys: &[String]| -> Vec<u16> {
        let slots: HashSet<u16> = keys.iter().take(12).map(|key| slot_of(key)).filter(|&slot| slot != 1).collect();
        slots.into_iter().collect()
    };
    for way in [[1, 2, 0].as_slice(), &[2, 1, 2, 1, 0]] {
        let slots = of_first(&scene.next_keys());
        let findings = scene.act(|cluster| {
            for &to in way {
                assert!(cluster.hand_over(&slots, to));
                linger();
            }
        });
        findings.hold("handed over", false);
    }
}

/// Every key that is there all the time is found.
#[test]
fn a_scan_goes_on_through_a_failover() {
    let cluster = Cluster::plan().start();
    let crema = cluster.crema().start();
    if crema.is_direct() {
        return;
    }
    let keys: HashSet<String> = (0..300).map(|n| format!("key:{n}")).collect();
    let mut client = crema.client();
    for key in &keys {
        assert_eq!(client.cmd(&["SET", key, "v"]), ok());
    }
    // All of it is at the replica that is to take over.
    let mut master = cluster.client(0);
    let own = keys_in(0..=5000, "own:").next().expect("there are many");
    assert_eq!(master.cmd(&["SET", &own, "v"]), ok());
    assert_eq!(master.cmd(&["WAIT", "1", "20000"]).number(), 1);
    let (mut cursor, mut found) = ("0".to_owned(), HashSet::new());
    for step in 0.. {
        let reply = client.cmd(&["SCAN", &cursor, "COUNT", "10", "MATCH", "key:*"]);
        assert!(!reply.is_error(), "step {step}: {reply:?}");
        let [next, some] = reply.items() else { panic!("a cursor and keys: {reply:?}") };
        found.extend(some.items().iter().map(Value::text));
        cursor = next.text();
        if cursor == "0" {
            break;
        }
        if step == 5 {
            cluster.failover(3, Failover::Agreed);
            cluster.await_master(3);
            cluster.await_whole();
        }
    }
    let missing: Vec<_> = keys.difference(&found).collect();
    assert!(missing.is_empty(), "not found: {missing:?}");
}

/// It is not said to be done where one was not asked, and what the others forgot L1 has forgotten.
#[test]
fn a_flush_with_a_node_down_is_no_success() {
    let mut cluster = Cluster::plan().masters(3).args(&["--cluster-require-full-coverage", "no"]).start();
    let crema = cluster.crema().flag("--upstream-down", "error").start();
    if crema.is_direct() {
        return;
    }
    let keys: Vec<String> = [0, 6000, 12_000].map(|slot| key_in(slot, "k")).into();
    let mut client = crema.client();
    for key in &keys {
        assert_eq!(client.cmd(&["SET", key, "v"]), ok());
        crema.warm(&["GET", key]);
    }
    cluster.kill(2);
    let reply = client.cmd(&["FLUSHALL"]);
    assert!(reply.is_error(), "a node is down: {reply:?}");
    for (n, key) in keys.iter().take(2).enumerate() {
        let there = cluster.client(n).cmd(&["GET", key]);
        within(MAX_STALENESS * 10, "all see what the node has", || client.cmd(&["GET", key]) == there);
    }
}
