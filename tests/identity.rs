//! Users: nothing that one may read is shown to another, whatever happens to rights, passwords and users meanwhile.
//!
//! Every answer through the proxy is held against what Redis would have said: one that Redis never allowed is a leak, and
//! one that it allowed no longer may come from L1 for `acl_recheck` at most. All in one file, because it is long for the
//! many ways in which a right can go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{AT_LAST, Client, Crema, Redis, Stop, Value, bulk, eventually, int, ok, seeded, simple, within};
use rand::Rng;

/// What every proxy here is started with.
const RECHECK: Duration = Duration::from_millis(600);

fn start(redis: &Redis) -> Crema {
    Crema::over(redis.addr()).flag("--acl-recheck", format!("{}ms", RECHECK.as_millis())).start()
}

/// A server with users that may read their own keys (`a:*`, `b:*`) and whatever an ear needs.
fn with_users() -> Redis {
    let redis = Redis::start();
    let mut admin = redis.client();
    for (user, password, keys) in [("alice", "pa", "~a:*"), ("bob", "pb", "~b:*")] {
        let rules = ["ACL", "SETUSER", user, "on", &format!(">{password}"), keys, "+@all"];
        assert_eq!(admin.cmd(&rules), ok());
    }
    assert_eq!(admin.cmd(&["MSET", "a:1", "of alice", "b:1", "of bob"]), ok());
    redis
}

#[track_caller]
fn login(crema: &Crema, user: &str, password: &str) -> Client {
    let mut client = crema.client();
    assert_eq!(client.cmd(&["AUTH", user, password]), ok());
    client
}

/// Reads until L1 answers: that the answer is right stands in the caller's hands.
#[track_caller]
fn warm(crema: &Crema, client: &mut Client, key: &str) {
    let before = crema.outcomes("hit");
    eventually("L1 answers a key that is read again and again", || {
        client.cmd(&["GET", key]);
        crema.outcomes("hit") > before
    });
}

#[track_caller]
fn assert_refused(reply: &Value) {
    assert!(reply.text().starts_with("NOPERM"), "{reply:?}");
}

#[test]
fn what_one_user_may_read_another_is_never_shown() {
    let redis = with_users();
    let crema = start(&redis);
    let (mut alice, mut bob) = (login(&crema, "alice", "pa"), login(&crema, "bob", "pb"));
    warm(&crema, &mut alice, "a:1");
    for _ in 0..50 {
        assert_refused(&bob.cmd(&["GET", "a:1"]));
        assert_eq!(alice.cmd(&["GET", "a:1"]), bulk("of alice"));
    }
    warm(&crema, &mut bob, "b:1");
    for _ in 0..50 {
        assert_refused(&alice.cmd(&["GET", "b:1"]));
    }
    // The same session as another user, back and forth.
    for _ in 0..20 {
        assert_eq!(alice.cmd(&["AUTH", "bob", "pb"]), ok());
        assert_refused(&alice.cmd(&["GET", "a:1"]));
        assert_eq!(
            alice.cmd(&["AUTH", "alice", "wrong"]).text(),
            "WRONGPASS invalid username-password pair or user is disabled."
        );
        assert_eq!(alice.cmd(&["GET", "b:1"]), bulk("of bob"), "a failed login leaves the session as it was");
        assert_eq!(alice.cmd(&["AUTH", "alice", "pa"]), ok());
        assert_eq!(alice.cmd(&["GET", "a:1"]), bulk("of alice"));
    }
}

#[test]
fn databases_are_kept_apart_and_a_lost_select_right_counts_at_once() {
    let redis = with_users();
    let mut admin = redis.client();
    admin.cmd(&["SELECT", "3"]);
    admin.cmd(&["SET", "a:1", "in three"]);
    let crema = start(&redis);
    let mut alice = login(&crema, "alice", "pa");
    warm(&crema, &mut alice, "a:1");
    assert_eq!(alice.cmd(&["SELECT", "3"]), ok());
    warm(&crema, &mut alice, "a:1");
    for db in ["0", "3", "0", "3"] {
        assert_eq!(alice.cmd(&["SELECT", db]), ok());
        let expected = if db == "0" { "of alice" } else { "in three" };
        assert_eq!(alice.cmd(&["GET", "a:1"]), bulk(expected));
    }
    assert_eq!(admin.cmd(&["ACL", "SETUSER", "alice", "-select"]), ok());
    assert_refused(&alice.cmd(&["SELECT", "0"]));
    assert_eq!(alice.cmd(&["GET", "a:1"]), bulk("in three"));
    // The ear may not go back to database 0 either; nothing may be taken for what it is not.
    let mut other = login(&crema, "alice", "pa");
    for _ in 0..200 {
        assert_eq!(other.cmd(&["GET", "a:1"]), bulk("of alice"));
        assert_eq!(alice.cmd(&["GET", "a:1"]), bulk("in three"));
    }
}

