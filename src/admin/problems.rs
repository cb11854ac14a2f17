//! What is wrong at this moment: one list, from which `/status`, `/readyz?verbose`, `edgehold_problems` and the page are made.
//!
//! Pure: [`problems`] looks at what the parts say of themselves. A problem has a code that stays, so that
//! docs/troubleshooting.md and alerts can name it.

use std::time::{Duration, SystemTime};

use crate::proxy::{Incident, IncidentKind};
use crate::runtime::problem::Code;
use crate::store::{DiskFailure, StoreStats};
use crate::tls::{CertificateKind, CertificateState, CertificateStatus, ClockOffset};
use crate::upstream::{Condition, LinkReport};

use super::status::{Problem, moment};

const DAY: u64 = 86_400;

/// Within so many days of its end a certificate is a problem: what renews it should have done so.
const ENDING: Duration = Duration::from_secs(7 * DAY);

/// So far apart clocks may be; kube-apiserver's own tokens allow as much.
const LARGEST_OFFSET: u64 = 300;

/// A failed write is spoken of for so long.
const RECENT: Duration = Duration::from_secs(600);

/// Why a cache that should be on disk is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InMemory {
    /// The disk took nothing when edgehold started. It goes over when it does.
    NoDisk,
    /// The key that it is encrypted with could not be read then. It stays until the next start.
    NoKey,
}

/// How grave a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Severity {
    /// Clients are not served, or would not be after a restart.
    Critical,
    /// It will get worse, or one of several does without.
    Warning,
}

impl Severity {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
        }
    }
}

/// What the parts say of themselves.
pub(super) struct Facts<'f> {
    pub(super) now: SystemTime,
    pub(super) link: &'f LinkReport,
    pub(super) certificates: &'f [CertificateStatus],
    /// The configured clients whose pair an apiserver has answered 401.
    pub(super) refused: &'f [String],
    pub(super) incidents: &'f [Incident],
    pub(super) store: StoreStats,
    /// Why the cache is in memory, if it should be on disk.
    pub(super) in_memory: Option<InMemory>,
    pub(super) cache_path: &'f str,
    /// What is wrong with the configuration file.
    pub(super) configuration: Option<&'f str>,
    pub(super) clock: Option<ClockOffset>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) code: Code,
    pub(super) severity: Severity,
    pub(super) message: String,
    pub(super) since: Option<SystemTime>,
    /// The check of `/readyz` that it belongs to.
    pub(super) check: Check,
    /// No client can be served.
    pub(super) stops_service: bool,
}

impl From<&Finding> for Problem {
    fn from(finding: &Finding) -> Self {
        Self {
            severity: finding.severity.as_str().to_owned(),
            code: finding.code.as_str().to_owned(),
            message: finding.message.clone(),
            since: finding.since.map(moment),
        }
    }
}

/// The checks of `/readyz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    ServingCertificate,
    ClientCa,
    UpstreamCa,
    Clients,
    Cache,
    Clock,
    Link,
    Configuration,
}

impl Check {
    pub(super) const ALL: [Self; 8] = [
        Self::ServingCertificate,
        Self::ClientCa,
        Self::UpstreamCa,
        Self::Clients,
        Self::Cache,
        Self::Clock,
        Self::Link,
        Self::Configuration,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::ServingCertificate => "serving-certificate",
            Self::ClientCa => "client-ca",
            Self::UpstreamCa => "upstream-ca",
            Self::Clients => "clients",
            Self::Cache => "cache",
            Self::Clock => "clock",
            Self::Link => "link",
            Self::Configuration => "configuration",
        }
    }

    fn of(code: Code) -> Self {
        match code {
            Code::LinkDown | Code::ServerDown | Code::Flapping => Self::Link,
            Code::InMemory | Code::WritesFail | Code::Damaged => Self::Cache,
            Code::Clock => Self::Clock,
            Code::Configuration => Self::Configuration,
            Code::CertificateMissing
            | Code::CertificateUnusable
            | Code::CertificateExpired
            | Code::CertificateNotYetValid
            | Code::CertificateEnding
            | Code::PairRefused
            | Code::Forbidden
            | Code::OverLimit => Self::Clients,
        }
    }

    fn of_certificate(kind: CertificateKind) -> Self {
        match kind {
            CertificateKind::Serving => Self::ServingCertificate,
            CertificateKind::ClientCa | CertificateKind::ClientCrl => Self::ClientCa,
            CertificateKind::UpstreamCa => Self::UpstreamCa,
            CertificateKind::Client => Self::Clients,
        }
    }
}

