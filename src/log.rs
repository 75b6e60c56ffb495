//! The log on standard error: its form, its level, and what becomes of warnings that repeat.
//!
//! Owns the subscriber of the process. A warning or an error that was written is not written again for `WINDOW`; once that
//! is over, one line tells how often it came. Also no one place writes more than `MOST` different ones in that time: an
//! outage or a thousand refused users fill no disk. Lines of lower levels are never folded. Started by `main`; `app` calls
//! [`tell_folded`] once a second.

use std::collections::HashMap;
use std::env;
use std::fmt::{self, Write as _};
use std::hash::Hash;
use std::io::{self, IsTerminal};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::Handle;

use crate::config::{LogFormat, LogLevel};

/// How long a line that was written is not written again.
const WINDOW: Duration = Duration::from_secs(10);
/// Different lines that one place in the sources may write in that time.
const MOST: usize = 10;
/// Of a line no more than so many bytes are compared and kept.
const LONGEST: usize = 512;

static FOLD: LazyLock<Mutex<Fold<Identifier>>> = LazyLock::new(Mutex::default);

/// Changes what the log tells.
type SetFilter = Box<dyn Fn(EnvFilter) + Send + Sync>;

static SET_FILTER: OnceLock<SetFilter> = OnceLock::new();

/// What is logged from: `level`, or else what `RUST_LOG` says.
pub fn level(level: Option<&LogLevel>) -> Result<LogLevel, String> {
    match level {
        Some(level) => Ok(level.clone()),
        None => env::var("RUST_LOG").unwrap_or_default().parse().map_err(|wrong| format!("RUST_LOG: {wrong}")),
    }
}

/// Logs to standard error from here on, so that standard output holds nothing but what was asked for.
pub fn start(format: LogFormat, level: &LogLevel) {
    let log = tracing_subscriber::fmt().with_env_filter(level.filter()).with_writer(io::stderr);
    match format {
        LogFormat::Json => {
            let log = log.json().flatten_event(true).map_event_format(Folding).with_filter_reloading();
            keep(log.reload_handle());
            log.init();
        }
        LogFormat::Text => {
            let colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
            let log = log.with_ansi(colours).map_event_format(Folding).with_filter_reloading();
            keep(log.reload_handle());
            log.init();
        }
    }
}

fn keep<S: 'static>(handle: Handle<EnvFilter, S>) {
    // An error: the subscriber is gone, and nobody logs.
    let set: SetFilter = Box::new(move |filter| _ = handle.reload(filter));
    _ = SET_FILTER.set(set); // one subscriber for the process
}

/// Tells what is of this level or above from now on. Nothing where no log was started.
pub fn set_level(level: &LogLevel) {
    if let Some(set) = SET_FILTER.get() {
        set(level.filter());
    }
}

/// Writes how often lines came again that were not written; with `all`, also of those whose time is not over.
pub fn tell_folded(all: bool) {
    let told = FOLD.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now(), all);
    for Told { times, line, alike } in told {
        let seconds = WINDOW.as_secs();
        if alike {
            warn!(times, "{times} more lines like this one in {seconds} s: {line}");
        } else {
            warn!(times, "came {times} more times in {seconds} s: {line}");
        }
    }
}

/// Writes events as `F` does, but for those that are folded.
struct Folding<F>(F);

impl<S, N, F> FormatEvent<S, N> for Folding<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        if *metadata.level() <= Level::WARN && metadata.target() != module_path!() {
            let mut line = Line(String::new());
            event.record(&mut line);
            let mut fold = FOLD.lock().unwrap_or_else(PoisonError::into_inner);
            if !fold.admits(metadata.callsite(), line.0, Instant::now()) {
                return Ok(());
            }
        }
        self.0.format_event(ctx, writer, event)
    }
}

/// An event's words and values, to be compared.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.0.len() < LONGEST {
            let _ = match field.name() {
                "message" => write!(self.0, "{value:?}"),
                name => write!(self.0, " {name}={value:?}"),
            };
            let end = (0..=LONGEST).rev().find(|&at| self.0.is_char_boundary(at)).unwrap_or_default();
            self.0.truncate(end);
        }
    }
}

/// What was written lately, by the place that wrote it. Its size is bounded by the number of such places.
struct Fold<Place> {
    places: HashMap<Place, Lately>,
}

struct Lately {
    since: Instant,
    /// Each line, and how often it came again.
    lines: Vec<(String, u64)>,
    /// Other lines that were not written.
    others: u64,
}

/// That a line came again, or others like it.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    times: u64,
    line: String,
    alike: bool,
}

impl<Place> Default for Fold<Place> {
    fn default() -> Self {
        Self { places: HashMap::new() }
    }
}

impl<Place: Eq + Hash> Fold<Place> {
    /// Whether a line is to be written.
    fn admits(&mut self, place: Place, line: String, now: Instant) -> bool {
        let lately = self.places.entry(place).or_insert_with(|| Lately { since: now, lines: Vec::new(), others: 0 });
        if let Some((_, again)) = lately.lines.iter_mut().find(|(known, _)| *known == line) {
            *again += 1;
            return false;
        }
        if lately.lines.len() >= MOST {
            lately.others += 1;
            return false;
        }
        lately.lines.push((line, 0));
        true
    }

    /// What came again where the time is over. What did is folded for as long again; what did not is forgotten.
    fn take(&mut self, now: Instant, all: bool) -> Vec<Told> {
        let mut told = Vec::new();
        self.places.retain(|_, lately| {
            if !all && now.saturating_duration_since(lately.since) < WINDOW {
                return true;
            }
            lately.since = now;
            if lately.others > 0
                && let Some((line, _)) = lately.lines.first()
            {
                told.push(Told { times: std::mem::take(&mut lately.others), line: line.clone(), alike: true });
            }
            lately.lines.retain_mut(|(line, again)| {
                let times = std::mem::take(again);
                if times > 0 {
                    told.push(Told { times, line: line.clone(), alike: false });
                }
                times > 0
            });
            !lately.lines.is_empty()
        });
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(times: u64, line: &str, alike: bool) -> Told {
        Told { times, line: line.to_owned(), alike }
    }

    #[test]
    fn a_line_is_written_once_and_then_counted() {
        let (mut fold, start) = (Fold::default(), Instant::now());
        assert!(fold.admits(1, "lost".to_owned(), start));
        for _ in 0..101 {
            assert!(!fold.admits(1, "lost".to_owned(), start));
        }
        assert!(fold.admits(2, "lost".to_owned(), start), "another place says it");
        assert_eq!(fold.take(start, false), []);
        assert_eq!(fold.take(start + WINDOW, false), [told(101, "lost", false)]);
        assert!(!fold.admits(1, "lost".to_owned(), start + WINDOW), "it goes on");
        assert_eq!(fold.take(start + WINDOW * 2, false), [told(1, "lost", false)]);
        assert_eq!(fold.take(start + WINDOW * 3, false), []);
        assert!(fold.admits(1, "lost".to_owned(), start + WINDOW * 3), "it had ended, and is back");
    }

    #[test]
    fn one_place_does_not_write_without_end() {
        let (mut fold, start) = (Fold::default(), Instant::now());
        let written = (0..1_000).filter(|n| fold.admits(1, format!("user {n}"), start)).count();
        assert_eq!(written, MOST);
        assert_eq!(fold.take(start, true), [told(1_000 - MOST as u64, "user 0", true)]);
        assert!(fold.places.is_empty());
    }
}
