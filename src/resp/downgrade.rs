//! A RESP3 reply as the RESP2 reply that Redis would have sent instead.
//!
//! Owns the plain rules, which need no knowledge of the command, and the few [`Twin`]s that do: each header is rewritten
//! where it stands, so that no tree is built and nothing recurses. Called by the ear, which reads in RESP3 what is to be
//! answered in both. Which command has which twin is for the command table to say, and which has none.

use super::reply::{Malformed, Split, Splitter, whole_bulk};
use super::{decimal, encode};

/// How the RESP2 reply to a command follows from its RESP3 reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Twin {
    /// By the plain rules of [`to_resp2`].
    #[default]
    Plain,
    /// The same, but every null is an absent array, `*-1`.
    NullArrays,
    /// The same, but an array of pairs is one flat array of twice the length.
    FlatPairs,
}

/// Appends `resp3`, any number of whole replies, to `out` as RESP2, by the plain rules. Whether the bytes differ; on an
/// error `out` is as it was.
///
/// | RESP3 | RESP2 |
/// |---|---|
/// | null `_` | absent string `$-1` (`*-1` stays) |
/// | map `%n` | array `*2n` |
/// | set `~n` | array `*n` |
/// | boolean `#t`, `#f` | integer `:1`, `:0` |
/// | double `,`, big number `(` | bulk string with the same digits |
/// | verbatim `=` | bulk string without its `txt:` |
/// | error `!` | error `-`, line ends as blanks |
/// | attribute <code>\|</code> | nothing |
/// | push `>` | as it is, with all that is in it |
pub fn to_resp2(resp3: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
    to_twin(Twin::Plain, resp3, out)
}

/// As [`to_resp2`], by the rules of `twin`.
pub(crate) fn to_twin(twin: Twin, resp3: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
    let before = out.len();
    let mut converter = Converter { twin, input: resp3, at: 0, kept: 0, missing: 0, out };
    match converter.run() {
        Ok(differs) => Ok(differs),
        Err(malformed) => {
            out.truncate(before);
            Err(malformed)
        }
    }
}

struct Converter<'a> {
    twin: Twin,
    input: &'a [u8],
    /// Everything before this byte of the input is understood.
    at: usize,
    /// Everything before this byte of the input is in `out`, as it is or converted.
    kept: usize,
    /// Elements announced and not yet seen.
    missing: u64,
    out: &'a mut Vec<u8>,
}

