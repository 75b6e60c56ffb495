//! Clients that close their side, or leave altogether, right behind what they sent: all of it is carried out as Redis would,
//! answered where somebody still reads, and what waits at Redis ends as it ends there.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::differs::Differs;
use common::value::shown;
use common::{Client, Crema, Redis, Value, array, bulk, eventually, int, ok, pack, within};

/// Each in one go with the end of the client's side. `;` parts commands; what has a blank in it is written `_`.
const PIPELINES: &[&str] = &[
    "SET t 1",
    "SUBSCRIBE foo ; UNSUBSCRIBE foo ; QUIT ; SET t 1",
    "SUBSCRIBE foo ; PING ; UNSUBSCRIBE foo ; SET t 1",
    "SUBSCRIBE foo ; SET t 1",
    "UNSUBSCRIBE ; SET t 1",
    "PSUBSCRIBE p* ; PUNSUBSCRIBE ; RESET ; SET t 1",
    "READONLY ; SET t 1",
    "CLIENT TRACKING ON ; SET t 1 ; SELECT 1 ; SET t 2 ; RESET ; SET u 1",
    "SET a 1 ; WAIT 0 0 ; SET t 1",
    "SET a 1 ; WAIT 0 0 ; SELECT 1 ; SET t 1 ; SWAPDB 0 1",
    "RPUSH l x ; BLPOP l 1 ; SET t 1",
    "RPUSH l x ; BLPOP l 0 ; SELECT 1 ; SET t 1 ; SELECT 0 ; SET t 2",
    "RPUSH l x y ; BLPOP l 0 ; RESET ; BLPOP l 0 ; AUTH x ; SET t 1",
    "RPUSH l x y z ; BLMPOP 0 1 l LEFT COUNT 2 ; MULTI ; SET t 1 ; BLPOP none 0 ; EXEC ; QUIT",
    "SET a 1 ; MULTI ; SET t 1 ; INCR a ; EXEC ; GET a",
    "WATCH a ; SET a 1 ; MULTI ; SET t 1 ; EXEC ; SET u 1",
    "SET a 1 ; MULTI ; SET t 1",
    "EVAL return_redis.call('SET',KEYS[1],'1') 1 t ; EVAL return_redis.call('PING') 0 ; SELECT 2 ; SET t 1",
    "CLIENT REPLY OFF ; SET t 1 ; CLIENT REPLY ON ; GET t",
    "CLIENT SETNAME me ; SET t 1 ; CLIENT GETNAME ; CLIENT SETNAME you ; GET t",
    "HELLO 3 SETNAME me ; SET t 1 ; CONFIG SET maxmemory-samples 5 ; SET u 1",
    "HELLO 4 ; SET t 1 ; NOSUCH a ; SET u 1",
    "XADD s 1-1 f v ; XREAD BLOCK 0 STREAMS s 0 ; SET t 1",
    "SORT none STORE t ; DEBUG SLEEP 0.2 ; SET t 1",
    "RPUSH l x ; POPWAIT l 0 ; SET t 1",
    "FLUSHALL ; SET t 1 ; SELECT 3 ; FLUSHDB ; SET t 1 ; SCRIPT FLUSH ; SET u 1",
    // What waits is ended, and nothing behind it is done.
    "SET a 1 ; BLPOP none 0 ; SET t 1",
    "SET a 1 ; BLPOP none 0 ; SELECT 1 ; SET t 1",
    "SET a 1 ; BLPOP none 1 ; RESET ; SET t 1",
    "CLIENT TRACKING ON ; BLPOP none 0 ; SET t 1",
    "SET a 1 ; WAIT 1 0 ; SET t 1",
    "SET a 1 ; WAIT 1 0 ; SELECT 1 ; SET t 1 ; QUIT",
    "XREAD BLOCK 0 STREAMS none $ ; SET t 1",
    "SET a 1 ; POPWAIT none 0 ; SET t 1",
    "SET a 1 ; POPWAIT none 0 ; HELLO 3 ; SET t 1",
    "RPUSH l x ; BLPOP l 0 ; BLPOP l 0 ; SET t 1",
    "SUBSCRIBE foo ; UNSUBSCRIBE foo ; BLPOP none 0 ; SET t 1",
];

/// The same where what waits would soon be over.
const SHORT_WAITS: &[&str] = &[
    "BLPOP none 0.04",
    "SET a 1 ; BLPOP none 0.04 ; SET t 1",
    "SET a 1 ; BLPOP none 0.08 ; SELECT 1 ; SET t 1",
    "RPUSH l x ; BLPOP l 0 ; BLMPOP 0.08 1 l LEFT ; RESET ; SET t 1",
    "XREAD BLOCK 80 STREAMS none $ ; AUTH x ; SET t 1",
    "CLIENT TRACKING ON ; BLPOP none 0.04 ; SET t 1",
    "SET a 1 ; WAIT 1 40 ; SET t 1",
    "SET a 1 ; WAIT 1 80 ; SELECT 1 ; SET t 1",
];

