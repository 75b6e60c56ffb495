//! What addresses a name stands for: what `/etc/hosts` says, else the name servers of `/etc/resolv.conf`, both as they are at that moment.
//!
//! The C library is not asked, for a program that is linked statically cannot load the parts that it asks in turn
//! (`/etc/nsswitch.conf`). Nothing is remembered: a name that has moved is found at the next try. Called by `dial`, which gives up
//! after its caller's deadline.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::Name;
use hickory_resolver::{Resolver, system_conf};

/// As many name servers as `resolv.conf` has at most. All are asked at once, so that one that is away holds up nobody.
const SERVERS: usize = 3;

/// The addresses of `host`, those that this machine has a way to first. Cancel safe.
pub(super) async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let with_port = |ip| SocketAddr::new(ip, port);
    if let Ok(ip) = host.parse() {
        return Ok(vec![with_port(ip)]);
    }
    #[expect(clippy::disallowed_methods, reason = "two small files: it is over before anybody could end it")]
    let names = tokio::task::spawn_blocking(NameSources::of_system).await.map_err(io::Error::other)?;
    let mut found = names.look_up(host).await?;
    found.sort_by_cached_key(|&ip| (!has_way(ip), ip.is_ipv4()));
    Ok(found.into_iter().map(with_port).collect())
}

/// Whether packets can be sent there at all. None is sent.
fn has_way(to: IpAddr) -> bool {
    let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((to, 53))).is_ok()
}

/// Who is asked about names.
struct NameSources {
    /// The text of `/etc/hosts`.
    hosts: String,
    config: ResolverConfig,
    options: ResolverOpts,
}

impl NameSources {
    /// Reads two files.
    fn of_system() -> Self {
        let own = || (ResolverConfig::from_parts(None, Vec::new(), Vec::new()), ResolverOpts::default());
        let (mut config, options) = system_conf::read_system_conf().unwrap_or_else(|_| own());
        if config.name_servers().is_empty() {
            // As resolv.conf(5) says of a file that is not there, or names none.
            let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
            config.add_name_server(NameServerConfig::udp_and_tcp(here));
        }
        let hosts = std::fs::read("/etc/hosts").unwrap_or_default();
        Self { hosts: String::from_utf8_lossy(&hosts).into_owned(), config, options }
    }

