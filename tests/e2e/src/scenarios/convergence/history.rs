//! What informers were told, held against what the apiserver says happened.
//!
//! An informer that never listed again must have heard of every change of every object, once, in order. One that did
//! has heard less, but nothing that did not happen, nothing out of order, and of no deletion of what was not deleted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail, ensure};
use apiserver_standin::Lines;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::process::until;

/// One change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::scenarios) struct Change {
    /// The object is there after it.
    there: bool,
    /// Its position, or that of the deletion.
    revision: u64,
}

/// Changes in order, by the name of the object.
pub(in crate::scenarios) type Changes = BTreeMap<String, Vec<Change>>;

/// A watch straight from the apiserver.
pub(in crate::scenarios) struct Truth {
    changes: Arc<Mutex<Changes>>,
}

impl Truth {
    /// Notes every change from now on.
    pub(in crate::scenarios) async fn follow(cluster: &Cluster, collection: &str) -> anyhow::Result<Self> {
        let list = cluster.read(collection).await?;
        let revision = list["metadata"]["resourceVersion"]
            .as_str()
            .context("a revision")?;
        let glue = if collection.contains('?') { '&' } else { '?' };
        let target = format!("{collection}{glue}watch=true&timeoutSeconds=3600&resourceVersion={revision}");
        let mut connection = cluster
            .direct()
            .connect()
            .await
            .map_err(|error| anyhow::anyhow!(error.0))?;
        let mut lines = connection
            .lines(&target)
            .await
            .map_err(|error| anyhow::anyhow!(error.0))?;
        let changes = Arc::new(Mutex::new(Changes::new()));
        let noted = Arc::clone(&changes);
        tokio::spawn(async move {
            let _connection = connection;
            note(&mut lines, &noted).await;
        });
        Ok(Self { changes })
    }

    /// All changes up to the first of this object.
    pub(in crate::scenarios) async fn up_to(self, name: &str) -> anyhow::Result<Changes> {
        until(
            &format!("the apiserver's own watch shows {name}"),
            60,
            async || {
                let changes = self.changes.lock().expect("changes").clone();
                Ok(if changes.contains_key(name) {
                    Ok(changes)
                } else {
                    Err(format!("{} objects", changes.len()))
                })
            },
        )
        .await
    }
}

/// Until the watch ends, which leaves the truth incomplete, and so the test failing.
async fn note(lines: &mut Lines, changes: &Mutex<Changes>) {
    loop {
        // An error is ten seconds of silence, or the end of the connection.
        let event = match lines.next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) if error.0.contains("Elapsed") => continue,
            Err(_) => return,
        };
        let metadata = &event["object"]["metadata"];
        let revision = metadata["resourceVersion"]
            .as_str()
            .and_then(|text| text.parse().ok());
        let (Some(name), Some(revision)) = (metadata["name"].as_str(), revision) else {
            continue;
        };
        let change = Change {
            there: event["type"] != "DELETED",
            revision,
        };
        let mut changes = changes.lock().expect("changes");
        changes.entry(name.to_owned()).or_default().push(change);
    }
}

/// What one informer told its handlers.
pub(super) struct Told {
    /// As the client has noted them.
    pub(super) events: Vec<String>,
    /// Times at which it listed, in milliseconds.
    pub(super) lists: Vec<i64>,
}

impl Told {
    pub(super) fn of(history: &Value) -> anyhow::Result<Self> {
        let events = history["events"].as_array().context("events")?;
        let lists = history["lists"].as_array().context("lists")?;
        Ok(Self {
            events: events
                .iter()
                .filter_map(|event| event.as_str().map(str::to_owned))
                .collect(),
            lists: lists.iter().filter_map(Value::as_i64).collect(),
        })
    }

    /// Fails if it was told too little, or what did not happen.
    pub(super) fn check(&self, truth: &Changes, relists: usize) -> anyhow::Result<()> {
        let mut told: BTreeMap<&str, Vec<(&str, u64)>> = BTreeMap::new();
        // What it has of each object, from its first list on.
        let mut known: BTreeMap<&str, u64> = BTreeMap::new();
        for event in &self.events {
            let mut words = event.split(' ');
            let (Some(operation), Some(name), Some(revision)) = (words.next(), words.next(), words.next())
            else {
                bail!("not an event: {event}");
            };
            let revision: u64 = revision.parse()?;
            let before = known.insert(name, revision);
            // A list tells of everything again, changed or not.
            let repeated = relists > 0 && operation == "U" && before == Some(revision);
            let heard = told.entry(name).or_default();
            if operation != "I" && !repeated {
                heard.push((operation, revision));
            }
        }
        for (name, heard) in &told {
            let happened = truth.get(*name).map_or(&[][..], Vec::as_slice);
            happened_so(heard, happened)
                .with_context(|| format!("{name}: told {heard:?}, happened {happened:?}"))?;
        }
        if relists > 0 {
            return Ok(());
        }
        for (name, happened) in truth {
            let heard = told.get(name.as_str()).map_or(0, Vec::len);
            ensure!(
                heard == happened.len(),
                "{name}: told {heard} changes of {}, without a relist: {:?}, happened {happened:?}",
                happened.len(),
                told.get(name.as_str())
            );
        }
        Ok(())
    }

    /// Fails if it listed when nobody had killed edgehold.
    pub(super) fn check_lists(&self, relists: usize, kills: &[i64]) -> anyhow::Result<()> {
        let first = kills.first().copied().unwrap_or(i64::MAX);
        let later = &self.lists[self.lists.len() - relists..];
        ensure!(
            later.iter().all(|time| *time >= first) && relists <= kills.len(),
            "{relists} relists at {later:?}, edgehold killed at {kills:?}"
        );
        Ok(())
    }
}

/// Each thing heard happened, and later than what was heard before.
fn happened_so(heard: &[(&str, u64)], happened: &[Change]) -> anyhow::Result<()> {
    let mut rest = happened.iter();
    for (operation, revision) in heard {
        let found = match *operation {
            "A" | "U" => rest.any(|change| change.there && change.revision == *revision),
            "D" => rest.any(|change| !change.there && change.revision == *revision),
            // Found out by a list, so with the last version that was known.
            "X" => rest.any(|change| !change.there),
            other => bail!("no such operation: {other}"),
        };
        ensure!(found, "{operation} {revision} did not happen then");
    }
    Ok(())
}

/// Milliseconds of Unix time.
pub(super) fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
