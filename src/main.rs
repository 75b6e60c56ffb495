//! The program: arguments, `--check`, `--hash-password`, `healthcheck` and exit codes. Everything else is the library.
//!
//! Exits with 0 after a clean stop, 2 where the command line, a variable or the file cannot be used, 1 where a health check finds no
//! crema that is ready, else as [`crema::app::run`] says.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use crema::config::{Config, Flags, Reading, Task};

/// Many small, short-lived buffers on several threads are what it is good at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code for what only a change of settings can mend; clap uses the same.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.hash_password {
        return hash_password();
    }
    let (check, task) = (flags.check, flags.task);
    let reading = match Reading::of(flags.clone()) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(&error.to_string()),
    };
    let level = match crema::log::level(reading.config.log_level.as_ref()) {
        Ok(level) => level,
        Err(reason) => return refuse(&reason),
    };
    if check {
        // Whoever closed standard output has no use for the summary: the exit code still tells.
        let _ = write!(io::stdout(), "configuration is valid\n{}", reading.sources);
        return ExitCode::SUCCESS;
    }
    if task == Some(Task::Healthcheck) {
        return healthcheck(&reading.config);
    }
    crema::log::start(reading.config.log_format, &level);
    crema::app::run(flags, reading)
}

/// Asks the crema with these settings whether it is ready.
fn healthcheck(config: &Config) -> ExitCode {
    let Some(admin) = config.admin else { return refuse("there is nobody to ask: admin is off") };
    // The exit code tells those who read no output.
    match crema::app::readiness(admin) {
        Ok(said) => {
            let _ = writeln!(io::stdout(), "{said}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            let _ = writeln!(io::stderr(), "not ready: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the hash of the password on the first line of standard input.
fn hash_password() -> ExitCode {
    let mut line = String::new();
    if let Err(error) = io::stdin().read_line(&mut line) {
        return refuse(&format!("the password cannot be read: {error}"));
    }
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return refuse("an empty password lets anybody in; write one on a line of standard input");
    }
    match writeln!(io::stdout(), "{}", password_auth::generate_hash(password)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&format!("the hash cannot be written: {error}")),
    }
}

fn refuse(reason: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "crema: {reason}");
    ExitCode::from(UNUSABLE)
}
