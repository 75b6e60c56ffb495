//! Latencies on a timetable: hits under a mixed load at half of what saturates, and under a storm of invalidations.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crema::resp::encode;

use super::cpu::Cores;
use super::load::{Ask, HOT, Load, Run, closed, open};
use super::peers::Peer;
use super::speed::{Field, median};

/// Keys that the storm changes a second.
const STORM: u32 = 50_000;

/// What one peer did.
pub(crate) struct Timed {
    pub(crate) peer: &'static str,
    /// Microseconds at 50 %, 99 % and 99.9 %, a figure a round.
    pub(crate) calm: [Vec<f64>; 3],
    /// The same in the storm.
    pub(crate) stormy: [Vec<f64>; 3],
}

/// What all did, on the same timetable.
pub(crate) struct Latencies {
    /// Requests a second.
    pub(crate) rate: f64,
    /// Redis, crema as it is by default, and crema that takes in every key that is read.
    pub(crate) peers: [Timed; 3],
    /// Keys that the storm really changed a second.
    pub(crate) changed: Vec<f64>,
}

impl Latencies {
    pub(crate) fn tail(&self) -> f64 {
        let [redis, crema, _] = &self.peers;
        median(&crema.calm[2].iter().zip(&redis.calm[2]).map(|(a, b)| a / b).collect::<Vec<_>>())
    }

    pub(crate) fn storm(&self) -> f64 {
        let [_, crema, _] = &self.peers;
        median(&crema.stormy[1].iter().zip(&crema.calm[1]).map(|(a, b)| a / b).collect::<Vec<_>>())
    }
}

pub(crate) fn measure(field: &Field, rounds: usize, span: Duration) -> Latencies {
    let load = Load::new(Ask::Mix, 1);
    let usual = Peer::crema("crema", &field.redis, &["--promote", "10"]);
    let peers = [&field.redis, &usual, &field.hits];
    for peer in peers {
        peer.place(Cores::All);
        closed(peer, &field.redis, &Load { depth: 16, ..load }, Duration::from_secs(1), || {});
    }
    let rate = peers.map(|peer| closed(peer, &field.redis, &load, span, || {}).rate());
    let rate = rate.into_iter().fold(f64::INFINITY, f64::min) / 2.0;
    let names = ["Redis", "crema, promote 10", "crema, promote 1"];
    let mut timed = names.map(|peer| Timed { peer, calm: Default::default(), stormy: Default::default() });
    let mut changed = Vec::new();
    for _ in 0..rounds {
        for (peer, timed) in peers.into_iter().zip(&mut timed) {
            closed(peer, &field.redis, &load, span / 4, || {}); // what the last storm has changed is in memory again
            note(&mut timed.calm, &open(peer, &field.redis, &load, rate, span));
            let storm = Storm::start(field.redis.port);
            note(&mut timed.stormy, &open(peer, &field.redis, &load, rate, span));
            changed.push(storm.end());
        }
    }
    Latencies { rate, peers: timed, changed }
}

fn note(figures: &mut [Vec<f64>; 3], run: &Run) {
    figures.iter_mut().zip([0.5, 0.99, 0.999]).for_each(|(to, share)| to.push(run.percentile(share)));
}

/// A writer that goes around crema, and changes keys that crema has.
struct Storm {
    stop: Arc<AtomicBool>,
    changed: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
    began: Instant,
}

impl Storm {
    fn start(port: u16) -> Self {
        let (stop, changed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, count) = (Arc::clone(&stop), Arc::clone(&changed));
        let thread = std::thread::spawn(move || {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("Redis listens");
            let (mut out, mut replies, began) = (Vec::new(), vec![0; 16 << 10], Instant::now());
            let mut key = 0;
            while !until.load(Ordering::Relaxed) {
                let done = count.load(Ordering::Relaxed);
                let due = (began.elapsed().as_secs_f64() * f64::from(STORM)) as u64;
                let batch = due.saturating_sub(done).min(500);
                out.clear();
                for _ in 0..batch {
                    key = (key + 1) % HOT;
                    encode::command(&mut out, &[b"SET", format!("key:{key}").as_bytes(), &[b'x'; 100]]);
                }
                stream.write_all(&out).expect("Redis reads");
                let mut left = batch as usize * b"+OK\r\n".len();
                while left > 0 {
                    left -= stream.read(&mut replies).expect("Redis answers").min(left);
                }
                count.fetch_add(batch, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { stop, changed, thread, began: Instant::now() }
    }

    /// Keys changed a second.
    fn end(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the storm does not panic");
        self.changed.load(Ordering::Relaxed) as f64 / self.began.elapsed().as_secs_f64()
    }
}
