//! One test for each bug that was found after it had been believed absent, with what it was and what showed it.

mod common;

use common::{Crema, Redis, Value, ok};

/// The fuzz of tests/fuzz.rs. An `EXEC` or `DISCARD` without `MULTI` was taken for the end of the watch: the connection went
/// back to the pool still watching, and the next who borrowed it had a transaction fail for no reason of its own.
#[test]
fn an_exec_that_ends_no_transaction_ends_no_watch() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    for command in ["EXEC", "DISCARD"] {
        let (mut one, mut other) = (crema.client(), crema.client());
        assert_eq!(one.cmd(&["WATCH", "watched"]), ok());
        assert!(one.cmd(&[command]).is_error());
        assert_eq!(one.cmd(&["GET", "other"]), Value::Nil);
        assert_eq!(other.cmd(&["SET", "watched", command]), ok());
        // All that may be lent is, so whoever is given the watching connection shows it.
        let mut others: Vec<_> = (0..4).map(|_| crema.client()).collect();
        for other in &mut others {
            assert_eq!(other.cmd(&["MULTI"]), ok());
        }
        for other in &mut others {
            assert_eq!(other.cmd(&["EXEC"]), common::array([]), "after {command}: it watches nothing");
        }
        assert_eq!(one.cmd(&["MULTI"]), ok());
        assert_eq!(one.cmd(&["EXEC"]), Value::Nil, "after {command}: what it watches has changed");
    }
}
