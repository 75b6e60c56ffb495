//! How many reads L1 answers, by how it decides what to keep: the shares of hits under Zipf's law, in this process and
//! without a server. `cargo bench --bench hit_ratio [-- --quick]`
//!
//! Beside crema's own (Moka told of a part of the hits, a key taken in at one read in N) stand plain Moka, asked on every
//! read and given every key that was missed, and the best that a fixed choice of keys could do: the most frequent ones.
//! With `--trace=FILE` the reads are those that the second column of a CSV file names, such as `data/twitter_cluster52.csv` in
//! the source distribution of libcachesim 0.3.5 (PyPI): a million requests to a cache of Twitter's.
//!
//! L1 has room for a tenth of the keys. A scan, where there is one, is every fifth read and comes by no key twice.

#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "shares, for people")]

use std::collections::HashMap;
use std::path::Path;
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

/// What is read, key by key, and what the best fixed choice of keys would answer of it.
struct Trace {
    name: String,
    keys: u32,
    reads: Vec<u32>,
    optimum: f64,
}

impl Trace {
    /// Keys below `keys` by Zipf's law, and above them the scan's.
    fn zipf(keys: u32, exponent: f64, scan: bool, reads: u32) -> Self {
        let zipf = Zipf::new(f64::from(keys), exponent).expect("a law that there is");
        let (mut rng, mut scanned) = (SmallRng::seed_from_u64(7), keys);
        let read = |_| {
            if scan && rng.random_ratio(1, 5) {
                scanned += 1;
                return scanned;
            }
            zipf.sample(&mut rng) as u32 - 1
        };
        let weight = |keys: u32| (1..=keys).map(|rank| f64::from(rank).powf(-exponent)).sum::<f64>();
        let share = weight(keys / 10) / weight(keys);
        Self {
            name: format!("Zipf {exponent}{}", if scan { ", scan" } else { "" }),
            keys,
            reads: (0..reads).map(read).collect(),
            optimum: if scan { share * 0.8 } else { share },
        }
    }

    /// The keys that the second column of a CSV file names.
    fn recorded(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("a file of text");
        let (mut numbers, mut reads) = (HashMap::new(), Vec::new());
        for line in text.lines().skip(1) {
            let next = numbers.len() as u32;
            reads.extend(line.split(',').nth(1).map(|key| *numbers.entry(key.trim()).or_insert(next)));
        }
        let keys = numbers.len() as u32;
        let mut counts = vec![0_u32; numbers.len()];
        reads[reads.len() / 2..].iter().for_each(|&key| counts[key as usize] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let best: u32 = counts[..keys as usize / 10].iter().sum();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let optimum = f64::from(best) / (reads.len() - reads.len() / 2) as f64;
        Self { name, keys, reads, optimum }
    }

    fn room(&self) -> u32 {
        self.keys / 10
    }

    /// The share of hits in the second half, and of fills.
    fn run(&self, mut read: impl FnMut(u32) -> (bool, bool)) -> (f64, f64) {
        let (mut hits, mut fills) = (0_u32, 0_u32);
        for (at, &key) in self.reads.iter().enumerate() {
            let (hit, filled) = read(key);
            if at >= self.reads.len() / 2 {
                hits += u32::from(hit);
                fills += u32::from(filled);
            }
        }
        let half = (self.reads.len() - self.reads.len() / 2) as f64;
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
    let recorded: Vec<_> = std::env::args()
        .filter_map(|arg| arg.strip_prefix("--trace=").map(|path| Trace::recorded(path.as_ref())))
        .collect();
    if !recorded.is_empty() {
        println!("Share of hits among recorded reads, the first half not counted, with room for a tenth of the keys\n");
        return table(recorded);
    }
    let quick = std::env::args().any(|arg| arg == "--quick");
    let (keys, reads) = if quick { (100_000, 1_000_000) } else { (1_000_000, 8_000_000) };
    println!("Share of hits among {reads} reads of {keys} keys, the first half not counted, with room for a tenth\n");
    let laws = [false, true].into_iter().flat_map(|scan| [0.7, 0.9, 1.1].map(|exponent| (scan, exponent)));
    table(laws.map(|(scan, exponent)| Trace::zipf(keys, exponent, scan, reads)));
}

fn table(traces: impl IntoIterator<Item = Trace>) {
    println!("| law | best choice | Moka, every read | promote 1 | 2 | 10 | 100 | fills a read: 1 | 2 | 10 | 100 |");
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for trace in traces {
        let ours = [1, 2, 10, 100].map(|one_in| trace.crema(one_in));
        let hits = ours.map(|(hits, _)| format!("{hits:.3}")).join(" | ");
        let fills = ours.map(|(_, fills)| format!("{fills:.3}")).join(" | ");
        let Trace { name, optimum, .. } = &trace;
        println!("| {name} | {optimum:.3} | {:.3} | {hits} | {fills} |", trace.plain_moka());
    }
}
