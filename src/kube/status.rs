//! The one place that makes a Kubernetes `Status` (wire contract, section 6).
//!
//! The text a client reads says what happened and what it may do; the log says why. Encoding it is `wire`'s.

use std::borrow::Cow;

use http::StatusCode;

/// The `details` of a Status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Object name.
    pub name: String,
    /// API group.
    pub group: String,
    /// Resource (by convention the plural resource, not the kind).
    pub kind: String,
    /// Reason and message of each cause.
    pub causes: Vec<(String, String)>,
}

/// A failure as Kubernetes clients read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// HTTP status code.
    pub code: StatusCode,
    /// Machine-readable reason; left out if empty, as is the message.
    pub reason: Cow<'static, str>,
    /// What happened, for a person.
    pub message: String,
    /// Which object, when that is known.
    pub details: Option<Box<Details>>,
    /// When to ask again; becomes the header and the field of the body. Only for overload: client-go sleeps that long
    /// inside the call.
    pub retry_after_seconds: Option<u32>,
}

impl Status {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: Cow::Borrowed(reason),
            message: message.into(),
            details: None,
            retry_after_seconds: None,
        }
    }

    /// A read whose answer is unknown, or a write, while the cloud is away. Never with `Retry-After`: client-go
    /// would block inside the call and retry ten times.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    /// A write that may have reached the apiserver, whose answer was lost.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    }

    /// The apiserver answered something that HTTP does not allow, or something else answered in its place.
    pub fn bad_gateway(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "InternalError", message)
    }

    /// The caller asks faster than it may.
    pub fn too_many_requests(message: impl Into<String>) -> Self {
        let mut status = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        status.retry_after_seconds = Some(1);
        status
    }

    /// The caller's credential is not good.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }

    /// The caller is known and may not do this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    /// The request cannot be read.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// A resourceVersion or continue token that is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// List options that break a rule of the apiserver (wire contract 1.3).
    pub fn invalid_list_options(field: &str, reason: &str, message: &str) -> Self {
        let mut status = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: {message}"),
        );
        status.details = Some(Box::new(Details {
            group: "meta.k8s.io".to_owned(),
            kind: "ListOptions".to_owned(),
            causes: vec![(reason.to_owned(), message.to_owned())],
            ..Details::default()
        }));
        status
    }

    /// An object that is known not to exist (rule V8), worded as kube-apiserver does.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let qualified = if group.is_empty() {
            resource.to_owned()
        } else {
            format!("{resource}.{group}")
        };
        let mut status = Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            format!("{qualified} \"{name}\" not found"),
        );
        status.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: resource.to_owned(),
            causes: Vec::new(),
        }));
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_found_is_worded_as_the_apiserver_does() {
        let status = Status::not_found("", "configmaps", "zz");
        assert_eq!(status.message, "configmaps \"zz\" not found");
        let status = Status::not_found("apps", "deployments", "d");
        assert_eq!(status.message, "deployments.apps \"d\" not found");
        assert_eq!(status.details.unwrap().group, "apps");
    }
}
