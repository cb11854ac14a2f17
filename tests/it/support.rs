//! A node under test: edgehold in this process on port 0, in front of a stand-in apiserver.
//!
//! ```ignore
//! let mut node = Node::start().await;                 // stand-in + edgehold, kubelet and kube-proxy configured
//! let kubelet = node.kubelet();                       // a client with the kubelet's certificate, to edgehold
//! kubelet.get("/api/v1/configmaps").await;
//! node.cut().await;                                   // the cloud refuses; waits until edgehold knows
//! node.restart().await;                               // edgehold stops cleanly and starts again on the same cache
//! node.heal().await;                                  // the cloud is back; waits until edgehold knows
//! ```

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use apiserver_standin::{Answer, Client, Existing, Fault, Lines, Options, Pair, Protocol, Standin, secrets};
use edgehold::app::{App, Running};
use edgehold::config;
use edgehold::runtime::clock;
use edgehold::server::{Rejected, ServerMetrics};
use edgehold::upstream::LinkState;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::leaks;

/// How long anything in a test may take before it counts as not happening.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The common name of the kubelet of every test node.
pub const KUBELET: &str = "system:node:edge-1";

/// The versions of HTTP that clients speak.
pub const PROTOCOLS: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// Changes to the default configuration of a test node.
#[derive(Debug, Clone)]
pub struct Setup {
    /// `upstream.responseTimeout`.
    pub response_timeout: &'static str,
    /// `upstream.connectTimeout`.
    pub connect_timeout: &'static str,
    /// `upstream.probe.interval`; short, so that tests notice the cloud's return soon.
    pub probe_interval: &'static str,
    /// `upstream.probe.timeout`.
    pub probe_timeout: &'static str,
    /// `listen.addresses`.
    pub addresses: &'static [&'static str],
    /// `limits` of the kubelet, as YAML.
    pub kubelet_limits: Option<&'static str>,
    /// `defaultClient.limits`, as YAML.
    pub default_limits: Option<&'static str>,
    /// `inCluster`, as YAML.
    pub in_cluster: Option<&'static str>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            response_timeout: "5s",
            connect_timeout: "2s",
            probe_interval: "100ms",
            probe_timeout: "2s",
            addresses: &["127.0.0.1:0"],
            kubelet_limits: None,
            default_limits: None,
            in_cluster: None,
        }
    }
}

/// A stand-in apiserver and an edgehold in front of it.
pub struct Node {
    /// The cloud.
    pub api: Standin,
    /// Configuration, certificates and cache.
    pub dir: tempfile::TempDir,
    setup: Setup,
    running: Option<Running>,
    /// Whether the cloud was cut off and has not come back.
    away: AtomicBool,
}

impl Node {
    /// The default node: everything is allowed to everybody.
    pub async fn start() -> Self {
        Self::with(Options::default(), Setup::default()).await
    }

    /// A node with another stand-in or configuration.
    pub async fn with(options: Options, setup: Setup) -> Self {
        let api = Standin::start(options);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pki = api.pki();
        pki.server(&["localhost", "127.0.0.1", "::1"])
            .write_to(dir.path(), "serving");
        pki.client(Some(KUBELET), &["system:nodes"])
            .write_to(dir.path(), "kubelet");
        pki.client(Some("system:kube-proxy"), &[])
            .write_to(dir.path(), "kube-proxy");
        pki.write_ca(dir.path(), "ca");
        let mut node = Self {
            api,
            dir,
            setup,
            running: None,
            away: AtomicBool::new(false),
        };
        node.launch().await;
        node
    }

    /// Starts edgehold on what is in the directory.
    pub async fn launch(&mut self) {
        let text = self.config_text();
        self.launch_text(&text).await;
    }

