//! A hit that comes too early for its own session: how long it waits for the ear, or that Redis is asked instead.

use std::time::Duration;

use tokio::time::timeout;

use super::Unheard;
use super::caller::Caller;
use super::worker::Worker;
use crate::clock::Time;

/// A hit may wait for a fence for so long, or for twice of what Redis would take: the next ones are the quicker for it.
const WORTH: Duration = Duration::from_millis(5);
/// No read takes less at Redis.
const QUICKEST: Duration = Duration::from_micros(50);

impl Caller {
    /// Returns once L1 knows what it has not heard yet. False: it is not known to, its lease is over, or a fence takes so much
    /// longer than Redis would that the read is better sent there. Who reads a key from Redis again and again would never be
    /// answered out of L1: so where what was sent there has taken as long as the fence would have, that is waited for. Cancel
    /// safe.
    pub(crate) async fn hear(&self, worker: &Worker, Unheard { since, at }: Unheard) -> bool {
        let (ear, now) = (self.ear(at), Time::now());
        if ear.heard_up_to() >= since {
            return true;
        }
        let (fence, miss) = (ear.fence_time(now), worker.station(at).lanes.round_trip(self.who.identity, self.resp));
        let worth = miss.saturating_mul(2).max(WORTH);
        let mut left = ear.freshness.lease_left(now);
        if fence <= worth {
            left = left.min(worth);
        } else if self.spared.get() < fence {
            self.spared.set(self.spared.get() + miss.max(QUICKEST));
            ear.nudge(); // so that it is known soon whether that is still so
            return false;
        } else {
            self.spared.set(Duration::ZERO);
        }
        matches!(timeout(left, ear.fence(since)).await, Ok(Ok(())))
    }
}
