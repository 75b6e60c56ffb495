//! What is counted of each tier, and how it is told: which tiers there are the settings say, so these metrics stand in no table. Any thread
//! counts; the admin port reads.

use std::fmt::{self, Write as _};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use super::labels::TierOutcome;
use crate::clock::Time;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct TierStats {
    counts: [AtomicU64; TierOutcome::COUNT],
    /// What went wrong last, and when.
    last: Mutex<Option<(Time, String)>>,
}

impl TierStats {
    /// That happened once more.
    pub(crate) fn count(&self, outcome: TierOutcome) {
        self.counts[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// It did not do what it was asked, for this reason. True where that begins with another word than the last.
    pub(crate) fn failed(&self, why: &str) -> bool {
        self.count(TierOutcome::Error);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = last.as_ref().is_none_or(|(_, last)| last.split(' ').next() != why.split(' ').next());
        *last = Some((Time::now(), why.to_owned()));
        is_new
    }

    /// How often that happened.
    pub(crate) fn of(&self, outcome: TierOutcome) -> u64 {
        self.counts[outcome as usize].load(Ordering::Relaxed)
    }

    /// What went wrong last, and when; none: nothing did.
    pub(crate) fn last_error(&self) -> Option<(Time, String)> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Each metric's name and sentence.
pub(super) const FAMILIES: [(&str, &str); 2] = [
    ("crema_tier_total", "What happened at each tier."),
    ("crema_tier_well", "Whether each tier is asked, and not left alone after failures."),
];

/// What there is of one tier.
#[derive(Clone, Debug, Default)]
pub struct TierLevels {
    /// What the settings call it.
    pub name: String,
    /// By [`TierOutcome`].
    pub counts: [u64; TierOutcome::COUNT],
    /// Whether it is asked whenever there is something to ask.
    pub well: bool,
}

/// Appends what there is of each tier, in the text format of Prometheus.
pub(super) fn write(text: &mut String, tiers: &[TierLevels]) -> fmt::Result {
    let [(total, about_total), (well, about_well)] = FAMILIES;
    writeln!(text, "# HELP {total} {about_total}\n# TYPE {total} counter")?;
    for tier in tiers {
        for (outcome, count) in TierOutcome::LABELS.iter().zip(tier.counts) {
            writeln!(text, "{total}{{tier=\"{}\",outcome=\"{outcome}\"}} {count}", tier.name)?;
        }
    }
    writeln!(text, "# HELP {well} {about_well}\n# TYPE {well} gauge")?;
    for tier in tiers {
        writeln!(text, "{well}{{tier=\"{}\"}} {}", tier.name, u8::from(tier.well))?;
    }
    Ok(())
}
