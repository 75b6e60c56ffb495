//! crema as a process that somebody runs: signals, readiness, the sockets that it binds, and what its log says.

use std::collections::HashMap;
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::redis::free_port;
use common::{AT_LAST, Client, Crema, Link, Redis, eventually, ok, simple, within};
use rustix::process::{Pid, Signal, kill_process};

fn readyz(crema: &Crema) -> (u16, String) {
    crema.admin("/readyz").unwrap_or_default()
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let redis = Redis::start();
    for (signal, code) in [(Signal::TERM, 128 + 15), (Signal::INT, 128 + 2)] {
        let mut crema = Crema::over(redis.addr()).flag("--drain-timeout", "1h").start();
        if crema.is_direct() {
            return;
        }
        let mut client = crema.client();
        client.send_cmd(&["BLPOP", "nothing", "0"]);
        eventually("it waits", || crema.waiting() == 1);
        crema.signal(signal);
        eventually("it is to stop", || readyz(&crema).0 == 503);
        assert!(crema.exit_status().is_none(), "a session may finish");
        crema.signal(signal);
        eventually("it ends", || crema.exit_status().is_some());
        assert_eq!(crema.exit_status().and_then(|status| status.code()), Some(code));
        assert!(client.closes_within(AT_LAST));
    }
}

#[test]
fn readiness_ends_first_and_clients_are_served_for_the_delay() {
    let redis = Redis::start();
    let mut crema = Crema::over(redis.addr()).flag("--drain-delay", "1h").start();
    if crema.is_direct() {
        return;
    }
    let mut old = crema.client();
    assert_eq!(old.cmd(&["PING"]), simple("PONG"));
    crema.terminate();
    eventually("it is not ready", || readyz(&crema) == (503, "crema was told to stop\n".to_owned()));
    assert_eq!(old.cmd(&["SET", "k", "v"]), ok());
    assert_eq!(crema.client().cmd(&["SET", "k", "v"]), ok(), "new clients are taken on");
    crema.terminate();
    eventually("a second signal ends it", || crema.exit_status().is_some());

    let mut crema = Crema::over(redis.addr()).flag("--drain-delay", "100ms").start();
    crema.terminate();
    eventually("it ends when the delay is over", || crema.exit_status().is_some());
    assert!(crema.exit_status().is_some_and(|status| status.success()));
}

#[test]
fn other_signals_do_not_kill() {
    let redis = Redis::start();
    let mut crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    for (signal, said) in [(Signal::HUP, "SIGHUP"), (Signal::USR1, "SIGUSR1"), (Signal::USR2, "SIGUSR2")] {
        crema.signal(signal);
        eventually("it says so", || crema.has_logged(said));
    }
    assert_eq!(crema.client().cmd(&["PING"]), simple("PONG"));
    assert!(crema.exit_status().is_none());
}

#[test]
fn it_is_not_ready_while_writes_are_refused_as_by_a_replica() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    let nobody = free_port().to_string();
    assert_eq!(redis.client().cmd(&["REPLICAOF", "127.0.0.1", &nobody]), ok());
    // Reads go on: that alone is no reason to take it out of service.
    assert_eq!(client.cmd(&["GET", "k"]).text(), "v");
    assert_eq!(readyz(&crema).0, 200);
    let mut writes = crema.client();
    let refused = writes.try_cmd(&["SET", "k", "w"]);
    assert!(!refused.as_ref().is_ok_and(|reply| !reply.is_error()), "{refused:?}");
    eventually("it is not ready", || readyz(&crema).0 == 503);
    let (_, why) = readyz(&crema);
    assert!(why.contains("READONLY"), "{why}");
    std::thread::sleep(Duration::from_millis(2_500)); // some looks later
    assert_eq!(readyz(&crema).0, 503, "nobody writes, and nothing has changed");
    assert_eq!(redis.client().cmd(&["REPLICAOF", "NO", "ONE"]), ok());
    eventually("it is ready again, though nobody has written", || readyz(&crema).0 == 200);
    assert_eq!(crema.client().cmd(&["SET", "k", "w"]), ok());
}

