//! Which arguments of a request are keys.
//!
//! Owns the key rules that rows of `table` name, each as Redis parses that command when it runs it (which is not always
//! what COMMAND GETKEYS says). Never yields fewer keys than Redis can write: a key too many costs a cache miss, a key too
//! few leaves an old value in L1. Never panics, whatever the arguments; never allocates. Called through
//! [`Spec::keys`](super::Spec::keys) and [`Spec::blocking`](super::Spec::blocking).

use std::ops::Range;
use std::time::Duration;

use crate::resp::{Request, encode};

/// Where the keys are among the arguments. Argument 0 is the command's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySpec {
    /// It names no keys.
    None,
    /// From `first` to `last`, both included, every `step`-th argument.
    Range {
        /// The first key.
        first: i16,
        /// The last key; negative: counted from the end, -1 being the last argument.
        last: i16,
        /// 1, or 2 where every key has a value behind it.
        step: i16,
    },
    /// A number of keys, and that many keys behind it.
    Numkeys {
        /// Where the number is.
        at: i16,
        /// One more key, the destination.
        also: Option<i16>,
    },
    /// The first half of what follows the word STREAMS, as XREAD has it.
    AfterStreams,
    /// Argument 1, and what follows STORE among the options of SORT. It may read others, by patterns.
    Sort,
    /// Argument 3, or all that follows the option KEYS, as MIGRATE has it.
    Migrate,
    /// Argument 1, and what follows STORE or STOREDIST among the options of GEORADIUS.
    GeoRadius,
    /// There may be keys, and nothing says where.
    Unknown,
}

/// What is known of the first key of a request that is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstKey<'a> {
    /// It names none.
    None,
    /// It is this.
    Known(&'a [u8]),
    /// More has to be there.
    NotYet,
}

impl KeySpec {
    /// The first key of a request of which these arguments are there, or another in the same slot.
    pub(crate) fn first_of(self, begun: Request<'_>) -> FirstKey<'_> {
        let at = match self {
            KeySpec::None | KeySpec::Unknown => return FirstKey::None,
            KeySpec::Range { first, .. } => place(first, begun.argc()),
            KeySpec::Numkeys { also: Some(at), .. } => place(at, begun.argc()),
            KeySpec::Numkeys { at, also: None } => {
                let at = place(at, begun.argc());
                if at < begun.argc() && number(begun.arg(at)) == 0 {
                    return FirstKey::None;
                }
                at + 1
            }
            KeySpec::AfterStreams => ReadOptions::of(begun).streams,
            KeySpec::Migrate if begun.argc() > 3 && begun.arg(3).is_empty() => return FirstKey::NotYet,
            KeySpec::Migrate => 3,
            KeySpec::Sort | KeySpec::GeoRadius => 1,
        };
        if at < begun.argc() { FirstKey::Known(begun.arg(at)) } else { FirstKey::NotYet }
    }

    /// Whether the argument at `at`, of `argc` in all, may be a key or say where keys are.
    pub fn concerns(self, at: usize, argc: usize) -> bool {
        match self {
            Self::None | Self::Unknown => false,
            Self::Range { first, last, step } => {
                let (first, last, step) = (place(first, argc), place(last, argc), place(step, argc).max(1));
                (first..=last).contains(&at) && (at - first).is_multiple_of(step)
            }
            _ => true,
        }
    }
}

/// The keys of one request, in no order that means anything.
#[derive(Clone, Debug)]
pub struct Keys<'a> {
    req: Request<'a>,
    /// The next key, and the end and the step of the range that it is in.
    next: usize,
    end: usize,
    step: usize,
    rest: Rest,
}

/// What is left when that range is through.
#[derive(Clone, Copy, Debug)]
enum Rest {
    Nothing,
    Key(usize),
    /// Options from this argument on, of which some name a key to store into.
    Options(usize),
}

