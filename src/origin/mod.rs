//! Values that Redis does not have, loaded from where they come from: one load of a key in the whole fleet.
//!
//! [`Origins`] is a process's part in it, shared by the workers: for each rule an HTTP client and permits, and one table of loads under
//! way. What one load does is a type without I/O (`load`); here its steps are carried out. Redis is asked through whoever wants
//! the key, HTTP is spoken beside the workers. Called by `proxy`, for a read that Redis answered with nil.
//!
//! Reading order: `load`, then `script`, `asking`, `table`, `fetched`, `client`.

mod asking;
mod client;
mod fetched;
mod load;
mod permits;
mod rests;
mod script;
mod table;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use self::asking::LoadQuestions;
use self::client::HttpClient;
use self::fetched::Fetched;
use self::load::{Load, LoadEvent, LoadStep, LoadTerms, MARGIN, Script, TOO_LONG};
use self::permits::{LoadPermit, Permits};
use self::rests::Rests;
use self::script::LoadKeys;
use self::table::{LeadingLoad, LoadTable, Turn};
use crate::clock::Time;
use crate::config::OriginRule;
use crate::control::Control;
use crate::metrics::{LoadResult, SharedCounter};
use crate::net::tls::FileError;

pub(crate) use self::asking::KeyNode;
pub(crate) use self::load::LoadOutcome;
pub(crate) use self::script::NewVersion;

/// See the module's head.
pub(crate) struct Origins {
    rules: Vec<Origin>,
    table: LoadTable,
    control: Control,
    /// What tokens of this process begin with.
    name: String,
    tokens: AtomicU64,
}

/// One rule, with what belongs to it.
struct Origin {
    rule: Arc<OriginRule>,
    client: HttpClient,
    permits: Permits,
    /// How long a load takes, in nanoseconds; 0: none has ended well.
    mean: AtomicU64,
    trouble: Mutex<Option<OriginTrouble>>,
    results: [SharedCounter; LoadResult::COUNT],
    rests: Rests,
}

/// After a load ahead that failed the key's next is not begun before.
const FAILED_REST: Duration = Duration::from_secs(1);
/// No key rests for longer, for others may share its place, and who has written it may have given it a nearer end.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// Redis tells time in milliseconds.
const SHORTEST_REST: Duration = Duration::from_millis(1);

/// A key to be loaded, with the names of what crema keeps beside it.
#[derive(Debug)]
pub(crate) struct WantedKey {
    /// Its database.
    pub db: u32,
    /// The key.
    pub key: Box<[u8]>,
    /// Where its token lies.
    pub token: Vec<u8>,
    /// Where its stale copy lies.
    pub stale: Vec<u8>,
    /// Where it has tiers.
    pub version: Option<NewVersion>,
}

/// How things stand at one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OriginState {
    /// Its keys.
    pub pattern: String,
    /// Where they come from.
    pub url: String,
    /// Loads by what came of them, as in [`LoadResult::ALL`].
    pub results: [u64; LoadResult::COUNT],
    /// Loads under way.
    pub under_way: usize,
    /// Loads that wait for a permit.
    pub waiting: usize,
    /// How long a load takes; zero: none has ended well.
    pub mean: Duration,
    /// Why the last load failed, if it did.
    pub trouble: Option<OriginTrouble>,
}

/// Why the last load of an origin failed, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OriginTrouble {
    /// As its clients were told.
    pub why: Arc<str>,
    /// When it did.
    pub at: Time,
}

impl Origins {
    /// Of these rules; none where there is none. Fails where a certificate cannot be read.
    pub(crate) fn new(rules: &[OriginRule], control: Control) -> Result<Option<Self>, FileError> {
        let origins: Vec<_> = rules.iter().cloned().map(|rule| Origin::new(rule.into())).collect::<Result<_, _>>()?;
        let name = format!("{:016x}", rand::random::<u64>());
        let (table, tokens) = (LoadTable::default(), AtomicU64::default());
        Ok((!origins.is_empty()).then_some(Self { rules: origins, table, control, name, tokens }))
    }

    /// How things stand at each.
    pub(crate) fn states(&self) -> Vec<OriginState> {
        self.rules.iter().map(Origin::state).collect()
    }

    /// Why the last load of this rule failed, if it did.
    pub(crate) fn trouble(&self, rule: usize) -> Option<OriginTrouble> {
        self.rules.get(rule)?.trouble()
    }

