//! Every manifest of `examples/deploy` is what a real kube-apiserver takes: `kubectl apply --dry-run=server`, with unknown fields
//! refused. Kustomizations are built by kubectl itself.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::step;
use crate::cluster::Cluster;
use crate::kubectl::Kubectl;
use crate::tools::Tool;

/// Files that only a kustomization makes whole.
const PARTS: &str = "daemonset";

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    // A pod needs its namespace's service account.
    cluster.controllers(&[]).await?;
    let admin = cluster.pki().client(Some("administrator"), &["system:masters"]);
    let admin = cluster.kubeconfig("administrator", cluster.address(), &admin)?;
    let kubectl = Kubectl::new(cluster.tools().path(Tool::Kubectl), admin, cluster.dir());
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/deploy")
        .canonicalize()?;

    // What goes into a namespace is refused while it is not there. This one is flannel's own.
    kubectl.run("create namespace kube-flannel").await?.success()?;
    let manifests: Vec<PathBuf> = below(&deploy)?
        .into_iter()
        .filter(|path| !path.starts_with(deploy.join(PARTS)))
        .collect();
    ensure!(manifests.len() >= 3, "{manifests:?}");
    for path in manifests {
        let said = dry_run(&kubectl, &format!("--filename={}", path.display())).await?;
        step(format!(
            "{}: {}",
            path.strip_prefix(&deploy)?.display(),
            said.trim().replace('\n', ", ")
        ));
    }

    let namespace = deploy.join("daemonset/base/namespace.yaml");
    kubectl
        .run(&format!("apply --filename={}", namespace.display()))
        .await?
        .success()?;
    for dir in ["daemonset/base", "daemonset/overlays/edge"] {
        let said = dry_run(&kubectl, &format!("--kustomize={}", deploy.join(dir).display())).await?;
        ensure!(said.contains("daemonset.apps/edgehold created"), "{dir}: {said}");
        step(format!("{dir}: {}", said.trim().replace('\n', ", ")));
    }

    step("an unknown field would be noticed");
    let text = std::fs::read_to_string(deploy.join("static-pod/edgehold.yaml"))?;
    let wrong = cluster.dir().join("wrong.yaml");
    std::fs::write(&wrong, text.replace("imagePullPolicy", "imagePullpolicy"))?;
    let said = kubectl
        .run(&format!("apply --dry-run=server --filename={}", wrong.display()))
        .await?;
    ensure!(!said.success && said.err.contains("imagePullpolicy"), "{said:?}");
    Ok(())
}

async fn dry_run(kubectl: &Kubectl, what: &str) -> anyhow::Result<String> {
    let said = kubectl
        .run(&format!("apply --dry-run=server --validate=strict {what}"))
        .await?;
    let said = said.success().with_context(|| what.to_owned())?;
    ensure!(!said.err.contains("Warning"), "{what}: {}", said.err);
    Ok(said.out)
}

fn below(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(below(&path)?);
        } else if path.extension().is_some_and(|end| end == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
