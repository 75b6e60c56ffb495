//! `CREMA AUDIT`: what came of the hits that were audited.

use super::Session;
use crate::metrics::{AuditBreach, AuditDoubt, AuditSkip};
use crate::resp::encode;

impl Session {
    /// The counts since the start, and the last hits that were wrong; for admins alone.
    pub(super) fn tell_audit(&self, reply: &mut Vec<u8>) {
        if let Err(refusal) = self.must_be_admin() {
            return encode::error(reply, &refusal);
        }
        let shared = &self.worker.shared;
        let stats = &shared.stats;
        let audit = shared.live().audit.map_or("off".to_owned(), |one_in| format!("1/{one_in}"));
        let mut fields = vec![
            ("audit".to_owned(), audit),
            ("checked".to_owned(), stats.audit_checked.get().to_string()),
            ("ordered".to_owned(), stats.audit_ordered.get().to_string()),
            ("violations".to_owned(), stats.audit_violations().to_string()),
        ];
        let breaches =
            AuditBreach::ALL.map(|breach| (format!("wrong_{}", breach.as_str()), stats.audit_breaches(breach)));
        let doubts = AuditDoubt::ALL.map(|doubt| (format!("ambiguous_{}", doubt.as_str()), stats.audit_doubts(doubt)));
        let skips = AuditSkip::ALL.map(|skip| (format!("skipped_{}", skip.as_str()), stats.audit_skips(skip)));
        fields.extend(breaches.into_iter().chain(doubts).chain(skips).map(|(name, count)| (name, count.to_string())));
        encode::map_header(reply, fields.len() + 1, self.caller.resp);
        for (name, value) in fields {
            encode::bulk(reply, name.as_bytes());
            encode::bulk(reply, value.as_bytes());
        }
        let (last, shows_keys) = (shared.l1.audit.violations(), shared.live().show_keys);
        encode::bulk(reply, b"last_violations");
        encode::array_header(reply, last.len());
        for violation in last {
            encode::bulk(reply, violation.told(shows_keys).as_bytes());
        }
    }
}
