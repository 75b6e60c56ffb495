//! What is told of a client by `CREMA CLIENTS`: how much it asks, since when, and what it is doing.
//!
//! Counted on its worker's thread in plain cells; another thread has the worker tell.

use std::cell::Cell;
use std::time::Duration;

use super::clients::Member;
use crate::clock::Time;
use crate::metrics::{SAMPLE_EVERY, faded, per_second};

/// What commands go on that share lanes.
const SHARED: &str = "shared";

/// See the module's head.
#[derive(Debug)]
pub(super) struct ClientWays {
    received: Cell<u64>,
    acted: Cell<Time>,
    /// Commands of the sample, which fade, and up to when they have.
    heat: Cell<(f64, Time)>,
    link: Cell<&'static str>,
}

/// How much a client asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ClientHeat {
    /// Commands a second, of late.
    pub(crate) per_second: f64,
    /// Commands in all.
    pub(crate) commands: u64,
}

/// How a client stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClientState {
    /// Where it connects from.
    pub(crate) address: String,
    /// What it calls itself.
    pub(crate) name: String,
    /// As whom it has logged in.
    pub(crate) user: String,
    /// For how long it has been there.
    pub(crate) age: Duration,
    /// For how long it has sent no command.
    pub(crate) idle: Duration,
    /// Commands that it has sent. Where one is taken apart for several nodes, each part.
    pub(crate) commands: u64,
    /// How many a second of late, from the sample.
    pub(crate) per_second: f64,
    /// Bytes that it has sent.
    pub(crate) received: u64,
    /// Bytes that it has taken.
    pub(crate) sent: u64,
    /// Commands that are not answered yet.
    pub(crate) unanswered: u64,
    /// Bytes that it has not taken yet.
    pub(crate) unread: u64,
    /// What its commands go on.
    pub(crate) link: &'static str,
    /// What it is doing.
    pub(crate) doing: &'static str,
}

impl ClientWays {
    /// Of a client that has been there since then and has sent nothing.
    pub(super) fn new(since: Time) -> Self {
        let heat = Cell::new((0.0, since));
        Self { received: Cell::default(), acted: Cell::new(since), heat, link: Cell::new(SHARED) }
    }

    pub(super) fn read(&self, bytes: u64) {
        self.received.set(self.received.get() + bytes);
    }

    pub(super) fn act(&self, now: Time) {
        self.acted.set(now);
    }

    pub(super) fn set_link(&self, link: &'static str) {
        self.link.set(link);
    }

    pub(super) fn warm(&self, now: Time) {
        self.heat.set((self.warmth(now) + f64::from(SAMPLE_EVERY), now));
    }

    fn warmth(&self, now: Time) -> f64 {
        let (heat, at) = self.heat.get();
        faded(heat, now.saturating_since(at))
    }

    /// How much the client asks for that is on the list as `member` and has sent so many commands.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub(super) fn heat(&self, member: &Member, commands: u64, now: Time) -> ClientHeat {
        let age = now.saturating_since(member.since());
        let of_late = self.warmth(now).min(commands as f64); // the sample may make many of a few
        ClientHeat { per_second: of_late * per_second(age), commands }
    }

    /// How the client stands that is on the list as `member`.
    pub(super) fn state(
        &self,
        member: &Member,
        (commands, unanswered): (u64, u64),
        (sent, unread): (u64, u64),
        now: Time,
    ) -> ClientState {
        let (address, name, user) = member.introduced();
        let age = now.saturating_since(member.since());
        ClientState {
            address,
            name,
            user,
            age,
            idle: now.saturating_since(self.acted.get()),
            commands,
            per_second: self.heat(member, commands, now).per_second,
            received: self.received.get(),
            sent,
            unanswered,
            unread,
            link: self.link.get(),
            doing: match (unanswered, unread) {
                (0, 0) => "idle",
                (0, _) => "does not read",
                _ => "waits for replies",
            },
        }
    }
}

impl ClientState {
    /// How much it asks for.
    pub(super) fn heat(&self) -> ClientHeat {
        ClientHeat { per_second: self.per_second, commands: self.commands }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;
    use crate::proxy::Clients;

    #[test]
    fn a_client_is_told_by_what_it_does() {
        let member = Clients::default().join("10.0.0.1:7".to_owned(), &Arc::new(Notify::new()));
        let (ways, since) = (ClientWays::new(member.since()), member.since());
        let at = |seconds| since.plus(Duration::from_secs(seconds));
        let state = |commands, bytes, seconds| ways.state(&member, commands, bytes, at(seconds));
        member.is_called(b"worker");
        member.is_now(b"app");
        ways.read(100);
        ways.act(at(7));
        let idle = state((3, 0), (50, 0), 10);
        assert_eq!((idle.address.as_str(), idle.name.as_str(), idle.user.as_str()), ("10.0.0.1:7", "worker", "app"));
        assert_eq!((idle.age, idle.idle), (Duration::from_secs(10), Duration::from_secs(3)));
        assert_eq!((idle.commands, idle.received, idle.sent), (3, 100, 50));
        assert_eq!((idle.doing, idle.link), ("idle", "shared"));
        assert_eq!(state((3, 1), (50, 9), 10).doing, "waits for replies");
        assert_eq!(state((3, 0), (50, 9), 10).doing, "does not read");
    }

    #[test]
    fn a_rate_is_of_late() {
        let member = Clients::default().join(String::new(), &Arc::new(Notify::new()));
        let (ways, since) = (ClientWays::new(member.since()), member.since());
        let at = |seconds| since.plus(Duration::from_secs(seconds));
        for second in 1..=300 {
            ways.warm(at(second));
        }
        let rate = |seconds| ways.state(&member, (64 * 300, 0), (0, 0), at(seconds)).per_second;
        assert!((60.0..70.0).contains(&rate(300)), "{}", rate(300));
        assert!(rate(600) < 1.0);
    }
}
