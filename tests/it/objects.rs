//! `edgehold cache get`, and what the admin listener says to it.

use edgehold::admin::client;
use edgehold::admin::objects::CachedObjects;
use edgehold::config::AdminAddress;
use serde_json::{Value, json};

use crate::admin::told;
use crate::support::{KUBELET, Node, config_map};

const PODS: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge-1";
const SECRETS: &str = "/api/v1/namespaces/shop/secrets";
const CONFIG_MAPS: &str = "/api/v1/namespaces/shop/configmaps";

/// Of a Secret, and in Base64.
const PLANTED: [&str; 2] = ["kGq7wPlantedZ3x", "a0dxN3dQbGFudGVkWjN4"];

fn address(node: &Node) -> AdminAddress {
    node.running().admin_address().expect("an admin listener").clone()
}

async fn asked(node: &Node, query: &str) -> CachedObjects {
    let path = format!("/cache/objects?{query}");
    let said = client::get(&address(node), &path, None).await.unwrap();
    serde_json::from_slice(&said).unwrap()
}

/// Exit code, standard output with one blank between cells, and standard error of `edgehold cache get`.
async fn got(node: &Node, args: &[&str]) -> (i32, String, String) {
    let admin = address(node).to_string();
    let args = [&["cache", "get", "--admin", &admin], args].concat();
    let (code, out, err) = told(&args).await;
    let lines: Vec<_> = out
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    (code, lines.join("\n"), err)
}

/// What `cache get --show-secrets` prints, which nobody searches for secrets.
async fn with_secrets(node: &Node, output: &'static str) -> String {
    let admin = address(node).to_string();
    let asking = move || {
        let args = [
            "cache",
            "get",
            "secret",
            "s",
            "--show-secrets",
            "-o",
            output,
            "--admin",
            &admin,
        ];
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_edgehold"));
        command.args(args).output().unwrap()
    };
    let done = tokio::task::spawn_blocking(asking).await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn pod(name: &str, container: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": name},
        "spec": {"nodeName": "edge-1", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "containerStatuses": [container]},
    })
}

