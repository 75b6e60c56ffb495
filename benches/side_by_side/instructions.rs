//! Instructions that crema executes for a request, counted by callgrind: the one figure that no busy machine disturbs.
//!
//! `benches/instructions.txt` holds what they were when somebody last recorded them, and [`check`] fails where that of a hit has
//! moved by more than [`TOLERANCE`] either way: a change for the worse is to be seen, one for the better to be kept. A hit of a
//! key without a tier is compared with one where there are no tiers, in the same run. What the kernel does is not counted, so this says
//! nothing of system calls. Another compiler counts differently; then the file judges nothing.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use super::load::{Ask, Load, counted, seed};
use super::peers::Peer;
use super::tiers::{Beneath, STAYS, settings};

/// In hundredths.
const TOLERANCE: f64 = 5.0;
const FILE: &str = "benches/instructions.txt";
/// What is the same as without this is compared with that, in the same run.
const BESIDE: &str = " where there are tiers";

/// Counts, and compares with the file or writes it.
pub(crate) fn check(record: bool) -> ExitCode {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let found = count();
    let compiler = compiler();
    if record {
        let mut text = format!(
            "# Instructions a request, by callgrind. `make instructions RECORD=1` writes this file.\n# {compiler}\n"
        );
        for (name, instructions) in found.iter().filter(|(name, _)| !name.contains(BESIDE)) {
            let _ = writeln!(text, "{instructions:>6.0}  {name}");
        }
        fs::write(&file, text).expect("the sources can be written to");
    }
    let text = fs::read_to_string(&file).unwrap_or_default();
    let judged = text.contains(&format!("# {compiler}\n"));
    let (mut moved, mut dearer) = (false, false);
    for (name, instructions) in &found {
        // A miss waits for others, and how often it does so is theirs.
        let is_judged = name.contains("hit");
        let without = name.replace(BESIDE, "");
        if let Some((_, plain)) = found.iter().find(|(other, _)| *other == without && other != name) {
            let change = (instructions / plain - 1.0) * 100.0;
            println!("{instructions:>6.0}  {name} ({change:+.1} % of what it is without)");
            dearer |= is_judged && change > TOLERANCE;
            continue;
        }
        let line = text.lines().find_map(|line| line.trim().strip_suffix(&format!("  {name}")));
        let Some(recorded) = line.and_then(|number| number.trim().parse::<f64>().ok()) else {
            println!("{instructions:>6.0}  {name}: not in {FILE}");
            moved |= is_judged;
            continue;
        };
        let change = (instructions / recorded - 1.0) * 100.0;
        println!("{instructions:>6.0}  {name} ({change:+.1} %)");
        moved |= is_judged && change.abs() > TOLERANCE;
    }
    if dearer {
        println!("a key without a tier costs more by more than {TOLERANCE} % where there are tiers");
        return ExitCode::FAILURE;
    }
    match (moved, judged) {
        (false, _) => ExitCode::SUCCESS,
        (true, false) => {
            println!("recorded with another compiler than {compiler}: not judged");
            ExitCode::SUCCESS
        }
        (true, true) => {
            println!("moved by more than {TOLERANCE} %. Where that is meant: make instructions RECORD=1");
            ExitCode::FAILURE
        }
    }
}

fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output().expect("what built this is there");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn count() -> Vec<(String, f64)> {
    let redis = Peer::redis("Redis", "redis-server".as_ref());
    seed(&redis);
    let mut found = Vec::new();
    let asked = [(Ask::GetOf(100), "hit"), (Ask::XRange, "XRANGE hit")];
    count_all(&redis, (&redis.url(), "1", ""), &asked, &mut found);
    count_all(&redis, (&redis.url(), "0", ""), &[(Ask::GetAny, "miss"), (Ask::Set, "SET")], &mut found);

    // Of keys without a tier, and then of others, which wait for more and are not judged.
    let below = Beneath::start(&redis);
    let tier = settings(&below.redis.tier_url(), STAYS);
    let url = redis.url();
    count_all(&redis, (&url, "1", &tier), &[(Ask::GetOf(100), "hit where there are tiers")], &mut found);
    let beside = [(Ask::GetAny, "miss where there are tiers"), (Ask::Set, "SET where there are tiers")];
    let beyond = [(Ask::Gone, "asked of a tier in vain"), (Ask::Below, "found in a tier")];
    count_all(&redis, (&url, "0", &tier), &[&beside[..], &beyond[..]].concat(), &mut found);
    drop((redis, below));

    let cluster = Peer::cluster("Redis", 3);
    let asked = [(Ask::SetOf(100), "SET in a cluster"), (Ask::GetOf(100), "hit in a cluster")];
    count_all(&cluster, (&cluster.cluster_url(), "1", ""), &asked, &mut found);
    count_all(&cluster, (&cluster.cluster_url(), "0", ""), &[(Ask::GetOf(100), "miss in a cluster")], &mut found);
    found
}

/// Counts at each depth, with a crema that promotes one read in so many.
fn count_all(
    redis: &Peer,
    (url, promote, settings): (&str, &str, &str),
    asked: &[(Ask, &str)],
    found: &mut Vec<(String, f64)>,
) {
    let crema = Peer::under_callgrind(url, &["--promote", promote], settings);
    for (ask, name) in asked {
        for depth in [1, 16, 64] {
            let load = Load { clients: 1, ..Load::new(*ask, depth) };
            // Often enough for every key to be in memory, which the first of two rounds sees to.
            let batches = 20_000 / depth;
            counted(&crema, redis, &load, batches);
            crema.callgrind("--zero");
            let requests = counted(&crema, redis, &load, batches);
            crema.callgrind("--dump");
            found.push((format!("{name}, P={depth}"), newest(crema.dir()) / requests as f64));
        }
    }
}

/// The instructions of the busiest thread in the newest dump of callgrind in `dir`: the worker's. What others do is done by the
/// clock, and is more where a machine is slow.
fn newest(dir: &Path) -> f64 {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut before = None;
    loop {
        let mut dumps: Vec<PathBuf> =
            fs::read_dir(dir).expect("its directory").flatten().map(|file| file.path()).collect();
        dumps.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("callgrind.out")));
        let total = |dump: &PathBuf| {
            let text = fs::read_to_string(dump).ok()?;
            text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<f64>().ok())
        };
        let totals: Vec<f64> = dumps.iter().filter_map(total).collect();
        // Each thread that did anything has a file of its own: all are there when there are no more than a while ago.
        if totals.len() > 1 && before.as_ref() == Some(&totals) {
            for dump in dumps {
                drop(fs::remove_file(dump));
            }
            return totals.into_iter().fold(0.0, f64::max);
        }
        before = Some(totals);
        assert!(Instant::now() < deadline, "callgrind has written no counts");
        std::thread::sleep(Duration::from_millis(200));
    }
}
