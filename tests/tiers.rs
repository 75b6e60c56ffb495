//! Tiers below the upstream: copies go down and up, no copy older than the last write is ever answered, and a tier that is away, frozen,
//! slow or back with old data is harmless.

use std::fmt::Write as _;
use std::net::SocketAddr;

use common::cluster::{Failover, slot_of};
use common::memcached::Memcached;
use common::{Client, Cluster, Crema, Link, Redis, Value, array, bulk, eventually, ok, pack};
use tempfile::NamedTempFile;

/// A proxy with these tiers: where each is, and more settings.
fn with_tiers(upstream: SocketAddr, tiers: &[(String, &str)]) -> (Crema, NamedTempFile) {
    let file = NamedTempFile::new().expect("a temporary file");
    let mut text = String::new();
    for (url, more) in tiers {
        let timeout = if more.contains("timeout") { "" } else { "timeout = \"2s\"" };
        write!(text, "[[tier]]\nmatch = \"page:*\"\nurl = \"{url}\"\n{timeout}\n{more}\n").expect("text");
    }
    std::fs::write(file.path(), text).expect("it can be written");
    (Crema::over(upstream).flag("--config", file.path().display()).start(), file)
}

fn redis_tier(addr: SocketAddr) -> String {
    format!("redis://{addr}")
}

fn nil() -> Value {
    Value::Nil
}

/// As the upstream does by itself where a key's time is over, or it is full.
fn evict(direct: &mut Client, key: &str) {
    direct.cmd(&["UNLINK", key]);
}

/// What `CREMA EXPLAIN GET` says under this name.
fn explained(client: &mut Client, key: &str, name: &str) -> String {
    let told = client.cmd(&["CREMA", "EXPLAIN", "GET", key]);
    let told = told.items().iter().skip_while(|word| word.text() != name).nth(1).map(Value::text);
    told.unwrap_or_else(|| panic!("nothing of {name}"))
}

fn copied(crema: &Crema) -> u64 {
    crema.count("crema_tier_total", &[("outcome", "copied")])
}

/// Sets a key through crema, and waits until it is copied.
fn set_and_copy(crema: &Crema, client: &mut Client, key: &str, value: &str) {
    let before = copied(crema);
    assert_eq!(client.cmd(&["SET", key, value]), ok());
    eventually("it is copied down", || copied(crema) > before);
}

#[test]
fn a_value_that_is_gone_above_is_found_below_and_put_back() {
    let (redis, cold) = (Redis::start(), Redis::start());
    let (crema, _file) = with_tiers(redis.addr(), &[(redis_tier(cold.addr()), "")]);
    if crema.is_direct() {
        return;
    }
    let (mut client, mut direct) = (crema.client(), redis.client());
    assert_eq!(client.cmd(&["GET", "page:1"]), nil(), "nowhere");
    set_and_copy(&crema, &mut client, "page:1", "one");
    assert_eq!(client.cmd(&["GET", "page:1"]), bulk("one"));
    evict(&mut direct, "page:1");
    let told = explained(&mut client, "page:1", "tiers");
    assert!(told.starts_with("l3: newest, ") && told.ends_with("ms left"), "{told}");
    let stranger = ["ACL", "SETUSER", "stranger", "on", ">p", "~other:*", "+@all"];
    assert_eq!(direct.cmd(&stranger), ok());
    let mut other = crema.client();
    assert_eq!(other.cmd(&["AUTH", "stranger", "p"]), ok());
    assert_eq!(explained(&mut other, "page:1", "tiers"), "", "who may not read it is told nothing");
    assert_eq!(client.cmd(&["GET", "page:1"]), bulk("one"), "out of the tier");
    assert_eq!(crema.count("crema_tier_total", &[("outcome", "hit")]), 1);
    eventually("it is put back", || direct.cmd(&["GET", "page:1"]) == bulk("one"));
    set_and_copy(&crema, &mut client, "page:2", "two");
    evict(&mut direct, "page:1");
    evict(&mut direct, "page:2");
    for mut reader in [crema.client(), crema.resp3()] {
        let got = reader.cmd(&["MGET", "page:1", "other", "page:2", "page:3"]);
        assert_eq!(got, array(vec![bulk("one"), nil(), bulk("two"), nil()]));
    }
    assert_eq!(client.cmd(&["SET", "other", "x"]), ok());
    set_and_copy(&crema, &mut client, "page:4", "four"); // what came before has been copied, if it is to be
    assert_eq!(cold.client().cmd(&["EXISTS", "crema:0:other"]), Value::Int(0));
    evict(&mut direct, "other");
    assert_eq!(client.cmd(&["GET", "other"]), nil(), "it has no tier");
}

