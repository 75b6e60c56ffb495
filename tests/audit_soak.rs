//! The audit calls nothing wrong that is right, whatever happens: every hit is read again among concurrent writes of every kind, expiries,
//! flushes, swaps of databases, failovers and links that stand still or break.
//!
//! `CREMA_AUDIT_SECONDS` sets how long each of the four goes on (6 when unset), `CREMA_AUDIT_CHECKED` after how many hits that were compared
//! it ends before. What was reached is printed. One ear reads no more than about 100,000 hits a second again, so clients are several users.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::cluster::{Failover, keys_in};
use common::sentinel::Group;
use common::{Client, Cluster, Crema, Link, MAX_STALENESS, Redis, Stop, eventually, number_from_env, pack, seeded};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Of each type.
const KEYS: usize = 24;
const TYPES: [&str; 6] = ["string", "hash", "set", "list", "zset", "counter"];

/// So little that each key is followed.
const L1_SIZE: &str = "16MiB";
/// Each has an ear of its own.
const USERS: [&str; 3] = ["default", "one", "other"];

/// What is read of a key of that type; whatever comes, it is read to the end.
fn reads(kind: &str, key: &str) -> Vec<Vec<u8>> {
    let of = |words: &[&str]| pack(words);
    match kind {
        "string" => vec![of(&["GET", key]), of(&["STRLEN", key]), of(&["EXISTS", key]), of(&["MGET", key, key])],
        "hash" => {
            vec![of(&["HGETALL", key]), of(&["HGET", key, "f1"]), of(&["HKEYS", key]), of(&["HMGET", key, "f1", "f2"])]
        }
        "set" => vec![of(&["SMEMBERS", key]), of(&["SISMEMBER", key, "3"]), of(&["TYPE", key])],
        "list" => vec![of(&["LRANGE", key, "0", "-1"]), of(&["LLEN", key])],
        "zset" => vec![of(&["ZRANGE", key, "0", "-1", "WITHSCORES"]), of(&["ZSCORE", key, "3"])],
        _ => vec![of(&["GET", key]), of(&["GETRANGE", key, "0", "1"])],
    }
}

/// One way to change a key of that type.
fn change(kind: &str, key: &str, dice: &mut SmallRng) -> Vec<String> {
    let (few, many) = (dice.random_range(0..8).to_string(), dice.random::<u32>().to_string());
    let life = dice.random_range(1..300).to_string();
    let field = format!("f{few}");
    let of = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match dice.random_range(0..10) {
        0 => of(&["DEL", key]),
        1 => of(&["PEXPIRE", key, &life]),
        2 => of(&["PERSIST", key]),
        // A script that does not say what it changes.
        3 if kind == "string" => of(&["EVAL", &format!("return redis.call('set', '{key}', '{many}')"), "0"]),
        4 if kind == "string" => of(&["SET", key, &many, "PX", &life]),
        n => match kind {
            "string" => of(&["SET", key, &many]),
            "hash" if n == 5 => of(&["HDEL", key, &field]),
            "hash" => of(&["HSET", key, &field, &many]),
            "set" if n == 5 => of(&["SREM", key, &few]),
            "set" => of(&["SADD", key, &few, &many]),
            "list" if n > 6 => of(&["LPOP", key]),
            "list" => of(&["RPUSH", key, &many]),
            "zset" if n == 5 => of(&["ZREM", key, &few]),
            "zset" => of(&["ZADD", key, &many, &few]),
            _ => of(&["INCR", key]),
        },
    }
}

