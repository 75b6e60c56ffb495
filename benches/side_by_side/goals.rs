//! What crema wants to be, and what a run says of it.

use super::latency::Latencies;
use super::load::{Ask, Load};
use super::queue::{self, Jobs, Rate};
use super::speed::{HITS, MISSES, PROMOTING, Row, TENTH, median};

/// A goal, the figure of this run, and whether it is met. Nothing is judged that was not measured.
pub(crate) struct Goal {
    pub(crate) text: String,
    pub(crate) limit: f64,
    pub(crate) figure: f64,
}

/// All goals that the rows speak of.
pub(crate) fn judge(rows: &[Row], latencies: Option<&Latencies>, jobs: &[Jobs]) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut add = |text: String, limit: f64, figure: Option<f64>| {
        if let Some(figure) = figure {
            goals.push(Goal { text, limit, figure });
        }
    };
    for (depth, limit) in [(1, 0.97), (16, 0.75), (64, 0.70)] {
        let row = find(rows, Ask::Get, depth);
        add(format!("hit by Redis's own GET, P={depth}"), limit, row.and_then(|row| row.ratio(HITS, "Redis")));
    }
    let faster = find(rows, Ask::Get, 64).and_then(|row| {
        let rate = |peer| row.cell(peer).map(|cell| median(&cell.rate));
        Some(rate("Redis")? / rate(HITS)?)
    });
    add("Redis's throughput by that of hits, P=64".into(), 1.0, faster);
    for ask in [Ask::GetAny, Ask::Set] {
        for (depth, limit) in [(1, 0.92), (16, 1.3), (64, 1.6)] {
            let row = find(rows, ask, depth);
            let what = if ask == Ask::Set { "SET" } else { "missed GET" };
            add(format!("{what} by Redis's own, P={depth}"), limit, row.and_then(|row| row.ratio(MISSES, "Redis")));
        }
        let together = find(rows, ask, 1).and_then(|row| {
            let (crema, redis) = (row.cell(MISSES)?, row.cell("Redis")?);
            let sum = crema.own.iter().zip(&crema.behind).map(|(own, behind)| own + behind);
            Some(median(&sum.zip(&redis.own).map(|(sum, redis)| sum / redis).collect::<Vec<_>>()))
        });
        let what = if ask == Ask::Set { "SET" } else { "missed GET" };
        add(format!("{what}, crema and Redis together by Redis alone, P=1"), 1.15, together);
    }
    for ask in [Ask::Get, Ask::Set] {
        for depth in [1, 16, 64] {
            let row = find(rows, ask, depth);
            let what = if ask == Ask::Set { "SET" } else { "missed GET" };
            add(format!("{what} by twemproxy's, P={depth}"), 0.7, row.and_then(|row| row.ratio(MISSES, "twemproxy")));
        }
    }
    for depth in [1, 16, 64] {
        let row = find(rows, Ask::GetAny, depth);
        add(format!("promote 10 by promote 0, P={depth}"), 1.1, row.and_then(|row| row.ratio(PROMOTING, MISSES)));
    }
    add("pipelines of 16 with 90 % hits by their parts".into(), 1.3, mixed(rows));
    let spared = find(rows, Ask::Zipf(0.9, 0), 16).and_then(|row| {
        let behind = |peer| row.cell(peer).map(|cell| median(&cell.behind));
        Some(behind(TENTH)? / behind(MISSES)?)
    });
    add("Zipf 0.9, L1 of 10 %: Redis's CPU by that with promote 0".into(), 0.5, spared);
    let direct = |load: Load, figure: fn(&super::speed::Cell) -> f64| {
        let row = rows.iter().find(|row| row.load == load)?;
        Some(figure(row.cell(HITS)?) / figure(row.cell("Redis")?))
    };
    let alone = Load { clients: 1, ..Load::new(Ask::EvalSha, 1) };
    add("EVALSHA, latency by direct".into(), 2.0, direct(alone, |cell| median(&cell.latency[0])));
    let queue = Load { clients: 10, ..Load::new(Ask::Queue, 1) };
    add("job queue, time by direct".into(), 1.25, direct(queue, |cell| 1.0 / median(&cell.rate)));
    let rates: [(_, Rate); 3] =
        [("added", |jobs| &jobs.added), ("of 5 ms done", |jobs| &jobs.longer), ("of no time done", |jobs| &jobs.done)];
    for (what, rate) in rates {
        add(format!("BullMQ, jobs {what}, time by direct"), 1.25, queue::by_direct(jobs, rate));
    }
    if let Some(latencies) = latencies {
        add("p99.9 of hits at half of saturation by Redis's".into(), 1.2, Some(latencies.tail()));
        add("p99 of hits under 50,000 invalidations a second by without".into(), 2.0, Some(latencies.storm()));
    }
    goals
}

fn find(rows: &[Row], ask: Ask, depth: usize) -> Option<&Row> {
    rows.iter().find(|row| row.load == Load::new(ask, depth))
}

/// What a pipeline of hits and misses costs by what its hits and its misses would cost alone.
fn mixed(rows: &[Row]) -> Option<f64> {
    let pure = find(rows, Ask::Get, 16)?;
    let own = |row: &Row, peer| row.cell(peer).map(|cell| median(&cell.own));
    let parts = 0.9 * own(pure, HITS)? + 0.1 * own(pure, MISSES)?;
    Some(own(find(rows, Ask::Mix, 16)?, HITS)? / parts)
}
