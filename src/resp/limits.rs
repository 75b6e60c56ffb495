//! What a request may measure, how servers differ in reading one, and the errors of requests that Redis would refuse.
//!
//! Pure numbers and texts. The limits that depend on whether the client has authenticated are Redis's own
//! (`processMultibulkBuffer`), and so is every text but the last; called by the request parser alone.

use super::encode;

/// The most arguments that an unauthenticated client may announce.
const UNAUTHENTICATED_ARGS: u64 = 10;
/// The longest argument that an unauthenticated client may announce, in bytes.
const UNAUTHENTICATED_BULK: u64 = 16 * 1024;

/// What a request may measure.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest header line or inline request, in bytes without its end.
    pub inline: usize,
    /// The longest argument, in bytes: `proto-max-bulk-len`.
    pub bulk: u64,
    /// The most arguments; never more than `i32::MAX`, as in Redis.
    pub args: u64,
    /// The longest request as a whole, in bytes; anything from 4 GiB on counts as one byte less than that.
    pub request: usize,
    /// Whether the client has yet to authenticate: at most 10 arguments of at most 16 KiB then, with errors that say
    /// so.
    pub unauthenticated: bool,
    /// How the server reads what is not written as it should be.
    pub grammar: Grammar,
}

impl Limits {
    /// Redis's defaults for a client that may run commands.
    pub const fn authenticated() -> Self {
        Self {
            inline: 64 << 10,
            bulk: 512 << 20,
            args: i32::MAX as u64,
            request: 1 << 30,
            unauthenticated: false,
            grammar: Grammar::REDIS,
        }
    }

    /// Redis's defaults for a client that has to authenticate first.
    pub const fn unauthenticated() -> Self {
        Self { unauthenticated: true, ..Self::authenticated() }
    }

    /// The announced number of arguments, if there may be that many; none at all where it is negative.
    #[inline]
    pub(super) fn admit_count(&self, count: i64) -> Option<u32> {
        let most = if self.unauthenticated { self.args.min(UNAUTHENTICATED_ARGS) } else { self.args };
        let count = count.max(0).cast_unsigned();
        (count <= most.min(i32::MAX as u64)).then_some(count as u32)
    }

    /// Why that many may not.
    #[cold]
    pub(super) fn refuse_count(&self, count: i64) -> ProtocolError {
        let unauthenticated =
            self.unauthenticated && count.cast_unsigned() <= self.args && i32::try_from(count).is_ok();
        if unauthenticated { ProtocolError::UnauthenticatedMultibulkLength } else { ProtocolError::MultibulkLength }
    }

    /// The announced length of an argument that begins at the byte `start` of a request, if it may be that long.
    #[inline]
    pub(super) fn admit_argument(&self, len: i64, start: usize) -> Option<u32> {
        let most = if self.unauthenticated { self.bulk.min(UNAUTHENTICATED_BULK) } else { self.bulk };
        let most_in_all = self.request.min(u32::MAX as usize) as u64;
        let len = len.cast_unsigned(); // a negative one becomes longer than anything
        let admitted = len <= most.min(u64::from(u32::MAX)) && start as u64 + len + 2 <= most_in_all;
        admitted.then_some(len as u32)
    }

    /// Why it may not.
    #[cold]
    pub(super) fn refuse_argument(&self, len: i64) -> ProtocolError {
        match u64::try_from(len) {
            Ok(len) if len <= self.bulk && self.unauthenticated && len > UNAUTHENTICATED_BULK => {
                ProtocolError::UnauthenticatedBulkLength
            }
            Ok(len) if len <= self.bulk => ProtocolError::RequestSize,
            _ => ProtocolError::BulkLength,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::authenticated()
    }
}

/// A point in which servers differ when they read requests that are not written as they should be. Valkey has changed all
/// four up to 9.1, the first also in later versions of its older lines, so that no version number tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    /// What stands where a line feed, or the end of an argument, belongs is skipped unseen.
    SkipsLineEnds,
    /// A NUL hides the end of a header's line.
    NulHidesLineEnd,
    /// In an inline request a closing quote does not end its argument: `"a"b` is `ab`.
    JoinsQuotes,
    /// As the last byte but one of an inline request a backslash is no escape: `"a\"` is whole.
    LastBackslash,
}

