//! What an issued token says of itself. Not verified: the apiserver has just made it, and what is read here only
//! ever narrows for what and for how long it is given again.

use serde::Deserialize;

use crate::identity::{PodReference, unverified_claims};

use super::ask::Account;

#[derive(Deserialize)]
struct Claims {
    exp: f64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Named,
    pod: Bound,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Bound {
    uid: String,
}

/// The expiry of a token in seconds since 1970; `None` if it is not one of this account for this pod.
pub(super) fn expiry_of(token: &str, account: &Account, pod: &PodReference) -> Option<u64> {
    let claims = unverified_claims::<Claims>(token.as_bytes())?;
    let Kubernetes {
        namespace,
        serviceaccount,
        pod: bound,
    } = claims.kubernetes;
    let is_asked =
        namespace == account.namespace && serviceaccount.name == account.name && bound.uid == pod.uid;
    // Saturates: a negative number is long ago. A fraction only ends it sooner.
    is_asked.then_some(claims.exp as u64)
}