impl<'a> Keys<'a> {
    #[inline]
    pub(super) fn new(spec: KeySpec, req: Request<'a>) -> Keys<'a> {
        let argc = req.argc();
        let (range, step, rest) = match spec {
            KeySpec::None | KeySpec::Unknown => (0..0, 1, Rest::Nothing),
            KeySpec::Range { first, last, step } => {
                (place(first, argc)..place(last, argc) + 1, place(step, argc), Rest::Nothing)
            }
            KeySpec::Numkeys { at, also } => {
                let first = place(at, argc) + 1;
                let rest = also.map_or(Rest::Nothing, |key| Rest::Key(place(key, argc)));
                (first..first.saturating_add(number(req.arg(first - 1))), 1, rest)
            }
            KeySpec::AfterStreams => {
                let first = ReadOptions::of(req).streams;
                (first..first + argc.saturating_sub(first) / 2, 1, Rest::Nothing)
            }
            KeySpec::Sort => (1..2, 1, Rest::Options(2)),
            KeySpec::GeoRadius => (1..2, 1, Rest::Options(5)),
            KeySpec::Migrate => (migrated(req), 1, Rest::Nothing),
        };
        Keys { req, next: range.start, end: range.end.min(argc), step: step.max(1), rest }
    }

    /// One more key, unless the arguments end before it.
    fn last(&mut self, at: usize) -> Option<&'a [u8]> {
        self.rest = Rest::Nothing;
        (at < self.req.argc()).then(|| self.req.arg(at))
    }

    /// What follows the next STORE. Redis takes the last of several.
    fn stored(&mut self, mut at: usize) -> Option<&'a [u8]> {
        self.rest = Rest::Nothing;
        while at < self.req.argc() {
            let option = self.req.arg(at);
            at += 1;
            if is(option, b"store") || is(option, b"storedist") {
                self.rest = Rest::Options(at + 1);
                return (at < self.req.argc()).then(|| self.req.arg(at));
            }
            if is(option, b"limit") {
                at += 2;
            } else if is(option, b"by") || is(option, b"get") {
                at += 1;
            }
        }
        None
    }
}

impl<'a> Iterator for Keys<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.next < self.end {
            let key = self.req.arg(self.next);
            self.next += self.step;
            return Some(key);
        }
        match self.rest {
            Rest::Nothing => None,
            Rest::Key(at) => self.last(at),
            Rest::Options(at) => self.stored(at),
        }
    }
}

/// Whether SORT or `SORT_RO` reads keys by a pattern, behind BY or GET. Without a star a pattern is of no key, as in `BY nosort` and
/// `GET #`.
pub(super) fn has_patterns(req: Request<'_>) -> bool {
    let mut at = 2;
    while at < req.argc() {
        let option = req.arg(at);
        at += 1;
        if (is(option, b"by") || is(option, b"get")) && at < req.argc() {
            if req.arg(at).contains(&b'*') {
                return true;
            }
            at += 1;
        } else if is(option, b"limit") {
            at += 2;
        } else if is(option, b"store") {
            at += 1;
        }
    }
    false
}

/// Whether XREAD or XREADGROUP is to wait for entries.
pub(super) fn has_block_option(req: Request<'_>) -> bool {
    ReadOptions::of(req).block.is_some()
}

/// See [`Spec::waits_on`](super::Spec::waits_on). The time-out stands behind BLOCK, in milliseconds; before a number of keys, or in
/// the last place, in seconds. What is none Redis has refused.
pub(super) fn waits_on(keys: KeySpec, req: Request<'_>, waited: Duration, out: &mut Vec<u8>) -> bool {
    let (at, unit) = match keys {
        KeySpec::AfterStreams => match ReadOptions::of(req).block {
            Some(at) => (at, Duration::from_millis(1)),
            None => return false,
        },
        KeySpec::Numkeys { at, .. } => (place(at, req.argc()) - 1, Duration::from_secs(1)),
        _ => (req.argc() - 1, Duration::from_secs(1)),
    };
    if at >= req.argc() {
        return false;
    }
    let text = std::str::from_utf8(req.arg(at)).ok();
    let Some(time) = text.and_then(|text| text.parse::<f64>().ok()).filter(|time| *time > 0.0 && time.is_finite())
    else {
        return false;
    };
    // At least a millisecond, for none is for ever.
    let left = (time * unit.as_secs_f64() - waited.as_secs_f64()).max(0.001) / unit.as_secs_f64();
    let left = if keys == KeySpec::AfterStreams { format!("{left:.0}") } else { format!("{left:.3}") };
    let args: Vec<&[u8]> = (0..req.argc()).map(|n| if n == at { left.as_bytes() } else { req.arg(n) }).collect();
    encode::command(out, &args);
    true
}

/// See [`Spec::from_ends`](super::Spec::from_ends).
pub(super) fn from_ends(req: Request<'_>) -> impl Iterator<Item = (usize, &[u8])> {
    let first = ReadOptions::of(req).streams;
    let streams = req.argc().saturating_sub(first) / 2;
    let ids = (first..first + streams).map(move |key| (key + streams, req.arg(key)));
    ids.filter(move |&(at, _)| req.arg(at) == b"$")
}

