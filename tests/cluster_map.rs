//! The map of a cluster: where it is read, and how it follows what becomes of the nodes.

use common::cluster::{Failover, key_in};
use common::{Client, Cluster, Crema, bulk, eventually, ok};

/// Slots of each of the three masters.
const OF_EACH: [u16; 3] = [5, 6000, 12_000];

#[test]
fn any_node_that_answers_will_do_to_find_the_others() {
    let mut cluster = Cluster::start();
    let keys = OF_EACH.map(|slot| key_in(slot, "k"));
    let url = cluster.url();
    cluster.kill(3); // a replica
    let seeds: Vec<_> = url.trim_start_matches("redis+cluster://").split(',').collect();
    let [only_replica, dead_first] = [seeds[4].to_owned(), format!("{},{}", seeds[3], seeds[1])];
    for seeds in [only_replica, dead_first] {
        let crema = Crema::over(cluster.addr(0)).url(format!("redis+cluster://{seeds}")).start();
        let mut client = crema.client();
        for key in &keys {
            assert_eq!(client.cmd(&["SET", key, &seeds]), ok());
            assert_eq!(cluster.client_of(key).cmd(&["GET", key]), bulk(&seeds));
        }
    }
}

#[test]
fn the_map_follows_failovers_and_masters_that_come_and_go() {
    let mut cluster = Cluster::start();
    let keys = OF_EACH.map(|slot| key_in(slot, "k"));
    let crema = cluster.crema().start();
    let works = |cluster: &Cluster, round: &str| {
        for key in &keys {
            // Of a node that is gone clients are closed until there is another.
            eventually("its slot is served", || {
                Client::try_connect(crema.addr())
                    .and_then(|mut client| client.try_cmd(&["SET", key, round]))
                    .is_ok_and(|reply| reply == ok())
            });
            assert_eq!(cluster.client_of(key).cmd(&["GET", key]), bulk(round), "{key}");
        }
        assert_eq!(crema.client().cmd(&["PING"]), common::Value::Simple("PONG".to_owned()));
    };
    works(&cluster, "first");
    for (slot, how) in [(OF_EACH[1], Failover::Agreed), (OF_EACH[0], Failover::Force)] {
        let replica = cluster.replicas_of(cluster.owner(slot))[0];
        cluster.fail_over(replica, how);
        cluster.await_whole();
        works(&cluster, &how.to_string());
    }
    let new = cluster.add_master();
    cluster.await_whole();
    cluster.move_slots(OF_EACH[2]..=OF_EACH[2], new);
    works(&cluster, "out");
    let back = cluster.owner(OF_EACH[1]);
    cluster.move_slots(OF_EACH[2]..=OF_EACH[2], back);
    cluster.remove(new);
    works(&cluster, "in");

    let front = cluster.owner(OF_EACH[0]);
    cluster.kill(front);
    cluster.await_successor(OF_EACH[0], front);
    works(&cluster, "killed");
}
