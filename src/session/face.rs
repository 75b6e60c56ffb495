//! What clients see of a cluster: one server, with all slots.
//!
//! Programs that know no clusters are told of none: HELLO and INFO say `standalone`, or some libraries would refuse by themselves
//! commands that crema carries out. Programs that know clusters ask for slots all the same, and find all of them here, at the address
//! at which they came or at `cluster_announce`. Under `cluster_view = "cluster"` HELLO and INFO say what the node says.
//!
//! Pure functions on bytes; `spread` asks the front where it takes one.

use std::net::SocketAddr;

use ring::digest::{SHA256, digest};

use crate::command::{HashSlot, Portrait};
use crate::config::Endpoint;
use crate::resp::{Request, Resp, encode, is_error, text_of};

/// Where a client finds crema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShownAddress {
    host: String,
    port: u16,
}

impl ShownAddress {
    /// What the settings announce, else where this client came: `local` as the system prints it. Who came over a Unix socket is shown
    /// the loopback's.
    pub(super) fn of(announce: Option<&Endpoint>, local: &str) -> Self {
        if let Some(Endpoint::Tcp { host, port }) = announce {
            return Self { host: host.clone(), port: *port };
        }
        let local = local.parse::<SocketAddr>();
        local.map_or_else(
            |_| Self { host: "127.0.0.1".into(), port: 6379 },
            |local| Self { host: local.ip().to_canonical().to_string(), port: local.port() },
        )
    }

    /// An id of forty hexadecimal digits, the same wherever this address is shown.
    fn id(&self, of: &str) -> String {
        let digest = digest(&SHA256, format!("{of} {}:{}", self.host, self.port).as_bytes());
        digest.as_ref().iter().take(20).fold(String::new(), |id, byte| id + &format!("{byte:02x}"))
    }

    fn node_id(&self) -> String {
        self.id("crema node")
    }
}

/// What crema says by itself of a cluster; none where the front's answer is needed for it.
pub(super) fn shown(portrait: Portrait, at: &ShownAddress, request: Request<'_>, resp: Resp) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match portrait {
        Portrait::Slots => slots(&mut out, at, resp),
        Portrait::Shards => shards(&mut out, at, resp),
        Portrait::Nodes => {
            let ShownAddress { host, port } = at;
            let line = format!("{} {host}:{port}@0 myself,master - 0 0 1 connected 0-{LAST_SLOT}\n", at.node_id());
            text(&mut out, line.as_bytes(), resp);
        }
        Portrait::MyId => encode::bulk(&mut out, at.node_id().as_bytes()),
        Portrait::MyShardId => encode::bulk(&mut out, at.id("crema shard").as_bytes()),
        Portrait::Replicas if request.arg(2) == at.node_id().as_bytes() => encode::array_header(&mut out, 0),
        Portrait::Replicas => {
            encode::error(&mut out, &format!("ERR Unknown node {}", String::from_utf8_lossy(request.arg(2))));
        }
        Portrait::Links => encode::array_header(&mut out, 0),
        Portrait::Mode => encode::simple(&mut out, "OK"),
        Portrait::Info | Portrait::Server => return None,
    }
    Some(out)
}

/// The last of all slots.
#[expect(clippy::cast_possible_wrap, reason = "there are 16,384")]
const LAST_SLOT: i64 = HashSlot::COUNT as i64 - 1;

fn slots(out: &mut Vec<u8>, at: &ShownAddress, resp: Resp) {
    encode::array_header(out, 1);
    encode::array_header(out, 3);
    encode::integer(out, 0);
    encode::integer(out, LAST_SLOT);
    encode::array_header(out, 4);
    encode::bulk(out, at.host.as_bytes());
    encode::integer(out, i64::from(at.port));
    encode::bulk(out, at.node_id().as_bytes());
    encode::map_header(out, 0, resp);
}