#[test]
fn it_is_not_ready_while_commands_get_no_answer_though_it_is_answered_itself() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).flag("--response-timeout", "200ms").start();
    if crema.is_direct() {
        return;
    }
    link.late("nowhere", Duration::from_secs(3600));
    let asking = std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            for _ in 0..8 {
                let mut client = crema.client();
                client.patience(AT_LAST);
                let _ = client.try_cmd(&["GET", "nowhere"]);
            }
        });
        eventually("it is not ready", || readyz(&crema).1.contains("without an answer"));
        clients.join()
    });
    assert!(asking.is_ok());
    eventually("it is ready when that has passed", || readyz(&crema).0 == 200);
}

/// The program, which is to refuse to start.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_crema"))
        .args(["--upstream", "redis://127.0.0.1:1"])
        .args(arguments)
        .env_clear()
        .output()
        .expect("the program starts");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn a_file_that_is_no_socket_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").expect("written");
    let name = path.to_str().expect("UTF-8");
    let (code, said) = refused(&["--listen", name, "--admin", "off"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("listen: cannot listen on") && said.contains("no socket"), "{said}");
    assert_eq!(std::fs::read_to_string(&path).expect("still there"), "data");
}

#[test]
fn a_socket_that_nobody_serves_is_replaced_and_one_that_somebody_serves_is_not() {
    let redis = Redis::start();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("crema.sock");
    let name = path.to_str().expect("UTF-8");
    let served = UnixListener::bind(&path).expect("bound");
    let (code, said) = refused(&["--listen", name, "--admin", "off"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another program serves there"), "{said}");
    assert!(UnixStream::connect(&path).is_ok(), "it is served still");
    drop(served);
    let mut child = Command::new(env!("CARGO_BIN_EXE_crema"))
        .args(["--upstream", &format!("redis://{}", redis.addr()), "--listen", name, "--admin", "off"])
        .env_clear()
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    eventually("it listens", || UnixStream::connect(&path).is_ok());
    child.kill().expect("our own child");
    child.wait().expect("our own child");
}

#[test]
fn an_address_that_cannot_be_had_is_told_with_its_setting_and_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let (code, said) = refused(&["--listen", &address, "--admin", "off"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("listen: cannot listen on {address}")) && said.contains("give another"), "{said}");
    let (_, said) = refused(&["--listen", "127.0.0.1:0", "--admin", &address]);
    assert!(said.contains(&format!("admin: cannot listen on {address}")), "{said}");
    let (_, said) = refused(&["--listen", "/nowhere/at/all.sock", "--admin", "off"]);
    assert!(said.contains("the directory is not there"), "{said}");
}

#[test]
fn the_log_begins_with_version_and_settings_and_tells_whom_it_refuses() {
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).flag("--max-clients", 1).start();
    if crema.is_direct() {
        return;
    }
    let begins = format!("crema {} starts", env!("CARGO_PKG_VERSION"));
    assert!(crema.has_logged(&begins) && crema.has_logged("settings: listen "), "{}", crema.log());
    let _one = crema.client();
    eventually("one is there", || crema.count("crema_sessions", &[]) == 1);
    let mut other = Client::connect(crema.addr());
    assert!(other.closes_within(AT_LAST));
    eventually("that is told", || crema.has_logged("a client was refused") && crema.has_logged("max_clients=1"));
}

