//! Property tests of the protocol: whatever the bytes and however they arrive.
//!
//! The expectations come from elsewhere than the code under test: from what a stream was generated from, from another
//! implementation of the protocol, from a plain recursive writer, or from the same bytes in other pieces.

use std::time::{Duration, Instant};

use crema::resp::{
    Grammar, Limits, Malformed, Parsed, Parser, ProtocolError, Request, Split, Splitter, encode, to_resp2,
};
use proptest::collection::vec;
use proptest::prelude::*;
use redis_protocol::{resp2, resp3};

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Canonical or not, multibulk or inline, in two pieces at every place, and byte by byte.
    #[test]
    fn requests_are_the_same_at_every_split(stream in vec(sent(), 1..4)) {
        let bytes: Vec<u8> = stream.iter().flat_map(Sent::bytes).collect();
        let expected: Vec<_> = stream.into_iter().map(|sent| sent.args).filter(|args| !args.is_empty()).collect();
        let limits = Limits::authenticated();
        for cut in 0..=bytes.len() {
            prop_assert_eq!(&requests(&bytes, &[cut], &limits), &(expected.clone(), Ok(0)), "cut at {}", cut);
        }
        let everywhere: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(requests(&bytes, &everywhere, &limits), (expected, Ok(0)));
    }

    /// Whatever a client sent, what travels on is an array of bulk strings that another decoder reads alike, and a
    /// canonical request travels on as it came.
    #[test]
    fn raw_requests_are_canonical(sent in sent()) {
        let bytes = sent.bytes();
        let mut parser = Parser::new();
        let parsed = parser.parse(&bytes, &Limits::authenticated());
        if sent.args.is_empty() {
            prop_assert_eq!(parsed, Ok(Parsed::Empty { consumed: bytes.len() }));
            return Ok(());
        }
        prop_assert_eq!(parsed, Ok(Parsed::Request { consumed: bytes.len() }));
        let request = parser.request(&bytes);
        let (frame, length) = resp2::decode::decode(request.raw()).expect("valid").expect("complete");
        prop_assert_eq!(length, request.raw().len());
        let strings = sent.args.iter().cloned().map(resp2::types::OwnedFrame::BulkString).collect();
        prop_assert_eq!(frame, resp2::types::OwnedFrame::Array(strings));

        let mut canonical = Vec::new();
        encode::command(&mut canonical, &sent.args.iter().map(Vec::as_slice).collect::<Vec<_>>());
        prop_assert_eq!(request.raw(), &canonical);
        if bytes == canonical {
            prop_assert!(std::ptr::eq(request.raw(), &raw const bytes[..]));
        }

        for skip in 0..=sent.args.len() {
            let mut tail = Vec::new();
            for arg in &sent.args[skip..] {
                encode::bulk(&mut tail, arg);
            }
            prop_assert_eq!(request.tail(skip), &tail);
        }
        let mut spans = Vec::new();
        let rebuilt = Request::parse_canonical(request.raw(), &mut spans).expect("canonical");
        prop_assert!(rebuilt.args().eq(request.args()));
        prop_assert_eq!(rebuilt.raw(), request.raw());
    }

    /// Bytes that mean nothing or nearly something: no panic, and the same requests and the same error in all pieces.
    #[test]
    fn any_bytes_are_the_same_requests_at_every_split(
        bytes in noise(b"*$0123-\r\n\r\n \"'\\xa\0"), unauthenticated: bool, valkey: bool,
    ) {
        let grammar = if valkey { Grammar::VALKEY } else { Grammar::REDIS };
        let limits = Limits { inline: 24, bulk: 30, args: 12, request: 90, unauthenticated, grammar };
        let whole = requests(&bytes, &[], &limits);
        for cut in 0..=bytes.len() {
            prop_assert_eq!(&requests(&bytes, &[cut], &limits), &whole, "cut at {}", cut);
        }
        let everywhere: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(requests(&bytes, &everywhere, &limits), whole);
    }

    /// A request with one byte changed, too.
    #[test]
    fn damaged_requests_are_the_same_at_every_split(
        stream in vec(sent(), 1..3), at: prop::sample::Index, byte in prop::sample::select(&b"*$019-\r\n \"\0"[..]),
        valkey: bool,
    ) {
        let mut bytes: Vec<u8> = stream.iter().flat_map(Sent::bytes).collect();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let grammar = if valkey { Grammar::VALKEY } else { Grammar::REDIS };
        let limits = Limits { grammar, ..Limits::authenticated() };
        let whole = requests(&bytes, &[], &limits);
        for cut in 0..=bytes.len() {
            prop_assert_eq!(&requests(&bytes, &[cut], &limits), &whole, "cut at {}", cut);
        }
    }

    /// In two pieces at every place, and byte by byte, each reply ends where it was written to end.
    #[test]
    fn replies_are_the_same_at_every_split(stream in vec(reply(), 1..4)) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for reply in &stream {
            reply.write(3, &mut bytes);
            expected.push((bytes.len(), reply.kind()));
        }
        for cut in 0..=bytes.len() {
            prop_assert_eq!(&replies(&bytes, &[cut]), &(expected.clone(), Ok(true)), "cut at {}", cut);
        }
        let everywhere: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(replies(&bytes, &everywhere), (expected, Ok(true)));
    }

    /// Another decoder finds the same ends, for the replies that it knows.
    #[test]
    fn replies_end_where_another_decoder_says(reply in reply().prop_filter("unknown to it", Reply::is_common)) {
        let mut bytes = Vec::new();
        reply.write(3, &mut bytes);
        let (_, length) = resp3::decode::complete::decode(&bytes).expect("valid").expect("complete");
        prop_assert_eq!(Splitter::default().split(&bytes), Ok(Split::End(length)));

        let mut older = Vec::new();
        to_resp2(&bytes, &mut older).expect("well formed");
        let (_, length) = resp2::decode::decode(&older).expect("valid").expect("complete");
        prop_assert_eq!(length, older.len());
    }

    /// Bytes that mean nothing or nearly something: no panic, the same ends and the same fate in all pieces, and the
    /// downgrade takes nothing else for whole replies.
    #[test]
    fn any_bytes_are_the_same_replies_at_every_split(bytes in noise(b"*$0123-\r\n\r\n\r\n%~|>_#t,:+a")) {
        check_replies(&bytes)?;
    }

    /// Replies with one byte changed, or cut short, too.
    #[test]
    fn damaged_replies_are_the_same_at_every_split(
        stream in vec(reply(), 1..3), at: prop::sample::Index, byte in prop::option::of(any::<u8>()),
    ) {
        let mut bytes = Vec::new();
        for reply in &stream {
            reply.write(3, &mut bytes);
        }
        let at = at.index(bytes.len());
        match byte {
            Some(byte) => bytes[at] = byte,
            None => bytes.truncate(at),
        }
        check_replies(&bytes)?;
    }

    /// RESP3 becomes what a plain recursive writer of RESP2 writes.
    #[test]
    fn downgrade_is_the_resp2_of_the_same_reply(stream in vec(reply(), 0..3)) {
        let (mut newer, mut older) = (Vec::new(), b"kept".to_vec());
        for reply in &stream {
            reply.write(3, &mut newer);
            reply.write(2, &mut older);
        }
        let mut out = b"kept".to_vec();
        prop_assert_eq!(to_resp2(&newer, &mut out), Ok(newer != older[4..]));
        prop_assert_eq!(out, older);
    }
}

