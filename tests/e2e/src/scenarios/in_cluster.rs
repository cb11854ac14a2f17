//! A pod's client shows a service account token: RBAC decides online, offline it gets what it read, and nobody else does.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::process::Command;

use super::step;
use crate::cluster::Cluster;
use crate::node::{Cut, Node};
use crate::process::{Driven, until};
use crate::tools::Tool;

const NAMESPACE: &str = "/api/v1/namespaces/in-cluster";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/in-cluster";

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    step("a service account that may read ConfigMaps, and another that may not");
    prepare(cluster).await?;
    let mut node = Node::start(cluster, "in-cluster", &[]).await?;
    let reader_token = token(cluster, "reader").await?;
    let mut reader = pod(cluster, &node, "reader", &reader_token)?;
    let mut other = pod(cluster, &node, "other", &token(cluster, "other").await?)?;

    step("online: RBAC decides");
    expect(&mut reader, "list configmaps in-cluster", 200).await?;
    expect(&mut reader, "get configmaps in-cluster settings", 200).await?;
    expect(&mut reader, "list secrets in-cluster", 403).await?;
    expect(&mut reader, "create in-cluster new", 403).await?;
    expect(&mut other, "list configmaps in-cluster", 403).await?;

    let mut forged = pod(cluster, &node, "forged", &forge(&reader_token)?)?;
    let mut unseen = pod(cluster, &node, "unseen", &token(cluster, "reader").await?)?;
    let mut nobody = pod(cluster, &node, "nobody", "")?;
    for cut in Cut::ALL {
        step(format!(
            "offline ({}): the reader has what it read, no more; the other, a forged token and one never seen before have nothing",
            cut.as_str()
        ));
        node.go_offline(cluster, cut).await?;
        offline(&mut reader, &mut other).await?;
        refused(&mut forged, "list configmaps in-cluster").await?;
        refused(&mut nobody, "list configmaps in-cluster").await?;
        // Without the issuer's keys nobody knows whose it is.
        refused(&mut unseen, "list configmaps in-cluster").await?;
        step("offline: the same after edgehold was killed and started again");
        node.kill_and_launch(cluster).await?;
        offline(&mut reader, &mut other).await?;
        refused(&mut forged, "list configmaps in-cluster").await?;
        node.go_online(cluster).await?;
        expect(&mut reader, "list configmaps in-cluster", 200).await?;
        expect(&mut forged, "list configmaps in-cluster", 401).await?;
    }

    step("online: the reader's right is withdrawn, and so is what it had read");
    cluster
        .request("DELETE", &format!("{ROLES}/rolebindings/reader"), "")
        .await?;
    until("the apiserver refuses the reader", 30, async || {
        let answer = reader.ask("list configmaps in-cluster").await?;
        Ok(if answer["code"] == 403 {
            Ok(())
        } else {
            Err(answer.to_string())
        })
    })
    .await?;
    node.go_offline(cluster, Cut::Refused).await?;
    refused(&mut reader, "list configmaps in-cluster").await?;
    node.go_online(cluster).await?;
    never_seen(cluster).await
}

/// With the issuer's keys edgehold tells whose a token is that it never saw.
async fn never_seen(cluster: &mut Cluster) -> anyhow::Result<()> {
    step("an edgehold that reads the keys of the issuer, and the reader behind it");
    bind(cluster).await?;
    let file = cluster.dir().join("edgehold.token");
    std::fs::write(&file, token(cluster, "edgehold").await?)?;
    let more = format!("offline: {{issuer: {{tokenFile: {}}}}}\n", file.display());
    let mut node = Node::start_with(cluster, "issuer", &[], &more).await?;
    until("edgehold knows the keys of the issuer", 60, async || {
        node.check()?;
        let log = node.log();
        let known = log.contains("the keys of service account tokens are known");
        Ok(if known { Ok(()) } else { Err(log) })
    })
    .await?;
    let mut reader = pod(cluster, &node, "reader", &token(cluster, "reader").await?)?;
    expect(&mut reader, "list configmaps in-cluster", 200).await?;
    expect(&mut reader, "get configmaps in-cluster settings", 200).await?;
    for cut in Cut::ALL {
        step(format!(
            "offline ({}): the reader's next token, never seen before, has what the reader read; forged it has nothing",
            cut.as_str()
        ));
        let (next, others) = (token(cluster, "reader").await?, token(cluster, "other").await?);
        node.go_offline(cluster, cut).await?;
        let mut next_reader = pod(cluster, &node, "next-reader", &next)?;
        let mut other = pod(cluster, &node, "other", &others)?;
        let mut forged = pod(cluster, &node, "forged", &forge(&next)?)?;
        for restart in [false, true] {
            if restart {
                node.kill_and_launch(cluster).await?;
            }
            offline(&mut next_reader, &mut other).await?;
            refused(&mut forged, "list configmaps in-cluster").await?;
        }
        node.go_online(cluster).await?;
    }
    Ok(())
}

