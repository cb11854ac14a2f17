//! What a read asks for: the keys under which its answer is kept.
//!
//! Only a request whose meaning is beyond doubt has a query: a plain path, a clear query, no impersonation. Everything
//! else is forwarded and never cached. A parameter that is not known, in the query or in `Accept`, is part of the key:
//! its answer is given again to who asks in the same way, and nothing is derived from it.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Uri, header};

use crate::kube::media::{self, Encoding, Offer, Representation, Rows};
use crate::kube::options::{ListOptions, canonical_query, is_clear};
use crate::kube::request::{Class, RequestInfo, ResourceRequest, plain_path};
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
        /// The plain path, and behind a `?` the parameters that are not known.
        path: String,
        /// What the path and the query mean.
        resource: Arc<ResourceRequest>,
    },
    /// A collection, to be listed or watched.
    Collection(Arc<ResourceRequest>),
}

/// Non-resource paths whose answers are the same until the cluster changes. Health and metrics are not among them.
pub fn is_document(path: &str) -> bool {
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
        if !class.is_read() || headers.contains_key(header::RANGE) {
            return None;
        }
        let path = plain_path(uri.path())?;
        let path = path.as_ref();
        let target = match info {
            RequestInfo::Malformed => return None,
            RequestInfo::NonResource => {
                // The handlers of OpenAPI alone take their paths to the letter.
                let is_other = path.starts_with("/openapi/") && uri.path() != path;
                let is_kept = is_document(path) && !is_other && is_clear(uri.query().unwrap_or_default());
                is_kept.then(|| Target::Document(document_name(path, uri.query())))?
            }
            RequestInfo::Resource(resource) if class == Class::Get => {
                let options = ListOptions::parse(uri.query());
                if !is_clear(uri.query().unwrap_or_default()) || OnlyLive::of(resource).is_some() {
                    return None;
                }
                let path = with_query(path, &options.unknown);
                let resource = if options == resource.options {
                    Arc::clone(resource)
                } else {
                    Arc::new(ResourceRequest {
                        options,
                        ..resource.as_ref().clone()
                    })
                };
                Target::Object { path, resource }
            }
            RequestInfo::Resource(resource) => {
                let unclear = resource.options.malformed || !resource.subresource.is_empty();
                if unclear || OnlyLive::of(resource).is_some() {
                    return None;
                }
                Target::Collection(normalised(resource))
            }
        };
        let text = |name| headers.get(name).map(text_of);
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
        media::acceptable(self.accept.as_deref(), self.rows(), Offer::All)
    }

    /// Which of them an answer in `encoding` is; `None` if it was not asked for.
    pub fn answered(&self, encoding: Encoding) -> Option<Representation> {
        media::answered(self.accept.as_deref(), self.rows(), encoding)
    }

    fn rows(&self) -> Rows {
        match &self.target {
            Target::Document(_) => Rows::default(),
            Target::Object { resource, .. } | Target::Collection(resource) => resource.options.include_object,
        }
    }
}

/// The text of a header, whatever its bytes: one that is no ASCII is kept apart from all others, not taken for absent.
pub(super) fn text_of(value: &HeaderValue) -> String {
    value.as_bytes().iter().copied().map(char::from).collect()
}

/// What is never kept, because nobody is helped by the past of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnlyLive {
    /// Leader election must not see the past: a holder has to notice that it lost. The node's own lease is harmless.
    Leases,
    /// A request for a certificate waits for its approval.
    CertificateRequests,
    /// What was used a while ago. It has no resourceVersion either.
    Metrics,
}

impl OnlyLive {
    /// Which of them a resource is, if it is one.
    pub fn of(resource: &ResourceRequest) -> Option<Self> {
        let group = resource.group.as_str();
        if group == "coordination.k8s.io" {
            (resource.namespace != "kube-node-lease").then_some(Self::Leases)
        } else if resource.is_certificate_request() {
            Some(Self::CertificateRequests)
        } else if group == "metrics.k8s.io" || group.ends_with(".metrics.k8s.io") {
            Some(Self::Metrics)
        } else {
            None
        }
    }

    /// Its name in the plural, as a person reads it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leases => "leases",
            Self::CertificateRequests => "certificate signing requests",
            Self::Metrics => "metrics",
        }
    }
}

/// A legacy watch of one object is a watch with that name as field selector; a watch of a namespace object likewise.
fn normalised(resource: &Arc<ResourceRequest>) -> Arc<ResourceRequest> {
    let mut resource = Arc::clone(resource);
    if resource.legacy_watch && !resource.name.is_empty() {
        let resource = Arc::make_mut(&mut resource);
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
        representation: with_query(&representation.to_string(), &resource.options.unknown),
    }
    .canonical()
}

fn with_query(text: &str, query: &str) -> String {
    if query.is_empty() {
        text.to_owned()
    } else {
        format!("{text}?{query}")
    }
}

