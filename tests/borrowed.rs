//! What a borrowed connection must be when it is lent, what it must be when it goes back, and how long it may be silent.

use std::time::{Duration, Instant};

use common::{AT_LAST, Client, Crema, Link, Redis, Value, array, bulk, eventually, int, ok, pack};

/// Sessions of one worker, so that they share lanes and the pool.
fn one_worker(redis: &Redis) -> Crema {
    Crema::over(redis.addr()).flag("--threads", 1).start()
}

fn in_database(redis: &Redis, db: &str, key: &str) -> Value {
    let mut client = redis.client();
    client.cmd(&["SELECT", db]);
    client.cmd(&["GET", key])
}

/// Where others use the database already, Redis need not be asked for it again; but the connection must be told.
#[test]
fn a_transaction_runs_in_the_database_that_was_selected_last() {
    let redis = Redis::start();
    let crema = one_worker(&redis);
    let mut other = crema.client();
    assert_eq!(other.pipeline(&[&["SELECT", "1"][..], &["SET", "other", "v"]]), [ok(), ok()]);
    for before in [&["KEYS", "none"][..], &["WATCH", "none"], &["FLUSHDB"]] {
        let mut client = crema.client();
        client.cmd(before);
        assert_eq!(client.cmd(&["SELECT", "1"]), ok());
        assert_eq!(client.cmd(&["MULTI"]), ok());
        client.cmd(&["SET", "k", "v"]);
        assert_eq!(client.cmd(&["EXEC"]), array([ok()]));
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
        assert_eq!(in_database(&redis, "1", "k"), bulk("v"), "after {before:?}");
        assert_eq!(in_database(&redis, "0", "k"), Value::Nil, "after {before:?}");
        assert_eq!(client.cmd(&["DEL", "k"]), int(1));
    }
}

/// Redis refuses them, and goes on watching.
#[test]
fn exec_and_discard_out_of_place_end_no_watch() {
    let redis = Redis::start();
    let crema = one_worker(&redis);
    for misplaced in ["EXEC", "DISCARD"] {
        let (mut client, mut other) = (crema.client(), crema.client());
        assert_eq!(client.cmd(&["WATCH", "w"]), ok());
        assert!(client.cmd(&[misplaced]).is_error());
        client.cmd(&["GET", "w"]);
        assert_eq!(other.cmd(&["SET", "w", "theirs"]), ok());
        let others = other.pipeline(&[&["MULTI"][..], &["SET", "x", "1"], &["EXEC"]]);
        assert_eq!(others[2], array([ok()]), "the watch of another session");
        let replies = client.pipeline(&[&["MULTI"][..], &["SET", "w", "mine"], &["EXEC"]]);
        assert_eq!(replies[2], Value::Nil, "watched before {misplaced}");
        assert_eq!(other.cmd(&["GET", "w"]), bulk("theirs"));
    }
}

#[test]
fn a_watch_survives_hello_and_auth() {
    let redis = Redis::start();
    let crema = one_worker(&redis);
    let mut other = crema.client();
    for between in [&["HELLO", "3"][..], &["AUTH", "default", "any"], &["HELLO", "3", "AUTH", "default", "any"]] {
        let mut client = crema.client();
        assert_eq!(client.cmd(&["WATCH", "w"]), ok());
        let reply = client.cmd(between);
        assert!(!reply.is_error(), "{between:?}: {reply:?}");
        assert_eq!(matches!(reply, Value::Map(_)), between[0] == "HELLO", "{reply:?}");
        other.cmd(&["INCR", "w"]);
        let others = other.pipeline(&[&["MULTI"][..], &["INCR", "x"], &["EXEC"]]);
        assert!(matches!(others[2], Value::Array(_)), "the watch of another session: {others:?}");
        let replies = client.pipeline(&[&["MULTI"][..], &["INCR", "w"], &["EXEC"]]);
        assert!(replies[2].is_nil(), "watched before {between:?}: {replies:?}");
        client.cmd(&["HSET", "h", "f", "v"]);
        let replies = client.pipeline(&[&["MULTI"][..], &["HGETALL", "h"], &["EXEC"]]);
        let hash = &replies[2].items()[0];
        assert_eq!(matches!(hash, Value::Map(_)), between[0] == "HELLO", "{hash:?} after {between:?}");
    }
}

/// `u` may not select any more. What it has selected stays; a connection in another database must not be used instead.
fn forbid_select(redis: &Redis) {
    assert_eq!(redis.client().cmd(&["ACL", "SETUSER", "u", "-select"]), ok());
}

fn with_user(redis: &Redis, rights: &[&str]) {
    let set = [&["ACL", "SETUSER", "u", "on", ">pw", "~*", "&*"], rights].concat();
    assert_eq!(redis.client().cmd(&set), ok());
}

