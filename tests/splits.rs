//! Sessions that mix modes, sent whole to a Redis and, through crema, cut in two at many places to an equal one: all bytes
//! that come back are the same, to the end of the connection.
//!
//! A session is a line of commands between semicolons. [`SESSIONS`] are cut around every command, as arrays
//! and as inline commands; beside them sessions are drawn at random from [`WORDS`], and one that differs is cut down.

use std::time::{Duration, Instant};

use common::differs::Differs;
use common::value::{Scan, shown};
use common::{Crema, Redis, pack, seeded};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

/// How every session ends. What is silent is not after `RESET`: Redis forgets to close who is told nothing after `QUIT`.
const END: [&str; 2] = ["RESET", "QUIT"];
/// How long anything may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long sessions are drawn at random.
const AT_RANDOM: Duration = Duration::from_secs(6);

/// Where replies are switched off or skipped.
const SILENCE: &str = "
    CLIENT REPLY OFF ; SET k 1 ; GET k ; CLIENT REPLY ON ; GET k ; PING
    CLIENT REPLY SKIP ; GET k ; GET k ; CLIENT REPLY SKIP ; CLIENT REPLY SKIP ; PING ; PING ; CLIENT REPLY SKIP
    CLIENT REPLY SKIP ; CLIENT REPLY ON ; CLIENT REPLY SKIP ; CLIENT REPLY NONSENSE ; PING ; CLIENT REPLY ; PING
    CLIENT REPLY OFF ; CLIENT REPLY SKIP ; PING ; CLIENT REPLY ON ; PING
    CLIENT REPLY SKIP ; RESET ; PING
    CLIENT REPLY OFF ; RESET ; PING
    CLIENT REPLY SKIP ; MULTI ; SET k v ; EXEC ; GET k
    CLIENT REPLY OFF ; MULTI ; INCR n ; EXEC ; CLIENT REPLY ON ; GET n ; DEL n
    WATCH k ; CLIENT REPLY SKIP ; SET k 2 ; MULTI ; CLIENT REPLY ON ; PING ; EXEC
    CLIENT REPLY SKIP ; BLPOP none 0.01 ; PING ; CLIENT REPLY SKIP ; XREAD BLOCK 1 STREAMS none $ ; PING
    CLIENT REPLY SKIP ; SUBSCRIBE a a ; PING ; UNSUBSCRIBE ; GET k
    CLIENT REPLY OFF ; SUBSCRIBE a ; PING ; UNSUBSCRIBE ; CLIENT REPLY ON ; PING
    CLIENT REPLY SKIP ; HELLO 3 ; HGETALL none ; CLIENT REPLY SKIP ; HELLO 2 ; HGETALL none
    CLIENT REPLY SKIP ; SELECT 3 ; SET k three ; GET k ; CLIENT REPLY OFF ; SELECT 0 ; CLIENT REPLY ON ; GET k
    CLIENT REPLY SKIP ; AUTH nobody nothing ; PING ; CLIENT REPLY SKIP ; NOSUCH ; PING ; CLIENT REPLY SKIP ; GET ; PING
    CLIENT REPLY SKIP ; WAIT 0 0 ; PING ; CLIENT REPLY SKIP ; KEYS nothing* ; PING ; CLIENT REPLY SKIP ; CLIENT GETREDIR ; PING
    CLIENT REPLY SKIP ; CLIENT SETNAME n ; CLIENT GETNAME ; CLIENT REPLY SKIP ; CLIENT GETNAME ; CLIENT NO-EVICT ON ; PING
    CLIENT REPLY SKIP ; EVAL return{1,{2}} 0 ; PING ; CLIENT REPLY SKIP ; SWAPDB 5 6 ; PING ; CLIENT REPLY SKIP ; FLUSHALL ; DBSIZE
    CLIENT REPLY SKIP ; CONFIG SET maxmemory-samples 5 ; ACL WHOAMI ; CLIENT REPLY SKIP ; ACL SETUSER x ; ACL DELUSER x
    CLIENT REPLY SKIP ; CLIENT PAUSE 0 ; PING ; CLIENT REPLY SKIP ; CLIENT UNPAUSE ; PING ; CLIENT REPLY SKIP ; SCRIPT LOAD return{1} ; PING
