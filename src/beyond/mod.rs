//! What lies beyond the upstream for some keys, tiers and origins, as far as reads and writes of these keys must know of it: which keys
//! are meant, what crema keeps beside them in the upstream, and what goes with each write of them.
//!
//! Pure data: no I/O and no clock. Compiled once from the settings, and not there at all where there is neither tier nor origin.
//!
//! A tier's copy carries the **version** of its key and the **epoch** of its database (in a cluster, of its slot), two random numbers
//! that lie in the upstream. Each write through crema sets the version to another number in one transaction with itself, so a copy
//! made before counts no more; whoever copies makes one where there is none. A flush takes the epoch along, and so ends all copies.
//! A number that is absent equals nothing: what the upstream evicts, or loses, ends copies too. Nor does the mark that a write sets
//! first with which its version cannot go in one step: else an old value could be put back between the two, and stay.
//!
//! A read goes on beyond the upstream in `proxy/seek`; what a write is accompanied by, `proxy/notified_write` sends.

mod companions;
mod tags;

use smallvec::SmallVec;

use crate::command::{Class, Effect, HashSlot, Spec};
use crate::config::Glob;
use crate::resp::Request;

pub(crate) use companions::{Companions, WriteSequel};
use tags::SlotTags;

/// What begins the names of all keys that crema keeps for itself. None of them has anything beyond it.
const OWN: &[u8] = b"crema:";
/// And of tokens among them.
const LOAD: &[u8] = b"load:";

/// In the place of a token: the origin has no value.
pub(crate) const NEGATIVE: &[u8] = b"-";

/// See the module's head.
#[derive(Debug)]
pub struct Beyond {
    tiers: Vec<Glob>,
    origins: Vec<Glob>,
    /// How long a version is kept, in milliseconds: no copy stays longer.
    life: String,
    /// In front of a cluster.
    tags: Option<SlotTags>,
}

/// What lies beyond the upstream for one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// The numbers of its tiers, in their order.
    pub tiers: SmallVec<[u8; 4]>,
    /// The number of its origin: the first that matches.
    pub origin: Option<u16>,
}

/// What crema keeps beside a key in the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeptKind {
    /// The number that each write sets anew.
    Version,
    /// The token of whoever loads the key from its origin; or the mark [`NEGATIVE`].
    Load,
    /// A copy that may be answered where its origin fails.
    Stale,
}

impl Beyond {
    /// Of tiers and origins for these keys; copies in tiers stay for `stay` milliseconds at the longest. None where there are none.
    pub(crate) fn new(tiers: Vec<Glob>, origins: Vec<Glob>, stay: u64, is_cluster: bool) -> Option<Self> {
        if tiers.is_empty() && origins.is_empty() {
            return None;
        }
        let tags = is_cluster.then(SlotTags::new);
        Some(Self { tiers, origins, life: stay.saturating_mul(2).max(1000).to_string(), tags })
    }

    /// What lies beyond for a key.
    pub(crate) fn reach(&self, key: &[u8]) -> Option<Reach> {
        if key.starts_with(OWN) {
            return None;
        }
        let at = |globs: &[Glob]| globs.iter().position(|glob| glob.matches(key));
        let tiers = (0u8..).zip(&self.tiers).filter(|(_, glob)| glob.matches(key)).map(|(nth, _)| nth).collect();
        let reach = Reach { tiers, origin: at(&self.origins).and_then(|at| u16::try_from(at).ok()) };
        (reach != Reach::default()).then_some(reach)
    }

    /// Whether anything does.
    pub(crate) fn matches(&self, key: &[u8]) -> bool {
        !key.starts_with(OWN) && self.tiers.iter().chain(&self.origins).any(|glob| glob.matches(key))
    }

    /// The name of what is kept beside a key: in its slot.
    pub(crate) fn beside(&self, kind: KeptKind, key: &[u8]) -> Vec<u8> {
        let kind: &[u8] = match kind {
            KeptKind::Version => b"ver:",
            KeptKind::Load => LOAD,
            KeptKind::Stale => b"stale:",
        };
        [&self.prefix(key), kind, key].concat()
    }