#[test]
fn nothing_runs_in_another_database_where_select_is_refused() {
    let redis = Redis::start();
    with_user(&redis, &["+@all"]);
    let crema = one_worker(&redis);
    let (mut first, mut second) = (crema.client(), crema.client());
    for client in [&mut first, &mut second] {
        assert_eq!(client.cmd(&["AUTH", "u", "pw"]), ok());
        client.cmd(&["GET", "none"]);
    }
    // The connection that was asked for it goes back to the pool in database 1.
    first.pipeline(&[&["SELECT", "1"][..], &["GET", "none"]]);
    forbid_select(&redis);
    for command in ["MULTI", "SET", "EXEC"] {
        let args = [&[command][..], if command == "SET" { &["k", "v"] } else { &[] }].concat();
        if second.try_cmd(&args).is_err() {
            break; // the connection was its own by then
        }
    }
    assert_eq!(in_database(&redis, "1", "k"), Value::Nil, "written to the wrong database");
    let mut third = crema.client();
    third.pipeline(&[&["AUTH", "u", "pw"][..], &["SET", "alive", "v"]]);
    assert_eq!(in_database(&redis, "0", "alive"), bulk("v"));
}

#[test]
fn l1_is_not_filled_from_another_database_where_select_is_refused() {
    let redis = Redis::start();
    with_user(&redis, &["+@all"]);
    redis.client().cmd(&["SET", "k", "zero"]);
    redis.client().pipeline(&[&["SELECT", "1"][..], &["SET", "k", "one"]]);
    let crema = one_worker(&redis);
    let (mut zero, mut one) = (crema.client(), crema.client());
    one.pipeline(&[&["AUTH", "u", "pw"][..], &["SELECT", "1"], &["GET", "none"]]);
    assert_eq!(zero.cmd(&["AUTH", "u", "pw"]), ok());
    // The ear's last word is about database 0.
    let hits = crema.outcomes("hit");
    eventually("L1 answers in database 0", || {
        assert_eq!(zero.cmd(&["GET", "k"]), bulk("zero"));
        crema.outcomes("hit") > hits
    });
    forbid_select(&redis);
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        assert_eq!(one.cmd(&["GET", "k"]), bulk("one"));
    }
}

#[test]
fn a_user_who_may_not_echo_keeps_connections_all_the_same() {
    let redis = Redis::start();
    with_user(&redis, &["+@all", "-echo"]);
    let crema = one_worker(&redis);
    let mut client = crema.client();
    client.pipeline(&[&["AUTH", "u", "pw"][..], &["GET", "k"]]);
    let mut transact = || {
        let replies = client.pipeline(&[&["MULTI"][..], &["SET", "k", "v"], &["EXEC"], &["GET", "k"]]);
        assert_eq!(replies[2..], [array([ok()]), bulk("v")]);
    };
    transact();
    let before = redis.info("stats", "total_connections_received");
    (0..10).for_each(|_| transact());
    let made = redis.info("stats", "total_connections_received") - before;
    assert!(made <= 3, "{made} connections for ten transactions");
}

#[test]
fn a_pause_that_redis_refuses_pauses_nothing() {
    let redis = Redis::start();
    let crema = one_worker(&redis);
    let mut client = crema.client();
    client.cmd(&["SET", "k", "v"]);
    crema.warm(&["GET", "k"]);
    assert!(client.cmd(&["CLIENT", "PAUSE", &u64::MAX.to_string()]).is_error());
    crema.warm(&["GET", "k"]);
    // One that is in force stays so, and ends when it was to.
    let began = Instant::now();
    assert_eq!(client.cmd(&["CLIENT", "PAUSE", "300", "WRITE"]), ok());
    assert!(client.cmd(&["CLIENT", "PAUSE", &u64::MAX.to_string()]).is_error());
    assert_eq!(client.cmd(&["SET", "k", "w"]), ok());
    assert!(began.elapsed() >= Duration::from_millis(280));
    crema.warm(&["GET", "k"]);
}

