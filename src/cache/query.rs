//! What a read asks for: the keys under which its answer is kept.
//!
//! Only a request whose meaning is beyond doubt has a query: a plain path, known parameters, no impersonation.
//! Everything else is forwarded and never cached.

use http::{HeaderMap, Method, Uri, header};

use crate::kube::media::{self, Offer, Representation};
use crate::kube::options::ListOptions;
use crate::kube::request::{Class, RequestInfo, ResourceRequest, is_plain_path};
use crate::store::LogId;
use crate::view::key::ViewKey;

/// A cacheable read of one principal.
#[derive(Debug, Clone)]
pub struct Query {
    /// The principal's key: the owner of what is cached.
    pub owner: String,
    /// What is asked for.
    pub target: Target,
    /// The first `Accept` header line.
    pub accept: Option<String>,
    /// `If-None-Match`, for documents.
    pub if_none_match: Option<String>,
    /// HEAD: the answer has no body.
    pub head: bool,
}

/// Which list, whichever of its parts or moments: the name under which it is stored, if it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ListName {
    owner: String,
    view: String,
}

impl ListName {
    /// Of a stored list, among [`Cache::logs`](super::Cache::logs).
    pub fn of_log(id: LogId) -> Self {
        Self {
            owner: id.owner,
            view: id.name,
        }
    }
}

/// The kinds of things that can be read.
#[derive(Debug, Clone)]
pub enum Target {
    /// A non-resource document; path and the parameters that matter.
    Document(String),
    /// One object (or a readable subresource of one).
    Object {
        /// The raw path, which is plain.
        path: String,
        /// What the path means.
        resource: Box<ResourceRequest>,
        /// The request had a resourceVersion, so that its answer may lag.
        may_lag: bool,
    },
    /// A collection, to be listed or watched.
    Collection(Box<ResourceRequest>),
}

/// Non-resource paths whose answers are the same until the cluster changes. Health and metrics are not among them.
fn is_document(path: &str) -> bool {
    let discovery = |prefix: &str, depth: usize| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.split('/').skip(1).count() <= depth)
    };
    matches!(
        path,
        "/version" | "/openapi/v2" | "/openapi/v3" | "/.well-known/openid-configuration" | "/openid/v1/jwks"
    ) || path.starts_with("/openapi/v3/")
        || path == "/api"
        || path == "/apis"
        || (path.starts_with("/api/") && discovery("/api", 1))
        || (path.starts_with("/apis/") && discovery("/apis", 2))
}

impl Query {
    /// The query of a request, or `None` if its answer is never kept.
    pub fn new(
        owner: &str,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        info: &RequestInfo,
        class: Class,
    ) -> Option<Self> {
        if !class.is_read() || !is_plain_path(uri.path()) || headers.contains_key(header::RANGE) {
            return None;
        }
        let target = match info {
            RequestInfo::Malformed => return None,
            RequestInfo::NonResource => {
                is_document(uri.path()).then(|| Target::Document(document_name(uri.path(), uri.query())))?
            }
            RequestInfo::Resource(resource) if class == Class::Get => {
                let options = ListOptions::parse(uri.query());
                if options.has_unknown || is_only_live(resource) {
                    return None;
                }
                let may_lag = options.resource_version.is_some();
                Target::Object {
                    path: uri.path().to_owned(),
                    resource: resource.clone(),
                    may_lag,
                }
            }
            RequestInfo::Resource(resource) => {
                let unclear = resource.options.has_unknown
                    || resource.options.malformed
                    || !resource.subresource.is_empty()
                    || is_only_live(resource);
                if unclear {
                    return None;
                }
                Target::Collection(Box::new(normalised(resource)))
            }
        };
        let text = |name| {
            headers
                .get(name)
                .and_then(|value: &http::HeaderValue| value.to_str().ok())
                .map(str::to_owned)
        };
        Some(Self {
            owner: owner.to_owned(),
            target,
            accept: text(header::ACCEPT),
            if_none_match: text(header::IF_NONE_MATCH),
            head: method == Method::HEAD,
        })
    }

    /// The list that is asked for as a whole, in the form that will most likely be the answer's; `None` for pages and
    /// for what is no list.
    pub fn whole_list(&self) -> Option<ListName> {
        let Target::Collection(resource) = &self.target else {
            return None;
        };
        let options = &resource.options;
        if self.head || options.watch || options.limit > 0 || !options.continue_token.is_empty() {
            return None;
        }
        let representation = self.representations().into_iter().next()?;
        Some(ListName {
            owner: self.owner.clone(),
            view: view_key(resource, &representation).to_text(),
        })
    }

