//! Certificates looked at once, for people: what a pair is for and whom it would be trusted by.
//!
//! For `edgehold check` and `edgehold install`. Judges with the same verifiers as the handshakes do, at a moment at which the
//! leaf is valid: that a certificate has expired is said apart from whose it is.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;

use super::certificate::CertificateInfo;
use super::client::ServerName;
use super::handshake::TlsConfigError;
use super::pem::{self, ClientIdentity, KeyPair, LoadError, PairPaths, Roots};
use super::time::unix;
use super::trust::{ClientTrust, ServerTrust};

/// A pair as it is at this moment.
#[derive(Debug, Clone)]
pub struct PairInfo {
    pair: KeyPair,
}

impl PairInfo {
    /// Reads the files.
    ///
    /// # Errors
    /// What a running edgehold would say of them.
    pub fn load(paths: &PairPaths) -> Result<Self, LoadError> {
        pem::load_pair(paths).map(|pair| Self { pair })
    }

    /// Reads texts that have been read already; `name` stands for them in errors.
    ///
    /// # Errors
    /// As [`PairInfo::load`].
    pub fn parse(cert_pem: &[u8], key_pem: &[u8], name: &Path) -> Result<Self, LoadError> {
        let paths = PairPaths {
            cert: PathBuf::from(name),
            key: PathBuf::from(name),
        };
        pem::parse_pair(cert_pem, key_pem, &paths).map(|pair| Self { pair })
    }

    /// The leaf.
    pub fn leaf(&self) -> &CertificateInfo {
        &self.pair.leaf
    }

    /// The identity that it shows to a server.
    pub fn identity(&self) -> ClientIdentity {
        self.pair.clone().into()
    }

    /// Whether a client that connects to `name` would find it in the leaf.
    pub fn is_for(&self, name: &ServerName) -> bool {
        let leaf = self.pair.certified.cert.first();
        let leaf = leaf.and_then(|der| ParsedCertificate::try_from(der).ok());
        leaf.is_some_and(|leaf| verify_server_name(&leaf, name.as_rustls()).is_ok())
    }

    /// Whether a server that verifies clients with `roots` would take it.
    ///
    /// # Errors
    /// Why it would not.
    pub fn is_client_of(&self, roots: &Roots, wall: SystemTime) -> Result<(), TlsConfigError> {
        let trust = ClientTrust::new(roots, None)?;
        let chain = self.pair.certified.cert.split_first();
        let (leaf, rest) = chain.ok_or(TlsConfigError::NoCa)?;
        trust.verify(leaf, rest, unix(self.moment(wall)))?;
        Ok(())
    }

    /// Whether a client that trusts `roots` and connects to `name` would take it.
    ///
    /// # Errors
    /// Why it would not.
    pub fn is_server_for(
        &self,
        name: &ServerName,
        roots: &Roots,
        wall: SystemTime,
    ) -> Result<(), TlsConfigError> {
        let trust = ServerTrust::new(roots)?;
        let chain = self.pair.certified.cert.split_first();
        let (leaf, rest) = chain.ok_or(TlsConfigError::NoCa)?;
        trust.verify(leaf, rest, name.as_rustls(), unix(self.moment(wall)))?;
        Ok(())
    }

    /// `wall`, or the nearest moment at which the leaf is valid.
    fn moment(&self, wall: SystemTime) -> SystemTime {
        wall.clamp(
            self.pair.leaf.not_before,
            self.pair.leaf.not_after.max(self.pair.leaf.not_before),
        )
    }
}

impl Roots {
    /// Reads a bundle of authorities.
    ///
    /// # Errors
    /// What a running edgehold would say of it.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        pem::load_bundles(path, None)
    }

    /// Reads a text that has been read already; `name` stands for it in errors.
    ///
    /// # Errors
    /// As [`Roots::load`].
    pub fn parse(bundle: &[u8], name: &Path) -> Result<Self, LoadError> {
        pem::parse_bundle(bundle, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Authority, Issued, LeafSpec, days};

    fn info(issued: &Issued) -> PairInfo {
        PairInfo::parse(
            issued.cert_pem.as_bytes(),
            issued.key_pem.as_bytes(),
            Path::new("p"),
        )
        .unwrap()
    }

    fn name(text: &str) -> ServerName {
        text.parse().unwrap()
    }

    #[test]
    fn a_serving_pair_is_for_its_names_alone_and_trusted_by_its_authority_alone() {
        let (ours, other) = (Authority::new("ours"), Authority::new("other"));
        let pair = info(&ours.issue(&LeafSpec::server(&["127.0.0.1", "edge-1"])));
        assert!(pair.is_for(&name("127.0.0.1")) && pair.is_for(&name("edge-1")));
        assert!(!pair.is_for(&name("127.0.0.2")) && !pair.is_for(&name("edge-2")));
        let wall = days(0);
        assert!(
            pair.is_server_for(&name("127.0.0.1"), &ours.roots(), wall)
                .is_ok()
        );
        assert!(
            pair.is_server_for(&name("127.0.0.2"), &ours.roots(), wall)
                .is_err()
        );
        assert!(
            pair.is_server_for(&name("127.0.0.1"), &other.roots(), wall)
                .is_err()
        );
        assert!(
            pair.is_client_of(&ours.roots(), wall).is_err(),
            "a server is no client"
        );
    }

    #[test]
    fn whose_client_it_is_does_not_depend_on_the_hour() {
        let (ours, other) = (Authority::new("ours"), Authority::new("other"));
        let expired = LeafSpec::client("system:node:edge-1").valid(days(-1), days(0));
        let pair = info(&ours.issue(&expired));
        assert!(pair.is_client_of(&ours.roots(), days(30)).is_ok());
        assert!(pair.is_client_of(&other.roots(), days(30)).is_err());
    }
}
