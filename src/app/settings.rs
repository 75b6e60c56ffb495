//! What is changed while crema runs: orders are carried out one after the other, logged with who gave them, and remembered for the
//! status. The file of settings is looked at once a second, and read anew when it has changed.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::{App, descriptors};
use crate::admin::ChangeStatus;
use crate::config::{Changes, Flags, L1Mode, Reading, settings_file};
use crate::proxy::{GivenOrder, LiveSettings, Order, OrderReport};

/// So many changes are remembered.
const REMEMBERED: usize = 20;
/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The last changes, the newest first.
#[derive(Debug, Default)]
pub(super) struct SettingsHistory(Mutex<VecDeque<ChangeStatus>>);

impl SettingsHistory {
    #[expect(clippy::disallowed_methods, reason = "people are shown the time of day")]
    fn note(&self, by: &str, what: Vec<String>) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.push_front(ChangeStatus { at, by: by.to_owned(), what });
        changes.truncate(REMEMBERED);
    }

    /// A copy for the status.
    pub(super) fn all(&self) -> Vec<ChangeStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// By which one sees that a file has changed: when it was written, and its length.
type FileMark = Option<(SystemTime, u64)>;

/// What was seen of a file. One that is being written is left alone until it stays as it is.
#[derive(Debug)]
struct FileLook {
    read: FileMark,
    last: FileMark,
}

impl FileLook {
    /// It was read as it is now.
    fn new(now: FileMark) -> Self {
        Self { read: now, last: now }
    }

    /// Whether it is to be read: it is another than was read, and was the same at the last look. One that is gone is not.
    fn is_due(&mut self, now: FileMark) -> bool {
        let stands = std::mem::replace(&mut self.last, now) == now;
        let due = stands && now.is_some() && now != self.read;
        if due {
            self.read = now;
        }
        due
    }
}

fn mark(path: &Path) -> FileMark {
    let there = fs::metadata(path).ok()?; // follows links, as those of mounted files, which are exchanged as a whole
    Some((there.modified().ok()?, there.len()))
}

/// Carries orders out.
pub(super) struct SettingsKeeper {
    app: Arc<App>,
    orders: mpsc::Receiver<GivenOrder>,
    flags: Flags,
    /// What is in force, as it was read.
    reading: Reading,
}

impl SettingsKeeper {
    pub(super) fn new(app: Arc<App>, orders: mpsc::Receiver<GivenOrder>, (flags, reading): (Flags, Reading)) -> Self {
        Self { app, orders, flags, reading }
    }

    /// Never returns while there is somebody to give orders.
    pub(super) async fn keep(mut self) {
        let file = settings_file(&self.flags);
        let seen = || file.as_deref().and_then(mark);
        let mut look = FileLook::new(seen());
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let given = tokio::select! {
                given = self.orders.recv() => given,
                _ = ticks.tick(), if file.is_some() => {
                    if look.is_due(seen()) {
                        drop(self.reload("a change of the file").await);
                    }
                    continue;
                }
            };
            let Some(given) = given else { return };
            let result = match given.order {
                Order::Mode(mode) => Ok(self.switch(mode, &given.by)),
                Order::Reload => self.reload(&given.by).await,
            };
            given.answer(result);
        }
    }

    /// When it returns, nothing that is read from then on is answered by the mode of before.
    fn switch(&self, mode: L1Mode, by: &str) -> OrderReport {
        let l1 = &self.app.shared.l1;
        let before = l1.service();
        if before == mode {
            return OrderReport::default();
        }
        l1.switch_to(mode);
        let report = OrderReport { changed: vec![format!("mode: {before} -> {mode}")], restart: Vec::new() };
        self.note(by, &report);
        report
    }

    /// Reads the settings anew: all that may change does, or nothing. When it returns, all workers go by them.
    async fn reload(&mut self, by: &str) -> Result<OrderReport, String> {
        let flags = self.flags.clone();
        let reading = self.app.control.spawn_blocking(|| Reading::of(flags)).await;
        let reading = match reading {
            Ok(Ok(reading)) => reading,
            Ok(Err(wrong)) => return Err(self.refuse(by, wrong.to_string())),
            Err(_) => return Err("crema ends".to_owned()),
        };
        self.app.read_certificates();
        let Changes { settings, changed, restart, mode } = self.reading.changes(&reading);
        self.reading = settings;
        let mut report = OrderReport { changed, restart };
        if let Some(mode) = mode {
            // The mode may have been switched by hand meanwhile: what the settings say newly is what counts.
            report.changed.retain(|line| !line.starts_with("mode: "));
            report.changed.extend(self.switch(mode, by).changed);
        }
        if report.changed.iter().any(|line| !line.starts_with("mode: ")) {
            self.publish().await;
        }
        let others = report.changed.iter().filter(|line| !line.starts_with("mode: ")).cloned().collect();
        self.note(by, &OrderReport { changed: others, restart: report.restart.clone() });
        Ok(report)
    }

    /// Has all workers go by what was read.
    async fn publish(&self) {
        let mut config = self.reading.config.clone();
        descriptors::fit(&mut config);
        let (next, before) = (Arc::new(LiveSettings::of(&config)), self.app.shared.live());
        self.app.live.send_replace(Arc::clone(&next));
        next.is_taken_by(config.threads.get()).await;
        if !before.keeps_as_long(&next) {
            self.app.shared.l1.begin_anew(); // what was filled for longer than is right now
        }
    }

    fn refuse(&self, by: &str, wrong: String) -> String {
        warn!("settings were read anew by {by} and cannot be used; the old ones are kept: {wrong}");
        self.app.shared.stats.settings_refused.add(1);
        self.app.history.note(by, vec![format!("refused: {wrong}")]);
        wrong
    }

    fn note(&self, by: &str, report: &OrderReport) {
        for line in &report.changed {
            info!("changed by {by}: {line}");
        }
        for line in &report.restart {
            warn!("not changed by {by}, for it needs a restart: {line}");
        }
        if !report.changed.is_empty() {
            self.app.shared.stats.settings_changes.add(1);
        }
        let what: Vec<String> = report.lines().collect();
        if !what.is_empty() {
            self.app.history.note(by, what);
        }
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
            history.note("anna", vec![n.to_string()]);
        }
        let all = history.all();
        assert_eq!((all.len(), &*all[0].what[0]), (REMEMBERED, "24"));
    }

    #[test]
    fn a_file_is_read_once_it_stays_as_it_is() {
        let mark = |length| Some((UNIX_EPOCH, length));
        let mut look = FileLook::new(mark(1));
        assert!(!look.is_due(mark(1)), "it was read");
        assert!(!look.is_due(mark(2)), "it may be under way");
        assert!(!look.is_due(mark(3)));
        assert!(look.is_due(mark(3)));
        assert!(!look.is_due(mark(3)), "once");
        assert!(!look.is_due(None) && !look.is_due(None), "it is gone");
        assert!(!look.is_due(mark(3)) && !look.is_due(mark(3)), "and back as it was");
        assert!(!look.is_due(mark(1)) && look.is_due(mark(1)));
    }
}
