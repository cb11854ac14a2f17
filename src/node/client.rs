//! Asks the apiserver for single objects with the rights of one configured client, beside the data path.
//!
//! Nothing that is read here is cached or served; an answer is small, and bounded.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::response::Parts;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use crate::runtime::body::{self, Body};
use crate::upstream::direct::Direct;
use crate::upstream::{Purpose, RetryPolicy, Transport};

/// For one request, its answer included.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A Secret is at most 1 MiB, in base64 in JSON; a list of a large cluster's requests for certificates is larger.
const LARGEST: usize = 32 << 20;

/// How long one watch lasts.
const WATCH_SECONDS: u64 = 300;

const JSON: &str = "application/json";

/// One client's way to the apiserver. Cheap to clone.
#[derive(Clone)]
pub struct ApiClient {
    way: Way,
}

#[derive(Clone)]
enum Way {
    /// Of a running edgehold.
    Transport(Arc<Transport>),
    /// Of a command.
    Direct(Arc<Direct>),
}

/// Why there is no object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No answer, or one that asks to come again: 429 and 5xx.
    #[error("{0}")]
    Unreachable(String),
    /// No such object.
    #[error("not found: {0}")]
    NotFound(String),
    /// There is one already, or another than was meant.
    #[error("it exists already, or was changed meanwhile")]
    Exists,
    /// Any other answer: 401, 403, 422.
    #[error("{status}: {message}")]
    Refused {
        /// Of the answer.
        status: StatusCode,
        /// The apiserver's own words.
        message: String,
    },
}

impl ApiClient {
    /// Over this transport.
    pub fn new(transport: Arc<Transport>) -> Self {
        Self {
            way: Way::Transport(transport),
        }
    }

    /// Over connections of its own.
    pub fn direct(direct: Direct) -> Self {
        Self {
            way: Way::Direct(Arc::new(direct)),
        }
    }

    /// The common name whose rights are used.
    pub fn name(&self) -> &str {
        match &self.way {
            Way::Transport(transport) => transport.name(),
            Way::Direct(_) => "default",
        }
    }

    /// The object at this path.
    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// Creates an object in this collection.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.send(Method::POST, path, object.to_string().into()).await
    }

    /// Replaces the object at this path. [`ApiError::Exists`]: it was changed meanwhile.
    pub async fn update(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.send(Method::PUT, path, object.to_string().into()).await
    }

    /// Resolves when the object called `name` in this collection may have changed since `version`: something was said
    /// on a watch of it, or the watch has ended.
    pub async fn changed(&self, collection: &str, name: &str, version: &str) -> Result<(), ApiError> {
        // This form, and a name that is one, is all that the node authorizer and RBAC by name allow.
        let target = format!(
            "{collection}?watch=true&fieldSelector=metadata.name%3D{name}&resourceVersion={version}\
             &timeoutSeconds={WATCH_SECONDS}"
        );
        let request = request(Method::GET, &target, Bytes::new())?;
        let heard = async {
            let (head, mut events) = self.answer(request, &RetryPolicy::read(Purpose::Watch)).await?;
            if !head.status.is_success() {
                let bytes = read(events).await?;
                return understood(head.status, &bytes).map(drop);
            }
            while let Some(frame) = events.frame().await {
                match frame {
                    Ok(frame) if frame.data_ref().is_some_and(|data| !data.is_empty()) => break,
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            Ok(())
        };
        let most = Duration::from_secs(WATCH_SECONDS) + TIMEOUT;
        tokio::time::timeout(most, heard).await.unwrap_or(Ok(()))
    }

    async fn send(&self, method: Method, path: &str, content: Bytes) -> Result<Value, ApiError> {
        let policy = if method == Method::GET {
            RetryPolicy::read(Purpose::Short)
        } else {
            RetryPolicy::once(Purpose::Short)
        };
        let request = request(method, path, content)?;
        let exchange = async {
            let (head, incoming) = self.answer(request, &policy).await?;
            Ok((head.status, read(incoming).await?))
        };
        let (status, bytes) = tokio::time::timeout(TIMEOUT, exchange)
            .await
            .map_err(|_| ApiError::Unreachable("no answer in time".to_owned()))??;
        understood(status, &bytes)
    }

    async fn answer(&self, request: Request<Body>, policy: &RetryPolicy) -> Result<(Parts, Body), ApiError> {
        let answer = match &self.way {
            Way::Transport(transport) => {
                let answer = transport.send(request, policy).await;
                answer.map_err(|error| error.to_string())
            }
            Way::Direct(direct) => direct.send(request).await.map_err(|error| error.to_string()),
        };
        let answer = answer.map_err(ApiError::Unreachable)?;
        Ok(answer.into_parts())
    }
}

fn request(method: Method, path: &str, content: Bytes) -> Result<Request<Body>, ApiError> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(ACCEPT, JSON)
        .header(CONTENT_TYPE, JSON)
        .header(USER_AGENT, concat!("edgehold/", env!("CARGO_PKG_VERSION")))
        .body(body::full(content))
        .map_err(|error| ApiError::Unreachable(error.to_string()))
}

async fn read(body: Body) -> Result<Bytes, ApiError> {
    let read = Limited::new(body, LARGEST).collect().await;
    let bytes = read.map_err(|error| ApiError::Unreachable(error.to_string()))?;
    Ok(bytes.to_bytes())
}

fn understood(status: StatusCode, bytes: &[u8]) -> Result<Value, ApiError> {
    let object: Option<Value> = serde_json::from_slice(bytes).ok();
    if status.is_success() {
        let damaged = || ApiError::Unreachable("an answer that is not JSON".to_owned());
        return object.ok_or_else(damaged);
    }
    let is_status = object
        .as_ref()
        .is_some_and(|object| text(object, "/kind") == "Status");
    let message = object.map_or_else(String::new, |object| text(&object, "/message").to_owned());
    Err(match status {
        // A gateway's own error page says nothing about the object.
        StatusCode::NOT_FOUND if is_status => ApiError::NotFound(message),
        StatusCode::CONFLICT if is_status => ApiError::Exists,
        StatusCode::TOO_MANY_REQUESTS => ApiError::Unreachable(format!("{status}: {message}")),
        status if status.is_server_error() || !is_status => {
            ApiError::Unreachable(format!("{status}: {message}"))
        }
        status => ApiError::Refused { status, message },
    })
}

/// The text at a JSON pointer, empty if there is none.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_apiserver_says_that_there_is_no_object() {
        let said = |code: u16, body: &str| {
            understood(StatusCode::from_u16(code).unwrap(), body.as_bytes()).unwrap_err()
        };
        let status = r#"{"kind":"Status","message":"m"}"#;
        assert_eq!(said(404, status), ApiError::NotFound("m".to_owned()));
        assert!(matches!(said(404, "<html>"), ApiError::Unreachable(_)));
        assert_eq!(said(409, status), ApiError::Exists);
        assert!(matches!(said(403, status), ApiError::Refused { .. }));
        assert!(matches!(said(403, "{}"), ApiError::Unreachable(_)));
        for code in [429, 500, 503] {
            assert!(matches!(said(code, status), ApiError::Unreachable(_)), "{code}");
        }
        assert!(matches!(said(200, "{"), ApiError::Unreachable(_)));
        assert_eq!(
            understood(StatusCode::CREATED, b"{}"),
            Ok(Value::Object(Default::default()))
        );
    }
}
