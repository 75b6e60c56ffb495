//! The stream in which keys to forget are named: what was added is heard, late rather than never, and nothing is left behind.
//!
//! Entries are as the crate multi-tier-cache writes them, and of every other shape that its reliable subscriber reads. Holds contract
//! point 5 (nothing old stays) for what is named there.

use common::proxy::Launch;
use common::sentinel::Group;
use common::{Client, Cluster, Crema, Link, Redis, Value, bulk, eventually, int, ok};

const STREAM: &str = "cache:invalidations";

fn reading(launch: Launch) -> Launch {
    launch.flag("--channel-stream", STREAM)
}

/// The names of the groups.
fn groups(client: &mut Client) -> Vec<String> {
    let reply = client.cmd(&["XINFO", "GROUPS", STREAM]);
    if reply.is_error() {
        return Vec::new();
    }
    let name = |group: &Value| group.items()[1].text();
    reply.items().iter().map(name).collect()
}

fn await_groups(client: &mut Client, count: usize) {
    eventually("each has its group", || groups(client).len() == count);
}

fn heard(crema: &Crema, kind: &str) -> u64 {
    crema.count("crema_channel_messages_total", &[("type", kind)])
}

fn add(client: &mut Client, fields: &[&str]) -> Value {
    client.cmd(&[&["XADD", STREAM, "*"], fields].concat())
}

