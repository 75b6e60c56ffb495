//! `[[origin]]`: a key that Redis does not have is loaded from where it comes from, once in the whole fleet, and no load ever comes
//! after a write that came after it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::http::{Answer, HttpOrigin};
use common::tls::Authority;
use common::{Client, Cluster, Crema, Link, Redis, Stop, Value, array, bulk, eventually, int, ok};
use hyper::Version;
use tempfile::NamedTempFile;

/// A proxy with these settings; the file goes with it.
fn with_settings(upstream: SocketAddr, settings: &str) -> (Crema, NamedTempFile) {
    let file = NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), settings).expect("it can be written");
    (Crema::over(upstream).flag("--config", file.path().display()).start(), file)
}

/// One whose keys `page:*` come from `origin`, with more settings of it.
fn with_origin(redis: &Redis, origin: &HttpOrigin, more: &str) -> (Crema, NamedTempFile) {
    with_settings(redis.addr(), &pages(&format!("http://{}/render/{{1}}", origin.addr()), more))
}

fn pages(url: &str, more: &str) -> String {
    format!("[[origin]]\nmatch = \"page:*\"\nurl = \"{url}\"\n{more}\n")
}

fn get(client: &mut Client, key: &str) -> Value {
    client.cmd(&["GET", key])
}

fn loads(crema: &Crema, result: &str) -> u64 {
    crema.count("crema_origin_loads_total", &[("result", result)])
}

/// Whether it is an error of crema's own that says this.
#[track_caller]
fn assert_fails(value: &Value, says: &str) {
    let text = value.text();
    assert!(value.is_error() && text.starts_with("ERR crema: ") && text.contains(says), "{value:?}");
}

#[test]
fn a_key_that_redis_does_not_have_is_loaded_once_and_lies_in_redis() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let (crema, _file) = with_origin(&redis, &origin, "ttl = \"30s\"\nheaders = [\"X-Key: secret\", \"Host: pages\"]");
    if crema.is_direct() {
        return;
    }
    let (mut client, mut direct) = (crema.client(), redis.client());
    assert_eq!(get(&mut client, "page:a/b"), bulk("/render/a%2Fb 1"));
    assert_eq!(get(&mut client, "page:a/b"), bulk("/render/a%2Fb 1"));
    assert_eq!(get(&mut crema.resp3(), "page:a/b"), bulk("/render/a%2Fb 1"));
    assert_eq!(get(&mut direct, "page:a/b"), bulk("/render/a%2Fb 1"));
    let Value::Int(ttl) = direct.cmd(&["PTTL", "page:a/b"]) else { panic!("a number") };
    assert!((1..=30_000).contains(&ttl), "{ttl}");
    assert_eq!(direct.cmd(&["KEYS", "crema:*"]), array([]), "nothing is left beside it");
    let seen = origin.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].headers["x-key"].as_str(), seen[0].headers["host"].as_str()), ("secret", "pages"));
    assert_eq!(get(&mut client, "other:a"), Value::Nil, "no origin is for it");
    assert_eq!(origin.count(), 1);
    assert_eq!(loads(&crema, "loaded"), 1);
}

#[test]
fn mget_loads_what_is_missing_side_by_side() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let (crema, _file) = with_origin(&redis, &origin, "");
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "page:b", "own"]), ok());
    origin.hold();
    client.send_cmd(&["MGET", "page:a", "page:b", "other", "page:c", "page:d"]);
    origin.await_requests(3);
    origin.release();
    let values = [bulk("/render/a 1"), bulk("own"), Value::Nil, bulk("/render/c 1"), bulk("/render/d 1")];
    assert_eq!(client.value(), array(values));
}

#[test]
fn a_missing_value_is_nil_and_the_fleet_remembers_until_somebody_writes() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    origin.says(|_, _| Answer::status(404));
    let fleet = [0, 1].map(|_| with_origin(&redis, &origin, "negative = \"1h\""));
    let [(one, _), (other, _)] = &fleet;
    if one.is_direct() {
        return;
    }
    let (mut client, mut elsewhere) = (one.client(), other.client());
    for _ in 0..3 {
        assert_eq!((get(&mut client, "page:x"), get(&mut elsewhere, "page:x")), (Value::Nil, Value::Nil));
    }
    assert_eq!(origin.count(), 1);
    assert_eq!(client.cmd(&["SET", "page:x", "v"]), ok());
    eventually("the other has heard of the write", || get(&mut elsewhere, "page:x") == bulk("v"));
    origin.says(|_, _| Answer::value("there by now"));
    assert_eq!(client.cmd(&["DEL", "page:x"]), int(1));
    eventually("a write ends what was remembered", || get(&mut elsewhere, "page:x") == bulk("there by now"));
    assert_eq!(get(&mut client, "page:x"), bulk("there by now"));
    assert_eq!(origin.count(), 2);
}

