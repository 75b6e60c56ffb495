//! What cannot share a connection: transactions, blocking commands, subscriptions, and commands about the connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::value::shown;
use common::{Client, Crema, Link, MAX_STALENESS, Redis, Value, WORKERS, array, bulk, eventually, int, ok, simple};

/// Optimistic locking as applications do it. A read within WATCH that L1 answered would lose updates here.
#[test]
fn counters_kept_by_watch_and_exec_lose_no_update() {
    let redis = Redis::start();
    let proxies = [Crema::start(&redis), Crema::start(&redis)];
    redis.client().cmd(&["SET", "n", "0"]);
    let done = AtomicU64::new(0);
    let readers_stop = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let mut writers = Vec::new();
        for n in 0..6_u8 {
            let addr = if n % 3 == 2 { redis.addr() } else { proxies[usize::from(n % 3)].addr() };
            let done = &done;
            writers.push(scope.spawn(move || {
                let mut client = Client::speaking(2 + n % 2, addr);
                for _ in 0..150 {
                    while !add_one(&mut client) {}
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        // Keeps the key hot, so that L1 would have it.
        for proxy in &proxies {
            let stop = &readers_stop;
            scope.spawn(move || {
                let mut client = proxy.client();
                while stop.load(Ordering::Relaxed) == 0 {
                    client.cmd(&["GET", "n"]);
                }
            });
        }
        let ended: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        readers_stop.store(1, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
    assert_eq!(redis.client().cmd(&["GET", "n"]).number(), 900);
    assert_eq!(done.load(Ordering::Relaxed), 900);
}

/// One try; whether it counted.
fn add_one(client: &mut Client) -> bool {
    assert_eq!(client.cmd(&["WATCH", "n"]), ok());
    let n = client.cmd(&["GET", "n"]).number();
    let replies = client.pipeline(&[&["MULTI"][..], &["SET", "n", &(n + 1).to_string()], &["EXEC"]]);
    assert_eq!(replies[..2], [ok(), simple("QUEUED")]);
    !replies[2].is_nil()
}

#[test]
fn a_watched_key_that_anybody_changes_fails_the_transaction() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    let mut others = [redis.client(), crema.client(), crema.resp3()];
    for (n, other) in others.iter_mut().enumerate() {
        assert_eq!(client.cmd(&["WATCH", "w", "v"]), ok());
        other.cmd(&["SET", "w", &n.to_string()]);
        let replies = client.pipeline(&[&["MULTI"][..], &["SET", "w", "mine"], &["EXEC"]]);
        assert_eq!(replies[2], Value::Nil);
        assert_eq!(client.cmd(&["GET", "w"]), bulk(n.to_string()));
    }
    // Forgotten by UNWATCH, by EXEC and by DISCARD.
    for forget in [&[&["UNWATCH"][..]][..], &[&["MULTI"], &["EXEC"]], &[&["MULTI"], &["DISCARD"]]] {
        client.cmd(&["WATCH", "w"]);
        others[0].cmd(&["INCR", "w"]);
        client.pipeline(forget);
        let replies = client.pipeline(&[&["MULTI"][..], &["INCR", "w"], &["EXEC"]]);
        assert!(matches!(replies[2], Value::Array(_)), "{replies:?}");
    }
}

#[test]
fn a_transaction_shows_to_all_at_once() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    let mut reader = crema.client();
    for n in 0..300 {
        let value = n.to_string();
        client.cmd(&["MULTI"]);
        client.cmd(&["SET", "a", &value]);
        client.cmd(&["SET", "b", &value]);
        let before = reader.cmd(&["MGET", "a", "b"]);
        assert_eq!(before.items()[0], before.items()[1]);
        assert!(n == 0 || before.items()[0] == bulk((n - 1).to_string()), "queued is not done: {before:?}");
        assert_eq!(client.cmd(&["EXEC"]), array([ok(), ok()]));
        assert_eq!(reader.cmd(&["GET", "a"]), bulk(&value));
        assert_eq!(reader.cmd(&["GET", "b"]), bulk(&value));
    }
}

#[test]
fn blocking_commands_are_woken_and_hold_up_nobody() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut waiting: Vec<Client> = (0..10_u8).map(|n| Client::speaking(2 + n % 2, crema.addr())).collect();
    for (n, client) in waiting.iter_mut().enumerate() {
        client.send_cmd(&["BLPOP", &format!("list:{n}"), "other", "0"]);
    }
    eventually("all wait at Redis", || redis.info("clients", "blocked_clients") == 10);
    let mut other = crema.client();
    for (n, client) in waiting.iter_mut().enumerate() {
        assert_eq!(other.cmd(&["RPUSH", &format!("list:{n}"), "item"]), int(1));
        assert_eq!(client.value(), array([bulk(format!("list:{n}")), bulk("item")]));
    }
    // What comes behind a blocking command of its own connection waits, and is answered after it.
    let mut client = crema.client();
    client.send_cmd(&["BLPOP", "list", "0"]);
    client.send_cmd(&["GET", "k"]);
    client.send_cmd(&["LLEN", "list"]);
    assert!(client.is_silent_for(Duration::from_millis(100)));
    other.cmd(&["SET", "k", "v"]);
    other.cmd(&["RPUSH", "list", "a", "b"]);
    assert_eq!(client.value(), array([bulk("list"), bulk("a")]));
    assert_eq!(client.value(), bulk("v"));
    assert_eq!(client.value(), int(1));
    // By its own time, and on a stream.
    let began = Instant::now();
    assert_eq!(client.cmd(&["BLPOP", "none", "0.1"]), Value::Nil);
    assert!(began.elapsed() >= Duration::from_millis(95));
    client.send_cmd(&["XREAD", "BLOCK", "0", "STREAMS", "stream", "$"]);
    eventually("the reader waits", || redis.info("clients", "blocked_clients") == 1);
    other.cmd(&["XADD", "stream", "1-1", "f", "v"]);
    assert_eq!(client.value().items()[0].items()[0], bulk("stream"));
}

#[test]
fn a_client_that_leaves_while_it_waits_ends_its_wait_at_redis_and_takes_no_item() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    client.send_cmd(&["BLPOP", "list", "0"]);
    eventually("it waits at Redis", || redis.info("clients", "blocked_clients") == 1);
    drop(client);
    eventually("its wait ends", || redis.info("clients", "blocked_clients") == 0);
    let mut other = crema.client();
    assert_eq!(other.cmd(&["RPUSH", "list", "item"]), int(1));
    assert_eq!(other.cmd(&["LRANGE", "list", "0", "-1"]), array([bulk("item")]));
}

/// The same commands on two servers, pushes and all, compared byte for byte.
#[test]
fn subscribers_get_the_bytes_that_redis_would_send() {
    let (direct, behind) = (Redis::start(), Redis::start());
    let crema = Crema::start(&behind);
    for version in [2, 3] {
        let mut subscribers = [Client::speaking(version, direct.addr()), Client::speaking(version, crema.addr())];
        let mut publishers = [direct.client(), crema.client()];
        let mut both = |command: &[&str], replies: usize| {
            let got: Vec<Vec<u8>> = subscribers
                .iter_mut()
                .map(|client| {
                    client.send_cmd(command);
                    (0..replies).flat_map(|_| client.reply()).collect()
                })
                .collect();
            assert_eq!(shown(&got[0]), shown(&got[1]), "{command:?} in RESP{version}");
        };
        both(&["GET", "k"], 1);
        both(&["SUBSCRIBE", "a", "b"], 2);
        both(&["PSUBSCRIBE", "p.*"], 1);
        both(&["SSUBSCRIBE", "s"], 1);
        both(&["PING"], 1);
        both(&["PING", "hello"], 1);
        // Refused in RESP2's subscriber mode, answered in RESP3's.
        both(&["GET", "k"], 1);
        both(&["SET", "k"], 1);
        both(&["SUBSCRIBE"], 1);
        for publisher in &mut publishers {
            assert_eq!(publisher.cmd(&["PUBLISH", "a", "to a"]), int(1));
            assert_eq!(publisher.cmd(&["PUBLISH", "p.x", "to a pattern"]), int(1));
            assert_eq!(publisher.cmd(&["SPUBLISH", "s", "to a shard"]), int(1));
            assert_eq!(publisher.cmd(&["PUBLISH", "nobody", "listens"]), int(0));
        }
        both(&["PING", "after"], 4);
        both(&["UNSUBSCRIBE", "a"], 1);
        both(&["PUNSUBSCRIBE"], 1);
        both(&["UNSUBSCRIBE"], 1);
        both(&["SUNSUBSCRIBE"], 1);
        both(&["GET", "k"], 1);
        both(&["SUBSCRIBE", "again"], 1);
        both(&["RESET"], 1);
        both(&["GET", "k"], 1);
    }
}

#[test]
fn a_thousand_messages_reach_every_subscriber_in_order() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut subscribers: Vec<Client> = (0..8_u8).map(|n| Client::speaking(2 + n % 2, crema.addr())).collect();
    for client in &mut subscribers {
        client.cmd(&["SUBSCRIBE", "news"]);
    }
    let mut publisher = crema.client();
    for n in 0..1_000 {
        assert_eq!(publisher.cmd(&["PUBLISH", "news", &n.to_string()]), int(8));
    }
    for client in &mut subscribers {
        for n in 0..1_000 {
            assert_eq!(client.value().items()[2], bulk(n.to_string()));
        }
    }
    let addrs = redis.info("clients", "connected_clients");
    drop(subscribers);
    eventually("their connections end", || redis.info("clients", "connected_clients") <= addrs - 8);
}

#[test]
fn monitor_shows_what_others_do_and_hides_the_proxys_own_ears() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut monitor = crema.client();
    assert_eq!(monitor.cmd(&["MONITOR"]), ok());
    redis.client().cmd(&["SET", "seen", "by monitor"]);
    let mut other = crema.client();
    // Enough reads for fills and leases to pass by.
    let until = Instant::now() + MAX_STALENESS;
    while Instant::now() < until {
        other.cmd(&["GET", "seen"]);
    }
    other.cmd(&["SET", "last", "word"]);
    let lines = monitor.until(b"\"SET\" \"last\" \"word\"\r\n").expect("lines of MONITOR");
    let lines = String::from_utf8_lossy(&lines);
    assert!(lines.contains("\"SET\" \"seen\" \"by monitor\""), "{lines}");
    assert!(lines.lines().all(|line| line.starts_with('+')), "{lines}");
    assert!(!lines.contains("\"PTTL\""), "the ears show: {lines}");
}

