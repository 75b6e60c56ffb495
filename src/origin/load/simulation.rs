//! Loads of several processes against a model of Redis, by schedules that a seed decides: replies are late or lost, what was sent arrives
//! after its process has given it up, processes die or give their load up, writes come between, and who waits for another's load is told of
//! its end, or is not. Each answer is judged, and when it came, and how many load at once; and faults that are planted in the model
//! must be found, or the judge sees nothing. Long, for the model, its judge and the faults are one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const LOAD_TIMEOUT: u64 = 200;
const PROCESSES: usize = 3;
const SEEDS: u64 = 3_000;
/// Who is told that a load is over has looked after so long: on the way are a question, its answer or a push, and a rest.
const PROMPT: u64 = 45;

/// What may be wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// A loader writes without looking for its token.
    StoresBlindly,
    /// A write leaves the token of a load under way.
    WriteLeavesToken,
    /// A write leaves the stale copy.
    WriteLeavesStale,
    /// Who joins behind a step has part in its answer.
    JoinsLate,
    /// A token has no end.
    TokenWithoutEnd,
    /// All attempts of a load have one token.
    OneToken,
    /// Who joined a load ahead that was needless is told that there is nothing.
    NeedlessIsNothing,
    /// Who awaits a change is told of later ones alone: nobody looks whether it has come already.
    AwaitsBlindly,
    /// He is told of the key, and not of the token.
    TokenUntold,
    /// He waits until he is told.
    AwaitsUntilTold,
    /// Nobody knows when another's token ends.
    EndUntold,
    /// A load that is given up leaves its token.
    LeavesToken,
    /// It takes away whatever token there is.
    ReleasesBlindly,
}

/// What a value is as new as: the number of the last write before it.
type Rank = u32;

/// Redis, with one key.
#[derive(Default)]
struct Model {
    value: Option<Rank>,
    token: Option<(String, u64)>,
    /// The token is the mark of a missing value, as new as this.
    negative: Option<Rank>,
    stale: Option<Rank>,
    written: Rank,
    /// Who is told of the next change: of which process, and for which of its rests.
    told: Vec<(usize, u64)>,
    /// Who took the token last and has not ended: until when it is his alone, and what had been written by then.
    loading: Option<(usize, u64, Rank)>,
}

impl Model {
    /// A token lives until its end.
    fn forget_ended(&mut self, now: u64) {
        if self.token.as_ref().is_some_and(|(_, end)| *end <= now) {
            (self.token, self.negative) = (None, None);
        }
    }