fn packed(line: &str) -> Vec<u8> {
    line.split(" ; ")
        .flat_map(|command| pack(&command.split(' ').map(|word| word.replace('_', " ")).collect::<Vec<_>>()))
        .collect()
}

/// What is in the first databases, at one moment.
fn kept(redis: &Redis) -> Value {
    let script = "local all = {}
        for db = 0, 3 do
            redis.call('SELECT', db)
            local keys = redis.call('KEYS', '*')
            table.sort(keys)
            for _, key in ipairs(keys) do all[#all + 1] = db .. '/' .. key .. '=' .. redis.call('DUMP', key) end
        end
        return all";
    redis.client().cmd(&["EVAL", script, "0"])
}

/// Says all in one go and closes its side, and reads what comes.
fn say_and_close(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut client = Client::connect(addr);
    client.send(bytes);
    client.shutdown(Shutdown::Write);
    client.rest().expect("an end")
}

fn renamed() -> [Redis; 2] {
    // A command that crema does not know as one that waits.
    [(); 2].map(|()| Redis::with(&["--rename-command", "BRPOP", "POPWAIT"]))
}

#[test]
fn all_that_was_sent_before_the_end_is_carried_out_and_answered_as_redis_does() {
    let [direct, behind] = renamed();
    let crema = Crema::start(&behind);
    for line in PIPELINES {
        for version in [2, 3] {
            let hello = if version == 3 { pack(&["HELLO", "3"]) } else { Vec::new() };
            let bytes = [hello, packed(line)].concat();
            for time in 0..6 {
                for redis in [&direct, &behind] {
                    redis.client().cmd(&["FLUSHALL"]);
                }
                let want = say_and_close(direct.addr(), &bytes);
                let got = say_and_close(crema.addr(), &bytes);
                assert_eq!(
                    shown(&Differs::Id.blot(&got)),
                    shown(&Differs::Id.blot(&want)),
                    "{line}, RESP{version}, time {time}"
                );
                for redis in [&direct, &behind] {
                    eventually("nothing waits", || redis.info("clients", "blocked_clients") == 0);
                }
                assert_eq!(kept(&behind), kept(&direct), "{line}, RESP{version}, time {time}");
            }
        }
    }
}

/// Redis frees such a client at once, and what stands behind is not done. A machine may be late once or twice.
#[test]
fn what_waits_ends_at_once_however_soon_it_would_be_over() {
    const TIMES: usize = 9;
    let [direct, behind] = renamed();
    let crema = Crema::start(&behind);
    for line in SHORT_WAITS {
        let bytes = packed(line);
        let mut others = Vec::new();
        for _ in 0..TIMES {
            for redis in [&direct, &behind] {
                redis.client().cmd(&["FLUSHALL"]);
            }
            let said = [direct.addr(), crema.addr()].map(|addr| shown(&Differs::Id.blot(&say_and_close(addr, &bytes))));
            for redis in [&direct, &behind] {
                eventually("nothing waits", || redis.info("clients", "blocked_clients") == 0);
            }
            let kept = [&direct, &behind].map(kept);
            if said[0] != said[1] || kept[0] != kept[1] {
                others.push((said, kept));
            }
        }
        assert!(others.len() <= TIMES / 3, "{line}, {} of {TIMES} times: {:?}", others.len(), others[0]);
    }
}

/// Who is gone altogether is answered nothing, and has sent what it sent.
#[test]
fn all_that_was_sent_by_a_client_that_is_gone_is_carried_out() {
    let [direct, behind] = renamed();
    let crema = Crema::start(&behind);
    for line in PIPELINES.iter().filter(|line| !line.contains("FLUSHALL")) {
        let bytes = [pack(&["INCR", "begun"]), packed(line)].concat();
        direct.client().cmd(&["FLUSHALL"]);
        say_and_close(direct.addr(), &bytes);
        let want = kept(&direct);
        for _ in 0..6 {
            behind.client().cmd(&["FLUSHALL"]);
            Client::connect(crema.addr()).send(&bytes);
            eventually("it begins", || !kept(&behind).items().is_empty());
            let over = || crema.is_direct() || crema.metric("crema_sessions", &[]) < 0.5;
            eventually("it is over", || over() && behind.info("clients", "blocked_clients") == 0);
            eventually(line, || kept(&behind) == want);
        }
    }
}

#[test]
fn an_element_is_never_popped_for_a_client_that_has_closed_its_side() {
    let [redis, _] = renamed();
    let crema = Crema::start(&redis);
    let mut other = crema.client();
    for command in ["BLPOP", "POPWAIT"] {
        for behind in [&[][..], &["SELECT", "1"], &["SET", "t", "1"]] {
            // What is there is delivered.
            for _ in 0..40 {
                other.cmd(&["RPUSH", "q", "job"]);
                let mut bytes = pack(&[command, "q", "1"]);
                if !behind.is_empty() {
                    bytes.extend(pack(behind));
                }
                let got = say_and_close(crema.addr(), &bytes);
                assert!(got.starts_with(&pack(&["q", "job"])), "{command} {behind:?}: {}", got.escape_ascii());
            }
            // What comes later is not taken.
            let mut client = crema.client();
            client.send_cmd(&[command, "q", "0"]);
            eventually("it waits at Redis", || redis.info("clients", "blocked_clients") == 1);
            if !behind.is_empty() {
                client.send_cmd(behind);
            }
            drop(client);
            within(Duration::from_secs(3), "its wait ends", || redis.info("clients", "blocked_clients") == 0);
            other.cmd(&["RPUSH", "q", "job"]);
            assert_eq!(other.cmd(&["LPOP", "q"]), bulk("job"));
        }
    }
}

/// A client behind whose waiting command is more than crema reads has left all the same.
#[test]
fn a_client_that_leaves_much_unread_behind_what_waits_has_left() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let mut client = crema.client();
    client.send_cmd(&["BLPOP", "q", "0"]);
    eventually("it waits at Redis", || redis.info("clients", "blocked_clients") == 1);
    client.send(&pack(&["SET", "t", "1"]).repeat(8_000));
    client.send(&pack(&["SELECT", "1"]));
    drop(client);
    within(Duration::from_secs(3), "its wait ends", || redis.info("clients", "blocked_clients") == 0);
    assert_eq!(redis.client().cmd(&["EXISTS", "t"]), int(0));
}

