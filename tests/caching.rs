//! What L1 answers, what it costs Redis, and for how long: hits, joined flights, promotion, expiry.

use std::time::{Duration, Instant};

use common::{Client, Crema, Link, MAX_STALENESS, Redis, Value, WORKERS, array, bulk, eventually, int, ok, pack};

#[test]
fn a_key_read_a_hundred_thousand_times_costs_redis_fewer_than_twenty_gets() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    let mut clients = [crema.client(), crema.resp3(), crema.client(), crema.resp3()];
    assert_eq!(clients[0].cmd(&["SET", "hot", "value"]), ok());
    crema.warm(&["GET", "hot"]);
    let batch: Vec<u8> = (0..100).flat_map(|_| pack(&["GET", "hot"])).collect();
    let gets = crema.with_lease(|| {
        redis.calls_in("get", || {
            for _ in 0..250 {
                for client in &mut clients {
                    client.send(&batch);
                    (0..100).for_each(|_| assert_eq!(client.value(), bulk("value")));
                }
            }
        })
    });
    assert!(gets < 20, "{gets} GETs reached Redis");
}

#[test]
fn xrange_is_answered_from_l1_under_each_of_its_arguments_until_the_stream_changes() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    client.cmd(&["XADD", "s", "1-0", "f", "v"]);
    client.cmd(&["XADD", "s", "2-0", "f", "w"]);
    let all = ["XRANGE", "s", "-", "+"];
    let first = ["XRANGE", "s", "-", "+", "COUNT", "1"];
    crema.warm(&all);
    crema.warm(&first);
    let reads = crema.with_lease(|| {
        redis.calls_in("xrange", || {
            for _ in 0..1_000 {
                assert_eq!(client.cmd(&all).items().len(), 2);
                assert_eq!(client.cmd(&first).items().len(), 1);
            }
        })
    });
    assert!(reads < 20, "{reads} XRANGEs reached Redis");

    client.cmd(&["XADD", "s", "3-0", "f", "x"]);
    assert_eq!(client.cmd(&all).items().len(), 3);
    redis.client().cmd(&["XDEL", "s", "1-0"]);
    let second = bulk("2-0");
    eventually("a direct writer's change shows under both", || {
        client.cmd(&all).items().len() == 2 && client.cmd(&first).items()[0].items()[0] == second
    });
}

#[test]
fn a_key_that_is_missing_is_remembered_as_missing_until_it_is_written() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    for mut client in [crema.client(), crema.resp3()] {
        crema.warm(&["GET", "none"]);
        let gets = crema.with_lease(|| {
            redis.calls_in("get", || {
                (0..1_000).for_each(|_| assert_eq!(client.cmd(&["GET", "none"]), Value::Nil));
            })
        });
        assert!(gets < 20, "{gets} GETs reached Redis");
        // By a direct writer: within the bound, in practice at once. Through the proxy: at once.
        redis.client().cmd(&["SET", "none", "direct"]);
        let (written, mut asked) = (Instant::now(), Duration::ZERO);
        while client.cmd(&["GET", "none"]) != bulk("direct") {
            assert!(asked <= MAX_STALENESS, "a direct write unseen for longer than max_staleness");
            asked = written.elapsed();
        }
        client.cmd(&["DEL", "none"]);
        assert_eq!(client.cmd(&["GET", "none"]), Value::Nil);
        client.cmd(&["SETNX", "none", "own"]);
        assert_eq!(client.cmd(&["GET", "none"]), bulk("own"));
        client.cmd(&["DEL", "none"]);
    }
}

#[test]
fn a_thousand_clients_of_one_cold_key_cost_one_read_a_worker_and_one_fill() {
    let redis = Redis::start();
    redis.client().cmd(&["SET", "cold", "value"]);
    let value = bulk("value");
    ask_all_at_once(&redis, &["GET", "cold"], "get", &value, false);
}

#[test]
fn a_thousand_clients_of_one_cold_stream_cost_one_read_a_worker_and_one_fill() {
    let redis = Redis::start();
    redis.client().cmd(&["XADD", "cold", "1-1", "f", "v"]);
    let entries = array([array([bulk("1-1"), array([bulk("f"), bulk("v")])])]);
    ask_all_at_once(&redis, &["XRANGE", "cold", "-", "+"], "xrange", &entries, false);
}

