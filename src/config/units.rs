//! Values with units: sizes (`64MiB`), durations (`250ms`), counts and switches, each with its bounds.
//!
//! Pure text to number and back. What a unit means is said here alone; [`super`] says which bounds a key has.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::error::Problem;

/// What stands behind each word of a command that was given as a list.
pub(super) const WORD_END: char = '\0';
pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;

/// Reads a size in bytes. `kb`, `mb`, `gb` are powers of 1024, as in redis.conf, and so the same as `KiB`, `MiB`, `GiB`;
/// a lone `k`, `m` or `g`, which redis.conf takes for powers of 1000, is refused.
pub(super) fn size(text: &str) -> Result<u64, Problem> {
    let wrong =
        |why: &str| Problem::new(format!("`{text}` {why}"), "write for example 64MiB, 1GiB or a number of bytes");
    let (digits, unit) = split_unit(text).ok_or_else(|| wrong("is not a size"))?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "kb" => KIB,
        "mib" | "mb" => MIB,
        "gib" | "gb" => GIB,
        "tib" | "tb" => TIB,
        _ => return Err(wrong("is not a size")),
    };
    let number: Option<u64> = digits.parse().ok();
    number.and_then(|n| n.checked_mul(factor)).ok_or_else(|| wrong("is too large"))
}

