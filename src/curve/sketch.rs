//! How often keys were asked for of late, about: what the policy of an L1 compares keys by.
//!
//! A count-min sketch of counters of four bits that are halved now and then (`TinyLFU`: Einziger, Friedman, Manes, 2017): as many
//! counters, as often halved, as Moka has for as many entries. Used by `shelf` alone.

/// Each key has a counter in so many rows; what is told is the least of them.
const ROWS: u64 = 4;
/// A counter goes no higher.
const MOST: u64 = 15;
/// The lowest bit of each counter of a word.
const LOWEST: u64 = 0x1111_1111_1111_1111;
/// The counters are halved when so many reads for each entry have been counted.
const READS_AN_ENTRY: u32 = 10;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Sketch {
    words: Box<[u64]>,
    counted: u32,
    period: u32,
}

impl Sketch {
    /// One for about so many entries.
    pub(super) fn new(entries: u32) -> Self {
        let words = entries.max(1).next_power_of_two() as usize;
        Self { words: vec![0; words].into(), counted: 0, period: entries.max(1).saturating_mul(READS_AN_ENTRY) }
    }

    /// Only half as many keys are asked for from now on.
    pub(super) fn fold(&mut self) {
        self.period = (self.period / 2).max(READS_AN_ENTRY);
        self.counted /= 2;
    }

    /// How often the key was asked for, at most so often.
    pub(super) fn frequency(&self, id: u64) -> u64 {
        (0..ROWS).map(|row| self.place(id, row)).map(|(at, bit)| self.words[at] >> bit & MOST).min().unwrap_or(0)
    }

    /// It was asked for.
    pub(super) fn count(&mut self, id: u64) {
        let mut raised = false;
        for row in 0..ROWS {
            let (at, bit) = self.place(id, row);
            if self.words[at] >> bit & MOST < MOST {
                self.words[at] += 1 << bit;
                raised = true;
            }
        }
        self.counted += u32::from(raised);
        if self.counted >= self.period {
            self.halve();
        }
    }

    /// What was lost by rounding down was not counted either: a count of reads is one of all rows.
    fn halve(&mut self) {
        let mut odd = 0;
        for word in &mut self.words {
            odd += (*word & LOWEST).count_ones();
            *word = *word >> 1 & !(LOWEST << 3);
        }
        self.counted = (self.counted / 2).saturating_sub(odd / 4);
    }

    /// The word of a row's counter, and its lowest bit there: each row has four of a word's sixteen.
    fn place(&self, id: u64, row: u64) -> (usize, u64) {
        let own = id.rotate_left(16 * row as u32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let at = (own >> 32) as usize & (self.words.len() - 1);
        (at, ((id & 3) * ROWS + row) * 4)
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curve::mixed;

    #[test]
    fn a_key_is_counted_up_to_a_point_and_is_told_from_others() {
        let mut sketch = Sketch::new(1000);
        for times in 1..=20 {
            sketch.count(mixed(7));
            assert_eq!(sketch.frequency(mixed(7)), times.min(MOST));
        }
        (100..400).for_each(|key| sketch.count(mixed(key)));
        let strangers = (1000..2000).filter(|&key| sketch.frequency(mixed(key)) > 0).count();
        assert!(strangers < 50, "{strangers} of a thousand were taken for others");
    }

    #[test]
    fn counts_are_halved_after_ten_reads_an_entry() {
        let mut sketch = Sketch::new(64);
        (0..15).for_each(|_| sketch.count(mixed(1)));
        (0..620).for_each(|key| sketch.count(mixed(1000 + key)));
        assert_eq!(sketch.frequency(mixed(1)), 15);
        (0..10).for_each(|key| sketch.count(mixed(5000 + key)));
        assert_eq!(sketch.frequency(mixed(1)), 7);
    }
}