";

/// Transactions, and what may and may not be in them.
const TRANSACTIONS: &str = "
    SET k v ; GET k ; MULTI ; GET k ; SET k w ; EXEC ; GET k ; DISCARD ; EXEC
    MULTI ; MULTI ; WATCH k ; UNWATCH ; EXEC ; MULTI ; DISCARD ; DISCARD
    WATCH k ; SET k 1 ; MULTI ; PING ; EXEC ; MULTI ; PING ; EXEC
    WATCH k ; WATCH l k ; UNWATCH ; SET k 1 ; MULTI ; PING ; EXEC
    WATCH k ; MULTI ; WATCH l ; MULTI ; SET k 2 ; EXEC ; GET k ; WATCH
    WATCH k ; HELLO 3 ; SET k 1 ; MULTI ; GET k ; EXEC ; HELLO 2 ; GET k
    WATCH k ; SELECT 3 ; SET k 1 ; MULTI ; GET k ; EXEC ; SELECT 0
    WATCH k ; RESET ; SET k 1 ; MULTI ; GET k ; EXEC
    WATCH k ; BLPOP none 0.01 ; SET k 1 ; MULTI ; BLPOP none 0 ; GET k ; EXEC
    MULTI ; RESET ; EXEC ; PING ; MULTI ; PING ; QUIT ; EXEC
    MULTI ; NOSUCH ; PING ; EXEC ; MULTI ; GET ; EXEC ; PING
    MULTI ; SET k v ; LPUSH k x ; GET k ; EXEC ; MULTI ; EXEC
    MULTI ; SELECT 3 ; SET k three ; EXEC ; GET k ; SELECT 0 ; GET k
    MULTI ; HELLO 3 ; HGETALL none ; EXEC ; HGETALL none ; HELLO 2 ; HGETALL none
    MULTI ; AUTH nobody nothing ; CLIENT SETNAME q ; CLIENT GETNAME ; EXEC ; CLIENT GETNAME
    MULTI ; SUBSCRIBE a ; PING ; EXEC ; PUBLISH a x ; UNSUBSCRIBE ; GET k
    MULTI ; BLPOP none 0 ; XREAD BLOCK 0 STREAMS none $ ; WAIT 1 0 ; BLMOVE a b LEFT LEFT 0 ; EXEC
    MULTI ; CLIENT TRACKING ON ; CLIENT NO-EVICT ON ; CLIENT GETREDIR ; EXEC ; CLIENT GETREDIR ; GET k
    MULTI ; FLUSHALL ; SWAPDB 0 3 ; EVAL return{1} 0 ; KEYS * ; EXEC ; GET k ; DBSIZE
    MULTI ; MONITOR ; SYNC ; EXEC ; PING
    MULTI ; CONFIG SET maxmemory-samples 5 ; ACL WHOAMI ; DEBUG SLEEP 0 ; EXEC ; PING
    MULTI ; CLIENT REPLY ON ; CLIENT PAUSE 0 ; CLIENT UNPAUSE ; SHUTDOWN ; EXEC ; PING
    MULTI ; PING ; SUBSCRIBE ; EXEC ; UNSUBSCRIBE
";

