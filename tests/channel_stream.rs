//! The stream in which keys to forget are named: what was added is heard, late rather than never, and nothing is left behind.
//!
//! Entries are as the crate multi-tier-cache writes them, and of every other shape that its reliable subscriber reads. Holds contract
//! point 5 (nothing old stays) for what is named there.

mod common;

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
    crema.count("crema_epochs_total", &[("reason", "channel")])
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
    let crema = reading(Crema::over(link.addr())).start();
    let mut direct = redis.client();
    add(&mut direct, &["payload", &remove("first")]);
    await_groups(&mut direct, 1);
    add(&mut direct, &["payload", &remove("second")]);
    eventually("it is heard", || heard(&crema, "remove") >= 1);
    eventually("and acknowledged", || pending(&mut direct) == 0);
    let before = heard(&crema, "remove");
    link.down();
    for n in 0..100 {
        add(&mut direct, &["payload", &remove(&format!("k{n}"))]);
    }
    link.up();
    eventually("all are heard", || heard(&crema, "remove") == before + 100);
    assert_eq!(groups(&mut direct).len(), 1, "in the same group");
    // What was trimmed away meanwhile may have been about anything.
    eventually("all is acknowledged", || pending(&mut direct) == 0);
    let known = missed(&crema);
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
    let left = groups(&mut direct);
    add(&mut direct, &["payload", &remove("k")]);
    eventually("it has a consumer", || heard(&killed, "remove") == 1);
    killed.signal(rustix::process::Signal::KILL);
    assert!(direct.cmd(&["XGROUP", "CREATE", STREAM, "an application's", "$"]) == ok());
    let _second = reading(Crema::over(redis.addr())).start();
    await_groups(&mut direct, 3);
    assert!(groups(&mut direct).contains(&left[0]), "it may come back");
    redis.set_clock("+2h");
    let _third = reading(Crema::over(redis.addr())).start();
    eventually("the one that was left behind is removed", || {
        let now = groups(&mut direct);
        !now.contains(&left[0]) && now.iter().any(|group| group == "an application's")
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
