//! What the worker does for those who know neither lanes nor sessions: it sends commands again that were not carried out, and doubts
//! what was proved.
//!
//! Holds contract point 7 (a write is sent once).

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::detour::{Detour, SentCommand, Tries, without_asking};
use super::in_flight::{InFlight, ReplyAction};
use super::read_history::slots_read;
use super::reader::Reader;
use super::replies::Replies;
use super::reply_queue::ReplyPlace;
use super::returned::{ReplyPurpose, ReturnReason, ReturnedCommand};
use super::seek::Question;
use super::site::Foreman;
use super::start::Start;
use super::worker::Worker;
use crate::beyond::WriteSequel;
use crate::clock::Time;
use crate::error::Sent;
use crate::metrics::{DropReason, ReadRole};
use crate::upstream::Forwarder;

impl Foreman for Worker {
    fn carried_out(&self, replies: &Rc<Replies>, place: ReplyPlace, bytes: &[u8]) {
        self.pilots.carried_out(replies, place, bytes);
    }

    fn written(
        self: Rc<Self>,
        (sequel, db): &mut (WriteSequel, u32),
        done: bool,
        alone: bool,
    ) -> Option<oneshot::Receiver<()>> {
        let kept = std::mem::take(&mut sequel.kept);
        let owed = (alone && !kept.is_empty()).then(|| self.remove_kept(kept, *db));
        if done {
            sequel.copies.iter().for_each(|key| self.copy_down(key, *db, true));
            if sequel.flushes {
                self.flush_tiers();
            }
        }
        owed
    }

    fn filled(self: Rc<Self>, key: &[u8], db: u32) {
        self.copy_down(key, db, false);
    }

    fn has_found(self: Rc<Self>, question: &Question, db: u32) {
        self.refresh(question, db);
    }

    fn lost_connection(self: Rc<Self>, doubted: Option<&[u8]>) {
        self.foreign.forget();
        if let Some(user) = doubted {
            self.doubt(user);
        }
    }
}

impl Forwarder<InFlight> for Worker {
    fn forward(self: Rc<Self>, waiter: InFlight, bytes: &[u8]) {
        let Some(command) = waiter.unpack() else { return };
        if command.site.is_replica {
            return self.ask_master(command, bytes);
        }
        if let ReturnReason::Absent(_) = command.why {
            return self.seek(command, without_asking(bytes));
        }
        if let (ReturnReason::Lost(..), ReplyPurpose::Read(..) | ReplyPurpose::Lead(..)) =
            (&command.why, &command.purpose)
        {
            self.stats.retried_reads.add(1 + command.joined.len() as u64);
        }
        if command.site.redirects {
            let plain = without_asking(bytes);
            self.lead_on(command, plain, plain.len() < bytes.len());
        } else {
            self.send_again(command, bytes);
        }
    }
}

impl Worker {
    /// Sends each who waits for the command, which went behind an `ASKING` or without, on a detour of its own.
    fn lead_on(self: &Rc<Self>, command: ReturnedCommand, bytes: &[u8], asking: bool) {
        let mut spans = Vec::new();
        let slot = SentCommand::read(bytes, &mut spans).and_then(|sent| sent.slot());
        let (bytes, now): (Rc<[u8]>, _) = (bytes.into(), Time::now());
        let ReturnedCommand { site, first, joined, purpose, why, caller, start } = command;
        let Some(caller) = caller else { return };
        (0..purpose.promotions()).for_each(|_| self.stats.dropped(DropReason::Redirected));
        for recipient in joined {
            let reader = Reader::new(Rc::clone(&caller.0), caller.1, false);
            let detour = Detour {
                recipient,
                purpose: ReplyPurpose::Read(reader, Vec::new()),
                bytes: Rc::clone(&bytes),
                asking,
                why: why.clone(),
                site: Rc::clone(&site),
                caller: caller.clone(),
                start: Start::at(now),
                tries: Tries::new(now),
            };
            self.detour(detour, slot);
        }
        let (recipient, tries) = (first, Tries::new(now));
        self.detour(Detour { recipient, purpose, bytes, asking, why, site, caller, start, tries }, slot);
    }

    /// Has the master answer a read that a replica did not.
    fn ask_master(self: &Rc<Self>, command: ReturnedCommand, bytes: &[u8]) {
        self.stats.read_at(ReadRole::Both, 1 + command.joined.len() as u64);
        let mut spans = Vec::new();
        if let Some(SentCommand { spec, request }) = SentCommand::read(bytes, &mut spans) {
            let (at, stamps) = (self.serving(spec, request), &self.shared.l1.memory.stamps);
            let reached = Time::now().minus(self.shared.l1.terms.max_staleness.get());
            for recipient in std::iter::once(&command.first).chain(&command.joined) {
                for slot in slots_read(stamps, spec, request) {
                    recipient.replies().note_master_read(at, recipient.place(), slot, reached);
                }
            }
        }
        self.send_again(command, bytes);
    }

    /// Sends a read again whose connection was lost.
    fn send_again(self: &Rc<Self>, command: ReturnedCommand, bytes: &[u8]) {
        let (mut spans, now) = (Vec::new(), Time::now());
        let Some(SentCommand { spec, request }) = SentCommand::read(bytes, &mut spans) else {
            debug_assert!(false, "what was sent can be read");
            return;
        };
        let (ReplyPurpose::Read(reader, _) | ReplyPurpose::Lead(reader, ..)) = &command.purpose else { return };
        let mut station = self.station(self.serving(spec, request));
        if station.node().is_gone() {
            // Another has taken its place, of which this thread has not been told yet.
            let newest = Arc::clone(&self.shared.topology.borrow());
            self.adopt(newest);
            station = self.station(self.serving(spec, request));
        }
        let track = match station.track(&reader.who, reader.resp, reader.script, now) {
            Ok(track) => track,
            // Another node may come to serve it.
            Err(_) if self.is_cluster() => return self.lead_on(command, bytes, false),
            Err(error) => {
                let ReturnedCommand { first, joined, .. } = command;
                let all = std::iter::once(first).chain(joined);
                return all.for_each(|recipient| recipient.refuse(&self.shared, &error, Sent::No));
            }
        };
        let ReturnedCommand { first, joined, purpose, start, .. } = command;
        match purpose {
            ReplyPurpose::Read(reader, fills) => {
                let action = ReplyAction::Read(reader, fills);
                track.send(bytes, InFlight::new(&track.site, first, action, start), now);
            }
            ReplyPurpose::Lead(reader, coin) => {
                let joined = (!joined.is_empty()).then(|| Box::new(joined));
                let query = &reader.who.clone().query(&self.shared.l1, spec, request);
                track.lead((first, joined), (reader, coin), (bytes, query), (now, now));
            }
            ReplyPurpose::Pass | ReplyPurpose::Write(_) => {}
        }
    }
}
