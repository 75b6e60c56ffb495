//! The names of all metrics, each once, with its sentence and how it is read: a long table.
//!
//! `/metrics` and the status JSON are both made from the tables below, so neither can name what the
//! other lacks. Prometheus's text comes from `metrics-exporter-prometheus`: its handles are
//! registered once, at the start, and set to the sums when somebody asks. Only the histogram is
//! written here, because that crate takes samples and crema has buckets. The file is long, for it is one list.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use ::metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use serde::Serialize;

use super::key_tallies::{self, KeyLevels};
use super::labels::{
    AuditBreach, AuditDoubt, AuditSkip, CensusFinding, ChannelMessage, CoherenceMeans, DropReason, EpochReason,
    Failure, FillOutcome, Need, Outcome, Path, Publication, ReadRole, RedirectKind, Refusal,
};
use super::origin::{self, OriginLevels};
use super::tier::{self, TierLevels};
use super::{Metrics, process};
use crate::command::Class;
use crate::config::L1Mode;

/// Requests by class of command and by outcome.
const REQUESTS: Row<()> =
    Row { name: "crema_requests_total", about: "Requests by class of command and by what became of them.", read: () };

/// The sampled latencies.
const REQUEST_SECONDS: Row<()> = Row {
    name: "crema_request_seconds",
    about: "Time from taking a request up to having its whole reply, by path; a sample of about one request in 64.",
    read: (),
};

/// Always 1; its label says which crema this is.
const BUILD_INFO: Row<()> =
    Row { name: "crema_build_info", about: "Always 1; the label is crema's version.", read: () };

