//! L1 by its own rules: what is found, what is not, and that the two books agree.

use std::thread;
use std::time::{Duration, Instant};

use super::*;
use moka::notification::RemovalCause;
use moka::sync::Cache;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Zipf};

use crate::cache::allotment::FIXED;
use crate::cache::{Identities, Slot};
use crate::command::HashSlot;

const REPLY: &[u8] = b"$1\r\nv\r\n";

struct Bench {
    stamps: Stamps,
    fresh: Freshness,
    identities: Identities,
    store: Store,
    sampler: Sampler,
}

impl Bench {
    fn new(l1_size: u64) -> Self {
        let fresh = Freshness::new();
        fresh.renew(Time::NEVER);
        let (stamps, identities) = (Stamps::for_l1(0), Identities::default());
        Self { stamps, fresh, identities, store: Store::new(l1_size), sampler: Sampler::new() }
    }

    fn identity(&self) -> Identity {
        self.identities.intern("", 0)
    }

    fn query<'a>(&self, key: &'a [u8]) -> Query<'a> {
        Query::new(&self.stamps, self.identity(), 1, key, key, b"")
    }

    fn insert(&self, q: &Query, reply: &[u8]) {
        self.insert_until(q, reply, Time::NEVER);
    }

    fn insert_until(&self, q: &Query, reply: &[u8], expires: Time) {
        self.store.insert(q, reply, None, self.stamps.load(q.slot), self.fresh.epoch(), expires);
    }

    fn lookup(&mut self, q: &Query) -> (Lookup, Vec<u8>) {
        self.lookup_at(q, Time::now())
    }

    fn lookup_at(&mut self, q: &Query, now: Time) -> (Lookup, Vec<u8>) {
        let mut out = b"before".to_vec();
        let lookup = self.store.lookup(q, Resp::V3, &self.stamps, &self.fresh, now, &mut self.sampler, &mut out);
        assert_eq!(self.store.contains_fresh(q, &self.stamps, &self.fresh, now), lookup.is_hit());
        assert!(out.starts_with(b"before"));
        (lookup, out.split_off(6))
    }

    fn settle(&self) {
        for _ in 0..10 {
            self.store.run_pending();
        }
    }

    /// Every entry has its ticket, and the sums are those of the entries.
    fn check_books(&self) {
        self.settle();
        let (index, allotment) = (&self.store.index, self.store.allotment.load());
        let policy = &allotment.policy;
        let mut bytes = 0;
        let mut hashes = Vec::new();
        for entry in &index.entries {
            bytes += weight(entry.value());
            hashes.push((*entry.key(), entry.serial(), entry.expires()));
        }
        assert_eq!((self.store.len(), self.store.bytes()), (hashes.len(), bytes));
        for (hash, serial, expires) in hashes {
            let ticket = policy.get(&hash).map(|ticket| ticket.serial);
            // Moka shows no ticket whose time is over, and tidies up about a second later.
            assert!(ticket == Some(serial) || expires <= Time::now(), "an entry without its ticket");
        }
        assert!(policy.weighted_size() >= bytes);
    }
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn what_was_inserted_is_found_by_the_same_query_alone() {
    let mut b = Bench::new(16 << 20);
    let q = b.query(b"k");
    assert!(b.store.is_empty());
    assert_eq!(b.lookup(&q), (Lookup::Miss, vec![]));
    b.insert(&q, REPLY);
    assert_eq!(b.lookup(&q), (Lookup::Hit, REPLY.to_vec()));
    assert_eq!(b.lookup(&b.query(b"l")), (Lookup::Miss, vec![]));
    assert_eq!(b.store.len(), 1);
}

#[test]
fn many_are_answered_as_one_or_not_at_all() {
    let mut b = Bench::new(16 << 20);
    let queries = [b.query(b"k"), b.query(b"l"), b.query(b"k")];
    let now = Time::now();
    let all = |b: &mut Bench, most| {
        let mut out = b"before".to_vec();
        let Bench { store, stamps, fresh, sampler, .. } = b;
        let looked = store.lookup_all(&queries, most, Resp::V3, stamps, |_| &*fresh, now, sampler, &mut out);
        assert!(out.starts_with(b"before"));
        (looked, out.split_off(6))
    };
    b.insert(&queries[0], REPLY);
    assert_eq!(all(&mut b, 1000), (Lookup::Miss, vec![]));
    b.insert(&queries[1], b"_\r\n");
    let whole = [b"*3\r\n", REPLY, b"_\r\n", REPLY].concat();
    assert_eq!(all(&mut b, whole.len() as u64), (Lookup::Hit, whole.clone()));
    assert_eq!(all(&mut b, whole.len() as u64 - 1), (Lookup::Miss, vec![]), "too large");
    b.stamps.begin(queries[1].slot);
    assert_eq!(all(&mut b, 1000), (Lookup::Stale, vec![]));
    b.stamps.end(queries[1].slot);
    b.insert(&queries[1], REPLY);
    assert_eq!(all(&mut b, 1000).0, Lookup::Hit);
    b.fresh.end();
    assert_eq!(all(&mut b, 1000), (Lookup::Blind, vec![]));
}

