//! Modes of a session that change what its connection says: silence, replication, monitoring, subscriptions under RESP3,
//! scripts that do not end, and requests that never do; shutdowns and failovers.

use std::io::{ErrorKind, Read as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use common::value::shown;
use common::{Client, Crema, Redis, Value, array, bulk, eventually, int, ok, pack, simple};

/// Both servers get the same bytes, and both clients the same bytes back.
fn compare(direct: &mut Client, through: &mut Client, commands: &[&[&str]], replies: usize) {
    for client in [&mut *direct, &mut *through] {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| pack(command)).collect();
        client.send(&bytes);
    }
    for at in 0..replies {
        assert_eq!(shown(&direct.reply()), shown(&through.reply()), "reply {at} to {commands:?}");
    }
}

/// A replica that syncs through crema follows its master, and says so.
#[test]
fn a_replica_syncs_through_the_proxy() {
    let (redis, replica) = (Redis::start(), Redis::start());
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    client.cmd(&["SET", "before", "it came"]);
    replica.client().cmd(&["REPLICAOF", "127.0.0.1", &crema.addr().port().to_string()]);
    eventually("the link is up", || {
        replica.client().cmd(&["INFO", "replication"]).text().contains("master_link_status:up")
    });
    for n in 0..100 {
        client.cmd(&["SET", "k", &n.to_string()]);
    }
    client.cmd(&["SET", "large", &"x".repeat(1 << 20)]);
    eventually("it follows", || replica.client().cmd(&["STRLEN", "large"]) == int(1 << 20));
    assert_eq!(replica.client().cmd(&["MGET", "before", "k"]), array([bulk("it came"), bulk("99")]));
    assert_eq!(client.cmd(&["WAIT", "1", "5000"]), int(1));
}

/// A stream begins with what Redis says to SYNC, whatever crema has said to Redis before; an error begins none, and what comes
/// after it is followed as ever.
#[test]
fn a_refused_sync_leaves_an_ordinary_connection() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut raw = crema.client();
    raw.cmd(&["SELECT", "3"]);
    raw.send(b"SYNC\r\n");
    let head = raw.until(b"\r\n").expect("the length of a snapshot");
    assert_eq!(head.trim_ascii_start().first(), Some(&b'$'), "{}", shown(&head));

    let mut client = crema.client();
    client.cmd(&["MULTI"]);
    assert!(client.cmd(&["SYNC"]).is_error());
    assert!(client.cmd(&["EXEC"]).text().starts_with("EXECABORT"));
    crema.warm(&["GET", "k"]);
    assert_eq!(client.cmd(&["SET", "k", "written after SYNC was refused"]), ok());
    assert_eq!(crema.client().cmd(&["GET", "k"]), bulk("written after SYNC was refused"));
}