/// Numbers that only grow.
const COUNTERS: &[Row<ReadCounter>] = &[
    Row {
        name: "crema_received_bytes_total",
        about: "Bytes of requests read from clients.",
        read: |m| m.sum(|w| w.bytes_in.get()),
    },
    Row {
        name: "crema_sent_bytes_total",
        about: "Bytes of replies written to clients.",
        read: |m| m.sum(|w| w.bytes_out.get()),
    },
    Row {
        name: "crema_sessions_total",
        about: "Client connections taken on.",
        read: |m| m.sum(|w| w.sessions_total.get()),
    },
    Row {
        name: "crema_sessions_refused_total",
        about: "Client connections turned away because the limit was reached.",
        read: |m| m.stats.sessions_refused.get(),
    },
    Row {
        name: "crema_settings_changes_total",
        about: "Times that settings were changed while crema ran.",
        read: |m| m.stats.settings_changes.get(),
    },
    Row {
        name: "crema_settings_refused_total",
        about: "Times that settings were read anew and could not be used, so that the old ones were kept.",
        read: |m| m.stats.settings_refused.get(),
    },
    Row {
        name: "crema_tls_handshakes_failed_total",
        about: "Client connections whose TLS handshake failed.",
        read: |m| m.sum(|w| w.handshakes_failed.get()),
    },
    Row {
        name: "crema_proxy_headers_refused_total",
        about: "Client connections refused because they began with a PROXY protocol header where none is expected, or without one where one is.",
        read: |m| m.sum(|w| w.proxy_headers_refused.get()),
    },
    Row {
        name: "crema_slow_clients_total",
        about: "Sessions closed because their client did not read its replies.",
        read: |m| m.sum(|w| w.slow_clients.get()),
    },
    Row {
        name: "crema_cut_clients_total",
        about: "Sessions closed because the upstream was away, or the connection to it broke under a command.",
        read: |m| m.sum(|w| w.cut_clients.get()),
    },
    Row {
        name: "crema_curve_reads_total",
        about: "Reads of keys in the sample of which the curve of hit ratio by size is made.",
        read: |m| m.sum(|w| w.sampled_reads.get()),
    },
    Row {
        name: "crema_curve_reads_lost_total",
        about: "Reads of keys in that sample that were not looked at, because too many came at once.",
        read: |m| m.sum(|w| w.sampled_reads_lost.get()),
    },
    Row {
        name: "crema_curve_fills_total",
        about: "Keys of that sample that were read from Redis to know what they take and to hear when they change.",
        read: |m| m.stats.sampled_fills.get(),
    },
    Row {
        name: "crema_lanes_lost_total",
        about: "Lanes to Redis that broke while in use.",
        read: |m| m.sum(|w| w.lanes_lost.get()),
    },
    Row {
        name: "crema_retried_reads_total",
        about: "Reads sent a second time because their lane was lost.",
        read: |m| m.sum(|w| w.retried_reads.get()),
    },
    Row {
        name: "crema_lost_writes_total",
        about: "Writes that may or may not have been applied, because their lane was lost before the answer.",
        read: |m| m.sum(|w| w.lost_writes.get()),
    },
    Row {
        name: "crema_promotions_total",
        about: "Fills of L1 that were asked for.",
        read: |m| m.sum(|w| w.promotions.get()),
    },
    Row {
        name: "crema_l1_evictions_total",
        about: "Entries that L1 gave up for want of room.",
        read: |m| m.stats.evictions.get(),
    },
    Row {
        name: "crema_invalidations_total",
        about: "Keys that Redis said had changed.",
        read: |m| m.stats.invalidations.get(),
    },
    Row {
        name: "crema_touched_keys_total",
        about: "Keys served from L1 that Redis was told are in use, where it evicts by that.",
        read: |m| m.stats.touched.get(),
    },
    Row { name: "crema_flushes_total", about: "Times that Redis told of a flush.", read: |m| m.stats.flushes.get() },
    Row {
        name: "crema_fences_total",
        about: "Fences that came back, renewals of leases among them.",
        read: |m| m.stats.fences.get(),
    },
    Row {
        name: "crema_leases_lapsed_total",
        about: "Leases that ended before they were renewed: L1 did not answer until the next.",
        read: |m| m.stats.leases_lapsed.get(),
    },
    Row {
        name: "crema_slots_left_total",
        about: "Times that a slot of a cluster was found to have left its node, or to be leaving it: what was in memory of its keys counts no more. One slot can count several times.",
        read: |m| m.stats.slots_left.get(),
    },
    Row {
        name: "crema_sentinel_failovers_total",
        about: "Masters that took another's place.",
        read: |m| m.stats.failovers.get(),
    },
    Row {
        name: "crema_elections_total",
        about: "Elections of masters that the nodes of a cluster told of.",
        read: |m| m.stats.elections.get(),
    },
    Row {
        name: "crema_audit_checked_total",
        about: "Hits that were read again in Redis and compared.",
        read: |m| m.stats.audit_checked.get(),
    },
    Row {
        name: "crema_audit_ordered_total",
        about: "Hits that were held against the writes acknowledged here and the changes that Redis had told of.",
        read: |m| m.stats.audit_ordered.get(),
    },
    Row {
        name: "crema_slow_commands_total",
        about: "Commands slower than slowlog_slower_than, of which CREMA SLOWLOG tells.",
        read: |m| m.stats.slow.total(),
    },
    Row {
        name: "crema_ear_reconnects_total",
        about: "Times that an ear had to connect anew.",
        read: |m| m.stats.ear_reconnects.get(),
    },
];

