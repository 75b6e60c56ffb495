//! A link that a test controls: a TCP forwarder that can be frozen, slowed, cut and closed.
//!
//! A frozen link keeps what it was given and delivers it when thawed, in order and late, as a network does. It accepts
//! connections meanwhile, and they stay as silent as the rest. Each direction can be held on its own; and the replies on
//! connections of one kind can be made to come later than those on others.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::redis::loopback;

/// A forwarder to one address.
pub struct Link {
    port: u16,
    shared: Arc<Shared>,
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the proxy to the server.
    Requests,
    /// From the server to the proxy.
    Replies,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    held: [bool; 2],
    delay: Duration,
    /// How much later replies come on connections that have sent this.
    late: Option<(&'static str, Duration)>,
    /// New connections are closed at once.
    down: bool,
    ended: bool,
    streams: Vec<TcpStream>,
    /// A connection that was taken on before the last of these carries nothing more.
    cuts: u64,
    accepted: u64,
    /// So many of them, the first ones, swallow what they are given.
    dead: u64,
    /// So many keep what the proxy sends.
    stuck: u64,
    /// Where those lead that are taken on now.
    target: Option<SocketAddr>,
}

impl Link {
    pub fn to(target: SocketAddr) -> Link {
        let listener = TcpListener::bind(loopback(0)).expect("a loopback port");
        let port = listener.local_addr().expect("a bound listener").port();
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept(&listener, target)
        });
        Link { port, shared }
    }

    pub fn addr(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// Holds all bytes, both ways, until [`Link::thaw`].
    pub fn freeze(&self) {
        self.shared.change(|state| state.held = [true; 2]);
    }

    /// Holds the bytes of one direction.
    pub fn hold(&self, way: Way) {
        self.shared.change(|state| state.held[way as usize] = true);
    }

    pub fn thaw(&self) {
        self.shared.change(|state| (state.held, state.stuck) = ([false; 2], 0));
    }

    /// Makes requests arrive so much later; replies are not slowed, so this is the whole round trip's increase.
    pub fn delay(&self, delay: Duration) {
        self.shared.change(|state| state.delay = delay);
    }

    /// Makes everything that comes on connections that send `text` from now on arrive so much later.
    pub fn late(&self, text: &'static str, delay: Duration) {
        self.shared.change(|state| state.late = Some((text, delay)));
    }

    /// Breaks every connection; what was held on it is lost. New ones are served, and not held.
    pub fn cut(&self) {
        self.shared.change(|state| {
            state.cuts += 1;
            for stream in state.streams.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
            state.held = [false; 2];
        });
    }

    /// Breaks every connection and takes no more until [`Link::up`].
    pub fn down(&self) {
        self.shared.change(|state| state.down = true);
        self.cut();
    }

    pub fn up(&self) {
        self.shared.change(|state| state.down = false);
    }

    /// Has the connections there are die in silence: they stay, and carry nothing any more. New ones are served.
    pub fn deaden(&self) {
        self.shared.change(|state| state.dead = state.accepted);
    }

    /// Has the connections there are keep what the proxy sends until [`Link::thaw`], which delivers it, whether the proxy is still
    /// there or not. New ones are served.
    pub fn stick(&self) {
        self.shared.change(|state| state.stuck = state.accepted);
    }

    /// Has new connections lead elsewhere, as a service address after a failover.
    pub fn turn_to(&self, target: SocketAddr) {
        self.shared.change(|state| state.target = Some(target));
    }

    /// Connections ever taken on.
    pub fn accepted(&self) -> u64 {
        self.shared.lock().accepted
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.change(|state| state.ended = true);
        self.cut();
        // Wakes the listener, which then sees that it has ended.
        let _ = TcpStream::connect(self.addr());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener, target: SocketAddr) {
        for near in listener.incoming().map_while(Result::ok) {
            let (born, number, target) = {
                let mut state = self.lock();
                if state.ended {
                    return;
                }
                if state.down {
                    continue;
                }
                state.accepted += 1;
                (state.cuts, state.accepted, state.target.unwrap_or(target))
            };
            let Ok(far) = TcpStream::connect(target) else { continue };
            let late = Arc::default();
            self.join((&near, &far), (born, number), Way::Requests, &late);
            self.join((&far, &near), (born, number), Way::Replies, &late);
            let mut state = self.lock();
            // Cut between the check above and here: the two close as they fall.
            if !state.ended && state.cuts == born {
                state.streams.extend([near, far]);
            } else {
                let _ = near.shutdown(Shutdown::Both);
                let _ = far.shutdown(Shutdown::Both);
            }
        }
    }

    /// Carries the bytes of one direction on two threads, so that a delay costs latency and not throughput.
    fn join(
        self: &Arc<Self>,
        (from, to): (&TcpStream, &TcpStream),
        born: (u64, u64),
        way: Way,
        late: &Arc<AtomicBool>,
    ) {
        let _ = to.set_nodelay(true);
        let (Ok(mut from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
        let (sender, receiver) = sync_channel(64);
        let (shared, is_late) = (Arc::clone(self), Arc::clone(late));
        std::thread::spawn(move || {
            let mut buf = vec![0; 64 << 10];
            loop {
                // An end or a break travels as an empty chunk, in its turn.
                let len = from.read(&mut buf).unwrap_or(0);
                if let (Way::Requests, Some((text, _))) = (way, shared.lock().late)
                    && buf[..len].windows(text.len()).any(|at| at == text.as_bytes())
                {
                    is_late.store(true, Ordering::Relaxed);
                }
                if sender.send((Instant::now(), buf[..len].to_vec())).is_err() || len == 0 {
                    return;
                }
            }
        });
        let (shared, is_late) = (Arc::clone(self), Arc::clone(late));
        std::thread::spawn(move || shared.deliver(&receiver, to, born, way, &is_late));
    }

    fn deliver(
        &self,
        chunks: &Receiver<(Instant, Vec<u8>)>,
        mut to: TcpStream,
        (born, number): (u64, u64),
        way: Way,
        is_late: &AtomicBool,
    ) {
        for (came, chunk) in chunks {
            let mut state = self.lock();
            loop {
                let delay = match (way, state.late) {
                    (Way::Requests, _) => state.delay,
                    (Way::Replies, Some((_, delay))) if is_late.load(Ordering::Relaxed) => delay,
                    (Way::Replies, _) => Duration::ZERO,
                };
                let due = came + delay;
                let left = due.saturating_duration_since(Instant::now());
                if state.ended || state.cuts != born {
                    return;
                }
                let stuck = way == Way::Requests && number <= state.stuck;
                state = if state.held[way as usize] || stuck {
                    self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
                } else if left.is_zero() {
                    break;
                } else {
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                };
            }
            if number <= state.dead {
                continue;
            }
            drop(state);
            if chunk.is_empty() {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            if to.write_all(&chunk).is_err() {
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}
