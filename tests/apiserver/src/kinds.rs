//! The resources this stand-in serves.

/// One resource type.
#[derive(Debug)]
pub(crate) struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub resource: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub scope: Scope,
    pub origin: Origin,
    /// Has a `status` subresource.
    pub status: bool,
    pub short: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Cluster,
    Namespaced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Kinds compiled into kube-apiserver: struct key order, protobuf.
    BuiltIn,
    /// From a CustomResourceDefinition: sorted keys, JSON only.
    Custom,
}

impl Kind {
    /// `v1` or `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    pub(crate) fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// Storage key: `namespace/name`, or `name`.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        match self.scope {
            Scope::Cluster => name.to_owned(),
            Scope::Namespaced => format!("{namespace}/{name}"),
        }
    }

    /// Position in [`ALL`], used as storage index.
    pub(crate) fn index(&self) -> usize {
        ALL.iter()
            .position(|k| std::ptr::eq(k, self))
            .expect("a kind of the table")
    }
}

/// The kind behind a URL's group, version and plural.
pub(crate) fn by_resource(group: &str, version: &str, resource: &str) -> Option<&'static Kind> {
    ALL.iter()
        .find(|k| k.group == group && k.version == version && k.resource == resource)
}

/// The kind of an object's `apiVersion` and `kind`.
pub(crate) fn by_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    ALL.iter()
        .find(|k| k.kind == kind && k.api_version() == api_version)
}

const fn built_in(
    gv: (&'static str, &'static str),
    names: (&'static str, &'static str, &'static str),
    scope: Scope,
    status: bool,
    short: &'static [&'static str],
) -> Kind {
    let (group, version) = gv;
    let (resource, singular, kind) = names;
    Kind {
        group,
        version,
        resource,
        singular,
        kind,
        scope,
        origin: Origin::BuiltIn,
        status,
        short,
    }
}

const CORE: (&str, &str) = ("", "v1");
const STORAGE: (&str, &str) = ("storage.k8s.io", "v1");
const NETWORKING: (&str, &str) = ("networking.k8s.io", "v1");
const CERTIFICATES: (&str, &str) = ("certificates.k8s.io", "v1");
use Scope::{Cluster, Namespaced};

/// Every kind, core first, as discovery lists them.
pub(crate) static ALL: &[Kind] = &[
    built_in(
        CORE,
        ("configmaps", "configmap", "ConfigMap"),
        Namespaced,
        false,
        &["cm"],
    ),
    built_in(
        CORE,
        ("endpoints", "endpoints", "Endpoints"),
        Namespaced,
        false,
        &["ep"],
    ),
    built_in(CORE, ("events", "event", "Event"), Namespaced, false, &["ev"]),
    built_in(
        CORE,
        ("namespaces", "namespace", "Namespace"),
        Cluster,
        true,
        &["ns"],
    ),
    built_in(CORE, ("nodes", "node", "Node"), Cluster, true, &["no"]),
    built_in(
        CORE,
        (
            "persistentvolumeclaims",
            "persistentvolumeclaim",
            "PersistentVolumeClaim",
        ),
        Namespaced,
        true,
        &["pvc"],
    ),
    built_in(
        CORE,
        ("persistentvolumes", "persistentvolume", "PersistentVolume"),
        Cluster,
        true,
        &["pv"],
    ),
    built_in(CORE, ("pods", "pod", "Pod"), Namespaced, true, &["po"]),
    built_in(CORE, ("secrets", "secret", "Secret"), Namespaced, false, &[]),
    built_in(
        CORE,
        ("serviceaccounts", "serviceaccount", "ServiceAccount"),
        Namespaced,
        false,
        &["sa"],
    ),
    built_in(
        CORE,
        ("services", "service", "Service"),
        Namespaced,
        true,
        &["svc"],
    ),
    built_in(
        ("apps", "v1"),
        ("deployments", "deployment", "Deployment"),
        Namespaced,
        true,
        &["deploy"],
    ),
    built_in(
        CERTIFICATES,
        (
            "certificatesigningrequests",
            "certificatesigningrequest",
            "CertificateSigningRequest",
        ),
        Cluster,
        true,
        &["csr"],
    ),
    built_in(
        ("coordination.k8s.io", "v1"),
        ("leases", "lease", "Lease"),
        Namespaced,
        false,
        &[],
    ),
    built_in(
        ("discovery.k8s.io", "v1"),
        ("endpointslices", "endpointslice", "EndpointSlice"),
        Namespaced,
        false,
        &[],
    ),
    built_in(
        ("events.k8s.io", "v1"),
        ("events", "event", "Event"),
        Namespaced,
        false,
        &["ev"],
    ),
    built_in(
        NETWORKING,
        ("servicecidrs", "servicecidr", "ServiceCIDR"),
        Cluster,
        true,
        &[],
    ),
    built_in(
        ("node.k8s.io", "v1"),
        ("runtimeclasses", "runtimeclass", "RuntimeClass"),
        Cluster,
        false,
        &[],
    ),
    built_in(
        STORAGE,
        ("csidrivers", "csidriver", "CSIDriver"),
        Cluster,
        false,
        &[],
    ),
    built_in(STORAGE, ("csinodes", "csinode", "CSINode"), Cluster, false, &[]),
    built_in(
        STORAGE,
        ("volumeattachments", "volumeattachment", "VolumeAttachment"),
        Cluster,
        true,
        &[],
    ),
    Kind {
        group: "edge.example.io",
        version: "v1",
        resource: "gauges",
        singular: "gauge",
        kind: "Gauge",
        scope: Namespaced,
        origin: Origin::Custom,
        status: false,
        short: &[],
    },
    istio("destinationrules", "destinationrule", "DestinationRule"),
    istio("gateways", "gateway", "Gateway"),
    istio("virtualservices", "virtualservice", "VirtualService"),
];

const fn istio(resource: &'static str, singular: &'static str, kind: &'static str) -> Kind {
    Kind {
        group: "networking.istio.io",
        version: "v1alpha3",
        resource,
        singular,
        kind,
        scope: Namespaced,
        origin: Origin::Custom,
        status: false,
        short: &[],
    }
}
