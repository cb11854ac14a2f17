//! What is asked for.

use serde_json::{Value, json};

pub(super) const JSON: &str = "application/json";
const PROTO: &str = "application/vnd.kubernetes.protobuf";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;\
                         v=v2beta1;as=APIGroupDiscoveryList,application/json";
const META_JSON: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const META_PROTO: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const META_LIST_JSON: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const META_LIST_PROTO: &str =
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const META_LIST_V1BETA1: &str =
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1beta1";

const CMS: &str = "/api/v1/namespaces/shop/configmaps";
const CM: &str = "/api/v1/namespaces/shop/configmaps/cm-2";
const LABEL: &str = "/api/v1/namespaces/shop/configmaps?labelSelector=app%3Dweb";
const GAUGES: &str = "/apis/edge.example.io/v1/gauges";
const BIG: &str = "/api/v1/namespaces/kube-public/configmaps";

/// Of a watch that asks for the list first.
const WATCH_LIST: &str = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=12";
const BOOKMARKS: &str = "watch=true&allowWatchBookmarks=true&timeoutSeconds=12";

const GZIP: &[(&str, &str)] = &[("accept-encoding", "gzip")];
/// kube-apiserver indents JSON for this one.
const GZIP_INDENTED: &[(&str, &str)] = &[("accept-encoding", "gzip"), ("user-agent", "curl/8")];

/// One recording.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) name: String,
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) accept: &'static str,
    pub(super) headers: &'static [(&'static str, &'static str)],
    note: &'static str,
}

impl Request {
    pub(super) fn get(name: &str, path: &str, accept: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            method: "GET",
            path: path.to_owned(),
            accept,
            headers: &[],
            note: "",
        }
    }

    fn with(mut self, headers: &'static [(&'static str, &'static str)]) -> Self {
        self.headers = headers;
        self
    }

    fn note(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }

    /// Its line of the index.
    pub(super) fn entry(&self) -> Value {
        let mut entry =
            json!({"name": self.name, "method": self.method, "path": self.path, "accept": self.accept});
        if !self.headers.is_empty() {
            let headers = self
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {value}"));
            entry["request_headers"] = headers.collect();
        }
        if !self.note.is_empty() {
            entry["note"] = self.note.into();
        }
        entry
    }
}

