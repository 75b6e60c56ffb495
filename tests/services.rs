//! Services that refuse something: crema goes without, tells what that costs, and serves as before.
//!
//! Refused by ACL (`NOPERM`) and by renaming (`ERR unknown command`), on a real server.

use std::time::Duration;

use common::link::Way;
use common::{Client, Crema, Link, MAX_STALENESS, Redis, Value, bulk, eventually, int, ok, pack};

/// A Redis whose only user may do all but this.
fn without(rules: &[&str]) -> Redis {
    let redis = Redis::start();
    let words: Vec<&str> = ["ACL", "SETUSER", "default"].iter().chain(rules).copied().collect();
    assert_eq!(redis.client().cmd(&words), ok(), "{rules:?}");
    redis
}

/// A Redis that has this command under another name.
fn renamed(command: &str) -> Redis {
    Redis::with(&["--rename-command", command, &format!("no-{command}")])
}

fn mode(crema: &Crema, mode: &str) -> bool {
    crema.count("crema_coherence_mode", &[("mode", mode)]) == 1
}

/// Clients are served, a write shows within the bound, and what `command` is answered is what Redis says.
#[track_caller]
fn serves(redis: &Redis, crema: &Crema, command: &[&str]) {
    let about = command.join(" ");
    let (mut direct, mut client) = (redis.client(), crema.client());
    for asked in
        [&["SET", "k", "1"][..], &["INCR", "k"], &["GET", "k"], &["LPUSH", "l", "a"], &["NOSUCH", "a"], command]
    {
        direct.cmd(&["DEL", "k", "l"]);
        direct.send_cmd(asked);
        let expected = direct.reply();
        direct.cmd(&["DEL", "k", "l"]);
        client.send_cmd(asked);
        assert_eq!(String::from_utf8_lossy(&client.reply()), String::from_utf8_lossy(&expected), "{asked:?}");
    }
    let replies = client.pipeline(&[&["MULTI"][..], &["SET", "k", "2"], &["EXEC"], &["GET", "k"]]);
    assert_eq!(replies[3], bulk("2"), "{about}: {replies:?}");
    let mut blocked = crema.client();
    assert_eq!(blocked.cmd(&["BLPOP", "nothing", "0.01"]), Value::Nil, "{about}");
    // Through another crema, for where writes tell of themselves nobody else does.
    let other = Crema::start(redis);
    let mut writer = other.client();
    for value in ["a", "b", "c"] {
        client.cmd(&["GET", "k"]);
        assert_eq!(writer.cmd(&["SET", "k", value]), ok(), "{about}");
        std::thread::sleep(MAX_STALENESS);
        assert_eq!(client.cmd(&["GET", "k"]), bulk(value), "{about}: a write is seen within the bound");
    }
}

