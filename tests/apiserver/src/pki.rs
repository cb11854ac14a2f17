//! A throw-away certificate authority held in memory.
//!
//! Owns key generation and the exact shape of certificates (extended key usage, names, validity). Knows nothing of
//! servers. Invariant: no key is written anywhere unless [`Pair::write_to`] is called, and then with mode 0600.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::secrets;

/// When a certificate is good, in seconds relative to now; negative is the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// `notBefore`, seconds from now.
    pub from: i64,
    /// `notAfter`, seconds from now.
    pub until: i64,
}

impl Validity {
    /// From an hour ago to ten years from now.
    pub const GOOD: Self = Self {
        from: -3_600,
        until: 315_360_000,
    };
    /// Ended an hour ago.
    pub const EXPIRED: Self = Self {
        from: -86_400,
        until: -3_600,
    };
    /// Begins in a day.
    pub const NOT_YET: Self = Self {
        from: 86_400,
        until: 172_800,
    };

    /// From an hour ago until `seconds` from now.
    #[must_use]
    pub fn for_seconds(seconds: i64) -> Self {
        Self {
            from: -3_600,
            until: seconds,
        }
    }
}

/// A certificate (with its issuing CA appended) and its private key, both PEM.
#[derive(Clone)]
pub struct Pair {
    /// The leaf certificate, PEM.
    pub cert_pem: String,
    /// The private key, PKCS#8 PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

impl Pair {
    /// Writes `NAME.crt` and `NAME.key` (0600) into `dir`, replacing what is there, and returns both paths.
    pub fn write_to(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let cert = dir.join(format!("{name}.crt"));
        let key = dir.join(format!("{name}.key"));
        write_file(&cert, self.cert_pem.as_bytes(), 0o644);
        write_file(&key, self.key_pem.as_bytes(), 0o600);
        (cert, key)
    }

    /// Writes both into one file, as kubelet's `kubelet-client-current.pem` (0600).
    pub fn write_combined(&self, path: &Path) {
        write_file(
            path,
            format!("{}{}", self.cert_pem, self.key_pem).as_bytes(),
            0o600,
        );
    }

    /// The chain as rustls wants it.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.cert_pem.as_bytes())
            .map(|c| c.expect("own PEM"))
            .collect()
    }

    /// The key as rustls wants it.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("own PEM")
    }
}

/// Writes through a temporary name, so that a reader never sees half a file.
fn write_file(path: &Path, bytes: &[u8], mode: u32) {
    let mut hidden = path.file_name().expect("a file name").to_os_string();
    hidden.push(".new");
    let temporary = path.with_file_name(hidden);
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .expect("create");
    file.write_all(bytes).expect("write");
    std::fs::rename(&temporary, path).expect("rename");
}

/// A certificate authority. Clones share the same key.
#[derive(Clone)]
pub struct Pki {
    inner: Arc<Inner>,
}

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    name: String,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki")
            .field("name", &self.inner.name)
            .finish_non_exhaustive()
    }
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}

impl Pki {
    /// A fresh authority with the subject `kubernetes`.
    #[must_use]
    pub fn new() -> Self {
        Self::named("kubernetes")
    }