/// Subscriptions, monitoring, tracking, other versions of the protocol.
const MODES: &str = "
    SUBSCRIBE a ; PUBLISH a x ; GET k ; PING ; PING y ; UNSUBSCRIBE a ; GET k ; PUBLISH a x
    SUBSCRIBE a ; MULTI ; WATCH k ; EXEC ; SELECT 3 ; HELLO 3 ; AUTH a b ; CLIENT REPLY OFF ; PING ; RESET ; GET k
    SUBSCRIBE a ; PSUBSCRIBE a* ; SSUBSCRIBE a ; SUNSUBSCRIBE ; PUNSUBSCRIBE ; UNSUBSCRIBE ; UNSUBSCRIBE ; PING
    SUBSCRIBE a ; HELLO 2 ; PUBLISH a x ; PING ; GET k ; UNSUBSCRIBE ; PING ; GET k
    HELLO 3 ; SUBSCRIBE a ; PUBLISH a x ; GET k ; HELLO 2 ; PING ; GET k ; UNSUBSCRIBE ; GET k ; PUBLISH a x
    HELLO 3 ; SUBSCRIBE a ; BLPOP none 0.01 ; SELECT 3 ; SET k s ; GET k ; CLIENT GETNAME ; RESET ; GET k
    HELLO 3 ; SUBSCRIBE a ; CLIENT REPLY OFF ; PUBLISH a x ; GET k ; CLIENT REPLY ON ; GET k
    HELLO 3 ; CLIENT TRACKING ON ; GET k ; SET k v ; GET k ; DEL k ; FLUSHALL ; PING
    HELLO 3 ; CLIENT TRACKING ON ; GET k ; MULTI ; SET k v ; GET k ; EXEC ; HELLO 2 ; GET k ; SET k w ; CLIENT TRACKING OFF ; SET k x
    HELLO 3 ; CLIENT TRACKING ON NOLOOP ; GET k ; SET k v ; CLIENT TRACKINGINFO ; CLIENT TRACKING OFF ; CLIENT TRACKINGINFO
    HELLO 3 ; CLIENT TRACKING ON OPTIN ; GET k ; SET k v ; CLIENT CACHING YES ; GET k ; SET k w ; CLIENT CACHING NO ; CLIENT CACHING MAYBE
    HELLO 3 ; CLIENT TRACKING ON OPTOUT ; CLIENT CACHING NO ; GET k ; SET k w ; GET k ; SET k x ; CLIENT TRACKING ON OPTIN
    HELLO 3 ; CLIENT TRACKING ON ; GET k ; CLIENT REPLY OFF ; SET k v ; CLIENT REPLY ON ; GET k ; RESET ; SET k w ; CLIENT TRACKINGINFO
    CLIENT TRACKING ON ; GET k ; SET k v ; CLIENT TRACKINGINFO ; HELLO 3 ; GET k ; SET k w ; CLIENT CACHING YES ; CLIENT TRACKING ON REDIRECT 99999999
    CLIENT GETREDIR ; CLIENT NO-EVICT ON ; GET k ; SELECT 3 ; GET k ; HELLO 3 ; HGETALL none ; RESET ; HGETALL none ; GET k ; CLIENT GETREDIR
    CLIENT GETREDIR ; MULTI ; SET k v ; EXEC ; WATCH k ; SET k w ; RESET ; MULTI ; GET k ; EXEC ; AUTH a b ; SUBSCRIBE a ; RESET ; PING
    MONITOR ; PING ; GET k ; SET k v ; MULTI ; RESET ; GET k ; PING
    MONITOR ; HELLO 3 ; PING ; MONITOR ; SUBSCRIBE a ; QUIT
    PING ; MONITOR extra ; GET k ; MULTI ; MONITOR ; EXEC ; GET k
    HELLO 3 ; HELLO ; HGETALL none ; HELLO 2 ; HELLO ; HGETALL none ; HELLO 4 ; HELLO abc ; HELLO 2 SETNAME n ; CLIENT GETNAME
    HELLO 3 AUTH nobody nothing ; HGETALL none ; HELLO 3 AUTH nobody nothing SETNAME n ; CLIENT GETNAME ; HELLO 3 NOSUCH ; HELLO 3 AUTH x
    SYNC extra ; PSYNC ; PSYNC x ; REPLCONF nosuch option ; PING ; GET k
    READONLY ; GET k ; READWRITE ; ASKING ; GET k ; CLIENT CACHING YES ; MULTI ; GET k ; EXEC
    BLPOP none 0.01 ; BLMPOP 0.01 1 none LEFT ; BZPOPMIN none 0.01 ; XREAD BLOCK 1 STREAMS none $ ; BRPOPLPUSH none o 0.01 ; WAIT 0 1
    RPUSH l a b c d ; BLPOP l 0 ; BRPOP none l 0 ; BLMOVE l m LEFT RIGHT 0 ; BLMPOP 0 2 m l LEFT ; BLPOP l 0 ; LRANGE m 0 -1 ; DEL l m
    SUBSCRIBE a b ; MULTI ; UNSUBSCRIBE b a ; PING ; EXEC ; SSUBSCRIBE s ; MULTI ; PUNSUBSCRIBE ; PING ; EXEC
    MONITOR ; EVAL return{1} 0 ; PING ; EVAL return{1} 0 ; PING ; PING
    HELLO 3 ; CLIENT TRACKING ON ; GET k ; EVAL return{redis.call([[SET]],[[k]],1)} 0 ; GET k
    MONITOR ; UNSUBSCRIBE ; PING ; SUBSCRIBE a ; PING ; HELLO 3 ; PING ; CLIENT REPLY OFF
    RESET ; RESET ; SELECT 3 ; RESET ; CLIENT SETNAME n ; RESET ; CLIENT GETNAME ; GET k
