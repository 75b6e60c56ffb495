//! The log on standard error: its form, its level, and what becomes of warnings that repeat.
//!
//! Owns the subscriber of the process. A warning or an error that was written is not written again for `WINDOW`; once that
//! is over, one line tells how often it came. Also no one place writes more than `MOST` different ones in that time: an
//! outage or a thousand refused users fill no disk. Lines of lower levels are never folded. Started by `main`; `app` calls
//! [`tell_folded`] once a second.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::Hash;
use std::io::{self, IsTerminal};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;

/// How long a line that was written is not written again.
const WINDOW: Duration = Duration::from_secs(10);
/// Different lines that one place in the sources may write in that time.
const MOST: usize = 10;
/// Of a line no more than so many bytes are compared and kept.
const LONGEST: usize = 512;
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

static FOLD: LazyLock<Mutex<Fold<Identifier>>> = LazyLock::new(Mutex::default);

/// What `RUST_LOG` asks for; where it names no level for all, that is `info`. A word that is neither a level nor a part of
/// crema would silence nothing and raise nothing, and is refused.
pub fn level(directives: &str) -> Result<EnvFilter, String> {
    for word in directives.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let level =
            LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level)) || word.parse::<u8>().is_ok_and(|n| n < 6);
        let part = word.contains(['=', '[', '{']) || word == "crema" || word.starts_with("crema::");
        if !level && !part {
            let levels = LEVELS.join(", ");
            return Err(format!("RUST_LOG: `{word}` is no level; write one of {levels}, or for example crema=debug"));
        }
    }
    EnvFilter::try_new(format!("info,{directives}"))
        .map_err(|error| format!("RUST_LOG: {error}; write for example info or crema=debug"))
}

/// Logs to standard error from here on, so that standard output holds nothing but what was asked for.
pub fn start(format: LogFormat, level: EnvFilter) {
    let log = tracing_subscriber::fmt().with_env_filter(level).with_writer(io::stderr);
    match format {
        LogFormat::Json => log.json().flatten_event(true).map_event_format(Folding).init(),
        LogFormat::Text => {
            let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            log.with_ansi(colours).map_event_format(Folding).init();
        }
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

    #[test]
    fn a_word_that_means_nothing_is_refused() {
        for good in
            ["", "info", "WARN", "3", "crema=debug", "crema", "info,hyper=trace", "crema[span]=debug", " debug "]
        {
            assert!(level(good).is_ok(), "{good}");
        }
        for bad in ["verbose", "info,verbose", "debg", "crema=loudly", "7"] {
            let reason = level(bad).expect_err(bad);
            assert!(reason.starts_with("RUST_LOG: "), "{reason}");
        }
    }

    #[test]
    fn where_no_level_is_named_for_all_it_is_info() {
        let shown = |directives| level(directives).expect("good").to_string();
        assert!(shown("hyper=debug").contains("info"));
        assert!(shown("crema=debug").contains("info"));
        assert_eq!(shown("warn"), "warn");
        assert_eq!(shown("off"), "off");
    }
}
