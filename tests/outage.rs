//! A Redis that is away, as clients see it: with `upstream_down = "close"`, the default, as one that is down, else by an error.
//!
//! What an error says, and what memory shows meanwhile, is the theme of `faults`; programs that live through outages are in
//! `tests/outage`.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::link::Way;
use common::{AT_LAST, Client, Crema, Link, Redis, Value, bulk, eventually, int, ok, pack, simple};

#[test]
fn while_redis_is_away_clients_are_closed_and_refused_and_then_served() {
    let mut redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    for round in 0..3 {
        let mut clients: Vec<Client> = (0..6).map(|n| Client::speaking(2 + n % 2, crema.addr())).collect();
        let [idle, reader, queued, blocked, subscribed, named] = &mut clients[..] else { unreachable!("six of them") };
        assert_eq!(idle.cmd(&["PING"]), simple("PONG"));
        assert_eq!(reader.cmd(&["GET", "none"]), Value::Nil);
        assert_eq!(queued.cmd(&["MULTI"]), ok());
        assert_eq!(queued.cmd(&["SET", "k", "v"]), simple("QUEUED"));
        blocked.send_cmd(&["BLPOP", "list", "0"]);
        subscribed.cmd(&["SUBSCRIBE", "news"]);
        named.cmd(&["CLIENT", "ID"]);
        redis.kill();
        for (n, client) in clients.iter_mut().enumerate() {
            client.patience(AT_LAST);
            let told = client.rest().unwrap_or_else(|e| panic!("client {n} is stranded in round {round}: {e}"));
            assert_eq!(told, b"", "client {n} is told something: {}", String::from_utf8_lossy(&told));
        }
        eventually("new clients are refused", || {
            Client::try_connect(crema.addr()).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
        });
        assert!(crema.admin("/livez").is_some_and(|(status, _)| status == 200), "the admin port stays");
        assert!(crema.count("crema_cut_clients_total", &[]) >= 2 * (round + 1));
        redis.restart();
        eventually("clients are let in", || Client::try_connect(crema.addr()).is_ok());
        // Who is let in is served, from the first command on.
        let mut client = crema.client();
        assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
        assert_eq!(client.cmd(&["BLPOP", "none", "0.01"]), Value::Nil);
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
    }
}

#[test]
fn a_unix_socket_refuses_meanwhile_and_keeps_its_file_and_rights() {
    let mut redis = Redis::start();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("crema.sock");
    let mut crema = Crema::over(redis.addr()).also_at(&path).start();
    if crema.is_direct() {
        return;
    }
    let says_pong = || -> std::io::Result<bool> {
        let mut stream = UnixStream::connect(&path)?;
        stream.set_read_timeout(Some(AT_LAST))?;
        stream.write_all(b"PING\r\n")?;
        let mut reply = [0; 7];
        stream.read_exact(&mut reply)?;
        Ok(&reply == b"+PONG\r\n")
    };
    eventually("it serves", || says_pong().is_ok_and(|pong| pong));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o612)).expect("our own file");
    redis.kill();
    eventually("it refuses", || says_pong().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused));
    assert!(path.exists(), "its file stays");
    redis.restart();
    eventually("it serves again", || says_pong().is_ok_and(|pong| pong));
    let mode = std::fs::metadata(&path).expect("it listens").permissions().mode();
    assert_eq!(mode & 0o777, 0o612, "its rights are kept");
    redis.kill();
    eventually("it refuses", || says_pong().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused));
    crema.terminate();
    eventually("it ends", || crema.exit_status().is_some());
    assert!(!path.exists(), "nothing is left of it");
}

#[test]
fn a_crema_that_starts_before_redis_refuses_until_it_is_there() {
    let mut redis = Redis::start();
    redis.kill();
    let crema = Crema::over(redis.addr()).without_waiting().start();
    if crema.is_direct() {
        return;
    }
    eventually("it says so", || crema.has_logged("the upstream is away: new clients are refused at"));
    let error = Client::try_connect(crema.addr()).err().expect("a refusal");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(!crema.is_ready());
    redis.restart();
    eventually("clients are let in", || Client::try_connect(crema.addr()).is_ok());
    assert_eq!(crema.client().cmd(&["SET", "k", "v"]), ok());
}