/// What is nested as deep as anyone likes neither overflows a stack nor takes long.
#[test]
fn depth_is_no_matter() {
    const DEPTH: usize = 100_000;
    for (opening, closing, downgraded) in [("*1\r\n", "_\r\n", "*1\r\n"), ("%1\r\n+k\r\n", "+v\r\n", "*2\r\n+k\r\n")] {
        let deep = opening.repeat(DEPTH) + closing;
        assert_eq!(Splitter::default().split(deep.as_bytes()), Ok(Split::End(deep.len())));
        let mut out = Vec::new();
        to_resp2(deep.as_bytes(), &mut out).expect("well formed");
        assert!(out.starts_with(downgraded.repeat(DEPTH).as_bytes()));
    }
    let attributes = "|1\r\n".repeat(DEPTH) + &"+x\r\n".repeat(2 * DEPTH + 1);
    assert_eq!(Splitter::default().split(attributes.as_bytes()), Ok(Split::End(attributes.len())));
    let mut out = Vec::new();
    assert_eq!(to_resp2(attributes.as_bytes(), &mut out), Ok(true));
    assert_eq!(out, b"+x\r\n");
}

/// A byte at a time costs a little a byte; looking at them all again each time would take hours.
#[test]
fn bytes_are_not_looked_at_again() {
    let many = [b"*100000\r\n".to_vec(), b"$3\r\nabc\r\n".repeat(100_000)].concat();
    let large = [b"*1\r\n$1000000\r\n".to_vec(), b"x".repeat(1_000_000), b"\r\n".to_vec()].concat();
    let inline = [b"PING ".to_vec(), b"x".repeat(60_000), b"\r\n".to_vec()].concat();
    let header = [b"*1\r\n$".to_vec(), b"1".repeat(60_000)].concat();
    let limits = Limits::authenticated();
    let started = Instant::now();
    for bytes in [many, large, inline, header] {
        let mut parser = Parser::new();
        for end in 0..bytes.len() {
            assert_eq!(parser.parse(&bytes[..end], &limits), Ok(Parsed::Incomplete));
        }
    }
    assert!(started.elapsed() < Duration::from_secs(20));
}

