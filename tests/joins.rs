//! Joining a read of somebody else's: never one that is older than what the session itself has seen of the key.
//!
//! What a session sees on a connection of its own, on another lane, or out of L1 can be newer than what a slow lane is still
//! to bring. The link brings the replies of one lane late, by less than a lane may wait before others take its place.

use std::time::Duration;

use common::{Client, Crema, Link, Redis, Value, eventually};

/// What the first session on the lane asks for, so that the link knows it.
const MARK: &str = "a-key-by-which-the-lane-is-known";
const LATE: Duration = Duration::from_millis(45);

/// A proxy whose lane for RESP2 brings everything late, and that lane's first session. Keys that match `kept_out` never enter L1.
fn with_a_slow_lane(redis: &Redis, promote: u32, kept_out: &str) -> (Link, Crema, Client) {
    let link = Link::to(redis.addr());
    link.late(MARK, Duration::ZERO);
    let rules = [MARK, kept_out].map(|key| format!("[[rule]]\nmatch = \"{key}\"\npromote = \"never\"\n"));
    let launch = Crema::over(link.addr()).settings(&rules.concat());
    let crema = launch.flag("--threads", 1).flag("--promote", promote).start();
    if promote == 1 {
        crema.warm(&["GET", "other"]); // so that there is an ear
    }
    let mut first = crema.client();
    first.cmd(&["GET", MARK]);
    link.late(MARK, LATE);
    (link, crema, first)
}

/// Has `first` ask Redis for `k` while it is `older`, and makes it `newer` before that is answered. False where L1 answered. Where
/// Redis did, sooner than `k` was changed, the machine stood still, and it is done again.
fn leave_behind(redis: &Redis, [direct, first]: [&mut Client; 2], [older, newer]: [u64; 2]) -> bool {
    let quiet = Duration::from_millis(1);
    for _ in 0..20 {
        direct.cmd(&["SET", "k", &older.to_string()]);
        let before = redis.calls("get");
        first.send_cmd(&["GET", "k"]);
        while redis.calls("get") == before && first.is_silent_for(quiet) {}
        if redis.calls("get") == before {
            return false;
        }
        direct.cmd(&["SET", "k", &newer.to_string()]);
        if first.is_silent_for(quiet) {
            return true;
        }
        first.value();
    }
    first.send_cmd(&["GET", "k"]);
    false
}

fn number(reply: &Value) -> u64 {
    reply.text().parse().unwrap_or_else(|_| panic!("no number: {reply:?}"))
}

/// Sees `k` by `look`, in many rounds, while an older read of it is under way on the lane, and asks for it there.
fn never_back_in_time(promote: u32, look: impl Fn(&mut Client) -> u64) {
    let redis = Redis::start();
    let (_link, crema, mut first) = with_a_slow_lane(&redis, promote, "k");
    if crema.is_direct() {
        return;
    }
    let (mut direct, mut session) = (redis.client(), crema.client());
    look_at_first(&mut direct, &mut session, &look);
    for round in 1..=20 {
        let states = [2 * round, 2 * round + 1];
        assert!(leave_behind(&redis, [&mut direct, &mut first], states), "L1 answers what it is not to have");
        let seen = look(&mut session);
        assert_eq!(seen, states[1]);
        let then = number(&session.cmd(&["GET", "k"]));
        assert!(then >= seen, "round {round}: {seen} was seen, and then {then}");
        first.value();
    }
}

/// So that connections are made and scripts known.
fn look_at_first(direct: &mut Client, session: &mut Client, look: impl Fn(&mut Client) -> u64) {
    direct.cmd(&["SET", "k", "0"]);
    look(session);
}

#[test]
fn what_exec_showed_is_not_taken_back() {
    for promote in [0, 1] {
        never_back_in_time(promote, |session| {
            let replies = session.pipeline(&[&["MULTI"][..], &["GET", "k"], &["EXEC"]]);
            number(&replies[2].items()[0])
        });
    }
}

#[test]
fn what_was_read_while_a_key_was_watched_is_not_taken_back() {
    never_back_in_time(0, |session| {
        let replies = session.pipeline(&[&["WATCH", "k"][..], &["GET", "k"], &["UNWATCH"]]);
        number(&replies[1])
    });
}

#[test]
fn what_another_lane_showed_is_not_taken_back() {
    never_back_in_time(0, |session| number(&session.cmd(&["EVAL_RO", "return redis.call('GET', KEYS[1])", "1", "k"])));
    never_back_in_time(0, |session| {
        session.cmd(&["HELLO", "3"]);
        let seen = number(&session.cmd(&["GET", "k"]));
        session.cmd(&["HELLO", "2"]);
        seen
    });
}

/// Out of L1, which then forgets it though the key has not changed.
#[test]
fn what_l1_showed_is_not_taken_back_when_l1_has_it_no_more() {
    let redis = Redis::start();
    let (_link, crema, mut first) = with_a_slow_lane(&redis, 1, "none");
    if crema.is_direct() {
        return;
    }
    let (mut direct, mut session, mut other) = (redis.client(), crema.client(), crema.resp3());
    let mut hits = 0;
    for round in 1..=30 {
        let states = [2 * round, 2 * round + 1];
        if !leave_behind(&redis, [&mut direct, &mut first], states) {
            first.value();
            continue;
        }
        let hit = crema.outcomes("hit");
        eventually("it is in L1", || {
            other.cmd(&["GET", "k"]);
            crema.outcomes("hit") > hit
        });
        let hit = crema.outcomes("hit");
        let seen = number(&session.cmd(&["GET", "k"]));
        hits += crema.outcomes("hit") - hit;
        let invalidated = other.cmd(&["CREMA", "INVALIDATE", "PATTERN", "k*"]);
        assert!(!invalidated.is_error(), "{invalidated:?}");
        let then = number(&session.cmd(&["GET", "k"]));
        assert!(then >= seen, "round {round}: {seen} was seen, and then {then}");
        first.value();
    }
    assert!(hits > 0, "L1 took part");
}
