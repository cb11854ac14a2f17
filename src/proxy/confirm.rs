//! Finds out whether a 403 lasts. A 403 immediately withdraws what its caller had read. But an apiserver that
//! has just started answers kubelets with 403 for some seconds, whatever their pods use, until its node
//! authorizer knows the pods; and the client may not ask again before the link is lost. So edgehold asks
//! again by itself, with the client's own credential, and the answer is kept as if the client had asked.
//!
//! Invariant: between a 403 and the next answer with content, nobody is told anything of it. Nothing is asked
//! if nothing was withdrawn: a client that keeps asking in vain costs no more than before.

use std::time::Duration;

use http::{StatusCode, response};

use crate::cache::Answer;
use crate::runtime::author::is_from_apiserver;
use crate::runtime::jitter;
use crate::runtime::shares::Share;
use crate::upstream::LinkState;

use super::background_read::{BackgroundRead, drained};
use super::exchange::Exchange;

/// Seconds before each attempt, jittered up to a quarter more. An authorizer that has not caught up by then
/// is not about to.
const PAUSES: [u64; 5] = [1, 2, 4, 8, 15];

/// How long a client's 403 is delayed to find out whether it withdraws anything.
const LOOK: Duration = Duration::from_millis(100);

/// A 403 that withdraws something.
pub(super) struct Doubt {
    read: BackgroundRead,
    _one: Share,
}

impl Doubt {
    /// `Some` if this answer withdraws something. Its body has not been read yet, which does it.
    pub(super) async fn of(exchange: &Exchange, head: &response::Parts) -> Option<Self> {
        if head.status != StatusCode::FORBIDDEN || !is_from_apiserver(&head.headers, &head.extensions) {
            return None;
        }
        let read = BackgroundRead::of(exchange)?;
        let one = exchange.proxy.confirmations.try_take(&read.query.owner, 1)?;
        let is_kept = tokio::time::timeout(LOOK, is_kept(exchange, &read)).await;
        is_kept.unwrap_or(false).then_some(Self { read, _one: one })
    }

    /// Asks until there is another answer, or until every attempt got 403.
    pub(super) fn settle(self, exchange: Exchange) {
        let tasks = exchange.proxy.tasks.clone();
        let stopping = tasks.cancelled().clone();
        tasks.spawn("confirm", async move {
            tokio::select! {
                () = self.asked(&exchange) => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    async fn asked(&self, exchange: &Exchange) {
        for pause in PAUSES {
            let pause = Duration::from_secs(pause);
            tokio::time::sleep(pause + jitter::below(pause / 4)).await;
            if exchange.proxy.link.state() == LinkState::Offline || is_kept(exchange, &self.read).await {
                return;
            }
            let recording = exchange.proxy.cache.record(&self.read.query);
            let Some(response) = self.read.ask(exchange).await else {
                continue;
            };
            let (head, body) = response.into_parts();
            exchange.noted(&head).await;
            drained(recording.answered(&head, body)).await;
            if head.status != StatusCode::FORBIDDEN {
                let path = exchange.head.uri.path();
                return tracing::info!(path, status = head.status.as_u16(), "a 403 did not last");
            }
        }
    }
}

/// Whether the cache can answer it.
async fn is_kept(exchange: &Exchange, read: &BackgroundRead) -> bool {
    matches!(exchange.proxy.cache.answer(&read.query).await, Answer::Found(_))
}
