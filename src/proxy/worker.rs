//! What the sessions of one thread share: lanes, the pool of private connections, the fences of opaque writes.
//!
//! Everything here belongs to one thread and is lent out by `Rc`; what threads share is in [`Shared`]. The worker owns the
//! tasks of its lanes and ends them; [`Worker::sweep`], called once a second, closes what is idle and gives up what is dead.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::caller::Who;
use super::clients::Clients;
use super::cork::Corks;
use super::fencing::Fencing;
use super::foreign::Foreign;
use super::gate::Gate;
use super::heirs::Heirs;
use super::logins::Logins;
use super::pending::{Pending, Ticket, Work};
use super::private::{Lent, Owner, Pool, Setting, Spare};
use super::proof::Proofs;
use super::pulse::Pulse;
use super::room::is_over;
use crate::cache::{Coin, Flights, Identity, Promoter, Query, Sampler};
use crate::clock::Time;
use crate::config::{Config, Promote, Rule};
use crate::error::{Error, Sent};
use crate::invalidation::L1;
use crate::metrics::{DropReason, Stats, WorkerStats};
use crate::resp::{Limits, Resp};
use crate::upstream::{Backoff, Lane, Login, Node, Service, Target, Tenant, Waiter, connect_unproved};

/// Lanes that one identity may have open on one worker at once; more than one only while others are stalled.
const LANES: usize = 4;
/// What lanes are called at Redis.
pub const LANE_NAME: &str = "crema-lane";
/// A lane in use is checked this often for being in step.
const CHECK: Duration = Duration::from_secs(10);
/// Private connections kept for each user beyond the warm one are closed after so long.
const SPARE_IDLE: Duration = Duration::from_secs(10);
/// One that ends before it is ready may have been its user's, whose connections somebody ended: so many in a row are trouble.
const CUTS: u32 = 4;
/// How long after a failed try no other is made: long enough to spare the node, short enough not to be missed.
const TROUBLE: Duration = Duration::from_millis(400);

/// What all workers share.
pub struct Shared {
    /// All settings.
    pub config: Config,
    /// The upstream.
    pub node: Arc<Node>,
    /// The cache.
    pub l1: Arc<L1>,
    /// The process's counters.
    pub stats: Arc<Stats>,
    /// All clients, for those who end some of them.
    pub clients: Clients,
    /// Who may come in without a password.
    pub gate: Gate,
    /// The upstream's `proto-max-bulk-len`: the longest argument that a client may send, in bytes.
    pub longest_argument: AtomicU64,
    /// This process's name on the fleet's channel.
    pub origin_id: String,
    /// The credentials of the upstream URL.
    pub login: Option<Arc<Login>>,
}

/// Which of the configuration's rules is for a key: its number, or one that no rule has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleIndex(u32);

/// How a lead's key is promoted.
#[derive(Clone, Copy, Debug)]
pub struct Promotion {
    /// With probability 1 in so many; 0: never.
    pub one_in: u32,
    /// And only up to this many bytes of reply.
    pub max_value: u64,
}

impl Shared {
    /// What a client may send, `strict` before it has logged in where it must.
    pub fn limits(&self, strict: bool) -> Limits {
        let limits = if strict { Limits::unauthenticated() } else { Limits::authenticated() };
        Limits { bulk: self.longest_argument.load(Ordering::Relaxed), ..limits }
    }

    /// Which rule is for `key`: the first that matches. Looked up once for each key of a request.
    pub fn rule_of(&self, key: &[u8]) -> RuleIndex {
        let first = self.config.rules.iter().position(|rule| rule.pattern.matches(key));
        RuleIndex(first.and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX))
    }

    /// The rule itself, where there is one.
    pub fn rule(&self, index: RuleIndex) -> Option<&Rule> {
        self.config.rules.get(index.0 as usize)
    }

    /// Whether the rule says that its keys are never promoted, so that L1 need not be asked for them.
    pub fn is_kept_away(&self, index: RuleIndex) -> bool {
        self.rule(index).is_some_and(|rule| rule.promote == Some(Promote::Never))
    }

    /// The longest stay in L1 that the rule, or its absence, allows.
    pub fn ceiling(&self, index: RuleIndex) -> Option<Duration> {
        self.rule(index).and_then(|rule| rule.ceiling).or(self.config.ceiling)
    }

    /// What the rule, or its absence, says about promotion.
    pub fn promote(&self, index: RuleIndex) -> Promotion {
        let rule = self.rule(index);
        let one_in = match rule.and_then(|rule| rule.promote) {
            Some(Promote::Never) => 0,
            Some(Promote::OneIn(one_in)) => one_in,
            None => self.config.promote,
        };
        Promotion { one_in, max_value: rule.and_then(|rule| rule.max_value).unwrap_or(self.config.max_value) }
    }
}