#[test]
fn a_right_taken_away_through_the_proxy_counts_at_once() {
    let redis = with_users();
    let crema = Crema::over(redis.addr()).flag("--acl-recheck", "1h").start();
    let mut admin = crema.client();
    let mut alice = login(&crema, "alice", "pa");
    for round in 0..20 {
        warm(&crema, &mut alice, "a:1");
        let revoke: &[&str] = &["ACL", "SETUSER", "alice", "resetkeys"];
        match round % 3 {
            0 => assert_eq!(admin.cmd(revoke), ok()),
            1 => {
                assert_eq!(admin.cmd(&["MULTI"]), ok());
                admin.cmd(revoke);
                assert_eq!(admin.cmd(&["EXEC"]).items(), [ok()]);
            }
            _ => {
                // From a connection that Redis tracks, which crema does not look into.
                let mut raw = crema.resp3();
                assert_eq!(raw.cmd(&["CLIENT", "TRACKING", "ON"]), ok());
                assert_eq!(raw.cmd(revoke), ok());
            }
        }
        assert_refused(&alice.cmd(&["GET", "a:1"]));
        assert_eq!(admin.cmd(&["ACL", "SETUSER", "alice", "~a:*"]), ok());
    }
}

#[test]
fn a_right_taken_away_behind_the_proxy_counts_within_the_recheck() {
    let redis = with_users();
    let mut admin = redis.client();
    // Three kinds of users: one that may ask for its rights itself, one for whom the URL's user asks, and one for whom
    // nobody may ask.
    admin.cmd(&["ACL", "SETUSER", "carol", "on", ">pc", "~a:*", "+@all", "-acl"]);
    admin.cmd(&["ACL", "SETUSER", "proxy", "on", ">pp", "~*", "&*", "+@all", "-acl"]);
    let blind = Crema::over(redis.addr())
        .url(format!("redis://proxy:pp@{}", redis.addr()))
        .flag("--acl-recheck", format!("{}ms", RECHECK.as_millis()))
        .start();
    let crema = start(&redis);
    for (proxy, user, password) in [(&crema, "alice", "pa"), (&crema, "carol", "pc"), (&blind, "carol", "pc")] {
        for _ in 0..3 {
            let mut client = login(proxy, user, password);
            warm(proxy, &mut client, "a:1");
            assert_eq!(admin.cmd(&["ACL", "SETUSER", user, "resetkeys"]), ok());
            let taken = Instant::now();
            let mut last = taken;
            loop {
                let asked = Instant::now();
                if client.cmd(&["GET", "a:1"]).is_error() {
                    break;
                }
                last = asked;
                assert!(taken.elapsed() < Duration::from_secs(10), "{user} reads for ever");
            }
            let over = last.duration_since(taken);
            assert!(over <= RECHECK + Duration::from_millis(50), "{user} was shown a key for {over:?}");
            for _ in 0..200 {
                assert_refused(&client.cmd(&["GET", "a:1"]));
            }
            assert_eq!(admin.cmd(&["ACL", "SETUSER", user, "~a:*"]), ok());
        }
    }
}

#[test]
fn entries_outlive_the_recheck_where_rights_can_be_asked_for() {
    let redis = with_users();
    redis.client().cmd(&["ACL", "SETUSER", "carol", "on", ">pc", "~a:*", "+@all", "-acl"]);
    let crema = start(&redis);
    for (user, password) in [("alice", "pa"), ("carol", "pc")] {
        let mut client = login(&crema, user, password);
        warm(&crema, &mut client, "a:1");
        std::thread::sleep(RECHECK * 2); // whatever was filled before carol's rights were known has died
        warm(&crema, &mut client, "a:1");
        std::thread::sleep(RECHECK * 2); // the point: time passes, and nothing else happens
        assert_eq!(crema.hit(&mut client, &["GET", "a:1"]), bulk("of alice"), "{user}'s entry is still good");
    }
}

/// The answer costs Redis as much as some fifty reads.
#[test]
fn nobody_asks_behind_fills_what_a_user_may_do_who_may_do_everything() {
    for redis in [Some(Redis::start()), Redis::valkey()].into_iter().flatten() {
        let crema = Crema::over(redis.addr()).flag("--acl-recheck", "1h").start();
        if crema.is_direct() {
            return;
        }
        let admin = &mut redis.client();
        admin.cmd(&["ACL", "SETUSER", "some", "on", ">secret", "~*", "+@all", "-debug"]);
        let mut some = crema.client();
        some.cmd(&["AUTH", "some", "secret"]);
        let asked = || redis.calls("acl|getuser");
        (0..20).for_each(|n| crema.warm(&["GET", &format!("k{n}")]));
        let before = asked();
        assert!((1..5).contains(&before), "{before} questions: there is one when the ear begins to listen");
        let hits = crema.outcomes("hit");
        eventually("another user's read is kept", || {
            some.cmd(&["GET", "k"]);
            crema.outcomes("hit") > hits
        });
        eventually("and followed by a question", || asked() >= before + 2);
    }
}

