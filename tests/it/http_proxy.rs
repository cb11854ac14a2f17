//! An HTTP CONNECT proxy on the way to the cloud: everything goes through it, it learns nothing, and when it fails the
//! link is down with a reason.
#![allow(clippy::disallowed_methods)] // it plays the person who edits files

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiserver_standin::{Options, Protocol, Standin};
use assert_cmd::Command;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgehold::app::App;
use edgehold::config;
use edgehold::runtime::clock;
use edgehold::upstream::LinkState;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::process::Process;
use crate::support::{KUBELET, Node, Setup, change, config_map, eventually, names, watch_from};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const PASSWORD: &str = "hunter2:%";

/// What a proxy does with a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Open,
    /// Only for `me` with [`PASSWORD`].
    Auth,
    /// As proxies did it long ago.
    Http10,
    /// The answer comes in pieces, one each tenth of a second.
    Slow,
    Say(&'static str),
    Close,
    Silent,
}

/// A proxy that records. Whatever host is asked for is looked for on the loopback.
struct HttpProxy {
    port: u16,
    state: Arc<State>,
}

struct State {
    mode: watch::Sender<Mode>,
    /// The heads of requests, as they came.
    heads: Mutex<Vec<String>>,
    /// What clients sent into the tunnels.
    sent: Mutex<Vec<u8>>,
    open: watch::Sender<usize>,
}

impl HttpProxy {
    async fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            mode: watch::Sender::new(mode),
            heads: Mutex::default(),
            sent: Mutex::default(),
            open: watch::Sender::new(0),
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move { state.serve(client).await });
            }
        });
        Self { port, state }
    }

    /// Changes what it does from now on; tunnels end.
    fn become_(&self, mode: Mode) {
        self.state.mode.send_replace(mode);
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn heads(&self) -> Vec<String> {
        self.state.heads.lock().clone()
    }

    fn tunnels(&self) -> usize {
        *self.state.open.borrow()
    }
}

impl State {
    async fn serve(&self, mut client: TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match client.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        self.heads.lock().push(head.clone());
        let mut mode = self.mode.subscribe();
        let now = *mode.borrow_and_update();
        let known = format!(
            "\r\nproxy-authorization: Basic {}\r\n",
            STANDARD.encode(format!("me:{PASSWORD}"))
        );
        let answer = match now {
            Mode::Auth if !head.contains(&known) => {
                "HTTP/1.1 407 Go away\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 4\r\n\r\nhey\n"
            }
            Mode::Open | Mode::Auth | Mode::Slow => "HTTP/1.1 200 Connection established\r\nX-Via: a\r\n\r\n",
            Mode::Http10 => "HTTP/1.0 200 OK\r\n\r\n",
            Mode::Say(answer) => answer,
            Mode::Close => return,
            Mode::Silent => return drop(mode.changed().await),
        };
        for piece in answer.as_bytes().chunks(if now == Mode::Slow { 8 } else { 4096 }) {
            if now == Mode::Slow {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if client.write_all(piece).await.is_err() {
                return;
            }
        }
        if matches!(now, Mode::Say(_)) || answer.contains(" 407 ") {
            return;
        }
        let target = head.split(' ').nth(1).unwrap();
        let port = target.rsplit(':').next().unwrap().parse::<u16>().unwrap();
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
            return;
        };
        self.open.send_modify(|open| *open += 1);
        tokio::select! {
            () = self.relay(client, server) => {}
            _changed = mode.changed() => {}
        }
        self.open.send_modify(|open| *open -= 1);
    }

    async fn relay(&self, client: TcpStream, server: TcpStream) {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let up = async {
            let mut buffer = vec![0; 8192];
            while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
                self.sent.lock().extend_from_slice(&buffer[..n]);
                if to_server.write_all(&buffer[..n]).await.is_err() {
                    break;
                }
            }
            let _end = to_server.shutdown().await;
        };
        let down = async {
            let _end = tokio::io::copy(&mut from_server, &mut to_client).await;
            let _end = to_client.shutdown().await;
        };
        tokio::join!(up, down);
    }
}

