//! Keys that have an origin: what is missing there, and who waits for a load.

use std::sync::Arc;

use super::*;
use crate::beyond::Beyond;
use crate::config::Glob;

const NULL: &str = "_\r\n";
const MARK: &str = "$1\r\n-\r\n";
const ABSENT: &str = ":-2\r\n";

/// Of keys `o:*`, which have an origin, and `t:*`, which have a tier besides.
fn bench_of(mode: CoherenceMode) -> EarBench {
    let mut bench = EarBench::new(mode);
    let origins = ["o:*", "t:*"].map(Glob::new).into();
    bench.terms.beyond = Beyond::new(vec![Glob::new("t:*")], origins, 1, false).map(Arc::new);
    bench
}

fn bench() -> EarBench {
    bench_of(CoherenceMode::tracking())
}

fn change(until: u64) -> AwaitedChange {
    let (key, token) = ((*b"o:k").into(), (*b"crema:load:o:k").into());
    AwaitedChange { db: 0, key, token, until: at(until) }
}

#[test]
fn that_there_is_nothing_is_kept_where_the_mark_says_so_and_as_long_as_that() {
    let bench = bench();
    let mut line = bench.ready();
    line.fill(bench.get("o:k"));
    assert_eq!(line.asked(), ["PTTL O:K", "GET O:K"]);
    line.answer(&[ABSENT, NULL]);
    assert_eq!(line.asked(), ["PTTL CREMA:LOAD:O:K", "GET CREMA:LOAD:O:K"]);
    let asked = line.now;
    line.answer(&[":100\r\n", MARK]);
    assert!(bench.keeps("o:k", at(asked + 99)) && !bench.keeps("o:k", at(asked + 100)));
    line.push("crema:load:o:k");
    assert!(!bench.keeps("o:k", at(asked)), "what happens to the mark happens to the key");
}

#[test]
fn a_mark_that_is_gone_is_another_or_is_refused_leaves_nothing() {
    for said in [[ABSENT, NULL], [":900\r\n", "$3\r\na:1\r\n"], [NOPERM, NOPERM]] {
        let bench = bench();
        let mut line = bench.ready();
        line.fill(bench.get("o:k"));
        line.answer(&[ABSENT, NULL]);
        line.answer(&said);
        assert!(!bench.keeps("o:k", at(line.now)), "{said:?}");
        assert_eq!(line.fills(FillOutcome::Refused), 1);
        line.fill(bench.get("o:k"));
        line.asked();
    }
}

#[test]
fn a_change_between_the_key_and_its_mark_counts() {
    for changed in ["o:k", "crema:load:o:k"] {
        let bench = bench();
        let mut line = bench.ready();
        line.fill(bench.get("o:k"));
        line.answer(&[ABSENT, NULL]);
        line.push(changed);
        line.answer(&[":900\r\n", MARK]);
        assert!(!bench.keeps("o:k", at(line.now)), "{changed}");
        assert_eq!(line.fills(FillOutcome::Retried), 1);
    }
}

#[test]
fn where_a_tier_may_have_it_or_nobody_tells_of_the_mark_it_is_not_asked_for() {
    let some = CoherenceMode::broadcast(vec![(*b"o:").into()]);
    for (bench, key) in [(bench(), "t:k"), (bench_of(some), "o:k")] {
        let mut line = bench.connect();
        line.asked();
        line.answer(&[OK, OK, ALL, FEATURES, TIME, LATENCY]);
        line.fill(bench.get(key));
        line.asked();
        let before = line.fills(FillOutcome::Refused);
        let turn = if bench.terms.mode.covers(b"t:k") { &[MASTER][..] } else { &["+PONG\r\n", MASTER] };
        line.answer(&[&turn.concat(), ABSENT, NULL]);
        assert!(line.asked().iter().all(|asked| !asked.contains("CREMA:")), "{key}");
        assert_eq!(line.fills(FillOutcome::Refused), before + 1, "{key}");
    }
}

#[test]
fn who_waits_for_a_load_is_told_of_the_next_change_of_key_or_token() {
    for changed in ["o:k", "crema:load:o:k"] {
        let bench = bench();
        let mut line = bench.ready();
        line.protocol.await_change(&change(900), 7, at(line.now));
        assert_eq!(line.asked(), ["EXISTS CREMA:LOAD:O:K CREMA:LOAD:O:K O:K"]);
        line.answer(&[":2\r\n"]);
        line.push("o:other");
        assert!(line.effects().is_empty());
        line.push(changed);
        assert_eq!(line.effects(), ["Changed(7)"], "{changed}");
        line.push(changed);
        assert!(line.effects().is_empty(), "once");
    }
}

#[test]
fn what_changed_before_redis_was_asked_is_told_at_once_and_an_error_is_not() {
    let bench = bench();
    for (said, told) in [(":0\r\n", true), (":1\r\n", true), (":3\r\n", true), (NOPERM, false)] {
        let mut line = bench.ready();
        line.protocol.await_change(&change(900), 7, at(line.now));
        line.answer(&[said]);
        assert_eq!(!line.effects().is_empty(), told, "{said}");
        line.push("o:k");
        assert!(line.effects().is_empty(), "nobody waits any more");
    }
}

#[test]
fn a_flush_is_a_change_and_whoever_has_waited_long_enough_is_not_told() {
    let bench = bench();
    let mut line = bench.ready();
    line.protocol.await_change(&change(50), 7, at(line.now));
    line.protocol.await_change(&change(900), 8, at(line.now));
    line.answer(&[":2\r\n", ":2\r\n"]);
    line.pass(120).expect("it goes on");
    line.answer(&[FLUSH]);
    assert_eq!(line.effects(), ["Changed(8)"]);
}

#[test]
fn where_writes_tell_of_themselves_nobody_tells_of_a_load() {
    let bench = bench_of(CoherenceMode::channel(Notices::new("c".into(), "me".into()), Duration::MAX));
    let mut line = bench.connect();
    line.asked();
    line.protocol.await_change(&change(900), 7, at(line.now));
    assert!(line.asked().is_empty());
}
