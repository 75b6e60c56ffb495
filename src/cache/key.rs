//! What an answer is an answer to: an identity, a command and the exact bytes of its arguments.
//!
//! A [`Query`] is made once per cacheable read and then serves the lookup in L1, the flight table, the lead and the fill. Its
//! 64-bit hash finds an entry, but never vouches for one: whoever finds something compares identity, command and argument
//! bytes. Nothing here is kept per request; a query borrows the request it describes.
//!
//! Holds contract point 8 (no leaks).

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};

use dashmap::DashMap;

use super::stamp::{KeyHash, Slot, Stamps};

/// A user and a database, as a small number. Lanes and L1 entries belong to one; what one identity read is never shown to
/// another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Identity(u32);

/// The numbers handed out so far. One registry for the process: two of them would give one number two meanings.
#[derive(Default)]
pub struct Identities {
    known: DashMap<(Box<[u8]>, u32), Identity>,
    next: AtomicU32,
}

impl Identities {
    /// The number of `user` (empty for a session that has not authenticated) in database `db`; the same one each time.
    ///
    /// Grows by every new pair, so user and database must be such as Redis has accepted, and shrinks by [`forget`](Self::forget).
    /// A number is not given twice: should the count wrap around, after four billion, no one is left who had it before.
    pub fn intern(&self, user: impl AsRef<[u8]>, db: u32) -> Identity {
        let entry = self.known.entry((user.as_ref().into(), db));
        *entry.or_insert_with(|| Identity(self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// The user and the database of a number, found by looking through all.
    pub fn of(&self, identity: Identity) -> Option<(Box<[u8]>, u32)> {
        self.known.iter().find(|entry| *entry.value() == identity).map(|entry| entry.key().clone())
    }

    /// Nobody is this user any more: it gets new numbers when it comes again.
    pub fn forget(&self, user: &[u8]) {
        self.known.retain(|(known, _), _| **known != *user);
    }
}

/// A cacheable read, ready to be looked up.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Who asks, and in which database.
    pub identity: Identity,
    /// The command's row number.
    pub command: u16,
    /// The request's raw bytes after the command name: every argument with its header, and so unambiguous.
    pub tail: &'a [u8],
    /// The stamp slot of the key.
    pub slot: Slot,
    /// A keyed hash of all of the above.
    pub hash: u64,
}

impl<'a> Query<'a> {
    /// Describes the command with row number `command` on `key`. `tail` is the raw request after the command name, `rest`
    /// the part of it after the key (empty for GET and its like, which are then hashed only once).
    pub fn new(stamps: &Stamps, identity: Identity, command: u16, key: &[u8], tail: &'a [u8], rest: &[u8]) -> Self {
        let key = stamps.hash(key);
        let slot = stamps.slot(key);
        stamps.prefetch(slot);
        let mut hash = mix(key, identity, command);
        if !rest.is_empty() {
            hash = stamps.hash_more(hash, rest);
        }
        Self { identity, command, tail, slot, hash }
    }

    /// The key: the first argument of the tail.
    pub fn key(&self) -> &'a [u8] {
        let header = self.tail.iter().position(|&byte| byte == b'\n').map_or(self.tail.len(), |at| at + 1);
        let digits = self.tail[..header].iter().filter(|byte| byte.is_ascii_digit());
        let len = digits.fold(0_usize, |len, digit| len.saturating_mul(10).saturating_add(usize::from(digit - b'0')));
        &self.tail[header..header.saturating_add(len).min(self.tail.len())]
    }
}

/// Spreads identities and commands over a key hash that is evenly spread already: an odd multiplier gives every pair its own
/// pattern of bits, and flipping a fixed pattern keeps the spread.
fn mix(key: KeyHash, identity: Identity, command: u16) -> u64 {
    let pair = u64::from(identity.0) << 16 | u64::from(command);
    key.0 ^ pair.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Hashes a [`Query::hash`] by leaving it as it is.
pub(crate) type AsIs = BuildHasherDefault<AsIsHasher>;

#[derive(Default)]
pub(crate) struct AsIsHasher(u64);

impl Hasher for AsIsHasher {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        debug_assert!(false, "only hashes are hashed here");
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn identities_are_dense_stable_and_distinct() {
        let identities = Identities::default();
        let first = identities.intern("", 0);
        let all: HashSet<_> = ["", "alice", "bob"]
            .iter()
            .flat_map(|u| {
                let identities = &identities;
                (0..16).map(move |db| identities.intern(u, db))
            })
            .collect();
        assert_eq!(all.len(), 48);
        assert!(all.iter().all(|identity| identity.0 < 48));
        assert_eq!(identities.intern(b"", 0), first);
        assert_ne!(identities.intern(b"\xff", 0), identities.intern("\u{fffd}", 0), "user names are bytes");
    }

    #[test]
    fn one_who_comes_again_is_another() {
        let identities = Identities::default();
        let (alice, bob) = (identities.intern("alice", 0), identities.intern("bob", 0));
        identities.forget(b"alice");
        assert!(![alice, bob].contains(&identities.intern("alice", 0)));
        assert_eq!(identities.intern("bob", 0), bob);
    }

    #[test]
    fn the_key_is_found_in_the_tail() {
        let stamps = Stamps::for_l1(0);
        let key =
            |tail| String::from_utf8_lossy(Query::new(&stamps, Identity(0), 0, b"", tail, b"").key()).into_owned();
        assert_eq!(key(b"$5\r\na\r\nb:\r\n"), "a\r\nb:");
        assert_eq!(key(b"$12\r\nhello, world\r\n$1\r\n7\r\n"), "hello, world");
        assert_eq!((key(b"$0\r\n\r\n"), key(b"")), (String::new(), String::new()));
    }

    #[test]
    fn every_part_counts_in_the_hash() {
        let stamps = Stamps::for_l1(0);
        let query = |identity, command, key: &[u8], rest: &[u8]| {
            Query::new(&stamps, Identity(identity), command, key, b"", rest)
        };
        let base = query(0, 0, b"k", b"");
        let others = [
            query(1, 0, b"k", b""),
            query(0, 1, b"k", b""),
            query(1, 1, b"k", b""),
            query(0, 0, b"l", b""),
            query(0, 0, b"k", b"$1\r\n0\r\n"),
            query(0, 0, b"k", b"$1\r\n1\r\n"),
        ];
        let hashes: HashSet<_> = others.iter().map(|q| q.hash).chain([base.hash]).collect();
        assert_eq!(hashes.len(), 7);
        assert_eq!(query(0, 0, b"k", b"").hash, base.hash);
    }

    #[test]
    fn one_key_has_one_slot_under_every_command_and_identity() {
        let stamps = Stamps::for_l1(0);
        let slot = stamps.slot(stamps.hash(b"k"));
        for (identity, command, rest) in [(0, 0, &b""[..]), (7, 0, b""), (0, 9, b"$1\r\n-\r\n$1\r\n+\r\n")] {
            assert_eq!(Query::new(&stamps, Identity(identity), command, b"k", b"", rest).slot, slot);
        }
    }

    #[test]
    fn mixed_hashes_spread_over_high_and_low_bits() {
        let stamps = Stamps::for_l1(0);
        for shift in [0, 24, 49, 56] {
            let mut buckets = [0_u32; 256];
            for key in 0..25_600_u32 {
                let query = Query::new(&stamps, Identity(key % 3), 1, &key.to_be_bytes(), b"", b"");
                buckets[(query.hash >> shift & 0xff) as usize] += 1;
            }
            let most = buckets.iter().max().expect("256 buckets");
            assert!(*most < 180, "{most} of 25600 in one of 256 buckets at bit {shift}");
        }
    }
}
