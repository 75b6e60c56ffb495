//! `CREMA`: crema's own command, which Redis never sees. What it knows of a command, and forgetting by hand.
//!
//! Inside MULTI it goes to Redis like any command that there is not.

use std::sync::Arc;

use tracing::{debug, warn};

use super::Session;
use super::wire::ClientLine;
use crate::cache::Query;
use crate::clock::Time;
use crate::command::{self, Effect, HashSlot, Route, Spec, Verb};
use crate::config::{L1Mode, Promote, Rule, UpstreamKind};
use crate::invalidation::Fill;
use crate::invalidation::Forget;
use crate::invalidation::message::Message;
use crate::metrics::{Failure, quoted};
use crate::proxy::{ListingKind, Order, OrderReport};
use crate::resp::{Request, Span, encode};

const HELP: [&str; 31] = [
    "CREMA <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "ADVISE",
    "    Tell what memory of other sizes would answer, and what to set. For admin_users alone.",
    "AUDIT",
    "    Tell what came of replies from memory that were read again in Redis. For admin_users alone.",
    "BIGKEYS [<count>]",
    "    Tell the biggest values that were seen of late, with their keys. For admin_users alone.",
    "CLIENTS [<count>]",
    "    Tell the clients that ask for most, and what they do. For admin_users alone.",
    "EXPLAIN <command> [<arg> ...]",
    "    Tell what crema knows of a command, and whether its reply is in memory.",
    "HOTKEYS [<count>]",
    "    Tell the keys that are read most now, and those that are written most. For admin_users alone.",
    "INVALIDATE <key> [<key> ...]",
    "    Forget all that is in memory of these keys, here and in the fleet.",
    "    Of MGET, of each of its keys as GET reads it.",
    "INVALIDATE PATTERN <pattern> [<pattern> ...]",
    "    The same for all keys that match. The reply is how many patterns that is.",
    "MODE cache|observe|pass",
    "    Have memory answer, only count what it would answer, or do nothing. For admin_users alone.",
    "REFRESH <key> [<key> ...]",
    "    Forget as INVALIDATE does, and read anew here what was in memory.",
    "RELOAD",
    "    Read the settings anew. The reply is what has changed, and what needs a restart. For admin_users alone.",
    "SLOWLOG [<count>]",
    "    Tell the last slow commands, each with the reason. For admin_users alone.",
    "SLOWLOG RESET",
    "    Forget them.",
    "STATUS",
    "    Tell how crema stands.",
    "HELP",
];

impl Session {
    /// A subcommand of `CREMA`, outside of a transaction.
    pub(super) async fn crema(&mut self, line: &mut ClientLine, verb: Verb, request: Request<'_>) {
        let mut reply = Vec::new();
        if let Verb::CremaInvalidate | Verb::CremaRefresh = verb {
            let (client, user) = (self.caller.replies.member().peer(), self.user_name());
            debug!(%client, user = %user.escape_debug(), "CREMA INVALIDATE or REFRESH: keys are forgotten");
        }
        match verb {
            Verb::CremaExplain => {
                let beyond = self.told_of_beyond(request).await;
                self.explain(request, beyond, &mut reply);
            }
            Verb::CremaAdvise => self.advise(&mut reply),
            Verb::CremaAudit => self.tell_audit(&mut reply),
            Verb::CremaStatus => self.status(&mut reply),
            Verb::CremaInvalidate => line.while_writing(self, self.invalidate(request, &mut reply)).await,
            Verb::CremaRefresh => line.while_writing(self, self.refresh(request, &mut reply)).await,
            Verb::CremaMode => line.while_writing(self, self.switch(request, &mut reply)).await,
            Verb::CremaReload => line.while_writing(self, self.reload(&mut reply)).await,
            Verb::CremaHotKeys => line.while_writing(self, self.list(ListingKind::HotKeys, request, &mut reply)).await,
            Verb::CremaBigKeys => line.while_writing(self, self.list(ListingKind::BigKeys, request, &mut reply)).await,
            Verb::CremaClients => line.while_writing(self, self.list(ListingKind::Clients, request, &mut reply)).await,
            Verb::CremaSlowLog => line.while_writing(self, self.list(ListingKind::SlowLog, request, &mut reply)).await,
            _ => {
                encode::array_header(&mut reply, HELP.len());
                for line in HELP {
                    encode::simple(&mut reply, line);
                }
            }
        }
        if reply.starts_with(b"-") {
            self.fails(Failure::Command);
        }
        self.answer(|out| out.extend_from_slice(&reply));
    }