    /// A fresh authority with the given subject. Two with the same name still do not trust each other.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(Some(name), &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, Validity::GOOD);
        let cert = params.self_signed(&key).expect("CA certificate");
        secrets::register_key(&key.serialize_pem());
        let inner = Inner {
            ca_pem: cert.pem(),
            issuer: Issuer::new(params, key),
            name: name.to_owned(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The authority's own certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.inner.ca_pem
    }

    /// The authority's own certificate as rustls wants it.
    #[must_use]
    pub fn ca_der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.inner.ca_pem.as_bytes()).expect("own PEM")
    }

    /// The authority's private key, PKCS#8 PEM: for what must sign in its name, as `--cluster-signing-key-file` does.
    #[must_use]
    pub fn ca_key_pem(&self) -> String {
        self.inner.issuer.key().serialize_pem()
    }

    /// Writes the authority's certificate to `dir/NAME.crt` and returns the path.
    pub fn write_ca(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(format!("{name}.crt"));
        write_file(&path, self.inner.ca_pem.as_bytes(), 0o644);
        path
    }

    /// Writes the authority's certificate and key to `dir/NAME.crt` and `dir/NAME.key`: for a signer that is not this one.
    pub fn write_authority(&self, dir: &Path, name: &str) {
        self.write_ca(dir, name);
        let key = self.inner.issuer.key().serialize_pem();
        write_file(&dir.join(format!("{name}.key")), key.as_bytes(), 0o600);
    }

    /// A serving pair for `localhost`, `127.0.0.1`, `::1` and whatever `names` adds (DNS names or IP addresses).
    #[must_use]
    pub fn server(&self, names: &[&str]) -> Pair {
        self.server_valid(names, Validity::GOOD)
    }

    /// As [`Pki::server`] with a chosen validity.
    #[must_use]
    pub fn server_valid(&self, names: &[&str], validity: Validity) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(Some("kube-apiserver"), &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in ["localhost", "127.0.0.1", "::1"].iter().chain(names) {
            params.subject_alt_names.push(san(name));
        }
        self.issue(params, validity)
    }

    /// A client pair: user = `cn`, groups = `orgs` (two at most). `None` leaves the common name out, as EdgeMesh's certificate does.
    #[must_use]
    pub fn client(&self, cn: Option<&str>, orgs: &[&str]) -> Pair {
        self.client_valid(cn, orgs, Validity::GOOD)
    }

    /// As [`Pki::client`] with a chosen validity.
    #[must_use]
    pub fn client_valid(&self, cn: Option<&str>, orgs: &[&str], validity: Validity) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(cn, orgs);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, validity)
    }

    /// A list (PEM) that revokes these pairs of this authority, good for a day.
    #[must_use]
    pub fn revoke(&self, revoked: &[&Pair]) -> String {
        self.revoke_valid(revoked, 86_400)
    }

    /// As [`Pki::revoke`], to be replaced so many seconds from now.
    #[must_use]
    pub fn revoke_valid(&self, revoked: &[&Pair], next_update: i64) -> String {
        let now = OffsetDateTime::from(std::time::SystemTime::now());
        let long_ago = now - time::Duration::days(9);
        let revoked = revoked.iter().map(|pair| {
            let chain = pair.chain();
            let (_, leaf) = X509Certificate::from_der(&chain[0]).expect("own certificate");
            RevokedCertParams {
                serial_number: SerialNumber::from_slice(leaf.raw_serial()),
                revocation_time: long_ago,
                reason_code: None,
                invalidity_date: None,
            }
        });
        let params = CertificateRevocationListParams {
            this_update: long_ago,
            next_update: now + time::Duration::seconds(next_update),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.inner.issuer).expect("list");
        list.pem().expect("PEM")
    }

    /// Signs a certificate request (PEM) for `validity`, keeping the names it asks for; the answer is PEM.
    /// This is what a controller would do with an approved CertificateSigningRequest.
    #[must_use]
    pub fn sign_request(&self, csr_pem: &str, validity: Validity) -> Option<String> {
        self.sign(csr_pem, &[], validity)
    }

    /// As [`Pki::sign_request`], for these extended usages.
    pub(crate) fn sign(
        &self,
        csr_pem: &str,
        usages: &[ExtendedKeyUsagePurpose],
        validity: Validity,
    ) -> Option<String> {
        let mut request = rcgen::CertificateSigningRequestParams::from_pem(csr_pem).ok()?;
        request.params.extended_key_usages = usages.to_vec();
        set_validity(&mut request.params, validity);
        Some(request.signed_by(&self.inner.issuer).ok()?.pem())
    }

    fn issue(&self, mut params: CertificateParams, validity: Validity) -> Pair {
        let key = KeyPair::generate().expect("key");
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, validity);
        let cert = params.signed_by(&key, &self.inner.issuer).expect("certificate");
        let key_pem = key.serialize_pem();
        secrets::register_key(&key_pem);
        Pair {
            cert_pem: cert.pem(),
            key_pem,
        }
    }
}

fn set_validity(params: &mut CertificateParams, validity: Validity) {
    let now = OffsetDateTime::from(std::time::SystemTime::now());
    params.not_before = now + time::Duration::seconds(validity.from);
    params.not_after = now + time::Duration::seconds(validity.until);
}

fn subject(cn: Option<&str>, orgs: &[&str]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // rcgen keeps one value a type; the same OID spelled out is a second type, so two groups are possible.
    assert!(orgs.len() <= 2, "at most two organizations");
    let types = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
    for (ty, org) in types.into_iter().zip(orgs) {
        name.push(ty, *org);
    }
    if let Some(cn) = cn {
        name.push(DnType::CommonName, cn);
    }
    name
}

fn san(name: &str) -> SanType {
    match name.parse::<IpAddr>() {
        Ok(ip) => SanType::IpAddress(ip),
        Err(_) => SanType::DnsName(name.try_into().expect("an ASCII DNS name")),
    }
}
