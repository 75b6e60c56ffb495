//! The proxy as a process: started, asked, stopped.
//!
//! Its log is kept and shown when the test fails. A panic in the log fails the test, whatever else it proved.

use std::fmt::Display;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use super::redis::{Redis, free_port, loopback};
use super::tls::{Authority, Tunnel, client_side};
use super::{AT_LAST, Client, MAX_STALENESS, Value, WORKERS, eventually};

/// A proxy, or with `CREMA_TEST_DIRECT=1` the bare server in its place.
pub struct Crema {
    addr: SocketAddr,
    admin: SocketAddr,
    process: Option<Process>,
    /// What carries clients to it, and it to its upstream.
    tunnels: Vec<Tunnel>,
    /// Its settings, where they are a file of its own.
    settings: Option<NamedTempFile>,
}

struct Process {
    child: Child,
    /// What it writes to its standard error. It is a file, so that what has been written can be read.
    log: NamedTempFile,
}

/// How a proxy is to be started.
pub struct Launch {
    upstream: SocketAddr,
    url: String,
    flags: Vec<(String, String)>,
    also_at: Option<String>,
    log: Option<&'static str>,
    await_ready: bool,
    open_files: Option<u32>,
    settings: Option<NamedTempFile>,
    /// Where it is to listen, for clients and for admins; anywhere, if nothing is said.
    place: Option<(SocketAddr, SocketAddr)>,
}

impl Launch {
    /// Sets a flag, in place of the value that it has in these tests.
    pub fn flag(mut self, name: &str, value: impl Display) -> Launch {
        self.flags.retain(|(known, _)| known != name);
        self.flags.push((name.to_owned(), value.to_string()));
        self
    }

    /// A file with these settings, there for as long as the proxy is.
    pub fn settings(self, text: &str) -> Launch {
        let file = NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("it can be written");
        let launch = self.flag("--config", file.path().display());
        Launch { settings: Some(file), ..launch }
    }

    /// Leaves a flag out that it has in these tests.
    pub fn without_flag(mut self, name: &str) -> Launch {
        self.flags.retain(|(known, _)| known != name);
        self
    }

    /// What `RUST_LOG` is to be.
    pub fn log(mut self, level: &'static str) -> Launch {
        self.log = Some(level);
        self
    }

    /// The upstream URL in full, where an address is not enough.
    pub fn url(mut self, url: String) -> Launch {
        self.url = url;
        self
    }

    /// The settings name the upstream, not a flag.
    pub fn url_in_settings(self) -> Launch {
        self.url(String::new())
    }

    /// Listens on a Unix socket as well.
    pub fn also_at(mut self, path: &Path) -> Launch {
        self.also_at = Some(path.display().to_string());
        self
    }

    /// Listens under TLS as well.
    pub fn also_under_tls(self, addr: SocketAddr) -> Launch {
        self.also_on(&format!("tls://{addr}"))
    }

    /// Listens there as well, as `listen` has it.
    pub fn also_on(mut self, listen: &str) -> Launch {
        self.also_at = Some(listen.to_owned());
        self
    }

    /// Allows it no more than so many open files.
    pub fn open_files(mut self, limit: u32) -> Launch {
        self.open_files = Some(limit);
        self
    }

    /// Listens where that one does.
    pub fn in_place_of(mut self, other: &Crema) -> Launch {
        self.place = Some((other.addr, other.admin));
        self
    }

    /// Returns as soon as it listens, ready or not.
    pub fn without_waiting(mut self) -> Launch {
        self.await_ready = false;
        self
    }

    pub fn start(self) -> Crema {
        if std::env::var_os("CREMA_TEST_DIRECT").is_some() {
            return Crema {
                addr: self.upstream,
                admin: self.upstream,
                process: None,
                tunnels: Vec::new(),
                settings: None,
            };
        }
        for _ in 0..3 {
            if let Some(mut crema) = self.try_start() {
                crema.settings = self.settings;
                return crema;
            }
        }
        panic!("crema does not start: its ports are taken time and again");
    }

    /// Whether it is waited for, and will say of the fleet's channel whether it listens to that.
    fn has_channel(&self) -> bool {
        let others = ["--channel-enabled", "--coherence", "--config", "--l1-size", "--mode"];
        self.await_ready && self.log.is_none() && !self.flags.iter().any(|(name, _)| others.contains(&name.as_str()))
    }

