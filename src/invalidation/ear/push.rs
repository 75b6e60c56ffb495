//! What Redis says unasked on a tracked connection: `>2 invalidate [key ..]`, or a null instead of the keys for a flush.
//!
//! On a connection that has subscribed also `>3 message <channel> <payload>`, and `>3 subscribe <channel> <count>`, which
//! stands where the reply to SUBSCRIBE would.
//!
//! Reads a whole RESP3 push, borrows what it names from it, allocates nothing.
//!
//! Holds contract points 4 and 5: what cannot be read counts as a flush.

/// A push, as far as coherence cares.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Push<'a> {
    /// These keys changed, in some database.
    Keys(PushedKeys<'a>),
    /// All keys are gone.
    Flush,
    /// Somebody published this.
    Message(&'a [u8]),
    /// A subscription is in force.
    Subscribed,
    /// Nothing about keys.
    Other,
    /// An invalidation that cannot be read: the only safe answer is to forget everything.
    Unreadable,
}

/// The keys of one push; yields fewer than announced where the push is cut short.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PushedKeys<'a> {
    rest: &'a [u8],
    left: usize,
}

/// Reads a push, from its type byte to its last CRLF.
pub(super) fn read(push: &[u8]) -> Push<'_> {
    let mut rest = push;
    let kind = number(&mut rest, b'>').and_then(|_| bulk(&mut rest));
    match kind {
        Some(b"invalidate") => {}
        Some(b"message") => {
            let payload = bulk(&mut rest).and_then(|_| bulk(&mut rest));
            return payload.map_or(Push::Unreadable, Push::Message);
        }
        Some(b"subscribe") => return Push::Subscribed,
        _ => return Push::Other,
    }
    match rest.first() {
        Some(b'_') => Push::Flush,
        Some(b'*') => match number(&mut rest, b'*') {
            Some(left) if whole(rest, left) => Push::Keys(PushedKeys { rest, left }),
            _ => Push::Unreadable,
        },
        _ => Push::Unreadable,
    }
}

/// Whether `left` bulk strings follow: keys must not be lost because one could not be read.
fn whole(mut rest: &[u8], left: usize) -> bool {
    (0..left).all(|_| bulk(&mut rest).is_some()) && rest.is_empty()
}

impl<'a> Iterator for PushedKeys<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        bulk(&mut self.rest)
    }
}

fn bulk<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = number(rest, b'$')?;
    let bytes = rest.get(..len)?;
    *rest = rest.get(len..)?.strip_prefix(b"\r\n")?;
    Some(bytes)
}

fn number(rest: &mut &[u8], kind: u8) -> Option<usize> {
    let mut number = 0_usize;
    let line = rest.strip_prefix(&[kind])?;
    let digits = line.iter().take_while(|b| b.is_ascii_digit()).count();
    for digit in line.get(..digits).filter(|d| !d.is_empty())? {
        number = number.checked_mul(10)?.checked_add(usize::from(digit - b'0'))?;
    }
    *rest = line.get(digits..)?.strip_prefix(b"\r\n")?;
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(push: &[u8]) -> Vec<&[u8]> {
        match read(push) {
            Push::Keys(keys) => keys.collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_flushes_and_others_are_told_apart() {
        assert_eq!(keys(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nfoo\r\n"), [b"foo"]);
        assert_eq!(keys(b">2\r\n$10\r\ninvalidate\r\n*2\r\n$0\r\n\r\n$4\r\na\r\nb\r\n"), [&b""[..], b"a\r\nb"]);
        assert_eq!(read(b">2\r\n$10\r\ninvalidate\r\n_\r\n"), Push::Flush);
        assert_eq!(read(b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n"), Push::Message(b"b"));
        assert_eq!(read(b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"), Push::Subscribed);
        assert_eq!(read(b">3\r\n$9\r\nssubscrib\r\n$1\r\na\r\n:1\r\n"), Push::Other);
    }

    #[test]
    fn an_invalidation_that_cannot_be_read_is_not_ignored() {
        for push in [
            &b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n"[..],
            b">2\r\n$10\r\ninvalidate\r\n*2\r\n$1\r\na\r\n",
            b">2\r\n$10\r\ninvalidate\r\n:1\r\n",
        ] {
            assert_eq!(read(push), Push::Unreadable);
        }
    }
}
