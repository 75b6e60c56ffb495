//! A Memcached of one's own for a test, where one is installed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::client::Client;
use super::eventually;
use super::redis::{free_port, loopback};

pub struct Memcached {
    addr: SocketAddr,
    program: PathBuf,
    child: Child,
}

impl Memcached {
    /// None where none is installed, which is a fault where `CI` is set.
    pub fn start() -> Option<Memcached> {
        let program = ["/usr/bin/memcached", "/usr/local/bin/memcached"].into_iter().map(PathBuf::from);
        let Some(program) = program.into_iter().find(|path| path.exists()) else {
            assert!(std::env::var_os("CI").is_none(), "no memcached: `make test` installs it");
            return None;
        };
        let launched = (0..5).find_map(|_| {
            let addr = loopback(free_port());
            Some((addr, launch(&program, addr)?))
        });
        let (addr, child) = launched.expect("one of five ports was free");
        Some(Memcached { addr, program, child })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }

    /// Starts it again, empty, on the same port.
    pub fn restart(&mut self) {
        self.kill();
        self.child = launch(&self.program, self.addr).expect("nobody took its port");
    }

    /// Keeps it from doing anything until [`Memcached::thaw`].
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// What lies under a name.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        let mut client = Client::connect(self.addr);
        client.send(format!("mg {name} v\r\n").as_bytes());
        let line = client.until(b"\r\n").expect("it answers");
        let size: usize = std::str::from_utf8(line.strip_prefix(b"VA ")?).ok()?.trim().parse().expect("a size");
        let mut value = Vec::new();
        while value.len() < size + 2 {
            value.extend(client.until(b"\r\n").expect("it answers"));
        }
        value.truncate(size);
        Some(value)
    }

    /// Puts this under a name, for an hour.
    pub fn set(&self, name: &str, value: &[u8]) {
        let mut client = Client::connect(self.addr);
        client.send(&[format!("ms {name} {} T3600\r\n", value.len()).as_bytes(), value, b"\r\n"].concat());
        assert_eq!(client.until(b"\r\n").expect("it answers"), b"HD\r\n");
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("our own child");
    }
}

/// None where it ended: another process took its port in between.
fn launch(program: &PathBuf, addr: SocketAddr) -> Option<Child> {
    let mut command = Command::new(program);
    command.args(["-l", "127.0.0.1", "-U", "0", "-u", "nobody", "-m", "32", "-p", &addr.port().to_string()]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is there");
    let (pid, mut has_ended) = (format!("STAT pid {}\r\n", child.id()), false);
    eventually("our own Memcached answers", || {
        has_ended = child.try_wait().expect("our own child").is_some();
        has_ended || says_of_itself(addr).is_some_and(|said| said.contains(&pid))
    });
    (!has_ended).then_some(child)
}

/// What the Memcached there says of itself, where there is one.
fn says_of_itself(addr: SocketAddr) -> Option<String> {
    let mut client = Client::try_connect(addr).ok()?;
    client.try_send(b"stats\r\n").ok()?;
    Some(String::from_utf8_lossy(&client.until(b"END\r\n").ok()?).into_owned())
}

impl Drop for Memcached {
    fn drop(&mut self) {
        self.kill();
    }
}
