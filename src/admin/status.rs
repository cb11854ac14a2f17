//! What `GET /status` and `GET /cache` answer: their form is stable within an `apiVersion`, where fields may be added.
//!
//! Moments are RFC 3339 in UTC, to the second.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::kube::groups::qualified;
use crate::store::LogSummary;
use crate::tls::CertificateStatus;
use crate::upstream::{LinkReport, ServerReport, timeline};
use crate::view::key::ViewKey;

/// Of all documents here.
pub const API_VERSION: &str = "edgehold/v1alpha1";

/// How edgehold is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// [`API_VERSION`].
    pub api_version: String,
    /// `Status`.
    pub kind: String,
    /// Of edgehold.
    pub version: String,
    /// When this was said.
    pub now: String,
    /// When the process started.
    pub started: String,
    /// As `/readyz`: whether clients can be served.
    pub ready: bool,
    /// What is wrong, the gravest first.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// Where clients connect.
    pub listen: Vec<String>,
    /// Open connections of clients.
    pub connections: i64,
    /// The way to the cloud.
    pub link: LinkStatus,
    /// The servers in the configured order.
    pub servers: Vec<ServerStatus>,
    /// The configured clients.
    pub clients: Vec<ClientStatus>,
    /// Every certificate file.
    pub certificates: Vec<CertificateFile>,
    /// What is kept for the time without the cloud.
    pub cache: CacheStatus,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `critical`: clients are not served, or would not be after a restart; else `warning`.
    pub severity: String,
    /// `EH001` and so on: docs/troubleshooting.md.
    pub code: String,
    /// In words.
    pub message: String,
    /// When it began, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// The link as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkStatus {
    /// `online`, `starting`, `suspect`, `offline`.
    pub state: String,
    /// Since when.
    pub since: String,
    /// What is wrong with which servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How often the cloud has been away since the start.
    pub outages: u64,
    /// Requests that the cache has answered since the start.
    pub answered_from_cache: u64,
    /// The last contact, by the cloud's clock; of an earlier run, if there was none in this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_contact: Option<String>,
    /// The last changes, the newest first.
    pub changes: Vec<LinkChange>,
    /// The last day.
    pub timeline: Timeline,
}

/// For how long the apiserver was away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// The length of a slot.
    pub slot_seconds: u64,
    /// Seconds in each slot, the oldest first, for a day at most. The last one has not ended; before the first the process did
    /// not run.
    pub away_seconds: Vec<u64>,
}

/// The cloud came or went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkChange {
    /// When.
    pub at: String,
    /// `online` or `offline`.
    pub to: String,
    /// Why, when it went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerStatus {
    /// `host:port`.
    pub name: String,
    /// As of the link.
    pub state: String,
    /// It is back, but not for long enough to be the first choice.
    pub on_trial: bool,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<TroubleStatus>,
}

/// What is wrong with a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TroubleStatus {
    /// One word of a closed list: `dns`, `refused`, `timeout`, `tls_untrusted_server` and so on.
    pub cause: String,
    /// In words.
    pub message: String,
    /// What the socket, TLS or the answer said.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub detail: String,
    /// When it began.
    pub since: String,
}

/// One of `clients`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientStatus {
    /// Its common name.
    pub name: String,
    /// The apiserver has answered 401 to its pair.
    pub refused: bool,
    /// Connections upstream.
    pub connections: usize,
    /// Requests on them whose answers have not ended, watches among them.
    pub streams: usize,
}

/// One certificate file or pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateFile {
    /// `serving`, `client-ca`, `client-crl`, `upstream-ca`, or the common name of a client.
    pub name: String,
    /// `serving`, `client_ca`, `client_crl`, `upstream_ca`, `client`.
    pub kind: String,
    /// Where it is.
    pub path: String,
    /// The file as of the last look: `current`, `absent`, `expired` and so on.
    pub state: String,
    /// End of validity of what is in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// Whole days until then; negative when it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days_left: Option<i64>,
    /// SHA-256 of what is in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Why the state is not `current`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheStatus {
    /// `file`, or `memory`: what is there is gone with the process.
    pub place: String,
    /// The configured directory.
    pub path: String,
    /// Views, sets of objects, documents.
    pub logs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// `cache.maxSize`.
    pub max_bytes: u64,
    /// Damaged files that were put aside since the start.
    pub damaged: u64,
    /// Logs removed by the quota since the start.
    pub evicted: u64,
    /// Writes and syncs that failed since the start.
    pub failures: u64,
}

/// What is known offline: not the content, but what there is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheListing {
    /// [`API_VERSION`].
    pub api_version: String,
    /// `CacheListing`.
    pub kind: String,
    /// Ordered by owner and name.
    pub items: Vec<CacheEntry>,
}

