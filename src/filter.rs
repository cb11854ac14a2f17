//! What clients on the node see of the Service `default/kubernetes` and of its endpoints: edgehold's node-local address.
//!
//! Owns which clients see it ([`Filters`]), what is changed in the three objects, and the rewriting of an answer on its
//! way out ([`Rewriter`]): GET, LIST and WATCH in JSON, protobuf and CBOR, whether the answer is live or cached.
//! Kubelet injects `KUBERNETES_SERVICE_HOST` and `_PORT` from the Service, kube-proxy sends the ClusterIP to the
//! endpoints. Must not know: principals, upstream, the cache, which stores what upstream said.
//!
//! Invariants: no other object is changed, and in these no byte but those of the changed fields, so resourceVersion,
//! order and everything unknown stay. What cannot be read passes as it came, as do Tables and metadata-only answers,
//! which do not have the fields.

mod endpoints;
mod rewriter;
mod service;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::kube::request::{ResourceRequest, Verb};
use crate::wire::WireError;
use crate::wire::edit::{Field, Message, Value};
use crate::wire::meta::ItemMeta;

pub use rewriter::Rewriter;

/// Namespace and name of the Service through which pods find the API.
const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";

/// The label that says whose endpoints a slice holds.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The port of that Service and of its endpoints, where there are several.
const PORT_NAME: &str = "https";

/// Where pods reach edgehold: an address of each family that the node has one of, and one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// The IPv4 address, if there is one.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address, if there is one.
    pub v6: Option<Ipv6Addr>,
    /// The port on both.
    pub port: u16,
}

impl Local {
    /// Ours of the same family.
    fn like(&self, other: IpAddr) -> Option<IpAddr> {
        match other {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }

    fn any(&self) -> Option<IpAddr> {
        self.v4.map(IpAddr::V4).or(self.v6.map(IpAddr::V6))
    }
}

/// Which clients see what, by user name as kube-apiserver knows it: a certificate's common name, or
/// `system:serviceaccount:NAMESPACE:NAME`.
#[derive(Debug, Clone, Default)]
pub struct Filters(Option<Arc<Rules>>);

#[derive(Debug)]
struct Rules {
    local: Local,
    service_for: HashSet<String>,
    endpoints_for: HashSet<String>,
}

impl Filters {
    /// The clients of `service_for` see the Service with `local`, those of `endpoints_for` its endpoints. The default
    /// value changes nothing for anybody.
    pub fn new(
        local: Local,
        service_for: impl IntoIterator<Item = String>,
        endpoints_for: impl IntoIterator<Item = String>,
    ) -> Self {
        Self(Some(Arc::new(Rules {
            local,
            service_for: service_for.into_iter().collect(),
            endpoints_for: endpoints_for.into_iter().collect(),
        })))
    }

    /// What is to be changed in the answer to a read by this user; `user` is asked only if the read concerns one of the
    /// objects.
    pub fn of_read(
        &self,
        request: &ResourceRequest,
        user: impl FnOnce() -> Option<String>,
    ) -> Option<Rewrite> {
        let is_read = matches!(request.verb, Verb::Get | Verb::List | Verb::Watch);
        let may_hold = request.subresource.is_empty()
            && matches!(request.namespace.as_str(), "" | NAMESPACE)
            && (matches!(request.name.as_str(), "" | NAME) || kind_of(request) == Some(Kind::EndpointSlice));
        if !is_read || !may_hold {
            return None;
        }
        self.rewrite(request, user)
    }

    /// Whether this write by this user would send upstream what the user has seen rewritten: it replaces one of the
    /// objects as a whole.
    pub fn would_echo(&self, request: &ResourceRequest, user: impl FnOnce() -> Option<String>) -> bool {
        request.verb == Verb::Update
            && request.subresource.is_empty()
            && request.namespace == NAMESPACE
            && request.name == NAME
            && self.rewrite(request, user).is_some()
    }