    /// The name of the epoch that a key is of.
    pub(crate) fn epoch(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix(key), &b"epoch"[..]].concat()
    }

    /// Whether this name is that of a version.
    pub(crate) fn is_version(&self, name: &[u8]) -> bool {
        name.strip_prefix(&self.prefix(name)[..]).is_some_and(|rest| rest.starts_with(b"ver:"))
    }

    /// The key beside which the token or mark of this name lies.
    pub(crate) fn loaded_by<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        let rest = name.strip_prefix(OWN)?;
        let rest = match &self.tags {
            Some(_) => rest.get(rest.iter().position(|&byte| byte == b':')? + 1..)?,
            None => rest,
        };
        rest.strip_prefix(LOAD).filter(|key| self.beside(KeptKind::Load, key) == name)
    }

    fn prefix(&self, key: &[u8]) -> Vec<u8> {
        match &self.tags {
            Some(tags) => [OWN, b"{", tags.of(HashSlot::of(key)), b"}:"].concat(),
            None => OWN.to_vec(),
        }
    }

    /// Whether [`accompany`](Self::accompany) adds anything to a write: mostly not, and that is to cost little.
    pub(crate) fn is_concerned(&self, spec: &Spec, request: Request<'_>) -> bool {
        matches!(spec.effect, Effect::Write | Effect::Opaque)
            && (spec.keys(request).any(|key| self.matches(key))
                || spec.flushes() && !self.tiers.is_empty()
                || elsewhere(spec, request).is_some_and(|(key, _)| self.matches(key)))
    }

    /// Adds to `companions` what goes with this write of a session that is, or was when its transaction began, in the database `db`: a
    /// new version of each key with tiers that it may change; and of each with an origin whatever would let a load that is under way,
    /// or an older copy, come after it.
    pub(crate) fn accompany(&self, spec: &Spec, request: Request<'_>, db: u32, companions: &mut Companions) {
        if !matches!(spec.effect, Effect::Write | Effect::Opaque) {
            return;
        }
        companions.sequel().flushes |= spec.flushes() && !self.tiers.is_empty();
        for key in spec.keys(request) {
            let Some(reach) = self.reach(key) else { continue };
            self.accompany_key(key, &reach, companions);
            if !reach.tiers.is_empty() && spec.class == Class::String {
                companions.sequel().copies.push(key.into());
            }
        }
        if let Some((key, name)) = elsewhere(spec, request)
            && let Some(reach) = self.reach(key)
        {
            companions.elsewhere(db, name, |companions| self.accompany_key(key, &reach, companions));
        }
    }

    fn accompany_key(&self, key: &[u8], reach: &Reach, companions: &mut Companions) {
        if !reach.tiers.is_empty() {
            let version = companions.version(rand::random::<u64>);
            companions.set(self.beside(KeptKind::Version, key), version.as_bytes(), self.life.as_bytes());
        }
        if reach.origin.is_some() {
            // One key a command: of several, in a slot that moves, a node may have one alone.
            companions.unlink(self.beside(KeptKind::Load, key));
            companions.unlink(self.beside(KeptKind::Stale, key));
        }
    }

    /// Whether a copy can have this version.
    pub(crate) fn counts(version: &[u8]) -> bool {
        version != companions::UNDER_WAY
    }

    /// How long a version is kept, in milliseconds.
    pub(crate) fn life(&self) -> &str {
        &self.life
    }
}