/// Busy, Redis says nothing of what anybody may do.
#[test]
fn a_busy_redis_takes_no_right_to_ask_away() {
    let redis = Redis::with(&["--busy-reply-threshold", "10"]);
    let crema = start(&redis);
    let mut client = crema.client();
    client.cmd(&["SET", "k", "v"]);
    warm(&crema, &mut client, "k");
    let mut busy = redis.client();
    busy.send_cmd(&["EVAL", "while true do end", "0"]);
    eventually("it is busy", || redis.client().cmd(&["PING"]).text().starts_with("BUSY"));
    std::thread::sleep(RECHECK * 2); // the point: it is asked meanwhile
    assert_eq!(redis.client().cmd(&["SCRIPT", "KILL"]), ok());
    assert!(busy.value().is_error());
    warm(&crema, &mut client, "k");
    std::thread::sleep(RECHECK * 2); // and whatever was filled lives on
    assert_eq!(crema.hit(&mut client, &["GET", "k"]), bulk("v"), "its entry is still good");
}

#[test]
fn selectors_hold_on_hits() {
    let redis = with_users();
    let mut admin = redis.client();
    let selector = "(~s:* +get +pttl)";
    admin.cmd(&["ACL", "SETUSER", "dan", "on", ">pd", "~d:*", "+@all", "-acl", selector]);
    admin.cmd(&["MSET", "s:1", "selected", "d:1", "own"]);
    let crema = start(&redis);
    let mut dan = login(&crema, "dan", "pd");
    warm(&crema, &mut dan, "s:1");
    warm(&crema, &mut dan, "d:1");
    let mut direct = redis.client();
    direct.cmd(&["AUTH", "dan", "pd"]);
    for command in [&["GET", "s:1"][..], &["GET", "d:1"], &["SET", "s:1", "x"], &["STRLEN", "s:1"], &["GET", "a:1"]] {
        assert_eq!(dan.cmd(command), direct.cmd(command), "{command:?}");
    }
    assert_eq!(admin.cmd(&["ACL", "SETUSER", "dan", "clearselectors"]), ok());
    eventually("the selector's keys are refused", || dan.cmd(&["GET", "s:1"]).is_error());
    assert_refused(&dan.cmd(&["GET", "s:1"]));
}

#[test]
fn a_new_password_leaves_those_who_are_in_and_lets_others_in() {
    let redis = with_users();
    let crema = start(&redis);
    let mut old = login(&crema, "alice", "pa");
    assert_eq!(old.cmd(&["GET", "a:1"]), bulk("of alice"));
    redis.client().cmd(&["ACL", "SETUSER", "alice", "resetpass", ">new"]);
    let mut refused = crema.client();
    assert!(refused.cmd(&["AUTH", "alice", "pa"]).text().starts_with("WRONGPASS"));
    let mut new = login(&crema, "alice", "new");
    for client in [&mut new, &mut old] {
        assert_eq!(client.cmd(&["GET", "a:1"]), bulk("of alice"));
        // A database in which nobody has a connection yet: the newest password opens it.
        assert_eq!(client.cmd(&["SELECT", "5"]), ok());
        assert_eq!(client.cmd(&["SET", "a:5", "five"]), ok());
        assert_eq!(client.cmd(&["SELECT", "0"]), ok());
    }
    // The other way round: what the old session selects must not bring the old password back.
    assert_eq!(old.cmd(&["SELECT", "6"]), ok());
    assert_eq!(new.cmd(&["SELECT", "7"]), ok());
    assert_eq!(new.cmd(&["SET", "a:7", "seven"]), ok());
    assert_eq!(new.cmd(&["GET", "a:7"]), bulk("seven"));
}

#[test]
fn sessions_of_a_deleted_user_end_and_those_of_its_successor_live() {
    let redis = with_users();
    let crema = start(&redis);
    for through in [true, false] {
        let mut busy = login(&crema, "alice", "pa");
        let mut idle = login(&crema, "alice", "pa");
        let mut fresh = login(&crema, "alice", "pa"); // has never asked for anything
        let mut bob = login(&crema, "bob", "pb");
        warm(&crema, &mut busy, "a:1");
        assert_eq!(idle.cmd(&["PING"]).text(), "PONG");
        let mut admin = if through { crema.client() } else { redis.client() };
        assert_eq!(admin.cmd(&["ACL", "DELUSER", "alice"]).number(), 1);
        let again = ["ACL", "SETUSER", "alice", "on", ">other", "~a:*", "+@all"];
        assert_eq!(admin.cmd(&again), ok());
        let mut successor = login(&crema, "alice", "other");
        assert_eq!(successor.cmd(&["GET", "a:1"]), bulk("of alice"));
        for client in [&mut busy, &mut idle, &mut fresh] {
            assert!(client.closes_within(AT_LAST), "a session of the deleted user lives on");
        }
        assert_eq!(bob.cmd(&["GET", "b:1"]), bulk("of bob"));
        assert_eq!(successor.cmd(&["GET", "a:1"]), bulk("of alice"));
        warm(&crema, &mut successor, "a:1");
        redis.client().cmd(&["ACL", "SETUSER", "alice", "resetpass", ">pa"]);
    }
}

