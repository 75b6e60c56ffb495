//! What the ear has found out about keys of the sample, on its way to whoever asked.

use std::sync::{Arc, Mutex, PoisonError};

use crate::cache::{Measure, Warrant};

/// No more wait to be taken; what comes later is lost, and asked for again.
const WAITING: usize = 4096;

/// A key of the sample was read on the ear.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LandedSample {
    /// Which.
    pub id: u64,
    /// What the answer stands by.
    pub warrant: Warrant,
    /// What it takes.
    pub measure: Measure,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct SampleLandings(Mutex<Vec<LandedSample>>);

impl SampleLandings {
    /// All that have come since somebody last asked.
    pub(crate) fn take(&self) -> Vec<LandedSample> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, landed: LandedSample) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < WAITING {
            all.push(landed);
        }
    }
}

/// What is read for the sample alone, and enters no memory: who is told what it takes.
#[derive(Clone, Debug)]
pub(crate) struct SampleTicket {
    id: u64,
    landings: Arc<SampleLandings>,
}

impl SampleTicket {
    /// Of the key with this number.
    pub(crate) fn new(id: u64, landings: &Arc<SampleLandings>) -> Self {
        Self { id, landings: Arc::clone(landings) }
    }

    /// It was read under this warrant.
    pub(crate) fn tell(&self, warrant: Warrant, measure: Measure) {
        self.landings.put(LandedSample { id: self.id, warrant, measure });
    }
}
