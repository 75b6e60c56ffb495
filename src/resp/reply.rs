//! Where a reply ends, found without building it.
//!
//! Owns the state of one reply stream between two reads: a few counters, however large or deep the reply. Never keeps
//! or copies a byte, never recurses: one number, the elements still missing, stands for all levels of nesting. Called
//! by whatever reads from Redis, and by the downgrade to step over what it does not change.
//!
//! Strict where Redis is: an unknown type, a number written in another way, a string not followed by its line end mean
//! that both sides no longer agree on where replies begin, and the connection is lost. Streamed types (`$?`, `*?`),
//! which no server sends, count as that too.

use super::decimal;

/// Finds the ends of replies in a stream of bytes, RESP2 or RESP3, handed to it piece by piece.
#[derive(Clone, Debug, Default)]
pub struct Splitter {
    /// Elements of the reply under way that have not ended; 0 between replies.
    missing: u64,
    /// In a header line the number so far; in a string the bytes still to come, its line end included.
    number: u64,
    state: SplitState,
    /// The type of the element under way.
    element: u8,
    /// The type of the reply under way.
    kind: u8,
    /// Digits of the number so far, of which 20 are the most.
    digits: u8,
    negative: bool,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SplitState {
    /// The type byte of an element.
    #[default]
    Type,
    /// The first byte of a header line's number: a digit or a sign.
    Sign,
    /// A digit, or the line's `\r`.
    Digit,
    /// `t` or `f`.
    Truth,
    /// The `\r` of a line whose content is complete.
    Return,
    /// The `\n` of such a line.
    Feed,
    /// Text up to `\r\n`.
    Text,
    /// Likewise, behind a `\r`.
    TextFeed,
    /// A string of known length.
    Body,
}

/// What [`Splitter::split`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The whole buffer belongs to a reply that goes on behind it.
    More,
    /// The reply ends with this many bytes of the buffer.
    End(usize),
}

/// Bytes that cannot be a reply: the stream is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No type begins with this byte.
    #[error("unknown reply type {:?}", char::from(*.0))]
    Type(u8),
    /// A header line that does not say what its type asks for.
    #[error("malformed reply header")]
    Header,
    /// A string that is longer than its header says.
    #[error("reply string without its line end")]
    Trailer,
    /// More elements than can be counted.
    #[error("reply with too many elements")]
    Size,
    /// The bytes end within a reply that was said to be whole.
    #[error("reply cut short")]
    Truncated,
}

impl Splitter {
    /// Takes the next bytes of the stream, up to the end of the reply under way.
    ///
    /// After [`Split::End`] the next call begins with the next reply's first byte; after an error the splitter is of no
    /// more use.
    #[inline]
    pub fn split(&mut self, buf: &[u8]) -> Result<Split, Malformed> {
        if self.at_start()
            && let Some(end) = whole(buf)
        {
            self.kind = buf[0];
            return Ok(Split::End(end));
        }
        self.walk(buf)
    }

    /// The type byte of the reply under way, or of the one just ended; of what attributes precede, not of those. 0
    /// before the first reply.
    #[inline]
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// Whether the next byte begins a reply.
    #[inline]
    pub fn at_start(&self) -> bool {
        self.missing == 0
    }

    /// Bytes still to come of a string under way, its line end included; 0 elsewhere. Not what is still to come of the
    /// whole reply, which nobody knows.
    #[inline]
    pub fn announced(&self) -> u64 {
        if self.state == SplitState::Body { self.number } else { 0 }
    }

    fn walk(&mut self, buf: &[u8]) -> Result<Split, Malformed> {
        let mut at = 0;
        while let Some(&byte) = buf.get(at) {
            let rest = &buf[at..];
            at += match self.state {
                SplitState::Type => self.begin(byte, rest)?,
                SplitState::Body => self.body(rest)?,
                SplitState::Text => self.text(rest),
                _ => {
                    self.line_byte(byte)?;
                    1
                }
            };
            if self.missing == 0 {
                return Ok(Split::End(at));
            }
        }
        Ok(Split::More)
    }

