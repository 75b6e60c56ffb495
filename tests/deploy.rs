//! What `make run-cluster` and `make run-sentinel` start: a group of servers with crema in front, which serves, and of which
//! nothing is left at the end.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use common::redis::{free_port, loopback};
use common::{Client, bulk, ok};
use rustix::process::{Pid, Signal, kill_process};

/// The program, and the directory in which it keeps all.
struct Group {
    child: Child,
    port: u16,
    temporary: tempfile::TempDir,
    out: BufReader<ChildStdout>,
}

impl Group {
    fn start(kind: &str) -> Group {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let mut child = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/group"))
            .args([kind, env!("CARGO_BIN_EXE_crema"), &port.to_string(), &free_port().to_string()])
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash is there");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        while !line.starts_with("crema listens on port ") {
            line.clear();
            assert!(out.read_line(&mut line).expect("it speaks") > 0, "it ends: {:?}", child.wait());
        }
        Group { child, port, temporary, out }
    }

    fn client(&self) -> Client {
        Client::connect(loopback(self.port))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, Signal::TERM).expect("our own child");
        self.child.wait().expect("our own child");
        // All that it started has closed its output by then.
        let mut rest = String::new();
        while self.out.read_line(&mut rest).is_ok_and(|len| len > 0) {}
        let left = fs::read_dir(self.temporary.path()).expect("our own directory").count();
        assert!(left == 0 || std::thread::panicking(), "{left} files are left");
    }
}

#[test]
fn a_cluster_with_crema_in_front_serves() {
    let group = Group::start("cluster");
    let mut client = group.client();
    for n in 0..30 {
        assert_eq!(client.cmd(&["SET", &format!("key:{n}"), "v"]), ok());
    }
    for n in 0..30 {
        assert_eq!(client.cmd(&["GET", &format!("key:{n}")]), bulk("v"));
    }
}

#[test]
fn a_master_under_sentinels_with_crema_in_front_serves() {
    let group = Group::start("sentinel");
    let mut client = group.client();
    assert_eq!(client.cmd(&["SET", "key", "v"]), ok());
    assert_eq!(client.cmd(&["GET", "key"]), bulk("v"));
}
