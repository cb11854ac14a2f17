//! A new user's first hour: a node as kubeadm leaves it, `edgehold install --pods`, one approval by `edgehold approve`. Then kubelet, kube-proxy
//! and a pod with InClusterConfig go through edgehold, on- and offline, and `edgehold uninstall` leaves everything as it was.
//!
//! The node is a root directory in a network namespace (`machine`), its systemd is this test (`systemd`). kubelet says
//! itself what it injects: see [`environment`].

mod approval;
mod machine;
mod pod;
mod systemd;

use std::path::Path;
use std::process::Command as Blocking;

use anyhow::{Context as _, ensure};
use apiserver_standin::Pair;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Skip, step};
use crate::cluster::Cluster;
use crate::link::{Link, Mode};
use crate::process::{Driven, until, verbosity};
use crate::tools::Tool;

use approval::Approver;
use machine::{Access, Machine, same};
use pod::Pod;
use systemd::{NODE, Systemd};

/// Where `--pods` serves them.
const LOCAL: &str = "169.254.20.11";
const PORT: u16 = 51003;

/// Where everybody finds the Service `default/kubernetes`: the first address of the cluster's range.
const SERVICE: &str = "10.0.0.1:443";

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    let namespace = cluster.network().namespace();
    let namespace = namespace.ok_or_else(|| Skip("a node of its own needs root".to_owned()))?;
    for (program, of) in [("openssl", "openssl"), ("setpriv", "util-linux")] {
        if Blocking::new(program).arg("--version").output().is_err()
            && Blocking::new(program).output().is_err()
        {
            return Err(Skip(format!("{program} ({of}) is missing")).into());
        }
    }
    cluster.controllers(&[]).await?;
    let link = Link::to(cluster.address(), cluster.network().cloud()).await?;
    let logs = cluster.dir().join("node");
    std::fs::create_dir_all(&logs)?;
    let machine = prepare(cluster, &link, &namespace)?;
    let mut systemd = Systemd::new(&machine, &logs);
    let approver = Approver::new(cluster).await?;
    endpoints(cluster).await?;
    let mut pod = Pod::new(cluster, &namespace, &logs).await?;
    pod.ensure_address(&namespace, LOCAL).await?;

    step("a node as kubeadm leaves it: kubelet goes to the apiserver, and tells pods of the Service");
    systemd.perform("restart kubelet.service").await?;
    ready(cluster, &mut systemd).await?;
    expect_environment(cluster, &mut systemd, "before", SERVICE).await?;
    let before = machine.tree("etc")?;
    let kubelets = machine.tree("var/lib/kubelet/pki")?;

    step("install --dry-run says what it would do, and does nothing");
    let said = systemd.while_running("edgehold install --pods --dry-run").await?;
    said.success()?
        .shows("would:")?
        .shows("edit /etc/kubernetes/kubelet.conf")?
        .shows("nothing was changed")?;
    same(&before, &machine.tree("etc")?)?;
    ensure!(
        systemd.told.iter().all(|asked| asked.starts_with("is-active")),
        "{:?}",
        systemd.told
    );

    step("one command: edgehold runs as its unit says, and kubelet goes through it");
    let said = systemd
        .while_running("edgehold install --pods --restart-kubelet")
        .await?;
    said.success()?.shows("edgehold is installed")?;
    let asked: Vec<&str> = systemd
        .told
        .iter()
        .map(String::as_str)
        .filter(|asked| !asked.starts_with("is-active"))
        .collect();
    ensure!(
        asked
            == [
                "daemon-reload",
                "enable edgehold.service",
                "restart edgehold.service",
                "restart kubelet.service"
            ],
        "{asked:?}"
    );
    ready(cluster, &mut systemd).await?;
    let inside = format!("{LOCAL}:{PORT}");
    expect_environment(cluster, &mut systemd, "installed", &inside).await?;
    let said = systemd.while_running("edgehold install").await?;
    said.success()?.shows("nothing to do: edgehold is installed")?;
    let said = systemd.while_running("edgehold check").await?.success()?;
    ensure!(!said.out.contains("problem:"), "{}", said.out);

    step("a pod is not served before the approval");
    pod.start(LOCAL, PORT)?;
    let answer = pod.ask("list configmaps in-cluster").await?;
    ensure!(
        answer["error"]
            .as_str()
            .is_some_and(|error| error.contains("x509")),
        "{answer}"
    );

    step("one approval: edgehold looks at the request, and approves it");
    approver.approve(cluster).await?;
    until("the pod is served", 60, async || {
        systemd.check()?;
        let answer = pod.ask("list configmaps in-cluster").await?;
        Ok(if answer["code"] == 200 {
            Ok(())
        } else {
            Err(answer.to_string())
        })
    })
    .await?;
    systemd.while_running("edgehold check").await?.success()?;
    ready(cluster, &mut systemd).await?;

    step(
        "kubelet.conf is rewritten, and install points it at edgehold again, which has the cluster's certificate now",
    );
    let original = machine.read("etc/kubernetes/kubelet.conf.edgehold-backup")?;
    machine.write("etc/kubernetes/kubelet.conf", &original, 0o600)?;
    let said = systemd
        .while_running("edgehold install --restart-kubelet")
        .await?;
    said.success()?.shows("edit /etc/kubernetes/kubelet.conf")?;
    ready(cluster, &mut systemd).await?;

    step("kube-proxy sees edgehold as the only endpoint of the API");
    let mut proxy = kube_proxy(&machine, &logs)?;
    only_the_local_endpoint(&mut systemd, &mut proxy).await?;

    for mode in [Mode::Refuse, Mode::BlackHole] {
        step(format!(
            "offline ({mode:?}): the pod has what it read, kube-proxy what it knew, also after a power cut"
        ));
        link.set(mode);
        until("writes are refused", 60, async || {
            let answer = pod.ask("create in-cluster new").await?;
            Ok(if answer["code"] == 503 {
                Ok(())
            } else {
                Err(answer.to_string())
            })
        })
        .await?;
        offline(&mut pod).await?;
        systemd.kill_and_start_edgehold().await?;
        pod.start(LOCAL, PORT)?;
        offline(&mut pod).await?;
        let mut proxy = kube_proxy(&machine, &logs)?;
        only_the_local_endpoint(&mut systemd, &mut proxy).await?;
        link.set(Mode::Up);
        ready(cluster, &mut systemd).await?;
    }

    step("uninstall leaves everything as it was, and kubelet goes to the apiserver again");
    drop(proxy);
    let said = systemd
        .while_running("edgehold uninstall --restart-kubelet --purge")
        .await?;
    let said = said.success()?.shows("edgehold is uninstalled")?;
    ensure!(
        said.out.contains(LOCAL),
        "pods that run keep the address, which is to be said: {}",
        said.out
    );
    same(&before, &machine.tree("etc")?)?;
    same(&kubelets, &machine.tree("var/lib/kubelet/pki")?)?;
    ensure!(
        !machine.at("var/lib/edgehold/identity").exists(),
        "the cache stays"
    );
    let links = machine.run("ip link show edgehold0").await?;
    ensure!(!links.success, "the interface stays: {}", links.out);
    ready(cluster, &mut systemd).await?;
    expect_environment(cluster, &mut systemd, "after", SERVICE).await?;
    systemd
        .while_running("edgehold uninstall")
        .await?
        .success()?
        .shows("nothing to do")?;
    Ok(())
}