    /// The representations that the client takes, best first.
    pub fn representations(&self) -> Vec<Representation> {
        let mut wanted = media::acceptable(self.accept.as_deref(), Offer::All);
        if let Target::Collection(resource) | Target::Object { resource, .. } = &self.target
            && !resource.options.include_object.is_empty()
        {
            // A Table with other objects in it than usual: another representation, which is not kept.
            wanted.retain(|r| !matches!(r.shape, media::Shape::Table(_)));
        }
        wanted
    }
}

/// What is never kept: nobody is helped by the past of it.
fn is_only_live(resource: &ResourceRequest) -> bool {
    is_election_lease(resource) || resource.is_certificate_request()
}

/// Leader election must not see the past: a holder has to notice that it lost. The node's own lease is harmless.
fn is_election_lease(resource: &ResourceRequest) -> bool {
    resource.group == "coordination.k8s.io" && resource.namespace != "kube-node-lease"
}

/// A legacy watch of one object is a watch with that name as field selector; a watch of a namespace object likewise.
fn normalised(resource: &ResourceRequest) -> ResourceRequest {
    let mut resource = resource.clone();
    if resource.legacy_watch && !resource.name.is_empty() {
        resource.options.field_selector = format!("metadata.name={}", resource.name);
        if resource.resource == "namespaces" {
            resource.namespace.clear();
        }
    }
    resource
}

/// The key of a collection in one representation.
pub(super) fn view_key(resource: &ResourceRequest, representation: &Representation) -> ViewKey {
    ViewKey {
        group: resource.group.clone(),
        version: resource.version.clone(),
        resource: resource.resource.clone(),
        namespace: (!resource.namespace.is_empty()).then(|| resource.namespace.clone()),
        label_selector: resource.options.label_selector.clone(),
        field_selector: resource.options.field_selector.clone(),
        shard_selector: resource.options.shard_selector.clone(),
        representation: representation.to_string(),
    }
    .canonical()
}

fn document_name(path: &str, query: Option<&str>) -> String {
    let mut pairs: Vec<(String, String)> = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .filter(|(name, _)| !matches!(name.as_ref(), "timeout" | "pretty"))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    pairs.sort();
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish();
    if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(target: &str, headers: &[(&'static str, &str)]) -> Option<Query> {
        let uri: Uri = target.parse().unwrap();
        let info = RequestInfo::parse(&Method::GET, uri.path(), uri.query());
        let class = info.class(&Method::GET);
        let headers = headers
            .iter()
            .map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()))
            .collect();
        Query::new("cn:x", &Method::GET, &uri, &headers, &info, class)
    }

    #[test]
    fn documents_are_discovery_openapi_version_and_oidc() {
        for path in [
            "/version",
            "/api",
            "/apis",
            "/api/v1",
            "/apis/apps",
            "/apis/apps/v1",
            "/openapi/v3/apis/apps/v1",
        ] {
            assert!(
                matches!(query(path, &[]).unwrap().target, Target::Document(_)),
                "{path}"
            );
        }
        for path in [
            "/healthz",
            "/readyz",
            "/livez/etcd",
            "/metrics",
            "/",
            "/logs/x",
            "/apis/a/b/../c",
        ] {
            assert!(query(path, &[]).is_none(), "{path}");
        }
    }

    #[test]
    fn a_document_is_named_by_what_matters_of_its_query() {
        let name = |target| match query(target, &[]).unwrap().target {
            Target::Document(name) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(name("/api?timeout=32s"), "/api");
        assert_eq!(
            name("/openapi/v3/apis/apps/v1?timeout=1s&hash=AB"),
            "/openapi/v3/apis/apps/v1?hash=AB"
        );
    }

    #[test]
    fn odd_requests_have_no_query() {
        for target in [
            "/api/v1/namespaces/a%2Fb/pods",
            "/api/v1//pods",
            "/api/v1/pods?watch=1&foo=bar",
            "/api/v1/pods?limit=x",
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests/x",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests?watch=1&fieldSelector=metadata.name%3Dx",
            "/api/v1/namespaces/a/pods/p/log",
        ] {
            assert!(query(target, &[]).is_none(), "{target}");
        }
        assert!(query("/api/v1/pods", &[("range", "bytes=0-1")]).is_none());
        assert!(
            query(
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n",
                &[]
            )
            .is_some()
        );
    }

    #[test]
    fn a_legacy_watch_of_one_object_is_a_watch_by_name() {
        let Target::Collection(resource) = query("/api/v1/watch/namespaces/a/pods/p", &[]).unwrap().target
        else {
            panic!()
        };
        assert_eq!(resource.options.field_selector, "metadata.name=p");
        assert_eq!(resource.namespace, "a");
    }
}
