//! What lanes do with what the program's pipelines tell: hand over answers, and what else an answer or a loss sets off, as `proxy`
//! has it.

use super::faults::{Fault, WorkerFault};
use super::link::Owner;
use super::process::{Ask, Command, Lane, LaneEvent, Marks, Pending, Recipient, Session, Who, place, request, time};
use super::sessions::check_order;
use super::world::{Event, Waiting, World};
use super::{MS, STALENESS, USERS};

impl World<'_> {
    pub(crate) fn lane(&mut self, worker: usize, who: Who) -> usize {
        if let Some(lane) = self.workers[worker].lane(who) {
            return lane.link;
        }
        let link = self.open(Owner::Lane(worker, who), who);
        *self.workers[worker].lane(who) = Some(Box::new(Lane::new(link, self.now)));
        link
    }

    pub(crate) fn lane_of(&mut self, session: usize) -> usize {
        let (worker, who) = (self.sessions[session].1.worker, self.sessions[session].1.who());
        let link = self.lane(worker, who);
        let session = &mut self.sessions[session].1;
        if session.lane != Some(link) {
            session.came = session.last_answer;
            session.lane = Some(link);
        }
        link
    }

    pub(crate) fn put(&mut self, session: usize, number: u64, words: &[&str], flight: bool, marks: Marks) {
        let link = self.lane_of(session);
        let (life, who) = (self.sessions[session].0, self.sessions[session].1.who());
        let (worker, memory) = (self.sessions[session].1.worker, self.memory);
        let command = self.sessions[session].1.command(number).expect("it is being sent");
        let ask = command.ask.clone();
        let now = self.now;
        let lane = self.workers[worker].lane(who).as_mut().expect("it was just made");
        command.sent = Some((link, lane.sent));
        let flight = match &ask {
            Ask::Get(key) if flight => {
                let (query, opaque) = (memory.query(who.0, (who.1, *key)), memory.opaque_writes.answered());
                Some(lane.flights.lead(&query, memory.stamps.load(query.slot), opaque, time(now)))
            }
            _ => None,
        };
        let to = Recipient { session, life, number };
        let pending = Pending { to, ask, flight, joined: Vec::new(), begun: false, marks, reply: Vec::new() };
        let bytes = lane.send(&request(words), pending, now);
        self.send(link, bytes);
    }

    pub(crate) fn lane_receives(&mut self, worker: usize, who: Who, bytes: &[u8]) {
        let Some(mut lane) = self.workers[worker].lane(who).take() else { return };
        let taken = lane.pipeline.receive(bytes, false, time(self.now), &mut |_| ());
        assert!(taken.is_ok(), "the model writes what is well formed");
        let mut replies = Vec::new();
        while let Some(event) = lane.event() {
            match event {
                LaneEvent::Piece(number, bytes) => {
                    let pending = lane.pending.get_mut(&number).expect("it waits");
                    pending.reply.extend_from_slice(&bytes);
                    if !std::mem::replace(&mut pending.begun, true) {
                        if let Some(flight) = pending.flight.take() {
                            pending.joined.extend(lane.flights.land(flight));
                        }
                        let (ask, marks, to) = (pending.ask.clone(), std::mem::take(&mut pending.marks), pending.to);
                        self.written(&ask, marks, bytes[0] == b'-', to);
                    }
                }
                LaneEvent::Over(number) => replies.extend(lane.pending.remove(&number)),
                LaneEvent::Lost(_) => unreachable!("it is not lost"),
            }
        }
        *self.workers[worker].lane(who) = Some(lane);
        for pending in replies {
            self.replied(&pending, who);
        }
    }

    /// The first byte of an answer is here: Redis has done it.
    pub(crate) fn written(&mut self, ask: &Ask, marks: Marks, refused: bool, to: Recipient) {
        if !ask.is_write() {
            return;
        }
        self.end_marks(marks, !refused);
        if matches!(ask, Ask::SwapDb) {
            if !refused {
                self.forget_all();
            }
            self.end_swap();
        }
        if !ask.is_opaque() {
            return;
        }
        if !self.plan.worker(WorkerFault::OpaqueUncounted) {
            self.memory.opaque_answered(Some(time(self.now)));
        }
        let hold = self.dice.chance(400);
        let filled: Vec<_> = (0..USERS).filter(|&user| self.memory.users[user].has_filled.get()).collect();
        if hold && !filled.is_empty() && !self.plan.worker(WorkerFault::OpaqueUnfenced) {
            if let Some(command) = self.of(to) {
                command.held = filled.len();
                for user in filled {
                    let left = self.memory.users[user].freshness.lease_left(time(self.now)).as_nanos() as u64;
                    let left = if self.memory.silence.is_swapping() { STALENESS } else { left };
                    self.fence(user, Waiting::Held(to), Some(left));
                }
            }
            return;
        }
        if !self.plan.worker(WorkerFault::OpaqueUnfenced) {
            self.memory.opaque_writes.add(time(self.now));
        }
        for user in filled {
            if self.dice.chance(300) {
                self.fence(user, Waiting::Nobody, None);
            }
        }
    }

    /// The write is answered, or its connection lost.
    fn end_marks(&self, marks: Marks, acknowledged: bool) {
        let watermarks = self.memory.store.watermarks();
        let ended = watermarks.moment();
        for slot in marks.slots {
            match self.plan.fault {
                Some(Fault::Worker(WorkerFault::NoMarkAtAnswer | WorkerFault::NoMark)) => {}
                Some(Fault::Worker(WorkerFault::NoMarkAtSend)) => self.memory.stamps.touch(slot),
                _ => self.memory.stamps.end(slot),
            }
            if let Some(begun) = marks.begun.filter(|_| acknowledged) {
                watermarks.acknowledged(slot, begun, ended);
            }
        }
    }

    pub(crate) fn of(&mut self, to: Recipient) -> Option<&mut Command> {
        let (life, session) = &mut self.sessions[to.session];
        if *life == to.life { session.command(to.number) } else { None }
    }

    /// The whole answer is here.
    pub(crate) fn replied(&mut self, pending: &Pending, (user, db): Who) {
        let reply = &pending.reply;
        let sent = self.of(pending.to).and_then(|command| command.sent);
        for to in std::iter::once(pending.to).chain(pending.joined.iter().copied()) {
            if let Some(command) = self.of(to) {
                command.answer = Some(reply.clone());
                command.sent = command.sent.or(sent);
                let now = time(self.now);
                self.sessions[to.session].1.reads.answered(place(to.number), now);
                self.deliver(to.session);
            }
        }
        if reply[0] != b'-' {
            for key in pending.ask.keys_read() {
                if self.dice.chance(500) || !pending.joined.is_empty() {
                    self.promote(user, (db, key), reply.len());
                }
            }
        }
    }

    pub(crate) fn lane_lost(&mut self, worker: usize, who: Who) {
        let Some(mut lane) = self.workers[worker].lane(who).take() else { return };
        let error = lane.pipeline.lost("it was cut");
        if let Some(loss) = lane.pipeline.lose(&error) {
            loss.tell(&error, |_, _| ());
        }
        let mut again = Vec::new();
        while let Some(LaneEvent::Lost(number)) = lane.event() {
            let mut pending = lane.pending.remove(&number).expect("it waits");
            if let Some(flight) = pending.flight.take() {
                pending.joined.extend(lane.flights.land(flight));
            }
            if pending.ask.is_write() {
                if !pending.begun {
                    self.end_marks(std::mem::take(&mut pending.marks), false);
                    if matches!(pending.ask, Ask::SwapDb) {
                        self.forget_all();
                        self.at(self.now + STALENESS, Event::SwapOver);
                    }
                    if pending.ask.is_opaque() {
                        self.memory.opaque_answered(Some(time(self.now)));
                        self.memory.opaque_writes.add(time(self.now));
                    }
                }
                self.close(pending.to);
                continue;
            }
            for to in std::iter::once(pending.to).chain(pending.joined) {
                let wrote = self.sessions[to.session].1.last_write;
                match self.of(to) {
                    Some(command) if !command.was_sent_again && wrote.is_none_or(|wrote| wrote < to.number) => {
                        command.was_sent_again = true;
                        again.push(to);
                    }
                    _ => self.close(to),
                }
            }
        }
        for to in again {
            if self.of(to).is_some() {
                self.send_words(to.session, to.number, false);
            }
        }
    }

    /// The session's client is closed; another comes.
    pub(crate) fn close(&mut self, to: Recipient) {
        let (life, session) = &mut self.sessions[to.session];
        if *life != to.life {
            return;
        }
        if self.report.violation.is_none() {
            self.report.violation = check_order(&self.judge, &session.answered);
        }
        *life += 1;
        *session = Session::new(session.worker, session.who(), session.depth);
        self.step_soon(to.session, 5 * MS);
    }
}