/// Redis ends the connection when it has sent a snapshot to who wants no more. What it sent is the client's, however slowly that reads.
#[test]
fn a_snapshot_is_whole_though_its_connection_ends() {
    const LEN: usize = 32 << 20;
    let redis = Redis::with(&["--rdbcompression", "no"]);
    let crema = Crema::start(&redis);
    redis.client().cmd(&[&b"SET"[..], b"large", &vec![b'x'; LEN]]);
    for _ in 0..5 {
        let mut replica = crema.client();
        assert_eq!(replica.cmd(&["REPLCONF", "rdb-only", "1"]), ok());
        replica.send(b"SYNC\r\n");
        let (mut total, mut piece) = (0, [0; 512]);
        loop {
            match replica.stream().read(&mut piece) {
                Ok(n @ 1..) => total += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        assert!(total > LEN, "{total} bytes came");
    }
}

/// Subscriptions are confirmed and messages come through though replies are off.
#[test]
fn silence_does_not_silence_subscriptions() {
    let (one, other) = (Redis::start(), Redis::start());
    let crema = Crema::start(&other);
    for version in [2, 3] {
        let mut direct = Client::speaking(version, one.addr());
        let mut through = Client::speaking(version, crema.addr());
        compare(&mut direct, &mut through, &[&["CLIENT", "REPLY", "OFF"], &["PING"], &["SUBSCRIBE", "a", "b"]], 2);
        compare(&mut direct, &mut through, &[&["PSUBSCRIBE", "p*"], &["SSUBSCRIBE", "s"]], 2);
        for publisher in &mut [one.client(), crema.client()] {
            assert_eq!(publisher.cmd(&["PUBLISH", "a", "message"]), int(1));
            assert_eq!(publisher.cmd(&["SPUBLISH", "s", "message"]), int(1));
        }
        compare(&mut direct, &mut through, &[&["UNSUBSCRIBE", "a", "b"], &["PUNSUBSCRIBE"], &["SUNSUBSCRIBE"]], 6);
        compare(&mut direct, &mut through, &[&["PING"], &["CLIENT", "REPLY", "ON"], &["PING"]], 2);
        compare(&mut direct, &mut through, &[&["CLIENT", "REPLY", "SKIP"], &["SUBSCRIBE", "c"], &["UNSUBSCRIBE"]], 2);
    }
}

/// In a transaction OFF and SKIP are refused in its reply, and nothing is torn.
#[test]
fn replies_are_not_switched_off_inside_a_transaction() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    let mut client = crema.client();
    for mode in ["OFF", "skip", "ON", "nonsense"] {
        let replies = client.pipeline(&[
            &["MULTI"][..],
            &["SET", "k", mode],
            &["CLIENT", "REPLY", mode],
            &["GET", "k"],
            &["EXEC"],
        ]);
        assert_eq!(replies[1..4], [simple("QUEUED"), simple("QUEUED"), simple("QUEUED")]);
        let [set, reply, get] = replies[4].items() else { panic!("{:?}", replies[4]) };
        assert_eq!((set, get), (&ok(), &bulk(mode)));
        assert_eq!(*reply == ok(), mode == "ON", "{reply:?}");
        assert!(mode == "ON" || reply.is_error(), "{reply:?}");
    }
    assert_eq!(client.cmd(&["PING"]), simple("PONG"));
}

/// Under RESP3 a subscriber runs any command; a reply that looks like a message is one all the same.
#[test]
fn a_resp3_subscriber_gets_replies_that_look_like_messages() {
    let (one, other) = (Redis::start(), Redis::start());
    let crema = Crema::start(&other);
    let mut direct = Client::speaking(3, one.addr());
    let mut through = Client::speaking(3, crema.addr());
    let commands: &[&[&str]] = &[
        &["SUBSCRIBE", "c"],
        &["RPUSH", "l", "message", "c", "not one"],
        &["LRANGE", "l", "0", "-1"],
        &["EVAL", "return {'subscribe', 'c', 1}", "0"],
        &["EVAL", "return {'unsubscribe', 'c', 0}", "0"],
        &["GET", "none"],
        &["PUBLISH", "c", "to myself"],
        &["PING"],
        &["UNSUBSCRIBE"],
        &["LRANGE", "l", "0", "-1"],
    ];
    compare(&mut direct, &mut through, commands, commands.len() + 1);
    // And before the first subscription, in the same write.
    let mut direct = one.client();
    let mut through = crema.client();
    let commands: &[&[&str]] =
        &[&["EVAL", "return {'subscribe', 'c', 1}", "0"], &["SUBSCRIBE", "d"], &["UNSUBSCRIBE", "d"], &["PING"]];
    compare(&mut direct, &mut through, commands, commands.len());
}

/// What MONITOR shows is what clients did: none of what crema does for itself.
#[test]
fn monitor_shows_nothing_of_how_connections_are_made_ready() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut monitor = crema.client();
    assert_eq!(monitor.cmd(&["MONITOR"]), ok());
    let mut did = Vec::new();
    for version in [2, 3] {
        let mut client = Client::speaking(version, crema.addr());
        for command in
            ["SET k 1", "KEYS nothing", "GET k", "MULTI", "INCR k", "EXEC", "CLIENT ID", "BLPOP none 0.01", "GET k"]
        {
            let words: Vec<&str> = command.split(' ').collect();
            client.cmd(&words);
            did.push(words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" "));
        }
    }
    crema.client().cmd(&["SET", "last", "word"]);
    let lines = monitor.until(b"\"SET\" \"last\" \"word\"\r\n").expect("lines of MONITOR");
    let lines = String::from_utf8_lossy(&lines);
    let shown: Vec<&str> = lines.lines().filter_map(|line| line.split_once("] ").map(|(_, command)| command)).collect();
    let asked = |line: &&&str| !line.starts_with("\"HELLO\"") && !line.contains("\"last\"");
    let shown: Vec<&str> = shown.iter().filter(asked).copied().collect();
    // Reads that L1 or a flight answered do not show; all that shows was asked for, in that order.
    let mut rest = did.iter();
    assert!(shown.iter().all(|line| rest.any(|asked| asked == line)), "{shown:#?}\nwas asked for as {did:#?}");
    assert_eq!(
        shown.iter().filter(|line| !line.contains("GET")).count(),
        did.iter().filter(|line| !line.contains("GET")).count()
    );
}

