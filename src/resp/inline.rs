//! Requests typed by hand: one line split into arguments, with quotes.
//!
//! Pure text; called by the request parser once it has a whole line. The rules are those of Redis (`sdssplitargs`):
//! blanks separate; `"..."` knows `\n \r \t \b \a`, `\xHH` and stands for itself after any other backslash; `'...'`
//! knows `\'` alone; a closing quote ends its argument, so a blank or the end of the line must follow it. In the last two
//! points servers differ ([`Quirk`]).

use super::limits::{Grammar, ProtocolError, Quirk, Stop};
use super::request::Span;

/// Splits `line`, which is without its end. Appends the arguments' bytes, quotes resolved, to `text` and where they
/// are in it to `args`.
pub(super) fn split(line: &[u8], grammar: Grammar, text: &mut Vec<u8>, args: &mut Vec<Span>) -> Result<(), Stop> {
    let mut rest = line;
    loop {
        while let [blank, after @ ..] = rest
            && is_space(*blank)
        {
            rest = after;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let start = text.len();
        rest = argument(rest, grammar, text)?;
        args.push(Span::new(start, text.len() - start));
    }
}

/// Appends the argument that `rest` begins with to `text`; returns what follows it.
fn argument<'a>(mut rest: &'a [u8], grammar: Grammar, text: &mut Vec<u8>) -> Result<&'a [u8], Stop> {
    let mut quote = None;
    loop {
        let (byte, after) = match (quote, rest) {
            (None, []) => return Ok(rest),
            (Some(_), []) => return Err(ProtocolError::UnbalancedQuotes.into()),

            // Fewer blanks end a bare word than separate arguments: a vertical tab or form feed belongs to it.
            (None, [byte, after @ ..]) if ends_word(*byte) => return Ok(after),
            (None, [opening @ (b'"' | b'\''), after @ ..]) => {
                quote = Some(*opening);
                rest = after;
                continue;
            }
            (Some(closing), [byte, after @ ..]) if *byte == closing => {
                match after.first() {
                    Some(&next) if !ends_word(next) => {
                        if !grammar.ask(Quirk::JoinsQuotes)? {
                            return if is_space(next) {
                                Ok(after)
                            } else {
                                Err(ProtocolError::UnbalancedQuotes.into())
                            };
                        }
                    }
                    _ => return Ok(after),
                }
                quote = None;
                rest = after;
                continue;
            }
            (Some(closing), [b'\\', last]) if *last == closing && grammar.ask(Quirk::LastBackslash)? => {
                (b'\\', &rest[1..])
            }

            (Some(b'"'), [b'\\', b'x', high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex(*high) << 4 | hex(*low), after)
            }
            (Some(b'"'), [b'\\', letter, after @ ..]) => (escaped(*letter), after),
            (Some(b'\''), [b'\\', b'\'', after @ ..]) => (b'\'', after),
            (_, [byte, after @ ..]) => (*byte, after),
        };
        text.push(byte);
        rest = after;
    }
}

/// The blanks that end a bare word.
fn ends_word(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// What C's `isspace` holds for blank.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn escaped(letter: u8) -> u8 {
    match letter {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        itself => itself,
    }
}

/// The value of a hexadecimal digit, which the caller has made sure it is.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20).wrapping_sub(b'a').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
        words_by(Grammar::REDIS, line).ok()
    }

    fn words_by(grammar: Grammar, line: &[u8]) -> Result<Vec<Vec<u8>>, Stop> {
        let (mut text, mut args) = (Vec::new(), Vec::new());
        split(line, grammar, &mut text, &mut args)?;
        Ok(args.iter().map(|span| text[span.range()].to_vec()).collect())
    }

    #[track_caller]
    fn check(line: &[u8], expected: &[&[u8]]) {
        assert_eq!(words(line).as_deref(), Some(&expected.iter().map(|word| word.to_vec()).collect::<Vec<_>>()[..]));
    }

    #[test]
    fn blanks_separate() {
        check(b"", &[]);
        check(b" \t\x0b\x0c\r ", &[]);
        check(b"GET key", &[b"GET", b"key"]);
        check(b"  GET\t\tkey\r ", &[b"GET", b"key"]);
        check(b"a\x0bb", &[b"a\x0bb"]);
        check(b"\x0ba", &[b"a"]);
        check(b"caf\xe9 \xff", &[b"caf\xe9", b"\xff"]);
    }

    #[test]
    fn double_quotes() {
        check(br#""" "a b""#, &[b"", b"a b"]);
        check(br#""\n\r\t\b\a\q\"\\""#, &[b"\n\r\t\x08\x07q\"\\"]);
        check(br#""\x00\xfF\x4""#, &[b"\x00\xffx4"]);
        check(br#""it's""#, &[b"it's"]);
        check(b"\"a\"\x0bb", &[b"a", b"b"]);
    }

    #[test]
    fn single_quotes() {
        check(br"'' 'a b' '\'' '\n' '\x41'", &[b"", b"a b", b"'", br"\n", br"\x41"]);
        check(br#"'"'"#, &[b"\""]);
    }

    #[test]
    fn quotes_may_open_within_a_word() {
        check(br#"foo"bar" a'b c'"#, &[b"foobar", b"ab c"]);
        check(br"a\nb", &[br"a\nb"]);
    }

    #[test]
    fn unbalanced_quotes() {
        for line in [r#"""#, "'", r#""abc"#, r#""abc\"#, r#""abc\""#, r"'abc\'", r#""a"b"#, "'a'b", r#""a"'b'"#, "x'"] {
            assert_eq!(words(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn where_servers_differ_nothing_is_assumed() {
        let joined: [(&[u8], &[&[u8]]); 6] = [
            (br#""a"b"#, &[b"ab"]),
            (br#"'a'"b"c d"#, &[b"abc", b"d"]),
            (br#"x"y"z''"#, &[b"xyz"]),
            (b"\"a\"\x0bb", &[b"a\x0bb"]),
            (br#""a\""#, &[br"a\"]),
            (br"'a\'", &[br"a\"]),
        ];
        for (line, as_valkey) in joined {
            let quirk = if line.contains(&b'\\') { Quirk::LastBackslash } else { Quirk::JoinsQuotes };
            assert_eq!(words_by(Grammar::UNKNOWN, line), Err(Stop::Unclear(quirk)), "{}", line.escape_ascii());
            assert_eq!(
                words_by(Grammar::VALKEY, line).as_deref(),
                Ok(&as_valkey.iter().map(|word| word.to_vec()).collect::<Vec<_>>()[..])
            );
        }
        for line in [&br#""a b" 'c' "\\" "\"""#[..], br#""a\\""#, b"a \"\"", b"'a'\tb"] {
            let redis = words(line).ok_or(());
            assert!(redis.is_ok(), "{}", line.escape_ascii());
            assert_eq!(words_by(Grammar::UNKNOWN, line).map_err(drop), redis, "{}", line.escape_ascii());
            assert_eq!(words_by(Grammar::VALKEY, line).map_err(drop), redis, "{}", line.escape_ascii());
        }
        for line in [&br#""a"#[..], br#""a\" "#, br#""a"b""#, br#""\n"#] {
            assert_eq!(words_by(Grammar::VALKEY, line), Err(Stop::Refused(ProtocolError::UnbalancedQuotes)));
        }
    }
}