/// `crema` says once, and in its metric, that it goes without.
#[track_caller]
fn tells(crema: &Crema, need: &str, name: &str) {
    let line = format!("crema goes without {name}, which the upstream refuses");
    eventually(&format!("it tells: {line}"), || crema.has_logged(&line));
    assert_eq!(crema.log().matches(&line).count(), 1, "once");
    eventually("it counts", || crema.count("crema_upstream_refusals", &[("need", need)]) == 1);
    let (_, status) = crema.admin("/api/status").expect("it answers");
    assert!(status.contains(&format!(r#""need":"{need}","command":"{name}""#)), "{status}");
}

#[test]
fn where_all_is_allowed_coherence_is_by_tracking_and_nothing_is_gone_without() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    serves(&redis, &crema, &["PING"]);
    crema.warm(&["GET", "k"]);
    assert!(
        crema.has_logged("coherence by tracking, which the upstream allows: every change is seen"),
        "{}",
        crema.log()
    );
    assert!(!crema.has_logged("goes without"), "{}", crema.log());
    assert!(mode(&crema, "tracking"));
    assert_eq!(crema.count("crema_upstream_refusals", &[]), 0);
    assert_eq!(crema.log().matches("coherence by").count(), 1);
}

#[test]
fn where_nobody_can_tell_of_changes_nothing_is_kept() {
    let redis = without(&["-client|tracking"]);
    let crema = Crema::over(redis.addr()).flag("--channel-enabled", "false").start();
    eventually("there is none", || mode(&crema, "nothing"));
    eventually("it is logged", || crema.has_logged("no coherence, for the upstream refuses tracking (NOPERM"));
    let mut client = crema.client();
    client.cmd(&["SET", "k", "v"]);
    for _ in 0..20 {
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
    }
    assert_eq!(crema.outcomes("hit"), 0);
    assert_eq!(crema.count("crema_promotions_total", &[]), 0);
    assert!(crema.count("crema_promotions_dropped_total", &[("reason", "no_coherence")]) > 0);
}

#[test]
fn where_tracking_is_refused_writes_tell_of_themselves_and_that_is_told() {
    for redis in [without(&["-client|tracking"]), renamed("CLIENT")] {
        let crema = Crema::start(&redis);
        serves(&redis, &crema, &["CLIENT", "TRACKING", "ON"]);
        crema.warm(&["GET", "k"]);
        assert!(mode(&crema, "channel") && !mode(&crema, "tracking"));
        let log = crema.log();
        assert!(log.contains("coherence by channel, for the upstream refuses tracking ("), "{log}");
        assert!(log.contains("changes made through a crema with coherence = "), "{log}");
        let (_, status) = crema.admin("/api/status").expect("it answers");
        assert!(status.contains(r#""coherence":"channel""#) && status.contains(r#""class_seconds":300"#), "{status}");
        let told = crema.client().cmd(&["CREMA", "STATUS"]);
        let Value::Array(told) = told else { panic!("{told:?}") };
        assert!(told.contains(&bulk("channel")), "{told:?}");
        // A write through one crema is seen by the other from then on.
        let (other, mut reader) = (Crema::start(&redis), crema.client());
        let mut writer = other.client();
        for n in 0..50 {
            assert_eq!(writer.cmd(&["SET", "k", &n.to_string()]), ok());
            eventually("it is seen", || reader.cmd(&["GET", "k"]) == bulk(n.to_string()));
        }
    }
}

/// A user who may not publish can write all the same: nobody has said that writes are to tell of themselves.
#[test]
fn who_may_not_publish_writes_all_the_same_and_everything_is_forgotten() {
    let redis = without(&["-client|tracking"]);
    let mut admin = redis.client();
    for user in ["mute", "loud"] {
        admin.cmd(&["ACL", "SETUSER", user, "on", ">pw", "~*", "+@all", "-client|tracking"]);
    }
    assert_eq!(admin.cmd(&["ACL", "SETUSER", "loud", "allchannels"]), ok());
    assert_eq!(admin.cmd(&["ACL", "SETUSER", "mute", "resetchannels"]), ok());
    let (crema, other) = (Crema::start(&redis), Crema::start(&redis));
    other.warm(&["GET", "k"]);
    let (mut mute, mut loud, mut reader) = (crema.client(), crema.client(), other.client());
    assert_eq!(mute.cmd(&["AUTH", "mute", "pw"]), ok());
    assert_eq!(loud.cmd(&["AUTH", "loud", "pw"]), ok());
    for n in 0..5 {
        let value = n.to_string();
        assert_eq!(mute.cmd(&["SET", "k", &value]), ok());
        eventually("it is seen", || reader.cmd(&["GET", "k"]) == bulk(&value));
        let replies = mute.pipeline(&[&["MULTI"][..], &["SET", "k", "x"], &["GET", "k"], &["EXEC"]]);
        assert_eq!(replies[3], common::array([ok(), bulk("x")]), "{replies:?}");
        eventually("it is seen", || reader.cmd(&["GET", "k"]) == bulk("x"));
        assert_eq!(loud.cmd(&["INCRBY", "n", "2"]), int(2 * (n + 1)));
    }
    tells(&crema, "publish", "PUBLISH");
    assert_eq!(crema.count("crema_errors_total", &[]), 0);
}

/// Another server behind the address may allow less, or more.
#[test]
fn after_a_failover_the_new_server_is_asked() {
    let mut redis = Redis::start();
    let crema = Crema::start(&redis);
    crema.warm(&["GET", "k"]);
    assert!(mode(&crema, "tracking"));
    redis.kill();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "user default on nopass ~* &* +@all -client|tracking\n").expect("our own file");
    redis.args(&["--aclfile", &file.path().display().to_string()]);
    redis.restart();
    eventually("the new server is asked", || mode(&crema, "channel"));
    crema.warm(&["GET", "k"]);
    let (other, mut reader) = (Crema::start(&redis), crema.client());
    let mut writer = other.client();
    for n in 0..20 {
        assert_eq!(writer.cmd(&["SET", "k", &n.to_string()]), ok());
        eventually("it is seen", || reader.cmd(&["GET", "k"]) == bulk(n.to_string()));
    }
    redis.args(&[]);
    redis.restart();
    eventually("it is asked again", || mode(&crema, "tracking"));
    crema.warm(&["GET", "k"]);
    redis.client().cmd(&["SET", "k", "past all"]);
    eventually("Redis tells", || {
        reader.try_cmd(&["GET", "k"]).is_ok_and(|reply| reply == bulk("past all")) || {
            reader = crema.client();
            false
        }
    });
}

/// A crema that has heard by tracking, with a client; and behind its link a new server, which refuses that and is not heard of yet.
fn before_the_turn() -> (Redis, Link, Crema, Client) {
    let mut redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).flag("--upstream-down", "error").start();
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "old"]), ok());
    assert!(mode(&crema, "tracking"));
    link.down();
    redis.kill();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "user default on nopass ~* &* +@all -client|tracking\n").expect("our own file");
    redis.args(&["--aclfile", &file.path().display().to_string()]);
    redis.restart();
    assert_eq!(redis.client().cmd(&["SET", "k", "old"]), ok());
    link.hold(Way::Requests);
    link.up();
    (redis, link, crema, client)
}

