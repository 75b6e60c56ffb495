//! Carries out what was decided on a command.
//!
//! Called by the session's loop for every command that does not go on a lane at once. Waits for whatever a command has to wait
//! for. What the session does itself is in the files named after it; which of them, is said here.

use super::decision::{Decision, Inquiry};
use super::link::{Link, Stay};
use super::wire::ClientLine;
use super::{Admission, Answers, Close, Session};
use crate::clock::Time;
use crate::command::{Class, Spec, Verb};
use crate::config::Auth;
use crate::metrics::{Failure, Outcome, SlowReason};
use crate::proxy::{self, Taken};
use crate::resp::{Request, Resp, encode};
use crate::upstream::Mode;

/// How often a read waits for the ear: for what was done before, and once more where meanwhile another opaque write was
/// acknowledged, for the moments of those before it are not kept.
pub(super) const HEARINGS: usize = 2;

impl Session {
    /// Carries out what was decided on a command, waiting for whatever it needs to wait for.
    pub(super) async fn command(
        &mut self,
        line: &mut ClientLine,
        known: Option<&'static Spec>,
        request: Request<'_>,
        decision: Decision,
    ) -> Result<(), Close> {
        let skipped = self.answers == Answers::Skip;
        if skipped {
            self.answers = Answers::On;
        }
        self.caller.replies.set_silent(skipped || self.answers == Answers::Off);
        self.tally.set((known.map_or(Class::Module, |spec| spec.class), Ok(Outcome::Session)));
        let done = self.carry_out(line, known, request, decision).await;
        self.caller.replies.set_silent(self.answers == Answers::Off);
        done?;
        if self.link.conn().is_some_and(|lent| lent.lane().is_ahead()) {
            return Err(Close::Gently); // it was refused here, and its beginning is on the connection
        }
        self.change(Link::end_ahead);
        Ok(())
    }

    async fn carry_out(
        &mut self,
        line: &mut ClientLine,
        known: Option<&'static Spec>,
        request: Request<'_>,
        mut decision: Decision,
    ) -> Result<(), Close> {
        loop {
            let asked = match decision {
                Decision::Admit if self.admit(known, request).await => Inquiry::Admission,
                Decision::Prove if self.is_still_itself().await? => Inquiry::Proof,
                Decision::Widen(spec) if !self.widened(line, spec, request).await? => Inquiry::Arguments,
                Decision::Admit | Decision::Prove | Decision::Widen(_) => return Ok(()), // it has been answered, or sent
                Decision::Mistake => {
                    self.mistake(known, request);
                    return Ok(());
                }
                Decision::NoLogin => {
                    self.refuse_login();
                    return Ok(());
                }
                Decision::Deny(spec) => return self.deny(line, spec.name, spec.route).await,
                Decision::Close(spec) => {
                    self.worker.stats.failed(spec.class, Failure::Protocol);
                    return Err(Close::Now);
                }
                Decision::Foreign => return self.foreign(line, request).await,
                Decision::Verb(verb, spec) => return self.verb(line, verb, spec, request).await,
                Decision::Spread(spec) => return Box::pin(self.spread(line, spec, request)).await,
                Decision::LaneAfterLoan(spec) => {
                    self.end_loan(line).await?;
                    return self.try_lane(line, spec, request).await;
                }
                Decision::Lane(spec) => return self.try_lane(line, spec, request).await,
                Decision::Private(spec) => return self.pinned(line, spec, request).await,
                Decision::Apart(spec) => {
                    self.keep(line, Stay::Tainted).await?; // one connection leads to one server
                    return self.pinned(line, spec, request).await;
                }
            };
            decision = self.decide(known, request, asked, Time::now());
        }
    }

    async fn try_lane(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        let now = Time::now();
        let taken = proxy::call(&self.worker, &mut self.caller, spec, request, now);
        self.on_lane(line, spec, request, taken, now).await
    }

    /// Goes on with a command for a lane that was tried at `now`. A read that L1 can answer once the ear has answered a fence waits
    /// for that, which takes no longer than to ask Redis; where it does, the read is sent.
    pub(super) async fn on_lane(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
        mut taken: Taken,
        now: Time,
    ) -> Result<(), Close> {
        let mut waits = 0;
        loop {
            match taken {
                Taken::Yes => return Ok(()),
                Taken::Unanswered => line.answered(self).await?,
                Taken::Unheard(unheard) => {
                    let (asked, place) = (Time::now(), self.caller.replies.next());
                    let heard =
                        waits < HEARINGS && line.while_writing(self, self.caller.hear(&self.worker, unheard)).await;
                    self.note_slow(place, request, (asked, SlowReason::Ear));
                    if !heard {
                        while !proxy::lead(&self.worker, &mut self.caller, spec, request, Time::now()) {
                            line.answered(self).await?;
                        }
                        return Ok(());
                    }
                    waits += 1;
                }
            }
            taken = proxy::call(&self.worker, &mut self.caller, spec, request, now);
        }
    }

