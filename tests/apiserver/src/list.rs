//! GET and LIST: resourceVersion semantics, selectors, pages.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Value, json};

use crate::encode::{Encoder, Include, ListHead};
use crate::kinds::{Kind, Scope};
use crate::selector::{BadSelector, Fields, Labels, Selector};
use crate::serve::{Answer, Call};
use crate::status::Status;
use crate::store::Snapshot;

impl Call {
    pub(crate) fn encoder(&self, kind: &'static Kind, single: bool) -> Result<Encoder, Status> {
        let include = Include::parse(self.query.text("includeObject"));
        Ok(Encoder {
            kind,
            form: self.negotiate(kind, single)?,
            include,
        })
    }

    /// Both selectors of the request, or 400.
    pub(crate) fn selector(&self, kind: &Kind) -> Result<Selector, Status> {
        let bad = |BadSelector(why)| Status::bad_request(why);
        let labels = Labels::parse(self.query.text("labelSelector")).map_err(bad)?;
        let fields = Fields::parse(self.query.text("fieldSelector")).map_err(bad)?;
        if let Some(field) = fields.unsupported(kind.resource) {
            return Err(Status::bad_request(format!(
                "Unable to find {:?} that match label selector {:?}, field selector {:?}: field label not supported: \
                 {field}",
                format!("{}, Resource={}", kind.api_version(), kind.resource),
                self.query.text("labelSelector"),
                self.query.text("fieldSelector"),
            )));
        }
        Ok(Selector { labels, fields })
    }

    /// `resourceVersion`: absent and empty are `None`.
    pub(crate) fn revision(&self) -> Result<Option<u64>, Status> {
        let text = self.query.text("resourceVersion");
        if text.is_empty() {
            return Ok(None);
        }
        let bad = || {
            Status::bad_request(format!(
                "resourceVersion: Invalid value: {text:?}: must be a number"
            ))
        };
        text.parse().map(Some).map_err(|_| bad())
    }

    /// Whether a stored key lies in the scope of the URL.
    pub(crate) fn in_scope(&self, kind: &Kind, key: &str) -> bool {
        kind.scope == Scope::Cluster
            || self.info.namespace.is_empty()
            || key
                .split_once('/')
                .is_some_and(|(ns, _)| ns == self.info.namespace)
    }

    /// Waits until the store reaches `revision`, or 504.
    async fn reach(&self, revision: u64) -> Result<(), Status> {
        let store = &self.shared.cluster.store;
        let mut news = store.subscribe();
        let reached = async { while store.revision() < revision && news.changed().await.is_ok() {} };
        let waited = tokio::time::timeout(self.shared.options.too_large_wait, reached).await;
        waited.map_err(|_| Status::too_large(revision, store.revision()))
    }
}

pub(crate) async fn get(call: &Call, kind: &'static Kind) -> Answer {
    let encoder = call.encoder(kind, true)?;
    let revision = call.revision()?;
    if let Some(n) = revision {
        call.reach(n).await?;
    }
    let key = kind.key(&call.info.namespace, &call.info.name);
    let store = &call.shared.cluster.store;
    let found = if revision == Some(0) {
        store.cached_object(kind, &key)
    } else {
        store.get(kind, &key)
    };
    let object = found.ok_or_else(|| Status::not_found(kind, &call.info.name))?;
    Ok(call.respond(StatusCode::OK, &encoder.form, encoder.object(&object)))
}

pub(crate) async fn list(call: &Call, kind: &'static Kind) -> Answer {
    let encoder = call.encoder(kind, false)?;
    let selector = call.selector(kind)?;
    validate(call)?;
    let limit = call.query.number("limit").filter(|l| *l > 0);
    let page = Page::choose(call, kind, limit).await?;
    let mut items: Vec<(&String, &Arc<Value>)> = page.snapshot.items.iter().collect();
    items.retain(|(key, object)| {
        call.in_scope(kind, key) && page.start.as_ref().is_none_or(|s| *key >= s) && selector.matches(object)
    });
    let mut head = ListHead {
        revision: page.snapshot.revision,
        ..ListHead::default()
    };
    if let Some(limit) = page
        .limit
        .and_then(|l| usize::try_from(l).ok())
        .filter(|l| *l < items.len())
    {
        head.token = token(i64::try_from(head.revision).unwrap_or(-1), items[limit - 1].0);
        if selector.is_empty() {
            head.remaining = Some((items.len() - limit) as u64);
        }
        items.truncate(limit);
    }
    let items: Vec<Arc<Value>> = items.into_iter().map(|(_, o)| o.clone()).collect();
    Ok(call.respond(StatusCode::OK, &encoder.form, encoder.list(&items, &head)))
}