#[test]
fn who_was_once_a_deleted_user_lives_on() {
    let redis = with_users();
    let crema = start(&redis);
    let mut admin = redis.client();
    for become_another in [&["AUTH", "bob", "pb"][..], &["HELLO", "2", "AUTH", "bob", "pb"], &["RESET"]] {
        let mut former = login(&crema, "alice", "pa");
        let mut alice = login(&crema, "alice", "pa");
        assert_eq!(former.cmd(&["GET", "a:1"]), bulk("of alice"));
        former.cmd(become_another);
        assert_eq!(admin.cmd(&["ACL", "DELUSER", "alice"]).number(), 1);
        assert!(alice.closes_within(AT_LAST), "a session of the deleted user lives on");
        for _ in 0..20 {
            assert_eq!(former.cmd(&["PING"]).text(), "PONG", "after {become_another:?}");
        }
        assert!(former.is_silent_for(Duration::from_millis(50)), "it is not closed");
        assert_eq!(admin.cmd(&["ACL", "SETUSER", "alice", "on", ">pa", "~a:*", "+@all"]), ok());
    }
}

#[test]
fn sessions_survive_a_lost_connection_if_their_login_holds() {
    let redis = with_users();
    let crema = start(&redis);
    let mut alice = login(&crema, "alice", "pa");
    warm(&crema, &mut alice, "a:1");
    for _ in 0..5 {
        redis.client().cmd(&["CLIENT", "KILL", "USER", "alice"]);
        // A read may be sent again, so there is no error to see.
        assert_eq!(alice.cmd(&["GET", "a:1"]), bulk("of alice"));
    }
    let mut idle = login(&crema, "alice", "pa");
    redis.client().cmd(&["CLIENT", "KILL", "USER", "alice"]);
    assert!(idle.is_silent_for(Duration::from_millis(300)), "it is not closed");
    warm(&crema, &mut idle, "a:1");
}

/// Whoever has the clients of a user ended finds none when it looks.
#[test]
fn clients_of_a_user_who_is_killed_end() {
    let redis = with_users();
    let crema = Crema::over(redis.addr()).flag("--promote", 0).flag("--threads", 2).start();
    let (mut bob, mut admin) = (login(&crema, "bob", "pb"), crema.client());
    for _ in 0..3 {
        let mut those: Vec<Client> = (0..5).map(|_| login(&crema, "alice", "pa")).collect();
        assert_eq!(those[0].cmd(&["GET", "a:1"]), bulk("of alice"));
        assert!(those[1].cmd(&["CLIENT", "ID"]).number() > 0);
        those[2].send_cmd(&["BLPOP", "a:empty", "0"]);
        assert!(admin.cmd(&["CLIENT", "KILL", "USER", "alice"]).number() >= 5);
        let left = admin.cmd(&["CLIENT", "LIST"]).text();
        assert!(!left.contains("user=alice"), "{left}");
        for client in &mut those {
            assert!(client.closes_within(AT_LAST));
        }
        assert_eq!(bob.cmd(&["PING"]), simple("PONG"), "another user's");
    }
    let (mut one, mut other) = (login(&crema, "bob", "pb"), login(&crema, "bob", "pb"));
    assert_eq!(
        one.cmd(&["CLIENT", "KILL", "USER", "nobody"]),
        redis.client().cmd(&["CLIENT", "KILL", "USER", "nobody"])
    );
    assert!(one.cmd(&["CLIENT", "KILL", "USER", "bob", "SKIPME", "no"]).number() >= 3, "itself included");
    for client in [&mut one, &mut other, &mut bob] {
        assert!(client.closes_within(AT_LAST));
    }
}

#[test]
fn a_client_is_killed_by_the_address_that_it_has_for_itself() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut admin = crema.client();
    for command in [&["CLIENT", "KILL", "ADDR"][..], &["CLIENT", "KILL"]] {
        let (mut killed, mut other) = (crema.client(), crema.client());
        assert_eq!(killed.cmd(&["PING"]), simple("PONG"));
        let address = killed.stream().local_addr().expect("it is connected").to_string();
        let command = [command, &[&address]].concat();
        assert_eq!(admin.cmd(&command), if command.len() == 3 { ok() } else { int(1) });
        assert!(killed.closes_within(AT_LAST));
        assert_eq!(other.cmd(&["PING"]), simple("PONG"));
        eventually("it is off the list", || admin.cmd(&command) == redis.client().cmd(&command));
    }
}