/// A lane with the flights on it.
pub struct Track {
    /// The connection.
    pub lane: Rc<Lane<Pending>>,
    /// Reads under way on it.
    pub flights: RefCell<Flights<Ticket>>,
    /// Whose it is; empty: Redis's default user's, unproved.
    pub(super) user: Box<[u8]>,
    resp: Resp,
    db: u32,
    window: u64,
}

impl Track {
    /// Whether another command may be put on it.
    pub fn takes_more(&self, now: Time) -> bool {
        self.lane.in_flight() < self.window && !self.lane.is_stalled(now)
    }

    /// The version and the database that it is in.
    pub(super) fn was(&self) -> (Resp, u32) {
        (self.resp, self.db)
    }

    /// Sends, or tells at once that it could not.
    pub fn send(&self, command: &[u8], pending: Pending, now: Time) {
        if let Err(pending) = self.lane.send(command, pending, now) {
            pending.lost(&self.lane.lost_error(), Sent::No, command);
        }
    }
}

/// The lanes of each identity and version, those for scripts apart: what is sent behind one that runs for long waits for it,
/// while Redis tells others that it is busy.
type Lanes = HashMap<(Identity, Resp, bool), Vec<Rc<Track>>>;

/// See the module's head.
pub struct Worker {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// This worker's counters.
    pub stats: Arc<WorkerStats>,
    /// This worker's coin.
    promoter: RefCell<Promoter>,
    /// Which hits and misses Moka is told of.
    pub sampler: RefCell<Sampler>,
    /// The tasks of lanes; sessions are the server's.
    pub tasks: TaskTracker,
    /// Commands that the table does not know.
    pub foreign: Foreign,
    pub(super) lanes: RefCell<Lanes>,
    pub(super) pools: RefCell<HashMap<Vec<u8>, Pool>>,
    /// All private connections, whoever has them, and lanes that are to end once they are answered.
    pub(super) private: RefCell<Vec<Weak<Lane<Pending>>>>,
    draining: Cell<bool>,
    pub(super) logins: Logins,
    pub(super) heirs: Heirs,
    pub(super) tenant: Arc<Tenant>,
    pub(super) proofs: Proofs,
    pub(super) corks: Corks,
    pub(super) fencing: Fencing,
    pub(super) pulse: Pulse,
    trouble: Rc<RefCell<Trouble>>,
}

#[derive(Default)]
struct Trouble {
    /// From when, until when, and what.
    until: Option<(Time, Time, Error)>,
    backoff: Backoff,
    /// Connections in a row that ended before they were ready.
    cuts: u32,
}

impl Trouble {
    /// Why no connection should be tried for now. One that could not be made may be as soon as somebody has heard the node since.
    fn lasting(&self, node: &Node, now: Time) -> Option<&Error> {
        let (since, until, error) = self.until.as_ref()?;
        let over = matches!(error, Error::Unreachable { .. }) && node.last_heard() > *since;
        (now < *until && !over).then_some(error)
    }
}

impl Worker {
    /// A worker with no connection yet, which makes room for other workers as `tenant`.
    pub fn new(shared: Arc<Shared>, stats: Arc<WorkerStats>, tenant: Arc<Tenant>) -> Rc<Self> {
        Rc::new(Self {
            shared,
            stats,
            promoter: RefCell::default(),
            sampler: RefCell::new(Sampler::new()),
            tasks: TaskTracker::new(),
            foreign: Foreign::default(),
            lanes: RefCell::default(),
            pools: RefCell::default(),
            private: RefCell::default(),
            draining: Cell::new(false),
            logins: Logins::default(),
            heirs: Heirs::default(),
            tenant,
            proofs: Proofs::default(),
            corks: Corks::default(),
            fencing: Fencing::default(),
            pulse: Pulse::default(),
            trouble: Rc::default(),
        })
    }

