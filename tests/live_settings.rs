//! What can be changed while crema runs by changing its settings, what cannot, and that nothing is old by it.

use common::proxy::Launch;
use common::{Client, Crema, Redis, Value, bulk, eventually, ok};

/// The value of a field of the status.
fn status(crema: &Crema, path: &str) -> serde_json::Value {
    let (_, page) = crema.admin("/api/status").expect("the admin port answers");
    serde_json::from_str::<serde_json::Value>(&page).expect("JSON").pointer(path).cloned().unwrap_or_default()
}

fn mode(client: &mut Client, mode: &str) {
    assert_eq!(client.cmd(&["CREMA", "MODE", mode]), ok(), "{mode}");
}

/// A proxy with these settings in a file, which can be changed.
struct Filed {
    file: tempfile::NamedTempFile,
    crema: Crema,
    /// Changes noted that crema's own look at the file made.
    by_itself: std::cell::Cell<usize>,
}

impl Filed {
    const FIRST: &str = "promote = 1\nadmin_users = \"default\"\nadmin_token = \"secret\"\nmax_staleness = \"500ms\"\n";

    fn start(redis: &Redis) -> Filed {
        Self::launch(Crema::over(redis.addr()), Self::FIRST)
    }

    /// In front of `redis`, which the settings name.
    fn start_named(redis: &Redis) -> Filed {
        Self::launch(Crema::over(redis.addr()).url_in_settings(), &Self::named(redis))
    }

    fn named(redis: &Redis) -> String {
        format!("{}upstream = \"redis://{}\"\n", Self::FIRST, redis.addr())
    }

    fn launch(launch: Launch, first: &str) -> Filed {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), first).expect("it can be written");
        // A flag would win over the file.
        let launch = launch.without_flag("--promote").without_flag("--max-staleness");
        let crema = launch.flag("--config", file.path().display()).start();
        Filed { file, crema, by_itself: std::cell::Cell::default() }
    }

    fn write(&self, text: &str) {
        common::rewrite(self.file.path(), text);
    }

    /// What has changed since the last call, whether crema reads the file because it is told to or has done so by itself before.
    fn reload(&self) -> Vec<String> {
        let reply = self.crema.client().cmd(&["CREMA", "RELOAD"]);
        assert!(!reply.is_error(), "{reply:?}");
        let changes = status(&self.crema, "/changes");
        let by_itself: Vec<_> = changes
            .as_array()
            .expect("a list")
            .iter()
            .filter(|change| change["by"] == "a change of the file")
            .collect();
        let fresh = by_itself.len() - self.by_itself.replace(by_itself.len());
        let before = by_itself[..fresh].iter().rev().flat_map(|change| change["what"].as_array().expect("a list"));
        let mut told: Vec<String> = before.map(|line| line.as_str().expect("text").to_owned()).collect();
        let now = reply.items().iter().map(Value::text).filter(|line| !told.contains(line)).collect::<Vec<_>>();
        told.extend(now);
        told
    }

    /// Whether the status tells of this change.
    fn tells(&self, what: &str) -> bool {
        let changes = status(&self.crema, "/changes");
        let mut changes = changes.as_array().expect("a list").iter();
        changes.any(|change| change["what"].as_array().expect("a list").iter().any(|line| line == what))
    }
}

#[test]
fn what_may_change_does_at_once_and_what_may_not_is_named() {
    let redis = Redis::start();
    let filed = Filed::start(&redis);
    let crema = &filed.crema;
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(filed.reload(), [""; 0]);
    assert_eq!(client.cmd(&["SET", "page:1", "v"]), ok());
    crema.warm(&["GET", "page:1"]);
    let rule = "[[rule]]\nmatch = \"page:*\"\npromote = \"never\"\n";
    filed.write(&format!("{}acl_recheck = \"7s\"\nmax_clients = 9000\n{rule}", Filed::FIRST));
    let told = filed.reload();
    assert_eq!(
        told,
        ["max_clients: 10000 -> 9000", "rule: none -> page:*, promote never", "needs a restart: acl_recheck: 5s -> 7s"]
    );
    // On every worker, and at once.
    for _ in 0..8 {
        let disabled = crema.outcomes("disabled");
        assert_eq!(crema.client().cmd(&["GET", "page:1"]), bulk("v"));
        assert_eq!(crema.outcomes("disabled"), disabled + 1);
    }
    assert_eq!(client.cmd(&["CREMA", "EXPLAIN", "GET", "page:1"]).field("cacheable"), "no: a rule says never");
    eventually("it is logged", || {
        crema.has_logged("max_clients: 10000 -> 9000") && crema.has_logged("needs a restart: acl_recheck: 5s -> 7s")
    });
    assert!(filed.tells("max_clients: 10000 -> 9000"));
    assert_eq!(filed.reload(), ["needs a restart: acl_recheck: 5s -> 7s"], "until it is restarted");
    filed.write(Filed::FIRST);
    let (code, body) = crema.order("/api/reload", "secret", "");
    assert_eq!(code, 200, "{body}");
    assert!(filed.tells("rule: page:*, promote never -> none"), "{body}");
    crema.warm(&["GET", "page:1"]);
}

