//! One schedule: the events, in the order of one clock, and the links of the process.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

use crema::clock::Time;
use crema::metrics::{AuditBreach, AuditDoubt};

use super::channel::Channel;
use super::dice::Dice;
use super::ears::EarState;
use super::faults::Plan;
use super::judge::{Judge, ms};
use super::link::{Link, Owner};
use super::process::{Memory, Recipient, Session, Who, Worker};
use super::redis::Server;
use super::sessions::check_order;
use super::{MS, STALENESS, US, USERS};

/// When nothing more goes wrong.
pub(crate) const CALM: u64 = 350 * MS;
/// When sessions ask no more: long enough after for all that binds to bind.
pub(crate) const LAST: u64 = CALM + 3 * STALENESS;
/// When all must have been answered.
pub(crate) const END: u64 = LAST + 8_000 * MS;
pub(crate) const SESSIONS: usize = 5;
pub(crate) const WORKERS: usize = 2;

#[derive(Clone, Copy)]
pub(crate) enum Event {
    /// Bytes have arrived at the server, or at the process, unless it was found since that they come at another time.
    Up(usize, u64),
    Down(usize, u64),
    /// Of that user.
    EarConnects(usize),
    EarWakes(usize, u64),
    /// A fence, or fills, that workers have asked for come to the ear's thread.
    EarFence(usize, Time, u64),
    EarFills(usize),
    EarAudits(usize),
    /// The link to the channel.
    ChannelConnects,
    ChannelAsks(usize),
    Step(usize, u64),
    FenceLate(u64),
    /// A swap whose answer was lost may have been done until now.
    SwapOver,
    Expiry,
    Meet,
    Past,
    Trouble,
    Ambush,
    /// What ears are sent stands still for so long.
    EarFreezes(u64),
    /// Ears are lost.
    EarBreaks,
    MasterAgain,
    /// A user may read a key no more.
    RightTaken,
}

impl Event {
    /// Whether it waits while the process stands still.
    fn is_of_process(self) -> bool {
        match self {
            Self::Down(..)
            | Self::EarConnects(_)
            | Self::EarWakes(..)
            | Self::EarFence(..)
            | Self::EarFills(_)
            | Self::EarAudits(_)
            | Self::ChannelConnects
            | Self::ChannelAsks(_)
            | Self::Step(..)
            | Self::FenceLate(_)
            | Self::SwapOver => true,
            Self::Up(..)
            | Self::Expiry
            | Self::Meet
            | Self::Past
            | Self::MasterAgain
            | Self::RightTaken
            | Self::Trouble
            | Self::Ambush
            | Self::EarFreezes(_)
            | Self::EarBreaks => false,
        }
    }
}

/// An event and its time. What happens at one time happens in the order in which it was put there.
pub(crate) struct Scheduled {
    when: u64,
    number: u64,
    event: Event,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.when, self.number).cmp(&(other.when, other.number))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

/// What the next trouble lies in wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ambush {
    /// A read on a lane of a key of which nobody is told.
    Read,
    /// The ear's question how often databases were swapped.
    Probe,
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
    /// Hits that were read again and compared.
    pub(crate) audited: u64,
    /// Hits that were held against writes and pushes, and those that should have been void and may have been right.
    pub(crate) ordered: u64,
    pub(crate) under_way: u64,
    /// Of all bytes and answers, with their times.
    pub(crate) trace: u64,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct World<'a> {
    pub(crate) memory: &'a Memory,
    pub(crate) plan: Plan,
    pub(crate) dice: Dice,
    pub(crate) now: u64,
    pub(crate) events: BinaryHeap<Reverse<Scheduled>>,
    pub(crate) count: u64,
    pub(crate) server: Server,
    pub(crate) judge: Judge,
    pub(crate) links: Vec<Link>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) sessions: Vec<(u64, Session)>,
    pub(crate) ears: [EarState<'a>; USERS],
    pub(crate) channel: Channel,
    /// Each with the user on whose ear it waits.
    pub(crate) waiting: BTreeMap<u64, (usize, Waiting)>,
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
    pub(crate) ambush: Option<Ambush>,
    /// Little is written.
    pub(crate) calm: bool,
    /// Tells all that happens.
    tells: bool,
    pub(crate) report: Report,
}

