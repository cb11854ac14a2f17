//! Looks at one request at a time, and approves it if it passes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::tls::AltName;

use super::super::client::{ApiClient, ApiError};
use super::super::serving::{REQUESTS, SERVICE, cluster_ips};
use super::judge::{Allowed, Refusal, Sound, judge};

/// Looks at requests, and approves those that pass.
pub struct Approver {
    pub(super) client: ApiClient,
    cluster_domain: String,
    /// Listen addresses, and entries of `csr.names`.
    names: BTreeSet<AltName>,
}

/// What becomes of a request that passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is approved.
    Approve,
    /// Nothing.
    DryRun,
}

/// Why a request was not approved.
#[derive(Debug, thiserror::Error)]
pub enum NotApproved {
    /// It did not pass.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The cluster could not be asked, or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl Approver {
    /// With the rights of `client`. `names` may be asked for beside those of the Service `default/kubernetes`.
    pub fn new(client: ApiClient, cluster_domain: impl Into<String>, names: BTreeSet<AltName>) -> Self {
        Self {
            client,
            cluster_domain: cluster_domain.into(),
            names,
        }
    }

    /// What may be asked for: the Service's names and addresses, and what was named.
    ///
    /// # Errors
    /// The Service cannot be read.
    pub async fn allowed(&self) -> Result<Allowed, ApiError> {
        let service = self.client.get(SERVICE).await?;
        let allowed = Allowed::service(&self.cluster_domain, cluster_ips(&service));
        Ok(allowed.and(self.names.iter().cloned()))
    }

    /// Looks at one request by its name.
    ///
    /// # Errors
    /// Why it is not approved.
    pub async fn decide(&self, name: &str, allowed: &Allowed, mode: Mode) -> Result<Sound, NotApproved> {
        if !is_object_name(name) {
            return Err(ApiError::NotFound(format!("{name:?} is no name")).into());
        }
        let request = self.client.get(&format!("{REQUESTS}/{name}")).await?;
        let sound = judge(&request, allowed)?;
        if mode == Mode::Approve {
            self.approve(name, request).await?;
        }
        Ok(sound)
    }

    /// What was looked at is what is approved: its `spec` cannot be changed, and its version makes sure of the rest.
    pub(super) async fn approve(&self, name: &str, mut request: Value) -> Result<(), ApiError> {
        let approved = json!({
            "type": "Approved",
            "status": "True",
            "reason": "EdgeholdApprove",
            "message": "edgehold approve: a serving certificate for the requesting node, and for names that are allowed",
        });
        if let Some(request) = request.as_object_mut() {
            // Members of lists do not say what they are.
            request.insert("apiVersion".to_owned(), json!("certificates.k8s.io/v1"));
            request.insert("kind".to_owned(), json!("CertificateSigningRequest"));
            // Undecided: there is nothing else in it.
            request.insert("status".to_owned(), json!({"conditions": [approved]}));
        }
        self.client
            .update(&format!("{REQUESTS}/{name}/approval"), &request)
            .await
            .map(drop)
    }
}

/// Whether it can be the name of an object, so that it stands for itself in a path.
fn is_object_name(name: &str) -> bool {
    let is_of = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    (1..=253).contains(&name.len()) && name.bytes().all(is_of) && name != "." && name != ".."
}
