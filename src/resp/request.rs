//! A resumable parser of client requests.
//!
//! Owns what counts as a request, exactly as Redis 7 has it (`processMultibulkBuffer`, `processInlineBuffer`): which
//! bytes it accepts, which limits apply, in which order errors are found and what they say. Never copies a canonical
//! request, never looks at a byte more than a few times however the bytes arrive, never reserves memory for what was
//! only announced. Called by the session for every request, and by whoever keeps requests as bytes.
//!
//! Redis skips some bytes unseen: the one after a header's `\r`, and the two after a bulk string. A request in which
//! those are not what they ought to be is understood, but its bytes must not travel on: [`Request::raw`] is then
//! encoded anew, as it is for inline requests. Other servers refuse it: where they differ ([`Quirk`]) the parser goes no
//! further before it is told what this one does.

use std::ops::Range;
use std::{fmt, mem};

use super::limits::{Limits, ProtocolError, Quirk, Stop};
use super::{decimal, encode, inline};

/// Argument spans and scratch bytes that a parser keeps from one request to the next.
const KEPT_ARGS: usize = 1024;
const KEPT_SCRATCH: usize = 64 * 1024;
/// Of an argument under way so many bytes are worth giving up: no command has so long an option.
const WORTH_CUTTING: u32 = 4096;
/// Argument spans that the parser of a quiet connection keeps: those of most requests.
const FEW_ARGS: usize = 4;

/// What [`Parser::parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The request goes on beyond the buffer: call again with more behind it.
    Incomplete,
    /// What comes next depends on whether the server has this quirk: call again with a grammar that knows.
    Unclear(Quirk),
    /// A request without arguments (a blank line, `*0`, `*-1`), to be dropped in silence.
    Empty {
        /// Bytes that it took from the buffer.
        consumed: usize,
    },
    /// A request, for [`Parser::request`] to show.
    Request {
        /// Bytes that it took from the buffer.
        consumed: usize,
    },
}

/// Where an argument is within a request's canonical bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// Both within a request, whose size fits 32 bits.
    #[inline]
    pub(super) fn new(start: usize, len: usize) -> Self {
        Self { start: start as u32, len: len as u32 }
    }

    #[inline]
    pub(super) fn range(self) -> Range<usize> {
        self.start as usize..self.end()
    }

    #[inline]
    fn end(self) -> usize {
        self.start as usize + self.len as usize
    }
}

/// Where in a request the parser stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Before its first byte.
    #[default]
    Start,
    /// In a line typed by hand.
    Inline,
    /// In the line with the number of arguments.
    Count,
    /// In the line with the length of an argument.
    Length,
    /// In an argument of this many bytes, or the two that follow it.
    Argument(u32),
    /// Behind it: shown until the next call.
    Done,
}

/// The parser of one connection's requests.
///
/// Holds no bytes of a canonical request: the caller keeps them in a buffer that begins with the request's first byte
/// until it is complete, and may move that buffer between calls.
#[derive(Debug, Default)]
pub struct Parser {
    /// The arguments complete so far.
    args: Vec<Span>,
    /// The canonical bytes of a request that did not arrive canonical.
    scratch: Vec<u8>,
    /// Everything before this byte of the request is understood.
    pos: usize,
    /// The line under way has no end before this byte of the request.
    scanned: usize,
    /// Arguments announced and not yet complete.
    missing: u32,
    phase: Phase,
    /// Whether some skipped byte was not what it ought to be.
    crooked: bool,
}

impl Parser {
    /// A parser before its first request. Allocates nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes up the request that `buf` begins with, where the last call on it stopped.
    ///
    /// After [`Parsed::Empty`] and [`Parsed::Request`] the next call begins a new request: `buf` must then begin behind
    /// the bytes consumed. After an error only [`Self::reset`] helps.
    #[inline]
    pub fn parse(&mut self, buf: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        if self.phase == Phase::Done {
            self.reset();
        }
        if self.phase == Phase::Start {
            match buf.first() {
                None => return Ok(Parsed::Incomplete),
                Some(b'*') => self.phase = Phase::Count,
                Some(_) => self.phase = Phase::Inline,
            }
        }
        let parsed = match self.phase {
            Phase::Inline => self.inline(buf, limits),
            Phase::Count => self.multibulk(buf, limits),
            _ => self.arguments(buf, limits),
        };
        match parsed {
            Ok(parsed) => Ok(parsed),
            Err(Stop::Unclear(quirk)) => Ok(Parsed::Unclear(quirk)),
            Err(Stop::Refused(error)) => Err(error),
        }
    }

