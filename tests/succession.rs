//! A take-over where something is in the way: the upstream is another, or several servers; a side stands still; a client is not in yet.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::AtomicBool;
use std::thread::{scope, sleep};
use std::time::Duration;

use common::proxy::Launch;
use common::redis::{free_port, loopback};
use common::sentinel::Group;
use common::succession::{
    AskerByHand, Baton, HELLO, Seen, ask_on, await_succession, cannot, frame, give_sockets, hear, path, refused, status,
};
use common::tls::{Authority, client_side};
use common::{AT_LAST, Client, Cluster, Crema, Redis, Stop, bulk, eventually, int, ok, simple};
use rustix::process::Signal;
use tokio_rustls::rustls::{ClientConnection, StreamOwned};

/// What the giver waits for in each of its steps, and a little more.
const TOO_LONG: Duration = Duration::from_millis(5500);

#[test]
fn another_server_or_database_is_not_taken_over_and_the_same_by_another_name_is() {
    let (redis, other) = (Redis::start(), Redis::start());
    let (_directory, path) = path();
    let launch = || Crema::over(redis.addr()).flag("--take-over", path.display());
    let old = launch().start();
    if cannot(&old) {
        return;
    }
    let mut client = old.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    let elsewhere = format!("redis://{}", other.addr());
    let (code, said) = refused(&path, &elsewhere);
    let names_both = said.contains(&format!("its upstream is redis://{}, this one's {elsewhere}", redis.addr()));
    assert!(code == Some(1) && names_both && said.contains("docs/live-changes.md"), "{said}");
    let (code, said) = refused(&path, &format!("redis://{}/3", redis.addr()));
    assert!(code == Some(1) && said.contains("begin in database 0, this one's in 3"), "{said}");
    eventually("both sides say why", || old.has_logged("this one's in 3"));
    assert!(status(&old).starts_with("open at "));
    let renamed = format!("redis://localhost:{}", redis.port());
    let new = launch().url(renamed).in_place_of(&old).start();
    await_succession(&new);
    assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
}

#[test]
fn what_the_one_before_wrote_and_told_nobody_is_not_answered_as_it_was() {
    let redis = Redis::start();
    let (_directory, path) = path();
    let launch =
        |coherence| Crema::over(redis.addr()).flag("--take-over", path.display()).flag("--coherence", coherence);
    let old = launch("tracking").start();
    if cannot(&old) {
        return;
    }
    let mut client = old.client();
    assert_eq!(client.cmd(&["SET", "k", "before"]), ok());
    old.warm(&["GET", "k"]);
    assert_eq!(client.cmd(&["MULTI"]), ok());
    let new = launch("channel").in_place_of(&old).start();
    eventually("it serves", || new.has_logged("clients are served in place of process"));
    eventually("it has read what was hot", || new.has_logged("1 hot keys of process"));
    assert_eq!(client.cmd(&["SET", "k", "after"]), simple("QUEUED"));
    assert_eq!(client.cmd(&["EXEC"]), common::array([ok()]), "Redis alone was told");
    await_succession(&new);
    for _ in 0..50 {
        assert_eq!(client.cmd(&["GET", "k"]), bulk("after"));
    }
    new.warm(&["GET", "k"]);
    assert_eq!(new.hit(&mut client, &["GET", "k"]), bulk("after"));
}

#[test]
fn who_has_connected_and_said_little_yet_goes_over_as_it_is() {
    let redis = Redis::start();
    let (_directory, path) = path();
    let (proxied, secure) = (loopback(free_port()), loopback(free_port()));
    let authority = Authority::new();
    let own = authority.issue("own", &["127.0.0.1"]);
    let launch = || {
        Crema::over(redis.addr())
            .also_on(&format!("tcp://{proxied}?proxy=on,tls://{secure}"))
            .flag("--tls-cert", own.cert.display())
            .flag("--tls-key", own.key.display())
            .flag("--take-over", path.display())
    };
    let mut old = launch().start();
    if cannot(&old) {
        return;
    }
    let mut silent = Client::connect(proxied);
    let mut midway = Client::connect(proxied);
    midway.send(b"PROXY TCP4 203.0.113.7 192.0");
    let secured = TcpStream::connect(secure).expect("it listens");
    secured.set_read_timeout(Some(AT_LAST)).expect("a deadline above zero");
    let received = || old.count("crema_sessions", &[]);
    eventually("they are there", || received() == 3);
    // What it has sent is read as far as it came: the worker has been round since.
    old.client().cmd(&["PING"]);

    let new = launch().in_place_of(&old).start();
    await_succession(&new);
    eventually("the one before has ended", || old.exit_status().is_some());
    silent.send(b"PROXY TCP4 203.0.113.8 192.0.2.1 4712 6379\r\n");
    assert_eq!(silent.cmd(&["PING"]), simple("PONG"));
    midway.send(b".2.1 4711 6379\r\n");
    assert_eq!(midway.cmd(&["PING"]), simple("PONG"));
    assert_eq!(new.client().cmd(&["CLIENT", "KILL", "ADDR", "203.0.113.7:4711"]), int(1));
    let server = "127.0.0.1".try_into().expect("an address");
    let handshake = ClientConnection::new(client_side(&authority.ca(), None), server).expect("sound settings");
    let mut secured = StreamOwned::new(handshake, secured);
    let mut reply = [0; 7];
    secured.write_all(b"PING\r\n").and_then(|()| secured.read_exact(&mut reply)).expect("its handshake is taken up");
    assert_eq!(reply, *b"+PONG\r\n");
}

