//! What people and controllers do with CertificateSigningRequests: approve, deny, sign.
//!
//! The rules of `kubernetes.io/kubelet-serving` are those of kube-controller-manager's signer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateSigningRequestParams, DnType, DnValue, ExtendedKeyUsagePurpose, SanType};
use serde_json::{Value, json};

use crate::pki::Validity;
use crate::standin::Standin;

const KIND: &str = "CertificateSigningRequest";

/// CertificateSigningRequests.
impl Standin {
    /// Approves a request and signs it as kube-controller-manager would: a request against the signer's rules gets a
    /// `Failed` condition instead of a certificate.
    ///
    /// # Panics
    /// If there is no such request.
    pub fn approve_csr(&self, name: &str, validity: Validity) {
        let mut csr = self.csr(name);
        let mut conditions = vec![
            json!({"type": "Approved", "status": "True", "reason": "KubectlApprove",
            "message": "This CSR was approved by kubectl certificate approve."}),
        ];
        match self.signed(&csr, validity) {
            Ok(chain) => csr["status"] = json!({"certificate": STANDARD.encode(chain)}),
            Err(why) => {
                let failed = json!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": why});
                conditions.push(failed);
            }
        }
        csr["status"]["conditions"] = json!(conditions);
        self.put(csr);
    }

    /// Denies a request.
    ///
    /// # Panics
    /// If there is no such request.
    pub fn deny_csr(&self, name: &str, message: &str) {
        let mut csr = self.csr(name);
        csr["status"]["conditions"] =
            json!([{"type": "Denied", "status": "True", "reason": "KubectlDeny", "message": message}]);
        self.put(csr);
    }

    /// Puts any certificate (PEM) into a request, as a signer with a defect might.
    ///
    /// # Panics
    /// If there is no such request.
    pub fn issue_csr(&self, name: &str, chain_pem: &str) {
        let mut csr = self.csr(name);
        csr["status"]["certificate"] = json!(STANDARD.encode(chain_pem));
        self.put(csr);
    }

    fn csr(&self, name: &str) -> Value {
        self.get(KIND, "", name)
            .unwrap_or_else(|| panic!("no request {name}"))
    }

    fn signed(&self, csr: &Value, validity: Validity) -> Result<String, String> {
        let request = csr["spec"]["request"].as_str().unwrap_or_default();
        let pem = STANDARD
            .decode(request)
            .map_err(|_| "spec.request is not base64")?;
        let pem = String::from_utf8(pem).map_err(|_| "spec.request is not PEM")?;
        let asked = CertificateSigningRequestParams::from_pem(&pem).map_err(|e| e.to_string())?;
        if csr["spec"]["signerName"] == "kubernetes.io/kubelet-serving" {
            kubelet_serving(&asked, &csr["spec"]["usages"])?;
        }
        let usages = [ExtendedKeyUsagePurpose::ServerAuth];
        let signed = self.pki().sign(&pem, &usages, validity);
        signed.ok_or_else(|| "the request cannot be signed".to_owned())
    }
}

/// `ValidateKubeletServingCSR` of k8s.io/kubernetes/pkg/apis/certificates.
fn kubelet_serving(asked: &CertificateSigningRequestParams, usages: &Value) -> Result<(), String> {
    let subject = &asked.params.distinguished_name;
    let text = |kind: &DnType| match subject.get(kind) {
        Some(DnValue::Utf8String(text)) => text.clone(),
        Some(DnValue::PrintableString(text)) => text.as_str().to_owned(),
        _ => String::new(),
    };
    if text(&DnType::OrganizationName) != "system:nodes" {
        return Err("subject organization is not system:nodes".to_owned());
    }
    if !text(&DnType::CommonName).starts_with("system:node:") {
        return Err("subject common name does not begin with system:node: ".to_owned());
    }
    let names = &asked.params.subject_alt_names;
    if names.is_empty() {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    if !names
        .iter()
        .all(|name| matches!(name, SanType::DnsName(_) | SanType::IpAddress(_)))
    {
        return Err("only DNS and IP subjectAltNames are allowed".to_owned());
    }
    let allowed = ["digital signature", "key encipherment", "server auth"];
    let usages: Vec<&str> = usages
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let required = ["digital signature", "server auth"];
    if !usages.iter().all(|usage| allowed.contains(usage))
        || !required.iter().all(|usage| usages.contains(usage))
    {
        return Err(format!("usages did not match {required:?}: {usages:?}"));
    }
    Ok(())
}
