//! Reads, generated or recorded, replayed with the store and with its miniatures. Used by `tests/curve.rs` and `benches/curve.rs`.

#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "shares, for people")]
#![allow(dead_code, reason = "each uses what it needs")]

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crema::cache::{
    Coin, Freshness, Identities, Identity, Lookup, Measure, Promoter, Query, Sampler, Stamps, Store, Warrant,
};
use crema::clock::Time;
use crema::curve::{MiniatureRead, SimulatedRead, Simulation, SimulationPlan, mixed};
use crema::resp::Resp;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};

/// A trace is taken to last so many seconds: what the miniatures tell then is of its second half.
const SECONDS: usize = 600;
pub(crate) const PROMOTE: u32 = 10;

/// What is done, key by key: a read, or a write where it says so.
pub(crate) struct Trace {
    pub(crate) name: String,
    pub(crate) steps: Vec<(u32, bool)>,
    /// Of an L1 in which some of the keys have room.
    pub(crate) sizes: Vec<u64>,
}

impl Trace {
    fn new(name: impl Into<String>, steps: Vec<(u32, bool)>) -> Self {
        let mut keys: Vec<u32> = steps.iter().map(|&(key, _)| key).collect();
        keys.sort_unstable();
        keys.dedup();
        let all: u64 = keys.iter().map(|&key| u64::from(measure(key).weight)).sum();
        let sizes = [64, 16, 8, 4, 2, 1].map(|part| (all / part).max(1 << 20));
        Self { name: name.into(), steps, sizes: sizes.into() }
    }

    /// Keys by Zipf's law; of a hundred steps `writes` are writes, `scan` reads come by no key twice, and every so many reads
    /// (`shift`) other keys are the popular ones.
    pub(crate) fn zipf(keys: u32, exponent: f64, steps: usize, (writes, scan, shift): (u32, u32, usize)) -> Self {
        let zipf = Zipf::new(f64::from(keys), exponent).expect("a law that there is");
        let (mut rng, mut scanned) = (SmallRng::seed_from_u64(7), keys);
        let step = |at: usize| {
            if scan > 0 && rng.random_ratio(scan, 100) {
                scanned += 1;
                return (scanned, false);
            }
            let from = at.checked_div(shift).map_or(0, |shifts| shifts as u32 * (keys / 7));
            ((zipf.sample(&mut rng) as u32 - 1 + from) % keys, writes > 0 && rng.random_ratio(writes, 100))
        };
        let more = |n: u32, what| if n > 0 { format!(", {n} % {what}") } else { String::new() };
        let shifts = if shift > 0 { ", shifts" } else { "" };
        let name = format!("Zipf {exponent}{}{}{shifts}", more(writes, "writes"), more(scan, "scan"));
        Self::new(name, (0..steps).map(step).collect())
    }

    /// Steps of a second.
    fn pace(&self) -> usize {
        self.steps.len() / SECONDS
    }

    pub(crate) fn round(keys: u32, steps: usize) -> Self {
        Self::new("a loop", (0..steps).map(|at| (at as u32 % keys, false)).collect())
    }

