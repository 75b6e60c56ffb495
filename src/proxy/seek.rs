//! A read that goes on beyond the upstream where that has nothing: whether a reply is such, and what the client gets in the end. No I/O.
//!
//! Made where the read is sent, for keys that have tiers or an origin. Until it is known what the reply is, nothing of it is passed on;
//! that is a byte or two of a `GET`, and all of an `MGET`. `seeking` goes on with what is missing.
//!
//! Holds contract point 1: where nothing is found the reply is the upstream's.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::beyond::Beyond;
use crate::cache::{Slot, Stamp, Stamps};
use crate::command;
use crate::resp::{Elements, Request, Resp, encode};

/// A read as it would be without, and what is sought.
pub(crate) struct Seek<A> {
    pub(super) inner: A,
    pub(super) question: Question,
}

/// What is sought where the upstream has nothing.
#[derive(Clone, Debug)]
pub(super) struct Question {
    keys: SmallVec<[SoughtKey; 1]>,
    /// The reply has an element a key.
    many: bool,
    /// What there is of the reply.
    held: Vec<u8>,
}

/// A key of which something lies beyond the upstream.
#[derive(Clone, Debug)]
pub(crate) struct SoughtKey {
    pub(super) key: Box<[u8]>,
    /// The place of its stamp, and that before the read was sent.
    pub(super) slot: Slot,
    pub(super) stamp: Stamp,
    /// Which of the reply's elements is its own.
    nth: usize,
}

/// What the reply is, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeekVerdict {
    /// More has to be seen.
    Unfinished,
    /// It is whole, and something is missing.
    Absent,
    /// It is the client's as it is.
    Found,
}

/// What was found of a key, or in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SeekAnswer {
    /// Its value.
    Value(Bytes),
    /// The value that the upstream has by now: to one who has written since, it may be what he wrote.
    Found(Bytes),
    /// There is none anywhere.
    Nothing,
    /// The same, and the fleet remembers it for a while.
    Negative,
    /// Nobody can say, for this reason.
    Failed(String),
}

impl Question {
    /// Of the read `command`; none where nothing lies beyond the upstream for its keys.
    pub(super) fn of(beyond: &Beyond, stamps: &Stamps, command: &[u8]) -> Option<Self> {
        let mut spans = Vec::new();
        let request = Request::parse_canonical(command, &mut spans)?;
        let spec = command::lookup(request).filter(|spec| spec.reads_values(request.argc()))?;
        let keys = spec.keys(request).enumerate().filter(|(_, key)| beyond.matches(key)).map(|(nth, key)| {
            let slot = stamps.slot(stamps.hash(key));
            SoughtKey { key: key.into(), slot, stamp: stamps.load(slot), nth }
        });
        let question = Self { keys: keys.collect(), many: spec.each().is_some(), held: Vec::new() };
        (!question.keys.is_empty()).then_some(question)
    }

    /// The next piece of the reply, of which `kind` is the type byte.
    pub(super) fn hear(&mut self, kind: u8, bytes: &[u8], end: bool) -> SeekVerdict {
        self.held.extend_from_slice(bytes);
        if self.many {
            return match (kind, end) {
                (b'*', false) => SeekVerdict::Unfinished,
                (b'*', true) if self.missing().next().is_some() => SeekVerdict::Absent,
                _ => SeekVerdict::Found,
            };
        }
        match self.held.as_slice() {
            [b'$', b'-', ..] | [b'_', ..] if end => SeekVerdict::Absent,
            [] | [b'$'] | [b'$', b'-', ..] | [b'_', ..] => SeekVerdict::Unfinished,
            _ => SeekVerdict::Found,
        }
    }

    /// What is held of the reply.
    pub(super) fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// All its keys.
    pub(super) fn keys(&self) -> &[SoughtKey] {
        &self.keys
    }

    /// The keys of which the upstream has nothing.
    pub(super) fn missing(&self) -> impl Iterator<Item = &SoughtKey> {
        let elements: Vec<bool> = match Elements::of(&self.held).filter(|_| self.many) {
            Some(elements) => elements.map(|element| element.is_ok_and(is_null)).collect(),
            None => Vec::new(),
        };
        let is_missing = move |nth: usize| elements.get(nth).copied().unwrap_or(false);
        self.keys.iter().filter(move |sought| !self.many || is_missing(sought.nth))
    }

    /// The value that is the reply, to one who has sent a write since or not; none where it is none.
    pub(super) fn value<'a>(&self, answers: &'a [SeekAnswer], wrote: bool) -> Option<&'a Bytes> {
        match answers.first().filter(|_| !self.many)? {
            SeekAnswer::Value(value) => Some(value),
            SeekAnswer::Found(value) => Some(value).filter(|_| !wrote),
            _ => None,
        }
    }

    /// What the client gets where `answers` was found of what is missing, in that order; one who has sent a write since gets what the
    /// upstream said in place of what that has by now.
    pub(super) fn reply(&self, answers: &[SeekAnswer], resp: Resp, wrote: bool) -> Vec<u8> {
        if let Some(SeekAnswer::Failed(why)) = answers.iter().find(|answer| matches!(answer, SeekAnswer::Failed(_))) {
            let mut out = Vec::new();
            encode::error(&mut out, &format!("ERR crema: {why}"));
            return out;
        }
        let mut out = Vec::with_capacity(self.held.len());
        if !self.many {
            write(&mut out, answers.first(), resp, wrote);
            return out;
        }
        let Some(elements) = Elements::of(&self.held) else { return self.held.clone() };
        encode::array_header(&mut out, elements.len());
        let mut found = self.missing().map(|sought| sought.nth).zip(answers).peekable();
        for (nth, element) in elements.enumerate() {
            match found.next_if(|(of, _)| *of == nth) {
                Some((_, answer)) => write(&mut out, Some(answer), resp, wrote),
                None => out.extend_from_slice(element.unwrap_or_default()),
            }
        }
        out
    }
}