/// Clients that ask all the while, three take-overs in a row, and that nothing was lost.
fn three_in_a_row(launch: &dyn Fn() -> Launch) -> Crema {
    let mut now = launch().start();
    let (seen, stop, addr) = (Seen::default(), AtomicBool::new(false), now.addr());
    scope(|scope| {
        let stopped = Stop(&stop);
        for n in 0..6 {
            let (seen, stop) = (&seen, &stop);
            scope.spawn(move || ask_on(addr, seen, stop, (format!("own:{n}"), n % 2 == 0)));
        }
        for _ in 0..3 {
            seen.goes_on(100);
            let next = launch().in_place_of(&now).start();
            await_succession(&next);
            eventually("it has ended", || now.exit_status().is_some());
            now = next;
        }
        seen.goes_on(100);
        drop(stopped);
    });
    seen.nothing_was_lost();
    now
}

#[test]
fn in_front_of_a_cluster_nothing_is_lost_whichever_nodes_are_named() {
    let cluster = Cluster::start();
    let (_directory, path) = path();
    let one = cluster.crema().flag("--take-over", path.display()).start();
    if cannot(&one) {
        return;
    }
    drop(one);
    let number = std::cell::Cell::new(0);
    let launch = || {
        let n = number.replace(number.get() + 1) % cluster.len();
        let url = format!("redis+cluster://127.0.0.1:{}", cluster.addr(n).port());
        cluster.crema().url(url).flag("--take-over", path.display())
    };
    let last = three_in_a_row(&launch);
    assert!(number.get() >= 4, "each named another node");
    let mut client = last.client();
    for n in 0..100 {
        let key = format!("key:{n}");
        assert_eq!(client.cmd(&["SET", &key, "v"]), ok());
        assert_eq!(client.cmd(&["GET", &key]), bulk("v"));
    }
    last.warm(&["GET", "key:1"]);
    let other = Cluster::start();
    let (code, said) = refused(&path, &other.url());
    assert!(code == Some(1) && said.contains("its upstream is redis+cluster://"), "{said}");
}

#[test]
fn in_front_of_sentinels_nothing_is_lost_and_who_reads_at_replicas_reads_its_own_writes() {
    let group = Group::start();
    let (_directory, path) = path();
    let launch = || {
        Crema::over(group.servers[0].addr())
            .url(group.url(""))
            .flag("--read-from", "replica")
            .flag("--take-over", path.display())
    };
    let one = launch().start();
    if cannot(&one) {
        return;
    }
    drop(one);
    let last = three_in_a_row(&launch);
    let mut client = last.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    last.warm(&["GET", "k"]);
}