#[test]
fn that_there_is_no_value_is_a_hit_until_somebody_writes() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    origin.says(|_, _| Answer::status(404));
    let fleet = [0, 1].map(|_| with_origin(&redis, &origin, "negative = \"1h\""));
    let [(one, _), (other, _)] = &fleet;
    if one.is_direct() {
        return;
    }
    let (mut client, mut elsewhere, mut direct) = (one.client(), other.client(), redis.client());
    let read = |client: &mut Client| get(client, "page:x");
    let writes: [&dyn Fn(); 4] = [
        &|| assert_eq!(one.client().cmd(&["DEL", "page:x"]), int(0)),
        &|| assert_eq!(other.client().cmd(&["DEL", "page:x"]), int(0)),
        &|| assert_eq!(other.client().cmd(&["SET", "page:x", "set"]), ok()),
        &|| assert_eq!(redis.client().cmd(&["SET", "page:x", "direct"]), ok()),
    ];
    for (write, set) in writes.into_iter().zip([None, None, Some("set"), Some("direct")]) {
        origin.says(|_, _| Answer::status(404));
        one.warm(&["GET", "page:x"]);
        assert_eq!(one.hit(&mut client, &["GET", "page:x"]), Value::Nil);
        assert_eq!(one.hit(&mut client, &["MGET", "page:x"]), array([Value::Nil]));
        assert_eq!(one.hit(&mut one.resp3(), &["GET", "page:x"]), Value::Nil);
        assert_eq!(read(&mut elsewhere), Value::Nil);
        origin.says(|_, _| Answer::value("loaded"));
        write();
        if let Some(value) = set {
            eventually("what was written is read", || read(&mut client) == bulk(value));
        } else {
            eventually("it is loaded", || read(&mut client) == bulk("loaded"));
        }
        assert_eq!(direct.cmd(&["EXISTS", "page:x"]), int(1));
        assert_eq!(other.client().cmd(&["DEL", "page:x"]), int(1));
        eventually("it is gone", || {
            origin.says(|_, _| Answer::status(404));
            read(&mut client).is_nil()
        });
    }
}

#[test]
fn a_hit_for_a_missing_value_ends_with_what_the_fleet_remembers() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    origin.says(|_, _| Answer::status(404));
    let (crema, _file) = with_origin(&redis, &origin, "negative = \"1s\"");
    if crema.is_direct() {
        return;
    }
    crema.warm(&["GET", "page:x"]);
    let (mut client, asked) = (crema.client(), origin.count());
    origin.says(|_, _| Answer::value("by now"));
    eventually("it is asked for again", || get(&mut client, "page:x") == bulk("by now"));
    assert_eq!(origin.count(), asked + 1);
}

#[test]
fn without_negative_each_read_asks_again() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    origin.says(|_, _| Answer::status(404));
    let (crema, _file) = with_origin(&redis, &origin, "");
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    (0..3).for_each(|_| assert_eq!(get(&mut client, "page:x"), Value::Nil));
    assert_eq!(origin.count(), 3);
}

#[test]
fn what_fails_is_an_error_that_says_why() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let (crema, _file) = with_origin(&redis, &origin, "load_timeout = \"300ms\"\nmax_value = \"10\"");
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    origin.says(|path, _| match path {
        "/render/fails" => Answer::status(503),
        "/render/leads" => Answer::status(302).header("location", "http://127.0.0.1:1/evil"),
        "/render/large" => Answer::value([b'x'; 11]),
        _ => Answer::value("fits"),
    });
    assert_fails(&get(&mut client, "page:fails"), "503");
    assert_fails(&get(&mut client, "page:leads"), "302");
    assert_fails(&get(&mut client, "page:large"), "larger than 10");
    assert_fails(&get(&mut client, "page:.."), "another path");
    assert_fails(&client.cmd(&["MGET", "page:fits", "page:fails"]), "503");
    assert_eq!(get(&mut client, "page:fits"), bulk("fits"));
    origin.hold();
    let begun = Instant::now();
    assert_fails(&get(&mut client, "page:slow"), "in time");
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    origin.release();
    assert_eq!(redis.client().cmd(&["KEYS", "crema:*"]), array([]), "a load that failed leaves nothing");
    drop(origin);
    assert_fails(&get(&mut client, "page:gone"), "cannot be asked");
    assert_eq!(client.cmd(&["PING"]), Value::Simple("PONG".into()));
}

