//! The protocol's part of the audit: hits are read again among all else that is asked, and judged when a fence is back.
//!
//! What makes a difference a violation, and why, stands in [`audits`](super::super::audits). Where Redis may have kept something from
//! this connection that explains the difference, it is counted as a doubt: nothing that is not certain is called a violation.
//!
//! Holds contract point 5 (nothing old stays), by showing where it is broken.

use super::super::audits::Audit;
use super::super::frames::SLACK;
use super::{EarEffect, FaultPlan, PlantedFault, Protocol};
use crate::clock::Time;
use crate::metrics::{AuditBreach, AuditDoubt, AuditSkip, CoherenceMeans};

impl<W, P: FaultPlan> Protocol<'_, W, P> {
    /// Whether a hit may be read again now.
    pub fn takes_audits(&self) -> bool {
        self.audits.is_open()
    }

    /// Reads as many of these again as may be under way, and rests.
    pub fn audit(&mut self, mut audits: impl Iterator<Item = Audit>, now: Time) {
        while self.takes_audits()
            && let Some(audit) = audits.next()
        {
            if !self.stands(&audit, now) {
                self.around.stats.audit_skipped(AuditSkip::Changed);
                continue;
            }
            self.audits.enter(&audit);
            self.dialogue.ask_audit(Box::new(audit), now);
        }
        self.audits.rest(now);
    }

    /// What Redis says by now; not `whole` where that is larger than anything that would be kept by now. What was kept under a larger
    /// `max_value` may be as large as that, and is not compared.
    pub(super) fn hear_audit(&mut self, audit: Box<Audit>, (frame, whole): (&[u8], bool), now: Time) {
        self.audits.leave(&audit);
        let stats = self.around.stats;
        if self.is_astray() || !Audit::is_answered_by(frame) {
            stats.audit_skipped(AuditSkip::Refused);
        } else if !whole && audit.exhibit().reply().len() > SLACK {
            stats.audit_skipped(AuditSkip::Behind);
        } else if whole && audit.agrees_with(frame) {
            stats.audit_checked.add(1);
        } else if !self.stands(&audit, now) {
            stats.audit_skipped(AuditSkip::Changed);
        } else if self.faults.has(PlantedFault::AuditUnfenced) {
            self.judge(*audit, now);
        } else if !self.audits.suspect(*audit, now) {
            stats.audit_doubted(AuditDoubt::Many);
        }
    }

    /// The fence is back that was sent then.
    pub(super) fn judge_suspects(&mut self, sent: Time, now: Time) {
        if !self.audits.has_suspects() || !self.in_turn {
            return; // none, or the next fence is waited for
        }
        let unprobed = self.faults.has(PlantedFault::AuditUnprobed);
        let asked = if unprobed { sent } else { self.unannounced.bound(sent) };
        for audit in self.audits.settled(asked) {
            self.judge(audit, now);
        }
    }

    /// Its connection has ended: nothing that is not judged can be.
    pub(super) fn give_up_audits(&self) {
        (0..self.audits.len()).for_each(|_| self.around.stats.audit_skipped(AuditSkip::EarLost));
    }

    fn judge(&mut self, audit: Audit, now: Time) {
        let (stats, store, stamps) = (self.around.stats, self.around.store, self.around.stamps);
        // Whoever swaps databases says so first, and has all forgotten before it says that it is done.
        if self.around.silence.is_swapping() || self.is_turned() || !self.stands(&audit, now) {
            stats.audit_skipped(AuditSkip::Changed);
        } else if let Some(doubt) = self.doubt(&audit) {
            stats.audit_doubted(doubt);
        } else {
            stats.audit_checked.add(1);
            stats.audit_breached(AuditBreach::Value);
            store.withdraw(audit.exhibit(), stamps);
            self.effects.push(EarEffect::Violation(Box::new(audit)));
        }
    }

    /// Why a difference would prove nothing.
    fn doubt(&self, audit: &Audit) -> Option<AuditDoubt> {
        if self.means == CoherenceMeans::Channel {
            Some(AuditDoubt::Untold)
        } else if !self.around.terms.is_cluster {
            // A cluster has one database.
            (self.unannounced.counts_swaps() != Some(true)).then_some(AuditDoubt::Swaps)
        } else {
            let is_owner = self.around.vouched.passed().is_some();
            (!is_owner || audit.may_be_of_nothing()).then_some(AuditDoubt::Absent)
        }
    }

    /// Whether what has answered still would.
    fn stands(&self, audit: &Audit, now: Time) -> bool {
        let epoch = self.around.freshness.epoch();
        self.around.store.stands(audit.exhibit(), self.around.stamps, epoch, now)
    }
}
