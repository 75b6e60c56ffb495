//! The admin port: metrics, probes, status and a dashboard, over HTTP/1.
//!
//! The pages read and change nothing: a stray request can do no harm. Orders (`orders`) change something, and want a token; so
//! does what is told of keys and clients (`listings`). What it shows comes from a [`Source`], so this module knows no session, lane or
//! cache; without a token it never shows keys, and never values or passwords. `app` binds the port and runs [`serve`] beside the workers,
//! not on one of them, so that a scrape delays no client.
//!
//! Reading order: the routes, the server, the answers; then `status` (the JSON) and `history` (an hour of it), then
//! `dashboard.html` with its script and style, which polls them.

mod explain;
mod history;
mod listings;
mod orders;
mod status;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use status::{
    AuditStatus, ChangeStatus, EarStatus, L1Status, NodeStatus, OriginStatus, ReplicaStatus, SentinelStatus,
    SettingsShown, Snapshot, TierStatus, UpstreamStatus, ViolationStatus,
};

use history::History;
use listings::ListingPath;
use orders::OrderPath;

use crate::config::AdminToken;
use crate::control::Control;
use crate::curve::CurveReport;
use crate::metrics::Metrics;
use crate::proxy::{Listings, Orders};

/// Connections served at once; more wait in the listener's backlog.
pub(crate) const MAX_CONNECTIONS: usize = 64;

/// How long a client may take over the head of a request, or stay silent between two.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// After this a connection is closed at the next pause, and clients connect anew: none that never
/// reads its answer can hold a place for good.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);

/// How long a connection that is being closed may take to finish its answer.
const CLOSING: Duration = Duration::from_secs(1);

/// The pause after `accept` failed, which it does for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;

const DASHBOARD: &str = include_str!("dashboard.html");
const STYLE: &str = include_str!("dashboard.css");
const SCRIPT: &str = include_str!("dashboard.js");

/// Where the admin port gets what it shows. Called for every request, so it must not wait.
pub(crate) trait Source: Send + Sync + 'static {
    /// How things stand now.
    fn snapshot(&self) -> Snapshot;

    /// What has been counted.
    fn metrics(&self) -> &Metrics;

    /// What L1 would answer at other sizes.
    fn advice(&self) -> Arc<CurveReport>;

    /// What is to be shown by whoever gives an order; none: nobody may.
    fn token(&self) -> Option<AdminToken>;

    /// Where orders go.
    fn orders(&self) -> &Orders;

    /// A connection to crema as a client has one, that acts for the user of `upstream` without a login.
    fn inside(&self) -> io::Result<UnixStream>;

    /// What admins are told of keys and clients.
    fn listings(&self) -> &Listings;

    /// Where a file is read.
    fn control(&self) -> &Control;
}

/// The pages there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Dashboard,
    Style,
    Script,
    Status,
    History,
    Advise,
    Metrics,
    Live,
    Ready,
}

impl Page {
    const ALL: [Self; 9] = [
        Self::Dashboard,
        Self::Style,
        Self::Script,
        Self::Status,
        Self::History,
        Self::Advise,
        Self::Metrics,
        Self::Live,
        Self::Ready,
    ];

    const fn path(self) -> &'static str {
        match self {
            Self::Dashboard => "/",
            Self::Style => "/dashboard.css",
            Self::Script => "/dashboard.js",
            Self::Status => "/api/status",
            Self::History => "/api/history",
            Self::Advise => "/api/advise",
            Self::Metrics => "/metrics",
            Self::Live => "/livez",
            Self::Ready => "/readyz",
        }
    }

    fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|route| route.path() == path)
    }
}

