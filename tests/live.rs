//! What can be changed while crema runs: what memory does for reads, who may say so, and that nothing is lost or old by it.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use common::link::Way;
use common::proxy::Launch;
use common::{Client, Crema, Link, Redis, Stop, Value, array, bulk, eventually, ok};

/// With an admin whom nobody need prove.
fn ruled(redis: &Redis) -> Launch {
    Crema::over(redis.addr()).flag("--admin-users", "someone,default")
}

fn mode(client: &mut Client, mode: &str) {
    assert_eq!(client.cmd(&["CREMA", "MODE", mode]), ok(), "{mode}");
}

/// The value of a field of the status.
fn status(crema: &Crema, path: &str) -> serde_json::Value {
    let (_, page) = crema.admin("/api/status").expect("the admin port answers");
    serde_json::from_str::<serde_json::Value>(&page).expect("JSON").pointer(path).cloned().unwrap_or_default()
}

#[test]
fn in_observe_memory_answers_nothing_and_counts_what_it_would_have() {
    let redis = Redis::start();
    let crema = ruled(&redis).flag("--mode", "observe").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    eventually("memory would answer", || {
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
        crema.outcomes("would_hit") > 0
    });
    let would = crema.outcomes("would_hit");
    eventually("and a read of several keys", || {
        assert_eq!(client.cmd(&["MGET", "k", "k"]), array([bulk("v"), bulk("v")]));
        crema.outcomes("would_hit") > would
    });
    let mut direct = redis.client();
    assert_eq!(direct.cmd(&["CONFIG", "RESETSTAT"]), ok());
    for _ in 0..50 {
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
    }
    let asked = direct.cmd(&["INFO", "commandstats"]).text();
    let reads = asked.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls=")?.split(',').next()?.parse().ok());
    assert!(reads >= Some(50_u64), "each read reaches Redis:\n{asked}");
    assert_eq!(crema.outcomes("hit"), 0);
    assert_eq!(client.cmd(&["CREMA", "STATUS"]).field("mode"), "observe");
    assert_eq!(client.cmd(&["CREMA", "EXPLAIN", "GET", "k"]).field("mode"), "observe");
    assert!(status(&crema, "/requests/would_hit_ratio").as_f64() > Some(0.1));
    assert_eq!(crema.count("crema_l1_mode", &[("mode", "observe")]), 1);
    eventually("it is logged", || crema.has_logged("mode is observe"));
    // Nothing has to be filled anew where it is switched on.
    let filled = || crema.count("crema_fills_total", &[("outcome", "stored")]);
    let before = filled();
    mode(&mut client, "cache");
    eventually("it is in memory, where there is a lease", || {
        client.cmd(&["CREMA", "EXPLAIN", "GET", "k"]).field("in_l1") == "yes"
    });
    assert_eq!(filled(), before);
    eventually("memory answers", || {
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
        crema.outcomes("hit") > 0
    });
    eventually("it is logged", || crema.has_logged("mode: observe -> cache"));
}

#[test]
fn in_observe_a_pipeline_would_be_answered_as_a_whole() {
    let redis = Redis::start();
    let crema = ruled(&redis).flag("--mode", "observe").flag("--max-staleness", "60s").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    eventually("memory would answer", || {
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
        crema.outcomes("would_hit") > 0
    });
    // Once in a while an entry that is read often is filled anew.
    eventually("so it would each of them", || {
        let would = crema.outcomes("would_hit");
        for _ in 0..16 {
            client.send_cmd(&["GET", "k"]);
        }
        for _ in 0..16 {
            assert_eq!(client.value(), bulk("v"));
        }
        crema.outcomes("would_hit") == would + 16
    });
}

#[test]
fn what_starts_in_pass_keeps_nothing_until_it_is_told_to() {
    let redis = Redis::start();
    let crema = ruled(&redis).flag("--mode", "pass").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    for _ in 0..50 {
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
    }
    assert_eq!((crema.outcomes("passed"), crema.count("crema_l1_entries", &[])), (50, 0));
    eventually("it is logged", || crema.has_logged("mode is pass"));
    mode(&mut client, "cache");
    crema.warm(&["GET", "k"]);
}

