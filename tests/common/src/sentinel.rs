//! A real Sentinel group: a master, two replicas and three Sentinels, each behind a link of its own.
//!
//! Everybody knows everybody by the address of a link, so whoever is cut off by its link is cut off from all. A failover takes a few
//! seconds here, most of which Sentinels wait on purpose.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::client::Client;
use super::link::Link;
use super::redis::{Redis, free_port, loopback, redis_server, valkey_server};
use super::value::Value;
use super::{eventually, within};

/// The name by which Sentinels know the group.
pub const NAME: &str = "main";
/// A master that is silent for so long is held to be down, in milliseconds.
pub const DOWN_AFTER: u64 = 1000;
/// Whatever Sentinels decide, they have done it by then.
pub const DECIDED: Duration = Duration::from_secs(90);
/// As many servers and Sentinels as there are.
const SIZE: usize = 3;

/// How a group is to be.
#[derive(Clone, Default)]
pub struct Plan {
    /// Valkey's servers and Sentinels.
    valkey: bool,
    /// With what the servers' default user and the Sentinels' log in.
    passwords: [Option<&'static str>; 2],
    quorum: Option<usize>,
}

impl Plan {
    /// Servers and Sentinels of Valkey, where that is installed.
    pub fn valkey(self) -> Plan {
        Plan { valkey: true, ..self }
    }

    /// Servers that want this password of everybody, and Sentinels that want the other.
    pub fn passwords(self, server: Option<&'static str>, sentinel: Option<&'static str>) -> Plan {
        Plan { passwords: [server, sentinel], ..self }
    }

    /// Sentinels of which so many must hold the master to be down.
    pub fn quorum(self, quorum: usize) -> Plan {
        Plan { quorum: Some(quorum), ..self }
    }

    /// The group, or none where its servers are not installed. Returns when all know all.
    pub fn try_start(self) -> Option<Group> {
        let links: Vec<Link> = (0..SIZE).map(|_| Link::to(loopback(1))).collect();
        let servers: Option<Vec<Redis>> = links.iter().map(|link| self.server(link)).collect();
        let servers = servers?;
        let (host, port) = ("127.0.0.1", links[0].addr().port().to_string());
        for server in &servers[1..] {
            server.client().cmd(&["REPLICAOF", host, &port]);
        }
        for server in &servers[1..] {
            eventually("a replica follows its master", || replication(server).contains("master_link_status:up"));
        }
        let sentinels = (0..SIZE).map(|_| Sentinel::start(&self, links[0].addr())).collect();
        let group = Group { servers, links, sentinels };
        within(DECIDED, "all Sentinels know all", || {
            let knows = |sentinel: &Sentinel| {
                let master = sentinel.master();
                master.contains("num-slaves=2") && master.contains("num-other-sentinels=2")
            };
            group.sentinels.iter().all(knows)
        });
        Some(group)
    }

    /// The same of servers that are always there.
    pub fn start(self) -> Group {
        self.try_start().expect("redis-server is installed")
    }

    fn program(&self) -> PathBuf {
        if self.valkey { valkey_server().expect("its servers run") } else { redis_server() }
    }

    fn server(&self, link: &Link) -> Option<Redis> {
        let port = link.addr().port().to_string();
        let mut args = vec!["--replica-announce-ip", "127.0.0.1", "--replica-announce-port", &port];
        if let Some(password) = self.passwords[0] {
            args.extend(["--requirepass", password, "--masterauth", password]);
        }
        let server = if self.valkey { Redis::valkey_with(&args)? } else { Redis::with(&args) };
        link.turn_to(server.addr());
        Some(server)
    }
}

/// See the module's head.
pub struct Group {
    /// The first is the master at the beginning.
    pub servers: Vec<Redis>,
    /// To each of them.
    pub links: Vec<Link>,
    pub sentinels: Vec<Sentinel>,
}

impl Group {
    pub fn start() -> Group {
        Plan::default().start()
    }

    /// The URL of the group for a proxy, with these credentials: "", or "user:password@".
    pub fn url(&self, credentials: &str) -> String {
        let seeds: Vec<_> = self.sentinels.iter().map(|sentinel| sentinel.link.addr().to_string()).collect();
        format!("redis+sentinel://{credentials}{}/{NAME}", seeds.join(","))
    }

    /// Which of the servers most Sentinels name.
    pub fn named(&self) -> Option<usize> {
        let named: Vec<_> = self.sentinels.iter().filter_map(Sentinel::try_named).collect();
        let count = |link: &Link| named.iter().filter(|port| **port == link.addr().port()).count();
        self.links.iter().position(|link| count(link) > SIZE / 2)
    }