/// One run: what is audited, and where it is written.
struct Soak {
    crema: Crema,
    keys: Vec<(&'static str, String)>,
    databases: u32,
    /// Whether Redis knows all of [`USERS`].
    has_users: bool,
    over: AtomicBool,
    begun: Instant,
    length: Duration,
    enough: u64,
}

impl Soak {
    fn new(crema: Crema, keys: Vec<(&'static str, String)>, databases: u32) -> Soak {
        let length = Duration::from_secs(number_from_env("CREMA_AUDIT_SECONDS").unwrap_or(6));
        let enough = number_from_env("CREMA_AUDIT_CHECKED").unwrap_or(u64::MAX);
        let (has_users, over, begun) = (false, AtomicBool::new(false), Instant::now());
        Soak { crema, keys, databases, has_users, over, begun, length, enough }
    }

    /// The same, whose clients are all of [`USERS`].
    fn of_users(self, redis: &Redis) -> Soak {
        for user in &USERS[1..] {
            redis.client().cmd(&["ACL", "SETUSER", user, "on", ">p", "~*", "&*", "+@all"]);
        }
        Soak { has_users: true, ..self }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn checked(&self) -> u64 {
        self.crema.count("crema_audit_checked_total", &[])
    }

    /// Reads until it is over; connects anew where the connection is closed, as it is in an outage.
    fn read(&self, user: &str, mut dice: SmallRng) {
        while !self.is_over() {
            let Ok(mut client) = Client::try_connect(self.crema.addr()) else { continue };
            let db = dice.random_range(0..self.databases).to_string();
            let login = |client: &mut Client| client.try_cmd(&["AUTH", user, "p"]);
            if self.has_users && user != "default" && login(&mut client).is_err()
                || dice.random() && client.try_cmd(&["HELLO", "3"]).is_err()
                || client.try_cmd(&["SELECT", &db]).is_err()
            {
                continue;
            }
            let of_keys: Vec<_> = self.keys.iter().flat_map(|(kind, key)| reads(kind, key)).collect();
            let (batch, count) = (of_keys.concat().repeat(4), of_keys.len() * 4);
            for _ in 0..1000 {
                let went =
                    client.try_send(&batch).and_then(|()| (0..count).try_for_each(|_| client.try_reply().map(drop)));
                if went.is_err() || self.is_over() {
                    break;
                }
            }
        }
    }

    /// Writes until it is over, now here and now there.
    fn write(&self, at: &[SocketAddr], mut dice: SmallRng) {
        let mut clients: Vec<Option<Client>> = at.iter().map(|_| None).collect();
        while !self.is_over() {
            let nth = dice.random_range(0..at.len());
            let Some(client) = &mut clients[nth] else {
                clients[nth] = Client::try_connect(at[nth]).ok();
                continue;
            };
            let (kind, key) = self.keys.choose(&mut dice).expect("there are keys");
            let db = dice.random_range(0..self.databases).to_string();
            let change = change(kind, key, &mut dice);
            if client.try_cmd(&["SELECT", &db]).and_then(|_| client.try_cmd(&change)).is_err() {
                clients[nth] = None;
            }
            std::thread::sleep(Duration::from_micros(dice.random_range(0..8000)));
        }
    }

    /// Runs it, with `trouble` again and again, until time is over and there was enough of it.
    fn run(&self, name: &str, writers: &[SocketAddr], mut trouble: impl FnMut(&Soak, &mut SmallRng) + Send) {
        let mut dice = seeded(name);
        std::thread::scope(|scope| {
            let _ends = Stop(&self.over);
            let mut fork = || SmallRng::seed_from_u64(dice.random());
            for user in USERS {
                let dice = fork();
                scope.spawn(move || self.read(user, dice));
            }
            for _ in 0..2 {
                let dice = fork();
                scope.spawn(move || self.write(writers, dice));
            }
            let mut dice = fork();
            eventually("hits are read again", || self.checked() > 0);
            while self.begun.elapsed() < self.length && self.checked() < self.enough {
                std::thread::sleep(Duration::from_millis(dice.random_range(50..1000)));
                trouble(self, &mut dice);
                assert_eq!(self.crema.count("crema_audit_violations_total", &[]), 0, "{}", self.crema.log());
            }
            let before = self.checked();
            eventually("hits are read again after all that", || self.checked() > before);
        });
        let by = |metric: &str, reasons: &[&str]| -> Vec<String> {
            let count = |reason: &&str| format!("{reason} {}", self.crema.count(metric, &[("reason", reason)]));
            reasons.iter().map(count).collect()
        };
        let rate = self.checked() / self.begun.elapsed().as_secs().max(1);
        eprintln!(
            "{name}: {} hits read again in {:?}, {rate} a second, of {} hits, {} held against writes and changes; skipped {:?}, \
             ambiguous {:?}",
            self.checked(),
            self.begun.elapsed(),
            self.crema.outcomes("hit"),
            self.crema.count("crema_audit_ordered_total", &[]),
            by("crema_audit_skipped_total", &["behind", "changed", "refused", "ear_lost"]),
            by("crema_audit_ambiguous_total", &["untold", "swaps", "absent", "many", "under_way", "opaque"]),
        );
        assert_eq!(self.crema.count("crema_audit_violations_total", &[]), 0, "{}", self.crema.log());
        assert!(self.crema.count("crema_audit_ordered_total", &[]) > 0);
        assert_eq!(self.crema.count("crema_audit_ambiguous_total", &[("reason", "under_way")]), 0);
    }
}

fn keys() -> Vec<(&'static str, String)> {
    TYPES.iter().flat_map(|kind| (0..KEYS).map(move |key| (*kind, format!("{kind}:{key}")))).collect()
}

#[test]
fn in_front_of_one_server_nothing_right_is_called_wrong() {
    in_front_of_one_server("tracking");
}

#[test]
fn where_all_changes_are_told_nothing_right_is_called_wrong() {
    in_front_of_one_server("broadcast");
}

fn in_front_of_one_server(coherence: &str) {
    let redis = Redis::with(&["--enable-debug-command", "local", "--save", ""]);
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr())
        .flag("--l1-size", L1_SIZE)
        .flag("--coherence", coherence)
        .flag("--audit", "1/1")
        .start();
    if crema.is_direct() || std::env::var_os("CREMA_TEST_COHERENCE").is_some() {
        return;
    }
    let soak = Soak::new(crema, keys(), 2).of_users(&redis);
    let (redis, link) = (&redis, &link);
    let writers = [redis.addr(), soak.crema.addr()];
    soak.run(&format!("one server, by {coherence}"), &writers, |soak, dice| {
        let command = |words: &[&str]| drop(redis.client().try_cmd(words));
        let time = MAX_STALENESS.mul_f64(dice.random_range(0.1..2.0));
        match dice.random_range(0..14) {
            0 => command(&["FLUSHALL"]),
            1 => command(&["FLUSHDB"]),
            2 => command(&["SWAPDB", "0", "1"]),
            3 => drop(
                Client::try_connect(soak.crema.addr()).and_then(|mut client| client.try_cmd(&["SWAPDB", "0", "1"])),
            ),
            4 => {
                link.freeze();
                std::thread::sleep(time);
                link.thaw();
            }
            5 => link.cut(),
            6 => link.late("crema-ear", time / 10),
            7 => command(&["DEBUG", "RELOAD"]),
            8 => command(&["CONFIG", "RESETSTAT"]),
            9 => command(&["CLIENT", "PAUSE", "200", *["ALL", "WRITE"].choose(dice).expect("two")]),
            10 => command(&["DEBUG", "SET-ACTIVE-EXPIRE", *["0", "1"].choose(dice).expect("two")]),
            11 => {
                let _frozen = redis.freeze();
                std::thread::sleep(time / 4);
            }
            12 => command(&["CLIENT", "KILL", "TYPE", "normal"]),
            _ => command(&["DEBUG", "SLEEP", "0.1"]),
        }
    });
}

#[test]
fn behind_sentinels_that_fail_over_nothing_right_is_called_wrong() {
    let group = Group::start();
    let start = |audit: &str| {
        Crema::over(group.servers[0].addr())
            .flag("--l1-size", L1_SIZE)
            .url(group.url(""))
            .flag("--audit", audit)
            .start()
    };
    let (crema, other) = (start("1/1"), start("off"));
    if crema.is_direct() || std::env::var_os("CREMA_TEST_COHERENCE").is_some() {
        return;
    }
    let soak = Soak::new(crema, keys(), 1);
    let writers = [other.addr(), soak.crema.addr()];
    soak.run("Sentinels", &writers, |soak, _| {
        let failovers = soak.crema.count("crema_sentinel_failovers_total", &[]);
        let asked = group.sentinels[0].client().cmd(&["SENTINEL", "FAILOVER", common::sentinel::NAME]);
        if !asked.is_error() {
            eventually("the failover is seen", || soak.crema.count("crema_sentinel_failovers_total", &[]) > failovers);
        }
    });
}

#[test]
fn in_front_of_a_cluster_whose_slots_and_masters_change_nothing_right_is_called_wrong() {
    let cluster = Cluster::start();
    let start =
        |audit: &str| cluster.crema().flag("--l1-size", L1_SIZE).flag("--promote", "1").flag("--audit", audit).start();
    let (crema, other) = (start("1/1"), start("off"));
    if crema.is_direct() || std::env::var_os("CREMA_TEST_COHERENCE").is_some() {
        return;
    }
    let of = |kind: &'static str| keys_in(0..=16383, kind).take(KEYS).map(move |key| (kind, key));
    let soak = Soak::new(crema, TYPES.into_iter().flat_map(of).collect(), 1);
    let writers = [other.addr(), soak.crema.addr()];
    let cluster = &cluster;
    soak.run("a cluster", &writers, |soak, dice| {
        let (_, key) = soak.keys.choose(dice).expect("there are keys");
        let slot = common::cluster::slot_of(key);
        let owner = cluster.owner(slot);
        if dice.random_bool(0.7) {
            let others: Vec<usize> =
                (0..cluster.len()).filter(|&node| node != owner && cluster.is_master(node)).collect();
            cluster.move_slot(slot, *others.choose(dice).expect("there are others"));
        } else if let Some(&replica) = cluster.replicas_of(owner).first() {
            cluster.fail_over(replica, *[Failover::Agreed, Failover::Force].choose(dice).expect("two"));
            cluster.await_whole();
        }
    });
}
