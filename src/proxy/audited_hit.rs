//! A hit that is audited: what is known of its key before it is looked for, and by that what the answer is held against.
//!
//! That it is not older than it may be (points 3 and 4 of the contract) shows here at once, by the order of events in this process; then it is
//! read again on the ear, which shows whether Redis says the same (point 5). Of few hits, so nothing here need be quick.
//!
//! Holds contract points 3 (own writes) and 4 (others' writes soon), by showing where they are broken.

use super::caller::Caller;
use super::worker::Worker;
use crate::cache::{HitFault, KeyMarks, Query};
use crate::clock::Time;
use crate::invalidation::Audit;
use crate::metrics::{AuditBreach, AuditSkip};
use crate::upstream::NodeIndex;

/// See the module's head.
pub(super) struct AuditedHit<'a> {
    at: NodeIndex,
    query: &'a Query<'a>,
    /// None where its key is not followed.
    marks: Option<KeyMarks>,
    /// When it was asked for.
    now: Time,
}

impl<'a> AuditedHit<'a> {
    /// Of a key that is about to be looked up for a request that was read before `now`.
    #[cold]
    pub(super) fn expected(worker: &Worker, caller: &Caller, at: NodeIndex, query: &'a Query<'a>, now: Time) -> Self {
        let heard = caller.ear(at).heard_up_to();
        let marks = worker.shared.l1.memory.store.watermarks().of(query.slot, heard);
        Self { at, query, marks, now }
    }

    /// It has been answered out of memory, or would have been.
    #[cold]
    pub(super) fn judge(self, worker: &Worker, caller: &Caller) {
        let (l1, ear) = (&worker.shared.l1, caller.ear(self.at));
        let (store, stamps, stats, fresh) = (&l1.memory.store, &l1.memory.stamps, &l1.stats, &ear.freshness);
        let is_proved = fresh.is_proved(self.now);
        let Some(exhibit) = store.exhibit(self.query, stamps, fresh, Time::now()) else {
            return stats.audit_skipped(AuditSkip::Changed);
        };
        let order = self.marks.map_or(Ok(()), |marks| store.order(&exhibit, marks));
        let order = if is_proved { order } else { Err(HitFault::Breach(AuditBreach::Lease)) };
        match order {
            Ok(()) => stats.audit_ordered.add(u64::from(self.marks.is_some())),
            Err(HitFault::Doubt(doubt)) => stats.audit_doubted(doubt),
            Err(HitFault::Breach(breach)) => {
                stats.audit_breached(breach);
                match breach {
                    AuditBreach::Lease => fresh.end(),
                    _ => store.withdraw(&exhibit, stamps),
                }
                let user = caller.who.seat.user().name();
                return l1.audit.note(breach, &exhibit, (user, caller.who.db), ear.node());
            }
        }
        if !ear.audit(Audit::new(exhibit, caller.who.db)) {
            stats.audit_skipped(AuditSkip::Behind);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use tokio::sync::{Notify, watch};
    use tokio::task::LocalSet;

    use super::super::replies::Replies;
    use super::super::shared::tests::{node, shared_with_l1};
    use super::super::who::Who;
    use super::*;
    use crate::cache::{Slot, Watermarks};
    use crate::command;
    use crate::metrics::AuditDoubt;
    use crate::resp::{Request, encode};
    use crate::upstream::Topology;

    const VALUE: &[u8] = b"$1\r\nv\r\n";

    /// A hit is judged of what has come into memory before `plant` does what no stamp shows; whether it is in memory still, and what was found.
    async fn judged(plant: impl FnOnce(&Watermarks, Slot), proved: bool) -> (bool, Option<AuditBreach>, [u64; 3]) {
        let topologies = watch::Sender::new(Arc::new(Topology::Single(node())));
        let worker = Worker::new(shared_with_l1(topologies.subscribe()), Arc::default());
        let member = worker.shared.clients.join("peer".to_owned(), &Arc::new(Notify::new()));
        let replies = Rc::new(Replies::new(1 << 20, member, Arc::clone(&worker.stats)));
        let who = Who::new(&worker.shared, worker.front().node(), None, 0);
        let caller = Caller::new(replies, Rc::clone(&who));
        let (l1, at, now) = (&worker.shared.l1, worker.front_index(), Time::now());
        let (store, stamps, fresh) = (&l1.memory.store, &l1.memory.stamps, &caller.ear(at).freshness);
        store.watermarks().follow(true);
        if proved {
            fresh.prove(Time::NEVER);
        }
        fresh.renew(Time::NEVER);
        let slot = |key: &String| stamps.slot(stamps.hash(key.as_bytes()));
        let followed = |key: &String| store.watermarks().of(slot(key), Time::ZERO).is_some();
        let key = (0..1000).map(|n| format!("k{n}")).find(followed).expect("some are");
        let (mut raw, mut spans) = (Vec::new(), Vec::new());
        encode::command(&mut raw, &[b"GET", key.as_bytes()]);
        let request = Request::parse_canonical(&raw, &mut spans).expect("just written");
        let query = who.query(l1, command::lookup(request).expect("a row"), request);
        store.insert(&query, VALUE, None, stamps.load(query.slot), fresh.epoch(), Time::NEVER);
        plant(store.watermarks(), query.slot);
        AuditedHit::expected(&worker, &caller, at, &query, now).judge(&worker, &caller);
        let found = l1.audit.violations().first().map(|violation| violation.breach);
        let doubts = [AuditDoubt::UnderWay, AuditDoubt::Opaque].map(|doubt| l1.stats.audit_doubts(doubt));
        let kept = l1.memory.holds(&query, fresh, now);
        let counts = [l1.stats.audit_ordered.get(), doubts[0], doubts[1]];
        assert_eq!(l1.stats.audit_violations(), u64::from(found.is_some()));
        worker.close();
        worker.tasks.wait().await;
        (kept, found, counts)
    }

    #[tokio::test]
    async fn what_is_older_than_this_process_knows_is_told_and_forgotten() {
        let in_a_worker = async {
            let nothing = |_: &Watermarks, _| {};
            let moment = |marks: &Watermarks| marks.moment().expect("it follows");
            let write = |marks: &Watermarks, slot| marks.acknowledged(slot, moment(marks), marks.moment());
            let change = |marks: &Watermarks, slot| marks.changed(slot, moment(marks), true);
            let perhaps = |marks: &Watermarks, slot| marks.changed(slot, moment(marks), false);
            let script = |marks: &Watermarks, _| marks.all_may_have_changed(Some(Time::now()));
            let swap = |marks: &Watermarks, _| marks.all_may_have_changed(None);
            assert_eq!(judged(nothing, true).await, (true, None, [1, 0, 0]));
            assert_eq!(judged(write, true).await, (false, Some(AuditBreach::OwnWrite), [0, 0, 0]));
            assert_eq!(judged(change, true).await, (false, Some(AuditBreach::Change), [0, 0, 0]));
            assert_eq!(judged(nothing, false).await, (false, Some(AuditBreach::Lease), [0, 0, 0]));
            assert_eq!(judged(perhaps, true).await, (true, None, [0, 1, 0]));
            assert_eq!(judged(script, true).await, (true, None, [1, 0, 0]), "an ear that filled nothing has heard all");
            assert_eq!(judged(swap, true).await, (true, None, [0, 0, 1]));
        };
        LocalSet::new().run_until(in_a_worker).await;
    }
}
