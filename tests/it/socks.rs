//! A SOCKS 5 proxy on the way to the cloud (RFC 1928, RFC 1929).
#![allow(clippy::disallowed_methods)] // a test may spawn

use std::sync::Arc;

use apiserver_standin::Options;
use edgehold::upstream::LinkState;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Node, Setup, change, config_map, version, watch_from};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const NONE: u8 = 0;
const PASSWORD: u8 = 2;
const DOMAIN: u8 = 3;

/// Type of the address, and host or octets.
type Asked = (u8, Vec<u8>);

/// A proxy that leads to the loopback, whatever host is asked for, and notes what it is asked.
struct Socks {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Socks {
    async fn start(credentials: Option<(&'static str, &'static str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::default());
        let shared = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let asked = Arc::clone(&shared);
                tokio::spawn(async move { serve(client, credentials, &asked).await });
            }
        });
        Self { port, asked }
    }
}

async fn sized(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::from(client.read_u8().await.ok()?)];
    client.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

async fn serve(
    mut client: TcpStream,
    credentials: Option<(&str, &str)>,
    asked: &Mutex<Vec<Asked>>,
) -> Option<()> {
    assert_eq!(client.read_u8().await.ok()?, 5);
    let methods = sized(&mut client).await?;
    let method = if credentials.is_some() { PASSWORD } else { NONE };
    if !methods.contains(&method) {
        client.write_all(&[5, 0xff]).await.ok()?;
        return None;
    }
    client.write_all(&[5, method]).await.ok()?;
    if let Some((user, password)) = credentials {
        assert_eq!(client.read_u8().await.ok()?, 1);
        let given = (sized(&mut client).await?, sized(&mut client).await?);
        let is_right = given == (user.into(), password.into());
        client.write_all(&[1, u8::from(!is_right)]).await.ok()?;
        is_right.then_some(())?;
    }
    let mut head = [0; 4];
    client.read_exact(&mut head).await.ok()?;
    assert_eq!(head[..3], [5, 1, 0], "CONNECT");
    let host = if head[3] == DOMAIN {
        sized(&mut client).await?
    } else {
        let mut octets = vec![0; 4];
        client.read_exact(&mut octets).await.ok()?;
        octets
    };
    asked.lock().push((head[3], host));
    let port = client.read_u16().await.ok()?;
    let mut server = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
    tokio::io::copy_bidirectional(&mut client, &mut server)
        .await
        .ok()?;
    Some(())
}

/// A node whose way leads through the proxy, and how many connections the cloud had seen before.
async fn behind(url: &str, host: &str, fields: &str) -> (Node, u64) {
    let mut node = Node::with(Options::default(), Setup::default()).await;
    node.stop().await;
    node.api.put(config_map("shop", "a", "1"));
    let address = node.api.addr().to_string();
    let text = node.config_text();
    let text = text.replace(
        &format!("https://{address}"),
        &format!("https://{host}:{}", node.api.addr().port()),
    );
    let text = text.replace(
        "upstream:\n",
        &format!("upstream:\n  proxyURL: \"{url}\"\n{fields}"),
    );
    let before = node.api.counters().connections_total;
    node.launch_text(&text).await;
    (node, before)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_goes_through_it_and_it_looks_names_up() {
    for (scheme, host, kind) in [
        ("socks5", "127.0.0.1", 1),
        ("socks5", "localhost", DOMAIN),
        ("socks5h", "localhost", DOMAIN),
    ] {
        let proxy = Socks::start(None).await;
        let url = format!("{scheme}://127.0.0.1:{}", proxy.port);
        let (node, before) = behind(&url, host, "").await;
        let kubelet = node.kubelet();
        let list = kubelet.get(LIST).await;
        assert_eq!(
            (list.status, list.header("cache-status")),
            (200, ""),
            "{scheme} {host}"
        );
        let mut connection = kubelet.connect().await.unwrap();
        let mut watch = connection
            .lines(&watch_from(LIST, &version(&list.json())))
            .await
            .unwrap();
        node.api.put(config_map("shop", "b", "1"));
        assert_eq!(change(&mut watch).await.1, "b");
        let asked = proxy.asked.lock().clone();
        let connections = node.api.counters().connections_total;
        assert_eq!(connections - before, asked.len() as u64, "there is no other way");
        let named = if kind == DOMAIN {
            host.as_bytes().to_vec()
        } else {
            vec![127, 0, 0, 1]
        };
        assert!(asked.iter().all(|one| *one == (kind, named.clone())), "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_gets_a_password_if_it_wants_one() {
    let proxy = Socks::start(Some(("me", "hunter:2"))).await;
    let good = format!("socks5://me:hunter%3A2@127.0.0.1:{}", proxy.port);
    let (node, _) = behind(&good, "localhost", "").await;
    assert_eq!(node.status(LIST).await, 200);
    for bad in ["me:other@", ""] {
        let url = format!("socks5://{bad}127.0.0.1:{}", proxy.port);
        let (node, before) = behind(&url, "localhost", "").await;
        node.wait_link(LinkState::Offline).await;
        assert_eq!(node.api.counters().connections_total, before, "{bad:?}");
    }
}