fn shards(out: &mut Vec<u8>, at: &ShownAddress, resp: Resp) {
    encode::array_header(out, 1);
    encode::map_header(out, 2, resp);
    encode::bulk(out, b"slots");
    encode::array_header(out, 2);
    encode::integer(out, 0);
    encode::integer(out, LAST_SLOT);
    encode::bulk(out, b"nodes");
    encode::array_header(out, 1);
    encode::map_header(out, 7, resp);
    for (name, value) in [
        ("id", at.node_id().as_str()),
        ("ip", &at.host),
        ("endpoint", &at.host),
        ("role", "master"),
        ("health", "online"),
    ] {
        encode::bulk(out, name.as_bytes());
        encode::bulk(out, value.as_bytes());
    }
    for (name, value) in [("port", i64::from(at.port)), ("replication-offset", 0)] {
        encode::bulk(out, name.as_bytes());
        encode::integer(out, value);
    }
}

/// A text as Redis sends such: verbatim in RESP3.
fn text(out: &mut Vec<u8>, text: &[u8], resp: Resp) {
    match resp {
        Resp::V2 => encode::bulk(out, text),
        Resp::V3 => {
            encode::header(out, b'=', text.len() + 4);
            out.extend_from_slice(b"txt:");
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// The front's answer to `CLUSTER INFO` or `INFO`, as clients are shown it.
pub(super) fn corrected(portrait: Portrait, reply: Vec<u8>, resp: Resp) -> Vec<u8> {
    let lines: &[(&str, &str)] = match portrait {
        Portrait::Info => &[("cluster_known_nodes:", "1"), ("cluster_size:", "1")],
        Portrait::Server => &[("redis_mode:", "standalone"), ("server_mode:", "standalone"), ("cluster_enabled:", "0")],
        _ => &[],
    };
    let Some(told) = text_of(&reply).filter(|_| !is_error(&reply)) else { return reply };
    let (mut shown, mut left) = (Vec::with_capacity(told.len() + 8), told);
    while !left.is_empty() {
        let end = left.windows(2).position(|at| at == b"\r\n").map_or(left.len(), |end| end + 2);
        let (line, behind) = left.split_at(end);
        match lines.iter().find(|(name, _)| line.starts_with(name.as_bytes())) {
            Some((name, value)) => shown.extend_from_slice(format!("{name}{value}\r\n").as_bytes()),
            None => shown.extend_from_slice(line),
        }
        left = behind;
    }
    let mut out = Vec::with_capacity(shown.len() + 16);
    text(&mut out, &shown, resp);
    out
}

/// The front's answer to `HELLO`, of one server.
pub(super) fn standalone_hello(reply: &[u8]) -> Vec<u8> {
    let (cluster, standalone) = (&b"$4\r\nmode\r\n$7\r\ncluster\r\n"[..], &b"$4\r\nmode\r\n$10\r\nstandalone\r\n"[..]);
    let Some(at) = reply.windows(cluster.len()).position(|at| at == cluster) else { return reply.to_vec() };
    [&reply[..at], standalone, &reply[at + cluster.len()..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> ShownAddress {
        ShownAddress::of(None, "10.0.0.7:6390")
    }

    fn said(portrait: Portrait, argument: &str, resp: Resp) -> String {
        let (mut raw, mut spans) = (Vec::new(), Vec::new());
        encode::command(&mut raw, &[b"CLUSTER", b"X", argument.as_bytes()]);
        let request = Request::parse_canonical(&raw, &mut spans).expect("as it was made");
        String::from_utf8(shown(portrait, &address(), request, resp).expect("said")).expect("text")
    }

    #[test]
    fn a_client_is_sent_where_it_came_or_where_the_settings_say() {
        let shown = |announce: Option<Endpoint>, local| {
            let ShownAddress { host, port } = ShownAddress::of(announce.as_ref(), local);
            format!("{host} {port}")
        };
        assert_eq!(shown(None, "127.0.0.1:6390"), "127.0.0.1 6390");
        assert_eq!(shown(None, "[::ffff:10.0.0.7]:1"), "10.0.0.7 1");
        assert_eq!(shown(None, "[::1]:1"), "::1 1");
        assert_eq!(shown(None, "unix"), "127.0.0.1 6379", "never empty: some libraries cannot bear that");
        let announce = Some(Endpoint::Tcp { host: "cache.example".into(), port: 7 });
        assert_eq!(shown(announce, "127.0.0.1:6390"), "cache.example 7");
    }

    #[test]
    fn one_node_has_all_slots() {
        let id = said(Portrait::MyId, "", Resp::V2);
        let id = id.strip_prefix("$40\r\n").expect("forty digits").trim_end();
        let slots = |resp| said(Portrait::Slots, "", resp);
        let want = format!("*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n$8\r\n10.0.0.7\r\n:6390\r\n$40\r\n{id}\r\n");
        assert_eq!((slots(Resp::V2), slots(Resp::V3)), (format!("{want}*0\r\n"), format!("{want}%0\r\n")));
        let line = format!("{id} 10.0.0.7:6390@0 myself,master - 0 0 1 connected 0-16383\n");
        assert_eq!(said(Portrait::Nodes, "", Resp::V2), format!("${}\r\n{line}\r\n", line.len()));
        assert_eq!(said(Portrait::Nodes, "", Resp::V3), format!("={}\r\ntxt:{line}\r\n", line.len() + 4));
        assert_eq!(said(Portrait::Replicas, id, Resp::V2), "*0\r\n");
        assert_eq!(said(Portrait::Replicas, "x", Resp::V2), "-ERR Unknown node x\r\n");
        assert_ne!(said(Portrait::MyShardId, "", Resp::V2), said(Portrait::MyId, "", Resp::V2));
    }

    #[test]
    fn every_portrait_is_one_reply() {
        use crate::resp::{Split, Splitter};
        for resp in [Resp::V2, Resp::V3] {
            for portrait in
                [Portrait::Slots, Portrait::Shards, Portrait::Nodes, Portrait::MyId, Portrait::Links, Portrait::Mode]
            {
                let reply = said(portrait, "", resp);
                assert_eq!(Splitter::default().split(reply.as_bytes()), Ok(Split::End(reply.len())), "{portrait:?}");
            }
        }
    }

    #[test]
    fn what_the_front_says_of_itself_is_said_of_one_server() {
        let info = |text: &str| {
            let mut reply = Vec::new();
            encode::bulk(&mut reply, text.as_bytes());
            let reply = corrected(Portrait::Server, reply, Resp::V2);
            String::from_utf8(text_of(&reply).expect("text").to_vec()).expect("text")
        };
        assert_eq!(
            info("# Server\r\nredis_mode:cluster\r\nos:x\r\n\r\n# Cluster\r\ncluster_enabled:1\r\n"),
            "# Server\r\nredis_mode:standalone\r\nos:x\r\n\r\n# Cluster\r\ncluster_enabled:0\r\n"
        );
        assert_eq!(info(""), "");
        let told = b"=27\r\ntxt:cluster_known_nodes:6\r\n\r\n".to_vec();
        assert_eq!(corrected(Portrait::Info, told, Resp::V3), b"=27\r\ntxt:cluster_known_nodes:1\r\n\r\n");
        let error = b"-NOPERM no\r\n".to_vec();
        assert_eq!(corrected(Portrait::Info, error.clone(), Resp::V2), error);
    }

    #[test]
    fn hello_is_of_one_server() {
        let hello =
            |mode: &str| format!("*4\r\n$4\r\nmode\r\n${}\r\n{mode}\r\n$4\r\nrole\r\n$6\r\nmaster\r\n", mode.len());
        assert_eq!(standalone_hello(hello("cluster").as_bytes()), hello("standalone").as_bytes());
        assert_eq!(standalone_hello(hello("sentinel").as_bytes()), hello("sentinel").as_bytes());
        assert_eq!(standalone_hello(b"-NOAUTH x\r\n"), b"-NOAUTH x\r\n");
    }
}
