//! Programs of informers on client-go, and what they must come to.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;
use tokio::process::Command;

use super::history::{Changes, Told};
use super::{COLLECTION, SELECTED};
use crate::cluster::Cluster;
use crate::node::Node;
use crate::process::{Driven, until};
use crate::scenarios::step;
use crate::tools::Tool;

/// How long informers may take to come back: client-go backs off for up to half a minute, and again.
const PATIENCE: u64 = 240;

/// The informers of each client.
pub(super) const INFORMERS: [&str; 4] = ["typed", "selected", "dynamic", "metadata"];

/// A name and feature gates.
pub(in crate::scenarios) type Kind = (&'static str, &'static [(&'static str, &'static str)]);

/// Lists so far, by client and informer.
pub(in crate::scenarios) type Lists = BTreeMap<&'static str, BTreeMap<&'static str, usize>>;

/// The clients: each with its feature gates.
pub(in crate::scenarios) const CLIENTS: [Kind; 3] = [
    ("watch-list", &[]),
    ("list", &[("KUBE_FEATURE_WatchListClient", "false")]),
    (
        "cbor",
        &[
            ("KUBE_FEATURE_ClientsAllowCBOR", "true"),
            ("KUBE_FEATURE_ClientsPreferCBOR", "true"),
        ],
    ),
];

/// A running program.
pub(in crate::scenarios) struct Client {
    pub(super) name: &'static str,
    pub(super) process: Driven,
}

/// Starts a program of each kind behind edgehold.
pub(in crate::scenarios) fn start(
    cluster: &Cluster,
    node: &Node,
    kubeconfig: &Path,
    kinds: &[Kind],
) -> anyhow::Result<Vec<Client>> {
    let mut clients = Vec::new();
    for (name, gates) in kinds {
        let mut command = Command::new(cluster.tools().path(Tool::Client));
        command
            .envs(gates.iter().copied())
            .args(["informers", "-namespace=convergence"])
            .arg(format!("-v={}", crate::process::verbosity()))
            .arg(format!("-kubeconfig={}", kubeconfig.display()));
        clients.push(Client {
            name,
            process: Driven::start(&format!("informers-{name}"), &mut command, node.dir())?,
        });
    }
    Ok(clients)
}

/// Fails unless each informer has heard of every change, and listed again at most after one of these kills of edgehold.
pub(in crate::scenarios) async fn check(
    clients: &mut [Client],
    before: &Lists,
    whole: &Changes,
    selected: &Changes,
    kills: &[i64],
) -> anyhow::Result<()> {
    for client in clients {
        let told = client.process.ask("history").await?;
        for informer in INFORMERS {
            let who = format!("{informer} informer of {}", client.name);
            let truth = if informer == "selected" { selected } else { whole };
            let told = Told::of(&told[informer]).with_context(|| who.clone())?;
            let relists = told.lists.len() - before[client.name][informer];
            told.check(truth, relists).with_context(|| who.clone())?;
            told.check_lists(relists, kills).with_context(|| who.clone())?;
            step(format!("{who}: {} events, {relists} relists", told.events.len()));
        }
    }
    Ok(())
}

/// How often each informer of each client has listed so far.
pub(in crate::scenarios) async fn lists(clients: &mut [Client]) -> anyhow::Result<Lists> {
    let mut counts = Lists::new();
    for client in clients {
        let told = client.process.ask("history").await?;
        let of_client: &mut BTreeMap<_, _> = counts.entry(client.name).or_default();
        for informer in INFORMERS {
            of_client.insert(informer, Told::of(&told[informer])?.lists.len());
        }
    }
    Ok(counts)
}

/// Waits until every informer of every client holds what a fresh list from etcd holds.
pub(in crate::scenarios) async fn equal(
    cluster: &Cluster,
    node: &mut Node,
    clients: &mut [Client],
) -> anyhow::Result<()> {
    until("every informer equals etcd", PATIENCE, async || {
        node.check()?;
        let (whole, red) = (
            in_etcd(cluster, COLLECTION).await?,
            in_etcd(cluster, SELECTED).await?,
        );
        for client in &mut *clients {
            let state = client.process.ask("state").await?;
            for informer in INFORMERS {
                let expected = match informer {
                    "selected" => &red.full,
                    "metadata" => &whole.revisions,
                    _ => &whole.full,
                };
                if let Some(different) = difference(expected, &state[informer]) {
                    return Ok(Err(format!(
                        "{informer} informer of {}: {different}",
                        client.name
                    )));
                }
            }
        }
        Ok(Ok(()))
    })
    .await
}

struct InEtcd {
    /// Name to `resourceVersion value`.
    full: BTreeMap<String, String>,
    /// Name to `resourceVersion`.
    revisions: BTreeMap<String, String>,
}

/// A list without resourceVersion is a quorum read.
async fn in_etcd(cluster: &Cluster, target: &str) -> anyhow::Result<InEtcd> {
    let list = cluster.read(target).await?;
    let mut found = InEtcd {
        full: BTreeMap::new(),
        revisions: BTreeMap::new(),
    };
    for item in list["items"].as_array().context("a list")? {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (name, revision) = (
            text(&item["metadata"]["name"]),
            text(&item["metadata"]["resourceVersion"]),
        );
        found
            .full
            .insert(name.clone(), format!("{revision} {}", text(&item["data"]["v"])));
        found.revisions.insert(name, revision);
    }
    Ok(found)
}

fn difference(expected: &BTreeMap<String, String>, informer: &Value) -> Option<String> {
    if informer["synced"] != true {
        return Some("not synced".to_owned());
    }
    let held = informer["items"].as_object()?;
    let wrong: Vec<_> = expected
        .iter()
        .filter(|(name, value)| held.get(*name).and_then(Value::as_str) != Some(value))
        .map(|(name, value)| format!("{name}: etcd {value}, informer {:?}", held.get(name)))
        .chain(
            held.keys()
                .filter(|name| !expected.contains_key(*name))
                .map(|name| format!("{name}: not in etcd")),
        )
        .collect();
    let first = wrong.first()?;
    Some(format!(
        "{} of {} differ, first {first}",
        wrong.len(),
        expected.len()
    ))
}