fn document_name(path: &str, query: Option<&str>) -> String {
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .filter(|(name, _)| !matches!(name.as_ref(), "timeout" | "pretty"));
    with_query(path, &canonical_query(pairs.collect()))
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

    fn object_key(target: &str) -> String {
        match query(target, &[]).unwrap().target {
            Target::Object { path, .. } => path,
            other => panic!("{other:?}"),
        }
    }

    fn collection_key(target: &str, accept: &str) -> String {
        let query = query(target, &[("accept", accept)]).unwrap();
        let Target::Collection(resource) = &query.target else {
            panic!("{query:?}");
        };
        view_key(resource, &query.representations()[0]).representation
    }

    #[test]
    fn a_trailing_slash_names_the_same_thing() {
        for path in [
            "/version",
            "/api",
            "/apis",
            "/api/v1",
            "/apis/apps/v1",
            "/openid/v1/jwks",
        ] {
            let names = [path.to_owned(), format!("{path}/")].map(|target| {
                match query(&target, &[]).unwrap().target {
                    Target::Document(name) => name,
                    other => panic!("{other:?}"),
                }
            });
            assert_eq!(names, [path, path]);
        }
        assert!(query("/openapi/v2/", &[]).is_none(), "404 of an apiserver");
        assert_eq!(
            object_key("/api/v1/namespaces/a/pods/p/"),
            "/api/v1/namespaces/a/pods/p"
        );
        assert_eq!(
            collection_key("/api/v1/namespaces/a/pods/", "application/json"),
            collection_key("/api/v1/namespaces/a/pods", "application/json")
        );
    }

    #[test]
    fn what_is_not_known_is_part_of_the_key() {
        let json = "application/json";
        assert_eq!(
            collection_key("/api/v1/pods?limit=5&timeout=1s&pretty=true", json),
            "json"
        );
        assert_eq!(
            collection_key("/api/v1/pods?b=2&watch=1&a=1", json),
            "json?a=1&b=2"
        );
        assert_eq!(
            collection_key("/api/v1/pods", "application/json;drop=x"),
            "json;drop=x"
        );
        assert_eq!(
            object_key("/api/v1/namespaces/a/pods/p?timeout=1s&b&a=1"),
            "/api/v1/namespaces/a/pods/p?a=1&b="
        );
        // Of one name the order counts, of several it does not.
        let name = |query_text: &str| match query(&format!("/version?{query_text}"), &[]).unwrap().target {
            Target::Document(name) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(name("b=1&a=2&a=1"), name("a=2&a=1&b=1&timeout=5s"));
        assert_ne!(name("a=2&a=1"), name("a=1&a=2"));
    }

    #[test]
    fn a_header_that_is_no_text_is_not_taken_for_absent() {
        let uri: Uri = "/api/v1/pods".parse().unwrap();
        let info = RequestInfo::parse(&Method::GET, uri.path(), uri.query());
        let value = HeaderValue::from_bytes(b"application/json;x=\xff").unwrap();
        let headers = HeaderMap::from_iter([(header::ACCEPT, value)]);
        let query = Query::new("cn:x", &Method::GET, &uri, &headers, &info, Class::List).unwrap();
        assert!(!query.answered(Encoding::Json).unwrap().unknown.is_empty());
    }

    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

    #[test]
    fn the_rows_of_a_table_are_part_of_its_key_and_of_no_other() {
        let targets = [
            "",
            "?includeObject=Metadata",
            "?includeObject=None",
            "?includeObject=Object",
        ];
        let keys = |accept| targets.map(|query| collection_key(&format!("/api/v1/pods{query}"), accept));
        assert_eq!(
            keys(TABLE),
            [
                "json;table/v1",
                "json;table/v1",
                "json;table/v1;None",
                "json;table/v1;Object"
            ]
        );
        assert_eq!(keys("application/json"), ["json"; 4]);
        let of_object = |rows| {
            let target = format!("/api/v1/namespaces/a/pods/p?includeObject={rows}");
            query(&target, &[("accept", TABLE)]).unwrap().representations()[0].to_string()
        };
        assert_eq!(
            ["Metadata", "None"].map(of_object),
            ["json;table/v1", "json;table/v1;None"]
        );
    }

    #[test]
    fn odd_requests_have_no_query() {
        for target in [
            "/api/v1/namespaces/a%2Fb/pods",
            "/api/v1/namespaces/a/configmaps/%2e%2e",
            "/openapi/v3%2Fapi",
            "/openapi/%763",
            "/api/v1//pods",
            "/api/v1/pods?watch=1&foo=%ff",
            "/api/v1/pods?watch=1;foo=bar",
            "/api/v1/pods?limit=x",
            "/api/v1/namespaces/a/pods/p?foo=%zz",
            "/version?foo=1;bar=2",
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests/x",
            "/apis/metrics.k8s.io/v1beta1/nodes/x",
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/a/pods/x/y",
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
