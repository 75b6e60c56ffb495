//! What the curve says, in words: what to set, and why. And what of a report people are shown as lines.

use std::fmt::Write as _;

use serde::Serialize;

use super::report::{CurveReport, GroupReport, PromotionReport, SizeReport};

/// A difference of less than this part of all reads is none.
const POINT: f64 = 0.01;
/// What answers less is not worth its memory.
const LITTLE: f64 = 0.05;
/// Keys of which so many reads find them changed, and so few are answered, are better left out.
const CHANGED: f64 = 0.5;
const ANSWERED: f64 = 0.3;
/// And they are told of where they are such a part of all reads.
const PART: f64 = 0.01;
/// Where so many writes name no keys, that is told.
const OPAQUE: f64 = 0.05;
/// Before so many writes nothing is said of them.
const ENOUGH_WRITES: u64 = 100;

/// One thing to do, or to know.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Advice {
    /// What it is about: a setting, or `mode`, `writes`.
    pub about: &'static str,
    /// What to set it to, where there is something to set.
    pub value: Option<String>,
    /// What that gains, in parts of all reads.
    pub gain: f64,
    /// A sentence.
    pub text: String,
}

/// What follows from a report; nothing where it waits for traffic.
pub(super) fn advise(report: &CurveReport) -> Vec<Advice> {
    if report.waits_for.is_some() {
        return Vec::new();
    }
    let Some(present) = report.sizes.iter().find(|size| size.present) else { return Vec::new() };
    let mut all = vec![of_mode(report, present), of_size(report, present)];
    all.extend(of_promotion(&report.promotions));
    let groups =
        report.rules.iter().map(|group| (group, true)).chain(report.prefixes.iter().map(|group| (group, false)));
    all.extend(groups.filter_map(|(group, is_rule)| of_group(group, is_rule)));
    all.extend(of_writes(report));
    all
}

fn of_mode(report: &CurveReport, present: &SizeReport) -> Advice {
    let spared = format!(
        "{} of reads: {} reads and {} a second that Redis {} spared",
        percent(present.hit_ratio),
        number(present.reads_spared_a_second),
        bytes(present.bytes_spared_a_second),
        if report.mode == "cache" { "is" } else { "would be" },
    );
    let (value, gain, text) = match report.mode {
        "cache" => (None, 0.0, format!("L1 answers {spared}.")),
        _ if present.hit_ratio < LITTLE => (None, 0.0, format!("L1 would answer {spared}. That is little.")),
        _ => {
            let text = format!("L1 would answer {spared}. CREMA MODE cache switches it on.");
            (Some("cache".to_owned()), present.hit_ratio, text)
        }
    };
    Advice { about: "mode", value, gain, text }
}

/// The smallest size that answers as much as any.
fn of_size(report: &CurveReport, present: &SizeReport) -> Advice {
    let most = report.sizes.iter().map(|size| size.hit_ratio).fold(0.0, f64::max);
    let enough = report.sizes.iter().find(|size| size.hit_ratio >= most - POINT).unwrap_or(present);
    let (size, now) = (mebibytes(enough.bytes), mebibytes(present.bytes));
    let gain = enough.hit_ratio - present.hit_ratio;
    let (value, text) = if enough.bytes > present.bytes && gain >= POINT {
        let (of, is) = (percent(enough.hit_ratio), percent(present.hit_ratio));
        (
            Some(size.replace(' ', "")),
            format!("{size} would answer {of} of reads, {now} as now {is}; more adds nothing."),
        )
    } else if enough.bytes < present.bytes && gain > -POINT {
        (
            Some(size.replace(' ', "")),
            format!("{size} would answer as much as {now} now: {} of reads.", percent(enough.hit_ratio)),
        )
    } else {
        (None, format!("{now} is enough: more would add nothing."))
    };
    Advice { about: "l1_size", value, gain, text }
}

fn of_promotion(promotions: &[PromotionReport]) -> Option<Advice> {
    let present = promotions.iter().find(|promotion| promotion.present)?;
    let most = promotions.iter().map(|promotion| promotion.hit_ratio).fold(0.0, f64::max);
    let advice = |other: &PromotionReport, text| Advice {
        about: "promote",
        value: Some(other.promote.to_string()),
        gain: other.hit_ratio - present.hit_ratio,
        text,
    };
    // Of those as good as the best, the one that fills least.
    let best = promotions.iter().rev().find(|promotion| promotion.hit_ratio >= most - POINT / 2.0)?;
    let gain = best.hit_ratio - present.hit_ratio;
    let (one, now) = (best.promote, present.promote);
    if !best.present && gain >= POINT {
        let cost = format!("{:.3} fills a read instead of {:.3}", best.fills_a_read, present.fills_a_read);
        return Some(advice(best, format!("promote {one} instead of {now} gains {}, for {cost}.", points(gain))));
    }
    let thrifty = promotions.iter().rev().find(|other| {
        other.promote > now
            && other.hit_ratio > present.hit_ratio - POINT / 2.0
            && present.fills_a_read > 0.02
            && other.fills_a_read < present.fills_a_read / 2.0
    })?;
    let saved = percent(1.0 - thrifty.fills_a_read / present.fills_a_read);
    Some(advice(
        thrifty,
        format!("promote {} instead of {now} answers as much and saves {saved} of the fills.", thrifty.promote),
    ))
}

