//! What kubectl asks of a kubelet, by way of edgehold and the apiserver: logs, exec, attach, port-forward. The kubelet serves
//! the streams of container runtimes with nothing behind them (`client kubelet`).

use std::path::Path;

use anyhow::Context as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::sees;
use crate::cluster::{Cluster, free_address};
use crate::kubectl::Kubectl;
use crate::process::{Driven, until};
use crate::scenarios::step;
use crate::tools::Tool;

/// Each over WebSocket, as kubectl does it now, and over SPDY, as it did.
pub(super) async fn online(cluster: &Cluster, kubectl: &Kubectl, dir: &Path) -> anyhow::Result<()> {
    let _kubelet = prepare(cluster, dir).await?;
    step("online: describe, logs, logs -f");
    kubectl
        .run("describe pod talker -n people")
        .await?
        .success()?
        .shows("talker-node")?;
    kubectl
        .run("logs talker -n people")
        .await?
        .success()?
        .shows("line 3")?;
    let mut follow = kubectl.leave("logs", "logs -f talker -n people")?;
    sees(&mut follow, "line 10").await?;
    for (protocol, kubectl) in [
        ("websocket", kubectl.clone()),
        ("spdy", kubectl.clone().over_spdy()),
    ] {
        step(format!("online: exec, attach, port-forward over {protocol}"));
        kubectl
            .run("exec talker -n people -- date +%s")
            .await?
            .success()?
            .shows("talker runs date +%s")?
            .says("nothing is wrong")?;
        // More than a window of any of the connections on the way.
        let long = "0123456789abcdef".repeat(32 * 1024);
        kubectl
            .with_input("exec -i talker -n people -- cat", &long)
            .await?
            .success()?
            .shows(&long)?;
        kubectl
            .with_input("attach -i talker -n people", "hello")
            .await?
            .success()?
            .shows("hello")?;
        forward(&kubectl, protocol).await?;
    }
    Ok(())
}

/// Bytes through a forwarded port come back from the echo behind it.
async fn forward(kubectl: &Kubectl, protocol: &str) -> anyhow::Result<()> {
    let mut forward = kubectl.leave(
        &format!("port-forward-{protocol}"),
        "port-forward pod/talker -n people :80",
    )?;
    let port: u16 = until("kubectl forwards a port", 60, async || {
        forward.check()?;
        let log = forward.log();
        let port = log
            .split("Forwarding from 127.0.0.1:")
            .nth(1)
            .and_then(|rest| rest.split(' ').next()?.parse().ok());
        Ok(port.ok_or(log))
    })
    .await?;
    for text in ["first", "second"] {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut back = vec![0; text.len()];
        stream
            .read_exact(&mut back)
            .await
            .with_context(|| format!("the echo of {text} over {protocol}: {}", forward.log()))?;
        anyhow::ensure!(back == text.as_bytes(), "another text came back");
    }
    Ok(())
}

/// A node whose kubelet is ours, and a pod that runs there.
async fn prepare(cluster: &Cluster, dir: &Path) -> anyhow::Result<Driven> {
    let address = free_address()?;
    let mut command = Command::new(cluster.tools().path(Tool::Client));
    command
        .arg("kubelet")
        .arg(format!("-address={address}"))
        .arg(format!("-cert={}", cluster.dir().join("apiserver.crt").display()))
        .arg(format!("-key={}", cluster.dir().join("apiserver.key").display()));
    let kubelet = Driven::start("fake-kubelet", &mut command, dir)?;
    let node = json!({"metadata": {"name": "talker-node"}});
    cluster
        .request("POST", "/api/v1/nodes", &node.to_string())
        .await?;
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": address.ip()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}},
    }});
    cluster
        .request("PATCH", "/api/v1/nodes/talker-node/status", &status.to_string())
        .await?;
    let account = json!({"metadata": {"name": "default"}});
    cluster
        .request(
            "POST",
            "/api/v1/namespaces/people/serviceaccounts",
            &account.to_string(),
        )
        .await?;
    let pod = json!({
        "metadata": {"name": "talker"},
        "spec": {"nodeName": "talker-node", "containers": [{"name": "main", "image": "example.test/talker:1", "stdin": true}]},
    });
    cluster
        .request("POST", "/api/v1/namespaces/people/pods", &pod.to_string())
        .await?;
    let status = json!({"status": {
        "phase": "Running",
        "containerStatuses": [{
            "name": "main", "image": "example.test/talker:1", "imageID": "1", "ready": true, "restartCount": 0,
            "state": {"running": {}},
        }],
    }});
    cluster
        .request(
            "PATCH",
            "/api/v1/namespaces/people/pods/talker/status",
            &status.to_string(),
        )
        .await?;
    Ok(kubelet)
}
