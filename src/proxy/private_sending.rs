//! How a command of a session is put on a connection of its own: what it reads is noted, what it writes is marked, and what it is to
//! a transaction is said.
//!
//! Holds contract points 2 (order) and 3 (own writes).

use std::borrow::Cow;
use std::rc::Rc;

use super::caller::Caller;
use super::in_flight::{InFlight, ReplyAction};
use super::notified_write::{NoticeForm, notify};
use super::noting::{note_big_write, note_private};
use super::private::OwnLane;
use super::queued::{QueueNote, QueuedCommand};
use super::read_history::slots_read;
use super::reader::Reader;
use super::recipient::{Recipient, Tally};
use super::reply_queue::ReplyPlace;
use super::site::Site;
use super::start::{BIG, Start};
use super::write_guard::WriteGuard;
use crate::clock::Time;
use crate::command::{Effect, Route, Spec, Verb};
use crate::invalidation::Fill;
use crate::metrics::Outcome;
use crate::resp::Request;

impl Caller {
    /// Sends a command on a private connection, with the stamps of what it writes. Of its bytes, so many have gone ahead and are not here.
    /// Nothing may be unanswered on the lane.
    pub(crate) fn send_on(
        &mut self,
        lane: &OwnLane,
        spec: &Spec,
        request: Request<'_>,
        (role, gone): (Role, usize),
        now: Time,
    ) -> ReplyPlace {
        self.note_command(&lane.site, spec, request, gone);
        debug_assert!(!self.is_on_lane(), "a session changes connections only when all that it sent has been answered");
        self.leave_lanes();
        let place = self.replies.reserve();
        self.send_to(lane, (place, Tally::new(spec, Outcome::Pinned)), (spec, request), role, now);
        place
    }

    /// What comes back is not looked at for what is noted of keys and sizes, so that is done as it is sent.
    fn note_command(&self, site: &Site, spec: &Spec, request: Request<'_>, gone: usize) {
        let bytes = (request.raw().len() + gone) as u64;
        if site.stats.is_sampled() {
            note_private(&site.shared, &self.replies, (spec, request), bytes);
        } else if bytes >= BIG && spec.effect != Effect::Read {
            note_big_write(&site.stats, spec, request, bytes);
        }
    }

