//! Whether each client may do in the cluster what the configuration has it do: asked of an apiserver itself, as that client
//! (SelfSubjectAccessReview). Changes nothing there.
//!
//! What clients ask for themselves is their own affair; here is what edgehold asks in their name.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::config::{Client, Config, IssuerCredential, KUBELET_SERVING, MaterialRef};
use crate::node::client::{ApiClient, ApiError};
use crate::tls::{Alpn, ClientTls, Roots, TrustedTime};
use crate::upstream::Endpoint;
use crate::upstream::direct::{Direct, Identity};

use super::network::own_pair;
use super::report::{Fault, Report};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// One thing that a client must be allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Need {
    /// As `kubectl auth can-i` would have it: `get secrets/tls -n edge`.
    words: String,
    /// `resourceAttributes` or `nonResourceAttributes`.
    attributes: Value,
    /// The field that needs it.
    field: &'static str,
}

/// Asks for every client that is to do something.
pub(super) async fn ask(config: &Config) -> Report {
    let mut report = Report::default();
    let needs = needs(config);
    if needs.is_empty() {
        let line = "rights: nothing is asked in the name of a client";
        report.lines.push(line.to_owned());
    }
    for (name, needs) in needs {
        let client = config.clients.iter().find(|client| client.common_name == name);
        let Some(ways) = client.and_then(|client| ways(config, client)) else {
            let line =
                format!("rights of {name}: not asked, its certificate or upstream.caFile cannot be used");
            report.lines.push(line);
            continue;
        };
        for need in needs {
            match may(&ways, &need).await {
                Ok(true) => report.lines.push(format!("rights: {name} may {}", need.words)),
                Ok(false) => report.problem(
                    Fault::Rights,
                    format!(
                        "{}: {name} may not {}; RBAC must allow it",
                        need.field, need.words
                    ),
                ),
                Err(error) => report.problem(
                    Fault::Unreachable,
                    format!(
                        "{}: whether {name} may {} cannot be asked: {error}",
                        need.field, need.words
                    ),
                ),
            }
        }
    }
    report
}

/// The answer of the first server that gives one.
async fn may(ways: &[Direct], need: &Need) -> Result<bool, ApiError> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": need.attributes,
    });
    let mut last = ApiError::Unreachable("there is no server".to_owned());
    for way in ways {
        match ApiClient::direct(way.clone()).create(REVIEWS, &review).await {
            Ok(answer) => return Ok(answer.pointer("/status/allowed") == Some(&Value::Bool(true))),
            Err(error @ ApiError::Unreachable(_)) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// To each server, as this client.
fn ways(config: &Config, client: &Client) -> Option<Vec<Direct>> {
    let roots = Roots::load(&config.upstream.ca_file).ok()?;
    let shown = own_pair(client)?.identity();
    let time = TrustedTime::new();
    let tls = ClientTls::new(Some(&roots), Some(&shown), Alpn::Http1, &time).ok()?;
    let settings = &config.upstream.settings;
    let way = |endpoint: &Endpoint| Direct {
        endpoint: endpoint.clone(),
        proxy: settings.dial.proxy.clone(),
        identity: Identity::Certificate(tls.clone()),
    };
    Some(settings.servers.iter().map(way).collect())
}

/// By the name of the client.
fn needs(config: &Config) -> BTreeMap<&str, Vec<Need>> {
    let mut needs: BTreeMap<&str, Vec<Need>> = BTreeMap::new();
    let serving = &config.listen.tls;
    if let Some(csr) = &serving.csr {
        let of = needs.entry(csr.client.as_str()).or_default();
        for verb in ["create", "get", "watch"] {
            of.push(Need {
                words: format!(
                    "{verb} certificatesigningrequests for {}",
                    signer(&csr.signer_name)
                ),
                attributes: json!({"resourceAttributes": {
                    "group": "certificates.k8s.io", "resource": "certificatesigningrequests", "verb": verb,
                }}),
                field: "listen.tls.csr",
            });
        }
    }
    let mut object = |from: &'_ Option<MaterialRef>, resource: &str, field: &'static str| {
        let Some(from) = from else { return };
        let Some(client) = config
            .clients
            .iter()
            .find(|client| client.common_name == from.client)
        else {
            return;
        };
        for verb in ["get", "watch"] {
            needs.entry(client.common_name.as_str()).or_default().push(Need {
                words: format!("{verb} {resource}/{} -n {}", from.name, from.namespace),
                attributes: json!({"resourceAttributes": {
                    "namespace": from.namespace, "name": from.name, "resource": resource, "verb": verb,
                }}),
                field,
            });
        }
    };
    object(&serving.secret_ref, "secrets", "listen.tls.secretRef");
    object(
        &serving.client_ca_ref,
        "configmaps",
        "listen.tls.clientCAConfigMapRef",
    );
    object(&config.upstream.ca_ref, "configmaps", "upstream.caConfigMapRef");
    for client in &config.clients {
        object(&client.secret_ref, "secrets", "clients[].secretRef");
    }
    if let Some(IssuerCredential::Client(name)) = &config.offline.issuer.credential {
        for path in ["/.well-known/openid-configuration", "/openid/v1/jwks"] {
            needs.entry(name.as_str()).or_default().push(Need {
                words: format!("get {path}"),
                attributes: json!({"nonResourceAttributes": {"path": path, "verb": "get"}}),
                field: "offline.issuer (ClusterRole system:service-account-issuer-discovery)",
            });
        }
    }
    needs
}

fn signer(name: &str) -> &str {
    match name {
        KUBELET_SERVING => "kubelet-serving",
        other => other,
    }
}