#[test]
fn a_password_set_while_running_keeps_out_who_comes_after() {
    let redis = Redis::start();
    let crema = start(&redis);
    let mut early = crema.client();
    assert_eq!(early.cmd(&["SET", "k", "v"]), ok());
    let mut direct_early = redis.client();
    // Through the proxy it holds for the very next client.
    let mut admin = crema.client();
    assert_eq!(admin.cmd(&["CONFIG", "SET", "maxmemory-samples", "5"]), ok());
    assert_eq!(admin.cmd(&["CONFIG", "SET", "requirepass", "secret"]), ok());
    let mut late = crema.client();
    let noauth = "NOAUTH Authentication required.";
    assert_eq!(late.cmd(&["GET", "k"]).text(), noauth);
    assert_eq!(early.cmd(&["GET", "k"]), bulk("v"), "Redis lets stay who is in");
    assert_eq!(direct_early.cmd(&["GET", "k"]), bulk("v"));
    assert_eq!(late.cmd(&["AUTH", "secret"]), ok());
    assert_eq!(late.cmd(&["GET", "k"]), bulk("v"));
    assert_eq!(late.cmd(&["CONFIG", "SET", "requirepass", ""]), ok());
    let mut open = crema.client();
    assert_eq!(open.cmd(&["GET", "k"]), bulk("v"));
    // Behind its back it takes a second at the longest.
    assert_eq!(direct_early.cmd(&["CONFIG", "SET", "requirepass", "other"]), ok());
    let set = Instant::now();
    let mut asked = set;
    while crema.client().cmd(&["GET", "k"]).text() != noauth {
        let late = asked.duration_since(set);
        assert!(late < Duration::from_millis(1_050), "let in without the password {late:?} after it was set");
        asked = Instant::now();
    }
    assert!(crema.client().cmd(&["AUTH", "secret"]).text().starts_with("WRONGPASS"));
}

#[test]
fn credentials_of_the_url_let_nobody_in() {
    let redis = Redis::with(&["--requirepass", "secret"]);
    let crema = Crema::over(redis.addr()).url(format!("redis://:secret@{}", redis.addr())).start();
    let mut stranger = crema.client();
    for command in [&["GET", "k"][..], &["PING"], &["ACL", "WHOAMI"], &["SELECT", "1"], &["MULTI"], &["CLIENT", "ID"]] {
        assert_eq!(stranger.cmd(command).text(), "NOAUTH Authentication required.", "{command:?}");
    }
}

