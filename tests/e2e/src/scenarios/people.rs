//! kubectl online is what it is without edgehold; offline it shows what was read, and says so.

mod streams;

use anyhow::ensure;

use super::step;
use crate::cluster::Cluster;
use crate::kubectl::Kubectl;
use crate::node::{Cut, Node};
use crate::process::until;
use crate::tools::Tool;

const MANIFEST: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: colours, namespace: people}\ndata: {v: red}\n";
const OFFLINE: &str = "Warning:";
/// Top-level paths that are answered offline, too.
const KEPT: [&str; 8] = [
    "/version",
    "/api",
    "/apis",
    "/api/v1",
    "/openapi/v2",
    "/openapi/v3",
    "/openapi/v3/api/v1",
    "/openid/v1/jwks",
];

/// Those that only the cloud can answer.
const ALWAYS_LIVE: [&str; 5] = ["/", "/healthz", "/livez", "/readyz?verbose", "/metrics"];
const UNAVAILABLE: &str = "ServiceUnavailable";

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    let user = cluster.pki().client(Some("alice"), &["system:masters"]);
    let mut node = Node::start(cluster, "people", &[("alice", &user)]).await?;
    let kubeconfig = cluster.kubeconfig("alice", node.address, &user)?;
    let kubectl = Kubectl::new(cluster.tools().path(Tool::Kubectl), kubeconfig, node.dir());
    let direct = cluster.kubeconfig("past-edgehold", cluster.address(), &user)?;
    let direct = Kubectl::new(cluster.tools().path(Tool::Kubectl), direct, cluster.dir());
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

    step("online: explain and top-level paths, as without edgehold");
    // A list of whole objects, where `get` alone asks for a Table.
    kubectl
        .run("get configmaps -n people -o name")
        .await?
        .success()?
        .shows("configmap/colours")?;
    let explained = kubectl
        .run("explain configmap.data")
        .await?
        .success()?
        .shows("KIND:")?;
    for path in ALWAYS_LIVE.iter().chain(&KEPT) {
        let (through, past) = (
            format!("get --raw {path}"),
            direct.run(&format!("get --raw {path}")).await?,
        );
        let through = kubectl.run(&through).await?.success()?;
        // What changes from one moment to the next is only looked at.
        ensure!(
            (*path == "/metrics" || through.out == past.out)
                && through.err.is_empty()
                && !through.out.is_empty(),
            "{path} is another one through edgehold: {} and {} bytes, {}",
            through.out.len(),
            past.out.len(),
            through.err
        );
    }
    let kept = raw(&kubectl, &KEPT).await?;

    step("online: the manifests of examples/deploy would be accepted");
    let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/deploy/csr");
    kubectl
        .run(&format!(
            "apply --dry-run=server --validate=strict -f {manifests} -f {manifests}/../issuer"
        ))
        .await?
        .success()?
        .shows("server dry run")?;
    // A dry run makes no namespace for what comes after it.
    kubectl.run("create namespace edgehold").await?.success()?;
    kubectl
        .run(&format!(
            "apply --dry-run=server --validate=strict -k {manifests}/../daemonset/overlays/edge"
        ))
        .await?
        .success()?
        .shows("server dry run")?;
    streams::online(cluster, &kubectl, node.dir()).await?;

    step("online: get -w sees a change made elsewhere");
    let mut watch = kubectl.leave("watch", "get configmaps -n people -w --output-watch-events")?;
    sees(&mut watch, "colours").await?;
    change(cluster, "second").await?;
    sees(&mut watch, "second").await?;

    for cut in Cut::ALL {
        let name = cut.as_str().replace(' ', "-");
        step(format!(
            "offline ({}): the same answers, with a warning",
            cut.as_str()
        ));
        node.go_offline(cluster, cut).await?;
        let offline = kubectl
            .run("get configmaps -n people")
            .await?
            .success()?
            .shows("colours")?
            .says(OFFLINE)?;
        ensure!(
            columns(&offline.out) == columns(&online.out),
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

        kubectl
            .run("get configmaps -n people -o name")
            .await?
            .success()?
            .shows("configmap/colours")?
            .says(OFFLINE)?;
        let said = kubectl.run("explain configmap.data").await?.success()?;
        ensure!(said.out == explained.out, "explain differs offline: {said:?}");
        ensure!(raw(&kubectl, &KEPT).await? == kept, "a document differs offline");

        step("offline: what was never read, writes and streams are refused at once");
        for line in [
            "get secrets -n people",
            "delete configmap colours -n people --wait=false",
            "logs talker -n people",
            "exec talker -n people -- date",
        ]
        .map(str::to_owned)
        .into_iter()
        // Yesterday's health is none.
        .chain(ALWAYS_LIVE.map(|path| format!("get --raw {path}")))
        {
            let said = kubectl.run(&line).await?;
            // Of a refused upgrade kubectl shows the message alone.
            ensure!(
                !said.success && (said.err.contains(UNAVAILABLE) || said.err.contains("cannot be reached")),
                "{line}: {said:?}"
            );
        }

        step("back online: the watch that was held meanwhile goes on in the same stream");
        node.cloud_without_node(cluster).await?;
        change(cluster, &format!("during-{name}")).await?;
        node.go_online(cluster).await?;
        match cut {
            Cut::Killed => sees_or_expires(&mut watch, &format!("during-{name}")).await?,
            Cut::Refused | Cut::BlackHole => sees(&mut watch, &format!("during-{name}")).await?,
        }

        step("offline: a killed and restarted edgehold answers from disk");
        node.go_offline(cluster, cut).await?;
        node.kill_and_launch(cluster).await?;
        kubectl
            .run("get configmaps -n people")
            .await?
            .success()?
            .shows("colours")?
            .says(OFFLINE)?;

        step("back online: lists and a new watch are live, without a warning");
        node.cloud_without_node(cluster).await?;
        change(cluster, &format!("after-{name}")).await?;
        node.go_online(cluster).await?;
        let back = kubectl
            .run("get configmaps -n people")
            .await?
            .success()?
            .shows(&format!("after-{name}"))?;
        ensure!(back.err.is_empty(), "{back:?}");
        watch = kubectl.leave(
            &format!("watch-{name}"),
            "get configmaps -n people -w --output-watch-events",
        )?;
        sees(&mut watch, "colours").await?;
    }
    Ok(())
}

/// What each of these paths says.
async fn raw(kubectl: &Kubectl, paths: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut answers = Vec::new();
    for path in paths {
        answers.push(kubectl.run(&format!("get --raw {path}")).await?.success()?.out);
    }
    Ok(answers)
}

/// The heading, whatever the width of its columns.
fn columns(table: &str) -> Vec<&str> {
    table
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect()
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
    until(&format!("kubectl -w shows {text}"), 90, async || {
        watch.check()?;
        let log = watch.log();
        Ok(if log.contains(text) { Ok(()) } else { Err(log) })
    })
    .await
}

/// As [`sees`], but for an apiserver that was started again: it knows no history from before. If anything at all was written
/// since the last event, a lease for instance, it ends the watch.
async fn sees_or_expires(watch: &mut crate::process::Process, text: &str) -> anyhow::Result<()> {
    until(&format!("kubectl -w shows {text} or ends"), 90, async || {
        let log = watch.log();
        if log.contains(text) || log.contains("too old resource version") {
            return Ok(Ok(()));
        }
        watch.check()?;
        Ok(Err(log))
    })
    .await
}
