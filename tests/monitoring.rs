//! What others' monitoring is given of crema: the scrape settings, the alarms, and the dashboard for Grafana, each by a real Prometheus.
//!
//! `make test` installs Prometheus. Without it a test says so and passes on a developer's machine; where `CI` is set, it fails.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use common::page::Page;
use common::redis::{free_port, loopback};
use common::top;
use common::{AT_LAST, Crema, Redis, eventually};

/// Runs promtool; `None` where it is missing.
fn promtool(arguments: &[&str]) -> Option<()> {
    let Ok(output) = Command::new("promtool").args(arguments).current_dir(top()).output() else {
        assert!(std::env::var_os("CI").is_none(), "promtool is missing; `make test` installs it");
        eprintln!("skipped: promtool is missing; `make test` installs it");
        return None;
    };
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    Some(())
}

#[test]
fn the_settings_for_a_scrape_are_good() {
    promtool(&["check", "config", "config/prometheus.yml"]);
}

/// When each alarm is raised, and when it is not, its own file of tests says.
#[test]
fn alarms_are_raised_in_time() {
    promtool(&["test", "rules", "deploy/prometheus/alerts.test.yml"]);
    let [alarms, tests] =
        ["alerts.yml", "alerts.test.yml"].map(|name| Page::read(&format!("deploy/prometheus/{name}")).text);
    let names = |text: &str, before: &str| -> BTreeSet<String> {
        text.lines().filter_map(|line| line.trim().strip_prefix(before)).map(str::to_owned).collect()
    };
    let known = names(&alarms, "- alert: ");
    assert!(known.len() > 5);
    assert_eq!(known, names(&tests, "alertname: "), "left: the alarms; right: those that are tried");
}

/// A Prometheus that asks one crema five times a second.
struct Prometheus {
    child: Child,
    at: SocketAddr,
    _directory: TempDir,
}

impl Prometheus {
    fn watching(crema: &Crema) -> Option<Prometheus> {
        let directory = tempfile::tempdir().expect("a directory");
        let config = directory.path().join("prometheus.yml");
        let target = format!("127.0.0.1:{}", crema.admin_port());
        let text = format!(
            "global: {{ scrape_interval: 200ms }}\nscrape_configs:\n  - job_name: crema\n    static_configs: [{{ targets: [\"{target}\"] }}]\n"
        );
        fs::write(&config, text).expect("our own directory");
        let at = loopback(free_port());
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()));
        command.arg(format!("--web.listen-address={at}")).arg("--log.level=error");
        let Ok(child) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            assert!(std::env::var_os("CI").is_none(), "prometheus is missing; `make test` installs it");
            eprintln!("skipped: prometheus is missing; `make test` installs it");
            return None;
        };
        Some(Prometheus { child, at, _directory: directory })
    }

    /// What it answers: how many series, or what is wrong with the query. `None` while it does not listen.
    fn ask(&self, query: &str) -> Option<Result<usize, String>> {
        let mut stream = TcpStream::connect_timeout(&self.at, AT_LAST).ok()?;
        stream.set_read_timeout(Some(AT_LAST)).ok()?;
        let digit = |half: u8| char::from(b"0123456789ABCDEF"[usize::from(half)]);
        let encoded: String = query.bytes().flat_map(|byte| ['%', digit(byte >> 4), digit(byte & 15)]).collect();
        write!(stream, "GET /api/v1/query?query={encoded} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let body: serde_json::Value = serde_json::from_str(body).ok()?;
        let series = body["data"]["result"].as_array().map(Vec::len);
        Some(series.ok_or_else(|| body["error"].as_str().unwrap_or_default().to_owned()))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// The dashboard's panels: titles, and what each asks for.
fn panels() -> Vec<(String, Vec<String>)> {
    let path = PathBuf::from("deploy/grafana/crema.json");
    let dashboard: serde_json::Value =
        serde_json::from_str(&Page::read(&path.display().to_string()).text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter().map(|panel| {
        let targets = panel["targets"].as_array().expect("targets").iter();
        let queries = targets.map(|target| target["expr"].as_str().expect("text").to_owned()).collect();
        (panel["title"].as_str().expect("a title").to_owned(), queries)
    });
    panels.collect()
}

#[test]
fn every_query_of_the_dashboard_is_answered_by_a_prometheus() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    let Some(prometheus) = Prometheus::watching(&crema) else { return };
    crema.warm(&["GET", "key"]);
    eventually("it has asked twice", || {
        // There is something to show of each kind.
        for command in [&["GET", "key"][..], &["GET", "other"], &["SET", "key", "v"], &["MGET", "a", "b"]] {
            crema.client().cmd(command);
        }
        prometheus.ask("rate(crema_requests_total[1m])").is_some_and(|answer| answer.is_ok_and(|series| series > 0))
    });
    let panels = panels();
    assert!(panels.len() > 12, "{} panels", panels.len());
    for (title, queries) in panels {
        for query in queries {
            let query = query.replace("$__rate_interval", "1m").replace("$instance", ".*");
            let answered = || match prometheus.ask(&query) {
                Some(Ok(series)) => series > 0,
                Some(Err(why)) => panic!("{title}: {query}: {why}"),
                None => false,
            };
            eventually(&format!("{title}: {query} shows something"), answered);
        }
    }
}
