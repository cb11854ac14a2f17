//! Keys and certificate requests (PKCS#10) that are made on the node, and what was issued for them.
//!
//! Invariant: a key leaves this module as PEM for its file and never in a message.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::certificate::{CertificateInfo, sha256_hex};
use super::pem::{self, LoadError, PairPaths};

/// A name that a serving certificate is good for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AltName {
    /// In lower case.
    Dns(String),
    /// An address of a host.
    Ip(IpAddr),
}

impl fmt::Display for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

/// An IP address, else a DNS name of letters, digits, `-`, `_` and dots.
impl FromStr for AltName {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        let fits = text.len() <= 253 && text.split('.').all(label);
        fits.then(|| Self::Dns(text.to_ascii_lowercase())).ok_or(NotAName)
    }
}

/// Neither an IP address nor a DNS name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither an IP address nor a DNS name")]
pub struct NotAName;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSubject {
    /// CN.
    pub common_name: String,
    /// O.
    pub organization: Option<String>,
    /// Subject alternative names.
    pub names: BTreeSet<AltName>,
}

/// A key could not be made or read, or a request not be signed with it. Holds nothing of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The random generator failed.
    #[error("no key could be made")]
    NoKey,
    /// Not the PEM of a private key.
    #[error("the key cannot be read")]
    BadKey,
    /// A name that cannot stand in a certificate.
    #[error("the request cannot be made")]
    BadRequest,
}

/// A private key that was made here: ECDSA, P-256.
pub struct RequestKey(KeyPair);

impl fmt::Debug for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestKey")
    }
}

impl RequestKey {
    /// A new key.
    pub fn generate() -> Result<Self, RequestError> {
        KeyPair::generate().map(Self).map_err(|_| RequestError::NoKey)
    }

    /// The key in a file that [`RequestKey::to_pem`] wrote.
    pub fn from_pem(pem: &str) -> Result<Self, RequestError> {
        KeyPair::from_pem(pem).map(Self).map_err(|_| RequestError::BadKey)
    }

    /// PKCS#8.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// SHA-256 of the public key, lower-case hex.
    pub fn fingerprint(&self) -> String {
        sha256_hex(&[&self.0.subject_public_key_info()])
    }

    /// A request for a certificate, PEM. It asks for names only; usages are for the signer to decide.
    pub fn request(&self, subject: &RequestSubject) -> Result<String, RequestError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(organization) = &subject.organization {
            let organization = organization.as_str();
            params
                .distinguished_name
                .push(DnType::OrganizationName, organization);
        }
        params
            .distinguished_name
            .push(DnType::CommonName, subject.common_name.as_str());
        for name in &subject.names {
            params.subject_alt_names.push(match name {
                AltName::Ip(address) => SanType::IpAddress(*address),
                AltName::Dns(name) => {
                    SanType::DnsName(name.as_str().try_into().map_err(|_| RequestError::BadRequest)?)
                }
            });
        }
        let request = params
            .serialize_request(&self.0)
            .map_err(|_| RequestError::BadRequest)?;
        request.pem().map_err(|_| RequestError::BadRequest)
    }
}

/// The leaf of a serving certificate, and what it is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServingLeaf {
    /// Validity and fingerprint.
    pub info: CertificateInfo,
    /// Its subject alternative names.
    pub names: BTreeSet<AltName>,
}

impl ServingLeaf {
    /// The pair of a chain and a key, both PEM.
    ///
    /// # Errors
    /// As a file with this content would fail to load: no certificate, damaged, or not of this key.
    pub fn of_pair(chain_pem: &str, key_pem: &str) -> Result<Self, LoadError> {
        let answer = Path::new("the issued certificate").to_owned();
        let paths = PairPaths {
            cert: answer,
            key: Path::new("the key of the request").to_owned(),
        };
        let pair = pem::parse_pair(chain_pem.as_bytes(), key_pem.as_bytes(), &paths)?;
        Ok(Self {
            names: names(chain_pem.as_bytes()),
            info: pair.leaf,
        })
    }