#[test]
fn a_full_redis_does_what_frees_memory_once_it_has_refused_anything() {
    let (redis, origin) = (Redis::with(&["--maxmemory-policy", "noeviction"]), HttpOrigin::start());
    let (crema, _file) = with_origin(&redis, &origin, "");
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    client.cmd(&["MSET", "page:1", "1", "page:2", "2", "page:3", "3", "page:4", "4"]);
    client.cmd(&["RPUSH", "page:l", "x", "y"]);
    redis.client().cmd(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = client.cmd(&["SET", "other", "1"]); // of which no origin has anything
    assert!(refused.text().starts_with("OOM"), "{refused:?}");
    assert_eq!(client.cmd(&["DEL", "page:1", "page:none"]), int(1));
    assert_eq!(client.cmd(&["UNLINK", "page:2"]), int(1));
    assert_eq!(client.cmd(&["GETDEL", "page:3"]), bulk("3"));
    assert_eq!(client.cmd(&["EXPIRE", "page:4", "100"]), int(1));
    assert_eq!(client.cmd(&["LPOP", "page:l"]), bulk("x"));
    assert!(get(&mut client, "page:1").text().contains("OOM"), "there is no room for a token");
    redis.client().cmd(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(get(&mut client, "page:1"), bulk("/render/1 1"));
    assert_eq!(get(&mut client, "page:4"), bulk("4"));
}

#[test]
fn operators_see_how_it_stands_with_an_origin_and_with_a_key() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let (crema, _file) = with_origin(&redis, &origin, "load_timeout = \"300ms\"\nnegative = \"1h\"");
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let explained = |key: &str| {
        let told = crema.client().cmd(&["CREMA", "EXPLAIN", "GET", key]);
        let told = told.items().iter().skip_while(|word| word.text() != "load").nth(1).map(Value::text);
        told.expect("it is told of")
    };
    let page = |path: &str| crema.admin(path).expect("it answers");
    let gauge = |name: &str| crema.count(name, &[("keys", "page:*")]);
    assert_eq!(
        (explained("page:a"), explained("other"), gauge("crema_origin_well")),
        (String::new(), String::new(), 1)
    );
    origin.says(|path, _| Answer::status(if path.ends_with("none") { 404 } else { 503 }));
    assert_fails(&get(&mut client, "page:a"), "503");
    assert!(explained("page:a").contains("failed, ") && explained("page:a").ends_with("the origin says 503"));
    assert_eq!(gauge("crema_origin_well"), 0);
    let (status, text) = page("/readyz");
    assert!(
        status == 200 && text.contains("the last load of page:* from http://") && text.contains(" s ago: "),
        "{text}"
    );
    assert!(page("/api/status").1.contains("\"trouble_seconds\":"));
    assert_eq!(get(&mut client, "page:none"), Value::Nil);
    assert!(explained("page:none").starts_with("the origin is known to have none for another 3"));
    assert_eq!((explained("page:a"), gauge("crema_origin_well")), (String::new(), 1));
    assert!(!page("/readyz").1.contains("page:*"));
    origin.hold();
    client.send_cmd(&["GET", "page:slow"]);
    origin.await_requests(3);
    assert_eq!(gauge("crema_origin_loads_under_way"), 1);
    assert!(explained("page:slow").starts_with("it is being loaded"));
    assert_fails(&client.value(), "in time");
    origin.release();
    drop(origin);
    assert_fails(&get(&mut client, "page:gone"), "cannot be asked");
    assert!(page("/readyz").1.contains("cannot be asked"));
}

#[test]
fn a_stale_copy_stands_in_for_a_load_that_fails_and_dies_with_any_write() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let (crema, _file) = with_origin(&redis, &origin, "ttl = \"1h\"\nstale_if_error = \"1h\"");
    if crema.is_direct() {
        return;
    }
    let (mut client, mut direct) = (crema.client(), redis.client());
    assert_eq!(get(&mut client, "page:a"), bulk("/render/a 1"));
    origin.says(|_, _| Answer::status(500));
    // Redis loses it, and crema is not the one who says so.
    assert_eq!(direct.cmd(&["DEL", "page:a"]), int(1));
    eventually("the copy stands in", || {
        assert_eq!(get(&mut client, "page:a"), bulk("/render/a 1"));
        loads(&crema, "stale") > 0
    });
    assert!(!client.cmd(&["DEL", "page:a"]).is_error());
    assert_fails(&get(&mut client, "page:a"), "500");
}

#[test]
fn cache_control_is_honoured_where_it_is_to_be() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let settings = [("respects", true), ("ignores", false)].map(|(name, respect)| {
        let url = format!("http://{}/{name}/{{1}}", origin.addr());
        format!("[[origin]]\nmatch = \"{name}:*\"\nurl = \"{url}\"\nttl = \"1h\"\nrespect = {respect}\n")
    });
    let (crema, _file) = with_settings(redis.addr(), &settings.concat());
    if crema.is_direct() {
        return;
    }
    origin.says(|path, nth| {
        let control = if path.ends_with("never") { "no-store" } else { "max-age=9" };
        Answer::value(format!("{nth}")).header("cache-control", control)
    });
    let (mut client, mut direct) = (crema.client(), redis.client());
    let mut ttl = |key: &str| match direct.cmd(&["TTL", key]) {
        Value::Int(ttl) => ttl,
        other => panic!("{other:?}"),
    };
    for (nth, key) in
        [("1", "respects:never"), ("2", "respects:never"), ("1", "respects:short"), ("1", "ignores:never")]
    {
        assert_eq!(get(&mut client, key), bulk(nth), "{key}");
    }
    assert_eq!(ttl("respects:never"), -2, "it may not be kept");
    assert!((1..=9).contains(&ttl("respects:short")));
    assert!(ttl("ignores:never") > 3000);
}