/// To close with requests unread would be a reset. The client reads nothing before all is over.
#[test]
fn replies_before_a_command_that_fails_arrive_and_then_an_end_and_no_reset() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).start();
    if crema.is_direct() {
        return;
    }
    for round in 1..=5 {
        let mut client = crema.client();
        let counts = |upto: i64| redis.client().cmd(&["GET", "n"]) == bulk((round * 1000 - 1000 + upto).to_string());
        (0..900).for_each(|_| client.send_cmd(&["INCR", "n"]));
        let answers: usize = (1..=900).map(|n| format!(":{}\r\n", round * 1000 - 1000 + n).len()).sum();
        let mut unread = [0; 16 << 10];
        eventually("they are answered", || client.stream().peek(&mut unread).is_ok_and(|n| n == answers));
        link.hold(Way::Replies);
        (0..100).for_each(|_| client.send_cmd(&["INCR", "n"]));
        eventually("they are done", || counts(1000));
        link.cut();
        eventually("it is cut", || crema.count("crema_cut_clients_total", &[]) == u64::try_from(round).expect("small"));
        // What no one will read any more.
        let more = pack(&["SET", "never", &"x".repeat(1000)]);
        let sent = (0..200).take_while(|_| client.try_send(&more).is_ok()).count();
        assert!(sent > 0);
        for n in 1..=900 {
            let answer = client.try_value().unwrap_or_else(|e| panic!("reply {n} is lost in round {round}: {e}"));
            assert_eq!(answer, int(round * 1000 - 1000 + n));
        }
        // Those of the last hundred that came before the link was held may follow; then it ends, and is not reset.
        let end = loop {
            match client.try_value() {
                Ok(answer) => assert!(!answer.is_error(), "{answer:?}"),
                Err(e) => break e,
            }
        };
        assert_eq!(end.kind(), ErrorKind::UnexpectedEof, "{end}");
        client.shutdown(Shutdown::Both);
        assert_eq!(redis.client().cmd(&["GET", "never"]), Value::Nil, "nothing behind it is done");
    }
}

#[test]
fn only_those_with_a_write_on_a_lane_that_breaks_are_closed() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).flag("--promote", 0).flag("--threads", 1).start();
    if crema.is_direct() {
        return;
    }
    let mut direct = redis.client();
    direct.cmd(&["SET", "k", "v"]);
    for round in 1..=5 {
        let (mut idle, mut writer, mut reader) = (crema.client(), crema.client(), crema.resp3());
        for client in [&mut idle, &mut writer, &mut reader] {
            assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
        }
        link.hold(Way::Replies);
        writer.send(&[pack(&["GET", "k"]), pack(&["INCR", "n"]), pack(&["INCR", "m"])].concat());
        reader.send_cmd(&["GET", "k"]);
        eventually("the writes are done", || direct.cmd(&["GET", "m"]) == bulk(round.to_string()));
        link.cut();
        assert_eq!(writer.rest().expect("an end"), b"", "round {round}");
        assert_eq!(reader.value(), bulk("v"), "round {round}");
        assert_eq!(idle.cmd(&["GET", "k"]), bulk("v"), "round {round}");
        assert_eq!(direct.cmd(&["MGET", "n", "m"]), common::array([bulk(round.to_string()), bulk(round.to_string())]));
    }
    assert_eq!(crema.count("crema_lost_writes_total", &[]), 10);
    assert_eq!(crema.count("crema_cut_clients_total", &[]), 5);
}

#[test]
fn with_loading_clients_stay_and_are_told_to_come_again() {
    let mut redis = Redis::start();
    let crema = Crema::over(redis.addr()).flag("--upstream-down", "loading").start();
    if crema.is_direct() {
        return;
    }
    let (mut client, mut queued) = (crema.client(), crema.resp3());
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    redis.kill();
    eventually("it is noticed", || client.try_cmd(&["SET", "k", "v"]).is_ok_and(|answer| answer.is_error()));
    for command in [&["SET", "k", "v"][..], &["INCR", "n"], &["EVAL", "return 1", "0"], &["GET", "k"], &["SELECT", "1"]]
    {
        let answer = client.cmd(command);
        assert!(answer.text().starts_with("LOADING crema: "), "{command:?}: {answer:?}");
        assert!(answer.text().ends_with("the command was not sent, it is safe to retry"), "{command:?}: {answer:?}");
    }
    let answer = crema.client().cmd(&["SET", "k", "v"]);
    assert!(answer.text().starts_with("LOADING crema: "), "a new client: {answer:?}");
    redis.restart();
    eventually("the same client is served", || client.cmd(&["SET", "k", "v"]) == ok());
    assert_eq!(queued.cmd(&["GET", "k"]), bulk("v"));
}