    /// Starts edgehold with another configuration.
    pub async fn launch_text(&mut self, text: &str) {
        leaks::watch_log();
        let config = config::parse(text, "test.yaml").unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let app = loop {
            match App::bind(config.clone()).await {
                Ok(app) => break app,
                // A process that another test is starting right now has a copy of every descriptor, locks included,
                // until it has become what it will be.
                Err(error) if format!("{error:#}").contains("is locked") => {
                    assert!(tokio::time::Instant::now() < deadline, "{error:#}");
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error:#}"),
            }
        };
        self.running = Some(app.spawn());
    }

    /// Starts an edgehold that has been bound.
    pub fn run(&mut self, app: App) {
        self.running = Some(app.spawn());
    }

    /// The configuration of this node as YAML.
    pub fn config_text(&self) -> String {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let Setup {
            response_timeout,
            connect_timeout,
            probe_interval,
            probe_timeout,
            addresses,
            kubelet_limits,
            default_limits,
            in_cluster,
        } = &self.setup;
        let mut text = format!(
            "apiVersion: edgehold/v1alpha1\nkind: ProxyConfiguration\nlisten:\n  addresses: {addresses:?}\n  tls: \
             {{certFile: {}, keyFile: {}, clientCAFile: {}}}\nupstream:\n  servers: [\"https://{}\"]\n  caFile: {}\n  \
             connectTimeout: {connect_timeout}\n  responseTimeout: {response_timeout}\n  probe: {{interval: \
             {probe_interval}, timeout: {probe_timeout}}}\nadmin: {{address: \"unix:{}\"}}\n\
             cache: {{store: file, path: {}}}\nclients:\n",
            file("serving.crt"),
            file("serving.key"),
            file("ca.crt"),
            self.api.addr(),
            file("ca.crt"),
            file("admin.sock"),
            file("cache"),
        );
        for (name, pair) in [(KUBELET, "kubelet"), ("system:kube-proxy", "kube-proxy")] {
            let (cert, key) = (file(&format!("{pair}.crt")), file(&format!("{pair}.key")));
            let limits = kubelet_limits.filter(|_| name == KUBELET);
            let limits = limits
                .map(|limits| format!(", limits: {limits}"))
                .unwrap_or_default();
            writeln!(
                text,
                "- {{commonName: \"{name}\", certFile: {cert}, keyFile: {key}{limits}}}"
            )
            .unwrap();
        }
        if let Some(limits) = default_limits {
            writeln!(text, "defaultClient: {{limits: {limits}}}").unwrap();
        }
        if let Some(in_cluster) = in_cluster {
            writeln!(text, "inCluster: {in_cluster}").unwrap();
        }
        text
    }

    /// The running edgehold.
    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("edgehold is running")
    }

