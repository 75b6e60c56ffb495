//! How what is counted of each origin is told: which origins there are the settings say, so these metrics stand in no table.

use std::fmt::{self, Write as _};

use super::labels::LoadResult;

/// Each metric's name and sentence.
pub(super) const FAMILIES: [(&str, &str); 4] = [
    ("crema_origin_loads_total", "Reads of keys that Redis did not have and an origin may have, by what came of them."),
    ("crema_origin_loads_under_way", "Loads for which each origin is being asked."),
    ("crema_origin_loads_waiting", "Loads that wait until their origin has fewer of them under way."),
    ("crema_origin_well", "Whether the last load of each origin was answered, with a value or with none."),
];

/// What there is of one origin.
#[derive(Clone, Debug, Default)]
pub struct OriginLevels {
    /// Its pattern.
    pub keys: String,
    /// Loads by what came of them, as in [`LoadResult::ALL`].
    pub results: [u64; LoadResult::COUNT],
    /// Loads under way.
    pub under_way: u64,
    /// Loads that wait for a permit.
    pub waiting: u64,
    /// Whether the last was answered.
    pub well: bool,
}

/// Appends what there is of each origin, in the text format of Prometheus.
pub(super) fn write(text: &mut String, origins: &[OriginLevels]) -> fmt::Result {
    let label = |keys: &str| keys.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let [(loads, about_loads), gauges @ ..] = FAMILIES;
    writeln!(text, "# HELP {loads} {about_loads}\n# TYPE {loads} counter")?;
    for origin in origins {
        for (result, count) in LoadResult::LABELS.iter().zip(origin.results) {
            writeln!(text, "{loads}{{keys=\"{}\",result=\"{result}\"}} {count}", label(&origin.keys))?;
        }
    }
    let values: [fn(&OriginLevels) -> u64; 3] =
        [|origin| origin.under_way, |origin| origin.waiting, |origin| u64::from(origin.well)];
    for ((name, about), value) in gauges.into_iter().zip(values) {
        writeln!(text, "# HELP {name} {about}\n# TYPE {name} gauge")?;
        for origin in origins {
            writeln!(text, "{name}{{keys=\"{}\"}} {}", label(&origin.keys), value(origin))?;
        }
    }
    Ok(())
}
