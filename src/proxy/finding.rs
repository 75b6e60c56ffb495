//! What L1 has for a read, and if nothing, why: taken once for each read, before anything is sent.
//!
//! It decides what is done next: whether the read waits for the ear, joins another one, or leads. The metrics learn of it when
//! the read has been answered, by [`Miss::outcome`]. Pure data, made by the functions of `proxy` and of `each`.

use super::Unheard;
use crate::cache::Lookup;
use crate::metrics::Outcome;

/// What L1 has for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Finding {
    /// The answer. It has been given.
    Hit,
    /// An answer that might be behind what was done before: nothing was done.
    Unheard(Unheard),
    /// No answer, so that Redis is to be asked. Nothing was done.
    Miss(Miss),
}

/// Why L1 does not answer a read, though its row of the command table would allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// An unanswered write of its own session is ahead.
    BehindWrite,
    /// So is an unanswered read of the same key.
    BehindRead,
    /// L1 has an answer, and the ear did not say in time whether it may give it.
    BehindEar,
    /// It has more keys than are looked up at once.
    ManyKeys,
    /// L1 is switched off, or a rule keeps the key out of it.
    Disabled,
    /// L1 has it for sessions of the other version of the protocol only.
    OtherVersion,
    /// L1 does not have it.
    Absent,
    /// L1 had it and answered so often from it that it is filled anew at once.
    Hot,
    /// L1 cannot prove itself fresh.
    Blind,
    /// L1 has the answer, and gives none in mode observe.
    WouldHit,
    /// L1 is not asked in mode pass.
    Passed,
    /// L1 is not asked while another process serves the same clients.
    Shared,
}

impl Finding {
    /// Whether L1 was asked, or would have been had it had a lease: what the curve looks at.
    pub(super) fn is_asked(self) -> bool {
        match self {
            Self::Unheard(_) | Self::Miss(Miss::Disabled | Miss::OtherVersion | Miss::Passed | Miss::ManyKeys) => false,
            Self::Hit | Self::Miss(_) => true,
        }
    }

    /// Whether L1 has the answer, given or not.
    #[inline]
    pub(super) fn is_answered(self) -> bool {
        matches!(self, Self::Hit | Self::Miss(Miss::WouldHit))
    }

    /// Whether it is known that L1 has none.
    pub(super) fn is_absent(self) -> bool {
        matches!(self, Self::Miss(Miss::Absent | Miss::Hot))
    }

    /// Whether Redis is to be asked, and L1 may want what it says.
    pub(super) fn wants_fill(self) -> bool {
        matches!(self, Self::Miss(miss) if !miss.goes_alone())
    }
}

impl Miss {
    /// Whether the same read of another session, under way already, may answer this one. Behind something unanswered of its own, a
    /// session gets what Redis says then, not what others are told now.
    pub(super) fn joins(self) -> bool {
        !matches!(self, Self::BehindWrite | Self::BehindRead | Self::WouldHit | Self::Passed | Self::Shared)
    }

    /// Whether the read is of no use to others: none joins it, and L1 wants nothing of what Redis says.
    pub(super) fn goes_alone(self) -> bool {
        matches!(self, Self::WouldHit | Self::Passed)
    }

    /// What the read counts as once Redis has answered it.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::BehindWrite => Outcome::BehindWrite,
            Self::BehindRead | Self::BehindEar => Outcome::BehindRead,
            Self::ManyKeys => Outcome::NotCached,
            Self::Disabled => Outcome::Disabled,
            Self::OtherVersion => Outcome::OtherVersion,
            Self::Absent | Self::Hot => Outcome::Lead,
            Self::Blind | Self::Shared => Outcome::Blind,
            Self::WouldHit => Outcome::WouldHit,
            Self::Passed => Outcome::Passed,
        }
    }
}

impl From<Lookup> for Finding {
    fn from(lookup: Lookup) -> Self {
        match lookup {
            Lookup::Hit => Self::Hit,
            Lookup::Blind => Self::Miss(Miss::Blind),
            Lookup::Hot => Self::Miss(Miss::Hot),
            Lookup::Miss | Lookup::Stale | Lookup::Expired => Self::Miss(Miss::Absent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_something_unanswered_of_its_own_session_joins_nobody() {
        let all = [
            (Miss::BehindWrite, false, Outcome::BehindWrite),
            (Miss::BehindRead, false, Outcome::BehindRead),
            (Miss::BehindEar, true, Outcome::BehindRead),
            (Miss::ManyKeys, true, Outcome::NotCached),
            (Miss::Disabled, true, Outcome::Disabled),
            (Miss::OtherVersion, true, Outcome::OtherVersion),
            (Miss::Absent, true, Outcome::Lead),
            (Miss::Hot, true, Outcome::Lead),
            (Miss::Blind, true, Outcome::Blind),
            (Miss::WouldHit, false, Outcome::WouldHit),
            (Miss::Passed, false, Outcome::Passed),
            (Miss::Shared, false, Outcome::Blind),
        ];
        for (miss, joins, outcome) in all {
            assert_eq!((miss.joins(), miss.outcome()), (joins, outcome), "{miss:?}");
        }
    }

    #[test]
    fn a_copy_that_was_hit_often_is_missed_otherwise_than_one_that_never_was() {
        assert_eq!(Finding::from(Lookup::Hit), Finding::Hit);
        for none in [Lookup::Miss, Lookup::Stale, Lookup::Expired] {
            assert_eq!(Finding::from(none), Finding::Miss(Miss::Absent));
        }
        assert_eq!(Finding::from(Lookup::Hot), Finding::Miss(Miss::Hot));
        assert_eq!(Finding::from(Lookup::Blind), Finding::Miss(Miss::Blind));
    }
}