#[test]
fn after_the_switch_to_pass_no_request_is_answered_from_memory() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    // So that a lease outlives whatever this test waits for.
    let crema = Crema::over(link.addr())
        .flag("--admin-users", "default")
        .flag("--max-staleness", "60s")
        .flag("--threads", 4)
        .start();
    if crema.is_direct() {
        return;
    }
    let mut admin = crema.client();
    assert_eq!(admin.cmd(&["SET", "k", "v"]), ok());
    let mut readers: Vec<Client> = (0..8).map(|_| crema.client()).collect();
    for _ in 0..4 {
        crema.warm(&["GET", "k"]);
        for reader in &mut readers {
            assert_eq!(crema.hit(reader, &["GET", "k"]), bulk("v"));
        }
        let (hits, joined) = (crema.outcomes("hit"), crema.outcomes("joined"));
        link.hold(Way::Replies);
        mode(&mut admin, "pass");
        for reader in &mut readers {
            reader.send_cmd(&["GET", "k"]);
        }
        eventually("all of them wait for Redis", || crema.waiting() == 8);
        assert_eq!((crema.outcomes("hit"), crema.outcomes("joined")), (hits, joined));
        link.thaw();
        for reader in &mut readers {
            assert_eq!(reader.value(), bulk("v"));
        }
        assert_eq!((crema.outcomes("hit"), crema.outcomes("joined")), (hits, joined));
        eventually("nothing is kept", || crema.count("crema_l1_entries", &[]) == 0);
        mode(&mut admin, "cache");
    }
    assert!(crema.outcomes("passed") >= 32);
    assert!(crema.count("crema_epochs_total", &[("reason", "mode")]) > 0);
    assert_eq!(admin.cmd(&["CREMA", "EXPLAIN", "GET", "k"]).field("cacheable"), "yes");
}

#[test]
fn what_was_kept_before_pass_is_no_answer_after_it() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr())
        .flag("--admin-users", "default")
        .flag("--max-staleness", "60s")
        .flag("--threads", 1)
        .start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let mut direct = redis.client();
    for round in 0..3 {
        let (old, new) = (format!("old {round}"), format!("new {round}"));
        assert_eq!(client.cmd(&["SET", "k", &old]), ok());
        crema.warm(&["GET", "k"]);
        // Nobody tells the ear of the write, and its lease would last.
        link.hold(Way::Replies);
        mode(&mut client, "pass");
        assert_eq!(client.cmd(&["CREMA", "EXPLAIN", "GET", "k"]).field("cacheable"), "no: mode is pass");
        assert_eq!(direct.cmd(&["SET", "k", &new]), ok());
        mode(&mut client, "cache");
        let hits = crema.outcomes("hit");
        client.send_cmd(&["GET", "k"]);
        eventually("Redis is asked", || crema.waiting() == 1);
        link.thaw();
        assert_eq!((client.value(), crema.outcomes("hit")), (bulk(&new), hits));
    }
}

/// Whatever the mode is, and while it changes.
#[test]
fn an_acknowledged_write_is_seen_by_every_read_while_modes_change() {
    let redis = Redis::start();
    let crema = ruled(&redis).start();
    if crema.is_direct() {
        return;
    }
    let (over, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let (over, acknowledged, crema) = (&over, &acknowledged, &crema);
    let number = |value: &Value| value.text().parse::<u64>().unwrap_or_default();
    assert_eq!(crema.client().cmd(&["SET", "n", "0"]), ok());
    thread::scope(|scope| {
        let _stop = Stop(over);
        let goes_on = move || !over.load(Ordering::Relaxed);
        scope.spawn(move || {
            let mut writer = crema.client();
            while goes_on() {
                for _ in 0..20 {
                    writer.cmd(&["GET", "n"]); // so that it is worth keeping
                }
                let written = writer.cmd(&["INCR", "n"]);
                acknowledged.fetch_max(number(&bulk(written.text())), Ordering::SeqCst);
            }
        });
        for _ in 0..3 {
            scope.spawn(move || {
                let mut reader = crema.client();
                let mut seen = 0;
                while goes_on() {
                    let least = acknowledged.load(Ordering::SeqCst).max(seen);
                    seen = number(&reader.cmd(&["GET", "n"]));
                    assert!(seen >= least, "{seen} after {least} was acknowledged or seen");
                }
            });
        }
        let mut admin = crema.client();
        for round in 0..150 {
            mode(&mut admin, ["pass", "cache", "observe", "cache"][round % 4]);
            let before = crema.taken_up();
            eventually("reads go on", || crema.taken_up() > before + 100);
        }
    });
    for outcome in ["hit", "would_hit", "passed"] {
        assert!(crema.outcomes(outcome) > 0, "{outcome}");
    }
}

#[test]
fn nobody_but_an_admin_switches() {
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let refused = client.cmd(&["CREMA", "MODE", "pass"]).text();
    assert_eq!(refused, "NOPERM crema: only users named in admin_users may do this");
    eventually("it is logged", || crema.has_logged("an order was refused"));
    assert_eq!(client.cmd(&["CREMA", "STATUS"]).field("mode"), "cache");
    assert_eq!(crema.order("/api/mode", "anything", "pass").0, 403, "no token is set");
    let ruled = ruled(&redis).start();
    let mistake = ruled.client().cmd(&["CREMA", "MODE", "off"]).text();
    assert_eq!(mistake, "ERR crema: no such mode. Try CREMA HELP.");
}

/// The name counts that the client knows, not that of the upstream's user behind it.
#[test]
fn with_users_of_cremas_own_an_admin_is_one_of_them() {
    let redis = Redis::start();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let users = "auth = \"own\"\nadmin_users = [\"anna\"]\n[[user]]\nname = \"anna\"\npassword = \"a\"\n\
        [[user]]\nname = \"default\"\npassword = \"d\"\n";
    std::fs::write(file.path(), users).expect("it can be written");
    let crema = Crema::over(redis.addr()).flag("--config", file.path().display()).start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["AUTH", "default", "d"]), ok());
    assert!(client.cmd(&["CREMA", "MODE", "pass"]).text().starts_with("NOPERM"));
    assert_eq!(client.cmd(&["AUTH", "anna", "a"]), ok());
    mode(&mut client, "pass");
    eventually("it is logged", || crema.has_logged("changed by user `anna` at 127.0.0.1:"));
    assert_eq!(status(&crema, "/changes/0/what/0"), "mode: cache -> pass");
    assert!(status(&crema, "/changes/0/by").as_str().is_some_and(|by| by.starts_with("user `anna` at ")));
    assert_eq!(client.cmd(&["AUTH", "default", "d"]), ok());
    assert!(client.cmd(&["CREMA", "MODE", "cache"]).text().starts_with("NOPERM"), "who logs in anew is another");
}