    /// The cache directory.
    pub fn cache_dir(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// The pair that the test wrote as `NAME.crt` and `NAME.key`.
    pub fn pair(&self, name: &str) -> Pair {
        let read =
            |ending: &str| std::fs::read_to_string(self.dir.path().join(format!("{name}.{ending}"))).unwrap();
        Pair {
            cert_pem: read("crt"),
            key_pem: read("key"),
        }
    }

    /// A client of edgehold with the kubelet's certificate.
    pub fn kubelet(&self) -> Client {
        self.client(Some(&self.pair("kubelet")))
    }

    /// A client of edgehold with any certificate, or none.
    pub fn client(&self, pair: Option<&Pair>) -> Client {
        let address = self.running().addresses()[0];
        Client::new(address, self.api.ca_pem(), pair)
    }

    /// A client of edgehold without certificate that shows a token.
    pub fn token_client(&self, token: &str) -> Client {
        self.client(None).token(token)
    }

    /// Waits until everything recorded is on disk.
    pub async fn settle(&self) {
        self.running().settle().await;
    }

    /// Waits until edgehold sees the link in this state.
    pub async fn wait_link(&self, state: LinkState) {
        let mut link = self.running().link();
        let reached = tokio::time::timeout(DEADLINE, link.wait_for(|now| *now == state)).await;
        assert!(reached.is_ok(), "the link did not become {}", state.as_str());
    }

    /// The cloud refuses connections and resets the open ones. Returns when edgehold knows.
    pub async fn cut(&self) {
        self.settle().await;
        self.api.fault(Fault::Refuse(Existing::Cut));
        self.away.store(true, Ordering::Relaxed);
        self.notice().await;
    }

    /// Returns when edgehold knows that the cloud is away.
    async fn notice(&self) {
        if *self.running().link().borrow() != LinkState::Offline {
            // Something has to fail for edgehold to notice; this fails whoever asks.
            let _any = self.client(None).send("GET", "/version?cut", "").await;
        }
        self.wait_link(LinkState::Offline).await;
    }

    /// The cloud is back. Returns when edgehold knows.
    pub async fn heal(&self) {
        if self.away.swap(false, Ordering::Relaxed) {
            // One that was started meanwhile believes in the cloud until something fails.
            self.notice().await;
        }
        self.api.clear_faults();
        self.wait_link(LinkState::Online).await;
    }

    /// Stops edgehold cleanly.
    pub async fn stop(&mut self) {
        self.search_outputs();
        if let Some(running) = self.running.take() {
            let stopped = tokio::time::timeout(DEADLINE, running.stop()).await;
            assert!(stopped.is_ok(), "edgehold did not stop in time");
        }
    }

    /// Stops edgehold cleanly and starts it again on the same files.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.launch().await;
    }
}

impl Node {
    /// What is not said but can be seen from outside.
    fn search_outputs(&self) {
        let metrics = self
            .running
            .as_ref()
            .and_then(|running| running.metrics_text().ok());
        secrets::search("the metrics", metrics.unwrap_or_default().as_bytes());
        leaks::search_names(self.dir.path());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.search_outputs();
    }
}

/// A GET over HTTP/1.1 and one over HTTP/2, which must get the same status from the same place. Gives the second
/// answer.
pub async fn get_on_both(client: &Client, target: &str) -> Answer {
    let [first, second] = PROTOCOLS.map(|protocol| client.clone().protocol(protocol));
    let (first, second) = (first.get(target).await, second.get(target).await);
    let what = |answer: &Answer| (answer.status, answer.header("cache-status").to_owned());
    assert_eq!(what(&first), what(&second), "{target}: {}", second.text());
    second
}

/// A ConfigMap for the stand-in.
pub fn config_map(namespace: &str, name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": "web"}},
        "data": {"k": value},
    })
}

/// The names of the items of a list answer, in order.
pub fn names(list: &Value) -> Vec<String> {
    let items = list["items"]
        .as_array()
        .unwrap_or_else(|| panic!("no list: {list}"));
    items
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

/// All files below a directory.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path)
            } else {
                found.push(path)
            }
        }
    }
    found
}

/// Waits until a condition holds that nothing announces; `what` says which one did not.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let trying = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(
        tokio::time::timeout(DEADLINE, trying).await.is_ok(),
        "never: {what}"
    );
}

/// How many connections the listener has closed for this reason.
pub fn rejected(metrics: &ServerMetrics, reason: &'static str) -> u64 {
    let rejected = metrics.rejected.get_or_create(&Rejected { reason });
    rejected.get()
}

impl Node {
    /// Writes the configuration of this node to a file, for a process of its own.
    pub fn write_config(&self) -> PathBuf {
        let path = self.dir.path().join("edgehold.yaml");
        let written = std::fs::File::create(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, self.config_text().as_bytes()));
        written.unwrap();
        path
    }
}

/// The target of a watch-list of this collection, as client-go 0.35 and later send it.
pub fn watch_list(collection: &str) -> String {
    let separator = if collection.contains('?') { '&' } else { '?' };
    format!(
        "{collection}{separator}watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
         &allowWatchBookmarks=true&timeoutSeconds=600"
    )
}

