//! Somebody who writes past crema all the time, and what the server has acknowledged when.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::{Client, ok};

/// Writes growing numbers to one node, whether it takes them or not, until it is dropped.
pub struct Writer {
    acknowledged: Arc<Mutex<Vec<(u64, Instant)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    /// One that rests for so long after each.
    pub fn start(node: SocketAddr, key: &str, rest: Duration) -> Self {
        let (acknowledged, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (key, log, ends) = (key.to_owned(), Arc::clone(&acknowledged), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut client = None;
            for n in 1_u64.. {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let of = client.get_or_insert_with(|| Client::connect(node));
                match of.try_cmd(&["SET", &key, &n.to_string()]) {
                    Ok(reply) if reply == ok() => {
                        let log: &Mutex<Vec<_>> = &log;
                        log.lock().expect("no panic").push((n, Instant::now()));
                    }
                    Ok(_) => {}
                    Err(_) => client = None,
                }
                thread::sleep(rest);
            }
        });
        Self { acknowledged, stop, thread: Some(thread) }
    }

    /// What the node has acknowledged, and when that was known.
    pub fn writes(&self) -> MutexGuard<'_, Vec<(u64, Instant)>> {
        self.acknowledged.lock().expect("no panic")
    }

    /// The latest number that was known to be acknowledged then.
    pub fn acknowledged(&self, by: Instant) -> u64 {
        self.writes().iter().rev().find(|(_, at)| *at <= by).map_or(0, |(n, _)| *n)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().expect("once").join();
    }
}
