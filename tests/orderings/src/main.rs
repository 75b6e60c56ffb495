//! `cache/stamp`, `cache/lease` and `cache/watermarks`, the very sources, with loom's atomics: each model is run in every order that the memory
//! model allows, and must hold in all. Then each is run with its fault planted, which loom must find.
//!
//! Redis runs one command at a time and a socket delivers in order, so Redis is a mutex here; all else that the threads share
//! is stamps, epochs and leases. Point numbers are those of docs/contract.md.

#![allow(dead_code)] // of the sources only what the models ask for is used

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}
#[path = "../../../src/clock.rs"]
mod clock;
#[path = "../../../src/cache/lease.rs"]
mod lease;
#[path = "../../../src/cache/stamp.rs"]
mod stamp;
#[path = "../../../src/cache/watermarks.rs"]
mod watermarks;

/// What the watermarks name.
mod metrics {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum AuditBreach {
        OwnWrite,
        Change,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum AuditDoubt {
        UnderWay,
        Opaque,
    }
}

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::process::exit;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use clock::Time;
use lease::{Epoch, Freshness};
use stamp::{Slot, Stamp, Stamps};
use watermarks::Watermarks;

/// A model, and what is wrong where its fault is planted.
struct Model {
    name: &'static str,
    fault: &'static str,
    run: fn(faulty: bool),
}

const MODELS: &[Model] = &[
    Model {
        name: "a hit under a renewed lease sees the change that the renewal vouches for (point 4)",
        fault: "the stamp is read before the lease",
        run: lease_then_stamp,
    },
    Model {
        name: "what was read while a write was under way is not served behind its answer (points 3 and 5)",
        fault: "the stamp is read when the reply is in",
        run: read_beside_a_write,
    },
    Model {
        name: "a write that ends does not make another's slot quiet (point 3)",
        fault: "the second is not counted",
        run: two_writes,
    },
    Model {
        name: "what was filled before everything was forgotten never counts (point 5)",
        fault: "the epoch is read when the reply is in",
        run: epoch,
    },
    Model {
        name: "keys that stood at one moment are never of two (point 1: `MGET`)",
        fault: "the stamps are not compared again",
        run: many_keys,
    },
    Model {
        name: "a hit that is audited is accused of no write that it cannot have missed (points 3 and 4)",
        fault: "the moment is taken behind the change of the stamp",
        run: watermarks,
    },
    Model {
        name: "a hit under a lease finds what that rests on (point 4)",
        fault: "the lease is renewed first",
        run: proof_then_lease,
    },
];

fn main() {
    let mut failed = false;
    for model in MODELS {
        let found = |faulty: bool| {
            let hook = take_hook();
            set_hook(Box::new(|_| ()));
            let found = catch_unwind(AssertUnwindSafe(|| loom::model(move || (model.run)(faulty)))).is_err();
            set_hook(hook);
            found
        };
        let (holds, caught) = (!found(false), found(true));
        let word = |good| if good { "ok" } else { "FAILED" };
        println!("{}: {}", model.name, word(holds));
        println!("  planted: {}: {}", model.fault, if caught { "found" } else { "NOT FOUND" });
        failed |= !holds || !caught;
    }
    exit(i32::from(failed));
}

fn stamps() -> (Stamps, Slot) {
    let stamps = Stamps::with_slots(1);
    let slot = stamps.slot(stamps.hash(b"key"));
    (stamps, slot)
}

const fn at(nanos: u64) -> Time {
    Time::from_nanos(nanos)
}

/// An entry was filled under a lease until 100. The key changes, the ear hears it and renews until 200. At 150 a worker asks.
fn lease_then_stamp(faulty: bool) {
    let (stamps, slot) = stamps();
    let fresh = Freshness::new();
    fresh.renew(at(100));
    let filled = stamps.load(slot);
    let shared = Arc::new((stamps, fresh));
    let ear = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            shared.0.touch(slot);
            shared.1.renew(at(200));
        })
    };
    let (stamps, fresh) = &*shared;
    let early = stamps.load(slot);
    let held = fresh.held(at(150));
    let stamp = if faulty { early } else { stamps.load(slot) };
    assert!(!(held && stamp == filled), "a hit on what had changed");
    ear.join().unwrap();
}

/// What a worker read from Redis, and the stamp that it carries.
#[derive(Clone, Copy)]
struct Filled {
    value: u32,
    stamp: Stamp,
}

/// One writes 1 through the proxy, one fills, one is answered from memory behind the write's answer.
fn read_beside_a_write(faulty: bool) {
    let (stamps, slot) = stamps();
    let shared = Arc::new((stamps, Mutex::new(0_u32), Mutex::new(None::<Filled>)));
    let filler = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (stamps, redis, memory) = &*shared;
            let before = stamps.load(slot);
            let value = *redis.lock().unwrap();
            let stamp = if faulty { stamps.load(slot) } else { before };
            if stamp.quiet() {
                *memory.lock().unwrap() = Some(Filled { value, stamp });
            }
        })
    };
    let (stamps, redis, memory) = &*shared;
    stamps.begin(slot);
    *redis.lock().unwrap() = 1;
    stamps.end(slot);
    // The client of the write has its answer now, and reads.
    let filled = *memory.lock().unwrap();
    if let Some(filled) = filled
        && filled.stamp == stamps.load(slot)
    {
        assert_eq!(filled.value, 1, "an own write was missed");
    }
    filler.join().unwrap();
    let filled = *memory.lock().unwrap();
    if let Some(filled) = filled
        && filled.stamp == stamps.load(slot)
    {
        assert_eq!(filled.value, 1, "an old value stays");
    }
}