#[test]
fn with_loading_a_client_is_closed_whose_write_may_be_done() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).flag("--upstream-down", "loading").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "n", "0"]), ok());
    link.hold(Way::Replies);
    client.send_cmd(&["INCR", "n"]);
    eventually("it is done", || redis.client().cmd(&["GET", "n"]) == bulk("1"));
    link.cut();
    assert_eq!(client.rest().expect("an end"), b"");
}

/// Redis takes a connection, says that it takes no more, and closes: it is there, and says so itself.
#[test]
fn what_redis_says_itself_is_passed_on() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    let mut direct = redis.client();
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    assert_eq!(direct.cmd(&["CONFIG", "SET", "maxclients", "1"]), ok());
    direct.cmd(&["CLIENT", "KILL", "TYPE", "normal"]);
    eventually("it is told", || {
        let said = Client::try_connect(crema.addr()).expect("not refused").try_cmd(&["BLPOP", "none", "1"]);
        said.is_ok_and(|answer| answer.text() == "ERR max number of clients reached")
    });
    assert!(!crema.has_logged("the upstream is away"), "{}", crema.log());
    direct.cmd(&["CONFIG", "SET", "maxclients", "1000"]);
    eventually("it is served again", || {
        let answer = Client::try_connect(crema.addr()).and_then(|mut client| client.try_cmd(&["SET", "k", "v"]));
        answer.is_ok_and(|answer| answer == ok())
    });
}

/// One connection that ends at once may have been cut by anybody; a server that ends every one is away.
#[test]
fn a_link_that_is_cut_closes_nobody_and_one_that_is_down_refuses() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    for _ in 0..5 {
        assert_eq!(client.cmd(&["GET", "none"]), Value::Nil, "the same client");
        link.cut();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(client.cmd(&["GET", "none"]), Value::Nil, "the same client");
    link.down();
    assert!(client.closes_within(AT_LAST));
    eventually("new clients are refused", || Client::try_connect(crema.addr()).is_err());
    link.up();
    eventually("clients are let in", || Client::try_connect(crema.addr()).is_ok());
}

/// Who is closed comes again at once, with all that it has queued meanwhile: it finds the door shut, and loses nothing twice.
#[test]
fn who_is_closed_by_an_outage_is_refused_when_it_comes_again() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).start();
    if crema.is_direct() {
        return;
    }
    let refused = (0..20).filter(|round| {
        eventually("clients are let in", || {
            let answer = Client::try_connect(crema.addr()).and_then(|mut client| client.try_cmd(&["SET", "k", "v"]));
            answer.is_ok_and(|answer| answer == ok())
        });
        let mut client = crema.client();
        assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
        link.down();
        client.send_cmd(&["INCR", "n"]);
        assert_eq!(client.rest().expect("an end"), b"", "round {round}");
        let refused = Client::try_connect(crema.addr()).is_err();
        link.up();
        refused
    });
    // No client is kept for longer than 50 ms to have it so, and the machine may stand still for longer.
    let refused = refused.count();
    assert!(refused > 10, "{refused} of 20");
}

/// The ear, which tries at longer and longer intervals, does not sleep on when Redis is back.
#[test]
fn l1_takes_part_at_once_after_a_long_outage() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).log("crema=debug").start();
    if crema.is_direct() {
        return;
    }
    let pauses = || {
        crema
            .log()
            .lines()
            .filter(|line| line.contains("the invalidation connection is tried again") && line.contains("wait=1."))
            .count()
    };
    crema.warm(&["GET", "k"]);
    // It pauses for a second or more each time; a machine that stands still may need as long for the rest.
    let is_prompt = |_| {
        let before = pauses();
        link.down();
        eventually("its pauses are long", || pauses() > before);
        link.up();
        let back = Instant::now();
        eventually("clients are let in", || Client::try_connect(crema.addr()).is_ok());
        crema.warm(&["GET", "k"]);
        back.elapsed() < Duration::from_millis(700)
    };
    assert!((0..4).any(is_prompt), "not once in four outages");
}
