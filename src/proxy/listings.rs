//! What is told of keys and clients to those who may know: hot keys, big keys, noisy clients, slow commands.
//!
//! One shape for all who ask: `CREMA` and the admin port show the same fields under the same names. Who may ask is decided by whoever takes
//! the question. Keys are shown as they are only where the settings say so; values and other arguments never.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::client_ways::ClientState;
use super::live::LiveSettings;
use super::roll::Roll;
use crate::clock::Time;
use crate::command;
use crate::metrics::{HALF_LIFE, HotKey, KeyWatch, SAMPLE_EVERY, SlowEntry, Stats, WorkerStats};

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListingKind {
    /// The keys that are read and written most.
    HotKeys,
    /// The keys with the biggest values.
    BigKeys,
    /// The clients that ask for most.
    Clients,
    /// The last slow commands.
    SlowLog,
}

/// Where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Listings {
    /// The way to workers.
    pub(crate) roll: Roll,
    workers: Vec<Arc<WorkerStats>>,
    stats: Arc<Stats>,
    live: watch::Receiver<Arc<LiveSettings>>,
}

#[derive(Serialize)]
struct ListedHotKey {
    key: String,
    per_second: f64,
    share: f64,
}

#[derive(Serialize)]
struct ListedBigKey {
    key: String,
    bytes: u64,
    command: &'static str,
    seconds_ago: u64,
}

#[derive(Serialize)]
struct ListedClient {
    address: String,
    name: String,
    user: String,
    age_seconds: u64,
    idle_seconds: u64,
    commands: u64,
    per_second: f64,
    received_bytes: u64,
    sent_bytes: u64,
    unanswered: u64,
    unread_bytes: u64,
    link: &'static str,
    doing: &'static str,
}

#[derive(Serialize)]
struct ListedSlowCommand {
    id: u64,
    at: u64,
    us: u64,
    command: &'static str,
    key: Option<String>,
    reason: &'static str,
    about: &'static str,
    outcome: &'static str,
    joined: usize,
    address: String,
    name: String,
    user: String,
}

impl ListingKind {
    /// So many are told of where no number is given.
    pub(crate) const USUAL: usize = 10;
    /// And so many at most.
    pub(crate) const MOST: usize = 1000;

    /// How many are to be told of, where this number is given; none where there may not be so many.
    pub(crate) fn count(given: Option<&str>) -> Option<usize> {
        let count = given.map_or(Ok(Self::USUAL), str::parse);
        count.ok().filter(|count| (1..=Self::MOST).contains(count))
    }

    /// What it is called.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::HotKeys => "hotkeys",
            Self::BigKeys => "bigkeys",
            Self::Clients => "clients",
            Self::SlowLog => "slowlog",
        }
    }
}

impl Listings {
    /// From these workers and this process, by these settings.
    pub(crate) fn new(
        workers: &[Arc<WorkerStats>],
        stats: &Arc<Stats>,
        live: watch::Receiver<Arc<LiveSettings>>,
    ) -> Self {
        Self { roll: Roll::default(), workers: workers.to_vec(), stats: Arc::clone(stats), live }
    }

    /// What there is, of no more than `most` keys, clients or commands. Cancel safe.
    pub(crate) async fn list(&self, what: ListingKind, most: usize) -> Value {
        match what {
            ListingKind::HotKeys => self.hot_keys(most),
            ListingKind::BigKeys => self.big_keys(most),
            ListingKind::Clients => {
                let told = self.roll.call(most).await;
                let clients: Vec<_> = told.clients.into_iter().map(ListedClient::from).collect();
                json!({ "connected": told.connected, "clients": clients })
            }
            ListingKind::SlowLog => self.slow_commands(most),
        }
    }

    /// Forgets the slow commands.
    pub(crate) fn reset_slow_commands(&self) {
        self.stats.slow.reset();
    }

    fn shows_keys(&self) -> bool {
        self.live.borrow().show_keys
    }

    fn watches(&self) -> Vec<&KeyWatch> {
        self.workers.iter().map(|worker| &worker.keys).collect()
    }

    fn hot_keys(&self, most: usize) -> Value {
        let (shows, now) = (self.shows_keys(), Time::now());
        let listed = |hot: HotKey| ListedHotKey {
            key: hot.key.shown(shows),
            per_second: rounded(hot.per_second),
            share: rounded(hot.share),
        };
        let top = |writes| {
            let hottest = KeyWatch::hottest(&self.watches(), writes, most, now).into_iter();
            hottest.map(listed).collect::<Vec<_>>()
        };
        json!({
            "keys": how_shown(shows),
            "half_life_seconds": HALF_LIFE.as_secs(),
            "one_in": SAMPLE_EVERY,
            "reads": top(false),
            "writes": top(true),
        })
    }

    fn big_keys(&self, most: usize) -> Value {
        let shows = self.shows_keys();
        let biggest = KeyWatch::biggest(&self.watches(), most, Time::now()).into_iter();
        let values: Vec<_> = biggest
            .map(|big| ListedBigKey {
                key: big.key.shown(shows),
                bytes: big.bytes,
                command: command::by_id(big.command).name,
                seconds_ago: big.ago.as_secs(),
            })
            .collect();
        json!({ "keys": how_shown(shows), "values": values })
    }

    fn slow_commands(&self, most: usize) -> Value {
        let settings = Arc::clone(&self.live.borrow());
        let entries: Vec<_> =
            self.stats.slow.newest(most).into_iter().map(|one| listed(one, settings.show_keys)).collect();
        json!({
            "keys": how_shown(settings.show_keys),
            "slower_than_us": settings.slowlog_slower_than.map(micros),
            "max_len": settings.slowlog_max_len,
            "total": self.stats.slow.total(),
            "entries": entries,
        })
    }
}

fn listed(SlowEntry { id, at, command, .. }: SlowEntry, shows: bool) -> ListedSlowCommand {
    let (address, name, user) = command.client;
    ListedSlowCommand {
        id,
        at,
        us: micros(command.took),
        command: command.name,
        key: command.key.map(|key| key.shown(shows)),
        reason: command.reason.as_str(),
        about: command.reason.about(),
        outcome: command.outcome,
        joined: command.joined,
        address,
        name,
        user,
    }
}

impl From<ClientState> for ListedClient {
    fn from(client: ClientState) -> Self {
        Self {
            address: client.address,
            name: client.name,
            user: client.user,
            age_seconds: client.age.as_secs(),
            idle_seconds: client.idle.as_secs(),
            commands: client.commands,
            per_second: rounded(client.per_second),
            received_bytes: client.received,
            sent_bytes: client.sent,
            unanswered: client.unanswered,
            unread_bytes: client.unread,
            link: client.link,
            doing: client.doing,
        }
    }
}

fn how_shown(shows: bool) -> &'static str {
    if shows { "shown" } else { "hashed" }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Estimates are shown to three digits behind the point.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}
