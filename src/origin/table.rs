//! Which loads this process has under way, and who waits for each.
//!
//! Whoever wants a key that is being loaded joins, and has part in what comes of the next step that is *sent* after that: a step's
//! answer is as old as the step, and may be older than what the one who joined has seen or written. So before each step that
//! asks Redis, the loader takes in all who joined; who joins later waits for a later step, or is sent on to load anew.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::load::LoadOutcome;

/// A key in a database.
type LoadKey = (u32, Box<[u8]>);

/// Someone who waits for a load. Dropped, it is sent on.
pub(super) type Joiner = oneshot::Sender<LoadOutcome>;

/// See the module's head.
#[derive(Default)]
pub(super) struct LoadTable {
    loads: Mutex<HashMap<LoadKey, Vec<Joiner>>>,
}

/// What to do about a key.
pub(super) enum Turn<'a> {
    /// Load it. Dropped, the load is over, and who has joined and was not taken in is sent on.
    Lead(LeadingLoad<'a>),
    /// Wait; where nothing comes, ask again.
    Join(oneshot::Receiver<LoadOutcome>),
}

/// A load under way.
pub(super) struct LeadingLoad<'a> {
    table: &'a LoadTable,
    key: Option<LoadKey>,
}

impl LoadTable {
    /// Joins the load of a key, or begins it.
    pub(super) fn turn(&self, db: u32, key: &[u8]) -> Turn<'_> {
        let key = (db, key.into());
        match self.lock().entry(key) {
            Entry::Occupied(mut load) => {
                let (joiner, outcome) = oneshot::channel();
                load.get_mut().push(joiner);
                Turn::Join(outcome)
            }
            Entry::Vacant(place) => {
                let key = place.key().clone();
                place.insert(Vec::new());
                Turn::Lead(LeadingLoad { table: self, key: Some(key) })
            }
        }
    }

    /// Begins the load of a key, if nobody has.
    pub(super) fn lead(&self, db: u32, key: &[u8]) -> Option<LeadingLoad<'_>> {
        match self.lock().entry((db, key.into())) {
            Entry::Occupied(_) => None,
            Entry::Vacant(place) => {
                let key = place.key().clone();
                place.insert(Vec::new());
                Some(LeadingLoad { table: self, key: Some(key) })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LoadKey, Vec<Joiner>>> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LeadingLoad<'_> {
    /// Who has joined since this was last asked: a step is about to be sent whose answer is good for them.
    pub(super) fn take_in(&self) -> Vec<Joiner> {
        let mut loads = self.table.lock();
        self.key.as_ref().and_then(|key| loads.get_mut(key)).map(std::mem::take).unwrap_or_default()
    }
}

impl Drop for LeadingLoad<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let left = self.table.lock().remove(&key);
            drop(left); // outside of the lock: each is woken
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead<'a>(table: &'a LoadTable, key: &[u8]) -> LeadingLoad<'a> {
        match table.turn(0, key) {
            Turn::Lead(load) => load,
            Turn::Join(_) => panic!("nobody loads it"),
        }
    }

    fn join(table: &LoadTable, key: &[u8]) -> oneshot::Receiver<LoadOutcome> {
        match table.turn(0, key) {
            Turn::Join(outcome) => outcome,
            Turn::Lead(_) => panic!("somebody loads it"),
        }
    }

    #[test]
    fn who_joins_is_answered_by_what_is_sent_later_alone() {
        let table = LoadTable::default();
        let load = lead(&table, b"k");
        assert!(matches!(table.turn(1, b"k"), Turn::Lead(_)), "another database has another key");
        let mut early = join(&table, b"k");
        let taken_in = load.take_in();
        let mut late = join(&table, b"k");
        for joiner in taken_in {
            assert!(joiner.send(LoadOutcome::Missing).is_ok());
        }
        assert_eq!(early.try_recv(), Ok(LoadOutcome::Missing));
        assert_eq!(late.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        drop(load);
        assert_eq!(late.try_recv(), Err(oneshot::error::TryRecvError::Closed), "it asks again");
        assert!(table.lock().is_empty());
        drop(lead(&table, b"k"));
    }
}