/// A script that does not end is the business of who sent it: others are told that Redis is busy, and may kill it.
#[test]
fn a_script_that_runs_for_ever_holds_up_nobody_else() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    redis.client().cmd(&["CONFIG", "SET", "lua-time-limit", "10"]);
    let mut others: Vec<Client> = (0..4).map(|_| crema.client()).collect();
    let mut killer = crema.client();
    for client in others.iter_mut().chain([&mut killer]) {
        client.cmd(&["SELECT", "5"]);
        client.cmd(&["PING"]);
    }
    for (script, kill) in [("while true do end", "SCRIPT"), ("while true do redis.pcall('PING') end", "SCRIPT")] {
        let mut victims: Vec<Client> = (0..3).map(|_| crema.client()).collect();
        victims[0].send_cmd(&["EVAL", script, "0"]);
        for client in &mut others {
            eventually("it is busy", || client.cmd(&["PING"]).text().starts_with("BUSY"));
        }
        assert!(killer.cmd(&["FUNCTION", "KILL"]).is_error());
        assert_eq!(killer.cmd(&[kill, "KILL"]), ok());
        assert!(victims[0].value().text().contains("killed by user"));
        for client in &mut others {
            eventually("it is free", || client.cmd(&["PING"]) == simple("PONG"));
        }
        assert_eq!(victims[0].cmd(&["EVAL", "return 7", "0"]), int(7));
    }
}

/// Scripts and plain commands of one session keep their order, though they go on different lanes.
#[test]
fn scripts_and_plain_commands_keep_their_order() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    let script = "return redis.call('APPEND', KEYS[1], ARGV[1])";
    for round in 0..20 {
        let key = format!("order:{round}");
        let mut commands: Vec<Vec<&str>> = Vec::new();
        for n in 0..10 {
            commands.push(if n % 3 == 0 { vec!["EVAL", script, "1", &key, "s"] } else { vec!["APPEND", &key, "p"] });
        }
        commands.push(vec!["GET", &key]);
        let replies = client.pipeline(&commands);
        assert_eq!(replies[..10], (1..=10).map(int).collect::<Vec<_>>());
        assert_eq!(replies[10], bulk("sppsppspps"));
    }
}

/// What stands behind an unanswered script of its own session waits for that anyway, and so goes with it: each change of the
/// lane would cost a round trip, and a job queue's client mixes scripts with all else.
#[test]
fn what_follows_an_unanswered_script_goes_on_the_same_lane() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut monitor = redis.client();
    assert_eq!(monitor.cmd(&["MONITOR"]), ok());
    let script: &[&str] = &["EVAL", "return 1", "0"];
    let replies =
        crema.client().pipeline(&[script, &["SET", "k", "1"], script, &["GET", "k"], &["SET", "last", "word"]]);
    assert_eq!(replies, [int(1), ok(), int(1), bulk("1"), ok()]);
    let lines = monitor.until(b"\"SET\" \"last\" \"word\"\r\n").expect("lines of MONITOR");
    let lines = String::from_utf8_lossy(&lines);
    let sent =
        lines.lines().filter(|line| ["\"EVAL\"", "\"SET\"", "\"GET\" \"k\""].iter().any(|name| line.contains(name)));
    let from: Vec<&str> =
        sent.filter_map(|line| line.split_once('[')?.1.split_once(']')).map(|(from, _)| from).collect();
    assert!(from.len() == 5 && from.iter().all(|lane| lane == &from[0]), "{lines}");
}

