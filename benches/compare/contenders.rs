//! Who is compared, and the upstream that all have in common.

#[path = "../../tests/it/child.rs"]
mod child;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver_standin::Options;
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use crate::load::{self, Load};
use crate::process;

pub use child::Child;

/// What is asked for.
pub const OBJECT: &str = "/api/v1/namespaces/huge/configmaps/cm-00000007";
pub const LIST: &str = "/api/v1/namespaces/huge/configmaps";

/// 20 MB.
const ITEMS: usize = 10_000;
const ITEM_SIZE: usize = 2000;

/// A proxy, or nothing between client and upstream.
#[derive(Debug, Clone)]
pub struct Contender {
    pub name: &'static str,
    pub address: SocketAddr,
    pid: Option<u32>,
}

impl Contender {
    pub fn is_proxy(&self) -> bool {
        self.pid.is_some()
    }

    /// Its processes now.
    pub fn pids(&self) -> Vec<u32> {
        self.pid.map(process::tree).unwrap_or_default()
    }
}

/// A program that ends with this.
pub struct Running(Process);

impl Running {
    /// Starts it and waits until it listens.
    pub fn start(command: &mut Command, address: SocketAddr) -> Self {
        let name = command.get_program().to_owned();
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{name:?}: {error}; benches/compare/run installs it"));
        let running = Self(process);
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "{name:?} does not listen on {address}");
            std::thread::sleep(Duration::from_millis(20));
        }
        running
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // With its workers, which SIGKILL would leave.
        let _asked = Command::new("kill").arg(self.0.id().to_string()).status();
        let _gone = self.0.wait();
    }
}

/// All of them in front of one upstream.
pub struct Field {
    runtime: Runtime,
    client: Arc<ClientConfig>,
    contenders: Vec<Contender>,
    edgehold: Child,
    upstream: Option<Running>,
    _proxies: Vec<Running>,
}

impl Field {
    /// Starts nginx with files as the upstream, and the proxies.
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut edgehold = {
            let _entered = runtime.enter();
            Child::prepare(Options::default())
        };
        let dir = edgehold.dir.path().to_owned();
        fs::create_dir(dir.join("www")).unwrap();
        fs::write(dir.join("www/object.json"), object(7)).unwrap();
        fs::write(dir.join("www/list.json"), list()).unwrap();
        let cloud = free_address();
        let upstream = nginx(&dir, "upstream", cloud, &upstream_config(&dir, cloud));
        edgehold.cloud = Some(format!("https://{cloud}"));
        runtime.block_on(edgehold.launch(&binary()));
        let mut contenders = vec![Contender {
            name: "direct",
            address: cloud,
            pid: None,
        }];
        let proxies = proxies(&dir, cloud);
        for (name, address, running) in &proxies {
            contenders.push(Contender {
                name,
                address: *address,
                pid: Some(running.id()),
            });
        }
        contenders.push(Contender {
            name: "edgehold",
            address: edgehold.address(),
            pid: Some(edgehold.id()),
        });
        Self {
            client: client(&edgehold),
            runtime,
            contenders,
            edgehold,
            upstream: Some(upstream),
            _proxies: proxies.into_iter().map(|(_, _, running)| running).collect(),
        }
    }

    pub fn contenders(&self) -> &[Contender] {
        &self.contenders
    }

    pub fn edgehold(&self) -> Contender {
        self.contenders.last().expect("edgehold").clone()
    }

    pub fn direct(&self) -> Contender {
        self.contenders[0].clone()
    }

    /// Waits until edgehold has kept the list.
    pub fn recorded(&self) {
        self.runtime.block_on(self.edgehold.recorded(1));
    }

    /// The upstream goes away.
    pub fn cut(&mut self) {
        self.upstream = None;
    }

    /// Requests to one of them.
    pub fn load(&self, to: &Contender, path: &str, connections: usize, time: Duration) -> Load {
        let running = load::run(Arc::clone(&self.client), to.address, path, connections, time);
        self.runtime.block_on(LocalSet::new().run_until(running))
    }
}

/// nginx and HAProxy in front of `cloud`, with the certificates that [`Child::prepare`] wrote.
pub fn proxies(dir: &Path, cloud: SocketAddr) -> Vec<(&'static str, SocketAddr, Running)> {
    let [first, second] = [free_address(), free_address()];
    let haproxy_config = dir.join("haproxy.cfg");
    fs::write(&haproxy_config, haproxy_text(dir, second, cloud)).unwrap();
    vec![
        (
            "nginx",
            first,
            nginx(dir, "nginx", first, &nginx_text(dir, first, cloud)),
        ),
        (
            "HAProxy",
            second,
            Running::start(Command::new("haproxy").arg("-f").arg(haproxy_config), second),
        ),
    ]
}

/// What is measured as edgehold: the release build, or `COMPARE_EDGEHOLD`, another build.
pub fn binary() -> PathBuf {
    std::env::var_os("COMPARE_EDGEHOLD").map_or_else(|| env!("CARGO_BIN_EXE_edgehold").into(), PathBuf::from)
}

