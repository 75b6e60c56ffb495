//! Where reads of a cluster's keys went last: to look that up is less work than the key's slot, which a hit can do without.
//!
//! What is remembered is of one version of the topology, that which the worker goes by; where there is one node, nothing is. A
//! place that is remembered for another key sends a read astray, which is what a map that is not true any more does as well: L1 has
//! nothing of that key there, and the node says where it belongs.

use std::cell::Cell;

use crate::upstream::NodeIndex;

/// Reads remembered; a power of two.
const KNOWN: usize = 2048;

/// See the module's head.
#[derive(Default)]
pub(super) struct RouteMemo(Box<[Cell<(u64, NodeIndex)>]>);

impl RouteMemo {
    /// One that remembers nothing yet; the default never will.
    pub(super) fn empty() -> Self {
        let memo = Self(vec![Cell::default(); KNOWN].into());
        memo.forget();
        memo
    }

    /// The worker goes by another version.
    pub(super) fn forget(&self) {
        for (place, known) in self.0.iter().enumerate() {
            // What none is remembered under: its place is that of another.
            known.set((!(place as u64), NodeIndex::default()));
        }
    }

    /// Which node serves the key of a read that has this hash; `look` knows. The default has the one node.
    #[inline]
    pub(super) fn serving(&self, hash: u64, look: impl FnOnce() -> NodeIndex) -> NodeIndex {
        let Some(known) = self.0.get(hash as usize % KNOWN) else { return NodeIndex::default() };
        let (of, at) = known.get();
        if of == hash {
            return at;
        }
        let at = look();
        known.set((hash, at));
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_what_was_looked_up_until_it_is_forgotten() {
        let memo = RouteMemo::empty();
        for hash in [0, 1, KNOWN as u64, u64::MAX, !1] {
            assert_eq!(memo.serving(hash, || NodeIndex::nth(7)), NodeIndex::nth(7));
            assert_eq!(memo.serving(hash, || panic!("it is remembered")), NodeIndex::nth(7));
            assert_eq!(memo.serving(hash ^ 1 << 40, || NodeIndex::nth(2)), NodeIndex::nth(2), "another at its place");
            assert_eq!(memo.serving(hash, || NodeIndex::nth(3)), NodeIndex::nth(3));
        }
        memo.forget();
        assert_eq!(memo.serving(!1, || NodeIndex::nth(5)), NodeIndex::nth(5));
        assert_eq!(RouteMemo::default().serving(3, || panic!("there is one node")), NodeIndex::default());
    }
}
