//! From a name to its row: a hash table over the rows of `table`, laid out by the compiler.
//!
//! Owns no names: it folds those of the rows. [`find`] folds what a client sent in the same way, into four words of a fixed
//! size, and compares words; so it neither allocates nor walks the name byte by byte. Called by `lookup` alone.

use super::Spec;
use super::table::ROWS;

/// The row of `name`: of a command, or of a subcommand of `container`.
pub(super) fn find(container: Option<&Spec>, name: &[u8]) -> Option<&'static Spec> {
    let key = fold(container.map_or(TOP_LEVEL, |spec| spec.id), name)?;
    let mut slot = first_slot(&key);
    loop {
        let row = usize::from(SLOTS[slot].checked_sub(1)?);
        if KEYS[row] == key {
            return Some(&ROWS[row]);
        }
        slot = next_slot(slot);
    }
}

/// The longest name that can be in the table. A longer one is no command's.
const LONGEST: usize = 24;

/// Stands where a subcommand has its container's row number.
const TOP_LEVEL: u16 = u16::MAX;

/// At most a quarter of the slots are taken, so that a search seldom looks at a second row.
const SLOT_BITS: u32 = 11;
const SLOT_COUNT: usize = 1 << SLOT_BITS;

/// A name in lower case and what it is a name of. Two keys are equal exactly if both are.
type PackedName = [u64; 4];

/// Each row's key, at the row's number.
static KEYS: [PackedName; ROWS.len()] = KEYS_AND_SLOTS.0;

/// Row numbers plus one, 0 where empty, found by the key's hash and then one after the other.
static SLOTS: [u16; SLOT_COUNT] = KEYS_AND_SLOTS.1;

const KEYS_AND_SLOTS: ([PackedName; ROWS.len()], [u16; SLOT_COUNT]) = lay_out();

const fn lay_out() -> ([PackedName; ROWS.len()], [u16; SLOT_COUNT]) {
    assert!(ROWS.len() * 4 <= SLOT_COUNT, "the index has become too small for the table");
    let mut keys = [[0; 4]; ROWS.len()];
    let mut slots = [0; SLOT_COUNT];
    let mut container = TOP_LEVEL;
    let mut row = 0;
    // The last row stands for unknown commands: nobody can ask for it by name.
    while row + 1 < ROWS.len() {
        let name = ROWS[row].name.as_bytes();
        let key = if let Some((parent, sub)) = subcommand(name) {
            assert!(container != TOP_LEVEL, "a subcommand needs its container's row above it");
            assert!(same(ROWS[container as usize].name.as_bytes(), parent), "a subcommand below another's container");
            fold(container, sub)
        } else {
            container = row as u16;
            fold(TOP_LEVEL, name)
        };
        let key = key.expect("every name in the table has at least one byte and at most LONGEST");
        let mut slot = first_slot(&key);
        while slots[slot] != 0 {
            let other = &keys[slots[slot] as usize - 1];
            assert!(!equal(other, &key), "two rows have the same name");
            slot = next_slot(slot);
        }
        slots[slot] = row as u16 + 1;
        keys[row] = key;
        row += 1;
    }
    (keys, slots)
}

/// `config|set` as `config` and `set`. Nothing for a name without a bar.
pub(super) const fn subcommand(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    while at < name.len() {
        if name[at] == b'|' {
            let (container, rest) = name.split_at(at);
            return Some((container, rest.split_at(1).1));
        }
        at += 1;
    }
    None
}

/// The key of `name`. The words overlap where the length is no multiple of eight, which keeps loads whole; with the
/// length beside them they still say every byte.
#[inline]
const fn fold(container: u16, name: &[u8]) -> Option<PackedName> {
    let len = name.len();
    let words = match len {
        0 => return None,
        1..4 => [name[0] as u64 | (name[len / 2] as u64) << 8 | (name[len - 1] as u64) << 16, 0, 0],
        4..8 => [head4(name) | tail4(name) << 32, 0, 0],
        8..=16 => [word(name.first_chunk()), word(name.last_chunk()), 0],
        17..=LONGEST => [word(name.first_chunk()), word(name.split_at(8).1.first_chunk()), word(name.last_chunk())],
        _ => return None,
    };
    let of = (container as u64) << 8 | len as u64;
    Some([lower(words[0]), lower(words[1]), lower(words[2]), of])
}