#[test]
fn a_client_without_a_login_hears_the_words_of_redis() {
    for redis in [Some(Redis::with(&["--requirepass", "secret"])), Redis::valkey()].into_iter().flatten() {
        redis.client().cmd(&["CONFIG", "SET", "requirepass", "secret"]);
        let crema = Crema::over(redis.addr()).url(format!("redis://:secret@{}", redis.addr())).start();
        let commands: &[&[&str]] = &[
            &["GET", "k"],
            &["GET"],
            &["GET", "a", "b", "c"],
            &["NOSUCH", "a", "b"],
            &["CLIENT", "NOSUCH"],
            &["HELLO"],
            &["HELLO", "3"],
            &["HELLO", "9"],
            &["HELLO", "3", "SETNAME", "x"],
            &["HELLO", "3", "AUTH", "default", "wrong"],
            &["HELLO", "3", "AUTH", "default"],
            &["AUTH"],
            &["AUTH", "wrong"],
            &["AUTH", "nobody", "wrong"],
            &["AUTH", "a", "b", "c"],
            &["MULTI"],
            &["SUBSCRIBE", "c"],
            &["EVAL", "return 1", "0"],
            &["RESET"],
            &["PING"],
            &["AUTH", "secret"],
            &["PING"],
            &["RESET"],
            &["PING"],
        ];
        let (mut through, mut direct) = (crema.client(), Client::connect(redis.addr()));
        for command in commands {
            through.send_cmd(command);
            direct.send_cmd(command);
            let (got, expected) = (through.reply(), direct.reply());
            assert_eq!(got.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{command:?}");
        }
    }
}

#[test]
fn logins_in_transactions_and_beside_watched_keys_do_what_redis_does() {
    let redis = with_users();
    let crema = start(&redis);
    let scripts: &[&[&[&str]]] = &[
        &[&["MULTI"], &["AUTH", "alice", "pa"], &["ACL", "WHOAMI"], &["EXEC"], &["ACL", "WHOAMI"], &["GET", "b:1"]],
        &[&["MULTI"], &["AUTH", "alice", "wrong"], &["EXEC"], &["ACL", "WHOAMI"]],
        &[&["WATCH", "a:w"], &["AUTH", "alice", "pa"], &["SET", "a:w", "1"], &["MULTI"], &["GET", "a:w"], &["EXEC"]],
        &[&["WATCH", "a:w"], &["AUTH", "alice", "pa"], &["MULTI"], &["ACL", "WHOAMI"], &["EXEC"], &["ACL", "WHOAMI"]],
        &[&["WATCH", "a:w"], &["SELECT", "2"], &["SET", "a:s", "two"], &["GET", "a:s"], &["MULTI"], &["EXEC"]],
        &[&["SELECT", "2"], &["GET", "a:s"], &["SELECT", "0"], &["GET", "a:s"]],
        &[
            &["WATCH", "a:w"],
            &["HELLO", "3", "AUTH", "alice", "pa"],
            &["GET", "none"],
            &["MULTI"],
            &["EXEC"],
            &["ACL", "WHOAMI"],
        ],
        &[&["MULTI"], &["HELLO", "3", "AUTH", "bob", "pb"], &["EXEC"], &["ACL", "WHOAMI"], &["GET", "b:none"]],
        &[
            &["CLIENT", "NO-EVICT", "OFF"],
            &["AUTH", "alice", "pa"],
            &["ACL", "WHOAMI"],
            &["GET", "b:1"],
            &["SELECT", "2"],
            &["GET", "a:s"],
        ],
    ];
    // Sessions in database 2 first: what others have done there must make no difference.
    let mut other = crema.client();
    other.cmd(&["SELECT", "2"]);
    other.cmd(&["GET", "a:s"]);
    let without_id = |reply: Vec<u8>| {
        let text = reply.escape_ascii().to_string();
        let at = text.find("$2\\r\\nid\\r\\n:").map(|at| (at, at + 14 + text[at + 14..].find("\\r").unwrap_or(0)));
        at.map_or(text.clone(), |(from, to)| format!("{}{}", &text[..from], &text[to..]))
    };
    for script in scripts {
        let (mut through, mut direct) = (crema.client(), redis.client());
        for command in *script {
            let expected = without_id({
                direct.send_cmd(command);
                direct.reply()
            });
            if command[0] == "SET" {
                redis.client().cmd(&["DEL", command[1]]); // once each, for the one as for the other
            }
            let got = without_id({
                through.send_cmd(command);
                through.reply()
            });
            assert_eq!(got, expected, "{command:?} of {script:?}");
        }
        // Whoever borrows next finds nothing of it.
        for _ in 0..4 {
            let mut next = crema.client();
            assert_eq!(next.cmd(&["MULTI"]), ok());
            next.cmd(&["ACL", "WHOAMI"]);
            assert_eq!(next.cmd(&["EXEC"]).items(), [bulk("default")], "after {script:?}");
        }
    }
}

#[test]
fn a_user_who_may_not_be_tracked_is_served_without_l1_and_not_tried_again() {
    for (right, label) in [("-client|tracking", "tracking"), ("-pttl", "pttl"), ("-client", "tracking")] {
        let redis = with_users();
        let mut admin = redis.client();
        admin.cmd(&["ACL", "SETUSER", "alice", right]);
        let crema = start(&redis);
        let mut alice = login(&crema, "alice", "pa");
        eventually("the refusal is counted", || {
            assert_eq!(alice.cmd(&["GET", "a:1"]), bulk("of alice"));
            crema.count("crema_users_without_l1_total", &[("right", label)]) == 1
        });
        for _ in 0..500 {
            assert_eq!(alice.cmd(&["GET", "a:1"]), bulk("of alice"));
        }
        for _ in 0..20 {
            assert_eq!(login(&crema, "alice", "pa").cmd(&["GET", "a:1"]), bulk("of alice"));
        }
        assert_eq!(crema.count("crema_users_without_l1_total", &[]), 1, "it was tried again");
        assert!(crema.count("crema_promotions_dropped_total", &[("reason", "refused")]) > 400);
        let (_, status) = crema.admin("/api/status").expect("answers");
        assert!(status.contains("no L1 for this user"), "{status}");
        // Given the right through the proxy, it is tried at once.
        assert_eq!(crema.client().cmd(&["ACL", "SETUSER", "alice", "+@all"]), ok());
        warm(&crema, &mut alice, "a:1");
    }
}

/// What Redis refuses a user is what the user asked for, and `ACL LOG` says so.
#[test]
fn reads_that_are_refused_have_nothing_asked_for_in_their_users_name() {
    let redis = with_users();
    let mut admin = redis.client();
    assert_eq!(admin.cmd(&["ACL", "SETUSER", "carol", "on", ">pc", "~a:*", "+mget", "+get"]), ok());
    let crema = Crema::over(redis.addr()).flag("--promote", 1).start();
    let mut carol = login(&crema, "carol", "pc");
    assert_eq!(admin.cmd(&["ACL", "LOG", "RESET"]), ok());
    for _ in 0..100 {
        assert_refused(&carol.cmd(&["MGET", "b:1", "a:1"]));
        assert_refused(&carol.cmd(&["GET", "b:1"]));
    }
    let dropped = || crema.count("crema_promotions_dropped_total", &[("reason", "error_reply")]);
    eventually("each of them was to be promoted, and was not", || dropped() == 300);
    let log = admin.cmd(&["ACL", "LOG"]);
    assert_eq!(log.items().len(), 1, "{log:?}");
    assert_eq!(log.items()[0].items()[7], bulk("b:1"), "{log:?}");
}

#[test]
fn open_lets_in_who_gives_no_password() {
    let redis = Redis::with(&["--requirepass", "secret"]);
    redis.client().cmd(&["ACL", "SETUSER", "alice", "on", ">pa", "~a:*", "+@all"]);
    let crema =
        Crema::over(redis.addr()).url(format!("redis://:secret@{}", redis.addr())).flag("--auth", "open").start();
    let mut anybody = crema.client();
    assert_eq!(anybody.cmd(&["ACL", "WHOAMI"]).text(), "default");
    assert_eq!(anybody.cmd(&["SET", "k", "v"]), ok());
    warm(&crema, &mut anybody, "k");
    assert_eq!(anybody.cmd(&["AUTH", "alice", "pa"]), ok());
    assert_refused(&anybody.cmd(&["GET", "k"]));
    assert_eq!(anybody.cmd(&["RESET"]).text(), "RESET");
    assert_eq!(anybody.cmd(&["GET", "k"]), bulk("v"));
    eventually("it is logged", || crema.has_logged("without a password"));
}

#[test]
fn own_passwords_are_asked_for_and_those_of_redis_are_not_known() {
    let redis = Redis::with(&["--requirepass", "secret"]);
    redis.client().cmd(&["ACL", "SETUSER", "alice", "on", ">pa", "~a:*", "+@all"]);
    let users = "[[user]]\nname = \"default\"\npassword = \"front\"\n[[user]]\nname = \"anna\"\npassword = \"x y\"\n\
         upstream_user = \"alice\"\nupstream_password = \"pa\"\n";
    let crema = Crema::over(redis.addr())
        .url(format!("redis://:secret@{}", redis.addr()))
        .flag("--auth", "own")
        .settings(users)
        .start();
    let mut client = crema.client();
    let wrong = "WRONGPASS invalid username-password pair or user is disabled.";
    assert_eq!(client.cmd(&["GET", "k"]).text(), "NOAUTH Authentication required.");
    assert!(client.cmd(&["HELLO", "3"]).text().starts_with("NOAUTH HELLO must"));
    for login in [
        &["AUTH", "secret"][..],
        &["AUTH", "alice", "pa"],
        &["AUTH", "anna", "x"],
        &["HELLO", "3", "AUTH", "default", "fron"],
    ] {
        assert_eq!(client.cmd(login).text(), wrong, "{login:?}");
    }
    assert_eq!(client.cmd(&["PING"]).text(), "NOAUTH Authentication required.");
    assert_eq!(client.cmd(&["AUTH", "front"]), ok());
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    warm(&crema, &mut client, "k");

    let mut anna = crema.client();
    assert!(matches!(anna.cmd(&["HELLO", "3", "AUTH", "anna", "x y", "SETNAME", "n"]), Value::Map(_)));
    assert_eq!(anna.cmd(&["ACL", "WHOAMI"]).text(), "alice");
    assert_refused(&anna.cmd(&["GET", "k"]));
    // Having a connection of its own, it becomes another, and back.
    assert_eq!(anna.cmd(&["AUTH", "front"]), ok());
    assert_eq!(anna.cmd(&["ACL", "WHOAMI"]).text(), "default");
    assert_eq!(anna.cmd(&["AUTH", "anna", "x y"]), ok());
    assert_eq!(anna.cmd(&["ACL", "WHOAMI"]).text(), "alice");
    let mut queued = crema.client();
    queued.cmd(&["AUTH", "front"]);
    queued.cmd(&["MULTI"]);
    assert!(
        queued.cmd(&["AUTH", "alice", "pa"]).text().starts_with("ERR crema: "),
        "Redis's passwords are not for clients"
    );
    queued.cmd(&["ACL", "WHOAMI"]);
    assert_eq!(queued.cmd(&["EXEC"]).items(), [bulk("default")]);
    assert_eq!(client.cmd(&["RESET"]).text(), "RESET");
    assert_eq!(client.cmd(&["GET", "k"]).text(), "NOAUTH Authentication required.");
}

#[test]
fn many_users_share_what_connections_there_are() {
    const USERS: usize = 40;
    let redis = Redis::start();
    let mut admin = redis.client();
    for n in 0..USERS {
        let (name, password, keys) = (format!("u{n}"), format!(">p{n}"), format!("~k{n}"));
        assert_eq!(admin.cmd(&["ACL", "SETUSER", &name, "on", &password, &keys, "+@all"]), ok());
        admin.cmd(&["SET", &format!("k{n}"), &name]);
    }
    let crema = Crema::over(redis.addr()).flag("--max-upstream", 200).flag("--threads", 1).start();
    let mut clients: Vec<Client> = (0..USERS).map(|n| login(&crema, &format!("u{n}"), &format!("p{n}"))).collect();
    for _ in 0..20 {
        for (n, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.cmd(&["GET", &format!("k{n}")]), bulk(format!("u{n}")));
        }
    }
    let ears = redis.client_list().iter().filter(|line| line.contains("name=crema-ear")).count();
    assert!((20..=50).contains(&ears), "{ears} ears of at most 50");
    assert!(crema.outcomes("hit") > 0);
    drop(clients);
    // Those that nobody uses any more are closed, a user's last one too.
    within(AT_LAST * 2, "connections of users who have left are closed", || {
        let names = redis.client_list();
        !names.iter().any(|line| line.contains("name=crema-pool") && !line.contains("user=default"))
    });
}