/// Who gives no password acts as the user in `upstream`, and is not that user.
#[test]
fn an_open_door_makes_nobody_an_admin() {
    let redis = Redis::start();
    redis.client().cmd(&["ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all"]);
    let url = format!("redis://app:pw@{}", redis.addr());
    let crema = Crema::over(redis.addr()).url(url).flag("--auth", "open").flag("--admin-users", "app").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let refused = |client: &mut Client| client.cmd(&["CREMA", "MODE", "pass"]).text().starts_with("NOPERM");
    assert_eq!(client.cmd(&["ACL", "WHOAMI"]), bulk("app"));
    assert!(refused(&mut client) && client.cmd(&["CREMA", "RELOAD"]).text().starts_with("NOPERM"));
    assert_eq!(client.cmd(&["AUTH", "app", "pw"]), ok());
    mode(&mut client, "pass");
    client.cmd(&["RESET"]);
    assert!(refused(&mut client));
}

#[test]
fn whoever_shows_the_token_switches_at_the_admin_port() {
    let redis = Redis::start();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "secret\n").expect("it can be written");
    let crema = Crema::over(redis.addr()).flag("--admin-token-file", file.path().display()).start();
    if crema.is_direct() {
        return;
    }
    for wrong in ["", "wrong"] {
        assert_eq!(crema.order("/api/mode", wrong, "pass").0, 401, "{wrong}");
    }
    eventually("it is logged", || crema.has_logged("an order at the admin port was refused"));
    assert_eq!(status(&crema, "/mode"), "cache");
    let (code, body) = crema.order("/api/mode", "secret", "pass");
    assert_eq!((code, &*body), (200, "{\"changed\":[\"mode: cache -> pass\"],\"restart\":[]}\n"));
    assert_eq!(status(&crema, "/mode"), "pass");
    assert_eq!(crema.order("/api/mode", "secret", "pass").1, "{\"changed\":[],\"restart\":[]}\n");
    assert_eq!(crema.order("/api/mode", "secret", "off").0, 400);
    assert_eq!(crema.order("/api/mode", "secret", &"x".repeat(5000)).0, 413);
    assert_eq!(crema.admin("/api/mode").map(|(code, _)| code), Some(405));
    assert_eq!(crema.count("crema_settings_changes_total", &[]), 1);
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
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), Self::FIRST).expect("it can be written");
        // A flag would win over the file.
        let launch = Crema::over(redis.addr()).without_flag("--promote").without_flag("--max-staleness");
        let crema = launch.flag("--config", file.path().display()).start();
        Filed { file, crema, by_itself: std::cell::Cell::default() }
    }

    fn write(&self, text: &str) {
        std::fs::write(self.file.path(), text).expect("it can be written");
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
    filed.write(&format!("{}l1_size = \"64MiB\"\nmax_clients = 9000\n{rule}", Filed::FIRST));
    let told = filed.reload();
    assert_eq!(
        told,
        [
            "max_clients: 10000 -> 9000",
            "rule: none -> page:*, promote never",
            "needs a restart: l1_size: 256MiB -> 64MiB"
        ]
    );
    // On every worker, and at once.
    for _ in 0..8 {
        let disabled = crema.outcomes("disabled");
        assert_eq!(crema.client().cmd(&["GET", "page:1"]), bulk("v"));
        assert_eq!(crema.outcomes("disabled"), disabled + 1);
    }
    assert_eq!(client.cmd(&["CREMA", "EXPLAIN", "GET", "page:1"]).field("cacheable"), "no: a rule says never");
    eventually("it is logged", || {
        crema.has_logged("max_clients: 10000 -> 9000") && crema.has_logged("needs a restart: l1_size: 256MiB -> 64MiB")
    });
    assert!(filed.tells("max_clients: 10000 -> 9000"));
    assert_eq!(filed.reload(), ["needs a restart: l1_size: 256MiB -> 64MiB"], "until it is restarted");
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
    assert_eq!(status(crema, "/changes/0/by"), "a change of the file");
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
