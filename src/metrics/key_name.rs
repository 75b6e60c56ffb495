//! How a key is named to people: as it is only where the settings say that keys may be shown.

use std::fmt::Write as _;
use std::sync::LazyLock;

use ring::hmac;

/// By which keys are named where they may not be shown: another in each process, so that nobody can try likely keys elsewhere.
static PRINTS: LazyLock<Option<hmac::Key>> =
    LazyLock::new(|| hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new()).ok());

/// How a key is shown: as it is, in quotes where it would not be plain where it ends; or, where keys may not be shown, as a number that is
/// always the same for it in this process.
pub(crate) fn shown(key: &[u8], is_shown: bool) -> String {
    if is_shown {
        return quoted(key);
    }
    let Some(print) = &*PRINTS else { return "?".to_owned() };
    let print = hmac::sign(print, key);
    print.as_ref().iter().take(8).fold("#".to_owned(), |mut all, byte| {
        let _ = write!(all, "{byte:02x}");
        all
    })
}

/// A key as it stands, or in quotes as redis-cli writes it where it would not be plain where it ends.
pub(crate) fn quoted(key: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\');
    if !key.is_empty() && key.iter().all(plain) {
        return String::from_utf8_lossy(key).into_owned();
    }
    let mut shown = String::from("\"");
    for &byte in key {
        match byte {
            b'"' | b'\\' => shown.extend(['\\', char::from(byte)]),
            b' '..=b'~' => shown.push(char::from(byte)),
            b'\n' => shown.push_str("\\n"),
            b'\r' => shown.push_str("\\r"),
            b'\t' => shown.push_str("\\t"),
            _ => _ = write!(shown, "\\x{byte:02x}"),
        }
    }
    shown.push('"');
    shown
}

/// A key that is kept to be named to people later, as it may be shown by then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyName {
    start: Box<[u8]>,
    /// Of one that is cut: the number of all of it. That of another can be made when it is shown.
    number: Option<Box<str>>,
}

impl KeyName {
    /// Of a long key no more than so many bytes are kept.
    const LONGEST: usize = 512;

    /// Of a whole key.
    pub(crate) fn of(key: &[u8]) -> Self {
        let start = &key[..key.len().min(Self::LONGEST)];
        let is_cut = start.len() < key.len();
        Self { start: start.into(), number: is_cut.then(|| shown(key, false).into()) }
    }

    /// How it is [shown]: of a long one the beginning, where that may be.
    pub(crate) fn shown(&self, is_shown: bool) -> String {
        match (is_shown, &self.number) {
            (false, Some(number)) => number.to_string(),
            (true, Some(_)) => quoted(&self.start) + "…",
            (_, None) => shown(&self.start, is_shown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_kept_is_named_as_it_may_be_by_then_and_its_number_is_of_all_of_it() {
        let name = KeyName::of(b"user:1");
        assert_eq!((name.shown(true), name.shown(false)), ("user:1".to_owned(), shown(b"user:1", false)));
        let (one, other) = ("x".repeat(512), "x".repeat(513));
        assert_eq!(KeyName::of(one.as_bytes()).shown(true), one);
        assert_eq!(KeyName::of(other.as_bytes()).shown(true), format!("{one}…"));
        assert_ne!(KeyName::of(one.as_bytes()).shown(false), KeyName::of(other.as_bytes()).shown(false));
        assert_eq!(KeyName::of(other.as_bytes()).shown(false), shown(other.as_bytes(), false));
    }

    #[test]
    fn a_key_is_shown_only_where_it_may_be() {
        assert_eq!(shown(b"user:1", true), "user:1");
        assert_eq!(shown(b"a b\n\xff", true), r#""a b\n\xff""#);
        let hidden = shown(b"user:1", false);
        assert!(hidden.len() == 17 && hidden.starts_with('#') && !hidden.contains("user"), "{hidden}");
        assert_eq!(hidden, shown(b"user:1", false));
        assert_ne!(hidden, shown(b"user:2", false));
    }
}
