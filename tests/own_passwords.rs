//! Passwords of crema's own as hashes and in files: what is right comes in, what is wrong costs nobody but who tries.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Crema, Redis, Value, bulk, eventually, ok};

const WRONG: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// What the program makes of a password on its standard input.
fn hash_of(password: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crema"));
    let piped = command.arg("--hash-password").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.spawn().expect("the program");
    child.stdin.take().expect("piped").write_all(format!("{password}\n").as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("our own child");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

fn with_users(redis: &Redis, users: &str) -> Crema {
    Crema::over(redis.addr()).flag("--auth", "own").settings(users).start()
}

#[test]
fn a_password_is_known_by_its_hash_and_what_is_sent_behind_it_waits() {
    let redis = Redis::start();
    let hash = hash_of("a secret");
    assert!(hash.starts_with("$argon2id$") && hash != hash_of("a secret"), "{hash}: salted");
    let crema = with_users(
        &redis,
        &format!(
            "[[user]]\nname = \"default\"\npassword_hash = \"{hash}\"\n[[user]]\nname = \"plain\"\npassword = \"open\"\n"
        ),
    );
    let mut client = crema.client();
    for _ in 0..2 {
        client.send_cmd(&["SET", "k", "v"]);
        client.send_cmd(&["AUTH", "a secre"]);
        client.send_cmd(&["SET", "k", "v"]);
        client.send_cmd(&["AUTH", "a secret"]);
        client.send_cmd(&["SET", "k", "v"]);
        client.send_cmd(&["HELLO", "3", "AUTH", "plain", "open"]);
        client.send_cmd(&["GET", "k"]);
        client.send_cmd(&["RESET"]);
        assert_eq!(client.value().text(), "NOAUTH Authentication required.");
        assert_eq!(client.value().text(), WRONG);
        assert_eq!(client.value().text(), "NOAUTH Authentication required.");
        assert_eq!(client.value(), ok());
        assert_eq!(client.value(), ok());
        assert!(matches!(client.value(), Value::Map(_)));
        assert_eq!(client.value(), bulk("v"));
        assert_eq!(client.value().text(), "RESET");
    }
    for (user, password) in [("nobody", "a secret"), ("plain", "a secret"), ("default", "open")] {
        assert_eq!(client.cmd(&["AUTH", user, password]).text(), WRONG, "{user}");
    }
    assert_eq!(crema.count("crema_errors_total", &[("reason", "login")]), 9);
}

/// Who is in, and who was in before, does not wait for those who guess.
#[test]
fn a_flood_of_wrong_logins_holds_up_nobody_else() {
    let redis = Redis::start();
    let crema = with_users(&redis, &format!("[[user]]\nname = \"default\"\npassword_hash = \"{}\"\n", hash_of("pw")));
    let mut inside = crema.client();
    assert_eq!(inside.cmd(&["AUTH", "pw"]), ok());
    assert_eq!(inside.cmd(&["SET", "k", "v"]), ok());
    let mut guessing: Vec<_> = (0..200).map(|_| crema.client()).collect();
    for (n, client) in guessing.iter_mut().enumerate() {
        client.send_cmd(&["AUTH", &format!("user{n}"), "x"]);
    }
    let begun = Instant::now();
    for _ in 0..100 {
        assert_eq!(inside.cmd(&["GET", "k"]), bulk("v"));
        let mut again = crema.client();
        assert_eq!(again.cmd(&["AUTH", "pw"]), ok(), "it is remembered");
    }
    let took = begun.elapsed();
    assert_eq!(guessing[0].value().text(), WRONG);
    assert!(took < Duration::from_secs(10), "{took:?}");
    let refused = crema.count("crema_errors_total", &[("reason", "login")]);
    assert!(refused < 200, "all {refused} guesses were judged meanwhile: it was no flood");
}

#[test]
fn a_password_in_a_file_is_the_one_that_stands_there_now() {
    let redis = Redis::start();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("password");
    let write = |password: &str| std::fs::write(&path, format!("{password}\n")).expect("our own directory");
    write("one");
    let users = |path: &Path| format!("[[user]]\nname = \"default\"\npassword_file = \"{}\"\n", path.display());
    let crema = with_users(&redis, &users(&path));
    let (mut before, mut after) = (crema.client(), crema.client());
    assert_eq!(before.cmd(&["AUTH", "one"]), ok());
    write("two");
    assert_eq!(after.cmd(&["AUTH", "two"]), ok(), "it waits for its being read");
    assert_eq!(after.cmd(&["AUTH", "one"]).text(), WRONG);
    assert_eq!(before.cmd(&["SET", "k", "v"]), ok(), "who is in stays");
    // Where there is none it is told, once, however many try.
    std::fs::remove_file(&path).expect("our own directory");
    eventually("it is told", || crema.has_logged("the password of user `default` stays as it was: password_file"));
    for _ in 0..3 {
        assert_eq!(after.cmd(&["AUTH", "three"]).text(), WRONG);
        assert_eq!(after.cmd(&["AUTH", "two"]), ok());
    }
    write("three");
    assert_eq!(after.cmd(&["AUTH", "three"]), ok());
    assert_eq!(crema.log().matches("stays as it was").count(), 1);
}

/// Where clients' passwords are crema's own, Redis is shown none, whatever is wrong with the login; and what is wrong is said in
/// its words.
#[test]
fn redis_is_shown_no_password_of_cremas_own() {
    const LOGINS: [&[&str]; 12] = [
        &["HELLO", "4", "AUTH", "default", "S3CRET"],
        &["HELLO", "-1", "AUTH", "default", "S3CRET"],
        &["HELLO", "x", "AUTH", "default", "S3CRET"],
        &["HELLO", "03", "AUTH", "default", "S3CRET"],
        &["HELLO", "9223372036854775808", "AUTH", "default", "S3CRET"],
        &["HELLO", "5"],
        &["HELLO", "AUTH", "default", "S3CRET"],
        &["HELLO", "3", "AUTH", "S3CRET"],
        &["HELLO", "3", "AUTH", "default", "not-S3CRET"],
        &["AUTH", "default", "S3CRET", "S3CRET"],
        &["AUTH", "not-S3CRET"],
        &["HELLO", "3", "S3CRET"],
    ];
    let redis = Redis::with(&["--requirepass", "its-own"]);
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(b"[[user]]\nname = \"default\"\npassword = \"S3CRET\"\n").expect("it can be written");
    let launch = Crema::over(redis.addr()).url(format!("redis://:its-own@{}", redis.addr()));
    let crema = launch.flag("--auth", "own").flag("--config", file.path().display()).start();
    let (mut through, mut direct) = (crema.client(), redis.client());
    for round in 0..2 {
        for login in LOGINS {
            let (got, expected) = (through.cmd(login), direct.cmd(login));
            assert_eq!(got, expected, "{login:?}");
        }
        if round == 0 {
            assert_eq!(through.cmd(&["AUTH", "S3CRET"]), ok());
            assert_eq!(direct.cmd(&["AUTH", "its-own"]), ok());
            assert_eq!(through.cmd(&["SET", "k", "v"]), ok());
            direct.cmd(&["DEL", "k"]);
        }
    }
    let mut watcher = redis.client();
    assert_eq!(watcher.cmd(&["AUTH", "its-own"]), ok());
    assert_eq!(watcher.cmd(&["CONFIG", "RESETSTAT"]), ok());
    for client in [&mut through, &mut crema.client()] {
        for login in LOGINS {
            client.cmd(login);
        }
    }
    let statistics = watcher.cmd(&["INFO", "commandstats"]);
    for line in
        statistics.text().lines().filter(|line| line.starts_with("cmdstat_hello") || line.starts_with("cmdstat_auth"))
    {
        assert!(line.contains("failed_calls=0"), "{line}");
    }
}

/// A Redis without HELLO quotes what it was asked.
#[test]
fn a_redis_without_hello_is_shown_no_password_either() {
    let redis = Redis::with(&["--rename-command", "HELLO", ""]);
    let crema = with_users(&redis, "[[user]]\nname = \"default\"\npassword = \"S3CRET\"\n");
    let mut client = crema.client();
    assert_eq!(client.cmd(&["AUTH", "S3CRET"]), ok());
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    let reply = client.cmd(&["HELLO", "3", "AUTH", "default", "S3CRET"]);
    assert!(
        reply.is_error() && reply.text().contains("unknown command") && !reply.text().contains("S3CRET"),
        "{reply:?}"
    );
    assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
}