#[test]
fn what_comes_into_memory_is_copied_whichever_way_it_was_read() {
    let (redis, cold) = (Redis::start(), Redis::start());
    let (crema, _file) = with_tiers(redis.addr(), &[(redis_tier(cold.addr()), "copy_up = 0")]);
    if crema.is_direct() {
        return;
    }
    let (mut client, mut direct, mut below) = (crema.client(), redis.client(), cold.client());
    let reads: [(&str, &[&[&str]]); 3] = [
        ("page:get", &[&["GET", "page:get"]]),
        ("page:mget", &[&["MGET", "other", "page:mget"]]),
        ("page:home", &[&["BLPOP", "nothing", "0.01"], &["GET", "page:home"]]),
    ];
    for (key, commands) in reads {
        direct.cmd(&["SET", key, "v"]);
        let said = client.pipeline(commands).pop().expect("one");
        assert!([bulk("v"), array(vec![nil(), bulk("v")])].contains(&said), "{key}: {said:?}");
        eventually(&format!("{key} is copied"), || below.cmd(&["EXISTS", &format!("crema:0:{key}")]) == Value::Int(1));
        evict(&mut direct, key);
        eventually("memory has heard of it", || explained(&mut crema.client(), key, "in_l1") == "no");
        assert_eq!(client.cmd(&["GET", key]), bulk("v"), "{key}: out of the tier");
    }
    direct.cmd(&["HSET", "page:h", "f", "v"]);
    direct.cmd(&["SET", "q", "v"]);
    assert_eq!(client.cmd(&["HGET", "page:h", "f"]), bulk("v"));
    assert_eq!(client.cmd(&["MGET", "q"]), array(vec![bulk("v")]));
    set_and_copy(&crema, &mut client, "page:last", "v"); // what came before has been copied, if it is to be
    assert_eq!(direct.cmd(&["KEYS", "crema:ver:page:h"]), array(vec![]), "no value of a string");
    assert_eq!(below.cmd(&["DBSIZE"]), Value::Int(4));
}

#[test]
fn a_write_ends_all_copies_whatever_it_is() {
    let (redis, cold) = (Redis::start(), Redis::start());
    let (crema, _file) = with_tiers(redis.addr(), &[(redis_tier(cold.addr()), "copy_up = 0")]);
    if crema.is_direct() {
        return;
    }
    let (mut client, mut direct) = (crema.client(), redis.client());
    let writes: [&[&str]; 8] = [
        &["DEL", "page:k"],
        &["MULTI", "DEL", "page:k"],
        &["SET", "page:k", "new", "PX", "1"],
        &["EVAL", "return redis.call('DEL', KEYS[1])", "1", "page:k"],
        &["RENAME", "page:k", "elsewhere"],
        &["GETDEL", "page:k"],
        &["PEXPIRE", "page:k", "1"],
        &["MSET", "a", "1", "page:k", "2"],
    ];
    for write in writes {
        set_and_copy(&crema, &mut client, "page:k", "old");
        evict(&mut direct, "page:k");
        assert_eq!(client.cmd(&["GET", "page:k"]), bulk("old"), "before {write:?}");
        direct.cmd(&["SET", "page:k", "old"]);
        if let ["MULTI", queued @ ..] = write {
            assert_eq!(client.cmd(&["MULTI"]), ok());
            client.cmd(queued);
            assert_eq!(client.cmd(&["EXEC"]), array(vec![Value::Int(1)]), "and nothing else is in it");
        } else {
            assert!(!client.cmd(write).is_error(), "{write:?}");
        }
        eventually("it is gone", || {
            evict(&mut direct, "page:k");
            direct.cmd(&["EXISTS", "page:k"]) == Value::Int(0)
        });
        let got = client.cmd(&["GET", "page:k"]);
        assert_ne!(got, bulk("old"), "after {write:?}");
    }
}

