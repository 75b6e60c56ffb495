//! What memory does for reads can be changed while crema runs: who may say so, and that nothing is lost or old by it.

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
    let reads = redis.calls_in("get", || (0..50).for_each(|_| assert_eq!(client.cmd(&["GET", "k"]), bulk("v"))));
    assert!(reads >= 50, "each read reaches Redis: {reads}");
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
