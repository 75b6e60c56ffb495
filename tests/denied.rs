//! Commands that clients may not use (`deny`): refused as Redis's ACL refuses them, byte for byte, in transactions too, and never
//! sent.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use common::value::shown;
use common::{Client, Crema, Redis, int, ok, pack};

/// The same words as rules of Redis's ACL and as a list of crema's.
const DENIED: [&str; 6] = ["flushall", "config|set", "@scripting", "keys", "exec", "append"];

/// A Redis that denies these to its default user, and one behind a crema that does.
fn pair(denied: &[&str]) -> (Redis, Redis, Crema) {
    let (direct, behind) = (Redis::start(), Redis::start());
    let rules: Vec<String> = denied.iter().map(|word| format!("-{word}")).collect();
    let mut setuser = vec!["ACL", "SETUSER", "default"];
    setuser.extend(rules.iter().map(String::as_str));
    let crema = Crema::over(behind.addr()).flag("--deny", denied.join(",")).start();
    assert_eq!(direct.client().cmd(&setuser), ok());
    (direct, behind, crema)
}

fn compare(one: &mut Client, other: &mut Client, lines: &[&str]) {
    let words = |line: &str| pack(&line.split(' ').collect::<Vec<_>>());
    let bytes: Vec<u8> = lines.iter().flat_map(|line| words(line)).collect();
    one.send(&bytes);
    other.send(&bytes);
    for line in lines {
        let (want, got) = (one.reply(), other.reply());
        assert_eq!(shown(&want), shown(&got), "{line} of {lines:?}");
    }
}

/// What `CREMA EXPLAIN` says of whether a command is denied.
fn explained(client: &mut Client, words: &[&str]) -> String {
    let told = client.cmd(&[&["CREMA", "EXPLAIN"], words].concat());
    let at = told.items().iter().position(|item| item.text() == "denied").expect("it is told");
    told.items()[at + 1].text()
}

#[test]
fn what_is_denied_is_refused_as_redis_does() {
    let (direct, _behind, crema) = pair(&DENIED);
    if crema.is_direct() {
        return;
    }
    for version in [2, 3] {
        let (mut one, mut other) = (Client::speaking(version, direct.addr()), Client::speaking(version, crema.addr()));
        let scenes: [&[&str]; 8] = [
            &[
                "SET k v",
                "FLUSHALL",
                "GET k",
                "FlushAll ASYNC",
                "GET k",
                "KEYS *",
                "CONFIG SET maxmemory 0",
                "EXISTS k",
            ],
            &["EVAL x 0", "EVALSHA x 0", "SCRIPT LOAD x", "FUNCTION LIST", "FCALL x 0", "PING"],
            &["FLUSHALL a b c", "KEYS", "KEYS a b", "CONFIG SET", "CONFIG", "APPEND k", "EXEC x", "EVAL"],
            &["MULTI", "SET k w", "KEYS *", "SET k x", "EXEC", "GET k", "MULTI", "DISCARD"],
            &["EXEC", "MULTI", "SET k y", "EXEC", "GET k", "DISCARD"],
            &["WATCH k", "MULTI", "APPEND k 1", "DISCARD", "GET k", "UNWATCH"],
            &["SELECT 1", "APPEND k 1", "SET k z", "GET k", "SELECT 0", "GET k"],
            &["CLIENT NO-TOUCH ON", "APPEND k 1", "SUBSCRIBE c", "KEYS *", "UNSUBSCRIBE c", "GET k"],
        ];
        for scene in scenes {
            compare(&mut one, &mut other, scene);
        }
    }
    assert!(crema.count("crema_errors_total", &[("reason", "denied")]) > 20);
}

/// Other commands than `EXEC`, which has its own way: a transaction fails, and nothing of it is done.
#[test]
fn a_transaction_with_a_denied_command_fails() {
    let (direct, behind, crema) = pair(&["flushall", "@dangerous"]);
    if crema.is_direct() {
        return;
    }
    let (mut one, mut other) = (direct.client(), crema.client());
    compare(
        &mut one,
        &mut other,
        &["MULTI", "SET k v", "FLUSHALL", "GET k", "EXEC", "GET k", "MULTI", "GET k", "EXEC"],
    );
    compare(
        &mut one,
        &mut other,
        &["WATCH k", "MULTI", "KEYS *", "EXEC", "SET k v", "CLIENT LIST", "INFO server", "SORT k"],
    );
    assert_eq!(behind.client().cmd(&["CONFIG", "RESETSTAT"]), ok());
    other.cmd(&["FLUSHALL"]);
    let value = "v".repeat(300 << 10); // more than is kept back of what is not whole
    assert!(other.cmd(&["MIGRATE", "127.0.0.1", "1", &value, "0", "10"]).text().starts_with("NOPERM"));
    assert_eq!((behind.calls("flushall"), behind.calls("migrate")), (0, 0));
    let failed = behind.client().cmd(&["INFO", "commandstats"]).text();
    assert!(!failed.contains("flushall") && !failed.contains("migrate"), "{failed}");
}