#[test]
fn keys_that_were_hit_are_taken_once_and_few_at_a_time() {
    let mut b = Bench::new(16 << 20);
    let keys: Vec<_> = (0..1000).map(|i| format!("$4\r\n{i:04}\r\n")).collect();
    for key in &keys {
        b.insert(&b.query(key.as_bytes()), REPLY);
    }
    assert!(b.store.take_hits(|_| true, None, 10).is_empty(), "nothing was hit");
    for key in &keys[..500] {
        let q = b.query(key.as_bytes());
        assert!(b.lookup(&q).0.is_hit());
    }
    assert!(b.store.take_hits(|_| false, None, 1000).is_empty());
    let first = b.store.take_hits(|identity| identity == b.identity(), None, 100);
    assert!((50..200).contains(&first.len()), "{}", first.len());
    let mut all: Vec<_> =
        first.into_iter().chain(b.store.take_hits(|_| true, None, 1000)).map(|(_, key)| key).collect();
    all.sort();
    let wanted: Vec<_> = (0..500).map(|i| format!("{i:04}").into_bytes().into_boxed_slice()).collect();
    assert_eq!(all, wanted);
    assert!(b.store.take_hits(|_| true, None, 1000).is_empty());
}

#[test]
fn equal_hashes_are_told_apart() {
    let mut b = Bench::new(16 << 20);
    let q = b.query(b"k");
    b.insert(&q, REPLY);
    let alice = b.identities.intern("alice", 0);
    let foreign = [Query { tail: b"l", ..q }, Query { command: 2, ..q }, Query { identity: alice, ..q }];
    for other in &foreign {
        assert_eq!(b.lookup(other), (Lookup::Miss, vec![]));
    }
    assert_eq!(b.lookup(&q), (Lookup::Hit, REPLY.to_vec()), "a collision removes nothing");
    b.insert(&foreign[0], b"+l\r\n");
    assert_eq!(b.lookup(&q), (Lookup::Miss, vec![]));
    assert_eq!(b.lookup(&foreign[0]), (Lookup::Hit, b"+l\r\n".to_vec()));
    assert_eq!(b.store.len(), 1);
    b.check_books();
}

#[test]
fn without_a_lease_nothing_is_answered_and_nothing_lost() {
    let mut b = Bench::new(16 << 20);
    let q = b.query(b"k");
    b.insert(&q, REPLY);
    b.fresh.end();
    assert_eq!(b.lookup(&q), (Lookup::Blind, vec![]));
    let now = Time::now();
    b.fresh.renew(now.plus(millis(10)));
    assert_eq!(b.lookup_at(&q, now.plus(millis(9))).0, Lookup::Hit);
    assert_eq!(b.lookup_at(&q, now.plus(millis(10))).0, Lookup::Blind);
}

#[test]
fn any_change_of_the_stamp_or_the_epoch_makes_it_stale_for_good() {
    type Change = fn(&Bench, Slot);
    let changes: [Change; 4] = [
        |b, slot| b.stamps.touch(slot),
        |b, slot| b.stamps.begin(slot),
        |b, slot| {
            b.stamps.begin(slot);
            b.stamps.end(slot);
        },
        |b, _| b.fresh.bump(),
    ];
    for change in changes {
        let mut b = Bench::new(16 << 20);
        let q = b.query(b"k");
        b.insert(&q, REPLY);
        change(&b, q.slot);
        assert_eq!(b.lookup(&q), (Lookup::Stale, vec![]));
        assert_eq!(b.lookup(&q), (Lookup::Miss, vec![]), "it was removed");
        assert_eq!((b.store.len(), b.store.bytes()), (0, 0));
        b.check_books();
    }
}