    /// `None` when one of the ports was taken in between.
    fn try_start(&self) -> Option<Crema> {
        let (addr, admin) = self.place.unwrap_or_else(|| (loopback(free_port()), loopback(free_port())));
        let mut command = match self.open_files {
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")]).arg(crate::program());
                shell
            }
            None => Command::new(crate::program()),
        };
        let also = self.also_at.as_ref().map_or_else(String::new, |also| format!(",{also}"));
        // Where the URL names something else than the address of a server, that is what the test is about.
        let plain =
            self.url.strip_prefix("redis://").and_then(|rest| Some((rest, rest.find(&self.upstream.to_string())?)));
        let is_secure = std::env::var_os("CREMA_TEST_TLS").is_some() && plain.is_some();
        let (mut scheme, mut url, mut tunnels) = ("", self.url.clone(), Vec::new());
        if let (true, Some((rest, _))) = (is_secure, plain) {
            let authority = Authority::of_tunnels();
            let own = authority.issue(&format!("tunnel-{}", addr.port()), &["127.0.0.1"]);
            let tunnel = Tunnel::out_to(self.upstream, &own);
            let rest = rest.replace(&self.upstream.to_string(), &tunnel.addr().to_string());
            (scheme, url) = ("tls://", format!("rediss://{rest}?ca={}", authority.ca().display()));
            command.arg("--tls-cert").arg(&own.cert).arg("--tls-key").arg(&own.key);
            tunnels.push(tunnel);
        }
        command.args(["--listen", &format!("{scheme}{addr}{also}"), "--admin", &admin.to_string()]);
        if !url.is_empty() {
            command.args(["--upstream", &url]);
        }
        command.args(self.flags.iter().flat_map(|(name, value)| [name, value]));
        // The tests' own knobs look like its variables.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CREMA_")) {
            command.env_remove(name);
        }
        if let Some(level) = self.log {
            command.env("RUST_LOG", level);
        }
        let log = NamedTempFile::new().expect("a temporary file");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.as_file().try_clone().expect("a second handle"))
            .spawn()
            .expect("the binary was built");
        let mut crema = Crema { addr, admin, process: Some(Process { child, log }), tunnels, settings: None };
        let listening = format!("listening on {scheme}{addr}");
        let deadline = Instant::now() + AT_LAST;
        while !(crema.has_logged(&listening) && (!self.await_ready || crema.is_ready())) {
            if let Some(status) = crema.exit_status() {
                let log = crema.log();
                crema.process = None;
                assert!(log.contains("in use"), "crema ended with {status}:\n{log}");
                return None;
            }
            assert!(Instant::now() < deadline, "crema is not ready (waited for {listening:?} and /readyz)");
            std::thread::sleep(Duration::from_millis(3));
        }
        // When it begins to listen to the channel it forgets what it holds. A test of what it holds should come behind that.
        let deadline = Instant::now() + Duration::from_secs(1);
        while self.has_channel() && !crema.has_logged("listening to the fleet's channel") && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(3));
        }
        if is_secure {
            let tunnel = Tunnel::into(addr, client_side(&Authority::of_tunnels().ca(), None));
            crema.addr = tunnel.addr();
            crema.tunnels.push(tunnel);
        }
        Some(crema)
    }
}

impl Crema {
    /// A proxy in front of `redis` with every read key promoted.
    pub fn start(redis: &Redis) -> Crema {
        Crema::over(redis.addr()).start()
    }

    /// A proxy whose upstream is `addr`, with these tests' defaults, still to be started.
    pub fn over(addr: SocketAddr) -> Launch {
        let defaults = [
            ("--promote", "1".to_owned()),
            ("--threads", WORKERS.to_string()),
            ("--max-staleness", format!("{}ms", MAX_STALENESS.as_millis())),
        ];
        let mut flags: Vec<_> = defaults.map(|(name, value)| (name.to_owned(), value)).into();
        if let Ok(coherence) = std::env::var("CREMA_TEST_COHERENCE") {
            flags.push(("--coherence".to_owned(), coherence));
        }
        let url = format!("redis://{addr}");
        Launch {
            upstream: addr,
            url,
            flags,
            also_at: None,
            log: None,
            await_ready: true,
            open_files: None,
            settings: None,
            place: None,
        }
    }