    /// So long before its end a value of this rule is to leave memory, so that somebody can have it loaded anew: as the dice fall.
    pub(crate) fn early(&self, rule: usize) -> Duration {
        let origin = self.rules.get(rule).filter(|origin| origin.rule.refresh_ahead);
        origin.and_then(|origin| window(origin.mean(), rand::random())).unwrap_or_default()
    }

    /// Whether values of this rule are loaded anew before their end, and this key's may be now.
    pub(crate) fn refreshes(&self, rule: usize, (db, key): (u32, &[u8])) -> bool {
        let origin = self.rules.get(rule).filter(|origin| origin.rule.refresh_ahead);
        origin.is_some_and(|origin| Time::now() >= origin.rests.get(db, key))
    }

    /// The value of a key for which the rule with this number is, and that Redis did not have when it was asked just now. It ends
    /// so long after `since` as [`Origin::longest`] says, whatever happens elsewhere. Dropped, it leaves those who joined to load
    /// anew.
    pub(crate) async fn load(
        &self,
        rule: usize,
        (wanted, since): (&WantedKey, Time),
        node: &impl KeyNode,
    ) -> LoadOutcome {
        let Some(origin) = self.rules.get(rule) else { return LoadOutcome::Missing };
        let url = match origin.rule.url.url(&origin.rule.pattern, &wanted.key) {
            Ok(url) => url,
            Err(unfit) => return origin.counted(LoadOutcome::Failed(unfit.to_string().into())),
        };
        let (until, give_up) = (since.plus(origin.patience()), since.plus(origin.longest()));
        loop {
            match self.table.turn(wanted.db, &wanted.key) {
                Turn::Lead(turn) => {
                    let mut load = Load::new(origin.terms(until));
                    let outcome = self.drive(origin, (turn, &mut load, None), (wanted, &url), node).await;
                    return origin.counted(outcome);
                }
                Turn::Join(outcome) => {
                    let left = give_up.saturating_since(Time::now());
                    match timeout(left, outcome).await {
                        Ok(Ok(outcome @ LoadOutcome::Failed(_))) => return origin.counted(outcome),
                        Ok(Ok(outcome)) => {
                            origin.count(LoadResult::Joined);
                            return outcome;
                        }
                        Ok(Err(_)) if !left.is_zero() => {} // its answer was older than this, or its loader is gone
                        _ => return origin.counted(LoadOutcome::Failed(TOO_LONG.into())),
                    }
                }
            }
        }
    }

    /// Loads a key anew that Redis has, where its end is near: the nearer, and the longer loads take, the likelier ("XFetch":
    /// Vattani, Chierichetti, Lowenstein, Optimal Probabilistic Cache Stampede Prevention, 2015).
    pub(crate) async fn refresh(&self, rule: usize, wanted: &WantedKey, node: &impl KeyNode) {
        let Some(origin) = self.rules.get(rule).filter(|origin| origin.rule.refresh_ahead) else { return };
        let Some(window) = window(origin.mean(), rand::random()) else { return };
        let Ok(url) = origin.rule.url.url(&origin.rule.pattern, &wanted.key) else { return };
        let Some(permit) = origin.permits.try_take_ahead() else { return };
        let Some(turn) = self.table.lead(wanted.db, &wanted.key) else { return };
        let mut load = Load::ahead(origin.terms(Time::now().plus(origin.patience())), window);
        let outcome = self.drive(origin, (turn, &mut load, Some(permit)), (wanted, &url), node).await;
        let rest = match outcome {
            LoadOutcome::Loaded(_) => return origin.count(LoadResult::Refreshed),
            _ if load.has_failed() => {
                origin.count(LoadResult::RefreshFailed);
                FAILED_REST
            }
            _ => early_rest(load.was_early(), origin.mean()),
        };
        origin.rests.set(wanted.db, &wanted.key, Time::now().plus(rest));
    }

