//! The elements of a whole reply, one after the other, without building it.
//!
//! For what is put together from several replies (`command/merge`). Of nested elements only the outer ones are seen.

use super::decimal;
use super::reply::{Malformed, Split, Splitter};

/// The elements of an array, a set or a push; of a map its keys and values in turn.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Elements<'a> {
    /// Of a whole reply; none where it is no aggregate, or an absent one.
    #[must_use]
    pub fn of(reply: &'a [u8]) -> Option<Self> {
        let pairs = match reply.first()? {
            b'*' | b'~' | b'>' => 1,
            b'%' => 2,
            _ => return None,
        };
        let end = reply.iter().position(|&byte| byte == b'\r')?;
        let count = usize::try_from(decimal::strict(&reply[1..end])?).ok()?;
        Some(Self { rest: reply.get(end + 2..)?, left: count.checked_mul(pairs)? })
    }

    /// How many are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.left
    }

    /// Whether none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// The bytes of all that are left.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<&'a [u8], Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(match Splitter::default().split(self.rest) {
            Ok(Split::End(end)) => {
                let (element, rest) = self.rest.split_at(end);
                self.rest = rest;
                Ok(element)
            }
            Ok(Split::More) => Err(Malformed::Truncated),
            Err(malformed) => Err(malformed),
        })
    }
}

/// The number that a whole reply is, where it is one.
#[must_use]
pub fn integer_of(reply: &[u8]) -> Option<i64> {
    decimal::strict(reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?)
}

/// What a whole reply says, where it is a string of any kind.
#[must_use]
pub fn text_of(reply: &[u8]) -> Option<&[u8]> {
    match reply.first()? {
        b'+' => reply[1..].strip_suffix(b"\r\n"),
        b'$' => body(reply),
        b'=' => body(reply)?.get(4..),
        _ => None,
    }
}

fn body(reply: &[u8]) -> Option<&[u8]> {
    let start = reply.iter().position(|&byte| byte == b'\n')? + 1;
    reply.get(start..)?.strip_suffix(b"\r\n")
}

/// Whether a whole reply is an error.
#[must_use]
pub fn is_error(reply: &[u8]) -> bool {
    matches!(reply.first(), Some(b'-' | b'!'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(reply: &str) -> Option<Vec<String>> {
        let text = |element: Result<&[u8], Malformed>| element.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        Elements::of(reply.as_bytes())?.map(text).collect::<Result<_, _>>().ok()
    }

    #[test]
    fn outer_elements_are_seen_whole() {
        assert_eq!(elements("*2\r\n$1\r\na\r\n*1\r\n:1\r\n").unwrap(), ["$1\r\na\r\n", "*1\r\n:1\r\n"]);
        assert_eq!(elements("%1\r\n+k\r\n~0\r\n").unwrap(), ["+k\r\n", "~0\r\n"]);
        assert_eq!(elements("*0\r\n").unwrap(), [""; 0]);
        for other in ["$1\r\na\r\n", "*-1\r\n", ":1\r\n", "", "*1\r\n", "*1\r\n$5\r\na\r\n"] {
            assert_eq!(elements(other), None, "{other:?}");
        }
    }

    #[test]
    fn scalars_are_read() {
        assert_eq!(
            [":-3\r\n", ":7\r\n", "+7\r\n", ":\r\n"].map(|r| integer_of(r.as_bytes())),
            [Some(-3), Some(7), None, None]
        );
        let text = |reply: &'static str| text_of(reply.as_bytes()).map(|text| std::str::from_utf8(text).unwrap());
        assert_eq!(
            [text("+a\r\n"), text("$2\r\nab\r\n"), text("=6\r\ntxt:ab\r\n")],
            [Some("a"), Some("ab"), Some("ab")]
        );
        assert_eq!([text("$-1\r\n"), text("_\r\n"), text(":1\r\n")], [None; 3]);
        assert!(is_error(b"-ERR x\r\n") && is_error(b"!5\r\nERR x\r\n") && !is_error(b"+OK\r\n"));
    }
}