    /// Whether this is the bare server, and metrics cannot be asked for.
    pub fn is_direct(&self) -> bool {
        self.process.is_none()
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn admin_port(&self) -> u16 {
        self.admin.port()
    }

    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.addr)
    }

    #[track_caller]
    pub fn resp3(&self) -> Client {
        Client::resp3(self.addr)
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("a proxy of our own").child.id()
    }

    /// The status and the body of an admin page; `None` while the admin port does not answer.
    pub fn admin(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.admin, AT_LAST).ok()?;
        stream.set_read_timeout(Some(AT_LAST)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        assert!(!head.to_ascii_lowercase().contains("chunked"), "an admin page of known length:\n{head}");
        Some((status, body.to_owned()))
    }

    /// The status and the body of the answer to an order at the admin port.
    #[track_caller]
    pub fn order(&self, path: &str, token: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect_timeout(&self.admin, AT_LAST).expect("the admin port listens");
        stream.set_read_timeout(Some(AT_LAST)).expect("a deadline above zero");
        let shown = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let (host, length) = (self.admin, body.len());
        let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{shown}Content-Length: {length}\r\n");
        write!(stream, "{head}Connection: close\r\n\r\n{body}").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    pub fn is_ready(&self) -> bool {
        self.admin("/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// The sum of a metric's series that carry all these labels. A metric that is not there is zero, as one is that has
    /// labels and has not happened; so test against zero only beside something that must not be zero.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let (status, page) = self.admin("/metrics").expect("the admin port answers");
        assert_eq!(status, 200, "/metrics: {page}");
        let wanted: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let series = page.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, its_labels) = series.split_once('{').unwrap_or((series, ""));
            (found == name && wanted.iter().all(|label| its_labels.contains(label)))
                .then(|| value.parse::<f64>().ok())?
        });
        series.sum()
    }

    /// A metric that counts.
    #[track_caller]
    #[expect(clippy::cast_sign_loss, reason = "counters are not negative")]
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.metric(name, labels) as u64
    }

    /// Requests that had this outcome.
    #[track_caller]
    pub fn outcomes(&self, outcome: &str) -> u64 {
        self.count("crema_requests_total", &[("outcome", outcome)])
    }

    /// Requests taken up so far, answered or not.
    #[track_caller]
    pub fn taken_up(&self) -> u64 {
        self.count("crema_requests_total", &[]) + self.waiting()
    }

    /// Requests that are not answered yet.
    #[track_caller]
    pub fn waiting(&self) -> u64 {
        self.count("crema_requests_waiting", &[])
    }

    /// Reads a key until L1 answers it.
    #[track_caller]
    pub fn warm<A: AsRef<[u8]>>(&self, command: &[A]) {
        if self.is_direct() {
            return;
        }
        let mut client = self.client();
        let before = self.outcomes("hit");
        eventually("L1 answers a key that is read again and again", || {
            client.cmd(command);
            self.outcomes("hit") > before
        });
    }

    /// Does what is about L1 while it answers. Where the machine stands still its lease lapses, or it forgets all for a connection that
    /// it has lost, and what reads find then says nothing of what was in L1; so it is done again.
    #[track_caller]
    pub fn with_lease<T>(&self, mut work: impl FnMut() -> T) -> T {
        let lapses = || {
            if self.is_direct() { 0 } else { self.outcomes("blind") + self.count("crema_epochs_total", &[]) }
        };
        for _ in 0..20 {
            let before = lapses();
            let done = work();
            if lapses() == before {
                return done;
            }
        }
        panic!("the lease lapses again and again");
    }

    /// The reply to a read that L1 answers at once.
    #[track_caller]
    pub fn hit<A: AsRef<[u8]>>(&self, client: &mut Client, command: &[A]) -> Value {
        let hits = || if self.is_direct() { 0 } else { self.outcomes("hit") };
        let (reply, count) = self.with_lease(|| {
            // A blind read would put anew into L1 what may not have been there.
            eventually("there is a lease", || self.is_direct() || self.count("crema_lease_held", &[]) > 0);
            let before = hits();
            (client.cmd(command), hits() - before)
        });
        assert!(count == 1 || self.is_direct(), "L1 answers: {reply:?}");
        reply
    }

    /// Waits until it hears the fleet's channel, which being ready does not say. Where coherence comes that way the ear hears it.
    #[track_caller]
    pub fn await_channel(&self) {
        if !self.is_direct() && std::env::var_os("CREMA_TEST_COHERENCE").is_none() {
            eventually("it listens to the channel", || self.has_logged(": listening to the fleet's channel"));
        }
    }

    pub fn log(&self) -> String {
        let Some(process) = &self.process else { return String::new() };
        let text = std::fs::read(process.log.path()).expect("our own file");
        String::from_utf8_lossy(&text).trim_end_matches('\n').to_owned()
    }

    pub fn has_logged(&self, text: &str) -> bool {
        self.log().contains(text)
    }

    /// Asks it to end, as an orchestrator does.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("our own child");
    }

    /// How it ended, once it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.child.try_wait().expect("our own child")
    }
}

impl Drop for Crema {
    fn drop(&mut self) {
        let addr = self.addr;
        let Some(process) = &mut self.process else { return };
        // An error means that it has ended already.
        let _ = process.child.kill();
        let _ = process.child.wait();
        let log = self.log();
        if std::thread::panicking() {
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- crema on {addr}, last lines of its log:");
            lines[lines.len().saturating_sub(60)..].iter().for_each(|line| eprintln!("{line}"));
        } else {
            assert!(!log.contains("panicked at"), "crema panicked:\n{log}");
        }
    }
}
