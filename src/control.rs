//! The tasks of the control thread: each is counted, told when to stop, and waited for at the end.
//!
//! Whatever runs beside the workers is started here and nowhere else, so that nothing is left behind. Given by `app` to all who
//! start such tasks, from any thread.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// See the module's head. A clone is another hold on the same.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    runtime: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Control {
    /// For tasks on the present runtime.
    pub(crate) fn here() -> Self {
        Self { runtime: Handle::current(), tasks: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Starts a task, which is dropped where it stands when all are to stop.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let until_stopped = async move { _ = stop.run_until_cancelled(task).await };
        self.tasks.spawn_on(until_stopped, &self.runtime);
    }

    /// Starts a task that is given the sign to stop and ends in its own way, soon.
    pub(crate) fn spawn_ending<T: Future<Output = ()> + Send + 'static>(
        &self,
        task: impl FnOnce(CancellationToken) -> T,
    ) {
        self.tasks.spawn_on(task(self.stop.clone()), &self.runtime);
    }

    /// Starts a task whose answer somebody waits for, and which is dropped where it stands when all are to stop.
    pub(crate) fn spawn_answering<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        self.tasks.spawn_on(self.stop.clone().run_until_cancelled_owned(task), &self.runtime)
    }

    /// Runs `work` on a thread where it may take its time.
    pub(crate) fn spawn_blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.tasks.spawn_blocking_on(work, &self.runtime)
    }

    /// A sign to stop that comes with all others', and can be given alone.
    pub(crate) fn child_token(&self) -> CancellationToken {
        self.stop.child_token()
    }

    /// Tells all tasks to stop and waits until they have, for `longest` at most. How many have not.
    pub(crate) async fn stop(&self, longest: Duration) -> usize {
        self.stop.cancel();
        self.tasks.close();
        let _ = timeout(longest, self.tasks.wait()).await;
        self.tasks.len()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn all_tasks_are_stopped_and_waited_for() {
        let control = Control::here();
        control.spawn(pending());
        control.spawn_ending(|stop| async move { stop.cancelled().await });
        control.clone().spawn(async {});
        assert!(!control.child_token().is_cancelled());
        assert_eq!(control.stop(Duration::from_secs(60)).await, 0);
        assert!(control.child_token().is_cancelled());
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
    }

    #[tokio::test]
    async fn who_does_not_stop_is_counted() {
        let control = Control::here();
        control.spawn_ending(|_| pending());
        assert_eq!(control.stop(Duration::from_millis(1)).await, 1);
    }
}