    /// Takes up an element of the type `kind`, with which `rest` begins. The number of bytes that this is clear about.
    #[inline]
    fn begin(&mut self, kind: u8, rest: &[u8]) -> Result<usize, Malformed> {
        if self.missing == 0 {
            self.missing = 1;
            self.kind = kind;
        } else if self.missing == 1 && self.kind == b'|' {
            // What the reply's attributes say is over: this is the reply itself.
            self.kind = kind;
        }
        if let Some(length) = whole(rest) {
            self.end_element();
            return Ok(length);
        }
        self.element = kind;
        self.negative = false;
        self.state = match kind {
            b'+' | b'-' | b',' | b'(' => SplitState::Text,
            b'_' => SplitState::Return,
            b'#' => SplitState::Truth,
            b':' | b'$' | b'=' | b'!' | b'*' | b'~' | b'>' | b'%' | b'|' => {
                self.number = 0;
                self.digits = 0;
                if let Some((number, length)) = decimal::quick(&rest[1..]) {
                    self.number = u64::from(number);
                    self.end_line()?;
                    return Ok(1 + length);
                }
                SplitState::Sign
            }
            unknown => return Err(Malformed::Type(unknown)),
        };
        Ok(1)
    }

    /// One byte of a header line, or of the end of a line of text.
    fn line_byte(&mut self, byte: u8) -> Result<(), Malformed> {
        match (self.state, byte) {
            (SplitState::Sign | SplitState::Digit, _) => self.number_byte(byte)?,
            (SplitState::Truth, b't' | b'f') => self.state = SplitState::Return,
            (SplitState::Return, b'\r') => self.state = SplitState::Feed,
            (SplitState::Feed, b'\n') => self.end_line()?,
            (SplitState::TextFeed, b'\n') => self.end_element(),
            (SplitState::TextFeed, b'\r') => {}
            (SplitState::TextFeed, _) => self.state = SplitState::Text,
            _ => return Err(Malformed::Header),
        }
        Ok(())
    }

    /// Steps over as much of a text as is there.
    #[inline]
    fn text(&mut self, rest: &[u8]) -> usize {
        match rest.iter().position(|&byte| byte == b'\r') {
            Some(end) if rest.get(end + 1) == Some(&b'\n') => {
                self.end_element();
                end + 2
            }
            Some(end) => {
                self.state = SplitState::TextFeed;
                end + 1
            }
            None => rest.len(),
        }
    }

    fn number_byte(&mut self, byte: u8) -> Result<(), Malformed> {
        match byte {
            b'0'..=b'9' => {
                let leading_zero = self.digits > 0 && self.number == 0;
                if leading_zero {
                    return Err(Malformed::Header);
                }
                let longer = self.number.checked_mul(10).and_then(|number| number.checked_add(u64::from(byte - b'0')));
                self.number = longer.ok_or(Malformed::Header)?;
                self.digits += 1;
                self.state = SplitState::Digit;
            }
            b'-' if self.state == SplitState::Sign => {
                self.negative = true;
                self.state = SplitState::Digit;
            }
            b'\r' if self.digits > 0 => self.state = SplitState::Feed,
            _ => return Err(Malformed::Header),
        }
        Ok(())
    }

    /// Acts on a header line, which is complete.
    #[inline]
    fn end_line(&mut self) -> Result<(), Malformed> {
        let number = self.number;
        if self.negative && self.element != b':' {
            // Absent strings and arrays are all that is ever negative.
            let absent = number == 1 && matches!(self.element, b'$' | b'*');
            if !absent {
                return Err(Malformed::Header);
            }
            self.end_element();
            return Ok(());
        }
        match self.element {
            b'$' | b'=' | b'!' => {
                self.number = number.checked_add(2).ok_or(Malformed::Size)?;
                self.state = SplitState::Body;
            }
            b'*' | b'~' | b'>' => {
                self.end_element();
                self.missing = self.missing.checked_add(number).ok_or(Malformed::Size)?;
            }
            b'%' => {
                self.end_element();
                self.expect_pairs(number)?;
            }
            b'|' => {
                // Not an element: what it precedes still is to come.
                self.state = SplitState::Type;
                self.expect_pairs(number)?;
            }
            _ => self.end_element(),
        }
        Ok(())
    }

