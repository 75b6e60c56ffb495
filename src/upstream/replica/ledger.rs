//! The ledger of a master's replicas: which moments of the master each of them has reached.
//!
//! A **mark** is the master's offset with the moment at which it was asked: all that the master had acknowledged by then lies before
//! it. A replica whose own offset is that or later has reached the moment. What a mark proves holds for the slots that the master
//! has for itself: where it gets some, only what is asked from then on counts, for their keys have come with the offsets between.
//! Without I/O, and knows no clock but the moments that it is told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::statement::{ReplicationStatement, SlotClaims};
use crate::clock::Time;
use crate::config::Endpoint;

/// So many marks are kept; a replica that is further behind is of no use.
const MARKS: usize = 64;

/// See the module's head. One for each master.
#[derive(Debug, Default)]
pub(super) struct ReplicationLedger {
    history: Option<Box<str>>,
    marks: VecDeque<ReplicationMark>,
    claims: Option<Arc<SlotClaims>>,
    replicas: BTreeMap<Endpoint, ReplicaStanding>,
}

#[derive(Clone, Copy, Debug)]
struct ReplicationMark {
    asked: Time,
    offset: u64,
}

/// How far a replica is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReplicaStanding {
    /// The last moment of its master that it has reached; none where none is known.
    pub(super) reached: Option<Time>,
    /// How many bytes it was behind its master when both were asked last.
    pub(super) lag: u64,
    /// The offset that it said last.
    said: u64,
}

impl ReplicationLedger {
    /// The master says this, asked at that moment or later, with its slots, where it is one of a cluster.
    pub(super) fn hear_master(&mut self, said: &ReplicationStatement, claims: Option<SlotClaims>, asked: Time) {
        let goes_on = self.marks.back().is_none_or(|mark| mark.offset <= said.offset);
        let is_same = said.is_master && self.history.as_ref() == Some(&said.history) && goes_on;
        let claims_more = match (&claims, &self.claims) {
            (Some(claims), Some(before)) => claims.exceeds(before),
            (claims, before) => claims.is_some() != before.is_some(),
        };
        if !is_same || claims_more {
            self.void();
        }
        if self.claims.as_deref() != claims.as_ref() {
            self.claims = claims.map(Arc::new);
        }
        self.history = said.is_master.then(|| said.history.clone());
        if said.is_master {
            self.marks.push_back(ReplicationMark { asked, offset: said.offset });
            if self.marks.len() > MARKS {
                self.marks.pop_front();
            }
        }
    }

    /// The replica at that address says this. Whether it has reached the last mark.
    pub(super) fn hear_replica(&mut self, at: &Endpoint, said: &ReplicationStatement) -> bool {
        let standing = self.replicas.entry(at.clone()).or_default();
        if said.is_master || self.history.as_ref() != Some(&said.history) {
            *standing = ReplicaStanding::default();
            return false;
        }
        if said.offset < standing.said {
            *standing = ReplicaStanding::default(); // it has got another copy
        }
        standing.said = said.offset;
        let reached = self.marks.iter().rev().find(|mark| mark.offset <= said.offset).map(|mark| mark.asked);
        standing.reached = standing.reached.max(reached);
        let last = self.marks.back();
        standing.lag = last.map_or(0, |mark| mark.offset.saturating_sub(said.offset));
        last.is_some_and(|mark| standing.reached == Some(mark.asked))
    }

    /// The replica's connection is lost: what it comes back with may be older.
    pub(super) fn miss(&mut self, at: &Endpoint) {
        self.replicas.remove(at);
    }

    /// What was proved so far counts no more.
    pub(super) fn void(&mut self) {
        self.marks.clear();
        self.replicas.values_mut().for_each(|standing| *standing = ReplicaStanding::default());
    }

    /// How far the replica is.
    pub(super) fn standing(&self, at: &Endpoint) -> ReplicaStanding {
        self.replicas.get(at).copied().unwrap_or_default()
    }

