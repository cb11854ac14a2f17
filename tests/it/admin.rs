//! The admin listener and the commands that ask it: who may ask, what is said, and that clients are served whatever becomes of it.
#![allow(clippy::disallowed_methods)] // files are read and written here

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use apiserver_standin::{Client, secrets};
use edgehold::admin::client;
use edgehold::admin::status::{CacheListing, Status};
use edgehold::config::AdminAddress;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::process::Process;
use crate::support::{KUBELET, Node, config_map, eventually};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

fn address(node: &Node) -> AdminAddress {
    node.running().admin_address().expect("an admin listener").clone()
}

async fn text(node: &Node, path: &str) -> String {
    let said = client::get(&address(node), path, None).await.unwrap();
    secrets::search("the admin listener", &said);
    String::from_utf8(said.to_vec()).unwrap()
}

async fn status(node: &Node) -> Status {
    serde_json::from_str(&text(node, "/status").await).unwrap()
}

/// The whole answer to a request, as text.
async fn raw(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The command line of the real binary: exit code, standard output and error.
fn edgehold(args: &[&str]) -> (i32, String, String) {
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_edgehold"))
        .args(args)
        .output()
        .unwrap();
    secrets::search("standard output", &output.stdout);
    let said = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        said(output.stdout),
        said(output.stderr),
    )
}