    /// The same for a command that has its place, and was not carried out elsewhere: it is counted already.
    pub(crate) fn send_at(
        &self,
        place: ReplyPlace,
        lane: &OwnLane,
        (spec, request): (&Spec, Request<'_>),
        role: Role,
        now: Time,
    ) {
        self.send_to(lane, (place, Tally::counted(spec)), (spec, request), role, now);
    }

    fn send_to(
        &self,
        lane: &OwnLane,
        (place, tally): (ReplyPlace, Tally),
        (spec, request): (&Spec, Request<'_>),
        role: Role,
        now: Time,
    ) {
        let site = &lane.site;
        let l1 = &site.shared.l1;
        let marks = match spec.effect {
            Effect::Read => {
                self.note_reads(site.index(), place, slots_read(&l1.memory.stamps, spec, request));
                None
            }
            Effect::Write | Effect::Opaque => {
                self.note_any_read(site.index(), place, spec, request);
                let queued = matches!(role, Role::Queued(_));
                Some(if queued {
                    WriteGuard::begin_queued(site, spec, request)
                } else {
                    WriteGuard::begin_accompanied(site, spec, request, self.who.db)
                })
            }
            Effect::None => None,
        };
        let (marks, extra, kind) = match role {
            Role::Queued(Some(redirect)) => {
                if marks.is_some() {
                    self.replies.wrote(place);
                }
                let action = ReplyAction::Queued(Box::new(QueuedCommand::new(marks, redirect)));
                let recipient = Recipient::new(&self.replies, place, tally);
                return lane.put(request.raw(), InFlight::new(site, recipient, action, Start::at(now)), now);
            }
            Role::Alone => (marks, None, NoticeForm::of(site, self.who.seat.user(), spec, request)),
            Role::Apart if lane.is_ahead() => (marks, None, NoticeForm::Behind),
            Role::Apart | Role::Queued(None) => (marks, None, NoticeForm::pair(site)),
            Role::Exec(extra) => (marks, extra, NoticeForm::Exec.tried_by(site, self.who.seat.user())),
        };
        let (command, action) = match (marks, extra) {
            (None, None) => (Cow::Borrowed(request.raw()), ReplyAction::Pass),
            (marks, extra) => {
                self.replies.wrote(place);
                let mut all = marks.unwrap_or_else(|| WriteGuard::unmarked(site));
                if let Some(extra) = extra {
                    all.add(extra);
                }
                let (command, write) = notify(l1, (self.who.seat.user(), self.who.db), all, kind, request.raw());
                (command, write.into())
            }
        };
        debug_assert!(!lane.is_ahead() || command.starts_with(request.raw()), "what was sent ahead is its beginning");
        // What a command does that the table does not know, nobody can say: it may wait.
        let patient = spec.blocking(request) || matches!(spec.route, Route::Taint | Route::Session(Verb::Wait));
        let recipient = Recipient::new(&self.replies, place, tally);
        lane.put(&command, InFlight::new(site, recipient, action, Start::at(now)).patient(patient), now);
    }

    /// Sends a read on a connection of the session's own; `fills` are asked for once it is answered. Nothing may be unanswered on
    /// the lane. Where the connection is lost the session ends, so it is sent once.
    pub(crate) fn read_on(&mut self, lane: &OwnLane, spec: &Spec, request: Request<'_>, fills: Vec<Fill>, now: Time) {
        debug_assert!(!self.is_on_lane(), "a session changes connections only when all that it sent has been answered");
        self.leave_lanes();
        let place = self.replies.reserve();
        self.note_reads(lane.node(), place, slots_read(&lane.site.shared.l1.memory.stamps, spec, request));
        let recipient = Recipient::new(&self.replies, place, Tally::new(spec, Outcome::Pinned));
        let action = ReplyAction::Read(Reader::once(Rc::clone(&self.side(lane.node()).who), self.resp), fills);
        let mut pending = InFlight::new(&lane.site, recipient, action, Start::at(now));
        if lane.site.looks_further {
            pending.seek(request.raw());
        }
        lane.put(request.raw(), pending, now);
    }

    /// Sends a command on a private connection, to be answered as `action` says.
    pub(crate) fn send_with(
        &self,
        lane: &OwnLane,
        (spec, request): (&Spec, Request<'_>),
        action: ReplyAction,
        now: Time,
    ) -> ReplyPlace {
        let place = self.replies.reserve();
        let recipient = Recipient::new(&self.replies, place, Tally::new(spec, Outcome::Pinned));
        lane.put(request.raw(), InFlight::new(&lane.site, recipient, action, Start::at(now)), now);
        place
    }

    /// The same for a command that has its place, and was not carried out elsewhere: it is counted already.
    pub(crate) fn send_with_at(
        &self,
        place: ReplyPlace,
        lane: &OwnLane,
        (spec, request): (&Spec, Request<'_>),
        action: ReplyAction,
        now: Time,
    ) {
        let recipient = Recipient::new(&self.replies, place, Tally::counted(spec));
        lane.put(request.raw(), InFlight::new(&lane.site, recipient, action, Start::at(now)), now);
    }
}

/// What a command on a private connection is to a transaction.
pub(crate) enum Role {
    /// Nothing.
    Alone,
    /// Nothing, and nothing may come before it: a part of it was sent ahead, or another transaction would change what the
    /// connection is, for the client watches keys, or what is on it is not followed.
    Apart,
    /// It is queued: what it does is done when `EXEC` is. In a cluster, with where it is noted that its keys belong elsewhere.
    Queued(Option<QueueNote>),
    /// It is `EXEC`, which does what these marks are of.
    Exec(Option<WriteGuard>),
}
