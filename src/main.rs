//! The program: arguments, `--check`, logging and exit codes. Everything else is the library.
//!
//! Exits with 0 after a clean stop, 2 where the command line, a variable or the file cannot be used, else as
//! [`crema::app::run`] says.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use crema::config::{self, Flags, LogFormat};
use tracing_subscriber::EnvFilter;

/// Many small, short-lived buffers on several threads are what it is good at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code for what only a change of settings can mend; clap uses the same.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let check = flags.check;
    let config = match config::load(flags) {
        Ok(config) => config,
        Err(error) => return refuse(&error.to_string()),
    };
    let level = match level() {
        Ok(level) => level,
        Err(reason) => return refuse(&reason),
    };
    if check {
        // Whoever closed standard output has no use for the summary: the exit code still tells.
        let _ = write!(io::stdout(), "configuration is valid\n{config}");
        return ExitCode::SUCCESS;
    }
    start_log(config.log_format, level);
    crema::app::run(config)
}

fn refuse(reason: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "crema: {reason}");
    ExitCode::from(UNUSABLE)
}

/// What `RUST_LOG` asks for, `info` where it is silent.
fn level() -> Result<EnvFilter, String> {
    let directives = env::var("RUST_LOG").unwrap_or_default();
    if directives.trim().is_empty() {
        return Ok(EnvFilter::new("info"));
    }
    EnvFilter::try_new(&directives).map_err(|error| format!("RUST_LOG: {error}; write for example info or crema=debug"))
}

/// Logs to standard error, so that standard output holds nothing but what was asked for.
fn start_log(format: LogFormat, level: EnvFilter) {
    let log = tracing_subscriber::fmt().with_env_filter(level).with_writer(io::stderr);
    match format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => {
            let colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
            log.with_ansi(colours).init();
        }
    }
}
