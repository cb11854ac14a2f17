//! When a recording began, and where the work of one is done.

use crate::cache::source::Source;
use crate::cache::tee::Handover;
use crate::cache::{Cache, UnderWay};

/// Answers to a GET beyond this are not kept; etcd allows objects of 1.5 MiB.
pub(super) const LARGEST_OBJECT: usize = 16 << 20;

/// When a recording was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Before its request was sent.
    Foreseen,
    /// When its answer had begun to arrive: it proves nothing of the order in which things happened.
    Late,
}

/// Receives an answer of `owner` on a blocking thread. One that is still arriving keeps its thread for as long as that
/// takes. The work holds on to what says that it is under way.
pub(super) fn receive(
    cache: &Cache,
    owner: &str,
    handover: Handover,
    work: impl FnOnce(Source, UnderWay) + Send + 'static,
) {
    let is_whole = matches!(handover, Handover::Whole(_));
    let under_way = if is_whole {
        cache.under_way(owner)
    } else {
        cache.under_way_slowly(owner)
    };
    let Some(under_way) = under_way else { return };
    let source = cache.source(handover);
    if is_whole {
        on_disk(cache, move || work(source, under_way));
    } else {
        cache.tasks().spawn_blocking(move || work(source, under_way));
    }
}

/// Has disk work done when it is its turn, and does not wait for it.
pub(super) fn on_disk(cache: &Cache, work: impl FnOnce() + Send + 'static) {
    let tasks = cache.tasks().clone();
    cache.tasks().spawn("recording", async move {
        if let Err(error) = tasks.on_disk(work).await {
            tracing::error!(%error, "recording an answer failed");
        }
    });
}
