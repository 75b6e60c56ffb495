//! Passwords for the upstream, as the settings give them: written there, or where they stand while they change.
//!
//! Pure text but for what stands in files, where `upstream/rotating` and `session` have it read anew.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fmt, fs};

use super::error::{ConfigError, Problem};
use super::raw::{Layers, key};
use super::units::{WORD_END, durations};
use super::url::Secret;

/// Longer passwords are none, in bytes.
pub const LONGEST_PASSWORD: usize = 64 << 10;

/// Where a password stands that may change while crema runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordOrigin {
    /// In this file, alone.
    File(PathBuf),
    /// This command prints it.
    Command {
        /// The program and its arguments; no shell reads them.
        words: Vec<String>,
        /// It is run so often.
        refresh: Duration,
    },
}

impl PasswordOrigin {
    /// For how long what was read is good.
    pub fn stays(&self) -> Duration {
        match self {
            Self::File(_) => Duration::ZERO,
            Self::Command { refresh, .. } => *refresh,
        }
    }

    /// The setting of the upstream's own user that says so.
    pub const fn setting(&self) -> &'static str {
        match self {
            Self::File(_) => "upstream_password_file",
            Self::Command { .. } => "upstream_password_command",
        }
    }
}

impl fmt::Display for PasswordOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Command { words, .. } => write!(f, "`{}`", words.join(" ")),
        }
    }
}

/// A password that crema gives to the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamPassword {
    /// It stays as it was written.
    Fixed(Secret),
    /// It is read anew.
    Changes(PasswordOrigin),
}

/// Where the password of the user in `upstream` stands, if it changes.
pub(super) fn read_own(layers: &Layers) -> Result<Option<PasswordOrigin>, ConfigError> {
    let given = |text: &str, is_good: fn(&str) -> Result<(), Problem>| match text {
        "off" => Ok(None),
        text => is_good(text).map(|()| Some(text.to_owned())),
    };
    let file = layers.read(key!(upstream_password_file), "off", |text| given(text, check_file))?;
    let command = layers.read(key!(upstream_password_command), "off", |text| given(text, check_command))?;
    let refresh = read_refresh(layers)?;
    origin(file, command, refresh)
        .map_err(|problem| layers.refuse(&[key!(upstream_password_file), key!(upstream_password_command)], problem))
}

/// How often commands are run.
pub(super) fn read_refresh(layers: &Layers) -> Result<Duration, ConfigError> {
    let bounds = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);
    layers.read(key!(upstream_password_refresh), "5m", durations(bounds))
}

/// The words of a command.
fn words(command: &str) -> Vec<String> {
    match command.strip_suffix(WORD_END) {
        Some(list) => list.split(WORD_END).map(str::to_owned).collect(),
        None => command.split_whitespace().map(str::to_owned).collect(),
    }
}

/// What stands in a file that holds a password: all of it, or why that cannot be. Waits for the file, and for nothing else: a
/// pipe is none, for whoever opens one waits, perhaps for ever.
pub fn read_password_file(path: &Path) -> Result<Vec<u8>, String> {
    let most = LONGEST_PASSWORD as u64;
    if !fs::metadata(path).map_err(|error| error.to_string())?.is_file() {
        return Err("not a file".to_owned());
    }
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    if bytes.len() > LONGEST_PASSWORD { Err("longer than 64KiB".to_owned()) } else { Ok(bytes) }
}

/// Whether the file can be read now.
pub(super) fn check_file(path: &str) -> Result<(), Problem> {
    let read = read_password_file(Path::new(path)).map(drop);
    read.map_err(|why| Problem::new(format!("{path}: {why}"), "give a file that crema can read"))
}

/// Whether the program is there now.
pub(super) fn check_command(command: &str) -> Result<(), Problem> {
    let words = words(command);
    let program = words.first().map(String::as_str).unwrap_or_default();
    let in_path = || env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(program).is_file());
    if !program.is_empty() && if program.contains('/') { Path::new(program).is_file() } else { in_path() } {
        return Ok(());
    }
    Err(Problem::new(format!("there is no program `{program}`"), "write a program that there is, and its arguments"))
}

/// One of the two, if any.
pub(super) fn origin(
    file: Option<String>,
    command: Option<String>,
    refresh: Duration,
) -> Result<Option<PasswordOrigin>, Problem> {
    match (file, command) {
        (None, None) => Ok(None),
        (Some(path), None) => Ok(Some(PasswordOrigin::File(path.into()))),
        (None, Some(command)) => Ok(Some(PasswordOrigin::Command { words: words(&command), refresh })),
        (Some(_), Some(_)) => Err(Problem::new(
            "a file and a command give the same password",
            "write one of upstream_password_file and upstream_password_command",
        )),
    }
}