#[test]
fn a_write_while_a_load_is_under_way_wins() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let (crema, _file) = with_origin(&redis, &origin, "");
    if crema.is_direct() {
        return;
    }
    let (mut reader, mut writer) = (crema.client(), crema.client());
    for (nth, words) in [
        &["SET", "page:k", "written"][..],
        &["MSET", "page:k", "written", "x", "y"],
        &["EVAL", "return redis.call('SET', KEYS[1], 'written')", "1", "page:k"],
    ]
    .into_iter()
    .enumerate()
    {
        origin.hold();
        reader.send_cmd(&["GET", "page:k"]);
        origin.await_requests(nth + 1);
        assert!(!writer.cmd(words).is_error());
        origin.release();
        assert_eq!(reader.value(), bulk("written"));
        assert_eq!(get(&mut writer, "page:k"), bulk("written"));
        assert_eq!(writer.cmd(&["DEL", "page:k"]), int(1));
    }
    // In a transaction of the client's own.
    let before = origin.count();
    origin.hold();
    reader.send_cmd(&["GET", "page:k"]);
    origin.await_requests(before + 1);
    for words in [&["MULTI"][..], &["SET", "page:k", "queued"], &["EXEC"]] {
        assert!(!writer.cmd(words).is_error());
    }
    origin.release();
    assert_eq!(reader.value(), bulk("queued"));
    // What is deleted is loaded anew: the value on its way is from before.
    assert_eq!(writer.cmd(&["DEL", "page:k"]), int(1));
    let before = origin.count();
    origin.hold();
    reader.send_cmd(&["GET", "page:k"]);
    origin.await_requests(before + 1);
    assert_eq!(writer.cmd(&["DEL", "page:k"]), int(0));
    writer.send_cmd(&["GET", "page:k"]);
    let nth = before + 2;
    origin.says(move |_, _| Answer::value("from after"));
    origin.release();
    assert_eq!(writer.value(), bulk("from after"));
    assert_eq!(reader.value(), bulk("from after"));
    assert!(origin.count() >= nth, "the load under way does not count");
}

#[test]
fn a_session_never_reads_what_it_writes_later() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let (crema, _file) = with_origin(&redis, &origin, "");
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let commands = [&["GET", "page:k"][..], &["SET", "page:k", "later"], &["GET", "page:k"]];
    for _ in 0..20 {
        client.send(&commands.map(common::pack).concat());
        let first = client.value();
        assert!(first == Value::Nil || first.text().starts_with("/render/k "), "{first:?}");
        assert_eq!((client.value(), client.value()), (ok(), bulk("later")));
        assert_eq!(client.cmd(&["DEL", "page:k"]), int(1));
    }
    // The write comes while the load is under way.
    let before = origin.count();
    origin.hold();
    client.send_cmd(&["GET", "page:k"]);
    origin.await_requests(before + 1);
    client.send_cmd(&["SET", "page:k", "later"]);
    eventually("it is written", || get(&mut redis.client(), "page:k") == bulk("later"));
    origin.release();
    assert_eq!((client.value(), client.value()), (Value::Nil, ok()));
}

#[test]
fn one_load_in_the_fleet_however_many_ask() {
    common::lift_open_files();
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let fleet: Vec<_> = (0..3).map(|_| with_origin(&redis, &origin, "load_timeout = \"60s\"")).collect();
    if fleet[0].0.is_direct() {
        return;
    }
    origin.hold();
    let mut clients: Vec<Client> = (0..3000).map(|n: usize| fleet[n % 3].0.client()).collect();
    for client in &mut clients {
        client.send_cmd(&["GET", "page:hot"]);
    }
    origin.await_requests(1);
    eventually("all have asked", || fleet.iter().map(|(crema, _)| crema.waiting()).sum::<u64>() == 3000);
    origin.release();
    for client in &mut clients {
        assert_eq!(client.value(), bulk("/render/hot 1"));
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn who_waits_for_anothers_load_asks_little_and_is_told_of_its_end() {
    const LOAD: Duration = Duration::from_secs(1);
    const ROUNDS: u32 = 5;
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let [loader, other] = [0, 1].map(|_| with_origin(&redis, &origin, "load_timeout = \"60s\""));
    let tells = std::env::var_os("CREMA_TEST_COHERENCE").is_none();
    if other.0.is_direct() {
        return;
    }
    let (mut loads, mut waits) = (loader.0.client(), other.0.client());
    assert_eq!(get(&mut waits, "page:first"), bulk("/render/first 1")); // its connections are made
    let (mut late, mut asked) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (key, before) = (format!("page:{round}"), origin.count());
        origin.hold();
        loads.send_cmd(&["GET", &key]);
        origin.await_requests(before + 1);
        let questions = || redis.calls("eval") + redis.calls("exists");
        let earlier = questions();
        waits.send_cmd(&["GET", &key]);
        std::thread::sleep(LOAD); // so long does it take
        asked.push(questions() - earlier);
        origin.release();
        assert_eq!(loads.value(), bulk(format!("/render/{round} 1")));
        let ended = Instant::now();
        assert_eq!(waits.value(), bulk(format!("/render/{round} 1")));
        late.push(ended.elapsed());
        assert_eq!(origin.count(), before + 1);
    }
    println!("asked {asked:?}; {late:?} behind the loader's own client");
    if tells {
        assert!(asked.iter().all(|asked| *asked < 20), "{asked:?} questions for a load of {LOAD:?}");
        assert!(late.iter().min() < Some(&Duration::from_millis(100)), "{late:?}");
    }
}

#[test]
fn a_crema_that_ends_in_the_midst_of_a_load_leaves_no_token() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let settings = pages(&format!("http://{}/{{1}}", origin.addr()), "load_timeout = \"60s\"\nrefresh_ahead = true");
    let file = NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), settings).expect("it can be written");
    let start =
        || Crema::over(redis.addr()).flag("--config", file.path().display()).flag("--drain-timeout", "50ms").start();
    let (mut loader, other, mut direct) = (start(), start(), redis.client());
    if other.is_direct() {
        return;
    }
    origin.hold();
    let (mut doomed, mut waits) = (loader.client(), other.client());
    doomed.send_cmd(&["MGET", "page:a", "page:b"]);
    origin.await_requests(2);
    assert_eq!(direct.cmd(&["EXISTS", "crema:load:page:a", "crema:load:page:b"]), int(2));
    waits.send_cmd(&["GET", "page:a"]);
    loader.terminate();
    origin.await_requests(3);
    eventually("it has ended", || loader.exit_status().is_some());
    eventually("its last words are heard", || direct.cmd(&["EXISTS", "crema:load:page:b"]) == int(0));
    origin.release();
    assert_eq!(waits.value(), bulk("/a 2"));
}