    pub(crate) fn recorded(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("a file of text");
        let (mut numbers, mut steps) = (HashMap::new(), Vec::new());
        for line in text.lines().skip(1) {
            let next = numbers.len() as u32;
            steps.extend(line.split(',').nth(1).map(|key| (*numbers.entry(key.trim()).or_insert(next), false)));
        }
        Self::new(path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), steps)
    }

    /// The share of hits in the second half.
    pub(crate) fn store(&self, size: u64, one_in: u32) -> f64 {
        let replay = Replay::new();
        let store = Store::new(size);
        let (mut sampler, mut promoter, mut out) = (Sampler::new(), Promoter::new(), Vec::new());
        let (mut hits, mut reads, mut tail) = (0_u32, 0_u32, [0; 20]);
        for (at, &(key, write)) in self.steps.iter().enumerate() {
            let q = replay.query(key, &mut tail);
            if at % self.pace() == 0 {
                store.run_pending();
            } else if at % (self.pace() * 3 / 10).max(1) == 0 {
                store.run_policy(); // 600 s are over in a few
            }
            if write {
                replay.stamps.touch(q.slot);
                continue;
            }
            out.clear();
            let now = Time::now();
            let looked = store.lookup(&q, Resp::V2, &replay.stamps, &replay.fresh, now, &mut sampler, &mut out);
            if at >= self.steps.len() / 2 {
                reads += 1;
                hits += u32::from(looked.is_hit());
            }
            let fill = !looked.is_hit()
                && match promoter.toss(one_in, looked == Lookup::Hot, store.is_full()) {
                    Coin::Promote => true,
                    Coin::Knock => store.knows(&q),
                    Coin::IfJoined | Coin::Never => false,
                };
            if fill {
                let expires = now.plus(Duration::from_secs(3600));
                let stamp = replay.stamps.load(q.slot);
                store.insert(&q, &reply(key), None, stamp, replay.fresh.epoch(), expires);
            }
        }
        f64::from(hits) / f64::from(reads)
    }

    /// The same as the miniatures have it, and what they took.
    pub(crate) fn simulate(&self, floor: u32) -> Simulated {
        let plan =
            SimulationPlan { sizes: self.sizes.clone(), present: 2, promote: PROMOTE, alternatives: vec![1, 100] };
        let (replay, mut simulation) = (Replay::new(), Simulation::new(plan, floor));
        let (mut tail, mut spent, mut sampled, mut asked, mut memory) = ([0; 20], Duration::ZERO, 0, 0_u64, 0);
        let step = Duration::from_secs(1) / self.pace() as u32;
        for (at, &(key, write)) in self.steps.iter().enumerate() {
            let q = replay.query(key, &mut tail);
            if write {
                replay.stamps.touch(q.slot);
                continue;
            }
            let now = Time::from_nanos(1).plus(step * at as u32);
            simulation.count(1, now);
            if at % self.pace() == 0 {
                simulation.sweep(now);
                memory = memory.max(simulation.bytes());
            }
            if q.slot.number() & ((1 << simulation.fold()) - 1) > 0 {
                continue;
            }
            let begun = Instant::now();
            let warrant = Warrant::new(replay.stamps.load(q.slot), replay.fresh.epoch());
            let (id, slot) = (mixed(q.hash), q.slot.number());
            let read = MiniatureRead { id, slot, warrant: Some(warrant), at: now, able: true };
            let read = SimulatedRead { read, times: 1, key: b"key", rule: None, one_in: None, held: None };
            if simulation.read(&read) {
                asked += 1;
                simulation.landed(read.read.id, warrant, measure(key), now);
            }
            sampled += 1;
            if sampled % 200 == 0 {
                simulation.fit();
            }
            spent += begun.elapsed();
        }
        let told = |estimate: Option<crema::curve::Estimate>| estimate.map_or(f64::NAN, |told| told.hit_ratio);
        Simulated {
            hits: simulation.sizes().map(|(_, estimate)| told(estimate)).collect(),
            promotions: simulation.promotions().skip(1).map(|(_, estimate)| told(estimate)).collect(),
            sampled: f64::from(sampled) / self.steps.len() as f64,
            asked: asked as f64 / self.steps.len() as f64,
            nanos: spent.as_nanos() as f64 / self.steps.len() as f64,
            memory,
        }
    }
}

/// What the miniatures say, and what they took.
pub(crate) struct Simulated {
    pub(crate) hits: Vec<f64>,
    pub(crate) promotions: Vec<f64>,
    pub(crate) sampled: f64,
    pub(crate) asked: f64,
    pub(crate) nanos: f64,
    pub(crate) memory: usize,
}

/// What the reads of one replay are judged by.
struct Replay {
    stamps: Stamps,
    fresh: Freshness,
    identity: Identity,
}

impl Replay {
    fn new() -> Self {
        let fresh = Freshness::new();
        fresh.renew(Time::NEVER);
        Self { stamps: Stamps::for_l1(1 << 30), fresh, identity: Identities::default().intern("", 0) }
    }

    fn query<'a>(&self, key: u32, tail: &'a mut [u8; 20]) -> Query<'a> {
        tail[..4].copy_from_slice(&key.to_be_bytes());
        let tail = &tail[..];
        Query::new(&self.stamps, self.identity, 1, &tail[..4], tail, b"")
    }
}

/// Of 20 to 1,000 bytes, and always the same for a key.
fn reply(key: u32) -> Vec<u8> {
    vec![b'v'; 20 + (mixed(key.into()) % 980) as usize]
}

fn measure(key: u32) -> Measure {
    Measure::of_reply(20, &reply(key), &[], Time::NEVER)
}
