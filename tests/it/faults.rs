//! Faults as they happen, each planted: `edgehold status` names it with its code, the metric of an alert moves, and
//! `edgehold check` fails or says it where it can know.
#![allow(clippy::disallowed_methods)] // files of a node are written here

use std::path::Path;

use apiserver_standin::{Existing, Fault, Options, Pki, Rbac, Standin, Validity};
use edgehold::admin::client;
use edgehold::admin::status::{Problem, Status};
use edgehold::config::AdminAddress;
use edgehold::upstream::LinkState;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::durable::SmallDisk;
use crate::support::{KUBELET, Node, Setup, config_map, eventually, files_below};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const YEAR: i64 = 365 * 86_400;

/// A node that is about to be broken: with time for a resolver, and for machines under load.
async fn node() -> Node {
    let setup = Setup {
        connect_timeout: "25s",
        probe_timeout: "25s",
        ..Setup::default()
    };
    Node::with(Options::default(), setup).await
}

/// Starts edgehold anew with a change of its configuration.
async fn relaunch(node: &mut Node, old: &str, new: &str) -> String {
    node.stop().await;
    let text = node.config_text();
    assert!(text.contains(old), "{old} is not in {text}");
    let text = text.replace(old, new);
    node.launch_text(&text).await;
    text
}

async fn asked(node: &Node, path: &str) -> String {
    let address: &AdminAddress = node.running().admin_address().expect("an admin listener");
    let said = client::get(address, path, None).await.unwrap();
    String::from_utf8(said.to_vec()).unwrap()
}

async fn problems(node: &Node) -> Vec<Problem> {
    let status: Status = serde_json::from_str(&asked(node, "/status").await).unwrap();
    status.problems
}

async fn told(args: Vec<String>) -> (i32, String) {
    let asking = move || {
        let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_edgehold"))
            .args(args)
            .output()
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    tokio::task::spawn_blocking(asking).await.unwrap()
}

/// Waits until the problem is there; then `edgehold status` says it, and the metric of an alert has moved.
async fn is_found(node: &Node, code: &str, words: &[&str], metric: &str) {
    let is_it =
        |problem: &Problem| problem.code == code && words.iter().all(|word| problem.message.contains(word));
    eventually(code, || async { problems(node).await.iter().any(is_it) }).await;
    let address = node.running().admin_address().unwrap().to_string();
    let (exit, out) = told(vec!["status".into(), "--admin".into(), address]).await;
    assert_eq!(exit, 0, "{out}");
    let is_line = |line: &str| line.starts_with(code) && words.iter().all(|word| line.contains(word));
    assert!(out.lines().any(is_line), "{code} {words:?} is not in\n{out}");
    let of_code = format!("edgehold_problems{{code=\"{code}\"}} ");
    let metrics = asked(node, "/metrics").await;
    let moved = |start: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(start));
        line.is_some_and(|value| value.trim().parse::<f64>().is_ok_and(|value| value != 0.0))
    };
    assert!(moved(&of_code), "{of_code} has not moved");
    assert!(moved(metric), "{metric} has not moved in\n{metrics}");
    let name = metric.split('{').next().unwrap().trim();
    let rules = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring/alerts.yaml"),
    );
    assert!(rules.unwrap().contains(name), "no alert asks for {name}");
    assert!(asked(node, "/").await.contains(code), "{code} is not on the page");
    let ready = client::get(node.running().admin_address().unwrap(), "/readyz?verbose", None).await;
    let ready = match ready {
        Ok(body) => String::from_utf8(body.to_vec()).unwrap(),
        Err(refused) => refused.to_string(),
    };
    assert!(ready.contains(&format!("({code})")), "{code} is not in\n{ready}");
}