/// All requests in `bytes`, which arrive in pieces that end at `cuts` (ascending); then the error or the bytes left
/// over. Of the grammar nothing is known beforehand where the bytes come in pieces; what is asked for is told.
fn requests(bytes: &[u8], cuts: &[usize], limits: &Limits) -> (Vec<Vec<Vec<u8>>>, Result<usize, ProtocolError>) {
    let (mut parser, mut found, mut start) = (Parser::new(), Vec::new(), 0);
    let mut grammar = if cuts.is_empty() { limits.grammar } else { Grammar::UNKNOWN };
    for end in cuts.iter().copied().chain([bytes.len()]) {
        loop {
            let buf = &bytes[start..end];
            let consumed = match parser.parse(buf, &Limits { grammar, ..*limits }) {
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Unclear(quirk)) => {
                    assert_eq!(grammar.has(quirk), None, "it is known");
                    grammar = grammar.with(quirk, limits.grammar.has(quirk).expect("all are known"));
                    continue;
                }
                Ok(Parsed::Empty { consumed }) => consumed,
                Ok(Parsed::Request { consumed }) => {
                    found.push(parser.request(buf).args().map(<[u8]>::to_vec).collect());
                    consumed
                }
                Err(error) => return (found, Err(error)),
            };
            assert!(consumed > 0, "no progress");
            start += consumed;
        }
    }
    (found, Ok(bytes.len() - start))
}

/// Where each reply in `bytes` ends and its type, the bytes arriving in pieces that end at `cuts`; then the error, or
/// whether the last reply was whole.
fn replies(bytes: &[u8], cuts: &[usize]) -> (Vec<(usize, u8)>, Result<bool, Malformed>) {
    let (mut splitter, mut found, mut start) = (Splitter::default(), Vec::new(), 0);
    for end in cuts.iter().copied().chain([bytes.len()]) {
        while start < end {
            match splitter.split(&bytes[start..end]) {
                Ok(Split::More) => start = end,
                Ok(Split::End(length)) => {
                    assert!(length > 0 && splitter.at_start(), "no progress");
                    start += length;
                    found.push((start, splitter.kind()));
                }
                Err(malformed) => return (found, Err(malformed)),
            }
        }
    }
    (found, Ok(splitter.at_start()))
}

