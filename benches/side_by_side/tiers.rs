//! Reads of what the upstream does not have, with tiers below it: a Redis and a Memcached that have the value, or do not; and keys without
//! a tier beside them, which are to cost what they cost where there are none.
//!
//! Copies are put there by hand, with the versions that they count under. The processor time of a tier itself is nobody's here.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::load::{Ask, HOT, Load, VALUE};
use super::peers::Peer;
use super::speed::{Field, HITS, MISSES, Row, measure};

/// A crema with these tiers, and one that puts back into the upstream what it finds.
const IN_REDIS: &str = "crema, a Redis below";
const IN_MEMCACHED: &str = "crema, a Memcached below";
const COPY_UP: &str = "crema, a Redis below, each copied up";
const PROMOTING: &str = "crema, a Redis below, promote 1";

/// A tier at `url` for the keys that are below; with more settings. It is waited for, or what is measured were a tier that is skipped.
pub(crate) fn settings(url: &str, more: &str) -> String {
    format!("[[tier]]\nmatch = \"below:*\"\nurl = \"{url}\"\ntimeout = \"10s\"\n{more}\n")
}

/// What is found is read where it lies, and stays there alone.
pub(crate) const STAYS: &str = "copy_up = 0";
/// What is found is back in the upstream for a millisecond.
const GOES_UP: &str = "max_stay = \"1s\"\nttl_scale = 1000";

/// A Redis, and Memcached where one is installed, with a value for each of the keys of [`Ask::Below`].
pub(crate) struct Beneath {
    pub(crate) redis: Peer,
    memcached: Option<Peer>,
}

impl Beneath {
    /// Seeds the upstream with versions as well: those of keys that no tier has are as if they had been deleted.
    pub(crate) fn start(upstream: &Peer) -> Self {
        let copies = format!(
            "for i = 0, {} do redis.call('SET', 'crema:0:below:'..i, 'crema1\\n1\\n1\\n0\\n'..string.rep('x', {VALUE})) end",
            HOT - 1
        );
        let versions = format!(
            "redis.call('SET', 'crema:epoch', '1') for i = 0, {} do redis.call('SET', 'crema:ver:below:'..i, '1') \
             redis.call('SET', 'crema:ver:below:gone:'..i, '1') end",
            HOT - 1
        );
        upstream.ask(&["EVAL", &versions, "0"]);
        let redis = Peer::redis("Redis below", "redis-server".as_ref());
        redis.ask(&["EVAL", &copies, "0"]);
        let memcached = Peer::memcached();
        memcached.iter().for_each(fill);
        Self { redis, memcached }
    }
}

fn fill(memcached: &Peer) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, memcached.port)).expect("it listens");
    let copy = format!("crema1\n1\n1\n0\n{}", "x".repeat(VALUE));
    for number in 0..HOT {
        let command = format!("ms crema:0:below:{number} {} T0\r\n{copy}\r\n", copy.len());
        stream.write_all(command.as_bytes()).expect("it reads");
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).expect("it answers");
        assert_eq!(&answer, b"HD\r\n");
    }
}

/// Puts hits, misses and reads that go on below on all.
pub(crate) fn run(field: &Field, rounds: usize, span: Duration) -> Vec<Row> {
    let below = Beneath::start(&field.redis);
    let crema = |name, tier: &Peer, promote, more| {
        let settings = settings(&tier.tier_url(), more);
        Peer::crema_with(name, &field.redis, &["--promote", promote], &settings)
    };
    let redis = crema(IN_REDIS, &below.redis, "0", STAYS);
    let memcached = below.memcached.as_ref().map(|memcached| crema(IN_MEMCACHED, memcached, "0", STAYS));
    let up = crema(COPY_UP, &below.redis, "0", GOES_UP);
    let promoting = crema(PROMOTING, &below.redis, "1", STAYS);
    let loads =
        [Ask::Get, Ask::Gone, Ask::Below].into_iter().flat_map(|ask| [1, 16].map(|depth| Load::new(ask, depth)));
    loads
        .map(|load| {
            eprintln!("with tiers: {}, P={}", load.name(), load.depth);
            let mut peers = vec![&field.redis];
            match load.ask {
                Ask::Get => peers.extend([&field.hits, &promoting, &field.misses, &redis]),
                ask => {
                    peers.extend([&field.misses, &redis].into_iter().chain(&memcached));
                    peers.extend((ask == Ask::Below).then_some(&up));
                }
            }
            measure(&peers, &field.redis, &load, rounds, span)
        })
        .collect()
}

/// What a run says of it.
pub(crate) fn goals(rows: &[Row]) -> impl Iterator<Item = super::goals::Goal> + '_ {
    let beside = |row: &Row, with, without| row.ratio(with, without);
    rows.iter().filter(|row| row.load.ask == Ask::Get).flat_map(move |row| {
        [(PROMOTING, HITS, "hit"), (IN_REDIS, MISSES, "miss")].into_iter().filter_map(move |(with, without, what)| {
            let text =
                format!("a {what} of a key without a tier, by the same where there are none, P={}", row.load.depth);
            Some(super::goals::Goal { text, limit: 1.05, figure: beside(row, with, without)? })
        })
    })
}
