//! Requests for certificates: nothing but an apiserver may say no to them.
//!
//! Owns what an answer to a CertificateSigningRequest may be. A kubelet whose certificate has run out ends itself when it
//! is told Unauthorized, Forbidden or NotFound, for it then takes the apiserver for healthy and itself for lost (wire
//! contract 7.4). Whatever says so without being an apiserver (this proxy, or a gateway on the way) becomes 503.

use http::{Response, StatusCode};

use crate::kube::request::RequestInfo;
use crate::kube::status::Status;
use crate::runtime::author::is_from_apiserver;
use crate::runtime::body::Body;

use super::respond::{Form, Ours, refusal};

/// A request for a certificate, or a look at one.
pub(super) struct Signing {
    form: Form,
}

impl Signing {
    /// `None` for requests of any other kind.
    pub(super) fn asked(info: &RequestInfo, form: &Form) -> Option<Self> {
        match info {
            RequestInfo::Resource(resource) if resource.is_certificate_request() => {
                Some(Self { form: form.clone() })
            }
            _ => None,
        }
    }

    /// The answer as the client may have it.
    pub(super) fn answered(self, response: Response<Body>) -> Response<Body> {
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
