//! The ears, one for each user, run as `ear::task` runs them; and who waits for their fences.

use std::collections::VecDeque;

use crema::cache::{HitFault, KeyMarks};
use crema::clock::Time;
use crema::invalidation::ear::{Disconnection, EarEffect, Protocol};
use crema::invalidation::{Audit, Fill};
use crema::metrics::AuditBreach;

use super::faults::Plan;
use super::judge::Place;
use super::link::Owner;
use super::process::{USER_NAMES, time};
use super::world::{Event, Waiting, World};
use super::{MS, US, USERS};

type EarProtocol<'a> = Box<Protocol<'a, u64, Plan>>;

/// What there is of a user's ear beside its memory.
pub(crate) struct EarState<'a> {
    /// None where it is not connected.
    pub(crate) protocol: Option<EarProtocol<'a>>,
    pub(crate) link: usize,
    input: Vec<u8>,
    begun: bool,
    /// When it is woken next.
    pub(crate) wakes_at: u64,
    fills: VecDeque<Fill>,
    fills_due: bool,
    audits: VecDeque<Audit>,
    audits_due: bool,
}

impl Default for EarState<'_> {
    fn default() -> Self {
        Self {
            protocol: None,
            link: usize::MAX,
            input: Vec::new(),
            begun: false,
            wakes_at: u64::MAX,
            fills: VecDeque::new(),
            fills_due: false,
            audits: VecDeque::new(),
            audits_due: false,
        }
    }
}

impl<'a> World<'a> {
    pub(crate) fn connect_ear(&mut self, user: usize) {
        let link = self.open(Owner::Ear(user), (user, 0));
        let ear = &mut self.ears[user];
        ear.link = link;
        ear.input.clear();
        let (around, name) = (self.memory.around(user), USER_NAMES[user].as_bytes());
        let protocol = Protocol::with_faults(self.plan, around, name, 0, time(self.now));
        self.after(user, Box::new(protocol), Ok(()));
    }

    pub(crate) fn ear_receives(&mut self, user: usize, bytes: &[u8]) {
        let ear = &mut self.ears[user];
        ear.input.extend_from_slice(bytes);
        if let Some(mut protocol) = ear.protocol.take() {
            let went = protocol.receive(&mut ear.input, time(self.now));
            self.after(user, protocol, went);
        }
    }

    pub(crate) fn wake_ear(&mut self, user: usize) {
        self.ears[user].wakes_at = u64::MAX;
        if let Some(mut protocol) = self.ears[user].protocol.take() {
            let went = protocol.wake(time(self.now), time(self.pulse));
            self.after(user, protocol, went);
        }
    }

    pub(crate) fn send_fence(&mut self, user: usize, since: Time, token: u64) {
        match self.ears[user].protocol.take() {
            Some(mut protocol) => {
                protocol.fence(since, token, time(self.now));
                self.after(user, protocol, Ok(()));
            }
            None => self.fenced(token, false),
        }
    }

    pub(crate) fn send_fills(&mut self, user: usize) {
        let ear = &mut self.ears[user];
        ear.fills_due = false;
        if let Some(mut protocol) = ear.protocol.take() {
            let fills = &mut ear.fills;
            if protocol.takes_fills() && !fills.is_empty() {
                protocol.fill(std::iter::from_fn(|| fills.pop_front()), time(self.now));
            }
            self.after(user, protocol, Ok(()));
        }
    }

    /// What has just answered that user's read is held against what its key's watermarks were before, and is to be read again, as
    /// `AuditedHit::judge` has it.
    pub(crate) fn audit(&mut self, user: usize, (db, key): Place, marks: Option<KeyMarks>) {
        let (memory, now) = (self.memory, time(self.now));
        let (fresh, stats) = (&memory.users[user].freshness, &memory.stats);
        let query = memory.query(user, (db, key));
        let exhibit = memory.store.exhibit(&query, &memory.stamps, fresh, now);
        let exhibit = exhibit.expect("it has just answered");
        if !fresh.is_proved(now) {
            stats.audit_breached(AuditBreach::Lease);
        }
        match marks.map_or(Ok(()), |marks| memory.store.order(&exhibit, marks)) {
            Ok(()) => stats.audit_ordered.add(1),
            Err(HitFault::Doubt(doubt)) => stats.audit_doubted(doubt),
            Err(HitFault::Breach(breach)) => stats.audit_breached(breach),
        }
        self.ears[user].audits.push_back(Audit::new(exhibit, db as u32));
        self.audit_soon(user, 200 * US);
    }

    fn audit_soon(&mut self, user: usize, most: u64) {
        if !std::mem::replace(&mut self.ears[user].audits_due, true) {
            self.soon(most, Event::EarAudits(user));
        }
    }

