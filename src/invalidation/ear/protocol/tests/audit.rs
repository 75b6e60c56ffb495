//! Hits that are read again: what is compared with what, and when a difference is a violation.

use std::sync::atomic::Ordering;

use super::*;
use crate::cache::HitFault;
use crate::metrics::{AuditBreach, AuditDoubt, AuditSkip};

const OTHER: &str = "$1\r\nw\r\n";

/// As servers that count swaps answer, after so many fences and swaps.
fn counts(hellos: u64, swaps: u64) -> String {
    let of = |name: &str, calls| {
        format!("${}\r\n{name}\r\n%2\r\n$5\r\ncalls\r\n:{calls}\r\n$14\r\nhistogram_usec\r\n%0\r\n", name.len())
    };
    format!("%2\r\n{}{}", of("hello", hellos), of("swapdb", swaps))
}

impl EarLine<'_> {
    /// One on which `GET k` was filled, by a server that counts swaps.
    fn hit(bench: &EarBench) -> EarLine<'_> {
        let mut line = bench.connect();
        line.asked();
        line.answer(&[OK, OK, ALL, FEATURES, TIME, &counts(1, 0), MASTER]);
        line.fill(bench.get("k"));
        line.answer(&[NO_TTL, VALUE]);
        line.asked();
        line.effects();
        line
    }

    /// The hit is read again.
    fn audit(&mut self, words: &[&[u8]]) {
        let (bench, now) = (self.bench, at(self.now));
        let exhibit =
            bench.describe(words, |_, query| bench.store.exhibit(query, &bench.stamps, &bench.freshness, now));
        let audit = Audit::new(exhibit.expect("it would be answered"), 0);
        self.protocol.audit(std::iter::once(audit), at(self.now));
        assert!(!self.protocol.takes_audits(), "it rests");
        self.now += 20;
        self.protocol.wake(at(self.now), at(self.now)).expect("it goes on");
        assert!(self.protocol.takes_audits());
    }

    /// The hit is read again, and the answer is another.
    fn differ(&mut self) {
        self.audit(&[b"GET", b"k"]);
        self.answer(&[OTHER]);
    }

    fn told(&self) -> (u64, u64) {
        (self.bench.stats.audit_checked.get(), self.bench.stats.audit_violations())
    }

    fn skips(&self, skip: AuditSkip) -> u64 {
        self.bench.stats.audit_skips(skip)
    }
}

#[test]
fn what_redis_has_told_and_a_master_has_answered_is_noted_for_who_audits_a_hit() {
    for (mode, what) in [
        (CoherenceMode::tracking(), HitFault::Breach(AuditBreach::Change)),
        (CoherenceMode::broadcast(Vec::new()), HitFault::Doubt(AuditDoubt::UnderWay)),
    ] {
        let bench = EarBench::new(mode);
        bench.store.watermarks().follow(true);
        let mut line = bench.connect();
        let asks_turns = line.asked().iter().any(|asked| asked == "PING");
        let turn = if asks_turns { vec!["+PONG\r\n"] } else { vec![] };
        assert!(!bench.freshness.is_proved(at(0)));
        line.answer(&[&[OK, OK, ALL, FEATURES, TIME, &counts(1, 0)][..], &turn[..], &[MASTER]].concat());
        assert!(bench.freshness.is_proved(at(399)) && !bench.freshness.is_proved(at(400)));
        line.fill(bench.get("k"));
        line.answer(&[NO_TTL, VALUE]);
        let exhibit = bench.describe(&[b"GET", b"k"], |_, query| {
            bench.store.exhibit(query, &bench.stamps, &bench.freshness, at(line.now)).expect("it would be answered")
        });
        let order = || {
            bench
                .store
                .order(&exhibit, bench.store.watermarks().of(bench.slot("k"), Time::ZERO).expect("it is followed"))
        };
        assert_eq!(order(), Ok(()));
        line.push("k");
        assert_eq!(order(), Err(what));
    }
}

#[test]
fn a_replica_proves_no_lease() {
    let bench = EarBench::tracking();
    let mut line = bench.connect();
    line.asked();
    line.answer(&[OK, OK, ALL, FEATURES, TIME, &counts(1, 0), REPLICA]);
    assert!(!bench.freshness.is_proved(at(0)));
}

