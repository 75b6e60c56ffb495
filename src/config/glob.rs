//! Key patterns, matched exactly as Redis matches them (`stringmatchlen`): `*`, `?`, `[a-z]`, `[^x]`, `\` escapes.
//!
//! Two corners where Redis depends on its build or its caller are fixed: ranges compare bytes as unsigned, and a run of `*` takes the
//! empty key too, as `KEYS *` does.
//!
//! Every token but `*` takes exactly one byte, so a mismatch need only go back to the last `*`: the time is at most
//! pattern times key, whatever the pattern. Read from rules by [`super::rule`]; matched by whoever holds a key.

use std::fmt;

/// A pattern for keys. Matches bytes, not characters, and always the whole key.
#[derive(Clone, PartialEq, Eq)]
pub struct Glob {
    source: String,
    tokens: Vec<Token>,
}

#[derive(Clone, PartialEq, Eq)]
enum Token {
    /// `*`: any bytes, none too. Never two in a row.
    Many,
    /// `?`: any one byte.
    One,
    /// This byte.
    Byte(u8),
    /// One byte within any of the ranges, or within none of them.
    Class { negated: bool, ranges: Vec<(u8, u8)> },
}

impl Glob {
    /// Reads a pattern. Every text is one: as in Redis, a class without its `]` ends with the pattern, and a `\` at the very end
    /// stands for itself.
    pub fn new(pattern: &str) -> Self {
        let mut tokens = Vec::new();
        let mut rest = pattern.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            match first {
                b'*' if tokens.last() == Some(&Token::Many) => {}
                b'*' => tokens.push(Token::Many),
                b'?' => tokens.push(Token::One),
                b'[' => tokens.push(class(&mut rest).0),
                b'\\' => {
                    tokens.push(Token::Byte(after.first().copied().unwrap_or(b'\\')));
                    rest = after.get(1..).unwrap_or_default();
                }
                byte => tokens.push(Token::Byte(byte)),
            }
        }
        Self { source: pattern.to_owned(), tokens }
    }

    /// Whether every class of a pattern ends with its `]`. Redis takes one that does not, and nobody means it.
    pub fn is_closed(pattern: &str) -> bool {
        let mut rest = pattern.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            rest = match first {
                b'\\' => after.get(1..).unwrap_or_default(),
                b'[' => {
                    let mut behind = after;
                    if !class(&mut behind).1 {
                        return false;
                    }
                    behind
                }
                _ => after,
            };
        }
        true
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether the whole of `key` fits the pattern.
    pub fn matches(&self, key: &[u8]) -> bool {
        self.follow(key, &mut ())
    }

    /// What each `*` of the pattern stands for in `key`, if the whole of it fits: all but the last as little as they can.
    pub fn captures<'a>(&self, key: &'a [u8]) -> Option<Vec<&'a [u8]>> {
        let mut spans = Spans::default();
        self.follow(key, &mut spans).then(|| spans.0.into_iter().map(|(from, to)| &key[from..to]).collect())
    }

    /// How many `*` the pattern has; several in a row are one.
    pub fn stars(&self) -> usize {
        self.tokens.iter().filter(|token| **token == Token::Many).count()
    }

    /// Whether it stands for one key alone.
    pub fn is_literal(&self) -> bool {
        self.tokens.iter().all(|token| matches!(token, Token::Byte(_)))
    }

    fn follow(&self, key: &[u8], stars: &mut impl StarNotes) -> bool {
        let mut token = 0;
        let mut at = 0;
        let mut retry: Option<(usize, usize)> = None; // the token after the last `*`, and where it is to be tried next
        loop {
            match self.tokens.get(token) {
                None if at == key.len() => return true,
                Some(Token::Many) => {
                    token += 1;
                    retry = Some((token, at + 1));
                    stars.begin(at);
                    continue;
                }
                Some(one) if key.get(at).is_some_and(|byte| one.takes(*byte)) => {
                    token += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            match retry {
                Some((after, next)) if next <= key.len() => {
                    token = after;
                    at = next;
                    retry = Some((after, next + 1));
                    stars.grow(next);
                }
                _ => return false,
            }
        }
    }
}

/// Who notes what each `*` stands for.
trait StarNotes {
    /// The next one begins here, and stands for nothing so far.
    fn begin(&mut self, at: usize);
    /// The last one goes up to here.
    fn grow(&mut self, to: usize);
}

impl StarNotes for () {
    fn begin(&mut self, _: usize) {}
    fn grow(&mut self, _: usize) {}
}

#[derive(Default)]
struct Spans(Vec<(usize, usize)>);

impl StarNotes for Spans {
    fn begin(&mut self, at: usize) {
        self.0.push((at, at));
    }

    fn grow(&mut self, to: usize) {
        self.0.last_mut().expect("only a star is tried again").1 = to;
    }
}

impl Token {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Many | Self::One => true,
            Self::Byte(own) => *own == byte,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte)) != *negated
            }
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Glob({:?})", self.source)
    }
}