#[test]
fn an_answer_asked_for_before_a_change_is_never_served() {
    let mut b = Bench::new(16 << 20);
    let q = b.query(b"k");
    let (stamp, epoch) = (b.stamps.load(q.slot), b.fresh.epoch());
    b.stamps.touch(q.slot);
    b.store.insert(&q, REPLY, None, stamp, epoch, Time::NEVER);
    assert_eq!(b.lookup(&q).0, Lookup::Stale);
    let stamp = b.stamps.load(q.slot);
    b.fresh.bump();
    b.store.insert(&q, REPLY, None, stamp, epoch, Time::NEVER);
    assert_eq!(b.lookup(&q).0, Lookup::Stale);
}

#[test]
fn an_answer_about_a_slot_that_has_left_is_never_served() {
    let mut b = Bench::new(16 << 20);
    let (q, slot, other) = (b.query(b"k"), HashSlot::of(b"k"), HashSlot::of(b"l"));
    let epoch = |b: &Bench| EntryEpoch::new(b.fresh.epoch(), b.store.slots().stamp(slot));
    let before = epoch(&b);
    b.store.insert(&q, REPLY, None, b.stamps.load(q.slot), before, Time::NEVER);
    assert_eq!(b.lookup(&q).0, Lookup::Hit);
    assert!(!b.store.slots().bump(other));
    assert_eq!(b.lookup(&q).0, Lookup::Hit, "another slot is of no matter");
    assert!(!b.store.slots().bump(slot));
    assert_eq!(b.lookup(&q).0, Lookup::Stale);
    b.store.insert(&q, REPLY, None, b.stamps.load(q.slot), before, Time::NEVER);
    assert_eq!(b.lookup(&q).0, Lookup::Stale, "asked for before it left");
    b.store.insert(&q, REPLY, None, b.stamps.load(q.slot), epoch(&b), Time::NEVER);
    assert_eq!(b.lookup(&q).0, Lookup::Hit);
    b.fresh.bump();
    assert_eq!(b.lookup(&q).0, Lookup::Stale, "the ear's epoch counts as well");
}

#[test]
fn an_answer_asked_for_during_a_write_is_not_taken_in() {
    let mut b = Bench::new(16 << 20);
    let q = b.query(b"k");
    b.stamps.begin(q.slot);
    b.insert(&q, REPLY);
    assert!(b.store.is_empty());
    assert_eq!(b.lookup(&q).0, Lookup::Miss);
}

#[test]
fn expiry_is_exact() {
    let mut b = Bench::new(16 << 20);
    let q = b.query(b"k");
    let expires = Time::now().plus(millis(60_000));
    b.insert_until(&q, REPLY, expires);
    assert_eq!(b.lookup_at(&q, Time::from_nanos(expires.as_nanos() - 1)).0, Lookup::Hit);
    assert_eq!(b.lookup_at(&q, expires), (Lookup::Expired, vec![]));
    assert!(b.store.is_empty());
    b.insert_until(&q, REPLY, Time::now());
    assert!(b.store.is_empty(), "expired before it came");
}

#[test]
fn what_expires_leaves_though_no_one_asks() {
    let b = Bench::new(16 << 20);
    for i in 0..100_u32 {
        b.insert_until(&b.query(&i.to_be_bytes()), REPLY, Time::now().plus(millis(20)));
    }
    b.insert(&b.query(b"stays"), REPLY);
    let start = Instant::now();
    while b.store.len() > 1 && start.elapsed() < Duration::from_secs(10) {
        thread::sleep(millis(50));
        b.store.run_pending();
    }
    assert_eq!(b.store.len(), 1);
    b.check_books();
}

#[test]
fn each_version_gets_its_reply_and_large_ones_are_whole() {
    let mut b = Bench::new(16 << 20);
    let (stamps, fresh, now) = (Stamps::for_l1(0), Freshness::new(), Time::now());
    fresh.renew(Time::NEVER);
    let large = vec![b'x'; 4 * COPY_UNDER_GUARD];
    for (resp3, resp2) in [(&b"_\r\n"[..], &b"$-1\r\n"[..]), (&large, &large[1..])] {
        let q = Query::new(&stamps, b.identity(), 1, b"k", b"k", b"");
        b.store.insert(&q, resp3, Some(resp2), stamps.load(q.slot), fresh.epoch(), Time::NEVER);
        for (resp, reply) in [(Resp::V3, resp3), (Resp::V2, resp2)] {
            let mut out = Vec::new();
            assert!(b.store.lookup(&q, resp, &stamps, &fresh, now, &mut b.sampler, &mut out).is_hit());
            assert!(out == reply);
        }
    }
}

