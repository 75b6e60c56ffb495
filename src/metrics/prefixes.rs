//! By which prefixes the keys of a server are told apart, learnt from a sample of them.
//!
//! A prefix ends with a separator, and what stands between separators is a word (`session:`, `shop/cart/`): what looks like a number or
//! an id is none, and ends it. One that makes out a part of what is asked for, and that several keys have, gets a name. There are few names, and none is
//! ever taken back, so that they can be labels of metrics. A key belongs to the longest prefix with a name that it begins with.
//! Pure data; whoever shares it locks it.

/// Prefixes that get a name; all other keys count together.
pub(crate) const MOST_PREFIXES: usize = 20;

/// Words that a prefix has, at most,
const DEEPEST: usize = 3;
/// and bytes.
const LONGEST: usize = 64;
/// The longest word, in bytes, and how many of them may be digits.
const LONGEST_WORD: usize = 24;
const DIGITS: usize = 2;
/// Prefixes that may come to have a name.
const CANDIDATES: usize = 64;
/// One key in so many must have a prefix,
const ONE_IN: u64 = 50;
/// and so many must have been seen that have it,
const LEAST: u64 = 16;
/// which are at least so many different ones.
const DIFFERENT: u32 = 8;
/// After so many keys all that was seen counts for half.
const WINDOW: u64 = 2048;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct PrefixLearner {
    named: Vec<Box<str>>,
    candidates: Vec<Candidate>,
    /// Keys, as far as they count.
    seen: u64,
}

/// Which prefix a key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum KeyPrefix {
    /// The one with this number, from 0 on, in the order in which they got their names.
    Named(usize),
    /// One without a name.
    Other,
    /// The key has none.
    None,
}

#[derive(Debug)]
struct Candidate {
    prefix: Box<str>,
    seen: u64,
    /// A bit for each of its keys, by a part of their hashes.
    keys: u64,
}

impl PrefixLearner {
    /// Learns from `key`, which has this hash, and tells which prefix it belongs to.
    pub(crate) fn learn(&mut self, key: &[u8], hash: u64) -> KeyPrefix {
        self.seen += 1;
        let mut found = KeyPrefix::None;
        for prefix in prefixes(key) {
            if let Some(at) = self.named.iter().position(|named| **named == *prefix) {
                found = KeyPrefix::Named(at);
                continue;
            }
            if found == KeyPrefix::None {
                found = KeyPrefix::Other;
            }
            if self.named.len() < MOST_PREFIXES && self.earns_name(prefix, hash) {
                self.candidates.retain(|candidate| *candidate.prefix != *prefix);
                self.named.push(prefix.into());
                found = KeyPrefix::Named(self.named.len() - 1);
            }
        }
        if self.seen >= WINDOW {
            self.age();
        }
        found
    }

    /// Which prefix it belongs to, as far as is known.
    #[cfg(test)]
    fn of(&self, key: &[u8]) -> KeyPrefix {
        let mut found = KeyPrefix::None;
        for prefix in prefixes(key) {
            match self.named.iter().position(|named| **named == *prefix) {
                Some(at) => found = KeyPrefix::Named(at),
                None if found == KeyPrefix::None => found = KeyPrefix::Other,
                None => {}
            }
        }
        found
    }

    /// All with names, in the order of their numbers.
    pub(crate) fn names(&self) -> &[Box<str>] {
        &self.named
    }

    fn earns_name(&mut self, prefix: &str, hash: u64) -> bool {
        let bit = 1 << (hash >> 32 & 63);
        let Some(known) = self.candidates.iter_mut().find(|candidate| *candidate.prefix == *prefix) else {
            let new = Candidate { prefix: prefix.into(), seen: 1, keys: bit };
            if self.candidates.len() < CANDIDATES {
                self.candidates.push(new);
            } else if let Some(least) = self.candidates.iter_mut().min_by_key(|candidate| candidate.seen) {
                *least = new;
            }
            return false;
        };
        known.seen += 1;
        known.keys |= bit;
        known.seen >= LEAST && known.seen * ONE_IN >= self.seen && known.keys.count_ones() >= DIFFERENT
    }

    fn age(&mut self) {
        self.seen /= 2;
        self.candidates.retain_mut(|candidate| {
            candidate.seen /= 2;
            candidate.seen > 0
        });
    }
}

