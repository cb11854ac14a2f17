//! CertificateSigningRequests: only an apiserver may refuse them.
//!
//! A kubelet whose certificate has expired exits when it gets Unauthorized, Forbidden or NotFound, because it
//! then believes that the apiserver is healthy and has rejected it (wire contract 7.4). If anything but an
//! apiserver answers so (this proxy, or a gateway on the way), kubelet gets 503 instead.

use http::{Response, StatusCode};

use crate::kube::request::RequestInfo;
use crate::kube::status::Status;
use crate::runtime::author::is_from_apiserver;
use crate::runtime::body::Body;

use super::respond::{Form, Ours, refusal};

/// Guards the answer to one request that creates or reads a CertificateSigningRequest.
pub(super) struct CsrGuard {
    form: Form,
}

impl CsrGuard {
    /// `None` for requests of any other kind.
    pub(super) fn of(info: &RequestInfo, form: &Form) -> Option<Self> {
        match info {
            RequestInfo::Resource(resource) if resource.is_certificate_request() => {
                Some(Self { form: form.clone() })
            }
            _ => None,
        }
    }

    /// The answer that the client may get.
    pub(super) fn apply(self, response: Response<Body>) -> Response<Body> {
        let ends_kubelet = matches!(
            response.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
        );
        if !ends_kubelet {
            return response;
        }
        let message = match response.extensions().get::<Ours>() {
            Some(Ours(message)) => message.clone(),
            None if is_from_apiserver(response.headers(), response.extensions()) => return response,
            None => format!(
                "edgehold: something on the way to the cloud, and no apiserver, answered {} to this certificate request",
                response.status().as_u16()
            ),
        };
        tracing::debug!(message, "no apiserver refused a certificate request: it gets 503");
        refusal(&Status::unavailable(message), &self.form)
    }
}