";

/// What random sessions are made of; some more than once. Nothing that differs by what docs/differences.md says.
const WORDS: &str = "
    GET k ; GET k ; SET k v ; SET k w ; INCR n ; DEL k n ; MGET k n ; HGETALL none ; EXISTS k ; PING ; PING x ; ECHO x ; NOSUCH x
    GET ; MULTI ; MULTI ; MULTI ; EXEC ; EXEC ; EXEC ; DISCARD ; WATCH k ; WATCH n ; UNWATCH
    SELECT 3 ; SELECT 0 ; SELECT 99 ; HELLO 2 ; HELLO 3 ; HELLO 3 ; HELLO ; HELLO 9 ; HELLO 3 SETNAME h ; AUTH nobody nothing ; RESET ; RESET
    CLIENT REPLY OFF ; CLIENT REPLY SKIP ; CLIENT REPLY SKIP ; CLIENT REPLY ON ; CLIENT REPLY ON ; CLIENT REPLY ON
    SUBSCRIBE a ; SUBSCRIBE a a ; PSUBSCRIBE a* ; SSUBSCRIBE s ; UNSUBSCRIBE ; UNSUBSCRIBE ; PUNSUBSCRIBE ; SUNSUBSCRIBE
    PUBLISH a x ; PUBLISH a x ; SPUBLISH s x ; PUBSUB NUMSUB a ; MONITOR
    CLIENT TRACKING ON ; CLIENT TRACKING ON OPTIN ; CLIENT TRACKING OFF ; CLIENT CACHING YES ; CLIENT TRACKINGINFO ; CLIENT GETREDIR
    CLIENT NO-EVICT ON ; CLIENT SETNAME m ; CLIENT GETNAME ; BLPOP none 0.001 ; BLPOP l 0.001 ; RPUSH l x ; XREAD BLOCK 1 STREAMS none $
    WAIT 0 0 ; KEYS k* ; DBSIZE ; FLUSHALL ; SWAPDB 0 3 ; EVAL return{redis.call('SET','k',ARGV[1]),{2}} 0 x ; EVAL return{1} 0
    CONFIG SET maxmemory-samples 5 ; ACL WHOAMI ; READONLY ; REPLCONF nosuch option
";

#[test]
fn silence_is_the_same_wherever_it_is_cut() {
    cut_everywhere(SILENCE);
}

#[test]
fn transactions_are_the_same_wherever_they_are_cut() {
    cut_everywhere(TRANSACTIONS);
}

