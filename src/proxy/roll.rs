//! The roll: whoever wants to know of clients calls, and each worker tells of its own, between two commands of theirs.
//!
//! A worker that is busy tells nothing in time, and is left out.

use std::cmp::Ordering;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio::time::timeout;

use super::client_ways::{ClientHeat, ClientState};

/// How long workers may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Calls that a worker may have before it. Of more it misses the oldest.
const CALLS: usize = 8;

/// The way to all workers.
#[derive(Clone, Debug)]
pub(crate) struct Roll(broadcast::Sender<RollCall>);

/// A call, to be answered by each worker.
#[derive(Clone, Debug)]
pub(crate) struct RollCall {
    /// Of so many clients is to be told, at most.
    most: usize,
    answer: mpsc::Sender<RollAnswer>,
}

/// How many clients there are, and those that ask for most, these first.
#[derive(Debug, Default)]
pub(crate) struct RollAnswer {
    /// All that there are.
    pub(crate) connected: usize,
    /// Some of them.
    pub(crate) clients: Vec<ClientState>,
}

impl Default for Roll {
    fn default() -> Self {
        Self(broadcast::Sender::new(CALLS))
    }
}

impl Roll {
    /// Calls from now on, for one worker.
    pub(crate) fn follow(&self) -> broadcast::Receiver<RollCall> {
        self.0.subscribe()
    }

    /// Of the clients of all workers the `most` that ask for most. Cancel safe.
    pub(crate) async fn call(&self, most: usize) -> RollAnswer {
        let (answer, mut answers) = mpsc::channel(self.0.receiver_count().max(1));
        let workers = self.0.send(RollCall { most, answer }).unwrap_or_default();
        let mut all = RollAnswer::default();
        let told = async {
            for _ in 0..workers {
                let Some(one) = answers.recv().await else { return };
                all.connected += one.connected;
                all.clients.extend(one.clients);
            }
        };
        let _ = timeout(PATIENCE, told).await; // who is late is left out
        all.clients.sort_by(|a, b| hotter(&a.heat(), &b.heat()));
        all.clients.truncate(most);
        all
    }
}

impl RollCall {
    /// Answers for one worker, of whose clients `state` tells.
    pub(crate) fn answer<T>(self, clients: impl Iterator<Item = (ClientHeat, T)>, state: impl Fn(T) -> ClientState) {
        let mut all: Vec<(ClientHeat, T)> = clients.collect();
        let connected = all.len();
        all.sort_by(|(a, _), (b, _)| hotter(a, b));
        let clients = all.into_iter().take(self.most).map(|(_, client)| state(client)).collect();
        let _ = self.answer.try_send(RollAnswer { connected, clients }); // who asked may have left
    }
}

/// The one that asks for more comes first.
fn hotter(a: &ClientHeat, b: &ClientHeat) -> Ordering {
    b.per_second.total_cmp(&a.per_second).then(b.commands.cmp(&a.commands))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::super::client_ways::ClientWays;
    use super::*;
    use crate::proxy::Clients;

    fn client(name: &str, commands: u64, samples: u64) -> ClientState {
        let member = Clients::default().join(name.to_owned(), &Arc::new(Notify::new()));
        let ways = ClientWays::new(member.since());
        (0..samples).for_each(|_| ways.warm(member.since()));
        ways.state(&member, (commands, 0), (0, 0), member.since())
    }

    fn answer(call: RollCall, clients: &[ClientState]) {
        call.answer(clients.iter().map(|client| (client.heat(), client)), Clone::clone);
    }

    #[tokio::test]
    async fn those_who_ask_for_most_come_first_whoever_serves_them() {
        let roll = Roll::default();
        let (mut one, mut other) = (roll.follow(), roll.follow());
        let called = roll.call(3);
        let told = async {
            answer(one.recv().await.expect("a call"), &[client("quiet", 5, 0), client("loud", 9000, 20)]);
            answer(other.recv().await.expect("a call"), &[client("silent", 1, 0), client("middling", 900, 3)]);
        };
        let (answer, ()) = tokio::join!(called, told);
        let names: Vec<_> = answer.clients.iter().map(|client| client.address.as_str()).collect();
        assert_eq!((answer.connected, names), (4, vec!["loud", "middling", "quiet"]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_is_busy_is_left_out() {
        let roll = Roll::default();
        let (mut one, busy) = (roll.follow(), roll.follow());
        let told = async { answer(one.recv().await.expect("a call"), &[client("there", 1, 0)]) };
        let (answer, ()) = tokio::join!(roll.call(9), told);
        assert_eq!((answer.connected, answer.clients.len()), (1, 1));
        drop((one, busy));
        assert_eq!(roll.call(9).await.connected, 0);
    }
}