#[test]
fn a_connection_that_asks_for_its_id_has_one_of_redis_own() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    let id = client.cmd(&["CLIENT", "ID"]).number().to_string();
    for _ in 0..5 {
        client.cmd(&["SET", "k", "v"]);
        client.cmd(&["GET", "k"]);
        assert_eq!(client.cmd(&["CLIENT", "ID"]).number().to_string(), id, "the same for life");
    }
    let mine = format!("id={id} ");
    assert!(client.cmd(&["CLIENT", "INFO"]).text().starts_with(&mine));
    assert!(redis.client_list().iter().any(|line| line.starts_with(&mine)), "Redis knows it");
    assert_eq!(client.cmd(&["CLIENT", "SETNAME", "worker-7"]), ok());
    assert!(redis.client_list().iter().any(|line| line.starts_with(&mine) && line.contains(" name=worker-7 ")));
    // The fleet's own connections are named, so that an operator can tell them.
    if !crema.is_direct() {
        assert!(redis.client_list().iter().any(|line| line.contains(" name=crema-")));
    }

    let mut waiting = crema.client();
    let id = waiting.cmd(&["CLIENT", "ID"]).number().to_string();
    waiting.send_cmd(&["BLPOP", "none", "0"]);
    eventually("it waits", || redis.info("clients", "blocked_clients") == 1);
    assert_eq!(client.cmd(&["CLIENT", "UNBLOCK", &id, "ERROR"]), int(1));
    assert!(waiting.value().text().starts_with("UNBLOCKED"));
    assert_eq!(client.cmd(&["CLIENT", "KILL", "ID", &id]), int(1));
    assert!(waiting.closes_within(Duration::from_secs(2)), "killed at Redis, closed at the client");
}

