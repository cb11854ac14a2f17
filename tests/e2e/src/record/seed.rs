//! What the recorded cluster holds, and how it changes while watches are open.

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::process::until;

const NAMESPACES: [&str; 3] = ["shop", "a-b", "a"];
const SHOP: &str = "/api/v1/namespaces/shop";
const GAUGES: &str = "/apis/edge.example.io/v1/namespaces/shop/gauges";

/// Enough to be compressed, and more than one page of kubectl.
const BIG: usize = 50;

/// Makes everything, and waits until the controllers have added theirs.
pub(super) async fn fill(cluster: &Cluster) -> anyhow::Result<()> {
    for name in NAMESPACES {
        post(cluster, "/api/v1/namespaces", json!({"metadata": {"name": name}})).await?;
    }
    post(
        cluster,
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        gauge_definition(),
    )
    .await?;
    until("gauges are served", 60, async || {
        let list = cluster.read(GAUGES).await;
        Ok(list.map(|_| ()).map_err(|error| format!("{error:#}")))
    })
    .await?;
    // Pods of a node that does not exist are deleted.
    post(cluster, "/api/v1/nodes", json!({"metadata": {"name": "edge-1"}})).await?;
    for namespace in NAMESPACES {
        for number in 0..4 {
            let target = format!("/api/v1/namespaces/{namespace}/configmaps");
            post(cluster, &target, config_map(number)).await?;
            let target = format!("/apis/edge.example.io/v1/namespaces/{namespace}/gauges");
            post(cluster, &target, gauge(number)).await?;
        }
        until("the namespace has what controllers add", 60, async || {
            for name in ["serviceaccounts/default", "configmaps/kube-root-ca.crt"] {
                let found = cluster
                    .read(&format!("/api/v1/namespaces/{namespace}/{name}"))
                    .await;
                if let Err(error) = found {
                    return Ok(Err(format!("{error:#}")));
                }
            }
            Ok(Ok(()))
        })
        .await?;
    }
    for number in 0..4 {
        let secret =
            json!({"metadata": {"name": format!("s-{number}")}, "stringData": {"p": format!("pw{number}")}});
        post(cluster, &format!("{SHOP}/secrets"), secret).await?;
    }
    for number in 0..3 {
        let labels = json!({"app": "web"});
        let service = json!({
            "metadata": {"name": format!("svc-{number}"), "labels": labels},
            "spec": {"selector": labels, "ports": [{"name": "http", "port": 80}]},
        });
        post(cluster, &format!("{SHOP}/services"), service).await?;
        let pod = json!({
            "metadata": {"name": format!("web-{number}"), "labels": labels},
            "spec": {"nodeName": "edge-1", "containers": [
                {"name": "c", "image": "example.test/web:1", "ports": [{"name": "http", "containerPort": 80}]},
            ]},
        });
        post(cluster, &format!("{SHOP}/pods"), pod).await?;
    }
    until("each Service has its EndpointSlice", 60, async || {
        let list = cluster.read("/apis/discovery.k8s.io/v1/endpointslices").await?;
        let count = list["items"].as_array().map_or(0, Vec::len);
        Ok(if count == 4 {
            Ok(())
        } else {
            Err(format!("{count}"))
        })
    })
    .await
}

/// Objects come, change, enter and leave a selector, go, and come again under an old name.
pub(super) async fn change(cluster: &Cluster) -> anyhow::Result<()> {
    let cms = format!("{SHOP}/configmaps");
    let label = |value: &str| json!({"metadata": {"labels": {"app": value}}}).to_string();
    let new = |value: &str| json!({"metadata": {"name": "new-1"}, "data": {"x": value}});
    post(cluster, &cms, new("1")).await?;
    for (name, value) in [("new-1", "web"), ("cm-1", "gone"), ("cm-2", "web")] {
        cluster
            .request("PATCH", &format!("{cms}/{name}"), &label(value))
            .await?;
    }
    for name in ["cm-3", "new-1"] {
        cluster.request("DELETE", &format!("{cms}/{name}"), "").await?;
    }
    post(cluster, &cms, new("2")).await?;
    let annotation = json!({"metadata": {"annotations": {"read": "twice"}}}).to_string();
    cluster
        .request("PATCH", &format!("{GAUGES}/g-1"), &annotation)
        .await?;
    cluster.request("DELETE", &format!("{GAUGES}/g-2"), "").await?;
    Ok(())
}

/// ConfigMaps of more than 128 KiB together.
pub(super) async fn fill_big(cluster: &Cluster) -> anyhow::Result<()> {
    for number in 0..BIG {
        let blob = format!("line {number} of a compressible payload\n").repeat(100);
        let object = json!({"metadata": {"name": format!("big-{number:03}")}, "data": {"blob": blob}});
        post(cluster, "/api/v1/namespaces/kube-public/configmaps", object).await?;
    }
    Ok(())
}

async fn post(cluster: &Cluster, target: &str, object: Value) -> anyhow::Result<()> {
    let made = cluster.request("POST", target, &object.to_string()).await;
    made.map(|_| ()).with_context(|| target.to_owned())
}

fn config_map(number: usize) -> Value {
    let app = if number.is_multiple_of(2) { "db" } else { "web" };
    json!({
        "metadata": {"name": format!("cm-{number}"), "labels": {"app": app, "tier": number.to_string()}},
        "data": {"k": "v".repeat(number), "unicode": "边缘 \"quoted\" \\ \n tab\t"},
    })
}

/// Everything in it that a careless reader of JSON trips over.
fn gauge(number: usize) -> Value {
    json!({
        "apiVersion": "edge.example.io/v1", "kind": "Gauge",
        "metadata": {"name": format!("g-{number}"), "labels": {"app": "web"}},
        "spec": {
            "big": 9_007_199_254_740_993_u64, "f": 1.5,
            "nested": {"items": [{"metadata": {"name": "decoy"}}]}, "s": "]}{\\\"items\\\":[",
        },
    })
}

fn gauge_definition() -> Value {
    let schema = json!({
        "type": "object",
        "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
    });
    json!({
        "metadata": {"name": "gauges.edge.example.io"},
        "spec": {
            "group": "edge.example.io", "scope": "Namespaced",
            "names": {"plural": "gauges", "singular": "gauge", "kind": "Gauge", "listKind": "GaugeList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}