/// Numbers that only grow, told apart by one label.
const LABELLED: &[Labelled] = &[
    Labelled {
        name: "crema_errors_total",
        about: "Requests that crema answered with an error of its own, or not at all, by reason.",
        key: "reason",
        labels: &Failure::LABELS,
        read: |m, i| m.sum(|w| w.failures(Failure::ALL[i])),
    },
    Labelled {
        name: "crema_replica_reads_total",
        about: "Reads that a replica could answer, by who was sent them; none where only masters are read.",
        key: "role",
        labels: &ReadRole::LABELS,
        read: |m, i| m.sum(|w| w.reads_at(ReadRole::ALL[i])),
    },
    Labelled {
        name: "crema_promotions_dropped_total",
        about: "Promotions that were dropped, by reason.",
        key: "reason",
        labels: &DropReason::LABELS,
        read: |m, i| m.sum(|w| w.drops(DropReason::ALL[i])),
    },
    Labelled {
        name: "crema_redirects_total",
        about: "Commands that a node of a cluster did not carry out and that went to another, or again, by reason.",
        key: "kind",
        labels: &RedirectKind::LABELS,
        read: |m, i| m.sum(|w| w.redirects(RedirectKind::ALL[i])),
    },
    Labelled {
        name: "crema_fills_total",
        about: "Fills of L1 that were sent, by what became of them.",
        key: "outcome",
        labels: &FillOutcome::LABELS,
        read: |m, i| m.stats.fills(FillOutcome::ALL[i]),
    },
    Labelled {
        name: "crema_epochs_total",
        about: "Times that an ear's part of L1 was emptied at once, by reason.",
        key: "reason",
        labels: &EpochReason::LABELS,
        read: |m, i| m.stats.epochs(EpochReason::ALL[i]),
    },
    Labelled {
        name: "crema_census_findings_total",
        about: "What rounds of questions to those who elect masters showed of each master of a cluster, which must be proven for memory to answer.",
        key: "finding",
        labels: &CensusFinding::LABELS,
        read: |m, i| m.stats.census_findings(CensusFinding::ALL[i]),
    },
    Labelled {
        name: "crema_users_without_l1_total",
        about: "Times that a user was found to lack a right that keeping its reads needs, by what it lacks.",
        key: "right",
        labels: &Refusal::LABELS,
        read: |m, i| m.stats.refusals(Refusal::ALL[i]),
    },
    Labelled {
        name: "crema_audit_violations_total",
        about: "Hits that were wrong, as the audit has found, by what they break. Any is a reason for mode pass, and for a report.",
        key: "what",
        labels: &AuditBreach::LABELS,
        read: |m, i| m.stats.audit_breaches(AuditBreach::ALL[i]),
    },
    Labelled {
        name: "crema_audit_ambiguous_total",
        about: "Audited hits that differ from what they should be, or may, which proves nothing, by reason.",
        key: "reason",
        labels: &AuditDoubt::LABELS,
        read: |m, i| m.stats.audit_doubts(AuditDoubt::ALL[i]),
    },
    Labelled {
        name: "crema_audit_skipped_total",
        about: "Hits that were chosen to be read again and were not compared, by reason.",
        key: "reason",
        labels: &AuditSkip::LABELS,
        read: |m, i| m.stats.audit_skips(AuditSkip::ALL[i]),
    },
    Labelled {
        name: "crema_channel_messages_total",
        about: "Messages heard on the fleet's channel, by type.",
        key: "type",
        labels: &ChannelMessage::LABELS,
        read: |m, i| m.stats.channel(ChannelMessage::ALL[i]),
    },
    Labelled {
        name: "crema_channel_published_total",
        about: "What the fleet was to be told, by what became of it.",
        key: "outcome",
        labels: &Publication::LABELS,
        read: |m, i| m.stats.publications(Publication::ALL[i]),
    },
];

