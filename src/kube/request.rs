//! What a request means to kube-apiserver: its RequestInfo.
//!
//! Source: `apiserver/pkg/endpoints/request/requestinfo.go`; algorithm and vectors in wire contract 1.1 and 1.2.

use std::borrow::Cow;
use std::sync::Arc;

use http::Method;
use percent_encoding::percent_decode_str;

use super::options::ListOptions;

/// The verb that kube-apiserver authorizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// One object by name.
    Get,
    /// A collection.
    List,
    /// Changes of a collection or of one object (legacy `/watch/` paths).
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH.
    Patch,
    /// DELETE of one object.
    Delete,
    /// DELETE of a collection.
    DeleteCollection,
    /// The legacy `/proxy/` prefix.
    Proxy,
    /// Any other method: kube-apiserver leaves the verb empty.
    None,
}

impl Verb {
    /// The name that Kubernetes uses in RBAC rules and audit events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Proxy => "proxy",
            Self::None => "",
        }
    }
}

/// A resource request: `/api/V/...` or `/apis/G/V/...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceRequest {
    /// The verb.
    pub verb: Verb,
    /// Whether the path used the legacy `/watch/` prefix.
    pub legacy_watch: bool,
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace; empty for cluster scope or all namespaces. For the resource `namespaces` it equals the name.
    pub namespace: String,
    /// Resource, plural and lower case.
    pub resource: String,
    /// Subresource; empty for none.
    pub subresource: String,
    /// Object name; for a list or watch, the name that its field selector requires; empty for none.
    pub name: String,
    /// List options, for the verbs list, watch and deletecollection.
    pub options: ListOptions,
}

/// How a request path reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestInfo {
    /// Not an API resource: discovery, health, version, OpenAPI.
    NonResource,
    /// An API resource.
    Resource(Arc<ResourceRequest>),
    /// A `/watch` or `/proxy` prefix with nothing behind it; kube-apiserver answers 500.
    Malformed,
}

/// What the proxy does differently for kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// A read of a non-resource path.
    NonResource,
    /// One object.
    Get,
    /// A collection.
    List,
    /// A stream of changes.
    Watch,
    /// Anything that may change something.
    Mutate,
    /// exec, attach, port-forward, proxy and log: never cached, may last for ever.
    Stream,
}

impl Class {
    /// A short name for logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NonResource => "nonresource",
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Mutate => "mutate",
            Self::Stream => "stream",
        }
    }

    /// Whether repeating the request cannot change anything at the apiserver.
    pub fn is_read(self) -> bool {
        matches!(self, Self::NonResource | Self::Get | Self::List | Self::Watch)
    }
}

/// Whether each `%` of a raw path is followed by two hexadecimal digits (RFC 3986, section 2.1). kube-apiserver answers 400 where not, and over
/// HTTP/2 resets the stream.
pub fn is_escaped_well(raw_path: &str) -> bool {
    let mut escapes = raw_path.split('%').skip(1);
    escapes.all(|escape| escape.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2)
}