/// The key that a write changes in another database than its own, and the name of that.
fn elsewhere<'a>(spec: &Spec, request: Request<'a>) -> Option<(&'a [u8], &'a [u8])> {
    match (spec.name, request.argc()) {
        ("move", 3) => Some((request.arg(1), request.arg(2))),
        ("copy", 5..) => {
            let at = request.args().skip(3).position(|word| word.eq_ignore_ascii_case(b"DB"))? + 4;
            (at < request.argc()).then(|| (request.arg(2), request.arg(at)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;
    use crate::resp::{Span, encode};

    fn glob(pattern: &str) -> Glob {
        Glob::new(pattern)
    }

    fn beyond(is_cluster: bool) -> Beyond {
        Beyond::new(vec![glob("p:*"), glob("*:x")], vec![glob("o:*")], 1000, is_cluster).expect("there is something")
    }

    fn join(words: &[&[u8]], companions: &mut Companions) {
        let mut raw = Vec::new();
        encode::command(&mut raw, words);
        let mut spans: Vec<Span> = Vec::new();
        let request = Request::parse_canonical(&raw, &mut spans).expect("canonical");
        let (beyond, spec, mut alone) = (beyond(false), lookup(request).expect("a row"), Companions::default());
        beyond.accompany(spec, request, 7, &mut alone);
        assert_eq!(beyond.is_concerned(spec, request), !alone.is_empty(), "{words:?}");
        beyond.accompany(spec, request, 7, companions);
    }

    fn company(words: &[&[u8]]) -> (usize, String) {
        let mut companions = Companions::default();
        join(words, &mut companions);
        let whole = companions.whole();
        (whole.count, String::from_utf8_lossy(&whole.bytes).replace("\r\n", " "))
    }

    /// The names of its commands, and for `SELECT` of which database.
    fn names(list: &companions::CommandList) -> Vec<String> {
        let (mut at, mut spans, mut names) = (0, Vec::new(), Vec::new());
        while let Some(request) = Request::parse_first(&list.bytes[at..], &mut spans) {
            let name = String::from_utf8_lossy(request.arg(0)).to_uppercase();
            let more =
                if name == "SELECT" { format!(" {}", String::from_utf8_lossy(request.arg(1))) } else { String::new() };
            names.push(name + &more);
            at += request.raw().len();
        }
        assert_eq!(names.len(), list.count);
        names
    }

    #[test]
    fn what_is_written_in_another_database_has_its_company_there() {
        for words in [&[&b"MOVE"[..], b"p:1", b"3"][..], &[b"COPY", b"q", b"p:1", b"REPLACE", b"db", b"3"]] {
            let mut companions = Companions::default();
            join(words, &mut companions);
            assert_eq!(names(&companions.whole()), ["SET", "SELECT 3", "SET", "SELECT 7"]);
            assert_eq!(names(companions.behind()), ["UNLINK", "SELECT 3", "UNLINK", "SELECT 7"]);
            assert_eq!(companions.take_sequel().kept.iter().map(|(db, _)| *db).collect::<Vec<_>>(), [None, Some(3)]);
        }
        assert_eq!(company(&[b"COPY", b"p:1", b"p:2", b"REPLACE"]).0, 2);
    }

    #[test]
    fn a_transaction_that_selects_has_its_company_where_it_writes() {
        let mut companions = Companions::default();
        companions.select(7, b"9");
        assert!(companions.is_empty() && companions.whole().count == 0, "nothing is written");
        let mut companions = Companions::default();
        join(&[b"DEL", b"p:1"], &mut companions);
        companions.select(7, b"5");
        companions.select(7, b"99");
        join(&[b"MOVE", b"p:1", b"3"], &mut companions);
        let (first, others) = (["SELECT 7", "SET", "SELECT 5", "SELECT 99", "SET"], ["SELECT 3", "SET"]);
        let back = ["SELECT 7", "SELECT 5", "SELECT 99"];
        assert_eq!(names(&companions.whole()), [&first[..], &others, &back].concat());
    }

    #[test]
    fn a_key_that_a_transaction_names_again_has_no_more_company() {
        let mut companions = Companions::default();
        for _ in 0..3 {
            join(&[b"INCR", b"p:1"], &mut companions);
            join(&[b"DEL", b"o:1"], &mut companions);
        }
        assert_eq!(names(&companions.whole()), ["SET", "UNLINK", "UNLINK"]);
        companions.select(7, b"5");
        join(&[b"INCR", b"p:1"], &mut companions);
        assert_eq!(names(&companions.whole()), ["SELECT 7", "SET", "UNLINK", "UNLINK", "SELECT 5", "SET"]);
    }

    #[test]
    fn what_lies_beyond_a_key_follows_from_its_name() {
        let beyond = beyond(false);
        let reach = |key: &[u8]| beyond.reach(key).map(|reach| (reach.tiers.to_vec(), reach.origin));
        assert_eq!(reach(b"p:x"), Some((vec![0, 1], None)));
        assert_eq!(reach(b"o:x"), Some((vec![1], Some(0))));
        assert_eq!((reach(b"q"), reach(b"crema:ver:p:x")), (None, None));
        assert!(beyond.matches(b"p:") && !beyond.matches(b"crema:load:x"));
        assert!(Beyond::new(Vec::new(), Vec::new(), 1, true).is_none());
    }

    #[test]
    fn what_is_kept_beside_a_key_lies_in_its_slot() {
        let (single, cluster) = (beyond(false), beyond(true));
        assert_eq!(single.beside(KeptKind::Version, b"p:x"), b"crema:ver:p:x");
        assert_eq!(single.epoch(b"p:x"), b"crema:epoch");
        for key in [&b"p:1"[..], b"a}b", b"x{}y", b"{t}z", b""] {
            let slot = HashSlot::of(key);
            for kind in [KeptKind::Version, KeptKind::Load, KeptKind::Stale] {
                assert_eq!(HashSlot::of(&cluster.beside(kind, key)), slot);
                for beyond in [&single, &cluster] {
                    assert_eq!(beyond.is_version(&beyond.beside(kind, key)), kind == KeptKind::Version);
                }
            }
            assert_eq!(HashSlot::of(&cluster.epoch(key)), slot);
            for beyond in [&single, &cluster] {
                assert_eq!(beyond.loaded_by(&beyond.beside(KeptKind::Load, key)), Some(key));
                assert_eq!(beyond.loaded_by(&beyond.beside(KeptKind::Stale, key)), None);
                assert_eq!(beyond.loaded_by(key), None);
            }
            assert_eq!(cluster.loaded_by(&[b"crema:{x}:load:".as_slice(), key].concat()), None, "the tag is another's");
        }
    }

    #[test]
    fn each_key_that_a_write_may_change_has_company() {
        let (count, text) = company(&[b"MSET", b"p:1", b"a", b"q", b"b", b"o:1", b"c"]);
        assert_eq!(count, 3, "{text}");
        assert!(text.contains("crema:ver:p:1") && text.contains("crema:load:o:1") && text.contains("crema:stale:o:1"));
        assert_eq!(company(&[b"EVAL", b"x", b"1", b"p:1"]).0, 1);
        assert_eq!(company(&[b"DEL", b"p:1", b"p:2", b"z"]).0, 2);
        assert_eq!(company(&[b"RENAME", b"q", b"p:2"]).0, 1);
        for plain in
            [&[&b"GET"[..], b"p:1"][..], &[b"SET", b"q", b"1"], &[b"FLUSHALL"], &[b"SET", b"crema:ver:p:1", b"1"]]
        {
            assert_eq!(company(plain).0, 0, "{plain:?}");
        }
    }
}
