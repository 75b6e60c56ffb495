//! How the answers of several nodes to one command become one: pure functions on whole replies, of RESP2 and RESP3 alike.
//!
//! An error among them is the answer, whichever node said it; of a command that was to be done everywhere it says who did it. What
//! cannot be put together is given as the first node said it. Called by `proxy` and `session`, which ask the nodes.

use std::cmp::Reverse;
use std::collections::HashSet;

use crate::resp::{Elements, Request, encode, integer_of, is_error};

/// How the answers of several nodes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Numbers are added.
    Sum,
    /// Lists are put one behind the other.
    Join,
    /// The same, and what several have stands there once.
    Unite,
    /// Pairs of names and numbers: the numbers of a name are added.
    Tally,
    /// Lists of log entries: by time, the newest first, as many as were asked for.
    Newest,
    /// All must have done it.
    Agree,
    /// The smallest number, of lists at each place.
    Min,
    /// The largest.
    Max,
    /// One must have done it.
    One,
    /// Any of them that is no null.
    Pick,
    /// Lists of values, one a key, are put in the order in which the client named the keys.
    InOrder,
}

/// What a node answered.
#[derive(Clone, Copy, Debug)]
pub struct NodeReply<'a> {
    /// Its address.
    pub node: &'a str,
    /// One whole reply.
    pub reply: &'a [u8],
}

/// Entries of a log that are told where no number is given.
const LOG_ENTRIES: usize = 10;

impl Merge {
    /// The one answer, to a `request` that may say how much is asked for. `chance` is a random number, by which some are chosen.
    ///
    /// # Panics
    /// Where no node was asked.
    #[must_use]
    pub fn merged(self, answers: &[NodeReply<'_>], request: Option<Request<'_>>, chance: u64) -> Vec<u8> {
        assert!(!answers.is_empty(), "somebody was asked");
        if self == Self::One {
            return one(answers).to_vec();
        }
        if let Some(error) = answers.iter().find(|answer| is_error(answer.reply)) {
            return if self == Self::Agree { partial(answers, error) } else { error.reply.to_vec() };
        }
        let replies: Vec<&[u8]> = answers.iter().map(|answer| answer.reply).collect();
        let merged = match self {
            Self::Sum => fold_numbers(&replies, i64::saturating_add),
            Self::Min => numbers(&replies, i64::min),
            Self::Max | Self::Agree => numbers(&replies, i64::max),
            Self::Join => join(&replies),
            Self::Unite => unite(&replies),
            Self::Tally => tally(&replies),
            Self::Newest => newest(&replies, log_entries(request)),
            Self::Pick => Some(pick(&replies, chance).to_vec()),
            Self::One | Self::InOrder => None,
        };
        merged.unwrap_or_else(|| replies[0].to_vec())
    }
}

/// The values of `parts`, each a list, in the order of `of`, which says of each value whose next one it is. An error where one of the
/// parts is none such.
#[must_use]
pub(crate) fn in_order(parts: &[&[u8]], of: &[u32]) -> Vec<u8> {
    if let Some(error) = parts.iter().find(|part| is_error(part)) {
        return error.to_vec();
    }
    let mut lists: Vec<_> = parts.iter().map(|part| Elements::of(part)).collect();
    let mut out = Vec::with_capacity(16 + parts.iter().map(|part| part.len()).sum::<usize>());
    encode::array_header(&mut out, of.len());
    for &part in of {
        let next = lists.get_mut(part as usize).and_then(|list| list.as_mut()?.next());
        let Some(Ok(value)) = next else {
            out.clear();
            encode::error(&mut out, "ERR crema: a node did not answer for each of its keys");
            break;
        };
        out.extend_from_slice(value);
    }
    out
}

/// The answer of who did it, or the error that says most: that nothing was to be done says least.
fn one<'a>(answers: &[NodeReply<'a>]) -> &'a [u8] {
    let done = answers.iter().find(|answer| !is_error(answer.reply));
    let why = || answers.iter().find(|answer| !answer.reply.starts_with(b"-NOTBUSY"));
    done.or_else(why).unwrap_or(&answers[0]).reply
}