#[test]
fn a_newer_entry_takes_the_place_of_the_older() {
    let mut b = Bench::new(16 << 20);
    let q = b.query(b"k");
    for i in 0..1000_u32 {
        b.insert(&q, &[b'+'; 2000][..=i as usize]);
    }
    assert_eq!(b.lookup(&q), (Lookup::Hit, vec![b'+'; 1000]));
    b.check_books();
    assert_eq!(b.store.len(), 1);
}

#[test]
fn the_listener_removes_the_very_same_entry_alone() {
    let mut b = Bench::new(16 << 20);
    let q = b.query(b"k");
    b.insert(&q, REPLY);
    let old = b.store.allotment.load().policy.get(&q.hash).expect("just inserted");
    b.insert(&q, b"+new\r\n");
    b.store.index.left_policy(q.hash, old, RemovalCause::Size);
    assert_eq!(b.lookup(&q), (Lookup::Hit, b"+new\r\n".to_vec()));
    let new = b.store.allotment.load().policy.get(&q.hash).expect("just inserted");
    b.store.index.left_policy(q.hash, new, RemovalCause::Size);
    assert_eq!(b.lookup(&q).0, Lookup::Miss);
}

#[test]
fn a_ticket_without_an_entry_goes_with_the_next_miss() {
    let mut b = Bench::new(16 << 20);
    let q = b.query(b"k");
    b.insert(&q, REPLY);
    let ticket = b.store.allotment.load().policy.get(&q.hash).expect("just inserted");
    assert!(b.store.index.remove(q.hash, ticket.serial));
    b.store.counting.store(true, Ordering::Relaxed);
    assert_eq!(b.lookup(&q).0, Lookup::Miss);
    assert!(!b.store.allotment.load().policy.contains_key(&q.hash));
}

#[test]
fn what_was_hit_often_is_known_for_hot_when_it_ends() {
    let mut b = Bench::new(1 << 20);
    let q = b.query(b"k");
    for (hits, ended) in [(PAID - 1, Lookup::Stale), (PAID, Lookup::Hot)] {
        b.insert(&q, REPLY);
        (0..hits).for_each(|_| assert!(b.lookup(&q).0.is_hit()));
        b.stamps.touch(q.slot);
        assert_eq!(b.lookup(&q), (ended, vec![]));
        assert_eq!(b.lookup(&q).0, Lookup::Miss, "told once");
    }
}

#[test]
fn memory_stays_within_the_size_while_entries_come_and_go() {
    for (size, reply) in [(2 << 20, 10), (2 << 20, 10_000), (4 << 20, 200_000)] {
        let b = Bench::new(size);
        let reply = vec![b'x'; reply];
        for i in 0..20_000_u32 {
            b.insert(&b.query(&i.to_be_bytes()), &reply);
            let (bytes, slack) = (b.store.bytes(), reply.len() as u64 + 2000);
            assert!(bytes <= size + slack, "{bytes} bytes of {size}");
        }
        b.settle();
        assert!(b.store.bytes() <= size && b.store.bytes() > size / 2, "{} of {size}", b.store.bytes());
        assert!(b.store.index.evicting.load(Ordering::Relaxed) || !b.store.index.evicted.load(Ordering::Relaxed));
        b.check_books();
    }
}

#[test]
fn hot_entries_stay_when_many_cold_ones_pass() {
    let mut b = Bench::new(2 << 20);
    let hot: Vec<_> = (0..100_u32).map(|i| (i << 24).to_be_bytes()).collect();
    for i in 0..50_000_u32 {
        let cold = i.to_be_bytes();
        b.lookup(&b.query(&cold));
        b.insert(&b.query(&cold), REPLY);
        let q = &b.query(&hot[i as usize % hot.len()]);
        if b.lookup(q).0 == Lookup::Miss {
            b.insert(q, REPLY);
        }
    }
    let stayed = hot.iter().filter(|key| b.lookup(&b.query(*key)).0.is_hit()).count();
    assert!(stayed > 90, "{stayed} of 100");
}

