//! Thousands of clients that come back within five seconds, and what those notice who are there: Redis alone, through `HAProxy` (TCP),
//! and through crema, in turn, round by round.
//!
//! `cargo bench --bench storm [-- --clients=N] [--seconds=N] [--rounds=N] [--crema=PROGRAM]`; prints a table. Each client that comes connects, logs in and
//! reads a key, and stays. Those who are there read one key each every 20 ms; how long that takes is measured for five seconds
//! before, and while the others come. Which connections Redis sees it is asked.

#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "measured figures, for people")]

use std::future::Future;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

/// Clients that are there all the while.
const THERE: usize = 64;
/// Between two reads of one of them.
const PACE: Duration = Duration::from_millis(20);
/// What must happen has happened by then.
const AT_LAST: Duration = Duration::from_secs(60);
/// What a client says first, and what it is answered.
const ENTRY: &[u8] = b"*3\r\n$4\r\nAUTH\r\n$4\r\nanna\r\n$6\r\nsecret\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
const ENTRY_REPLY: &[u8] = b"+OK\r\n$1\r\nv\r\n";
const READ: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
const READ_REPLY: &[u8] = b"$1\r\nv\r\n";
/// As many open files as there are to be, if the system allows it.
const OPEN_FILES: u64 = 65_536;

/// A server that was started, killed when dropped.
struct Peer {
    name: &'static str,
    addr: SocketAddr,
    child: Child,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a storm is to be.
#[derive(Clone, Copy)]
struct StormPlan {
    clients: usize,
    within: Duration,
}

/// What was measured of one storm.
#[derive(Default)]
struct StormResult {
    before: Vec<Duration>,
    during: Vec<Duration>,
    entries: Vec<Duration>,
    failed: u64,
    connections: u64,
}

fn main() {
    let limit = raise_file_limit();
    let number = |name: &str, otherwise: u64| {
        let mut given = std::env::args().filter_map(|arg| arg.strip_prefix(name)?.parse().ok());
        given.next().unwrap_or(otherwise)
    };
    // HAProxy has two for each client.
    let clients = usize::try_from(number("--clients=", 10_000).min((limit - 500) / 2)).expect("some thousands");
    let plan = StormPlan { clients, within: Duration::from_secs(number("--seconds=", 5)) };
    let rounds = number("--rounds=", 5);
    let directory = tempfile::tempdir().expect("a directory");
    let program = std::env::args().find_map(|arg| Some(arg.strip_prefix("--crema=")?.to_owned()));
    let program = program.as_deref().unwrap_or(env!("CARGO_BIN_EXE_crema"));
    let peers = start(directory.path(), program, clients);
    let redis = peers[0].addr;
    let mut results: Vec<Vec<StormResult>> = peers.iter().map(|_| Vec::new()).collect();
    for round in 1..=rounds {
        for (peer, results) in peers.iter().zip(&mut results) {
            let result = storm(peer, redis, plan);
            eprintln!("round {round}: {}", line(peer.name, std::slice::from_ref(&result)));
            results.push(result);
        }
    }
    println!("{clients} clients within {:?}, {rounds} rounds, medians; milliseconds\n", plan.within);
    println!(
        "| | p99 before | p99 during | | p99.9 during | a first reply, half of them | p99 | failed | connections that Redis saw |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (peer, results) in peers.iter().zip(&results) {
        println!("{}", line(peer.name, results));
    }
}

/// Thousands of clients are ours, and as many the peers', which inherit the limit.
fn raise_file_limit() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let more = Some(maximum.unwrap_or(OPEN_FILES).max(OPEN_FILES));
    if setrlimit(Resource::Nofile, Rlimit { current: more, maximum: more }).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(OPEN_FILES)
}

fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound")
}

