//! The process: what is started in which order, and how it ends.
//!
//! Listeners first, so that a taken port is told before anything else happens; then the workers, the admin port, the fleet's
//! channel, and a look at the upstream every second. Redis need not be there: crema starts, says that it is not ready, and
//! refuses clients, or answers with an error, until it is. At the end: no new clients, sessions drain, then everything else stops.
//!
//! A long file: what is started in order ends in order, and one look at the upstream says what is there.

mod descriptors;

use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::admin::{self, EarStatus, L1Status, Settings, Snapshot, Source, UpstreamStatus};
use crate::clock::Time;
use crate::config::{Auth, Coherence, Config};
use crate::error::Error;
use crate::invalidation::channel::{self, ChannelConfig};
use crate::invalidation::{EarState, Fleet, Heard, L1, L1Terms, Means, Notices, Publisher};
use crate::log;
use crate::metrics::Metrics;
use crate::proxy::{Clients, Gate, Shared};
use crate::resp::{Limits, Resp, encode};
use crate::server::{Listener, Workers, accept};
use crate::upstream::{Connection, Login, Node, Service, Target, Topology, connect, keep_watch, read_reply};

/// Every so many looks at the upstream, one a second, is on a new connection.
const ANEW: u32 = 5;
/// The connection kept for looking may take so long to answer before a new one is made.
const PROMPT: Duration = Duration::from_secs(1);
/// Between a sign that the address may lead elsewhere and the look at it.
const DOUBT: Duration = Duration::from_millis(200);

/// Runs until SIGTERM or SIGINT. Exits with 0 after a clean end, with 1 where it could not start, and with 128 and the signal's
/// number where a second one ended it at once.
pub fn run(config: Config) -> ExitCode {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    let end = runtime.block_on(serve(config));
    runtime.shutdown_background(); // a look-up of a name may be under way, and is of no use any more
    log::tell_folded(true);
    end.unwrap_or_else(|error| {
        error!("{error}");
        ExitCode::FAILURE
    })
}

async fn serve(mut config: Config) -> Result<ExitCode, Error> {
    let failed = |source| Error::Listen { setting: "signals", address: "the process".into(), source: Arc::new(source) };
    let mut signals = Signals::new().map_err(failed)?;
    info!(pid = std::process::id(), "crema {} starts", env!("CARGO_PKG_VERSION"));
    descriptors::fit(&mut config);
    let settings = config.to_string();
    info!("settings: {}", settings.lines().map(str::trim).collect::<Vec<_>>().join("; "));
    let mut listeners = Vec::new();
    for listen in &config.listen {
        listeners.push(Listener::bind(listen).await?);
    }
    let admin = match config.admin {
        Some(address) => Some(TcpListener::bind(address).await.map_err(|source| Error::Listen {
            setting: "admin",
            address: address.to_string(),
            source: Arc::new(source),
        })?),
        None => None,
    };

    let (stop_sessions, stop_rest) = (CancellationToken::new(), CancellationToken::new());
    let app = App::new(config, &stop_rest);
    let started =
        |source| Error::Listen { setting: "threads", address: "worker threads".into(), source: Arc::new(source) };
    let workers = Arc::new(Workers::start(&app.shared, &app.metrics.workers, &stop_sessions).map_err(started)?);

    let tasks = TaskTracker::new();
    for listener in listeners {
        info!("listening on {}{}", listener.address(), listener.note());
        tasks.spawn(accept(listener, Arc::clone(&workers), stop_sessions.clone()));
    }
    if let Some(listener) = admin {
        if let Ok(address) = listener.local_addr() {
            info!("admin on http://{address}/");
        }
        tasks.spawn(admin::serve(listener, Arc::clone(&app) as Arc<dyn Source>, stop_rest.clone()));
    }
    if app.shared.config.auth == Auth::Open {
        warn!("auth is open: clients without a password have all the rights of the user in `upstream`");
    }
    let coherence = &app.shared.config.coherence;
    info!("coherence by {}: {}", coherence.as_str(), coherence.promise());
    tasks.spawn({
        let (node, stop) = (app.front(), stop_rest.clone());
        async move { _ = stop.run_until_cancelled(keep_watch(node)).await }
    });
    tasks.spawn(Arc::clone(&app).watch(stop_rest.clone()));
    tasks.spawn(Arc::clone(&app).listen(stop_rest.clone()));
    tasks.close();

    tokio::select! {
        _ = signals.stop() => {}
        // Its clients are gone, and what they had under way: who supervises the process starts a sound one.
        number = workers.fallen() => return Err(Error::Worker { number }),
    }
    app.draining.store(true, Ordering::Relaxed);
    tokio::select! {
        () = drain(&app, workers, (&stop_sessions, &stop_rest), &tasks) => Ok(ExitCode::SUCCESS),
        signal = signals.stop() => {
            let left = app.metrics.level(|worker| &worker.sessions);
            warn!(sessions = left, "ended at once by a second signal");
            Ok(ExitCode::from(128 + signal))
        }
    }
}

