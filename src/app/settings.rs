//! What is changed while crema runs: orders are carried out one after the other, logged with who gave them, and remembered for the
//! status.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::App;
use crate::admin::ChangeStatus;
use crate::config::L1Mode;
use crate::proxy::{GivenOrder, Order};

/// So many changes are remembered.
const REMEMBERED: usize = 20;

/// The last changes, the newest first.
#[derive(Debug, Default)]
pub(super) struct SettingsHistory(Mutex<VecDeque<ChangeStatus>>);

impl SettingsHistory {
    #[expect(clippy::disallowed_methods, reason = "people are shown the time of day")]
    fn note(&self, by: &str, what: &[String]) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.push_front(ChangeStatus { at, by: by.to_owned(), what: what.to_vec() });
        changes.truncate(REMEMBERED);
    }

    /// A copy for the status.
    pub(super) fn all(&self) -> Vec<ChangeStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Carries orders out.
pub(super) struct SettingsKeeper {
    app: Arc<App>,
    orders: mpsc::Receiver<GivenOrder>,
}

impl SettingsKeeper {
    pub(super) fn new(app: Arc<App>, orders: mpsc::Receiver<GivenOrder>) -> Self {
        Self { app, orders }
    }

    /// Never returns while there is somebody to give orders.
    pub(super) async fn keep(mut self) {
        while let Some(given) = self.orders.recv().await {
            let result = match given.order {
                Order::Mode(mode) => Ok(self.switch(mode, &given.by)),
            };
            given.answer(result);
        }
    }

    /// When it returns, nothing that is read from then on is answered by the mode of before.
    fn switch(&self, mode: L1Mode, by: &str) -> Vec<String> {
        let l1 = &self.app.shared.l1;
        let before = l1.service();
        if before == mode {
            return Vec::new();
        }
        l1.switch_to(mode);
        let what = vec![format!("mode: {before} -> {mode}")];
        self.note(by, &what);
        what
    }

    fn note(&self, by: &str, what: &[String]) {
        for line in what {
            info!("changed by {by}: {line}");
        }
        self.app.shared.stats.settings_changes.add(1);
        self.app.history.note(by, what);
    }
}

/// What an operator should know of a mode in which memory answers nothing.
pub(super) fn tell_mode(mode: L1Mode) {
    match mode {
        L1Mode::Cache => {}
        L1Mode::Observe => {
            warn!("mode is observe: memory is filled and answers nothing; what it would have answered is counted");
        }
        L1Mode::Pass => warn!("mode is pass: nothing is kept in memory, and every read goes to the upstream"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_change_comes_first_and_old_ones_are_forgotten() {
        let history = SettingsHistory::default();
        for n in 0..REMEMBERED + 5 {
            history.note("anna", &[n.to_string()]);
        }
        let all = history.all();
        assert_eq!((all.len(), &*all[0].what[0]), (REMEMBERED, "24"));
    }
}