impl Converter<'_> {
    fn run(&mut self) -> Result<bool, Malformed> {
        while self.at < self.input.len() {
            // Between replies one more may begin.
            self.missing = self.missing.max(1);
            self.element()?;
        }
        if self.missing > 0 {
            return Err(Malformed::Truncated);
        }
        let differs = self.kept > 0;
        self.keep(self.at);
        Ok(differs)
    }

    /// One element; of an aggregate only its header.
    fn element(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        let rest = &self.input[start..];
        if let Some(length) = whole_bulk(rest) {
            self.at += length;
            self.missing -= 1;
            return Ok(());
        }
        match rest[0] {
            b'*' if !rest.starts_with(b"*-") => {
                let n = self.count(1)?;
                self.open(n)?;
                if self.twin == Twin::FlatPairs {
                    self.flatten(start, n)?;
                }
            }
            b'~' => {
                let n = self.count(1)?;
                self.open(n)?;
                self.replace(start, |out| encode::header(out, b'*', n));
            }
            b'%' => {
                let n = self.count(2)?;
                self.open(n)?;
                self.replace(start, |out| encode::header(out, b'*', n));
            }
            b'|' => {
                for _ in 0..self.count(2)? {
                    self.step_over()?;
                }
                self.replace(start, |_| ());
            }
            kind => {
                self.step_over()?;
                self.missing -= 1;
                self.leaf(kind, start)?;
            }
        }
        Ok(())
    }

    /// The array of `n` at `start` holds pairs, or is one of them: only one header of all stays.
    fn flatten(&mut self, start: usize, n: usize) -> Result<(), Malformed> {
        if start > 0 {
            self.replace(start, |_| ());
            return if n == 2 { Ok(()) } else { Err(Malformed::Header) };
        }
        if self.input[self.at..].first() == Some(&b'*') {
            let flat = n.checked_mul(2).ok_or(Malformed::Size)?;
            self.replace(start, |out| encode::header(out, b'*', flat));
        }
        Ok(())
    }

    /// Converts the element from `start` up to here, which has no elements of its own that would need it.
    fn leaf(&mut self, kind: u8, start: usize) -> Result<(), Malformed> {
        let whole = &self.input[start..self.at];
        match kind {
            b'_' => {
                let null = if self.twin == Twin::NullArrays { b"*-1\r\n" } else { b"$-1\r\n" };
                self.replace(start, |out| out.extend_from_slice(null));
            }
            b'#' => {
                let number = if whole[1] == b't' { b":1\r\n" } else { b":0\r\n" };
                self.replace(start, |out| out.extend_from_slice(number));
            }
            b',' | b'(' => self.replace(start, |out| encode::bulk(out, &whole[1..whole.len() - 2])),
            b'=' => {
                // Three letters that name the format, and a colon.
                let text = content(whole).get(4..).filter(|_| content(whole)[3] == b':').ok_or(Malformed::Header)?;
                self.replace(start, |out| encode::bulk(out, text));
            }
            b'!' => self.replace(start, |out| encode::line(out, b'-', content(whole))),
            _ => {}
        }
        Ok(())
    }

    /// The number in the header at `at`, times `each`, and goes behind that header.
    fn count(&mut self, each: usize) -> Result<usize, Malformed> {
        let line = &self.input[self.at + 1..];
        let (number, length) = if let Some((number, length)) = decimal::quick(line) {
            (i64::from(number), length)
        } else {
            let end = line.windows(2).position(|pair| pair == b"\r\n").ok_or(Malformed::Truncated)?;
            (decimal::strict(&line[..end]).ok_or(Malformed::Header)?, end + 2)
        };
        self.at += 1 + length;
        let number = usize::try_from(number).map_err(|_| Malformed::Header)?;
        number.checked_mul(each).ok_or(Malformed::Size)
    }

    /// The element under way turned out to have `n` of its own.
    fn open(&mut self, n: usize) -> Result<(), Malformed> {
        self.missing = (self.missing - 1).checked_add(n as u64).ok_or(Malformed::Size)?;
        Ok(())
    }

    /// Goes behind the element at `at` and all that is in it.
    fn step_over(&mut self) -> Result<(), Malformed> {
        match Splitter::default().split(&self.input[self.at..])? {
            Split::End(length) => {
                self.at += length;
                Ok(())
            }
            Split::More => Err(Malformed::Truncated),
        }
    }

    /// What `write` appends stands for the input from `start` up to here.
    fn replace(&mut self, start: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.keep(start);
        write(self.out);
        self.kept = self.at;
    }

    /// Copies the input up to `end` that is not in `out` yet.
    fn keep(&mut self, end: usize) {
        self.out.extend_from_slice(&self.input[self.kept..end]);
    }
}