    /// A lane of this identity that takes commands; opened where there is none. The connection is made meanwhile.
    pub fn track(self: &Rc<Self>, who: &Rc<Who>, resp: Resp, scripts: bool, now: Time) -> Result<Rc<Track>, Error> {
        let mut lanes = self.lanes.borrow_mut();
        let login = who.credentials();
        let kept = lanes.get(&(who.identity, resp, !scripts)).and_then(|tracks| open_one(tracks));
        let tracks = lanes.entry((who.identity, resp, scripts)).or_default();
        tracks.retain(|track| track.lane.is_open());
        if let Some(track) = tracks.iter().find(|track| track.takes_more(now)) {
            return Ok(Rc::clone(track));
        }
        if self.heirs.refusal(login.as_ref(), now).is_some()
            && !self.has_spare(who)
            && let Some(track) = open_one(tracks).or(kept)
        {
            return Ok(track); // slower than one more, which cannot be had
        }
        if tracks.len() >= LANES {
            let least = tracks.iter().min_by_key(|track| track.lane.in_flight()).expect("there are some");
            return Ok(Rc::clone(least));
        }
        if let Some(error) = self.trouble.borrow().lasting(&self.shared.node, now) {
            return Err(error.clone());
        }
        let target = Target { node: Arc::clone(&self.shared.node), login, db: who.db, resp, name: LANE_NAME };
        let lane = Lane::shared(Arc::clone(&target.node), now);
        self.run(&lane, Some((target, self.entrants(who))));
        let (user, db) = (user(who).into(), who.db);
        let window = self.shared.config.lane_window;
        let track = Rc::new(Track { lane, flights: RefCell::default(), user, resp, db, window });
        tracks.push(Rc::clone(&track));
        drop(lanes);
        self.warm(who, now);
        Ok(track)
    }

    /// How long a read of this identity takes at Redis, as far as it is known: on the quickest lane.
    pub(super) fn miss_time(&self, who: &Who, resp: Resp) -> Duration {
        let lanes = self.lanes.borrow();
        let tracks = lanes.get(&(who.identity, resp, false)).into_iter().flatten();
        tracks.map(|track| track.lane.round_trip()).filter(|time| !time.is_zero()).min().unwrap_or_default()
    }

    /// Owns a lane's task: counts it, and remembers a failure so that not every command tries again. Without a target the
    /// connection is as Redis makes it.
    fn run(self: &Rc<Self>, lane: &Rc<Lane<Pending>>, target: Option<(Target, Vec<Arc<Login>>)>) {
        let (lane, stats, trouble) = (Rc::clone(lane), Arc::clone(&self.stats), Rc::clone(&self.trouble));
        let worker = Rc::clone(self);
        self.tasks.spawn_local(async move {
            stats.lanes.add(1);
            let made = async {
                match &target {
                    Some((target, entrants)) => worker.connection(&lane, target, entrants).await,
                    None => connect_unproved(&worker.shared.node).await,
                }
            };
            let error = Rc::clone(&lane).run(made).await;
            stats.lanes.sub(1);
            if !lane.was_closed() {
                worker.foreign.forget();
            }
            if let Some(login) = target.and_then(|(target, _)| target.login)
                && !lane.was_closed()
            {
                worker.ended(&login, &error);
            }
            let now = Time::now();
            let unreachable = matches!(error, Error::Unreachable { .. });
            let mut trouble = trouble.borrow_mut();
            match error {
                // The upstream is there, and the next may find room.
                Error::UpstreamLimit { .. } => {}
                error if unreachable && error.is_cut() && trouble.cuts < CUTS => {
                    trouble.cuts += 1;
                    debug!(%error, "a connection ended before it was ready");
                }
                error if unreachable || error.is_passing() => {
                    let wait = trouble.backoff.wait().min(TROUBLE);
                    if trouble.until.as_ref().is_none_or(|(_, until, _)| *until < now) {
                        if matches!(error, Error::UpstreamLimit { .. }) {
                            warn!(%error, "commands that need another one are refused");
                        } else {
                            warn!(%error, "commands cannot be served until the upstream is back");
                        }
                    }
                    trouble.until = Some((now, now.plus(wait), error));
                }
                error => {
                    *trouble = Trouble::default();
                    if !lane.was_closed() {
                        stats.lanes_lost.add(1);
                        debug!(%error, "lane lost");
                    }
                }
            }
        });
    }

