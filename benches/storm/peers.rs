//! What is measured: Redis alone, and what stands in front of it.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What must happen has happened by then.
pub(crate) const AT_LAST: Duration = Duration::from_secs(60);

/// A server that was started, killed when dropped.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) addr: SocketAddr,
    pub(crate) child: Child,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound")
}

/// A Redis with a user, and so many keys.
pub(crate) fn redis(directory: &Path, keys: usize) -> Peer {
    let addr = free_addr();
    let args = format!("--bind 127.0.0.1 --port {} --maxclients 30000 --tcp-backlog 4096", addr.port());
    let mut args: Vec<&str> = args.split(' ').collect();
    args.extend(["--save", "", "--dir", directory.to_str().expect("UTF-8")]);
    let redis = peer("Redis alone", addr, "redis-server", &args);
    ask(addr, "ACL SETUSER anna on >secret ~* &* +@all");
    (0..keys).for_each(|key| _ = ask(addr, &format!("SET k{key:04} v")));
    redis
}

/// `HAProxy` in front of it, for so many clients; where it is a `master`, its processes can be replaced.
pub(crate) fn haproxy(directory: &Path, redis: SocketAddr, clients: usize, master: bool) -> Peer {
    let addr = free_addr();
    let settings = directory.join(format!("haproxy-{}.cfg", addr.port()));
    let text = format!(
        "global\n maxconn {clients}\n nbthread 2\ndefaults\n mode tcp\n timeout connect 10s\n timeout client 5m\n timeout server 5m\n\
         frontend f\n bind {addr} backlog 4096\n maxconn {clients}\n default_backend b\nbackend b\n server r {redis}\n",
    );
    std::fs::write(&settings, text).expect("a directory of our own");
    let program = if Path::new("/usr/sbin/haproxy").exists() { "/usr/sbin/haproxy" } else { "haproxy" };
    let kind = if master { "-W" } else { "-db" };
    peer("HAProxy", addr, program, &[kind, "-f", settings.to_str().expect("UTF-8")])
}

/// crema in front of it.
pub(crate) fn crema(program: &str, redis: SocketAddr, more: &[&str]) -> Peer {
    let addr = free_addr();
    peer("crema", addr, program, &crema_args(addr, redis, more).iter().map(String::as_str).collect::<Vec<_>>())
}

pub(crate) fn crema_args(addr: SocketAddr, redis: SocketAddr, more: &[&str]) -> Vec<String> {
    let (listen, upstream) = (addr.to_string(), format!("redis://{redis}"));
    let args =
        ["--listen", &listen, "--admin", "off", "--upstream", &upstream, "--max-clients", "30000", "--threads", "2"];
    args.iter().chain(more).map(|&arg| arg.to_owned()).collect()
}

/// Starts a program, and waits until it lets clients in.
fn peer(name: &'static str, addr: SocketAddr, program: &str, args: &[&str]) -> Peer {
    let peer = Peer { name, addr, child: spawn(program, args) };
    let began = Instant::now();
    while TcpStream::connect(addr).is_err() {
        assert!(began.elapsed() < AT_LAST, "{name} does not listen");
        thread::sleep(Duration::from_millis(20));
    }
    peer
}

pub(crate) fn spawn(program: &str, args: &[&str]) -> Child {
    let mut command = Command::new(program);
    let command = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// What Redis answers.
pub(crate) fn ask(addr: SocketAddr, said: &str) -> String {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.write_all(format!("{said}\r\nQUIT\r\n").as_bytes()).expect("it reads");
    let mut answer = String::new();
    io::Read::read_to_string(&mut stream, &mut answer).expect("it answers");
    answer
}

/// A figure of Redis's own: a number, or how often a command was called (`cmdstat_get`).
pub(crate) fn figure(redis: SocketAddr, name: &str) -> u64 {
    let info = ask(redis, "INFO everything");
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = value.map(|value| value.trim().trim_start_matches("calls=").split(',').next().unwrap_or_default());
    value.and_then(|value| value.parse().ok()).expect("it tells")
}
