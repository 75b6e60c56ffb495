//! `MULTI`, `EXEC`, `DISCARD`, `WATCH` and `UNWATCH` in a cluster.
//!
//! `MULTI` is answered here and held (`place`) where the user is known to be allowed it. Redis decides at `EXEC` once more whether it
//! serves all keys. Where it does not, nothing was carried out, and the transaction begins again at the node which does; but a client
//! that watched keys is told that one has changed, for what was watched is not known there.
//!
//! Holds contract points 1, 3 and 7: a transaction is carried out once, whole, or the client is told that it is not.

use std::rc::Rc;

use super::connection::EndedTransaction;
use super::link::Link;
use super::place::CROSSSLOT;
use super::prefix::Prefix;
use super::stream_ends::StreamEnds;
use super::wire::ClientLine;
use super::{Close, Session};
use crate::clock::Time;
use crate::command::{HashSlot, Spec, Verb};
use crate::metrics::{Outcome, RedirectKind};
use crate::proxy::{ReplyPlace, Role, Tries};
use crate::resp::{Request, Resp, encode};
use crate::upstream::redirect_of;

/// What Redis says of a transaction of which a command was refused.
const ABORTED: &[u8] = b"-EXECABORT ";
/// All that it says of it.
const ABORTED_BY_ERRORS: &[u8] = b"-EXECABORT Transaction discarded because of previous errors.\r\n";
/// The same of one that it could not carry out for this reason.
const ABORTED_BECAUSE: &[u8] = b"-EXECABORT Transaction discarded because of: ";

impl Session {
    /// `MULTI`, `EXEC`, `DISCARD`, `WATCH`, `UNWATCH`.
    pub(super) async fn transact_in_cluster(
        &mut self,
        line: &mut ClientLine,
        verb: Verb,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        if self.is_confined()
            && let Some(private) = self.own_lane()
        {
            self.send(&private, spec, request, Time::now()); // Redis refuses it
            return Ok(());
        }
        match (verb, self.link.is_in_transaction()) {
            (Verb::Multi, false) => self.multi(line, spec, request).await,
            (Verb::Watch, false) => self.watch(line, spec, request).await,
            (Verb::Exec, true) => {
                self.place(line, None).await?;
                self.leave_lane(line).await?;
                self.exec_in_cluster(line, spec, request).await
            }
            (Verb::Discard, true) if self.link.is_held() => {
                self.change(Link::end_hold);
                self.answer(|out| encode::simple(out, "OK"));
                Ok(())
            }
            (Verb::Discard, true) => {
                if let Some(private) = self.own_lane() {
                    self.change(Link::discard);
                    self.send(&private, spec, request, Time::now());
                    self.introduce(Time::now(), true);
                }
                Ok(())
            }
            (_, true) => {
                let slot = self.slot_of(spec, request);
                if self.place(line, slot).await?
                    && let Some(private) = self.own_lane()
                {
                    self.send(&private, spec, request, Time::now());
                }
                Ok(())
            }
            (_, false) => self.without_transaction(line, verb, spec, request).await,
        }
    }

    /// `MULTI` where none is open.
    async fn multi(&mut self, line: &mut ClientLine, spec: &Spec, request: Request<'_>) -> Result<(), Close> {
        if self.link.is_over() {
            self.end_loan(line).await?;
        }
        let known = self.queues.as_ref().is_some_and(|who| Rc::ptr_eq(who, &self.caller.who));
        let watches = self.link.is_watching();
        if known && !watches && self.change(Link::hold) {
            self.answer(|out| encode::simple(out, "OK"));
            return Ok(());
        }
        let private = match self.own_lane() {
            Some(private) if watches => private,
            _ => self.borrow(line).await?,
        };
        self.leave_lane(line).await?;
        let place = self.send(&private, spec, request, Time::now());
        self.caller.replies.look_at(place);
        let refused = !line.looked_at(self, place).await?.is_empty();
        self.caller.replies.show(place);
        if !refused {
            self.queues = Some(Rc::clone(&self.caller.who));
            let prefix = Prefix::in_slot(self.link.watched_slot());
            self.change(|link| link.multi(Some(Box::new(prefix))));
        }
        Ok(())
    }

    /// `WATCH` in no transaction. Its keys are in one slot, for a transaction is.
    async fn watch(&mut self, line: &mut ClientLine, spec: &'static Spec, request: Request<'_>) -> Result<(), Close> {
        let mut slots = spec.keys(request).map(HashSlot::of);
        let first = slots.next();
        let watched = self.link.watched_slot();
        if slots.any(|slot| Some(slot) != first) || watched.is_some() && watched != first {
            self.refuse_here(CROSSSLOT);
            return Ok(());
        }
        let private = if let Some(private) = self.own_lane().filter(|_| watched.is_some()) {
            self.leave_lane(line).await?;
            private
        } else {
            let at = self.worker.node_of(first);
            self.borrow_at(line, at).await?
        };
        let now = Time::now();
        let place = self.send(&private, spec, request, now);
        self.caller.replies.look_at(place);
        if watched.is_some() {
            let error = line.looked_at(self, place).await?;
            if redirect_of(&error).is_some() {
                // What was watched before is not watched elsewhere: the transaction fails, as if it had changed.
                self.caller.replies.take_back(place);
                self.caller.replies.append(place, b"+OK\r\n", Some(Time::ZERO));
                self.link.spoil_watch();
            }
            self.caller.replies.show(place);
            return Ok(());
        }
        self.follow(line, (place, first), (spec, request), (private, now), StreamEnds::default()).await?;
        self.change(|link| link.watch(first));
        Ok(())
    }

