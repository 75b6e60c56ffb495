//! Who a session is, in which database, and in which version of the protocol: `AUTH`, `HELLO`, `SELECT`, and the gate.
//!
//! Redis decides each of them. crema keeps what it decided, since the lanes that a session's commands go on are shared, and
//! a failure leaves the session as it was.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::wire::Line;
use super::{Close, Session, Stay};
use crate::clock::Time;
use crate::command::{Route, Spec, Verb};
use crate::metrics::Outcome;
use crate::proxy::{Who, Work};
use crate::resp::{Request, Resp, encode};
use crate::upstream::Login;

impl Session {
    /// Asks whether the client may come in as it is. Redis knows that when it accepts a client; crema when it first speaks.
    pub(super) async fn knock(&mut self) {
        let shut = self.worker.shared.gate.shut(&self.worker.shared.node).await;
        self.admitted = matches!(shut, Ok(None));
        self.strict = matches!(shut, Ok(Some(_)));
    }

    /// Whether a session that has not logged in may run this command. Where not, it has been answered.
    pub(super) async fn admit(&mut self, spec: Option<&Spec>, request: Request<'_>) -> bool {
        let verb = spec.and_then(|spec| match spec.route {
            Route::Session(verb) => Some(verb),
            _ => None,
        });
        let with_login =
            matches!(verb, Some(Verb::Hello)) && request.args().any(|arg| arg.eq_ignore_ascii_case(b"AUTH"));
        if with_login || matches!(verb, Some(Verb::Auth | Verb::Quit | Verb::Reset)) {
            return true;
        }
        match self.worker.shared.gate.shut(&self.worker.shared.node).await {
            Ok(None) => (self.admitted, self.strict) = (true, false),
            Ok(Some(_)) if verb == Some(Verb::Hello) => self.answer(|out| {
                encode::error(
                    out,
                    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
                     <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
                     the same time",
                );
            }),
            Ok(Some(reply)) => self.answer(|out| out.extend_from_slice(&reply)),
            Err(error) => {
                self.refuse(&error);
                self.worker.stats.count(crate::command::Class::Connection, Outcome::Refused);
            }
        }
        self.admitted
    }

