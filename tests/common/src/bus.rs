//! The cluster bus of a test's cluster, led through relays, so that nodes can be cut off from each other.
//!
//! Each node announces a bus port of ours and binds its outgoing links to a loopback address of its own, by which a relay
//! knows whose link it is. What is cut carries nothing and keeps what it was given, as a network does that loses its way:
//! connections are still accepted, and once healed all that they hold is delivered.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::redis::loopback;

/// The relays of one cluster.
#[derive(Clone, Default)]
pub struct Bus(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Nodes that hear of nobody and are heard by nobody.
    alone: HashSet<usize>,
    /// Pairs, the smaller number first.
    apart: HashSet<(usize, usize)>,
    ended: bool,
    streams: Vec<TcpStream>,
    listeners: Vec<SocketAddr>,
}

impl State {
    fn carries(&self, one: usize, other: usize) -> bool {
        let is_alone = self.alone.contains(&one) || self.alone.contains(&other);
        !is_alone && !self.apart.contains(&(one.min(other), one.max(other)))
    }
}

impl Bus {
    /// The loopback address that node binds its outgoing links to.
    pub(super) fn source(node: usize) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, 0, 10 + u8::try_from(node).expect("few nodes"))
    }

    /// A relay to the bus port of that node, and its own port.
    pub(super) fn relay_to(&self, node: usize, bus_port: u16) -> u16 {
        let listener = TcpListener::bind(loopback(0)).expect("a loopback port");
        let addr = listener.local_addr().expect("a bound listener");
        self.0.lock().listeners.push(addr);
        let shared = Arc::clone(&self.0);
        std::thread::spawn(move || shared.accept(&listener, node, loopback(bus_port)));
        addr.port()
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, node: usize) {
        self.0.change(|state| state.alone.extend([node]));
    }

    /// Cuts each of the first from each of the others.
    pub fn part(&self, ones: &[usize], others: &[usize]) {
        let pairs = ones.iter().flat_map(|one| others.iter().map(|other| (*one.min(other), *one.max(other))));
        self.0.change(|state| state.apart.extend(pairs));
    }

    /// Undoes all cuts.
    pub fn heal(&self) {
        self.0.change(|state| {
            state.alone.clear();
            state.apart.clear();
        });
    }

    /// Ends all relays.
    pub(super) fn end(&self) {
        let listeners = {
            let mut state = self.0.lock();
            state.ended = true;
            for stream in state.streams.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
            std::mem::take(&mut state.listeners)
        };
        self.0.changed.notify_all();
        // Wakes the listeners, which then see that they have ended.
        for addr in listeners {
            let _ = TcpStream::connect(addr);
        }
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

    fn accept(self: &Arc<Self>, listener: &TcpListener, node: usize, target: SocketAddr) {
        for near in listener.incoming().map_while(Result::ok) {
            if self.lock().ended {
                return;
            }
            let Ok(IpAddr::V4(peer)) = near.peer_addr().map(|addr| addr.ip()) else { continue };
            let from = usize::from(peer.octets()[3]).saturating_sub(10);
            let Ok(far) = TcpStream::connect(target) else { continue };
            for (source, sink) in [(&near, &far), (&far, &near)] {
                let (Ok(source), Ok(sink)) = (source.try_clone(), sink.try_clone()) else { continue };
                let shared = Arc::clone(self);
                std::thread::spawn(move || shared.carry(source, sink, (from, node)));
            }
            self.lock().streams.extend([near, far]);
        }
    }

    fn carry(&self, mut source: TcpStream, mut sink: TcpStream, (from, to): (usize, usize)) {
        let mut buf = vec![0; 64 << 10];
        let _ = sink.set_nodelay(true);
        while let Ok(len @ 1..) = source.read(&mut buf) {
            let mut state = self.lock();
            while !state.carries(from, to) && !state.ended {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.ended {
                return;
            }
            drop(state);
            if sink.write_all(&buf[..len]).is_err() {
                break;
            }
        }
        let _ = source.shutdown(Shutdown::Both);
        let _ = sink.shutdown(Shutdown::Both);
    }
}
