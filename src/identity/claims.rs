//! What a service account's token says of itself. Anybody may write that: it counts once an apiserver has accepted the token,
//! or its signature has been verified.

use serde::{Deserialize, Serialize};

use super::credential::BearerToken;
use super::jwt::unverified_claims;
use super::principal::Principal;

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

/// The claims of a service account token in its two forms (`pkg/serviceaccount/{claims,legacy}.go`).
#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    #[serde(rename = "kubernetes.io")]
    bound: Option<BoundClaims>,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    legacy_namespace: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    legacy_name: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    legacy_uid: Option<String>,
}

#[derive(Deserialize)]
struct BoundClaims {
    namespace: String,
    serviceaccount: Reference,
    pod: Option<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    uid: String,
}

#[derive(Deserialize)]
struct Expiry {
    exp: Option<f64>,
}

/// The issuer of legacy tokens, the only one whose legacy claims mean anything.
pub(super) const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// The pod that a token of a service account is bound to.
pub(super) fn bound_pod(token: &BearerToken) -> Option<PodReference> {
    service_account(token)?;
    let bound = unverified_claims::<Claims>(token.as_bytes())?.bound?;
    let pod = bound.pod?;
    Some(PodReference {
        namespace: bound.namespace,
        name: pod.name,
        uid: pod.uid,
    })
}

pub(super) fn service_account(token: &BearerToken) -> Option<Principal> {
    let claims = unverified_claims::<Claims>(token.as_bytes())?;
    let (namespace, name, uid) = match (
        claims.bound,
        claims.legacy_namespace,
        claims.legacy_name,
        claims.legacy_uid,
    ) {
        (Some(bound), None, None, None) if claims.iss != LEGACY_ISSUER => (
            bound.namespace,
            bound.serviceaccount.name,
            bound.serviceaccount.uid,
        ),
        (None, Some(namespace), Some(name), Some(uid)) if claims.iss == LEGACY_ISSUER => {
            (namespace, name, uid)
        }
        _ => return None,
    };
    plain_account(&claims.sub, namespace, name, uid)
}

/// A service account whose subject is its own. kube-apiserver takes the user from the private claims; a subject that says
/// otherwise is not by its hand. A colon would let two accounts have one subject.
pub(super) fn plain_account(
    subject: &str,
    namespace: String,
    name: String,
    uid: String,
) -> Option<Principal> {
    let is_plain = [&namespace, &name, &uid]
        .into_iter()
        .all(|part| !part.is_empty() && !part.contains(':'));
    let is_its_own = subject == format!("system:serviceaccount:{namespace}:{name}");
    (is_plain && is_its_own).then(|| Principal::service_account(namespace, name, uid))
}

/// `exp` of any JWT. A `NumericDate` may have a fraction (RFC 7519, section 2).
pub(super) fn expiry(token: &BearerToken) -> Option<u64> {
    let exp = unverified_claims::<Expiry>(token.as_bytes())?.exp?;
    // Saturates: a negative number is long ago.
    Some(exp as u64)
}
