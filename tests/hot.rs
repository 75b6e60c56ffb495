//! What an admin is told of keys and clients: hot keys, big keys, noisy clients, slow commands and why they were.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::link::Way;
use common::proxy::Launch;
use common::redis::loopback;
use common::{AT_LAST, Client, Crema, Link, Redis, Stop, Value, bulk, eventually, ok};

const TOKEN: &str = "secret";

/// With an admin whom nobody need prove, who is shown keys.
fn shown(redis: &Redis) -> Launch {
    Crema::over(redis.addr()).flag("--admin-users", "default").flag("--show-keys", true).flag("--admin-token", TOKEN)
}

/// Status and JSON of a page of the admin port that wants this token.
fn page(crema: &Crema, path: &str, token: &str) -> (u16, serde_json::Value) {
    let mut stream = TcpStream::connect(loopback(crema.admin_port())).expect("the admin port listens");
    stream.set_read_timeout(Some(AT_LAST)).expect("a deadline above zero");
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).expect("JSON"))
}

fn told(crema: &Crema, path: &str) -> serde_json::Value {
    let (status, told) = page(crema, path, TOKEN);
    assert_eq!(status, 200, "{path}: {told}");
    told
}

/// A field of a map as RESP2 has it, whatever it holds.
fn field(map: &Value, name: &str) -> Value {
    let pairs = map.items().chunks(2);
    let found = pairs.filter(|pair| pair[0] == bulk(name)).map(|pair| pair[1].clone()).next();
    found.unwrap_or_else(|| panic!("{name} in {map:?}"))
}

/// Reads every key of `keys` in one pipeline.
fn read_all(client: &mut Client, keys: &[String]) {
    let commands: Vec<[&str; 2]> = keys.iter().map(|key| ["GET", key.as_str()]).collect();
    for value in client.pipeline(&commands) {
        assert!(!value.is_error(), "{value:?}");
    }
}

/// Of each 100 keys 20 are the hot one, the rest come by once.
fn noise(round: usize) -> Vec<String> {
    (0..100).map(|n| if n % 5 == 0 { "page:hot".to_owned() } else { format!("page:{round}-{n}") }).collect()
}

#[test]
fn the_hot_key_is_first_whether_memory_answers_or_redis() {
    let redis = Redis::start();
    for promote in [0, 1] {
        let crema = shown(&redis).flag("--promote", promote).flag("--threads", 2).start();
        if crema.is_direct() {
            return;
        }
        let mut clients = [crema.client(), crema.client()];
        for round in 0..200 {
            read_all(&mut clients[round % 2], &noise(round));
        }
        for n in 0..2000 {
            let key = if n % 4 == 0 { "cart:full".to_owned() } else { format!("cart:{n}") };
            clients[0].send_cmd(&["SET", &key, "v"]);
        }
        (0..2000).for_each(|_| assert_eq!(clients[0].value(), ok()));
        let hot = told(&crema, "/api/hotkeys?n=3");
        assert_eq!(
            (&hot["reads"][0]["key"], &hot["writes"][0]["key"]),
            (&"page:hot".into(), &"cart:full".into()),
            "{hot}"
        );
        let share = hot["reads"][0]["share"].as_f64().expect("a number");
        assert!((0.1..0.35).contains(&share), "{hot}");
        assert!(hot["reads"].as_array().is_some_and(|all| all.len() <= 3), "{hot}");
        let reply = clients[1].cmd(&["CREMA", "HOTKEYS"]);
        assert_eq!(field(&field(&reply, "reads").items()[0], "key"), bulk("page:hot"));
        assert_eq!(field(&reply, "keys"), bulk("shown"));
    }
}

#[test]
fn keys_are_numbers_where_they_may_not_be_shown() {
    let redis = Redis::start();
    let crema = shown(&redis).flag("--show-keys", false).start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    (0..100).for_each(|round| read_all(&mut client, &noise(round)));
    assert_eq!(client.cmd(&["SET", "page:hot", &"v".repeat(20_000)]), ok());
    let first = |path: &str, list: &str| told(&crema, path)[list][0]["key"].as_str().expect("a key").to_owned();
    let hot = first("/api/hotkeys", "reads");
    assert!(hot.starts_with('#') && hot.len() == 17, "{hot}");
    assert_eq!((first("/api/hotkeys", "reads"), first("/api/bigkeys", "values")), (hot.clone(), hot.clone()));
    let text = ["/api/hotkeys", "/api/bigkeys", "/api/slowlog"].map(|path| told(&crema, path).to_string()).concat();
    assert!(!text.contains("page"), "{text}");
    let other = shown(&redis).flag("--show-keys", false).start();
    let mut client = other.client();
    (0..100).for_each(|round| read_all(&mut client, &noise(round)));
    let elsewhere = told(&other, "/api/hotkeys")["reads"][0]["key"].clone();
    assert_ne!(elsewhere, hot.as_str(), "in each process another");
}