    /// Keeps one private connection ready for each user, so that borrowing one costs no round trip, and so that Redis has
    /// one to end should it delete the user.
    pub fn warm(self: &Rc<Self>, who: &Rc<Who>, now: Time) {
        self.pools.borrow_mut().entry(user(who)).or_default().ear = Some(Arc::clone(&who.ear));
        self.warm_up(user(who), who.credentials(), (who.db, self.entrants(who)), now);
    }

    pub(super) fn warm_up(
        self: &Rc<Self>,
        user: Vec<u8>,
        login: Option<Arc<Login>>,
        (db, entrants): (u32, Vec<Arc<Login>>),
        now: Time,
    ) {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(user).or_default();
        pool.login = login;
        pool.spares.retain(|spare| spare.lane.is_open()); // one that has ended keeps nothing warm
        if pool.is_short() && self.heirs.refusal(pool.login.as_ref(), now).is_none() {
            pool.spares.push(self.open(pool.login.clone(), db, entrants, now));
        }
    }

    fn open(self: &Rc<Self>, login: Option<Arc<Login>>, db: u32, entrants: Vec<Arc<Login>>, now: Time) -> Spare {
        let node = Arc::clone(&self.shared.node);
        Spare::new(self.private(Some((Target { node, login, db, resp: Resp::V2, name: "" }, entrants)), now), db)
    }

    /// A connection for one at a time; without a target as Redis makes it.
    pub(super) fn private(self: &Rc<Self>, target: Option<(Target, Vec<Arc<Login>>)>, now: Time) -> Rc<Lane<Pending>> {
        let lane = Lane::private(Arc::clone(&self.shared.node), now);
        self.private.borrow_mut().push(Rc::downgrade(&lane));
        self.run(&lane, target);
        lane
    }

    /// Lends a private connection. What is sent on it waits until it is made; nothing here waits.
    pub fn lend(self: &Rc<Self>, who: &Rc<Who>, resp: Resp, place: Setting, owner: Rc<Owner>, now: Time) -> Lent {
        let spare = {
            let mut pools = self.pools.borrow_mut();
            let pool = pools.entry(user(who)).or_default();
            pool.login = who.credentials();
            pool.lend(place == Setting::Fresh, who.db)
        };
        let own = if place == Setting::Anywhere { 0 } else { who.db };
        let spare = spare.unwrap_or_else(|| self.open(who.credentials(), own, self.entrants(who), now));
        spare.lane.lend(Some(owner));
        Lent::new(self, spare, who, resp, place, now)
    }

    /// Sends a command of crema's own as the user of the upstream URL; `work` takes its reply.
    pub fn ask(self: &Rc<Self>, command: &[u8], work: Work, now: Time) {
        let who = Who::new(&self.shared.l1, self.shared.login.clone(), self.shared.config.upstream.db);
        if let Ok(track) = self.track(&who, Resp::V2, false, now) {
            track.send(command, Pending::own(self, work), now);
        }
    }

    /// Whether the pool has a connection of this user ready.
    fn has_spare(&self, who: &Who) -> bool {
        let pools = self.pools.borrow();
        pools.get(&user(who)).is_some_and(|pool| pool.spares.iter().any(|spare| spare.lane.is_made()))
    }

    /// Logins that may select the session's database where its user may not: the one that did, and the URL's.
    fn entrants(&self, who: &Who) -> Vec<Arc<Login>> {
        who.entrant.iter().chain(&self.shared.login).map(Arc::clone).collect()
    }

