//! Certificates of a test's own, and tunnels that carry plain connections through TLS.
//!
//! A [`Tunnel`] lets every client and every server of these tests be used where TLS is spoken, as it is.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ALL_VERSIONS, ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, crypto};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::redis::{free_port, loopback};
use super::{Client, Crema, Redis};

/// A Redis that speaks TLS as well, at the second address.
pub fn secure_redis(authority: &Authority, own: &Issued, more: &[&str]) -> (Redis, SocketAddr) {
    let port = free_port();
    let (cert, key, ca) = (path(&own.cert), path(&own.key), path(&authority.ca()));
    let port_text = port.to_string();
    let mut args = vec!["--tls-port", &port_text, "--tls-cert-file", &cert, "--tls-key-file", &key];
    args.extend(["--tls-ca-cert-file", &ca]);
    if more.is_empty() {
        args.extend(["--tls-auth-clients", "no"]);
    }
    args.extend(more);
    (Redis::with(&args), loopback(port))
}

/// As a flag or an option of a URL has it.
pub fn path(path: &Path) -> String {
    path.display().to_string()
}

/// A crema that speaks TLS on both sides, and where.
pub fn secure_crema(upstream: &str, own: &Issued, more: &[(&str, String)]) -> (Crema, SocketAddr) {
    let addr = loopback(free_port());
    let mut launch = Crema::over(addr).url(upstream.to_owned()).flag("--tls-cert", path(&own.cert));
    launch = launch.flag("--tls-key", path(&own.key));
    for (flag, value) in more {
        launch = launch.flag(flag, value);
    }
    (launch.also_under_tls(addr).start(), addr)
}

/// A session over TLS, with what carries it.
pub fn through(addr: SocketAddr, ca: &Path, own: Option<&Issued>) -> (Client, Tunnel) {
    let tunnel = Tunnel::into(addr, client_side(ca, own));
    (Client::connect(tunnel.addr()), tunnel)
}

/// Who signs certificates, with the directory that holds them.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: TempDir,
}

/// A certificate and its key, as PEM files.
pub struct Issued {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "crema's tests");
        let certificate = params.self_signed(&key).expect("signed by itself");
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).expect("our own directory");
        Authority { issuer: Issuer::new(params, key), directory }
    }

    /// The one that tunnels use.
    pub fn of_tunnels() -> &'static Authority {
        static ONE: OnceLock<Authority> = OnceLock::new();
        ONE.get_or_init(Authority::new)
    }

    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A certificate for these host names and addresses.
    pub fn issue(&self, file: &str, names: &[&str]) -> Issued {
        self.issue_with(file, names, |_| ())
    }

    /// One that ended long ago.
    pub fn issue_expired(&self, file: &str, names: &[&str]) -> Issued {
        self.issue_with(file, names, |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        })
    }

    /// One that ends with this year.
    pub fn issue_until(&self, year: i32, file: &str, names: &[&str]) -> Issued {
        self.issue_with(file, names, |params| params.not_after = date_time_ymd(year + 1, 1, 1))
    }

    /// One that ends so soon.
    pub fn issue_for(&self, time: Duration, file: &str, names: &[&str]) -> Issued {
        #[expect(clippy::disallowed_methods, reason = "a certificate has dates")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later");
        self.issue_with(file, names, |params| params.not_after = date_time_ymd(1970, 1, 1) + (now + time))
    }

    fn issue_with(&self, file: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names that a certificate can have");
        params.distinguished_name.push(DnType::CommonName, file);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let path = |end: &str| self.directory.path().join(format!("{file}.{end}"));
        let issued = Issued { cert: path("crt"), key: path("key") };
        // In one step each: they are read again and again.
        for (path, text) in [(&issued.key, key.serialize_pem()), (&issued.cert, certificate.pem())] {
            std::fs::write(path.with_extension("new"), text).expect("our own directory");
            std::fs::rename(path.with_extension("new"), path).expect("our own directory");
        }
        issued
    }
}

fn provider() -> Arc<crypto::CryptoProvider> {
    Arc::new(crypto::ring::default_provider())
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).expect("a file").map(|one| one.expect("a certificate")).collect()
}

/// A client's side of TLS that believes `ca`, and shows `own` where it is asked.
pub fn client_side(ca: &Path, own: Option<&Issued>) -> Arc<ClientConfig> {
    client_side_in(ALL_VERSIONS, ca, own)
}

/// The same in these versions alone.
pub fn client_side_in(
    versions: &[&'static SupportedProtocolVersion],
    ca: &Path,
    own: Option<&Issued>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(ca));
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions);
    let builder = builder.expect("versions").with_root_certificates(roots);
    Arc::new(match own {
        Some(own) => {
            let key = PrivateKeyDer::from_pem_file(&own.key).expect("a key");
            builder.with_client_auth_cert(certificates(&own.cert), key).expect("they belong together")
        }
        None => builder.with_no_client_auth(),
    })
}

pub fn server_side(own: &Issued) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let key = PrivateKeyDer::from_pem_file(&own.key).expect("a key");
    let config = builder.expect("versions").with_no_client_auth().with_single_cert(certificates(&own.cert), key);
    Arc::new(config.expect("they belong together"))
}

/// A forwarder on a port of its own; ends when dropped.
pub struct Tunnel {
    port: u16,
    _end: oneshot::Sender<()>,
}

#[derive(Clone)]
enum Mouth {
    /// Plain in, TLS out, with these bytes ahead of it.
    In(Arc<ClientConfig>, &'static [u8]),
    /// TLS in, plain out.
    Out(Arc<ServerConfig>),
}

impl Tunnel {
    /// Carries plain connections to a server that speaks TLS.
    pub fn into(target: SocketAddr, config: Arc<ClientConfig>) -> Tunnel {
        Tunnel::new(target, Mouth::In(config, b""))
    }

    /// The same, with these bytes ahead of the handshake.
    pub fn behind(first: &'static [u8], target: SocketAddr, config: Arc<ClientConfig>) -> Tunnel {
        Tunnel::new(target, Mouth::In(config, first))
    }

    /// Carries connections under TLS to a server that speaks plain text.
    pub fn out_to(target: SocketAddr, own: &Issued) -> Tunnel {
        Tunnel::new(target, Mouth::Out(server_side(own)))
    }

    fn new(target: SocketAddr, mouth: Mouth) -> Tunnel {
        let (port, bound) = std::sync::mpsc::sync_channel(1);
        let (end, ended) = oneshot::channel();
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::bind(loopback(0)).await.expect("a loopback port");
                port.send(listener.local_addr().expect("a bound listener").port()).expect("somebody waits for it");
                let accept = async {
                    loop {
                        let (client, _) = listener.accept().await.expect("a bound listener accepts");
                        tokio::spawn(carry(client, target, mouth.clone()));
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = ended => {}
                }
            });
        });
        Tunnel { port: bound.recv().expect("it listens"), _end: end }
    }

    pub fn addr(&self) -> SocketAddr {
        loopback(self.port)
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr, mouth: Mouth) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut server = TcpStream::connect(target).await?;
    server.set_nodelay(true)?;
    match mouth {
        Mouth::In(config, first) => {
            server.write_all(first).await?;
            let name = ServerName::IpAddress(target.ip().into());
            let mut server = TlsConnector::from(config).connect(name, server).await?;
            copy_bidirectional(&mut client, &mut server).await?;
        }
        Mouth::Out(config) => {
            let mut client = TlsAcceptor::from(config).accept(client).await?;
            copy_bidirectional(&mut client, &mut server).await?;
        }
    }
    Ok(())
}