/// Whether CONFIG SET sets the password of Redis's default user.
pub(super) fn sets_password(req: Request<'_>) -> bool {
    req.args().skip(2).step_by(2).any(|parameter| parameter.eq_ignore_ascii_case(b"requirepass"))
}

/// Whether DEBUG loads keys from a file, perhaps on top of those that there are.
pub(super) fn loads_keys(req: Request<'_>) -> bool {
    [&b"reload"[..], b"loadaof"].iter().any(|word| req.argc() > 1 && req.arg(1).eq_ignore_ascii_case(word))
}

/// The options of XREAD and XREADGROUP.
struct ReadOptions {
    /// The argument behind BLOCK.
    block: Option<usize>,
    /// The argument behind STREAMS: the first key. Without that word, the number of arguments.
    streams: usize,
}

impl ReadOptions {
    /// A group, a consumer or a key may be named like an option, so each option's own arguments have to be stepped over.
    /// An option nobody knows yet is taken to have none: a newer server's must not hide the streams behind it.
    fn of(req: Request<'_>) -> ReadOptions {
        let mut block = None;
        let mut at = 1;
        while at < req.argc() {
            let option = req.arg(at);
            at += 1;
            if is(option, b"streams") {
                break;
            }
            if is(option, b"block") {
                block = Some(at);
                at += 1;
            } else if is(option, b"count") {
                at += 1;
            } else if is(option, b"group") {
                at += 2;
            }
        }
        ReadOptions { block, streams: at }
    }
}

/// The keys that MIGRATE moves. A name may be empty: only the option KEYS says that argument 3 is none.
fn migrated(req: Request<'_>) -> Range<usize> {
    let mut at = 6;
    while at < req.argc() {
        let option = req.arg(at);
        at += 1;
        if is(option, b"keys") {
            return at..req.argc();
        }
        if is(option, b"auth") {
            at += 1;
        } else if is(option, b"auth2") {
            at += 2;
        }
    }
    3..4
}

/// An argument's number, where a rule counts from the end too.
fn place(index: i16, argc: usize) -> usize {
    let distance = usize::from(index.unsigned_abs());
    if index < 0 { argc.saturating_sub(distance) } else { distance }
}

/// Whether an argument is this option. Redis compares options as C strings, which end at a zero byte.
fn is(option: &[u8], word: &[u8]) -> bool {
    match option.split_at_checked(word.len()) {
        Some((start, rest)) => start.eq_ignore_ascii_case(word) && rest.first().is_none_or(|&byte| byte == 0),
        None => false,
    }
}

