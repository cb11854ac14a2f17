//! The listener as clients meet it: handshakes, protocols, those who mean no good, and limits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver_standin::{Client, Options, Pki};
use edgehold::cache::{Cache, CacheConfig, StoredIssuer, StoredTokens};
use edgehold::proxy::{Pace, Parts, Proxy};
use edgehold::runtime::tasks::Tasks;
use edgehold::server::{Listener, ListenerConfig, ServerMetrics};
use edgehold::store::{LogStore, Store};
use edgehold::tls::{self, Certificates, PairPaths, TrustedTime};
use edgehold::upstream::{
    Compression, DialSettings, Endpoint, KeepAlive, Link, ProbeSettings, Settings, Strategy, Transports,
    Trust, UpstreamMetrics,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::process::Process;
use crate::support::{DEADLINE, Node, PROTOCOLS, Setup, eventually, rejected};

/// A handshake that offers these versions and protocols, without a client certificate.
async fn shake(
    address: SocketAddr,
    ca_pem: &str,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::IpAddress(address.ip().into());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Reads until the other side closes; what came is returned.
pub async fn read_to_close(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut read = Vec::new();
    let closed = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut read)).await;
    // A reset is a close as well.
    assert!(closed.is_ok(), "the connection was not closed");
    read
}

const ALL: &[&SupportedProtocolVersion] = rustls::ALL_VERSIONS;