#[test]
fn a_leader_whose_client_leaves_strands_nobody() {
    let redis = Redis::start();
    redis.client().cmd(&["SET", "cold", "value"]);
    ask_all_at_once(&redis, &["GET", "cold"], "get", &bulk("value"), true);
    redis.client().cmd(&["XADD", "stream", "1-1", "f", "v"]);
    let entries = array([array([bulk("1-1"), array([bulk("f"), bulk("v")])])]);
    ask_all_at_once(&redis, &["XRANGE", "stream", "-", "+"], "xrange", &entries, true);
}

/// The script's keys are not known, so no stamp tells that the flight of another session is older.
#[test]
fn with_l1_off_a_read_behind_its_own_script_joins_no_older_flight() {
    let redis = Redis::start();
    redis.client().cmd(&["SET", "k", "old"]);
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).flag("--l1-size", 0).flag("--threads", 1).start();
    if crema.is_direct() {
        return;
    }
    let (mut one, mut other) = (crema.client(), crema.client());
    assert_eq!((one.cmd(&["GET", "k"]), other.cmd(&["GET", "k"])), (bulk("old"), bulk("old")));
    link.delay(Duration::from_millis(200));
    let before = crema.taken_up();
    one.send_cmd(&["GET", "k"]);
    eventually("the other session's read is under way", || crema.taken_up() > before);
    let script = ["EVAL", "return redis.call('SET', 'k', 'new')", "0"];
    assert_eq!(other.pipeline(&[&script[..], &["GET", "k"]]), [ok(), bulk("new")]);
    assert_eq!(one.value(), bulk("old"));
}

/// Has a thousand clients send one read while Redis is 300 ms away. The default promotion (1 in 10) would leave a lone
/// reader's key below; that others joined must raise it at once.
fn ask_all_at_once(redis: &Redis, read: &[&str], stat: &str, value: &Value, leader_leaves: bool) {
    common::lift_open_files();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).flag("--promote", 1_000_000).start();
    if crema.is_direct() {
        return;
    }
    let mut clients: Vec<Client> = (0..1_000).map(|_| crema.client()).collect();
    // Every session is known to be served, and every lane to be open, before the clock matters.
    for client in &mut clients {
        assert_eq!(client.cmd(&["GET", "other"]), Value::Nil);
    }
    let before = redis.calls(stat);
    link.delay(Duration::from_millis(300));
    let began = Instant::now();
    let bytes = pack(read);
    if leader_leaves {
        let (mut leader, before) = (clients.remove(0), crema.taken_up());
        leader.send(&bytes);
        eventually("the leader's read is under way", || crema.taken_up() > before);
        drop(leader);
    }
    for client in &mut clients {
        client.send(&bytes);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.value(), *value, "client {n}");
    }
    let took = began.elapsed();
    link.delay(Duration::ZERO);
    let fills = || crema.count("crema_fills_total", &[("outcome", "stored")]);
    eventually("L1 is filled with what many asked for", || fills() >= 1);
    // Whose request was taken up too late found the first flights landed, and may lead another. Each takes its 300 ms.
    let rounds = u64::try_from(took.as_millis()).expect("small") / 300;
    let calls = redis.calls(stat) - before;
    assert!(calls <= rounds * (WORKERS + 1), "{calls} reads reached Redis; {rounds} round(s) of {WORKERS} and a fill");
    assert!(fills() <= rounds, "{} fills in {rounds} round(s)", fills());
    assert!(calls > 1, "the fill is a read of its own");
    let spared = crema.outcomes("joined") + if rounds > 1 { crema.outcomes("hit") } else { 0 };
    assert!(spared >= 900, "{spared} joined");
    let before = crema.outcomes("hit");
    eventually("L1 answers, now that Redis is near", || {
        clients[0].cmd(read);
        crema.outcomes("hit") > before
    });
}