/// When a right was certainly gone, and whether that counts at once; none while the user may have it.
type Loss = std::sync::Mutex<Option<(Instant, bool)>>;

/// Users whose rights change at random, directly and through the proxy, while they and others read what they may and may
/// not. Keys name their owner, and every right that a user has at any time is written down before it is given and after
/// it is taken, so that each answer can be judged.
#[test]
fn under_random_changes_of_rights_nothing_leaks() {
    const USERS: usize = 6;
    const KEYS: usize = 12;
    let redis = Redis::start();
    let crema = start(&redis);
    let mut admin = redis.client();
    for key in 0..KEYS {
        admin.cmd(&["SET", &format!("k{key}"), &format!("value of k{key}")]);
    }
    for user in 0..USERS {
        admin.cmd(&["ACL", "SETUSER", &format!("u{user}"), "on", &format!(">p{user}"), "+@all", "resetkeys"]);
    }
    // For each user and key when it was certainly taken away last; none while the user may read it, or may have been able to.
    let taken: Vec<Vec<Loss>> =
        (0..USERS).map(|_| (0..KEYS).map(|_| std::sync::Mutex::new(Some((Instant::now(), true)))).collect()).collect();
    std::thread::sleep(RECHECK); // nothing was ever allowed, so nothing is waited for; but the bound is one for all
    let done = AtomicBool::new(false);
    let end = Instant::now() + Duration::from_secs(common::number_from_env("CREMA_ACL_SECONDS").unwrap_or(8));
    let (answers, refusals, grants) = std::thread::scope(|scope| {
        let changers: Vec<_> = (0..2_usize)
            .map(|part| {
                let (taken, redis, crema, done) = (&taken, &redis, &crema, &done);
                scope.spawn(move || {
                    let mut rng = seeded("rights");
                    let (mut direct, mut through) = (redis.client(), crema.client());
                    let mut grants = 0_u64;
                    while !done.load(Ordering::Relaxed) {
                        let user = rng.random_range(0..USERS / 2) * 2 + part; // each has users of its own
                        let name = format!("u{user}");
                        let at_once = rng.random_bool(0.5);
                        // Of a user who may do everything nobody asks behind fills.
                        let all = rng.random_bool(0.3);
                        let keys: Vec<usize> = (0..KEYS).filter(|_| all || rng.random_bool(0.4)).collect();
                        for &key in &keys {
                            *taken[user][key].lock().unwrap() = None; // from before the command on
                        }
                        let patterns: Vec<String> =
                            if all { vec!["~*".into()] } else { keys.iter().map(|key| format!("~k{key}")).collect() };
                        let words = ["ACL", "SETUSER", &name, "resetkeys"].map(str::to_owned).into_iter();
                        let command: Vec<String> = words.chain(patterns).collect();
                        let reply = if at_once { through.cmd(&command) } else { direct.cmd(&command) };
                        assert_eq!(reply, ok());
                        let now = Instant::now();
                        for key in (0..KEYS).filter(|key| !keys.contains(key)) {
                            let mut slot = taken[user][key].lock().unwrap();
                            // An earlier loss that is still waited for is not forgotten for a later one that needs no wait.
                            slot.get_or_insert((now, at_once));
                        }
                        grants += keys.len() as u64;
                        std::thread::sleep(Duration::from_millis(rng.random_range(0..900)));
                    }
                    grants
                })
            })
            .collect();
        let readers: Vec<_> = (0..USERS * 2)
            .map(|n| {
                let (taken, crema, done) = (&taken, &crema, &done);
                scope.spawn(move || {
                    let user = n % USERS;
                    let mut rng = seeded("reader");
                    let mut client = login(crema, &format!("u{user}"), &format!("p{user}"));
                    let (mut answers, mut refusals) = (0_u64, 0_u64);
                    while !done.load(Ordering::Relaxed) {
                        let key = rng.random_range(0..KEYS);
                        let before = *taken[user][key].lock().unwrap();
                        let asked = Instant::now();
                        match client.cmd(&["GET", &format!("k{key}")]) {
                            Value::Error(text) => {
                                assert!(text.starts_with("NOPERM"), "{text}");
                                refusals += 1;
                            }
                            value => {
                                assert_eq!(value, bulk(format!("value of k{key}")));
                                answers += 1;
                                let after = *taken[user][key].lock().unwrap();
                                if let (Some((since, at_once)), true) = (before, before == after) {
                                    let late = asked.saturating_duration_since(since);
                                    let allowed = if at_once { Duration::ZERO } else { RECHECK };
                                    assert!(
                                        late <= allowed + Duration::from_millis(30),
                                        "u{user} was shown k{key} {late:?} after the right was gone (at once: {at_once})"
                                    );
                                }
                            }
                        }
                    }
                    (answers, refusals)
                })
            })
            .collect();
        let stopped = Stop(&done);
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        eventually("L1 takes part", || crema.is_direct() || crema.outcomes("hit") > 100);
        drop(stopped);
        let grants: u64 = changers.into_iter().map(|thread| thread.join().expect("no leak")).sum();
        let counts: Vec<(u64, u64)> = readers.into_iter().map(|thread| thread.join().expect("no leak")).collect();
        (counts.iter().map(|c| c.0).sum::<u64>(), counts.iter().map(|c| c.1).sum::<u64>(), grants)
    });
    let hits = if crema.is_direct() { 1_000 } else { crema.outcomes("hit") };
    eprintln!("{answers} answers, {refusals} refusals, {grants} grants, {hits} hits");
    assert!(answers > 1_000 && refusals > 1_000 && grants > 20 && hits > 100, "too little happened to mean anything");
}
