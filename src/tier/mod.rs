//! Tiers: servers below the upstream that keep copies of values for longer than it does.
//!
//! A tier needs no logic: a copy says of which version and epoch it is ([`copy`]), and whoever reads it compares these with what is in the
//! upstream (`proxy/seeking`). So a tier that is away, slow, full, or comes back with old data is harmless: it is skipped at its
//! deadline, and after a few failures it is not asked until it is seen to be there ([`circuit`]). Nothing here is on the way of a read
//! that the upstream can answer. Started by `app`; asked by the workers.

mod circuit;
mod cluster;
mod connection;
mod copy;
mod dialect;
mod node;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::{TierRule, TierServer, UpstreamKind};
use crate::control::Control;
use crate::metrics::{TierOutcome, TierStats};
use crate::net::tls::{Dialer, FileError};

use cluster::TierCluster;
use connection::TierAddress;
use dialect::{Dialect, TierQuestion, TierReply};
use node::{TierNode, Unanswered};

pub(crate) use copy::TierCopy;

/// All tiers, in the order of the settings. See the module's head.
pub(crate) struct Tiers(Vec<Tier>);

/// One of them.
pub(crate) struct Tier {
    pub(crate) rule: TierRule,
    pub(crate) stats: Arc<TierStats>,
    dialect: Dialect,
    servers: TierServers,
}

/// Where its copies are.
enum TierServers {
    One(Arc<TierNode>),
    Cluster(Arc<TierCluster>),
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
        let (address, name) = (TierAddress::new(&rule.server, tls, rule.timeout), Arc::from(&*rule.name));
        let (dialect, stats) = (address.dialect, Arc::<TierStats>::default());
        let servers = match &rule.server {
            TierServer::Redis(server) if server.kind == UpstreamKind::Cluster => {
                TierServers::Cluster(TierCluster::start(address, &server.seeds, (name, Arc::clone(&stats)), control))
            }
            _ => TierServers::One(TierNode::start(address, name, control)),
        };
        Ok(Self { rule: rule.clone(), stats, dialect, servers })
    }

    /// Whether all of it is taken for well.
    pub(crate) fn is_well(&self) -> bool {
        match &self.servers {
            TierServers::One(node) => node.is_well(),
            TierServers::Cluster(cluster) => cluster.is_well(),
        }
    }

    /// Those of its servers that are not.
    pub(crate) fn left_alone(&self) -> Vec<String> {
        match &self.servers {
            TierServers::One(node) if node.is_well() => Vec::new(),
            TierServers::One(node) => vec![node.address.endpoint.to_string()],
            TierServers::Cluster(cluster) => cluster.left_alone(),
        }
    }

    /// Whether it would be asked for a key.
    pub(crate) fn is_asked(&self, db: u32, key: &[u8]) -> bool {
        match &self.servers {
            TierServers::One(node) => node.is_well(),
            TierServers::Cluster(cluster) => self.dialect.name(db, key).is_some_and(|name| cluster.is_asked(&name)),
        }
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
        match self.ask(Some(&name), self.dialect.get(&name)).await? {
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
        if let Some(TierReply::Done) = self.ask(Some(&name), self.dialect.set(&name, &copy.encode(), stay)).await {
            self.stats.count(TierOutcome::Copied);
        }
    }

    async fn flush(&self) {
        if let Some(TierReply::Done) = self.ask(None, self.dialect.flush()).await {
            info!(tier = self.rule.name, "emptied with the upstream");
        }
    }

    /// Asks whoever has that name, or all of it. None where it does not answer in time, or is not asked.
    async fn ask(&self, name: Option<&[u8]>, question: TierQuestion) -> Option<TierReply> {
        let until = Instant::now() + self.rule.timeout;
        let answers = match (&self.servers, name) {
            (TierServers::One(node), _) => node.ask(question, until).await,
            (TierServers::Cluster(cluster), Some(name)) => cluster.ask(name, question, until).await,
            (TierServers::Cluster(cluster), None) => cluster.ask_all(&question, until).await,
        };
        match answers {
            Ok(answers) => {
                let reply = self.dialect.read(&answers);
                if let TierReply::Refused(why) = &reply
                    && self.stats.failed(why)
                {
                    warn!(tier = self.rule.name, "a tier refuses what it is asked: {why}");
                }
                Some(reply)
            }
            Err(Unanswered::LeftAlone) => {
                self.stats.count(TierOutcome::Skipped);
                None
            }
            Err(Unanswered::TooMuch) => {
                self.stats.failed("too much is asked of it at once");
                None
            }
            Err(Unanswered::Failed(why)) => {
                self.stats.failed(&why);
                None
            }
        }
    }
}

/// So many times that.
pub(crate) fn scaled(time: Duration, scale: f64) -> Duration {
    Duration::try_from_secs_f64(time.as_secs_f64() * scale).unwrap_or(Duration::MAX)
}