    /// A `CREMA` that means nothing.
    pub(super) fn mistake(&self, known: Option<&Spec>, request: Request<'_>) {
        let wrong = match known {
            Some(spec) => format!("wrong number of arguments for '{}' command", spec.name),
            None => format!("unknown subcommand '{}'", String::from_utf8_lossy(request.arg(1))),
        };
        self.fails(Failure::Command);
        self.answer(|out| encode::error(out, &format!("ERR {wrong}. Try CREMA HELP.")));
    }

    async fn invalidate(&self, request: Request<'_>, reply: &mut Vec<u8>) {
        let by_pattern = request.argc() > 3 && request.arg(2).eq_ignore_ascii_case(b"PATTERN");
        let told = if by_pattern { self.forget_patterns(request).await } else { self.forget(request).await };
        let count = request.argc() - 2 - usize::from(by_pattern);
        Self::outcome(told, i64::try_from(count).unwrap_or(i64::MAX), reply);
    }

    async fn forget_patterns(&self, request: Request<'_>) -> Result<(), String> {
        let l1 = &self.worker.shared.l1;
        let mut told = Ok(());
        for pattern in request.args().skip(3) {
            l1.pattern(pattern);
            let Some(fleet) = &l1.fleet else { continue };
            let said = match String::from_utf8(pattern.to_vec()) {
                Ok(pattern) => fleet.say(Message::RemovePattern { pattern }).await,
                Err(_) => Err("a pattern that is not UTF-8 has no name on the channel".to_owned()),
            };
            told = told.and(said);
        }
        told
    }

    async fn forget(&self, request: Request<'_>) -> Result<(), String> {
        let l1 = &self.worker.shared.l1;
        request.args().skip(2).for_each(|key| l1.key(key));
        match &l1.fleet {
            Some(fleet) => fleet.say_keys(request.args().skip(2)).await,
            None => Ok(()),
        }
    }

    /// What was in memory of the keys, under whatever command and for whatever user, is read anew on its own user's ear.
    async fn refresh(&self, request: Request<'_>, reply: &mut Vec<u8>) {
        let told = self.forget(request).await;
        let shared = &self.worker.shared;
        let as_argument = |key| {
            let mut argument = Vec::new();
            encode::bulk(&mut argument, key);
            argument
        };
        let keys: Vec<Vec<u8>> = request.args().skip(2).map(as_argument).collect();
        let topology = self.worker.topology();
        let at = |read: Request<'_>| Arc::clone(topology.node_of_key(read.arg(1)));
        let kept = shared.l1.kept(keys, at).await;
        let settings = shared.live();
        let mut anew = 0;
        for kept in kept {
            let mut spans: Vec<Span> = Vec::new();
            let Some(read) = Request::parse_canonical(&kept.request, &mut spans) else { continue };
            let rule = settings.rule_of(read.arg(1));
            let rest = if read.argc() > 2 { read.tail(2) } else { &[] };
            let query =
                Query::new(&shared.l1.memory.stamps, kept.identity, kept.command, read.arg(1), read.tail(1), rest);
            let fill = Fill::new(read, &query, kept.db, settings.ceiling(rule), settings.promote(rule).max_value)
                .by_settings(settings.number)
                .leaving(shared.early(read.arg(1)));
            anew += i64::from(shared.l1.promote(&kept.ear, fill).is_ok());
        }
        Self::outcome(told, anew, reply);
    }

    /// Has an admin's order carried out.
    async fn switch(&self, request: Request<'_>, reply: &mut Vec<u8>) {
        let name = String::from_utf8_lossy(request.arg(2));
        let Some(mode) = L1Mode::named(&name) else {
            return encode::error(reply, "ERR crema: no such mode. Try CREMA HELP.");
        };
        match self.order(Order::Mode(mode)).await {
            Ok(_) => encode::simple(reply, "OK"),
            Err(refusal) => encode::error(reply, &refusal),
        }
    }

    /// Has the settings read anew.
    async fn reload(&self, reply: &mut Vec<u8>) {
        match self.order(Order::Reload).await {
            Ok(report) => Self::tell(&report.lines().collect::<Vec<_>>(), reply),
            Err(refusal) => encode::error(reply, &refusal),
        }
    }