    pub(crate) fn send_audits(&mut self, user: usize) {
        let ear = &mut self.ears[user];
        ear.audits_due = false;
        if let Some(mut protocol) = ear.protocol.take() {
            let audits = &mut ear.audits;
            if protocol.takes_audits() && !audits.is_empty() {
                protocol.audit(std::iter::from_fn(|| audits.pop_front()), time(self.now));
            }
            self.after(user, protocol, Ok(()));
        }
    }

    /// What has to be done after each call of the protocol.
    fn after(&mut self, user: usize, mut protocol: EarProtocol<'a>, went: Result<(), Disconnection>) {
        let mut out = Vec::new();
        protocol.take_unsent(&mut out);
        let link = self.ears[user].link;
        self.send(link, out);
        let effects: Vec<_> = protocol.effects().collect();
        let deadline = protocol.deadline().saturating_since(time(0)).as_nanos() as u64;
        let (takes, takes_audits) = (protocol.takes_fills(), protocol.takes_audits());
        self.ears[user].protocol = Some(protocol);
        for effect in effects {
            if let EarEffect::Fenced(token) = effect {
                self.fenced(token, true);
            }
        }
        if let Err(ending) = went {
            assert!(matches!(ending, Disconnection::Silent(_)), "{ending:?}");
            return self.lose(link);
        }
        if takes && !self.ears[user].fills.is_empty() {
            self.fill_soon(user, 100 * US);
        }
        if takes_audits && !self.ears[user].audits.is_empty() {
            self.audit_soon(user, 100 * US);
        }
        let deadline = deadline.max(self.now);
        if deadline < self.ears[user].wakes_at {
            self.ears[user].wakes_at = deadline;
            self.at(deadline, Event::EarWakes(user, deadline));
        }
    }

    pub(crate) fn ear_lost(&mut self, user: usize) {
        if let Some(protocol) = self.ears[user].protocol.take() {
            protocol.disconnect(time(self.now));
        }
        self.ears[user].fills.clear();
        self.ears[user].audits.clear();
        let waiting: Vec<_> = self.waiting.iter().filter(|(_, (of, _))| *of == user).map(|(&token, _)| token).collect();
        for token in waiting {
            self.fenced(token, false);
        }
        let wait = if self.dice.chance(500) { self.dice.between(MS, 5 * MS) } else { self.dice.between(MS, 60 * MS) };
        self.at(self.now + wait, Event::EarConnects(user));
    }

    pub(crate) fn fence(&mut self, user: usize, waiting: Waiting, late: Option<u64>) {
        self.tokens += 1;
        let token = self.tokens;
        self.waiting.insert(token, (user, waiting));
        self.soon(200 * US, Event::EarFence(user, time(self.now), token));
        if let Some(late) = late {
            self.at(self.now + late, Event::FenceLate(token));
        }
    }

    /// That fence is back, or will not be in time.
    pub(crate) fn fenced(&mut self, token: u64, heard: bool) {
        match self.waiting.remove(&token) {
            Some((_, Waiting::Unheard(session, life))) if self.sessions[session].0 == life => {
                self.sessions[session].1.waits = false;
                if heard {
                    self.take(session);
                } else {
                    self.send_read(session, true);
                }
                self.step_soon(session, US);
            }
            Some((user, Waiting::Held(to))) => {
                if !heard {
                    self.memory.users[user].freshness.bump();
                }
                if self.sessions[to.session].0 == to.life
                    && let Some(command) = self.sessions[to.session].1.command(to.number)
                {
                    command.held -= 1;
                    self.deliver(to.session);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn promote(&mut self, user: usize, key: Place, size: usize) {
        let fill = self.memory.fill(user, key, size);
        self.memory.users[user].has_filled.set(true);
        if !std::mem::replace(&mut self.ears[user].begun, true) {
            self.soon(MS, Event::EarConnects(user));
        }
        if self.ears[user].fills.len() < 100 {
            self.ears[user].fills.push_back(fill);
            self.fill_soon(user, 200 * US);
        }
    }

    fn fill_soon(&mut self, user: usize, most: u64) {
        if !std::mem::replace(&mut self.ears[user].fills_due, true) {
            self.soon(most, Event::EarFills(user));
        }
    }

    /// As `L1::forget_all`.
    pub(crate) fn forget_all(&mut self) {
        self.memory.opaque_answered(None);
        self.memory.users.iter().for_each(|user| user.freshness.bump());
    }

    pub(crate) fn end_swap(&mut self) {
        if self.memory.silence.end_swap() {
            for user in 0..USERS {
                if self.memory.users[user].has_filled.get() {
                    self.fence(user, Waiting::Nobody, None);
                }
            }
        }
    }
}
