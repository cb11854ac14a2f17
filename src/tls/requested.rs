//! Certificate requests (PKCS#10) that somebody else made: what one asks for, if it asks for that and nothing else.
//!
//! Whoever decides on a request must see what its signer will see. So nothing is read leniently: a request is taken only if
//! all that it says beside its key and its subject is, byte for byte, what a request for just these names says.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use x509_parser::certification_request::{X509CertificationRequest, X509CertificationRequestInfo};
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::error::X509Error;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA, OID_SIG_ED25519, OID_X509_COMMON_NAME,
    OID_X509_ORGANIZATION_NAME, Oid,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Name;

use super::request::AltName;

/// What a request asks for. Its signature is good, and its key is one to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requested {
    /// The CN of its subject.
    pub common_name: String,
    /// The O of its subject.
    pub organization: String,
    /// Its subject alternative names, in their order; DNS names as they are written.
    pub names: Vec<AltName>,
}

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPlain {
    /// Not PEM, or more than PEM, or damaged.
    #[error("it is not one certificate request in PEM and nothing else")]
    Encoding,
    /// Not by the key that it names.
    #[error("its signature is wrong")]
    Signature,
    /// Other than ECDSA (P-256, P-384), Ed25519, or RSA with 2048 to 8192 bits.
    #[error("its key is of a kind that is not taken")]
    Key,
    /// Other than one CN and one O.
    #[error("its subject is not one CN and one O")]
    Subject,
    /// None at all.
    #[error("it asks for no names")]
    NoNames,
    /// Neither a DNS name nor an IP address, or not readable.
    #[error("it asks for a name that is neither a DNS name nor an IP address")]
    OtherName,
    /// Other attributes or extensions, or bytes beside them.
    #[error("it asks for more than names")]
    More,
}

/// What aws-lc verifies; of a key beside these it would say that the signature is wrong.
const RSA_BITS: RangeInclusive<usize> = 2048..=8192;

impl Requested {
    /// Reads a request in PEM.
    ///
    /// # Errors
    /// Anything that two readers might read differently.
    pub fn parse(text: &[u8]) -> Result<Self, NotPlain> {
        let der = decoded(text).ok_or(NotPlain::Encoding)?;
        let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| NotPlain::Encoding)?;
        if !rest.is_empty() {
            return Err(NotPlain::Encoding);
        }
        let info = &request.certification_request_info;
        match info.subject_pki.parsed() {
            Ok(PublicKey::EC(_)) => {}
            Ok(PublicKey::RSA(key)) if RSA_BITS.contains(&key.key_size()) => {}
            Ok(PublicKey::Unknown(_)) if is_ed25519(info) => {}
            _ => return Err(NotPlain::Key),
        }
        if is_sha1(&request) {
            return Err(NotPlain::Key);
        }
        request.verify_signature().map_err(|error| match error {
            X509Error::SignatureUnsupportedAlgorithm => NotPlain::Key,
            _ => NotPlain::Signature,
        })?;
        let (common_name, organization) = subject(&info.subject).ok_or(NotPlain::Subject)?;
        let names = names(info)?;
        if after_key(info).as_deref() != asking_for(&names).as_deref() {
            return Err(NotPlain::More);
        }
        Ok(Self {
            common_name,
            organization,
            names,
        })
    }
}

/// The DER in a PEM text that is written as everybody writes it: one block, lines of 64 characters.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE REQUEST-----\n";
    const END: &str = "-----END CERTIFICATE REQUEST-----\n";
    let text = std::str::from_utf8(text).ok()?.replace("\r\n", "\n");
    let body = text.strip_prefix(BEGIN)?;
    let body = body
        .strip_suffix(END)
        .or_else(|| body.strip_suffix(END.trim_end()))?;
    let der = STANDARD.decode(body.replace('\n', "")).ok()?;
    let mut written = String::with_capacity(body.len());
    for (at, c) in STANDARD.encode(&der).chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            written.push('\n');
        }
        written.push(c);
    }
    written.push('\n');
    (written == body).then_some(der)
}

/// The only thing that is verified below and trusted by nobody.
fn is_sha1(request: &X509CertificationRequest<'_>) -> bool {
    let algorithm = &request.signature_algorithm.algorithm;
    [OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA].contains(algorithm)
}

fn is_ed25519(info: &X509CertificationRequestInfo<'_>) -> bool {
    info.subject_pki.algorithm.algorithm == OID_SIG_ED25519
}

/// CN and O, if these are all there is.
fn subject(name: &X509Name<'_>) -> Option<(String, String)> {
    let mut common_name = None;
    let mut organization = None;
    for part in name.iter() {
        let mut attributes = part.iter();
        let (Some(attribute), None) = (attributes.next(), attributes.next()) else {
            return None;
        };
        let is = |oid: &Oid<'_>| attribute.attr_type() == oid;
        let place = if is(&OID_X509_COMMON_NAME) {
            &mut common_name
        } else if is(&OID_X509_ORGANIZATION_NAME) {
            &mut organization
        } else {
            return None;
        };
        // UTF-8, printable or IA5 text; of any other kind there is more than one reading.
        let text = attribute.as_str().ok()?.to_owned();
        if place.replace(text).is_some() {
            return None;
        }
    }
    Some((common_name?, organization?))
}

fn names(info: &X509CertificationRequestInfo<'_>) -> Result<Vec<AltName>, NotPlain> {
    let extensions = info
        .iter_attributes()
        .flat_map(|attribute| match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(requested) => requested.extensions.as_slice(),
            _ => &[],
        });
    let mut found = Vec::new();
    for extension in extensions {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    found.push(alt_name(name).ok_or(NotPlain::OtherName)?);
                }
            }
            ParsedExtension::ParseError { .. } => return Err(NotPlain::OtherName),
            _ => return Err(NotPlain::More),
        }
    }
    if found.is_empty() {
        return Err(NotPlain::NoNames);
    }
    Ok(found)
}

fn alt_name(name: &GeneralName<'_>) -> Option<AltName> {
    match name {
        GeneralName::DNSName(name) => Some(AltName::Dns((*name).to_owned())),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(AltName::Ip)
        }
        _ => None,
    }
}

/// What is signed after the key: the attributes, and whatever else.
fn after_key(info: &X509CertificationRequestInfo<'_>) -> Option<Vec<u8>> {
    let key = info.subject_pki.raw;
    let from = (key.as_ptr() as usize).checked_sub(info.raw.as_ptr() as usize)?;
    info.raw.get(from.checked_add(key.len())?..).map(<[u8]>::to_vec)
}

/// The same of a request for these names, as we would make it.
fn asking_for(names: &[AltName]) -> Option<Vec<u8>> {
    let mut params = CertificateParams::default();
    // Without any subject the names would have to be critical (RFC 5280, section 4.2.1.6).
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "x");
    for name in names {
        params.subject_alt_names.push(match name {
            AltName::Ip(address) => SanType::IpAddress(*address),
            AltName::Dns(name) => SanType::DnsName(name.as_str().try_into().ok()?),
        });
    }
    let request = params.serialize_request(&KeyPair::generate().ok()?).ok()?;
    let (_, request) = X509CertificationRequest::from_der(request.der()).ok()?;
    after_key(&request.certification_request_info)
}

#[cfg(test)]
mod tests;
