//! What a client calls itself: `CLIENT SETNAME`, `CLIENT GETNAME`, and whom a connection of its own is told about.
//!
//! With `client_names = "virtual"` crema keeps the name, and nobody needs a connection of its own for one. Whether a user may
//! name a connection Redis decides: a lane is given its own name once more, which changes nothing and is refused like the
//! client's. A connection that becomes the client's own is told the name, so that `CLIENT LIST` shows it there. With
//! `"upstream"` a name makes such a connection, and all that the client sends goes over it.
//!
//! Holds contract point 1.

use tokio::sync::oneshot;

use super::link::Stay;
use super::wire::ClientLine;
use super::{Close, Session};
use crate::clock::Time;
use crate::command::Spec;
use crate::config::ClientNames;
use crate::proxy::{LANE_NAME, ReplyAction};
use crate::resp::{Request, encode};

/// Longer names are Redis's to keep.
const LONGEST: usize = 1024;

impl Session {
    /// Whether it is crema that keeps this name.
    pub(super) fn keeps_name(&self, name: &[u8]) -> bool {
        self.worker.shared.config.client_names == ClientNames::Virtual && name.len() <= LONGEST
    }

    /// The client calls itself so; none where that is nothing.
    pub(super) fn set_name(&mut self, name: &[u8]) {
        self.name = (!name.is_empty()).then(|| name.into());
        self.caller.replies.member().is_called(name);
    }

    /// `CLIENT SETNAME`.
    pub(super) async fn client_set_name(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        let name = request.arg(2);
        if !self.keeps_name(name) {
            self.set_name(b"");
            if name.is_empty() && self.link.is_shared() {
                self.answer(|out| encode::simple(out, "OK"));
                return Ok(());
            }
            let private = self.keep(line, Stay::Home).await?;
            self.link.set_named(!name.is_empty());
            self.send(&private, spec, request, Time::now());
            return Ok(());
        }
        let reply = if self.link.is_for_life() {
            self.ask(line, spec, request).await?
        } else {
            let (mut own, mut command) = (Vec::new(), request.raw());
            if is_valid(name) {
                encode::own_command(&mut own, &[b"CLIENT", b"SETNAME", LANE_NAME.as_bytes()]);
                command = &own;
            }
            let reply = self.ask_lane(line, command).await?.unwrap_or_else(|| b"+OK\r\n".to_vec());
            // Who has no such command says what was asked.
            let unknown = reply.starts_with(b"-ERR unknown") && command != request.raw();
            let words = if unknown { self.ask_lane(line, request.raw()).await? } else { None };
            words.filter(|words| words.starts_with(b"-")).unwrap_or(reply)
        };
        if reply.starts_with(b"+") {
            self.set_name(name);
            self.link.set_named(false);
        }
        self.answer(|out| out.extend_from_slice(&reply));
        Ok(())
    }

    /// `CLIENT GETNAME`. A connection of the client's own knows the name.
    pub(super) async fn client_get_name(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        if self.link.is_for_life() {
            return self.pinned(line, spec, request).await;
        }
        let mut own = Vec::new();
        encode::own_command(&mut own, &[b"CLIENT", b"GETNAME"]);
        let mut refusal = self.ask_lane(line, &own).await?.filter(|reply| reply.starts_with(b"-"));
        if refusal.as_ref().is_some_and(|refusal| refusal.starts_with(b"-ERR unknown")) {
            refusal = self.ask_lane(line, request.raw()).await?;
        }
        let (name, resp) = (self.name.as_deref(), self.caller.resp);
        self.answer(|out| match (refusal, name) {
            (Some(refusal), _) => out.extend_from_slice(&refusal),
            (None, Some(name)) => encode::bulk(out, name),
            (None, None) => encode::null(out, resp),
        });
        Ok(())
    }

    /// The same in a transaction, on a connection that knows no name: `ECHO` is answered in the same bytes.
    pub(super) async fn queue_get_name(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        let (mut echo, mut spans) = (Vec::new(), Vec::new());
        // One that is the client's own since this transaction began is told the name behind it.
        let is_told = !self.link.awaits_introduction() || self.link.open().is_some_and(|open| open.renames);
        let name = self.name.as_deref().filter(|_| !(self.link.is_for_life() && is_told));
        encode::own_command(&mut echo, &[b"ECHO", name.unwrap_or_default()]);
        match Request::parse_canonical(&echo, &mut spans) {
            Some(echo) if name.is_some() => {
                let private = self.borrow(line).await?;
                self.send(&private, spec, echo, Time::now());
                Ok(())
            }
            _ => self.pinned(line, spec, request).await,
        }
    }

    /// Tells a connection that has become the client's own who that is; its name, where it does not know a later one.
    pub(super) fn introduce(&mut self, now: Time, named: bool) {
        let Some(lent) = self.link.introduce() else { return };
        self.info.iter().for_each(|info| lent.prepare(info, now));
        if let Some(name) = self.name.as_ref().filter(|_| named) {
            let mut own = Vec::new();
            encode::own_command(&mut own, &[b"CLIENT", b"SETNAME", name]);
            lent.prepare(&own, now);
        }
    }

    /// What Redis says to `command` on a lane; nothing where the lane was lost. All that was sent before is answered then.
    pub(super) async fn ask_lane(&mut self, line: &mut ClientLine, command: &[u8]) -> Result<Option<Vec<u8>>, Close> {
        line.answered(self).await?;
        let (told, reply) = oneshot::channel();
        self.caller.ask(&self.worker, command, ReplyAction::Capture(Vec::new(), told), Time::now());
        Ok(line.while_writing(self, reply).await.ok())
    }
}

/// As Redis checks it (networking.c, `clientSetName`).
pub(super) fn is_valid(name: &[u8]) -> bool {
    name.iter().all(|b| (b'!'..=b'~').contains(b))
}
