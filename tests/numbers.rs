//! What the numbers say: every metric moves when what it is about happens, and whatever fails at crema is counted once, with
//! its class and its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;

use common::cluster::{Failover, key_in};
use common::http::HttpOrigin;
use common::link::Way;
use common::redis::{free_port, loopback};
use common::relay::{Lie, Relay};
use common::sentinel::Group;
use common::tls::Authority;
use common::{AT_LAST, Client, Cluster, Crema, Link, Redis, bulk, eventually, ok, pack};

/// Requests that failed, by class, and errors by reason; only what is not zero.
fn failures(crema: &Crema) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
    let (_, page) = crema.admin("/metrics").expect("the admin port answers");
    let by = |start: &str, end: &str| {
        let found = page.lines().filter_map(|line| {
            let (label, value) = line.strip_prefix(start)?.split_once(end)?;
            Some((label.to_owned(), value.trim().parse::<u64>().ok().filter(|&value| value > 0)?))
        });
        found.collect()
    };
    (by("crema_requests_total{class=\"", "\",outcome=\"refused\"} "), by("crema_errors_total{reason=\"", "\"} "))
}

/// Sends a command on a connection of its own: it is answered with an error, or the connection is closed.
fn fails<A: AsRef<[u8]>>(crema: &Crema, command: &[A]) {
    let mut client = crema.client();
    client.patience(AT_LAST);
    client.send_cmd(command);
    let answer = client.try_value();
    assert!(!answer.as_ref().is_ok_and(|answer| !answer.is_error()), "{answer:?}");
}

fn counts(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
}

#[test]
fn what_cannot_be_sent_is_refused_and_nothing_else() {
    let mut redis = Redis::start();
    // With "close" all are closed as soon as one has found that Redis is away.
    let crema = Crema::over(redis.addr()).flag("--upstream-down", "error").start();
    if crema.is_direct() {
        return;
    }
    let mut clients: Vec<Client> = (0..4).map(|_| crema.client()).collect();
    for client in &mut clients {
        assert_eq!(client.cmd(&["PING"]), common::simple("PONG"));
    }
    redis.kill();
    let commands: [&[&str]; 4] =
        [&["SET", "k", "v"], &["GET", "k"], &["HGET", "h", "f"], &["EVAL", "return redis.call('SET', 'a', 1)", "0"]];
    for (client, command) in clients.iter_mut().zip(commands) {
        client.send_cmd(command);
        let answer = client.try_value();
        assert!(!answer.as_ref().is_ok_and(|answer| !answer.is_error()), "{answer:?}");
    }
    let (classes, reasons) = failures(&crema);
    assert_eq!(classes, counts(&[("hash", 1), ("script", 1), ("string", 2)]));
    assert_eq!(reasons.values().sum::<u64>(), 4, "{reasons:?}");
    for tried in ["write", "opaque", "blind", "lead", "behind_write"] {
        assert_eq!(crema.outcomes(tried), 0, "{tried}");
    }
    assert_eq!(crema.waiting(), 0);
}

#[test]
fn what_is_late_is_refused_for_that_reason() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).flag("--response-timeout", "300ms").flag("--threads", 1).start();
    if crema.is_direct() {
        return;
    }
    assert_eq!(crema.client().cmd(&["SET", "k", "v"]), ok());
    link.hold(Way::Replies);
    fails(&crema, &["INCR", "n"]);
    eventually("it is given up", || failures(&crema) == (counts(&[("string", 1)]), counts(&[("timeout", 1)])));
    assert_eq!((crema.outcomes("write"), crema.waiting()), (1, 0), "that was the first");
}

#[test]
fn what_is_lost_is_refused_for_that_reason() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).flag("--threads", 1).start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    link.hold(Way::Replies);
    client.send_cmd(&["LPUSH", "l", "v"]);
    eventually("it is under way", || crema.waiting() == 1);
    link.cut();
    let answer = client.try_value();
    assert!(!answer.as_ref().is_ok_and(|answer| !answer.is_error()), "{answer:?}");
    assert_eq!(failures(&crema), (counts(&[("list", 1)]), counts(&[("lost", 1)])));
    assert_eq!((crema.outcomes("write"), crema.waiting()), (1, 0), "that was the first");
}

