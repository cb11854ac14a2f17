//! Whatever happens to the link and to edgehold, informers hear of every change once, and end up with what etcd holds.

pub(super) mod history;
pub(super) mod informers;
pub(super) mod writer;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::sync::oneshot;

use self::history::{Truth, now};
use self::informers::{CLIENTS, Client, equal, lists};
use self::writer::Writer;
use super::step;
use crate::cluster::Cluster;
use crate::node::{Cut, Node};
use crate::process::until;
use crate::random::Random;

pub(super) const COLLECTION: &str = "/api/v1/namespaces/convergence/configmaps";
pub(super) const SELECTED: &str = "/api/v1/namespaces/convergence/configmaps?labelSelector=colour%3Dred";
const OBJECTS: u64 = 500;
const CUTS: u64 = 30;

/// Two hundred changes.
const MANY_EVENTS: Duration = Duration::from_secs(5);

/// In these cuts edgehold is killed, and after these.
const KILLS_OFFLINE: [u64; 3] = [10, 18, 26];
const KILLS_ONLINE: [u64; 2] = [14, 22];

/// The longest cut, in seconds; most are far shorter, so that all of them fit into three minutes.
const LONGEST: u64 = 20;

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
    let mut clients = informers::start(cluster, &node, &kubeconfig, &CLIENTS)?;
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
    informers::check(&mut clients, &before, &whole, &selected, &kills).await?;
    for client in &mut clients {
        check_encodings(client.name, &client.process.ask("history").await?)?;
    }
    remembered(cluster, &mut node, &kubeconfig).await?;
    equal(cluster, &mut node, &mut clients).await?;
    apiserver_killed(cluster, &mut node, &mut clients, &mut writer).await?;
    remembered(cluster, &mut node, &kubeconfig).await
}

/// After all that new informers find offline what etcd holds: the views that the others kept have lost nothing either.
async fn remembered(cluster: &mut Cluster, node: &mut Node, kubeconfig: &Path) -> anyhow::Result<()> {
    step("offline: new informers hold what etcd holds, and so after edgehold was killed");
    node.go_offline(cluster, Cut::Refused).await?;
    for restart in [false, true] {
        if restart {
            node.kill_and_launch(cluster).await?;
        }
        let mut new = informers::start(cluster, node, kubeconfig, &CLIENTS)?;
        equal(cluster, node, &mut new).await?;
    }
    node.go_online(cluster).await
}

/// Cuts the link again and again and kills edgehold on the way; gives the times of the kills.
async fn trouble(cluster: &mut Cluster, node: &mut Node, random: &mut Random) -> anyhow::Result<Vec<i64>> {
    let mut kills = Vec::new();
    for number in 0..CUTS {
        // A cut that leaves many events to be made up for, where edgehold is to be killed while it does so.
        let is_killed_online = KILLS_ONLINE.contains(&number);
        let pause = match is_killed_online {
            true => MANY_EVENTS,
            false => random.mostly_short(LONGEST),
        };
        let cut = match random.below(3) {
            _ if is_killed_online => Some(Cut::Refused),
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
        if KILLS_OFFLINE.contains(&number) {
            step("edgehold killed (-9) and started again");
            kills.push(now());
            node.kill_and_launch(cluster).await?;
        }
        let resumed = node.resumed();
        node.end(cluster).await?;
        if is_killed_online {
            // Or later: clients may just be waiting before they try again, and then there is no watch to go on.
            let goes_on = until("a watch goes on", 10, async || {
                Ok(match node.resumed() > resumed {
                    true => Ok(()),
                    false => Err("none does".to_owned()),
                })
            });
            let _in_time_or_not = goes_on.await;
            step("edgehold killed (-9) among the events, and started again");
            kills.push(now());
            node.kill_and_launch(cluster).await?;
        }
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