#[test]
fn a_loader_that_is_killed_at_any_moment_strands_nobody() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let start = || with_origin(&redis, &origin, "load_timeout = \"1s\"");
    let other = start();
    if other.0.is_direct() {
        return;
    }
    origin.says(|path, _| {
        std::thread::sleep(Duration::from_millis(4)); // so long does a load take
        Answer::value(path)
    });
    let mut replaced = 0;
    for round in 0..16 {
        let (mut loader, key) = (start(), format!("page:{round}"));
        assert!(!get(&mut loader.0.client(), "page:warm").is_error()); // its connections are made
        let (mut doomed, mut waits, before) = (loader.0.client(), other.0.client(), origin.count());
        doomed.send_cmd(&["GET", &key]);
        std::thread::sleep(Duration::from_micros(500 * round));
        waits.send_cmd(&["GET", &key]);
        loader.0.signal(rustix::process::Signal::KILL);
        let killed = Instant::now();
        assert_eq!(waits.value(), bulk(format!("/render/{round}")));
        assert!(killed.elapsed() < TIMEOUT * 3, "after {:?}", killed.elapsed());
        eventually("it is dead", || loader.0.exit_status().is_some());
        replaced += usize::from(origin.count() == before + 2);
        assert!(origin.count() <= before + 2);
        assert_eq!(get(&mut redis.client(), &key), bulk(format!("/render/{round}")));
        assert_eq!(redis.client().cmd(&["KEYS", "crema:*"]), array([]));
    }
    println!("{replaced} were replaced in the midst of a load");
}

#[test]
fn a_loader_that_dies_is_replaced_within_its_deadline_and_nobody_hangs() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let start = || with_origin(&redis, &origin, "load_timeout = \"1s\"");
    let other = start();
    if other.0.is_direct() {
        return;
    }
    let mut soonest = Duration::MAX;
    for round in 0..10 {
        let (mut loader, key) = (start(), format!("page:{round}"));
        let before = origin.count();
        origin.hold();
        let mut doomed = loader.0.client();
        doomed.send_cmd(&["GET", &key]);
        origin.await_requests(before + 1);
        let begun = Instant::now();
        let mut waits = other.0.client();
        waits.send_cmd(&["GET", &key]);
        loader.0.signal(rustix::process::Signal::KILL);
        eventually("it is dead", || loader.0.exit_status().is_some());
        origin.await_requests(before + 2);
        soonest = soonest.min(begun.elapsed());
        origin.release();
        assert_eq!(waits.value(), bulk(format!("/render/{round} 2")));
        assert!(doomed.try_value().is_err());
        if soonest < TIMEOUT + Duration::from_millis(100) {
            return;
        }
    }
    panic!("replaced after {soonest:?} at the soonest"); // a machine that does much else is late now and then
}

#[test]
fn a_loader_that_stands_still_comes_too_late() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let start = || with_origin(&redis, &origin, "load_timeout = \"1s\"");
    let ((loader, _), (other, _)) = (&start(), &start());
    if other.is_direct() {
        return;
    }
    origin.hold();
    let mut late = loader.client();
    late.send_cmd(&["GET", "page:k"]);
    origin.await_requests(1);
    loader.signal(rustix::process::Signal::STOP);
    let mut client = other.client();
    client.send_cmd(&["GET", "page:k"]);
    origin.await_requests(2);
    origin.says(|_, _| Answer::value("of the second"));
    origin.release();
    assert_eq!(client.value(), bulk("of the second"));
    assert_eq!(client.cmd(&["SET", "page:k", "written"]), ok());
    loader.signal(rustix::process::Signal::CONT);
    assert_eq!(late.value(), bulk("written"));
    assert_eq!(get(&mut redis.client(), "page:k"), bulk("written"));
}