#[test]
fn what_a_client_does_wrong_is_counted_once() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    assert_eq!(crema.client().cmd(&["PING"]), common::simple("PONG"));
    let before = crema.count("crema_requests_total", &[]);
    let mut rude = crema.client();
    rude.send(b"*1\r\n$x\r\n");
    assert!(rude.value().is_error());
    assert_eq!(failures(&crema), (counts(&[("connection", 1)]), counts(&[("protocol", 1)])));
    assert_eq!(crema.count("crema_requests_total", &[]), before + 1);
    // What Redis says is no failure of crema's, whatever it is.
    assert!(crema.client().cmd(&["INCR"]).is_error());
    assert_eq!(failures(&crema).1, counts(&[("protocol", 1)]));
}

/// Commands that crema answers itself, passes on for a session, or asks Redis about first.
#[test]
fn every_command_counts_once_whatever_way_it_goes() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let commands: [&[&str]; 24] = [
        &["PING"],
        &["SET", "k", "v"],
        &["MGET", "k", "l"],
        &["SELECT", "1"],
        &["SELECT", "x"],
        &["CLIENT", "SETINFO", "LIB-NAME", "x"],
        &["CLIENT", "GETNAME"],
        &["CLIENT", "REPLY", "ON"],
        &["CLIENT", "REPLY", "MAYBE"],
        &["HELLO", "2"],
        &["HELLO", "9"],
        &["HELLO", "2", "NONSENSE"],
        &["AUTH", "default", "x"],
        &["MULTI"],
        &["GET", "k"],
        &["EXEC"],
        &["DISCARD"],
        &["CONFIG", "GET", "maxmemory"],
        &["SWAPDB", "1", "2"],
        &["CREMA", "STATUS"],
        &["NOSUCHCOMMAND", "x"],
        &["WAIT", "0", "1"],
        &["HELLO", "3"],
        &["RESET"],
    ];
    for command in commands {
        let before = crema.count("crema_requests_total", &[]);
        client.cmd(command);
        assert_eq!(crema.count("crema_requests_total", &[]) - before, 1, "{command:?}");
        assert_eq!(crema.waiting(), 0, "{command:?}");
    }
    assert_eq!(failures(&crema).1, BTreeMap::new());
}

/// The names of the metrics of which some series is not zero.
fn moved(crema: &Crema) -> BTreeSet<String> {
    let (_, page) = crema.admin("/metrics").expect("the admin port answers");
    let series = page.lines().filter(|line| line.starts_with("crema_"));
    let moving = series.filter_map(|line| line.rsplit_once(' ').filter(|(_, value)| *value != "0"));
    moving.map(|(series, _)| series.split('{').next().expect("a name").to_owned()).collect()
}

/// What moves in front of a cluster of which a slot goes elsewhere and a master is replaced.
fn of_a_cluster() -> BTreeSet<String> {
    let cluster = Cluster::start();
    let key = key_in(5, "k");
    let crema = cluster.crema().flag("--promote", "1").start();
    crema.warm(&["GET", &key]);
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", &key, "v"]), ok());
    cluster.move_slot(5, 1);
    assert_eq!(client.cmd(&["GET", &key]), bulk("v"));
    eventually("memory is told that the slot has left", || crema.count("crema_slots_left_total", &[]) > 0);
    cluster.failover(3, Failover::Force);
    eventually("an election is seen", || {
        crema.warm(&["GET", &key]);
        crema.count("crema_elections_total", &[]) > 0
    });
    moved(&crema)
}

/// What moves in front of a group of Sentinels that fails over.
fn of_sentinels() -> BTreeSet<String> {
    let group = Group::start();
    let crema = Crema::over(group.servers[0].addr()).url(group.url("")).flag("--promote", "1").start();
    eventually("the master is proven", || crema.count("crema_sentinel_master_proven", &[]) > 0);
    let proven = moved(&crema);
    group.sentinels[0].fail_over();
    eventually("the failover is seen", || crema.count("crema_sentinel_failovers_total", &[]) > 0);
    proven.into_iter().chain(moved(&crema)).collect()
}

