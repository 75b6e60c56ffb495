//! One server of a tier: its connection, and whether it is asked.
//!
//! One that failed a few times in a row is left alone by those who have something to ask; a task of its own asks whether it is there, and
//! when it answers it is asked again. The tasks end when the last hold on the node is dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use super::circuit::Circuit;
use super::connection::{QUEUE, TierAddress, TierErrand};
use super::dialect::TierQuestion;
use crate::clock::Time;
use crate::control::Control;

/// How often it is looked whether one that is left alone is to be asked.
const LOOK: Duration = Duration::from_millis(50);

/// See the module's head.
pub(super) struct TierNode {
    pub(super) address: TierAddress,
    asked: mpsc::Sender<TierErrand>,
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
    /// This is wrong with it.
    Failed(String),
}

impl TierNode {
    pub(super) fn start(address: TierAddress, tier: Arc<str>, control: &Control) -> Arc<Self> {
        let (asked, questions) = mpsc::channel(QUEUE);
        let (opened, is_open) = mpsc::channel(1);
        control.spawn(address.clone().serve(questions));
        let node = Arc::new(Self { address, asked, circuit: Mutex::new(Circuit::NEW), opened, tier });
        control.spawn(try_again(Arc::downgrade(&node), is_open));
        node
    }

    /// Whether it is taken for well, and so asked.
    pub(super) fn is_well(&self) -> bool {
        self.circuit().is_closed()
    }

    /// Asks it, unless it is left alone. Cancel safe.
    pub(super) async fn ask(&self, question: TierQuestion, until: Instant) -> Result<Vec<Vec<u8>>, Unanswered> {
        if self.is_well() { self.ask_anyway(question, until).await } else { Err(Unanswered::LeftAlone) }
    }

    async fn ask_anyway(&self, question: TierQuestion, until: Instant) -> Result<Vec<Vec<u8>>, Unanswered> {
        let (told, answers) = oneshot::channel();
        let said = match self.asked.try_send(TierErrand { question, told }) {
            Ok(()) => match timeout_at(until, answers).await {
                Ok(Ok(said)) => said,
                Ok(Err(_)) => return Err(Unanswered::LeftAlone), // the process ends
                Err(_) => Err("it does not answer in time".to_owned()),
            },
            Err(_) => Err("too much is asked of it".to_owned()),
        };
        let (tier, server) = (&*self.tier, &self.address.endpoint);
        match said {
            Ok(answers) => {
                if self.circuit().answered() {
                    info!(tier, %server, "a tier is asked again: it answers");
                }
                Ok(answers)
            }
            Err(why) => {
                if self.circuit().failed(Time::now()) {
                    let _ = self.opened.try_send(()); // where it is full, the task is about to look
                    warn!(tier, %server, "a tier is not asked for a while: {why}");
                }
                Err(Unanswered::Failed(why))
            }
        }
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
                let until = Instant::now() + node.address.patience;
                let _ = node.ask_anyway(node.address.dialect.is_there(), until).await; // the circuit has heard of it
            }
            drop(node);
            sleep(LOOK).await;
        }
    }
}