/// Ends all in order: a load balancer has time to notice, clients to finish; then the rest stops.
async fn drain(
    app: &App,
    workers: Arc<Workers>,
    (stop_sessions, stop_rest): (&CancellationToken, &CancellationToken),
    tasks: &TaskTracker,
) {
    let Config { drain_delay, drain_timeout, .. } = app.shared.config;
    if !drain_delay.is_zero() {
        info!("stopping: not ready any more, and clients are served for {drain_delay:?} yet");
        sleep(drain_delay).await;
    }
    info!("stopping: no new clients, open sessions have {drain_timeout:?} to finish");
    stop_sessions.cancel();
    // Joining blocks, and the workers may need this runtime while they drain: a thread of its own waits for them.
    let (over, joined) = oneshot::channel::<()>();
    let thread = thread::Builder::new().name("join".into()).spawn(move || {
        // The acceptors give up their hold on the workers, then this is the last one.
        let mut workers = workers;
        while let Err(shared) = Arc::try_unwrap(workers).map(Workers::join) {
            workers = shared;
            thread::sleep(Duration::from_millis(1));
        }
        drop(over);
    });
    if thread.is_ok() {
        let _ = joined.await;
    }
    stop_rest.cancel();
    let _ = timeout(Duration::from_secs(2), tasks.wait()).await;
    info!("stopped");
}