/// Numbers that rise and fall.
const GAUGES: &[Row<ReadGauge>] = &[
    Row { name: "crema_ready", about: "1 while crema can serve, else 0.", read: |_, l| l.ready.into() },
    Row { name: "crema_upstream_up", about: "1 while Redis answers, else 0.", read: |_, l| l.upstream_up.into() },
    Row { name: "crema_uptime_seconds", about: "Seconds since crema started.", read: |_, l| l.uptime.as_secs() },
    Row {
        name: "crema_tls_certificate_expires_seconds",
        about: "When the first of crema's own certificates ends, in seconds since 1970; 0 where it shows none.",
        read: |_, l| l.certificate_expires.map_or(0, |at| u64::try_from(at).unwrap_or(1)),
    },
    Row { name: "crema_l1_entries", about: "Entries in L1.", read: |_, l| l.l1_entries },
    Row { name: "crema_l1_bytes", about: "Memory that the entries of L1 take.", read: |_, l| l.l1_bytes },
    Row {
        name: "crema_l1_capacity_bytes",
        about: "Memory that the entries of L1 may take.",
        read: |_, l| l.l1_capacity,
    },
    Row {
        name: "crema_ears",
        about: "Ears that listen or should: one for each node and user whose keys L1 keeps.",
        read: |_, l| l.ears,
    },
    Row { name: "crema_ears_connected", about: "Ears that are connected.", read: |_, l| l.ears_connected },
    Row {
        name: "crema_lease_held",
        about: "Ears whose lease is in force; while it is below crema_ears, reads go to Redis.",
        read: |_, l| l.leases_held,
    },
    Row { name: "crema_sentinels", about: "Sentinels that watch the upstream.", read: |_, l| l.sentinels },
    Row { name: "crema_sentinels_answering", about: "Those that answer.", read: |_, l| l.sentinels_answering },
    Row {
        name: "crema_sentinel_master_proven",
        about: "1 while most Sentinels show that no other master can have taken a write, else 0.",
        read: |_, l| l.master_proven.into(),
    },
    Row { name: "crema_replicas", about: "Replicas that are asked how far they are.", read: |_, l| l.replicas },
    Row {
        name: "crema_replicas_leased",
        about: "Those that may answer reads; while it is 0, masters do.",
        read: |_, l| l.replicas_leased,
    },
    Row {
        name: "crema_replica_lag_bytes",
        about: "How many bytes the replica was behind its master that was furthest, when both were asked last.",
        read: |_, l| l.replica_lag_bytes,
    },
    Row {
        name: "crema_replica_lag_milliseconds",
        about: "How long ago its master had what it has now, of the leased replica for which that is longest; questions are asked only while somebody reads.",
        read: |_, l| l.replica_lag_ms,
    },
    Row { name: "crema_sessions", about: "Client connections open.", read: |m, _| m.level(|w| &w.sessions) },
    Row {
        name: "crema_requests_waiting",
        about: "Requests that were taken up and whose reply is not whole yet.",
        read: |m, _| m.level(|w| &w.waiting),
    },
    Row {
        name: "crema_lanes",
        about: "Lanes open: connections to Redis that sessions share.",
        read: |m, _| m.level(|w| &w.lanes),
    },
    Row {
        name: "crema_pinned_connections",
        about: "Connections to Redis lent to one session each.",
        read: |m, _| m.level(|w| &w.pinned),
    },
    Row {
        name: "crema_home_connections",
        about: "Connections to Redis that sessions keep for life.",
        read: |m, _| m.level(|w| &w.homes),
    },
];

/// Numbers that rise and fall, told apart by one label.
const LABELLED_GAUGES: &[LabelledGauge] = &[
    LabelledGauge {
        name: "crema_coherence_mode",
        about: "1 for the means by which changes are heard of.",
        key: "mode",
        labels: &CoherenceMeans::LABELS,
        read: |l, i| u64::from(l.means == Some(CoherenceMeans::ALL[i])),
    },
    LabelledGauge {
        name: "crema_l1_mode",
        about: "1 for what L1 does for reads: answer them, only count what it would have answered, or nothing.",
        key: "mode",
        labels: &L1Mode::LABELS,
        read: |l, i| u64::from(l.mode == L1Mode::ALL[i]),
    },
    LabelledGauge {
        name: "crema_upstream_refusals",
        about: "1 for each need of crema's own that the upstream refuses, to one user at least.",
        key: "need",
        labels: &Need::LABELS,
        read: |l, i| l.refusals[i].into(),
    },
];

type ReadCounter = fn(&Metrics) -> u64;
type ReadGauge = fn(&Metrics, &Levels) -> u64;

/// A metric: its name, its sentence, and how it is read.
#[derive(Debug)]
struct Row<Read> {
    name: &'static str,
    about: &'static str,
    read: Read,
}

/// A metric with one label: `read` takes the index of the label.
#[derive(Debug)]
struct Labelled {
    name: &'static str,
    about: &'static str,
    key: &'static str,
    labels: &'static [&'static str],
    read: fn(&Metrics, usize) -> u64,
}

/// The same for what rises and falls.
#[derive(Debug)]
struct LabelledGauge {
    name: &'static str,
    about: &'static str,
    key: &'static str,
    labels: &'static [&'static str],
    read: fn(&Levels, usize) -> u64,
}