    async fn look_up(self, host: &str) -> io::Result<Vec<IpAddr>> {
        let wrong = |why: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{host} is no name of a host: {why}"))
        };
        let written = self.written(host);
        if !written.is_empty() {
            return Ok(written);
        }
        // Services of Compose and the like may have an underscore in their name.
        let name = Name::from_str_relaxed(host).map_err(|why| wrong(&why))?;
        let Self { config, mut options, .. } = self;
        let (domain, search, mut servers) =
            (config.domain().cloned(), config.search().to_vec(), config.name_servers().to_vec());
        for server in &mut servers {
            // One that does not know a name is no reason to believe that the others do not.
            server.trust_negative_responses = false;
        }
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = 0;
        options.num_concurrent_reqs = SERVERS;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        let config = ResolverConfig::from_parts(domain, search, servers);
        let resolver = Resolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
        let resolver = resolver.build().map_err(|why| wrong(&why))?;
        match resolver.lookup_ip(name).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(NetError::Dns(DnsError::NoRecordsFound(_))) => {
                Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} stands for no address")))
            }
            Err(why) => Err(io::Error::other(format!("no name server says what {host} stands for: {why}"))),
        }
    }

    /// What `/etc/hosts` says, of both families.
    fn written(&self, host: &str) -> Vec<IpAddr> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let lines = self.hosts.lines().map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
        let found = lines.filter_map(|mut words| {
            let ip = words.next()?.parse().ok()?;
            words.any(|name| name.eq_ignore_ascii_case(host)).then_some(ip)
        });
        found.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hickory_resolver::config::ConnectionConfig;
    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::{RData, Record};
    use tokio::net::UdpSocket;

    use super::*;

    /// A name server on a port of its own that knows these names. Without any it never answers.
    async fn server(known: &'static [(&'static str, &'static str)]) -> NameServerConfig {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let mut connection = ConnectionConfig::udp();
        connection.port = socket.local_addr().expect("it is bound").port();
        tokio::spawn(async move {
            let mut question = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut question).await {
                let question = Message::from_vec(&question[..length]).expect("a question");
                if !known.is_empty() {
                    let answer = answer(&question, known).to_vec().expect("it can be written");
                    socket.send_to(&answer, client).await.expect("our own client");
                }
            }
        });
        let mut server = NameServerConfig::udp(IpAddr::V4(Ipv4Addr::LOCALHOST));
        server.connections = vec![connection];
        server
    }

    fn answer(question: &Message, known: &[(&str, &str)]) -> Message {
        let query = &question.queries[0];
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.add_query(query.clone());
        let mut is_known = false;
        for (name, ip) in known {
            let name = Name::from_str_relaxed(name).expect("a name");
            let data = RData::from(ip.parse::<IpAddr>().expect("an address"));
            if name == *query.name() {
                is_known = true;
                if data.record_type() == query.query_type() {
                    answer.add_answer(Record::from_rdata(name, 60, data));
                }
            }
        }
        if !is_known {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        answer
    }

    async fn look_up(host: &str, hosts: &str, search: &[&str], servers: Vec<NameServerConfig>) -> io::Result<String> {
        let search = search.iter().map(|name| Name::from_utf8(name).expect("a name")).collect();
        let config = ResolverConfig::from_parts(None, search, servers);
        let mut options = ResolverOpts::default();
        options.timeout = Duration::from_secs(60);
        let mut found = NameSources { hosts: hosts.to_owned(), config, options }.look_up(host).await?;
        found.sort();
        Ok(found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    #[tokio::test]
    async fn what_stands_in_hosts_is_asked_of_nobody() {
        let hosts =
            "127.0.0.1 localhost\n10.0.0.1 my_redis Cache.example # ours theirs\nfd00::1\tcache.example\nno line\n";
        for (name, all) in [
            ("my_redis", "10.0.0.1"),
            ("cache.EXAMPLE", "10.0.0.1 fd00::1"),
            ("cache.example.", "10.0.0.1 fd00::1"),
            ("localhost", "127.0.0.1"),
        ] {
            assert_eq!(look_up(name, hosts, &[], vec![server(&[]).await]).await.expect("it is there"), all);
        }
    }

    #[tokio::test]
    async fn localhost_needs_neither_a_file_nor_a_server() {
        let found = look_up("localhost", "", &[], vec![server(&[]).await]).await;
        assert_eq!(found.expect("RFC 6761"), "127.0.0.1 ::1");
    }

    #[tokio::test]
    async fn a_name_server_says_the_addresses_of_both_families_and_the_search_list_completes_names() {
        const KNOWN: &[(&str, &str)] =
            &[("redis.example.", "10.0.0.2"), ("redis.example.", "fd00::2"), ("v4_only.example.", "10.0.0.3")];
        let found = async |name, search: &[&str]| look_up(name, "", search, vec![server(KNOWN).await]).await;
        assert_eq!(found("redis.example", &[]).await.expect("both"), "10.0.0.2 fd00::2");
        assert_eq!(found("v4_only.example", &[]).await.expect("one"), "10.0.0.3");
        assert_eq!(found("redis", &["nothing.", "example."]).await.expect("completed"), "10.0.0.2 fd00::2");
        let failed = found("redis", &[]).await.expect_err("nobody knows it");
        assert_eq!((failed.kind(), &*failed.to_string()), (io::ErrorKind::NotFound, "redis stands for no address"));
    }

    #[tokio::test]
    async fn a_server_that_is_silent_or_knows_less_holds_up_nobody() {
        let silent = server(&[]).await;
        let ignorant = server(&[("other.example.", "10.0.0.9")]).await;
        let knowing = server(&[("redis.example.", "10.0.0.4")]).await;
        let found = look_up("redis.example", "", &[], vec![silent, ignorant, knowing]).await;
        assert_eq!(found.expect("one of them knows it"), "10.0.0.4");
    }

    #[tokio::test]
    async fn an_address_is_its_own_name_and_one_without_a_way_comes_last() {
        for ip in ["127.0.0.1", "::1"] {
            let found = addresses(ip, 7).await.expect("an address");
            assert_eq!(found, [SocketAddr::new(ip.parse().expect("an address"), 7)]);
        }
        assert!(has_way(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert!(addresses("two words", 7).await.is_err());
    }
}
