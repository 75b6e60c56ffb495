//! `SWAPDB`, of which Redis tells nobody, while servers restart and crema's connections are ended, cut and frozen.
//!
//! One key is looked at in database 0. Each state of it is written into database 1 and swapped in, by one of two proxies or past
//! both, between faults. A server that restarts has lost it, which is a state as well. What the readers saw is judged by
//! [`common::judge`]. `CREMA_COHERENCE_SECONDS` sets how long it takes (8 when unset).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::judge::{Log, Order, Read, Rules, Seen, Via, Write, judge, nanos, now};
use common::{AT_LAST, Client, Crema, Link, MAX_STALENESS, Redis, Value, bulk, number_from_env, ok, seeded};
use rand::Rng;

/// What happens between two reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    /// Databases are swapped by this road: a proxy, or past both.
    Swap(usize),
    /// Redis ends all connections of both proxies, or those of the channel.
    Kill,
    KillChannel,
    /// What lies between a proxy and Redis ends all connections.
    Cut(usize),
    /// It carries nothing for a while; what is on its way comes later.
    Freeze(usize),
    /// The same for the connection to the channel alone.
    FreezeChannel(usize),
    /// Redis is killed, and comes back empty.
    Restart,
}

/// What the connection to the channel says of itself.
const CHANNEL: &str = "crema-channel";

const MOVES: [Move; 10] = [
    Move::Swap(0),
    Move::Swap(1),
    Move::Swap(2),
    Move::Kill,
    Move::KillChannel,
    Move::Cut(0),
    Move::Cut(1),
    Move::Freeze(1),
    Move::FreezeChannel(1),
    Move::Restart,
];

#[test]
fn swaps_are_seen_in_time_however_servers_and_connections_fare() {
    show_no_read_that_is_too_old(&[], &MOVES);
}

/// Where Redis does not count them, the proxies tell each other, and nobody may swap past them.
#[test]
fn swaps_that_redis_does_not_count_are_seen_in_time_too() {
    let moves = MOVES.map(|one| if one == Move::Swap(2) { Move::Swap(0) } else { one });
    show_no_read_that_is_too_old(&["--latency-tracking", "no"], &moves);
}

fn show_no_read_that_is_too_old(args: &[&str], moves: &[Move; MOVES.len()]) {
    let seconds = number_from_env("CREMA_COHERENCE_SECONDS").unwrap_or(8);
    let mut redis = Redis::with(args);
    let links = [Link::to(redis.addr()), Link::to(redis.addr())];
    for link in &links {
        link.late(CHANNEL, Duration::ZERO);
    }
    let proxies = links.each_ref().map(|link| Crema::over(link.addr()).start());
    if proxies[0].is_direct() {
        return;
    }
    proxies.iter().for_each(Crema::await_channel);
    let done = AtomicBool::new(false);
    let mut rng = seeded("swaps");
    let (mut logs, mut used) = (Vec::new(), [0; MOVES.len()]);
    std::thread::scope(|scope| {
        let (done, proxies) = (&done, &proxies);
        let readers: Vec<_> = (0..6).map(|n| scope.spawn(move || read_until(done, &proxies[n % 2], n))).collect();
        let mut state = State { log: Log::new(Via::Redis), order: 0 };
        state.loses_all(now());
        let end = now() + nanos(Duration::from_secs(seconds));
        while now() < end || used.contains(&0) {
            // Swaps by far the most.
            let which = if rng.random_bool(0.8) { rng.random_range(0..3) } else { rng.random_range(3..moves.len()) };
            used[which] += 1;
            match moves[which] {
                Move::Swap(road) => state.swap(&redis, proxies, road),
                Move::Kill => drop(redis.client().cmd(&["CLIENT", "KILL", "TYPE", "normal"])),
                Move::KillChannel => drop(redis.client().cmd(&["CLIENT", "KILL", "TYPE", "pubsub"])),
                Move::Cut(which) => links[which].cut(),
                Move::Freeze(which) => {
                    links[which].freeze();
                    let past = moves.contains(&Move::Swap(2)) && rng.random_bool(0.5);
                    state.swap(&redis, proxies, 2 * usize::from(past));
                    std::thread::sleep(Duration::from_millis(rng.random_range(0..900)));
                    links[which].thaw();
                }
                Move::FreezeChannel(which) => {
                    links[which].late(CHANNEL, AT_LAST);
                    std::thread::sleep(Duration::from_millis(rng.random_range(0..300)));
                    state.swap(&redis, proxies, 0);
                    // The next state is written under the same name, of which trackers are told: not before this one had its time.
                    std::thread::sleep(2 * MAX_STALENESS);
                    links[which].late(CHANNEL, Duration::ZERO);
                }
                Move::Restart => {
                    let begun = now();
                    redis.kill();
                    redis.restart();
                    state.loses_all(begun);
                }
            }
            if rng.random_bool(0.7) {
                std::thread::sleep(Duration::from_millis(rng.random_range(0..60)));
            }
        }
        state.swap(&redis, proxies, 0);
        // Readers go on for a while after the last one.
        std::thread::sleep(MAX_STALENESS + Duration::from_millis(300));
        done.store(true, Ordering::Relaxed);
        logs.push(state.log);
        logs.extend(
            readers.into_iter().map(|reader| reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))),
        );
    });
    let verdict = judge(&logs, &["k".to_owned()], Rules { max_staleness: MAX_STALENESS, monotone: false });
    let hits: u64 = proxies.iter().map(|proxy| proxy.outcomes("hit")).sum();
    eprintln!("swaps over {seconds} s: {verdict}, {hits} hits; {used:?} of {moves:?}");
    assert!(verdict.violations.is_empty(), "{verdict}");
    assert!(hits > 100 * seconds, "L1 took no part: {hits} hits");
}