/// All that is wrong, the gravest first.
pub(super) fn problems(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found = Found::default();
    link(facts.link, &mut found);
    for status in facts.certificates {
        certificate(status, facts.certificates, facts.now, &mut found);
    }
    for client in facts.refused {
        found.add(
            Code::PairRefused,
            Severity::Critical,
            format!(
                "the apiserver answers 401 to the certificate of {client}: it is revoked, or by an authority that the apiserver does not know"
            ),
            None,
        );
    }
    for incident in facts.incidents {
        let Incident { client, what, .. } = incident;
        let (code, text) = match incident.kind {
            IncidentKind::Forbidden => (
                Code::Forbidden,
                format!(
                    "the apiserver forbids {client} to {what} (403, {} times): RBAC must allow it",
                    incident.count
                ),
            ),
            IncidentKind::OverLimit => (
                Code::OverLimit,
                format!(
                    "{client} is over its limit ({what}): {} requests got 429; fix the client, or raise its limits",
                    incident.count
                ),
            ),
        };
        found.add(code, Severity::Warning, text, Some(incident.since));
    }
    store(facts, &mut found);
    if let Some(ClockOffset { seconds, since }) = facts.clock
        && seconds.unsigned_abs() > LARGEST_OFFSET
    {
        let by = humantime::format_duration(Duration::from_secs(seconds.unsigned_abs()));
        let side = if seconds > 0 { "ahead of" } else { "behind" };
        found.add(
            Code::Clock,
            Severity::Critical,
            format!("the clock of this node is {by} {side} the apiserver's: certificates are judged by it; look at its time synchronisation"),
            Some(since),
        );
    }
    if let Some(fault) = facts.configuration {
        let text = format!("the configuration file is not right, what was in force before still is: {fault}");
        found.add(Code::Configuration, Severity::Warning, text, None);
    }
    let mut problems = found.0;
    problems.sort_by_key(|finding| (finding.severity, finding.code));
    problems
}

#[derive(Default)]
struct Found(Vec<Finding>);

impl Found {
    fn add(&mut self, code: Code, severity: Severity, message: String, since: Option<SystemTime>) {
        self.0.push(Finding {
            code,
            severity,
            message,
            since,
            check: Check::of(code),
            stops_service: false,
        });
    }
}

fn link(report: &LinkReport, found: &mut Found) {
    match report.condition {
        Condition::Offline => {
            found.add(
                Code::LinkDown,
                Severity::Critical,
                report.to_string(),
                Some(report.since),
            );
        }
        Condition::Online | Condition::Starting | Condition::Suspect => {
            for server in &report.servers {
                if let Some(trouble) = &server.trouble
                    && server.condition == Condition::Offline
                {
                    let text = format!("{}: {}; another server is used", server.name, trouble.cause);
                    found.add(Code::ServerDown, Severity::Warning, text, Some(trouble.since));
                }
            }
        }
    }
    if report.is_flapping {
        let text = format!(
            "the link comes and goes: {} outages since the start; look at the uplink, and at upstream.probe.timeout if it is only slow",
            report.outages
        );
        found.add(Code::Flapping, Severity::Warning, text, None);
    }
}