#[test]
fn modes_are_the_same_wherever_they_are_cut() {
    cut_everywhere(MODES);
}

#[test]
fn random_mixes_of_all_modes_are_the_same() {
    mix(&Stage::new((Redis::start(), Redis::start())), "random mixes");
}

/// Where one is installed, as `make test` does.
#[test]
fn random_mixes_of_all_modes_are_the_same_before_valkey() {
    let (Some(direct), Some(behind)) = (Redis::valkey(), Redis::valkey()) else {
        assert!(std::env::var_os("CI").is_none(), "no Valkey here; `make test` installs one");
        return;
    };
    mix(&Stage::new((direct, behind)), "random mixes before Valkey");
}

fn mix(stage: &Stage, name: &str) {
    let mut rng = seeded(name);
    let words: Vec<&str> = WORDS.split([';', '\n']).map(str::trim).filter(|word| !word.is_empty()).collect();
    let (started, mut sessions) = (Instant::now(), 0);
    while started.elapsed() < AT_RANDOM {
        let session = draw(&words, &mut rng);
        if stage.differs(&session, &mut rng).is_some() {
            let shortest = stage.cut_down(session, &mut rng);
            let difference = stage.differs(&shortest, &mut rng);
            panic!("session {sessions}: {}\n{}", shortest.join(" ; "), difference.unwrap_or("not again".into()));
        }
        sessions += 1;
    }
    eprintln!("{name}: {sessions} sessions");
}

fn draw<'a>(words: &[&'a str], rng: &mut SmallRng) -> Vec<&'a str> {
    let (mut queued, mut silent) = (false, false);
    let mut session = Vec::new();
    // The lines of MONITOR come however silent the session is, and docs/differences.md says so.
    let monitors = rng.random();
    for _ in 0..rng.random_range(1..40) {
        let word = *words.choose(rng).expect("there are many");
        let silences = word.starts_with("CLIENT REPLY");
        if silences && (queued || monitors) || word == "MONITOR" && !monitors {
            continue; // docs/differences.md tells of it, too
        }
        if queued && word.starts_with("PUBLISH") {
            continue; // what a client so tells itself stands in the midst of EXEC's reply, which then has no end
        }
        if queued && silent && word.contains("SUBSCRIBE") {
            continue; // Redis shows the confirmation, and nothing else of EXEC's reply: docs/differences.md again
        }
        silent = word == "CLIENT REPLY OFF" || silent && word != "CLIENT REPLY ON";
        queued = word == "MULTI" || queued && !["EXEC", "DISCARD"].contains(&word);
        session.push(word);
    }
    session
}

fn cut_everywhere(sessions: &str) {
    let stage = Stage::new((Redis::start(), Redis::start()));
    let mut rng = seeded("cut_everywhere");
    for session in sessions.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let commands: Vec<&str> = session.split(" ; ").collect();
        for bytes in [packed(&commands), inline(&commands)] {
            stage.clear();
            let want = stage.direct(&bytes.concat());
            for cut in cuts(&bytes, &mut rng) {
                stage.clear_behind();
                let got = stage.through(&bytes.concat(), &[cut]);
                if let Some(difference) = difference(&want, &got) {
                    panic!("{session}\ncut at {cut} of {}\n{difference}", shown(&bytes.concat()));
                }
            }
        }
    }
}