#[test]
fn replies_are_those_of_the_upstream() {
    let (redis, other, cold) = (Redis::start(), Redis::start(), Redis::start());
    let (crema, _file) = with_tiers(redis.addr(), &[(redis_tier(cold.addr()), "")]);
    if crema.is_direct() {
        return;
    }
    let pipelines: [&[&[&str]]; 4] = [
        &[
            &["SET", "page:a", "1"],
            &["INCR", "page:a"],
            &["LPUSH", "page:a", "x"],
            &["SET", "page:a"],
            &["SET", "page:a", "1", "NX"],
            &["SET", "page:a", "5", "GET"],
            &["GET", "page:a"],
            &["APPEND", "page:a", "xyz"],
            &["STRLEN", "page:a"],
            &["DEL", "page:a", "page:b", "c"],
            &["GET", "page:a"],
        ],
        &[
            &["MULTI"],
            &["SET", "page:a", "1"],
            &["GET", "page:a"],
            &["SET", "b", "2"],
            &["NOSUCH"],
            &["EXEC"],
            &["MULTI"],
            &["RPUSH", "page:l", "1", "2"],
            &["LRANGE", "page:l", "0", "-1"],
            &["INCR", "page:l"],
            &["EXEC"],
            &["GET", "page:l"],
            &["MGET", "page:l", "page:a"],
        ],
        &[
            &["WATCH", "page:a"],
            &["SET", "page:a", "9"],
            &["MULTI"],
            &["SET", "page:a", "8"],
            &["EXEC"],
            &["GET", "page:a"],
            &["BLPOP", "page:l", "1"],
            &["EVAL", "redis.call('SET', KEYS[1], 'y') return {1, {2, 'z'}}", "1", "page:s"],
            &["GET", "page:s"],
            &["EVAL", "return redis.error_reply('MY no')", "1", "page:s"],
        ],
        &[&["MSETNX", "page:x", "1", "page:y", "2"], &["HSET", "page:h", "f", "v"], &["GET", "page:h"], &["GET"]],
    ];
    for resp3 in [false, true] {
        redis.client().cmd(&["FLUSHALL"]);
        other.client().cmd(&["FLUSHALL"]);
        let (mut ours, mut theirs) =
            if resp3 { (crema.resp3(), Client::resp3(other.addr())) } else { (crema.client(), other.client()) };
        for pipeline in pipelines {
            let sent: Vec<Vec<&str>> = pipeline.iter().map(|command| command.to_vec()).collect();
            let (got, want) = (ours.pipeline(&sent), theirs.pipeline(&sent));
            for ((command, got), want) in pipeline.iter().zip(got).zip(want) {
                assert_eq!(got, want, "{command:?}");
            }
        }
    }
}

#[test]
fn a_tier_that_is_frozen_or_back_with_old_copies_is_harmless() {
    let (redis, cold) = (Redis::start(), Redis::start());
    let link = Link::to(cold.addr());
    let (crema, _file) = with_tiers(redis.addr(), &[(redis_tier(link.addr()), "copy_up = 0\nname = \"cold\"")]);
    if crema.is_direct() {
        return;
    }
    let (mut client, mut direct, mut below) = (crema.client(), redis.client(), cold.client());
    set_and_copy(&crema, &mut client, "page:k", "old");
    let kept = below.cmd(&["GET", "crema:0:page:k"]);
    let Value::Bulk(old) = kept else { panic!("a copy: {kept:?}") };
    set_and_copy(&crema, &mut client, "page:k", "new");
    evict(&mut direct, "page:k");
    assert_eq!(client.cmd(&["GET", "page:k"]), bulk("new"));
    below.cmd(&[&b"SET"[..], b"crema:0:page:k", &old]);
    assert_eq!(client.cmd(&["GET", "page:k"]), nil(), "an older copy counts for nothing");
    assert!(crema.count("crema_tier_total", &[("outcome", "stale")]) > 0);
    link.freeze();
    eventually("it is left alone", || {
        assert_eq!(client.cmd(&["GET", "page:k"]), nil());
        crema.count("crema_tier_well", &[("tier", "cold")]) == 0
    });
    let (status, page) = crema.admin("/readyz").expect("it answers");
    let says = format!(
        "degraded: tier cold (redis://{}): {} left alone: it does not answer in time",
        link.addr(),
        link.addr()
    );
    assert!(status == 200 && page.contains(&says), "{page}");
    assert_eq!(explained(&mut client, "page:k", "tiers"), "cold: left alone");
    let skipped = || crema.count("crema_tier_total", &[("outcome", "skipped")]);
    let before = skipped();
    assert_eq!(client.cmd(&["GET", "page:k"]), nil());
    assert_eq!(skipped(), before + 1, "a read that does without it is counted");
    assert_eq!(client.cmd(&["SET", "page:k", "third"]), ok());
    assert_eq!(client.cmd(&["GET", "page:k"]), bulk("third"), "what is above needs no tier");
    eventually("so is a copy that is left out", || skipped() > before + 1);
    link.thaw();
    eventually("it is asked again, though nobody needs it", || {
        crema.count("crema_tier_well", &[("tier", "cold")]) == 1
    });
    set_and_copy(&crema, &mut client, "page:k", "fourth");
    evict(&mut direct, "page:k");
    assert_eq!(client.cmd(&["GET", "page:k"]), bulk("fourth"));
}

