//! Opens watches upstream: the one place that does, for new watches and for held ones that go on.
//!
//! Content coding ends here: frames, view, journal and client get plain bytes (wire contract 10).

use std::pin::Pin;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{Response, StatusCode, header, response};
use hyper::body::Incoming;

use crate::cache::{Query, Recording, WatchRecording};
use crate::kube::media::Encoding;
use crate::runtime::body::{self, Body};
use crate::upstream::{Failure, LinkState, Origin, Purpose, RetryPolicy, UpstreamError};

use super::super::exchange::Exchange;
use super::super::gzip;
use super::super::headers::strip_response;
use super::super::refuse::gateway_answered;

/// Upstream's side of a live watch.
pub(super) struct Live {
    pub(super) body: Body,
    pub(super) recording: Option<WatchRecording>,
    /// Which server and connection it comes from.
    pub(super) origin: Option<Origin>,
}

/// What upstream made of a watch.
pub(super) enum Opened {
    /// A stream of events.
    Live(Box<Answered>),
    /// Any other answer, as it came.
    Refused(response::Parts, Body),
    /// No answer has come, and no server answers its probe. The answer may still come.
    Late,
    /// No answer, or one that cannot be read.
    Failed(UpstreamError),
}

/// The answer to a watch that streams.
pub(super) struct Answered {
    /// As delivered to the client.
    pub(super) head: response::Parts,
    pub(super) encoding: Encoding,
    pub(super) live: Live,
}

type Sending<'a> = Pin<Box<dyn Future<Output = Result<Response<Body>, UpstreamError>> + Send + 'a>>;

/// A watch that is being opened. Dropping it cancels the request.
pub(super) struct Opening<'a> {
    exchange: &'a Exchange,
    policy: Arc<RetryPolicy>,
    sending: Sending<'a>,
    /// The path and query, where they are not the client's.
    target: Option<PathAndQuery>,
    query: Option<Query>,
    recording: Option<WatchRecording>,
    refusal: Option<Recording>,
}

impl<'a> Opening<'a> {
    /// The watch that the client asks for.
    pub(super) fn asked(exchange: &'a Exchange, body: Incoming) -> Self {
        let policy = Arc::new(exchange.read_policy(&body, Purpose::Watch));
        let own = Arc::clone(&policy);
        // What waits for the head must not take room in every stream.
        let sending = Box::pin(async move { exchange.send_read(body, &own).await });
        Self::begin(exchange, (None, exchange.recorded_query()), policy, sending)
    }

    /// The same watch with another path and query.
    pub(super) fn at(exchange: &'a Exchange, target: PathAndQuery) -> Self {
        let (principal, holder) = exchange.caller.now(&exchange.proxy);
        let query = principal.and_then(|principal| exchange.query_for(&target, &principal));
        let policy = RetryPolicy::read(Purpose::Watch)
            .on_behalf_of(holder)
            .for_answers(exchange.answers());
        let policy = Arc::new(policy);
        let own = Arc::clone(&policy);
        let request = exchange.request_for(Some(target.clone()), body::empty());
        let sending = Box::pin(async move { exchange.send(request, &own).await });
        Self::begin(exchange, (Some(target), query), policy, sending)
    }

    /// The view learns of it before anything is sent: the future has not been polled yet.
    fn begin(
        exchange: &'a Exchange,
        (target, query): (Option<PathAndQuery>, Option<Query>),
        policy: Arc<RetryPolicy>,
        sending: Sending<'a>,
    ) -> Self {
        let cache = &exchange.proxy.cache;
        Self {
            exchange,
            policy,
            sending,
            target,
            recording: query.as_ref().and_then(|query| cache.record_watch(query)),
            refusal: query.as_ref().map(|query| cache.record(query)),
            query,
        }
    }

    /// Waits for the answer as long as a server answers its probes. May be called again after
    /// [`Opened::Late`].
    pub(super) async fn in_time(&mut self) -> Opened {
        let sent = tokio::select! {
            biased;
            sent = self.sending.as_mut() => sent,
            never = self.exchange.probing(&self.policy) => match never {},
            () = self.exchange.proxy.link.silent() => return Opened::Late,
        };
        self.answered(sent).await
    }

    /// Waits for the answer until the cloud is known to be unreachable.
    pub(super) async fn at_last(mut self) -> Opened {
        let sent = tokio::select! {
            biased;
            sent = self.sending.as_mut() => sent,
            () = self.exchange.proxy.link.reaches(LinkState::Offline) => return Opened::Late,
        };
        self.answered(sent).await
    }

    /// If the caller was not known before the answer, it is now.
    fn accepted(&mut self) {
        if self.query.is_none() {
            let accepted = self.exchange.caller.accepted_as(&self.exchange.proxy);
            self.query = accepted.and_then(|principal| match &self.target {
                Some(target) => self.exchange.query_for(target, &principal),
                None => self.exchange.query(&principal),
            });
        }
    }

    async fn answered(&mut self, sent: Result<Response<Body>, UpstreamError>) -> Opened {
        let (mut head, body) = match sent {
            Ok(response) => response.into_parts(),
            Err(error) => return Opened::Failed(error),
        };
        let (exchange, cache) = (self.exchange, &self.exchange.proxy.cache);
        exchange.noted(&head).await;
        if exchange.is_foreign(head.status, &head.headers) {
            return Opened::Failed(gateway_answered(head.status));
        }
        self.accepted();
        let content_type = head.headers.get(header::CONTENT_TYPE);
        let content_type = content_type
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let encoding = Encoding::of_content_type(&content_type).filter(|e| *e != Encoding::Yaml);
        let (StatusCode::OK, Some(encoding)) = (head.status, encoding) else {
            let late = || self.query.as_ref().map(|query| cache.record_late(query));
            let body = match self.refusal.take().or_else(late) {
                Some(refusal) if head.status != StatusCode::OK => refusal.answered(&head, body),
                _ => body,
            };
            return Opened::Refused(head, body);
        };
        let body = match gzip::plain(&mut head.headers, body, &exchange.proxy.metrics) {
            Ok(body) => body,
            Err(error) => {
                return Opened::Failed(UpstreamError::maybe_sent(Failure::Broken, error.to_string()));
            }
        };
        strip_response(&mut head.headers);
        let recording = self.query.as_ref().and_then(|query| {
            let recording = self.recording.take();
            cache.confirm_watch(query, recording, &content_type)
        });
        let live = Live {
            body,
            recording,
            origin: head.extensions.remove(),
        };
        Opened::Live(Box::new(Answered { head, encoding, live }))
    }
}
