//! `offline`: what holds while the cloud is away.

use std::path::PathBuf;
use std::time::Duration;

use crate::tls::Expiry;

use super::error::{Fault, Problems, quoted};
use super::object::{Field, or_default};
use super::{Client, duration, schema};

/// `offline`: what holds while the cloud is away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

impl Default for Issuer {
    fn default() -> Self {
        Self {
            credential: None,
            refresh_interval: Duration::from_secs(3600),
            audiences: Vec::new(),
        }
    }
}

/// Reads the section; `clients` are those that are right.
pub(super) fn read(field: Option<Field<'_>>, clients: &[Client], out: &mut Problems) -> Option<Offline> {
    let default = Offline::default();
    or_default(field, default.clone(), |field| {
        let object = field.object(&["expiry", "issuer", "reviews"], out)?;
        let choices = [Expiry::LastContact, Expiry::Strict].map(|expiry| (expiry.as_str(), expiry));
        let expiry = or_default(object.get("expiry"), default.expiry, |field| {
            field.choice(&choices, out)
        });
        let issuer = or_default(object.get("issuer"), default.issuer, |field| {
            read_issuer(&field, clients, out)
        });
        let reviews = or_default(object.get("reviews"), default.reviews, |field| {
            field.parse_amount("a duration like 5m, or 0s", review_time, out)
        });
        Some(Offline {
            expiry: expiry?,
            issuer: issuer?,
            reviews: reviews?,
        })
    })
}

fn read_issuer(field: &Field<'_>, clients: &[Client], out: &mut Problems) -> Option<Issuer> {
    let default = Issuer::default();
    let known = ["tokenFile", "commonName", "refreshInterval", "audiences"];
    let object = field.object(&known, out)?;
    let token_file = object.get("tokenFile");
    let client = object.get("commonName");
    if let (Some(_), Some(client)) = (&token_file, &client) {
        client.refuse(Fault::new("stands beside `tokenFile`", "keep one of them"), out);
        return None;
    }
    let credential = match (token_file, client) {
        (Some(field), _) => Some(IssuerCredential::TokenFile(field.parse(schema::path, out)?)),
        (None, Some(field)) => {
            let name = field.parse(schema::common_name, out)?;
            if !clients.iter().any(|client| client.common_name == name) {
                let wrong = format!("{} is not one of clients[].commonName", quoted(&name));
                field.refuse(
                    Fault::new(wrong, "write the common name of a configured client"),
                    out,
                );
                return None;
            }
            Some(IssuerCredential::Client(name))
        }
        (None, None) => None,
    };
    let refresh_interval = schema::time(&object, "refreshInterval", default.refresh_interval, out);
    let audiences = or_default(object.get("audiences"), default.audiences, |field| {
        let items = field.items(out)?;
        items
            .iter()
            .map(|item| item.text(out).map(str::to_owned))
            .collect()
    });
    Some(Issuer {
        credential,
        refresh_interval: refresh_interval?,
        audiences: audiences?,
    })
}

/// Zero turns it off, so here it is a duration too.
fn review_time(text: &str) -> Result<Duration, Fault> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        _ => duration::parse(text),
    }
}
