//! The dashboard, in a browser: with traffic behind it, by day, by night, on a telephone and by keyboard (`tests/clients/dashboard.js`).
//!
//! `make test` installs Chromium and what drives it. Without them the test says so and passes on a developer's machine; where `CI` is
//! set, it fails.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::top;
use common::{Crema, Redis, bulk, eventually, is_installed, ok};

const TOKEN: &str = "only for the test: ä";

/// Reads a few keys much and many a little, writes some, and says when memory answers.
fn traffic(crema: &Crema, until: &AtomicBool) {
    let mut client = crema.client();
    for n in 0..40 {
        assert_eq!(client.cmd(&["SET", &format!("user:{n}:name"), &"v".repeat(10 << (n % 12))]), ok());
    }
    let mut turn = 0;
    while !until.load(Ordering::Relaxed) {
        turn += 1;
        let n = if turn % 3 == 0 { turn % 40 } else { turn % 4 };
        client.cmd(&["GET", &format!("user:{n}:name")]);
        if turn % 50 == 0 {
            client.cmd(&["INCR", "counter"]);
            thread::sleep(std::time::Duration::from_millis(5)); // the browser needs the processor too
        }
    }
}

#[test]
fn it_shows_what_is_there_to_everybody() {
    let modules = top().join("target/clients/node_modules");
    let is_there = is_installed("chromium") && is_installed("node");
    if !is_there || !modules.join("axe-core").exists() {
        assert!(std::env::var_os("CI").is_none(), "axe-core is missing; `make test` installs it");
        return eprintln!("skipped: axe-core is missing; `make test` installs it");
    }
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).flag("--admin-token", TOKEN).start();
    let pictures = top().join("target/dashboard");
    std::fs::create_dir_all(&pictures).expect("our own directory");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| traffic(&crema, &done));
        let _over = Over(&done);
        eventually("memory answers", || crema.count("crema_requests_total", &[("outcome", "hit")]) > 100);
        let browser = judge(&crema, &pictures, &modules);
        let output = browser.expect("node starts");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    });
    assert_eq!(crema.client().cmd(&["GET", "user:0:name"]), bulk("v".repeat(10)), "what is explained is not changed");
}

/// Ends the traffic, whatever becomes of the judge.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn judge(crema: &Crema, pictures: &Path, modules: &Path) -> std::io::Result<std::process::Output> {
    Command::new("timeout")
        .args(["240", "node", "tests/clients/dashboard.js"])
        .arg(format!("http://127.0.0.1:{}/", crema.admin_port()))
        .arg(pictures)
        .args([TOKEN, "user:0:name"])
        .env("NODE_PATH", modules)
        .current_dir(top())
        .output()
}
