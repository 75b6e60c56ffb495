//! Goes on with reads of which the upstream has nothing: what lies beyond it for their keys is asked, one after the other.
//!
//! A task of the worker for each such read, which ends with the worker and at the deadlines of those that it asks; there are only
//! so many at once for each origin, and what is more gets what the upstream said. Who asks for the same later sends a read of its
//! own: what one found may be older than what another's read has seen.
//!
//! A tier's value is an answer only if it carries the version and the epoch that are in the upstream *after* that said that it has
//! nothing; and not where a write of this process has begun since the read was sent, for that may be the same session's next command.
//!
//! Holds contract points 2 (order) and 3 (own writes).

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::detour::SentCommand;
use super::errands::{SeekKind, SeekRequest};
use super::in_flight::ReplyAction;
use super::lead::{is_wanted, promote};
use super::recipient::Recipient;
use super::returned::{ReplyPurpose, ReturnReason, ReturnedCommand};
use super::seek::{Question, SeekAnswer, SoughtKey};
use super::site::Site;
use super::slowness::note_wait;
use super::start::Start;
use super::who::Who;
use super::worker::Worker;
use crate::clock::Time;
use crate::command;
use crate::invalidation::Fill;
use crate::metrics::{Path, SlowReason};
use crate::resp::Resp;

/// So many keys of one.
const SIDE_BY_SIDE: usize = 64;
/// How long the upstream may take to answer what is asked beside a read.
const PATIENCE: Duration = Duration::from_secs(1);

/// A read that goes on, until it is answered.
struct SeekingRead {
    question: Question,
    all: Vec<Recipient>,
    db: u32,
    resp: Resp,
    start: Start,
    /// What is to be filled where it is known of a key that there is no value, and for whom.
    fills: (Rc<Site>, Rc<Who>, Vec<Fill>),
}

impl Worker {
    /// Goes on with a read.
    pub(super) fn seek(self: &Rc<Self>, command: ReturnedCommand, bytes: &[u8]) {
        let ReturnedCommand { site, first, joined, purpose, caller, start, why } = command;
        let (Some((who, resp)), ReturnReason::Absent(question)) = (caller, why) else { return };
        let fills = match purpose {
            ReplyPurpose::Read(_, fills) => fills,
            ReplyPurpose::Lead(reader, coin) if is_wanted(coin, !joined.is_empty()) => {
                self.fill_of(&reader.who, bytes).into_iter().collect()
            }
            _ => Vec::new(),
        };
        let all: Vec<Recipient> = std::iter::once(first).chain(joined).collect();
        for recipient in all.iter().filter(|recipient| recipient.replies().is_detoured()) {
            self.pilots.carried_out(recipient.replies(), recipient.place(), bytes);
        }
        let read = SeekingRead { question: *question, all, db: who.db, resp, start, fills: (site, who, fills) };
        let reach = |sought: &SoughtKey| self.shared.l1.terms.beyond.as_ref()?.reach(&sought.key)?.origin;
        let Some(place) = self.seeks.place(SeekKind::Needed(read.question.missing().find_map(reach))) else {
            let answers: Vec<_> = read.question.missing().map(|sought| self.unsought(&sought.key)).collect();
            return self.found(read, &answers);
        };
        let (worker, stop) = (Rc::clone(self), self.seeks.stop.clone());
        self.tasks.spawn_local(async move {
            let _place = place;
            let _ = stop.run_until_cancelled(worker.go_on(read)).await; // dropped, its clients are told
        });
    }

    async fn go_on(self: &Rc<Self>, read: SeekingRead) {
        let (sought, since): (Vec<SoughtKey>, _) = (read.question.missing().cloned().collect(), Time::now());
        let mut answers = Vec::with_capacity(sought.len());
        for some in sought.chunks(SIDE_BY_SIDE) {
            let mut tasks = JoinSet::new();
            for (nth, of) in some.iter().cloned().enumerate() {
                let (worker, db) = (Rc::clone(self), read.db);
                tasks.spawn_local(async move { (nth, worker.beyond(SeekRequest { of, db, since }).await) });
            }
            let mut found = vec![SeekAnswer::Nothing; some.len()];
            while let Some(ended) = tasks.join_next().await {
                let (nth, answer) =
                    ended.unwrap_or_else(|_| (0, SeekAnswer::Failed("origin: its load broke off".into())));
                if matches!(answer, SeekAnswer::Failed(_)) {
                    self.found(read, &[answer]);
                    while tasks.join_next().await.is_some() {} // others may wait for what these load
                    return;
                }
                found[nth] = answer;
            }
            answers.append(&mut found);
        }
        self.found(read, &answers);
    }