#[test]
fn the_big_one_is_first_however_seldom_it_is_asked_for() {
    let redis = Redis::start();
    let crema = shown(&redis).start();
    if crema.is_direct() {
        return;
    }
    redis.client().cmd(&["SET", "read", &"v".repeat(900_000)]);
    redis.client().cmd(&["RPUSH", "list", &"v".repeat(400_000)]);
    let mut client = crema.client();
    for n in 0..500 {
        client.cmd(&["SET", &format!("small:{n}"), &"v".repeat(100)]);
    }
    client.cmd(&["GET", "read"]);
    client.cmd(&["SET", "written", &"v".repeat(600_000)]);
    client.cmd(&["LRANGE", "list", "0", "-1"]);
    let big = told(&crema, "/api/bigkeys?n=4");
    let one = |at: usize| (big["values"][at]["key"].as_str(), big["values"][at]["command"].as_str());
    assert_eq!(one(0), (Some("read"), Some("get")), "{big}");
    assert_eq!(one(1), (Some("written"), Some("set")), "{big}");
    assert_eq!(one(2), (Some("list"), Some("lrange")), "{big}");
    let bytes = big["values"][0]["bytes"].as_u64().expect("a number");
    assert!((900_000..900_100).contains(&bytes), "{big}");
    let reply = client.cmd(&["CREMA", "BIGKEYS", "1"]);
    assert_eq!(field(&reply, "values").items().len(), 1);
}

#[test]
fn the_noisy_client_is_first() {
    let redis = Redis::start();
    let crema = shown(&redis).flag("--threads", 2).start();
    if crema.is_direct() {
        return;
    }
    let mut quiet: Vec<Client> = (0..6).map(|_| crema.client()).collect();
    for client in &mut quiet {
        client.cmd(&["PING"]);
    }
    let mut noisy = crema.client();
    assert_eq!(noisy.cmd(&["CLIENT", "SETNAME", "noisy"]), ok());
    (0..50).for_each(|round| read_all(&mut noisy, &noise(round)));
    assert_eq!(quiet[0].cmd(&["MULTI"]), ok());
    quiet[1].send_cmd(&["BLPOP", "nothing", "0"]);
    quiet[2].cmd(&["SUBSCRIBE", "news"]);
    eventually("all are told of", || {
        let told = told(&crema, "/api/clients?n=20");
        let clients = told["clients"].as_array().expect("a list").clone();
        let links: Vec<_> = clients.iter().map(|client| client["link"].as_str().expect("a word")).collect();
        let has = |link: &str| links.contains(&link);
        told["connected"].as_u64() >= Some(7)
            && has("transaction")
            && has("own")
            && has("subscribed")
            && clients.iter().any(|client| client["doing"] == "waits for replies")
            && clients.iter().any(|client| client["doing"] == "idle")
    });
    let told = told(&crema, "/api/clients?n=1");
    let first = &told["clients"][0];
    assert_eq!((&first["name"], &first["user"]), (&"noisy".into(), &"default".into()), "{told}");
    assert_eq!(first["commands"], 5001, "{told}");
    assert!(first["per_second"].as_f64() > Some(10.0), "{told}");
    let (received, sent) = (first["received_bytes"].as_u64(), first["sent_bytes"].as_u64());
    assert!(received > Some(5000 * 20) && sent > Some(5000 * 4), "{told}");
    let address = noisy.stream().local_addr().expect("it is connected").to_string();
    assert_eq!(first["address"], address.as_str());
    let reply = noisy.cmd(&["CREMA", "CLIENTS", "2"]);
    assert_eq!(field(&field(&reply, "clients").items()[0], "name"), bulk("noisy"));
}

