//! Whether a node is there at all, as far as a connection attempt can tell.
//!
//! One task, [`keep_watch`], finds out: it tries when somebody has had trouble with the node ([`Presence::doubt`]), and while the node
//! is away again and again, at a bounded rate, so that nobody else need try. Who accepts a connection and is silent is there:
//! paused or busy, or of a silent link, which is told otherwise. Followed by `server`, which refuses clients meanwhile, and by those
//! who keep a connection of their own ([`Returns`]).

use std::future::pending;
use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::Node;
use super::connect::{dial, read_reply, secure};
use crate::clock::Time;
use crate::error::is_about_us;
use crate::resp::encode;

/// The shortest and the longest pause between two tries; between them a twentieth of the time that the node has been away. One that is
/// back is not missed for long, measured by how long it was away, and one that stays away is not knocked up.
const PAUSES: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];
/// A node that was found there is not doubted for so long.
const REST: Duration = Duration::from_millis(20);
/// So many connections in a row must end at once before the node is held to be away: the first may have been one of those that
/// somebody cut.
const ENDS: u32 = 3;
/// A node that has accepted a connection and says nothing for so long is there.
const SILENCE: Duration = Duration::from_secs(1);

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing yet: the process has just started.
    Unknown,
    /// The node accepts connections.
    There,
    /// It did, and somebody has had trouble with it since: a try is under way.
    Doubted,
    /// It takes none.
    Away,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Presence {
    state: watch::Sender<State>,
    doubted: Notify,
}

impl Default for Presence {
    fn default() -> Self {
        Self { state: watch::Sender::new(State::Unknown), doubted: Notify::new() }
    }
}

impl Presence {
    /// A connection could not be made, or was lost: the node may be away.
    pub(crate) fn doubt(&self) {
        self.state.send_if_modified(|known| {
            let trusted = *known == State::There;
            if trusted {
                *known = State::Doubted;
            }
            trusted
        });
        self.doubted.notify_one();
    }

    /// What is known, and what will be.
    pub(crate) fn follow(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// For who makes a connection anew whenever it is lost.
    pub(crate) fn returns(&self) -> Returns {
        Returns { state: self.follow(), was_there: false }
    }

    /// What is known from now on: for the [watch](keep_watch), and for tests of those who follow.
    pub(crate) fn set(&self, state: State) {
        self.state.send_if_modified(|known| std::mem::replace(known, state) != state);
    }
}

/// Tells who has failed to connect when it is worth another try, whatever their backoff says.
#[derive(Debug)]
pub(crate) struct Returns {
    state: watch::Receiver<State>,
    was_there: bool,
}

impl Returns {
    /// A try begins.
    pub(crate) fn tries(&mut self) {
        self.was_there = is_there(self.state.borrow_and_update());
    }