#[test]
fn what_stays_is_as_well_chosen_as_by_moka_alone() {
    const ROOM: u32 = 4_000;
    let weight = {
        let b = Bench::new(1 << 20);
        b.insert(&b.query(&[0; 4]), REPLY);
        b.store.bytes()
    };
    let mut b = Bench::new(u64::from(ROOM) * weight * 64 / 63 + FIXED);
    let plain = Cache::new(ROOM.into());
    let zipf = Zipf::new(10.0 * f64::from(ROOM), 0.9).expect("a law that there is");
    let (mut rng, mut hits, mut plain_hits) = (SmallRng::seed_from_u64(7), 0_u32, 0_u32);
    for read in 0..400_000 {
        let key = zipf.sample(&mut rng).to_bits();
        let bytes = key.to_be_bytes();
        let q = b.query(&bytes);
        let Bench { stamps, fresh, store, sampler, .. } = &mut b;
        let hit = store.lookup(&q, Resp::V2, stamps, fresh, Time::now(), sampler, &mut Vec::new()).is_hit();
        let plain_hit = plain.get(&key).is_some();
        if !hit {
            b.insert(&q, REPLY);
        }
        if !plain_hit {
            plain.insert(key, ());
        }
        if read >= 200_000 {
            hits += u32::from(hit);
            plain_hits += u32::from(plain_hit);
        }
    }
    assert!(plain_hits.saturating_sub(hits) < 2_000, "{hits} hits in 200,000 reads, plain Moka has {plain_hits}");
}

#[test]
fn pressure_ends_with_a_second_without_evictions() {
    let b = Bench::new(1 << 20);
    for i in 0..5_000_u32 {
        b.insert(&b.query(&i.to_be_bytes()), REPLY);
    }
    b.store.run_pending();
    assert!(b.store.index.evicting.load(Ordering::Relaxed));
    b.settle();
    assert!(!b.store.index.evicting.load(Ordering::Relaxed));
}

#[test]
fn too_small_or_too_large_is_no_trouble() {
    for size in [0, 1, 1 << 10, FIXED] {
        let b = Bench::new(size);
        b.insert(&b.query(b"k"), REPLY);
        assert!(b.store.is_empty());
        b.settle();
    }
    let mut b = Bench::new(1 << 20);
    let q = b.query(b"k");
    b.insert(&q, &vec![b'x'; 1 << 20]);
    assert!(b.store.is_empty());
    b.insert(&q, REPLY);
    assert!(b.lookup(&q).0.is_hit());
}

#[test]
fn all_that_is_there_is_let_go_at_once() {
    let mut b = Bench::new(1 << 20);
    for key in 0..100_u8 {
        b.insert(&b.query(&[key]), REPLY);
    }
    b.store.clear();
    assert_eq!((b.store.len(), b.store.bytes()), (0, 0));
    b.settle();
    let again = b.query(b"\x07");
    b.insert(&again, REPLY);
    assert!(b.lookup(&again).0.is_hit());
}

#[test]
fn the_books_balance_after_a_brawl() {
    let b = Bench::new(1 << 20);
    thread::scope(|scope| {
        for thread in 0..4_u32 {
            let b = &b;
            scope.spawn(move || {
                let (mut sampler, mut out) = (Sampler::new(), Vec::new());
                for i in 0..20_000_u32 {
                    let key = (i.wrapping_mul(2_654_435_761) >> 20 ^ thread).to_be_bytes();
                    let q = b.query(&key);
                    out.clear();
                    b.store.lookup(&q, Resp::V2, &b.stamps, &b.fresh, Time::now(), &mut sampler, &mut out);
                    match i % 8 {
                        0 => b.stamps.touch(q.slot),
                        1..4 => b.insert(&q, &[b'x'; 1000][..=((i % 1000) as usize)]),
                        4 => b.insert_until(&q, REPLY, Time::now().plus(millis(1))),
                        _ => {}
                    }
                    if i % 5_000 == 99 {
                        b.store.run_pending();
                    }
                }
            });
        }
    });
    b.settle();
    // Whatever Moka told of in the brawl, what it does not know of is gone after this, and the sums are right.
    b.store.drop_strays();
    let bytes: u64 = b.store.index.entries.iter().map(|entry| weight(entry.value())).sum();
    assert_eq!((b.store.len(), b.store.bytes()), (b.store.index.entries.len(), bytes));
    assert!(b.store.allotment.load().policy.weighted_size() >= bytes);
    assert!(b.store.bytes() <= 1 << 20);
}

