//! What the system says of the process, under the names that Prometheus's own clients use for it (`process_*`).
//!
//! Read from `/proc` when somebody scrapes, never before. Where there is no `/proc` nothing is shown, rather than zeros.

use std::fmt::{self, Write as _};
use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// What one look found.
#[derive(Debug, PartialEq)]
struct ProcStat {
    cpu_seconds: f64,
    start_seconds: f64,
    resident: u64,
    virtual_size: u64,
    threads: u64,
    open: u64,
    most: Option<u64>,
}

/// Appends what there is.
pub(super) fn write(text: &mut String) {
    if let Some(look) = look() {
        write_look(text, &look).expect("a String takes all that is written to it");
    }
}

fn look() -> Option<ProcStat> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot = system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
    // The handle that lists the others is listed too.
    let open = (fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1);
    let most = getrlimit(Resource::Nofile).current;
    read(&stat, boot, clock_ticks_per_second(), page_size() as u64, (open, most))
}

/// Reads `/proc/self/stat` (proc(5)): the name in parentheses may hold anything, so fields are counted from behind it.
fn read(stat: &str, boot: u64, ticks: u64, page: u64, (open, most): (u64, Option<u64>)) -> Option<ProcStat> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // The first behind the name is the third of all.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let seconds = |number: usize| Some(as_f64(field(number)?) / as_f64(ticks));
    Some(ProcStat {
        cpu_seconds: seconds(14)? + seconds(15)?,
        start_seconds: as_f64(boot) + seconds(22)?,
        threads: field(20)?,
        virtual_size: field(23)?,
        resident: field(24)? * page,
        open,
        most,
    })
}

fn write_look(text: &mut String, look: &ProcStat) -> fmt::Result {
    let mut row = |name: &str, kind: &str, about: &str, value: &dyn fmt::Display| {
        writeln!(text, "# HELP {name} {about}\n# TYPE {name} {kind}\n{name} {value}\n")
    };
    row("process_cpu_seconds_total", "counter", "Processor time used, in seconds.", &look.cpu_seconds)?;
    let about = "When the process started, in seconds since 1970.";
    row("process_start_time_seconds", "gauge", about, &look.start_seconds)?;
    row("process_resident_memory_bytes", "gauge", "Memory in use, in bytes.", &look.resident)?;
    row("process_virtual_memory_bytes", "gauge", "Address space taken, in bytes.", &look.virtual_size)?;
    row("process_threads", "gauge", "Threads.", &look.threads)?;
    row("process_open_fds", "gauge", "Files and sockets open.", &look.open)?;
    match look.most {
        Some(most) => row("process_max_fds", "gauge", "Files and sockets that may be open.", &most),
        None => Ok(()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_behind_a_name_that_may_hold_anything() {
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 300 4096 7 18446744073709551615 1 1";
        let look = read(stat, 1_000, 100, 4096, (5, None)).expect("all fields are there");
        assert_eq!((look.cpu_seconds, look.start_seconds), (3.0, 1_003.0));
        assert_eq!((look.threads, look.virtual_size, look.resident), (9, 4096, 7 * 4096));
        assert_eq!(read("42 (short) S 1 2", 1_000, 100, 4096, (5, None)), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_seen() {
        let mut text = String::new();
        write(&mut text);
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_else(|| panic!("{name}: {text}"))
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_open_fds") >= 3.0 && value("process_threads") >= 1.0);
        assert!(value("process_start_time_seconds") > 1_000_000_000.0);
    }
}