/// What the counters cannot know: how things stand in other parts at the moment of asking.
#[derive(Clone, Debug, Default)]
pub struct Levels {
    /// Of each tier.
    pub tiers: Vec<TierLevels>,
    /// Of each origin.
    pub origins: Vec<OriginLevels>,
    /// By rule and by prefix.
    pub keys: KeyLevels,
    /// Whether crema can serve.
    pub ready: bool,
    /// Whether Redis answers.
    pub upstream_up: bool,
    /// What L1 does for reads.
    pub mode: L1Mode,
    /// By what means changes are heard of.
    pub means: Option<CoherenceMeans>,
    /// What the upstream refuses, by [`Need`].
    pub refusals: [bool; Need::COUNT],
    /// Since the start of the process.
    pub uptime: Duration,
    /// When the first of crema's own certificates ends, in seconds since 1970.
    pub certificate_expires: Option<i64>,
    /// Entries in L1.
    pub l1_entries: u64,
    /// Bytes that they take.
    pub l1_bytes: u64,
    /// Bytes that they may take.
    pub l1_capacity: u64,
    /// All ears.
    pub ears: u64,
    /// Those connected.
    pub ears_connected: u64,
    /// Those with a lease in force.
    pub leases_held: u64,
    /// Sentinels that there are.
    pub sentinels: u64,
    /// Those that answer.
    pub sentinels_answering: u64,
    /// Whether enough of them say that no other master can have taken a write.
    pub master_proven: bool,
    /// Replicas that are asked how far they are.
    pub replicas: u64,
    /// Those that may answer reads.
    pub replicas_leased: u64,
    /// The most bytes that any is behind.
    pub replica_lag_bytes: u64,
    /// The longest that any is behind of those that may, in milliseconds.
    pub replica_lag_ms: u64,
}

/// The value of a metric, as the status JSON shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Of a metric without labels.
    One(u64),
    /// By label.
    ByLabel(BTreeMap<&'static str, u64>),
}

/// Every metric's name and sentence, in the order of the tables.
pub fn descriptions() -> impl Iterator<Item = (&'static str, &'static str)> {
    [REQUESTS, REQUEST_SECONDS, BUILD_INFO]
        .into_iter()
        .map(|row| (row.name, row.about))
        .chain(tier::FAMILIES)
        .chain(origin::FAMILIES)
        .chain(key_tallies::FAMILIES)
        .chain(COUNTERS.iter().map(|row| (row.name, row.about)))
        .chain(LABELLED.iter().map(|row| (row.name, row.about)))
        .chain(GAUGES.iter().map(|row| (row.name, row.about)))
        .chain(LABELLED_GAUGES.iter().map(|row| (row.name, row.about)))
}

/// Every metric but requests, latencies and build, with its value.
pub(super) fn values(metrics: &Metrics, levels: &Levels) -> BTreeMap<&'static str, Value> {
    let counters = COUNTERS.iter().map(|row| (row.name, Value::One((row.read)(metrics))));
    let gauges = GAUGES.iter().map(|row| (row.name, Value::One((row.read)(metrics, levels))));
    let labelled = LABELLED.iter().map(|row| {
        let values = row.labels.iter().enumerate().map(|(i, &label)| (label, (row.read)(metrics, i)));
        (row.name, Value::ByLabel(values.collect()))
    });
    let labelled_gauges = LABELLED_GAUGES.iter().map(|row| {
        let values = row.labels.iter().enumerate().map(|(i, &label)| (label, (row.read)(levels, i)));
        (row.name, Value::ByLabel(values.collect()))
    });
    counters.chain(gauges).chain(labelled).chain(labelled_gauges).collect()
}

/// The registered handles, in the order of the tables.
pub(super) struct Exporter {
    recorder: PrometheusRecorder,
    requests: Vec<(Class, Outcome, Counter)>,
    counters: Vec<Counter>,
    labelled: Vec<Vec<Counter>>,
    gauges: Vec<Gauge>,
    labelled_gauges: Vec<Vec<Gauge>>,
}

