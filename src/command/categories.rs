//! The categories by which Redis's ACL rules name many commands at once: `@write`, `@dangerous`.
//!
//! Most of a command's categories follow from its flags and its group, as in Redis (server.c, `setImplicitACLCategories`); letters
//! in its row say the rest. `tests/command_table.rs` holds them against a running server.

use std::ops::BitOr;

use super::Class;

/// All names, in the order of `ACL CAT`; the place of each is the number of its bit.
const NAMES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// A set of ACL categories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Categories(u32);

impl Categories {
    /// None of them.
    pub const NONE: Categories = Categories(0);

    /// The category of this name, its `@` left out, in any case.
    pub fn named(name: &str) -> Option<Categories> {
        let number = NAMES.iter().position(|known| known.eq_ignore_ascii_case(name))?;
        Some(Categories(1 << number))
    }

    /// All names, for those who look for one.
    pub fn names() -> &'static [&'static str] {
        &NAMES
    }

    /// Whether any of `other` is in it.
    pub const fn intersects(self, other: Categories) -> bool {
        self.0 & other.0 != 0
    }

    /// Those of a row of this class with these letters.
    pub(super) const fn of(class: Class, letters: &str) -> Categories {
        let letters = letters.as_bytes();
        let mut all = bit(if has(letters, b'f') { "fast" } else { "slow" });
        let mut at = 0;
        while at < letters.len() {
            all |= match letters[at] {
                b'r' if !matches!(class, Class::Script) => bit("read"),
                b'w' => bit("write"),
                b'a' => bit("admin") | bit("dangerous"),
                b'p' => bit("pubsub"),
                b'b' => bit("blocking"),
                b'x' => bit("dangerous"),
                b'i' => bit("admin"),
                b'k' => bit("keyspace"),
                b'c' => bit("connection"),
                b'g' => bit("list") | bit("set") | bit("sortedset"),
                _ => 0,
            };
            at += 1;
        }
        if !has(letters, b'g') && !has(letters, b'h') {
            all |= group(class);
        }
        Categories(all)
    }
}

impl BitOr for Categories {
    type Output = Categories;

    fn bitor(self, other: Categories) -> Categories {
        Categories(self.0 | other.0)
    }
}

/// The category that a whole class is in.
const fn group(class: Class) -> u32 {
    match class {
        Class::String => bit("string"),
        Class::Hash => bit("hash"),
        Class::List => bit("list"),
        Class::Set => bit("set"),
        Class::SortedSet => bit("sortedset"),
        Class::Stream => bit("stream"),
        Class::Key => bit("keyspace"),
        Class::Geo => bit("geo"),
        Class::Bitmap => bit("bitmap"),
        Class::HyperLogLog => bit("hyperloglog"),
        Class::PubSub => bit("pubsub"),
        Class::Transaction => bit("transaction"),
        Class::Script => bit("scripting"),
        Class::Connection => bit("connection"),
        Class::Server | Class::Cluster | Class::Module => 0,
    }
}

const fn bit(name: &str) -> u32 {
    let mut number = 0;
    while !same(NAMES[number].as_bytes(), name.as_bytes()) {
        number += 1; // beyond the last the compiler refuses it
    }
    1 << number
}

const fn same(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let mut at = 0;
    while at < left.len() {
        if left[at] != right[at] {
            return false;
        }
        at += 1;
    }
    true
}

const fn has(letters: &[u8], letter: u8) -> bool {
    let mut at = 0;
    while at < letters.len() {
        if letters[at] == letter {
            return true;
        }
        at += 1;
    }
    false
}
