//! Logins: a session that proved its own keeps what Redis would let it keep, and a refused one is told as such.
//!
//! Redis ties a login to a connection: a password that is changed, a user that is switched off, a password that is set where
//! there was none concern those who come after. Here the connections are the proxy's.

use common::{AT_LAST, Client, Crema, Redis, Value, WORKERS, bulk, eventually, ok, simple};

/// What keeps those out who come after, and lets those stay who are in.
const CHANGES: [(&str, &[&[&str]]); 3] = [
    ("another password", &[&["ACL", "SETUSER", "app", ">new", "<old"]]),
    ("switched off", &[&["ACL", "SETUSER", "app", "off"]]),
    ("a password for all", &[&["CONFIG", "SET", "requirepass", "secret"]]),
];

fn app(redis: &Redis) {
    let rules = ["ACL", "SETUSER", "app", "reset", "on", ">old", "~*", "&*", "+@all"];
    assert_eq!(redis.client().cmd(&rules), ok());
    redis.client().cmd(&["SET", "k", "v"]);
}

/// A client that is in, as `app` where `named`, else as whoever comes.
fn client(crema: &Crema, named: bool) -> Client {
    let mut client = crema.client();
    if named {
        assert_eq!(client.cmd(&["AUTH", "app", "old"]), ok());
    }
    assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
    client
}

/// The connections at the server of this user, in bytes of `CLIENT LIST`.
fn connections(admin: &mut Client, user: &str) -> Vec<String> {
    let of_user = |line: &&str| line.contains(&format!(" user={user} "));
    admin.cmd(&["CLIENT", "LIST"]).text().lines().filter(of_user).map(ToOwned::to_owned).collect()
}

/// Whether a worker has what it keeps to lend to sessions of this user: one connection, and a second one of those who logged in,
/// beside that on which clients log in.
fn has_spares(admin: &mut Client, user: &str) -> bool {
    let spare =
        |line: &&String| line.contains(" name= ") && (line.contains("cmd=auth ") || line.contains("cmd=hello "));
    connections(admin, user).iter().filter(spare).count() == if user == "app" { 3 } else { 1 }
}

#[test]
fn what_keeps_others_out_ends_nobody_who_is_in() {
    for (what, change) in CHANGES {
        let redis = Redis::start();
        app(&redis);
        let crema = Crema::over(redis.addr()).flag("--threads", 1).start();
        let named = change[0][0] == "ACL";
        let user = if named { "app" } else { "default" };
        let mut sessions: Vec<Client> = (0..3).map(|_| client(&crema, named)).collect();
        let mut admin = redis.client();
        if !crema.is_direct() {
            eventually("each may need a connection of its own", || has_spares(&mut admin, user));
        }
        for command in change {
            assert_eq!(admin.cmd(command), ok(), "{what}");
        }
        let [a, b, c] = &mut sessions[..] else { panic!("three") };
        assert_eq!(a.cmd(&["WATCH", "k"]), ok(), "{what}");
        if named {
            assert_eq!(b.cmd(&["WATCH", "k"]), ok(), "{what}");
        }
        for session in [&mut *a, &mut *b, &mut *c] {
            assert_eq!(session.cmd(&["GET", "k"]), bulk("v"), "{what}");
        }
        // A script has a lane of its own, which cannot be made.
        assert_eq!(c.cmd(&["EVAL", "return 'script'", "0"]), bulk("script"), "{what}");
        for session in [&mut *a, &mut *b] {
            assert_eq!(session.cmd(&["UNWATCH"]), ok());
            assert_eq!(session.cmd(&["SET", "k", "v"]), ok());
        }
        // Nor can one for another database, or another version.
        for session in [a, b, c] {
            assert_eq!(session.cmd(&["SELECT", "3"]), ok(), "{what}");
            assert_eq!(session.cmd(&["SET", "three", "3"]), ok(), "{what}");
            assert_eq!(session.cmd(&["GET", "three"]), bulk("3"), "{what}");
            assert_eq!(session.cmd(&["SELECT", "0"]), ok(), "{what}");
            session.cmd(&["HELLO", "3"]);
            assert_eq!(session.cmd(&["GET", "k"]), bulk("v"), "{what}");
        }
        if named {
            let refused = crema.client().cmd(&["AUTH", "app", "old"]);
            assert!(refused.text().starts_with("WRONGPASS"), "{what}: {refused:?}");
        } else {
            // Whether anybody may come in without a login is asked once a second.
            let refused = || crema.client().cmd(&["GET", "k"]).text().starts_with("NOAUTH");
            eventually("who comes later is asked for a login", refused);
        }
    }
}

