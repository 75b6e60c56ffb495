//! What the ear has found out about keys of the sample, on its way to whoever asked.

use std::sync::atomic::{AtomicU64, Ordering};
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
pub(crate) struct SampleLandings {
    waiting: Mutex<Vec<LandedSample>>,
    /// Questions that are not answered, and will perhaps never be; answers so far and their bytes.
    open: AtomicU64,
    answers: AtomicU64,
    bytes: AtomicU64,
}

impl SampleLandings {
    /// All that have come since somebody last asked.
    pub(crate) fn take(&self) -> Vec<LandedSample> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Questions that wait for their answers.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Answers so far, and their bytes.
    pub(crate) fn answers(&self) -> (u64, u64) {
        (self.answers.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    fn put(&self, landed: LandedSample) {
        let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < WAITING {
            all.push(landed);
        }
    }
}

/// What is read for the sample alone, and enters no memory: who is told what it takes.
#[derive(Debug)]
pub(crate) struct SampleTicket {
    id: u64,
    landings: Arc<SampleLandings>,
}

impl SampleTicket {
    /// Of the key with this number.
    pub(crate) fn new(id: u64, landings: &Arc<SampleLandings>) -> Self {
        landings.open.fetch_add(1, Ordering::Relaxed);
        Self { id, landings: Arc::clone(landings) }
    }

    /// So many bytes were read for it.
    pub(crate) fn read(&self, bytes: usize) {
        self.landings.answers.fetch_add(1, Ordering::Relaxed);
        self.landings.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What was read under this warrant takes so much.
    pub(crate) fn tell(&self, warrant: Warrant, measure: Measure) {
        self.landings.put(LandedSample { id: self.id, warrant, measure });
    }
}

impl Drop for SampleTicket {
    fn drop(&mut self) {
        self.landings.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_open_until_it_is_answered_or_nobody_can_answer_it_any_more() {
        let landings = Arc::default();
        let (one, other) = (SampleTicket::new(1, &landings), SampleTicket::new(2, &landings));
        assert_eq!((landings.open(), landings.answers()), (2, (0, 0)));
        one.read(700);
        one.tell(Warrant::default(), Measure::UNFIT);
        drop((one, other));
        assert_eq!((landings.open(), landings.answers()), (0, (1, 700)));
        assert_eq!(landings.take().iter().map(|landed| landed.id).collect::<Vec<_>>(), [1]);
    }
}