    /// The slots that the master has for itself; none where there is no cluster.
    pub(super) fn claims(&self) -> Option<&Arc<SlotClaims>> {
        self.claims.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeMap;
    use crate::upstream::cluster::Listing;

    const AT: fn(u64) -> Time = Time::from_nanos;

    fn said(is_master: bool, history: &str, offset: u64) -> ReplicationStatement {
        ReplicationStatement { is_master, history: history.into(), offset }
    }

    fn place(port: u16) -> Endpoint {
        Endpoint::Tcp { host: "127.0.0.1".into(), port }
    }

    /// A ledger whose master was asked at each of these moments, and said these offsets.
    fn marked(marks: &[(u64, u64)]) -> ReplicationLedger {
        let mut ledger = ReplicationLedger::default();
        for &(at, offset) in marks {
            ledger.hear_master(&said(true, "a", offset), None, AT(at));
        }
        ledger
    }

    fn reached(ledger: &ReplicationLedger) -> Option<Time> {
        ledger.standing(&place(1)).reached
    }

    #[test]
    fn a_replica_has_reached_the_last_moment_whose_offset_it_has() {
        let mut ledger = marked(&[(1, 10), (2, 20), (3, 30)]);
        assert_eq!(ledger.standing(&place(1)), ReplicaStanding::default());
        assert!(!ledger.hear_replica(&place(1), &said(false, "a", 9)));
        assert_eq!(ledger.standing(&place(1)), ReplicaStanding { reached: None, lag: 21, said: 9 });
        assert!(!ledger.hear_replica(&place(1), &said(false, "a", 25)));
        assert_eq!(ledger.standing(&place(1)), ReplicaStanding { reached: Some(AT(2)), lag: 5, said: 25 });
        assert!(ledger.hear_replica(&place(1), &said(false, "a", 31)));
        assert_eq!((reached(&ledger), ledger.standing(&place(2)).reached), (Some(AT(3)), None));
    }

    #[test]
    fn where_nothing_is_written_it_reaches_every_moment() {
        let mut ledger = marked(&[(1, 10), (2, 10)]);
        assert!(ledger.hear_replica(&place(1), &said(false, "a", 10)));
        assert_eq!(reached(&ledger), Some(AT(2)));
    }

    #[test]
    fn what_a_replica_has_reached_it_keeps_though_the_mark_is_gone() {
        let mut ledger = marked(&[(1, 1)]);
        ledger.hear_replica(&place(1), &said(false, "a", 1));
        (2..200).for_each(|at| ledger.hear_master(&said(true, "a", at), None, AT(at)));
        assert_eq!(ledger.marks.len(), MARKS);
        assert!(!ledger.hear_replica(&place(1), &said(false, "a", 1)));
        assert_eq!(reached(&ledger), Some(AT(1)));
    }

    #[test]
    fn offsets_of_another_history_prove_nothing() {
        let mut ledger = marked(&[(1, 10)]);
        assert!(!ledger.hear_replica(&place(1), &said(false, "b", 100)), "it follows another master");
        ledger.hear_replica(&place(1), &said(false, "a", 10));
        assert_eq!(reached(&ledger), Some(AT(1)));
        ledger.hear_replica(&place(1), &said(true, "a", 10));
        assert_eq!(reached(&ledger), None, "it is a master itself");
        ledger.hear_replica(&place(1), &said(false, "a", 10));
        ledger.hear_master(&said(true, "b", 3), None, AT(2));
        assert_eq!(reached(&ledger), None, "the master begins anew");
        assert!(!ledger.hear_replica(&place(1), &said(false, "a", 10)));
        assert!(ledger.hear_replica(&place(1), &said(false, "b", 3)));
        ledger.hear_master(&said(false, "b", 3), None, AT(3));
        assert_eq!(reached(&ledger), None, "the master is none");
        assert!(!ledger.hear_replica(&place(1), &said(false, "b", 3)));
    }

    #[test]
    fn one_that_was_lost_begins_anew() {
        let mut ledger = marked(&[(1, 10)]);
        ledger.hear_replica(&place(1), &said(false, "a", 10));
        ledger.miss(&place(1));
        assert_eq!(reached(&ledger), None);
        ledger.hear_replica(&place(1), &said(false, "a", 4));
        assert_eq!(reached(&ledger), None, "it has come back with an older state");
        ledger.hear_replica(&place(1), &said(false, "a", 10));
        assert_eq!(reached(&ledger), Some(AT(1)));
        ledger.void();
        assert_eq!(reached(&ledger), None);
        assert!(!ledger.hear_replica(&place(1), &said(false, "a", 10)), "no mark counts");
    }

    #[test]
    fn one_whose_offset_falls_begins_anew() {
        let mut ledger = marked(&[(1, 10), (2, 20)]);
        ledger.hear_replica(&place(1), &said(false, "a", 20));
        assert_eq!(reached(&ledger), Some(AT(2)));
        assert!(!ledger.hear_replica(&place(1), &said(false, "a", 12)));
        assert_eq!(reached(&ledger), Some(AT(1)), "it has another copy, which is older");
        ledger.hear_replica(&place(1), &said(false, "a", 20));
        assert_eq!(reached(&ledger), Some(AT(2)));
        ledger.hear_master(&said(true, "a", 15), None, AT(3));
        assert_eq!(reached(&ledger), None, "the master has come back with an older copy");
        assert!(ledger.hear_replica(&place(1), &said(false, "a", 20)));
    }

    #[test]
    fn of_slots_that_come_only_later_moments_count_and_slots_that_leave_change_nothing() {
        let claims = |slots: &str| {
            let reply = format!("$9\r\nid 127.0.0.1:1@2 myself,master - 0 0 1 connected {slots}\n\r\n");
            SlotClaims::of(&Listing::read(reply.as_bytes(), &place(1), &NodeMap::default()).expect("a list"))
        };
        let mut ledger = ReplicationLedger::default();
        let hear = |ledger: &mut ReplicationLedger, slots: &str, offset, at| {
            ledger.hear_master(&said(true, "a", offset), Some(claims(slots)), AT(at));
            ledger.hear_replica(&place(1), &said(false, "a", 10));
            reached(ledger)
        };
        assert_eq!(hear(&mut ledger, "0-9", 10, 1), Some(AT(1)));
        assert_eq!(hear(&mut ledger, "0-8", 20, 2), Some(AT(1)));
        assert_eq!(ledger.claims().map(|all| **all == claims("0-8")), Some(true));
        assert_eq!(hear(&mut ledger, "0-9", 20, 3), None, "the keys of slot 9 came between");
    }
}