impl Exporter {
    /// Describes and registers every metric.
    pub(super) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let (requests, counters, labelled, gauges, labelled_gauges) = with_local_recorder(&recorder, || {
            describe_counter!(REQUESTS.name, REQUESTS.about);
            describe_gauge!(BUILD_INFO.name, BUILD_INFO.about);
            gauge!(BUILD_INFO.name, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            // A pair that has not happened shows as zero: else its first request would be no increase to Prometheus.
            let requests = Class::ALL.iter().flat_map(|&class| {
                Outcome::ALL.map(|outcome| {
                    let labels = [("class", class.as_str()), ("outcome", outcome.as_str())];
                    (class, outcome, counter!(REQUESTS.name, &labels))
                })
            });
            let counters = COUNTERS.iter().map(|row| {
                describe_counter!(row.name, row.about);
                counter!(row.name)
            });
            let labelled = LABELLED.iter().map(|row| {
                describe_counter!(row.name, row.about);
                row.labels.iter().map(|&label| counter!(row.name, row.key => label)).collect()
            });
            let gauges = GAUGES.iter().map(|row| {
                describe_gauge!(row.name, row.about);
                gauge!(row.name)
            });
            let labelled_gauges = LABELLED_GAUGES.iter().map(|row| {
                describe_gauge!(row.name, row.about);
                row.labels.iter().map(|&label| gauge!(row.name, row.key => label)).collect()
            });
            let gauges = (gauges.collect(), labelled_gauges.collect());
            (requests.collect(), counters.collect(), labelled.collect(), gauges.0, gauges.1)
        });
        Self { recorder, requests, counters, labelled, gauges, labelled_gauges }
    }

    /// Sets every handle to its sum and writes them all out.
    pub(super) fn render(&self, metrics: &Metrics, levels: &Levels) -> String {
        for (class, outcome, counter) in &self.requests {
            counter.absolute(metrics.requests(*class, *outcome));
        }
        for (row, counter) in COUNTERS.iter().zip(&self.counters) {
            counter.absolute((row.read)(metrics));
        }
        for (row, counters) in LABELLED.iter().zip(&self.labelled) {
            for (label, counter) in counters.iter().enumerate() {
                counter.absolute((row.read)(metrics, label));
            }
        }
        for (row, gauge) in GAUGES.iter().zip(&self.gauges) {
            gauge.set(as_f64((row.read)(metrics, levels)));
        }
        for (row, gauges) in LABELLED_GAUGES.iter().zip(&self.labelled_gauges) {
            for (label, gauge) in gauges.iter().enumerate() {
                gauge.set(as_f64((row.read)(levels, label)));
            }
        }
        let mut text = self.recorder.handle().render();
        write_histogram(&mut text, metrics).expect("a String takes all that is written to it");
        tier::write(&mut text, &levels.tiers).expect("a String takes all that is written to it");
        origin::write(&mut text, &levels.origins).expect("a String takes all that is written to it");
        key_tallies::write(&mut text, &levels.keys).expect("a String takes all that is written to it");
        process::write(&mut text);
        text
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

/// Appends the latencies of both paths as one histogram in seconds.
fn write_histogram(text: &mut String, metrics: &Metrics) -> fmt::Result {
    let name = REQUEST_SECONDS.name;
    writeln!(text, "# HELP {name} {}\n# TYPE {name} histogram", REQUEST_SECONDS.about)?;
    for path in Path::ALL {
        let (label, latency) = (path.as_str(), metrics.latency(path));
        let samples = latency.samples();
        for (end, count) in latency.cumulative() {
            writeln!(text, "{name}_bucket{{path=\"{label}\",le=\"{}\"}} {count}", seconds(end))?;
        }
        writeln!(text, "{name}_bucket{{path=\"{label}\",le=\"+Inf\"}} {samples}")?;
        writeln!(text, "{name}_sum{{path=\"{label}\"}} {}", seconds(latency.nanos()))?;
        writeln!(text, "{name}_count{{path=\"{label}\"}} {samples}")?;
    }
    Ok(())
}

fn seconds(nanos: u64) -> f64 {
    as_f64(nanos) / 1e9
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};
    use std::time::Instant;

    /// The text, parsed: the type of each family, and the value of each series.
    struct Scrape {
        types: HashMap<String, String>,
        series: HashMap<String, String>,
    }

    fn scrape(metrics: &Metrics, levels: &Levels) -> Scrape {
        let text = metrics.render(levels);
        let (mut types, mut helped, mut series) = (HashMap::new(), HashSet::new(), HashMap::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, about) = help.split_once(' ').expect("a sentence");
                assert!(helped.insert(name.to_owned()) && !about.is_empty(), "{line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            } else {
                let (key, value) = line.rsplit_once(' ').expect("a value");
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(series.insert(key.to_owned(), value.to_owned()).is_none(), "{line}");
            }
        }
        assert_eq!(helped, types.keys().cloned().collect());
        Scrape { types, series }
    }