impl Quirk {
    /// Every quirk, in the order of its number.
    pub const ALL: [Self; 4] = [Self::SkipsLineEnds, Self::NulHidesLineEnd, Self::JoinsQuotes, Self::LastBackslash];
}

/// Which quirks the server has, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grammar([Option<bool>; Quirk::ALL.len()]);

impl Grammar {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self([None; 4]);
    /// Redis's, all versions up to 8.
    pub const REDIS: Self = Self([Some(true), Some(true), Some(false), Some(false)]);
    /// Valkey's, as of 9.1.
    pub const VALKEY: Self = Self([Some(false), Some(false), Some(true), Some(true)]);

    /// The same, and whether the server has `quirk`.
    #[must_use]
    pub const fn with(mut self, quirk: Quirk, has: bool) -> Self {
        self.0[quirk as usize] = Some(has);
        self
    }

    /// Whether the server has `quirk`; none: it is not known.
    pub const fn has(self, quirk: Quirk) -> Option<bool> {
        self.0[quirk as usize]
    }

    /// The same for the parser, which stops where it would have to know.
    pub(super) fn ask(self, quirk: Quirk) -> Result<bool, Stop> {
        self.has(quirk).ok_or(Stop::Unclear(quirk))
    }
}

/// Why the parser goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The request is wrong.
    Refused(ProtocolError),
    /// What it means depends on this.
    Unclear(Quirk),
}

impl From<ProtocolError> for Stop {
    fn from(error: ProtocolError) -> Self {
        Self::Refused(error)
    }
}

/// A request that Redis would refuse: answer with the error, then close, since no later byte can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The number of arguments is not a number, or too large.
    #[error("Protocol error: invalid multibulk length")]
    MultibulkLength,
    /// More arguments than a client may send before it has authenticated.
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    /// The line with the number of arguments does not end.
    #[error("Protocol error: too big mbulk count string")]
    MultibulkLine,
    /// An argument does not begin as a bulk string does.
    #[error("Protocol error: expected '$', got '{}'", shown(*.0))]
    ExpectedBulk(u8),
    /// The length of an argument is not a number, negative or too large.
    #[error("Protocol error: invalid bulk length")]
    BulkLength,
    /// A longer argument than a client may send before it has authenticated.
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    /// The line with the length of an argument does not end.
    #[error("Protocol error: too big bulk count string")]
    BulkLine,
    /// Something else stands where a line or an argument ends.
    #[error("Protocol error: invalid CRLF in request")]
    LineEnd,
    /// An inline request does not end.
    #[error("Protocol error: too big inline request")]
    InlineLine,
    /// A quote of an inline request does not end, or something touches its end.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// The request as a whole is too long. Redis closes the connection without a word here.
    #[error("Protocol error: request exceeds the query buffer limit")]
    RequestSize,
}

impl ProtocolError {
    /// Appends the reply, byte for byte: what is displayed, behind `-ERR `. The two differ where the unexpected byte
    /// of [`Self::ExpectedBulk`] is not ASCII, which text cannot hold and a reply can.
    pub fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Self::ExpectedBulk(byte) => {
                encode::line(out, b'-', &[b"ERR Protocol error: expected '$', got '", &[byte][..], b"'"].concat());
            }
            _ => encode::error(out, &format!("ERR {self}")),
        }
    }
}

/// A line end would cut the error in two; Redis makes it a blank.
fn shown(byte: u8) -> char {
    if matches!(byte, b'\r' | b'\n') { ' ' } else { char::from(byte) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_shown_as_redis_writes_them() {
        let written = |error: ProtocolError| {
            let mut out = Vec::new();
            error.write(&mut out);
            out
        };
        assert_eq!(written(ProtocolError::BulkLine), b"-ERR Protocol error: too big bulk count string\r\n");
        assert_eq!(written(ProtocolError::ExpectedBulk(b'x')), b"-ERR Protocol error: expected '$', got 'x'\r\n");
        assert_eq!(written(ProtocolError::ExpectedBulk(b'\r')), b"-ERR Protocol error: expected '$', got ' '\r\n");
        assert_eq!(written(ProtocolError::ExpectedBulk(0xff)), b"-ERR Protocol error: expected '$', got '\xff'\r\n");
        assert_eq!(ProtocolError::ExpectedBulk(b'x').to_string(), "Protocol error: expected '$', got 'x'");
    }
}
