use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::pem::Roots;
use crate::tls::testing::{Authority, Issued, LeafSpec, days, material};
use crate::tls::{ClientStream, ClientTls, Expiry, ServerName, TlsConnectError, TlsConnectErrorKind, agreed};

struct Site {
    authority: Authority,
    clients: Authority,
    time: Arc<TrustedTime>,
}

impl Site {
    fn new() -> Self {
        Self {
            authority: Authority::new("servers"),
            clients: Authority::new("clients"),
            time: TrustedTime::new(),
        }
    }

    fn serving(&self) -> Issued {
        self.authority
            .issue(&LeafSpec::server(&["edge.test", "127.0.0.1"]))
    }

    fn server(&self) -> ServerTls {
        ServerTls::new(&material(&self.serving(), &self.clients), &self.time).unwrap()
    }

    fn client(&self, identity: Option<&Issued>) -> ClientTls {
        let identity = identity.map(Issued::identity);
        ClientTls::new(
            Some(&self.authority.roots()),
            identity.as_ref(),
            Alpn::H2,
            &TrustedTime::new(),
        )
        .unwrap()
    }
}

type Shaken = (
    Result<ServerStream<DuplexStream>, HandshakeError>,
    Result<ClientStream<DuplexStream>, TlsConnectError>,
);

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

async fn shake(server: &ServerTls, client: &ClientTls) -> Shaken {
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = name("edge.test");
    tokio::join!(accept(far, server), client.connect(&name, near))
}

async fn refusal(server: &ServerTls, client: &ClientTls) -> HandshakeErrorKind {
    shake(server, client).await.0.unwrap_err().kind
}

#[tokio::test]
async fn the_client_certificate_is_seen_as_kubernetes_sees_it() {
    let site = Site::new();
    let issued = site
        .clients
        .issue(&LeafSpec::client("system:node:edge-1").organizations(&["system:nodes", "b"]));
    let (server, client) = shake(&site.server(), &site.client(Some(&issued))).await;
    let server = server.unwrap();
    let peer = peer_certificate(&server).unwrap();
    assert_eq!(peer.common_name.as_deref(), Some("system:node:edge-1"));
    assert_eq!(peer.organizations, ["system:nodes", "b"]);
    assert_eq!(peer.fingerprint, issued.identity().leaf().fingerprint);
    assert_eq!(alpn(&server), Some(Alpn::H2));
    client.unwrap();
}

#[tokio::test]
async fn a_client_without_certificate_is_let_in_without_one() {
    let site = Site::new();
    let (server, _client) = shake(&site.server(), &site.client(None)).await;
    assert_eq!(peer_certificate(&server.unwrap()), None);
}

#[tokio::test]
async fn a_certificate_of_a_stranger_is_refused() {
    let site = Site::new();
    let forged = Authority::new("clients").issue(&LeafSpec::client("system:node:edge-1"));
    assert_eq!(
        refusal(&site.server(), &site.client(Some(&forged))).await,
        HandshakeErrorKind::BadCertificate
    );
}

#[tokio::test]
async fn a_certificate_that_is_for_servers_only_is_refused() {
    let site = Site::new();
    let issued = site.clients.issue(&LeafSpec::server(&["a"]));
    assert_eq!(
        refusal(&site.server(), &site.client(Some(&issued))).await,
        HandshakeErrorKind::BadCertificate
    );
}

#[tokio::test]
async fn an_expired_certificate_is_let_in_only_in_an_outage_that_began_while_it_was_valid() {
    let site = Site::new();
    let issued = site
        .clients
        .issue(&LeafSpec::client("a").valid(days(-20), days(-5)));
    let (server, client) = (site.server(), site.client(Some(&issued)));
    assert_eq!(
        refusal(&server, &client).await,
        HandshakeErrorKind::BadCertificate
    );

    site.time.contact(Some(days(-10)));
    assert_eq!(
        refusal(&server, &client).await,
        HandshakeErrorKind::BadCertificate,
        "online"
    );
    site.time.lost();
    assert!(
        shake(&server, &client).await.0.is_ok(),
        "offline since it was valid"
    );
    site.time.contact(Some(days(-2)));
    site.time.lost();
    assert_eq!(
        refusal(&server, &client).await,
        HandshakeErrorKind::BadCertificate,
        "offline since it expired"
    );
}