    /// Sends a command over the private connection and takes its reply, which is passed on to nobody.
    pub(super) async fn ask(
        &mut self,
        line: &mut Line,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<Vec<u8>, Close> {
        line.answered(self).await?;
        self.renew_loan(line).await?;
        self.borrow(line).await?;
        let Some(lent) = &self.private else { unreachable!("borrowed above") };
        let (told, reply) = oneshot::channel();
        let work = Work::Capture(Vec::new(), told);
        lent.ask(request.raw(), work, Time::now());
        self.worker.stats.count(spec.class, Outcome::Pinned);
        if let Ok(reply) = reply.await {
            Ok(reply)
        } else {
            let mut reply = Vec::new();
            lent.lane().lost_error().reply(crate::error::Sent::Maybe, &mut reply);
            Ok(reply)
        }
    }

    pub(super) async fn auth(
        &mut self,
        line: &mut Line,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        let login = match request.argc() {
            2 => Login { user: (*b"default").into(), password: request.arg(1).into() },
            3 => Login { user: request.arg(1).into(), password: request.arg(2).into() },
            _ => {
                // More arguments than AUTH takes: a syntax error in Redis's own words, from a connection without a user.
                return self.log_in_as(line, spec, request, None).await;
            }
        };
        self.log_in_as(line, spec, request, Some(login)).await
    }

    /// Before the user or the protocol of a session changes: a connection that watches keys for it changes along, and is no
    /// longer one of the pool's.
    async fn keep_watches(&mut self, line: &mut Line) -> Result<(), Close> {
        if self.loan_is_over() {
            self.end_loan(line).await
        } else if self.private.is_some() {
            self.keep(line, Stay::Home).await
        } else {
            Ok(())
        }
    }

    async fn log_in_as(
        &mut self,
        line: &mut Line,
        spec: &'static Spec,
        request: Request<'_>,
        login: Option<Login>,
    ) -> Result<(), Close> {
        line.answered(self).await?;
        self.keep_watches(line).await?;
        let reply = if self.has_home() {
            self.ask(line, spec, request).await?
        } else {
            match self.worker.log_in(request.raw()).await {
                Ok(reply) => reply,
                Err(error) => {
                    self.refuse(&error);
                    return Ok(());
                }
            }
        };
        if let Some(login) = login
            && reply.starts_with(b"+")
        {
            self.logged_in(line, login).await?;
        }
        self.answer(|out| out.extend_from_slice(&reply));
        self.worker.stats.count(spec.class, Outcome::Session);
        Ok(())
    }

    /// The session is this user from here on.
    async fn logged_in(&mut self, line: &mut Line, login: Login) -> Result<(), Close> {
        if self.private.is_some() && self.stay == Stay::Loan {
            self.end_loan(line).await?; // it belongs to the user that the session was
        }
        (self.admitted, self.strict) = (true, false);
        let login = Arc::new(login);
        let same = self.caller.who.login.as_ref() == Some(&login);
        if !same {
            let who = Who::new(&self.worker.shared.l1, Some(login), self.caller.who.db);
            self.caller.become_(who, self.caller.resp);
        }
        Ok(())
    }

    pub(super) async fn hello(
        &mut self,
        line: &mut Line,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        line.answered(self).await?;
        let hello = match Hello::parse(request, self.caller.resp) {
            Ok(hello) => hello,
            // No number, or the wrong one: Redis's own words, from whichever connection, for it changes none.
            Err(Mistake::Version) => {
                let now = Time::now();
                match &self.private {
                    Some(_) => drop(self.send_private(spec, request, now)),
                    None => self.caller.forward(&self.worker, spec, request, now),
                }
                return Ok(());
            }
            Err(mistake) => {
                self.answer(|out| mistake.write(out));
                return Ok(());
            }
        };
        self.keep_watches(line).await?;
        if self.has_home() {
            let reply = self.ask(line, spec, request).await?;
            if reply.starts_with(b"*") || reply.starts_with(b"%") {
                if let Some((user, password)) = hello.login {
                    self.logged_in(line, Login { user: user.into(), password: password.into() }).await?;
                }
                self.caller.become_(Rc::clone(&self.caller.who), hello.resp);
                if let Some(lent) = &mut self.private {
                    lent.is_now(hello.resp, self.caller.who.db);
                }
            }
            self.answer(|out| out.extend_from_slice(&reply));
            return Ok(());
        }
        if let Some((user, password)) = hello.login {
            let mut auth = Vec::new();
            encode::command(&mut auth, &[b"AUTH", user, password]);
            match self.worker.log_in(&auth).await {
                Ok(reply) if reply.starts_with(b"+") => {
                    self.logged_in(line, Login { user: user.into(), password: password.into() }).await?;
                }
                Ok(reply) => {
                    self.answer(|out| out.extend_from_slice(&reply));
                    return Ok(());
                }
                Err(error) => {
                    self.refuse(&error);
                    return Ok(());
                }
            }
        }
        self.caller.become_(Rc::clone(&self.caller.who), hello.resp);
        if let Some(name) = hello.name {
            if self.keeps_names() {
                self.name = (!name.is_empty()).then(|| name.into());
            } else if !name.is_empty() {
                self.keep(line, Stay::Home).await?;
                if let Some(lent) = &self.private {
                    lent.tell(&[b"CLIENT", b"SETNAME", name], Time::now());
                }
            }
        }
        // The map is Redis's own, in the version now spoken; only its `id` is that of a lane.
        let plain = Self::plain_hello(request);
        let mut spans = Vec::new();
        if let Some(plain) = Request::parse_canonical(&plain, &mut spans) {
            let now = Time::now();
            match &self.private {
                Some(_) => drop(self.send_private(spec, plain, now)),
                None => self.caller.forward(&self.worker, spec, plain, now),
            }
        }
        self.worker.stats.count(spec.class, Outcome::Session);
        Ok(())
    }

    /// `HELLO` without arguments, under the name by which the client called it.
    fn plain_hello(request: Request<'_>) -> Vec<u8> {
        let mut plain = Vec::new();
        encode::command(&mut plain, &[request.arg(0)]);
        plain
    }

    /// Redis decides each time: a user may have lost the right, whoever is in that database already.
    pub(super) async fn select(
        &mut self,
        line: &mut Line,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        let db = std::str::from_utf8(request.arg(1)).ok().and_then(|text| text.parse::<u32>().ok());
        let db = db.filter(|db| db.to_string().as_bytes() == request.arg(1) && i32::try_from(*db).is_ok());
        let reply = self.ask(line, spec, request).await?;
        if let Some(db) = db
            && reply.starts_with(b"+")
        {
            if let Some(lent) = &mut self.private {
                lent.is_now(self.caller.resp, db);
            }
            let who = Who::new(&self.worker.shared.l1, self.caller.who.login.clone(), db);
            let resp = self.caller.resp;
            self.caller.become_(who, resp);
        }
        self.answer(|out| out.extend_from_slice(&reply));
        self.worker.stats.count(spec.class, Outcome::Session);
        Ok(())
    }
}

/// The arguments of `HELLO [version [AUTH user password] [SETNAME name]]`, read as Redis does (networking.c, `helloCommand`).
struct Hello<'a> {
    resp: Resp,
    login: Option<(&'a [u8], &'a [u8])>,
    name: Option<&'a [u8]>,
}

enum Mistake {
    /// Redis tells a version that it does not speak from one that is no number.
    Version,
    Option(Vec<u8>),
    Name,
}

impl<'a> Hello<'a> {
    fn parse(request: Request<'a>, now: Resp) -> Result<Self, Mistake> {
        let mut hello = Self { resp: now, login: None, name: None };
        if request.argc() > 1 {
            hello.resp = match request.arg(1) {
                b"2" => Resp::V2,
                b"3" => Resp::V3,
                _ => return Err(Mistake::Version),
            };
        }
        let mut at = 2;
        while at < request.argc() {
            let (option, more) = (request.arg(at), request.argc() - 1 - at);
            if option.eq_ignore_ascii_case(b"AUTH") && more >= 2 {
                hello.login = Some((request.arg(at + 1), request.arg(at + 2)));
                at += 3;
            } else if option.eq_ignore_ascii_case(b"SETNAME") && more >= 1 {
                let name = request.arg(at + 1);
                if !name.iter().all(|b| (b'!'..=b'~').contains(b)) {
                    return Err(Mistake::Name);
                }
                hello.name = Some(name);
                at += 2;
            } else {
                return Err(Mistake::Option(option.to_vec()));
            }
        }
        Ok(hello)
    }
}

impl Mistake {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Version => encode::error(out, "NOPROTO unsupported protocol version"),
            Self::Option(option) => {
                encode::error(out, &format!("ERR Syntax error in HELLO option '{}'", String::from_utf8_lossy(option)));
            }
            Self::Name => {
                encode::error(out, "ERR Client names cannot contain spaces, newlines or special characters.");
            }
        }
    }
}
