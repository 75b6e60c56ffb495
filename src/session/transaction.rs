//! What changes what a private connection does with the commands that follow: transactions and watches, subscriptions,
//! `MONITOR`, `SYNC`.
//!
//! Holds contract points 1 and 3: what a transaction writes is marked until its `EXEC` is answered.

use std::future::poll_fn;
use std::task::Poll;

use super::link::{Link, Stay};
use super::names::is_valid;
use super::wire::ClientLine;
use super::{Close, Session};
use crate::clock::Time;
use crate::command::{Spec, Verb};
use crate::metrics::Outcome;
use crate::proxy::{OwnLane, ReplyAction, ReplyPlace, Role};
use crate::resp::Request;
use crate::upstream::Mode;

impl Session {
    /// `MULTI`, `EXEC`, `DISCARD`, `WATCH`, `UNWATCH`.
    pub(super) async fn transact(
        &mut self,
        line: &mut ClientLine,
        verb: Verb,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        if self.worker.is_cluster() {
            return self.transact_in_cluster(line, verb, spec, request).await;
        }
        let private = match verb {
            Verb::Multi | Verb::Watch => Some(self.borrow(line).await?),
            _ => {
                self.leave_lane(line).await?;
                self.own_lane()
            }
        };
        let now = Time::now();
        let Some(private) = private else {
            // Outside of a transaction these fail or do nothing, and leave nothing behind.
            self.caller.forward(&self.worker, spec, request, now);
            return Ok(());
        };
        match verb {
            Verb::Multi => self.change(|link| link.multi(None)),
            Verb::Watch => self.change(|link| link.watch(None)),
            Verb::Unwatch => self.change(Link::unwatch),
            Verb::Exec => {
                self.exec(line, &private, spec, request).await;
                return Ok(());
            }
            _ => self.change(Link::discard),
        }
        self.send(&private, spec, request, now);
        if verb == Verb::Discard {
            self.introduce(now, true);
        }
        Ok(())
    }

    async fn exec(&mut self, line: &mut ClientLine, private: &OwnLane, spec: &Spec, request: Request<'_>) {
        let now = Time::now();
        let mut ended = self.change(Link::exec);
        let marks = ended.as_mut().map(|ended| ended.queue.begin(private));
        let place = self.caller.send_on(private, spec, request, (Role::Exec(marks), 0), now);
        let renamed = ended.as_ref().is_some_and(|ended| ended.renames);
        if let Some(ended) = ended {
            // That it fails tells that a watched key has changed.
            let watched = ended.watched.then_some(None);
            self.caller.note_reads(private.node(), place, ended.queue.reads().iter().copied().chain(watched));
        }
        // Who bears another name from here on is not told the former; unless nothing came of that.
        let keeps_name = !renamed || self.link.awaits_introduction() && !self.is_done(line, place).await;
        self.introduce(Time::now(), keeps_name);
    }

    /// Whether the transaction that ends with the command at `place` is carried out, once Redis says so.
    pub(super) async fn is_done(&self, line: &mut ClientLine, place: ReplyPlace) -> bool {
        let replies = &self.caller.replies;
        replies.look_at(place);
        let first = poll_fn(|cx| {
            replies.register(cx);
            replies.first_bytes(place).map_or(Poll::Pending, Poll::Ready)
        });
        match line.while_writing(self, first).await.as_slice() {
            [b'*', elements @ ..] => elements != b"-",
            [] => true, // nobody knows
            _ => false, // an error, or null
        }
    }

    /// A command in a transaction of which the session knows what it would mean outside of one.
    pub(super) async fn queue(
        &mut self,
        line: &mut ClientLine,
        verb: Verb,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        let slot = self.slot_of(spec, request);
        if self.worker.is_cluster() && !self.place_queued(line, spec, slot).await? {
            return Ok(());
        }
        match verb {
            Verb::ClientReply => self.queue_reply(line, spec, request).await,
            Verb::ClientGetName => self.queue_get_name(line, spec, request).await,
            _ => {
                if let (Verb::ClientSetName, Some(open)) = (verb, self.link.open_mut()) {
                    open.renames |= is_valid(request.arg(2)); // of others Redis takes none
                }
                self.pinned(line, spec, request).await
            }
        }
    }

    /// Commands after which the connection speaks otherwise: subscriptions, `MONITOR`, `SYNC`.
    pub(super) async fn stream(
        &mut self,
        line: &mut ClientLine,
        verb: Verb,
        spec: &Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        if self.worker.is_cluster() {
            if self.link.is_in_transaction() {
                let slot = self.slot_of(spec, request);
                if !self.place_queued(line, spec, slot).await? {
                    return Ok(());
                }
            } else if let Some(subscription) = spec.subscription() {
                return self.subscribe(line, subscription, spec, request).await;
            }
        }
        let stay = if verb == Verb::Sync { Stay::Tainted } else { Stay::Stream };
        let private = self.keep(line, stay).await?;
        if verb == Verb::Monitor && self.link.open().is_none() {
            line.answered(self).await?;
            if private.mode() == Mode::Monitor {
                private.send_raw(request.raw()); // Redis answers the first alone
                self.asked(spec, Outcome::Pinned);
                self.count();
                return Ok(());
            }
        }
        let (mode, action) = match verb {
            // In a transaction it is queued, unless MULTI was refused: then it is confirmed all the same.
            Verb::Subscribe => (Mode::Subscribed, ReplyAction::Confirm(request.argc().saturating_sub(1).max(1))),
            Verb::Monitor => (Mode::Monitor, ReplyAction::Pass),
            _ => (Mode::Opening, ReplyAction::Pass),
        };
        private.set_mode(mode);
        self.caller.send_with(&private, (spec, request), action, Time::now());
        if mode == Mode::Opening {
            line.answered(self).await?; // with an error, or by the first byte of a stream
            if private.mode() == Mode::Raw {
                self.change(Link::replicate);
            }
        }
        Ok(())
    }
}