/// So they are when they have been idle for long, and whoever sends a command then needs another.
#[test]
fn lanes_that_are_gone_are_made_of_what_is_kept() {
    let redis = Redis::start();
    app(&redis);
    let crema = Crema::over(redis.addr()).flag("--threads", 1).start();
    let mut sessions: Vec<Client> = (0..2).map(|_| client(&crema, true)).collect();
    let mut admin = redis.client();
    if !crema.is_direct() {
        eventually("each may need a connection of its own", || has_spares(&mut admin, "app"));
    }
    assert_eq!(admin.cmd(&["ACL", "SETUSER", "app", ">new", "<old"]), ok());
    let lanes: Vec<String> =
        connections(&mut admin, "app").into_iter().filter(|line| line.contains("crema-lane")).collect();
    for lane in &lanes {
        let id = lane.split(' ').next().and_then(|id| id.strip_prefix("id=")).expect("it begins with it");
        admin.cmd(&["CLIENT", "KILL", "ID", id]);
    }
    for session in &mut sessions {
        assert_eq!(session.cmd(&["GET", "k"]), bulk("v"));
        assert_eq!(session.cmd(&["SET", "k", "v"]), ok());
    }
    assert_eq!(sessions[0].cmd(&["WATCH", "k"]), ok());
    // With the last connection goes the session, and with the session nobody else.
    let mut other = crema.client();
    assert_eq!(other.cmd(&["PING"]), simple("PONG"));
    if !crema.is_direct() {
        admin.cmd(&["CLIENT", "KILL", "USER", "app"]);
        for session in &mut sessions {
            assert!(session.closes_within(AT_LAST), "nothing is left of its login");
        }
    }
    assert_eq!(other.cmd(&["PING"]), simple("PONG"));
}

/// From 7.2 on, a server that refuses a login says nothing while it has other replies to send.
#[test]
fn each_login_has_its_own_answer_among_many() {
    for redis in [Some(Redis::start()), Redis::valkey()].into_iter().flatten() {
        app(&redis);
        let crema = Crema::over(redis.addr()).start();
        for round in 0..10 {
            let mut clients: Vec<Client> = (0..40).map(|_| crema.client()).collect();
            for (n, client) in clients.iter_mut().enumerate() {
                let password = if (n + round) % 3 == 0 { "wrong" } else { "old" };
                if n % 2 == 0 {
                    client.send_cmd(&["AUTH", "app", password]);
                } else {
                    client.send_cmd(&["HELLO", "2", "AUTH", "app", password]);
                }
            }
            for (n, client) in clients.iter_mut().enumerate() {
                let reply = client.value();
                assert_eq!((n + round) % 3 == 0, reply.is_error(), "{n}: {reply:?}");
            }
        }
    }
}

#[test]
fn a_wrong_password_of_the_upstream_is_told_as_such() {
    for redis in [Some(Redis::with(&["--requirepass", "right"])), Redis::valkey_with(&["--requirepass", "right"])] {
        let Some(redis) = redis else { continue };
        let wrong = format!("redis://:wrong@{}", redis.addr());
        let crema = Crema::over(redis.addr()).url(wrong).flag("--auth", "open").without_waiting().start();
        if crema.is_direct() {
            return;
        }
        let reply = crema.client().cmd(&["GET", "k"]).text();
        assert!(reply.starts_with("WRONGPASS"), "{reply}");
        eventually("the log says why", || crema.has_logged("not ready") && crema.has_logged("WRONGPASS"));
        assert!(!crema.has_logged("no answer within"), "{}", crema.log());
    }
}

/// A user may be in a database that it may not select, for its client came there as another.
#[test]
fn a_database_is_entered_by_whoever_may() {
    let secret = ["--requirepass", "secret"];
    let servers = [
        (Some(Redis::start()), ""),
        (Some(Redis::with(&secret)), ":secret@"),
        (Redis::valkey(), ""),
        (Redis::valkey_with(&secret), ":secret@"),
    ];
    for (redis, password) in servers {
        let Some(redis) = redis else { continue };
        app(&redis);
        let mut admin = redis.client();
        assert_eq!(admin.cmd(&["ACL", "SETUSER", "getter", "on", ">pg", "~*", "+get", "+multi", "+exec"]), ok());
        let crema = Crema::over(redis.addr()).url(format!("redis://{password}{}", redis.addr())).start();
        // The second finds what the first has opened, and the other way round.
        let mut clients: Vec<Client> = (0..WORKERS * 2).map(|_| crema.client()).collect();
        for client in &mut clients {
            assert_eq!(client.cmd(&["AUTH", "app", "old"]), ok());
            assert_eq!(client.cmd(&["SELECT", "3"]), ok());
            assert_eq!(client.cmd(&["SET", "three", "3"]), ok());
            assert_eq!(client.cmd(&["AUTH", "getter", "pg"]), ok());
            assert_eq!(client.cmd(&["GET", "three"]), bulk("3"));
            assert!(client.cmd(&["SET", "three", "4"]).text().starts_with("NOPERM"));
            assert!(client.cmd(&["SELECT", "0"]).text().starts_with("NOPERM"));
            // On a connection of its own.
            assert_eq!(client.cmd(&["MULTI"]), ok());
            assert_eq!(client.cmd(&["GET", "three"]), simple("QUEUED"));
            assert_eq!(client.cmd(&["EXEC"]), Value::Array(vec![bulk("3")]));
        }
    }
}
