//! Writers for the protocol: each appends to a buffer and never fails.
//!
//! Used for what crema says itself (its own commands, its errors, requests encoded anew). Bytes of Redis pass through
//! untouched and never come here.

use super::{Resp, decimal};

/// The header of an array of `n` elements, or of a request with `n` arguments.
#[inline]
pub fn array_header(out: &mut Vec<u8>, n: usize) {
    header(out, b'*', n);
}

/// The header of a map of `n` pairs; RESP2 has it as an array of `2 * n`.
pub fn map_header(out: &mut Vec<u8>, n: usize, resp: Resp) {
    match resp {
        Resp::V2 => header(out, b'*', n.saturating_mul(2)),
        Resp::V3 => header(out, b'%', n),
    }
}

/// The header of a set of `n` elements; RESP2 has it as an array.
pub fn set_header(out: &mut Vec<u8>, n: usize, resp: Resp) {
    let kind = if resp == Resp::V3 { b'~' } else { b'*' };
    header(out, kind, n);
}

/// The header of a push of `n` elements; RESP2 has it as an array.
pub fn push_header(out: &mut Vec<u8>, n: usize, resp: Resp) {
    let kind = if resp == Resp::V3 { b'>' } else { b'*' };
    header(out, kind, n);
}

/// A bulk string; any bytes.
#[inline]
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// A whole request in its canonical form: an array of bulk strings.
pub fn command(out: &mut Vec<u8>, args: &[&[u8]]) {
    array_header(out, args.len());
    for arg in args {
        bulk(out, arg);
    }
}

/// A request of crema's own, its name spelt as no client spells it (`sELECT`), so that whoever shows a client what Redis
/// ran can leave it out: see [`is_own`]. To Redis all spellings are one.
pub fn own_command(out: &mut Vec<u8>, args: &[&[u8]]) {
    array_header(out, args.len());
    bulk(out, &own_name(args[0]));
    args[1..].iter().for_each(|arg| bulk(out, arg));
}

/// A command's name so spelt.
pub fn own_name(name: &[u8]) -> Vec<u8> {
    let mut name = name.to_ascii_uppercase();
    name[..1].make_ascii_lowercase();
    name
}

/// A whole request with these arguments, each of which has its header in front: what stands behind the name in its canonical form.
pub fn with_arguments(out: &mut Vec<u8>, name: &[u8], arguments: &[u8]) {
    let (mut count, mut rest) = (0, arguments);
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let digits = rest[1..end].iter().take_while(|byte| byte.is_ascii_digit());
        let len = digits.fold(0_usize, |len, digit| len * 10 + usize::from(digit - b'0'));
        rest = rest.get(end + 1 + len + 2..).unwrap_or_default();
        count += 1;
    }
    array_header(out, 1 + count);
    bulk(out, name);
    out.extend_from_slice(arguments);
}

/// Whether a command's name is spelt as [`own_command`] does.
pub fn is_own(name: &[u8]) -> bool {
    name.len() > 2 && name[0].is_ascii_lowercase() && name[1..].iter().all(u8::is_ascii_uppercase)
}

/// A simple string such as `OK`.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    line(out, b'+', text.as_bytes());
}

/// An error. `text` begins with its code: `ERR no such thing`.
pub fn error(out: &mut Vec<u8>, text: &str) {
    line(out, b'-', text.as_bytes());
}

/// An integer.
pub fn integer(out: &mut Vec<u8>, number: i64) {
    out.push(b':');
    if number < 0 {
        out.push(b'-');
    }
    decimal::write(out, number.unsigned_abs());
    out.extend_from_slice(b"\r\n");
}

/// A missing value.
pub fn null(out: &mut Vec<u8>, resp: Resp) {
    out.extend_from_slice(if resp == Resp::V3 { b"_\r\n" } else { b"$-1\r\n" });
}

/// A missing array; RESP3 has but one null.
pub fn null_array(out: &mut Vec<u8>, resp: Resp) {
    out.extend_from_slice(if resp == Resp::V3 { b"_\r\n" } else { b"*-1\r\n" });
}

/// A truth value; RESP2 has it as the integer 1 or 0.
pub fn boolean(out: &mut Vec<u8>, value: bool, resp: Resp) {
    out.extend_from_slice(match (resp, value) {
        (Resp::V2, true) => b":1\r\n",
        (Resp::V2, false) => b":0\r\n",
        (Resp::V3, true) => b"#t\r\n",
        (Resp::V3, false) => b"#f\r\n",
    });
}

/// A line of text of the type `kind`. Line ends within it become blanks, as Redis does it: they would cut the reply
/// in two.
pub(super) fn line(out: &mut Vec<u8>, kind: u8, text: &[u8]) {
    out.push(kind);
    out.extend(text.iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

/// A type byte, a count or length, and the line's end.
#[inline]
pub(crate) fn header(out: &mut Vec<u8>, kind: u8, n: usize) {
    out.push(kind);
    decimal::write(out, n as u64);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = b"before ".to_vec();
        write(&mut out);
        let all = String::from_utf8(out).expect("the tests write text");
        all.strip_prefix("before ").expect("writers only append").to_owned()
    }

    #[test]
    fn requests() {
        assert_eq!(written(|out| command(out, &[b"GET", b""])), "*2\r\n$3\r\nGET\r\n$0\r\n\r\n");
        assert_eq!(written(|out| bulk(out, &[b'x'; 12])), "$12\r\nxxxxxxxxxxxx\r\n");
    }

    #[test]
    fn lines_are_never_cut_in_two() {
        assert_eq!(written(|out| simple(out, "OK")), "+OK\r\n");
        assert_eq!(written(|out| error(out, "ERR a\r\nb\nc")), "-ERR a  b c\r\n");
    }

    #[test]
    fn integers() {
        for number in [0, 1, -1, i64::MAX, i64::MIN] {
            assert_eq!(written(|out| integer(out, number)), format!(":{number}\r\n"));
        }
    }

    #[test]
    fn each_version_has_its_own_types() {
        assert_eq!(written(|out| null(out, Resp::V2)), "$-1\r\n");
        assert_eq!(written(|out| null(out, Resp::V3)), "_\r\n");
        assert_eq!(written(|out| null_array(out, Resp::V2)), "*-1\r\n");
        assert_eq!(written(|out| null_array(out, Resp::V3)), "_\r\n");
        assert_eq!(written(|out| map_header(out, 7, Resp::V2)), "*14\r\n");
        assert_eq!(written(|out| map_header(out, 7, Resp::V3)), "%7\r\n");
        assert_eq!(written(|out| set_header(out, 3, Resp::V2)), "*3\r\n");
        assert_eq!(written(|out| set_header(out, 3, Resp::V3)), "~3\r\n");
        assert_eq!(written(|out| push_header(out, 2, Resp::V2)), "*2\r\n");
        assert_eq!(written(|out| push_header(out, 2, Resp::V3)), ">2\r\n");
        assert_eq!(written(|out| boolean(out, true, Resp::V2)), ":1\r\n");
        assert_eq!(written(|out| boolean(out, false, Resp::V2)), ":0\r\n");
        assert_eq!(written(|out| boolean(out, true, Resp::V3)), "#t\r\n");
        assert_eq!(written(|out| boolean(out, false, Resp::V3)), "#f\r\n");
    }
}
