//! One crema takes over from another: its clients notice nothing, and where it cannot be done nothing has happened.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output};
use std::sync::atomic::AtomicBool;

use common::succession::{
    Baton, HELLO, Seen, ask_on, await_succession, cannot, frame, give_sockets, hear, path, refused, status,
};
use common::{AT_LAST, Client, Crema, Redis, Stop, Value, bulk, eventually, int, ok, simple};

fn url(redis: &Redis) -> String {
    format!("redis://{}", redis.addr())
}

#[test]
fn under_load_no_request_fails_no_connection_is_refused_and_what_was_hot_is_hot() {
    let redis = Redis::start();
    let (_directory, path) = path();
    let launch = || Crema::over(redis.addr()).flag("--take-over", path.display());
    let mut old = launch().start();
    if cannot(&old) {
        return;
    }
    let keys: Vec<String> = (0..500).map(|n| format!("hot:{n}")).collect();
    let mut client = old.client();
    for key in &keys {
        assert_eq!(client.cmd(&["SET", key, "v"]), ok());
    }
    eventually("all are in memory", || {
        let before = old.outcomes("hit");
        for key in &keys {
            let _ = client.cmd(&["GET", key]);
        }
        old.outcomes("hit") - before == 500
    });
    let (seen, stop) = (Seen::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let stopped = Stop(&stop);
        for n in 0..6 {
            let (addr, seen, stop) = (old.addr(), &seen, &stop);
            scope.spawn(move || ask_on(addr, seen, stop, (format!("own:{n}"), n % 2 == 0)));
        }
        let mut now = launch().in_place_of(&old).start();
        await_succession(&now);
        for _ in 0..2 {
            let next = launch().in_place_of(&now).start();
            await_succession(&next);
            eventually("it has ended", || now.exit_status().is_some());
            now = next;
        }
        seen.goes_on(100);
        drop(stopped);
        let mut client = now.client();
        // A lease begins with what was asked since the one before is gone.
        now.hit(&mut client, &["GET", &keys[0]]);
        // Nobody reads them meanwhile, so it is the names handed over that fill it.
        eventually("what was hot is there", || now.count("crema_l1_entries", &[]) > 475 + 6);
        let before = now.outcomes("hit");
        for key in &keys {
            assert_eq!(client.cmd(&["GET", key]), bulk("v"));
        }
        let hits = now.outcomes("hit") - before;
        assert!(hits > 475, "{hits} of 500 are hits");
        assert!(status(&now).starts_with("open at "), "{}", status(&now));
        drop(now);
    });
    seen.nothing_was_lost();
    eventually("the first has ended", || old.exit_status().is_some());
    assert!(old.exit_status().is_some_and(|status| status.success()));
}

#[test]
fn a_client_stays_who_it_is_and_one_that_has_something_under_way_ends_it_first() {
    let redis = Redis::start();
    let mut direct = redis.client();
    assert_eq!(direct.cmd(&["ACL", "SETUSER", "anna", "on", ">secret", "~*", "&*", "+@all"]), ok());
    let (directory, path) = path();
    let socket = directory.path().join("c.sock");
    let launch = || Crema::over(redis.addr()).also_at(&socket).flag("--take-over", path.display());
    let old = launch().start();
    if cannot(&old) {
        return;
    }
    let mut anna = old.client();
    assert!(!anna.cmd(&["HELLO", "3", "AUTH", "anna", "secret", "SETNAME", "hers"]).is_error());
    assert_eq!(anna.cmd(&["SELECT", "3"]), ok());
    assert_eq!(anna.cmd(&["SET", "k", "v"]), ok());
    let mut queues = old.client();
    assert_eq!(queues.cmd(&["MULTI"]), ok());
    assert_eq!(queues.cmd(&["INCR", "n"]), simple("QUEUED"));
    let mut waits = old.client();
    waits.send_cmd(&["BLPOP", "list", "0"]);
    eventually("it waits", || old.waiting() == 1);
    let mut by_path = UnixStream::connect(&socket).expect("it listens");
    by_path.set_read_timeout(Some(AT_LAST)).expect("a deadline above zero");
    let mut ping_by_path = || {
        let mut reply = [0; 7];
        by_path.write_all(b"PING\r\n").and_then(|()| by_path.read_exact(&mut reply)).map(|()| reply)
    };
    assert_eq!(ping_by_path().expect("it is served"), *b"+PONG\r\n");

    let new = launch().in_place_of(&old).start();
    eventually("it serves", || new.has_logged("clients are served in place of process"));
    assert_eq!(anna.cmd(&["GET", "k"]), bulk("v"), "in her database");
    assert_eq!(anna.cmd(&["CLIENT", "GETNAME"]), bulk("hers"));
    assert_eq!(anna.cmd(&["ACL", "WHOAMI"]), bulk("anna"));
    assert!(matches!(anna.cmd(&["HELLO"]), Value::Map(_)), "in her version of the protocol");
    assert_eq!(ping_by_path().expect("it is served"), *b"+PONG\r\n");
    let status = status(&new);
    assert!(status.starts_with("has taken over from process"), "{status}");
    // As long as the one before has a client, its writes may not be heard of here yet.
    let reads = |client: &mut Client, crema: &Crema| {
        let before = crema.outcomes("hit");
        (0..50).for_each(|_| _ = client.cmd(&["GET", "k"]));
        crema.outcomes("hit") - before
    };
    assert_eq!(reads(&mut anna, &new), 0, "no hits");
    assert_eq!(queues.cmd(&["EXEC"]), common::array([int(1)]), "what was begun is ended where it was");
    assert_eq!(direct.cmd(&["RPUSH", "list", "x"]), int(1));
    assert_eq!(waits.value(), common::array([bulk("list"), bulk("x")]));
    await_succession(&new);
    eventually("memory answers", || reads(&mut anna, &new) > 0);
    for client in [&mut queues, &mut waits] {
        assert_eq!(client.cmd(&["PING"]), simple("PONG"), "it has come over behind that");
    }
    let mut late = UnixStream::connect(&socket).expect("the path is served still");
    late.write_all(b"PING\r\n").expect("it reads");
}

