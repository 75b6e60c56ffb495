//! Passwords of crema's own that change while it runs: what is logged in with them follows, and no client sees anything of it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::redis::{free_port, loopback};
use common::{Client, Crema, Redis, Value, bulk, eventually, ok};

/// From one password to the next; the last and the one before it are valid.
const ROTATION: Duration = Duration::from_secs(2);
/// A connection that has not logged in for so long is ended, as by a service whose tokens are valid for so long.
const VALID: Duration = Duration::from_secs(6);

/// What stands between crema and Redis: it ends connections that have logged in and do not so again in time.
struct Service {
    addr: SocketAddr,
    logins: Arc<AtomicU32>,
    ended: Arc<AtomicU32>,
}

type Carried = (TcpStream, TcpStream, Option<Instant>);

impl Service {
    fn before(redis: SocketAddr) -> Service {
        let listener = TcpListener::bind(loopback(free_port())).expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let (logins, ended) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (counted, expired) = (Arc::clone(&logins), Arc::clone(&ended));
        let carried: Arc<Mutex<Vec<Arc<Mutex<Carried>>>>> = Arc::default();
        let watched = Arc::clone(&carried);
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_millis(50));
                watched.lock().expect("nobody panics here").retain(|one| {
                    let one = one.lock().expect("nobody panics here");
                    let over = one.2.is_some_and(|login| login.elapsed() > VALID);
                    if over {
                        let _ = (one.0.shutdown(Shutdown::Both), one.1.shutdown(Shutdown::Both));
                        expired.fetch_add(1, Ordering::Relaxed);
                    }
                    !over
                });
            }
        });
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(redis) else { continue };
                let copy = |stream: &TcpStream| stream.try_clone().expect("a second handle");
                let one = Arc::new(Mutex::new((copy(&client), copy(&server), None)));
                carried.lock().expect("nobody panics here").push(Arc::clone(&one));
                let (from, to, counted) = (copy(&client), copy(&server), Arc::clone(&counted));
                thread::spawn(move || {
                    carry(from, to, |bytes| {
                        if bytes.windows(13).any(|at| at.eq_ignore_ascii_case(b"auth\r\n$3\r\napp")) {
                            one.lock().expect("nobody panics here").2 = Some(Instant::now());
                            counted.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                });
                thread::spawn(move || carry(server, client, |_| {}));
            }
        });
        Service { addr, logins, ended }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, look: impl Fn(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        look(&buffer[..n]);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// A Redis whose user `app` has this password, and its file.
fn with_file(password: &str) -> (Redis, tempfile::TempDir, String) {
    let redis = Redis::start();
    let rules = ["ACL", "SETUSER", "app", "on", &format!(">{password}"), "~*", "&*", "+@all"];
    assert_eq!(redis.client().cmd(&rules), ok());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("password");
    write(&file, password);
    let path = file.display().to_string();
    (redis, dir, path)
}

/// In one step, for it may be read at any time.
fn write(file: &Path, password: &str) {
    common::rewrite(file, password);
}

/// Uses everything that there is until `stop`, and panics at the first error.
fn load(mut client: Client, name: usize, stop: &AtomicBool) -> u64 {
    let (key, mut n) = (format!("key:{name}"), 0_u64);
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let value = n.to_string();
        assert_eq!(client.cmd(&["SET", &key, &value]), ok());
        for _ in 0..20 {
            assert_eq!(client.cmd(&["GET", &key]), bulk(&value));
        }
        let replies = client.pipeline(&[&["MULTI"][..], &["GET", &key], &["EXEC"]]);
        assert_eq!(replies[2], common::array([bulk(&value)]));
        assert!(client.cmd(&["BLPOP", "nothing", "0.01"]).is_nil());
    }
    n
}

#[test]
fn a_password_that_changes_every_two_seconds_is_followed_and_no_client_sees_it() {
    let (redis, _dir, path) = with_file("token-0");
    let service = Service::before(redis.addr());
    let crema = Crema::over(service.addr)
        .url(format!("redis://app:@{}", service.addr))
        .flag("--upstream-password-file", &path)
        .flag("--auth", "open")
        .start();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|name| (name, if name % 2 == 0 { crema.client() } else { crema.resp3() }))
            .map(|(name, client)| {
                scope.spawn({
                    let stop = &stop;
                    move || load(client, name, stop)
                })
            })
            .collect();
        let mut admin = redis.client();
        for n in 1..=8 {
            let (new, old) = (format!(">token-{n}"), format!("<token-{}", n - 2));
            let mut rules = vec!["ACL", "SETUSER", "app", &new];
            if n >= 2 {
                rules.push(&old);
            }
            assert_eq!(admin.cmd(&rules), ok());
            write(Path::new(&path), &format!("token-{n}"));
            thread::sleep(ROTATION);
            if clients.iter().any(thread::ScopedJoinHandle::is_finished) {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            assert!(client.join().expect("no client saw an error") > 10);
        }
    });
    assert_eq!(crema.count("crema_lanes_lost_total", &[]), 0, "shared connections have logged in anew");
    assert_eq!(crema.count("crema_errors_total", &[]), 0);
    let (logins, ended) = (service.logins.load(Ordering::Relaxed), service.ended.load(Ordering::Relaxed));
    assert!(logins > 20, "{logins} logins, {ended} connections ended");
    crema.warm(&["GET", "key:0"]);
}

