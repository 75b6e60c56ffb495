//! A crema asked from outside whether it is ready, by its admin port: what `crema healthcheck` does, for containers and scripts.
//!
//! A process of its own that asks once; called by `main`.

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::time::timeout;

/// After this it counts as not ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer that is read, in bytes.
const LONGEST: usize = 64 * 1024;

/// What `/readyz` says at the admin port of the crema that has these settings: `Ok` where it is ready, else why it is not, or why that
/// cannot be told. Takes five seconds at most.
pub fn readiness(admin: SocketAddr) -> Result<String, String> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let address = reachable(admin);
    let silent = |_| Err(format!("http://{address} has said nothing for {PATIENCE:?}"));
    runtime.block_on(async { timeout(PATIENCE, ask(address)).await.unwrap_or_else(silent) })
}

async fn ask(address: SocketAddr) -> Result<String, String> {
    let failed = |error: &dyn Display| format!("http://{address}: {error}");
    let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    tokio::spawn(connection); // ends with the runtime, right after the answer
    let request = Request::get("/readyz").header(header::HOST, address.to_string()).body(Empty::<Bytes>::new());
    let request = request.expect("a path and an address are a good request");
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let ready = response.status().is_success();
    let body = Limited::new(response.into_body(), LONGEST).collect().await.map_err(|error| failed(&error))?;
    let said = String::from_utf8_lossy(&body.to_bytes()).trim_end().to_owned();
    if ready { Ok(said) } else { Err(said) }
}

/// Who listens on all addresses is found on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        _ => return address,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_asked_on_loopback() {
        for (listens, asked) in [
            ("0.0.0.0:9380", "127.0.0.1:9380"),
            ("[::]:9380", "[::1]:9380"),
            ("10.0.0.1:9380", "10.0.0.1:9380"),
            ("[fe80::1]:9380", "[fe80::1]:9380"),
        ] {
            let parsed = |text: &str| text.parse::<SocketAddr>().expect("an address");
            assert_eq!(reachable(parsed(listens)), parsed(asked));
        }
    }
}
