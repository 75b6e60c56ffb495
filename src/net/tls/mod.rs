//! TLS on both sides, by rustls with ring: what crema shows of itself, and whom it believes.
//!
//! [`Dialer`] speaks to the upstream, [`Acceptor`] to clients. Both read their certificates anew when a file has changed, without a
//! restart; a bad file keeps the old ones and says so. TLS 1.2 and 1.3; renegotiation is not there in rustls, and sessions are
//! resumed by tickets, on both sides. Handshakes have no deadline here: who waits for one sets it.

mod certificate;
mod files;
mod problem;
mod verifier;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::server::{self, WebPkiClientVerifier};
use tokio_rustls::rustls::{ClientConfig, HandshakeKind, ServerConfig, crypto};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsConnector, TlsStream};
use tracing::debug;

pub(super) use self::certificate::common_name;
use self::certificate::has_ended;
pub(crate) use self::files::FileError;
use self::files::{Reloading, read_chain, read_key, read_roots};
use self::verifier::{Lenient, system_roots};

/// A certificate with the chain that leads to its authority, and its private key, each a PEM file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The certificate first, then those that signed it.
    pub cert: PathBuf,
    /// Its key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// How much of the upstream's certificate must be right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verify {
    /// A known authority signed it, for this name.
    #[default]
    Full,
    /// A known authority signed it, for whatever name.
    Chain,
    /// Anything will do: whoever sits on the way can read and change all.
    No,
}

/// Settings of TLS to the upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DialerSettings {
    /// The authorities that are believed, a PEM file; `None` for the system's.
    pub ca: Option<PathBuf>,
    /// What crema shows where the server asks for a certificate.
    pub own: Option<Credentials>,
    /// The name that is asked for and that the certificate must have, where it is not the host.
    pub sni: Option<String>,
    /// How strictly it is looked at.
    pub verify: Verify,
    /// Whether it is spoken to in HTTP, of version 2 where it likes.
    pub http: bool,
}

/// Whether clients must show certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked for one.
    #[default]
    None,
    /// Who shows one must show one that is signed by `client_ca`.
    Optional,
    /// As that, and who shows none is refused.
    Required,
}

/// Settings of TLS to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptorSettings {
    /// What clients are shown.
    pub own: Credentials,
    /// Who signs their certificates, a PEM file. There where they are asked for one.
    pub client_ca: Option<PathBuf>,
    /// Whether they are.
    pub clients: ClientCertificates,
}

/// Makes TLS connections to the upstream. Shared by all threads.
pub(crate) struct Dialer {
    sni: Option<ServerName<'static>>,
    config: Reloading<ClientConfig>,
}

impl Dialer {
    /// Reads the files. Fails where one cannot be read or used.
    pub(crate) fn new(settings: &DialerSettings) -> Result<Self, FileError> {
        let sni =
            settings.sni.clone().map(|name| ServerName::try_from(name.clone()).map_err(|_| FileError::Name(name)));
        let own = settings.own.iter().flat_map(|own| [own.cert.clone(), own.key.clone()]);
        let watched = settings.ca.iter().cloned().chain(own).collect();
        let settings = settings.clone();
        Ok(Self { sni: sni.transpose()?, config: Reloading::new(watched, move || client_config(&settings))? })
    }

    /// Shakes hands with the server at `host`. Fails with words for an operator. Cancel safe: the connection is dropped.
    pub(crate) async fn connect(&self, stream: TcpStream, host: &str) -> io::Result<TlsStream<TcpStream>> {
        let name = match &self.sni {
            Some(name) => name.clone(),
            None => server_name(host).ok_or_else(|| {
                let why = format!("`{host}` is no name that a certificate can have: give one with ?sni=NAME");
                io::Error::new(io::ErrorKind::InvalidInput, why)
            })?,
        };
        let connector = TlsConnector::from(self.config.get());
        let stream = connector.connect(name, stream).await.map_err(problem::of_server)?;
        let (_, session) = stream.get_ref();
        debug!(version = ?session.protocol_version(), handshake = ?session.handshake_kind(), "TLS with the upstream");
        Ok(stream.into())
    }

    /// Reads the files, changed or not.
    pub(crate) fn read_anew(&self) {
        self.config.read_anew();
    }

    /// When the certificate that crema shows ends, in seconds since 1970; `None` where it shows none.
    pub(crate) fn expires(&self) -> Option<i64> {
        self.config.expires()
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}

/// Takes TLS connections of clients. Shared by all threads.
pub(crate) struct Acceptor {
    config: Reloading<ServerConfig>,
    seats: Semaphore,
}

/// A client that has sent its first message, and waits for what it is answered.
pub(crate) struct ClientHello(StartHandshake<TcpStream>);

/// Handshakes of clients that may be under way at once, for the sake of the memory that they hold. What they cost is bounded by
/// the pace at which workers take them.
const SEATS: usize = 512;

impl Acceptor {
    /// Reads the files. Fails where one cannot be read or used.
    pub(crate) fn new(settings: &AcceptorSettings) -> Result<Self, FileError> {
        let AcceptorSettings { own, client_ca, .. } = settings.clone();
        let watched = [own.cert, own.key].into_iter().chain(client_ca).collect();
        let settings = settings.clone();
        let config = Reloading::new(watched, move || server_config(&settings))?;
        Ok(Self { config, seats: Semaphore::new(SEATS) })
    }