/// Around every command, and some places between.
fn cuts(commands: &[Vec<u8>], rng: &mut SmallRng) -> Vec<usize> {
    let ends = commands.iter().scan(0, |end, command| {
        *end += command.len();
        Some(*end)
    });
    let around = ends.flat_map(|end| [end - 1, end, end + 1]);
    let all: usize = commands.iter().map(Vec::len).sum();
    let mut cuts: Vec<usize> =
        around.chain((0..6).map(|_| rng.random_range(0..all))).filter(|cut| *cut < all).collect();
    cuts.push(0);
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

fn packed(commands: &[&str]) -> Vec<Vec<u8>> {
    commands.iter().chain(&END).map(|line| pack(&line.split(' ').collect::<Vec<_>>())).collect()
}

fn inline(commands: &[&str]) -> Vec<Vec<u8>> {
    commands.iter().chain(&END).map(|line| format!("{line}\r\n").into_bytes()).collect()
}

struct Stage {
    crema: Crema,
    /// One that is asked directly, and the one behind crema.
    servers: (Redis, Redis),
}

impl Stage {
    fn new(servers: (Redis, Redis)) -> Stage {
        Stage { crema: Crema::start(&servers.1), servers }
    }

    fn clear(&self) {
        self.servers.0.client().cmd(&["FLUSHALL"]);
        self.clear_behind();
    }

    fn clear_behind(&self) {
        self.crema.client().cmd(&["FLUSHALL"]);
    }

    fn direct(&self, bytes: &[u8]) -> Vec<u8> {
        let mut client = self.servers.0.client();
        client.send(bytes);
        client.rest().expect("QUIT ends it")
    }

    fn through(&self, bytes: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut client = self.crema.client();
        let mut from = 0;
        for cut in cuts.iter().copied().chain([bytes.len()]) {
            if client.try_send(&bytes[from..cut]).is_err() {
                break; // closed already, as what it got will show
            }
            from = cut;
            if cut < bytes.len() {
                std::thread::sleep(Duration::from_micros(200)); // so that the pieces arrive as pieces
            }
        }
        client.patience(PATIENCE);
        client.rest().unwrap_or_else(|error| {
            let came = std::iter::from_fn(|| client.try_reply().ok());
            came.chain([format!("-and then: {error}\r\n").into_bytes()]).flatten().collect()
        })
    }

    /// Runs it on both sides, on the one that is crema's in pieces.
    fn differs(&self, session: &[&str], rng: &mut SmallRng) -> Option<String> {
        let bytes = packed(session).concat();
        let mut cuts: Vec<usize> = (0..rng.random_range(0..4)).map(|_| rng.random_range(0..bytes.len())).collect();
        cuts.sort_unstable();
        self.clear();
        difference(&self.direct(&bytes), &self.through(&bytes, &cuts))
    }

    /// Without every command that can be left out so that it still differs, mostly.
    fn cut_down<'a>(&self, mut session: Vec<&'a str>, rng: &mut SmallRng) -> Vec<&'a str> {
        let mut at = session.len();
        while at > 0 {
            at -= 1;
            let mut shorter = session.clone();
            shorter.remove(at);
            if (0..5).any(|_| self.differs(&shorter, rng).is_some()) {
                session = shorter;
            }
        }
        session
    }
}

/// The first frame in which two streams differ, but for ids, and the times and addresses that MONITOR shows.
fn difference(want: &[u8], got: &[u8]) -> Option<String> {
    let (want, got) = (frames(want), frames(got));
    let at = (0..want.len().max(got.len())).find(|at| want.get(*at) != got.get(*at))?;
    let show = |frames: &[Vec<u8>]| frames.get(at).map_or("nothing".into(), |frame| shown(frame));
    Some(format!("frame {at}\nRedis: {}\ncrema: {}", show(&want), show(&got)))
}

fn frames(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while !stream.is_empty() {
        let end = Scan::default().end(stream).expect("RESP").unwrap_or(stream.len());
        let (frame, rest) = stream.split_at(end);
        // A line of MONITOR may stand within a frame: a client that monitors itself sees its transaction in EXEC's reply.
        let blot = |line: &[u8]| match line {
            [b'+', b'0'..=b'9', ..] => Differs::Digits.blot(line),
            _ => line.to_vec(),
        };
        frames.push(Differs::Id.blot(frame).split_inclusive(|byte| *byte == b'\n').flat_map(blot).collect());
        stream = rest;
    }
    frames
}
