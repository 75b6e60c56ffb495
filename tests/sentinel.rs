//! A group that Sentinels watch, as one Redis: what its clients see of failovers, and what L1 answers meanwhile.
//!
//! Groups are real: a master, two replicas and three Sentinels, behind links that can be cut. Holds contract points 3, 4 and 7.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::proxy::Launch;
use common::redis::loopback;
use common::sentinel::{DECIDED, Group, NAME, Plan};
use common::tls::{Authority, Tunnel};
use common::{Client, Crema, Link, Stop, Value, bulk, eventually, int, ok, within};

/// The bound in these tests.
const BOUND: Duration = Duration::from_millis(200);

/// A proxy is asked about in each of these tests.
fn is_direct() -> bool {
    std::env::var_os("CREMA_TEST_DIRECT").is_some()
}

fn over(group: &Group) -> Launch {
    let launch = Crema::over(group.links[0].addr()).url(group.url(""));
    launch.flag("--max-staleness", format!("{}ms", BOUND.as_millis()))
}

/// Asks again on new connections until it is answered, as a program does that survives a failover.
fn insist(crema: &Crema, command: &[&str]) -> Value {
    let mut answer = None;
    within(DECIDED, "an answer", || {
        answer = Client::try_connect(crema.addr()).ok().and_then(|mut client| client.try_cmd(command).ok());
        answer.as_ref().is_some_and(|answer| !answer.is_error())
    });
    answer.expect("there is one")
}

/// Reads `key` until L1 answers it, and says how long that took.
fn until_hit(crema: &Crema, key: &str) -> Duration {
    let (begun, before) = (Instant::now(), crema.outcomes("hit"));
    let mut client = crema.client();
    eventually("L1 answers", || {
        client.cmd(&["GET", key]);
        crema.outcomes("hit") > before
    });
    begun.elapsed()
}

#[test]
fn the_master_that_sentinels_name_is_served_and_hits_are_proven() {
    if is_direct() {
        return;
    }
    for plan in [Plan::default(), Plan::default().valkey()] {
        let Some(group) = plan.try_start() else { continue };
        let crema = over(&group).start();
        let mut client = crema.client();
        assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
        assert_eq!(group.servers[0].client().cmd(&["GET", "k"]), bulk("v"));
        until_hit(&crema, "k");
        assert_eq!(group.servers[0].client().cmd(&["SET", "k", "other"]), ok());
        std::thread::sleep(BOUND);
        assert_eq!(client.cmd(&["GET", "k"]), bulk("other"));
        let status = crema.admin("/api/status").expect("it answers").1;
        assert!(status.contains(&group.links[0].addr().to_string()), "{status}");
        let told = client.cmd(&["CREMA", "EXPLAIN", "GET", "k"]).items().to_vec();
        let field = |name: &str| told.chunks(2).find(|pair| pair[0].text() == name).expect("a field")[1].text();
        assert_eq!([field("group"), field("node")], [NAME.to_owned(), group.links[0].addr().to_string()]);
        assert!(field("master_for_ms").parse::<u64>().is_ok_and(|known| known > 0));
    }
}

#[test]
fn after_the_master_is_killed_the_next_serves_all_and_the_former_comes_back_as_a_replica() {
    if is_direct() {
        return;
    }
    let mut group = Group::start();
    let crema = over(&group).start();
    assert_eq!(crema.client().cmd(&["SET", "k", "before"]), ok());
    until_hit(&crema, "k");
    eventually("replicas have it", || {
        group.servers[1..].iter().all(|server| server.client().cmd(&["GET", "k"]) == bulk("before"))
    });
    let mut idle = crema.client();
    idle.cmd(&["PING"]);
    group.servers[0].kill();
    let now = group.moved_from(0);
    assert_eq!(insist(&crema, &["SET", "k", "after"]), ok());
    assert_eq!(group.servers[now].client().cmd(&["GET", "k"]), bulk("after"));
    let took = until_hit(&crema, "k");
    assert!(took < Duration::from_secs(2), "{took:?}");
    group.servers[0].restart();
    group.follows(0);
    assert_eq!(insist(&crema, &["GET", "k"]), bulk("after"));
    assert_eq!(crema.client().cmd(&["SET", "k", "later"]), ok());
    until_hit(&crema, "k");
}