fn check_replies(bytes: &[u8]) -> Result<(), TestCaseError> {
    let whole = replies(bytes, &[]);
    for cut in 0..=bytes.len() {
        prop_assert_eq!(&replies(bytes, &[cut]), &whole, "cut at {}", cut);
    }
    let everywhere: Vec<usize> = (0..bytes.len()).collect();
    prop_assert_eq!(&replies(bytes, &everywhere), &whole);

    let mut out = b"kept".to_vec();
    let downgraded = to_resp2(bytes, &mut out);
    // The format's name in a verbatim string is for the downgrade alone to judge.
    if !bytes.contains(&b'=') {
        prop_assert_eq!(downgraded.is_ok(), whole.1 == Ok(true));
    }
    let kept = if downgraded.is_ok() { &out[..4] } else { &out[..] };
    prop_assert_eq!(kept, b"kept");
    if let Ok(differs) = downgraded {
        prop_assert_eq!(differs, out[4..] != *bytes);
    }
    Ok(())
}

/// A request as a client sends it.
#[derive(Clone, Debug)]
struct Sent {
    args: Vec<Vec<u8>>,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    Canonical,
    /// The bytes that Redis skips are these, over and over.
    Crooked(Vec<u8>),
    /// Quoted each in one of these ways, over and over, with this end.
    Inline(Vec<Quote>, &'static str),
}

#[derive(Clone, Copy, Debug)]
enum Quote {
    Bare,
    Single,
    Double,
    Hex,
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match &self.form {
            Form::Canonical => {
                encode::command(&mut out, &self.args.iter().map(Vec::as_slice).collect::<Vec<_>>());
            }
            Form::Crooked(skipped) => {
                let mut skipped = skipped.iter().copied().cycle();
                let mut skip = || skipped.next().expect("endless");
                out.extend_from_slice(format!("*{}\r", self.args.len()).as_bytes());
                out.push(skip());
                for arg in &self.args {
                    out.extend_from_slice(format!("${}\r", arg.len()).as_bytes());
                    out.push(skip());
                    out.extend_from_slice(arg);
                    out.extend([skip(), skip()]);
                }
            }
            Form::Inline(quotes, end) => {
                for (arg, quote) in self.args.iter().zip(quotes.iter().cycle()) {
                    quote.write(arg, &mut out);
                    out.push(b' ');
                }
                out.extend_from_slice(end.as_bytes());
            }
        }
        out
    }
}

