//! Clients with a name, or with a connection of their own: what they are told, and that their reads count as all others do.

use common::value::shown;
use common::{Client, Crema, Redis, Value, array, bulk, eventually, int, ok, simple};

/// Whether a connection of this name is there.
fn is_seen(redis: &Redis, name: &str) -> bool {
    let name = format!(" name={name} ");
    redis.client_list().iter().any(|line| line.contains(&name))
}

#[test]
fn a_name_makes_no_connection_and_is_shown_to_its_client() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), Value::Nil);
    let connections = redis.client_list().len();
    assert_eq!(client.cmd(&["CLIENT", "SETNAME", "by-name"]), ok());
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), bulk("by-name"));
    assert!(client.cmd(&["CLIENT", "SETNAME", "not valid"]).text().starts_with("ERR Client names cannot"));
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), bulk("by-name"));
    let replies = client.pipeline(&[&["MULTI"][..], &["CLIENT", "GETNAME"], &["EXEC"]]);
    assert_eq!(replies[2], array([bulk("by-name")]));
    assert!(!is_seen(&redis, "by-name") && redis.client_list().len() <= connections, "Redis knows of no name");
    assert!(is_seen(&redis, "crema-lane"), "a lane keeps its own");
    // Its own line has it, and from then on there is a connection that has it.
    assert!(client.cmd(&["CLIENT", "LIST"]).text().contains(" name=by-name "));
    assert!(client.cmd(&["CLIENT", "INFO"]).text().contains(" name=by-name "));
    assert!(is_seen(&redis, "by-name"));
    assert_eq!(client.cmd(&["CLIENT", "SETNAME", "another"]), ok());
    assert!(is_seen(&redis, "another") && !is_seen(&redis, "by-name"));
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), bulk("another"));
    assert_eq!(client.cmd(&["CLIENT", "SETNAME", ""]), ok());
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), Value::Nil);

    let mut client = crema.client();
    client.cmd(&["HELLO", "3", "SETNAME", "by-hello"]);
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), bulk("by-hello"));
    // One that waits is seen by its name, as those who count workers expect.
    client.send_cmd(&["BLPOP", "none", "0"]);
    eventually("it waits", || redis.info("clients", "blocked_clients") == 1);
    assert!(is_seen(&redis, "by-hello"));

    // Named in the midst of what makes a connection its own.
    let mut client = crema.client();
    client.cmd(&["CLIENT", "SETNAME", "tainted"]);
    client.pipeline(&[&["MULTI"][..], &["CLIENT", "ID"], &["EXEC"]]);
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), bulk("tainted"));
    assert_eq!(client.cmd(&["RESET"]).text(), "RESET");
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), Value::Nil);

    // Too long to be kept here.
    let long = "n".repeat(5000);
    assert_eq!(client.cmd(&["CLIENT", "SETNAME", &long]), ok());
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), bulk(&long));
}

