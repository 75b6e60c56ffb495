//! Another server behind the same address: two servers are never used as one.

use std::time::Duration;

use common::{Client, Crema, Link, Redis, Value, array, bulk, int, ok, simple, within};

/// Back within a second of the first sign, and what a loaded machine takes.
const BACK: Duration = Duration::from_secs(10);

/// A master, its replica, and the address in front of them.
fn pair() -> (Redis, Redis, Link) {
    let (master, replica) = (Redis::start(), Redis::start());
    follow(&replica, &master);
    let link = Link::to(master.addr());
    (master, replica, link)
}

fn follow(replica: &Redis, master: &Redis) {
    let port = master.port().to_string();
    assert_eq!(replica.client().cmd(&["REPLICAOF", "127.0.0.1", &port]), ok());
    within(BACK, "the replica is in step", || {
        replica.client().cmd(&["ROLE"]).items().get(3) == Some(&bulk("connected"))
    });
}

/// The replica takes over, and the address leads to it; connections made before stay with the old master, which follows.
fn fail_over(master: &Redis, replica: &Redis, link: &Link) {
    assert_eq!(replica.client().cmd(&["REPLICAOF", "NO", "ONE"]), ok());
    link.turn_to(replica.addr());
    let port = replica.port().to_string();
    assert_eq!(master.client().cmd(&["REPLICAOF", "127.0.0.1", &port]), ok());
}

fn works(crema: &Crema, command: &[&str], expected: &Value) -> bool {
    let mut client = crema.client();
    client.try_cmd(command).is_ok_and(|answer| answer == *expected)
}

#[test]
fn after_a_failover_behind_one_address_writes_go_to_the_new_master() {
    let (master, replica, link) = pair();
    let crema = Crema::over(link.addr()).flag("--promote", 1).start();
    if crema.is_direct() {
        return;
    }
    let mut old = crema.client();
    assert_eq!(old.cmd(&["SET", "k", "1"]), ok());
    crema.warm(&["GET", "k"]);
    fail_over(&master, &replica, &link);
    within(BACK, "a write is taken", || works(&crema, &["SET", "k", "2"], &ok()));
    assert_eq!(replica.client().cmd(&["GET", "k"]), bulk("2"));
    for _ in 0..50 {
        assert_eq!(crema.client().cmd(&["GET", "k"]), bulk("2"));
    }
    within(BACK, "it is ready", || crema.is_ready());
    within(BACK, "memory is used again", || {
        let before = crema.outcomes("hit");
        crema.warm(&["GET", "k"]);
        works(&crema, &["GET", "k"], &bulk("2")) && crema.outcomes("hit") > before
    });
}

/// Nobody writes and nobody cuts a connection: what the old master says of itself is sign enough.
#[test]
fn a_demoted_master_is_left_though_nobody_writes() {
    let (master, replica, link) = pair();
    let crema = Crema::over(link.addr()).flag("--promote", 1).start();
    if crema.is_direct() {
        return;
    }
    assert_eq!(crema.client().cmd(&["SET", "k", "1"]), ok());
    crema.warm(&["GET", "k"]);
    fail_over(&master, &replica, &link);
    assert_eq!(replica.client().cmd(&["SET", "only", "here"]), ok());
    // The old one follows, so that only where a connection leads tells them apart.
    let port = replica.port();
    within(BACK, "crema has left the old master", || {
        let listed = replica.client_list();
        let lanes = listed.iter().filter(|line| line.contains("name=crema-")).count();
        works(&crema, &["CONFIG", "GET", "port"], &array([bulk("port"), bulk(port.to_string())])) && lanes > 0
    });
}

/// The order of the public report: the old master demoted, a MULTI on a new connection acknowledged, the client's own GET.
#[test]
fn a_client_sees_its_own_transaction_across_a_turn() {
    let (one, other) = (Redis::start(), Redis::start());
    let link = Link::to(one.addr());
    let crema = Crema::over(link.addr()).flag("--threads", 1).flag("--promote", 1).start();
    if crema.is_direct() {
        return;
    }
    for redis in [&one, &other] {
        assert_eq!(redis.client().cmd(&["SET", "k", "old"]), ok());
    }
    crema.warm(&["GET", "k"]);
    // Both say that they are masters, and both take writes.
    link.turn_to(other.addr());
    let mut home = crema.client();
    home.cmd(&["CLIENT", "ID"]); // takes the connection that was kept ready
    within(BACK, "a transaction is acknowledged by the new server", || {
        let mut client = crema.client();
        let done = client.try_cmd(&["MULTI"]).is_ok()
            && client.try_cmd(&["SET", "k", "new"]).is_ok()
            && client.try_cmd(&["EXEC"]).is_ok_and(|done| !done.is_error());
        let Ok(seen) = client.try_cmd(&["GET", "k"]) else { return false };
        assert!(!done || seen == bulk("new"), "its own write is missed: {seen:?}");
        done && other.client().cmd(&["GET", "k"]) == bulk("new")
    });
    for _ in 0..20 {
        assert_eq!(crema.client().cmd(&["GET", "k"]), bulk("new"), "nor is it missed by anybody else");
    }
}

/// A client with a connection of its own to the former server is not told what that one says: it is closed.
#[test]
fn nobody_is_answered_by_two_servers() {
    let (one, other) = (Redis::start(), Redis::start());
    let link = Link::to(one.addr());
    let crema = Crema::over(link.addr()).flag("--threads", 1).start();
    if crema.is_direct() {
        return;
    }
    let mut home = crema.client();
    home.cmd(&["CLIENT", "ID"]);
    assert_eq!(home.cmd(&["INCR", "n"]), int(1));
    link.turn_to(other.addr());
    within(BACK, "the turn is seen", || works(&crema, &["DBSIZE"], &int(0)));
    // Closed, or served by the new server from the start: the former one would say 2.
    let answer = home.try_cmd(&["INCR", "n"]);
    assert!(answer.as_ref().is_err() || *answer.as_ref().expect("not an error") == int(1), "{answer:?}");
    assert_eq!(one.client().cmd(&["GET", "n"]), bulk("1"), "nothing was done at the former server");
}

/// Several servers behind one address on purpose: crema keeps nothing and joins nothing.
#[test]
fn ids_that_alternate_switch_memory_off() {
    let (one, other) = (Redis::start(), Redis::start());
    let link = Link::to(one.addr());
    let crema = Crema::over(link.addr()).flag("--threads", 1).flag("--promote", 1).start();
    if crema.is_direct() {
        return;
    }
    let mut turn = false;
    within(Duration::from_secs(30), "it is noticed", || {
        turn = !turn;
        link.turn_to(if turn { other.addr() } else { one.addr() });
        link.cut(); // a new connection has to be made, and leads to the other one
        works(&crema, &["PING"], &simple("PONG"));
        crema.has_logged("several servers answer")
    });
    within(BACK, "clients are served", || works(&crema, &["SET", "k", "v"], &ok()));
    // Each client has one connection, and so one server, for all that it says.
    let mut client: Client = crema.client();
    let port = client.cmd(&["CONFIG", "GET", "port"]);
    for n in 0..20 {
        link.turn_to(if n % 2 == 0 { other.addr() } else { one.addr() });
        assert_eq!(client.cmd(&["CONFIG", "GET", "port"]), port);
        client.cmd(&["SET", "mine", &n.to_string()]);
        assert_eq!(client.cmd(&["GET", "mine"]), bulk(n.to_string()));
    }
    assert_eq!(crema.outcomes("hit"), 0);
}
