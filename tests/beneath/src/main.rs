//! Tiers below the upstream: the rules by which a copy counts, in every order of writes, copies, reads, evictions and losses within small
//! bounds.
//!
//! What must not be is that a read is answered with a value that was overwritten, and acknowledged so, before the read began. Rules that
//! do not hold are run too: each is the rule of crema with one part left out, and its counterexample says what that part is for.

mod tiers;

use std::process::exit;

use stateright::{Checker, Model};

use tiers::{Fault, Tiers, Write};

/// What is run, whether it must hold, and over how many states.
const RUNS: &[(&str, Fault, &[Write], bool, usize)] = &[
    ("a copy counts under the version and the epoch that are there", Fault::None, &WRITES, true, STATES[0]),
    ("the same, with flushes", Fault::None, &FLUSHES, true, STATES[1]),
    (
        "the same, where a write and its version are two steps, a mark goes before them, and the second may be lost",
        Fault::None,
        &PAIRS,
        true,
        STATES[2],
    ),
    ("the version is read after the value that is copied", Fault::StampAfterValue, &WRITES, false, 0),
    ("what is put back is compared with nothing", Fault::PutBackUnseen, &WRITES, false, 0),
    ("an absent version equals an absent version", Fault::AbsentIsEqual, &WRITES, false, 0),
    ("the same without the mark", Fault::NoMark, &PAIRS, false, 0),
    ("a write sets no version", Fault::NoVersion, &WRITES, false, 0),
];

const WRITES: [Write; 4] = [Write::Set, Write::Set, Write::Delete, Write::Set];
const FLUSHES: [Write; 4] = [Write::Set, Write::Flush, Write::Set, Write::Delete];
const PAIRS: [Write; 3] = [Write::Set, Write::PairSet, Write::PairDelete];

/// How many states each of those that hold has: what is looked at does not shrink unseen.
const STATES: [usize; 3] = [4_087_832, 1_823_703, 4_216_630];

fn main() {
    let mut failed = false;
    // With a number, that one alone.
    let only = std::env::args().nth(1).and_then(|at| at.parse::<usize>().ok());
    let runs = RUNS.iter().enumerate().filter(|(at, _)| only.is_none_or(|only| only == *at));
    for (_, &(name, fault, writes, holds, expected)) in runs {
        let checker = Tiers { fault, writes }.checker().threads(2).spawn_bfs().join();
        let states = checker.unique_state_count();
        let old = checker.discovery(tiers::NO_OLD_VALUE);
        let useful = checker.discovery(tiers::TIER_ANSWERS).is_some();
        match &old {
            None => println!("holds  {states:>9} states: {name}"),
            Some(path) => {
                println!("broken {states:>9} states: {name}");
                let steps: Vec<_> = path.clone().into_actions().iter().map(|step| format!("{step:?}")).collect();
                println!("       {}", steps.join(", "));
            }
        }
        if old.is_none() != holds {
            failed = true;
            println!("       this was expected to {}", if holds { "hold" } else { "break" });
        }
        if holds && !useful {
            failed = true;
            println!("       but then no tier ever answers");
        }
        if holds && states != expected {
            failed = true;
            println!("       over {expected} states, as was written down");
        }
    }
    exit(i32::from(failed));
}
