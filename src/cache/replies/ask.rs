//! Which POSTs may be answered again, and what makes two of them the same.

use form_urlencoded::parse;
use http::header::{self, HeaderMap};

use crate::identity::PodReference;
use crate::kube::media::{Encoding, Offer, Representation, negotiate};
use crate::kube::request::{ResourceRequest, Verb, plain_path};
use crate::wire::token::read_token_request;

/// Bytes of a request that are looked at; kubelet's are a few hundred, and a review carries a token.
pub const LARGEST_ASKED: u64 = 64 << 10;

/// A service account, as the path names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// A request whose answer may be given again.
#[derive(Clone)]
pub struct Ask {
    pub(super) about: About,
    /// What two requests for the same have in common, and others not. May hold a token: never shown, only hashed.
    pub(super) identity: Vec<u8>,
    /// The encoding that the client wants.
    pub(super) wanted: Option<Encoding>,
}

#[derive(Clone)]
pub(super) enum About {
    Token { account: Account, pod: PodReference },
    Review,
}

/// Whether a request is of a kind whose answer may be given again: only then is its body looked into.
pub fn may_be_asked_again(resource: &ResourceRequest, path: &str) -> bool {
    is_token_request(resource, path) || is_review(resource, path)
}

fn is_token_request(resource: &ResourceRequest, path: &str) -> bool {
    let ResourceRequest { namespace, name, .. } = resource;
    resource.verb == Verb::Create
        && plain_path(path).as_deref() == Some(path)
        // No other way to write it means the same beyond doubt.
        && path == format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token")
}

/// What kubelet asks about the callers of its own API, and any client about itself.
fn is_review(resource: &ResourceRequest, path: &str) -> bool {
    resource.verb == Verb::Create
        && matches!(
            path,
            "/apis/authentication.k8s.io/v1/tokenreviews"
                | "/apis/authorization.k8s.io/v1/subjectaccessreviews"
                | "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
                | "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
                | "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        )
}

impl Ask {
    /// Reads a request; `None` if its answer may not be given again: a token that is not bound to a pod (nothing
    /// here could tell when it has to go), options, a body that is compressed or not understood.
    pub fn read(
        resource: &ResourceRequest,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Option<Self> {
        // client-go puts its own time limit there.
        let is_plain = parse(query.unwrap_or_default().as_bytes()).all(|(name, _)| name == "timeout");
        if !is_plain || headers.contains_key(header::CONTENT_ENCODING) {
            return None;
        }
        let text = |name| headers.get(name)?.to_str().ok();
        let content_type = text(header::CONTENT_TYPE).unwrap_or("application/json");
        let encoding = Encoding::of_content_type(content_type)?;
        let wanted = negotiate(text(header::ACCEPT), Offer::All)
            .filter(|form| *form == Representation::full(form.encoding));
        let (about, identity) = if is_token_request(resource, path) {
            let spec = read_token_request(encoding, body).ok()?.spec;
            let bound = spec.bound.as_ref()?;
            if bound.kind != "Pod" || bound.api_version != "v1" || bound.uid.is_empty() {
                return None;
            }
            let account = Account {
                namespace: resource.namespace.clone(),
                name: resource.name.clone(),
            };
            let pod = PodReference {
                namespace: resource.namespace.clone(),
                name: bound.name.clone(),
                uid: bound.uid.clone(),
            };
            let identity = serde_json::to_vec(&("token", &account.namespace, &account.name, &spec)).ok()?;
            (About::Token { account, pod }, identity)
        } else if is_review(resource, path) {
            let mut identity = serde_json::to_vec(&("review", path, encoding.as_str())).ok()?;
            identity.extend_from_slice(body);
            (About::Review, identity)
        } else {
            return None;
        };
        Some(Self {
            about,
            identity,
            wanted: wanted.map(|form| form.encoding),
        })
    }
}
