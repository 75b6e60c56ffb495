//! The curve of hit ratio by size of L1: held against L1 itself, and told by a crema that observes.

#![allow(clippy::cast_precision_loss, clippy::float_cmp, reason = "shares, for people; none is exactly none")]

#[path = "curve/replay.rs"]
mod replay;

use std::time::Duration;

use common::{Crema, Redis, Value, eventually, ok, pack, seeded};
use rand::Rng;
use rand_distr::{Distribution, Zipf};
use replay::{PROMOTE, Trace};
use serde_json::Value as Json;

/// By which the curve may be wrong, of all reads: chance is less than that where a few thousand keys are in the sample.
const POINTS: f64 = 0.025;

fn compare(trace: &Trace, floor: u32) {
    let told = trace.simulate(floor);
    let sizes = trace.sizes.iter().zip(told.hits).skip(1).step_by(2);
    for (&size, told) in sizes {
        let real = trace.store(size, PROMOTE);
        assert!((told - real).abs() < POINTS, "{}: {size} bytes answer {real}, not {told}", trace.name);
    }
    assert!(told.memory < 8 << 20, "{} bytes", told.memory);
}

#[test]
fn the_curve_is_that_of_l1_itself() {
    compare(&Trace::zipf(30_000, 0.9, 600_000, (0, 0, 0)), 0);
}

#[test]
fn so_it_is_where_keys_are_written_and_others_are_read_once() {
    compare(&Trace::zipf(30_000, 0.9, 600_000, (10, 10, 0)), 0);
}

#[test]
fn so_it_is_of_one_key_in_four() {
    compare(&Trace::zipf(60_000, 0.8, 600_000, (0, 0, 0)), 2);
}

/// Reads of clients, as they were answered.
fn client_reads(crema: &Crema) -> u64 {
    ["would_hit", "hit", "lead", "joined", "blind", "behind_read", "behind_write"]
        .map(|of| crema.outcomes(of))
        .iter()
        .sum()
}

/// What `/api/advise` says.
fn report(crema: &Crema) -> Json {
    let (status, page) = crema.admin("/api/advise").expect("the admin port answers");
    assert_eq!(status, 200);
    serde_json::from_str(&page).expect("it is JSON")
}

/// The reads that it speaks of, once there are no more.
fn settled(crema: &Crema) -> u64 {
    let told = || {
        let report = report(crema);
        (report["reads"].as_u64().unwrap_or_default(), report["seconds"].clone())
    };
    let mut before = told();
    eventually("all that was read is told of", || {
        let now = told();
        let is_newer = now.1 != before.1;
        let is_settled = is_newer && now.0 == before.0;
        if is_newer {
            before = now;
        }
        is_settled
    });
    before.0
}

/// The part of reads that the present size would answer.
fn told(crema: &Crema) -> f64 {
    let report = report(crema);
    let sizes = report["sizes"].as_array().expect("a list");
    let present = sizes.iter().find(|size| size["present"] == true).expect("one is");
    present["hit_ratio"].as_f64().expect("a number")
}

fn lines(crema: &Crema) -> Vec<String> {
    match crema.client().cmd(&["CREMA", "ADVISE"]) {
        Value::Array(lines) => lines.iter().map(Value::text).collect(),
        other => panic!("{other:?}"),
    }
}

/// Reads of pages by Zipf's law, one behind the other, and of sessions, each of which is written before; a few at a time, slowly.
fn drive(crema: &Crema, rounds: usize) {
    const PAGES: u32 = 300;
    let (mut client, mut rng) = (crema.client(), seeded("curve"));
    let zipf = Zipf::new(f64::from(PAGES), 0.9).expect("a law that there is");
    for _ in 0..rounds {
        let page = |rng: &mut rand::rngs::SmallRng| format!("page:{}", zipf.sample(rng));
        for _ in 0..40 {
            client.cmd(&["GET", &page(&mut rng)]);
        }
        for _ in 0..10 {
            let session = format!("session:{}", rng.random_range(0..20));
            client.send(&[pack(&["SET", &session, "v"]), pack(&["GET", "page:1"])].concat());
            assert_eq!(client.value(), ok());
            client.value();
            client.cmd(&["GET", &session]);
        }
        std::thread::sleep(Duration::from_millis(20)); // a load, not a wait: too many at once would not all be looked at
    }
}