#[test]
fn who_may_not_name_a_connection_is_told_so() {
    let redis = Redis::start();
    redis.client().cmd(&["ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "-client|setname", "-client|getname"]);
    let crema = Crema::start(&redis);
    let answers = [redis.addr(), crema.addr()].map(|addr| {
        let mut client = Client::connect(addr);
        client.cmd(&["AUTH", "u", "p"]);
        let commands = [&["CLIENT", "SETNAME", "n"][..], &["CLIENT", "GETNAME"], &["CLIENT", "SETNAME", "a b"]];
        commands.map(|command| {
            client.send_cmd(command);
            client.reply()
        })
    });
    for (direct, through) in answers[0].iter().zip(&answers[1]) {
        assert_eq!(shown(direct), shown(through));
        assert!(direct.starts_with(b"-NOPERM"), "{}", shown(direct));
    }
}

/// Each of these has a connection of its own from then on.
const BEGINNINGS: [&[&str]; 4] =
    [&["CLIENT", "ID"], &["BLPOP", "none", "0.01"], &["CLIENT", "NO-TOUCH", "ON"], &["CLIENT", "NO-EVICT", "ON"]];

#[test]
fn those_with_a_connection_of_their_own_fill_l1() {
    for beginning in BEGINNINGS {
        let redis = Redis::start();
        let crema = Crema::start(&redis);
        if crema.is_direct() {
            return;
        }
        let mut client = crema.client();
        client.cmd(beginning);
        redis.client().cmd(&["MSET", "k", "v", "l", "w"]);
        for reads in [&["GET", "k"][..], &["MGET", "k", "l"]] {
            let before = crema.outcomes("hit");
            eventually("L1 has what it reads", || {
                client.cmd(reads);
                crema.outcomes("hit") > before
            });
        }
        // In pipelines too, where some of what is sent is for its own connection.
        let before = crema.count("crema_fills_total", &[("outcome", "stored")]);
        for n in 0..10 {
            client.pipeline(&[&["CLIENT", "ID"][..], &["GET", &format!("k:{n}")], &["STRLEN", &format!("k:{n}")]]);
        }
        let stored = || crema.count("crema_fills_total", &[("outcome", "stored")]);
        eventually("they are promoted", || stored() >= before + 20);
    }
}

#[test]
fn those_with_a_connection_of_their_own_share_their_reads() {
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).flag("--threads", 1).flag("--promote", 0).start();
    if crema.is_direct() {
        return;
    }
    let mut clients: Vec<Client> = (0..10)
        .map(|_| {
            let mut client = crema.client();
            client.cmd(&["CLIENT", "ID"]);
            client
        })
        .collect();
    redis.client().cmd(&["SET", "k", "v"]);
    let before = redis.calls("get");
    let frozen = redis.freeze();
    for client in &mut clients {
        client.send_cmd(&["GET", "k"]);
    }
    eventually("nine have joined the tenth", || crema.waiting() == 10);
    drop(frozen);
    assert!(clients.iter_mut().all(|client| client.value() == bulk("v")));
    assert_eq!(redis.calls("get"), before + 1);
}

/// It goes to and fro between a lane and its own connection, and each command sees all that came before it.
#[test]
fn a_client_with_a_connection_of_its_own_is_served_in_order() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    let id = client.cmd(&["CLIENT", "ID"]);
    let mut n = 0;
    for round in 0..200_u32 {
        let (mut commands, mut wanted): (Vec<Vec<&str>>, _) = (Vec::new(), Vec::new());
        for at in 0..8 {
            match (round * 7 + at * 5) % 11 {
                0 => {
                    commands.push(vec!["CLIENT", "ID"]);
                    wanted.push(id.clone());
                }
                1 => {
                    commands.extend([vec!["RPUSH", "list", "item"], vec!["BLPOP", "list", "0"]]);
                    wanted.extend([int(1), array([bulk("list"), bulk("item")])]);
                }
                2 => {
                    commands.extend([vec!["MULTI"], vec!["GET", "n"], vec!["EXEC"]]);
                    let n = if n == 0 { Value::Nil } else { bulk(n.to_string()) };
                    wanted.extend([ok(), simple("QUEUED"), array([n])]);
                }
                3 => {
                    commands.push(vec!["EVAL", "return redis.call('INCR', 'n')", "0"]);
                    n += 1;
                    wanted.push(int(n));
                }
                4..=6 => {
                    commands.push(vec!["INCR", "n"]);
                    n += 1;
                    wanted.push(int(n));
                }
                _ => {
                    commands.push(vec!["GET", "n"]);
                    wanted.push(if n == 0 { Value::Nil } else { bulk(n.to_string()) });
                }
            }
        }
        assert_eq!(client.pipeline(&commands), wanted, "{commands:?}");
    }
}

/// Where Redis counts uses, the reads of a client that wants none counted go over its own connection.
#[test]
fn reads_that_are_not_to_touch_do_not() {
    let Some(valkey) = Redis::valkey_with(&["--maxmemory-policy", "allkeys-lfu"]) else { return };
    let crema = Crema::over(valkey.addr()).flag("--promote", 0).start();
    let mut client = crema.client();
    assert_eq!(client.cmd(&["CLIENT", "NO-TOUCH", "ON"]), ok());
    client.cmd(&["SET", "k", "v"]);
    let before = client.cmd(&["OBJECT", "FREQ", "k"]);
    for _ in 0..20 {
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
    }
    assert_eq!(client.cmd(&["OBJECT", "FREQ", "k"]), before);
    client.cmd(&["CLIENT", "NO-TOUCH", "OFF"]);
    client.cmd(&["GET", "k"]);
    assert_ne!(client.cmd(&["OBJECT", "FREQ", "k"]), before);
}