#[test]
fn a_tier_that_dies_is_skipped_and_asked_again_when_it_is_back() {
    let (redis, mut cold, colder) = (Redis::start(), Redis::start(), Redis::start());
    let tiers = [(redis_tier(cold.addr()), "copy_up = 0"), (redis_tier(colder.addr()), "copy_up = 0\nttl_scale = 8")];
    let (crema, _file) = with_tiers(redis.addr(), &tiers);
    if crema.is_direct() {
        return;
    }
    let (mut client, mut direct) = (crema.client(), redis.client());
    let below = |name: &str| crema.count("crema_tier_total", &[("outcome", "copied"), ("tier", name)]);
    assert_eq!(client.cmd(&["SET", "page:k", "v", "EX", "100"]), ok());
    eventually("it is in both", || below("l3") > 0 && below("l4") > 0);
    let Value::Int(left) = colder.client().cmd(&["TTL", "crema:0:page:k"]) else { panic!("a time") };
    assert!((700..=800).contains(&left), "{left}");
    cold.kill();
    evict(&mut direct, "page:k");
    assert_eq!(client.cmd(&["GET", "page:k"]), bulk("v"), "the next one has it");
    cold.restart();
    eventually("the first is asked again", || {
        client.cmd(&["SET", "page:k", "w"]);
        below("l3") > 1
    });
}

#[test]
fn a_flush_ends_all_copies_and_empties_tiers_only_where_that_is_said() {
    let (redis, cold, kept) = (Redis::start(), Redis::start(), Redis::start());
    let tiers = [(redis_tier(cold.addr()), "flush = true"), (redis_tier(kept.addr()), "")];
    let (crema, _file) = with_tiers(redis.addr(), &tiers);
    if crema.is_direct() {
        return;
    }
    let (mut client, mut below) = (crema.client(), kept.client());
    set_and_copy(&crema, &mut client, "page:k", "v");
    eventually("both have it", || below.cmd(&["EXISTS", "crema:0:page:k"]) == Value::Int(1));
    assert_eq!(client.cmd(&["FLUSHALL"]), ok());
    assert_eq!(client.cmd(&["GET", "page:k"]), nil());
    eventually("one is emptied", || cold.client().cmd(&["DBSIZE"]) == Value::Int(0));
    set_and_copy(&crema, &mut client, "page:j", "w");
    assert_eq!(below.cmd(&["EXISTS", "crema:0:page:k"]), Value::Int(1), "and the other is not");
    assert_eq!(client.cmd(&["GET", "page:k"]), nil(), "under the next epoch neither");
}

#[test]
fn a_session_with_a_connection_of_its_own_reads_out_of_tiers_too() {
    let (redis, cold) = (Redis::start(), Redis::start());
    let (crema, _file) = with_tiers(redis.addr(), &[(redis_tier(cold.addr()), "copy_up = 0")]);
    if crema.is_direct() {
        return;
    }
    let (mut client, mut direct) = (crema.client(), redis.client());
    set_and_copy(&crema, &mut client, "page:k", "v");
    assert_eq!(client.cmd(&["BLPOP", "nothing", "0.01"]), nil(), "it has a home from here on");
    evict(&mut direct, "page:k");
    assert_eq!(client.cmd(&["GET", "page:k"]), bulk("v"));
    assert_eq!(client.cmd(&["MULTI"]), ok());
    client.cmd(&["GET", "page:k"]);
    assert_eq!(client.cmd(&["EXEC"]), array(vec![nil()]), "in a transaction there is the upstream alone");
    let got = client.pipeline(&[vec!["GET", "page:k"], vec!["SET", "page:k", "w"], vec!["GET", "page:k"]]);
    assert!(got[0] == bulk("v") || got[0] == nil(), "what comes later is not seen: {:?}", got[0]);
    assert_eq!(got[1..], [ok(), bulk("w")]);
}

