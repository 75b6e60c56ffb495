//! The status JSON: how things stand, and what has been counted since the start.
//!
//! [`Snapshot`] is what the rest of crema fills in; the counters come from [`Metrics`]. Field names
//! are an interface: the dashboard and people's scripts read them. Times are whole milliseconds or
//! seconds, as their names say. A long file: the whole of that interface stands in one place.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::command::Class;
use crate::config::L1Mode;
use crate::metrics::{
    CoherenceMeans, KeyLevels, Latency, Levels, LoadResult, Metrics, Need, OriginLevels, Outcome, Path, TierLevels,
    TierOutcome, Value, WorkerStats,
};

/// How things stand, as the parts of crema know it.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// Whether crema can serve; if not, one sentence that says why and what to do.
    pub ready: Result<(), String>,
    /// Since the start of the process.
    pub uptime: Duration,
    /// When the first of crema's own certificates ends, in seconds since 1970.
    pub certificate_expires: Option<i64>,
    /// What L1 does for reads.
    pub mode: L1Mode,
    /// What was changed since the start, the newest first.
    pub changes: Vec<ChangeStatus>,
    /// By what means changes are heard of.
    pub means: CoherenceMeans,
    /// What the upstream refuses, by [`Need`].
    pub refusals: [bool; Need::COUNT],
    /// The Redis side.
    pub upstream: UpstreamStatus,
    /// One for each ear there is.
    pub ears: Vec<EarStatus>,
    /// Requests by rule and by prefix.
    pub keys: KeyLevels,
    /// The origins, in the order of the settings.
    pub origins: Vec<OriginStatus>,
    /// The tiers, in the order of the settings.
    pub tiers: Vec<TierStatus>,
    /// What crema keeps in its memory.
    pub l1: L1Status,
    /// What came of hits that were read again.
    pub audit: AuditStatus,
    /// The settings that explain the rest.
    pub settings: SettingsShown,
}

/// A change of settings while crema ran.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ChangeStatus {
    /// When, in seconds since 1970.
    pub at: u64,
    /// By whose order.
    pub by: String,
    /// What, from what it was to what it is.
    pub what: Vec<String>,
}

/// The Redis side.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct UpstreamStatus {
    /// The URL, without password.
    pub address: String,
    /// Whether it answers.
    pub up: bool,
    /// What it says it is, such as `redis 7.4.1`, once it has said so.
    pub server: Option<String>,
    /// One sentence on what is wrong, if something is.
    pub trouble: Option<String>,
    /// The group that Sentinels watch, where that is what stands behind.
    pub sentinel: Option<SentinelStatus>,
    /// The version of a cluster's map; zero where there is none.
    pub map_version: u64,
    /// The masters, of a single server that.
    pub nodes: Vec<NodeStatus>,
}

/// A group that Sentinels watch.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct SentinelStatus {
    /// Sentinels that there are.
    pub sentinels: u64,
    /// And that answer.
    pub answering: u64,
    /// The master, once a majority has named it.
    pub master: Option<String>,
    /// Why L1 may not answer, if it may not.
    pub doubt: Option<String>,
    /// What is wrong with the server that they name, if something is.
    pub trouble: Option<String>,
    /// Masters that took the place of another.
    pub failovers: u64,
}

impl SentinelStatus {
    /// Why there is no master yet.
    pub(crate) fn waits(&self) -> String {
        match (self.answering, self.sentinels) {
            (0, _) => "no Sentinel answers; are they running, and is `upstream` right?".to_owned(),
            (some, all) if some <= all / 2 => format!("{some} of {all} Sentinels answer, which is no majority"),
            _ => match &self.trouble {
                Some(trouble) => format!("the Sentinels name a master that cannot be used: {trouble}"),
                None => "the Sentinels agree on no master".to_owned(),
            },
        }
    }
}

/// A master.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NodeStatus {
    /// Where it is.
    pub address: String,
    /// What it says it is, once it has said so.
    pub server: Option<String>,
    /// One sentence on what is wrong, if something is.
    pub trouble: Option<String>,
    /// How many slots of a cluster it serves.
    pub slots: u64,
    /// Where its replicas are.
    pub replicas: Vec<String>,
    /// How long ago the round began that proved last that nobody else owns its keys; none where none did, or none is needed.
    pub proven_ms_ago: Option<u64>,
    /// What the last round showed: the name of one of `CensusFinding`.
    pub census: Option<&'static str>,
    /// Of its replicas those that are asked how far they are, where they are read.
    pub read_from: Vec<ReplicaStatus>,
}