    /// The request that the last call of [`Self::parse`] found; `buf` begins with the same bytes as then. Without one,
    /// an empty request.
    #[inline]
    pub fn request<'a>(&'a self, buf: &'a [u8]) -> Request<'a> {
        if self.phase != Phase::Done {
            return Request { raw: &[], args: &[] };
        }
        let raw = if self.crooked { &self.scratch[..] } else { buf.get(..self.pos).unwrap_or_default() };
        Request { raw, args: &self.args }
    }

    /// What is there of the request under way: its whole arguments so far, and the length of the one that has begun.
    /// `None` where it has none yet or is not canonical.
    pub fn unfinished<'a>(&'a self, buf: &'a [u8]) -> Option<(Request<'a>, usize)> {
        let begun = match self.phase {
            Phase::Argument(len) => len as usize,
            Phase::Length => 0,
            _ => return None,
        };
        (!self.crooked).then_some((Request { raw: buf, args: &self.args }, begun))
    }

    /// The number of arguments that the request under way, or the last one, has in all.
    pub fn announced(&self) -> usize {
        self.args.len() + self.missing as usize
    }

    /// Gives up what is there, at the end of a buffer of `len` bytes, of the argument under way: the buffer ends where this
    /// says from now on, and the argument is shown as those of its bytes that are still to come. `None` where so little is there
    /// of one that it may be an option, or its end is.
    pub fn cut(&mut self, len: usize) -> Option<usize> {
        let Phase::Argument(left) = &mut self.phase else { return None };
        let there = u32::try_from(len.checked_sub(self.pos)?).ok()?;
        if there < WORTH_CUTTING || there > *left {
            return None;
        }
        *left -= there;
        Some(self.pos)
    }

    /// Whether the request that was found is, byte for byte, what arrived.
    pub fn is_canonical(&self) -> bool {
        !self.crooked
    }

    /// Forgets a request under way, and the last one.
    #[inline]
    pub fn reset(&mut self) {
        self.args.clear();
        if self.args.capacity() > KEPT_ARGS {
            self.args = Vec::new();
        }
        self.pos = 0;
        self.scanned = 0;
        self.missing = 0;
        self.phase = Phase::Start;
        if self.crooked {
            self.crooked = false;
            self.scratch.clear();
            self.scratch.shrink_to(KEPT_SCRATCH);
        }
    }

    /// Gives memory back: for a connection that is quiet. Forgets the last request; one under way goes on.
    pub fn shrink(&mut self) {
        if matches!(self.phase, Phase::Start | Phase::Done) {
            let mut args = mem::take(&mut self.args);
            args.clear();
            args.shrink_to(FEW_ARGS); // not to none, or the next request had to ask for memory again
            *self = Self { args, ..Self::default() };
        }
    }

    /// The header with the number of arguments, then those.
    #[inline]
    fn multibulk(&mut self, buf: &[u8], limits: &Limits) -> Result<Parsed, Stop> {
        let header = match decimal::quick_header(buf, b'*') {
            Some((count, length)) => Some((i64::from(count), length)),
            None => self.odd_header(buf, 0, b'*', limits)?,
        };
        let Some((count, length)) = header else {
            return Ok(Parsed::Incomplete);
        };
        self.missing = limits.admit_count(count).ok_or_else(|| limits.refuse_count(count))?;
        if self.missing == 0 {
            self.phase = Phase::Done;
            return Ok(Parsed::Empty { consumed: length });
        }
        self.pos = length;
        self.phase = Phase::Length;
        self.arguments(buf, limits)
    }

    /// As many arguments as are there. The state is in locals meanwhile, and the usual header takes no detour: this
    /// loop is most of what a request costs.
    #[inline]
    fn arguments(&mut self, buf: &[u8], limits: &Limits) -> Result<Parsed, Stop> {
        let mut begun = if let Phase::Argument(len) = self.phase { Some(len) } else { None };
        let mut pos = self.pos;
        for missing in (1..=self.missing).rev() {
            let len = if let Some(len) = begun.take() {
                len
            } else {
                let line = buf.get(pos..).unwrap_or_default();
                let (len, length) = if let Some((len, length)) = decimal::quick_header(line, b'$') {
                    (i64::from(len), length)
                } else {
                    let parsed = self.stop_at(pos, missing, Phase::Length);
                    match self.odd_header(buf, pos, b'$', limits)? {
                        Some(header) => header,
                        None => return Ok(parsed),
                    }
                };
                pos += length;
                limits.admit_argument(len, pos).ok_or_else(|| limits.refuse_argument(len))?
            };
            let end = pos + len as usize;
            let Some(trailer) = buf.get(end..end + 2) else {
                return Ok(self.stop_at(pos, missing, Phase::Argument(len)));
            };
            if trailer != b"\r\n" {
                self.stop_at(pos, missing, Phase::Argument(len));
                self.skip_line_end(limits)?;
            }
            self.args.push(Span::new(pos, len as usize));
            pos = end + 2;
        }
        self.stop_at(pos, 0, Phase::Done);
        if self.crooked {
            self.encode_anew(buf);
        }
        Ok(Parsed::Request { consumed: pos })
    }

    #[inline]
    fn stop_at(&mut self, pos: usize, missing: u32, phase: Phase) -> Parsed {
        self.pos = pos;
        self.missing = missing;
        self.phase = phase;
        Parsed::Incomplete
    }

    /// Something else stands where a line or an argument ends.
    #[cold]
    fn skip_line_end(&mut self, limits: &Limits) -> Result<(), Stop> {
        if !limits.grammar.ask(Quirk::SkipsLineEnds)? {
            return Err(ProtocolError::LineEnd.into());
        }
        self.crooked = true;
        Ok(())
    }

    /// The number in the header at `pos` and the header's length, whatever the line holds and however much of it is
    /// there.
    #[cold]
    fn odd_header(&mut self, buf: &[u8], pos: usize, kind: u8, limits: &Limits) -> Result<Option<(i64, usize)>, Stop> {
        let (endless, invalid) = match kind {
            b'*' => (ProtocolError::MultibulkLine, ProtocolError::MultibulkLength),
            _ => (ProtocolError::BulkLine, ProtocolError::BulkLength),
        };
        let Some(line) = self.line(buf, pos, b'\r', limits, endless)? else {
            return Ok(None);
        };
        // Redis judges nothing of a line before it has the byte behind the '\r' too, though it never looks at that.
        let Some(feed) = buf.get(pos + line.len() + 1) else {
            return Ok(None);
        };
        let digits = line.strip_prefix(&[kind]).ok_or(ProtocolError::ExpectedBulk(buf[pos]))?;
        if *feed != b'\n' {
            self.skip_line_end(limits)?;
        }
        let number = decimal::strict(digits).ok_or(invalid)?;
        Ok(Some((number, line.len() + 2)))
    }

    /// The line from `pos` up to the byte `end`. Where that is searched for with C's string functions, a NUL hides every end
    /// behind it, and the line goes on until it is too long.
    fn line<'a>(
        &mut self,
        buf: &'a [u8],
        pos: usize,
        end: u8,
        limits: &Limits,
        endless: ProtocolError,
    ) -> Result<Option<&'a [u8]>, Stop> {
        let limit = limits.inline.min(limits.request);
        let line = buf.get(pos..).unwrap_or_default();
        let mut seen = self.scanned.saturating_sub(pos).min(line.len());
        loop {
            let stop = line[seen..].iter().position(|&byte| byte == end || byte == 0);
            seen = stop.map_or(line.len(), |unseen| seen + unseen);
            self.scanned = pos + seen;
            match line.get(seen) {
                Some(found) if *found == end && seen <= limit => return Ok(Some(&line[..seen])),
                // All servers search for the end of an inline request with C's functions.
                Some(0) if end == b'\r' && !limits.grammar.ask(Quirk::NulHidesLineEnd)? => seen += 1,
                _ => break,
            }
        }
        if line.len() > limit { Err(endless.into()) } else { Ok(None) }
    }

    /// A request typed by hand.
    #[cold]
    fn inline(&mut self, buf: &[u8], limits: &Limits) -> Result<Parsed, Stop> {
        let Some(line) = self.line(buf, 0, b'\n', limits, ProtocolError::InlineLine)? else {
            return Ok(Parsed::Incomplete);
        };
        let mut text = Vec::new();
        self.args.clear(); // of what was split before it was clear how
        inline::split(line.strip_suffix(b"\r").unwrap_or(line), limits.grammar, &mut text, &mut self.args)?;
        self.phase = Phase::Done;
        self.crooked = true;
        let consumed = line.len() + 1;
        if self.args.is_empty() {
            return Ok(Parsed::Empty { consumed });
        }
        self.encode_anew(&text);
        Ok(Parsed::Request { consumed })
    }

    /// Writes the arguments, which are spans of `source`, into the scratch as a canonical request, and makes them spans
    /// of that.
    #[cold]
    fn encode_anew(&mut self, source: &[u8]) {
        encode::array_header(&mut self.scratch, self.args.len());
        for span in &mut self.args {
            encode::bulk(&mut self.scratch, &source[span.range()]);
            *span = Span::new(self.scratch.len() - 2 - span.len as usize, span.len as usize);
        }
    }
}