    fn rewrite(&self, request: &ResourceRequest, user: impl FnOnce() -> Option<String>) -> Option<Rewrite> {
        let rules = self.0.as_ref()?;
        let kind = kind_of(request)?;
        let users = match kind {
            Kind::Service => &rules.service_for,
            Kind::Endpoints | Kind::EndpointSlice => &rules.endpoints_for,
        };
        let is_named = !users.is_empty() && users.contains(&user()?);
        is_named.then_some(Rewrite {
            kind,
            local: rules.local,
        })
    }
}

fn kind_of(request: &ResourceRequest) -> Option<Kind> {
    let resource = (&*request.group, &*request.version, &*request.resource);
    Kind::ALL.into_iter().find(|kind| kind.resource() == resource)
}

/// The objects that are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `v1` Endpoints.
    Endpoints,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Service, Self::Endpoints, Self::EndpointSlice];

    /// As objects state it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Endpoints => "Endpoints",
            Self::EndpointSlice => "EndpointSlice",
        }
    }

    fn list_kind(self) -> &'static str {
        match self {
            Self::Service => "ServiceList",
            Self::Endpoints => "EndpointsList",
            Self::EndpointSlice => "EndpointSliceList",
        }
    }

    /// Group, version and resource.
    fn resource(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Service => ("", "v1", "services"),
            Self::Endpoints => ("", "v1", "endpoints"),
            Self::EndpointSlice => ("discovery.k8s.io", "v1", "endpointslices"),
        }
    }
}

/// What became of one of the objects on its way to a client that is to see ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It has our address.
    Rewritten,
    /// It is as upstream sent it: it has no address of a family of ours.
    Kept,
    /// It is as upstream sent it: it could not be read.
    Unreadable,
}

impl Outcome {
    /// For metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rewritten => "rewritten",
            Self::Kept => "kept",
            Self::Unreadable => "unreadable",
        }
    }
}

/// One change of one kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite {
    kind: Kind,
    local: Local,
}

impl Rewrite {
    /// The object with our address in it; `None` if it is another object, or has no address of a family of ours.
    fn object(
        &self,
        kind: &str,
        meta: &ItemMeta,
        object: Message<'_>,
        seen: &mut Vec<Outcome>,
    ) -> Option<Vec<u8>> {
        // Items of lists carry no kind; those of metadata-only lists do.
        if !(kind.is_empty() || kind == self.kind.as_str()) || !self.is_meant(meta) {
            return None;
        }
        let edited = match self.kind {
            Kind::Service => service::edited(object, &self.local),
            Kind::Endpoints => endpoints::edited(object, &self.local),
            Kind::EndpointSlice => endpoints::edited_slice(object, &self.local),
        };
        seen.push(match &edited {
            Ok(Some(_)) => Outcome::Rewritten,
            Ok(None) => Outcome::Kept,
            Err(_) => Outcome::Unreadable,
        });
        edited.unwrap_or_else(|error| {
            tracing::warn!(kind = self.kind.as_str(), name = meta.name, %error, "passed on as upstream sent it");
            None
        })
    }

    /// The kind of object that it is about.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    fn is_meant(&self, meta: &ItemMeta) -> bool {
        meta.namespace == NAMESPACE
            && match self.kind {
                Kind::Service | Kind::Endpoints => meta.name == NAME,
                Kind::EndpointSlice => meta.labels.get(SERVICE_NAME).is_some_and(|name| name == NAME),
            }
    }
}

/// The ports with the number of the one that pods use changed, in the order in which they came.
fn with_port(
    ports: &[Message<'_>],
    name: Field,
    number: Field,
    port: u16,
) -> Result<Vec<Vec<u8>>, WireError> {
    let mut https = 0;
    for (at, port) in ports.iter().enumerate() {
        if port.text(name)? == PORT_NAME {
            https = at;
        }
    }
    let edited = |(at, message): (usize, &Message<'_>)| match at == https {
        true => message.with(&[(number, Value::Number(port.into()))]),
        false => Ok(message.bytes().to_vec()),
    };
    ports.iter().enumerate().map(edited).collect()
}

#[cfg(test)]
mod tests;
