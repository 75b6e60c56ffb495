//! The process: what is started in which order, and how it ends.
//!
//! Listeners first, so that a taken port is told before anything else happens; then the workers, the admin port, the fleet's
//! channel, and a look at the upstream every second. Redis need not be there: crema starts, says that it is not ready, and
//! refuses clients, or answers with an error, until it is. Where another crema is taken over from, its listeners are served, and
//! only when that one has ended memory answers. `running` has the order in which it starts and ends.

mod admin_port;
mod census;
mod cluster;
mod curve;
mod descriptors;
mod doubts;
mod handover;
mod lookout;
mod nodes;
mod plan;
mod probe;
mod rotation;
mod running;
mod sentinel;
mod settings;
mod signals;
mod status;
mod supervisor;

pub use probe::readiness;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::SentinelStatus;
use crate::clock::{LiveSpan, Time};
use crate::config::{Auth, Coherence, Config, Endpoint, Flags, ReadFrom, Reading, UpstreamDown, UpstreamKind};
use crate::control::Control;
use crate::error::Error;
use crate::invalidation::Heard;
use crate::invalidation::channel::{self, ChannelConfig};
use crate::invalidation::stream::{self, StreamConfig};
use crate::log;
use crate::metrics::{CoherenceMeans, Metrics};
use crate::net::tls::{Acceptor, Dialer, Verify};
use crate::origin::Origins;
use crate::proxy::{
    Clients, CurveExchange, Gate, Listings, LiveSettings, OpenListeners, Order, Orders, Shared, Succession,
};
use crate::resp::Limits;
use crate::server::Inside;
use crate::tier::Tiers;
use crate::upstream::{ClusterMap, Login, MapDoubts, Node, SentinelLogin, Serving, State, SurveyFinding, Topology};

use census::CensusKeeper;
use cluster::{MapKeeper, follow_presence};
use curve::CurveKeeper;
use nodes::{NodePlan, Nodes};
use rotation::RotatingLogins;
use running::{Inherited, Running};
use sentinel::GroupPlan;
use settings::{SettingsHistory, tell_mode};
use signals::Signals;

/// Runs until SIGTERM or SIGINT. Exits with 0 after a clean end, with 1 where it could not start, and with 128 and the signal's
/// number where a second one ended it at once.
pub fn run(flags: Flags, reading: Reading) -> ExitCode {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    let end = runtime.block_on(serve(flags, reading));
    runtime.shutdown_background(); // a look-up of a name may be under way, and is of no use any more
    log::tell_folded(true);
    end.unwrap_or_else(|error| {
        error!("{error}");
        ExitCode::FAILURE
    })
}

async fn serve(flags: Flags, reading: Reading) -> Result<ExitCode, Error> {
    let mut config = reading.config.clone();
    let mut signals = Signals::new().map_err(|source| Error::listen("signals", "the process", source))?;
    info!(pid = std::process::id(), "crema {} starts", env!("CARGO_PKG_VERSION"));
    descriptors::fit(&mut config);
    let settings = config.to_string();
    info!("settings: {}", settings.lines().map(str::trim).collect::<Vec<_>>().join("; "));
    let (mut taking, given) = Inherited::find(&config).await?;
    let mut running = Running::start(config, (flags, reading), given).await?;
    let app = Arc::clone(&running.app);
    let fallen = running.workers.fallen();
    let successor = tokio::select! {
        _ = signals.stop(|| app.hang_up()) => None,
        // Its clients are gone, and what they had under way: who supervises the process starts a sound one.
        number = fallen => return Err(Error::Worker { number }),
        successor = running.serve(&mut taking) => Some(successor?),
    };
    tokio::select! {
        left = running.end(successor) => {
            if left > 0 {
                warn!(tasks = left, "stopped, though not all was over");
            } else {
                info!("stopped");
            }
            Ok(ExitCode::SUCCESS)
        }
        signal = signals.stop(|| app.hang_up()) => {
            let left = app.metrics.level(|worker| &worker.sessions);
            warn!(sessions = left, "ended at once by a second signal");
            Ok(ExitCode::from(128 + signal))
        }
    }
}

