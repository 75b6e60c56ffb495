//! What sessions do: ask, as `proxy` decides; are answered; and have their answers judged.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use crema::cache::Lookup;
use crema::clock::Time;
use crema::proxy::KeyStatus;
use crema::resp::Resp;

use super::faults::{Fault, WorkerFault};
use super::judge::{Judge, Place, ms};
use super::process::{Answered, Ask, Command, Marks, NAMES, Recipient, place, time};
use super::redis::{HIDDEN, LIMITED};
use super::world::{Event, LAST, Waiting, World};
use super::{DATABASES, KEYS, MS, RECHECK, STALENESS, US};

impl World<'_> {
    pub(crate) fn a_key(&mut self) -> usize {
        // Some are hot.
        self.dice.below(KEYS as u64).min(self.dice.below(KEYS as u64)) as usize
    }

    pub(crate) fn a_database(&mut self) -> usize {
        if self.dice.chance(250) { 1 % DATABASES } else { 0 }
    }

    pub(crate) fn step(&mut self, at: usize, life: u64) {
        let (worker, who) = (self.sessions[at].1.worker, self.sessions[at].1.who());
        let link = self.workers[worker].lane(who).as_ref().map(|lane| lane.link);
        let (present, session) = &mut self.sessions[at];
        if *present != life || self.now >= LAST {
            return;
        }
        session.is_due = false;
        // What was sent again on another lane is not to be overtaken.
        let moved = !session.commands.is_empty() && session.lane.is_some() && session.lane != link;
        if session.waits || session.commands.len() >= session.depth || moved {
            return; // it goes on when something is answered
        }
        let key = self.a_key();
        let reads_only = self.calm && self.dice.chance(800);
        let ask = match self.dice.below(if reads_only { 940 } else { 1000 }) {
            880..940 => Ask::GetBoth(key, (key + 1) % KEYS),
            940..955 => Ask::Set(key, None),
            955..967 => Ask::Set(key, Some(self.dice.between(1, 40))),
            967..975 => Ask::Del(key),
            975..984 => Ask::Script(key),
            984..986 => Ask::FlushAll,
            986..998 if self.swaps => Ask::SwapDb,
            _ => Ask::Get(key),
        };
        let db = self.sessions[at].1.db;
        let floors = ask.keys_read().into_iter().map(|key| self.judge.floor((db, key), self.now)).collect();
        let session = &mut self.sessions[at].1;
        let (number, arrived) = (session.next, self.now);
        session.next += 1;
        session.commands.push_back(Command {
            number,
            ask,
            arrived,
            floors,
            answer: None,
            from_memory: false,
            held: 0,
            sent: None,
            was_sent_again: false,
        });
        self.take(at);
        let pause = if self.dice.chance(100) { 20 * MS } else { 5 * MS };
        self.step_soon(at, pause);
    }

    /// Decides what is done with the last command, as `proxy::call`.
    pub(crate) fn take(&mut self, at: usize) {
        let session = &self.sessions[at].1;
        let Some(command) = session.commands.back() else { return };
        let (number, ask, who) = (command.number, command.ask.clone(), session.who());
        let user = &self.memory.users[who.0];
        let keys = ask.keys_read();
        if keys.is_empty() {
            return self.write(at, number, &ask);
        }
        if session.behind_write() && !self.plan.worker(WorkerFault::HitBehindOwnWrite) {
            return self.send_read(at, false);
        }
        let heard = user.heard_up_to();
        let due = self.memory.opaque_writes.due(time(self.now));
        let mut unheard = (due > heard).then_some(due);
        for &key in &keys {
            match self.sessions[at].1.reads.key_status(self.memory.slot(key), heard) {
                KeyStatus::Unanswered if !self.plan.worker(WorkerFault::HitUnheard) => {
                    return self.send_read(at, false);
                }
                KeyStatus::Unheard(answered) => unheard = unheard.max(Some(answered)),
                KeyStatus::Unanswered | KeyStatus::Heard => {}
            }
        }
        let now = time(self.now);
        let memory = self.memory;
        let held = |key: usize| {
            let query = memory.query(who.0, (who.1, key));
            memory.store.contains_fresh(&query, &memory.stamps, &user.freshness, now)
        };
        if let Some(since) = unheard.filter(|_| !self.plan.worker(WorkerFault::HitUnheard)) {
            if !keys.iter().all(|&key| held(key)) {
                return self.send_read(at, true);
            }
            return self.hear(at, since);
        }
        let mut out = Vec::new();
        let marks = memory.store.watermarks().of(memory.slot(keys[0]), heard);
        if self.look_up(&keys, at, &mut out) {
            self.report.hits += 1;
            if self.plan.audits && self.dice.chance(300) {
                self.audit(who.0, (who.1, keys[0]), marks);
            }
            let command = self.sessions[at].1.command(number).expect("it is the last");
            (command.answer, command.from_memory) = (Some(out), true);
            return self.deliver(at);
        }
        self.send_read(at, true);
    }

    pub(crate) fn look_up(&mut self, keys: &[usize], at: usize, out: &mut Vec<u8>) -> bool {
        let memory = self.memory;
        let (user, db) = self.sessions[at].1.who();
        let user = if self.plan.worker(WorkerFault::OneIdentity) { 0 } else { user };
        let freshness = &memory.users[user].freshness;
        let sampler = &mut self.workers[self.sessions[at].1.worker].sampler;
        let now = time(self.now);
        let found = match *keys {
            [key] => {
                let query = memory.query(user, (db, key));
                memory.store.lookup(&query, Resp::V3, &memory.stamps, freshness, now, sampler, out)
            }
            [one, other] => {
                let both = [memory.query(user, (db, one)), memory.query(user, (db, other))];
                let fresh = |_: usize| freshness;
                memory.store.lookup_all(&both, 1000, Resp::V3, &memory.stamps, fresh, now, sampler, out)
            }
            _ => Lookup::Miss,
        };
        found.is_hit()
    }

    /// As `Caller::hear`, whose reckoning of what is worth waiting for is left to chance here: both are right.
    pub(crate) fn hear(&mut self, at: usize, since: Time) {
        let user = self.sessions[at].1.user;
        if self.memory.users[user].heard_up_to() >= since {
            return self.take(at);
        }
        let left = self.memory.users[user].freshness.lease_left(time(self.now)).as_nanos() as u64;
        if self.dice.chance(300) {
            return self.send_read(at, true);
        }
        let life = self.sessions[at].0;
        self.sessions[at].1.waits = true;
        let patience = self.dice.between(MS, 50 * MS);
        self.memory.opaque_writes.ask();
        self.tokens += 1;
        let token = self.tokens;
        self.waiting.insert(token, (user, Waiting::Unheard(at, life)));
        self.soon(200 * US, Event::EarFence(user, since, token));
        self.at(self.now + left.min(patience), Event::FenceLate(token));
    }

    /// Has Redis answer the last command, a read: by the same one under way, where it may join, or by sending it.
    pub(crate) fn send_read(&mut self, at: usize, joins: bool) {
        let session = &self.sessions[at].1;
        let Some(command) = session.commands.back() else { return };
        let (number, ask) = (command.number, command.ask.clone());
        if let Ask::Get(key) = ask
            && joins
            && self.join(at, number, key)
        {
            self.report.joins += 1;
            return;
        }
        self.report.leads += 1;
        self.send_words(at, number, true);
    }

    pub(crate) fn send_words(&mut self, at: usize, number: u64, notes: bool) {
        let ask = self.sessions[at].1.command(number).expect("it is being sent").ask.clone();
        let heard = self.memory.users[self.sessions[at].1.user].heard_up_to();
        if notes {
            for key in ask.keys_read() {
                let slot = self.memory.slot(key);
                self.sessions[at].1.reads.note(place(number), Some(slot), heard);
            }
        }
        let keys = ask.keys_read();
        let verb = if keys.len() == 1 { "GET" } else { "MGET" };
        let words: SmallVec<[&str; 3]> = std::iter::once(verb).chain(keys.iter().map(|&key| NAMES[key])).collect();
        self.put(at, number, &words, true, Marks::default());
    }

    pub(crate) fn join(&mut self, at: usize, number: u64, key: usize) -> bool {
        let _ = self.lane_of(at);
        let (plan, memory, now) = (self.plan, self.memory, time(self.now));
        let (life, session) = &mut self.sessions[at];
        let slot = memory.slot(key);
        let heard = memory.users[session.user].heard_up_to();
        if session.reads.key_status(slot, heard) == KeyStatus::Unanswered {
            return false;
        }
        let lane = self.workers[session.worker].lane(session.who()).as_mut().expect("it was just made");
        let to = Recipient { session: at, life: *life, number };
        let since = now.minus(memory.terms.max_staleness.get()).max(time(session.came)).max(memory.arrivals.last(slot));
        let since = if plan.worker(WorkerFault::JoinOlder) { Time::ZERO } else { since };
        let (query, opaque) = (memory.query(session.user, (session.db, key)), memory.opaque_writes.answered());
        if plan.worker(WorkerFault::StampAtJoin)
            && let Some(pending) =
                lane.pending.values_mut().find(|pending| matches!(pending.ask, Ask::Get(of) if of == key))
            && let Some(flight) = pending.flight.take()
        {
            pending.joined.extend(lane.flights.land(flight));
            pending.flight = Some(lane.flights.lead(&query, memory.stamps.load(slot), opaque, now));
        }
        let joined = lane.flights.join(&query, &memory.stamps, opaque, since, to).is_ok();
        if joined {
            session.reads.note(place(number), Some(slot), heard);
        }
        joined
    }

    pub(crate) fn write(&mut self, at: usize, number: u64, ask: &Ask) {
        self.report.writes += 1;
        self.sessions[at].1.last_write = Some(number);
        let value = self.value();
        let life;
        let key = match *ask {
            Ask::Set(key, _) | Ask::Del(key) | Ask::Script(key) => NAMES[key],
            _ => "",
        };
        let words: Vec<&str> = match *ask {
            Ask::Set(_, None) => vec!["SET", key, &value],
            Ask::Set(_, Some(span)) => {
                life = span.to_string();
                vec!["SET", key, &value, "PX", &life]
            }
            Ask::Del(_) => vec!["DEL", key],
            Ask::Script(_) => {
                let heard = self.memory.users[self.sessions[at].1.user].heard_up_to();
                self.sessions[at].1.reads.note(place(number), None, heard);
                vec!["EVAL", "a script", "0", key, &value]
            }
            Ask::FlushAll => vec!["FLUSHALL"],
            _ => {
                self.memory.silence.begin_swap();
                self.memory.users.iter().for_each(|user| user.freshness.end());
                if self.dice.chance(300) {
                    let link = self.lane_of(at);
                    self.links[link].down.frozen_until = self.now + 3 * STALENESS;
                }
                vec!["SWAPDB", "0", "1"]
            }
        };
        let slots = ask.key_written().map(|key| self.memory.slot(key)).into_iter().collect();
        let marks = Marks { slots, begun: self.memory.store.watermarks().moment() };
        for &slot in &marks.slots {
            match self.plan.fault {
                Some(Fault::Worker(WorkerFault::NoMarkAtAnswer)) => self.memory.stamps.touch(slot),
                Some(Fault::Worker(WorkerFault::NoMarkAtSend | WorkerFault::NoMark)) => {}
                _ => self.memory.stamps.begin(slot),
            }
        }
        self.put(at, number, &words, false, marks);
    }

    /// Gives the client what stands at the head, and judges it.
    pub(crate) fn deliver(&mut self, at: usize) {
        while let Some(command) = self.sessions[at].1.commands.front()
            && command.answer.is_some()
            && command.held == 0
        {
            let command = self.sessions[at].1.commands.pop_front().expect("it is at the head");
            let what = || format!("session {at} is answered {:?}", command.ask);
            self.trace(command.answer.as_deref().unwrap_or_default(), what);
            if self.report.violation.is_none() {
                self.judge_answer(at, &command);
            }
            let session = &mut self.sessions[at].1;
            session.last_answer = self.now;
            self.step_soon(at, 5 * MS);
        }
    }

    pub(crate) fn judge_answer(&mut self, at: usize, command: &Command) {
        let answer = command.answer.as_deref().unwrap_or_default();
        let db = self.sessions[at].1.db;
        if command.ask.is_write() {
            let by = command.sent.expect("it was sent");
            if answer[0] != b'-' {
                self.judge.acknowledged(by, self.now);
            }
            let changes: Vec<_> = self.judge.changes(by).to_vec();
            let session = &mut self.sessions[at].1;
            for &((of, key), state) in changes.iter().filter(|((of, _), _)| *of == db) {
                debug_assert_eq!(of, db);
                session.seen[key] = session.seen[key].max(state);
            }
            session.answered.push(Answered { reads: Vec::new(), wrote: Some(by) });
            if matches!(command.ask, Ask::Set(..)) && answer == b"+OK\r\n" && changes.len() != 1 {
                self.violate(at, command, "point 7: it was acknowledged and not done once");
            }
            return;
        }
        let Some(values) = values(answer) else { return };
        let keys = command.ask.keys_read();
        let (user, closed) = (self.sessions[at].1.user, self.server.closed_since.unwrap_or(u64::MAX));
        let hidden = user == LIMITED && keys.contains(&HIDDEN) && command.from_memory;
        if hidden && command.arrived > closed.saturating_add(if closed == 0 { 0 } else { RECHECK }) {
            return self.violate(at, command, "point 8: it is shown what it may not read");
        }
        let hit = command.from_memory.then_some(command.arrived);
        let mut reads = Vec::new();
        for ((&key, value), &floor) in keys.iter().zip(values).zip(&command.floors) {
            let seen = self.judge.seen((db, key), self.sessions[at].1.seen[key], command.arrived);
            let could = self.judge.candidates((db, key), value, floor.max(seen), hit);
            let Some(&first) = could.first() else {
                let why = if floor >= seen {
                    "points 3 to 6: it is too old"
                } else {
                    "points 2 and 4: the session goes back"
                };
                return self.violate(
                    at,
                    command,
                    &format!("{why}; key {key} of database {db} must show {floor}, {seen}"),
                );
            };
            self.sessions[at].1.seen[key] = first.max(self.sessions[at].1.seen[key]);
            reads.push(((db, key), could));
        }
        if let [(one, first), (other, second)] = &reads[..] {
            let pairs = first.iter().flat_map(|&i| second.iter().map(move |&j| (i, j)));
            let mut moments = pairs.map(|(i, j)| (self.judge.stood(*one, i), self.judge.stood(*other, j)));
            let quiet = self.unannounced == 0 || self.unannounced + 2 * STALENESS < command.arrived;
            if quiet && !moments.any(|(a, b)| a.0.max(b.0) < a.1.min(b.1)) {
                return self.violate(at, command, "many keys, and not of one moment");
            }
        }
        self.sessions[at].1.answered.push(Answered { reads, wrote: None });
    }

    pub(crate) fn violate(&mut self, at: usize, command: &Command, why: &str) {
        let db = self.sessions[at].1.db;
        let answer = String::from_utf8_lossy(command.answer.as_deref().unwrap_or_default()).escape_debug().to_string();
        let told: Vec<_> = command.ask.keys_read().iter().map(|&key| self.judge.tell((db, key))).collect();
        self.report.violation = Some(format!(
            "{why}\nsession {at}, command {} {:?}, arrived at {}, {} {answer} at {}\n{}",
            command.number,
            command.ask,
            ms(command.arrived),
            if command.from_memory { "memory says" } else { "Redis says" },
            ms(self.now),
            told.join("\n of the other key\n")
        ));
    }
}