/// What kube-apiserver would write of itself if it had an address that others may be told of.
async fn endpoints(cluster: &Cluster) -> anyhow::Result<()> {
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4", "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["198.51.100.1"], "conditions": {"ready": true}}],
    });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    cluster.request("POST", slices, &slice.to_string()).await?;
    Ok(())
}

/// What kubeadm leaves on a node that has joined, and a kube-proxy on the host with its certificate in its kubeconfig.
fn prepare(cluster: &Cluster, link: &Link, namespace: &str) -> anyhow::Result<Machine> {
    let machine = Machine::make(&cluster.dir().join("root"), namespace)?;
    machine.add_program("edgehold", cluster.tools().edgehold())?;
    for (name, tool) in [
        ("kubelet", Tool::Kubemark),
        ("kube-proxy", Tool::Proxy),
        ("kubectl", Tool::Kubectl),
    ] {
        machine.add_program(name, cluster.tools().path(tool))?;
    }
    let pki = cluster.pki();
    let Pair {
        cert_pem, key_pem, ..
    } = pki.client(Some(&format!("system:node:{NODE}")), &["system:nodes"]);
    machine.write(
        "var/lib/kubelet/pki/kubelet-client-2026-11-21.pem",
        &(cert_pem + &key_pem),
        0o600,
    )?;
    std::os::unix::fs::symlink(
        "/var/lib/kubelet/pki/kubelet-client-2026-11-21.pem",
        machine.at("var/lib/kubelet/pki/kubelet-client-current.pem"),
    )?;
    machine.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644)?;
    machine.write("etc/resolv.conf", "nameserver 10.0.0.10\n", 0o644)?;
    machine.write("etc/hostname", &format!("{NODE}\n"), 0o644)?;
    machine.write("etc/kubernetes/pki/ca.crt", pki.ca_pem(), 0o644)?;
    let current = "/var/lib/kubelet/pki/kubelet-client-current.pem";
    let user = format!("client-certificate: {current}\n    client-key: {current}");
    machine.write(
        "etc/kubernetes/kubelet.conf",
        &kubeconfig(cluster, link, &user),
        0o600,
    )?;
    let Pair {
        cert_pem, key_pem, ..
    } = pki.client(Some("system:kube-proxy"), &[]);
    let (cert, key) = (STANDARD.encode(cert_pem), STANDARD.encode(key_pem));
    let user = format!("client-certificate-data: {cert}\n    client-key-data: {key}");
    machine.write(
        "etc/kubernetes/kube-proxy.conf",
        &kubeconfig(cluster, link, &user),
        0o600,
    )?;
    Ok(machine)
}