#[tokio::test]
async fn in_an_outage_a_certificate_issued_since_is_still_let_in_and_a_strangers_is_not() {
    let site = Site::new();
    site.time.contact(Some(days(-10)));
    site.time.lost();
    let newer = site
        .clients
        .issue(&LeafSpec::client("a").valid(days(-5), days(5)));
    assert!(shake(&site.server(), &site.client(Some(&newer))).await.0.is_ok());
    let forged = Authority::new("clients").issue(&LeafSpec::client("a").valid(days(-20), days(-5)));
    assert_eq!(
        refusal(&site.server(), &site.client(Some(&forged))).await,
        HandshakeErrorKind::BadCertificate
    );
}

#[tokio::test]
async fn what_is_no_tls_is_told_from_broken_tls() {
    let server = Site::new().server();
    for first in [
        &b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0; 64],
    ] {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        near.write_all(first).await.unwrap();
        assert_eq!(
            accept(far, &server).await.unwrap_err().kind,
            HandshakeErrorKind::NotTls,
            "{first:?}"
        );
    }
    let (mut near, far) = tokio::io::duplex(1 << 16);
    near.write_all(&[22, 3, 1, 0, 4, 1, 0, 0, 0]).await.unwrap();
    assert_eq!(
        accept(far, &server).await.unwrap_err().kind,
        HandshakeErrorKind::Protocol
    );
}

#[tokio::test]
async fn a_client_that_goes_away_is_no_failure_of_tls() {
    let server = Site::new().server();
    let (near, far) = tokio::io::duplex(1 << 16);
    drop(near);
    assert_eq!(
        accept(far, &server).await.unwrap_err().kind,
        HandshakeErrorKind::Closed
    );
}

#[tokio::test]
async fn a_client_that_does_not_trust_us_is_told_apart() {
    let site = Site::new();
    let other = Authority::new("other").roots();
    let client = ClientTls::new(Some(&other), None, Alpn::H2, &TrustedTime::new()).unwrap();
    let (server, client) = shake(&site.server(), &client).await;
    assert_eq!(server.unwrap_err().kind, HandshakeErrorKind::Refused);
    assert_eq!(client.unwrap_err().kind, TlsConnectErrorKind::UntrustedServer);
}

#[tokio::test]
async fn a_server_must_carry_the_name_that_was_asked_for() {
    let site = Site::new();
    for (asked, expected) in [
        ("edge.test", None),
        ("127.0.0.1", None),
        ("127.0.0.2", Some(TlsConnectErrorKind::WrongServerName)),
        ("other.test", Some(TlsConnectErrorKind::WrongServerName)),
    ] {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (server, client, asked_name) = (site.server(), site.client(None), name(asked));
        let (_, client) = tokio::join!(accept(far, &server), client.connect(&asked_name, near));
        assert_eq!(client.err().map(|error| error.kind), expected, "{asked}");
    }
}