fn of_group(group: &GroupReport, is_rule: bool) -> Option<Advice> {
    let GroupReport { keys, reads_part, hit_ratio, changed_ratio, .. } = group;
    if *reads_part < PART || *changed_ratio < CHANGED || *hit_ratio > ANSWERED {
        return None;
    }
    let how = if *changed_ratio > 0.8 { "as often as it is read" } else { "nearly as often as it is read" };
    let mut text = format!(
        "{keys} is written {how}: {} of reads find it changed, and {} are answered. Leave it out: ",
        percent(*changed_ratio),
        percent(*hit_ratio)
    );
    let _ = if is_rule {
        write!(text, "promote = \"never\" in its rule.")
    } else {
        write!(text, "[[rule]] match = \"{keys}\", promote = \"never\".")
    }; // into a string
    Some(Advice { about: "rule", value: Some(keys.clone()), gain: 0.0, text })
}

fn of_writes(report: &CurveReport) -> Option<Advice> {
    let part = report.writes.opaque as f64 / report.writes.all.max(1) as f64;
    let text = format!(
        "{} of writes name no keys, as scripts may: a read behind one waits until L1 has heard what it changed.",
        percent(part)
    );
    let told = report.writes.all >= ENOUGH_WRITES && part >= OPAQUE;
    told.then_some(Advice { about: "writes", value: None, gain: 0.0, text })
}

impl CurveReport {
    /// All of it that fits on lines, for people.
    pub fn lines(&self) -> Vec<String> {
        if let Some(waits_for) = &self.waits_for {
            return vec![format!("needs {waits_for}")];
        }
        let mut lines: Vec<String> = self.advice.iter().map(|advice| advice.text.clone()).collect();
        let (reads, rate) = (number(self.reads as f64), number(self.reads_a_second));
        lines.push(format!(
            "Of {} s with {reads} reads, {rate} a second; mode {}. By l1_size:",
            self.seconds, self.mode
        ));
        let now = |present| if present { "  (now)" } else { "" };
        for size in &self.sizes {
            let (bytes, ratio) = (mebibytes(size.bytes), percent_to_a_tenth(size.hit_ratio));
            lines.push(format!("{bytes:>10} {ratio:>8}{}", now(size.present)));
        }
        lines.push("By promote:".to_owned());
        for promotion in &self.promotions {
            let (ratio, fills) = (percent_to_a_tenth(promotion.hit_ratio), promotion.fills_a_read);
            lines.push(format!(
                "{:>10} {ratio:>8}  {fills:.3} fills a read{}",
                promotion.promote,
                now(promotion.present)
            ));
        }
        for (title, groups) in [("By rule:", &self.rules), ("By prefix:", &self.prefixes)] {
            if !groups.is_empty() {
                lines.push(title.to_owned());
            }
            for group in groups {
                lines.push(format!(
                    "{:>10} {:>8} of reads, {} answered, {} find it changed",
                    group.keys,
                    percent_to_a_tenth(group.reads_part),
                    percent(group.hit_ratio),
                    percent(group.changed_ratio)
                ));
            }
        }
        lines
    }
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

fn percent_to_a_tenth(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

fn points(part: f64) -> String {
    let points = format!("{:.0}", part * 100.0);
    if points == "1" { "1 point".to_owned() } else { format!("{points} points") }
}

/// With a comma at the thousands.
fn number(of: f64) -> String {
    let digits = format!("{of:.0}");
    let mut told = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            told.push(',');
        }
        told.push(digit);
    }
    told
}

fn bytes(of: f64) -> String {
    match of {
        _ if of >= 1e6 => format!("{:.1} MB", of / 1e6),
        _ if of >= 1e3 => format!("{:.1} kB", of / 1e3),
        _ => format!("{of:.0} bytes"),
    }
}

