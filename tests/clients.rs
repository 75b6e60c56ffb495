//! `REDIS_URL` swapped: the tools and client libraries that people use run unchanged, RESP2 and RESP3.
//!
//! `make test` installs what is needed: `redis-cli` and `redis-benchmark` with Redis, the Python environment and the Node
//! packages under `target/clients`. Without them a test says so and passes on a developer's machine; where `CI` is set,
//! it fails.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::tls::{Authority, path, secure_crema, secure_redis};
use common::{Cluster, Crema, Redis, WORKERS, lift_open_files};

/// A program in `tests/clients` and what runs it.
struct Program {
    interpreter: PathBuf,
    script: PathBuf,
}

#[test]
fn redis_py_runs_in_resp2() {
    smoke("redis_py.py", 2);
}

#[test]
fn redis_py_runs_in_resp3() {
    smoke("redis_py.py", 3);
}

#[test]
fn ioredis_runs_in_resp2() {
    smoke("ioredis.js", 2);
}

#[test]
fn ioredis_runs_in_resp3() {
    smoke("ioredis.js", 3);
}

#[test]
fn node_redis_runs_in_resp2() {
    smoke("node_redis.js", 2);
}

#[test]
fn node_redis_runs_in_resp3() {
    smoke("node_redis.js", 3);
}

#[test]
fn redis_py_runs_under_tls() {
    smoke_under_tls("redis_py.py");
}

#[test]
fn ioredis_runs_under_tls() {
    smoke_under_tls("ioredis.js");
}

#[test]
fn node_redis_runs_under_tls() {
    smoke_under_tls("node_redis.js");
}

#[test]
fn all_of_ioredis_does_the_same_in_resp2() {
    api("ioredis_api.js", 2);
}

#[test]
fn all_of_ioredis_does_the_same_in_resp3() {
    api("ioredis_api.js", 3);
}

#[test]
fn all_of_node_redis_does_the_same_in_resp2() {
    api("node_redis_api.js", 2);
}

#[test]
fn all_of_node_redis_does_the_same_in_resp3() {
    api("node_redis_api.js", 3);
}

#[test]
fn a_thousand_connections_of_redis_py_make_few_upstream() {
    thousand_connections("redis_py.py");
}

#[test]
fn a_thousand_connections_of_ioredis_make_few_upstream() {
    thousand_connections("ioredis.js");
}

#[test]
fn a_thousand_connections_of_node_redis_make_few_upstream() {
    thousand_connections("node_redis.js");
}

#[test]
fn redis_cli_runs() {
    let Some(cli) = tool("redis-cli") else { return };
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let port = crema.addr().port().to_string();
    let run = |args: &[&str], input: &str| {
        let mut child = Command::new(&cli)
            .args(["-p", &port])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("redis-cli runs");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("redis-cli reads");
        let Output { status, stdout, stderr } = child.wait_with_output().expect("redis-cli ends");
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "redis-cli {args:?}: {status}\n{stdout}\n{stderr}");
        stdout.into_owned()
    };
    assert_eq!(run(&["PING"], ""), "PONG\n");
    assert_eq!(run(&["SET", "k", "v"], ""), "OK\n");
    assert_eq!(run(&["-3", "HSET", "h", "f", "1"], ""), "1\n");
    assert_eq!(run(&["-3", "--json", "HGETALL", "h"], ""), "{\"f\":\"1\"}\n");
    assert_eq!(run(&[], "GET k\nMULTI\nINCR n\nEXEC\nSELECT 1\nGET k\n"), "v\nOK\nQUEUED\n1\nOK\n\n");
    assert_eq!(run(&["--eval", "/dev/stdin", "k", ",", "w"], "return redis.call('SET', KEYS[1], ARGV[1])"), "OK\n");
    assert_eq!(run(&["GET", "k"], ""), "w\n");
    let piped = (0..5_000).map(|n| format!("SET piped:{n} {n}\r\n")).collect::<Vec<_>>().concat();
    assert!(run(&["--pipe"], &piped).contains("errors: 0, replies: 5000"));
    assert_eq!(run(&["--scan", "--pattern", "piped:*"], "").lines().count(), 5_000);
    assert!(run(&["--bigkeys"], "").contains("Biggest string found"));
    assert!(run(&["INFO", "server"], "").contains("redis_version"));
    assert_eq!(run(&["DBSIZE"], ""), "5003\n");
}

#[test]
fn redis_benchmark_runs_all_its_tests() {
    let Some(benchmark) = tool("redis-benchmark") else { return };
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let port = crema.addr().port().to_string();
    for more in [&[][..], &["-P", "16"], &["-3"], &["-r", "1000", "--threads", "2"]] {
        let run = Command::new(&benchmark)
            .args(["-p", &port, "-n", "3000", "-c", "20", "-q"])
            .args(more)
            .output()
            .expect("redis-benchmark runs");
        let out = String::from_utf8_lossy(&run.stdout).replace('\r', "\n");
        assert!(run.status.success(), "{more:?}: {out}\n{}", String::from_utf8_lossy(&run.stderr));
        // Each of its tests ends with a line of its own.
        let ended = out.lines().filter(|line| line.contains("requests per second")).count();
        assert!(ended >= 19, "{more:?}: {ended} tests ended\n{out}");
        assert!(!out.contains("Error") && !out.contains("ERR"), "{more:?}: {out}");
    }
}