/// Before anything changes.
pub(super) fn reads() -> Vec<Request> {
    let mut all = Vec::new();
    for (suffix, accept) in [("json", JSON), ("proto", PROTO)] {
        for (name, path) in [
            ("cm-list-all", "/api/v1/configmaps"),
            ("cm-list-ns", CMS),
            ("cm-list-label", LABEL),
            (
                "cm-list-byname",
                "/api/v1/namespaces/shop/configmaps?fieldSelector=metadata.name%3Dcm-1",
            ),
            ("cm-list-empty", "/api/v1/namespaces/kube-public/secrets"),
            ("cm-get", CM),
            ("secret-list", "/api/v1/namespaces/shop/secrets"),
            (
                "pods-by-node",
                "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge-1",
            ),
            ("svc-list", "/api/v1/services"),
            (
                "kubernetes-endpoints",
                "/api/v1/namespaces/default/endpoints/kubernetes",
            ),
            ("endpointslices", "/apis/discovery.k8s.io/v1/endpointslices"),
            (
                "clusterroles-list",
                "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            ),
            ("notfound", "/api/v1/namespaces/shop/configmaps/nope"),
        ] {
            all.push(Request::get(&format!("{name}.{suffix}"), path, accept));
        }
    }
    for (name, path, accept) in [
        ("cm-meta-list.json", CMS, META_LIST_JSON),
        ("cm-meta-get.json", CM, META_JSON),
        ("gauges-meta-list.json", GAUGES, META_LIST_JSON),
        ("cm-meta-list.proto", CMS, META_LIST_PROTO),
        ("cm-meta-get.proto", CM, META_PROTO),
        ("gauges-meta-list.proto", GAUGES, META_LIST_PROTO),
        (
            "gauges-get.json",
            "/apis/edge.example.io/v1/namespaces/shop/gauges/g-0",
            JSON,
        ),
        ("gauges-list-proto-refused", GAUGES, PROTO),
        (
            "gauges-list-fallback",
            GAUGES,
            "application/vnd.kubernetes.protobuf,application/json",
        ),
        (
            "cm-table.json",
            "/api/v1/namespaces/shop/configmaps?limit=500",
            TABLE,
        ),
        (
            "gauges-table.json",
            "/apis/edge.example.io/v1/namespaces/shop/gauges?limit=500",
            TABLE,
        ),
        ("discovery-apis-aggregated", "/apis", DISCOVERY),
        ("discovery-apis-plain", "/apis", JSON),
        ("discovery-api-v1", "/api/v1", JSON),
        ("version", "/version", JSON),
        ("jwks", "/openid/v1/jwks", JSON),
        ("openid-configuration", "/.well-known/openid-configuration", JSON),
        ("unknown-resource", "/api/v1/nosuch", JSON),
    ] {
        all.push(Request::get(name, path, accept));
    }
    all.push(
        Request::get("cm-meta-list-v1beta1.proto", CMS, META_LIST_V1BETA1)
            .note("ListMeta and items have swapped field numbers"),
    );
    all.push(
        Request::get("gauges-list.json", GAUGES, JSON)
            .note("custom resource: items precede metadata, kinds inside items, decoy nested items"),
    );
    all
}

/// Open while the cluster changes. `version` is that of `cm-list-ns`.
pub(super) fn watches(version: &str) -> Vec<Request> {
    let from = format!("{CMS}?{BOOKMARKS}&resourceVersion={version}");
    let label = format!("{CMS}?{BOOKMARKS}&labelSelector=app%3Dweb&resourceVersion={version}");
    let list = format!("{CMS}?{WATCH_LIST}");
    let rv0 = format!("{CMS}?watch=true&resourceVersion=0&timeoutSeconds=12");
    let gauges = format!("{GAUGES}?{WATCH_LIST}");
    let table = format!("{CMS}?watch=true&timeoutSeconds=12&resourceVersion={version}");
    let mut all = Vec::new();
    for (suffix, accept, meta) in [("json", JSON, META_JSON), ("proto", PROTO, META_PROTO)] {
        let named = |name: &str| format!("{name}.{suffix}");
        all.push(Request::get(&named("cm-watch"), &from, accept));
        all.push(
            Request::get(&named("cm-watch-label"), &label, accept)
                .note("an object leaves and enters the selector"),
        );
        all.push(Request::get(&named("cm-watchlist"), &list, accept));
        all.push(
            Request::get(&named("cm-watch-rv0"), &rv0, accept)
                .note("no bookmarks: nothing marks the end of the initial events"),
        );
        all.push(Request::get(&named("cm-watch-meta"), &from, meta));
        all.push(
            Request::get(&named("cm-watchlist.gzip"), &list, accept)
                .with(GZIP)
                .note("compressed since 1.37, a gzip member for each flush"),
        );
    }
    all.push(Request::get("gauges-watchlist.json", &gauges, JSON));
    all.push(Request::get("gauges-watchlist.gzip.json", &gauges, JSON).with(GZIP));
    all.push(
        Request::get("cm-watch.gzip.json", &from, JSON)
            .with(GZIP)
            .note("a watch that is no watch-list is not compressed"),
    );
    all.push(Request::get("cm-watch-table.json", &table, TABLE));
    all
}

/// After the watches have ended.
pub(super) fn reads_after() -> Vec<Request> {
    let state = "state after the recorded watches: the oracle for patching cm-list-ns with cm-watch";
    vec![
        Request::get("cm-list-ns-after.json", CMS, JSON).note(state),
        Request::get("cm-list-label-after.json", LABEL, JSON),
        Request::get("cm-list-ns-after.proto", CMS, PROTO).note(state),
        Request::get("cm-list-label-after.proto", LABEL, PROTO),
        Request::get("gauges-list-after.json", GAUGES, JSON),
    ]
}

/// A list that is compressed.
pub(super) fn reads_big() -> Vec<Request> {
    let note = "over 128 KiB and asked with Accept-Encoding: gzip, so the body is gzip";
    vec![
        Request::get("cm-list-big.gzip.json", BIG, JSON)
            .with(GZIP_INDENTED)
            .note(note),
        Request::get("cm-list-big.gzip.proto", BIG, PROTO)
            .with(GZIP)
            .note(note),
    ]
}

/// From before the history that the apiserver knows.
pub(super) fn too_old() -> Request {
    Request::get(
        "watch-too-old",
        "/api/v1/configmaps?watch=true&resourceVersion=1&timeoutSeconds=2",
        JSON,
    )
    .note("200 with an ERROR 410 event")
}

/// A token of a service account.
pub(super) fn token() -> Request {
    let mut request = Request::get(
        "token-request-response.json",
        "/api/v1/namespaces/shop/serviceaccounts/default/token",
        "*/*",
    );
    request.method = "POST";
    request.note("verifiable with jwks.body; throw-away cluster")
}
