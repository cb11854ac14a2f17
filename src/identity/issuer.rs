//! Service account tokens that upstream has not been asked about: verified with the keys that the cluster publishes.
//!
//! Checks what kube-apiserver checks of a bound token (`pkg/serviceaccount/{jwt,claims}.go`) as far as it can be checked
//! without the cloud: signature, key, issuer, audience and period. Whether the pod that a token is bound to still exists
//! is for the caller to find out: [`Verified::pod`]. A token bound to anything else cannot be verified here.
//!
//! Invariants: the key decides the algorithm, never the token; what is not understood is refused; nothing of a token is in
//! an error.

mod keys;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::audiences::Audiences;
use super::claims::{LEGACY_ISSUER, PodReference, plain_account};
use super::credential::BearerToken;
use super::jwt::{Jwt, unverified_claims};
use super::principal::Principal;

use self::keys::Key;

/// A real one has about 1 KiB; whoever is not known yet must not make us work for megabytes.
const LARGEST_TOKEN: usize = 16 << 10;

/// Of the document with the keys.
const MOST_KEYS: usize = 100;

/// As kube-apiserver's own leeway.
const LEEWAY: Duration = Duration::from_secs(60);

/// What `/.well-known/openid-configuration` and `/openid/v1/jwks` say.
pub struct Issuer {
    name: String,
    keys: HashMap<String, Key>,
    skipped: usize,
}

/// Why documents of an issuer cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// Not a discovery document with an issuer.
    #[error("the discovery document has no issuer")]
    Configuration,
    /// Not a set of keys.
    #[error("the key document is no JSON Web Key Set")]
    Keys,
}

/// Why a token is not verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unverified {
    /// Longer than 16 KiB.
    TooLarge,
    /// Not three parts of base64url with the JSON of a service account's token, each member once.
    Malformed,
    /// Encrypted, nested, or with a header that demands to be understood.
    Unsupported,
    /// No key has its `kid`.
    UnknownKey,
    /// `alg` is not its key's.
    WrongAlgorithm,
    /// The signature is not by its key.
    BadSignature,
    /// By another issuer.
    WrongIssuer,
    /// Not for the API server.
    WrongAudience,
    /// Bound to a Secret or a Node: whether that still exists is not known here.
    Unverifiable,
}

impl Unverified {
    /// For log fields and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::UnknownKey => "unknown_key",
            Self::WrongAlgorithm => "wrong_algorithm",
            Self::BadSignature => "bad_signature",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::Unverifiable => "unverifiable",
        }
    }
}

/// A token that the issuer has signed for the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whose it is.
    pub principal: Principal,
    /// The pod that must exist.
    pub pod: Option<PodReference>,
    not_before: u64,
    expires: u64,
}

impl Verified {
    /// Whether `moment` is within its period, give or take a minute.
    pub fn valid_at(&self, moment: SystemTime) -> bool {
        let Ok(moment) = moment.duration_since(SystemTime::UNIX_EPOCH) else {
            return false;
        };
        let (from, until) = (
            Duration::from_secs(self.not_before),
            Duration::from_secs(self.expires),
        );
        moment.saturating_add(LEEWAY) >= from && moment < until.saturating_add(LEEWAY)
    }
}

impl Issuer {
    /// Reads both documents. Keys of kinds that are not used here are counted and left out.
    pub fn parse(configuration: &[u8], keys: &[u8]) -> Result<Self, IssuerError> {
        let Configuration { issuer } =
            serde_json::from_slice(configuration).map_err(|_| IssuerError::Configuration)?;
        if issuer.is_empty() {
            return Err(IssuerError::Configuration);
        }
        let set: KeySet<'_> = serde_json::from_slice(keys).map_err(|_| IssuerError::Keys)?;
        let mut read = Self {
            name: issuer,
            keys: HashMap::new(),
            skipped: set.keys.len().saturating_sub(MOST_KEYS),
        };
        for key in set.keys.iter().take(MOST_KEYS) {
            match Key::read(key.get()) {
                Some((id, key)) => {
                    read.keys.entry(id).or_insert(key);
                }
                None => read.skipped += 1,
            }
        }
        Ok(read)
    }

