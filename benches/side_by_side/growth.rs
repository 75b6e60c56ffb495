//! How cost grows: with connections, with keys in L1, with workers, and with the number of proxies on one Redis.

use std::time::Duration;

use super::load::{Ask, KEYS, Load, closed};
use super::peers::Peer;
use super::speed::{Field, Row, measure, median};

/// What is measured at several sizes: a figure for each column at each.
pub(crate) struct Curve {
    pub(crate) title: &'static str,
    pub(crate) size: &'static str,
    pub(crate) columns: Vec<&'static str>,
    pub(crate) points: Vec<(u32, Vec<f64>)>,
}

pub(crate) fn curves(field: &Field, quick: bool, span: Duration) -> Vec<Curve> {
    vec![connections(field, quick, span), keys(field, quick, span), workers(field, quick, span), proxies(field, quick)]
}

fn own(row: &Row) -> Vec<f64> {
    row.cells.iter().map(|cell| median(&cell.own)).collect()
}

fn connections(field: &Field, quick: bool, span: Duration) -> Curve {
    let sizes: &[u32] = if quick { &[10, 1000] } else { &[10, 100, 1000, 10_000] };
    let at = |&clients: &u32| {
        let load = Load { clients: clients as usize, ..Load::new(Ask::Get, 1) };
        (clients, own(&measure(&[&field.redis, &field.hits, &field.misses], &field.redis, &load, 2, span)))
    };
    let columns = vec!["Redis", "crema, hit", "crema, miss"];
    let points = sizes.iter().map(at).collect();
    Curve { title: "CPU a GET by connections, P=1, µs", size: "connections", columns, points }
}

fn keys(field: &Field, quick: bool, span: Duration) -> Curve {
    let sizes: &[u32] = if quick { &[1000, 100_000] } else { &[1000, 10_000, 100_000, KEYS] };
    let crema = Peer::crema("crema", &field.redis, &["--promote", "1", "--l1-size", "2GiB"]);
    let at = |&keys: &u32| {
        let load = Load::new(Ask::GetOf(keys), 16);
        // Until nearly every key has been read, and so promoted.
        closed(&crema, &field.redis, &load, Duration::from_secs(1 + u64::from(keys / 20_000)), || {});
        (keys, own(&measure(&[&field.redis, &crema], &field.redis, &load, 3, span)))
    };
    let points = sizes.iter().map(at).collect();
    Curve { title: "CPU a GET by keys, P=16, µs", size: "keys", columns: vec!["Redis", "crema, hit"], points }
}

fn workers(field: &Field, quick: bool, span: Duration) -> Curve {
    let sizes: &[u32] = if quick { &[1, 4] } else { &[1, 2, 4, 8, 16] };
    let at = |&workers: &u32| {
        let crema = Peer::crema("crema", &field.redis, &["--promote", "1", "--threads", &workers.to_string()]);
        let hit = measure(&[&field.redis, &crema], &field.redis, &Load::new(Ask::Get, 16), 3, span);
        let rate = hit.cell("crema").map_or(f64::NAN, |cell| median(&cell.rate));
        (workers, vec![own(&hit)[1], rate / 1000.0])
    };
    let points = sizes.iter().map(at).collect();
    Curve { title: "hits by workers, P=16", size: "workers", columns: vec!["CPU, µs", "1,000 hits a second"], points }
}

/// Keys that every proxy has, and that are then written.
const SHARED: u32 = 1000;

fn proxies(field: &Field, quick: bool) -> Curve {
    let sizes: &[u32] = if quick { &[1, 8] } else { &[1, 4, 16, 64] };
    let mut cremas: Vec<Peer> = Vec::new();
    let at = |&count: &u32| {
        while cremas.len() < count as usize {
            cremas.push(Peer::crema("crema", &field.redis, &["--promote", "1"]));
        }
        let read = Load { clients: 1, ..Load::new(Ask::GetOf(SHARED), 64) };
        // One pipeline that writes each key once: the second of two finds no key that anyone has.
        let write = Load { clients: 1, ..Load::new(Ask::SetOf(SHARED), SHARED as usize) };
        let cost = || {
            let mut before = Duration::ZERO;
            let run = closed(&field.redis, &field.redis, &write, Duration::ZERO, || before = field.redis.spent());
            field.redis.spent().saturating_sub(before).as_secs_f64() * 1e6 / run.requests as f64
        };
        let mut figures = Vec::new();
        for _ in 0..7 {
            for crema in &cremas {
                closed(crema, &field.redis, &read, Duration::from_millis(100), || {});
            }
            let tracked = cost();
            figures.push([cost(), tracked]);
        }
        let column = |at: usize| median(&figures.iter().map(|figure| figure[at]).collect::<Vec<_>>());
        (count, vec![column(0), column(1), (column(1) - column(0)) / f64::from(count)])
    };
    let points = sizes.iter().map(at).collect();
    let columns = vec!["a write of keys that none has, µs", "that all have, µs", "an invalidation, µs"];
    Curve { title: "Redis's CPU by proxies", size: "proxies", columns, points }
}