/// The values in an answer; none where it is an error.
fn values(answer: &[u8]) -> Option<Vec<Option<u64>>> {
    let text = std::str::from_utf8(answer).expect("ASCII");
    if text.starts_with('-') {
        return None;
    }
    let mut lines = text.split_terminator("\r\n").peekable();
    if lines.peek().is_some_and(|line| line.starts_with('*')) {
        lines.next();
    }
    let mut values = Vec::new();
    while let Some(line) = lines.next() {
        values.push(if line == "_" { None } else { lines.next().and_then(|value| value.parse().ok()) });
    }
    Some(values)
}

/// Point 2: no read shows what a later command of its own session has written.
pub(crate) fn check_order(judge: &Judge, answered: &[Answered]) -> Option<String> {
    let mut ceilings: BTreeMap<Place, usize> = BTreeMap::new();
    for answered in answered.iter().rev() {
        for (key, could) in &answered.reads {
            let ceiling = ceilings.get(key).copied().unwrap_or(usize::MAX);
            if !could.iter().any(|&state| state < ceiling) {
                return Some(format!(
                    "point 2: a read of {key:?} shows state {could:?}, written by a later command, {ceiling}"
                ));
            }
        }
        if let Some(by) = answered.wrote {
            for &(key, state) in judge.changes(by) {
                let ceiling = ceilings.entry(key).or_insert(usize::MAX);
                *ceiling = state.min(*ceiling);
            }
        }
    }
    None
}