/// The signals that mean something to crema, and those that would kill it where nobody listened.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    usr1: Signal,
    usr2: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for a signal to stop, and gives its number. Cancel safe.
    async fn stop(&mut self) -> u8 {
        loop {
            tokio::select! {
                _ = self.term.recv() => return 15,
                _ = self.int.recv() => return 2,
                _ = self.hup.recv() => {
                    info!("SIGHUP: settings are read at start alone, and a later version will read them anew; restart crema for that");
                }
                _ = self.usr1.recv() => info!("SIGUSR1 means nothing to crema"),
                _ = self.usr2.recv() => info!("SIGUSR2 means nothing to crema"),
            }
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
    upstream: Mutex<Result<String, String>>,
    login: Option<Arc<Login>>,
    /// It was told to stop.
    draining: AtomicBool,
}

impl App {
    fn new(config: Config, stop: &CancellationToken) -> Arc<Self> {
        let metrics = Metrics::new(config.threads.get());
        let origin_id = format!("crema-{:016x}", rand::random::<u64>());
        let terms = L1Terms {
            max_staleness: config.max_staleness,
            acl_recheck: config.acl_recheck,
            max_value: config.largest_value(),
            l1_size: config.l1_size,
            means: match &config.coherence {
                Coherence::Tracking => Means::Tracking,
                Coherence::Broadcast(prefixes) => {
                    Means::Broadcast(prefixes.iter().map(|prefix| prefix.as_bytes().into()).collect())
                }
                Coherence::Channel => Means::Channel(Notices::new(config.channel.name.clone(), origin_id.clone())),
            },
            max_ears: (config.max_upstream / 4).max(1),
        };
        let login = config.upstream.password.as_ref().map(|password| {
            let user = config.upstream.user.as_deref().unwrap_or("default");
            Arc::new(Login { user: user.as_bytes().into(), password: password.expose().as_bytes().into() })
        });
        let node = Node::new(config.upstream.node.clone(), config.max_upstream, config.connect_timeout);
        let node = Arc::new(node.known_by(login.clone(), config.response_timeout));
        let control = runtime::Handle::current();
        let channel = &config.channel;
        let fleet = channel.enabled.then(|| {
            let fleet = Fleet {
                node: Arc::clone(&node),
                login: login.clone(),
                channel: channel.name.clone(),
                audit_stream: channel.audit_stream.clone(),
                origin_id: origin_id.clone(),
                writes: channel.publish,
            };
            Publisher::start(fleet, Arc::clone(&metrics.stats), stop.clone())
        });
        let counts = Arc::clone(&metrics.stats);
        let l1 = L1::new(terms, Arc::clone(&node), login.clone(), fleet, counts, control, stop.clone());
        let topology = watch::Sender::new(Arc::new(Topology::single(Arc::clone(&node))));
        let of_turns = Arc::downgrade(&l1);
        node.generation.on_turn(move |several| {
            if let Some(l1) = of_turns.upgrade() {
                l1.turn();
            }
            if several {
                warn!("several servers answer at the upstream's address in turn: nothing is kept in memory or shared, each client has a connection of its own");
            } else {
                info!("another server answers at the upstream's address: connections to the former one are given up, and memory is empty");
            }
        });
        let stats = Arc::clone(&metrics.stats);
        let longest_argument = AtomicU64::new(Limits::authenticated().bulk);
        let gate = Gate::default();
        let own_login = login.clone();
        let shared = Arc::new(Shared {
            config,
            topology: topology.subscribe(),
            l1,
            stats,
            clients: Clients::default(),
            gate,
            longest_argument,
            origin_id,
            login: own_login,
        });
        let upstream = Mutex::new(Err("the upstream has not answered yet".to_owned()));
        let draining = AtomicBool::new(false);
        Arc::new(Self { shared, metrics, started: Instant::now(), topology, upstream, login, draining })
    }

    /// The node that serves what names no key.
    fn front(&self) -> Arc<Node> {
        Arc::clone(self.topology.borrow().front())
    }

    /// Looks at the upstream once a second, and lets Moka do what it put off.
    async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut kept = None;
        let (mut looks, mut silent): (u32, Option<Instant>) = (0, None);
        loop {
            let node = self.front();
            let doubted = async {
                tokio::select! {
                    _ = second.tick() => false,
                    () = node.generation.doubted() => true,
                }
            };
            let Some(doubted) = stop.run_until_cancelled(doubted).await else { return };
            if doubted {
                sleep(DOUBT).await; // a server in doubt is doubted by all who ask it
            }
            looks = looks.wrapping_add(1);
            // Only a new connection shows where the address leads now.
            if doubted || looks.is_multiple_of(ANEW) {
                kept = None;
            }
            self.shared.l1.store.run_pending();
            self.shared.l1.reclaim(Time::now());
            log::tell_folded(false);
            let within = node.connect_timeout + PROMPT;
            let Some(state) = stop.run_until_cancelled(timeout(within, self.look(&mut kept))).await else { return };
            let state = if let Ok(state) = state {
                silent = None;
                state
            } else {
                // It accepts and is silent: it may have been told to pause.
                kept = None;
                let since = *silent.get_or_insert_with(Instant::now);
                if since.elapsed() < node.handshake_timeout {
                    continue;
                }
                Err(format!("the upstream has said nothing for {:?}; is it stopped or paused?", since.elapsed()))
            };
            let mut known = self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
            match (&*known, &state) {
                (Err(_), Ok(server)) => info!(upstream = %node.address, "ready: {server} answers"),
                (Ok(_), Err(trouble)) => warn!("not ready: {trouble}"),
                (Err(old), Err(trouble)) if old != trouble => warn!("not ready: {trouble}"),
                _ => {}
            }
            *known = state;
        }
    }

    /// One look, on a connection kept for it: what the upstream calls itself, or what is wrong.
    async fn look(&self, kept: &mut Option<(Connection, String)>) -> Result<String, String> {
        let node = &self.front();
        let advice = |error: &Error| format!("{error}; is it running, and is `upstream` right?");
        let service = node.signs.service();
        if service != Service::Good {
            *kept = None; // a connection made before may lead to another server, or nowhere
        }
        // One that lies silent says nothing of others.
        if let Some((connection, _)) = kept
            && !matches!(timeout(PROMPT, ask(connection, &[b"PING"], node)).await, Ok(Ok(_)))
        {
            *kept = None;
        }
        if kept.is_none() {
            let target = Target {
                node: Arc::clone(node),
                login: self.login.clone(),
                db: 0,
                resp: Resp::V2,
                name: "crema-check",
            };
            let mut connection = connect(&target).await.map_err(|error| advice(&error))?;
            let server = ask(&mut connection, &[b"INFO", b"server"], node).await.map_err(|error| advice(&error))?;
            *kept = Some((connection, name(&server)));
        }
        let Some((connection, server)) = kept else { unreachable!("just made") };
        match ask(connection, &[b"PING"], node).await {
            Ok(reply) if reply.starts_with(b"-LOADING") || reply.starts_with(b"-MASTERDOWN") => {
                Err(format!("the upstream answers {}", String::from_utf8_lossy(&reply).trim()))
            }
            Ok(_) => {
                // Where it may not be asked for, the default stays.
                if let Ok(reply) = ask(connection, &[b"CONFIG", b"GET", b"proto-max-bulk-len"], node).await
                    && let Some(limit) = last_number(&reply)
                {
                    self.shared.longest_argument.store(limit, Ordering::Relaxed);
                }
                if let Some(notices) = self.shared.l1.notices()
                    && let Ok(full) = is_full(connection, node).await
                {
                    notices.set_full(full);
                }
                match service {
                    Service::Good => Ok(server.clone()),
                    // Whoever is there now answers. That it takes writes it has to say.
                    Service::Silent => {
                        node.signs.mends(service);
                        Err("the upstream left commands without an answer for response_timeout".to_owned())
                    }
                    Service::ReadOnly => {
                        if ask(connection, &[b"HELLO"], node).await.is_ok_and(|reply| is_master(&reply)) {
                            node.signs.mends(service);
                        }
                        Err("the upstream refuses writes with READONLY: it is a replica; is `upstream` right?"
                            .to_owned())
                    }
                }
            }
            Err(error) => {
                *kept = None;
                Err(advice(&error))
            }
        }
    }

    async fn listen(self: Arc<Self>, stop: CancellationToken) {
        let settings = &self.shared.config.channel;
        if !settings.enabled || self.shared.l1.notices().is_some() {
            return;
        }
        let config = ChannelConfig {
            node: self.front(),
            login: self.login.clone(),
            channel: settings.name.clone(),
            origin_id: self.shared.origin_id.clone(),
        };
        let stats = Arc::clone(&self.shared.stats);
        let on = move |heard: Heard| stats.heard(heard.into());
        channel::listen(&config, Arc::clone(&self.shared.l1) as Arc<_>, stop, on).await;
    }
}

