//! crema beside others, in one run: `make bench`, or for a look `make bench QUICK=1`.
//!
//! Redis directly, Valkey, twemproxy and `HAProxy` in front of the same Redis, a server that does nothing but answer, and
//! crema, each asked the same in turn, round by round; and before a cluster, Envoy. Measured
//! are the processor time that each process spends on a request, throughput and latency, memory, and how all that grows. `target/bench/report.md` has the tables.
//!
//! Reading order: `load` (what is asked, and how), `peers` (of whom), `speed`, `secure`, `clustered`, `latency`, `queue`,
//! `memory`, `tail`, `tiers`, `growth` (what is measured), `goals` (what it should be), `report`.
//!
//! `cargo bench --bench side_by_side -- [--quick] [--before=CREMA] [--only=LOAD] [speed] [tls] [cluster] [latency]
//! [queue] [memory] [tail] [tiers] [growth]`; another build of crema given with `--before` is put under the same loads, of which `--only`
//! picks those whose name holds these words.
//!
//! `cargo bench --bench side_by_side -- instructions [--record]` counts those of a request, and needs valgrind.

#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "measured figures, for people")]

mod clustered;
mod cpu;
mod floor;
mod goals;
mod growth;
mod instructions;
mod latency;
mod load;
mod memory;
mod peers;
mod queue;
mod report;
mod secure;
mod speed;
mod tail;
mod tiers;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// As in the program, since memory is measured here too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args[..] {
        [role, port] if role == "floor" => floor::serve(port.parse().expect("a port")),
        [role, kind] if role == "entries" => memory::entries(kind),
        _ if args.iter().any(|arg| arg == "instructions") => {
            return instructions::check(args.iter().any(|arg| arg == "--record"));
        }
        _ => compare(&args),
    }
    ExitCode::SUCCESS
}

fn compare(args: &[String]) {
    raise_file_limit();
    let quick = args.iter().any(|arg| arg == "--quick");
    let parts: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |part: &str| parts.is_empty() || parts.contains(&part);
    let (rounds, span) = if quick { (5, Duration::from_millis(150)) } else { (9, Duration::from_millis(600)) };

    let before = args.iter().find_map(|arg| arg.strip_prefix("--before=")).map(Path::new);
    let only = args.iter().find_map(|arg| arg.strip_prefix("--only=")).unwrap_or_default();

    cpu::place(std::process::id(), cpu::Cores::Others);
    let field = speed::Field::start(before);
    let mut rows = Vec::new();
    if wanted("speed") {
        for load in speed::loads(quick).into_iter().filter(|load| load.name().contains(only)) {
            eprintln!("{}, P={}, c={}, {} B", load.name(), load.depth, load.clients, load.value);
            rows.push(field.measure(&load, rounds, span));
        }
    }
    let secured = wanted("tls").then(|| secure::run(&field, quick, rounds, span));
    let clustered = if wanted("cluster") { clustered::run(rounds, span) } else { Vec::new() };
    let latencies = wanted("latency").then(|| latency::measure(&field, rounds, span * 6));
    let jobs = if quick { 3000 } else { 10_000 };
    let queue = if wanted("queue") { queue::measure(&field, before, rounds, jobs) } else { Vec::new() };
    let memory = wanted("memory").then(|| memory::measure(&field, quick));
    let tails = if wanted("tail") { tail::measure(before, span * 5) } else { Vec::new() };
    let tiered = if wanted("tiers") { tiers::run(&field, rounds, span) } else { Vec::new() };
    let mut goals = goals::judge(&rows, latencies.as_ref(), &queue);
    goals.extend(clustered::goals(&clustered));
    goals.extend(tiers::goals(&tiered));
    goals.extend(secured.iter().flat_map(secure::Secured::goals));
    let mut results = report::Results {
        rows,
        secured,
        clustered,
        tiered,
        goals,
        latencies,
        queue,
        memory,
        tails,
        growth: Vec::new(),
    };
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    if wanted("growth") {
        report::write(&results, &dir); // what follows takes long, and may not be waited for
        results.growth = growth::curves(&field, quick, span);
    }
    println!("{}", report::write(&results, &dir));
}

/// Thousands of clients are ours, and as many the peers', which inherit the limit.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