#[test]
fn a_command_prints_it_and_a_file_that_is_wrong_for_a_while_leaves_the_last() {
    let (redis, dir, path) = with_file("first");
    let crema = Crema::over(redis.addr())
        .url(format!("redis://app:@{}", redis.addr()))
        .flag("--upstream-password-command", format!("cat {path}"))
        .flag("--upstream-password-refresh", "100ms")
        .flag("--auth", "open")
        .start();
    let mut client = crema.client();
    assert_eq!(client.cmd(&["ACL", "WHOAMI"]), bulk("app"));
    std::fs::remove_file(&path).expect("our own file");
    eventually("it says so", || crema.has_logged("the password of user `app` stays as it was: `cat "));
    assert_eq!(crema.client().cmd(&["ACL", "WHOAMI"]), bulk("app"));
    // The file knows the new password before Redis does.
    write(&dir.path().join("password"), "second");
    eventually("it is tried", || crema.has_logged("the upstream refuses the new password of user `app`"));
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    redis.client().cmd(&["ACL", "SETUSER", "app", ">second", "<first"]);
    eventually("open connections log in with it", || {
        redis.client().cmd(&["ACL", "LOG", "RESET"]);
        thread::sleep(Duration::from_millis(1200));
        redis.client().cmd(&["ACL", "LOG"]) == common::array([])
    });
    assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
    assert_eq!(crema.count("crema_errors_total", &[]), 0);
}