/// The entries of the slow log, the newest first, each with its reason, command and key.
fn slow(crema: &Crema) -> Vec<(String, String, String)> {
    let told = told(crema, "/api/slowlog?n=100");
    let text = |entry: &serde_json::Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let entries = told["entries"].as_array().expect("a list").iter();
    entries.map(|entry| (text(entry, "reason"), text(entry, "command"), text(entry, "key"))).collect()
}

fn has(crema: &Crema, reason: &str, command: &str, key: &str) -> bool {
    slow(crema).iter().any(|entry| (&*entry.0, &*entry.1, &*entry.2) == (reason, command, key))
}

#[test]
fn where_redis_is_slow_the_first_is_its_fault_and_the_next_has_waited_for_it() {
    let redis = Redis::with(&["--enable-debug-command", "yes"]);
    let crema = shown(&redis).flag("--threads", 1).start();
    if crema.is_direct() {
        return;
    }
    let (mut one, mut other) = (crema.client(), crema.client());
    eventually("nothing is slow", || {
        assert_eq!(one.cmd(&["CREMA", "SLOWLOG", "RESET"]), ok());
        read_all(&mut one, &["a".to_owned()]);
        read_all(&mut other, &["b".to_owned()]);
        slow(&crema).is_empty()
    });
    let mut direct = redis.client();
    let mut round = 0;
    eventually("both are under way at once", || {
        round += 1;
        let keys = [format!("slow:a{round}"), format!("slow:b{round}")]; // or memory would have them
        assert_eq!(one.cmd(&["CREMA", "SLOWLOG", "RESET"]), ok());
        direct.send_cmd(&["DEBUG", "SLEEP", "0.2"]);
        one.send_cmd(&["GET", &keys[0]]);
        other.send_cmd(&["GET", &keys[1]]);
        assert_eq!(direct.value(), ok());
        assert!(one.value().is_nil() && other.value().is_nil());
        let entries = slow(&crema);
        let reasons = |key: &str| entries.iter().find(|entry| entry.2 == key).map(|entry| entry.0.clone());
        let both = [reasons(&keys[0]), reasons(&keys[1])].map(Option::unwrap_or_default);
        both.contains(&"redis".to_owned()) && both.contains(&"queue".to_owned())
    });
    let told = told(&crema, "/api/slowlog");
    let first = &told["entries"][0];
    assert!(first["us"].as_u64() > Some(10_000), "{told}");
    assert_eq!((&first["command"], &first["outcome"]), (&"get".into(), &"lead".into()), "{told}");
    assert_eq!(told["slower_than_us"], 10_000);
    let address = one.stream().local_addr().expect("it is connected").to_string();
    assert!(told["entries"].as_array().expect("a list").iter().any(|entry| entry["address"] == address.as_str()));
    assert!(crema.count("crema_slow_commands_total", &[]) >= 2);
    // A command of a connection of its own, of which nothing but the name is known.
    one.cmd(&["DEBUG", "SLEEP", "0.05"]);
    eventually("it is told of", || has(&crema, "redis", "debug", ""));
    let reply = one.cmd(&["CREMA", "SLOWLOG", "1"]);
    assert_eq!(field(&field(&reply, "entries").items()[0], "reason"), bulk("redis"));
}

#[test]
fn a_client_that_does_not_read_makes_its_own_command_slow() {
    let redis = Redis::start();
    let crema = shown(&redis).start();
    if crema.is_direct() {
        return;
    }
    redis.client().cmd(&["SET", "huge", &"v".repeat(24 << 20)]);
    let mut client = crema.client();
    client.patience(AT_LAST);
    assert_eq!(client.cmd(&["WATCH", "k"]), ok()); // on a connection of its own, which is read no faster than the client reads
    let begun = Instant::now();
    client.send_cmd(&["GET", "huge"]);
    eventually("much waits for it, and for a while", || {
        let told = told(&crema, "/api/clients?n=20");
        let waits = told["clients"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|client| client["unread_bytes"].as_u64() > Some(1 << 20));
        waits && begun.elapsed() > Duration::from_millis(500)
    });
    assert_eq!(client.value().text().len(), 24 << 20);
    eventually("the reason is told", || has(&crema, "reader", "get", ""));
}

