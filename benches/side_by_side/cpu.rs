//! What a process has spent so far: processor time, user and system together, and memory. From `/proc`, and so on Linux alone.

use std::fs;
use std::time::Duration;

use rustix::thread::{CpuSet, Pid, sched_setaffinity};

/// Processor time of all threads of a process, user and system.
///
/// `/proc/PID/stat` counts in ticks of 10 ms. `schedstat` of each thread holds the very sum that those ticks are rounded
/// from, in nanoseconds; where the kernel keeps none, the ticks have to do.
pub(crate) fn spent(pid: u32) -> Duration {
    nanoseconds(pid).unwrap_or_else(|| ticks(pid))
}

fn nanoseconds(pid: u32) -> Option<Duration> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let line = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        sum += line.split(' ').next()?.parse::<u64>().ok()?;
    }
    (sum > 0).then(|| Duration::from_nanos(sum))
}

fn ticks(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The second field is the name in parentheses, which may hold anything; utime and stime are fields 14 and 15.
    let fields = stat.rsplit(')').next().expect("a name in parentheses").split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a number of ticks")).sum();
    Duration::from_millis(ticks * 10)
}

/// Where the threads of a process may run.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Cores {
    /// On the first core: the process that is measured.
    First,
    /// On all others: whoever asks it, and the Redis behind it.
    Others,
    All,
}

/// Keeps the process that is measured apart from those that it works with. Left to the scheduler, they share a core in one
/// round and not in the next, and what a request costs differs by half, because requests then come in other batches.
/// Without a second core nothing is changed.
pub(crate) fn place(pid: u32, cores: Cores) {
    let count = cores_of_machine();
    if count < 2 {
        return;
    }
    let mut set = CpuSet::new();
    for core in 0..count {
        if cores == Cores::All || (core == 0) == (cores == Cores::First) {
            set.set(core);
        }
    }
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let id = thread.file_name().to_str().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
        // A thread that has just ended need not be placed.
        let _ = sched_setaffinity(id, &set);
    }
}

/// All of them, whichever this process may use.
pub(crate) fn cores_of_machine() -> usize {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines().filter(|line| line.starts_with("processor")).count()
}

/// Bytes of memory that a process has to itself: what would be free without it.
pub(crate) fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let kib = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of every process");
        line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    };
    kib("RssAnon:") * 1024
}
