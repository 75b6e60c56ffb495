//! How many connections to a node there may be, for whom, and which of them makes room for the next.
//!
//! A connection that nobody uses keeps nobody from having one: where there are as many as there may be, the one unused for
//! longest is closed. Only a worker can do that, for its connections are its own, so workers are asked in turn, first the one
//! whose was idle for longest when it last told. And some room is left for those who share, and for crema itself: sessions that
//! block, or keep a connection for life, cannot take all there is.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::clock::Time;
use crate::error::Error;

/// How long is waited for room.
const PATIENCE: Duration = Duration::from_secs(1);
/// Where nobody could make room, it is asked for again after this.
const AGAIN: Duration = Duration::from_millis(20);
/// Workers that were asked for room and have not looked yet; more are not asked.
const ASKED: usize = 64;
/// That all are in use is logged so often at most.
const WARNED: Duration = Duration::from_secs(10);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be there when a session needs one: nothing is closed for it.
    Spare,
    /// One session's.
    Private,
    /// A lane, for all of an identity.
    Shared,
    /// crema's own: an ear, the fleet's channel, logins of clients, a look at the node.
    Own,
}

impl Purpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Spare => "spare",
            Self::Private => "private",
            Self::Shared => "shared",
            Self::Own => "own",
        }
    }
}

/// A worker is asked to close the connection that it needs least, once all on it is answered; it says whether there is one.
pub(crate) type Ask = oneshot::Sender<bool>;

/// The connections of one node.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: AtomicUsize,
    state: Mutex<BudgetState>,
    freed: Notify,
    /// The workers that are there.
    tenants: Mutex<Vec<Weak<Tenant>>>,
}

#[derive(Debug, Default)]
struct BudgetState {
    open: usize,
    /// Of these, those that sessions keep for life.
    settled: usize,
    warned: Option<Instant>,
}

/// A worker, as one whose connections may make room.
#[derive(Debug)]
pub(crate) struct Tenant {
    asks: mpsc::Sender<Ask>,
    idle_since: AtomicU64,
}

impl Tenant {
    /// Tells since when the connection has been idle that it would close first; [`Time::NEVER`]: there is none.
    pub(crate) fn tell(&self, idle_since: Time) {
        self.idle_since.store(idle_since.as_nanos(), Ordering::Relaxed);
    }
}

/// Leave to hold one connection; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Budget>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.state().open -= 1;
        self.0.freed.notify_waiters();
    }
}

/// Leave for a session to keep a connection for life; given back when dropped.
#[derive(Debug)]
pub(crate) struct Settled(Arc<Budget>);

impl Drop for Settled {
    fn drop(&mut self) {
        self.0.state().settled -= 1;
    }
}