/// One log of the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheEntry {
    /// Whose it is, as `cn:system:node:edge-1,o=system:nodes`.
    pub owner: String,
    /// `view`, or the name of another log: `objects`, documents, edgehold's own.
    pub kind: String,
    /// Of a view: `pods`, `deployments.apps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Of a view; absent when it is of the whole cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Of a view: label and field selector as they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Of a view: the encoding and shape that it was read in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
    /// On disk.
    pub bytes: u64,
    /// The last change.
    pub modified: String,
}

/// RFC 3339 in UTC, to the second.
pub(super) fn moment(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

impl From<&ServerReport> for ServerStatus {
    fn from(report: &ServerReport) -> Self {
        Self {
            name: report.name.clone(),
            state: report.condition.as_str().to_owned(),
            on_trial: report.on_trial,
            trouble: report.trouble.as_ref().map(|trouble| TroubleStatus {
                cause: trouble.cause.as_str().to_owned(),
                message: trouble.cause.to_string(),
                detail: trouble.detail.clone(),
                since: moment(trouble.since),
            }),
        }
    }
}

impl LinkStatus {
    pub(super) fn of(report: &LinkReport, last_contact: Option<SystemTime>) -> Self {
        Self {
            state: report.condition.as_str().to_owned(),
            since: moment(report.since),
            why: report.why(),
            outages: report.outages,
            answered_from_cache: report.answered_from_cache,
            last_contact: last_contact.map(moment),
            changes: report
                .changes
                .iter()
                .map(|change| LinkChange {
                    at: moment(change.at),
                    to: change.to.as_str().to_owned(),
                    why: change.why.clone(),
                })
                .collect(),
            timeline: Timeline {
                slot_seconds: timeline::SLOT.as_secs(),
                away_seconds: report.away.iter().map(Duration::as_secs).collect(),
            },
        }
    }
}

impl CertificateFile {
    pub(super) fn of(status: &CertificateStatus, now: SystemTime) -> Self {
        Self {
            name: status.name.clone(),
            kind: status.kind.as_str().to_owned(),
            path: status.path.display().to_string(),
            state: status.state.as_str().to_owned(),
            not_after: status.not_after.map(moment),
            days_left: status.not_after.map(|end| days_between(now, end)),
            fingerprint: status.fingerprint.clone(),
            error: status.last_error.clone(),
        }
    }
}

/// Whole days, rounded down.
fn days_between(now: SystemTime, end: SystemTime) -> i64 {
    const DAY: u64 = 86_400;
    let days = |seconds: u64| i64::try_from(seconds / DAY).unwrap_or(i64::MAX);
    match end.duration_since(now) {
        Ok(left) => days(left.as_secs()),
        Err(over) => -1 - days(over.duration().as_secs()),
    }
}

impl CacheListing {
    pub(super) fn of(logs: Vec<LogSummary>) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "CacheListing".to_owned(),
            items: logs.into_iter().map(CacheEntry::from).collect(),
        }
    }
}

impl From<LogSummary> for CacheEntry {
    fn from(log: LogSummary) -> Self {
        let mut entry = Self {
            owner: log.id.owner,
            kind: "view".to_owned(),
            resource: None,
            namespace: None,
            selector: None,
            form: None,
            bytes: log.bytes,
            modified: moment(log.modified),
        };
        let Some(key) = ViewKey::parse(&log.id.name) else {
            entry.kind = log.id.name;
            return entry;
        };
        entry.resource = Some(qualified(&key.group, &key.resource));
        entry.namespace = key.namespace;
        let selectors = [key.label_selector, key.field_selector, key.shard_selector];
        let selectors: Vec<_> = selectors.into_iter().filter(|text| !text.is_empty()).collect();
        entry.selector = (!selectors.is_empty()).then(|| selectors.join(" "));
        entry.form = Some(key.representation);
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LogId;

    #[test]
    fn days_are_whole_and_negative_when_it_is_over() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let now = at(1_000_000);
        for (end, expected) in [
            (at(1_000_000 + 86_400 * 30), 30),
            (at(1_000_000 + 86_399), 0),
            (at(1_000_000 - 1), -1),
            (at(1_000_000 - 86_401), -2),
        ] {
            assert_eq!(days_between(now, end), expected);
        }
    }

    #[test]
    fn a_log_is_told_as_what_was_asked_for() {
        let key = ViewKey {
            group: "apps".to_owned(),
            version: "v1".to_owned(),
            resource: "deployments".to_owned(),
            namespace: Some("shop".to_owned()),
            label_selector: "app=web".to_owned(),
            field_selector: String::new(),
            shard_selector: String::new(),
            representation: "json".to_owned(),
        };
        let log = |name: String| LogSummary {
            id: LogId::new("cn:a", name),
            bytes: 7,
            modified: SystemTime::UNIX_EPOCH,
        };
        let view = CacheEntry::from(log(key.to_text()));
        assert_eq!(view.resource.as_deref(), Some("deployments.apps"));
        assert_eq!(view.namespace.as_deref(), Some("shop"));
        assert_eq!(view.selector.as_deref(), Some("app=web"));
        assert_eq!(CacheEntry::from(log("objects".to_owned())).kind, "objects");
    }
}