/// Redis alone, and what stands in front of it.
fn start(directory: &Path, program: &str, clients: usize) -> [Peer; 3] {
    let redis = free_addr();
    let redis_args = format!("--bind 127.0.0.1 --port {} --maxclients 30000 --tcp-backlog 4096", redis.port());
    let mut args: Vec<&str> = redis_args.split(' ').collect();
    args.extend(["--save", "", "--dir", directory.to_str().expect("UTF-8")]);
    let redis = peer("Redis alone", redis, "redis-server", &args);
    for said in ["ACL SETUSER anna on >secret ~* &* +@all", "SET k v"] {
        ask(redis.addr, said);
    }
    let haproxy = free_addr();
    let (settings, most) = (directory.join("haproxy.cfg"), clients + THERE + 10);
    let text = format!(
        "global\n maxconn {most}\n nbthread 2\ndefaults\n mode tcp\n timeout connect 10s\n timeout client 5m\n timeout server 5m\n\
         frontend f\n bind {haproxy} backlog 4096\n maxconn {most}\n default_backend b\nbackend b\n server r {}\n",
        redis.addr
    );
    std::fs::write(&settings, text).expect("a directory of our own");
    let balancer = if Path::new("/usr/sbin/haproxy").exists() { "/usr/sbin/haproxy" } else { "haproxy" };
    let haproxy = peer("HAProxy", haproxy, balancer, &["-db", "-f", settings.to_str().expect("UTF-8")]);
    let crema = free_addr();
    let (listen, upstream) = (crema.to_string(), format!("redis://{}", redis.addr));
    let args =
        ["--listen", &listen, "--admin", "off", "--upstream", &upstream, "--max-clients", "30000", "--threads", "2"];
    let crema = peer("crema", crema, program, &args);
    [redis, haproxy, crema]
}

/// Starts a program, and waits until it lets clients in.
fn peer(name: &'static str, addr: SocketAddr, program: &str, args: &[&str]) -> Peer {
    let mut command = Command::new(program);
    let command = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let peer = Peer { name, addr, child: command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")) };
    let began = Instant::now();
    while std::net::TcpStream::connect(addr).is_err() {
        assert!(began.elapsed() < AT_LAST, "{name} does not listen");
        thread::sleep(Duration::from_millis(20));
    }
    peer
}

/// What Redis answers.
fn ask(addr: SocketAddr, said: &str) -> String {
    let mut stream = std::net::TcpStream::connect(addr).expect("it listens");
    stream.write_all(format!("{said}\r\nQUIT\r\n").as_bytes()).expect("it reads");
    let mut answer = String::new();
    io::Read::read_to_string(&mut stream, &mut answer).expect("it answers");
    answer
}

/// A figure of Redis's own.
fn figure(redis: SocketAddr, name: &str) -> u64 {
    let info = ask(redis, "INFO");
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.trim().parse().ok()).expect("it tells")
}

/// One storm at one peer. Those who are there and those who come have a thread each.
fn storm(peer: &Peer, redis: SocketAddr, plan: StormPlan) -> StormResult {
    let (phase, addr) = (Arc::new(AtomicU64::new(0)), peer.addr);
    let there = thread::spawn({
        let phase = Arc::clone(&phase);
        move || alone(reads(addr, phase))
    });
    thread::sleep(Duration::from_secs(1)); // they log in, and what they read becomes hot
    phase.store(1, Ordering::Relaxed);
    thread::sleep(plan.within);
    let connected = figure(redis, "total_connections_received");
    phase.store(2, Ordering::Relaxed);
    let (entries, failed, all) = alone(async {
        let came = come(addr, plan).await;
        phase.store(3, Ordering::Relaxed);
        came
    });
    let connections = figure(redis, "total_connections_received") - connected - 1;
    drop(all);
    let [before, during] = there.join().expect("it does not panic");
    let began = Instant::now();
    while figure(redis, "connected_clients") > 100 && began.elapsed() < AT_LAST {
        thread::sleep(Duration::from_millis(100));
    }
    StormResult { before, during, entries, failed, connections }
}