#[test]
fn a_reply_that_takes_long_is_waited_for() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    let began = Instant::now();
    thread::scope(|scope| {
        let script = "local function now() return tonumber(redis.call('TIME')[1]) end \
                      local t = now() while now() - t < 7 do end return 'finished'";
        let scripted = scope
            .spawn(|| say_and_close(crema.addr(), &[pack(&["EVAL", script, "0"]), pack(&["SET", "t", "1"])].concat()));
        assert_eq!(scripted.join().expect("it ends").escape_ascii().to_string(), "$8\\r\\nfinished\\r\\n+OK\\r\\n");
    });
    assert!(began.elapsed() > Duration::from_secs(5));
    // What stands behind a protocol error is nothing, what stands before it is answered however long that takes.
    let mut client = crema.client();
    client.send(&[pack(&["BLPOP", "q", "0"]), b"*x\r\n".to_vec()].concat());
    eventually("it waits at Redis", || redis.info("clients", "blocked_clients") == 1);
    assert!(client.is_silent_for(Duration::from_secs(6)), "it waits");
    redis.client().cmd(&["RPUSH", "q", "job"]);
    assert_eq!(client.value(), array([bulk("q"), bulk("job")]));
    assert!(client.value().text().contains("invalid multibulk length"));
    assert!(client.closes_within(Duration::from_secs(5)));
}

/// Redis writes what fits into the socket of such a client; crema writes all.
#[test]
fn a_large_reply_reaches_a_client_that_has_closed_its_side() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    redis.client().cmd(&["SETRANGE", "large", "29999999", "x"]);
    let large = pack(&["GET", "large"]);
    let got = say_and_close(crema.addr(), &[&large[..], &large, &pack(&["SET", "t", "1"])].concat());
    assert!(got.len() > 60_000_000 && got.ends_with(b"x\r\n+OK\r\n"), "{} bytes", got.len());
    assert_eq!(redis.client().cmd(&["DEL", "t"]), int(1));
    assert_eq!(crema.client().cmd(&["SET", "t", "1"]), ok());
}

/// A connection that is closed with bytes unread is reset, and a reset can overtake what was said last.
#[test]
fn what_a_client_sends_behind_its_end_is_read_and_its_connection_not_reset() {
    let redis = Redis::start();
    let crema = Crema::start(&redis);
    if crema.is_direct() {
        return;
    }
    for (last, said) in [(pack(&["QUIT"]), "+PONG\r\n+OK\r\n"), (b"*x\r\n".to_vec(), "+PONG\r\n-ERR Protocol error")] {
        for more in [100, 20_000, 400_000] {
            let mut stream = TcpStream::connect(crema.addr()).expect("a listener");
            stream.write_all(&[&pack(&["PING"])[..], &last].concat()).expect("room");
            stream.write_all(&vec![b'x'; more]).expect("it is read");
            stream.shutdown(Shutdown::Write).expect("not reset");
            let mut got = Vec::new();
            stream.read_to_end(&mut got).expect("an end, and no reset");
            assert!(got.starts_with(said.as_bytes()), "{}", got.escape_ascii());
        }
    }
}
