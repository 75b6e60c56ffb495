//! Private connections: borrowed for a transaction or a slow command, kept as a home, or given over for good.
//!
//! Any change of connection, either way, waits until the session's earlier commands are answered: so order is kept without
//! anybody comparing two connections.

use std::rc::Rc;
use std::time::Duration;

use super::local::HEARINGS;
use super::wire::{Input, Line};
use super::{Close, KEPT_BACK, Session, Stay, foreign};
use crate::clock::Time;
use crate::command::{self, Effect, Route, Spec, Verb};
use crate::error::Sent;
use crate::metrics::Outcome;
use crate::proxy::{self, Lent, Pending, Role, Setting, Taken, Work};
use crate::resp::{Parser, Request};
use crate::upstream::{Lane, Mode};

/// A home on which nothing was sent for so long takes the next command, whatever it is: Redis is to know that its client lives
/// (`timeout`), and `CLIENT LIST` about when it last said something.
const ASIDE: Duration = Duration::from_secs(10);

impl Session {
    /// Whether what may go on a lane does. A session with a home goes from one to the other when all that it sent is answered; in
    /// a transaction, or where the connection means something to every command, it stays.
    pub(super) fn rides(&self, now: Time) -> bool {
        let Some(lent) = &self.private else { return true };
        let stays =
            self.stay != Stay::Home || self.transaction.is_some() || self.watching || self.no_touch || self.named;
        let settled = || self.caller.replies.is_settled() && lent.lane().idle_for(now) < ASIDE;
        !stays && self.ahead == 0 && (self.caller.is_on_lane() || settled())
    }

    /// All that was sent on a lane is answered, so the private connection may be used.
    pub(super) async fn leave_lane(&mut self, line: &mut Line) -> Result<(), Close> {
        if self.caller.is_on_lane() { line.answered(self).await } else { Ok(()) }
    }

    /// Whether the private connection is only borrowed and what it was borrowed for is over.
    pub(super) fn loan_is_over(&self) -> bool {
        self.private.is_some()
            && self.stay == Stay::Loan
            && self.transaction.is_none()
            && !self.watching
            && !self.crowded
            && self.ahead == 0
    }

    /// A borrowed connection that is done with serves the next command that needs one, too.
    pub(super) async fn renew_loan(&mut self, line: &mut Line) -> Result<(), Close> {
        if self.loan_is_over() {
            if self.anywhere {
                return self.end_loan(line).await;
            }
            self.owner.bind(false);
        }
        Ok(())
    }

    /// Of a request that is not whole and already large, sends what is there on a private connection: it is Redis that
    /// decides how much of its clients' unfinished requests it holds.
    pub(super) async fn send_ahead(&mut self, line: &mut Line, parser: &Parser, bytes: &[u8]) -> Result<(), Close> {
        if self.ahead == 0 {
            // Where the channel carries coherence something comes before each write, and its keys must be known.
            if bytes.len() < KEPT_BACK || !self.admitted || self.worker.shared.l1.notices().is_some() {
                return Ok(());
            }
            let Some((begun, next)) = parser.unfinished(bytes) else { return Ok(()) };
            let nameless = begun.argc() == 0;
            if nameless && next <= foreign::LONGEST || begun.argc() == 1 && command::has_subcommands(begun) {
                return Ok(()); // its name is not known yet
            }
            match command::lookup(begun).map(|spec| spec.route) {
                Some(Route::Home | Route::Taint) if self.transaction.is_some() => {
                    self.keep(line, Stay::Tainted).await?;
                }
                Some(Route::Blocking) if self.transaction.is_none() => self.keep(line, Stay::Home).await?,
                Some(Route::Home) => self.keep(line, Stay::Home).await?,
                Some(Route::Taint) => self.keep(line, Stay::Tainted).await?,
                Some(Route::Lane | Route::LaneIfOne | Route::ScriptLane | Route::Borrow | Route::Blocking) => {
                    self.borrow(line).await?;
                }
                // So long a name is no command's.
                None if nameless || begun.arg(0).len() > foreign::LONGEST => self.borrow(line).await?,
                _ => return Ok(()),
            }
            self.owner.bind(true);
        }
        if let Some(lent) = &self.private {
            lent.lane().send_ahead(&bytes[self.ahead..]);
            self.ahead = bytes.len();
        }
        Ok(())
    }