/// Redis counts what its clients have not finished, and so has to have it.
#[test]
fn a_large_unfinished_request_lies_at_redis_and_is_finished_there() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    let value = "v".repeat(700_000);
    let whole = pack(&["SET", "large", &value]);
    let held = || redis.client_list().iter().filter_map(|line| field(line, "tot-mem")).max().unwrap_or(0);
    client.send(&whole[..500_000]);
    eventually("Redis holds it", || held() > 490_000);
    let mut other = crema.client();
    assert_eq!(other.cmd(&["GET", "large"]), Value::Nil);
    client.send(&whole[500_000..]);
    assert_eq!(client.value(), ok());
    assert_eq!(other.cmd(&["GET", "large"]), bulk(&value));
    // In pieces, between others in one pipeline, in a transaction.
    let bytes =
        [pack(&["MULTI"]), whole.clone(), pack(&["STRLEN", "large"]), pack(&["EXEC"]), pack(&["PING"])].concat();
    for cut in [100_000, 150_000, 300_000, 700_000, bytes.len() - 20] {
        client.send(&bytes[..cut]);
        std::thread::sleep(Duration::from_millis(5)); // so that the pieces arrive as pieces
        client.send(&bytes[cut..]);
        let replies: Vec<Value> = (0..5).map(|_| client.value()).collect();
        assert_eq!(replies[3], array([ok(), int(700_000)]));
        assert_eq!(replies[4], simple("PONG"));
    }
    // One that is never finished ends with its client.
    client.send(&whole[..500_000]);
    eventually("Redis holds it", || held() > 490_000);
    client.shutdown(Shutdown::Both);
    eventually("Redis lets it go", || held() < 400_000);
}

/// On a connection of its own a client sees what Redis does to that: it is closed, and told nothing that Redis did not say.
#[test]
fn a_client_whose_own_connection_is_ended_by_redis_is_closed_in_silence() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    let id = client.cmd(&["CLIENT", "ID"]).number().to_string();
    client.send_cmd(&["BLPOP", "none", "0"]);
    eventually("it waits", || redis.info("clients", "blocked_clients") == 1);
    assert_eq!(redis.client().cmd(&["CLIENT", "KILL", "ID", &id]), int(1));
    assert_eq!(shown(&client.rest().expect("closed")), shown(b""));
}

/// Whoever may not SELECT stays in the database that was selected before.
#[test]
fn a_user_without_the_right_to_select_stays_where_it_was() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    redis.client().cmd(&["ACL", "SETUSER", "narrow", "on", ">pw", "~*", "+get", "+set", "+keys", "+multi", "+exec"]);
    for _ in 0..3 {
        let mut client = crema.client();
        assert_eq!(client.cmd(&["SELECT", "9"]), ok());
        assert_eq!(client.cmd(&["AUTH", "narrow", "pw"]), ok());
        assert_eq!(client.cmd(&["SET", "k", "nine"]), ok());
        assert_eq!(client.cmd(&["GET", "k"]), bulk("nine"));
        assert_eq!(client.cmd(&["KEYS", "*"]), array([bulk("k")]));
        assert!(client.cmd(&["SELECT", "0"]).text().starts_with("NOPERM"));
        assert_eq!(client.pipeline(&[&["MULTI"][..], &["GET", "k"], &["EXEC"]])[2], array([bulk("nine")]));
        let mut stranger = crema.client();
        assert_eq!(stranger.cmd(&["AUTH", "narrow", "pw"]), ok());
        assert!(stranger.cmd(&["SELECT", "9"]).text().starts_with("NOPERM"));
        assert_eq!(stranger.cmd(&["GET", "k"]), Value::Nil);
    }
    let log = redis.client().cmd(&["ACL", "LOG"]);
    let selects = log.items().iter().find(|entry| entry.items().contains(&bulk("select"))).expect("refused above");
    // crema's own connections of this user are refused the database as well.
    assert!(selects.items()[1].number() >= 6, "as often as the clients asked: {selects:?}");
}

/// A pause of the client's own waits no longer than it said.
#[test]
fn blocking_ends_by_its_own_time_behind_anything() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    for version in [2, 3] {
        let mut client = Client::speaking(version, crema.addr());
        let began = Instant::now();
        let replies = client.pipeline(&[
            &["SET", "k", "v"][..],
            &["BLPOP", "none", "0.05"],
            &["GET", "k"],
            &["BZPOPMIN", "none", "0.05"],
            &["XREAD", "BLOCK", "50", "STREAMS", "none", "$"],
            &["BLMOVE", "none", "other", "LEFT", "RIGHT", "0.05"],
            &["GET", "k"],
        ]);
        assert!(began.elapsed() >= Duration::from_millis(195));
        assert_eq!(replies, [ok(), Value::Nil, bulk("v"), Value::Nil, Value::Nil, Value::Nil, bulk("v")]);
    }
}

