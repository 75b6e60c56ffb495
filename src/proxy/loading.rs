//! A key that Redis does not have, where an origin has it: the worker's part in its load, which is to ask Redis.
//!
//! Redis is asked as the user of the upstream URL, for whose keys these are the client has shown already: it was allowed to read the key,
//! and was told that there is none.
//!
//! Holds contract point 3 (own writes).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::errands::{SeekKind, SeekRequest};
use super::in_flight::ReplyAction;
use super::seek::{Question, SeekAnswer};
use super::station::Station;
use super::who::Who;
use super::worker::Worker;
use crate::beyond::{KeptKind, NEGATIVE};
use crate::clock::Time;
use crate::invalidation::AwaitedChange;
use crate::origin::{KeyNode, LoadOutcome, NewVersion, OriginTrouble, WantedKey};
use crate::resp::{Resp, encode, integer_of, text_of};

/// A worker that ends waits so long until the tokens of its loads are released.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The node of a key that is being loaded: asked on a lane of its own, for what is asked are scripts.
struct LoadingNode<'a> {
    worker: &'a Worker,
    wanted: &'a WantedKey,
    /// The worker does not end before it.
    _load: TaskTrackerToken,
}

impl<'a> LoadingNode<'a> {
    fn new(worker: &'a Worker, wanted: &'a WantedKey) -> Self {
        Self { worker, wanted, _load: worker.seeks.loads.token() }
    }

    /// Who asks there, and where.
    fn who(&self) -> (Rc<Who>, Rc<Station>) {
        let (worker, wanted) = (self.worker, self.wanted);
        let station = worker.station(worker.serving_key(&wanted.key));
        (Who::new(&worker.shared, station.node(), station.node().login(), wanted.db), station)
    }
}

impl KeyNode for LoadingNode<'_> {
    async fn ask(&self, command: &[u8]) -> Option<Vec<u8>> {
        self.worker.ask_beside((&self.wanted.key, self.wanted.db), command, true).await
    }

    fn tell(&self, command: &[u8]) {
        let ((who, station), now) = (self.who(), Time::now());
        let (told, reply) = oneshot::channel();
        if let Ok(track) = station.track(&who, Resp::V2, true, now) {
            track.ask(command, ReplyAction::Capture(Vec::new(), told), now);
            self.worker.seeks.last_words(reply);
        }
    }

    fn await_change(&self, until: Time) -> oneshot::Receiver<()> {
        let (key, token) = (self.wanted.key.clone(), self.wanted.token.clone().into());
        let change = AwaitedChange { db: self.wanted.db, key, token, until };
        self.worker.shared.l1.await_change(&self.who().0.ear, change)
    }
}

impl Worker {
    /// Gives up the loads that are under way, as the process ends. Returns once their tokens are released, as far as that is soon.
    pub(crate) async fn give_up_loads(&self) {
        self.seeks.stop.cancel();
        let _ = timeout(LAST_WORDS, self.seeks.are_over()).await; // a token ends by itself
    }

    /// How it stands with the load of a key, for people: nothing where there is nothing to say.
    pub(crate) async fn told_of_load(&self, key: &[u8], who: &Who) -> String {
        let (Some(origins), Some(beyond)) = (&self.shared.origins, &self.shared.l1.terms.beyond) else {
            return String::new();
        };
        let Some(origin) = beyond.reach(key).and_then(|reach| reach.origin) else { return String::new() };
        if !self.may_read(key, who).await {
            return String::new();
        }
        let (name, mut both) = (beyond.beside(KeptKind::Load, key), Vec::new());
        for word in [b"GET".as_slice(), b"PTTL"] {
            let mut question = Vec::new();
            encode::own_command(&mut question, &[word, &name]);
            both.push(self.ask_beside((key, who.db), &question, false).await.unwrap_or_default());
        }
        let left = integer_of(&both[1]).unwrap_or_default().max(0);
        match (text_of(&both[0]), origins.trouble(origin.into())) {
            (Some(NEGATIVE), _) => format!("the origin is known to have none for another {left}ms"),
            (Some(_), _) => format!("it is being loaded, for another {left}ms at the longest"),
            (None, Some(OriginTrouble { why, at })) => {
                let ago = Time::now().saturating_since(at).as_secs();
                format!("the last load from this origin failed, {ago}s ago: {why}")
            }
            (None, None) => String::new(),
        }
    }

    /// What the origin with this number has for a key.
    pub(super) async fn load(&self, sought: &SeekRequest, origin: u16) -> SeekAnswer {
        let (Some(origins), Some(wanted)) = (&self.shared.origins, self.wanted(&sought.of.key, sought.db)) else {
            return SeekAnswer::Nothing;
        };
        let node = LoadingNode::new(self, &wanted);
        match origins.load(origin.into(), (&wanted, sought.since), &node).await {
            LoadOutcome::Loaded(value) => SeekAnswer::Value(value),
            LoadOutcome::Found(value) | LoadOutcome::Stale(value) => SeekAnswer::Found(value),
            LoadOutcome::Missing => SeekAnswer::Nothing,
            LoadOutcome::Negative => SeekAnswer::Negative,
            LoadOutcome::Needless => SeekAnswer::Failed("origin: its load came to nothing".to_owned()), // of those ahead alone
            LoadOutcome::Failed(why) => SeekAnswer::Failed(format!("origin: {why}")),
        }
    }

    /// Has keys loaded anew that the upstream has, in this database, where their end is near and their rule says so.
    pub(super) fn refresh(self: &Rc<Self>, question: &Question, db: u32) {
        let (Some(origins), Some(beyond)) = (&self.shared.origins, &self.shared.l1.terms.beyond) else { return };
        for sought in question.keys() {
            let Some(number) = beyond.reach(&sought.key).and_then(|reach| reach.origin) else { continue };
            let origin = usize::from(number);
            if !origins.refreshes(origin, (db, &sought.key)) {
                continue;
            }
            let Some(place) = self.seeks.place(SeekKind::Ahead(number)) else { continue };
            let Some(wanted) = self.wanted(&sought.key, db) else { continue };
            let (worker, origins, stop) = (Rc::clone(self), Arc::clone(origins), self.seeks.stop.clone());
            self.tasks.spawn_local(async move {
                let _place = place;
                let node = LoadingNode::new(&worker, &wanted);
                let _ = stop.run_until_cancelled(origins.refresh(origin, &wanted, &node)).await; // nobody waits for it
            });
        }
    }

    fn wanted(&self, key: &[u8], db: u32) -> Option<WantedKey> {
        let beyond = self.shared.l1.terms.beyond.as_ref()?;
        let beside = |kind| beyond.beside(kind, key);
        let has_tiers = beyond.reach(key).is_some_and(|reach| !reach.tiers.is_empty());
        let version = has_tiers.then(|| NewVersion {
            key: beside(KeptKind::Version),
            value: String::new(), // each step draws its own
            life: beyond.life().to_owned(),
        });
        Some(WantedKey { db, key: key.into(), token: beside(KeptKind::Load), stale: beside(KeptKind::Stale), version })
    }
}