    /// What L1 would answer at other sizes, and what follows from that.
    fn advise(&self, reply: &mut Vec<u8>) {
        match self.must_be_admin() {
            Ok(_) => {
                let shared = &self.worker.shared;
                let report = shared.curve.board.report();
                // Of a key that is read often a part could be taken for a prefix.
                let lines =
                    if shared.live().show_keys { report.lines() } else { (*report).clone().without_names().lines() };
                Self::tell(&lines, reply);
            }
            Err(refusal) => encode::error(reply, &refusal),
        }
    }

    fn tell(lines: &[String], reply: &mut Vec<u8>) {
        encode::array_header(reply, lines.len());
        for line in lines {
            encode::bulk(reply, line.as_bytes());
        }
    }

    /// What an order has changed, or the error that the client is told.
    async fn order(&self, order: Order) -> Result<OrderReport, String> {
        let by = self.must_be_admin()?;
        let shared = &self.worker.shared;
        shared
            .orders
            .give(order, by)
            .await
            .map_err(|why| format!("ERR crema: {}", why.to_string().replace(['\r', '\n'], "; ")))
    }

    /// Who asks, where that may be done by admins alone and is one; else the error that the client is told.
    pub(super) fn must_be_admin(&self) -> Result<String, String> {
        let (user, client) = (self.user_name(), self.caller.replies.member().peer());
        if !self.worker.shared.live().admins.users.contains(&user) {
            warn!(%client, user = %user.escape_debug(), "an order was refused: its user is not among admin_users");
            return Err("NOPERM crema: only users named in admin_users may do this".to_owned());
        }
        Ok(format!("user `{}` at {client}", user.escape_debug()))
    }

    /// As whom the client itself has logged in: not the user for whom it acts because the settings say so.
    fn user_name(&self) -> String {
        let proof = || self.caller.who.proof.as_ref();
        let proved = |user: &[u8]| String::from_utf8_lossy(user).into_owned();
        let upstream = || proof().map_or("default".into(), |proof| proved(&proof.login().user));
        self.account.as_ref().map_or_else(upstream, ToString::to_string)
    }

    /// How many, or that others were not told.
    fn outcome(told: Result<(), String>, count: i64, reply: &mut Vec<u8>) {
        match told {
            Ok(()) => encode::integer(reply, count),
            Err(why) => encode::error(reply, &format!("ERR crema: forgotten here, but not in the fleet: {why}")),
        }
    }

