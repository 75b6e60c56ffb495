//! One schedule: the events, in the order of one clock; the links of the process; and the ear, run as `ear::task` runs it.

use std::collections::{BTreeMap, VecDeque};

use crema::clock::Time;
use crema::invalidation::Fill;
use crema::invalidation::ear::{Disconnection, EarEffect, Protocol};

use super::dice::Dice;
use super::faults::Plan;
use super::judge::{Judge, Place, ms};
use super::link::{Link, Owner};
use super::process::{Memory, Recipient, Session, Worker, time};
use super::redis::Server;
use super::sessions::check_order;
use super::{MS, STALENESS, US};

/// When nothing more goes wrong.
pub(crate) const CALM: u64 = 500 * MS;
/// When sessions ask no more: long enough after for all that binds to bind.
pub(crate) const LAST: u64 = CALM + 3 * STALENESS;
/// When all must have been answered.
pub(crate) const END: u64 = LAST + 8_000 * MS;
pub(crate) const SESSIONS: usize = 5;
pub(crate) const WORKERS: usize = 2;

#[derive(Clone, Copy)]
pub(crate) enum Event {
    /// Bytes may have arrived at the server, or at the process.
    Up(usize),
    Down(usize),
    EarConnects,
    EarWakes(u64),
    /// A fence, or fills, that workers have asked for come to the ear's thread.
    EarFence(Time, u64),
    EarFills,
    Step(usize, u64),
    FenceLate(u64),
    /// A swap whose answer was lost may have been done until now.
    SwapOver,
    Expiry,
    Meet,
    Past,
    Trouble,
    MasterAgain,
}

/// Who waits for a fence.
pub(crate) enum Waiting {
    Unheard(usize, u64),
    Held(Recipient),
    Nobody,
}

/// What a schedule came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) violation: Option<String>,
    pub(crate) hits: u64,
    pub(crate) joins: u64,
    pub(crate) leads: u64,
    pub(crate) writes: u64,
    /// Of all bytes and answers, with their times.
    pub(crate) trace: u64,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct World<'a> {
    pub(crate) memory: &'a Memory,
    pub(crate) plan: Plan,
    pub(crate) dice: Dice,
    pub(crate) now: u64,
    pub(crate) events: BTreeMap<(u64, u64), Event>,
    pub(crate) count: u64,
    pub(crate) server: Server,
    pub(crate) judge: Judge,
    pub(crate) links: Vec<Link>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) sessions: Vec<(u64, Session)>,
    pub(crate) protocol: Option<Protocol<'a, u64, Plan>>,
    pub(crate) ear_link: usize,
    pub(crate) ear_input: Vec<u8>,
    pub(crate) ear_begun: bool,
    pub(crate) wakes: u64,
    pub(crate) fills: VecDeque<Fill>,
    pub(crate) waiting: BTreeMap<u64, Waiting>,
    pub(crate) tokens: u64,
    /// The process stands still until then.
    pub(crate) stopped_until: u64,
    /// When the process last heard anything.
    pub(crate) pulse: u64,
    pub(crate) values: u64,
    /// When something last happened of which Redis tells nobody.
    pub(crate) unannounced: u64,
    /// How often something goes wrong, and how late the ear and the lanes hear.
    pub(crate) gap: u64,
    /// The ear is lost again and again, and much is flushed.
    pub(crate) stormy: bool,
    /// When the server next looks whose time is over.
    pub(crate) expiry: u64,
    pub(crate) ear_late: u64,
    pub(crate) lanes_late: u64,
    pub(crate) swaps: bool,
    /// Tells all that happens.
    tells: bool,
    pub(crate) report: Report,
}

impl<'a> World<'a> {
    pub(crate) fn new(memory: &'a Memory, seed: u64, plan: Plan) -> Self {
        let mut dice = Dice::new(seed);
        let workers = (0..WORKERS).map(|_| Worker::new()).collect();
        let sessions = (0..SESSIONS).map(|n| {
            let db = usize::from(dice.chance(200));
            (0, Session::new(n % WORKERS, db, [1, 1, 1, 2, 4][dice.below(5) as usize]))
        });
        let sessions = sessions.collect();
        let stormy = dice.chance(200);
        let gap = if stormy { dice.between(15, 40) } else { dice.between(20, 200) } * MS;
        let (ear_late, lanes_late) = match dice.below(10) {
            0..4 => (dice.between(0, 40 * MS), 0),
            4..7 => (0, dice.between(0, 30 * MS)),
            _ => (0, 0),
        };
        let (mut server, swaps) = (Server::new(dice.chance(300)), dice.chance(400));
        server.counts_swaps = dice.chance(500);
        let mut world = Self {
            memory,
            plan,
            dice,
            now: 0,
            events: BTreeMap::new(),
            count: 0,
            server,
            judge: Judge::new(),
            links: Vec::new(),
            workers,
            sessions,
            protocol: None,
            ear_link: usize::MAX,
            ear_input: Vec::new(),
            ear_begun: false,
            wakes: 0,
            fills: VecDeque::new(),
            waiting: BTreeMap::new(),
            tokens: 0,
            stopped_until: 0,
            pulse: 0,
            values: 0,
            unannounced: 0,
            gap,
            stormy,
            expiry: u64::MAX,
            ear_late,
            lanes_late,
            swaps,
            tells: false,
            report: Report::default(),
        };
        for session in 0..SESSIONS {
            let first = world.dice.between(0, 5 * MS);
            world.at(first, Event::Step(session, 0));
            world.sessions[session].1.is_due = true;
        }
        world.at(MS, Event::Past);
        world.at(3 * MS, Event::Meet);
        world.at(gap, Event::Trouble);
        world
    }