/// What the running process consists of, as far as others look at it.
struct App {
    shared: Arc<Shared>,
    metrics: Metrics,
    started: Instant,
    /// Which nodes there are. Workers follow it.
    topology: watch::Sender<Arc<Topology>>,
    /// Whether any node of a cluster is there.
    presence: watch::Sender<State>,
    nodes: Arc<Nodes>,
    /// As whom Sentinels are asked, and what is told of the group that they watch.
    sentinel_login: SentinelLogin,
    group: Arc<Mutex<SentinelStatus>>,
    /// What clients under TLS are shown.
    acceptor: Option<Arc<Acceptor>>,
    /// It was told to stop.
    draining: AtomicBool,
    /// The settings that may change. Workers follow them.
    live: watch::Sender<Arc<LiveSettings>>,
    control: Control,
    /// What was changed since it began.
    history: SettingsHistory,
    /// The way in for the admin port, while clients are taken.
    inside: Mutex<Option<Inside>>,
}

impl App {
    fn new(
        config: Config,
        (dialer, acceptor): (Option<Dialer>, Option<Arc<Acceptor>>),
        logins: RotatingLogins,
        (tiers, origins): (Option<Tiers>, Option<Origins>),
        orders: Orders,
        control: &Control,
    ) -> Arc<Self> {
        let metrics = Metrics::new(config.threads.get());
        let origin_id = format!("crema-{:016x}", rand::random::<u64>());
        let sentinel_login = logins.sentinel.clone();
        let max_staleness = Arc::new(LiveSpan::new(config.max_staleness));
        let plan = NodePlan::new(&config, dialer, logins, &max_staleness);
        let topology = watch::Sender::new(Arc::new(first_topology(&config, &plan)));
        let node = Arc::clone(topology.borrow().front());
        let l1 = plan::l1((&config, &max_staleness), &topology, &origin_id, &metrics.stats, control);
        let longest_argument = Arc::new(AtomicU64::new(Limits::authenticated().bulk));
        let nodes = Arc::new(Nodes::new(plan, Arc::clone(&l1), Arc::clone(&longest_argument), control.clone()));
        if !node.is_gone() {
            nodes.keep(&node);
        }
        let presence = watch::Sender::new(State::Unknown);
        let live = watch::Sender::new(Arc::new(LiveSettings::of(&config)));
        let shared = Arc::new(Shared {
            open_listeners: OpenListeners::new(config.upstream_down == UpstreamDown::Close),
            listings: Listings::new(&metrics.workers, &metrics.stats, live.subscribe()),
            live: live.subscribe(),
            topology: topology.subscribe(),
            map: MapDoubts::default(),
            presence: followed_presence(&config.upstream.kind, &node, &presence),
            config,
            l1,
            tiers: tiers.map(Arc::new),
            origins: origins.map(Arc::new),
            stats: Arc::clone(&metrics.stats),
            clients: Clients::default(),
            gate: Gate::default(),
            orders,
            succession: Succession::default(),
            longest_argument,
            origin_id,
            curve: CurveExchange::default(),
        });
        Arc::new(Self {
            shared,
            metrics,
            started: Instant::now(),
            topology,
            presence,
            nodes,
            sentinel_login,
            group: Arc::default(),
            acceptor,
            draining: AtomicBool::new(false),
            live,
            control: control.clone(),
            history: SettingsHistory::default(),
            inside: Mutex::default(),
        })
    }

    fn inside(&self) -> MutexGuard<'_, Option<Inside>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node that serves what names no key.
    fn front(&self) -> Arc<Node> {
        Arc::clone(self.topology.borrow().front())
    }

    /// Another server is the upstream from now on.
    fn move_upstream(&self, endpoint: &Endpoint) {
        let node = self.nodes.successor(endpoint, &self.front());
        self.nodes.replace(&self.topology, &node);
        self.shared.l1.turn();
        let upstream = &node.address;
        info!(%upstream, "another server is the upstream: connections to the former one are given up, and memory is empty");
    }

    /// SIGHUP: all that can be read anew is.
    fn hang_up(&self) {
        self.shared.orders.leave(Order::Reload, "SIGHUP");
    }

    /// Whether the files have changed or not; new connections use what they say.
    fn read_certificates(&self) {
        if let Some(acceptor) = &self.acceptor {
            acceptor.read_anew();
        }
        if let Some(dialer) = &self.front().tls {
            dialer.read_anew();
        }
    }

    /// What an operator should know that the settings promise, or do not.
    fn tell_promises(&self) {
        if self.shared.config.auth == Auth::Open {
            warn!("auth is open: clients without a password have all the rights of the user in `upstream`");
        }
        if self.shared.config.upstream.tls.as_ref().is_some_and(|tls| tls.verify == Verify::No) {
            warn!(
                "verify=no in `upstream`: whoever sits between crema and the upstream can read and change all; name its \
                 authority instead: ?ca=FILE"
            );
        }
        tell_mode(self.shared.config.mode);
        let means = self.shared.l1.mode().means();
        if means != CoherenceMeans::Undecided {
            info!("coherence by {}: {}", means.as_str(), means.about());
        }
    }