    /// Of what was sent ahead, forgets what is there of the argument under way, if nobody asks for it again: a key must be
    /// known, a large value flows through.
    pub(super) fn let_go(&mut self, parser: &mut Parser, input: &mut Input) {
        let bytes = input.rest();
        let Some(lent) = self.private.as_ref().filter(|_| self.ahead == bytes.len()) else { return };
        let Some((begun, _)) = parser.unfinished(bytes) else { return };
        let spec = command::lookup(begun).unwrap_or(command::unknown());
        let at = begun.argc();
        if at == 0 || spec.keys.concerns(at, parser.announced()) {
            return;
        }
        let Some(end) = parser.cut(bytes.len()) else { return };
        lent.lane().forget_ahead(self.ahead - end);
        self.ahead = end;
        input.truncate(end);
    }

    /// Gives a borrowed connection back once all on it is answered.
    pub(super) async fn end_loan(&mut self, line: &mut Line) -> Result<(), Close> {
        line.answered(self).await?;
        if let Some(lent) = self.private.take() {
            self.owner.bind(false);
            lent.give_back(Time::now());
        }
        Ok(())
    }

    /// Has a private connection from here on, at least until the present purpose is over.
    pub(super) async fn borrow(&mut self, line: &mut Line) -> Result<(), Close> {
        if self.private.is_some() && self.anywhere {
            self.end_loan(line).await?; // it may be in another database
        }
        if self.private.is_none() {
            let mut lent = self.lend(line, Setting::Database).await?;
            if !lent.prepared().await {
                lent = self.lend(line, Setting::Fresh).await?; // its handshake says why not, or does better
            }
            self.private = Some(lent);
        }
        self.leave_lane(line).await
    }

    async fn lend(&mut self, line: &mut Line, place: Setting) -> Result<Lent, Close> {
        line.answered(self).await?;
        (self.stay, self.anywhere) = (Stay::Loan, place == Setting::Anywhere);
        let owner = self.owner.clone();
        Ok(self.worker.front().lend(&self.caller.who, self.caller.resp, place, owner, Time::now()))
    }

    /// Has a private connection for life.
    pub(super) async fn keep(&mut self, line: &mut Line, stay: Stay) -> Result<(), Close> {
        self.borrow(line).await?;
        let now = Time::now();
        if let Some(lent) = &mut self.private
            && self.stay == Stay::Loan
        {
            if let Err(full) = lent.settle() {
                self.refuse(&full, Sent::No);
                return Err(Close::Gently);
            }
            self.introduced = false;
        }
        if self.stay != Stay::Tainted {
            self.stay = stay;
        }
        // A queue is the client's alone.
        if self.transaction.is_none() {
            self.introduce(now);
            if let Some(lent) = &mut self.private {
                let _ = lent.prepared().await; // or CLIENT LIST would show what is still to be read from it
            }
        }
        self.owner.bind(true);
        Ok(())
    }

    /// Sends a command over the private connection, which must be there.
    pub(super) fn send_private(&mut self, spec: &Spec, request: Request<'_>, now: Time) {
        let l1 = &self.worker.shared.l1;
        let Some(lent) = &self.private else { unreachable!("only called after borrow or keep") };
        if let Some(transaction) = &mut self.transaction {
            match spec.effect {
                Effect::Write | Effect::Opaque => transaction.queue(l1, spec, request),
                Effect::Read => transaction.queue_read(l1, spec, request),
                Effect::None => {}
            }
            transaction.queue_change(spec.alters(request));
        }
        let role = match self.transaction {
            Some(_) => Role::Queued,
            None if self.watching || self.stay == Stay::Tainted => Role::Apart,
            None => Role::Alone,
        };
        self.caller.send_on(&self.worker, lent.lane(), spec, request, role, now);
    }

    /// A command of a session that has a private connection, or needs one for it.
    pub(super) async fn pinned(
        &mut self,
        line: &mut Line,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        let blocking = self.transaction.is_none() && spec.blocking(request);
        match spec.route {
            Route::Home => self.keep(line, Stay::Home).await?,
            Route::Taint => self.keep(line, Stay::Tainted).await?,
            Route::BorrowAnywhere if self.private.is_none() => {
                self.private = Some(self.lend(line, Setting::Anywhere).await?);
            }
            _ if blocking => self.keep(line, Stay::Home).await?,
            _ => self.borrow(line).await?,
        }
        let taints = match spec.route {
            Route::Home | Route::Taint => true,
            Route::Session(verb) => verb.changes_connection(),
            _ => false,
        };
        if self.transaction.is_some() && taints {
            self.keep(line, Stay::Tainted).await?; // what it will do when EXEC comes is not followed
        }
        let now = Time::now();
        let alone = self.ahead == 0 && self.transaction.is_none() && !self.watching && !self.crowded;
        let kept = alone && self.stay == Stay::Home && spec.keeps(request);
        let idle = self.private.as_ref().is_some_and(|lent| lent.lane().idle_for(now) >= ASIDE);
        match &self.private {
            Some(lent) if kept => {
                let home = Rc::clone(lent.lane());
                self.call_at_home(line, &home, spec, request, idle).await;
            }
            _ => self.send_private(spec, request, now),
        }
        Ok(())
    }