    /// The same, which tells all that happens.
    pub(crate) fn telling(self) -> Self {
        Self { tells: true, ..self }
    }

    /// Runs the schedule to its end, or to the first violation.
    pub(crate) fn run(mut self) -> Report {
        while let Some(((when, _), event)) = self.events.pop_first()
            && self.report.violation.is_none()
        {
            self.now = self.now.max(when);
            if self.now > LAST && self.sessions.iter().all(|(_, session)| session.commands.is_empty()) {
                break;
            }
            if self.now > END {
                self.check_nobody_waits();
                break;
            }
            let of_process = !matches!(
                event,
                Event::Up(_) | Event::Expiry | Event::Meet | Event::Past | Event::Trouble | Event::MasterAgain
            );
            if of_process && self.now < self.stopped_until {
                let when = self.stopped_until + self.dice.below(200 * US);
                self.at(when, event);
                continue;
            }
            self.happen(event);
        }
        for (_, session) in &mut self.sessions {
            let answered = std::mem::take(&mut session.answered);
            if self.report.violation.is_none() {
                self.report.violation = check_order(&self.judge, &answered);
            }
        }
        self.report
    }

    pub(crate) fn check_nobody_waits(&mut self) {
        let waits = self.sessions.iter().position(|(_, session)| !session.commands.is_empty());
        if let Some(session) = waits {
            let command = &self.sessions[session].1.commands[0];
            let what = format!("session {session} still waits for {:?} at {}", command.ask, ms(self.now));
            self.report.violation = Some(what);
        }
    }

    pub(crate) fn at(&mut self, when: u64, event: Event) {
        self.count += 1;
        self.events.insert((when, self.count), event);
    }

    /// The session goes on within so long, where that is not due already.
    pub(crate) fn step_soon(&mut self, session: usize, most: u64) {
        let (life, session_of) = &mut self.sessions[session];
        if !std::mem::replace(&mut session_of.is_due, true) {
            let life = *life;
            self.soon(most, Event::Step(session, life));
        }
    }

    pub(crate) fn soon(&mut self, most: u64, event: Event) {
        let when = self.now + self.dice.below(most);
        self.at(when, event);
    }