impl<'a> World<'a> {
    pub(crate) fn new(memory: &'a Memory, seed: u64, plan: Plan) -> Self {
        let mut dice = Dice::new(seed);
        memory.store.watermarks().follow(plan.audits);
        let workers = (0..WORKERS).map(|_| Worker::new()).collect();
        let sessions = (0..SESSIONS).map(|n| {
            let who = (usize::from(dice.chance(300)), usize::from(dice.chance(200)));
            (0, Session::new(n % WORKERS, who, [1, 1, 1, 2, 4][dice.below(5) as usize]))
        });
        let sessions = sessions.collect();
        let (stormy, calm) = (dice.chance(200), dice.chance(400));
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
            events: BinaryHeap::with_capacity(256),
            count: 0,
            server,
            judge: Judge::new(),
            links: Vec::new(),
            workers,
            sessions,
            ears: Default::default(),
            channel: Channel::default(),
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
            ambush: None,
            calm,
            tells: false,
            report: Report::default(),
        };
        match world.dice.below(3) {
            0 => world.server.closed_since = Some(0),
            1 => {
                let closes = world.dice.between(100 * MS, 300 * MS);
                world.at(closes, Event::RightTaken);
            }
            _ => {}
        }
        let ambush = world.dice.between(50 * MS, 200 * MS);
        world.at(ambush, Event::Ambush);
        for session in 0..SESSIONS {
            let first = world.dice.between(0, 5 * MS);
            world.at(first, Event::Step(session, 0));
            world.sessions[session].1.is_due = true;
        }
        world.at(0, Event::ChannelConnects);
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
        while let Some(Reverse(Scheduled { when, event, .. })) = self.events.pop()
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
            if event.is_of_process() && self.now < self.stopped_until {
                let when = self.stopped_until + self.dice.below(200 * US);
                self.at(when, event);
                continue;
            }
            self.happen(event);
            self.look_at_audit();
        }
        self.look_at_audit();
        let alone = self.asks_audit_alone();
        for (_, session) in &mut self.sessions {
            let answered = std::mem::take(&mut session.answered);
            if self.report.violation.is_none() && !alone {
                self.report.violation = check_order(&self.judge, &answered);
            }
        }
        self.report
    }

    /// Whether it is the audit that is to find the fault.
    fn asks_audit_alone(&self) -> bool {
        self.plan.audits && self.plan.fault.is_some()
    }

    fn look_at_audit(&mut self) {
        if self.asks_audit_alone() {
            self.report.violation = None;
        }
        let stats = &self.memory.stats;
        (self.report.audited, self.report.ordered) = (stats.audit_checked.get(), stats.audit_ordered.get());
        self.report.under_way = stats.audit_doubts(AuditDoubt::UnderWay);
        let wanted = |breach: &AuditBreach| self.plan.wanted.is_none_or(|wanted| wanted == *breach);
        if let Some(found) = AuditBreach::ALL.into_iter().find(|of| wanted(of) && stats.audit_breaches(*of) > 0) {
            self.report.violation =
                Some(format!("a hit that is audited is called wrong at {}: {found:?}", ms(self.now)));
        }
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
        self.events.push(Reverse(Scheduled { when, number: self.count, event }));
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
        let mut note = |word: u64| {
            self.report.trace = (self.report.trace ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        };
        note(self.now);
        for word in bytes.chunks(8) {
            let mut eight = [0; 8];
            eight[..word.len()].copy_from_slice(word);
            note(u64::from_le_bytes(eight));
        }
    }

    pub(crate) fn happen(&mut self, event: Event) {
        match event {
            Event::Up(link, when) if self.links[link].up.is_due(when) => self.up(link),
            Event::Down(link, when) if self.links[link].down.is_due(when) => self.down(link),
            Event::EarConnects(user) => self.connect_ear(user),
            Event::EarWakes(user, when) if when == self.ears[user].wakes_at => self.wake_ear(user),
            Event::EarFence(user, since, token) => self.send_fence(user, since, token),
            Event::EarFills(user) => self.send_fills(user),
            Event::EarAudits(user) => self.send_audits(user),
            Event::ChannelConnects => self.connect_channel(),
            Event::ChannelAsks(link) => self.ask_channel(link),
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
            Event::Ambush => self.ambush = Some(self.an_ambush()),
            Event::EarFreezes(span) => {
                let open = self.ears.iter().filter(|ear| ear.protocol.is_some() && self.now < CALM);
                open.for_each(|ear| self.links[ear.link].down.frozen_until = self.now + span);
            }
            Event::EarBreaks if self.now < CALM => {
                for user in 0..USERS {
                    if self.ears[user].protocol.is_some() {
                        self.lose(self.ears[user].link);
                    }
                }
            }
            Event::Up(..) | Event::Down(..) | Event::EarWakes(..) | Event::EarBreaks => {} // their time is over
            Event::RightTaken => self.server.closed_since = Some(self.now),
            Event::MasterAgain => {
                self.server.is_master = true;
                let mut out = Vec::new();
                // It takes in the whole of another's data.
                self.server.write_past(0, &["FLUSHALL"], self.now, &mut self.judge, &mut out);
                self.deliver_out(out);
            }
        }
    }

    pub(crate) fn open(&mut self, owner: Owner, who: Who) -> usize {
        let link = Link::new(owner, &mut self.dice);
        self.links.push(link);
        let number = self.links.len() - 1;
        self.server.connect(number, who);
        number
    }

    pub(crate) fn send(&mut self, link: usize, bytes: Vec<u8>) {
        if self.links[link].is_open() && !bytes.is_empty() {
            let delay = self.links[link].delay(&mut self.dice);
            let when = self.links[link].up.send(bytes, delay, self.now);
            self.expect_up(link, when);
        }
    }

    /// There is something to be looked for at the server's end of a link then.
    pub(crate) fn expect_up(&mut self, link: usize, when: u64) {
        if self.links[link].up.look(when) {
            self.at(when, Event::Up(link, when));
        }
    }

    /// The same at the process's end.
    pub(crate) fn expect_down(&mut self, link: usize, when: u64) {
        if self.links[link].down.look(when) {
            self.at(when, Event::Down(link, when));
        }
    }

    pub(crate) fn down(&mut self, link: usize) {
        if !self.links[link].is_open() {
            return;
        }
        let (bytes, more) = self.links[link].down.arrive(&mut self.dice, self.now);
        if let Some(more) = more {
            self.expect_down(link, more);
        }
        if bytes.is_empty() {
            return;
        }
        self.trace(&bytes, || format!("link {link} down"));
        self.pulse = self.now;
        match self.links[link].owner {
            Owner::Ear(user) => self.ear_receives(user, &bytes),
            Owner::Lane(worker, who) => self.lane_receives(worker, who, &bytes),
            Owner::Channel => self.channel_receives(&bytes),
        }
    }
}