impl Budget {
    /// So many from now on, for there are more nodes, or fewer. What is open beyond that stays until it is closed.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.freed.notify_waiters();
    }

    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// At most `limit` connections.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let (state, freed, tenants) = (Mutex::default(), Notify::new(), Mutex::default());
        Arc::new(Self { limit: AtomicUsize::new(limit), state, freed, tenants })
    }

    /// Connections open or being opened.
    #[cfg(test)]
    fn open(&self) -> usize {
        self.state().open
    }

    /// Another worker, which is asked for room through what is returned, for as long as it keeps that.
    pub(crate) fn join(&self) -> (Arc<Tenant>, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(ASKED);
        let tenant = Arc::new(Tenant { asks, idle_since: AtomicU64::new(Time::NEVER.as_nanos()) });
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.retain(|tenant| tenant.strong_count() > 0);
        tenants.push(Arc::downgrade(&tenant));
        drop(tenants);
        (tenant, asked)
    }

    /// Leave for one more connection. Where there is no room it waits for one that is idle to be closed, or for one that ends, and
    /// fails after a second: sessions must not be ordered behind each other. Cancel safe.
    pub(crate) async fn permit(self: &Arc<Self>, purpose: Purpose) -> Result<Permit, Error> {
        if let Some(permit) = self.take(purpose) {
            return Ok(permit);
        }
        let full = Error::UpstreamLimit { limit: self.limit() };
        if purpose == Purpose::Spare {
            return Err(full);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable(); // what is freed from here on is not missed
            if let Some(permit) = self.take(purpose) {
                return Ok(permit);
            }
            let now = Instant::now();
            if now >= deadline {
                self.warn(purpose.as_str());
                return Err(full);
            }
            let until = if self.ask(deadline).await { deadline } else { deadline.min(now + AGAIN) };
            let _ = timeout_at(until, freed).await; // late, it is seen by what is taken next
        }
    }

    /// Has a worker close a connection. False: none can.
    async fn ask(&self, deadline: Instant) -> bool {
        for tenant in self.tenants_by_idleness() {
            let (answer, answered) = oneshot::channel();
            if tenant.asks.try_send(answer).is_ok() && matches!(timeout_at(deadline, answered).await, Ok(Ok(true))) {
                return true;
            }
        }
        false
    }

    /// Leave to keep a connection for life. An eighth of all is left for those who need one for a moment.
    pub(crate) fn settle(self: &Arc<Self>) -> Result<Settled, Error> {
        let mut state = self.state();
        if state.settled >= self.ceiling(Purpose::Private).saturating_sub(self.limit() / 8).max(1) {
            drop(state);
            self.warn("kept for life");
            return Err(Error::UpstreamLimit { limit: self.limit() });
        }
        state.settled += 1;
        Ok(Settled(Arc::clone(self)))
    }

    /// Leave where there is room, now or not.
    fn take(self: &Arc<Self>, purpose: Purpose) -> Option<Permit> {
        let mut state = self.state();
        if state.open >= self.ceiling(purpose) {
            return None;
        }
        state.open += 1;
        Some(Permit(Arc::clone(self)))
    }

    /// How many there may be for one more of this purpose to come. An eighth is left for lanes, and a little for crema itself.
    fn ceiling(&self, purpose: Purpose) -> usize {
        let limit = self.limit();
        let (shared, own) = (limit / 8, (limit / 8).min(8));
        match purpose {
            Purpose::Spare | Purpose::Private => limit - shared - own,
            Purpose::Shared => limit - own,
            Purpose::Own => limit,
        }
    }

    fn tenants_by_idleness(&self) -> Vec<Arc<Tenant>> {
        let tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tenants: Vec<_> = tenants.iter().filter_map(Weak::upgrade).collect();
        tenants.sort_by_cached_key(|tenant| tenant.idle_since.load(Ordering::Relaxed));
        tenants
    }

    fn warn(&self, purpose: &str) {
        let (now, mut state) = (Instant::now(), self.state());
        if state.warned.is_none_or(|last| now.duration_since(last) > WARNED) {
            state.warned = Some(now);
            let open = state.open;
            drop(state);
            let limit = self.limit();
            warn!(
                open,
                max_upstream = limit,
                purpose,
                "too many upstream connections are in use: a command is refused; raise max_upstream"
            );
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, BudgetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_purpose_has_its_room() {
        let budget = Budget::new(64);
        let mut held = Vec::new();
        for (purpose, most) in [(Purpose::Private, 48), (Purpose::Shared, 56), (Purpose::Own, 64)] {
            while let Ok(permit) = budget.permit(purpose).await {
                held.push(permit);
            }
            assert_eq!(held.len(), most, "{purpose:?}");
            assert!(budget.permit(Purpose::Spare).await.is_err());
        }
        drop(held);
        assert_eq!(budget.open(), 0);
        let settled: Vec<_> = std::iter::from_fn(|| budget.settle().ok()).collect();
        assert_eq!(settled.len(), 40);
    }

    #[tokio::test]
    async fn the_one_idle_for_longest_makes_room() {
        let budget = Budget::new(3);
        let (younger, mut of_younger) = budget.join();
        let (older, mut of_older) = budget.join();
        younger.tell(Time::from_nanos(2));
        older.tell(Time::from_nanos(1));
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(budget.permit(Purpose::Private).await.expect("there is room"));
        }
        let closes = async {
            let ask = of_older.recv().await.expect("it is asked");
            assert!(of_younger.try_recv().is_err(), "only the one is asked");
            ask.send(true).expect("somebody waits");
            drop(held.pop());
        };
        let (permit, ()) = tokio::join!(budget.permit(Purpose::Private), closes);
        held.push(permit.expect("room was made"));
        // Who has left is not asked, nor remembered.
        drop((older, younger));
        assert!(budget.tenants_by_idleness().is_empty());
        let (_last, _) = budget.join();
        assert_eq!(budget.tenants.lock().expect("no panic").len(), 1);
        // Where nobody has one to close, there is none.
        drop((of_older, of_younger));
        let permit = budget.permit(Purpose::Private).await;
        assert!(permit.is_err());
        assert_eq!(budget.open(), 3);
    }
}