    /// Its name: the `iss` of its tokens.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many keys can be used.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key can be used.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many keys were left out.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Verifies a token for the API server.
    pub fn verify(&self, token: &BearerToken, audiences: &Audiences) -> Result<Verified, Unverified> {
        let claims = self.signed(token)?;
        if !audiences.include(&claims.aud, &self.name) {
            return Err(Unverified::WrongAudience);
        }
        claims.verified()
    }

    /// For whom a token is that this issuer has signed: what [`Audiences::learn`] is told of one that upstream has
    /// accepted.
    pub fn audiences(&self, token: &BearerToken) -> Result<Vec<String>, Unverified> {
        Ok(self.signed(token)?.aud)
    }

    /// Whether a token names another issuer, and is by none of this one's keys. An API server may take such tokens for users
    /// of its own choice (`--oidc-issuer-url`, structured authentication, another cluster's service accounts among them):
    /// what they say of service accounts is not about those of this cluster. An issuer that was renamed has its keys still.
    pub fn is_foreign(&self, token: &BearerToken) -> bool {
        let Some(Named { iss }) = unverified_claims(token.as_bytes()) else {
            return false;
        };
        let is_own = iss == self.name || iss == LEGACY_ISSUER;
        !is_own && !matches!(self.signed(token), Err(Unverified::WrongIssuer))
    }

    /// The claims of a token that this issuer has signed.
    fn signed(&self, token: &BearerToken) -> Result<Claims, Unverified> {
        let bytes = token.as_bytes();
        if bytes.len() > LARGEST_TOKEN {
            return Err(Unverified::TooLarge);
        }
        let jwt = Jwt::split(bytes).ok_or(Unverified::Malformed)?;
        let key = self.key_of(&jwt)?;
        let signature = jwt.signature().ok_or(Unverified::Malformed)?;
        if !key.has_signed(jwt.signed(), &signature) {
            return Err(Unverified::BadSignature);
        }
        let claims: Claims = jwt.claims().ok_or(Unverified::Malformed)?;
        if claims.iss != self.name {
            return Err(Unverified::WrongIssuer);
        }
        Ok(claims)
    }

    fn key_of(&self, jwt: &Jwt<'_>) -> Result<&Key, Unverified> {
        let header = jwt.header().ok_or(Unverified::Malformed)?;
        if !header.is_plain() {
            return Err(Unverified::Unsupported);
        }
        let key = header.kid.as_deref().and_then(|kid| self.keys.get(kid));
        let key = key.ok_or(Unverified::UnknownKey)?;
        if header.alg != key.algorithm().as_str() {
            return Err(Unverified::WrongAlgorithm);
        }
        Ok(key)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: BTreeMap<_, _> = self.keys.iter().map(|(id, key)| (id, key.algorithm())).collect();
        f.debug_struct("Issuer")
            .field("name", &self.name)
            .field("keys", &ids)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Configuration {
    issuer: String,
}

#[derive(Deserialize)]
struct Named {
    iss: String,
}

#[derive(Deserialize)]
struct KeySet<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// The claims of a bound token. A member that is given twice is an error.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: u64,
    nbf: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
}

#[derive(Deserialize)]
struct Bound {
    namespace: String,
    serviceaccount: Reference,
    pod: Option<Reference>,
    secret: Option<Reference>,
    node: Option<Reference>,
    /// When a cluster that forgives late renewals begins to warn. No condition.
    #[serde(rename = "warnafter")]
    _warn_after: Option<IgnoredAny>,
    /// Whatever else the token may be bound to; since 1.37 to webhook configurations.
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    uid: String,
}

impl Claims {
    fn verified(self) -> Result<Verified, Unverified> {
        let Bound {
            namespace,
            serviceaccount,
            pod,
            secret,
            node,
            _warn_after,
            others,
        } = self.kubernetes;
        // The node of a pod's token is information; alone, it is what the token is bound to.
        if secret.is_some() || (node.is_some() && pod.is_none()) || !others.is_empty() {
            return Err(Unverified::Unverifiable);
        }
        let pod = pod.map(|pod| PodReference {
            namespace: namespace.clone(),
            name: pod.name,
            uid: pod.uid,
        });
        let principal = plain_account(&self.sub, namespace, serviceaccount.name, serviceaccount.uid)
            .ok_or(Unverified::Malformed)?;
        Ok(Verified {
            principal,
            pod,
            not_before: self.nbf,
            expires: self.exp,
        })
    }
}

#[cfg(test)]
mod tests;