#[test]
fn where_redis_keeps_names_they_are_seen_there() {
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).flag("--client-names", "upstream").start();
    let mut client = crema.client();
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), Value::Nil);
    let Value::Array(_) = client.cmd(&["HELLO", "2", "SETNAME", "by-hello"]) else { panic!("HELLO 2 is an array") };
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), bulk("by-hello"));
    assert!(redis.client_list().iter().any(|line| line.contains(" name=by-hello ")));
    assert!(client.cmd(&["CLIENT", "SETNAME", "not valid"]).is_error());
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), bulk("by-hello"));
    assert_eq!(client.cmd(&["CLIENT", "SETNAME", ""]), ok());
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), Value::Nil);
}

/// A client's own tracking works as at Redis, and is not crema's.
#[test]
fn a_client_may_track_keys_itself() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut client = crema.resp3();
    assert_eq!(client.cmd(&["CLIENT", "TRACKING", "ON"]), ok());
    assert_eq!(client.cmd(&["GET", "k"]), Value::Nil);
    redis.client().cmd(&["SET", "k", "v"]);
    assert_eq!(client.value(), Value::Push(vec![bulk("invalidate"), array([bulk("k")])]));
    assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
}

#[test]
fn wait_answers_for_the_writes_of_its_own_session() {
    let redis = Redis::start();
    let replica = Redis::start();
    replica.client().cmd(&["REPLICAOF", "127.0.0.1", &redis.port().to_string()]);
    eventually("the replica follows", || redis.client().cmd(&["WAIT", "1", "100"]) == int(1));
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    for n in 0..20 {
        client.send_cmd(&["SET", "k", &n.to_string()]);
        client.send_cmd(&["WAIT", "1", "5000"]);
        assert_eq!(client.value(), ok());
        assert_eq!(client.value(), int(1));
        assert_eq!(replica.client().cmd(&["GET", "k"]), bulk(n.to_string()), "acknowledged by the replica");
    }
    // With the replica frozen, a write is not acknowledged, and WAIT must say so.
    let _frozen = replica.freeze();
    client.cmd(&["SET", "k", "late"]);
    assert_eq!(client.cmd(&["WAIT", "1", "200"]), int(0));
}

