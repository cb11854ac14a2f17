use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, KeyPair, SanType};
use serde_json::json;

use super::*;

const NODE: &str = "system:node:edge-1";
const NAMES: [&str; 6] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "10.96.0.1",
    "169.254.20.11",
];

/// What an honest request is changed to.
struct Ask {
    params: CertificateParams,
    object: Value,
}

impl Ask {
    fn honest() -> Self {
        Self::for_names(&NAMES)
    }

    fn for_names(names: &[&str]) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(&[NODE], &["system:nodes"]);
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into().unwrap()),
            });
        }
        let object = json!({
            "metadata": {"name": "edgehold-serving-edge-1-0"},
            "spec": {
                "signerName": SIGNER,
                "username": NODE,
                "groups": ["system:nodes", "system:authenticated"],
                "usages": ["digital signature", "server auth"],
            },
            "status": {},
        });
        Self { params, object }
    }

    fn more(names: &[&str]) -> Self {
        Self::for_names(&[NAMES.as_slice(), names].concat())
    }

    fn with(mut self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        change(&mut self.params);
        self
    }

    fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        self.object.pointer_mut(parent).unwrap()[field] = value;
        self
    }

    fn judged(&self) -> Result<Sound, Refusal> {
        let mut object = self.object.clone();
        if object["spec"]["request"].is_null() {
            let request = self
                .params
                .serialize_request(&KeyPair::generate().unwrap())
                .unwrap();
            object["spec"]["request"] = STANDARD.encode(request.pem().unwrap()).into();
        }
        let addresses = ["169.254.20.11".parse().unwrap()];
        let allowed = Allowed::service("cluster.local", ["10.96.0.1".parse().unwrap()]);
        judge(&object, &allowed.and(addresses))
    }
}

fn subject(common_names: &[&str], organizations: &[&str]) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    for name in organizations {
        subject.push(DnType::OrganizationName, *name);
    }
    for name in common_names {
        subject.push(DnType::CommonName, *name);
    }
    subject
}

#[test]
fn an_honest_request_is_sound() {
    let sound = Ask::honest().judged().unwrap();
    assert_eq!(sound.node, "edge-1");
    assert_eq!(sound.names.len(), NAMES.len());
    let all = json!(["key encipherment", "server auth", "digital signature"]);
    assert!(Ask::honest().set("/spec/usages", all).judged().is_ok());
    for undecided in [json!(null), json!([])] {
        assert!(
            Ask::honest()
                .set("/status/conditions", undecided)
                .judged()
                .is_ok()
        );
    }
}

fn names(names: &[&str]) -> Vec<(String, Ask)> {
    names
        .iter()
        .map(|name| (format!("name {name:?}"), Ask::more(&[name])))
        .collect()
}

fn dishonest_requests() -> Vec<(String, Ask)> {
    let said = |name: &str, ask: Ask| (name.to_owned(), ask);
    vec![
        said("no names", Ask::for_names(&[])),
        said(
            "a mail address",
            Ask::honest().with(|params| {
                let mail = SanType::Rfc822Name("a@b".try_into().unwrap());
                params.subject_alt_names.push(mail);
            }),
        ),
        said(
            "a URI",
            Ask::honest().with(|params| {
                let uri = SanType::URI("spiffe://cluster.local/a".try_into().unwrap());
                params.subject_alt_names.push(uri);
            }),
        ),
        said(
            "a second list of names",
            Ask::honest().with(|params| {
                let evil =
                    CustomExtension::from_oid_content(&[2, 5, 29, 17], b"\x30\x06\x82\x04evil".to_vec());
                params.custom_extensions.push(evil);
            }),
        ),
        said(
            "an authority",
            Ask::honest().with(|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
        ),
        said(
            "usages in the request itself",
            Ask::honest().with(|params| {
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            }),
        ),
        said(
            "another node's name",
            Ask::honest().with(|params| {
                params.distinguished_name = subject(&["system:node:edge-2"], &["system:nodes"])
            }),
        ),
        said(
            "a name that ends with a line",
            Ask::honest().with(|params| {
                params.distinguished_name = subject(&["system:node:edge-1\n"], &["system:nodes"])
            }),
        ),
        said(
            "other groups",
            Ask::honest().with(|params| params.distinguished_name = subject(&[NODE], &["system:masters"])),
        ),
        said(
            "no group",
            Ask::honest().with(|params| params.distinguished_name = subject(&[NODE], &[])),
        ),
        said(
            "another sender",
            Ask::honest().set("/spec/username", json!("system:node:edge-2")),
        ),
        said(
            "a sender that is no node",
            Ask::honest().set("/spec/username", json!("edge-1")),
        ),
        said(
            "a node without a name",
            Ask::honest().set("/spec/username", json!("system:node:")),
        ),
        said(
            "a sender outside the nodes' group",
            Ask::honest().set("/spec/groups", json!(["system:authenticated"])),
        ),
        said(
            "another signer",
            Ask::honest().set(
                "/spec/signerName",
                json!("kubernetes.io/kube-apiserver-client-kubelet"),
            ),
        ),
        said(
            "client auth",
            Ask::honest().set(
                "/spec/usages",
                json!(["digital signature", "server auth", "client auth"]),
            ),
        ),
        said(
            "no server auth",
            Ask::honest().set("/spec/usages", json!(["digital signature"])),
        ),
        said("no usages", Ask::honest().set("/spec/usages", json!(null))),
        said(
            "denied",
            Ask::honest().set(
                "/status/conditions",
                json!([{"type": "Denied", "status": "True"}]),
            ),
        ),
        said(
            "approved",
            Ask::honest().set(
                "/status/conditions",
                json!([{"type": "Approved", "status": "True"}]),
            ),
        ),
        said("issued", Ask::honest().set("/status/certificate", json!("UEVN"))),
        said("no base64", Ask::honest().set("/spec/request", json!("?"))),
        said(
            "no request",
            Ask::honest().set("/spec/request", json!(STANDARD.encode("x"))),
        ),
    ]
}

#[test]
fn no_dishonest_request_is_sound() {
    let mut all = dishonest_requests();
    all.extend(names(&[
        // What OpenSSL prints raw, and a reader of lines takes for the end.
        "kubernetes\n",
        "kubernetes\nDNS:evil",
        "kubernetes, DNS:evil",
        "evil",
        "*",
        "*.default.svc",
        "KUBERNETES",
        "kubernetes.",
        "kubernetes.default.svc.cluster.local.evil",
        "203.0.113.9",
        "::ffff:203.0.113.9",
        "::ffff:169.254.20.11",
        "127.0.0.1",
        "fd00::b",
    ]));
    for (name, ask) in all {
        let judged = ask.judged();
        let said = judged.expect_err(&name).to_string();
        assert!(!said.contains('\n'), "{name}: more than a line: {said:?}");
    }
}

#[test]
fn what_is_node_local_is_allowed_where_nobody_says_which() {
    let allowed = Allowed::service("cluster.local", []).and_node_local();
    let is = |name: &str| allowed.includes(&name.parse().unwrap());
    for name in [
        "127.0.0.1",
        "127.1.2.3",
        "::1",
        "169.254.20.11",
        "fe80::1",
        "kubernetes",
    ] {
        assert!(is(name), "{name}");
    }
    for name in [
        "10.0.0.1",
        "192.168.0.1",
        "::ffff:127.0.0.1",
        "fd00::1",
        "0.0.0.0",
        "::",
        "localhost",
    ] {
        assert!(!is(name), "{name}");
    }
}