#[test]
fn settings_that_cannot_be_used_change_nothing() {
    let redis = Redis::start();
    let filed = Filed::start(&redis);
    let crema = &filed.crema;
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    filed.write("promote = 7\nmax_value = 0\nmode = \"pass\"\nnonsense = 1\n");
    let refused = client.cmd(&["CREMA", "RELOAD"]).text();
    let at = |line: &str| format!("{}:{line}", filed.file.path().display());
    assert!(refused.starts_with("ERR crema: "), "{refused}");
    assert!(refused.contains(&at("2:")) && refused.contains(&at("4:1")), "{refused}");
    for (name, value) in [("promote", "1"), ("mode", "cache")] {
        assert_eq!(client.cmd(&["CREMA", "STATUS"]).field(name), value);
    }
    let (code, body) = crema.order("/api/reload", "secret", "");
    assert!(code == 409 && body.contains(&at("4:1")), "{body}");
    eventually("it is logged", || crema.has_logged("cannot be used; the old ones are kept"));
    assert!(crema.count("crema_settings_refused_total", &[]) >= 2);
    assert_eq!(crema.count("crema_settings_changes_total", &[]), 0);
    filed.write(Filed::FIRST);
    assert_eq!(filed.reload(), [""; 0]);
    filed.write("promote = 1\n");
    eventually("an admin is none any more", || client.cmd(&["CREMA", "RELOAD"]).text().starts_with("NOPERM"));
}

#[test]
fn a_file_that_changes_and_a_hangup_are_enough() {
    let redis = Redis::start();
    let filed = Filed::start(&redis);
    let crema = &filed.crema;
    if crema.is_direct() {
        return;
    }
    let promote = || status(crema, "/settings/promote");
    filed.write(&Filed::FIRST.replace("promote = 1", "promote = 20"));
    eventually("the file is read", || promote() == 20);
    eventually("it is told", || status(crema, "/changes/0/by") == "a change of the file");
    filed.write(&Filed::FIRST.replace("promote = 1", "promote = 21"));
    crema.signal(rustix::process::Signal::HUP);
    eventually("it is read at once", || promote() == 21);
}

#[test]
fn a_file_that_is_slow_to_read_holds_up_no_switch_of_the_mode() {
    let redis = Redis::start();
    let filed = Filed::start(&redis);
    if filed.crema.is_direct() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (pipe, path) = (directory.path().join("pipe"), filed.file.path());
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is everywhere");
    assert!(made.success());
    std::fs::remove_file(path).and_then(|()| std::os::unix::fs::symlink(&pipe, path)).expect("our own files");
    let mut waits = filed.crema.client();
    waits.send_cmd(&["CREMA", "RELOAD"]);
    let mut writer = std::fs::OpenOptions::new().write(true).open(&pipe).expect("it is being read");
    mode(&mut filed.crema.client(), "pass");
    std::fs::remove_file(path).and_then(|()| std::fs::write(path, Filed::FIRST)).expect("our own files");
    std::io::Write::write_all(&mut writer, Filed::FIRST.as_bytes()).expect("it is being read");
    drop(writer);
    assert_eq!(waits.value().items().len(), 0);
    assert_eq!(status(&filed.crema, "/mode"), "pass");
}

#[test]
fn a_mode_that_was_switched_by_hand_stays_until_the_settings_say_otherwise() {
    let redis = Redis::start();
    let filed = Filed::start(&redis);
    if filed.crema.is_direct() {
        return;
    }
    mode(&mut filed.crema.client(), "pass");
    filed.write(&Filed::FIRST.replace("promote = 1", "promote = 2"));
    assert_eq!(filed.reload(), ["promote: 1 -> 2"]);
    assert_eq!(status(&filed.crema, "/mode"), "pass");
    filed.write(&format!("mode = \"observe\"\n{}", Filed::FIRST));
    assert_eq!(filed.reload(), ["promote: 2 -> 1", "mode: pass -> observe"]);
    assert_eq!(status(&filed.crema, "/mode"), "observe");
}

#[test]
fn what_was_kept_for_longer_than_is_right_now_is_forgotten() {
    let redis = Redis::start();
    let filed = Filed::start(&redis);
    let crema = &filed.crema;
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    crema.warm(&["GET", "k"]);
    filed.write(&format!("{}class = \"real-time\"\n", Filed::FIRST));
    assert_eq!(filed.reload(), ["class: auto -> real-time"]);
    assert_eq!(crema.count("crema_epochs_total", &[("reason", "settings")]), 1);
    crema.warm(&["GET", "k"]);
    let left = client.cmd(&["CREMA", "EXPLAIN", "GET", "k"]).field("ttl_ms_left").parse::<i64>();
    assert!(left.as_ref().is_ok_and(|left| *left <= 10_000), "{left:?}");
}

