//! Who vouches that a node is still the owner of its keys: nobody need, where it is the only server; else a **census**, a round of
//! questions to those who elect masters (`cluster`, `sentinel`).
//!
//! A node's own word is not enough where it can be replaced: one that is cut off takes itself for the master. Whoever keeps the
//! census says here, for each node, when the round began that was passed last ([`pass`](Vouched::pass)), or that there is reason to
//! believe otherwise ([`revoke`](Vouched::revoke)). An ear's lease lasts from the earlier of its own fence and of that round
//! ([`bound`](Vouched::bound)), and a revocation ends it at once.
//!
//! How it is used. A node is made with [`Vouched::by_census`] where there is a census, and who makes it gives what is to be done at
//! a revocation ([`on_revocation`](Vouched::on_revocation)): to end the leases there. The keeper of the census calls `pass` with the
//! moment at which the round *began*, before its first question was sent. Whoever revokes changes the number first and has leases
//! ended second; an ear renews first and asks once more after, so no order of the two leaves a lease behind.
//!
//! Holds contract point 4 (others' writes soon).

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::clock::Time;
use crate::metrics::CensusFinding;

/// See the module's head. One for each node.
pub struct Vouched {
    /// When the round began that was passed last; [`Time::ZERO`]: none was since the last revocation; [`Time::NEVER`]: none is needed.
    since: AtomicU64,
    /// A round that began no later counts no more.
    revoked: AtomicU64,
    on_revocation: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// What the last round showed, for people: one more than the number of a [`CensusFinding`]; 0: none was held yet.
    finding: AtomicU8,
}

impl Vouched {
    /// Nobody is asked: there is one server.
    pub fn always() -> Self {
        Self::since(Time::NEVER)
    }

    /// No lease before a census was passed.
    pub fn by_census() -> Self {
        Self::since(Time::ZERO)
    }

    fn since(since: Time) -> Self {
        let (since, revoked) = (AtomicU64::new(since.as_nanos()), AtomicU64::new(0));
        Self { since, revoked, on_revocation: OnceLock::new(), finding: AtomicU8::new(0) }
    }

    /// `told` is called at each revocation: it is to end the leases at the node. To be given once, at start.
    pub fn on_revocation(&self, told: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_revocation.set(Box::new(told));
    }

    /// The last round showed this, which people may look up.
    pub(crate) fn note(&self, finding: CensusFinding) {
        self.finding.store(finding as u8 + 1, Ordering::Relaxed);
    }

    /// What the last round showed.
    pub(crate) fn finding(&self) -> Option<CensusFinding> {
        CensusFinding::ALL.get(usize::from(self.finding.load(Ordering::Relaxed)).checked_sub(1)?).copied()
    }

    /// A round was passed whose first question was sent at `begun` or later. One that began before the last revocation is void.
    pub fn pass(&self, begun: Time) {
        if begun.as_nanos() > self.revoked.load(Ordering::Acquire) {
            self.since.fetch_max(begun.as_nanos(), Ordering::AcqRel);
        }
    }

    /// Something says at `now` that another may own the node's keys: what was passed so far counts no more, and leases end.
    pub fn revoke(&self, now: Time) {
        self.revoked.fetch_max(now.as_nanos(), Ordering::AcqRel);
        let was = self.since.swap(Time::ZERO.as_nanos(), Ordering::AcqRel);
        if let (true, Some(told)) = (was != Time::ZERO.as_nanos(), self.on_revocation.get()) {
            told();
        }
    }

    /// Up to when it is certain that L1 is right, where a fence shows that it was at `fence`; none where nobody vouches. To be asked
    /// again after a lease was renewed, which is to be ended where nobody does any more.
    pub fn bound(&self, fence: Time) -> Option<Time> {
        let since = Time::from_nanos(self.since.load(Ordering::Acquire));
        (since > Time::ZERO).then(|| since.min(fence))
    }

    /// When the round began that was passed last; none where nobody vouches. [`Time::NEVER`]: no census is needed.
    pub fn passed(&self) -> Option<Time> {
        self.bound(Time::NEVER)
    }
}

impl fmt::Debug for Vouched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vouched({:?})", self.passed())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use super::*;

    const AT: fn(u64) -> Time = Time::from_nanos;

    #[test]
    fn what_the_last_round_showed_can_be_looked_up() {
        let vouched = Vouched::by_census();
        assert_eq!(vouched.finding(), None);
        for finding in CensusFinding::ALL {
            vouched.note(finding);
            assert_eq!(vouched.finding(), Some(finding));
        }
    }

    #[test]
    fn of_a_single_server_the_fence_alone_decides() {
        assert_eq!(Vouched::always().bound(AT(7)), Some(AT(7)));
    }

    #[test]
    fn a_lease_begins_no_later_than_the_census_that_was_passed() {
        let vouched = Vouched::by_census();
        assert_eq!(vouched.bound(AT(7)), None);
        vouched.pass(AT(5));
        assert_eq!((vouched.bound(AT(7)), vouched.bound(AT(3))), (Some(AT(5)), Some(AT(3))));
        vouched.pass(AT(4));
        assert_eq!(vouched.passed(), Some(AT(5)), "an earlier one takes nothing back");
    }

    #[test]
    fn a_revocation_is_told_once_and_only_a_later_census_counts() {
        let (vouched, told) = (Vouched::by_census(), Arc::new(AtomicU32::new(0)));
        let count = Arc::clone(&told);
        vouched.on_revocation(move || _ = count.fetch_add(1, Ordering::Relaxed));
        vouched.revoke(AT(1));
        assert_eq!(told.load(Ordering::Relaxed), 0, "there was nothing to end");
        vouched.pass(AT(5));
        vouched.revoke(AT(9));
        vouched.revoke(AT(10));
        assert_eq!((vouched.bound(AT(20)), told.load(Ordering::Relaxed)), (None, 1));
        vouched.pass(AT(8));
        assert_eq!(vouched.passed(), None, "it began before");
        vouched.pass(AT(11));
        assert_eq!(vouched.passed(), Some(AT(11)));
    }
}