/// The key's, as it is in database 0.
struct State {
    log: Log,
    order: Order,
}

impl State {
    fn becomes(&mut self, becomes: Seen, begun: u64, via: Via) {
        self.order += 1;
        self.log.wrote(Write { key: 0, order: self.order, becomes, begun, acked: now(), via });
    }

    fn loses_all(&mut self, begun: u64) {
        self.becomes(Seen::ABSENT, begun, Via::Redis);
    }

    /// Swaps the next state in. Where that is not acknowledged, finds out whether it was done; if not, does it again.
    fn swap(&mut self, redis: &Redis, proxies: &[Crema; 2], road: usize) {
        let next = format!("state {}", self.order + 1);
        let mut direct = redis.client();
        direct.pipeline(&[&["SELECT", "1"][..], &["SET", "k", &next], &["SELECT", "0"]]);
        let begun = now();
        let (addr, via) = match proxies.get(road) {
            Some(proxy) => (proxy.addr(), Via::Proxy(u8::try_from(road).expect("two"))),
            None => (redis.addr(), Via::Redis),
        };
        loop {
            let swapped = Client::try_connect(addr).and_then(|mut client| client.try_cmd(&["SWAPDB", "0", "1"]));
            if swapped.is_ok_and(|answer| answer == ok()) {
                return self.becomes(Seen::value(&next), begun, via);
            }
            // What a connection that has ended brought may be waiting to be read.
            std::thread::sleep(Duration::from_millis(50));
            if direct.cmd(&["GET", "k"]) == bulk(&next) {
                return self.becomes(Seen::value(&next), begun, Via::Redis);
            }
        }
    }
}

/// Reads through a proxy, on a connection that is made anew whenever it ends.
fn read_until(done: &AtomicBool, proxy: &Crema, n: usize) -> Log {
    let mut log = Log::new(Via::Proxy(u8::try_from(n % 2).expect("two")));
    let mut client = None;
    while !done.load(Ordering::Relaxed) {
        let Some(open) = &mut client else {
            client = Client::try_connect(proxy.addr()).ok();
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        open.patience(AT_LAST);
        let sent = now();
        match open.try_cmd(&["GET", "k"]) {
            Ok(answer) if !answer.is_error() => {
                let seen = if answer == Value::Nil { Seen::ABSENT } else { Seen::value(answer.text()) };
                log.read(Read { key: 0, by: "GET", seen, sent, received: now() });
            }
            _ => client = None,
        }
        if n >= 4 {
            std::thread::sleep(Duration::from_micros(300));
        }
    }
    log
}