#[test]
fn in_a_cluster_a_key_and_its_version_are_in_one_slot() {
    let cluster = Cluster::start();
    let cold = Redis::start();
    let file = NamedTempFile::new().expect("a temporary file");
    let tier = format!("[[tier]]\nmatch = \"*\"\nurl = \"{}\"\ntimeout = \"2s\"\n", redis_tier(cold.addr()));
    std::fs::write(file.path(), tier).expect("it can be written");
    let crema = cluster.crema().flag("--config", file.path().display()).start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let keys = ["a}b", "x{}y", "{t}z", "plain", "page:7"];
    for key in keys {
        set_and_copy(&crema, &mut client, key, "v");
        evict(&mut cluster.client_of(key), key);
        assert_eq!(client.cmd(&["GET", key]), bulk("v"), "{key}: out of the tier");
    }
    assert_eq!(crema.count("crema_tier_total", &[("outcome", "hit")]), keys.len() as u64);
    for key in keys {
        assert_eq!(client.cmd(&["SET", key, "w", "PX", "1"]), ok());
        eventually("it is over", || {
            let got = client.cmd(&["GET", key]);
            assert_ne!(got, bulk("v"), "{key}: a copy of before");
            client.cmd(&["EXISTS", key]) == Value::Int(0)
        });
    }
    let mut all: Vec<&str> = vec!["MSET"];
    for key in keys {
        all.extend([key, "3"]);
    }
    assert_eq!(client.cmd(&all), ok());
    let mget: Vec<&str> = ["MGET"].into_iter().chain(keys).collect();
    assert_eq!(client.cmd(&mget), array(vec![bulk("3"); keys.len()]));
}

#[test]
fn a_cluster_is_a_tier_too_whatever_its_slots_and_masters_do() {
    let redis = Redis::start();
    let mut cluster = Cluster::start();
    let (crema, _file) = with_tiers(redis.addr(), &[(cluster.url(), "copy_up = 0\nname = \"cold\"")]);
    if crema.is_direct() {
        return;
    }
    let (mut client, mut direct) = (crema.client(), redis.client());
    let well = || crema.count("crema_tier_well", &[("tier", "cold")]) == 1;
    let mut is_found = |key: &str, value: &str| {
        evict(&mut direct, key);
        client.cmd(&["GET", key]) == bulk(value)
    };
    let copy_of = |key: &str| format!("crema:0:{key}");
    let of_each: Vec<String> = (0..3)
        .filter_map(|n| (0..1000).map(|i| format!("page:{i}")).find(|key| cluster.owner_of(&copy_of(key)) == n))
        .collect();
    eventually("its map is known", well);
    let mut writer = crema.client();
    for key in &of_each {
        set_and_copy(&crema, &mut writer, key, "one");
        assert!(is_found(key, "one"), "{key}");
    }
    assert_eq!(crema.count("crema_tier_total", &[("outcome", "error")]), 0, "each at its own node");

    let slot = slot_of(&copy_of("page:{m}1"));
    let to = (cluster.owner(slot) + 1) % 3;
    set_and_copy(&crema, &mut writer, "page:{m}1", "before");
    let step = cluster.begin_move(slot, to);
    set_and_copy(&crema, &mut writer, "page:{m}2", "on the way");
    assert_eq!(cluster.client(to).pipeline(&[vec!["ASKING"], vec!["EXISTS", "crema:0:page:{m}2"]])[1], Value::Int(1));
    assert!(is_found("page:{m}1", "before") && is_found("page:{m}2", "on the way"), "where each is");
    step.migrate();
    step.finish();
    assert!(is_found("page:{m}1", "before") && is_found("page:{m}2", "on the way"), "at the new owner");

    let master = cluster.owner_of(&copy_of(&of_each[0]));
    cluster.failover(cluster.replicas_of(master)[0], Failover::Agreed);
    eventually("the other one is asked", || {
        cluster.owner_of(&copy_of(&of_each[0])) != master && is_found(&of_each[0], "one")
    });
    let master = cluster.owner_of(&copy_of(&of_each[1]));
    cluster.await_whole();
    cluster.kill(master);
    eventually("it is seen", || {
        writer.cmd(&["SET", &of_each[1], "two"]);
        !well()
    });
    assert!(is_found(&of_each[2], "one"), "the others are asked");
    eventually("another has taken its place", || {
        writer.cmd(&["SET", &of_each[1], "three"]);
        is_found(&of_each[1], "three")
    });
    eventually("and it is well", well);
}

/// What `/readyz` says.
fn readiness(crema: &Crema) -> String {
    crema.admin("/readyz").expect("it answers").1
}

#[test]
fn why_nothing_is_known_of_a_tiers_cluster_is_told() {
    let (redis, cold) = (Redis::start(), Redis::with(&["--requirepass", "secret"]));
    let url = format!("redis+cluster://:wrong@{}", cold.addr());
    let (crema, _file) = with_tiers(redis.addr(), &[(url, "name = \"cold\"")]);
    if crema.is_direct() {
        return;
    }
    eventually("it is told", || readiness(&crema).contains("none of its servers is known: WRONGPASS"));
    eventually("it is logged", || crema.has_logged("no node of a tier tells the map of its cluster: WRONGPASS"));
    assert!(crema.count("crema_tier_total", &[("outcome", "error")]) > 0);
    assert_eq!(crema.client().cmd(&["GET", "page:1"]), nil());
    assert_eq!(crema.count("crema_tier_total", &[("outcome", "skipped")]), 1);
}

