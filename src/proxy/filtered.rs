//! Applies the filters, to live and cached answers alike (`filter/` says what they change).
//!
//! This is the outermost stage: recording, the cache and held watches know nothing of it, so what is stored
//! is what upstream said.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;

use crate::filter::{Kind, Outcome, Rewrite, Rewriter};
use crate::identity::PrincipalKind;
use crate::kube::media::Encoding;
use crate::kube::request::{RequestInfo, ResourceRequest};
use crate::kube::status::Status;
use crate::runtime::body::{Body, BodyError};

use super::caller::{Caller, Identity};
use super::context::Proxy;
use super::exchange::Exchange;
use super::metrics::ProxyMetrics;

/// How the answer to one request is rewritten.
pub(super) struct Filtered {
    rewrite: Rewrite,
    request: Arc<ResourceRequest>,
    metrics: ProxyMetrics,
}

impl Exchange {
    /// How the answer is rewritten. Prepares the request for it: the answer must be complete and not
    /// compressed.
    ///
    /// # Errors
    /// The refusal of a write that would send rewritten content back upstream.
    pub(super) fn filtered(&mut self) -> Result<Option<Filtered>, Status> {
        let RequestInfo::Resource(request) = &self.info else {
            return Ok(None);
        };
        let filters = &self.proxy.filters;
        let user = || self.caller.user(&self.proxy);
        if filters.would_echo(request, user) {
            return Err(Status::forbidden(
                "edgehold: this client sees default/kubernetes with the node's own address and must not write that \
                 back; use a client that is not named in inCluster",
            ));
        }
        let Some(rewrite) = filters.of_read(request, user) else {
            return Ok(None);
        };
        let request = Arc::clone(request);
        for name in [header::ACCEPT_ENCODING, header::RANGE, header::IF_RANGE] {
            self.head.headers.remove(name);
        }
        Ok(Some(Filtered {
            rewrite,
            request,
            metrics: self.proxy.metrics.clone(),
        }))
    }
}

impl Caller {
    /// The user name as kube-apiserver knows it. A token that it has not seen yet may claim any name: a liar
    /// gets the answer that upstream gives to that token, rewritten.
    fn user(&self, proxy: &Proxy) -> Option<String> {
        let principal = match &self.identity {
            Identity::Known(principal) => principal.clone(),
            Identity::Token(token) => proxy.tokens.candidate(token),
            Identity::Foreign => return None,
        };
        match principal.kind() {
            PrincipalKind::Certificate { common_name, .. } => Some(common_name.clone()),
            PrincipalKind::ServiceAccount { namespace, name, .. } => {
                Some(format!("system:serviceaccount:{namespace}:{name}"))
            }
            // Known only after the first answer: some answers would be rewritten and others not.
            PrincipalKind::User { .. } | PrincipalKind::Token { .. } | PrincipalKind::Anonymous => None,
        }
    }
}

impl Filtered {
    /// The answer as the client gets it.
    pub(super) fn apply(self, response: Response<Body>) -> Response<Body> {
        let (mut head, body) = response.into_parts();
        let text = |name| {
            let value = head.headers.get(name);
            value.and_then(|value: &header::HeaderValue| value.to_str().ok())
        };
        let encoding = text(header::CONTENT_TYPE).and_then(Encoding::of_content_type);
        let (StatusCode::OK, Some(encoding)) = (head.status, encoding) else {
            return Response::from_parts(head, body);
        };
        if text(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            tracing::warn!("an answer that was not to be compressed is, and passed on without our address");
            self.metrics.filtered(self.rewrite.kind(), Outcome::Unreadable);
            return Response::from_parts(head, body);
        }
        let Some(rewriter) = self.rewrite.rewriter(&self.request, encoding) else {
            return Response::from_parts(head, body);
        };
        // They describe the answer before it was rewritten.
        head.headers.remove(header::CONTENT_LENGTH);
        head.headers.remove(header::ETAG);
        let body = FilteredBody {
            inner: Some(body),
            rewriter,
            kind: self.rewrite.kind(),
            metrics: self.metrics,
            trailers: None,
        };
        Response::from_parts(head, body.boxed_unsync())
    }
}

struct FilteredBody {
    /// `None` once it has ended.
    inner: Option<Body>,
    rewriter: Rewriter,
    kind: Kind,
    metrics: ProxyMetrics,
    trailers: Option<HeaderMap>,
}

impl HttpBody for FilteredBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            if let Some(piece) = this.rewriter.take() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let Some(inner) = &mut this.inner else {
                return Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            };
            let done = match ready!(Pin::new(inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rewriter.push(data),
                    Err(frame) => {
                        this.trailers = frame.into_trailers().ok();
                        Ok(())
                    }
                },
                Some(Err(error)) => {
                    this.inner = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    this.inner = None;
                    this.rewriter.finish()
                }
            };
            for outcome in this.rewriter.seen() {
                this.metrics.filtered(this.kind, outcome);
            }
            if let Err(error) = done {
                this.inner = None;
                return Poll::Ready(Some(Err(BodyError::Aborted(error.to_string()))));
            }
        }
    }
}