/// A replica that is read while its lease lasts.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ReplicaStatus {
    /// Where it is.
    pub address: String,
    /// How many bytes it was behind its master, when both were asked last.
    pub lag_bytes: u64,
    /// How long ago its master had what it has; none where that is not known.
    pub lag_ms: Option<u64>,
    /// Milliseconds until its lease ends, if it has one.
    pub lease_ms_left: Option<u64>,
}

/// A tier.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TierStatus {
    /// What the settings call it.
    pub name: String,
    /// Where it is, without password.
    pub server: String,
    /// Of which keys it keeps copies.
    pub keys: String,
    /// Whether it is asked, and not left alone after failures.
    pub well: bool,
    /// Those of its servers that are left alone; of a cluster there may be others, which are asked.
    pub left_alone: Vec<String>,
    /// What went wrong last, if something did.
    pub last_error: Option<String>,
    /// How long ago that was.
    pub last_error_seconds: Option<u64>,
    /// What happened, by `TierOutcome`.
    pub counts: BTreeMap<&'static str, u64>,
}

/// An ear, and the lease that it holds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EarStatus {
    /// The ACL user whose reads it fills L1 for.
    pub user: String,
    /// The address of the node that it listens to.
    pub node: String,
    /// Whether it is to be connected: L1 keeps something for its user, who may have it so.
    #[serde(skip)]
    pub listens: bool,
    /// Whether it is connected and tracking.
    pub connected: bool,
    /// Milliseconds until the lease ends, if one is in force.
    pub lease_ms_left: Option<u64>,
    /// The epoch that entries must carry now.
    pub epoch: u64,
    /// How often it had to connect anew.
    pub reconnects: u64,
    /// One sentence on why it holds no lease, if there is more to say than that it is connecting.
    pub trouble: Option<String>,
}

/// Where values come from that Redis does not have.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct OriginStatus {
    /// The pattern of its keys.
    pub keys: String,
    /// The URL as the settings have it.
    pub url: String,
    /// Why the last load failed, if it did.
    pub trouble: Option<String>,
    /// How long ago that was.
    pub trouble_seconds: Option<u64>,
    /// Loads under way.
    pub under_way: u64,
    /// Loads that wait for a permit.
    pub waiting: u64,
    /// How long a load takes; zero before the first.
    pub mean_load_ms: u64,
    /// Loads by what came of them.
    pub results: BTreeMap<&'static str, u64>,
}

/// What crema keeps in its memory.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct L1Status {
    /// How many entries.
    pub entries: u64,
    /// The bytes that they take.
    pub bytes: u64,
    /// The bytes that they may take; zero where L1 is switched off.
    pub capacity: u64,
}

/// What came of hits that were audited, since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct AuditStatus {
    /// One in so many is; none where no hit is.
    pub one_in: Option<u32>,
    /// Those that were read again and compared.
    pub checked: u64,
    /// Those that were held against the writes and changes which this process knew of.
    pub ordered: u64,
    /// Those that were wrong.
    pub violations: u64,
    /// The same, by what they break.
    pub wrong: BTreeMap<&'static str, u64>,
    /// Those that differed, or may have, without proving anything, by reason.
    pub ambiguous: BTreeMap<&'static str, u64>,
    /// Those that were chosen and not compared, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// The last that were wrong, the newest first.
    pub last: Vec<ViolationStatus>,
}

/// A hit that was wrong.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ViolationStatus {
    /// When that was found, in seconds since 1970.
    pub at: u64,
    /// In what it was wrong.
    pub what: &'static str,
    /// The ACL user for whom it was read.
    pub user: String,
    /// In which database.
    pub database: u32,
    /// At which node.
    pub node: String,
    /// By which command.
    pub command: &'static str,
    /// The key, as a number.
    pub key: String,
}

/// The settings that explain what is seen.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SettingsShown {
    /// One read in this many promotes its key; zero promotes none.
    pub promote: u32,
    /// The longest that a change may go unseen.
    pub max_staleness_ms: u64,
    /// By what means L1 is kept coherent: the name of one of [`CoherenceMeans`].
    pub coherence: &'static str,
    /// What that promises of changes.
    pub promise: &'static str,
    /// The longest stay in L1 where no rule gives another; none where only a key's TTL ends it.
    pub class_seconds: Option<u64>,
}

