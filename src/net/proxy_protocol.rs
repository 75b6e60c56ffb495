//! The PROXY protocol, versions 1 and 2 (haproxy.org/download/3.0/doc/proxy-protocol.txt): a header ahead of all else, in which a
//! load balancer says whose connection it passes on.
//!
//! Reads no byte that stands behind the header. How long it may take to come, the caller says.

use std::io;
use std::net::SocketAddr;

use ppp::{HeaderResult, v1, v2};
use tokio::net::TcpStream;

/// How a header of version 1 begins.
const WORD: &[u8] = b"PROXY ";
/// How one of version 2 begins.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The bytes of version 2 up to its length.
const FIXED: usize = 16;
/// The longest of version 1, by the specification.
const LONGEST_LINE: usize = 107;
/// The longest of version 2 that is read. It could announce 64 KiB; what load balancers send are some hundred bytes.
const LONGEST: usize = 4096;

/// Why a connection is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    /// The other side closed without a word, as those do that look whether somebody listens; some by a reset.
    #[error("it closed without a word")]
    Silent,
    /// There is no header.
    #[error("it does not begin with a PROXY protocol header, and its address in `listen` says ?proxy=on")]
    Missing,
    /// There is one, and should not be.
    #[error("it begins with a PROXY protocol header, and its address in `listen` does not say ?proxy=on")]
    Unwanted,
    /// It did not come in time.
    #[error("its PROXY protocol header took too long")]
    Late,
    /// It is longer than one may be.
    #[error("its PROXY protocol header is too long")]
    Long,
    /// It cannot be read.
    #[error("its PROXY protocol header is malformed: {0}")]
    Malformed(String),
    /// The other side closed before it was whole.
    #[error("it closed in the middle of its PROXY protocol header")]
    Short,
    /// The connection broke.
    #[error(transparent)]
    Broken(#[from] io::Error),
}

/// What the first bytes of a connection could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// More bytes would tell.
    Unclear,
    /// A header.
    Header,
    /// Something else.
    Other,
}

/// What these first bytes are: to refuse a header where there must be none.
pub(crate) fn opening(bytes: &[u8]) -> Opening {
    let known = [WORD, SIGNATURE];
    if known.iter().any(|known| bytes.starts_with(known)) {
        Opening::Header
    } else if known.iter().any(|known| known.starts_with(bytes)) {
        Opening::Unclear
    } else {
        Opening::Other
    }
}