/// `fields` are fields of `upstream`, as YAML lines.
fn through(node: &Node, fields: &str) -> String {
    node.config_text()
        .replace("upstream:\n", &format!("upstream:\n{fields}"))
}

/// A node whose way leads through a proxy, and how many connections the cloud had seen before.
async fn behind(proxy: &HttpProxy, fields: &str) -> (Node, u64) {
    let setup = Setup {
        probe_timeout: "1s",
        ..Setup::default()
    };
    let mut node = Node::with(Options::default(), setup).await;
    node.stop().await;
    node.api.put(config_map("shop", "a", "1"));
    let text = through(&node, &format!("  proxyURL: \"{}\"\n{fields}", proxy.url()));
    let before = node.api.counters().connections_total;
    node.launch_text(&text).await;
    (node, before)
}

fn password_file(node: &Node, content: &str) -> PathBuf {
    let path = node.dir.path().join("proxy-password");
    std::fs::write(&path, content).unwrap();
    path
}

async fn live(node: &Node) {
    let answer = node.kubelet().get(LIST).await;
    assert_eq!((answer.status, answer.header("cache-status")), (200, ""));
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_watches_tokens_and_upgrades_go_through_it_and_it_learns_only_who_the_server_is() {
    for mode in [Mode::Open, Mode::Http10] {
        let proxy = HttpProxy::start(mode).await;
        let (node, before) = behind(&proxy, "").await;
        let kubelet = node.kubelet();
        live(&node).await;
        let mut connection = kubelet.connect().await.unwrap();
        let version = node.api.revision().to_string();
        let mut watch = connection.lines(&watch_from(LIST, &version)).await.unwrap();
        node.api.put(config_map("shop", "b", "1"));
        assert_eq!(change(&mut watch).await.1, "b");

        let token = node.api.service_account_token("shop", "web");
        assert_eq!(node.token_client(&token).get(LIST).await.status, 200);
        node.api
            .put(serde_json::json!({"apiVersion": "v1", "kind": "Pod", "spec": {},
            "metadata": {"namespace": "n", "name": "p"}}));
        let exec = node
            .kubelet()
            .protocol(Protocol::Http1)
            .header("connection", "Upgrade")
            .header("upgrade", "SPDY/3.1");
        let mut connection = exec.connect().await.unwrap();
        let response = connection.open("POST", "/api/v1/namespaces/n/pods/p/exec?command=sh", "");
        let response = response.await.unwrap();
        assert_eq!(response.status(), 101);
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');

        let seen = node.api.requests();
        assert!(seen.iter().any(|seen| seen.peer_cn.as_deref() == Some(KUBELET)));
        assert!(seen.iter().any(|seen| seen.token.as_deref() == Some(&*token)));
        let heads = proxy.heads();
        let server = node.api.addr();
        for head in &heads {
            assert_eq!(
                *head,
                format!("CONNECT {server} HTTP/1.1\r\nhost: {server}\r\n\r\n")
            );
        }
        let connections = node.api.counters().connections_total;
        assert_eq!(connections - before, heads.len() as u64, "there is no other way");
        let sent = proxy.state.sent.lock().clone();
        assert!(sent.len() > 1000 && !contains(&sent, &token) && !contains(&sent, "configmaps"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_left_to_the_proxy_and_what_goes_past_it_does_not_reach_it() {
    let proxy = HttpProxy::start(Mode::Open).await;
    let mut node = Node::start().await;
    node.stop().await;
    let named = Standin::start(Options {
        cluster: Some(node.api.cluster()),
        serving: Some(node.api.pki().server(&["kube.invalid"])),
        ..Options::default()
    });
    let port = named.addr().port();
    let by_name = format!("https://kube.invalid:{port}");
    let servers = format!("{by_name}\", \"{}", node.api.url());
    let past = format!(
        "  proxyURL: {}\n  noProxy: [10.0.0.0/8, \"127.0.0.0/8\"]\n",
        proxy.url()
    );
    let text = through(&node, &past).replace(&node.api.url(), &servers);
    node.launch_text(&text).await;
    live(&node).await;
    let seen = named.wait_for(|seen| seen.target == LIST).await;
    assert_eq!(seen.authority, format!("kube.invalid:{port}"));
    // The other one is asked past it when this one has gone.
    proxy.become_(Mode::Close);
    live(&node).await;
    node.api.wait_for(|seen| seen.target == LIST).await;
    assert!(
        proxy
            .heads()
            .iter()
            .all(|head| head.starts_with("CONNECT kube.invalid:"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_read_from_its_file_for_each_connection() {
    let proxy = HttpProxy::start(Mode::Auth).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    let (node, _) = behind(&proxy, &format!("  proxyCredentialsFile: {}\n", file.display())).await;
    node.wait_link(LinkState::Offline).await;
    assert_eq!(proxy.heads().len(), 0, "without its password it is not asked");
    std::fs::write(&file, "me:old\n").unwrap();
    let asked = || async { !proxy.heads().is_empty() };
    eventually("the proxy is asked", asked).await;
    assert_eq!(*node.running().link().borrow(), LinkState::Offline);
    std::fs::write(&file, format!("me:{PASSWORD}\n")).unwrap();
    node.wait_link(LinkState::Online).await;
    live(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_asks_through_it_and_says_what_it_refused_but_not_its_password() {
    let proxy = HttpProxy::start(Mode::Auth).await;
    let node = Node::start().await;
    let path = node.dir.path().join("checked.yaml");
    let check = |url: String| {
        std::fs::write(&path, through(&node, &format!("  proxyURL: \"{url}\"\n"))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgehold"));
        command.args(["check", "--config", path.to_str().unwrap()]);
        let output = tokio::task::block_in_place(|| command.output().unwrap());
        let out = String::from_utf8(output.stdout).unwrap();
        assert!(!out.contains("hunter2"), "{out}");
        (output.status.code(), out)
    };
    let with = |password: &str| proxy.url().replace("//", &format!("//me:{password}@"));
    let (code, out) = check(with("hunter2%3A%25"));
    assert_eq!(code, Some(0), "{out}");
    assert!(
        out.contains(&format!("{}: accepts {KUBELET}", node.api.url())),
        "{out}"
    );
    assert_eq!(proxy.heads().len(), 3, "nobody, kubelet and kube-proxy");
    let (code, out) = check(with("hunter2"));
    assert_eq!(code, Some(69), "{out}");
    let said = format!(
        "problem: {}: through the proxy {}: it answered 407",
        node.api.url(),
        proxy.url()
    );
    assert!(out.contains(&said), "{out}");
    assert!(out.contains("check upstream.proxyURL"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_proxy_in_the_file_gets_new_connections_and_the_old_one_loses_its_own() {
    let (first, second) = (
        HttpProxy::start(Mode::Auth).await,
        HttpProxy::start(Mode::Open).await,
    );
    let mut node = Node::start().await;
    node.stop().await;
    node.api.put(config_map("shop", "a", "1"));
    let in_url = format!("http://me:{}@127.0.0.1:{}", "hunter2%3a%25", first.port);
    let path = node.write_config();
    std::fs::write(&path, through(&node, &format!("  proxyURL: \"{in_url}\"\n"))).unwrap();
    node.run(App::bind(config::load(&path).unwrap()).await.unwrap());
    live(&node).await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let version = node.api.revision().to_string();
    let mut watch = connection.lines(&watch_from(LIST, &version)).await.unwrap();
    node.api.put(config_map("shop", "b", "1"));
    assert_eq!(change(&mut watch).await.1, "b");
    assert_eq!((first.tunnels() > 0, second.tunnels()), (true, 0));

    std::fs::write(&path, through(&node, &format!("  proxyURL: {}\n", second.url()))).unwrap();
    eventually("all is with the second", || async {
        first.tunnels() == 0 && second.tunnels() > 0
    })
    .await;
    node.api.put(config_map("shop", "c", "1"));
    assert_eq!(change(&mut watch).await.1, "c");
    let (before, _) = (first.heads().len(), live(&node).await);
    std::fs::write(&path, node.config_text()).unwrap();
    eventually("nothing is with a proxy", || async { second.tunnels() == 0 }).await;
    live(&node).await;
    node.api.put(config_map("shop", "d", "1"));
    assert_eq!(change(&mut watch).await.1, "d");
    assert_eq!(first.heads().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_proxy_is_waited_for_and_a_silent_one_only_for_so_long() {
    let proxy = HttpProxy::start(Mode::Slow).await;
    let (node, _) = behind(&proxy, "").await;
    live(&node).await;
    node.settle().await;
    proxy.become_(Mode::Silent);
    let started = clock::now();
    let answer = node.kubelet().get(LIST).await;
    assert_eq!(answer.status, 200);
    // The proxy is there: only in a while is it known that the cloud is not.
    assert_eq!(answer.header("cache-status"), "edgehold; hit; detail=stale");
    assert!(clock::now() - started < Duration::from_secs(9));
    node.wait_link(LinkState::Offline).await;
    proxy.become_(Mode::Open);
    node.wait_link(LinkState::Online).await;
    live(&node).await;
    assert_eq!(names(&node.kubelet().get(LIST).await.json()), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_what_is_wrong_with_the_proxy_and_nobody_says_its_password() {
    let proxy = HttpProxy::start(Mode::Open).await;
    let node = Node::start().await;
    let file = password_file(&node, "me:hunter2\n");
    let fields = format!(
        "  proxyURL: {}\n  proxyCredentialsFile: {}\n",
        proxy.url(),
        file.display()
    );
    let text = through(&node, &fields);
    let cache = format!("store: file, path: {}", node.cache_dir().display());
    let path = node.dir.path().join("process.yaml");
    std::fs::write(
        &path,
        format!("{}log: {{level: trace}}\n", text.replace(&cache, "store: memory")),
    )
    .unwrap();
    let process = Process::run(&path);
    process
        .logged(&["the password for the proxy is open to everybody"])
        .await;
    let address = process.address().await;
    let client = node.client(Some(&node.pair("kubelet"))).at(address);
    assert_eq!(client.get(LIST).await.status, 200);
    let way = format!("{} through the proxy {}: ", node.api.addr(), proxy.url());
    for (mode, said) in [
        (
            Mode::Auth,
            "it answered 407 Proxy Authentication Required (see upstream.proxyCredentialsFile)",
        ),
        (
            Mode::Say("HTTP/1.1 403 hunter2\r\nContent-Length: 0\r\n\r\n"),
            "it answered 403 Forbidden",
        ),
        (
            Mode::Say("HTTP/1.1 502 Bad Gateway\r\n\r\n"),
            "it answered 502 Bad Gateway",
        ),
        (
            Mode::Say("HTTP/1.1 200 OK\r\n\r\nWelcome!"),
            "it sent something into the tunnel itself",
        ),
        (
            Mode::Say("SSH-2.0-OpenSSH_9.9\r\n"),
            "it did not answer CONNECT: ",
        ),
        (Mode::Close, "it did not answer CONNECT: "),
        (Mode::Silent, "no connection in "),
    ] {
        proxy.become_(mode);
        let refused = client.get(LIST).await;
        assert!(matches!(refused.status, 200 | 503), "{}", refused.text());
        process.logged(&["no way to a server", &way, said]).await;
    }
    proxy.become_(Mode::Open);
    process.logged(&["the way to a server is free again"]).await;
    let log = process.log();
    let encoded = STANDARD.encode("me:hunter2");
    assert!(!log.contains("hunter2") && !log.contains(&encoded), "{log}");
}