fn remove(key: &str) -> String {
    format!(r#"{{"origin_id":"an application","type":"Remove","key":"{key}"}}"#)
}

fn missed(crema: &Crema) -> u64 {
    crema.count("crema_epochs_total", &[("reason", "stream")])
}

/// How long ago, in milliseconds, Redis saw the consumer of this group.
fn idle(client: &mut Client, group: &str) -> i64 {
    let consumers = client.cmd(&["XINFO", "CONSUMERS", STREAM, group]);
    let [consumer] = consumers.items() else { return i64::MAX };
    let at = consumer.items().iter().position(|word| *word == bulk("idle")).expect("it is said");
    consumer.items()[at + 1].number()
}

/// Entries that nobody has acknowledged.
fn pending(client: &mut Client) -> i64 {
    let groups = groups(client);
    groups.iter().map(|group| client.cmd(&["XPENDING", STREAM, group]).items()[0].number()).sum()
}

#[test]
fn each_entry_is_heard_once_whatever_its_fields_are_called() {
    let redis = Redis::start();
    let mut direct = redis.client();
    add(&mut direct, &["payload", &remove("before")]);
    let proxies = [1, 2].map(|_| reading(Crema::over(redis.addr())).start());
    await_groups(&mut direct, 2);
    for (fields, kind) in [
        (&["type", "remove", "timestamp", "1", "payload", &remove("k"), "key", "k"][..], "remove"),
        (&["anything", &remove("k")], "remove"),
        (&["payload", r#"{"type":"RemoveBulk","keys":["k","l"]}"#, "count", "2"], "remove_bulk"),
        (&["payload", r#"{"type":"RemovePattern","pattern":"k*"}"#], "remove_pattern"),
        (&["payload", r#"{"type":"Update","key":"k","value":"00","ttl_secs":60}"#], "update"),
        (&["payload", "nonsense"], "malformed"),
        (&["first", "nonsense", "second", &remove("k")], "malformed"),
    ] {
        let before: Vec<u64> = proxies.iter().map(|crema| heard(crema, kind)).collect();
        direct.cmd(&["SET", "k", "v"]);
        for crema in &proxies {
            crema.warm(&["GET", "k"]);
        }
        add(&mut direct, fields);
        for (crema, before) in proxies.iter().zip(before) {
            eventually(&format!("{fields:?}"), || heard(crema, kind) == before + 1);
        }
    }
    eventually("all is acknowledged", || pending(&mut direct) == 0);
    assert_eq!(direct.cmd(&["XLEN", STREAM]), int(8), "nothing was added or removed");
    assert!(proxies.iter().all(|crema| heard(crema, "remove") == 2), "not what was there before");
}

#[test]
fn what_is_named_is_forgotten_and_nothing_else() {
    let redis = Redis::start();
    let crema = reading(Crema::over(redis.addr())).start();
    let mut direct = redis.client();
    await_groups(&mut direct, 1);
    let mut client = crema.client();
    client.cmd(&["MSET", "k", "v", "other", "w"]);
    add(&mut direct, &["payload", &remove("none")]); // of an empty stream the first entry may not have been the first
    eventually("it is heard", || heard(&crema, "remove") == 1);
    eventually("and acknowledged", || pending(&mut direct) == 0);
    for key in ["k", "other"] {
        crema.warm(&["GET", key]);
    }
    let stored = crema.count("crema_fills_total", &[("outcome", "stored")]);
    add(&mut direct, &["payload", &remove("k")]);
    eventually("it is heard", || heard(&crema, "remove") == 2);
    assert_eq!(crema.hit(&mut client, &["GET", "other"]), bulk("w"));
    eventually("it is read anew", || {
        client.cmd(&["GET", "k"]);
        crema.count("crema_fills_total", &[("outcome", "stored")]) > stored
    });
}

#[test]
fn what_was_added_while_the_link_was_lost_is_heard_afterwards() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let mut direct = redis.client();
    add(&mut direct, &["payload", &remove("first")]);
    let crema = reading(Crema::over(link.addr())).start();
    await_groups(&mut direct, 1);
    add(&mut direct, &["payload", &remove("second")]);
    eventually("it is heard", || heard(&crema, "remove") >= 1);
    eventually("and acknowledged", || pending(&mut direct) == 0);
    let (before, known) = (heard(&crema, "remove"), missed(&crema));
    link.down();
    for n in 0..100 {
        add(&mut direct, &["payload", &remove(&format!("k{n}"))]);
    }
    link.up();
    eventually("all are heard", || heard(&crema, "remove") == before + 100);
    assert_eq!(groups(&mut direct).len(), 1, "in the same group");
    // What was trimmed away meanwhile may have been about anything.
    eventually("all is acknowledged", || pending(&mut direct) == 0);
    assert_eq!(missed(&crema), known, "nothing was");
    link.down();
    for n in 0..100 {
        add(&mut direct, &["payload", &remove(&format!("k{n}"))]);
    }
    direct.cmd(&["XTRIM", STREAM, "MAXLEN", "5"]);
    link.up();
    eventually("what is left is heard", || heard(&crema, "remove") == before + 105);
    eventually("and everything is forgotten", || missed(&crema) > known);
}

#[test]
fn a_group_that_is_gone_is_made_anew_and_everything_is_forgotten() {
    let redis = Redis::start();
    let crema = reading(Crema::over(redis.addr())).start();
    let mut direct = redis.client();
    for removed in [&["DEL", STREAM][..], &["FLUSHALL"]] {
        await_groups(&mut direct, 1);
        let known = missed(&crema);
        direct.cmd(removed);
        eventually("it is noticed", || {
            add(&mut direct, &["payload", &remove("k")]);
            missed(&crema) > known
        });
        let before = heard(&crema, "remove");
        eventually("what is added is heard again", || {
            add(&mut direct, &["payload", &remove("k")]);
            heard(&crema, "remove") > before
        });
    }
}

#[test]
fn a_group_is_removed_at_the_end_and_one_that_was_left_behind_by_the_next() {
    let Some(redis) = Redis::with_a_clock() else { return };
    let mut direct = redis.client();
    let mut first = reading(Crema::over(redis.addr())).start();
    await_groups(&mut direct, 1);
    first.terminate();
    eventually("it ends", || first.exit_status().is_some());
    assert_eq!(groups(&mut direct), Vec::<String>::new());

    let killed = reading(Crema::over(redis.addr())).start();
    await_groups(&mut direct, 1);
    let left = groups(&mut direct).remove(0);
    eventually("it has a consumer", || idle(&mut direct, &left) < i64::MAX);
    killed.signal(rustix::process::Signal::KILL);
    let of_applications = ["crema-workers", "crema-0123456789abcdef"];
    for group in of_applications {
        assert_eq!(direct.cmd(&["XGROUP", "CREATE", STREAM, group, "$"]), ok());
        assert_eq!(direct.cmd(&["XGROUP", "CREATECONSUMER", STREAM, group, "worker"]), int(1));
    }
    let second = reading(Crema::over(redis.addr())).start();
    await_groups(&mut direct, 4);
    let now = groups(&mut direct);
    assert!(now.contains(&left), "it may come back");
    let living =
        now.into_iter().find(|group| *group != left && !of_applications.contains(&&**group)).expect("a fourth");
    add(&mut direct, &["payload", &remove("k")]);
    eventually("it is heard", || heard(&second, "remove") == 1);
    redis.set_clock("+2h");
    eventually("time has passed", || idle(&mut direct, &left) > 3_600_000);
    eventually("it lives", || idle(&mut direct, &living) < 3_600_000);
    let known = missed(&second);
    let _third = reading(Crema::over(redis.addr())).start();
    eventually("the one that was left behind is removed", || !groups(&mut direct).contains(&left));
    await_groups(&mut direct, 4);
    let now = groups(&mut direct);
    assert!(of_applications.iter().all(|group| now.iter().any(|now| now == group)), "{now:?}");
    assert!(now.contains(&living), "{now:?}");
    add(&mut direct, &["payload", &remove("k")]);
    eventually("it is heard there", || heard(&second, "remove") == 2);
    assert_eq!(missed(&second), known, "it was not made anew");
}

/// One that was begun and not finished is nobody's. Where the name says nothing, it is not crema's.
#[test]
fn a_group_without_a_consumer_is_removed_where_its_name_is_a_crema_s() {
    let redis = Redis::start();
    let mut direct = redis.client();
    for group in ["crema-0123456789abcdef", "crema-workers", "crema-"] {
        assert_eq!(direct.cmd(&["XGROUP", "CREATE", STREAM, group, "$", "MKSTREAM"]), ok());
    }
    let _crema = reading(Crema::over(redis.addr())).start();
    eventually("it is removed, and one is made", || {
        let now = groups(&mut direct);
        now.len() == 3 && !now.iter().any(|group| group == "crema-0123456789abcdef")
    });
    for group in ["crema-workers", "crema-"] {
        assert!(groups(&mut direct).iter().any(|now| now == group), "{group}");
    }
}

/// Redis 6.2 to 7.0 do not count a reading that waits in vain.
#[test]
fn a_consumer_that_has_nothing_to_read_shows_that_it_lives() {
    let redis = Redis::start();
    let mut direct = redis.client();
    let _crema = reading(Crema::over(redis.addr())).start();
    await_groups(&mut direct, 1);
    let group = groups(&mut direct).remove(0);
    eventually("it waits", || (3000..i64::MAX).contains(&idle(&mut direct, &group)));
    eventually("it was seen again", || idle(&mut direct, &group) < 3000);
}

#[test]
fn an_entry_that_is_too_long_to_be_read_keeps_none_from_being_heard() {
    let redis = Redis::start();
    let mut direct = redis.client();
    let long = "x".repeat(65 << 20);
    add(&mut direct, &["payload", &long]); // the first, and the last
    let crema = reading(Crema::over(redis.addr())).start();
    await_groups(&mut direct, 1);
    eventually("everything is forgotten", || missed(&crema) >= 2);
    let known = missed(&crema);
    for n in 1..=50 {
        add(&mut direct, &["payload", &remove("k")]);
        eventually("it is heard", || heard(&crema, "remove") == n);
    }
    assert_eq!(missed(&crema), known, "once");
    add(&mut direct, &["payload", &long]); // among what is to be read
    eventually("everything is forgotten", || missed(&crema) > known);
    eventually("what follows is heard", || {
        add(&mut direct, &["payload", &remove("k")]);
        heard(&crema, "remove") > 50
    });
}

/// Its own messages, which an audit stream brings back, are none to act on.
#[test]
fn a_proxy_knows_its_own_voice_there_too() {
    let redis = Redis::start();
    let launch = |publish| {
        let launch = reading(Crema::over(redis.addr())).flag("--channel-publish", publish);
        if publish { launch.flag("--channel-audit-stream", STREAM) } else { launch }.start()
    };
    let (teller, other) = (launch(true), launch(false));
    await_groups(&mut redis.client(), 2);
    for crema in [&teller, &other] {
        crema.await_channel();
    }
    assert_eq!(teller.client().cmd(&["SET", "k", "v"]), ok());
    eventually("both ways", || heard(&teller, "own") == 2 && heard(&other, "remove") == 2);
    assert_eq!(heard(&teller, "remove"), 0);
}

#[test]
fn in_front_of_a_cluster_the_group_is_where_the_stream_is() {
    let cluster = Cluster::plan().masters(3).start();
    let slot = common::cluster::slot_of(STREAM);
    let crema = reading(cluster.crema()).start();
    let mut now = cluster.owner(slot);
    await_groups(&mut cluster.client(now), 1);
    for _ in 0..2 {
        let before = heard(&crema, "remove");
        eventually("it is heard", || {
            add(&mut cluster.client(now), &["payload", &remove("k")]);
            heard(&crema, "remove") > before
        });
        let to = (now + 1) % 3;
        cluster.move_slot(slot, to);
        now = to;
    }
    let before = heard(&crema, "remove");
    eventually("it is heard where the stream has moved", || {
        add(&mut cluster.client(now), &["payload", &remove("k")]);
        heard(&crema, "remove") > before
    });
    assert_eq!(groups(&mut cluster.client(now)).len(), 1, "the group went along");
}

#[test]
fn after_a_failover_the_stream_is_read_at_the_next_master() {
    if std::env::var_os("CREMA_TEST_DIRECT").is_some() {
        return;
    }
    let mut group = Group::start();
    let crema = reading(Crema::over(group.links[0].addr()).url(group.url(""))).start();
    await_groups(&mut group.servers[0].client(), 1);
    add(&mut group.servers[0].client(), &["payload", &remove("k")]);
    eventually("it is heard", || heard(&crema, "remove") == 1);
    group.servers[0].kill();
    let now = group.moved_from(0);
    let mut client = group.servers[now].client();
    eventually("it is heard there", || {
        add(&mut client, &["payload", &remove("k")]);
        heard(&crema, "remove") >= 2
    });
    eventually("in one group", || groups(&mut client).len() == 1);
}