fn validate(call: &Call) -> Result<(), Status> {
    let revision = call.query.text("resourceVersion");
    let matching = call.query.text("resourceVersionMatch");
    if call.query.get("sendInitialEvents").is_some() {
        return Err(Status::invalid_options(
            "sendInitialEvents",
            "Forbidden: sendInitialEvents is forbidden for list",
        ));
    }
    if matching.is_empty() {
        return Ok(());
    }
    let why = match matching {
        _ if revision.is_empty() => {
            "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        }
        _ if !call.query.text("continue").is_empty() => {
            "Forbidden: resourceVersionMatch is forbidden when continue is provided"
        }
        "Exact" if revision == "0" => {
            "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""
        }
        "Exact" | "NotOlderThan" => return Ok(()),
        _ => "Unsupported value: supported values: \"Exact\", \"NotOlderThan\"",
    };
    Err(Status::invalid_options("resourceVersionMatch", why))
}

/// The state a list is cut from.
struct Page {
    snapshot: Snapshot,
    /// First key of the page.
    start: Option<String>,
    limit: Option<u64>,
}

impl Page {
    async fn choose(call: &Call, kind: &'static Kind, limit: Option<u64>) -> Result<Self, Status> {
        let store = &call.shared.cluster.store;
        let whole = |snapshot| Self {
            snapshot,
            start: None,
            limit,
        };
        if let Some((revision, start)) = continued(call)? {
            let Ok(revision) = u64::try_from(revision) else {
                return Ok(Self {
                    snapshot: store.now(kind),
                    start: Some(start),
                    limit,
                });
            };
            let last = start.trim_end_matches('\0').to_owned();
            let snapshot = store
                .at(kind, revision)
                .map_err(|_| Status::expired_page(token(-1, &last)))?;
            return Ok(Self {
                snapshot,
                start: Some(start),
                limit,
            });
        }
        let exactly = |n| match store.at(kind, n) {
            Ok(snapshot) => Ok(whole(snapshot)),
            Err(gone) => Err(Status::too_old(n, gone.oldest)),
        };
        match (call.revision()?, call.query.text("resourceVersionMatch")) {
            (None, _) => Ok(whole(store.now(kind))),
            // The watch cache answers and ignores the limit.
            (Some(0), _) => Ok(Self {
                snapshot: store.cached(kind),
                start: None,
                limit: None,
            }),
            (Some(n), matching) => {
                call.reach(n).await?;
                if matching == "Exact" || (matching.is_empty() && limit.is_some()) {
                    exactly(n)
                } else {
                    Ok(whole(store.now(kind)))
                }
            }
        }
    }
}

/// A page token: `last` is the key of the last object already sent.
fn token(revision: i64, last: &str) -> String {
    let token = format!(
        "{{\"v\":\"meta.k8s.io/v1\",\"rv\":{revision},\"start\":{}}}",
        json!(format!("/{last}\0"))
    );
    URL_SAFE_NO_PAD.encode(token)
}

/// Revision and first key of the `continue` parameter.
fn continued(call: &Call) -> Result<Option<(i64, String)>, Status> {
    let text = call.query.text("continue");
    if text.is_empty() {
        return Ok(None);
    }
    let bad = || Status::bad_request("continue key is not valid");
    let bytes = URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|_| bad())?;
    let token: Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    let start = token["start"]
        .as_str()
        .ok_or_else(bad)?
        .trim_start_matches('/')
        .to_owned();
    Ok(Some((token["rv"].as_i64().ok_or_else(bad)?, start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_has_the_recorded_form() {
        assert_eq!(
            token(360, "a-b/kube-root-ca.crt"),
            "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MzYwLCJzdGFydCI6Ii9hLWIva3ViZS1yb290LWNhLmNydFx1MDAwMCJ9"
        );
    }
}