    /// Starts what looks after the upstream, L1 and the fleet's channel.
    fn watch_over(self: &Arc<Self>, control: &Control) {
        match self.shared.config.upstream.kind {
            UpstreamKind::Single => {}
            UpstreamKind::Cluster => self.follow_cluster(control),
            UpstreamKind::Sentinel { ref name } => self.follow_group(name, control),
        }
        control.spawn(Arc::clone(self).keep_house());
        control.spawn(CurveKeeper::new(Arc::clone(self)).keep());
        for source in self.front().rotating() {
            control.spawn(rotation::follow(
                Arc::clone(source),
                Serving::front(self.topology.subscribe()),
                Arc::clone(&self.shared.l1),
            ));
        }
        if self.shared.config.channel.enabled && self.shared.config.coherence != Coherence::Channel {
            let app = Arc::clone(self);
            control.spawn_ending(|stop| async move { app.listen(stop).await });
        }
        if let Some(stream) = &self.shared.config.channel.stream {
            let (serving, key) = (Serving::front(self.topology.subscribe()), stream.as_bytes());
            let config = StreamConfig {
                serving: serving.of_key(Some(key)),
                stream: stream.clone(),
                origin_id: self.shared.origin_id.clone(),
            };
            let (l1, stats) = (Arc::clone(&self.shared.l1) as Arc<_>, Arc::clone(&self.shared.stats));
            let on = move |heard: Heard| stats.heard(heard.into());
            control.spawn_ending(|stop| async move { stream::follow(&config, l1, stop, on).await });
        }
    }

    /// Starts what keeps the cluster's map.
    fn follow_cluster(&self, control: &Control) {
        let Shared { config, map, .. } = &*self.shared;
        let first = self.front();
        let place = |seed: &Endpoint| config.cluster.node_map.resolve(seed.clone());
        let others = config.upstream.seeds.iter().map(|seed| self.nodes.seed(&place(seed)));
        let seeds = std::iter::once(first).chain(others).collect();
        let keeper =
            MapKeeper::new((Arc::clone(&self.nodes), seeds), config.clone(), self.topology.clone(), map.clone());
        control.spawn(keeper.keep());
        if self.shared.l1.is_on() || config.read_from == ReadFrom::Replica {
            let (nodes, l1) = (Arc::clone(&self.nodes), Arc::clone(&self.shared.l1));
            let node_map = config.cluster.node_map.clone();
            let census = CensusKeeper::new((nodes, l1), node_map, self.topology.subscribe(), map.clone());
            control.spawn(census.keep());
        }
        control.spawn(follow_presence(self.topology.clone(), self.presence.clone()));
    }

    /// Starts what keeps the group that Sentinels watch.
    fn follow_group(&self, name: &str, control: &Control) {
        let Shared { config, map, l1, .. } = &*self.shared;
        let around = (&self.nodes, l1, control);
        let login = self.sentinel_login.clone();
        let plan = GroupPlan::new(name, (config, login), around, (&self.topology, map), &self.group);
        control.spawn(plan.keep());
        control.spawn(follow_presence(self.topology.clone(), self.presence.clone()));
    }

    /// Lets Moka do what it put off, once a second, and lets go of what nobody is any more.
    async fn keep_house(self: Arc<Self>) {
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            second.tick().await;
            self.shared.l1.memory.store.run_pending();
            self.shared.l1.reclaim(Time::now());
            log::tell_folded(false);
        }
    }

    /// Listens to the fleet's channel while the ears do not.
    async fn listen(&self, stop: CancellationToken) {
        let config = ChannelConfig {
            serving: Serving::front(self.topology.subscribe()),
            channel: self.shared.config.channel.name.clone(),
            origin_id: self.shared.origin_id.clone(),
        };
        let stats = Arc::clone(&self.shared.stats);
        let on = move |heard: Heard| stats.heard(heard.into());
        let mut means = self.shared.l1.mode().follow();
        while !stop.is_cancelled() {
            let listen = channel::listen(&config, Arc::clone(&self.shared.l1) as Arc<_>, stop.clone(), &on);
            let ears_do = means.wait_for(|means| *means == CoherenceMeans::Channel);
            tokio::select! {
                () = listen => return,
                _ = ears_do => {}
            }
            let ears_do_not = means.wait_for(|means| *means != CoherenceMeans::Channel);
            let _ = stop.run_until_cancelled(ears_do_not).await; // an error: the process ends
        }
    }
}

