//! Private connections: borrowed for a transaction or a slow command, kept as a home, or given over for good.
//!
//! Does for the link (`link`) what its changes need. Any change of connection, either way, waits until the session's earlier
//! commands are answered: so order is kept without anybody comparing two connections. Whoever is to send something on a private
//! connection is given its lane by whatever has seen to it that there is one.
//!
//! Holds contract point 2.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::dispatch::HEARINGS;
use super::link::{Link, Stay};
use super::wire::ClientLine;
use super::{Close, Session};
use crate::clock::Time;
use crate::command::{Effect, Route, Spec, Verb};
use crate::error::{Error, Sent};
use crate::invalidation::Change;
use crate::metrics::{Outcome, SlowReason};
use crate::proxy::{self, Lent, OwnLane, Owner, ReplyAction, ReplyPlace, Role, SessionEnd, Setting, Taken};
use crate::resp::Request;
use crate::upstream::{Login, NodeIndex};

/// A home on which nothing was sent for so long takes the next command, whatever it is: Redis is to know that its client lives
/// (`timeout`), and `CLIENT LIST` about when it last said something.
const ASIDE: Duration = Duration::from_secs(10);

/// Whether something was sent on a home within that.
pub(super) fn is_awake(home: &Lent, now: Time) -> bool {
    home.lane().idle_for(now) < ASIDE
}

impl Session {
    /// Changes the link. Whether the session ends with its connection follows from what the link is then.
    pub(super) fn change<R>(&mut self, how: impl FnOnce(&mut Link<Lent>) -> R) -> R {
        let result = how(&mut self.link);
        self.caller.replies.set_link(self.link.told());
        self.link.standings().for_each(|one| one.conn.stands(one.bound, one.free));
        result
    }

