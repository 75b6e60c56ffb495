//! The audit of hits: a fault that leaves something old in memory is found within a minute under load, whatever it is; what is older than
//! crema itself knows; and what an operator is told of it. That it calls nothing wrong which is right is shown by `audit_soak.rs`, and by `simulation.rs`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::relay::{Lie, Relay};
use common::{Crema, Redis, Stop, Value, bulk, eventually, ok, pack, simple, within};

/// A fault is found within that time.
const SOON: Duration = Duration::from_secs(60);
const KEYS: usize = 100;

fn violations(crema: &Crema) -> u64 {
    crema.count("crema_audit_violations_total", &[])
}

fn checked(crema: &Crema) -> u64 {
    crema.count("crema_audit_checked_total", &[])
}

/// Reads every key again and again on several connections until it is told to stop.
fn load(crema: &Crema, stop: &AtomicBool) {
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = crema.client();
                let all: Vec<u8> = (0..KEYS).flat_map(|key| pack(&["GET", &format!("k{key}")])).collect();
                while !stop.load(Ordering::Relaxed) {
                    client.send(&all);
                    (0..KEYS).for_each(|_| drop(client.reply()));
                }
            });
        }
    });
}

/// What `plant` does while a relay lies is found.
fn is_found(lie: Lie, plant: impl FnOnce(&Redis)) {
    let redis = Redis::start();
    let relay = Relay::to(redis.addr(), lie);
    let crema = Crema::over(relay.addr()).flag("--audit", "1/1000").flag("--admin-users", "default").start();
    if crema.is_direct() || std::env::var_os("CREMA_TEST_COHERENCE").is_some() {
        return;
    }
    let mut direct = redis.client();
    for key in 0..KEYS {
        assert_eq!(direct.cmd(&["SET", &format!("k{key}"), "right"]), ok());
    }
    relay.lie(lie == Lie::OtherValues || lie == Lie::NoSwaps);
    (0..KEYS).for_each(|key| crema.warm(&["GET", &format!("k{key}")]));
    relay.lie(lie != Lie::OtherValues);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Stop(&stop);
        scope.spawn(|| load(&crema, &stop));
        if lie != Lie::OtherValues {
            let before = checked(&crema);
            within(SOON, "hits are right, and read again", || checked(&crema) > before + 10);
            assert_eq!(violations(&crema), 0);
        }
        plant(&redis);
        within(SOON, "the fault is found", || violations(&crema) > 0);
    });
    assert!(relay.told() > 0);
    eventually("it is logged", || crema.has_logged("the audit has found a reply in memory that Redis does not give"));
}

#[test]
fn changes_that_are_not_told_are_found() {
    is_found(Lie::NoKeys, |redis| {
        let mut direct = redis.client();
        (0..KEYS).step_by(2).for_each(|key| drop(direct.cmd(&["SET", &format!("k{key}"), "newer"])));
    });
}

#[test]
fn keys_that_went_untold_are_found() {
    is_found(Lie::NoKeys, |redis| {
        let mut direct = redis.client();
        (0..KEYS).for_each(|key| drop(direct.cmd(&["PEXPIRE", &format!("k{key}"), "1"])));
    });
}

#[test]
fn a_flush_that_is_not_told_is_found() {
    is_found(Lie::NoFlush, |redis| assert_eq!(redis.client().cmd(&["FLUSHALL"]), ok()));
}

#[test]
fn a_swap_that_is_not_told_is_found() {
    is_found(Lie::NoSwaps, |redis| assert_eq!(redis.client().cmd(&["SWAPDB", "0", "1"]), ok()));
}

#[test]
fn values_that_were_never_there_are_found() {
    is_found(Lie::OtherValues, |_| {});
}

/// What no relay can plant, a fault of the process itself, the simulation does. Here nothing is wrong, and all of it is looked at.
#[test]
fn hits_are_held_against_writes_and_changes_and_against_those_of_scripts_once_they_are_heard_of() {
    let redis = Redis::start();
    let of = |coherence: &str| {
        let crema = Crema::over(redis.addr()).flag("--audit", "1/1").flag("--l1-size", "16MiB");
        crema.flag("--coherence", coherence).start()
    };
    for coherence in ["tracking", "broadcast"] {
        let crema = of(coherence);
        if crema.is_direct() || std::env::var_os("CREMA_TEST_COHERENCE").is_some() {
            return;
        }
        let ordered = || crema.count("crema_audit_ordered_total", &[]);
        let (mut direct, mut client) = (redis.client(), crema.client());
        for round in 0..20 {
            let writer = if round % 2 == 0 { &mut client } else { &mut direct };
            assert_eq!(writer.cmd(&["SET", "k", &round.to_string()]), ok());
            let before = ordered();
            eventually("a hit is held against what was written", || {
                client.cmd(&["GET", "k"]);
                ordered() > before
            });
        }
        // What was in memory before a script is held against what that has changed, for it is heard of.
        for round in 0..20 {
            let hits = crema.outcomes("hit");
            eventually("there is something in memory", || {
                client.cmd(&["GET", "k"]);
                crema.outcomes("hit") > hits
            });
            client.cmd(&["EVAL", &format!("return redis.call('set', 'other', '{round}')"), "0"]);
            let before = ordered();
            eventually("a hit is held against it", || {
                client.cmd(&["GET", "k"]);
                ordered() > before
            });
        }
        assert_eq!(
            (violations(&crema), crema.count("crema_audit_ambiguous_total", &[("reason", "under_way")])),
            (0, 0)
        );
    }
}