/// What was taken up before the new server was asked goes as it was written, and the fleet is told all the same.
#[test]
fn a_write_that_waits_for_a_server_where_writes_are_to_tell_is_told_of() {
    let (redis, link, crema, mut client) = before_the_turn();
    let other = Crema::start(&redis);
    other.warm(&["GET", "k"]);
    assert!(mode(&other, "channel"));
    loop {
        client.send_cmd(&["SET", "k", "new"]);
        if client.is_silent_for(Duration::from_millis(500)) {
            break; // it waits for its connection
        }
        assert!(client.value().is_error(), "the link was down a moment ago");
    }
    link.thaw();
    assert_eq!(client.value(), ok());
    assert!(mode(&crema, "channel"));
    let mut reader = other.client();
    eventually("it is seen", || reader.cmd(&["GET", "k"]) == bulk("new"));
}

/// Nothing is put before a write of which a part is sent already.
#[test]
fn a_large_write_that_has_begun_when_writes_come_to_tell_is_done_as_it_is() {
    let (redis, link, crema, mut client) = before_the_turn();
    let value = (0..100_000).map(|n| format!("{n:06}")).collect::<Vec<_>>().concat();
    let request = pack(&["SET", "large", &value]);
    let (begun, rest) = request.split_at(300_000);
    client.send(begun);
    eventually("it is sent ahead", || crema.count("crema_pinned_connections", &[]) == 1);
    link.thaw();
    eventually("the server is asked", || mode(&crema, "channel"));
    client.send(rest);
    assert_eq!(client.value(), ok());
    assert_eq!(client.cmd(&["STRLEN", "large"]), int(600_000));
    assert!(
        client.cmd(&["GET", "large"]) == bulk(value.as_str()) && redis.client().cmd(&["GET", "large"]) == bulk(value)
    );
    assert_eq!(client.cmd(&["ECHO", "in step"]), bulk("in step"));
}

/// Where nobody is named in `upstream` the first client is asked for all, and that is told.
#[test]
fn where_no_user_is_named_it_is_told_who_was_asked() {
    let redis = Redis::with(&["--requirepass", "secret"]);
    let mut admin = redis.client();
    admin.cmd(&["AUTH", "secret"]);
    assert_eq!(admin.cmd(&["ACL", "SETUSER", "low", "on", ">pw", "~*", "&*", "+@all", "-client|tracking"]), ok());
    let crema = Crema::over(redis.addr()).without_waiting().start();
    let mut client = crema.client();
    assert_eq!(client.cmd(&["AUTH", "low", "pw"]), ok());
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    eventually("it is told", || {
        crema.has_logged("It was asked as the first client's user, `low`, for `upstream` names none")
    });
    eventually("it is chosen", || mode(&crema, "channel"));
}

/// Need, the command that shows it to an operator, how an ACL refuses it, whether it can be renamed, and a request of it.
#[expect(clippy::type_complexity, reason = "a table")]
const NEEDS: [(&str, &str, &str, Option<&str>, &[&str]); 12] = [
    ("info", "INFO", "-info", Some("INFO"), &["INFO", "nosuch"]),
    ("command", "COMMAND INFO", "-command", Some("COMMAND"), &["COMMAND", "INFO", "get"]),
    ("config", "CONFIG GET", "-config|get", Some("CONFIG"), &["CONFIG", "GET", "nosuch"]),
    ("client_id", "CLIENT ID", "-client|id", None, &["CLIENT", "ID", "x"]),
    ("client_list", "CLIENT LIST", "-client|list", None, &["CLIENT", "LIST", "x"]),
    ("client_kill", "CLIENT KILL", "-client|kill", None, &["CLIENT", "KILL", "1.1.1.1:1"]),
    ("client_setname", "CLIENT SETNAME", "-client|setname", Some("CLIENT"), &["CLIENT", "SETNAME", "me"]),
    ("client_no_evict", "CLIENT NO-EVICT", "-client|no-evict", None, &["CLIENT", "NO-EVICT", "x"]),
    ("time", "TIME", "-time", Some("TIME"), &["TIME", "x"]),
    ("latency", "LATENCY HISTOGRAM", "-latency", Some("LATENCY"), &["LATENCY", "RESET", "x"]),
    ("echo", "ECHO", "-echo", Some("ECHO"), &["ECHO", "x"]),
    ("subscribe", "SUBSCRIBE", "-subscribe", Some("SUBSCRIBE"), &["SUBSCRIBE"]),
];