    /// Reads a client's first message. It takes no seat: one who does not send it whole keeps nobody else out. Fails with words
    /// for an operator. Cancel safe: the connection is dropped.
    pub(crate) async fn hello(stream: TcpStream) -> io::Result<ClientHello> {
        let hello = LazyConfigAcceptor::new(server::Acceptor::default(), stream).await;
        hello.map(ClientHello).map_err(problem::of_client)
    }

    /// Waits for others to be done where many shake hands. To be held until [`Acceptor::accept`] is. Cancel safe; who comes first
    /// is first.
    pub(crate) async fn seat(&self) -> SemaphorePermit<'_> {
        self.seats.acquire().await.expect("it is never closed")
    }

    /// Shakes hands with a client. Fails with words for an operator. Cancel safe: the connection is dropped.
    pub(crate) async fn accept(&self, hello: ClientHello) -> io::Result<TlsStream<TcpStream>> {
        let stream = hello.0.into_stream(self.config.get()).await.map_err(problem::of_client)?;
        let (_, session) = stream.get_ref();
        // A ticket holds the certificate that was looked at when it was made.
        if session.handshake_kind() == Some(HandshakeKind::Resumed)
            && session.peer_certificates().and_then(<[_]>::first).is_some_and(has_ended)
        {
            let why = "its certificate has expired since its session began";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(stream.into())
    }

    /// Reads the files, changed or not.
    pub(crate) fn read_anew(&self) {
        self.config.read_anew();
    }

    /// When the certificate that clients are shown ends, in seconds since 1970.
    pub(crate) fn expires(&self) -> Option<i64> {
        self.config.expires()
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}

/// An error of reading in the words of [`Dialer::connect`]: in TLS 1.3 a server says what it thinks of a certificate behind the
/// handshake.
pub(super) fn explained(stream: &TlsStream<TcpStream>, error: io::Error) -> io::Error {
    match stream {
        TlsStream::Client(_) => problem::of_server(error),
        TlsStream::Server(_) => problem::of_client(error),
    }
}

/// A host as a certificate names it: an address without the zone that only this machine knows.
fn server_name(host: &str) -> Option<ServerName<'static>> {
    let plain = host.split_once('%').map_or(host, |(address, _zone)| address);
    match plain.parse::<IpAddr>() {
        Ok(address) => Some(ServerName::IpAddress(address.into())),
        Err(_) => ServerName::try_from(host.to_owned()).ok(),
    }
}

fn provider() -> Arc<crypto::CryptoProvider> {
    Arc::new(crypto::ring::default_provider())
}

fn client_config(settings: &DialerSettings) -> Result<(ClientConfig, Option<i64>), FileError> {
    let (mut config, expires) = plain_client_config(settings)?;
    if settings.http {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    Ok((config, expires))
}

fn plain_client_config(settings: &DialerSettings) -> Result<(ClientConfig, Option<i64>), FileError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let roots = || settings.ca.as_deref().map_or_else(system_roots, read_roots);
    let builder = match settings.verify {
        Verify::Full => builder.with_root_certificates(roots()?),
        Verify::Chain => builder.dangerous().with_custom_certificate_verifier(Arc::new(Lenient::chain(roots()?)?)),
        Verify::No => builder.dangerous().with_custom_certificate_verifier(Arc::new(Lenient::nothing())),
    };
    let Some(own) = &settings.own else { return Ok((builder.with_no_client_auth(), None)) };
    let (chain, expires) = read_chain(&own.cert)?;
    let config = builder.with_client_auth_cert(chain, read_key(&own.key)?).map_err(|error| own.unfit(error))?;
    Ok((config, expires))
}

fn server_config(settings: &AcceptorSettings) -> Result<(ServerConfig, Option<i64>), FileError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match (settings.clients, &settings.client_ca) {
        (ClientCertificates::None, _) | (_, None) => builder.with_no_client_auth(),
        (clients, Some(ca)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(read_roots(ca)?), provider());
            let verifier =
                if clients == ClientCertificates::Optional { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build().map_err(|_| FileError::NoCertificate(ca.clone()))?)
        }
    };
    let (chain, expires) = read_chain(&settings.own.cert)?;
    let key = read_key(&settings.own.key)?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| settings.own.unfit(error))?;
    config.ticketer = crypto::ring::Ticketer::new()?;
    Ok((config, expires))
}

impl Credentials {
    fn unfit(&self, source: tokio_rustls::rustls::Error) -> FileError {
        FileError::Unfit { cert: self.cert.clone(), key: self.key.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address() {
        let shown = |host: &str| server_name(host).map(|name| name.to_str().into_owned());
        assert_eq!(shown("cache.example.org").as_deref(), Some("cache.example.org"));
        assert_eq!(shown("10.0.0.1").as_deref(), Some("10.0.0.1"));
        assert_eq!(shown("fe80::1%eth0").as_deref(), Some("fe80::1"));
        assert_eq!(shown("under score!"), None);
    }
}
