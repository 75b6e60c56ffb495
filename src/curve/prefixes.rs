//! Prefixes that keys have in common, learnt from those of the sample: `session:*`, `app:cart:*`.
//!
//! A prefix ends behind a separator, and goes no further than names do: a part with a digit, or a long one, is taken for somebody's
//! number. Where names turn out to be numbers as well (`user:alice:`, `user:bob:` ..), their prefixes become one, that of what stands
//! before. There are never more than [`MOST`] of them. Pure data.

use std::collections::HashMap;

/// What ends a part of a key.
const SEPARATORS: &[u8] = b":/.|";
/// So many parts at most.
const DEPTH: usize = 3;
/// A part that is longer is nobody's name.
const LONGEST: usize = 24;
/// Prefixes at a time.
pub(super) const MOST: usize = 64;
/// And since the beginning, those that became one among them.
const EVER: usize = 1024;
/// A prefix has no more below it: they are names of too many things.
const BELOW: usize = 12;

/// The number of a prefix; 0 is that of keys with none.
pub(super) type PrefixNumber = u16;

#[derive(Debug)]
struct PrefixNode {
    text: Box<[u8]>,
    parent: PrefixNumber,
    below: usize,
    /// None is made below it any more.
    closed: bool,
    /// It has become part of its parent.
    merged: bool,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct PrefixTree {
    nodes: Vec<PrefixNode>,
    by_text: HashMap<Box<[u8]>, PrefixNumber>,
}

impl PrefixTree {
    pub(super) fn new() -> Self {
        let root = PrefixNode { text: Box::default(), parent: 0, below: 0, closed: false, merged: false };
        Self { nodes: vec![root], by_text: HashMap::new() }
    }

    /// The prefix of a key.
    pub(super) fn of(&mut self, key: &[u8]) -> PrefixNumber {
        let mut at = 0;
        for end in ends(key) {
            let prefix = &key[..end];
            at = match self.by_text.get(prefix) {
                Some(&known) => known,
                None if self.nodes[usize::from(at)].closed => break,
                None => match self.add(prefix, at) {
                    Some(new) => new,
                    None => break,
                },
            };
        }
        at
    }

    /// What has become of a prefix that a key had.
    pub(super) fn now(&self, mut number: PrefixNumber) -> PrefixNumber {
        while self.nodes[usize::from(number)].merged {
            number = self.nodes[usize::from(number)].parent;
        }
        number
    }

    /// What the keys of a prefix match; none for those that have none.
    pub(super) fn pattern(&self, number: PrefixNumber) -> Option<String> {
        let text = &self.nodes.get(usize::from(number))?.text;
        (!text.is_empty()).then(|| format!("{}*", text.escape_ascii()))
    }

    fn add(&mut self, prefix: &[u8], parent: PrefixNumber) -> Option<PrefixNumber> {
        if self.by_text.len() >= MOST || self.nodes.len() >= EVER {
            return None;
        }
        let most = if parent == 0 { MOST } else { BELOW };
        if self.nodes[usize::from(parent)].below >= most {
            self.close(parent);
            return None;
        }
        let number = PrefixNumber::try_from(self.nodes.len()).ok()?;
        self.nodes[usize::from(parent)].below += 1;
        self.nodes.push(PrefixNode { text: prefix.into(), parent, below: 0, closed: false, merged: false });
        self.by_text.insert(prefix.into(), number);
        Some(number)
    }

    /// Those below it become one with it.
    fn close(&mut self, number: PrefixNumber) {
        self.nodes[usize::from(number)].closed = true;
        for at in usize::from(number) + 1..self.nodes.len() {
            let parent = &self.nodes[usize::from(self.nodes[at].parent)];
            if self.nodes[at].parent == number || parent.merged {
                self.nodes[at].merged = true;
                self.by_text.remove(&self.nodes[at].text);
            }
        }
    }
}

/// Behind which bytes the parts of a key end that are names.
fn ends(key: &[u8]) -> impl Iterator<Item = usize> {
    let mut begin = 0;
    let parts = key.iter().enumerate().filter(|(_, byte)| SEPARATORS.contains(byte)).map_while(move |(at, _)| {
        let part = &key[begin..at];
        begin = at + 1;
        let is_name = !part.is_empty() && part.len() <= LONGEST && !part.iter().any(u8::is_ascii_digit);
        is_name.then_some(at + 1)
    });
    parts.take(DEPTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(tree: &mut PrefixTree, key: &str) -> Option<String> {
        let number = tree.of(key.as_bytes());
        tree.pattern(tree.now(number))
    }

    #[test]
    fn a_prefix_goes_as_far_as_names_do() {
        let mut tree = PrefixTree::new();
        for (key, prefix) in [
            ("session:8f3a", Some("session:*")),
            ("app:cart:77:items", Some("app:cart:*")),
            ("app/page.html", Some("app/page.*")),
            ("a:b:c:d:e", Some("a:b:c:*")),
            ("7:x", None),
            ("plain", None),
            (":x", None),
            ("user:0cc175b9c0f1b6a831c399e269772661:name", Some("user:*")),
            ("\u{e4}:1", Some("\\xc3\\xa4:*")),
        ] {
            assert_eq!(pattern(&mut tree, key).as_deref(), prefix, "{key}");
        }
    }

    #[test]
    fn names_of_too_many_things_become_one() {
        let mut tree = PrefixTree::new();
        let first = tree.of(b"user:alice:mail");
        assert_eq!(tree.pattern(first).as_deref(), Some("user:alice:*"));
        for n in 0..20 {
            let name: String = (0..=n).map(|_| 'x').collect();
            tree.of(format!("user:{name}:mail").as_bytes());
        }
        assert_eq!(pattern(&mut tree, "user:bob:mail").as_deref(), Some("user:*"));
        assert_eq!(tree.pattern(tree.now(first)).as_deref(), Some("user:*"), "those before them as well");
    }

    #[test]
    fn there_are_never_more_than_so_many() {
        let mut tree = PrefixTree::new();
        for a in b'a'..=b'z' {
            for b in b'a'..=b'z' {
                tree.of(&[a, b, b':', b'1']);
            }
        }
        assert_eq!(tree.by_text.len(), MOST);
        assert_eq!(pattern(&mut tree, "zz:1"), None, "the rest have none");
    }
}