#[test]
fn promotion_of_one_in_ten_fills_about_one_key_in_ten_and_none_at_all_when_it_is_off() {
    let redis = Redis::start();
    for (promote, range) in [("10", 50..=160), ("0", 0..=0), ("1", 950..=1_000)] {
        let crema = Crema::over(redis.addr()).flag("--promote", promote).start();
        if crema.is_direct() {
            return;
        }
        let mut client = crema.client();
        if promote != "0" {
            crema.warm(&["GET", "first"]); // so that there is an ear, which drops nothing
        }
        let count = |name| crema.count(name, &[]);
        let [asked, done, entries] = ["crema_promotions_total", "crema_fills_total", "crema_l1_entries"];
        let before = [asked, done, entries].map(count);
        for key in 0..1_000 {
            client.cmd(&["GET", &format!("key:{key}")]);
        }
        eventually("the fills are done", || count(done) - before[1] >= count(asked) - before[0]);
        let entries = count(entries) - before[2];
        assert!(range.contains(&entries), "--promote {promote}: {entries} entries of 1,000 keys");
    }
}

/// The figure of the admin page, and the process's own memory, which cannot be talked out of it.
#[test]
fn l1_stays_under_its_size() {
    const SIZE: u64 = 8 << 20;
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).flag("--l1-size", "8MiB").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let value = "v".repeat(1_000);
    let mut before = 0;
    for round in 0..4 {
        for batch in 0..100 {
            let keys: Vec<String> = (0..100).map(|n| format!("{round}:{batch}:{n}")).collect();
            let sets: Vec<[&str; 3]> = keys.iter().map(|key| ["SET", key.as_str(), &value]).collect();
            client.pipeline(&sets);
            let gets: Vec<[&str; 2]> = keys.iter().map(|key| ["GET", key.as_str()]).collect();
            for _ in 0..2 {
                client.pipeline(&gets);
            }
            let bytes = crema.count("crema_l1_bytes", &[]);
            assert!(bytes <= SIZE, "{bytes} bytes in L1");
        }
        if round == 0 {
            before = common::resident(crema.pid());
        }
    }
    let stored = crema.count("crema_fills_total", &[("outcome", "stored")]);
    assert!(stored > 16_000, "{stored} fills of 1,000 bytes are not twice what there is room for");
    let grown = common::resident(crema.pid()).saturating_sub(before);
    // After the first 10 MB it was full; what it grows from then on is not L1's to take.
    assert!(grown < SIZE, "grew by {grown} bytes after it was full");
}

/// Redis keeps a key to the end of the millisecond in which its time ends: at least 50 ms, at most 51.
#[test]
fn a_key_with_px_50_is_neither_served_after_its_time_nor_lost_before_it() {
    const LIFE: Duration = Duration::from_millis(50);
    const MARGIN: Duration = Duration::from_millis(1);
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut owner = redis.client();
    let mut reader = crema.client();
    let (mut early, mut late) = (0, 0);
    let took_part = || crema.is_direct() || crema.outcomes("hit") > 600;
    // As many as it takes for the reads to mean something.
    for round in 0.. {
        if round >= 60 && early > 600 && late > 60 && took_part() {
            break;
        }
        assert!(round < 2_000, "too few reads to mean anything: {early} early, {late} late; or L1 took no part");
        let (key, value) = (format!("px:{round}"), bulk(format!("value {round}")));
        let before = Instant::now();
        // Half of the keys are written past the proxy, half through it.
        let writer = if round % 2 == 0 { &mut owner } else { &mut reader };
        assert_eq!(writer.cmd(&["SET", &key, &value.text(), "PX", "50"]), ok());
        let after = Instant::now();
        loop {
            let sent = Instant::now();
            let answer = reader.cmd(&["GET", &key]);
            let received = Instant::now();
            if received < before + LIFE {
                assert_eq!(answer, value, "lost {:?} before its time", before + LIFE - received);
                early += 1;
            }
            if sent > after + LIFE + MARGIN {
                assert_eq!(answer, Value::Nil, "served {:?} after its time", sent - (after + LIFE));
                late += 1;
            }
            if sent > after + LIFE + Duration::from_millis(8) {
                break;
            }
        }
    }
}

