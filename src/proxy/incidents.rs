//! Recent problems of configured clients, for the status.
//!
//! Bounded: one entry for each configured client and kind. Other callers are left out, since applications
//! often try what they may not do.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::kube::request::RequestInfo;
use crate::runtime::clock;

/// A problem that has not recurred for so long is over.
const LASTS: Duration = Duration::from_secs(600);

/// The most characters of what was asked for, which comes from a request.
const LONGEST: usize = 120;

/// What happens to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IncidentKind {
    /// The apiserver answers 403.
    Forbidden,
    /// It gets 429 from its limits.
    OverLimit,
}

/// What went wrong for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// Its common name.
    pub client: String,
    /// What happens to it.
    pub kind: IncidentKind,
    /// The last request, or the limit.
    pub what: String,
    /// How often, since `since`.
    pub count: u64,
    /// The first time.
    pub since: SystemTime,
}

#[derive(Debug)]
struct Entry {
    what: String,
    count: u64,
    since: SystemTime,
    last: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Incidents(Mutex<BTreeMap<(String, IncidentKind), Entry>>);

impl Incidents {
    /// The apiserver forbids this to a configured client.
    pub(super) fn forbidden(&self, client: &str, info: &RequestInfo) {
        let mut what = match info {
            // No namespace and no name: this has more readers than the cache.
            RequestInfo::Resource(asked) if asked.group.is_empty() => {
                format!("{} {}", asked.verb.as_str(), asked.resource)
            }
            RequestInfo::Resource(asked) => {
                format!("{} {}.{}", asked.verb.as_str(), asked.resource, asked.group)
            }
            RequestInfo::NonResource | RequestInfo::Malformed => "read what is no resource".to_owned(),
        };
        if let Some((at, _)) = what.char_indices().nth(LONGEST) {
            what.truncate(at);
        }
        self.happened(client, IncidentKind::Forbidden, what);
    }

    /// A configured client is over this limit.
    pub(super) fn over_limit(&self, client: &str, limit: &str) {
        self.happened(client, IncidentKind::OverLimit, limit.to_owned());
    }

    fn happened(&self, client: &str, kind: IncidentKind, what: String) {
        let now = clock::now();
        let mut entries = self.0.lock();
        let entry = entries.entry((client.to_owned(), kind)).or_insert_with(|| Entry {
            what: String::new(),
            count: 0,
            since: clock::wall(),
            last: now,
        });
        if now.duration_since(entry.last) > LASTS {
            (entry.count, entry.since) = (0, clock::wall());
        }
        entry.what = what;
        entry.count += 1;
        entry.last = now;
    }

    /// The problems that are not over.
    pub(super) fn current(&self) -> Vec<Incident> {
        let now = clock::now();
        let mut entries = self.0.lock();
        entries.retain(|_, entry| now.duration_since(entry.last) <= LASTS);
        let current = entries.iter().map(|((client, kind), entry)| Incident {
            client: client.clone(),
            kind: *kind,
            what: entry.what.clone(),
            count: entry.count,
            since: entry.since,
        });
        current.collect()
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_counted_named_and_over_when_it_does_not_happen_again() {
        let incidents = Incidents::default();
        let info = RequestInfo::parse(&Method::GET, "/apis/apps/v1/namespaces/shop/deployments", None);
        incidents.forbidden("a", &info);
        incidents.forbidden("a", &info);
        incidents.over_limit("b", "rate");
        let current = incidents.current();
        let told: Vec<_> = current
            .iter()
            .map(|one| (one.client.as_str(), one.what.as_str(), one.count))
            .collect();
        assert_eq!(told, [("a", "list deployments.apps", 2), ("b", "rate", 1)]);
        tokio::time::advance(LASTS + Duration::from_secs(1)).await;
        assert!(incidents.current().is_empty());
    }
}
