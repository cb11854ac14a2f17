//! CertificateSigningRequests of `certificates.k8s.io/v1`: the one we send, and what a look at it says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::config::ServingConfig;
use crate::node::client::text;

/// The collection.
pub(in crate::node) const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// What has become of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CsrStatus {
    /// Neither denied nor issued.
    Undecided,
    /// The chain, PEM.
    Issued(String),
    /// By an approver; reason and message.
    Denied(String),
    /// By the signer; reason and message.
    Failed(String),
    /// Issued, but not PEM in base64.
    Unreadable,
}

/// The object for a request (PEM).
pub(super) fn order(name: &str, request_pem: &str, config: &ServingConfig) -> Value {
    let mut spec = json!({
        "request": STANDARD.encode(request_pem),
        "signerName": config.signer_name,
        "usages": config.usages,
    });
    if let (Some(seconds), Some(spec)) = (config.expiration_seconds, spec.as_object_mut()) {
        spec.insert("expirationSeconds".to_owned(), json!(seconds));
    }
    json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": spec,
    })
}

/// Reads a request as the cluster has it. A denial counts more than a certificate.
pub(super) fn status_of(object: &Value) -> CsrStatus {
    if let Some(why) = condition(object, "Denied") {
        return CsrStatus::Denied(why);
    }
    let certificate = text(object, "/status/certificate");
    if !certificate.is_empty() {
        let chain = STANDARD.decode(certificate).ok();
        let chain = chain.and_then(|bytes| String::from_utf8(bytes).ok());
        return chain.map_or(CsrStatus::Unreadable, CsrStatus::Issued);
    }
    condition(object, "Failed").map_or(CsrStatus::Undecided, CsrStatus::Failed)
}

/// Reason and message of a condition that is true.
fn condition(object: &Value, kind: &str) -> Option<String> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let found = conditions
        .iter()
        .find(|condition| text(condition, "/type") == kind && text(condition, "/status") != "False")?;
    Some(format!("{}: {}", text(found, "/reason"), text(found, "/message")))
}

/// The name of a request: the same for the same key and order, so that a request which was sent before a restart is
/// found again and never sent twice.
pub(super) fn name(key_fingerprint: &str, names: &str, config: &ServingConfig) -> String {
    let common_name = &config.common_name;
    let order = format!(
        "{key_fingerprint}\n{names}\n{common_name}\n{:?}\n{}\n{:?}\n{:?}",
        config.organization, config.signer_name, config.usages, config.expiration_seconds
    );
    let digest = blake3::hash(order.as_bytes()).to_hex();
    let digest = digest.get(..16).unwrap_or_default();
    let node = common_name.rsplit(':').next().unwrap_or_default();
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '.' {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let node: String = node.chars().take(200).map(plain).collect();
    let node = node.trim_matches(['-', '.']);
    // Around a dot a DNS name has letters or digits.
    let node = node
        .split('.')
        .map(|label| label.trim_matches('-'))
        .filter(|label| !label.is_empty());
    let node = node.collect::<Vec<_>>().join(".");
    if node.is_empty() {
        format!("edgehold-serving-{digest}")
    } else {
        format!("edgehold-serving-{node}-{digest}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn config(common_name: &str) -> ServingConfig {
        ServingConfig {
            common_name: common_name.to_owned(),
            organization: Some("system:nodes".to_owned()),
            signer_name: "kubernetes.io/kubelet-serving".to_owned(),
            usages: vec!["digital signature".to_owned(), "server auth".to_owned()],
            expiration_seconds: None,
            names: BTreeSet::new(),
            cluster_domain: "cluster.local".to_owned(),
            directory: "/nowhere".into(),
        }
    }

    #[test]
    fn an_order_has_what_kubernetes_asks_for() {
        let plain = order("n", "PEM", &config("system:node:edge-1"));
        assert_eq!(
            plain["spec"],
            json!({
                "request": "UEVN",
                "signerName": "kubernetes.io/kubelet-serving",
                "usages": ["digital signature", "server auth"],
            })
        );
        assert_eq!(
            (&plain["apiVersion"], &plain["metadata"]["name"]),
            (&json!("certificates.k8s.io/v1"), &json!("n"))
        );
        let short = ServingConfig {
            expiration_seconds: Some(3600),
            ..config("system:node:edge-1")
        };
        assert_eq!(order("n", "PEM", &short)["spec"]["expirationSeconds"], 3600);
    }

    #[test]
    fn a_request_is_read_as_it_stands() {
        let condition = |kind: &str, status: &str| json!([{"type": kind, "status": status, "reason": "R", "message": "M"}]);
        let why = || "R: M".to_owned();
        for (status, expected) in [
            (json!({}), CsrStatus::Undecided),
            (
                json!({"conditions": condition("Approved", "True")}),
                CsrStatus::Undecided,
            ),
            (
                json!({"conditions": condition("Denied", "True")}),
                CsrStatus::Denied(why()),
            ),
            (
                json!({"conditions": condition("Denied", "True"), "certificate": "UEVN"}),
                CsrStatus::Denied(why()),
            ),
            (
                json!({"conditions": condition("Failed", "True")}),
                CsrStatus::Failed(why()),
            ),
            (
                json!({"conditions": condition("Failed", "False")}),
                CsrStatus::Undecided,
            ),
            (
                json!({"conditions": condition("Approved", "True"), "certificate": "UEVN"}),
                CsrStatus::Issued("PEM".to_owned()),
            ),
            (json!({"certificate": "?"}), CsrStatus::Unreadable),
        ] {
            assert_eq!(status_of(&json!({"status": status})), expected, "{status}");
        }
        assert_eq!(status_of(&json!({})), CsrStatus::Undecided);
    }

    #[test]
    fn names_of_requests_are_names_and_differ_by_what_is_ordered() {
        let of = |common_name: &str| name("key", "a,b", &config(common_name));
        let digest = |name: String| name.rsplit('-').next().unwrap().to_owned();
        assert!(of("system:node:edge-1").starts_with("edgehold-serving-edge-1-"));
        assert!(of("system:node:Edge_1.Example").starts_with("edgehold-serving-edge-1.example-"));
        assert!(of("system:node:-.-").starts_with("edgehold-serving-"));
        assert!(of(&"x".repeat(500)).len() <= 253);
        assert_eq!(of("system:node:edge-1"), of("system:node:edge-1"));
        assert_eq!(digest(of("system:node:edge-1")).len(), 16);
        let same = config("system:node:edge-1");
        assert_ne!(name("key", "a,b", &same), name("key", "a", &same));
        assert_ne!(name("key", "a,b", &same), name("yek", "a,b", &same));
    }
}