/// A complete request, borrowed from a buffer and a parser.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    raw: &'a [u8],
    args: &'a [Span],
}

impl<'a> Request<'a> {
    /// Rebuilds a request from its own [`raw`](Self::raw) bytes, kept somewhere; `spans` is room for the arguments'
    /// places. `None` unless `raw` is one canonical request and nothing else.
    pub fn parse_canonical(raw: &'a [u8], spans: &'a mut Vec<Span>) -> Option<Self> {
        let (raw, behind) = Self::split_canonical(raw, spans)?;
        behind.is_empty().then_some(Self { raw, args: spans })
    }

    /// The first of several requests as [`raw`](Self::raw) gives them, one behind the other. None where there is none.
    pub fn parse_first(raw: &'a [u8], spans: &'a mut Vec<Span>) -> Option<Self> {
        let (raw, _) = Self::split_canonical(raw, spans)?;
        Some(Self { raw, args: spans })
    }

    /// The bytes of the first request, whose arguments are in `spans` then, and those behind it.
    fn split_canonical(raw: &'a [u8], spans: &mut Vec<Span>) -> Option<(&'a [u8], &'a [u8])> {
        const NO_LIMITS: Limits =
            Limits { inline: 32, bulk: u64::MAX, args: u64::MAX, request: usize::MAX, ..Limits::authenticated() };
        spans.clear();
        let mut parser = Parser { args: mem::take(spans), ..Parser::default() };
        let parsed = parser.parse(raw, &NO_LIMITS);
        let crooked = parser.crooked;
        *spans = parser.args;
        match parsed {
            Ok(Parsed::Request { consumed }) if !crooked => Some(raw.split_at(consumed)),
            _ => None,
        }
    }