/// Has one server follow the other.
fn follow((master, replica): (Redis, Redis)) -> (Redis, Redis) {
    replica.client().cmd(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    eventually("the replica follows", || master.client().cmd(&["WAIT", "1", "100"]) == int(1));
    (master, replica)
}

#[test]
fn shutdown_ends_the_server_in_silence() {
    let mut redis = Redis::start();
    let crema = Crema::start(&redis);
    for words in [&["SHUTDOWN", "NOSAVE"][..], &["SHUTDOWN", "NOW", "NOSAVE", "FORCE"], &["shutdown"]] {
        let mut client = crema.client();
        assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
        client.send_cmd(words);
        assert_eq!(shown(&client.rest().expect("closed")), shown(b""), "{words:?}");
        redis.restart();
        let again = || Client::try_connect(crema.addr())?.try_cmd(&["GET", "k"]);
        eventually("it is served again", || again().is_ok_and(|reply| reply.is_nil()));
    }
}

/// Before Valkey, for Redis 7.0 does not survive it.
#[test]
fn a_shutdown_that_waits_for_a_replica_can_be_called_off() {
    let (Some(master), Some(replica)) = (Redis::valkey(), Redis::valkey()) else {
        assert!(std::env::var_os("CI").is_none(), "no Valkey here; `make test` installs one");
        return;
    };
    let (master, replica) = follow((master, replica));
    let crema = Crema::start(&master);
    let (mut client, mut other) = (crema.client(), crema.client());
    assert_eq!(other.cmd(&["SHUTDOWN", "ABORT"]).text(), "ERR No shutdown in progress.");
    let frozen = replica.freeze();
    other.cmd(&["SET", "k", "not there yet"]);
    client.send_cmd(&["SHUTDOWN"]);
    eventually("it waits", || other.cmd(&["SHUTDOWN", "ABORT"]) == ok());
    assert_eq!(client.value().text(), "ERR Errors trying to SHUTDOWN. Check logs.");
    assert_eq!(client.cmd(&["SET", "k", "lives"]), ok());
    drop(frozen);
    eventually("the replica has it", || replica.client().cmd(&["GET", "k"]) == bulk("lives"));
}

#[test]
fn a_failover_through_the_proxy_leaves_it_before_a_replica() {
    let (master, replica) = follow((Redis::start(), Redis::start()));
    let crema = Crema::start(&master);
    let mut client = crema.client();
    client.cmd(&["SET", "k", "before"]);
    crema.warm(&["GET", "k"]);
    assert_eq!(client.cmd(&["FAILOVER", "ABORT"]).text(), "ERR No failover in progress.");
    assert_eq!(
        client.cmd(&["FAILOVER", "TO", "127.0.0.1", "1"]).text(),
        "ERR FAILOVER target HOST and PORT is not a replica."
    );
    // One that waits for a replica is called off, and writes go on.
    let frozen = replica.freeze();
    client.cmd(&["SET", "k", "behind"]);
    assert_eq!(client.cmd(&["FAILOVER", "TIMEOUT", "60000"]), ok());
    assert_eq!(client.cmd(&["FAILOVER"]).text(), "ERR FAILOVER already in progress.");
    assert_eq!(client.cmd(&["FAILOVER", "ABORT"]), ok());
    assert_eq!(client.cmd(&["SET", "k", "after"]), ok());
    drop(frozen);
    let port = replica.port().to_string();
    eventually("the replica is abreast", || master.client().cmd(&["WAIT", "1", "100"]) == int(1));
    assert_eq!(client.cmd(&["FAILOVER", "TO", "127.0.0.1", &port]), ok());
    // Redis calls itself a replica before the other one has taken it for that; until then its failover is in progress.
    eventually("they have changed places", || {
        client.cmd(&["INFO", "replication"]).text().contains("master_failover_state:no-failover")
            && client.cmd(&["ROLE"]).items()[0] == bulk("slave")
    });
    assert!(client.cmd(&["SET", "k", "refused"]).text().starts_with("READONLY"));
    assert_eq!(client.cmd(&["FAILOVER"]).text(), "ERR FAILOVER is not valid when server is a replica.");
    assert_eq!(replica.client().cmd(&["SET", "k", "by the new master"]), ok());
    eventually("what the new master has", || client.cmd(&["GET", "k"]) == bulk("by the new master"));
    if !crema.is_direct() {
        eventually("the lease is over", || crema.count("crema_lease_held", &[]) == 0);
        let hits = crema.outcomes("hit");
        (0..50).for_each(|_| drop(client.cmd(&["GET", "k"])));
        assert_eq!(crema.outcomes("hit"), hits, "a replica tells of no change");
    }
}

fn field(line: &str, name: &str) -> Option<u64> {
    line.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}
