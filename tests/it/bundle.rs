//! `edgehold bundle`: every part is in it, and nothing secret.
#![allow(clippy::disallowed_methods)] // files are read and written here

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use apiserver_standin::secrets;
use edgehold::admin::status::{CacheListing, Status};
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::admin::told;
use crate::support::{KUBELET, Node};

const TOKEN: &str = "tQ9mPlantedTokenW4xZ7k";
const PASSWORD: &str = "pW3PlantedProxyQ8n";
const COMMENT: &str = "cN5PlantedCommentR2v";
/// Of a Secret, and in Base64.
const SECRET: [&str; 2] = ["sK6PlantedSecretT1b", "c0s2UGxhbnRlZFNlY3JldFQxYg=="];

fn opened(path: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(GzDecoder::new(fs::File::open(path).unwrap()));
    let parts = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mode().unwrap(), 0o600);
        let name = entry
            .path()
            .unwrap()
            .strip_prefix("edgehold-bundle")
            .unwrap()
            .display()
            .to_string();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        (name, content)
    });
    parts.collect()
}

/// The configuration of the node in a file, with what must not get into a bundle.
fn configuration(node: &Node) -> PathBuf {
    let proxied = format!(
        "proxyURL: \"http://me:{PASSWORD}@127.0.0.1:9\"\n  noProxy: [\"127.0.0.1\"]\n  connectTimeout:"
    );
    let text = node.config_text().replacen("connectTimeout:", &proxied, 1);
    assert!(text.contains(PASSWORD));
    let path = node.dir.path().join("bundled.yaml");
    fs::write(&path, format!("# {COMMENT}\n{text}")).unwrap();
    path
}

async fn bundled(config: &Path, file: &Path) -> (i32, String, String) {
    told(&[
        "bundle",
        "--config",
        config.to_str().unwrap(),
        file.to_str().unwrap(),
    ])
    .await
}

fn assert_nothing_planted(node: &Node, parts: &BTreeMap<String, String>) {
    let keys = ["kubelet", "kube-proxy"].map(|pair| node.pair(pair).key_pem);
    // The lines of a key, not its frame.
    let keys = keys
        .iter()
        .flat_map(|key| key.lines().filter(|line| !line.starts_with('-')));
    let planted: Vec<&str> = [TOKEN, PASSWORD, COMMENT, SECRET[0], SECRET[1], "PRIVATE KEY"]
        .into_iter()
        .chain(keys)
        .collect();
    for (part, content) in parts {
        assert_eq!(secrets::found_in(content.as_bytes()), None, "in {part}");
        for planted in &planted {
            assert!(!content.contains(planted), "{planted} is in {part}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_has_every_part_and_nothing_secret() {
    let node = Node::start().await;
    node.api.add_token(TOKEN, "eve", &[]);
    node.api.put(json!({
        "apiVersion": "v1", "kind": "Secret", "data": {"p": SECRET[1]}, "metadata": {"namespace": "shop", "name": "s"},
    }));
    assert_eq!(
        node.kubelet().get("/api/v1/namespaces/shop/secrets").await.status,
        200
    );
    assert_eq!(
        node.token_client(TOKEN)
            .get("/api/v1/namespaces/shop/secrets")
            .await
            .status,
        200
    );
    node.cut().await;
    let config = configuration(&node);
    let file = node.dir.path().join("bundle.tar.gz");
    let (code, out, err) = bundled(&config, &file).await;
    assert_eq!((code, out.trim(), err.as_str()), (0, file.to_str().unwrap(), ""));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let parts = opened(&file);
    let expected = [
        "about.json",
        "cache.json",
        "cache.txt",
        "check.json",
        "config.json",
        "metrics.txt",
        "readyz.txt",
        "status.json",
        "status.txt",
    ];
    assert_eq!(parts.keys().collect::<Vec<_>>(), expected);
    assert_nothing_planted(&node, &parts);
    let status: Status = serde_json::from_str(&parts["status.json"]).unwrap();
    assert_eq!(status.link.state, "offline");
    assert!(status.problems.iter().any(|problem| problem.code == "EH001"));
    assert!(!status.certificates.is_empty() && !status.link.changes.is_empty());
    assert!(parts["status.txt"].contains("EH001") && parts["status.txt"].contains("CERTIFICATE"));
    let listing: CacheListing = serde_json::from_str(&parts["cache.json"]).unwrap();
    assert!(
        listing
            .items
            .iter()
            .any(|item| item.resource.as_deref() == Some("secrets"))
    );
    assert!(parts["cache.txt"].contains(KUBELET) && parts["metrics.txt"].ends_with("# EOF\n"));
    assert!(parts["readyz.txt"].contains("readyz check passed"));
    let json = |part: &str| serde_json::from_str::<Value>(&parts[part]).unwrap();
    assert_eq!(
        json("config.json")["upstream"]["proxyURL"],
        "http://(removed)@127.0.0.1:9"
    );
    assert_eq!(json("config.json")["clients"][0]["commonName"], KUBELET);
    assert_eq!(json("check.json")["kind"], "CheckReport");
    let about = json("about.json");
    assert_eq!(
        (&about["version"], &about["missing"]),
        (&json!(env!("CARGO_PKG_VERSION")), &json!([]))
    );
    assert!(
        about["platform"].as_str().unwrap().starts_with("linux ") && about["facts"]["kernel"].is_string()
    );
    // A file that is there is not written over.
    let (code, _, err) = bundled(&config, &file).await;
    assert!(code == 1 && err.contains("exists"), "{code} {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_edgehold_does_not_run_the_rest_is_bundled_and_what_is_missing_said() {
    let mut node = Node::start().await;
    let config = configuration(&node);
    node.stop().await;
    let file = node.dir.path().join("bundle.tar.gz");
    let (code, _, err) = bundled(&config, &file).await;
    assert!(
        code == 0 && err.contains("without status.json: no answer at unix:"),
        "{code} {err}"
    );
    let parts = opened(&file);
    assert_eq!(
        parts.keys().collect::<Vec<_>>(),
        ["about.json", "check.json", "config.json"]
    );
    assert_nothing_planted(&node, &parts);
    let about: Value = serde_json::from_str(&parts["about.json"]).unwrap();
    let missing: Vec<_> = about["missing"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["part"].as_str().unwrap())
        .collect();
    assert_eq!(
        missing,
        ["status.json", "readyz.txt", "metrics.txt", "cache.json"]
    );
    // What is in a file that is no configuration nobody knows.
    fs::write(&config, format!("password: {PASSWORD}\napiVersion: {TOKEN}\n")).unwrap();
    let file = node.dir.path().join("wrong.tar.gz");
    let (code, _, _) = bundled(&config, &file).await;
    assert_eq!(code, 0);
    let parts = opened(&file);
    assert_eq!(parts.keys().collect::<Vec<_>>(), ["about.json"]);
    assert_nothing_planted(&node, &parts);
}