    async fn drive(
        &self,
        origin: &Origin,
        (turn, load, mut permit): (LeadingLoad<'_>, &mut Load, Option<LoadPermit>),
        (wanted, url): (&WantedKey, &str),
        node: &impl KeyNode,
    ) -> LoadOutcome {
        let number = self.tokens.fetch_add(1, Ordering::Relaxed);
        let mut asking = LoadQuestions::new(node, origin.keys(wanted), format!("{}:{number}", self.name));
        let (mut joined, mut asked) = (Vec::new(), Time::now());
        let mut event = LoadEvent::Begin;
        loop {
            let step = load.next(event, Time::now());
            if !load.needs_permit() {
                drop(permit.take());
            }
            event = match step {
                LoadStep::Permit if permit.is_some() => LoadEvent::Permit(Ok(())),
                LoadStep::Permit => LoadEvent::Permit(match origin.permit(load.left(Time::now())).await {
                    Ok(next) => {
                        permit = Some(next);
                        Ok(())
                    }
                    Err(why) => {
                        joined.extend(turn.take_in()); // an error is no older than they are
                        Err(why)
                    }
                }),
                LoadStep::Ask(script) => {
                    joined.extend(turn.take_in());
                    if matches!(script, Script::Take | Script::TakeAhead(_)) {
                        asked = Time::now();
                    }
                    LoadEvent::Reply(asking.ask(&script, load.attempt()).await)
                }
                LoadStep::Fetch => {
                    let spent = Time::now().saturating_since(asked);
                    LoadEvent::Fetched(self.fetch(origin, url, origin.rule.load_timeout.saturating_sub(spent)).await)
                }
                LoadStep::Rest(length) => {
                    sleep(length).await;
                    LoadEvent::Rested
                }
                LoadStep::Await(least, longest) => {
                    let told = node.await_change(Time::now().plus(longest));
                    sleep(least).await;
                    drop(timeout(longest.saturating_sub(least), told).await); // whatever came, it is time to look
                    LoadEvent::Rested
                }
                LoadStep::End(LoadOutcome::Needless) => return LoadOutcome::Needless, // who has joined asks again
                LoadStep::End(outcome) => {
                    for joiner in joined {
                        _ = joiner.send(outcome.clone()); // who is gone needs none
                    }
                    return outcome;
                }
            };
        }
    }

    /// Asks the origin, beside the workers.
    async fn fetch(&self, origin: &Origin, url: &str, longest: Duration) -> Fetched {
        let (mut told, fetched) = oneshot::channel();
        let (client, url, begun) = (origin.client.clone(), url.to_owned(), Time::now());
        self.control.spawn(async move {
            tokio::select! {
                fetched = client.fetch(&url, longest) => drop(told.send(fetched)),
                () = told.closed() => {}
            }
        });
        let fetched = fetched.await.unwrap_or_else(|_| Fetched::Failed("crema is about to end".into()));
        origin.heard(&fetched, Time::now().saturating_since(begun));
        fetched
    }
}

/// How long a key rests whose load ahead came to nothing, where a load takes `mean`; `left` says how long its value stays, where it was too
/// early. Six means before the end one [`window`] in four hundred reaches so far: until then nobody asks, and from then
/// on somebody does each eighth of a mean, with a new draw. Of values that are read all the time one in half a million ends before any
/// draw was enough.
fn early_rest(left: Option<Duration>, mean: Duration) -> Duration {
    let asked_again = if left.is_some() { mean / 8 } else { mean / 2 };
    let far = left.map_or(Duration::ZERO, |left| left.saturating_sub(mean.saturating_mul(6)));
    far.max(asked_again).clamp(SHORTEST_REST, LONGEST_REST)
}

/// So long before its end a value is loaded anew, where a load takes `mean`, as the dice fall in `0..1`; `None`: nobody knows how long.
fn window(mean: Duration, dice: f64) -> Option<Duration> {
    let times = -(1.0 - dice).ln(); // 1 - dice is never 0
    let window = mean.mul_f64(times.clamp(0.0, 1000.0));
    (window >= Duration::from_millis(1)).then_some(window)
}

impl Origin {
    fn new(rule: Arc<OriginRule>) -> Result<Self, FileError> {
        let (client, permits) = (HttpClient::new(&rule)?, Permits::new(rule.max_concurrent));
        Ok(Self {
            rule,
            client,
            permits,
            mean: AtomicU64::default(),
            trouble: Mutex::default(),
            results: Default::default(),
            rests: Rests::default(),
        })
    }

    /// The next permit, in turn, within so long and no longer than a load takes.
    async fn permit(&self, longest: Duration) -> Result<LoadPermit, &'static str> {
        self.permits.take(longest.min(self.rule.load_timeout)).await
    }

    fn counted(&self, outcome: LoadOutcome) -> LoadOutcome {
        self.count(match &outcome {
            LoadOutcome::Loaded(_) => LoadResult::Loaded,
            LoadOutcome::Found(_) => LoadResult::Found,
            LoadOutcome::Missing | LoadOutcome::Needless => LoadResult::Missing,
            LoadOutcome::Negative => LoadResult::Negative,
            LoadOutcome::Stale(_) => LoadResult::Stale,
            LoadOutcome::Failed(_) => LoadResult::Failed,
        });
        outcome
    }

    fn count(&self, result: LoadResult) {
        self.results[result as usize].add(1);
    }

    fn terms(&self, until: Time) -> LoadTerms {
        LoadTerms { ttl: self.rule.ttl, until }
    }