    /// The request as an array of bulk strings in the one canonical way to write it: the client's own bytes where they
    /// were that. Fit to be sent on a connection that others share.
    #[inline]
    pub fn raw(self) -> &'a [u8] {
        self.raw
    }

    /// The number of arguments, the command's name included. At least 1.
    #[inline]
    pub fn argc(self) -> usize {
        self.args.len()
    }

    /// The argument `index`, where 0 is the command's name; empty out of range.
    #[inline]
    pub fn arg(self, index: usize) -> &'a [u8] {
        self.args.get(index).and_then(|span| self.raw.get(span.range())).unwrap_or_default()
    }

    /// All arguments, the command's name first.
    #[inline]
    pub fn args(self) -> impl ExactSizeIterator<Item = &'a [u8]> + DoubleEndedIterator + Clone + use<'a> {
        self.args.iter().map(move |span| self.raw.get(span.range()).unwrap_or_default())
    }

    /// The raw bytes behind the first `skip` arguments, for a command put together anew from another's arguments;
    /// empty where there are none.
    #[inline]
    pub fn tail(self, skip: usize) -> &'a [u8] {
        let start = match skip.checked_sub(1) {
            Some(last) => self.args.get(last).map(|span| span.end() + 2),
            None => self.raw.iter().position(|&byte| byte == b'\n').map(|feed| feed + 1),
        };
        start.and_then(|start| self.raw.get(start..)).unwrap_or_default()
    }
}