    /// The leaf of a file with certificate and key. Blocking.
    ///
    /// # Errors
    /// As the file fails to load.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let paths = PairPaths {
            cert: path.to_owned(),
            key: path.to_owned(),
        };
        let content = pem::read(path)?;
        let pair = pem::parse_pair(&content, &content, &paths)?;
        Ok(Self {
            names: names(&content),
            info: pair.leaf,
        })
    }
}

/// The alternative names of the first certificate; of kinds that are not ours none.
fn names(pem: &[u8]) -> BTreeSet<AltName> {
    let mut found = BTreeSet::new();
    let Ok(der) = CertificateDer::from_pem_slice(pem) else {
        return found;
    };
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else {
        return found;
    };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return found;
    };
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => {
                found.insert(AltName::Dns(name.to_ascii_lowercase()));
            }
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let v6 = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
                found.extend(v4.or_else(|_| v6()).ok().map(AltName::Ip));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::extensions::ParsedExtension;

    fn subject() -> RequestSubject {
        let names = ["kubernetes.default.svc", "10.96.0.1", "fd00::11"];
        RequestSubject {
            common_name: "system:node:edge-1".to_owned(),
            organization: Some("system:nodes".to_owned()),
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_request_asks_for_its_subject_and_names_and_nothing_else() {
        let key = RequestKey::generate().unwrap();
        let pem = key.request(&subject()).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        assert_eq!(block.label, "CERTIFICATE REQUEST");
        let (_, request) = X509CertificationRequest::from_der(&block.contents).unwrap();
        request.verify_signature().unwrap();
        let info = &request.certification_request_info;
        assert_eq!(info.subject.to_string(), "O=system:nodes, CN=system:node:edge-1");
        let extensions: Vec<_> = request.requested_extensions().unwrap().collect();
        let [ParsedExtension::SubjectAlternativeName(names)] = extensions[..] else {
            panic!("{extensions:?}");
        };
        assert_eq!(names.general_names.len(), 3);
    }

    #[test]
    fn a_key_comes_back_from_its_file_and_is_not_shown() {
        let key = RequestKey::generate().unwrap();
        let pem = key.to_pem();
        let again = RequestKey::from_pem(&pem).unwrap();
        assert_eq!(key.fingerprint(), again.fingerprint());
        assert_ne!(key.fingerprint(), RequestKey::generate().unwrap().fingerprint());
        assert_eq!(format!("{key:?}"), "RequestKey");
        assert_eq!(RequestKey::from_pem("x").unwrap_err(), RequestError::BadKey);
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----"));
    }

    #[test]
    fn what_was_issued_must_be_for_the_key_and_tells_its_names() {
        let key = RequestKey::generate().unwrap();
        let mut params = CertificateParams::default();
        for name in subject().names {
            params.subject_alt_names.push(match name {
                AltName::Ip(address) => SanType::IpAddress(address),
                AltName::Dns(name) => SanType::DnsName(name.try_into().unwrap()),
            });
        }
        let chain = params.self_signed(&key.0).unwrap().pem();
        let leaf = ServingLeaf::of_pair(&chain, &key.to_pem()).unwrap();
        assert_eq!(leaf.names, subject().names);
        let other = RequestKey::generate().unwrap().to_pem();
        let refused = ServingLeaf::of_pair(&chain, &other).unwrap_err();
        assert!(matches!(refused, LoadError::KeyMismatch { .. }), "{refused}");
        assert!(ServingLeaf::of_pair("", &key.to_pem()).is_err());
    }

    #[test]
    fn names_are_addresses_or_dns_names() {
        assert_eq!("10.0.0.1".parse(), Ok(AltName::Ip([10, 0, 0, 1].into())));
        assert_eq!(
            "Edge.Example".parse(),
            Ok(AltName::Dns("edge.example".to_owned()))
        );
        for text in ["", "a..b", "*.example", "-a", "a b", "http://a", "10.0.0.1:1"] {
            assert_eq!(text.parse::<AltName>(), Err(NotAName), "{text}");
        }
    }
}
