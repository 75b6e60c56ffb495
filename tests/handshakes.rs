//! TLS handshakes in numbers, in pieces and again: sessions are resumed, nothing is left behind, and certificates change under load.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::tls::{Authority, client_side, client_side_in, path, secure_crema, secure_redis};
use common::{AT_LAST, Redis, eventually, is_installed, pack, resident};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

/// A connection under TLS, without a tunnel between.
struct Secure<S: Read + Write>(StreamOwned<ClientConnection, S>);

impl<S: Read + Write> Secure<S> {
    /// Of whatever is connected to crema already; shakes hands with the first request.
    fn over(socket: S, config: &Arc<ClientConfig>) -> Secure<S> {
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let session = ClientConnection::new(Arc::clone(config), name).expect("a sound configuration");
        Secure(StreamOwned::new(session, socket))
    }

    /// The reply to a command, of which the last line ends in this.
    fn ask_until(&mut self, words: &[&str], end: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(&pack(words))?;
        self.0.flush()?;
        let (mut reply, mut some) = (Vec::new(), [0; 4096]);
        while !reply.ends_with(end) {
            match self.0.read(&mut some)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => reply.extend(&some[..count]),
            }
        }
        Ok(reply)
    }

    /// The reply in one line.
    fn ask(&mut self, words: &[&str]) -> io::Result<String> {
        self.ask_until(words, b"\r\n").map(|reply| String::from_utf8_lossy(&reply).into_owned())
    }

    fn kind(&self) -> Option<HandshakeKind> {
        self.0.conn.handshake_kind()
    }
}

fn connected(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(AT_LAST))?;
    Ok(stream)
}

fn secure(addr: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Secure<TcpStream>> {
    Ok(Secure::over(connected(addr)?, config))
}

#[test]
fn who_comes_back_resumes_its_session_and_is_who_it_was() {
    let authority = Authority::new();
    let own = authority.issue("server", &["127.0.0.1"]);
    let (app, brief) =
        (authority.issue("app", &["client"]), authority.issue_for(Duration::from_secs(8), "brief", &["c"]));
    let redis = Redis::start();
    let mut file = tempfile::NamedTempFile::new().expect("a file of our own");
    file.write_all(b"auth = \"own\"\n[[user]]\nname = \"app\"\n[[user]]\nname = \"brief\"\n").expect("written");
    let more = [
        ("--tls-client-ca", path(&authority.ca())),
        ("--tls-client-auth", "required".to_owned()),
        ("--tls-client-user", "cn".to_owned()),
        ("--config", path(file.path())),
    ];
    let (crema, addr) = secure_crema(&format!("redis://{}", redis.addr()), &own, &more);
    for version in [&TLS12, &TLS13] {
        let config = client_side_in(&[version], &authority.ca(), Some(&app));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let mut client = secure(addr, &config).expect("it listens");
            assert_eq!(client.ask(&["SET", "k", "v"]).expect("served"), "+OK\r\n", "{version:?} {kind:?}");
            assert_eq!(client.kind(), Some(kind), "{version:?}");
        }
        // The ticket lives longer than the certificate that is in it, and is worth nothing then.
        let config = client_side_in(&[version], &authority.ca(), Some(&brief));
        let come = || secure(addr, &config).and_then(|mut client| client.ask(&["SET", "k", "v"]));
        eventually("its certificate expires", || come().is_err());
    }
    eventually("it is told", || crema.has_logged("its certificate has expired since its session began"));
}

#[test]
fn crema_resumes_its_sessions_with_redis() {
    let authority = Authority::new();
    let own = authority.issue("server", &["127.0.0.1"]);
    let (_redis, tls) = secure_redis(&authority, &own, &[]);
    let url = format!("rediss://{tls}?ca={}", path(&authority.ca()));
    let crema = common::Crema::over(tls).url(url).log("crema::net=debug").start();
    eventually("a later one is resumed", || {
        crema.client().cmd(&["SET", "k", "v"]);
        crema.client().cmd(&["BLPOP", "none", "0.01"]); // a connection of its own
        crema.has_logged("handshake=Some(Resumed)")
    });
    eventually("it is logged", || crema.has_logged("handshake=Some(Full"));
}

/// A client that sends and takes one byte at a time.
struct Drip(TcpStream);

impl Read for Drip {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(&mut buf[..1])
    }
}