#[test]
fn a_tier_that_answers_nobody_is_left_alone_until_it_does() {
    let (redis, cold) = (Redis::start(), Redis::start());
    let (crema, _file) = with_tiers(redis.addr(), &[(redis_tier(cold.addr()), "name = \"cold\"")]);
    if crema.is_direct() {
        return;
    }
    let (mut client, mut below) = (crema.client(), cold.client());
    let well = || crema.count("crema_tier_well", &[("tier", "cold")]) == 1;
    set_and_copy(&crema, &mut client, "page:k", "one");
    assert_eq!(below.cmd(&["CONFIG", "SET", "requirepass", "secret"]), ok());
    below.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually("it is left alone", || {
        client.cmd(&["SET", "page:k", "two"]);
        !well()
    });
    assert!(readiness(&crema).contains("left alone: NOAUTH "), "{}", readiness(&crema));
    assert_eq!(below.cmd(&["CONFIG", "SET", "requirepass", ""]), ok());
    eventually("it is asked again", well);
    set_and_copy(&crema, &mut client, "page:k", "three");
}

#[test]
fn a_node_whose_cluster_is_down_is_left_alone_until_that_is_up() {
    let redis = Redis::start();
    let cluster = Cluster::plan().replicas(0).start();
    let (crema, _file) = with_tiers(redis.addr(), &[(cluster.url(), "name = \"cold\"")]);
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let well = || crema.count("crema_tier_well", &[("tier", "cold")]) == 1;
    eventually("its map is known", well);
    set_and_copy(&crema, &mut client, "page:k", "one");
    let node = cluster.owner_of("crema:0:page:k");
    let mut below = cluster.client(node);
    let lost = (0..16384).find(|&slot| slot != slot_of("crema:0:page:k") && cluster.owner(slot) == node);
    let lost = lost.expect("it has many").to_string();
    assert_eq!(below.cmd(&["CLUSTER", "DELSLOTS", &lost]), ok());
    eventually("it is left alone", || {
        client.cmd(&["SET", "page:k", "two"]);
        !well()
    });
    assert!(readiness(&crema).contains("left alone: CLUSTERDOWN "), "{}", readiness(&crema));
    let mut tried = || {
        let said = below.cmd(&["INFO", "commandstats"]).text();
        let times = said.split("cmdstat_pttl:").nth(1).and_then(|rest| rest.split("rejected_calls=").nth(1));
        times.and_then(|rest| rest.split(',').next()?.parse::<u64>().ok()).unwrap_or_default()
    };
    let before = tried();
    eventually("it is asked whether it answers, and does not", || {
        assert!(!well(), "that it is there is not enough");
        tried() > before + 1
    });
    assert_eq!(below.cmd(&["CLUSTER", "ADDSLOTS", &lost]), ok());
    eventually("it is asked again", well);
    set_and_copy(&crema, &mut client, "page:k", "three");
}

#[test]
fn a_flush_empties_all_masters_of_a_tier_though_one_refuses() {
    let redis = Redis::start();
    let cluster = Cluster::plan().replicas(0).start();
    let (crema, _file) = with_tiers(redis.addr(), &[(cluster.url(), "flush = true\nname = \"cold\"")]);
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    eventually("its map is known", || crema.count("crema_tier_well", &[("tier", "cold")]) == 1);
    let copies = |n: usize| cluster.client(n).cmd(&["DBSIZE"]);
    let mut nth = 0;
    while (0..3).any(|n| copies(n) == Value::Int(0)) {
        nth += 1;
        set_and_copy(&crema, &mut client, &format!("page:{nth}"), "v");
    }
    assert_eq!(cluster.client(1).cmd(&["ACL", "SETUSER", "default", "-flushdb"]), ok());
    assert_eq!(client.cmd(&["FLUSHALL"]), ok());
    eventually("the others are emptied", || copies(0) == Value::Int(0) && copies(2) == Value::Int(0));
    eventually("that one was not is told", || crema.admin("/api/status").expect("it answers").1.contains("NOPERM "));
    assert!(copies(1) != Value::Int(0) && !crema.log().contains("emptied with the upstream"));
    assert_eq!(cluster.client(1).cmd(&["ACL", "SETUSER", "default", "+flushdb"]), ok());
    assert_eq!(client.cmd(&["FLUSHALL"]), ok());
    eventually("now it is", || copies(1) == Value::Int(0) && crema.log().contains("emptied with the upstream"));
}

