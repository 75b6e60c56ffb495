//! Coherence by the fleet's channel, on a Redis that refuses CLIENT TRACKING: what is promised of writes through the fleet is
//! what is promised otherwise, and of others only the ceiling of a stay.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{
    AT_LAST, Client, Crema, Link, MAX_STALENESS, Redis, Value, array, bulk, eventually, int, ok, pack, simple,
};

/// A Redis whose only user may do all but have its keys tracked.
fn without_tracking(args: &[&str]) -> Redis {
    let redis = Redis::with(args);
    assert_eq!(redis.client().cmd(&["ACL", "SETUSER", "default", "-client|tracking"]), ok());
    redis
}

fn over(addr: SocketAddr) -> common::proxy::Launch {
    Crema::over(addr).flag("--coherence", "channel")
}

/// Two cremas of one fleet.
fn fleet(redis: &Redis) -> [Crema; 2] {
    [over(redis.addr()).start(), over(redis.addr()).start()]
}

#[test]
fn where_tracking_is_refused_the_channel_caches_and_tracking_says_that_it_does_not() {
    let redis = without_tracking(&[]);
    let tracking = Crema::over(redis.addr()).flag("--coherence", "tracking").start();
    let channel = over(redis.addr()).start();
    redis.client().cmd(&["SET", "k", "v"]);
    let mut client = tracking.client();
    eventually("it says what it may not do", || {
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
        tracking
            .has_logged("cache off for this user, reads go to Redis: it may not use CLIENT TRACKING (coherence = \"channel\" does without)")
    });
    let (_, status) = tracking.admin("/api/status").expect("answers");
    assert!(status.contains("may not use CLIENT TRACKING"), "{status}");
    for _ in 0..50 {
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
    }
    assert_eq!(tracking.outcomes("hit"), 0);

    channel.warm(&["GET", "k"]);
    let says = "changes made through a crema with coherence = ";
    eventually("it is logged", || channel.has_logged(&format!("coherence by channel: {says}")));
    let (_, status) = channel.admin("/api/status").expect("answers");
    assert!(status.contains(r#""coherence":"channel""#) && status.contains(says), "{status}");
    assert!(status.contains(r#""class_seconds":300"#), "{status}");
}

/// The commands of a connection that are not wrapped in a client's own transaction, each with what Redis answers.
#[test]
fn replies_are_those_of_redis() {
    let (redis, twin) = (without_tracking(&[]), Redis::start());
    let crema = over(redis.addr()).start();
    let long = "x".repeat(300_000);
    let longer = "y".repeat(2 << 20);
    let commands: Vec<Vec<&[u8]>> = [
        "SET s 1",
        "SET s 2 GET",
        "SET s",
        "SET s 1 NOSUCH",
        "INCR s",
        "INCR s s",
        "LPUSH s a",
        "DEL s nosuch",
        "SET s abc XX",
        "SET s abc NX GET",
        "RPUSH l a b c",
        "LPOP l 2",
        "LPOP nosuch 2",
        "LPOP nosuch",
        "BLPOP l 0",
        "BLPOP l 0.01",
        "ZADD z 1.5 a",
        "ZINCRBY z 2 a",
        "ZADD z INCR 1 a",
        "ZPOPMIN z",
        "BZPOPMIN z 0.01",
        "HSET h f v g w",
        "HDEL h f",
        "XADD st 1-1 f v",
        "XADD st 1-1 f v",
        "XGROUP CREATE st g 0",
        "XREADGROUP GROUP g c STREAMS st >",
        "XREADGROUP GROUP g c BLOCK 10 STREAMS st >",
        "GETEX h",
        "GETEX s PX 100000",
        "SORT l STORE m",
        "SORT m",
        "SPOP nosuch",
        "EVAL return{1,'a',false,{ok='fine'}} 0",
        "EVAL return{err='no'} 0",
        "EVALSHA ffffffffffffffffffffffffffffffffffffffff 0",
        "EVAL redis.call('set','q','1')return{double=1.5} 0",
        "MSET a 1 b 2",
        "MSET a 1 b",
        "MSETNX a 1 c 2",
        "RENAME a d",
        "RENAME nosuch d",
        "EXPIRE d 100",
        "COPY d e",
        "BITFIELD bf SET u8 0 255",
        "NOSUCH a",
        "FLUSHALL SYNC ASYNC",
        "OBJECT HELP",
        "GET d",
        "SWAPDB 0 0",
        "SWAPDB 0 99",
        "FLUSHDB",
        "GET d",
    ]
    .map(|line| line.split(' ').map(str::as_bytes).collect())
    .into_iter()
    .chain([
        vec![&b"SET"[..], b"\xff\xfe", b"\0\r\n"],
        vec![b"GETDEL", b"\xff\xfe"],
        vec![b"SET", b"long", long.as_bytes()],
        vec![b"SET", b"long", longer.as_bytes(), b"GET"],
        vec![b"GETSET", b"long", b""],
    ])
    .collect();
    for version in [2, 3] {
        let (mut one, mut other) = (Client::speaking(version, crema.addr()), Client::speaking(version, twin.addr()));
        for command in &commands {
            one.send_cmd(command);
            other.send_cmd(command);
            let shown: Vec<String> = command.iter().map(|word| word.escape_ascii().to_string()).collect();
            assert_eq!(
                one.reply().escape_ascii().to_string(),
                other.reply().escape_ascii().to_string(),
                "RESP{version} {:.100}",
                shown.join(" ")
            );
        }
        // All in one pipeline, and then as transactions.
        let expected = other.pipeline(&commands);
        assert_eq!(one.pipeline(&commands), expected);
        for (at, pair) in commands.chunks(2).enumerate() {
            let mut all: Vec<Vec<&[u8]>> = vec![vec![b"MULTI"]];
            all.extend(pair.iter().cloned());
            all.push(vec![if at % 7 == 3 { b"DISCARD" } else { b"EXEC" }]);
            assert_eq!(one.pipeline(&all), other.pipeline(&all), "RESP{version} {at}");
        }
    }
}

#[test]
fn a_write_through_one_is_gone_from_the_other() {
    let redis = without_tracking(&[]);
    let fleet = fleet(&redis);
    let (mut writer, mut own, mut reader) = (fleet[0].client(), fleet[0].client(), fleet[1].client());
    writer.cmd(&["SET", "k", "0"]);
    fleet[0].warm(&["GET", "k"]);
    fleet[1].warm(&["GET", "k"]);
    let mut latest = Duration::ZERO;
    for round in 1..400 {
        let value = round.to_string();
        match round % 8 {
            0 => drop(writer.cmd(&["EVAL", "return redis.call('SET', ARGV[1], ARGV[2])", "0", "k", &value])),
            1 => drop(writer.pipeline(&[&["MULTI"][..], &["SET", "k", &value], &["GET", "k"], &["EXEC"]])),
            2 => drop(writer.pipeline(&[&["WATCH", "k"][..], &["SET", "k", &value], &["UNWATCH"]])),
            3 => drop(writer.pipeline(&[&["MSET", "x", "1", "k", "old"][..], &["SET", "k", &value]])),
            4 => {
                writer.pipeline(&[&["SELECT", "1"][..], &["SET", "k", &value], &["SELECT", "0"], &["DEL", "k"]]);
                assert_eq!(writer.cmd(&["MOVE", "k", "1"]), int(0));
                writer.pipeline(&[&["SELECT", "1"][..], &["MOVE", "k", "0"], &["SELECT", "0"]]);
            }
            _ => drop(writer.cmd(&["SET", "k", &value])),
        }
        let acknowledged = Instant::now();
        assert_eq!(own.cmd(&["GET", "k"]), bulk(&value), "by the same proxy at once, round {round}");
        let mut asked = Duration::ZERO;
        while reader.cmd(&["GET", "k"]) != bulk(&value) {
            assert!(asked <= MAX_STALENESS, "round {round}");
            asked = acknowledged.elapsed();
        }
        latest = latest.max(acknowledged.elapsed());
        // So that there is something to forget.
        for _ in 0..3 {
            reader.cmd(&["GET", "k"]);
        }
    }
    eprintln!("seen by the other after {latest:?} at the latest");
    let hits = fleet[1].outcomes("hit");
    assert!(hits > 100, "{hits} hits");
    assert!(fleet[1].count("crema_channel_messages_total", &[("type", "forget")]) > 300);
    assert_eq!(fleet[0].count("crema_ear_reconnects_total", &[]), 0);
}

#[test]
fn every_road_for_writes_is_told_of() {
    let redis = without_tracking(&[]);
    let fleet = [0, 1].map(|_| over(redis.addr()).flag("--max-value", "4MiB").start());
    let (mut client, mut reader) = (fleet[0].client(), fleet[1].client());
    let long = "v".repeat(3 << 20);
    let mut sees = |what: &str, key: &[u8], expected: Value, write: &mut dyn FnMut(&mut Client)| {
        fleet[1].warm(&[b"GET", key]);
        write(&mut client);
        let deadline = Instant::now() + AT_LAST;
        while reader.cmd(&[b"GET", key]) != expected {
            assert!(Instant::now() < deadline, "{what} is not seen");
        }
    };
    sees("a key that is no text", b"\xff\0", bulk("1"), &mut |c| drop(c.cmd(&[&b"SET"[..], b"\xff\0", b"1"])));
    sees("a large value", b"k", bulk(&long), &mut |c| drop(c.cmd(&["SET", "k", &long])));
    sees("a deletion", b"k", Value::Nil, &mut |c| drop(c.cmd(&["UNLINK", "k"])));
    sees("a home's write", b"k", bulk("home"), &mut |c| {
        c.cmd(&["CLIENT", "ID"]);
        assert_eq!(c.cmd(&["SET", "k", "home"]), ok());
    });
    sees("FLUSHALL", b"k", Value::Nil, &mut |c| assert_eq!(c.cmd(&["FLUSHALL"]), ok()));
    sees("SWAPDB", b"k", bulk("other"), &mut |c| {
        c.pipeline(&[&["SELECT", "1"][..], &["SET", "k", "other"], &["SELECT", "0"]]);
        assert_eq!(c.cmd(&["SWAPDB", "0", "1"]), ok());
    });
    sees("SWAPDB in a transaction", b"k", Value::Nil, &mut |c| {
        let replies = c.pipeline(&[&["MULTI"][..], &["SWAPDB", "0", "1"], &["GET", "k"], &["EXEC"]]);
        assert_eq!(replies[3], array([ok(), Value::Nil]));
    });
    sees("a tainted connection's write", b"k", bulk("tainted"), &mut |c| {
        c.pipeline(&[&["SUBSCRIBE", "news"][..], &["UNSUBSCRIBE", "news"]]);
        assert_eq!(c.cmd(&["SET", "k", "tainted"]), ok());
    });
    // A pop that waits is told of as well, once it is done.
    let (mut popper, mut pusher) = (fleet[0].client(), fleet[1].client());
    fleet[1].warm(&["LLEN", "l"]);
    popper.send_cmd(&["BLPOP", "l", "0"]);
    eventually("it waits", || redis.info("clients", "blocked_clients") == 1);
    assert_eq!(pusher.cmd(&["RPUSH", "l", "a", "b"]), int(2));
    assert_eq!(popper.value(), array([bulk("l"), bulk("a")]));
    eventually("one is left", || reader.cmd(&["LLEN", "l"]) == int(1));
    fleet[1].warm(&["LLEN", "l"]);
    assert_eq!(popper.cmd(&["BLPOP", "l", "0"]), array([bulk("l"), bulk("b")]));
    eventually("none is left", || reader.cmd(&["LLEN", "l"]) == int(0));
}

#[test]
fn a_watch_outlives_a_write_between() {
    let redis = without_tracking(&[]);
    let crema = over(redis.addr()).start();
    let (mut client, mut other) = (crema.client(), crema.client());
    client.cmd(&["SET", "k", "1"]);
    assert_eq!(client.cmd(&["WATCH", "k"]), ok());
    assert_eq!(client.cmd(&["SET", "elsewhere", "1"]), ok());
    assert_eq!(other.cmd(&["SET", "k", "2"]), ok());
    assert_eq!(client.cmd(&["SET", "elsewhere", "2"]), ok(), "done, though what is watched has changed");
    let replies = client.pipeline(&[&["MULTI"][..], &["SET", "k", "3"], &["EXEC"]]);
    assert_eq!(replies, [ok(), simple("QUEUED"), Value::Nil], "and that has not been forgotten");
    assert_eq!(client.cmd(&["MGET", "k", "elsewhere"]), array([bulk("2"), bulk("2")]));
}

/// In a transaction a full Redis refuses everything. So there is a moment until it is known to be full, in which `DEL` is refused
/// too; a write that is refused, or a second, ends it.
#[test]
fn a_full_redis_takes_what_it_would_take() {
    let redis = without_tracking(&["--maxmemory", "100mb", "--maxmemory-policy", "noeviction"]);
    let crema = over(redis.addr()).start();
    let mut client = crema.client();
    client.cmd(&["MSET", "a", "1", "b", "2", "n", "1"]);
    client.cmd(&["RPUSH", "l", "x", "y"]);
    redis.client().cmd(&["CONFIG", "SET", "maxmemory", "1"]);
    let full = |reply: Value| assert!(reply.text().starts_with("OOM"), "{reply:?}");
    full(client.cmd(&["SET", "a", "2"]));
    assert_eq!(client.cmd(&["DEL", "a"]), int(1));
    full(client.cmd(&["SET", "a", "2"]));
    assert_eq!(client.cmd(&["EXPIRE", "b", "100"]), int(1));
    assert_eq!(client.cmd(&["LPOP", "l"]), bulk("x"));
    assert_eq!(client.cmd(&["BLPOP", "l", "1"]), array([bulk("l"), bulk("y")]));
    assert_eq!(client.cmd(&["EVAL", "return redis.call('DEL', 'n')", "0"]), int(1));
    let transaction = [&["MULTI"][..], &["DEL", "none"], &["EXEC"]];
    assert_eq!(client.pipeline(&transaction), redis.client().pipeline(&transaction));
    let replies = client.pipeline(&[&["SET", "a", "3"][..], &["DEL", "b"], &["GET", "b"]]);
    assert_eq!(replies[1..], [int(1), Value::Nil]);
    assert_eq!(client.cmd(&["FLUSHALL"]), ok());
    // That it has memory again is found out, and that it has none, without a write.
    let steps = || redis.calls("exec");
    let whole = |client: &mut Client| {
        let before = steps();
        client.cmd(&["DEL", "none"]);
        steps() > before
    };
    redis.client().cmd(&["CONFIG", "SET", "maxmemory", "100mb"]);
    eventually("deletions go as transactions", || whole(&mut client));
    redis.client().cmd(&["CONFIG", "SET", "maxmemory", "1"]);
    eventually("deletions are taken", || client.cmd(&["DEL", "none"]) == int(0));
}

#[test]
fn what_goes_past_the_fleet_is_seen_when_the_stay_ends_and_ttls_are_kept() {
    let redis = without_tracking(&[]);
    let crema = over(redis.addr()).flag("--class", "400ms").start();
    let (mut client, mut direct) = (crema.client(), redis.client());
    // A stay may be over before the first read, where the machine stands still.
    let untold = (0..5).any(|_| {
        client.cmd(&["SET", "k", "old"]);
        crema.warm(&["GET", "k"]);
        direct.cmd(&["SET", "k", "new"]);
        let (written, mut asked, mut old) = (Instant::now(), Duration::ZERO, 0);
        while client.cmd(&["GET", "k"]) == bulk("old") {
            old += 1;
            assert!(asked < Duration::from_secs(2), "the ceiling ends its stay");
            asked = written.elapsed();
        }
        old > 0
    });
    assert!(untold, "of this write nobody told");
    for _ in 0..20 {
        let (sent, life) = (Instant::now(), Duration::from_millis(60));
        client.cmd(&["SET", "short", "v", "PX", "60"]);
        let acknowledged = Instant::now();
        loop {
            let asked = Instant::now();
            match client.cmd(&["GET", "short"]) {
                Value::Nil => {
                    assert!(Instant::now() >= sent + life);
                    break;
                }
                _ => assert!(asked < acknowledged + life + Duration::from_millis(2), "it has outlived its time"),
            }
        }
    }
    assert!(crema.outcomes("hit") > 100);
}

#[test]
fn a_frozen_link_shows_nothing_older_than_the_bound() {
    let redis = without_tracking(&[]);
    let link = Link::to(redis.addr());
    let (far, near) = (over(link.addr()).start(), over(redis.addr()).start());
    let mut writer = near.client();
    // The lease may have lapsed before the first read, where the machine stands still.
    let answered_for_a_while = (0..5).any(|_| {
        let mut reader = far.client();
        writer.cmd(&["SET", "k", "old"]);
        far.warm(&["GET", "k"]);
        link.freeze();
        assert_eq!(writer.cmd(&["SET", "k", "new"]), ok());
        let acknowledged = Instant::now();
        reader.patience(Duration::from_millis(200));
        let mut stale = 0;
        while acknowledged.elapsed() < Duration::from_secs(2) {
            let asked = acknowledged.elapsed();
            match reader.try_cmd(&["GET", "k"]) {
                Ok(value) if value == bulk("old") => {
                    assert!(asked <= MAX_STALENESS, "old {asked:?} after the write");
                    stale += 1;
                }
                Ok(value) => panic!("{value:?} over a frozen link"),
                Err(_) => break, // the read has gone to Redis, and waits
            }
        }
        link.thaw();
        let mut reader = far.client();
        eventually("what was written is seen", || reader.cmd(&["GET", "k"]) == bulk("new"));
        far.warm(&["GET", "k"]);
        stale > 0
    });
    assert!(answered_for_a_while, "L1 answered while its lease lasted");
}

/// A forwarder to Redis that can be told to cut the next connection on which a notice is sent, right in front of it.
struct Cutter {
    addr: SocketAddr,
    armed: Arc<AtomicBool>,
}

impl Cutter {
    fn to(target: SocketAddr) -> Cutter {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (addr, armed) = (listener.local_addr().expect("it is bound"), Arc::new(AtomicBool::new(false)));
        let cuts = Arc::clone(&armed);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let far = TcpStream::connect(target).expect("the server accepts");
                let (reader, writer) = (far.try_clone().expect("a socket"), near.try_clone().expect("a socket"));
                let cuts = Arc::clone(&cuts);
                std::thread::spawn(move || carry(near, far, Some(&cuts)));
                std::thread::spawn(move || carry(reader, writer, None));
            }
        });
        Cutter { addr, armed }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, cuts: Option<&AtomicBool>) {
    let mut chunk = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut chunk) {
        let at = chunk[..len].windows(7).position(|seven| seven == b"pUBLISH");
        let cut = at.filter(|_| cuts.is_some_and(|cuts| cuts.swap(false, Ordering::SeqCst)));
        if to.write_all(&chunk[..cut.unwrap_or(len)]).is_err() || cut.is_some() {
            break;
        }
    }
    // What was read is to be seen by the other side before the end is.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Both);
}

#[test]
fn a_connection_lost_in_front_of_a_notice_leaves_nothing_old() {
    let redis = without_tracking(&[]);
    let cutter = Cutter::to(redis.addr());
    let (torn, whole) = (over(cutter.addr).start(), over(redis.addr()).start());
    let lost = |first: &[&str], command: &[&str]| {
        let mut client = torn.client();
        client.cmd(first); // so that there is a connection
        whole.client().cmd(&["SET", "k", "old"]);
        whole.warm(&["GET", "k"]);
        cutter.armed.store(true, Ordering::SeqCst);
        if let Ok(reply) = client.try_cmd(command) {
            assert!(reply.text().contains("may or may not have been applied"), "{reply:?}");
        }
        assert!(!cutter.armed.load(Ordering::SeqCst));
    };
    for write in [&["SET", "k", "new"][..], &["DEL", "k"], &["EVAL", "redis.call('DEL', 'k')", "0"]] {
        lost(&["SET", "other", "v"], write);
        assert_eq!(redis.client().cmd(&["GET", "k"]), bulk("old"), "with no notice there is no write");
    }
    lost(&["WATCH", "other"], &["DEL", "k"]);
    assert_eq!(redis.client().cmd(&["GET", "k"]), Value::Nil, "it was done without one");
    let mut reader = whole.client();
    eventually("all is forgotten", || reader.cmd(&["GET", "k"]).is_nil());
}

#[test]
fn a_crema_that_is_killed_in_the_midst_of_writes_leaves_nothing_old() {
    let redis = without_tracking(&[]);
    let other = over(redis.addr()).flag("--threads", 1).start(); // so that it has one lane
    let keys: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    let mut reader = other.client();
    let mut torn = 0;
    for round in 0..10 {
        let doomed = over(redis.addr()).start();
        let mut writer = doomed.client();
        for key in &keys {
            writer.cmd(&["SET", key, &format!("before {round}")]);
            reader.cmd(&["GET", key]);
        }
        other.warm(&["GET", "k0"]);
        let value = format!("after {round}");
        // More than a socket holds, so that not all can have left.
        let filler = "x".repeat(100_000);
        let pipeline: Vec<Vec<&str>> = keys
            .iter()
            .map(|key| match round % 3 {
                0 => vec!["MSET", "filler", &filler, key, &value],
                1 => vec!["DEL", key, &filler],
                _ => vec!["EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", "1", key, &value, &filler],
            })
            .collect();
        writer.send(&pipeline.iter().flat_map(|command| pack(command)).collect::<Vec<u8>>());
        std::thread::sleep(Duration::from_micros(300 * round));
        drop(doomed);
        let mut direct = redis.client();
        eventually("its connections have ended", || {
            redis.client_list().iter().filter(|client| client.contains("name=crema-lane")).count() == 1
        });
        let now: Vec<Value> = keys.iter().map(|key| direct.cmd(&["GET", key])).collect();
        let old = bulk(format!("before {round}"));
        torn += u32::from(now.contains(&old) && now.iter().any(|value| *value != old));
        for (key, now) in keys.iter().zip(&now) {
            eventually("nothing old is shown", || reader.cmd(&["GET", key]) == *now);
        }
    }
    eprintln!("{torn} of 10 had written some and not all");
}

#[test]
fn a_user_without_the_channel_writes_nothing_in_silence_and_has_no_l1() {
    let redis = without_tracking(&[]);
    redis.client().cmd(&["ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "resetchannels"]);
    let crema = over(redis.addr()).start();
    let mut client = crema.client();
    client.cmd(&["AUTH", "app", "pw"]);
    assert!(client.cmd(&["SET", "k", "v"]).text().starts_with("NOPERM"), "it could not be told");
    assert!(client.cmd(&["GET", "k"]).is_nil(), "and so was not done");
    let replies = client.pipeline(&[&["MULTI"][..], &["SET", "k", "v"], &["EXEC"]]);
    assert!(replies[2].text().starts_with("NOPERM"), "{replies:?}");
    eventually("why it has no L1 is told", || {
        client.cmd(&["GET", "k"]);
        crema.has_logged("it may not subscribe to the fleet's channel")
    });
    assert_eq!(client.cmd(&["GET", "k"]), Value::Nil);
}

/// The notice of a blocking command is answered behind its reply, on the same connection: the reply must be read to its end.
#[test]
fn a_long_reply_that_waits_for_its_notice_comes_whole() {
    let redis = without_tracking(&[]);
    let crema = over(redis.addr()).start();
    let long = "x".repeat(3 << 20);
    redis.client().cmd(&["RPUSH", "l", &long]);
    assert_eq!(crema.client().cmd(&["BLPOP", "l", "0"]), array([bulk("l"), bulk(&long)]));
}

/// What a client takes for queued is done at once then, and no EXEC tells of it.
#[test]
fn writes_behind_a_refused_multi_are_told_of() {
    let redis = without_tracking(&[]);
    redis.client().cmd(&["ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-multi", "-client|tracking"]);
    let [one, other] = fleet(&redis);
    redis.client().cmd(&["SET", "k", "old"]);
    let mut client = one.client();
    client.cmd(&["AUTH", "app", "pw"]);
    assert!(client.cmd(&["MULTI"]).text().starts_with("NOPERM"));
    other.warm(&["GET", "k"]);
    assert_eq!(client.cmd(&["SET", "k", "new"]), ok());
    eventually("the other hears of it", || other.client().cmd(&["GET", "k"]) == bulk("new"));
}

#[test]
fn what_cannot_be_read_makes_all_be_forgotten() {
    let redis = without_tracking(&[]);
    let crema = over(redis.addr()).start();
    let mut direct = redis.client();
    crema.client().cmd(&["SET", "k", "1"]);
    for (round, payload) in ["{", r#"{"type":"Later","key":"k"}"#, &"x".repeat(3 << 20)].into_iter().enumerate() {
        crema.warm(&["GET", "k"]);
        let value = format!("new {round}");
        direct.cmd(&["SET", "k", &value]);
        direct.cmd(&["PUBLISH", "cache:invalidate", payload]);
        eventually("it is read anew", || crema.client().cmd(&["GET", "k"]) == bulk(&value));
    }
}