fn each_need(server: impl Fn(&'static str, Option<&'static str>) -> Option<Redis>) {
    for (need, name, rule, command, request) in NEEDS {
        let Some(redis) = server(rule, command) else { continue };
        let crema = Crema::start(&redis);
        serves(&redis, &crema, request);
        crema.warm(&["GET", "k"]);
        tells(&crema, need, name);
        let other = if need == "client_setname" && command.is_some() { "channel" } else { "tracking" };
        assert!(mode(&crema, "tracking") || mode(&crema, other), "{need}");
        assert_eq!(crema.count("crema_errors_total", &[]), 0, "{need}");
    }
}

#[test]
fn each_need_that_an_acl_refuses_is_gone_without() {
    each_need(|rule, _| Some(without(&[rule])));
}

#[test]
fn each_need_that_has_another_name_is_gone_without() {
    each_need(|_, command| command.map(renamed));
}

#[test]
fn where_nobody_may_ask_after_rights_replies_stay_for_a_moment_only() {
    for redis in [without(&["-acl"]), renamed("ACL")] {
        let crema = Crema::over(redis.addr()).flag("--acl-recheck", "300ms").start();
        serves(&redis, &crema, &["ACL", "WHOAMI", "x"]);
        crema.warm(&["GET", "k"]);
        tells(&crema, "acl", "ACL GETUSER");
        std::thread::sleep(Duration::from_millis(400));
        let before = crema.outcomes("hit");
        crema.client().cmd(&["GET", "k"]);
        assert_eq!(crema.outcomes("hit"), before, "what was kept for acl_recheck is gone");
    }
}

/// Who speaks RESP2 alone: nothing is kept, RESP3 is refused to clients as the server refuses it, and who asked goes on.
#[test]
fn without_hello_clients_speak_resp2_and_nothing_is_kept() {
    let redis = renamed("HELLO"); // no ACL refuses it
    let crema = Crema::start(&redis);
    serves(&redis, &crema, &["HELLO"]);
    tells(&crema, "hello", "HELLO");
    eventually("there is none", || mode(&crema, "nothing"));
    let (mut direct, mut client) = (redis.client(), crema.client());
    for hello in
        [&["HELLO", "3"][..], &["HELLO", "3", "SETNAME", "me"], &["hello", "2"], &["HELLO", "3", "AUTH", "a", "b"]]
    {
        direct.send_cmd(hello);
        client.send_cmd(hello);
        let (expected, reply) = (direct.reply(), client.reply());
        assert_eq!(String::from_utf8_lossy(&reply), String::from_utf8_lossy(&expected), "{hello:?}");
        assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
        assert_eq!(client.cmd(&["HGETALL", "nothing"]), common::array([]), "it speaks RESP2 still");
    }
    assert_eq!(crema.outcomes("hit"), 0);
}

/// A client's own SELECT is Redis's to refuse, and leaves it where it was.
#[test]
fn without_select_clients_stay_in_their_database() {
    for redis in [without(&["-select"]), renamed("SELECT")] {
        let crema = Crema::start(&redis);
        serves(&redis, &crema, &["SELECT", "1"]);
        crema.warm(&["GET", "k"]);
        let mut client: Client = crema.client();
        assert!(client.cmd(&["SELECT", "1"]).is_error());
        assert_eq!(client.cmd(&["GET", "k"]), bulk("c"));
    }
}

/// Ten seconds pass before the first keys are touched.
#[test]
fn without_touch_the_server_evicts_what_memory_serves() {
    let redis = Redis::with(&["--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"]);
    assert_eq!(redis.client().cmd(&["ACL", "SETUSER", "default", "-touch"]), ok());
    let crema = Crema::start(&redis);
    serves(&redis, &crema, &["TOUCH", "k"]);
    crema.warm(&["GET", "k"]);
    let mut client = crema.client();
    let line = "crema goes without TOUCH";
    eventually("it has tried", || {
        client.cmd(&["GET", "k"]);
        crema.has_logged(line)
    });
    tells(&crema, "touch", "TOUCH");
}