#[test]
fn memcached_is_a_tier_too() {
    let Some(memcached) = Memcached::start() else { return };
    let redis = Redis::start();
    let (crema, _file) = with_tiers(redis.addr(), &[(format!("memcached://{}", memcached.addr()), "")]);
    if crema.is_direct() {
        return;
    }
    let (mut client, mut direct) = (crema.client(), redis.client());
    for value in ["one", "two\r\nlines", ""] {
        set_and_copy(&crema, &mut client, "page:1", value);
        evict(&mut direct, "page:1");
        assert_eq!(client.cmd(&["GET", "page:1"]), bulk(value));
    }
    assert_eq!(client.cmd(&["DEL", "page:1"]), Value::Int(1));
    assert_eq!(client.cmd(&["GET", "page:1"]), nil());
    let refused = || crema.count("crema_tier_total", &[("outcome", "too_large")]);
    let before = refused();
    assert_eq!(client.cmd(&["SET", "page:with space", "v"]), ok());
    eventually("its name is refused", || refused() > before);
    evict(&mut direct, "page:with space");
    assert_eq!(client.cmd(&["GET", "page:with space"]), nil(), "Memcached takes no such name");
}

/// Two proxies with two workers each, and clients of all of them.
fn two_with_tiers(upstream: SocketAddr, tier: &str) -> (Vec<(Crema, NamedTempFile)>, Vec<Client>) {
    let proxies: Vec<_> = (0..2).map(|_| with_tiers(upstream, &[(tier.to_owned(), "copy_up = 0")])).collect();
    let readers = proxies.iter().flat_map(|(crema, _)| (0..6).map(|_| crema.client())).collect();
    (proxies, readers)
}

#[test]
fn where_redis_is_full_a_delete_that_was_acknowledged_ends_all_copies() {
    let (redis, cold) = (Redis::start(), Redis::start());
    let (proxies, mut readers) = two_with_tiers(redis.addr(), &redis_tier(cold.addr()));
    let crema = &proxies[0].0;
    if crema.is_direct() {
        return;
    }
    let (mut client, mut direct) = (crema.client(), redis.client());
    for round in 0..8 {
        let key = format!("page:{round}");
        set_and_copy(crema, &mut client, &key, "old");
        direct.cmd(&["CONFIG", "SET", "maxmemory", "1"]);
        eventually("a full server deletes", || client.cmd(&["DEL", &key]) == Value::Int(1));
        for reader in &mut readers {
            assert_eq!(reader.cmd(&["GET", &key]), nil(), "round {round}");
        }
        direct.cmd(&["CONFIG", "SET", "maxmemory", "0"]);
        eventually("it takes writes again", || client.cmd(&["SET", &key, "new"]) == ok());
    }
    eventually("and is not taken for full for ever", || {
        client.cmd(&["SET", "page:0", "x"]);
        client.cmd(&["DEL", "page:0"]);
        let said = direct.cmd(&["INFO", "commandstats"]).text();
        let calls = |said: &str| {
            said.split("cmdstat_exec:calls=").nth(1).map(|rest| rest.split(',').next().unwrap_or_default().to_owned())
        };
        let before = calls(&said);
        client.cmd(&["DEL", "page:0"]);
        calls(&direct.cmd(&["INFO", "commandstats"]).text()) != before
    });
}

#[test]
fn a_write_whose_company_was_refused_is_acknowledged_when_its_copies_count_no_more() {
    let (redis, cold) = (Redis::start(), Redis::start());
    let (proxies, mut readers) = two_with_tiers(redis.addr(), &redis_tier(cold.addr()));
    let crema = &proxies[0].0;
    if crema.is_direct() {
        return;
    }
    let (mut client, mut direct) = (crema.client(), redis.client());
    direct.cmd(&["ACL", "SETUSER", "app", "on", ">secret", "~page:*", "+@all"]);
    let mut app = crema.client();
    assert_eq!(app.cmd(&["AUTH", "app", "secret"]), ok());
    for round in 0..14 {
        let key = format!("page:{round}");
        set_and_copy(crema, &mut client, &key, "old");
        assert_eq!(app.cmd(&["WATCH", &key]), ok());
        assert_eq!(app.cmd(&["DEL", &key]), Value::Int(1));
        for reader in &mut readers {
            assert_eq!(reader.cmd(&["GET", &key]), nil(), "round {round}");
        }
        assert_eq!(app.cmd(&["UNWATCH"]), ok());
    }
    set_and_copy(crema, &mut client, "page:k", "old");
    assert!(app.cmd(&["DEL", "page:k"]).is_error(), "where it can be refused, it is");
}