#[test]
fn so_many_loads_at_once_and_each_origin_for_itself() {
    let (redis, slow, quick) = (Redis::start(), HttpOrigin::start(), HttpOrigin::start());
    let settings = format!(
        "[[origin]]\nmatch = \"slow:*\"\nurl = \"http://{}/{{1}}\"\nmax_concurrent = 2\nload_timeout = \"20s\"\n\
         [[origin]]\nmatch = \"quick:*\"\nurl = \"http://{}/{{1}}\"\nmax_concurrent = 2\n",
        slow.addr(),
        quick.addr()
    );
    let (crema, _file) = with_settings(redis.addr(), &settings);
    if crema.is_direct() {
        return;
    }
    slow.hold();
    let mut clients: Vec<Client> = (0..66).map(|_| crema.client()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send_cmd(&["GET", &format!("slow:{n}")]);
    }
    slow.await_requests(2);
    // Two are under way and 64 wait; there is no more room.
    eventually("the queue is full", || {
        crema.admin("/api/status").is_some_and(|(_, page)| page.contains("\"waiting\":64"))
    });
    assert_fails(&get(&mut crema.client(), "slow:more"), "too many");
    assert_eq!(get(&mut crema.client(), "quick:1"), bulk("/1 1"), "another origin is not held up");
    assert_eq!(slow.count(), 2);
    slow.release();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.value(), bulk(format!("/{n} 1")));
    }
    assert_eq!(slow.most_under_way(), 2);
}

#[test]
fn over_tls_in_http_2_and_over_a_unix_socket() {
    let authority = Authority::new();
    let own = authority.issue("origin", &["127.0.0.1"]);
    let (redis, secure) = (Redis::start(), HttpOrigin::under_tls(&own));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("o.sock");
    let local = HttpOrigin::at(&path);
    let settings = format!(
        "[[origin]]\nmatch = \"secure:*\"\nurl = \"https://{0}/s/{{1}}\"\nca = \"{1}\"\n\
         [[origin]]\nmatch = \"doubted:*\"\nurl = \"https://{0}/d/{{1}}\"\n\
         [[origin]]\nmatch = \"local:*\"\nurl = \"unix://{2}:/l/{{1}}\"\n",
        secure.addr(),
        authority.ca().display(),
        path.display()
    );
    let (crema, _file) = with_settings(redis.addr(), &settings);
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(get(&mut client, "secure:1"), bulk("/s/1 1"));
    assert_eq!(get(&mut client, "secure:2"), bulk("/s/2 1"));
    assert!(secure.seen().iter().all(|seen| seen.version == Version::HTTP_2), "{:?}", secure.seen());
    assert_eq!(get(&mut client, "local:1"), bulk("/l/1 1"));
    assert_eq!(local.seen()[0].version, Version::HTTP_11);
    assert_fails(&get(&mut client, "doubted:1"), "certificate");
    assert_eq!(secure.count(), 2);
}

#[test]
fn no_hostile_key_leaves_the_path_of_its_rule() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let (crema, _file) = with_origin(&redis, &origin, "");
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let keys: [&[u8]; 12] = [
        b"../admin",
        b"..%2fadmin",
        b"%2e%2e/admin",
        b"a?b=c#d",
        b"@evil/x",
        b"http://evil/",
        b"\r\nHost: evil",
        b"x\0y",
        b"\xff\xfe",
        b"..\\x",
        b"//evil/x",
        b";..",
    ];
    for key in keys {
        client.cmd(&[b"GET".as_slice(), &[b"page:", key].concat()]);
    }
    let seen = origin.seen();
    assert!(!seen.is_empty());
    for seen in seen {
        assert!(seen.path.starts_with("/render/") && !seen.path.contains([b'?' as char, '#', '@']), "{seen:?}");
        assert_eq!(seen.headers["host"], origin.addr().to_string());
        assert_eq!(seen.path.matches('/').count(), 2, "{seen:?}");
    }
}

#[test]
fn what_is_read_within_a_transaction_or_a_script_is_redis_alone() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let (crema, _file) = with_origin(&redis, &origin, "");
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let replies = client.pipeline(&[&["MULTI"][..], &["GET", "page:k"], &["EXEC"]]);
    assert_eq!(replies[2], array([Value::Nil]));
    assert_eq!(client.cmd(&["EVAL", "return redis.call('GET', KEYS[1])", "1", "page:k"]), Value::Nil);
    assert_eq!(client.cmd(&["STRLEN", "page:k"]), int(0));
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_value_that_is_read_much_is_loaded_anew_before_its_end() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let (crema, _file) = with_origin(&redis, &origin, "ttl = \"1s\"\nrefresh_ahead = true");
    if crema.is_direct() {
        return;
    }
    origin.says(|_, nth| {
        std::thread::sleep(Duration::from_millis(30)); // so long does a load take
        Answer::value(nth.to_string())
    });
    let mut client = crema.client();
    eventually("it is loaded anew while it is there", || {
        let value = get(&mut client, "page:k");
        assert!(!value.is_nil() && value.text().parse::<u64>().is_ok(), "{value:?}");
        loads(&crema, "refreshed") >= 2
    });
}

#[test]
fn who_joins_a_load_ahead_has_its_value() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let (crema, _file) = with_origin(&redis, &origin, "ttl = \"100ms\"\nrefresh_ahead = true");
    if crema.is_direct() {
        return;
    }
    origin.says(|_, nth| {
        std::thread::sleep(Duration::from_millis(150)); // a value ends before its successor is there
        Answer::value(nth.to_string())
    });
    let mut clients: Vec<Client> = (0..3).map(|_| crema.client()).collect();
    eventually("loads ahead were joined", || {
        for client in &mut clients {
            client.send_cmd(&["GET", "page:k"]);
        }
        for client in &mut clients {
            let value = client.value();
            assert!(!value.is_nil() && value.text().parse::<u64>().is_ok(), "{value:?}");
        }
        loads(&crema, "refreshed") >= 2 && loads(&crema, "joined") >= 2
    });
}