pub async fn told(args: &[&str]) -> (i32, String, String) {
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let asking = move || edgehold(&args.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(asking).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_how_it_is_online_and_offline() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    assert_eq!(text(&node, "/livez").await, "ok");
    assert_eq!(text(&node, "/readyz").await, "ok");
    node.cut().await;
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    assert_eq!(
        node.kubelet()
            .get("/api/v1/namespaces/other/secrets")
            .await
            .status,
        503
    );
    // An outage does not make a node unready.
    assert_eq!(text(&node, "/readyz").await, "ok");
    let checks = text(&node, "/readyz?verbose").await;
    let server = node.api.addr().to_string();
    for expected in [
        "[+]serving-certificate ok\n",
        "[+]client-ca ok\n",
        "[+]upstream-ca ok\n",
        "[+]cache ok\n",
        &format!(
            "[+]link ok: offline: the cloud is away, answering from the cache ({server}: connection refused, since "
        ),
        "readyz check passed\n",
    ] {
        assert!(checks.contains(expected), "{expected} is not in {checks}");
    }
    let status = status(&node).await;
    assert_eq!(
        (status.api_version.as_str(), status.kind.as_str()),
        ("edgehold/v1alpha1", "Status")
    );
    assert_eq!((status.link.state.as_str(), status.link.outages), ("offline", 1));
    assert!(status.ready && status.link.answered_from_cache >= 1 && status.link.last_contact.is_some());
    let trouble = status.servers[0].trouble.as_ref().unwrap();
    assert_eq!(
        (status.servers[0].name.as_str(), trouble.cause.as_str()),
        (server.as_str(), "refused")
    );
    let names: Vec<_> = status.clients.iter().map(|client| client.name.as_str()).collect();
    assert_eq!(names, ["system:kube-proxy", KUBELET]);
    let states: BTreeSet<_> = status.certificates.iter().map(|one| one.state.as_str()).collect();
    assert_eq!(states, BTreeSet::from(["current"]));
    let metrics = text(&node, "/metrics").await;
    for expected in [
        "edgehold_link_state{state=\"offline\"} 1\n",
        "edgehold_link_outages_total 1\n",
        "edgehold_requests_total{client=\"configured\",verb=\"list\",group=\"core\",route=\"read\",result=\"cache\",code=\"200\"} 1\n",
        "edgehold_requests_total{client=\"configured\",verb=\"list\",group=\"core\",route=\"read\",result=\"edgehold\",code=\"503\"} 1\n",
        "edgehold_cache_misses_total{reason=\"not_read\"} ",
        "edgehold_certificate_state{kind=\"serving\",name=\"serving\",state=\"current\"} 1\n",
        "# TYPE process_resident_memory_bytes gauge\n",
        "# EOF\n",
    ] {
        assert!(metrics.contains(expected), "{expected} is not in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_may_ask_over_the_socket_and_what_is_not_there_is_said() {
    let node = Node::start().await;
    let AdminAddress::Unix(socket) = address(&node) else {
        panic!("a Unix socket is the default")
    };
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let asked = async |request: &str| raw(UnixStream::connect(&socket).await.unwrap(), request).await;
    let end = "Host: x\r\nConnection: close\r\n";
    for (request, expected) in [
        (format!("GET /nothing HTTP/1.1\r\n{end}\r\n"), "404 Not Found"),
        (
            format!("POST /status HTTP/1.1\r\n{end}Content-Length: 0\r\n\r\n"),
            "405 Method Not Allowed",
        ),
        (
            format!("POST /log-level HTTP/1.1\r\n{end}Content-Length: 4\r\n\r\nloud"),
            "400 Bad Request",
        ),
        (
            format!("GET /livez HTTP/1.1\r\n{end}Origin: http://evil.example\r\n\r\n"),
            "403 Forbidden",
        ),
    ] {
        let answer = asked(&request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{answer}");
    }
    let huge = format!(
        "POST /log-level HTTP/1.1\r\n{end}Content-Length: 100000\r\n\r\n{}",
        "x".repeat(100_000)
    );
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    let _refused_in_the_middle = stream.write_all(huge.as_bytes()).await;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 400");
    // The API port knows nothing of it.
    assert_eq!(node.kubelet().get("/status").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_port_a_token_and_the_loopbacks_own_name_are_needed() {
    let mut node = Node::start().await;
    node.stop().await;
    let token = node.dir.path().join("token");
    fs::write(&token, "let-me-in\n").unwrap();
    let socket = format!("unix:{}", node.dir.path().join("admin.sock").display());
    let port = format!("127.0.0.1:0\", tokenFile: \"{}", token.display());
    let text = node.config_text();
    assert!(text.contains(&socket), "{text}");
    node.launch_text(&text.replace(&socket, &port)).await;
    let AdminAddress::Tcp(tcp) = address(&node) else {
        panic!("a port was asked for")
    };
    let asked = async |host: &str, token: &str| {
        let request = format!(
            "GET /livez HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        raw(TcpStream::connect(tcp).await.unwrap(), &request).await
    };
    for (host, token, expected) in [
        (tcp.to_string().as_str(), "let-me-in", "200 OK"),
        ("localhost", "let-me-in", "200 OK"),
        ("localhost", "other", "401 Unauthorized"),
        ("rebound.example", "let-me-in", "403 Forbidden"),
    ] {
        let answer = asked(host, token).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected}")),
            "{host}: {answer}"
        );
    }
    let (admin, file) = (format!("http://{tcp}"), token.display().to_string());
    let (code, out, _) = told(&["certs", "--admin", &admin, "--token-file", &file]).await;
    assert!(code == 0 && out.contains("current"), "{code} {out}");
    let (code, _, err) = told(&["status", "--admin", &admin]).await;
    assert!(code == 69 && err.contains("401"), "{code} {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_port_without_a_token_file_nobody_hears_whose_data_is_kept_or_changes_anything() {
    let mut node = Node::start().await;
    node.stop().await;
    let socket = format!("unix:{}", node.dir.path().join("admin.sock").display());
    let text = node.config_text();
    assert!(text.contains(&socket), "{text}");
    node.launch_text(&text.replace(&socket, "127.0.0.1:0")).await;
    let AdminAddress::Tcp(tcp) = address(&node) else {
        panic!("a port was asked for")
    };
    for (request, expected) in [
        ("GET /livez", "200 OK"),
        ("GET /metrics", "200 OK"),
        ("GET /status", "200 OK"),
        ("GET /log-level", "200 OK"),
        ("GET /", "403 Forbidden"),
        ("GET /cache", "403 Forbidden"),
        ("GET /cache?x", "403 Forbidden"),
        ("GET /cache/objects?resource=pods", "403 Forbidden"),
        ("POST /log-level", "403 Forbidden"),
    ] {
        let request = format!(
            "{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\ndebug"
        );
        let answer = raw(TcpStream::connect(tcp).await.unwrap(), &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{answer}");
    }
    let (code, _, err) = told(&["cache", "ls", "--admin", &format!("http://{tcp}")]).await;
    assert!(code == 69 && err.contains("admin.tokenFile"), "{code} {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_cannot_be_had_is_said_and_clients_are_served() {
    let mut node = Node::start().await;
    node.stop().await;
    let text = node.config_text().replace("admin.sock", "missing/admin.sock");
    let path = node.dir.path().join("process.yaml");
    fs::write(&path, &text).unwrap();
    let process = Process::run(&path);
    let address = process.address().await;
    process
        .logged(&["there is no admin listener", "missing/admin.sock"])
        .await;
    let client = Client::new(address, node.api.ca_pem(), Some(&node.pair("kubelet")));
    assert_eq!(client.get("/version").await.status, 200);
    let (code, _, err) = told(&["status", "--config", path.to_str().unwrap()]).await;
    assert!(code == 69 && err.contains("is edgehold running?"), "{code} {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_what_is_wrong_and_what_is_known_and_may_have_more_logged() {
    let mut node = Node::start().await;
    node.stop().await;
    let path = node.dir.path().join("process.yaml");
    fs::write(&path, node.config_text()).unwrap();
    let process = Process::run(&path);
    let config = path.to_str().unwrap();
    let client = Client::new(
        process.address().await,
        node.api.ca_pem(),
        Some(&node.pair("kubelet")),
    );
    node.api.put(config_map("shop", "a", "1"));
    assert_eq!(client.get(LIST).await.status, 200);
    let listed = || async {
        let (code, out, err) = told(&["cache", "ls", "--config", config]).await;
        assert_eq!(code, 0, "{err}");
        out.lines().any(|line| {
            let cells: Vec<_> = line.split_whitespace().collect();
            cells
                .first()
                .is_some_and(|owner| owner.starts_with(&format!("cn:{KUBELET}")))
                && cells.get(1..3) == Some(&["configmaps", "shop"][..])
        })
    };
    eventually("the list is listed", listed).await;
    let (_, json, _) = told(&["cache", "ls", "-o", "json", "--config", config]).await;
    let listing: CacheListing = serde_json::from_str(&json).unwrap();
    assert!(!listing.items.is_empty() && listing.kind == "CacheListing");
    node.api
        .fault(apiserver_standin::Fault::Refuse(apiserver_standin::Existing::Cut));
    let _unanswered = client.send("GET", "/version", "").await;
    let refused = format!("{}: connection refused, since ", node.api.addr());
    let said = || async {
        let (code, out, err) = told(&["status", "--config", config]).await;
        assert_eq!(code, 0, "{err}");
        out.contains("link: offline since ") && out.contains(&refused)
    };
    eventually("the outage is said", said).await;
    let (_, json, _) = told(&["status", "-o", "json", "--config", config]).await;
    let status: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(status["servers"][0]["trouble"]["cause"], "refused");
    // A certificate that is gone makes `certs` fail.
    fs::remove_file(node.dir.path().join("kube-proxy.crt")).unwrap();
    let failing = || async {
        let (code, out, _) = told(&["certs", "--config", config]).await;
        code == 65 && out.contains("absent")
    };
    eventually("the file is missed", failing).await;
    // More is logged from now on.
    let socket = node.dir.path().join("admin.sock");
    let request =
        "POST /log-level HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\ndebug";
    let answer = raw(UnixStream::connect(&socket).await.unwrap(), request).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("debug\n"),
        "{answer}"
    );
    let _unanswered = client.send("GET", "/version?logged", "").await;
    process.logged(&["DEBUG", "request", "path=\"/version\""]).await;
}

#[test]
fn the_reference_of_metrics_is_complete() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = vec![root.join("src")];
    let mut registered = BTreeSet::new();
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for word in text.split('"') {
            let is_name = word.starts_with("edgehold_") || word.starts_with("process_");
            let plain = |c: char| c.is_ascii_lowercase() || c == '_';
            if is_name && word.chars().all(plain) {
                registered.insert(word.to_owned());
            }
        }
    }
    let docs = fs::read_to_string(root.join("docs/monitoring.md")).unwrap();
    let rows = docs.lines().filter_map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let name = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
        let kind = *cells.get(2)?;
        let suffix = match kind {
            "counter" => "_total",
            _ if name.ends_with("_info") => "_info",
            _ => "",
        };
        let is_metric = name.starts_with("edgehold_") || name.starts_with("process_");
        is_metric.then(|| name.strip_suffix(suffix).expect(name).to_owned())
    });
    assert_eq!(rows.collect::<BTreeSet<_>>(), registered);
}
