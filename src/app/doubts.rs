//! What operators are told of a census: for whose keys memory does not answer and why, and that it does again.
//!
//! A round that shows nothing is no doubt yet, for leases last as long as `max_staleness`; one that shows that another may own the keys
//! is. Each reason is told once in a doubt, so that rounds four times in `max_staleness` fill no log. No I/O.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Time;
use crate::config::Endpoint;
use crate::metrics::CensusFinding;

/// The doubts there are, of all nodes.
#[derive(Default)]
pub(super) struct CensusDoubts(HashMap<Endpoint, OpenDoubt>);

/// Nothing has been proven since then.
struct OpenDoubt {
    since: Time,
    told: Vec<CensusFinding>,
}

/// What is to be told of a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DoubtNews {
    /// Memory does not answer for its keys, for this reason.
    Because(CensusFinding),
    /// It answers again, after so long.
    Over(Duration),
}

impl CensusDoubts {
    /// A round has shown this of the node; leases last for `bound` without another.
    pub(super) fn hear(
        &mut self,
        node: &Endpoint,
        finding: CensusFinding,
        (now, bound): (Time, Duration),
    ) -> Option<DoubtNews> {
        if finding == CensusFinding::Proven {
            let doubt = self.0.remove(node).filter(|doubt| !doubt.told.is_empty())?;
            return Some(DoubtNews::Over(now.saturating_since(doubt.since)));
        }
        let doubt = self.0.entry(node.clone()).or_insert(OpenDoubt { since: now, told: Vec::new() });
        let is_due = finding.is_sign() || now.saturating_since(doubt.since) > bound;
        if !is_due || doubt.told.contains(&finding) {
            return None;
        }
        doubt.told.push(finding);
        Some(DoubtNews::Because(finding))
    }

    /// Forgets all nodes but these.
    pub(super) fn retain(&mut self, is_there: impl Fn(&Endpoint) -> bool) {
        self.0.retain(|node, _| is_there(node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CensusFinding::{Demoted, Proven, Silent, Voters};

    const BOUND: Duration = Duration::from_nanos(100);

    /// What is told of one node to which rounds at these moments have shown this.
    fn told(rounds: &[(u64, CensusFinding)]) -> Vec<DoubtNews> {
        let node = Endpoint::Tcp { host: "a".to_owned(), port: 1 };
        let mut doubts = CensusDoubts::default();
        let hear = |&(now, finding): &(u64, _)| doubts.hear(&node, finding, (Time::from_nanos(now), BOUND));
        rounds.iter().filter_map(hear).collect()
    }

    #[test]
    fn a_round_or_two_that_show_nothing_are_not_told() {
        assert_eq!(told(&[(0, Proven), (25, Silent), (50, Voters), (75, Proven), (100, Silent), (125, Proven)]), []);
    }

    #[test]
    fn a_doubt_is_told_when_leases_are_over_and_each_reason_once_and_that_it_has_ended() {
        let rounds =
            [(0, Silent), (100, Silent), (101, Silent), (125, Voters), (150, Silent), (175, Proven), (200, Proven)];
        let over = DoubtNews::Over(Duration::from_nanos(175));
        assert_eq!(told(&rounds), [DoubtNews::Because(Silent), DoubtNews::Because(Voters), over]);
    }

    #[test]
    fn what_ends_leases_at_once_is_told_at_once() {
        let over = DoubtNews::Over(Duration::from_nanos(1));
        assert_eq!(told(&[(7, Demoted), (8, Proven)]), [DoubtNews::Because(Demoted), over]);
    }

    #[test]
    fn a_node_that_is_gone_is_forgotten() {
        let node = Endpoint::Tcp { host: "a".to_owned(), port: 1 };
        let mut doubts = CensusDoubts::default();
        let hear = |doubts: &mut CensusDoubts, finding| doubts.hear(&node, finding, (Time::ZERO, BOUND));
        assert_eq!(hear(&mut doubts, Demoted), Some(DoubtNews::Because(Demoted)));
        doubts.retain(|_| false);
        assert_eq!(hear(&mut doubts, Proven), None);
    }
}
