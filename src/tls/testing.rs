//! Throw-away authorities and certificates for this layer's tests.

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, SigningKey as _,
};
use x509_parser::asn1_rs::Any;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::runtime::clock;
use crate::tls::pem::{self, PairPaths};
use crate::tls::{ClientIdentity, ClientTrust, RevocationLists, Roots, ServerMaterial};

/// The moment so many seconds after (before) 1970.
pub(crate) fn at(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH - distance
    } else {
        SystemTime::UNIX_EPOCH + distance
    }
}

/// So many days from now.
pub(crate) fn days(days: i64) -> SystemTime {
    let distance = Duration::from_secs(days.unsigned_abs() * 86_400);
    if days < 0 {
        clock::wall() - distance
    } else {
        clock::wall() + distance
    }
}

pub(crate) struct LeafSpec {
    common_name: String,
    organizations: Vec<String>,
    hosts: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl LeafSpec {
    fn new(common_name: &str, usage: ExtendedKeyUsagePurpose) -> Self {
        Self {
            common_name: common_name.to_owned(),
            organizations: Vec::new(),
            hosts: Vec::new(),
            usage,
            not_before: days(-1),
            not_after: days(365),
        }
    }

    pub(crate) fn client(common_name: &str) -> Self {
        Self::new(common_name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    pub(crate) fn server(hosts: &[&str]) -> Self {
        let mut spec = Self::new("server", ExtendedKeyUsagePurpose::ServerAuth);
        spec.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        spec
    }

    /// At most two: rcgen keeps one value per type, and knows O under two types.
    pub(crate) fn organizations(mut self, organizations: &[&str]) -> Self {
        self.organizations = organizations.iter().map(|o| (*o).to_owned()).collect();
        self
    }

    pub(crate) fn valid(mut self, not_before: SystemTime, not_after: SystemTime) -> Self {
        self.not_before = not_before;
        self.not_after = not_after;
        self
    }
}

pub(crate) struct Issued {
    pub(crate) der: Vec<u8>,
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
}

impl Issued {
    /// Certificate and key in one text, as kubelet keeps them.
    pub(crate) fn joined(&self) -> String {
        format!("{}{}", self.cert_pem, self.key_pem)
    }

    /// Written to one file and read back as a client's identity.
    pub(crate) fn identity(&self) -> ClientIdentity {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pair.pem");
        write(&path, &self.joined());
        pem::load_pair(&PairPaths {
            cert: path.clone(),
            key: path,
        })
        .unwrap()
        .into()
    }
}

/// The elements of DER within an element.
fn elements(der: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = Any::from_der(der).unwrap().1.data;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let after = Any::from_der(rest).unwrap().0;
        found.push(rest[..rest.len() - after.len()].to_vec());
        rest = after;
    }
    found
}

/// One element of DER.
pub(crate) fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let mut der = vec![tag];
    match content.len() {
        ..128 => der.push(length[1]),
        128..256 => der.extend([0x81, length[1]]),
        _ => der.extend([0x82, length[0], length[1]]),
    }
    der.extend(content);
    der
}

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        Self::valid(name, days(-1), days(3650))
    }

    pub(crate) fn valid(name: &str, not_before: SystemTime, not_after: SystemTime) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// One for tests that need any at all, many times.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Authority> = OnceLock::new();
        SHARED.get_or_init(|| Self::new("shared"))
    }

    pub(crate) fn issue(&self, spec: &LeafSpec) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(spec.hosts.clone()).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, spec.common_name.as_str());
        let types = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
        assert!(spec.organizations.len() <= types.len());
        for (of_type, organization) in types.into_iter().zip(&spec.organizations) {
            params.distinguished_name.push(of_type, organization.as_str());
        }
        params.extended_key_usages = vec![spec.usage.clone()];
        params.not_before = spec.not_before.into();
        params.not_after = spec.not_after.into();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            der: certificate.der().to_vec(),
            cert_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// The same certificate in X.509 v1, as `openssl x509 -req` makes it without `-extfile`: signed again, without extensions.
    pub(crate) fn issue_v1(&self, spec: &LeafSpec) -> Issued {
        self.issue_edited(spec, |fields| *fields = fields[1..7].to_vec())
    }

    /// A certificate whose fields (version, serial, signature algorithm, issuer, validity, subject, key, extensions; each one
    /// element of DER) were changed before it was signed.
    pub(crate) fn issue_edited(&self, spec: &LeafSpec, edit: impl FnOnce(&mut Vec<Vec<u8>>)) -> Issued {
        let issued = self.issue(spec);
        let outer = elements(&issued.der);
        let mut fields = elements(&outer[0]);
        assert_eq!(fields.len(), 8);
        edit(&mut fields);
        let content = tagged(0x30, &fields.concat());
        let mut signature = vec![0];
        signature.extend(self.issuer.key().sign(&content).unwrap());
        let algorithm = fields.iter().position(|field| field[0] == 0x30).unwrap();
        let der = tagged(
            0x30,
            &[content, fields[algorithm].clone(), tagged(3, &signature)].concat(),
        );
        let pem = base64::prelude::BASE64_STANDARD.encode(&der);
        Issued {
            cert_pem: format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n"),
            der,
            key_pem: issued.key_pem,
        }
    }

    pub(crate) fn roots(&self) -> Roots {
        Self::bundle(&[self])
    }

    pub(crate) fn bundle(authorities: &[&Self]) -> Roots {
        let pem: String = authorities.iter().map(|authority| &*authority.pem).collect();
        Roots::parse(pem.as_bytes(), Path::new("ca.pem")).unwrap()
    }

    /// A list (PEM) that revokes these, to be replaced at `next_update`.
    pub(crate) fn revoke(&self, revoked: &[&Issued], next_update: SystemTime) -> String {
        let revoked = revoked.iter().map(|issued| RevokedCertParams {
            serial_number: SerialNumber::from_slice(
                X509Certificate::from_der(&issued.der).unwrap().1.raw_serial(),
            ),
            revocation_time: days(-20).into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: days(-20).into(),
            next_update: next_update.into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// A server's material: its leaf by `server`, its clients by `clients`.
pub(crate) fn material(server: &Issued, clients: &Authority) -> ServerMaterial {
    ServerMaterial::new(
        server.identity().into_pair(),
        std::sync::Arc::new(ClientTrust::new(&clients.roots(), None).unwrap()),
    )
}

/// These lists in one file.
pub(crate) fn lists(texts: &[String]) -> RevocationLists {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("crl.pem");
    write(&path, &texts.concat());
    RevocationLists::load(&path).unwrap()
}

#[allow(clippy::disallowed_methods)] // tests stand for the programs that write certificates
pub(crate) fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[allow(clippy::disallowed_methods)] // as above
pub(crate) fn rename(from: &Path, to: &Path) {
    std::fs::rename(from, to).unwrap();
}