/// `edgehold check` on this configuration: its exit code and what it prints.
async fn check(node: &Node, text: &str) -> (i32, String) {
    let path = node.dir.path().join("checked.yaml");
    std::fs::write(&path, text).unwrap();
    told(vec![
        "check".into(),
        "--config".into(),
        path.display().to_string(),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_well_has_no_problem() {
    let node = Node::start().await;
    assert_eq!(node.kubelet().get("/version").await.status, 200);
    let found = problems(&node).await;
    assert!(found.is_empty(), "{found:?}");
    let (exit, out) = check(&node, &node.config_text()).await;
    assert_eq!(exit, 0, "{out}");
    assert!(out.contains("  an edgehold "), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates() {
    let mut node = node().await;
    node.stop().await;
    let pki = node.api.pki().clone();
    let orgs = ["system:nodes"];
    let dir = node.dir.path().to_owned();
    let state = |state: &str| {
        format!("edgehold_certificate_state{{kind=\"client\",name=\"{KUBELET}\",state=\"{state}\"}} ")
    };

    pki.client_valid(Some(KUBELET), &orgs, Validity::EXPIRED)
        .write_to(&dir, "kubelet");
    node.launch().await;
    is_found(&node, "EH012", &[KUBELET, "expired at 2"], &state("expired")).await;
    let (exit, out) = check(&node, &node.config_text()).await;
    assert!(
        exit == 65 && out.contains("clients[0].certFile: it expired at 2"),
        "{exit} {out}"
    );

    node.stop().await;
    pki.client(Some("system:node:edge-2"), &orgs)
        .write_to(&dir, "kubelet");
    node.launch().await;
    is_found(
        &node,
        "EH011",
        &[KUBELET, "system:node:edge-2"],
        &state("wrong_name"),
    )
    .await;
    let (exit, out) = check(&node, &node.config_text()).await;
    let said = "it is the certificate of \"system:node:edge-2\"";
    assert!(exit == 65 && out.contains(said), "{exit} {out}");

    node.stop().await;
    pki.client(Some(KUBELET), &orgs).write_to(&dir, "kubelet");
    let text = relaunch(&mut node, "serving.crt", "sever.crt").await;
    let missing = "edgehold_problems{code=\"EH010\"} ";
    is_found(
        &node,
        "EH010",
        &["serving", "sever.crt; is it spelt right?"],
        missing,
    )
    .await;
    let (exit, out) = check(&node, &text).await;
    assert!(
        exit == 65 && out.contains("sever.crt: missing: no client gets a connection"),
        "{exit} {out}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_to_the_cloud() {
    let mut node = node().await;
    let server = node.api.addr().to_string();
    Pki::named("stranger").write_ca(node.dir.path(), "stranger");
    let ca = |name: &str| format!("caFile: {}\n", node.dir.path().join(name).display());
    let (own, other) = (ca("ca.crt"), ca("stranger.crt"));
    let down = "edgehold_link_state{state=\"offline\"} ";
    let refusing = refusing_proxy().await;
    let through = format!("{own}  proxyURL: \"http://{refusing}\"\n");
    for (old, new, words, exit) in [
        (
            &own,
            other.as_str(),
            "TLS: its certificate is not by a configured authority",
            65,
        ),
        (
            &server,
            "nowhere.invalid:6443",
            "its name cannot be looked up (DNS)",
            69,
        ),
        (&own, through.as_str(), "the proxy on the way answered 403", 69),
    ] {
        let text = relaunch(&mut node, old, new).await;
        node.wait_link(LinkState::Offline).await;
        is_found(&node, "EH001", &[words, ", since 2"], down).await;
        let (code, out) = check(&node, &text).await;
        assert_eq!(code, exit, "{words}: {out}");
    }
}

/// A proxy that lets nobody through.
async fn refusing_proxy() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let _read = stream.read(&mut head).await;
            let _written = stream
                .write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                .await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_apiserver_says_to_a_client() {
    let node = node().await;
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    node.api.set_rbac(Rbac::deny_all());
    assert_eq!(node.kubelet().get(LIST).await.status, 403);
    let forbidden = format!("forbids {KUBELET} to list configmaps (403");
    is_found(
        &node,
        "EH021",
        &[&forbidden],
        "edgehold_problems{code=\"EH021\"} ",
    )
    .await;
    let (_, out) = check(&node, &node.config_text()).await;
    assert!(out.contains("warning: the running edgehold: EH021: "), "{out}");

    node.api.fault(Fault::Status(401).on(LIST));
    assert_eq!(node.kubelet().get(LIST).await.status, 401);
    let refused = format!("answers 401 to the certificate of {KUBELET}");
    is_found(&node, "EH020", &[&refused], "edgehold_problems{code=\"EH020\"} ").await;
    let (exit, out) = check(&node, &node.config_text()).await;
    assert!(
        exit == 1 && out.contains("problem: the running edgehold: EH020: "),
        "{exit} {out}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_view() {
    let mut node = node().await;
    for name in ["a", "b", "c", "d", "e"] {
        node.api.put(config_map("shop", name, "sauerkraut"));
    }
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    node.settle().await;
    node.stop().await;
    for file in files_below(&node.cache_dir()) {
        let mut bytes = std::fs::read(&file).unwrap();
        let found = bytes.windows(10).position(|part| part == b"sauerkraut");
        if let Some(at) = found {
            bytes[at] ^= 0x10;
            // There is more behind it: a torn last record is no damage.
            std::fs::write(&file, &bytes).unwrap();
        }
    }
    node.launch().await;
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    let put_aside = ["damaged files of the cache were put aside in ", "/quarantine"];
    is_found(&node, "EH032", &put_aside, "edgehold_store_damaged_total ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk() {
    let mut node = node().await;
    let Some(disk) = SmallDisk::under(&mut node).await else {
        return;
    };
    assert_eq!(node.status("/version").await, 200);
    node.settle().await;
    disk.fill();
    // One large answer, that there is no room for, and nothing else.
    node.api.put(config_map("shop", "large", &"x".repeat(800_000)));
    assert_eq!(node.status(LIST).await, 200);
    let path = node.cache_dir().display().to_string();
    let refused = [path.as_str(), "refuses writes", "No space left on device"];
    let counted = "edgehold_store_failures_total{reason=\"write\"} ";
    is_found(&node, "EH031", &refused, counted).await;
    let (exit, out) = check(&node, &node.config_text()).await;
    let said = "problem: the running edgehold: EH031: ";
    assert!(exit == 1 && out.contains(said), "{exit} {out}");
    node.stop().await;
    let (exit, out) = check(&node, &node.config_text()).await;
    assert!(
        exit == 1 && out.contains("cache.path: cannot write to") && out.contains("No space left"),
        "{exit} {out}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_cache_that_is_not_there() {
    let mut node = node().await;
    let key = node.dir.path().join("nowhere.key").display().to_string();
    let encrypted = format!(", encryption: {{keyFile: {key}}}}}\nclients:");
    let text = relaunch(&mut node, "}\nclients:", &encrypted).await;
    let said = ["the cache is in memory only, its key cannot be read"];
    is_found(&node, "EH030", &said, "edgehold_problems{code=\"EH030\"} ").await;
    let (exit, out) = check(&node, &text).await;
    assert!(
        exit == 1 && out.contains(&key) && out.contains("problem: the running edgehold: EH030: "),
        "{exit} {out}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_two_years_back_or_three_ahead() {
    let node = node().await;
    for (skew, words) in [
        (2 * YEAR, " behind the apiserver's"),
        (-3 * YEAR, " ahead of the apiserver's"),
    ] {
        node.api.skew_date(skew);
        assert_eq!(node.kubelet().get("/version").await.status, 200);
        is_found(
            &node,
            "EH040",
            &["the clock of this node is ", words],
            "edgehold_clock_offset_seconds ",
        )
        .await;
    }
    let (exit, out) = check(&node, &node.config_text()).await;
    assert!(
        exit == 1 && out.contains("problem: the running edgehold: EH040: "),
        "{exit} {out}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_that_is_down() {
    let mut node = node().await;
    let second = Standin::start(Options {
        cluster: Some(node.api.cluster()),
        ..Options::default()
    });
    second.fault(Fault::Refuse(Existing::Cut));
    let gone = second.addr();
    let own = format!("\"https://{}\"", node.api.addr());
    let text = relaunch(&mut node, &own, &format!("{own}, \"https://{gone}\"")).await;
    let named = format!("{gone}: connection refused; another server is used");
    let metric = format!("edgehold_upstream_server_state{{server=\"{gone}\",state=\"offline\"}} ");
    is_found(&node, "EH002", &[&named], &metric).await;
    let (exit, out) = check(&node, &text).await;
    assert!(exit == 69 && out.contains(&gone.to_string()), "{exit} {out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_flaps() {
    let node = Node::start().await;
    for _ in 0..4 {
        node.cut().await;
        node.heal().await;
    }
    let counted = "edgehold_link_outages_total ";
    is_found(&node, "EH003", &["the link comes and goes: "], counted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_over_its_limit() {
    let setup = Setup {
        kubelet_limits: Some("{qps: 1, burst: 1}"),
        ..Setup::default()
    };
    let node = Node::with(Options::default(), setup).await;
    let kubelet = node.kubelet();
    eventually("it is over its limit", || async {
        kubelet.get("/version").await.status == 429
    })
    .await;
    let limited = "edgehold_requests_limited_total{limit=\"rate\"} ";
    is_found(&node, "EH050", &[KUBELET, "is over its limit (rate)"], limited).await;
}