#[test]
fn a_write_in_another_database_ends_the_copies_there() {
    let (redis, cold) = (Redis::start(), Redis::start());
    let (crema, _file) = with_tiers(redis.addr(), &[(redis_tier(cold.addr()), "copy_up = 0")]);
    if crema.is_direct() {
        return;
    }
    let (mut client, mut third, mut direct) = (crema.client(), crema.client(), redis.client());
    assert_eq!(third.cmd(&["SELECT", "3"]), ok());
    assert_eq!(direct.cmd(&["SELECT", "3"]), ok());
    for write in [&["MOVE", "page:k", "3"][..], &["COPY", "page:k", "page:k", "DB", "3"]] {
        set_and_copy(&crema, &mut third, "page:k", "old");
        evict(&mut direct, "page:k");
        assert_eq!(third.cmd(&["GET", "page:k"]), bulk("old"));
        assert_eq!(client.cmd(&["SET", "page:k", "new"]), ok());
        assert_eq!(client.cmd(write), Value::Int(1), "{write:?}");
        evict(&mut direct, "page:k");
        assert_ne!(third.cmd(&["GET", "page:k"]), bulk("old"), "{write:?}");
        let here = if write[0] == "MOVE" { nil() } else { bulk("new") };
        assert_eq!(client.cmd(&["GET", "page:k"]), here, "it is in its own database");
    }
    for (db, after) in [("0", "5"), ("0", "99")] {
        let mut session = crema.client();
        set_and_copy(&crema, &mut session, "page:s", "old");
        session.cmd(&["SELECT", db]);
        assert_eq!(session.cmd(&["MULTI"]), ok());
        session.cmd(&["DEL", "page:s"]);
        session.cmd(&["SELECT", after]);
        session.cmd(&["SET", "page:t", after]);
        let done = session.cmd(&["EXEC"]);
        assert!(done.items().len() == 3 && done.items()[0] == Value::Int(1), "{done:?}");
        assert_eq!(client.cmd(&["GET", "page:s"]), nil(), "before SELECT {after}");
        assert_eq!(session.cmd(&["GET", "page:t"]), bulk(after), "the session is where it would be");
    }
}

#[test]
fn a_transaction_that_is_not_carried_out_empties_no_tier() {
    let (redis, cold) = (Redis::start(), Redis::start());
    let (crema, _file) = with_tiers(redis.addr(), &[(redis_tier(cold.addr()), "flush = true")]);
    if crema.is_direct() {
        return;
    }
    let mut below = cold.client();
    for mut client in [crema.client(), crema.resp3()] {
        set_and_copy(&crema, &mut client, "page:k", "v");
        assert_eq!(client.cmd(&["WATCH", "other"]), ok());
        assert_eq!(crema.client().cmd(&["SET", "other", "x"]), ok());
        assert_eq!(client.cmd(&["MULTI"]), ok());
        client.cmd(&["FLUSHALL"]);
        assert_eq!(client.cmd(&["EXEC"]), nil());
        set_and_copy(&crema, &mut client, "page:j", "v");
        assert_eq!(below.cmd(&["EXISTS", "crema:0:page:k"]), Value::Int(1));
        assert_eq!(client.cmd(&["MULTI"]), ok());
        client.cmd(&["FLUSHALL"]);
        assert_eq!(client.cmd(&["EXEC"]), array(vec![ok()]));
        eventually("this one was", || below.cmd(&["EXISTS", "crema:0:page:k"]) == Value::Int(0));
    }
}

#[test]
fn a_write_that_is_lost_ends_the_copies_of_its_own_keys_alone() {
    let (redis, cold) = (Redis::start(), Redis::start());
    let link = Link::to(redis.addr());
    let (crema, _file) = with_tiers(link.addr(), &[(redis_tier(cold.addr()), "copy_up = 0")]);
    if crema.is_direct() {
        return;
    }
    let (mut client, mut direct) = (crema.client(), redis.client());
    set_and_copy(&crema, &mut client, "page:kept", "v");
    set_and_copy(&crema, &mut client, "page:lost", "old");
    evict(&mut direct, "page:kept");
    link.freeze();
    client.send(&pack(&["DEL", "page:lost"]));
    eventually("it is on its way", || crema.count("crema_requests_waiting", &[]) > 0);
    link.cut();
    link.thaw();
    eventually("the other's copy counts", || crema.client().cmd(&["GET", "page:kept"]) == bulk("v"));
    evict(&mut direct, "page:lost");
    eventually("nobody knows what became of the write, so its copies count no more", || {
        crema.client().cmd(&["GET", "page:lost"]) == nil()
    });
}
