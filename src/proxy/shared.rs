//! What the workers of a process share: settings, the topology, L1, counters; and what the settings say of a key.
//!
//! Made once by `app`; read by every worker and never changed but for what its parts change inside.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::clients::Clients;
use super::gate::Gate;
use super::listings::Listings;
use super::live::LiveSettings;
use super::open_listeners::OpenListeners;
use super::orders::Orders;
use super::sampled::CurveExchange;
use super::succession::Succession;
use crate::config::Config;
use crate::invalidation::L1;
use crate::metrics::Stats;
use crate::origin::Origins;
use crate::resp::Limits;
use crate::tier::Tiers;
use crate::upstream::{Login, MapDoubts, Node, State, Topology};

/// What all workers share.
pub(crate) struct Shared {
    /// All settings as they were at start: those that may change while crema runs are in `live`.
    pub config: Config,
    /// What may change, now and as it does.
    pub live: watch::Receiver<Arc<LiveSettings>>,
    /// Which nodes there are and which serves what, now and as it changes.
    pub topology: watch::Receiver<Arc<Topology>>,
    /// Has it looked at anew.
    pub map: MapDoubts,
    /// Whether the upstream is there at all.
    pub presence: watch::Receiver<State>,
    /// The cache.
    pub l1: Arc<L1>,
    /// The tiers, where there are any.
    pub tiers: Option<Arc<Tiers>>,
    /// The origins, where there are any.
    pub origins: Option<Arc<Origins>>,
    /// The process's counters.
    pub stats: Arc<Stats>,
    /// All clients, for those who end some of them.
    pub clients: Clients,
    /// Whether clients can come in at all.
    pub open_listeners: OpenListeners,
    /// Who may come in without a password.
    pub gate: Gate,
    /// The way to whoever carries out what admins order.
    pub orders: Orders,
    /// Whether another process takes over, or was taken over from.
    pub succession: Succession,
    /// What admins are told of keys and clients.
    pub listings: Listings,
    /// The upstream's `proto-max-bulk-len`: the longest argument that a client may send, in bytes.
    pub longest_argument: Arc<AtomicU64>,
    /// This process's name on the fleet's channel.
    pub origin_id: String,
    /// What workers hand on of reads in the sample, and what follows from it.
    pub curve: CurveExchange,
}

impl Shared {
    /// The node that serves what names no key.
    pub(crate) fn front(&self) -> Arc<Node> {
        Arc::clone(self.topology.borrow().front())
    }

    /// The credentials of the upstream URL.
    pub(crate) fn login(&self) -> Option<Arc<Login>> {
        self.topology.borrow().front().login()
    }

    /// What a client may send, `strict` before it has logged in where it must.
    pub(crate) fn limits(&self, strict: bool) -> Limits {
        let limits = if strict { Limits::unauthenticated() } else { Limits::authenticated() };
        Limits { bulk: self.longest_argument.load(Ordering::Relaxed), ..limits }
    }

    /// What may change while crema runs, as it is now. A worker has it at hand.
    pub(crate) fn live(&self) -> Arc<LiveSettings> {
        Arc::clone(&self.live.borrow())
    }

    /// So long before its end a key that is to be promoted leaves L1: zero but for one whose origin is asked ahead of need.
    pub(crate) fn early(&self, key: &[u8]) -> Duration {
        let Some(origins) = &self.origins else { return Duration::ZERO };
        let reach = self.l1.terms.beyond.as_ref().and_then(|beyond| beyond.reach(key));
        reach.and_then(|reach| reach.origin).map_or(Duration::ZERO, |origin| origins.early(origin.into()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock::LiveSpan;
    use crate::config::Endpoint;
    use crate::control::Control;
    use crate::invalidation::{CoherenceMode, L1Terms};

    /// A node that refuses connections.
    pub(in crate::proxy) fn node() -> Arc<Node> {
        let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port: 1 };
        Arc::new(Node::new(endpoint, 100, Duration::from_secs(1)))
    }

    /// What the workers of a process with no L1 share.
    pub(in crate::proxy) fn shared(topology: watch::Receiver<Arc<Topology>>) -> Arc<Shared> {
        shared_by(CoherenceMode::tracking(), topology)
    }

    /// The same, where changes would be heard of this way.
    pub(in crate::proxy) fn shared_by(mode: CoherenceMode, topology: watch::Receiver<Arc<Topology>>) -> Arc<Shared> {
        shared_of(mode, 0, topology)
    }

    /// The same, of a process that has a little L1.
    pub(in crate::proxy) fn shared_with_l1(topology: watch::Receiver<Arc<Topology>>) -> Arc<Shared> {
        shared_of(CoherenceMode::tracking(), 1 << 20, topology)
    }

    fn shared_of(mode: CoherenceMode, l1_size: u64, topology: watch::Receiver<Arc<Topology>>) -> Arc<Shared> {
        let second = Duration::from_secs(1);
        let (max_value, is_cluster, max_ears, beyond) = (1.into(), false, 1, None);
        let (max_staleness, acl_recheck) = (Arc::new(LiveSpan::new(second)), second);
        let terms = L1Terms { max_staleness, acl_recheck, max_value, l1_size, mode, is_cluster, max_ears, beyond };
        let stats = Arc::default();
        let l1 = L1::new(terms, None, Arc::clone(&stats), Control::here());
        let presence = topology.borrow().front().presence.follow();
        let live = watch::Sender::new(Arc::new(LiveSettings::of(&Config::default()))).subscribe();
        Arc::new(Shared {
            listings: Listings::new(&[], &stats, live.clone()),
            live,
            config: Config::default(),
            topology,
            map: MapDoubts::default(),
            presence,
            l1,
            tiers: None,
            origins: None,
            stats,
            clients: Clients::default(),
            open_listeners: OpenListeners::new(false),
            gate: Gate::default(),
            orders: Orders::new().0,
            succession: Succession::default(),
            longest_argument: Arc::new(AtomicU64::new(Limits::authenticated().bulk)),
            origin_id: String::new(),
            curve: CurveExchange::default(),
        })
    }
}