/// What is known before anybody was asked.
fn first_topology(config: &Config, plan: &NodePlan) -> Topology {
    let node = || plan.node(&config.cluster.node_map.resolve(config.upstream.node.clone()));
    match &config.upstream.kind {
        UpstreamKind::Single => Topology::Single(node()),
        UpstreamKind::Cluster => Topology::Cluster(ClusterMap::unread(node())),
        UpstreamKind::Sentinel { name } => Topology::Single(plan.unknown(&format!("the master of `{name}`"))),
    }
}

/// Whether the upstream is there: what its one node says, or whoever sums up those that there are.
fn followed_presence(kind: &UpstreamKind, only: &Node, of_all: &watch::Sender<State>) -> watch::Receiver<State> {
    match kind {
        UpstreamKind::Single => only.presence.follow(),
        UpstreamKind::Cluster | UpstreamKind::Sentinel { .. } => of_all.subscribe(),
    }
}

/// The credentials of the upstream URL.
fn own_login(config: &Config) -> Option<Arc<Login>> {
    let password = config.upstream.password.as_ref()?;
    let user = config.upstream.user.as_deref().unwrap_or("default");
    Some(Arc::new(Login { user: user.as_bytes().into(), password: password.expose().as_bytes().into() }))
}

/// Tells the operator by what means changes are heard of, why by these, and what that costs.
fn tell_choice(finding: &SurveyFinding) {
    let (means, promise) = (finding.means.as_str(), finding.means.about());
    let refusals = finding.refusals.iter().map(|(means, said)| format!("{} ({said})", means.as_str()));
    let refusals = refusals.collect::<Vec<_>>().join(", ");
    let client = finding.client.as_ref().map(|user| {
        format!(". It was asked as the first client's user, `{user}`, for `upstream` names none; who is asked for all is better named there")
    });
    let client = client.unwrap_or_default();
    match finding.means {
        CoherenceMeans::Tracking | CoherenceMeans::Undecided => {
            info!("coherence by {means}, which the upstream allows: {promise}");
        }
        CoherenceMeans::Broadcast => {
            warn!("coherence by {means}, for the upstream refuses {refusals}: {promise}{client}");
        }
        CoherenceMeans::Channel => warn!(
            "coherence by {means}, for the upstream refuses {refusals}: {promise}; each write costs the upstream more. If \
             only the user in `upstream` lacks the right, give it +client|tracking{client}"
        ),
        CoherenceMeans::Nothing => warn!("no coherence, for the upstream refuses {refusals}: {promise}{client}"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::runtime::Handle;
    use tokio::time::sleep;

    use super::*;
    use crate::admin::Source;
    use crate::config::Listen;

    /// A process with a client, an admin port, and a fleet's channel, whose Redis does not answer.
    async fn running() -> (Running, std::net::TcpListener, TcpStream) {
        let here = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let redis = std::net::TcpListener::bind(here(0)).expect("a free port");
        let free =
            std::net::TcpListener::bind(here(0)).and_then(|listener| listener.local_addr()).expect("a free port");
        let mut config = Config::default();
        let port = redis.local_addr().expect("it listens").port();
        config.upstream.node = Endpoint::Tcp { host: "127.0.0.1".into(), port };
        config.listen = vec![Listen::plain(free)];
        config.admin = Some(here(0));
        config.drain_timeout = Duration::from_millis(1);
        config.upstream_down = UpstreamDown::Error;
        let read = (Flags::default(), Reading::of(Flags::default()).expect("the defaults are good"));
        let mut running = Running::start(config, read, Inherited::default()).await.expect("all is free");
        running.let_in();
        let client = TcpStream::connect(free).await.expect("it listens");
        (running, redis, client)
    }

    #[tokio::test]
    async fn after_the_end_no_task_is_alive() {
        let (running, _redis, mut client) = running().await;
        client.write_all(b"*1\r\n$4\r\nPING\r\n").await.expect("it is open");
        while running.app.metrics.level(|worker| &worker.sessions) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(Handle::current().metrics().num_alive_tasks() > 0);
        let app = Arc::clone(&running.app);
        assert_eq!(running.end(None).await, 0);
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
        assert_eq!(app.metrics.level(|worker| &worker.sessions), 0);
        assert!(app.snapshot().ready.is_err());
        assert_eq!(Arc::strong_count(&app.shared), 1, "no worker, session or lane is left");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.ok(); // closed or reset
    }
}