#[tokio::test]
async fn a_servers_certificate_is_judged_at_the_last_contact_at_the_earliest() {
    let site = Site::new();
    let shake_with = async |from: i64, to: i64, time: &Arc<TrustedTime>| {
        let serving = site
            .authority
            .issue(&LeafSpec::server(&["edge.test"]).valid(days(from), days(to)));
        let server = ServerTls::new(&material(&serving, &site.clients), &site.time).unwrap();
        let client = ClientTls::new(Some(&site.authority.roots()), None, Alpn::Http1, time).unwrap();
        shake(&server, &client).await.1.err().map(|error| error.kind)
    };
    let plain = TrustedTime::new();
    assert_eq!(
        shake_with(-20, -1, &plain).await,
        Some(TlsConnectErrorKind::ServerCertificateTime)
    );
    assert_eq!(
        shake_with(5, 20, &plain).await,
        Some(TlsConnectErrorKind::ServerCertificateTime)
    );
    let slow_clock = TrustedTime::restored(Some(days(10)), Expiry::LastContact);
    assert_eq!(shake_with(5, 20, &slow_clock).await, None);
    let outage = TrustedTime::restored(Some(days(-10)), Expiry::LastContact);
    outage.lost();
    assert_eq!(
        shake_with(-20, -1, &outage).await,
        Some(TlsConnectErrorKind::ServerCertificateTime),
        "no outage excuses a server"
    );
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_told_apart() {
    let site = Site::new();
    let (near, mut far) = tokio::io::duplex(1 << 16);
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let error = site
        .client(None)
        .connect(&name("edge.test"), near)
        .await
        .unwrap_err();
    assert_eq!(error.kind, TlsConnectErrorKind::NotTls);
}

/// A server other than ours, as rustls makes it by default: with resumption and without client certificates.
fn plain_server(site: &Site, alpn: &[&[u8]]) -> ServerTls {
    let identity = site.serving().identity();
    let mut config = ServerConfig::builder_with_provider(crate::tls::crypto::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(
            &identity.pair().certified,
        ))));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    ServerTls {
        config: Arc::new(config),
    }
}

#[tokio::test]
async fn http2_is_never_assumed_of_a_server() {
    let site = Site::new();
    let http1 = ClientTls::new(
        Some(&site.authority.roots()),
        None,
        Alpn::Http1,
        &TrustedTime::new(),
    )
    .unwrap();
    for (client, known, expected) in [
        (&site.client(None), &[][..], Alpn::Http1),
        (&site.client(None), &[&b"http/1.1"[..]], Alpn::Http1),
        (&site.client(None), &[b"h2", b"http/1.1"], Alpn::H2),
        (&http1, &[], Alpn::Http1),
        (&http1, &[b"h2", b"http/1.1"], Alpn::Http1),
    ] {
        let (_, stream) = shake(&plain_server(&site, known), client).await;
        assert_eq!(agreed(&stream.unwrap()), expected, "{known:?}");
    }
}

#[tokio::test]
async fn a_connector_resumes_its_own_sessions_upstream() {
    let site = Site::new();
    let server = plain_server(&site, &[b"h2"]);
    let client = site.client(None);
    let first = exchange(shake(&server, &client).await).await;
    let second = exchange(shake(&server, &client).await).await;
    let other = exchange(shake(&server, &site.client(None)).await).await;
    assert_eq!(
        [first, second, other],
        [
            rustls::HandshakeKind::Full,
            rustls::HandshakeKind::Resumed,
            rustls::HandshakeKind::Full
        ]
    );
}

/// One byte each way, so that the client has read what tickets there are.
async fn exchange((server, client): Shaken) -> rustls::HandshakeKind {
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    server.write_all(b"s").await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
    server.get_ref().1.handshake_kind().unwrap()
}