#[test]
fn whoever_asks_and_fails_leaves_it_as_it_was() {
    let redis = Redis::start();
    let (_directory, path) = path();
    let crema = Crema::over(redis.addr()).flag("--take-over", path.display()).start();
    if cannot(&crema) {
        return;
    }
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "for its user alone");
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    crema.warm(&["GET", "k"]);
    let serves = |client: &mut Client| {
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
        assert_eq!(crema.client().cmd(&["SET", "k", "v"]), ok(), "new clients are let in");
        crema.warm(&["GET", "k"]);
        assert!(status(&crema).starts_with("open at "));
    };
    let ask = |said: &[&str]| {
        let mut stream = UnixStream::connect(&path).expect("it listens");
        for message in said {
            stream.write_all(&frame(message)).expect("it reads");
        }
        stream
    };
    let mut garbage = ask(&[]);
    garbage.write_all(b"*1\r\n$4\r\nPING\r\n").expect("it reads");
    hear(&mut garbage, "not how cremas hand over").expect("it is told");
    serves(&mut client);
    let mut newer = ask(&[r#"{"say":"hello","oldest":9,"newest":12,"crema":"9.9","pid":1}"#]);
    hear(&mut newer, "crema 9.9 speaks versions 9 to 12 of the handover").expect("it is told");
    let mut hasty = ask(&[HELLO, r#"{"say":"serving"}"#]);
    hear(&mut hasty, "not its turn").expect("it is told");
    let mut quits = ask(&[HELLO]);
    hear(&mut quits, "names_end").expect("it has all");
    drop(quits);
    serves(&mut client);
    let mut dies = ask(&[HELLO, r#"{"say":"ready"}"#]);
    hear(&mut dies, "released").expect("it may serve");
    assert_eq!(client.cmd(&["GET", "k"]), bulk("v"), "who is there is served, out of Redis");
    let mut comes = crema.client();
    comes.send_cmd(&["GET", "k"]);
    drop(dies);
    assert_eq!(comes.value(), bulk("v"), "who came meanwhile has waited");
    serves(&mut client);
    eventually("that is told", || crema.log().matches("nobody takes over").count() == 5);
}

#[test]
fn one_that_cannot_start_leaves_the_file_of_the_socket_and_one_that_follows_is_not_taken_over_from() {
    let redis = Redis::start();
    let (directory, path) = path();
    let socket = directory.path().join("c.sock");
    let launch = || Crema::over(redis.addr()).also_at(&socket).flag("--take-over", path.display());
    let old = launch().start();
    if cannot(&old) {
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let admin = taken.local_addr().expect("it is bound").to_string();
    let listen = format!("{},{}", old.addr(), socket.display());
    let upstream = format!("redis://{}", redis.addr());
    let mut command = Command::new(env!("CARGO_BIN_EXE_crema"));
    command.args(["--listen", &listen, "--admin", &admin, "--upstream", &upstream, "--take-over"]).arg(&path);
    let Output { status, stderr, .. } = command.env_clear().output().expect("the program");
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.code() == Some(1) && said.contains("in use"), "{said}");
    let ping = || {
        let (mut reply, mut client) = ([0; 7], UnixStream::connect(&socket).expect("the file is there"));
        client.set_read_timeout(Some(AT_LAST)).expect("a deadline above zero");
        client.write_all(b"PING\r\n").and_then(|()| client.read_exact(&mut reply)).expect("it is served");
        assert_eq!(reply, *b"+PONG\r\n");
    };
    ping();

    // The old one has a client that waits: until that is served, the next one follows.
    let mut waits = old.client();
    waits.send_cmd(&["BLPOP", "list", "0"]);
    eventually("it waits", || old.waiting() == 1);
    let new = launch().in_place_of(&old).start();
    eventually("it serves", || new.has_logged("another crema of this user may take over"));
    ping();
    let (code, said) = refused(&path, &url(&redis));
    assert!(code == Some(1) && said.contains("it is still taking over from process"), "{said}");
    assert_eq!(redis.client().cmd(&["RPUSH", "list", "x"]), int(1));
    assert_eq!(waits.value(), common::array([bulk("list"), bulk("x")]));
    await_succession(&new);
    let next = launch().in_place_of(&new).start();
    await_succession(&next);
    ping();
    next.terminate();
    eventually("the file goes with the last", || !socket.exists());
}

#[test]
fn where_the_one_before_dies_midway_it_serves_in_its_place() {
    let redis = Redis::start();
    let (_directory, path) = path();
    // What it takes over from: one that gives a socket, and dies when it is told that the other is ready, or serves.
    for last in ["ready", "serving"] {
        let door = UnixListener::bind(&path).expect("a free path");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("our own");
        let launch = Crema::over(redis.addr()).flag("--take-over", path.display()).without_waiting();
        let crema = std::thread::scope(|scope| {
            let starts = scope.spawn(|| launch.start());
            let (mut stream, _) = door.accept().expect("it comes");
            let say = |stream: &mut UnixStream, message: &str| stream.write_all(&frame(message)).expect("it reads");
            hear(&mut stream, "hello").expect("it is said");
            let terms = format!(r#""terms":{{"upstream":"{}"}}}}"#, url(&redis));
            say(&mut stream, &HELLO.replace('}', &format!(",{terms}")));
            give_sockets(&stream, &Baton::new());
            say(&mut stream, r#"{"say":"names_end"}"#);
            hear(&mut stream, "ready").expect("it is said");
            if last == "serving" {
                say(&mut stream, r#"{"say":"released"}"#);
                hear(&mut stream, "serving").expect("it is said");
            }
            drop((stream, door));
            starts.join().expect("it starts")
        });
        eventually("it is alone", || crema.has_logged("serves nobody any more"));
        let mut client = crema.client();
        assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
        crema.warm(&["GET", "k"]);
        eventually("it may be taken over from", || crema.has_logged("another crema of this user may take over"));
        crema.terminate();
        eventually("its path goes with it", || !path.exists());
    }
}

#[test]
fn what_cannot_be_taken_over_from_is_told_and_the_program_ends() {
    let redis = Redis::start();
    let (directory, path) = path();
    let listener = UnixListener::bind(&path).expect("a new path");
    let with_mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("our own");
    with_mode(0o666);
    let (code, said) = refused(&path, &url(&redis));
    assert!(code == Some(1) && said.contains("others may use the socket: its mode is 666"), "{said}");
    with_mode(0o600);
    for (answer, why) in [
        (
            &frame(r#"{"say":"hello","oldest":9,"newest":9,"crema":"9.9","pid":1}"#)[..],
            "crema 9.9 speaks versions 9 to 9",
        ),
        (&frame(r#"{"say":"refusal","why":"not today"}"#), "it refuses: not today"),
        (b"-ERR unknown command\r\n", "not how cremas hand over"),
        (b"", "it is gone"),
    ] {
        let said = std::thread::scope(|scope| {
            let program = scope.spawn(|| refused(&path, &url(&redis)));
            let (mut stream, _) = listener.accept().expect("it comes");
            hear(&mut stream, "hello").expect("it greets");
            stream.write_all(answer).expect("it reads");
            drop(stream);
            program.join().expect("it ends")
        });
        assert!(said.0 == Some(1) && said.1.contains(why), "{said:?}");
    }
    let file = directory.path().join("precious");
    std::fs::write(&file, "data").expect("written");
    let (code, said) = refused(&file, &url(&redis));
    assert!(code == Some(1) && said.contains("what stands there is no socket"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).expect("still there"), "data");
}

#[test]
fn one_whose_upstream_does_not_answer_takes_nothing_over_and_one_alone_starts_by_itself() {
    let redis = Redis::start();
    let (_directory, path) = path();
    // Nobody is behind this file any more.
    drop(UnixListener::bind(&path).expect("a new path"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("our own");
    let crema = Crema::over(redis.addr()).flag("--take-over", path.display()).start();
    if cannot(&crema) {
        return;
    }
    eventually("it is logged", || crema.has_logged("nobody is there to take over from"));
    let (code, said) = refused(&path, "redis://127.0.0.1:1");
    assert!(code == Some(1) && said.contains("the upstream does not answer this process"), "{said}");
    assert_eq!(crema.client().cmd(&["SET", "k", "v"]), ok());
    eventually("that is told", || crema.has_logged("nobody takes over"));
    crema.terminate();
    eventually("its path goes with it", || !path.exists());
}