#[test]
fn a_load_ahead_that_fails_is_not_tried_again_at_once() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let file = NamedTempFile::new().expect("a temporary file");
    let settings = pages(&format!("http://{}/{{1}}", origin.addr()), "ttl = \"1s\"\nrefresh_ahead = true");
    std::fs::write(file.path(), settings).expect("it can be written");
    let crema = Crema::over(redis.addr()).flag("--config", file.path().display()).flag("--l1-size", 0).start();
    if crema.is_direct() {
        return;
    }
    origin.says(|_, nth| {
        if nth > 1 {
            return Answer::status(503);
        }
        std::thread::sleep(Duration::from_millis(300));
        Answer::value("v")
    });
    let mut client = crema.client();
    eventually("the value ends", || get(&mut client, "page:k").is_error());
    let failed = loads(&crema, "refresh_failed");
    assert!((1..=5).contains(&failed), "{failed} loads ahead failed");
}

#[test]
fn what_may_not_be_kept_leaves_no_copy_of_before() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let (crema, _file) = with_origin(&redis, &origin, "respect = true\nstale_if_error = \"1h\"");
    if crema.is_direct() {
        return;
    }
    let (mut client, mut direct) = (crema.client(), redis.client());
    assert_eq!(get(&mut client, "page:a"), bulk("/render/a 1"));
    assert_eq!(direct.cmd(&["DEL", "page:a"]), int(1));
    origin.says(|_, _| Answer::value("secret").header("cache-control", "no-store"));
    eventually("it is loaded anew", || get(&mut client, "page:a") == bulk("secret"));
    assert_eq!(direct.cmd(&["KEYS", "*"]), array([]));
    origin.says(|_, _| Answer::status(500));
    assert_fails(&get(&mut client, "page:a"), "500");
}

#[test]
fn what_an_origin_withdraws_comes_out_of_no_tier() {
    let (redis, cold, origin) = (Redis::start(), Redis::start(), HttpOrigin::start());
    let link = Link::to(cold.addr());
    let tier = format!("[[tier]]\nmatch = \"page:*\"\nurl = \"redis://{}\"\ncopy_up = 0\n", link.addr());
    let (crema, _file) = with_origin(&redis, &origin, &format!("respect = true\n{tier}"));
    if crema.is_direct() {
        return;
    }
    let (mut client, mut direct, mut below) = (crema.client(), redis.client(), cold.client());
    let withdrawn = [Answer::status(404), Answer::value("secret").header("cache-control", "no-store")];
    for (n, answer) in withdrawn.into_iter().enumerate() {
        let key = format!("page:{n}");
        origin.says(|_, _| Answer::value("public"));
        assert_eq!(get(&mut client, &key), bulk("public"));
        eventually("it is read again and copied", || {
            get(&mut client, &key);
            below.cmd(&["EXISTS", &format!("crema:0:{key}")]) == int(1)
        });
        assert_eq!(direct.cmd(&["DEL", &key]), int(1));
        let loaded = loads(&crema, "loaded") + loads(&crema, "missing");
        eventually("the tier answers", || get(&mut client, &key) == bulk("public"));
        // The tier is late, so the origin is asked, which has something else by now.
        link.freeze();
        let now = answer.clone();
        origin.says(move |_, _| now.clone());
        let said = get(&mut client, &key);
        assert_ne!(said, bulk("public"));
        assert_eq!(loads(&crema, "loaded") + loads(&crema, "missing"), loaded + 1);
        link.thaw();
        eventually("the tier is well", || crema.count("crema_tier_well", &[]) == 1);
        assert_eq!(below.cmd(&["EXISTS", &format!("crema:0:{key}")]), int(1), "its copy is there");
        for _ in 0..3 {
            assert_eq!(get(&mut client, &key), said);
        }
    }
}

#[test]
fn an_mget_ends_with_the_first_load_that_fails() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let (crema, _file) = with_origin(&redis, &origin, "load_timeout = \"60s\"");
    if crema.is_direct() {
        return;
    }
    origin.hold();
    let (mut client, mut other) = (crema.client(), crema.client());
    assert_fails(&client.cmd(&["MGET", "page:slow", "page:.."]), "another path");
    other.send_cmd(&["GET", "page:slow"]);
    origin.await_requests(1);
    origin.release();
    assert_eq!(other.value(), bulk("/render/slow 1"));
    assert_eq!(origin.count(), 1, "what the MGET began goes on for others");
}

#[test]
fn a_key_that_is_encoded_again_and_again_keeps_nobody_waiting() {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let (crema, _file) = with_origin(&redis, &origin, "");
    if crema.is_direct() {
        return;
    }
    let key = [b"page:%".as_slice(), &b"25".repeat(50_000)].concat();
    assert_fails(&crema.client().cmd(&[b"GET".as_slice(), &key]), "too long a URL");
    assert_eq!(origin.count(), 0);
}

