//! Service account tokens that upstream has not been asked about: verified with the keys that the cluster publishes.
//!
//! Checks what kube-apiserver checks of a bound token (`pkg/serviceaccount/{jwt,claims}.go`) as far as it can be checked
//! without the cloud: signature, key, issuer, audience and period. Whether the pod that a token is bound to still exists
//! is for the caller to find out: [`Verified::pod`]. A token bound to anything else cannot be verified here.
//!
//! Invariants: the key decides the algorithm, never the token; what is not understood is refused; nothing of a token is in
//! an error.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, SystemTime};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::credential::BearerToken;
use super::principal::Principal;
use super::tokens::plain_account;

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

struct Key {
    algorithm: Algorithm,
    key: DecodingKey,
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

/// A pod, as a token names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodReference {
    /// Its namespace, the service account's.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: another pod of the same name is another pod.
    pub uid: String,
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
            match serde_json::from_str(key.get()).ok().and_then(|jwk| usable(&jwk)) {
                Some((id, key)) => {
                    read.keys.entry(id).or_insert(key);
                }
                None => read.skipped += 1,
            }
        }
        Ok(read)
    }

    /// Its name: the `iss` of its tokens, and the audience of those for the API server unless configured otherwise.
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

    /// Verifies a token for one of `audiences`; without any, for the issuer itself.
    pub fn verify(&self, token: &BearerToken, audiences: &[String]) -> Result<Verified, Unverified> {
        let bytes = token.as_bytes();
        if bytes.len() > LARGEST_TOKEN {
            return Err(Unverified::TooLarge);
        }
        let key = self.key_of(bytes)?;
        let mut validation = Validation::new(key.algorithm);
        // Each of these is checked below: `now` is not the clock's here, and what is missing must not pass.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claims = jsonwebtoken::decode::<Claims>(bytes, &key.key, &validation)
            .map_err(|error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidSignature => Unverified::BadSignature,
                _ => Unverified::Malformed,
            })?
            .claims;
        if claims.iss != self.name {
            return Err(Unverified::WrongIssuer);
        }
        let is_wanted = |audience: &String| {
            if audiences.is_empty() {
                *audience == self.name
            } else {
                audiences.contains(audience)
            }
        };
        if !claims.aud.iter().any(is_wanted) {
            return Err(Unverified::WrongAudience);
        }
        claims.verified()
    }

    fn key_of(&self, token: &[u8]) -> Result<&Key, Unverified> {
        // Five parts are an encrypted token.
        if token.iter().filter(|byte| **byte == b'.').count() != 2 {
            return Err(Unverified::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Unverified::Malformed)?;
        let is_plain = header.crit.is_none()
            && header.cty.is_none()
            && header.enc.is_none()
            && header.zip.is_none()
            && header.extras.inner().is_empty()
            && header
                .typ
                .as_deref()
                .is_none_or(|typ| typ.eq_ignore_ascii_case("jwt"));
        if !is_plain {
            return Err(Unverified::Unsupported);
        }
        let key = header.kid.as_deref().and_then(|kid| self.keys.get(kid));
        let key = key.ok_or(Unverified::UnknownKey)?;
        if header.alg != key.algorithm {
            return Err(Unverified::WrongAlgorithm);
        }
        Ok(key)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: BTreeMap<_, _> = self.keys.iter().map(|(id, key)| (id, key.algorithm)).collect();
        f.debug_struct("Issuer")
            .field("name", &self.name)
            .field("keys", &ids)
            .finish_non_exhaustive()
    }
}

/// The id of a public key for signatures of a kind that Kubernetes signs with, and the key. P-521 is not among the curves
/// that the JWT library verifies: tokens signed with it are known by memory only.
fn usable(jwk: &Jwk) -> Option<(String, Key)> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
            EllipticCurve::P256 => Algorithm::ES256,
            EllipticCurve::P384 => Algorithm::ES384,
            _ => return None,
        },
        _ => return None,
    };
    let common = &jwk.common;
    let says_otherwise = common
        .key_algorithm
        .is_some_and(|own| own != KeyAlgorithm::from(algorithm))
        || common
            .public_key_use
            .as_ref()
            .is_some_and(|own| *own != PublicKeyUse::Signature);
    let id = common.key_id.clone().filter(|id| !id.is_empty())?;
    if says_otherwise {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some((id, Key { algorithm, key }))
}

#[derive(Deserialize)]
struct Configuration {
    issuer: String,
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
        } = self.kubernetes;
        // The node of a pod's token is information; alone, it is what the token is bound to.
        if secret.is_some() || (node.is_some() && pod.is_none()) {
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
