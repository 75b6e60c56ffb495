//! Bytes of memory: for an entry beyond its key and value, and for a connection that is idle, or busy.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::Duration;

use crema::cache::{Freshness, Identities, Query, Stamps, Store};
use crema::clock::Time;

use super::cpu;
use super::load::{Ask, Load, VALUE, closed};
use super::peers::Peer;
use super::speed::Field;

const ENTRIES: u32 = 500_000;
/// `key:NNNNNN`.
const KEY: usize = 10;

/// Bytes by what they are for and by whose they are.
pub(crate) struct Table {
    pub(crate) columns: Vec<&'static str>,
    pub(crate) rows: Vec<(&'static str, Vec<f64>)>,
}

pub(crate) fn measure(field: &Field, quick: bool) -> Table {
    let idle = if quick { 500 } else { 4000 };
    let redis = Peer::redis("Redis", "redis-server".as_ref());
    let crema = Peer::crema("crema", &field.redis, &["--promote", "1"]);
    let valkey = Peer::valkey();
    let others: Vec<&Peer> = std::iter::once(&redis).chain(&valkey).collect();
    let all: Vec<&Peer> = others.iter().copied().chain([&crema]).collect();
    let own = std::env::current_exe().expect("this program has a file");
    let entry = |mortal: &str| {
        let output = Command::new(&own).args(["entries", mortal]).output().expect("this program runs");
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(f64::NAN)
    };
    let key = |peer: &&Peer| {
        let before = peer.memory();
        peer.ask(&["DEBUG", "POPULATE", &ENTRIES.to_string(), "key", &VALUE.to_string()]);
        (peer.memory() - before) as f64 / f64::from(ENTRIES) - (KEY + VALUE) as f64
    };
    let ttl = |peer: &&Peer| {
        let before = peer.memory();
        peer.ask(&[
            "EVAL",
            "for i = 0, ARGV[1] - 1 do redis.call('EXPIRE', 'key:'..i, 3600) end",
            "0",
            &ENTRIES.to_string(),
        ]);
        (peer.memory() - before) as f64 / f64::from(ENTRIES)
    };
    let absent = vec![f64::NAN; others.len()];
    let keys: Vec<f64> = others.iter().map(key).collect();
    let mortal = others.iter().zip(&keys).map(|(peer, key)| key + ttl(peer));
    Table {
        columns: all.iter().map(|peer| peer.name).collect(),
        rows: vec![
            ("an entry with a TTL, over key and value", mortal.chain([entry("mortal")]).collect()),
            ("an entry without", keys.iter().copied().chain([entry("immortal")]).collect()),
            ("a full L1 of 256 MiB, by its size", absent.iter().copied().chain([entry("full")]).collect()),
            ("an idle connection", all.iter().map(|peer| connection(peer, idle)).collect()),
            ("a busy connection, P=16", all.iter().map(|peer| busy(peer, &field.redis)).collect()),
        ],
    }
}

/// What a connection keeps that has asked something and fallen silent. The first hundred make room that others share.
fn connection(peer: &Peer, count: u32) -> f64 {
    let connect = |_| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, peer.port)).expect("the peer listens");
        stream.write_all(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n").expect("the peer reads");
        stream.read_exact(&mut [0; 5]).expect("the peer answers");
        stream
    };
    let _first: Vec<_> = (0..100).map(connect).collect();
    std::thread::sleep(Duration::from_secs(2));
    let before = peer.memory();
    let _streams: Vec<_> = (0..count).map(connect).collect();
    // Redis gives the buffers of a silent client back within two seconds.
    std::thread::sleep(Duration::from_secs(4));
    (peer.memory() as f64 - before as f64) / f64::from(count)
}

fn busy(peer: &Peer, redis: &Peer) -> f64 {
    let load = Load { clients: 500, ..Load::new(Ask::Get, 16) };
    closed(peer, redis, &Load { clients: 8, ..load }, Duration::from_millis(500), || {});
    let before = peer.memory();
    std::thread::scope(|scope| {
        scope.spawn(|| closed(peer, redis, &load, Duration::from_millis(1500), || {}));
        std::thread::sleep(Duration::from_secs(1));
        (peer.memory() as f64 - before as f64) / load.clients as f64
    })
}

/// Fills an L1 in this process and prints what an entry, with or without a TTL, took beyond its key and value; or, of one that
/// is `full` several times over, which part of its size it really takes.
pub(crate) fn entries(kind: &str) {
    let (mortal, full) = (kind != "immortal", kind == "full");
    let size = if full { 256 << 20 } else { 1 << 30 };
    let (stamps, store, fresh) = (Stamps::for_l1(size), Store::new(size), Freshness::new());
    let identity = Identities::default().intern("", 0);
    let reply = [format!("${VALUE}\r\n").as_bytes(), &[b'x'; VALUE], b"\r\n"].concat();
    let expires = if mortal { Time::now().plus(Duration::from_secs(3600)) } else { Time::NEVER };
    let insert = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let key = format!("key:{number:06}");
            let tail = format!("$10\r\n{key}\r\n");
            let q = Query::new(&stamps, identity, 1, key.as_bytes(), tail.as_bytes(), b"");
            store.insert(&q, &reply, None, stamps.load(q.slot), fresh.epoch(), expires);
            if number % 100_000 == 0 {
                store.run_pending();
            }
        }
        store.run_pending();
    };
    let before = cpu::memory(std::process::id());
    insert(0..if full { 4 * ENTRIES } else { ENTRIES });
    let bytes = cpu::memory(std::process::id()) - before;
    if full {
        return println!("{}", bytes as f64 / size as f64);
    }
    assert_eq!(store.len(), ENTRIES as usize, "everything fits");
    // The stamps are touched as keys are read, and are not the entries'.
    let stamps = stamps.bytes() as u64;
    println!("{}", bytes.saturating_sub(stamps) as f64 / f64::from(ENTRIES) - (KEY + VALUE) as f64);
}
