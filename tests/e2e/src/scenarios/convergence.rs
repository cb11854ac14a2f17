//! Whatever happens to the link and to edgehold, informers hear of every change once, and end up with what etcd holds.

mod history;
mod writer;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::oneshot;

use self::history::{Told, Truth, now};
use self::writer::Writer;
use super::step;
use crate::cluster::Cluster;
use crate::node::{Cut, Node};
use crate::process::{Driven, until};
use crate::random::Random;
use crate::tools::Tool;

const COLLECTION: &str = "/api/v1/namespaces/convergence/configmaps";
const SELECTED: &str = "/api/v1/namespaces/convergence/configmaps?labelSelector=colour%3Dred";
const OBJECTS: u64 = 500;
const CUTS: u64 = 30;
const KILLS: [u64; 5] = [10, 14, 18, 22, 26];

/// The longest cut, in seconds; most are far shorter, so that all of them fit into three minutes.
const LONGEST: u64 = 20;

/// How long informers may take to come back: client-go backs off for up to half a minute, and again.
const PATIENCE: u64 = 240;

/// The informers of each client.
const INFORMERS: [&str; 4] = ["typed", "selected", "dynamic", "metadata"];

/// The clients: each with its feature gates.
const CLIENTS: [(&str, &[(&str, &str)]); 3] = [
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

struct Client {
    name: &'static str,
    process: Driven,
}

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    let (mut random, seed) = Random::seeded();
    step(format!(
        "{OBJECTS} ConfigMaps, a writer at the apiserver (E2E_SEED={seed})"
    ));
    let namespace = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"convergence"}}"#;
    cluster.request("POST", "/api/v1/namespaces", namespace).await?;
    let mut writer = Writer::new(cluster, random.clone()).await?;
    writer.fill().await?;

    step("informers through edgehold, with watch-list, with list and watch, and with CBOR");
    let user = cluster.pki().client(Some("informer"), &["system:masters"]);
    let mut node = Node::start(cluster, "node", &[("informer", &user)]).await?;
    let kubeconfig = cluster.kubeconfig("informer", node.address, &user)?;
    let mut clients = Vec::new();
    for (name, gates) in CLIENTS {
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
    equal(cluster, &mut node, &mut clients).await?;
    let before = lists(&mut clients).await?;

    let whole = Truth::follow(cluster, COLLECTION).await?;
    let selected = Truth::follow(cluster, SELECTED).await?;
    let (stop, stopped) = oneshot::channel();
    let writing = tokio::spawn(writer.write_until(stopped));
    let kills = trouble(cluster, &mut node, &mut random).await?;
    let _ = stop.send(());
    let mut writer = writing.await.context("the writer")??;
    step(format!(
        "the writer made {} changes; each informer must come to equal etcd",
        writer.count
    ));
    let start = Instant::now();
    equal(cluster, &mut node, &mut clients).await?;
    step(format!("all equal after {} s", start.elapsed().as_secs()));

    step("one more change, to see that they are alive and not just equal");
    writer.last().await?;
    equal(cluster, &mut node, &mut clients).await?;
    let (whole, selected) = (whole.up_to("last").await?, selected.up_to("last").await?);
    for client in &mut clients {
        let told = client.process.ask("history").await?;
        for informer in INFORMERS {
            let who = format!("{informer} informer of {}", client.name);
            let truth = if informer == "selected" { &selected } else { &whole };
            let told = Told::of(&told[informer]).with_context(|| who.clone())?;
            let relists = told.lists.len() - before[client.name][informer];
            told.check(truth, relists).with_context(|| who.clone())?;
            told.check_lists(relists, &kills).with_context(|| who.clone())?;
            step(format!("{who}: {} events, {relists} relists", told.events.len()));
        }
        check_encodings(client.name, &told)?;
    }
    apiserver_killed(cluster, &mut node, &mut clients, &mut writer).await
}

/// Cuts the link again and again and kills edgehold on the way; gives the times of the kills.
async fn trouble(cluster: &mut Cluster, node: &mut Node, random: &mut Random) -> anyhow::Result<Vec<i64>> {
    let mut kills = Vec::new();
    for number in 0..CUTS {
        let pause = random.mostly_short(LONGEST);
        let cut = match random.below(3) {
            0 => Some(Cut::Refused),
            1 => Some(Cut::BlackHole),
            _ => None,
        };
        let how = cut.map_or("connections reset", Cut::as_str);
        step(format!("cut {} of {CUTS}: {how} for {pause:?}", number + 1));
        match cut {
            Some(cut) => node.begin(cluster, cut).await?,
            None => node.link.cut(),
        }
        tokio::time::sleep(pause).await;
        if KILLS.contains(&number) {
            step("edgehold killed (-9) and started again");
            kills.push(now());
            node.kill_and_launch(cluster).await?;
        }
        node.end(cluster).await?;
        tokio::time::sleep(random.seconds(3)).await;
        node.check()?;
    }
    Ok(kills)
}

/// An apiserver that was started again knows no history, so clients list; what they hold stays right.
async fn apiserver_killed(
    cluster: &mut Cluster,
    node: &mut Node,
    clients: &mut [Client],
    writer: &mut Writer,
) -> anyhow::Result<()> {
    for _ in 0..2 {
        step("apiserver killed; the cloud changes before the node has it back");
        let before = lists(clients).await?;
        node.go_offline(cluster, Cut::Killed).await?;
        node.cloud_without_node(cluster).await?;
        writer.reconnect(cluster).await?;
        for _ in 0..50 {
            writer.change().await?;
        }
        node.go_online(cluster).await?;
        equal(cluster, node, clients).await?;
        let after = lists(clients).await?;
        for (client, informers) in &after {
            for (informer, count) in informers {
                let relists = count - before[client][informer];
                ensure!(
                    relists <= 2,
                    "{informer} informer of {client} listed {relists} times"
                );
            }
        }
    }
    Ok(())
}

/// How often each informer of each client has listed so far.
async fn lists(
    clients: &mut [Client],
) -> anyhow::Result<BTreeMap<&'static str, BTreeMap<&'static str, usize>>> {
    let mut counts = BTreeMap::new();
    for client in clients {
        let told = client.process.ask("history").await?;
        let of_client: &mut BTreeMap<_, _> = counts.entry(client.name).or_default();
        for informer in INFORMERS {
            of_client.insert(informer, Told::of(&told[informer])?.lists.len());
        }
    }
    Ok(counts)
}

/// Each informer must have been spoken to as it wished, or the scenario tries less than it says.
fn check_encodings(client: &str, told: &Value) -> anyhow::Result<()> {
    let expected = [
        ("typed", "application/vnd.kubernetes.protobuf"),
        (
            "dynamic",
            if client == "cbor" {
                "application/cbor"
            } else {
                "application/json"
            },
        ),
    ];
    for (informer, encoding) in expected {
        let types = told[informer]["types"].as_object().context("types")?;
        ensure!(
            types.keys().all(|name| name.contains(encoding)),
            "{informer} of {client} got {types:?}, expected {encoding}"
        );
    }
    Ok(())
}

/// Waits until every informer of every client holds what a fresh list from etcd holds.
async fn equal(cluster: &Cluster, node: &mut Node, clients: &mut [Client]) -> anyhow::Result<()> {
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