/// Whatever a session has a connection of its own for, it learns of a Redis that is there and says nothing. Only what is to
/// wait, waits.
#[test]
fn a_private_connection_that_hangs_is_given_up_unless_it_is_to_wait() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).flag("--threads", 1).flag("--response-timeout", "1s").start();
    if crema.is_direct() {
        return;
    }
    let mut waiting = crema.client();
    waiting.send_cmd(&["BLPOP", "list", "0"]);
    eventually("it waits", || redis.info("clients", "blocked_clients") == 1);
    let commands: [&[&str]; 5] =
        [&["AUTH", "default", "any"], &["MULTI"], &["KEYS", "none"], &["SELECT", "1"], &["CLIENT", "ID"]];
    let mut clients: Vec<Client> = commands.iter().map(|_| crema.client()).collect();
    for (client, command) in clients.iter_mut().zip(commands) {
        assert!(!client.cmd(&["AUTH", "default", "any"]).is_error());
        assert!(!client.cmd(command).is_error());
    }
    link.freeze();
    let began = Instant::now();
    for (client, command) in clients.iter_mut().zip(commands) {
        client.send_cmd(command);
    }
    for (client, command) in clients.iter_mut().zip(commands) {
        client.patience(AT_LAST);
        match client.try_value() {
            Ok(reply) => assert!(reply.is_error(), "{command:?}: {reply:?}"),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::UnexpectedEof, "{command:?} is stuck: {e}"),
        }
    }
    let took = began.elapsed();
    assert!((900..4_000).contains(&took.as_millis()), "told after {took:?} of a response_timeout of 1 s");
    link.thaw();
    eventually("all is served again", || {
        let mut client = crema.client();
        commands.iter().all(|command| client.try_cmd(command).is_ok_and(|reply| !reply.is_error()))
    });
    assert_eq!(redis.client().cmd(&["RPUSH", "list", "item"]), int(1));
    assert_eq!(waiting.value(), array([bulk("list"), bulk("item")]));
}

#[test]
fn quit_waits_for_what_was_asked_before_it() {
    let redis = Redis::start();
    let crema = one_worker(&redis);
    let mut client = crema.client();
    client.send(&[pack(&["BLPOP", "list", "0"]), pack(&["QUIT"]), pack(&["SET", "after", "quit"])].concat());
    assert!(client.is_silent_for(Duration::from_millis(5_500)), "longer than the last words of a client may take");
    assert_eq!(redis.client().cmd(&["RPUSH", "list", "item"]), int(1));
    assert_eq!(client.value(), array([bulk("list"), bulk("item")]));
    assert_eq!(client.value(), ok());
    assert!(client.closes_within(AT_LAST));
    assert_eq!(redis.client().cmd(&["GET", "after"]), Value::Nil);
}

/// A session that writes faster than its own connection takes is read no further, as on a lane.
#[test]
fn what_a_connection_does_not_take_is_not_read_from_the_client() {
    let redis = Redis::start();
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).flag("--threads", 1).flag("--lane-window", "8MiB").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["MULTI"]), ok());
    link.freeze();
    let command = pack(&[&b"SET"[..], b"k", &vec![b'x'; 1 << 20]]);
    client.stream().set_write_timeout(Some(Duration::from_secs(1))).expect("above zero");
    let taken = (0..256).take_while(|_| client.try_send(&command).is_ok()).count();
    assert!(taken < 128, "{taken} MiB taken from a client while its connection takes nothing");
}

/// One that reads nothing costs the others on its lane a moment, not a moment for each of its replies.
#[test]
fn a_client_that_reads_nothing_does_not_slow_its_lane() {
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).flag("--threads", 1).flag("--promote", 0).start();
    redis.client().cmd(&[&b"SET"[..], b"large", &vec![b'x'; 1_000_000]]);
    redis.client().cmd(&["SET", "small", "v"]);
    let (mut idle, mut busy) = (crema.client(), crema.client());
    assert_eq!(busy.cmd(&["GET", "small"]), bulk("v"));
    idle.send(&pack(&["GET", "large"]).repeat(60));
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(busy.cmd(&["GET", "small"]), bulk("v"));
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "20 small reads took {took:?} beside a client that reads nothing");
    assert_eq!(idle.value().text().len(), 1_000_000);
    assert_eq!(idle.cmd(&["GET", "small"]).text().len(), 1_000_000, "in its order");
}

/// What L1 answers is kept behind the replies before it, however much it is, and keeps none of them away.
#[test]
fn many_hits_behind_an_unanswered_command_wait_for_it_and_not_it_for_them() {
    let redis = Redis::start();
    let crema = one_worker(&redis);
    redis.client().cmd(&[&b"SET"[..], b"large", &vec![b'x'; 20_000]]);
    crema.warm(&["GET", "large"]);
    let mut client = crema.client();
    client.cmd(&["CLIENT", "ID"]);
    client.send(&[pack(&["ECHO", "first"]), pack(&["GET", "large"]).repeat(100)].concat());
    assert_eq!(client.value(), bulk("first"));
    for _ in 0..100 {
        assert_eq!(client.value().text().len(), 20_000);
    }
}

/// The most that Redis holds of replies for any one client.
fn held_at_redis(redis: &Redis) -> u64 {
    let memory = |line: String| line.split(' ').find_map(|field| field.strip_prefix("omem=")?.parse().ok());
    redis.client_list().into_iter().filter_map(memory).max().unwrap_or(0)
}

