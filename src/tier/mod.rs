//! Tiers: servers below the upstream that keep copies of values for longer than it does.
//!
//! A tier needs no logic: a copy says of which version and epoch it is ([`copy`]), and whoever reads it compares these with what is in the
//! upstream (`proxy/seeking`). So a tier that is away, slow, full, or comes back with old data is harmless: it is skipped at its
//! deadline, and after a few failures it is not asked for a while ([`circuit`]). Nothing here is on the way of a read that the upstream
//! can answer. Started by `app`; asked by the workers.

mod circuit;
mod connection;
mod copy;
mod dialect;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::clock::Time;
use crate::config::{TierRule, TierServer};
use crate::control::Control;
use crate::metrics::{TierOutcome, TierStats};
use crate::net::tls::{Dialer, FileError};

use circuit::Circuit;
use connection::{QUEUE, TierAddress, TierErrand};
use dialect::{Dialect, TierQuestion, TierReply};

pub(crate) use copy::TierCopy;

/// All tiers, in the order of the settings. See the module's head.
pub(crate) struct Tiers(Vec<Tier>);

/// One of them.
pub(crate) struct Tier {
    pub(crate) rule: TierRule,
    pub(crate) stats: TierStats,
    dialect: Dialect,
    asked: mpsc::Sender<TierErrand>,
    circuit: Mutex<Circuit>,
}

impl Tiers {
    /// Those of the settings; their connections are made when they are first asked.
    pub(crate) fn start(rules: &[TierRule], control: &Control) -> Result<Self, FileError> {
        let tiers = rules.iter().map(|rule| Tier::start(rule, control)).collect::<Result<_, _>>()?;
        Ok(Self(tiers))
    }

    /// The tier of this number.
    pub(crate) fn nth(&self, nth: u8) -> Option<&Tier> {
        self.0.get(usize::from(nth))
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[Tier] {
        &self.0
    }

    /// Empties those that are to be emptied with the upstream.
    pub(crate) async fn flush(&self) {
        for tier in self.0.iter().filter(|tier| tier.rule.flush) {
            tier.flush().await;
        }
    }
}

impl Tier {
    fn start(rule: &TierRule, control: &Control) -> Result<Self, FileError> {
        let tls = match &rule.server {
            TierServer::Redis(server) => server.tls.as_ref().map(Dialer::new).transpose()?,
            TierServer::Memcached(_) => None,
        };
        let (asked, questions) = mpsc::channel(QUEUE);
        let address = TierAddress::new(&rule.server, tls, rule.timeout);
        let dialect = address.dialect;
        control.spawn(address.serve(questions));
        let (circuit, stats) = (Mutex::new(Circuit::NEW), TierStats::default());
        Ok(Self { rule: rule.clone(), stats, dialect, asked, circuit })
    }

    /// Whether it is taken for well.
    pub(crate) fn is_well(&self) -> bool {
        self.circuit().is_closed()
    }

    /// Whether it would be asked now.
    pub(crate) fn is_due(&self) -> bool {
        let mut circuit = *self.circuit();
        circuit.may_ask(Time::now())
    }

    /// The copy that it has of a key, and how long that stays, where it says so.
    pub(crate) async fn get(&self, db: u32, key: &[u8]) -> Option<(TierCopy, Option<Duration>)> {
        let found = self.look(db, key).await?;
        if found.is_none() {
            self.stats.count(TierOutcome::Miss);
        }
        found
    }

    /// The same for whoever only looks: none where it does not answer, and where it has nothing, none in it.
    pub(crate) async fn look(&self, db: u32, key: &[u8]) -> Option<Option<(TierCopy, Option<Duration>)>> {
        let Some(name) = self.dialect.name(db, key) else { return Some(None) };
        match self.ask(self.dialect.get(&name)).await? {
            // Whatever else it may have under that name is no copy of ours.
            TierReply::Value(bytes, left) => Some(TierCopy::decode(&bytes).map(|copy| (copy, left))),
            TierReply::Nothing | TierReply::Done => Some(None),
            TierReply::Refused(_) => None,
        }
    }

    /// Keeps a copy for as long as the rule says of a key that lives for `left` yet; for ever, where that is none.
    pub(crate) async fn put(&self, db: u32, key: &[u8], copy: &TierCopy, left: Option<Duration>) {
        if copy.value.len() as u64 > self.rule.max_value {
            return self.stats.count(TierOutcome::TooLarge);
        }
        let Some(name) = self.dialect.name(db, key) else { return self.stats.count(TierOutcome::TooLarge) };
        let stay = left.map_or(self.rule.max_stay, |left| scaled(left, self.rule.ttl_scale).min(self.rule.max_stay));
        if self.dialect == Dialect::Memcached && stay < Duration::from_secs(1) {
            return self.stats.count(TierOutcome::TooLarge); // its times are whole seconds
        }
        if let Some(TierReply::Done) = self.ask(self.dialect.set(&name, &copy.encode(), stay)).await {
            self.stats.count(TierOutcome::Copied);
        }
    }

    async fn flush(&self) {
        if let Some(TierReply::Done) = self.ask(self.dialect.flush()).await {
            info!(tier = self.rule.name, "emptied with the upstream");
        }
    }

    /// None where it does not answer in time, or is not asked.
    async fn ask(&self, question: TierQuestion) -> Option<TierReply> {
        if !self.circuit().may_ask(Time::now()) {
            self.stats.count(TierOutcome::Skipped);
            return None;
        }
        let (told, answers) = oneshot::channel();
        let errand = TierErrand { question, told };
        let said = match self.asked.try_send(errand) {
            Ok(()) => match timeout(self.rule.timeout, answers).await {
                Ok(Ok(said)) => said,
                Ok(Err(_)) => return None, // the process ends
                Err(_) => Err("it does not answer in time".to_owned()),
            },
            Err(_) => Err("too much is asked of it".to_owned()),
        };
        match said {
            Ok(answers) => {
                if self.circuit().answered() {
                    info!(tier = self.rule.name, server = %self.rule.server, "a tier is asked again: it answers");
                }
                let reply = self.dialect.read(&answers);
                if let TierReply::Refused(why) = &reply {
                    self.stats.failed(why);
                }
                Some(reply)
            }
            Err(why) => {
                if self.circuit().failed(Time::now()) {
                    warn!(tier = self.rule.name, server = %self.rule.server, "a tier is not asked for a while: {why}");
                }
                self.stats.failed(&why);
                None
            }
        }
    }

    fn circuit(&self) -> std::sync::MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So many times that.
pub(crate) fn scaled(time: Duration, scale: f64) -> Duration {
    Duration::try_from_secs_f64(time.as_secs_f64() * scale).unwrap_or(Duration::MAX)
}