#[test]
fn one_that_was_late_may_serve_no_more_and_the_other_goes_on_at_once() {
    let redis = Redis::start();
    let (_directory, path) = path();
    let crema = Crema::over(redis.addr()).flag("--take-over", path.display()).start();
    if cannot(&crema) {
        return;
    }
    let (frozen, baton) = AskerByHand::released(&path);
    let mut waits = crema.client();
    waits.send_cmd(&["SET", "k", "v"]);
    eventually("that is told", || crema.has_logged("nobody takes over: it lets no clients in, though it may"));
    assert_eq!(waits.value(), ok(), "who came meanwhile is let in");
    assert!(!baton.take(), "it is too late");
    crema.warm(&["GET", "k"]); // though the other is there
    drop(frozen);

    // The other way round: it is told that it may, and may not any more.
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("other");
    let door = UnixListener::bind(&path).expect("a free path");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("our own");
    let url = format!("redis://{}", redis.addr());
    let (code, said) = scope(|scope| {
        let program = scope.spawn(|| refused(&path, &url));
        let (mut stream, _) = door.accept().expect("it comes");
        let say = |mut stream: &UnixStream, message: &str| {
            stream.write_all(&frame(message)).expect("it reads");
        };
        let baton = Baton::new();
        assert!(baton.take());
        say(&stream, &HELLO.replace('}', &format!(r#","terms":{{"upstream":"{url}"}}}}"#)));
        give_sockets(&stream, &baton);
        say(&stream, r#"{"say":"names_end"}"#);
        hear(&mut stream, "ready").expect("it prepares");
        say(&stream, r#"{"say":"released"}"#);
        program.join().expect("it ends")
    });
    assert!(code == Some(1) && said.contains("this process was too late"), "{said}");
}

#[test]
fn one_that_may_serve_already_is_waited_for_until_it_says_so_or_ends() {
    let redis = Redis::start();
    let (_directory, path) = path();
    let mut crema = Crema::over(redis.addr()).flag("--take-over", path.display()).start();
    if cannot(&crema) {
        return;
    }
    for dies in [true, false] {
        let told = || crema.log().matches("it may serve already, so its word is waited for").count();
        let before = told();
        let (mut frozen, baton) = AskerByHand::released(&path);
        assert!(baton.take());
        eventually("it is waited for", || told() > before);
        let mut waits = crema.client();
        waits.send_cmd(&["PING"]);
        assert!(waits.is_silent_for(Duration::from_millis(200)), "the other may let it in");
        let ready = || crema.admin("/readyz").expect("the admin port answers");
        let (status, why) = ready();
        assert!(status == 503 && why.contains("may serve already"), "{status}: {why}");
        if dies {
            drop(frozen);
            assert_eq!(waits.value(), simple("PONG"), "nobody else does");
            assert_eq!(ready().0, 200);
        } else {
            frozen.say(r#"{"say":"serving"}"#);
            frozen.hear("draining");
            frozen.hear("gone");
        }
    }
    eventually("it has ended", || crema.exit_status().is_some_and(|status| status.success()));
}

#[test]
fn one_that_is_told_to_stop_leaves_all_to_the_one_that_serves_though_it_has_not_heard_of_that() {
    let redis = Redis::start();
    let (directory, path) = path();
    let socket = directory.path().join("clients");
    let also = socket.display().to_string();
    let mut crema = Crema::over(redis.addr()).also_on(&also).flag("--take-over", path.display()).start();
    if cannot(&crema) {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    let (mut asker, baton) = AskerByHand::released(&path);
    assert!(baton.take());
    crema.signal(Signal::TERM);
    asker.hear("draining");
    asker.hear(r#""say":"client""#);
    asker.hear("gone");
    eventually("it has ended", || crema.exit_status().is_some_and(|status| status.success()));
    assert!(socket.exists(), "that is the other's by now");
}

#[test]
fn one_that_stood_still_hears_what_was_said_in_time() {
    let redis = Redis::start();
    let (_directory, path) = path();
    let mut crema = Crema::over(redis.addr()).flag("--take-over", path.display()).start();
    if cannot(&crema) {
        return;
    }
    let (mut asker, baton) = AskerByHand::released(&path);
    crema.signal(Signal::STOP);
    assert!(baton.take());
    asker.say(r#"{"say":"serving"}"#);
    sleep(TOO_LONG);
    crema.signal(Signal::CONT);
    asker.hear("draining");
    eventually("it has ended", || crema.exit_status().is_some_and(|status| status.success()));
    assert!(!crema.has_logged("nobody takes over"));
}

#[test]
fn as_long_as_the_one_before_has_not_ended_nothing_is_answered_out_of_memory() {
    let redis = Redis::start();
    let (_directory, path) = path();
    let launch = || Crema::over(redis.addr()).flag("--take-over", path.display()).flag("--drain-timeout", "3s");
    let mut old = launch().start();
    if cannot(&old) {
        return;
    }
    let mut client = old.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    old.warm(&["GET", "k"]);
    let mut queues = old.client();
    assert_eq!(queues.cmd(&["MULTI"]), ok());
    let new = launch().in_place_of(&old).start();
    eventually("it serves", || new.has_logged("clients are served in place of process"));
    old.signal(Signal::STOP); // long before it could end, for one of its clients has something under way
    eventually("that is told", || new.has_logged("should have ended by now, and has not"));
    let mut comes = new.client();
    let before = new.outcomes("hit");
    (0..50).for_each(|_| assert_eq!(comes.cmd(&["GET", "k"]), bulk("v")));
    assert_eq!(new.outcomes("hit"), before, "no hits");
    assert!(status(&new).contains("no hits until then"), "{}", status(&new));
    old.signal(Signal::CONT);
    eventually("it ends", || old.exit_status().is_some());
    assert!(queues.try_cmd(&["EXEC"]).is_err(), "its time is over");
    await_succession(&new);
    new.warm(&["GET", "k"]);
}
