//! A change under way of which Redis tells no tracked connection: of keys (`SWAPDB` and its like), of rights, of the server's role,
//! of whether it holds clients back (`CLIENT PAUSE`).
//!
//! While keys change nobody knows which are whose, so L1 answers nothing; and when a change of any kind is answered, nothing
//! counts that was filled before. Not where Redis refused it: else whoever may do nothing could empty L1 for
//! all. The fleet hears of a change of keys from this process: it is owed that until it is told. Made by `proxy` and `session`
//! before they send such a command, on any thread.
//!
//! Holds contract points 3 (own writes) and 5 (nothing old stays).

use std::sync::Arc;

use tokio::time::sleep;

use super::l1::L1;
use super::publish::{Debt, Publisher};
use super::silence::Pause;
use crate::clock::Time;
use crate::command::Alters;
use crate::metrics::EpochReason;

/// Held from before such commands are sent until they are answered. Dropped without [`Change::answered`], nobody knows whether
/// and when Redis runs them: everything is forgotten now and once more after `max_staleness`, by the fleet as well, and behind a
/// change of keys L1 is silent between.
#[must_use]
pub(crate) struct Change {
    l1: Option<Arc<L1>>,
    alters: Alters,
    pause: Option<Pause>,
}

impl Change {
    /// What may change this is about to be sent.
    pub(crate) fn begin(l1: &Arc<L1>, alters: Alters) -> Self {
        if alters.keys {
            l1.silence.begin_swap();
            l1.end_leases();
        }
        let pause = alters.pause.map(|span| l1.pause(Time::now().plus(span)));
        Self { l1: Some(Arc::clone(l1)), alters, pause }
    }

    /// Redis has answered. `refused`: it has done nothing. What the fleet is owed comes back: the client should not know before it
    /// is told, where that can be.
    #[must_use = "the fleet should be told first"]
    pub(crate) fn answered(mut self, refused: bool) -> Option<Debt> {
        let l1 = self.l1.take()?;
        if refused {
            self.pause.take().into_iter().for_each(|pause| l1.silence.call_off(pause));
        } else {
            self.forget(&l1);
            if self.alters.unpause {
                l1.silence.unpause();
            }
            // It began no later than now.
            self.pause = self.alters.pause.map(|span| l1.pause(Time::now().plus(span)));
        }
        // Where writes are told in one step with themselves, so was this; or its write knows better (`WriteGuard::owed`).
        let owed = !refused && self.alters.keys && !l1.mode().writes_tell();
        let debt = owed.then(|| l1.fleet.as_ref().map(Publisher::owe)).flatten();
        self.end(&l1);
        debt
    }

    fn forget(&self, l1: &L1) {
        if self.alters.rights {
            l1.forget_all(EpochReason::Rights);
        }
        if self.alters.keys {
            l1.forget_all(EpochReason::SwapDb);
        }
        if self.alters.role {
            l1.end_leases();
            l1.forget_all(EpochReason::Role);
            l1.nudge();
        }
    }

    /// It may have been done: the same for the fleet.
    fn lose(&self, l1: &L1) {
        self.forget(l1);
        if let (true, Some(fleet)) = (self.alters.keys, &l1.fleet) {
            drop(fleet.owe());
        }
    }

    /// Leases begin again with the next fence, which is asked for at once.
    fn end(&self, l1: &L1) {
        if self.alters.keys && l1.silence.end_swap() {
            l1.nudge();
        }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let Some(l1) = self.l1.take() else { return };
        self.lose(&l1);
        let later = Self { l1: None, alters: self.alters, pause: None };
        let control = l1.control.clone();
        control.spawn(async move {
            sleep(l1.terms.max_staleness.get()).await;
            later.lose(&l1);
            later.end(&l1);
        });
    }
}
