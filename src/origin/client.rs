//! Asks one origin over HTTP/1.1 or 2, over connections that are kept for the next: hyper's pooled client over crema's own streams.
//!
//! A request is a GET without a body and goes where the rule says, whatever a response says: redirects are not followed. A
//! value is read up to `max_value`, and all of it within the time that is given. Runs beside the workers.

use std::error::Error as _;
use std::fmt::Write as _;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Uri, header};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tower_service::Service;

use super::fetched::{Fetched, ResponseKind, kind_of, stays};
use crate::config::{Endpoint, OriginRule, show_size};
use crate::net::tls::{Dialer, FileError};
use crate::net::{Socket, dial};

/// A connection that nobody used for so long is closed.
const IDLE: Duration = Duration::from_secs(30);

/// A connection of HTTP/2 with requests under way is asked so often whether it is alive, and closed when no answer comes in time: or it
/// would take request after request that nobody hears.
const PING: Duration = Duration::from_secs(5);
const PONG: Duration = Duration::from_secs(3);

/// Connections that are kept though nobody uses them, at most.
const MOST_IDLE: usize = 64;

/// See the module's head. A clone uses the same connections.
#[derive(Clone)]
pub(super) struct HttpClient {
    client: Client<Connector, Empty<Bytes>>,
    rule: Arc<OriginRule>,
}

impl HttpClient {
    /// Of the origin of this rule. Fails where a certificate cannot be read.
    pub(super) fn new(rule: &Arc<OriginRule>) -> Result<Self, FileError> {
        let dialer = rule.tls.as_ref().map(Dialer::new).transpose()?.map(Arc::new);
        let connector = Connector { endpoint: rule.url.endpoint().clone(), dialer };
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).timer(TokioTimer::new());
        builder.http2_keep_alive_interval(PING).http2_keep_alive_timeout(PONG);
        builder.pool_idle_timeout(IDLE).pool_max_idle_per_host(MOST_IDLE.min(rule.max_concurrent));
        Ok(Self { client: builder.build(connector), rule: Arc::clone(rule) })
    }

    /// What the origin has at `url`, which is one of the rule's. Cancel safe: the request is given up.
    pub(super) async fn fetch(&self, url: &str, longest: Duration) -> Fetched {
        match timeout(longest, self.ask(url)).await {
            Ok(Ok(fetched)) => fetched,
            Ok(Err(why)) => Fetched::Failed(why.into()),
            Err(_) => Fetched::Failed("the origin gave no answer in time".into()),
        }
    }

    async fn ask(&self, url: &str) -> Result<Fetched, String> {
        let mut request = Request::get(url).header(header::ACCEPT, "*/*").header(header::USER_AGENT, AGENT);
        let headers = request.headers_mut().ok_or("the URL is none")?;
        for (name, value) in &self.rule.headers {
            headers.insert(name, value.clone());
        }
        let request = request.body(Empty::new()).map_err(|_| "the URL is none".to_owned())?;
        let response = self.client.request(request).await.map_err(|error| reason(&error))?;
        let (head, body) = response.into_parts();
        match kind_of(head.status, &head.headers) {
            ResponseKind::Missing => return Ok(Fetched::Missing),
            ResponseKind::Failed(why) => return Err(why),
            ResponseKind::Value => {}
        }
        let limit = usize::try_from(self.rule.max_value).unwrap_or(usize::MAX);
        let value = Limited::new(body, limit).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return format!("the origin's value is larger than {}", show_size(self.rule.max_value));
            }
            format!("the origin's response broke off: {error}")
        })?;
        let stays = if self.rule.respect { stays(&head.headers) } else { None };
        Ok(Fetched::Value { value: value.to_bytes(), stays })
    }
}

/// How crema calls itself where the settings say nothing.
const AGENT: &str = concat!("crema/", env!("CARGO_PKG_VERSION"));

/// Why there was no response, with what led to it.
fn reason(error: &legacy::Error) -> String {
    let mut text = "the origin cannot be asked".to_owned();
    let mut cause = error.source();
    while let Some(error) = cause {
        _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// Connects to the one place to which a rule leads, whatever the URL says.
#[derive(Clone)]
struct Connector {
    endpoint: Endpoint,
    dialer: Option<Arc<Dialer>>,
}

impl Connector {
    async fn connect(self) -> io::Result<OriginStream> {
        let socket = match &self.endpoint {
            Endpoint::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
            Endpoint::Tcp { host, port } => {
                let socket = Socket::upstream(dial(host, *port).await?);
                match &self.dialer {
                    Some(dialer) => socket.secure(dialer, host).await?,
                    None => socket,
                }
            }
        };
        Ok(OriginStream(TokioIo::new(socket)))
    }
}

impl Service<Uri> for Connector {
    type Response = OriginStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<OriginStream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// A connection to an origin, as hyper uses it.
struct OriginStream(TokioIo<Socket>);

impl Connection for OriginStream {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if self.0.inner().speaks_http2() { connected.negotiated_h2() } else { connected }
    }
}

impl Read for OriginStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for OriginStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