/// The target of a plain watch of this collection from a version on.
pub fn watch_from(collection: &str, version: &str) -> String {
    let separator = if collection.contains('?') { '&' } else { '?' };
    format!("{collection}{separator}watch=true&resourceVersion={version}&allowWatchBookmarks=true")
}

/// The resourceVersion of an object or a list.
pub fn version(object: &Value) -> String {
    let version = object["metadata"]["resourceVersion"].as_str();
    version
        .unwrap_or_else(|| panic!("no version: {object}"))
        .to_owned()
}

/// Type, name and resourceVersion of a watch event; a bookmark has no name.
pub fn told(event: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &event["object"];
    (
        text(&event["type"]),
        text(&object["metadata"]["name"]),
        text(&object["metadata"]["resourceVersion"]),
    )
}

/// The next event of a stream that must have one.
pub async fn event(watch: &mut Lines) -> Value {
    match watch.next().await {
        Ok(Some(event)) => event,
        Ok(None) => panic!("the watch has ended"),
        Err(error) => panic!("the watch broke: {error}"),
    }
}

/// Type and name of the next change; a bookmark may come at any time before it.
pub async fn change(watch: &mut Lines) -> (String, String) {
    loop {
        let (change, name, _) = told(&event(watch).await);
        if change != "BOOKMARK" {
            return (change, name);
        }
    }
}

/// What is left of a stream up to its clean end.
pub async fn rest(watch: &mut Lines) -> Vec<Value> {
    let mut events = Vec::new();
    while let Some(event) = watch.next().await.expect("a clean end") {
        events.push(event);
    }
    events
}

/// Whether a bookmark ends the initial events.
pub fn ends_initial(event: &Value) -> bool {
    event["type"] == "BOOKMARK"
        && event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true"
}