#[test]
fn a_pause_through_the_proxy_holds_writes_and_ends_when_it_is_over() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    client.cmd(&["SET", "k", "before"]);
    crema.warm(&["GET", "k"]);
    let mut writer = crema.client();
    writer.cmd(&["GET", "k"]);
    let began = Instant::now();
    assert_eq!(client.cmd(&["CLIENT", "PAUSE", "2000", "WRITE"]), ok());
    writer.send_cmd(&["SET", "k", "after"]);
    // Reads go on meanwhile, those that Redis must answer among them.
    let mut reader = crema.client();
    for n in 0..10 {
        assert_eq!(reader.cmd(&["GET", "k"]), bulk("before"));
        assert_eq!(reader.cmd(&["GET", &format!("cold:{n}")]), Value::Nil);
    }
    assert!(began.elapsed() < Duration::from_millis(1_900), "reads were held too");
    assert_eq!(writer.value(), ok());
    assert!(began.elapsed() >= Duration::from_millis(1_990), "written after {:?}", began.elapsed());
    assert_eq!(reader.cmd(&["GET", "k"]), bulk("after"));

    // Ended early by another.
    let began = Instant::now();
    assert_eq!(client.cmd(&["CLIENT", "PAUSE", "10000", "WRITE"]), ok());
    writer.send_cmd(&["SET", "k", "freed"]);
    assert!(writer.is_silent_for(Duration::from_millis(100)));
    assert_eq!(crema.client().cmd(&["CLIENT", "UNPAUSE"]), ok());
    assert_eq!(writer.value(), ok());
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(reader.cmd(&["GET", "k"]), bulk("freed"));

    // A pause of everything holds reads as well, hot ones too.
    crema.warm(&["GET", "k"]);
    let began = Instant::now();
    assert_eq!(client.cmd(&["CLIENT", "PAUSE", "300"]), ok());
    assert_eq!(reader.cmd(&["GET", "k"]), bulk("freed"));
    assert!(began.elapsed() >= Duration::from_millis(280), "read after {:?} of a pause", began.elapsed());
}

