//! A long differential fuzz: two equal servers, one asked directly and one through crema, and every reply compared.
//!
//! `CREMA_FUZZ_SECONDS` says for how long (60 unless told; `make fuzz SECONDS=600`), or `CREMA_FUZZ_REPLIES` for how many replies
//! (`make long`), `CREMA_SEED` which episode comes first.
//!
//! An episode is a script for several sessions ([`script`]) in words of [`grammar`] and tests/transparency. In turn: sessions
//! that act one at a time and may do anything; as many at once, each in databases of its own; as many at once in one
//! database, each with keys of its own and all with keys that are only read. What cannot be equal, ids and times and the
//! order of hash tables, is blotted out by position. The servers are now Redis, now Valkey, and crema hears of changes now by
//! tracking, now by broadcast ([`stage::Setting`]); some sessions are users with few rights; and where sessions act one at a time
//! another writes past crema. A difference ends the run; where it happens again it is shrunk.

#[path = "fuzz/grammar.rs"]
mod grammar;
#[path = "fuzz/script.rs"]
mod script;
#[path = "transparency/shapes.rs"]
mod shapes;
#[path = "fuzz/shrink.rs"]
mod shrink;
#[path = "fuzz/stage.rs"]
mod stage;

use std::time::{Duration, Instant};

use common::number_from_env;
use grammar::Realm;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use script::{Act, Author, Plan, Reach, Script, Turn};
use stage::{Difference, Setting, Stage};

/// Sessions that act at once.
const AT_ONCE: u32 = 8;

#[test]
fn no_reply_differs() {
    let time = Duration::from_secs(number_from_env("CREMA_FUZZ_SECONDS").unwrap_or(60));
    let enough = number_from_env("CREMA_FUZZ_REPLIES");
    let first = number_from_env("CREMA_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let (mut setting, author) = (Setting::of(first), Author::new());
    let mut stage = Stage::new(setting);
    let long = enough.map_or_else(|| format!("for {time:?}"), |enough| format!("until {enough} replies"));
    eprintln!("fuzz: CREMA_SEED={first}, {} shapes of commands, {long}", author.vocabulary());
    let (started, mut told) = (Instant::now(), Instant::now());
    let (mut replies, mut episodes, mut hits) = ([0; 3], 0, 0);
    while enough.map_or(started.elapsed() < time, |enough| replies.iter().sum::<u64>() < enough) {
        let seed = first.wrapping_add(episodes);
        if Setting::of(seed) != setting {
            setting = Setting::of(seed);
            hits += stage.hits();
            stage = Stage::new(setting);
        }
        let mut rng = SmallRng::seed_from_u64(seed);
        let kind = usize::try_from(seed % 4).expect("small").saturating_sub(1);
        replies[kind] += match kind {
            0 => one_at_a_time(&stage, &author, seed, &mut rng),
            1 => all_at_once(&stage, &author, seed, &mut rng, Reach::Databases),
            _ => all_at_once(&stage, &author, seed, &mut rng, Reach::Keys),
        };
        episodes += 1;
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            eprintln!("fuzz: {episodes} episodes, {replies:?} replies after {:?}", started.elapsed());
        }
    }
    let all: u64 = replies.iter().sum();
    eprintln!(
        "fuzz: {all} replies compared, 0 different; {} one at a time, {} in databases of their own, {} with keys of their own",
        replies[0], replies[1], replies[2]
    );
    if !stage.crema.is_direct() {
        hits += stage.hits();
        eprintln!("fuzz: {hits} answered by L1");
        // Where the channel carries coherence, each script has all be forgotten.
        let least = if std::env::var_os("CREMA_TEST_COHERENCE").is_some() { all / 200 } else { all / 50 };
        assert!(hits > least, "L1 took little part: {hits} hits of {all} replies");
    }
}

/// Six who speak, two who listen and two who look, in turns.
fn one_at_a_time(stage: &Stage, author: &Author, seed: u64, rng: &mut SmallRng) -> u64 {
    let realm = Realm { prefix: String::new(), databases: vec![0, 9], channels: "news".into(), commons: None };
    let plan = Plan { realm, speakers: 6, listeners: 2, readers: 2, turns: 60, reach: Reach::Server };
    let script = author.draw(&plan, rng);
    stage.clear();
    stage.run(&script, seed).unwrap_or_else(|difference| report(stage, &script, seed, &difference))
}

fn all_at_once(stage: &Stage, author: &Author, seed: u64, rng: &mut SmallRng, reach: Reach) -> u64 {
    let realms = (0..AT_ONCE).map(|n| match reach {
        Reach::Keys => Realm {
            prefix: format!("{n}:"),
            databases: vec![0],
            channels: format!("{n}:news"),
            commons: Some("common:"),
        },
        _ => Realm {
            prefix: String::new(),
            databases: vec![2 * n, 2 * n + 1],
            channels: format!("{n}:news"),
            commons: None,
        },
    });
    let mut scripts: Vec<Script> = realms
        .map(|realm| {
            let plan = Plan { realm, speakers: 2, listeners: 1, readers: 1, turns: rng.random_range(10..30), reach };
            author.draw(&plan, rng)
        })
        .collect();
    stage.clear();
    if reach == Reach::Keys {
        let realm = Realm { prefix: "common:".into(), databases: vec![0], channels: "none".into(), commons: None };
        let plan = Plan { realm, speakers: 1, listeners: 0, readers: 1, turns: 12, reach };
        let script = author.draw(&plan, rng);
        stage.run(&script, seed).unwrap_or_else(|difference| report(stage, &script, seed, &difference));
        stage.settle("common:");
        // What nobody has in memory all ask for at once, and in the same order.
        let herd = Turn { who: 0, act: Act::Say(author.look_at_all(&plan.realm, rng)) };
        for script in &mut scripts {
            script.turns.insert(0, herd.clone());
        }
    }
    let results: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = scripts.iter().map(|script| scope.spawn(move || stage.run(script, seed))).collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let judged = scripts.iter().zip(results);
    judged.map(|(script, result)| result.unwrap_or_else(|difference| report(stage, script, seed, &difference))).sum()
}

/// Tells what led to a difference, in as few words as it happens again with; if it does not, all that went before.
fn report(stage: &Stage, script: &Script, seed: u64, difference: &Difference) -> ! {
    eprintln!("a difference in episode CREMA_SEED={seed}, {difference}\nshrinking");
    if let Some(shrunk) = shrink::shrink(stage, script, seed) {
        panic!("CREMA_SEED={seed}, {}\nafter\n{}", shrunk.difference, shrunk.script);
    }
    let mut script = script.clone();
    script.turns.truncate(difference.turn + 1);
    panic!("CREMA_SEED={seed}, and not again by itself: {difference}\nafter\n{script}");
}
