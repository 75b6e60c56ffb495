//! What admins order while crema runs. Sessions, the admin port and signals hand it in; one task of `app` carries it out, one order
//! after the other.
//!
//! Who may give an order is decided by whoever takes it; here nobody asks.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::warn;

use crate::config::L1Mode;

/// Orders that may wait to be carried out; more are refused.
const WAITING: usize = 16;
/// Who gave one waits so long for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// L1 does this for reads from now on.
    Mode(L1Mode),
    /// The settings are read anew.
    Reload,
}

/// What an order has come to, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OrderReport {
    /// What is otherwise than before.
    pub changed: Vec<String>,
    /// What would be after a restart.
    pub restart: Vec<String>,
}

impl OrderReport {
    /// All in one list.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        let restart = self.restart.iter().map(|line| format!("needs a restart: {line}"));
        self.changed.iter().cloned().chain(restart)
    }
}

/// Why who gave an order hears of nothing that it has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UndoneOrder {
    /// It was not carried out, and will not be.
    Refused(String),
    /// Not yet: it will be.
    Late,
}

impl Display for UndoneOrder {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::Late => f.write_str("it takes long and goes on; the status tells what has become of it"),
        }
    }
}

/// What it has come to, or nothing.
pub(crate) type OrderResult = Result<OrderReport, UndoneOrder>;

/// An order, and who waits for it to be carried out.
#[derive(Debug)]
pub(crate) struct GivenOrder {
    /// What is to be done.
    pub order: Order,
    /// By whose word, for people.
    pub by: String,
    answer: oneshot::Sender<OrderResult>,
}

/// The way to whoever carries them out.
#[derive(Clone, Debug)]
pub(crate) struct Orders(mpsc::Sender<GivenOrder>);

impl Orders {
    /// With where they arrive.
    pub(crate) fn new() -> (Self, mpsc::Receiver<GivenOrder>) {
        let (given, arrive) = mpsc::channel(WAITING);
        (Self(given), arrive)
    }

    /// Gives an order of which nobody waits to hear.
    pub(crate) fn leave(&self, order: Order, by: &str) {
        let given = GivenOrder { order, by: by.to_owned(), answer: oneshot::channel().0 };
        if self.0.try_send(given).is_err() {
            warn!("an order by {by} is not carried out: too many wait already, or crema is about to end");
        }
    }

    /// Gives an order and returns when it was carried out, or not. Cancel safe: what was given is carried out all the same.
    pub(crate) async fn give(&self, order: Order, by: String) -> OrderResult {
        let (answer, result) = oneshot::channel();
        if self.0.try_send(GivenOrder { order, by, answer }).is_err() {
            return Err(UndoneOrder::Refused(
                "too many orders wait to be carried out, or crema is about to end".to_owned(),
            ));
        }
        match timeout(PATIENCE, result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(UndoneOrder::Refused("crema ends".to_owned())),
            Err(_) => Err(UndoneOrder::Late),
        }
    }
}

impl GivenOrder {
    /// Tells who gave it what came of it.
    pub(crate) fn answer(self, result: OrderResult) {
        let _ = self.answer.send(result); // who asked may have left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_gives_an_order_is_told_what_came_of_it() {
        let (orders, mut arrive) = Orders::new();
        let give = orders.give(Order::Mode(L1Mode::Pass), "anna".to_owned());
        let carry_out = async {
            let given = arrive.recv().await.expect("it was given");
            assert_eq!((given.order, &*given.by), (Order::Mode(L1Mode::Pass), "anna"));
            given.answer(Ok(OrderReport { changed: vec!["done".to_owned()], restart: vec!["more".to_owned()] }));
        };
        let report = tokio::join!(give, carry_out).0.expect("it was carried out");
        assert_eq!(report.lines().collect::<Vec<_>>(), ["done", "needs a restart: more"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_and_no_more_than_a_few_wait() {
        let (orders, arrive) = Orders::new();
        let give = || orders.give(Order::Mode(L1Mode::Cache), String::new());
        for _ in 0..WAITING {
            assert_eq!(give().await.expect_err("nobody listens"), UndoneOrder::Late);
        }
        assert!(give().await.expect_err("there is no room").to_string().starts_with("too many"));
        drop(arrive);
        assert!(give().await.is_err());
    }
}