impl Write for Drip {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(&buf[..1])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn records_come_a_byte_at_a_time() {
    let authority = Authority::new();
    let own = authority.issue("server", &["127.0.0.1"]);
    let redis = Redis::start();
    let (_crema, addr) = secure_crema(&format!("redis://{}", redis.addr()), &own, &[]);
    for version in [&TLS12, &TLS13] {
        let config = client_side_in(&[version], &authority.ca(), None);
        let mut client = Secure::over(Drip(connected(addr).expect("it listens")), &config);
        let value = "x".repeat(40_000);
        assert_eq!(client.ask(&["SET", "k", &value]).expect("served"), "+OK\r\n");
        let reply = client.ask_until(&["GET", "k"], b"x\r\n").expect("served");
        assert_eq!(reply, format!("$40000\r\n{value}\r\n").into_bytes());
    }
}

/// Who may begin anew in the middle of a session can make a server work, or slip in what another says (RFC 5746).
#[test]
fn renegotiation_is_refused() {
    let authority = Authority::new();
    let own = authority.issue("server", &["127.0.0.1"]);
    let redis = Redis::start();
    let (_crema, addr) = secure_crema(&format!("redis://{}", redis.addr()), &own, &[]);
    let mut command = Command::new("timeout");
    command.args(["30", "openssl", "s_client", "-tls1_2", "-connect", &addr.to_string()]);
    command
        .args(["-CAfile", &path(&authority.ca())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if !is_installed("openssl") {
        return;
    }
    let mut child = command.spawn().expect("a program of every system");
    let mut stdin = child.stdin.take().expect("piped"); // at whose end it would leave
    stdin.write_all(b"R\n").expect("it reads"); // its word for it
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
    let mut client = secure(addr, &client_side(&authority.ca(), None)).expect("it listens");
    assert_eq!(client.ask(&["SET", "k", "v"]).expect("served"), "+OK\r\n");
}

/// Whole ones, resumed ones, and such as end in the middle or are none.
#[test]
fn ten_thousand_handshakes_leave_nothing_behind() {
    let authority = Authority::new();
    let own = authority.issue("server", &["127.0.0.1"]);
    let redis = Redis::start();
    let (crema, addr) = secure_crema(&format!("redis://{}", redis.addr()), &own, &[]);
    let shared = client_side(&authority.ca(), None);
    let shake = |count: usize| {
        for n in 0..count {
            match n % 4 {
                0 | 1 => {
                    let config = if n % 4 == 0 { &client_side(&authority.ca(), None) } else { &shared };
                    let mut client = secure(addr, config).expect("it listens");
                    assert_eq!(client.ask(&["SET", "k", "v"]).expect("served"), "+OK\r\n");
                }
                2 => {
                    let mut hello = Vec::new();
                    let name = ServerName::try_from("127.0.0.1").expect("an address");
                    let mut session = ClientConnection::new(Arc::clone(&shared), name).expect("sound");
                    session.write_tls(&mut hello).expect("into memory");
                    let cut = if n % 8 == 2 { hello.len() } else { hello.len() / 2 };
                    connected(addr).expect("it listens").write_all(&hello[..cut]).expect("it is open");
                }
                _ => connected(addr).expect("it listens").write_all(b"PING\r\n").expect("it is open"),
            }
        }
    };
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", crema.pid())).expect("it lives").count();
    let settled = || eventually("all have left", || crema.count("crema_sessions", &[]) == 0);
    shake(2_000);
    settled();
    let before = (descriptors(), resident(crema.pid()));
    thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(|| shake(4_000)))));
    settled();
    eventually("no descriptor is left", || descriptors() <= before.0);
    let grown = resident(crema.pid()).saturating_sub(before.1) >> 10;
    assert!(grown < 4096, "{grown} KiB more");
}

#[test]
fn certificates_change_under_load_and_no_client_notices() {
    let authority = Authority::new();
    let renew = || authority.issue("server", &["127.0.0.1"]);
    let redis = Redis::start();
    let (crema, addr) = secure_crema(&format!("redis://{}", redis.addr()), &renew(), &[]);
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let config = client_side(&authority.ca(), None);
    let come_and_go = || {
        let mut stays = secure(addr, &config).expect("it listens");
        while !over.load(Ordering::Relaxed) {
            let mut goes = secure(addr, &config).expect("it listens");
            for client in [&mut stays, &mut goes] {
                assert_eq!(client.ask(&["SET", "k", "v"]).expect("served"), "+OK\r\n");
            }
            served.fetch_add(1, Ordering::Relaxed);
        }
    };
    let exchanged = || crema.log().matches("certificates were read anew; new connections use them").count();
    thread::scope(|scope| {
        (0..3).for_each(|_| drop(scope.spawn(come_and_go)));
        for round in 0..4 {
            let (before, known) = (served.load(Ordering::Relaxed), exchanged());
            renew();
            if round % 2 == 0 {
                crema.signal(rustix::process::Signal::HUP);
            }
            eventually("the new one is in use", || exchanged() > known);
            eventually("clients come all the time", || served.load(Ordering::Relaxed) > before + 10);
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(crema.count("crema_tls_handshakes_failed_total", &[]), 0);
}
