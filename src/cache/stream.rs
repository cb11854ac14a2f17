//! Bodies that are read from disk piece by piece: no thread is held while a client is slow.

use bytes::Bytes;

use crate::runtime::body::{self, Body, Feeder, ReaderGone};
use crate::runtime::strand::ANSWER_TIMEOUT;
use crate::runtime::tasks::Tasks;

/// How much is read and sent at a time.
pub(super) const BATCH: usize = 64 * 1024;

/// Something that is read in batches on blocking threads.
pub(super) trait Batches: Send + 'static {
    /// The next bytes, about [`BATCH`]; `None` at the end. An error aborts the body.
    fn next_batch(&mut self) -> Option<Result<Bytes, String>>;
}

/// Why a source was not sent to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    ReaderGone,
    Damaged(String),
}

/// Sends all batches to an open body.
pub(super) async fn send_all(batches: impl Batches, feeder: &Feeder, tasks: &Tasks) -> Result<(), Unsent> {
    let mut batches = batches;
    loop {
        let read = tasks.on_disk(move || {
            let batch = batches.next_batch();
            (batches, batch)
        });
        let (rest, batch) = match tokio::time::timeout(ANSWER_TIMEOUT, read).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) => return Err(Unsent::Damaged("reading panicked".into())),
            Err(_) => return Err(Unsent::Damaged("the disk does not answer".into())),
        };
        batches = rest;
        match batch {
            None => return Ok(()),
            Some(Ok(bytes)) => feeder
                .send(bytes)
                .await
                .map_err(|ReaderGone| Unsent::ReaderGone)?,
            Some(Err(error)) => return Err(Unsent::Damaged(error)),
        }
    }
}

/// A body of all batches; `length` becomes its Content-Length.
pub(super) fn body_of(batches: impl Batches, length: u64, tasks: &Tasks) -> Body {
    let (feeder, body) = body::fed(1, Some(length));
    let own = tasks.clone();
    tasks.spawn("cached-body", async move {
        match send_all(batches, &feeder, &own).await {
            Ok(()) => feeder.finish().await,
            Err(Unsent::ReaderGone) => {}
            // The feeder is dropped unfinished, which aborts the body.
            Err(Unsent::Damaged(error)) => {
                tracing::warn!(%error, "a cached answer could not be read to its end")
            }
        }
    });
    body
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    struct Counting(u8, Option<u8>);

    impl Batches for Counting {
        fn next_batch(&mut self) -> Option<Result<Bytes, String>> {
            self.0 += 1;
            match self.1 {
                Some(bad) if bad == self.0 => Some(Err("bad sector".into())),
                _ => (self.0 <= 3).then(|| Ok(Bytes::copy_from_slice(&[self.0]))),
            }
        }
    }

    #[tokio::test]
    async fn batches_arrive_in_order_and_end_cleanly() {
        let body = body_of(Counting(0, None), 3, &Tasks::new());
        assert_eq!(body.collect().await.unwrap().to_bytes().as_ref(), [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_read_error_aborts_the_body() {
        let body = body_of(Counting(0, Some(2)), 3, &Tasks::new());
        assert!(body.collect().await.is_err());
    }
}
