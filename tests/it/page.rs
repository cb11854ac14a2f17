//! The page of the admin listener.
#![allow(clippy::disallowed_methods)] // files are written here

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use apiserver_standin::secrets;
use edgehold::config::AdminAddress;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::support::{Node, config_map, eventually};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

/// The head and the body of the page.
async fn page(node: &Node) -> (String, String) {
    let Some(AdminAddress::Unix(path)) = node.running().admin_address() else {
        panic!("no socket")
    };
    let mut stream = UnixStream::connect(path).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    secrets::search("the page", answer.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_the_status_says_and_trusts_no_text() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    let selected = format!("{LIST}?labelSelector=a%3D%3Cb%3E");
    assert_eq!(node.kubelet().get(&selected).await.status, 200);
    let escaped = "a=&lt;b&gt;";
    eventually("the view is shown", async || {
        page(&node).await.1.contains(escaped)
    })
    .await;
    let (head, online) = page(&node).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    for expected in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; style-src 'sha256-",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
    ] {
        assert!(head.contains(expected), "{expected} is not in {head}");
    }
    assert!(
        online.contains("<span class=\"state good\">online</span>"),
        "{online}"
    );
    assert!(
        online.contains("a=&lt;b&gt;") && !online.contains("a=<b>"),
        "{online}"
    );
    for outside in ["src=", "href=", "url(", "@import"] {
        assert!(!online.contains(outside), "{outside} in {online}");
    }
    node.cut().await;
    let (_, offline) = page(&node).await;
    for expected in [
        "<span class=\"state bad\">offline</span>",
        "connection refused",
        "<code>EH001</code>",
        &node.api.addr().to_string(),
        "configmaps",
        "system:kube-proxy",
        "upstream-ca",
        "http-equiv=\"refresh\"",
        "<title>edgehold: offline</title>",
    ] {
        assert!(offline.contains(expected), "{expected} is not in {offline}");
    }
}

/// `tests/page/run` calls this with a browser.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium and Node: tests/page/run"]
async fn in_a_browser() {
    let chromium = std::env::var("EDGEHOLD_CHROMIUM").expect("EDGEHOLD_CHROMIUM, as tests/page/run sets it");
    let mut node = Node::start().await;
    node.stop().await;
    let socket = format!("unix:{}", node.dir.path().join("admin.sock").display());
    let token = node.dir.path().join("token");
    std::fs::write(&token, "let-me-in\n").unwrap();
    let port = format!("127.0.0.1:0\", tokenFile: \"{}", token.display());
    node.launch_text(&node.config_text().replace(&socket, &port))
        .await;
    node.api.put(config_map("shop", "a", "1"));
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    let Some(AdminAddress::Tcp(address)) = node.running().admin_address() else {
        panic!("no port")
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pictures = root.join("target/page");
    std::fs::create_dir_all(&pictures).unwrap();
    let mut looking = Command::new("node")
        .arg(root.join("tests/page/look.mjs"))
        .args([&chromium, &format!("http://{address}/"), "let-me-in"])
        .arg(&pictures)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (say, mut said) = mpsc::unbounded_channel();
    let lines = BufReader::new(looking.stdout.take().unwrap()).lines();
    let reading = std::thread::spawn(move || {
        for line in lines {
            say.send(line.unwrap()).unwrap();
        }
        looking.wait().unwrap()
    });
    let mut all = Vec::new();
    while let Some(line) = said.recv().await {
        if line == "watching" {
            node.cut().await;
        }
        all.push(line);
    }
    let status = reading.join().unwrap();
    assert!(status.success() && all == ["watching"], "{}", all.join("\n"));
}
