//! What stands under `deploy`: what `make run-cluster` and `make run-sentinel` start, a group of servers with crema in front, which serves, and of which
//! nothing is left at the end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use common::redis::{free_port, loopback};
use common::{Client, bulk, is_installed, ok};
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

/// The files under `deploy` with this end.
fn files(directory: &str, end: &str) -> Vec<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(directory);
    let entries = fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry").path());
    let files: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().ends_with(end)).collect();
    assert!(!files.is_empty(), "deploy/{directory}/*{end}");
    files
}

/// Units that systemd takes without a word, and that leave a service little it could do to a system.
#[test]
fn units_are_good() {
    if !is_installed("systemd-analyze") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let unit = directory.join("crema.service");
    let text = fs::read_to_string(&files("systemd", ".service")[0]).expect("text");
    fs::write(&unit, text.replace("ExecStart=crema ", &format!("ExecStart={} ", env!("CARGO_BIN_EXE_crema"))))
        .expect("our own directory");
    let drop_in = fs::read_to_string(&files("systemd", "application.conf")[0]).expect("text");
    let application = directory.join("application.service");
    fs::write(&application, format!("{drop_in}ExecStart=/bin/true\n")).expect("our own directory");
    for unit in [&unit, &application] {
        let output =
            Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(unit).output().expect("it is there");
        let said = String::from_utf8_lossy(&output.stderr);
        // Units of the machine are read as well.
        let ours: Vec<&str> =
            said.lines().filter(|line| line.contains("crema") || line.contains("application")).collect();
        assert!(output.status.success() && ours.is_empty(), "{said}");
    }
    let mut exposure = Command::new("systemd-analyze");
    exposure.args(["security", "--offline=true", "--threshold=20"]).arg(&unit);
    let output = exposure.output().expect("it is there");
    assert!(output.status.success(), "exposed more than 2.0 of 10:\n{}", String::from_utf8_lossy(&output.stdout));
}

/// Documents that Kubernetes takes, by its own schemas: of the oldest version that they are for, and of a late one.
#[test]
fn manifests_are_good() {
    let Some(validate) = installed("kubernetes-validate") else { return };
    for version in ["1.30", "1.37"] {
        let mut command = Command::new(&validate);
        let output = command.args(["--strict", "-k", version]).args(files("kubernetes", ".yaml")).output();
        let output = output.expect("it is there");
        assert!(output.status.success(), "{version}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// What manifests and compose files give crema, as JSON: a line for each container that is called so, with `args` and `env`.
const CONTAINERS: &str = "
import json, shlex, sys, yaml
for path in sys.argv[1:]:
    for document in yaml.safe_load_all(open(path)):
        spec = document.get('spec', {}).get('template', {}).get('spec', {})
        found = [c for c in spec.get('initContainers', []) + spec.get('containers', []) if c['name'] == 'crema']
        found += [{'args': shlex.split(service['command'])} for name, service in document.get('services', {}).items() if name == 'crema']
        for c in found:
            env = {e['name']: e['value'] for e in c.get('env', [])}
            print(json.dumps({'path': path, 'args': c['args'], 'env': env}))
";

#[test]
fn what_containers_are_started_with_are_good_settings() {
    let Some(python) = installed("python") else { return };
    let all = [files("kubernetes", ".yaml"), files("", ".yml")].concat();
    let output = Command::new(python).args(["-c", CONTAINERS]).args(&all).output().expect("it is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut count = 0;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let container: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let mut crema = Command::new(env!("CARGO_BIN_EXE_crema"));
        // As the image has it.
        crema.env_clear().envs([("CREMA_LISTEN", "0.0.0.0:6380"), ("CREMA_ADMIN", "0.0.0.0:9380")]);
        let words = container["args"].as_array().expect("a list").iter().map(|word| word.as_str().expect("text"));
        let variables = container["env"].as_object().expect("variables");
        crema.envs(variables.iter().map(|(name, value)| (name, value.as_str().expect("text"))));
        let output = crema.args(words).arg("--check").output().expect("the program");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        count += 1;
    }
    assert!(count >= all.len(), "{count} containers in {all:?}");
}

/// A Dockerfile without what its linter knows to be a mistake, of a stage that has this version and next to nothing else. `make dist` runs
/// what it describes.
#[test]
fn the_image_is_of_scratch_and_of_this_version() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile")).expect("text");
    let (_, image) = text.rsplit_once("\nFROM ").expect("stages");
    assert!(image.starts_with("scratch\n"), "{image}");
    let version = format!("image.version=\"{}\"", env!("CARGO_PKG_VERSION"));
    for told in [&*version, "image.licenses=", "\nUSER 65532:65532\n", "\nHEALTHCHECK ", "\nSTOPSIGNAL SIGTERM\n"] {
        assert!(image.contains(told), "{told} is not in the last stage");
    }
    let Some(hadolint) = installed("hadolint") else { return };
    let output = Command::new(hadolint).arg("Dockerfile").current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.expect("it is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// A program that `make test` installs with Python's packages.
fn installed(program: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/venv/bin").join(program);
    if path.exists() && path.with_file_name("kubernetes-validate").exists() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "{program} is missing; `make test` installs it");
    eprintln!("skipped: {program} is missing; `make test` installs it");
    None
}
