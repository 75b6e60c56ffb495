//! Makes good what had to go with a write and may not have: a user without the right to it, a connection lost between the two.
//!
//! What crema keeps beside the write's keys, and the write was to change, is removed as the user of the upstream URL: an absent
//! version equals nothing, an absent token loads nothing. One task of the worker does so, and gives no name up before the process
//! ends, which waits for it a moment. So that there is a bound to it, versions beyond that are left to the epoch of their database,
//! whose end ends all of its copies; of an origin's names there are three for each write under way at the most, and those whose
//! writes were answered.

use std::rc::Rc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::worker::Worker;
use crate::resp::{encode, integer_of};

/// So many names stand for themselves.
const MOST: usize = 4096;
/// So many are removed at once.
const AT_ONCE: usize = 64;
/// Between tries.
const PAUSE: Duration = Duration::from_millis(100);

impl Worker {
    /// Has these names removed, in this database where they name none. The receiver is told once all are, and dropped where the process
    /// ends before.
    pub(super) fn remove_kept(
        self: &Rc<Self>,
        kept: SmallVec<[(Option<u32>, Vec<u8>); 1]>,
        db: u32,
    ) -> oneshot::Receiver<()> {
        let (told, removed) = oneshot::channel();
        let told = Rc::new(told); // the last of them tells
        let mut due = self.amends.due.borrow_mut();
        for (other, name) in kept {
            let name = (other.unwrap_or(db), if due.len() < MOST { name } else { self.ends_with(name) });
            if !due.contains_key(&name) {
                self.amends.fresh.borrow_mut().push(name.clone());
            }
            due.entry(name).or_default().push(Rc::clone(&told));
        }
        drop(due);
        if let Some(told) = Rc::into_inner(told) {
            let _ = told.send(()); // there was nothing to remove
        }
        if !self.amends.is_served.replace(true) {
            let worker = Rc::clone(self);
            self.tasks.spawn_local(async move {
                let _ = worker.amends.stop.run_until_cancelled(worker.make_amends()).await; // the process ends
                worker.amends.is_served.set(false);
                worker.amends.over.notify_waiters();
            });
        }
        removed
    }

    /// Waits for so long, as the process ends, until nothing is due any more.
    pub(crate) async fn end_amends(&self, patience: Duration) {
        let over = self.amends.over.notified();
        if self.amends.any() && timeout(patience, over).await.is_err() {
            let left = self.amends.due.borrow().len();
            warn!(
                names = left,
                "crema ends, and could not remove what writes were to change beside their keys: copies in tiers may count until they end"
            );
        }
    }

    async fn make_amends(self: &Rc<Self>) {
        while self.amends.any() {
            // All in turn, and what comes meanwhile first: those at a node that is away hold up no others.
            let mut due: Vec<_> = self.amends.due.borrow().keys().cloned().collect();
            self.amends.fresh.take();
            let (mut tasks, mut all) = (JoinSet::new(), true);
            loop {
                while tasks.len() < AT_ONCE {
                    let fresh = self.amends.fresh.borrow_mut().pop();
                    let Some((db, name)) = fresh.or_else(|| due.pop()) else { break };
                    tasks.spawn_local(Rc::clone(self).remove(db, name));
                }
                let Some(removed) = tasks.join_next().await else { break };
                all &= removed.unwrap_or(false);
            }
            if !all {
                sleep(PAUSE).await;
            }
        }
    }

    /// Removes one name, and says whether it is gone.
    async fn remove(self: Rc<Self>, db: u32, name: Vec<u8>) -> bool {
        // Who comes for it from here on waits for the next removal.
        let told = self.amends.due.borrow_mut().insert((db, name.clone()), Vec::new()).unwrap_or_default();
        let mut command = Vec::new();
        encode::own_command(&mut command, &[b"UNLINK", &name]);
        let reply = self.ask_beside((&name, db), &command, false).await;
        let is_removed = reply.is_some_and(|reply| integer_of(&reply).is_some());
        let mut due = self.amends.due.borrow_mut();
        if is_removed {
            if due.get(&(db, name.clone())).is_some_and(Vec::is_empty) {
                due.remove(&(db, name));
            }
            for told in told.into_iter().filter_map(Rc::into_inner) {
                let _ = told.send(()); // who waits may have waited for long enough
            }
        } else {
            // Who has is not kept.
            due.entry((db, name)).or_default().extend(told.into_iter().filter(|told| !told.is_closed()));
        }
        is_removed
    }

    /// What ends with this name too, where that is a version: the epoch that lies in its slot. Else the name.
    fn ends_with(&self, name: Vec<u8>) -> Vec<u8> {
        let beyond = self.shared.l1.terms.beyond.as_ref().filter(|beyond| beyond.is_version(&name));
        beyond.map(|beyond| beyond.epoch(&name)).unwrap_or(name)
    }
}