impl fmt::Debug for Request<'_> {
    /// The name and the number of arguments: those themselves may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({}, {} arguments)", self.arg(0).escape_ascii(), self.argc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Grammar;

    /// What comes of all of `input` at once: the requests, then the error or the bytes left over.
    fn run(input: &[u8], limits: &Limits) -> (Vec<Vec<Vec<u8>>>, Result<usize, ProtocolError>) {
        let (mut parser, mut requests, mut rest) = (Parser::new(), Vec::new(), input);
        loop {
            match parser.parse(rest, limits) {
                Ok(Parsed::Incomplete | Parsed::Unclear(_)) => return (requests, Ok(rest.len())),
                Ok(Parsed::Empty { consumed }) => rest = &rest[consumed..],
                Ok(Parsed::Request { consumed }) => {
                    requests.push(parser.request(rest).args().map(<[u8]>::to_vec).collect());
                    rest = &rest[consumed..];
                }
                Err(error) => return (requests, Err(error)),
            }
        }
    }

    #[track_caller]
    fn refused(input: &[u8], error: ProtocolError) {
        assert_eq!(run(input, &Limits::authenticated()).1, Err(error), "{}", input.escape_ascii());
    }

    #[track_caller]
    fn incomplete(input: &[u8]) {
        assert_eq!(run(input, &Limits::authenticated()), (vec![], Ok(input.len())), "{}", input.escape_ascii());
    }

    #[track_caller]
    fn request(input: &[u8], raw: &[u8]) {
        let mut parser = Parser::new();
        let parsed = parser.parse(input, &Limits::authenticated());
        assert_eq!(parsed, Ok(Parsed::Request { consumed: input.len() }), "{}", input.escape_ascii());
        assert_eq!(parser.request(input).raw().escape_ascii().to_string(), raw.escape_ascii().to_string());
    }

    #[test]
    fn a_parser_is_small() {
        assert!(size_of::<Parser>() < 100);
        assert_eq!(size_of::<Result<Parsed, ProtocolError>>(), 16, "passed in registers");
    }

    #[test]
    fn canonical_requests_are_not_copied() {
        let input = b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n";
        let mut parser = Parser::new();
        parser.parse(input, &Limits::authenticated()).expect("valid");
        let request = parser.request(input);
        assert!(std::ptr::eq(request.raw(), input));
        assert_eq!(request.argc(), 2);
        assert_eq!((request.arg(0), request.arg(1), request.arg(2)), (&b"GET"[..], &b""[..], &b""[..]));
        assert_eq!(request.tail(0), b"$3\r\nGET\r\n$0\r\n\r\n");
        assert_eq!(request.tail(1), b"$0\r\n\r\n");
        assert_eq!(request.tail(2), b"");
        assert_eq!(request.tail(usize::MAX), b"");
    }

    #[test]
    fn skipped_bytes_are_put_right() {
        let ping = b"*1\r\n$4\r\nPING\r\n";
        request(b"*1\rX$4\r\nPING\r\n", ping);
        request(b"*1\r\n$4\rXPING\r\n", ping);
        request(b"*1\r\n$4\r\nPINGXY", ping);
        request(b"*1\r\n$4\r\nPING\n\r", ping);
        request(b"*2\r\n$4\r\nPINGXY$12\r\n0123456789ab\0\0", b"*2\r\n$4\r\nPING\r\n$12\r\n0123456789ab\r\n");
    }

    #[test]
    fn a_server_that_is_strict_has_them_refused() {
        let refused = |input: &[u8], error| {
            let strict = Limits { grammar: Grammar::VALKEY, ..Limits::authenticated() };
            assert_eq!(run(input, &strict).1, Err(error), "{}", input.escape_ascii());
        };
        for input in
            [&b"*1\rX$4\r\nPING\r\n"[..], b"*x\rX", b"*1\r\n$4\rXPING\r\n", b"*1\r\n$x\rX", b"*1\r\n$4\r\nPING\n\r"]
        {
            refused(input, ProtocolError::LineEnd);
        }
        refused(b"*1\r\nPING\rX", ProtocolError::ExpectedBulk(b'P'));
        refused(b"*1\0\r\n", ProtocolError::MultibulkLength);
        refused(b"*1\r\n$4\0\0\r\n", ProtocolError::BulkLength);
    }

    #[test]
    fn what_servers_read_differently_is_asked_about_and_read_on() {
        let cases: [(&[u8], &[Quirk]); 5] = [
            (b"*2\rX$4\rXPINGXY$1\r\naXY", &[Quirk::SkipsLineEnds]),
            (b"*1\r\n$4\r\nPINGXY", &[Quirk::SkipsLineEnds]),
            (b"*1\r\n$4\0\r\n", &[Quirk::NulHidesLineEnd]),
            (b"PING \"a\"b\r\n", &[Quirk::JoinsQuotes]),
            (b"PING \"a\"b 'c\\'\r\n", &[Quirk::JoinsQuotes, Quirk::LastBackslash]),
        ];
        for (input, quirks) in cases {
            for known in [Grammar::REDIS, Grammar::VALKEY] {
                let limits = Limits { grammar: known, ..Limits::authenticated() };
                let mut at_once = Parser::new();
                let expected = at_once.parse(input, &limits);
                // Asked at whatever byte the input is cut, and answered each time.
                for cut in 0..=input.len() {
                    let (mut parser, mut asked, mut end) = (Parser::new(), Vec::new(), Ok(Parsed::Incomplete));
                    for part in [&input[..cut], input] {
                        let mut limits = Limits { grammar: Grammar::UNKNOWN, ..limits };
                        end = parser.parse(part, &limits);
                        while let Ok(Parsed::Unclear(quirk)) = end {
                            assert_eq!(limits.grammar.has(quirk), None, "it was told");
                            asked.push(quirk);
                            limits.grammar = limits.grammar.with(quirk, known.has(quirk).expect("all are known"));
                            end = parser.parse(part, &limits);
                        }
                        if end != Ok(Parsed::Incomplete) {
                            break;
                        }
                    }
                    assert_eq!(end, expected, "{} cut at {cut}", input.escape_ascii());
                    assert_eq!(parser.request(input).raw(), at_once.request(input).raw());
                    assert!(asked.iter().all(|quirk| quirks.contains(quirk)) && !asked.is_empty());
                }
            }
        }
    }

    #[test]
    fn inline_requests_become_multibulk() {
        request(b"PING\r\n", b"*1\r\n$4\r\nPING\r\n");
        request(b" GET\t'' \n", b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n");
        request(b"$3\r\n", b"*1\r\n$2\r\n$3\r\n");
        request(b" *1\r\n", b"*1\r\n$2\r\n*1\r\n");
        refused(b"GET \"a\n", ProtocolError::UnbalancedQuotes);
    }

    #[test]
    fn requests_without_arguments_pass_in_silence() {
        for input in [&b"\r\n"[..], b"\n", b"  \t\r\n", b"*0\r\n", b"*-1\r\n", b"*-9223372036854775808\r\n", b"*0\rX"] {
            let mut parser = Parser::new();
            let empty = parser.parse(input, &Limits::authenticated());
            assert_eq!(empty, Ok(Parsed::Empty { consumed: input.len() }), "{}", input.escape_ascii());
            assert_eq!(parser.request(input).argc(), 0);
            let after = [input, b"*1\r\n$1\r\na\r\n"].concat();
            assert_eq!(run(&after, &Limits::authenticated()), (vec![vec![b"a".to_vec()]], Ok(0)));
        }
    }

    #[test]
    fn counts_are_as_strict_as_in_redis() {
        for count in ["", "x", "01", "+1", "1 ", " 1", "-0", "-", "1x", "2147483648", "9223372036854775808"] {
            refused(format!("*{count}\r\n").as_bytes(), ProtocolError::MultibulkLength);
        }
        for length in ["", "x", "01", "+1", "-1", "-0", "536870913", "4294967296", "9223372036854775807"] {
            refused(format!("*1\r\n${length}\r\n").as_bytes(), ProtocolError::BulkLength);
        }
        incomplete(b"*2147483647\r\n$536870912\r\n");
        refused(b"*1\r\nGET\r\n", ProtocolError::ExpectedBulk(b'G'));
        refused(b"*1\r\n\r\n", ProtocolError::ExpectedBulk(b'\r'));
        refused(b"*2\r\n$1\r\na\r\n:1\r\n", ProtocolError::ExpectedBulk(b':'));
    }

    #[test]
    fn nothing_is_judged_before_redis_would() {
        for input in
            [&b"*"[..], b"*x", b"*x\r", b"*1\r\nGET", b"*1\r\nGET\r", b"*1\r\n$x\r", b"*1\r\n$1\r\na\r", b"\"a"]
        {
            incomplete(input);
        }
    }

    #[test]
    fn lines_that_do_not_end() {
        let limits = Limits::authenticated();
        let cases = [
            ("", '*', ProtocolError::MultibulkLine),
            ("*1\r\n", '$', ProtocolError::BulkLine),
            ("*2\r\n$1\r\na\r\n", '$', ProtocolError::BulkLine),
            ("", 'G', ProtocolError::InlineLine),
        ];
        for (before, first, error) in cases {
            let parse = |after: &str| {
                let line = format!("{before}{first}{}{after}", "1".repeat(limits.inline - 1));
                Parser::new().parse(line.as_bytes(), &limits)
            };
            assert_eq!(parse(""), Ok(Parsed::Incomplete));
            assert_eq!(parse("1"), Err(error));
            assert_eq!(parse("1\r\n"), Err(error));
            let line = format!("{before}{first}\0\r\n");
            incomplete(line.as_bytes()); // a NUL hides the line's end
            assert_eq!(parse("\0\r\n"), Err(error));
        }
    }

    #[test]
    fn unauthenticated_clients_send_little() {
        let limits = Limits::unauthenticated();
        let check = |input: &str, result| assert_eq!(run(input.as_bytes(), &limits).1, result, "{input:?}");
        check("*10\r\n", Ok(5));
        check("*11\r\n", Err(ProtocolError::UnauthenticatedMultibulkLength));
        check("*2147483648\r\n", Err(ProtocolError::MultibulkLength));
        check("*1\r\n$16384\r\n", Ok(12));
        check("*1\r\n$16385\r\n", Err(ProtocolError::UnauthenticatedBulkLength));
        check("*1\r\n$536870913\r\n", Err(ProtocolError::BulkLength));
    }

    #[test]
    fn a_request_as_a_whole_is_bounded() {
        let limits = Limits { request: 28, ..Limits::authenticated() };
        let most = b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$4\r\ncccc\r\n";
        assert_eq!(run(most, &limits).1, Ok(0));
        assert_eq!(run(b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$5\r\n", &limits).1, Err(ProtocolError::RequestSize));
        assert_eq!(
            run(&[b"*9\r\n", &b"$0\r\n\r\n".repeat(9)[..]].concat(), &limits).1,
            Err(ProtocolError::RequestSize)
        );
        assert_eq!(run(&b"x".repeat(29), &limits).1, Err(ProtocolError::InlineLine));
        let unlimited = Limits { request: usize::MAX, bulk: u64::MAX, ..limits };
        assert_eq!(run(b"*1\r\n$4294967290\r\n", &unlimited).1, Err(ProtocolError::RequestSize));
        assert_eq!(run(b"*1\r\n$9223372036854775807\r\n", &unlimited).1, Err(ProtocolError::RequestSize));
        assert_eq!(run(b"*1\r\n$-1\r\n", &unlimited).1, Err(ProtocolError::BulkLength));
    }

    #[test]
    fn announcements_reserve_nothing() {
        let mut parser = Parser::new();
        let announced = b"*2147483647\r\n$536870912\r\n";
        assert_eq!(parser.parse(announced, &Limits::authenticated()), Ok(Parsed::Incomplete));
        assert_eq!(parser.args.capacity() + parser.scratch.capacity(), 0);
    }

    #[test]
    fn memory_of_large_requests_does_not_stay() {
        let limits = Limits::authenticated();
        let many = [b"*5000\r\n", &b"$20\r\nxxxxxxxxxxxxxxxxxxxxXX".repeat(5000)[..]].concat();
        let mut parser = Parser::new();
        assert_eq!(parser.parse(&many, &limits), Ok(Parsed::Request { consumed: many.len() }));
        assert_eq!(parser.request(&many).args().len(), 5000);
        parser.parse(b"", &limits).expect("nothing yet");
        assert!(parser.args.capacity() <= KEPT_ARGS && parser.scratch.capacity() <= KEPT_SCRATCH);

        parser.parse(b"PING\r\n", &limits).expect("valid");
        parser.shrink();
        assert!(parser.args.capacity() <= FEW_ARGS, "{}", parser.args.capacity());
        assert_eq!(parser.scratch.capacity(), 0);
    }

    #[test]
    fn an_argument_can_be_cut_wherever_it_arrives_in_pieces() {
        let limits = Limits::authenticated();
        let value = vec![b'v'; 20_000];
        let mut whole = b"*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$20000\r\n".to_vec();
        let begins = whole.len();
        whole.extend([&value[..], b"\r\n$2\r\nNX\r\n*1\r\n"].concat());
        for first in (0..=whole.len()).step_by(3) {
            for more in [700, 5000, 30_000] {
                let (mut parser, mut buf, mut from, mut cut) = (Parser::new(), Vec::new(), 0, 0);
                let consumed = loop {
                    let to = if from == 0 { first } else { from + more }.min(whole.len());
                    buf.extend_from_slice(&whole[from..to]);
                    from = to.max(1).min(whole.len());
                    if to == 0 {
                        buf.push(whole[0]);
                    }
                    match parser.parse(&buf, &limits).expect("valid") {
                        Parsed::Request { consumed } => break consumed,
                        _ => {
                            if let Some(end) = parser.cut(buf.len()) {
                                assert_eq!(parser.cut(end), None);
                                cut += buf.len() - end;
                                buf.truncate(end);
                            }
                        }
                    }
                };
                let request = parser.request(&buf);
                assert_eq!((request.argc(), parser.announced()), (4, 4));
                assert_eq!(consumed + cut, begins + 20_000 + 2 + 8);
                assert_eq!(request.arg(3), b"NX");
                assert!(request.arg(2).len() == 20_000 - cut && (cut > 0 || !(4200..=20_000).contains(&first)));
            }
        }
    }

    #[test]
    fn shrinking_spares_a_request_under_way() {
        let (limits, input) = (Limits::authenticated(), b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
        let mut parser = Parser::new();
        parser.parse(&input[..16], &limits).expect("valid");
        parser.shrink();
        assert_eq!(parser.parse(input, &limits), Ok(Parsed::Request { consumed: input.len() }));
        assert_eq!(parser.request(input).arg(0), b"GET");
    }

    #[test]
    fn a_reset_forgets_a_request_under_way() {
        let limits = Limits::authenticated();
        let mut parser = Parser::new();
        parser.parse(b"*2\r\n$3\rXGET\r\n$", &limits).expect("valid");
        parser.reset();
        let input = b"*1\r\n$1\r\na\r\n";
        assert_eq!(parser.parse(input, &limits), Ok(Parsed::Request { consumed: input.len() }));
        assert_eq!(parser.request(input).raw(), input);
    }

    #[test]
    fn stored_requests_are_rebuilt() {
        let mut spans = Vec::new();
        let raw = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
        let request = Request::parse_canonical(raw, &mut spans).expect("canonical");
        assert_eq!((request.arg(0), request.arg(1), request.argc()), (&b"GET"[..], &b"k"[..], 2));
        let others = [
            &raw[..raw.len() - 1],
            b"",
            b"*0\r\n",
            b"PING\r\n",
            b"*1\r\n$1\r\naXX",
            b"*1\rX$1\r\na\r\n",
            b"*1\r\nx\r\n",
        ];
        for other in others {
            assert!(Request::parse_canonical(other, &mut spans).is_none(), "{}", other.escape_ascii());
        }
        let trailing = [&raw[..], b"x"].concat();
        assert!(Request::parse_canonical(&trailing, &mut spans).is_none());
        let first = Request::parse_first(&trailing, &mut spans).expect("what is behind it does not matter");
        assert_eq!((first.raw(), first.argc()), (&raw[..], 2));
    }
}