impl Snapshot {
    /// What does without a part, while crema serves: a sentence each.
    pub(super) fn degraded(&self) -> Vec<String> {
        let ill = self.tiers.iter().filter(|tier| !tier.well);
        let origins = self.origins.iter().filter_map(|origin| {
            let (OriginStatus { keys, url, .. }, ago) = (origin, origin.trouble_seconds.unwrap_or_default());
            Some(format!("the last load of {keys} from {url} failed, {ago} s ago: {}", origin.trouble.as_ref()?))
        });
        ill.map(|tier| {
            let why = tier.last_error.as_deref().unwrap_or("it does not answer");
            let who = match &tier.left_alone[..] {
                [] => "none of its servers is known".to_owned(),
                servers => format!("{} left alone", servers.join(", ")),
            };
            format!("tier {} ({}): {who}: {why}", tier.name, tier.server)
        })
        .chain(origins)
        .collect()
    }

    /// The part of it that is metrics.
    pub(super) fn levels(&self) -> Levels {
        let group = self.upstream.sentinel.as_ref();
        let replicas = || self.upstream.nodes.iter().flat_map(|node| &node.read_from);
        let leased = || replicas().filter(|replica| replica.lease_ms_left.is_some());
        let ears = |matches: fn(&EarStatus) -> bool| self.ears.iter().filter(|ear| matches(ear)).count() as u64;
        let tier = |tier: &TierStatus| TierLevels {
            name: tier.name.clone(),
            counts: TierOutcome::ALL.map(|outcome| tier.counts.get(outcome.as_str()).copied().unwrap_or_default()),
            well: tier.well,
        };
        let origin = |origin: &OriginStatus| OriginLevels {
            keys: origin.keys.clone(),
            results: LoadResult::ALL.map(|result| origin.results.get(result.as_str()).copied().unwrap_or_default()),
            under_way: origin.under_way,
            waiting: origin.waiting,
            well: origin.trouble.is_none(),
        };
        Levels {
            tiers: self.tiers.iter().map(tier).collect(),
            origins: self.origins.iter().map(origin).collect(),
            keys: self.keys.clone(),
            ready: self.ready.is_ok(),
            upstream_up: self.upstream.up,
            mode: self.mode,
            means: Some(self.means),
            refusals: self.refusals,
            uptime: self.uptime,
            certificate_expires: self.certificate_expires,
            l1_entries: self.l1.entries,
            l1_bytes: self.l1.bytes,
            l1_capacity: self.l1.capacity,
            ears: ears(|ear| ear.listens),
            ears_connected: ears(|ear| ear.connected),
            leases_held: ears(|ear| ear.lease_ms_left.is_some()),
            sentinels: group.map_or(0, |group| group.sentinels),
            sentinels_answering: group.map_or(0, |group| group.answering),
            master_proven: group.is_some_and(|group| group.master.is_some() && group.doubt.is_none()),
            replicas: replicas().count() as u64,
            replicas_leased: leased().count() as u64,
            replica_lag_bytes: replicas().map(|replica| replica.lag_bytes).max().unwrap_or(0),
            replica_lag_ms: leased().filter_map(|replica| replica.lag_ms).max().unwrap_or(0),
        }
    }
}

/// The whole of `/api/status`.
pub(super) fn json(snapshot: &Snapshot, metrics: &Metrics) -> String {
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        uptime_seconds: snapshot.uptime.as_secs(),
        ready: snapshot.ready.is_ok(),
        trouble: snapshot.ready.as_ref().err().map(String::as_str),
        upstream: &snapshot.upstream,
        degraded: snapshot.degraded(),
        ears: &snapshot.ears,
        tiers: &snapshot.tiers,
        origins: &snapshot.origins,
        l1: &snapshot.l1,
        audit: &snapshot.audit,
        settings: &snapshot.settings,
        mode: snapshot.mode.as_str(),
        changes: &snapshot.changes,
        refused: refused(&snapshot.refusals),
        requests: RequestCounts::of(metrics),
        latency: Path::ALL.map(|path| (path.as_str(), Times::of(&metrics.latency(path)))).into(),
        workers: metrics.workers.iter().map(|worker| WorkerFigures::of(worker)).collect(),
        metrics: metrics.values(&snapshot.levels()),
    };
    serde_json::to_string(&status).expect("strings, numbers and maps with string keys always serialize")
}

