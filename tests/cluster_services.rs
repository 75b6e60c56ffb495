//! Managed services in cluster mode by their URL alone: each is played by a real cluster whose user may not do what the service's
//! documentation says it refuses (`profiles/cluster/*.toml`), under TLS, and whose nodes all have the service's one name.
//!
//! On each crema finds the nodes, serves, tells what it does without, and is coherent by what remains, while slots move too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crema::metrics::Need;
use serde::Deserialize;

use common::cluster::{key_in, slot_of};
use common::services::{check_sources, profiles_in};
use common::tls::{Authority, Tunnel};
use common::{AT_LAST, Client, Cluster, Crema, MAX_STALENESS, Value, array, bulk, ok, within};

const PASSWORD: &str = "secret";

/// The profiles, each with a test of its own.
macro_rules! profiles {
    ($($name:ident $file:literal;)*) => {
        const PROFILES: &[&str] = &[$($file),*];
        $(#[test] fn $name() { try_out($file); })*
    };
}

profiles! {
    elasticache_in_cluster_mode "elasticache";
    elasticache_serverless "elasticache-serverless";
    memorydb "memorydb";
    azure_managed_redis_with_the_policy_oss "azure-managed-redis";
}

/// What is known of a service.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    /// As its makers call it.
    service: String,
    /// Of `docs/services`.
    page: String,
    masters: usize,
    /// Commands and subcommands that no user may use.
    refuses: Vec<String>,
    /// How changes can be heard of.
    coherence: String,
    /// What crema needs on its own account and is refused, by its metric's labels.
    goes_without: Vec<String>,
    /// Pages of its documentation.
    read_at: Vec<String>,
    /// What stands on none of them, and what is assumed for it.
    not_found: Vec<String>,
}

impl Profile {
    fn directory() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/profiles/cluster")
    }

    fn read(name: &str) -> Profile {
        let path = Self::directory().join(name).with_extension("toml");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
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

/// A cluster whose nodes are reached under TLS, at one name and a port each.
struct Service {
    profile: Profile,
    cluster: Cluster,
    fronts: Vec<Tunnel>,
    authority: Authority,
}

impl Service {
    fn start(name: &str) -> Service {
        let profile = Profile::read(name);
        let cluster = Cluster::plan().masters(profile.masters).start();
        let authority = Authority::new();
        let own = authority.issue("service", &["localhost"]);
        let fronts: Vec<Tunnel> = (0..profile.masters).map(|n| Tunnel::out_to(cluster.addr(n), &own)).collect();
        for (n, front) in fronts.iter().enumerate() {
            let mut operator = cluster.client(n);
            let port = front.addr().port().to_string();
            for (name, value) in [
                ("cluster-announce-hostname", "localhost"),
                ("cluster-preferred-endpoint-type", "hostname"),
                ("cluster-announce-port", &port),
            ] {
                assert_eq!(operator.cmd(&["CONFIG", "SET", name, value]), ok());
            }
            let password = format!(">{PASSWORD}");
            assert_eq!(operator.cmd(&["ACL", "SETUSER", "app", "on", &password, "~*", "&*", "+@all"]), ok());
            for command in &profile.refuses {
                let told = operator.cmd(&["ACL", "SETUSER", "app", &format!("-{command}")]);
                assert_eq!(told, ok(), "{}: {command}", profile.service);
            }
        }
        let known = |n: usize| cluster.client(n).cmd(&["CLUSTER", "NODES"]).text().matches("localhost").count();
        common::eventually("all know all names", || (0..profile.masters).all(|n| known(n) == profile.masters));
        Service { profile, cluster, fronts, authority }
    }

    /// What its console shows: one name, and the authority that signs its certificates.
    fn crema(&self) -> Crema {
        let (port, ca) = (self.fronts[0].addr().port(), self.authority.ca());
        let url = format!("rediss+cluster://app:{PASSWORD}@localhost:{port}?ca={}", ca.display());
        let crema = Crema::over(self.fronts[0].addr()).url(url).start();
        let mode = [("mode", self.profile.coherence.as_str())];
        within(AT_LAST, "it is known how changes are heard of", || crema.count("crema_coherence_mode", &mode) == 1);
        crema
    }

    /// What a client says first.
    fn log_in(mut client: Client) -> Client {
        assert_eq!(client.cmd(&["AUTH", "app", PASSWORD]), ok());
        client
    }
}

fn try_out(name: &str) {
    if std::env::var_os("CREMA_TEST_DIRECT").is_some() || std::env::var_os("CREMA_TEST_COHERENCE").is_some() {
        return; // what is tried is crema, as it comes
    }
    let service = Service::start(name);
    let cremas = [service.crema(), service.crema()];
    serves(&service, &cremas[0]);
    is_coherent(&service, &cremas, |_| ());
    goes_without_what_is_refused(&service, &cremas[0]);
    if service.profile.masters > 1 {
        // The service scales, by means of its own.
        let slot = slot_of(&key(0));
        is_coherent(&service, &cremas, |round| {
            if round % 20 == 0 {
                service.cluster.move_slot(slot, (service.cluster.owner(slot) + 1) % service.profile.masters);
            }
        });
    }
}

/// Keys that lie at all nodes.
fn key(n: usize) -> String {
    key_in(u16::try_from(n % 4).expect("few") * 5000, "key:")
}

fn serves(service: &Service, crema: &Crema) {
    let mut client = Service::log_in(crema.client());
    let keys: Vec<String> = (0..4).map(key).collect();
    for key in &keys {
        assert_eq!(client.cmd(&["SET", key, "v"]), ok());
    }
    let all: Vec<&str> = std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
    assert_eq!(client.cmd(&all), array(keys.iter().map(|_| bulk("v"))));
    assert_eq!(client.cmd(&["DBSIZE"]).number(), 4);
    let transaction = client.pipeline(&[&["MULTI"][..], &["INCR", "n"], &["EXEC"]]);
    assert_eq!(transaction[2], array([Value::Int(1)]));
    let nodes = client.cmd(&["CREMA", "STATUS"]).items().to_vec();
    let nodes = nodes.chunks(2).find(|pair| pair[0].text() == "nodes").expect("it is told")[1].text();
    assert_eq!(nodes, service.profile.masters.to_string(), "{}", service.profile.service);
    for refused in [&["CLUSTER", "RESET"][..], &["CONFIG", "RESETSTAT"]] {
        assert!(client.cmd(refused).is_error(), "{refused:?}");
    }
}

/// Own writes at once; others', by whatever road the service tells of, within `max_staleness`.
fn is_coherent(service: &Service, cremas: &[Crema; 2], mut befalls: impl FnMut(usize)) {
    let clients = || cremas.each_ref().map(|crema| Service::log_in(crema.client()));
    let (mut readers, mut writers) = (clients(), clients());
    let past = service.profile.coherence != "channel";
    let hits = cremas.each_ref().map(|crema| crema.outcomes("hit"));
    for round in 0..60 {
        befalls(round);
        let (key, value, road) = (key(round), round.to_string(), round % if past { 3 } else { 2 });
        match writers.get_mut(road) {
            Some(writer) => assert_eq!(writer.cmd(&["SET", &key, &value]), ok()),
            None => assert_eq!(service.cluster.client_of(&key).cmd(&["SET", &key, &value]), ok()),
        }
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
    for ((crema, reader), before) in cremas.iter().zip(&mut readers).zip(hits) {
        within(AT_LAST, "memory answers", || {
            reader.cmd(&["GET", &key(0)]);
            crema.outcomes("hit") > before
        });
    }
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
