//! What may be planted: faults of the ear's protocol, and of what workers do with what it says.

use crema::invalidation::ear::{FaultPlan, PlantedFault};
use crema::metrics::AuditBreach;

/// A fault of the workers of this simulation, which otherwise decide as `proxy` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkerFault {
    /// A write changes the stamps of its keys when it is sent, and not again when it is answered.
    NoMarkAtAnswer,
    /// A write changes the stamps of its keys when it is answered, and not before.
    NoMarkAtSend,
    /// A write changes no stamps.
    NoMark,
    /// A read is answered from memory while an earlier write of its session is unanswered.
    HitBehindOwnWrite,
    /// A read is answered from memory though the ear may be behind what its session has seen.
    HitUnheard,
    /// A session joins a read that left before what it has seen.
    JoinOlder,
    /// That an opaque write was answered is not counted.
    OpaqueUncounted,
    /// Memory does not wait for the ear to hear of an opaque write.
    OpaqueUnfenced,
    /// A read under way is noted under the stamp that its key has when others come to join.
    StampAtJoin,
    /// What one user has in memory answers another.
    OneIdentity,
}

/// One of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Ear(PlantedFault),
    Worker(WorkerFault),
}

impl Fault {
    pub(crate) const ALL: [Self; 26] = [
        Self::Ear(PlantedFault::EpochOutlivesConnection),
        Self::Ear(PlantedFault::LeaseFromAnswer),
        Self::Ear(PlantedFault::LeaseUnending),
        Self::Ear(PlantedFault::LeaseBeyondProbe),
        Self::Ear(PlantedFault::StampAtAnswer),
        Self::Ear(PlantedFault::EpochAtAnswer),
        Self::Ear(PlantedFault::PushIgnored),
        Self::Ear(PlantedFault::FlushIgnored),
        Self::Ear(PlantedFault::RoleIgnored),
        Self::Ear(PlantedFault::SwapIgnored),
        Self::Ear(PlantedFault::ProbeIgnored),
        Self::Ear(PlantedFault::ChannelUnproved),
        Self::Ear(PlantedFault::ExpiryFromAnswer),
        Self::Ear(PlantedFault::AstrayIgnored),
        Self::Ear(PlantedFault::HeardAtAnswer),
        Self::Ear(PlantedFault::ArrivalsUnnoted),
        Self::Worker(WorkerFault::NoMark),
        Self::Worker(WorkerFault::NoMarkAtAnswer),
        Self::Worker(WorkerFault::HitBehindOwnWrite),
        Self::Worker(WorkerFault::HitUnheard),
        Self::Worker(WorkerFault::JoinOlder),
        Self::Worker(WorkerFault::OpaqueUncounted),
        Self::Worker(WorkerFault::OpaqueUnfenced),
        Self::Worker(WorkerFault::StampAtJoin),
        Self::Worker(WorkerFault::OneIdentity),
        Self::Ear(PlantedFault::RightsIgnored),
    ];

    /// What leaves something old in memory until somebody finds it, which the audit of hits does. Other faults show too early, or too
    /// late, what the ear hears in the end.
    pub(crate) const AUDITED: [Self; 5] = [
        Self::Ear(PlantedFault::EpochOutlivesConnection),
        Self::Ear(PlantedFault::PushIgnored),
        Self::Ear(PlantedFault::FlushIgnored),
        Self::Ear(PlantedFault::ProbeIgnored),
        Self::Ear(PlantedFault::AstrayIgnored),
    ];

    /// What has memory answer what is older than this process knows, by what the audit is to say of it: nobody need read anything again.
    pub(crate) const ORDERED: [(Self, AuditBreach); 5] = [
        (Self::Worker(WorkerFault::NoMark), AuditBreach::OwnWrite),
        (Self::Ear(PlantedFault::PushIgnored), AuditBreach::Change),
        (Self::Ear(PlantedFault::LeaseUnending), AuditBreach::Lease),
        (Self::Ear(PlantedFault::LeaseFromAnswer), AuditBreach::Lease),
        (Self::Ear(PlantedFault::RoleIgnored), AuditBreach::Lease),
    ];

    /// Faults of the audit itself, by which it calls wrong what is right.
    pub(crate) const OF_AUDIT: [Self; 2] =
        [Self::Ear(PlantedFault::AuditUnfenced), Self::Ear(PlantedFault::AuditUnprobed)];

    /// What breaks nothing. Whatever was asked for before the answer to a write is void at that, marked or not; so the mark at sending
    /// saves fills that would be in vain, and no more.
    pub(crate) const HARMLESS: [Self; 1] = [Self::Worker(WorkerFault::NoMarkAtSend)];
}

/// At most one fault a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) fault: Option<Fault>,
    /// Hits are audited; what is found so is all that counts where there is a fault.
    pub(crate) audits: bool,
    /// And of that this alone.
    pub(crate) wanted: Option<AuditBreach>,
}

impl Plan {
    pub(crate) fn of(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }

    /// Hits are audited, and the fault is to be found by that, which says this of it.
    pub(crate) fn audited(fault: Option<Fault>, wanted: Option<AuditBreach>) -> Self {
        Self { fault, audits: true, wanted }
    }

    pub(crate) fn worker(self, fault: WorkerFault) -> bool {
        self.fault == Some(Fault::Worker(fault))
    }
}

impl FaultPlan for Plan {
    fn has(self, fault: PlantedFault) -> bool {
        self.fault == Some(Fault::Ear(fault))
    }
}