#[test]
fn who_observes_is_told_what_memory_would_answer() {
    let redis = Redis::start();
    let mut direct = redis.client();
    for page in 1..=300 {
        direct.cmd(&["SET", &format!("page:{page}"), &"v".repeat(500)]);
    }
    let launch = Crema::over(redis.addr()).flag("--mode", "observe").flag("--promote", 10).flag("--show-keys", true);
    let crema = launch.flag("--admin-users", "default").flag("--l1-size", "64MiB").start();
    if crema.is_direct() {
        return;
    }
    assert!(lines(&crema)[0].starts_with("needs traffic"), "{:?}", lines(&crema));
    drive(&crema, 120);
    eventually("there is enough to say something", || report(&crema)["waits_for"].is_null());
    let reads = settled(&crema);
    let lookups = |crema: &Crema| {
        let of = |outcomes: &[&str]| outcomes.iter().map(|outcome| crema.outcomes(outcome)).sum::<u64>() as f64;
        let missed = of(&["lead", "joined", "blind", "behind_read", "behind_write"]);
        (of(&["would_hit"]), of(&["hit"]), missed)
    };
    let (would, hits, missed) = lookups(&crema);
    assert_eq!(hits, 0.0);
    let (ratio, curve) = (would / (would + missed), told(&crema));
    // Both count from the beginning, when nothing was in memory; or, where that took so long that it is forgotten, the curve does not.
    let whole = reads as f64 == would + missed;
    assert!(curve > ratio - 0.06 && (curve < ratio + 0.06 || !whole), "observed {ratio}, the curve says {curve}");
    let all = lines(&crema).join("\n");
    assert!(all.contains("CREMA MODE cache switches it on."), "{all}");
    assert!(all.contains("[[rule]] match = \"session:*\", promote = \"never\"."), "{all}");
    assert!(all.contains("promote 1 instead of 10 gains ") || all.contains("promote 2 instead of 10 gains "), "{all}");
    assert!(!report(&crema).to_string().contains("session"), "names are for admins");

    assert_eq!(crema.client().cmd(&["CREMA", "MODE", "cache"]), ok());
    drive(&crema, 60);
    let (_, hits, later) = lookups(&crema);
    let real = hits / (hits + later - missed);
    // What it says by now is of all since the beginning as well.
    assert!(real > curve - 0.03, "memory answers {real}, the curve said {curve}");
    eventually("it says so", || lines(&crema)[0].starts_with("L1 answers "));
}

/// A write that comes by no crema is heard of on the ear, for the sample's keys are read there.
#[test]
fn what_others_write_is_known_of_keys_that_memory_does_not_hold() {
    let redis = Redis::start();
    // Nothing is ever promoted, so all that is known is known for the sample's sake.
    let crema = Crema::over(redis.addr())
        .flag("--promote", 0)
        .flag("--mode", "observe")
        .flag("--admin-users", "default")
        .start();
    if crema.is_direct() {
        return;
    }
    let (mut client, mut direct) = (crema.client(), redis.client());
    let of_one = |crema: &Crema| {
        let report = report(crema);
        let promotions = report["promotions"].as_array().cloned().unwrap_or_default();
        let one = promotions.iter().find(|promotion| promotion["promote"] == 1).cloned();
        one.and_then(|one| one["hit_ratio"].as_f64()).unwrap_or_default()
    };
    eventually("reads are looked at", || {
        client.cmd(&["GET", "read:k"]);
        crema.count("crema_curve_reads_total", &[]) > 0
    });
    eventually("with another promotion they would be answered", || {
        (0..50).for_each(|_| drop(client.cmd(&["GET", "read:k"])));
        of_one(&crema) > 0.9
    });
    let fills = || crema.count("crema_curve_fills_total", &[]);
    let before = fills();
    eventually("each time it is read anew, for it has changed", || {
        direct.cmd(&["SET", "read:k", "v"]);
        (0..10).for_each(|_| drop(client.cmd(&["GET", "read:k"])));
        fills() > before + 5
    });
    assert_eq!(told(&crema), 0.0, "as it is");
    // What is read for the sample is no fill of memory and no read of a client.
    let filled = |outcome: &str| crema.count("crema_fills_total", &[("outcome", outcome)]);
    assert_eq!(["stored", "retried", "doomed", "expired", "refused"].map(filled), [0; 5]);
    let (calls, asked) = (redis.calls("get"), client_reads(&crema));
    assert!(calls > asked, "Redis counts the sample's {calls} reads as well as the {asked} of clients");
    assert_eq!(crema.client().cmd(&["CREMA", "MODE", "pass"]), ok());
    eventually("there is nothing to compare", || report(&crema)["waits_for"] == "another mode than pass");
}

#[test]
fn only_admins_are_told() {
    let redis = Redis::start();
    let crema = Crema::over(redis.addr()).flag("--admin-users", "ops").start();
    if crema.is_direct() {
        return;
    }
    assert!(crema.client().cmd(&["CREMA", "ADVISE"]).is_error());
}