/// A number of keys: 0 where it is no number. Takes leading zeros and a plus sign, as old servers do.
fn number(arg: &[u8]) -> usize {
    let digits = arg.strip_prefix(b"+").unwrap_or(arg);
    if !digits.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    digits.iter().fold(0, |sum: usize, &digit| sum.saturating_mul(10).saturating_add(usize::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::command::{all, lookup};
    use crate::resp::{Limits, Parser};

    /// Runs `see` on a request of these arguments.
    fn with<T>(args: &[&[u8]], see: impl FnOnce(Request<'_>) -> T) -> T {
        let mut bytes = vec![];
        encode::command(&mut bytes, args);
        let mut parser = Parser::new();
        parser.parse(&bytes, &Limits::authenticated()).expect("we write valid requests");
        see(parser.request(&bytes))
    }

    /// The keys of a request without blanks in its arguments.
    fn keys(line: &str) -> String {
        let args: Vec<_> = line.split(' ').map(str::as_bytes).collect();
        with(&args, |req| {
            let spec = lookup(req).expect("a command of the table");
            let keys: Vec<_> = spec.keys(req).map(|key| String::from_utf8_lossy(key).into_owned()).collect();
            keys.join(" ")
        })
    }

    fn blocks(line: &str) -> bool {
        let args: Vec<_> = line.split(' ').map(str::as_bytes).collect();
        with(&args, |req| lookup(req).expect("a command of the table").blocking(req))
    }

    #[test]
    fn ranges_count_from_both_ends_and_in_steps() {
        assert_eq!(keys("GET a"), "a");
        assert_eq!(keys("DEL a b c"), "a b c");
        assert_eq!(keys("MSET a 1 b 2"), "a b");
        assert_eq!(keys("BLPOP a b 0"), "a b");
        assert_eq!(keys("BITOP NOT d a"), "d a");
        assert_eq!(keys("OBJECT FREQ a"), "a");
        assert_eq!(keys("PING a"), "");
    }

    #[test]
    fn numbers_of_keys_are_believed_as_far_as_arguments_go() {
        assert_eq!(keys("EVAL script 2 a b c"), "a b");
        assert_eq!(keys("EVAL script 0 a"), "");
        assert_eq!(keys("EVAL script 99999999999999999999999999 a b"), "a b");
        assert_eq!(keys("EVAL script -1 a"), "");
        assert_eq!(keys("EVAL script 1x a"), "");
        assert_eq!(keys("EVAL script +01 a b"), "a");
        assert_eq!(keys("ZUNIONSTORE d 2 a b WEIGHTS 1 2"), "a b d");
        assert_eq!(keys("BZMPOP 0 1 a MIN"), "a");
    }

    #[test]
    fn streams_are_the_first_half_behind_the_word() {
        assert_eq!(keys("XREAD COUNT 1 STREAMS a b 0 0"), "a b");
        assert_eq!(keys("XREADGROUP GROUP streams streams NOACK streams streams >"), "streams");
        assert_eq!(keys("XREADGROUP GROUP g c CLAIM 100 STREAMS a >"), "a", "a newer server's option hides nothing");
        assert_eq!(keys("XREAD STREAMS a b 0"), "a", "refused by Redis");
        assert_eq!(keys("XREAD COUNT 1"), "");
        assert_eq!(keys("XREAD GROUP"), "");
    }

    #[test]
    fn only_the_option_blocks() {
        assert!(blocks("XREAD BLOCK 0 STREAMS a $"));
        assert!(blocks("XREADGROUP GROUP g c count 1 block 5 STREAMS a >"));
        assert!(!blocks("XREADGROUP GROUP block block STREAMS a >"));
        assert!(!blocks("XREAD COUNT block STREAMS a 0"));
        assert!(!blocks("XREAD STREAMS block 0"));
        assert!(blocks("BLPOP a 0"));
        assert!(!blocks("GET block"));
    }

    #[test]
    fn the_first_key_is_known_as_soon_as_it_is_there() {
        let known = |line: &str, argc: usize| {
            let args: Vec<_> = line.split(' ').map(str::as_bytes).take(argc).collect();
            with(&args, |req| match lookup(req).expect("a command of the table").keys.first_of(req) {
                FirstKey::None => "none".to_owned(),
                FirstKey::NotYet => "not yet".to_owned(),
                FirstKey::Known(key) => String::from_utf8_lossy(key).into_owned(),
            })
        };
        for (line, at) in [
            ("SET k v", 1),
            ("BITOP AND k l", 2),
            ("EVAL script 1 k v", 3),
            ("ZUNIONSTORE k 2 l m", 1),
            ("XREAD COUNT 1 STREAMS k 0", 4),
            ("MIGRATE host 1 k 0 9", 3),
            ("SORT k BY w_*", 1),
        ] {
            assert_eq!((known(line, at), known(line, at + 1)), ("not yet".into(), "k".into()), "{line}");
        }
        assert_eq!((known("EVAL script 0 v", 3), known("PING x", 1)), ("none".into(), "none".into()));
    }

    #[test]
    fn a_command_that_has_waited_waits_for_the_rest() {
        let rest = |line: &str, waited: u64| {
            let args: Vec<_> = line.split(' ').map(str::as_bytes).collect();
            with(&args, |req| {
                let mut out = Vec::new();
                let spec = lookup(req).expect("a command of the table");
                spec.waits_on(req, Duration::from_millis(waited), &mut out).then_some(out)
            })
        };
        let same = |line: &str, waited, want: &str| {
            let args: Vec<_> = want.split(' ').map(str::as_bytes).collect();
            let mut wanted = Vec::new();
            encode::command(&mut wanted, &args);
            assert_eq!(rest(line, waited), Some(wanted), "{line}");
        };
        same("BLPOP a b 3", 1_250, "BLPOP a b 1.750");
        same("BLMOVE a b LEFT LEFT 0.5", 100, "BLMOVE a b LEFT LEFT 0.400");
        same("BZMPOP 2 1 a MIN", 500, "BZMPOP 1.500 1 a MIN");
        same("XREAD COUNT 1 BLOCK 700 STREAMS a $", 100, "XREAD COUNT 1 BLOCK 600 STREAMS a $");
        same("XREADGROUP GROUP g c BLOCK 700 STREAMS a >", 900, "XREADGROUP GROUP g c BLOCK 1 STREAMS a >");
        same("BRPOP a 1", 2_000, "BRPOP a 0.001");
        for line in ["BLPOP a 0", "XREAD BLOCK 0 STREAMS a $", "XREAD STREAMS a $", "GET 5", "BLPOP a -1", "BLPOP a x"]
        {
            assert_eq!(rest(line, 100), None, "{line}");
        }
    }

    #[test]
    fn every_store_option_names_a_key() {
        assert_eq!(keys("SORT k"), "k");
        assert_eq!(keys("SORT k BY store GET store LIMIT 0 store STORE d"), "k d");
        assert_eq!(keys("SORT k STORE by STORE d"), "k by d");
        assert_eq!(keys("SORT k STORE"), "k");
        assert_eq!(keys("SORT k STORE\0x d"), "k d", "Redis compares up to a zero byte");
        assert_eq!(keys("SORT k STOREX d"), "k");
        assert_eq!(keys("SORT_RO k GET STORE x"), "k");
        assert_eq!(keys("GEORADIUS k 1 2 3 m COUNT 5 STOREDIST d"), "k d");
        assert_eq!(keys("GEORADIUSBYMEMBER k store 3 m STORE d"), "k d");
    }

    #[test]
    fn patterns_with_a_star_read_keys_that_are_not_named() {
        let reads = |line: &str| {
            let args: Vec<_> = line.split(' ').map(str::as_bytes).collect();
            with(&args, |req| lookup(req).expect("a command of the table").reads_unnamed(req))
        };
        for command in ["SORT", "SORT_RO"] {
            let reads = |options: &str| reads(&format!("{command} k{options}"));
            assert!(reads(" BY w_*") && reads(" get #  get h_*->f") && reads(" LIMIT 0 by GET w_*"), "{command}");
            assert!(reads(" STORE d BY w_*") && reads(" GET\0x *"), "{command}");
            assert!(!reads("") && !reads(" BY nosort GET # DESC") && !reads(" LIMIT BY w_* ALPHA"), "{command}");
            assert!(!reads(" STORE w_*") && !reads(" GET") && !reads(" BY get GET by"), "{command}");
        }
        assert!(reads("EVAL_RO script 1 k") && reads("SCAN 0") && reads("INFO"));
        assert!(!reads("GET a*") && !reads("GEORADIUS k 1 2 3 m STORE d"));
    }

    #[test]
    fn migrate_takes_one_key_or_those_behind_the_option() {
        assert_eq!(keys("MIGRATE host 1 k 0 9 COPY"), "k");
        assert_eq!(keys("MIGRATE host 1 k 0 9 AUTH keys REPLACE"), "k");
        assert_eq!(keys("MIGRATE host 1  0 9 AUTH2 keys keys KEYS a keys b"), "a keys b");
        let no_name: &[&[u8]] = &[b"MIGRATE", b"host", b"1", b"", b"0", b"9"];
        assert_eq!(with(no_name, |req| Keys::new(KeySpec::Migrate, req).count()), 1, "a key may have no name");
    }

    #[test]
    fn arguments_that_are_no_keys_concern_nobody() {
        let concerns = |line: &str| {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            with(&args, |req| {
                let spec = lookup(req).expect("a row of the table");
                (0..args.len()).filter(|&at| spec.keys.concerns(at, args.len())).collect::<Vec<_>>()
            })
        };
        assert_eq!(concerns("set k v"), [1]);
        assert_eq!(concerns("mset k v l w"), [1, 3]);
        assert_eq!(concerns("del k l"), [1, 2]);
        assert_eq!(concerns("bitop and k l m"), [2, 3, 4]);
        assert!(concerns("ping x").is_empty());
        assert_eq!(concerns("eval s 1 k"), [0, 1, 2, 3]);
    }

    fn argument() -> impl Strategy<Value = Vec<u8>> {
        const WORDS: &[&str] =
            &["streams", "STORE", "keys", "block", "GROUP", "limit", "auth2", "0", "1", "2", "7", "-1", ""];
        prop_oneof![prop::sample::select(WORDS).prop_map(Into::into), vec(any::<u8>(), 0..4)]
    }

    proptest! {
        /// Whatever the arguments: no panic, and never more keys than arguments.
        #[test]
        fn every_rule_stays_within_the_arguments(args in vec(argument(), 0..12)) {
            for spec in all() {
                let mut args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                args.insert(0, spec.name.as_bytes());
                with(&args, |req| {
                    spec.blocking(req);
                    assert!(spec.keys(req).count() < args.len(), "{}: {args:?}", spec.name);
                });
            }
        }
    }
}