/// A key is written; another thread fills it meanwhile, and a third one is answered out of memory.
fn watermarks(faulty: bool) {
    let (stamps, slot) = stamps();
    let marks = Watermarks::with_places(1);
    marks.follow(true);
    let shared = Arc::new((stamps, marks, Mutex::new(None::<(Stamp, u32)>)));
    let filler = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (stamps, marks, memory) = &*shared;
            let stamp = stamps.load(slot);
            if stamp.quiet() {
                *memory.lock().unwrap() = Some((stamp, marks.arrive()));
            }
        })
    };
    let writer = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (stamps, marks, _) = &*shared;
            let begun = marks.moment().unwrap();
            stamps.begin(slot);
            let ended = marks.moment();
            stamps.end(slot);
            let late = marks.moment().unwrap();
            let (begun, ended) = if faulty { (late, Some(late)) } else { (begun, ended) };
            marks.acknowledged(slot, begun, ended);
        })
    };
    let (stamps, marks, memory) = &*shared;
    let known = marks.of(slot, clock::Time::ZERO).unwrap();
    let found = *memory.lock().unwrap();
    if let Some((stamp, number)) = found
        && stamp == stamps.load(slot)
    {
        assert_eq!(marks.judge(known, number), Ok(()), "what is right is called wrong");
    }
    filler.join().unwrap();
    writer.join().unwrap();
}

/// A fence is back, by which a lease may last until 200. At 150 a worker asks.
fn proof_then_lease(faulty: bool) {
    let fresh = Arc::new(Freshness::new());
    let ear = {
        let fresh = Arc::clone(&fresh);
        thread::spawn(move || {
            if faulty {
                fresh.renew(at(200));
            }
            fresh.prove(at(200));
            fresh.renew(at(200));
        })
    };
    if fresh.held(at(150)) {
        assert!(fresh.is_proved(at(150)), "what is right is called wrong");
    }
    ear.join().unwrap();
}

/// Two writes are under way at once; a read that leaves before the second ends is not quiet.
fn two_writes(faulty: bool) {
    let (stamps, slot) = stamps();
    let shared = Arc::new((stamps, AtomicUsize::new(2)));
    let (stamps, under_way) = &*shared;
    stamps.begin(slot);
    if !faulty {
        stamps.begin(slot);
    }
    let ends: Vec<_> = (0..2)
        .map(|_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (stamps, under_way) = &*shared;
                under_way.fetch_sub(1, Ordering::SeqCst);
                stamps.end(slot);
            })
        })
        .collect();
    let quiet = stamps.load(slot).quiet();
    let left = under_way.load(Ordering::SeqCst);
    assert!(!quiet || left == 0, "quiet with {left} under way");
    for end in ends {
        end.join().unwrap();
    }
    assert!(stamps.load(slot).quiet(), "somebody's write never ends");
}

/// The ear forgets everything while a fill is under way, because of what happens at Redis at that moment.
fn epoch(faulty: bool) {
    let fresh = Freshness::new();
    let shared = Arc::new((fresh, Mutex::new(0_u32), Mutex::new(None::<(u32, Epoch)>)));
    let filler = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (fresh, redis, memory) = &*shared;
            let before = fresh.epoch();
            let value = *redis.lock().unwrap();
            let epoch = if faulty { fresh.epoch() } else { before };
            *memory.lock().unwrap() = Some((value, epoch));
        })
    };
    let (fresh, redis, memory) = &*shared;
    *redis.lock().unwrap() = 1;
    fresh.bump();
    filler.join().unwrap();
    let filled = *memory.lock().unwrap();
    if let Some((value, epoch)) = filled
        && epoch == fresh.epoch()
    {
        assert_eq!(value, 1, "what was forgotten is served");
    }
}

/// Two keys that always change together are read from memory while the ear hears of a change and fills them anew.
fn many_keys(faulty: bool) {
    let stamps = Stamps::with_slots(1 << 10);
    let one = stamps.slot(stamps.hash(b"a"));
    let other = (0_u32..).map(|n| stamps.slot(stamps.hash(&n.to_be_bytes()))).find(|slot| *slot != one);
    let slots = [one, other.expect("one of a thousand differs")];
    let entries = slots.map(|slot| Mutex::new(Filled { value: 0, stamp: stamps.load(slot) }));
    let shared = Arc::new((stamps, entries));
    let ear = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (stamps, entries) = &*shared;
            slots.iter().for_each(|slot| stamps.touch(*slot));
            for (slot, entry) in slots.iter().zip(entries) {
                *entry.lock().unwrap() = Filled { value: 1, stamp: stamps.load(*slot) };
            }
        })
    };
    let (stamps, entries) = &*shared;
    let noted = slots.map(|slot| stamps.load(slot));
    let hit = |n: usize| {
        let found = *entries[n].lock().unwrap();
        (found.stamp == stamps.load(slots[n])).then_some(found.value)
    };
    let hits = [hit(0), hit(1)];
    let still = faulty || (0..2).all(|n| noted[n] == stamps.load(slots[n]));
    if let ([Some(first), Some(second)], true) = (hits, still) {
        assert_eq!(first, second, "half of a change");
    }
    ear.join().unwrap();
}
