//! How what is counted of each origin is told: which origins there are the settings say, so these metrics stand in no table.

use std::fmt::{self, Write as _};

use super::labels::LoadResult;

/// Each metric's name and sentence.
pub(super) const FAMILIES: [(&str, &str); 2] = [
    ("crema_origin_loads_total", "Reads of keys that Redis did not have and an origin may have, by what came of them."),
    ("crema_origin_loads_waiting", "Loads that wait until their origin has fewer of them under way."),
];

/// What there is of one origin.
#[derive(Clone, Debug, Default)]
pub struct OriginLevels {
    /// Its pattern.
    pub keys: String,
    /// Loads by what came of them, as in [`LoadResult::ALL`].
    pub results: [u64; LoadResult::COUNT],
    /// Loads that wait for a permit.
    pub waiting: u64,
}

/// Appends what there is of each origin, in the text format of Prometheus.
pub(super) fn write(text: &mut String, origins: &[OriginLevels]) -> fmt::Result {
    let label = |keys: &str| keys.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let [(loads, about_loads), (waiting, about_waiting)] = FAMILIES;
    writeln!(text, "# HELP {loads} {about_loads}\n# TYPE {loads} counter")?;
    for origin in origins {
        for (result, count) in LoadResult::LABELS.iter().zip(origin.results) {
            writeln!(text, "{loads}{{keys=\"{}\",result=\"{result}\"}} {count}", label(&origin.keys))?;
        }
    }
    writeln!(text, "# HELP {waiting} {about_waiting}\n# TYPE {waiting} gauge")?;
    for origin in origins {
        writeln!(text, "{waiting}{{keys=\"{}\"}} {}", label(&origin.keys), origin.waiting)?;
    }
    Ok(())
}