impl RequestInfo {
    /// Parses the raw (still percent-encoded) path and query of a request.
    pub fn parse(method: &Method, raw_path: &str, query: Option<&str>) -> Self {
        let path = percent_decode_str(raw_path).decode_utf8_lossy();
        let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        if parts.len() < 3 {
            return Self::NonResource;
        }
        let group = match parts.remove(0) {
            "api" => "",
            "apis" if parts.len() >= 3 => parts.remove(0),
            _ => return Self::NonResource,
        };
        let version = parts.remove(0);

        let mut verb = verb_of(method);
        let mut prefix = None;
        if let Some(head @ ("watch" | "proxy")) = parts.first().copied() {
            if parts.len() < 2 {
                return Self::Malformed;
            }
            parts.remove(0);
            verb = if head == "watch" { Verb::Watch } else { Verb::Proxy };
            prefix = Some(verb);
        }

        let mut namespace = "";
        if let ["namespaces", name, ..] = parts.as_slice() {
            namespace = name;
            if !matches!(parts.get(2), None | Some(&"status" | &"finalize")) {
                parts.drain(..2);
            }
        }
        let part = |at: usize| parts.get(at).copied().unwrap_or_default();
        let (resource, mut name) = (part(0), Cow::Borrowed(part(1)));
        let subresource = if prefix == Some(Verb::Proxy) { "" } else { part(2) };

        let mut options = ListOptions::default();
        if name.is_empty() && prefix.is_none() && verb == Verb::Get {
            options = ListOptions::parse(query);
            verb = if options.watch { Verb::Watch } else { Verb::List };
            if let Some(required) = options.required_name() {
                name = Cow::Owned(required.to_owned());
            }
        } else if verb == Verb::Watch {
            options = ListOptions::parse(query);
        } else if name.is_empty() && verb == Verb::Delete {
            options = ListOptions::parse(query);
            verb = Verb::DeleteCollection;
        }
        Self::Resource(Arc::new(ResourceRequest {
            verb,
            legacy_watch: prefix == Some(Verb::Watch),
            group: group.to_owned(),
            version: version.to_owned(),
            namespace: namespace.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            name: name.into_owned(),
            options,
        }))
    }

    /// What kind of request this is.
    pub fn class(&self, method: &Method) -> Class {
        let safe = method == Method::GET || method == Method::HEAD;
        match self {
            Self::NonResource | Self::Malformed if safe => Class::NonResource,
            Self::NonResource | Self::Malformed => Class::Mutate,
            Self::Resource(request) => match request.verb {
                Verb::Proxy => Class::Stream,
                _ if request.is_streaming_subresource() => Class::Stream,
                Verb::Get => Class::Get,
                Verb::List => Class::List,
                Verb::Watch if safe => Class::Watch,
                _ => Class::Mutate,
            },
        }
    }
}

impl ResourceRequest {
    /// Whether it is for CertificateSigningRequests, their subresources included.
    pub fn is_certificate_request(&self) -> bool {
        self.group == "certificates.k8s.io" && self.resource == "certificatesigningrequests"
    }

    fn is_streaming_subresource(&self) -> bool {
        matches!(
            self.subresource.as_str(),
            "exec" | "attach" | "portforward" | "proxy" | "log"
        )
    }
}

fn verb_of(method: &Method) -> Verb {
    match *method {
        Method::POST => Verb::Create,
        Method::GET | Method::HEAD => Verb::Get,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE => Verb::Delete,
        _ => Verb::None,
    }
}

/// The path under which what a raw path names is kept: that of [`named_path`]. Clients write one name in several ways
/// (`system:node`, `system%3Anode`), and all of them get one path. `None` if its meaning is not beyond doubt, or if letters or
/// digits are escaped: nobody who means well writes so.
///
/// Only what has such a path is cached or answered from the cache, so that no spelling can make the key differ from what
/// the apiserver saw.
pub fn plain_path(raw_path: &str) -> Option<Cow<'_, str>> {
    let is_needless = |escape: &str| {
        let code = escape
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        code.is_some_and(|code| code.is_ascii_alphanumeric() || b"-._~".contains(&code))
    };
    let path = named_path(raw_path)?;
    (!raw_path.split('%').skip(1).any(is_needless)).then_some(path)
}

/// What a raw path names: decoded, as apiservers read it, and without a trailing slash, which they ignore. `None` if that is
/// not beyond doubt: a segment is empty, or dots, or holds what may end a path, or is no text.
pub fn named_path(raw_path: &str) -> Option<Cow<'_, str>> {
    if raw_path == "/" {
        return Some(Cow::Borrowed(raw_path));
    }
    let path = raw_path.strip_suffix('/').unwrap_or(raw_path);
    let segments = path.strip_prefix('/')?;
    if !segments.contains('%') {
        let is_plain = segments.split('/').all(is_plain_name);
        return is_plain.then_some(Cow::Borrowed(path));
    }
    let mut decoded = String::with_capacity(path.len());
    for segment in segments.split('/') {
        let segment = percent_decode_str(segment).decode_utf8().ok()?;
        if !is_plain_name(&segment) {
            return None;
        }
        decoded.push('/');
        decoded.push_str(&segment);
    }
    Some(Cow::Owned(decoded))
}

