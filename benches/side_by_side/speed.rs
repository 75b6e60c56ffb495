//! Processor time a request, throughput and latency of every peer under every load, in rounds that go from peer to peer.
//!
//! A machine is never the same for two minutes. Each round therefore asks all peers the same thing one after the other, and
//! what is compared are ratios within a round.

use std::path::Path;
use std::time::Duration;

use super::cpu::Cores;
use super::load::{Ask, LARGE, Load, closed};
use super::peers::Peer;

/// What one peer did under one load, a figure a round.
pub(crate) struct Cell {
    pub(crate) peer: &'static str,
    /// Microseconds of processor time a request: its own, and of the Redis behind it.
    pub(crate) own: Vec<f64>,
    pub(crate) behind: Vec<f64>,
    /// Requests a second.
    pub(crate) rate: Vec<f64>,
    /// Microseconds until a pipeline is answered: half, 99 % and 99.9 % of them.
    pub(crate) latency: [Vec<f64>; 3],
}

/// One load, and the peers that it was put on.
pub(crate) struct Row {
    pub(crate) load: Load,
    pub(crate) cells: Vec<Cell>,
}

impl Row {
    pub(crate) fn cell(&self, peer: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.peer == peer)
    }

    /// The middle, over the rounds, of what `peer` spends by what `other` spends.
    pub(crate) fn ratio(&self, peer: &str, other: &str) -> Option<f64> {
        let (peer, other) = (self.cell(peer)?, self.cell(other)?);
        Some(median(&peer.own.iter().zip(&other.own).map(|(a, b)| a / b).collect::<Vec<_>>()))
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    if sorted.is_empty() { f64::NAN } else { f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]) }
}

/// All peers of a run.
pub(crate) struct Field {
    pub(crate) redis: Peer,
    valkey: Option<Peer>,
    floor: Peer,
    twemproxy: Option<Peer>,
    pub(crate) haproxy: Option<Peer>,
    pub(crate) hits: Peer,
    pub(crate) misses: Peer,
    promoting: Peer,
    two: Peer,
    tenth: Peer,
    nothing: Peer,
    before: Option<[Peer; 2]>,
}

/// The names under which crema runs.
pub(crate) const HITS: &str = "crema";
pub(crate) const MISSES: &str = "crema, promote 0";
pub(crate) const PROMOTING: &str = "crema, promote 10";
pub(crate) const TWO: &str = "crema, 2 workers";
/// An L1 that holds a tenth of all keys, promoting every key that is read.
pub(crate) const TENTH: &str = "crema, L1 of 10 %";

impl Field {
    /// Starts all; `before` is another build of crema, to be put beside this one.
    pub(crate) fn start(before: Option<&Path>) -> Self {
        let redis = Peer::redis("Redis", "redis-server".as_ref());
        super::load::seed(&redis);
        let valkey = Peer::valkey();
        valkey.iter().for_each(super::load::seed);
        Self {
            valkey,
            floor: Peer::floor(),
            twemproxy: Peer::twemproxy(&redis),
            haproxy: Peer::haproxy(&redis),
            hits: Peer::crema(HITS, &redis, &["--promote", "1"]),
            misses: Peer::crema(MISSES, &redis, &["--promote", "0"]),
            // So small a memory that what is promoted is gone before it is asked for again: the cost of promoting alone.
            promoting: Peer::crema(PROMOTING, &redis, &["--promote", "10", "--l1-size", "1MiB"]),
            two: Peer::crema(TWO, &redis, &["--promote", "1", "--threads", "2"]),
            tenth: Peer::crema(TENTH, &redis, &["--promote", "10", "--l1-size", "64MiB"]),
            nothing: Peer::crema("crema, no L1", &redis, &["--promote", "0", "--l1-size", "0"]),
            before: before.map(|program| {
                let peer = |name, promote| Peer::other_crema(name, program, &redis, &["--promote", promote]);
                [peer("crema before", "1"), peer("crema before, promote 0", "0")]
            }),
            redis,
        }
    }

    /// Who is put under this load, Redis first.
    fn peers(&self, load: &Load) -> Vec<&Peer> {
        let others: Vec<Option<&Peer>> = match load.ask {
            Ask::Get if load.value == LARGE => vec![Some(&self.hits), Some(&self.misses), self.twemproxy.as_ref()],
            Ask::Get => vec![
                Some(&self.hits),
                Some(&self.misses),
                Some(&self.two),
                self.twemproxy.as_ref(),
                self.haproxy.as_ref(),
                self.valkey.as_ref(),
                Some(&self.floor),
            ],
            Ask::GetAny | Ask::GetOf(_) => vec![Some(&self.misses), Some(&self.promoting), Some(&self.nothing)],
            Ask::Set | Ask::SetOf(_) => {
                vec![Some(&self.misses), self.twemproxy.as_ref(), self.haproxy.as_ref(), self.valkey.as_ref()]
            }
            Ask::Zipf(..) => vec![Some(&self.tenth), Some(&self.misses)],
            Ask::Mix | Ask::XRange | Ask::Tail(_) | Ask::HGetAll | Ask::MGet => {
                vec![Some(&self.hits), Some(&self.misses)]
            }
            Ask::EvalSha | Ask::Queue | Ask::Among(_) => vec![Some(&self.hits), self.haproxy.as_ref()],
            Ask::Below | Ask::Gone => vec![Some(&self.misses)],
        };
        // Nobody's memory is filled with keys that its counterpart was never asked for.
        let before = match (&self.before, load.ask) {
            (None, _) | (Some(_), Ask::Zipf(..)) => &[][..],
            (Some([_, misses]), Ask::GetAny | Ask::GetOf(_)) => std::slice::from_ref(misses),
            (Some(both), _) => &both[..],
        };
        std::iter::once(&self.redis).chain(others.into_iter().flatten()).chain(before).collect()
    }

