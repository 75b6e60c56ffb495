//! Faults that a test plants in the protocol, to see that it would find them. In the program there are none: [`NoFaults`] has no
//! size, and what asks it is gone before the code is made.

/// One way in which the protocol could be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedFault {
    /// What was filled on a lost connection still counts on the next.
    EpochOutlivesConnection,
    /// A lease runs from the answer to a fence, not from the question.
    LeaseFromAnswer,
    /// A lease does not end by itself.
    LeaseUnending,
    /// A lease lasts from the fence on, though what Redis announces to nobody was asked before it.
    LeaseBeyondProbe,
    /// A value enters L1 under the stamp that its key has when it comes.
    StampAtAnswer,
    /// A value enters L1 under the epoch in which it comes.
    EpochAtAnswer,
    /// A push that names keys is heard, and nothing forgotten.
    PushIgnored,
    /// A push that everything is gone is not heeded.
    FlushIgnored,
    /// A replica renews leases as a master does.
    RoleIgnored,
    /// Leases begin while databases are being swapped.
    SwapIgnored,
    /// A lease lasts however long ago the fleet's channel, which alone tells of swaps, was heard.
    ChannelUnproved,
    /// What Redis announces to nobody is asked and not heeded.
    ProbeIgnored,
    /// Rights that have changed empty nothing.
    RightsIgnored,
    /// The time to live runs from the answer, not from the question.
    ExpiryFromAnswer,
    /// A value that was read in another database counts.
    AstrayIgnored,
    /// An answer shows all that was said before it came, not before it was asked for.
    HeardAtAnswer,
    /// That something comes in is not noted.
    ArrivalsUnnoted,
    /// A hit that Redis answers otherwise is a violation at once.
    AuditUnfenced,
    /// It is when any fence is back, though what Redis announces to nobody was asked before.
    AuditUnprobed,
}

/// Which faults there are.
pub trait FaultPlan: Copy {
    /// Whether this is one of them.
    fn has(self, fault: PlantedFault) -> bool;
}

/// None.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFaults;

impl FaultPlan for NoFaults {
    fn has(self, _: PlantedFault) -> bool {
        false
    }
}