    /// `at` has taken the token. An error where another has it.
    fn takes(&mut self, at: usize, (token, end): (String, u64), now: u64) -> Result<(), String> {
        let another =
            self.loading.filter(|(loader, end, written)| *loader != at && *end > now && *written == self.written);
        (self.token, self.loading) = (Some((token, end)), Some((at, end, self.written)));
        another.map_or(Ok(()), |(loader, ..)| Err(format!("{at} loads while {loader} does")))
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Client(usize),
    Write(bool),
    Expiry,
    Death(usize),
    /// A process gives up what it loads, and ends.
    GivesUp(usize),
    /// The question of who awaits a change comes to Redis.
    Await(usize, u64),
    /// A script comes to Redis.
    Script(usize, u64, Sent, String, String),
    /// What came of a step comes back.
    Back(usize, u64, Came),
}

/// A script, in what can be ordered; values are ranks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sent {
    Take,
    Look,
    Store(Rank),
    Miss(Rank),
    Fail,
    TakeAhead,
    /// The value, in place of this.
    Replace(Rank, Rank),
    Release,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Came {
    Permit,
    Found(Rank),
    Negative(Rank),
    /// For so long.
    Held(u64),
    Free,
    Taken(Rank),
    Early,
    Proven(Option<Rank>),
    Overtaken,
    Lost,
    /// 0: a value; 1: none; 2: an error. As new as the rank.
    Fetched(u8, Rank),
    /// The rest with this number is over.
    Rested(u64),
}

struct Running {
    load: Load,
    id: u64,
    joined: Vec<Rank>,
    /// What the last answer of the origin or of a mark is as new as.
    rank: Rank,
    is_ahead: bool,
    may_hold: bool,
    rest: Option<Resting>,
}

/// A load that waits.
struct Resting {
    number: u64,
    /// It does not look before.
    least: u64,
    /// And should have looked by then.
    due: u64,
    /// Its ear is lost.
    is_deaf: bool,
}

#[derive(Default)]
struct Process {
    running: Option<Running>,
    /// Who has joined and was not taken in: what each has seen.
    waiting: Vec<Rank>,
    dead: bool,
}

struct World {
    dice: StdRng,
    fault: Fault,
    now: u64,
    redis: Model,
    processes: Vec<Process>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    lost: u32,
    answered: u32,
    /// Loads ahead that somebody has joined.
    joined_ahead: u32,
}

impl World {
    fn new(seed: u64, fault: Fault) -> Self {
        let mut world = Self {
            dice: StdRng::seed_from_u64(seed),
            fault,
            now: 0,
            redis: Model::default(),
            processes: (0..PROCESSES).map(|_| Process::default()).collect(),
            events: BinaryHeap::new(),
            number: 0,
            lost: 0,
            answered: 0,
            joined_ahead: 0,
        };
        for _ in 0..world.dice.random_range(4..16) {
            let (at, process) = (world.dice.random_range(0..900), world.dice.random_range(0..PROCESSES));
            world.push(at, Event::Client(process));
        }
        for _ in 0..world.dice.random_range(0..4) {
            let (at, sets) = (world.dice.random_range(0..900), world.dice.random_bool(0.5));
            world.push(at, Event::Write(sets));
        }
        for _ in 0..world.dice.random_range(0..3) {
            let at = world.dice.random_range(0..900);
            world.push(at, Event::Expiry);
        }
        if world.dice.random_bool(0.3) {
            let (at, process) = (world.dice.random_range(0..600), world.dice.random_range(0..PROCESSES));
            let ends = if world.dice.random_bool(0.5) { Event::Death(process) } else { Event::GivesUp(process) };
            world.push(at, ends);
        }
        world
    }

    fn push(&mut self, after: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((self.now + after, self.number, event)));
    }

