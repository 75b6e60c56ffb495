//! When L1 may answer in front of a cluster: the rule for its lease and for what follows an election, in every order of votes, gossip
//! and questions within small bounds.
//!
//! The question is free of clocks. A lease begins with a **census**, a round of questions, and lasts from the moment at which the
//! round began. So a hit is staler than the bound only if a census was passed that began after a write was acknowledged by another
//! owner of the keys, and that is what must not be. What a node may do stands in [`cluster`], what crema concludes in [`census`].
//! Rules that do not hold are run too: their counterexamples are what speaks for the one that does.

#[path = "../../../src/upstream/cluster/ballot.rs"]
mod ballot;
mod census;
mod cluster;

use std::process::exit;

use stateright::{Checker, Model};

use census::{Census, Electors, Rule};

/// What is run, and whether it must hold.
const RUNS: &[(&str, Census, bool)] = &[
    (
        "the master says that it is one, and no more is asked",
        Census { rule: Rule::Hello, takeover: false, elections: 1 },
        false,
    ),
    (
        "a later number is taken once the replicas name it",
        Census { rule: Rule::NamedByReplicas, takeover: false, elections: 2 },
        false,
    ),
    (
        "a later number is taken once its winner is known to be another shard's",
        Census { rule: Rule::WonElsewhere, takeover: false, elections: 2 },
        false,
    ),
    (
        "a later number is taken two time-outs after it was heard of, if the replicas are replicas then",
        Census { rule: Rule::Aged, takeover: false, elections: 2 },
        false,
    ),
    (
        "a later number is taken two time-outs after the replicas have named it, if they are replicas then; most masters agree",
        Census { rule: Rule::Outlived(Electors::Masters), takeover: false, elections: 2 },
        false,
    ),
    (
        "the same; most shards agree, with all who may own them",
        Census { rule: Rule::Outlived(Electors::Shards), takeover: false, elections: 2 },
        false,
    ),
    (
        "the same; those who do not agree are too few to elect",
        Census { rule: Rule::Outlived(Electors::Voters), takeover: false, elections: 2 },
        true,
    ),
    (
        "the same, where operators force takeovers that nobody votes for",
        Census { rule: Rule::Outlived(Electors::Voters), takeover: true, elections: 2 },
        false,
    ),
    (
        "no lease but while all replicas say that they are replicas, takeovers and all",
        Census { rule: Rule::AllAnswer, takeover: true, elections: 2 },
        true,
    ),
    (
        "as crema itself judges: by either of the two",
        Census { rule: Rule::Ballot, takeover: false, elections: 2 },
        true,
    ),
];

fn main() {
    let mut failed = false;
    // With a number, that one alone.
    let only = std::env::args().nth(1).and_then(|at| at.parse::<usize>().ok());
    let runs = RUNS.iter().enumerate().filter(|(at, _)| only.is_none_or(|only| only == *at));
    for (_, &(name, model, holds)) in runs {
        let checker = model.checker().threads(2).spawn_bfs().join();
        let states = checker.unique_state_count();
        let stale = checker.discovery("no census is passed that began after another owner's write");
        let useful = checker.discovery("a census can be passed after an election elsewhere").is_some();
        match &stale {
            None => println!("holds  {states:>9} states: {name}"),
            Some(path) => {
                println!("broken {states:>9} states: {name}");
                let steps: Vec<_> = path.clone().into_actions().iter().map(|step| format!("{step:?}")).collect();
                println!("       {}", steps.join(", "));
            }
        }
        if stale.is_none() != holds {
            failed = true;
            println!("       this was expected to {}", if holds { "hold" } else { "break" });
        }
        if holds && !useful {
            failed = true;
            println!("       but then nothing is ever answered again after an election");
        }
    }
    exit(i32::from(failed));
}