    fn status(&self, reply: &mut Vec<u8>) {
        let shared = &self.worker.shared;
        let (l1, who) = (&shared.l1, &self.caller.who);
        let user = who.login.as_ref().map_or("default".into(), |login| String::from_utf8_lossy(&login.user));
        let number = |n: u64| n.to_string();
        let fields = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("upstream", shared.live().upstream.clone()),
            ("user", user.into_owned()),
            ("database", who.db.to_string()),
            ("lease_ms_left", number(millis(who.ear.freshness.lease_left(Time::now())))),
            ("l1_entries", number(l1.memory.store.len() as u64)),
            ("l1_bytes", number(l1.memory.store.bytes())),
            ("l1_capacity", number(l1.memory.store.limit())),
            ("ears", l1.ears.all().len().to_string()),
            ("nodes", self.worker.topology().nodes().count().to_string()),
            ("map_version", number(self.worker.topology().version())),
            ("elections", number(shared.stats.elections.get())),
            ("mode", l1.service().to_string()),
            ("promote", shared.live().promote.to_string()),
            ("max_staleness_ms", number(millis(shared.l1.terms.max_staleness.get()))),
            ("coherence", l1.mode().means().as_str().to_owned()),
            ("promise", l1.mode().means().about().to_owned()),
            ("channel", if shared.config.channel.enabled { shared.config.channel.name.clone() } else { String::new() }),
            ("channel_publish", shared.config.channel.publish.to_string()),
            ("origin_id", shared.origin_id.clone()),
            ("take_over", shared.succession.get().to_string()),
        ];
        self.map(&fields, reply);
    }

    /// What tiers have of the key that the command to be explained reads, and how it stands with its load.
    async fn told_of_beyond(&self, request: Request<'_>) -> (String, String) {
        match command::named(request.arg(2)) {
            Some(spec) if spec.reads_values(request.argc() - 2) => {
                let (key, who) = (request.arg(3), &self.caller.who);
                (self.worker.told_of_tiers(key, who).await, self.worker.told_of_load(key, who).await)
            }
            _ => (String::new(), String::new()),
        }
    }

    fn explain(&self, request: Request<'_>, (tiers, load): (String, String), reply: &mut Vec<u8>) {
        let words: Vec<&[u8]> = request.args().skip(2).collect();
        let mut raw = Vec::new();
        encode::command(&mut raw, &words);
        let mut spans: Vec<Span> = Vec::new();
        let Some(asked) = Request::parse_canonical(&raw, &mut spans) else {
            return encode::error(reply, "ERR crema: too long to be explained");
        };
        let shared = &self.worker.shared;
        let known = command::lookup(asked);
        let spec = known.unwrap_or_else(command::unknown);
        let keys: Vec<String> = spec.keys(asked).map(quoted).collect();
        let keeps = known.is_some() && spec.keeps(asked);
        let settings = shared.live();
        let rule = if keeps { settings.rule(settings.rule_of(asked.arg(1))) } else { None };
        let held = if keeps { self.held(spec, asked) } else { Vec::new() };
        let (slot, node, lease) = self.whereabouts(spec, asked);
        let (replica, replica_lease) = self.replica(spec, asked).unwrap_or_default();
        let (group, since) = self.group();
        let first = held.iter().flatten().min().copied();
        let in_l1 = match (held.len(), held.iter().flatten().count()) {
            (_, 0) => "no".to_owned(),
            (1, _) => "yes".to_owned(),
            (all, some) => format!("{some} of {all}"),
        };
        let left = |expires: Time| match expires {
            Time::NEVER => "-1".to_owned(),
            expires => millis(expires.saturating_since(Time::now())).to_string(),
        };
        let fields = [
            ("command", if known.is_some() { spec.name.to_owned() } else { "unknown".to_owned() }),
            ("class", spec.class.as_str().to_owned()),
            ("effect", effect(spec).to_owned()),
            ("connection", connection(spec, asked).to_owned()),
            ("keys", keys.join(" ")),
            ("denied", self.denial(known, asked).to_owned()),
            ("mode", shared.l1.service().to_string()),
            ("cacheable", self.cacheable(known, asked, rule).to_owned()),
            ("in_l1", in_l1),
            ("ttl_ms_left", first.map_or_else(String::new, left)),
            ("origin", self.origin_of(spec, asked)),
            ("rule", rule.map_or_else(String::new, |rule| rule.pattern.to_string())),
            ("tiers", tiers),
            ("load", load),
            ("slot", slot),
            ("node", node),
            ("lease_ms_left", lease),
            ("replica", replica),
            ("replica_lease_ms_left", replica_lease),
            ("group", group),
            ("master_for_ms", since),
        ];
        self.map(&fields, reply);
    }

    /// The origin that is asked where Redis has nothing of a read's first key, and the URL.
    fn origin_of(&self, spec: &Spec, asked: Request<'_>) -> String {
        let shared = &self.worker.shared;
        let Some(key) = spec.keys(asked).next().filter(|_| spec.reads_values(asked.argc())) else {
            return String::new();
        };
        let reach = shared.l1.terms.beyond.as_ref().and_then(|beyond| beyond.reach(key));
        let rule =
            reach.and_then(|reach| reach.origin).and_then(|origin| shared.config.origins.get(usize::from(origin)));
        rule.map_or_else(String::new, |rule| match rule.url.url(&rule.pattern, key) {
            Ok(url) => format!("{}: {url}", rule.pattern),
            Err(unfit) => format!("{}: none: {unfit}", rule.pattern),
        })
    }

    /// Whether a command's reply may be kept in L1, and if not, why.
    fn cacheable(&self, known: Option<&Spec>, asked: Request<'_>, rule: Option<&Rule>) -> &'static str {
        let Some(spec) = known else { return "no: it is not in the table of commands" };
        if !self.worker.shared.l1.is_on() {
            return "no: l1_size is 0";
        }
        if self.worker.shared.l1.service() == L1Mode::Pass {
            return "no: mode is pass";
        }
        if !spec.cacheable() {
            return match spec.effect {
                Effect::Read => "no: its reply may differ though its key does not, or it reads more than one key",
                Effect::Write | Effect::Opaque => "no: it writes",
                Effect::None => "no: it reads no key",
            };
        }
        if !spec.keeps(asked) {
            return "no: not with these arguments";
        }
        if rule.is_some_and(|rule| rule.promote == Some(Promote::Never)) { "no: a rule says never" } else { "yes" }
    }

    /// The slot of its first key in a cluster, the node that serves it, and how long memory may answer there for the session's user.
    fn whereabouts(&self, spec: &Spec, asked: Request<'_>) -> (String, String, String) {
        let topology = self.worker.topology();
        let key = spec.keys(asked).next();
        let slot = key.filter(|_| topology.cluster().is_some()).map(|key| HashSlot::of(key).number().to_string());
        let node = key.map_or_else(|| topology.front(), |key| topology.node_of_key(key));
        let ear = self.caller.who.ear_at(&self.worker.shared, node);
        let left = millis(ear.freshness.lease_left(Time::now()));
        (slot.unwrap_or_default(), node.address.to_string(), left.to_string())
    }

    /// A replica that may answer it, where L1 does not, and how long yet.
    fn replica(&self, spec: &Spec, asked: Request<'_>) -> Option<(String, String)> {
        let topology = self.worker.topology();
        let is_alone = topology.cluster().is_none() || spec.each().is_some() || spec.keys(asked).nth(1).is_none();
        let key = spec.keys(asked).next().filter(|_| is_alone && spec.suits_replica(asked))?;
        let leases = topology.node_of_key(key).replicas.leases();
        let is_its_own =
            topology.cluster().is_none() || leases.claims.as_ref().is_some_and(|claims| claims.has(HashSlot::of(key)));
        let user = self.caller.who.login.as_ref().map_or(&b"default"[..], |login| &login.user);
        let left = leases.replicas.iter().filter(|lease| is_its_own && lease.serves(user, Time::ZERO));
        let (longest, now) = (self.worker.shared.l1.terms.max_staleness.get(), Time::now());
        let left = left.map(|lease| (lease.left(longest, now), lease));
        let (left, lease) = left.filter(|(left, _)| !left.is_zero()).max_by_key(|(left, _)| *left)?;
        Some((lease.node.address.to_string(), millis(left).to_string()))
    }

    /// Behind Sentinels, the group, and since when the node is its master, as far as is known here.
    fn group(&self) -> (String, String) {
        match &self.worker.shared.config.upstream.kind {
            UpstreamKind::Sentinel { name, .. } => {
                let known = Time::now().saturating_since(self.worker.front().node().made);
                (name.clone(), millis(known).to_string())
            }
            _ => <_>::default(),
        }
    }

    /// Until when L1 may answer a read, where it can; of a read of many keys, each.
    fn held(&self, spec: &Spec, asked: Request<'_>) -> Vec<Option<Time>> {
        let (l1, who) = (&self.worker.shared.l1, &self.caller.who);
        let topology = self.worker.topology();
        let held = |spec: &Spec, asked: Request<'_>| {
            let query = who.query(l1, spec, asked);
            let ear = who.ear_at(&self.worker.shared, topology.node_of_key(asked.arg(1)));
            l1.memory.held_until(&query, &ear.freshness, Time::now())
        };
        let Some(each) = spec.each() else { return vec![held(spec, asked)] };
        let keys = asked.args().skip(1).map(|key| {
            let (mut raw, mut spans): (_, Vec<Span>) = (Vec::new(), Vec::new());
            encode::command(&mut raw, &[each.name.as_bytes(), key]);
            held(each, Request::parse_canonical(&raw, &mut spans)?)
        });
        keys.collect()
    }

    fn map(&self, fields: &[(&str, String)], reply: &mut Vec<u8>) {
        encode::map_header(reply, fields.len(), self.caller.resp);
        for (name, value) in fields {
            encode::bulk(reply, name.as_bytes());
            encode::bulk(reply, value.as_bytes());
        }
    }
}

/// Which connection a command goes on.
fn connection(spec: &Spec, asked: Request<'_>) -> &'static str {
    match spec.route {
        _ if spec.on_lane(asked) => "shared",
        Route::Session(_) => "answered for the session",
        Route::Close => "closed",
        Route::Blocking | Route::LaneUnlessBlocking | Route::Taint | Route::Home => "the client's own, for life",
        Route::Borrow | Route::BorrowAnywhere | Route::Lane | Route::ScriptLane | Route::LaneIfOne => "borrowed",
    }
}

fn effect(spec: &Spec) -> &'static str {
    match spec.effect {
        Effect::Read => "read",
        Effect::Write => "write",
        Effect::Opaque => "write to unknown keys",
        Effect::None => "none",
    }
}

fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