#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    /// What the machine calls itself.
    host: String,
    uptime_seconds: u64,
    ready: bool,
    trouble: Option<&'a str>,
    upstream: &'a UpstreamStatus,
    degraded: Vec<String>,
    ears: &'a [EarStatus],
    tiers: &'a [TierStatus],
    origins: &'a [OriginStatus],
    l1: &'a L1Status,
    audit: &'a AuditStatus,
    settings: &'a SettingsShown,
    mode: &'static str,
    changes: &'a [ChangeStatus],
    refused: Vec<RefusedNeed>,
    requests: RequestCounts,
    latency: BTreeMap<&'static str, Times>,
    workers: Vec<WorkerFigures>,
    metrics: BTreeMap<&'static str, Value>,
}

/// Something that the upstream refuses to crema, and what is lost by it.
#[derive(Serialize)]
struct RefusedNeed {
    need: &'static str,
    command: &'static str,
    lost: &'static str,
}

fn refused(refusals: &[bool; Need::COUNT]) -> Vec<RefusedNeed> {
    let refused = Need::ALL.into_iter().filter(|&need| refusals[need as usize]);
    refused.map(|need| RefusedNeed { need: need.as_str(), command: need.command(), lost: need.about() }).collect()
}

/// Requests since the start.
#[derive(Serialize)]
struct RequestCounts {
    total: u64,
    /// Hits among the lookups; nothing before the first lookup.
    hit_ratio: Option<f64>,
    /// The same with what L1 would have answered in mode observe.
    would_hit_ratio: Option<f64>,
    outcomes: Vec<OutcomeStatus>,
    classes: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct OutcomeStatus {
    name: &'static str,
    about: &'static str,
    /// Whether it is one of those that the hit ratio is taken of.
    lookup: bool,
    /// Whether Redis saw nothing of these requests.
    spared: bool,
    total: u64,
}

impl RequestCounts {
    fn of(metrics: &Metrics) -> Self {
        let outcomes = Outcome::ALL.map(|outcome| OutcomeStatus {
            name: outcome.as_str(),
            about: outcome.about(),
            lookup: outcome.is_lookup(),
            spared: outcome.is_spared(),
            total: metrics.outcome(outcome),
        });
        let total = outcomes.iter().map(|outcome| outcome.total).sum();
        let lookups = outcomes.iter().filter(|outcome| outcome.lookup).map(|outcome| outcome.total).sum();
        let hits = outcomes[Outcome::Hit as usize].total;
        Self {
            total,
            hit_ratio: ratio(hits, lookups),
            would_hit_ratio: ratio(hits + outcomes[Outcome::WouldHit as usize].total, lookups),
            outcomes: outcomes.into(),
            classes: Class::ALL.iter().map(|&class| (class.as_str(), metrics.class(class))).collect(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio is to be looked at")]
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Sampled latencies since the start. The buckets let a reader take the percentiles of any span
/// between two looks.
#[derive(Serialize)]
struct Times {
    samples: u64,
    p50_ns: Option<u64>,
    p90_ns: Option<u64>,
    p99_ns: Option<u64>,
    p999_ns: Option<u64>,
    /// Of each bucket that is not empty, its end in nanoseconds (null: none) and its samples.
    buckets: Vec<(Option<u64>, u64)>,
}

impl Times {
    fn of(latency: &Latency) -> Self {
        Self {
            samples: latency.samples(),
            p50_ns: latency.quantile(0.5),
            p90_ns: latency.quantile(0.9),
            p99_ns: latency.quantile(0.99),
            p999_ns: latency.quantile(0.999),
            buckets: latency.filled().collect(),
        }
    }
}

/// One worker's part.
#[derive(Serialize)]
struct WorkerFigures {
    requests: u64,
    sessions: i64,
    lanes: i64,
    pinned: i64,
    homes: i64,
}

impl WorkerFigures {
    fn of(stats: &WorkerStats) -> Self {
        Self {
            requests: stats.requests_total(),
            sessions: stats.sessions.get(),
            lanes: stats.lanes.get(),
            pinned: stats.pinned.get(),
            homes: stats.homes.get(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::Value as Json;

    pub(in crate::admin) fn snapshot() -> Snapshot {
        let ear = |user: &str, connected, lease_ms_left| EarStatus {
            user: user.to_owned(),
            node: "10.0.0.1:6379".to_owned(),
            listens: user != "eve",
            connected,
            lease_ms_left,
            epoch: 4,
            reconnects: 2,
            trouble: None,
        };
        Snapshot {
            ready: Ok(()),
            uptime: Duration::from_secs(61),
            certificate_expires: None,
            mode: L1Mode::Cache,
            changes: Vec::new(),
            means: CoherenceMeans::Tracking,
            refusals: [false; Need::COUNT],
            upstream: UpstreamStatus {
                address: "redis://10.0.0.1:6379".to_owned(),
                up: true,
                server: Some("redis 7.4.1".to_owned()),
                trouble: None,
                sentinel: None,
                map_version: 0,
                nodes: Vec::new(),
            },
            ears: vec![ear("default", true, Some(420)), ear("bob", true, None), ear("eve", false, None)],
            tiers: Vec::new(),
            keys: KeyLevels::default(),
            origins: Vec::new(),
            l1: L1Status { entries: 3, bytes: 900, capacity: 1_000 },
            audit: AuditStatus::default(),
            settings: SettingsShown {
                promote: 10,
                max_staleness_ms: 500,
                coherence: "tracking",
                promise: "",
                class_seconds: None,
            },
        }
    }

    fn status(snapshot: &Snapshot, metrics: &Metrics) -> Json {
        serde_json::from_str(&json(snapshot, metrics)).expect("JSON")
    }

    #[test]
    fn levels_count_ears_by_how_they_stand() {
        let levels = snapshot().levels();
        assert_eq!((levels.ears, levels.ears_connected, levels.leases_held), (2, 2, 1));
    }

    #[test]
    fn the_hit_ratio_is_of_lookups_alone() {
        let metrics = Metrics::new(2);
        assert_eq!(status(&snapshot(), &metrics)["requests"]["hit_ratio"], Json::Null);
        let count = |worker: usize, outcome, times| {
            (0..times).for_each(|_| metrics.workers[worker].count(Class::String, outcome));
        };
        count(0, Outcome::Hit, 2);
        count(1, Outcome::Hit, 1);
        count(1, Outcome::Lead, 1);
        count(1, Outcome::Write, 5);
        let requests = &status(&snapshot(), &metrics)["requests"];
        assert_eq!(requests["hit_ratio"], 0.75);
        assert_eq!(requests["total"], 9);
        assert_eq!(requests["classes"][Class::String.as_str()], 9);
        let hit = &requests["outcomes"][0];
        assert_eq!((&hit["name"], &hit["total"]), (&Json::from("hit"), &Json::from(3)));
    }

    #[test]
    fn trouble_is_said_only_where_there_is_some() {
        let metrics = Metrics::new(1);
        let fine = status(&snapshot(), &metrics);
        assert_eq!((&fine["ready"], &fine["trouble"]), (&Json::from(true), &Json::Null));
        let ready = Err("Redis is away: start it.".to_owned());
        let away = status(&Snapshot { ready, ..snapshot() }, &metrics);
        assert_eq!((&away["ready"], &away["trouble"]), (&Json::from(false), &Json::from("Redis is away: start it.")));
    }

    #[test]
    fn latencies_come_with_the_buckets_that_make_them() {
        let metrics = Metrics::new(1);
        metrics.workers[0].record(Path::Hit, std::time::Instant::now());
        let latency = &status(&snapshot(), &metrics)["latency"];
        assert_eq!(latency["hit"]["samples"], 1);
        assert_eq!(latency["hit"]["buckets"][0][1], 1);
        assert!(latency["hit"]["p99_ns"].is_u64());
        assert_eq!(latency["miss"]["p99_ns"], Json::Null);
    }

    #[test]
    fn the_names_that_the_dashboard_reads_are_there() {
        let status = status(&snapshot(), &Metrics::new(1));
        assert_eq!(status["ears"][0]["lease_ms_left"], 420);
        assert_eq!(status["ears"][1]["lease_ms_left"], Json::Null);
        assert_eq!(status["uptime_seconds"], 61);
        assert_eq!(status["settings"]["max_staleness_ms"], 500);
        assert_eq!(status["workers"][0]["lanes"], 0);
        let page = include_str!("dashboard.js");
        for name in page.split('"').filter(|part| part.starts_with("crema_")) {
            assert!(status["metrics"].get(name).is_some(), "the dashboard asks for {name}");
        }
    }
}