    fn expect_pairs(&mut self, pairs: u64) -> Result<(), Malformed> {
        let elements = pairs.checked_mul(2).and_then(|elements| self.missing.checked_add(elements));
        self.missing = elements.ok_or(Malformed::Size)?;
        Ok(())
    }

    /// Steps over as much of a string as is there; the last two bytes must be a line end.
    #[inline]
    fn body(&mut self, rest: &[u8]) -> Result<usize, Malformed> {
        let taken = usize::try_from(self.number).map_or(rest.len(), |number| number.min(rest.len()));
        self.number -= taken as u64;
        let line_end: &[u8] = match self.number {
            0 => b"\r\n",
            1 => b"\r",
            _ => b"",
        };
        // Of a line end that arrived in two pieces, only the last byte is here.
        let here = &line_end[line_end.len().saturating_sub(taken)..];
        if !rest[..taken].ends_with(here) {
            return Err(Malformed::Trailer);
        }
        if self.number == 0 {
            self.end_element();
        }
        Ok(taken)
    }

    #[inline]
    fn end_element(&mut self) {
        self.missing -= 1;
        self.state = SplitState::Type;
    }
}

/// The length of the element that `buf` begins with, if it is of the most frequent kinds and wholly there.
#[inline]
fn whole(buf: &[u8]) -> Option<usize> {
    match buf.first()? {
        b'$' => whole_bulk(buf).or_else(|| buf.starts_with(b"$-1\r\n").then_some(5)),
        b'+' => buf.starts_with(b"+OK\r\n").then_some(5),
        b'_' => buf.starts_with(b"_\r\n").then_some(3),
        _ => None,
    }
}