    /// Waits until most Sentinels name another server than this one, and that is a master. Which it is.
    #[track_caller]
    pub fn moved_from(&self, before: usize) -> usize {
        let mut now = before;
        within(DECIDED, "another master", || {
            now = self.named().unwrap_or(before);
            now != before && replication(&self.servers[now]).contains("role:master")
        });
        now
    }

    /// Waits until this server follows another.
    #[track_caller]
    pub fn follows(&self, server: usize) {
        within(DECIDED, "the former master follows the new one", || {
            let says = replication(&self.servers[server]);
            says.contains("role:slave") && says.contains("master_link_status:up")
        });
    }
}

/// What the server says of its replication; nothing where it closes its connections meanwhile, as one does that becomes a replica.
fn replication(server: &Redis) -> String {
    let asked = server.client().try_cmd(&["INFO", "replication"]);
    asked.map_or_else(|_| String::new(), |reply| reply.text())
}

/// One Sentinel, by its link.
pub struct Sentinel {
    pub link: Link,
    port: u16,
    dir: TempDir,
    child: Child,
    password: Option<&'static str>,
}

impl Sentinel {
    fn start(plan: &Plan, master: SocketAddr) -> Sentinel {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (port, link) = (free_port(), Link::to(loopback(1)));
        link.turn_to(loopback(port));
        let announced = link.addr().port();
        let quorum = plan.quorum.unwrap_or(SIZE / 2 + 1);
        let mut lines = vec![
            format!("port {port}"),
            "bind 127.0.0.1".to_owned(),
            "protected-mode no".to_owned(),
            format!("dir {}", dir.path().display()),
            "sentinel announce-ip 127.0.0.1".to_owned(),
            format!("sentinel announce-port {announced}"),
            format!("sentinel monitor {NAME} 127.0.0.1 {} {quorum}", master.port()),
            format!("sentinel down-after-milliseconds {NAME} {DOWN_AFTER}"),
            format!("sentinel failover-timeout {NAME} 6000"),
        ];
        let [server, own] = plan.passwords;
        lines.extend(server.map(|password| format!("sentinel auth-pass {NAME} {password}")));
        lines.extend(own.map(|password| format!("requirepass {password}")));
        std::fs::write(dir.path().join("sentinel.conf"), lines.join("\n") + "\n").expect("our own directory");
        let child = spawn(&plan.program(), &dir);
        let sentinel = Sentinel { link, port, dir, child, password: own };
        eventually("a Sentinel answers", || sentinel.try_client().is_ok());
        sentinel
    }

    /// Where it is, past the link.
    pub fn addr(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// A connection past the link.
    #[track_caller]
    pub fn client(&self) -> Client {
        self.try_client().expect("the Sentinel accepts")
    }

    fn try_client(&self) -> std::io::Result<Client> {
        let mut client = Client::try_connect(loopback(self.port))?;
        if let Some(password) = self.password {
            client.try_cmd(&["AUTH", password])?;
        }
        Ok(client)
    }

    /// What it says of the master: `name=value`, a line each.
    pub fn master(&self) -> String {
        let Ok(mut client) = self.try_client() else { return String::new() };
        let Value::Array(fields) = client.cmd(&["SENTINEL", "MASTER", NAME]) else { return String::new() };
        let texts: Vec<_> = fields.iter().map(Value::text).collect();
        texts.chunks(2).map(|pair| pair.join("=") + "\n").collect()
    }

    /// The port of the server that it names, as far as it answers.
    fn try_named(&self) -> Option<u16> {
        let reply = self.try_client().ok()?.try_cmd(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).ok()?;
        let Value::Array(address) = reply else { return None };
        address.last()?.text().parse().ok()
    }

    /// Has it begin a failover that nobody voted for.
    #[track_caller]
    pub fn fail_over(&self) {
        // It refuses while it has not heard of a replica for too long, as happens where the machine stands still.
        let mut client = self.client();
        eventually("it begins a failover", || client.cmd(&["SENTINEL", "FAILOVER", NAME]) == super::ok());
    }

    /// Keeps it from doing anything until [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("our own child");
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- Sentinel on port {}:", self.port);
            lines[lines.len().saturating_sub(25)..].iter().for_each(|line| eprintln!("{line}"));
        }
        self.kill();
    }
}

fn spawn(server: &PathBuf, dir: &TempDir) -> Child {
    let log = File::options().create(true).append(true).open(dir.path().join("log")).expect("a log file");
    Command::new(server)
        .arg(dir.path().join("sentinel.conf"))
        .arg("--sentinel")
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", server.display()))
}