#[test]
fn limits_of_clients_change() {
    let redis = Redis::start();
    let filed = Filed::start(&redis);
    if filed.crema.is_direct() {
        return;
    }
    let mut first = filed.crema.client();
    assert_eq!(first.cmd(&["PING"]), common::simple("PONG"));
    filed.write(&format!("{}max_clients = 1\n", Filed::FIRST));
    let (code, body) = filed.crema.order("/api/reload", "secret", "");
    assert_eq!(code, 200, "{body}");
    assert!(filed.crema.client().value().text().contains("max number of clients"));
    assert_eq!(first.cmd(&["PING"]), common::simple("PONG"), "who is in stays");
    filed.write(&format!("{}idle_timeout = \"1s\"\n", Filed::FIRST));
    assert_eq!(filed.crema.order("/api/reload", "secret", "").0, 200);
    assert_eq!(filed.crema.client().cmd(&["PING"]), common::simple("PONG"));
    assert_eq!(first.cmd(&["PING"]), common::simple("PONG"));
    assert!(first.closes_within(common::AT_LAST), "who says nothing for a second");
}

/// A number in the status for clients.
fn shown(client: &mut Client, name: &str) -> u64 {
    client.cmd(&["CREMA", "STATUS"]).field(name).parse().expect("a number")
}

#[test]
fn memory_changes_its_size() {
    let redis = Redis::start();
    let filed = Filed::start(&redis);
    let crema = &filed.crema;
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let keys: Vec<_> = (0..3_000).map(|n| format!("k{n}")).collect();
    let value = "v".repeat(2_000);
    for key in &keys {
        assert_eq!(client.cmd(&["SET", key, &value]), ok());
    }
    let read_all = |client: &mut Client| {
        for key in &keys {
            assert_eq!(client.cmd(&["GET", key]), bulk(&value));
        }
    };
    eventually("all are in memory", || {
        read_all(&mut client);
        shown(&mut client, "l1_entries") == 3_000
    });
    filed.write(&format!("{}l1_size = \"2MiB\"\n", Filed::FIRST));
    assert_eq!(filed.reload(), ["l1_size: 256MiB -> 2MiB"]);
    eventually("it takes no more than that", || shown(&mut client, "l1_bytes") <= 2 << 20);
    assert_eq!(shown(&mut client, "l1_capacity"), 2 << 20);
    assert_eq!(status(crema, "/l1/capacity"), 2 << 20);
    read_all(&mut client);
    assert!(shown(&mut client, "l1_bytes") <= 2 << 20);
    filed.write(Filed::FIRST);
    assert_eq!(filed.reload(), ["l1_size: 2MiB -> 256MiB"]);
    eventually("all are in memory again", || {
        read_all(&mut client);
        shown(&mut client, "l1_entries") == 3_000
    });
    filed.write(&format!("{}l1_size = 0\n", Filed::FIRST));
    let told = filed.reload();
    assert!(told.contains(&"needs a restart: l1_size: 256MiB -> 0".to_owned()), "{told:?}");
}

#[test]
fn the_bound_of_staleness_changes() {
    let redis = Redis::start();
    let filed = Filed::start(&redis);
    let crema = &filed.crema;
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    crema.warm(&["GET", "k"]);
    let bounded = |to: &str| filed.write(&Filed::FIRST.replace("500ms", to));
    bounded("30s");
    assert_eq!(filed.reload(), ["max_staleness: 500ms -> 30s"]);
    eventually("leases are longer", || shown(&mut client, "lease_ms_left") > 500);
    assert_eq!(shown(&mut client, "max_staleness_ms"), 30_000);
    assert_eq!(status(crema, "/settings/max_staleness_ms"), 30_000);
    bounded("1s");
    assert_eq!(filed.reload(), ["max_staleness: 30s -> 1s"]);
    eventually("those that were given for longer are over", || {
        client.cmd(&["GET", "k"]);
        let left = shown(&mut client, "lease_ms_left");
        left > 0 && left <= 1_000
    });
    crema.warm(&["GET", "k"]);
}

#[test]
fn larger_values_than_at_the_start_are_kept() {
    let redis = Redis::start();
    let filed = Filed::start(&redis);
    let crema = &filed.crema;
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let value = "v".repeat(3 << 20);
    assert_eq!(client.cmd(&["SET", "k", &value]), ok());
    for _ in 0..3 {
        assert_eq!(client.cmd(&["GET", "k"]), bulk(&value));
    }
    assert_eq!(shown(&mut client, "l1_entries"), 0);
    filed.write(&format!("{}max_value = \"4MiB\"\n", Filed::FIRST));
    assert_eq!(filed.reload(), ["max_value: 1MiB -> 4MiB"]);
    crema.warm(&["GET", "k"]);
    assert_eq!(client.cmd(&["GET", "k"]), bulk(&value));
}