    /// What was found wrong, if anything.
    fn run(mut self) -> Result<[u32; 2], String> {
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            self.now = now;
            if now > 20_000 {
                return Err("it never ends".to_owned());
            }
            self.happens(event)?;
        }
        let strands = |process: &&Process| !process.dead && (process.running.is_some() || !process.waiting.is_empty());
        if self.processes.iter().any(|process| strands(&process)) {
            return Err("somebody waits for ever".to_owned());
        }
        match self.redis.value {
            Some(rank) if rank < self.redis.written => {
                Err(format!("{rank} lies in Redis behind {}", self.redis.written))
            }
            _ => Ok([self.answered, self.joined_ahead]),
        }
    }

    fn happens(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Client(at) if !self.processes[at].dead => {
                let seen = self.redis.written;
                if self.redis.value.is_some() {
                    let begins = self.processes[at].running.is_none() && self.dice.random_bool(0.5);
                    return if begins { self.begin(at, true) } else { Ok(()) }; // its GET was answered
                }
                self.processes[at].waiting.push(seen);
                if self.processes[at].running.is_none() {
                    return self.begin(at, false);
                }
            }
            Event::Write(sets) => {
                self.redis.written += 1;
                self.redis.value = sets.then_some(self.redis.written);
                if self.fault != Fault::WriteLeavesToken {
                    (self.redis.token, self.redis.negative) = (None, None);
                }
                if self.fault != Fault::WriteLeavesStale {
                    self.redis.stale = None;
                }
                self.changed(sets);
            }
            Event::Expiry => self.redis.value = None,
            Event::Death(at) => self.processes[at] = Process { dead: true, ..Process::default() },
            Event::GivesUp(at) => self.give_up(at),
            Event::Await(at, number) => self.awaits(at, number),
            Event::Script(at, id, script, token, before) => return self.script(at, id, &script, token, &before),
            Event::Back(at, id, came) => return self.back(at, id, &came),
            Event::Client(_) => {}
        }
        Ok(())
    }

    fn begin(&mut self, at: usize, is_ahead: bool) -> Result<(), String> {
        self.number += 1;
        let terms = LoadTerms { ttl: Duration::from_secs(60), until: self.time().plus(Duration::from_secs(2)) };
        let load = if is_ahead { Load::ahead(terms, Duration::from_secs(1)) } else { Load::new(terms) };
        let (id, joined) = (self.number, Vec::new());
        let running = Running { load, id, joined, rank: 0, is_ahead, may_hold: false, rest: None };
        self.processes[at].running = Some(running);
        self.step(at, LoadEvent::Begin)
    }

    /// What a load that is dropped says last.
    fn give_up(&mut self, at: usize) {
        let process = std::mem::replace(&mut self.processes[at], Process { dead: true, ..Process::default() });
        let Some(running) = process.running.filter(|running| running.may_hold) else { return };
        let attempt = running.load.attempt();
        let token = |attempt: u32| format!("{at}:{}:{attempt}", running.id);
        let (token, before) = (token(attempt), token(attempt.wrapping_sub(1)));
        if self.redis.token.as_ref().is_some_and(|(held, _)| *held == token || *held == before) {
            self.should_look(16 + PROMPT);
        }
        if self.fault != Fault::LeavesToken {
            let after = self.dice.random_range(8..16); // behind all that it sent
            self.push(after, Event::Script(at, u64::MAX, Sent::Release, token, before));
        }
    }

    /// The question of the ear of `at` is here, whose load has this rest.
    fn awaits(&mut self, at: usize, number: u64) {
        let (now, redis) = (self.now, &mut self.redis);
        redis.forget_ended(now);
        let waits_on = redis.token.is_some() && redis.negative.is_none() && redis.value.is_none();
        if waits_on || self.fault == Fault::AwaitsBlindly {
            redis.told.push((at, number));
        }
        if waits_on && let Some(Running { rest: Some(rest), .. }) = &mut self.processes[at].running {
            rest.due = redis.token.as_ref().map_or(u64::MAX, |(_, end)| end.saturating_add(10)); // whoever had it before
        }
        if !waits_on {
            self.should_look(PROMPT);
            if self.fault != Fault::AwaitsBlindly {
                self.tell(at, number);
            }
        }
    }

    fn tell(&mut self, at: usize, number: u64) {
        let after = self.dice.random_range(0..8);
        self.push(after, Event::Back(at, 0, Came::Rested(number)));
    }

    /// The key has changed, or its token alone: those who await that are told, and look before long.
    fn changed(&mut self, of_key: bool) {
        if of_key || self.fault != Fault::TokenUntold {
            for (at, number) in std::mem::take(&mut self.redis.told) {
                self.tell(at, number);
            }
        }
        self.should_look(PROMPT);
    }

    /// All who wait, and can hear, look within so long.
    fn should_look(&mut self, within: u64) {
        let due = self.now + within;
        for process in &mut self.processes {
            if let Some(Running { rest: Some(rest), .. }) = &mut process.running
                && !rest.is_deaf
            {
                rest.due = rest.due.min(due);
            }
        }
    }

    fn time(&self) -> Time {
        Time::from_nanos(self.now * 1_000_000)
    }

    /// Redis runs a script at one moment, and its reply goes back.
    fn script(&mut self, at: usize, id: u64, script: &Sent, token: String, before: &str) -> Result<(), String> {
        let (now, redis) = (self.now, &mut self.redis);
        redis.forget_ended(now);
        let state = (redis.token.clone(), redis.negative, redis.value);
        let owned = redis.token.as_ref().is_some_and(|(held, _)| *held == token);
        let others = redis.token.as_ref().filter(|(held, _)| *held != token && held != before);
        let held = others.map(|(_, end)| end - now);
        if owned && !matches!(script, Sent::Take | Sent::Look) {
            redis.loading = None;
        }
        let came = match script {
            Sent::Take | Sent::Look => match (redis.value, redis.negative, held) {
                (Some(value), ..) => Came::Found(value),
                (None, Some(rank), _) => Came::Negative(rank),
                (None, None, Some(left)) => Came::Held(left),
                (None, None, None) if *script == Sent::Look => Came::Free,
                (None, None, None) => {
                    let end = if self.fault == Fault::TokenWithoutEnd { u64::MAX } else { now + LOAD_TIMEOUT + 30 };
                    redis.takes(at, (token, end), now)?;
                    Came::Taken(0)
                }
            },
            Sent::TakeAhead => match redis.value {
                None => Came::Free,
                Some(_) if redis.token.is_some() => Came::Held(0),
                Some(_) if self.dice.random_bool(0.1) => Came::Early,
                Some(value) => {
                    redis.takes(at, (token, now + LOAD_TIMEOUT + 30), now)?;
                    Came::Taken(value)
                }
            },
            Sent::Release => {
                let blindly = self.fault == Fault::ReleasesBlindly && redis.negative.is_none();
                if redis.token.as_ref().is_some_and(|(held, _)| *held == token || held == before || blindly) {
                    redis.token = None;
                }
                if redis.loading.is_some_and(|(loader, ..)| loader == at) {
                    redis.loading = None;
                }
                Came::Overtaken
            }
            Sent::Replace(rank, mark) if owned => {
                redis.token = None;
                if redis.value.is_some_and(|value| value != *mark) {
                    Came::Overtaken
                } else {
                    (redis.value, redis.stale) = (Some(*rank), Some(*rank));
                    Came::Proven(None)
                }
            }
            Sent::Store(rank) if owned || self.fault == Fault::StoresBlindly => {
                redis.token = None;
                (redis.value, redis.stale) = (Some(*rank), Some(*rank));
                Came::Proven(None)
            }
            Sent::Miss(_) | Sent::Fail if owned && redis.value.is_some() => {
                redis.token = None;
                Came::Overtaken
            }
            Sent::Miss(rank) if owned => {
                redis.token = Some(("-".to_owned(), now + 100));
                (redis.negative, redis.stale) = (Some(*rank), None);
                Came::Proven(None)
            }
            Sent::Fail if owned => {
                redis.token = None;
                redis.value = redis.stale;
                Came::Proven(redis.stale)
            }
            _ => Came::Overtaken,
        };
        let is_taken = matches!(came, Came::Taken(_));
        let after = self.dice.random_range(0..8);
        self.push(after, Event::Back(at, id, came));
        let (token, negative, value) = &state;
        if !is_taken && (token, negative, value) != (&self.redis.token, &self.redis.negative, &self.redis.value) {
            self.changed(*value != self.redis.value);
        }
        Ok(())
    }

    /// A process hears of what came of its step.
    fn back(&mut self, at: usize, id: u64, came: &Came) -> Result<(), String> {
        if let Came::Rested(number) = came {
            return self.rested(at, *number);
        }
        let Some(running) = self.processes[at].running.as_mut().filter(|running| running.id == id) else {
            return Ok(());
        };
        running.may_hold = match came {
            Came::Taken(_) => true,
            Came::Free | Came::Lost | Came::Permit | Came::Fetched(..) => running.may_hold,
            _ => false,
        };
        let mut noted = |rank: Rank| {
            running.rank = rank;
            Bytes::from(rank.to_string())
        };
        let reply = |reply| LoadEvent::Reply(reply);
        let event = match came {
            Came::Permit => LoadEvent::Permit(Ok(())),
            Came::Found(rank) => reply(ScriptReply::Found(noted(*rank))),
            Came::Negative(rank) => {
                noted(*rank);
                reply(ScriptReply::Negative)
            }
            Came::Held(_) if self.fault == Fault::EndUntold => reply(ScriptReply::Held(None)),
            Came::Held(left) => reply(ScriptReply::Held(Some(Duration::from_millis(*left)))),
            Came::Free => reply(ScriptReply::Free),
            Came::Taken(mark) => reply(ScriptReply::Taken(mark.to_string().into())),
            Came::Early => reply(ScriptReply::Early(None)),
            Came::Proven(stale) => reply(ScriptReply::Proven(stale.map(noted))),
            Came::Overtaken => reply(ScriptReply::Overtaken),
            Came::Lost => reply(ScriptReply::Lost),
            Came::Fetched(0, rank) => LoadEvent::Fetched(Fetched::Value { value: noted(*rank), stays: None }),
            Came::Fetched(1, rank) => {
                noted(*rank);
                LoadEvent::Fetched(Fetched::Missing)
            }
            Came::Fetched(..) => LoadEvent::Fetched(Fetched::Failed("origin".into())),
            Came::Rested(_) => return Ok(()),
        };
        self.step(at, event)
    }

    /// The rest with this number is over: by what was told, or by its clock.
    fn rested(&mut self, at: usize, number: u64) -> Result<(), String> {
        let (now, Some(running)) = (self.now, self.processes[at].running.as_mut()) else { return Ok(()) };
        let Some(rest) = running.rest.take_if(|rest| rest.number == number && rest.least <= now) else {
            let least = running.rest.as_ref().filter(|rest| rest.number == number).map(|rest| rest.least);
            if let Some(least) = least {
                self.push(least - now, Event::Back(at, 0, Came::Rested(number)));
            }
            return Ok(());
        };
        if now > rest.due {
            return Err(format!("it looks {} ms after it should have", now - rest.due));
        }
        self.step(at, LoadEvent::Rested)
    }

    /// A load waits: at least for so long, and at most, where somebody may tell of a change.
    fn rest(&mut self, at: usize, least: u64, longest: Option<u64>) {
        self.number += 1;
        let (now, number, deaf) = (self.now, self.number, self.dice.random_bool(0.1));
        let held = self.redis.token.as_ref().filter(|_| self.redis.negative.is_none());
        let token_ends = held.map_or(u64::MAX, |(_, end)| end.saturating_add(10));
        let due = longest.map_or(u64::MAX, |_| token_ends.max(now + least));
        let rest = Resting { number, least: now + least, due, is_deaf: deaf || longest.is_none() };
        if let Some(running) = &mut self.processes[at].running {
            running.rest = Some(rest);
        }
        if longest.is_none() || self.fault != Fault::AwaitsUntilTold {
            self.push(longest.unwrap_or(least), Event::Back(at, 0, Came::Rested(number)));
        }
        if longest.is_some() && !deaf {
            let after = self.dice.random_range(0..8);
            self.push(after, Event::Await(at, number));
        }
    }

    fn step(&mut self, at: usize, event: LoadEvent) -> Result<(), String> {
        let now = self.time();
        let process = &mut self.processes[at];
        let Some(running) = process.running.as_mut() else { return Ok(()) };
        let (step, id) = (running.load.next(event, now), running.id);
        match step {
            LoadStep::Permit => self.push(0, Event::Back(at, id, Came::Permit)),
            LoadStep::Fetch => {
                let after = self.dice.random_range(1..LOAD_TIMEOUT);
                let kind = [0, 0, 0, 1, 2][self.dice.random_range(0..5)];
                let came = Came::Fetched(kind, self.redis.written);
                self.push(after, Event::Back(at, id, came));
            }
            LoadStep::Rest(length) => self.rest(at, millis(length), None),
            LoadStep::Await(least, longest) => self.rest(at, millis(least), Some(millis(longest))),
            LoadStep::Ask(script) => {
                running.joined.append(&mut process.waiting);
                let attempt = if self.fault == Fault::OneToken { 0 } else { running.load.attempt() };
                let token = |attempt: u32| format!("{at}:{id}:{attempt}");
                let (token, before) = (token(attempt), token(attempt.wrapping_sub(1)));
                let sent = match script {
                    Script::Take => {
                        running.may_hold = true;
                        Sent::Take
                    }
                    Script::Look => Sent::Look,
                    Script::Store(..) => Sent::Store(running.rank),
                    Script::Miss => Sent::Miss(running.rank),
                    Script::Fail => Sent::Fail,
                    Script::TakeAhead(_) => {
                        running.may_hold = true;
                        Sent::TakeAhead
                    }
                    Script::Replace(_, _, mark) => {
                        let mark = std::str::from_utf8(&mark).ok().and_then(|mark| mark.parse().ok());
                        Sent::Replace(running.rank, mark.expect("a rank, as TakeAhead gave it"))
                    }
                    script @ (Script::Forget | Script::Release) => return Err(format!("{script:?} has no place here")),
                };
                self.send(at, id, sent, (token, before));
            }
            LoadStep::End(outcome) => return self.end(at, &outcome),
        }
        Ok(())
    }

    /// Most arrive soon. Of some the process hears nothing: they never arrive, or late.
    fn send(&mut self, at: usize, id: u64, sent: Sent, (token, before): (String, String)) {
        let mut after = self.dice.random_range(0..8);
        if self.lost < 2 && self.dice.random_bool(0.1) {
            self.lost += 1;
            let told = self.dice.random_range(1..20);
            self.push(told, Event::Back(at, id, Came::Lost));
            if self.dice.random_bool(0.3) {
                return;
            }
            after += self.dice.random_range(0..300);
            return self.push(after, Event::Script(at, u64::MAX, sent, token, before)); // its reply finds nobody
        }
        self.push(after, Event::Script(at, id, sent, token, before));
    }

    /// Who was taken in is answered; the others load anew.
    fn end(&mut self, at: usize, outcome: &LoadOutcome) -> Result<(), String> {
        let process = &mut self.processes[at];
        let Some(mut running) = process.running.take() else { return Ok(()) };
        if self.fault == Fault::JoinsLate {
            running.joined.append(&mut process.waiting);
        }
        self.joined_ahead += u32::from(running.is_ahead && !running.joined.is_empty());
        if *outcome == LoadOutcome::Needless && self.fault != Fault::NeedlessIsNothing {
            process.waiting.append(&mut running.joined); // they ask again
        }
        for seen in running.joined {
            self.answered += 1;
            match outcome {
                LoadOutcome::Needless => return Err("a client is told nothing".to_owned()),
                LoadOutcome::Failed(why) if &**why == "origin" => {}
                LoadOutcome::Failed(why) => return Err(format!("a client is told: {why}")),
                _ if running.rank < seen => {
                    return Err(format!("{outcome:?} is as new as {}, for one who has seen {seen}", running.rank));
                }
                _ => {}
            }
        }
        if self.processes[at].waiting.is_empty() { Ok(()) } else { self.begin(at, false) }
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).expect("it is short")
}