/// A reader of sizes within `bounds`.
pub(super) fn sizes(bounds: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, Problem> {
    move |text| bounded(text, size(text)?, &bounds, |bytes| show_size(*bytes))
}

/// A reader of sizes within `bounds`, or 0 for none at all.
pub(super) fn sizes_or_zero(bounds: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, Problem> {
    move |text| match size(text)? {
        0 => Ok(0),
        bytes => bounded(text, bytes, &bounds, |bytes| show_size(*bytes)),
    }
}

/// Reads a duration: a whole number and `ms`, `s`, `m` (or `min`) or `h`. Only 0 needs no unit.
pub(super) fn duration(text: &str) -> Result<Duration, Problem> {
    let wrong = |why: &str| Problem::new(format!("`{text}` {why}"), "write for example 250ms, 5s, 2m or 1h");
    let (digits, unit) = split_unit(text).ok_or_else(|| wrong("is not a duration"))?;
    let number: u64 = digits.parse().map_err(|_| wrong("is too long"))?;
    let millis = match unit.to_ascii_lowercase().as_str() {
        "" if number == 0 => return Ok(Duration::ZERO),
        "" => {
            return Err(Problem::new(
                format!("`{text}` has no unit"),
                format!("write {text}ms, {text}s, {text}m or {text}h"),
            ));
        }
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong("is not a duration")),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(|| wrong("is too long"))
}

/// A reader of durations within `bounds`.
pub(super) fn durations(bounds: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, Problem> {
    move |text| bounded(text, duration(text)?, &bounds, |length| show_duration(*length))
}

/// A reader of durations within `bounds`, or 0 for `None`: never.
pub(super) fn durations_or_zero(
    bounds: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Option<Duration>, Problem> {
    move |text| match duration(text)? {
        Duration::ZERO => Ok(None),
        length => bounded(text, length, &bounds, |length| show_duration(*length)).map(Some),
    }
}

/// A reader of whole numbers within `bounds`.
pub(super) fn counts<T>(bounds: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, Problem>
where
    T: FromStr + PartialOrd + Display,
{
    move |text| match text.parse() {
        Ok(number) => bounded(text, number, &bounds, T::to_string),
        Err(_) => Err(Problem::new(
            format!("`{text}` is not a number that fits here"),
            format!("write a whole number from {} to {}", bounds.start(), bounds.end()),
        )),
    }
}

/// Reads `true` or `false`.
pub(super) fn switch(text: &str) -> Result<bool, Problem> {
    text.parse().map_err(|_| Problem::new(format!("`{text}` is neither true nor false"), "write true or false"))
}

/// Shows a size so that [`size`] reads it back: in the largest unit that divides it.
pub(crate) fn show_size(bytes: u64) -> String {
    [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")]
        .iter()
        .find(|(factor, _)| bytes > 0 && bytes.is_multiple_of(*factor))
        .map_or_else(|| bytes.to_string(), |(factor, unit)| format!("{}{unit}", bytes / factor))
}

/// Shows a duration of whole milliseconds so that [`duration`] reads it back.
pub(super) fn show_duration(length: Duration) -> String {
    let millis = length.as_millis();
    [(3_600_000, "h"), (60_000, "m"), (1_000, "s")]
        .iter()
        .find(|(factor, _)| millis > 0 && millis.is_multiple_of(*factor))
        .map_or_else(|| format!("{millis}ms"), |(factor, unit)| format!("{}{unit}", millis / factor))
}

fn bounded<T: PartialOrd>(
    text: &str,
    value: T,
    bounds: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) -> Result<T, Problem> {
    let wrong = match &value {
        value if value < bounds.start() => "too small",
        value if value > bounds.end() => "too large",
        _ => return Ok(value),
    };
    let right = format!("write {} to {}", show(bounds.start()), show(bounds.end()));
    Err(Problem::new(format!("`{text}` is {wrong}"), right))
}

/// Digits and what follows them, blanks between allowed; `None` where there are no digits.
fn split_unit(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    (!digits.is_empty()).then(|| (digits, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes() {
        let good = [
            ("0", 0),
            ("1048576", MIB),
            ("64MiB", 64 * MIB),
            ("64mb", 64 * MIB),
            ("1GB", GIB),
            ("2 KiB", 2 * KIB),
            ("7b", 7),
            ("16777215TiB", 16_777_215 * TIB),
        ];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in ["", "MiB", "64M", "1k", "-1", "1.5GiB", "1e6", "64MiBs", "٣MiB"] {
            let problem = size(text).expect_err(text).to_string();
            assert!(problem.contains("is not a size") && problem.contains("64MiB"), "{problem}");
        }
        for text in ["16777216TiB", "18446744073709551616"] {
            let problem = size(text).expect_err(text).to_string();
            assert!(problem.contains("is too large"), "{problem}");
        }
    }

    #[test]
    fn reads_durations() {
        let good =
            [("0", 0), ("0s", 0), ("250ms", 250), ("5s", 5_000), ("2m", 120_000), ("2min", 120_000), ("1h", 3_600_000)];
        for (text, millis) in good {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_duration() {
        for text in ["", "s", "5 parsecs", "-5s", "1.5s", "1h30m", "5d"] {
            let problem = duration(text).expect_err(text).to_string();
            assert!(problem.contains("is not a duration") && problem.contains("250ms"), "{problem}");
        }
        let bare = duration("500").expect_err("no unit").to_string();
        assert_eq!(bare, "`500` has no unit; write 500ms, 500s, 500m or 500h");
        for text in ["18446744073709551616ms", "18446744073709551615h"] {
            let problem = duration(text).expect_err(text).to_string();
            assert!(problem.contains("is too long"), "{problem}");
        }
    }

    #[test]
    fn keeps_bounds_and_names_them() {
        let staleness = durations(Duration::from_millis(20)..=Duration::from_secs(60));
        assert_eq!(staleness("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(staleness("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(staleness("19ms").expect_err("below").to_string(), "`19ms` is too small; write 20ms to 1m");
        assert_eq!(staleness("61s").expect_err("above").to_string(), "`61s` is too large; write 20ms to 1m");

        let threads = counts(1_usize..=1024);
        assert_eq!(threads("1024"), Ok(1024));
        assert_eq!(threads("0").expect_err("below").to_string(), "`0` is too small; write 1 to 1024");
        let word = threads("four").expect_err("a word").to_string();
        assert_eq!(word, "`four` is not a number that fits here; write a whole number from 1 to 1024");
    }

    #[test]
    fn zero_may_stand_for_none() {
        assert_eq!(sizes_or_zero(MIB..=GIB)("0"), Ok(0));
        assert!(sizes_or_zero(MIB..=GIB)("1KiB").is_err());
        let never = durations_or_zero(Duration::from_secs(1)..=Duration::from_secs(9));
        assert_eq!(never("0"), Ok(None));
        assert_eq!(never("2s"), Ok(Some(Duration::from_secs(2))));
        assert!(never("1ms").is_err());
    }

    #[test]
    fn shows_what_it_reads() {
        for text in ["0", "1", "1023", "1KiB", "1536KiB", "256MiB", "3GiB", "1TiB"] {
            assert_eq!(show_size(size(text).expect(text)), text);
        }
        for text in ["0ms", "250ms", "1500ms", "5s", "90s", "2m", "3h"] {
            assert_eq!(show_duration(duration(text).expect(text)), text);
        }
    }
}