async fn offline(reader: &mut Driven, other: &mut Driven) -> anyhow::Result<()> {
    let listed = expect(reader, "list configmaps in-cluster", 200).await?;
    let names = listed["names"].as_array().context("names")?;
    ensure!(
        names.iter().any(|name| name == "settings"),
        "the list has what was read: {listed}"
    );
    expect(reader, "get configmaps in-cluster settings", 200).await?;
    refused(reader, "list secrets in-cluster").await?;
    refused(reader, "create in-cluster new").await?;
    refused(other, "list configmaps in-cluster").await?;
    refused(other, "get configmaps in-cluster settings").await?;
    Ok(())
}

async fn expect(client: &mut Driven, command: &str, code: u16) -> anyhow::Result<Value> {
    let answer = client.ask(command).await?;
    ensure!(answer["code"] == code, "{command}: expected {code}, got {answer}");
    Ok(answer)
}

/// An error of the API, and quickly; never data, and never 404, which would say that there is none.
async fn refused(client: &mut Driven, command: &str) -> anyhow::Result<()> {
    let answer = client.ask(command).await?;
    let code = answer["code"].as_u64().unwrap_or_default();
    ensure!(
        [401, 403, 503].contains(&code),
        "{command}: expected to be refused, got {answer}"
    );
    Ok(())
}

async fn prepare(cluster: &Cluster) -> anyhow::Result<()> {
    let named = |kind: &str, name: &str| {
        format!(r#"{{"apiVersion":"v1","kind":"{kind}","metadata":{{"name":"{name}"}}}}"#)
    };
    cluster
        .request("POST", "/api/v1/namespaces", &named("Namespace", "in-cluster"))
        .await?;
    for account in ["reader", "other", "edgehold"] {
        let target = format!("{NAMESPACE}/serviceaccounts");
        cluster
            .request("POST", &target, &named("ServiceAccount", account))
            .await?;
    }
    cluster
        .request(
            "POST",
            &format!("{NAMESPACE}/configmaps"),
            &named("ConfigMap", "settings"),
        )
        .await?;
    let role = r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"reader"},
        "rules":[{"apiGroups":[""],"resources":["configmaps"],"verbs":["get","list","watch"]}]}"#;
    cluster.request("POST", &format!("{ROLES}/roles"), role).await?;
    bind(cluster).await
}

/// Gives the reader its right, and waits until it has it: what decides follows the bindings with a delay.
async fn bind(cluster: &Cluster) -> anyhow::Result<()> {
    let binding = r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{"name":"reader"},
        "roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"reader"},
        "subjects":[{"kind":"ServiceAccount","name":"reader","namespace":"in-cluster"}]}"#;
    cluster
        .request("POST", &format!("{ROLES}/rolebindings"), binding)
        .await?;
    cluster
        .allows("system:serviceaccount:in-cluster:reader", "in-cluster")
        .await
}

async fn token(cluster: &Cluster, account: &str) -> anyhow::Result<String> {
    let body = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":3607}}"#;
    let target = format!("{NAMESPACE}/serviceaccounts/{account}/token");
    let answer = cluster.request("POST", &target, body).await?;
    Ok(answer["status"]["token"].as_str().context("a token")?.to_owned())
}

/// The same claims under a signature that nobody made.
fn forge(token: &str) -> anyhow::Result<String> {
    let (claims, signature) = token.rsplit_once('.').context("a JWT")?;
    Ok(format!(
        "{claims}.{}",
        signature.chars().rev().collect::<String>()
    ))
}

/// A client as a pod has it: address from the environment, authority and token from files.
fn pod(cluster: &Cluster, node: &Node, name: &str, token: &str) -> anyhow::Result<Driven> {
    let file: &Path = &node.dir().join(format!("{name}.token"));
    std::fs::write(file, token)?;
    let mut command = Command::new(cluster.tools().path(Tool::Client));
    command
        .env("KUBERNETES_SERVICE_HOST", node.address.ip().to_string())
        .env("KUBERNETES_SERVICE_PORT", node.address.port().to_string())
        .arg("incluster")
        .arg(format!("-ca={}", cluster.dir().join("ca.crt").display()));
    if !token.is_empty() {
        command.arg(format!("-token={}", file.display()));
    }
    Driven::start(name, &mut command, node.dir())
}
