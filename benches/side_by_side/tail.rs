//! The newest entries of a stream that grows while they are read, on a timetable: what of that memory answers, and what it spares
//! Redis.

use std::io::{Read, Write};
use std::iter;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crema::resp::encode;

use super::cpu::Cores;
use super::load::{Ask, Load, TAIL, open};
use super::peers::Peer;

/// Reads a second.
const READS: f64 = 10_000.0;
/// Entries added a second.
const ADDED: [u32; 4] = [0, 10, 100, 1000];
/// Entries that are read.
const NEWEST: [u32; 2] = [10, 100];

/// What one peer did.
pub(crate) struct TailRow {
    pub(crate) peer: &'static str,
    pub(crate) newest: u32,
    pub(crate) added: u32,
    /// The share of the reads, in percent, that came to Redis.
    pub(crate) reached: f64,
    /// Microseconds of Redis's processor time for each read.
    pub(crate) behind: f64,
    /// The same of the peer's, where it is not Redis itself.
    pub(crate) own: f64,
    /// Microseconds at 50 % and 99 %.
    pub(crate) latency: [f64; 2],
}

/// Redis first; then crema, and the build `before`, where one is given.
pub(crate) fn measure(before: Option<&Path>, span: Duration) -> Vec<TailRow> {
    let redis = Peer::redis("Redis", Path::new("redis-server"));
    let mut cremas = vec![
        Peer::crema("crema, promote 10", &redis, &["--promote", "10"]),
        Peer::crema("crema, promote 1", &redis, &["--promote", "1"]),
    ];
    if let Some(program) = before {
        let other = |name, promote| Peer::other_crema(name, program, &redis, &["--promote", promote]);
        cremas.extend([other("crema before, promote 10", "10"), other("crema before, promote 1", "1")]);
    }
    let mut rows = Vec::new();
    for newest in NEWEST {
        for added in ADDED {
            for peer in iter::once(&redis).chain(&cremas) {
                redis.ask(&["DEL", TAIL]);
                rows.push(row(peer, &redis, (newest, added), span));
            }
        }
    }
    rows
}

fn row(peer: &Peer, redis: &Peer, (newest, added): (u32, u32), span: Duration) -> TailRow {
    peer.place(Cores::All);
    let load = Load { clients: 20, ..Load::new(Ask::Tail(newest), 1) };
    let source = Source::start(redis.port, added);
    open(peer, redis, &load, READS, span / 4);
    redis.ask(&["CONFIG", "RESETSTAT"]);
    let (before, own) = (redis.spent(), peer.spent());
    let run = open(peer, redis, &load, READS, span);
    let of_each = |spent: Duration| spent.as_secs_f64() * 1e6 / run.requests as f64;
    let (behind, own) = (of_each(redis.spent().saturating_sub(before)), of_each(peer.spent().saturating_sub(own)));
    let reached = 100.0 * calls(redis, "xrevrange") / run.requests as f64;
    source.end();
    let own = if peer.proxy { own } else { 0.0 };
    TailRow {
        peer: peer.name,
        newest,
        added,
        reached,
        behind,
        own,
        latency: [0.5, 0.99].map(|share| run.percentile(share)),
    }
}

fn calls(redis: &Peer, command: &str) -> f64 {
    let stats = redis.ask_whole(&["INFO", "commandstats"]);
    let line = format!("cmdstat_{command}:calls=");
    let calls = stats.lines().find_map(|of| of.strip_prefix(&line)?.split(',').next()?.parse().ok());
    calls.unwrap_or(0.0)
}

/// What adds to the stream, past crema.
struct Source {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Source {
    fn start(port: u16, rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("Redis listens");
        stream.set_nodelay(true).expect("TCP has this option");
        let mut add = Vec::new();
        encode::command(&mut add, &[b"XADD", TAIL.as_bytes(), b"MAXLEN", b"~", b"10000", b"*", b"field", &[b'x'; 100]]);
        let mut adds = move || {
            stream.write_all(&add).expect("Redis reads");
            assert!(stream.read(&mut [0; 64]).expect("Redis answers") > 0, "Redis lives");
        };
        (0..200).for_each(|_| adds());
        let thread = std::thread::spawn(move || {
            let began = Instant::now();
            for number in 1_u32.. {
                let due = began + Duration::from_secs_f64(f64::from(number) / f64::from(rate.max(1)));
                while !until.load(Ordering::Relaxed) && (rate == 0 || Instant::now() < due) {
                    let left = due.saturating_duration_since(Instant::now());
                    std::thread::sleep(if rate == 0 {
                        Duration::from_millis(10)
                    } else {
                        left.min(Duration::from_millis(10))
                    });
                }
                if until.load(Ordering::Relaxed) {
                    return;
                }
                adds();
            }
        });
        Self { stop, thread }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic");
    }
}