fn secret(name: &str) -> Value {
    let applied = format!("{{\"data\":{{\"p\":\"{}\"}}}}", PLANTED[1]);
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {"p": PLANTED[1]},
        "metadata": {"namespace": "shop", "name": name,
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": applied}},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_shown_as_kubectl_shows_them_and_only_as_far_as_they_are_known() {
    let node = Node::start().await;
    let running = json!({"name": "c", "ready": true, "restartCount": 2, "state": {"running": {}}});
    node.api.put(pod("web", &running));
    let waiting = json!({"name": "c", "ready": false, "restartCount": 9, "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
    node.api.put(pod("worker", &waiting));
    assert_eq!(node.kubelet().get(PODS).await.status, 200);
    node.api.put(pod("later", &running));
    node.cut().await;
    let (code, out, err) = got(&node, &[]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(
        rows[0],
        ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    );
    assert_eq!(rows[1][..5], ["shop", "web", "1/1", "Running", "2"]);
    assert_eq!(rows[2][..5], ["shop", "worker", "0/1", "CrashLoopBackOff", "9"]);
    assert_eq!(rows.len(), 3, "what was not read is not known: {out}");
    let (code, out, _) = got(&node, &["po", "worker", "-o", "json"]).await;
    assert_eq!(code, 0);
    let whole: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(whole["items"].as_array().unwrap().len(), 1);
    let object = &whole["items"][0]["object"];
    assert_eq!(
        (object["kind"].as_str(), object["metadata"]["name"].as_str()),
        (Some("Pod"), Some("worker"))
    );
    assert!(whole["items"][0]["client"].as_str().unwrap().contains(KUBELET));
    for args in [
        &["pods", "none"][..],
        &["pods", "-n", "other"],
        &["pods", "--client", "system:kube-proxy"],
    ] {
        let (code, out, err) = got(&node, args).await;
        assert_eq!((code, out.as_str()), (1, ""), "{args:?}");
        assert!(err.contains("nothing is kept of"), "{err}");
    }
    let (code, _, err) = got(&node, &["services"]).await;
    assert!(
        code == 1 && err.contains("nothing is kept of services; there are pods"),
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_is_not_shown_and_the_newest_that_each_client_was_told_is() {
    let node = Node::start().await;
    for name in ["a", "b"] {
        node.api.put(config_map("shop", name, "1"));
    }
    let proxy = node.client(Some(&node.pair("kube-proxy")));
    assert_eq!(node.kubelet().get(CONFIG_MAPS).await.status, 200);
    assert_eq!(proxy.get(CONFIG_MAPS).await.status, 200);
    node.api.delete("ConfigMap", "shop", "a");
    assert_eq!(node.kubelet().get(&format!("{CONFIG_MAPS}/a")).await.status, 404);
    node.api.put(config_map("shop", "b", "2"));
    let protobuf = "application/vnd.kubernetes.protobuf";
    let kubelet = node.kubelet().header("accept", protobuf);
    assert_eq!(kubelet.get(&format!("{CONFIG_MAPS}/b")).await.status, 200);
    node.cut().await;
    let found = asked(&node, "resource=configmaps").await;
    let known: Vec<_> = found
        .items
        .iter()
        .map(|item| {
            let client = item.client.split(",o=").next().unwrap();
            (
                client,
                item.name.as_str(),
                item.form.as_deref().unwrap(),
                item.partial,
            )
        })
        .collect();
    // The stand-in has fields of its own in protobuf.
    assert_eq!(
        known,
        [
            ("cn:system:kube-proxy", "a", "json", false),
            ("cn:system:kube-proxy", "b", "json", false),
            ("cn:system:node:edge-1", "b", "protobuf", true),
        ]
    );
    let name = &found.items[2].object.as_ref().unwrap()["metadata"]["name"];
    assert_eq!(name, "b");
    let (code, out, err) = got(&node, &["cm"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0], "NAMESPACE NAME AGE VERSION FORM BYTES CLIENT");
    assert_eq!(lines.len(), 4, "{out}");
    assert!(
        lines[3].ends_with("system:node:edge-1") && lines[3].contains(" protobuf "),
        "{out}"
    );
    let (code, _, err) = got(&node, &["cm", "b", "-o", "json"]).await;
    assert!(code == 0 && err.contains("1 are shown in protobuf"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_hidden_in_every_form_unless_they_are_asked_for() {
    let node = Node::start().await;
    node.api.put(secret("s"));
    node.api.put(secret("t"));
    assert_eq!(node.kubelet().get(SECRETS).await.status, 200);
    let protobuf = node
        .kubelet()
        .header("accept", "application/vnd.kubernetes.protobuf");
    assert_eq!(protobuf.get(&format!("{SECRETS}/t")).await.status, 200);
    node.cut().await;
    let is_planted = |text: &str| PLANTED.iter().any(|planted| text.contains(planted));
    for output in ["table", "wide", "json", "yaml"] {
        let (code, out, err) = got(&node, &["secrets", "-o", output]).await;
        assert!(code == 0 && out.contains("shop"), "{output}: {out}{err}");
        assert!(!is_planted(&out), "{output}: {out}");
        assert_eq!(
            err.contains("--show-secrets"),
            !matches!(output, "table" | "wide"),
            "{err}"
        );
        let whole = with_secrets(&node, output).await;
        assert_eq!(
            is_planted(&whole),
            !matches!(output, "table" | "wide"),
            "{output}: {whole}"
        );
    }
    let (_, out, _) = got(&node, &["secret", "s", "-o", "json"]).await;
    let whole: Value = serde_json::from_str(&out).unwrap();
    let item = &whole["items"][0];
    assert_eq!(item["hidden"], true);
    assert_eq!(item["object"]["data"], json!({"p": "(hidden)"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_port_the_token_shows_objects_and_never_what_is_secret() {
    let mut node = Node::start().await;
    node.stop().await;
    let token = node.dir.path().join("token");
    crate::support::write_secret(&token, "let-me-in\n");
    let socket = format!("unix:{}", node.dir.path().join("admin.sock").display());
    let port = format!("127.0.0.1:0\", tokenFile: \"{}", token.display());
    let text = node.config_text();
    node.launch_text(&text.replace(&socket, &port)).await;
    node.api.put(secret("s"));
    assert_eq!(node.kubelet().get(SECRETS).await.status, 200);
    node.settle().await;
    let get = async |path: &str, token| client::get(&address(&node), path, token).await;
    let said = get("/cache/objects?resource=secrets", Some("let-me-in"))
        .await
        .unwrap();
    let found: CachedObjects = serde_json::from_slice(&said).unwrap();
    assert!(found.items.len() == 1 && found.items[0].hidden);
    for (path, token, expected) in [
        (
            "/cache/objects?resource=secrets&secrets=true",
            Some("let-me-in"),
            "403",
        ),
        ("/cache/objects?resource=secrets", Some("other"), "401"),
        ("/cache/objects?resource=secrets", None, "401"),
        ("/cache/objects", Some("let-me-in"), "400"),
    ] {
        let refused = get(path, token).await.unwrap_err().to_string();
        assert!(refused.contains(expected), "{path}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_objects_come_in_parts_and_none_is_missing() {
    let node = Node::start().await;
    let large = "x".repeat(900_000);
    for at in 0..7 {
        node.api.put(config_map("shop", &format!("large-{at}"), &large));
    }
    assert_eq!(node.kubelet().get(CONFIG_MAPS).await.status, 200);
    node.cut().await;
    let first = asked(&node, "resource=configmaps").await;
    assert!(
        first.next.is_some() && first.items.len() < 7,
        "{}",
        first.items.len()
    );
    let (code, out, err) = got(&node, &["configmaps", "-n", "shop"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let names: Vec<_> = out
        .lines()
        .skip(1)
        .map(|line| line.split(' ').nth(1).unwrap())
        .collect();
    assert_eq!(names, (0..7).map(|at| format!("large-{at}")).collect::<Vec<_>>());
}