/// The error of what was to be done everywhere: where some did it, they are named.
fn partial(answers: &[NodeReply<'_>], error: &NodeReply<'_>) -> Vec<u8> {
    let done: Vec<&str> = answers.iter().filter(|answer| !is_error(answer.reply)).map(|answer| answer.node).collect();
    if done.is_empty() {
        return error.reply.to_vec();
    }
    // A blob error of RESP3 has its text in the second line.
    let text = String::from_utf8_lossy(error.reply);
    let text = if error.reply[0] == b'!' { text.lines().nth(1) } else { text.lines().next().map(|line| &line[1..]) };
    let (code, what) = text.unwrap_or_default().split_once(' ').unwrap_or(("ERR", ""));
    let mut out = Vec::new();
    let what = what.strip_prefix("crema: ").unwrap_or(what);
    encode::error(&mut out, &format!("{code} crema: {}: {what}; done by {}", error.node, done.join(", ")));
    out
}

fn fold_numbers(replies: &[&[u8]], fold: impl Fn(i64, i64) -> i64) -> Option<Vec<u8>> {
    let numbers: Option<Vec<i64>> = replies.iter().map(|reply| integer_of(reply)).collect();
    let mut out = Vec::new();
    encode::integer(&mut out, numbers?.into_iter().reduce(fold)?);
    Some(out)
}

/// The same of lists, place by place.
fn numbers(replies: &[&[u8]], fold: impl Fn(i64, i64) -> i64 + Copy) -> Option<Vec<u8>> {
    let lists: Option<Vec<_>> = replies.iter().map(|reply| Elements::of(reply)).collect();
    let Some(mut lists) = lists else { return fold_numbers(replies, fold) };
    let len = lists[0].len();
    if lists.iter().any(|list| list.len() != len) {
        return None;
    }
    let mut out = Vec::new();
    encode::array_header(&mut out, len);
    for _ in 0..len {
        let at_place: Option<Vec<&[u8]>> = lists.iter_mut().map(|list| list.next()?.ok()).collect();
        out.extend(fold_numbers(&at_place?, fold)?);
    }
    Some(out)
}

/// The header of what the first is, for so many elements.
fn header_like(first: &[u8], elements: usize) -> Vec<u8> {
    let mut out = Vec::new();
    encode::header(&mut out, first[0], if first[0] == b'%' { elements / 2 } else { elements });
    out
}

fn join(replies: &[&[u8]]) -> Option<Vec<u8>> {
    let lists: Option<Vec<_>> = replies.iter().map(|reply| Elements::of(reply)).collect();
    let lists = lists?;
    let mut out = header_like(replies[0], lists.iter().map(Elements::len).sum());
    for list in &lists {
        out.extend_from_slice(list.bytes());
    }
    Some(out)
}

fn unite(replies: &[&[u8]]) -> Option<Vec<u8>> {
    let (mut all, mut seen) = (Vec::new(), HashSet::new());
    for reply in replies {
        for element in Elements::of(reply)? {
            let element = element.ok()?;
            if seen.insert(element) {
                all.push(element);
            }
        }
    }
    let mut out = header_like(replies[0], all.len());
    for element in all {
        out.extend_from_slice(element);
    }
    Some(out)
}

fn tally(replies: &[&[u8]]) -> Option<Vec<u8>> {
    let mut sums: Vec<(&[u8], i64)> = Vec::new();
    for (nth, reply) in replies.iter().enumerate() {
        let mut pairs = Elements::of(reply)?;
        for place in 0.. {
            let Some(name) = pairs.next() else { break };
            let (name, number) = (name.ok()?, integer_of(pairs.next()?.ok()?)?);
            // All are asked for the same names and answer in that order; one may be asked for twice.
            match sums.get_mut(place) {
                Some((known, sum)) if *known == name => *sum = sum.saturating_add(number),
                None if nth == 0 => sums.push((name, number)),
                _ => return None,
            }
        }
    }
    let mut out = header_like(replies[0], sums.len() * 2);
    for (name, sum) in sums {
        out.extend_from_slice(name);
        encode::integer(&mut out, sum);
    }
    Some(out)
}

/// How many entries a request for a log asks for: all where the number is negative.
fn log_entries(request: Option<Request<'_>>) -> usize {
    let Some(request) = request.filter(|request| request.argc() > 2) else { return LOG_ENTRIES };
    let number = std::str::from_utf8(request.arg(2)).ok().and_then(|text| text.parse::<i64>().ok());
    number.map_or(LOG_ENTRIES, |number| usize::try_from(number).unwrap_or(usize::MAX))
}

fn newest(replies: &[&[u8]], most: usize) -> Option<Vec<u8>> {
    let mut entries = Vec::new();
    for reply in replies {
        for entry in Elements::of(reply)? {
            let entry = entry.ok()?;
            let time = integer_of(Elements::of(entry)?.nth(1)?.ok()?)?;
            entries.push((Reverse(time), entry));
        }
    }
    entries.sort_by_key(|(time, _)| *time);
    entries.truncate(most);
    let mut out = header_like(replies[0], entries.len());
    for (_, entry) in entries {
        out.extend_from_slice(entry);
    }
    Some(out)
}

fn pick<'a>(replies: &[&'a [u8]], chance: u64) -> &'a [u8] {
    let is_null = |reply: &[u8]| reply.starts_with(b"_") || reply.starts_with(b"$-");
    let there: Vec<_> = replies.iter().filter(|reply| !is_null(reply)).collect();
    let count = there.len().max(1) as u64;
    there.get((chance % count) as usize).map_or(replies[0], |reply| reply)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::resp::Resp;

    fn merged_of(merge: Merge, request: &[&[u8]], replies: &[&str], chance: u64) -> String {
        let (mut raw, mut spans) = (Vec::new(), Vec::new());
        encode::command(&mut raw, request);
        let request = Request::parse_canonical(&raw, &mut spans).expect("as it was made");
        let nodes = ["a:1", "b:2", "c:3", "d:4", "e:5"];
        let answers = replies.iter().zip(nodes).map(|(reply, node)| NodeReply { node, reply: reply.as_bytes() });
        let answers: Vec<_> = answers.collect();
        String::from_utf8(merge.merged(&answers, Some(request), chance)).expect("the tests write text")
    }

    fn merged(merge: Merge, replies: &[&str]) -> String {
        merged_of(merge, &[b"X"], replies, 0)
    }

    #[test]
    fn numbers_are_added_and_compared() {
        assert_eq!(merged(Merge::Sum, &[":1\r\n", ":0\r\n", ":41\r\n"]), ":42\r\n");
        assert_eq!(merged(Merge::Min, &[":1\r\n", ":0\r\n", ":41\r\n"]), ":0\r\n");
        assert_eq!(merged(Merge::Max, &[":1\r\n", ":-5\r\n"]), ":1\r\n");
        assert_eq!(merged(Merge::Min, &["*2\r\n:1\r\n:1\r\n", "*2\r\n:1\r\n:0\r\n"]), "*2\r\n:1\r\n:0\r\n");
        assert_eq!(merged(Merge::Min, &["*2\r\n:1\r\n:2\r\n", "*2\r\n:0\r\n:3\r\n"]), "*2\r\n:0\r\n:2\r\n", "WAITAOF");
        assert_eq!(merged(Merge::Sum, &["+odd\r\n", ":1\r\n"]), "+odd\r\n", "as the first said it");
    }

    #[test]
    fn lists_are_joined_in_their_own_form() {
        assert_eq!(merged(Merge::Join, &["*1\r\n+a\r\n", "*0\r\n", "*2\r\n+b\r\n+c\r\n"]), "*3\r\n+a\r\n+b\r\n+c\r\n");
        assert_eq!(merged(Merge::Join, &["~1\r\n+a\r\n", "~1\r\n+b\r\n"]), "~2\r\n+a\r\n+b\r\n");
        assert_eq!(
            merged(Merge::Join, &["%1\r\n+a\r\n:1\r\n", "%1\r\n+b\r\n:2\r\n"]),
            "%2\r\n+a\r\n:1\r\n+b\r\n:2\r\n"
        );
        assert_eq!(merged(Merge::Unite, &["*2\r\n+a\r\n+b\r\n", "*2\r\n+b\r\n+c\r\n"]), "*3\r\n+a\r\n+b\r\n+c\r\n");
        assert_eq!(
            merged(Merge::Tally, &["*4\r\n+a\r\n:1\r\n+b\r\n:0\r\n", "*4\r\n+a\r\n:2\r\n+b\r\n:5\r\n"]),
            "*4\r\n+a\r\n:3\r\n+b\r\n:5\r\n"
        );
        assert_eq!(merged(Merge::Tally, &["*0\r\n", "*0\r\n"]), "*0\r\n");
    }

    #[test]
    fn a_log_is_told_by_time() {
        let entry = |id: u32, time: u32| format!("*3\r\n:{id}\r\n:{time}\r\n*1\r\n+get\r\n");
        let one = format!("*2\r\n{}{}", entry(2, 30), entry(1, 10));
        let other = format!("*1\r\n{}", entry(1, 20));
        let told = |request: &[&[u8]]| merged_of(Merge::Newest, request, &[&one, &other], 0);
        let all = format!("*3\r\n{}{}{}", entry(2, 30), entry(1, 20), entry(1, 10));
        assert_eq!(told(&[b"SLOWLOG", b"GET"]), all);
        assert_eq!(told(&[b"SLOWLOG", b"GET", b"-1"]), all);
        assert_eq!(told(&[b"SLOWLOG", b"GET", b"1"]), format!("*1\r\n{}", entry(2, 30)));
        assert_eq!(told(&[b"COMMANDLOG", b"GET", b"2", b"slow"]), format!("*2\r\n{}{}", entry(2, 30), entry(1, 20)));
    }

    #[test]
    fn what_not_all_did_says_who_did() {
        assert_eq!(merged(Merge::Agree, &["+OK\r\n", "+OK\r\n"]), "+OK\r\n");
        assert_eq!(merged(Merge::Agree, &[":0\r\n", ":1\r\n"]), ":1\r\n", "ACL DELUSER");
        assert_eq!(merged(Merge::Agree, &["-ERR no\r\n", "-ERR no\r\n"]), "-ERR no\r\n");
        assert_eq!(
            merged(Merge::Agree, &["+OK\r\n", "-OOM no room\r\n", "+OK\r\n"]),
            "-OOM crema: b:2: no room; done by a:1, c:3\r\n"
        );
        assert_eq!(
            merged(Merge::Agree, &["+OK\r\n", "!14\r\nERR two\r\nlines\r\n"]),
            "-ERR crema: b:2: two; done by a:1\r\n"
        );
        assert_eq!(
            merged(Merge::Agree, &["-ERR crema: cannot connect\r\n", "+OK\r\n"]),
            "-ERR crema: a:1: cannot connect; done by b:2\r\n"
        );
        assert_eq!(merged(Merge::Join, &["*0\r\n", "-LOADING wait\r\n"]), "-LOADING wait\r\n");
    }

    #[test]
    fn one_that_did_it_is_enough() {
        let not = "-NOTBUSY none\r\n";
        assert_eq!(merged(Merge::One, &[not, "+OK\r\n", not]), "+OK\r\n");
        assert_eq!(merged(Merge::One, &[not, not]), not);
        assert_eq!(merged(Merge::One, &[not, "-UNKILLABLE it wrote\r\n"]), "-UNKILLABLE it wrote\r\n");
    }

    #[test]
    fn any_that_there_is_is_picked() {
        for (null, _) in [("$-1\r\n", Resp::V2), ("_\r\n", Resp::V3)] {
            let picked: Vec<_> =
                (0..4).map(|n| merged_of(Merge::Pick, &[b"X"], &[null, "+a\r\n", "+b\r\n"], n)).collect();
            assert_eq!(picked, ["+a\r\n", "+b\r\n", "+a\r\n", "+b\r\n"]);
            assert_eq!(merged(Merge::Pick, &[null, null]), null);
        }
    }

    #[test]
    fn values_stand_where_their_keys_stood() {
        let of = |parts: &[&str], of: &[u32]| {
            let parts: Vec<_> = parts.iter().map(|part| part.as_bytes()).collect();
            String::from_utf8(in_order(&parts, of)).expect("the tests write text")
        };
        assert_eq!(of(&["*2\r\n+a\r\n$-1\r\n", "*1\r\n+c\r\n"], &[0, 1, 0]), "*3\r\n+a\r\n+c\r\n$-1\r\n");
        assert_eq!(of(&["*1\r\n_\r\n", "-MOVED 1 a:1\r\n"], &[0, 1]), "-MOVED 1 a:1\r\n");
        assert!(of(&["*1\r\n_\r\n", "*0\r\n"], &[0, 1]).starts_with("-ERR crema"));
    }

    /// A value in RESP3, which may be nested.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(|n| format!(":{n}\r\n").into_bytes()),
            vec(any::<u8>(), 0..8).prop_map(|bytes| {
                let mut out = Vec::new();
                encode::bulk(&mut out, &bytes);
                out
            }),
            Just(b"_\r\n".to_vec()),
            Just(b"$-1\r\n".to_vec()),
            Just(b"#t\r\n".to_vec()),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| vec(inner, 0..4).prop_map(|values| list(&values)))
    }

    fn list(values: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        encode::array_header(&mut out, values.len());
        for value in values {
            out.extend_from_slice(value);
        }
        out
    }

    proptest! {
        /// Split as it may be, the values come back in the client's order.
        #[test]
        fn what_was_split_is_whole_again(values in vec((0u32..4, value()), 1..24)) {
            let parts: Vec<_> = (0..4)
                .map(|part| list(&values.iter().filter(|(of, _)| *of == part).map(|(_, value)| value.clone()).collect::<Vec<_>>()))
                .collect();
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let of: Vec<u32> = values.iter().map(|(of, _)| *of).collect();
            let whole: Vec<_> = values.into_iter().map(|(_, value)| value).collect();
            prop_assert_eq!(in_order(&parts, &of), list(&whole));
        }

        /// What is joined has all elements of all, and is one reply.
        #[test]
        fn what_is_joined_is_complete(lists in vec(vec(value(), 0..6), 1..5)) {
            let replies: Vec<_> = lists.iter().map(|values| list(values)).collect();
            let replies: Vec<&[u8]> = replies.iter().map(Vec::as_slice).collect();
            let all: Vec<_> = lists.concat();
            prop_assert_eq!(join(&replies).expect("lists"), list(&all));
            let united = unite(&replies).expect("lists");
            let once: Vec<_> = Elements::of(&united).expect("a list").collect::<Result<_, _>>().expect("whole");
            prop_assert!(all.iter().all(|value| once.contains(&value.as_slice())));
            let distinct: HashSet<_> = once.iter().collect();
            prop_assert_eq!(distinct.len(), once.len());
        }

        /// Whatever nodes answer: no panic, and one whole reply.
        #[test]
        fn any_answers_make_one_reply(replies in vec(value(), 1..5), chance in any::<u64>()) {
            let (mut raw, mut spans) = (Vec::new(), Vec::new());
            encode::command(&mut raw, &[b"X"]);
            let request = Request::parse_canonical(&raw, &mut spans).expect("as it was made");
            let answers: Vec<_> = replies.iter().map(|reply| NodeReply { node: "n", reply }).collect();
            for merge in [Merge::Sum, Merge::Join, Merge::Unite, Merge::Tally, Merge::Newest, Merge::Agree, Merge::Min,
                Merge::Max, Merge::One, Merge::Pick, Merge::InOrder] {
                let merged = merge.merged(&answers, Some(request), chance);
                let mut splitter = crate::resp::Splitter::default();
                prop_assert_eq!(splitter.split(&merged), Ok(crate::resp::Split::End(merged.len())));
            }
        }
    }
}
