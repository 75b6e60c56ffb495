//! One short hash tag for each slot of a cluster: a key with it in braces falls there.
//!
//! What crema keeps beside a key must lie in the key's slot. To wrap the key itself in braces is wrong for keys such as `a}b` or `x{}y`.

use crate::command::HashSlot;

/// Of what tags are made: nothing that a pattern, a shell or a brace takes for something else.
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// No tag is longer.
const LONGEST: usize = 5;

/// See the module's head.
#[derive(Debug)]
pub(super) struct SlotTags(Vec<[u8; LONGEST]>);

impl SlotTags {
    /// The shortest of each slot, the first by the order of its digits.
    pub(super) fn new() -> Self {
        let mut tags = vec![[0; LONGEST]; HashSlot::COUNT];
        let mut missing = HashSlot::COUNT;
        for length in 1..=LONGEST {
            for number in 0..DIGITS.len().pow(u32::try_from(length).unwrap_or(u32::MAX)) {
                let (mut tag, mut rest) = ([0; LONGEST], number);
                for place in (0..length).rev() {
                    tag[place] = DIGITS[rest % DIGITS.len()];
                    rest /= DIGITS.len();
                }
                let at = &mut tags[HashSlot::of(&tag[..length]).number()];
                if at[0] == 0 {
                    *at = tag;
                    missing -= 1;
                }
            }
            if missing == 0 {
                break;
            }
        }
        assert!(missing == 0, "among so many tags each slot has one");
        Self(tags)
    }

    /// That of a slot.
    pub(super) fn of(&self, slot: HashSlot) -> &[u8] {
        let tag = &self.0[slot.number()];
        &tag[..tag.iter().position(|&byte| byte == 0).unwrap_or(LONGEST)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_has_a_short_tag_that_falls_into_it() {
        let tags = SlotTags::new();
        for slot in (0..HashSlot::COUNT).filter_map(HashSlot::nth) {
            let tag = tags.of(slot);
            assert!((1..=4).contains(&tag.len()));
            assert_eq!(HashSlot::of(&[b"crema:{", tag, b"}:ver:a}b{x{}y"].concat()), slot);
        }
    }
}
