//! A key that Redis does not have, where an origin has it: the worker's part in its load, which is to ask Redis.
//!
//! Redis is asked as the user of the upstream URL, for whose keys these are the client has shown already: it was allowed to read the key,
//! and was told that there is none.
//!
//! Holds contract point 3 (own writes).

use std::rc::Rc;
use std::sync::Arc;

use super::errands::{SeekKind, SeekRequest};
use super::seek::{Question, SeekAnswer};
use super::worker::Worker;
use crate::beyond::KeptKind;
use crate::origin::{LoadOutcome, NewVersion, WantedKey};

impl Worker {
    /// What the origin with this number has for a key.
    pub(super) async fn load(&self, sought: &SeekRequest, origin: u16) -> SeekAnswer {
        let (Some(origins), Some(wanted)) = (&self.shared.origins, self.wanted(&sought.of.key, sought.db)) else {
            return SeekAnswer::Nothing;
        };
        let ask = async |command: &[u8]| self.ask_beside((&wanted.key, wanted.db), command, true).await;
        match origins.load(origin.into(), (&wanted, sought.since), ask).await {
            LoadOutcome::Loaded(value) => SeekAnswer::Value(value),
            LoadOutcome::Found(value) | LoadOutcome::Stale(value) => SeekAnswer::Found(value),
            LoadOutcome::Missing | LoadOutcome::Negative => SeekAnswer::Nothing,
            LoadOutcome::Needless => SeekAnswer::Failed("origin: its load came to nothing".to_owned()), // of those ahead alone
            LoadOutcome::Failed(why) => SeekAnswer::Failed(format!("origin: {why}")),
        }
    }

    /// Has keys loaded anew that the upstream has, in this database, where their end is near and their rule says so.
    pub(super) fn refresh(self: &Rc<Self>, question: &Question, db: u32) {
        let (Some(origins), Some(beyond)) = (&self.shared.origins, &self.shared.l1.terms.beyond) else { return };
        for sought in question.keys() {
            let Some(number) = beyond.reach(&sought.key).and_then(|reach| reach.origin) else { continue };
            let origin = usize::from(number);
            if !origins.refreshes(origin, (db, &sought.key)) {
                continue;
            }
            let Some(place) = self.seeks.place(SeekKind::Ahead(number)) else { continue };
            let Some(wanted) = self.wanted(&sought.key, db) else { continue };
            let (worker, origins, stop) = (Rc::clone(self), Arc::clone(origins), self.seeks.stop.clone());
            self.tasks.spawn_local(async move {
                let _place = place;
                let ask = async |command: &[u8]| worker.ask_beside((&wanted.key, wanted.db), command, true).await;
                let _ = stop.run_until_cancelled(origins.refresh(origin, &wanted, ask)).await; // nobody waits for it
            });
        }
    }

    fn wanted(&self, key: &[u8], db: u32) -> Option<WantedKey> {
        let beyond = self.shared.l1.terms.beyond.as_ref()?;
        let beside = |kind| beyond.beside(kind, key);
        let has_tiers = beyond.reach(key).is_some_and(|reach| !reach.tiers.is_empty());
        let version = has_tiers.then(|| NewVersion {
            key: beside(KeptKind::Version),
            value: String::new(), // each step draws its own
            life: beyond.life().to_owned(),
        });
        Some(WantedKey { db, key: key.into(), token: beside(KeptKind::Load), stale: beside(KeptKind::Stale), version })
    }
}