#[test]
fn the_log_tells_more_and_less() {
    let redis = Redis::start();
    let filed = Filed::start(&redis);
    if filed.crema.is_direct() {
        return;
    }
    assert!(!filed.crema.has_logged("DEBUG"));
    filed.write(&format!("{}log_level = \"crema=debug\"\n", Filed::FIRST));
    assert_eq!(filed.reload(), ["log_level: auto -> crema=debug"]);
    eventually("it tells of connections", || {
        filed.crema.client().cmd(&["BLPOP", "nothing", "0.001"]);
        filed.crema.has_logged("DEBUG")
    });
    filed.write(&format!("{}log_level = \"loud\"\n", Filed::FIRST));
    let refused = filed.crema.client().cmd(&["CREMA", "RELOAD"]).text();
    assert!(refused.contains("`loud` is no level"), "{refused}");
    filed.write(&format!("{}log_level = \"error\"\n", Filed::FIRST));
    assert_eq!(filed.reload(), ["log_level: crema=debug -> error"]);
    eventually("that is told yet", || filed.crema.has_logged("log_level: crema=debug -> error"));
    let before = filed.crema.log().len();
    filed.crema.client().cmd(&["BLPOP", "nothing", "0.001"]);
    assert!(filed.crema.client().cmd(&["CREMA", "RELOAD"]).items().is_empty());
    assert_eq!(filed.crema.log()[before..], *"", "it has become silent");
}

#[test]
fn another_server_becomes_the_upstream() {
    let (one, mut other) = (Redis::start(), Redis::start());
    let filed = Filed::start_named(&one);
    let crema = &filed.crema;
    if crema.is_direct() {
        return;
    }
    for (redis, value) in [(&one, "of one"), (&other, "of the other")] {
        assert_eq!(redis.client().cmd(&["SET", "k", value]), ok());
    }
    let mut client = crema.client();
    crema.warm(&["GET", "k"]);
    assert_eq!(client.cmd(&["GET", "k"]), bulk("of one"));
    let mut waits = crema.client();
    waits.send_cmd(&["BLPOP", "nothing", "0"]);
    eventually("it waits", || one.client().cmd(&["INFO", "clients"]).text().contains("blocked_clients:1"));
    filed.write(&Filed::named(&other));
    let moved = format!("upstream: redis://{} -> redis://{}", one.addr(), other.addr());
    assert_eq!(filed.reload(), [moved]);
    for _ in 0..20 {
        assert_eq!(crema.client().cmd(&["GET", "k"]), bulk("of the other"), "nothing of the former counts");
    }
    assert!(waits.closes_within(common::AT_LAST), "what it waited for is no more");
    assert_eq!(client.cmd(&["SET", "k", "new"]), ok(), "who is in stays");
    assert_eq!(other.client().cmd(&["GET", "k"]), bulk("new"));
    assert_eq!(one.client().cmd(&["GET", "k"]), bulk("of one"));
    crema.warm(&["GET", "k"]);
    assert_eq!(status(crema, "/upstream/address"), format!("redis://{}", other.addr()));
    assert_eq!(client.cmd(&["CREMA", "STATUS"]).field("upstream"), format!("redis://{}", other.addr()));
    eventually("it is logged", || crema.has_logged("another server is the upstream"));
    let has_left = || !one.client().cmd(&["CLIENT", "LIST"]).text().contains("crema");
    eventually("nobody is left at the former", has_left);

    // One that is not there is refused with all else, and the old one goes on.
    let nobody = format!("127.0.0.1:{}", common::redis::free_port());
    filed
        .write(&format!("{}promote = 3\nupstream = \"redis://{nobody}\"\n", Filed::FIRST.replace("promote = 1\n", "")));
    let refused = client.cmd(&["CREMA", "RELOAD"]).text();
    assert!(refused.starts_with("ERR crema: ") && refused.contains(&nobody), "{refused}");
    assert_eq!(client.cmd(&["GET", "k"]), bulk("new"));
    assert_eq!(shown(&mut client, "promote"), 1);

    // Away from one that is down.
    other.kill();
    eventually("it is missed", || !crema.is_ready());
    filed.write(&Filed::named(&one));
    let (code, body) = crema.order("/api/reload", "secret", "");
    assert_eq!(code, 200, "{body}");
    eventually("all is well", || crema.is_ready());
    assert_eq!(crema.client().cmd(&["GET", "k"]), bulk("of one"));
}
