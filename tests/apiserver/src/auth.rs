//! Who a request is: client certificate first, then bearer token, then anonymous.

use std::collections::HashMap;

use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::status::Status;
use crate::{clock, secrets};

/// An authenticated user, as kube-apiserver would name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// `system:node:edge-1`, `system:serviceaccount:ns:name`, `system:anonymous`, ...
    pub name: String,
    /// Groups, always with `system:authenticated` or `system:unauthenticated`.
    pub groups: Vec<String>,
    /// Empty for most.
    pub uid: String,
    /// An object of lists, or null.
    pub extra: Value,
}

impl User {
    fn authenticated(name: &str, groups: &[String]) -> Self {
        let mut groups = groups.to_vec();
        groups.push("system:authenticated".into());
        Self {
            name: name.to_owned(),
            groups,
            uid: String::new(),
            extra: Value::Null,
        }
    }

    pub(crate) fn info(&self) -> Value {
        json!({"username": self.name, "uid": self.uid, "groups": self.groups, "extra": self.extra})
    }

    pub(crate) fn anonymous() -> Self {
        Self {
            name: "system:anonymous".into(),
            groups: vec!["system:unauthenticated".into()],
            uid: String::new(),
            extra: Value::Null,
        }
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.name == "system:anonymous"
    }
}

/// What the client's certificate proves.
#[derive(Clone, Debug, Default)]
pub(crate) enum Certificate {
    #[default]
    None,
    /// Signed by our authority and in time; the common name may be missing.
    Verified { cn: Option<String>, orgs: Vec<String> },
    /// The handshake went through (the client holds the key), but the chain or the time is wrong.
    Refused { cn: Option<String> },
}

impl Certificate {
    pub(crate) fn cn(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Verified { cn, .. } | Self::Refused { cn } => cn.as_deref(),
        }
    }
}

/// Bearer tokens and their owners.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    known: Mutex<HashMap<String, Owner>>,
}

#[derive(Clone, Debug)]
struct Owner {
    name: String,
    groups: Vec<String>,
    uid: String,
    extra: Value,
    expires: Option<i64>,
}

impl Tokens {
    /// Registers `token`; `expires` is in seconds since 1970.
    pub(crate) fn add(&self, token: &str, name: &str, groups: Vec<String>, expires: Option<i64>) {
        secrets::register_token(token);
        self.known.lock().insert(
            token.to_owned(),
            Owner {
                name: name.to_owned(),
                groups,
                uid: String::new(),
                extra: Value::Null,
                expires,
            },
        );
    }

    /// What else is known of the owner of a registered token.
    pub(crate) fn describe(&self, token: &str, uid: &str, extra: Value) {
        if let Some(owner) = self.known.lock().get_mut(token) {
            owner.uid = uid.to_owned();
            owner.extra = extra;
        }
    }

    pub(crate) fn revoke(&self, token: &str) {
        self.known.lock().remove(token);
    }

    pub(crate) fn user(&self, token: &str) -> Option<User> {
        let known = self.known.lock();
        let owner = known.get(token)?;
        // The real server gives a minute of leeway.
        let live = owner.expires.is_none_or(|at| clock::unix() < at + 60);
        live.then(|| User {
            uid: owner.uid.clone(),
            extra: owner.extra.clone(),
            ..User::authenticated(&owner.name, &owner.groups)
        })
    }
}

/// The token of `Authorization: Bearer`, if there is one.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
        .filter(|t| !t.is_empty())
}

/// The first success wins; a credential that fails is an error even if nothing else was tried.
pub(crate) fn authenticate(
    certificate: &Certificate,
    headers: &HeaderMap,
    tokens: &Tokens,
) -> Result<User, Status> {
    if let Certificate::Verified { cn: Some(cn), orgs } = certificate {
        return Ok(User::authenticated(cn, orgs));
    }
    if let Some(token) = bearer(headers) {
        return tokens.user(token).ok_or_else(Status::unauthorized);
    }
    match certificate {
        Certificate::Refused { .. } => Err(Status::unauthorized()),
        _ => Ok(User::anonymous()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        headers
    }

    #[test]
    fn a_certificate_wins_over_a_token_and_a_nameless_one_does_not() {
        let tokens = Tokens::default();
        tokens.add("t", "alice", vec!["dev".into()], None);
        let named = Certificate::Verified {
            cn: Some("node".into()),
            orgs: vec!["g".into()],
        };
        assert_eq!(authenticate(&named, &headers("t"), &tokens).unwrap().name, "node");
        let nameless = Certificate::Verified {
            cn: None,
            orgs: vec![],
        };
        let alice = authenticate(&nameless, &headers("t"), &tokens).unwrap();
        assert_eq!((alice.name.as_str(), alice.groups.len()), ("alice", 2));
        assert!(
            authenticate(&nameless, &HeaderMap::new(), &tokens)
                .unwrap()
                .is_anonymous()
        );
    }

    #[test]
    fn a_bad_credential_is_401_and_not_anonymous() {
        let tokens = Tokens::default();
        tokens.add("old", "bob", vec![], Some(1));
        let refused = Certificate::Refused {
            cn: Some("node".into()),
        };
        assert_eq!(
            authenticate(&Certificate::None, &headers("x"), &tokens)
                .unwrap_err()
                .code,
            401
        );
        assert_eq!(
            authenticate(&Certificate::None, &headers("old"), &tokens)
                .unwrap_err()
                .code,
            401
        );
        assert_eq!(
            authenticate(&refused, &HeaderMap::new(), &tokens)
                .unwrap_err()
                .code,
            401
        );
        tokens.add("t", "alice", vec![], None);
        assert!(authenticate(&refused, &headers("t"), &tokens).is_ok());
        tokens.revoke("t");
        assert!(authenticate(&Certificate::None, &headers("t"), &tokens).is_err());
    }
}
