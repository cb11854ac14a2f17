//! `certificates`: when certificate files are read again.

use std::time::Duration;

use super::object::Object;

/// `certificates`: when certificate files are read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates {
    /// While all is well.
    pub reload_interval: Duration,
    /// While any file is missing, broken, expired or not yet valid.
    pub retry_interval: Duration,
}

pub(super) fn read(certificates: &mut Object<'_>) -> Certificates {
    Certificates {
        reload_interval: certificates.duration("reloadInterval", Duration::from_secs(30 * 60)),
        retry_interval: certificates.duration("retryInterval", Duration::from_secs(1)),
    }
}
