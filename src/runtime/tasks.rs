//! Tasks: the only place that spawns. Critical tasks end the process when they end; others are isolated.

use std::future::Future;

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Spawns tasks, counts them and lets a drain wait for them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    cancel: CancellationToken,
    failed: CancellationToken,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the process should stop its tasks.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Cancelled when a critical task has ended: the process cannot do its job any more.
    pub fn failed(&self) -> &CancellationToken {
        &self.failed
    }

    /// Spawns a task whose end harms nobody else: a connection, an answer, a refresh.
    #[allow(clippy::disallowed_methods)] // this is the place
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tokio::spawn(
            self.tracker
                .track_future(future.instrument(tracing::debug_span!("task", name))),
        );
    }

    /// Runs blocking work (disk) on tokio's blocking threads.
    pub fn spawn_blocking<F, R>(&self, work: F) -> tokio::task::JoinHandle<R>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        self.tracker.spawn_blocking(work)
    }

    /// Spawns a task that the process cannot do without: when it ends before [`Tasks::stop`], by return or by
    /// panic, [`Tasks::failed`] fires.
    pub fn spawn_critical<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let end = EndOfCriticalTask {
            name,
            stopping: self.cancel.clone(),
            _failed: self.failed.clone().drop_guard(),
        };
        let stopping = self.cancel.clone();
        self.spawn(name, async move {
            let end = end;
            tokio::select! {
                () = future => {}
                () = stopping.cancelled() => {}
            }
            drop(end);
        });
    }

    /// Asks every task to stop; [`Tasks::wait`] then returns when all have.
    pub fn stop(&self) {
        self.cancel.cancel();
        self.tracker.close();
    }

    /// Waits for the end of all tasks; only after [`Tasks::stop`].
    pub async fn wait(&self) {
        self.tracker.wait().await;
    }

    /// How many tasks are running.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task is running.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }
}

struct EndOfCriticalTask {
    name: &'static str,
    stopping: CancellationToken,
    _failed: DropGuard,
}

impl Drop for EndOfCriticalTask {
    fn drop(&mut self) {
        if !self.stopping.is_cancelled() {
            tracing::error!(
                task = self.name,
                "a task that edgehold cannot do without has ended"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_critical_task_that_panics_fails_the_process() {
        let tasks = Tasks::new();
        tasks.spawn_critical("doomed", async { panic!("as planned") });
        tasks.failed().cancelled().await;
        assert!(!tasks.cancelled().is_cancelled());
    }

    #[tokio::test]
    async fn stop_ends_critical_tasks_and_wait_sees_it() {
        let tasks = Tasks::new();
        tasks.spawn_critical("endless", std::future::pending());
        assert_eq!(tasks.len(), 1);
        tasks.stop();
        tasks.wait().await;
        assert!(tasks.is_empty());
    }
}
