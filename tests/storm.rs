//! Many clients who come at once: what they cost the upstream, and that all are served. How long that takes `benches/storm.rs` tells.

use common::link::Way;
use common::{Client, Crema, Link, Redis, Value, bulk, eventually, ok, pack};

/// How often Redis was asked to log somebody in.
fn logins(redis: &Redis) -> u64 {
    let stats = redis.client().cmd(&["INFO", "commandstats"]).text();
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_auth:calls="));
    line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn equal_logins_at_once_cost_redis_a_few_and_no_connection_each() {
    const MANY: usize = 600;
    common::lift_open_files();
    let redis = Redis::start();
    let mut direct = redis.client();
    assert_eq!(direct.cmd(&["ACL", "SETUSER", "anna", "on", ">secret", "~*", "&*", "+@all"]), ok());
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).start();
    if crema.is_direct() {
        return;
    }
    let mut first: Vec<Client> = (0..8).map(|_| crema.client()).collect();
    for client in &mut first {
        assert_eq!(client.cmd(&["AUTH", "anna", "secret"]), ok());
        assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    }
    let (asked, connected) = (logins(&redis), link.accepted());
    let mut clients: Vec<Client> = (0..MANY).map(|_| crema.client()).collect();
    let mut wrong: Vec<Client> = (0..3).map(|_| crema.client()).collect();
    eventually("all are let in", || crema.count("crema_sessions", &[]) >= (MANY + 11) as u64);
    link.hold(Way::Replies);
    let received = || crema.count("crema_received_bytes_total", &[]);
    let before = received();
    let (right, guess) = (pack(&["AUTH", "anna", "secret"]), pack(&["AUTH", "anna", "guess"]));
    for client in &mut clients {
        client.send(&right);
    }
    for client in &mut wrong {
        client.send(&guess);
    }
    let all = (MANY * right.len() + wrong.len() * guess.len()) as u64;
    eventually("all of it is read", || received() - before >= all);
    eventually("some have been sent", || logins(&redis) > asked);
    link.thaw();
    for client in &mut clients {
        client.send_cmd(&["GET", "k"]);
    }
    for client in &mut clients {
        assert_eq!(client.value(), ok());
        assert_eq!(client.value(), bulk("v"));
    }
    for client in &mut wrong {
        assert!(matches!(client.value(), Value::Error(_)), "each is refused by itself");
    }
    let (logged_in, made) = (logins(&redis) - asked, link.accepted() - connected);
    assert!(logged_in < MANY as u64 / 4, "{logged_in} logins for {MANY} clients");
    assert!(made <= 16, "{made} connections");
}

#[test]
fn ten_thousand_who_come_back_are_all_served_and_cost_no_connection_each() {
    // Each is one open file here and one there.
    let limit = usize::try_from(common::lift_open_files()).unwrap_or(usize::MAX);
    let many = (limit - limit / 4).min(10_000);
    let redis = Redis::start();
    let mut direct = redis.client();
    assert_eq!(direct.cmd(&["ACL", "SETUSER", "anna", "on", ">secret", "~*", "&*", "+@all"]), ok());
    assert_eq!(direct.cmd(&["SET", "k", "v"]), ok());
    let link = Link::to(redis.addr());
    let crema = Crema::over(link.addr()).flag("--max-clients", 2 * many).start();
    if crema.is_direct() || std::env::var_os("CREMA_TEST_TLS").is_some() {
        return; // there a tunnel would have two more for each
    }
    let entry = [pack(&["AUTH", "anna", "secret"]), pack(&["GET", "k"])].concat();
    let mut there: Vec<Client> = (0..8).map(|_| crema.client()).collect();
    for client in &mut there {
        client.send(&entry);
        assert_eq!((client.value(), client.value()), (ok(), bulk("v")));
    }
    let connected = link.accepted();
    let mut clients: Vec<Client> = Vec::with_capacity(many);
    for number in 0..many {
        let mut client = crema.client();
        client.send(&entry);
        clients.push(client);
        if number % 100 == 0 {
            let who = &mut there[number / 100 % 8];
            assert_eq!(who.cmd(&["GET", "k"]), bulk("v"), "who is there is served meanwhile");
        }
    }
    for client in &mut clients {
        assert_eq!((client.value(), client.value()), (ok(), bulk("v")));
    }
    let made = link.accepted() - connected;
    assert!(made <= 16, "{made} connections for {many} clients");
    assert_eq!(crema.count("crema_sessions_refused_total", &[]), 0);
}
