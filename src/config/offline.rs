//! `offline`: what holds while the cloud is away.

use std::path::PathBuf;
use std::time::Duration;

use crate::tls::Expiry;

use super::error::{Fault, quoted};
use super::object::{Field, Object};
use super::reference::Names;
use super::{duration, text};

/// `offline`: what holds while the cloud is away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offline {
    /// What the expiry of certificates and tokens means.
    pub expiry: Expiry,
    /// Whose tokens are verified that the apiserver has not been asked about.
    pub issuer: Issuer,
    /// For how long the answer to a review may be given again; zero: not at all.
    pub reviews: Duration,
}

/// `offline.issuer`: how the cluster's keys for service account tokens come to be known, and what they vouch for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// As whom they are read; without it they are learned only from what clients read.
    pub credential: Option<IssuerCredential>,
    /// From one read to the next.
    pub refresh_interval: Duration,
    /// The audiences of the API server; empty: the issuer alone.
    pub audiences: Vec<String>,
}

/// As whom the cluster's keys are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerCredential {
    /// `tokenFile`: absolute path of a service account's token.
    TokenFile(PathBuf),
    /// `commonName`: one of `clients`.
    Client(String),
}

pub(super) fn read(offline: &mut Object<'_>, names: &Names) -> Offline {
    Offline {
        expiry: offline.or("expiry", Expiry::default(), |field| {
            field.choice(&[Expiry::LastContact, Expiry::Strict].map(|expiry| (expiry.as_str(), expiry)))
        }),
        issuer: offline.section("issuer", |issuer| read_issuer(issuer, names)),
        reviews: offline.or("reviews", Duration::ZERO, |field| {
            field.parse_amount("a duration like 5m, or 0s", review_time)
        }),
    }
}

fn read_issuer(issuer: &mut Object<'_>, names: &Names) -> Issuer {
    let credential = match ["tokenFile", "commonName"].map(|name| issuer.get(name)) {
        [Some(_), Some(client)] => {
            client.refuse(Fault::new("stands beside `tokenFile`", "keep one of them"));
            None
        }
        [Some(file), None] => file.path().map(IssuerCredential::TokenFile),
        [None, Some(client)] => read_client(&client, names).map(IssuerCredential::Client),
        [None, None] => None,
    };
    Issuer {
        credential,
        refresh_interval: issuer.duration("refreshInterval", Duration::from_secs(3600)),
        audiences: issuer.or("audiences", Vec::new(), |field| {
            let items = field.items();
            Some(
                items
                    .iter()
                    .filter_map(|item| item.text().map(str::to_owned))
                    .collect(),
            )
        }),
    }
}

fn read_client(field: &Field<'_>, names: &Names) -> Option<String> {
    let name = field.parse(text::common_name)?;
    if !names.contains(&name) {
        let wrong = format!("{} is not one of clients[].commonName", quoted(&name));
        field.refuse(Fault::new(wrong, "write the common name of a configured client"));
    }
    Some(name)
}

/// Zero turns it off, so here it is a duration too.
fn review_time(text: &str) -> Result<Duration, Fault> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        _ => duration::parse(text),
    }
}