#[tokio::test(flavor = "multi_thread")]
async fn every_configured_address_serves() {
    let setup = Setup {
        addresses: &["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"],
        ..Setup::default()
    };
    let node = Node::with(Options::default(), setup).await;
    let addresses = node.running().addresses().to_vec();
    assert_eq!(addresses.len(), 3);
    // The serving certificate names 127.0.0.1 and ::1; one that is not named must fail at the name, not at the port.
    for address in [addresses[0], addresses[2]] {
        let client = Client::new(address, node.api.ca_pem(), Some(&node.pair("kubelet")));
        assert_eq!(client.get("/version").await.status, 200, "{address}");
    }
    let unnamed = shake(addresses[1], node.api.ca_pem(), ALL, &["h2"]).await;
    let error = unnamed.unwrap_err().to_string();
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_and_1_3_are_spoken_and_both_http_versions_are_agreed_on() {
    let node = Node::start().await;
    let address = node.running().addresses()[0];
    let versions = [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ];
    for (offered, agreed) in versions {
        for (alpn, expected) in [
            (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
            (&["http/1.1"], Some(b"http/1.1")),
            (&[], None),
        ] {
            let mut stream = shake(address, node.api.ca_pem(), &[offered], alpn).await.unwrap();
            let session = stream.get_ref().1;
            assert_eq!(session.protocol_version(), Some(agreed));
            assert_eq!(session.alpn_protocol(), expected);
            if expected != Some(b"h2") {
                let request = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
                stream.write_all(request).await.unwrap();
                let answer = read_to_close(&mut stream).await;
                assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{alpn:?}");
            }
        }
    }
    let neither = shake(address, node.api.ca_pem(), ALL, &["spdy/3"]).await;
    assert!(neither.is_err(), "a protocol that nobody speaks here");
    eventually("counted", || async {
        rejected(node.running().metrics(), "incompatible") == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_optional_and_one_of_a_foreign_authority_is_refused_by_the_handshake() {
    let node = Node::start().await;
    assert_eq!(node.client(None).get("/version").await.status, 200);
    assert_eq!(node.kubelet().get("/version").await.status, 200);
    let requests = node.api.counters().requests_total;

    let foreign = Pki::named("kubernetes").client(Some(crate::support::KUBELET), &["system:nodes"]);
    for protocol in PROTOCOLS {
        let refused = node.client(Some(&foreign)).protocol(protocol);
        assert!(refused.send("GET", "/version", "").await.is_err(), "{protocol:?}");
    }
    // A serving certificate of the right authority is no client certificate.
    let server = node.api.pki().server(&[]);
    let refused = node.client(Some(&server)).send("GET", "/version", "").await;
    assert!(refused.is_err());
    eventually("all three are counted", || async {
        rejected(node.running().metrics(), "bad_certificate") == 3
    })
    .await;
    assert_eq!(
        node.api.counters().requests_total,
        requests,
        "nothing was asked for them"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_is_closed_and_counted_and_others_are_served_meanwhile() {
    let node = Node::start().await;
    let address = node.running().addresses()[0];
    let garbage: [&[u8]; 3] = [
        b"GET /api/v1/secrets HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0xff; 64],
    ];
    for bytes in garbage {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let answer = read_to_close(&mut stream).await;
        assert!(!answer.starts_with(b"HTTP"), "no answer in clear text");
    }
    eventually("all three are counted", || async {
        rejected(node.running().metrics(), "not_tls") == 3
    })
    .await;
    assert_eq!(node.client(None).get("/version").await.status, 200);
    let text = node.running().metrics_text().unwrap();
    assert!(
        text.contains("edgehold_connections_rejected_total{reason=\"not_tls\"} 3"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_in_the_handshake_is_counted_as_gone() {
    let node = Node::start().await;
    drop(TcpStream::connect(node.running().addresses()[0]).await.unwrap());
    eventually("counted", || async {
        rejected(node.running().metrics(), "closed") == 1
    })
    .await;
}

/// A listener with limits of its own before a cloud that is not there.
pub struct Front {
    pub address: SocketAddr,
    pub metrics: ServerMetrics,
    pki: Pki,
    tasks: Tasks,
    _certificates: Certificates,
    _dir: tempfile::TempDir,
}

impl Front {
    pub async fn start(limits: impl FnOnce(&mut ListenerConfig)) -> Self {
        let (dir, pki, tasks, time) = (
            tempfile::tempdir().unwrap(),
            Pki::new(),
            Tasks::new(),
            TrustedTime::new(),
        );
        let (cert, key) = pki.server(&[]).write_to(dir.path(), "serving");
        let certificates = Certificates::bind(tls::Config {
            serving: PairPaths { cert, key }.into(),
            serving_before: None,
            client_ca: pki.write_ca(dir.path(), "ca"),
            client_ca_more: None,
            client_crl: None,
            upstream_ca: None,
            upstream_ca_more: None,
            clients: Vec::new(),
            reload_interval: Duration::from_secs(1800),
            retry_interval: Duration::from_secs(1),
        });
        let mut config = ListenerConfig {
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            max_connections: 100,
            handshake_timeout: DEADLINE * 3,
            header_timeout: DEADLINE * 3,
            drain_timeout: Duration::from_secs(1),
            write_timeout: DEADLINE * 3,
        };
        limits(&mut config);
        let bound = Listener::bind(config).await.unwrap();
        let (address, metrics) = (bound.addresses()[0], ServerMetrics::default());
        let proxy = Arc::new(proxy(&certificates, &time, &tasks));
        bound.spawn(&proxy, &certificates.server_material(), &time, &metrics, &tasks);
        Self {
            address,
            metrics,
            pki,
            tasks,
            _certificates: certificates,
            _dir: dir,
        }
    }

    pub async fn shake(&self, alpn: &str) -> TlsStream<TcpStream> {
        shake(self.address, self.pki.ca_pem(), ALL, &[alpn])
            .await
            .unwrap()
    }

    async fn counted(&self, reason: &'static str, times: u64) {
        eventually(reason, || async { rejected(&self.metrics, reason) == times }).await;
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

fn proxy(certificates: &Certificates, time: &Arc<TrustedTime>, tasks: &Tasks) -> Proxy {
    let settings = Settings {
        servers: vec![Endpoint::new("127.0.0.1", 1).unwrap()],
        strategy: Strategy::Priority,
        probe: ProbeSettings {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            failure_threshold: 1,
            success_threshold: 1,
        },
        response_timeout: Duration::from_secs(5),
        compression: Compression::Auto,
        trust: Trust::Audited,
        dial: DialSettings {
            connect_timeout: Duration::from_secs(2),
            proxy: None,
            interfaces: Vec::new(),
            keep_alive: KeepAlive::default(),
        },
    };
    let link = Link::new(settings, UpstreamMetrics::default());
    let store: Arc<dyn Store> = Arc::new(LogStore::memory().unwrap());
    let tokens = StoredTokens::open(&store, tasks).unwrap();
    let cache = CacheConfig {
        spool: None,
        node_key: tokens.node_key().clone(),
        reviews: Duration::ZERO,
    };
    let roots = certificates.upstream_roots();
    Proxy::new(Parts {
        transports: Transports::spawn(&link, &roots, Vec::new(), time, tasks),
        link,
        cache: Cache::new(Arc::clone(&store), cache, tasks.clone()),
        tokens,
        issuer: StoredIssuer::open(&store, Vec::new(), tasks).unwrap(),
        time: Arc::clone(time),
        pace: Pace::every(Duration::from_millis(25)),
        limits: edgehold::proxy::Limits::default(),
        priorities: edgehold::proxy::Priorities::default(),
        filters: edgehold::filter::Filters::default(),
        metrics: edgehold::proxy::ProxyMetrics::default(),
        tasks: tasks.clone(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_shakes_hands_is_closed_after_the_handshake_timeout() {
    let front = Front::start(|config| config.handshake_timeout = Duration::from_millis(200)).await;
    let mut silent = TcpStream::connect(front.address).await.unwrap();
    let mut halting = TcpStream::connect(front.address).await.unwrap();
    // The beginning of a ClientHello.
    halting.write_all(&[0x16, 0x03, 0x01, 0x01, 0x00]).await.unwrap();
    assert!(read_to_close(&mut silent).await.is_empty());
    read_to_close(&mut halting).await;
    front.counted("timeout", 2).await;
    assert_eq!(front.metrics.accepted.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_shakes_hands_and_asks_nothing_is_closed_on_both_protocols() {
    let front = Front::start(|config| config.header_timeout = Duration::from_millis(200)).await;
    for alpn in ["http/1.1", "h2"] {
        let mut stream = front.shake(alpn).await;
        read_to_close(&mut stream).await;
    }
    eventually("none is left open", || async { front.metrics.open.get() == 0 }).await;
    assert_eq!(front.metrics.accepted.get(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_comes_byte_by_byte_is_cut_off_at_the_header_timeout() {
    let front = Front::start(|config| config.header_timeout = Duration::from_millis(500)).await;
    let stream = front.shake("http/1.1").await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let slow = async {
        let header = b"GET /version HTTP/1.1\r\nHost: x\r\nX-Slow: "
            .iter()
            .chain(std::iter::repeat(&b'a'));
        for byte in header {
            // Never silent for long, never done.
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answer = tokio::select! {
        answer = read_to_close(&mut reader) => answer,
        () = slow => Vec::new(),
    };
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    eventually("it is closed", || async { front.metrics.open.get() == 0 }).await;

    // The same on a connection that has been served before.
    let mut stream = front.shake("http/1.1").await;
    stream
        .write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\nGET /ver")
        .await
        .unwrap();
    let answer = read_to_close(&mut stream).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 503"),
        "the whole request was answered: there is no cloud"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_cap_the_longest_idle_connection_makes_room() {
    for alpn in ["h2", "http/1.1"] {
        // Two handshakes, six strangers of whom no source has more than three, eight configured clients.
        let front = Front::start(|config| config.max_connections = 16).await;
        let mut first = front.shake(alpn).await;
        let mut second = front.shake(alpn).await;
        let _third = front.shake(alpn).await;
        let _fourth = front.shake(alpn).await;
        read_to_close(&mut first).await;
        front.counted("too_many_connections", 1).await;

        // Whoever only connects keeps nobody from it.
        let mut idle = Vec::new();
        for _ in 0..12 {
            idle.push(TcpStream::connect(front.address).await.unwrap());
        }
        front.counted("too_many_connections", 11).await;
        assert!(read_to_close(&mut idle[0]).await.is_empty());
        let _fifth = front.shake(alpn).await;
        // One that hands are shaken with no more, and the second.
        front.counted("too_many_connections", 13).await;
        read_to_close(&mut second).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_out_of_file_descriptors_ends_nothing_and_service_goes_on_afterwards() {
    let mut node = Node::start().await;
    // The same files, in a process of its own that may open little.
    node.stop().await;
    let mut child = Process::run_after("ulimit -n 64", &node.write_config());
    let address = child.address().await;
    let client = Client::new(address, node.api.ca_pem(), Some(&node.pair("kubelet")));
    assert_eq!(client.get("/version").await.status, 200);

    // Held open, not even shaking hands: more than the process can have. The kernel queues the rest.
    let mut greedy = Vec::new();
    for _ in 0..120 {
        greedy.push(TcpStream::connect(address).await.unwrap());
    }
    child.logged(&["cannot accept connections", "os error 24"]).await;
    let starved = tokio::time::timeout(Duration::from_millis(300), client.connect()).await;
    assert!(!matches!(starved, Ok(Ok(_))), "there was a file descriptor left");
    drop(greedy);
    eventually("it serves again", || async {
        client
            .send("GET", "/version", "")
            .await
            .is_ok_and(|answer| answer.status == 200)
    })
    .await;
    assert!(child.ended().is_none(), "the process lives on");
    let warnings = child.log().matches("cannot accept connections").count();
    assert_eq!(warnings, 1, "once, not at every try");
}
