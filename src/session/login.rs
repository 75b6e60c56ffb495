//! Who a session is, in which database, and in which version of the protocol: `AUTH`, `HELLO`, `SELECT`, and the gate.
//!
//! Redis decides each of them. crema keeps what it decided, since the lanes that a session's commands go on are shared, and
//! a failure leaves the session as it was.
//!
//! Holds contract point 8: a session is who Redis says that it is.

use std::rc::Rc;
use std::sync::Arc;

use tracing::warn;

use super::link::{BeforeLogin, Stay};
use super::names::is_valid;
use super::wire::ClientLine;
use super::{Admission, Close, Entrance, Session, passwords};
use crate::clock::Time;
use crate::command::{Class, Route, Spec, Verb};
use crate::config::Auth;
use crate::error::{Error, Sent, is_forbidden};
use crate::metrics::{Failure, Need, Outcome};
use crate::net::proxy_protocol::{HeaderError, Opening, opening};
use crate::proxy::{Shared, Who, Worker};
use crate::resp::{Request, Resp, encode};
use crate::upstream::Login;

/// Bytes that a client without a login may leave unread, beyond what its socket holds: room for the answers to one read, as Redis
/// gives it little more than a kilobyte (networking.c, `checkClientOutputBufferLimits`).
const UNAUTHENTICATED_OUTPUT: usize = 64 << 10;

impl Session {
    /// Who a client is that has said nothing yet.
    pub(super) fn nobody(worker: &Worker, entrance: &Entrance) -> Rc<Who> {
        let Shared { config, .. } = &*worker.shared;
        let login = if entrance.is_open { worker.shared.login() } else { None };
        Who::new(&worker.shared, worker.front().node(), login, config.upstream.db)
    }

    /// Asks whether the client, which begins with these bytes, may come in as it is; false where more of them must be known.
    /// Redis knows that when it accepts a client; crema when it first speaks.
    ///
    /// A PROXY header ends it. Redis takes one for a command, and answers all that stands behind it one place too late.
    pub(super) async fn knock(&mut self, first: &[u8]) -> Result<bool, Close> {
        let opening = if self.admission == Admission::Unknown { opening(first) } else { Opening::Other };
        if opening == Opening::Header {
            let client = self.caller.replies.member().peer();
            warn!(%client, "client refused: {}", HeaderError::Unwanted);
            self.worker.stats.proxy_headers_refused.add(1);
            self.tally.set((Class::Connection, Err(Failure::Protocol)));
            self.answer(|out| encode::error(out, "ERR Protocol error: unexpected PROXY protocol header"));
            return Err(Close::Gently);
        }
        if opening == Opening::Unclear {
            return Ok(false);
        }
        let shut = self.shut().await;
        self.admission = match shut {
            Ok(None) => Admission::Open,
            Ok(Some(_)) => Admission::Shut,
            Err(_) => Admission::Unknown,
        };
        Ok(true)
    }

    /// None: the client may act without a login; else what it is told.
    async fn shut(&self) -> Result<Option<Vec<u8>>, Error> {
        let Shared { config, l1, gate, .. } = &*self.worker.shared;
        let node = &self.worker.shared.front();
        match config.auth {
            _ if self.entrance.is_open => Ok(None),
            Auth::Upstream => gate.shut(node, l1).await,
            Auth::Own(_) => Ok(Some(passwords::NO_AUTH.to_vec())),
            Auth::Open => Ok(None),
        }
    }

    /// Whether a session that has not logged in may run this command. Where not, it has been answered.
    pub(super) async fn admit(&mut self, spec: Option<&Spec>, request: Request<'_>) -> bool {
        let verb = spec.and_then(|spec| match spec.route {
            Route::Session(verb) => Some(verb),
            _ => None,
        });
        let with_login = spec.is_some_and(|spec| spec.gives_login(request));
        if with_login || matches!(verb, Some(Verb::Quit | Verb::Reset)) {
            return true;
        }
        match self.shut().await {
            Ok(None) => self.admission = Admission::Open,
            Ok(Some(reply)) => {
                let plain = spec.is_some_and(|spec| spec.arity_ok(request.argc())) && verb != Some(Verb::Hello);
                let reply = if plain { reply } else { self.words_for(verb, request, reply).await };
                if self.keeps_passwords() {
                    self.fails(Failure::Login);
                }
                self.answer(|out| out.extend_from_slice(&reply));
                self.caller.replies.bound(UNAUTHENTICATED_OUTPUT);
            }
            Err(error) => self.refuse(&error, Sent::No),
        }
        self.admission == Admission::Open
    }