fn mebibytes(bytes: u64) -> String {
    const MEBI: u64 = 1 << 20;
    match bytes {
        _ if bytes >= 1 << 30 && bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ if bytes >= MEBI => format!("{} MiB", bytes / MEBI),
        _ => format!("{} KiB", bytes >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::WritesReport;
    use super::*;

    fn size(mebi: u64, hit_ratio: f64, present: bool) -> SizeReport {
        let (reads_spared_a_second, bytes_spared_a_second) = (hit_ratio * 20_000.0, hit_ratio * 4e6);
        let (bytes, fills_a_read) = (mebi << 20, 0.1);
        SizeReport { bytes, hit_ratio, fills_a_read, reads_spared_a_second, bytes_spared_a_second, present }
    }

    fn promotion(promote: u32, hit_ratio: f64, fills_a_read: f64, present: bool) -> PromotionReport {
        PromotionReport { promote, hit_ratio, fills_a_read, present }
    }

    fn group(keys: &str, reads_part: f64, hit_ratio: f64, changed_ratio: f64) -> GroupReport {
        GroupReport { keys: keys.to_owned(), reads_part, bytes_part: 0.1, hit_ratio, changed_ratio }
    }

    fn report() -> CurveReport {
        CurveReport {
            mode: "observe",
            seconds: 300,
            reads: 6_000_000,
            reads_a_second: 20_000.0,
            sizes: vec![
                size(128, 0.52, false),
                size(256, 0.71, true),
                size(512, 0.83, false),
                size(1024, 0.834, false),
            ],
            promotions: vec![
                promotion(1, 0.752, 0.2, false),
                promotion(2, 0.75, 0.1, false),
                promotion(10, 0.71, 0.05, true),
            ],
            prefixes: vec![group("page:*", 0.7, 0.9, 0.01), group("session:*", 0.2, 0.04, 0.93)],
            writes: WritesReport { all: 1000, opaque: 90 },
            ..CurveReport::default()
        }
    }

    fn texts(report: &CurveReport) -> Vec<String> {
        advise(report).into_iter().map(|advice| advice.text).collect()
    }

    #[test]
    fn a_report_is_put_into_words() {
        let expected = [
            "L1 would answer 71 % of reads: 14,200 reads and 2.8 MB a second that Redis would be spared. CREMA MODE cache switches \
             it on.",
            "512 MiB would answer 83 % of reads, 256 MiB as now 71 %; more adds nothing.",
            "promote 2 instead of 10 gains 4 points, for 0.100 fills a read instead of 0.050.",
            "session:* is written as often as it is read: 93 % of reads find it changed, and 4 % are answered. Leave it out: \
             [[rule]] match = \"session:*\", promote = \"never\".",
            "9 % of writes name no keys, as scripts may: a read behind one waits until L1 has heard what it changed.",
        ];
        assert_eq!(texts(&report()), expected);
        let values: Vec<_> = advise(&report()).into_iter().map(|advice| (advice.about, advice.value)).collect();
        let of = |value: &str| Some(value.to_owned());
        let expected = [
            ("mode", of("cache")),
            ("l1_size", of("512MiB")),
            ("promote", of("2")),
            ("rule", of("session:*")),
            ("writes", None),
        ];
        assert_eq!(values, expected);
    }

    #[test]
    fn where_nothing_is_to_be_gained_that_is_said() {
        let mut report = report();
        report.mode = "cache";
        report.sizes = vec![size(128, 0.7, false), size(256, 0.705, true), size(512, 0.706, false)];
        report.promotions =
            vec![promotion(1, 0.706, 0.2, false), promotion(10, 0.705, 0.05, true), promotion(100, 0.703, 0.01, false)];
        report.prefixes.clear();
        report.writes = WritesReport { all: 99, opaque: 99 };
        let expected = [
            "L1 answers 70 % of reads: 14,100 reads and 2.8 MB a second that Redis is spared.",
            "128 MiB would answer as much as 256 MiB now: 70 % of reads.",
            "promote 100 instead of 10 answers as much and saves 80 % of the fills.",
        ];
        assert_eq!(texts(&report), expected);
        report.sizes[0].hit_ratio = 0.5;
        report.promotions.pop();
        assert_eq!(texts(&report)[1..], ["256 MiB is enough: more would add nothing."]);
    }

    #[test]
    fn what_waits_for_traffic_says_so_and_nothing_else() {
        let waiting = CurveReport { waits_for: Some("traffic".to_owned()), ..report() };
        assert_eq!((texts(&waiting), waiting.lines()), (vec![], vec!["needs traffic".to_owned()]));
    }

    #[test]
    fn who_is_not_to_know_names_is_told_none() {
        let mut report = report();
        report.advice = advise(&report);
        let shown = report.without_names();
        assert!(shown.advice.iter().any(|advice| advice.text.starts_with("prefix 2 is written as often")));
        let json = serde_json::to_string(&shown).expect("it is plain");
        assert!(!json.contains("session") && !json.contains("page"), "{json}");
    }

    #[test]
    fn lines_have_all_of_it() {
        let mut report = report();
        report.advice = advise(&report);
        let lines = report.lines();
        let at =
            |text: &str| lines.iter().position(|line| line == text).unwrap_or_else(|| panic!("{text}: {lines:#?}"));
        assert_eq!(at("Of 300 s with 6,000,000 reads, 20,000 a second; mode observe. By l1_size:"), 5);
        assert!(at("   256 MiB   71.0 %  (now)") < at("By promote:"));
        assert!(at("         2   75.0 %  0.100 fills a read") < at("By prefix:"));
        at(" session:*   20.0 % of reads, 4 % answered, 93 % find it changed");
        assert!(!lines.contains(&"By rule:".to_owned()));
    }
}