    /// What is said of a key that is not sought: that there may be a value at its origin is kept from nobody.
    fn unsought(&self, key: &[u8]) -> SeekAnswer {
        let reach = self.shared.l1.terms.beyond.as_ref().and_then(|beyond| beyond.reach(key));
        match reach.and_then(|reach| reach.origin) {
            Some(_) => SeekAnswer::Failed("origin: too many reads wait for theirs".to_owned()),
            None => SeekAnswer::Nothing,
        }
    }

    /// What leaves in L1 the answer to this read of one key.
    fn fill_of(&self, who: &Who, bytes: &[u8]) -> Option<Fill> {
        let (settings, mut spans) = (&self.settings, Vec::new());
        let SentCommand { spec, request } = SentCommand::read(bytes, &mut spans)?;
        let (query, rule) = (who.query(&self.shared.l1, spec, request), settings.rule_of(request.arg(1)));
        let fill = Fill::new(request, &query, who.db, settings.ceiling(rule), settings.promote(rule).max_value);
        Some(fill.by_settings(settings.number()))
    }

    /// Has those of these keys filled of which it is known that there is no value. Where there are tiers nobody can know: they may answer
    /// again.
    fn fill_negatives(&self, read: &mut SeekingRead, answers: &[SeekAnswer]) {
        let (site, who, fills) = &mut read.fills;
        let Some(beyond) = self.shared.l1.terms.beyond.as_ref().filter(|_| self.shared.l1.keeps()) else { return };
        let no_tiers = |key: &[u8]| beyond.reach(key).is_some_and(|reach| reach.tiers.is_empty());
        let missing = read.question.missing().zip(answers).filter(|(_, answer)| **answer == SeekAnswer::Negative);
        let negative: HashSet<&[u8]> = missing.map(|(sought, _)| &*sought.key).filter(|key| no_tiers(key)).collect();
        for fill in std::mem::take(fills).into_iter().filter(|fill| negative.contains(fill.key())) {
            promote(site, &who.ear, fill);
        }
    }

    /// Answers all who wait for a read.
    fn found(&self, mut read: SeekingRead, answers: &[SeekAnswer]) {
        self.fill_negatives(&mut read, answers);
        let reply = |wrote| match read.question.value(answers, wrote) {
            Some(value) => self.seeks.reply_of(value),
            None => read.question.reply(answers, read.resp, wrote).into(),
        };
        let (usual, now) = (reply(false), Time::now());
        for recipient in &mut read.all {
            let wrote = recipient.replies().wrote_after(recipient.place());
            recipient.append_shared(&if wrote { reply(true) } else { Rc::clone(&usual) }, Some(now));
            recipient.finish();
        }
        let took = read.start.until(now);
        if read.start.is_sampled() {
            self.stats.record_span(Path::Miss, took);
        }
        if let Some((first, joined)) = read.all.split_first() {
            let key = read.question.missing().next().map(|sought| &*sought.key);
            let of = (command::by_id(first.command()), key);
            let at = (&**first.replies(), first.place());
            note_wait(&self.shared, at, of, (took, SlowReason::Beyond, first.outcome()), joined.len());
        }
    }

    /// What lies beyond the upstream for a key: in its tiers, or at its origin.
    async fn beyond(self: Rc<Self>, mut sought: SeekRequest) -> SeekAnswer {
        let reach = self.shared.l1.terms.beyond.as_ref().and_then(|beyond| beyond.reach(&sought.of.key));
        let Some(reach) = reach else { return SeekAnswer::Nothing };
        if !reach.tiers.is_empty() {
            let asked = Time::now();
            if let Some(value) = self.in_tiers(&sought, &reach).await {
                return SeekAnswer::Value(value.into());
            }
            sought.since = sought.since.plus(Time::now().saturating_since(asked)); // what tiers take is no part of a load
        }
        match reach.origin {
            Some(origin) => self.load(&sought, origin).await,
            None => SeekAnswer::Nothing,
        }
    }

    /// Asks the node of a key as the user of the upstream URL, in RESP2; one that may run for long, `scripts`, on a lane of its own. None
    /// where it does not answer in time.
    pub(super) async fn ask_beside(&self, (key, db): (&[u8], u32), command: &[u8], scripts: bool) -> Option<Vec<u8>> {
        let station = self.station(self.serving_key(key));
        let who = Who::new(&self.shared, station.node(), station.node().login(), db);
        self.ask_as(&who, key, command, scripts).await
    }

    /// The same as this user, in its database.
    pub(super) async fn ask_as(&self, who: &Who, key: &[u8], command: &[u8], scripts: bool) -> Option<Vec<u8>> {
        let station = self.station(self.serving_key(key));
        let (who, now) = (who.moved(&self.shared, station.node()), Time::now());
        let track = station.track(&who, Resp::V2, scripts, now).ok()?;
        let (told, reply) = oneshot::channel();
        track.ask(command, ReplyAction::Capture(Vec::new(), told), now);
        timeout(PATIENCE, reply).await.ok()?.ok()
    }
}