    /// What a client without a login hears of a command that does not exist, is malformed, or is HELLO: Redis looks at that
    /// before it asks for a login, and words it in its own way.
    async fn words_for(&self, verb: Option<Verb>, request: Request<'_>, otherwise: Vec<u8>) -> Vec<u8> {
        let Shared { config, gate, .. } = &*self.worker.shared;
        let node = &self.worker.shared.front();
        if config.auth != Auth::Upstream {
            if verb != Some(Verb::Hello) {
                return otherwise;
            }
            let mut words = passwords::NO_AUTH_FOR_HELLO.to_vec();
            if let Err(mistake) = Hello::parse(request, self.caller.resp) {
                words.clear();
                mistake.write(&mut words);
            }
            return words;
        }
        match gate.words(node, request.raw()).await {
            Ok(words) if words.first() == Some(&b'-') => words,
            _ => otherwise,
        }
    }

    /// Whether Redis still accepts what this session proved; asked when there is doubt. Where it cannot be asked, the command
    /// has been answered with an error. A session that is refused ends.
    pub(super) async fn is_still_itself(&mut self) -> Result<bool, Close> {
        let Some(proof) = self.caller.who.proof.clone() else { return Ok(true) };
        match self.worker.verify(&proof).await {
            Ok(true) => Ok(true),
            Ok(false) => Err(Close::Gently),
            Err(error) => {
                self.refuse(&error, Sent::No);
                Ok(false)
            }
        }
    }

    pub(super) async fn auth(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        line.answered(self).await?;
        let login = match request.argc() {
            2 => Some(Login { user: (*b"default").into(), password: request.arg(1).into() }),
            3 => Some(Login { user: request.arg(1).into(), password: request.arg(2).into() }),
            _ => None, // more arguments than AUTH takes: a syntax error in Redis's own words
        };
        self.keep_watches(line).await?;
        let reply = match login {
            Some(login) => self.try_login(line, spec, request, login).await?,
            None if self.keeps_passwords() => {
                self.fails(Failure::Login);
                Some(b"-ERR syntax error\r\n".to_vec())
            }
            None => self.ask_login(line, spec, request).await?,
        };
        if let Some(reply) = reply {
            self.answer(|out| out.extend_from_slice(&reply));
        }
        Ok(())
    }

    /// Has `login` judged, which `request` gives: by crema where it keeps the passwords, else by Redis. Where it is accepted, the
    /// session is this user from here on. None where nobody could be asked, which the client has been told.
    async fn try_login(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
        login: Login,
    ) -> Result<Option<Vec<u8>>, Close> {
        if self.keeps_passwords() {
            let judged = self.log_in_here(line, &login).await?;
            return Ok(Some(judged.map_or_else(|refusal| refusal, |()| b"+OK\r\n".to_vec())));
        }
        let reply = self.ask_login(line, spec, request).await?;
        if reply.as_ref().is_some_and(|reply| !reply.starts_with(b"-")) {
            self.logged_in(login);
            let proved = self.caller.who.login.clone().filter(|_| self.link.is_for_life());
            self.end_login(proved.as_ref());
        }
        Ok(reply)
    }