/// Whoever it is, and who did not log in hears first that it must.
#[test]
fn what_is_denied_is_denied_to_everybody() {
    let (direct, behind, crema) = pair(&["keys"]);
    if crema.is_direct() {
        return;
    }
    for server in [&direct, &behind] {
        server.client().cmd(&["ACL", "SETUSER", "anna", "on", ">pw", "~*", "&*", "+@all"]);
    }
    direct.client().cmd(&["ACL", "SETUSER", "anna", "-keys"]);
    let (mut one, mut other) = (direct.client(), crema.client());
    compare(&mut one, &mut other, &["KEYS *", "AUTH anna pw", "KEYS *", "RESET", "KEYS *"]);
    let [direct, behind] = [(), ()].map(|()| Redis::with(&["--requirepass", "secret"]));
    let url = format!("redis://:secret@{}", behind.addr());
    let crema = Crema::over(behind.addr()).url(url).flag("--deny", "keys").start();
    direct.client().cmd(&["ACL", "SETUSER", "default", "-keys"]);
    let (mut one, mut other) = (Client::connect(direct.addr()), Client::connect(crema.addr()));
    compare(&mut one, &mut other, &["KEYS *", "KEYS", "AUTH secret", "KEYS *"]);
}

/// At one address more than at another.
#[test]
fn an_address_may_deny_more_than_others() {
    let behind = Redis::start();
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("socket");
    let also = format!("{}?deny=append+@scripting", socket.display());
    let crema = Crema::over(behind.addr()).flag("--deny", "keys").also_at(Path::new(&also)).start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    assert!(client.cmd(&["KEYS", "*"]).text().starts_with("NOPERM"));
    assert_eq!(client.cmd(&["APPEND", "k", "v"]), int(1));
    let mut other = UnixStream::connect(&socket).expect("it listens there too");
    other.write_all(b"KEYS *\r\nAPPEND k v\r\nEVAL 'return 1' 0\r\nGET k\r\nQUIT\r\n").expect("it reads");
    let mut answers = String::new();
    other.read_to_string(&mut answers).expect("it answers and closes");
    let refused = |name: &str| format!("-NOPERM this user has no permissions to run the '{name}' command\r\n");
    let refusals = ["keys", "append", "eval"].map(refused).concat();
    assert_eq!(answers, format!("{refusals}$1\r\nv\r\n+OK\r\n"));
}

/// What the table does not know is asked of the server: here, what was renamed.
#[test]
fn what_the_server_says_of_an_unknown_command_counts() {
    let behind = Redis::with(&["--rename-command", "KEYS", "allkeys", "--rename-command", "GET", "read"]);
    let crema = Crema::over(behind.addr()).flag("--deny", "@dangerous,FT.SEARCH").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let refused = "NOPERM this user has no permissions to run the 'keys' command";
    assert_eq!(client.cmd(&["AllKeys", "*"]).text(), refused);
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    assert_eq!(client.cmd(&["read", "k"]).text(), "v");
    assert!(client.cmd(&["FT.SEARCH", "x"]).text().starts_with("NOPERM"), "it may be one tomorrow");
    assert!(client.cmd(&["NOSUCH"]).text().starts_with("ERR unknown command"));
}

/// What was renamed is what it was, under any name.
#[test]
fn what_was_renamed_is_denied_under_its_new_name() {
    let renames = ["--rename-command", "FLUSHALL", "FA", "--rename-command", "CONFIG", "cfg"];
    let (direct, behind) = (Redis::with(&renames), Redis::with(&renames));
    let crema = Crema::over(behind.addr()).flag("--deny", "flushall,config|set").start();
    if crema.is_direct() {
        return;
    }
    assert_eq!(direct.client().cmd(&["ACL", "SETUSER", "default", "-flushall"]).text(), "OK");
    let (mut one, mut other) = (direct.client(), crema.client());
    compare(&mut one, &mut other, &["SET k v", "FA", "fa ASYNC", "GET k", "MULTI", "FA", "EXEC", "GET k"]);
    compare(&mut one, &mut other, &["CFG GET maxmemory"]);
    let refused = "NOPERM this user has no permissions to run the 'config|set' command";
    assert_eq!(other.cmd(&["CFG", "SET", "maxmemory", "0"]).text(), refused);
    assert_eq!(behind.calls("flushall"), 0);
}

/// By name, and by the name of what it belongs to, whatever the server says; and what a replica sends nobody could look at.
#[test]
fn what_is_denied_by_name_needs_no_server_that_knows_it() {
    let behind = Redis::start();
    let crema = Crema::over(behind.addr()).flag("--deny", "memory,FT.SEARCH,@scripting").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    let long = format!("MEMORY {}", "x".repeat(200));
    let denied = [
        "MEMORY DECOMMIT",
        "MEMORY USAGE k",
        "FT.SEARCH i q",
        "ft.search",
        &long,
        "SCRIPT NOSUCH",
        "SYNC",
        "PSYNC ? -1",
    ];
    for line in denied {
        let words: Vec<&str> = line.split(' ').collect();
        assert!(client.cmd(&words).text().starts_with("NOPERM"), "{line}");
        if !line.ends_with('x') {
            assert_eq!(explained(&mut client, &words), "yes", "{line}");
        }
    }
    assert_eq!(explained(&mut client, &["GET", "k"]), "no");
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
}

/// A name so long that it is sent on before it is whole, where nothing is denied.
#[test]
fn a_long_name_is_refused_when_it_is_whole() {
    let behind = Redis::start();
    let crema = Crema::over(behind.addr()).flag("--deny", "@all").start();
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    for length in [129, 300 << 10] {
        assert!(client.cmd(&[&"x".repeat(length), "k"]).text().starts_with("NOPERM"), "{length}");
    }
    assert!(client.cmd(&["GET", "k"]).text().starts_with("NOPERM"));
}