/// A client that resumes if it is let, for one version.
fn resuming(
    roots: &Roots,
    identity: &Issued,
    version: &'static rustls::SupportedProtocolVersion,
) -> TlsConnector {
    let config = ClientConfig::builder_with_provider(crate::tls::crypto::provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(Arc::clone(roots.store()))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(
            &identity.identity().pair().certified,
        ))));
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn a_client_of_a_removed_authority_is_refused_however_it_resumes() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let site = Site::new();
        let issued = site.clients.issue(&LeafSpec::client("a"));
        let client = resuming(&site.authority.roots(), &issued, version);
        let connect = async |server: &ServerTls| {
            let (near, far) = tokio::io::duplex(1 << 16);
            let host = rustls::pki_types::ServerName::try_from("edge.test").unwrap();
            let (server, client) = tokio::join!(accept(far, server), client.connect(host, near));
            let mut server = server?;
            let mut client = client.unwrap();
            server.write_all(b"s").await.unwrap();
            client.read_exact(&mut [0]).await.unwrap();
            Ok::<_, HandshakeError>(server.get_ref().1.handshake_kind())
        };
        let serving = site.serving();
        let before = ServerTls::new(&material(&serving, &site.clients), &site.time).unwrap();
        for _ in 0..2 {
            assert_eq!(
                connect(&before).await.unwrap(),
                Some(rustls::HandshakeKind::Full),
                "no session is kept"
            );
        }
        let after = ServerTls::new(&material(&serving, &Authority::new("successor")), &site.time).unwrap();
        assert_eq!(
            connect(&after).await.unwrap_err().kind,
            HandshakeErrorKind::BadCertificate
        );
    }
}

#[tokio::test]
async fn tls_1_1_and_foreign_alpn_are_incompatible() {
    let site = Site::new();
    let mut config = ClientConfig::builder_with_provider(crate::tls::crypto::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(Arc::clone(site.authority.roots().store()))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"spdy/3.1".to_vec()];
    let (near, far) = tokio::io::duplex(1 << 16);
    let host = rustls::pki_types::ServerName::try_from("edge.test").unwrap();
    let server = site.server();
    let (accepted, _) = tokio::join!(
        accept(far, &server),
        TlsConnector::from(Arc::new(config)).connect(host, near)
    );
    assert_eq!(accepted.unwrap_err().kind, HandshakeErrorKind::Incompatible);
}

/// MicroK8s signs the certificates of its clients so.
#[tokio::test]
async fn a_certificate_of_version_1_is_a_client_in_both_versions_of_tls() {
    let site = Site::new();
    let issued = site
        .clients
        .issue_v1(&LeafSpec::client("system:node:edge-1").organizations(&["system:nodes"]));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let identity = issued.identity();
        let roots = rustls::RootCertStore::clone(site.authority.roots().store());
        let config = ClientConfig::builder_with_provider(crate::tls::crypto::provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(
                &identity.pair().certified,
            ))));
        let (near, far) = tokio::io::duplex(1 << 16);
        let server = site.server();
        let client = TlsConnector::from(Arc::new(config)).connect("edge.test".try_into().unwrap(), near);
        let (server, client) = tokio::join!(accept(far, &server), client);
        let peer = peer_certificate(&server.unwrap()).unwrap();
        assert_eq!(
            peer.common_name.as_deref(),
            Some("system:node:edge-1"),
            "{version:?}"
        );
        assert_eq!(peer.organizations, ["system:nodes"]);
        client.unwrap();
    }
}

/// Who holds another key than the certificate's is nobody.
#[tokio::test]
async fn a_certificate_of_version_1_with_another_key_is_refused() {
    let site = Site::new();
    let spec = || LeafSpec::client("system:node:edge-1");
    let (stolen, own) = (site.clients.issue_v1(&spec()), site.clients.issue_v1(&spec()));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let key = Arc::clone(&own.identity().pair().certified.key);
        let mixed = rustls::sign::CertifiedKey::new(vec![stolen.der.clone().into()], key);
        let roots = rustls::RootCertStore::clone(site.authority.roots().store());
        let config = ClientConfig::builder_with_provider(crate::tls::crypto::provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(mixed)));
        let (near, far) = tokio::io::duplex(1 << 16);
        let server = site.server();
        let client = TlsConnector::from(Arc::new(config)).connect("edge.test".try_into().unwrap(), near);
        let (server, _client) = tokio::join!(accept(far, &server), client);
        assert_eq!(
            server.unwrap_err().kind,
            HandshakeErrorKind::BadCertificate,
            "{version:?}"
        );
    }
}
