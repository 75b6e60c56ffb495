//! A blocking RESP client that shows the bytes.
//!
//! It sends what it is given and reads exactly one reply at a time. It never retries, never reconnects and never
//! reads ahead of what it is asked for beyond its buffer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::SmallRng;

use super::AT_LAST;
use super::value::{Scan, Value};

/// How long a reply may take before a test fails, unless it says otherwise.
const PATIENCE: Duration = AT_LAST;

pub struct Client {
    stream: TcpStream,
    buf: Vec<u8>,
    start: usize,
    scan: Scan,
}

/// One command as RESP.
pub fn pack<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

impl Client {
    #[track_caller]
    pub fn connect(addr: SocketAddr) -> Client {
        Client::try_connect(addr).unwrap_or_else(|e| panic!("no connection to {addr}: {e}"))
    }

    pub fn try_connect(addr: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client { stream, buf: Vec::new(), start: 0, scan: Scan::default() })
    }

    /// A connection that has said `HELLO 3`.
    #[track_caller]
    pub fn resp3(addr: SocketAddr) -> Client {
        let mut client = Client::connect(addr);
        let hello = client.cmd(&["HELLO", "3"]);
        assert!(matches!(hello, Value::Map(_)), "HELLO 3: {hello:?}");
        client
    }

    /// `version` is 2 or 3.
    #[track_caller]
    pub fn speaking(version: u8, addr: SocketAddr) -> Client {
        if version == 3 { Client::resp3(addr) } else { Client::connect(addr) }
    }

    pub fn patience(&mut self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).expect("a read deadline above zero");
    }

    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap_or_else(|e| panic!("cannot send: {e}"));
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    #[track_caller]
    pub fn send_cmd<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        self.send(&pack(args));
    }

    /// The next reply's bytes.
    #[track_caller]
    pub fn reply(&mut self) -> Vec<u8> {
        self.try_reply().unwrap_or_else(|e| panic!("no reply: {e}"))
    }

    pub fn try_reply(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let found = self.scan.end(&self.buf[self.start..]);
            if let Some(len) = found.map_err(|text| io::Error::new(ErrorKind::InvalidData, text))? {
                let reply = self.buf[self.start..self.start + len].to_vec();
                self.start += len;
                self.scan = Scan::default();
                return Ok(reply);
            }
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    #[track_caller]
    pub fn value(&mut self) -> Value {
        Value::parse(&self.reply())
    }

    pub fn try_value(&mut self) -> io::Result<Value> {
        Ok(Value::parse(&self.try_reply()?))
    }

    #[track_caller]
    pub fn cmd<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Value {
        self.send_cmd(args);
        self.value()
    }

    pub fn try_cmd<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<Value> {
        self.try_send(&pack(args))?;
        self.try_value()
    }

    /// Sends all in one write, then reads as many replies.
    #[track_caller]
    pub fn pipeline<A: AsRef<[u8]>, C: AsRef<[A]>>(&mut self, commands: &[C]) -> Vec<Value> {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| pack(command.as_ref())).collect();
        self.send(&bytes);
        commands.iter().map(|_| self.value()).collect()
    }

    /// Writes in up to thirty pieces, cut anywhere.
    pub fn send_in_pieces(&mut self, bytes: &[u8], rng: &mut SmallRng) {
        let mut cuts: Vec<usize> = (0..rng.random_range(0..30)).map(|_| rng.random_range(0..=bytes.len())).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let mut from = 0;
        for cut in cuts {
            if self.try_send(&bytes[from..cut]).is_err() {
                // The other side has had enough, which is what its answer will show.
                return;
            }
            from = cut;
            if rng.random_bool(0.3) {
                std::thread::sleep(Duration::from_micros(300));
            }
        }
    }

    /// Whether nothing has come within `quiet`.
    pub fn is_silent_for(&mut self, quiet: Duration) -> bool {
        let before = self.buf.len() - self.start;
        self.patience(quiet);
        let read = self.fill();
        self.patience(PATIENCE);
        before == 0 && matches!(read, Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }

    /// All bytes until the other side closes.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.fill() {
                Ok(0) => return Ok(self.buf.split_off(self.start)),
                Ok(_) => {}
                // What was still unread at the other side when it closed turns its end into a reset.
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(self.buf.split_off(self.start)),
                Err(e) => return Err(e),
            }
        }
    }

    /// Bytes up to and including `end`.
    pub fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        let mut seen = self.start;
        loop {
            let from = seen.saturating_sub(end.len()).max(self.start);
            if let Some(at) = self.buf[from..].windows(end.len()).position(|window| window == end) {
                let past = from + at + end.len();
                let bytes = self.buf[self.start..past].to_vec();
                self.start = past;
                return Ok(bytes);
            }
            seen = self.buf.len();
            let start = self.start;
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            seen -= start - self.start;
        }
    }

    /// Whether the other side has closed, or closes within `limit`; bytes still coming are thrown away.
    pub fn closes_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        self.patience(Duration::from_millis(20));
        while Instant::now() < deadline {
            self.buf.clear();
            self.start = 0;
            match self.fill() {
                Ok(0) => return true,
                Err(e) if !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return true,
                _ => {}
            }
        }
        false
    }

    pub fn shutdown(&self, how: Shutdown) {
        // A connection that is gone already is as shut as can be.
        let _ = self.stream.shutdown(how);
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn fill(&mut self) -> io::Result<usize> {
        if self.start == self.buf.len() {
            self.buf.clear();
            self.start = 0;
        } else if self.start > 1 << 20 {
            self.buf.drain(..self.start);
            self.start = 0;
        }
        let len = self.buf.len();
        self.buf.resize(len + (64 << 10), 0);
        let read = loop {
            match self.stream.read(&mut self.buf[len..]) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buf.truncate(len + *read.as_ref().unwrap_or(&0));
        read
    }
}
