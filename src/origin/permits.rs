//! How many loads of one origin this process has under way at once, and who waits for the next.
//!
//! Each origin has permits and a queue of its own, so that one that is slow keeps nobody else waiting. Who comes first is first;
//! where the queue is full, or has not moved in time, a load fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Loads that may wait for each permit.
const WAITING_PER_PERMIT: usize = 32;

/// See the module's head.
pub(super) struct Permits {
    free: Arc<Semaphore>,
    count: usize,
    waiting: AtomicUsize,
    most_waiting: usize,
}

/// The right to one load. Dropped, it is the next one's.
pub(super) type LoadPermit = OwnedSemaphorePermit;

impl Permits {
    /// So many.
    pub(super) fn new(count: usize) -> Self {
        let most_waiting = count.saturating_mul(WAITING_PER_PERMIT);
        Self { free: Arc::new(Semaphore::new(count)), count, waiting: AtomicUsize::new(0), most_waiting }
    }

    /// The next permit, in turn; or why there is none. Cancel safe: the place in the queue is given up.
    pub(super) async fn take(&self, longest: Duration) -> Result<LoadPermit, &'static str> {
        if let Some(permit) = self.try_take() {
            return Ok(permit);
        }
        let Some(_place) = self.queue() else { return Err("too many loads wait for this origin") };
        match timeout(longest, Arc::clone(&self.free).acquire_owned()).await {
            Ok(permit) => Ok(permit.expect("it is never closed")),
            Err(_) => Err("other loads of this origin take too long"),
        }
    }

    /// A permit that nobody waits for.
    pub(super) fn try_take(&self) -> Option<LoadPermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// A permit for a load ahead of need, which never waits, and leaves half of all permits to those that are needed.
    pub(super) fn try_take_ahead(&self) -> Option<LoadPermit> {
        (self.free.available_permits() > self.count / 2).then(|| self.try_take()).flatten()
    }

    /// Permits that somebody has.
    pub(super) fn taken(&self) -> usize {
        self.count - self.free.available_permits().min(self.count)
    }

    /// Loads that wait for a permit.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn queue(&self) -> Option<QueuePlace<'_>> {
        let place = QueuePlace(self);
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        (before < self.most_waiting).then_some(place) // dropped, it counts no more
    }
}

/// A place in the queue.
struct QueuePlace<'a>(&'a Permits);

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn who_comes_first_is_first_and_the_queue_has_an_end() {
        let permits = Permits::new(1);
        let held = permits.take(LONG).await.expect("the first");
        let mut first = pin!(permits.take(LONG));
        assert!(timeout(Duration::ZERO, first.as_mut()).await.is_err());
        assert!(permits.try_take().is_none() && permits.taken() == 1);
        let mut others: Vec<_> = (1..WAITING_PER_PERMIT).map(|_| Box::pin(permits.take(LONG))).collect();
        for other in &mut others {
            assert!(timeout(Duration::ZERO, other.as_mut()).await.is_err());
        }
        assert_eq!(permits.waiting(), WAITING_PER_PERMIT);
        assert!(permits.take(LONG).await.is_err_and(|why| why.contains("too many")));
        drop(held);
        assert!(first.await.is_ok());
        drop(others);
        assert_eq!(permits.waiting(), 0);
        assert!(permits.take(LONG).await.is_ok());
    }

    #[tokio::test]
    async fn loads_ahead_leave_half_of_the_permits() {
        let permits = Permits::new(4);
        let ahead = [permits.try_take_ahead(), permits.try_take_ahead()];
        assert!(ahead.iter().all(Option::is_some) && permits.try_take_ahead().is_none());
        assert!(permits.try_take().is_some());
        assert!(Permits::new(1).try_take_ahead().is_some(), "or nothing would be loaded ahead");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_told() {
        let permits = Permits::new(1);
        let _held = permits.try_take().expect("free");
        assert!(permits.take(Duration::from_secs(5)).await.is_err());
        assert_eq!(permits.waiting(), 0);
    }
}