/// The answer to a list that is in the cache, offline. A list that has just been read is recorded by the time the
/// link is seen to be gone, but for a scheduling delay.
pub async fn offline_list(client: &Client, target: &str) -> Value {
    let started = clock::now();
    loop {
        let answer = client.get(target).await;
        if answer.status == 200 {
            assert_eq!(answer.header("cache-status"), "edgehold; hit; detail=offline");
            return answer.json();
        }
        assert!(clock::now() - started < DEADLINE, "{}", answer.text());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A request body that a test makes itself: streamed, slow, or with trailers.
pub type TestBody = UnsyncBoxBody<bytes::Bytes, std::convert::Infallible>;

/// A bare TLS connection to `address`, for tests that write and read bytes themselves.
pub async fn tls(address: SocketAddr, ca_pem: &str, pair: Option<&Pair>, alpn: &str) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    shake(stream, ca_pem, pair, alpn).await.unwrap()
}

/// The same on a connection that is there.
pub async fn shake(
    stream: TcpStream,
    ca_pem: &str,
    pair: Option<&Pair>,
    alpn: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(cert.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match pair {
        Some(pair) => builder.with_client_auth_cert(pair.chain(), pair.key()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

impl Node {
    /// A bare TLS connection to edgehold with the kubelet's certificate.
    pub async fn kubelet_tls(&self, alpn: &str) -> TlsStream<TcpStream> {
        let address = self.running().addresses()[0];
        tls(address, self.api.ca_pem(), Some(&self.pair("kubelet")), alpn).await
    }

    /// An answer on a connection of its own with a small window, which is not read.
    #[allow(clippy::disallowed_methods)] // a test's own task
    pub async fn unread(&self, pair: &Pair, target: &str) -> http::Response<hyper::body::Incoming> {
        let address = self.running().addresses()[0];
        let stream = tls(address, self.api.ca_pem(), Some(pair), "h2").await;
        let mut small = http2::Builder::new(TokioExecutor::new());
        small.initial_stream_window_size(65_535);
        let (mut sender, driver) = small.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(driver);
        let request = http::Request::get(format!("https://edgehold{target}"));
        let request = request
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap();
        sender.send_request(request).await.unwrap()
    }

    /// One HTTP/2 connection to edgehold with the kubelet's certificate, for any number of requests at once.
    #[allow(clippy::disallowed_methods)] // a test's own task
    pub async fn kubelet_http2(&self) -> http2::SendRequest<TestBody> {
        let stream = TokioIo::new(self.kubelet_tls("h2").await);
        let (sender, driver) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(driver);
        sender
    }

    /// Starts edgehold again with the stand-in's address replaced by another.
    pub async fn relaunch_towards(&mut self, upstream: SocketAddr) {
        self.stop().await;
        let text = self
            .config_text()
            .replace(&self.api.addr().to_string(), &upstream.to_string());
        let config = config::parse(&text, "test.yaml").unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        self.running = Some(App::bind(config).await.unwrap().spawn());
    }
}

/// What every answer from the cache carries while the cloud is away.
pub const HIT: &str = "edgehold; hit; detail=offline";

/// What one carries while the cloud may be there.
pub const STALE: &str = "edgehold; hit; detail=stale";

/// `Accept` of a client that wants protobuf and nothing else.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// `Accept` of `kubectl get`.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// `Accept` of a metadata-only informer.
pub const METADATA: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

impl Node {
    /// A client of the stand-in itself with the kubelet's certificate: what the truth is.
    pub fn direct(&self) -> Client {
        Client::new(self.api.addr(), self.api.ca_pem(), Some(&self.pair("kubelet")))
    }

    /// The status of a GET as the kubelet.
    pub async fn status(&self, target: &str) -> u16 {
        self.kubelet().get(target).await.status
    }

    /// How often the cloud was asked for something that begins like this.
    pub fn asked(&self, method: &str, target: &str) -> usize {
        let seen = self.api.requests();
        seen.iter()
            .filter(|seen| seen.method == method && seen.target.starts_with(target))
            .count()
    }
}

/// Whether any file below a directory contains these bytes.
pub fn is_on_disk(dir: &Path, needle: &str) -> bool {
    files_below(dir).iter().any(|path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(needle.len()).any(|part| part == needle.as_bytes())
    })
}

impl Node {
    /// Starts another stand-in, which may take the same port, and gives the one that was there.
    pub fn replace_cloud(&mut self, options: Options) -> Standin {
        std::mem::replace(&mut self.api, Standin::start(options))
    }
}

/// Writes a file that only its owner can read.
pub fn write_secret(path: &Path, content: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let opened = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    std::io::Write::write_all(&mut opened.unwrap(), content.as_bytes()).unwrap();
}

/// Numbers that follow from a seed (xorshift64*).
pub struct Dice {
    /// To be told when the test fails.
    seed: Option<u64>,
    state: u64,
}

impl Dice {
    /// From `EDGEHOLD_SEED`, or one that is new each time; it is printed when the test fails.
    pub fn from_environment() -> Self {
        let now = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap();
        Self::from_environment_or(u64::from(now.subsec_nanos()) ^ now.as_secs())
    }

    /// From `EDGEHOLD_SEED`, or this one.
    pub fn from_environment_or(seed: u64) -> Self {
        let asked = std::env::var("EDGEHOLD_SEED").ok();
        let seed = asked.map_or(seed, |seed| seed.parse().expect("EDGEHOLD_SEED is a number"));
        let mut dice = Self::new(seed);
        dice.seed = Some(seed);
        dice
    }

    /// From this one, which others have given.
    pub fn new(seed: u64) -> Self {
        Self {
            seed: None,
            state: seed.wrapping_mul(2).wrapping_add(1),
        }
    }

    /// Below a limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    /// True so many times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

impl Drop for Dice {
    fn drop(&mut self) {
        if let Some(seed) = self.seed.filter(|_| std::thread::panicking()) {
            eprintln!("EDGEHOLD_SEED={seed}");
        }
    }
}
