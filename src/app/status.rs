//! What the admin port tells of the process: where each figure comes from.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::App;
use crate::admin::{EarStatus, L1Status, SettingsShown, Snapshot, Source, UpstreamStatus};
use crate::clock::Time;
use crate::invalidation::EarState;
use crate::metrics::{Metrics, Need};
use crate::proxy::Shared;

impl Source for App {
    fn snapshot(&self) -> Snapshot {
        let Shared { config, l1, .. } = &*self.shared;
        let topology = Arc::clone(&self.topology.borrow());
        let upstream = match topology.cluster() {
            Some(map) if map.version() == 0 => Err("the cluster's map could not be read yet".to_owned()),
            _ => self.nodes.known(topology.front()),
        };
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
            ready: if self.draining.load(Ordering::Relaxed) {
                Err("crema was told to stop".to_owned())
            } else {
                upstream.clone().map(drop)
            },
            uptime: self.started.elapsed(),
            certificate_expires: self.acceptor.iter().filter_map(|tls| tls.expires()).chain(dialed).min(),
            means: l1.mode().means(),
            refusals: Need::ALL.map(|need| self.front().needs.is_refused(need)),
            upstream: UpstreamStatus {
                address: config.upstream.to_string(),
                up: upstream.is_ok(),
                server: upstream.clone().ok(),
                trouble: upstream.err(),
            },
            ears: ears.collect(),
            l1: L1Status {
                entries: l1.memory.store.len() as u64,
                bytes: l1.memory.store.bytes(),
                capacity: config.l1_size,
            },
            settings: SettingsShown {
                promote: config.promote,
                max_staleness_ms: u64::try_from(config.max_staleness.as_millis()).unwrap_or(u64::MAX),
                coherence: l1.mode().means().as_str(),
                promise: l1.mode().means().about(),
                class_seconds: config.ceiling.or_else(|| l1.mode().ceiling()).map(|ceiling| ceiling.as_secs()),
            },
        }
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}
