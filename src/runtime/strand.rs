//! A strand: state that is only touched by blocking work, one piece at a time, in the order in which it was posted.
//!
//! It is how disk work keeps its order without ever blocking an async thread or holding a lock across disk IO. An
//! idle strand costs one parked task.

use tokio::sync::{mpsc, oneshot};

use super::tasks::Tasks;

type Work<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A handle to a strand. Cheap to clone; the strand ends with its last handle.
pub struct Strand<S> {
    work: mpsc::UnboundedSender<Work<S>>,
}

impl<S> Clone for Strand<S> {
    fn clone(&self) -> Self {
        Self {
            work: self.work.clone(),
        }
    }
}

/// The process is stopping, or an earlier piece of work panicked: the state is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this part of the cache has stopped")]
pub struct StrandGone;

impl<S: Send + 'static> Strand<S> {
    /// A strand over `state`.
    pub fn spawn(tasks: &Tasks, state: S) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let inner = tasks.clone();
        tasks.spawn("strand", drive(inner, state, receiver));
        Self { work: sender }
    }

    /// A strand whose state is made by blocking work, before anything that is posted.
    pub fn spawn_with(tasks: &Tasks, make: impl FnOnce() -> S + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let inner = tasks.clone();
        tasks.spawn("strand", async move {
            match inner.spawn_blocking(make).await {
                Ok(state) => drive(inner, state, receiver).await,
                Err(error) => {
                    tracing::error!(%error, "disk work failed; this part of the cache is lost until restart")
                }
            }
        });
        Self { work: sender }
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

    /// Queues work behind all that was posted before and waits for its result.
    pub async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> R + Send + 'static,
    ) -> Result<R, StrandGone> {
        let (sender, receiver) = oneshot::channel();
        self.post(move |state| {
            let _asker_gone = sender.send(work(state));
        });
        receiver.await.map_err(|_| StrandGone)
    }
}

async fn drive<S: Send + 'static>(tasks: Tasks, state: S, mut receiver: mpsc::UnboundedReceiver<Work<S>>) {
    let mut state = state;
    while let Some(first) = receiver.recv().await {
        let batch = tasks.spawn_blocking(move || {
            first(&mut state);
            while let Ok(next) = receiver.try_recv() {
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
    }
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

    #[tokio::test]
    async fn work_that_panics_ends_the_strand_and_nothing_else() {
        let strand = Strand::spawn(&Tasks::new(), ());
        strand.post(|()| panic!("as planned"));
        assert_eq!(strand.run(|()| 1).await, Err(StrandGone));
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
}