/// A client may ask for as much as it likes before it reads: Redis keeps the answers, as it would without a proxy.
#[test]
fn what_a_client_asks_for_and_does_not_read_lies_at_redis() {
    const ROUNDS: usize = 4000;
    let redis = Redis::start();
    let crema = one_worker(&redis);
    redis.client().cmd(&[&b"SET"[..], b"large", &vec![b'x'; 20_000]]);
    crema.warm(&["GET", "large"]);
    for home in [false, true] {
        let mut client = crema.client();
        client.stream().set_write_timeout(Some(Duration::from_secs(10))).expect("above zero");
        if home {
            client.cmd(&["CLIENT", "ID"]);
        }
        // More than all sockets on the way hold.
        for n in 0..ROUNDS {
            client.send(&[pack(&["GET", "large"]), pack(&["ECHO", &format!("{n:04000}")])].concat());
        }
        eventually("Redis holds what is not read", || held_at_redis(&redis) > 10_000_000);
        for n in 0..ROUNDS {
            assert_eq!(client.value().text().len(), 20_000);
            assert_eq!(client.value().text().parse(), Ok(n), "in the order of the commands");
        }
        if !crema.is_direct() {
            eventually("L1 answers a client that reads", || {
                let before = crema.outcomes("hit");
                client.cmd(&["GET", "large"]);
                crema.outcomes("hit") > before
            });
            eventually("the loan is over", || crema.count("crema_pinned_connections", &[]) == 0);
        }
    }
}

#[test]
fn the_limit_that_redis_has_for_unread_replies_holds_through_the_proxy() {
    let redis = Redis::with(&["--client-output-buffer-limit", "normal 16mb 0 0"]);
    let crema = one_worker(&redis);
    if crema.is_direct() {
        return;
    }
    redis.client().cmd(&[&b"SET"[..], b"large", &vec![b'x'; 10_000_000]]);
    let (mut deaf, mut other) = (crema.client(), crema.client());
    deaf.send_cmd(&["GET", "large"]);
    let own = || redis.client_list().iter().any(|line| line.contains(" name= ") && line.contains(" cmd=getrange "));
    eventually("it gets a connection of its own", || {
        deaf.send_cmd(&["GETRANGE", "large", "0", "9"]);
        own()
    });
    deaf.send(&pack(&["GETRANGE", "large", "0", "49999"]).repeat(1000));
    eventually("Redis closes it", || !own());
    assert_eq!(other.cmd(&["GET", "none"]), Value::Nil);
    assert_eq!(deaf.value().text().len(), 10_000_000);
    let long = std::iter::from_fn(|| deaf.try_value().ok()).filter(|reply| reply.text().len() == 50_000).count();
    assert!(long < 1000, "and so does the proxy");
}

/// To whom Redis does not say what a command is, it may be a write all the same.
#[test]
fn a_write_that_redis_does_not_describe_to_its_user_is_seen_at_once() {
    let redis = Redis::with(&["--rename-command", "SET", "PUT"]);
    with_user(&redis, &["+@all", "-command"]);
    let crema = one_worker(&redis);
    let (mut writer, mut reader) = (crema.client(), crema.client());
    for client in [&mut writer, &mut reader] {
        assert_eq!(client.cmd(&["AUTH", "u", "pw"]), ok());
    }
    let mut last = Value::Nil;
    for n in 0..500 {
        (0..3).for_each(|_| assert_eq!(reader.cmd(&["GET", "k"]), last));
        let next = n.to_string();
        assert_eq!(writer.cmd(&["PUT", "k", &next]), ok());
        last = bulk(next);
        assert_eq!(reader.cmd(&["GET", "k"]), last);
    }
}

/// A command about the server takes any connection, and what comes next may not go where that happens to be.
#[test]
fn what_follows_a_command_about_the_server_runs_in_the_sessions_database() {
    let redis = Redis::start();
    let crema = one_worker(&redis);
    let go_elsewhere = || {
        let mut other = crema.client();
        other.cmd(&["SELECT", "2"]);
        other.cmd(&["GET", "none"]); // on a lane, so the connection is back in the pool
    };
    for follows in [&["MULTI"][..], &["WATCH", "none"], &["CLIENT", "NO-TOUCH", "ON"], &["SUBSCRIBE", "c"]] {
        let mut client = crema.client();
        client.cmd(&["HELLO", "3"]);
        client.cmd(&["SELECT", "1"]);
        client.cmd(&["GET", "none"]);
        go_elsewhere();
        client.cmd(&["FUNCTION", "STATS"]);
        client.cmd(follows);
        client.cmd(&["SET", "k", "v"]);
        if follows[0] == "MULTI" {
            assert_eq!(client.cmd(&["EXEC"]), array([ok()]));
        }
        assert_eq!(in_database(&redis, "1", "k"), bulk("v"), "after {follows:?}");
        redis.client().cmd(&["FLUSHALL"]);
    }
}