/// What was queued is done after all that came before, and what crema kept is not said again behind it.
#[test]
fn a_name_that_was_queued_in_a_transaction_is_the_last() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    for mut client in [redis.client(), crema.client()] {
        assert_eq!(client.cmd(&["CLIENT", "SETNAME", "first"]), ok());
        client.cmd(&["MULTI"]);
        client.cmd(&["CLIENT", "SETNAME", "queued"]);
        assert!(!client.cmd(&["EXEC"]).is_error());
        assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), bulk("queued"));
        client.cmd(&["MULTI"]);
        client.cmd(&["CLIENT", "SETNAME", "discarded"]);
        assert_eq!(client.cmd(&["DISCARD"]), ok());
        assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), bulk("queued"));
    }
}

/// Of a transaction that is not carried out nothing is left, a name included.
#[test]
fn a_name_that_was_queued_for_nothing_leaves_the_one_before() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut other = redis.client();
    // Named in vain: the transaction is refused, finds a watched key changed, or the name is none.
    for (name, spoilt) in [("a", "NOSUCH"), ("", "NOSUCH"), ("a", "WATCH"), ("", "WATCH"), ("no name", "")] {
        for (hello, mut client) in [("2", redis.client()), ("2", crema.client()), ("3", crema.client())] {
            client.cmd(&["HELLO", hello]);
            assert_eq!(client.cmd(&["CLIENT", "SETNAME", "first"]), ok());
            client.cmd(&["WATCH", "w"]);
            if spoilt == "WATCH" {
                other.cmd(&["INCR", "w"]);
            }
            let mut commands = vec![vec!["MULTI"], vec!["CLIENT", "SETNAME", name], vec!["SET", "k", "v"]];
            if spoilt == "NOSUCH" {
                commands.push(vec!["NOSUCH"]);
            }
            commands.extend([vec!["EXEC"], vec!["CLIENT", "GETNAME"]]);
            let commands: Vec<&[&str]> = commands.iter().map(Vec::as_slice).collect();
            let replies = client.pipeline(&commands);
            assert_eq!(replies.last(), Some(&bulk("first")), "{name:?}, {spoilt}, RESP{hello}: {replies:?}");
            assert!(client.cmd(&["CLIENT", "INFO"]).text().contains(" name=first "));
        }
    }
    let mut client = crema.client();
    client.cmd(&["CLIENT", "SETNAME", "first"]);
    let replies = client.pipeline(&[&["MULTI"][..], &["CLIENT", "SETNAME", ""], &["EXEC"], &["CLIENT", "GETNAME"]]);
    assert_eq!(replies[3], Value::Nil);
}

/// The name is told to a connection that stays the client's own behind the transaction in which it became so, and is known in it.
#[test]
fn a_name_is_known_in_the_transaction_in_which_the_connection_becomes_the_clients_own() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    for addr in [redis.addr(), crema.addr()] {
        let mut client = Client::connect(addr);
        assert_eq!(client.cmd(&["CLIENT", "SETNAME", "before"]), ok());
        assert_eq!(client.cmd(&["MULTI"]), ok());
        for command in [
            &["CLIENT", "NO-EVICT", "ON"][..],
            &["CLIENT", "GETNAME"],
            &["CLIENT", "SETNAME", "after"],
            &["CLIENT", "GETNAME"],
        ] {
            assert_eq!(client.cmd(command), simple("QUEUED"));
        }
        assert_eq!(client.cmd(&["EXEC"]), array([ok(), bulk("before"), ok(), bulk("after")]), "{addr}");
        assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), bulk("after"));
    }
}
