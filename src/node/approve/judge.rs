//! Whether a CertificateSigningRequest is one that edgehold makes for its serving certificate, and may be approved.
//!
//! Pure: takes the object as the cluster has it and what is allowed, and gives a verdict. Nothing is approved that is not
//! understood to its last byte. What a signer signs is the request alone, so its names are all that a stolen node could gain.

use std::collections::BTreeSet;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::node::client::text;
use crate::tls::{AltName, NotPlain, Requested};

/// The signer whose requests are looked at.
pub const SIGNER: &str = "kubernetes.io/kubelet-serving";

/// What the users of nodes are called; the rest is the node's name.
const NODE_USER: &str = "system:node:";
const NODE_GROUP: &str = "system:nodes";

/// What a serving certificate is for; the first two are what it cannot do without.
const USAGES: [&str; 3] = ["digital signature", "server auth", "key encipherment"];

/// The names that may be asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    names: BTreeSet<AltName>,
    node_local: bool,
}

impl Allowed {
    /// The names of the Service `default/kubernetes`, and its addresses.
    pub fn service(cluster_domain: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let plain = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
        let full = format!("kubernetes.default.svc.{cluster_domain}");
        let names = plain.into_iter().chain([full]).map(AltName::Dns);
        Self {
            names: names.chain(addresses.into_iter().map(AltName::Ip)).collect(),
            node_local: false,
        }
    }

    /// These too.
    #[must_use]
    pub fn and(mut self, names: impl IntoIterator<Item = AltName>) -> Self {
        self.names.extend(names);
        self
    }

    /// And every address that leads to nowhere but the node itself: loopback and link-local.
    #[must_use]
    pub fn and_node_local(mut self) -> Self {
        self.node_local = true;
        self
    }

    fn includes(&self, name: &AltName) -> bool {
        self.names.contains(name)
            || matches!(name, AltName::Ip(address) if self.node_local && is_node_local(*address))
    }
}

/// An IPv4 address in IPv6 is none of these: Go reads it as IPv4.
fn is_node_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    }
}

/// A request that may be approved, if its node is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sound {
    /// The name of the node that sent it.
    pub node: String,
    /// What it asks for, in its order.
    pub names: Vec<AltName>,
}

/// Why a request is not approved. None of these texts holds more than one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Approved, denied or failed, or signed.
    #[error("already decided: {0:?}")]
    Decided(String),
    /// Not for edgehold's signer.
    #[error("it is for another signer")]
    OtherSigner,
    /// Who sent it is no node.
    #[error("sent by {0:?}, which is no node")]
    NoNode(String),
    /// The cluster has no such node.
    #[error("the cluster has no node {0:?}")]
    NoSuchNode(String),
    /// Not what a serving certificate is for.
    #[error("it asks for the usage {0:?}")]
    Usage(String),
    /// A serving certificate cannot do without.
    #[error("it does not ask for the usage {0:?}")]
    NoUsage(&'static str),
    /// No base64.
    #[error("it is not base64")]
    NotBase64,
    /// Not a plain request.
    #[error(transparent)]
    NotPlain(#[from] NotPlain),
    /// For another than its sender.
    #[error("its subject is CN={0:?}, O={1:?}, but it was sent by {2:?}")]
    Subject(String, String, String),
    /// A name that is not allowed, with its kind.
    #[error("it asks for {0:?}")]
    Name(String),
}

/// The verdict on a request as the cluster has it. A subject, a usage or a name counts only if it is exactly what is expected.
///
/// # Errors
/// The first reason against it.
pub fn judge(request: &Value, allowed: &Allowed) -> Result<Sound, Refusal> {
    if let Some(decided) = decided(request) {
        return Err(Refusal::Decided(decided));
    }
    if text(request, "/spec/signerName") != SIGNER {
        return Err(Refusal::OtherSigner);
    }
    let user = text(request, "/spec/username");
    let no_node = || Refusal::NoNode(user.to_owned());
    let node = user.strip_prefix(NODE_USER).filter(|node| is_node_name(node));
    let node = node.ok_or_else(no_node)?;
    if !texts(request, "/spec/groups").any(|group| group == Some(NODE_GROUP)) {
        return Err(no_node());
    }
    usages(request)?;
    let pem = STANDARD.decode(text(request, "/spec/request"));
    let requested = Requested::parse(&pem.map_err(|_| Refusal::NotBase64)?)?;
    if requested.common_name != user || requested.organization != NODE_GROUP {
        let Requested {
            common_name,
            organization,
            ..
        } = requested;
        return Err(Refusal::Subject(common_name, organization, user.to_owned()));
    }
    if let Some(name) = requested.names.iter().find(|name| !allowed.includes(name)) {
        return Err(Refusal::Name(name.to_string()));
    }
    Ok(Sound {
        node: node.to_owned(),
        names: requested.names,
    })
}

/// What has been decided, whatever its `status`: an approver that comes second must not speak.
fn decided(request: &Value) -> Option<String> {
    let conditions = match request.pointer("/status/conditions") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(conditions)) => conditions
            .iter()
            .map(|one| text(one, "/type").to_owned())
            .collect(),
        Some(_) => vec!["?".to_owned()],
    };
    if !conditions.is_empty() {
        return Some(conditions.join(", "));
    }
    let certificate = request.pointer("/status/certificate");
    certificate
        .filter(|one| !one.is_null())
        .map(|_| "Issued".to_owned())
}

fn usages(request: &Value) -> Result<(), Refusal> {
    for usage in texts(request, "/spec/usages") {
        if usage.is_none_or(|usage| !USAGES.contains(&usage)) {
            return Err(Refusal::Usage(usage.unwrap_or("?").to_owned()));
        }
    }
    let [needed @ .., _] = USAGES;
    let missing = needed
        .into_iter()
        .find(|needed| !texts(request, "/spec/usages").any(|usage| usage == Some(needed)));
    missing.map_or(Ok(()), |missing| Err(Refusal::NoUsage(missing)))
}

/// The members of a list of texts; `None` for one that is no text.
fn texts<'r>(request: &'r Value, pointer: &str) -> impl Iterator<Item = Option<&'r str>> {
    let list = request.pointer(pointer).and_then(Value::as_array);
    list.into_iter().flatten().map(Value::as_str)
}

/// As names of Nodes are: a DNS subdomain (RFC 1123).
fn is_node_name(name: &str) -> bool {
    let label = |label: &str| {
        let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty() && label.bytes().all(is_inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests;