#[test]
fn a_password_is_asked_of_every_client_whatever_the_proxy_has() {
    let redis = Redis::with(&["--requirepass", "secret"]);
    let crema = Crema::over(redis.addr()).url(format!("redis://:secret@{}", redis.addr())).start();
    let mut owner = crema.client();
    assert_eq!(owner.cmd(&["AUTH", "secret"]), ok());
    owner.cmd(&["SET", "k", "v"]);
    let mut hit = 0;
    for _ in 0..200 {
        hit += u32::from(owner.cmd(&["GET", "k"]) == bulk("v"));
    }
    assert_eq!(hit, 200);
    // Hot in L1 by now, and still not for strangers.
    let mut stranger = crema.client();
    for command in [&["GET", "k"][..], &["PING"], &["SET", "k", "x"], &["MULTI"], &["SUBSCRIBE", "c"], &["SELECT", "1"]]
    {
        assert!(stranger.cmd(command).text().starts_with("NOAUTH"), "{command:?}");
    }
    assert!(stranger.cmd(&["AUTH", "wrong"]).text().starts_with("WRONGPASS"));
    assert!(stranger.cmd(&["GET", "k"]).text().starts_with("NOAUTH"));
    assert!(stranger.cmd(&["HELLO", "3"]).text().starts_with("NOAUTH"));
    assert!(matches!(stranger.cmd(&["HELLO", "3", "AUTH", "default", "secret"]), Value::Map(_)));
    assert_eq!(stranger.cmd(&["GET", "k"]), bulk("v"));
    // A failed AUTH leaves the session as it was, RESET does not.
    assert!(stranger.cmd(&["AUTH", "wrong"]).text().starts_with("WRONGPASS"));
    assert_eq!(stranger.cmd(&["GET", "k"]), bulk("v"));
    assert_eq!(stranger.cmd(&["RESET"]), simple("RESET"));
    assert!(stranger.cmd(&["GET", "k"]).text().starts_with("NOAUTH"));
}

/// Each change of connection waits for what was sent before it, both ways.
#[test]
fn commands_keep_their_order_across_every_change_of_connection() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).start();
    link.delay(Duration::from_millis(2));
    let mut client = crema.client();
    for round in 0..15 {
        let n = |k: i64| (round * 100 + k).to_string();
        let replies = client.pipeline(&[
            &["SET", "k", &n(1)][..],
            &["MULTI"],
            &["GET", "k"],
            &["SET", "k", &n(2)],
            &["EXEC"],
            &["GET", "k"],
            &["SET", "k", &n(3)],
            &["BLPOP", "none", "0.01"],
            &["GET", "k"],
            &["APPEND", "k", "!"],
            &["CLIENT", "ID"],
            &["GET", "k"],
            &["WATCH", "k"],
            &["SET", "k", &n(4)],
            &["UNWATCH"],
            &["GET", "k"],
            &["SELECT", "1"],
            &["SET", "k", &n(5)],
            &["SELECT", "0"],
            &["GET", "k"],
            &["KEYS", "k"],
            &["GET", "k"],
        ]);
        let shows: Vec<Value> = [5, 8, 11, 15, 19, 21].map(|at| replies[at].clone()).into();
        let marked = format!("{}!", n(3));
        assert_eq!(shows, [n(2), n(3), marked, n(4), n(4), n(4)].map(bulk), "round {round}: {replies:?}");
        assert_eq!(replies[4], array([bulk(n(1)), ok()]));
        assert_eq!(replies[20], array([bulk("k")]));
    }
}

/// `REDIS_URL` swapped: what a client library sends when it connects, a thousand times.
#[test]
fn a_thousand_default_connections_make_few_upstream() {
    common::lift_open_files();
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    for version in ["3", "2"] {
        let mut clients: Vec<Client> = (0..1_000).map(|_| crema.client()).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            let key = format!("key:{}", n % 10);
            let replies = client.pipeline(&[
                &["HELLO", version][..],
                &["CLIENT", "SETINFO", "LIB-NAME", "test"],
                &["CLIENT", "SETINFO", "LIB-VER", "1.0"],
                // Newer than the server: an error, which the libraries take for a no.
                &["CLIENT", "MAINT_NOTIFICATIONS", "ON", "moving-endpoint-type", "internal-ip"],
                &["INFO"],
                &["SET", &key, "v"],
                &["GET", &key],
            ]);
            assert_eq!(replies[5..], [ok(), bulk("v")]);
        }
        let list = redis.client_list();
        // A lane for each version and two to lend; for crema itself the rest.
        let most = usize::try_from(3 * WORKERS + 4).expect("small");
        assert!(list.len() <= most, "{} upstream connections for 1,000:\n{}", list.len(), list[..=most].join("\n"));
    }
}