    pub(crate) fn trace(&mut self, bytes: &[u8], what: impl FnOnce() -> String) {
        if self.tells {
            println!("{} {}: {}", ms(self.now), what(), bytes.escape_ascii());
        }
        for &byte in self.now.to_le_bytes().iter().chain(bytes) {
            self.report.trace = (self.report.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn happen(&mut self, event: Event) {
        match event {
            Event::Up(link) => self.up(link),
            Event::Down(link) => self.down(link),
            Event::EarConnects => self.connect_ear(),
            Event::EarWakes(number) => {
                if number == self.wakes
                    && let Some(mut protocol) = self.protocol.take()
                {
                    let went = protocol.wake(time(self.now), time(self.pulse));
                    self.after(protocol, went);
                }
            }
            Event::EarFence(since, token) => match self.protocol.take() {
                Some(mut protocol) => {
                    protocol.fence(since, token, time(self.now));
                    self.after(protocol, Ok(()));
                }
                None => self.fenced(token, false),
            },
            Event::EarFills => {
                if let Some(mut protocol) = self.protocol.take() {
                    let fills = &mut self.fills;
                    if protocol.takes_fills() && !fills.is_empty() {
                        protocol.fill(std::iter::from_fn(|| fills.pop_front()), time(self.now));
                    }
                    self.after(protocol, Ok(()));
                }
            }
            Event::Step(session, life) => self.step(session, life),
            Event::FenceLate(token) => self.fenced(token, false),
            Event::SwapOver => {
                self.forget_all();
                self.end_swap();
            }
            Event::Expiry => {
                self.expiry = u64::MAX;
                self.server.expire(self.now, &mut self.judge);
                self.watch_expiry();
            }
            Event::Meet => {
                let mut out = Vec::new();
                self.server.meet_expired(&mut out);
                self.deliver_out(out);
                self.soon(100 * MS, Event::Meet);
            }
            Event::Past => self.write_past(),
            Event::Trouble => self.trouble(),
            Event::MasterAgain => {
                self.server.is_master = true;
                let mut out = Vec::new();
                // It takes in the whole of another's data.
                self.server.write_past(0, &["FLUSHALL"], self.now, &mut self.judge, &mut out);
                self.deliver_out(out);
            }
        }
    }

    pub(crate) fn open(&mut self, owner: Owner, db: usize) -> usize {
        let link = Link::new(owner, &mut self.dice);
        self.links.push(link);
        let number = self.links.len() - 1;
        self.server.connect(number, db);
        number
    }

    pub(crate) fn send(&mut self, link: usize, bytes: Vec<u8>) {
        if self.links[link].is_open && !bytes.is_empty() {
            let delay = self.links[link].delay(&mut self.dice);
            let when = self.links[link].up.send(bytes, delay, self.now);
            self.at(when, Event::Up(link));
        }
    }

    pub(crate) fn down(&mut self, link: usize) {
        if !self.links[link].is_open {
            return;
        }
        let (bytes, more) = self.links[link].down.arrive(&mut self.dice, self.now);
        if let Some(more) = more {
            self.at(more, Event::Down(link));
        }
        if bytes.is_empty() {
            return;
        }
        self.trace(&bytes, || format!("link {link} down"));
        self.pulse = self.now;
        match self.links[link].owner {
            Owner::Ear => {
                self.ear_input.extend_from_slice(&bytes);
                if let Some(mut protocol) = self.protocol.take() {
                    let went = protocol.receive(&mut self.ear_input, time(self.now));
                    self.after(protocol, went);
                }
            }
            Owner::Lane(worker, db) => self.lane_receives(worker, db, &bytes),
        }
    }

    pub(crate) fn connect_ear(&mut self) {
        self.ear_link = self.open(Owner::Ear, 0);
        self.ear_input.clear();
        let protocol = Protocol::with_faults(self.plan, self.memory.around(), b"u", 0, time(self.now));
        self.after(protocol, Ok(()));
    }

    /// What has to be done after each call of the protocol.
    pub(crate) fn after(&mut self, mut protocol: Protocol<'a, u64, Plan>, went: Result<(), Disconnection>) {
        let mut out = Vec::new();
        protocol.take_unsent(&mut out);
        self.send(self.ear_link, out);
        let effects: Vec<_> = protocol.effects().collect();
        let deadline = protocol.deadline().saturating_since(time(0)).as_nanos() as u64;
        let takes = protocol.takes_fills();
        self.protocol = Some(protocol);
        for effect in effects {
            if let EarEffect::Fenced(token) = effect {
                self.fenced(token, true);
            }
        }
        if let Err(ending) = went {
            assert!(matches!(ending, Disconnection::Silent(_)), "{ending:?}");
            return self.lose(self.ear_link);
        }
        if takes && !self.fills.is_empty() {
            self.soon(100 * US, Event::EarFills);
        }
        self.wakes += 1;
        self.at(deadline.max(self.now), Event::EarWakes(self.wakes));
    }

    pub(crate) fn ear_lost(&mut self) {
        if let Some(protocol) = self.protocol.take() {
            protocol.disconnect(time(self.now));
        }
        self.fills.clear();
        let waiting: Vec<_> = self.waiting.keys().copied().collect();
        for token in waiting {
            self.fenced(token, false);
        }
        let wait = self.dice.between(MS, 60 * MS);
        self.at(self.now + wait, Event::EarConnects);
    }

    pub(crate) fn fence(&mut self, waiting: Waiting, late: Option<u64>) {
        self.tokens += 1;
        let token = self.tokens;
        self.waiting.insert(token, waiting);
        self.soon(200 * US, Event::EarFence(time(self.now), token));
        if let Some(late) = late {
            self.at(self.now + late, Event::FenceLate(token));
        }
    }

    /// That fence is back, or will not be in time.
    pub(crate) fn fenced(&mut self, token: u64, heard: bool) {
        match self.waiting.remove(&token) {
            Some(Waiting::Unheard(session, life)) if self.sessions[session].0 == life => {
                self.sessions[session].1.waits = false;
                if heard {
                    self.take(session);
                } else {
                    self.send_read(session, true);
                }
                self.step_soon(session, US);
            }
            Some(Waiting::Held(to)) => {
                if !heard {
                    self.memory.freshness.bump();
                }
                if self.sessions[to.session].0 == to.life
                    && let Some(command) = self.sessions[to.session].1.command(to.number)
                {
                    command.held = false;
                    self.deliver(to.session);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn promote(&mut self, key: Place, size: usize) {
        let fill = self.memory.describe(key, |request, query, _| {
            Fill::new(request, query, key.0 as u32, None, 100).expecting(size as u64)
        });
        self.memory.has_filled.set(true);
        if !std::mem::replace(&mut self.ear_begun, true) {
            self.soon(MS, Event::EarConnects);
        }
        if self.fills.len() < 100 {
            self.fills.push_back(fill);
            self.soon(200 * US, Event::EarFills);
        }
    }

    /// As `L1::forget_all`.
    pub(crate) fn forget_all(&mut self) {
        self.memory.opaque_writes.count();
        self.memory.freshness.bump();
    }

    pub(crate) fn end_swap(&mut self) {
        if self.memory.silence.end_swap() && self.memory.has_filled.get() {
            self.fence(Waiting::Nobody, None);
        }
    }
}