    /// Puts one load on its peers, in `rounds` of `span` each.
    pub(crate) fn measure(&self, load: &Load, rounds: usize, span: Duration) -> Row {
        measure(&self.peers(load), &self.redis, load, rounds, span)
    }
}

/// Puts one load on `peers`, in `rounds` of `span` each, after a while to warm up.
pub(crate) fn measure(peers: &[&Peer], redis: &Peer, load: &Load, rounds: usize, span: Duration) -> Row {
    let warm = Load { depth: 16, clients: 8, ..*load };
    for peer in peers {
        // What a script costs depends on whether there is anything in L1 that it may have changed.
        if matches!(load.ask, Ask::EvalSha | Ask::Queue) {
            closed(peer, redis, &Load { ask: Ask::Get, ..warm }, span.min(Duration::from_millis(100)), || {});
        }
        // An L1 that takes a key in at one read in ten needs many reads before it holds what it will hold.
        let zipf = matches!(load.ask, Ask::Zipf(..)) && peer.name == TENTH;
        closed(peer, redis, &warm, if zipf { span * 40 } else { span.min(Duration::from_millis(500)) }, || {});
    }
    let none = || Vec::with_capacity(rounds);
    let cell = |peer: &&Peer| Cell {
        peer: peer.name,
        own: none(),
        behind: none(),
        rate: none(),
        latency: [none(), none(), none()],
    };
    let mut cells: Vec<Cell> = peers.iter().map(cell).collect();
    for round in 0..rounds {
        for turn in 0..peers.len() {
            // Who comes first changes, so that nobody always follows the same other.
            let at = (turn + round) % peers.len();
            let (peer, cell) = (peers[at], &mut cells[at]);
            redis.place(Cores::Others);
            peer.place(if peer.spread { Cores::All } else { Cores::First });
            let mut before = (Duration::ZERO, Duration::ZERO);
            let run = closed(peer, redis, load, span, || before = (peer.spent(), redis.spent()));
            let each = |spent: Duration| spent.as_secs_f64() * 1e6 / run.requests as f64;
            cell.own.push(each(peer.spent().saturating_sub(before.0)));
            cell.behind.push(if peer.proxy { each(redis.spent().saturating_sub(before.1)) } else { 0.0 });
            cell.rate.push(run.rate());
            for (figures, share) in cell.latency.iter_mut().zip([0.5, 0.99, 0.999]) {
                figures.push(run.percentile(share));
            }
        }
    }
    redis.place(Cores::All);
    Row { load: *load, cells }
}

/// The loads of a run.
pub(crate) fn loads(quick: bool) -> Vec<Load> {
    let at = |ask: Ask, depths: &[usize]| depths.iter().map(|&depth| Load::new(ask, depth)).collect::<Vec<_>>();
    let mut loads = at(Ask::Get, &[1, 16, 64]);
    loads.extend(at(Ask::GetAny, &[1, 16, 64]));
    loads.extend(at(Ask::Set, &[1, 16, 64]));
    loads.extend(at(Ask::Mix, &[16]));
    loads.extend([Ask::Zipf(0.9, 0), Ask::Zipf(0.9, 10)].map(|ask| Load::new(ask, 16)));
    loads.extend([Load { clients: 1, ..Load::new(Ask::EvalSha, 1) }, Load { clients: 10, ..Load::new(Ask::Queue, 1) }]);
    loads.extend([10, 2].map(|one_in| Load::new(Ask::Among(one_in), 1)));
    if quick {
        for ask in [Ask::XRange, Ask::MGet, Ask::HGetAll] {
            loads.extend(at(ask, &[16]));
        }
        return loads;
    }
    for ask in [Ask::XRange, Ask::MGet, Ask::HGetAll, Ask::EvalSha] {
        loads.extend(at(ask, &[1, 16, 64]));
    }
    loads.extend(at(Ask::Zipf(0.9, 0), &[1, 64]));
    for depth in [1, 16, 64] {
        for ask in [Ask::Get, Ask::Set] {
            loads.push(Load { clients: 500, ..Load::new(ask, depth) });
            loads.push(Load { value: LARGE, ..Load::new(ask, depth) });
        }
    }
    loads
}