    /// Whether the client is not reading and a private connection answers it. In a cluster its commands go to several nodes, and
    /// lanes answer: what it does not take is kept here, up to the limit of its output.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded && !self.worker.is_cluster()
    }

    /// Whether what may go on a lane does. A session with a home goes from one to the other when all that it sent is answered; in
    /// a transaction, or where the connection means something to every command, it stays.
    pub(super) fn rides(&self, now: Time) -> bool {
        if self.link.is_shared() {
            return true;
        }
        let settled = |home: &Lent| self.caller.replies.is_settled() && is_awake(home, now);
        self.link.leaves_home().is_some_and(|home| self.caller.is_on_lane() || settled(home))
    }

    /// All that was sent on a lane is answered, so the private connection may be used.
    pub(super) async fn leave_lane(&mut self, line: &mut ClientLine) -> Result<(), Close> {
        if self.caller.is_on_lane() { line.answered(self).await } else { Ok(()) }
    }

    /// Whether the private connection is only borrowed and what it was borrowed for is over.
    pub(super) fn has_done_with_loan(&self) -> bool {
        self.link.is_over() && !self.is_crowded()
    }

    /// Whether others need what it has borrowed.
    pub(super) fn is_loan_wanted(&self) -> bool {
        self.link.conn().is_some_and(Lent::is_wanted)
    }

    /// A borrowed connection that is done with serves the next command that needs one, too.
    pub(super) async fn renew_loan(&mut self, line: &mut ClientLine) -> Result<(), Close> {
        if self.has_done_with_loan() {
            if let Link::Errand(_) = self.link {
                return self.end_loan(line).await; // it may be in another database
            }
            self.change(Link::renew);
        }
        Ok(())
    }

    /// Gives a borrowed connection back once all on it is answered.
    pub(super) async fn end_loan(&mut self, line: &mut ClientLine) -> Result<(), Close> {
        line.answered(self).await?;
        if let Some(lent) = self.change(Link::end_loan) {
            lent.give_back(Time::now());
        }
        Ok(())
    }

    /// The active connection, where there is one.
    pub(super) fn own_lane(&self) -> Option<OwnLane> {
        self.link.conn().map(Lent::own)
    }

    /// Has a private connection from here on, at least until the present purpose is over: in a cluster, to the front.
    pub(super) async fn borrow(&mut self, line: &mut ClientLine) -> Result<OwnLane, Close> {
        if self.worker.is_cluster() {
            if self.link.open().is_some()
                && let Some(private) = self.own_lane()
            {
                self.leave_lane(line).await?;
                return Ok(private);
            }
            let front = self.worker.front_index();
            return self.borrow_at(line, front).await;
        }
        if let Link::Errand(_) = self.link {
            self.end_loan(line).await?; // it may be in another database
        }
        let private = if let Some(private) = self.own_lane() {
            private
        } else {
            let lent = self.lend_ready(line, self.worker.front_index()).await?;
            let private = lent.own();
            self.change(|link| *link = Link::borrowed(lent));
            private
        };
        self.leave_lane(line).await?;
        Ok(private)
    }

    /// Has a connection to a node lent that is in the session's database.
    pub(super) async fn lend_ready(&mut self, line: &mut ClientLine, at: NodeIndex) -> Result<Lent, Close> {
        line.answered(self).await?;
        let mut lent = self.lend(at, Setting::Database);
        if !lent.prepared().await {
            lent = self.lend(at, Setting::Fresh); // its handshake says why not, or does better
        }
        Ok(lent)
    }

    /// The same for a command about the server, which takes any connection.
    async fn borrow_anywhere(&mut self, line: &mut ClientLine) -> Result<OwnLane, Close> {
        if !self.link.is_shared() {
            return self.borrow(line).await;
        }
        line.answered(self).await?;
        let lent = self.lend(self.worker.front_index(), Setting::Anywhere);
        let private = lent.own();
        self.change(|link| *link = Link::Errand(Box::new(lent)));
        Ok(private)
    }

    pub(super) fn lend(&mut self, at: NodeIndex, place: Setting) -> Lent {
        self.caller.be_at(&self.worker, at);
        // Each connection has one of its own, and mostly there is but one connection.
        if Rc::strong_count(&self.owner) > 1 {
            self.owner = Owner::new(Rc::clone(&self.caller.replies), Arc::clone(&self.worker.shared.l1));
        }
        let owner = Rc::clone(&self.owner);
        self.worker.station(at).lend(&self.caller.who, self.caller.resp, place, owner, Time::now())
    }

    /// Has a private connection for life: in a cluster, to the front.
    pub(super) async fn keep(&mut self, line: &mut ClientLine, stay: Stay) -> Result<OwnLane, Close> {
        if let Some(kept) = self.link.kept_conn().filter(|_| self.worker.is_cluster() && self.link.open().is_none()) {
            let private = kept.own();
            self.leave_lane(line).await?;
            if self.link.is_over() {
                self.end_loan(line).await?;
            }
            self.change(|link| link.keep(stay));
            return Ok(private);
        }
        self.keep_at(line, self.worker.front_index(), stay).await
    }

    /// The same to this node.
    pub(super) async fn keep_at(&mut self, line: &mut ClientLine, at: NodeIndex, stay: Stay) -> Result<OwnLane, Close> {
        let is_free = self.worker.is_cluster() && self.link.open().is_none();
        let private = if is_free { self.borrow_at(line, at).await? } else { self.borrow(line).await? };
        if !self.link.is_for_life()
            && let Some(lent) = self.link.conn_mut()
            && let Err(full) = lent.settle()
        {
            self.refuse(&full, Sent::No);
            return Err(Close::Gently);
        }
        self.change(|link| link.keep(stay));
        self.introduce(Time::now(), true);
        if self.link.open().is_none()
            && let Some(lent) = self.link.kept_conn_mut()
        {
            let _ = lent.prepared().await; // or CLIENT LIST would show what is still to be read from it
        }
        Ok(private)
    }

    /// What is sent next over the private connection is a command that Redis has wait unless it can answer it at once.
    pub(super) fn note_wait(&mut self) {
        let replies = &self.caller.replies;
        self.link.note_wait(replies.next(), replies.head());
    }

    /// Sends a command over a private connection.
    pub(super) fn send(&mut self, private: &OwnLane, spec: &Spec, request: Request<'_>, now: Time) -> ReplyPlace {
        let l1 = &self.worker.shared.l1;
        // What has gone ahead is the write's own beginning: nothing may come before it any more.
        let is_cut = self.link.is_cut();
        let apart = self.link.is_watching() || !self.link.is_followed() || self.link.ahead() > 0;
        let role = match self.link.open_mut() {
            Some(open) => {
                let db = self.caller.who.db;
                match spec.effect {
                    Effect::Write | Effect::Opaque => open.queue.queue(l1, spec, request, db),
                    Effect::Read => open.queue.queue_read(l1, spec, request),
                    Effect::None if spec.route == Route::Session(Verb::Select) => {
                        open.queue.queue_select(l1, request, db);
                    }
                    Effect::None => {}
                }
                open.queue.queue_change(spec.alters(request));
                let note = open.prefix.as_mut().map(|prefix| {
                    if is_cut {
                        prefix.forget();
                    } else {
                        prefix.queue(request.raw());
                    }
                    Rc::clone(prefix.note())
                });
                Role::Queued(note)
            }
            None if apart => Role::Apart,
            None => Role::Alone,
        };
        self.caller.send_on(private, spec, request, (role, self.link.gone()), now)
    }

    /// Sends a command that changes no connection, over whichever the session has.
    pub(super) fn forward(&mut self, spec: &Spec, request: Request<'_>) {
        let now = Time::now();
        match self.own_lane() {
            Some(private) => _ = self.send(&private, spec, request, now),
            None => self.caller.forward(&self.worker, spec, request, now),
        }
    }

    /// Has a connection for life, of which the client is told.
    pub(super) async fn show_home(&mut self, line: &mut ClientLine) -> Result<OwnLane, Close> {
        self.knows_home = true;
        self.keep(line, Stay::Home).await
    }

    /// A command of a session that has a private connection, or needs one for it.
    pub(super) async fn pinned(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        if self.worker.is_cluster() && !self.is_placed(line, spec, request).await? {
            return Ok(()); // it has been answered, or sent
        }
        if self.has_done_with_loan() && spec.route == Route::BorrowAnywhere {
            self.end_loan(line).await?;
        }
        self.renew_loan(line).await?;
        let queued = self.link.open().is_some();
        let changes = spec.route.changes_connection();
        let private = match spec.route {
            _ if queued && changes => self.keep(line, Stay::Tainted).await?, // what it will do when EXEC comes is not followed
            Route::Taint => self.keep(line, Stay::Tainted).await?,
            Route::Home => self.show_home(line).await?,
            Route::BorrowAnywhere => self.borrow_anywhere(line).await?,
            _ if !queued && spec.blocking(request) => self.keep(line, Stay::Home).await?,
            _ => self.borrow(line).await?,
        };
        if !queued && spec.blocking(request) {
            self.note_wait();
        }
        if self.link.free_home().is_some() && !self.is_crowded() && spec.keeps(request) {
            self.call_at_home(line, &private, spec, request).await;
        } else {
            self.send(&private, spec, request, Time::now());
        }
        Ok(())
    }

    /// A read that L1 may keep: out of L1, as on a lane, or over the session's home; where that was idle for long, in any case.
    async fn call_at_home(&mut self, line: &mut ClientLine, home: &OwnLane, spec: &'static Spec, request: Request<'_>) {
        let now = Time::now();
        let mut waits = 0;
        while home.idle_for(now) < ASIDE {
            let taken = proxy::call_at_home(&self.worker, &mut self.caller, home, spec, request, now);
            let Taken::Unheard(unheard) = taken else { return };
            if waits == HEARINGS {
                break;
            }
            let (asked, place) = (Time::now(), self.caller.replies.next());
            let heard = line.while_writing(self, self.caller.hear(&self.worker, unheard)).await;
            self.note_slow(place, request, (asked, SlowReason::Ear));
            if !heard {
                break;
            }
            waits += 1;
        }
        proxy::send_home(&self.worker, &mut self.caller, home, spec, request, Time::now());
    }
}

