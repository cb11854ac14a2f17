//! The serving certificate of a node, by an authority that exists for this one signature.
//!
//! The authority's key is never written: nobody, root on this node included, can make a second certificate that kubelet
//! would take for its apiserver. A new certificate is a new authority, and the kubeconfigs are pointed at it again.
//!
//! Valid from 1970, because a node without a battery clock wakes then and its kubelet must still reach edgehold.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::tls::{PairInfo, Roots, ServerName};

const YEARS: u64 = 10;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A certificate that runs out sooner is renewed by the next install.
const LAST_DAYS: u32 = 90;

/// The local authority's certificate, and the pair that it signed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Serving {
    pub(super) ca: String,
    pub(super) cert: String,
    pub(super) key: String,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Serving")
    }
}

impl Serving {
    /// A new one for these addresses.
    pub(super) fn make(addresses: &[IpAddr], now: SystemTime) -> Result<Self, rcgen::Error> {
        let until = now + DAY * 365 * u32::try_from(YEARS).unwrap_or(u32::MAX);
        let mut authority = CertificateParams::default();
        authority.distinguished_name = rcgen::DistinguishedName::new();
        authority
            .distinguished_name
            .push(DnType::CommonName, "edgehold on this node");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        authority.not_before = SystemTime::UNIX_EPOCH.into();
        authority.not_after = until.into();
        let authority_key = KeyPair::generate()?;
        let ca = authority.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(authority, authority_key);

        let mut names: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        names.push("localhost".to_owned());
        let mut leaf = CertificateParams::new(names)?;
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        leaf.distinguished_name.push(DnType::CommonName, "edgehold");
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        leaf.not_before = SystemTime::UNIX_EPOCH.into();
        leaf.not_after = until.into();
        let key = KeyPair::generate()?;
        let cert = leaf.signed_by(&key, &issuer)?.pem();
        Ok(Self {
            ca,
            cert,
            key: key.serialize_pem(),
        })
    }

    /// Whether clients that connect to these addresses can go on using it.
    pub(super) fn is_good_for(&self, addresses: &[IpAddr], now: SystemTime) -> bool {
        let pair = PairInfo::parse(self.cert.as_bytes(), self.key.as_bytes(), Path::new("server"));
        let roots = Roots::parse(self.ca.as_bytes(), Path::new("ca"));
        let (Ok(pair), Ok(roots)) = (pair, roots) else {
            return false;
        };
        let lasts = pair.leaf().not_after > now + DAY * LAST_DAYS;
        lasts
            && addresses.iter().all(|address| {
                pair.is_server_for(&ServerName::from(*address), &roots, now)
                    .is_ok()
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * 20_000
    }

    #[test]
    fn it_serves_its_addresses_from_1970_until_it_runs_out() {
        let serving = Serving::make(&[local(1), "::1".parse().unwrap()], now()).unwrap();
        for at in [SystemTime::UNIX_EPOCH, now(), now() + DAY * 365 * 9] {
            assert!(serving.is_good_for(&[local(1)], at), "{at:?}");
        }
        assert!(serving.is_good_for(&["::1".parse().unwrap()], now()));
        assert!(
            !serving.is_good_for(&[local(1)], now() + DAY * (3650 - 30)),
            "it is renewed before its end"
        );
        assert!(!serving.is_good_for(&[local(2)], now()));
        assert!(!serving.is_good_for(&[local(1), local(2)], now()));
    }

    #[test]
    fn parts_of_two_do_not_fit() {
        let (one, other) = (
            Serving::make(&[local(1)], now()).unwrap(),
            Serving::make(&[local(1)], now()).unwrap(),
        );
        let mixed = Serving {
            ca: other.ca.clone(),
            ..one.clone()
        };
        assert!(!mixed.is_good_for(&[local(1)], now()));
        let mixed = Serving {
            key: other.key,
            ..one
        };
        assert!(!mixed.is_good_for(&[local(1)], now()));
    }

    #[test]
    fn the_key_is_not_shown() {
        let serving = Serving::make(&[local(1)], now()).unwrap();
        assert_eq!(format!("{serving:?}"), "Serving");
        assert!(serving.key.contains("PRIVATE KEY") && !serving.ca.contains("PRIVATE KEY"));
    }
}