#[test]
fn debug_tells_of_connections() {
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).log("crema=debug").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    crema.warm(&["GET", "k"]);
    assert_eq!(client.cmd(&["MULTI"]), ok());
    client.cmd(&["EXEC"]);
    assert_eq!(client.cmd(&["PING"]), simple("PONG"));
    // Who borrows is told, and how each connection ends.
    let address = client.stream().local_addr().expect("it is connected");
    assert_eq!(client.cmd(&["SUBSCRIBE", "c"]).items().len(), 3);
    drop(client);
    let said = |what: &str| eventually(what, || crema.has_logged(what));
    for what in ["a client has connected", "crema-lane", "crema-ear", "is over", "disconnected"] {
        said(what);
    }
    for what in
        ["borrows a connection", "gives a connection back", "keeps a connection for life", "its connection with it"]
    {
        let is_told = |line: &str| line.contains(what) && line.contains(&format!("client=\"{address}\""));
        eventually(what, || crema.log().lines().any(is_told));
    }
    // And that one was lost, and made anew.
    let connected = || crema.log().lines().filter(|line| line.contains(": connected upstream=")).count();
    let before = connected();
    redis.client().cmd(&["CLIENT", "KILL", "TYPE", "normal"]);
    eventually("it is told", || {
        let _ = Client::try_connect(crema.addr()).and_then(|mut client| client.try_cmd(&["GET", "other"]));
        connected() > before
    });
}

#[test]
fn an_outage_does_not_write_each_warning_again_and_again() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).start();
    if crema.is_direct() {
        return;
    }
    crema.warm(&["GET", "k"]);
    link.down();
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        if let Ok(mut client) = Client::try_connect(crema.addr()) {
            let _ = client.try_cmd(&["GET", "k"]);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    within(Duration::from_secs(60), "what was not written is told of", || crema.has_logged("more times in 10 s"));
    let log = crema.log();
    let mut times: HashMap<&str, u32> = HashMap::new();
    for line in log.lines().filter(|line| line.contains(" WARN ") && !line.contains(" in 10 s: ")) {
        *times.entry(line.split_once(" WARN ").expect("it is there").1).or_default() += 1;
    }
    assert!(!times.is_empty(), "{log}");
    // What ended and came back is written again; this takes less than two times of ten seconds.
    assert!(times.values().all(|&times| times <= 2), "{times:#?}");
}

/// How `crema healthcheck` ends, and what it says.
fn checked(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crema"));
    let output = command.env_remove("CREMA_ADMIN").args(arguments).arg("healthcheck").output().expect("the program");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_health_check_tells_by_its_exit_code_whether_crema_is_ready() {
    let mut redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    let admin = format!("0.0.0.0:{}", crema.admin_port());
    assert_eq!(checked(&["--admin", &admin]), (Some(0), "ready\n".to_owned()));
    redis.kill();
    eventually("it is not ready", || readyz(&crema).0 == 503);
    let (code, said) = checked(&["--admin", &admin]);
    assert!(code == Some(1) && said.starts_with("not ready: ") && said.len() > 20, "{said}");
    drop(crema);
    let (code, said) = checked(&["--admin", &admin]);
    assert!(code == Some(1) && said.contains("refused"), "{said}");
    assert_eq!(checked(&["--admin", "off"]).0, Some(2));
}

/// As systemd asks for it.
#[test]
fn a_supervisor_is_told_of_start_state_and_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = UnixDatagram::bind(directory.path().join("notify")).expect("a new path");
    socket.set_read_timeout(Some(AT_LAST)).expect("a socket");
    let hear = || {
        let mut heard = [0; 4096];
        let len = socket.recv(&mut heard).expect("it is told");
        String::from_utf8_lossy(&heard[..len]).into_owned()
    };
    let mut redis = Redis::start();
    let [listen, admin] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_crema"));
    command.args(["--listen", &listen, "--admin", &admin, "--upstream", &format!("redis://{}", redis.addr())]);
    command.env("NOTIFY_SOCKET", directory.path().join("notify")).stderr(Stdio::null());
    redis.kill();
    let mut crema = command.spawn().expect("the program");
    assert_eq!(hear(), "READY=1\n", "it has started, though Redis is away");
    let until = |wanted: &str| while !hear().starts_with(wanted) {};
    until("STATUS=not ready: ");
    redis.restart();
    until("STATUS=ready\n");
    let pid = i32::try_from(crema.id()).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, Signal::TERM).expect("our own child");
    until("STOPPING=1\n");
    assert!(crema.wait().expect("our own child").success());
}

