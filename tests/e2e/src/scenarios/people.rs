//! kubectl online is what it is without edgehold; offline it shows what was read, and says so.

use anyhow::ensure;

use super::step;
use crate::cluster::Cluster;
use crate::kubectl::Kubectl;
use crate::link::Mode;
use crate::node::Node;
use crate::process::until;
use crate::tools::Tool;

const MANIFEST: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: colours, namespace: people}\ndata: {v: red}\n";
const OFFLINE: &str = "Warning:";

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    let user = cluster.pki().client(Some("alice"), &["system:masters"]);
    let mut node = Node::start(cluster, "people", &[("alice", &user)]).await?;
    let kubeconfig = cluster.kubeconfig("alice", node.address, &user)?;
    let kubectl = Kubectl::new(cluster.tools().path(Tool::Kubectl), kubeconfig, node.dir());
    let said = kubectl.run("create namespace people").await?.success()?;
    ensure!(
        said.err.is_empty(),
        "online there is nothing to warn of: {said:?}"
    );

    step("online: apply, get, get --raw, api-resources");
    kubectl
        .with_input("apply -f -", MANIFEST)
        .await?
        .success()?
        .shows("created")?;
    kubectl
        .with_input("apply --server-side --force-conflicts -f -", MANIFEST)
        .await?
        .success()?
        .shows("serverside")?;
    // Before the Table: what was read last is what is shown offline.
    kubectl
        .run("get --raw /api/v1/namespaces/people/configmaps")
        .await?
        .success()?
        .shows("\"v\":\"red\"")?;
    let online = kubectl
        .run("get configmaps -n people")
        .await?
        .success()?
        .shows("colours")?;
    ensure!(
        online.err.is_empty(),
        "online there is nothing to warn of: {online:?}"
    );
    kubectl
        .run("get configmap colours -n people -o yaml")
        .await?
        .success()?
        .shows("v: red")?;
    kubectl
        .run("version")
        .await?
        .success()?
        .shows("Server Version: v1.")?;
    let resources = kubectl
        .run("api-resources")
        .await?
        .success()?
        .shows("deployments")?;

    step("online: get -w sees a change made elsewhere");
    let mut watch = kubectl.leave("watch", "get configmaps -n people -w --output-watch-events")?;
    sees(&mut watch, "colours").await?;
    change(cluster, "second").await?;
    sees(&mut watch, "second").await?;

    step("offline (refused): the same answers, with a warning");
    node.go_offline(Mode::Refuse).await?;
    let offline = kubectl
        .run("get configmaps -n people")
        .await?
        .success()?
        .shows("colours")?
        .says(OFFLINE)?;
    ensure!(
        offline.out.lines().next() == online.out.lines().next(),
        "other columns than online: {offline:?}"
    );
    kubectl
        .run("get configmap colours -n people -o yaml")
        .await?
        .success()?
        .shows("v: red")?
        .says(OFFLINE)?;
    let listed = kubectl.run("api-resources").await?.success()?;
    ensure!(
        listed.out == resources.out,
        "api-resources differ offline:\n{}\n{}",
        listed.err,
        listed.out
    );

    step("offline: what was never read, and writes, are refused at once");
    let unread = kubectl.run("get secrets -n people").await?;
    ensure!(
        !unread.success && unread.err.contains("ServiceUnavailable"),
        "{unread:?}"
    );
    let write = kubectl
        .run("delete configmap colours -n people --wait=false")
        .await?;
    ensure!(
        !write.success && write.err.contains("ServiceUnavailable"),
        "{write:?}"
    );

    step("back online: the watch that was held meanwhile goes on in the same stream");
    change(cluster, "meanwhile").await?;
    node.go_online().await?;
    sees(&mut watch, "meanwhile").await?;
    node.go_offline(Mode::Refuse).await?;

    step("offline: a killed and restarted edgehold answers from disk");
    node.kill_and_launch().await?;
    kubectl
        .run("get configmaps -n people")
        .await?
        .success()?
        .shows("colours")?
        .says(OFFLINE)?;

    step("back online: a new watch and lists are live, without a warning");
    change(cluster, "third").await?;
    node.go_online().await?;
    let back = kubectl
        .run("get configmaps -n people")
        .await?
        .success()?
        .shows("third")?;
    ensure!(back.err.is_empty(), "{back:?}");

    step("offline by a black hole, then by a killed apiserver");
    node.go_offline(Mode::BlackHole).await?;
    kubectl
        .run("get configmaps -n people")
        .await?
        .success()?
        .shows("third")?
        .says(OFFLINE)?;
    node.go_online().await?;
    cluster.kill_apiserver().await?;
    node.wait_offline().await?;
    kubectl
        .run("get configmaps -n people")
        .await?
        .success()?
        .shows("third")?
        .says(OFFLINE)?;
    cluster.start_apiserver().await?;
    node.wait_online().await?;
    kubectl
        .run("delete namespace people --wait=false")
        .await?
        .success()?;
    Ok(())
}

/// A ConfigMap made straight at the apiserver.
async fn change(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let body = format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}}}}"#);
    cluster
        .request("POST", "/api/v1/namespaces/people/configmaps", &body)
        .await?;
    Ok(())
}

async fn sees(watch: &mut crate::process::Process, text: &str) -> anyhow::Result<()> {
    until(&format!("kubectl -w shows {text}"), 30, async || {
        watch.check()?;
        let log = watch.log();
        Ok(if log.contains(text) { Ok(()) } else { Err(log) })
    })
    .await
}
