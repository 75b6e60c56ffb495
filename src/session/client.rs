//! What `CLIENT` says about the client itself and crema follows: its library, whether it wants answers, whom it ends.

use super::link::Stay;
use super::wire::ClientLine;
use super::{Answers, Close, Session};
use crate::clock::Time;
use crate::command::Spec;
use crate::proxy::Filter;
use crate::resp::{Request, encode};

impl Session {
    /// The library's name and version. They are of no consequence, so lanes may show those of the last client that told.
    pub(super) async fn set_info(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        let attribute = request.arg(2).to_ascii_lowercase();
        if matches!(&attribute[..], b"lib-name" | b"lib-ver") && request.raw().len() < 256 {
            let same = |info: &[u8]| info.windows(attribute.len()).any(|at| at.eq_ignore_ascii_case(&attribute));
            self.info.retain(|info| !same(info));
            self.info.push(request.raw().into());
        }
        if self.has_done_with_loan() {
            self.end_loan(line).await?;
        }
        if !self.link.is_shared() {
            return self.pinned(line, spec, request).await;
        }
        if self.caller.waits_at_replica() {
            line.answered(self).await?;
        }
        self.caller.forward(&self.worker, spec, request, Time::now());
        Ok(())
    }

    /// `CLIENT REPLY`. Redis answers every command all the same; what the client does not want ends here.
    pub(super) async fn client_reply(
        &mut self,
        line: &mut ClientLine,
        spec: &Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        let mode = request.arg(2).to_ascii_lowercase();
        if !matches!(&mode[..], b"on" | b"off" | b"skip") {
            self.leave_lane(line).await?;
            self.forward(spec, request);
            return Ok(());
        }
        if let Some(private) = self.own_lane()
            && !self.link.is_followed()
        {
            // A subscriber of RESP2 may not, so Redis is asked for what changes nothing.
            line.answered(self).await?;
            let mut on = Vec::new();
            encode::own_command(&mut on, &[b"CLIENT", b"REPLY", b"ON"]);
            let reply = self.capture(&private, &on).await?;
            if reply.starts_with(b"-") {
                self.answer(|out| out.extend_from_slice(&reply));
                return Ok(());
            }
        }
        match &mode[..] {
            b"on" => {
                self.answers = Answers::On;
                self.caller.replies.set_silent(false);
                self.answer(|out| encode::simple(out, "OK"));
            }
            b"off" => {
                self.answers = Answers::Off;
                self.count();
            }
            _ => {
                if self.answers != Answers::Off {
                    self.answers = Answers::Skip;
                }
                self.count();
            }
        }
        Ok(())
    }

    /// `CLIENT REPLY` in a transaction. Off or skipped, Redis would drop parts of the reply to `EXEC`, and nobody could tell
    /// where that ends: something that it refuses is queued in their place.
    pub(super) async fn queue_reply(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        let silences = matches!(request.arg(2).to_ascii_lowercase().as_slice(), b"off" | b"skip");
        let (mut refused, mut spans) = (Vec::new(), Vec::new());
        encode::command(&mut refused, &[request.arg(0), request.arg(1), b""]);
        let request = match Request::parse_canonical(&refused, &mut spans) {
            Some(refused) if silences => refused,
            _ => request,
        };
        let private = self.borrow(line).await?;
        self.send(&private, spec, request, Time::now());
        Ok(())
    }

    /// `CLIENT NO-TOUCH`.
    pub(super) async fn no_touch(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        self.keep(line, Stay::Home).await?;
        self.link.set_no_touch(request.arg(2).eq_ignore_ascii_case(b"ON"));
        self.pinned(line, spec, request).await
    }

    /// `CLIENT KILL`: Redis ends connections of crema's; the clients that are meant are ended here. It tells of as many as there
    /// are more of.
    pub(super) async fn kill(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        self.show_home(line).await?; // ids that the client asks for are its own from now on
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
}

/// Whether `CLIENT KILL` of an address found nobody.
fn is_nobody(reply: &[u8]) -> bool {
    reply.starts_with(b"-ERR No such client")
}

fn number(reply: &[u8]) -> Option<usize> {
    std::str::from_utf8(reply.strip_prefix(b":")?).ok()?.trim_end().parse().ok()
}
