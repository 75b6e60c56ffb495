//! What is changed while crema runs: orders are carried out one after the other, logged with who gave them, and remembered for the
//! status. The file of settings is looked at once a second, and read anew when it has changed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::{App, descriptors};
use crate::admin::ChangeStatus;
use crate::config::{
    Changes, Config, ConfigError, Endpoint, FileMark, Flags, L1Mode, Reading, mark_of_settings, settings_file,
};
use crate::log;
use crate::proxy::{GivenOrder, LiveSettings, Order, OrderReport, UndoneOrder};
use crate::resp::Resp;
use crate::upstream::{Target, connect};

/// So many changes are remembered.
const REMEMBERED: usize = 20;
/// Orders to read anew that may wait; more are refused.
const WAITING: usize = 16;
/// Another upstream has so long to let crema in.
const TRIAL: Duration = Duration::from_secs(5);
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

/// What was seen of a file. One that is being written is left alone until it stays as it is.
#[derive(Debug)]
struct FileLook {
    read: FileMark,
    last: FileMark,
}

impl FileLook {
    /// It was like this just before it was read.
    fn new(read: FileMark) -> Self {
        Self { read, last: read }
    }

    /// Whether it is to be read: it is another than was read, and was the same at the last look. One that is gone is not.
    fn is_due(&mut self, now: FileMark) -> bool {
        let stands = std::mem::replace(&mut self.last, now) == now;
        stands && now.is_some() && now != self.read
    }
}

/// By whose word settings are read anew where nobody gave any.
const BY_FILE: &str = "a change of the file";

/// What was done where it may take its time.
enum FileSeen {
    /// How the file is.
    Mark(FileMark),
    /// How it was just before it was read, and what it says.
    Reading(FileMark, Box<Result<Reading, ConfigError>>),
    /// The same of settings in which the upstream is another server, which was tried.
    Tried(FileMark, Box<Reading>, Result<Endpoint, String>),
}

/// Carries orders out.
pub(super) struct SettingsKeeper {
    app: Arc<App>,
    orders: mpsc::Receiver<GivenOrder>,
    flags: Flags,
    /// What is in force, as it was read.
    reading: Reading,
    look: FileLook,
    /// At most one thing is done elsewhere at a time.
    under_way: Option<JoinHandle<Option<FileSeen>>>,
    /// Orders to read anew: the first waits for what is under way, if that is a reading; and what is read for the others has to be read
    /// after they were given.
    reloads: VecDeque<GivenOrder>,
    /// A mode was ordered while the settings were being read: what they say of it is older.
    mode_is_newer: bool,
}

impl SettingsKeeper {
    pub(super) fn new(app: Arc<App>, orders: mpsc::Receiver<GivenOrder>, (flags, reading): (Flags, Reading)) -> Self {
        let look = FileLook::new(reading.seen);
        let (under_way, reloads, mode_is_newer) = (None, VecDeque::new(), false);
        Self { app, orders, flags, reading, look, under_way, reloads, mode_is_newer }
    }

    /// Never returns while there is somebody to give orders. A mode is switched at once, however long files take.
    pub(super) async fn keep(mut self) {
        let has_file = settings_file(&self.flags).is_some();
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reads_for = None;
        loop {
            if self.under_way.is_none()
                && let Some(given) = self.reloads.pop_front()
            {
                reads_for = Some(given);
                self.read_anew();
            }
            let idle = self.under_way.is_none();
            tokio::select! {
                biased;
                given = self.orders.recv() => match given {
                    Some(given) => self.take(given),
                    None => return,
                },
                seen = async { self.under_way.as_mut().expect("asked for only then").await }, if !idle => {
                    self.under_way = None;
                    match seen {
                        Ok(Some(FileSeen::Mark(mark))) => if self.look.is_due(mark) {
                            self.read_anew();
                        },
                        Ok(Some(FileSeen::Reading(mark, reading))) => {
                            let moved = reading.as_ref().as_ref().ok().and_then(|newer| self.reading.changes(newer).upstream);
                            match (moved, *reading) {
                                (Some(endpoint), Ok(newer)) => self.try_upstream(mark, newer, &endpoint),
                                (_, Ok(newer)) => self.settle(mark, Ok((newer, None)), reads_for.take()).await,
                                (_, Err(wrong)) => self.settle(mark, Err(wrong.to_string()), reads_for.take()).await,
                            }
                        }
                        Ok(Some(FileSeen::Tried(mark, newer, tried))) => {
                            let tried = tried.map(|endpoint| (*newer, Some(endpoint)));
                            self.settle(mark, tried, reads_for.take()).await;
                        }
                        Err(gone) if gone.is_panic() => {
                            let why = "the settings could not be read, by a fault of crema's".to_owned();
                            if let Some(given) = reads_for.take() {
                                given.answer(Err(UndoneOrder::Refused(why)));
                            }
                        }
                        Ok(None) | Err(_) => return, // crema ends
                    }
                }
                _ = ticks.tick(), if has_file && idle => {
                    let flags = self.flags.clone();
                    self.under_way = Some(self.app.control.spawn_blocking(move || Some(FileSeen::Mark(mark_of_settings(&flags)))));
                }
            }
        }
    }

