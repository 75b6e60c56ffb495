//! What L1 costs a request: the hit in its variants, the miss, the touch of Moka that a hit mostly spares, and the flight.

use std::hint::black_box;
use std::time::Duration;

use crema::cache::{Flights, Freshness, Identities, Identity, Lookup, Query, Sampler, Stamps, Store};
use crema::clock::Time;
use crema::resp::Resp;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

const GET: u16 = 1;
const KEYS: u64 = 1_000_000;

struct L1 {
    stamps: Stamps,
    identity: Identity,
    fresh: Freshness,
    store: Store,
    requests: Vec<Vec<u8>>,
}

impl L1 {
    fn filled(size: u64, keys: u64, value: usize) -> Self {
        let fresh = Freshness::new();
        fresh.renew(Time::NEVER);
        let requests = (0..keys).map(|key| format!("$14\r\nkey:{key:010}\r\n").into_bytes()).collect();
        let l1 = Self {
            stamps: Stamps::for_l1(size),
            identity: Identities::default().intern("", 0),
            fresh,
            store: Store::new(size),
            requests,
        };
        let reply = [format!("${value}\r\n").as_bytes(), &vec![b'x'; value], b"\r\n"].concat();
        let expires = Time::now().plus(Duration::from_secs(3600));
        for request in &l1.requests {
            let q = l1.query(request);
            l1.store.insert(&q, &reply, None, l1.stamps.load(q.slot), l1.fresh.epoch(), expires);
        }
        l1
    }

    fn query<'a>(&self, tail: &'a [u8]) -> Query<'a> {
        Query::new(&self.stamps, self.identity, GET, &tail[5..tail.len() - 2], tail, b"")
    }

    fn lookup(&self, tail: &[u8], now: Time, sampler: &mut Sampler, out: &mut Vec<u8>) -> Lookup {
        out.clear();
        let q = self.query(tail);
        self.store.lookup(&q, Resp::V2, &self.stamps, &self.fresh, now, sampler, out)
    }
}

/// The next of a sequence that visits every request, in no order a prefetcher could guess.
fn next(at: &mut u64) -> usize {
    *at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((*at >> 33) % KEYS) as usize
}

fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("l1");
    let (now, mut sampler, mut out) = (Time::now(), Sampler::new(), Vec::new());

    group.bench_function("clock", |b| b.iter(Time::now));
    let few = L1::filled(256 << 20, 16, 100);
    group.bench_function("query", |b| b.iter(|| few.query(black_box(&few.requests[3])).hash));
    let q = few.query(&few.requests[3]);
    group.bench_function("check", |b| b.iter(|| few.store.contains_fresh(black_box(&q), &few.stamps, &few.fresh, now)));
    group.bench_function("hit", |b| b.iter(|| few.lookup(black_box(&few.requests[3]), now, &mut sampler, &mut out)));
    assert_eq!(few.lookup(&few.requests[3], now, &mut sampler, &mut out), Lookup::Hit);
    let absent = b"$14\r\nkey:9999999999\r\n";
    group.bench_function("miss", |b| b.iter(|| few.lookup(black_box(absent), now, &mut sampler, &mut out)));

    let many = L1::filled(1 << 30, KEYS, 100);
    let mut at = 0;
    for _ in 0..20 {
        for request in &many.requests {
            many.lookup(request, now, &mut sampler, &mut out);
        }
    }
    group.bench_function("hit, a million entries", |b| {
        b.iter(|| many.lookup(&many.requests[next(&mut at)], now, &mut sampler, &mut out));
    });
    group.bench_function("miss, a million entries", |b| {
        b.iter(|| many.lookup(black_box(absent), now, &mut sampler, &mut out));
    });
    drop(many);

    // Ten times what fits: the last insert evicts, and until a second has passed every hit touches Moka.
    let full = L1::filled(16 << 20, 200_000, 100);
    let hit = full
        .requests
        .iter()
        .find(|request| full.store.contains_fresh(&full.query(request), &full.stamps, &full.fresh, now));
    let hit = hit.expect("a full L1 has entries");
    group
        .bench_function("hit, while evicting", |b| b.iter(|| full.lookup(black_box(hit), now, &mut sampler, &mut out)));
    group.finish();
}

fn fills(c: &mut Criterion) {
    let l1 = L1::filled(256 << 20, 16, 100);
    let expires = Time::now().plus(Duration::from_secs(3600));
    let mut key = 0_u64;
    c.bench_function("l1/insert", |b| {
        b.iter_batched(
            || {
                key += 1;
                format!("$14\r\nnew:{key:010}\r\n").into_bytes()
            },
            |request| {
                let q = l1.query(&request);
                l1.store.insert(&q, &[b'x'; 100], None, l1.stamps.load(q.slot), l1.fresh.epoch(), expires);
            },
            BatchSize::SmallInput,
        );
    });
}

fn flights(c: &mut Criterion) {
    let l1 = L1::filled(1 << 20, 1, 100);
    let q = l1.query(&l1.requests[0]);
    let (stamp, now) = (l1.stamps.load(q.slot), Time::now());
    let mut flights = Flights::<u64>::new();
    c.bench_function("flight/no join, lead, land", |b| {
        b.iter(|| {
            let joined = flights.join(black_box(&q), &l1.stamps, 0, now, 7);
            let flight = flights.lead(&q, stamp, 0, now);
            (joined, flights.land(flight))
        });
    });
    c.bench_function("flight/lead, join, land", |b| {
        b.iter(|| {
            let flight = flights.lead(black_box(&q), stamp, 0, now);
            (flights.join(&q, &l1.stamps, 0, now, 7), flights.land(flight))
        });
    });
}

criterion_group!(benches, lookups, fills, flights);
criterion_main!(benches);