fn smoke(script: &str, protocol: u8) {
    let Some(program) = Program::find(script) else { return };
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    is_ok(program.command(&crema, protocol).arg("smoke"));
}

#[test]
fn programs_for_one_redis_run_on_a_cluster() {
    // With databases, where there is such a cluster.
    let plan = Cluster::valkey().map(|plan| plan.args(&["--cluster-databases", "16"]));
    let Some(plan) = plan else { return missing("valkey-server") };
    let cluster = plan.masters(3).start();
    on_cluster(&cluster, "standalone", "smoke", &["redis_py.py", "ioredis.js", "node_redis.js"], &[2, 3]);
    on_cluster(&cluster, "standalone", "smoke", &["phpredis.php", "redis_rb.rb"], &[2]);
}

#[test]
fn programs_for_a_cluster_run_on_a_cluster() {
    let cluster = Cluster::plan().masters(3).start();
    for view in ["standalone", "cluster"] {
        on_cluster(&cluster, view, "cluster", &["redis_py.py", "ioredis.js", "node_redis.js"], &[2, 3]);
        on_cluster(&cluster, view, "cluster", &["phpredis.php", "redis_rb.rb"], &[2]);
    }
}

/// Each program on an empty cluster, through crema.
fn on_cluster(cluster: &Cluster, view: &str, what: &str, scripts: &[&str], protocols: &[u8]) {
    let crema = cluster.crema().flag("--cluster-view", view).start();
    if crema.is_direct() {
        return;
    }
    for script in scripts {
        let Some(program) = Program::find(script) else { continue };
        for protocol in protocols {
            (0..cluster.len()).for_each(|n| drop(cluster.client(n).cmd(&["FLUSHALL"])));
            is_ok(program.command(&crema, *protocol).env("CLUSTER", "1").arg(what));
        }
    }
}

/// With the library's own TLS, and TLS to Redis as well.
fn smoke_under_tls(script: &str) {
    let Some(program) = Program::find(script) else { return };
    let authority = Authority::new();
    let own = authority.issue("server", &["localhost", "127.0.0.1"]);
    let (_redis, tls) = secure_redis(&authority, &own, &[]);
    let (_crema, addr) = secure_crema(&format!("rediss://{tls}?ca={}", path(&authority.ca())), &own, &[]);
    for protocol in [2, 3] {
        is_ok(program.command_at(addr, protocol).env("CA", authority.ca()).arg("smoke"));
    }
}

/// A program that compares what a library gets from crema with what it gets from a Redis.
fn api(script: &str, protocol: u8) {
    let Some(program) = Program::find(script) else { return };
    let (direct, behind) = (Redis::start(), Redis::start());
    let crema = Crema::start(&behind);
    is_ok(program.command(&crema, protocol).arg(direct.port().to_string()));
}

fn is_ok(program: &mut Command) {
    let run = program.output().expect("it runs");
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && out == "ok\n", "{program:?}: {}\n{out}\n{err}", run.status);
}

/// Each library's own greeting, whatever it is, in its default protocol and the other.
fn thousand_connections(script: &str) {
    lift_open_files();
    let Some(program) = Program::find(script) else { return };
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    for protocol in [3, 2] {
        let mut child = program
            .command(&crema, protocol)
            .args(["connections", "1000"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("it speaks");
        let list = redis.client_list();
        drop(child.stdin.take());
        assert!(child.wait().expect("it ends").success() && line == "ready\n", "{script}: {line}");
        let most = if crema.is_direct() { 1_000 } else { usize::try_from(3 * WORKERS + 4).expect("small") };
        assert!(list.len() <= most, "{script}: {} upstream connections:\n{}", list.len(), list[..=most].join("\n"));
    }
}

impl Program {
    fn find(script: &str) -> Option<Program> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let extension = Path::new(script).extension().and_then(|extension| extension.to_str());
        let script_itself = root.join("tests/clients").join(script);
        let (interpreter, needs) = match extension {
            Some("py") => {
                let python = root.join("target/clients/venv/bin/python");
                (Some(python.clone()), python)
            }
            Some("php") => (tool("php"), script_itself),
            Some("rb") => (tool("ruby"), script_itself),
            _ => (tool("node"), root.join("target/clients/node_modules/ioredis")),
        };
        if !needs.exists() {
            missing(&needs.display().to_string());
            return None;
        }
        Some(Program { interpreter: interpreter?, script: root.join("tests/clients").join(script) })
    }

    fn command(&self, crema: &Crema, protocol: u8) -> Command {
        self.command_at(crema.addr(), protocol)
    }

    fn command_at(&self, addr: SocketAddr, protocol: u8) -> Command {
        let mut command = Command::new(&self.interpreter);
        command.arg(&self.script).arg(addr.port().to_string()).arg(protocol.to_string());
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("NODE_PATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/node_modules"));
        command
    }
}

/// A program on the path.
fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        missing(name);
    }
    found
}

fn missing(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what} is missing; `make test` installs it");
    eprintln!("skipped: {what} is missing; `make test` installs it");
}
