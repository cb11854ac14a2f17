//! What people see of a certificate file: its state, expiry and last error.

use std::path::PathBuf;
use std::time::SystemTime;

/// What a watched file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateKind {
    /// The pair that the proxy serves with.
    Serving,
    /// The authorities of client certificates.
    ClientCa,
    /// The lists of revoked client certificates.
    ClientCrl,
    /// The authorities of the apiservers.
    UpstreamCa,
    /// The pair that re-originates one common name.
    Client,
}

impl CertificateKind {
    /// For log fields and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::ClientCa => "client_ca",
            Self::ClientCrl => "client_crl",
            Self::UpstreamCa => "upstream_ca",
            Self::Client => "client",
        }
    }
}

/// The state of the file as of the last look; the value in use may be an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateState {
    /// Loaded and valid.
    Current,
    /// Not there: normal before the node has joined.
    Absent,
    /// There, but it could not be read.
    Unreadable,
    /// Read, but holds no certificate, or a pair without a key.
    Incomplete,
    /// Half written or damaged.
    Damaged,
    /// The key does not belong to the certificate.
    KeyMismatch,
    /// The certificate's common name is not the configured one.
    WrongName,
    /// Loaded, but its time is over. A list of revoked certificates counts all the same.
    Expired,
    /// Loaded, but its time has not come: usually a wrong clock.
    NotYetValid,
}

impl CertificateState {
    /// Every state, for metrics that show one series each.
    pub const ALL: [Self; 9] = [
        Self::Current,
        Self::Absent,
        Self::Unreadable,
        Self::Incomplete,
        Self::Damaged,
        Self::KeyMismatch,
        Self::WrongName,
        Self::Expired,
        Self::NotYetValid,
    ];

    /// For log fields and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Absent => "absent",
            Self::Unreadable => "unreadable",
            Self::Incomplete => "incomplete",
            Self::Damaged => "damaged",
            Self::KeyMismatch => "key_mismatch",
            Self::WrongName => "wrong_name",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
        }
    }
}

/// One watched file or pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateStatus {
    /// `serving`, `client-ca`, `client-crl`, `upstream-ca`, or the configured common name.
    pub name: String,
    /// What it is for; names are unique within a kind.
    pub kind: CertificateKind,
    /// The certificate file (of a pair, the key file is in the configuration).
    pub path: PathBuf,
    /// The file as of the last look.
    pub state: CertificateState,
    /// SHA-256 of the leaf in use (of a CA bundle or lists: of all of them); `None` while nothing is in use.
    pub fingerprint: Option<String>,
    /// End of validity of the value in use; of a CA bundle, the moment from which none of it is valid; of
    /// lists, the first `nextUpdate`.
    pub not_after: Option<SystemTime>,
    /// Why the state is not `Current`.
    pub last_error: Option<String>,
    /// The last look at the file, successful or not.
    pub last_look: SystemTime,
    /// When the value in use was taken into use.
    pub last_change: Option<SystemTime>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn states_have_distinct_labels() {
        let labels: HashSet<_> = CertificateState::ALL.iter().map(|state| state.as_str()).collect();
        assert_eq!(labels.len(), CertificateState::ALL.len());
    }
}
