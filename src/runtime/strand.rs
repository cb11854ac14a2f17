//! A strand: state that is only touched by blocking work, one piece at a time, in the order in which it was posted.
//!
//! It is how disk work keeps its order without ever blocking an async thread or holding a lock across disk IO. An
//! idle strand costs one parked task. A disk that hangs holds up the strand, and nobody who asks it: see [`ANSWER_TIMEOUT`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::clock;
use super::tasks::Tasks;

/// How long somebody waits for what he asks a strand. A strand that has been at one piece of work for so long is asked
/// nothing more, or its questions would pile up.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// For so long work that nobody waits for may lie, and so much of it, so that one thread is woken for all of it.
const GATHER: Duration = Duration::from_millis(5);
const GATHERED: usize = 64;

type Work<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A handle to a strand. Cheap to clone; the strand ends with its last handle.
pub struct Strand<S> {
    work: mpsc::UnboundedSender<(Work<S>, Urgency)>,
    load: Arc<Load>,
}

/// Whether somebody waits for a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Urgency {
    Now,
    Soon,
}

/// What a strand and its handles know of its work.
#[derive(Default)]
struct Load {
    /// Since when it has been at one piece of work, waiting for its turn included.
    busy: Mutex<Option<Instant>>,
    /// Pieces that lie until more has come.
    lying: AtomicUsize,
    /// They need lie no longer.
    enough: Notify,
}

impl<S> Clone for Strand<S> {
    fn clone(&self) -> Self {
        Self {
            work: self.work.clone(),
            load: Arc::clone(&self.load),
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
        Self::driven(tasks, |tasks, receiver, load| drive(tasks, state, receiver, load))
    }

    /// A strand whose state is made by blocking work, before anything that is posted.
    pub fn spawn_with(tasks: &Tasks, make: impl FnOnce() -> S + Send + 'static) -> Self {
        Self::driven(tasks, |tasks, receiver, load| async move {
            load.begin();
            match tasks.on_disk(make).await {
                Ok(state) => drive(tasks, state, receiver, load).await,
                Err(error) => {
                    tracing::error!(%error, "disk work failed; this part of the cache is lost until restart")
                }
            }
        })
    }

    fn driven<F>(tasks: &Tasks, drive: impl FnOnce(Tasks, Receiver<S>, Arc<Load>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (work, receiver) = mpsc::unbounded_channel();
        let load = Arc::<Load>::default();
        tasks.spawn("strand", drive(tasks.clone(), receiver, Arc::clone(&load)));
        Self { work, load }
    }

    /// Queues work and does not wait for it. The caller bounds what it queues.
    pub fn post(&self, work: impl FnOnce(&mut S) + Send + 'static) {
        // A strand that has gone has nothing to keep in order.
        let _gone = self.work.send((Box::new(work), Urgency::Now));
        self.load.enough.notify_one();
    }

    /// Queues work that nobody waits for: it may lie for some milliseconds, until more has come or is posted that cannot wait.
    pub fn post_soon(&self, work: impl FnOnce(&mut S) + Send + 'static) {
        let _gone = self.work.send((Box::new(work), Urgency::Soon));
        self.load.one_more();
    }

    /// Whether earlier work panicked: nothing that is posted will run any more.
    pub fn is_gone(&self) -> bool {
        self.work.is_closed()
    }

    /// Whether one piece of work takes so long that nothing more should be queued behind it.
    pub fn is_stuck(&self) -> bool {
        let since = *self.load.busy.lock();
        since.is_some_and(|since| clock::now().saturating_duration_since(since) >= ANSWER_TIMEOUT)
    }

    /// Queues work behind all that was posted before and waits for its result, at most for [`ANSWER_TIMEOUT`].
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
        tokio::time::timeout(ANSWER_TIMEOUT, answer)
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

impl Load {
    fn begin(&self) {
        *self.busy.lock() = Some(clock::now());
    }

    fn end(&self) {
        *self.busy.lock() = None;
    }

    /// One more piece lies until more has come.
    fn one_more(&self) {
        if self.lying.fetch_add(1, Ordering::Relaxed) + 1 == GATHERED {
            self.enough.notify_one();
        }
    }

    /// Waits for more, unless it is enough or something comes that cannot wait.
    async fn gather(&self) {
        tokio::select! {
            () = self.enough.notified() => {}
            () = tokio::time::sleep(GATHER) => {}
        }
        self.lying.store(0, Ordering::Relaxed);
    }
}

type Receiver<S> = mpsc::UnboundedReceiver<(Work<S>, Urgency)>;

async fn drive<S: Send + 'static>(tasks: Tasks, state: S, mut receiver: Receiver<S>, load: Arc<Load>) {
    let mut state = state;
    load.end();
    while let Some((first, urgency)) = receiver.recv().await {
        if urgency == Urgency::Soon {
            load.gather().await;
        }
        load.begin();
        let at_work = Arc::clone(&load);
        let batch = tasks.on_disk(move || {
            first(&mut state);
            while let Ok((next, _)) = receiver.try_recv() {
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
        load.end();
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

    #[tokio::test(start_paused = true)]
    async fn work_that_nobody_waits_for_lies_until_there_is_enough_or_something_urgent_comes() {
        let strand = Strand::spawn(&Tasks::new(), Vec::new());
        let began = clock::now();
        let soon = |n: usize| strand.post_soon(move |seen: &mut Vec<_>| seen.push((n, clock::now() - began)));
        soon(0);
        // It lies: time goes on only when there is nothing to do.
        tokio::time::sleep(GATHER * 2).await;
        soon(1);
        let seen = strand.run(|seen| seen.clone()).await.unwrap();
        assert_eq!(
            seen,
            [(0, GATHER), (1, GATHER * 2)],
            "in order, the second at once"
        );
        (0..GATHERED).for_each(soon);
        while strand.load.lying.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(clock::now() - began, GATHER * 2, "it is enough");
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
            while strand.load.busy.lock().is_none() {
                tokio::task::yield_now().await;
            }
            tokio::time::advance(ANSWER_TIMEOUT).await;
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
