//! What befalls a cluster, and what is seen through crema meanwhile: no hit is older than the bound, no write is lost that
//! Redis kept, none is done twice, and L1 answers again soon after all is whole.
//!
//! What is done and how it is judged stands in [`common::ledger`]. `CREMA_CLUSTER_ROUNDS` repeats what takes long (`make long`).

mod common;

use std::time::Duration;

use common::cluster::{Failover, Plan, SLOTS, keys_in, slot_of};
use common::ledger::{Crowd, Findings, judged, time_to_hits, told_apart};
use common::{Cluster, Crema, eventually, number_from_env};

const MAX_STALENESS: Duration = Duration::from_millis(200);

/// How soon L1 answers again once all is whole; what is slow is this machine.
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

    /// The master and a replica of the first slot.
    fn first(&self) -> (usize, usize) {
        let master = self.cluster.owner(0);
        (master, self.cluster.replicas_of(master)[0])
    }
}

#[test]
fn failovers_that_are_asked_for() {
    let Some(mut scene) = Scene::of(Cluster::plan().with_replication_links()) else { return };
    for how in [Failover::Agreed, Failover::Force, Failover::Takeover] {
        let (_, replica) = scene.first();
        let findings = scene.act(|cluster| {
            cluster.failover(replica, how);
            cluster.await_master(replica);
        });
        findings.hold(&how.to_string(), how != Failover::Agreed);
    }
    for how in [Failover::Force, Failover::Takeover] {
        let (master, replica) = scene.first();
        let findings = scene.act(|cluster| {
            cluster.replication(master).freeze();
            cluster.failover(replica, how);
            cluster.await_master(replica);
            cluster.replication(master).thaw();
        });
        findings.hold(&format!("{how} of a replica that is behind"), true);
    }
}

#[test]
fn masters_that_are_cut_off_frozen_or_killed() {
    let Some(mut scene) = Scene::of(Cluster::plan().node_timeout(1000).with_bus()) else { return };
    for round in 0..number_from_env("CREMA_CLUSTER_ROUNDS").unwrap_or(1) {
        let what = |text: &str| format!("{text}, round {round}");
        let (master, replica) = scene.first();
        scene.act(|cluster| cut(cluster, master, replica)).hold(&what("cut off"), true);

        let (master, replica) = scene.first();
        let findings = scene.act(|cluster| {
            let _frozen = cluster.node(master).freeze();
            cluster.await_master(replica);
            std::thread::sleep(MAX_STALENESS * 2);
        });
        findings.hold(&what("frozen"), true);

        let (master, replica) = scene.first();
        let findings = scene.act(|cluster| {
            cluster.kill(master);
            cluster.await_master(replica);
            cluster.restart(master);
            eventually("it follows", || !cluster.is_master(master));
        });
        findings.hold(&what("killed"), true);
    }
}

/// Cuts a master off until its replica has its place, and a while longer.
fn cut(cluster: &Cluster, master: usize, replica: usize) {
    cluster.bus().isolate(master);
    cluster.await_master(replica);
    std::thread::sleep(Duration::from_secs(1));
    cluster.bus().heal();
    eventually("it follows", || !cluster.is_master(master));
}

#[test]
fn an_election_that_nobody_wins() {
    let Some(mut scene) = Scene::of(Cluster::plan().node_timeout(1000).with_bus()) else { return };
    let findings = scene.act(|cluster| {
        let before = cluster.info(1, "cluster_current_epoch");
        // Its replica is heard by one of the two masters that are left: that is no majority of three.
        cluster.bus().part(&[3], &[2]);
        cluster.bus().isolate(0);
        eventually("there is an election", || cluster.info(1, "cluster_current_epoch") > before);
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
fn slots_that_move_and_come_back() {
    let Some(mut scene) = Scene::of(Cluster::plan().masters(3)) else { return };
    let keys = scene.next_keys();
    let slots: Vec<u16> = keys.iter().take(12).map(|key| slot_of(key)).collect();
    let findings = scene.act(|cluster| {
        let new = cluster.add_master();
        cluster.move_slots(slots.iter().copied(), new);
        cluster.await_whole();
        std::thread::sleep(MAX_STALENESS * 2);
        cluster.move_slots(slots.iter().copied(), 0);
        cluster.remove(new);
    });
    findings.hold("out and in", false);
}
