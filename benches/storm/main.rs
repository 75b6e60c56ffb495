//! Thousands of clients that come back within five seconds, and what those notice who are there: Redis alone, through `HAProxy` (TCP),
//! and through crema, in turn, round by round. And a restart under load ([`restart`]).
//!
//! `cargo bench --bench storm [-- --clients=N] [--seconds=N] [--rounds=N] [--crema=PROGRAM] [--restart]`; prints tables, or the second alone. Each client
//! that comes connects, logs in and reads a key, and stays. Those who are there read one key each every 20 ms; how long that takes is measured
//! for five seconds before, and while the others come. Which connections Redis sees it is asked.

#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "measured figures, for people")]

mod clients;
mod peers;
mod restart;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use clients::{Arrivals, Crowd, THERE, Watch, alone, come, watch};
use peers::{AT_LAST, Peer, figure};

/// As many open files as there are to be, if the system allows it.
const OPEN_FILES: u64 = 65_536;

/// What was measured of one storm.
struct StormResult {
    watch: Watch,
    arrivals: Arrivals,
    connections: u64,
}

fn main() {
    let limit = raise_file_limit();
    let number = |name: &str, otherwise: u64| {
        let mut given = std::env::args().filter_map(|arg| arg.strip_prefix(name)?.parse().ok());
        given.next().unwrap_or(otherwise)
    };
    // HAProxy has two for each client.
    let clients = usize::try_from(number("--clients=", 10_000).min((limit - 500) / 2)).expect("some thousands");
    let within = Duration::from_secs(number("--seconds=", 5));
    let rounds = number("--rounds=", 5);
    let directory = tempfile::tempdir().expect("a directory");
    let program = std::env::args().find_map(|arg| Some(arg.strip_prefix("--crema=")?.to_owned()));
    let program = program.as_deref().unwrap_or(env!("CARGO_BIN_EXE_crema"));
    if !std::env::args().any(|arg| arg == "--restart") {
        let redis = peers::redis(directory.path(), 1);
        let at = redis.addr;
        let haproxy = peers::haproxy(directory.path(), at, clients + THERE + 10, false);
        compare(&[redis, haproxy, peers::crema(program, at, &[])], Crowd { clients, within, goes: false }, rounds);
    }
    restart::compare(directory.path(), program, rounds);
}

/// Prints a table of so many storms at each peer, of which the first is Redis.
fn compare(peers: &[Peer], crowd: Crowd, rounds: u64) {
    let mut results: Vec<Vec<StormResult>> = peers.iter().map(|_| Vec::new()).collect();
    for round in 1..=rounds {
        for (peer, results) in peers.iter().zip(&mut results) {
            let result = storm(peer, peers[0].addr, crowd);
            eprintln!("round {round}: {}", line(peer.name, std::slice::from_ref(&result)));
            results.push(result);
        }
    }
    println!("{} clients within {:?}, {rounds} rounds, medians; milliseconds\n", crowd.clients, crowd.within);
    println!(
        "| | p99 before | p99 during | | p99.9 during | a first reply, half of them | p99 | failed | connections that Redis saw |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (peer, results) in peers.iter().zip(&results) {
        println!("{}", line(peer.name, results));
    }
}

/// Thousands of clients are ours, and as many the peers', which inherit the limit.
fn raise_file_limit() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let more = Some(maximum.unwrap_or(OPEN_FILES).max(OPEN_FILES));
    if setrlimit(Resource::Nofile, Rlimit { current: more, maximum: more }).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(OPEN_FILES)
}

/// One storm at one peer. Those who are there and those who come have a thread each.
fn storm(peer: &Peer, redis: SocketAddr, crowd: Crowd) -> StormResult {
    let (phase, addr) = (Arc::new(AtomicU64::new(0)), peer.addr);
    let there = thread::spawn({
        let phase = Arc::clone(&phase);
        move || alone(watch(addr, 1, phase))
    });
    thread::sleep(Duration::from_secs(1)); // they log in, and what they read becomes hot
    phase.store(1, Ordering::Relaxed);
    thread::sleep(crowd.within);
    let connected = figure(redis, "total_connections_received");
    phase.store(2, Ordering::Relaxed);
    let mut arrivals = alone(async {
        let came = come(addr, crowd).await;
        phase.store(3, Ordering::Relaxed);
        came
    });
    let connections = figure(redis, "total_connections_received") - connected - 1;
    arrivals.streams.clear();
    let watch = there.join().expect("it does not panic");
    let began = Instant::now();
    while figure(redis, "connected_clients") > 100 && began.elapsed() < AT_LAST {
        thread::sleep(Duration::from_millis(100));
    }
    StormResult { watch, arrivals, connections }
}

/// A row of the table.
fn line(name: &str, results: &[StormResult]) -> String {
    let reads = |of: &StormResult, phase: usize, share: f64| quantile(of.watch.reads[phase].clone(), share);
    let failed: u64 = results.iter().map(|of| of.arrivals.failed + of.watch.lost).sum();
    format!(
        "| {name} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {failed} | {} |",
        median(results, |of| reads(of, 0, 0.99)),
        median(results, |of| reads(of, 1, 0.99)),
        median(results, |of| reads(of, 1, 0.99) / reads(of, 0, 0.99)),
        median(results, |of| reads(of, 1, 0.999)),
        median(results, |of| quantile(of.arrivals.entries.clone(), 0.5)),
        median(results, |of| quantile(of.arrivals.entries.clone(), 0.99)),
        median(results, |of| of.connections as f64),
    )
}

/// The figure that half of the rounds do not exceed.
fn median<T>(results: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    let mut all: Vec<f64> = results.iter().map(figure).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// So large a share of these is no longer than this, in milliseconds.
fn quantile(mut all: Vec<Duration>, share: f64) -> f64 {
    all.sort_unstable();
    let at = ((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1));
    all.get(at).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
}