fn alone<T>(work: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// Who is there, until the third phase: how long their reads take in the first and in the second.
async fn reads(addr: SocketAddr, phase: Arc<AtomicU64>) -> [Vec<Duration>; 2] {
    let mut clients = JoinSet::new();
    for number in 0..THERE {
        let phase = Arc::clone(&phase);
        clients.spawn(async move {
            sleep(PACE * u32::try_from(number).expect("few") / u32::try_from(THERE).expect("few")).await;
            let mut stream = enter(addr).await.expect("there is no storm yet");
            let mut found = [Vec::new(), Vec::new()];
            loop {
                let now = phase.load(Ordering::Relaxed);
                let began = Instant::now();
                stream.write_all(READ).await.expect("who is there stays");
                expect(&mut stream, READ_REPLY).await.expect("who is there is served");
                match now {
                    1 => found[0].push(began.elapsed()),
                    2 => found[1].push(began.elapsed()),
                    3 => return found,
                    _ => {}
                }
                sleep(PACE).await;
            }
        });
    }
    let mut all = [Vec::new(), Vec::new()];
    while let Some(found) = clients.join_next().await {
        let [before, during] = found.expect("it does not panic");
        all[0].extend(before);
        all[1].extend(during);
    }
    all
}

/// Who comes: how long each takes to its first reply, how many failed, and their connections.
async fn come(addr: SocketAddr, plan: StormPlan) -> (Vec<Duration>, u64, Vec<TcpStream>) {
    let first = tokio::time::Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..plan.clients {
        let at = first + plan.within.mul_f64(number as f64 / plan.clients as f64);
        clients.spawn(async move {
            sleep_until(at).await;
            let began = Instant::now();
            let entered = timeout(AT_LAST, enter(addr)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            entered.map(|stream| (began.elapsed(), stream))
        });
    }
    let (mut entries, mut failed, mut streams) = (Vec::new(), 0, Vec::new());
    while let Some(entered) = clients.join_next().await {
        match entered.expect("it does not panic") {
            Ok((took, stream)) => {
                entries.push(took);
                streams.push(stream);
            }
            Err(_) => failed += 1,
        }
    }
    (entries, failed, streams)
}

/// Connects, logs in and reads.
async fn enter(addr: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    // Closed by a reset, so that no port is kept.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    stream.write_all(ENTRY).await?;
    expect(&mut stream, ENTRY_REPLY).await?;
    Ok(stream)
}

async fn expect(stream: &mut TcpStream, reply: &[u8]) -> io::Result<()> {
    let mut read = [0; 64];
    let read = &mut read[..reply.len()];
    stream.read_exact(read).await?;
    if read == reply { Ok(()) } else { Err(io::Error::other("another reply")) }
}

/// A row of the table.
fn line(name: &str, results: &[StormResult]) -> String {
    let at = |of: &dyn Fn(&StormResult) -> Vec<Duration>, share: f64| {
        let mut all: Vec<f64> = results.iter().map(|result| quantile(of(result), share)).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (before, during) = (|result: &StormResult| result.before.clone(), |result: &StormResult| result.during.clone());
    let entries = |result: &StormResult| result.entries.clone();
    let mut ratios: Vec<f64> = results
        .iter()
        .map(|result| quantile(result.during.clone(), 0.99) / quantile(result.before.clone(), 0.99))
        .collect();
    ratios.sort_by(f64::total_cmp);
    let failed: u64 = results.iter().map(|result| result.failed).sum();
    let mut connections: Vec<u64> = results.iter().map(|result| result.connections).collect();
    connections.sort_unstable();
    format!(
        "| {name} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {failed} | {} |",
        at(&before, 0.99),
        at(&during, 0.99),
        ratios[ratios.len() / 2],
        at(&during, 0.999),
        at(&entries, 0.5),
        at(&entries, 0.99),
        connections[connections.len() / 2],
    )
}

/// So large a share of these is no longer than this, in milliseconds.
fn quantile(mut all: Vec<Duration>, share: f64) -> f64 {
    all.sort_unstable();
    let at = ((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1));
    all.get(at).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
}
