//! The fleet's channel both ways, and the command by which operators use it.

use std::time::Duration;

use common::{Client, Crema, Redis, Value, bulk, eventually, int, ok};

fn publishing(redis: &Redis) -> common::proxy::Launch {
    Crema::over(redis.addr()).flag("--channel-publish", true)
}

/// A client that has subscribed to the channel.
fn listener(redis: &Redis) -> Client {
    let mut client = redis.client();
    client.cmd(&["SUBSCRIBE", "cache:invalidate"]);
    client
}

/// The next message: its type, and what it names.
fn heard(listener: &mut Client) -> (String, serde_json::Value) {
    let message = listener.value();
    let json: serde_json::Value = serde_json::from_str(&message.items()[2].text()).expect("JSON");
    assert!(json["origin_id"].as_str().is_some_and(|id| id.starts_with("crema-")), "{json}");
    let kind = json["type"].as_str().expect("a type").to_owned();
    let named = ["key", "keys", "pattern"].iter().find_map(|field| json.get(field));
    (kind, named.cloned().unwrap_or_default())
}

#[test]
fn writes_are_told_once_they_are_done() {
    let redis = Redis::start();
    let crema = publishing(&redis).start();
    crema.await_channel();
    let mut ear = listener(&redis);
    let mut client = crema.client();
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    assert_eq!(client.cmd(&["SET", "a", "1"]), ok());
    assert_eq!(heard(&mut ear), ("Remove".into(), json("\"a\"")));
    assert_eq!(client.cmd(&["MSET", "b", "1", "a", "2", "b", "3"]), ok());
    assert_eq!(heard(&mut ear), ("RemoveBulk".into(), json(r#"["a","b"]"#)));
    assert!(client.cmd(&["INCR", "a", "b"]).is_error());
    assert!(client.cmd(&["SET", "a", "1", "NOSUCH"]).is_error());
    assert_eq!(client.cmd(&["GET", "a"]), bulk("2"));
    for command in [&["MULTI"][..], &["SET", "x", "1"], &["GET", "z"], &["DEL", "y"]] {
        client.cmd(command);
    }
    client.cmd(&["EXEC"]);
    assert_eq!(heard(&mut ear), ("RemoveBulk".into(), json(r#"["x","y"]"#)));
    client.cmd(&["EVAL", "return redis.call('SET', KEYS[1], 1)", "1", "s"]);
    assert_eq!(heard(&mut ear), ("Remove".into(), json("\"s\"")));
    client.cmd(&["EVAL", "return 1", "0"]);
    assert_eq!(client.cmd(&["FLUSHALL"]), ok());
    assert_eq!(heard(&mut ear), ("RemovePattern".into(), json("\"*\"")));
    client.cmd(&[&b"SET"[..], b"\xff", b"1"]);
    assert_eq!(client.cmd(&["SWAPDB", "0", "1"]), ok());
    assert_eq!(heard(&mut ear).0, "ForgetAll");
    for command in [&["MULTI"][..], &["SWAPDB", "0", "1"], &["EXEC"]] {
        client.cmd(command);
    }
    assert_eq!(heard(&mut ear).0, "ForgetAll");
    eventually("a key without a name is counted", || {
        crema.count("crema_channel_published_total", &[("outcome", "unnamed")]) == 1
    });
    eventually("its own messages come back and change nothing", || {
        crema.count("crema_channel_messages_total", &[("type", "own")])
            == crema.count("crema_channel_published_total", &[("outcome", "sent")])
    });
    assert_eq!(crema.count("crema_epochs_total", &[("reason", "pattern")]), 0);
    assert!(ear.is_silent_for(Duration::from_millis(100)), "nothing else was told");
}

#[test]
fn without_publish_only_what_is_asked_for_is_told() {
    let redis = Redis::start();
    let (one, two) = (Crema::start(&redis), Crema::start(&redis));
    two.await_channel();
    let mut ear = listener(&redis);
    let mut client = one.client();
    client.cmd(&["MSET", "page:1", "a", "page:2", "b", "other", "c"]);
    for proxy in [&one, &two] {
        for key in ["page:1", "page:2", "other"] {
            proxy.warm(&["GET", key]);
        }
    }
    let in_l1 =
        |proxy: &Crema, key: &str| proxy.client().cmd(&["CREMA", "EXPLAIN", "GET", key]).field("in_l1") == "yes";
    assert_eq!(client.cmd(&["CREMA", "INVALIDATE", "page:1"]), int(1));
    assert!(!in_l1(&one, "page:1"));
    assert_eq!(heard(&mut ear).0, "Remove");
    eventually("the other forgets it too", || !in_l1(&two, "page:1"));
    // No entry counts without a lease, which the machine may have let lapse for a moment.
    eventually("and nothing else", || in_l1(&one, "page:2") && in_l1(&two, "page:2"));
    assert_eq!(client.cmd(&["CREMA", "invalidate", "pattern", "page:*"]), int(1));
    assert_eq!(heard(&mut ear).0, "RemovePattern");
    assert!(!in_l1(&one, "page:2"));
    eventually("the other forgets them too", || !in_l1(&two, "page:2"));
    assert_eq!(redis.client().cmd(&["GET", "page:1"]), bulk("a"), "Redis was written nothing");
    assert_eq!(redis.client().cmd(&["DBSIZE"]), int(3));
}

#[test]
fn refresh_reads_anew_what_was_in_memory() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    client.cmd(&["HSET", "h", "f", "1"]);
    client.cmd(&["SET", "k", "v"]);
    for command in [&["GET", "k"][..], &["STRLEN", "k"], &["HGET", "h", "f"]] {
        crema.warm(command);
    }
    let stored = || crema.count("crema_fills_total", &[("outcome", "stored")]);
    let before = stored();
    assert_eq!(client.cmd(&["CREMA", "REFRESH", "k", "none"]), int(2), "GET and STRLEN");
    eventually("both are read anew", || stored() >= before + 2);
    for command in [&["GET", "k"][..], &["STRLEN", "k"]] {
        let words: Vec<&str> = ["CREMA", "EXPLAIN"].iter().chain(command).copied().collect();
        eventually("it is in L1", || client.cmd(&words).field("in_l1") == "yes");
    }
    assert_eq!(crema.hit(&mut client, &["GET", "k"]), bulk("v"));
}

#[test]
fn explain_tells_what_the_table_knows() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    client.cmd(&["SET", "k", "v", "PX", "60000"]);
    crema.warm(&["GET", "k"]);
    for mut client in [crema.client(), crema.resp3()] {
        let mut reply = Value::Nil;
        eventually("there is a lease", || {
            reply = client.cmd(&["CREMA", "EXPLAIN", "get", "k"]);
            reply.field("in_l1") == "yes"
        });
        for (name, value) in
            [("command", "get"), ("class", "string"), ("effect", "read"), ("keys", "k"), ("cacheable", "yes")]
        {
            assert_eq!(reply.field(name), value);
        }
        let left: u64 = reply.field("ttl_ms_left").parse().expect("milliseconds");
        assert!((1..=60_000).contains(&left), "{left}");
        let write = client.cmd(&["CREMA", "EXPLAIN", "MSET", "a", "1", "b", "2"]);
        assert_eq!((write.field("keys").as_str(), write.field("cacheable").as_str()), ("a b", "no: it writes"));
        let unknown = client.cmd(&["CREMA", "EXPLAIN", "NOSUCH"]);
        assert_eq!(unknown.field("cacheable"), "no: it is not in the table of commands");
        assert_eq!(
            client.cmd(&["CREMA", "EXPLAIN", "EXISTS", "a", "b"]).field("cacheable"),
            "no: not with these arguments"
        );
        assert_eq!(client.cmd(&["CREMA", "STATUS"]).field("user"), "default");
        assert!(client.cmd(&["CREMA", "HELP"]).items().len() > 5);
    }
    for (command, wrong) in [
        (&["CREMA"][..], "wrong number of arguments for 'crema' command"),
        (&["CREMA", "NOSUCH"], "unknown subcommand 'NOSUCH'"),
        (&["crema", "explain"], "wrong number of arguments for 'crema|explain' command"),
        (&["CREMA", "HELP", "x"], "wrong number of arguments for 'crema|help' command"),
    ] {
        assert_eq!(client.cmd(command).text(), format!("ERR {wrong}. Try CREMA HELP."));
    }
    // Of many keys it is told how many are in L1, and a key shows where it ends.
    assert_eq!(client.cmd(&["MSET", "k", "v", "a b", "w", "\\\n", "x"]), ok());
    eventually("two of them are in L1", || {
        client.cmd(&["GET", "k"]);
        client.cmd(&["GET", "a b"]);
        client.cmd(&["CREMA", "EXPLAIN", "MGET", "k", "a b", "\\\n"]).field("in_l1") == "2 of 3"
    });
    let told = client.cmd(&["CREMA", "EXPLAIN", "MGET", "k", "a b", "\\\n"]);
    assert_eq!((told.field("keys").as_str(), told.field("cacheable").as_str()), (r#"k "a b" "\\\n""#, "yes"));
    assert_eq!(client.cmd(&["MULTI"]), ok());
    assert!(client.cmd(&["CREMA", "HELP"]).is_error());
    assert!(client.cmd(&["EXEC"]).text().starts_with("EXECABORT"));
}

/// The fields of all entries, in order.
fn kept(redis: &Redis, stream: &str) -> Vec<Vec<(String, String)>> {
    let entries = redis.client().cmd(&["XRANGE", stream, "-", "+"]);
    let fields =
        |entry: &Value| entry.items()[1].items().chunks(2).map(|pair| (pair[0].text(), pair[1].text())).collect();
    entries.items().iter().map(fields).collect()
}

#[test]
fn an_audit_stream_keeps_what_was_told() {
    let redis = Redis::start();
    let crema = publishing(&redis).flag("--channel-audit-stream", "cache:invalidations").start();
    let mut client = crema.client();
    assert_eq!(client.cmd(&["FLUSHALL"]), ok());
    eventually("the flush is kept", || kept(&redis, "cache:invalidations").len() == 1);
    assert_eq!(client.cmd(&["SWAPDB", "0", "0"]), ok());
    let shape = |fields: &Vec<(String, String)>| {
        let shown = fields.iter().map(|(name, value)| match name.as_str() {
            "timestamp" => {
                let now = redis.client().cmd(&["TIME"]).items()[0].text().parse::<u64>().expect("seconds");
                assert!(now.abs_diff(value.parse().expect("a number")) < 60, "seconds: {value}");
                "timestamp".to_owned()
            }
            "payload" => format!("payload {}", serde_json::from_str::<serde_json::Value>(value).expect("JSON")["type"]),
            _ => format!("{name} {value}"),
        });
        shown.collect::<Vec<_>>().join(", ")
    };
    eventually("all is kept", || kept(&redis, "cache:invalidations").len() == 2);
    let told = kept(&redis, "cache:invalidations");
    assert_eq!(shape(&told[0]), "type remove_pattern, timestamp, payload \"RemovePattern\", key *");
    assert_eq!(shape(&told[1]), "type forget_all, timestamp, payload \"ForgetAll\"");
    client.cmd(&["MSET", "a", "1", "b", "2"]);
    client.cmd(&["DEL", "a"]);
    eventually("all is kept", || kept(&redis, "cache:invalidations").len() == 4);
    let told = kept(&redis, "cache:invalidations");
    assert_eq!(shape(&told[2]), "type remove_bulk, timestamp, payload \"RemoveBulk\", count 2");
    assert_eq!(shape(&told[3]), "type remove, timestamp, payload \"Remove\", key a");
}

#[test]
fn an_audit_stream_is_as_long_as_it_is_to_be() {
    let redis = Redis::start();
    redis.client().cmd(&["CONFIG", "SET", "stream-node-max-entries", "10"]);
    for (length, between) in [("30", 30..=50), ("off", 100..=100)] {
        let stream = format!("audit:{length}");
        let launch = publishing(&redis).flag("--channel-audit-stream", &stream).flag("--channel-audit-length", length);
        let crema = launch.start();
        let mut monitor = redis.client();
        assert_eq!(monitor.cmd(&["MONITOR"]), ok());
        let mut client = crema.client();
        for n in 0..100 {
            client.cmd(&["SET", &format!("k{n}"), "v"]);
        }
        let said = || crema.count("crema_channel_published_total", &[("outcome", "sent")]);
        eventually("all were told", || said() == 100);
        let entries = redis.client().cmd(&["XLEN", &stream]).number();
        assert!(between.contains(&entries), "{length}: {entries}");
        redis.client().cmd(&["ECHO", "the end"]);
        let lines = monitor.until(b"\"ECHO\" \"the end\"\r\n").expect("lines of MONITOR");
        let lines = String::from_utf8_lossy(&lines);
        let adds: Vec<&str> = lines.lines().filter(|line| line.to_ascii_uppercase().contains("\"XADD\"")).collect();
        assert_eq!(adds.len(), 100, "{lines}");
        assert!(adds.iter().all(|add| add.contains("\"MAXLEN\"") == (length != "off")), "{adds:?}");
    }
}

/// What cannot be kept is told all the same, once; and what is owed is paid with that.
#[test]
fn a_stream_that_refuses_keeps_nobody_from_being_told() {
    let redis = Redis::start();
    redis.client().cmd(&["SET", "audit", "no stream"]);
    let crema = publishing(&redis).flag("--channel-audit-stream", "audit").start();
    let mut ear = listener(&redis);
    let mut client = crema.client();
    assert_eq!(client.cmd(&["CREMA", "INVALIDATE", "k"]), int(1));
    assert_eq!(heard(&mut ear).0, "Remove");
    assert_eq!(client.cmd(&["SWAPDB", "0", "0"]), ok());
    assert_eq!(heard(&mut ear).0, "ForgetAll");
    let count = |outcome| crema.count("crema_channel_published_total", &[("outcome", outcome)]);
    eventually("it is counted", || count("unkept") == 2);
    assert!(ear.is_silent_for(Duration::from_millis(300)), "it was told once");
    assert_eq!((count("sent"), count("dropped")), (2, 0));
    let warned = || crema.log().matches("the audit stream does not keep").count();
    eventually("it is said once", || warned() == 1);
    let mut direct = redis.client();
    assert_eq!(direct.cmd(&["DEL", "audit"]), int(1));
    assert_eq!(client.cmd(&["CREMA", "INVALIDATE", "k"]), int(1));
    eventually("it keeps again", || kept(&redis, "audit").len() == 1);
    direct.cmd(&["SET", "audit", "no stream"]);
    assert_eq!(client.cmd(&["CREMA", "INVALIDATE", "k"]), int(1));
    eventually("that it does not is said again", || warned() == 2);
}

#[test]
fn odd_messages_are_counted_and_skipped() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    crema.await_channel();
    crema.client().cmd(&["SET", "k", "v"]);
    crema.warm(&["GET", "k"]);
    let mut direct = redis.client();
    let huge = format!(r#"{{"type":"Remove","key":"{}"}}"#, "k".repeat(2 << 20));
    for (payload, label) in [
        ("", "malformed"),
        ("{", "malformed"),
        (r#"{"type":"Remove"}"#, "malformed"),
        (r#"{"type":"Freeze","key":"k"}"#, "unknown"),
        (huge.as_str(), "too_large"),
    ] {
        let before = crema.count("crema_channel_messages_total", &[("type", label)]);
        direct.cmd(&["PUBLISH", "cache:invalidate", payload]);
        eventually("it is counted", || crema.count("crema_channel_messages_total", &[("type", label)]) == before + 1);
    }
    assert_eq!(crema.hit(&mut crema.client(), &["GET", "k"]), bulk("v"), "the key is still in memory");
}

#[test]
fn a_fleet_that_cannot_be_told_is_no_silence() {
    let redis = Redis::start();
    let mut admin = redis.client();
    admin.cmd(&["ACL", "SETUSER", "proxy", "on", ">pp", "~*", "+@all", "resetchannels"]);
    let crema = publishing(&redis).url(format!("redis://proxy:pp@{}", redis.addr())).start();
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    let refused = client.cmd(&["CREMA", "INVALIDATE", "k"]).text();
    assert!(refused.starts_with("ERR crema: forgotten here, but not in the fleet: NOPERM"), "{refused}");
    eventually("both are counted", || crema.count("crema_channel_published_total", &[("outcome", "dropped")]) >= 2);
}