/// As systemd starts it: with sockets from the third file on, and variables that tell of them.
fn activated(sockets: Vec<std::os::fd::OwnedFd>, arguments: &[&str]) -> Command {
    // A shell puts them where they belong, and knows the number of the process that it becomes.
    let count = sockets.len();
    let mut files = sockets.into_iter();
    let mut command = Command::new("sh");
    command.stdin(files.next().expect("there is one"));
    let second = files.next().map_or("", |second| {
        command.stdout(second);
        " 4<&1 1>/dev/null"
    });
    let variables = format!("LISTEN_FDS={count} LISTEN_PID=$$ LISTEN_FDNAMES=one:two");
    let script = format!("exec 3<&0 0</dev/null{second}; export {variables}; exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_crema")]).args(arguments);
    command
}

#[test]
fn sockets_that_a_supervisor_keeps_are_served_and_stay_open_while_it_restarts() {
    let redis = Redis::start();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("c.sock");
    let unix = UnixListener::bind(&path).expect("a new path");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = tcp.local_addr().expect("bound");
    let both = || {
        let [unix, tcp] = [unix.try_clone().map(Into::into), tcp.try_clone().map(Into::into)];
        vec![unix.expect("a copy"), tcp.expect("a copy")]
    };
    let listen = format!("{address},{}", path.display());
    let url = format!("redis://{}", redis.addr());
    let arguments = ["--upstream", &url, "--listen", &listen, "--admin", "off"];
    let start = || activated(both(), &arguments).stderr(Stdio::null()).spawn().expect("a shell");
    let stop = |mut child: std::process::Child| {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, Signal::TERM).expect("our own child");
        assert!(child.wait().expect("our own child").success());
    };
    let serves = || {
        let mut client = Client::connect(address);
        client.patience(AT_LAST);
        assert_eq!(client.cmd(&["PING"]), simple("PONG"));
        let mut stream = UnixStream::connect(&path).expect("it listens");
        std::io::Write::write_all(&mut stream, b"PING\r\n").expect("it reads");
        let mut reply = [0; 7];
        std::io::Read::read_exact(&mut stream, &mut reply).expect("it answers");
    };
    let first = start();
    serves();
    stop(first);
    assert!(path.exists(), "the file is not its own");
    let mut waits = Client::try_connect(address).expect("nobody is refused while nobody serves");
    waits.send_cmd(&["PING"]);
    let second = start();
    assert_eq!(waits.value(), simple("PONG"));
    serves();
    stop(second);
}

#[test]
fn while_redis_is_away_whoever_connects_to_a_socket_that_a_supervisor_keeps_is_reset() {
    let mut redis = Redis::start();
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = tcp.local_addr().expect("bound");
    let url = format!("redis://{}", redis.addr());
    let arguments = ["--upstream", &url, "--listen", &address.to_string(), "--admin", "off"];
    let copy = tcp.try_clone().expect("a copy").into();
    let mut child = activated(vec![copy], &arguments).stderr(Stdio::null()).spawn().expect("a shell");
    let says_pong = || -> std::io::Result<bool> {
        let mut client = Client::try_connect(address)?;
        Ok(client.try_cmd(&["PING"])? == simple("PONG"))
    };
    eventually("it serves", || says_pong().is_ok_and(|pong| pong));
    redis.kill();
    eventually("whoever connects is reset", || {
        says_pong().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    });
    redis.restart();
    eventually("it serves again", || says_pong().is_ok_and(|pong| pong));
    child.kill().expect("our own child");
    child.wait().expect("our own child");
}

#[test]
fn a_socket_that_no_setting_names_is_told_of_and_so_is_what_is_no_listening_socket() {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = tcp.local_addr().expect("bound");
    let arguments = ["--upstream", "redis://127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin", "off"];
    let ends = |socket: std::os::fd::OwnedFd| {
        let output = activated(vec![socket], &arguments).output().expect("a shell");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = ends(tcp.into());
    assert!(code == Some(1) && said.contains(&format!("a socket at {address}, which neither")), "{said}");
    let (one, _other) = UnixStream::pair().expect("a pair");
    let (code, said) = ends(one.into());
    assert!(code == Some(1) && said.contains("socket 0 of LISTEN_FDS, `one`, cannot be used"), "{said}");
}
