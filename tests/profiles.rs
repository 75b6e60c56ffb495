//! Managed services by their URL alone: each is played by a real server that refuses what the service's documentation says it
//! refuses (`profiles/*.toml`), under TLS. On each: the same answers as past crema, coherence, a failover behind the one address.

#[path = "transparency/pipelines.rs"]
mod pipelines;
#[path = "profiles/service.rs"]
mod service;
#[path = "transparency/shapes.rs"]
mod shapes;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crema::metrics::Need;

use common::services::{check_sources, profiles_in};
use common::{AT_LAST, Client, Crema, MAX_STALENESS, Value, bulk, number_from_env, ok, pack, seeded, within};
use service::{Profile, Service, resp3};
use shapes::Shape;

/// The profiles, each with a test of its own.
macro_rules! profiles {
    ($($name:ident $file:literal;)*) => {
        const PROFILES: &[&str] = &[$($file),*];
        $(#[test] fn $name() { try_out($file); })*
    };
}

profiles! {
    elasticache "elasticache";
    memorystore_for_redis "memorystore-redis";
    memorystore_for_valkey "memorystore-valkey";
    azure_managed_redis "azure-managed-redis";
    redis_cloud "redis-cloud";
    upstash "upstash";
    aiven_for_valkey "aiven";
    oci_cache "oci";
    dragonfly "dragonfly";
}

#[test]
fn every_profile_is_tried_and_says_where_it_was_read() {
    let names = profiles_in(&Profile::directory());
    assert_eq!(names, PROFILES.iter().map(|name| (*name).to_owned()).collect());
    for name in &names {
        let Profile { service, page, read_at, not_found, .. } = Profile::read(name);
        check_sources(&service, &page, (&read_at, &not_found));
    }
}

/// How much longer than usual each part goes on: in `make long`.
fn times() -> u64 {
    number_from_env("CREMA_PROFILE_TIMES").unwrap_or(1)
}

fn try_out(name: &str) {
    if std::env::var_os("CREMA_TEST_DIRECT").is_some() || std::env::var_os("CREMA_TEST_COHERENCE").is_some() {
        return; // what is tried is crema, as it comes
    }
    let Some(service) = Service::start(name) else { return };
    let crema = launch(&service);
    answers_alike(&service, &crema);
    service.pair();
    is_coherent(&service, &crema, &launch(&service));
    goes_without_what_is_refused(&service, &crema);
    survives_a_failover(&service, &crema);
    if service.profile.token.is_some()
        && let Some(anew) = Service::start(name)
    {
        outlives_its_tokens(&anew);
    }
}

fn launch(service: &Service) -> Crema {
    let crema = Crema::over(service.address()).url(service.url()).start();
    let mode = [("mode", service.profile.coherence.as_str())];
    within(AT_LAST, "it is known how changes are heard of", || crema.count("crema_coherence_mode", &mode) == 1);
    crema
}

fn answers_alike(service: &Service, crema: &Crema) {
    let mut rng = seeded(&service.profile.service);
    for version in [2, 3] {
        let through = || {
            let client = service.log_in(crema.client());
            if version == 3 { resp3(client) } else { client }
        };
        let rounds = usize::try_from(3 * times()).expect("few");
        pipelines::compare(version, rounds, &mut rng, is_comparable, || (service.twin(version), through()));
    }
}

/// Not so where a client that is nobody would ask on, answers are as many as it may say it wants, or two servers tell of rules in an
/// order of their own.
fn is_comparable(shape: &Shape) -> bool {
    let has = |words: &[u8]| shape.bytes.windows(words.len()).any(|bytes| bytes == words);
    !has(&pack(&["RESET"])) && !has(b"\r\nREPLY\r\n") && !has(b"\r\nGETUSER\r\n")
}

/// What crema needs on its own account and is refused is told. Some of it is asked for only when something is the matter.
fn goes_without_what_is_refused(service: &Service, crema: &Crema) {
    let refused = |need: &Need| crema.count("crema_upstream_refusals", &[("need", need.as_str())]) == 1;
    let told: BTreeSet<&str> = Need::ALL.iter().filter(|need| refused(need)).map(|need| need.as_str()).collect();
    let known: BTreeSet<&str> = service.profile.goes_without.iter().map(String::as_str).collect();
    let on_occasion = [Need::ClientId, Need::ClientList, Need::ClientKill].map(Need::as_str);
    let beyond: Vec<_> = told.difference(&known).filter(|need| !on_occasion.contains(need)).collect();
    assert!(told.is_superset(&known) && beyond.is_empty(), "{}: {told:?}", service.profile.service);
}

/// Own writes at once; others', by whatever road the service tells of, within `max_staleness`.
fn is_coherent(service: &Service, crema: &Crema, other: &Crema) {
    let mut readers = [service.log_in(crema.client()), service.log_in(other.client())];
    let mut writers = vec![service.log_in(crema.client()), service.log_in(other.client())];
    if service.profile.coherence != "channel" {
        writers.push(service.client());
    }
    let roads = writers.len();
    for round in 0..usize::try_from(60 * times()).expect("few") {
        let (key, value, road) = (format!("key:{}", round % 4), round.to_string(), round % roads);
        assert_eq!(writers[road].cmd(&["SET", &key, &value]), ok());
        let acknowledged = Instant::now();
        for (place, reader) in readers.iter_mut().enumerate() {
            loop {
                let begun = Instant::now();
                let got = reader.cmd(&["GET", &key]);
                if got == bulk(&value) {
                    break;
                }
                assert_ne!(place, road, "its own write, read {got:?}");
                assert!(begun - acknowledged <= MAX_STALENESS, "{got:?} after {:?}", begun - acknowledged);
            }
        }
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(2)); // in which it enters memory, where the next write finds it
            for reader in &mut readers {
                reader.cmd(&["GET", &key]);
            }
        }
    }
    for (crema, reader) in [crema, other].into_iter().zip(&mut readers) {
        within(AT_LAST, "memory answers", || {
            reader.cmd(&["GET", "key:0"]);
            crema.outcomes("hit") > 0
        });
    }
}