/// As kubeadm writes one.
fn kubeconfig(cluster: &Cluster, link: &Link, user: &str) -> String {
    let ca = STANDARD.encode(cluster.pki().ca_pem());
    let server = link.address();
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {ca}\n    server: https://{server}\n  name: \
         default-cluster\ncontexts:\n- context:\n    cluster: default-cluster\n    namespace: default\n    user: default-auth\n  \
         name: default-context\ncurrent-context: default-context\nkind: Config\npreferences: {{}}\nusers:\n- name: \
         default-auth\n  user:\n    {user}\n"
    )
}

/// Waits until the node is Ready and kubelet has renewed its lease.
async fn ready(cluster: &Cluster, systemd: &mut Systemd) -> anyhow::Result<()> {
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NODE}");
    let renewed = async || {
        let lease = cluster.read(&lease).await.unwrap_or_default();
        lease["spec"]["renewTime"].clone()
    };
    let before = renewed().await;
    until("the node is Ready and its lease renewed", 180, async || {
        systemd.check()?;
        let node = cluster
            .read(&format!("/api/v1/nodes/{NODE}"))
            .await
            .unwrap_or_default();
        let conditions = node["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let is_ready = conditions
            .iter()
            .any(|one| one["type"] == "Ready" && one["status"] == "True");
        let now = renewed().await;
        Ok(if is_ready && !now.is_null() && now != before {
            Ok(())
        } else {
            Err(format!("{conditions:?} {now}"))
        })
    })
    .await
}

/// What kubelet gives a new pod as `KUBERNETES_SERVICE_HOST` and `_PORT`: it refuses an absolute `subPathExpr`, and says in the pod's
/// status what that had become.
async fn environment(cluster: &Cluster, systemd: &mut Systemd, name: &str) -> anyhow::Result<String> {
    let pod = json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": NODE, "automountServiceAccountToken": false,
            "volumes": [{"name": "any", "emptyDir": {}}],
            "containers": [{
                "name": "main", "image": "example.test/web:1",
                "env": [{"name": "SEEN", "value": "/$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT)"}],
                "volumeMounts": [{"name": "any", "mountPath": "/any", "subPathExpr": "$(SEEN)"}],
            }],
        },
    });
    cluster
        .request("POST", "/api/v1/namespaces/default/pods", &pod.to_string())
        .await?;
    let target = format!("/api/v1/namespaces/default/pods/{name}");
    let seen = until("kubelet says what the pod's environment is", 120, async || {
        systemd.check()?;
        let pod = cluster.read(&target).await?;
        let message = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"];
        let seen = message.as_str().and_then(|text| text.split('`').nth(1));
        Ok(seen.map(str::to_owned).ok_or_else(|| pod["status"].to_string()))
    })
    .await?;
    cluster
        .request("DELETE", &format!("{target}?gracePeriodSeconds=0"), "")
        .await?;
    Ok(seen.trim_start_matches('/').to_owned())
}

async fn expect_environment(
    cluster: &Cluster,
    systemd: &mut Systemd,
    name: &str,
    expected: &str,
) -> anyhow::Result<()> {
    let seen = environment(cluster, systemd, name).await?;
    ensure!(
        seen == expected,
        "kubelet gives pods {seen} as the API, not {expected}"
    );
    Ok(())
}

fn kube_proxy(machine: &Machine, logs: &Path) -> anyhow::Result<Driven> {
    let (node, verbosity) = (format!("-name={NODE}"), format!("-v={}", verbosity()));
    let words = [
        "kube-proxy",
        "-kubeconfig=/etc/kubernetes/kube-proxy.conf",
        &node,
        &verbosity,
    ];
    Driven::start("kube-proxy", &mut machine.command(Access::All, &[], &words), logs)
}

async fn only_the_local_endpoint(systemd: &mut Systemd, proxy: &mut Driven) -> anyhow::Result<()> {
    until("kube-proxy has the endpoints of the API", 120, async || {
        systemd.check()?;
        let state = proxy.ask("state").await?;
        let synced = state["synced"] == true && state["services"]["default/kubernetes"] == "10.0.0.1";
        Ok(
            if synced && state["slices"]["default/kubernetes"] == json!([LOCAL]) {
                Ok(())
            } else {
                Err(state.to_string())
            },
        )
    })
    .await?;
    // The port: what kube-proxy notes are addresses.
    let line = "kubectl --kubeconfig=/etc/kubernetes/kube-proxy.conf get endpointslices --all-namespaces --output=json";
    let said = systemd.while_running(line).await?.success()?;
    let list: Value = serde_json::from_str(&said.out)?;
    let local = json!([{"name": "https", "port": PORT, "protocol": "TCP"}]);
    ensure!(list["items"][0]["ports"] == local, "{list}");
    Ok(())
}

async fn offline(pod: &mut Pod) -> anyhow::Result<()> {
    let listed = pod.ask("list configmaps in-cluster").await?;
    let names = listed["names"].as_array().context("names")?;
    ensure!(
        listed["code"] == 200 && names.iter().any(|name| name == "settings"),
        "{listed}"
    );
    let refused = pod.ask("list secrets in-cluster").await?;
    ensure!(
        [403, 503].contains(&refused["code"].as_u64().unwrap_or_default()),
        "{refused}"
    );
    Ok(())
}
