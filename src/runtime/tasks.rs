//! Tasks: the only place that spawns. Critical tasks end the process when they end; others are isolated.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Pieces of disk work at once. Each has a thread, with a stack and a heap of its own: dozens at once gain nothing on one
/// disk, and their threads stay.
const AT_ONCE: usize = 8;

/// Work that takes longer gives its turn to the next, so that one file on a disk that hangs does not hold up the others;
/// so many may.
const HELD_UP: Duration = Duration::from_secs(1);
const HELD_UP_AT_ONCE: usize = 56;

/// Spawns tasks, counts them and lets a drain wait for them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    cancel: CancellationToken,
    failed: CancellationToken,
    turns: Arc<Semaphore>,
    held_up: Arc<Semaphore>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            tracker: TaskTracker::new(),
            cancel: CancellationToken::new(),
            failed: CancellationToken::new(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            held_up: Arc::new(Semaphore::new(HELD_UP_AT_ONCE)),
        }
    }
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

    /// Runs blocking work when it is its turn, and gives its result.
    ///
    /// # Errors
    /// It panicked.
    pub async fn on_disk<F, R>(&self, work: F) -> Result<R, JoinError>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        // Never closed. Kept by the work: whoever waits for it may give up.
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok();
        let turn = Arc::new(Mutex::new(turn));
        let kept = Arc::clone(&turn);
        let mut working = self.spawn_blocking(move || {
            let done = work();
            drop(kept.lock().take());
            done
        });
        if let Ok(done) = tokio::time::timeout(HELD_UP, &mut working).await {
            return done;
        }
        if let Ok(held_up) = Arc::clone(&self.held_up).try_acquire_owned() {
            turn.lock().replace(held_up);
        }
        // What is left in there goes with the work.
        drop(turn);
        working.await
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

    #[tokio::test(start_paused = true)]
    async fn disk_work_has_few_threads_and_what_hangs_does_not_hold_up_the_rest() {
        let tasks = Tasks::new();
        let (release, hang) = std::sync::mpsc::channel::<()>();
        let hang = Arc::new(std::sync::Mutex::new(hang));
        let started = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        for _ in 0..2 * AT_ONCE {
            let (hang, started, own) = (Arc::clone(&hang), Arc::clone(&started), tasks.clone());
            tasks.spawn("hanging", async move {
                let work = move || {
                    started.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    let _released = hang.lock().map(|hang| hang.recv());
                };
                let _panicked = own.on_disk(work).await;
            });
        }
        let begun = |count: usize| {
            let started = Arc::clone(&started);
            async move {
                while started.load(std::sync::atomic::Ordering::SeqCst) < count {
                    tokio::task::yield_now().await;
                }
            }
        };
        let time = async {
            // The clock stands still while work is under way.
            begun(AT_ONCE).await;
            assert_eq!(started.load(std::sync::atomic::Ordering::SeqCst), AT_ONCE);
            tokio::time::advance(HELD_UP).await;
            begun(2 * AT_ONCE).await;
            tokio::time::advance(HELD_UP).await;
        };
        let (done, ()) = tokio::join!(tasks.on_disk(|| 1), time);
        assert_eq!(done.ok(), Some(1), "its turn comes");
        drop(release);
        tasks.stop();
        tasks.wait().await;
        assert_eq!(started.load(std::sync::atomic::Ordering::SeqCst), 2 * AT_ONCE);
    }
}
