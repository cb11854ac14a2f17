//! What is read out of one X.509 certificate: names, validity and fingerprint.
//!
//! Reads, never verifies: a chain is judged by the handshake alone.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME, Oid};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

/// The parts of a certificate that the proxy names, logs and compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The last CN of the subject, as Go's `pkix.Name` has it; `None` when there is none or it is empty.
    pub common_name: Option<String>,
    /// All O of the subject, in the order of the certificate.
    pub organizations: Vec<String>,
    /// SHA-256 of the DER, in lower-case hex: what kube-apiserver calls the credential id.
    pub fingerprint: String,
    /// Valid from this moment.
    pub not_before: SystemTime,
    /// Valid up to and including this moment.
    pub not_after: SystemTime,
}

/// Why bytes are not a certificate that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateParseError {
    /// Not the DER of one X.509 certificate.
    #[error("not a whole X.509 certificate")]
    NotX509,
    /// A CN or O in a string type that has no certain text.
    #[error("a name of the subject is not text")]
    NameNotText,
}

/// How a period of validity stands at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Within the period.
    Valid,
    /// After its end.
    Expired,
    /// Before its start: usually a wrong clock.
    NotYetValid,
}

impl CertificateInfo {
    /// Reads one certificate in DER.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateParseError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| CertificateParseError::NotX509)?;
        if !rest.is_empty() {
            return Err(CertificateParseError::NotX509);
        }
        let validity = certificate.validity();
        Ok(Self {
            // An empty CN is no user to kube-apiserver either (x509 authenticator), whatever stands before it.
            common_name: names(&certificate, &OID_X509_COMMON_NAME)?
                .pop()
                .filter(|name| !name.is_empty()),
            organizations: names(&certificate, &OID_X509_ORGANIZATION_NAME)?,
            fingerprint: sha256_hex(&[der]),
            not_before: system_time(validity.not_before),
            not_after: system_time(validity.not_after),
        })
    }

    /// How the period of validity stands at `wall`.
    pub fn validity(&self, wall: SystemTime) -> Validity {
        if wall < self.not_before {
            Validity::NotYetValid
        } else if wall > self.not_after {
            Validity::Expired
        } else {
            Validity::Valid
        }
    }
}

/// The SubjectPublicKeyInfo (DER) of a certificate.
pub(super) fn public_key(der: &[u8]) -> Result<Vec<u8>, CertificateParseError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateParseError::NotX509)?;
    Ok(certificate.public_key().raw.to_vec())
}

fn names(certificate: &X509Certificate<'_>, oid: &Oid<'_>) -> Result<Vec<String>, CertificateParseError> {
    certificate
        .subject()
        .iter_by_oid(oid)
        .map(|name| {
            name.as_str()
                .map(str::to_owned)
                .map_err(|_| CertificateParseError::NameNotText)
        })
        .collect()
}

pub(super) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moment = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    moment.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// SHA-256 over the parts, each preceded by its length when there are several; lower-case hex.
pub(super) fn sha256_hex(parts: &[&[u8]]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        if parts.len() > 1 {
            context.update(&(part.len() as u64).to_be_bytes());
        }
        context.update(part);
    }
    context
        .finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Authority, LeafSpec, at};
    use proptest::prelude::*;

    #[test]
    fn names_validity_and_fingerprint_are_read() {
        let leaf = Authority::new("ca")
            .issue(&LeafSpec::client("system:node:edge-1").organizations(&["system:nodes", "b"]));
        let info = CertificateInfo::parse(&leaf.der).unwrap();
        assert_eq!(info.common_name.as_deref(), Some("system:node:edge-1"));
        assert_eq!(info.organizations, ["system:nodes", "b"]);
        assert_eq!(info.fingerprint.len(), 64);
        assert_eq!(info.fingerprint, sha256_hex(&[&leaf.der]));
        assert_eq!(info.validity(info.not_before), Validity::Valid);
        assert_eq!(info.validity(info.not_after), Validity::Valid);
        assert_eq!(
            info.validity(info.not_after + Duration::from_secs(1)),
            Validity::Expired
        );
        assert_eq!(
            info.validity(info.not_before - Duration::from_secs(1)),
            Validity::NotYetValid
        );
    }

    #[test]
    fn an_empty_common_name_is_none() {
        let leaf = Authority::new("ca").issue(&LeafSpec::client(""));
        assert_eq!(CertificateInfo::parse(&leaf.der).unwrap().common_name, None);
    }

    #[test]
    fn trailing_or_missing_bytes_are_not_a_certificate() {
        let mut der = Authority::new("ca").issue(&LeafSpec::client("a")).der;
        assert_eq!(
            CertificateInfo::parse(&der[..der.len() - 1]),
            Err(CertificateParseError::NotX509)
        );
        der.push(0);
        assert_eq!(CertificateInfo::parse(&der), Err(CertificateParseError::NotX509));
    }

    #[test]
    fn a_fingerprint_is_plain_sha256() {
        assert_eq!(
            sha256_hex(&[b"abc"]),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_ne!(sha256_hex(&[b"ab", b"c"]), sha256_hex(&[b"a", b"bc"]));
    }

    #[test]
    fn a_period_before_1970_is_kept() {
        let spec = LeafSpec::client("a").valid(at(-1000), at(1000));
        let info = CertificateInfo::parse(&Authority::new("ca").issue(&spec).der).unwrap();
        assert!(info.not_before < SystemTime::UNIX_EPOCH);
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_not_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(CertificateInfo::parse(&bytes).is_err());
        }

        #[test]
        fn a_damaged_certificate_never_panics(at in 0_usize..400, byte in any::<u8>()) {
            let mut der = Authority::shared().issue(&LeafSpec::client("a")).der;
            let at = at % der.len();
            der[at] = byte;
            let _ = CertificateInfo::parse(&der);
        }
    }
}