#[inline]
const fn word(bytes: Option<&[u8; 8]>) -> u64 {
    u64::from_le_bytes(*bytes.expect("the length was matched: eight bytes are there"))
}

#[inline]
const fn head4(name: &[u8]) -> u64 {
    u32::from_le_bytes(*name.first_chunk().expect("the length was matched: four bytes are there")) as u64
}

#[inline]
const fn tail4(name: &[u8]) -> u64 {
    u32::from_le_bytes(*name.last_chunk().expect("the length was matched: four bytes are there")) as u64
}

/// Eight bytes at once in lower case, ASCII letters alone. In the seven low bits of each byte a sum carries into the top
/// one exactly if the byte is at least `A`, another exactly if it is beyond `Z`.
#[inline]
const fn lower(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const TOPS: u64 = ONES << 7;
    let low = word & !TOPS;
    let from_a = low + ONES * (0x80 - b'A' as u64);
    let beyond_z = low + ONES * (0x7f - b'Z' as u64);
    let upper = (from_a & !beyond_z) & !word & TOPS;
    word | upper >> 2
}

#[inline]
const fn first_slot(key: &PackedName) -> usize {
    // Odd constants without a pattern (the first bits of pi, e and two roots): each word stirs the top bits in its own way.
    let mixed = key[0].wrapping_mul(0x243f_6a88_85a3_08d3)
        ^ key[1].wrapping_mul(0xb7e1_5162_8aed_2a6b)
        ^ key[2].wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ key[3].wrapping_mul(0x6a09_e667_f3bc_c909);
    (mixed >> (u64::BITS - SLOT_BITS)) as usize
}

#[inline]
const fn next_slot(slot: usize) -> usize {
    (slot + 1) % SLOT_COUNT
}

const fn equal(a: &PackedName, b: &PackedName) -> bool {
    a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_name_in_any_case() {
        for row in &ROWS[..ROWS.len() - 1] {
            let (container, name) = match subcommand(row.name.as_bytes()) {
                Some((container, sub)) => (Some(find(None, container).expect("containers have rows")), sub),
                None => (None, row.name.as_bytes()),
            };
            let mut mixed = name.to_ascii_uppercase();
            mixed[0].make_ascii_lowercase();
            for spelled in [name.to_vec(), name.to_ascii_uppercase(), mixed] {
                assert_eq!(find(container, &spelled).map(|spec| spec.id), Some(row.id), "{}", row.name);
            }
        }
    }

    #[test]
    fn nothing_else_is_found() {
        for name in [
            &b""[..],
            b"g",
            b"ge",
            b"gett",
            b"get\0",
            b"get ",
            b"\0get",
            b"unknown",
            b"config|set",
            b"a-name-that-is-longer-than-any",
            b"xreadgrou",
            b"\xe7et",
        ] {
            assert!(find(None, name).is_none(), "{}", name.escape_ascii());
        }
        let config = find(None, b"config");
        assert!(find(config, b"nothing").is_none());
        assert!(find(None, b"rewrite").is_none(), "a subcommand is no command");
        assert!(find(find(None, b"get"), b"get").is_none());
    }

    /// The bytes around the letters differ from letters in the one bit that folding sets.
    #[test]
    fn only_letters_are_folded() {
        for byte in 0..=u8::MAX {
            let word = u64::from_le_bytes([byte; 8]);
            assert_eq!(lower(word).to_le_bytes(), [byte.to_ascii_lowercase(); 8], "{byte:#x}");
            let neighbours = u64::from_le_bytes([0xff, byte, 0, byte, b'Z', byte, b'a', byte]);
            let folded = neighbours.to_le_bytes().map(|b| b.to_ascii_lowercase());
            assert_eq!(lower(neighbours).to_le_bytes(), folded, "{byte:#x}");
        }
    }

    /// No two different names of the same length fold to the same key: each byte shows in some word.
    #[test]
    fn every_byte_counts() {
        for len in 1..=LONGEST {
            let name = vec![b'x'; len];
            for at in 0..len {
                let mut other = name.clone();
                other[at] = b'y';
                assert_ne!(fold(0, &name), fold(0, &other), "byte {at} of {len}");
            }
            assert_ne!(fold(0, &name), fold(1, &name));
        }
    }
}
