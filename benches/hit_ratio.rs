//! How many reads L1 answers, by how it decides what to keep: the shares of hits under Zipf's law, in this process and
//! without a server. `cargo bench --bench hit_ratio [-- --quick]`
//!
//! Beside crema's own (Moka told of a part of the hits, a key taken in at one read in N) stand plain Moka, asked on every
//! read and given every key that was missed, and the best that a fixed choice of keys could do: the most frequent ones.
//! L1 has room for a tenth of the keys. A scan, where there is one, is every fifth read and comes by no key twice.

#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "shares, for people")]

use std::time::Duration;

use crema::cache::{Coin, Freshness, Identities, Lookup, Promoter, Query, Sampler, Stamps, Store};
use crema::clock::Time;
use crema::resp::Resp;
use moka::sync::Cache;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const REPLY: &[u8] = b"$5\r\nvalue\r\n";

/// What is read: keys below `keys` by Zipf's law, and above them the scan's.
struct Trace {
    keys: u32,
    exponent: f64,
    scan: bool,
    reads: u32,
}

impl Trace {
    fn reads(&self) -> impl Iterator<Item = u32> + use<> {
        let zipf = Zipf::new(f64::from(self.keys), self.exponent).expect("a law that there is");
        let (mut rng, mut scanned, scan) = (SmallRng::seed_from_u64(7), self.keys, self.scan);
        (0..self.reads).map(move |_| {
            if scan && rng.random_ratio(1, 5) {
                scanned += 1;
                return scanned;
            }
            zipf.sample(&mut rng) as u32 - 1
        })
    }

    fn room(&self) -> u32 {
        self.keys / 10
    }

    /// The share of the law that falls to the most frequent keys.
    fn optimum(&self) -> f64 {
        let weight = |keys: u32| (1..=keys).map(|rank| f64::from(rank).powf(-self.exponent)).sum::<f64>();
        let share = weight(self.room()) / weight(self.keys);
        if self.scan { share * 0.8 } else { share }
    }

    /// The share of hits in the second half, and of fills.
    fn run(&self, mut read: impl FnMut(u32) -> (bool, bool)) -> (f64, f64) {
        let (mut hits, mut fills) = (0_u32, 0_u32);
        for (at, key) in self.reads().enumerate() {
            let (hit, filled) = read(key);
            if at >= self.reads as usize / 2 {
                hits += u32::from(hit);
                fills += u32::from(filled);
            }
        }
        let half = f64::from(self.reads / 2);
        (f64::from(hits) / half, f64::from(fills) / half)
    }

    fn plain_moka(&self) -> f64 {
        let cache = Cache::new(self.room().into());
        let read = |key| {
            let hit = cache.get(&key).is_some();
            if !hit {
                cache.insert(key, ());
            }
            (hit, !hit)
        };
        self.run(read).0
    }

    fn crema(&self, one_in: u32) -> (f64, f64) {
        let (stamps, fresh) = (Stamps::for_l1(64 << 20), Freshness::new());
        fresh.renew(Time::NEVER);
        let identity = Identities::default().intern("", 0);
        let store = Store::new(Self::size(self.room(), &stamps, &fresh));
        let (mut sampler, mut promoter, mut out) = (Sampler::new(), Promoter::new(), Vec::new());
        let mut tail = [0; 20];
        let mut since = 0;
        self.run(|key| {
            since += 1;
            if since % 200_000 == 0 {
                // Once a second, at as many reads in it.
                store.run_pending();
            }
            let q = query(&stamps, identity, key, &mut tail);
            out.clear();
            let now = Time::now();
            let looked = store.lookup(&q, Resp::V2, &stamps, &fresh, now, &mut sampler, &mut out);
            let hit = looked.is_hit();
            let fill = !hit
                && match promoter.toss(one_in, looked == Lookup::Hot, store.is_full()) {
                    Coin::Promote => true,
                    Coin::Knock => store.knows(&q),
                    Coin::IfJoined | Coin::Never => false,
                };
            if fill {
                let expires = now.plus(Duration::from_secs(3600));
                store.insert(&q, REPLY, None, stamps.load(q.slot), fresh.epoch(), expires);
            }
            (hit, fill)
        })
    }

    /// The size of an L1 in which so many of these entries have room.
    fn size(entries: u32, stamps: &Stamps, fresh: &Freshness) -> u64 {
        let probe = Store::new(64 << 20);
        let mut tail = [0; 20];
        let q = query(stamps, Identities::default().intern("", 0), 0, &mut tail);
        probe.insert(&q, REPLY, None, stamps.load(q.slot), fresh.epoch(), Time::NEVER);
        // What the store keeps back for itself comes on top.
        let needed = probe.bytes() * u64::from(entries);
        needed + needed / 63 + needed / 256 + (256 << 10)
    }
}

fn query<'a>(stamps: &Stamps, identity: crema::cache::Identity, key: u32, tail: &'a mut [u8; 20]) -> Query<'a> {
    tail[..4].copy_from_slice(&key.to_be_bytes());
    let tail = &tail[..];
    Query::new(stamps, identity, 1, &tail[..4], tail, b"")
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let (keys, reads) = if quick { (100_000, 1_000_000) } else { (1_000_000, 8_000_000) };
    println!("Share of hits among {reads} reads of {keys} keys, the first half not counted, with room for a tenth\n");
    println!("| law | best choice | Moka, every read | promote 1 | 2 | 10 | 100 | fills a read: 1 | 2 | 10 | 100 |");
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for scan in [false, true] {
        for exponent in [0.7, 0.9, 1.1] {
            let trace = Trace { keys, exponent, scan, reads };
            let ours = [1, 2, 10, 100].map(|one_in| trace.crema(one_in));
            let name = format!("Zipf {exponent}{}", if scan { ", scan" } else { "" });
            let hits = ours.map(|(hits, _)| format!("{hits:.3}")).join(" | ");
            let fills = ours.map(|(_, fills)| format!("{fills:.3}")).join(" | ");
            println!("| {name} | {:.3} | {:.3} | {hits} | {fills} |", trace.optimum(), trace.plain_moka());
        }
    }
}