/// Reads the header, of which `header` was read. Gives the address from which the client connects; `None` where the load balancer
/// speaks for itself (`LOCAL`) or does not know (`UNKNOWN`). Cancel safe: what was read by then is in `header`.
pub(crate) async fn read_source(
    stream: &mut TcpStream,
    header: &mut Vec<u8>,
) -> Result<Option<SocketAddr>, HeaderError> {
    let mut seen = [0; 512];
    loop {
        let count = match stream.peek(&mut seen).await {
            Err(error) if header.is_empty() && error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(HeaderError::Silent);
            }
            peeked => peeked?,
        };
        if count == 0 {
            return Err(if header.is_empty() { HeaderError::Silent } else { HeaderError::Short });
        }
        let known = [&header[..], &seen[..count]].concat();
        let end = extent(&known)?;
        let wanted = end.unwrap_or(known.len()).saturating_sub(header.len());
        match stream.try_read(&mut seen[..wanted]) {
            Ok(read) => header.extend_from_slice(&seen[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if end.is_some_and(|end| end <= header.len()) {
            return source(header);
        }
    }
}

/// Where the header ends in these first bytes of a connection; `None` where all of them belong to it and more must come.
fn extent(bytes: &[u8]) -> Result<Option<usize>, HeaderError> {
    match (opening(bytes), bytes.first()) {
        (Opening::Other, _) => Err(HeaderError::Missing),
        (Opening::Unclear, _) => Ok(None),
        (Opening::Header, Some(b'P')) => match bytes.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n') {
            Some(end) => Ok(Some(end + 1)),
            None if bytes.len() >= LONGEST_LINE => Err(HeaderError::Long),
            None => Ok(None),
        },
        (Opening::Header, _) => {
            let Some(&[high, low]) = bytes.get(FIXED - 2..FIXED) else { return Ok(None) };
            let end = FIXED + usize::from(u16::from_be_bytes([high, low]));
            if end > LONGEST {
                return Err(HeaderError::Long);
            }
            Ok((bytes.len() >= end).then_some(end))
        }
    }
}

/// What a whole header says.
fn source(header: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Tcp4(from) => Some((from.source_address, from.source_port).into()),
            v1::Addresses::Tcp6(from) => Some((from.source_address, from.source_port).into()),
            v1::Addresses::Unknown => None,
        }),
        HeaderResult::V2(Ok(header)) => Ok(match (header.command, header.protocol, header.addresses) {
            (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv4(from)) => {
                Some((from.source_address, from.source_port).into())
            }
            (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv6(from)) => {
                Some((from.source_address, from.source_port).into())
            }
            _ => None, // itself, or no address of TCP: then the specification has the socket's stand
        }),
        HeaderResult::V1(Err(error)) if header.starts_with(WORD) => Err(HeaderError::Malformed(error.to_string())),
        HeaderResult::V1(Err(_)) => Err(HeaderError::Malformed("no version 2 that is known".to_owned())),
        HeaderResult::V2(Err(error)) => Err(HeaderError::Malformed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn version_2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).expect("short").to_be_bytes();
        [SIGNATURE, &[0x20 | command, family], &length, addresses].concat()
    }

    /// What a header says when it comes in these pieces, and what is left to read behind it.
    async fn read(pieces: &[&[u8]]) -> (Result<Option<SocketAddr>, HeaderError>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let send = async {
            let mut client = TcpStream::connect(address).await.expect("it listens");
            client.set_nodelay(true).expect("it is open");
            for piece in pieces {
                client.write_all(piece).await.expect("it is open");
                tokio::task::yield_now().await;
            }
            client.shutdown().await.ok();
            client
        };
        let (accepted, _client) = tokio::join!(listener.accept(), send);
        let mut stream = accepted.expect("somebody connects").0;
        let source = read_source(&mut stream, &mut Vec::new()).await;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.ok();
        (source, rest)
    }

    #[tokio::test]
    async fn a_header_says_where_a_client_comes_from_and_what_stands_behind_it_is_left() {
        let four = [10, 1, 2, 3, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];
        let six: Vec<u8> = [[0; 15].as_slice(), &[1], &[0; 15], &[2], &[0x1f, 0x90], &[0, 80]].concat();
        let named = [four.as_slice(), &[0x02, 0, 4], b"name"].concat();
        let cases: [(Vec<u8>, Option<&str>); 9] = [
            (b"PROXY TCP4 10.1.2.3 10.0.0.1 8080 80\r\n".to_vec(), Some("10.1.2.3:8080")),
            (b"PROXY TCP6 ::1 ::2 8080 80\r\n".to_vec(), Some("[::1]:8080")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:: ffff:: 65535 65535\r\n".to_vec(), None),
            (version_2(1, 0x11, &four), Some("10.1.2.3:8080")),
            (version_2(1, 0x21, &six), Some("[::1]:8080")),
            (version_2(1, 0x11, &named), Some("10.1.2.3:8080")),
            (version_2(0, 0x11, &four), None),
            (version_2(0, 0, &[]), None),
        ];
        for (header, from) in cases {
            let rest = b"PING\r\n";
            let whole = [header.as_slice(), rest].concat();
            let bytes: Vec<&[u8]> = whole.chunks(1).collect();
            for pieces in [vec![whole.as_slice()], vec![header.as_slice(), rest], bytes] {
                let (source, left) = read(&pieces).await;
                let shown = source.expect("a good header").map(|address| address.to_string());
                assert_eq!((shown.as_deref(), left.as_slice()), (from, rest.as_slice()));
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_or_a_bad_one_is_refused() {
        let long = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff], &[0; 600]].concat();
        let line = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 120]].concat();
        let cases: [(&[u8], &str); 10] = [
            (b"*1\r\n$4\r\nPING\r\n", "does not begin with"),
            (b"PROXIMITY\r\n", "does not begin with"),
            (b"", "closed without a word"),
            (b"PROXY TCP4 10.1.2.3", "in the middle"),
            (b"PROXY TCP4 10.1.2.3 10.0.0.1 8080\r\n", "malformed"),
            (b"PROXY UDP4 10.1.2.3 10.0.0.1 8080 80\r\n", "malformed"),
            (b"PROXY TCP4 10.1.2.3 10.0.0.1 8080 80\n", "malformed"),
            (&version_2(7, 0x11, &[0; 12]), "malformed"),
            (&long, "too long"),
            (&line, "too long"),
        ];
        for (bytes, said) in cases {
            let error = read(&[bytes]).await.0.expect_err(said).to_string();
            assert!(error.contains(said), "{error}");
        }
        let short = version_2(1, 0x11, &[0; 3]);
        assert!(read(&[&short]).await.0.expect_err("too short for its addresses").to_string().contains("malformed"));
        let other = [SIGNATURE, &[0x31, 0x11, 0, 0]].concat();
        assert!(read(&[&other]).await.0.expect_err("version 3").to_string().contains("malformed"));
    }

    #[test]
    fn the_first_bytes_tell() {
        assert_eq!(opening(b"PROXY TCP4 "), Opening::Header);
        assert_eq!(opening(b"\r\n\r\n\0\r\nQUIT\n\x21"), Opening::Header);
        for unclear in [&b""[..], b"P", b"PROXY", b"\r\n", b"\r\n\r\n\0\r\nQUIT"] {
            assert_eq!(opening(unclear), Opening::Unclear);
        }
        for other in [&b"PING\r\n"[..], b"PROXX", b"\r\nPING", b"*1\r\n", b"proxy "] {
            assert_eq!(opening(other), Opening::Other);
        }
    }
}