    /// Once a second: gives up connections that are silent past the deadline, checks those in use, closes those that are idle.
    pub fn sweep(self: &Rc<Self>, now: Time) {
        // The allocator gives back to the system what it has put off to give back when it is asked for much.
        drop(std::hint::black_box(Vec::<u8>::with_capacity(64 << 20)));
        let deadline = self.shared.config.response_timeout.filter(|_| !self.shared.l1.is_paused(now));
        let mut expired = Vec::new();
        let mut lanes = self.lanes.borrow_mut();
        let mut last: HashMap<Box<[u8]>, usize> = HashMap::new();
        for track in lanes.values().flatten().filter(|track| track.lane.is_open()) {
            *last.entry(track.user.clone()).or_default() += 1;
        }
        for tracks in lanes.values_mut() {
            tracks.retain(|track| track.lane.is_open());
            for track in tracks {
                let lane = &track.lane;
                let waited = lane.waited(now);
                if deadline.is_some_and(|deadline| waited > deadline) {
                    expired.push(Rc::clone(lane));
                } else if lane.is_quiet() && is_over(track, last[&track.user], now) {
                    *last.entry(track.user.clone()).or_default() -= 1;
                    lane.close();
                } else if lane.checked_for(now) > CHECK && lane.idle_for(now) < CHECK {
                    lane.verify(now);
                }
            }
        }
        drop(lanes);
        self.heirs.sweep(now);
        self.logins.sweep(SPARE_IDLE, now);
        self.private.borrow_mut().retain(|lane| lane.upgrade().is_some_and(|lane| !lane.has_ended()));
        let private = self.private.borrow().iter().filter_map(Weak::upgrade).collect::<Vec<_>>();
        expired.extend(private.into_iter().filter(|lane| deadline.is_some_and(|deadline| lane.waited(now) > deadline)));
        for lane in expired {
            self.shared.node.signs.serves(Service::Silent);
            lane.give_up(deadline.unwrap_or_default());
        }
        self.lanes.borrow_mut().retain(|_, tracks| !tracks.is_empty());
        self.proofs.sweep();
        self.pools.borrow_mut().retain(|user, pool| {
            // Of a user that nobody is any more, and that may never come again, not even the last is kept.
            let configured = self.shared.login.as_ref().is_some_and(|login| *login.user == **user);
            let proved = self.proofs.newest(user);
            let keep = user.is_empty() || configured || proved.is_some();
            if pool.sweep((SPARE_IDLE, CHECK), keep, proved.is_some(), now) {
                let spare = self.open(proved.or_else(|| pool.login.clone()), 0, Vec::new(), now);
                pool.spares.push(spare);
            }
            keep || pool.is_used()
        });
        self.tell_idleness(now);
    }

    /// How the coin falls for the key of `query`, which at a full L1 has to win twice.
    pub(super) fn toss(&self, one_in: u32, hot: bool, query: &Query<'_>) -> Coin {
        let store = &self.shared.l1.store;
        match self.promoter.borrow_mut().toss(one_in, hot, store.is_full()) {
            Coin::Knock if store.knows(query) => Coin::Promote,
            Coin::Knock => {
                self.stats.dropped(DropReason::FirstKnock);
                Coin::IfJoined
            }
            coin => coin,
        }
    }

    /// Counts what became of a promotion.
    pub(super) fn promoted(&self, promoted: Result<(), DropReason>) {
        match promoted {
            Ok(()) => self.stats.promotions.add(1),
            Err(reason) => self.stats.dropped(reason),
        }
    }

    /// Sessions are to end as soon as nothing of theirs is under way.
    pub fn drain(&self) {
        self.draining.set(true);
    }

    /// Whether they are.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.tasks.is_closed()
    }

    /// Ends all connections.
    pub fn close(&self) {
        for track in self.lanes.borrow().values().flatten() {
            track.lane.close();
        }
        for spare in self.pools.borrow().values().flat_map(|pool| &pool.spares) {
            spare.lane.close();
        }
        self.logins.close();
        self.tasks.close();
    }
}

pub(super) fn user(who: &Who) -> Vec<u8> {
    who.login.as_ref().map_or_else(Vec::new, |login| login.user.to_vec())
}

/// The open one with the least under way.
fn open_one(tracks: &[Rc<Track>]) -> Option<Rc<Track>> {
    let open = tracks.iter().filter(|track| track.lane.is_open());
    open.min_by_key(|track| track.lane.in_flight()).cloned()
}
