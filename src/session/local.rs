//! What a session does itself, and where every other command goes.
//!
//! Where Redis's own words are needed and the command cannot change a connection (it is malformed, or out of place), it is
//! sent on the lane for its error.

use super::wire::Line;
use super::{Close, LARGE_REQUEST, Session, Stay};
use crate::clock::Time;
use crate::command::{self, Class, Effect, Route, Spec, Verb};
use crate::config::Auth;
use crate::metrics::{Failure, Outcome};
use crate::proxy::{self, Filter, Taken};
use crate::resp::{Request, Resp, encode};
use crate::upstream::Mode;

/// How often a read waits for the ear: for what was done before, and once more where meanwhile another opaque write was
/// acknowledged, for the moments of those before it are not kept.
pub(super) const HEARINGS: usize = 2;

impl Session {
    /// Takes up any command, waiting for whatever it needs to wait for.
    pub(super) async fn command(&mut self, line: &mut Line, request: Request<'_>, now: Time) -> Result<(), Close> {
        let skipped = std::mem::take(&mut self.skip_next);
        self.caller.replies.set_silent(self.silent || skipped);
        let done = self.act(line, request, now).await;
        self.caller.replies.set_silent(self.silent);
        done
    }

    async fn act(&mut self, line: &mut Line, request: Request<'_>, now: Time) -> Result<(), Close> {
        let known = command::lookup(request);
        self.tally.set((known.map_or(Class::Module, |spec| spec.class), Ok(Outcome::Session)));
        if !self.admitted && !self.admit(known, request).await {
            return Ok(());
        }
        if self.transaction.is_none()
            && (self.stay != Stay::Tainted || self.private.is_none())
            && self.mistakes(known, request)
        {
            return Ok(());
        }
        let Some(spec) = known else { return self.foreign(line, request).await };
        if spec.route == Route::Close {
            self.worker.stats.failed(spec.class, Failure::Protocol);
            return Err(Close::Now);
        }
        if self.caller.who.is_doubted() && !self.is_still_itself().await? {
            return Ok(());
        }
        let wrong = !spec.arity_ok(request.argc());
        // What cannot change a right is a command like another.
        let plain = spec.route == Route::Session(Verb::ConfigSet) && !spec.alters(request).rights;
        if self.must_not_log_in(spec, request) || wrong && self.widened(line, spec, request).await? {
            return Ok(());
        }
        if let Route::Session(verb) = spec.route
            && !wrong
            && !plain
            && (self.stay != Stay::Tainted || self.private.is_none() || Self::is_followed(verb))
        {
            return self.verb(line, verb, spec, request).await;
        }
        if self.worker.is_several() {
            self.keep(line, Stay::Tainted).await?; // one connection leads to one server
        }
        let on_lane = spec.on_lane(request) || wrong && spec.route != Route::LaneUnlessBlocking || plain;
        let paused = self.worker.shared.l1.is_paused(now) || self.worker.holds_writes();
        let held_back = spec.effect != Effect::Read && paused;
        let on_lane = on_lane && request.raw().len() <= LARGE_REQUEST && !held_back;
        if self.loan_is_over() {
            if on_lane || spec.route == Route::BorrowAnywhere {
                self.end_loan(line).await?;
            } else {
                self.renew_loan(line).await?;
            }
        }
        if on_lane && !self.crowded && self.rides(now) {
            let now = Time::now();
            let taken = proxy::call(&self.worker, &mut self.caller, spec, request, now);
            return self.call(line, spec, request, taken, now).await;
        }
        self.pinned(line, spec, request).await
    }