/// The length of the bulk string that `buf` begins with, headers and all, if it is wholly there.
#[inline]
pub(super) fn whole_bulk(buf: &[u8]) -> Option<usize> {
    let (length, header) = decimal::quick_header(buf, b'$')?;
    let end = header + length as usize;
    (buf.get(end..end + 2)? == b"\r\n").then_some(end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn whole_in_one(reply: &[u8], kind: u8) {
        let mut splitter = Splitter::default();
        let stream = [reply, b"+next"].concat();
        assert_eq!(splitter.split(&stream), Ok(Split::End(reply.len())), "{}", reply.escape_ascii());
        assert_eq!(splitter.kind(), kind);
        assert!(splitter.at_start());

        let mut splitter = Splitter::default();
        for (at, byte) in reply.iter().enumerate() {
            let expected = if at + 1 == reply.len() { Split::End(1) } else { Split::More };
            assert_eq!(splitter.split(&[*byte]), Ok(expected), "{} at {at}", reply.escape_ascii());
            assert_eq!(splitter.at_start(), expected == Split::End(1));
        }
        assert_eq!(splitter.kind(), kind);
    }

    #[track_caller]
    fn malformed(reply: &[u8], expected: Malformed) {
        assert_eq!(Splitter::default().split(reply), Err(expected), "{}", reply.escape_ascii());
        let mut splitter = Splitter::default();
        let piecewise = reply.iter().find_map(|byte| splitter.split(&[*byte]).err());
        assert_eq!(piecewise, Some(expected), "{} in pieces", reply.escape_ascii());
    }

    #[test]
    fn a_splitter_is_small() {
        assert!(size_of::<Splitter>() <= 24);
        assert_eq!(size_of::<Result<Split, Malformed>>(), 16, "passed in registers");
    }

    #[test]
    fn every_type() {
        let leaves = [
            "+OK\r\n",
            "+\r\n",
            "+a\rb\nc\r\r\n",
            "-ERR no\r\n",
            ":0\r\n",
            ":-9223372036854775808\r\n",
            "$0\r\n\r\n",
            "$5\r\na\r\nbc\r\n",
            "$-1\r\n",
            "*-1\r\n",
            "*0\r\n",
            "_\r\n",
            "#t\r\n",
            "#f\r\n",
            ",1.5e+30\r\n",
            ",inf\r\n",
            "(-123456789012345678901234567890\r\n",
            "=5\r\ntxt:x\r\n",
            "!4\r\nERR \r\n",
            "%0\r\n",
            "~0\r\n",
            ">0\r\n",
        ];
        for leaf in leaves {
            whole_in_one(leaf.as_bytes(), leaf.as_bytes()[0]);
        }
        whole_in_one(&[b"$1000\r\n", &[b'x'; 1000][..], b"\r\n"].concat(), b'$');
        whole_in_one(b"*3\r\n:1\r\n*2\r\n$1\r\na\r\n_\r\n~1\r\n+x\r\n", b'*');
        whole_in_one(b"%2\r\n+a\r\n:1\r\n+b\r\n%1\r\n+c\r\n*0\r\n", b'%');
        whole_in_one(b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n", b'>');
    }

    #[test]
    fn attributes_belong_to_the_reply_behind_them() {
        whole_in_one(b"|1\r\n+k\r\n*1\r\n:1\r\n$1\r\nx\r\n", b'$');
        whole_in_one(b"|0\r\n|1\r\n|1\r\n+a\r\n+b\r\n+k\r\n+v\r\n*1\r\n|1\r\n+k\r\n+v\r\n:1\r\n", b'*');
        let mut splitter = Splitter::default();
        assert_eq!(splitter.split(b"|1\r\n+k\r\n+v\r\n"), Ok(Split::More));
        assert_eq!(splitter.kind(), b'|');
    }

    #[test]
    fn what_is_no_reply() {
        malformed(b"?", Malformed::Type(b'?'));
        malformed(b"*1\r\n\r\n", Malformed::Type(b'\r'));
        for header in [
            "$?\r\n",
            "*?\r\n",
            "$01\r\n",
            "$+1\r\n",
            "$-2\r\n",
            "$--1\r\n",
            "*-2\r\n",
            "%-1\r\n",
            "~-1\r\n",
            "|-1\r\n",
            "=-1\r\n",
            "!-1\r\n",
            ">-1\r\n",
            "$\r\n",
            "$-\r\n",
            "$1x\r\n",
            "$1\rx",
            "$1\n",
            ":\r\n",
            ":x\r\n",
            ":00\r\n",
            "#x\r\n",
            "#\r\n",
            "_x\r\n",
            "_\n",
            "$99999999999999999999\r\n",
            ":999999999999999999999\r\n",
        ] {
            malformed(header.as_bytes(), Malformed::Header);
        }
        malformed(b"$1\r\nabc", Malformed::Trailer);
        malformed(b"$1\r\na\rb", Malformed::Trailer);
        malformed(b"$1\r\na\n", Malformed::Trailer);
        malformed(b"$18446744073709551615\r\n", Malformed::Size);
        malformed(b"%9223372036854775808\r\n", Malformed::Size);
        malformed(b"|18446744073709551615\r\n", Malformed::Size);
        malformed(b"*18446744073709551615\r\n*2\r\n", Malformed::Size);
    }

    #[test]
    fn announced_bytes_count_down() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.announced(), 0);
        assert_eq!(splitter.split(b"*1\r\n$1000000\r\nabc"), Ok(Split::More));
        assert_eq!(splitter.announced(), 1_000_002 - 3);
        assert_eq!(splitter.split(&[b'x'; 1000]), Ok(Split::More));
        assert_eq!(splitter.announced(), 1_000_002 - 1003);
        assert_eq!(splitter.split(&b"x".repeat(1_000_000 - 1003)), Ok(Split::More));
        assert_eq!(splitter.announced(), 2);
        assert_eq!(splitter.split(b"\r\n$2"), Ok(Split::End(2)));
        assert_eq!(splitter.announced(), 0);
    }

    #[test]
    fn depth_costs_nothing() {
        let deep = [b"*1\r\n".repeat(100_000), b"_\r\n".to_vec()].concat();
        let mut splitter = Splitter::default();
        assert_eq!(splitter.split(&deep[..200_001]), Ok(Split::More));
        assert_eq!(splitter.split(&deep[200_001..]), Ok(Split::End(deep.len() - 200_001)));
    }
}
