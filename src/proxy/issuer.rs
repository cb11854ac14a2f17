//! Reads the cluster's keys for service account tokens with the node's own credentials. Kubelets may not read
//! them by default (ClusterRole `system:service-account-issuer-discovery`), and not every node has a pod that
//! does.

use std::time::Duration;

use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};

use crate::cache::IssuerDocument;
use crate::identity::BearerToken;
use crate::runtime::author::is_from_apiserver;
use crate::runtime::{body, clock};
use crate::upstream::{Answers, Purpose, RetryPolicy};

use super::context::Proxy;

/// The largest document.
const LARGEST: usize = 256 << 10;

/// The timeout for the body of a document of a few KiB.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Who reads the documents.
pub enum IssuerReader {
    /// A service account, with its token.
    Token(BearerToken),
    /// A configured client, with its pair.
    Client(String),
}

/// Why the documents were not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadIssuerError {
    /// No client of this name is configured.
    #[error("no client {0:?} is configured")]
    NoClient(String),
    /// The cloud could not be reached.
    #[error("{path}: {message}")]
    Unreachable {
        /// Of the document.
        path: &'static str,
        /// What went wrong.
        message: String,
    },
    /// An answer other than 200.
    #[error(
        "{path}: the apiserver answers {status}; is the reader bound to the ClusterRole \
         system:service-account-issuer-discovery?"
    )]
    Refused {
        /// Of the document.
        path: &'static str,
        /// What was answered.
        status: StatusCode,
    },
}

impl Proxy {
    /// Reads both documents and takes them into use.
    ///
    /// # Errors
    /// The first that could not be read.
    pub async fn read_issuer(&self, reader: &IssuerReader) -> Result<(), ReadIssuerError> {
        for document in IssuerDocument::ALL {
            let limit = self
                .transports
                .default_transport()
                .response_timeout()
                .saturating_add(BODY_TIMEOUT);
            let read = tokio::time::timeout(limit, self.read_document(reader, document.path()));
            let bytes = read.await.map_err(|_| ReadIssuerError::Unreachable {
                path: document.path(),
                message: "no answer in time".to_owned(),
            })??;
            self.issuer.published(document, bytes);
        }
        Ok(())
    }

    async fn read_document(
        &self,
        reader: &IssuerReader,
        path: &'static str,
    ) -> Result<Vec<u8>, ReadIssuerError> {
        let unreachable = |message: String| ReadIssuerError::Unreachable { path, message };
        let mut request = Request::new(body::empty());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = Uri::from_static(path);
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, */*"));
        let transport = match reader {
            IssuerReader::Token(token) => {
                let value = [b"Bearer ", token.as_bytes()].concat();
                let mut value =
                    HeaderValue::from_bytes(&value).map_err(|error| unreachable(error.to_string()))?;
                value.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, value);
                self.transports.default_transport()
            }
            IssuerReader::Client(name) => self
                .transports
                .named(name)
                .ok_or_else(|| ReadIssuerError::NoClient(name.clone()))?,
        };
        let response = transport
            .send(
                request,
                &RetryPolicy::read(Purpose::Short).for_answers(Answers::Encoded),
            )
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK || !is_from_apiserver(&head.headers, &head.extensions) {
            return Err(ReadIssuerError::Refused {
                path,
                status: head.status,
            });
        }
        let date = head
            .headers
            .get(header::DATE)
            .and_then(|value| value.to_str().ok());
        self.time.contact(date.and_then(clock::parse_http_date));
        let whole = Limited::new(body, LARGEST).collect().await;
        let whole = whole.map_err(|error| unreachable(error.to_string()))?;
        Ok(whole.to_bytes().to_vec())
    }
}
