//! L1 and the fleet as the settings plan them: what each must know, and nothing else.

use std::sync::Arc;

use tokio::sync::watch;

use crate::beyond::Beyond;
use crate::clock::LiveSpan;
use crate::config::{Coherence, Config, SHORT_TERM, UpstreamKind};
use crate::control::Control;
use crate::invalidation::{CoherenceMode, Fleet, L1, L1Terms, Notices, Publisher};
use crate::metrics::Stats;
use crate::upstream::{Serving, Topology};

/// An empty L1, whose ears and publisher will be tasks of `control`.
pub(super) fn l1(
    (config, max_staleness): (&Config, &Arc<LiveSpan>),
    topology: &watch::Sender<Arc<Topology>>,
    origin_id: &str,
    stats: &Arc<Stats>,
    control: &Control,
) -> Arc<L1> {
    let fleet = fleet(config, topology, origin_id).map(|fleet| Publisher::start(fleet, Arc::clone(stats), control));
    let l1 = L1::new(terms(config, max_staleness, origin_id), fleet, Arc::clone(stats), control.clone());
    l1.switch_to(config.mode);
    l1.audit.show_keys(config.show_keys);
    l1.memory.store.watermarks().follow(config.audit.is_some());
    l1
}

/// What L1 must know of the settings.
fn terms(config: &Config, max_staleness: &Arc<LiveSpan>, origin_id: &str) -> L1Terms {
    let notices = || Notices::new(config.channel.name.clone(), origin_id.to_owned());
    let is_cluster = config.upstream.kind == UpstreamKind::Cluster;
    let beyond = beyond(config, is_cluster);
    L1Terms {
        max_staleness: Arc::clone(max_staleness),
        acl_recheck: config.acl_recheck,
        max_value: config.largest_value().into(),
        l1_size: config.l1_size,
        mode: match &config.coherence {
            Coherence::Auto => CoherenceMode::auto(config.channel.enabled.then(notices), SHORT_TERM),
            Coherence::Tracking => CoherenceMode::tracking(),
            Coherence::Broadcast(prefixes) => {
                CoherenceMode::broadcast(prefixes.iter().map(|prefix| prefix.as_bytes().into()).collect())
            }
            Coherence::Channel => CoherenceMode::channel(notices(), SHORT_TERM),
        }
        .accompanied(beyond.is_some()),
        is_cluster,
        max_ears: (config.max_upstream / 4).max(1),
        beyond: beyond.map(Arc::new),
    }
}

/// What lies beyond the upstream, where something does.
fn beyond(config: &Config, is_cluster: bool) -> Option<Beyond> {
    let tiers = config.tiers.iter().map(|tier| tier.pattern.clone()).collect();
    let stay = config.tiers.iter().map(|tier| tier.max_stay).max().unwrap_or_default();
    let origins = config.origins.iter().map(|origin| origin.pattern.clone()).collect();
    Beyond::new(tiers, origins, u64::try_from(stay.as_millis()).unwrap_or(u64::MAX), is_cluster)
}

/// Where the fleet is told, unless the channel is switched off.
fn fleet(config: &Config, topology: &watch::Sender<Arc<Topology>>, origin_id: &str) -> Option<Fleet> {
    let channel = &config.channel;
    channel.enabled.then(|| Fleet {
        serving: Serving::front(topology.subscribe()).of_key(channel.audit_stream.as_deref().map(str::as_bytes)),
        channel: channel.name.clone(),
        audit_stream: channel.audit_stream.clone(),
        audit_length: channel.audit_length,
        origin_id: origin_id.to_owned(),
        writes: channel.publish,
    })
}