/// What moves where a value is copied to a tier.
fn of_tiers() -> BTreeSet<String> {
    let (redis, cold) = (Redis::start(), Redis::start());
    let tier = format!("[[tier]]\nmatch = \"page:*\"\nurl = \"redis://{}\"\n", cold.addr());
    let crema = Crema::over(redis.addr()).settings(&tier).start();
    assert_eq!(crema.client().cmd(&["SET", "page:1", "v"]), ok());
    eventually("it is copied", || crema.count("crema_tier_total", &[("outcome", "copied")]) > 0);
    moved(&crema)
}

/// What moves where values are loaded.
fn of_origins() -> BTreeSet<String> {
    let (redis, origin) = (Redis::start(), HttpOrigin::start());
    let rule =
        format!("[[origin]]\nmatch = \"page:*\"\nurl = \"http://{}/{{1}}\"\nmax_concurrent = 1\n", origin.addr());
    let crema = Crema::over(redis.addr()).settings(&rule).start();
    origin.hold();
    let mut clients = [crema.client(), crema.client()];
    for (client, key) in clients.iter_mut().zip(["page:1", "page:2"]) {
        client.send_cmd(&["GET", key]);
    }
    eventually("one waits for the other", || crema.count("crema_origin_loads_waiting", &[]) > 0);
    let waiting = moved(&crema);
    origin.release();
    for client in &mut clients {
        assert!(!client.value().is_error());
    }
    assert_eq!(crema.count("crema_origin_loads_total", &[("result", "loaded")]), 2);
    moved(&crema).union(&waiting).cloned().collect()
}

/// What moves where replicas are read, and one falls behind.
fn of_replicas() -> BTreeSet<String> {
    let cluster = Cluster::plan().with_links().with_replication_links().start();
    let crema = cluster.crema().flag("--read-from", "replica").flag("--promote", 0).start();
    let (key, mut seen) = (key_in(5, "k"), BTreeSet::new());
    let mut client = crema.client();
    eventually("a replica is read, and its lag shows", || {
        assert!(!client.cmd(&["GET", &key]).is_error());
        seen.extend(moved(&crema));
        seen.contains("crema_replica_lag_milliseconds")
    });
    cluster.replication(0).freeze();
    assert_eq!(client.cmd(&["SET", &key, "v"]), ok());
    eventually("it is behind", || {
        client.cmd(&["GET", &key]);
        crema.count("crema_replica_lag_bytes", &[]) > 0
    });
    seen.extend(moved(&crema));
    seen
}

/// What moves where settings are read anew that cannot be used.
fn of_settings() -> BTreeSet<String> {
    let redis = Redis::start();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let crema =
        Crema::over(redis.addr()).flag("--config", file.path().display()).flag("--admin-users", "default").start();
    std::fs::write(file.path(), "nonsense = 1").expect("it can be written");
    assert!(crema.client().cmd(&["CREMA", "RELOAD"]).is_error());
    moved(&crema)
}

/// What moves where hits are read again: right ones, one of which a relay hides the change, and one of which nobody tells.
fn of_the_audit() -> BTreeSet<String> {
    let redis = Redis::start();
    let relay = Relay::to(redis.addr(), Lie::NoKeys);
    let of = |coherence| {
        let crema = Crema::over(relay.addr()).flag("--audit", "1/1").flag("--l1-size", "16MiB"); // so that each key is followed
        crema.flag("--coherence", coherence).start()
    };
    let mut direct = redis.client();
    let mut seen = BTreeSet::new();
    for (coherence, metric) in
        [("tracking", "crema_audit_violations_total"), ("channel", "crema_audit_ambiguous_total")]
    {
        let crema = of(coherence);
        let mut client = crema.client();
        assert_eq!(direct.cmd(&["SET", "k", "v"]), ok());
        eventually("a hit is read again", || {
            client.cmd(&["GET", "k"]);
            crema.count("crema_audit_checked_total", &[]) > 0
        });
        relay.lie(true);
        assert_eq!(direct.cmd(&["SET", "k", "w"]), ok());
        eventually("the difference is found", || {
            client.cmd(&["GET", "k"]);
            crema.count(metric, &[]) > 0
        });
        relay.lie(false);
        eventually("one is changed before it is read again", || {
            client.cmd(&["GET", "k"]);
            direct.cmd(&["SET", "k", "x"]);
            crema.count("crema_audit_skipped_total", &[]) > 0 || coherence == "channel"
        });
        seen.extend(moved(&crema));
    }
    seen
}