/// The content of a string of known length, which is well formed.
fn content(whole: &[u8]) -> &[u8] {
    let feed = whole.iter().position(|&byte| byte == b'\n').expect("a header line ends in a line feed");
    &whole[feed + 1..whole.len() - 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(resp3: &str, resp2: &str) {
        let mut out = b"before".to_vec();
        let differs = to_resp2(resp3.as_bytes(), &mut out).expect("well formed");
        assert_eq!(String::from_utf8(out).expect("text"), format!("before{resp2}"));
        assert_eq!(differs, resp3 != resp2);
    }

    #[test]
    fn what_both_versions_have_stays() {
        let same = [
            "",
            "+OK\r\n",
            "-ERR no\r\n",
            ":-7\r\n",
            "$0\r\n\r\n",
            "$-1\r\n",
            "*-1\r\n",
            "*0\r\n",
            "*2\r\n$3\r\nabc\r\n*1\r\n:1\r\n",
            "+a\r\n:1\r\n",
        ];
        for reply in same {
            check(reply, reply);
        }
    }

    #[test]
    fn each_type_of_resp3_has_its_twin() {
        check("_\r\n", "$-1\r\n");
        check("#t\r\n", ":1\r\n");
        check("#f\r\n", ":0\r\n");
        check(",1.5e+30\r\n", "$7\r\n1.5e+30\r\n");
        check(",-inf\r\n", "$4\r\n-inf\r\n");
        check("(-123456789012345678901234567890\r\n", "$31\r\n-123456789012345678901234567890\r\n");
        check("=7\r\ntxt:a\r\n\r\n", "$3\r\na\r\n\r\n");
        check("=4\r\ntxt:\r\n", "$0\r\n\r\n");
        check("!8\r\nERR a\r\nb\r\n", "-ERR a  b\r\n");
        check("~2\r\n:1\r\n_\r\n", "*2\r\n:1\r\n$-1\r\n");
        check("%2\r\n+a\r\n#t\r\n+b\r\n*1\r\n,2\r\n", "*4\r\n+a\r\n:1\r\n+b\r\n*1\r\n$1\r\n2\r\n");
        check("%0\r\n", "*0\r\n");
    }

    #[test]
    fn nulls_may_be_absent_arrays() {
        let mut out = vec![];
        let positions = b"*3\r\n*2\r\n,1.5\r\n,2\r\n_\r\n_\r\n";
        assert_eq!(to_twin(Twin::NullArrays, positions, &mut out), Ok(true));
        assert_eq!(out, b"*3\r\n*2\r\n$3\r\n1.5\r\n$1\r\n2\r\n*-1\r\n*-1\r\n");
    }

    #[test]
    fn pairs_are_laid_flat_and_nothing_else_is() {
        let flat = |resp3: &[u8]| {
            let mut out = vec![];
            to_twin(Twin::FlatPairs, resp3, &mut out).map(|_| out)
        };
        let pairs = b"*2\r\n*2\r\n$1\r\na\r\n,1.5\r\n*2\r\n$1\r\nb\r\n,inf\r\n";
        assert_eq!(flat(pairs).expect("pairs"), b"*4\r\n$1\r\na\r\n$3\r\n1.5\r\n$1\r\nb\r\n$3\r\ninf\r\n");
        for same in [&b"*2\r\n$1\r\na\r\n$1\r\nb\r\n"[..], b"*0\r\n", b"-ERR no\r\n"] {
            assert_eq!(flat(same).expect("well formed"), same);
        }
        assert!(flat(b"*1\r\n*3\r\n:1\r\n:2\r\n:3\r\n").is_err(), "no pair");
        assert!(flat(b"*2\r\n*2\r\n:1\r\n").is_err());
    }

    #[test]
    fn attributes_go_with_all_that_is_in_them() {
        check("|1\r\n+k\r\n%1\r\n+a\r\n_\r\n$1\r\nx\r\n", "$1\r\nx\r\n");
        check("*2\r\n|1\r\n+k\r\n|1\r\n+i\r\n+j\r\n+v\r\n:1\r\n|0\r\n_\r\n", "*2\r\n:1\r\n$-1\r\n");
    }

    #[test]
    fn pushes_stay_as_they_are() {
        let push = ">2\r\n+invalidate\r\n*2\r\n_\r\n#t\r\n";
        check(push, push);
        check(&format!("*2\r\n{push}_\r\n"), &format!("*2\r\n{push}$-1\r\n"));
    }

    #[test]
    fn nothing_is_written_for_a_malformed_reply() {
        let malformed = [
            "*1\r\n",
            "$3\r\nab",
            "%1\r\n_\r\n",
            "|1\r\n+a\r\n+b\r\n",
            "*-2\r\n",
            "~-1\r\n",
            "x",
            "=3\r\ntxt\r\n",
            "=4\r\ntxt;\r\n",
            "_\r\n*1\r\n_\r\n+",
            "*18446744073709551615\r\n",
            "%9223372036854775807\r\n_\r\n",
            "|9223372036854775807\r\n",
            "*2\r\n*9223372036854775807\r\n*9223372036854775807\r\n*9223372036854775807\r\n",
        ];
        for reply in malformed {
            let mut out = b"before".to_vec();
            assert!(to_resp2(reply.as_bytes(), &mut out).is_err(), "{reply:?}");
            assert_eq!(out, b"before");
        }
    }

    #[test]
    fn depth_costs_nothing() {
        let depth = 100_000;
        let deep = format!("{}_\r\n", "%1\r\n:1\r\n".repeat(depth));
        check(&deep, &format!("{}$-1\r\n", "*2\r\n:1\r\n".repeat(depth)));
        check(&format!("|1\r\n+k\r\n{deep}+x\r\n"), "+x\r\n");
    }
}
