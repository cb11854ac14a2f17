//! Requests that nobody waits for any more.
//!
//! A server goes on with a request for a while after it has been told that nobody wants the answer, and ends the connection of
//! whoever begins and gives up more requests than it can end (kube-apiserver: ENHANCE_YOUR_CALM beyond four times the streams of a
//! connection). Its connections here are shared. So what was given up is waited for all the same, and its stream and its caller's
//! share are taken until then.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::runtime::tasks::Tasks;

/// What takes longer is told to the server after all.
const LONGEST: Duration = Duration::from_secs(10);

/// Goes on by itself when it is dropped before its end.
pub(super) struct ToTheEnd<F: Future + Send + 'static> {
    future: Option<Pin<Box<F>>>,
    tasks: Tasks,
}

impl<F: Future + Send + 'static> ToTheEnd<F> {
    pub(super) fn new(future: F, tasks: &Tasks) -> Self {
        Self {
            future: Some(Box::pin(future)),
            tasks: tasks.clone(),
        }
    }
}

impl<F: Future + Send + 'static> Future for ToTheEnd<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = self.future.as_mut() else {
            return Poll::Pending;
        };
        let polled = future.as_mut().poll(cx);
        if polled.is_ready() {
            self.future = None;
        }
        polled
    }
}

impl<F: Future + Send + 'static> Drop for ToTheEnd<F> {
    fn drop(&mut self) {
        let Some(future) = self.future.take() else {
            return;
        };
        let stopping = self.tasks.cancelled().clone();
        // At the end of the process there is nobody to go on.
        if stopping.is_cancelled() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        self.tasks.spawn("abandoned", async move {
            tokio::select! {
                _ = tokio::time::timeout(LONGEST, future) => {}
                () = stopping.cancelled() => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    /// Ends when told to; what it holds is gone with it.
    async fn work(ending: oneshot::Receiver<()>, _held: oneshot::Sender<()>) -> u8 {
        let _told = ending.await;
        1
    }

    macro_rules! begin {
        ($tasks:expr) => {{
            let ((end, ending), (held, gone)) = (oneshot::channel(), oneshot::channel());
            (ToTheEnd::new(work(ending, held), $tasks), end, gone)
        }};
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_up_goes_on_to_its_end_but_not_for_ever() {
        let tasks = Tasks::new();
        let (waited_for, end, _gone) = begin!(&tasks);
        end.send(()).unwrap();
        assert_eq!(waited_for.await, 1);
        assert!(tasks.is_empty(), "there is nothing left of it");

        let (given_up, end, mut gone) = begin!(&tasks);
        drop(given_up);
        tokio::time::sleep(LONGEST / 2).await;
        assert!(
            gone.try_recv()
                .is_err_and(|error| error == oneshot::error::TryRecvError::Empty)
        );
        end.send(()).unwrap();
        assert!(gone.await.is_err(), "it has ended");

        let (given_up, _end, gone) = begin!(&tasks);
        drop(given_up);
        let before = tokio::time::Instant::now();
        assert!(gone.await.is_err());
        assert_eq!(before.elapsed(), LONGEST);
    }

    #[tokio::test]
    async fn at_the_end_of_the_process_nothing_goes_on() {
        let tasks = Tasks::new();
        let (given_up, _end, gone) = begin!(&tasks);
        drop(given_up);
        let (later, _end_too, gone_too) = begin!(&tasks);
        tasks.stop();
        drop(later);
        assert!(gone.await.is_err() && gone_too.await.is_err());
        tasks.wait().await;
    }
}