async fn ask(connection: &mut Connection, command: &[&[u8]], node: &Node) -> Result<Vec<u8>, Error> {
    let mut request = Vec::new();
    encode::own_command(&mut request, command);
    let lost = |why: &str| Error::Lost { node: Arc::clone(&node.address), why: why.into() };
    let exchange = async {
        connection.socket.write_all(&request).await?;
        read_reply(&mut connection.socket, &mut Vec::new()).await
    };
    match timeout(node.connect_timeout, exchange).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(lost(&error.to_string())),
        Err(_) => Err(Error::Timeout { node: Arc::clone(&node.address), after: node.connect_timeout }),
    }
}

/// Whether the upstream has no memory left: then it puts nothing into a transaction, not even a PING.
async fn is_full(connection: &mut Connection, node: &Node) -> Result<bool, Error> {
    let mut said = Vec::new();
    for command in ["MULTI", "PING", "DISCARD"] {
        said.push(ask(connection, &[command.as_bytes()], node).await?);
    }
    Ok(said[1].starts_with(b"-OOM"))
}

/// Whether the reply to `HELLO`, an array of names and values or a map, says that the server is a master.
fn is_master(reply: &[u8]) -> bool {
    let says = b"$4\r\nrole\r\n$6\r\nmaster\r\n";
    reply.windows(says.len()).any(|part| part == says)
}

/// The number on the last line of a reply: the value in an answer to `CONFIG GET` of one number.
fn last_number(reply: &[u8]) -> Option<u64> {
    std::str::from_utf8(reply).ok()?.lines().last()?.parse().ok()
}

/// `redis 7.0.15` or `valkey 9.0.1`, from `INFO server`.
fn name(info: &[u8]) -> String {
    let info = String::from_utf8_lossy(info);
    let value = |key: &str| info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    match (value("valkey_version"), value("redis_version")) {
        (Some(version), _) => format!("valkey {version}"),
        (None, Some(version)) => format!("redis {version}"),
        (None, None) => "a server that does not give its version".to_owned(),
    }
}

impl Source for App {
    fn snapshot(&self) -> Snapshot {
        let Shared { config, l1, .. } = &*self.shared;
        let node = self.front();
        let upstream = self.upstream.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now = Time::now();
        let ears = l1.ears().into_iter().map(|(user, ear)| {
            let left = ear.freshness.lease_left(now);
            let trouble = match ear.state() {
                EarState::Away(trouble) => Some(trouble),
                EarState::Refused(refusal) => Some(format!("no L1 for this user: it {}", refusal.about())),
                EarState::Idle | EarState::Listening(_) => None,
            };
            EarStatus {
                user: String::from_utf8_lossy(&user).into_owned(),
                node: node.address.to_string(),
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
            upstream: UpstreamStatus {
                address: config.upstream.to_string(),
                up: upstream.is_ok(),
                server: upstream.clone().ok(),
                trouble: upstream.err(),
            },
            ears: ears.collect(),
            l1: L1Status { entries: l1.store.len() as u64, bytes: l1.store.bytes(), capacity: config.l1_size },
            settings: Settings {
                promote: config.promote,
                max_staleness_ms: u64::try_from(config.max_staleness.as_millis()).unwrap_or(u64::MAX),
                coherence: config.coherence.as_str(),
                promise: config.coherence.promise(),
                class_seconds: config.ceiling.map(|ceiling| ceiling.as_secs()),
            },
        }
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}