    /// Within so long a load must have a permit: one load of another that dies, and a place in the queue.
    fn patience(&self) -> Duration {
        self.rule.load_timeout * 2 + Duration::from_secs(1)
    }

    /// The longest that a read waits: a load that has begun at the last moment, with what it asks Redis.
    fn longest(&self) -> Duration {
        self.rule.load_timeout * 3 + Duration::from_secs(4)
    }

    fn keys(&self, wanted: &WantedKey) -> LoadKeys {
        LoadKeys {
            key: wanted.key.clone(),
            token: wanted.token.clone(),
            stale: wanted.stale.clone(),
            version: wanted.version.clone(),
            held: self.rule.load_timeout + MARGIN,
            negative: self.rule.negative,
            stale_for: self.rule.stale_if_error,
        }
    }

    /// It has answered, or not, after so long. Of two threads that say so at once one may be lost to the mean.
    fn heard(&self, fetched: &Fetched, length: Duration) {
        let trouble = match fetched {
            Fetched::Failed(why) => Some(OriginTrouble { why: Arc::clone(why), at: Time::now() }),
            Fetched::Value { .. } | Fetched::Missing => None,
        };
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        if let Fetched::Value { .. } = fetched {
            let length = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX).max(1);
            let before = self.mean.load(Ordering::Relaxed);
            let mean = if before == 0 { length } else { before - before / 8 + length / 8 };
            self.mean.store(mean, Ordering::Relaxed);
        }
    }

    /// Where none has ended well here, a guess.
    fn mean(&self) -> Duration {
        match self.mean.load(Ordering::Relaxed) {
            0 => self.rule.load_timeout / 20,
            nanos => Duration::from_nanos(nanos),
        }
    }

    fn state(&self) -> OriginState {
        OriginState {
            pattern: self.rule.pattern.to_string(),
            url: self.rule.url.to_string(),
            results: LoadResult::ALL.map(|result| self.results[result as usize].get()),
            under_way: self.permits.taken(),
            waiting: self.permits.waiting(),
            mean: Duration::from_nanos(self.mean.load(Ordering::Relaxed)),
            trouble: self.trouble(),
        }
    }

    fn trouble(&self) -> Option<OriginTrouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    #[test]
    fn the_longer_a_load_takes_the_earlier_it_begins_and_rarely_much_earlier() {
        let mean = Duration::from_millis(100);
        assert_eq!(window(mean, 0.0), None);
        let of = |dice| window(mean, dice).expect("some time");
        assert!((69..70).contains(&of(0.5).as_millis()));
        assert!((230..231).contains(&of(0.9).as_millis()));
        assert!(of(1.0 - f64::EPSILON) < Duration::from_secs(4));
        assert_eq!(window(Duration::ZERO, 0.5), None);
        assert!(window(Duration::from_secs(10), 0.5) > window(Duration::from_secs(1), 0.5));
    }

    #[test]
    fn a_value_that_is_read_all_the_time_is_loaded_anew_and_redis_is_seldom_asked_about_it() {
        let (mean, mut dice) = (Duration::from_millis(100), StdRng::seed_from_u64(7));
        let (mut ended, mut asked, mut ahead) = (0, 0, Duration::ZERO);
        for _ in 0..10_000 {
            let mut left = Some(Duration::from_secs(60));
            while let Some(now) = left {
                asked += 1;
                if window(mean, dice.random()).is_some_and(|window| window >= now) {
                    ahead += now;
                    break;
                }
                left = now.checked_sub(early_rest(left, mean));
            }
            ended += u32::from(left.is_none());
        }
        assert!(ended <= 2, "{ended} of 10,000 values came to their end");
        assert!(asked < 10_000 * 110, "{asked} questions in 10,000 minutes");
        assert!(ahead > mean * 5_000 && ahead < mean * 40_000, "{ahead:?}");
    }

    #[test]
    fn no_key_rests_for_long() {
        let (hour, mean) = (Duration::from_secs(3600), Duration::from_millis(80));
        for left in [None, Some(Duration::ZERO), Some(hour), Some(Duration::MAX)] {
            for mean in [Duration::ZERO, mean, hour, Duration::MAX] {
                assert!((SHORTEST_REST..=LONGEST_REST).contains(&early_rest(left, mean)), "{left:?} {mean:?}");
            }
        }
        assert_eq!(early_rest(Some(Duration::from_millis(500)), mean), Duration::from_millis(20));
        assert_eq!(early_rest(None, mean), mean / 2, "a token is there, or nothing");
    }
}
