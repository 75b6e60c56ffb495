//! The fleet's channel with an application on it that uses the Rust crate multi-tier-cache 0.6: each understands what the
//! other says.
//!
//! The application is the small crate in `tests/interop`, which `make test` builds. Without it the test says so and passes on
//! a developer's machine; where `CI` is set, it fails.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use common::{Crema, Redis, bulk, eventually, int, ok};

/// The application as a process.
struct App {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl App {
    fn start(redis: &Redis) -> Option<App> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/interop/debug/interop");
        if !program.exists() {
            assert!(std::env::var_os("CI").is_none(), "{} is missing; `make test` builds it", program.display());
            eprintln!("skipped: {} is missing; `make test` builds it", program.display());
            return None;
        }
        let mut child = Command::new(program)
            .env("REDIS_URL", format!("redis://{}", redis.addr()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it was built");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut app = App { child, input, output: BufReader::new(output) };
        assert_eq!(app.ask("get nothing"), "nothing");
        eventually("it listens", || redis.client().cmd(&["PUBSUB", "NUMSUB", "cache:invalidate"]).items()[1] == int(3));
        Some(app)
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").expect("it reads");
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("it answers");
        answer.trim_end().to_owned()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_application_and_two_proxies_understand_each_other() {
    let redis = Redis::start();
    let proxies = [Crema::over(redis.addr()).flag("--channel-publish", true).start(), Crema::start(&redis)];
    let Some(mut app) = App::start(&redis) else { return };
    let heard = |proxy: &Crema, kind: &str| proxy.count("crema_channel_messages_total", &[("type", kind)]);
    let mut client = proxies[0].client();

    // The application speaks, the proxies forget; and what they then read is Redis's.
    for (line, kind, value) in [
        ("update k one", "update", Some("one")),
        ("update k two", "update", Some("two")),
        ("remove k", "remove", None),
        ("pattern k*", "remove_pattern", None),
    ] {
        let before: Vec<u64> = proxies.iter().map(|proxy| heard(proxy, kind)).collect();
        assert_eq!(app.ask(line), "done");
        for (proxy, before) in proxies.iter().zip(before) {
            eventually(&format!("{line} is heard"), || heard(proxy, kind) > before);
            let reply = proxy.client().cmd(&["GET", "k"]);
            assert_eq!(reply, value.map_or(common::Value::Nil, bulk), "{line}");
        }
    }
    assert!(proxies.iter().all(|proxy| heard(proxy, "malformed") + heard(proxy, "unknown") == 0));

    // A client writes through the proxy that publishes, and the application forgets what it had in its own memory. It does
    // not leave it at that, and deletes the key in Redis as well, as docs/invalidation.md warns.
    for command in [&["SET", "page", "new"][..], &["MSET", "page", "new", "other", "x"]] {
        assert_eq!(app.ask("set page old"), "done");
        assert_eq!(app.ask("get page"), "old");
        assert_eq!(client.cmd(command), ok());
        // It is asked behind that: before, it would take up again what it has just forgotten.
        eventually("the application deletes", || client.cmd(&["GET", "page"]).is_nil());
        eventually("and forgets", || app.ask("get page") == "nothing");
    }
    // Past the proxies nobody tells the application, and it keeps what it has; by hand it can be told.
    assert_eq!(app.ask("set page old"), "done");
    redis.client().cmd(&["SET", "page", "new"]);
    assert_eq!(app.ask("get page"), "old");
    assert_eq!(proxies[1].client().cmd(&["CREMA", "INVALIDATE", "page"]), int(1));
    eventually("the application was told by hand", || redis.client().cmd(&["GET", "page"]).is_nil());
    eventually("and forgets", || app.ask("get page") == "nothing");
    // What concerns nobody but proxies makes it delete nothing.
    assert_eq!(app.ask("set kept here"), "done");
    assert_eq!(client.cmd(&["SWAPDB", "1", "2"]), ok());
    eventually("the other proxy forgets", || heard(&proxies[1], "forget_all") == 1);
    eventually("the application skips it", || app.ask("heard").ends_with(" 1"));
    assert_eq!(redis.client().cmd(&["GET", "kept"]), bulk("here"));
    let counts: Vec<u64> = app.ask("heard").split(' ').map(|n| n.parse().expect("a number")).collect();
    assert!(counts[0] >= 2 && counts[1] >= 1 && counts[3] == 1, "removes, bulks, patterns, errors: {counts:?}");

    // Each knows its own voice, and takes the other's for what it is.
    assert!(heard(&proxies[0], "own") >= 2 && heard(&proxies[1], "own") == 1);
    assert!(heard(&proxies[1], "remove_bulk") >= 1 && heard(&proxies[0], "remove") >= 2);
}

/// Where the channel carries coherence, what cremas tell each other makes the application delete nothing; and what the
/// application says is heard by the ears.
#[test]
fn where_cremas_tell_each_other_an_application_loses_nothing() {
    let redis = Redis::start();
    let proxies = [1, 2].map(|_| Crema::over(redis.addr()).flag("--coherence", "channel").start());
    for proxy in &proxies {
        proxy.warm(&["GET", "k"]);
    }
    let Some(mut app) = App::start(&redis) else { return };
    let mut client = proxies[0].client();
    assert_eq!(app.ask("set k old"), "done");
    assert_eq!(client.cmd(&["SET", "k", "new"]), ok());
    assert_eq!(client.cmd(&["DEL", "none"]), int(0));
    assert_eq!(client.cmd(&["EVAL", "return redis.call('SET', KEYS[1], 'newer')", "1", "k"]), ok());
    eventually("the application skips all three", || app.ask("heard").ends_with(" 3"));
    assert_eq!(redis.client().cmd(&["GET", "k"]), bulk("newer"));
    for (line, value) in
        [("update k one", Some("one")), ("remove k", None), ("update k two", Some("two")), ("pattern k*", None)]
    {
        for proxy in &proxies {
            proxy.warm(&["GET", "k"]);
        }
        assert_eq!(app.ask(line), "done");
        for proxy in &proxies {
            let value = value.map_or(common::Value::Nil, bulk);
            eventually(&format!("{line} is heard"), || proxy.client().cmd(&["GET", "k"]) == value);
        }
    }
}

/// By the stream: what the crate keeps there is heard by cremas, and what a crema keeps there by the crate's reliable subscriber.
#[test]
fn an_application_and_two_proxies_share_a_stream() {
    let redis = Redis::start();
    let over = || Crema::over(redis.addr()).flag("--channel-stream", "cache:invalidations");
    let telling = over().flag("--channel-publish", true).flag("--channel-audit-stream", "cache:invalidations");
    let proxies = [over().start(), telling.start()];
    let Some(mut app) = App::start(&redis) else { return };
    let groups = || redis.client().cmd(&["XINFO", "GROUPS", "cache:invalidations"]);
    eventually("all have a group", || !groups().is_error() && groups().items().len() == 3);
    let heard = |proxy: &Crema, kind: &str| proxy.count("crema_channel_messages_total", &[("type", kind)]);
    for (line, kind) in [
        ("update k one", "update"),
        ("remove k", "remove"),
        ("pattern k*", "remove_pattern"),
        ("bulk k l m", "remove_bulk"),
    ] {
        let before: Vec<u64> = proxies.iter().map(|proxy| heard(proxy, kind)).collect();
        assert_eq!(app.ask(line), "done");
        for (proxy, before) in proxies.iter().zip(before) {
            eventually(&format!("{line} is heard both ways"), || heard(proxy, kind) == before + 2);
        }
    }
    assert!(proxies.iter().all(|proxy| heard(proxy, "malformed") + heard(proxy, "unknown") == 0));
    eventually("the application hears itself", || app.ask("stream").starts_with("4 RemoveBulk"));
    assert_eq!(proxies[1].client().cmd(&["MSET", "a", "1", "b", "2"]), ok());
    eventually("and a proxy", || app.ask("stream") == r#"5 RemoveBulk { keys: ["a", "b"] }"#);
    eventually("which knows its own voice", || {
        heard(&proxies[1], "own") == 2 && heard(&proxies[0], "remove_bulk") == 4
    });
    // The fields are the same ones, whoever wrote them.
    let names = |entry: &common::Value| -> Vec<String> {
        entry.items()[1].items().chunks(2).map(|pair| pair[0].text()).collect()
    };
    let kept = redis.client().cmd(&["XREVRANGE", "cache:invalidations", "+", "-", "COUNT", "2"]);
    assert_eq!(names(&kept.items()[0]), names(&kept.items()[1]));
}

#[test]
fn what_is_heard_is_never_written() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    crema.await_channel();
    let mut direct = redis.client();
    direct.cmd(&["SET", "k", "fresh"]);
    crema.warm(&["GET", "k"]);
    let writes = || redis.calls("set") + redis.calls("setex") + redis.calls("psetex");
    let before = writes();
    let update = r#"{"origin_id":"another","type":"Update","key":"k","value":"6f6c64","ttl_secs":60}"#;
    assert_eq!(direct.cmd(&["PUBLISH", "cache:invalidate", update]), int(1));
    eventually("it is heard", || crema.count("crema_channel_messages_total", &[("type", "update")]) == 1);
    for _ in 0..50 {
        assert_eq!(crema.client().cmd(&["GET", "k"]), bulk("fresh"));
    }
    assert_eq!(writes(), before);
}
