//! A restart under load: crema's next process takes over, and `HAProxy`'s master starts its next worker.
//!
//! 64 clients read all the while, and 200 a second come, log in, read and go. How long reads take is measured for five seconds before the
//! restart and for five from it on; and how long the process that was there goes on. What Redis is asked tells how much memory answers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::clients::{Arrivals, Crowd, Watch, alone, come, watch};
use super::peers::{self, Peer, figure, spawn};
use super::{median, quantile};

const KEYS: usize = 1000;
/// What comes within the time of all phases.
const CROWD: Crowd = Crowd { clients: 3200, within: Duration::from_secs(16), goes: true };
/// Before the restart, and from it on.
const PHASE: Duration = Duration::from_secs(5);
/// So long the old process is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// For so long reads are counted.
const COUNTED: Duration = Duration::from_secs(1);

/// What was seen of one restart.
struct RestartResult {
    watch: Watch,
    arrivals: Arrivals,
    /// How long the one that was there went on; none: longer than was waited for it.
    gone: Option<Duration>,
    /// Of a hundred reads those that Redis was not asked: in the second before, and in the one that begins a second after.
    spared: [f64; 2],
}

/// Prints a table of so many restarts of each.
pub(crate) fn compare(directory: &Path, program: &str, rounds: u64) {
    let redis = peers::redis(directory, KEYS);
    let path = directory.join("take-over").to_str().expect("UTF-8").to_owned();
    let more = ["--take-over", &path, "--promote", "1"];
    let mut results = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let mut haproxy = peers::haproxy(directory, redis.addr, 4000, true);
        results[0].push(restart(&mut haproxy, redis.addr, |master| {
            // The worker that is there is the master's only child.
            let worker = child_of(master.child.id());
            signal(master.child.id(), "USR2");
            Old::Worker(worker)
        }));
        signal(haproxy.child.id(), "TERM"); // its workers end with it
        let _ = haproxy.child.wait();
        let mut crema = peers::crema(program, redis.addr, &more);
        results[1].push(restart(&mut crema, redis.addr, |crema| {
            let args = peers::crema_args(crema.addr, redis.addr, &more);
            let next = spawn(program, &args.iter().map(String::as_str).collect::<Vec<_>>());
            Old::Process(std::mem::replace(&mut crema.child, next))
        }));
    }
    println!("\nA restart under load, {rounds} rounds, medians; milliseconds\n");
    println!(
        "| | p99 before | during | the longest | closed | came | refused or failed | the old one is gone after | Redis is not asked, before | a second after |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (name, results) in ["HAProxy", "crema"].iter().zip(&results) {
        println!("{}", line(name, results));
    }
}

/// The process that is replaced.
enum Old {
    Process(std::process::Child),
    Worker(u32),
}

impl Old {
    fn is_gone(&mut self) -> bool {
        match self {
            Self::Process(child) => !matches!(child.try_wait(), Ok(None)),
            Self::Worker(id) => !Path::new(&format!("/proc/{id}")).exists(),
        }
    }
}

fn restart(peer: &mut Peer, redis: SocketAddr, replace: impl FnOnce(&mut Peer) -> Old) -> RestartResult {
    let (phase, addr) = (Arc::new(AtomicU64::new(0)), peer.addr);
    let there = thread::spawn({
        let phase = Arc::clone(&phase);
        move || alone(watch(addr, KEYS, phase))
    });
    let coming = thread::spawn(move || alone(come(addr, CROWD)));
    thread::sleep(Duration::from_secs(3)); // what is read becomes hot
    phase.store(1, Ordering::Relaxed);
    thread::sleep(PHASE.saturating_sub(COUNTED));
    let before = spared(redis);
    phase.store(2, Ordering::Relaxed);
    let began = Instant::now();
    let mut old = replace(peer);
    while !old.is_gone() && began.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(1));
    }
    let gone = old.is_gone().then(|| began.elapsed());
    thread::sleep(Duration::from_secs(1));
    let after = spared(redis);
    thread::sleep(PHASE.saturating_sub(began.elapsed()));
    phase.store(3, Ordering::Relaxed);
    let watch = there.join().expect("it does not panic");
    let arrivals = coming.join().expect("it does not panic");
    if let Old::Process(mut child) = old {
        let _ = child.kill();
        let _ = child.wait();
    }
    RestartResult { watch, arrivals, gone, spared: [before, after] }
}

/// Of a hundred reads in a second those that Redis was not asked. It is known how many there are: 64 clients, 50 times, and 200 that come.
fn spared(redis: SocketAddr) -> f64 {
    let (began, asked) = (Instant::now(), figure(redis, "cmdstat_get"));
    thread::sleep(COUNTED);
    let asked = figure(redis, "cmdstat_get") - asked;
    let reads = (64.0 * 47.0 + 200.0) * began.elapsed().as_secs_f64();
    (100.0 - asked as f64 / reads * 100.0).max(0.0)
}

fn child_of(parent: u32) -> u32 {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = std::fs::read_to_string(path).expect("the system tells");
    children.split_whitespace().next_back().and_then(|child| child.parse().ok()).expect("a worker")
}

fn signal(process: u32, name: &str) {
    let sent = std::process::Command::new("kill").args([format!("-{name}"), process.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
}

/// A row of the table.
fn line(name: &str, results: &[RestartResult]) -> String {
    let reads = |phase: usize, share: f64| median(results, |of| quantile(of.watch.reads[phase].clone(), share));
    let sum = |of: &dyn Fn(&RestartResult) -> u64| results.iter().map(of).sum::<u64>();
    let gone: Option<Vec<Duration>> = results.iter().map(|result| result.gone).collect();
    let gone = gone.map_or("-".to_owned(), |gone| format!("{:.0}", quantile(gone, 0.5)));
    format!(
        "| {name} | {:.2} | {:.2} | {:.2} | {} | {} | {} | {gone} | {:.1} % | {:.1} % |",
        reads(0, 0.99),
        reads(1, 0.99),
        reads(1, 1.0),
        sum(&|of| of.watch.lost),
        sum(&|of| of.arrivals.entries.len() as u64),
        sum(&|of| of.arrivals.failed),
        median(results, |of| of.spared[0]),
        median(results, |of| of.spared[1]),
    )
}