    /// Goes on with a command for a lane that was tried at `now`. A read that L1 can answer once the ear has answered a fence waits
    /// for that, which takes no longer than to ask Redis; where it does, the read is sent.
    pub(super) async fn call(
        &mut self,
        line: &mut Line,
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
                    if waits == HEARINGS || !line.while_writing(self, self.caller.hear(&self.worker, unheard)).await {
                        proxy::lead(&self.worker, &mut self.caller, spec, request, Time::now());
                        return Ok(());
                    }
                    waits += 1;
                }
            }
            taken = proxy::call(&self.worker, &mut self.caller, spec, request, now);
        }
    }

    /// Verbs that mean the same to a session whose connection crema does not follow.
    fn is_followed(verb: Verb) -> bool {
        use Verb as V;
        matches!(verb, V::Quit | V::Reset | V::ClientReply | V::Multi | V::Exec | V::Discard | V::Watch)
            || matches!(verb, V::Subscribe | V::Monitor | V::Sync | V::SwapDb | V::AclChange | V::ConfigSet)
            || matches!(verb, V::RoleChange | V::ClientPause | V::ClientUnpause)
    }

    async fn verb(
        &mut self,
        line: &mut Line,
        verb: Verb,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        use Verb as V;
        let queued = self.transaction.is_some();
        match verb {
            V::Multi | V::Exec | V::Discard | V::Watch | V::Unwatch => {
                return self.transact(line, verb, spec, request).await;
            }
            V::Subscribe | V::Monitor | V::Sync => return self.stream(line, verb, spec, request).await,
            V::Quit => {
                line.answered(self).await?; // however long that takes: what was asked before is owed
                self.answer(|out| encode::simple(out, "OK"));
                return Err(Close::Gently);
            }
            V::Reset => return self.reset(line, spec, request).await,
            V::ClientReply if queued => return self.queue_reply(line, spec, request).await,
            V::ClientReply => return self.client_reply(line, spec, request).await,
            V::ClientGetName if queued => return self.queue_get_name(line, spec, request).await,
            V::ClientSetName if queued => {
                self.renamed = true;
                return self.pinned(line, spec, request).await;
            }
            _ if queued => return self.pinned(line, spec, request).await,
            V::Hello => return self.hello(line, spec, request).await,
            V::Auth => return self.auth(line, spec, request).await,
            V::Select => return self.select(line, spec, request).await,
            V::ClientSetName => return self.client_set_name(line, spec, request).await,
            V::ClientGetName => return self.client_get_name(line, spec, request).await,
            V::ClientSetInfo => return self.set_info(line, spec, request).await,
            V::ClientKill => return self.kill(line, spec, request).await,
            V::ClientNoTouch => {
                self.keep(line, Stay::Home).await?;
                self.no_touch = request.arg(2).eq_ignore_ascii_case(b"ON");
                return self.pinned(line, spec, request).await;
            }
            V::Wait => {
                self.borrow(line).await?;
                // WAIT answers for the writes of its own connection; PING makes all that was replicated its own.
                let now = Time::now();
                if let Some(lent) = &self.private {
                    lent.tell(&[b"PING"], now);
                }
                self.send_private(spec, request, now);
                return Ok(());
            }
            V::AclChange | V::ConfigSet | V::RoleChange | V::ClientPause | V::ClientUnpause => {
                // CLIENT PAUSE must hold back no lane: until it is over, writes borrow connections of their own.
                let reply = self.ask_for_change(line, spec, request).await?;
                self.answer(|out| out.extend_from_slice(&reply));
            }
            V::SwapDb => {
                self.renew_loan(line).await?;
                return self.pinned(line, spec, request).await;
            }
            V::CremaExplain | V::CremaHelp | V::CremaInvalidate | V::CremaRefresh | V::CremaStatus => {
                self.crema(verb, request).await;
            }
        }
        Ok(())
    }

    pub(super) fn has_home(&self) -> bool {
        self.private.is_some() && self.stay != Stay::Loan
    }

    /// The library's name and version. They are of no consequence, so lanes may show those of the last client that told.
    async fn set_info(&mut self, line: &mut Line, spec: &'static Spec, request: Request<'_>) -> Result<(), Close> {
        let attribute = request.arg(2).to_ascii_lowercase();
        if matches!(&attribute[..], b"lib-name" | b"lib-ver") && request.raw().len() < 256 {
            let same = |info: &[u8]| info.windows(attribute.len()).any(|at| at.eq_ignore_ascii_case(&attribute));
            self.info.retain(|info| !same(info));
            self.info.push(request.raw().into());
        }
        if self.has_home() {
            return self.pinned(line, spec, request).await;
        }
        if self.loan_is_over() {
            self.end_loan(line).await?;
        }
        if self.private.is_some() {
            return self.pinned(line, spec, request).await;
        }
        self.caller.forward(&self.worker, spec, request, Time::now());
        Ok(())
    }

    /// `CLIENT REPLY`. Redis answers every command all the same; what the client does not want ends here.
    async fn client_reply(&mut self, line: &mut Line, spec: &Spec, request: Request<'_>) -> Result<(), Close> {
        let mode = request.arg(2).to_ascii_lowercase();
        if !matches!(&mode[..], b"on" | b"off" | b"skip") {
            self.leave_lane(line).await?;
            match &self.private {
                Some(_) => self.send_private(spec, request, Time::now()),
                None => self.caller.forward(&self.worker, spec, request, Time::now()),
            }
            return Ok(());
        }
        if self.private.is_some() && self.stay == Stay::Tainted {
            // A subscriber of RESP2 may not, so Redis is asked for what changes nothing.
            line.answered(self).await?;
            let mut on = Vec::new();
            encode::own_command(&mut on, &[b"CLIENT", b"REPLY", b"ON"]);
            let reply = self.capture(&on).await?;
            if reply.starts_with(b"-") {
                self.answer(|out| out.extend_from_slice(&reply));
                return Ok(());
            }
        }
        match &mode[..] {
            b"on" => {
                self.silent = false;
                self.caller.replies.set_silent(false);
                self.answer(|out| encode::simple(out, "OK"));
            }
            b"off" => {
                self.silent = true;
                self.count();
            }
            _ => {
                self.skip_next = !self.silent;
                self.count();
            }
        }
        Ok(())
    }

    /// `CLIENT REPLY` in a transaction. Off or skipped, Redis would drop parts of the reply to `EXEC`, and nobody could tell
    /// where that ends: something that it refuses is queued in their place.
    async fn queue_reply(&mut self, line: &mut Line, spec: &'static Spec, request: Request<'_>) -> Result<(), Close> {
        let silences = matches!(request.arg(2).to_ascii_lowercase().as_slice(), b"off" | b"skip");
        let (mut refused, mut spans) = (Vec::new(), Vec::new());
        encode::command(&mut refused, &[request.arg(0), request.arg(1), b""]);
        let request = match Request::parse_canonical(&refused, &mut spans) {
            Some(refused) if silences => refused,
            _ => request,
        };
        self.borrow(line).await?;
        self.send_private(spec, request, Time::now());
        Ok(())
    }

    /// `CLIENT KILL`: Redis ends connections of crema's; the clients that are meant are ended here. It tells of as many as there
    /// are more of.
    async fn kill(&mut self, line: &mut Line, spec: &'static Spec, request: Request<'_>) -> Result<(), Close> {
        self.keep(line, Stay::Home).await?; // ids that the client asks for are its own from now on
        let mut reply = self.ask(line, spec, request).await?;
        let filter = Filter::read(request);
        let refused =
            reply.starts_with(b"-") && !(filter.as_ref().is_some_and(|filter| filter.old_form) && is_nobody(&reply));
        let (others, own) = match filter.filter(|_| !refused) {
            Some(filter) => self.worker.shared.clients.end(&filter, self.caller.replies.member()),
            None => (0, false),
        };
        let clients = others + usize::from(own);
        if clients > 0 && is_nobody(&reply) {
            reply = b"+OK\r\n".to_vec();
        } else if number(&reply).is_some_and(|told| told < clients) {
            reply = format!(":{clients}\r\n").into_bytes();
        }
        self.answer(|out| out.extend_from_slice(&reply));
        if own { Err(Close::Gently) } else { Ok(()) }
    }

    /// `RESET`. A connection that the client knows as its own stays that, and Redis resets it; others are let go.
    async fn reset(&mut self, line: &mut Line, spec: &Spec, request: Request<'_>) -> Result<(), Close> {
        line.answered(self).await?;
        if self.silent {
            self.silent = false;
            self.caller.replies.set_silent(false); // and a RESET that is to be skipped is skipped
        }
        self.transaction = None;
        if self.has_home() && self.worker.shared.config.auth == Auth::Upstream {
            self.send_private(spec, request, Time::now());
            line.answered(self).await?;
            if let Some(lent) = &mut self.private {
                lent.is_now(Resp::V2, 0);
                lent.lane().set_mode(Mode::Replies);
            }
        } else {
            self.private = None;
            self.owner.bind(false);
            self.answer(|out| encode::simple(out, "RESET"));
        }
        (self.watching, self.name, self.no_touch, self.named) = (false, None, false, false);
        // Who sends everything to Redis need not be asked who it is.
        self.admitted = self.private.is_some() && self.stay == Stay::Tainted;
        self.caller.become_(Self::nobody(&self.worker), Resp::V2);
        Ok(())
    }
}

/// Whether `CLIENT KILL` of an address found nobody.
fn is_nobody(reply: &[u8]) -> bool {
    reply.starts_with(b"-ERR No such client")
}

fn number(reply: &[u8]) -> Option<usize> {
    std::str::from_utf8(reply.strip_prefix(b":")?).ok()?.trim_end().parse().ok()
}
