//! A relay between the proxy and the server that passes everything on but for one kind of lie, told to the ear alone: what a fault of
//! the proxy, of the server or of anything between them would come to. It can begin to lie, and stop.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::redis::loopback;
use super::value::Scan;

/// What the ear is told that is not so, or not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Keys that have changed are not named.
    NoKeys,
    /// A flush is not told.
    NoFlush,
    /// Databases that were swapped were not.
    NoSwaps,
    /// Values are others: `right` is `wrong`.
    OtherValues,
}

/// A forwarder to one address.
pub struct Relay {
    port: u16,
    state: Arc<RelayState>,
}

struct RelayState {
    lie: Lie,
    lies: AtomicBool,
    told: AtomicU64,
    ended: AtomicBool,
}

impl Relay {
    /// Truthful until [`Relay::lie`].
    pub fn to(target: SocketAddr, lie: Lie) -> Relay {
        let listener = TcpListener::bind(loopback(0)).expect("a loopback port");
        let port = listener.local_addr().expect("a bound listener").port();
        let (lies, told, ended) = <_>::default();
        let state = Arc::new(RelayState { lie, lies, told, ended });
        let of = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if of.ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(far) = TcpStream::connect(target) else { continue };
                of.join(&near, &far);
            }
        });
        Relay { port, state }
    }

    pub fn addr(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// From now on, or no more.
    pub fn lie(&self, lies: bool) {
        self.state.lies.store(lies, Ordering::SeqCst);
    }

    /// Lies told so far.
    pub fn told(&self) -> u64 {
        self.state.told.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        // Wakes the listener, which then sees that it has ended.
        let _ = TcpStream::connect(self.addr());
    }
}

impl RelayState {
    fn join(self: &Arc<Self>, near: &TcpStream, far: &TcpStream) {
        let is_ear = Arc::new(AtomicBool::new(false));
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let (Ok(mut from), Ok(mut to)) = (near.try_clone(), far.try_clone()) else { return };
        let found = Arc::clone(&is_ear);
        std::thread::spawn(move || {
            let mut buf = vec![0; 64 << 10];
            while let Ok(len @ 1..) = from.read(&mut buf) {
                let name = b"crema-ear";
                if buf[..len].windows(name.len()).any(|at| at == name) {
                    found.store(true, Ordering::SeqCst);
                }
                if to.write_all(&buf[..len]).is_err() {
                    break;
                }
            }
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
        let (Ok(mut from), Ok(mut to)) = (far.try_clone(), near.try_clone()) else { return };
        let state = Arc::clone(self);
        std::thread::spawn(move || {
            let (mut buf, mut scan, mut chunk) = (Vec::new(), Scan::default(), vec![0; 64 << 10]);
            while let Ok(len @ 1..) = from.read(&mut chunk) {
                buf.extend_from_slice(&chunk[..len]);
                let mut out = Vec::new();
                while let Ok(Some(end)) = scan.end(&buf) {
                    let frame: Vec<u8> = buf.drain(..end).collect();
                    scan = Scan::default();
                    out.extend(if is_ear.load(Ordering::SeqCst) { state.tell(frame) } else { frame });
                }
                if to.write_all(&out).is_err() {
                    break;
                }
            }
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    }

    /// What is passed on of a frame.
    fn tell(&self, frame: Vec<u8>) -> Vec<u8> {
        if !self.lies.load(Ordering::SeqCst) {
            return frame;
        }
        let told = match self.lie {
            Lie::NoKeys if frame.starts_with(b">2\r\n$10\r\ninvalidate\r\n*") => Vec::new(),
            Lie::NoFlush if frame.starts_with(b">2\r\n$10\r\ninvalidate\r\n_") => Vec::new(),
            Lie::NoSwaps => replaced(&frame, b"\r\nswapdb\r\n", b"\r\nswap-b\r\n"),
            Lie::OtherValues => replaced(&frame, b"right", b"wrong"),
            Lie::NoKeys | Lie::NoFlush => return frame,
        };
        self.told.fetch_add(u64::from(told != frame), Ordering::SeqCst);
        told
    }
}

/// Both are as long.
fn replaced(frame: &[u8], what: &[u8], by: &[u8]) -> Vec<u8> {
    let mut out = frame.to_vec();
    let mut at = 0;
    while let Some(found) = out[at..].windows(what.len()).position(|bytes| bytes == what) {
        out[at + found..at + found + by.len()].copy_from_slice(by);
        at += found + by.len();
    }
    out
}
