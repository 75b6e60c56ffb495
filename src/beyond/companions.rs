//! The commands that go with a write: in one transaction with it, or else before it and behind it.
//!
//! In one transaction a version gets its new number. Else it is removed before the write, and a mark is set in its place that no copy has;
//! behind the write both are removed: to remove is what a server takes that is full, and an absent version equals nothing.

use std::collections::HashSet;

use smallvec::SmallVec;

use crate::resp::encode;

/// The version of a key of which a write is under way: no copy has it.
pub(super) const UNDER_WAY: &[u8] = b"!";

/// See the module's head. All of one write, or of one transaction, set the same number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Companions {
    /// Those of one transaction with the write.
    whole: CommandList,
    /// Those before a write with which they do not go in one step.
    marks: CommandList,
    /// Those behind it.
    behind: CommandList,
    /// How many there are, however they go.
    count: usize,
    /// What the transaction of which they are has selected, if it has: they do the same, from its first database on.
    selected: CommandList,
    version: Option<String>,
    /// Names that have theirs in the database that is selected: they set the same number, so one of each is enough.
    named: HashSet<Vec<u8>>,
    sequel: WriteSequel,
}

/// What follows once the write is done.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteSequel {
    /// Keys with tiers that may have new values.
    pub copies: SmallVec<[Box<[u8]>; 1]>,
    /// What crema removes itself where the write may have been done without its companions, and where that is not the database of
    /// the write, that.
    pub kept: SmallVec<[(Option<u32>, Vec<u8>); 1]>,
    /// All is emptied.
    pub flushes: bool,
}

/// Commands of crema's own, one behind the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct CommandList {
    pub bytes: Vec<u8>,
    pub count: usize,
}

impl CommandList {
    fn add(&mut self, words: &[&[u8]]) {
        encode::own_command(&mut self.bytes, words);
        self.count += 1;
    }

    fn join(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.count += other.count;
    }
}

impl Companions {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0 && !self.sequel.flushes
    }

    /// Whether nothing goes with the write, though something may follow it.
    pub(crate) fn goes_alone(&self) -> bool {
        self.count == 0
    }

    /// What follows once the write is done.
    pub(crate) fn take_sequel(&mut self) -> WriteSequel {
        std::mem::take(&mut self.sequel)
    }

    pub(super) fn sequel(&mut self) -> &mut WriteSequel {
        &mut self.sequel
    }

    /// Those of one transaction with the write.
    pub(crate) fn whole(&self) -> CommandList {
        if self.count == 0 { CommandList::default() } else { self.whole.clone() }
    }

    /// Those that go before a write with which the others do not go in one step: until those have come, no copy counts.
    pub(crate) fn marks(&self) -> &CommandList {
        &self.marks
    }

    /// Those others.
    pub(crate) fn behind(&self) -> &CommandList {
        &self.behind
    }

    /// Those of two writes that one step does.
    pub(crate) fn join(&mut self, other: Self) {
        self.whole.join(&other.whole);
        self.marks.join(&other.marks);
        self.behind.join(&other.behind);
        self.count += other.count;
        self.sequel.copies.extend(other.sequel.copies);
        self.sequel.kept.extend(other.sequel.kept);
        self.sequel.flushes |= other.sequel.flushes;
    }

    /// The transaction that has begun in the database `first` selects another: what is written from here on is written there, if there is
    /// one of that name. What goes with it does just the same, from the first database on.
    pub(crate) fn select(&mut self, first: u32, name: &[u8]) {
        self.named.clear();
        if self.selected.count == 0 {
            self.selected.add(&[b"SELECT", first.to_string().as_bytes()]);
            let before = std::mem::take(&mut self.whole);
            self.whole.join(&self.selected);
            self.whole.join(&before);
        }
        self.selected.add(&[b"SELECT", name]);
        self.whole.add(&[b"SELECT", name]);
    }

    /// Adds what `add` adds in another database than the one that is selected, of which the first was `first`.
    pub(super) fn elsewhere(&mut self, first: u32, name: &[u8], add: impl FnOnce(&mut Self)) {
        for way in self.ways() {
            way.add(&[b"SELECT", name]);
        }
        let (known, here) = (self.sequel.kept.len(), std::mem::take(&mut self.named));
        add(self);
        self.named = here;
        let number = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
        self.sequel.kept.iter_mut().skip(known).for_each(|(db, _)| *db = number);
        let back = match self.selected.count {
            0 => {
                let mut back = CommandList::default();
                back.add(&[b"SELECT", first.to_string().as_bytes()]);
                back
            }
            _ => self.selected.clone(),
        };
        for way in self.ways() {
            way.join(&back);
        }
    }

    fn ways(&mut self) -> [&mut CommandList; 3] {
        [&mut self.whole, &mut self.marks, &mut self.behind]
    }

    /// The number that they set, of which `draw` makes the first.
    pub(super) fn version(&mut self, draw: impl FnOnce() -> u64) -> String {
        self.version.get_or_insert_with(|| format!("{:016x}", draw())).clone()
    }

    /// Gives a key another number for so many milliseconds.
    pub(super) fn set(&mut self, key: Vec<u8>, value: &[u8], life: &[u8]) {
        if !self.named.insert(key.clone()) {
            return;
        }
        self.whole.add(&[b"SET", &key, value, b"PX", life]);
        self.marks.add(&[b"UNLINK", &key]);
        self.marks.add(&[b"SET", &key, UNDER_WAY, b"PX", life]);
        self.behind.add(&[b"UNLINK", &key]);
        self.count += 1;
        self.sequel.kept.push((None, key));
    }

    /// Removes a key.
    pub(super) fn unlink(&mut self, key: Vec<u8>) {
        if !self.named.insert(key.clone()) {
            return;
        }
        for way in self.ways() {
            way.add(&[b"UNLINK", &key]);
        }
        self.count += 1;
        self.sequel.kept.push((None, key));
    }
}