/// What was kept under a larger `max_value` still answers, and its reply is more than the ear keeps by now.
#[test]
fn a_value_too_large_to_be_compared_by_now_proves_nothing_and_one_that_has_grown_so_large_does() {
    let told = |kept: usize| {
        let bench = EarBench::tracking();
        bench.terms.max_value.store(1 << 20, Ordering::Relaxed);
        let mut line = EarLine::hit(&bench);
        line.push("k");
        line.fill(bench.describe(&[b"GET", b"k"], |request, query| Fill::new(request, query, 0, None, 1 << 20)));
        let value = |size: usize| format!("${size}\r\n{}\r\n", "x".repeat(size));
        line.answer(&[NO_TTL, &value(kept)]);
        bench.terms.max_value.store(100, Ordering::Relaxed);
        line.pass(200).expect("it goes on");
        if line.asked().iter().any(|asked| asked == "HELLO") {
            line.answer(&[TIME, &counts(2, 0), MASTER]);
        }
        line.audit(&[b"GET", b"k"]);
        assert_eq!(line.asked(), ["GET K"]);
        let reply = value(300 << 10);
        let (one, other) = reply.split_at(200 << 10);
        line.answer(&[one]);
        line.answer(&[other]);
        if line.asked().iter().any(|asked| asked == "HELLO") {
            line.answer(&[TIME, &counts(3, 0), MASTER]);
        }
        (line.told(), line.skips(AuditSkip::Behind))
    };
    assert_eq!(told(300 << 10), ((0, 0), 1));
    assert_eq!(told(1 << 10), ((1, 1), 0));
}

#[test]
fn the_same_reply_settles_it_at_once() {
    let bench = EarBench::tracking();
    let mut line = EarLine::hit(&bench);
    line.audit(&[b"GET", b"k"]);
    assert_eq!(line.asked(), ["GET K"]);
    line.answer(&[VALUE]);
    assert_eq!((line.told(), line.asked().len(), line.effects().len()), ((1, 0), 0, 0));
}

#[test]
fn another_reply_is_a_violation_once_a_fence_behind_it_is_back_and_nothing_explains_it() {
    let bench = EarBench::tracking();
    let mut line = EarLine::hit(&bench);
    line.differ();
    assert_eq!(line.asked(), ["GET K", "TIME", "LATENCY HISTOGRAM HELLO SWAPDB", "HELLO"]);
    assert_eq!((line.told(), line.effects().len()), ((0, 0), 0), "something may be on its way");
    line.answer(&[TIME, &counts(2, 0), MASTER]);
    assert_eq!(line.told(), (1, 1));
    assert!(line.effects()[0].starts_with("Violation"));
    assert!(!bench.keeps("k", at(line.now)), "it is forgotten");
    line.protocol.fence(at(line.now), 7, at(line.now));
    line.answer(&[MASTER]);
    assert_eq!(line.told(), (1, 1), "each is judged once");
}

#[test]
fn what_redis_says_before_the_fence_explains_it() {
    let explained = |said: &dyn Fn(&mut EarLine<'_>, &EarBench)| {
        let bench = EarBench::tracking();
        let mut line = EarLine::hit(&bench);
        line.differ();
        said(&mut line, &bench);
        assert_eq!((line.told(), line.skips(AuditSkip::Changed)), ((0, 0), 1));
    };
    explained(&|line, _| {
        line.push("k");
        line.answer(&[TIME, &counts(2, 0), MASTER]);
    });
    explained(&|line, _| line.answer(&[FLUSH, TIME, &counts(2, 0), MASTER]));
    explained(&|line, _| line.answer(&[TIME, &counts(2, 1), MASTER]));
    explained(&|line, bench| {
        bench.stamps.begin(bench.slot("k"));
        line.answer(&[TIME, &counts(2, 0), MASTER]);
    });
    explained(&|line, bench| {
        bench.silence.begin_swap();
        line.answer(&[TIME, &counts(2, 0), MASTER]);
    });
    explained(&|line, _| line.answer(&[TIME, &counts(2, 0), REPLICA]));
}

#[test]
fn a_server_that_is_a_replica_by_now_settles_it_and_nothing_more_is_asked() {
    let bench = EarBench::tracking();
    let mut line = EarLine::hit(&bench);
    line.differ();
    line.asked();
    line.answer(&[TIME, &counts(2, 0), REPLICA]);
    assert_eq!((line.asked().len(), line.told(), line.skips(AuditSkip::Changed)), (0, (0, 0), 1));
}

#[test]
fn a_server_that_is_busy_settles_nothing_and_is_asked_again_no_sooner_than_otherwise() {
    let bench = EarBench::tracking();
    let mut line = EarLine::hit(&bench);
    line.differ();
    line.asked();
    let (busy, lease) = ("-BUSY a script runs\r\n", bench.lease_ms());
    line.now += 1;
    line.answer(&[busy, busy, MASTER]);
    assert_eq!((line.asked().len(), line.told(), bench.lease_ms()), (0, (0, 0), lease), "and no lease lasts longer");
    line.pass(200).expect("it goes on");
    assert_eq!(line.asked(), ["TIME", "LATENCY HISTOGRAM HELLO SWAPDB", "HELLO"]);
    line.answer(&[TIME, &counts(3, 1), MASTER]);
    assert_eq!((line.told(), line.skips(AuditSkip::Changed)), ((0, 0), 1), "databases were swapped meanwhile");
}

