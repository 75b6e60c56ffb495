//! In front of a cluster of three masters, beside a cluster client that finds the right master by itself, and beside Envoy.
//!
//! The masters share a core where they are what is measured, as one Redis has one, and what is told of them is their sum.

use std::time::Duration;

use super::goals::Goal;
use super::load::{Ask, Load, seed_cluster};
use super::peers::Peer;
use super::speed::{HITS, MISSES, Row, measure};

const MASTERS: u16 = 3;

/// Puts hits, misses and writes on the masters and on the proxies in front of them.
pub(crate) fn run(rounds: usize, span: Duration) -> Vec<Row> {
    let cluster = Peer::cluster("Redis", MASTERS);
    seed_cluster(&cluster);
    let hits = Peer::crema_at(HITS, &cluster.cluster_url(), &["--promote", "1"]);
    let misses = Peer::crema_at(MISSES, &cluster.cluster_url(), &["--promote", "0"]);
    let envoy = Peer::envoy(&cluster);
    let peers: Vec<&Peer> = [&cluster, &hits, &misses].into_iter().chain(&envoy).collect();
    let loads = [Ask::Get, Ask::Set].into_iter().flat_map(|ask| [1, 16, 64].map(|depth| Load::new(ask, depth)));
    loads
        .map(|load| {
            eprintln!("in a cluster: {}, P={}", load.name(), load.depth);
            measure(&peers, &cluster, &load, rounds, span)
        })
        .collect()
}

/// What a run says of it.
pub(crate) fn goals(rows: &[Row]) -> impl Iterator<Item = Goal> + '_ {
    rows.iter().filter_map(|row| {
        let what = if row.load.ask == Ask::Set { "SET" } else { "missed GET" };
        let text = format!("in a cluster, {what} by Envoy's, P={}", row.load.depth);
        Some(Goal { text, limit: 1.0, figure: row.ratio(MISSES, "Envoy")? })
    })
}