impl Quote {
    /// Bare and single-quoted words cannot hold all bytes: what they cannot is double-quoted.
    fn write(self, arg: &[u8], out: &mut Vec<u8>) {
        let plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"'".contains(byte) || *byte >= 0x80;
        let single = |byte: &u8| !b"\n\0\\".contains(byte);
        match self {
            Self::Bare if !arg.is_empty() && arg[0] != b'*' && arg.iter().all(plain) => out.extend_from_slice(arg),
            Self::Single if arg.iter().all(single) => {
                out.push(b'\'');
                for &byte in arg {
                    if byte == b'\'' {
                        out.push(b'\\');
                    }
                    out.push(byte);
                }
                out.push(b'\'');
            }
            Self::Hex => {
                out.push(b'"');
                for byte in arg {
                    out.extend_from_slice(format!("\\x{byte:02X}").as_bytes());
                }
                out.push(b'"');
            }
            _ => {
                out.push(b'"');
                for &byte in arg {
                    match byte {
                        b'\n' => out.extend_from_slice(b"\\n"),
                        b'\r' => out.extend_from_slice(b"\\r"),
                        b'\t' => out.extend_from_slice(b"\\t"),
                        8 => out.extend_from_slice(b"\\b"),
                        7 => out.extend_from_slice(b"\\a"),
                        0 => out.extend_from_slice(b"\\x00"),
                        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                        _ => out.push(byte),
                    }
                }
                out.push(b'"');
            }
        }
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let quote = prop::sample::select(&[Quote::Bare, Quote::Single, Quote::Double, Quote::Hex][..]);
    let form = prop_oneof![
        2 => Just(Form::Canonical),
        1 => vec(any::<u8>(), 1..4).prop_map(Form::Crooked),
        1 => (vec(quote, 1..4), prop::sample::select(&["\n", "\r\n", " \r\n"][..]))
            .prop_map(|(quotes, end)| Form::Inline(quotes, end)),
    ];
    (vec(text(), 0..5), form).prop_map(|(args, form)| Sent { args, form })
}

/// Any bytes, with those that mean something to the protocol more often; now and then of two or three digits' length.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(&b"\r\n\"'\\ *$a\0"[..])];
    prop_oneof![8 => vec(byte.clone(), 0..12), 1 => vec(byte, 90..130)]
}

/// Short bytes drawn mostly from `alphabet`.
fn noise(alphabet: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just(b"\r\n".to_vec()),
        (0..4_u8).prop_map(|n| format!("*{n}\r\n").into_bytes()),
        (0..4_u8).prop_map(|n| format!("${n}\r\n").into_bytes()),
        Just(b"$1\r\na\r\n".to_vec()),
        Just(b"|1\r\n".to_vec()),
        vec(prop_oneof![9 => prop::sample::select(alphabet), 1 => any::<u8>()], 1..6),
    ];
    vec(line, 0..20).prop_map(|lines| lines.concat())
}

/// A reply as a tree.
#[derive(Clone, Debug)]
enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    NoBulk,
    NoArray,
    Null,
    Boolean(bool),
    Double(f64),
    Big(String),
    Verbatim(Vec<u8>),
    BlobError(Vec<u8>),
    Array(Vec<Reply>),
    Set(Vec<Reply>),
    Push(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    With(Vec<(Reply, Reply)>, Box<Reply>),
}