#[test]
fn a_fence_that_left_before_the_answer_proves_nothing() {
    let bench = EarBench::tracking();
    let mut line = EarLine::hit(&bench);
    line.now += 100;
    line.protocol.fence(at(line.now), 7, at(line.now));
    assert_eq!(line.asked(), ["TIME", "LATENCY HISTOGRAM HELLO SWAPDB", "HELLO"]);
    line.now += 1;
    line.audit(&[b"GET", b"k"]);
    assert_eq!(line.asked(), ["GET K"]);
    line.answer(&[TIME, &counts(2, 0), MASTER, OTHER]);
    assert_eq!((line.told(), line.effects()), ((0, 0), vec!["Fenced(7)".to_owned()]));
    let behind = ["TIME", "LATENCY HISTOGRAM HELLO SWAPDB", "HELLO"];
    assert_eq!(line.asked(), behind, "all of it once more, though it was just asked");
    line.answer(&[TIME, &counts(3, 0), MASTER]);
    assert_eq!(line.told(), (1, 1));
}

#[test]
fn a_hit_that_stands_no_more_is_not_read_again() {
    let bench = EarBench::tracking();
    let mut line = EarLine::hit(&bench);
    let exhibit = bench.describe(&[b"GET", b"k"], |_, query| {
        bench.store.exhibit(query, &bench.stamps, &bench.freshness, at(0)).expect("it would be answered")
    });
    line.push("k");
    line.protocol.audit(std::iter::once(Audit::new(exhibit, 0)), at(line.now));
    assert_eq!((line.asked().len(), line.skips(AuditSkip::Changed)), (0, 1));
}

#[test]
fn an_entry_whose_time_is_over_by_then_proves_nothing() {
    let bench = EarBench::tracking();
    let mut line = EarLine::hit(&bench);
    line.push("k");
    line.fill(bench.get("k"));
    line.answer(&[":50\r\n", VALUE]);
    line.differ();
    line.now += 100;
    line.answer(&[TIME, &counts(2, 0), MASTER]);
    assert_eq!((line.told(), line.skips(AuditSkip::Changed)), ((0, 0), 1));
}

#[test]
fn an_error_is_no_answer_and_a_lost_connection_gives_none() {
    let bench = EarBench::tracking();
    let mut line = EarLine::hit(&bench);
    line.audit(&[b"GET", b"k"]);
    line.answer(&[NOPERM]);
    assert_eq!((line.told(), line.skips(AuditSkip::Refused)), ((0, 0), 1));
    line.differ();
    line.audit(&[b"GET", b"k"]);
    line.protocol.disconnect(at(line.now));
    assert_eq!(bench.stats.audit_skips(AuditSkip::EarLost), 2, "a suspect and one that was not answered");
}

#[test]
fn what_redis_may_not_have_told_is_no_violation() {
    let doubted = |bench: &EarBench, mut line: EarLine<'_>, replies: &[&str], doubt| {
        line.differ();
        line.answer(replies);
        assert_eq!((line.told(), bench.stats.audit_doubts(doubt), line.effects().len()), ((0, 0), 1, 0));
        assert!(bench.keeps("k", at(line.now)));
    };
    let bench = EarBench::new(CoherenceMode::channel(Notices::new("c".into(), "me".into()), Duration::MAX));
    doubted(&bench, EarLine::hit(&bench), &[TIME, &counts(2, 0), MASTER], AuditDoubt::Untold);

    let bench = EarBench::tracking();
    let mut line = bench.ready();
    line.fill(bench.get("k"));
    line.answer(&[NO_TTL, VALUE]);
    line.effects();
    doubted(&bench, line, &[TIME, LATENCY, MASTER], AuditDoubt::Swaps);

    let mut bench = EarBench::tracking();
    bench.terms.is_cluster = true;
    let mut line = bench.ready();
    line.fill(bench.get("k"));
    line.answer(&[":-2\r\n", "_\r\n"]);
    line.effects();
    doubted(&bench, line, &[TIME, LATENCY, MASTER], AuditDoubt::Absent);
}

#[test]
fn in_broadcast_mode_a_fence_of_another_turn_is_waited_for() {
    let bench = EarBench::new(CoherenceMode::broadcast(Vec::new()));
    let mut line = bench.connect();
    line.asked();
    line.answer(&[OK, OK, ALL, FEATURES, TIME, &counts(1, 0), "+PONG\r\n", MASTER]);
    line.fill(bench.get("k"));
    line.answer(&[NO_TTL, VALUE]);
    line.differ();
    assert!(line.asked().ends_with(&["PING".to_owned(), "HELLO".to_owned()]));
    line.answer(&[TIME, &counts(2, 0), "-BUSY a script runs\r\n", MASTER]);
    assert_eq!(line.told(), (0, 0));
    line.pass(200).expect("it goes on");
    line.answer(&[TIME, &counts(3, 0), "+PONG\r\n", MASTER]);
    assert_eq!(line.told(), (1, 1));
}
