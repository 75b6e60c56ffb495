//! Makes good what had to go with a write and may not have: a user without the right to it, a connection lost between the two.
//!
//! What crema keeps beside the write's keys, and the write was to change, is removed as the user of the upstream URL: an absent version
//! equals nothing, an absent token loads nothing. One task of the worker does so, and never gives a name up. So that there is a bound to
//! it, names beyond that are left to the epoch of their database, whose end ends all of its copies.

use std::rc::Rc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::worker::Worker;
use crate::resp::{encode, integer_of};

/// So many names stand for themselves.
const MOST: usize = 4096;
/// So many are removed at once.
const AT_ONCE: usize = 64;
/// Between tries.
const PAUSE: Duration = Duration::from_millis(100);

impl Worker {
    /// Has these names removed, in this database where they name none. The receiver ends once all are.
    pub(super) fn remove_kept(
        self: &Rc<Self>,
        kept: SmallVec<[(Option<u32>, Vec<u8>); 1]>,
        db: u32,
    ) -> oneshot::Receiver<()> {
        let (told, removed) = oneshot::channel();
        let told = Rc::new(told); // dropped with the last of them
        let mut due = self.amends.due.borrow_mut();
        for (other, name) in kept {
            let name = if due.len() < MOST { name } else { self.epoch_of(&name) };
            due.entry((other.unwrap_or(db), name)).or_default().push(Rc::clone(&told));
        }
        drop(due);
        if !self.amends.is_served.replace(true) {
            let (worker, stop) = (Rc::clone(self), self.seeks.stop.clone());
            self.tasks.spawn_local(async move {
                let _ = stop.run_until_cancelled(worker.make_amends()).await; // the process ends
                worker.amends.is_served.set(false);
            });
        }
        removed
    }

    async fn make_amends(self: &Rc<Self>) {
        while self.amends.any() {
            let mut tasks = JoinSet::new();
            let some: Vec<_> = self.amends.due.borrow().keys().take(AT_ONCE).cloned().collect();
            for (db, name) in some {
                let worker = Rc::clone(self);
                // Who comes for it from here on waits for the next removal.
                let told = self.amends.due.borrow_mut().insert((db, name.clone()), Vec::new()).unwrap_or_default();
                tasks.spawn_local(async move {
                    let mut command = Vec::new();
                    encode::own_command(&mut command, &[b"UNLINK", &name]);
                    let reply = worker.ask_beside((&name, db), &command, false).await;
                    let is_removed = reply.is_some_and(|reply| integer_of(&reply).is_some());
                    let mut due = worker.amends.due.borrow_mut();
                    if !is_removed {
                        due.entry((db, name)).or_default().extend(told);
                    } else if due.get(&(db, name.clone())).is_some_and(Vec::is_empty) {
                        due.remove(&(db, name));
                    }
                    is_removed
                });
            }
            let mut all = true;
            while let Some(removed) = tasks.join_next().await {
                all &= removed.unwrap_or(false);
            }
            if !all {
                sleep(PAUSE).await;
            }
        }
    }

    /// The epoch that lies in the slot of a name.
    fn epoch_of(&self, name: &[u8]) -> Vec<u8> {
        self.shared.l1.terms.beyond.as_ref().map_or_else(|| name.to_vec(), |beyond| beyond.epoch(name))
    }
}