#[test]
fn whatever_comes_between_no_answer_is_older_than_the_question_and_nobody_waits_for_ever() {
    let (mut answered, mut ahead) = (0, 0);
    for seed in 0..SEEDS {
        let ran = World::new(seed, Fault::None).run().unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        (answered, ahead) = (answered + ran[0], ahead + ran[1]);
    }
    assert!(u64::from(answered) > SEEDS, "only {answered} were answered");
    assert!(ahead > 100, "only {ahead} loads ahead were joined");
}

#[test]
fn planted_faults_are_found() {
    use Fault::{JoinsLate, OneToken, StoresBlindly, TokenWithoutEnd, WriteLeavesStale, WriteLeavesToken};
    for fault in [
        StoresBlindly,
        WriteLeavesToken,
        WriteLeavesStale,
        JoinsLate,
        TokenWithoutEnd,
        OneToken,
        Fault::NeedlessIsNothing,
        Fault::AwaitsBlindly,
        Fault::TokenUntold,
        Fault::AwaitsUntilTold,
        Fault::EndUntold,
        Fault::LeavesToken,
        Fault::ReleasesBlindly,
    ] {
        let found = (0..20 * SEEDS).find_map(|seed| World::new(seed, fault).run().err().map(|wrong| (seed, wrong)));
        let (seed, wrong) = found.unwrap_or_else(|| panic!("{fault:?} is not seen"));
        println!("{fault:?}: seed {seed}: {wrong}");
    }
}