    /// What Redis says to a login: on the connection that the client has for life, else on one that is kept for logins.
    async fn ask_login(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<Option<Vec<u8>>, Close> {
        if self.link.is_for_life() {
            let private = self.be_alone(line).await?;
            self.asked(spec, Outcome::Pinned);
            self.begin_login();
            let reply = self.capture(&private, request.raw()).await?;
            self.end_login(None);
            return Ok(Some(reply));
        }
        match self.worker.front().log_in(request.raw()).await {
            Ok(reply) => {
                self.asked(spec, Outcome::Forwarded);
                Ok(Some(reply))
            }
            Err(error) => {
                self.refuse(&error, Sent::No);
                Ok(None)
            }
        }
    }

    /// The session is this user from here on: Redis has said so, on the private connection where one is in use.
    pub(super) fn logged_in(&mut self, login: Login) {
        self.admission = Admission::Open;
        let proof = self.worker.prove(login, &self.caller.replies);
        let who = Who::proved(&self.worker.shared, proof, &self.caller.who);
        self.worker.front().warm(&who, Time::now());
        self.caller.become_(who, self.caller.resp);
    }

    /// Before the user or the protocol of a session changes: a connection that watches keys for it changes along, and is no
    /// longer one of the pool's.
    async fn keep_watches(&mut self, line: &mut ClientLine) -> Result<(), Close> {
        match self.link.before_login() {
            BeforeLogin::Nothing => {}
            BeforeLogin::GiveBack if !self.crowded => self.end_loan(line).await?,
            BeforeLogin::GiveBack | BeforeLogin::Keep => drop(self.keep(line, Stay::Home).await?),
        }
        Ok(())
    }

    pub(super) async fn hello(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        line.answered(self).await?;
        let hello = match Hello::parse(request, self.caller.resp) {
            Ok(hello) => hello,
            // Redis's own words, from whichever connection, for it changes none. A password of crema's own may stand behind it,
            // which is none of Redis's business.
            Err(Mistake::Number | Mistake::Version) if !self.keeps_passwords() => {
                self.forward(spec, request);
                return Ok(());
            }
            Err(mistake) => {
                self.answer(|out| mistake.write(out));
                return Ok(());
            }
        };
        if let Some(refusal) = self.refusal_of_hello(line, request, &hello).await? {
            self.asked(spec, Outcome::Forwarded);
            self.answer(|out| out.extend_from_slice(&refusal));
            return Ok(());
        }
        self.keep_watches(line).await?;
        // On a connection of the client's own, what logs in is the HELLO itself.
        let (mut raw, mut spans) = (Vec::new(), Vec::new());
        let mut reply = None;
        if let Some((user, password)) = hello.login {
            if !self.link.is_for_life() {
                encode::command(&mut raw, &[request.arg(0), request.arg(1), b"AUTH", user, password]);
            }
            let login = Login { user: user.into(), password: password.into() };
            let request = Request::parse_canonical(&raw, &mut spans).unwrap_or(request);
            let Some(judged) = self.try_login(line, spec, request, login).await? else { return Ok(()) };
            if judged.starts_with(b"-") {
                self.answer(|out| out.extend_from_slice(&judged));
                return Ok(());
            }
            reply = Some(judged).filter(|_| !self.keeps_passwords());
        }
        if self.link.is_for_life() {
            let reply = match reply {
                Some(reply) => reply,
                None => self.hello_without_login(line, spec, request, &hello).await?,
            };
            self.hello_on_private(&reply, &hello);
        } else {
            self.hello_on_lane(line, spec, request, &hello).await?;
        }
        Ok(())
    }

    /// What Redis says where it has no HELLO, for anybody or for this user: then the session stays as it is. Asked where it is
    /// known to refuse somebody.
    async fn refusal_of_hello(
        &mut self,
        line: &mut ClientLine,
        request: Request<'_>,
        hello: &Hello<'_>,
    ) -> Result<Option<Vec<u8>>, Close> {
        let shared = Arc::clone(&self.worker.shared);
        let node = shared.front();
        if !node.needs.is_refused(Need::Hello) || self.link.is_for_life() {
            return Ok(None);
        }
        let mut plain = Vec::new();
        encode::command(&mut plain, &[request.arg(0)]);
        let refusal = self.ask_lane(line, &plain).await?.filter(|reply| is_forbidden(reply));
        let Some(refusal) = refusal else { return Ok(None) };
        if refusal.starts_with(b"-NOPERM") {
            return Ok(Some(refusal));
        }
        // It quotes what it is asked, and is shown no password of crema's own.
        if hello.login.is_some() && self.keeps_passwords() {
            return Ok(Some(refusal));
        }
        let words = shared.gate.words(&node, request.raw()).await;
        Ok(Some(words.ok().filter(|words| is_forbidden(words)).unwrap_or(refusal)))
    }

    /// What Redis says to a HELLO on the client's own connection, of which it is shown no login.
    async fn hello_without_login(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
        hello: &Hello<'_>,
    ) -> Result<Vec<u8>, Close> {
        let (mut raw, mut spans) = (Vec::new(), Vec::new());
        if hello.login.is_some() {
            hello.without_login(request, &mut raw);
        }
        let request = Request::parse_canonical(&raw, &mut spans).unwrap_or(request);
        self.ask(line, spec, request).await
    }

    /// Redis has said this to a HELLO on the client's own connection.
    fn hello_on_private(&mut self, reply: &[u8], hello: &Hello<'_>) {
        if reply.starts_with(b"*") || reply.starts_with(b"%") {
            if let Some(name) = hello.name {
                let kept = self.keeps_name(name);
                self.set_name(if kept { name } else { b"" });
                self.link.set_named(!kept && !name.is_empty());
            }
            self.caller.become_(Rc::clone(&self.caller.who), hello.resp);
            if let Some(lent) = self.link.conn_mut() {
                lent.is_now(hello.resp, self.caller.who.db);
            }
        }
        let shown = self.hello_shown(reply.to_vec());
        self.answer(|out| out.extend_from_slice(&shown));
    }

    async fn hello_on_lane(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
        hello: &Hello<'_>,
    ) -> Result<(), Close> {
        self.caller.become_(Rc::clone(&self.caller.who), hello.resp);
        if let Some(name) = hello.name {
            if self.keeps_name(name) {
                self.set_name(name);
            } else if !name.is_empty() {
                self.keep(line, Stay::Home).await?;
                self.link.set_named(true);
                if let Some(lent) = self.link.conn() {
                    lent.tell(&[b"CLIENT", b"SETNAME", name], Time::now());
                }
            }
        }
        // The map is Redis's own, in the version now spoken; only its `id` is that of a lane.
        let mut plain = Vec::new();
        encode::command(&mut plain, &[request.arg(0)]);
        let mut spans = Vec::new();
        if let Some(plain) = Request::parse_canonical(&plain, &mut spans) {
            if self.shows_one_server() && self.link.is_shared() {
                self.show_hello(line, spec, plain).await;
            } else {
                self.forward(spec, plain);
            }
        }
        Ok(())
    }

    /// Redis decides each time: a user may have lost the right, whoever is in that database already.
    pub(super) async fn select(
        &mut self,
        line: &mut ClientLine,
        spec: &'static Spec,
        request: Request<'_>,
    ) -> Result<(), Close> {
        let db = std::str::from_utf8(request.arg(1)).ok().and_then(|text| text.parse::<u32>().ok());
        let db = db.filter(|db| db.to_string().as_bytes() == request.arg(1) && i32::try_from(*db).is_ok());
        let reply = self.ask(line, spec, request).await?;
        if let Some(db) = db
            && reply.starts_with(b"+")
        {
            if let Some(lent) = self.link.conn_mut() {
                lent.is_now(self.caller.resp, db);
            }
            let who = self.caller.who.in_db(&self.worker.shared, db);
            let resp = self.caller.resp;
            self.caller.become_(who, resp);
        }
        self.answer(|out| out.extend_from_slice(&reply));
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
    /// The version is no number.
    Number,
    /// It is one that Redis does not speak.
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
                other => {
                    // As Redis reads numbers (util.c, `string2ll`): without a plus, and without zeros ahead.
                    let number = std::str::from_utf8(other).ok().and_then(|text| text.parse::<i64>().ok());
                    let is_number = number.is_some_and(|number| number.to_string().as_bytes() == other);
                    return Err(if is_number { Mistake::Version } else { Mistake::Number });
                }
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
                if !is_valid(name) {
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

impl Hello<'_> {
    /// The same request without its login.
    fn without_login(&self, request: Request<'_>, raw: &mut Vec<u8>) {
        let version: &[u8] = if self.resp == Resp::V3 { b"3" } else { b"2" };
        let mut words = vec![request.arg(0), version];
        words.extend(self.name.iter().flat_map(|name| [&b"SETNAME"[..], name]));
        encode::command(raw, &words);
    }
}

impl Mistake {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number => encode::error(out, "ERR Protocol version is not an integer or out of range"),
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