    #[test]
    fn names_are_distinct_and_follow_prometheus_custom() {
        let mut seen = HashSet::new();
        for (name, about) in descriptions() {
            assert!(seen.insert(name), "{name} twice");
            assert!(name.starts_with("crema_") && about.ends_with('.'), "{name}");
        }
        let counters = COUNTERS.iter().map(|row| row.name).chain(LABELLED.iter().map(|row| row.name));
        assert!(counters.into_iter().all(|name| name.ends_with("_total")));
        assert!(GAUGES.iter().all(|row| !row.name.ends_with("_total")));
    }

    #[test]
    fn every_metric_is_there_from_the_start() {
        let scrape = scrape(&Metrics::new(1), &Levels::default());
        for (name, _) in descriptions() {
            assert!(scrape.types.contains_key(name), "{name} is missing");
        }
        assert_eq!(scrape.types["crema_lanes"], "gauge");
        assert_eq!(scrape.types["crema_sessions_total"], "counter");
        assert_eq!(scrape.series[r#"crema_fills_total{outcome="doomed"}"#], "0");
        assert_eq!(scrape.series[r#"crema_requests_total{class="hash",outcome="lead"}"#], "0");
        assert_eq!(scrape.series[r#"crema_errors_total{reason="timeout"}"#], "0");
    }

    #[test]
    fn a_second_scrape_shows_what_happened_since_the_first() {
        let metrics = Metrics::new(2);
        let key = format!(r#"crema_requests_total{{class="{}",outcome="hit"}}"#, Class::String.as_str());
        assert_eq!(scrape(&metrics, &Levels::default()).series[&key], "0");
        for (round, worker) in metrics.workers.iter().enumerate() {
            worker.count(Class::String, Outcome::Hit);
            worker.lanes.add(1);
            let levels = Levels { l1_entries: 7, ready: true, ..Levels::default() };
            let scrape = scrape(&metrics, &levels);
            let expected = (round + 1).to_string();
            assert_eq!(scrape.series[&key], expected);
            assert_eq!(scrape.series["crema_lanes"], expected);
            assert_eq!(scrape.series["crema_l1_entries"], "7");
            assert_eq!(scrape.series["crema_ready"], "1");
        }
        metrics.workers[0].lanes.sub(1);
        assert_eq!(scrape(&metrics, &Levels::default()).series["crema_lanes"], "1");
    }

    #[test]
    fn the_histogram_counts_every_sample_once_and_in_seconds() {
        let metrics = Metrics::new(1);
        let long_ago = Instant::now().checked_sub(Duration::from_millis(250)).expect("up for that long");
        metrics.workers[0].record(Path::Miss, long_ago);
        let scrape = scrape(&metrics, &Levels::default());
        assert_eq!(scrape.types[REQUEST_SECONDS.name], "histogram");
        let at = |le: &str| &*scrape.series[&format!(r#"crema_request_seconds_bucket{{path="miss",le="{le}"}}"#)];
        assert_eq!((at("0.000000064"), at("0.201326592"), at("0.402653184"), at("+Inf")), ("0", "0", "1", "1"));
        assert_eq!(scrape.series[r#"crema_request_seconds_count{path="miss"}"#], "1");
        assert_eq!(scrape.series[r#"crema_request_seconds_count{path="hit"}"#], "0");
        let sum: f64 = scrape.series[r#"crema_request_seconds_sum{path="miss"}"#].parse().expect("a number");
        assert!((0.25..5.0).contains(&sum), "{sum}");
    }

    #[test]
    fn the_status_has_every_metric_of_the_tables() {
        let values = Metrics::new(1).values(&Levels { l1_bytes: 9, ..Levels::default() });
        assert_eq!(values.len(), COUNTERS.len() + LABELLED.len() + GAUGES.len() + LABELLED_GAUGES.len());
        assert_eq!(values["crema_l1_bytes"], Value::One(9));
        let json = serde_json::to_value(&values).expect("plain numbers");
        assert_eq!(json["crema_promotions_dropped_total"]["no_ear"], 0);
    }
}