    /// A read that L1 may keep: out of L1, as on a lane, or over the session's home; where that was `idle`, in any case.
    async fn call_at_home(
        &mut self,
        line: &mut Line,
        home: &Lane<Pending>,
        spec: &'static Spec,
        request: Request<'_>,
        idle: bool,
    ) {
        let now = Time::now();
        let mut waits = 0;
        while !idle {
            let taken = proxy::call_at_home(&self.worker, &mut self.caller, home, spec, request, now);
            let Taken::Unheard(unheard) = taken else { return };
            if waits == HEARINGS || !line.while_writing(self, self.caller.hear(&self.worker, unheard)).await {
                break;
            }
            waits += 1;
        }
        proxy::send_home(&self.worker, &mut self.caller, home, spec, request, Time::now());
    }

    /// `MULTI`, `EXEC`, `DISCARD`, `WATCH`, `UNWATCH`.
    pub(super) async fn transact(
        &mut self,
        line: &mut Line,
        verb: Verb,
        spec: &Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        if matches!(verb, Verb::Multi | Verb::Watch) {
            self.borrow(line).await?;
            self.owner.bind(true);
        }
        self.leave_lane(line).await?;
        let now = Time::now();
        if self.private.is_none() {
            // Outside of a transaction these fail or do nothing, and leave nothing behind.
            self.caller.forward(&self.worker, spec, request, now);
            return Ok(());
        }
        match verb {
            Verb::Multi => {
                self.transaction.get_or_insert_default();
                self.send_private(spec, request, now);
            }
            Verb::Watch => {
                self.watching |= self.transaction.is_none();
                self.send_private(spec, request, now);
            }
            Verb::Exec => {
                let mut transaction = self.transaction.take();
                let watched = self.watching && transaction.is_some();
                self.watching &= transaction.is_none(); // where it ends no transaction it is an error, and ends no watch either
                let marks = transaction.as_mut().map(|transaction| transaction.begin(&self.worker));
                let Some(lent) = &self.private else { unreachable!("checked above") };
                let place = self.caller.send_on(&self.worker, lent.lane(), spec, request, Role::Exec(marks), now);
                if let Some(transaction) = transaction {
                    // That it fails tells that a watched key has changed.
                    let watched = watched.then_some(None);
                    self.caller.note_reads(place, transaction.reads().iter().copied().chain(watched));
                }
                self.introduce(now);
            }
            Verb::Discard => {
                self.renamed = false;
                self.watching &= self.transaction.take().is_none();
                self.send_private(spec, request, now);
                self.introduce(now);
            }
            _ => {
                self.watching &= self.transaction.is_some(); // there it is queued
                self.send_private(spec, request, now);
            }
        }
        Ok(())
    }

    /// Commands after which the connection speaks otherwise: subscriptions, `MONITOR`, `SYNC`.
    pub(super) async fn stream(
        &mut self,
        line: &mut Line,
        verb: Verb,
        spec: &Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        self.keep(line, Stay::Tainted).await?;
        if verb == Verb::Monitor && self.transaction.is_none() {
            line.answered(self).await?;
            if let Some(lent) = &self.private
                && lent.lane().mode() == Mode::Monitor
            {
                lent.lane().send_raw(request.raw()); // Redis answers the first alone
                self.asked(spec, Outcome::Pinned);
                self.count();
                return Ok(());
            }
        }
        let now = Time::now();
        let Some(lent) = &self.private else { unreachable!("kept above") };
        let (mode, work) = match verb {
            // In a transaction it is queued, unless MULTI was refused: then it is confirmed all the same.
            Verb::Subscribe => (Mode::Subscribed, Work::Confirm(request.argc().saturating_sub(1).max(1))),
            Verb::Monitor => (Mode::Monitor, Work::Pass),
            _ => (Mode::Opening, Work::Pass),
        };
        lent.lane().set_mode(mode);
        self.caller.send_work_on(&self.worker, lent.lane(), (spec, request), work, now);
        if mode == Mode::Opening {
            line.answered(self).await?; // with an error, or by the first byte of a stream
            self.raw = self.private.as_ref().is_some_and(|lent| lent.lane().mode() == Mode::Raw);
        }
        Ok(())
    }

    /// A replica's bytes, once the connection is a replication stream.
    pub(super) fn relay(&self, bytes: &[u8]) {
        if let Some(lent) = &self.private {
            lent.lane().send_raw(bytes);
        }
    }
}