/// The prefixes that a key begins with, the shortest first.
fn prefixes(key: &[u8]) -> impl Iterator<Item = &str> {
    let key = &key[..key.len().min(LONGEST)];
    let ends = key.iter().enumerate().filter(|(_, byte)| is_separator(**byte)).map(|(at, _)| at);
    let mut from = 0;
    let words = ends.take(DEEPEST).map_while(move |end| {
        let word = &key[from..end];
        from = end + 1;
        is_word(word).then_some(&key[..from])
    });
    words.filter_map(|prefix| std::str::from_utf8(prefix).ok())
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b':' | b'/' | b'.' | b'|' | b'#')
}

fn is_word(word: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let digits = word.iter().filter(|byte| byte.is_ascii_digit()).count();
    let begins = word.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
    begins && word.len() <= LONGEST_WORD && digits <= DIGITS && word.iter().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learn(learner: &mut PrefixLearner, keys: impl IntoIterator<Item = String>) {
        for (n, key) in keys.into_iter().enumerate() {
            learner.learn(key.as_bytes(), (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
    }

    fn names(learner: &PrefixLearner) -> Vec<&str> {
        learner.names().iter().map(|name| &**name).collect()
    }

    #[test]
    fn a_prefix_is_made_of_words() {
        let of = |key: &'static str| prefixes(key.as_bytes()).collect::<Vec<_>>();
        assert_eq!(of("session:1"), ["session:"]);
        assert_eq!(of("app:user:42:name"), ["app:", "app:user:"]);
        assert_eq!(of("v1/shop.cart|x#y"), ["v1/", "v1/shop.", "v1/shop.cart|"]);
        assert_eq!(of("user:2024-11-30:x"), ["user:"]);
        for none in ["plain", "{tag}:x", "42:x", ":x", "", "f81d4fae7dec11d0a765:x", "a word:x", "käse:x"] {
            assert_eq!(of(none), <[&str; 0]>::default(), "{none}");
        }
        assert!(prefixes(b"\xff\xfe:x").next().is_none());
    }

    #[test]
    fn what_many_keys_begin_with_gets_a_name_and_keeps_it() {
        let mut learner = PrefixLearner::default();
        learn(&mut learner, (0..100).map(|n| format!("session:{n}")));
        assert_eq!(names(&learner), ["session:"]);
        learn(&mut learner, (0..1_000_000).map(|n| format!("page:{n}")));
        assert_eq!(names(&learner), ["session:", "page:"]);
        assert_eq!(learner.of(b"session:x"), KeyPrefix::Named(0));
        assert_eq!(learner.of(b"page:x"), KeyPrefix::Named(1));
        assert_eq!((learner.of(b"other:x"), learner.of(b"plain")), (KeyPrefix::Other, KeyPrefix::None));
    }

    #[test]
    fn a_key_belongs_to_the_longest() {
        let mut learner = PrefixLearner::default();
        learn(&mut learner, (0..400).map(|n| format!("app:{}:{n}", ["user", "cart"][n % 2])));
        assert_eq!(names(&learner).len(), 3, "{:?}", names(&learner));
        let name = |key: &[u8]| match learner.of(key) {
            KeyPrefix::Named(at) => names(&learner)[at].to_owned(),
            other => format!("{other:?}"),
        };
        assert_eq!([name(b"app:user:1"), name(b"app:1"), name(b"app:x:1")], ["app:user:", "app:", "app:"]);
    }

    #[test]
    fn what_is_rare_or_one_key_alone_gets_none() {
        let mut learner = PrefixLearner::default();
        let rare = |n: u64| if n.is_multiple_of(200) { format!("rare:{n}") } else { "hot:key".to_owned() };
        for n in 0..100_000_u64 {
            let key = rare(n);
            let hash = if key.starts_with("hot") { 7 } else { n.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
            learner.learn(key.as_bytes(), hash);
        }
        assert_eq!(names(&learner), <[&str; 0]>::default());
    }

    #[test]
    fn there_are_few_names_however_many_prefixes_come() {
        let mut learner = PrefixLearner::default();
        let letters = |n: usize| n.to_string().bytes().map(|digit| char::from(digit + 49)).collect::<String>();
        for round in 0..50 {
            learn(&mut learner, (0..2000).map(|n| format!("{}:{n}", letters(round * 5 + n % 5))));
        }
        assert_eq!(names(&learner).len(), MOST_PREFIXES);
        let before = names(&learner).join(" ");
        learn(&mut learner, (0..5000).map(|n| format!("late:{n}")));
        assert_eq!(names(&learner).join(" "), before);
        assert!(learner.candidates.len() <= CANDIDATES);
    }
}
