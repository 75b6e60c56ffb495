//! How a command of a session, or a part of one, is put on a lane: what it reads is noted, what it writes is marked, and where there is
//! no lane its client is told, or another node comes to serve it.
//!
//! Holds contract point 3 (own writes).

use std::borrow::Cow;
use std::rc::Rc;

use super::caller::Caller;
use super::in_flight::{InFlight, ReplyAction};
use super::notified_write::{NoticeForm, notify};
use super::noting::note_big_write;
use super::read_history::slots_read;
use super::recipient::Recipient;
use super::reply_queue::ReplyPlace;
use super::site::Site;
use super::start::{BIG, Start};
use super::worker::Worker;
use super::write_guard::WriteGuard;
use crate::clock::Time;
use crate::command::Spec;
use crate::error::{Error, Sent};
use crate::invalidation::Fill;
use crate::resp::Request;
use crate::upstream::NodeIndex;

impl Caller {
    /// Sends a read that nobody joins, the command at `place` or a part of it; `fills` are asked for once it is answered.
    pub(super) fn put_read(
        &mut self,
        (worker, at): (&Worker, NodeIndex),
        (spec, request): (&Spec, Request<'_>),
        to: (ReplyPlace, Recipient),
        fills: Vec<Fill>,
        now: Time,
    ) {
        self.note_reads(at, to.0, slots_read(&worker.shared.l1.memory.stamps, spec, request));
        let reader = self.reader(at);
        self.put((worker, at), request.raw(), to, ReplyAction::Read(reader, fills), now);
    }

    /// Sends a command that changes keys, the one at `place` or a part of it.
    #[expect(clippy::inline_always, reason = "the way of every SET")]
    #[inline(always)]
    pub(super) fn put_write(
        &mut self,
        (worker, at): (&Worker, NodeIndex),
        (spec, request): (&Spec, Request<'_>),
        (place, recipient): (ReplyPlace, Recipient),
        now: Time,
    ) {
        match self.track((worker, at), now) {
            Ok(track) => {
                self.side_mut(at).0.sent(place);
                let (command, action) = self.marked(&track.site, spec, request);
                let bytes = request.raw().len() as u64;
                if bytes >= BIG {
                    note_big_write(&worker.stats, spec, request, bytes);
                }
                let mut pending = InFlight::new(&track.site, recipient, action, Start::of(&worker.stats, now));
                if worker.is_cluster() {
                    pending.set_caller(&self.side(at).who, self.resp);
                }
                track.send(&command, pending, now);
            }
            Err(error) if worker.is_cluster() => {
                let (command, action) = self.marked(&worker.station(at).site, spec, request);
                self.unsent((worker, at), recipient, action, &command, &error);
            }
            Err(error) => recipient.refuse(&worker.shared, &error, Sent::No), // and nothing was marked
        }
    }

    /// A write with its stamps marked, as it is sent.
    #[inline]
    pub(super) fn marked<'a>(
        &self,
        site: &Rc<Site>,
        spec: &Spec,
        request: Request<'a>,
    ) -> (Cow<'a, [u8]>, ReplyAction) {
        let l1 = &site.shared.l1;
        let is_concerned = || l1.terms.beyond.as_ref().is_some_and(|beyond| beyond.is_concerned(spec, request));
        if l1.writes_go_alone() || !l1.mode().writes_tell() && !is_concerned() {
            let guard = WriteGuard::begin(site, spec, request);
            return (Cow::Borrowed(request.raw()), ReplyAction::Write(guard.untold()));
        }
        let guard = WriteGuard::begin_accompanied(site, spec, request, self.who.db);
        let user = self.who.seat.user();
        let form = NoticeForm::of(site, user, spec, request);
        let (command, write) = notify(l1, (user, self.who.db), guard, form, request.raw());
        (command, write.into())
    }

    /// Sends the command at `place`, or a part of it, which is answered to `recipient`.
    pub(super) fn put(
        &mut self,
        (worker, at): (&Worker, NodeIndex),
        command: &[u8],
        (place, recipient): (ReplyPlace, Recipient),
        action: ReplyAction,
        now: Time,
    ) {
        match self.track((worker, at), now) {
            Ok(track) => {
                self.side_mut(at).0.sent(place);
                let mut pending = InFlight::new(&track.site, recipient, action, Start::of(&worker.stats, now));
                if worker.is_cluster() {
                    pending.set_caller(&self.side(at).who, self.resp);
                }
                track.send(command, pending, now);
            }
            Err(error) => self.unsent((worker, at), recipient, action, command, &error),
        }
    }

    /// There is no lane for it. In a cluster another node may come to serve it.
    #[cold]
    pub(super) fn unsent(
        &mut self,
        (worker, at): (&Worker, NodeIndex),
        recipient: Recipient,
        action: ReplyAction,
        command: &[u8],
        error: &Error,
    ) {
        if !worker.is_cluster() {
            return recipient.refuse(&worker.shared, error, Sent::No);
        }
        self.side_mut(at).0.sent(recipient.place());
        let station = worker.station(at);
        let mut pending = InFlight::new(&station.site, recipient, action, Start::at(Time::NEVER));
        pending.set_caller(&self.side(at).who, self.resp);
        station.fail_unsent(pending, command, error);
    }
}
