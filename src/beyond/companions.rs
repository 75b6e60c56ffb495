//! The commands that go with a write, in one transaction with it.

use smallvec::SmallVec;

use crate::resp::encode;

/// The version of a key of which a write is under way: no copy has it.
pub(super) const UNDER_WAY: &[u8] = b"!";

/// See the module's head. All of one write, or of one transaction, set the same number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Companions {
    bytes: Vec<u8>,
    /// As many, which go before a write that does not go in one step with the others.
    marks: Vec<u8>,
    count: usize,
    version: Option<String>,
    sequel: WriteSequel,
}

/// What follows once the write is done.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteSequel {
    /// Keys with tiers that may have new values.
    pub copies: SmallVec<[Box<[u8]>; 1]>,
    /// The epoch of keys with tiers.
    pub epoch: Option<Vec<u8>>,
    /// All is emptied.
    pub flushes: bool,
}

impl Companions {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0 && !self.sequel.flushes
    }

    /// What follows once the write is done.
    pub(crate) fn take_sequel(&mut self) -> WriteSequel {
        std::mem::take(&mut self.sequel)
    }

    pub(super) fn sequel(&mut self) -> &mut WriteSequel {
        &mut self.sequel
    }

    /// The commands, one behind the other.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Those that go before a write with which the others do not go in one step: until these have come, no copy counts.
    pub(crate) fn marks(&self) -> &[u8] {
        &self.marks
    }

    /// Those of two writes that one step does.
    pub(crate) fn join(&mut self, other: Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.marks.extend_from_slice(&other.marks);
        self.count += other.count;
        self.sequel.copies.extend(other.sequel.copies);
        self.sequel.epoch = self.sequel.epoch.take().or(other.sequel.epoch);
        self.sequel.flushes |= other.sequel.flushes;
    }

    /// The number that they set, of which `draw` makes the first.
    pub(super) fn version(&mut self, draw: impl FnOnce() -> u64) -> String {
        self.version.get_or_insert_with(|| format!("{:016x}", draw())).clone()
    }

    /// Sets a key for so many milliseconds.
    pub(super) fn set(&mut self, key: &[u8], value: &[u8], life: &[u8]) {
        self.add(&[b"SET", key, value, b"PX", life]);
        encode::own_command(&mut self.marks, &[b"SET", key, UNDER_WAY, b"PX", life]);
    }

    /// Removes a key.
    pub(super) fn unlink(&mut self, key: &[u8]) {
        self.add(&[b"UNLINK", key]);
        encode::own_command(&mut self.marks, &[b"UNLINK", key]);
    }

    fn add(&mut self, words: &[&[u8]]) {
        encode::own_command(&mut self.bytes, words);
        self.count += 1;
    }
}
