//! What there is only so much of, descriptors and connections to Redis: nobody is starved by those who hold it, and who gets
//! none is told.

use std::time::Duration;

use common::{Client, Crema, Redis, Value, bulk, eventually, int, ok, simple};

#[test]
fn with_few_descriptors_fewer_clients_are_served_and_the_others_are_told() {
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).open_files(256).start();
    if crema.is_direct() {
        return;
    }
    eventually("it is logged", || crema.has_logged("max_clients is "));
    let mut clients: Vec<Client> = (0..400).map(|_| crema.client()).collect();
    let (mut served, mut refused) = (Vec::new(), 0);
    for mut client in clients.drain(..) {
        // A refusal may have come, and the connection gone, before anything was asked.
        let _ = client.try_send(&common::pack(&["SET", "k", "v"]));
        match client.try_value() {
            Ok(reply) if reply == ok() => served.push(client),
            Ok(reply) => {
                assert_eq!(reply, Value::Error("ERR max number of clients reached".into()));
                refused += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(served.len() >= 64, "{} clients are served", served.len());
    assert_eq!(served.len() + refused, 400);
    // All of them at once, the one with a connection of its own, and the admin port.
    for client in &mut served {
        client.send_cmd(&["GET", "k"]);
    }
    for client in &mut served {
        assert_eq!(client.value(), bulk("v"));
    }
    assert_eq!(served[0].cmd(&["WATCH", "k"]), ok());
    assert!(crema.is_ready());
    assert!(!crema.has_logged("cannot accept"), "{}", crema.log());
    // Who leaves makes room.
    drop(served);
    eventually("there is room again", || {
        let mut client = crema.client();
        client.try_cmd(&["PING"]).is_ok_and(|reply| reply == simple("PONG"))
    });
}

/// The one that was unused for longest makes room, whichever worker has it.
#[test]
fn lanes_that_nobody_uses_keep_nobody_out() {
    const DATABASES: usize = 60;
    const USERS: usize = 40;
    let redis = Redis::with(&["--databases", "64"]);
    let crema = Crema::over(redis.addr()).flag("--max-upstream", 24).start();
    let mut admin = redis.client();
    for user in 0..USERS {
        let rules = ["ACL", "SETUSER", &format!("u{user}"), "on", ">p", "~*", "+@all"];
        assert_eq!(admin.cmd(&rules), ok());
    }
    // On both workers, and both versions.
    let mut clients: Vec<Client> = (0..4_u8).map(|n| Client::speaking(2 + n / 2, crema.addr())).collect();
    for db in 0..DATABASES {
        let db = db.to_string();
        for client in &mut clients {
            assert_eq!(client.cmd(&["SELECT", &db]), ok());
            assert_eq!(client.cmd(&["SET", "k", &db]), ok());
            assert_eq!(client.cmd(&["GET", "k"]), bulk(&db));
        }
    }
    for round in 0..2 {
        for user in 0..USERS {
            let mut client = crema.client();
            assert_eq!(client.cmd(&["AUTH", &format!("u{user}"), "p"]), ok(), "{round}");
            assert_eq!(client.cmd(&["SET", "k", "v"]), ok(), "user {user}, round {round}");
            assert_eq!(client.cmd(&["MULTI"]), ok());
            assert_eq!(client.cmd(&["GET", "k"]), simple("QUEUED"));
            assert_eq!(client.cmd(&["EXEC"]), Value::Array(vec![bulk("v")]));
        }
    }
    let connections = redis.client_list().len();
    assert!(crema.is_direct() || connections <= 26, "{connections} connections"); // and this test's own
    assert!(crema.is_direct() || crema.is_ready());
}

#[test]
fn sessions_with_connections_of_their_own_leave_room_for_the_others() {
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).flag("--max-upstream", 48).start();
    if crema.is_direct() {
        return;
    }
    let mut blocked: Vec<Client> = (0..80).map(|_| crema.client()).collect();
    for client in &mut blocked {
        client.send_cmd(&["BLPOP", "none", "0"]);
    }
    // Those for whom there is no room have been told, one way or another.
    let mut refused = 0;
    eventually("no more than there is room for wait at Redis", || {
        let waiting = usize::try_from(redis.info("clients", "blocked_clients")).expect("few");
        refused = blocked
            .iter_mut()
            .map(|client| client.is_silent_for(Duration::from_millis(1)))
            .filter(|silent| !silent)
            .count();
        waiting >= 24 && waiting + refused == 80
    });
    assert!(refused >= 40, "{refused} of 80 are refused");
    eventually("it is logged", || crema.has_logged("max_upstream"));
    // Plain ones, in more databases than there is room for at once, and each with a transaction; and crema itself.
    let mut plain: Vec<Client> = (0..12_u8).map(|n| Client::speaking(2 + n % 2, crema.addr())).collect();
    for _ in 0..2 {
        for (db, client) in plain.iter_mut().enumerate() {
            let db = db.to_string();
            assert_eq!(client.cmd(&["SELECT", &db]), ok());
            assert_eq!(client.cmd(&["SET", "k", &db]), ok());
            assert_eq!(client.cmd(&["EVAL", "return 1", "0"]), int(1));
            assert_eq!(client.cmd(&["MULTI"]), ok());
            assert_eq!(client.cmd(&["GET", "k"]), simple("QUEUED"));
            assert_eq!(client.cmd(&["EXEC"]), Value::Array(vec![bulk(&db)]));
            // The connection that was borrowed for it goes back with the next command that needs none.
            assert_eq!(client.cmd(&["GET", "k"]), bulk(&db));
        }
    }
    assert!(crema.is_ready());
    crema.warm(&["GET", "k"]);
}

/// A session keeps what it borrowed for a transaction until its next command shows that it needs it no more, and some say nothing
/// more for long.
#[test]
fn sessions_that_are_done_with_what_they_borrowed_keep_nobody_out() {
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).flag("--max-upstream", 24).start();
    let mut clients: Vec<Client> = (0..60_u8).map(|n| Client::speaking(2 + n % 2, crema.addr())).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.cmd(&["MULTI"]), ok(), "client {n}");
        assert_eq!(client.cmd(&["SET", "k", "v"]), simple("QUEUED"), "client {n}");
        assert_eq!(client.cmd(&["EXEC"]), Value::Array(vec![ok()]), "client {n}");
    }
    // What was asked back is borrowed anew, by all of them in turn; what watches a key is in use, and stays.
    let mut watcher = crema.client();
    assert_eq!(watcher.cmd(&["WATCH", "k"]), ok());
    for (n, client) in clients.iter_mut().enumerate() {
        client.send_cmd(&["MULTI"]);
        client.send_cmd(&["SET", "other", "v"]);
        client.send_cmd(&["EXEC"]);
        let answers = [client.value(), client.value(), client.value()];
        assert_eq!(answers, [ok(), simple("QUEUED"), Value::Array(vec![ok()])], "client {n}");
    }
    assert_eq!(clients[0].cmd(&["SET", "k", "new"]), ok());
    assert_eq!(watcher.cmd(&["MULTI"]), ok());
    assert_eq!(watcher.cmd(&["GET", "k"]), simple("QUEUED"));
    assert_eq!(watcher.cmd(&["EXEC"]), Value::Nil, "the key had changed");
}