#[test]
fn what_is_wrong_at_start_is_said_with_the_file_or_the_command() {
    let run = |arguments: &[&str]| {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_crema"))
            .args(["--listen", &listen, "--admin", "off", "--upstream", "redis://app:@127.0.0.1:1"])
            .args(arguments)
            .output()
            .expect("the binary was built");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = run(&["--upstream-password-file", "/no/such/file"]);
    assert!(said.contains("--upstream-password-file: /no/such/file: No such file or directory"), "{said}");
    let said = run(&["--upstream-password-command", "false now"]);
    assert!(said.contains("upstream_password_command: `false now`: it ended with exit status: 1"), "{said}");
    let said = run(&[
        "--upstream-password-command",
        "true",
        "--upstream-password-file",
        concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
    ]);
    assert!(said.contains("a file and a command give the same password"), "{said}");
}

/// Users of crema's own have passwords at the upstream, too.
#[test]
fn users_of_cremas_own_have_passwords_upstream_that_change() {
    let (redis, dir, path) = with_file("first");
    let settings = dir.path().join("crema.toml");
    let user = format!(
        "[[user]]\nname = \"bob\"\npassword = \"b\"\nupstream_user = \"app\"\nupstream_password_command = [\"cat\", \"{path}\"]\n"
    );
    std::fs::write(&settings, format!("upstream_password_refresh = \"200ms\"\n{user}")).expect("our own directory");
    let crema = Crema::over(redis.addr()).flag("--auth", "own").flag("--config", settings.display()).start();
    let mut bob = crema.client();
    assert_eq!(bob.cmd(&["AUTH", "bob", "b"]), ok());
    assert_eq!(bob.cmd(&["ACL", "WHOAMI"]), bulk("app"));
    redis.client().cmd(&["ACL", "SETUSER", "app", ">second", "<first"]);
    write(&dir.path().join("password"), "second");
    eventually("new connections are made with it", || {
        redis.client().cmd(&["CLIENT", "KILL", "USER", "app"]);
        let mut another = crema.client();
        another.cmd(&["AUTH", "bob", "b"]) == ok()
            && another.try_cmd(&["ACL", "WHOAMI"]).is_ok_and(|who| who == bulk("app"))
    });
}

const RENEWED: &str = "a connection has logged in with its new password";

fn renewals(crema: &Crema) -> usize {
    crema.log().matches(RENEWED).count()
}

/// The ACL user of the connection that Redis calls so.
fn user_of(redis: &Redis, id: i64) -> Option<String> {
    let id = format!("id={id}");
    let line = redis.client_list().into_iter().find(|line| line.split(' ').any(|field| field == id))?;
    line.split(' ').find_map(|field| field.strip_prefix("user=")).map(str::to_owned)
}

#[test]
fn a_connection_on_which_its_client_has_become_another_stays_that() {
    let (redis, dir, path) = with_file("first");
    assert_eq!(redis.client().cmd(&["ACL", "SETUSER", "other", "on", ">fixed", "~*", "&*", "+@all"]), ok());
    let settings = dir.path().join("crema.toml");
    let users = format!(
        "[[user]]\nname = \"alice\"\npassword = \"a\"\nupstream_user = \"app\"\nupstream_password_file = \"{path}\"\n\
         [[user]]\nname = \"bob\"\npassword = \"b\"\nupstream_user = \"other\"\nupstream_password = \"fixed\"\n"
    );
    std::fs::write(&settings, users).expect("our own directory");
    let crema = Crema::over(redis.addr())
        .flag("--auth", "own")
        .flag("--config", settings.display())
        .flag("--threads", 1)
        .log("debug")
        .start();
    let home_of_alice = || {
        let mut client = crema.client();
        assert_eq!(client.cmd(&["AUTH", "alice", "a"]), ok());
        let Value::Int(id) = client.cmd(&["CLIENT", "ID"]) else { panic!("it has a number") };
        (client, id)
    };
    let (mut stays, alices) = home_of_alice();
    let (mut changes, bobs) = home_of_alice();
    assert_eq!(changes.cmd(&["AUTH", "bob", "b"]), ok());
    assert_eq!(user_of(&redis, alices).as_deref(), Some("app"));
    assert_eq!(user_of(&redis, bobs).as_deref(), Some("other"));
    for (rotation, password) in ["second", "third"].into_iter().enumerate() {
        let before = renewals(&crema);
        redis.client().cmd(&["ACL", "SETUSER", "app", &format!(">{password}")]);
        write(Path::new(&path), password);
        eventually("alice's connections log in with it", || renewals(&crema) > before);
        let who = ["stays", "changes"].iter().zip([(&mut stays, "app"), (&mut changes, "other")]);
        for (name, (client, user)) in who {
            let replies = client.pipeline(&[&["MULTI"][..], &["ACL", "WHOAMI"], &["EXEC"]]);
            assert_eq!(replies[2], common::array([bulk(user)]), "{name}, rotation {rotation}");
        }
        assert_eq!(user_of(&redis, bobs).as_deref(), Some("other"));
        // Back and forth: it is renewed for alice again only where it is hers.
        for (user, password) in [("alice", "a"), ("bob", "b")] {
            assert_eq!(changes.cmd(&["AUTH", user, password]), ok());
        }
    }
    assert_eq!(changes.cmd(&["AUTH", "alice", "a"]), ok());
    let before = renewals(&crema);
    redis.client().cmd(&["ACL", "SETUSER", "app", "resetpass", ">fourth"]);
    write(Path::new(&path), "fourth");
    eventually("both log in with it", || renewals(&crema) >= before + 2);
    assert_eq!(user_of(&redis, bobs).as_deref(), Some("app"));
    assert_eq!(crema.count("crema_errors_total", &[]), 0);
}

#[test]
fn a_connection_that_waits_logs_in_when_it_has_what_it_waits_for() {
    let (redis, _dir, path) = with_file("first");
    let crema = Crema::over(redis.addr())
        .url(format!("redis://app:@{}", redis.addr()))
        .flag("--upstream-password-file", &path)
        .flag("--auth", "open")
        .flag("--threads", 1)
        .log("debug")
        .start();
    let (mut waits, mut other) = (crema.client(), crema.client());
    for client in [&mut waits, &mut other] {
        assert!(matches!(client.cmd(&["CLIENT", "ID"]), Value::Int(_)));
    }
    waits.send_cmd(&["BLPOP", "k", "0"]);
    eventually("it waits", || redis.info("clients", "blocked_clients") == 1);
    for (new, old) in [("second", "first"), ("third", "second")] {
        let before = renewals(&crema);
        redis.client().cmd(&["ACL", "SETUSER", "app", &format!(">{new}")]);
        write(Path::new(&path), new);
        // All of a worker's connections are looked at in one go.
        eventually("others log in with it", || renewals(&crema) > before);
        eventually("all have", || {
            let now = renewals(&crema);
            thread::sleep(Duration::from_millis(1200));
            renewals(&crema) == now
        });
        redis.client().cmd(&["ACL", "SETUSER", "app", &format!("<{old}")]);
    }
    let before = renewals(&crema);
    redis.client().cmd(&["RPUSH", "k", "v"]);
    assert_eq!(waits.value(), common::array([bulk("k"), bulk("v")]));
    eventually("it does, too", || renewals(&crema) > before);
    let replies = waits.pipeline(&[&["MULTI"][..], &["ACL", "WHOAMI"], &["EXEC"]]);
    assert_eq!(replies[2], common::array([bulk("app")]));
    assert!(!crema.has_logged("a connection is given up"));
    assert_eq!(crema.count("crema_errors_total", &[]), 0);
}