fn survives_a_failover(service: &Service, crema: &Crema) {
    let mut before = service.log_in(crema.client());
    assert_eq!(before.cmd(&["SET", "k", "before"]), ok());
    service.fail_over();
    let works = |words: &[&str], expected: &Value| {
        let client = Client::try_connect(crema.addr()).ok();
        client
            .and_then(|client| service.try_log_in(client))
            .is_some_and(|mut client| client.try_cmd(words).is_ok_and(|answer| answer == *expected))
    };
    within(AT_LAST, "a write is taken", || works(&["SET", "k", "after"], &ok()));
    for _ in 0..20 {
        assert!(works(&["GET", "k"], &bulk("after")));
    }
    within(AT_LAST, "memory is used again", || {
        let hits = crema.outcomes("hit");
        std::thread::sleep(Duration::from_millis(5));
        works(&["GET", "k"], &bulk("after")) && crema.outcomes("hit") > hits
    });
}

/// An hour of tokens, each of which lasts for seconds here: no client sees an error, whatever it asks meanwhile.
fn outlives_its_tokens(service: &Service) {
    const PERIOD: Duration = Duration::from_millis(1500);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("token");
    let write = |token: &str| {
        let new = directory.path().join("new");
        std::fs::write(&new, token).expect("our own directory");
        std::fs::rename(&new, &file).expect("our own directory");
    };
    write(&service.rotate(0));
    let launch = Crema::over(service.address()).url(service.url_without_password()).flag("--auth", "open");
    let crema = launch.flag("--upstream-password-file", file.display()).start();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = ["a", "b", "c"].map(|key| scope.spawn(|| ask_on(&crema, key, &stop)));
        for number in 1..=4 * times() {
            write(&service.rotate(number));
            std::thread::sleep(PERIOD);
        }
        stop.store(true, Ordering::Relaxed);
        let asked: u64 = asking.into_iter().map(|asking| asking.join().expect("no client saw an error")).sum();
        assert!(asked > 100, "{asked} commands");
    });
    let (logins, failed) = service.logins();
    assert!(logins > 4 && failed == 0, "{logins} logins, {failed} of them in vain");
}

/// Reads, writes, transactions and commands that wait, on connections old and new, until it is to stop; how often.
fn ask_on(crema: &Crema, key: &str, stop: &AtomicBool) -> u64 {
    let (mut old, mut asked) = (crema.client(), 0);
    while !stop.load(Ordering::Relaxed) {
        let mut new = crema.client();
        for client in [&mut old, &mut new] {
            assert_eq!(client.cmd(&["SET", key, "v"]), ok());
            assert_eq!(client.cmd(&["GET", key]), bulk("v"));
            assert_eq!(client.cmd(&["MULTI"]), ok());
            client.cmd(&["GET", key]);
            assert_eq!(client.cmd(&["EXEC"]).items(), [bulk("v")]);
            assert!(!matches!(client.cmd(&["BLPOP", "empty", "0.01"]), Value::Error(_)));
        }
        asked += 1;
    }
    asked * 10
}