/// Whether a decoded segment of a path, the name of an object for example, may be part of a [`named_path`].
pub fn is_plain_name(segment: &str) -> bool {
    let is_special = |c: char| matches!(c, '/' | '%' | '?' | ';' | '\\') || c.is_control();
    !matches!(segment, "" | "." | "..") && !segment.contains(is_special)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `verb|g/v|ns|resource|sub|name`, or the variant's name.
    fn show(method: &str, target: &str) -> String {
        let (path, query) = target
            .split_once('?')
            .map_or((target, None), |(p, q)| (p, Some(q)));
        match RequestInfo::parse(&method.parse().unwrap(), path, query) {
            RequestInfo::NonResource => "no".into(),
            RequestInfo::Malformed => "error".into(),
            RequestInfo::Resource(r) => format!(
                "{}|{}{}|{}|{}|{}|{}",
                r.verb.as_str(),
                if r.group.is_empty() {
                    String::new()
                } else {
                    format!("{}/", r.group)
                },
                r.version,
                r.namespace,
                r.resource,
                r.subresource,
                r.name
            ),
        }
    }

    #[test]
    fn vectors_of_the_real_request_info_factory() {
        for path in [
            "/api/v1",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/healthz",
            "/version",
            "/",
        ] {
            assert_eq!(show("GET", path), "no", "{path}");
        }
        for path in ["/openapi/v3/apis/apps/v1", "/openid/v1/jwks"] {
            assert_eq!(show("GET", path), "no", "{path}");
        }
        for (request, expected) in [
            ("GET /apis/apps/v1/deployments", "list|apps/v1||deployments||"),
            ("GET /api/v1/namespaces", "list|v1||namespaces||"),
            ("GET /api/v1/namespaces/foo", "get|v1|foo|namespaces||foo"),
            (
                "GET /api/v1/namespaces/foo/status",
                "get|v1|foo|namespaces|status|foo",
            ),
            (
                "PUT /api/v1/namespaces/foo/finalize",
                "update|v1|foo|namespaces|finalize|foo",
            ),
            ("GET /api/v1/namespaces/status/pods", "list|v1|status|pods||"),
            ("GET /api/v1/namespaces/foo/pods/p/log", "get|v1|foo|pods|log|p"),
            (
                "GET /apis/g.io/v1/namespaces/foo/bars/x/y/z",
                "get|g.io/v1|foo|bars|y|x",
            ),
            ("GET /api/v1/pods?watch", "watch|v1||pods||"),
            ("GET /api/v1/pods?watch=no", "watch|v1||pods||"),
            ("GET /api/v1/pods?watch=1", "watch|v1||pods||"),
            ("GET /api/v1/pods?watch=0", "list|v1||pods||"),
            ("GET /api/v1/pods?watch=False", "list|v1||pods||"),
            (
                "GET /api/v1/namespaces/foo/pods/p?watch=true",
                "get|v1|foo|pods||p",
            ),
            (
                "GET /api/v1/namespaces/foo/secrets?fieldSelector=metadata.name%3Ds1",
                "list|v1|foo|secrets||s1",
            ),
            (
                "GET /api/v1/nodes?fieldSelector=metadata.name%3Da%2Fb",
                "list|v1||nodes||",
            ),
            (
                "GET /api/v1/pods?fieldSelector=metadata.name%21%3Ds1",
                "list|v1||pods||",
            ),
            (
                "GET /api/v1/pods?limit=abc&watch=true&fieldSelector=metadata.name%3Dx",
                "watch|v1||pods||",
            ),
            ("GET /api/v1/watch/pods", "watch|v1||pods||"),
            ("GET /api/v1/watch/namespaces/foo/pods/p", "watch|v1|foo|pods||p"),
            ("GET /api/v1/watch/namespaces/foo", "watch|v1|foo|namespaces||foo"),
            (
                "GET /apis/apps/v1/watch/deployments",
                "watch|apps/v1||deployments||",
            ),
            ("GET /api/v1/watch", "error"),
            (
                "DELETE /api/v1/namespaces/foo/pods",
                "deletecollection|v1|foo|pods||",
            ),
            (
                "POST /api/v1/namespaces/foo/serviceaccounts/sa/token",
                "create|v1|foo|serviceaccounts|token|sa",
            ),
            ("HEAD /api/v1/pods", "list|v1||pods||"),
            ("OPTIONS /api/v1/pods", "|v1||pods||"),
            ("GET //api/v1/pods/", "list|v1||pods||"),
            ("GET /api/v1//pods", "get|v1||||pods"),
        ] {
            let (method, target) = request.split_once(' ').unwrap();
            assert_eq!(show(method, target), expected, "{request}");
        }
    }

    #[test]
    fn classes_follow_the_verb_and_the_subresource() {
        let class = |method: &str, path: &str, query: Option<&str>| {
            let method = method.parse().unwrap();
            RequestInfo::parse(&method, path, query).class(&method)
        };
        assert_eq!(class("GET", "/api/v1/pods", Some("watch=1")), Class::Watch);
        assert_eq!(
            class("GET", "/api/v1/namespaces/f/pods/p/log", None),
            Class::Stream
        );
        assert_eq!(
            class("POST", "/api/v1/namespaces/f/pods/p/exec", None),
            Class::Stream
        );
        assert_eq!(class("POST", "/api/v1/watch/pods", None), Class::Mutate);
        assert_eq!(class("DELETE", "/api/v1/pods", None), Class::Mutate);
        assert_eq!(class("GET", "/version", None), Class::NonResource);
        assert_eq!(class("POST", "/version", None), Class::Mutate);
    }

    #[test]
    fn only_plain_paths_may_be_cached() {
        for plain in [
            "/",
            "/api/v1/pods",
            "/api/v1/namespaces/a/configmaps/kube-root-ca.crt",
            "/x/system:y",
        ] {
            assert_eq!(plain_path(plain).as_deref(), Some(plain));
        }
        for odd in [
            "",
            "//",
            "/a//b",
            "/a//",
            "//a",
            "/a%2Fb",
            "/a/../b",
            "/a/.",
            "/a/./",
            "/a;b",
            "*",
            "a/b",
            "/a\\b",
            "/a%5cb",
            "/a%3Bb",
            "/a%3fb",
            "/a%0ab",
            "/a%25b",
            "/a%253Ab",
            "/a/%2e%2e/b",
            "/a/%2E",
            "/a%",
            "/a%3",
            "/a%zz",
            "/a%ffb",
        ] {
            assert_eq!(plain_path(odd), None, "{odd}");
        }
        assert_eq!(plain_path("/api/v1/pods/").as_deref(), Some("/api/v1/pods"));
    }

    #[test]
    fn all_spellings_of_a_name_are_one_path() {
        for (raw, path) in [
            ("/r/system%3Anode", "/r/system:node"),
            ("/r/system%3anode/", "/r/system:node"),
            ("/r/a%20b+c", "/r/a b+c"),
            ("/r/%C3%A4", "/r/ä"),
        ] {
            assert_eq!(plain_path(raw).as_deref(), Some(path));
            assert_eq!(plain_path(path).as_deref(), Some(path), "it is its own");
        }
        for raw in ["/%72/system:node", "/r/a%2db", "/r/%7e"] {
            assert_eq!(plain_path(raw), None, "{raw}");
        }
        assert_eq!(named_path("/%72/system:node").as_deref(), Some("/r/system:node"));
    }

    proptest! {
        #[test]
        fn any_target_parses(path in "/.{0,60}", query in proptest::option::of(".{0,60}")) {
            let info = RequestInfo::parse(&Method::GET, &path, query.as_deref());
            prop_assert!(matches!(info.class(&Method::GET), Class::NonResource | Class::Get | Class::List | Class::Watch | Class::Stream));
        }
    }
}
