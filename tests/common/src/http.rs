//! An HTTP origin: answers as it is told, and keeps what it was asked.
//!
//! Over TCP, under TLS with HTTP/2 where the client likes, or on a Unix socket. While it is *held* requests are taken and not
//! answered, so that a test decides what happens meanwhile.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;

use super::eventually;
use super::redis::loopback;
use super::tls::{Issued, server_side};

pub struct HttpOrigin {
    state: Arc<State>,
    addr: Option<SocketAddr>,
    _end: oneshot::Sender<()>,
}

/// What it says.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    pub headers: Vec<(&'static str, String)>,
}

impl Answer {
    pub fn value(body: impl AsRef<[u8]>) -> Answer {
        Answer { status: 200, body: body.as_ref().to_vec(), headers: Vec::new() }
    }

    pub fn status(status: u16) -> Answer {
        Answer { status, ..Answer::value("what an error says") }
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Answer {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// A request as it was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub headers: HashMap<String, String>,
    pub version: Version,
}

type Rule = Box<dyn Fn(&str, usize) -> Answer + Send>;

struct State {
    rule: Mutex<Rule>,
    seen: Mutex<Vec<Seen>>,
    held: watch::Sender<bool>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

impl HttpOrigin {
    /// One that answers with a path's number of requests: `/a/b 1`, then `/a/b 2`.
    pub fn start() -> HttpOrigin {
        HttpOrigin::serve(None, None)
    }

    pub fn under_tls(own: &Issued) -> HttpOrigin {
        HttpOrigin::serve(Some(own), None)
    }

    pub fn at(path: &Path) -> HttpOrigin {
        HttpOrigin::serve(None, Some(path))
    }

    fn serve(own: Option<&Issued>, path: Option<&Path>) -> HttpOrigin {
        let rule: Rule = Box::new(|path, nth| Answer::value(format!("{path} {nth}")));
        let state = Arc::new(State {
            rule: Mutex::new(rule),
            seen: Mutex::default(),
            held: watch::Sender::new(false),
            under_way: AtomicUsize::default(),
            most_under_way: AtomicUsize::default(),
        });
        let acceptor = own.map(|own| {
            let mut config = (*server_side(own)).clone();
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            TlsAcceptor::from(Arc::new(config))
        });
        let (bound, is_bound) = std::sync::mpsc::sync_channel(1);
        let (end, ended) = oneshot::channel();
        let (shared, path) = (Arc::clone(&state), path.map(Path::to_owned));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let serve = async {
                    if let Some(path) = path {
                        let listener = UnixListener::bind(path).expect("a new path");
                        bound.send(None).expect("somebody waits for it");
                        loop {
                            let (stream, _) = listener.accept().await.expect("a bound listener accepts");
                            tokio::spawn(speak(stream, Arc::clone(&shared), false));
                        }
                    }
                    let listener = TcpListener::bind(loopback(0)).await.expect("a loopback port");
                    bound.send(Some(listener.local_addr().expect("bound"))).expect("somebody waits for it");
                    loop {
                        let (stream, _) = listener.accept().await.expect("a bound listener accepts");
                        let (state, acceptor) = (Arc::clone(&shared), acceptor.clone());
                        tokio::spawn(async move {
                            let Some(acceptor) = acceptor else { return speak(stream, state, false).await };
                            if let Ok(stream) = acceptor.accept(stream).await {
                                let is_second = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                                speak(stream, state, is_second).await;
                            }
                        });
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = ended => {}
                }
            });
        });
        HttpOrigin { state, addr: is_bound.recv().expect("it listens"), _end: end }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr.expect("it listens on TCP")
    }

    /// What it says from now on: of a path, and how often that was asked.
    pub fn says(&self, rule: impl Fn(&str, usize) -> Answer + Send + 'static) {
        *self.state.rule.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(rule);
    }

    /// From now on requests wait.
    pub fn hold(&self) {
        self.state.held.send_replace(true);
    }

    pub fn release(&self) {
        self.state.held.send_replace(false);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn count(&self) -> usize {
        self.seen().len()
    }

    /// How many it has had under way at once.
    pub fn most_under_way(&self) -> usize {
        self.state.most_under_way.load(Ordering::SeqCst)
    }

    #[track_caller]
    pub fn await_requests(&self, count: usize) {
        eventually(&format!("{count} requests come to the origin"), || self.count() >= count);
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<State>, is_second: bool) {
    let service = service_fn(move |request| answer(request, Arc::clone(&state)));
    let io = TokioIo::new(stream);
    // Where the client goes in the midst of it, that is what the test is about.
    if is_second {
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service).await;
    }
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    state: Arc<State>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path_and_query().expect("a path").to_string();
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let nth = {
        let mut seen = state.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(Seen { path: path.clone(), headers, version: request.version() });
        seen.iter().filter(|one| one.path == path).count()
    };
    let _under_way = UnderWay::begin(&state);
    let mut held = state.held.subscribe();
    held.wait_for(|held| !held).await.expect("the origin is there");
    let answer = (state.rule.lock().unwrap_or_else(PoisonError::into_inner))(&path, nth);
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(answer.body.into())).expect("a response"))
}

struct UnderWay<'a>(&'a State);

impl UnderWay<'_> {
    fn begin(state: &State) -> UnderWay<'_> {
        let count = state.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_under_way.fetch_max(count, Ordering::SeqCst);
        UnderWay(state)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}
