//! Requests that ask for more than a node's edgehold may have, each in one way, and why each is not approved.

use std::path::Path;

use anyhow::ensure;
use tokio::process::Command;

/// A request, in the words of an OpenSSL configuration.
#[derive(Clone, Copy)]
pub(super) struct Request {
    /// The node that sends it.
    pub(super) sender: &'static str,
    /// Kind and size of the key, as for `openssl req -newkey`.
    pub(super) key: &'static str,
    /// The subject.
    pub(super) subject: &'static str,
    /// The subject alternative names.
    pub(super) names: &'static str,
    /// Extensions beside them.
    pub(super) extensions: &'static str,
    /// Attributes beside the extensions.
    pub(super) attributes: &'static str,
    /// What the object says that it is for.
    pub(super) usages: &'static [&'static str],
    /// Comes after it in the same text.
    pub(super) is_followed_by_another: bool,
}

impl Request {
    pub(super) const HONEST: Self = Self {
        sender: "edge-1",
        key: "ec:P-256",
        subject: "O=system:nodes\nCN=system:node:edge-1",
        names: "DNS.1=kubernetes\nDNS.2=kubernetes.default.svc\nIP.1=10.0.0.1\nIP.2=127.0.0.1",
        extensions: "",
        attributes: "",
        usages: &["digital signature", "server auth"],
        is_followed_by_another: false,
    };

    const fn about(subject: &'static str) -> Self {
        Self {
            subject,
            ..Self::HONEST
        }
    }

    const fn with(extensions: &'static str) -> Self {
        Self {
            extensions,
            ..Self::HONEST
        }
    }

    /// As OpenSSL writes it, with a key that is thrown away.
    pub(super) async fn pem(&self, dir: &Path) -> anyhow::Result<String> {
        let mut config = format!(
            "[req]\nprompt=no\nstring_mask=utf8only\ndistinguished_name=dn\nreq_extensions=ext\nattributes=attr\n[dn]\n{}\n\
             [attr]\n{}\n[ext]\n{}\n",
            self.subject, self.attributes, self.extensions
        );
        if !self.names.is_empty() {
            config.push_str(&format!("subjectAltName=@names\n[names]\n{}\n", self.names));
        }
        let file = dir.join("request.cnf");
        std::fs::write(&file, config)?;
        let mut command = Command::new("openssl");
        command.args(["req", "-new", "-nodes", "-keyout", "/dev/null", "-config"]);
        command.arg(&file).kill_on_drop(true);
        match self.key.split_once(':') {
            Some(("ec", curve)) => {
                command.args(["-newkey", "ec", "-pkeyopt"]);
                command.arg(format!("ec_paramgen_curve:{curve}"))
            }
            _ => command.args(["-newkey", self.key]),
        };
        let output = command.output().await?;
        ensure!(
            output.status.success(),
            "openssl: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut pem = String::from_utf8(output.stdout)?;
        if self.is_followed_by_another {
            pem = pem.repeat(2);
        }
        Ok(pem)
    }
}

/// Name after `edgehold-serving-`, request, and what the reason has.
pub(super) fn dishonest() -> impl Iterator<Item = (&'static str, Request, &'static str)> {
    let named = NAMES.into_iter().map(|(name, names, why)| {
        let request = Request {
            names,
            ..Request::HONEST
        };
        (name, request, why)
    });
    named.chain(OTHERS)
}

/// Names that a node may not ask for, as [`dishonest`] has them.
const NAMES: [(&str, &str, &str); 11] = [
    (
        "edge-1-other-name",
        "DNS.1=kubernetes\nDNS.2=evil.example",
        "evil.example",
    ),
    (
        "edge-1-line-feed",
        "DNS.1=kubernetes\\nDNS:evil.example",
        "it asks for \"kubernetes\\nDNS:evil.example\"",
    ),
    ("edge-1-wildcard", "DNS.1=*.default.svc", "*.default.svc"),
    ("edge-1-dot", "DNS.1=kubernetes.", "kubernetes."),
    ("edge-1-capitals", "DNS.1=KUBERNETES", "KUBERNETES"),
    ("edge-1-address-as-name", "DNS.1=10.0.0.1", "10.0.0.1"),
    (
        "edge-1-other-address",
        "DNS.1=kubernetes\nIP.1=203.0.113.9",
        "203.0.113.9",
    ),
    (
        "edge-1-mapped-address",
        "DNS.1=kubernetes\nIP.1=::ffff:127.0.0.1",
        "127.0.0.1",
    ),
    (
        "edge-1-uri",
        "DNS.1=kubernetes\nURI.1=spiffe://cluster.local/x",
        "neither a DNS name nor an IP address",
    ),
    (
        "edge-1-email",
        "DNS.1=kubernetes\nemail.1=a@evil.example",
        "neither a DNS name nor an IP address",
    ),
    ("edge-1-no-names", "", "asks for no names"),
];

/// What else may be wrong.
const OTHERS: [(&str, Request, &str); 11] = [
    (
        "edge-1-other-node",
        Request::about("O=system:nodes\nCN=system:node:edge-2"),
        "its subject is",
    ),
    (
        "edge-1-masters",
        Request::about("O=system:masters\nCN=system:node:edge-1"),
        "its subject is",
    ),
    (
        "edge-1-two-groups",
        Request::about("0.O=system:nodes\n1.O=system:masters\nCN=system:node:edge-1"),
        "not one CN and one O",
    ),
    (
        "edge-1-authority",
        Request::with("basicConstraints=critical,CA:TRUE"),
        "more than names",
    ),
    (
        "edge-1-client",
        Request::with("extendedKeyUsage=clientAuth"),
        "more than names",
    ),
    (
        "edge-1-password",
        Request {
            attributes: "challengePassword=secret",
            ..Request::HONEST
        },
        "more than names",
    ),
    (
        "edge-1-client-usage",
        Request {
            usages: &["digital signature", "server auth", "client auth"],
            ..Request::HONEST
        },
        "the usage \"client auth\"",
    ),
    (
        "edge-1-small-key",
        Request {
            key: "rsa:1024",
            ..Request::HONEST
        },
        "of a kind that is not taken",
    ),
    (
        "edge-1-two-in-one",
        Request {
            is_followed_by_another: true,
            ..Request::HONEST
        },
        "not one certificate request",
    ),
    (
        "edge-1-person",
        Request {
            sender: "a person",
            ..Request::HONEST
        },
        "which is no node",
    ),
    (
        "edge-9-gone",
        Request {
            sender: "edge-9",
            subject: "O=system:nodes\nCN=system:node:edge-9",
            ..Request::HONEST
        },
        "the cluster has no node \"edge-9\"",
    ),
];
