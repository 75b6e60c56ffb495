//! The judge, judged: a judge that finds nothing proves nothing, so here are small histories, each with its one fault.

use std::time::Duration;

use common::judge::{Log, Order, Read, Rules, Seen, Verdict, Via, Write, judge};

const MS: u64 = 1_000_000;
const RULES: Rules = Rules { max_staleness: Duration::from_millis(500), monotone: true };

fn write(order: Order, begun: u64, acked: u64, via: Via) -> Write {
    Write { key: 0, order, becomes: Seen::value(order.to_string()), begun: begun * MS, acked: acked * MS, via }
}

fn read(order: Order, sent: u64, received: u64) -> Read {
    let seen = if order == 0 { Seen::ABSENT } else { Seen::value(order.to_string()) };
    Read { key: 0, by: "GET", seen, sent: sent * MS, received: received * MS }
}

fn log(via: Via, writes: &[Write], reads: &[Read]) -> Log {
    let mut log = Log::new(via);
    for write in writes {
        log.wrote(*write);
    }
    for read in reads {
        log.read(*read);
    }
    log
}

fn verdict(logs: &[Log]) -> Verdict {
    judge(logs, &["k".to_owned()], RULES)
}

#[track_caller]
fn finds(fault: &str, logs: &[Log]) {
    let verdict = verdict(logs);
    assert_eq!(verdict.violations.len(), 1, "{verdict}");
    assert!(verdict.violations[0].contains(fault), "{verdict}");
}

fn writer() -> Log {
    log(Via::Proxy(0), &[write(1, 10, 11, Via::Proxy(0)), write(2, 20, 21, Via::Proxy(0))], &[])
}

#[test]
fn a_sound_history_passes() {
    let one = log(Via::Proxy(0), &[], &[read(0, 5, 6), read(1, 10, 12), read(1, 20, 22), read(2, 22, 23)]);
    let other = log(Via::Proxy(1), &[], &[read(1, 30, 31), read(1, 520, 521), read(2, 522, 523)]);
    let verdict = verdict(&[writer(), one, other]);
    assert!(verdict.violations.is_empty(), "{verdict}");
    assert_eq!((verdict.reads, verdict.writes), (7, 2));
    assert_eq!(verdict.stalest, Duration::from_millis(499));
}

#[test]
fn a_write_missed_by_its_own_proxy_is_found() {
    finds("acknowledged by its own proxy", &[writer(), log(Via::Proxy(0), &[], &[read(1, 22, 23)])]);
}

#[test]
fn a_write_unseen_for_longer_than_the_bound_is_found() {
    finds("older than max_staleness", &[writer(), log(Via::Proxy(1), &[], &[read(1, 522, 523)])]);
}

#[test]
fn a_direct_read_may_not_be_stale_at_all() {
    finds("older than max_staleness", &[writer(), log(Via::Redis, &[], &[read(1, 22, 23)])]);
}

#[test]
fn going_back_in_time_is_found() {
    finds("back in time", &[writer(), log(Via::Proxy(1), &[], &[read(2, 30, 31), read(1, 32, 33)])]);
}

#[test]
fn a_value_from_the_future_is_found() {
    finds("from the future", &[writer(), log(Via::Proxy(1), &[], &[read(2, 12, 13)])]);
}

#[test]
fn a_value_that_nobody_wrote_is_found() {
    finds("nobody wrote", &[writer(), log(Via::Proxy(1), &[], &[read(3, 30, 31)])]);
}

#[test]
fn missing_an_earlier_write_of_the_same_pipeline_is_found() {
    let mut pipeline = Log::new(Via::Proxy(1));
    pipeline.wrote(write(3, 30, 40, Via::Proxy(1)));
    pipeline.read(read(2, 30, 40));
    finds("its own connection", &[writer(), pipeline]);
}

#[test]
fn seeing_a_later_write_of_the_same_pipeline_is_found() {
    let mut pipeline = Log::new(Via::Proxy(1));
    pipeline.read(read(3, 30, 40));
    pipeline.wrote(write(3, 30, 40, Via::Proxy(1)));
    finds("from the future", &[writer(), pipeline]);
}

#[test]
fn an_expired_key_is_absent_to_all_after_the_bound() {
    let mut owner = writer();
    owner.wrote(Write { becomes: Seen::ABSENT, ..write(3, 60, 63, Via::Clock) });
    let reads = [read(2, 61, 62), read(0, 62, 63)];
    assert!(verdict(&[owner, log(Via::Proxy(1), &[], &reads)]).violations.is_empty());
    let mut owner = writer();
    owner.wrote(Write { becomes: Seen::ABSENT, ..write(3, 60, 63, Via::Clock) });
    finds("older than max_staleness", &[owner, log(Via::Proxy(1), &[], &[read(2, 564, 565)])]);
}