/// The class that begins after `[`; takes it and its `]` off `rest`. A `]` that comes first ends an empty class; ranges may be
/// given from high to low, and their ends are taken as they stand, `]` and `\` included. Also whether there was a `]`.
fn class(rest: &mut &[u8]) -> (Token, bool) {
    let negated = rest.first() == Some(&b'^');
    if negated {
        *rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        let (range, taken) = match **rest {
            [] => return (Token::Class { negated, ranges }, false),
            [b'\\', escaped, ..] => ((escaped, escaped), 2),
            [b']', ..] => {
                *rest = &rest[1..];
                return (Token::Class { negated, ranges }, true);
            }
            [from, b'-', to, ..] => ((from.min(to), from.max(to)), 3),
            [byte, ..] => ((byte, byte), 1),
        };
        ranges.push(range);
        *rest = &rest[taken..];
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Each row: pattern, keys that fit, keys that do not. All of them were tried on Redis with `KEYS`.
    const ROWS: &[(&str, &[&str], &[&str])] = &[
        ("", &[""], &["a"]),
        ("*", &["", "a", "a\nb", "anything"], &[]),
        ("**", &["a", "ab"], &[]),
        ("session:*", &["session:", "session:1"], &["session", "Session:1", "xsession:1"]),
        ("*:name", &[":name", "user:1:name", ":name:name"], &["user:1:names"]),
        ("a*b*c", &["abc", "a1b2c", "abbcc", "abcbc"], &["ab", "acb", "abcd"]),
        ("h?llo", &["hello", "hallo", "h?llo"], &["hllo", "heello"]),
        ("h[ae]llo", &["hello", "hallo"], &["hillo", "hllo"]),
        ("h[^e]llo", &["hallo", "h^llo"], &["hello", "hllo"]),
        ("h[a-c]llo", &["hallo", "hcllo"], &["hdllo", "h-llo"]),
        ("h[c-a]llo", &["hallo", "hbllo"], &["hdllo"]),
        ("[a-]", &["a", "]", "^"], &["-", "a]"]),
        ("[-a]", &["-", "a"], &["b"]),
        ("[]a", &[], &["a", "]a", "xa"]),
        ("[^]a", &["xa", "]a"], &["a"]),
        ("[\\]]x", &["]x"], &["\\x", "x"]),
        ("[\\^a]", &["^", "a"], &["\\", "b"]),
        ("[a^]", &["a", "^"], &["b"]),
        ("a[bc", &["ab", "ac"], &["a", "a[bc", "abc"]),
        ("a[", &[], &["a", "a[", "ab"]),
        ("a[^", &["ab", "a^"], &["a"]),
        ("a[\\", &["a\\"], &["a", "a[\\"]),
        ("a\\*b", &["a*b"], &["axb", "a\\*b"]),
        ("a\\?", &["a?"], &["ab"]),
        ("\\[a]", &["[a]"], &["a"]),
        ("a\\", &["a\\"], &["a", "a\\\\"]),
        ("\\\\", &["\\"], &["\\\\"]),
        ("*a", &["a", "aa", "ba"], &["", "ab"]),
        ("*?", &["a", "ab"], &[""]),
        ("*[0-9]", &["0", "a1"], &["", "1a"]),
    ];

    #[test]
    fn matches_as_redis_does() {
        for (pattern, fits, misses) in ROWS {
            let glob = Glob::new(pattern);
            for key in *fits {
                assert!(glob.matches(key.as_bytes()), "{pattern:?} should match {key:?}");
            }
            for key in *misses {
                assert!(!glob.matches(key.as_bytes()), "{pattern:?} should not match {key:?}");
            }
        }
    }

    #[test]
    fn sees_classes_that_do_not_end() {
        for open in ["a[bc", "a[", "[^", "a[\\]", "[a-]"] {
            assert!(!Glob::is_closed(open), "{open}");
        }
        for closed in ["", "a*", "a[bc]", "[^]a", "\\[a", "[\\]]", "]"] {
            assert!(Glob::is_closed(closed), "{closed}");
        }
    }

    #[test]
    fn matches_bytes_not_characters() {
        assert!(!Glob::new("?").matches("é".as_bytes()));
        assert!(Glob::new("??").matches("é".as_bytes()));
        assert!(Glob::new("é*").matches("éa".as_bytes()));
        assert!(Glob::new("a*").matches(b"a\xff\x00"));
    }

    #[test]
    fn many_stars_cost_no_exponential_time() {
        let key = [b'a'; 10_000];
        let begun = Instant::now();
        assert!(!Glob::new(&("a*".repeat(60) + "b")).matches(&key));
        assert!(Glob::new(&("a*?".repeat(60) + "a")).matches(&key));
        assert!(begun.elapsed().as_secs() < 5, "took {:?}", begun.elapsed());
    }

    #[test]
    fn tells_what_each_star_stands_for() {
        let rows: [(&str, &str, Option<&[&str]>); 9] = [
            ("page:*", "page:7", Some(&["7"])),
            ("page:*", "page:", Some(&[""])),
            ("*:*", "a:b:c", Some(&["a", "b:c"])),
            ("*:*:x", "a:b:c:x", Some(&["a", "b:c"])),
            ("u*v*w", "uavbvw", Some(&["a", "bv"])),
            ("a**b", "axyb", Some(&["xy"])),
            ("ab", "ab", Some(&[])),
            ("*?", "abc", Some(&["ab"])),
            ("a*b", "ac", None),
        ];
        for (pattern, key, parts) in rows {
            let found = Glob::new(pattern).captures(key.as_bytes());
            let parts = parts.map(|parts| parts.iter().map(|part| part.as_bytes()).collect());
            assert_eq!(found, parts, "{pattern} {key}");
        }
        assert_eq!(
            (Glob::new("a*b**c").stars(), Glob::new("a").is_literal(), Glob::new("a?").is_literal()),
            (2, true, false)
        );
    }

    #[test]
    fn shows_its_source() {
        assert_eq!(Glob::new("a[^b]*").to_string(), "a[^b]*");
        assert_eq!(format!("{:?}", Glob::new("a\\*")), r#"Glob("a\\*")"#);
    }
}
