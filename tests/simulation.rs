//! Coherence, simulated: schedules that a seed decides, on one clock, and each answer judged against points 2 to 8 of docs/contract.md.
//!
//! The ears, one for each of two users, are the program's ([`crema::invalidation::ear::Protocol`]), and so are lanes
//! ([`crema::upstream::Pipeline`]), the memory that the ears fill, stamps, leases, flights and what a session remembers of its
//! reads. Redis, links and the rest of a worker are models. Bytes are late, cut, frozen and lost; the process stands still;
//! clocks are set; servers become replicas; others write past it.
//!
//! `SEED=7 cargo test --test simulation` runs the one schedule of that seed and, with `-- --nocapture`, tells all that happens.
//! `SCHEDULES` is how many are run where no seed is given, `FIRST` the first of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crema::metrics::AuditBreach;
use faults::{Fault, Plan};
use process::Memory;
use world::{Report, World};

#[path = "simulation/channel.rs"]
mod channel;
#[path = "simulation/dice.rs"]
mod dice;
#[path = "simulation/ears.rs"]
mod ears;
#[path = "simulation/faults.rs"]
mod faults;
#[path = "simulation/judge.rs"]
mod judge;
#[path = "simulation/lanes.rs"]
mod lanes;
#[path = "simulation/link.rs"]
mod link;
#[path = "simulation/process.rs"]
mod process;
#[path = "simulation/redis.rs"]
mod redis;
#[path = "simulation/sessions.rs"]
mod sessions;
#[path = "simulation/trouble.rs"]
mod trouble;
#[path = "simulation/world.rs"]
mod world;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const US: u64 = 1000;
const MS: u64 = 1000 * US;
/// Later than any machine has been up: the store compares with the real clock when something is taken in.
const BASE: u64 = 1 << 60;
/// `max_staleness`.
const STALENESS: u64 = 50 * MS;
const KEYS: usize = 3;
const DATABASES: usize = 2;
const USERS: usize = 2;
/// `acl_recheck`.
const RECHECK: u64 = 2 * STALENESS;

/// Each fault is to be found within so many schedules.
const ENOUGH: u64 = 20_000;
/// How many are run of what breaks nothing.
const SOME: u64 = 3000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

fn run(seed: u64, plan: Plan) -> Report {
    let memory = Memory::new();
    World::new(&memory, seed, plan).run()
}

/// Runs these schedules on all processors; the sums, or the first that was seen to break the contract.
fn run_all(seeds: std::ops::Range<u64>, plan: Plan) -> Result<Report, (u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let (sums, broken) = (Mutex::new(Report::default()), Mutex::new(None::<(u64, String)>));
    let some = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds.end || broken.lock().expect("nobody panics").as_ref().is_some_and(|(first, _)| *first < seed) {
            return;
        }
        let report = run(seed, plan);
        if let Some(violation) = report.violation {
            let mut broken = broken.lock().expect("nobody panics");
            if broken.as_ref().is_none_or(|(first, _)| seed < *first) {
                *broken = Some((seed, violation));
            }
            return;
        }
        let mut sums = sums.lock().expect("nobody panics");
        sums.hits += report.hits;
        sums.joins += report.joins;
        sums.leads += report.leads;
        sums.writes += report.writes;
        sums.audited += report.audited;
        sums.ordered += report.ordered;
        sums.under_way += report.under_way;
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(some))));
    match broken.into_inner().expect("nobody panics") {
        Some(broken) => Err(broken),
        None => Ok(sums.into_inner().expect("nobody panics")),
    }
}

#[test]
fn no_schedule_breaks_the_contract() {
    if let Some(seed) = number("SEED") {
        let memory = Memory::new();
        let report = World::new(&memory, seed, Plan::default()).telling().run();
        assert!(report.violation.is_none(), "seed {seed}: {}", report.violation.unwrap_or_default());
        return println!("{report:?}");
    }
    let (first, schedules) = (number("FIRST").unwrap_or(0), number("SCHEDULES").unwrap_or(100_000));
    let begun = Instant::now();
    match run_all(first..first + schedules, Plan::default()) {
        Err((seed, violation)) => panic!("SEED={seed} cargo test --test simulation\n{violation}"),
        Ok(sums) => {
            let rate = u128::from(schedules) * 1000 / begun.elapsed().as_millis().max(1);
            println!("{schedules} schedules, {rate} a second: {sums:?}");
            assert!(sums.hits > schedules * 20 && sums.joins > schedules, "too little happens: {sums:?}");
        }
    }
}

#[test]
fn a_seed_replays_to_the_bit() {
    for seed in 0..50 {
        assert_eq!(run(seed, Plan::default()), run(seed, Plan::default()), "seed {seed}");
    }
}

#[test]
fn each_planted_fault_is_found() {
    let missed: Vec<_> = Fault::ALL
        .into_iter()
        .filter(|&fault| {
            let found = run_all(0..ENOUGH, Plan::of(fault)).err();
            println!(
                "{fault:?}: {}",
                found.as_ref().map_or("not found".into(), |(seed, _)| format!("found by schedule {seed}"))
            );
            found.is_none()
        })
        .collect();
    assert!(missed.is_empty(), "{missed:?}");
}

#[test]
fn no_hit_that_is_right_is_called_wrong_when_it_is_audited() {
    let (first, schedules) = (number("FIRST").unwrap_or(0), number("AUDITED").unwrap_or(20_000));
    match run_all(first..first + schedules, Plan::audited(None, None)) {
        Err((seed, violation)) => panic!("schedule {seed}, with audits: {violation}"),
        Ok(sums) => {
            println!("{schedules} schedules with audits: {sums:?}");
            assert!(sums.audited > schedules * 10, "too little is read again: {sums:?}");
            assert!(sums.ordered > schedules * 10, "too little is held against writes and pushes: {sums:?}");
            assert_eq!(sums.under_way, 0, "what had to be void answers: {sums:?}");
        }
    }
}

#[test]
fn each_fault_that_leaves_something_old_is_found_by_reading_hits_again() {
    let missed = |faults: &[Fault]| -> Vec<Fault> {
        let found = |fault: &Fault| is_found(*fault, AuditBreach::Value);
        faults.iter().copied().filter(|fault| !found(fault)).collect()
    };
    assert_eq!(missed(&Fault::AUDITED), []);
    assert_eq!(missed(&Fault::OF_AUDIT), [], "without this, what is right is called wrong");
}

#[test]
fn each_fault_that_shows_something_too_old_is_found_by_the_order_of_events() {
    let missed: Vec<_> = Fault::ORDERED.into_iter().filter(|&(fault, breach)| !is_found(fault, breach)).collect();
    assert_eq!(missed, []);
}

/// Whether the audit finds the fault and says this of it.
fn is_found(fault: Fault, breach: AuditBreach) -> bool {
    let found = run_all(0..ENOUGH, Plan::audited(Some(fault), Some(breach))).err();
    println!("{fault:?}: {found:?}");
    found.is_some()
}

#[test]
fn what_only_saves_work_breaks_nothing_by_its_absence() {
    for fault in Fault::HARMLESS {
        if let Err((seed, violation)) = run_all(0..SOME, Plan::of(fault)) {
            panic!("{fault:?}, schedule {seed}: {violation}");
        }
    }
}