    /// Carries an order out, or has it wait for its reading.
    fn take(&mut self, given: GivenOrder) {
        match given.order {
            Order::Mode(mode) => {
                let report = self.switch(mode, &given.by);
                self.mode_is_newer |= !report.changed.is_empty();
                given.answer(Ok(report));
            }
            Order::Reload if self.reloads.len() < WAITING => self.reloads.push_back(given),
            Order::Reload => {
                given.answer(Err(UndoneOrder::Refused("too many orders wait to be carried out".to_owned())));
            }
        }
    }

    /// Has settings and certificates read, where that holds up nobody.
    fn read_anew(&mut self) {
        self.mode_is_newer = false;
        let (app, flags) = (Arc::clone(&self.app), self.flags.clone());
        self.under_way = Some(self.app.control.spawn_blocking(move || {
            app.read_certificates(); // in any case
            let mark = mark_of_settings(&flags);
            Some(FileSeen::Reading(mark, Box::new(Reading::of(flags))))
        }));
    }

    /// Has a connection made to the server that is to be the upstream, as the settings' user.
    fn try_upstream(&mut self, mark: FileMark, newer: Reading, endpoint: &Endpoint) {
        let (app, newer) = (Arc::clone(&self.app), Box::new(newer));
        let endpoint = self.reading.config.cluster.node_map.resolve(endpoint.clone());
        let (node, db) = (app.nodes.seed(&endpoint), newer.config.upstream.db);
        self.under_way = Some(self.app.control.spawn_answering(async move {
            let target =
                Target { node: Arc::clone(&node), login: node.login(), db, resp: Resp::V2, name: "crema-scout" };
            let tried = match timeout(TRIAL, connect(&target)).await {
                Ok(Ok(_)) => Ok(endpoint),
                Ok(Err(error)) => Err(format!("upstream: {error}")),
                Err(_) => Err(format!("upstream: {} does not answer in {TRIAL:?}", node.address)),
            };
            FileSeen::Tried(mark, newer, tried)
        }));
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

    /// The settings were read, for whom or because the file has changed; and the other upstream was tried, where it is to be one.
    async fn settle(
        &mut self,
        mark: FileMark,
        read: Result<(Reading, Option<Endpoint>), String>,
        whom: Option<GivenOrder>,
    ) {
        self.look.read = mark;
        let by = whom.as_ref().map_or(BY_FILE, |given| &given.by);
        let read = read.and_then(|read| {
            let level = log::level(read.0.config.log_level.as_ref())?;
            Ok((read, level))
        });
        let result = match read {
            Ok(((reading, upstream), level)) => {
                let report = self.adopt(&reading, upstream.as_ref(), by).await;
                log::set_level(&level); // behind the lines that tell of it
                Ok(report)
            }
            Err(wrong) => Err(UndoneOrder::Refused(self.refuse(by, wrong))),
        };
        if let Some(given) = whom {
            given.answer(result);
        }
    }

    /// All that may change does. When it returns, all workers go by it; where one does not, the report says so.
    async fn adopt(&mut self, newer: &Reading, upstream: Option<&Endpoint>, by: &str) -> OrderReport {
        let Changes { settings, mut changed, restart, mode, .. } = self.reading.changes(newer);
        self.reading = settings;
        // The mode may have been switched by hand meanwhile: what the settings say newly is what counts.
        changed.retain(|line| !line.starts_with("mode: "));
        if let Some(endpoint) = upstream {
            self.app.move_upstream(endpoint); // first: a worker that goes by the settings has looked where the upstream is
        }
        let late = !changed.is_empty() && !self.publish().await;
        self.note(by, &OrderReport { changed: changed.clone(), restart: restart.clone() });
        match mode {
            Some(mode) if self.mode_is_newer => {
                changed.push(format!("mode: stays as it was switched meanwhile, not {mode}"));
            }
            Some(mode) => changed.extend(self.switch(mode, by).changed),
            None => {}
        }
        if late {
            warn!("a worker is busy and goes by the new settings later");
            changed.push("a worker is busy and goes by them later".to_owned());
        }
        OrderReport { changed, restart }
    }

    /// Has all workers go by what was read. False: one does not yet.
    async fn publish(&self) -> bool {
        let mut config = self.reading.config.clone();
        descriptors::fit(&mut config);
        self.bound(&config);
        let before = self.app.shared.live();
        let next = Arc::new(LiveSettings::after(&before, &config));
        self.app.shared.l1.audit.show_keys(next.show_keys);
        self.app.shared.l1.memory.store.watermarks().follow(next.audit.is_some());
        self.app.live.send_replace(Arc::clone(&next));
        let all = next.is_taken_by(config.threads.get()).await;
        if next.number != before.number {
            self.app.shared.l1.begin_anew(next.number); // what was filled for longer than is right now
        }
        all
    }

    /// What is not the workers' to go by.
    fn bound(&self, config: &Config) {
        let l1 = &self.app.shared.l1;
        l1.rebound(config.max_staleness, config.largest_value());
        let (l1, size) = (Arc::clone(l1), config.l1_size);
        self.app.control.spawn(async move { l1.resize(size).await }); // in the order in which they were wanted
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
        look.read = mark(3);
        assert!(!look.is_due(mark(3)), "once");
        assert!(!look.is_due(None) && !look.is_due(None), "it is gone");
        assert!(!look.is_due(mark(3)) && !look.is_due(mark(3)), "and back as it was");
        assert!(!look.is_due(mark(1)) && look.is_due(mark(1)));
        let mut look = FileLook::new(mark(1));
        assert!(!look.is_due(mark(2)) && look.is_due(mark(2)), "it has changed since it was first read");
    }
}