    /// Waits until the node is there, having been away since the last try began. Cancel safe.
    pub(crate) async fn back(&mut self) {
        if self.was_there {
            if self.state.wait_for(|known| *known == State::Away).await.is_err() {
                pending::<()>().await;
            }
            self.was_there = false; // so that who asks once more does not miss it
        }
        if self.state.wait_for(|known| *known == State::There).await.is_err() {
            pending::<()>().await;
        }
    }
}

/// Whether a try that begins now is one at a node that is there, as far as is known.
fn is_there(known: impl Deref<Target = State>) -> bool {
    matches!(*known, State::There | State::Doubted)
}

/// Finds out whether the node is there; never returns. One task a node runs this. Cancel safe.
pub(crate) async fn keep_watch(node: Arc<Node>) {
    let presence = &node.presence;
    let (mut ended, mut away_since) = (0, None);
    loop {
        let (began, since) = (Time::now(), Instant::now());
        match probe(&node).await {
            Err(failure) if !shows_presence(&failure, &node, began) => {
                ended = if matches!(failure, Failure::Ended) { ended + 1 } else { 0 };
                if node.is_gone() {
                    return; // who follows hears of the one in its place
                }
                if !(1..ENDS).contains(&ended) {
                    presence.set(State::Away);
                }
                sleep(pause(away_since.get_or_insert(since).elapsed())).await;
            }
            _ => {
                (ended, away_since) = (0, None);
                presence.set(State::There);
                sleep(REST).await; // however many doubt it
                presence.doubted.notified().await;
            }
        }
    }
}

/// Before the next try to reach a node that has been away for so long.
fn pause(away: Duration) -> Duration {
    (away / 20).clamp(PAUSES[0], PAUSES[1]).mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// Whether a node that failed so, in a try begun then, is there for all that.
fn shows_presence(failure: &Failure, node: &Node, began: Time) -> bool {
    // Where others hear it, it is there, whatever keeps it from taking another connection.
    node.last_heard() > began || matches!(failure, Failure::Refused(error) if is_about_us(error))
}

/// Why a probe got no answer.
enum Failure {
    /// There is no connection.
    Refused(io::Error),
    /// There was one, and it ended at once.
    Ended,
}

/// Whether the node takes a connection and does not end it at once. Whatever it says shows that it is there, an error as well.
async fn probe(node: &Node) -> Result<(), Failure> {
    let socket = match timeout(node.connect_timeout, dial(node)).await {
        Ok(socket) => socket.map_err(Failure::Refused)?,
        Err(_) => return Err(Failure::Refused(io::ErrorKind::TimedOut.into())),
    };
    let mut ping = Vec::new();
    encode::own_command(&mut ping, &[b"PING"]);
    let said = async {
        let mut socket = secure(node, socket).await?;
        socket.write_all(&ping).await?;
        read_reply(&mut socket, &mut Vec::new()).await
    };
    if let Ok(said) = timeout(SILENCE, said).await {
        said.map_err(|_: io::Error| Failure::Ended)?;
        node.heard(Time::now());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn is_ready(future: impl Future) -> bool {
        matches!(pin!(future).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_))
    }

    #[test]
    fn who_has_failed_is_told_when_the_node_is_back_and_not_that_it_was_there_all_the_time() {
        let presence = Presence::default();
        let mut returns = presence.returns();
        for away in [State::Unknown, State::Away] {
            presence.set(away);
            returns.tries();
            assert!(!is_ready(returns.back()), "{away:?}");
            presence.set(State::There);
            assert!(is_ready(returns.back()), "{away:?}");
        }
        // A try that fails though the node is there is left to the backoff.
        returns.tries();
        let mut back = Box::pin(returns.back());
        for known in [State::There, State::Doubted, State::There, State::Doubted, State::Away] {
            presence.set(known);
            assert!(!is_ready(back.as_mut()), "{known:?}");
        }
        presence.set(State::There);
        assert!(is_ready(back.as_mut()));
        drop(back);
        // It came back between the failure and the question.
        presence.set(State::Away);
        returns.tries();
        presence.set(State::There);
        assert!(is_ready(returns.back()));
    }

    #[test]
    fn a_node_that_is_there_can_be_doubted_and_one_that_is_away_cannot() {
        let presence = Presence::default();
        for (known, then) in [
            (State::Unknown, State::Unknown),
            (State::There, State::Doubted),
            (State::Doubted, State::Doubted),
            (State::Away, State::Away),
        ] {
            presence.set(known);
            presence.doubt();
            assert_eq!(*presence.follow().borrow(), then);
        }
    }

    #[test]
    fn a_node_is_tried_after_a_twentieth_of_the_time_that_it_was_away() {
        for (away, most) in [(0, 2), (40, 2), (400, 20), (1_000, 50), (60_000, 50)] {
            let pause = pause(Duration::from_millis(away));
            let most = Duration::from_millis(most);
            assert!((most / 2..=most).contains(&pause), "{pause:?} after {away} ms");
        }
    }
}
