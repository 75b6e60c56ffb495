//! What systemd is told of the process where it asks for it (`Type=notify`): that it has started, whether clients are served or why
//! not, that it is to stop.
//!
//! Started does not mean ready: Redis may be away for long, and whoever supervises the process is not to end it for that. One task
//! of the control thread, started by `app`, and nothing where nobody asks.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::{NotifyState, notify};
use tokio::time::{MissedTickBehavior, interval};

use crate::admin::Source;

/// Tells that all is started, and from then on once a second how it stands, where that has changed; never returns. Cancel safe.
pub(super) async fn tell(source: Arc<dyn Source>) {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    say(&[NotifyState::Ready]);
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = String::new();
    loop {
        second.tick().await;
        let state = match source.snapshot().ready {
            Ok(()) => "ready".to_owned(),
            Err(trouble) => format!("not ready: {trouble}"),
        };
        if state != told {
            say(&[NotifyState::Status(&state)]);
            told = state;
        }
    }
}

/// Tells that the process is about to end.
pub(super) fn tell_end() {
    say(&[NotifyState::Stopping]);
}

/// Tells that another process is the service from now on, where the supervisor believes that of this one.
pub(super) fn tell_successor(pid: u32) {
    say(&[NotifyState::MainPid(pid)]);
}

/// Who does not listen misses nothing that crema could mend.
fn say(states: &[NotifyState<'_>]) {
    let _ = notify(states);
}
