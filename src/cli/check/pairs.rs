//! What a running edgehold and its clients would say of the certificates that are there.
//!
//! Files that are missing or cannot be opened are reported with their paths; here is what is in the others.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::config::Config;
use crate::tls::{
    CertificateInfo, LoadError, PairInfo, PairPaths, RevocationLists, Roots, ServerName, Validity,
};

/// From here on the end of a certificate is spoken of; the log does so at 30, 7 and 1 days.
const SOON: Duration = Duration::from_secs(30 * 86_400);

/// Lines for a person, and what is wrong.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) lines: Vec<String>,
    /// What will be wrong before long.
    pub(super) warnings: Vec<String>,
    pub(super) problems: Vec<String>,
}

/// The serving pair that another takes the place of: what it lacks, that one will have.
pub(super) fn serving_at_first(paths: &PairPaths, wall: SystemTime) -> Judgement {
    let mut judgement = Judgement::default();
    if let Some(pair) = judgement.load("listen.tls.certFile", paths) {
        judgement.period("listen.tls.certFile", pair.leaf(), wall);
    }
    judgement
}

/// The serving pair: whether clients that connect to the listen addresses would take it.
pub(super) fn serving(config: &Config, paths: &PairPaths, wall: SystemTime) -> Judgement {
    let mut judgement = Judgement::default();
    let Some(pair) = judgement.load("listen.tls.certFile", paths) else {
        return judgement;
    };
    judgement.period("listen.tls.certFile", pair.leaf(), wall);
    for address in &config.listen.addresses {
        let ip = address.ip();
        if !ip.is_unspecified() && !pair.is_for(&ServerName::from(ip)) {
            judgement.problems.push(format!(
                "listen.tls.certFile: {}: {ip} is not among its names; clients that connect there will refuse it",
                paths.cert.display()
            ));
        }
    }
    judgement
}

/// A client's pair: whose it is, and whether it would be taken from a local client too.
pub(super) fn client(config: &Config, index: usize, wall: SystemTime) -> Judgement {
    let mut judgement = Judgement::default();
    let Some(client) = config.clients.get(index) else {
        return judgement;
    };
    let field = format!("clients[{index}].certFile");
    let paths = PairPaths {
        cert: client.cert_file.clone(),
        key: client.key_file.clone(),
    };
    let Some(pair) = judgement.load(&field, &paths) else {
        return judgement;
    };
    judgement.period(&field, pair.leaf(), wall);
    let path = paths.cert.display();
    let name = pair.leaf().common_name.as_deref().unwrap_or_default();
    if name != client.common_name {
        judgement.problems.push(format!(
            "{field}: {path}: it is the certificate of {name:?}, not of {:?}; it will not be used",
            client.common_name
        ));
    }
    let authority = &config.listen.tls.client_ca_file;
    if let Ok(roots) = Roots::load(authority)
        && let Err(error) = pair.is_client_of(&roots, wall)
    {
        judgement.problems.push(match error.is_about_purpose() {
            true => format!(
                "{field}: {path}: its extended key usage does not allow clients (clientAuth); neither edgehold nor the \
                 apiserver takes it from one"
            ),
            false => format!(
                "{field}: {path}: not by an authority in {}; a local client that shows it gets no connection: {error}",
                authority.display()
            ),
        });
    }
    judgement
}

/// A file of authorities.
pub(super) fn authorities(field: &str, path: &Path, wall: SystemTime) -> Judgement {
    let mut judgement = Judgement::default();
    match Roots::load(path) {
        Ok(roots) => match roots.validity(wall) {
            Validity::Valid => {}
            Validity::Expired => judgement.wrong(field, path, "all of its authorities have expired"),
            Validity::NotYetValid => judgement.wrong(
                field,
                path,
                "none of its authorities is valid yet; check the clock",
            ),
        },
        Err(error) => judgement.unusable(field, &error),
    }
    judgement
}

/// A file with lists of revoked certificates.
pub(super) fn revoked(field: &str, path: &Path, wall: SystemTime) -> Judgement {
    let mut judgement = Judgement::default();
    match RevocationLists::load(path) {
        Ok(lists) => {
            judgement.lines.push(format!(
                "{}: {} client certificates are revoked",
                path.display(),
                lists.revoked()
            ));
            if lists.next_update().is_some_and(|end| end < wall) {
                judgement.wrong(
                    field,
                    path,
                    "a list in it is overdue; it counts, but lacks what was revoked since",
                );
            }
        }
        Err(error) => judgement.unusable(field, &error),
    }
    judgement
}

impl Judgement {
    fn load(&mut self, field: &str, paths: &PairPaths) -> Option<PairInfo> {
        PairInfo::load(paths)
            .map_err(|error| self.unusable(field, &error))
            .ok()
    }

    /// What is not there, or not open to us, has been said already.
    fn unusable(&mut self, field: &str, error: &LoadError) {
        if !matches!(
            error,
            LoadError::Missing { .. } | LoadError::NotAFile { .. } | LoadError::Unreadable { .. }
        ) {
            self.problems.push(format!("{field}: {error}"));
        }
    }

    fn wrong(&mut self, field: &str, path: &Path, said: &str) {
        self.problems.push(format!("{field}: {}: {said}", path.display()));
    }

    fn period(&mut self, field: &str, leaf: &CertificateInfo, wall: SystemTime) {
        let (start, end) = (
            humantime::format_rfc3339_seconds(leaf.not_before),
            humantime::format_rfc3339_seconds(leaf.not_after),
        );
        self.lines.push(format!("  valid        {start} to {end}"));
        match leaf.validity(wall) {
            Validity::Valid => {
                let left = leaf.not_after.duration_since(wall).unwrap_or_default();
                if left <= SOON {
                    self.warnings.push(format!(
                        "{field}: {} left: it expires at {end}; look at what renews it",
                        days(left)
                    ));
                }
            }
            Validity::Expired => self.problems.push(format!("{field}: it expired at {end}")),
            Validity::NotYetValid => {
                self.problems
                    .push(format!("{field}: it is valid from {start} only; check the clock"));
            }
        }
    }
}

fn days(left: Duration) -> String {
    match left.as_secs() / 86_400 {
        0 => "less than a day is".to_owned(),
        1 => "1 day is".to_owned(),
        days => format!("{days} days are"),
    }
}