#[test]
fn without_a_lease_that_is_the_reason() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = shown(&redis).url(format!("redis://{}", link.addr())).flag("--max-staleness", "100ms").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    crema.warm(&["GET", "k"]);
    link.hold(Way::Replies);
    eventually("the lease ends", || crema.count("crema_lease_held", &[]) == 0);
    client.send_cmd(&["GET", "k"]);
    let begun = Instant::now();
    eventually("Redis is asked, for a while", || crema.waiting() == 1 && begun.elapsed() > Duration::from_millis(50));
    link.thaw();
    assert_eq!(client.value(), bulk("v"));
    eventually("the reason is told", || has(&crema, "lease", "get", "k"));
}

const SCRIPT: &str = "return redis.call('SET', ARGV[1], ARGV[2])";

#[test]
fn a_read_that_waits_for_the_ear_is_told_so() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    link.delay(Duration::from_millis(40));
    let crema = shown(&redis).url(format!("redis://{}", link.addr())).flag("--max-staleness", "5s").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    client.cmd(&["SET", "k", "v"]);
    crema.warm(&["GET", "k"]);
    eventually("the reason is told", || {
        client.cmd(&["EVAL", SCRIPT, "0", "other", "1"]);
        client.cmd(&["GET", "k"]);
        has(&crema, "ear", "get", "k")
    });
}

#[test]
fn a_script_whose_reply_is_held_is_told_so() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    link.delay(Duration::from_millis(40));
    let crema = shown(&redis).url(format!("redis://{}", link.addr())).flag("--max-staleness", "5s").start();
    if crema.is_direct() {
        return;
    }
    crema.client().cmd(&["SET", "k", "v"]);
    crema.warm(&["GET", "k"]);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&over);
        for _ in 0..2 {
            scope.spawn(|| {
                let mut reader = crema.client();
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(reader.cmd(&["GET", "k"]), bulk("v"));
                }
            });
        }
        let mut client = crema.client();
        eventually("the reason is told", || {
            client.cmd(&["EVAL", SCRIPT, "0", "other", "1"]);
            has(&crema, "fence", "eval", "")
        });
    });
}

#[test]
fn what_is_never_answered_is_told_too() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = shown(&redis).url(format!("redis://{}", link.addr())).flag("--response-timeout", "300ms").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    link.hold(Way::Replies);
    client.send_cmd(&["INCR", "n"]);
    let _ = client.try_value();
    eventually("it is told of", || has(&crema, "lost", "incr", "n"));
}

#[test]
fn the_slow_log_is_bounded_and_can_be_emptied_and_switched_off() {
    let redis = Redis::with(&["--enable-debug-command", "yes"]);
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let settings = |text: &str| common::rewrite(file.path(), text);
    let common = format!("admin_users = \"default\"\nadmin_token = \"{TOKEN}\"\n");
    settings(&format!("{common}slowlog_slower_than = \"5ms\"\nslowlog_max_len = 2\n"));
    let crema = Crema::over(redis.addr()).flag("--config", file.path().display()).start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    for _ in 0..3 {
        client.cmd(&["DEBUG", "SLEEP", "0.02"]);
    }
    let told = || told(&crema, "/api/slowlog");
    eventually("two are kept", || told()["entries"].as_array().is_some_and(|all| all.len() == 2));
    assert!(told()["total"].as_u64() >= Some(3), "{}", told());
    assert_eq!(
        (&told()["slower_than_us"], &told()["max_len"], &told()["keys"]),
        (&5000.into(), &2.into(), &"hashed".into())
    );
    assert_eq!(crema.order("/api/slowlog/reset", TOKEN, "").0, 200);
    assert_eq!(told()["entries"].as_array().map(Vec::len), Some(0));
    eventually("it is logged who did that", || {
        crema.has_logged("the slow commands are forgotten, by the admin port's client")
    });
    settings(&format!("{common}slowlog_slower_than = \"off\"\nshow_keys = true\n"));
    client.cmd(&["CREMA", "RELOAD"]);
    let before = told()["total"].as_u64();
    client.cmd(&["DEBUG", "SLEEP", "0.02"]);
    assert_eq!((told()["total"].as_u64(), &told()["slower_than_us"]), (before, &serde_json::Value::Null));
    assert_eq!(told()["keys"], "shown");
}