    async fn verb(
        &mut self,
        line: &mut ClientLine,
        verb: Verb,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        use Verb as V;
        match verb {
            V::Multi | V::Exec | V::Discard | V::Watch | V::Unwatch => self.transact(line, verb, spec, request).await,
            V::Subscribe | V::Monitor | V::Sync => self.stream(line, verb, spec, request).await,
            V::Quit => {
                line.answered(self).await?; // however long that takes: what was asked before is owed
                self.answer(|out| encode::simple(out, "OK"));
                Err(Close::Gently)
            }
            V::Reset => self.reset(line, spec, request).await,
            _ if self.link.is_in_transaction() => self.queue(line, verb, spec, request).await,
            V::Hello => self.hello(line, spec, request).await,
            V::Auth => self.auth(line, spec, request).await,
            V::Select => self.select(line, spec, request).await,
            V::ClientReply => self.client_reply(line, spec, request).await,
            V::ClientSetName => self.client_set_name(line, spec, request).await,
            V::ClientGetName => self.client_get_name(line, spec, request).await,
            V::ClientSetInfo => self.set_info(line, spec, request).await,
            V::ClientKill => self.kill(line, spec, request).await,
            V::ClientNoTouch => self.no_touch(line, spec, request).await,
            V::Wait => self.wait(line, spec, request).await,
            V::AclChange | V::ConfigSet | V::RoleChange | V::ClientPause | V::ClientUnpause => {
                // CLIENT PAUSE must hold back no lane: until it is over, writes borrow connections of their own.
                let reply = self.ask_for_change(line, spec, request).await?;
                self.answer(|out| out.extend_from_slice(&reply));
                Ok(())
            }
            V::SwapDb => {
                self.renew_loan(line).await?;
                self.pinned(line, spec, request).await
            }
            V::CremaAudit
            | V::CremaBigKeys
            | V::CremaClients
            | V::CremaExplain
            | V::CremaHelp
            | V::CremaHotKeys
            | V::CremaInvalidate
            | V::CremaMode
            | V::CremaRefresh
            | V::CremaReload
            | V::CremaSlowLog
            | V::CremaAdvise
            | V::CremaStatus => {
                self.crema(line, verb, request).await;
                Ok(())
            }
        }
    }

    /// `WAIT` answers for the writes of its own connection; PING makes all that was replicated its own.
    async fn wait(&mut self, line: &mut ClientLine, spec: &'static Spec, request: Request<'_>) -> Result<(), Close> {
        let private = self.borrow(line).await?;
        let now = Time::now();
        if let Some(lent) = self.link.conn() {
            lent.tell(&[b"PING"], now);
        }
        self.note_wait();
        self.send(&private, spec, request, now);
        Ok(())
    }

    /// `RESET`. A connection that the client knows as its own stays that, and Redis resets it; others are let go.
    async fn reset(&mut self, line: &mut ClientLine, spec: &Spec, request: Request<'_>) -> Result<(), Close> {
        line.answered(self).await?;
        if self.answers == Answers::Off {
            self.answers = Answers::On;
            self.caller.replies.set_silent(false); // and a RESET that is to be skipped is skipped
        }
        let keeps = self.worker.shared.config.auth == Auth::Upstream;
        self.feeds = None;
        drop(self.change(|link| link.reset(keeps))); // and with it whatever the client left on it
        match self.own_lane() {
            Some(private) => {
                self.send(&private, spec, request, Time::now());
                line.answered(self).await?;
                if let Some(lent) = self.link.kept_conn_mut() {
                    lent.is_now(Resp::V2, 0);
                    lent.lane().set_mode(Mode::Replies);
                }
            }
            None => self.answer(|out| encode::simple(out, "RESET")),
        }
        self.set_name(b"");
        self.account = None;
        // Who sends everything to Redis need not be asked who it is.
        self.admission = if self.link.is_followed() { Admission::Unknown } else { Admission::Open };
        self.caller.become_(Self::nobody(&self.worker, &self.entrance), Resp::V2);
        Ok(())
    }
}