fn certificate(status: &CertificateStatus, all: &[CertificateStatus], now: SystemTime, found: &mut Found) {
    let needed = matches!(
        status.kind,
        CertificateKind::Serving | CertificateKind::ClientCa | CertificateKind::UpstreamCa
    );
    // One of several files of a kind is enough.
    let in_use = |one: &CertificateStatus| one.kind == status.kind && one.fingerprint.is_some();
    let stops_service = needed && !all.iter().any(in_use);
    let name = match status.kind {
        CertificateKind::Client => format!("the certificate of {}", status.name),
        _ => format!("the certificate {}", status.name),
    };
    let path = status.path.display();
    let error = status.last_error.as_deref().unwrap_or_default();
    let end = status.not_after.map(moment).unwrap_or_default();
    let (code, severity, text) = match status.state {
        CertificateState::Current => match status.not_after.and_then(|end| end.duration_since(now).ok()) {
            Some(left) if left <= ENDING => (
                Code::CertificateEnding,
                Severity::Warning,
                format!(
                    "{name} ({path}) ends at {end}, in {} days; look at what renews it",
                    left.as_secs() / DAY
                ),
            ),
            _ => return,
        },
        CertificateState::Absent => (
            Code::CertificateMissing,
            if stops_service {
                Severity::Critical
            } else {
                Severity::Warning
            },
            format!("{name}: there is no {path}; is it spelt right?"),
        ),
        CertificateState::Unreadable
        | CertificateState::Incomplete
        | CertificateState::Damaged
        | CertificateState::KeyMismatch
        | CertificateState::WrongName => (
            Code::CertificateUnusable,
            Severity::Critical,
            format!("{name} cannot be used: {error}"),
        ),
        CertificateState::Expired => (
            Code::CertificateExpired,
            Severity::Critical,
            format!("{name} ({path}) expired at {end}, by this node's clock"),
        ),
        CertificateState::NotYetValid => (
            Code::CertificateNotYetValid,
            Severity::Critical,
            format!("{name} ({path}) is not valid yet, by this node's clock: look at the clock first"),
        ),
    };
    found.add(code, severity, text, None);
    if let Some(last) = found.0.last_mut() {
        last.check = Check::of_certificate(status.kind);
        last.stops_service = stops_service;
    }
}

fn store(facts: &Facts<'_>, found: &mut Found) {
    let (stats, path) = (facts.store, facts.cache_path);
    if let Some(why) = facts.in_memory {
        let why = match why {
            InMemory::NoDisk => format!("{path} cannot be written to"),
            InMemory::NoKey => format!(
                "its key cannot be read (cache.encryption, `edgehold check` says why), and what is in {path} stays as it is"
            ),
        };
        let text = format!("the cache is in memory only, {why}: it is gone at a restart");
        found.add(Code::InMemory, Severity::Critical, text, None);
    }
    let recent = |last: &DiskFailure| facts.now.duration_since(last.at).is_ok_and(|ago| ago <= RECENT);
    if let Some(last) = stats.last_failure.filter(recent) {
        let text = format!(
            "the disk of {path} refuses writes ({} failed, the last: {last}); what is read now may not be known without the cloud",
            stats.write_failures + stats.sync_failures
        );
        found.add(Code::WritesFail, Severity::Critical, text, Some(last.at));
    }
    if stats.quarantined > 0 {
        let text = format!(
            "{} damaged files of the cache were put aside in {path}/quarantine, and are read again from the cloud; if there are more, replace the disk",
            stats.quarantined
        );
        found.add(Code::Damaged, Severity::Warning, text, None);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_is_given_once_and_documented() {
        let codes: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(codes.len(), Code::ALL.len());
        let docs = include_str!("../../docs/troubleshooting.md");
        for code in codes {
            assert!(
                docs.contains(&format!("## {code}")),
                "{code} is not in docs/troubleshooting.md"
            );
        }
    }

    fn of(store: StoreStats, now: SystemTime) -> Vec<Finding> {
        let link = LinkReport {
            condition: Condition::Online,
            since: SystemTime::UNIX_EPOCH,
            servers: Vec::new(),
            outages: 0,
            is_flapping: false,
            answered_from_cache: 0,
            changes: Vec::new(),
            away: Vec::new(),
        };
        problems(&Facts {
            now,
            link: &link,
            certificates: &[],
            refused: &[],
            incidents: &[],
            store,
            in_memory: None,
            cache_path: "/var/lib/edgehold",
            configuration: None,
            clock: None,
        })
    }

    #[test]
    fn a_disk_that_takes_no_writes_is_a_problem_until_it_has_taken_them_for_a_while() {
        let failed = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let stats = StoreStats {
            write_failures: 2,
            sync_failures: 1,
            last_failure: Some(DiskFailure { at: failed, code: 28 }),
            ..StoreStats::default()
        };
        let found = of(stats, failed + Duration::from_secs(60));
        let told: Vec<_> = found.iter().map(|one| (one.code, one.severity)).collect();
        assert_eq!(told, [(Code::WritesFail, Severity::Critical)]);
        let text = &found[0].message;
        assert!(
            text.starts_with(
                "the disk of /var/lib/edgehold refuses writes (3 failed, the last: No space left on device"
            ),
            "{text}"
        );
        assert!(of(stats, failed + RECENT + Duration::from_secs(1)).is_empty());
    }
}