#[test]
fn nobody_but_an_admin_is_told() {
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).flag("--admin-users", "ops").flag("--admin-token", TOKEN).start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    for listing in ["HOTKEYS", "BIGKEYS", "CLIENTS", "SLOWLOG"] {
        let refusal = client.cmd(&["CREMA", listing]).text();
        assert_eq!(refusal, "NOPERM crema: only users named in admin_users may do this", "{listing}");
        let path = format!("/api/{}", listing.to_lowercase());
        assert_eq!(page(&crema, &path, "wrong").0, 401);
        assert_eq!(page(&crema, &path, TOKEN).0, 200);
        assert_eq!(page(&crema, &format!("{path}?n=0"), TOKEN).0, 400);
        assert_eq!(crema.order(&path, TOKEN, "").0, 405, "it is read");
    }
    assert!(client.cmd(&["CREMA", "SLOWLOG", "RESET"]).text().starts_with("NOPERM"));
    let help: Vec<String> = client.cmd(&["CREMA", "HELP"]).items().iter().map(Value::text).collect();
    for listing in ["HOTKEYS [<count>]", "BIGKEYS [<count>]", "CLIENTS [<count>]", "SLOWLOG [<count>]", "SLOWLOG RESET"]
    {
        assert!(help.iter().any(|line| line == listing), "{listing}: {help:?}");
    }
    let without = Crema::over(redis.addr()).flag("--admin-users", "default").start();
    assert_eq!(page(&without, "/api/hotkeys", "anything").0, 403, "no token is set");
    let mut client = without.client();
    for wrong in [&["CREMA", "HOTKEYS", "all"][..], &["CREMA", "CLIENTS", "0"], &["CREMA", "BIGKEYS", "1", "2"]] {
        assert!(client.cmd(wrong).text().starts_with("ERR crema: the count is 1 to"), "{wrong:?}");
    }
}

#[test]
fn metrics_tell_of_rules_and_prefixes_with_few_labels() {
    let redis = Redis::start();
    let rules = "promote = 1\n[[rule]]\nmatch = \"page:*\"\nclass = \"short-term\"\n[[rule]]\nmatch = \"never:*\"\npromote = \"never\"\n";
    let crema = Crema::over(redis.addr()).settings(rules).without_flag("--promote").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    for kind in ["page", "cart", "user"] {
        for n in 0..1500 {
            let key = format!("{kind}:{}", n % 300);
            client.send_cmd(&["SET", &key, "v"]);
            client.send_cmd(&["GET", &key]);
        }
        (0..3000).for_each(|_| assert!(!client.value().is_error()));
    }
    (0..40).for_each(|_| {
        let keys: Vec<String> = (0..100).map(|n| format!("page:{n}")).collect();
        read_all(&mut client, &keys);
    });
    let of = |name: &str, label: (&str, &str), event: &str| crema.count(name, &[label, ("event", event)]);
    for event in ["hit", "miss", "write"] {
        assert!(of("crema_rule_requests_total", ("rule", "page:*"), event) > 0, "{event}");
        assert!(of("crema_rule_bytes_total", ("rule", "page:*"), event) > 0, "{event}");
        assert!(of("crema_prefix_requests_total", ("prefix", "page:"), event) > 0, "{event}");
    }
    assert!(of("crema_rule_requests_total", ("rule", "(none)"), "write") > 0);
    assert!(of("crema_prefix_requests_total", ("prefix", "cart:"), "write") > 0);
    let (_, page) = crema.admin("/metrics").expect("the admin port answers");
    assert!(page.contains("crema_rule_requests_total{rule=\"never:*\",event=\"hit\"} 0"));
    let written = crema.count("crema_prefix_requests_total", &[("event", "write")]);
    assert!((2500..6500).contains(&written), "{written} of 4500");
    for n in 0..3000 {
        let prefix: String = format!("{}", n % 30).bytes().map(|digit| char::from(digit + 49)).collect();
        client.send_cmd(&["SET", &format!("{prefix}:{n}"), "v"]);
    }
    (0..3000).for_each(|_| assert_eq!(client.value(), ok()));
    let (_, page) = crema.admin("/metrics").expect("the admin port answers");
    let labels =
        page.lines().filter(|line| line.starts_with("crema_prefix_requests_total") && line.contains("\"hit\"")).count();
    assert!(labels <= 22, "{labels}");
}