/// Serves the admin port until `stop`, then lets answers under way end and returns.
///
/// Needs a Tokio runtime with time and I/O. Cancelling the future drops every connection.
pub(crate) async fn serve(listener: TcpListener, source: Arc<dyn Source>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    let history = Arc::new(Mutex::new(History::new(source.as_ref())));
    let mut samples = interval_at(Instant::now() + history::EVERY, history::EVERY);
    samples.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let room = connections.len() < MAX_CONNECTIONS;
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            _ = samples.tick() => locked(&history).sample(source.as_ref()),
            accepted = listener.accept(), if room => match accepted {
                Ok((stream, peer)) => {
                    let (source, history) = (Arc::clone(&source), Arc::clone(&history));
                    connections.spawn(connection(stream, peer, source, history, stop.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin port cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn locked(history: &Mutex<History>) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    source: Arc<dyn Source>,
    history: Arc<Mutex<History>>,
    stop: CancellationToken,
) {
    let (source, history, peer) = (source.as_ref(), &*history, &*peer.to_string());
    let service = service_fn(|request: Request<Incoming>| async move {
        let path = request.uri().path();
        Ok::<_, Infallible>(if let Some(listing) = ListingPath::of(path) {
            listing.tell(&request, source, peer).await
        } else if let Some(order) = OrderPath::of(path) {
            order.take(request, source, peer).await
        } else {
            respond(&request, source, history)
        })
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // A client that goes away, or talks no HTTP, is of no interest to anybody.
        _ended = connection.as_mut() => return,
        () = stop.cancelled() => {}
        () = sleep(CONNECTION_LIFE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ended = timeout(CLOSING, connection).await;
}

fn respond<B>(request: &Request<B>, source: &dyn Source, history: &Mutex<History>) -> Response<Full<Bytes>> {
    let Some(route) = Page::of(request.uri().path()) else {
        let paths = Page::ALL.map(Page::path).join("  ");
        let orders = OrderPath::ALL.map(OrderPath::path).join("  ");
        let listings = ListingPath::ALL.map(ListingPath::path).join("  ");
        let there = format!("{paths}  with a token:  {listings}  and to POST to:  {orders}");
        return text(StatusCode::NOT_FOUND, format!("No such page. There are:  {there}\n"));
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "This page can only be read: GET or HEAD.\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match route {
        Page::Dashboard => dashboard(),
        Page::Style => answer(StatusCode::OK, "text/css; charset=utf-8", STYLE),
        Page::Script => answer(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT),
        Page::Status => {
            let json = status::json(&source.snapshot(), source.metrics());
            answer(StatusCode::OK, "application/json", json)
        }
        Page::History => {
            let asked = request.uri().query().and_then(|query| query.strip_prefix("after="));
            let after = asked.and_then(|after| after.parse().ok()).unwrap_or(0);
            answer(StatusCode::OK, "application/json", locked(history).json(after))
        }
        Page::Advise => {
            let report = (*source.advice()).clone().without_names();
            let json = serde_json::to_string(&report).expect("strings and numbers always serialize");
            answer(StatusCode::OK, "application/json", json)
        }
        Page::Metrics => {
            let rendered = source.metrics().render(&source.snapshot().levels());
            answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", rendered)
        }
        Page::Live => text(StatusCode::OK, "live\n"),
        Page::Ready => {
            let snapshot = source.snapshot();
            let parts = snapshot.degraded().into_iter();
            let degraded = parts.fold(String::new(), |all, part| all + "degraded: " + &part + "\n");
            match snapshot.ready {
                Ok(()) => text(StatusCode::OK, format!("ready\n{degraded}")),
                Err(trouble) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{trouble}\n{degraded}")),
            }
        }
    }
}

/// The dashboard, with leave to do what it does and nothing else: its own styles and script, and
/// requests to this port.
fn dashboard() -> Response<Full<Bytes>> {
    const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
        img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let mut response = answer(StatusCode::OK, "text/html; charset=utf-8", DASHBOARD);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    answer(status, "text/plain; charset=utf-8", body)
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Class;
    use crate::config::Config;
    use crate::metrics::Outcome;
    use crate::proxy::LiveSettings;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::watch;
    use tokio::task::JoinHandle;

    struct Fake {
        orders: Orders,
        listings: Listings,
        control: Control,
        metrics: Metrics,
        ready: AtomicBool,
    }

    impl Source for Fake {
        fn snapshot(&self) -> Snapshot {
            let ready = self.ready.load(Ordering::Relaxed);
            let trouble = "Redis at 10.0.0.1:6379 refuses connections: is it running?";
            Snapshot { ready: ready.then_some(()).ok_or(trouble.to_owned()), ..status::tests::snapshot() }
        }

        fn metrics(&self) -> &Metrics {
            &self.metrics
        }

        fn advice(&self) -> Arc<CurveReport> {
            Arc::default()
        }

        fn token(&self) -> Option<AdminToken> {
            None
        }

        fn orders(&self) -> &Orders {
            &self.orders
        }

        fn inside(&self) -> io::Result<UnixStream> {
            Err(io::ErrorKind::NotConnected.into())
        }

        fn listings(&self) -> &Listings {
            &self.listings
        }

        fn control(&self) -> &Control {
            &self.control
        }
    }

    struct Port {
        address: SocketAddr,
        source: Arc<Fake>,
        stop: CancellationToken,
        served: JoinHandle<()>,
    }

    async fn port() -> Port {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let metrics = Metrics::new(1);
        let live = watch::Sender::new(Arc::new(LiveSettings::of(&Config::default()))).subscribe();
        let source = Arc::new(Fake {
            orders: Orders::new().0,
            listings: Listings::new(&metrics.workers, &metrics.stats, live),
            control: Control::here(),
            metrics,
            ready: AtomicBool::new(true),
        });
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, Arc::clone(&source) as _, stop.clone()));
        Port { address, source, stop, served }
    }

    impl Port {
        /// Head and body of the answer to one request on a connection of its own.
        async fn ask(&self, method: &str, path: &str) -> (String, String) {
            let mut stream = TcpStream::connect(self.address).await.expect("the port listens");
            let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("written");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an answer in UTF-8");
            let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
            (head.to_lowercase(), body.to_owned())
        }
    }

    #[tokio::test]
    async fn probes_tell_life_from_readiness() {
        let port = port().await;
        let (head, body) = port.ask("GET", "/readyz").await;
        assert!(head.starts_with("http/1.1 200 ") && body == "ready\n", "{head}\n{body}");
        port.source.ready.store(false, Ordering::Relaxed);
        let (head, body) = port.ask("GET", "/readyz").await;
        assert!(head.starts_with("http/1.1 503 "), "{head}");
        assert_eq!(body, "Redis at 10.0.0.1:6379 refuses connections: is it running?\n");
        let (head, body) = port.ask("GET", "/livez").await;
        assert!(head.starts_with("http/1.1 200 ") && body == "live\n", "{head}\n{body}");
    }

    #[tokio::test]
    async fn every_route_answers_get_and_head_alike() {
        let port = port().await;
        let length = |head: &str| head.lines().find(|line| line.starts_with("content-length")).map(str::to_owned);
        for route in Page::ALL {
            let (get, body) = port.ask("GET", route.path()).await;
            let (head, nothing) = port.ask("HEAD", route.path()).await;
            assert!(get.starts_with("http/1.1 200 ") && head.starts_with("http/1.1 200 "), "{route:?}");
            assert!(!body.is_empty() && nothing.is_empty(), "{route:?}");
            assert!(get.contains("cache-control: no-store"), "{route:?}");
            assert!(length(&get).is_some(), "{route:?}: {get}");
            // What the process uses differs from one moment to the next, and with it the number of digits.
            let same = matches!(route, Page::Metrics | Page::Status) || length(&get) == length(&head);
            assert!(length(&head).is_some() && same, "{route:?}: {get}\n{head}");
        }
    }

    #[tokio::test]
    async fn what_is_not_there_and_what_is_not_read_is_refused() {
        let port = port().await;
        let (head, body) = port.ask("GET", "/nothing").await;
        assert!(head.starts_with("http/1.1 404 ") && body.contains("/api/status"), "{head}\n{body}");
        let (head, _) = port.ask("POST", "/nothing").await;
        assert!(head.starts_with("http/1.1 404 "), "{head}");
        let (head, _) = port.ask("POST", "/metrics").await;
        assert!(head.starts_with("http/1.1 405 ") && head.contains("allow: get, head"), "{head}");
        let (head, _) = port.ask("GET", "/livez?verbose=1").await;
        assert!(head.starts_with("http/1.1 200 "), "{head}");
    }

    #[tokio::test]
    async fn metrics_and_status_show_what_is_counted_now() {
        let port = port().await;
        port.source.metrics.workers[0].count(Class::String, Outcome::Hit);
        let (head, body) = port.ask("GET", "/metrics").await;
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(body.contains("outcome=\"hit\"} 1\n") && body.contains("\ncrema_l1_entries 3\n"), "{body}");
        let (_, body) = port.ask("GET", "/api/status").await;
        let status: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(status["requests"]["total"], 1);
    }

    #[tokio::test]
    async fn the_dashboard_may_load_nothing_from_elsewhere() {
        let port = port().await;
        let (head, mut body) = port.ask("GET", "/").await;
        assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
        assert!(!head.contains("unsafe"), "{head}");
        for part in ["dashboard.css", "dashboard.js"] {
            assert!(body.contains(&format!("\"{part}\"")), "the page names {part}");
            body += &port.ask("GET", &format!("/{part}")).await.1;
        }
        assert!(body.contains("api/status"));
        let elsewhere = body.match_indices("//").filter(|&(at, _)| body[..at].ends_with(':')).count();
        let namespaces = body.matches("http://www.w3.org/2000/svg").count();
        assert_eq!(elsewhere, namespaces, "an address that is not the name of SVG");
    }

    #[tokio::test]
    async fn stop_ends_idle_connections_and_the_server() {
        let port = port().await;
        let mut idle = TcpStream::connect(port.address).await.expect("the port listens");
        idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("written");
        let mut answer = [0; 512];
        assert!(idle.read(&mut answer).await.expect("an answer") > 0);
        port.stop.cancel();
        timeout(Duration::from_secs(5), port.served).await.expect("serve returns").expect("without panic");
        assert_eq!(idle.read(&mut answer).await.expect("closed in order"), 0);
        assert!(TcpStream::connect(port.address).await.is_err());
    }

    #[tokio::test]
    async fn a_silent_client_is_let_go_and_its_place_is_free_again() {
        let port = port().await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect(port.address).await.expect("the port listens"));
        }
        // With time paused a timer fires as soon as nothing else can happen. The silent ones began to
        // count a moment before: hence the second's grace.
        tokio::time::pause();
        let start = Instant::now();
        let (head, _) = port.ask("GET", "/livez").await;
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        let waited = start.elapsed() + Duration::from_secs(1);
        assert!((HEADER_TIMEOUT..HEADER_TIMEOUT * 2).contains(&waited), "{waited:?}");
        drop(silent);
    }
}