#[test]
fn what_was_found_is_told_to_admins_with_the_key_only_where_that_may_be() {
    let redis = Redis::with(&["--requirepass", "secret"]);
    let relay = Relay::to(redis.addr(), Lie::NoKeys);
    let url = format!("redis://:secret@{}", relay.addr());
    let start = |shows: bool| {
        Crema::over(relay.addr())
            .url(url.clone())
            .flag("--audit", "1/1")
            .flag("--show-keys", shows)
            .flag("--admin-users", "default")
            .start()
    };
    let cremas = [start(false), start(true)];
    if cremas[0].is_direct() || std::env::var_os("CREMA_TEST_COHERENCE").is_some() {
        return;
    }
    let mut direct = redis.client();
    assert_eq!(direct.cmd(&["AUTH", "secret"]), ok());
    assert_eq!(direct.cmd(&["ACL", "SETUSER", "plain", "on", ">p", "~*", "+@all"]), ok());
    assert_eq!(direct.cmd(&["SET", "a:key", "right"]), ok());
    for (crema, shows) in cremas.iter().zip([false, true]) {
        let mut client = crema.client();
        assert_eq!(client.cmd(&["AUTH", "secret"]), ok());
        eventually("it is a hit", || {
            client.cmd(&["GET", "a:key"]);
            checked(crema) > 0
        });
        relay.lie(true);
        assert_eq!(direct.cmd(&["SET", "a:key", if shows { "right" } else { "newer" }]), ok());
        within(SOON, "it is found", || {
            client.cmd(&["GET", "a:key"]);
            violations(crema) > 0
        });
        relay.lie(false);
        let told = client.cmd(&["CREMA", "AUDIT"]);
        assert_eq!((told.field("audit").as_str(), told.field("violations").as_str()), ("1/1", "1"));
        let (_, status) = crema.admin("/api/status").expect("the admin port answers");
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        assert_eq!((&status["audit"]["one_in"], &status["audit"]["violations"]), (&1.into(), &1.into()));
        let last = status["audit"]["last"][0].as_object().expect("one");
        assert_eq!((last["command"].as_str(), last["user"].as_str()), (Some("get"), Some("default")));
        assert_eq!((last["what"].as_str(), &status["audit"]["wrong"]["value"]), (Some("value"), &1.into()));
        let number = last["key"].as_str().expect("a name");
        assert!(number.starts_with('#'), "the status is for who has no token: {number}");
        let said = "the audit has found a reply in memory";
        eventually("it is logged", || crema.has_logged(said));
        assert_eq!(crema.log().contains("a:key"), shows);
        let last = told.items().last().expect("the violations").items();
        let named = format!("value: get {}, read as default", if shows { "a:key" } else { number });
        assert!(last.len() == 1 && last[0].text().contains(&named), "{last:?}");
        let mut plain = crema.client();
        assert_eq!(plain.cmd(&["AUTH", "plain", "p"]), ok());
        assert!(matches!(plain.cmd(&["CREMA", "AUDIT"]), Value::Error(why) if why.starts_with("NOPERM")));
    }
}

#[test]
fn it_is_switched_while_crema_runs_and_reads_nothing_where_it_is_off() {
    let redis = Redis::start();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let write = |text: &str| common::rewrite(file.path(), text);
    write("audit = \"off\"\n");
    let crema =
        Crema::over(redis.addr()).flag("--config", file.path().display()).flag("--admin-users", "default").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    crema.warm(&["GET", "k"]);
    let gets = crema.with_lease(|| {
        redis.calls_in("get", || (0..1000).for_each(|_| assert_eq!(client.cmd(&["GET", "k"]), bulk("v"))))
    });
    assert_eq!((checked(&crema), gets), (0, 0));
    let before = redis.calls("get");
    write("audit = \"1/2\"\n");
    assert_eq!(client.cmd(&["CREMA", "RELOAD"]).items(), [bulk("audit: off -> 1/2")]);
    eventually("hits are read again", || {
        client.cmd(&["GET", "k"]);
        checked(&crema) > 10
    });
    assert!(redis.calls("get") > before && violations(&crema) == 0);
    write("audit = \"often\"\n");
    assert!(client.cmd(&["CREMA", "RELOAD"]).text().contains("1/1000"), "it says what would be right");
    assert_eq!(client.cmd(&["PING"]), simple("PONG"));
}

/// What the user of an ear may not read any more proves nothing; what nobody tells of neither.
#[test]
fn what_cannot_be_compared_is_counted_and_alarms_nobody() {
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).flag("--audit", "1/1").flag("--coherence", "channel").start();
    if crema.is_direct() {
        return;
    }
    let (mut direct, mut client) = (redis.client(), crema.client());
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    crema.warm(&["GET", "k"]);
    assert_eq!(direct.cmd(&["SET", "k", "past the fleet"]), ok());
    eventually("the difference is seen", || {
        client.cmd(&["GET", "k"]);
        crema.count("crema_audit_ambiguous_total", &[("reason", "untold")]) > 0
    });
    assert_eq!(violations(&crema), 0);

    let crema = Crema::over(redis.addr()).flag("--audit", "1/1").flag("--acl-recheck", "1h").start();
    assert_eq!(direct.cmd(&["ACL", "SETUSER", "u", "on", ">p", "~*", "+@all"]), ok());
    let mut client = crema.client();
    assert_eq!(client.cmd(&["AUTH", "u", "p"]), ok());
    eventually("it is a hit", || {
        client.cmd(&["GET", "k"]);
        checked(&crema) > 0
    });
    assert_eq!(direct.cmd(&["ACL", "SETUSER", "u", "resetkeys", "~other"]), ok());
    eventually("it cannot be read again", || {
        client.cmd(&["GET", "k"]);
        crema.count("crema_audit_skipped_total", &[("reason", "refused")]) > 0
    });
    assert_eq!(violations(&crema), 0);
}