fn write(out: &mut Vec<u8>, answer: Option<&SeekAnswer>, resp: Resp, wrote: bool) {
    match answer {
        Some(SeekAnswer::Value(value)) => encode::bulk(out, value),
        Some(SeekAnswer::Found(value)) if !wrote => encode::bulk(out, value),
        _ => encode::null(out, resp),
    }
}

fn is_null(element: &[u8]) -> bool {
    matches!(element, [b'$', b'-', ..] | [b'_', ..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Glob;

    fn question(words: &[&[u8]]) -> Option<Question> {
        let beyond = Beyond::new(vec![Glob::new("p:*")], Vec::new(), 1, false).expect("a tier");
        let mut command = Vec::new();
        encode::command(&mut command, words);
        Question::of(&beyond, &Stamps::for_l1(0), &command)
    }

    /// What it takes the reply for, cut everywhere.
    fn verdict(words: &[&[u8]], reply: &[u8]) -> SeekVerdict {
        let verdicts: Vec<_> = (1..=reply.len())
            .map(|size| {
                let mut question = question(words).expect("a key with a tier");
                let mut pieces = reply.chunks(size).peekable();
                loop {
                    let piece = pieces.next().expect("the whole reply decides");
                    let verdict = question.hear(reply[0], piece, pieces.peek().is_none());
                    if verdict != SeekVerdict::Unfinished {
                        return verdict;
                    }
                }
            })
            .collect();
        assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0]), "{verdicts:?}");
        verdicts[0]
    }

    #[test]
    fn values_alone_are_sought_and_of_keys_with_something_beyond() {
        for words in [&[&b"GET"[..], b"q"][..], &[b"STRLEN", b"p:1"], &[b"MGET", b"q", b"r"], &[b"GET", b"p:1", b"x"]] {
            assert!(question(words).is_none(), "{words:?}");
        }
        let keys = question(&[b"mget", b"q", b"p:1", b"p:2"]).expect("two").keys;
        assert_eq!(keys.iter().map(|sought| sought.nth).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_reply_is_held_until_it_is_known_whether_something_is_missing() {
        let get: &[&[u8]] = &[b"GET", b"p:1"];
        for (reply, want) in [
            ("$-1\r\n", SeekVerdict::Absent),
            ("_\r\n", SeekVerdict::Absent),
            ("$0\r\n\r\n", SeekVerdict::Found),
            ("$2\r\n-1\r\n", SeekVerdict::Found),
            ("-WRONGTYPE no\r\n", SeekVerdict::Found),
        ] {
            assert_eq!(verdict(get, reply.as_bytes()), want, "{reply}");
        }
        let mget: &[&[u8]] = &[b"MGET", b"q", b"p:1"];
        assert_eq!(verdict(mget, b"*2\r\n$-1\r\n$1\r\na\r\n"), SeekVerdict::Found, "the other has nothing beyond");
        assert_eq!(verdict(mget, b"*2\r\n$1\r\na\r\n$-1\r\n"), SeekVerdict::Absent);
        assert_eq!(verdict(mget, b"-ERR no\r\n"), SeekVerdict::Found);
    }

    #[test]
    fn what_was_found_stands_in_its_place() {
        let value = |text: &str| SeekAnswer::Value(text.to_owned().into());
        let mut get = question(&[b"GET", b"p:1"]).expect("a key");
        get.hear(b'$', b"$-1\r\n", true);
        assert_eq!(get.reply(&[value("ab")], Resp::V2, false), b"$2\r\nab\r\n");
        assert_eq!(get.reply(&[SeekAnswer::Nothing], Resp::V2, false), b"$-1\r\n");
        assert_eq!(get.reply(&[SeekAnswer::Nothing], Resp::V3, false), b"_\r\n");
        assert_eq!(get.reply(&[SeekAnswer::Failed("no".into())], Resp::V3, false), b"-ERR crema: no\r\n");
        let found = [SeekAnswer::Found("by now".into())];
        assert_eq!(get.reply(&found, Resp::V2, false), b"$6\r\nby now\r\n");
        assert_eq!(get.reply(&found, Resp::V2, true), b"$-1\r\n", "it may be what the session wrote itself");
        assert_eq!((get.value(&found, false).map(Bytes::len), get.value(&found, true)), (Some(6), None));
        assert_eq!(get.value(&[SeekAnswer::Nothing], false), None);
        let mut mget = question(&[b"MGET", b"p:1", b"q", b"p:2", b"p:3"]).expect("keys");
        mget.hear(b'*', b"*4\r\n$-1\r\n$-1\r\n$1\r\nx\r\n$-1\r\n", true);
        assert_eq!(mget.missing().map(|sought| sought.nth).collect::<Vec<_>>(), [0, 3]);
        let reply = mget.reply(&[value("a"), SeekAnswer::Nothing], Resp::V2, false);
        assert_eq!(mget.value(&[value("a"), SeekAnswer::Nothing], false), None);
        assert_eq!(reply, b"*4\r\n$1\r\na\r\n$-1\r\n$1\r\nx\r\n$-1\r\n");
    }
}