impl Reply {
    /// Writes the reply as the given version has it.
    fn write(&self, version: u8, out: &mut Vec<u8>) {
        let older = version == 2;
        match self {
            Self::Simple(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
            Self::Error(text) => out.extend_from_slice(format!("-{text}\r\n").as_bytes()),
            Self::Integer(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Self::Bulk(bytes) => write_string('$', bytes, out),
            Self::NoBulk => out.extend_from_slice(b"$-1\r\n"),
            Self::NoArray => out.extend_from_slice(b"*-1\r\n"),
            Self::Null => out.extend_from_slice(if older { b"$-1\r\n" } else { b"_\r\n" }),
            Self::Boolean(value) if older => Self::Integer((*value).into()).write(2, out),
            Self::Boolean(value) => out.extend_from_slice(if *value { b"#t\r\n" } else { b"#f\r\n" }),
            Self::Double(number) if older => write_string('$', number.to_string().as_bytes(), out),
            Self::Double(number) => out.extend_from_slice(format!(",{number}\r\n").as_bytes()),
            Self::Big(digits) if older => write_string('$', digits.as_bytes(), out),
            Self::Big(digits) => out.extend_from_slice(format!("({digits}\r\n").as_bytes()),
            Self::Verbatim(text) if older => write_string('$', text, out),
            Self::Verbatim(text) => write_string('=', &[b"txt:", &text[..]].concat(), out),
            Self::BlobError(text) if older => {
                out.push(b'-');
                out.extend(text.iter().map(|byte| if b"\r\n".contains(byte) { b' ' } else { *byte }));
                out.extend_from_slice(b"\r\n");
            }
            Self::BlobError(text) => write_string('!', text, out),
            Self::Array(elements) => write_all('*', elements, version, out),
            Self::Set(elements) => write_all(if older { '*' } else { '~' }, elements, version, out),
            Self::Push(elements) => write_all('>', elements, 3, out),
            Self::Map(pairs) if older => write_pairs(&format!("*{}\r\n", 2 * pairs.len()), pairs, version, out),
            Self::Map(pairs) => write_pairs(&format!("%{}\r\n", pairs.len()), pairs, version, out),
            Self::With(pairs, reply) => {
                if !older {
                    write_pairs(&format!("|{}\r\n", pairs.len()), pairs, version, out);
                }
                reply.write(version, out);
            }
        }
    }

    /// The type byte of the reply itself.
    fn kind(&self) -> u8 {
        if let Self::With(_, reply) = self {
            return reply.kind();
        }
        let mut out = Vec::new();
        self.write(3, &mut out);
        out[0]
    }

    /// Whether the other decoder knows all of it: no attributes within, no pushes within, and no RESP2 nulls.
    fn is_common(&self) -> bool {
        match self {
            Self::NoBulk | Self::NoArray | Self::Push(_) | Self::With(..) => false,
            Self::Simple(text) | Self::Error(text) => !text.contains(['\r', '\n']),
            Self::Verbatim(text) | Self::BlobError(text) => std::str::from_utf8(text).is_ok(),
            Self::Array(elements) => elements.iter().all(Self::is_common),
            Self::Set(elements) => elements.iter().all(|element| element.is_scalar() && element.is_common()),
            Self::Map(pairs) => {
                pairs.iter().all(|(key, value)| key.is_scalar() && key.is_common() && value.is_common())
            }
            _ => true,
        }
    }

    fn is_scalar(&self) -> bool {
        !matches!(self, Self::Array(_) | Self::Set(_) | Self::Map(_))
    }
}

fn write_string(kind: char, bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{kind}{}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn write_all(kind: char, elements: &[Reply], version: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{kind}{}\r\n", elements.len()).as_bytes());
    for element in elements {
        element.write(version, out);
    }
}

fn write_pairs(header: &str, pairs: &[(Reply, Reply)], version: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(header.as_bytes());
    for (key, value) in pairs {
        key.write(version, out);
        value.write(version, out);
    }
}

fn reply() -> impl Strategy<Value = Reply> {
    let leaf = prop_oneof![
        "(OK|[a-z \r]{0,5}|[a-z\n]{0,4})".prop_map(Reply::Simple),
        "[A-Z]{1,4} [a-z ]{0,8}".prop_map(Reply::Error),
        any::<i64>().prop_map(Reply::Integer),
        (0..200_i64).prop_map(Reply::Integer),
        text().prop_map(Reply::Bulk),
        Just(Reply::NoBulk),
        Just(Reply::NoArray),
        Just(Reply::Null),
        any::<bool>().prop_map(Reply::Boolean),
        prop_oneof![any::<f64>(), Just(f64::INFINITY), Just(f64::NEG_INFINITY)]
            .prop_filter("no number", |number| !number.is_nan())
            .prop_map(Reply::Double),
        "-?[1-9][0-9]{0,40}".prop_map(Reply::Big),
        text().prop_map(Reply::Verbatim),
        text().prop_map(Reply::BlobError),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let pairs = vec((inner.clone(), inner.clone()), 0..3);
        prop_oneof![
            3 => vec(inner.clone(), 0..5).prop_map(Reply::Array),
            1 => vec(inner.clone(), 0..4).prop_map(Reply::Set),
            1 => vec(inner.clone(), 0..3).prop_map(Reply::Push),
            1 => pairs.clone().prop_map(Reply::Map),
            1 => (pairs, inner).prop_map(|(pairs, reply)| Reply::With(pairs, Box::new(reply))),
        ]
    })
}