impl Session {
    /// Sends a command over the private connection and takes its reply, which is passed on to nobody.
    pub(super) async fn ask(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<Vec<u8>, Close> {
        let private = self.be_alone(line).await?;
        self.asked(spec, Outcome::Pinned);
        self.capture(&private, request.raw()).await
    }

    /// The same for what may change rights, or the server's role.
    pub(super) async fn ask_for_change(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<Vec<u8>, Close> {
        let private = self.be_alone(line).await?;
        self.asked(spec, Outcome::Pinned);
        let change = Change::begin(&self.worker.shared.l1, spec.alters(request));
        match self.try_capture(&private, request.raw()).await {
            Ok(reply) => {
                let none = change.answered(reply.starts_with(b"-"));
                debug_assert!(none.is_none(), "it changes no key");
                Ok(reply)
            }
            Err(error) => self.told_of_loss(&error),
        }
    }

    /// All is answered, and a private connection is there for what comes next.
    pub(super) async fn be_alone(&mut self, line: &mut ClientLine) -> Result<OwnLane, Close> {
        line.answered(self).await?;
        self.renew_loan(line).await?;
        self.borrow(line).await
    }

    /// The reply to a command on a private connection, or the error of its loss; where the client is to be told nothing of that,
    /// the session ends.
    pub(super) async fn capture(&self, private: &OwnLane, command: &[u8]) -> Result<Vec<u8>, Close> {
        match self.try_capture(private, command).await {
            Ok(reply) => Ok(reply),
            Err(error) => self.told_of_loss(&error),
        }
    }

    /// A login is about to go over the private connection: until it is known whose it is, nothing of crema's own does.
    pub(super) fn begin_login(&self) {
        self.link.standings().for_each(|one| one.conn.stands(one.bound, false));
    }

    /// Redis has accepted this login there, or none.
    pub(super) fn end_login(&mut self, accepted: Option<&Arc<Login>>) {
        if let (Some(lent), Some(login)) = (self.link.kept_conn().or(self.link.conn()), accepted) {
            lent.is_in_as(login);
        }
        self.change(|_| ());
    }

    fn told_of_loss(&self, error: &Error) -> Result<Vec<u8>, Close> {
        let replies = &self.caller.replies;
        error.reply(error.sent(), self.worker.shared.config.upstream_down).ok_or_else(|| {
            replies.cut(replies.next(), SessionEnd::Away);
            Close::Gently
        })
    }

    async fn try_capture(&self, private: &OwnLane, command: &[u8]) -> Result<Vec<u8>, Error> {
        let (told, reply) = oneshot::channel();
        private.ask(command, ReplyAction::Capture(Vec::new(), told), Time::now());
        reply.await.map_err(|_| private.lost_error())
    }
}