#[test]
fn a_changed_lifetime_holds_from_the_moment_it_is_acknowledged() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    client.cmd(&["SET", "k", "v"]);
    crema.warm(&["GET", "k"]);
    let set = Instant::now();
    assert_eq!(client.cmd(&["PEXPIRE", "k", "60"]), int(1));
    crema.warm(&["GET", "k"]);
    eventually("the key expires", || client.cmd(&["GET", "k"]).is_nil());
    assert!(set.elapsed() > Duration::from_millis(55), "expired after {:?} of 60 ms", set.elapsed());

    let set = Instant::now();
    client.cmd(&["SET", "k", "v", "PX", "100"]);
    crema.warm(&["GET", "k"]);
    if client.cmd(&["PERSIST", "k"]) == int(1) {
        while set.elapsed() < Duration::from_millis(130) {
            assert_eq!(client.cmd(&["GET", "k"]), bulk("v"), "lost, though it was to stay");
        }
    } else {
        assert!(set.elapsed() > Duration::from_millis(90), "not there to be made to stay");
    }
}

#[test]
fn databases_are_kept_apart() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut clients: Vec<Client> = (0..3).map(|n| Client::speaking(2 + n % 2, crema.addr())).collect();
    for (db, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.cmd(&["SELECT", &db.to_string()]), ok());
        assert_eq!(client.cmd(&["SET", "same", &format!("in {db}")]), ok());
    }
    for _ in 0..200 {
        for (db, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.cmd(&["GET", "same"]), bulk(format!("in {db}")));
        }
    }
    // One connection that goes round, with hits at hand in each.
    let mut rover = crema.client();
    for db in [0, 1, 2, 1, 0, 2, 0].repeat(20) {
        let replies = rover.pipeline(&[&["SELECT", &db.to_string()][..], &["GET", "same"]]);
        assert_eq!(replies, [ok(), bulk(format!("in {db}"))]);
    }
    assert_eq!(clients[0].cmd(&["SWAPDB", "0", "1"]), ok());
    assert_eq!(clients[0].cmd(&["GET", "same"]), bulk("in 1"));
    assert_eq!(clients[1].cmd(&["GET", "same"]), bulk("in 0"));
    assert_eq!(clients[2].cmd(&["FLUSHDB"]), ok());
    assert_eq!(clients[2].cmd(&["GET", "same"]), Value::Nil);
    assert_eq!(clients[0].cmd(&["GET", "same"]), bulk("in 1"));
    assert_eq!(clients[1].cmd(&["FLUSHALL"]), ok());
    assert!(clients.iter_mut().all(|client| client.cmd(&["GET", "same"]).is_nil()));
}

/// Messages of the fleet's channel make crema forget, whoever sends them, and nothing more.
#[test]
fn a_message_on_the_channel_makes_crema_read_anew() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    crema.await_channel();
    let mut direct = redis.client();
    direct.cmd(&["MSET", "user:1", "one", "user:2", "two", "other", "three"]);
    let messages = [
        r#"{"origin_id":"t","type":"Remove","key":"user:1"}"#,
        r#"{"origin_id":"t","type":"RemoveBulk","keys":["user:2","user:1"]}"#,
        r#"{"origin_id":"t","type":"RemovePattern","pattern":"user:*"}"#,
        r#"{"origin_id":"t","type":"Update","key":"user:1","value":"6f6e65","ttl_secs":60}"#,
    ];
    let labels = ["remove", "remove_bulk", "remove_pattern", "update"];
    for (message, label) in messages.into_iter().zip(labels) {
        crema.warm(&["GET", "user:1"]);
        let heard = || crema.count("crema_channel_messages_total", &[("type", label)]);
        let before = heard();
        let gets = redis.calls("get");
        assert_eq!(direct.cmd(&["PUBLISH", "cache:invalidate", message]), int(1), "crema listens");
        eventually("the message is heard", || heard() > before);
        let mut client = crema.client();
        assert_eq!(client.cmd(&["GET", "user:1"]), bulk("one"));
        assert!(redis.calls("get") > gets, "answered from L1 after {message}");
    }
    assert_eq!(redis.calls("set"), 0, "crema writes nothing that it heard");
}