#[test]
fn every_metric_moves() {
    let redis = Redis::with(&["--requirepass", "secret"]);
    let link = Link::to(redis.addr());
    let (own, secure) = (Authority::of_tunnels().issue("numbers", &["127.0.0.1"]), loopback(free_port()));
    let crema = Crema::over(link.addr())
        .url(format!("redis://:secret@{}", link.addr()))
        .flag("--auth", "open")
        .flag("--admin-users", "default")
        .flag("--l1-size", "1MiB")
        .flag("--max-clients", 12)
        .flag("--channel-publish", true)
        .flag("--response-timeout", "2s")
        .flag("--tls-cert", own.cert.display())
        .flag("--tls-key", own.key.display())
        .also_under_tls(secure)
        .start();
    if crema.is_direct() {
        return;
    }
    let mut direct = redis.client();
    assert_eq!(direct.cmd(&["AUTH", "secret"]), ok());
    assert_eq!(direct.cmd(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]), ok());
    assert_eq!(direct.cmd(&["CONFIG", "SET", "maxmemory", "1gb"]), ok());
    let mut seen = moved(&crema);
    let mut client = crema.client();
    for mode in ["observe", "cache"] {
        assert_eq!(client.cmd(&["CREMA", "MODE", mode]), ok());
    }
    // Hits, evictions, and what becomes of fills.
    for n in 0..300 {
        let key = format!("k{n}");
        client.cmd(&["SET", &key, &"v".repeat(20_000)]);
        client.cmd(&["GET", &key]);
        client.cmd(&["GET", &key]);
    }
    // More keys at once than the curve looks at.
    eventually("some are not looked at", || {
        let many = |of| (0..1000).map(move |n| format!("many:{of}:{n}"));
        let reads: Vec<Vec<String>> =
            (0..8).map(|of| iter::once("MGET".to_owned()).chain(many(of)).collect()).collect();
        client.pipeline(&reads);
        crema.count("crema_curve_reads_lost_total", &[]) > 0
    });
    client.cmd(&["SET", "hot", "v"]);
    crema.warm(&["GET", "hot"]);
    client.cmd(&["SET", "huge", &"v".repeat(2_000_000)]);
    client.cmd(&["GET", "huge"]);
    eventually("Redis is told what L1 serves", || {
        client.cmd(&["GET", "hot"]);
        seen.extend(moved(&crema));
        crema.count("crema_touched_keys_total", &[]) > 0
    });
    // What others change, and tell.
    direct.cmd(&["SET", "hot", "w"]);
    direct.cmd(&["PUBLISH", "cache:invalidate", "{}"]);
    // A connection of one's own, for a while and for life.
    assert_eq!(client.cmd(&["MULTI"]), ok());
    let mut waits = crema.client();
    waits.send_cmd(&["BLPOP", "nothing", "0"]);
    eventually("both have one", || {
        crema.count("crema_pinned_connections", &[]) > 0 && crema.count("crema_home_connections", &[]) > 0
    });
    seen.extend(moved(&crema));
    client.cmd(&["DISCARD"]);
    drop(waits);
    // A user without the rights that L1 needs.
    direct.cmd(&["ACL", "SETUSER", "plain", "on", ">p", "~*", "+get", "+auth", "+select"]);
    let mut plain = crema.client();
    assert_eq!(plain.cmd(&["AUTH", "plain", "p"]), ok());
    eventually("the user is found to lack something", || {
        plain.cmd(&["GET", "hot"]);
        crema.count("crema_users_without_l1_total", &[]) > 0
    });
    eventually("the handshake of one who speaks no TLS fails", || {
        // Where as many are connected as may be, it is closed before.
        let _ = Client::try_connect(secure).and_then(|mut client| client.try_send(&pack(&["PING"])));
        crema.count("crema_tls_handshakes_failed_total", &[]) > 0
    });
    eventually("a PROXY header that nobody asked for is refused", || {
        let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";
        let _ = Client::try_connect(crema.addr()).and_then(|mut client| client.try_send(header));
        crema.count("crema_proxy_headers_refused_total", &[]) > 0
    });
    // As many clients as there may be, and one more.
    let many: Vec<_> = (0..12).map(|_| Client::try_connect(crema.addr())).collect();
    eventually("one is turned away", || crema.count("crema_sessions_refused_total", &[]) > 0);
    drop(many);
    eventually("they have left", || {
        let answered = Client::try_connect(crema.addr()).and_then(|mut client| client.try_cmd(&["PING"]));
        answered.is_ok_and(|reply| !reply.is_error())
    });
    // A link that stands still until the lease has lapsed, and then breaks under a read and a write.
    crema.warm(&["GET", "hot"]);
    let lapsed = crema.count("crema_leases_lapsed_total", &[]);
    link.freeze();
    eventually("the lease lapses", || crema.count("crema_leases_lapsed_total", &[]) > lapsed);
    let (mut reads, mut writes) = (crema.client(), crema.client());
    reads.send_cmd(&["GET", "elsewhere"]);
    writes.send_cmd(&["SET", "elsewhere", "v"]);
    eventually("both are under way", || crema.waiting() >= 2);
    seen.extend(moved(&crema));
    link.cut();
    link.thaw();
    eventually("the read is sent again", || crema.count("crema_retried_reads_total", &[]) > 0);
    eventually("the write is lost", || crema.count("crema_lost_writes_total", &[]) > 0);
    direct.cmd(&["FLUSHALL"]);
    eventually("the ear has heard of the flush", || {
        if let Ok(mut client) = Client::try_connect(crema.addr()) {
            let _ = client.try_cmd(&["GET", "hot"]); // nobody is taken on while Redis is known to be away
        }
        direct.cmd(&["FLUSHALL"]);
        crema.count("crema_flushes_total", &[]) > 0
    });
    seen.extend(moved(&crema));
    // A client that reads nothing; one without a login has least to leave.
    let shut = Crema::over(redis.addr()).url(format!("redis://:secret@{}", redis.addr())).start();
    let mut deaf = shut.client();
    assert!(deaf.cmd(&["GET", "k"]).is_error());
    deaf.stream().set_write_timeout(Some(AT_LAST)).expect("a deadline above zero");
    let request = pack(&["GET", "k"]).repeat(1000);
    while deaf.try_send(&request).is_ok() {}
    eventually("it is counted", || shut.count("crema_slow_clients_total", &[]) > 0);
    seen.extend(moved(&shut));
    // A server without a command that crema would ask.
    let meagre = Redis::with(&["--rename-command", "CONFIG", ""]);
    let without = Crema::over(meagre.addr()).start();
    eventually("it is told", || without.count("crema_upstream_refusals", &[]) > 0);
    seen.extend(moved(&without));
    seen.extend(of_settings());
    seen.extend(of_the_audit());
    seen.extend(of_a_cluster());
    seen.extend(of_sentinels());
    seen.extend(of_tiers());
    seen.extend(of_origins());
    seen.extend(of_replicas());
    let known: BTreeSet<String> = crema::metrics::descriptions().map(|(name, _)| name.to_owned()).collect();
    let still: Vec<&String> = known.iter().filter(|name| !seen.iter().any(|seen| seen.starts_with(*name))).collect();
    assert!(still.is_empty(), "never moved: {still:?}");
    let read = |name: &str| crema.metric(name, &[]);
    assert!(read("process_open_fds") > 3.0 && read("process_resident_memory_bytes") > 1e6);
    assert!(read("process_cpu_seconds_total") > 0.0 && read("process_start_time_seconds") > 1e9);
}
