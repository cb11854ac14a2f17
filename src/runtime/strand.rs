//! A strand: state that is only touched by blocking work, one piece at a time, in the order in which it was posted.
//!
//! It is how disk work keeps its order without ever blocking an async thread or holding a lock across disk IO. An
//! idle strand costs one parked task. A disk that hangs holds up the strand, and nobody who asks it: see [`PATIENCE`].

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::clock;
use super::tasks::Tasks;

/// How long somebody waits for what he asks a strand. A strand that has been at one piece of work for so long is asked
/// nothing more, or its questions would pile up.
pub const PATIENCE: Duration = Duration::from_secs(4);

type Work<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A handle to a strand. Cheap to clone; the strand ends with its last handle.
pub struct Strand<S> {
    work: mpsc::UnboundedSender<Work<S>>,
    busy: Busy,
}

/// Since when a strand has been at one piece of work, waiting for its turn included.
#[derive(Clone, Default)]
struct Busy(Arc<Mutex<Option<Instant>>>);

impl<S> Clone for Strand<S> {
    fn clone(&self) -> Self {
        Self {
            work: self.work.clone(),
            busy: self.busy.clone(),
        }
    }
}

/// Why a strand gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The process is stopping, or an earlier piece of work panicked: the state is gone.
    #[error("this part of the cache has stopped")]
    Gone,
    /// The disk takes too long.
    #[error("the disk does not answer in time")]
    Late,
}

impl<S: Send + 'static> Strand<S> {
    /// A strand over `state`.
    pub fn spawn(tasks: &Tasks, state: S) -> Self {
        Self::driven(tasks, |tasks, receiver, busy| drive(tasks, state, receiver, busy))
    }

    /// A strand whose state is made by blocking work, before anything that is posted.
    pub fn spawn_with(tasks: &Tasks, make: impl FnOnce() -> S + Send + 'static) -> Self {
        Self::driven(tasks, |tasks, receiver, busy| async move {
            busy.begin();
            match tasks.on_disk(make).await {
                Ok(state) => drive(tasks, state, receiver, busy).await,
                Err(error) => {
                    tracing::error!(%error, "disk work failed; this part of the cache is lost until restart")
                }
            }
        })
    }

    fn driven<F>(
        tasks: &Tasks,
        drive: impl FnOnce(Tasks, mpsc::UnboundedReceiver<Work<S>>, Busy) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (work, receiver) = mpsc::unbounded_channel();
        let busy = Busy::default();
        tasks.spawn("strand", drive(tasks.clone(), receiver, busy.clone()));
        Self { work, busy }
    }

    /// Queues work and does not wait for it. The caller bounds what it queues.
    pub fn post(&self, work: impl FnOnce(&mut S) + Send + 'static) {
        // A strand that has gone has nothing to keep in order.
        let _gone = self.work.send(Box::new(work));
    }

    /// Whether earlier work panicked: nothing that is posted will run any more.
    pub fn is_gone(&self) -> bool {
        self.work.is_closed()
    }

    /// Whether one piece of work takes so long that nothing more should be queued behind it.
    pub fn is_stuck(&self) -> bool {
        let since = *self.busy.0.lock();
        since.is_some_and(|since| clock::now().saturating_duration_since(since) >= PATIENCE)
    }

    /// Queues work behind all that was posted before and waits for its result, at most for [`PATIENCE`].
    ///
    /// # Errors
    /// [`NoAnswer`]: the work may be done later all the same.
    pub async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> R + Send + 'static,
    ) -> Result<R, NoAnswer> {
        if self.is_stuck() {
            return Err(NoAnswer::Late);
        }
        let answer = self.ask(work);
        tokio::time::timeout(PATIENCE, answer)
            .await
            .unwrap_or(Err(NoAnswer::Late))
    }

    /// Waits until all that was posted before is done, however long that takes.
    pub async fn settle(&self) {
        let _gone = self.ask(|_| ()).await;
    }

    async fn ask<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> R + Send + 'static,
    ) -> Result<R, NoAnswer> {
        let (sender, receiver) = oneshot::channel();
        self.post(move |state| {
            let _asker_gone = sender.send(work(state));
        });
        receiver.await.map_err(|_| NoAnswer::Gone)
    }
}

impl Busy {
    fn begin(&self) {
        *self.0.lock() = Some(clock::now());
    }

    fn end(&self) {
        *self.0.lock() = None;
    }
}

async fn drive<S: Send + 'static>(
    tasks: Tasks,
    state: S,
    mut receiver: mpsc::UnboundedReceiver<Work<S>>,
    busy: Busy,
) {
    let mut state = state;
    busy.end();
    while let Some(first) = receiver.recv().await {
        busy.begin();
        let at_work = busy.clone();
        let batch = tasks.on_disk(move || {
            first(&mut state);
            while let Ok(next) = receiver.try_recv() {
                at_work.begin();
                next(&mut state);
            }
            (state, receiver)
        });
        match batch.await {
            Ok(kept) => (state, receiver) = kept,
            Err(error) => {
                tracing::error!(%error, "disk work failed; this part of the cache is lost until restart");
                return;
            }
        }
        busy.end();
    }
    // Closing a file may touch the disk.
    let _panicked = tasks.on_disk(move || drop(state)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_runs_in_the_order_it_was_posted() {
        let strand = Strand::spawn(&Tasks::new(), Vec::new());
        for n in 0..100 {
            strand.post(move |seen: &mut Vec<i32>| seen.push(n));
        }
        let seen = strand.run(|seen| seen.clone()).await.unwrap();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
    }

    /// The clock stands still while work is under way: to say where it panicked may take long.
    #[tokio::test(start_paused = true)]
    async fn work_that_panics_ends_the_strand_and_nothing_else() {
        let strand = Strand::spawn(&Tasks::new(), ());
        strand.post(|()| panic!("as planned"));
        assert_eq!(strand.run(|()| 1).await, Err(NoAnswer::Gone));
        assert!(strand.is_gone());
    }

    #[tokio::test]
    async fn the_strand_ends_with_its_last_handle() {
        let tasks = Tasks::new();
        let strand = Strand::spawn(&tasks, 7);
        assert_eq!(strand.run(|n| *n).await, Ok(7));
        drop(strand);
        tasks.stop();
        tasks.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_hangs_holds_up_nobody_who_asks() {
        let tasks = Tasks::new();
        let strand = Strand::spawn(&tasks, 7);
        let (release, hang) = std::sync::mpsc::channel::<()>();
        strand.post(move |_: &mut i32| {
            let _released = hang.recv();
        });
        // The clock stands still while work is under way.
        let time = async {
            while strand.busy.0.lock().is_none() {
                tokio::task::yield_now().await;
            }
            tokio::time::advance(PATIENCE).await;
        };
        let (first, ()) = tokio::join!(strand.run(|n| *n), time);
        assert_eq!(first, Err(NoAnswer::Late));
        assert!(strand.is_stuck());
        assert_eq!(strand.run(|n| *n).await, Err(NoAnswer::Late), "at once");
        drop(release);
        strand.settle().await;
        assert_eq!(strand.run(|n| *n).await, Ok(7));
    }
}
