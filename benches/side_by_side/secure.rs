//! Under TLS, beside a Redis that speaks it itself: a hit, a connection with a whole handshake or a resumed one, and an idle client.
//!
//! Both have the same certificate, and the same generator asks both in turn.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, crypto};

use super::cpu::Cores;
use super::goals::Goal;
use super::load::{Ask, Load};
use super::memory::Table;
use super::peers::Peer;
use super::speed::{Field, HITS, Row, measure, median};

/// What a run found.
pub(crate) struct Secured {
    pub(crate) rows: Vec<Row>,
    pub(crate) connections: Table,
}

/// The files of a server, and what its clients believe.
pub(crate) struct Certificates {
    dir: TempDir,
    pub(crate) clients: Arc<ClientConfig>,
}

impl Certificates {
    fn new() -> Self {
        let (ca_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let mut ca = CertificateParams::new(Vec::new()).expect("no names");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = ca.self_signed(&ca_key).expect("signed by itself");
        let own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
        let own = own.signed_by(&key, &Issuer::new(ca, ca_key)).expect("signed");
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in [("ca.pem", root.pem()), ("cert.pem", own.pem()), ("key.pem", key.serialize_pem())] {
            std::fs::write(dir.path().join(name), text).expect("a directory of our own");
        }
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).expect("a certificate");
        let provider = Arc::new(crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let clients = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
        Self { dir, clients: Arc::new(clients) }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

pub(crate) fn run(field: &Field, quick: bool, rounds: usize, span: Duration) -> Secured {
    let certificates = Certificates::new();
    let redis = Peer::redis_under_tls("Redis", &certificates);
    super::load::seed(&redis);
    let crema = Peer::crema_under_tls(HITS, &field.redis, &certificates);
    let peers = [&redis, &crema];
    let rows = [1, 16, 64].map(|depth| {
        eprintln!("GET under TLS, P={depth}");
        measure(&peers, &field.redis, &Load::new(Ask::Get, depth), rounds, span)
    });
    eprintln!("handshakes");
    let idle = if quick { 500 } else { 2000 };
    let mut whole = ClientConfig::clone(&certificates.clients);
    whole.resumption = Resumption::disabled();
    let connections = Table {
        columns: peers.iter().map(|peer| peer.name).collect(),
        rows: vec![
            (WHOLE, handshakes(&peers, &Arc::new(whole), HandshakeKind::Full, rounds, span)),
            (RESUMED, handshakes(&peers, &certificates.clients, HandshakeKind::Resumed, rounds, span)),
            (
                "an idle client, bytes",
                peers.iter().map(|peer| idle_client(peer, &certificates.clients, idle)).collect(),
            ),
        ],
    };
    Secured { rows: rows.into(), connections }
}

const WHOLE: &str = "a connection with a whole handshake and one GET, µs of CPU";
const RESUMED: &str = "the same, resumed";

impl Secured {
    pub(crate) fn goals(&self) -> Vec<Goal> {
        let hits = self.rows.iter().filter_map(|row| {
            let text = format!("hit by Redis's own GET, both under TLS, P={}", row.load.depth);
            Some(Goal { text, limit: 0.8, figure: row.ratio(HITS, "Redis")? })
        });
        let connections = self.connections.rows.iter().filter(|(name, _)| [WHOLE, RESUMED].contains(name));
        let connections = connections.map(|(name, figures)| Goal {
            text: format!("{name}, by Redis's"),
            limit: 1.0,
            figure: figures[1] / figures[0],
        });
        hits.chain(connections).collect()
    }
}

fn connect(peer: &Peer, config: &Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let session = ClientConnection::new(Arc::clone(config), name).expect("a sound configuration");
    let port = peer.secure.as_ref().expect("a peer under TLS").port;
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the peer listens");
    socket.set_nodelay(true).expect("TCP has this option");
    let mut stream = StreamOwned::new(session, socket);
    stream.write_all(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n").expect("the peer reads");
    stream.read_exact(&mut [0; 5]).expect("the peer answers");
    stream
}

/// Microseconds of processor time for a connection, of each peer.
fn handshakes(
    peers: &[&Peer],
    config: &Arc<ClientConfig>,
    kind: HandshakeKind,
    rounds: usize,
    span: Duration,
) -> Vec<f64> {
    let mut figures = vec![Vec::new(); peers.len()];
    for round in 0..rounds {
        for turn in 0..peers.len() {
            let at = (turn + round) % peers.len();
            let peer = peers[at];
            peer.place(Cores::First);
            drop(connect(peer, config)); // whose ticket the next one has: peers do not know each other's
            let (before, until, mut count) = (peer.spent(), Instant::now() + span, 0);
            while Instant::now() < until {
                let stream = connect(peer, config);
                assert_eq!(stream.conn.handshake_kind(), Some(kind), "{}", peer.name);
                count += 1;
            }
            figures[at].push(peer.spent().saturating_sub(before).as_secs_f64() * 1e6 / f64::from(count));
        }
    }
    figures.iter().map(|figures| median(figures)).collect()
}

/// As of a plain one in `memory`.
fn idle_client(peer: &Peer, config: &Arc<ClientConfig>, count: u32) -> f64 {
    let _first: Vec<_> = (0..100).map(|_| connect(peer, config)).collect();
    std::thread::sleep(Duration::from_secs(2));
    let before = peer.memory();
    let _streams: Vec<_> = (0..count).map(|_| connect(peer, config)).collect();
    std::thread::sleep(Duration::from_secs(4));
    (peer.memory() as f64 - before as f64) / f64::from(count)
}