    /// What does nothing, or is an error, where no transaction is open, and ends a watch where there is one.
    async fn without_transaction(
        &mut self,
        line: &mut ClientLine,
        verb: Verb,
        spec: &Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        if !self.link.is_watching() && self.has_done_with_loan() {
            self.end_loan(line).await?;
        }
        self.leave_lane(line).await?;
        if verb == Verb::Unwatch {
            self.change(Link::unwatch);
        }
        match self.own_lane() {
            Some(private) => _ = self.send(&private, spec, request, Time::now()),
            None => self.caller.forward(&self.worker, spec, request, Time::now()),
        }
        Ok(())
    }
}

impl Session {
    async fn exec_in_cluster(&mut self, line: &mut ClientLine, spec: &Spec, request: Request<'_>) -> Result<(), Close> {
        let Some(private) = self.own_lane() else { return Ok(()) };
        let spoiled = self.link.is_watch_spoiled();
        if spoiled {
            line.answered(self).await?; // it matters whether a command was refused
        }
        let Some(ended) = self.change(Link::exec) else { return Ok(()) };
        let now = Time::now();
        let place = if spoiled {
            private.tell(&[b"DISCARD"]);
            let place = self.caller.replies.next();
            self.asked(spec, Outcome::Pinned);
            self.answer(|out| out.extend_from_slice(failure(ended.prefix.as_deref(), self.caller.resp)));
            place
        } else {
            let marks = ended.queue.begin(&private);
            let place = self.caller.send_on(&private, spec, request, (Role::Exec(Some(marks)), 0), now);
            // That it fails tells that a watched key has changed.
            let watched = ended.watched.then_some(None);
            self.caller.note_reads(private.node(), place, ended.queue.reads().iter().copied().chain(watched));
            self.caller.replies.look_at(place);
            self.carry_through(line, place, &ended, (spec, request)).await?;
            place
        };
        // Who bears another name from here on is not told the former; unless nothing came of that.
        let keeps_name =
            spoiled || !ended.renames || self.link.awaits_introduction() && !self.is_done(line, place).await;
        self.caller.replies.show(place);
        self.introduce(Time::now(), keeps_name);
        Ok(())
    }

    /// Sees to it that the transaction whose `EXEC` is at `place`, and looked at, is carried out where its keys are.
    async fn carry_through(
        &mut self,
        line: &mut ClientLine,
        place: ReplyPlace,
        ended: &EndedTransaction,
        (spec, request): (&Spec, Request<'_>),
    ) -> Result<(), Close> {
        let Some(prefix) = &ended.prefix else { return Ok(()) };
        let mut tries = Tries::new(Time::now());
        let Some(mut private) = self.own_lane() else { return Ok(()) };
        loop {
            let error = line.looked_at(self, place).await?;
            let Some((kind, error)) = redirect(error, prefix) else { return Ok(()) };
            let replies = &self.caller.replies;
            if ended.watched || prefix.is_refused() {
                replies.take_back(place);
                replies.append(place, failure(Some(prefix), self.caller.resp), Some(Time::ZERO));
                return Ok(());
            }
            let way = match prefix.commands() {
                Some(_) => self.find_way(line, &mut tries, (kind, &error), (private.server(), prefix.slot())).await,
                None => None,
            };
            let replies = &self.caller.replies;
            replies.take_back(place);
            let Some(way) = way else {
                let aborted = [ABORTED_BECAUSE, error.strip_prefix(b"-").unwrap_or(&error)].concat();
                replies.append(place, &aborted, Some(Time::ZERO));
                return Ok(());
            };
            private = self.relend(way.at);
            if way.asking {
                private.tell(&[b"ASKING"]); // it holds for all of the transaction
            }
            if let Some(refusal) = self.begin_on(&private, prefix).await? {
                let aborted = [ABORTED_BECAUSE, refusal.as_bytes(), b"\r\n"].concat();
                self.caller.replies.append(place, &aborted, Some(Time::ZERO));
                return Ok(());
            }
            let marks = ended.queue.begin(&private);
            self.caller.note_reads(private.node(), place, ended.queue.reads().iter().copied());
            self.caller.send_at(place, &private, (spec, request), Role::Exec(Some(marks)), Time::now());
        }
    }
}

/// What the node said where it has not carried out a transaction because it does not serve its keys.
fn redirect(error: Vec<u8>, prefix: &Prefix) -> Option<(RedirectKind, Vec<u8>)> {
    let noted = prefix.take_redirect().filter(|_| error.starts_with(ABORTED));
    let error = noted.unwrap_or(error);
    Some((redirect_of(&error)?, error))
}

/// The reply to `EXEC` where a watched key has changed; but that a command was refused counts for more.
fn failure(prefix: Option<&Prefix>, resp: Resp) -> &'static [u8] {
    match resp {
        _ if prefix.is_some_and(Prefix::is_refused) => ABORTED_BY_ERRORS,
        Resp::V2 => b"*-1\r\n",
        Resp::V3 => b"_\r\n",
    }
}