#[test]
fn it_becomes_smaller_and_larger_and_keeps_what_is_hit() {
    let mut b = Bench::new(16 << 20);
    let value = [b'x'; 2000];
    let names: Vec<_> = (0..3_000).map(|n| format!("k{n}").into_bytes()).collect();
    for name in &names {
        b.insert(&b.query(name), &value);
    }
    b.settle();
    assert_eq!(b.store.len(), names.len());
    for name in &names[..300] {
        assert_eq!(b.lookup(&b.query(name)).0, Lookup::Hit);
    }
    b.store.resize(2 << 20);
    b.check_books();
    assert_eq!(b.store.limit(), 2 << 20);
    assert!(b.store.bytes() <= 2 << 20 && b.store.len() > 600, "{} of {} bytes", b.store.len(), b.store.bytes());
    let kept = names[..300].iter().filter(|name| b.lookup(&b.query(name)).0 == Lookup::Hit).count();
    assert!(kept > 270, "{kept} of 300 that were hit");
    let before = b.store.len();
    b.store.resize(16 << 20);
    b.check_books();
    assert_eq!(b.store.len(), before, "nothing has to go where there is more room");
    for name in &names {
        b.insert(&b.query(name), &value);
    }
    b.check_books();
    assert_eq!(b.store.len(), names.len());
}

#[test]
fn what_comes_in_while_it_changes_its_size_has_its_ticket() {
    let mut b = Bench::new(16 << 20);
    let is_over = AtomicBool::new(false);
    let names: Vec<_> = (0..1_000).map(|n| format!("before:{n}").into_bytes()).collect();
    for name in &names {
        b.insert(&b.query(name), REPLY);
    }
    b.settle();
    thread::scope(|scope| {
        // Whatever becomes of this thread, the others end.
        let _over = Over(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                b.store.run_pending();
            }
        });
        for worker in 0..2 {
            let (b, is_over) = (&b, &is_over);
            scope.spawn(move || {
                for n in (0..5_000).cycle() {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    b.insert(&b.query(format!("w{worker}:{n}").as_bytes()), REPLY);
                }
            });
        }
        for size in [64, 32, 16, 32, 64] {
            b.store.resize(size << 20);
        }
    });
    b.settle();
    // Where two put tickets of one hash at the same time, Moka may tell of another than it has let go of.
    let allotment = b.store.allotment.load();
    let astray = b.store.index.entries.iter().filter(|entry| allotment.policy.get(entry.key()).is_none()).count();
    assert!(astray <= 5, "{astray} entries without their tickets");
    drop(allotment);
    b.store.drop_strays();
    b.check_books();
    for name in &names {
        assert_eq!(b.lookup(&b.query(name)).0, Lookup::Hit, "nothing had to go");
    }
}

/// Says when it is over, however that comes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_hottest_are_as_many_and_as_large_as_is_asked_for_and_no_colder_than_what_is_left_out() {
    let mut b = Bench::new(16 << 20);
    let keys: Vec<String> = (0..40).map(|n| format!("k{n:02}")).collect();
    for (n, key) in keys.iter().enumerate() {
        let q = b.query(key.as_bytes());
        b.insert(&q, REPLY);
        // Four hot ones, six that are less so, thirty that nobody asks for.
        for _ in 0..[9, 3, 0][usize::from(n >= 4) + usize::from(n >= 10)] {
            assert!(b.lookup(&q).0.is_hit());
        }
    }
    let hottest = |most, bytes| {
        let found = b.store.hottest(|_| true, (most, bytes));
        found.into_iter().map(|(.., tail)| String::from_utf8_lossy(&tail).into_owned()).collect::<Vec<_>>()
    };
    let is_hot = |key: &String| key.as_str() < "k04";
    let length = hottest(1, 1 << 20)[0].len();
    for (most, bytes) in [(7, 1 << 20), (40, 7 * length), (40, 8 * length - 1)] {
        let found = hottest(most, bytes);
        assert_eq!(found.len(), 7);
        assert!(found[..4].iter().all(is_hot) && found.iter().all(|key| key.as_str() < "k10"), "{found:?}");
    }
    assert_eq!(hottest(100, 1 << 20).len(), 40);
    assert!(hottest(2, 1 << 20).iter().all(is_hot));
    assert!(hottest(0, 1 << 20).is_empty() && hottest(9, 0).is_empty());
    assert!(b.store.hottest(|_| false, (9, 99)).is_empty());
}