/// A client with the certificate of [`Child::client`].
fn client(edgehold: &Child) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(edgehold.api.pki().ca_der()).unwrap();
    let pair = edgehold.pair();
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(pair.chain(), pair.key())
        .unwrap();
    Arc::new(config)
}

pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
}

fn object(number: usize) -> String {
    format!(
        r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"cm-{number:08}","namespace":"huge","uid":"00000000-0000-4000-8000-{number:012}","resourceVersion":"{}"}},"data":{{"value":"{}"}}}}"#,
        1000 + number,
        "x".repeat(ITEM_SIZE - 200)
    )
}

fn list() -> Vec<u8> {
    let mut text =
        br#"{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"20000"},"items":["#
            .to_vec();
    for number in 0..ITEMS {
        let item = object(number).replace(r#""kind":"ConfigMap","apiVersion":"v1","#, "");
        write!(text, "{}{item}", if number > 0 { "," } else { "" }).unwrap();
    }
    text.extend_from_slice(b"]}");
    text
}

fn nginx(dir: &Path, name: &str, address: SocketAddr, text: &str) -> Running {
    let (config, prefix) = (dir.join(format!("{name}.conf")), dir.join(name));
    fs::create_dir(&prefix).unwrap();
    fs::write(&config, text).unwrap();
    let mut command = Command::new("nginx");
    command
        .arg("-e")
        .arg(dir.join(format!("{name}.log")))
        .arg("-p")
        .arg(prefix)
        .arg("-c")
        .arg(config);
    Running::start(&mut command, address)
}

/// What all of nginx's configurations begin with. Its workers run as who began it: the directory is nobody else's.
fn nginx_head(dir: &Path, name: &str) -> String {
    let mut text = format!(
        "daemon off;\nworker_processes auto;\npid {}/{name}.pid;\n",
        dir.display()
    );
    if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        text.push_str("user root;\n");
    }
    text.push_str("events { worker_connections 8192; }\nhttp {\naccess_log off;\n");
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(text, "{kind}_temp_path {}/{name}/{kind};", dir.display()).unwrap();
    }
    // By default a connection ends after a thousand requests or a minute: nobody else's does.
    text.push_str("keepalive_requests 100000000;\nkeepalive_timeout 1h;\ntcp_nodelay on;\n");
    text
}

fn upstream_config(dir: &Path, address: SocketAddr) -> String {
    let (head, dir) = (nginx_head(dir, "upstream"), dir.display());
    format!(
        "{head}open_file_cache max=100;\ndefault_type application/json;\nserver {{
listen {address} ssl http2;
http2_max_concurrent_streams 250;
ssl_certificate {dir}/serving.crt;
ssl_certificate_key {dir}/serving.key;
ssl_verify_client optional;
ssl_client_certificate {dir}/ca.crt;
add_header Audit-Id $request_id always;
add_header Cache-Control \"no-cache, private\" always;
location = {OBJECT} {{ alias {dir}/www/object.json; }}
location = {LIST} {{ alias {dir}/www/list.json; }}
location / {{ return 200 'ok'; }}
}}\n}}\n"
    )
}

fn nginx_text(dir: &Path, address: SocketAddr, cloud: SocketAddr) -> String {
    let (head, dir) = (nginx_head(dir, "nginx"), dir.display());
    format!(
        "{head}upstream cloud {{ server {cloud}; keepalive 64; keepalive_requests 100000000; keepalive_timeout 1h; }}
server {{
listen {address} ssl http2;
ssl_certificate {dir}/serving.crt;
ssl_certificate_key {dir}/serving.key;
ssl_verify_client on;
ssl_client_certificate {dir}/ca.crt;
location / {{
proxy_pass https://cloud;
proxy_http_version 1.1;
proxy_set_header Connection '';
proxy_set_header Host $http_host;
proxy_ssl_certificate {dir}/client.crt;
proxy_ssl_certificate_key {dir}/client.key;
proxy_ssl_verify on;
proxy_ssl_trusted_certificate {dir}/ca.crt;
proxy_ssl_name localhost;
proxy_buffering off;
proxy_read_timeout 1h;
}}\n}}\n}}\n"
    )
}

fn haproxy_text(dir: &Path, address: SocketAddr, cloud: SocketAddr) -> String {
    for name in ["serving", "client"] {
        let parts =
            ["crt", "key"].map(|kind| fs::read_to_string(dir.join(format!("{name}.{kind}"))).unwrap());
        fs::write(dir.join(format!("{name}.pem")), parts.concat()).unwrap();
    }
    let dir = dir.display();
    format!(
        "global
maxconn 4000
defaults
mode http
timeout connect 5s
timeout client 1h
timeout server 1h
frontend node
bind {address} ssl crt {dir}/serving.pem ca-file {dir}/ca.crt verify required alpn h2,http/1.1
default_backend cloud
backend cloud
http-reuse always
server apiserver {cloud} ssl crt {dir}/client.pem ca-file {dir}/ca.crt verify required verifyhost localhost alpn h2,http/1.1\n"
    )
}