/// What the proxy showed of itself at a moment.
struct Sample {
    begun: Instant,
    hits: u64,
    master: String,
}

fn sample(crema: &Crema) -> Sample {
    let begun = Instant::now();
    let (_, status) = crema.admin("/api/status").expect("the admin port answers");
    let master =
        status.split("\"master\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default().to_owned();
    Sample { begun, hits: crema.outcomes("hit"), master }
}

/// Has hits served all the time while `fault` happens, and says what the proxy showed of itself, until it is at another master and
/// answers from memory again; and when another server first took a write.
fn under_load(group: &Group, crema: &Crema, former: &str, fault: impl FnOnce()) -> (Vec<Sample>, Instant) {
    crema.client().cmd(&["SET", "k", "v"]);
    until_hit(crema, "k");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = Stop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut client) = Client::try_connect(crema.addr()) else { continue };
                    while !stop.load(Ordering::Relaxed) && client.try_cmd(&["GET", "k"]).is_ok() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
        }
        let first = scope.spawn(|| {
            let mut clients: Vec<_> = group.servers[1..].iter().map(common::Redis::client).collect();
            let deadline = Instant::now() + DECIDED;
            loop {
                assert!(Instant::now() < deadline, "no other server takes a write");
                for (client, server) in clients.iter_mut().zip(&group.servers[1..]) {
                    match client.try_cmd(&["SET", "k", "new"]) {
                        Ok(reply) if reply == ok() => return Instant::now(),
                        Ok(_) => {}
                        Err(_) => *client = server.client(), // it became a master, and its connections were closed
                    }
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let mut samples = vec![sample(crema)];
        fault();
        within(DECIDED, "another master, and hits", || {
            samples.push(sample(crema));
            let last = samples.last().expect("one was pushed");
            let moved = samples.iter().find(|sample| sample.master != former && !sample.master.is_empty());
            moved.is_some_and(|moved| last.hits > moved.hits)
        });
        drop(over);
        (samples, first.join().expect("no panic"))
    })
}

/// No hit came from the former master's memory once another server had taken a write for longer than the bound; and the new one's
/// answers soon.
#[track_caller]
fn judge(samples: &[Sample], first_write: Instant, former: &str) {
    let late = |sample: &Sample| sample.begun > first_write + BOUND && sample.master == former;
    let late: Vec<_> = samples.iter().filter(|sample| late(sample)).collect();
    let hits = late.last().map_or(0, |last| last.hits - late[0].hits);
    assert_eq!(hits, 0, "hits of the former master's, of {} samples", late.len());
    let moved = samples.iter().find(|sample| sample.master != former).expect("it moved");
    let took = samples.last().expect("there are some").begun - moved.begun;
    eprintln!(
        "moved {:?} after the first write, hits {took:?} after that",
        moved.begun.saturating_duration_since(first_write)
    );
    assert!(took < Duration::from_secs(2), "hits again after {took:?}");
}

#[test]
fn no_hit_is_older_than_the_bound_when_a_failover_is_forced() {
    if is_direct() {
        return;
    }
    for plan in [Plan::default(), Plan::default().valkey()] {
        let Some(group) = plan.try_start() else { continue };
        let crema = over(&group).start();
        let former = group.links[0].addr().to_string();
        let (samples, first) = under_load(&group, &crema, &former, || group.sentinels[0].fail_over());
        judge(&samples, first, &former);
        group.follows(0);
        until_hit(&crema, "k");
    }
}

/// What `cluster_node_map` takes to lead the proxy to other places than all others go to.
fn node_map(pairs: &[(SocketAddr, SocketAddr)]) -> String {
    pairs.iter().map(|(says, is)| format!("{says}={is}")).collect::<Vec<_>>().join(",")
}

#[test]
fn no_hit_is_older_than_the_bound_when_the_master_is_cut_off_with_crema_on_its_side() {
    if is_direct() {
        return;
    }
    let group = Group::start();
    // The proxy still reaches the master, and one Sentinel not at all.
    let (side, nowhere) = (Link::to(group.servers[0].addr()), Link::to(group.sentinels[0].addr()));
    nowhere.freeze();
    let map = [(group.links[0].addr(), side.addr()), (group.sentinels[0].link.addr(), nowhere.addr())];
    let seeds = format!("{},{}", group.sentinels[1].link.addr(), group.sentinels[2].link.addr());
    let crema = over(&group).url(format!("redis+sentinel://{seeds}/{NAME}")).flag("--cluster-node-map", node_map(&map));
    let (crema, former) = (crema.start(), side.addr().to_string());
    let (samples, first) = under_load(&group, &crema, &former, || group.links[0].freeze());
    judge(&samples, first, &former);
    assert_eq!(sentinels(&crema), (3, 2));
    group.links[0].thaw();
    group.follows(0);
    until_hit(&crema, "k");
}

/// How many Sentinels the proxy knows, and how many answer.
fn sentinels(crema: &Crema) -> (u64, u64) {
    (crema.count("crema_sentinels", &[]), crema.count("crema_sentinels_answering", &[]))
}

#[test]
fn hits_go_on_without_a_minority_of_sentinels_and_not_without_a_majority() {
    if is_direct() {
        return;
    }
    let group = Group::start();
    let crema = over(&group).start();
    assert_eq!(crema.client().cmd(&["SET", "k", "v"]), ok());
    until_hit(&crema, "k");
    group.sentinels[0].freeze();
    eventually("one is missed", || sentinels(&crema) == (3, 2));
    until_hit(&crema, "k");

    group.sentinels[1].freeze();
    let mut client = crema.client();
    let blind = crema.outcomes("blind");
    eventually("no lease is left", || {
        client.cmd(&["GET", "k"]);
        crema.outcomes("blind") > blind
    });
    let hits = crema.outcomes("hit");
    for n in 0..50 {
        let value = n.to_string();
        assert_eq!(group.servers[0].client().cmd(&["SET", "k", &value]), ok());
        assert_eq!(client.cmd(&["GET", "k"]), bulk(&value));
    }
    assert_eq!(crema.outcomes("hit"), hits, "nothing comes out of memory");
    eventually("it is told", || crema.count("crema_sentinel_master_proven", &[]) == 0);
    group.sentinels.iter().take(2).for_each(common::sentinel::Sentinel::thaw);
    until_hit(&crema, "k");
    eventually("that it is over is told", || crema.has_logged("the Sentinels are sure of the master again"));
}

#[test]
fn an_election_without_a_winner_ends_hits_until_it_is_over() {
    if is_direct() {
        return;
    }
    let group = Plan::default().quorum(1).start();
    let side = Link::to(group.servers[0].addr());
    let mut map = vec![(group.links[0].addr(), side.addr())];
    map.extend(group.sentinels.iter().map(|sentinel| (sentinel.link.addr(), sentinel.addr())));
    let seeds: Vec<_> = group.sentinels.iter().map(|sentinel| sentinel.addr().to_string()).collect();
    let url = format!("redis+sentinel://{}/{NAME}", seeds.join(","));
    let crema = over(&group).url(url).flag("--cluster-node-map", node_map(&map)).start();
    assert_eq!(crema.client().cmd(&["SET", "k", "v"]), ok());
    until_hit(&crema, "k");
    // Each votes for itself, and reaches nobody.
    group.sentinels.iter().for_each(|sentinel| sentinel.link.freeze());
    group.links[0].freeze();
    eventually("there is a doubt", || crema.count("crema_sentinel_master_proven", &[]) == 0);
    group.links[0].thaw();
    within(DECIDED, "it came to nothing", || crema.count("crema_sentinel_master_proven", &[]) == 1);
    until_hit(&crema, "k");
    assert_eq!(crema.count("crema_sentinel_failovers_total", &[]), 0);
    assert_eq!(sentinels(&crema), (3, 3));
}

#[test]
fn sentinels_with_users_are_asked_as_those_allow_and_a_wrong_password_is_told() {
    if is_direct() {
        return;
    }
    let group = Plan::default().passwords(Some("of-servers"), Some("of-sentinels")).start();
    let secret = tempfile::NamedTempFile::new().expect("a file");
    let url = group.url(":of-servers@");
    let wrong = over(&group).url(url.clone()).flag("--sentinel-password", "guessed").without_waiting().start();
    eventually("it is told", || wrong.has_logged("it refuses the login"));
    assert!(!wrong.is_ready() && wrong.admin("/readyz").is_some_and(|(_, why)| why.contains("no Sentinel answers")));
    drop(wrong);

    let asks = ["myid", "sentinels", "replicas", "master", "get-master-addr-by-name", "is-master-down-by-addr"];
    let asks = asks.map(|asks| format!("+sentinel|{asks}"));
    let mut rules = vec!["ACL", "SETUSER", "crema", "on", ">of-crema", "-@all", "+auth"];
    rules.extend(asks.iter().map(String::as_str));
    group.sentinels.iter().for_each(|sentinel| assert_eq!(sentinel.client().cmd(&rules), ok()));
    std::fs::write(secret.path(), "of-crema\n").expect("our own file");
    let path = secret.path().display();
    let crema = over(&group).url(url).flag("--sentinel-user", "crema").flag("--sentinel-password-file", path).start();
    let mut client = crema.client();
    client.cmd(&["AUTH", "of-servers"]);
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    eventually("L1 answers", || {
        client.cmd(&["GET", "k"]);
        crema.outcomes("hit") > 0
    });
    assert!(!crema.has_logged("refuses"), "{}", crema.log());
}

#[test]
fn servers_and_sentinels_are_spoken_to_under_tls() {
    if is_direct() {
        return;
    }
    let (group, authority) = (Group::start(), Authority::new());
    let own = authority.issue("server", &["127.0.0.1"]);
    let into = |addr: SocketAddr| (addr, Tunnel::out_to(addr, &own));
    let servers = group.links.iter().map(|link| into(link.addr()));
    let tunnels: Vec<_> = servers.chain(group.sentinels.iter().map(|sentinel| into(sentinel.link.addr()))).collect();
    let map: Vec<_> = tunnels.iter().map(|(says, tunnel)| (*says, tunnel.addr())).collect();
    let seed = tunnels.last().expect("six").1.addr();
    let url = format!("rediss+sentinel://{seed}/{NAME}?ca={}", authority.ca().display());
    let crema = over(&group).url(url).flag("--cluster-node-map", node_map(&map)).start();
    assert_eq!(crema.client().cmd(&["SET", "k", "v"]), ok());
    until_hit(&crema, "k");
    assert_eq!(sentinels(&crema), (3, 3));
}

#[test]
fn crema_starts_when_nothing_answers_and_is_ready_when_a_majority_does() {
    if is_direct() {
        return;
    }
    let group = Group::start();
    let seeds: Vec<_> = group.sentinels.iter().map(|_| Link::to(loopback(1))).collect();
    let url: Vec<_> = seeds.iter().map(|seed| seed.addr().to_string()).collect();
    let url = format!("redis+sentinel://{}/{NAME}", url.join(","));
    // Each is asked at its seed alone.
    let map: Vec<_> =
        group.sentinels.iter().zip(&seeds).map(|(sentinel, seed)| (sentinel.link.addr(), seed.addr())).collect();
    let crema = over(&group).url(url).flag("--cluster-node-map", node_map(&map)).without_waiting().start();
    eventually("clients are refused", || Client::try_connect(crema.addr()).is_err());
    assert!(crema.admin("/readyz").is_some_and(|(status, why)| status == 503 && why.contains("no Sentinel answers")));
    seeds[0].turn_to(group.sentinels[0].addr());
    eventually("one answers", || sentinels(&crema) == (3, 1));
    assert!(crema.admin("/readyz").is_some_and(|(status, why)| status == 503 && why.contains("no majority")));
    seeds[1].turn_to(group.sentinels[1].addr());
    eventually("it is ready", || crema.is_ready());
    assert_eq!(insist(&crema, &["PING"]), common::simple("PONG"));
}

/// The numbers that a program adds to a list, each once whatever comes of it, while the master changes.
#[test]
fn no_write_is_done_twice_and_none_is_lost_that_the_next_master_had() {
    if is_direct() {
        return;
    }
    let mut group = Group::start();
    let crema = over(&group).start();
    let (mut acknowledged, mut n) = (Vec::new(), 0_i64);
    let mut push = |crema: &Crema, times: i64, acknowledged: &mut Vec<i64>| {
        let until = n + times;
        let deadline = Instant::now() + DECIDED;
        while n < until {
            assert!(Instant::now() < deadline, "no write is taken");
            let Ok(mut client) = Client::try_connect(crema.addr()) else { continue };
            while n < until {
                n += 1;
                match client.try_cmd(&["RPUSH", "list", &n.to_string()]) {
                    Ok(reply) if !reply.is_error() => acknowledged.push(n),
                    _ => break,
                }
            }
        }
    };
    push(&crema, 500, &mut acknowledged);
    let known = int(500);
    eventually("the replicas have all", || {
        group.servers[1..].iter().all(|server| server.client().cmd(&["LLEN", "list"]) == known)
    });
    group.sentinels[1].fail_over();
    let before = acknowledged.len();
    let moved = std::thread::scope(|scope| {
        let moved = scope.spawn(|| group.moved_from(0));
        while !moved.is_finished() {
            push(&crema, 50, &mut acknowledged);
        }
        moved.join().expect("no panic")
    });
    eventually("it is at the new one", || sample(&crema).master == group.links[moved].addr().to_string());
    let after = acknowledged.len();
    push(&crema, 500, &mut acknowledged);
    let list = group.servers[moved].client().cmd(&["LRANGE", "list", "0", "-1"]);
    let list: Vec<i64> = list.items().iter().map(Value::number).collect();
    let mut once = list.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), list.len(), "none is there twice");
    let owed = acknowledged[..before].iter().chain(&acknowledged[after..]);
    let missing: Vec<_> = owed.filter(|n| once.binary_search(n).is_err()).collect();
    assert!(missing.is_empty(), "{missing:?}");
    group.servers[moved].kill();
}

#[test]
fn who_has_something_of_its_own_at_the_former_master_is_closed() {
    if is_direct() {
        return;
    }
    let group = Group::start();
    let crema = over(&group).start();
    let (mut waits, mut listens, mut begun) = (crema.client(), crema.client(), crema.client());
    waits.send_cmd(&["BLPOP", "nothing", "0"]);
    assert!(!listens.cmd(&["SUBSCRIBE", "news"]).is_error());
    begun.cmd(&["MULTI"]);
    begun.cmd(&["SET", "k", "v"]);
    let mut idle = crema.client();
    idle.cmd(&["GET", "k"]);
    group.sentinels[0].fail_over();
    for (what, client) in [("waits", &mut waits), ("listens", &mut listens), ("begun", &mut begun)] {
        assert!(client.closes_within(DECIDED), "{what}");
    }
    let moved = group.moved_from(0);
    eventually("it is at the new one", || sample(&crema).master == group.links[moved].addr().to_string());
    assert_eq!(idle.cmd(&["SET", "k", "v"]), ok(), "who has nothing there stays");
    assert_eq!(group.servers[moved].client().cmd(&["GET", "k"]), bulk("v"));
}
