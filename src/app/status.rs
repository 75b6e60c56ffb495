//! What the admin port tells of the process: where each figure comes from.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;

use super::App;
use crate::admin::{
    AuditStatus, EarStatus, L1Status, NodeStatus, OriginStatus, ReplicaStatus, SentinelStatus, SettingsShown, Snapshot,
    Source, TierStatus, UpstreamStatus, ViolationStatus,
};
use crate::clock::Time;
use crate::config::{AdminToken, UpstreamKind};
use crate::control::Control;
use crate::curve::CurveReport;
use crate::invalidation::{AuditViolation, EarState};
use crate::metrics::{
    AuditBreach, AuditDoubt, AuditSkip, CensusFinding, KeyLevels, LoadResult, Metrics, Need, TierOutcome,
};
use crate::origin::OriginState;
use crate::proxy::{Listings, Orders, SuccessionState};
use crate::tier::Tier;
use crate::upstream::{Node, NodeIndex, Topology};

impl Source for App {
    fn snapshot(&self) -> Snapshot {
        let l1 = &self.shared.l1;
        let (upstream, topology) = (self.upstream(), Arc::clone(&self.topology.borrow()));
        let now = Time::now();
        let dialed = self.front().tls.as_ref().and_then(|dialer| dialer.expires());
        let ears = l1.ears.all().into_iter().map(|(user, ear)| {
            let left = ear.freshness.lease_left(now);
            let trouble = match ear.state() {
                EarState::Away(trouble) => Some(trouble),
                EarState::Refused(refusal) => Some(format!("no L1 for this user: it {}", refusal.about())),
                EarState::Idle | EarState::Listening(_) => None,
            };
            EarStatus {
                user: String::from_utf8_lossy(&user).into_owned(),
                node: ear.node().address.to_string(),
                listens: matches!(ear.state(), EarState::Listening(_) | EarState::Away(_)),
                connected: matches!(ear.state(), EarState::Listening(_)),
                lease_ms_left: (!left.is_zero()).then(|| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
                epoch: ear.freshness.epoch().number(),
                reconnects: ear.reconnects(),
                trouble,
            }
        });
        Snapshot {
            ready: self.ready(upstream.trouble.as_ref()),
            uptime: self.started.elapsed(),
            certificate_expires: self.acceptor.iter().filter_map(|tls| tls.expires()).chain(dialed).min(),
            mode: l1.service(),
            changes: self.history.all(),
            means: l1.mode().means(),
            refusals: Need::ALL.map(|need| topology.nodes().any(|(_, node)| node.needs.is_refused(need))),
            upstream,
            ears: ears.collect(),
            keys: self.keys(),
            origins: self.shared.origins.iter().flat_map(|origins| origins.states()).map(origin_status).collect(),
            tiers: self.shared.tiers.iter().flat_map(|tiers| tiers.all()).map(tier_status).collect(),
            l1: L1Status {
                entries: l1.memory.store.len() as u64,
                bytes: l1.memory.store.bytes(),
                capacity: l1.memory.store.limit(),
            },
            audit: self.audit(),
            settings: SettingsShown {
                promote: self.shared.live().promote,
                max_staleness_ms: u64::try_from(l1.terms.max_staleness.get().as_millis()).unwrap_or(u64::MAX),
                coherence: l1.mode().means().as_str(),
                promise: l1.mode().means().about(),
                class_seconds: self
                    .shared
                    .live()
                    .ceiling
                    .or_else(|| l1.mode().ceiling())
                    .map(|ceiling| ceiling.as_secs()),
            },
        }
    }

    fn advice(&self) -> Arc<CurveReport> {
        self.shared.curve.board.report()
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn token(&self) -> Option<AdminToken> {
        self.shared.live().admins.token.clone()
    }

    fn listings(&self) -> &Listings {
        &self.shared.listings
    }

    fn orders(&self) -> &Orders {
        &self.shared.orders
    }

    fn inside(&self) -> io::Result<UnixStream> {
        let inside = App::inside(self);
        inside.as_ref().ok_or(io::ErrorKind::NotConnected)?.connect() // none before workers have started, and once they end
    }

    fn control(&self) -> &Control {
        &self.control
    }
}

fn origin_status(state: OriginState) -> OriginStatus {
    OriginStatus {
        keys: state.pattern,
        url: state.url,
        trouble: state.trouble.as_ref().map(|trouble| trouble.why.to_string()),
        trouble_seconds: state.trouble.map(|trouble| Time::now().saturating_since(trouble.at).as_secs()),
        under_way: state.under_way as u64,
        waiting: state.waiting as u64,
        mean_load_ms: u64::try_from(state.mean.as_millis()).unwrap_or(u64::MAX),
        results: LoadResult::ALL.iter().map(|&result| (result.as_str(), state.results[result as usize])).collect(),
    }
}

fn tier_status(tier: &Tier) -> TierStatus {
    let (at, last_error) = tier.stats.last_error().unzip();
    TierStatus {
        name: tier.rule.name.clone(),
        server: tier.rule.server.to_string(),
        keys: tier.rule.pattern.to_string(),
        well: tier.is_well(),
        left_alone: tier.left_alone(),
        last_error_seconds: at.map(|at| Time::now().saturating_since(at).as_secs()),
        last_error,
        counts: TierOutcome::ALL.iter().map(|&outcome| (outcome.as_str(), tier.stats.of(outcome))).collect(),
    }
}

impl App {
    /// Whether clients are let in and served; else why not.
    fn ready(&self, trouble: Option<&String>) -> Result<(), String> {
        if self.draining.load(Ordering::Relaxed) {
            return Err("crema was told to stop".to_owned());
        }
        match self.shared.succession.get() {
            awaits @ SuccessionState::Awaits(_) => Err(awaits.to_string()),
            _ => trouble.cloned().map_or(Ok(()), Err),
        }
    }

    fn audit(&self) -> AuditStatus {
        let stats = &self.shared.stats;
        let violation = |violation: AuditViolation| {
            let AuditViolation { at, breach, user, db, node, command, key } = violation;
            // Who looks here has shown no token.
            ViolationStatus { at, what: breach.as_str(), user, database: db, node, command, key: key.shown(false) }
        };
        AuditStatus {
            one_in: self.shared.live().audit,
            checked: stats.audit_checked.get(),
            ordered: stats.audit_ordered.get(),
            violations: stats.audit_violations(),
            wrong: AuditBreach::ALL.map(|breach| (breach.as_str(), stats.audit_breaches(breach))).into(),
            ambiguous: AuditDoubt::ALL.map(|doubt| (doubt.as_str(), stats.audit_doubts(doubt))).into(),
            skipped: AuditSkip::ALL.map(|skip| (skip.as_str(), stats.audit_skips(skip))).into(),
            last: self.shared.l1.audit.violations().into_iter().map(violation).collect(),
        }
    }

    /// Requests by rule and by prefix.
    fn keys(&self) -> KeyLevels {
        let live = self.shared.live();
        let rules = live.rules.iter().map(|rule| rule.pattern.as_str());
        self.metrics.stats.key_tallies.lock().unwrap_or_else(PoisonError::into_inner).levels(rules)
    }

    fn node_status(&self, topology: &Topology, at: NodeIndex, node: &Arc<Node>) -> NodeStatus {
        let known = self.nodes.known(node);
        let shard = topology.cluster().and_then(|map| map.shard(at));
        let passed = node.vouched.passed().filter(|&passed| passed != Time::NEVER);
        let ago = passed.map(|passed| Time::now().saturating_since(passed).as_millis());
        NodeStatus {
            address: node.address.to_string(),
            server: known.clone().ok(),
            trouble: known.err(),
            slots: topology.cluster().map_or(0, |map| map.served_by(at)) as u64,
            replicas: shard.iter().flat_map(|shard| &shard.replicas).map(ToString::to_string).collect(),
            proven_ms_ago: ago.map(|ago| u64::try_from(ago).unwrap_or(u64::MAX)),
            census: node.vouched.finding().map(CensusFinding::as_str),
            read_from: self.replicas(node),
        }
    }

    fn replicas(&self, master: &Node) -> Vec<ReplicaStatus> {
        let (now, longest) = (Time::now(), self.shared.l1.terms.max_staleness.get());
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let leases = master.replicas.leases();
        let replicas = leases.replicas.iter().map(|lease| {
            let left = lease.left(longest, now);
            ReplicaStatus {
                address: lease.node.address.to_string(),
                lag_bytes: lease.lag,
                lag_ms: lease.reached.map(|reached| millis(now.saturating_since(reached))),
                lease_ms_left: (!left.is_zero()).then(|| millis(left)),
            }
        });
        replicas.collect()
    }

    fn upstream(&self) -> UpstreamStatus {
        let topology = Arc::clone(&self.topology.borrow());
        let kind = &self.shared.config.upstream.kind;
        let sentinel = matches!(kind, UpstreamKind::Sentinel { .. })
            .then(|| self.group.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .map(|group| SentinelStatus { failovers: self.shared.stats.failovers.get(), ..group });
        let known = match (topology.cluster(), &sentinel) {
            (Some(map), _) if map.version() == 0 => Err("the cluster's map could not be read yet".to_owned()),
            (_, Some(group)) if group.master.is_none() => Err(group.waits()),
            _ => self.nodes.known(topology.front()),
        };
        UpstreamStatus {
            address: self.shared.live().upstream.clone(),
            up: known.is_ok(),
            server: known.clone().ok(),
            trouble: known.err(),
            sentinel,
            map_version: topology.version(),
            nodes: topology.nodes().map(|(at, node)| self.node_status(&topology, at, node)).collect(),
        }
    }
}