#[test]
fn no_answer_is_older_than_what_was_acknowledged_before_the_question() {
    const PROXIES: usize = 3;
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    // Without memory every answer is of now, in the whole fleet.
    let settings = pages(
        &format!("http://{}/{{1}}", origin.addr()),
        "ttl = \"50ms\"\nload_timeout = \"2s\"\nstale_if_error = \"1s\"",
    );
    let file = NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), settings).expect("it can be written");
    let start = |_| Crema::over(redis.addr()).flag("--config", file.path().display()).flag("--l1-size", 0).start();
    let fleet: [Crema; PROXIES] = std::array::from_fn(start);
    if fleet[0].is_direct() {
        return;
    }
    // As a program does that changes its database, and then what is kept of it.
    let (database, acknowledged, stop) = (Arc::new(AtomicU64::new(0)), AtomicU64::new(0), AtomicBool::new(false));
    let known = Arc::clone(&database);
    origin.says(move |_, nth| {
        let value = known.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(nth as u64 % 7)); // it was computed before it is sent
        if nth % 11 == 0 { Answer::status(500) } else { Answer::value(value.to_string()) }
    });
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for crema in &fleet {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut client = crema.client();
                    while !stop.load(Ordering::Relaxed) {
                        let before = acknowledged.load(Ordering::SeqCst);
                        let value = get(&mut client, "page:k");
                        if value.is_error() {
                            let known = ["500", "again and again"].iter().any(|says| value.text().contains(says));
                            assert!(known, "{value:?}");
                            continue;
                        }
                        let found: u64 = value.text().parse().unwrap_or_else(|_| panic!("{value:?}"));
                        assert!(found >= before, "{found} came behind {before}");
                    }
                });
            }
        }
        let mut writers: Vec<Client> = fleet.iter().map(Crema::client).collect();
        for n in 1..=400_u64 {
            let client = &mut writers[n as usize % PROXIES];
            database.store(n, Ordering::SeqCst);
            let done = match n % 3 {
                0 => client.cmd(&["SET", "page:k", &n.to_string()]),
                1 => client.cmd(&["DEL", "page:k"]),
                _ => client.cmd(&["SET", "page:k", &n.to_string(), "PX", "5"]),
            };
            assert!(!done.is_error(), "{done:?}");
            acknowledged.store(n, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(n % 13)); // loads come between writes
        }
    });
    let sum = |result| fleet.iter().map(|crema| loads(crema, result)).sum::<u64>();
    assert!(
        sum("loaded") > 20 && sum("joined") + sum("found") > 20,
        "{} {} {}",
        sum("loaded"),
        sum("joined"),
        sum("found")
    );
}

#[test]
fn in_a_cluster_what_lies_beside_a_key_lies_in_its_slot() {
    let (cluster, origin) = (Cluster::plan().masters(3).start(), HttpOrigin::start());
    let file = NamedTempFile::new().expect("a temporary file");
    let settings = pages(&format!("http://{}/{{1}}", origin.addr()), "negative = \"1h\"\nstale_if_error = \"1h\"");
    std::fs::write(file.path(), settings).expect("it can be written");
    let crema = cluster.crema().flag("--config", file.path().display()).start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let keys: Vec<String> =
        (0..30).map(|n| format!("page:{n}")).chain(["page:a}b", "page:{x}y", "page:x{}y"].map(str::to_owned)).collect();
    let words: Vec<&str> = std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
    let Value::Array(values) = client.cmd(&words) else { panic!("an array") };
    assert!(values.iter().all(|value| value.text().ends_with(" 1")), "{values:?}");
    for key in &keys {
        assert!(!get(&mut cluster.client_of(key), key).is_nil(), "{key} lies at its node");
    }
    let mut stale = cluster_keys(&cluster, "crema:*stale*");
    assert_eq!(stale, keys.len());
    for key in &keys {
        assert_eq!(client.cmd(&["DEL", key]), int(1));
    }
    stale = cluster_keys(&cluster, "crema:*");
    assert_eq!(stale, 0, "a write takes what lies beside its key along");
    origin.says(|_, _| Answer::status(404));
    let before = origin.count();
    for key in &keys {
        assert_eq!((get(&mut client, key), get(&mut client, key)), (Value::Nil, Value::Nil));
    }
    assert_eq!(origin.count(), before + keys.len());
}

fn cluster_keys(cluster: &Cluster, pattern: &str) -> usize {
    let of = |n: usize| match cluster.client(n).cmd(&["KEYS", pattern]) {
        Value::Array(keys) => keys.len(),
        other => panic!("{other:?}"),
    };
    (0..3).map(of).sum()
}

#[test]
fn a_key_is_loaded_while_its_slot_moves_and_after() {
    let (cluster, origin) = (Cluster::plan().masters(2).start(), HttpOrigin::start());
    let file = NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), pages(&format!("http://{}/{{1}}", origin.addr()), "")).expect("it can be written");
    let crema = cluster.crema().flag("--config", file.path().display()).start();
    if crema.is_direct() {
        return;
    }
    let key = "page:moves";
    let (slot, to) = (common::cluster::slot_of(key), 1 - cluster.owner_of(key));
    let moving = cluster.begin_move(slot, to);
    let mut client = crema.client();
    client.send_cmd(&["GET", key]);
    moving.finish();
    assert_eq!(client.value(), bulk("/moves 1"));
    assert_eq!(get(&mut cluster.client_of(key), key), bulk("/moves 1"));
}
