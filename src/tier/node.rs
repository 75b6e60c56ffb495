//! One server of a tier: its connection, and whether it is asked.
//!
//! One that failed a few times in a row is left alone by those who have something to ask; a task of its own asks whether it is there, and
//! when it answers it is asked again. Where too much is asked of it at once, that is no failure of its own. The tasks end when the last
//! hold on the node is dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use super::circuit::Circuit;
use super::connection::{QUEUE, TierAddress, TierErrand};
use super::dialect::TierQuestion;
use crate::clock::Time;
use crate::control::Control;

/// How often it is looked whether one that is left alone is to be asked.
const LOOK: Duration = Duration::from_millis(50);
/// So many KiB of questions may be with it at once. What is shorter than one is bounded by its number.
const ROOM: u32 = 64 * 1024;

/// See the module's head.
pub(super) struct TierNode {
    pub(super) address: TierAddress,
    asked: mpsc::Sender<TierErrand>,
    room: Arc<Semaphore>,
    circuit: Mutex<Circuit>,
    opened: mpsc::Sender<()>,
    /// What the settings call the tier.
    tier: Arc<str>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// It was not asked.
    LeftAlone,
    /// It was not asked, for too much else is asked of it.
    TooMuch,
    /// This is wrong with it.
    Failed(String),
}

impl TierNode {
    pub(super) fn start(address: TierAddress, tier: Arc<str>, control: &Control) -> Arc<Self> {
        let (asked, questions) = mpsc::channel(QUEUE);
        let (opened, is_open) = mpsc::channel(1);
        control.spawn(address.clone().serve(questions));
        let room = Arc::new(Semaphore::new(ROOM as usize));
        let node = Arc::new(Self { address, asked, room, circuit: Mutex::new(Circuit::NEW), opened, tier });
        control.spawn(try_again(Arc::downgrade(&node), is_open));
        node
    }

    /// Whether it is taken for well, and so asked.
    pub(super) fn is_well(&self) -> bool {
        self.circuit().is_closed()
    }

    /// Asks it, unless it is left alone. Cancel safe.
    pub(super) async fn ask(&self, question: TierQuestion, until: Instant) -> Result<Vec<Vec<u8>>, Unanswered> {
        if !self.is_well() {
            return Err(Unanswered::LeftAlone);
        }
        let said = self.ask_anyway(question, until).await;
        if let Err(Unanswered::Failed(why)) = &said
            && self.circuit().failed(Time::now())
        {
            let _ = self.opened.try_send(()); // where it is full, the task is about to look
            warn!(tier = &*self.tier, server = %self.address.endpoint, "a tier is not asked for a while: {why}");
        }
        said
    }

    /// Asks whether it is there: it is due.
    async fn try_it(&self) {
        let until = Instant::now() + self.address.patience;
        if let Err(Unanswered::Failed(_)) = self.ask_anyway(self.address.dialect.is_there(), until).await {
            self.circuit().tried_in_vain(Time::now());
        }
    }

    /// The circuit hears of an answer; of a failure whoever asked tells it.
    async fn ask_anyway(&self, question: TierQuestion, until: Instant) -> Result<Vec<Vec<u8>>, Unanswered> {
        let size: usize = question.commands().iter().map(Vec::len).sum();
        let size = u32::try_from(size / 1024).unwrap_or(ROOM).min(ROOM);
        let room = Arc::clone(&self.room).try_acquire_many_owned(size).map_err(|_| Unanswered::TooMuch)?;
        let (told, answers) = oneshot::channel();
        self.asked.try_send(TierErrand { question, told, _room: room }).map_err(|error| match error {
            TrySendError::Full(_) => Unanswered::TooMuch,
            TrySendError::Closed(_) => Unanswered::LeftAlone, // the process ends
        })?;
        let answers = match timeout_at(until, answers).await {
            Ok(Ok(said)) => said.map_err(Unanswered::Failed)?,
            Ok(Err(_)) => return Err(Unanswered::LeftAlone), // the process ends
            Err(_) => return Err(Unanswered::Failed("it does not answer in time".to_owned())),
        };
        if let Some(why) = self.address.dialect.is_unable(&answers) {
            return Err(Unanswered::Failed(why));
        }
        if self.circuit().answered() {
            info!(tier = &*self.tier, server = %self.address.endpoint, "a tier is asked again: it answers");
        }
        Ok(answers)
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a node that is left alone whether it is there, each time that it is due.
async fn try_again(node: Weak<TierNode>, mut opened: mpsc::Receiver<()>) {
    while opened.recv().await.is_some() {
        while let Some(node) = node.upgrade().filter(|node| !node.is_well()) {
            if node.circuit().may_ask(Time::now()) {
                node.try_it().await;
            }
            drop(node);
            sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::{Endpoint, TierServer};
    use crate::tier::dialect::Dialect;

    /// A node that takes connections and says nothing.
    async fn silent(patience: Duration) -> (TcpListener, Arc<TierNode>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let port = listener.local_addr().expect("it is bound").port();
        let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port };
        let address = TierAddress::new(&TierServer::Memcached(endpoint), None, patience);
        (listener, TierNode::start(address, Arc::from("cold"), &Control::here()))
    }

    #[tokio::test]
    async fn that_too_much_is_asked_is_no_failure_of_the_server() {
        let long = Duration::from_secs(600);
        let (_listener, node) = silent(long).await;
        let until = Instant::now() + long;
        let asks = |question: TierQuestion| {
            let node = Arc::clone(&node);
            tokio::spawn(async move { node.ask(question, until).await })
        };
        let large = Dialect::Memcached.set(b"k", &vec![0; 40 << 20], long);
        let _one = asks(large.clone());
        while node.room.available_permits() == ROOM as usize {
            tokio::task::yield_now().await;
        }
        assert_eq!(node.ask(large, until).await, Err(Unanswered::TooMuch), "by size");
        let small = Dialect::Memcached.get(b"k");
        let all: Vec<_> = (0..4 * QUEUE).map(|_| asks(small.clone())).collect();
        while !all.iter().any(tokio::task::JoinHandle::is_finished) {
            tokio::task::yield_now().await;
        }
        for ended in all.into_iter().filter(tokio::task::JoinHandle::is_finished) {
            assert_eq!(ended.await.expect("it ends"), Err(Unanswered::TooMuch), "by number");
        }
        assert_eq!(*node.circuit(), Circuit::NEW);
    }

    #[tokio::test]
    async fn what_has_been_given_up_takes_no_room() {
        let (_listener, node) = silent(Duration::from_millis(1)).await;
        let large = Dialect::Memcached.set(b"k", &vec![0; 40 << 20], Duration::from_secs(60));
        for _ in 0..3 {
            let said = node.ask_anyway(large.clone(), Instant::now() + Duration::from_secs(60)).await;
            assert!(matches!(said, Err(Unanswered::Failed(_))), "{said:?}");
        }
    }
}
