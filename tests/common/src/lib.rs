//! What every integration test stands on: real servers, a proxy in front of them, and raw clients.
//!
//! Owns the processes (each in its own directory and on its own port, killed on drop), the controllable [`Link`]
//! between proxy and Redis, and a RESP client written anew, so that a mistake in the proxy's codec cannot hide in the
//! test of it. Knows the proxy from outside only: its flags, its sockets and its admin pages.
//!
//! Reading order: [`redis`], [`cluster`] (over [`bus`]), [`sentinel`], [`proxy`], [`link`], [`relay`], [`memcached`], [`tls`], [`http`], [`services`], [`client`] (over [`value`]), [`writer`], [`differs`], [`judge`], [`ledger`], [`page`], [`succession`].
//!
//! With `CREMA_TEST_DIRECT=1` the [`Crema`] launcher hands out the address of the server itself. Whatever fails then is
//! a fault of the test, not of the proxy, but for those about clusters, of which one node is no stand-in; what cannot be asked of a
//! bare Redis asks [`Crema::is_direct`] first. With
//! `CREMA_TEST_TLS=1` every proxy speaks TLS on both sides, and what the tests see of it is carried through. With
//! `CREMA_TEST_COHERENCE=channel` every proxy hears of changes that way: what fails then should be about changes made past it.
// Public for the tests alone: what says all in its name needs no more.
#![allow(missing_docs, clippy::len_without_is_empty, clippy::new_without_default, clippy::return_self_not_must_use)]

pub mod bus;
pub mod client;
pub mod cluster;
pub mod differs;
pub mod http;
pub mod judge;
pub mod ledger;
pub mod link;
pub mod memcached;
pub mod page;
pub mod proxy;
pub mod redis;
pub mod relay;
pub mod sentinel;
pub mod services;
pub mod succession;
pub mod tls;
pub mod value;
pub mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;

pub use client::{Client, pack};
pub use cluster::Cluster;
pub use link::Link;
pub use proxy::Crema;
pub use redis::Redis;
pub use value::{Value, array, bulk, int, ok, simple};
pub use writer::Writer;

/// The staleness bound that every proxy in these tests is started with.
pub const MAX_STALENESS: Duration = Duration::from_millis(500);

/// Worker threads of every proxy in these tests.
pub const WORKERS: u64 = 2;

/// How long what must happen may take. Nothing is proved by it but that it happens, so it is long enough for a machine that
/// does much else.
pub const AT_LAST: Duration = Duration::from_secs(30);

/// Where the sources are.
pub fn top() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The crema that is tested. Cargo builds it before any test, and puts it one directory above the tests.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the system knows what it runs");
    let program = test.parent().and_then(Path::parent).expect("target/PROFILE/deps").join("crema");
    assert!(program.exists(), "{} is missing: is `build.build-dir` set apart?", program.display());
    program
}

/// Whether a program is on the path. Without it a test says so and passes on a developer's machine; where `CI` is set, it fails.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    assert!(found || std::env::var_os("CI").is_none(), "{program} is missing; `make test` installs it");
    if !found {
        eprintln!("skipped: {program} is missing; `make test` installs it");
    }
    found
}

/// Polls until `check` holds, and fails the test when it does not within [`AT_LAST`].
#[track_caller]
pub fn eventually(what: &str, check: impl FnMut() -> bool) {
    within(AT_LAST, what, check);
}

/// Polls until `check` holds, and fails the test when it does not within `limit`.
#[track_caller]
pub fn within(limit: Duration, what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !check() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A generator whose seed is printed with a failing test; `CREMA_SEED` repeats a run.
pub fn seeded(name: &str) -> SmallRng {
    let seed = number_from_env("CREMA_SEED").unwrap_or_else(rand::random);
    eprintln!("{name}: CREMA_SEED={seed}");
    SmallRng::seed_from_u64(seed)
}

/// A whole number from the environment, for the few knobs that tests have.
pub fn number_from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Gives a file that crema looks at another text, in one step: a file that is half written is another one.
pub fn rewrite(path: &Path, text: &str) {
    let newer = path.with_extension("new");
    std::fs::write(&newer, text).expect("it can be written");
    std::fs::rename(&newer, path).expect("it is in its own directory");
}

/// Held by a test that measures memory or latency, so that it has its file's process for itself.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lifts the number of open files as far as the system lets us, and returns it. Children inherit it.
pub fn lift_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let lifted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // A refusal leaves the old limit, which the caller is then told.
    let _ = setrlimit(Resource::Nofile, lifted);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Resident memory of a process in bytes, as the kernel counts it.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a living process has VmRSS");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("VmRSS is in kB");
    kib * 1024
}

/// Ends the threads of a scope also where an assertion fails before it was their time.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
