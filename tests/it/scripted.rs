//! An upstream that says exactly what a test wrote down, byte for byte: HTTP/1.1 over TLS, one request a connection.
//!
//! For what a well-behaved stand-in cannot do: frames cut in the middle, answers without versions.
#![allow(clippy::disallowed_methods)] // a test may spawn

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use apiserver_standin::Client;
use edgehold::app::{App, Running};
use edgehold::config;
use edgehold::upstream::LinkState;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::support::{DEADLINE, Node};

/// One step of an answer.
#[derive(Clone, Debug)]
pub enum Step {
    /// These bytes, as they are.
    Send(Vec<u8>),
    /// Nothing more until the connections are cut.
    Wait,
}

type Script = dyn Fn(&str) -> Vec<Step> + Send + Sync;

struct Shared {
    script: Box<Script>,
    /// Counts cuts up; odd: away.
    cuts: watch::Sender<u64>,
}

/// An edgehold in front of a script.
pub struct Scripted {
    node: Node,
    running: Option<Running>,
    shared: Arc<Shared>,
}

impl Scripted {
    /// Starts both. `/readyz` and `/version` are answered without the script.
    pub async fn start(script: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let mut node = Node::start().await;
        node.stop().await;
        let shared = Arc::new(Shared {
            script: Box::new(script),
            cuts: watch::Sender::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, acceptor(&node), Arc::clone(&shared)));
        let text = node
            .config_text()
            .replace(&node.api.addr().to_string(), &address.to_string());
        let app = App::bind(config::parse(&text, "test.yaml").unwrap())
            .await
            .unwrap();
        Self {
            node,
            running: Some(app.spawn()),
            shared,
        }
    }

    /// The same for a script of watches: there is nothing that could be listed.
    pub async fn of_watches(script: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let nothing = "HTTP/1.1 404 Not Found\r\nAudit-Id: 1\r\nContent-Length: 0\r\n\r\n";
        let script = move |target: &str| match target.contains("watch=true") {
            true => script(target),
            false => vec![Step::Send(nothing.into())],
        };
        Self::start(script).await
    }

    /// A client of edgehold with the kubelet's certificate.
    pub fn client(&self) -> Client {
        let address: SocketAddr = self.running.as_ref().unwrap().addresses()[0];
        Client::new(address, self.node.api.ca_pem(), Some(&self.node.pair("kubelet")))
    }

    /// What edgehold counts.
    pub fn metrics(&self) -> String {
        self.running.as_ref().unwrap().metrics_text().unwrap()
    }

    /// Closes every connection in the middle of whatever it says, and refuses new ones. Returns when edgehold knows.
    pub async fn cut(&self) {
        self.running.as_ref().unwrap().settle().await;
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
        let _any = self.client().get("/version?cut").await;
        self.wait_link(LinkState::Offline).await;
    }

    /// Answers again. Returns when edgehold knows.
    pub async fn heal(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
        self.wait_link(LinkState::Online).await;
    }

    async fn wait_link(&self, state: LinkState) {
        let mut link = self.running.as_ref().unwrap().link();
        let reached = tokio::time::timeout(DEADLINE, link.wait_for(|now| *now == state)).await;
        assert!(reached.is_ok(), "the link did not become {}", state.as_str());
    }
}

/// A whole JSON answer.
pub fn whole(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nAudit-Id: 1\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The head of an endless JSON answer.
pub fn head() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nAudit-Id: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
        .to_vec()
}

/// One piece of an endless answer.
pub fn chunk(piece: &str) -> Vec<u8> {
    format!("{:x}\r\n{piece}\r\n", piece.len()).into_bytes()
}

fn acceptor(node: &Node) -> TlsAcceptor {
    let pair = node.pair("serving");
    let chain = CertificateDer::pem_slice_iter(pair.cert_pem.as_bytes())
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let mut cuts = shared.cuts.subscribe();
            let away = *cuts.borrow_and_update() % 2 == 1;
            if !away {
                tokio::select! {
                    _broke = serve(stream, tls, &shared) => {}
                    _ = cuts.changed() => {}
                }
            }
        });
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = tls.accept(stream).await?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = String::from_utf8_lossy(&request).into_owned();
    let target = line.split(' ').nth(1).unwrap_or_default();
    let own = target.starts_with("/readyz") || target.starts_with("/version");
    let steps = if own {
        vec![Step::Send(whole("{}"))]
    } else {
        (shared.script)(target)
    };
    for step in steps {
        match step {
            Step::Send(bytes) => {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
            }
            Step::Wait => std::future::pending::<()>().await,
        }
    }
    stream.shutdown().await
}
