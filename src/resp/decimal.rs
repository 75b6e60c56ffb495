//! The decimal numbers of header lines, read and written.
//!
//! Pure functions on bytes; called by the parser, the splitter, the downgrade and the writers. Only the one canonical
//! way to write a number is ever read: no plus sign, no leading zero, no blank.

/// The number in a header line (`12\r\n`, after its type byte), and the length of that line with its end.
///
/// Knows only lines that are wholly there and hold at most nine digits, which is nearly all of them; on `None` the
/// caller looks again, thoroughly. Up to three digits are spelled out: those must cost next to nothing.
#[inline]
pub(super) fn quick(line: &[u8]) -> Option<(u32, usize)> {
    match line {
        [a @ b'0'..=b'9', b'\r', b'\n', ..] => Some((value(*a), 3)),
        [a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => Some((value(*a) * 10 + value(*b), 4)),
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some((value(*a) * 100 + value(*b) * 10 + value(*c), 5))
        }
        _ => longer(line),
    }
}

/// Likewise up to nine digits.
#[inline(never)]
fn longer(line: &[u8]) -> Option<(u32, usize)> {
    let digits = line.iter().take(10).take_while(|byte| byte.is_ascii_digit()).count();
    if !(4..=9).contains(&digits) || line[0] == b'0' || line.get(digits..digits + 2)? != b"\r\n" {
        return None;
    }
    let number = line[..digits].iter().fold(0, |number, digit| number * 10 + value(*digit));
    Some((number, digits + 2))
}

#[inline]
fn value(digit: u8) -> u32 {
    u32::from(digit - b'0')
}

/// Likewise for a header of the type `kind`; the length counts its type byte too.
#[inline]
pub(super) fn quick_header(header: &[u8], kind: u8) -> Option<(u32, usize)> {
    let [first, line @ ..] = header else {
        return None;
    };
    let (number, length) = if *first == kind { quick(line)? } else { return None };
    Some((number, 1 + length))
}

/// Reads all of `digits` as Redis reads a count (`string2ll`): a minus sign if negative, no leading zero, no `-0`,
/// within 64 bits.
pub(super) fn strict(digits: &[u8]) -> Option<i64> {
    let (negative, magnitude) = match digits {
        b"0" => return Some(0),
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    if !matches!(magnitude.first(), Some(b'1'..=b'9')) {
        return None;
    }
    let mut number: i64 = 0;
    for byte in magnitude {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // Counted downwards, since the smallest i64 has no positive twin.
        number = number.checked_mul(10)?.checked_sub(i64::from(digit))?;
    }
    if negative { Some(number) } else { number.checked_neg() }
}

/// Appends `number` in decimal.
#[inline]
pub(super) fn write(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_reads_canonical_lines_only() {
        assert_eq!(quick(b"0\r\nrest"), Some((0, 3)));
        assert_eq!(quick(b"7\r\n"), Some((7, 3)));
        assert_eq!(quick(b"100\r\n"), Some((100, 5)));
        assert_eq!(quick(b"1234\r\n\r\n"), Some((1234, 6)));
        assert_eq!(quick(b"999999999\r\n"), Some((999_999_999, 11)));
        for other in [
            "",
            "1",
            "1\r",
            "1\rx",
            "01\r\n",
            "00\r\n",
            "-1\r\n",
            "\r\n",
            "1000000000\r\n",
            "0100\r\n",
            "1000\r",
            "1000",
            "1x\r\n",
            "+1\r\n",
        ] {
            assert_eq!(quick(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn strict_is_as_strict_as_redis() {
        for number in [0, 1, -1, 10, i64::MAX, i64::MIN, -10] {
            assert_eq!(strict(number.to_string().as_bytes()), Some(number));
        }
        let refused =
            ["", "-", "-0", "00", "01", "+1", " 1", "1 ", "1a", "9223372036854775808", "-9223372036854775809", "--1"];
        for other in refused {
            assert_eq!(strict(other.as_bytes()), None, "{other:?}");
        }
        assert_eq!(strict(&b"9".repeat(70_000)), None);
    }

    #[test]
    fn written_numbers_are_decimal() {
        for number in [0, 9, 10, 12345, u64::MAX] {
            let mut out = Vec::new();
            write(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
